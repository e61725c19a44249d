from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from genbench import generation
from genbench.errors import InputRejected, UsageError
from genbench.records import Ref, RunSpec

SPEC = RunSpec(model=Ref("fake"), dataset=Ref("shapes"), num_samples=600)
HOW = {"device": "cpu", "torch": "x"}


@dataclass
class Fake:
    """Images whose every pixel is a function of seed and label, and a log of the batches that were asked for."""

    shape: tuple[int, int, int] = (3, 4, 4)
    key: str = "weights-1"
    conditioning: str = "label"
    classes: int = 10
    evaluations: int = 1
    batches: list[int] = field(default_factory=list)
    fail_after: int | None = None

    def sample(
        self, seeds: np.ndarray, *, labels: np.ndarray | None = None, captions: Sequence[str] | None = None,
        watch: Callable[[int, int], None] | None = None,
    ) -> Tensor:  # fmt: skip
        if self.fail_after is not None and len(self.batches) >= self.fail_after:
            raise KeyboardInterrupt
        self.batches.append(len(seeds))
        value = torch.from_numpy((seeds % np.uint64(251)).astype(np.float32))[:, None, None, None] / 125 - 1
        value = value.expand(len(seeds), *self.shape).clone()
        if labels is not None:
            value[:, 0, 0, 0] = torch.from_numpy(labels).float() / 10
        return value


def make(directory: Path, model: Fake, spec: RunSpec = SPEC, batch_size: int = 64):
    return generation.generate(model, spec, directory, batch_size=batch_size, execution=HOW)


def test_neighbouring_runs_share_no_image_and_an_image_depends_on_its_number_alone() -> None:
    first, second = generation.image_seeds(0, 0, 2000), generation.image_seeds(1, 0, 2000)
    assert len(np.unique(np.concatenate([first, second]))) == 4000
    assert np.array_equal(generation.image_seeds(0, 700, 710), first[700:710])


def test_labels_are_uniform_and_not_a_function_of_the_low_bits() -> None:
    labels = generation.image_labels(generation.image_seeds(3, 0, 20_000), 10)
    counts = np.bincount(labels, minlength=10)
    assert (np.square(counts - 2000) / 2000).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001
    assert np.array_equal(generation.image_labels(generation.image_seeds(3, 5, 6), 10), labels[5:6])


def test_quantisers() -> None:
    x = torch.tensor([-2.0, -1.0, -1 + 1.4 / 127.5, -1 + 1.6 / 127.5, 0.0, 1.0, 3.0]).view(1, 1, 1, 7)
    assert generation.quantise(x, "round").flatten().tolist() == [0, 0, 1, 2, 128, 255, 255]
    assert generation.quantise(x, "truncate").flatten().tolist() == [0, 0, 1, 1, 127, 255, 255]
    with pytest.raises(UsageError, match="round, truncate"):
        generation.quantise(x, "floor")


def test_batch_size_does_not_matter(tmp_path: Path) -> None:
    images = [make(tmp_path / str(size), Fake(), batch_size=size).read(0, 600) for size in (1, 7, 600)]
    assert np.array_equal(images[0], images[1]) and np.array_equal(images[0], images[2])


def test_exact_mode_always_asks_for_the_same_blocks(tmp_path: Path) -> None:
    spec = replace(SPEC, exact=True, num_samples=300)
    models = [Fake(), Fake()]
    sets = [
        make(tmp_path / str(i), m, spec, batch_size=size)
        for i, (m, size) in enumerate(zip(models, (1, 50), strict=True))
    ]
    assert models[0].batches == models[1].batches == [generation.EXACT_BLOCK] * 10
    assert sets[0].count == 300 and np.array_equal(sets[0].read(0, 300), sets[1].read(0, 300))


def test_an_interrupted_run_continues_where_it_was(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", Fake())
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut", Fake(fail_after=6))
    kept = json.loads((tmp_path / "cut" / "manifest.json").read_text())["shards"]
    assert len(kept) == 1  # six batches of 64 are one shard of 256 and half of the next
    second = Fake()
    continued = make(tmp_path / "cut", second)
    assert sum(second.batches) == 600 - 256
    assert continued.fingerprint() == whole.fingerprint()
    assert np.array_equal(continued.read(0, 600), whole.read(0, 600))
    assert np.array_equal(continued.labels, whole.labels)


def test_a_finished_run_is_not_sampled_again(tmp_path: Path) -> None:
    make(tmp_path, Fake())
    again = Fake()
    make(tmp_path, again, batch_size=3)
    assert again.batches == []


@pytest.mark.parametrize("damage", ["shard", "missing", "manifest"])
def test_damaged_files_are_made_anew(tmp_path: Path, damage: str) -> None:
    whole = make(tmp_path, Fake()).read(0, 600)
    shard = tmp_path / "000001.npy"
    if damage == "shard":
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(bytes(content))
    elif damage == "missing":
        shard.unlink()
    else:
        (tmp_path / "manifest.json").write_text("{")
    again = Fake()
    assert np.array_equal(make(tmp_path, again).read(0, 600), whole)
    assert sum(again.batches) == (600 if damage == "manifest" else 344)


@pytest.mark.parametrize("change", ["model", "seed"])
def test_samples_of_something_else_are_not_taken(tmp_path: Path, change: str) -> None:
    make(tmp_path, Fake())
    model = Fake(key="weights-2") if change == "model" else Fake()
    make(tmp_path, model, replace(SPEC, seed=1) if change == "seed" else SPEC)
    assert sum(model.batches) == 600


def test_shards_of_another_execution_are_kept_only_when_complete(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, Fake(fail_after=6))
    other = Fake()
    generation.generate(other, SPEC, tmp_path, batch_size=64, execution={"device": "cuda", "torch": "x"})
    assert sum(other.batches) == 600


def test_reading_crosses_shards(tmp_path: Path) -> None:
    samples = make(tmp_path, Fake())
    assert np.array_equal(samples.read(250, 520), samples.read(0, 600)[250:520])
    assert np.array_equal(samples.subset(255, 257).read(0, 2), samples.read(255, 257))


def test_values_that_are_not_finite_name_the_image_and_leave_no_shard(tmp_path: Path) -> None:
    class Broken(Fake):
        def sample(self, seeds: np.ndarray, **more: object) -> Tensor:
            images = super().sample(seeds)
            if len(self.batches) == 2:
                images[3, 0, 0, 0] = torch.nan
            return images

    with pytest.raises(InputRejected, match="first image 67 of seed 0"):
        make(tmp_path, Broken())
    assert not list(tmp_path.glob("*"))


def test_a_model_must_give_what_it_declares(tmp_path: Path) -> None:
    class Short(Fake):
        def sample(self, seeds: np.ndarray, **more: object) -> Tensor:
            return super().sample(seeds)[:-1]

    with pytest.raises(InputRejected, match="was asked for 64"):
        make(tmp_path, Short())
