"""Error bars against closed forms: quantiles, exact identities of the jackknife, and coverage of known intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from genbench import uncertainty
from genbench.errors import UsageError
from genbench.uncertainty import Uncertainty


def _jackknife_of_mean(x: np.ndarray, blocks: int = 20) -> Uncertainty:
    left_out = uncertainty.leave_out_blocks(lambda kept: float(x[kept].mean()), len(x), blocks)
    found = uncertainty.of_jackknife(float(x.mean()), left_out, uncertainty.block_sizes(len(x), blocks))
    assert isinstance(found, Uncertainty)
    return found


@pytest.mark.parametrize(
    ("df", "level", "expected"),
    [
        (math.inf, 0.95, 1.959964),
        (19, 0.95, 2.093024),
        (4, 0.95, 2.776445),
        (math.inf, 0.99, 2.575829),
        (9, 0.9, 1.833113),
    ],
)
def test_quantiles_are_those_of_the_tables(df: float, level: float, expected: float) -> None:
    assert uncertainty.quantile(df, level) == pytest.approx(expected, abs=1e-6)


def test_error_of_a_mean_is_the_deviation_over_the_root_of_n() -> None:
    found = uncertainty.score_from_mean([1.0, 2.0, 3.0, 4.0])
    assert found.value == 2.5
    assert found.stderr == pytest.approx(math.sqrt(5 / 3) / 2)
    half = 3.182446 * math.sqrt(5 / 3) / 2  # t with 3 degrees of freedom
    assert found.ci95 == pytest.approx((2.5 - half, 2.5 + half), abs=1e-6)
    assert found.error_method == "mean"


def test_one_image_has_no_error() -> None:
    assert uncertainty.of_mean([3.0]) == "1 image has no spread"
    assert uncertainty.of_jackknife(3.0, [3.0]) == "a jackknife needs at least 5 images to leave out in turn"
    found = uncertainty.score_from_mean([3.0])
    assert (found.value, found.stderr, found.ci95) == (3.0, None, None)
    assert found.error_method == "none: 1 image has no spread" and found.blocks is None


def test_an_error_that_is_not_finite_is_not_given() -> None:
    found = uncertainty.score(1.0, Uncertainty(stderr=math.nan, df=3, method="mean"))
    assert found.stderr is None and found.ci95 is None
    assert found.error_method == "none: what is left without some images has no value"


def test_interval_stops_at_the_bounds() -> None:
    wide = Uncertainty(stderr=1.0, df=math.inf, method="mean")
    assert uncertainty.score(0.5, wide, bounds=(0.0, 1.0)).ci95 == (0.0, 1.0)
    assert uncertainty.score(0.5, wide, bounds=(0.0, math.inf)).ci95 == pytest.approx((0.0, 2.459964), abs=1e-6)


def test_interval_on_a_logarithm_is_a_factor() -> None:
    error = Uncertainty(stderr=0.5, df=math.inf, method="influence")
    factor = math.exp(1.959963985 * 0.5 / 2.0)
    assert uncertainty.score(2.0, error, on_log_of=2.0).ci95 == pytest.approx((2 / factor, 2 * factor))
    # A value that is the number less a constant has the interval of the number less that constant.
    assert uncertainty.score(-1.0, error, on_log_of=2.0).ci95 == pytest.approx((2 / factor - 3, 2 * factor - 3))
    small = Uncertainty(stderr=1e-6, df=math.inf, method="influence")
    plain = uncertainty.score(2.0, small).ci95
    assert uncertainty.score(2.0, small, on_log_of=2.0).ci95 == pytest.approx(plain, abs=1e-11)


@pytest.mark.parametrize("number", [0.0, 1e-9])
def test_interval_of_a_number_far_below_its_error_is_symmetric(number: float) -> None:
    error = Uncertainty(stderr=0.5, df=math.inf, method="influence")
    found = uncertainty.score(number, error, bounds=(0.0, math.inf), on_log_of=number)
    assert found.ci95 == pytest.approx((0.0, 0.979982), abs=1e-6)


def test_interval_on_a_logarithm_covers_a_squared_distance() -> None:
    """The squared length of a mean of 30 in two dimensions: the symmetric interval covers 91 %, the other one 96 %."""
    rng, hits = np.random.default_rng(1), np.zeros(2)
    for _ in range(4000):
        x = rng.normal(size=(30, 2)) + 0.4
        mean = x.mean(axis=0)
        value, error = float(mean @ mean), uncertainty.of_influence(float(mean @ mean), 2 * (x - mean) @ mean)
        for i, on in enumerate((None, value)):
            low, high = uncertainty.score(value, error, on_log_of=on).ci95 or (0.0, 0.0)
            hits[i] += low <= 2 * (0.4**2 + 1 / 30) <= high
    assert hits[0] / 4000 < 0.92 and hits[1] / 4000 == pytest.approx(0.96, abs=0.01)


@pytest.mark.parametrize("count", [1, 5, 19, 20, 21, 103, 1000])
def test_blocks_are_even_and_all_taken(count: int) -> None:
    sizes = uncertainty.block_sizes(count)
    assert len(sizes) == min(20, count) and sizes.sum() == count
    assert sizes.max() - sizes.min() <= 1


def test_more_images_move_none_to_another_block() -> None:
    assert np.array_equal(uncertainty.block_numbers(1000)[:137], uncertainty.block_numbers(137))


def test_blocks_do_not_fall_into_step_with_labels() -> None:
    """With i mod 20 every block of these 2,000 images would hold one of the ten classes only."""
    numbers, labels = uncertainty.block_numbers(2000), np.arange(2000) % 10
    table = np.zeros((20, 10))
    np.add.at(table, (numbers, labels), 1)
    assert table.min() > 0 and table.max() < 25  # 10 expected, binomial deviation 3


def test_images_in_the_order_of_their_classes_spread_evenly() -> None:
    numbers = uncertainty.block_numbers(2000)
    for first in range(0, 2000, 200):
        assert np.array_equal(np.bincount(numbers[first : first + 200], minlength=20), np.full(20, 10))


def test_fewer_than_two_blocks_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 2 blocks; got 1"):
        uncertainty.block_numbers(10, 1)


def test_single_image_jackknife_of_a_mean_is_exact() -> None:
    x = np.random.default_rng(0).normal(size=57)
    found = _jackknife_of_mean(x, blocks=57)
    assert found.stderr == pytest.approx(x.std(ddof=1) / math.sqrt(57), rel=1e-12)
    assert found.corrected == pytest.approx(x.mean(), abs=1e-13)
    assert found.df == 56 and found.method == "jackknife-57"


@pytest.mark.parametrize("count", [200, 207, 33])
def test_blocks_of_unequal_size_leave_a_mean_unbiased(count: int) -> None:
    x = np.random.default_rng(count).normal(size=count) + 5
    assert _jackknife_of_mean(x).corrected == pytest.approx(x.mean(), abs=1e-12)


def test_equal_blocks_give_the_textbook_formula() -> None:
    left_out = np.array([1.0, 2.0, 4.0, 7.0, 5.0])
    found = uncertainty.of_jackknife(3.0, left_out)
    assert isinstance(found, Uncertainty)
    assert found.stderr == pytest.approx(math.sqrt(4 / 5 * np.square(left_out - left_out.mean()).sum()))
    assert found.corrected == pytest.approx(5 * 3.0 - 4 * left_out.mean())
    assert found.blocks is not None and found.blocks.left_out == tuple(left_out)


def test_jackknife_removes_the_bias_of_a_variance_exactly() -> None:
    """The plug-in variance has a bias of exactly -s/n, which deleting one image at a time removes."""
    x = np.random.default_rng(3).normal(size=30)
    left_out = uncertainty.leave_out_blocks(lambda kept: float(x[kept].var()), 30, blocks=30)
    found = uncertainty.of_jackknife(float(x.var()), left_out)
    assert isinstance(found, Uncertainty) and found.corrected == pytest.approx(x.var(ddof=1), rel=1e-12)
    same = uncertainty.of_deletion(float(x.var()), left_out)
    assert isinstance(same, Uncertainty) and same.method == "jackknife"
    assert same.corrected == pytest.approx(found.corrected, rel=1e-12)
    assert same.stderr == pytest.approx(found.stderr, rel=1e-12)


@pytest.mark.parametrize("count", [400, 50])
def test_jackknife_of_a_mean_has_the_right_size_on_average(count: int) -> None:
    """Over 300 sets the mean square of the standard error is the variance of the mean, also with 2 or 3 in a block."""
    rng = np.random.default_rng(11)
    squares = [_jackknife_of_mean(rng.normal(size=count)).stderr ** 2 for _ in range(300)]
    assert np.mean(squares) == pytest.approx(1 / count, rel=0.08)  # deviation sqrt(2/19/300) = 2 %


def test_interval_of_a_jackknife_covers_as_often_as_it_says() -> None:
    """With the normal quantile in the place of Student's it would be 93.5 %."""
    rng, hits = np.random.default_rng(5), 0
    for _ in range(2000):
        x = rng.normal(size=40)
        found = uncertainty.score(float(x.mean()), _jackknife_of_mean(x))
        assert found.ci95 is not None
        hits += found.ci95[0] <= 0 <= found.ci95[1]
    assert hits / 2000 == pytest.approx(0.95, abs=0.011)


