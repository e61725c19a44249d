"""Denoising diffusion GANs against the original: generators and chains, from files as their authors write them."""

from __future__ import annotations

import argparse
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import noise
from oracles_original_layouts import Weights, ncsnpp
from torch import Tensor

import baselines
from baselines.files.checkpoints import CheckpointError
from baselines.files.dialects.common import ConfigurationError
from baselines.noise import image_noise
from baselines.systems import ddgan, ddpm
from genbench import registry
from genbench.records import Ref

pytestmark = pytest.mark.parity

SEEDS = np.array([3, 8], dtype=np.uint64)
SMALL: dict[str, Any] = {
    "image_size": 8, "num_channels_dae": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4], "nz": 5,
    "z_emb_dim": 12, "n_mlp": 2,
}  # fmt: skip
ORACLE: dict[str, Any] = {
    "width": 8, "mult": (1, 2), "blocks": 1, "attention": (4,), "combine": "sum", "filtered": True,
    "progressive_input": "residual", "progressive": "none", "fourier": False, "by_sigma": False, "centered": True,
    "style": 12, "mapping": 2, "tanh": True,
}  # fmt: skip
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "CIFAR-10": ({}, {}),
    "three levels of two blocks": (
        {"ch_mult": "1 1 2", "num_res_blocks": 2, "n_mlp": 4, "nz": 3}, {"mult": (1, 1, 2), "blocks": 2, "mapping": 4},
    ),
    "one styled norm, without a filter and a limit": (
        {"resblock_type": "biggan_oneadagn", "fir": False, "not_use_tanh": True},
        {"styled": 1, "filtered": False, "tanh": False},
    ),
    "skips": (
        {"progressive": "output_skip", "progressive_input": "input_skip", "progressive_combine": "cat"},
        {"progressive": "output_skip", "progressive_input": "input_skip", "combine": "cat"},
    ),
}  # fmt: skip


def drawn(draw: int, *shape: int, stream: int = 0) -> Tensor:
    return image_noise(torch.from_numpy(SEEDS.view("int64")))(draw, torch.empty(2, *shape), stream=stream).double()


def made(seed: int = 1, **oracle: Any) -> Weights:
    weights = Weights(seed)
    ncsnpp(weights, noise(2, 3, 8, 8).double(), torch.zeros(2), z=torch.ones(2, 5), **ORACLE | oracle)
    return weights


def saved(path: Path, weights: Weights, prefix: str = "module.") -> Path:
    torch.save({prefix + name: value for name, value in weights.items()}, path)
    return path


@pytest.mark.parametrize("name", CASES)
def test_the_generator_is_that_of_the_original(name: str, tmp_path: Path) -> None:
    arguments, oracle = CASES[name]
    x, t = noise(2, 3, 8, 8).double(), torch.tensor([0.0, 3.0])
    z = noise(2, arguments.get("nz", 5)).double()
    weights = Weights(1)
    expected = ncsnpp(weights, x, t, z=z, **ORACLE | oracle)
    ours = baselines.load_network(saved(tmp_path / "netG_1200.pth", weights), SMALL | arguments).double()
    assert float((ours(x, t, z=z) - expected).abs().max() / expected.abs().max()) < 1e-6
    assert ours.origin.layout == "score_sde"  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="needs z"):
        ours(x, t)


def chain(weights: Weights, steps: int) -> Tensor:
    """test_ddgan.py: products of 1 - beta between equidistant times; the network is told the number of the step."""
    times = [0.001 + 0.999 * i / steps for i in range(steps + 1)]
    remaining = [math.exp(-0.5 * t**2 * 19.9 - t * 0.1) for t in times]
    kept = [after / before for before, after in pairwise(remaining)]
    products = [math.prod(kept[:i]) for i in range(steps + 1)]
    x = drawn(0, 3, 8, 8)
    for draw, i in enumerate(reversed(range(steps)), 1):
        z = drawn(draw, 5, stream=1)
        x0 = ncsnpp(weights, x, torch.full((2,), float(i)), z=z, **ORACLE)
        before, after = products[i], products[i + 1]
        mean = (1 - kept[i]) * math.sqrt(before) / (1 - after) * x0
        mean = mean + (1 - before) * math.sqrt(kept[i]) / (1 - after) * x
        variance = (1 - kept[i]) * (1 - before) / (1 - after)
        x = mean + (math.sqrt(variance) * drawn(draw, 3, 8, 8) if i else 0.0)
    return x


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_samples_are_those_of_the_original_chain(steps: int, tmp_path: Path) -> None:
    weights = made()
    (tmp_path / "ddgan.json").write_text(json.dumps(SMALL | {"num_timesteps": steps}), encoding="utf-8")
    files = {"weights": str(saved(tmp_path / "netG.pth", weights)), "config": str(tmp_path / "ddgan.json")}
    where = {"dataset": "folder", "device": "cpu", "precision": "float32"}
    model = ddgan.load(**where, **files, steps=steps)
    expected = chain(weights, steps)
    assert float((model.sample(SEEDS).double() - expected).abs().max()) < 2e-4
    assert model.evaluations == steps
    with pytest.raises(ValueError, match=rf"trained for {steps} steps; got steps=3, give steps={steps}"):
        ddgan.load(**where, **files, steps=3)
    with pytest.raises(ValueError, match="needs z"):
        ddpm.load(**where, **files, steps=1).sample(SEEDS)


