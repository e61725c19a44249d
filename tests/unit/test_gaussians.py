"""Frechet distances and influences against closed forms and against float64 oracles that share no code with them."""

from __future__ import annotations

import math
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from genbench.arrays import Features, Moments
from genbench.errors import InputRejected, NotComparable
from genbench.gaussians import (
    Factored,
    Fit,
    distances_without_each_block,
    distances_without_each_image,
    factored,
    factored_rows,
    fit_of,
    fit_of_rows,
    frechet_distance,
    influence,
    moments_of,
    without,
)
from genbench.uncertainty import block_numbers

Array = NDArray[np.float64]


def features(values: NDArray[np.floating]) -> Features:
    return Features(extractor="test", tap="pooled", array=np.asarray(values, dtype=np.float32))


def gaussian(mean: Array, covariance: Array, count: int = 1000) -> Moments:
    return Moments(count=count, mean=mean, scatter=covariance * (count - 1))


def covariance(seed: int, d: int) -> Array:
    x = np.random.default_rng(seed).normal(size=(2 * d, d))
    return x.T @ x / d + 0.1 * np.eye(d)


def root(symmetric: Array) -> Array:
    values, vectors = np.linalg.eigh(symmetric)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def oracle(mean: Array, cov: Array, mean_r: Array, cov_r: Array) -> float:
    """The definition, with the product's own (asymmetric) square root."""
    cross = np.trace(sqrtm(cov @ cov_r).real)
    return float(((mean - mean_r) ** 2).sum() + np.trace(cov) + np.trace(cov_r) - 2 * cross)


def distance(a: Fit, b: Fit) -> float:
    return frechet_distance(generated=a, reference=b).value


def correlated(seed: int, n: int, d: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / math.sqrt(d) + rng.normal(size=d)).astype(np.float32)


def test_equal_covariances_leave_the_distance_of_the_means() -> None:
    cov, shift = covariance(0, 12), np.linspace(-1, 2, 12)
    found = frechet_distance(generated=gaussian(shift, cov), reference=gaussian(np.zeros(12), cov, count=77))
    assert found.value == pytest.approx((shift**2).sum(), rel=1e-12)
    assert found.detail["mean_term"] == pytest.approx((shift**2).sum(), rel=1e-14)
    assert found.detail["covariance_term"] == pytest.approx(0, abs=1e-12)


def test_diagonal_gaussians_differ_by_their_deviations() -> None:
    s, t = np.linspace(0.1, 3, 9), np.linspace(2, 0.3, 9)
    found = frechet_distance(
        generated=gaussian(np.ones(9), np.diag(s**2)), reference=gaussian(np.zeros(9), np.diag(t**2))
    )
    assert found.value == pytest.approx(9 + ((s - t) ** 2).sum(), rel=1e-12)
    assert found.detail["covariance_term"] == pytest.approx(((s - t) ** 2).sum(), rel=1e-12)


