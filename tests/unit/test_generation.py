from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from genbench import generation
from genbench.arrays import Samples
from genbench.contracts import taken_by
from genbench.errors import InputRejected, Interrupted, OutOfMemory, UsageError
from genbench.generation import quantise
from genbench.mixing import GOLDEN, mixed
from genbench.records import Ref, RunSpec, canonical

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
    takes: frozenset[str] | None = None
    seen: list[str] | None = None

    def sample(
        self,
        seeds: np.ndarray,
        *,
        labels: np.ndarray | None = None,
        captions: Sequence[str] | None = None,
        watch: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        if self.fail_after is not None and len(self.batches) >= self.fail_after:
            raise KeyboardInterrupt
        self.batches.append(len(seeds))
        self.seen = captions  # type: ignore[assignment]
        value = torch.from_numpy((seeds % np.uint64(251)).astype(np.float32))[:, None, None, None] / 125 - 1
        value = value.expand(len(seeds), *self.shape).clone()
        if labels is not None:
            value[:, 0, 0, 0] = torch.from_numpy(labels).float() / 10
        return value


def make(directory: Path, model: Fake, spec: RunSpec = SPEC, batch_size: int = 64):
    return generation.generate(model, spec, directory, batch_size=batch_size, execution=HOW)


def counts(directory: Path) -> list[int]:
    """Images of every shard that has a record."""
    return [json.loads(path.read_text())["count"] for path in sorted(directory.glob("0*.json"))]


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
    assert counts(tmp_path / "cut") == [256, 128]  # six batches of 64 are one shard and half of the next
    second = Fake()
    continued = make(tmp_path / "cut", second)
    assert sum(second.batches) == 600 - 384
    assert continued.fingerprint() == whole.fingerprint()
    assert np.array_equal(continued.read(0, 600), whole.read(0, 600))
    assert np.array_equal(continued.labels, whole.labels)


def test_a_process_killed_between_its_two_files_loses_the_batch_between_them_alone(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", Fake()).read(0, 600)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut", Fake(fail_after=6))
    np.save(tmp_path / "cut" / "000001.npy", whole[256 : 256 + 192])  # its record still tells of 128
    second = Fake()
    assert np.array_equal(make(tmp_path / "cut", second).read(0, 600), whole)
    assert sum(second.batches) == 600 - 384


def test_shards_of_other_processes_of_the_same_run_stay_whatever_they_work_with(tmp_path: Path) -> None:
    def begin(model: Fake, **how: object) -> generation.Sampling:
        return generation.begin(model, SPEC, tmp_path, batch_size=64, execution={**HOW, **how})

    generation.fill(begin(Fake(), device="cuda", shared=True), [1])
    generation.fill(begin(Fake(), threads=8), [2])
    last = Fake()
    work = begin(last, threads=2)
    assert generation.missing(work) == [0]
    generation.fill(work, [0])
    assert generation.finished(work).count == 600 and sum(last.batches) == 256


@pytest.mark.parametrize("name", ["000001.json", "manifest.json"])
def test_a_bit_flipped_in_labels_or_names_of_classes_is_noticed(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    def made() -> Samples:
        return generation.generate(Fake(), SPEC, tmp_path, batch_size=64, execution=HOW, classes=("round", "square"))

    whole = made()
    text = (tmp_path / name).read_text()
    changed = text.replace('"labels":[', '"labels":[1', 1) if name == "000001.json" else text.replace("round", "rouns")
    assert changed != text and not caplog.text
    (tmp_path / name).write_text(changed)
    again = made()
    assert "damaged" in caplog.text and np.array_equal(again.labels, whole.labels) and again.classes == whole.classes


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
    assert sum(again.batches) == (0 if damage == "manifest" else 256)


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


def test_values_that_are_not_finite_name_the_image_and_leave_nothing_of_their_batch(tmp_path: Path) -> None:
    class Broken(Fake):
        def sample(self, seeds: np.ndarray, **more: object) -> Tensor:
            images = super().sample(seeds)
            if len(self.batches) == 2:
                images[3, 0, 0, 0] = torch.nan
            return images

    with pytest.raises(InputRejected, match="first image 67 of seed 0"):
        make(tmp_path, Broken())
    assert counts(tmp_path) == [64], "the batch before it is kept, nothing of its own"


def test_a_model_must_give_what_it_declares(tmp_path: Path) -> None:
    class Short(Fake):
        def sample(self, seeds: np.ndarray, **more: object) -> Tensor:
            return super().sample(seeds)[:-1]

    with pytest.raises(InputRejected, match="was asked for 64"):
        make(tmp_path, Short())


def test_any_shards_may_be_the_finished_ones(tmp_path: Path) -> None:
    """Not only leading ones: another process may have made the last."""
    whole = make(tmp_path, Fake())
    for name in ("000000.npy", "000000.json"):
        (tmp_path / name).unlink()
    again = Fake()
    assert make(tmp_path, again).fingerprint() == whole.fingerprint()
    assert sum(again.batches) == 256


def test_an_interrupt_says_how_many_images_are_kept(tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as caught:
        make(tmp_path, Fake(fail_after=6))
    assert (caught.value.kept, caught.value.total) == (384, 600) == (generation.kept_images(tmp_path, SPEC), 600)
    assert not generation.is_complete(tmp_path, SPEC)
    make(tmp_path, Fake())
    assert generation.is_complete(tmp_path, SPEC)


def test_what_a_run_is_stands_there_before_its_first_image(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        make(tmp_path, Fake(fail_after=0))
    assert json.loads((tmp_path / "manifest.json").read_text())["spec"]["model"] == "fake"


def test_a_slow_run_that_is_killed_keeps_its_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "SAVE_SECONDS", 0.0)

    class Killed(Fake):
        def sample(self, seeds: np.ndarray, **more: object) -> Tensor:
            if len(self.batches) == 2:
                assert counts(tmp_path) == [128], "what a kill at this moment would leave"
            return super().sample(seeds)

    make(tmp_path, Killed(), replace(SPEC, num_samples=200))
    assert counts(tmp_path) == [200]


@pytest.mark.parametrize("content", [b"\xb2\xff", b"[]", b"null", b"3", b'{"shards": null}', b"", b"[" * 100_000])
def test_odd_manifests_and_records_are_written_anew(tmp_path: Path, content: bytes) -> None:
    whole = make(tmp_path, Fake())
    for name in ("manifest.json", "000001.json"):
        (tmp_path / name).write_bytes(content)
    assert not generation.is_complete(tmp_path, SPEC)
    assert make(tmp_path, Fake()).fingerprint() == whole.fingerprint()
    assert generation.is_complete(tmp_path, SPEC)


def test_an_argument_with_a_default_that_is_added_to_a_loader_keeps_the_images(tmp_path: Path) -> None:
    old = replace(SPEC, model=Ref("fake", {"steps": 5, "eta": 0.0}, frozenset({"eta"})))
    new = replace(SPEC, model=Ref("fake", {"order": 1, "steps": 5, "eta": 0.0}, frozenset({"eta", "order"})))
    assert old.id == new.id
    make(tmp_path, Fake(), old)
    again = Fake()
    make(tmp_path, again, new)
    assert again.batches == [] and generation.is_complete(tmp_path, new)


def test_a_default_that_changed_makes_other_images(tmp_path: Path) -> None:
    """Both write no argument into their identity."""
    old, new = (replace(SPEC, model=Ref("fake", {"steps": n}, frozenset({"steps"}))) for n in (1000, 50))
    make(tmp_path, Fake(), old)
    assert old.id == new.id and not generation.is_complete(tmp_path, new)
    again = Fake()
    make(tmp_path, again, new)
    assert sum(again.batches) == 600


def test_runs_of_the_first_layout_are_read_and_adopted(tmp_path: Path) -> None:
    whole = make(tmp_path, Fake())
    shards = []
    for path in sorted(tmp_path.glob("*.npy")):
        shards.append(hashlib.sha256(np.load(path).tobytes()).hexdigest())
        path.with_suffix(".json").unlink()
    first = {
        "schema": "genbench.samples/1", "spec": json.loads(canonical(SPEC)), "model": "weights-1", "shard": 256,
        "execution": {"device": "elsewhere"}, "shape": [3, 4, 4], "shards": shards,
    }  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps(first))
    assert generation.is_complete(tmp_path, SPEC)
    old = tmp_path.parent / "runs" / "0123456789ab"
    shutil.copytree(tmp_path, old / "samples")
    added = replace(SPEC, model=Ref("fake", {"order": 1}, frozenset({"order"})))
    assert generation.run_directory(old.parent, added) == old, "whatever its identity was"
    assert generation.run_directory(old.parent, replace(SPEC, seed=1)).name == replace(SPEC, seed=1).id
    again = Fake()
    read = make(tmp_path, again)
    assert again.batches == [] and read.fingerprint() == whole.fingerprint()
    assert np.array_equal(read.labels, whole.labels)
    (tmp_path / "manifest.json").write_text(json.dumps(first | {"model": "weights-0"}))
    for path in tmp_path.glob("0*.json"):
        path.unlink()
    make(tmp_path, again)
    assert sum(again.batches) == 600


def test_a_complete_run_is_opened_without_reading_its_images(tmp_path: Path) -> None:
    model, whole = Fake(), make(tmp_path, Fake())
    read = generation.open_run(tmp_path, SPEC, model, "weights-1")
    assert read is not None and read.fingerprint() == whole.fingerprint() and np.array_equal(read.labels, whole.labels)
    assert generation.open_run(tmp_path, SPEC, model, "weights-2") is None
    assert generation.open_run(tmp_path, replace(SPEC, seed=1), model, "weights-1") is None
    (tmp_path / "000002.json").unlink()
    assert generation.open_run(tmp_path, SPEC, model, "weights-1") is None


def prompts(texts: Sequence[str]) -> Samples:
    images = np.arange(len(texts) * 12, dtype=np.uint8).reshape(len(texts), 3, 2, 2)
    return Samples.of(images, captions=list(texts), labels=np.arange(len(texts)))


def test_captions_are_drawn_by_seed_and_stay_beside_their_images(tmp_path: Path) -> None:
    model, spec = Fake(takes=frozenset({"captions"})), replace(SPEC, num_samples=300)
    texts = [f"text {i}" for i in range(7)]

    def sampled(where: Path, asked: Samples) -> Samples:
        return generation.generate(model, spec, where, batch_size=64, execution=HOW, prompts=asked)

    samples = sampled(tmp_path, prompts(texts))
    seeds = generation.image_seeds(0, 0, 300)
    chosen = generation.image_labels(seeds, 7)
    assert list(samples.captions) == [texts[i] for i in chosen] and np.array_equal(samples.labels, chosen)
    assert model.seen == samples.captions[256:] and sum(model.batches) == 300
    sampled(tmp_path, prompts(texts))
    assert sum(model.batches) == 300
    other = sampled(tmp_path, prompts([*texts[:-1], "another"]))
    assert sum(model.batches) == 600, "images of other prompts do not answer"
    assert "another" in other.captions


def test_images_are_conditions_too(tmp_path: Path) -> None:
    asked = prompts(["a", "b"])
    found = generation.conditions(Fake(takes=frozenset({"images"})), generation.image_seeds(0, 0, 5), asked)
    chosen = generation.image_labels(generation.image_seeds(0, 0, 5), 2)
    assert set(found.given) == {"images"} and found.given["images"].shape == (5, 3, 2, 2)
    back = generation.quantise(found.given["images"]).numpy()
    assert np.array_equal(back, asked.read(0, 2)[chosen])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Fake(takes=frozenset({"captions"})), "takes captions, and the data set does not have them"),
        (Fake(takes=frozenset({"masks"})), "takes masks"),
        (Fake(takes=frozenset({"bananas"})), "takes a set of labels, captions, images, masks; got"),
        (Fake(takes="labels"), "takes a set of"),
        (Fake(conditioning="banana"), "one of none, label, caption; got 'banana'"),
        (Fake(classes=0), "at least 1 class; got classes=0"),
        (Fake(classes=-5), "at least 1 class; got classes=-5"),
    ],
)
def test_models_that_take_something_else_are_refused(model: Fake, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        make(tmp_path, model)


@pytest.mark.parametrize(("older", "takes"), [("none", set()), ("label", {"labels"}), ("caption", {"captions"})])
def test_the_older_word_for_conditions_is_understood(older: str, takes: set[str]) -> None:
    assert taken_by(Fake(conditioning=older)) == takes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: quantise(x), "returned values of torch.uint8"),
        (lambda x: x > 0, "returned values of torch.bool"),
        (lambda x: torch.complex(x, x), "returned values of torch.complex64"),
        (lambda x: (x + 1) * 127.5, "which is not nominally"),
        (lambda x: (x > 0.9) * 255.0, "which is not nominally"),  # mostly black
        (lambda x: x.numpy(), "returned ndarray; a model returns a float tensor"),
        (lambda x: list(x), "returned list;"),
        (lambda x: None, "returned NoneType;"),
        (lambda x: x[0], "was asked for 64"),
    ],
)
def test_outputs_that_are_no_images_are_refused(
    change: Callable[[Tensor], object], message: str, tmp_path: Path
) -> None:
    class Other(Fake):
        def sample(self, seeds: np.ndarray, **more: object) -> Tensor:
            return change(super().sample(seeds))  # type: ignore[return-value]

    with pytest.raises(InputRejected, match=message):
        make(tmp_path, Other())


