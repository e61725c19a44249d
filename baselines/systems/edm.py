"""EDM (Karras et al. 2022): Heun's method on few, well placed noise levels."""

from __future__ import annotations

import math
from typing import Any

from baselines import steps as samplers
from baselines.files.cards import release as shipped
from baselines.files.dialects import edm as edm_arguments
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.ranges import descending, not_negative
from baselines.records import Configuration, Part, Preset, PublishedFile, Release, named, sized, square
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
    "edm-afhqv2-64-vp": _configuration(64, 0, 61.80, channel_mult=[1, 2, 2, 2], dropout=0.25),
    "edm-afhqv2-64-ve": _configuration(64, 0, 62.76, exploding=True, channel_mult=[1, 2, 2, 2], dropout=0.25),
    "edm-imagenet64-cond-adm": Configuration(
        arguments={
            "class_name": "training.networks.EDMPrecond", "model_type": "DhariwalUNet", "img_resolution": 64,
            "img_channels": 3, "label_dim": 1000, "model_channels": 192, "channel_mult": [1, 2, 3, 4],
        },
        parameters=295.90,
        source=_SOURCE,
    ),
}  # fmt: skip

_ADDRESS = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/"
_FILES = (
    ("edm-cifar10-uncond-vp", "edm-cifar10-32x32-uncond-vp", "cifar10"),
    ("edm-cifar10-uncond-ve", "edm-cifar10-32x32-uncond-ve", "cifar10"),
    ("edm-cifar10-cond-vp", "edm-cifar10-32x32-cond-vp", "cifar10"),
    ("edm-cifar10-cond-ve", "edm-cifar10-32x32-cond-ve", "cifar10"),
    ("edm-ffhq64-vp", "edm-ffhq-64x64-uncond-vp", "ffhq64"),
    ("edm-ffhq64-ve", "edm-ffhq-64x64-uncond-ve", "ffhq64"),
    ("edm-afhqv2-64-vp", "edm-afhqv2-64x64-uncond-vp", "afhqv2"),
    ("edm-afhqv2-64-ve", "edm-afhqv2-64x64-uncond-ve", "afhqv2"),
    ("edm-imagenet64-cond-adm", "edm-imagenet-64x64-cond-adm", "imagenet64"),
)
FILES = sized(
    [
        PublishedFile(
            name=name,
            url=f"{_ADDRESS}{file}.pkl",
            networks={"unet": name},
            dataset=data,
            licence="CC-BY-NC-SA-4.0",
            weights="average",
            pickled=True,
            source="NVlabs/edm README.md; a pickle of Python objects, which is converted as docs/models.md says",
        )
        for name, file, data in _FILES
    ],
    CONFIGURATIONS,
)


def _release(name: str) -> Release:
    arguments = CONFIGURATIONS[name].arguments
    told: Any = edm_arguments.training(arguments)
    part = Part(file=name, process=told.process, kind=told.kind, learned_variance=told.learned_variance)
    return Release(parts={"unet": part}, shape=square(told.side), classes=arguments["label_dim"])


RELEASES = named({name: _release(name) for name, _, _ in _FILES})

_ROW = {"arxiv": "2206.00364", "system": "EDM"}
_PRINTED: dict[str, Any] = {
    "num_samples": 50_000,
    "protocol": "edm",
    "differs": ("the paper prints the least FID of three times 50,000 images",),
}
PRESETS = {
    "shapes": Preset(release=shipped("shapes-pixel")),
    "cifar10": Preset(
        release=RELEASES["edm-cifar10-uncond-vp"],
        arguments={"clip": False},
        source="Karras et al. 2022 Table 2; NVlabs/edm README.md",
        rows=({**_ROW, "conditioning": "uncond", "variant": "config F*VP*"},),
        **_PRINTED,
    ),
    "imagenet64": Preset(
        release=RELEASES["edm-imagenet64-cond-adm"],
        arguments={
            "steps": 256, "churn": 40.0, "churn_low": 0.05, "churn_high": 50.0, "inflation": 1.003, "clip": False,
        },
        source="Karras et al. 2022 Table 5; NVlabs/edm README.md",
        rows=({**_ROW, "variant": "ADM architecture retrained*stochastic*"},),
        **_PRINTED,
    ),
}  # fmt: skip

load = loader(edm, PRESETS)
