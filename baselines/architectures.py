"""What the arguments of the original repositories mean, for the published architectures and for a user's own.

Each function below reads the arguments of one family with the defaults of its repository. An argument that would change
the network in a way that is not implemented is refused, never ignored.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from baselines.configurations import CONFIGURATIONS
from baselines.networks.autoencoder import AutoencoderConfig, AutoencoderKL, AutoencoderVQ
from baselines.networks.classifier import Classifier, ClassifierConfig
from baselines.networks.transformer import LabelTokens, LabelTokensConfig, TextEncoder, TextEncoderConfig
from baselines.networks.unet import UNet, UNetConfig

NetworkConfig = UNetConfig | ClassifierConfig | AutoencoderConfig | TextEncoderConfig | LabelTokensConfig
Arguments = Mapping[str, Any]


class ConfigurationError(ValueError):
    """Arguments that name no architecture of this package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A network as data, and the one thing about its files that neither the network nor their names tell.

    Attributes:
        network: the configuration of the network.
        qkv: row order of fused query-key-value matrices in files of improved diffusion, ADM and LDM: "heads_first" is
            (heads, 3, channels a head), all of them but ADM 64x64, which is "qkv_first": (3, heads, channels a head).
            Both have the same shape; the wrong one computes nonsense without an error.
    """

    network: NetworkConfig
    qkv: Literal["heads_first", "qkv_first"] = "heads_first"

    def build(self) -> nn.Module:
        """The network with random weights on the default device; under `torch.device("meta")` it costs nothing."""
        n = self.network
        if isinstance(n, UNetConfig):
            return UNet(n)
        if isinstance(n, ClassifierConfig):
            return Classifier(n)
        if isinstance(n, AutoencoderConfig):
            return AutoencoderKL(n) if n.codes is None else AutoencoderVQ(n)
        return TextEncoder(n) if isinstance(n, TextEncoderConfig) else LabelTokens(n)


def architecture(config: str | Arguments | NetworkConfig | Architecture, *, keys: Iterable[str] = ()) -> Architecture:
    """The architecture that a name or a dictionary of arguments means.

    Args:
        config: a name of `baselines.configurations.CONFIGURATIONS`; a configuration of this package; or a mapping in
            the argument names of one of
            improved- and guided-diffusion: `model_and_diffusion_defaults`, those of the up-samplers (with
            `large_size`), `classifier_defaults`, `UNetModel`, `EncoderUNetModel`;
            LDM: `params` of a yaml's UNetModel, AutoencoderKL, VQModel, VQModelInterface, BERTEmbedder or
            ClassEmbedder, with or without the `target` around them;
            DDPM in PyTorch: the yaml of ermongroup/ddim, or its `ch`, `ch_mult`, ... alone;
            diffusers: config.json of UNet2DModel, UNet2DConditionModel, AutoencoderKL or VQModel, and of the
            CLIPTextModel beside them.
            Arguments that are missing have the default of their repository; arguments of the diffusion process and of
            scripts are ignored.
        keys: of the state dict, which tell a U-Net from a classifier when the arguments name both.

    Raises:
        ConfigurationError: an unknown name or argument, or one whose value this package does not implement.
    """
    if isinstance(config, Architecture):
        return config
    if isinstance(config, str):
        if config not in CONFIGURATIONS:
            close = difflib.get_close_matches(config, CONFIGURATIONS, n=1)
            known = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(CONFIGURATIONS)}."
            raise ConfigurationError(f"No configuration named {config!r}. {known}")
        return architecture(CONFIGURATIONS[config].arguments)
    if not isinstance(config, Mapping):
        return Architecture(network=config)
    target = str(config.get("target", "")).rpartition(".")[2]
    a = config["params"] if "params" in config and "target" in config else config
    if "unet_config" in a:
        parts = "unet_config, first_stage_config or cond_stage_config"
        raise ConfigurationError(
            f"These are the arguments of a whole latent diffusion model; give one of its parts: {parts}."
        )
    if "block_out_channels" in a or "_class_name" in a:
        return _diffusers(a)
    if "ddconfig" in a or "z_channels" in a:
        return _first_stage(a)
    if "n_layer" in a:
        return _text_encoder(a)
    if "num_hidden_layers" in a:
        return _clip_text_encoder(a)
    if target == "ClassEmbedder" or set(a) <= {"n_classes", "embed_dim", "key"}:
        a = _checked("ClassEmbedder", a, {"embed_dim": None, "n_classes": 1000}, ignored=("key",))
        return Architecture(network=LabelTokensConfig(classes=int(a["n_classes"]), width=int(a["embed_dim"])))
    if "model_channels" in a:
        return _unet_model(a)
    if "ch_mult" in a or "model" in a:
        return _ddpm(a)
    if "large_size" in a or "small_size" in a:
        return _guided_upsampler(a)
    # The scripts of guided-diffusion pass the arguments of the model and of the classifier in one dictionary.
    of_classifier = any(key in _CLASSIFIER_DEFAULTS for key in a if key.startswith("classifier_"))
    keys = list(keys)
    decodes = any("output_blocks." in key for key in keys)
    encodes = any("input_blocks." in key for key in keys)
    if "num_channels" in a and not of_classifier:
        return _guided(a)
    if (encodes and not decodes) or (not encodes and of_classifier):
        return _guided_classifier(a)
    return _guided(a)


def _checked(
    what: str,
    given: Arguments,
    defaults: Arguments,
    *,
    ignored: Iterable[str] = (),
    fixed: Arguments | None = None,
) -> dict[str, Any]:
    """All arguments, the missing ones with their defaults; texts such as "True" and "4" become what they say.

    `fixed` names arguments of which one value alone is implemented.
    """
    fixed = fixed or {}
    known = {*defaults, *ignored, *fixed}
    values = dict(defaults)
    for name, value in given.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise ConfigurationError(
                f"{what} has no argument {name!r}. "
                + (f"Did you mean {close[0]!r}?" if close else f"It takes {', '.join(sorted(known))}.")
            )
        if name in fixed and value != fixed[name]:
            raise ConfigurationError(f"{what} with {name}={value!r} is not implemented, only with {fixed[name]!r}.")
        if name in defaults:
            values[name] = _literal(value, defaults[name])
    for name, value in values.items():
        if value is None and defaults[name] is None and name in _REQUIRED:
            raise ConfigurationError(f"{what} needs the argument {name!r}.")
    return values


_REQUIRED = frozenset({
    "in_channels", "out_channels", "out_ch", "model_channels", "num_res_blocks", "attention_resolutions", "ch",
    "z_channels", "resolution", "embed_dim", "n_layer", "n_embed", "attn_resolutions",
})  # fmt: skip


def _literal(value: Any, default: Any) -> Any:
    """Reads text of command lines by the type of the default; everything else is left as it is."""
    if not isinstance(value, str) or isinstance(default, str) or default is None:
        return value
    if isinstance(default, bool):
        if value.lower() not in ("true", "false", "1", "0", "yes", "no", "t", "f", "y", "n"):
            raise ConfigurationError(f"Cannot read {value!r} as true or false.")
        return value.lower() in ("true", "1", "yes", "t", "y")
    return type(default)(value)


# --- improved-diffusion and guided-diffusion ------------------------------------------------------------------------

_MULTIPLIERS = {
    512: (0.5, 1, 1, 2, 2, 4, 4), 256: (1, 1, 2, 2, 4, 4), 128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4), 32: (1, 2, 2, 2),
}  # fmt: skip
"""Image size to multipliers: guided-diffusion `script_util.py:create_model`; 32 is improved-diffusion's."""

