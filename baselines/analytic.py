"""Analytic-DPM: the variance of a reverse step that is optimal for what the network knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from baselines.denoisers import Condition, Denoiser
from baselines.noise import Noise
from baselines.ranges import not_negative
from baselines.schedules import Grid, Level
from baselines.steps import Step, shifted, transition

Known = Callable[[Level], float]
"""E |eps|^2 / d of a level: the mean square of the predicted noise, in [0, 1] for a perfect network."""


def mean_squares(denoise: Denoiser, images: Iterable[tuple[Tensor, Noise, Condition]], grid: Grid) -> list[float]:
    """Mean square of the predicted noise on every noisy level of a grid: Gamma, one number a level.

    Args:
        denoise: without clipping.
        images: batches of clean images in [-1, 1], their noise and their conditions.

    Source: Bao et al. 2022 (arXiv:2201.06503) eq. 8, where it is the Monte Carlo estimate of the mean score norm.
    """
    sums, count = [0.0] * (len(grid) - 1), 0
    with torch.no_grad():
        for x0, noise, condition in images:
            count += x0.numel()
            for i, p in enumerate(grid[:-1]):
                eps = denoise(p.alpha * x0 + p.sigma * noise(i + 1, x0), p, condition).eps
                sums[i] += float(eps.double().square().sum())  # eq. 8
    return [total / count for total in sums]


def between(known: Mapping[float, float]) -> Known:
    """Gamma of any level from those of known ratios sigma / alpha, linear in the logarithm of the ratio."""
    ratios = sorted(known)
    logs, values = np.log(ratios), np.array([known[r] for r in ratios])
    return lambda p: float(np.interp(math.log(p.ratio), logs, values))


def covariance(p: Level, gamma: float) -> float:
    """Mean variance of x0 given x on a level, for data in [-1, 1]. Source: Bao et al. 2022 eq. 7 and Theorem 2."""
    return min(max((p.sigma / p.alpha) ** 2 * (1.0 - gamma), 0.0), 1.0)  # eq. 7, limited by Theorem 2


def analytic(known: Known, *, eta: float = 1.0, pixels: float | None = None) -> Step:
    """The ancestral or DDIM step with the optimal variance.

    Args:
        known: Gamma of the visited levels, of this very network and conditioning.
        eta: 1, Analytic-DDPM, or 0, Analytic-DDIM. Their mean is that of `ddpm` and `ddim(0)`.
        pixels: limit of the last noisy step's standard deviation, in 8-bit values times sqrt(pi / 2). The paper takes
            1 or 2, chosen by FID on each data set. None for no limit.

    Raises:
        ValueError: another eta.

    Source:
        Bao et al. 2022 (arXiv:2201.06503) Theorem 1 and App. H; baofff/Analytic-DPM.
    """
    if eta not in (0.0, 1.0):
        raise ValueError(f"eta is 1 (Analytic-DDPM) or 0 (Analytic-DDIM); got {eta!r}.")
    not_negative(pixels=pixels or 0.0)

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q = grid[i], grid[i + 1]
        found = shifted(denoise(x, p, condition), x, p)
        beta = transition(p, q)
        small = eta * beta * (q.sigma / p.sigma) ** 2
        kept = math.sqrt(max(q.sigma**2 - small, 0.0)) / p.sigma  # what stays of the noise of p
        if q.sigma == 0:
            return q.alpha * found.x0
        # Theorem 1: the mean moves with x0 by alpha_q - kept alpha_p, and with it the variance of x0.
        mean = q.alpha * found.x0 + kept * (x - p.alpha * found.x0) if eta else q.alpha * found.x0 + q.sigma * found.eps
        variance = small + (q.alpha - kept * p.alpha) ** 2 * covariance(p, known(p))
        if pixels is not None and i == len(grid) - 3:
            variance = min(variance, (pixels * 2 / 255 * math.sqrt(math.pi / 2)) ** 2)
        return mean + math.sqrt(variance) * noise(i + 1, x)

    return step
