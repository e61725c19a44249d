"""NCSN, NCSNv2, NCSN++ and DDPM++ on discrete levels, and CLD, from files of their authors, on random weights.

The formulas of whole walks are those of the originals, in their own units, written here a second time.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles_original_layouts import Weights, ncsnpp, refine_net, written
from torch import Tensor

import baselines
from baselines.files.arguments import ConfigurationError, architecture, training
from baselines.files.checkpoints import CheckpointError
from baselines.noise import image_noise
from baselines.processes import VarianceExplodingDiscrete
from baselines.schedules import Discrete
from baselines.systems import cld, ncsn, score_sde

pytestmark = pytest.mark.parity

SEEDS = np.array([3, 8], dtype=np.uint64)
WHERE: dict[str, Any] = {"dataset": "folder", "device": "cpu", "precision": "float32"}
NCSNPP: dict[str, Any] = {
    "width": 8, "mult": (1, 2), "blocks": 1, "attention": (4,), "combine": "sum", "progressive": "none",
}  # fmt: skip
MODEL: dict[str, Any] = {
    "name": "ncsnpp", "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4],
    "embedding_type": "positional",
}  # fmt: skip


def noise(draw: int, side: int, stream: int = 0, channels: int = 3) -> Tensor:
    each = image_noise(torch.from_numpy(SEEDS.view("int64")))
    return each(draw, torch.empty(2, channels, side, side), stream).double()


def config(path: Path, arguments: dict[str, Any]) -> str:
    path.write_text(json.dumps(arguments), encoding="utf-8")
    return str(path)


def close(found: Tensor, expected: Tensor, within: float = 2e-4) -> None:
    assert float((found.double() - expected).abs().max() / expected.abs().max()) < within


# --- NCSN and NCSNv2 ------------------------------------------------------------------------------------------------

STAGES = {"CIFAR10": ["1", "2", "3", "4"], "LSUN": ["1", "2", "3", "4", "5"], "FFHQ": ["1", "2", "3", "31", "4", "5"]}


def of_second(data: str, **model: Any) -> dict[str, Any]:
    return {
        "data": {"dataset": data, "image_size": 8, "channels": 3, "logit_transform": False, "rescaled": False},
        "model": {
            "sigma_begin": 20, "sigma_end": 0.01, "num_classes": 7, "sigma_dist": "geometric", "ngf": 8, "ema": True,
            "normalization": "InstanceNorm++", "nonlinearity": "elu", "spec_norm": False, **model,
        },
    }  # fmt: skip


FIRST = {
    "data": {"dataset": "CIFAR10", "image_size": 8, "channels": 3, "logit_transform": False},
    "model": {"sigma_begin": 1, "sigma_end": 0.01, "num_classes": 4, "batch_norm": False, "ngf": 8},
}


def listed(path: Path, raw: Weights, average: Weights | None, prefix: str = "module.") -> Path:
    """A file of ermongroup: states of DataParallel and the optimiser, and the average without a prefix."""
    content: list[Any] = [{f"{prefix}{name}": value for name, value in raw.items()}, {"state": {}, "param_groups": []}]
    if average is not None:
        content[0][f"{prefix}sigmas"] = torch.linspace(20, 0.01, 7)
        content += [3, 4, dict(average)]
    torch.save(content, path)
    return path


@pytest.mark.parametrize("data", STAGES)
def test_networks_of_ncsnv2(data: str, tmp_path: Path) -> None:
    """Three depths, chosen by the data set; the average where a file holds one."""
    x = 0.5 * noise(0, 16) + 0.5
    raw, average = Weights(1), Weights(2)
    told: dict[str, Any] = {"width": 8, "levels": None, "names": STAGES[data]}
    expected = {False: refine_net(raw, x, **told), "auto": refine_net(average, x, **told)}
    path = listed(tmp_path / "checkpoint_5.pth", raw, average)
    for ema, known in expected.items():
        ours = baselines.load_network(path, of_second(data), ema=ema).double()  # type: ignore[arg-type]
        close(ours(2 * x - 1, torch.zeros(2)), known, 1e-9)
    assert ours.origin.layout == "ncsn"  # type: ignore[union-attr]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_network_of_ncsn(prefix: str, tmp_path: Path) -> None:
    """Norms that know the level; the score of images in [0, 1] is twice that of the same images in [-1, 1]."""
    x, weights, y = 0.5 * noise(0, 16) + 0.5, Weights(1), torch.tensor([3, 1])
    expected = refine_net(weights, x, y, width=8, levels=4, names=STAGES["CIFAR10"])
    ours = baselines.load_network(listed(tmp_path / "checkpoint.pth", weights, None, prefix), FIRST).double()
    close(2 * ours(2 * x - 1, y.double()), expected, 1e-9)
    close(2 * ours(2 * x - 1, y + torch.tensor([-0.3, 0.4])), expected, 1e-9)  # the nearest level


@pytest.mark.parametrize("version", [1, 2])
def test_annealed_langevin_dynamics_of_the_originals(version: int, tmp_path: Path) -> None:
    """In their units: images in [0, 1], from uniform noise, down the levels of the file."""
    weights, count, lr = Weights(1), 2, 3e-5
    arguments, levels, high = (FIRST, 4, 1.0) if version == 1 else (of_second("CIFAR10"), 7, 20.0)
    told: dict[str, Any] = {"width": 8, "levels": 4 if version == 1 else None, "names": STAGES["CIFAR10"]}
    refine_net(weights, noise(0, 8), torch.zeros(2, dtype=torch.int64), **told)
    sigmas = [high * (0.01 / high) ** (i / (levels - 1)) for i in range(levels)]

    def score(x: Tensor, i: int) -> Tensor:
        output = refine_net(weights, x, torch.full((2,), i), **told)
        return output if version == 1 else output / sigmas[i]

    x = torch.special.ndtr(noise(0, 8))
    for i, sigma in enumerate(sigmas):
        size = lr * (sigma / sigmas[-1]) ** 2
        for k in range(count):
            x = x + size * score(x, i) + math.sqrt(2 * size) * noise(i + 1, 8, k)
    if version == 2:
        x = x + sigmas[-1] ** 2 * score(x, levels - 1)
    path = listed(tmp_path / "checkpoint.pth", weights, weights if version == 2 else None)
    asked = {"weights": str(path), "config": config(tmp_path / "ncsn.json", arguments)}
    model = ncsn.load(**WHERE, **asked, version=version, count=count, rate=4 * lr)
    close(model.sample(SEEDS), 2 * x - 1, 1e-3)
    assert model.evaluations == count * levels + (version == 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (of_second("CIFAR10", spec_norm=True), "spec_norm=True is not implemented, only with False"),
        (of_second("CIFAR10", sigma_dist="uniform"), "sigma_dist='uniform' is not implemented"),
        (of_second("CIFAR10", normalization="BatchNorm"), "normalization='BatchNorm' is not implemented"),
        ({**FIRST, "data": {"logit_transform": True}}, "logit_transform=True is not implemented"),
    ],
)
def test_what_is_not_implemented_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        architecture(arguments)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    weights = Weights(1)
    refine_net(weights, noise(0, 8), width=8, levels=None, names=STAGES["CIFAR10"])
    path = listed(tmp_path / "checkpoint.pth", weights, weights)
    for arguments, message in (
        (of_second("LSUN"), r"missing: .*res5\.0"),
        (of_second("CIFAR10", ngf=4), r"begin_conv\.weight is \(8, 3, 3, 3\), needed for \(4, 3, 3, 3\)"),
        (FIRST, r"missing: .*normalize1\.embed\.weight"),
    ):
        with pytest.raises(CheckpointError, match=message):
            baselines.load_network(path, arguments)


# --- NCSN++ and DDPM++ on discrete levels ---------------------------------------------------------------------------


def test_ncsnpp_on_discrete_levels(tmp_path: Path) -> None:
    """Told the number of a level, 0 for the highest; reverse diffusion over all seven levels, in [0, 1]."""
    oracle = NCSNPP | {
        "filtered": True, "progressive_input": "residual", "fourier": False, "by_sigma": False, "centered": False,
    }  # fmt: skip
    weights = Weights(1)
    ncsnpp(weights, noise(0, 8), torch.ones(2), **oracle)
    arguments = {
        "model": MODEL | {"progressive_input": "residual", "sigma_max": 7.0, "num_scales": 7},
        "data": {"image_size": 8, "centered": False},
        "training": {"sde": "vesde", "continuous": False},
    }
    told = training(arguments)
    assert told is not None and told.process == VarianceExplodingDiscrete(low=0.02, high=14.0, steps=7)
    sigmas = [0.01 * 700.0 ** (1 - i / 6) for i in range(7)]
    assert [told.process.at(2 * sigma).t for sigma in sigmas] == pytest.approx(range(7), abs=1e-9)
    with pytest.raises(ValueError, match=r"lies in \[0\.02, 14\]; got 15"):
        told.process.at(15.0)
    x = sigmas[0] * noise(0, 8) + 0.5
    for i, sigma in enumerate(sigmas):
        score = ncsnpp(weights, x, torch.full((2,), float(i)), **oracle) / sigma
        last = i + 1 == len(sigmas)
        beta = sigma**2 - (0.0 if last else sigmas[i + 1] ** 2)
        x = x + beta * score + (0.0 if last else math.sqrt(beta) * noise(i + 1, 8))
    asked = {
        "weights": str(written(tmp_path / "checkpoint.pth", weights)),
        "config": config(tmp_path / "ve.json", arguments),
    }
    model = score_sde.load(**WHERE, **asked, steps=7, sampler="reverse-diffusion")
    close(model.sample(SEEDS), 2.0 * x - 1.0, 1e-3)


def test_ddpmpp_on_discrete_levels(tmp_path: Path) -> None:
    """Ancestral sampling over the chain that the network was trained on, not over the limit of it."""
    oracle = NCSNPP | {
        "filtered": False, "progressive_input": "none", "fourier": False, "by_sigma": False, "centered": True,
    }  # fmt: skip
    weights, steps = Weights(1), 40
    ncsnpp(weights, noise(0, 8), torch.ones(2), **oracle)
    arguments = {
        "model": MODEL | {"fir": False, "scale_by_sigma": False, "num_scales": steps},
        "data": {"image_size": 8, "centered": True},
        "training": {"sde": "vpsde", "continuous": False},
    }
    told = training(arguments)
    assert told is not None and told.process == Discrete(steps=steps, low=0.1 / steps, high=20 / steps)
    beta = np.linspace(0.1 / steps, 20 / steps, steps)
    remaining = np.cumprod(1 - beta)
    x = noise(0, 8) * math.sqrt(1 - remaining[-1])
    for i in reversed(range(steps)):
        score = -ncsnpp(weights, x, torch.full((2,), float(i)), **oracle) / math.sqrt(1 - remaining[i])
        x = (x + beta[i] * score) / math.sqrt(1 - beta[i])
        x = x + (math.sqrt(beta[i]) * noise(steps - i, 8) if i else 0.0)
    asked = {
        "weights": str(written(tmp_path / "checkpoint.pth", weights)),
        "config": config(tmp_path / "vp.json", arguments),
    }
    model = score_sde.load(**WHERE, **asked, steps=steps, process="vp", sampler="ancestral")
    close(model.sample(SEEDS), x, 1e-3)


# --- CLD ------------------------------------------------------------------------------------------------------------

FLAGS: dict[str, Any] = {
    "sde": "cld", "name": "ncsnpp", "image_size": 8, "center_image": "true", "image_channels": 3, "n_channels": 8,
    "ch_mult": "1,2", "n_resblocks": 1, "attn_resolutions": "4", "mixed_score": "true", "use_fir": "true",
    "fir_kernel": "1,3,3,1", "learning_rate": 2e-4, "cld_objective": "hsm",
}  # fmt: skip
CLD_NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "of CIFAR-10": ({"embedding_type": "fourier", "progressive_input": "residual"}, {
        "filtered": True, "progressive_input": "residual", "fourier": True,
    }),
    "of CelebA-HQ, after the paper": (
        {"embedding_type": "positional", "progressive_input": "none", "use_fir": False, "beta0": 0.1, "beta1": 6.9,
         "numerical_eps": 1e-6, "m_inv": 2.5, "gamma": 0.1},
        {"filtered": False, "progressive_input": "none", "fourier": False},
    ),
}  # fmt: skip


class Original:
    """The score of CLD and its reverse equation: `sde_lib.py`, `models/utils.py:get_score_fn` with mixed score."""

    def __init__(self, weights: Weights, flags: dict[str, Any], oracle: dict[str, Any]) -> None:
        self.weights, self.oracle = weights, NCSNPP | {"by_sigma": False, "centered": True, "outputs": 3} | oracle
        self.beta0, self.beta1 = flags.get("beta0", 4.0), flags.get("beta1", 0.0)
        self.m_inv, self.gamma = flags.get("m_inv", 4.0), flags.get("gamma", 0.04)
        self.eps = flags.get("numerical_eps", 1e-9)
        self.f = 2 / math.sqrt(self.m_inv)
        self.g = 1 / self.f

    def beta(self, t: float) -> float:
        return self.beta0 + self.beta1 * t

    def integral(self, t: float) -> float:
        return self.beta0 * t + 0.5 * self.beta1 * t**2

    def variance(self, t: float) -> tuple[float, float, float]:
        """Of the kernel of hybrid score matching."""
        b, g, f, v0 = self.integral(t), self.g, self.f, self.gamma / self.m_inv
        c = math.exp(-4 * b * g)
        xx = 1 / c - 1 - 4 * b * g - 8 * b**2 * g**2 + 16 * g**4 * b**2 * v0
        xv = 4 * g**2 * b * v0 + 4 * g * b**2 - 8 * g**3 * b**2 * v0
        vv = f**2 * (1 / c - 1) / 4 + f * b - 4 * g * b * v0 + 4 * g**2 * b**2 * v0 + v0 - 2 * b**2
        return xx * c + self.eps, xv * c, vv * c + self.eps

    def score(self, u: Tensor, t: float) -> Tensor:
        output = ncsnpp(self.weights, u, torch.full((len(u),), t), **self.oracle)
        xx, xv, vv = self.variance(t)
        return -u[:, 3:] / vv - math.sqrt(xx / (xx * vv - xv**2)) * output

    def euler(self, u: Tensor, t: float, dt: float, z: Tensor | None) -> Tensor:
        x, v = u.chunk(2, dim=1)
        s, beta = self.score(u, t), self.beta(t)
        moved = v + dt * beta * (x + self.f * self.m_inv * v + 2 * self.f * s)
        moved = moved if z is None else moved + math.sqrt(2 * self.f * beta * dt) * z
        return torch.cat([x - dt * self.m_inv * beta * v, moved], dim=1)

    def analytical(self, u: Tensor, late: float, early: float, z: Tensor) -> Tensor:
        b, g, f = self.integral(early) - self.integral(late), self.g, self.f
        x, v = u.chunk(2, dim=1)
        c, c2 = math.exp(2 * g * b), math.exp(4 * g * b)
        mean = [c * ((1 - 2 * g * b) * x + 4 * g**2 * b * v), c * (-b * x + (1 + 2 * g * b) * v)]
        xx = c2 * (1 / c2 - 1 + 4 * g * b - 8 * g**2 * b**2)
        xv = -c2 * 4 * g * b**2
        vv = c2 * (f**2 * (1 / c2 - 1) / 4 - f * b - 2 * b**2)
        l11 = math.sqrt(xx)
        l21 = xv / l11
        zx, zv = z.chunk(2, dim=1)
        return torch.cat([mean[0] + l11 * zx, mean[1] + l21 * zx + math.sqrt(vv - l21**2) * zv], dim=1)


def cld_times(steps: int, power: int) -> list[float]:
    return [1e-3 + (1 - 1e-3) * ((steps - 1 - i) / (steps - 1)) ** power for i in range(steps)]


@pytest.mark.parametrize("name", CLD_NETWORKS)
@pytest.mark.parametrize("sampler", ["sscs", "euler-maruyama"])
def test_cld(name: str, sampler: str, tmp_path: Path) -> None:
    """The average of a file of the authors, told the time, walked as `sampling.py` does."""
    flags, oracle = CLD_NETWORKS[name]
    raw, average = Weights(1), Weights(2)
    for each in (raw, average):
        original = Original(each, flags, oracle)
        original.score(noise(0, 8, channels=6), 0.5)
    for frequencies in (key for key in raw if key.endswith("all_modules.0.W")):
        average[frequencies] = raw[frequencies]
    times = cld_times(4, 2)
    u = noise(0, 8, channels=6) * torch.tensor([1.0] * 3 + [original.m_inv**-0.5] * 3).view(1, 6, 1, 1)
    for i, (t, s) in enumerate(pairwise(times)):
        if sampler == "sscs":
            u = original.analytical(u, t, 0.5 * (t + s), noise(i + 1, 8, channels=6))
            x, v = u.chunk(2, dim=1)
            v = v + 2 * original.f * (original.score(u, t) + original.m_inv * v) * original.beta(t) * (t - s)
            u = original.analytical(torch.cat([x, v], 1), 0.5 * (t + s), s, noise(i + 1, 8, 1, channels=6))
        else:
            u = original.euler(u, t, t - s, noise(i + 1, 8))
    u = original.euler(u, times[-1], times[-1], None)
    path = written(tmp_path / "checkpoint_800000.pth", raw, average)
    asked = {"weights": str(path), "config": config(tmp_path / "cld.json", FLAGS | flags)}
    model = cld.load(**WHERE, **asked, sampler=sampler, steps=4)
    close(model.sample(SEEDS), u[:, :3], 2e-3)
    assert (model.shape, model.evaluations) == ((3, 8, 8), 4)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sde": "vpsde"}, "sde='vpsde' is not implemented, only with 'cld'"),
        ({"mixed_score": "false"}, "mixed_score=False is not implemented, only with True"),
        ({"resblock_type": "ddpm"}, "resblock_type='ddpm' is not implemented"),
        ({"progressive": "residual"}, "progressive='residual' is not implemented; there are none, output_skip"),
        ({"beta0": 0.0}, "beta0=0.0, .* make no process"),
        ({"n_resblock": 2}, "no argument 'n_resblock'. Did you mean 'n_resblocks'"),
    ],
)
def test_flags_of_cld_that_are_not_implemented_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        training(FLAGS | changed)