_NOT_ARCHITECTURE = (
    "learn_sigma", "sigma_small", "diffusion_steps", "noise_schedule", "timestep_respacing", "use_kl", "predict_xstart",
    "rescale_timesteps", "rescale_learned_sigmas", "use_checkpoint", "use_fp16", "classifier_use_fp16",
    "clip_denoised", "num_samples", "batch_size", "use_ddim", "model_path", "classifier_path", "classifier_scale",
    "base_samples", "data_dir", "val_data_dir", "schedule_sampler", "lr", "weight_decay", "lr_anneal_steps",
    "anneal_lr", "microbatch", "ema_rate", "log_interval", "save_interval", "eval_interval", "resume_checkpoint",
    "fp16_scale_growth", "iterations", "noised",
)  # fmt: skip
"""Arguments of the process, of precision and of scripts, which leave the network as it is."""

_UNET_DEFAULTS = {
    "image_size": 64, "num_channels": 128, "num_res_blocks": 2, "num_heads": 4, "num_heads_upsample": -1,
    "num_head_channels": -1, "attention_resolutions": "16,8", "channel_mult": "", "dropout": 0.0, "class_cond": False,
    "use_scale_shift_norm": True, "resblock_updown": False, "use_new_attention_order": False, "learn_sigma": False,
    "num_classes": 1000,
}  # fmt: skip
"""guided-diffusion `script_util.py:model_and_diffusion_defaults`; `num_classes` is its constant NUM_CLASSES."""

