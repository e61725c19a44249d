"""Continuous processes, steps of score models, the adaptive SDE solver, analytic variances and likelihoods."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles import gaussian, keyed, propagate
from torch import Tensor

from baselines.adaptive import gotta_go_fast
from baselines.analytic import analytic, between, mean_squares
from baselines.denoisers import Condition, Prediction
from baselines.langevin import alternating, annealed_langevin, euler_maruyama, langevin, reverse_diffusion
from baselines.likelihood import bound, exact
from baselines.noise import image_noise
from baselines.processes import (
    Continuous,
    Cosine,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
    time_grid,
)
from baselines.sampling import sample
from baselines.schedules import CLEAN, EDM, Discrete, Level, LogSigma, log_ratios, ratio_grid, subsequence
from baselines.steps import ddim, ddpm

PROCESSES: list[Continuous] = [VariancePreserving(), SubVariancePreserving(), VarianceExploding(), Cosine()]
STD = 0.5


def named(process: object) -> str:
    return type(process).__name__


@pytest.mark.parametrize("process", PROCESSES, ids=named)
@pytest.mark.parametrize("time", [0.01, 0.3, 0.77, 0.98])
def test_drift_and_diffusion_follow_from_the_marginals(process: Continuous, time: float) -> None:
    """f = d log alpha / dt and g^2 = d sigma^2 / dt - 2 f sigma^2, by central differences in float64."""
    h = 1e-5
    a, b, p = process.level(time - h), process.level(time + h), process.level(time)
    f = (math.log(b.alpha) - math.log(a.alpha)) / (2 * h)
    assert process.drift(time) == pytest.approx(f, rel=1e-7, abs=1e-9)
    g2 = (b.sigma**2 - a.sigma**2) / (2 * h) - 2 * f * p.sigma**2
    assert process.diffusion(time) == pytest.approx(g2, rel=1e-6)


@pytest.mark.parametrize("process", PROCESSES, ids=named)
def test_levels_are_found_by_time_and_by_ratio(process: Continuous) -> None:
    for time in (0.02, 0.5, 0.9):
        p = process.level(time)
        assert process.time(p.ratio) == pytest.approx(time, rel=1e-9)
        assert process.at(p.ratio) == pytest.approx(p, rel=1e-9)


def test_processes_know_the_levels_of_their_training() -> None:
    """From time 1e-5 to 1, as yang-song/score_sde_pytorch trains; EDM's and consistency models' by sigma."""
    total = 0.5 * (0.1 + 20.0)  # B(1) is half the sum of the betas
    assert VariancePreserving().lowest == pytest.approx(0.1e-5**0.5, rel=1e-2)
    assert VariancePreserving().highest == pytest.approx(math.sqrt(math.expm1(total)))
    assert SubVariancePreserving().highest == pytest.approx(2 * math.sinh(total / 2))
    assert VarianceExploding().lowest == pytest.approx(0.02, rel=1e-3) and VarianceExploding().highest == 100.0
    edm, told = LogSigma(), LogSigma(told=250.0).at(0.002)
    assert (edm.lowest, edm.highest) == (0.002, 80.0)
    assert edm.at(2.0) == EDM.at(2.0)
    assert told.t == pytest.approx(-1553.65, abs=0.01) and told.sigma == 0.002


def test_published_constants_of_the_processes() -> None:
    preserving = VariancePreserving()
    assert preserving.level(1.0).ratio == pytest.approx(152.2, abs=0.05)
    assert preserving.level(1e-3).ratio == pytest.approx(0.0105, abs=5e-5)
    discrete = Discrete(schedule="linear")
    chain = np.cumprod(1 - discrete.beta)
    continuous = [preserving.level((i + 1) / 1000).alpha ** 2 for i in range(1000)]
    assert np.abs(chain - continuous).max() == pytest.approx(8.2e-4, abs=1e-5)


def variance_after(step: object, grid: list[Level], start: float) -> float:
    return propagate(gaussian(0.0, STD), step, grid, 0.0, start)[1]  # type: ignore[arg-type]


@pytest.mark.parametrize("process", [VariancePreserving(), SubVariancePreserving(), VarianceExploding()], ids=named)
def test_reverse_equations_reach_the_data(process: Continuous) -> None:
    """The standard deviation tends to that of the data at the rate of the step: exact linear maps, no sampling."""
    errors = []
    for count in (250, 500, 1000):
        grid = time_grid(process, count, end=1e-3)
        found = variance_after(euler_maruyama(process), grid, math.hypot(grid[0].alpha * STD, grid[0].sigma))
        errors.append(abs(found - STD))
    assert errors[2] < 0.01
    assert errors[0] > errors[1] > errors[2]


def test_the_width_of_the_original_is_a_choice() -> None:
    """1 / N on a grid whose levels lie (1 - end) / (N - 1) apart."""
    process = VariancePreserving()
    grid = time_grid(process, 10, end=0.1)
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    own = euler_maruyama(process)(gaussian(0.0, STD), x, grid, 0, keyed(), {})
    same = euler_maruyama(process, width=0.1)(gaussian(0.0, STD), x, grid, 0, keyed(), {})
    torch.testing.assert_close(own, same)
    other = euler_maruyama(process, width=0.11)(gaussian(0.0, STD), x, grid, 0, keyed(), {})
    assert not torch.allclose(own, other)


def test_reverse_diffusion_is_the_formula_of_the_discrete_chain() -> None:
    beta, bar = 0.01, 0.6
    q = Level(1.0, math.sqrt(bar), math.sqrt(1 - bar))
    p = Level(2.0, math.sqrt(bar * (1 - beta)), math.sqrt(1 - bar * (1 - beta)))
    x = torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64)
    score = -0.7 / (p.alpha**2 * STD**2 + p.sigma**2)
    z = keyed()(1, x)
    found = reverse_diffusion()(gaussian(0.0, STD), x, [p, q], 0, keyed(), {})
    known = (2 - math.sqrt(1 - beta)) * 0.7 + beta * score + math.sqrt(beta) * float(z)
    assert float(found) == pytest.approx(known, rel=1e-12)


def test_reverse_diffusion_on_exploding_levels_is_ancestral_with_the_large_variance() -> None:
    grid = ratio_grid(EDM, log_ratios(20, low=0.02, high=20.0))
    x = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 20
    a = sample(gaussian(0.0, STD), reverse_diffusion(), grid, x, keyed())
    b = sample(gaussian(0.0, STD), ddpm("large"), grid, x, keyed())
    torch.testing.assert_close(a, b)


def test_langevin_keeps_the_law_of_its_level() -> None:
    """Steps on one level from its own law: the spread stays, up to an error of the size of the steps."""
    spread = math.hypot(STD, 1.0)
    grid = [EDM.at(1.0)] * 41
    x = spread * keyed()(0, torch.empty(32, 1, 32, 32, dtype=torch.float64))
    corrector = langevin(0.1)
    for i in range(40):
        x = corrector(gaussian(0.0, STD), x, grid, i, keyed(), {})
    assert float(x.std()) == pytest.approx(spread, rel=0.02)


def test_the_size_of_a_langevin_step_shrinks_with_the_signal() -> None:
    """2 kept^2 (snr |z| / |s|)^2, with kept^2 = 1 - beta of the transition, as the original's alpha."""
    p, q = Level(2.0, 0.6, 0.8), Level(1.0, 0.8, 0.6)
    x = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    score, z = -x / (p.alpha**2 * STD**2 + p.sigma**2), keyed()(1, x, 1)
    norms = z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)
    size = (2 * (0.6 / 0.8) ** 2 * (0.16 * norms) ** 2).view(-1, 1, 1, 1)
    found = langevin(0.16)(gaussian(0.0, STD), x, [p, q], 0, keyed(), {})
    torch.testing.assert_close(found, x + size * score + (2 * size).sqrt() * z)


