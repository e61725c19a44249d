"""One step of each sampler: from a level of the grid to the next.

A step is a function step(denoise, x, grid, i, noise, condition) -> x. All coefficients are Python floats computed from
the two levels p = grid[i] and q = grid[i + 1], so every closed form holds on any sub-sequence of any process. The
transition from q up to p scales by alpha_p / alpha_q and adds noise of variance
beta = sigma_p^2 - (alpha_p / alpha_q)^2 sigma_q^2, which is 1 - (alpha_p / alpha_q)^2 where variance is preserved, and
beta-tilde = beta (sigma_q / sigma_p)^2 is the variance of q given p and the clean image.
Draw 0 of the noise is the starting point; the step at i draws number i + 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor

from baselines.denoisers import Condition, Denoiser, Prediction
from baselines.noise import Noise
from baselines.ranges import not_negative
from baselines.schedules import EDM, Grid, Level, Process

Step = Callable[[Denoiser, Tensor, Grid, int, Noise, Condition], Tensor]
Variance = Literal["small", "large", "learned"] | float


def _variances(p: Level, q: Level) -> tuple[float, float]:
    """Variance of the transition from q up to p, and of its reverse given the clean image: (beta, beta-tilde)."""
    beta = transition(p, q)
    return beta, beta * (q.sigma / p.sigma) ** 2  # Ho et al. 2020 eq. 7


def transition(p: Level, q: Level) -> float:
    """Variance of the noise that the transition from q up to p adds."""
    kept = (p.alpha / q.alpha) ** 2
    if abs(p.alpha**2 + p.sigma**2 - 1) < _ROUNDING and abs(q.alpha**2 + q.sigma**2 - 1) < _ROUNDING:
        return 1 - kept  # the same on variance-preserving levels, without the rounding of the sigmas
    return p.sigma**2 - kept * q.sigma**2


_ROUNDING = 1e-12
"""Largest difference of alpha^2 + sigma^2 from 1 of a variance-preserving level in float64."""


def ddpm(variance: Variance = "small") -> Step:
    """Makes the step of ancestral sampling.

    Args:
        variance: "small" is beta-tilde and "large" is beta (the two fixed variances of DDPM); "learned" interpolates
            their logarithms by the network's output (improved DDPM); a float in [0, 1] by that constant, 0 being small.
            On a sub-sequence "large" is what the DDIM paper's Table 1 calls sigma-hat.

    Returns:
        The step. The last one, onto a clean level, returns the mean without noise. A classifier's gradient shifts the
        mean by variance * gradient, on the last step too.

    Raises:
        ValueError: another variance; "learned", when called, with a network that outputs none.

    Source:
        Ho et al. 2020 Alg. 2 and eq. 7; Nichol and Dhariwal 2021 eq. 15; Dhariwal and Nichol 2021 Alg. 1; agrees with
        diffusers' `DDPMScheduler` (`tests/parity`) and with openai/guided-diffusion `p_sample`, but for the last step
        of "small", where guided-diffusion's variance and so its shift are 0.
    """
    if variance not in ("small", "large", "learned") and not (isinstance(variance, float | int) and 0 <= variance <= 1):
        raise ValueError(f"variance is small, large, learned or a number in [0, 1]; got {variance!r}.")

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q = grid[i], grid[i + 1]
        prediction = denoise(x, p, condition)
        beta, small = _variances(p, q)
        if q.sigma == 0:
            # beta-tilde is 0 on the last transition; the original codes put that of the transition before in its place.
            small = _variances(grid[i - 1], p)[1] if i > 0 else beta
        # Ho et al. 2020 eq. 7, for any alpha and sigma.
        mean = q.alpha * beta / p.sigma**2 * prediction.x0 + p.alpha / q.alpha * (q.sigma / p.sigma) ** 2 * x
        spread: Tensor | float
        if variance == "learned":
            if prediction.variance is None:
                raise ValueError("variance='learned' needs a network that outputs a variance; this one does not.")
            share = (prediction.variance + 1) / 2
            spread = (share * math.log(beta) + (1 - share) * math.log(small)).exp()  # Nichol and Dhariwal eq. 15
        elif variance == "large":
            spread = small if q.sigma == 0 else beta
        elif variance == "small":
            spread = small
        else:
            spread = beta ** float(variance) * small ** (1 - float(variance))
        if prediction.gradient is not None:
            mean = mean + spread * prediction.gradient  # Dhariwal and Nichol 2021 Alg. 1
        if q.sigma == 0:
            return mean
        return mean + spread**0.5 * noise(i + 1, x)

    return step


def combined(first: tuple[float, Tensor], *others: tuple[float, Tensor]) -> Tensor:
    """The sum of factors times tensors, in a new tensor: one pass over the memory and one rounding a term.

    Every element is computed alike wherever it lies, so that an image does not depend on its batch.
    """
    factor, value = first
    total = factor * value
    for factor, value in others:
        total.add_(value, alpha=factor)
    return total


def shifted(prediction: Prediction, x: Tensor, p: Level) -> Prediction:
    """The prediction with a classifier's gradient moved into its noise: eps - sigma * gradient.

    Source: Dhariwal and Nichol 2021 Alg. 2. x0 follows from the new noise and is not clipped again.
    """
    if prediction.gradient is None:
        return prediction
    eps = prediction.eps - p.sigma * prediction.gradient  # Alg. 2
    return Prediction((x - p.sigma * eps) / p.alpha, eps, prediction.variance)


def ddim(eta: float = 0.0) -> Step:
    """The non-Markovian step of DDIM.

    Args:
        eta: in [0, 1]; 0 is deterministic; 1 equals `ddpm("small")` on the same grid, when x0 is not clipped.

    Raises:
        ValueError: eta out of range.

    Source:
        Song et al. 2021 eq. 12 and 16; agrees with ermongroup/ddim and diffusers' `DDIMScheduler` (`tests/parity`).
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta lies in [0, 1]; got {eta}.")

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q = grid[i], grid[i + 1]
        prediction = shifted(denoise(x, p, condition), x, p)
        spread = eta * q.sigma / p.sigma * math.sqrt(max(transition(p, q), 0.0))  # eq. 16
        x = q.alpha * prediction.x0 + math.sqrt(max(q.sigma**2 - spread**2, 0.0)) * prediction.eps  # eq. 12
        return x + spread * noise(i + 1, x) if spread else x

    return step


