"""The sampling loop, and the way from floats to pixels."""

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


QUANTISERS = ("round", "truncate")


def quantise(x: Tensor, how: str = "round") -> Tensor:
    """Turns images in [-1, 1] into 8-bit pixels.

    Args:
        x: (b, 3, h, w), any floating dtype; values outside [-1, 1] are clipped.
        how: "round" to nearest, halves up (DDIM, EDM, diffusers); "truncate" (improved diffusion, ADM, LDM), which is
            darker by half a grey level and shifts every feature.

    Returns:
        uint8 (b, 3, h, w) on the device of x.

    Raises:
        ValueError: an unknown rule; values that are not finite, with the number of the first such image.

    Source:
        `(x + 1) * 127.5` in ADM's `image_sample.py`; `127.5 x + 128` in NVlabs/edm `generate.py`.
    """
    if how not in QUANTISERS:
        raise ValueError(f"No quantiser {how!r}; there are {', '.join(QUANTISERS)}.")
    scaled = (x.float() + 1) * 127.5
    finite = torch.isfinite(scaled).flatten(1).all(1)
    if not bool(finite.all()):
        raise ValueError(f"image {int((~finite).nonzero()[0])} of the batch is not finite")
    return torch.floor(scaled + 0.5 if how == "round" else scaled).clamp(0, 255).to(torch.uint8)
