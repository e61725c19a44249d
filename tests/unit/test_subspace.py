"""Diffusion in a subspace: the projection, the handover to whole images, and walks that cross it."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import keyed
from torch import Tensor

from baselines.denoisers import Condition, Prediction
from baselines.langevin import langevin
from baselines.multistep import dpm_solver
from baselines.schedules import EDM, Level, karras_ratios, ratio_grid
from baselines.steps import ddim
from baselines.subspace import complement, down, handover, lifted, rising, spread_of, up

SMALL, SPREAD = 1.3, 0.2
"""Standard deviations of the law of the tests within the subspace and in its complement."""


def matrix(function: object) -> Tensor:
    """The matrix of a linear map of images of one channel and 4 x 4 pixels."""
    basis = torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4)
    return function(basis).flatten(1).T  # type: ignore[operator]


def of_whole(x: Tensor, p: Level, condition: Condition) -> Prediction:
    """The exact denoiser of the law: a Gaussian with one variance in the subspace and another in its complement."""
    inside, outside = up(down(x)), complement(x)
    x0 = p.alpha * (
        SMALL**2 / (p.sigma**2 + (p.alpha * SMALL) ** 2) * inside
        + SPREAD**2 / (p.sigma**2 + (p.alpha * SPREAD) ** 2) * outside
    )
    return Prediction(x0, (x - p.alpha * x0) / p.sigma)


def of_small(y: Tensor, p: Level, condition: Condition) -> Prediction:
    x0 = p.alpha * SMALL**2 / (p.sigma**2 + (p.alpha * SMALL) ** 2) * y
    return Prediction(x0, (y - p.alpha * x0) / p.sigma)


def test_the_projection_is_orthogonal() -> None:
    u, back, rest = matrix(down), matrix(lambda y: up(y[:, :, :2, :2])), matrix(complement)
    torch.testing.assert_close(u @ u.T, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(back[:, [0, 1, 4, 5]], u.T)
    torch.testing.assert_close(rest @ rest, rest)
    torch.testing.assert_close(rest, rest.T)
    assert float(rest.diagonal().sum()) == pytest.approx(12)
    torch.testing.assert_close(u @ rest, torch.zeros(4, 16, dtype=torch.float64), atol=1e-12, rtol=0)


def test_white_noise_has_unit_variance_in_the_complement() -> None:
    noise = torch.randn(400, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert spread_of(noise) == pytest.approx(1.0, abs=0.01)
    assert spread_of(up(noise)) == pytest.approx(0.0, abs=1e-6)


def test_the_handover_keeps_the_law() -> None:
    """The covariance of whole images after it is that of the law on its level, exactly."""
    p = Level(0.0, 0.8, 0.6)
    y_part = matrix(lambda y: handover(y[:, :, :2, :2], p, SPREAD, torch.zeros(16, 1, 4, 4, dtype=torch.float64)))
    n_part = matrix(lambda n: handover(torch.zeros(16, 1, 2, 2, dtype=torch.float64), p, SPREAD, n))
    y_variance = (p.alpha * SMALL) ** 2 + p.sigma**2
    covariance = y_variance * y_part @ y_part.T + n_part @ n_part.T
    u, rest = matrix(down), matrix(complement)
    expected = y_variance * u.T @ u + ((p.alpha * SPREAD) ** 2 + p.sigma**2) * rest
    torch.testing.assert_close(covariance, expected, atol=1e-12, rtol=0)


def test_the_small_denoiser_and_the_gaussian_make_the_whole_one() -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p = Level(0.0, 0.9, 0.7)
    made, exact = lifted(of_small, SPREAD)(x, p, {}), of_whole(x, p, {})
    torch.testing.assert_close(made.x0, exact.x0)
    torch.testing.assert_close(made.eps, exact.eps)


def by_size(x: Tensor, p: Level, condition: Condition) -> Prediction:
    return (of_whole if x.shape[-1] == 8 else of_small)(x, p, condition)


@pytest.mark.parametrize("first", [1, 10, 20])
def test_a_walk_over_both_has_the_law_of_the_whole_walk(first: int) -> None:
    """Within the subspace the states are those of one walk on whole images; the complement is drawn at the handover."""
    grid, noise = ratio_grid(EDM, karras_ratios(40, low=0.01)), keyed(3)
    x = grid[0].sigma * noise(0, torch.empty(100, 3, 8, 8, dtype=torch.float64))
    stays = langevin(0.1, 0)
    made = rising(lambda: dpm_solver(2), grid, first, SPREAD, stays)(by_size, x, noise, {})
    assert float(down(made).std()) == pytest.approx(SMALL, rel=0.05)
    assert spread_of(made) == pytest.approx(SPREAD, rel=0.03)
    # The steps of `ddim` know no step before, so that the walk within the subspace is that of whole images.
    rises, whole = rising(lambda: ddim(), grid, first, SPREAD, stays), rising(lambda: ddim(), grid, 0, SPREAD, stays)
    torch.testing.assert_close(down(rises(by_size, x, noise, {})), down(whole(by_size, x, noise, {})))


def test_corrections_stay_in_the_complement_and_bring_its_law_about() -> None:
    """Langevin steps forget a complement of little variance and leave the subspace as it is."""
    p, noise = Level(0.0, 1.0, 1.0), keyed(4)
    x = noise(0, torch.empty(100, 3, 8, 8, dtype=torch.float64))
    x = up(down(x)) + 0.2 * complement(x)
    found = langevin(0.22, 60, project=complement)(of_whole, x, [p, Level(0.0, 1.0, 0.9)], 0, noise, {})
    torch.testing.assert_close(down(found), down(x))
    assert spread_of(found) == pytest.approx(math.hypot(SPREAD, 1.0), rel=0.1)


def test_progress_counts_both_walks() -> None:
    seen: list[tuple[int, int, int]] = []
    grid, noise = ratio_grid(EDM, karras_ratios(5, low=0.1)), keyed(0)
    x = grid[0].sigma * noise(0, torch.empty(1, 3, 8, 8))
    sampler = rising(lambda: ddim(), grid, 3, SPREAD, langevin(0.1))
    sampler(by_size, x, noise, {}, lambda done, steps, state: seen.append((done, steps, state.shape[-1])))
    assert seen == [(1, 5, 4), (2, 5, 4), (3, 5, 4), (4, 5, 8), (5, 5, 8)]