def test_the_last_noisy_step_of_the_analytic_variance_can_be_limited() -> None:
    grid = Discrete(schedule="linear").grid(subsequence(4, 1000, "respaced"))
    x = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    for i, limited in ((1, False), (2, True)):  # 2 leads to the last noisy level
        steps = [analytic(gamma, pixels=pixels)(gaussian(0.0, STD), x, grid, i, keyed(), {}) for pixels in (0.0, None)]
        assert (float(steps[0].std()) < 1e-12) is limited
        assert float(steps[1].std()) > 1e-3


def test_lengths_are_of_images_or_of_the_batch() -> None:
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0] *= 10
    grid, noise = [EDM.at(1.0), EDM.at(0.5)], image_noise(torch.arange(3))
    own = langevin(0.16)(gaussian(0.0, STD), x, grid, 0, noise, {})
    alone = langevin(0.16)(gaussian(0.0, STD), x[1:2], grid, 0, image_noise(torch.arange(1, 2)), {})
    torch.testing.assert_close(own[1:2], alone)
    batch = langevin(0.16, norms="batch")(gaussian(0.0, STD), x, grid, 0, noise, {})
    assert not torch.allclose(own, batch)


@pytest.mark.parametrize(("rate", "inflation"), [(2e-5 * 1e4, 1.0507), (6.2e-6 * 1e4, 1.0149)])
def test_annealed_langevin_inflates_by_its_step(rate: float, inflation: float) -> None:
    """Stationary variance of unadjusted Langevin dynamics, v / (1 - a / (2 v)): NCSN's and NCSNv2's constants."""
    v = 0.25**2 + 1.0
    slope, added = 1 - rate / v, 2 * rate
    assert math.sqrt(added / (1 - slope**2) / v) == pytest.approx(inflation, abs=2e-4)
    grid = [EDM.at(1.0), CLEAN]
    x = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = annealed_langevin(rate, 1, denoised=False)(gaussian(0.0, 0.25), x, grid, 0, keyed(), {})
    torch.testing.assert_close(one, slope * x + math.sqrt(added) * keyed()(1, x))


