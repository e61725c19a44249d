"""Denoising diffusion GANs: the chain of few steps, generators that are known, and whose gradient a loss is."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from baselines.adversarial import Adversaries, adversarial_loss, few_ratios, implicit
from baselines.denoisers import Prediction, denoiser
from baselines.networks.discriminator import DiscriminatorConfig, variety
from baselines.networks.unet import UNet, UNetConfig
from baselines.noise import image_noise
from baselines.sampling import sample
from baselines.schedules import Discrete, Level, ratio_grid
from baselines.steps import ddpm, transition
from baselines.training import Recipe, fit

PROCESS = Discrete(schedule="cosine")
TINY_ARGUMENTS: dict[str, Any] = {
    "width": 16, "multipliers": (1, 2), "blocks": 1, "groups": 4, "attention": (2,), "classes": 3,
}  # fmt: skip


def test_levels_are_those_of_the_paper() -> None:
    """The products of 1 - beta, where the betas are those between five equidistant times from 0.001 to 1."""
    times = [0.001 + 0.999 * i / 4 for i in range(5)]
    remaining = [math.exp(-2 * (0.25 * t**2 * 19.9 + 0.5 * t * 0.1)) for t in times]
    product, expected = 1.0, []
    for before, after in pairwise(remaining):
        product *= after / before
        expected.append(math.sqrt((1 - product) / product))
    assert few_ratios(4) == pytest.approx(expected[::-1], rel=1e-9)
    assert few_ratios(4)[0] == pytest.approx(152.16, abs=0.01)


def test_a_generator_that_draws_from_the_posterior_reproduces_the_data() -> None:
    """Data of two points, -1 and 1 with weights 0.7 and 0.3. Their mean, instead of a draw, reproduces nothing."""
    share, count = 0.3, 20_000

    def chance(x: Tensor, p: Level) -> Tensor:
        return torch.sigmoid(math.log(share / (1 - share)) + 2 * p.alpha / p.sigma**2 * x)

    def draws(x: Tensor, p: Level, condition: Any) -> Prediction:
        uniform = torch.special.ndtr(condition["z"][:, :1, None, None])
        x0 = torch.where(uniform < chance(x, p), 1.0, -1.0).to(x)
        return Prediction(x0, (x - p.alpha * x0) / p.sigma)

    grid, noise = ratio_grid(PROCESS, few_ratios(4)), image_noise(torch.arange(count))
    x = noise(0, torch.empty(count, 1, 1, 1, dtype=torch.float64))
    found = sample(draws, implicit(ddpm("small"), 4), grid, x, noise)
    torch.testing.assert_close(found.abs(), torch.ones_like(found))
    error = math.sqrt(share * (1 - share) / count)
    assert float((found > 0).double().mean()) == pytest.approx(share, abs=3.5 * error)

    # Given any state on the way, the chain is the forward process backward: second moments agree there too.
    states: list[Tensor] = []
    sample(draws, implicit(ddpm("small"), 4), grid, x, noise, watch=lambda i, state: states.append(state))
    for p, state in zip(grid[1:], states, strict=True):
        expected = p.alpha**2 + p.sigma**2
        assert float(state.square().mean()) == pytest.approx(expected, abs=6 / math.sqrt(count))


def test_a_generator_of_means_is_ancestral_sampling() -> None:
    torch.manual_seed(0)
    network = UNet(UNetConfig(**TINY_ARGUMENTS)).eval()
    noise, y = image_noise(torch.arange(3)), torch.tensor([0, 1, 2])
    grid = ratio_grid(PROCESS, few_ratios(4))

    def ignoring(x: Tensor, t: Tensor, y: Tensor, z: Tensor | None = None) -> Tensor:
        return network(x, t, y)

    x, predict = noise(0, torch.empty(3, 3, 8, 8)), denoiser(ignoring, "v")
    one = sample(predict, implicit(ddpm("small"), 4), grid, x, noise, {"y": y})
    torch.testing.assert_close(one, sample(predict, ddpm("small"), grid, x, noise, {"y": y}))


def test_the_latent_is_the_images_own() -> None:
    """z differs among images and steps, and does not depend on the batch."""
    seen: list[Tensor] = []

    def predict(x: Tensor, p: Level, condition: Any) -> Prediction:
        seen.append(condition["z"])
        return Prediction(x, x)

    grid, step = ratio_grid(PROCESS, few_ratios(2)), implicit(ddpm("small"), 5)
    for seeds in ([4, 5], [5]):
        sample(predict, step, grid, torch.zeros(len(seeds), 1, 1, 1), image_noise(torch.tensor(seeds)))
    assert seen[0].shape == (2, 5)
    torch.testing.assert_close(seen[0][1], seen[2][0], rtol=0, atol=0)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0][0], seen[0][1])


class Constant(nn.Module):
    """A generator of one picture, whose v is that of the picture at every level."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Parameter(torch.full((3, 1, 1), 0.25))

    def forward(self, x: Tensor, t: Tensor, z: Tensor, y: Tensor) -> Tensor:
        grid = ratio_grid(PROCESS, few_ratios(4))[:-1]
        level = [min(grid, key=lambda p: abs(p.t - float(one))) for one in t]
        alpha, sigma = (torch.tensor([p[k] for p in level]).view(-1, 1, 1, 1) for k in (1, 2))
        return (alpha * x - self.picture) / sigma  # from_output gives alpha x - sigma v = the picture


