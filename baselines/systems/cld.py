"""Critically-damped Langevin diffusion (Dockhorn et al. 2022): images have velocities, and only those are noised."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from baselines import damped
from baselines.conditions import Given
from baselines.damped import CriticallyDamped
from baselines.denoisers import Condition, Denoiser
from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.noise import Noise
from baselines.records import Preset
from baselines.sampling import walk
from baselines.system import System, conditional, told

DYNAMICS = CriticallyDamped()


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
    end = max(1e-3, DYNAMICS.time(weights.process.lowest))
    step = (damped.euler_maruyama if sampler == "euler-maruyama" else damped.sscs)(DYNAMICS)
    grid = DYNAMICS.grid(steps, end=end, striding=striding)
    flow = damped.probability_flow(DYNAMICS, end=end, rtol=tolerance, atol=tolerance)

    def build(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        denoise, condition = denoiser(weights, given)
        return damped.limited(DYNAMICS, denoise) if clip else denoise, condition

    def bits(weights: Weights, given: Given, images: Tensor, noise: Noise, tolerance: float) -> Tensor:
        denoise, condition = denoiser(weights, given)
        return damped.bound(DYNAMICS, denoise, images, noise, condition, end=end, rtol=tolerance, atol=tolerance)

    c, h, w = weights.release.state
    return System(
        weights=weights,
        sampler=flow if sampler == "ode" else walk(lambda: step, grid),
        build=build,
        start=start,
        decode=lambda weights, u: u[:, :c],
        state=(2 * c, h, w),
        bits={"bound": bits},
    )


def denoiser(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
    """The network on positions and velocities, whether it was trained on both or on images alone."""
    if weights.release.parts["unet"].kind == "velocity":
        return damped.hybrid(DYNAMICS, weights.output(), weights.process), told(weights, given)[0]
    denoise, condition = conditional(weights, given)
    return damped.lifted(DYNAMICS, denoise, weights.process), condition


def start(noise: Noise, like: Tensor, given: Given) -> Tensor:
    """Positions of variance 1 and velocities of variance M."""
    x, v = damped.halves(noise(0, like))
    return torch.cat([x, math.sqrt(DYNAMICS.mass) * v], dim=1)


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
PRESETS = {"shapes": Preset(release=shipped("shapes-pixel"))}

load = loader(cld, PRESETS, rows={"cifar10": _ROWS})
