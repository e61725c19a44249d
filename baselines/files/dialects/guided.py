"""improved-diffusion and guided-diffusion: the arguments of their scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from baselines.files.dialects.common import (
    Architecture,
    Arguments,
    ConfigurationError,
    Training,
    checked,
    factors,
    literal,
    schedule,
)
from baselines.networks.classifier import ClassifierConfig
from baselines.networks.unet import UNetConfig
from baselines.schedules import Discrete, LogSigma

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
    "fp16_scale_growth", "iterations", "noised", "sigma_min", "sigma_max", "weight_schedule", "training_mode",
    "teacher_model_path", "teacher_dropout", "target_ema_mode", "scale_mode", "total_training_steps", "start_ema",
    "start_scales", "end_scales", "distill_steps_per_iter", "loss_norm",
)  # fmt: skip
"""Arguments of the process, of precision and of scripts, which leave the network as it is."""

_UNET_DEFAULTS = {
    "image_size": 64, "num_channels": 128, "num_res_blocks": 2, "num_heads": 4, "num_heads_upsample": -1,
    "num_head_channels": -1, "attention_resolutions": "16,8", "channel_mult": "", "dropout": 0.0, "class_cond": False,
    "use_scale_shift_norm": True, "resblock_updown": False, "use_new_attention_order": False, "learn_sigma": False,
    "num_classes": 1000,
}  # fmt: skip
"""guided-diffusion `script_util.py:model_and_diffusion_defaults`; `num_classes` is its constant NUM_CLASSES."""

CLASSIFIER_DEFAULTS = {
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


def _of_consistency(a: Arguments) -> bool:
    """Whether the flags are those of openai/consistency_models, whose networks are guided diffusion's."""
    return any(name in a for name in ("sigma_min", "sigma_max", "weight_schedule", "training_mode"))


def network(a: Arguments) -> Architecture:
    if _of_consistency(a):
        # Its defaults differ in one thing, and its attention keeps query, key and value in the new order always.
        a = {"attention_resolutions": "32,16,8", **a, "use_new_attention_order": True}
    of_classifier = (*(k for k in CLASSIFIER_DEFAULTS if k.startswith("classifier_")), "large_size", "small_size")
    a = checked("A guided-diffusion model", a, _UNET_DEFAULTS, ignored=(*_NOT_ARCHITECTURE, *of_classifier))
    return _adm(a, image_size=a["image_size"], multipliers=_multipliers(a["image_size"], a["channel_mult"]))


def upsampler(a: Arguments) -> Architecture:
    defaults = _UNET_DEFAULTS | {"large_size": 256, "small_size": 64}
    a = checked("A guided-diffusion up-sampler", a, defaults, ignored=_NOT_ARCHITECTURE)
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
            attention=factors(image_size, a["attention_resolutions"]),
            dropout=a["dropout"],
            classes=a["num_classes"] if a["class_cond"] else None,
            low_resolution="large_size" in a,
            **heads_of(a["num_heads"], a["num_head_channels"], a["num_heads_upsample"]),
            **blocks_of(scale_shift=a["use_scale_shift_norm"], updown=a["resblock_updown"]),
        ),
        qkv="qkv_first" if a["use_new_attention_order"] else "heads_first",
    )


def heads_of(heads: int, channels: int, upsample: int) -> dict[str, Any]:
    if channels not in (-1, None):
        return {"head_width": channels}
    if heads in (-1, None):
        raise ConfigurationError("Give num_heads or num_head_channels; both are missing or -1.")
    return {"heads": heads, "decoder_heads": None if upsample in (-1, None) else upsample}


def blocks_of(*, scale_shift: bool, updown: bool, convolution: bool = True) -> dict[str, Any]:
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


def classifier(a: Arguments) -> Architecture:
    ignored = (*_NOT_ARCHITECTURE, *_UNET_DEFAULTS)
    a = checked("A guided-diffusion classifier", a, CLASSIFIER_DEFAULTS, ignored=ignored)
    size = a["image_size"]
    trunk = UNetConfig(
        width=a["classifier_width"],
        multipliers=_multipliers(size, ""),
        blocks=a["classifier_depth"],
        attention=factors(size, a["classifier_attention_resolutions"]),
        head_width=64,
        **blocks_of(scale_shift=a["classifier_use_scale_shift_norm"], updown=a["classifier_resblock_updown"]),
    )
    return Architecture(
        network=ClassifierConfig(
            trunk=trunk, classes=a["num_classes"], image_size=size, pool=pool_of(a["classifier_pool"])
        )
    )


def pool_of(name: str) -> Any:
    if name not in _POOLS:
        raise ConfigurationError(f"No pooling {name!r}; there are {', '.join(_POOLS)}.")
    return _POOLS[name]


def means_classifier(a: Arguments, keys: Sequence[str]) -> bool:
    """Whether the classifier is meant: the scripts pass its arguments and those of the model in one dictionary.

    Args:
        keys: of the state dict, which tell the two apart where the arguments do not.
    """
    named = any(key in CLASSIFIER_DEFAULTS for key in a if key.startswith("classifier_"))
    decodes = any("output_blocks." in key for key in keys)
    encodes = any("input_blocks." in key for key in keys)
    if "num_channels" in a and not named:
        return False
    return (encodes and not decodes) or (not encodes and named)


def training(a: Arguments) -> Training:
    """The process that the flags name.

    Source:
        openai/consistency_models `karras_diffusion.py` (EDM's process and preconditioning, 250 log(sigma) told);
        openai/guided-diffusion `script_util.py:create_gaussian_diffusion`, whose linear schedule keeps the sum of the
        betas for every number of steps, and the same of openai/improved-diffusion, whose default of `rescale_timesteps`
        is True. The flags of the two repositories have the same names but for `sigma_small`, which only the second one
        has: where it is named and `rescale_timesteps` is not, its default holds.
    """
    if _of_consistency(a):
        edm = LogSigma(low=float(a.get("sigma_min", 0.002)), high=float(a.get("sigma_max", 80.0)), told=250.0)
        return Training(process=edm, kind="edm", side=int(a.get("image_size", 64)))
    defaults: dict[str, Any] = {
        "diffusion_steps": 1000, "noise_schedule": "linear", "predict_xstart": False, "learn_sigma": False,
        "sigma_small": False, "rescale_timesteps": "sigma_small" in a,
    }  # fmt: skip
    told = defaults | {name: literal(a[name], default) for name, default in defaults.items() if name in a}
    steps = int(told["diffusion_steps"])
    name = schedule(told["noise_schedule"], {"linear": "linear", "cosine": "cosine"}, "noise_schedule")
    side = a.get("large_size", a.get("image_size"))
    return Training(
        process=Discrete(
            schedule=name,
            steps=steps,
            low=0.1 / steps,
            high=20 / steps,
            told=1000 / steps if told["rescale_timesteps"] else 1.0,
        ),
        kind="x0" if told["predict_xstart"] else "eps",
        learned_variance=bool(told["learn_sigma"]),
        variance="" if told["learn_sigma"] else "small" if told["sigma_small"] else "large",
        side=None if side is None else int(side),
    )