def test_the_last_denoising_is_the_clean_image() -> None:
    grid, x = [EDM.at(0.3), CLEAN], torch.ones(1, 1, 1, 1, dtype=torch.float64)
    noisy = annealed_langevin(1e-3, 3, denoised=False)(gaussian(0.0, STD), x, grid, 0, keyed(), {})
    clean = annealed_langevin(1e-3, 3)(gaussian(0.0, STD), x, grid, 0, keyed(), {})
    torch.testing.assert_close(clean, gaussian(0.0, STD)(noisy, grid[0], {}).x0)


def test_corrector_and_predictor_draw_different_noise() -> None:
    drawn: list[tuple[int, int]] = []

    def noise(draw: int, like: Tensor, stream: int = 0) -> Tensor:
        drawn.append((draw, stream))
        return keyed()(draw, like, stream)

    step = alternating(langevin(0.16), reverse_diffusion())
    step(gaussian(0.0, STD), torch.ones(1, 1, 2, 2), [EDM.at(1.0), EDM.at(0.5)], 0, noise, {})
    assert len(set(drawn)) == len(drawn) == 2


def test_gotta_go_fast_reaches_the_data_and_images_are_alone() -> None:
    process = VariancePreserving()
    seeds = torch.arange(200)
    x = image_noise(seeds)(0, torch.empty(200, 1, 4, 4)).double()
    asked: list[int] = []

    def counted(x: Tensor, p: Level, condition: Condition) -> Prediction:
        asked.append(len(x))
        return gaussian(0.0, STD)(x, p, condition)

    sampler = gotta_go_fast(process, relative=0.05)
    found = sampler(counted, x, image_noise(seeds), {})
    assert float(found.std()) == pytest.approx(STD, rel=0.05)
    assert 20 < sum(asked) / 200 < 400
    alone = sampler(gaussian(0.0, STD), x[7:8], image_noise(seeds[7:8]), {})
    assert torch.equal(alone[0], found[7])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gotta_go_fast_ends_although_an_image_is_not_finite(value: float) -> None:
    def broken(x: Tensor, p: Level, condition: Condition) -> Prediction:
        found = gaussian(0.0, STD)(x, p, condition)
        return Prediction(found.x0, torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) == len(x) - 1, value, found.eps))

    x = torch.ones(2, 1, 2, 2, dtype=torch.float64)
    found = gotta_go_fast(VariancePreserving(), relative=0.5)(broken, x, keyed(), {})
    assert found.shape == x.shape


