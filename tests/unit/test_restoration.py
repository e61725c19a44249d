"""Metrics of pairs against definitions written out in float64."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

import genbench
from genbench.arrays import Evidence, Features, Images, Samples
from genbench.errors import InputRejected, NotComparable, UsageError
from genbench.metrics.restoration import (
    CONSISTENCY,
    LPIPS,
    PSNR,
    SSIM,
    box_downsampled,
    signal_to_noise,
    structural_similarity,
)


def of_images(images: Images) -> Evidence:
    return Evidence(samples=Samples.of(images))


def noisy_pair(seed: int, n: int, size: tuple[int, int], spread: float = 20) -> tuple[Images, Images]:
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(rng.standard_normal((n, 3, *size)), axis=-1) * 12 + 128
    clean = np.clip(smooth, 0, 255).astype(np.uint8)
    return np.clip(clean + rng.standard_normal(clean.shape) * spread, 0, 255).astype(np.uint8), clean


def test_psnr_of_known_differences_and_of_no_difference() -> None:
    x = np.full((4, 3, 8, 8), 100, np.uint8)
    y = x.copy()
    y[0] += 1  # error 1
    y[1, :, :, :4] += 10  # error 50
    y[2, 0, 0, 0] += 1  # one step in one of 192 values
    expected = [20 * math.log10(255), 10 * math.log10(255**2 / 50), 10 * math.log10(255**2 * 192)]
    np.testing.assert_allclose(signal_to_noise(x, y)[:3], expected)
    assert signal_to_noise(x, y)[3] == pytest.approx(expected[2])
    score = PSNR.compute(generated=of_images(x), reference=of_images(y))
    assert score.value == pytest.approx((sum(expected) + expected[2]) / 4)
    assert score.detail["identical"] == 1
    assert score.stderr == pytest.approx(np.std([*expected, expected[2]], ddof=1) / 2)


def test_psnr_of_differences_beyond_eight_bits_does_not_wrap() -> None:
    x = np.zeros((1, 1, 6, 6), np.uint8)
    assert signal_to_noise(x, x + 255)[0] == pytest.approx(0)


def ssim_by_definition(x: Images, y: Images, border: str) -> NDArray[np.float64]:
    """One window after the other."""
    weight = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(weight, weight) / weight.sum() ** 2
    a, b = x.astype(np.float64), y.astype(np.float64)
    if border == "reflect":
        a, b = (np.pad(z, ((0, 0), (0, 0), (5, 5), (5, 5)), mode="reflect") for z in (a, b))
    c1, c2 = 2.55**2, 7.65**2
    found = []
    for u, v in zip(a, b, strict=True):
        values = []
        for channel in range(len(u)):
            for i in range(u.shape[1] - 10):
                for j in range(u.shape[2] - 10):
                    p, q = u[channel, i : i + 11, j : j + 11], v[channel, i : i + 11, j : j + 11]
                    mp, mq = (window * p).sum(), (window * q).sum()
                    vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                    cov = (window * (p - mp) * (q - mq)).sum()
                    values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
        found.append(np.mean(values))
    return np.array(found)


@pytest.mark.parametrize("border", ["reflect", "valid"])
def test_ssim_equals_its_definition(border: str) -> None:
    x, y = noisy_pair(0, 2, (13, 17))
    np.testing.assert_allclose(structural_similarity(x, y, border=border), ssim_by_definition(x, y, border), rtol=1e-9)


def test_ssim_is_one_for_copies_and_constant_images_have_a_closed_form() -> None:
    x, _ = noisy_pair(1, 3, (16, 16))
    assert SSIM.compute(generated=of_images(x), reference=of_images(x)).value == pytest.approx(1)
    a, b = np.full((1, 1, 12, 12), 50, np.uint8), np.full((1, 1, 12, 12), 200, np.uint8)
    expected = (2 * 50 * 200 + 2.55**2) / (50**2 + 200**2 + 2.55**2)
    assert structural_similarity(a, b)[0] == pytest.approx(expected)


def test_more_noise_scores_lower_in_order() -> None:
    values = []
    for spread in (5, 20, 60):
        x, y = noisy_pair(2, 40, (24, 24), spread)
        sides = {"generated": of_images(x), "reference": of_images(y)}
        values.append((PSNR.compute(**sides).value, SSIM.compute(**sides).value))
    assert values == sorted(values, reverse=True)
    assert all(a[i] > b[i] for a, b in pairwise(values) for i in (0, 1))


def test_consistency_counts_only_what_survives_the_reduction() -> None:
    rng = np.random.default_rng(3)
    low = rng.integers(20, 230, (40, 3, 4, 4)).astype(np.uint8)
    up = low.repeat(4, axis=2).repeat(4, axis=3)
    # A checkerboard of +-9 inside every square leaves its mean.
    board = np.where((np.arange(16)[:, None] + np.arange(16)) % 2, 9, -9)
    textured = (up.astype(np.int64) + board).astype(np.uint8)
    assert CONSISTENCY.compute(generated=of_images(textured), reference=of_images(low)).value == 0
    assert CONSISTENCY.compute(generated=of_images(textured), reference=of_images(up)).value == 0
    score = CONSISTENCY.compute(generated=of_images(up + 2), reference=of_images(low))
    assert score.value == pytest.approx(1e5 * (2 / 255) ** 2)
    # Against 8-bit low-resolution images of continuous ones, a perfect result keeps the variance of rounding.
    fine = rng.integers(0, 256, (60, 3, 32, 32)).astype(np.uint8)
    rounded = np.rint(box_downsampled(fine, 4)).astype(np.uint8)
    perfect = CONSISTENCY.compute(generated=of_images(fine), reference=of_images(rounded)).value
    assert perfect == pytest.approx(1e5 / 12 / 255**2, rel=0.05)


def test_box_downsampled_is_the_mean_of_each_square() -> None:
    x = np.arange(2 * 1 * 4 * 6).reshape(2, 1, 4, 6).astype(np.uint8)
    by_hand = [
        [[[x[n, 0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(3)] for i in range(2)]] for n in (0, 1)
    ]
    np.testing.assert_array_equal(box_downsampled(x, 2), by_hand)


def test_lpips_is_the_mean_of_the_numbers_of_pairs() -> None:
    values = np.random.default_rng(0).uniform(0.1, 0.7, (70, 1)).astype(np.float32)

    def side(images: int = 70, **taps: NDArray[np.float32]) -> Evidence:
        found = {tap: Features(extractor="test", tap=tap, array=v) for tap, v in taps.items()}
        return Evidence(samples=Samples.of(np.zeros((images, 1, 1, 1), np.uint8)), taps=found)

    found = LPIPS.compute(generated=side(lpips=values), reference=side())
    assert found.value == pytest.approx(values.mean(dtype=np.float64), rel=1e-12)
    assert found.stderr == pytest.approx(values.std(ddof=1, dtype=np.float64) / math.sqrt(70), rel=1e-6)
    with pytest.raises(NotComparable, match="array has 70 and array has 69"):
        LPIPS.compute(generated=side(lpips=values), reference=side(69))


def test_errors_name_the_cause() -> None:
    x = of_images(np.zeros((2, 3, 8, 8), np.uint8))
    with pytest.raises(NotComparable, match="2 and array has 3"):
        PSNR.compute(generated=x, reference=of_images(np.zeros((3, 3, 8, 8), np.uint8)))
    with pytest.raises(NotComparable, match="pixel by pixel"):
        PSNR.compute(generated=x, reference=of_images(np.zeros((2, 3, 4, 4), np.uint8)))
    with pytest.raises(NotComparable, match="at least 11 pixels"):
        SSIM.compute(generated=x, reference=x, border="valid")
    with pytest.raises(UsageError, match="reflect and valid"):
        SSIM.compute(generated=x, reference=x, border="zero")
    with pytest.raises(NotComparable, match="3 times"):
        CONSISTENCY.compute(generated=x, reference=x, factor=3)
    with pytest.raises(NotComparable, match="the reference is"):
        CONSISTENCY.compute(generated=x, reference=of_images(np.zeros((2, 3, 4, 4), np.uint8)))


def test_sides_that_are_no_pairs_are_refused_before_anything_is_measured() -> None:
    x = noisy_pair(0, 6, (16, 16))[1]
    labels, captions = np.arange(6, dtype=np.int64) // 2, [f"a {i}" for i in range(6)]

    def refused(generated: Samples, reference: Samples, message: str) -> None:
        with pytest.raises(InputRejected, match=message):
            genbench.score(generated, reference, metrics=["psnr"], device="cpu")

    whole = Samples.of(x, origin="whole", labels=labels, captions=captions)
    refused(Samples.of(x[:5], origin="part"), whole, "part has 5 images, whole 6")
    refused(
        Samples.of(x, origin="turned", labels=labels[::-1].copy()), whole, "image 0 has the label 2 in turned and 0"
    )
    other = [*captions[:4], captions[5], captions[4]]
    refused(
        whole, Samples.of(x, origin="other", captions=other), "image 4 has the caption a 4 in whole and a 5 in other"
    )
    (same,) = genbench.score(whole, Samples.of(x, origin="plain", labels=labels), metrics=["psnr"], device="cpu")
    assert same.score.detail["identical"] == 6


def test_upscaled_images_are_measured_against_small_ones() -> None:
    small = noisy_pair(0, 3, (8, 8))[1]
    large = np.repeat(np.repeat(small, 4, axis=2), 4, axis=3)
    (found,) = genbench.score(Samples.of(large), Samples.of(small), metrics=["consistency"], device="cpu")
    assert found.score.value == 0
