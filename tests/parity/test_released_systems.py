"""Whole systems on files in the layouts of their authors, on random weights: what is loaded, told, scaled and sampled.

The formulas are those of the originals, in their own units, written here a second time.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles_original_layouts import Weights, guided_unet, ncsnpp, written
from torch import Tensor

from baselines.noise import image_noise
from baselines.systems import consistency, dpm_solver, edm, score_sde

pytestmark = pytest.mark.parity

SEEDS = np.array([3, 8], dtype=np.uint64)
WHERE: dict[str, Any] = {"dataset": "folder", "device": "cpu", "precision": "float32"}
FLAGS = {
    "image_size": 32, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2", "attention_resolutions": "16",
    "num_head_channels": 16, "resblock_updown": True, "weight_schedule": "uniform", "use_scale_shift_norm": False,
}  # fmt: skip
GUIDED: dict[str, Any] = {
    "width": 32, "out_channels": 3, "mult": (1, 2), "blocks": 1, "attention": (2,), "head_channels": 16,
    "new_order": True, "updown": True,
}  # fmt: skip
NCSNPP: dict[str, Any] = {
    "width": 8, "mult": (1, 2), "blocks": 1, "attention": (4,), "combine": "sum", "progressive": "none",
}  # fmt: skip


def noise(draw: int, side: int) -> Tensor:
    return image_noise(torch.from_numpy(SEEDS.view("int64")))(draw, torch.empty(2, 3, side, side)).double()


def config(path: Path, arguments: dict[str, Any]) -> str:
    path.write_text(json.dumps(arguments), encoding="utf-8")
    return str(path)


def close(found: Tensor, expected: Tensor) -> None:
    assert float((found.double() - expected).abs().max() / expected.abs().max()) < 2e-4


def consistency_function(weights: Weights, x: Tensor, sigma: float, low: float = 0.002, std: float = 0.5) -> Tensor:
    """openai/consistency_models `karras_diffusion.py:denoise` with distillation=True, clipped as its samplers do."""
    told = torch.full((len(x),), 1000 * 0.25 * math.log(sigma + 1e-44))
    [output] = guided_unet(weights, x / math.sqrt(sigma**2 + std**2), told, **GUIDED)
    skip = std**2 / ((sigma - low) ** 2 + std**2)
    out = (sigma - low) * std / math.sqrt(sigma**2 + std**2)
    return (skip * x + out * output).clamp(-1, 1)


def test_consistency_models(tmp_path: Path) -> None:
    weights = Weights(1)
    first = consistency_function(weights, 80.0 * noise(0, 32), 80.0)
    torch.save(dict(weights), tmp_path / "cd.pt")
    arguments = config(tmp_path / "cd.json", FLAGS)
    asked = {"weights": str(tmp_path / "cd.pt"), "config": arguments}
    close(consistency.load(**WHERE, **asked, via="").sample(SEEDS), first)
    raised = first + math.sqrt(1.5**2 - 0.002**2) * noise(1, 32)
    two = consistency.load(**WHERE, **asked, via="1.5")
    close(two.sample(SEEDS), consistency_function(weights, raised, 1.5))
    assert two.evaluations == 2
    # The teachers are EDM's networks in the same layout: D = c_skip x + c_out F.
    grid = [80.0, (0.5 * (80 ** (1 / 7) + 0.002 ** (1 / 7))) ** 7, 0.002]

    def believed(x: Tensor, sigma: float) -> Tensor:
        told = torch.full((len(x),), 250 * math.log(sigma))
        [output] = guided_unet(weights, x / math.sqrt(sigma**2 + 0.25), told, **GUIDED)
        return 0.25 / (sigma**2 + 0.25) * x + 0.5 * sigma / math.sqrt(sigma**2 + 0.25) * output

    x = 80.0 * noise(0, 32)
    for sigma, following in zip(grid, [*grid[1:], 0.0], strict=True):
        slope = (x - believed(x, sigma)) / sigma
        there = x + (following - sigma) * slope
        if following:
            there = x + (following - sigma) * 0.5 * (slope + (there - believed(there, following)) / following)
        x = there
    close(edm.load(**WHERE, **asked, steps=3, clip=False).sample(SEEDS), x)


@pytest.fixture
def exploding(tmp_path: Path) -> tuple[Weights, dict[str, Any], dict[str, str]]:
    """NCSN++ on images in [0, 1], as a file of score_sde."""
    oracle = NCSNPP | {
        "filtered": True, "progressive_input": "residual", "fourier": True, "by_sigma": True, "centered": False,
    }  # fmt: skip
    weights = Weights(1)
    ncsnpp(weights, noise(0, 8), torch.ones(2), **oracle)
    arguments = {
        "model": {
            "name": "ncsnpp", "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4],
            "progressive_input": "residual", "sigma_max": 7.0,
        },
        "data": {"image_size": 8, "centered": False},
        "training": {"sde": "vesde", "continuous": True},
    }  # fmt: skip
    files = {
        "weights": str(written(tmp_path / "checkpoint.pth", weights)),
        "config": config(tmp_path / "ve.json", arguments),
    }
    return weights, oracle, files


def test_score_sde_where_variance_explodes(exploding: tuple[Weights, dict[str, Any], dict[str, str]]) -> None:
    """Reverse diffusion from time 1 to 1e-5 in the units of the original: images in [0, 1], sigma 0.01 to 7."""
    weights, oracle, files = exploding
    levels = [0.01 * 700.0**t for t in (1.0, 0.5 * (1 + 1e-5), 1e-5)]
    x = levels[0] * noise(0, 8) + 0.5  # the start here is around grey, which 7 sigma of noise hide
    for i, sigma in enumerate(levels):
        score = ncsnpp(weights, x, torch.full((2,), sigma), **oracle)
        last = i + 1 == len(levels)
        beta = sigma**2 - (0.0 if last else levels[i + 1] ** 2)
        x = x + beta * score + (0.0 if last else math.sqrt(beta) * noise(i + 1, 8))
    model = score_sde.load(**WHERE, **files, steps=3, sampler="reverse-diffusion")
    close(model.sample(SEEDS), 2.0 * x - 1.0)
    assert model.classes == 0 and model.evaluations == 3


def test_a_score_network_serves_other_samplers(exploding: tuple[Weights, dict[str, Any], dict[str, str]]) -> None:
    """DPM-Solver of one step is Euler's: from sigma 14, the highest of images in [-1, 1], to the clean image."""
    weights, oracle, files = exploding
    x = 14.0 * noise(0, 8)
    believed = x + 14.0**2 * 0.5 * ncsnpp(weights, 0.5 * (x + 1), torch.full((2,), 7.0), **oracle)
    close(dpm_solver.load(**WHERE, **files, steps=1).sample(SEEDS), believed.clamp(-1, 1))
    with pytest.raises(ValueError, match="know no timesteps"):
        dpm_solver.load(**WHERE, **files, steps=1, spacing="time").sample(SEEDS)