def test_scaled_covariance_has_the_closed_form() -> None:
    """(1 - c)^2 tr S between S and c^2 S, for any S."""
    cov = covariance(4, 15)
    found = distance(gaussian(np.zeros(15), cov), gaussian(np.zeros(15), 6.25 * cov))
    assert found == pytest.approx((1 - 2.5) ** 2 * np.trace(cov), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_definition(seed: int) -> None:
    cov, cov_r = covariance(seed, 20), covariance(seed + 50, 20)
    expected = oracle(np.ones(20), cov, np.zeros(20), cov_r)
    a, b = gaussian(np.ones(20), cov), gaussian(np.zeros(20), cov_r)
    assert distance(a, b) == pytest.approx(expected, rel=1e-11)
    assert distance(b, a) == pytest.approx(expected, rel=1e-11)
    assert distance(a, factored(b)) == pytest.approx(expected, rel=1e-11)
    assert distance(factored(a), factored(b)) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize(("n", "m"), [(300, 200), (17, 200), (200, 17), (17, 11), (24, 25), (25, 24), (2, 200), (2, 2)])
def test_few_images_give_the_same_number_in_every_form(n: int, m: int) -> None:
    """24 features; an oracle by two symmetric roots, as precise as eigenvalues near 0 allow."""
    x, y = correlated(1, n, 24), correlated(2, m, 24)
    a, b = x.astype(np.float64), y.astype(np.float64)
    half = root(np.cov(b, rowvar=False))
    values = np.linalg.eigvalsh(half @ np.cov(a, rowvar=False) @ half).clip(0)
    traces = np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * np.sqrt(values).sum()
    exact = distance(fit_of(features(x)), fit_of(features(y)))
    assert exact == pytest.approx(expected, rel=1e-7)
    for other in (
        distance(moments_of(features(x)), moments_of(features(y))),
        distance(moments_of(features(x)), fit_of(features(y))),
        distance(fit_of(features(x)), factored(moments_of(features(y)))),
        distance(fit_of(features(y)), fit_of(features(x))),
    ):
        assert other == pytest.approx(exact, rel=1e-11)
    detail = frechet_distance(generated=fit_of(features(x)), reference=fit_of(features(y))).detail
    assert detail["rank_deficient"] == float(min(n, m) <= 24)


@pytest.mark.parametrize(("n", "d"), [(100, 30), (30, 100), (31, 30), (30, 30)])
def test_distance_to_itself_is_zero(n: int, d: int) -> None:
    f = features(correlated(7, n, d))
    assert distance(fit_of(f), fit_of(f)) == 0.0
    # The same fit in two forms: no shortcut applies, and rounding alone remains.
    assert abs(distance(moments_of(f), factored_rows(f.values()))) < 1e-10
    assert abs(distance(factored(moments_of(f)), factored_rows(f.values()))) < 1e-10


def test_dependent_and_dead_features_are_no_obstacle() -> None:
    """Copies, sums and constants among the features, as rectified spatial features have them: the closed form holds."""
    rng = np.random.default_rng(0)
    base, base_r = rng.normal(size=(500, 6)), rng.normal(size=(400, 6)) * 2 + 1

    def widen(x: Array) -> Array:
        return np.concatenate(
            [x, x[:, :3], x.sum(1, keepdims=True), np.zeros((len(x), 4)), np.ones((len(x), 1))], axis=1
        )

    a, b = widen(base), widen(base_r)
    # An isometric copy: 15 features are a linear map of 6, whose polar factor keeps all distances.
    mix = widen(np.eye(6))[:, :10] - widen(np.zeros((6, 6)))[:, :10]
    stretch = root(mix @ mix.T)
    narrow = distance(Moments.of(base @ stretch), Moments.of(base_r @ stretch))
    assert distance(Moments.of(a), Moments.of(b)) == pytest.approx(narrow, rel=1e-10)
    assert distance(Moments.of(b), Moments.of(a)) == pytest.approx(narrow, rel=1e-10)
    assert distance(Moments.of(a), factored(Moments.of(b))) == pytest.approx(narrow, rel=1e-10)


@pytest.mark.parametrize("seed", range(12))
def test_one_dependent_feature_is_seen_although_cholesky_may_not_fail(seed: int) -> None:
    """Rounding gives the last pivot either sign; the factor must not keep its root, which is noise of 1e-8."""
    rng = np.random.default_rng(seed)
    base, other = rng.normal(size=(60, 4)), rng.normal(size=(60, 5))
    dependent = Moments.of(np.concatenate([base, base.sum(1, keepdims=True)], axis=1))
    assert len(factored(dependent).factor) == 4
    half = root(Moments.of(other).covariance)
    values = np.linalg.eigvalsh(half @ dependent.covariance @ half)[1:]
    traces = np.trace(dependent.covariance) + np.trace(Moments.of(other).covariance)
    expected = ((dependent.mean - other.mean(0)) ** 2).sum() + traces - 2 * np.sqrt(values).sum()
    assert distance(Moments.of(other), dependent) == pytest.approx(expected, rel=1e-12)
    assert distance(dependent, Moments.of(other)) == pytest.approx(expected, rel=1e-12)


def test_dead_features_leave_the_rest_to_cholesky() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    alive = factored(Moments.of(x))
    found = factored(Moments.of(np.stack([x[:, 0], x[:, 0] * 0, x[:, 1], x[:, 2]], axis=1)))
    np.testing.assert_allclose(found.factor, np.insert(alive.factor, 1, 0, axis=1), atol=1e-15)


def test_the_form_follows_the_number_of_images() -> None:
    assert isinstance(fit_of(features(correlated(0, 7, 7))), Factored)
    assert isinstance(fit_of(features(correlated(0, 8, 7))), Moments)


def test_constant_features_have_their_means_only() -> None:
    point, cloud = Moments.of(np.full((5, 3), 2.0)), Moments.of(np.random.default_rng(0).normal(size=(50, 3)))
    assert distance(point, Moments.of(np.zeros((9, 3)))) == pytest.approx(12)
    expected = ((cloud.mean - 2) ** 2).sum() + np.trace(cloud.covariance)
    assert distance(point, cloud) == pytest.approx(expected)
    assert distance(cloud, point) == pytest.approx(expected)
    assert distance(factored_rows(np.full((2, 3), 2.0)), factored(point)) == 0.0


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_units_scale_the_distance_by_their_square(scale: float) -> None:
    x, y = correlated(3, 200, 10).astype(np.float64), correlated(4, 200, 10).astype(np.float64)
    unit = distance(Moments.of(x), Moments.of(y))
    assert distance(Moments.of(x * scale), Moments.of(y * scale)) == pytest.approx(unit * scale**2, rel=1e-10)


@pytest.mark.parametrize("exponent", [4, 8, 12, 16])
def test_ill_conditioned_covariances_keep_their_digits(exponent: int) -> None:
    """Commuting covariances with spectra over many decades, rotated: sum (s - t)^2 in closed form."""
    d = 30
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(d, d)))[0]
    s, t = np.logspace(0, -exponent / 2, d), 1.5 * np.logspace(-0.1, -exponent / 2, d)
    a = gaussian(np.zeros(d), (turn * s**2) @ turn.T)
    b = gaussian(np.zeros(d), (turn * t**2) @ turn.T)
    assert distance(a, b) == pytest.approx(((s - t) ** 2).sum(), rel=1e-7)
    assert distance(b, a) == pytest.approx(((s - t) ** 2).sum(), rel=1e-7)


