"""The sampling loop."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from baselines.denoisers import Condition, Denoiser
from baselines.noise import Noise
from baselines.schedules import Grid
from baselines.steps import Step


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
    for i in range(len(grid) - 1):
        x = step(denoise, x, grid, i, noise, condition or {})
        if watch is not None:
            watch(i, x)
    return x
