from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from genbench import features
from genbench.arrays import Samples
from genbench.contracts import Extractor
from genbench.errors import UsageError
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


def evidence(counting: Counting, cache: Path, *taps: str, samples: Samples | None = None):
    return features.evidence(samples or Samples.of(IMAGES), counting.extractor, taps, cache=cache, device="cpu")


def test_one_pass_serves_all_taps_and_every_block_is_full(tmp_path: Path) -> None:
    counting = Counting()
    found = evidence(counting, tmp_path, "pooled", "pixels")
    assert counting.calls == [(8, ("pooled", "pixels"))] * 3
    assert np.array_equal(found.features("pixels").values(), IMAGES.reshape(21, -1).astype(np.float32))
    np.testing.assert_allclose(found.features("pooled").values(), IMAGES.mean((2, 3)), rtol=1e-6)


def test_features_are_found_again_by_content_and_only_what_is_missing_is_made(tmp_path: Path) -> None:
    evidence(Counting(), tmp_path, "pooled")
    again = Counting()
    evidence(again, tmp_path, "pooled", samples=Samples.of(IMAGES.copy(), origin="another name"))
    assert again.calls == []
    evidence(again, tmp_path, "pooled", "pixels")
    assert again.calls == [(8, ("pixels",))] * 3


@pytest.mark.parametrize("change", ["images", "extractor"])
def test_other_images_or_weights_are_other_features(tmp_path: Path, change: str) -> None:
    evidence(Counting(), tmp_path, "pooled")
    other = IMAGES.copy()
    other[0, 0, 0, 0] ^= 255
    counting = Counting("k2" if change == "extractor" else "k1")
    found = evidence(counting, tmp_path, "pooled", samples=Samples.of(other if change == "images" else IMAGES))
    assert len(counting.calls) == 3
    if change == "images":
        assert found.features().values()[0, 0] != IMAGES[0, 0].mean()


def test_captions_are_cached_by_their_texts(tmp_path: Path) -> None:
    for texts in (["a"] * 21, ["bbb"] * 21):
        found = evidence(Counting(), tmp_path, "captions", samples=Samples.of(IMAGES, captions=texts))
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
        evidence(Counting(), tmp_path, "logits")
    with pytest.raises(UsageError, match="no captions"):
        evidence(Counting(), tmp_path, "captions")


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
