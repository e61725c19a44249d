"""Denoising diffusion GANs: large denoising steps that a discriminator judges, so that they need not be Gaussian."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import softplus

from baselines.denoisers import Condition, Denoiser, from_output
from baselines.noise import Noise
from baselines.schedules import Grid, Level, Process, integrated, ratio_grid
from baselines.steps import Step, transition
from baselines.training import Loss


def few_ratios(steps: int, *, low: float = 0.1, high: float = 20.0, first: float = 1e-3) -> list[float]:
    """Ratios sigma / alpha of a variance-preserving process in few steps, descending.

    Args:
        low, high, first: see `baselines.schedules.integrated`.
    """
    logs = integrated(steps, low=low, high=high, first=first)
    return [math.sqrt(math.expm1(logs[0] - logs[i])) for i in range(steps, 0, -1)]


def implicit(step: Step, size: int) -> Step:
    """The same step with a generator for a denoiser: its clean image is drawn, by a latent z, and not a mean.

    Args:
        step: what is drawn of x_q given the clean image; `ddpm("small")` is the posterior of the process.
        size: of z. It comes from a stream of its own, so that an image depends on its seed alone.

    Source: Xiao et al. 2022 eq. 4.
    """

    def run(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        z = noise(i + 1, x.new_empty(len(x), size), stream=1)
        return step(denoise, x, grid, i, noise, {**condition, "z": z})

    return run


class Adversaries(nn.Module):
    """A generator and its discriminator, which are trained together."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator


def adversarial_loss(
    process: Process,
    ratios: list[float],
    *,
    size: int,
    lowest: float = 0.0,
    penalty: float = 0.02,
    every: int = 15,
) -> Loss:
    """The losses of a generator of clean images and of a discriminator of denoising steps, for `Adversaries`.

    Each has gradients to its own network alone, so one optimiser may take their sum.

    Args:
        process: of the generator, which predicts v; it says what both networks are told of a level.
        ratios: of the sampler's levels, descending, see `few_ratios`.
        size: of the latent z.
        lowest: what the discriminator is told of a clean image.
        penalty: gamma of the R1 penalty.
        every: the penalty is taken on one step in so many, by chance.

    Source:
        Xiao et al. 2022 eq. 6 and 7, App. C; NVlabs/denoising-diffusion-gan `train_ddgan.py`. Differs: both networks
        are judged on the same generated states, where the original draws anew for the generator; the penalty falls on
        random steps.
    """
    grid = ratio_grid(process, ratios)
    pairs = list(pairwise(grid))
    p, q = (_levels([pair[k] for pair in pairs], lowest) for k in (0, 1))
    added = torch.tensor([transition(*pair) for pair in pairs])

    def loss(network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        pair, x0 = cast("Adversaries", network), batch["x0"]
        condition = {name: value for name, value in batch.items() if name != "x0"}
        i = torch.randint(len(pairs), (len(x0),), generator=generator)
        alpha_p, sigma_p, alpha_q, sigma_q, beta = (
            values[i].float().view(-1, 1, 1, 1).to(x0.device) for values in (*p[1:], *q[1:], added)
        )
        t_p, t_q = p[0][i].to(x0.device), q[0][i].to(x0.device)

        def fresh(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(x0.device)

        x_q = alpha_q * x0 + sigma_q * fresh(*x0.shape)
        x_p = alpha_p / alpha_q * x_q + beta.sqrt() * fresh(*x0.shape)
        output = pair.generator(x_p, t_p, z=fresh(len(x0), size), **condition).float()
        predicted = from_output("v", output, x_p, alpha_p, sigma_p)[0]
        kept = alpha_p / alpha_q * (sigma_q / sigma_p) ** 2
        mean = alpha_q * beta / sigma_p**2 * predicted + kept * x_p
        drawn = mean + beta.sqrt() * sigma_q / sigma_p * fresh(*x0.shape)  # eq. 4, by the posterior of Ho et al. eq. 7

        judge = pair.discriminator
        of_real = softplus(-judge(x_q, t_q, x_p, **condition).float())
        of_fake = softplus(judge(drawn.detach(), t_q, x_p, **condition).float())
        value = (of_real + of_fake).mean()  # eq. 6
        # A state dict is detached, so nothing of this reaches the discriminator.
        fooled = functional_call(judge, judge.state_dict(), (drawn, t_q, x_p), condition)
        value = value + softplus(-fooled.float()).mean()  # eq. 7
        if float(torch.rand((), generator=generator)) < 1 / every:
            value = value + penalty / 2 * _steepness(judge, x_q, t_q, x_p, condition)
        return value

    return loss


def _levels(levels: list[Level], lowest: float) -> tuple[Tensor, Tensor, Tensor]:
    """What is told, alpha and sigma of every level, each (n,). A clean one is told `lowest`."""
    told = [level.t if level.sigma else lowest for level in levels]
    alpha, sigma = ([level[k] for level in levels] for k in (1, 2))
    return torch.tensor(told), torch.tensor(alpha, dtype=torch.float64), torch.tensor(sigma, dtype=torch.float64)


def _steepness(judge: nn.Module, x_q: Tensor, t: Tensor, x_p: Tensor, condition: dict[str, Tensor]) -> Tensor:
    """Mean squared norm of the discriminator's gradient at real states, in float32. Source: Mescheder et al. 2018."""
    with torch.autocast(x_q.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        leaf = x_q.detach().requires_grad_()
        logits = judge(leaf, t, x_p, **condition)
        (gradient,) = torch.autograd.grad(logits.sum(), leaf, create_graph=True)
        return gradient.flatten(1).square().sum(1).mean()
