from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genbench import feature_files, features
from genbench.arrays import Samples
from genbench.contracts import Extractor
from genbench.errors import InputRejected, UsageError
from genbench.feature_files import Table, temporary_directory
from genbench.images import open_images, write_images

IMAGES = np.random.default_rng(0).integers(0, 256, (21, 3, 4, 4), dtype=np.uint8)


class Counting:
    """An extractor of two taps that writes down how it was called."""

    def __init__(self, key: str = "k1") -> None:
        self.calls: list[tuple[int, tuple[str, ...]]] = []
        self.extractor = Extractor(
            key=key, widths={"pooled": 3, "pixels": 48}, embed=self.embed, embed_captions=self.texts, block=8
        )

    def embed(self, images: torch.Tensor, taps: list[str]) -> dict[str, torch.Tensor]:
        self.calls.append((len(images), tuple(taps)))
        return {"pooled": images.float().mean((2, 3)), "pixels": images.float().flatten(1)}

    def texts(self, texts: list[str]) -> torch.Tensor:
        self.calls.append((len(texts), ("captions",)))
        return torch.tensor([[float(len(t))] for t in texts])


def extracted(counting: Counting, cache: Path, *taps: str, samples: Samples | None = None):
    return features.evidence(samples or Samples.of(IMAGES), counting.extractor, taps, cache=cache, device="cpu")


def test_one_pass_serves_all_taps_and_every_block_is_full(tmp_path: Path) -> None:
    counting = Counting()
    found = extracted(counting, tmp_path, "pooled", "pixels")
    assert counting.calls == [(8, ("pooled", "pixels"))] * 3
    assert np.array_equal(found.features("pixels").values(), IMAGES.reshape(21, -1).astype(np.float32))
    np.testing.assert_allclose(found.features("pooled").values(), IMAGES.mean((2, 3)), rtol=1e-6)


def test_features_are_found_again_by_content_and_only_what_is_missing_is_made(tmp_path: Path) -> None:
    extracted(Counting(), tmp_path, "pooled")
    again = Counting()
    extracted(again, tmp_path, "pooled", samples=Samples.of(IMAGES.copy(), origin="another name"))
    assert again.calls == []
    extracted(again, tmp_path, "pooled", "pixels")
    assert again.calls == [(8, ("pixels",))] * 3


@pytest.mark.parametrize("change", ["images", "extractor"])
def test_other_images_or_weights_are_other_features(tmp_path: Path, change: str) -> None:
    extracted(Counting(), tmp_path, "pooled")
    other = IMAGES.copy()
    other[0, 0, 0, 0] ^= 255
    counting = Counting("k2" if change == "extractor" else "k1")
    found = extracted(counting, tmp_path, "pooled", samples=Samples.of(other if change == "images" else IMAGES))
    assert len(counting.calls) == 3
    if change == "images":
        assert found.features().values()[0, 0] != IMAGES[0, 0].mean()


def test_captions_are_cached_by_their_texts(tmp_path: Path) -> None:
    for texts in (["a"] * 21, ["bbb"] * 21):
        found = extracted(Counting(), tmp_path, "captions", samples=Samples.of(IMAGES, captions=texts))
        assert found.features("captions").values()[:, 0].tolist() == [len(texts[0])] * 21


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    counting = Counting()

    def broken(images: torch.Tensor, taps: list[str]) -> dict[str, torch.Tensor]:
        if len(counting.calls) == 2:
            raise RuntimeError("stop")
        return counting.embed(images, taps)

    extractor = Extractor(key="k", widths={"pooled": 3}, embed=broken, block=8)
    with pytest.raises(RuntimeError, match="stop"):
        features.evidence(Samples.of(IMAGES), extractor, ["pooled"], cache=tmp_path, device="cpu")
    assert list(tmp_path.iterdir()) == []


def test_taps_and_texts_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it has pooled, pixels"):
        extracted(Counting(), tmp_path, "logits")
    with pytest.raises(UsageError, match="no captions"):
        extracted(Counting(), tmp_path, "captions")


