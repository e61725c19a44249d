"""Score matching: closed forms for linear scores of Gaussian data, and fits of a mixture of two Gaussians."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.score_matching import score_matching

KINDS: list[Any] = ["implicit", "sliced", "sliced-vr", "denoising"]
SIGMA = 0.4
COVARIANCE = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(count: int) -> Tensor:
    """Samples whose second moments are exactly the covariance, so that oracles need no tolerance for them."""
    x = torch.randn(count, 2, generator=seeded(), dtype=torch.float64)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / count)).T
    return x @ torch.linalg.cholesky(COVARIANCE).T


def objective(a: Tensor, kind: Any, count: int = 20_000, **more: Any) -> Tensor:
    return score_matching(lambda x: -x @ a.T, normal(count), kind, seeded(1), **more)


def value_of(a: Tensor, kind: Any, count: int = 20_000, **more: Any) -> float:
    return float(objective(a, kind, count, **more).detach())


def test_a_linear_score_has_the_objective_of_the_formula() -> None:
    a = torch.tensor([[0.7, 0.2], [-0.1, 0.5]], dtype=torch.float64)
    expected = 0.5 * (a @ COVARIANCE @ a.T).trace() - a.trace()
    assert value_of(a, "implicit") == pytest.approx(float(expected))
    # The trace of a linear score along v is v^T A v, whose mean over directions is tr A.
    assert value_of(a, "sliced", probes=8) == pytest.approx(float(expected), abs=0.02)
    assert value_of(a, "sliced-vr", probes=8) == pytest.approx(float(expected), abs=0.02)
    # Denoising: 1/2 tr A (Sigma + sigma^2) A^T - tr A + d / (2 sigma^2).
    smoothed = COVARIANCE + SIGMA**2 * torch.eye(2, dtype=torch.float64)
    of_noise = 0.5 * (a @ smoothed @ a.T).trace() - a.trace() + 1 / SIGMA**2
    assert value_of(a, "denoising", 200_000, sigma=SIGMA) == pytest.approx(float(of_noise), abs=0.03)


def test_the_true_score_is_the_minimum() -> None:
    """At A = Sigma^-1 the objective is -1/2 tr Sigma^-1, and its gradient vanishes."""
    a = torch.linalg.inv(COVARIANCE).requires_grad_()
    value = objective(a, "implicit")
    torch.testing.assert_close(value, -0.5 * torch.linalg.inv(COVARIANCE).trace())
    (slope,) = torch.autograd.grad(value, a)
    assert float(slope.abs().max()) < 1e-12


def test_denoising_has_its_minimum_at_the_smoothed_score() -> None:
    smoothed = torch.linalg.inv(COVARIANCE + SIGMA**2 * torch.eye(2, dtype=torch.float64)).requires_grad_()
    (slope,) = torch.autograd.grad(objective(smoothed, "denoising", 400_000, sigma=SIGMA), smoothed)
    assert float(slope.abs().max()) < 0.02
    sharp = torch.linalg.inv(COVARIANCE).requires_grad_()
    (slope,) = torch.autograd.grad(objective(sharp, "denoising", 400_000, sigma=SIGMA), sharp)
    assert float(slope.abs().max()) > 0.05


def test_variance_reduction_reduces_variance() -> None:
    a = torch.linalg.inv(COVARIANCE)
    x, kinds = normal(50), KINDS[1:3]
    plain, reduced = (
        np.std([float(score_matching(lambda x: -x @ a.T, x, kind, seeded(i)).detach()) for i in range(60)])
        for kind in kinds
    )
    assert reduced < 0.8 * plain


CENTRES, STD = torch.tensor([[-1.0, 0.0], [1.0, 0.5]]), 0.6


def mixture(count: int, generator: torch.Generator) -> Tensor:
    which = torch.randint(2, (count,), generator=generator)
    return CENTRES[which] + STD * torch.randn(count, 2, generator=generator)


def score_of_mixture(x: Tensor, centres: Tensor, variance: Tensor | float) -> Tensor:
    apart = centres - x[:, None]
    share = (-0.5 * apart.square().sum(2) / variance).softmax(1)
    return (share[:, :, None] * apart).sum(1) / variance


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_finds_the_score_of_a_mixture(kind: Any) -> None:
    """Centres and width of two Gaussians, from a wrong start, by samples alone."""
    centres = torch.tensor([[-0.3, 0.0], [0.3, 0.0]], requires_grad=True)
    log_variance = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.Adam([centres, log_variance], lr=0.05)
    generator = seeded(2)

    def score(x: Tensor) -> Tensor:
        return score_of_mixture(x, centres, log_variance.exp())

    added = SIGMA if kind == "denoising" else 0.0
    x = mixture(2000, seeded(3)) + added * torch.randn(2000, 2, generator=seeded(4))

    def divergence() -> float:
        apart = score(x) - score_of_mixture(x, CENTRES, STD**2 + added**2)
        return float(0.5 * apart.square().sum(1).mean().detach())

    assert divergence() > 0.2
    for _ in range(80):
        loss = score_matching(score, mixture(400, generator), kind, generator, sigma=SIGMA)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert divergence() < 0.05


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="implicit, denoising, sliced"):
        score_matching(lambda x: x, torch.zeros(1, 2), "explicit", seeded())  # type: ignore[arg-type]
