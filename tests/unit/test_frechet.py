"""The Frechet metrics: what they compare, their error bars, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from made_up import evidence, normal
from numpy.typing import NDArray

from genbench.arrays import Evidence, Moments, Samples, Statistics
from genbench.contracts import Metric
from genbench.errors import InputRejected, NotComparable, UsageError
from genbench.gaussians import fit_of, frechet_distance
from genbench.metrics.frechet import FD, FID, FID_INF, MIFID, PER_CLASS_FID, SFID
from genbench.uncertainty import Uncertainty, block_numbers, block_sizes, of_deletion, of_jackknife

Values = NDArray[np.float32]


def distance(x: Values, y: Values) -> float:
    """By the definition, with a symmetric square root."""
    a, b = np.cov(x.astype(np.float64), rowvar=False), np.cov(y.astype(np.float64), rowvar=False)
    values, vectors = np.linalg.eigh(b)
    half = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(half @ a @ half).clip(0)).sum()
    apart = ((x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)) ** 2).sum()
    return float(apart + np.trace(a) + np.trace(b) - 2 * cross)


@pytest.mark.parametrize(("metric", "tap"), [(FID, "pooled"), (FD, "pooled"), (SFID, "spatial")])
def test_distance_of_the_right_features(metric: Metric, tap: str) -> None:
    x, y = normal(0, 200, 10, 1.5), normal(1, 150, 10, 1.0, 0.4)
    found = metric.compute(generated=evidence(x, tap=tap), reference=evidence(y, tap=tap))
    assert found.value == pytest.approx(distance(x, y), rel=1e-9)
    assert found.error_method == "jackknife" and found.detail["rank_deficient"] == 0.0
    assert found.detail["mean_term"] + found.detail["covariance_term"] == pytest.approx(found.value)
    assert metric.taps == (tap,)
    assert found.ci95 is not None and 0 <= found.ci95[0] < found.value < found.ci95[1]


def test_few_images_are_compared_by_jackknife() -> None:
    x, y = normal(0, 30, 40, 1.5), normal(1, 150, 40)
    found = FID.compute(generated=evidence(x), reference=evidence(y))
    assert found.value == pytest.approx(distance(x, y), rel=1e-6)
    assert found.error_method == "jackknife" and found.detail["rank_deficient"] == 1.0
    with pytest.raises(NotComparable, match="got 30 of width 40"):
        FID.compute(generated=evidence(x), reference=evidence(y), error="influence")


def test_error_of_few_images_is_that_of_distances_without_each_block() -> None:
    x, y = normal(0, 30, 40, 1.5), normal(1, 150, 40)
    numbers = block_numbers(30)
    left_out = [distance(x[numbers != k], y) for k in range(20)]
    expected = of_jackknife(distance(x, y), left_out, block_sizes(30))
    found = FID.compute(generated=evidence(x), reference=evidence(y), error="jackknife")
    assert isinstance(expected, Uncertainty) and found.stderr == pytest.approx(expected.stderr, rel=1e-6)
    assert found.error_method == "jackknife-20"
    each = of_deletion(distance(x, y), [distance(np.delete(x, i, axis=0), y) for i in range(30)])
    plain = FID.compute(generated=evidence(x), reference=evidence(y))
    assert isinstance(each, Uncertainty) and plain.stderr == pytest.approx(each.stderr, rel=1e-6)
    unpunished = MIFID.compute(generated=evidence(x), reference=evidence(y), threshold=0.0)
    assert unpunished.stderr == pytest.approx(each.stderr, rel=1e-6)


def test_error_of_few_images_is_the_deviation_over_repetitions() -> None:
    y = evidence(normal(0, 2000, 40))
    scores = [FID.compute(generated=evidence(normal(9 + i, 25, 40, 1.3, 0.2)), reference=y) for i in range(120)]
    assert scores[0].error_method == "jackknife"
    deviation = np.std([s.value for s in scores], ddof=1)
    assert np.mean([s.stderr for s in scores]) == pytest.approx(deviation, rel=0.25)  # deviation 6.5 %


def test_two_images_have_a_distance_and_no_error() -> None:
    y = evidence(normal(0, 50, 4))
    for x in (normal(1, 2, 4), normal(1, 2, 2)):
        found = FID.compute(generated=evidence(x), reference=evidence(y.features().values()[:, : x.shape[1]]))
        assert math.isfinite(found.value) and found.stderr is None and found.ci95 is None
        assert found.error_method == "none: 2 images are too few to leave one out; 4 are needed"
    narrow = FID.compute(generated=evidence(normal(1, 2, 1)), reference=evidence(normal(0, 9, 1)), error="jackknife")
    assert narrow.stderr is None
    assert MIFID.compute(generated=evidence(normal(1, 2, 4)), reference=y).stderr is None


@pytest.mark.parametrize("shape", [(80, 6), (25, 40)])
def test_distance_of_a_set_to_itself_is_exactly_zero_with_an_error(shape: tuple[int, int]) -> None:
    x = normal(0, *shape)
    found = FID.compute(generated=evidence(x), reference=evidence(x), error="jackknife")
    assert found.value == 0.0 and found.stderr is not None and math.isfinite(found.stderr)


@pytest.mark.parametrize("metric", [FID, MIFID, FID_INF])
def test_distance_of_a_set_to_itself_is_zero(metric: Metric) -> None:
    x = normal(0, 80, 6)
    found = metric.compute(generated=evidence(x), reference=evidence(x))
    if metric is FID_INF:
        assert found.detail["fid"] == 0.0 and found.value < 0  # the bias is taken off although there is none
    else:
        assert found.value == 0.0


@pytest.mark.parametrize(
    ("metric", "invariance"), [(m, name) for m in (FID, FID_INF, MIFID) for name in sorted(m.invariances)]
)
def test_invariances_hold(metric: Metric, invariance: str) -> None:
    x, y = normal(0, 200, 8, 1.3, 0.2), normal(1, 300, 8)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(8, 8)))[0]
    changes: dict[str, Callable[[Values], NDArray[np.floating]]] = {
        "order": lambda v: v[np.random.default_rng(3).permutation(len(v))],
        "translation": lambda v: v + np.float32(4.0),
        "rotation": lambda v: v @ turn,
    }
    options: dict[str, str] = {}
    before = metric.compute(generated=evidence(x), reference=evidence(y), **options)
    after = metric.compute(
        generated=evidence(changes[invariance](x)), reference=evidence(changes[invariance](y)), **options
    )
    assert after.value == pytest.approx(before.value, rel=1e-5)


def test_influence_agrees_with_jackknife_and_with_the_analytic_error() -> None:
    """n Var = sum 4 delta^2 s^2 + 2 (1 - t/s)^2 s^4 for diagonal Gaussians of deviations s, t and means delta apart."""
    s, t, delta, n = np.array([1.0, 1.5, 0.7]), 1.0, np.array([0.5, 0.0, -0.3]), 20_000
    x = np.random.default_rng(0).normal(size=(n, 3)) * s + delta
    y = np.random.default_rng(1).normal(size=(200_000, 3)) * t
    analytic = math.sqrt((4 * delta**2 * s**2 + 2 * (1 - t / s) ** 2 * s**4).sum() / n)
    sides = {"generated": evidence(x), "reference": evidence(y)}
    errors = [FID.compute(**sides, error=error).stderr for error in ("influence", "jackknife")]
    assert errors[0] == pytest.approx(analytic, rel=0.03)
    assert errors[1] == pytest.approx(analytic, rel=0.4)  # 19 degrees of freedom: deviation 16 %


def test_error_is_the_deviation_over_repetitions() -> None:
    y = evidence(normal(0, 5000, 6))
    scores = [FID.compute(generated=evidence(normal(9 + i, 400, 6, 1.3, 0.2)), reference=y) for i in range(120)]
    deviation = np.std([s.value for s in scores], ddof=1)
    assert np.mean([s.stderr for s in scores]) == pytest.approx(deviation, rel=0.2)  # deviation 6.5 %
    assert {s.error_method for s in scores} == {"jackknife"}


@pytest.mark.parametrize("error", ["influence", "jackknife"])
def test_error_bars_shrink_with_the_root_of_n(error: str) -> None:
    y = evidence(normal(0, 5000, 5))
    small, large = (
        np.mean(
            [
                FID.compute(generated=evidence(normal(i, n, 5, 1.4, 0.3)), reference=y, error=error).stderr
                for i in range(12)
            ]
        )
        for n in (400, 6400)
    )
    assert small / large == pytest.approx(4, rel=0.15)


def test_no_error_bar_where_none_is_asked_for() -> None:
    found = FID.compute(generated=evidence(normal(0, 50, 4)), reference=evidence(normal(1, 50, 4)), error="none")
    assert found.stderr is None and found.ci95 is None and found.error_method is None


def test_wrong_arguments_are_refused() -> None:
    x = evidence(normal(0, 50, 4))
    with pytest.raises(UsageError, match="No error method 'bootstrap'"):
        FID.compute(generated=x, reference=x, error="bootstrap")
    with pytest.raises(NotComparable, match="test and other"):
        FID.compute(generated=x, reference=evidence(normal(0, 50, 4), extractor="other"))
    with pytest.raises(UsageError, match="'spatial' was not extracted"):
        SFID.compute(generated=x, reference=x)


def _true_and_reference(d: int) -> tuple[float, Evidence]:
    y = normal(0, 4000, d)
    law = Moments(count=10**9, mean=np.full(d, 0.1), scatter=np.eye(d) * 1.44 * (10**9 - 1))
    return frechet_distance(generated=law, reference=fit_of(evidence(y).features())).value, evidence(y)


@pytest.mark.parametrize("method", ["jackknife", "line"])
def test_fid_at_infinity_is_that_of_the_law(method: str) -> None:
    """Eight images a feature: the plug-in is far off, the extrapolation is centred on the truth."""
    true, y = _true_and_reference(16)
    scores = [
        FID_INF.compute(generated=evidence(normal(i + 1, 128, 16, 1.2, 0.1)), reference=y, method=method, seed=i)
        for i in range(60)
    ]
    values = np.array([s.value for s in scores])
    plain = np.mean([s.detail["fid"] for s in scores])
    assert plain - true > 0.7
    assert abs(values.mean() - true) < 0.15
    assert np.mean([s.detail["slope"] for s in scores]) == pytest.approx((plain - true) * 128, rel=0.15)


def test_error_of_fid_at_infinity_is_the_deviation_over_repetitions() -> None:
    """Laws far apart, where the first order decides; the line has no sound error."""
    y = evidence(normal(0, 4000, 4))
    scores = [FID_INF.compute(generated=evidence(normal(i + 1, 200, 4, 2.0, 1.0)), reference=y) for i in range(150)]
    deviation = np.std([s.value for s in scores], ddof=1)
    assert np.mean([s.stderr for s in scores]) == pytest.approx(deviation, rel=0.15)  # deviation 6 %
    line = FID_INF.compute(generated=evidence(normal(1, 200, 4, 2.0, 1.0)), reference=y, method="line")
    assert line.ci95 is None and str(line.error_method).startswith("none: no sound error of a line")


def test_line_of_fid_at_infinity_follows_its_seed() -> None:
    _, y = _true_and_reference(4)
    x = evidence(normal(5, 200, 4, 1.2, 0.1))
    first, again, other = (FID_INF.compute(generated=x, reference=y, method="line", seed=s).value for s in (1, 1, 2))
    assert first == again != other


def test_fid_at_infinity_needs_four_images_a_feature() -> None:
    y = evidence(normal(0, 500, 10))
    with pytest.raises(NotComparable, match="40 for width 10; got 39"):
        FID_INF.compute(generated=evidence(normal(1, 39, 10)), reference=y)
    assert FID_INF.compute(generated=evidence(normal(1, 40, 10)), reference=y).stderr is not None
    with pytest.raises(UsageError, match="10 < smallest < 50"):
        FID_INF.compute(generated=evidence(normal(1, 50, 10)), reference=y, method="line", smallest=9)
    with pytest.raises(UsageError, match="No method 'sobol'"):
        FID_INF.compute(generated=evidence(normal(1, 50, 10)), reference=y, method="sobol")


def test_fid_per_class_is_the_mean_over_classes() -> None:
    """Two classes that generated images swap: no plain FID sees it, every class does."""
    means = np.array([[-3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    labels = [i % 2 for i in range(400)]
    y = normal(0, 400, 3) + means[labels]
    x = normal(1, 400, 3) + means[::-1][labels]
    sides = {"generated": evidence(x, labels=labels), "reference": evidence(y, labels=labels)}
    found = PER_CLASS_FID.compute(**sides)
    parts = [FID.compute(generated=evidence(x[k::2]), reference=evidence(y[k::2])) for k in range(2)]
    assert found.value == pytest.approx(np.mean([p.value for p in parts]), rel=1e-12)
    assert found.detail == {"class_0": pytest.approx(parts[0].value), "class_1": pytest.approx(parts[1].value)}
    assert found.stderr == pytest.approx(math.hypot(*(p.stderr or 0.0 for p in parts)) / 2, rel=1e-12)
    assert found.value > 30 and FID.compute(**sides).value < 1


def test_fid_per_class_names_classes_and_says_what_is_missing() -> None:
    x, y = normal(0, 9, 2), normal(1, 10, 2)
    named = Samples.of(
        np.zeros((10, 1, 1, 1), np.uint8), labels=np.array([0, 1] * 5, dtype=np.int64), classes=("cat", "dog")
    )
    reference = Evidence(samples=named, taps=evidence(y).taps)
    found = PER_CLASS_FID.compute(generated=evidence(x, labels=[0] * 4 + [1] * 5), reference=reference)
    assert set(found.detail) == {"class_cat", "class_dog"}
    with pytest.raises(NotComparable, match="class 'dog' has 1 generated and 5 reference images"):
        PER_CLASS_FID.compute(generated=evidence(x, labels=[0] * 8 + [1]), reference=reference)
    pairs = PER_CLASS_FID.compute(generated=evidence(x, labels=[0] * 7 + [1] * 2), reference=reference)
    assert math.isfinite(pairs.value) and pairs.stderr is None and pairs.ci95 is None
    assert pairs.error_method == "none: of class 'dog', 2 images are too few to leave one out; 4 are needed"
    with pytest.raises(InputRejected, match="labels on both sides"):
        PER_CLASS_FID.compute(generated=evidence(x), reference=reference)


def _mean_of_nearest(x: Values, y: Values) -> float:
    a, b = (v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1)[:, None] for v in (x, y))
    return float((1 - np.abs(a @ b.T)).min(axis=1).mean())


@pytest.mark.parametrize("over", ["reference", "generated"])
def test_mifid_divides_by_the_distance_to_the_nearest(over: str) -> None:
    y = normal(0, 120, 8)
    x = np.concatenate([y[:40] + normal(1, 40, 8, 0.2), normal(2, 20, 8, 1.5)])
    nearest = _mean_of_nearest(y, x) if over == "reference" else _mean_of_nearest(x, y)
    found = MIFID.compute(generated=evidence(x), reference=evidence(y), over=over, threshold=1.0)
    assert found.detail["nearest"] == pytest.approx(nearest, rel=1e-12)
    assert found.value == pytest.approx(distance(x, y) / nearest, rel=1e-9)
    unpunished = MIFID.compute(generated=evidence(x), reference=evidence(y), over=over, threshold=nearest * 0.99)
    assert unpunished.value == pytest.approx(distance(x, y), rel=1e-9)


def test_mifid_of_copies_explodes() -> None:
    y = normal(0, 100, 5)
    copies = MIFID.compute(generated=evidence(y[:60]), reference=evidence(y), over="generated")
    assert copies.detail["nearest"] < 1e-12 and copies.value > 1e6


@pytest.mark.parametrize("over", ["reference", "generated"])
def test_error_of_mifid_leaves_blocks_out_of_both_terms(over: str) -> None:
    """Against recomputing the whole metric without each image."""
    y, n = normal(0, 60, 4), 15
    x = y[:n] + normal(1, n, 4, 0.5)
    x[3] = 0  # without a direction
    options = {"over": over, "threshold": 1.0}

    def value(kept: NDArray[np.int64] | slice) -> float:
        return MIFID.compute(generated=evidence(x[kept]), reference=evidence(y), error="none", **options).value

    left_out = np.array([value(np.delete(np.arange(n), i)) for i in range(n)])
    found = MIFID.compute(generated=evidence(x), reference=evidence(y), blocks=n, **options)
    assert found.value == pytest.approx(value(slice(None)))
    expected = math.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum())
    assert found.stderr == pytest.approx(expected, rel=1e-9)


def test_mifid_without_any_direction_punishes_nothing() -> None:
    x, y = np.zeros((6, 3), np.float32), normal(1, 30, 3)
    for over in ("generated", "reference"):
        found = MIFID.compute(generated=evidence(x), reference=evidence(y), over=over)
        assert found.detail["nearest"] == 1.0 and found.value == pytest.approx(found.detail["fid"])


def test_intervals_are_symmetric_on_the_logarithm_of_the_distance() -> None:
    x, y = evidence(normal(1, 60, 4, 1.6, 0.3)), evidence(normal(0, 400, 4))
    plain = FID.compute(generated=x, reference=y, error="jackknife")
    low, high = plain.ci95 or (0.0, 0.0)
    assert low * high == pytest.approx(plain.value**2)
    assert math.log(high / plain.value) == pytest.approx(2.093024 * (plain.stderr or 0.0) / plain.value, rel=0.02)
    each = FID.compute(generated=x, reference=y)
    low, high = each.ci95 or (0.0, 0.0)
    moved = FID_INF.compute(generated=x, reference=y)
    assert moved.ci95 == pytest.approx((low + moved.value - each.value, high + moved.value - each.value))


def published(values: Values) -> Evidence:
    """A reference of which only the mean and the covariance are known, made as pytorch-fid makes them."""
    y = values.astype(np.float64)
    known = Statistics(extractors=("inception",), mean=np.mean(y, axis=0), covariance=np.cov(y, rowvar=False))
    empty = Samples(
        count=0,
        shape=(3, 0, 0),
        read=lambda a, b: np.empty((0, 3, 0, 0), np.uint8),
        origin="statistics.npz",
        fingerprint=known.digest,
        statistics={"pooled": known},
    )
    return Evidence(samples=empty, statistics={"pooled": known})


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 10), (30, 150, 40), (200, 20, 30), (25, 20, 30)])
def test_published_statistics_give_what_the_images_give(n: int, m: int, d: int) -> None:
    x, y = normal(0, n, d, 1.5), normal(1, m, d, 1.0, 0.4)
    found = FID.compute(generated=evidence(x), reference=published(y))
    images = FID.compute(generated=evidence(x), reference=evidence(y))
    assert found.value == pytest.approx(images.value, rel=1e-6)
    assert found.value == pytest.approx(distance(x, y), rel=1e-6)
    # The reference is fixed for both, so that the error is the same.
    assert found.stderr == pytest.approx(images.stderr, rel=1e-5)
    assert found.error_method == images.error_method
    assert found.detail["reference_statistics"] == 1.0 and "reference_statistics" not in images.detail
    assert found.detail["rank_deficient"] == images.detail["rank_deficient"]
    itself = FID.compute(generated=evidence(y), reference=published(y))
    assert itself.value == pytest.approx(0, abs=1e-6 * found.value)


@pytest.mark.parametrize("method", ["jackknife", "line"])
def test_fid_at_infinity_takes_published_statistics(method: str) -> None:
    x, y = normal(0, 400, 10, 1.5), normal(1, 150, 10)
    found = FID_INF.compute(generated=evidence(x), reference=published(y), method=method)
    images = FID_INF.compute(generated=evidence(x), reference=evidence(y), method=method)
    assert found.value == pytest.approx(images.value, rel=1e-6)
    assert found.detail["reference_statistics"] == 1.0


def test_dead_features_are_no_lack_of_rank() -> None:
    x, y = normal(0, 200, 10), normal(1, 150, 10)
    x[:, 3] = y[:, 3] = 0
    found = FID.compute(generated=evidence(x), reference=published(y))
    assert found.detail["rank_deficient"] == 0.0
    assert found.value == pytest.approx(distance(x, y), rel=1e-6)


def test_what_statistics_cannot_answer_is_refused() -> None:
    x, y = normal(0, 60, 5), normal(1, 60, 5)
    with pytest.raises(InputRejected, match=r"statistics.npz holds the mean and the covariance of features, and this"):
        MIFID.compute(generated=evidence(x), reference=published(y))
    with pytest.raises(NotComparable, match="widths 5 and 4"):
        FID.compute(generated=evidence(x), reference=published(y[:, :4]))
    (known,) = published(y).statistics.values()
    values, vectors = np.linalg.eigh(known.covariance)
    values[0] *= -1
    broken = Statistics(extractors=("inception",), mean=known.mean, covariance=(vectors * values) @ vectors.T)
    with pytest.raises(InputRejected, match="negative eigenvalues"):
        FID.compute(
            generated=evidence(x), reference=Evidence(samples=published(y).samples, statistics={"pooled": broken})
        )


def test_mifid_near_its_threshold_has_the_interval_of_both_branches() -> None:
    y = normal(0, 120, 8)
    x = y[:80] + normal(1, 80, 8, 0.6)
    sides = {"generated": evidence(x), "reference": evidence(y)}
    nearest = MIFID.compute(**sides, threshold=0.0).detail["nearest"]
    plain = FID.compute(**sides)
    assert plain.ci95 is not None
    for threshold in (nearest * 0.999, nearest * 1.001):
        found = MIFID.compute(**sides, threshold=threshold)
        assert found.stderr is None and found.blocks is None and found.ci95 is not None
        assert str(found.error_method).startswith("both sides of the threshold: nearest is")
        assert found.ci95[0] == plain.ci95[0] and found.ci95[1] > plain.ci95[1] / nearest
        assert found.ci95[0] <= plain.value and found.value <= found.ci95[1]
    far = MIFID.compute(**sides, threshold=nearest * 3)
    assert far.error_method == "jackknife-20" and far.value == pytest.approx(plain.value / nearest)


@pytest.mark.parametrize("error", ["auto", "jackknife", "influence"])
def test_heavy_tails_have_no_error_and_say_so(error: str) -> None:
    rng = np.random.default_rng(4)
    heavy = evidence(rng.standard_t(2.5, size=(2000, 8)))
    reference = evidence(rng.standard_t(2.5, size=(2000, 8)))
    found = FID.compute(generated=heavy, reference=reference, error=error)
    assert found.ci95 is None and found.blocks is None
    assert found.error_method == (
        "none: the features have heavy tails, and the error of a Frechet distance needs their fourth moments"
    )
    light = FID.compute(generated=evidence(rng.normal(size=(2000, 8))), reference=reference, error=error)
    assert light.ci95 is not None


def test_the_influence_function_needs_thirty_images_a_feature() -> None:
    y = evidence(normal(0, 500, 5))
    found = FID.compute(generated=evidence(normal(1, 149, 5)), reference=y, error="influence")
    assert found.error_method == "none: the influence function needs 30 images a feature, 150; got 149"
    assert FID.compute(generated=evidence(normal(1, 150, 5)), reference=y, error="influence").ci95 is not None


def test_few_images_of_a_rare_mode_take_degrees_of_freedom_and_widen_the_interval() -> None:
    """Four images of a third mode, as far from the middle as the others, carry the error: not 19 degrees of freedom."""
    y, x = normal(0, 2000, 6, 0.3), normal(1, 400, 6, 0.3)
    for values in (x, y):
        values[::2, 0] += 6
        values[1::2, 0] -= 6
    x[:4, 0], x[:4, 1] = normal(2, 4, 1)[:, 0], 6
    found = FID.compute(generated=evidence(x), reference=evidence(y))
    assert found.ci95 is not None and found.stderr is not None
    assert math.log(found.ci95[1] / found.value) > 2.15 * found.stderr / found.value


def test_blocks_of_fid_per_class_have_its_error() -> None:
    y, x = normal(0, 400, 3), normal(1, 400, 3, 1.4)
    labels = [i % 4 for i in range(400)]
    found = PER_CLASS_FID.compute(generated=evidence(x, labels=labels), reference=evidence(y, labels=labels))
    assert found.blocks is not None and found.blocks.sizes == (20,) * 20
    again = of_jackknife(found.value, found.blocks.left_out, found.blocks.sizes)
    assert isinstance(again, Uncertainty) and again.stderr == pytest.approx(found.stderr, rel=0.5)
    assert PER_CLASS_FID.compute(
        generated=evidence(x, labels=labels), reference=evidence(y, labels=labels), error="none"
    ).blocks is None  # fmt: skip
    with pytest.raises(UsageError, match="there are auto and none"):
        PER_CLASS_FID.compute(
            generated=evidence(x, labels=labels), reference=evidence(y, labels=labels), error="jackknife"
        )
