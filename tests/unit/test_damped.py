"""Critically-damped Langevin diffusion on Gaussian data, of which every distribution is known, and its parts alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from oracles import gaussian
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from torch import Tensor, nn

from baselines import damped
from baselines.damped import CriticallyDamped
from baselines.denoisers import Condition, Denoiser, Prediction
from baselines.noise import Noise, image_noise
from baselines.schedules import EDM, Level
from baselines.steps import Step

P = CriticallyDamped()
OTHER = CriticallyDamped(mass=0.6, beta=3.0, share=0.2)
MEAN, STD = 0.1, 0.5
Array = NDArray[np.float64]


def at(time: float) -> Level:
    return Level(time, 1.0, float(P.ratio(time)))


def exact() -> Denoiser:
    """The denoiser of N(MEAN, STD^2), by the network of a usual process."""
    return damped.lifted(P, gaussian(MEAN, STD), EDM)


def law(time: float) -> tuple[Array, Array]:
    """Mean and covariance of (x, v) of this data at a time."""
    k = P.kernel(time)
    return k.mean * MEAN, k.factor @ k.factor.T + STD**2 * np.outer(k.mean, k.mean)


def pair(x: float, v: float) -> Tensor:
    return torch.tensor([x, v], dtype=torch.float64).view(1, 2, 1, 1)


def linear(move: Callable[[Tensor, Noise], Tensor], draws: int) -> tuple[Array, Array, Array]:
    """Matrix, offset and covariance of noise of an affine map of one pair, by its values at a basis."""

    def silent(draw: int, like: Tensor, stream: int = 0) -> Tensor:
        return torch.zeros_like(like)

    def value(x: float, v: float, noise: Noise = silent) -> Array:
        return move(pair(x, v), noise).flatten().numpy()

    offset = value(0.0, 0.0)
    matrix = np.stack([value(1.0, 0.0) - offset, value(0.0, 1.0) - offset], axis=1)
    columns = []
    for stream in range(draws):
        for place in range(2):

            def one(draw: int, like: Tensor, s: int = 0, stream: int = stream, place: int = place) -> Tensor:
                found = torch.zeros_like(like)
                if s == stream and place < like.shape[1]:
                    found[:, place] = 1.0
                return found

            columns.append(value(0.0, 0.0, one) - offset)
    spread = np.stack(columns, axis=1)
    return matrix, offset, spread @ spread.T


def propagated(step: Step, denoise: Denoiser, grid: list[Level], mean: Array, covariance: Array) -> Array:
    for i in range(len(grid) - 1):
        matrix, offset, noise = linear(lambda u, n, i=i: step(denoise, u, grid, i, n, {}), draws=2)
        mean, covariance = matrix @ mean + offset, matrix @ covariance @ matrix.T + noise
    return np.concatenate([mean, covariance.flatten()])


@pytest.mark.parametrize("process", [P, OTHER])
def test_the_covariance_solves_the_equation_of_moments(process: CriticallyDamped) -> None:
    drift = process.beta * np.array([[0.0, 1 / process.mass], [-1.0, -process.friction / process.mass]])
    added = np.diag([0.0, 2 * process.friction * process.beta])

    def moments(t: float, s: Array) -> Array:
        c = s.reshape(2, 2)
        return (drift @ c + c @ drift.T + added).flatten()

    first = np.diag([0.3, process.share * process.mass])
    times = [0.01, 0.1, 0.5, 1.0]
    known = solve_ivp(moments, (0.0, 1.0), first.flatten(), "DOP853", times, rtol=1e-13, atol=1e-15).y.T
    np.testing.assert_allclose(process.covariance(np.array(times), x0=0.3), known.reshape(-1, 2, 2), atol=4e-13)
    np.testing.assert_allclose(process.propagator(0.3), expm(drift * 0.3), atol=1e-13)


def test_the_end_is_the_prior() -> None:
    assert np.abs(P.covariance(1.0, x0=STD**2) - np.diag([1.0, 0.25])).max() < 1.4e-5
    assert np.abs(P.kernel(1.0).mean).max() < 3.1e-3


def test_half_a_step_and_a_whole_one_keep_the_equilibrium() -> None:
    rest = np.diag([1.0, P.mass])

    def calm(u: Tensor, level: Level, condition: Condition) -> Prediction:
        scale = float(P.kernel(level.t).factor[1, 1])
        return Prediction(u[:, :1], scale * u[:, 1:] / P.mass)  # score = -v / M

    for width in (1e-3, 0.1, 0.7):
        matrix, _, noise = linear(lambda u, n, w=width: damped.exact_half(P, u, w, n(0, u)), draws=1)
        np.testing.assert_allclose(matrix @ rest @ matrix.T + noise, rest, atol=1e-12)
        grid = [at(1.0), at(1.0 - width)]
        step = damped.sscs(P)
        matrix, _, noise = linear(lambda u, n, g=grid, s=step: s(calm, u, g, 0, n, {}), draws=2)
        np.testing.assert_allclose(matrix @ rest @ matrix.T + noise, rest, atol=1e-12)


def test_the_splitting_is_of_second_order() -> None:
    """With the score's part solved exactly at the middle of a step, four times fewer errors for twice the steps."""

    def error(steps: int) -> float:
        width, end = 0.95 / steps, 0.05
        covariance = P.covariance(1.0, x0=STD**2)
        for i in range(steps):
            matrix, _, noise = linear(lambda u, n: damped.exact_half(P, u, width, n(0, u)), draws=1)
            score = -np.linalg.inv(P.covariance(1.0 - (i + 0.5) * width, x0=STD**2))[1]
            kick = np.zeros((2, 2))
            kick[1] = 2 * P.friction * P.beta * (score + np.array([0.0, 1 / P.mass]))
            for part, added in ((matrix, noise), (expm(kick * width), 0.0), (matrix, noise)):
                covariance = part @ covariance @ part.T + added
        return float(np.abs(covariance - P.covariance(end, x0=STD**2)).max())

    errors = [error(steps) for steps in (40, 80, 160)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(1.9 < order < 2.1 for order in orders), orders


def test_a_network_of_images_knows_the_score_of_velocities() -> None:
    """-[S^-1 (u - m)]_v of Gaussian data, by the one combination of x and v that says all of the image."""
    u = pair(0.4, -0.3)
    for time in (0.02, 0.2, 0.9):
        mean, covariance = law(time)
        known = -np.linalg.solve(covariance, u.flatten().numpy() - mean)[1]
        assert float(damped.score(P, exact(), u, at(time), {})) == pytest.approx(known, rel=1e-9)


def test_noise_and_image_belong_together() -> None:
    u, level, eps = pair(0.4, -0.3), at(0.3), torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64)
    x0 = damped.clean(P, u, level, eps)
    torch.testing.assert_close(damped.noise_of(P, u, level, x0), eps)
    k = P.kernel(0.3)
    eps_x = (0.4 - k.mean[0] * x0) / k.factor[0, 0]
    assert float(k.mean[1] * x0 + k.factor[1, 0] * eps_x + k.factor[1, 1] * eps) == pytest.approx(-0.3)
    inside = damped.limited(P, exact())(pair(30.0, 2.0), level, {})
    assert float(inside.x0) == 1.0
    torch.testing.assert_close(damped.clean(P, pair(30.0, 2.0), level, inside.eps), inside.x0)


