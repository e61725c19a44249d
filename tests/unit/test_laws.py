"""Every sampler on laws that its own tests do not have: correlated Gaussians with a mean, data sets of few points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from oracles import gaussian, keyed, normal, order, propagate
from torch import Tensor

from baselines import damped
from baselines.adaptive import gotta_go_fast
from baselines.analytic import analytic
from baselines.damped import CriticallyDamped
from baselines.denoisers import Condition, Prediction
from baselines.langevin import alternating, euler_maruyama, langevin, reverse_diffusion
from baselines.learned import ancestral, generalised
from baselines.likelihood import bound
from baselines.multistep import dpm_solver, dpm_solver_single, unipc
from baselines.ode import log_likelihood, probability_flow
from baselines.processes import (
    Continuous,
    Cosine,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
    time_grid,
)
from baselines.sampling import sample
from baselines.schedules import CLEAN, EDM, Discrete, Level, Process, karras_ratios, log_ratios, ratio_grid, subsequence
from baselines.steps import Step, ddim, ddpm, heun, transition

MEAN = torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64)
_HALF = normal(3, 3, seed=5) * 0.3
COVARIANCE = _HALF @ _HALF.T + 0.02 * torch.eye(3, dtype=torch.float64)


def correlated(x: Tensor, p: Level, condition: Condition) -> Prediction:
    """The denoiser of N(MEAN, COVARIANCE) in the three pixels of an image of (1, 1, 3)."""
    mean, covariance = MEAN.to(x), COVARIANCE.to(x)
    total = p.alpha**2 * covariance + p.sigma**2 * torch.eye(3).to(x)
    x0 = mean + p.alpha * (x - p.alpha * mean) @ torch.linalg.solve(total, covariance)
    return Prediction(x0, (x - p.alpha * x0) / p.sigma)


def flown(x: Tensor, p: Level, q: Level) -> Tensor:
    """Where the probability flow of that law leads from p to q, in closed form: along the axes of the covariance."""
    values, axes = torch.linalg.eigh(COVARIANCE)
    growth = ((q.alpha**2 * values + q.sigma**2) / (p.alpha**2 * values + p.sigma**2)).sqrt()
    return q.alpha * MEAN + ((x - p.alpha * MEAN) @ axes * growth) @ axes.T


LAWS: dict[str, Process] = {
    "linear": Discrete(),
    "cosine": Discrete(schedule="cosine"),
    "scaled_linear": Discrete(schedule="scaled_linear", low=0.00085, high=0.012),
    "sigmoid": Discrete(schedule="sigmoid"),
    "4000 timesteps": Discrete(schedule="cosine", steps=4000, told=0.25),
    "other ends": Discrete(low=5e-5, high=0.03, steps=700),
    "vp": VariancePreserving(low=0.2, high=15.0),
    "sub-vp": SubVariancePreserving(),
    "ve": VarianceExploding(low=0.01, high=50.0),
    "edm": EDM,
    "continuous cosine": Cosine(),
}
SOLVERS: dict[str, tuple[Callable[[Process], Step], float]] = {
    "ddim": (lambda process: ddim(), 1.0),
    "heun": (lambda process: heun(process=process), 2.0),
    "2M": (lambda process: dpm_solver(2), 2.0),
    "3M": (lambda process: dpm_solver(3), 2.0),
    "2S": (lambda process: dpm_solver_single(2, process=process), 2.0),
    "3S": (lambda process: dpm_solver_single(3, process=process), 2.5),
    "DPM-Solver-3": (lambda process: dpm_solver_single(3, process=process, prediction="eps"), 2.5),
    "UniPC-2, bh1": (lambda process: unipc(2, "bh1"), 2.0),
    "UniPC-3": (lambda process: unipc(3), 2.0),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_follow_the_flow_of_a_correlated_gaussian(name: str, law: str) -> None:
    process, (make, expected) = LAWS[law], SOLVERS[name]
    errors = []
    for steps in (30, 60, 120):
        grid = [process.at(ratio) for ratio in log_ratios(steps + 1, low=0.05, high=10.0)]
        x = 10.0 * grid[0].alpha * normal(8, 1, 1, 3)
        known = flown(x, grid[0], grid[-1])
        errors.append(float((sample(correlated, make(process), grid, x, keyed()) - known).abs().mean()))
    assert order(errors)[-1] > expected - 0.2, (errors, order(errors))
    assert errors[-1] < 2e-2


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 1000])
def test_any_number_of_steps_ends_on_the_clean_image(name: str, steps: int) -> None:
    """In float32, as networks compute: no weight of a solver is lost to rounding where levels lie close together."""
    process, make = LAWS["cosine"], SOLVERS[name][0]
    grid = ratio_grid(process, karras_ratios(steps, low=0.01, high=80.0))
    x = normal(16, 1, 1, 3)
    exact = sample(correlated, make(process), grid, x, keyed())
    found = sample(correlated, make(process), grid, x.float(), keyed())
    torch.testing.assert_close(found.double(), exact, rtol=2e-3, atol=2e-4)
    if steps == 1:
        torch.testing.assert_close(exact, correlated(x, grid[0], {}).x0)
    if steps == 1000:
        known = correlated(flown(x, grid[0], grid[-2]), grid[-2], {}).x0
        torch.testing.assert_close(exact, known, rtol=0, atol=1e-2 if name == "ddim" else 2e-4)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("make", [
    lambda: ddpm("small"), lambda: ddpm("large"), lambda: ddpm(0.3), lambda: ddim(0.4), lambda: ddim(1.0),
    reverse_diffusion,
])  # fmt: skip
def test_stochastic_steps_reach_a_law_with_a_mean(make: Callable[[], Step], law: str) -> None:
    """Exact affine maps: errors of mean and standard deviation halve with twice the steps."""
    process, errors = LAWS[law], []
    for steps in (100, 200, 400):
        grid = [process.at(ratio) for ratio in log_ratios(steps + 1, low=0.05, high=10.0)]
        p, q = grid[0], grid[-1]
        start = math.hypot(p.alpha * 0.3, p.sigma)
        mean, std = propagate(gaussian(0.4, 0.3), make(), grid, p.alpha * 0.4, start)
        errors.append(abs(mean - q.alpha * 0.4) + abs(std - math.hypot(q.alpha * 0.3, q.sigma)))
    assert errors[-1] < 0.02
    assert min(order(errors)) > 0.8, errors


@pytest.mark.parametrize("process", [VariancePreserving(low=0.2, high=15.0), SubVariancePreserving(),
                                     VarianceExploding(low=0.01, high=50.0), Cosine()])  # fmt: skip
def test_euler_maruyama_reaches_a_law_with_a_mean(process: Continuous) -> None:
    errors = []
    for steps in (250, 500, 1000):
        grid = time_grid(process, steps, end=0.02)[:-1]
        p, q = grid[0], grid[-1]
        start = math.hypot(p.alpha * 0.3, p.sigma)
        mean, std = propagate(gaussian(0.4, 0.3), euler_maruyama(process), grid, p.alpha * 0.4, start)
        errors.append(abs(mean - q.alpha * 0.4) + abs(std - math.hypot(q.alpha * 0.3, q.sigma)))
    assert min(order(errors)) > 0.8, errors


@pytest.mark.parametrize("law", ["linear", "sigmoid", "scaled_linear", "other ends", "edm", "ve"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_the_optimal_variance_is_exact_on_every_process(law: str, steps: int) -> None:
    process = LAWS[law]
    grid = [process.at(ratio) for ratio in log_ratios(steps + 1, low=0.1, high=10.0)]
    p, q = grid[0], grid[-1]

    def gamma(level: Level) -> float:
        return level.sigma**2 / (level.alpha**2 * 0.3**2 + level.sigma**2)

    for eta in (0.0, 1.0):
        start = math.hypot(p.alpha * 0.3, p.sigma)
        mean, std = propagate(gaussian(0.4, 0.3), analytic(gamma, eta=eta), grid, p.alpha * 0.4, start)
        assert std == pytest.approx(math.hypot(q.alpha * 0.3, q.sigma), rel=1e-9)
        assert mean == pytest.approx(q.alpha * 0.4, rel=1e-9)


@pytest.mark.parametrize("law", ["edm", "ve", "linear", "sub-vp"])
def test_churn_keeps_the_law(law: str) -> None:
    process, errors = LAWS[law], []
    for steps in (100, 200, 400):
        grid = [process.at(ratio) for ratio in log_ratios(steps + 1, low=0.05, high=10.0)]
        p, q = grid[0], grid[-1]
        start = math.hypot(p.alpha * 0.3, p.sigma)
        step = heun(40.0, process=process)
        # The first level cannot be raised above the highest one of its process.
        mean, std = propagate(gaussian(0.4, 0.3), step, grid, p.alpha * 0.4, start)
        errors.append(abs(mean - q.alpha * 0.4) + abs(std - math.hypot(q.alpha * 0.3, q.sigma)))
    assert errors[-1] < 1e-3 and min(order(errors)) > 1.8, (errors, order(errors))


@pytest.mark.parametrize("law", ["cosine", "sigmoid", "edm", "sub-vp"])
def test_the_sampler_from_which_learning_starts_is_ancestral_on_every_process(law: str) -> None:
    process = LAWS[law]
    grid = ratio_grid(process, karras_ratios(6, low=0.05, high=20.0))
    x = grid[0].sigma * normal(4, 1, 1, 3)
    found = sample(correlated, generalised(ancestral(grid)), grid, x, keyed())
    torch.testing.assert_close(found, sample(correlated, ddpm("small"), grid, x, keyed()))


@pytest.mark.parametrize("process", [Discrete(schedule="cosine"), Discrete(schedule="sigmoid"), EDM,
                                     SubVariancePreserving(), VarianceExploding()])  # fmt: skip
def test_the_likelihood_of_a_correlated_gaussian(process: Process) -> None:
    """The mean over all probes of three signs is the trace itself."""
    x0 = MEAN + normal(1, 1, 1, 3, seed=3) * 0.3
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64).view(8, 1, 1, 3)

    def probes(draw: int, like: Tensor, stream: int = 0) -> Tensor:
        return signs

    low, high = 0.03, 60.0
    found, _ = log_likelihood(
        correlated, process, x0.expand(8, 1, 1, 3), probes, {}, low=low, high=high, rtol=1e-7, atol=1e-7
    )
    # x0 is taken for x / alpha on the lowest level, and what the flow makes of it has the density of N(0, high^2).
    there = flown(x0, EDM.at(low), EDM.at(high)).flatten()
    stretch = 0.5 * ((torch.linalg.eigvalsh(COVARIANCE) + high**2) / (torch.linalg.eigvalsh(COVARIANCE) + low**2)).log()
    known = torch.distributions.Normal(0.0, high).log_prob(there).sum() + stretch.sum()
    assert float(found.mean()) == pytest.approx(float(known), abs=1e-5)


def test_the_flow_by_an_adaptive_solver_is_the_closed_form() -> None:
    for process in (Discrete(schedule="sigmoid"), SubVariancePreserving(), VarianceExploding()):
        x = normal(5, 1, 1, 3) * process.at(20.0).sigma
        run = probability_flow(process, high=20.0, low=0.05, rtol=1e-7, atol=1e-7, denoised=False)
        known = flown(x, process.at(20.0), process.at(0.05)) / process.at(0.05).alpha
        torch.testing.assert_close(run(correlated, x, keyed(), {}), known, rtol=0, atol=1e-5)


POINTS = torch.tensor([[25, 153], [178, 204], [217, 64]], dtype=torch.float64) / 127.5 - 1  # 8-bit values
SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def of_points(x: Tensor, p: Level, condition: Condition) -> Prediction:
    """The denoiser of a data set of three images of two pixels: their mean by posterior probability."""
    alpha, sigma = (torch.as_tensor(scale, dtype=torch.float64).reshape(-1, 1, 1) for scale in (p.alpha, p.sigma))
    apart = (x.double().flatten(1)[:, None] - alpha * POINTS).square().sum(2)
    share = torch.softmax(SHARES.log() - apart / (2 * sigma[:, 0] ** 2), dim=1)
    x0 = (share @ POINTS).view(x.shape).to(x)
    return Prediction(x0, (x - p.alpha * x0) / p.sigma, torch.zeros_like(x))


def walked(step: Step, grid: list[Level], count: int = 1000) -> Tensor:
    return sample(of_points, step, grid, grid[0].sigma * normal(count, 1, 1, 2), keyed())


VP = VariancePreserving()
# Of two pixels the score of a single image is now and then near 0, and a step as long as its norm says without bounds.
WALKS: dict[str, Callable[[], Tensor]] = {
    "ddim": lambda: walked(ddim(), Discrete(schedule="sigmoid").grid(subsequence(100, 1000, "respaced"))),
    "2M": lambda: walked(dpm_solver(2), ratio_grid(EDM, karras_ratios(40))),
    "3S": lambda: walked(dpm_solver_single(3, process=EDM), ratio_grid(EDM, karras_ratios(20))),
    "UniPC-3": lambda: walked(unipc(3), ratio_grid(EDM, karras_ratios(40))),
    "heun, churn": lambda: walked(heun(40.0), ratio_grid(EDM, karras_ratios(60))),
    "ddpm": lambda: walked(ddpm("small"), Discrete().grid(subsequence(200, 1000, "respaced"))),
    "ddpm, learned": lambda: walked(
        ddpm("learned"), Discrete(schedule="cosine").grid(subsequence(200, 1000, "respaced"))
    ),
    "pc": lambda: walked(
        alternating(langevin(0.1, norms="batch"), reverse_diffusion()), time_grid(VarianceExploding(), 200, end=1e-5)
    ),
    "euler-maruyama": lambda: walked(euler_maruyama(VP), time_grid(VP, 500, end=1e-3)),
    "gotta-go-fast": lambda: gotta_go_fast(VP, relative=0.1)(of_points, normal(400, 1, 1, 2), keyed(), {}),
}


@pytest.mark.parametrize("name", WALKS)
def test_samples_are_the_points_as_often_as_they_should_be(name: str) -> None:
    found = WALKS[name]().flatten(1)
    apart = torch.cdist(found, POINTS)
    assert float(apart.min(1).values.max()) < 0.02
    counts = torch.bincount(apart.argmin(1), minlength=3).double()
    expected = SHARES * len(found)
    assert float(((counts - expected) ** 2 / expected).sum()) < 16, counts  # chi^2 of 2 degrees, p = 3e-4


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_the_bound_of_a_data_set_is_its_entropy_and_what_its_pixels_cost(schedule: str, variance: str) -> None:
    """Of 1000 steps a perfect network leaves -log of the share of an image, and what the variances cost a pixel.

    Those that are not that of the posterior have a divergence from it. The last step's Gaussian is centred on the pixel
    and has a part of its mass in the cell, whose half width is 1 / 255.
    """
    process, which = Discrete(schedule=schedule), torch.arange(3).repeat_interleave(100)
    grid = process.grid(subsequence(1000, 1000, "respaced"))
    x0 = POINTS[which].view(-1, 1, 1, 2)
    nats = bound(of_points, grid, x0, keyed(), {}, variance) * 2 * math.log(2)  # type: ignore[arg-type]
    pixel = 0.0
    for i in range(999):
        p, q = grid[i : i + 2]
        beta, small = transition(p, q), transition(p, q) * (q.sigma / p.sigma) ** 2
        chosen = {"large": beta, "small": small, "learned": math.sqrt(beta * small)}[variance]  # the output is 0
        pixel += 0.5 * (math.log(chosen / small) - 1 + small / chosen)
    before, beta = small, transition(grid[-2], CLEAN)
    chosen = {"large": beta, "small": before, "learned": math.sqrt(beta * before)}[variance]
    pixel -= math.log(math.erf(1 / 255 / math.sqrt(2 * chosen)))
    each = nats.view(3, 100)
    above, error = each.mean(1) + SHARES.log() - 2 * pixel, each.std(1) / 10
    assert ((above > -0.03 - 4 * error) & (above < 0.1 + 4 * error)).all(), (above, error)


OTHER = CriticallyDamped(mass=0.6, beta=5.0, share=0.1)


@pytest.mark.parametrize("make", [damped.euler_maruyama, damped.sscs])
def test_damped_samplers_of_another_mass_find_the_law(make: Callable[[CriticallyDamped], Step]) -> None:
    """Means and spreads of many pixels, whose noise is shared by both numbers of steps."""
    errors = []
    for steps in (50, 200):
        grid = OTHER.grid(steps, end=0.02, striding="linear")
        noise = keyed()
        u = noise(0, torch.empty(1, 2, 100, 100, dtype=torch.float64))
        u[:, 1:] *= math.sqrt(OTHER.mass)
        found = sample(damped.lifted(OTHER, gaussian(0.2, 0.4), EDM), make(OTHER), grid, u, noise)[:, :1]
        errors.append(max(abs(float(found.mean()) - 0.2), abs(float(found.std()) - 0.4)))
    assert errors[1] < 0.03 and errors[1] < errors[0] + 0.005, errors


def test_gotta_go_fast_converges_with_its_tolerance() -> None:
    process = VariancePreserving(low=0.2, high=15.0)
    errors = []
    for relative in (0.2, 0.005):
        x = normal(1, 1, 64, 64)
        run = gotta_go_fast(process, relative=relative, absolute=0.0005, end=1e-3)
        found = run(gaussian(0.3, 0.4), x, keyed(), {})
        errors.append(max(abs(float(found.mean()) - 0.3), abs(float(found.std()) - 0.4)))
    assert errors[-1] < 0.02, errors


def test_predictor_and_corrector_reach_a_law_with_a_mean() -> None:
    process = VarianceExploding(low=0.01, high=50.0)
    grid = time_grid(process, 300, end=1e-5)
    x = grid[0].sigma * normal(1, 1, 128, 128)
    found = sample(gaussian(0.3, 0.4), alternating(langevin(0.05), reverse_diffusion()), grid, x, keyed())
    assert float(found.mean()) == pytest.approx(0.3, abs=0.02)
    assert float(found.std()) == pytest.approx(0.4, rel=0.03)
