"""Kernel distances against float64 sums over all pairs, and against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_up import evidence, normal
from numpy.typing import NDArray

from genbench.contracts import Metric
from genbench.errors import InputRejected, NotComparable, UsageError
from genbench.metrics import kernel
from genbench.metrics.kernel import CMMD, KID, gaussian_less_one, kernel_sums, polynomial
from genbench.uncertainty import block_numbers, of_jackknife

Array = NDArray[np.float32]


def u_statistic(x: Array, y: Array) -> float:
    """From the definition: sums over ordered pairs of two different images, and over all cross pairs."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    k = [(u @ v.T / x.shape[1] + 1) ** 3 for u, v in ((a, a), (b, b), (a, b))]
    n, m = len(a), len(b)
    off = [(z.sum() - np.trace(z)) for z in k[:2]]
    return off[0] / (n * (n - 1)) + off[1] / (m * (m - 1)) - 2 * k[2].mean()


@pytest.mark.parametrize(("n", "m"), [(53, 71), (130, 64)])
def test_kid_equals_the_u_statistic_with_and_without_each_block(
    n: int, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "_TILE", 17)
    x, y = normal(0, n, 9, shift=0.3), normal(1, m, 9)
    sums = kernel_sums(x, y, polynomial(9))
    assert sums.discrepancy(unbiased=True) == pytest.approx(u_statistic(x, y), rel=1e-5)
    blocks = block_numbers(n)
    expected = [u_statistic(x[blocks != b], y) for b in range(20)]
    np.testing.assert_allclose(sums.without_each(unbiased=True), expected, rtol=2e-5)
    score = KID.compute(generated=evidence(x), reference=evidence(y))
    error = of_jackknife(u_statistic(x, y), expected, np.bincount(blocks))
    assert error is not None and score.stderr == pytest.approx(error.stderr, rel=1e-3)


def test_kid_of_equal_distributions_is_zero_within_its_error_and_may_be_negative() -> None:
    # Both sides vary here, and the error speaks of one: sqrt(2) errors are one standard deviation.
    values = []
    for seed in range(40):
        score = KID.compute(generated=evidence(normal(seed, 100, 8)), reference=evidence(normal(1000 + seed, 100, 8)))
        values.append(score.value)
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(40)


def test_kid_of_two_points_against_two_points_by_hand() -> None:
    # d = 1: k(x, y) = (x y + 1)^3. Generated 0 and 1: k = 1. Reference 1 and 2: k = 27. Across: 1, 1, 8, 27.
    x, y = np.array([[0], [1]], np.float32), np.array([[1], [2]], np.float32)
    score = KID.compute(generated=evidence(x), reference=evidence(y))
    assert score.value == pytest.approx(1 + 27 - 2 * 37 / 4)
    assert score.stderr is None  # one image has no pair


def test_kid_of_a_linear_shift_has_its_closed_form() -> None:
    # Generated x ~ N((mu, 0, 0, 0), I) and reference N(0, I): the moments of inner products are polynomials in mu.
    d, mu = 4, 0.8
    m2 = mu * mu

    def third_moment(a: float, b: float, c: float) -> float:
        """E (x.y / d + 1)^3 for independent normal x, y with means of squared lengths a, b and inner product c."""
        mean = c
        variance = d + a + b
        third = c * (c * c + 3 * variance) + 6 * c  # E s^3 of x.y: mean^3 + 3 mean variance + third cumulant 6 c
        return third / d**3 + 3 * (variance + mean * mean) / d**2 + 3 * mean / d + 1

    truth = third_moment(m2, m2, m2) + third_moment(0, 0, 0) - 2 * third_moment(m2, 0, 0)
    x = normal(5, 6000, d)
    x[:, 0] += mu
    score = KID.compute(generated=evidence(x), reference=evidence(normal(6, 6000, d)))
    assert score.stderr is not None and abs(score.value - truth) < 5 * score.stderr
    assert score.stderr < 0.1 * truth


def test_kid_subsets_have_the_mean_of_the_full_statistic_and_a_larger_error() -> None:
    sides = {"generated": evidence(normal(7, 300, 16, shift=0.3)), "reference": evidence(normal(8, 300, 16))}
    full = KID.compute(**sides)
    drawn = KID.compute(**sides, subsets=200, subset_size=50, seed=3)
    assert full.stderr is not None and drawn.stderr is not None
    assert abs(drawn.value - full.value) < 4 * drawn.detail["subset_std"] / math.sqrt(200)
    assert drawn.stderr == pytest.approx(math.hypot(full.stderr, drawn.detail["subset_std"] / math.sqrt(200)))
    assert KID.compute(**sides, subsets=5, subset_size=50, seed=3) == KID.compute(
        **sides, subsets=5, subset_size=50, seed=3
    )


def v_statistic(x: Array, y: Array, sigma: float) -> float:
    a, b = (z.astype(np.float64) / np.linalg.norm(z.astype(np.float64), axis=1, keepdims=True) for z in (x, y))

    def mean(u: NDArray[np.float64], v: NDArray[np.float64]) -> float:
        return float(np.exp(-((u[:, None] - v[None]) ** 2).sum(-1) / (2 * sigma**2)).mean())

    return 1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))


