"""Fast ODE solvers on a mixture whose denoiser is known: order of convergence, identities, evaluations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from oracles import gaussian, keyed, mixture, order
from torch import Tensor

from baselines.denoisers import Condition, Denoiser, Prediction
from baselines.multistep import dpm_solver, dpm_solver_single, unipc
from baselines.sampling import sample
from baselines.schedules import CLEAN, EDM, Discrete, Grid, Level, Process
from baselines.steps import Step, ddim, heun

MIXTURE = mixture((-0.7, 0.5), 0.1, (0.4, 0.6))
MAKERS: dict[str, tuple[Callable[[Process], Step], float]] = {
    "ddim": (lambda process: ddim(0.0), 1.0),
    "heun": (lambda process: heun(), 2.0),
    "2M": (lambda process: dpm_solver(2), 2.0),
    "3M": (lambda process: dpm_solver(3), 2.0),
    "2S": (lambda process: dpm_solver_single(2, process=process), 2.0),
    "3S": (lambda process: dpm_solver_single(3, process=process), 2.7),
    "DPM-Solver-2": (lambda process: dpm_solver_single(2, process=process, prediction="eps"), 2.0),
    "DPM-Solver-3": (lambda process: dpm_solver_single(3, process=process, prediction="eps"), 2.7),
    "UniPC-1": (lambda process: unipc(1), 1.9),
    "UniPC-2": (lambda process: unipc(2), 2.0),
    "UniPC-2, bh1": (lambda process: unipc(2, "bh1"), 2.0),
    "UniPC-3": (lambda process: unipc(3), 2.0),
}


def grid(steps: int, high: float = 10.0, low: float = 0.05) -> list[Level]:
    return [EDM.at(r) for r in np.geomspace(high, low, steps + 1).tolist()]


def states() -> Tensor:
    return torch.linspace(-12, 12, 41, dtype=torch.float64).view(-1, 1, 1, 1)


def ends(step: Step, levels: Grid, denoise: Denoiser = MIXTURE) -> Tensor:
    return sample(denoise, step, levels, states(), keyed())


@pytest.fixture(scope="module")
def exact() -> Tensor:
    return ends(heun(), grid(20_000))


@pytest.mark.parametrize("name", MAKERS)
def test_order_of_convergence(name: str, exact: Tensor) -> None:
    """Doubling the steps divides the error by two to the order; first steps cap multistep ones."""
    make, expected = MAKERS[name]
    errors = [float((ends(make(EDM), grid(steps)) - exact).abs().mean()) for steps in (20, 40, 80, 160)]
    assert order(errors)[-1] > expected - 0.15, (errors, order(errors))


def test_higher_order_has_smaller_errors(exact: Tensor) -> None:
    """Errors at 40 steps, in the order of the solvers' ranks; a wrong coefficient of the third order shows here."""
    ranks = ("ddim", "2M", "3M"), ("ddim", "UniPC-1", "UniPC-2", "UniPC-3"), ("ddim", "2S", "3S")
    for names in ranks:
        errors = [float((ends(MAKERS[name][0](EDM), grid(40)) - exact).abs().mean()) for name in names]
        assert errors == sorted(errors, reverse=True), dict(zip(names, errors, strict=True))


def test_first_order_is_ddim() -> None:
    singles = [dpm_solver_single(1, process=EDM), dpm_solver_single(1, process=EDM, prediction="eps")]
    for step in (dpm_solver(1), *singles):
        torch.testing.assert_close(ends(step, grid(7)), ends(ddim(0.0), grid(7)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_trajectories_depend_on_the_ratio_alone(name: str) -> None:
    """x / alpha is the same on variance-preserving levels of equal ratios."""
    process = Discrete(schedule="cosine")
    ratios = np.geomspace(10.0, 0.05, 9).tolist()
    preserving = [process.at(r) for r in ratios]
    there = sample(MIXTURE, MAKERS[name][0](process), preserving, states() * preserving[0].alpha, keyed())
    known = ends(MAKERS[name][0](EDM), [EDM.at(r) for r in ratios])
    torch.testing.assert_close(there / preserving[-1].alpha, known, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("make", "evaluations"), [
    (lambda: dpm_solver(2), 6), (lambda: dpm_solver(3), 6), (lambda: unipc(3), 6),
    (lambda: dpm_solver_single(2, process=EDM), 11), (lambda: dpm_solver_single(3, process=EDM), 16),
])  # fmt: skip
def test_evaluations_and_the_last_step(make: Callable[[], Step], evaluations: int) -> None:
    """A multistep solver evaluates once a step; onto a clean level every solver returns the clean image."""
    asked: list[float] = []

    def counted(x: Tensor, p: Level, condition: Condition) -> Prediction:
        asked.append(p.sigma)
        return gaussian(0.0, 0.5)(x, p, condition)

    levels = grid(5)
    found = ends(make(), [*levels, CLEAN], counted)
    assert len(asked) == evaluations
    before = ends(make(), levels, gaussian(0.0, 0.5))
    torch.testing.assert_close(found, gaussian(0.0, 0.5)(before, levels[-1], {}).x0)


@pytest.mark.parametrize("make", [lambda: dpm_solver(4), lambda: unipc(0), lambda: unipc(2, "bh3"),
                                  lambda: dpm_solver_single(2, process=EDM, prediction="v")])  # fmt: skip
def test_other_orders_are_refused(make: Callable[[], Step]) -> None:
    with pytest.raises(ValueError, match="order"):
        make()
