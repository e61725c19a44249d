"""One step of each sampler: from a level of the grid to the next.

A step is a function step(denoise, x, grid, i, noise, condition) -> x. All coefficients are Python floats computed from
the two levels, so every closed form holds on any sub-sequence of a process: with p = grid[i] and q = grid[i + 1],
beta = 1 - (alpha_p / alpha_q)^2 and beta-tilde = beta (sigma_q / sigma_p)^2 are those of the shortened chain.
Draw 0 of the noise is the starting point; the step at i draws number i + 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor

from baselines.denoisers import Condition, Denoiser, Prediction
from baselines.noise import Noise
from baselines.schedules import Grid, Level

Step = Callable[[Denoiser, Tensor, Grid, int, Noise, Condition], Tensor]
Variance = Literal["small", "large", "learned"] | float


def _variances(p: Level, q: Level) -> tuple[float, float]:
    """(beta, beta-tilde) of the transition from q up to p."""
    beta = 1 - (p.alpha / q.alpha) ** 2
    return beta, beta * (q.sigma / p.sigma) ** 2


def ddpm(variance: Variance = "small") -> Step:
    """Ancestral sampling.

    Args:
        variance: "small" is beta-tilde and "large" is beta (the two fixed variances of DDPM); "learned" interpolates
            their logarithms by the network's output (improved DDPM); a float in [0, 1] by that constant, 0 being small.

    Returns:
        The step. The last one, onto a clean level, returns the mean without noise. A classifier's gradient shifts the
        mean by variance * gradient, on the last step too.

    Source:
        Ho et al. 2020 Alg. 2 and eq. 7; Nichol and Dhariwal 2021 eq. 15; Dhariwal and Nichol 2021 Alg. 1; agrees with
        openai/guided-diffusion `p_sample` and with diffusers' `DDPMScheduler` (`tests/parity`).
    """

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q = grid[i], grid[i + 1]
        prediction = denoise(x, p, condition)
        beta, small = _variances(p, q)
        if q.sigma == 0 and i > 0:
            # beta-tilde is 0 on the last transition; both codes put that of the transition before in its place.
            small = _variances(grid[i - 1], p)[1]
        mean = q.alpha * beta / p.sigma**2 * prediction.x0 + p.alpha / q.alpha * (q.sigma / p.sigma) ** 2 * x
        spread: Tensor | float
        if variance == "learned":
            if prediction.variance is None:
                raise ValueError("variance='learned' needs a network that outputs a variance; this one does not.")
            share = (prediction.variance + 1) / 2
            spread = (share * math.log(beta) + (1 - share) * math.log(small)).exp()
        elif variance == "large":
            spread = small if q.sigma == 0 and i > 0 else beta
        elif variance == "small":
            spread = small
        else:
            spread = beta**variance * small ** (1 - variance)
        if prediction.gradient is not None:
            mean = mean + spread * prediction.gradient
        if q.sigma == 0:
            return mean
        return mean + spread**0.5 * noise(i + 1, x)

    return step


def shifted(prediction: Prediction, x: Tensor, p: Level) -> Prediction:
    """The prediction with a classifier's gradient moved into its noise: eps - sigma * gradient.

    Source: Dhariwal and Nichol 2021 Alg. 2. x0 follows from the new noise and is not clipped again.
    """
    if prediction.gradient is None:
        return prediction
    eps = prediction.eps - p.sigma * prediction.gradient
    return Prediction((x - p.sigma * eps) / p.alpha, eps, prediction.variance)


def ddim(eta: float = 0.0) -> Step:
    """The non-Markovian step of DDIM.

    Args:
        eta: 0 is deterministic; 1 equals `ddpm("small")` on the same grid, when x0 is not clipped.

    Source:
        Song et al. 2021 eq. 12 and 16; agrees with ermongroup/ddim and diffusers' `DDIMScheduler` (`tests/parity`).
    """

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q = grid[i], grid[i + 1]
        prediction = shifted(denoise(x, p, condition), x, p)
        spread = eta * q.sigma / p.sigma * math.sqrt(max(1 - (p.alpha / q.alpha) ** 2, 0.0))
        x = q.alpha * prediction.x0 + math.sqrt(max(q.sigma**2 - spread**2, 0.0)) * prediction.eps
        return x + spread * noise(i + 1, x) if spread else x

    return step


def heun() -> Step:
    """The trapezoidal rule on the probability-flow ODE, second order; its last step, onto a clean level, is Euler's.

    On any grid the ODE reads d(x / alpha) / d(sigma / alpha) = eps, whose Euler step is `ddim(0)`.

    Source: Karras et al. 2022 Alg. 1 (without churn).
    """

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q = grid[i], grid[i + 1]
        slope = shifted(denoise(x, p, condition), x, p).eps
        length = q.sigma / q.alpha - p.sigma / p.alpha
        there = q.alpha * (x / p.alpha + length * slope)
        if q.sigma == 0:
            return there
        slope_there = shifted(denoise(there, q, condition), there, q).eps
        return q.alpha * (x / p.alpha + length * 0.5 * (slope + slope_there))

    return step
