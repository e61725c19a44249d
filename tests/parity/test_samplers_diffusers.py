"""Steps and sub-sequences against the schedulers of diffusers, on the same network outputs and the same noise.

The schedulers keep alpha-bar in float32, in which 1 - alpha-bar of the first timesteps has an error of 3e-4; it is
handed to them in float64, so that what is compared are the equations. `test_schedulers_as_they_come` has their own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracles import keyed
from torch import Tensor

from baselines.denoisers import Denoiser, Network, denoiser
from baselines.guidance import clip, dynamic_threshold, on_x0
from baselines.noise import Noise
from baselines.schedules import CLEAN, Grid, betas, discrete_grid, signal, subsequence
from baselines.steps import Step, ddim, ddpm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of diffusers, about its own imports
    from diffusers import DDIMScheduler, DDPMScheduler

pytestmark = pytest.mark.parity

KINDS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
PROCESSES: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "linear": (betas("linear"), {"beta_schedule": "linear"}),
    "cosine": (betas("cosine"), {"beta_schedule": "squaredcos_cap_v2"}),
    "stable-diffusion": (
        betas("scaled_linear", low=0.00085, high=0.012),
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    ),
}


def network(channels: int = 3) -> Network:
    """Fixed, not linear, different for every timestep; outputs reach beyond [-1, 1] so that clipping is felt."""
    weight = torch.randn(channels, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def output(x: Tensor, t: Tensor) -> Tensor:
        mixed = torch.einsum("oc,bchw->bohw", weight.to(x), x)
        return 1.4 * torch.sin(mixed + 0.01 * t.view(-1, 1, 1, 1).to(x))

    return output


def scheduler(kind: type, process: str, *, exact: bool = True, **config: Any) -> Any:
    beta, schedule = PROCESSES[process]
    theirs = kind(**schedule, **config)
    if exact:
        theirs.alphas_cumprod = torch.from_numpy(signal(beta))
        if kind is DDIMScheduler and not config.get("set_alpha_to_one", True):
            theirs.final_alpha_cumprod = theirs.alphas_cumprod[0]
    return theirs


def start(dtype: torch.dtype = torch.float64) -> Tensor:
    return keyed(5)(0, torch.empty(2, 3, 4, 4, dtype=dtype))


def largest_difference(
    ours: Callable[[Tensor, int], Tensor], theirs: Callable[[Tensor, int], Tensor], x: Tensor, steps: int
) -> float:
    """Over all steps, each from the same state, as a share of the largest value."""
    worst = 0.0
    for i in range(steps):
        a, b = ours(x, i), theirs(x, i)
        worst = max(worst, float((a - b).abs().max() / b.abs().max()))
        x = b
    return worst


def compare(
    theirs: Any,
    call: Callable[[Tensor, int, Tensor, int], Tensor],
    step: Step,
    denoise: Denoiser,
    grid: Grid,
    model: Network,
    noise: Noise,
    x: Tensor,
) -> float:
    times = theirs.timesteps.tolist()
    assert times == [level.t for level in grid[:-1]]

    def other(x: Tensor, i: int) -> Tensor:
        return call(model(x, torch.full((len(x),), float(times[i]))), times[i], x, i)

    return largest_difference(lambda x, i: step(denoise, x, grid, i, noise, {}), other, x, len(times))


@pytest.mark.parametrize("process", ["linear", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("change", ["clip", "threshold", None])
def test_ddpm(process: str, kind: str, variance: str, change: str | None) -> None:
    learned = variance == "learned_range"
    theirs = scheduler(
        DDPMScheduler,
        process,
        variance_type=variance,
        prediction_type=KINDS[kind],
        clip_sample=change == "clip",
        thresholding=change == "threshold",
        sample_max_value=1e9,
    )
    theirs.set_timesteps(25)
    model = network(6 if learned else 3)
    denoise = denoiser(model, kind, learned_variance=learned)
    if change:
        denoise = on_x0(denoise, clip if change == "clip" else dynamic_threshold())
    grid = discrete_grid(PROCESSES[process][0], subsequence(25, 1000, "uniform"))
    noise = keyed()

    def call(output: Tensor, t: int, x: Tensor, i: int) -> Tensor:
        return theirs.step(output, t, x, generator=torch.Generator().manual_seed(i + 1)).prev_sample

    step = ddpm(variance.removeprefix("fixed_").removesuffix("_range"))  # type: ignore[arg-type]
    assert compare(theirs, call, step, denoise, grid, model, noise, start()) < 1e-10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("clipped", "rederive"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize(
    ("spacing", "config"),
    [
        ("uniform", {"timestep_spacing": "leading"}),
        ("trailing", {"timestep_spacing": "trailing"}),
        ("offset", {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False}),
        ("uniform", {"timestep_spacing": "leading", "set_alpha_to_one": False}),
    ],
    ids=["leading", "trailing", "latent-diffusion", "landing-on-itself"],
)
def test_ddim(kind: str, eta: float, clipped: bool, rederive: bool, spacing: str, config: dict[str, Any]) -> None:
    process = "stable-diffusion" if spacing == "offset" else "linear"
    theirs = scheduler(DDIMScheduler, process, prediction_type=KINDS[kind], clip_sample=clipped, **config)
    theirs.set_timesteps(20)
    model, beta = network(), PROCESSES[process][0]
    denoise = denoiser(model, kind)
    if clipped:
        denoise = on_x0(denoise, clip, rederive=rederive)
    last = CLEAN if config.get("set_alpha_to_one", True) else discrete_grid(beta, [0])[0]
    grid = discrete_grid(beta, subsequence(20, 1000, spacing), last=last)
    noise = keyed()

    def call(output: Tensor, t: int, x: Tensor, i: int) -> Tensor:
        added = noise(i + 1, x) if eta else None
        return theirs.step(output, t, x, eta, use_clipped_model_output=rederive, variance_noise=added).prev_sample

    assert compare(theirs, call, ddim(eta), denoise, grid, model, noise, start()) < 1e-10


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("step", ["ddpm", "ddim"])
def test_schedulers_as_they_come(process: str, step: str) -> None:
    """In float32, with their own alpha-bar: what remains is the rounding of alpha-bar."""
    kind = DDPMScheduler if step == "ddpm" else DDIMScheduler
    theirs = scheduler(kind, process, exact=False, prediction_type="v_prediction", clip_sample=True)
    theirs.set_timesteps(20)
    model, noise = network(), keyed()
    denoise = on_x0(denoiser(model, "v"), clip, rederive=step == "ddpm")
    grid = discrete_grid(PROCESSES[process][0], subsequence(20, 1000, "uniform"))

    def call(output: Tensor, t: int, x: Tensor, i: int) -> Tensor:
        if step == "ddim":
            return theirs.step(output, t, x, 0.0).prev_sample
        return theirs.step(output, t, x, generator=torch.Generator().manual_seed(i + 1)).prev_sample

    ours = ddpm("small") if step == "ddpm" else ddim()
    assert compare(theirs, call, ours, denoise, grid, model, noise, start(torch.float32)) < 1e-5


@pytest.mark.parametrize("process", PROCESSES)
def test_processes(process: str) -> None:
    beta, schedule = PROCESSES[process]
    assert DDPMScheduler(**schedule).betas.numpy() == pytest.approx(beta, rel=2e-6, abs=1e-7)


def test_sub_sequences_of_every_count() -> None:
    """For "trailing" where their float stride stays in the process and does not fall half way between timesteps."""
    leading, offset, trailing = (
        DDIMScheduler(timestep_spacing="leading"),
        DDIMScheduler(timestep_spacing="leading", steps_offset=1),
        DDIMScheduler(timestep_spacing="trailing"),
    )
    other = []
    for steps in range(1, 1001):
        for theirs, spacing in ((leading, "uniform"), (offset, "offset"), (trailing, "trailing")):
            if spacing == "offset" and steps == 1000:
                continue  # they visit timestep 1000 of 0 to 999; refused here
            if spacing in ("uniform", "offset") and 1000 % steps > 100:
                continue  # they begin far inside the process; refused here
            theirs.set_timesteps(steps)
            found = theirs.timesteps.tolist()[::-1]
            if found != subsequence(steps, 1000, spacing):
                assert spacing == "trailing"
                halves = [t for t in range(1, steps) if (2 * t * 1000) % steps == 0 and (2 * t * 1000) // steps % 2]
                assert found[0] == -1 or halves
                other.append(steps)
    assert len(other) == 111 and other[:4] == [48, 61, 96, 103]


def test_wrong_settings_differ() -> None:
    """The comparison can fail: with another variance, without clipping, with the noise not derived again."""
    theirs = scheduler(DDPMScheduler, "linear", variance_type="fixed_small", clip_sample=True)
    theirs.set_timesteps(25)
    model, noise = network(), keyed()
    grid = discrete_grid(PROCESSES["linear"][0], subsequence(25, 1000, "uniform"))

    def call(output: Tensor, t: int, x: Tensor, i: int) -> Tensor:
        return theirs.step(output, t, x, generator=torch.Generator().manual_seed(i + 1)).prev_sample

    def difference(step: Step, denoise: Denoiser) -> float:
        return compare(theirs, call, step, denoise, grid, model, noise, start())

    plain = denoiser(model, "eps")
    assert difference(ddpm("small"), on_x0(plain, clip)) < 1e-10
    assert difference(ddpm("large"), on_x0(plain, clip)) > 1e-2
    assert difference(ddpm("small"), plain) > 1e-2
    assert difference(ddim(1.0), on_x0(plain, clip, rederive=False)) > 1e-2