def test_a_factor_gives_back_its_covariance() -> None:
    fit = gaussian(np.arange(8.0), covariance(2, 8))
    upper = factored(fit)
    assert upper.triangular and np.array_equal(upper.factor, np.triu(upper.factor))
    np.testing.assert_allclose(upper.factor.T @ upper.factor, fit.covariance, rtol=1e-12)
    x = correlated(0, 9, 20)
    few = factored_rows(x)
    assert few.factor.shape == (8, 20)
    np.testing.assert_allclose(few.factor.T @ few.factor, np.cov(x.astype(np.float64), rowvar=False), atol=1e-13)
    assert factored(few) is few


def test_different_widths_are_refused() -> None:
    with pytest.raises(NotComparable, match="widths 3 and 4"):
        distance(gaussian(np.zeros(3), np.eye(3)), gaussian(np.zeros(4), np.eye(4)))


@pytest.mark.parametrize("n", [3, 30])
def test_features_that_are_not_finite_are_refused(n: int) -> None:
    values = correlated(0, n, 6)
    for bad in (np.nan, np.inf):
        values[1, 2] = bad
        with pytest.raises(InputRejected, match="not finite"):
            fit_of(features(values))


def test_one_image_is_refused() -> None:
    with pytest.raises(InputRejected, match="at least 2 images; got 1"):
        fit_of(features(np.zeros((1, 4))))


