"""Critically-damped Langevin diffusion (Dockhorn et al. 2022): images have velocities, and only those are noised."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from baselines import damped
from baselines.conditions import Given
from baselines.damped import CriticallyDamped
from baselines.denoisers import Condition, Denoiser, rescaled
from baselines.files.cards import release as shipped
from baselines.files.dialects import cld as cld_arguments
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.noise import Noise
from baselines.records import Configuration, Part, Preset, PublishedFile, Release, named, sized, square
from baselines.sampling import walk
from baselines.schedules import Discrete
from baselines.system import System, conditional, told

DYNAMICS = CriticallyDamped()
"""The paper's process, which networks without velocities are sampled on."""


def cld(
    weights: Weights,
    *,
    sampler: Literal["sscs", "euler-maruyama", "ode"] = "sscs",
    steps: int = 100,
    striding: Literal["quadratic", "linear"] = "quadratic",
    tolerance: float = 1e-5,
    clip: bool = False,
) -> System:
    """Samplers of critically-damped Langevin diffusion.

    Args:
        sampler: "sscs" is the paper's symmetric splitting. "ode" takes as many evaluations as `tolerance` asks for.
        steps: noisy levels of the other two.
        striding: how their times are spread.
        tolerance: of the ODE's solver, relative and absolute.
        clip: limit the predicted image to [-1, 1], which the original does not.

    Source:
        Dockhorn et al. 2022 Alg. 1 and App. D; nv-tlabs/CLD-SGM. Differs: a walk ends where the network was trained. A
        network that knows no velocities serves as well, because all that a position and a velocity say of the image is
        in one combination of them (`baselines.damped.lifted`).
    """
    if sampler not in ("sscs", "euler-maruyama", "ode"):
        raise ValueError(f"sampler is sscs, euler-maruyama or ode; got {sampler!r}.")
    if striding not in ("quadratic", "linear"):
        raise ValueError(f"striding is quadratic or linear; got {striding!r}.")
    process = weights.trained if isinstance(weights.trained, CriticallyDamped) else DYNAMICS
    end = max(1e-3, process.time(weights.trained.lowest))
    step = (damped.euler_maruyama if sampler == "euler-maruyama" else damped.sscs)(process)
    grid = process.grid(steps, end=end, striding=striding)
    flow = damped.probability_flow(process, end=end, rtol=tolerance, atol=tolerance)

    def build(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        denoise, condition = denoiser(process, weights, given)
        return damped.limited(process, denoise) if clip else denoise, condition

    def bits(weights: Weights, given: Given, images: Tensor, noise: Noise, tolerance: float) -> Tensor:
        denoise, condition = denoiser(process, weights, given)
        return damped.bound(process, denoise, images, noise, condition, end=end, rtol=tolerance, atol=tolerance)

    c, h, w = weights.release.state
    return System(
        weights=weights,
        sampler=flow if sampler == "ode" else walk(lambda: step, grid),
        build=build,
        start=start(process),
        decode=lambda weights, u: u[:, :c],
        state=(2 * c, h, w),
        bits={"bound": bits},
    )


def denoiser(process: CriticallyDamped, weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
    """The network on positions and velocities, whether it was trained on both or on images alone."""
    trained = weights.trained
    if weights.release.parts["unet"].kind == "velocity":
        return damped.hybrid(process, weights.output(), trained), told(weights, given)[0]
    denoise, condition = conditional(weights, given)
    if not isinstance(trained, Discrete):
        denoise = rescaled(denoise, trained)
    return damped.lifted(process, denoise, trained), condition


def start(process: CriticallyDamped) -> Callable[[Noise, Tensor, Given], Tensor]:
    """Positions of variance 1 and velocities of variance M."""

    def first(noise: Noise, like: Tensor, given: Given) -> Tensor:
        x, v = damped.halves(noise(0, like))
        return torch.cat([x, math.sqrt(process.mass) * v], dim=1)

    return first


_ARGUMENTS: Mapping[str, Any] = {
    "sde": "cld", "name": "ncsnpp", "image_size": 32, "center_image": True, "image_channels": 3, "n_channels": 128,
    "ch_mult": "1,2,2,2", "n_resblocks": 8, "attn_resolutions": "16", "use_fir": True,
    "progressive_input": "residual", "embedding_type": "fourier", "mixed_score": True, "beta0": 4.0, "beta1": 0.0,
    "m_inv": 4.0, "gamma": 0.04, "numerical_eps": 1e-9,
}  # fmt: skip
_CELEBA: Mapping[str, Any] = {
    **_ARGUMENTS, "image_size": 256, "ch_mult": "1,1,2,2,2,2,2", "n_resblocks": 2, "use_fir": False,
    "progressive_input": "none", "embedding_type": "positional", "numerical_eps": 1e-6,
}  # fmt: skip
_LATER: Mapping[str, Any] = {**_CELEBA, "n_resblocks": 4, "beta0": 0.1, "beta1": 6.9}
CONFIGURATIONS = {
    "cld-cifar10": Configuration(
        arguments=_ARGUMENTS,
        parameters=107.59,
        source="nv-tlabs/CLD-SGM configs/default_cifar10.txt, configs/specific_cifar10.txt",
    ),
    "cld-celebahq": Configuration(
        arguments=_CELEBA,
        parameters=65.47,
        source="nv-tlabs/CLD-SGM configs/default_celeba_paper.txt, configs/specific_celeba_paper.txt",
    ),
    "cld-celebahq-post-paper": Configuration(
        arguments=_LATER,
        parameters=103.07,
        source="nv-tlabs/CLD-SGM configs/default_celeba_post_paper.txt, configs/specific_celeba_post_paper.txt",
    ),
}
_PUBLISHED: dict[str, Any] = {"licence": "NVIDIA Source Code License for CLD-SGM", "weights": "average", "copies": 2}
_FOLDERS = "https://drive.google.com/drive/folders/"
FILES = sized(
    [
        PublishedFile(
            name="cld-cifar10",
            url=_FOLDERS + "1O6ry0U1CgME94KAyIqCzgmLPS4jJGPFa",
            networks={"unet": "cld-cifar10"},
            dataset="cifar10",
            source="nv-tlabs/CLD-SGM README.md; checkpoint_800000.pth of this folder",
            **_PUBLISHED,
        ),
        PublishedFile(
            name="cld-celebahq",
            url=_FOLDERS + "1kettzSTqJnLCFqEvpFBxR3FbF1H2JtRm",
            networks={"unet": "cld-celebahq"},
            dataset="celebahq",
            source="nv-tlabs/CLD-SGM README.md, which does not say of which of its two configurations the file is; the "
            "other one is config='cld-celebahq-post-paper'",
            **_PUBLISHED,
        ),
    ],
    CONFIGURATIONS,
)


def _release(name: str) -> Release:
    told: Any = cld_arguments.training(CONFIGURATIONS[name].arguments)
    return Release(parts={"unet": Part(file=name, process=told.process, kind=told.kind)}, shape=square(told.side))


RELEASES = named({name: _release(name) for name in FILES})


_ROW = {"arxiv": "2112.07068", "system": "CLD-SGM"}
_VARIANTS = {
    "SSCS-QS": {"sampler": "sscs", "striding": "quadratic"},
    "SSCS": {"sampler": "sscs", "striding": "linear"},
    "EM-QS": {"sampler": "euler-maruyama", "striding": "quadratic"},
    "EM": {"sampler": "euler-maruyama", "striding": "linear"},
}
_ROWS: tuple[Mapping[str, Any], ...] = (
    *({**_ROW, "variant": name, "steps": "{steps}", "when": when} for name, when in _VARIANTS.items()),
    *({**_ROW, "variant": name, "steps": 275, "when": when} for name, when in _VARIANTS.items()),
    {**_ROW, "variant": "probability-flow ODE", "steps": 312, "when": {"sampler": "ode"}},
    {**_ROW, "variant": "likelihood bound"},
)
PRESETS = {
    "shapes": Preset(release=shipped("shapes-pixel")),
    "cifar10": Preset(
        release=RELEASES["cld-cifar10"],
        arguments={"steps": 500},
        num_samples=50_000,
        protocol="tf1",
        quantise="truncate",
        rows=_ROWS,
        source="Dockhorn et al. 2022 Tables 3 and 9; nv-tlabs/CLD-SGM",
    ),
}

load = loader(cld, PRESETS)
