"""Loader and networks against diffusers on random weights, to 1e-5 relative in float32; no download."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import noise
from safetensors.torch import save_file
from torch import Tensor, nn

import baselines

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of diffusers, about its own imports
    from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel, VQModel

from open_clip.transformer import QuickGELU, TextTransformer

pytestmark = pytest.mark.parity

T = torch.tensor([11, 640])


def relative(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def randomised(network: nn.Module) -> nn.Module:
    """Weights that keep activations at about unit size; the initial ones leave attention without influence."""
    generator = torch.Generator().manual_seed(0)
    for name, value in network.named_parameters():
        with torch.no_grad():
            value.normal_(generator=generator)
            value.mul_(0.2 if value.ndim == 1 else value[0].numel() ** -0.5)
            if value.ndim == 1 and name.endswith("weight"):
                value.add_(1.0)
    return network.eval()


def load(network: nn.Module, config: Any, tmp_path: Path) -> nn.Module:
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, tmp_path / "net.safetensors")
    return baselines.load_network(tmp_path / "net.safetensors", config)


CIFAR10 = {
    "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256], "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "in_channels": 3, "layers_per_block": 2,
    "mid_block_scale_factor": 1, "norm_eps": 1e-06, "norm_num_groups": 32, "out_channels": 3, "sample_size": 32,
    "time_embedding_type": "positional", "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
"""config.json of google/ddpm-cifar10-32."""

ADM = {
    "_class_name": "UNet2DModel", "sample_size": 16, "block_out_channels": [32, 64, 96], "layers_per_block": 1,
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"], "downsample_type": "resnet",
    "upsample_type": "resnet", "attention_head_dim": 32, "attn_norm_num_groups": 32, "num_class_embeds": 10,
    "resnet_time_scale_shift": "scale_shift", "out_channels": 6,
}  # fmt: skip
"""In the manner of the ADM networks that diffusers hosts (openai/diffusers-cd_imagenet64_l2)."""


def built(config: dict[str, Any]) -> nn.Module:
    classes = (UNet2DModel, UNet2DConditionModel, AutoencoderKL, VQModel)
    known = {cls.__name__: cls for cls in classes}[config["_class_name"]]
    return randomised(known(**{name: value for name, value in config.items() if not name.startswith("_")}))


@torch.no_grad()
def test_ddpm_cifar10_at_full_size_by_its_own_config_and_by_name(tmp_path: Path) -> None:
    theirs = built(CIFAR10)
    x = noise(1, 3, 32, 32)
    expected = theirs(x, T[1:]).sample
    assert relative(load(theirs, CIFAR10, tmp_path)(x, T[1:]), expected) < 1e-5
    by_name = baselines.load_network(tmp_path / "net.safetensors", "ddpm-cifar10")
    assert by_name.origin.layout == "diffusers"
    assert relative(by_name(x, T[1:]), expected) < 1e-5


@torch.no_grad()
def test_files_of_before_diffusers_0_15(tmp_path: Path) -> None:
    # The published files name attention query, key, value and proj_attn.
    config = CIFAR10 | {"block_out_channels": [32, 64, 64, 64], "layers_per_block": 1}
    theirs = built(config)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, value in theirs.state_dict().items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        state[name] = value
    assert "mid_block.attentions.0.proj_attn.weight" in state
    torch.save(state, tmp_path / "net.bin")
    x = noise(2, 3, 16, 16)
    assert relative(baselines.load_network(tmp_path / "net.bin", config)(x, T), theirs(x, T).sample) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("padding", [0, 1])
def test_ldm_unet_2d(padding: int, tmp_path: Path) -> None:
    # CompVis/ldm-celebahq-256, smaller.
    config = {
        "_class_name": "UNet2DModel", "attention_head_dim": 16, "block_out_channels": [32, 64], "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "downsample_padding": padding, "flip_sin_to_cos": True, "freq_shift": 0, "norm_eps": 1e-5,
    }  # fmt: skip
    theirs = built(config)
    x = noise(2, 3, 16, 16)
    assert relative(load(theirs, config, tmp_path)(x, T), theirs(x, T).sample) < 1e-5


@torch.no_grad()
def test_adm_as_diffusers_has_it(tmp_path: Path) -> None:
    theirs = built(ADM)
    x, y = noise(2, 3, 16, 16), torch.tensor([3, 9])
    assert relative(load(theirs, ADM, tmp_path)(x, T, y), theirs(x, T, class_labels=y).sample) < 1e-5


CONDITION = {
    "_class_name": "UNet2DConditionModel", "sample_size": 16, "in_channels": 4, "out_channels": 4,
    "block_out_channels": [32, 64, 64], "layers_per_block": 1, "cross_attention_dim": 24, "attention_head_dim": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"use_linear_projection": True, "attention_head_dim": [2, 4, 4]},
        {"transformer_layers_per_block": 2, "num_class_embeds": 5},
    ],
    ids=["SD v1", "SD v2", "two deep, classes"],
)
def test_unet_with_cross_attention(variant: dict[str, Any], tmp_path: Path) -> None:
    config = CONDITION | variant
    theirs = built(config)
    x, context = noise(2, 4, 16, 16), noise(2, 7, 24, seed=8)
    y = torch.tensor([0, 4]) if "num_class_embeds" in variant else None
    expected = theirs(x, T, context, class_labels=y).sample
    assert relative(load(theirs, config, tmp_path)(x, T, y, context), expected) < 1e-5


FIRST_STAGE = {
    "sample_size": 16, "block_out_channels": [32, 64], "layers_per_block": 1, "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
}  # fmt: skip


@torch.no_grad()
def test_autoencoder_kl(tmp_path: Path) -> None:
    config = FIRST_STAGE | {"_class_name": "AutoencoderKL", "scaling_factor": 0.18215}
    theirs = built(config)
    ours = load(theirs, config, tmp_path)
    x, z = noise(2, 3, 16, 16), noise(2, 4, 8, 8)
    assert relative(ours.encode(x), theirs.encode(x).latent_dist.parameters) < 1e-5
    assert relative(ours.decode(z), theirs.decode(z).sample) < 1e-5
    assert relative(ours(x), theirs(x).sample) < 1e-5


@torch.no_grad()
def test_autoencoder_vq_with_attention(tmp_path: Path) -> None:
    config = FIRST_STAGE | {
        "_class_name": "VQModel", "num_vq_embeddings": 30, "vq_embed_dim": 3,
        "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
    }  # fmt: skip
    theirs = built(config)
    ours = load(theirs, config, tmp_path)
    x, z = noise(2, 3, 16, 16), noise(2, 3, 8, 8)
    assert relative(ours.encode(x), theirs.encode(x).latents) < 1e-5
    assert relative(ours.decode(z), theirs.decode(z).sample) < 1e-5
    assert relative(ours.decode(z, quantise=False), theirs.decode(z, force_not_quantize=True).sample) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "cond_stage_model.transformer."])
def test_text_encoder_of_stable_diffusion_v1(prefix: str, tmp_path: Path) -> None:
    # transformers' CLIPTextModel is not among the peers; open_clip computes the same under other names.
    theirs = randomised(
        TextTransformer(8, 40, 32, 4, 2, output_dim=None, act_layer=QuickGELU, output_tokens=True)  # type: ignore[arg-type]
    )
    state = {
        "text_model.embeddings.position_ids": torch.arange(8)[None],
        "text_model.embeddings.token_embedding.weight": theirs.token_embedding.weight,
        "text_model.embeddings.position_embedding.weight": theirs.positional_embedding,
        "text_model.final_layer_norm.weight": theirs.ln_final.weight,
        "text_model.final_layer_norm.bias": theirs.ln_final.bias,
    }
    for i, block in enumerate(theirs.transformer.resblocks):
        name = f"text_model.encoder.layers.{i}"
        for leaf in ("weight", "bias"):
            modules = {
                "layer_norm1": block.ln_1, "layer_norm2": block.ln_2, "mlp.fc1": block.mlp.c_fc,
                "mlp.fc2": block.mlp.c_proj, "self_attn.out_proj": block.attn.out_proj,
            }  # fmt: skip
            state |= {f"{name}.{key}.{leaf}": getattr(module, leaf) for key, module in modules.items()}
            for letter, rows in zip("qkv", getattr(block.attn, f"in_proj_{leaf}").chunk(3), strict=True):
                state[f"{name}.self_attn.{letter}_proj.{leaf}"] = rows
    torch.save({prefix + key: value.clone() for key, value in state.items()}, tmp_path / "net.bin")
    config = {
        "architectures": ["CLIPTextModel"], "hidden_act": "quick_gelu", "hidden_size": 32, "intermediate_size": 128,
        "layer_norm_eps": 1e-05, "max_position_embeddings": 8, "num_attention_heads": 4, "num_hidden_layers": 2,
        "vocab_size": 40, "torch_dtype": "float32",
    }  # fmt: skip
    ours = baselines.load_network(tmp_path / "net.bin", config)
    assert ours.origin.layout == "transformers"
    tokens = torch.tensor([[1, 5, 7, 39, 39, 39, 39, 39], [1, 2, 3, 4, 5, 6, 7, 39]])
    assert relative(ours(tokens), theirs(tokens)[1]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(
    ("change", "value"),
    [("flip_sin_to_cos", (True, 0)), ("downsample_padding", 1), ("attention_head_dim", 16), ("norm_eps", 1e-2)],
)
def test_a_wrong_argument_changes_the_output(change: str, value: Any, tmp_path: Path) -> None:
    # None of these changes a shape, so that only the numbers can tell; it is also what the tests above would catch.
    config = CIFAR10 | {"block_out_channels": [32, 64, 64, 64], "layers_per_block": 1}
    theirs = built(config)
    wrong = config | (
        {"flip_sin_to_cos": value[0], "freq_shift": value[1]} if change == "flip_sin_to_cos" else {change: value}
    )
    x = noise(2, 3, 16, 16)
    assert relative(load(theirs, wrong, tmp_path)(x, T), theirs(x, T).sample) > 1e-4
