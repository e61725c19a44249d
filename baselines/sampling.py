"""From a start to a result: the sampling loop, and what a sampler is where there is no such loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from baselines.denoisers import Condition, Denoiser
from baselines.noise import Noise
from baselines.schedules import Grid
from baselines.steps import Step

Watch = Callable[[int, int, Tensor], None]
"""watch(done, steps, x) is called after every step, for progress and pictures."""


class Sampler(Protocol):
    """Brings a start to a result, calling the denoiser as often as it needs.

    A walk down a grid is one (`walk`). Adaptive solvers, models of tokens and generators of one pass are others, whose
    "denoiser" may be any function.
    """

    def __call__(
        self, denoise: Denoiser, x: Tensor, noise: Noise, condition: Condition, watch: Watch | None = None
    ) -> Tensor: ...


def walk(make_step: Callable[[], Step], grid: Grid) -> Sampler:
    """The sampler that walks down a grid.

    Args:
        make_step: makes the step of one run, so that a step may remember the ones before it (multistep methods).
    """

    def run(denoise: Denoiser, x: Tensor, noise: Noise, condition: Condition, watch: Watch | None = None) -> Tensor:
        step = make_step()
        for i in range(len(grid) - 1):
            x = step(denoise, x, grid, i, noise, condition)
            if watch is not None:
                watch(i + 1, len(grid) - 1, x)
        return x

    return run


@torch.no_grad()
def sample(
    denoise: Denoiser,
    step: Step,
    grid: Grid,
    x: Tensor,
    noise: Noise,
    condition: Condition | None = None,
    *,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Walks x down the grid.

    Args:
        x: (b, c, h, w), the state on grid[0]; standard normal times its sigma for a sample from noise.
        watch: called as watch(i, x) after step i, for progress and pictures.

    Returns:
        (b, c, h, w) on the last level, nominally in [-1, 1].
    """
    report = None if watch is None else (lambda done, steps, state: watch(done - 1, state))
    return walk(lambda: step, grid)(denoise, x, noise, condition or {}, report)
