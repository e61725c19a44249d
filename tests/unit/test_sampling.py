"""The loop: which steps it takes, what it hands them, and that images do not see each other."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import gaussian, keyed
from torch import Tensor

from baselines.denoisers import Condition, Denoiser, denoiser
from baselines.guidance import clip, on_x0
from baselines.noise import Noise, image_noise
from baselines.sampling import sample, walk
from baselines.schedules import Grid, betas, discrete_grid, karras_grid, subsequence
from baselines.steps import Step, ddim, ddpm, heun

LINEAR = betas("linear")
GRID = discrete_grid(LINEAR, subsequence(10, 1000, "uniform"))


def test_every_level_once_and_downwards() -> None:
    taken: list[tuple[int, float]] = []
    watched: list[tuple[int, float]] = []
    given = {"y": torch.arange(2)}

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        assert grid is GRID and condition is given and not torch.is_grad_enabled()
        taken.append((i, float(x[0])))
        return x + 1

    x = torch.zeros(2, requires_grad=True)
    found = sample(gaussian(), step, GRID, x, keyed(), given, watch=lambda i, x: watched.append((i, float(x[0]))))
    assert taken == [(i, float(i)) for i in range(10)]
    assert watched == [(i, float(i + 1)) for i in range(10)]
    assert found.tolist() == [10, 10] and not found.requires_grad


def test_without_a_condition_the_network_gets_none() -> None:
    def network(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        assert not condition
        return x

    sample(denoiser(network, "eps"), ddim(), GRID, torch.zeros(1, 1, 2, 2), keyed())


@pytest.mark.parametrize(
    ("step", "draws"),
    [(ddpm("large"), range(1, 10)), (ddim(0.5), range(1, 10)), (ddim(), range(0)), (heun(), range(0))],
)
def test_every_draw_is_used_once(step: Step, draws: range) -> None:
    """Draw 0 is the starting noise; nothing is drawn for a step that adds none."""
    used: list[int] = []

    def noise(draw: int, like: Tensor) -> Tensor:
        used.append(draw)
        return torch.zeros_like(like)

    sample(gaussian(), step, GRID, torch.zeros(1, 1, 2, 2), noise)
    assert used == list(draws)


def test_heun_with_churn_draws_on_every_step_but_one_that_is_out_of_range() -> None:
    used: list[int] = []

    def noise(draw: int, like: Tensor) -> Tensor:
        used.append(draw)
        return torch.zeros_like(like)

    grid = karras_grid(12)
    sample(gaussian(), heun(5.0, low=0.05, high=50.0), grid, torch.zeros(1, 1, 2, 2), noise)
    assert used == [i + 1 for i in range(12) if 0.05 <= grid[i].sigma <= 50]


@pytest.mark.parametrize(("step", "std"), [(ddim(), 0.4724), (ddim(1.0), 0.4441), (ddpm("large"), 0.5172)])
def test_samples_have_the_variance_that_the_sampler_must_have(step: Step, std: float) -> None:
    """Philox noise, float32 and the loop together; the exact values are those of `test_steps`."""
    noise = image_noise(torch.arange(128))
    x = noise(0, torch.empty(128, 3, 16, 16))
    grid = discrete_grid(LINEAR, subsequence(50, 1000, "uniform"))
    found = sample(gaussian(0.2, 0.5), step, grid, x, noise)
    assert float(found.std()) == pytest.approx(std, abs=4 * std / math.sqrt(2 * found.numel()))
    assert float(found.mean()) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("step", [ddpm("large"), ddim(), ddim(0.7), heun()])
def test_an_image_is_the_same_alone_and_in_any_batch(step: Step) -> None:
    # Arithmetic alone is the same in every lane of a vector unit; exponentials need not be.
    denoise = on_x0(denoiser(lambda x, t: x / (1 + x * x), "eps"), clip)

    def run(seeds: list[int]) -> Tensor:
        noise = image_noise(torch.tensor(seeds))
        return sample(denoise, step, GRID, noise(0, torch.empty(len(seeds), 3, 5, 4)), noise)

    together = run(list(range(32)))
    assert torch.equal(run([17, 5]), together[[17, 5]])
    assert not torch.allclose(together[0], together[1])


def test_a_walk_makes_a_step_a_run_and_tells_how_far_it_is() -> None:
    made: list[int] = []
    told: list[tuple[int, int, float]] = []

    def make_step() -> Step:
        made.append(1)
        return lambda denoise, x, grid, i, noise, condition: x + 1

    sampler = walk(make_step, GRID)
    for _ in range(2):
        sampler(gaussian(), torch.zeros(1), keyed(), {}, lambda done, steps, x: told.append((done, steps, float(x[0]))))
    assert len(made) == 2 and told == 2 * [(i, 10, float(i)) for i in range(1, 11)]
