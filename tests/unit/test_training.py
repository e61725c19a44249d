"""Losses at predictors whose loss is known, the bound against float64, and runs that are stopped and continued."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import noise
from scipy.stats import norm
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from baselines.denoisers import target
from baselines.schedules import betas, signal
from baselines.training import (
    Progress,
    Recipe,
    bound_terms,
    classification_loss,
    diffusion_loss,
    discretised_log_likelihood,
    first_stage_loss,
    fit,
)

LINEAR = betas("linear")
BARS = torch.from_numpy(signal(LINEAR))


def images(count: int, seed: int = 0) -> Tensor:
    return noise(count, 3, 4, 4, seed=seed).clamp(-1, 1)


class Known(nn.Module):
    """Knows x0, so that it finds the noise; outputs what it was asked to predict, plus `error`, and a variance."""

    def __init__(self, x0: Tensor, kind: str, *, error: float = 0.0, variance: float | None = None) -> None:
        super().__init__()
        self.x0, self.kind, self.error, self.variance = x0, kind, error, variance
        self.seen: list[dict[str, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        self.seen.append({"x": x, "t": t, **condition})
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in (BARS[t].sqrt(), (1 - BARS[t]).sqrt()))
        eps = (x - alpha * self.x0) / sigma
        output = target(self.kind, self.x0.double(), eps, alpha, sigma) + self.error
        if self.variance is not None:
            output = torch.cat([output, torch.full_like(output, self.variance)], dim=1)
        return output.float()


def loss_of(
    network: nn.Module, batch: dict[str, Tensor], *, kind: str = "eps", seed: int = 0, **settings: object
) -> float:
    settings = {"learned_variance": False, "null_label": None, **settings}
    loss = diffusion_loss(LINEAR, kind, **settings)  # type: ignore[arg-type]
    return float(loss(network, batch, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_loss_of_a_perfect_and_of_a_wrong_predictor(kind: str) -> None:
    x0 = images(64)
    assert loss_of(Known(x0, kind), {"x0": x0}, kind=kind) < 1e-8
    assert loss_of(Known(x0, kind, error=0.3), {"x0": x0}, kind=kind) == pytest.approx(0.09, rel=1e-4)


def test_noisy_images_and_timesteps_are_those_of_the_process() -> None:
    x0 = torch.full((4000, 1, 1, 2), 0.7)
    network = Known(x0, "eps")
    loss_of(network, {"x0": x0})
    (seen,) = network.seen
    t = seen["t"]
    assert t.dtype == torch.int64 and (int(t.min()), int(t.max())) in {
        (a, b) for a in range(3) for b in range(997, 1000)
    }
    assert float(t.double().mean()) == pytest.approx(499.5, abs=4 * 1000 / math.sqrt(12 * 4000))
    eps = (seen["x"].double() - BARS[t].sqrt().view(-1, 1, 1, 1) * 0.7) / (1 - BARS[t]).sqrt().view(-1, 1, 1, 1)
    assert abs(float(eps.mean())) < 4 / math.sqrt(8000) and float(eps.var()) == pytest.approx(
        1, abs=4 / math.sqrt(4000)
    )


def test_randomness_comes_from_the_generator() -> None:
    x0 = images(8)
    a, b, c = (Known(x0, "eps") for _ in range(3))
    for network, seed in ((a, 1), (b, 1), (c, 2)):
        loss_of(network, {"x0": x0}, seed=seed)
    assert torch.equal(a.seen[0]["x"], b.seen[0]["x"]) and torch.equal(a.seen[0]["t"], b.seen[0]["t"])
    assert not torch.equal(a.seen[0]["x"], c.seen[0]["x"])


def test_labels_are_dropped_at_the_given_rate() -> None:
    x0, y = torch.zeros(5000, 1, 1, 1), torch.arange(5000) % 10
    network = Known(x0, "eps")
    loss_of(network, {"x0": x0, "y": y}, null_label=10, drop=0.1)
    given = network.seen[0]["y"]
    dropped = given == 10
    assert float(dropped.double().mean()) == pytest.approx(0.1, abs=4 * math.sqrt(0.09 / 5000))
    assert torch.equal(given[~dropped], y[~dropped]) and given.dtype == torch.int64
    assert y.max() == 9, "the batch itself is left as it was"
    loss_of(network, {"x0": x0, "y": y}, null_label=10)
    assert torch.equal(network.seen[1]["y"], y)


def test_a_share_needs_a_null_label() -> None:
    with pytest.raises(ValueError, match=r"drop=0\.1 .* null_label, which is None"):
        diffusion_loss(LINEAR, "eps", learned_variance=False, null_label=None, drop=0.1)


# The variational bound.


def independent_bound(x0: float, predicted: float, variance: float, t: int, x: float = 0.4) -> float:
    """Bits: the divergence of q(x_{t-1} | x_t, x_0) from p(x_{t-1} | x_t), with the means of both at a given x_t."""
    bar, before, beta = float(BARS[t]), float(BARS[t - 1]) if t else 1.0, float(LINEAR[t])
    first = LINEAR[1] * (1 - float(BARS[0])) / (1 - float(BARS[1]))
    small = beta * (1 - before) / (1 - bar) if t else first

    def mean(x0: float) -> float:
        return (math.sqrt(before) * beta * x0 + math.sqrt(1 - beta) * (1 - before) * x) / (1 - bar)

    std = math.sqrt(math.exp((variance + 1) / 2 * math.log(beta) + (1 - variance) / 2 * math.log(small)))
    if t == 0:
        upper = 1.0 if x0 > 0.999 else norm.cdf(x0 + 1 / 255, mean(predicted), std)
        lower = 0.0 if x0 < -0.999 else norm.cdf(x0 - 1 / 255, mean(predicted), std)
        return -math.log(max(upper - lower, 1e-12)) / math.log(2)
    q, p = (Normal(torch.tensor(m).double(), s) for m, s in ((mean(x0), math.sqrt(small)), (mean(predicted), std)))
    return float(kl_divergence(q, p)) / math.log(2)


@pytest.mark.parametrize("t", [0, 1, 2, 10, 500, 999])
@pytest.mark.parametrize("variance", [-1.0, -0.2, 1.0, 1.3])
@pytest.mark.parametrize(("x0", "predicted"), [(0.2, 0.2), (-1.0, -0.98), (1.0, 0.999), (0.1, 0.12), (0.5, -0.9)])
def test_terms_of_the_bound(t: int, variance: float, x0: float, predicted: float) -> None:
    count = torch.tensor([t])
    a, b, v = (torch.full((1, 3, 2, 2), value) for value in (x0, predicted, variance))
    found = bound_terms(LINEAR, a, b, v, count)
    assert found.shape == (1,)
    assert found.item() == pytest.approx(independent_bound(x0, predicted, variance, t), rel=2e-3, abs=2e-6)


def test_every_image_has_its_own_timestep() -> None:
    t = torch.tensor([0, 3, 700])
    x0, predicted, variance = images(3), images(3, seed=1), images(3, seed=2)
    together = bound_terms(LINEAR, x0, predicted, variance, t)
    for i in range(3):
        alone = bound_terms(LINEAR, x0[i : i + 1], predicted[i : i + 1], variance[i : i + 1], t[i : i + 1])
        assert together[i].item() == pytest.approx(alone.item(), rel=1e-5)


def test_true_model_has_no_divergence_but_that_of_its_variance() -> None:
    t = torch.tensor([1, 20, 100])
    x0 = images(3)
    assert bound_terms(LINEAR, x0, x0, torch.full_like(x0, -1.0), t).abs().max() < 1e-6
    assert (bound_terms(LINEAR, x0, x0, torch.full_like(x0, 1.0), t) > 0).all()


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -1.0), (0.93, -2.5), (-1.3, 0.5), (0.2, -6.0)])
def test_likelihoods_of_all_grey_levels_add_up_to_one(mean: float, log_std: float) -> None:
    levels = torch.arange(256).double() / 127.5 - 1
    log = discretised_log_likelihood(levels, torch.tensor(mean).double(), torch.tensor(log_std).double())
    assert float(log.exp().sum()) == pytest.approx(1, abs=1e-9)
    inner = float(log[100].exp())
    edges = norm.cdf([levels[100] - 1 / 255, levels[100] + 1 / 255], mean, math.exp(log_std))
    assert inner == pytest.approx(max(edges[1] - edges[0], 1e-12), rel=1e-6)


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_hybrid_loss_adds_a_thousandth_of_the_bound(kind: str) -> None:
    x0, error = images(32), 0.05
    network = Known(x0, kind, error=error, variance=0.4)
    found = loss_of(network, {"x0": x0}, kind=kind, learned_variance=True)
    t = network.seen[0]["t"]
    # An error e in eps is -e sigma / alpha in x0, one in v is -e sigma.
    scale = (1 - BARS[t]).sqrt() / (BARS[t].sqrt() if kind == "eps" else 1)
    predicted = x0.double() - error * scale.view(-1, 1, 1, 1)
    bound = bound_terms(LINEAR, x0.double(), predicted, torch.full_like(predicted, 0.4), t)
    assert found == pytest.approx(error**2 + 0.001 * 1000 * float(bound.mean()), rel=1e-3)


def test_the_bound_teaches_the_variance_alone() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.variance = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(0.1))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.cat([self.mean * x, self.variance * x], dim=1)

    def gradients(*, learned: bool) -> tuple[float, float]:
        network = Linear()
        both = diffusion_loss(LINEAR, "eps", learned_variance=True, null_label=None)
        simple = diffusion_loss(LINEAR, "eps", learned_variance=False, null_label=None)
        batch, generator = {"x0": images(16)}, torch.Generator().manual_seed(3)
        if learned:
            both(network, batch, generator).backward()
        else:
            simple(Half(network), batch, generator).backward()
        return tuple(0.0 if p.grad is None else float(p.grad) for p in (network.mean, network.variance))  # type: ignore[return-value]

    class Half(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.network(x, t).chunk(2, dim=1)[0]

    (of_both, of_variance), (of_simple, none) = gradients(learned=True), gradients(learned=False)
    assert of_both == pytest.approx(of_simple, rel=1e-6) and none == 0.0
    assert abs(of_variance) > 1e-6


# The loop.


class Tiny(nn.Module):
    """Convolution, dropout, convolution; sees the timestep and the label."""

    def __init__(self, seed: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.classes = nn.Embedding(4, 8)
        self.dropout = nn.Dropout(dropout)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(0, 0.2, generator=generator)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        shift = self.classes(y) + (t / 1000).unsqueeze(1)
        return self.outer(self.dropout(torch.tanh(self.inner(x) + shift[:, :, None, None])))


def batch(step: int) -> dict[str, Tensor]:
    return {"x0": images(4, seed=step), "y": torch.arange(4) % 3}


LOSS = diffusion_loss(LINEAR, "v", learned_variance=True, null_label=3, drop=0.3)


def start(
    recipe: Recipe, checkpoint: Path | None = None, *, every: int = 4, seed: int = 0
) -> tuple[Tiny, Tiny, list[Progress]]:
    network, average = Tiny(seed), Tiny(seed + 1)
    return network, average, list(fit(network, average, LOSS, batch, recipe, checkpoint=checkpoint, every=every))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_continued_run_is_bit_identical(bfloat16: bool, tmp_path: Path) -> None:
    recipe = Recipe(steps=11, batch_size=4, rate=1e-2, warmup=3, bfloat16=bfloat16)
    network, average, whole = start(recipe)
    assert [p.step for p in whole] == [4, 8, 11]

    # Stopped after step 8, once with a checkpoint; others drew from the global generators in between.
    first = fit(Tiny(0), Tiny(1), LOSS, batch, recipe, checkpoint=tmp_path / "run.pt", every=4)
    assert [next(first).step, next(first).step] == [4, 8]
    first.close()
    torch.rand(17)
    again, again_average, rest = start(recipe, tmp_path / "run.pt", seed=40)
    assert [p.step for p in rest] == [11] and rest[-1].loss == whole[-1].loss
    for a, b in ((network, again), (average, again_average)):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"], "nothing half-written is left"
    assert start(recipe, tmp_path / "run.pt")[2] == [], "a finished run has no steps left"


def test_the_global_generator_neither_matters_nor_changes() -> None:
    recipe = Recipe(steps=3, batch_size=4, rate=1e-2, warmup=0, bfloat16=False)
    one, other, average = Tiny(0), Tiny(0), Tiny(1)
    for network in (one, other):
        torch.rand(5)
        before = torch.get_rng_state()
        list(fit(network, average, LOSS, batch, recipe))
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_seed_and_step_decide_the_randomness() -> None:
    seen: list[Tensor] = []

    def loss(network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        seen.append(torch.cat([torch.rand(2, generator=generator), network.dropout(torch.ones(64))]))
        return network.inner.weight.square().sum()

    for seed in (0, 0, 1):
        list(fit(Tiny(0), Tiny(0), loss, batch, Recipe(steps=3, batch_size=4, rate=0.0, seed=seed, bfloat16=False)))
    assert all(torch.equal(a, b) for a, b in zip(seen[:3], seen[3:6], strict=True))
    different = [*seen[:3], *seen[6:]]
    assert not any(
        torch.equal(a[part], b[part])
        for i, a in enumerate(different)
        for b in different[:i]
        for part in (slice(2), slice(2, None))
    )


def test_average_of_the_weights() -> None:
    """Decay min(average, (1 + k) / (10 + k)) at step k, from the initial weights."""
    recipe = Recipe(steps=40, batch_size=4, rate=1e-2, warmup=5, average=0.7, bfloat16=False)
    network, average = Tiny(0), Tiny(9)
    expected = [p.detach().double().clone() for p in network.parameters()]
    for k, _ in enumerate(fit(network, average, LOSS, batch, recipe, every=1)):
        keep = min(0.7, (1 + k) / (10 + k))
        expected = [
            keep * e + (1 - keep) * p.detach().double() for e, p in zip(expected, network.parameters(), strict=True)
        ]
    assert (1 + 40) / (10 + 40) > 0.7, "both branches were reached"
    for e, p in zip(expected, average.parameters(), strict=True):
        assert torch.allclose(p.double(), e, rtol=0, atol=1e-6) and not p.requires_grad


def test_rate_rises_then_falls_to_zero() -> None:
    """Adam moves a weight with a constant gradient by the rate of the step."""

    class Weight(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))

    network = Weight()
    recipe = Recipe(steps=20, batch_size=1, rate=0.1, warmup=5, bfloat16=False)
    run = fit(network, Weight(), lambda n, batch, generator: n.weight * 1.0, lambda k: {}, recipe, every=1)
    positions = [0.0, *(float(p.network.weight.detach()) for p in run)]
    rates = [0.1 * min((k + 1) / 5, 1) * (1 + math.cos(math.pi * k / 20)) / 2 for k in range(20)]
    assert -np.diff(positions) == pytest.approx(rates, rel=1e-6)


def test_gradient_is_limited() -> None:
    """Adam's first step hides the size of a gradient; its second moment does not."""
    limits: list[float] = []

    def loss(factor: float) -> Callable[[nn.Module, dict[str, Tensor], torch.Generator], Tensor]:
        return lambda network, batch, generator: factor * sum(p.sum() for p in network.parameters())  # type: ignore[return-value]

    for clip in (1.0, 0.25):
        network = Tiny(0)
        recipe = Recipe(steps=1, batch_size=1, rate=1e-3, clip=clip, bfloat16=False)
        next(fit(network, Tiny(1), loss(1e4), lambda k: {}, recipe))
        limits.append(math.sqrt(sum(float(p.grad.square().sum()) for p in network.parameters() if p.grad is not None)))
    assert limits == pytest.approx([1.0, 0.25], rel=1e-5)