def test_score_sde_where_variance_is_preserved(tmp_path: Path) -> None:
    """Euler-Maruyama of DDPM++, told 999 t, with steps of 1 / N on a grid from 1 to 1e-3."""
    oracle = NCSNPP | {
        "filtered": False, "progressive_input": "none", "fourier": False, "by_sigma": False, "centered": True,
    }  # fmt: skip
    weights = Weights(1)
    ncsnpp(weights, noise(0, 8), torch.ones(2), **oracle)
    arguments = {
        "model": {
            "name": "ncsnpp", "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4], "fir": False,
            "embedding_type": "positional", "scale_by_sigma": False,
        },
        "data": {"image_size": 8, "centered": True},
        "training": {"sde": "vpsde", "continuous": True},
    }  # fmt: skip
    path, steps = written(tmp_path / "checkpoint.pth", weights), 3
    x = noise(0, 8) * math.sqrt(-math.expm1(-10.05))
    for i, t in enumerate(np.linspace(1.0, 1e-3, steps)):
        beta, total = 0.1 + 19.9 * t, 0.1 * t + 9.95 * t**2
        told = torch.full((2,), 999.0 * t)
        score = -ncsnpp(weights, x, told, **oracle) / math.sqrt(-math.expm1(-total))
        x = x + (0.5 * beta * x + beta * score) / steps
        x = x + (0.0 if i + 1 == steps else math.sqrt(beta / steps) * noise(i + 1, 8))
    asked = {"weights": str(path), "config": config(tmp_path / "vp.json", arguments)}
    model = score_sde.load(**WHERE, **asked, process="vp", sampler="euler-maruyama", steps=steps)
    close(model.sample(SEEDS), x)