def test_one_step_of_gotta_go_fast_is_stochastic_heun() -> None:
    """A walk of one step of size 1 - end: written out, with the same noise in both stages."""
    process = VariancePreserving()
    x = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end = 0.9
    found = gotta_go_fast(process, relative=1e9, end=end, first=1.0)(gaussian(0.0, STD), x, keyed(), {})

    def drift(state: Tensor, time: float) -> Tensor:
        p = process.level(time)
        score = -state / (p.alpha**2 * STD**2 + p.sigma**2)
        return process.drift(time) * state - process.diffusion(time) * score

    h, z = 1 - end, keyed()(1, x)
    k1 = -h * drift(x, 1.0) + math.sqrt(h * process.diffusion(1.0)) * z
    k2 = -h * drift(x + k1, end) + math.sqrt(h * process.diffusion(end)) * z
    known = gaussian(0.0, STD)(x + (k1 + k2) / 2, process.level(end), {}).x0
    torch.testing.assert_close(found, known)


def gamma(p: Level) -> float:
    """E |eps|^2 of Gaussian data."""
    return p.sigma**2 / (p.alpha**2 * STD**2 + p.sigma**2)


@pytest.mark.parametrize("steps", [5, 10, 50])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_analytic_variance_is_exact_for_gaussian_data(steps: int, eta: float) -> None:
    """The law on the last noisy level is that of the process, whatever the number of steps."""
    process = Discrete(schedule="linear")
    grid = process.grid(subsequence(steps, 1000, "respaced"))
    start = math.hypot(grid[0].alpha * STD, grid[0].sigma)
    found = variance_after(analytic(gamma, eta=eta), grid[:-1], start)
    assert found == pytest.approx(math.hypot(grid[-2].alpha * STD, grid[-2].sigma), rel=1e-9)


def test_without_covariance_the_step_is_ddpm_or_ddim() -> None:
    grid = Discrete(schedule="linear").grid(subsequence(10, 1000, "respaced"))
    x = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for eta, other in ((1.0, ddpm("small")), (0.0, ddim(0.0))):
        found = sample(gaussian(0.0, STD), analytic(lambda p: 1.0, eta=eta), grid, x, keyed())
        torch.testing.assert_close(found, sample(gaussian(0.0, STD), other, grid, x, keyed()))


def test_mean_squares_are_those_of_the_predicted_noise() -> None:
    grid = [EDM.at(2.0), EDM.at(0.5), CLEAN]
    seeds = torch.arange(64)
    x0 = image_noise(seeds)(999, torch.empty(64, 1, 16, 16)).double() * STD
    found = mean_squares(gaussian(0.0, STD), [(x0, image_noise(seeds), {})], grid)
    assert found == pytest.approx([gamma(p) for p in grid[:-1]], rel=0.03)
    known = between({p.ratio: g for p, g in zip(grid[:-1], found, strict=True)})
    assert known(grid[0]) == pytest.approx(found[0])
    assert known(EDM.at(1.0)) == pytest.approx(sum(found) / 2)  # half-way in the logarithm


