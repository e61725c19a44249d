"""Diffusion in a subspace: the noisy part of a walk runs on small images, the rest on whole ones.

U maps an image to the sums of its blocks of 2 x 2 pixels, divided by 2, so that U U^T = 1. If x = alpha x_0 +
sigma eps then U x = alpha U x_0 + sigma eps', on the same levels. What U leaves out, x - U^T U x, is little in natural
images, and noise covers it on the upper levels: there it is taken for a Gaussian of standard deviation `spread`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from baselines.denoisers import Condition, Denoiser, Prediction
from baselines.noise import Noise
from baselines.sampling import Sampler, Watch
from baselines.schedules import Grid, Level
from baselines.steps import Step


def down(x: Tensor) -> Tensor:
    """U x: (b, c, h, w) to (b, c, h / 2, w / 2), in twice the range of x."""
    return 2.0 * F.avg_pool2d(x, 2)


def up(y: Tensor) -> Tensor:
    """U^T y: (b, c, h, w) to (b, c, 2 h, 2 w), in half the range of y."""
    return 0.5 * F.interpolate(y, scale_factor=2.0, mode="nearest")


def complement(x: Tensor) -> Tensor:
    """What U leaves out of an image: x - U^T U x, of the shape of x."""
    return x - up(down(x))


def spread_of(x0: Tensor) -> float:
    """Standard deviation of the complement of clean images, which has three quarters of their dimensions.

    Source: Jing et al. 2022 eq. 9; bjing2016/subspace-diffusion `analysis/subspace.ipynb`.
    """
    return float((complement(x0).double().square().mean() / 0.75).sqrt())  # s^2 = E |x - U^T U x|^2 / (d - d_sub)


def handover(y: Tensor, p: Level, spread: float, fresh: Tensor) -> Tensor:
    """The whole noisy image of a small one on the level p.

    Args:
        y: (b, c, h, w).
        spread: standard deviation of the complement of clean images.
        fresh: standard normal noise, (b, c, 2 h, 2 w).

    Source: Jing et al. 2022 eq. 9; bjing2016/subspace-diffusion `upsampling.py`.
    """
    return up(y) + math.hypot(p.sigma, p.alpha * spread) * complement(fresh)  # eq. 9: variance sigma^2 + alpha^2 s^2


def lifted(denoise: Denoiser, spread: float) -> Denoiser:
    """The denoiser of whole images that one of small images and the Gaussian complement make together.

    Source: Jing et al. 2022 eq. 11, where it is a score; bjing2016/subspace-diffusion `subspace_model.py`.
    """

    def predict(x: Tensor, p: Level, condition: Condition) -> Prediction:
        found, rest = denoise(down(x), p, condition), complement(x)
        share = p.alpha * spread**2 / (p.sigma**2 + (p.alpha * spread) ** 2)  # of x that belongs to the clean image
        x0 = up(found.x0) + share * rest
        return Prediction(x0, (x - p.alpha * x0) / p.sigma)

    return predict


def rising(make_step: Callable[[], Step], grid: Grid, first: int, spread: float, correct: Step) -> Sampler:
    """The sampler that walks on small images down to grid[first], and on whole ones from there.

    Args:
        make_step: makes the step of each of the two walks.
        first: index of the first level of whole images, from 0, where there is no walk on small ones, to that of the
            last noisy level.
        spread: standard deviation of the complement of clean images.
        correct: a step that stays on its level, after the images are whole.

    Returns:
        A sampler whose denoiser is called with small and with whole images. It starts from a whole one.

    Source:
        Jing et al. 2022 sec. 3; bjing2016/subspace-diffusion `subspace_sample.py`. Draw 0 of stream 9 fills the
        complement.
    """

    def run(denoise: Denoiser, x: Tensor, noise: Noise, condition: Condition, watch: Watch | None = None) -> Tensor:
        steps = len(grid) - 1

        def walked(x: Tensor, start: int, end: int) -> Tensor:
            step = make_step()
            for i in range(start, end):
                x = step(denoise, x, grid, i, noise, condition)
                if watch is not None:
                    watch(i + 1, steps, x)
            return x

        if first > 0:
            y = walked(down(x), 0, first)
            x = handover(y, grid[first], spread, noise(0, x, 9))
            x = correct(denoise, x, grid, first, noise, condition)
        return walked(x, first, steps)

    return run