class Linear(nn.Module):
    """A discriminator whose logit is w times the mean of x_q, plus u times that of x_p."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Parameter(torch.tensor(0.8)), nn.Parameter(torch.tensor(0.1))

    def forward(self, x_q: Tensor, t: Tensor, x_p: Tensor, y: Tensor) -> Tensor:
        return self.w * x_q.mean(dim=(1, 2, 3)) + self.u * x_p.mean(dim=(1, 2, 3))


def gradients(penalty: float = 0.0, every: int = 1, side: int = 2) -> tuple[Adversaries, Tensor]:
    pair = Adversaries(Constant(), Linear())
    loss = adversarial_loss(PROCESS, few_ratios(4), size=2, penalty=penalty, every=every)
    batch = {"x0": torch.full((2048, 3, side, side), -0.5), "y": torch.zeros(2048, dtype=torch.int64)}
    value = loss(pair, batch, torch.Generator().manual_seed(0))
    value.backward()
    return pair, value.detach()


def test_each_network_has_the_gradient_of_its_own_loss() -> None:
    """A brighter picture fools this discriminator, which itself learns that real images are darker."""
    pair, value = gradients(side=16)  # so many values that the means of states have no spread
    generator: Any = pair.generator
    discriminator: Any = pair.discriminator
    assert float(generator.picture.grad.max()) < 0  # eq. 7: up the logit of the generated states
    # eq. 6, with the logits of mean states. The loss of the generator would change what the second term adds.
    expected = 0.0
    for p, q in pairwise(ratio_grid(PROCESS, few_ratios(4))):
        of_image = q.alpha * transition(p, q) / p.sigma**2
        generated = 0.25 * of_image - 0.5 * (q.alpha - of_image)  # the rest comes from the state before
        of_real, of_fake = (0.8 * mean - 0.1 * 0.5 * p.alpha for mean in (-0.5 * q.alpha, generated))
        expected += (0.5 * q.alpha / (1 + math.exp(of_real)) + generated / (1 + math.exp(-of_fake))) / 4
    assert float(discriminator.w.grad) == pytest.approx(expected, rel=0.05)
    assert float(value) == pytest.approx(3 * math.log(2), abs=0.3)


def test_the_penalty_is_half_gamma_times_the_squared_gradient() -> None:
    """The gradient of this discriminator by x_q is w / d at each of d = 12 values, of squared norm w^2 / d."""
    (plain, without), (pair, value) = gradients(), gradients(penalty=2.0)
    assert float(value - without) == pytest.approx(2.0 / 2 * 0.8**2 / 12, rel=1e-4)
    one: Any = pair.discriminator
    other: Any = plain.discriminator
    assert float(one.w.grad - other.w.grad) == pytest.approx(2.0 / 2 * 2 * 0.8 / 12, rel=1e-3)
    never = gradients(penalty=2.0, every=10**9)[1]
    assert float(never) == pytest.approx(float(without), rel=1e-6)


def test_generated_states_are_those_of_the_sampler() -> None:
    """A generator that knows the clean images leaves states that no discriminator can tell from real ones."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    class Watching(nn.Module):
        def forward(self, x_q: Tensor, t: Tensor, x_p: Tensor, y: Tensor) -> Tensor:
            seen.append((x_q.detach(), t, x_p.detach()))
            return x_q.sum(dim=(1, 2, 3)) * 0 + x_q.mean(dim=(1, 2, 3)) * 0

    pair = Adversaries(Constant(), Watching())
    loss = adversarial_loss(PROCESS, few_ratios(4), size=2, penalty=0.0)
    batch = {"x0": torch.full((20_000, 3, 1, 1), 0.25), "y": torch.zeros(20_000, dtype=torch.int64)}
    loss(pair, batch, torch.Generator().manual_seed(0))
    (real, told, noisier), (fake, _, _) = seen[:2]
    grid = ratio_grid(PROCESS, few_ratios(4))
    for p, q in pairwise(grid):
        here = told == (q.t if q.sigma else 0.0)
        assert 4000 < int(here.sum()) < 6000
        for x in (real[here], fake[here]):
            both = torch.stack([x.flatten() - q.alpha / 4, noisier[here].flatten() - p.alpha / 4]).double()
            found = both @ both.T / both.shape[1]
            expected = torch.tensor([
                [q.sigma**2, p.alpha / q.alpha * q.sigma**2], [p.alpha / q.alpha * q.sigma**2, p.sigma**2]
            ], dtype=torch.float64)  # fmt: skip
            torch.testing.assert_close(found, expected, rtol=0.05, atol=1e-3)
    assert transition(grid[-2], grid[-1]) > 0