def test_errors_shrink_with_the_root_of_n() -> None:
    rng = np.random.default_rng(2)
    small, large = (np.mean([_jackknife_of_mean(rng.normal(size=n)).stderr for _ in range(60)]) for n in (100, 1600))
    assert small / large == pytest.approx(4, rel=0.1)


def test_independent_parts_add_in_squares() -> None:
    part = Uncertainty(stderr=3.0, df=19, method="jackknife-20", corrected=1.0)
    other = Uncertainty(stderr=4.0, df=math.inf, method="mean")
    found = uncertainty.of_independent([part, other])
    assert isinstance(found, Uncertainty)
    assert found.stderr == pytest.approx(5.0) and found.corrected is None
    assert found.df == pytest.approx(25.0**2 / (9.0**2 / 19))
    assert found.method == "jackknife-20+mean"
    twice = uncertainty.of_independent([part, part])
    assert isinstance(twice, Uncertainty) and twice.df == pytest.approx(38) and twice.method == "jackknife-20"
    assert uncertainty.of_independent([]) == "no part has an error"
    assert uncertainty.of_independent([part, "too few", "other"]) == "too few"


def test_parts_without_variance_have_none_together() -> None:
    found = uncertainty.of_independent([Uncertainty(stderr=0.0, df=3, method="mean")] * 2)
    assert isinstance(found, Uncertainty) and found.stderr == 0.0 and math.isinf(found.df)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 10, 0.0, 0.277533), (5, 10, 0.236593, 0.763407), (10, 10, 0.722467, 1.0), (81, 263, 0.255284, 0.366202)],
)
def test_interval_of_a_share_is_wilsons(hits: int, count: int, low: float, high: float) -> None:
    """The last row is the example of Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662."""
    found = uncertainty.score_from_share(hits, count)
    assert found.value == hits / count
    assert found.ci95 == pytest.approx((low, high), abs=1e-4)
    near = min(max(found.value, 0.5 / (count + 1)), 1 - 0.5 / (count + 1))
    assert found.stderr == pytest.approx(math.sqrt(near * (1 - near) / count))


