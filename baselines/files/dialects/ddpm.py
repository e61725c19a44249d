"""DDPM in PyTorch: the yaml of ermongroup/ddim."""

from __future__ import annotations

from typing import Any

from baselines.files.dialects.common import (
    Architecture,
    Arguments,
    ConfigurationError,
    Training,
    checked,
    factors,
    schedule,
)
from baselines.networks.unet import UNetConfig
from baselines.schedules import Discrete

_DDPM_DEFAULTS = {
    "ch": None, "out_ch": 3, "in_channels": 3, "ch_mult": (1, 2, 4, 8), "num_res_blocks": None,
    "attn_resolutions": None, "resolution": None, "dropout": 0.0, "resamp_with_conv": True,
}  # fmt: skip


def network(a: Arguments) -> Architecture:
    """ermongroup/ddim `models/diffusion.py:Model`, from its yaml (`data`, `model`) or from pesser's flat arguments."""
    if "model" in a:
        a = dict(a["model"]) | {"resolution": a["data"]["image_size"]}
    a = dict(a)
    if "image_size" in a:
        a["resolution"] = a.pop("image_size")
    a = checked("A DDPM model", a, _DDPM_DEFAULTS, ignored=("var_type", "ema_rate", "ema"), fixed={"type": "simple"})
    return Architecture(
        network=UNetConfig(
            in_channels=a["in_channels"],
            out_channels=a["out_ch"],
            width=a["ch"],
            stem=a["ch"],
            multipliers=tuple(a["ch_mult"]),
            blocks=a["num_res_blocks"],
            attention=factors(a["resolution"], a["attn_resolutions"]),
            resample="conv" if a["resamp_with_conv"] else "pool",
            dropout=a["dropout"],
        )
    )


_DIFFUSION = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 2e-2, "num_diffusion_timesteps": 1000}
_SCHEDULES = {"linear": "linear", "quad": "scaled_linear"}
_VARIANCES = {"fixedlarge": "large", "fixedsmall": "small"}


def training(a: Arguments) -> Training:
    """The process of the section `diffusion`, and the variance of `model.var_type`.

    Source: ermongroup/ddim `runners/diffusion.py:get_beta_schedule`, whose "quad" is linear in the root of beta.
    """
    if not a.get("data", {}).get("rescaled", True) or a.get("data", {}).get("logit_transform", False):
        raise ConfigurationError("Images in [0, 1] or logits of them are not implemented: data.rescaled must be true.")
    d = checked("The section diffusion", a.get("diffusion", {}), _DIFFUSION)
    model, data = a.get("model", a), a.get("data", {})
    side = data.get("image_size", a.get("image_size", a.get("resolution")))
    name = schedule(d["beta_schedule"], _SCHEDULES, "beta_schedule")
    steps = int(d["num_diffusion_timesteps"])
    process = Discrete(schedule=name, steps=steps, low=float(d["beta_start"]), high=float(d["beta_end"]))
    variance: Any = schedule(model["var_type"], _VARIANCES, "var_type") if "var_type" in model else ""
    return Training(process=process, variance=variance, side=None if side is None else int(side))
