"""Subspace diffusion (Jing et al. 2022): the noisy part of the walk on small images, the rest on whole ones."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from baselines.conditions import Given
from baselines.denoisers import Condition, Denoiser, Prediction, rescaled
from baselines.files.cards import description, part
from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.guidance import clip as limit
from baselines.guidance import on_x0
from baselines.langevin import alternating, langevin, reverse_diffusion
from baselines.multistep import dpm_solver
from baselines.processes import VarianceExploding, time_grid
from baselines.ranges import positive
from baselines.records import Preset
from baselines.sampling import walk
from baselines.schedules import EDM, Level, karras_ratios, ratio_grid
from baselines.steps import Step
from baselines.subspace import complement, rising, up
from baselines.system import System, conditional, scaled
from baselines.systems.score_sde import end_of


def subspace(
    weights: Weights,
    *,
    steps: int = 20,
    switch: float = 1.4,
    sampler: Literal["dpm-solver", "pc"] = "dpm-solver",
    snr: float = 0.22,
    count: int = 2,
) -> System:
    """Two networks: one of images of half the side above a noise level, one of whole images below it.

    Args:
        steps: noise levels in all; evaluations are `count` more, and twice the steps more for "pc".
        switch: ratio sigma / alpha below which images are whole; the paper's time 0.5 is 1.4. From the highest level
            on there is no small network, and below the lowest one no whole image.
        sampler: "dpm-solver" on EDM's levels, or the paper's predictor-corrector on those of `score-sde`.
        snr, count: of the Langevin steps in the complement, after the images became whole.

    Source:
        Jing et al. 2022 sec. 3; bjing2016/subspace-diffusion `subspace_sample.py`, whose sampler is "pc" of 1000 steps.
    """
    if sampler not in ("dpm-solver", "pc"):
        raise ValueError(f"sampler is dpm-solver or pc; got {sampler!r}.")
    if _SMALL not in weights.roles:
        raise ValueError("subspace needs a second network, of images of half the side; these weights have none.")
    positive(switch=switch)
    process = weights.trained
    if sampler == "pc":
        exploding = VarianceExploding()
        grid = time_grid(exploding, steps, end=end_of(exploding, weights))
    else:
        grid = ratio_grid(EDM, karras_ratios(steps, low=process.lowest, high=min(process.highest, 80.0)))
    first = sum(p.ratio > switch for p in grid[:-1])
    if first == len(grid) - 1:
        raise ValueError(f"switch={switch} lies below the last noisy level, {grid[-2].ratio:.4g}.")
    small = {p.ratio for p in grid[:first]}

    def build(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        own, condition = conditional(weights, given)
        whole = on_x0(rescaled(own, process), limit)
        small_ones = on_x0(rescaled(weights.denoiser(_SMALL), process), lambda y: y.clamp(-2, 2))  # sums of pixels

        def denoise(x: Tensor, p: Level, condition: Condition) -> Prediction:
            return (small_ones if p.ratio in small else whole)(x, p, condition)

        return denoise, condition

    def make_step() -> Step:
        return dpm_solver(2) if sampler == "dpm-solver" else alternating(langevin(0.16), reverse_diffusion())

    spread = float(description(weights.release.parts[_SMALL].file)["spread"])
    correct = langevin(snr, count, project=complement)
    return System(
        weights=weights,
        sampler=rising(make_step, grid, first, spread, correct) if first else walk(make_step, grid),
        build=build,
        start=scaled(grid[0].sigma),
        decode=lambda weights, x: x if x.shape[-1] == weights.release.shape[-1] else up(x),
    )


_SMALL = "subspace"
PRESETS = {"shapes": Preset(release=shipped("shapes-pixel").with_parts(**{_SMALL: part("shapes-subspace")}))}

load = loader(subspace, PRESETS)