def test_pixel_digests_are_those_of_the_images_however_they_are_stored(tmp_path: Path) -> None:
    expected = [hashlib.sha256(image.tobytes()).digest() for image in IMAGES]
    write_images(Samples.of(IMAGES), tmp_path / "folder")
    np.savez(tmp_path / "a.npz", IMAGES.transpose(0, 2, 3, 1))
    for samples in (Samples.of(IMAGES), open_images(tmp_path / "folder"), open_images(tmp_path / "a.npz")):
        for _ in range(2):
            found = features.pixel_digests(samples, cache=tmp_path / "cache")
            assert [bytes(row) for row in found] == expected, samples.origin
        part = features.pixel_digests(samples.subset(3, 7), cache=tmp_path / "cache")
        assert [bytes(row) for row in part] == expected[3:7]


def test_pixel_digests_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(Samples.of(IMAGES), tmp_path / "folder")
    samples = open_images(tmp_path / "folder")
    known = features.pixel_digests(samples, cache=tmp_path / "cache")
    monkeypatch.setattr("genbench.features.prefetch", lambda *_, **__: pytest.fail("decoded again"))
    again = open_images(tmp_path / "folder")
    assert np.array_equal(features.pixel_digests(again, cache=tmp_path / "cache"), known)


@pytest.fixture
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of one block of 8 images."""
    monkeypatch.setattr("genbench.feature_files.PART", 8)


def flipped(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def write_npy(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "bit of a number": lambda path: flipped(path, 200),
    "bit of the header": lambda path: flipped(path, 20),
    "bit of the digest": lambda path: flipped(path, -5),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "zeros after the header": lambda path: path.write_bytes(path.read_bytes()[:128] + bytes(path.stat().st_size - 128)),
    "text": lambda path: path.write_text("features"),
    "rows exchanged": lambda path: write_npy(path, np.load(path)[::-1]),
    "another width": lambda path: write_npy(path, np.zeros((21, 2), np.float32)),
    "objects": lambda path: write_npy(path, np.array([{}] * 21)),
    "a whole table of another length": lambda path: Table(
        directory=path.parent, key=path.stem, rows=20, part=24
    ).write(0, np.zeros((20, 3), np.float32)),
    "features of other images": lambda path: (
        extracted(Counting(), path.parent / "other", "pooled", samples=Samples.of(255 - IMAGES)),
        shutil.copy(next((path.parent / "other").glob("*.npy")), path),
    ),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "dangling link": lambda path: (path.unlink(), path.symlink_to(path.parent / "nowhere" / "x")),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_features_are_made_anew(tmp_path: Path, damage: str) -> None:
    expected = np.array(extracted(Counting(), tmp_path, "pooled").features().values())
    (path,) = tmp_path.glob("*.npy")
    DAMAGES[damage](path)
    counting = Counting()
    found = extracted(counting, tmp_path, "pooled").features()
    assert np.array_equal(found.values(), expected) and len(counting.calls) == 3
    again = Counting()
    extracted(again, tmp_path, "pooled")
    assert again.calls == [] and path.is_file() and not path.is_symlink(), "the file was mended"


@pytest.mark.usefixtures("_small_parts")
def test_an_interrupted_pass_goes_on_with_the_part_it_was_in(tmp_path: Path) -> None:
    counting = Counting()

    def interrupted(images: torch.Tensor, taps: list[str]) -> dict[str, torch.Tensor]:
        if len(counting.calls) == 2:
            raise KeyboardInterrupt
        return counting.embed(images, taps)

    broken = replace(counting.extractor, embed=interrupted)
    with pytest.raises(KeyboardInterrupt):
        features.evidence(Samples.of(IMAGES), broken, ["pooled"], cache=tmp_path, device="cpu")
    again, seen = Counting(), []
    found = features.evidence(
        Samples.of(IMAGES), again.extractor, ["pooled"], cache=tmp_path, device="cpu", advance=seen.append
    )
    assert len(again.calls) == 1 and seen == [16, 5]
    np.testing.assert_allclose(found.features().values(), IMAGES.mean((2, 3)), rtol=1e-6)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"], "parts are gone"


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("damage", ["bit of a number", "half", "empty", "folder"])
def test_a_damaged_part_is_made_anew_and_no_other(tmp_path: Path, damage: str) -> None:
    whole = np.array(extracted(Counting(), tmp_path / "whole", "pooled").features().values())
    (path,) = (tmp_path / "whole").glob("*.npy")
    parts = Table(directory=tmp_path / "parts", key=path.stem, rows=21, part=8)
    for number in range(3):
        parts.write(number, whole[slice(*parts.span(number))])
    DAMAGES[damage](parts.part_path(1))
    counting = Counting()
    found = extracted(counting, tmp_path / "parts", "pooled").features().values()
    assert np.array_equal(found, whole) and len(counting.calls) == 1


@pytest.mark.usefixtures("_small_parts")
def test_parts_of_another_length_are_not_mixed_in(tmp_path: Path) -> None:
    whole = np.array(extracted(Counting(), tmp_path / "whole", "pooled").features().values())
    (path,) = (tmp_path / "whole").glob("*.npy")
    other = Table(directory=tmp_path / "parts", key=path.stem, rows=21, part=16)
    for number in range(2):
        other.write(number, np.zeros_like(whole[slice(*other.span(number))]))
    assert np.array_equal(extracted(Counting(), tmp_path / "parts", "pooled").features().values(), whole)


@pytest.mark.parametrize("kind", ["array", "folder", "npz"])
def test_images_that_change_while_they_are_measured_are_refused_and_nothing_is_kept(tmp_path: Path, kind: str) -> None:
    images = IMAGES.copy()
    stored = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    np.savez(tmp_path / "a.npz", stored)
    write_images(Samples.of(images), tmp_path / "folder")
    samples = Samples.of(images) if kind == "array" else open_images(tmp_path / ("a.npz" if kind == "npz" else kind))
    counting = Counting()

    def embed(given: torch.Tensor, taps: list[str]) -> dict[str, torch.Tensor]:
        images[20] = 0
        np.savez(tmp_path / "a.npz", np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
        write_images(Samples.of(images), tmp_path / "folder")
        return counting.embed(given, taps)

    changing = replace(counting.extractor, embed=embed)
    with pytest.raises(InputRejected, match="was changed while it was"):
        features.evidence(samples, changing, ["pooled"], cache=tmp_path / "cache", device="cpu", workers=0)
    assert not list((tmp_path / "cache").iterdir())


def test_digests_found_while_features_are_made_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(Samples.of(IMAGES), tmp_path / "folder")
    extracted(Counting(), tmp_path / "cache", "pooled", samples=open_images(tmp_path / "folder"))
    monkeypatch.setattr("genbench.features.prefetch", lambda *_, **__: pytest.fail("decoded again"))
    found = features.pixel_digests(open_images(tmp_path / "folder"), cache=tmp_path / "cache")
    assert np.array_equal(found, features.pixel_digests(Samples.of(IMAGES)))


@pytest.fixture
def everybodys(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every user may read, which those of pytest are not, with a folder for temporary files in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "temporary").mkdir()
        (folder / "temporary").chmod(0o777)
        folder.chmod(0o755)
        monkeypatch.setattr("tempfile.tempdir", str(folder / "temporary"))
        temporary_directory.cache_clear()
        yield folder
        temporary_directory.cache_clear()


@pytest.mark.usefixtures("everybodys")
@pytest.mark.parametrize("place", ["file", "below a file", "dangling", "/proc/genbench"])
def test_a_cache_that_cannot_be_written_to_costs_a_warning(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "else")
    cache = {"below a file": tmp_path / "file" / "x"}.get(place, tmp_path / place)
    counting = Counting()
    for _ in range(2):
        found = extracted(counting, cache, "pooled").features().values()
        np.testing.assert_allclose(found, IMAGES.mean((2, 3)), rtol=1e-6)
    assert len(counting.calls) == 3, "made once for this process"
    assert "cannot be written to" in caplog.text
    assert (tmp_path / "file").read_text() == "" and not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only the superuser can become another")
def test_a_finished_cache_serves_a_user_who_cannot_write_to_it(everybodys: Path) -> None:
    cache = everybodys / "cache"
    expected = np.array(extracted(Counting(), cache, "pooled").features().values())
    cache.chmod(0o755)
    counting = Counting()
    os.seteuid(65534)
    try:
        assert np.array_equal(extracted(counting, cache, "pooled").features().values(), expected)
        assert counting.calls == []
        other = extracted(counting, cache, "pixels").features("pixels").values()
        assert np.array_equal(other, IMAGES.reshape(21, -1))
    finally:
        os.seteuid(0)


def test_calls_of_large_images_are_smaller_and_all_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CALL_BYTES", 3 * IMAGES[0].nbytes + 1)
    counting = Counting()
    found = extracted(counting, tmp_path, "pooled")
    assert [count for count, _ in counting.calls] == [3] * 7
    np.testing.assert_allclose(found.features().values(), IMAGES.mean((2, 3)), rtol=1e-6)
    assert features.images_of_call(counting.extractor, (3, 10_000, 10_000)) == 1


def test_an_extractor_that_gives_another_width_than_it_says_is_refused(tmp_path: Path) -> None:
    counting = Counting()
    wrong = replace(counting.extractor, widths={"pooled": 5})
    with pytest.raises(InputRejected, match="declares 5 features"):
        features.evidence(Samples.of(IMAGES), wrong, ["pooled"], cache=tmp_path, device="cpu")


@pytest.mark.usefixtures("_small_parts")
def test_parts_that_nobody_came_back_to_are_removed(tmp_path: Path) -> None:
    for name, age in (("old", 8), ("new", 1)):
        parts = Table(directory=tmp_path, key=name, rows=21, part=8)
        parts.write(0, np.zeros((8, 3), np.float32))
        os.utime(parts.parts, (time.time() - age * 86400,) * 2)
    extracted(Counting(), tmp_path, "pooled")
    assert [path.name for path in tmp_path.glob("*.parts")] == ["new.parts"]


@pytest.mark.parametrize("kind", ["images", "extractor", "neither"])
def test_features_that_are_all_equal_are_told(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    counting = Counting()
    images = np.repeat(IMAGES[:1], 21, axis=0) if kind == "images" else IMAGES
    zeros = replace(counting.extractor, embed=lambda images, taps: {tap: torch.zeros(len(images), 3) for tap in taps})
    extractor = zeros if kind == "extractor" else counting.extractor
    for _ in range(2):  # made, and found
        caplog.clear()
        features.evidence(Samples.of(images), extractor, ["pooled"], cache=tmp_path, device="cpu")
        assert ("All 21 images of array have the same features at pooled" in caplog.text) == (kind != "neither")


@pytest.mark.usefixtures("_small_parts")
@pytest.mark.parametrize("finished", [True, False])
def test_another_process_may_finish_the_same_features_first(
    tmp_path: Path, finished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = np.array(extracted(Counting(), tmp_path / "other", "pooled").features().values())
    write, met = feature_files.atomic_write, []

    def overtaken(path: Path, data: bytes) -> None:
        if not met:  # its folder goes, and where it was quick enough the whole is there
            met.append(path)
            if finished:
                shutil.copytree(tmp_path / "other", tmp_path / "cache", dirs_exist_ok=True)
            raise FileNotFoundError(path)
        write(path, data)

    monkeypatch.setattr(feature_files, "atomic_write", overtaken)
    found = extracted(Counting(), tmp_path / "cache", "pooled").features().values()
    assert np.array_equal(found, expected) and met
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".npy"]


def test_where_memory_does_not_suffice_a_block_is_made_in_parts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Narrow(Counting):
        def embed(self, images: torch.Tensor, taps: list[str]) -> dict[str, torch.Tensor]:
            if len(images) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().embed(images, taps)

    narrow = Narrow()
    found = extracted(narrow, tmp_path, "pixels")
    assert np.array_equal(found.features("pixels").values(), IMAGES.reshape(21, -1).astype(np.float32))
    assert [count for count, _ in narrow.calls] == [2] * 12
    assert "8 images a call of the extractor; going on with 4" in caplog.text


@pytest.mark.parametrize(("device", "order"), [("cpu", "b0 e0 b1 e1 b2 e2"), ("cuda:1", "b0 b1 e0 b2 e1 e2")])
def test_a_gpu_is_given_the_next_block_before_the_features_of_one_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, device: str, order: str
) -> None:
    seen: list[str] = []

    def started(images: np.ndarray, *rest: object) -> Callable[[], dict[str, np.ndarray]]:
        number = len([name for name in seen if name[0] == "b"])
        seen.append(f"b{number}")

        def wait() -> dict[str, np.ndarray]:
            seen.append(f"e{number}")
            return {"pooled": np.full((len(images), 3), number, dtype=np.float32)}

        return wait

    monkeypatch.setattr(features, "_started", started)
    blocks = list(features.image_blocks(Samples.of(IMAGES), Counting().extractor, ["pooled"], device=device))
    assert " ".join(seen) == order
    assert [block["pooled"][0, 0] for block in blocks] == [0, 1, 2]
