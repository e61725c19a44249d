"""Noise-conditional score networks (Song and Ermon 2019, 2020): annealed Langevin dynamics."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from baselines.conditions import Given
from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.langevin import annealed_langevin
from baselines.noise import Noise
from baselines.records import Preset
from baselines.sampling import walk
from baselines.schedules import EDM, log_ratios, ratio_grid
from baselines.system import System, elsewhere

# Levels, their range, Langevin steps a level, and `step_lr`, of both papers on CIFAR-10. Their images lie in [0, 1]:
# here in [-1, 1] sigma is twice and the step four times as large.
_VERSIONS = {1: (10, 1.0, 0.01, 100, 2e-5), 2: (232, 50.0, 0.01, 5, 6.2e-6)}


def ncsn(
    weights: Weights,
    *,
    version: Literal[1, 2] = 2,
    levels: int | None = None,
    count: int | None = None,
    rate: float | None = None,
    denoise: bool | None = None,
) -> System:
    """Annealed Langevin dynamics: `count` steps on each of `levels` noise levels.

    Args:
        version: 1 or 2, whose numbers stand where others are not given: 10 levels from sigma 2 to 0.02 with 100 steps,
            from uniform noise, or 232 levels from 100 with 5 steps.
        rate: length of a step on the last level, for images in [-1, 1].
        denoise: end with the clean image, by one evaluation more. The second paper does and the first does not.

    Source:
        Song and Ermon 2019 Alg. 1, 2020 Alg. 1; ermongroup/ncsn `anneal_runner.py`, ncsnv2 `configs/cifar10.yml`.
    """
    if version not in _VERSIONS:
        raise ValueError(f"version is 1 or 2; got {version!r}.")
    papers, high, low, steps, step_lr = _VERSIONS[version]
    last = max(2 * low, weights.trained.lowest)
    grid = ratio_grid(EDM, log_ratios(papers if levels is None else levels, low=last, high=2 * high))
    step = annealed_langevin(
        4 * step_lr if rate is None else rate,
        steps if count is None else count,
        denoised=version == 2 if denoise is None else denoise,
    )
    return System(weights=weights, sampler=walk(lambda: step, grid), build=elsewhere(clip=False), start=uniform)


def uniform(noise: Noise, like: Tensor, given: Given) -> Tensor:
    """Uniform noise in [-1, 1], in which the originals start, whatever the first level."""
    return 2.0 * torch.special.ndtr(noise(0, like)) - 1.0


_ROWS = (
    {"arxiv": "1907.05600", "system": "NCSN", "when": {"version": 1}},
    {"arxiv": "2006.09011", "system": "NCSNv2", "variant": "with denoising", "when": {"version": 2}},
)
PRESETS = {"shapes": Preset(release=shipped("shapes-pixel"))}

load = loader(ncsn, PRESETS, rows={"cifar10": _ROWS})
