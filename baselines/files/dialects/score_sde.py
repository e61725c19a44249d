"""score_sde: the configurations of NCSN++ and DDPM++, as mappings of their sections."""

from __future__ import annotations

from typing import Any

from baselines.files.dialects.common import (
    Architecture,
    Arguments,
    ConfigurationError,
    Training,
    checked,
    factors_of_sides,
)
from baselines.networks.ncsnpp import NCSNppConfig
from baselines.processes import SubVariancePreserving, VarianceExploding, VarianceExplodingDiscrete, VariancePreserving
from baselines.schedules import Discrete

_MODEL: dict[str, Any] = {
    "nf": 128, "ch_mult": (1, 2, 2, 2), "num_res_blocks": 4, "attn_resolutions": (16,), "fir": True,
    "skip_rescale": True, "progressive": "none", "progressive_input": "none", "progressive_combine": "sum",
    "embedding_type": "fourier", "scale_by_sigma": True, "dropout": 0.1, "sigma_min": 0.01, "sigma_max": 50.0,
    "num_scales": 1000, "beta_min": 0.1, "beta_max": 20.0,
}  # fmt: skip
"""configs/default_cifar10_configs.py, and what all configurations of NCSN++ have in common."""
_FIXED: dict[str, Any] = {
    "name": "ncsnpp", "normalization": "GroupNorm", "nonlinearity": "swish", "conditional": True,
    "resblock_type": "biggan", "attention_type": "ddpm", "conv_size": 3,
}  # fmt: skip
_OF_TRAINING = ("ema_rate", "init_scale", "fourier_scale", "fir_kernel", "resamp_with_conv")
_CHOICES = {
    "progressive": ("none", "output_skip"), "progressive_input": ("none", "residual", "input_skip"),
    "progressive_combine": ("sum", "cat"), "embedding_type": ("fourier", "positional"),
}  # fmt: skip


def knows(a: Arguments) -> bool:
    """Whether the arguments are a configuration of score_sde."""
    model = a.get("model")
    return isinstance(model, dict) and ("nf" in model or model.get("name") == "ncsnpp")


def _model(a: Arguments) -> dict[str, Any]:
    given = a["model"]
    if list(given.get("fir_kernel", [1, 3, 3, 1])) != [1, 3, 3, 1]:
        raise ConfigurationError(f"fir_kernel={given['fir_kernel']!r} is not implemented, only [1, 3, 3, 1].")
    m = checked("An NCSN++ model", given, _MODEL, ignored=_OF_TRAINING, fixed=_FIXED)
    for name, allowed in _CHOICES.items():
        if m[name] not in allowed:
            raise ConfigurationError(f"{name}={m[name]!r} is not implemented; there are {', '.join(allowed)}.")
    if m["embedding_type"] == "fourier" and not a.get("training", {}).get("continuous", True):
        raise ConfigurationError(
            "embedding_type='fourier' is of continuous training; continuous=False has 'positional'."
        )
    return m


def network(a: Arguments) -> Architecture:
    """yang-song/score_sde_pytorch `models/ncsnpp.py`."""
    m, data = _model(a), a.get("data", {})
    return Architecture(
        network=NCSNppConfig(
            channels=data.get("num_channels", 3),
            width=m["nf"],
            multipliers=tuple(m["ch_mult"]),
            blocks=m["num_res_blocks"],
            attention=factors_of_sides(data.get("image_size", 32), m["attn_resolutions"]),
            filtered=m["fir"],
            progressive_input=m["progressive_input"],
            progressive=m["progressive"],
            combine=m["progressive_combine"],
            embedding=m["embedding_type"],
            scaled=m["skip_rescale"],
            # Told the number of a level, a network does not know its sigma: the output is left as it is.
            by_sigma=m["scale_by_sigma"] and m["embedding_type"] == "fourier",
            centered=data.get("centered", False),
            dropout=m["dropout"],
        )
    )


def training(a: Arguments) -> Training:
    """The process of `training.sde`.

    Source: yang-song/score_sde_pytorch `models/utils.py:get_score_fn`, `sde_lib.py`.
    """
    m, data, of_training = _model(a), a.get("data", {}), a.get("training", {})
    centered, continuous = data.get("centered", False), of_training.get("continuous", True)
    side = int(data.get("image_size", 32))
    process: Any
    sde = of_training.get("sde", "vesde")
    scale = 1.0 if centered else 2.0  # sigmas are those of images in [-1, 1]
    low, high = scale * m["sigma_min"], scale * m["sigma_max"]
    if sde == "vesde" and m["scale_by_sigma"] and continuous and m["embedding_type"] == "fourier":
        return Training(process=VarianceExploding(low=low, high=high), kind="score", side=side)
    if sde == "vesde" and m["scale_by_sigma"] and not continuous:
        process = VarianceExplodingDiscrete(low=low, high=high, steps=int(m["num_scales"]))
        return Training(process=process, kind="scaled_score", side=side)
    if sde in ("vpsde", "subvpsde") and centered and not m["scale_by_sigma"]:
        if continuous or sde == "subvpsde":
            kind = VariancePreserving if sde == "vpsde" else SubVariancePreserving
            process = kind(low=m["beta_min"], high=m["beta_max"])
            return Training(process=process, side=side)
        steps = int(m["num_scales"])
        process = Discrete(steps=steps, low=m["beta_min"] / steps, high=m["beta_max"] / steps)
        return Training(process=process, side=side)
    raise ConfigurationError(
        f"sde={sde!r} with centered={centered}, continuous={continuous} and scale_by_sigma={m['scale_by_sigma']} is "
        "not implemented; there are vesde by sigma, continuous with embedding_type='fourier' and discrete with "
        "'positional', and vpsde and subvpsde on centered images."
    )
