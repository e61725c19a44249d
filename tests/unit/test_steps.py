"""Steps on data whose denoiser is known: output variance, order of convergence, limits and identities, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from oracles import circle, gaussian, keyed, maps, mixture, mixture_density, normal, order, propagate
from scipy.integrate import solve_ivp
from torch import Tensor

from baselines.denoisers import Condition, Denoiser, Prediction
from baselines.guidance import clip, on_x0
from baselines.noise import Noise
from baselines.sampling import sample
from baselines.schedules import (
    CLEAN,
    EDM,
    Discrete,
    Grid,
    Level,
    betas,
    discrete_grid,
    karras_grid,
    signal,
    subsequence,
)
from baselines.steps import Step, ddim, ddpm, heun

STD = 0.5
MIXTURE = ((-1.0, 0.2, 1.1), 0.2, (0.3, 0.5, 0.2))
LINEAR = betas("linear")


def uniform(steps: int) -> list[Level]:
    return discrete_grid(LINEAR, subsequence(steps, 1000, "uniform"))


def closed_form(steps: int, eta: float | None, variance: str | None) -> float:
    """Standard deviation of the output for N(0, STD^2): DDIM's equation 12 or DDPM's equation 7, in alpha-bar."""
    bars = [1.0, *np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[:: 1000 // steps].tolist()]
    total = 1.0
    for bar, before in zip(bars[:0:-1], bars[-2::-1], strict=True):
        eps = math.sqrt(1 - bar) / (bar * STD**2 + 1 - bar)
        x0 = math.sqrt(bar) * STD**2 / (bar * STD**2 + 1 - bar)
        beta = 1 - bar / before
        small = (1 - before) / (1 - bar) * beta
        if eta is not None:
            factor = math.sqrt(before) * x0 + math.sqrt(1 - before - eta**2 * small) * eps
            added = eta**2 * small
        else:
            factor = (math.sqrt(before) * beta * x0 + math.sqrt(1 - beta) * (1 - before)) / (1 - bar)
            added = 0.0 if before == 1 else {"small": small, "large": beta}[variance or ""]
        total = factor**2 * total + added
    return math.sqrt(total)


@pytest.mark.parametrize(
    ("step", "eta", "variance", "known"),
    [
        (ddim(0.0), 0.0, None, (0.3741, 0.4724, 0.4943)),
        (ddim(0.5), 0.5, None, None),
        (ddim(1.0), 1.0, None, (0.3333, 0.4441, 0.4858)),
        (ddpm("small"), None, "small", (0.3333, 0.4441, 0.4858)),
        (ddpm("large"), None, "large", (0.5890, 0.5172, 0.5033)),
    ],
    ids=["ddim-0", "ddim-0.5", "ddim-1", "small", "large"],
)
def test_output_variance(step: Step, eta: float | None, variance: str | None, known: tuple[float, ...] | None) -> None:
    """Few steps lose variance, and the large variance adds too much; the values are those of other implementations."""
    for i, steps in enumerate((10, 50, 250)):
        mean, std = propagate(gaussian(0.0, STD), step, uniform(steps), 0.0, 1.0)
        assert mean == 0.0
        assert std == pytest.approx(closed_form(steps, eta, variance), rel=1e-9)
        if known:
            assert std == pytest.approx(known[i], abs=5e-5)


@pytest.mark.parametrize(("steps", "std"), [(18, 0.5276), (40, 0.5049), (128, 0.5004)])
def test_output_variance_of_edm(steps: int, std: float) -> None:
    grid = karras_grid(steps)
    assert propagate(gaussian(0.0, STD), heun(), grid, 0.0, 80.0)[1] == pytest.approx(std, abs=5e-5)
    expected = 80.0
    for p, q in pairwise(grid):
        slope = p.sigma / (p.sigma**2 + STD**2)
        there = 1 + (q.sigma - p.sigma) * slope
        slope_there = there * q.sigma / (q.sigma**2 + STD**2) if q.sigma else slope
        expected *= 1 + (q.sigma - p.sigma) * (slope + slope_there) / 2
    assert propagate(gaussian(0.0, STD), heun(), grid, 0.0, 80.0)[1] == pytest.approx(expected, rel=1e-10)


# Order of convergence.


def end(step: Step, denoise: Denoiser, x: Tensor, steps: int) -> Tensor:
    return sample(denoise, step, circle(steps, start=1.5, end=0.1), x.view(-1, 1, 1, 1), keyed()).flatten()


def flow(x: Tensor) -> Tensor:
    """The probability flow of the mixture from angle 1.5 to 0.1, integrated by a method of order 8."""

    def slope(ratio: float, y: np.ndarray) -> np.ndarray:
        angle = math.atan(ratio)
        level = Level(angle, math.cos(angle), math.sin(angle))
        return mixture(*MIXTURE)(level.alpha * torch.from_numpy(y), level, {}).eps.numpy()

    span = (math.tan(1.5), math.tan(0.1))
    solved = solve_ivp(slope, span, (x / math.cos(1.5)).numpy(), method="DOP853", rtol=1e-11, atol=1e-12)
    return torch.from_numpy(solved.y[:, -1]) * math.cos(0.1)


def gaussian_errors(step: Step, counts: tuple[int, ...] = (20, 40, 80, 160)) -> list[float]:
    """Of the end point against the exact flow, under which a Gaussian keeps its quantiles."""
    mean, x = 0.3, torch.linspace(-2, 2, 9, dtype=torch.float64)
    (a, s), (b, r) = ((math.cos(t), math.sin(t)) for t in (1.5, 0.1))
    exact = b * mean + math.sqrt((b**2 * STD**2 + r**2) / (a**2 * STD**2 + s**2)) * (x - a * mean)
    return [float((end(step, gaussian(mean, STD), x, n) - exact).abs().max()) for n in counts]


def mixture_errors(step: Step, counts: tuple[int, ...] = (80, 160, 320, 640)) -> list[float]:
    x = torch.linspace(-2.2, 2.2, 12, dtype=torch.float64)
    exact = flow(x)
    return [float((end(step, mixture(*MIXTURE), x, n) - exact).abs().max()) for n in counts]


@pytest.mark.parametrize(("step", "expected"), [(ddim(0.0), 1), (heun(), 2)], ids=["ddim", "heun"])
@pytest.mark.parametrize("errors", [gaussian_errors, mixture_errors])
def test_order_of_convergence(step: Step, expected: int, errors: Callable[[Step], list[float]]) -> None:
    found = errors(step)
    assert order(found)[-1] == pytest.approx(expected, abs=0.1)
    assert found[-1] < (0.02 if expected == 1 else 2e-4)


def wrong_ddim(direction: float) -> Step:
    """DDIM's deterministic step with its direction term multiplied; 1 is right."""

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        prediction, q = denoise(x, grid[i], condition), grid[i + 1]
        return q.alpha * prediction.x0 + direction * q.sigma * prediction.eps

    return step


