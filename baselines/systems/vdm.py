"""Variational diffusion models (Kingma et al. 2021): trained by the bound itself, with a learned schedule."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines import variational
from baselines.conditions import Given
from baselines.denoisers import Condition, Denoiser
from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.noise import Noise
from baselines.ranges import at_least
from baselines.records import Preset
from baselines.sampling import Watch, walk
from baselines.schedules import Level, Variational
from baselines.steps import ddpm
from baselines.system import FLOW, System, conditional
from baselines.systems.ddpm import limited
from baselines.variational import GREY


def vdm(weights: Weights, *, steps: int = 250, times: int = 128, clip: bool = False) -> System:
    """Ancestral sampling on the learned schedule; the pixels are the grey levels nearest to z_0 / alpha_0.

    Args:
        steps: of equal length in the learned time, from 1 to 0.
        times: noise levels by which the bound of an image is estimated.
        clip: limit the predicted image to [-1, 1], which the original does not.

    Source:
        Kingma et al. 2021 eq. 33 and App. A; google-research/vdm `model_vdm.py:VDM.sample`. Differs: the shipped
        network halves the resolution as others here do, predicts v, and was trained from the weights of `shapes-pixel`.
    """
    process = weights.trained
    if not isinstance(process, Variational):
        raise ValueError("vdm needs a network that was trained with a learned schedule, such as weights='shapes-vdm'.")
    at_least(1, steps=steps, times=times)
    step, first = ddpm("small"), process.at(process.lowest)  # eq. 33

    def grid() -> list[Level]:
        share, _ = weights.network("schedule", "float32").share(torch.linspace(1, 0, steps + 1))
        gammas = process.low + (process.high - process.low) * share.double()
        ratios = (0.5 * gammas).exp().clamp(process.lowest, process.highest)
        return [process.at(ratio) for ratio in ratios.tolist()]

    def run(denoise: Denoiser, x: Tensor, noise: Noise, condition: Condition, watch: Watch | None = None) -> Tensor:
        return walk(lambda: step, grid())(denoise, x, noise, condition, watch)

    def bits(weights: Weights, given: Given, images: Tensor, noise: Noise, tolerance: float) -> Tensor:
        denoise, condition = conditional(weights, given)
        share = weights.network("schedule", "float32").share
        return variational.bound(denoise, process, share, images, noise, condition, times=times)

    return System(
        weights=weights,
        sampler=run,
        build=limited if clip else conditional,
        decode=lambda weights, z: z / (first.alpha * GREY),
        bits=FLOW | {"bound": bits},  # eq. 11
    )


_ROW = {"arxiv": "2107.00630", "system": "VDM"}
PRESETS = {"shapes": Preset(release=shipped("shapes-vdm"))}

load = loader(vdm, PRESETS, rows={"cifar10": (_ROW,)})