_CLASSIFIER_DEFAULTS = {
    "image_size": 64, "classifier_width": 128, "classifier_depth": 2, "classifier_attention_resolutions": "32,16,8",
    "classifier_use_scale_shift_norm": True, "classifier_resblock_updown": True, "classifier_pool": "attention",
    "num_classes": 1000,
}  # fmt: skip
"""guided-diffusion `script_util.py:classifier_defaults`."""


def _multipliers(image_size: int, given: str | Sequence[float]) -> tuple[float, ...]:
    if isinstance(given, str):
        given = [float(part) for part in given.split(",")] if given else _MULTIPLIERS.get(image_size, ())
    if not given:
        raise ConfigurationError(
            f"image_size={image_size} has no default channel_mult, only {', '.join(map(str, _MULTIPLIERS))}; give one."
        )
    return tuple(given)


def _factors(image_size: int, resolutions: str | Iterable[int]) -> tuple[int, ...]:
    """Factors of downsampling from sides of feature maps."""
    sides = [int(part) for part in resolutions.split(",") if part] if isinstance(resolutions, str) else resolutions
    return tuple(image_size // int(side) for side in sides)


def _guided(a: Arguments) -> Architecture:
    of_classifier = (*(k for k in _CLASSIFIER_DEFAULTS if k.startswith("classifier_")), "large_size", "small_size")
    a = _checked("A guided-diffusion model", a, _UNET_DEFAULTS, ignored=(*_NOT_ARCHITECTURE, *of_classifier))
    return _adm(a, image_size=a["image_size"], multipliers=_multipliers(a["image_size"], a["channel_mult"]))


def _guided_upsampler(a: Arguments) -> Architecture:
    defaults = _UNET_DEFAULTS | {"large_size": 256, "small_size": 64}
    a = _checked("A guided-diffusion up-sampler", a, defaults, ignored=_NOT_ARCHITECTURE)
    # The 512 up-sampler has the multipliers of 256 (`sr_create_model`), unlike the 512 model.
    multipliers = a["channel_mult"] or ("1,1,2,2,4,4" if a["large_size"] == 512 else "")
    return _adm(a, image_size=a["large_size"], multipliers=_multipliers(a["large_size"], multipliers))


def _adm(a: Arguments, *, image_size: int, multipliers: tuple[float, ...]) -> Architecture:
    return Architecture(
        network=UNetConfig(
            out_channels=6 if a["learn_sigma"] else 3,
            width=a["num_channels"],
            multipliers=multipliers,
            blocks=a["num_res_blocks"],
            attention=_factors(image_size, a["attention_resolutions"]),
            dropout=a["dropout"],
            classes=a["num_classes"] if a["class_cond"] else None,
            low_resolution="large_size" in a,
            **_heads(a["num_heads"], a["num_head_channels"], a["num_heads_upsample"]),
            **_adm_blocks(scale_shift=a["use_scale_shift_norm"], updown=a["resblock_updown"]),
        ),
        qkv="qkv_first" if a["use_new_attention_order"] else "heads_first",
    )


def _heads(heads: int, channels: int, upsample: int) -> dict[str, Any]:
    if channels not in (-1, None):
        return {"head_width": channels}
    if heads in (-1, None):
        raise ConfigurationError("Give num_heads or num_head_channels; both are missing or -1.")
    return {"heads": heads, "decoder_heads": None if upsample in (-1, None) else upsample}


def _adm_blocks(*, scale_shift: bool, updown: bool, convolution: bool = True) -> dict[str, Any]:
    """What improved diffusion, ADM and LDM have in common."""
    return {
        "modulation": "scale_shift" if scale_shift else "add",
        "resample": "block" if updown else "conv" if convolution else "pool",
        "asymmetric": False,
        "embedding_order": "cos_sin",
        "norm_eps": 1e-5,
    }


_POOLS = {
    "attention": "attention", "adaptive": "average", "spatial": "stages", "spatial_v2": "normalised_stages",
}  # fmt: skip


def _guided_classifier(a: Arguments) -> Architecture:
    ignored = (*_NOT_ARCHITECTURE, *_UNET_DEFAULTS)
    a = _checked("A guided-diffusion classifier", a, _CLASSIFIER_DEFAULTS, ignored=ignored)
    size = a["image_size"]
    trunk = UNetConfig(
        width=a["classifier_width"],
        multipliers=_multipliers(size, ""),
        blocks=a["classifier_depth"],
        attention=_factors(size, a["classifier_attention_resolutions"]),
        head_width=64,
        **_adm_blocks(scale_shift=a["classifier_use_scale_shift_norm"], updown=a["classifier_resblock_updown"]),
    )
    return Architecture(
        network=ClassifierConfig(
            trunk=trunk, classes=a["num_classes"], image_size=size, pool=_pool(a["classifier_pool"])
        )
    )


def _pool(name: str) -> Any:
    if name not in _POOLS:
        raise ConfigurationError(f"No pooling {name!r}; there are {', '.join(_POOLS)}.")
    return _POOLS[name]


# --- UNetModel of guided-diffusion and latent-diffusion, EncoderUNetModel -------------------------------------------

_UNET_MODEL_DEFAULTS = {
    "image_size": 64, "in_channels": None, "model_channels": None, "out_channels": None, "num_res_blocks": None,
    "attention_resolutions": None, "dropout": 0.0, "channel_mult": (1, 2, 4, 8), "conv_resample": True,
    "num_classes": None, "num_heads": -1, "num_head_channels": -1, "num_heads_upsample": -1,
    "use_scale_shift_norm": False, "resblock_updown": False, "use_new_attention_order": False,
    "use_spatial_transformer": False, "transformer_depth": 1, "context_dim": None, "legacy": True, "pool": "",
}  # fmt: skip


def _unet_model(a: Arguments) -> Architecture:
    """LDM `openaimodel.py:UNetModel`, of which guided-diffusion's is a part."""
    a = _checked(
        "UNetModel", a, _UNET_MODEL_DEFAULTS, ignored=("use_checkpoint", "use_fp16", "use_linear_in_transformer"),
        fixed={"dims": 2, "n_embed": None},
    )  # fmt: skip
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
        **_heads(heads, a["num_head_channels"], upsample),
        **_adm_blocks(
            scale_shift=a["use_scale_shift_norm"], updown=a["resblock_updown"], convolution=a["conv_resample"]
        ),
    )
    qkv: Any = "qkv_first" if a["use_new_attention_order"] else "heads_first"
    if not a["pool"]:
        return Architecture(network=network, qkv=qkv)
    classifier = ClassifierConfig(
        trunk=network, classes=a["out_channels"], image_size=a["image_size"], pool=_pool(a["pool"])
    )
    return Architecture(network=classifier, qkv=qkv)


