"""Gotta Go Fast: the reverse stochastic equation by an adaptive solver of two orders, image by image."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from baselines.denoisers import Condition, Denoiser, levels
from baselines.noise import Noise
from baselines.ode import chosen
from baselines.processes import Continuous
from baselines.ranges import not_negative, positive
from baselines.sampling import Sampler, Watch
from baselines.steps import shifted


def gotta_go_fast(
    process: Continuous,
    *,
    relative: float = 0.02,
    absolute: float = 0.0078,
    end: float = 1e-3,
    first: float = 0.01,
    safety: float = 0.9,
    power: float = 0.9,
) -> Sampler:
    """The sampler that keeps the difference of the Euler-Maruyama step and the stochastic Heun step small.

    Every image has its own time, its own step size and its own count of draws, so that it depends on its seed alone.
    A step costs two evaluations. A refused one is repeated with new noise and a smaller size, as in the original.

    Args:
        process: of the denoiser; images start at its time 1.
        relative, absolute: the tolerance is the larger of `absolute` and `relative` times the image; one 8-bit step of
            images in [-1, 1] is 0.0078.
        end: time at which the walk ends, with the clean image believed in there, by one evaluation more.
        first: size of the first step.
        safety, power: the next step is `safety` times error^-power times as long.

    Source:
        Jolicoeur-Martineau et al. 2021 (arXiv:2105.14080) Alg. 1; AlexiaJM/score_sde_fast_sampling. Differs: images
        that have arrived are not evaluated again, and the clean image is x0 itself, without their missing division by
        alpha.
    """

    not_negative(relative=relative)
    positive(absolute=absolute, first=first, safety=safety)

    def run(denoise: Denoiser, x: Tensor, noise: Noise, condition: Condition, watch: Watch | None = None) -> Tensor:
        count, wide = len(x), (-1, *[1] * (x.ndim - 1))
        time, width = [1.0] * count, [min(first, 1.0 - end)] * count
        drawn, active = [0] * count, list(range(count))
        x, before = x.clone(), x.clone()

        def drift(state: Tensor, times: list[float], which: list[int]) -> Tensor:
            """f x - g^2 score: what the reverse equation subtracts in a unit of time."""
            p = levels(process, torch.tensor([process.level(t).ratio for t in times]), state)
            some = chosen(condition, torch.tensor(which), count)
            score = -shifted(denoise(state, p, some), state, p).eps / p.sigma
            return _column(process.drift, times, state) * state - _column(process.diffusion, times, state) * score

        with torch.no_grad():
            while active:
                times, h = [time[i] for i in active], torch.tensor([width[i] for i in active]).double()
                state, size = x[active], h.view(wide).to(x)
                z = _own_noise(noise, x, active, [drawn[i] + 1 for i in active])
                spread = torch.tensor([math.sqrt(process.diffusion(t)) for t in times]).double() * h.sqrt()
                proposal = state - size * drift(state, times, active) + spread.view(wide).to(x) * z
                later = [t - float(w) for t, w in zip(times, h, strict=True)]
                spread = torch.tensor([math.sqrt(process.diffusion(t)) for t in later]).double() * h.sqrt()
                second = -size * drift(proposal, later, active) + spread.view(wide).to(x) * z
                better = state + 0.5 * (proposal - state + second)  # stochastic Heun
                allowed = (relative * torch.maximum(before[active].abs(), proposal.abs())).clamp(min=absolute)
                error = ((better - proposal) / allowed).double().flatten(1).square().mean(1).sqrt().clamp(min=1e-12)
                # What is not finite goes to the end, where whoever asked sees it.
                error = error.nan_to_num(nan=1e-12, posinf=1e-12)
                for place, i in enumerate(active):
                    drawn[i] += 1
                    if error[place] <= 1:
                        x[i], before[i], time[i] = better[place], proposal[place], later[place]
                    width[i] = min(time[i] - end, width[i] * safety * float(error[place]) ** -power)
                active = [i for i in active if time[i] > end + 1e-12]
                if watch is not None:
                    watch(int(1000 * (1 - max(time))), 1000, x)
            p = process.level(end)
            return shifted(denoise(x, p, condition), x, p).x0

    return run


def _column(values: Callable[[float], float], times: list[float], like: Tensor) -> Tensor:
    """One number an image, to multiply the images with."""
    column = torch.tensor([values(t) for t in times], dtype=torch.float64)
    return column.view(-1, *[1] * (like.ndim - 1)).to(like)


def _own_noise(noise: Noise, x: Tensor, which: list[int], draws: list[int]) -> Tensor:
    """Noise of some images, each with its own number of the draw."""
    result = torch.empty_like(x[which])
    for draw in set(draws):
        drawn = noise(draw, x)
        for place, (i, d) in enumerate(zip(which, draws, strict=True)):
            if d == draw:
                result[place] = drawn[i]
    return result