@pytest.mark.parametrize("direction", [0.9, -1.0])
def test_wrong_steps_are_noticed(direction: float) -> None:
    """What is checked above holds for the right direction term and fails for one that is short, or has another sign."""
    right, wrong = wrong_ddim(1.0), wrong_ddim(direction)
    assert order(gaussian_errors(right))[-1] == pytest.approx(1, abs=0.1)
    assert abs(order(gaussian_errors(wrong))[-1]) < 0.5 and gaussian_errors(wrong)[-1] > 0.05
    for steps in (10, 50, 250):
        known = closed_form(steps, 0.0, None)
        assert propagate(gaussian(0.0, STD), right, uniform(steps), 0.0, 1.0)[1] == pytest.approx(known, rel=1e-9)
        assert abs(propagate(gaussian(0.0, STD), wrong, uniform(steps), 0.0, 1.0)[1] - known) > 0.02


# Ancestral steps converge to the data.


@pytest.mark.parametrize("variance", ["small", "large", "learned", 0.3])
def test_ancestral_sampling_converges_to_a_gaussian(variance: str | float) -> None:
    errors = []
    for steps in (200, 400, 800):
        grid = circle(steps)
        start = math.hypot(grid[0].alpha * STD, grid[0].sigma)
        step = ddpm(variance)  # type: ignore[arg-type]
        mean, std = propagate(gaussian(0.3, STD, variance=-0.4), step, grid, grid[0].alpha * 0.3, start)
        errors.append(abs(std - STD))
        assert mean == pytest.approx(0.3, abs=2e-3)
    assert order(errors)[-1] == pytest.approx(1, abs=0.1) and errors[-1] < 3e-3