# --- first stages and conditions of latent diffusion ----------------------------------------------------------------

_DDCONFIG_DEFAULTS = {
    "double_z": True, "z_channels": None, "resolution": None, "in_channels": None, "out_ch": None, "ch": None,
    "ch_mult": (1, 2, 4, 8), "num_res_blocks": None, "attn_resolutions": None, "dropout": 0.0, "resamp_with_conv": True,
    "attn_type": "vanilla",
}  # fmt: skip


def _first_stage(a: Arguments) -> Architecture:
    training = (
        "lossconfig", "ckpt_path", "ignore_keys", "image_key", "monitor", "batch_resize_range", "scheduler_config",
        "lr_g_factor", "sane_index_shape", "use_ema",
    )  # fmt: skip
    fixed = {"colorize_nlabels": None, "remap": None}
    if "ddconfig" not in a:
        names = {*_DDCONFIG_DEFAULTS, "tanh_out", "use_linear_attn", "give_pre_end"}
        a = {k: v for k, v in a.items() if k not in names} | {"ddconfig": {k: v for k, v in a.items() if k in names}}
    outer = _checked(
        "An autoencoder of LDM", a, {"embed_dim": None, "n_embed": 0}, ignored=("ddconfig", *training), fixed=fixed
    )
    d = _checked(
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
            attention=_factors(d["resolution"], d["attn_resolutions"]) if attends else (),
            middle_attention=attends,
            latent_channels=d["z_channels"],
            code_channels=outer["embed_dim"],
            codes=codes,
            resample="conv" if d["resamp_with_conv"] else "pool",
            dropout=d["dropout"],
        )
    )


