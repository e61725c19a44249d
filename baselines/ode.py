"""The probability-flow ODE by an adaptive solver, image by image, and the exact likelihood that it gives.

    d(x / alpha) / d(sigma / alpha) = eps(x)

holds on every process, so the ODE is solved once, for z = x / alpha over log r, with r = sigma / alpha. Every image has
a step size of its own: an image depends on its seed alone, and finished images are not evaluated again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.denoisers import Condition, Denoiser, levels
from baselines.noise import Noise
from baselines.ranges import positive
from baselines.sampling import Sampler, Watch
from baselines.schedules import Process
from baselines.steps import shifted

# Dormand and Prince 1980: nodes, stages, solution of order 5, and its difference to the one of order 4.
_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
_SOLUTION = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
_ERROR = (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40)

_SHORTEST = 1e-14
"""Shortest step relative to the time, about 50 roundings of float64."""

Slope = Callable[[Tensor, Tensor, Tensor], Tensor]
"""slope(time, state, which): float64 (k,), (k, d) and the images meant, int64 (k,); returns (k, d)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Where an ODE led.

    Attributes:
        state: float64 (b, d).
        evaluations: int64 (b,), evaluations of the slope an image.
    """

    state: Tensor
    evaluations: Tensor


def solve(slope: Slope, state: Tensor, start: float, end: float, *, rtol: float, atol: float) -> Solution:
    """Integrates b independent problems by Runge-Kutta of order 5(4), each with its own step size.

    Args:
        state: float64 (b, d) at `start`.
        rtol, atol: the error of a step, root mean square over d, relative to atol + rtol |state|.

    Raises:
        ValueError: a tolerance that is not above 0.

    Source:
        Dormand and Prince 1980; Hairer, Norsett and Wanner, "Solving ODEs I", II.4. Step control and first step are
        those of scipy's `RK45`, which takes one step size for all problems.
    """
    positive(rtol=rtol, atol=atol)
    state = state.clone()
    sign = math.copysign(1.0, end - start)
    time = torch.full((len(state),), start, dtype=torch.float64)
    every = torch.arange(len(state))
    first = slope(time, state, every)
    evaluations = torch.ones(len(state), dtype=torch.int64)

    def size(x: Tensor, scale: Tensor) -> Tensor:
        return (x / scale).square().mean(1).sqrt()

    scale = atol + rtol * state.abs()
    d0, d1 = size(state, scale), size(first, scale)
    guess = torch.where((d0 < 1e-5) | (d1 < 1e-5), torch.full_like(d0, 1e-6), 0.01 * d0 / d1)
    guess = guess.clamp(max=abs(end - start))  # where little changes at first, it would lead beyond every level
    ahead = slope(time + sign * guess, state + sign * guess[:, None] * first, every)
    evaluations += 1
    d2 = size(ahead - first, scale) / guess
    largest = torch.maximum(d1, d2)
    other = torch.where(
        largest <= 1e-15, torch.maximum(torch.full_like(guess, 1e-6), guess * 1e-3), (0.01 / largest) ** 0.2
    )
    # A state that is not finite has no step size: it goes to the end, where whoever asked sees it.
    width = torch.minimum(100 * guess, other).nan_to_num(nan=abs(end - start))
    refused = torch.zeros(len(state), dtype=torch.bool)
    active = every
    while len(active):
        t, y, h = time[active], state[active], torch.minimum(width[active], (end - time[active]).abs())
        slopes = [first[active]]
        for node, weights in zip(_NODES[1:], _STAGES[1:], strict=True):
            moved = y + sign * h[:, None] * sum(w * k for w, k in zip(weights, slopes, strict=True))
            slopes.append(slope(t + sign * node * h, moved, active))
        there = y + sign * h[:, None] * sum(w * k for w, k in zip(_SOLUTION, slopes, strict=True))
        slopes.append(slope(t + sign * h, there, active))
        evaluations[active] += 6
        apart = h[:, None] * sum(w * k for w, k in zip(_ERROR, slopes, strict=True))
        error = size(apart, atol + rtol * torch.maximum(y.abs(), there.abs())).nan_to_num(nan=0.0, posinf=0.0)
        # Below the rounding of the time no step is refused, whatever the tolerance.
        fine = (error < 1) | (h <= _SHORTEST * t.abs().clamp(min=1.0))
        factor = (0.9 * error.clamp(min=1e-30) ** -0.2).clamp(0.2, 10.0)
        factor = torch.where(fine & refused[active], factor.clamp(max=1.0), factor)
        factor = torch.where(fine, factor, factor.clamp(max=1.0))
        refused[active] = ~fine
        width[active] = h * factor
        done = active[fine]
        arrived = (t + sign * h)[fine]
        time[done] = torch.where(
            (arrived - end).abs() <= 1e-12 * max(1.0, abs(end)), torch.full_like(arrived, end), arrived
        )
        state[done], first[done] = there[fine], slopes[-1][fine]
        active = active[time[active] != end]
    return Solution(state=state, evaluations=evaluations)


def chosen(condition: Condition, which: Tensor, count: int) -> Condition:
    """The condition of some images of a batch."""
    return {k: v[which.to(v.device)] if v.ndim and len(v) == count else v for k, v in condition.items()}


def probability_flow(
    process: Process, *, high: float, low: float, rtol: float = 1e-5, atol: float = 1e-5, denoised: bool = True
) -> Sampler:
    """The sampler that solves the ODE from ratio `high` to ratio `low`.

    Args:
        process: of the denoiser. The start x is on its level of `high`.
        denoised: whether the result is the clean image believed in at the end, by one evaluation more, or x / alpha.

    Source:
        Song et al. 2021 sec. 4.3 and App. D.4, whose solver has one step size for the whole batch.
    """

    positive(rtol=rtol, atol=atol)

    def run(denoise: Denoiser, x: Tensor, noise: Noise, condition: Condition, watch: Watch | None = None) -> Tensor:
        shape, count = x.shape[1:], len(x)

        def slope(u: Tensor, z: Tensor, which: Tensor) -> Tensor:
            ratio = u.exp()
            p = levels(process, ratio, x)
            state = p.alpha * z.view(-1, *shape).to(x)
            found = shifted(denoise(state, p, chosen(condition, which, count)), state, p)
            return ratio[:, None] * found.eps.double().flatten(1).cpu()  # dz / d log r = r eps

        start = (x.double() / process.at(high).alpha).flatten(1).cpu()
        with torch.no_grad():
            z = solve(slope, start, math.log(high), math.log(low), rtol=rtol, atol=atol).state.view(-1, *shape).to(x)
            if denoised:
                p = process.at(low)
                z = shifted(denoise(p.alpha * z, p, condition), p.alpha * z, p).x0
        if watch is not None:
            watch(1, 1, z)
        return z

    return run


def log_likelihood(
    denoise: Denoiser,
    process: Process,
    x0: Tensor,
    noise: Noise,
    condition: Condition,
    *,
    low: float,
    high: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Natural logarithm of the density of x0 under the flow from N(0, high^2) at ratio `high` to ratio `low`.

    The trace of the Jacobian is estimated with one Rademacher probe an image, which stays the same over the solve.

    Args:
        x0: (b, c, h, w), continuous: 8-bit images have to be dequantised.
        noise: its draw 0 on stream 7 gives the signs of the probe.

    Returns:
        Log-density, float64 (b,), and evaluations an image, int64 (b,).

    Source:
        Chen et al. 2018 (the change of variables); Grathwohl et al. 2019 (the trace); Song et al. 2021 eq. 39 and 40.
    """
    shape, count = x0.shape[1:], len(x0)
    probe = torch.sign(noise(0, x0, 7))

    def slope(u: Tensor, state: Tensor, which: Tensor) -> Tensor:
        ratio = u.exp()
        p = levels(process, ratio, x0)
        z = state[:, :-1].view(-1, *shape).to(x0)
        v = probe[which.to(probe.device)]
        with torch.enable_grad():
            x = (p.alpha * z).requires_grad_()
            eps = denoise(x, p, chosen(condition, which, count)).eps
            (product,) = torch.autograd.grad((eps * v).sum(), x)
        trace = (product * v * p.alpha).double().flatten(1).sum(1)  # d eps / dz = alpha d eps / dx
        moved = torch.cat([eps.detach().double().flatten(1), trace[:, None]], dim=1).cpu()
        return ratio[:, None] * moved  # eq. 39

    start = torch.cat([x0.double().flatten(1).cpu(), torch.zeros(count, 1, dtype=torch.float64)], dim=1)
    found = solve(slope, start, math.log(low), math.log(high), rtol=rtol, atol=atol)
    z, change = found.state[:, :-1], found.state[:, -1]
    d = z.shape[1]
    prior = -0.5 * (z / high).square().sum(1) - d * (math.log(high) + 0.5 * math.log(2 * math.pi))
    return prior + change, found.evaluations
