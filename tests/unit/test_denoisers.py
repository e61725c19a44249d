"""From a network's output to the clean image and the noise, and back."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import gaussian, mixture, mixture_density, normal
from torch import Tensor

from baselines.denoisers import Condition, Prediction, denoiser, from_output, rescaled, target
from baselines.schedules import EDM, Discrete, Level

MIXTURE = ((-1.0, 0.2, 1.1), 0.2, (0.3, 0.5, 0.2))


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "score"])
@pytest.mark.parametrize("tensors", [False, True])
def test_what_is_trained_is_what_is_read_back(kind: str, tensors: bool) -> None:
    x0, eps = normal(4, 3, 2, 2), normal(4, 3, 2, 2, seed=1)
    angle = torch.tensor([0.01, 0.4, 1.2, 1.56]).double().view(-1, 1, 1, 1)
    for one in angle.flatten() if not tensors else (angle,):
        alpha, sigma = one.cos(), one.sin()
        output = target(kind, x0, eps, alpha, sigma)
        scales = (alpha, sigma) if tensors else (float(alpha), float(sigma))
        found = from_output(kind, output, alpha * x0 + sigma * eps, *scales)
        assert torch.allclose(found[0], x0, rtol=0, atol=1e-11)
        assert torch.allclose(found[1], eps, rtol=0, atol=1e-11)


def test_outputs_by_their_definitions() -> None:
    x0, eps, alpha, sigma = 0.7, -1.3, 0.8, 0.6
    x = alpha * x0 + sigma * eps
    tensors = [torch.tensor([v], dtype=torch.float64) for v in (x0, eps, alpha, sigma)]
    expected = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "score": -(x - alpha * x0) / sigma**2}
    for kind, value in expected.items():
        assert target(kind, *tensors).item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "score"])
def test_a_network_of_any_kind_becomes_the_same_denoiser(kind: str) -> None:
    level, x, exact = Level(321.0, math.cos(0.9), math.sin(0.9)), normal(5, 2, 3, 3), gaussian(0.3, 0.5)
    told: list[Tensor] = []

    def network(x: Tensor, t: Tensor, *, y: Tensor) -> Tensor:
        told.extend((t, y))
        known = exact(x, level, {})
        return target(kind, known.x0, known.eps, *torch.tensor([level.alpha, level.sigma], dtype=torch.float64))

    y = torch.arange(5)
    found = denoiser(network, kind)(x, level, {"y": y})
    assert torch.allclose(found.x0, exact(x, level, {}).x0, rtol=0, atol=1e-12)
    assert torch.allclose(found.eps, exact(x, level, {}).eps, rtol=0, atol=1e-12)
    assert found.variance is None and found.gradient is None
    assert told[0].dtype == torch.float32 and told[0].tolist() == [321.0] * 5 and told[1] is y


def test_learned_variance_is_the_second_half_of_the_channels() -> None:
    level, x, output = Level(1.0, 0.8, 0.6), normal(2, 3, 2, 2), normal(2, 6, 2, 2, seed=1)
    found = denoiser(lambda x, t: output, "v", learned_variance=True)(x, level, {})
    assert found.variance is not None and torch.equal(found.variance, output[:, 3:])
    assert torch.equal(found.x0, 0.8 * x - 0.6 * output[:, :3])
    assert torch.equal(found.eps, 0.8 * output[:, :3] + 0.6 * x)


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
def test_preconditioning_of_edm(sigma: float) -> None:
    """For data of the standard deviation that the wrapper assumes the ideal network outputs 0."""
    level, x = EDM.at(sigma), normal(3, 1, 4, 4) * math.hypot(sigma, 0.5)
    found = denoiser(lambda x, t: torch.zeros_like(x), "edm", data_std=0.5)(x, level, {})
    assert torch.allclose(found.x0, gaussian(0.0, 0.5)(x, level, {}).x0, rtol=1e-12, atol=0)

    wanted, std = gaussian(0.4, 0.8)(x, level, {}), 0.5
    skip, out = std**2 / (sigma**2 + std**2), sigma * std / math.sqrt(sigma**2 + std**2)

    def network(seen: Tensor, t: Tensor) -> Tensor:
        assert torch.allclose(seen * math.sqrt(sigma**2 + std**2), x, rtol=1e-12, atol=0)
        assert t.tolist() == pytest.approx([math.log(sigma) / 4] * 3, rel=1e-6)
        return (wanted.x0 - skip * x) / out

    found = denoiser(network, "edm", data_std=std)(x, level, {})
    assert torch.allclose(found.x0, wanted.x0, rtol=1e-10, atol=1e-12)
    assert torch.allclose(found.eps, wanted.eps, rtol=1e-9, atol=1e-12)


def test_what_cannot_be_meant() -> None:
    x, level = normal(1, 1, 2, 2), Level(0.0, 0.8, 0.6)
    with pytest.raises(ValueError, match="'noise'; there are eps, x0, v, score"):
        denoiser(lambda x, t: x, "noise")(x, level, {})
    with pytest.raises(ValueError, match="'edm' to train"):
        target("edm", x, x, x, x)
    with pytest.raises(ValueError, match=r"alpha = 1, such as karras_grid; it is 0\.8"):
        denoiser(lambda x, t: x, "edm")(x, level, {})


@pytest.mark.parametrize("angle", [0.05, 0.7, 1.5])
def test_the_oracles_are_gradients_of_their_densities(angle: float) -> None:
    """eps = -sigma d/dx log p(x), with the density written out; both oracles are what the other tests rest on."""
    level = Level(0.0, math.cos(angle), math.sin(angle))
    x = torch.linspace(-2, 2, 41, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(mixture_density(x, *MIXTURE, level).log().sum(), x)
    found = mixture(*MIXTURE)(x.detach(), level, {})
    assert torch.allclose(found.eps, -level.sigma * slope, rtol=1e-10, atol=1e-12)
    one, same = mixture((0.3,), 0.5, (1.0,)), gaussian(0.3, 0.5)
    assert torch.allclose(one(x.detach(), level, {}).x0, same(x.detach(), level, {}).x0, rtol=0, atol=1e-10)


def test_every_image_may_have_a_level_of_its_own() -> None:
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    told: list[list[float]] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        told.append(t.tolist())
        return t.view(-1, 1, 1, 1) * x

    one = [Level(0.5, 0.9, 0.4), Level(2.0, 0.6, 0.8), Level(3.0, 0.1, 0.99)]
    columns = [torch.tensor(column) for column in zip(*one, strict=True)]
    together = Level(columns[0], *(column.view(-1, 1, 1, 1) for column in columns[1:]))  # type: ignore[arg-type]
    for kind in ("eps", "x0", "v", "score"):
        denoise = denoiser(network, kind)
        found = denoise(x, together, {})
        assert told[-1] == columns[0].tolist()
        for i, level in enumerate(one):
            alone = denoise(x[i : i + 1], level, {})
            assert torch.allclose(found.x0[i], alone.x0[0]) and torch.allclose(found.eps[i], alone.eps[0])


def test_a_network_of_one_process_serves_the_levels_of_another() -> None:
    """Gaussian data has one answer at every level, whatever the process."""
    process, told = Discrete(schedule="cosine"), []

    def exact(x: Tensor, p: Level, condition: Condition) -> Prediction:
        told.append(p)
        return gaussian(0.3, 0.7)(x, p, condition)

    x = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for level in (EDM.at(0.2), EDM.at(4.0), Level(-1.0, 0.5, 2.0)):
        found, expected = rescaled(exact, process)(x, level, {}), gaussian(0.3, 0.7)(x, level, {})
        assert told[-1] == process.at(level.ratio)
        assert torch.allclose(found.x0, expected.x0, rtol=1e-12) and torch.allclose(found.eps, expected.eps, rtol=1e-12)