def test_training_learns() -> None:
    """A scale of x is all there is to learn of Gaussian data at one level; it is found."""

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.scale * x

    beta = np.array([0.3])
    recipe = Recipe(steps=300, batch_size=256, rate=0.05, warmup=10, average=0.9, bfloat16=False)
    loss = diffusion_loss(beta, "eps", learned_variance=False, null_label=None)
    *_, last = fit(Scale(), Scale(), loss, lambda k: {"x0": 0.5 * noise(256, 1, 2, 2, seed=k)}, recipe)
    # E[eps | x] = sigma x / (alpha^2 std^2 + sigma^2)
    assert float(last.average.scale) == pytest.approx(math.sqrt(0.3) / (0.7 * 0.25 + 0.3), abs=0.02)
    assert last.loss == pytest.approx(1 - 0.3 / (0.7 * 0.25 + 0.3), abs=0.05)


class LinearStage(nn.Module):
    """A first stage whose latent is mean 2 x of 2 x 2 pixels with log-variance log(4), and whose decoder halves."""

    def encode(self, x: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(x, 2)
        return torch.cat([2 * small, torch.full_like(small, math.log(4.0))], dim=1)

    def decode(self, z: Tensor) -> Tensor:
        return nn.functional.interpolate(z / 2, scale_factor=2.0)


def test_loss_of_a_first_stage_is_the_absolute_error_and_the_divergence() -> None:
    """Decoded is x + standard normal noise: mean |error| sqrt(2 / pi), and the divergence of N(2 x, 4) from N(0, 1)."""
    x = torch.full((64, 1, 32, 32), 0.5)
    generator = torch.Generator()

    def value(weight: float) -> float:
        return float(first_stage_loss(weight)(LinearStage(), {"x0": x}, generator.manual_seed(0)))

    error = value(0.0)
    assert error == pytest.approx(math.sqrt(2 / math.pi), abs=4 * 0.6 / math.sqrt(x.numel() / 4))
    nats = 0.5 * (1.0 + 4.0 - 1.0 - math.log(4.0))
    assert value(0.25) - error == pytest.approx(0.25 * nats / 4, rel=1e-3), "a latent value for four pixel values"


def test_a_checkpoint_of_another_training_is_not_continued(tmp_path: Path) -> None:
    recipe, path = Recipe(steps=4, batch_size=4, rate=1e-2, bfloat16=False), tmp_path / "run.pt"

    def run(recipe: Recipe, **about: object) -> list[int]:
        return [p.step for p in fit(Tiny(0), Tiny(1), LOSS, batch, recipe, checkpoint=path, every=4, about=about)]

    assert run(recipe, data="a", network={"width": 8}) == [4]
    assert run(recipe, data="a", network={"width": 8}) == []
    for other, about, says in (
        (recipe, {"data": "b", "network": {"width": 8}}, 'data "a" instead of "b"'),
        (recipe, {"data": "a", "network": {"width": 9}}, "network .* instead of"),
        (replace(recipe, rate=2e-2), {"data": "a", "network": {"width": 8}}, "rate 0.01 instead of 0.02"),
        (replace(recipe, seed=1), {"data": "a", "network": {"width": 8}}, "seed 0 instead of 1"),
        # The rate of every step of a cosine depends on their number.
        (replace(recipe, steps=8), {"data": "a", "network": {"width": 8}}, "steps 4 instead of 8"),
    ):
        with pytest.raises(ValueError, match=f"is of another training, with {says}"):
            run(other, **about)
    state = torch.load(path, weights_only=True)
    del state["identity"]
    torch.save(state, path)
    with pytest.raises(ValueError, match="does not say what it was trained with"):
        run(recipe, data="a", network={"width": 8})


def test_a_rate_that_does_not_decay_can_be_kept_up_longer(tmp_path: Path) -> None:
    recipe, path = Recipe(steps=4, batch_size=4, rate=1e-2, decay="none", warmup=2, bfloat16=False), tmp_path / "run.pt"
    start(recipe, path)
    network, _, rest = start(replace(recipe, steps=8), path)
    whole, _, _ = start(replace(recipe, steps=8))
    assert [p.step for p in rest] == [8]
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize("told", [1.0, 0.25])
def test_the_network_is_told_what_it_will_be_told_when_it_samples(told: float) -> None:
    seen: list[Tensor] = []

    class Listening(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append(t)
            return x

    for factor in (1.0, told):
        loss = diffusion_loss(LINEAR, "eps", learned_variance=False, null_label=None, told=factor)
        loss(Listening(), {"x0": images(64)}, torch.Generator().manual_seed(0))
    assert torch.equal(seen[1].double(), seen[0] * told) and seen[0].max() > 500


def test_the_loss_of_a_score_is_that_of_the_noise() -> None:
    """Song et al. 2021 eq. 7 with the weight sigma^2: a network that is wrong by c / sigma costs c^2."""
    x0 = images(32)

    class Wrong(Known):
        def forward(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
            sigma = (1 - BARS[t]).sqrt().float().view(-1, 1, 1, 1)
            return super().forward(x, t) + 0.3 / sigma

    loss = diffusion_loss(LINEAR, "score", learned_variance=False, null_label=None)
    assert float(loss(Wrong(x0, "score"), {"x0": x0}, torch.Generator().manual_seed(0))) == pytest.approx(
        0.09, rel=1e-3
    )


def test_a_classifier_is_taught_on_noisy_images() -> None:
    """Cross-entropy of logits that are the images themselves, at the levels of the timesteps that it is told."""
    x0, y = images(256), torch.arange(256) % 3
    seen: list[tuple[Tensor, Tensor]] = []

    class Judge(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append((x, t))
            return x[:, :, 0, 0]

    found = classification_loss(LINEAR)(Judge(), {"x0": x0, "y": y}, torch.Generator().manual_seed(0))
    ((x, t),) = seen
    alpha, sigma = BARS[t].sqrt().view(-1, 1, 1, 1), (1 - BARS[t]).sqrt().view(-1, 1, 1, 1)
    eps = (x.double() - alpha * x0.double()) / sigma
    assert abs(float(eps[t > 50].mean())) < 0.05 and abs(float(eps[t > 50].std()) - 1) < 0.05
    expected = -(x[:, :, 0, 0].double().log_softmax(1)[torch.arange(256), y]).mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