@pytest.mark.parametrize("sigma", [10.0, 0.7])
def test_cmmd_equals_the_v_statistic_in_float64(sigma: float) -> None:
    x, y = normal(9, 60, 12, shift=0.4), normal(10, 70, 12)
    score = CMMD.compute(generated=evidence(x, "embedding"), reference=evidence(y, "embedding"), sigma=sigma)
    assert score.value == pytest.approx(v_statistic(x, y, sigma), rel=2e-6)
    blocks = block_numbers(60)
    left = [v_statistic(x[blocks != b], y, sigma) for b in range(20)]
    error = of_jackknife(score.value, left)
    assert error is not None and score.stderr == pytest.approx(error.stderr, rel=1e-4)


def test_cmmd_of_a_set_with_itself_is_zero_and_of_opposite_points_its_bound() -> None:
    x = normal(11, 50, 6)
    same = CMMD.compute(generated=evidence(x, "embedding"), reference=evidence(x.copy(), "embedding"))
    assert abs(same.value) < 1e-6
    point = np.tile(np.array([[1, 0]], np.float32), (8, 1))
    far = CMMD.compute(generated=evidence(point, "embedding"), reference=evidence(-point, "embedding"))
    assert far.value == pytest.approx(2000 * (1 - math.exp(-0.02)), rel=1e-6)


@pytest.mark.parametrize(("metric", "tap"), [(KID, "pooled"), (CMMD, "embedding")], ids=["kid", "cmmd"])
def test_invariances_hold_and_are_complete(metric: Metric, tap: str) -> None:
    x, y = normal(12, 70, 6, shift=0.5), normal(13, 60, 6)
    rng = np.random.default_rng(14)
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0].astype(np.float32)
    value = metric.compute(generated=evidence(x, tap), reference=evidence(y, tap)).value
    changes = {
        "order": (x[rng.permutation(70)], y[rng.permutation(60)]),
        "translation": (x + 1, y + 1),
        "rotation": (x @ rotation, y @ rotation),
        "scale": (x * 2, y * 2),
    }
    for name, (a, b) in changes.items():
        changed = metric.compute(generated=evidence(a, tap), reference=evidence(b, tap)).value
        assert (changed == pytest.approx(value, rel=1e-4)) == (name in metric.invariances), name


@pytest.mark.parametrize(("metric", "tap"), [(KID, "pooled"), (CMMD, "embedding")], ids=["kid", "cmmd"])
def test_errors_match_the_spread_over_repetitions(metric: Metric, tap: str) -> None:
    reference = evidence(normal(15, 200, 8), tap)
    found = []
    for seed in range(60):
        score = metric.compute(generated=evidence(normal(100 + seed, 150, 8, shift=0.3), tap), reference=reference)
        assert score.stderr is not None
        found.append((score.value, score.stderr))
    values, errors = np.array(found).T
    assert 0.75 < np.sqrt((errors**2).mean()) / values.std(ddof=1) < 1.3


def test_kernel_less_one_keeps_digits_that_float32_loses() -> None:
    import torch

    close = gaussian_less_one(10.0)(torch.tensor([1 - 2.0**-20]))
    assert float(close) == pytest.approx(math.expm1(-(2.0**-20) / 100), rel=1e-6)


def test_errors_name_the_cause() -> None:
    x = evidence(normal(16, 10, 3))
    with pytest.raises(NotComparable, match="subsets=0"):
        KID.compute(generated=x, reference=x, subsets=3)
    with pytest.raises(UsageError, match="at least 2 images"):
        KID.compute(generated=x, reference=x, subsets=3, subset_size=1)
    with pytest.raises(NotComparable, match="widths 3 and 2"):
        KID.compute(generated=x, reference=evidence(normal(17, 10, 2)))
    with pytest.raises(InputRejected, match="not finite"):
        KID.compute(generated=evidence(np.full((10, 3), np.inf, np.float32)), reference=x)
    with pytest.raises(InputRejected, match="length 0"):
        zero = evidence(np.zeros((4, 3), np.float32), "embedding")
        CMMD.compute(generated=zero, reference=zero)
    with pytest.raises(UsageError, match="sigma"):
        CMMD.compute(generated=x, reference=x, sigma=0.0)
    with pytest.raises(UsageError, match="embedding"):
        CMMD.compute(generated=x, reference=x)


def test_counting_pairs_gives_what_every_subset_alone_gives() -> None:
    """Many subsets share one kernel matrix, few are computed one by one; the draws are the same."""
    rng = np.random.default_rng(3)
    x, y = (rng.normal(size=(n, 16)).astype(np.float32) for n in (120, 90))
    many = kernel.subset_discrepancies(x, y, subsets=60, subset_size=40, seed=5)
    few = kernel.subset_discrepancies(x, y, subsets=2, subset_size=40, seed=5)
    assert 120**2 + 90**2 + 120 * 90 < 3 * 60 * 40**2 and not 120**2 + 90**2 + 120 * 90 < 3 * 2 * 40**2
    np.testing.assert_allclose(many[:2], few, rtol=1e-9)


def test_kid_of_heavy_tails_has_no_error_and_says_so() -> None:
    rng = np.random.default_rng(4)
    x, y = (rng.standard_t(2.5, size=(1000, 8)).astype(np.float32) for _ in range(2))
    found = KID.compute(generated=evidence(x), reference=evidence(y))
    assert found.ci95 is None and found.blocks is None and str(found.error_method).startswith("none: the features have")
    light = KID.compute(generated=evidence(normal(1, 1000, 8)), reference=evidence(normal(2, 1000, 8)))
    assert light.ci95 is not None and light.blocks is not None and len(light.blocks.left_out) == 20
    subsets = KID.compute(
        generated=evidence(normal(1, 1000, 8)), reference=evidence(normal(2, 1000, 8)), subsets=9, subset_size=100
    )
    assert subsets.ci95 is not None and subsets.blocks is None
