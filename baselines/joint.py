"""A score-based prior of latents, trained together with the autoencoder whose latents it learns.

The bound of the likelihood has three terms: how well images are decoded, the entropy of the encoder, and the cross
entropy of its latents under the prior, which is an expectation of denoising errors over all times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor, nn

from baselines.denoisers import Condition, Denoiser, Prediction, from_output
from baselines.networks.autoencoder import AutoencoderKL, posterior
from baselines.networks.nvae import discretised_logistic
from baselines.processes import VariancePreserving
from baselines.schedules import Level
from baselines.training import Loss

Told = Callable[[Tensor], Tensor]
"""Ratios sigma / alpha, float64 (b,), to what a network is told as its time, float32 (b,)."""
Weighting = Literal["likelihood", "unweighted", "reweighted"]


def mixed(denoise: Denoiser, share: Tensor) -> Denoiser:
    """The same prior in a mixture with the standard normal one: eps = (1 - a) sigma x + a eps of the network.

    Args:
        denoise: on the levels of a variance-preserving process, on which sigma x is the noise in a standard normal x.
        share: a in [0, 1], of every channel, of a shape that broadcasts against x.

    Source: Vahdat et al. 2021 eq. 10.
    """

    def predict(x: Tensor, p: Level, condition: Condition) -> Prediction:
        found = denoise(x, p, condition)
        eps = (1 - share) * p.sigma * x + share * found.eps  # eq. 10
        return replace(found, x0=(x - p.sigma * eps) / p.alpha, eps=eps)

    return predict


def drawn_times(
    process: VariancePreserving, proposal: Weighting, uniform: Tensor, *, first: float
) -> tuple[Tensor, Tensor]:
    """Times in [first, 1] and one over their density, by importance sampling.

    The densities are proportional to w(t) (1 - sigma^2), which is best for a standard normal prior on latents of unit
    variance: then every draw weighs the same.

    Args:
        proposal: for which weighting w of the denoising errors: "likelihood" is beta / sigma^2, "unweighted" 1,
            "reweighted" beta.
        uniform: float64 (b,), in [0, 1).

    Returns:
        t and 1 / density, each float64 (b,).

    Source: Vahdat et al. 2021 sec. 3.3 and App. B; NVlabs/LSGM `diffusion_continuous.py:iw_quantities`.
    """
    low, rise = process.low, process.high - process.low
    start, end = (process.level(time).sigma ** 2 for time in (first, 1.0))
    if proposal == "unweighted":
        # 1 - sigma^2 = exp(-(low t + rise t^2 / 2)) is a normal density in t.
        spread, centre = math.sqrt(rise / 2), low / rise
        below, above = (math.erf(spread * (time + centre)) for time in (first, 1.0))
        time = torch.erfinv(below + uniform * (above - below)) / spread - centre
        mass = math.sqrt(math.pi) / (2 * spread) * math.exp(low**2 / (2 * rise)) * (above - below)
        return time, mass / (1 - _variance(process, time))
    if proposal == "likelihood":
        variance = start * (end / start) ** uniform  # log sigma^2 is uniform
        density = (1 - variance) / (variance * math.log(end / start))
    else:
        variance = start + uniform * (end - start)  # sigma^2 is uniform
        density = (1 - variance) / (end - start)
    total = -torch.log1p(-variance)
    time = 2 * total / (low + (low**2 + 2 * rise * total).sqrt())
    return time, 1 / (density * (low + rise * time))


def _variance(process: VariancePreserving, time: Tensor) -> Tensor:
    """sigma^2 of times."""
    return -torch.expm1(-(process.low * time + (process.high - process.low) * time.square() / 2))


def cross_entropy_constant(process: VariancePreserving, *, first: float) -> float:
    """What the cross entropy has beside the denoising errors, in nats a dimension. Source: Vahdat et al. 2021 eq. 8."""
    return 0.5 * math.log(2 * math.pi * math.e * process.level(first).sigma ** 2)


class Joint(nn.Module):
    """An autoencoder and the prior of its latents, which are trained together.

    Attributes:
        logit: (c, 1, 1), of the prior's share in the mixture with a standard normal one.
        log_scale: of the logistic distribution of a pixel around its decoded value.
    """

    def __init__(self, prior: nn.Module, stage: nn.Module, channels: int) -> None:
        super().__init__()
        self.prior, self.stage = prior, stage
        self.logit = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.tensor(-5.5))


def joint_loss(process: VariancePreserving, told: Told, *, scale: float, first: float = 0.01) -> Loss:
    """The bound of the likelihood, in nats a pixel value, for the autoencoder, and the unweighted error for the prior.

    The errors of one draw of times serve both: the gradient that reaches the encoder is weighted anew for the
    likelihood.

    Args:
        process: of the latents.
        told: what the prior is told.
        scale: factor from latents of the autoencoder to those that the prior sees.
        first: the first time, below which no noise is taken.

    Source:
        Vahdat et al. 2021 eq. 5 to 10 and Alg. 2; NVlabs/LSGM `train_vada.py`. Differs: pixels have a logistic
        distribution of one learned scale, and the prior predicts v.
    """

    def loss(network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        joint = cast("Joint", network)
        x0, stage = batch["x0"], cast("AutoencoderKL", joint.stage)
        condition = {name: value for name, value in batch.items() if name != "x0"}
        mean, std = posterior(stage.encode(x0).float())
        z = mean + std * _normal(mean, generator)
        time, inverse, again = _times(process, "unweighted", len(x0), generator, first)
        again = again * z[0].numel() / x0[0].numel()
        error = _errors(joint, process, told, scale * z, time, condition, generator, again)
        of_prior = (inverse.float().to(x0.device) * error.mean(1)).mean()  # w = 1
        of_pixels = -discretised_logistic(x0, stage.decode(z).float(), joint.log_scale).mean()
        entropy = std.log().sum() / x0.numel()  # of the encoder, but for a constant
        return of_pixels - entropy + of_prior  # eq. 5

    return loss


def bound(
    joint: Joint,
    process: VariancePreserving,
    told: Told,
    batch: dict[str, Tensor],
    generator: torch.Generator,
    *,
    scale: float,
    first: float = 0.01,
) -> Tensor:
    """Upper bound of the negative log-likelihood of 8-bit images, in bits a pixel value, (b,), by one draw of noise.

    Source: Vahdat et al. 2021 eq. 5 and 8, with times drawn for the likelihood.
    """
    x0, stage = batch["x0"], cast("AutoencoderKL", joint.stage)
    condition = {name: value for name, value in batch.items() if name != "x0"}
    mean, std = posterior(stage.encode(x0).float())
    z = mean + std * _normal(mean, generator)
    time, inverse, weight = _times(process, "likelihood", len(x0), generator, first)
    error = _errors(joint, process, told, scale * z, time, condition, generator).double().sum(1)
    size = z[0].numel()
    cross = inverse * weight * error + size * cross_entropy_constant(process, first=first)  # eq. 8
    entropy = (std * scale).double().log().flatten(1).sum(1) + 0.5 * size * math.log(2 * math.pi * math.e)
    of_pixels = -discretised_logistic(x0, stage.decode(z).float(), joint.log_scale).double().flatten(1).sum(1)
    return (of_pixels - entropy + cross) / (x0[0].numel() * math.log(2.0))  # eq. 5


def _times(
    process: VariancePreserving, proposal: Weighting, count: int, generator: torch.Generator, first: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Times, one over their density, and the weight of an error in the likelihood, g^2 / (2 sigma^2)."""
    time, inverse = drawn_times(
        process, proposal, torch.rand(count, generator=generator, dtype=torch.float64), first=first
    )
    return time, inverse, (process.low + (process.high - process.low) * time) / (2 * _variance(process, time))


def _errors(
    joint: Joint,
    process: VariancePreserving,
    told: Told,
    z: Tensor,
    time: Tensor,
    condition: dict[str, Tensor],
    generator: torch.Generator,
    again: Tensor | None = None,
) -> Tensor:
    """Squared errors of the noise that the mixed prior believes in, float32 (b, d).

    Args:
        z: latents as the prior sees them.
        again: (b,), factors of the gradient that reaches z.
    """
    variance = _variance(process, time)
    alpha, sigma = (root.sqrt().float().view(-1, 1, 1, 1).to(z.device) for root in (1 - variance, variance))
    eps = _normal(z, generator)
    x = alpha * z + sigma * eps
    if again is not None and x.requires_grad:
        factors = again.float().view(-1, 1, 1, 1).to(x.device)
        x.register_hook(lambda gradient: gradient * factors)
    output = joint.prior(x, told((variance / (1 - variance)).sqrt()).to(z.device), **condition).float()
    share = joint.logit.sigmoid()
    predicted = (1 - share) * sigma * x + share * from_output("v", output, x, alpha, sigma)[1]  # eq. 10
    return (eps - predicted).square().flatten(1)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like.device)
