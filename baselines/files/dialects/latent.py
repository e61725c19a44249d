"""latent-diffusion: the `params` of its yaml files, and of the CLIP text encoder that stands in their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from baselines.files.dialects.common import (
    Architecture,
    Arguments,
    ConfigurationError,
    checked,
    factors,
)
from baselines.files.dialects.guided import blocks_of, heads_of, pool_of
from baselines.networks.autoencoder import AutoencoderConfig
from baselines.networks.classifier import ClassifierConfig
from baselines.networks.transformer import LabelTokensConfig, TextEncoderConfig
from baselines.networks.unet import UNetConfig

_UNET_MODEL_DEFAULTS = {
    "image_size": 64, "in_channels": None, "model_channels": None, "out_channels": None, "num_res_blocks": None,
    "attention_resolutions": None, "dropout": 0.0, "channel_mult": (1, 2, 4, 8), "conv_resample": True,
    "num_classes": None, "num_heads": -1, "num_head_channels": -1, "num_heads_upsample": -1,
    "use_scale_shift_norm": False, "resblock_updown": False, "use_new_attention_order": False,
    "use_spatial_transformer": False, "transformer_depth": 1, "context_dim": None, "legacy": True, "pool": "",
}  # fmt: skip


def unet_model(a: Arguments) -> Architecture:
    """LDM `openaimodel.py:UNetModel`, of which guided-diffusion's is a part."""
    a = checked(
        "UNetModel",
        a,
        _UNET_MODEL_DEFAULTS,
        ignored=("use_checkpoint", "use_fp16", "use_linear_in_transformer"),
        fixed={"dims": 2, "n_embed": None},
    )
    context = a["context_dim"]
    if isinstance(context, Sequence):
        context = context[0] if len(set(context)) == 1 else None
    if bool(a["use_spatial_transformer"]) != (context is not None):
        raise ConfigurationError(
            f"use_spatial_transformer={a['use_spatial_transformer']} contradicts context_dim={a['context_dim']!r}; "
            "cross-attention needs both."
        )
    # guided-diffusion's default is one head; LDM has none and requires one of the two.
    heads = 1 if a["num_heads"] in (-1, None) and a["num_head_channels"] in (-1, None) else a["num_heads"]
    # The decoder's own number of heads only reaches plain attention, and in LDM only in the legacy branch.
    upsample = a["num_heads_upsample"] if context is None and a["legacy"] else -1
    network = UNetConfig(
        in_channels=a["in_channels"],
        out_channels=a["out_channels"],
        width=a["model_channels"],
        multipliers=tuple(a["channel_mult"]),
        blocks=a["num_res_blocks"],
        attention=tuple(a["attention_resolutions"]),
        dropout=a["dropout"],
        classes=a["num_classes"],
        context=context,
        depth=a["transformer_depth"],
        **heads_of(heads, a["num_head_channels"], upsample),
        **blocks_of(scale_shift=a["use_scale_shift_norm"], updown=a["resblock_updown"], convolution=a["conv_resample"]),
    )
    qkv: Any = "qkv_first" if a["use_new_attention_order"] else "heads_first"
    if not a["pool"]:
        return Architecture(network=network, qkv=qkv)
    classifier = ClassifierConfig(
        trunk=network, classes=a["out_channels"], image_size=a["image_size"], pool=pool_of(a["pool"])
    )
    return Architecture(network=classifier, qkv=qkv)


_DDCONFIG_DEFAULTS = {
    "double_z": True, "z_channels": None, "resolution": None, "in_channels": None, "out_ch": None, "ch": None,
    "ch_mult": (1, 2, 4, 8), "num_res_blocks": None, "attn_resolutions": None, "dropout": 0.0, "resamp_with_conv": True,
    "attn_type": "vanilla",
}  # fmt: skip


