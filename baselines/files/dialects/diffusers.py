"""diffusers: config.json of its networks, with the arguments of a scheduler beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from baselines.files.dialects.common import (
    Architecture,
    Arguments,
    ConfigurationError,
    Training,
    checked,
    schedule,
)
from baselines.networks.autoencoder import AutoencoderConfig
from baselines.networks.unet import UNetConfig
from baselines.schedules import Discrete

_DIFFUSERS_DEFAULTS: dict[str, dict[str, Any]] = {
    "UNet2DModel": {
        "in_channels": 3, "out_channels": 3, "flip_sin_to_cos": True, "freq_shift": 0,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (224, 448, 672, 896), "layers_per_block": 2, "downsample_padding": 1,
        "downsample_type": "conv", "upsample_type": "conv", "dropout": 0.0, "attention_head_dim": 8,
        "norm_num_groups": 32, "attn_norm_num_groups": None, "norm_eps": 1e-5, "resnet_time_scale_shift": "default",
        "num_class_embeds": None,
    },
    "UNet2DConditionModel": {
        "in_channels": 4, "out_channels": 4, "flip_sin_to_cos": True, "freq_shift": 0,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2, "downsample_padding": 1, "dropout": 0.0,
        "norm_num_groups": 32, "norm_eps": 1e-5, "cross_attention_dim": 1280, "transformer_layers_per_block": 1,
        "attention_head_dim": 8, "num_attention_heads": None, "num_class_embeds": None,
    },
    "AutoencoderKL": {
        "in_channels": 3, "out_channels": 3, "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",), "block_out_channels": (64,), "layers_per_block": 1,
        "latent_channels": 4, "norm_num_groups": 32, "mid_block_add_attention": True,
    },
    "VQModel": {
        "in_channels": 3, "out_channels": 3, "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",), "block_out_channels": (64,), "layers_per_block": 1,
        "latent_channels": 3, "num_vq_embeddings": 256, "norm_num_groups": 32, "vq_embed_dim": None,
        "mid_block_add_attention": True,
    },
}  # fmt: skip
"""Defaults of the classes of diffusers 0.42 that this package implements."""

_DIFFUSERS_FIXED: dict[str, dict[str, Any]] = {
    "UNet2DModel": {
        "center_input_sample": False, "time_embedding_type": "positional", "mid_block_type": "UNetMidBlock2D",
        "mid_block_scale_factor": 1, "act_fn": "silu", "add_attention": True, "class_embed_type": None,
        "time_embedding_dim": None,
    },
    "UNet2DConditionModel": {
        "center_input_sample": False, "mid_block_type": "UNetMidBlock2DCrossAttn", "only_cross_attention": False,
        "mid_block_scale_factor": 1, "act_fn": "silu", "reverse_transformer_layers_per_block": None,
        "encoder_hid_dim": None, "encoder_hid_dim_type": None, "dual_cross_attention": False, "class_embed_type": None,
        "addition_embed_type": None, "addition_time_embed_dim": None, "resnet_time_scale_shift": "default",
        "resnet_skip_time_act": False, "resnet_out_scale_factor": 1.0, "time_embedding_type": "positional",
        "time_embedding_dim": None, "time_embedding_act_fn": None, "timestep_post_act": None,
        "time_cond_proj_dim": None, "conv_in_kernel": 3, "conv_out_kernel": 3,
        "projection_class_embeddings_input_dim": None,
        "attention_type": "default", "class_embeddings_concat": False, "mid_block_only_cross_attention": None,
        "cross_attention_norm": None,
    },
    "AutoencoderKL": {
        "act_fn": "silu", "use_quant_conv": True, "use_post_quant_conv": True, "latents_mean": None,
        "latents_std": None, "shift_factor": None,
    },
    "VQModel": {"act_fn": "silu", "norm_type": "group", "lookup_from_codebook": False},
}  # fmt: skip
"""Arguments of which only this value is implemented, because another one changes the network."""

_DIFFUSERS_IGNORED = (
    "_class_name", "_diffusers_version", "_name_or_path", "sample_size", "scaling_factor", "force_upcast",
    "upcast_attention", "use_linear_projection", "num_train_timesteps", "addition_embed_type_num_heads", "decay",
    "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup",
    "beta_schedule", "beta_start", "beta_end", "prediction_type",
)  # fmt: skip


def network(a: Arguments) -> Architecture:
    name = a.get("_class_name")
    if name is None:
        marks = {
            "cross_attention_dim": "UNet2DConditionModel",
            "num_vq_embeddings": "VQModel",
            "latent_channels": "AutoencoderKL",
        }
        name = next((marks[key] for key in marks if key in a), "UNet2DModel")
    if name not in _DIFFUSERS_DEFAULTS:
        raise ConfigurationError(
            f"The class {name!r} of diffusers is not implemented; there are {', '.join(_DIFFUSERS_DEFAULTS)}."
        )
    a = checked(name, a, _DIFFUSERS_DEFAULTS[name], ignored=_DIFFUSERS_IGNORED, fixed=_DIFFUSERS_FIXED[name])
    levels = len(a["block_out_channels"])
    down, up = _block_types(name, a["down_block_types"]), _block_types(name, a["up_block_types"])[::-1]
    if not len(down) == len(up) == levels or [b.attends for b in down] != [b.attends for b in up]:
        raise ConfigurationError(
            f"{name} needs as many block types as block_out_channels, and the same ones down and up."
        )
    width = a["block_out_channels"][0]
    shape: dict[str, Any] = {
        "in_channels": a["in_channels"],
        "out_channels": a["out_channels"],
        "width": width,
        "multipliers": tuple(_ratio(channels, width) for channels in a["block_out_channels"]),
        "blocks": a["layers_per_block"],
        "attention": tuple(2**level for level, block in enumerate(down) if block.attends),
        "groups": a["norm_num_groups"],
    }
    if name in ("AutoencoderKL", "VQModel"):
        stage = AutoencoderConfig(
            **shape,
            middle_attention=a["mid_block_add_attention"],
            latent_channels=a["latent_channels"],
            code_channels=a.get("vq_embed_dim") or a["latent_channels"],
            codes=a.get("num_vq_embeddings"),
        )
        return Architecture(network=stage)
    shape |= _embedded(name, a)
    shape |= _unet_2d(a, down, up) if name == "UNet2DModel" else _attending(name, a)
    return Architecture(network=UNetConfig(**shape))


def _embedded(name: str, a: dict[str, Any]) -> dict[str, Any]:
    """Embeddings, norms and padding of a U-Net."""
    orders: dict[tuple[bool, int], Any] = {(False, 1): "sin_cos", (True, 0): "cos_sin"}
    order = orders.get((bool(a["flip_sin_to_cos"]), int(a["freq_shift"])))
    if order is None or a["downsample_padding"] not in (0, 1):
        raise ConfigurationError(
            f"{name} with flip_sin_to_cos={a['flip_sin_to_cos']}, freq_shift={a['freq_shift']}, "
            f"downsample_padding={a['downsample_padding']} is not implemented: (False, 1) or (True, 0), padding 0 or 1."
        )
    return {
        "embedding_order": order, "norm_eps": a["norm_eps"], "asymmetric": a["downsample_padding"] == 0,
        "dropout": a["dropout"], "classes": a["num_class_embeds"],
    }  # fmt: skip


def _attending(name: str, a: dict[str, Any]) -> dict[str, Any]:
    """Heads, context and depth of a UNet2DConditionModel."""
    shape: dict[str, Any] = {}
    # What diffusers calls attention_head_dim is the number of heads of this class (huggingface/diffusers#2011).
    heads = a["num_attention_heads"] or a["attention_head_dim"]
    if isinstance(heads, Sequence):
        head_widths = {channels // h for channels, h in zip(a["block_out_channels"], heads, strict=True)}
        if len(head_widths) > 1:
            raise ConfigurationError(
                f"{name} with attention_head_dim={list(heads)}: heads of one width are implemented."
            )
        shape["head_width"] = head_widths.pop()
    else:
        shape["heads"] = heads
    for key, field_name in (("cross_attention_dim", "context"), ("transformer_layers_per_block", "depth")):
        values = set(a[key]) if isinstance(a[key], Sequence) else {a[key]}
        if len(values) > 1:
            raise ConfigurationError(f"{name} with {key}={list(a[key])}: one value for all levels is implemented.")
        shape[field_name] = values.pop()
    return shape


@dataclass(frozen=True, slots=True)
class _BlockType:
    attends: bool
    resamples: bool = False


_BLOCK_TYPES = {
    "UNet2DModel": {
        "DownBlock2D": _BlockType(False), "AttnDownBlock2D": _BlockType(True), "UpBlock2D": _BlockType(False),
        "AttnUpBlock2D": _BlockType(True), "ResnetDownsampleBlock2D": _BlockType(False, True),
        "ResnetUpsampleBlock2D": _BlockType(False, True),
    },
    "UNet2DConditionModel": {
        "DownBlock2D": _BlockType(False), "CrossAttnDownBlock2D": _BlockType(True), "UpBlock2D": _BlockType(False),
        "CrossAttnUpBlock2D": _BlockType(True),
    },
    "AutoencoderKL": {
        "DownEncoderBlock2D": _BlockType(False), "AttnDownEncoderBlock2D": _BlockType(True),
        "UpDecoderBlock2D": _BlockType(False), "AttnUpDecoderBlock2D": _BlockType(True),
    },
}  # fmt: skip
_BLOCK_TYPES["VQModel"] = _BLOCK_TYPES["AutoencoderKL"]


def _block_types(name: str, types: Sequence[str]) -> list[_BlockType]:
    known = _BLOCK_TYPES[name]
    for given in types:
        if given not in known:
            raise ConfigurationError(
                f"{name} with the block {given!r} is not implemented; there are {', '.join(known)}."
            )
    return [known[given] for given in types]


def _unet_2d(a: Arguments, down: list[_BlockType], up: list[_BlockType]) -> dict[str, Any]:
    """Attention, modulation and resampling of a UNet2DModel."""
    # Blocks with attention take the type from the argument, the others from their name; the coarsest level has none.
    ways = {"resnet" if block.resamples else a["downsample_type"] if block.attends else "conv" for block in down[:-1]}
    ways |= {"resnet" if block.resamples else a["upsample_type"] if block.attends else "conv" for block in up[1:]}
    if len(ways) > 1 or not ways <= {"conv", "resnet"}:
        raise ConfigurationError(
            f"UNet2DModel with resampling of the kinds {sorted(ways)}: 'conv' or 'resnet' throughout."
        )
    scale_shift = a["resnet_time_scale_shift"] == "scale_shift"
    if a["attn_norm_num_groups"] != a["norm_num_groups"] and (scale_shift or a["attn_norm_num_groups"] is not None):
        # Without it diffusers leaves the norm of the middle attention out, which no published network does.
        raise ConfigurationError(
            f"UNet2DModel here needs attn_norm_num_groups={a['norm_num_groups']}, as all published have it."
        )
    return {
        "resample": "block" if "resnet" in ways else "conv",
        "modulation": "scale_shift" if scale_shift else "add",
        **({"heads": 1} if a["attention_head_dim"] is None else {"head_width": a["attention_head_dim"]}),
    }


def _ratio(channels: int, width: int) -> float:
    """A multiplier m with int(m * width) == channels, which channels / width may miss by rounding."""
    ratio = channels / width
    return ratio if int(ratio * width) == channels else math.nextafter(ratio, math.inf)


_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_KINDS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


def training(a: Arguments) -> Training:
    """The process of a scheduler whose arguments stand beside those of the network, with the defaults of diffusers.

    Source: diffusers `scheduling_ddpm.py:DDPMScheduler`.
    """
    side = a.get("sample_size")
    if isinstance(side, Sequence):
        if len(set(side)) != 1:
            raise ConfigurationError(f"sample_size={list(side)} is not implemented: square images are.")
        side = side[0]
    return Training(
        process=Discrete(
            schedule=schedule(a.get("beta_schedule", "linear"), _SCHEDULES, "beta_schedule"),
            steps=int(a.get("num_train_timesteps") or 1000),
            low=float(a.get("beta_start", 1e-4)),
            high=float(a.get("beta_end", 2e-2)),
        ),
        kind=schedule(a.get("prediction_type", "epsilon"), _KINDS, "prediction_type"),
        side=None if side is None else int(side),
    )