@pytest.mark.parametrize(
    "step", [ddpm("small"), ddpm("large"), ddim(1.0), ddim(0.5)], ids=["small", "large", "ddim-1", "ddim-0.5"]
)
def test_ancestral_sampling_converges_to_a_mixture(step: Step) -> None:
    """The density itself is carried through the steps, by quadrature, and meets that of the data."""
    x = torch.linspace(-6, 6, 401, dtype=torch.float64)
    width = float(x[1] - x[0])
    errors = []
    for steps in (25, 50, 100):
        grid = circle(steps, start=1.5, end=0.25)
        density = mixture_density(x, *MIXTURE, grid[0])
        for i in range(steps):
            centre, spread = maps(mixture(*MIXTURE), step, grid, i, x)
            kernel = torch.exp(-0.5 * ((x[:, None] - centre) / spread) ** 2) / spread
            density = kernel @ density * (width / math.sqrt(2 * math.pi))
        assert float(density.sum()) * width == pytest.approx(1, abs=1e-6)
        errors.append(float((density - mixture_density(x, *MIXTURE, grid[-1])).abs().sum()) * width)
    assert order(errors)[-1] == pytest.approx(1, abs=0.2) and errors[-1] < 0.05


# Identities.


def walked(step: Step, grid: Grid, denoise: Denoiser | None = None) -> Tensor:
    return sample(denoise or mixture(*MIXTURE), step, grid, normal(8, 3, 4, 4), keyed())


@pytest.mark.parametrize("grid", [uniform(50), circle(30), discrete_grid(LINEAR, [3, 70, 71, 600, 999])])
def test_ddim_with_full_noise_is_ancestral_sampling(grid: Grid) -> None:
    assert torch.allclose(walked(ddim(1.0), grid), walked(ddpm("small"), grid), rtol=1e-9, atol=1e-10)
    # Clipping changes nothing as long as the noise follows from the clipped image, and it does if not.
    limited = on_x0(mixture(*MIXTURE), lambda x0: x0.clamp(-0.5, 0.5))
    apart = on_x0(mixture(*MIXTURE), lambda x0: x0.clamp(-0.5, 0.5), rederive=False)
    assert torch.allclose(walked(ddim(1.0), grid, limited), walked(ddpm("small"), grid, limited), rtol=1e-9, atol=1e-10)
    assert not torch.allclose(walked(ddim(1.0), grid, apart), walked(ddpm("small"), grid, apart), atol=1e-3)


def test_deterministic_ddim_is_eulers_rule() -> None:
    grid, x = uniform(20), normal(8, 3, 4, 4)
    scaled = x / grid[0].alpha
    for p, q in pairwise(grid):
        slope = mixture(*MIXTURE)(scaled * p.alpha, p, {}).eps
        scaled = scaled + (q.sigma / q.alpha - p.sigma / p.alpha) * slope
    assert torch.allclose(walked(ddim(), grid), scaled, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_levels_that_coincide_change_nothing(eta: float) -> None:
    """The original quadratic sub-sequence of 100 steps visits timestep 0 five times."""
    once = discrete_grid(LINEAR, subsequence(100, 1000, "quadratic"))
    repeated = once[:-1] + [once[-2]] * 4 + once[-1:]
    assert len(repeated) == 101 and once[-2].t == 0
    assert torch.allclose(walked(ddim(eta), once), walked(ddim(eta), repeated), rtol=0, atol=1e-9)


def test_sigma_hat_of_the_ddim_paper_is_the_large_variance() -> None:
    """Its appendix keeps the mean of eta = 1 and replaces the added noise's sigma by sigma-hat."""
    grid, x, z = uniform(10), normal(4, 1, 3, 3), normal(4, 1, 3, 3, seed=1)
    for i in range(9):
        bar, before = grid[i].alpha ** 2, grid[i + 1].alpha ** 2
        prediction = mixture(*MIXTURE)(x, grid[i], {})
        own = (1 - before) / (1 - bar) * (1 - bar / before)
        expected = math.sqrt(before) * prediction.x0 + math.sqrt(1 - before - own) * prediction.eps
        expected = expected + math.sqrt(1 - bar / before) * z
        found = ddpm("large")(mixture(*MIXTURE), x, grid, i, lambda draw, like: z, {})
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)