def test_moments_do_not_depend_on_order_or_blocks() -> None:
    x = correlated(5, 9000, 12) + 100  # three blocks, and a mean far from zero
    found, shuffled = moments_of(features(x)), moments_of(features(x[np.random.default_rng(0).permutation(9000)]))
    np.testing.assert_allclose(found.covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.mean, shuffled.mean, rtol=1e-14)
    np.testing.assert_allclose(found.scatter, shuffled.scatter, rtol=1e-11, atol=1e-9)


def test_moments_need_memory_that_does_not_grow(tmp_path: Path) -> None:
    peaks = []
    for n in (8192, 65536):
        path = tmp_path / f"{n}.npy"
        np.save(path, np.random.default_rng(0).normal(size=(n, 16)).astype(np.float32))
        stored = Features(extractor="test", tap="pooled", path=path)
        tracemalloc.start()
        moments_of(stored)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_rows_of_a_subset_are_fitted() -> None:
    x, chosen = correlated(5, 6000, 8), np.arange(0, 6000, 7)
    found = fit_of_rows(features(x), chosen)
    assert isinstance(found, Moments)
    np.testing.assert_allclose(found.scatter, Moments.of(x[chosen]).scatter, rtol=1e-12)
    assert isinstance(fit_of_rows(features(x), chosen[:5]), Factored)


def test_taking_a_part_out_undoes_adding_it() -> None:
    x = correlated(6, 120, 7).astype(np.float64)
    found = without(Moments.of(x), Moments.of(x[30:50]))
    expected = Moments.of(np.delete(x, range(30, 50), axis=0))
    assert found.count == 100
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.scatter, expected.scatter, rtol=1e-11, atol=1e-11)


def _refitted(x: NDArray[np.float32], reference: Fit, blocks: int) -> list[float]:
    """The distances of fits to what is left, made anew."""
    numbers = block_numbers(len(x), blocks)
    return [distance(fit_of(features(x[numbers != k])), reference) for k in range(min(blocks, len(x)))]


@pytest.mark.parametrize("blocks", [20, 7])
@pytest.mark.parametrize(
    ("n", "d", "m"), [(2500, 6, 300), (15, 6, 4), (30, 40, 200), (30, 40, 11), (40, 40, 60), (3, 9, 20)]
)
def test_distances_without_each_block_are_those_of_fits_to_the_rest(n: int, d: int, m: int, blocks: int) -> None:
    x, reference = correlated(8, n, d), factored(fit_of(features(correlated(9, m, d))))
    found = distances_without_each_block(features(x), generated=fit_of(features(x)), reference=reference, blocks=blocks)
    assert len(found) == min(blocks, n)
    np.testing.assert_allclose(found, _refitted(x, reference, blocks), rtol=3e-6 if m < n <= d else 1e-8)


