"""Noise-equilibrium diffusion (Sohl-Dickstein et al. 2015), the first of the diffusion models."""

from __future__ import annotations

from torch import Tensor

from baselines.conditions import Given
from baselines.denoisers import Condition, Denoiser
from baselines.equilibrium import drifting, restoring
from baselines.files.cards import description, shipped
from baselines.files.cards import release as shipped_release
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.records import Preset
from baselines.sampling import walk
from baselines.schedules import subsequence
from baselines.system import System, conditional


def noise_equilibrium(weights: Weights, *, steps: int = 999) -> System:
    """Reverse steps with a learned drift and variance, from pure noise to the first level of noise.

    Args:
        steps: of the walk, which visits one timestep more. The paper's walk visits all.

    Source:
        Sohl-Dickstein et al. 2015 eq. 5; Sohl-Dickstein/Diffusion-Probabilistic-Models. As there, the last step adds
        noise too, and images are of zero mean and unit variance inside; differs: by fixed moments of `shapes`, where
        the original takes those of a minibatch.
    """
    file = weights.release.parts["unet"].file
    known = description(file).get("moments") if shipped(file) else None
    if known is None:
        raise ValueError(f"noise-equilibrium needs weights whose description names the moments of its images: {file!r}")
    mean, std = known
    process = weights.process

    def build(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        denoise, condition = conditional(weights, given)
        return drifting(denoise, process), condition

    def decode(weights: Weights, x: Tensor) -> Tensor:
        return x * std + mean

    if not 1 <= steps < process.steps:
        raise ValueError(f"steps must lie in [1, {process.steps - 1}], the steps between its timesteps; got {steps}.")
    step = restoring(process.steps)
    *grid, _ = process.grid(subsequence(steps + 1, process.steps, "respaced"))  # ends on the first level of noise
    return System(weights=weights, sampler=walk(lambda: step, grid), build=build, decode=decode)


PRESETS = {"shapes": Preset(release=shipped_release("shapes-equilibrium"))}

load = loader(noise_equilibrium, PRESETS)
