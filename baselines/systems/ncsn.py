"""Noise-conditional score networks (Song and Ermon 2019, 2020): annealed Langevin dynamics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from baselines.conditions import Given
from baselines.files.cards import release as shipped
from baselines.files.dialects import ncsn as ncsn_arguments
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.langevin import annealed_langevin
from baselines.noise import Noise
from baselines.processes import VarianceExplodingDiscrete
from baselines.records import Configuration, Part, Preset, PublishedFile, Release, named, sized, square
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
            from uniform noise, or 232 levels from 100 with 5 steps. A network that was trained on such levels brings
            its own, and their number.
        rate: length of a step on the last level, for images in [-1, 1]: four times the `step_lr` of the originals.
        denoise: end with the clean image, by one evaluation more. The second paper does and the first does not.

    Source:
        Song and Ermon 2019 Alg. 1, 2020 Alg. 1; ermongroup/ncsn `anneal_runner.py`, ncsnv2 `configs/cifar10.yml`.
    """
    if version not in _VERSIONS:
        raise ValueError(f"version is 1 or 2; got {version!r}.")
    papers, high, low, steps, step_lr = _VERSIONS[version]
    first, last = 2 * high, max(2 * low, weights.trained.lowest)
    if isinstance(weights.trained, VarianceExplodingDiscrete):
        first, last, papers = weights.trained.high, weights.trained.low, weights.trained.steps
    grid = ratio_grid(EDM, log_ratios(papers if levels is None else levels, low=last, high=first))
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


def _second(data: str, side: int, levels: int, highest: float, millions: float) -> Configuration:
    """A configuration of NCSNv2."""
    arguments: Mapping[str, Any] = {
        "data": {"dataset": data, "image_size": side, "channels": 3, "logit_transform": False, "rescaled": False},
        "model": {
            "sigma_begin": highest, "sigma_end": 0.01, "num_classes": levels, "sigma_dist": "geometric",
            "normalization": "InstanceNorm++", "nonlinearity": "elu", "spec_norm": False, "ngf": 128,
        },
    }  # fmt: skip
    return Configuration(arguments=arguments, parameters=millions, source="ermongroup/ncsnv2 configs")


def _first(data: str) -> Configuration:
    """A configuration of NCSN, whose images are small."""
    arguments: Mapping[str, Any] = {
        "data": {"dataset": data, "image_size": 32, "channels": 3, "logit_transform": False},
        "model": {"sigma_begin": 1, "sigma_end": 0.01, "num_classes": 10, "batch_norm": False, "ngf": 128},
    }  # fmt: skip
    return Configuration(arguments=arguments, parameters=30.12, source="ermongroup/ncsn configs/anneal.yml")


CONFIGURATIONS = {
    "ncsn-cifar10": _first("CIFAR10"),
    "ncsn-celeba32": _first("CELEBA"),
    "ncsnv2-cifar10": _second("CIFAR10", 32, 232, 50.0, 29.69),
    "ncsnv2-celeba": _second("CELEBA", 64, 500, 90.0, 29.69),
    "ncsnv2-church": _second("LSUN", 96, 788, 140.0, 83.45),
    "ncsnv2-bedroom": _second("LSUN", 128, 1086, 190.0, 83.45),
    "ncsnv2-ffhq": _second("FFHQ", 256, 2311, 348.0, 94.13),
}
_RUN = "https://drive.google.com/file/d/1BF2mwFv5IRCGaQbEWTbLlAOWEkNzMe5O/view"
_FOLDER = "https://drive.google.com/drive/folders/1217uhIvLg9ZrYNKOR3XTRFSurt4miQrd"
_OF_FIRST: dict[str, Any] = {
    "url": _RUN, "licence": "GPL-3.0", "weights": "raw", "source": "ermongroup/ncsn README.md, an archive of folders",
}  # fmt: skip
_OF_SECOND: dict[str, Any] = {
    "url": _FOLDER, "licence": "MIT", "weights": "average", "copies": 2, "source": "ermongroup/ncsnv2 README.md",
}  # fmt: skip
FILES = sized(
    [
        PublishedFile(name="ncsn-cifar10", networks={"unet": "ncsn-cifar10"}, dataset="cifar10",
                      member="run/logs/cifar10/checkpoint.pth", **_OF_FIRST),
        PublishedFile(name="ncsn-celeba32", networks={"unet": "ncsn-celeba32"}, dataset="celeba32",
                      member="run/logs/celeba/checkpoint.pth", **_OF_FIRST),
        PublishedFile(name="ncsnv2-cifar10", networks={"unet": "ncsnv2-cifar10"}, dataset="cifar10",
                      member="logs/cifar10/checkpoint_300000.pth", **_OF_SECOND),
        PublishedFile(name="ncsnv2-celeba", networks={"unet": "ncsnv2-celeba"}, dataset="celeba",
                      member="logs/celeba/checkpoint_210000.pth", **_OF_SECOND),
        PublishedFile(name="ncsnv2-church", networks={"unet": "ncsnv2-church"}, dataset="church96",
                      member="logs/church/checkpoint_200000.pth", **_OF_SECOND),
        PublishedFile(name="ncsnv2-bedroom", networks={"unet": "ncsnv2-bedroom"}, dataset="bedroom128",
                      member="logs/bedroom/checkpoint_150000.pth", **_OF_SECOND),
        PublishedFile(name="ncsnv2-ffhq", networks={"unet": "ncsnv2-ffhq"}, dataset="ffhq",
                      member="logs/ffhq/checkpoint_80000.pth", **_OF_SECOND),
    ],
    CONFIGURATIONS,
)  # fmt: skip


def _release(name: str) -> Release:
    told: Any = ncsn_arguments.training(CONFIGURATIONS[name].arguments)
    return Release(parts={"unet": Part(file=name, process=told.process, kind=told.kind)}, shape=square(told.side))


RELEASES = named({name: _release(name) for name in FILES})
PRESETS = {
    "shapes": Preset(release=shipped("shapes-pixel")),
    "cifar10": Preset(
        release=RELEASES["ncsnv2-cifar10"],
        num_samples=50_000,
        protocol="tf1",
        rows=_ROWS,
        source="Song and Ermon 2020 Table 1; ermongroup/ncsnv2 configs/cifar10.yml",
    ),
    "celeba": Preset(
        release=RELEASES["ncsnv2-celeba"],
        arguments={"rate": 4 * 3.3e-6},
        protocol="tf1",
        rows=_ROWS[1:],
        source="Song and Ermon 2020 Table 1; ermongroup/ncsnv2 configs/celeba.yml",
    ),
}

load = loader(ncsn, PRESETS)