@pytest.mark.parametrize(
    ("n", "d", "m"), [(60, 6, 90), (8, 6, 90), (7, 6, 90), (60, 6, 4), (30, 40, 90), (40, 10, 8), (25, 30, 20)]
)
@pytest.mark.parametrize("dead", [False, True])
def test_distances_without_each_image_are_those_of_fits_to_the_rest(n: int, d: int, m: int, dead: bool) -> None:
    x, y = correlated(8, n, d), correlated(9, m, d)
    x[2] *= 9  # an image that is much of the covariance
    if dead:
        x[:, 1] = y[:, 1] = 2.0
    fit, reference = fit_of(features(x)), factored(fit_of(features(y)))
    found = distances_without_each_image(features(x), generated=fit, reference=reference)
    expected = [distance(fit_of(features(np.delete(x, i, axis=0))), reference) for i in range(n)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # What counts is the change, which is smaller than the distance.
    whole = distance(fit, reference)
    assert np.abs(found - expected).max() < 1e-3 * np.abs(np.array(expected) - whole).max()


def test_distances_of_few_images_to_a_reference_that_is_not_factored_and_with_copies_among_them() -> None:
    """Copies and a feature without variance: eigenvalues that are zero before, and others that become so."""
    x = correlated(8, 30, 40)
    x[:8], x[:, 3] = x[8:16], 1.0
    reference = moments_of(features(correlated(9, 200, 40)))
    found = distances_without_each_block(features(x), generated=fit_of(features(x)), reference=reference)
    np.testing.assert_allclose(found, _refitted(x, reference, 20), rtol=3e-6)
    # A spectrum over eight decades, as that of the features of a network.
    x = (correlated(8, 50, 80) * np.logspace(0, -4, 80)).astype(np.float32)
    reference = moments_of(features(correlated(9, 200, 80) * np.logspace(0, -4, 80)))
    found = distances_without_each_block(features(x), generated=fit_of(features(x)), reference=reference)
    np.testing.assert_allclose(found, _refitted(x, reference, 20), rtol=3e-6)


def test_distances_of_constant_images_are_those_of_their_mean_and_the_trace() -> None:
    reference = gaussian(np.zeros(9), covariance(1, 9))
    found = distances_without_each_block(
        features(np.full((6, 9), 2.0)), generated=factored_rows(np.full((6, 9), 2.0)), reference=reference
    )
    np.testing.assert_allclose(found, 36 + np.trace(covariance(1, 9)), rtol=1e-12)


@pytest.mark.parametrize("m", [300, 5])
def test_influence_is_the_derivative_of_the_distance(m: int) -> None:
    """Central differences as mass moves to one image; also for a reference of fewer images than features."""
    x, y = features(correlated(1, 60, 8)), features(correlated(2, m, 8))
    fit, target = moments_of(x), fit_of(y)
    found = influence(x, generated=fit, reference=target)
    step = 1e-6
    for i in range(0, 60, 7):
        away = x.values()[i].astype(np.float64) - fit.mean
        towards = np.outer(away, away) - fit.covariance
        plus, minus = (
            distance(gaussian(fit.mean + e * away, fit.covariance + e * towards, 60), target) for e in (step, -step)
        )
        assert found[i] == pytest.approx((plus - minus) / (2 * step), rel=1e-4, abs=1e-4)


def test_influence_of_diagonal_gaussians_has_the_closed_form() -> None:
    """Variance sum 4 delta^2 s^2 + 2 (1 - t/s)^2 s^4, by the moments of a normal distribution."""
    s, t, delta = np.array([1.0, 2.0, 0.5]), np.array([2.0, 1.0, 0.5]), np.array([0.3, 0.0, 1.0])
    x = features(np.random.default_rng(0).normal(size=(100_000, 3)) * s + delta)
    found = influence(x, generated=moments_of(x), reference=gaussian(np.zeros(3), np.diag(t**2)))
    expected = (4 * delta**2 * s**2 + 2 * (1 - t / s) ** 2 * s**4).sum()
    assert found.mean() == pytest.approx(0, abs=1e-3)
    assert found.var() == pytest.approx(expected, rel=0.03)


def test_influence_ignores_directions_without_variance() -> None:
    x, y = correlated(1, 200, 5), correlated(2, 200, 5)
    wide, wide_r = (np.concatenate([v, v[:, :1] * 0 + 3], axis=1) for v in (x, y))
    compute = partial(influence, features(x), generated=moments_of(features(x)))
    widened = influence(features(wide), generated=moments_of(features(wide)), reference=moments_of(features(wide_r)))
    np.testing.assert_allclose(widened, compute(reference=moments_of(features(y))), rtol=1e-9, atol=1e-9)
    flat = influence(features(x), generated=moments_of(features(x)), reference=Moments.of(np.zeros((9, 5))))
    away = x - moments_of(features(x)).mean
    expected = 2 * away @ moments_of(features(x)).mean + (away**2).sum(1)
    np.testing.assert_allclose(flat, expected - expected.mean() * 200 / 199, rtol=1e-5, atol=1e-4)