BOUNDS = {
    ("linear", "analytic"): (8.0471, 8.0471, 8.0471),
    ("linear", "large"): (8.1946, 8.0784, 8.0628),
    ("linear", "small"): (663.92, 49.86, 21.86),
    ("cosine", "analytic"): (8.0471, 8.0471, 8.0471),
    ("cosine", "large"): (8.1374, 8.0649, 8.0560),
    ("cosine", "small"): (548.37, 38.53, 18.81),
}
"""Bits a dimension of Gaussian data of standard deviation 0.5 in cells of 2^-7, at 10, 50 and 100 steps."""


def expected_bound(grid: list[Level], variance: str, std: float, cell: float) -> float:
    """The bound of N(0, std^2) under the exact denoiser, in closed form: expectations of squares, in alpha-bar."""
    bars = [p.alpha**2 for p in grid]
    nats = 0.5 * (bars[0] * std**2 + 1 - bars[0] - 1 - math.log(1 - bars[0]))
    for i in range(len(grid) - 1):
        bar, before = bars[i], bars[i + 1]
        left = std**2 * (1 - bar) / (bar * std**2 + 1 - bar)  # E (x0 - its prediction)^2
        beta = 1 - bar / before
        small = beta * (1 - before) / (1 - bar)
        if i == len(grid) - 2:  # the likelihood of the pixels
            earlier = (1 - bars[i - 1] / bar) * (1 - bar) / (1 - bars[i - 1])  # "small" of the step before
            chosen = {"small": earlier, "large": beta, "analytic": left}[variance]
            nats += 0.5 * math.log(2 * math.pi * chosen) + left / (2 * chosen) - math.log(cell)
            continue
        weight = before * beta**2 / (1 - bar) ** 2
        chosen = {"small": small, "large": beta, "analytic": small + weight * left}[variance]
        nats += 0.5 * (math.log(chosen / small) - 1 + small / chosen + weight * left / chosen)
    return nats / math.log(2)


@pytest.mark.parametrize(("schedule", "variance"), BOUNDS)
def test_the_bound_of_gaussian_data(schedule: str, variance: str) -> None:
    """The optimal variance gives the entropy at every number of steps; the bound agrees with its closed form."""
    process = Discrete(schedule=schedule)
    values = torch.from_numpy(np.random.default_rng(0).normal(0, 0.2, (4, 1, 128, 128)))
    x0 = ((values * 127.5).round() / 127.5).clamp(-0.99, 0.99)
    for steps, known in zip((10, 50, 100), BOUNDS[schedule, variance], strict=True):
        grid = process.grid(subsequence(steps, 1000, "respaced"))
        assert expected_bound(grid, variance, 0.5, 2**-7) == pytest.approx(known, rel=3e-4)

        def known_squares(p: Level) -> float:
            return p.sigma**2 / (p.alpha**2 * 0.2**2 + p.sigma**2)

        found = bound(gaussian(0.0, 0.2), grid, x0, keyed(), {}, variance, known=known_squares)  # type: ignore[arg-type]
        assert float(found.mean()) == pytest.approx(expected_bound(grid, variance, 0.2, 1 / 127.5), rel=0.02)


def test_bits_of_the_exact_likelihood() -> None:
    """8-bit images of independent Gaussian pixels: the entropy of the discrete law, within its sampling error."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(
        np.clip(np.floor(128 + 128 * rng.normal(0, 0.3, (8, 1, 16, 16))), 0, 255).astype(np.uint8)
    )
    noise = image_noise(torch.arange(8))
    found, evaluations = exact(gaussian(0.0, 0.3), EDM, images, noise, {}, low=1e-3, high=80.0, rtol=1e-5, atol=1e-5)
    entropy = 7 + 0.5 * math.log2(2 * math.pi * math.e * 0.3**2)
    assert float(found.mean()) == pytest.approx(entropy, abs=0.1)
    assert int(evaluations.min()) > 10
