"""Fast solvers of the probability-flow ODE: DPM-Solver, DPM-Solver++ and UniPC.

Between two levels p and q the ODE has the exact solution

    x_q = (sigma_q / sigma_p) x_p + sigma_q * integral from lambda_p to lambda_q of e^lambda x0(lambda) d lambda,

with lambda = log(alpha / sigma), half the log signal-to-noise ratio. The solvers replace x0, or in its other form the
noise eps, by a polynomial through what the denoiser said on the levels before (multistep) or on levels between p and q
(singlestep). Of one step all are `ddim(0)`. On ratios spaced as EDM's (`schedules.karras_ratios`) ten evaluations are
often enough.

A multistep step remembers the steps before it, so it is made once a run: `walk(lambda: dpm_solver(), grid)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from torch import Tensor

from baselines.denoisers import Condition, Denoiser
from baselines.noise import Noise
from baselines.schedules import Grid, Level, Process
from baselines.steps import Step, combined, shifted


def log_snr(p: Level) -> float:
    """Half the logarithm of the signal-to-noise ratio: lambda = log(alpha / sigma)."""
    return math.log(p.alpha / p.sigma)


def dpm_solver(order: int = 2) -> Step:
    """DPM-Solver++, multistep: x0 is extrapolated from the `order` levels visited last.

    Args:
        order: 1 (`ddim(0)`), 2 ("2M") or 3 ("3M"). The first steps have the order of what is known by then. The last
            step, onto a clean level, returns x0 of the level before.

    Returns:
        A step with memory, for one run over one grid; every step evaluates the denoiser once.

    Raises:
        ValueError: another order.

    Source:
        Lu et al. 2022b (arXiv:2211.01095) Alg. 2 and App. B; LuChengTHU/dpm-solver. Differs: the order is not lowered
        before the last step, which here lands on a clean level.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"The order of DPM-Solver++ is 1, 2 or 3; got {order!r}.")
    known: list[tuple[float, Tensor]] = []  # lambda and x0 of the levels visited last, the latest first

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q = grid[i], grid[i + 1]
        x0 = shifted(denoise(x, p, condition), x, p).x0
        if q.sigma == 0:
            return q.alpha * x0
        known[:] = [(log_snr(p), x0), *known][:order]
        h, places = log_snr(q) - log_snr(p), [place for place, _ in known]
        weights = (-q.alpha * weight for weight in _of_known(h, places))
        return combined((q.sigma / p.sigma, x), *zip(weights, (value for _, value in known), strict=True))

    return step


def _of_known(h: float, places: Sequence[float]) -> list[float]:
    """Weights of x0 at one to three places, the latest first, in a step of length h.

    Source: Lu et al. 2022b Alg. 2 and App. B, with the differences of x0 that stand there written out.
    """
    phi_1 = math.expm1(-h)
    if len(places) == 1:
        return [phi_1]
    r = (places[0] - places[1]) / h
    if len(places) == 2:
        return [phi_1 * (1 + 0.5 / r), -phi_1 * 0.5 / r]  # Alg. 2: D = (1 + 1/(2r)) x0 - 1/(2r) x0_before
    s = (places[1] - places[2]) / h
    phi_2 = phi_1 / h + 1
    phi_3 = phi_2 / h - 0.5
    # App. B: -phi_2 slope + phi_3 bend, of the differences D_0 = (x0 - x0_1) / r and D_1 = (x0_1 - x0_2) / s, where
    # slope = D_0 + r / (r + s) (D_0 - D_1) and bend = (D_0 - D_1) / (r + s).
    share = (phi_3 - phi_2 * r) / (r + s)  # of D_0 - D_1
    first, second = (share - phi_2) / r, -share / s
    return [phi_1 + first, second - first, -second]


