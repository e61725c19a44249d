"""Run folders as sets of images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genbench import generation
from genbench.arrays import Samples
from genbench.errors import InputRejected
from genbench.images import open_images
from genbench.records import Ref, RunSpec, sealed

SPEC = RunSpec(model=Ref("fake"), dataset=Ref("shapes"), num_samples=600)


class Fake:
    """A model of ten classes whose images are noise of their seeds."""

    shape, key, conditioning, classes, evaluations = (3, 4, 4), "k", "label", 10, 1

    def sample(self, seeds: np.ndarray, *, labels: np.ndarray, watch: object = None) -> torch.Tensor:
        rows = [
            np.random.default_rng([int(seed), int(label)]).random(48) for seed, label in zip(seeds, labels, strict=True)
        ]
        return torch.from_numpy(np.stack(rows).reshape(-1, 3, 4, 4) * 2 - 1)


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Samples]:
    """A finished run with the picture that lies beside its samples, and the samples as its sampler saw them."""
    names = tuple("abcdefghij")
    made = generation.generate(
        Fake(), SPEC, tmp_path / "run" / "samples", batch_size=64, execution={"device": "cpu"}, classes=names
    )
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "run" / "grid.png")
    return tmp_path / "run", made


@pytest.mark.parametrize("below", ["", "samples"])
def test_a_finished_run_is_the_images_that_were_sampled(run: tuple[Path, Samples], below: str) -> None:
    folder, made = run
    opened = open_images(folder / below)
    assert (opened.count, opened.shape, opened.classes, opened.quantise) == (600, (3, 4, 4), made.classes, "round")
    assert np.array_equal(opened.labels, made.labels) and opened.captions is None
    for start, stop in ((0, 600), (0, 1), (250, 260), (255, 257), (512, 600), (599, 600)):
        assert np.array_equal(opened.read(start, stop), made.read(start, stop)), (start, stop)
    assert opened.fingerprint() == made.fingerprint(), "features of the run are found again"


def test_an_unfinished_run_is_what_is_there(run: tuple[Path, Samples], caplog: pytest.LogCaptureFixture) -> None:
    folder, made = run
    (folder / "samples" / "000001.json").unlink()
    opened = open_images(folder)
    assert opened.count == 344 and "344 of 600 images of this run are there" in caplog.text
    kept = [*range(256), *range(512, 600)]
    assert np.array_equal(opened.read(0, 344), made.read(0, 600)[kept])
    assert np.array_equal(opened.read(250, 260), made.read(0, 600)[kept[250:260]])
    assert np.array_equal(opened.labels, made.labels[kept])


@pytest.mark.parametrize("damage", ["bit", "cut", "gone", "other", "zero"])
def test_a_shard_that_is_not_what_its_record_says_is_refused(run: tuple[Path, Samples], damage: str) -> None:
    folder, made = run
    path = folder / "samples" / "000001.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data if damage == "bit" else data[:-10])
    if damage == "gone":
        path.unlink()
    elif damage == "other":
        np.save(path, np.zeros((256, 3, 4, 5), np.uint8))
    elif damage == "zero":
        path.write_bytes(bytes(len(data)))
    for opened in (open_images(folder), made):
        assert opened.read(0, 256).shape == (256, 3, 4, 4)
        with pytest.raises(InputRejected, match=r"000001\.npy"):
            opened.read(0, 600)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff\x00", b"{}", b"null", b"[" * 100_000, b'{"schema": "genbench.samples/2", "spec": 3}', b'"x"',
     b'{"schema": "genbench.samples/2", "spec": {"num_samples": -1}, "shape": [3, 4, 4], "shard": 256}',
     b'{"schema": "genbench.samples/9", "spec": {"num_samples": 9}, "shape": [3, 4, 4], "shard": 256}'],
)  # fmt: skip
def test_a_damaged_manifest_is_told_and_the_picture_beside_it_is_no_set(
    run: tuple[Path, Samples], content: bytes
) -> None:
    folder, _ = run
    (folder / "samples" / "manifest.json").write_bytes(content)
    with pytest.raises(InputRejected, match=r"manifest\.json") as caught:
        open_images(folder)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told | {"digests": "zz"}, lambda told: told | {"labels": [1]}, lambda told: told | {"made": "x"},
        lambda told: told | {"execution": {}}, lambda told: "",
        lambda told: told | {"labels": [[]] * 256}, lambda told: [told], lambda told: {}, lambda told: None,
        lambda told: told | {"digests": 3}, lambda told: told | {"labels": ["x"] * 256},
    ],
)  # fmt: skip
def test_a_damaged_record_is_an_error_and_not_a_smaller_set(
    run: tuple[Path, Samples], change: Callable[[dict], object]
) -> None:
    folder, _ = run
    path = folder / "samples" / "000000.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(InputRejected, match=r"000000\.json is damaged; `genbench run`"):
        open_images(folder)


def test_images_of_another_model_are_none_of_this_run(run: tuple[Path, Samples]) -> None:
    folder, _ = run
    path = folder / "samples" / "000000.json"
    told = json.loads(path.read_text())
    del told["digest"]
    path.write_text(json.dumps(sealed(told | {"made": "0" * 64})))
    assert open_images(folder).count == 344


def test_a_run_without_an_image_is_told(run: tuple[Path, Samples]) -> None:
    folder, _ = run
    for path in (folder / "samples").glob("0*"):
        path.unlink()
    with pytest.raises(InputRejected, match="has no images yet; 600 are meant to come"):
        open_images(folder)


def test_the_first_layout_is_read_without_labels(run: tuple[Path, Samples]) -> None:
    folder, made = run
    shards = sorted((folder / "samples").glob("0*.npy"))
    digests = [hashlib.sha256(np.load(path).tobytes()).hexdigest() for path in shards]
    for path in (folder / "samples").glob("0*.json"):
        path.unlink()
    told = {"schema": "genbench.samples/1", "spec": {"num_samples": 600}, "shape": [3, 4, 4], "shard": 256}
    (folder / "samples" / "manifest.json").write_text(json.dumps(told | {"shards": digests[:2]}))
    opened = open_images(folder)
    assert opened.count == 512 and opened.labels is None
    assert np.array_equal(opened.read(0, 512), made.read(0, 512))


def test_other_folders_with_a_manifest_are_folders(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "samples").mkdir()
    for name in ("manifest.json", "samples/manifest.json"):
        (tmp_path / name).write_text('{"schema": "of somebody else"}')
    assert open_images(tmp_path).shape == (3, 9, 9)