@pytest.mark.parametrize("values", [[2.0, 2.0, 2.0], [0.1 + 0.2, 0.3, 0.3, 0.3]])
def test_equal_values_say_nothing_of_their_spread(values: list[float]) -> None:
    found = uncertainty.score_from_mean(values)
    assert found.stderr is None and found.ci95 is None and "count alike" in str(found.error_method)
    left_out = uncertainty.of_jackknife(4.0, [4.0] * 20)
    assert isinstance(left_out, str) and "same without any block" in left_out


def test_degrees_of_freedom_are_those_of_the_variance() -> None:
    """The variance of 200 exponential values has the relative variance (9 - 1) / 200, as a chi-square with 50 df."""
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(4000, 200))
    variances = samples.var(axis=1, ddof=1)
    expected = 2 * variances.mean() ** 2 / variances.var()
    large = rng.exponential(size=200_000)
    assert uncertainty.degrees(large) / 200_000 == pytest.approx(expected / 200, rel=0.1)
    assert uncertainty.degrees([1.0, -1.0, 1.0, -1.0]) == 3 and uncertainty.degrees([2.0, 2.0]) == 1
    assert uncertainty.degrees(np.array([1.0, 2, 3, 4, 50]) * 1e200) == pytest.approx(
        uncertainty.degrees([1.0, 2, 3, 4, 50])
    )


