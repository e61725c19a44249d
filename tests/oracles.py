"""Denoisers whose answer is known, and what samplers must make of them.

Every pixel is on its own, so that a tensor is a set of one-dimensional problems. A denoiser of Gaussian data is linear
in x, so every step is an affine map of x and of the noise: a distribution is propagated exactly, without sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from baselines.denoisers import Condition, Denoiser, Prediction
from baselines.noise import Noise
from baselines.schedules import CLEAN, Grid, Level
from baselines.steps import Step


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64, as oracles compute."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float32, as networks compute."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gaussian(mean: float | Tensor = 0.0, std: float = 0.5, *, variance: float | None = None) -> Denoiser:
    """Of data N(mean, std^2); `variance` is what a learned variance would output everywhere."""

    def denoise(x: Tensor, p: Level, condition: Condition) -> Prediction:
        total = p.alpha**2 * std**2 + p.sigma**2
        eps = p.sigma * (x - p.alpha * mean) / total
        x0 = mean + p.alpha * std**2 * (x - p.alpha * mean) / total
        return Prediction(x0, eps, None if variance is None else torch.full_like(x, variance))

    return denoise


def mixture(means: Sequence[float], std: float, weights: Sequence[float]) -> Denoiser:
    """Of data from a mixture of Gaussians of one standard deviation: the average of theirs by responsibility."""

    def denoise(x: Tensor, p: Level, condition: Condition) -> Prediction:
        total = p.alpha**2 * std**2 + p.sigma**2
        apart = torch.stack([x - p.alpha * mean for mean in means])
        prior = torch.tensor(weights, dtype=x.dtype).log().view(-1, *[1] * x.ndim)
        share = torch.softmax(prior - apart**2 / (2 * total), dim=0)
        eps = p.sigma / total * (share * apart).sum(0)
        return Prediction((x - p.sigma * eps) / p.alpha, eps)

    return denoise


def mixture_density(x: Tensor, means: Sequence[float], std: float, weights: Sequence[float], p: Level) -> Tensor:
    """Density of alpha x_0 + sigma eps, with x_0 from the mixture."""
    total = p.alpha**2 * std**2 + p.sigma**2
    parts = [w * torch.exp(-((x - p.alpha * m) ** 2) / (2 * total)) for m, w in zip(means, weights, strict=True)]
    return torch.stack(parts).sum(0) / math.sqrt(2 * math.pi * total)


def circle(steps: int, *, start: float = 1.5, end: float = 0.0) -> list[Level]:
    """A variance-preserving grid of any number of steps: (alpha, sigma) = (cos, sin) of equidistant angles."""
    angles = [start + (end - start) * i / steps for i in range(steps + 1)]
    return [Level(angle, math.cos(angle), math.sin(angle)) if angle else CLEAN for angle in angles]


def keyed(seed: int = 0) -> Noise:
    """Normal noise in the dtype of the state, a function of the draw alone."""

    def noise(draw: int, like: Tensor, stream: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * seed + draw + 500_000 * stream)
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    return noise


def maps(
    denoise: Denoiser, step: Step, grid: Grid, i: int, x: Tensor, condition: Condition | None = None
) -> tuple[Tensor, Tensor]:
    """Of step i from the states x, (n,) float64: where it goes without noise, and the factor of its noise."""

    def run(noise: Callable[[Tensor], Tensor]) -> Tensor:
        return step(denoise, x.view(-1, 1, 1, 1), grid, i, lambda draw, like: noise(like), condition or {}).flatten()

    still = run(torch.zeros_like)
    return still, run(torch.ones_like) - still


def propagate(
    denoise: Denoiser, step: Step, grid: Grid, mean: float, std: float, condition: Condition | None = None
) -> tuple[float, float]:
    """Mean and standard deviation after the last step of an affine sampler that starts from N(mean, std^2)."""
    for i in range(len(grid) - 1):
        (at_0, at_1), (factor, other) = maps(denoise, step, grid, i, torch.tensor([0.0, 1.0]).double(), condition)
        assert abs(factor - other) < 1e-12, "the noise of an affine step does not depend on the state"
        slope = float(at_1 - at_0)
        mean, std = float(at_0) + slope * mean, math.hypot(slope * std, float(factor))
    return mean, std


def order(errors: Sequence[float]) -> list[float]:
    """Orders of convergence between errors of numbers of steps that double."""
    return [math.log2(a / b) for a, b in pairwise(errors)]