# Variances.


def beta_of(grid: Grid, i: int) -> tuple[float, float]:
    """(beta, beta-tilde) of a step, from the cumulative products."""
    bar, before = grid[i].alpha ** 2, grid[i + 1].alpha ** 2
    return 1 - bar / before, (1 - before) / (1 - bar) * (1 - bar / before)


X = torch.tensor([0.4, -1.0], dtype=torch.float64)


def spread(step: Step, grid: Grid, i: int, variance: float | None = None) -> float:
    factor = maps(gaussian(0.1, STD, variance=variance), step, grid, i, X)[1]
    assert float(factor.max() - factor.min()) < 1e-14
    return float(factor[0]) ** 2


def test_added_variance_of_every_choice() -> None:
    grid = uniform(25)
    for i in range(24):
        beta, small = beta_of(grid, i)
        assert spread(ddpm("small"), grid, i) == pytest.approx(small, rel=1e-9)
        assert spread(ddpm("large"), grid, i) == pytest.approx(beta, rel=1e-9)
        for output, expected in ((-1.0, small), (0.0, math.sqrt(beta * small)), (1.0, beta), (0.2, None)):
            power = (output + 1) / 2
            value = beta**power * small ** (1 - power)
            assert expected is None or value == pytest.approx(expected, rel=1e-12)
            assert spread(ddpm("learned"), grid, i, output) == pytest.approx(value, rel=1e-9)
            assert spread(ddpm(power), grid, i) == pytest.approx(value, rel=1e-9)
        for eta in (0.0, 0.3, 1.0):
            assert spread(ddim(eta), grid, i) == pytest.approx(eta**2 * small, rel=1e-9)


@pytest.mark.parametrize("step", [ddpm("small"), ddpm("large"), ddpm("learned"), ddim(1.0), heun()])
def test_no_noise_onto_the_clean_level(step: Step) -> None:
    assert spread(step, uniform(10), 9, 0.0) == 0.0


@pytest.mark.parametrize(
    ("step", "share", "power"),
    [(ddim(1.0), 1.0, 0.0), (ddim(0.6), 0.36, 0.0), (ddpm("small"), 1.0, 0.0), (ddpm("large"), 1.0, 1.0)],
)
def test_noise_onto_any_other_level(step: Step, share: float, power: float) -> None:
    """Latent diffusion lands on the level of timestep 0 and adds noise in the last step too."""
    grid = discrete_grid(LINEAR, [1, 501], last=discrete_grid(LINEAR, [0])[0])
    beta, small = beta_of(grid, 1)
    assert spread(step, grid, 1) == pytest.approx(share * beta**power * small ** (1 - power), rel=1e-9)


def pushed(variance: float | None) -> Denoiser:
    """A Gaussian's denoiser with a classifier's gradient of 1 everywhere."""

    def denoise(x: Tensor, p: Level, condition: Condition) -> Prediction:
        found = gaussian(0.1, STD, variance=variance)(x, p, condition)
        return Prediction(found.x0, found.eps, found.variance, torch.ones_like(x))

    return denoise


@pytest.mark.parametrize(
    ("step", "output", "power"),
    [
        (ddpm("small"), None, 0.0),
        (ddpm("large"), None, 1.0),
        (ddpm("learned"), -1.0, 0.0),
        (ddpm("learned"), 0.5, 0.75),
    ],
)
def test_a_gradient_shifts_the_mean_by_the_variance(step: Step, output: float | None, power: float) -> None:
    """On the last step, where beta-tilde is 0, that of the step before stands in for it; "large" takes it as well."""
    grid = uniform(10)
    for i in range(10):
        shift = (
            maps(pushed(output), step, grid, i, X)[0] - maps(gaussian(0.1, STD, variance=output), step, grid, i, X)[0]
        )
        beta, small = beta_of(grid, i)
        if i == 9:
            small = beta_of(grid, 8)[1]
            beta = small if output is None else beta
        assert shift.tolist() == pytest.approx([beta**power * small ** (1 - power)] * 2, rel=1e-8)