def dpm_solver_single(order: int = 2, *, process: Process, prediction: Literal["x0", "eps"] = "x0") -> Step:
    """DPM-Solver(++), singlestep: the denoiser is asked on levels between p and q; `order` evaluations a step.

    Args:
        order: 1, 2 ("2S") or 3 ("3S").
        process: of the grid. It gives the levels between.
        prediction: "x0" is DPM-Solver++, "eps" DPM-Solver.

    Returns:
        A step without memory. The last one, onto a clean level, returns x0 by one evaluation.

    Raises:
        ValueError: another order or prediction.

    Source:
        Lu et al. 2022a (arXiv:2206.00927) Alg. 1 (r1 = 1/2) and Alg. 2 (r1 = 1/3, r2 = 2/3); Lu et al. 2022b Alg. 1.
    """
    if order not in (1, 2, 3) or prediction not in ("x0", "eps"):
        raise ValueError(f"order is 1, 2 or 3 and prediction x0 or eps; got {order!r} and {prediction!r}.")

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q = grid[i], grid[i + 1]
        if q.sigma == 0:
            return q.alpha * shifted(denoise(x, p, condition), x, p).x0
        start, h = log_snr(p), log_snr(q) - log_snr(p)

        def told(state: Tensor, at: Level) -> Tensor:
            found = shifted(denoise(state, at, condition), state, at)
            return found.x0 if prediction == "x0" else found.eps

        def between(share: float) -> Level:
            return process.at(math.exp(-(start + share * h)))

        def moved(to: Level, share: float, *terms: tuple[Callable[[float], float], Tensor]) -> Tensor:
            """The exact solution for a polynomial whose coefficients are the terms."""
            of_eps = prediction == "eps"
            z, scale = (share * h, to.sigma) if of_eps else (-share * h, to.alpha)
            kept = to.alpha / p.alpha if of_eps else to.sigma / p.sigma
            return combined((kept, x), *((-scale * weight(z), value) for weight, value in terms))

        here = told(x, p)
        if order == 1:
            return moved(q, 1.0, (math.expm1, here))
        if order == 2:
            m = between(0.5)
            middle = told(moved(m, 0.5, (math.expm1, here)), m)
            return moved(q, 1.0, (math.expm1, middle))  # r1 = 1/2: D = u + (middle - u) / (2 r1)
        one, two = between(1 / 3), between(2 / 3)
        d1 = told(moved(one, 1 / 3, (math.expm1, here)), one) - here
        ahead = moved(two, 2 / 3, (math.expm1, here), (_phi, 2.0 * d1))  # r2 / r1 = 2
        return moved(q, 1.0, (math.expm1, here), (_phi, 1.5 * (told(ahead, two) - here)))  # 1 / r2 = 3/2

    return step


def _phi(z: float) -> float:
    """The weight of a slope in the exact solution, where e^z - 1 is that of a constant."""
    return math.expm1(z) / z - 1


def unipc(order: int = 3, variant: Literal["bh1", "bh2"] = "bh2") -> Step:
    """UniPC in x0: a predictor, and a corrector that needs no evaluation of its own.

    The evaluation at a level serves the corrector of the step that led there and the predictor of the next one.

    Args:
        order: of the predictor, at least 1. The corrector has one more.
        variant: B(h) = h ("bh1") or e^h - 1 ("bh2").

    Returns:
        A step with memory, for one run over one grid; every step evaluates the denoiser once. The state after a step
        is the predictor's, and the next step corrects it first. The step onto a clean level returns x0.

    Raises:
        ValueError: an order below 1, or another variant.

    Source:
        Zhao et al. 2023 (arXiv:2302.04867) Alg. 5 to 8; wl-zhao/UniPC. Differs: the order is not lowered before the
        last step, which here lands on a clean level.
    """
    if order < 1 or variant not in ("bh1", "bh2"):
        raise ValueError(f"order is at least 1 and variant bh1 or bh2; got {order!r} and {variant!r}.")
    known: list[tuple[Level, Tensor]] = []  # levels and what x0 was there, the latest first

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q = grid[i], grid[i + 1]
        x0 = shifted(denoise(x, p, condition), x, p).x0
        if q.sigma == 0:
            return q.alpha * x0
        kept, before = q.sigma / p.sigma, [level for level, _ in known]
        weights = dict(_of_levels(p, q, tuple(before[: order - 1]), variant))
        if before:
            # The predictor led from m to x without x0 at p, and the corrector repeats that step with it. They differ in
            # the weights alone, so x_q follows from x and the difference, and the corrected x itself is not needed.
            m, *earlier = before
            predicted = _of_levels(m, p, tuple(earlier), variant)
            for level, corrected in _of_levels(m, p, (p, *earlier), variant).items():
                weights[level] = weights.get(level, 0.0) + kept * (corrected - predicted.get(level, 0.0))
        known.insert(0, (p, x0))
        there = combined((kept, x), *((weights[level], value) for level, value in known))
        del known[order:]
        return there

    return step


@lru_cache(maxsize=1024)
def _of_levels(p: Level, q: Level, others: tuple[Level, ...], variant: str) -> Mapping[Level, float]:
    """Weights of x0 at p and at the levels of `others`, in the step from p to q. All batches of a run share them."""
    h = log_snr(q) - log_snr(p)
    scale = math.expm1(-h) if variant == "bh2" else -h
    places = [(log_snr(level) - log_snr(p)) / h for level in others]
    # Of the differences between the x0 of others and that of p: eq. 3 and 9, in x0.
    each = [-q.alpha * scale * w / place for w, place in zip(_weights(places, -h, scale), places, strict=True)]
    return {p: -q.alpha * math.expm1(-h) - sum(each), **dict(zip(others, each, strict=True))}


def _weights(places: Sequence[float], z: float, scale: float) -> list[float]:
    """Weights of the differences at `places`, so that polynomials through them are integrated exactly.

    Source: Zhao et al. 2023 eq. 5, a Vandermonde system; for a single place the published code takes 1/2.
    """
    if len(places) < 2:
        return [0.5] * len(places)
    phi, factorial, right = _phi(z), 1, []
    for k in range(2, len(places) + 2):
        right.append(phi * factorial / scale)
        factorial *= k
        phi = phi / z - 1 / factorial
    return np.linalg.solve(np.vander(places, increasing=True).T, np.array(right)).tolist()  # eq. 5
