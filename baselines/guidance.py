"""Guidance and clipping: functions from a denoiser to a denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from baselines.denoisers import Condition, Denoiser, Prediction
from baselines.schedules import Level


def classifier_free(denoise: Denoiser, *, scale: float, null: Condition, unconditional: Denoiser | None = None) -> Denoiser:
    """Extrapolates from the unconditional to the conditional noise: eps_u + s (eps_c - eps_u).

    Args:
        scale: s; 1 is the conditional model, 0 the unconditional one. The paper's w is s - 1.
        null: the condition that means none, broadcast to the batch; both predictions come from one batched call.
        unconditional: a second network instead, called without a condition.

    Returns:
        A denoiser whose learned variance is that of the conditional prediction.

    Source:
        Ho and Salimans 2022 eq. 6, with s = 1 + w. Guiding x0, v or the score instead is the same map as long as nothing was
        clipped before: guide first, clip after.
    """
    if scale == 1:
        return denoise

    def guided(x: Tensor, p: Level, condition: Condition) -> Prediction:
        if unconditional is not None:
            with_condition, without = denoise(x, p, condition), unconditional(x, p, {}).eps
            eps, variance = with_condition.eps, with_condition.variance
        else:
            both = {
                name: torch.cat([value, null[name].to(value).expand_as(value)]) for name, value in condition.items()
            }
            prediction = denoise(torch.cat([x, x]), p, both)
            eps, without = prediction.eps.chunk(2)
            variance = None if prediction.variance is None else prediction.variance.chunk(2)[0]
        eps = without + scale * (eps - without)
        return Prediction((x - p.sigma * eps) / p.alpha, eps, variance)

    return guided


def classifier(denoise: Denoiser, log_probability: Callable[[Tensor, Level, Condition], Tensor], *, scale: float) -> Denoiser:
    """Adds scale * grad_x log p(y | x) of a classifier of noisy images to the prediction, for the step to apply.

    Args:
        log_probability: maps (x, level, condition) to (b,) log-probabilities of the wanted classes.

    Source: Dhariwal and Nichol 2021 Alg. 1 and 2; `baselines.steps` says where each step applies it.
    """

    def guided(x: Tensor, p: Level, condition: Condition) -> Prediction:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            # The sum over the batch has for gradient every image's own gradient: images do not interact.
            gradient = torch.autograd.grad(log_probability(leaf, p, condition).sum(), leaf)[0]
        return replace(denoise(x, p, condition), gradient=scale * gradient)

    return guided


def on_x0(denoise: Denoiser, change: Callable[[Tensor], Tensor], *, rederive: bool = True) -> Denoiser:
    """Applies a function to the predicted clean image: clipping, thresholding, quantising.

    Args:
        rederive: whether the noise follows from the changed image (guided-diffusion); False keeps the network's own
            noise (the default of diffusers' DDIM).
    """

    def changed(x: Tensor, p: Level, condition: Condition) -> Prediction:
        prediction = denoise(x, p, condition)
        x0 = change(prediction.x0)
        return replace(prediction, x0=x0, eps=(x - p.alpha * x0) / p.sigma if rederive else prediction.eps)

    return changed


def clip(x0: Tensor) -> Tensor:
    """Limits the clean image to [-1, 1]."""
    return x0.clamp(-1, 1)


def dynamic_threshold(quantile: float = 0.995) -> Callable[[Tensor], Tensor]:
    """Clips every image at its own quantile of |x0|, at least 1, and rescales to [-1, 1].

    Source: Saharia et al. 2022 (Imagen) sec. 2.3 and App. D. diffusers caps the threshold at `sample_max_value`; this does not.
    """

    def threshold(x0: Tensor) -> Tensor:
        limit = torch.quantile(x0.flatten(1).abs().float(), quantile, dim=1).clamp(min=1).to(x0.dtype)
        limit = limit.view(-1, *[1] * (x0.ndim - 1))
        return x0.clamp(-limit, limit) / limit

    return threshold
