"""The first diffusion models: their schedule, their equilibrium, and their step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.denoisers import Prediction, denoiser
from baselines.equilibrium import divergence, drifting, equilibrium_loss, outside, restoring, spread
from baselines.networks.multiscale import MultiScale, MultiScaleConfig
from baselines.noise import image_noise
from baselines.sampling import sample
from baselines.schedules import Discrete, betas, signal

PROCESS = Discrete(schedule="inverse", steps=50)


def resting(x: Tensor, t: Tensor) -> Tensor:
    """A network that outputs no drift and the variance of the forward step."""
    return torch.zeros(len(x), 2 * x.shape[1], *x.shape[2:], dtype=x.dtype)


def unit_moments(beta: NDArray[np.float64]) -> tuple[Tensor, Tensor, Tensor]:
    """Every timestep but the first, with images and noise that have the second moments of standard normal ones."""
    t = torch.arange(1, len(beta))
    x0, eps = (torch.tensor(v, dtype=torch.float64).view(1, 1, 2, 2) for v in ([1, 1, -1, -1], [1, -1, 1, -1]))
    return t, x0.repeat(len(t), 1, 1, 1), eps.repeat(len(t), 1, 1, 1)


def test_every_step_erases_an_equal_share() -> None:
    """alpha-bar falls linearly but for the first and the last step, which the original code changes."""
    beta = betas("inverse", 1000)
    assert beta[0] == pytest.approx(1 / 1000 + 1e-3)
    assert beta[-1] == pytest.approx(0.5)
    falls = -np.diff(signal(beta)) / (1 - 1e-3)
    assert falls[:500] == pytest.approx(np.full(500, 1 / 1000), rel=2e-3)


def test_standard_normal_data_cost_nothing_beside_their_entropy() -> None:
    """Without drift the reverse chain is that of the equilibrium: the bound is the entropy itself."""
    beta = PROCESS.beta
    t, x0, eps = unit_moments(beta)
    terms = divergence(resting, beta, x0, t, eps)
    assert float(terms.sum()) + outside(beta) == pytest.approx(0.0, abs=1e-12)
    assert float(terms.sum()) > 0.5  # what it is the sum of is not nothing


def test_the_bound_of_a_wider_normal_is_above_its_entropy() -> None:
    beta, std = PROCESS.beta, 1.5
    t, x0, eps = unit_moments(beta)
    total = float(divergence(resting, beta, std * x0, t, eps).sum()) + outside(beta)
    assert total > math.log(std) + 0.01


def test_the_loss_estimates_the_bound() -> None:
    """Random timesteps from 1 on, times their number: the mean of many draws is the sum."""
    beta, x0 = PROCESS.beta, 0.3 * torch.ones(20_000, 1, 1, 1, dtype=torch.float64)
    total = 0.0
    for t in range(1, len(beta)):
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
        total += float(divergence(resting, beta, x0, torch.full((len(x0),), t), eps).mean())

    class Resting(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return resting(x, t)

    found = equilibrium_loss(beta)(Resting(), {"x0": x0}, torch.Generator().manual_seed(0))
    assert float(found) == pytest.approx(total + outside(beta), abs=0.05)


def test_the_step_moves_the_mean_by_the_drift() -> None:
    """mu = sqrt(1 - beta) x + sqrt(beta) f and variance sigmoid(raw / sqrt(T) + logit beta), on the last step too."""
    generator = torch.Generator().manual_seed(1)
    drift, raw = (torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    grid = PROCESS.grid(range(50))[:-1]
    predict = drifting(denoiser(lambda x, t: torch.cat([drift, raw], 1), "eps", learned_variance=True), PROCESS)
    noise = image_noise(torch.arange(2))
    x = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    for i in (0, 20, len(grid) - 2):
        beta = float(PROCESS.beta[round(grid[i].t)])
        variance = torch.sigmoid(raw / 50**0.5 + math.log(beta / (1 - beta)))
        expected = (1 - beta) ** 0.5 * x + beta**0.5 * drift + variance.sqrt() * noise(i + 1, x)
        torch.testing.assert_close(restoring(50)(predict, x, grid, i, noise, {}), expected)
    assert float(spread(torch.zeros(()), 0.2, 50)) == pytest.approx(0.2)


def test_without_drift_the_equilibrium_is_kept() -> None:
    noise, grid = image_noise(torch.arange(2000)), PROCESS.grid(range(50))[:-1]
    predict = drifting(denoiser(resting, "eps", learned_variance=True), PROCESS)
    x = sample(predict, restoring(50), grid, noise(0, torch.empty(2000, 1, 4, 4, dtype=torch.float64)), noise)
    assert float(x.std()) == pytest.approx(1.0, abs=0.02)


def test_a_network_without_a_variance_is_refused() -> None:
    grid = PROCESS.grid(range(3))

    def predict(x: Tensor, p: object, condition: object) -> Prediction:
        return Prediction(x, x)

    with pytest.raises(ValueError, match="no variance"):
        restoring(50)(predict, torch.zeros(1, 1, 2, 2), grid, 0, image_noise(torch.arange(1)), {})


def test_the_network_is_smooth_in_time_and_sees_several_scales() -> None:
    torch.manual_seed(0)
    network = MultiScale(MultiScaleConfig(width=8, layers=1, steps=1000)).eval()
    x = torch.randn(1, 3, 16, 16)
    bumps = network.bumps(torch.tensor([0, 111, 500]))
    torch.testing.assert_close(bumps.sum(1), torch.ones(3))
    assert int(bumps[1].argmax()) == 1
    with torch.no_grad():
        here, near, far = (network(x, torch.tensor([t])) for t in (500, 501, 700))
    assert float((near - here).abs().mean()) < 0.05 * float((far - here).abs().mean())
    # A pixel is seen through the coarsest of three scales at up to 3 * 4 + 3 others, and no further.
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(network(x, torch.tensor([500]))[0, 0, 0, 0], x)
    assert float(gradient[..., 7, 7].abs().max()) > 0
    assert float(gradient[..., 8:, 8:].abs().max()) == 0
