"""Latent score models: importance sampling against the closed cross entropy, the mixture, and whose gradient it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor, nn

from baselines.denoisers import denoiser
from baselines.joint import (
    Joint,
    Weighting,
    bound,
    cross_entropy_constant,
    discretised_logistic,
    drawn_times,
    joint_loss,
    mixed,
)
from baselines.networks.autoencoder import AutoencoderConfig, AutoencoderKL
from baselines.processes import VariancePreserving
from baselines.schedules import Level

PROCESS = VariancePreserving()
FIRST = 0.01
PROPOSALS: tuple[Weighting, ...] = ("likelihood", "unweighted", "reweighted")


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_densities_of_times_are_what_they_say(proposal: Weighting) -> None:
    """One over the density, at equidistant uniforms, is the derivative of time, and integrates to the length."""
    uniform = torch.linspace(0.0, 1.0, 20_001, dtype=torch.float64)[:-1] + 2.5e-5
    time, inverse = drawn_times(PROCESS, proposal, uniform, first=FIRST)
    assert float(time.min()) > FIRST and float(time.max()) < 1
    assert float(inverse.mean()) == pytest.approx(1 - FIRST, rel=0.05)  # its largest values are near t = 1
    slope = (time[2:] - time[:-2]) / (uniform[2:] - uniform[:-2])
    torch.testing.assert_close(slope[100:-100], inverse[1:-1][100:-100], rtol=1e-3, atol=1e-6)
    weight = {
        "likelihood": lambda t: PROCESS.diffusion(t) / PROCESS.level(t).sigma ** 2,
        "unweighted": lambda t: 1.0,
        "reweighted": lambda t: PROCESS.diffusion(t),
    }[proposal]
    # w (1 - sigma^2) over the density is a constant: every draw weighs the same.
    draws = zip(time.tolist(), inverse.tolist(), strict=True)
    same = [weight(t) * PROCESS.level(t).alpha ** 2 * value for t, value in draws]
    assert max(same) == pytest.approx(min(same), rel=1e-6)


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_importance_sampling_agrees_with_the_closed_cross_entropy(proposal: Weighting) -> None:
    """Latents N(m, s^2) under a standard normal prior, a = 0: 1/2 log 2 pi + (m^2 + s^2) / 2, within 3 s.e."""
    mean, std, count = 0.6, 0.4, 200_000
    generator = torch.Generator().manual_seed(PROPOSALS.index(proposal))
    uniform = torch.rand(count, generator=generator, dtype=torch.float64)
    time, inverse = drawn_times(PROCESS, proposal, uniform, first=FIRST)
    variance = torch.tensor([PROCESS.level(float(t)).sigma ** 2 for t in time], dtype=torch.float64)
    beta = torch.tensor([PROCESS.diffusion(float(t)) for t in time], dtype=torch.float64)
    z = mean + std * torch.randn(count, generator=generator, dtype=torch.float64)
    eps = torch.randn(count, generator=generator, dtype=torch.float64)
    x = (1 - variance).sqrt() * z + variance.sqrt() * eps
    error = (eps - variance.sqrt() * x) ** 2  # sigma x is the noise in a standard normal x
    values = inverse * beta / (2 * variance) * error
    found = float(values.mean()) + cross_entropy_constant(PROCESS, first=FIRST)
    start = PROCESS.level(FIRST).sigma ** 2
    # What is asked is that of latents with the noise of the first time.
    second = (1 - start) * (mean**2 + std**2) + start
    closed = 0.5 * math.log(2 * math.pi) + 0.5 * second
    assert found == pytest.approx(closed, abs=3 * float(values.std()) / count**0.5)
    assert float(values.std()) / count**0.5 < 0.05


def test_the_constant_is_that_of_the_integral() -> None:
    """Standard normal latents: half the entropy comes from the errors and the rest is the constant."""

    def integrand(t: float) -> float:
        level = PROCESS.level(t)
        return 0.5 * PROCESS.diffusion(t) / level.sigma**2 * (1 - level.sigma**2)

    errors = integrate.quad(integrand, FIRST, 1.0, epsabs=1e-10)[0]
    entropy = 0.5 * math.log(2 * math.pi * math.e)
    assert errors + cross_entropy_constant(PROCESS, first=FIRST) == pytest.approx(entropy, abs=1e-4)


def test_without_a_share_the_mixture_is_the_normal_prior() -> None:
    level = Level(3.0, 0.6, 0.8)
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = denoiser(lambda x, t: x.flip(2), "eps")
    none, whole = (mixed(network, torch.full((4, 1, 1), share, dtype=torch.float64)) for share in (0.0, 1.0))
    torch.testing.assert_close(none(x, level, {}).eps, 0.8 * x)
    torch.testing.assert_close(none(x, level, {}).x0, 0.6 * x)  # the mean of z given x, for z of unit variance
    torch.testing.assert_close(whole(x, level, {}).eps, network(x, level, {}).eps)
    halves = mixed(network, torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64).view(4, 1, 1))(x, level, {})
    torch.testing.assert_close(halves.eps[:, 1], 0.75 * 0.8 * x[:, 1] + 0.25 * x.flip(2)[:, 1])
    torch.testing.assert_close(level.alpha * halves.x0 + level.sigma * halves.eps, x)


def test_a_logistic_distribution_sums_to_one_over_the_cells() -> None:
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, log_scale in ((0.3, -5.0), (-0.99, -2.0), (5.0, -4.0)):
        found = discretised_logistic(values, torch.tensor(mean, dtype=torch.float64), torch.tensor(log_scale).double())
        assert float(found.exp().sum()) == pytest.approx(1.0, abs=1e-9)
    # Against the difference of the distribution function.
    scale = math.exp(-2.0)
    expected = [1 / (1 + math.exp(-(x + 0.2) / scale)) for x in (0.1 + 1 / 255, 0.1 - 1 / 255)]
    one = discretised_logistic(*(torch.tensor(v, dtype=torch.float64) for v in (0.1, -0.2, -2.0)))
    assert float(one) == pytest.approx(math.log(expected[0] - expected[1]), rel=1e-9)


class Prior(nn.Module):
    """A prior whose v is its only weight times x."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.weight * x


