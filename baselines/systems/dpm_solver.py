"""DPM-Solver and DPM-Solver++ (Lu et al. 2022): high-order solvers of the probability-flow ODE."""

from __future__ import annotations

from typing import Literal

from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.multistep import dpm_solver as multistep
from baselines.multistep import dpm_solver_single as singlestep
from baselines.records import Preset
from baselines.sampling import walk
from baselines.schedules import Level, karras_ratios, log_ratios, ratio_grid, subsequence
from baselines.steps import Step
from baselines.system import FLOW, System, starting
from baselines.systems.ddpm import limited

Spacing = Literal["karras", "log-snr", "time"]


def dpm_solver(
    weights: Weights,
    *,
    steps: int = 10,
    order: int = 2,
    method: Literal["multistep", "singlestep"] = "multistep",
    prediction: Literal["x0", "eps"] = "x0",
    spacing: Spacing = "karras",
) -> System:
    """DPM-Solver++ ("x0") or DPM-Solver ("eps", singlestep only).

    Args:
        steps: levels that are visited; an evaluation each ("multistep"), or `order` of them ("singlestep").
        spacing: "karras" spreads the ratios of noise to signal as EDM does, which needs the fewest steps here. The
            papers take "log-snr" for small and "time" for large images.

    Source: Lu et al. 2022a, 2022b; LuChengTHU/dpm-solver. The predicted image is limited to [-1, 1].
    """
    if method == "multistep" and prediction != "x0":
        raise ValueError("The multistep solver predicts x0; use method='singlestep' for prediction='eps'.")
    grid = levels_of(weights, steps, spacing)

    def make_step() -> Step:
        if method == "multistep":
            return multistep(order)
        return singlestep(order, process=weights.trained, prediction=prediction)

    sampler = walk(make_step, grid)
    return System(weights=weights, sampler=sampler, build=limited, start=starting(grid[0]), bits=FLOW)


def levels_of(weights: Weights, steps: int, spacing: Spacing) -> list[Level]:
    """The grid of a solver of few steps, from noise to the clean image.

    Raises:
        ValueError: another spacing.
    """
    process = weights.trained
    low, high = process.lowest, min(process.highest, 80.0)
    if spacing == "karras":
        return ratio_grid(process, karras_ratios(steps, low=low, high=high))
    if spacing == "log-snr":
        return ratio_grid(process, log_ratios(steps, low=low, high=high))
    if spacing == "time":
        return weights.process.grid(subsequence(steps, weights.process.steps, "respaced"))
    raise ValueError(f"spacing is karras, log-snr or time; got {spacing!r}.")


_ROW = {"arxiv": "2206.00927", "system": "DPM-Solver", "steps": "{steps}"}
PRESETS = {"shapes": Preset(release=shipped("shapes-pixel"))}

load = loader(dpm_solver, PRESETS, rows={"cifar10": (_ROW,)})
