"""Loader and networks against the original networks, in the original names, on random weights.

`oracles_original_layouts` states the originals a second time. The networks run in float64, so that only the
float32 angles of the timestep embedding are rounded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import noise
from oracles_original_layouts import (
    Weights,
    bert_embedder,
    ddpm_unet,
    first_stage_decode,
    first_stage_encode,
    guided_classifier,
    guided_unet,
)
from torch import Tensor

import baselines
from baselines.networks.autoencoder import AutoencoderKL, AutoencoderVQ, posterior

pytestmark = pytest.mark.parity

T = torch.tensor([3.0, 612.5])


def relative(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def load(weights: dict[str, Tensor], config: Any, tmp_path: Path, **options: Any) -> torch.nn.Module:
    torch.save(dict(weights), tmp_path / "net.pt")
    return baselines.load_network(tmp_path / "net.pt", config, **options).double()


SMALL = {
    "image_size": 64,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "32",
}
SMALL_ORACLE = {"width": 32, "blocks": 1, "mult": (1, 2), "attention": (2,)}
GUIDED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ADM, heads first": (
        {"resblock_updown": True, "use_scale_shift_norm": True, "class_cond": True, "learn_sigma": True,
         "num_heads": 4},
        {"updown": True, "scale_shift": True, "classes": 1000, "out_channels": 6, "heads": 4},
    ),
    "ADM 64, qkv first, head channels": (
        {"resblock_updown": True, "class_cond": True, "learn_sigma": True, "num_head_channels": 16,
         "use_new_attention_order": True, "num_heads_upsample": 2},
        {"updown": True, "scale_shift": True, "classes": 1000, "out_channels": 6, "head_channels": 16,
         "new_order": True},
    ),
    "improved diffusion on LSUN": (
        {"use_scale_shift_norm": False, "num_heads": 1}, {"out_channels": 3, "heads": 1},
    ),
    "heads of the decoder": (
        {"num_heads": 2, "num_heads_upsample": 8}, {"out_channels": 3, "scale_shift": True, "heads": 2, "heads_up": 8},
    ),
    "arguments as texts": (
        {"num_res_blocks": "2", "resblock_updown": "False", "use_scale_shift_norm": "True", "num_heads": "4"},
        {"out_channels": 3, "scale_shift": True, "heads": 4, "blocks": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GUIDED)
def test_guided_diffusion(name: str, tmp_path: Path) -> None:
    arguments, oracle = GUIDED[name]
    x, y = noise(2, 3, 16, 16), torch.tensor([0, 999]) if "classes" in oracle else None
    weights = Weights()
    [expected] = guided_unet(weights, x, T, y=y, **(SMALL_ORACLE | oracle))
    network = load(weights, SMALL | arguments, tmp_path)
    assert relative(network(x.double(), T, y), expected) < 1e-6


@pytest.mark.parametrize(
    ("size", "mult"),
    [
        (512, (0.5, 1, 1, 2, 2, 4, 4)),
        (256, (1, 1, 2, 2, 4, 4)),
        (128, (1, 1, 2, 3, 4)),
        (64, (1, 2, 3, 4)),
        (32, (1, 2, 2, 2)),
    ],
)
def test_guided_diffusion_default_multipliers_and_resolutions(
    size: int, mult: tuple[float, ...], tmp_path: Path
) -> None:
    # Missing arguments have the defaults of model_and_diffusion_defaults: 4 heads, attention at 16 and 8, scale-shift.
    x = noise(1, 3, 64 if size >= 256 else 32, 64 if size >= 256 else 32)
    width = 64 if size == 512 else 32
    weights = Weights()
    [expected] = guided_unet(
        weights,
        x,
        T[:1],
        width=width,
        blocks=1,
        mult=mult,
        attention=(size // 16, size // 8),
        heads=4,
        scale_shift=True,
        out_channels=3,
    )
    network = load(weights, {"image_size": size, "num_channels": width, "num_res_blocks": 1}, tmp_path)
    assert relative(network(x.double(), T[:1]), expected) < 1e-6


def test_adm_upsampler(tmp_path: Path) -> None:
    x, low, y = noise(2, 3, 16, 16), noise(2, 3, 4, 4, seed=8), torch.tensor([5, 6])
    weights = Weights()
    [expected] = guided_unet(
        weights,
        x,
        T,
        width=32,
        blocks=1,
        mult=(1, 2, 3, 4),
        attention=(4, 8),
        heads=4,
        scale_shift=True,
        updown=True,
        classes=1000,
        y=y,
        low_res=low,
        out_channels=6,
    )
    arguments = {
        "large_size": 64, "small_size": 16, "num_channels": 32, "num_res_blocks": 1, "resblock_updown": True,
        "class_cond": True, "learn_sigma": True,
    }  # fmt: skip
    network = load(weights, arguments, tmp_path)
    assert relative(network(x.double(), T, y, low_res=low.double()), expected) < 1e-6


@pytest.mark.parametrize(
    ("pool", "updown"),
    [("attention", True), ("attention", False), ("adaptive", False), ("spatial", True), ("spatial_v2", True)],
)
def test_adm_classifier(pool: str, updown: bool, tmp_path: Path) -> None:
    # The sampling script passes the arguments of both networks at once; the file says which of them is meant.
    x = noise(1, 3, 64, 64)
    weights = Weights()
    expected = guided_classifier(
        weights,
        x,
        T[:1],
        classes=1000,
        pool=pool,
        width=64,
        blocks=1,
        mult=(1, 2, 3, 4),
        attention=(2, 4, 8),
        head_channels=64,
        scale_shift=updown,
        updown=updown,
    )
    own = {
        "image_size": 64, "classifier_width": 64, "classifier_depth": 1, "classifier_pool": pool,
        "classifier_resblock_updown": updown, "classifier_use_scale_shift_norm": updown,
    }  # fmt: skip
    network = load(weights, own, tmp_path)
    assert relative(network(x.double(), T[:1]), expected) < 1e-6
    both = own | {"num_channels": 192, "class_cond": True, "use_new_attention_order": True}
    for name, value in load(weights, both, tmp_path).state_dict().items():
        assert torch.equal(value, network.state_dict()[name])


LDM = {
    "image_size": 16, "in_channels": 4, "out_channels": 4, "model_channels": 32, "attention_resolutions": [2, 1],
    "num_res_blocks": 1, "channel_mult": [1, 2],
}  # fmt: skip
LATENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "head channels, plain attention": ({"num_head_channels": 16}, {"head_channels": 16}),
    "churches": (
        {"num_heads": 8, "use_scale_shift_norm": True, "resblock_updown": True},
        {"heads": 8, "scale_shift": True, "updown": True},
    ),
    "heads of the decoder": ({"num_heads": 4, "num_heads_upsample": 2}, {"heads": 4, "heads_up": 2}),
    "heads of the decoder without effect": ({"num_heads": 4, "num_heads_upsample": 2, "legacy": False}, {"heads": 4}),
    "resolution without weights": ({"num_heads": 4, "conv_resample": False}, {"heads": 4, "convolutions": False}),
    "one head, context": ({"num_heads": 1, "use_spatial_transformer": True, "context_dim": 24}, {"heads": 1}),
    "head channels, context, two deep": (
        {"num_head_channels": 16, "use_spatial_transformer": True, "context_dim": 24, "transformer_depth": 2},
        {"head_channels": 16, "depth": 2},
    ),
    "text to image": (
        {"num_heads": 8, "use_spatial_transformer": True, "context_dim": 24, "legacy": False, "use_checkpoint": True},
        {"heads": 8},
    ),
    "heads that do not divide the channels": (
        {"num_heads": 3, "use_spatial_transformer": True, "context_dim": 24, "num_classes": 5},
        {"heads": 3, "classes": 5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LATENT)
def test_latent_diffusion_unet(name: str, tmp_path: Path) -> None:
    arguments, oracle = LATENT[name]
    x = noise(2, 4, 16, 16)
    context = noise(2, 5, 24, seed=9) if "context_dim" in arguments else None
    y = torch.tensor([1, 4]) if "classes" in oracle else None
    weights = Weights()
    [expected] = guided_unet(
        weights, x, T, width=32, blocks=1, mult=(1, 2), attention=(1, 2), out_channels=4, context=context, y=y, **oracle
    )
    network = load(weights, LDM | arguments, tmp_path)
    output = network(x.double(), T, y, None if context is None else context.double())
    assert relative(output, expected) < 1e-6


LEVELS = {"ch": 32, "mult": (1, 2), "blocks": 1, "attention": (16,), "resolution": 16}
DDCONFIG = {
    "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1,
    "attn_resolutions": [16], "dropout": 0.0,
}  # fmt: skip


@pytest.mark.parametrize("attends", [True, False])
def test_latent_diffusion_kl_autoencoder(attends: bool, tmp_path: Path) -> None:
    x, z = noise(2, 3, 16, 16), noise(2, 3, 8, 8, seed=8)
    weights = Weights()
    levels = LEVELS | {"attends": attends}
    moments = first_stage_encode(weights, x, z_channels=4, embed_dim=3, double=True, **levels)
    image = first_stage_decode(weights, z, z_channels=4, **levels)
    weights["loss.logvar"] = torch.zeros(())  # a discriminator is trained beside it and saved with it
    arguments = {
        "embed_dim": 3,
        "ddconfig": DDCONFIG | {"double_z": True},
        "lossconfig": {"target": "torch.nn.Identity"},
    }
    if not attends:
        arguments["ddconfig"] = arguments["ddconfig"] | {"attn_type": "none"}  # type: ignore[operator]
    network = load({"state_dict": dict(weights)}, arguments, tmp_path)  # type: ignore[dict-item]
    assert isinstance(network, AutoencoderKL)
    assert relative(network.encode(x.double()), moments) < 1e-9
    assert relative(network.decode(z.double()), image) < 1e-9
    assert torch.equal(posterior(moments)[0], moments[:, :3])


def test_latent_diffusion_vq_autoencoder(tmp_path: Path) -> None:
    x, z = noise(2, 3, 16, 16), noise(2, 3, 8, 8, seed=8)
    weights = Weights()
    latent = first_stage_encode(weights, x, z_channels=4, embed_dim=3, double=False, **LEVELS)
    image = first_stage_decode(weights, z, z_channels=4, codes=20, **LEVELS)
    unquantised = first_stage_decode(weights, z, z_channels=4, **LEVELS)
    arguments = {
        "target": "ldm.models.autoencoder.VQModelInterface",
        "params": {"embed_dim": 3, "n_embed": 20, "ddconfig": DDCONFIG | {"double_z": False}},
    }
    state = {f"first_stage_model.{name}": value for name, value in weights.items()}
    network = load({"state_dict": state}, arguments, tmp_path)  # type: ignore[dict-item]
    assert isinstance(network, AutoencoderVQ)
    assert relative(network.encode(x.double()), latent) < 1e-9
    assert relative(network.decode(z.double()), image) < 1e-9
    assert relative(network.decode(z.double(), quantise=False), unquantised) < 1e-9


@pytest.mark.parametrize("mult", [(1, 2), (2, 1)])
def test_ddpm_in_pytorch(mult: tuple[int, int], tmp_path: Path) -> None:
    # ermongroup/ddim saves a list: the trained weights with the prefix of DataParallel, and their average without it.
    x = noise(2, 3, 16, 16)
    levels = LEVELS | {"mult": mult, "attention": (8,)}
    raw, average = Weights(0), Weights(1)
    expected = {kind: ddpm_unet(w, x, T, out=3, **levels) for kind, w in (("raw", raw), ("average", average))}
    config = {
        "data": {"dataset": "CIFAR10", "image_size": 16},
        "model": {
            "type": "simple", "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": mult, "num_res_blocks": 1,
            "attn_resolutions": [8], "dropout": 0.1, "var_type": "fixedlarge", "ema_rate": 0.9999, "ema": True,
            "resamp_with_conv": True,
        },
    }  # fmt: skip
    assert relative(load(raw, config, tmp_path)(x.double(), T), expected["raw"]) < 1e-6
    states = [{f"module.{k}": v for k, v in raw.items()}, {"param_groups": [{"lr": 1e-4}]}, 3, 4, dict(average)]
    torch.save(states, tmp_path / "ckpt.pth")
    for ema, kind in (("auto", "average"), (True, "average"), (False, "raw")):
        network = baselines.load_network(tmp_path / "ckpt.pth", config, ema=ema).double()
        assert network.origin.weights == kind
        assert relative(network(x.double(), T), expected[kind]) < 1e-6


def test_latent_diffusion_text_encoder(tmp_path: Path) -> None:
    tokens = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    weights = Weights()
    expected = bert_embedder(weights, tokens, vocabulary=50, length=9, width=40, layers=3)
    config = {"n_embed": 40, "n_layer": 3, "vocab_size": 50, "max_seq_len": 9}
    for prefix in ("", "cond_stage_model."):
        network = load({prefix + name: value for name, value in weights.items()}, config, tmp_path)
        assert relative(network(tokens), expected) < 1e-9
        assert (
            relative(
                network(tokens[:, :4]),
                bert_embedder(weights, tokens[:, :4], vocabulary=50, length=9, width=40, layers=3),
            )
            < 1e-9
        )


def test_a_whole_latent_diffusion_file_holds_every_part(tmp_path: Path) -> None:
    x, context, y = noise(2, 4, 16, 16), noise(2, 1, 24, seed=9), torch.tensor([2, 6])
    shape = {"width": 32, "blocks": 1, "mult": (1, 2), "attention": (1, 2), "heads": 1, "out_channels": 4}
    raw, average, first = Weights(0), Weights(1), Weights(2)
    expected = {
        kind: guided_unet(w, x, T, context=context, **shape)[0] for kind, w in (("raw", raw), ("average", average))
    }
    first_stage_encode(first, noise(1, 3, 16, 16), z_channels=4, embed_dim=3, double=True, **LEVELS)
    image = first_stage_decode(first, noise(2, 3, 8, 8), z_channels=4, **LEVELS)
    table = noise(7, 24)
    state = {f"model.diffusion_model.{k}": v for k, v in raw.items()}
    state |= {"model_ema." + f"diffusion_model.{k}".replace(".", ""): v for k, v in average.items()}
    state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(5)}
    state |= {f"first_stage_model.{k}": v for k, v in first.items()}
    state |= {"first_stage_model.loss.logvar": torch.zeros(()), "betas": torch.zeros(10)}
    state |= {"cond_stage_model.embedding.weight": table, "scale_factor": torch.tensor(0.23)}
    path = tmp_path / "model.ckpt"
    torch.save({"epoch": 3, "global_step": 4, "state_dict": state, "lr_schedulers": []}, path)
    unet = LDM | {"num_heads": 1, "use_spatial_transformer": True, "context_dim": 24}
    for ema, kind in (("auto", "average"), (True, "average"), (False, "raw")):
        network = baselines.load_network(path, unet, ema=ema).double()
        assert (network.origin.weights, network.origin.layout) == (kind, "guided")
        assert network.origin.latent_scale == pytest.approx(0.23)
        assert relative(network(x.double(), T, None, context.double()), expected[kind]) < 1e-6
    autoencoder = baselines.load_network(path, {"embed_dim": 3, "ddconfig": DDCONFIG | {"double_z": True}}).double()
    assert relative(autoencoder.decode(noise(2, 3, 8, 8).double()), image) < 1e-9
    labels = baselines.load_network(path, {"n_classes": 7, "embed_dim": 24, "key": "class_label"})
    assert torch.equal(labels(y), table[y][:, None])


# What a wrong file layout costs: these load without an error, and only the output tells.


def wrong(arguments: dict[str, Any], tmp_path: Path) -> float:
    """Relative difference to the original of a network that was loaded with `arguments` over the right ones."""
    x = noise(2, 3, 16, 16)
    weights = Weights()
    right = {"num_heads": 4, "use_new_attention_order": False}
    [expected] = guided_unet(weights, x, T, out_channels=3, scale_shift=True, heads=4, **SMALL_ORACLE)
    return relative(load(weights, SMALL | right | arguments, tmp_path)(x.double(), T), expected)


def test_a_wrong_row_order_or_number_of_heads_changes_the_output(tmp_path: Path) -> None:
    assert wrong({}, tmp_path) < 1e-6
    assert wrong({"use_new_attention_order": True}, tmp_path) > 1e-3
    assert wrong({"num_heads": 2}, tmp_path) > 1e-3
    assert wrong({"num_head_channels": 32}, tmp_path) > 1e-3
    assert wrong({"num_heads_upsample": 1}, tmp_path) > 1e-3
