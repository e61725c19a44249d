"""Variational diffusion models: the bound itself as the loss, in continuous time, with a learned schedule.

    x_t = alpha x_0 + sigma eps,   sigma^2 = sigmoid(gamma(t)),   alpha^2 = sigmoid(-gamma(t)),   t from 0 to 1,

so gamma is -log SNR. Images have the 256 values 2 (k + 1/2) / 256 - 1, which are 255/256 of the usual k / 127.5 - 1.

Source: Kingma et al. 2021 (arXiv:2107.00630); google-research/vdm `model_vdm.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from baselines.denoisers import Condition, Denoiser, from_output, levels
from baselines.networks.variational import VariationalNetwork
from baselines.noise import Noise
from baselines.schedules import Variational
from baselines.training import Loss

_FEW = 2
"""Images of a batch by which the likelihood of pixels is estimated, which varies little and is dear to compute."""
GREY = 255.0 / 256.0
"""Factor from images with values k / 127.5 - 1 to those with 2 (k + 1/2) / 256 - 1."""


def reconstruction(x0: Tensor, noisy: Tensor, ratio: float | Tensor) -> Tensor:
    """-log p(x | z_0) in nats of an image, (b,): each pixel is one of 256 values, near z_0 / alpha_0.

    Args:
        x0: (b, c, h, w), of the values 2 (k + 1/2) / 256 - 1.
        noisy: z_0 / alpha_0.
        ratio: sigma_0 / alpha_0.

    Source: Kingma et al. 2021 eq. 8 and App. C; `model_vdm.py:EncDec.logprob`.
    """
    values = (2 * torch.arange(256, device=x0.device, dtype=x0.dtype) + 1) / 256 - 1
    logits = -0.5 * ((noisy[..., None] - values) / ratio) ** 2
    k = ((x0 + 1) * 128 - 0.5).round().long().clamp(0, 255)
    return -logits.log_softmax(-1).gather(-1, k[..., None])[..., 0].flatten(1).sum(1)


def prior_divergence(x0: Tensor, gamma: Tensor) -> Tensor:
    """KL(q(z_1 | x) || N(0, 1)) in nats of an image, (b,). Source: Kingma et al. 2021 eq. 11."""
    mean_square, variance = torch.sigmoid(-gamma) * x0.square(), torch.sigmoid(gamma)
    return 0.5 * (mean_square + variance - 1 - variance.log()).flatten(1).sum(1)


def diffusion_terms(
    model: VariationalNetwork,
    kind: str,
    x0: Tensor,
    condition: dict[str, Tensor],
    share: Tensor,
    rate: Tensor,
    eps: Tensor,
) -> Tensor:
    """gamma'(t) / 2 |eps - eps^|^2 in bits a dimension, (b,), at times of which the schedule says `share` and `rate`.

    Source: Kingma et al. 2021 eq. 17.
    """
    low, high = model.schedule.ends
    gamma = (low + (high - low) * share).view(-1, 1, 1, 1)
    alpha, sigma = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
    z = alpha * x0 + sigma * eps
    output = model.denoiser(z, 1000 * share, **condition).float()
    error = (eps - from_output(kind, output, z, alpha, sigma)[1]).square().flatten(1).sum(1)
    return 0.5 * (high - low) * rate * error / (x0[0].numel() * math.log(2.0))


def variational_loss(kind: str) -> Loss:
    """The bound in bits a dimension, by one time and one noise an image.

    The ends of the schedule follow the bound. Its interior cannot change it, and follows the square of the loss, whose
    gradient is twice the loss times its own: so the same backward pass serves both.

    Args:
        kind: what the network predicts, see `baselines.denoisers.from_output`.

    Source:
        Kingma et al. 2021 eq. 11, 17 and 18, App. I (the interior); times are antithetic, (u + i / n) mod 1.
    """

    def loss(network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        model = cast("VariationalNetwork", network)
        x0, count = GREY * batch["x0"], len(batch["x0"])
        condition = {name: value for name, value in batch.items() if name != "x0"}
        time = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1.0
        eps = torch.randn(x0.shape, generator=generator).to(x0.device)
        first = torch.randn(x0[:_FEW].shape, generator=generator).to(x0.device)
        low, high = model.schedule.ends
        share, rate = model.schedule.share(time.to(x0.device))
        squared: list[Tensor] = []
        for interior in (share, rate):
            if interior.requires_grad:
                interior.register_hook(lambda gradient: 2 * squared[0] * gradient)
        diffusion = diffusion_terms(model, kind, x0, condition, share, rate, eps)
        squared.append(diffusion.detach())
        bits = x0[0].numel() * math.log(2.0)
        ratio = (0.5 * low).exp()
        few = x0[:_FEW]
        pixels = reconstruction(few, few + ratio * first, ratio)
        return diffusion.mean() + (pixels.mean() + prior_divergence(x0, high).mean()) / bits  # eq. 11

    return loss


def bound(
    denoise: Denoiser,
    process: Variational,
    share: Callable[[Tensor], tuple[Tensor, Tensor]],
    images: Tensor,
    noise: Noise,
    condition: Condition,
    *,
    times: int,
) -> Tensor:
    """Upper bound of the negative log-likelihood of 8-bit images, in continuous time.

    Args:
        share: of the way from `process.low` to `process.high` that is done at times (b,), and its derivative. It
            changes how much the estimate varies and not what is estimated.
        images: uint8 (b, c, h, w).
        noise: its draw i + 1 is the noise of time i. Stream 10 shifts the times, and stream 11 is the noise of z_0.
        times: noise levels of an image, (i + u) / times with one u.

    Returns:
        Bits a dimension, float64 (b,).

    Source: Kingma et al. 2021 eq. 11 and 17.
    """
    x0 = GREY * (images.float() / 127.5 - 1)
    shift = torch.special.ndtr(noise(0, x0[:, :1, :1, :1].double(), 10)).flatten()
    total = torch.zeros(len(x0), dtype=torch.float64)
    for i in range(times):
        done, rate = share((i + shift) / times)
        ratios = (0.5 * (process.low + (process.high - process.low) * done)).exp()
        p, eps = levels(process, ratios.clamp(process.lowest, process.highest), x0), noise(i + 1, x0)
        error = (eps - denoise(p.alpha * x0 + p.sigma * eps, p, condition).eps).double().square().flatten(1).sum(1)
        total += 0.5 * (process.high - process.low) * (rate * error.cpu()) / times  # eq. 17
    pixels = reconstruction(x0.double(), x0.double() + process.lowest * noise(0, x0, 11), process.lowest)
    ends = pixels + prior_divergence(x0.double(), torch.tensor(process.high, dtype=torch.float64))
    return (total + ends.cpu()) / (x0[0].numel() * math.log(2.0))
