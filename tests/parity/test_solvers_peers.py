"""Solvers of few steps against diffusers and k-diffusion, on the same levels and the same network outputs."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracles import mixture, normal
from torch import Tensor

from baselines.denoisers import Denoiser
from baselines.multistep import dpm_solver, unipc
from baselines.noise import image_noise
from baselines.schedules import EDM, Discrete, Grid, karras_ratios, log_ratios, ratio_grid
from baselines.steps import Step, ddim, heun

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of diffusers, about its own imports
    from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

pytestmark = pytest.mark.parity

DENOISE: Denoiser = mixture([-0.7, 0.5], 0.1, [0.4, 0.6])
NOISE = image_noise(torch.arange(2))
START = normal(2, 3, 4, 4)


def states(step: Step, grid: Grid, x: Tensor) -> list[Tensor]:
    """The state after every step."""
    found = []
    for i in range(len(grid) - 1):
        x = step(DENOISE, x, grid, i, NOISE, {})
        found.append(x)
    return found


def of_diffusers(scheduler: Any, grid: Grid, x: Tensor) -> list[Tensor]:
    """The same, by a scheduler that is told x0, on our levels: its own sigmas are sigma / alpha in float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, about how diffusers makes arrays
        scheduler.set_timesteps(len(grid) - 1)
    scheduler.sigmas = torch.tensor([p.ratio for p in grid], dtype=torch.float64)
    found = []
    for i, timestep in enumerate(scheduler.timesteps):
        x0 = DENOISE(x, grid[i], {}).x0
        x = scheduler.step(x0, timestep, x).prev_sample.double()
        found.append(x)
    return found


def apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


SPACINGS: dict[str, Callable[[int], list[float]]] = {
    "karras": lambda steps: karras_ratios(steps, low=0.011, high=80.0),
    "log-snr": lambda steps: log_ratios(steps, low=0.011, high=80.0),
}


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_dpm_solver_of_diffusers(order: int, spacing: str) -> None:
    grid = ratio_grid(Discrete(), SPACINGS[spacing](12))
    theirs = DPMSolverMultistepScheduler(
        solver_order=order, prediction_type="sample", final_sigmas_type="zero", lower_order_final=False
    )
    assert apart(states(dpm_solver(order), grid, START), of_diffusers(theirs, grid, START)) < 2e-5


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_unipc_of_diffusers(order: int, variant: Any, spacing: str) -> None:
    """But for the step onto the clean level, which theirs takes with a corrector of infinite step size."""
    grid = ratio_grid(Discrete(), SPACINGS[spacing](12))
    theirs = UniPCMultistepScheduler(
        solver_order=order, solver_type=variant, prediction_type="sample", final_sigmas_type="zero",
        lower_order_final=True,
    )  # fmt: skip
    # Theirs lowers the order towards the end, ours does not: compared where both have the full one.
    full = len(grid) - 1 - order
    ours = states(unipc(order, variant), grid, START)[:full]
    assert apart(ours, of_diffusers(theirs, grid, START)[:full]) < 2e-5


def test_another_order_differs() -> None:
    """The comparison can fail."""
    grid = ratio_grid(Discrete(), SPACINGS["log-snr"](12))
    theirs = of_diffusers(
        DPMSolverMultistepScheduler(solver_order=2, prediction_type="sample", lower_order_final=False), grid, START
    )
    assert apart(states(dpm_solver(3), grid, START), theirs) > 1e-3
    assert apart(states(unipc(2), grid, START)[:-1], theirs[:-1]) > 1e-3


def k_diffusion() -> Any:
    """The samplers of k-diffusion, without the rest of the package, whose libraries may be missing."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("k-diffusion is not installed")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations or ())
    before = sys.modules.get("k_diffusion")
    sys.modules["k_diffusion"] = package
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("k_diffusion.sampling")
    except ImportError as error:
        pytest.skip(f"k-diffusion cannot be imported: {error}")
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "k_diffusion"]:
            del sys.modules[name]
        if before is not None:
            sys.modules["k_diffusion"] = before


@pytest.mark.parametrize(
    ("name", "make"),
    [("sample_dpmpp_2m", lambda: dpm_solver(2)), ("sample_heun", heun), ("sample_euler", ddim)],
)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_samplers_of_k_diffusion(name: str, make: Callable[[], Step], spacing: str) -> None:
    theirs = getattr(k_diffusion(), name)
    grid = ratio_grid(EDM, SPACINGS[spacing](12))
    x = 80.0 * START

    def model(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        return DENOISE(x, EDM.at(float(sigma[0])), {}).x0

    sigmas = torch.tensor([p.sigma for p in grid], dtype=torch.float64)
    expected = theirs(model, x, sigmas, disable=True)
    np.testing.assert_allclose(states(make(), grid, x)[-1].numpy(), expected.numpy(), rtol=0, atol=1e-9)
