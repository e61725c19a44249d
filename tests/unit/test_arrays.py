from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genbench.arrays import Evidence, Features, Moments, Samples, Statistics
from genbench.errors import InputRejected, UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 5), dtype=np.uint8)


def test_batches_give_every_image_once_in_order() -> None:
    samples = Samples.of(IMAGES)
    for size in (1, 3, 7, 50):
        assert np.array_equal(np.concatenate(list(samples.batches(size))), IMAGES)


def test_a_subset_keeps_labels_and_captions_and_has_its_own_fingerprint() -> None:
    samples = Samples.of(IMAGES, labels=np.arange(7), captions=list("abcdefg"))
    part = samples.subset(2, 5)
    assert np.array_equal(part.read(1, 3), IMAGES[3:5])
    assert part.labels.tolist() == [2, 3, 4] and list(part.captions) == ["c", "d", "e"]
    assert len({samples.fingerprint(), part.fingerprint(), samples.subset(2, 6).fingerprint()}) == 3
    assert samples.subset(0, 7) is samples
    with pytest.raises(UsageError, match="has 7 images"):
        samples.subset(0, 8)


def test_a_part_of_a_set_has_not_the_statistics_of_the_whole() -> None:
    known = Statistics(extractors=("inception",), mean=np.zeros(2), covariance=np.eye(2))
    samples = replace(Samples.of(np.zeros((4, 3, 2, 2), np.uint8)), statistics={"pooled": known})
    assert samples.subset(0, 4).statistics == {"pooled": known}
    assert samples.subset(0, 3).statistics == {}
    other = replace(known, covariance=np.eye(2) * 2)
    assert len({known.digest(), other.digest(), replace(known, mean=np.ones(2)).digest()}) == 3
    assert replace(known, covariance=np.asfortranarray(known.covariance)).digest() == known.digest()


def test_a_fingerprint_is_of_the_content() -> None:
    other = IMAGES.copy()
    assert Samples.of(other).fingerprint() == Samples.of(IMAGES).fingerprint()
    other[3, 0, 0, 0] ^= 1
    assert Samples.of(other).fingerprint() != Samples.of(IMAGES).fingerprint()
    assert Samples.of(IMAGES.reshape(7, 3, 5, 4)).fingerprint() != Samples.of(IMAGES).fingerprint()


@pytest.mark.parametrize("bad", [IMAGES.astype(np.float32), IMAGES[0], IMAGES[:0]])
def test_what_is_no_set_of_images_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(InputRejected, match="uint8"):
        Samples.of(bad)


def test_labels_must_match_in_number() -> None:
    with pytest.raises(InputRejected, match="7 images but 6 labels"):
        Samples.of(IMAGES, labels=np.arange(6))


@given(sizes=st.lists(st.integers(1, 9), min_size=2, max_size=4), seed=st.integers(0, 1000))
def test_moments_of_a_union_are_the_sum_of_moments(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(n, 3)) + 5 for n in sizes]
    total = Moments.of(parts[0])
    for part in parts[1:]:
        total = total + Moments.of(part)
    whole = np.concatenate(parts)
    assert total.count == len(whole)
    np.testing.assert_allclose(total.mean, whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(total.covariance, np.cov(whole, rowvar=False), atol=1e-10)


def test_features_read_from_a_file_in_blocks(tmp_path) -> None:
    values = np.random.default_rng(1).normal(size=(10, 4)).astype(np.float32)
    np.save(tmp_path / "f.npy", values)
    features = Features(extractor="e", tap="pooled", path=tmp_path / "f.npy")
    assert features.shape == (10, 4)
    assert np.array_equal(np.concatenate(list(features.blocks(3))), values)
    with pytest.raises(InputRejected, match="float32"):
        Features(extractor="e", tap="pooled", array=values.astype(np.float64))


def test_evidence_names_the_taps_it_has() -> None:
    values = Features(extractor="e", tap="pooled", array=np.zeros((7, 2), np.float32))
    evidence = Evidence(samples=Samples.of(IMAGES), taps={"pooled": values})
    assert evidence.features() is values
    with pytest.raises(UsageError, match="there are pooled"):
        evidence.features("logits")
