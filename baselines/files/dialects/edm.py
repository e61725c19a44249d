"""EDM: the arguments of its networks, of the kind of NCSN++ and DDPM++ or of ADM, and of what preconditions them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from baselines.files.dialects.common import (
    Architecture,
    Arguments,
    ConfigurationError,
    Training,
    checked,
    factors_of_sides,
)
from baselines.networks.ncsnpp import NCSNppConfig
from baselines.networks.unet import UNetConfig
from baselines.processes import VarianceExplodingLog, VariancePreserving
from baselines.schedules import Discrete, LogSigma

_COMMON: dict[str, Any] = {
    "img_resolution": 32, "img_channels": 3, "label_dim": 0, "label_dropout": 0.0, "num_blocks": 4, "dropout": 0.1,
}  # fmt: skip
_NETWORKS: Mapping[str, dict[str, Any]] = {
    "SongUNet": {
        **_COMMON, "model_channels": 128, "channel_mult": (1, 2, 2, 2), "attn_resolutions": (16,),
        "embedding_type": "positional", "channel_mult_noise": 1, "encoder_type": "standard",
        "decoder_type": "standard", "resample_filter": (1, 1),
    },
    "DhariwalUNet": {
        **_COMMON, "model_channels": 192, "channel_mult": (1, 2, 3, 4), "num_blocks": 3,
        "attn_resolutions": (32, 16, 8),
    },
}  # fmt: skip
"""NVlabs/edm `training/networks.py`: the networks and their defaults."""
_PRECONDITIONINGS: Mapping[str, dict[str, Any]] = {
    "EDMPrecond": {"sigma_min": 0.0, "sigma_max": float("inf")},
    "VPPrecond": {"beta_d": 19.9, "beta_min": 0.1},
    "VEPrecond": {"sigma_min": 0.02, "sigma_max": 100.0},
    "iDDPMPrecond": {"M": 1000},
}
"""The classes around the networks, by which a file is known, and the arguments of their processes."""
_FIXED: Mapping[str, dict[str, Any]] = {
    "EDMPrecond": {"sigma_data": 0.5},
    "VPPrecond": {"M": 1000, "epsilon_t": 1e-5},
    "VEPrecond": {},
    "iDDPMPrecond": {"C_1": 0.001, "C_2": 0.008},
}
_OF_TRAINING = ("augment_dim", "use_fp16", "class_name", "model_type")
_ENCODERS: Mapping[str, Literal["none", "residual", "input_skip"]] = {
    "standard": "none", "residual": "residual", "skip": "input_skip",
}  # fmt: skip
_DECODERS: Mapping[str, Literal["none", "output_skip"]] = {"standard": "none", "skip": "output_skip"}
_FILTERS = {(1, 1): False, (1, 3, 3, 1): True}


def _arguments(a: Arguments) -> tuple[str, str, dict[str, Any]]:
    """The classes of the network and of its preconditioning, and all arguments of both."""
    a = {**a["init_kwargs"], **{k: v for k, v in a.items() if k != "init_kwargs"}} if "init_kwargs" in a else a
    # Files of arguments that name no class are of EDM's own preconditioning.
    around = str(a.get("class_name", "EDMPrecond")).rpartition(".")[2]
    if around not in _PRECONDITIONINGS:
        known = ", ".join(_PRECONDITIONINGS)
        raise ConfigurationError(f"class_name={around!r} of EDM is not implemented; there are {known}.")
    default = "DhariwalUNet" if around in ("EDMPrecond", "iDDPMPrecond") else "SongUNet"
    kind = str(a.get("model_type", default))
    if kind not in _NETWORKS:
        known = ", ".join(_NETWORKS)
        raise ConfigurationError(f"model_type={kind!r} of EDM is not implemented; there are {known}.")
    fixed = {"channel_mult_emb": 4, **_FIXED[around]}
    defaults = _NETWORKS[kind] | _PRECONDITIONINGS[around]
    return around, kind, checked(f"{around} of {kind}", a, defaults, ignored=_OF_TRAINING, fixed=fixed)


def network(a: Arguments) -> Architecture:
    """NVlabs/edm `training/networks.py:SongUNet` and `DhariwalUNet`."""
    around, kind, m = _arguments(a)
    outputs = m["img_channels"] * (2 if around == "iDDPMPrecond" else 1)
    return Architecture(network=(_song if kind == "SongUNet" else _adm)(m, outputs))


def _song(m: Mapping[str, Any], outputs: int) -> NCSNppConfig:
    for name, known in (("encoder_type", _ENCODERS), ("decoder_type", _DECODERS)):
        if m[name] not in known:
            raise ConfigurationError(f"{name}={m[name]!r} is not implemented; there are {', '.join(known)}.")
    if tuple(m["resample_filter"]) not in _FILTERS:
        raise ConfigurationError(f"resample_filter={m['resample_filter']!r} is not implemented, only 1,1 and 1,3,3,1.")
    if (m["embedding_type"], m["channel_mult_noise"]) not in (("positional", 1), ("fourier", 2)):
        raise ConfigurationError("embedding_type is positional with channel_mult_noise 1, or fourier with 2.")
    null = _null(m)
    return NCSNppConfig(
        channels=m["img_channels"],
        outputs=None if outputs == m["img_channels"] else outputs,
        width=m["model_channels"],
        multipliers=tuple(m["channel_mult"]),
        blocks=m["num_blocks"],
        attention=factors_of_sides(m["img_resolution"], m["attn_resolutions"]),
        filtered=_FILTERS[tuple(m["resample_filter"])],
        progressive_input=_ENCODERS[m["encoder_type"]],
        progressive=_DECODERS[m["decoder_type"]],
        embedding="positional" if m["embedding_type"] == "positional" else "fourier_told",
        by_sigma=False,
        centered=True,
        dropout=m["dropout"],
        classes=m["label_dim"] + null or None,
        null=null,
        side=m["img_resolution"],
    )


def _adm(m: Mapping[str, Any], outputs: int) -> UNetConfig:
    null = _null(m)
    return UNetConfig(
        in_channels=m["img_channels"],
        out_channels=outputs,
        width=m["model_channels"],
        multipliers=tuple(m["channel_mult"]),
        blocks=m["num_blocks"],
        attention=factors_of_sides(m["img_resolution"], m["attn_resolutions"]),
        head_width=64,
        uneven_heads=True,
        modulation="scale_shift",
        resample="block",
        asymmetric=False,
        embedding_order="cos_sin",
        norm_eps=1e-5,
        group_width=4,
        dropout=m["dropout"],
        classes=m["label_dim"] + null or None,
        null=null,
        side=m["img_resolution"],
    )


def _null(m: Mapping[str, Any]) -> bool:
    """Whether the network was trained without a label as well."""
    return bool(m["label_dim"] and m["label_dropout"])


def training(a: Arguments) -> Training:
    """The process and the output of the preconditioning that `class_name` says.

    EDM's tells log(sigma) / 4, and its levels are those of its sampler, 0.002 to 80.

    Source:
        Karras et al. 2022 Table 1; NVlabs/edm `training/networks.py`, `generate.py`. Differs: where timesteps are told
        (iDDPM), a level between two of them has a timestep between theirs, where the original rounds sigma.
    """
    around, _, m = _arguments(a)
    side, null = int(m["img_resolution"]), _null(m)
    if around == "VPPrecond":
        process: Any = VariancePreserving(low=m["beta_min"], high=m["beta_min"] + m["beta_d"])
        return Training(process=process, side=side, null=null)
    if around == "VEPrecond":
        process = VarianceExplodingLog(low=m["sigma_min"], high=m["sigma_max"])
        return Training(process=process, kind="scaled_score", side=side, null=null)
    if around == "iDDPMPrecond":
        process = Discrete(schedule="cosine", steps=int(m["M"]))
        return Training(process=process, learned_variance=True, side=side, null=null)
    return Training(process=LogSigma(), kind="edm", side=side, null=null)
