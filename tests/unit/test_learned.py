"""Learned samplers: the member of the family that is DDPM, the marginals of Theorem 1, and what the loss wants."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.denoisers import denoiser
from baselines.learned import Generalised, ancestral, generalised, marginals
from baselines.networks.unet import UNet, UNetConfig
from baselines.noise import image_noise
from baselines.sampling import sample, walk
from baselines.schedules import Discrete, Level, subsequence
from baselines.steps import ddpm
from scripts import learn_sampler

GRID = Discrete(schedule="cosine").grid(subsequence(5, 1000, "respaced"))


def mixture() -> Generalised:
    """A model of four steps that looks back on all its states."""
    random = np.random.default_rng(3)
    return Generalised(
        levels=[Level(0.0, 0.2, 0.9), *[Level(0.0, 1.0, 1.0)] * 3],
        mix=[random.uniform(-0.8, 0.8, 2 + i).tolist() for i in range(4)],
        noise=[0.5, 0.3, 0.7, 0.2],
    )


def test_learning_starts_from_ancestral_sampling() -> None:
    torch.manual_seed(0)
    network = UNet(UNetConfig(width=16, multipliers=(1, 2), blocks=1, groups=4, attention=())).eval().double()

    def doubled(x: Tensor, t: Tensor) -> Tensor:
        return network(x, t)

    predict, noise = denoiser(doubled, "v"), image_noise(torch.arange(3))
    x = noise(0, torch.empty(3, 3, 8, 8, dtype=torch.float64))
    model = ancestral(GRID)
    mine = walk(lambda: generalised(model), model.grid)(predict, x, noise, {})
    torch.testing.assert_close(mine, sample(predict, ddpm("small"), GRID, x, noise), rtol=0, atol=1e-6)


def test_the_marginals_of_ancestral_sampling_are_those_of_its_process() -> None:
    for (alpha, sigma), level in zip(marginals(ancestral(GRID)), GRID, strict=True):
        assert alpha == pytest.approx(level.alpha, abs=1e-9)
        assert sigma == pytest.approx(level.sigma, abs=1e-9)


def test_marginals_agree_with_covariances_of_the_whole_chain() -> None:
    """Theorem 1 against the joint distribution of all states, as a linear map of the noise."""
    model, x0 = mixture(), 1.0
    rows = [np.array([model.levels[0].alpha * x0, model.levels[0].sigma, *[0.0] * 4])]
    for i, (of_image, *of_states) in enumerate(model.mix):
        row = sum(factor * state for factor, state in zip(of_states, rows, strict=True))
        row = row + np.eye(6)[0] * of_image * x0 + np.eye(6)[2 + i] * model.noise[i]
        rows.append(row)
    for (alpha, sigma), row in zip(marginals(model), rows, strict=True):
        assert alpha == pytest.approx(row[0], abs=1e-12)
        assert sigma == pytest.approx(np.linalg.norm(row[1:]), abs=1e-12)


def test_marginals_agree_with_samples() -> None:
    """Theorem 1 against Monte Carlo: the chain itself with a clean image that is known, within 4 standard errors."""
    model, count = mixture(), 40_000
    x0 = torch.full((count, 1), 0.7, dtype=torch.float64)
    noise = image_noise(torch.arange(count))
    first = model.levels[0]
    x = first.alpha * x0 + first.sigma * noise(9, x0)

    class Knows:
        x0 = torch.full((count, 1), 0.7, dtype=torch.float64)

    step = generalised(model)
    for i in range(4):
        x = step(lambda *_: Knows(), x, model.grid, i, noise, {})  # type: ignore[arg-type, return-value]
        alpha, sigma = marginals(model)[i + 1]
        assert float(x.mean()) == pytest.approx(alpha * 0.7, abs=4 * sigma / count**0.5)
        assert float(x.std()) == pytest.approx(sigma, rel=4 / (2 * count) ** 0.5)


def test_the_loss_is_least_where_the_means_of_the_features_agree() -> None:
    """With the image itself for a feature, the gradient by a shift vanishes exactly if the means match."""
    torch.manual_seed(1)
    images, real = torch.randn(64, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    for gap in (0.0, 0.3):
        shift = (real - images.mean(0) + gap).requires_grad_()
        (gradient,) = torch.autograd.grad(learn_sampler.distance(images + shift, real), shift)
        # The sum of squares over pairs of different images has the gradient 2 (mean), like that over all.
        assert float(gradient.abs().max()) == pytest.approx(2 * gap, abs=1e-12)


def test_the_loss_is_unbiased() -> None:
    """Pairs of one image with itself are left out: over many small batches the mean is |m|^2 - 2 m r."""
    generator = torch.Generator().manual_seed(2)
    mean, real = torch.tensor([0.5, -0.2]), torch.tensor([0.1, 0.3])
    batches = torch.randn(20_000, 4, 2, generator=generator) + mean
    values = torch.stack([learn_sampler.distance(batch, real) for batch in batches])
    expected = float(mean.dot(mean) - 2 * mean.dot(real))
    assert float(values.mean()) == pytest.approx(expected, abs=4 * float(values.std()) / len(values) ** 0.5)


def options(work: Path, **changes: object) -> argparse.Namespace:
    chosen = {
        "weights": "shapes-pixel", "steps": 2, "updates": 2, "batch_size": 4, "rate": 5e-3, "family": "pred-time",
        "real": 500, "precision": "float32", "seed": 0, "every": 1, "work": work,
    }  # fmt: skip
    return argparse.Namespace(**chosen | changes)


def test_learning_goes_on_where_it_stopped(tmp_path: Path) -> None:
    (tmp_path / "stopped").mkdir()
    features = learn_sampler.extractor()
    whole, _ = learn_sampler.learn(options(tmp_path), features)
    learn_sampler.learn(options(tmp_path / "stopped", updates=1), features)
    continued, _ = learn_sampler.learn(options(tmp_path / "stopped"), features)
    told = learn_sampler.plain(whole)
    assert told == learn_sampler.plain(continued)
    assert json.loads(json.dumps(told)) == told
    start = ancestral(Discrete(schedule="cosine").grid(subsequence(2, 1000, "respaced")))
    assert told != learn_sampler.plain(start)


def test_without_free_levels_they_are_those_of_the_mixture(tmp_path: Path) -> None:
    model, _ = learn_sampler.learn(options(tmp_path, family="time", updates=1), learn_sampler.extractor())
    for level, (alpha, sigma) in zip(model.levels, marginals(model), strict=False):
        assert float(level.alpha) == pytest.approx(float(alpha), abs=1e-6)
        assert float(level.sigma) == pytest.approx(float(sigma), abs=1e-6)