def written(path: Path, raw: Weights, average: Weights | None) -> Path:
    """content.pth: an EMA optimiser holds the average beside Adam's moments, under the number of each weight."""
    states: dict[int, dict[str, Any]] = {i: {"step": 3, "exp_avg": v.clone()} for i, v in enumerate(raw.values())}
    for i, name in enumerate(raw if average else ()):
        states[i]["ema"] = average[name]  # type: ignore[index]
    content = {
        "epoch": 3, "global_step": 9, "args": argparse.Namespace(lr=1.0),
        "netG_dict": {f"module.{name}": value for name, value in raw.items()},
        "optimizerG": {"state": states, "param_groups": [{"lr": 1e-4, "params": list(states)}]},
        "netD_dict": {"module.start_conv.0.weight": torch.ones(2)}, "best": np.float64(3.0),
    }  # fmt: skip
    torch.save(content, path)
    return path


def test_the_average_of_a_file_to_resume_from(tmp_path: Path) -> None:
    raw, average = made(1), made(2)
    x, t, z = noise(2, 3, 8, 8).double(), torch.tensor([0.0, 3.0]), noise(2, 5).double()
    path = written(tmp_path / "content.pth", raw, average)
    for ema, weights in (("auto", average), (False, raw)):
        ours = baselines.load_network(path, SMALL, ema=ema).double()  # type: ignore[arg-type]
        assert float((ours(x, t, z=z) - ncsnpp(weights, x, t, z=z, **ORACLE)).abs().max()) < 1e-6
    alone = baselines.load_network(written(tmp_path / "content.pth", raw, None), SMALL).double()
    assert float((alone(x, t, z=z) - ncsnpp(raw, x, t, z=z, **ORACLE)).abs().max()) < 1e-6
    average["all_modules.0.weight"] = torch.ones(3, 3)
    with pytest.raises(CheckpointError, match=r"average in optimizerG that does not fit its weights: numbers 6 of"):
        baselines.load_network(written(tmp_path / "content.pth", raw, average), SMALL)


def test_half_precision_no_prefix_and_what_does_not_fit(tmp_path: Path) -> None:
    weights = made()
    half = Weights()
    half.update({name: value.half() for name, value in weights.items()})
    network = baselines.load_network(saved(tmp_path / "half.pth", half, prefix=""), SMALL)
    assert {value.dtype for value in network.parameters()} == {torch.float32}
    for changed, message in (
        ({"z_emb_dim": 16}, r"of another shape: .*style\.weight is"),
        ({"n_mlp": 3}, r"2 missing: z_transform\.7"),
        ({"n_mlp": 1}, r"2 unexpected: z_transform\.5"),
        ({"num_res_blocks": 2}, "missing"),
        ({"resblock_type": "biggan_oneadagn"}, r"missing: all_modules\.\d+\.GroupNorm_1\.weight"),
    ):
        with pytest.raises(CheckpointError, match=message):
            baselines.load_network(tmp_path / "half.pth", SMALL | changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ch_mult": None}, "needs the argument 'ch_mult'"),
        ({"ch_mult": "1 two"}, "ch_mult is a list of whole numbers"),
        ({"use_geometric": True}, "use_geometric=True is not implemented, only with False"),
        ({"embedding_type": "fourier"}, "only with 'positional'"),
        ({"resblock_type": "ddpm"}, "there are biggan, biggan_oneadagn"),
        ({"num_timesteps": 0}, "at least 1"),
        ({"z_emd_dim": 3}, "Did you mean 'z_emb_dim'"),
    ],
)
def test_arguments_that_are_not_implemented(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ddgan.ddgan_arguments.network(SMALL | changed)


def test_presets_are_what_the_authors_ran() -> None:
    _, cifar = registry.bind("model", Ref("ddgan", {}))
    assert cifar.args["steps"] == 4
    presets = ddgan.PRESETS
    assert presets["celebahq"].arguments == {"steps": 2} and presets["celebahq"].release.shape == (3, 256, 256)
    assert presets["cifar10"].release.parts["unet"].process.lowest == pytest.approx(0.95741643)  # type: ignore[union-attr]