class Perfect(nn.Module):
    """The network that hybrid score matching is meant to find on N(0, STD^2); it is told the ratio."""

    def forward(self, u: Tensor, t: Tensor) -> Tensor:
        ratios = (4 * t.double()).exp()
        times = torch.tensor([P.time(ratio) for ratio in ratios.tolist()], dtype=torch.float64)
        level = Level(times, 1.0, ratios)  # type: ignore[arg-type]
        found = damped.lifted(P, gaussian(0.0, STD), EDM)(u.double(), level, {}).eps
        return found - damped.mixed(P, u.double(), level, torch.zeros_like(found))


def test_the_loss_of_the_best_network_is_the_variance_that_is_left() -> None:
    x0 = STD * torch.randn(64, 1, 24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end, generator = 0.02, torch.Generator().manual_seed(1)
    shares = (torch.rand(1, generator=torch.Generator().manual_seed(1)) + torch.arange(64) / 64) % 1.0
    times = end + (1 - end) * shares.double().numpy() ** 2
    loss = float(damped.hybrid_score_matching(P, EDM, end=end)(Perfect(), {"x0": x0}, generator))
    k, r = P.kernel(times), P.ratio(times)
    slope = (k.mean[:, 1] - k.factor[:, 1, 0] / k.factor[:, 0, 0] * k.mean[:, 0]) / k.factor[:, 1, 1]
    left = slope**2 * STD**2 * r**2 / (STD**2 + r**2)
    error = math.sqrt(2 * (left**2).sum() / 24**2) / 64  # of a mean of squares, 576 for each of 64 times
    assert loss == pytest.approx(left.mean(), abs=3 * error)
    assert error < 0.02 * left.mean()


def test_a_trained_network_gives_noise_and_image() -> None:
    """`hybrid` puts the Gaussian part of the score beside the network's output, and derives the image."""

    def output(u: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return torch.full_like(u[:, :1], 0.2)

    found = damped.hybrid(P, output, EDM)(pair(0.4, -0.3), at(0.3), {})
    known = 0.2 + P.kernel(0.3).factor[1, 1] / P.covariance(0.3)[1, 1] * -0.3
    assert float(found.eps) == pytest.approx(known, rel=1e-6)
    torch.testing.assert_close(found.x0, damped.clean(P, pair(0.4, -0.3), at(0.3), found.eps))


@pytest.mark.parametrize("make", [damped.euler_maruyama, damped.sscs])
def test_samplers_find_the_law_of_the_data(make: Callable[[CriticallyDamped], Step]) -> None:
    """Twice the steps, half the error, down to what the last step and the start leave."""
    end = 1e-3
    errors = []
    for steps in (50, 100, 200):
        found = propagated(make(P), exact(), P.grid(steps, end=end), np.zeros(2), np.diag([1.0, P.mass]))
        errors.append(abs(found[2] - STD**2) / STD**2)
        assert found[0] == pytest.approx(MEAN, abs=0.03)
    assert errors[2] < 0.6 * errors[1] < 0.4 * errors[0]
    assert errors[2] < 0.05


def test_the_flow_leads_to_the_law_of_its_end() -> None:
    end = 0.02
    run = damped.probability_flow(P, end=end, rtol=1e-8, atol=1e-8)
    matrix, offset, noise = linear(lambda u, n: run(exact(), u, n, {}), draws=1)
    mean, covariance = law(1.0)
    spread = matrix @ covariance @ matrix.T
    before, last = law(end), damped.euler_maruyama(P)
    grid = [at(end), Level(0.0, 1.0, 0.0)]
    m, o, _ = linear(lambda u, n: last(exact(), u, grid, 0, n, {}), draws=1)
    np.testing.assert_allclose(spread, m @ before[1] @ m.T, rtol=1e-5)
    np.testing.assert_allclose(matrix @ mean + offset, m @ before[0] + o, atol=1e-5)
    assert not noise.any()


def test_images_of_a_batch_may_have_times_of_their_own() -> None:
    u = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    times = torch.tensor([0.1, 0.6], dtype=torch.float64)
    both = Level(times, 1.0, torch.from_numpy(P.ratio(times.numpy())))  # type: ignore[arg-type]
    together = exact()(u, both, {})
    for i, time in enumerate((0.1, 0.6)):
        alone = exact()(u[i : i + 1], at(time), {})
        torch.testing.assert_close(together.eps[i : i + 1], alone.eps)
        torch.testing.assert_close(together.x0[i : i + 1], alone.x0)


def test_the_bound_is_the_cross_entropy_where_the_velocity_is_known() -> None:
    """Gaussian data and a wide cell: the bound is above -log p, by what the guess of the velocity misses."""
    images = torch.full((6, 1, 4, 4), 140, dtype=torch.uint8)
    bits = damped.bound(P, exact(), images, image_noise(torch.arange(6)), {}, end=1e-3, rtol=1e-6, atol=1e-6)
    x = (140.5) / 128 - 1
    known = 0.5 * ((x - MEAN) / STD) ** 2 / math.log(2) + 0.5 * math.log2(2 * math.pi * STD**2) + 7
    assert bits.dtype == torch.float64
    assert float(bits.mean()) == pytest.approx(known, abs=4 * float(bits.std()) / math.sqrt(6) + 0.01)


def test_strides() -> None:
    quadratic, linear_ = (P.grid(5, end=0.01, striding=how) for how in ("quadratic", "linear"))
    assert [len(g) for g in (quadratic, linear_)] == [6, 6]
    assert [g[0].t for g in (quadratic, linear_)] == [1.0, 1.0]
    assert [g[4].t for g in (quadratic, linear_)] == [0.01, 0.01]
    assert quadratic[2].t == pytest.approx(0.01 + 0.99 * 0.25)
    assert linear_[2].t == pytest.approx(0.01 + 0.99 * 0.5)
    assert P.time(float(P.ratio(0.37))) == pytest.approx(0.37)