def heun(
    churn: float = 0.0,
    *,
    low: float = 0.0,
    high: float = math.inf,
    inflation: float = 1.0,
    process: Process = EDM,
) -> Step:
    """The trapezoidal rule on the probability-flow ODE, second order. Its last step, onto a clean level, is Euler's.

    On any grid the ODE reads d(x / alpha) / d(sigma / alpha) = eps, whose Euler step is `ddim(0)`.

    Args:
        churn: S_churn of EDM: fresh noise raises the ratio sigma / alpha of a level by the share
            min(churn / steps, sqrt(2) - 1) before the step down from there. 0 is deterministic.
        low, high: S_min and S_max, the range of sigma / alpha in which noise is added.
        inflation: S_noise, the standard deviation of the fresh noise.
        process: of the grid. It says what the network is told of a raised level.

    Raises:
        ValueError: a negative churn or inflation; when called, churn on a level that is not of `process`.

    Source: Karras et al. 2022 Alg. 1 and 2.
    """

    not_negative(churn=churn, inflation=inflation)

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q = grid[i], grid[i + 1]
        share = min(churn / (len(grid) - 1), math.sqrt(2) - 1) if low <= p.ratio <= high else 0.0
        if share > 0:
            p, x = _churned(x, p, share, process, inflation * noise(i + 1, x))
        slope = shifted(denoise(x, p, condition), x, p).eps  # Alg. 2 line 7
        kept, length = q.alpha / p.alpha, q.alpha * (q.ratio - p.ratio)
        there = combined((kept, x), (length, slope))  # line 8
        if q.sigma == 0:
            return there
        slope_there = shifted(denoise(there, q, condition), there, q).eps
        return combined((kept, x), (0.5 * length, slope), (0.5 * length, slope_there))  # line 11

    return step


def _churned(x: Tensor, p: Level, share: float, process: Process, fresh: Tensor) -> tuple[Level, Tensor]:
    """A noisier level and the state raised to it. Source: Karras et al. 2022 Alg. 2 lines 4 to 6."""
    if abs(process.at(p.ratio).alpha - p.alpha) > 1e-6:
        raise ValueError(f"churn needs the process of its grid: alpha is {p.alpha} here, not that of {process}.")
    q = process.at(p.ratio * (1 + share))
    return q, q.alpha * (x / p.alpha + p.ratio * math.sqrt((1 + share) ** 2 - 1) * fresh)
