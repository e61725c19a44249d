"""Differences of scores: closed forms, identities, and how often their intervals cover and their tests are wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from genbench import differences, uncertainty
from genbench.differences import Difference, deciding_count, holm, identical, paired, ties, unpaired, worsening
from genbench.errors import NotComparable, UsageError
from genbench.records import Score

Array = NDArray[np.float64]


def mean_of(values: Array) -> Score:
    return uncertainty.score_from_mean(values)


def share_of(holds: NDArray[np.bool_]) -> Score:
    return uncertainty.score_from_share(int(holds.sum()), len(holds), blocks=uncertainty.blocks_of_mean(holds))


def normal(seed: int, n: int = 400, mean: float = 0.0) -> Array:
    return np.random.default_rng(seed).normal(size=n) + mean


def test_paired_difference_of_means_is_the_jackknife_of_the_differences() -> None:
    x = normal(0)
    y = x + 0.3 + 0.1 * normal(1)
    found = paired(mean_of(x), mean_of(y))
    numbers = uncertainty.block_numbers(400)
    blocks = np.array([(y - x)[numbers == k].mean() for k in range(20)])
    assert found.value == pytest.approx((y - x).mean())
    assert found.stderr == pytest.approx(blocks.std(ddof=1) / math.sqrt(20), rel=1e-9)
    assert found.df is not None and found.ci95 is not None and found.df <= 19
    half = uncertainty.quantile(found.df) * (found.stderr or 0.0)
    assert found.ci95 == pytest.approx((found.value - half, found.value + half))
    assert found.method == "paired jackknife-20"
    # What both sides share is gone: independent, their difference would be ten times as uncertain.
    assert (unpaired(mean_of(x), mean_of(y)).stderr or 0.0) > 8 * (found.stderr or math.inf)


def test_unpaired_difference_of_means_is_the_textbook_one() -> None:
    x, y = mean_of(normal(0)), mean_of(normal(1, mean=0.5))
    found = unpaired(x, y)
    assert found.stderr == pytest.approx(math.hypot(x.stderr or 0.0, y.stderr or 0.0))
    half = math.hypot((x.ci95 or (0, 0))[1] - x.value, (y.ci95 or (0, 0))[1] - y.value)
    assert found.ci95 == pytest.approx((found.value - half, found.value + half))
    swapped = unpaired(y, x)
    assert swapped.value == -found.value and swapped.ci95 == pytest.approx((-found.ci95[1], -found.ci95[0]))


def test_unpaired_difference_of_shares_is_newcombes() -> None:
    """56 of 70 less 48 of 80: 0.2 with the interval 0.0524 to 0.3339 (Newcombe 1998, table II, case a, method 10)."""
    left, right = np.arange(80) < 48, np.arange(70) < 56
    found = unpaired(share_of(left), share_of(right))
    assert found.value == pytest.approx(0.2)
    assert found.ci95 == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_equal_images_differ_by_exactly_nothing() -> None:
    score = mean_of(normal(0))
    for found in (paired(score, score), identical(score, score), paired(score, replace(score, detail={"x": 1.0}))):
        assert (found.value, found.stderr, found.ci95, found.method) == (0.0, 0.0, (0.0, 0.0), "identical")
        assert found.p_above(0.0) == 1.0 and found.p_below(0.0) == 1.0 and found.p_not() == 1.0
        assert found.p_below(0.1) == 0.0 and found.high(0.95) == 0.0
    with pytest.raises(UsageError, match="cannot have the scores"):
        identical(score, mean_of(normal(1)))


def test_shares_of_one_on_both_sides_are_not_known_to_be_the_same() -> None:
    sure = share_of(np.ones(500, dtype=bool))
    found = paired(sure, sure)
    assert found.method == "unpaired" and found.value == 0
    assert found.ci95 is not None and found.ci95[0] < -0.005 and found.ci95[1] > 0.005
    assert identical(sure, sure).ci95 == (0.0, 0.0)


def test_one_image_that_differs_is_no_proof() -> None:
    holds = np.ones(500, dtype=bool)
    one = holds.copy()
    one[7] = False
    found = paired(share_of(holds), share_of(one))
    assert found.value == pytest.approx(-1 / 500) and found.p_below(0.0) > 0.05
    assert found.ci95 is not None and found.ci95[1] > 0


def test_one_image_that_rounding_changed_leaves_the_sides_alike() -> None:
    """The spread of one block has one degree of freedom: wide beside its error, narrow beside that of the images."""
    x = normal(0)
    y = x.copy()
    y[7] += 1e-3
    found, apart = paired(mean_of(x), mean_of(y)), unpaired(mean_of(x), mean_of(y))
    assert found.value == pytest.approx(1e-3 / 400) and found.df == 1.0 and found.method == "paired jackknife-20"
    assert found.stderr == pytest.approx(1e-3 / 400, rel=0.01), "of 20 means of blocks, of which one is not 0"
    assert found.ci95 is not None and found.ci95[0] < 0 < found.ci95[1] < 1e-4 < 0.1 < (apart.ci95 or (0, 0))[1]
    # Where one image differs by much, what the images tell alone is narrower.
    y[7] = x[7] + 100
    found, apart = paired(mean_of(x), mean_of(y)), unpaired(mean_of(x), mean_of(y))
    assert found == apart if apart.ci95 else found.ci95 is None


def test_no_error_without_one_on_either_side() -> None:
    known, lost = mean_of(normal(0)), Score(value=1.0, error_method="none: heavy tails")
    for compared in (paired, unpaired):
        found = compared(known, lost)
        assert found.value == 1.0 - known.value and found.ci95 is None and found.method == "none: heavy tails"
        assert found.p_above(0.0) == found.p_below(0.0) == 1.0 and found.low(0.95) == -math.inf
        assert compared(known, Score(value=1.0)).method == "none: no error was asked for"
    short = paired(known, mean_of(normal(1, n=399)))
    assert short.method == "none: images in pairs need as many on both sides; got 400 and 399"


@pytest.mark.parametrize("higher", [False, True])
def test_worsening_has_the_sign_of_the_metric_and_its_statements_exclude_each_other(higher: bool) -> None:
    sign = -1.0 if higher else 1.0
    difference = Difference(
        value=sign * 0.5, stderr=0.1, ci95=(0.3, 0.7), df=math.inf, method="unpaired", below=0.1, above=0.1
    )
    found = worsening(difference, margin=0.2, higher_is_better=higher, count=1000)
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx((0.5 - 0.164485, 0.5 + 0.164485), abs=1e-6)
    assert found.p_regressed == pytest.approx(0.001350, abs=1e-6)
    assert found.p_tolerable == pytest.approx(1 - 0.001350, abs=1e-6)
    assert (found.low > 0.2) == (found.p_regressed < 0.05)
    tolerated = worsening(difference, margin=0.7, higher_is_better=higher, count=1000)
    assert tolerated.p_tolerable == pytest.approx(0.022750, abs=1e-6) and tolerated.high < 0.7
    # ((1.644854 + 0.841621) 0.1 / 0.3)^2 1000
    assert found.deciding_count == 687


def test_lopsided_errors_are_used_on_their_own_side() -> None:
    difference = Difference(value=1.0, ci95=(0.0, 4.0), df=math.inf, method="unpaired", below=0.5, above=2.0)
    assert difference.low(0.975) == pytest.approx(1 - 1.959964 * 0.5, abs=1e-6)
    assert difference.high(0.975) == pytest.approx(1 + 1.959964 * 2.0, abs=1e-6)
    assert difference.p_above(0.0) == pytest.approx(0.022750, abs=1e-6)
    assert difference.p_below(5.0) == pytest.approx(0.022750, abs=1e-6)


def test_a_difference_without_error_decides_nothing() -> None:
    found = worsening(Difference(value=9.0, method="none: x"), margin=0.0, higher_is_better=False, count=10)
    assert (found.p_regressed, found.p_tolerable, found.deciding_count) == (1.0, 1.0, None)
    assert (found.low, found.high) == (-math.inf, math.inf)
    on_it = Difference(value=1.0, stderr=1.0, ci95=(0, 2), df=9, method="unpaired", below=1.0, above=1.0)
    assert deciding_count(on_it, margin=0.0, count=10) is None


@pytest.mark.parametrize(
    ("margin", "alpha"), [(-0.1, 0.05), (math.nan, 0.05), (math.inf, 0.05), (0.1, 0.0), (0.1, 0.6)]
)
def test_margins_and_levels_without_a_meaning_are_refused(margin: float, alpha: float) -> None:
    with pytest.raises(UsageError, match=r"margin is a number|alpha lies in"):
        worsening(Difference(value=0.0, method="none: x"), margin=margin, higher_is_better=True, count=9, alpha=alpha)


def test_holm_steps_down() -> None:
    """Example with four p-values: 0.005, 0.01, 0.03, 0.04 become 0.02, 0.03, 0.06, 0.06."""
    found = holm({"c": 0.03, "a": 0.005, "d": 0.04, "b": 0.01})
    assert list(found) == ["c", "a", "d", "b"]
    assert found == pytest.approx({"a": 0.02, "b": 0.03, "c": 0.06, "d": 0.06})
    assert holm({"x": 0.7, "y": 0.8}) == {"x": 1.0, "y": 1.0} and holm({}) == {}


def test_ties_are_runs_of_systems_that_are_not_told_apart() -> None:
    scores = {name: mean_of(normal(i, n=200, mean=mean)) for i, (name, mean) in enumerate(
        {"worst": 3.0, "near": 0.02, "best": 0.0, "next": 0.04, "far": 1.0}.items()
    )}  # fmt: skip
    found = ties(scores, higher_is_better=False, in_pairs=False)
    assert set(found.order[:3]) == {"best", "near", "next"} and found.order[3:] == ("far", "worst")
    assert found.groups == (found.order[:3], ("far",), ("worst",))
    assert found.p_values[found.order[2], "far"] < 1e-6 and len(found.p_values) == 10
    assert ties(scores, higher_is_better=True, in_pairs=False).order == found.order[::-1]
    lost = ties({**scores, "lost": Score(value=9.0)}, higher_is_better=False, in_pairs=False)
    assert lost.groups[-1] == ("worst", "lost")  # no error, and nothing is shown
    with pytest.raises(NotComparable, match="'none' is nan"):
        ties({"none": Score(value=math.nan)}, higher_is_better=False, in_pairs=False)
    with pytest.raises(UsageError, match="at least one score"):
        ties({}, higher_is_better=False, in_pairs=False)


def test_ties_may_overlap() -> None:
    """A chain: neighbours are not told apart, the ends are."""
    scores = {name: Score(value=v, stderr=1.0, ci95=(v - 2, v + 2), error_method="x") for name, v in
              {"a": 0.0, "b": 2.8, "c": 5.6}.items()}  # fmt: skip
    found = ties(scores, higher_is_better=False, in_pairs=False)
    assert found.groups == (("a", "b"), ("b", "c"))


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("in_pairs", [False, True])
def test_false_alarms_are_as_rare_as_stated_and_intervals_cover(share: bool, in_pairs: bool) -> None:
    rng, alarms, covered = np.random.default_rng(9), 0, 0
    for _ in range(1000):
        common = rng.normal(size=500) if in_pairs else 0.0
        x, y = (common + rng.normal(size=500) for _ in range(2))
        scores = [share_of(v > 1.5) if share else mean_of(v) for v in (x, y)]
        found = paired(*scores) if in_pairs else unpaired(*scores)
        assert found.ci95 is not None
        alarms += worsening(found, margin=0.0, higher_is_better=True, count=500).p_regressed < 0.05
        covered += found.ci95[0] <= 0 <= found.ci95[1]
    # Three deviations of 1,000 repetitions.
    assert alarms / 1000 < 0.05 + 0.021 and covered / 1000 > 0.95 - 0.021
    assert differences.ALPHA == 0.05