def test_a_gradient_shifts_the_noise_of_deterministic_steps_without_clipping_again() -> None:
    grid = uniform(10)
    limited = on_x0(pushed(None), clip)
    x = torch.full((1, 1, 1, 1), 30.0, dtype=torch.float64)
    p, q = grid[4], grid[5]
    eps = (x - p.alpha * 1.0) / p.sigma - p.sigma
    assert limited(x, p, {}).x0.item() == 1.0
    x0 = (x - p.sigma * eps) / p.alpha
    assert x0.item() > 1, "the shifted image leaves [-1, 1]"
    found = ddim()(limited, x, grid, 4, keyed(), {})
    assert torch.allclose(found, q.alpha * x0 + q.sigma * eps, rtol=1e-12, atol=0)
    assert torch.allclose(heun()(limited, x, [p, CLEAN], 0, keyed(), {}), x0, rtol=1e-10, atol=0)


@pytest.mark.parametrize("variance", ["small", "large", "learned", 0.5])
def test_a_single_step_returns_the_clean_image(variance: str | float) -> None:
    grid = discrete_grid(LINEAR, [999])
    x, denoise = normal(2, 1, 2, 2), gaussian(0.1, STD, variance=0.0)
    found = ddpm(variance)(denoise, x, grid, 0, keyed(), {})  # type: ignore[arg-type]
    assert torch.allclose(found, denoise(x, grid[0], {}).x0, rtol=1e-12, atol=0)


# Noise added before a step of Heun's rule.


def churned(steps: int, churn: float, low: float, high: float, inflation: float) -> float:
    """Output standard deviation for N(0, STD^2), by the paper's algorithm 2 in variances."""
    grid, std = karras_grid(steps), 80.0
    for p, q in pairwise(grid):
        share = min(churn / steps, math.sqrt(2) - 1) if low <= p.sigma <= high else 0.0
        raised = p.sigma + share * p.sigma
        std = math.sqrt(std**2 + inflation**2 * (raised**2 - p.sigma**2))
        slope = raised / (raised**2 + STD**2)
        there = 1 + (q.sigma - raised) * slope
        slope_there = there * q.sigma / (q.sigma**2 + STD**2) if q.sigma else slope
        std *= 1 + (q.sigma - raised) * (slope + slope_there) / 2
    return std


@pytest.mark.parametrize(
    "settings",
    [(0.0, 0.0, math.inf, 1.0), (40.0, 0.05, 50.0, 1.003), (30.0, 0.01, 1.0, 1.007), (1e9, 0.0, math.inf, 1.0)],
)
def test_churn(settings: tuple[float, float, float, float]) -> None:
    churn, low, high, inflation = settings
    step = heun(churn, low=low, high=high, inflation=inflation)
    for steps in (18, 64):
        found = propagate(gaussian(0.0, STD), step, karras_grid(steps), 0.0, 80.0)[1]
        assert found == pytest.approx(churned(steps, *settings), rel=1e-9)


def test_churn_samples_the_data_and_corrects_errors() -> None:
    many = propagate(gaussian(0.2, STD), heun(40.0), karras_grid(256), 0.0, 80.0)
    assert many == pytest.approx((0.2, STD), abs=1e-3)
    # A start with the wrong variance is forgotten with churn and kept without.
    assert abs(propagate(gaussian(0.0, STD), heun(80.0), karras_grid(256), 0.0, 40.0)[1] - STD) < 0.005
    assert abs(propagate(gaussian(0.0, STD), heun(), karras_grid(256), 0.0, 40.0)[1] - STD) > 0.2


