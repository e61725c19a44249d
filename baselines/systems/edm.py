"""EDM (Karras et al. 2022): Heun's method on few, well placed noise levels."""

from __future__ import annotations

import math
from typing import Any

from baselines import steps as samplers
from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.ranges import descending, not_negative
from baselines.records import Configuration, Preset
from baselines.sampling import walk
from baselines.schedules import EDM, karras_ratios, ratio_grid
from baselines.system import FLOW, System, elsewhere, scaled


def edm(
    weights: Weights,
    *,
    steps: int = 18,
    low: float = 0.002,
    high: float = 80.0,
    rho: float = 7.0,
    churn: float = 0.0,
    churn_low: float = 0.0,
    churn_high: float | None = None,
    inflation: float = 1.0,
    clip: bool = True,
) -> System:
    """The sampler of EDM, on any network: 2 steps - 1 evaluations.

    Args:
        steps: number of noise levels.
        low, high: their range of sigma. It is narrowed to what the network was trained on.
        rho: how they are spread.
        churn, churn_low, churn_high, inflation: S_churn, S_min, S_max and S_noise of the stochastic sampler.
        clip: limit the predicted image to [-1, 1], which the original does not.

    Source: Karras et al. 2022 Alg. 2; NVlabs/edm `generate.py:edm_sampler`, whose networks see sigma as log(sigma) / 4.
    """
    descending(low, high)
    not_negative(churn_low=churn_low)
    process = weights.trained
    ratios = karras_ratios(steps, low=max(low, process.lowest), high=min(high, process.highest), rho=rho)  # eq. 5
    most = math.inf if churn_high is None else churn_high
    step = samplers.heun(churn, low=churn_low, high=most, inflation=inflation)  # Alg. 2
    grid = ratio_grid(EDM, ratios)
    return System(
        weights=weights,
        sampler=walk(lambda: step, grid),
        build=elsewhere(clip=clip),
        start=scaled(grid[0].sigma),
        bits=FLOW,
    )


_SOURCE = "NVlabs/edm train.py and its pickles of https://nvlabs-fi-cdn.nvidia.com/edm/pretrained"


def _configuration(side: int, labels: int, millions: float, *, exploding: bool = False, **more: Any) -> Configuration:
    """DDPM++ ("vp") or NCSN++ ("ve"), of three levels of 256 channels unless `more` says otherwise."""
    ncsnpp = {
        "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
        "resample_filter": [1, 3, 3, 1],
    }  # fmt: skip
    arguments = {
        "model_type": "SongUNet", "img_resolution": side, "label_dim": labels, "channel_mult": [2, 2, 2],
        **(ncsnpp if exploding else {}), **more,
    }  # fmt: skip
    return Configuration(arguments=arguments, parameters=millions, source=_SOURCE)


CONFIGURATIONS = {
    "edm-cifar10-uncond-vp": _configuration(32, 0, 55.73),
    "edm-cifar10-cond-vp": _configuration(32, 10, 55.73),
    "edm-cifar10-uncond-ve": _configuration(32, 0, 56.40, exploding=True),
    "edm-cifar10-cond-ve": _configuration(32, 10, 56.40, exploding=True),
    "edm-ffhq64-vp": _configuration(64, 0, 61.80, channel_mult=[1, 2, 2, 2]),
    "edm-ffhq64-ve": _configuration(64, 0, 62.76, exploding=True, channel_mult=[1, 2, 2, 2]),
}  # fmt: skip

_ROW = {"arxiv": "2206.00364", "system": "EDM", "variant": "config F*VP*"}
PRESETS = {"shapes": Preset(release=shipped("shapes-pixel"))}

load = loader(edm, PRESETS, rows={"cifar10": (_ROW,)})
