"""The bound of variational diffusion: closed forms on Gaussian data, pixels, and what trains the schedule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles import gaussian
from torch import Tensor

from baselines.networks.unet import UNetConfig
from baselines.networks.variational import MonotoneSchedule, VariationalConfig, VariationalNetwork
from baselines.noise import image_noise
from baselines.schedules import Variational
from baselines.systems import edm, vdm
from baselines.variational import GREY, bound, diffusion_terms, prior_divergence, reconstruction, variational_loss

PROCESS = Variational(low=-12.0, high=4.0)


def straight(time: Tensor) -> tuple[Tensor, Tensor]:
    return time.double(), torch.ones_like(time, dtype=torch.float64)


def bent(time: Tensor) -> tuple[Tensor, Tensor]:
    """Three quarters of the way in the first half of the time, smoothly."""
    t = time.double()
    return 1.5 * t - 0.5 * t**2, 1.5 - t


def test_the_bound_of_gaussian_data_is_the_difference_of_entropies_whatever_the_schedule() -> None:
    """Pixels with the mean square of the data: the diffusion term is 1/2 log((1 + v/s0) / (1 + v/s1)), s = e^gamma."""
    images = torch.full((4, 1, 24, 24), 40, dtype=torch.uint8)
    x0 = GREY * (images.double() / 127.5 - 1)
    v = float(x0.square().mean())
    diffusion = 0.5 * math.log((1 + v * math.exp(-PROCESS.low)) / (1 + v * math.exp(-PROCESS.high)))
    prior = float(prior_divergence(x0, torch.tensor(PROCESS.high, dtype=torch.float64)).mean()) / 24**2
    noise = image_noise(torch.arange(4))
    pixels = reconstruction(x0, x0 + PROCESS.lowest * noise(0, x0.float(), 11), PROCESS.lowest).mean() / 24**2
    known = (diffusion + prior + float(pixels)) / math.log(2)
    for share in (straight, bent):
        found = bound(gaussian(0.0, math.sqrt(v)), PROCESS, share, images, noise, {}, times=200)
        assert found.dtype == torch.float64 and found.shape == (4,)
        assert float(found.mean()) == pytest.approx(known, rel=0.01)  # 2,304 squares at each time: 0.3 % a schedule


def test_pixels_have_probabilities() -> None:
    """Over the 256 grey levels they sum to 1; without noise the pixel is known, and with all noise nothing is."""
    grey = torch.arange(256, dtype=torch.float64).view(-1, 1, 1, 1)
    x0 = (2 * grey + 1) / 256 - 1
    seen = torch.full_like(x0, 0.123)
    assert float(torch.exp(-reconstruction(x0, seen, 0.05)).sum()) == pytest.approx(1.0)
    assert float(reconstruction(x0, x0, 1e-4).max()) < 1e-6
    torch.testing.assert_close(reconstruction(x0, seen, 1e4), torch.full((256,), math.log(256.0), dtype=torch.float64))
    torch.testing.assert_close(x0, GREY * (grey / 127.5 - 1))


def test_the_prior_is_the_divergence_of_two_gaussians() -> None:
    x0, gamma = torch.tensor([[[[0.5, -1.0]]]], dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
    s2 = 1 / (1 + math.exp(-3.0))
    known = sum(0.5 * ((1 - s2) * x**2 + s2 - 1 - math.log(s2)) for x in (0.5, -1.0))
    assert float(prior_divergence(x0, gamma)) == pytest.approx(known)


def test_the_schedule_rises_from_end_to_end_and_knows_its_slope() -> None:
    torch.manual_seed(0)
    schedule = MonotoneSchedule(32, -10.0, 4.0).double()
    schedule.requires_grad_(requires_grad=False)
    schedule.outer.mul_(400)
    schedule.inner.mul_(4)  # far from linear
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    share, rate = schedule.share(times)
    assert float(share[0]) == 0 and float(share[-1]) == pytest.approx(1.0)
    assert bool((share.diff() > 0).all())
    assert float((share - times).abs().max()) > 0.02
    step = 1e-6
    ahead, behind = schedule.share(times + step)[0], schedule.share(times - step)[0]
    torch.testing.assert_close(rate, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(schedule(times)[[0, -1]], torch.tensor([-10.0, 4.0], dtype=torch.float64))


def test_ends_follow_the_bound_and_the_interior_its_square() -> None:
    torch.manual_seed(0)
    unet = UNetConfig(in_channels=5, out_channels=1, width=8, multipliers=(1,), blocks=1, attention=(), groups=2)
    model = VariationalNetwork(VariationalConfig(unet=unet, frequencies=(1, 2), hidden=4))
    with torch.no_grad():
        model.schedule.outer.mul_(50)
    x0 = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    loss = variational_loss("v")(model, {"x0": x0}, torch.Generator().manual_seed(2))
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.schedule.named_parameters() if p.grad is not None}

    generator = torch.Generator().manual_seed(2)
    time = (torch.rand(1, generator=generator) + torch.arange(6) / 6) % 1.0
    eps = torch.randn(x0.shape, generator=generator)
    first = torch.randn(x0[:2].shape, generator=generator)
    terms = diffusion_terms(model, "v", GREY * x0, {}, *model.schedule.share(time), eps)
    interior = [model.schedule.slope, model.schedule.inner, model.schedule.shift, model.schedule.outer]
    squared = torch.autograd.grad(terms.square().mean(), interior, retain_graph=True)
    for name, gradient in zip(("slope", "inner", "shift", "outer"), squared, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)
    low, high = model.schedule.ends
    few, ratio = GREY * x0[:2], (0.5 * low).exp()
    ends = reconstruction(few, few + ratio * first, ratio).mean() + prior_divergence(GREY * x0, high).mean()
    whole = terms.mean() + ends / (64 * math.log(2.0))
    torch.testing.assert_close(loss, whole)
    (gradient,) = torch.autograd.grad(whole, model.schedule.ends)
    torch.testing.assert_close(found["ends"], gradient, rtol=1e-4, atol=1e-6)


def test_the_process_tells_how_far_gamma_has_risen() -> None:
    assert PROCESS.at(PROCESS.lowest).t == pytest.approx(0.0)
    assert PROCESS.at(math.exp(0.5 * -4.0)).t == pytest.approx(500.0)
    level = PROCESS.at(PROCESS.highest)
    assert level.t == pytest.approx(1000.0)
    assert level.sigma**2 == pytest.approx(1 / (1 + math.exp(-4.0)))
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1.0)
    with pytest.raises(ValueError, match="lies in"):
        PROCESS.at(1e-4)


def test_other_samplers_walk_the_levels_of_the_shipped_network() -> None:
    """Its process needs no timesteps: EDM's levels are told as shares of gamma."""
    where = {"dataset": "shapes", "device": "cpu", "precision": "float32"}
    model = edm.load(weights="shapes-vdm", steps=2, **where)
    x = model.sample(np.array([3], np.uint64), labels=np.array([2]))
    assert x.shape == (1, 3, 32, 32) and bool(torch.isfinite(x).all())
    assert model.likelihoods == {"exact"} and vdm.load(**where).likelihoods == {"exact", "bound"}