def test_churn_tells_the_network_the_raised_level() -> None:
    levels: list[Level] = []

    def denoise(x: Tensor, p: Level, condition: Condition) -> Prediction:
        levels.append(p)
        return gaussian(0.0, STD)(x, p, condition)

    grid = karras_grid(20)
    for churn, share in ((5.0, 0.25), (10.0, math.sqrt(2) - 1)):
        heun(churn)(denoise, normal(1, 1, 2, 2), grid, 3, keyed(), {})
        raised, following = levels[-2:]
        assert raised.sigma == pytest.approx(grid[3].sigma * (1 + share), rel=1e-14)
        assert raised == EDM.at(raised.sigma) and following == grid[4]


def test_churn_on_a_variance_preserving_grid_is_churn_on_edms_grid_of_the_same_ratios() -> None:
    process = Discrete()
    grid = process.grid(subsequence(20, 1000, "uniform"))
    ratios = [EDM.at(level.ratio) for level in grid[:-1]] + [CLEAN]
    settings = {"low": 0.1, "high": 30.0, "inflation": 1.003}
    here = propagate(gaussian(0.2, STD), heun(8.0, **settings, process=process), grid, 0.0, grid[0].sigma)
    there = propagate(gaussian(0.2, STD), heun(8.0, **settings), ratios, 0.0, ratios[0].sigma)
    assert here == pytest.approx(there, rel=1e-9)


# Processes that do not preserve variance.


@pytest.mark.parametrize(("step", "power"), [(ddpm("small"), 0), (ddpm("large"), 1), (ddim(1.0), 0)])
def test_added_variance_where_the_signal_keeps_its_scale(step: Step, power: int) -> None:
    """Reverse diffusion of score SDE's VE process (Song et al. 2021 App. F): sigma_p^2 - sigma_q^2."""
    grid = karras_grid(12)
    for i, (p, q) in enumerate(pairwise(grid[:-1])):
        beta = p.sigma**2 - q.sigma**2
        assert spread(step, grid, i) == pytest.approx(beta * (1 if power else (q.sigma / p.sigma) ** 2), rel=1e-9)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ancestral_sampling_of_a_variance_exploding_grid_converges(variance: str) -> None:
    errors = [
        abs(propagate(gaussian(0.0, STD), ddpm(variance), karras_grid(n), 0.0, 80.0)[1] - STD)  # type: ignore[arg-type]
        for n in (64, 128, 256)
    ]
    assert errors[0] < 0.06 and all(later < 0.6 * earlier for earlier, later in pairwise(errors))


def test_any_scaling_of_a_process_takes_the_same_steps() -> None:
    """x / alpha follows the same chain whatever alpha is; "large" alone is a variance of the noisier level's scale."""
    grid = uniform(10)
    factors = [1.0 + 0.3 * math.sin(i) for i in range(10)]
    scaled = [Level(p.t, f * p.alpha, f * p.sigma) for f, p in zip(factors, grid[:-1], strict=True)] + [CLEAN]
    for step in (ddpm("small"), ddim(0.7), heun()):
        plain = propagate(gaussian(0.2, STD), step, grid, 0.0, 1.0)
        assert propagate(gaussian(0.2, STD), step, scaled, 0.0, factors[0]) == pytest.approx(plain, rel=1e-9)


# What cannot be meant.


def test_arguments_out_of_range() -> None:
    for variance in ("medium", -0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"small, large, learned or a number in \[0, 1\]"):
            ddpm(variance)  # type: ignore[arg-type]
    for eta in (-0.1, 1.01, math.nan):
        with pytest.raises(ValueError, match=r"eta lies in \[0, 1\]"):
            ddim(eta)
    with pytest.raises(ValueError, match="needs a network that outputs a variance"):
        ddpm("learned")(gaussian(), normal(1, 1, 2, 2), uniform(10), 0, keyed(), {})
    with pytest.raises(ValueError, match="churn needs the process of its grid: alpha is"):
        heun(1.0)(gaussian(), normal(1, 1, 2, 2), uniform(10), 0, keyed(), {})


def test_signal_of_the_grid_is_that_of_the_process() -> None:
    """Guards the tests above, which read alpha-bar from the grid."""
    assert [level.alpha**2 for level in uniform(10)[:-1]] == pytest.approx(
        signal(LINEAR)[::100][::-1].tolist(), rel=1e-13
    )
