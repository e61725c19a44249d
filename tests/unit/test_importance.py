"""Training by the bound: which timesteps are drawn, that the weights undo it, and the bound of a perfect network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baselines.importance import Resampled, SecondMoment, bound_loss
from baselines.schedules import betas, signal
from baselines.training import Recipe, bound_terms, fit

BETA = betas("cosine", 20)


def filled(steps: int, losses: Any, history: int = 3) -> SecondMoment:
    sampler = SecondMoment(steps, history=history)
    for _ in range(history):
        sampler.record(torch.arange(steps), torch.tensor(losses))
    return sampler


def test_all_are_drawn_alike_until_every_history_is_full() -> None:
    sampler = SecondMoment(4, history=2)
    for t in (0, 0, 1, 1, 2, 2, 3):
        sampler.record(torch.tensor([t]), torch.tensor([float(10 * t + 1)]))
    assert sampler.chances().tolist() == [0.25] * 4
    _, weight = sampler.draw(8, torch.Generator().manual_seed(0))
    assert weight.tolist() == [1.0] * 8
    sampler.record(torch.tensor([3]), torch.tensor([31.0]))
    shares = torch.tensor([1.0, 11.0, 21.0, 31.0]) / 64
    torch.testing.assert_close(sampler.chances(), (0.999 * shares + 0.001 / 4).double())


def test_only_the_last_losses_count_by_their_mean_square() -> None:
    sampler = filled(2, [100.0, 1.0])
    for loss in (3.0, 4.0, 0.0):
        sampler.record(torch.tensor([0]), torch.tensor([loss]))
    root = math.sqrt((9 + 16 + 0) / 3)
    assert float(sampler.chances()[0]) == pytest.approx(0.999 * root / (root + 1) + 0.0005)


def test_weights_undo_the_draws() -> None:
    """The weighted mean of any function of timesteps is that of timesteps drawn alike, with less spread here."""
    values = torch.tensor([8.0, 0.5, 0.25, 0.25], dtype=torch.float64)
    sampler = filled(4, values.tolist())
    t, weight = sampler.draw(200_000, torch.Generator().manual_seed(0))
    found = weight * values[t]
    assert float(found.mean()) == pytest.approx(float(values.mean()), abs=4 * float(found.std()) / len(t) ** 0.5)
    assert float(found.std()) < 0.05 * float(values.std())
    assert set(t.tolist()) == {0, 1, 2, 3}


class Perfect(nn.Module):
    """Knows the mean of x0 given x for data N(0, s^2), and outputs v and a variance share of its choice."""

    def __init__(self, std: float, share: float) -> None:
        super().__init__()
        self.std, self.share = std, nn.Parameter(torch.tensor(share, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        level = torch.from_numpy(signal(BETA))[t].view(-1, 1, 1, 1)
        alpha, sigma = level.sqrt(), (1 - level).sqrt()
        x0 = alpha * self.std**2 / (level * self.std**2 + 1 - level) * x
        return torch.cat([(alpha * x - x0) / sigma, self.share.expand_as(x)], dim=1)


def terms_of(share: float, std: float = 0.3) -> np.ndarray[Any, Any]:
    """Every term of the bound in its closed form for t > 0: bits a dimension at a variance share in [-1, 1]."""
    remaining = signal(BETA)
    before = np.append(1.0, remaining[:-1])
    small = BETA * (1 - before) / (1 - remaining)
    found = []
    for t in range(1, len(BETA)):
        log = (share + 1) / 2 * math.log(BETA[t]) + (1 - share) / 2 * math.log(small[t])
        left = std**2 * (1 - remaining[t]) / (remaining[t] * std**2 + 1 - remaining[t])  # variance of x0 given x
        apart = (BETA[t] * math.sqrt(before[t]) / (1 - remaining[t])) ** 2 * left
        ratio = small[t] / math.exp(log)
        found.append(0.5 * (ratio - 1 - math.log(ratio) + apart / math.exp(log)) / math.log(2))
    return np.array(found)


@pytest.mark.parametrize("share", [-1.0, 1.0, 0.3])
def test_terms_of_a_perfect_network_are_closed_forms(share: float) -> None:
    """-1 is the small variance and 1 the large one."""
    x0 = 0.3 * torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network, remaining = Perfect(0.3, share), torch.from_numpy(signal(BETA))
    for t in (1, 7, 19):
        level = remaining[t]
        x = level.sqrt() * x0 + (1 - level).sqrt() * torch.randn_like(x0)
        steps = torch.full((len(x0),), t)
        v, variance = network(x, steps).chunk(2, dim=1)
        with torch.no_grad():
            terms = bound_terms(BETA, x0, level.sqrt() * x - (1 - level).sqrt() * v, variance, steps)
        error = float(terms.std()) / len(terms) ** 0.5
        assert float(terms.mean()) == pytest.approx(terms_of(share)[t - 1], abs=5 * error + 1e-6)


def test_the_loss_is_the_sum_of_the_terms_whatever_is_drawn() -> None:
    """Drawn alike or in proportion, the loss estimates one number: the bound of all timesteps together."""
    generator = torch.Generator().manual_seed(1)
    x0 = (0.3 * torch.randn(60_000, 1, 1, 1, generator=generator, dtype=torch.float64)).clamp(-1, 1)
    found = []
    for sampler in (SecondMoment(20), filled(20, [3.0, *[0.1] * 18, 1.0])):
        loss = bound_loss(BETA, "v")(Resampled(Perfect(0.3, 0.5), sampler), {"x0": x0}, generator)
        found.append(float(loss.detach()))
    remaining = torch.from_numpy(signal(BETA))[0]
    x = remaining.sqrt() * x0 + (1 - remaining).sqrt() * torch.randn(x0.shape, generator=generator)
    steps = torch.zeros(len(x0), dtype=torch.int64)
    v, variance = Perfect(0.3, 0.5)(x, steps).chunk(2, dim=1)
    with torch.no_grad():
        first = bound_terms(BETA, x0, remaining.sqrt() * x - (1 - remaining).sqrt() * v, variance, steps).mean()
    expected = float(first) + terms_of(0.5).sum()
    assert found[0] == pytest.approx(expected, rel=0.06)  # of which the standard error is 1.4 %
    assert found[1] == pytest.approx(expected, rel=0.02)


def test_gradients_reach_the_mean_and_the_variance() -> None:
    class Learning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.share = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(0.0))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.cat([self.mean * x, self.share.expand_as(x)], dim=1)

    network = Learning()
    x0 = torch.full((16, 1, 2, 2), 0.5)
    bound_loss(BETA, "v")(Resampled(network, SecondMoment(20)), {"x0": x0}, torch.Generator().manual_seed(0)).backward()
    assert network.mean.grad is not None and network.share.grad is not None
    assert float(network.mean.grad.abs()) > 0 and float(network.share.grad.abs()) > 0


def test_a_continued_training_remembers_the_losses(tmp_path: Any) -> None:
    def made() -> Resampled:
        torch.manual_seed(0)
        return Resampled(Conv(), SecondMoment(20, history=1))

    class Conv(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.conv(x)

    images = {"x0": torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(3)) * 2 - 1}

    def trained(steps: int, name: str) -> Resampled:
        recipe = Recipe(steps=steps, batch_size=64, rate=1e-2, decay="none", warmup=0, bfloat16=False)
        network = made()
        for _ in fit(network, made(), bound_loss(BETA, "v"), lambda step: images, recipe,
                     checkpoint=tmp_path / name, every=1):  # fmt: skip
            pass
        return network

    whole = trained(4, "whole")
    trained(2, "stopped")
    continued = trained(4, "stopped")
    assert float(whole.sampler.chances().max()) > 0.06  # histories were full, and did matter
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(continued.state_dict()[name], value, rtol=0, atol=0)
