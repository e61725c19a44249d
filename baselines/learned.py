"""Learned samplers: few steps whose every coefficient is a number that was optimised, while the network stays as it is.

A state is a mixture of the clean image that is believed in, of all states before it, and of fresh noise. This family
holds ancestral sampling and DDIM, whose coefficients are those of one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from baselines.denoisers import Condition, Denoiser
from baselines.noise import Noise
from baselines.schedules import CLEAN, Grid, Level
from baselines.steps import Step, transition


@dataclass(frozen=True, slots=True, kw_only=True)
class Generalised:
    """A generalised Gaussian diffusion model of K steps.

    Attributes:
        levels: of the K states that the network sees: what it is told, and the scales of signal and noise by which its
            output becomes an image. They need be those of no process.
        mix: of step i the 2 + i factors of the predicted image and of the states 0 to i, the first one pure noise.
        noise: of step i the standard deviation of the fresh noise.

    All numbers are floats, or tensors without dimensions while they are learned.
    """

    levels: Sequence[Level]
    mix: Sequence[Sequence[Any]]
    noise: Sequence[Any]

    @property
    def grid(self) -> list[Level]:
        """The levels, and the clean one at the end."""
        return [*self.levels, CLEAN]


def ancestral(grid: Grid) -> Generalised:
    """The member of the family that is `ddpm("small")` on a grid, from which learning starts.

    Source: Watson et al. 2022 sec. 3.2; the coefficients are Ho et al. 2020 eq. 7.
    """
    mix, noise = [], []
    for i, (p, q) in enumerate(pairwise(grid)):
        beta = transition(p, q)
        of_last = p.alpha / q.alpha * (q.sigma / p.sigma) ** 2
        mix.append([q.alpha * beta / p.sigma**2, *[0.0] * i, of_last])
        noise.append(beta**0.5 * q.sigma / p.sigma)
    return Generalised(levels=list(grid[:-1]), mix=mix, noise=noise)


def generalised(model: Generalised) -> Step:
    """Makes the step of one run, which remembers the states before it.

    Source: Watson et al. 2022 (arXiv:2202.05830) eq. 5, with the clean image that is predicted in the place of x_0.
    """
    states: list[Tensor] = []

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        states.append(x)
        of_image, *of_states = model.mix[i]
        mean = of_image * denoise(x, grid[i], condition).x0
        for factor, state in zip(of_states, states, strict=True):
            mean = mean + factor * state
        return mean + model.noise[i] * noise(i + 1, x)  # eq. 5

    return step


def marginals(model: Generalised) -> list[tuple[Any, Any]]:
    """Scales of signal and noise of every state given the clean image, (alpha, sigma), the final state too.

    Source:
        Watson et al. 2022 Theorem 1: the states between are removed one by one, from the one before to the first.
    """
    first = model.levels[0]
    found: list[tuple[Any, Any]] = [(first.alpha, first.sigma)]
    for i in range(len(model.mix)):
        signal, *of_states = model.mix[i]
        variance = model.noise[i] ** 2
        for j in range(i, 0, -1):
            of_image, *earlier = model.mix[j - 1]
            # State j is replaced by what it is a mixture of.
            signal = signal + of_states[j] * of_image
            variance = variance + (of_states[j] * model.noise[j - 1]) ** 2
            of_states = [a + of_states[j] * b for a, b in zip(of_states[:j], earlier, strict=True)]
        signal = signal + of_states[0] * first.alpha
        found.append((signal, (variance + (of_states[0] * first.sigma) ** 2) ** 0.5))
    return found
