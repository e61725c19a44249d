"""Noise schedules at values known in closed form, and every sub-sequence against a formula of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from baselines.schedules import (
    CLEAN,
    EDM,
    Discrete,
    Exploding,
    Level,
    betas,
    discrete_grid,
    karras_grid,
    sections,
    signal,
    subsequence,
)

T = 1000
ALL = range(1, T + 1)


def halves(numerator: int, denominator: int) -> tuple[int, ...]:
    """The nearest whole numbers of a fraction: one, or two where it lies half way, the even one last."""
    whole, rest = divmod(numerator, denominator)
    if 2 * rest == denominator:
        return (whole + 1, whole) if whole % 2 == 0 else (whole, whole + 1)
    return (whole + (2 * rest > denominator),)


def test_linear_is_linear_in_beta() -> None:
    beta = betas("linear")
    assert beta.dtype == np.float64 and beta.shape == (T,)
    assert [beta[0], beta[-1]] == [1e-4, 0.02]
    assert beta[333] == pytest.approx(1e-4 + 333 / 999 * 0.0199, rel=1e-12)


def test_scaled_linear_is_linear_in_the_root_of_beta() -> None:
    beta = betas("scaled_linear", low=0.0015, high=0.0195)
    root = 0.0015**0.5 + 333 / 999 * (0.0195**0.5 - 0.0015**0.5)
    assert beta[333] == pytest.approx(root**2, rel=1e-12)
    assert beta[[0, -1]] == pytest.approx([0.0015, 0.0195], rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "limits", "first", "last"),
    [
        ("linear", {}, 0.9999, 4.0358e-5),
        (
            "scaled_linear",
            {"low": 0.0015, "high": 0.0195},
            0.9985,
            1.4230e-4,
        ),  # latent diffusion on faces, class labels
        ("scaled_linear", {"low": 0.0015, "high": 0.0155}, 0.9985, 6.6867e-4),  # latent diffusion on churches
        ("scaled_linear", {"low": 0.00085, "high": 0.012}, 0.99915, 4.6601e-3),  # Stable Diffusion
    ],
)
def test_end_points_of_the_published_processes(kind: str, limits: dict[str, float], first: float, last: float) -> None:
    remaining = signal(betas(kind, **limits))
    assert remaining[0] == pytest.approx(first, rel=1e-9)
    assert remaining[-1] == pytest.approx(last, rel=1e-4)


@pytest.mark.parametrize("steps", [50, 1000, 4000])
def test_cosine_follows_its_formula_up_to_the_limit_of_beta(steps: int) -> None:
    beta = betas("cosine", steps)
    remaining = signal(beta)
    for i in (0, 1, steps // 3, steps // 2, steps - 2):
        expected = (
            math.cos(((i + 1) / steps + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
        ) ** 2
        assert remaining[i] == pytest.approx(expected, rel=1e-9)
    assert beta[-1] == 0.999 and beta[:-1].max() < 0.999


def test_sigmoid_follows_its_formula() -> None:
    remaining = signal(betas("sigmoid", T))

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    for i in (0, 249, 499, 700, T - 2):
        expected = (sigmoid(3) - sigmoid(6 * (i + 1) / T - 3)) / (sigmoid(3) - sigmoid(-3))
        assert remaining[i] == pytest.approx(expected, rel=1e-9)
    assert remaining[499] == pytest.approx(0.5, rel=1e-12), "symmetric about the middle"


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "cosine", "sigmoid"])
def test_betas_are_variances_of_a_process_that_loses_its_signal(kind: str) -> None:
    beta = betas(kind)
    assert beta.min() > 0 and beta.max() <= 0.999
    assert signal(beta)[-1] < 5e-3


def test_uniform_and_offset_for_every_count() -> None:
    for steps in ALL:
        expected = list(range(0, T, T // steps))[:steps]
        # What is left beyond the last stride is more than a tenth of the process: 501 steps would end at 500.
        if T - steps * (T // steps) > T / 10:
            for spacing in ("uniform", "offset"):
                with pytest.raises(ValueError, match=rf"would begin at timestep \d+.*respaced.* a divisor of {T}"):
                    subsequence(steps, T, spacing)
            continue
        assert subsequence(steps, T, "uniform") == expected
        if steps < T:
            assert subsequence(steps, T, "offset") == [t + 1 for t in expected]
    with pytest.raises(ValueError, match="would visit timestep 1000"):
        subsequence(T, T, "offset")


def test_uniform_is_the_original_one_where_the_count_divides() -> None:
    divisors = [s for s in ALL if T % s == 0]
    assert [s for s in ALL if len(range(0, T, T // s)) == s] == divisors, "elsewhere ermongroup's has more steps"
    assert subsequence(50, T, "uniform") == list(range(0, T, 20))
    assert subsequence(50, T, "offset") == list(range(1, T, 20))


def test_quadratic_for_every_count() -> None:
    for steps in range(2, T + 1):
        exact = [divmod(i * i * 800, (steps - 1) ** 2) for i in range(steps)]
        found = set(subsequence(steps, T, "quadratic"))
        # Where the square is whole, rounding may fall below it; the original code has the same rounding.
        assert {whole for whole, rest in exact if rest} | {0, 800} <= found
        assert found <= {whole for whole, _ in exact} | {
            whole - 1 for whole, rest in exact if not rest and 0 < whole < 800
        }


@pytest.mark.parametrize(("steps", "repeated"), [(10, 0), (50, 1), (100, 4), (250, 20)])
def test_quadratic_counts_levels_that_coincide_once(steps: int, repeated: int) -> None:
    assert steps - len(subsequence(steps, T, "quadratic")) == repeated


def test_respaced_for_every_count() -> None:
    different = []
    for steps in range(2, T + 1):
        found = subsequence(steps, T, "respaced")
        assert len(found) == steps and (found[0], found[-1]) == (0, T - 1)
        rounded = [halves(i * (T - 1), steps - 1) for i in range(steps)]
        # A running sum of floats rounds as the exact number does, but where that is half way between two timesteps.
        assert all(t in choice for t, choice in zip(found, rounded, strict=True))
        if found != [choice[-1] for choice in rounded]:
            different.append(steps)
    assert len(different) == 283 and different[:4] == [21, 23, 27, 35]
    assert not {10, 25, 50, 100, 250} & set(different)
    assert subsequence(1, T, "respaced") == [0]


def test_sections_are_respaced_one_by_one() -> None:
    found = sections([90, 60, 60, 20, 20], T)
    assert len(found) == 250 and found == sorted(set(found))
    ends = [(found[a], found[b - 1]) for a, b in ((0, 90), (90, 150), (150, 210), (210, 230), (230, 250))]
    assert ends == [(0, 199), (200, 399), (400, 599), (600, 799), (800, 999)]
    assert found[:90] == subsequence(90, 200, "respaced")
    assert sections([3, 1, 2], 10) == [0, 2, 3, 4, 7, 9], "10 timesteps in three sections are 4, 3 and 3"


@pytest.mark.parametrize("counts", [[201, 1, 1, 1, 1], [0, 1]])
def test_sections_out_of_range(counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"Section 1 of \d takes 1 to \d+ steps"):
        sections(counts, T)


def test_trailing_for_every_count() -> None:
    for steps in ALL:
        expected = [halves(i * T, steps)[-1] - 1 for i in range(1, steps + 1)]
        assert subsequence(steps, T, "trailing") == expected
    assert subsequence(50, T, "trailing") == list(range(19, T, 20))


@pytest.mark.parametrize("spacing", ["uniform", "quadratic", "respaced", "trailing"])
def test_every_sub_sequence_stays_in_the_process(spacing: str) -> None:
    for steps in ALL:
        if spacing == "uniform" and T % steps > T / 10:
            continue
        found = subsequence(steps, T, spacing)
        assert found == sorted(set(found)) and found[0] >= 0 and found[-1] < T
        assert len(found) == steps or spacing == "quadratic"


@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_count_out_of_range(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"\[1, 1000\].*got {steps}"):
        subsequence(steps, T, "uniform")


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="'logarithmic'; there are uniform, offset"):
        subsequence(10, T, "logarithmic")
    with pytest.raises(ValueError, match="'linaer'; there are linear, scaled_linear"):
        betas("linaer")


def test_grid_descends_and_lands_where_it_is_told() -> None:
    beta = betas("linear")
    grid = discrete_grid(beta, [0, 500, 999])
    assert [level.t for level in grid] == [999, 500, 0, -1] and grid[-1] == CLEAN
    for level in grid:
        assert level.alpha**2 + level.sigma**2 == pytest.approx(1, abs=1e-15)
    product = math.prod(1 - b for b in beta[:501].tolist())
    assert grid[1].alpha == pytest.approx(product**0.5, rel=1e-13)
    assert grid[1].sigma == pytest.approx((1 - product) ** 0.5, rel=1e-13)
    # Latent diffusion stops at the level of timestep 0, where noise of this standard deviation is left.
    latent = betas("scaled_linear", low=0.0015, high=0.0195)
    first = discrete_grid(latent, [0])[0]
    assert discrete_grid(latent, [1, 21], last=first)[-1] == first and first.sigma == pytest.approx(0.0387, abs=5e-5)


def test_karras_grid() -> None:
    grid = karras_grid(18)
    assert len(grid) == 19 and grid[-1] == CLEAN
    assert [grid[0].sigma, grid[17].sigma] == pytest.approx([80, 0.002], rel=1e-12)
    roots = np.array([level.sigma for level in grid[:-1]]) ** (1 / 7)
    assert np.diff(roots) == pytest.approx(np.full(17, (0.002 ** (1 / 7) - 80 ** (1 / 7)) / 17), rel=1e-9)
    assert all(level == EDM.at(level.sigma) for level in grid[:-1])
    assert EDM.at(80.0) == (math.log(80) / 4, 1.0, 80.0)
    assert [level.sigma for level in karras_grid(1)] == pytest.approx([80, 0])


def test_counts_of_sections_are_a_spacing() -> None:
    adm = subsequence(250, 1000, "90,60,60,20,20")
    assert adm == sections([90, 60, 60, 20, 20], 1000) and len(adm) == 250
    with pytest.raises(ValueError, match="makes 250 steps; got steps=100"):
        subsequence(100, 1000, "90,60,60,20,20")


# Processes: what a network is told of a level, on and between the trained ones.


@pytest.mark.parametrize("told", [1.0, 0.25])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "scaled_linear", "sigmoid"])
def test_a_process_finds_its_own_levels_and_those_between(schedule: str, told: float) -> None:
    process = Discrete(schedule=schedule, steps=400, told=told)
    grid = process.grid(range(400))
    assert grid[-1] == CLEAN and [level.t for level in grid[:-1]] == [t * told for t in range(399, -1, -1)]
    for level in grid[:-1]:
        assert process.at(level.sigma / level.alpha) == pytest.approx(level, rel=1e-8, abs=1e-8)
    between = process.at(math.sqrt(grid[100].ratio * grid[101].ratio))
    assert between.t == pytest.approx((grid[100].t + grid[101].t) / 2, rel=1e-8)
    assert between.alpha**2 + between.sigma**2 == pytest.approx(1, rel=1e-14)
    for ratio in (0.0, grid[-2].ratio * 0.99, grid[0].ratio * 1.01):
        with pytest.raises(ValueError, match=r"sigma / alpha of this process lies in \["):
            process.at(ratio)


def test_rescaled_timesteps_are_those_of_improved_diffusion() -> None:
    """`_scale_timesteps` there is t * (1000 / num_timesteps): 0 to 999.75 for 4000 steps."""
    process = Discrete(schedule="cosine", steps=4000, told=1000 / 4000)
    plain = Discrete(schedule="cosine", steps=4000)
    chosen = subsequence(10, 4000, "respaced")
    assert [level.t for level in process.grid(chosen)][:2] == [999.75, 888.75]
    assert [level[1:] for level in process.grid(chosen)] == [level[1:] for level in plain.grid(chosen)]


def test_an_exploding_process_keeps_the_signal() -> None:
    assert EDM.at(0.5) == Level(math.log(0.5) / 4, 1.0, 0.5)
    assert Exploding(lambda sigma: sigma).at(3.0) == Level(3.0, 1.0, 3.0)