@pytest.mark.parametrize("scale", [1.0, 1.2])
def test_outputs_a_little_outside_are_clipped(scale: float, tmp_path: Path) -> None:
    class Loud(Fake):
        def sample(self, seeds: np.ndarray, **more: object) -> Tensor:
            return super().sample(seeds).sign() * scale

    assert set(np.unique(make(tmp_path, Loud()).read(0, 600))) <= {0, 128, 255}


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda x: (x + 1) / 2, "no value below 0"), (lambda x: x * 0 - 0.5, "256 equal images"), (lambda x: x, "")],
)
def test_a_shard_that_looks_wrong_is_told_once(
    change: Callable[[Tensor], Tensor], message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Other(Fake):
        def sample(self, seeds: np.ndarray, **more: object) -> Tensor:
            return change(super().sample(seeds))

    make(tmp_path, Other())
    assert len(caplog.records) == (1 if message else 0)
    assert message in caplog.text


def test_the_mixer_is_that_of_splitmix() -> None:
    """First outputs of the generator of seed 0, as its authors' reference program prints them."""
    words = mixed(np.arange(1, 4, dtype=np.uint64) * np.uint64(GOLDEN))
    assert [f"{word:016x}" for word in words] == ["e220a8397b1dcdaf", "6e789e6aa1b965f4", "06c45d188009454f"]


@dataclass
class Small(Fake):
    """A model whose device holds few images at once."""

    limit: int = 20

    def sample(self, seeds: np.ndarray, **more: object) -> Tensor:
        if len(seeds) > self.limit:
            self.batches.append(-len(seeds))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().sample(seeds, **more)


def test_where_memory_does_not_suffice_batches_are_halved_and_the_images_are_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Small()
    samples = make(tmp_path / "small", model)
    assert np.array_equal(samples.read(0, 600), make(tmp_path / "large", Fake()).read(0, 600))
    assert model.batches[:3] == [-64, -32, 16] and set(model.batches[3:]) == {16, 8}  # later shards begin small
    assert "64 images a call; going on with 32" in caplog.text
    told = [json.loads(path.read_text())["execution"] for path in sorted((tmp_path / "small").glob("0*.json"))]
    assert all(each["batch_size"] == 64 and each["smaller_batches"] == 16 for each in told)


def test_a_run_of_halved_batches_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", Small())
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cut", Small(fail_after=12))
    kept = sum(counts(tmp_path / "cut"))
    second = Small()
    assert kept > 0 and np.array_equal(make(tmp_path / "cut", second).read(0, 600), whole.read(0, 600))
    assert sum(second.batches) == 600 - kept  # no batch was too large again


@pytest.mark.parametrize("exact", [True, False])
def test_memory_for_not_even_one_image_or_one_block_is_an_error(tmp_path: Path, exact: bool) -> None:
    with pytest.raises(OutOfMemory, match="Out of memory"):
        make(tmp_path, Small(limit=0), replace(SPEC, exact=exact))
