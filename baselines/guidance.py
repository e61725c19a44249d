"""Guidance and clipping: functions from a denoiser to a denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from baselines.denoisers import Condition, Denoiser, Prediction
from baselines.schedules import Level


def classifier_free(
    denoise: Denoiser, *, scale: float, null: Condition, unconditional: Denoiser | None = None
) -> Denoiser:
    """Extrapolates from the unconditional to the conditional noise: eps_u + s (eps_c - eps_u).

    Args:
        scale: s; 1 is the conditional model, 0 the unconditional one. The paper's w is s - 1.
        null: the condition that means none, broadcast to the batch. Both predictions come from one batched call. What
            it does not name, such as the small image that an upsampler enlarges, both predictions are given alike.
        unconditional: a second network instead, called without a condition.

    Returns:
        A denoiser whose learned variance is that of the conditional prediction.

    Raises:
        ValueError: when called, if the condition has nothing that `null` names.

    Source:
        Ho and Salimans 2022 eq. 6, with s = 1 + w. Guiding x0, v or the score instead is the same map as long as
        nothing was clipped before: guide first, clip after.
    """
    if scale == 1:
        return denoise

    def guided(x: Tensor, p: Level, condition: Condition) -> Prediction:
        if unconditional is not None:
            with_condition, without = denoise(x, p, condition), unconditional(x, p, {}).eps
        else:
            if not condition.keys() & null.keys():
                named, given = (", ".join(names) or "nothing" for names in (null, condition))
                raise ValueError(f"Nothing to guide: null names {named}, the condition of this call {given}.")
            both = {
                name: torch.cat([value, null[name].to(value).expand_as(value) if name in null else value])
                for name, value in condition.items()
            }
            prediction = denoise(torch.cat([x, x]), p, both)
            x0, (eps, without) = prediction.x0.chunk(2)[0], prediction.eps.chunk(2)
            optional = (prediction.variance, prediction.gradient)
            with_condition = Prediction(x0, eps, *(None if v is None else v.chunk(2)[0] for v in optional))
        eps = without + scale * (with_condition.eps - without)  # eq. 6, with s = 1 + w
        return replace(with_condition, x0=(x - p.sigma * eps) / p.alpha, eps=eps)

    return guided


def classifier(
    denoise: Denoiser, log_probability: Callable[[Tensor, Level, Condition], Tensor], *, scale: float
) -> Denoiser:
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

    Source:
        Saharia et al. 2022 (Imagen) sec. 2.3 and App. D; agrees with diffusers' `thresholding` (`tests/parity`) for a
        `sample_max_value`, at which it caps the threshold, that is large.
    """

    def threshold(x0: Tensor) -> Tensor:
        # quantile takes neither half nor bfloat16.
        size = x0.flatten(1).abs().to(torch.promote_types(x0.dtype, torch.float32))
        limit = torch.quantile(size, quantile, dim=1).clamp(min=1).to(x0.dtype)
        limit = limit.view(-1, *[1] * (x0.ndim - 1))
        return x0.clamp(-limit, limit) / limit

    return threshold
