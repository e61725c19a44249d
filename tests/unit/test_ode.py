"""The adaptive solver against closed forms: Gaussian data, whose flow is linear, and its exact likelihood."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles import gaussian, keyed, mixture
from scipy.integrate import solve_ivp
from torch import Tensor

from baselines.denoisers import Condition, Denoiser
from baselines.noise import image_noise
from baselines.ode import log_likelihood, probability_flow, solve
from baselines.processes import SubVariancePreserving, VarianceExploding, VariancePreserving
from baselines.schedules import EDM, Discrete, Process

PROCESSES: list[Process] = [
    EDM,
    VariancePreserving(),
    SubVariancePreserving(),
    VarianceExploding(),
    Discrete(schedule="cosine"),
]


def test_the_solver_follows_scipy_for_a_single_problem() -> None:
    """A stiff-ish oscillator: the same steps, so the same number of evaluations and the same digits."""

    def field(t: float, y: np.ndarray) -> np.ndarray:
        return np.array([y[1], -25.0 * y[0] * (1 + 0.5 * math.sin(t)), math.cos(t) * y[2]])

    known = solve_ivp(field, (0.0, 4.0), [1.0, 0.0, 1.0], rtol=1e-6, atol=1e-8)

    def slope(t: Tensor, y: Tensor, which: Tensor) -> Tensor:
        return torch.from_numpy(field(float(t[0]), y[0].numpy()))[None]

    found = solve(
        slope,
        torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64),
        0.0,
        4.0,
        rtol=1e-6,
        atol=1e-8,
    )
    np.testing.assert_allclose(found.state[0].numpy(), known.y[:, -1], rtol=1e-12)
    assert int(found.evaluations[0]) == known.nfev


def test_problems_of_a_batch_do_not_meet() -> None:
    """Problems of different stiffness: each alone gives the same bits and the same number of evaluations."""
    rates = torch.tensor([0.1, 3.0, 40.0], dtype=torch.float64)

    def slope(t: Tensor, y: Tensor, which: Tensor) -> Tensor:
        return -rates[which][:, None] * y

    start = torch.ones(3, 2, dtype=torch.float64)
    together = solve(slope, start, 0.0, 1.0, rtol=1e-6, atol=1e-9)
    assert len(set(together.evaluations.tolist())) == 3
    for i in range(3):
        alone = solve(lambda t, y, which, i=i: slope(t, y, which + i), start[i : i + 1], 0.0, 1.0, rtol=1e-6, atol=1e-9)
        assert torch.equal(alone.state[0], together.state[i])
        assert alone.evaluations[0] == together.evaluations[i]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_the_flow_of_a_gaussian_scales(process: Process) -> None:
    """z / sqrt(v + r^2) is constant along the flow, on every process."""
    high, low, v = 9.0, 0.1, 0.25
    z = torch.linspace(-12, 12, 20, dtype=torch.float64).view(5, 1, 2, 2)
    sampler = probability_flow(process, high=high, low=low, rtol=1e-8, atol=1e-8, denoised=False)
    found = sampler(gaussian(0.0, math.sqrt(v)), z * process.at(high).alpha, keyed(), {})
    torch.testing.assert_close(found, z * math.sqrt((v + low**2) / (v + high**2)), rtol=1e-6, atol=1e-6)


def test_the_end_is_the_clean_image_on_request() -> None:
    z = torch.linspace(-12, 12, 20, dtype=torch.float64).view(5, 1, 2, 2)
    ends = [
        probability_flow(EDM, high=9.0, low=0.1, rtol=1e-8, atol=1e-8, denoised=flag)(
            gaussian(0.1, 0.5), z, keyed(), {}
        )
        for flag in (False, True)
    ]
    torch.testing.assert_close(ends[1], gaussian(0.1, 0.5)(ends[0], EDM.at(0.1), {}).x0)


def test_images_and_their_conditions_do_not_depend_on_the_batch() -> None:
    means = {"m": torch.tensor([-0.5, 0.0, 0.7, 0.2])}

    def denoise(x: Tensor, p: object, condition: Condition) -> object:
        return gaussian(condition["m"].view(-1, 1, 1, 1).to(x), 0.3)(x, p, {})  # type: ignore[arg-type]

    sampler = probability_flow(EDM, high=9.0, low=0.1, rtol=1e-4, atol=1e-4)
    x = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 9
    together = sampler(denoise, x, keyed(), means)  # type: ignore[arg-type]
    for i in range(4):
        alone = sampler(denoise, x[i : i + 1], keyed(), {"m": means["m"][i : i + 1]})  # type: ignore[arg-type]
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_likelihood_of_a_gaussian_is_exact(process: Process) -> None:
    """The Jacobian is a multiple of the identity, so the probe is exact: N(0, v + low^2), seen up to the prior."""
    high, low, v = 80.0, 0.01, 0.25
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.5
    noise = image_noise(torch.arange(3))
    found, _ = log_likelihood(gaussian(0.0, 0.5), process, x, noise, {}, low=low, high=high, rtol=1e-7, atol=1e-7)
    scale = (v + low**2) / (v + high**2) * high**2  # the law that the prior N(0, high^2) maps to
    known = -0.5 * (x.square() / scale + math.log(2 * math.pi * scale)).flatten(1).sum(1)
    torch.testing.assert_close(found, known, rtol=0, atol=2e-4)


def test_likelihood_of_a_mixture_integrates_to_one() -> None:
    """Densities over a fine line of one-pixel images sum to 1: the trace is exact in one dimension."""
    denoise: Denoiser = mixture((-0.7, 0.5), 0.1, (0.4, 0.6))
    x = torch.linspace(-1.5, 1.5, 301, dtype=torch.float64).view(-1, 1, 1, 1)
    noise = image_noise(torch.arange(301))
    found, _ = log_likelihood(denoise, EDM, x, noise, {}, low=0.01, high=80.0, rtol=1e-6, atol=1e-6)
    assert float(found.exp().sum() * 0.01) == pytest.approx(1.0, abs=1e-3)


def test_a_network_of_another_process_gives_the_same_likelihood() -> None:
    x = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.5
    noise = image_noise(torch.arange(2))
    denoise = mixture((-0.7, 0.5), 0.2, (0.4, 0.6))
    options = {"low": 0.02, "high": 9.0, "rtol": 1e-6, "atol": 1e-6}
    own, _ = log_likelihood(denoise, EDM, x, noise, {}, **options)
    preserving = VariancePreserving()
    other, _ = log_likelihood(denoise, preserving, x, noise, {}, **options)
    torch.testing.assert_close(own, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_slope_that_is_not_finite_ends(value: float) -> None:
    """Nothing is repeated for ever, and what came of it is seen."""

    def slope(time: Tensor, state: Tensor, which: Tensor) -> Tensor:
        return torch.where((which == 1)[:, None] & (time < 0.5)[:, None], value, -state)

    start = torch.ones(2, 3, dtype=torch.float64)
    found = solve(slope, start, 1.0, 0.0, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.state[0], math.e * start[0], rtol=1e-5, atol=0)
    assert not torch.isfinite(found.state[1]).any()


def test_no_tolerance_is_too_small_to_end() -> None:
    """No step meets a tolerance of 1e-30, and those as short as the rounding of time are taken as they are."""
    calls: list[int] = []

    def slope(time: Tensor, state: Tensor, which: Tensor) -> Tensor:
        calls.append(1)
        return torch.where(torch.tensor(len(calls) % 2 == 0), state, -state)  # unlike itself

    solve(slope, torch.ones(1, 1, dtype=torch.float64), 1.0, 1.0 + 1e-12, rtol=1e-30, atol=1e-30)
    assert len(calls) < 10_000
    with pytest.raises(ValueError, match="rtol is a finite number above 0"):
        solve(slope, torch.ones(1, 1, dtype=torch.float64), 1.0, 0.0, rtol=0.0, atol=1e-3)


def test_a_slope_that_is_tiny_at_first_does_not_lead_beyond_the_end() -> None:
    """x' = e^t x from t = -30, where the slope says nothing of the step: x(1) = x(-30) exp(e - e^-30)."""
    seen = list[float]()

    def slope(time: Tensor, state: Tensor, which: Tensor) -> Tensor:
        seen.append(float(time.max()))
        return time.exp()[:, None] * state

    found = solve(slope, torch.ones(1, 2, dtype=torch.float64), -30.0, 1.0, rtol=1e-8, atol=1e-8)
    assert max(seen) <= 1.0
    assert float(found.state[0, 0]) == pytest.approx(math.exp(math.e), rel=1e-6)