def first_stage(a: Arguments) -> Architecture:
    training = (
        "lossconfig", "ckpt_path", "ignore_keys", "image_key", "monitor", "batch_resize_range", "scheduler_config",
        "lr_g_factor", "sane_index_shape", "use_ema",
    )  # fmt: skip
    fixed = {"colorize_nlabels": None, "remap": None}
    if "ddconfig" not in a:
        names = {*_DDCONFIG_DEFAULTS, "tanh_out", "use_linear_attn", "give_pre_end"}
        a = {k: v for k, v in a.items() if k not in names} | {"ddconfig": {k: v for k, v in a.items() if k in names}}
    outer = checked(
        "An autoencoder of LDM", a, {"embed_dim": None, "n_embed": 0}, ignored=("ddconfig", *training), fixed=fixed
    )
    d = checked(
        "ddconfig",
        a["ddconfig"],
        _DDCONFIG_DEFAULTS,
        fixed={"tanh_out": False, "use_linear_attn": False, "give_pre_end": False},
    )
    if d["attn_type"] not in ("vanilla", "none"):
        raise ConfigurationError(f"attn_type={d['attn_type']!r} is not implemented; there are 'vanilla' and 'none'.")
    codes = outer["n_embed"] or None
    if bool(d["double_z"]) != (codes is None):
        raise ConfigurationError(
            f"double_z={d['double_z']} does not go with n_embed={codes}: a codebook has no variance."
        )
    attends = d["attn_type"] == "vanilla"
    return Architecture(
        network=AutoencoderConfig(
            in_channels=d["in_channels"],
            out_channels=d["out_ch"],
            width=d["ch"],
            multipliers=tuple(d["ch_mult"]),
            blocks=d["num_res_blocks"],
            attention=factors(d["resolution"], d["attn_resolutions"]) if attends else (),
            middle_attention=attends,
            latent_channels=d["z_channels"],
            code_channels=outer["embed_dim"],
            codes=codes,
            resample="conv" if d["resamp_with_conv"] else "pool",
            dropout=d["dropout"],
        )
    )


def text_encoder(a: Arguments) -> Architecture:
    a = checked(
        "BERTEmbedder",
        a,
        {"n_embed": None, "n_layer": None, "vocab_size": 30522, "max_seq_len": 77},
        ignored=("device", "use_tokenizer", "embedding_dropout"),
    )
    return Architecture(
        network=TextEncoderConfig(
            vocabulary=a["vocab_size"], length=a["max_seq_len"], width=a["n_embed"], layers=a["n_layer"]
        )
    )


_CLIP_TEXT_DEFAULTS = {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
}  # fmt: skip
"""transformers `configuration_clip.py:CLIPTextConfig`."""


def clip_text_encoder(a: Arguments) -> Architecture:
    a = checked(
        "CLIPTextModel",
        a,
        _CLIP_TEXT_DEFAULTS,
        fixed={"layer_norm_eps": 1e-5, "model_type": "clip_text_model"},
        ignored=(
            "_name_or_path",
            "architectures",
            "attention_dropout",
            "bos_token_id",
            "dropout",
            "dtype",
            "eos_token_id",
            "initializer_factor",
            "initializer_range",
            "pad_token_id",
            "projection_dim",
            "torch_dtype",
            "transformers_version",
        ),
    )
    if a["intermediate_size"] != 4 * a["hidden_size"] or a["hidden_act"] not in ("gelu", "quick_gelu"):
        raise ConfigurationError(
            f"CLIPTextModel with intermediate_size={a['intermediate_size']} of hidden_size={a['hidden_size']} and "
            f"hidden_act={a['hidden_act']!r} is not implemented: four times as wide, with 'gelu' or 'quick_gelu'."
        )
    return Architecture(
        network=TextEncoderConfig(
            vocabulary=a["vocab_size"],
            length=a["max_position_embeddings"],
            width=a["hidden_size"],
            layers=a["num_hidden_layers"],
            heads=a["num_attention_heads"],
            head_width=a["hidden_size"] // a["num_attention_heads"],
            activation=a["hidden_act"],
            bias=True,
            causal=True,
        )
    )


def label_tokens(a: Arguments) -> Architecture:
    """The label table of LDM."""
    a = checked("ClassEmbedder", a, {"embed_dim": None, "n_classes": 1000}, ignored=("key",))
    return Architecture(network=LabelTokensConfig(classes=int(a["n_classes"]), width=int(a["embed_dim"])))
