"""Consistency models (Song et al. 2023): one network evaluation from any noise level to the clean image."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from baselines.conditions import Given
from baselines.denoisers import Condition, Denoiser, Prediction, rescaled
from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.guidance import clip as limit
from baselines.guidance import on_x0
from baselines.noise import Noise
from baselines.records import Preset
from baselines.sampling import walk
from baselines.schedules import EDM, Grid, Level, ratio_grid
from baselines.steps import Step
from baselines.system import System, conditional, scaled


def consistency(weights: Weights, *, via: str = "2.0") -> System:
    """Multistep consistency sampling; one evaluation more than there are noise levels in between.

    Args:
        via: noise levels sigma that are visited after the first, largest one, descending, with commas: "2.0" is two
            evaluations, "" is one.

    Source:
        Song et al. 2023 Alg. 1; openai/consistency_models. Differs: the network is that of a variance-preserving
        process, which is EDM's for data of unit variance, and its smallest noise is that of timestep 0.
    """
    low, high = weights.process.lowest, min(weights.process.highest, 80.0)
    try:
        between = [float(level) for level in via.split(",") if level.strip()]
    except ValueError:
        between = [math.nan]
    if not all(high > a > b > low for a, b in zip([high * (1 - 1e-12), *between], [*between, 2 * low], strict=True)):
        raise ValueError(f"via holds numbers that fall from {high:g} to {low:.4g}, such as '2.0'; got {via!r}.")

    def build(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        denoise, condition = conditional(weights, given)
        return on_x0(consistent(rescaled(denoise, weights.process), low), limit), condition

    grid = ratio_grid(EDM, [high, *between])
    step = noising(low)
    return System(weights=weights, sampler=walk(lambda: step, grid), build=build, start=scaled(high))


def consistent(denoise: Denoiser, low: float) -> Denoiser:
    """The consistency function of a network in the place of its denoiser, on levels with alpha = 1.

    Source: Song et al. 2023 eq. 5, with c_skip and c_out of App. C for data of unit variance.
    """

    def predict(x: Tensor, p: Level, condition: Condition) -> Prediction:
        believed = denoise(x, p, condition)
        # The network's own output: D = x / (1 + s^2) + s / sqrt(1 + s^2) F is EDM's denoiser.
        output = (believed.x0 - x / (1 + p.sigma**2)) * math.sqrt(1 + p.sigma**2) / p.sigma
        skip, out = 1 / ((p.sigma - low) ** 2 + 1), (p.sigma - low) / math.sqrt(1 + p.sigma**2)
        x0 = skip * x + out * output  # eq. 5
        return replace(believed, x0=x0, eps=(x - x0) / p.sigma)

    return predict


def noising(low: float) -> Step:
    """To the end of the trajectory, and up again to the next level by fresh noise. Source: Song et al. 2023 Alg. 1."""

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        x0, q = denoise(x, grid[i], condition).x0, grid[i + 1]
        return x0 if q.sigma == 0 else x0 + math.sqrt(q.sigma**2 - low**2) * noise(i + 1, x)

    return step


_ROW = {"arxiv": "2303.01469", "system": "CD (LPIPS)"}
PRESETS = {"shapes": Preset(release=shipped("shapes-consistency"))}

load = loader(consistency, PRESETS, rows={"cifar10": (_ROW,)})