def _text_encoder(a: Arguments) -> Architecture:
    a = _checked(
        "BERTEmbedder", a, {"n_embed": None, "n_layer": None, "vocab_size": 30522, "max_seq_len": 77},
        ignored=("device", "use_tokenizer", "embedding_dropout"),
    )  # fmt: skip
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


def _clip_text_encoder(a: Arguments) -> Architecture:
    a = _checked(
        "CLIPTextModel", a, _CLIP_TEXT_DEFAULTS, fixed={"layer_norm_eps": 1e-5, "model_type": "clip_text_model"},
        ignored=(
            "_name_or_path", "architectures", "attention_dropout", "bos_token_id", "dropout", "dtype", "eos_token_id",
            "initializer_factor", "initializer_range", "pad_token_id", "projection_dim", "torch_dtype",
            "transformers_version",
        ),
    )  # fmt: skip
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


# --- DDPM in PyTorch -----------------------------------------------------------------------------------------------

_DDPM_DEFAULTS = {
    "ch": None, "out_ch": 3, "in_channels": 3, "ch_mult": (1, 2, 4, 8), "num_res_blocks": None,
    "attn_resolutions": None, "resolution": None, "dropout": 0.0, "resamp_with_conv": True,
}  # fmt: skip


def _ddpm(a: Arguments) -> Architecture:
    """ermongroup/ddim `models/diffusion.py:Model`, from its yaml (`data`, `model`) or from pesser's flat arguments."""
    if "model" in a:
        a = dict(a["model"]) | {"resolution": a["data"]["image_size"]}
    a = dict(a)
    if "image_size" in a:
        a["resolution"] = a.pop("image_size")
    a = _checked("A DDPM model", a, _DDPM_DEFAULTS, ignored=("var_type", "ema_rate", "ema"), fixed={"type": "simple"})
    return Architecture(
        network=UNetConfig(
            in_channels=a["in_channels"],
            out_channels=a["out_ch"],
            width=a["ch"],
            stem=a["ch"],
            multipliers=tuple(a["ch_mult"]),
            blocks=a["num_res_blocks"],
            attention=_factors(a["resolution"], a["attn_resolutions"]),
            resample="conv" if a["resamp_with_conv"] else "pool",
            dropout=a["dropout"],
        )
    )


# --- diffusers ------------------------------------------------------------------------------------------------------

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
)  # fmt: skip


def _diffusers(a: Arguments) -> Architecture:
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
    a = _checked(name, a, _DIFFUSERS_DEFAULTS[name], ignored=_DIFFUSERS_IGNORED, fixed=_DIFFUSERS_FIXED[name])
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
        return Architecture(
            network=AutoencoderConfig(
                **shape,
                middle_attention=a["mid_block_add_attention"],
                latent_channels=a["latent_channels"],
                code_channels=a.get("vq_embed_dim") or a["latent_channels"],
                codes=a.get("num_vq_embeddings"),
            )
        )
    orders: dict[tuple[bool, int], Any] = {(False, 1): "sin_cos", (True, 0): "cos_sin"}
    order = orders.get((bool(a["flip_sin_to_cos"]), int(a["freq_shift"])))
    if order is None or a["downsample_padding"] not in (0, 1):
        raise ConfigurationError(
            f"{name} with flip_sin_to_cos={a['flip_sin_to_cos']}, freq_shift={a['freq_shift']}, "
            f"downsample_padding={a['downsample_padding']} is not implemented: (False, 1) or (True, 0), padding 0 or 1."
        )
    shape |= {
        "embedding_order": order, "norm_eps": a["norm_eps"], "asymmetric": a["downsample_padding"] == 0,
        "dropout": a["dropout"], "classes": a["num_class_embeds"],
    }  # fmt: skip
    if name == "UNet2DModel":
        return Architecture(network=UNetConfig(**shape, **_unet_2d(a, down, up)))
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
    return Architecture(network=UNetConfig(**shape))


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
