"""Patched U-Nets (Luhman and Luhman 2022): blocks of pixels become channels, which makes all convolutions cheaper."""

from __future__ import annotations

from typing import Literal

from baselines import steps as samplers
from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.multistep import dpm_solver
from baselines.records import Preset
from baselines.sampling import walk
from baselines.schedules import subsequence
from baselines.system import FLOW, System, by_chain
from baselines.systems.ddpm import limited
from baselines.systems.dpm_solver import levels_of


def patched_unet(
    weights: Weights, *, steps: int = 250, sampler: Literal["ancestral", "dpm-solver"] = "ancestral"
) -> System:
    """Sampling with a network that folds blocks of P x P pixels into channels first, and unfolds them last.

    Where the sides of feature maps are P times smaller, a network of equal width costs P^2 times less. Nothing else of
    a system changes. The network of `shapes` has P = 2; `python -m scripts.train_baselines patch-4` makes another.

    Args:
        steps: evaluations of the network.
        sampler: "ancestral" on respaced timesteps, with the learned variance if the network has one, as the paper does;
            or "dpm-solver" on EDM's levels, for few steps.

    Source:
        Luhman and Luhman 2022 (arXiv:2207.04316) sec. 3; ericl122333/PatchDiffusion-Pytorch, whose files are lost.
        Differs: no embedding of the position, and one network for all noise levels.
    """
    if sampler not in ("ancestral", "dpm-solver"):
        raise ValueError(f"sampler is ancestral or dpm-solver; got {sampler!r}.")
    if sampler == "dpm-solver":
        grid = levels_of(weights, steps, "karras")
        return System(weights=weights, sampler=walk(lambda: dpm_solver(2), grid), build=limited, bits=FLOW)
    variance: Literal["learned", "large"] = "learned" if weights.release.parts["unet"].learned_variance else "large"
    step, grid = samplers.ddpm(variance), weights.process.grid(subsequence(steps, weights.process.steps, "respaced"))
    bits = FLOW | {"bound": by_chain(grid, variance, limited)}
    return System(weights=weights, sampler=walk(lambda: step, grid), build=limited, bits=bits)


PRESETS = {"shapes": Preset(release=shipped("shapes-pixel"))}

load = loader(patched_unet, PRESETS)