def test_variety_is_the_spread_within_groups() -> None:
    h = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    channel = variety(h, 4)
    assert channel.shape == (8, 1, 2, 2)
    for start in range(2):  # images start, start + 2, ... make a group
        expected = h[start::2].std(dim=0, unbiased=False).mean()
        torch.testing.assert_close(channel[start::2], expected.expand(4, 1, 2, 2), rtol=1e-5, atol=1e-6)
    assert float(variety(h[:1].repeat(4, 1, 1, 1), 4).max()) < 1e-3


def test_training_goes_on_where_it_stopped_with_two_rates(tmp_path: Any) -> None:
    def pair() -> Adversaries:
        torch.manual_seed(0)
        discriminator = DiscriminatorConfig(trunk=UNetConfig(**{**TINY_ARGUMENTS, "in_channels": 6}), group=2)
        return Adversaries(UNet(UNetConfig(**TINY_ARGUMENTS, latent=4, style=8)), discriminator.build())

    loss = adversarial_loss(PROCESS, few_ratios(4), size=4, every=1)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    batch = {"x0": images, "y": torch.tensor([0, 1, 2, 0])}

    def trained(steps: int, name: str, **changes: Any) -> dict[str, Tensor]:
        recipe = Recipe(steps=steps, batch_size=4, rate=1e-3, decay="none", warmup=0, bfloat16=False, **changes)
        network, average = pair(), pair()
        list(fit(network, average, loss, lambda step: batch, recipe, checkpoint=tmp_path / name, every=1))
        return network.state_dict()

    half = {"generator": 0.5}
    whole = trained(2, "whole", factors=half)
    trained(1, "stopped", factors=half)
    continued = trained(2, "stopped", factors=half)
    for name, value in whole.items():
        torch.testing.assert_close(continued[name], value, rtol=0, atol=0)
    start, one, slow = pair().state_dict(), trained(1, "one"), trained(1, "slow", factors=half)
    judge = next(name for name in reversed(one) if name.startswith("discriminator.last") and name.endswith("bias"))
    moved = {name: (one[name] - start[name]).abs().max() for name in ("generator.head.bias", judge)}
    slower = {name: (slow[name] - start[name]).abs().max() for name in moved}
    # The first step of Adam is the rate itself.
    assert float(slower["generator.head.bias"] / moved["generator.head.bias"]) == pytest.approx(0.5, rel=1e-3)
    assert float(slower[judge] / moved[judge]) == pytest.approx(1, rel=1e-3)
