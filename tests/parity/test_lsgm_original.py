"""LSGM against the original: its prior, its autoencoder and its walk, from files as its authors write them."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import noise
from oracles_original_layouts import Weights, mixture_mean, ncsnpp, nvae
from scipy.integrate import solve_ivp
from torch import Tensor

import baselines
from baselines.files.checkpoints import CheckpointError
from baselines.files.dialects import lsgm as dialect
from baselines.files.dialects.common import ConfigurationError
from baselines.noise import image_noise
from baselines.systems import ldm, lsgm

pytestmark = pytest.mark.parity

SEEDS = np.array([3, 8], dtype=np.uint64)
SMALL: dict[str, Any] = {
    "dataset": "celeba_8", "num_preprocess_blocks": 1, "num_postprocess_blocks": 1, "channel_mult": [1, 2],
    "arch_instance": "res_bnswish", "use_se": True, "num_channels_enc": 4, "num_channels_dec": 6,
    "num_preprocess_cells": 2, "num_postprocess_cells": 2, "num_cell_per_cond_enc": 1, "num_cell_per_cond_dec": 2,
    "num_latent_per_group": 2, "num_groups_per_scale": 3, "num_nf": 0, "dae_arch": "ncsnpp", "embedding_dim": 8,
    "embedding_scale": 2.0, "num_channels_dae": 8, "num_scales_dae": 1, "num_cell_per_scale_dae": 1, "fir": True,
    "sde_type": "vpsde", "sigma2_0": 0.0,
}  # fmt: skip
STAGE: dict[str, Any] = {
    "wide": 4, "deep": 6, "mult": (1, 2), "groups": 3, "latents": 2, "before": 2, "after": 2, "encoder": 1,
    "decoder": 2, "branch": "conv", "squeeze": True, "flows": 0, "outputs": 100,
}  # fmt: skip
PRIOR: dict[str, Any] = {
    "width": 8, "told": 8, "mult": (1,), "blocks": 1, "attention": (16,), "combine": "sum", "filtered": True,
    "progressive_input": "none", "progressive": "none", "fourier": False, "by_sigma": False, "centered": True,
}  # fmt: skip
STAGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "best FID": ({}, {}),
    "best NLL": (
        {"num_nf": 2, "num_latent_per_group": 3, "num_groups_per_scale": 2, "num_cell_per_cond_enc": 2},
        {"flows": 2, "latents": 3, "groups": 2, "encoder": 2},
    ),
    "inverted cells of two blocks": (
        {"arch_instance": "res_mbconv", "use_se": False, "num_preprocess_blocks": 2, "num_postprocess_blocks": 2,
         "channel_mult": "1 1 2", "num_postprocess_cells": 3},
        {"branch": "inverted", "squeeze": False, "mult": (1, 1, 2), "after": 3},
    ),
    "double cells, one distribution": (
        {"arch_instance": "res_bnswish2", "decoder_dist": "dl"}, {"branch": "double", "outputs": 6},
    ),
    "normal": ({"decoder_dist": "normal"}, {"outputs": 6}),
}  # fmt: skip


def drawn(draw: int, *shape: int) -> Tensor:
    return image_noise(torch.from_numpy(SEEDS.view("int64")))(draw, torch.empty(2, *shape)).double()


def prior(weights: Weights, x: Tensor, time: float | Tensor, **oracle: Any) -> Tensor:
    told = SMALL["embedding_scale"] * torch.as_tensor(time).expand(len(x))
    return ncsnpp(weights, x, told, **PRIOR | oracle)


def stage(weights: Weights, z: Tensor, **oracle: Any) -> Tensor:
    o = STAGE | oracle
    parts = z.chunk(o["groups"], dim=1)
    side = z.shape[-1] << (len(o["mult"]) - 1)
    said, _, _ = nvae(weights, torch.zeros(len(z), 3, side, side).double(), parts, given=parts, **o)
    if o["outputs"] == 100:
        return mixture_mean(said)
    return said[:, :3].clamp(-1, 1)


def written(path: Path, dae: Weights, vae: Weights, average: Weights | None = None, **more: Any) -> Path:
    """checkpoint.pt, or without an average checkpoint_fid.pt, whose prior is one."""
    content: dict[str, Any] = {
        "epoch": 3, "global_step": 9, "args": argparse.Namespace(lr=1.0), "best_score_fid": np.float64(3.0),
        "best_score_nll": torch.tensor(2.0), "dae_state_dict": dict(dae), "vae_state_dict": dict(vae), **more,
    }  # fmt: skip
    if average is not None:
        states = {i: {"step": 3, "exp_avg": value, "ema": average[name]} for i, (name, value) in enumerate(dae.items())}
        content["dae_optimizer"] = {"state": states, "param_groups": [{"params": list(states)}]}
        content["vae_optimizer"] = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": []}
    torch.save(content, path)
    return path


def made(side: int = 4, seed: int = 1, channels: int = 6) -> tuple[Weights, Weights]:
    dae, vae = Weights(seed), Weights(seed + 10)
    z = noise(2, channels, side, side).double()
    dae["mixing_logit"] = noise(1, channels, 1, 1) - 2
    prior(dae, z, 0.5)
    stage(vae, z)
    return dae, vae


@pytest.mark.parametrize("name", STAGES)
def test_the_autoencoder_is_that_of_the_original(name: str, tmp_path: Path) -> None:
    arguments, oracle = STAGES[name]
    o, weights = STAGE | oracle, Weights(1)
    side = 8 >> (len(o["mult"]) - 1)
    z = noise(2, o["groups"] * o["latents"], side, side).double()
    expected = stage(weights, z, **oracle)
    if name == "normal":
        parts = z.chunk(3, dim=1)
        said, _, _ = nvae(weights, torch.zeros(2, 3, 8, 8).double(), parts, given=parts, **o)
        expected = (5 * torch.tanh(said / 5))[:, :3].clamp(-1, 1)
    dae, _ = made()
    path = written(tmp_path / "checkpoint_fid.pt", dae, weights)
    ours = baselines.load_network(path, SMALL | arguments | {"network": "vae"}).double()
    assert float((ours.decode(z) - expected).abs().max() / expected.std()) < 1e-5
    assert ours.origin.layout == "nvae"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arguments", "oracle"),
    [
        ({}, {}),
        (
            {"num_scales_dae": 3, "fir": False, "num_cell_per_scale_dae": 2, "embedding_dim": 12},
            {"mult": (1, 1, 1), "filtered": False, "blocks": 2, "told": 12},
        ),
        (
            {"num_scales_dae": 2, "progressive": "output_skip", "progressive_input": "residual"},
            {"mult": (1, 1), "progressive": "output_skip", "progressive_input": "residual"},
        ),
    ],
)
def test_the_prior_is_that_of_the_original(arguments: dict[str, Any], oracle: dict[str, Any], tmp_path: Path) -> None:
    raw, average, (_, vae) = Weights(1), Weights(2), made()
    x, t = noise(2, 6, 4, 4).double(), torch.tensor([0.003, 0.7])
    for weights in (raw, average):
        weights["mixing_logit"] = noise(1, 6, 1, 1, seed=len(weights))
        prior(weights, x, t, **oracle)
    path = written(tmp_path / "checkpoint.pt", raw, vae, average)
    for ema, weights in (("auto", average), (False, raw)):
        ours = baselines.load_network(path, SMALL | arguments, ema=ema).double()  # type: ignore[arg-type]
        expected = prior(weights, x, t, **oracle)
        assert float((ours(x, 2.0 * t) - expected).abs().max() / expected.abs().max()) < 1e-6
        assert torch.equal(ours.mixing.float(), weights["mixing_logit"])


def authors_walk(dae: Weights, process: dict[str, Any]) -> Tensor:
    """sample_model_ode: dx / dt = f x + g^2 eps / (2 sigma), from N(0, 1) at time 1 to 1e-6, by scipy in float64."""
    x0 = drawn(0, 6, 4, 4)
    share = torch.sigmoid(dae["mixing_logit"].double())

    def slope(t: float, flat: Any) -> Any:
        x = torch.from_numpy(flat).view(x0.shape)
        if process["sde_type"] == "vpsde":
            variance = -math.expm1(-0.1 * t - 0.5 * 19.9 * t * t)
            g2 = 0.1 + 19.9 * t
        else:
            low, high = process["sigma2_min"], process["sigma2_max"]
            variance = low * (high / low) ** t
            g2 = variance * math.log(high / low) / (1 - variance)
        eps = (1 - share) * math.sqrt(variance) * x + share * prior(dae, x, t)
        return (-0.5 * g2 * x + 0.5 * g2 * eps / math.sqrt(variance)).flatten().numpy()

    found = solve_ivp(slope, (1.0, 1e-6), x0.flatten().numpy(), rtol=1e-5, atol=1e-5)
    return torch.from_numpy(found.y[:, -1]).view(x0.shape)


@pytest.mark.parametrize(
    "process",
    [
        {"sde_type": "vpsde", "sigma2_0": 0.0},
        {"sde_type": "geometric_sde", "sigma2_0": 3e-3, "sigma2_min": 3e-3, "sigma2_max": 0.99},
    ],
)
def test_samples_are_those_of_the_original(process: dict[str, Any], tmp_path: Path) -> None:
    dae, vae = made()
    (tmp_path / "args.json").write_text(json.dumps(SMALL | process), encoding="utf-8")
    files = {"weights": str(written(tmp_path / "checkpoint_fid.pt", dae, vae)), "config": str(tmp_path / "args.json")}
    where = {"dataset": "folder", "device": "cpu", "precision": "float32"}
    model = lsgm.load(**where, **files, tolerance=1e-5)
    assert model.shape == (3, 8, 8) and model.state == (6, 4, 4) and model.classes == 0
    latents = replace(model, decode=lambda weights, x: x).sample(SEEDS).double()
    expected = authors_walk(dae, process)
    assert float((latents - expected).abs().max()) < 2e-3 * float(expected.std())
    assert float((model.sample(SEEDS).double() - stage(vae, latents)).abs().max()) < 1e-3
    assert model.evaluations is not None and model.evaluations > 12


def probability(said: Tensor, images: Tensor, outputs: int) -> Tensor:
    """By differences of the logistic distribution function at the edges of a cell, in float64, nats an image."""

    def cell(value: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        scale = torch.exp(log_scale.clamp(min=-7))
        high = torch.where(value > 0.999, 1.0, torch.sigmoid((value + 1 / 255 - mean) / scale))
        low = torch.where(value < -0.999, 0.0, torch.sigmoid((value - 1 / 255 - mean) / scale))
        return torch.log((high - low).clamp(min=1e-300))

    if outputs == 6:
        return cell(images, said[:, :3], said[:, 3:]).sum((1, 2, 3))
    share, (red, green, blue) = (
        torch.log_softmax(said[:, :10], 1),
        said[:, 10:].reshape(len(said), 3, 30, 8, 8).unbind(1),
    )
    r, g, b = images.unsqueeze(2).unbind(1)
    by = torch.tanh(torch.stack([red[:, 20:], green[:, 20:], blue[:, 20:]]))
    each = cell(r, red[:, :10], red[:, 10:20])
    each = each + cell(g, green[:, :10] + by[0] * r, green[:, 10:20])
    each = each + cell(b, blue[:, :10] + by[1] * r + by[2] * g, blue[:, 10:20])
    return torch.logsumexp(share + each, 1).sum((1, 2))


@pytest.mark.parametrize("name", ["best FID", "best NLL", "double cells, one distribution"])
def test_the_encoder_is_that_of_the_original(name: str, tmp_path: Path) -> None:
    arguments, oracle = STAGES[name]
    o, weights = STAGE | oracle, Weights(5)
    images = (noise(2, 3, 8, 8, seed=4) * 90 + 128).clamp(0, 255).round().double() / 127.5 - 1
    draws = noise(2, 6, 4, 4).double()
    said, latents, density = nvae(weights, images, draws.chunk(o["groups"], dim=1), **o)
    path = written(tmp_path / "checkpoint_nll.pt", made()[0], weights)
    ours = baselines.load_network(path, SMALL | arguments | {"network": "vae"}).double()
    z, found, parameters = ours.encode(images, draws)
    expected = torch.cat(latents, dim=1)
    assert float((z - expected).abs().max() / expected.abs().max()) < 1e-5
    assert float(((found - density) / density).abs().max()) < 1e-5
    assert float((parameters - said).abs().max() / said.abs().max()) < 1e-5
    mild = noise(2, o["outputs"], 8, 8, seed=3).double()
    expected = probability(mild, images, o["outputs"])
    assert float(((ours.log_probability(mild, images) - expected) / expected).abs().max()) < 1e-9


def test_the_bound_under_a_normal_prior(tmp_path: Path) -> None:
    """With a share of nearly nothing the prior is the standard normal one, whose density is known."""
    images = (noise(2, 3, 8, 8, seed=4) * 90 + 128).clamp(0, 255).to(torch.uint8)
    x, parts = images.double() / 127.5 - 1, drawn(1, 6, 4, 4).chunk(3, dim=1)
    (dae, _), weights = made(), Weights(5)
    dae["mixing_logit"] = torch.full((1, 6, 1, 1), -30.0)
    nvae(weights, x, parts, **STAGE)
    for name in weights:
        if name.startswith(("enc_sampler", "image_conditional")) and name.endswith("log_weight_norm"):
            weights[name] -= 4.0  # else latents and pixels are far from what a trained one has
    said, latents, posterior = nvae(weights, x, parts, **STAGE)
    z = torch.cat(latents, dim=1)
    log_p = probability(said, x, 100) - posterior - (0.5 * z**2 + 0.5 * math.log(2 * math.pi)).sum((1, 2, 3))
    expected = -log_p / (3 * 8 * 8 * math.log(2))
    (tmp_path / "args.json").write_text(json.dumps(SMALL), encoding="utf-8")
    path = written(tmp_path / "checkpoint_nll.pt", dae, weights)
    files = {"weights": str(path), "config": str(tmp_path / "args.json")}
    model = lsgm.load(dataset="folder", device="cpu", precision="float32", **files)
    found = model.nll(images, SEEDS, kind="bound", tolerance=1e-3)
    assert float((found - expected).abs().max()) < 5e-3 * float(expected.abs().max())


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    dae, vae = made()
    path = written(tmp_path / "checkpoint_fid.pt", dae, vae)
    for changed, message in (
        ({"num_channels_dae": 16}, "of another shape: .*all_modules"),
        ({"num_groups_per_scale": 2}, "mixing_logit is"),
        ({"network": "vae", "num_groups_per_scale": 2}, "unexpected: .*enc_tower"),
        ({"network": "vae", "use_se": False}, r"unexpected: .*se\.se"),
        ({"network": "vae", "num_nf": 1}, "missing: .*nf_cells"),
    ):
        with pytest.raises(CheckpointError, match=message):
            baselines.load_network(path, SMALL | changed)
    del vae["prior_ftr0"]
    with pytest.raises(CheckpointError, match="1 missing: prior_ftr0"):
        baselines.load_network(written(tmp_path / "checkpoint_fid.pt", dae, vae), SMALL | {"network": "vae"})
    half = Weights()
    half.update({name: value.half() for name, value in dae.items()})
    network = baselines.load_network(written(tmp_path / "half.pt", half, vae), SMALL)
    assert {value.dtype for value in network.parameters()} == {torch.float32}
    (tmp_path / "args.json").write_text(json.dumps(SMALL), encoding="utf-8")
    files = {"weights": str(path), "config": str(tmp_path / "args.json")}
    with pytest.raises(ValueError, match="lsgm needs a prior in a mixture"):
        lsgm.load(dataset="shapes", device="cpu", precision="float32", weights="shapes-latent")
    with pytest.raises(ValueError, match=r"know no timesteps.*use lsgm"):
        ldm.load(dataset="folder", device="cpu", precision="float32", **files)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_latent_scales": 3}, "num_latent_scales=3 is not implemented, only 1"),
        ({"channel_mult": [1, 2, 2]}, "one number more than there are num_preprocess_blocks"),
        ({"dataset": "mnist"}, "dataset='mnist' is not implemented"),
        ({"decoder_dist": "bin"}, "there are dml, dl, normal"),
        ({"sde_type": "vesde"}, "there are vpsde, geometric_sde"),
        ({"sigma2_0": 0.1}, "only 0 with sde_type='vpsde'"),
        ({"embedding_type": "fourier"}, "only with 'positional'"),
        ({"num_scales_dae": 6}, "num_scales_dae=6 is not implemented for celeba_8; at most 5"),
        ({"num_latent_pro_group": 6}, "Did you mean 'num_latent_per_group'"),
    ],
)
def test_arguments_that_are_not_implemented(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        dialect.training(SMALL | changed)
        dialect.network(SMALL | changed)
