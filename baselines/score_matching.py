"""Objectives that fit a score, the gradient of a log-density, to samples: implicit, denoising and sliced matching.

All have the expectation 1/2 E |s(x) - grad log p(x)|^2 up to a constant, the Fisher divergence, without knowing p.
`training.diffusion_loss` is denoising score matching on all levels of a process at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]
"""score(x): (b, ...) to the same shape. Every image's score depends on that image alone."""


def score_matching(
    score: Score,
    x: Tensor,
    kind: Literal["implicit", "denoising", "sliced", "sliced-vr"],
    generator: torch.Generator,
    *,
    probes: int = 1,
    sigma: float = 0.1,
) -> Tensor:
    """The objective on a batch, a scalar that can be differentiated by the parameters of the score.

    Args:
        score: with two derivatives everywhere, unless `kind` is "denoising": a network of ReLUs cannot be fitted by
            the others, because the second derivatives of its score vanish.
        x: (b, ...) samples of d values each.
        kind: "implicit" has the exact trace of the Jacobian, by d backward passes. "sliced" and "sliced-vr" estimate it
            along random directions v with E v v^T = 1; the second takes |s|^2 as it is, with less variance.
            "denoising" fits the score of the density smoothed by noise of standard deviation `sigma`.
        generator: of the noise, or of the directions.
        probes: directions an image, of the sliced kinds.

    Raises:
        ValueError: another kind.

    Source:
        Hyvarinen 2005 eq. 4; Vincent 2011 eq. 9; Song et al. 2019 (arXiv:1905.07088) eq. 7 and 8. Differs from
        ermongroup/sliced_score_matching: directions have the length sqrt(d). There they have the length 1 for "sliced",
        which divides both terms by d, and that of normal draws for "sliced-vr", which has more variance.
    """
    if kind not in ("implicit", "denoising", "sliced", "sliced-vr"):
        raise ValueError(f"kind is implicit, denoising, sliced or sliced-vr; got {kind!r}.")
    if kind == "denoising":
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return 0.5 * (score(x + sigma * z) + z / sigma).flatten(1).square().sum(1).mean()  # Vincent 2011 eq. 9
    x = (x.repeat_interleave(probes, dim=0) if kind != "implicit" else x).detach().requires_grad_()
    s = score(x).flatten(1)
    if kind == "implicit":
        trace = sum(_gradient(s[:, i], x)[:, i] for i in range(s.shape[1]))
        return (trace + 0.5 * s.square().sum(1)).mean()  # Hyvarinen 2005 eq. 4
    v = torch.randn(s.shape, generator=generator, dtype=x.dtype)
    v = v * (s.shape[1] ** 0.5 / v.norm(dim=1, keepdim=True))  # E v v^T = 1
    along = (v * s).sum(1)
    curvature = (v * _gradient(along, x)).sum(1)  # v^T (grad s) v
    length = s.square().sum(1) if kind == "sliced-vr" else along.square()
    return (curvature + 0.5 * length).mean()  # Song et al. 2019 eq. 7 ("sliced") and 8 ("sliced-vr")


def _gradient(values: Tensor, x: Tensor) -> Tensor:
    """Gradient of one value an image by that image, (b, d), which can be differentiated again."""
    (found,) = torch.autograd.grad(values.sum(), x, create_graph=True)
    return found.flatten(1)
