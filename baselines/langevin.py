"""Steps of score-based models: discretised reverse equations, Langevin dynamics, and their alternation.

The score of a level is -eps / sigma. Steps onto a clean level return their mean, without noise. Within one step of a
walk, correctors draw from other streams of the noise than predictors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from torch import Tensor

from baselines.denoisers import Condition, Denoiser
from baselines.noise import Noise
from baselines.processes import Continuous
from baselines.ranges import at_least, positive
from baselines.schedules import Grid, Level
from baselines.steps import Step, shifted, transition


def _score(denoise: Denoiser, x: Tensor, p: Level, condition: Condition) -> Tensor:
    return shifted(denoise(x, p, condition), x, p).eps / -p.sigma


def euler_maruyama(process: Continuous, *, width: float | None = None) -> Step:
    """The Euler-Maruyama step of the reverse equation dx = [f x - g^2 score] dt + g dw, backwards in time.

    Args:
        process: of the grid.
        width: length of every step in time, None for the distance of the two levels. The original takes 1 / N on a
            grid of N levels from 1 to `end`, whose distance is a little less.

    Source:
        Song et al. 2021 eq. 6; yang-song/score_sde_pytorch `EulerMaruyamaPredictor`.
    """

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q = grid[i], grid[i + 1]
        time = process.time(p.ratio)
        dt = width or time - (process.time(q.ratio) if q.sigma > 0 else 0.0)
        f, g2 = process.drift(time), process.diffusion(time)
        mean = x - dt * (f * x - g2 * _score(denoise, x, p, condition))  # eq. 6
        return mean if q.sigma == 0 else mean + math.sqrt(g2 * dt) * noise(i + 1, x)

    return step


def reverse_diffusion() -> Step:
    """The reverse equation in the discretisation of the forward chain: 2 x - kept x + beta score + sqrt(beta) z.

    `kept` and beta are scale and variance of the transition from q up to p: sqrt(1 - beta_i) and beta_i of DDPM, 1 and
    sigma_p^2 - sigma_q^2 where variance explodes.

    Source:
        Song et al. 2021 App. E (46); yang-song/score_sde_pytorch `ReverseDiffusionPredictor`.
    """

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q = grid[i], grid[i + 1]
        kept, beta = p.alpha / q.alpha, transition(p, q)
        mean = (2.0 - kept) * x + beta * _score(denoise, x, p, condition)  # eq. 46
        return mean if q.sigma == 0 else mean + math.sqrt(beta) * noise(i + 1, x)

    return step


def langevin(
    snr: float,
    count: int = 1,
    *,
    norms: Literal["image", "batch"] = "image",
    project: Callable[[Tensor], Tensor] = lambda x: x,
) -> Step:
    """A corrector: `count` Langevin steps on the level p, which leave its law as it is. It does not go to q.

    Args:
        snr: ratio of the lengths of drift and noise, from which the size of a step follows.
        norms: the lengths are those of each image, so that an image depends on its seed alone, or, as in the
            original, means over the batch.
        project: an orthogonal projection to the subspace in which the steps move.

    Source:
        Song et al. 2021 Alg. 4 and 5; yang-song/score_sde_pytorch `LangevinCorrector`.
    """

    positive(snr=snr)
    at_least(0, count=count)

    def length(x: Tensor) -> Tensor:
        each = x.flatten(1).norm(dim=1)
        return (each if norms == "image" else each.mean().expand(len(x))).view(-1, *[1] * (x.ndim - 1))

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q = grid[i], grid[i + 1]
        kept = p.alpha / q.alpha if q.sigma > 0 else p.alpha
        for k in range(count):
            score, z = project(_score(denoise, x, p, condition)), project(noise(i + 1, x, 1 + k))
            size = 2.0 * kept**2 * (snr * length(z) / length(score)) ** 2  # Alg. 4 and 5, line 5
            x = x + size * score + (2.0 * size).sqrt() * z
        return x

    return step


def annealed_langevin(rate: float, count: int, *, denoised: bool = True) -> Step:
    """`count` Langevin steps on every level of a variance-exploding grid, each as long as the level's variance allows.

    Args:
        rate: length of a step on the last noisy level, the `step_lr` of the original code; steps on a level are
            longer by the ratio of its variance to that of the last one.
        denoised: whether the last level ends with its clean image (NCSNv2), by one evaluation more, or noisy (NCSN).

    Source:
        Song and Ermon 2019 Alg. 1, 2020 Alg. 1; ermongroup/ncsn `anneal_runner.py`, ncsnv2 `models/__init__.py`. The
        text of the paper steps by a / 2 times the score, the code, whose constants are used, by a.
    """

    positive(rate=rate)
    at_least(1, count=count)

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q = grid[i], grid[i + 1]
        lowest = grid[-2]
        size = rate * (p.sigma / lowest.sigma) ** 2
        for k in range(count):
            x = x + size * _score(denoise, x, p, condition) + math.sqrt(2.0 * size) * noise(i + 1, x, k)
        if q.sigma == 0 and denoised:
            return x + p.sigma**2 * _score(denoise, x, p, condition)  # Tweedie, for alpha = 1
        return x

    return step


def alternating(*steps: Step) -> Step:
    """One step after another between the same two levels, such as a corrector and then a predictor.

    Source: Song et al. 2021 Alg. 1.
    """

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        for one in steps:
            x = one(denoise, x, grid, i, noise, condition)
        return x

    return step