class Stage(nn.Module):
    """An autoencoder of one latent for each pixel: a scale, a standard deviation, and a scale back."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (1.3, 0.7))
        self.log_std = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))

    def encode(self, x: Tensor) -> Tensor:
        return torch.cat([self.up * x, 2 * self.log_std.expand_as(x)], dim=1)

    def decode(self, z: Tensor) -> Tensor:
        return self.down * z


def small() -> Joint:
    joint = Joint(Prior(), Stage(), 3).double()
    return joint


def told(ratio: Tensor) -> Tensor:
    return ratio


def test_the_bound_of_linear_networks_is_its_closed_form() -> None:
    """Linear encoder and a prior without a share, so that every term is known; within 4 standard errors."""
    joint = small()
    with torch.no_grad():
        joint.logit.fill_(-50.0)  # a = 0
        joint.log_scale.fill_(-1.0)
    x0 = torch.full((20_000, 3, 1, 1), 0.5, dtype=torch.float64)
    scale = 0.8
    with torch.no_grad():
        bits = bound(joint, PROCESS, told, {"x0": x0}, torch.Generator().manual_seed(0), scale=scale)
    mean, std = 1.3 * 0.5, math.exp(-1.0)
    start = PROCESS.level(FIRST).sigma ** 2
    second = (1 - start) * scale**2 * (mean**2 + std**2) + start
    cross = 0.5 * math.log(2 * math.pi) + 0.5 * second
    entropy = math.log(std * scale) + 0.5 * math.log(2 * math.pi * math.e)

    def pixel(u: float) -> float:
        z = torch.tensor(mean + std * u, dtype=torch.float64)
        found = discretised_logistic(x0[0, 0, 0, 0], 0.7 * z, torch.tensor(-1.0, dtype=torch.float64))
        return -float(found) * math.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)

    expected = (integrate.quad(pixel, -8, 8)[0] - entropy + cross) / math.log(2)
    assert float(bits.mean()) == pytest.approx(expected, abs=4 * float(bits.std()) / len(bits) ** 0.5)


def test_the_encoder_learns_from_the_likelihood_and_the_prior_from_unweighted_errors() -> None:
    """Gradients of the one loss against those of the two that it stands for, on the same draws."""
    x0 = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64).clamp(-1, 1)
    joint = small()
    joint_loss(PROCESS, told, scale=0.8)(joint, {"x0": x0}, torch.Generator().manual_seed(3)).backward()
    other: Any = small()
    generator = torch.Generator().manual_seed(3)
    mean, std = other.stage.up * x0, other.stage.log_std.exp().expand_as(x0)
    z = mean + std * torch.randn(mean.float().shape, generator=generator)
    uniform = torch.rand(8, generator=generator, dtype=torch.float64)
    time, inverse = drawn_times(PROCESS, "unweighted", uniform, first=FIRST)
    eps = torch.randn(z.shape, generator=generator).double()
    levels = [PROCESS.level(float(t)) for t in time]
    alpha, sigma = (torch.tensor([p[k] for p in levels], dtype=torch.float64).view(-1, 1, 1, 1) for k in (1, 2))
    beta = torch.tensor([PROCESS.diffusion(float(t)) for t in time], dtype=torch.float64)

    def errors(z: Tensor, weight: Tensor, logit: Tensor) -> Tensor:
        x, share = alpha * 0.8 * z + sigma * eps, logit.sigmoid()
        believed = alpha * weight * x + sigma * x  # the noise of the prior's v
        return (eps - (1 - share) * sigma * x - share * believed).square().flatten(1).sum(1)

    of_prior = (inverse * errors(z.detach(), other.prior.weight, other.logit)).mean() / 12
    likelihood = inverse * beta / (2 * sigma.flatten() ** 2)
    fixed = errors(z, other.prior.weight.detach(), other.logit.detach())
    pixels = -discretised_logistic(x0, other.stage.down * z, other.log_scale).mean()
    (of_prior + pixels - std.log().sum() / x0.numel() + (likelihood * fixed).sum() / x0.numel()).backward()
    for (name, mine), expected in zip(joint.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, expected.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_real_networks_are_trained_by_it() -> None:
    torch.manual_seed(0)
    stage = AutoencoderKL(AutoencoderConfig(width=8, multipliers=(1, 1), blocks=1, groups=4, latent_channels=3,
                                            code_channels=3, middle_attention=False))  # fmt: skip
    joint = Joint(Prior().float(), stage, 3)
    x0 = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (4, 3, 8, 8)).astype(np.float32))
    loss = joint_loss(PROCESS, told, scale=1.0)
    value = loss(joint, {"x0": x0}, torch.Generator().manual_seed(0))
    value.backward()
    assert all(p.grad is not None and bool(p.grad.abs().max() > 0) for p in joint.stage.encoder.parameters())
    assert all(p.grad is not None for p in joint.parameters())
