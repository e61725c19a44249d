"""Metrics of manifolds against brute-force float64 oracles and against geometries with known answers."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up import evidence, normal
from numpy.typing import NDArray

from genbench import neighbours
from genbench.arrays import Features
from genbench.contracts import Metric
from genbench.errors import InputRejected, NotComparable, UsageError
from genbench.metrics import manifold
from genbench.metrics.manifold import (
    AUTHPCT,
    COVERAGE,
    DENSITY,
    PRECISION,
    REALISM,
    RECALL,
)
from genbench.uncertainty import block_numbers

Array = NDArray[np.float32]


def features(values: Array) -> Features:
    return Features(extractor="test", tap="pooled", array=values)


def memberships(x: Array, y: Array, **args: object) -> manifold.Memberships:
    return manifold.memberships(features(x), features(y), **args)


def occupancies(x: Array, y: Array, **args: object) -> manifold.Occupancies:
    return manifold.occupancies(features(x), features(y), **args)


def realism_scores(x: Array, y: Array, **args: object) -> NDArray[np.float64]:
    return manifold.realism_scores(features(x), features(y), **args)


def authentic_images(x: Array, y: Array) -> NDArray[np.bool_]:
    return manifold.authentic_images(features(x), features(y))


def squared(x: Array, y: Array) -> NDArray[np.float64]:
    a, b = x.astype(np.float64), y.astype(np.float64)
    return ((a[:, None] - b[None]) ** 2).sum(-1)


def radius(x: Array, k: int) -> NDArray[np.float64]:
    own = squared(x, x)
    np.fill_diagonal(own, np.inf)
    return np.sort(own, axis=1)[:, k - 1]


def oracle(generated: Array, reference: Array, k: int) -> dict[str, NDArray[np.generic]]:
    cross, real, fake = squared(reference, generated), radius(reference, k), radius(generated, k)
    return {
        "inside": (cross <= real[:, None]).any(0),
        "balls": (cross < real[:, None]).sum(0),
        "covered": (cross <= fake[None]).any(1),
        "reached": cross.min(1) < real,
    }


def realism_oracle(generated: Array, reference: Array, k: int) -> NDArray[np.float64]:
    radii = np.sqrt(radius(reference, k))
    kept = radii < np.median(radii)
    return (radii[kept, None] / np.sqrt(squared(reference, generated))[kept]).max(0)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("n", "m", "shift"), [(97, 83, 0.0), (40, 131, 0.8), (131, 40, 2.0)])
def test_counts_equal_brute_force(k: int, n: int, m: int, shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tiles that divide nothing, so that every seam is crossed.
    monkeypatch.setattr(neighbours, "_ROWS", 17)
    monkeypatch.setattr(neighbours, "_COLUMNS", 29)
    x, y = normal(0, n, 3, shift=shift), normal(1, m, 3)
    expected = oracle(x, y, k)
    members, full = memberships(x, y, k=k), occupancies(x, y, k=k)
    np.testing.assert_array_equal(members.inside, expected["inside"])
    np.testing.assert_array_equal(members.covered, expected["covered"])
    np.testing.assert_array_equal(full.balls, expected["balls"])
    np.testing.assert_array_equal(full.reached, expected["reached"])
    np.testing.assert_allclose(realism_scores(x, y, k=k), realism_oracle(x, y, k), rtol=1e-5)
    cross = squared(y, x)
    authentic = radius(y, 1)[cross.argmin(0)] < cross.min(0)
    np.testing.assert_array_equal(authentic_images(x, y), authentic)
    # The geometries must tell both answers apart.
    assert shift == 2 or (0 < expected["inside"].mean() < 1 and 0 < authentic.mean() < 1)


@pytest.mark.parametrize("spare", [0, 4])
def test_deleted_blocks_equal_a_computation_without_them(spare: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Few points, so that blocks hold several neighbours of a point; no spare neighbours force the recomputation.
    monkeypatch.setattr(neighbours, "SPARE", spare)
    monkeypatch.setattr(neighbours, "_ROWS", 7)
    monkeypatch.setattr(neighbours, "_COLUMNS", 11)
    monkeypatch.setattr(manifold, "_PAIRS", 5)
    x, y = normal(2, 45, 2, shift=0.7), normal(3, 60, 2)
    counts, full = memberships(x, y, k=3), occupancies(x, y, k=3)
    assert counts.covered_without is not None
    blocks = block_numbers(len(x))
    widened = 0
    for b in range(blocks.max() + 1):
        expected = oracle(x[blocks != b], y, 3)
        np.testing.assert_array_equal(counts.covered_without[:, b], expected["covered"])
        np.testing.assert_array_equal(full.reached_without[:, b], expected["reached"])
        widened += int((expected["covered"] & ~counts.covered).sum())
    # The geometry must contain what makes recall hard: points covered only after a deletion.
    assert widened > 0


def test_boundaries_count_for_precision_and_recall_and_not_for_density_and_coverage() -> None:
    # On a line, k = 1: the real points 0, 2, 4 and 10 have radii 2, 2, 2 and 6; 16 and -2 lie on boundaries.
    y = np.array([[0], [2], [4], [10]], np.float32)
    x = np.array([[16], [-2], [1]], np.float32)
    np.testing.assert_array_equal(memberships(x, y, k=1).inside, [True, True, True])
    full = occupancies(x, y, k=1)
    np.testing.assert_array_equal(full.balls, [0, 0, 2])
    np.testing.assert_array_equal(full.reached, [True, True, False, False])
    # Generated 0 and 4 have radii 4 and 4: 8 is on a boundary.
    two = np.array([[0], [4]], np.float32)
    np.testing.assert_array_equal(memberships(two, np.array([[8], [9]], np.float32), k=1).covered, [True, False])


def test_a_point_is_at_distance_zero_from_itself_whatever_the_rounding() -> None:
    x = normal(24, 60, 40) + 30  # squared lengths of 36000, of which float32 keeps two decimals
    near = neighbours.nearest_neighbours(neighbours.points(x, centre=0 * x[0], arithmetic="float32"), 4)
    assert (near.squared[:, 0] == 0).all() and (near.squared[:, 1] > 0).all()
    np.testing.assert_array_equal(near.index[:, 0], np.arange(60))


def clusters(seed: int, n: int, apart: float, shift: float = 0.0) -> Array:
    """Three clusters of spread 1, so far from each other."""
    centres = np.zeros((n, 12))
    centres[: n // 3, 0], centres[n // 3 : n // 2, 1] = apart, -apart
    return (centres + np.random.default_rng(seed).standard_normal((n, 12)) + shift).astype(np.float32)


@pytest.mark.parametrize(("apart", "translation"), [(1e3, 0), (3e3, 1000), (1e4, 0), (1e5, 1000)])
def test_tight_clusters_far_apart_are_told_apart_as_in_float64(
    apart: float, translation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "_ROWS", 50)
    monkeypatch.setattr(neighbours, "_COLUMNS", 70)
    x, y = clusters(30, 190, apart, 0.1 + translation), clusters(31, 210, apart, translation)
    expected = oracle(x, y, 3)
    members, full = memberships(x, y, k=3), occupancies(x, y, k=3)
    np.testing.assert_array_equal(members.inside, expected["inside"])
    np.testing.assert_array_equal(members.covered, expected["covered"])
    np.testing.assert_array_equal(full.balls, expected["balls"])
    np.testing.assert_array_equal(full.reached, expected["reached"])
    np.testing.assert_allclose(realism_scores(x, y, k=3), realism_oracle(x, y, 3), rtol=1e-5)
    np.testing.assert_array_equal(authentic_images(x, y), radius(y, 1)[squared(y, x).argmin(0)] < squared(y, x).min(0))
    blocks = block_numbers(len(x))
    assert members.covered_without is not None
    for b in (0, 7):
        deleted = oracle(x[blocks != b], y, 3)
        np.testing.assert_array_equal(members.covered_without[:, b], deleted["covered"])
        np.testing.assert_array_equal(full.reached_without[:, b], deleted["reached"])


def test_clusters_of_generated_images_alone_are_resolved() -> None:
    # One reference image at the edge of each cluster of five: no reference image is near another one.
    centres, rng = 100 * normal(32, 60, 12), np.random.default_rng(33)
    x = (np.repeat(centres, 5, axis=0) + 1e-3 * rng.standard_normal((300, 12))).astype(np.float32)
    y = (centres + 1.7e-3 * rng.standard_normal((60, 12))).astype(np.float32)
    expected = oracle(x, y, 3)["covered"]
    assert 0.2 < expected.mean() < 0.8
    np.testing.assert_array_equal(memberships(x, y, k=3).covered, expected)


def test_copies_among_near_copies_are_at_distance_zero() -> None:
    # Four copies of every point have radius 0 for k = 3, and hold the same image and no other.
    far = np.repeat(1e3 * np.eye(2, 300, dtype=np.float32), 20, axis=0)
    points = far + normal(35, 40, 300)
    y = np.repeat(points, 4, axis=0)
    x = np.concatenate([points, points + np.float32(0.01)])
    np.testing.assert_array_equal(memberships(x, y, k=3).inside, np.arange(80) < 40)
    near = neighbours.nearest_neighbours(neighbours.points(y, centre=y.mean(0) * 1.0, arithmetic="float32"), 5)
    assert (near.squared[:, :4] == 0).all() and (near.squared[:, 4] > 0).all()
    scores = realism_scores(points, points, k=3)
    assert np.isfinite(scores).all() and scores.max() > 1e4


def test_few_points_close_together_cost_few_distances_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(36, 300, 64)
    x[7] = x[200] + np.float32(1e-4)
    made = []
    original = neighbours.Points.exact
    monkeypatch.setattr(
        neighbours.Points, "exact", lambda self, which: made.append(len(which)) or original(self, which)
    )
    near = neighbours.nearest_neighbours(neighbours.points(x, centre=x[0] * 0.0, arithmetic="float32"), 4)
    assert near.crowded is not None and near.crowded.nonzero()[:, 0].tolist() == [7, 200]
    assert 0 < sum(made) <= 8
    assert near.squared[7, 1] == pytest.approx(64e-8, rel=2e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e18, 1e25])
def test_the_unit_of_features_does_not_matter(scale: float) -> None:
    x, y = normal(37, 90, 6, shift=0.4), normal(38, 80, 6)
    for metric in (PRECISION, RECALL, DENSITY, COVERAGE, REALISM, AUTHPCT):
        value, changed = (
            metric.compute(generated=evidence(a), reference=evidence(b)).value
            for a, b in ((x, y), ((x * scale).astype(np.float32), (y * scale).astype(np.float32)))
        )
        assert value > 0 and changed == pytest.approx(value, rel=1e-6), metric.name


def test_radii_that_are_remembered_are_those_of_the_same_unit() -> None:
    x, y = normal(39, 60, 4), evidence(normal(40, 50, 4))
    assert COVERAGE.compute(generated=evidence(x), reference=y).value > 0.8
    # Features so large that all are measured in another unit: none is near the reference.
    assert COVERAGE.compute(generated=evidence((x + 3) * np.float32(1e30)), reference=y).value == 0


def test_duplicates_count_as_neighbours_and_a_point_not_as_its_own() -> None:
    # On a line: three copies of 0, then 1, 3. The nearest other point of a 0 is its copy at distance 0.
    x = np.array([[0], [0], [0], [1], [3]], np.float32)
    y = np.array([[0], [10], [0.5], [2.5], [1.5]], np.float32)
    # k = 1: radii of x are 0, 0, 0, 1, 2. 0 is in the balls of the zeros; 0.5, 1.5 in that of 1; 2.5, 1.5 in that of 3.
    np.testing.assert_array_equal(memberships(x, y, k=1).covered, [True, False, True, True, True])
    # k = 3: radii 1, 1, 1, 1, 3.
    np.testing.assert_array_equal(memberships(x, y, k=3).covered, [True, False, True, True, True])


def test_collapsed_generator_has_precision_and_no_recall_and_roles_swap_them() -> None:
    rng = np.random.default_rng(4)
    centres = np.repeat(np.array([[-50.0, 0.0], [50.0, 0.0]]), 100, axis=0)
    real = (centres + rng.standard_normal((200, 2))).astype(np.float32)
    # All generated images lie in one mode of the two, much tighter than it.
    fake = (np.array([[50.0, 0.0]]) + 0.01 * rng.standard_normal((120, 2))).astype(np.float32)
    sides = evidence(fake), evidence(real)
    p = PRECISION.compute(generated=sides[0], reference=sides[1])
    r = RECALL.compute(generated=sides[0], reference=sides[1])
    assert p.value == 1.0
    assert r.value <= 0.02
    assert PRECISION.compute(generated=sides[1], reference=sides[0]).value == r.value
    assert RECALL.compute(generated=sides[1], reference=sides[0]).value == p.value
    covering_one_mode = evidence((centres[100:] + rng.standard_normal((100, 2))).astype(np.float32))
    assert 0.35 < RECALL.compute(generated=covering_one_mode, reference=sides[1]).value <= 0.5


def test_realism_is_one_on_the_boundary_and_finite_for_copies() -> None:
    line = np.array([[0], [1], [2.5], [10]], np.float32)  # radii 1, 1, 1.5, 7.5: kept are the balls of 0 and 1
    scores = realism_scores(np.array([[-1], [2], [3], [0.5], [1]], np.float32), line, k=1)
    np.testing.assert_allclose(scores[:4], [1, 1, 0.5, 2], rtol=1e-6)
    assert 200 < scores[4] < 3000
    median = REALISM.compute(generated=evidence(line + 0.5), reference=evidence(line), k=1).detail["median"]
    assert median == pytest.approx(np.median(realism_oracle(line + 0.5, line, 1)), rel=1e-6)


def test_authenticity_of_copies_of_near_copies_and_of_others() -> None:
    line = np.array([[0], [1], [3], [7]], np.float32)  # distances to the nearest other: 1, 1, 2, 4
    x = np.array([[0], [0.4], [-0.9], [-1.1], [5.1], [4.9], [12]], np.float32)
    # Nearest: 0, 0, 0, 0, 7 (1.9 < 4), 3 (1.9 < 2), 7 (5 > 4).
    np.testing.assert_array_equal(authentic_images(x, line), [False, False, False, True, False, False, True])
    score = AUTHPCT.compute(generated=evidence(x), reference=evidence(line))
    assert score.value == pytest.approx(100 * 2 / 7)
    assert score.stderr == pytest.approx(100 * np.sqrt(2 / 7 * 5 / 7 / 7))
    assert score.ci95 is not None and 0 < score.ci95[0] < score.value < score.ci95[1] < 100


def test_density_and_coverage_of_equal_distributions_are_near_their_expectations() -> None:
    sides = {"generated": evidence(normal(20, 2000, 4)), "reference": evidence(normal(21, 2000, 4))}
    density, coverage = DENSITY.compute(**sides), COVERAGE.compute(**sides)
    assert density.stderr is not None and abs(density.value - 1) < 4 * density.stderr
    assert abs(coverage.value - (1 - 2**-5)) < 0.012  # both sides vary: three standard deviations


def test_density_counts_a_collapse_onto_a_dense_spot_that_coverage_sees() -> None:
    # In 8 dimensions the centre of a normal distribution lies in many balls, and most balls do not reach it.
    sides = {"generated": evidence(0.1 * normal(22, 300, 8)), "reference": evidence(normal(23, 300, 8))}
    assert DENSITY.compute(**sides).value > 2
    assert COVERAGE.compute(**sides).value < 0.6


@pytest.mark.parametrize("metric", [PRECISION, RECALL, DENSITY, COVERAGE, REALISM, AUTHPCT], ids=lambda m: m.name)
def test_invariances_hold(metric: Metric) -> None:
    x, y = normal(5, 80, 6, shift=0.5), normal(6, 90, 6)
    rng = np.random.default_rng(7)
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    value = metric.compute(generated=evidence(x), reference=evidence(y)).value
    changes = {
        "order": (x[rng.permutation(80)], y[rng.permutation(90)]),
        "translation": (x + 1000, y + 1000),
        "rotation": ((x @ rotation).astype(np.float32), (y @ rotation).astype(np.float32)),
        "scale": (x * 1024, y * 1024),
    }
    assert 0.1 < value < 0.95 or metric in (REALISM, AUTHPCT)
    for name in metric.invariances:
        a, b = changes[name]
        changed = metric.compute(generated=evidence(a), reference=evidence(b)).value
        # Translation by 1000 leaves 4 digits, which may move one borderline point of 80.
        assert changed == pytest.approx(value, rel=0.001, abs=0.013 * (100 if metric is AUTHPCT else 1)), name


def half(x: NDArray[np.generic]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def adm_block(u: Array, v: Array) -> NDArray[np.float32]:
    """Distances of ADM's evaluator for one block, in numpy's own half precision."""
    with np.errstate(over="ignore", invalid="ignore"):
        a, b = half(u), half(v)
        lengths = [half((half(z * z)).sum(1)) for z in (a, b)]
        product = half(2 * half(a @ b.T))
        d = np.maximum(half(half(lengths[0][:, None] - product) + lengths[1][None]), 0)
    if np.isfinite(d).all():
        return d
    return np.maximum((u * u).sum(1)[:, None] - 2 * (u @ v.T) + (v * v).sum(1)[None], 0)


def adm_oracle(generated: Array, reference: Array, k: int, block: int) -> tuple[float, float]:
    def matrix(u: Array, v: Array) -> NDArray[np.float32]:
        cut = [range(0, len(z), block) for z in (u, v)]
        return np.block([[adm_block(u[i : i + block], v[j : j + block]) for j in cut[1]] for i in cut[0]])

    radii = [np.sort(matrix(z, z), axis=1)[:, k] for z in (reference, generated)]
    cross = matrix(reference, generated)
    return (cross <= radii[0][:, None]).any(0).mean(), (cross <= radii[1][None]).any(1).mean()


@pytest.mark.parametrize(
    ("case", "overflowing"), [("plain", 0), ("first-block", 3), ("everything", 9), ("only-distances", 1)]
)
def test_adm_arithmetic_equals_an_oracle_in_half_precision(
    case: str, overflowing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "ADM_BLOCK", 64)
    monkeypatch.setattr(neighbours, "_ROWS", 23)
    monkeypatch.setattr(neighbours, "_COLUMNS", 31)
    rng = np.random.default_rng(8)
    x, y = (np.abs(rng.standard_normal((n, 40))).astype(np.float32) + 1 for n in (150, 140))
    if case == "first-block":  # overflows wherever the first 64 of one side meet anything
        x[:64] *= 60
    elif case == "everything":
        x, y = x * 60, y * 60
    elif case == "only-distances":  # lengths fit half precision, distances between opposite points do not
        x[70], y[5] = 31, -31
    sides = [neighbours.points(z, centre=z[0], arithmetic="fp16-adm") for z in (y, x)]
    assert len(neighbours.distances(*sides).overflowing) == overflowing
    counts = memberships(x, y, k=3, arithmetic="fp16-adm")
    p, r = adm_oracle(x, y, 3, 64)
    assert counts.inside.mean() == p
    assert counts.covered.mean() == r


def test_adm_arithmetic_counts_ties_that_float32_does_not() -> None:
    x, y = np.abs(normal(9, 400, 64)) + 2, np.abs(normal(10, 400, 64)) + 2
    exact, coarse = (memberships(x, y, arithmetic=a) for a in ("float32", "fp16-adm"))
    assert coarse.inside.sum() > exact.inside.sum()


def test_errors_match_the_spread_over_repetitions() -> None:
    reference = evidence(normal(11, 200, 8))
    metrics = PRECISION, RECALL, DENSITY, COVERAGE, REALISM, AUTHPCT
    found: dict[str, list[tuple[float, float]]] = {metric.name: [] for metric in metrics}
    for seed in range(60):
        sides = {"generated": evidence(normal(100 + seed, 200, 8, shift=0.15)), "reference": reference}
        for metric in metrics:
            score = metric.compute(**sides)
            assert score.stderr is not None
            found[metric.name].append((score.value, score.stderr))
    for name, pairs in found.items():
        values, errors = np.array(pairs).T
        ratio = np.sqrt((errors**2).mean()) / values.std(ddof=1)
        # The jackknife of recall and of coverage is conservative: neighbours are not smooth functionals.
        assert 0.75 < ratio < (1.9 if name in ("recall", "coverage") else 1.3), (name, ratio)


def test_one_search_and_one_walk_serve_both_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    original = neighbours.Distances.tile
    monkeypatch.setattr(neighbours.Distances, "tile", lambda *a: made.append(1) or original(*a))
    sides = {"generated": evidence(normal(12, 50, 4)), "reference": evidence(normal(13, 50, 4))}
    PRECISION.compute(**sides)
    first = len(made)
    RECALL.compute(**sides)
    assert first > 0 and len(made) == first
    RECALL.compute(generated=evidence(normal(14, 50, 4)), reference=sides["reference"])
    assert len(made) > first


def test_the_way_from_a_metric_to_a_distance_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = set()
    original = torch.addmm

    def addmm(*args: Any, **more: Any) -> torch.Tensor:
        frame, names = inspect.currentframe(), []
        while frame is not None:
            if Path(frame.f_code.co_filename).is_relative_to(Path(neighbours.__file__).parent):
                names.append(frame.f_code.co_name)
            frame = frame.f_back
        ways.add(tuple(reversed(names)))
        return original(*args, **more)

    monkeypatch.setattr(torch, "addmm", addmm)
    PRECISION.compute(generated=evidence(normal(18, 50, 4)), reference=evidence(normal(19, 50, 4)))
    assert ("precision", "memberships", "over_tiles", "spread", "membership_of_rows", "tiles", "tile") in ways
    assert max(map(len, ways)) <= 9, ways


def test_recall_has_no_error_when_a_deletion_leaves_no_neighbours() -> None:
    score = RECALL.compute(generated=evidence(normal(15, 4, 2)), reference=evidence(normal(16, 30, 2)))
    assert score.stderr is None and 0 <= score.value <= 1


def test_errors_name_the_cause() -> None:
    x = normal(17, 10, 3)
    with pytest.raises(UsageError, match="fp16-adm"):
        memberships(x, x, arithmetic="float16")
    with pytest.raises(UsageError, match="at least 1"):
        memberships(x, x, k=0)
    with pytest.raises(NotComparable, match="at least 11 reference images"):
        memberships(x, x, k=10)
    with pytest.raises(NotComparable, match="at least 6 generated images; there are 5"):
        memberships(x[:5], x, k=5)
    with pytest.raises(NotComparable, match="3 and 2"):
        memberships(x, x[:, :2])
    with pytest.raises(InputRejected, match="not finite"):
        memberships(np.full_like(x, np.nan), x)
    with pytest.raises(NotComparable, match="two extractors"):
        PRECISION.compute(generated=evidence(x, extractor="a"), reference=evidence(x, extractor="b"))