def test_few_values_that_carry_the_spread_widen_the_interval_or_take_it() -> None:
    """A share of 1 % of images with the value 1: with n - 1 df the interval would cover 88 % of the time."""
    rng, hits, given = np.random.default_rng(3), 0, 0
    for _ in range(800):
        found = uncertainty.score_from_mean((rng.random(500) < 0.01) + 0.05 * rng.normal(size=500))
        if found.ci95 is not None:
            given += 1
            hits += found.ci95[0] <= 0.01 <= found.ci95[1]
    assert given > 600 and hits / given > 0.92
    alone = np.zeros(500)
    alone[7] = 1
    assert uncertainty.score_from_mean(alone).error_method == "none: a few of the 500 images make up all of the spread"


@pytest.mark.parametrize(("shape", "heavier"), [(-0.2, 0.0), (0.0, 0.1), (0.25, 0.6), (0.5, 1.0), (1.0, 1.0)])
def test_tails_are_told_apart_by_their_shape(shape: float, heavier: float) -> None:
    """Of generalised Pareto values of the shape; told heavier than 0.1 in the stated share of cases or more."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        u = rng.random(2000)
        found.append(uncertainty.tail_is_heavier(-np.log(u) if shape == 0 else (u**-shape - 1) / shape, 0.1))
    share = np.mean(found)
    assert share >= 0.6 * heavier if shape > 0.1 else share <= heavier
    assert not uncertainty.tail_is_heavier([1.0, 2.0, 1e9], 0.1) and not uncertainty.tail_is_heavier([1.0] * 99, 0.1)


def test_blocks_of_effects_give_back_the_variance_of_a_mean() -> None:
    x = np.random.default_rng(4).normal(size=2000) + 3
    found = uncertainty.score_from_mean(x)
    assert found.blocks is not None
    numbers = uncertainty.block_numbers(2000)
    assert found.blocks.left_out == pytest.approx([x[numbers != k].mean() for k in range(20)], rel=1e-12)
    assert found.blocks.sizes == (100,) * 20
    again = uncertainty.of_jackknife(found.value, found.blocks.left_out, found.blocks.sizes)
    assert isinstance(again, Uncertainty) and found.stderr == pytest.approx(again.stderr, rel=0.45)  # deviation 16 %


def test_interval_of_a_dependent_share_is_the_binomial_one_of_the_effective_number() -> None:
    """Nothing ever missing of 400: Clopper and Pearson's end 0.025^(1/400); and a known variance in the middle."""
    sure = uncertainty.score_from_dependent_share(1.0, [1.0] * 20, sizes=[100] * 20, count=400)
    assert sure.stderr == pytest.approx(math.sqrt(0.5 / 401 * 400.5 / 401 / 400))
    assert sure.ci95 == (pytest.approx(0.025 ** (1 / 400)), 1.0)
    few = uncertainty.score_from_dependent_share(0.0, [0.0] * 20, sizes=[5] * 20, count=400)
    assert few.ci95 == (0.0, pytest.approx(1 - 0.025 ** (1 / 100)))
    left_out = 0.5 + 0.002 * np.resize([1.0, -1.0], 20)
    half = uncertainty.score_from_dependent_share(0.5, left_out, sizes=[100] * 20, count=10_000)
    assert half.stderr == pytest.approx(math.sqrt(19 / 20 * 20) * 0.002)
    width = 2.093024 * half.stderr
    assert half.ci95 == pytest.approx((0.5 - width, 0.5 + width), abs=0.05 * width)


@pytest.mark.parametrize("expected", [0.1, 3.0])
def test_interval_of_a_dependent_share_covers_rare_events(expected: float) -> None:
    """Of 400 things, each missed when none of its own few images hits it: a Poisson number of independent misses."""
    rng, hits = np.random.default_rng(7), 0
    numbers = uncertainty.block_numbers(2000)
    for _ in range(100):
        # Thing i is reached by a number of images that is Poisson with mean log(400 / expected): missed with e^-mean.
        reached = rng.poisson(math.log(400 / expected), size=400)
        by_block = np.zeros((400, 20))
        things = np.repeat(np.arange(400), reached)
        np.add.at(by_block, (things, numbers[rng.integers(2000, size=len(things))]), 1)
        left_out = (by_block.sum(axis=1, keepdims=True) > by_block).mean(axis=0)
        value = float((reached > 0).mean())
        low, high = uncertainty.score_from_dependent_share(value, left_out, sizes=[100] * 20, count=400).ci95 or (0, 0)
        hits += low <= 1 - expected / 400 <= high
    assert hits / 100 > 0.9
