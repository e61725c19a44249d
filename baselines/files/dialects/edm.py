"""EDM: the arguments of its networks of the kind of NCSN++ and DDPM++."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from baselines.files.dialects.common import Architecture, Arguments, ConfigurationError, Training, checked, factors
from baselines.networks.ncsnpp import NCSNppConfig
from baselines.schedules import LogSigma

_SONG: dict[str, Any] = {
    "img_resolution": 32, "img_channels": 3, "label_dim": 0, "model_channels": 128, "channel_mult": (1, 2, 2, 2),
    "num_blocks": 4, "attn_resolutions": (16,), "dropout": 0.1, "embedding_type": "positional",
    "channel_mult_noise": 1, "encoder_type": "standard", "decoder_type": "standard", "resample_filter": (1, 1),
    "sigma_min": 0.0, "sigma_max": float("inf"),
}  # fmt: skip
"""NVlabs/edm `training/networks.py:SongUNet` and `EDMPrecond`."""
_OF_TRAINING = ("augment_dim", "label_dropout", "use_fp16", "class_name", "init_kwargs")
_ENCODERS: Mapping[str, Literal["none", "residual", "input_skip"]] = {
    "standard": "none", "residual": "residual", "skip": "input_skip",
}  # fmt: skip
_DECODERS: Mapping[str, Literal["none", "output_skip"]] = {"standard": "none", "skip": "output_skip"}
_FILTERS = {(1, 1): False, (1, 3, 3, 1): True}


def _arguments(a: Arguments) -> dict[str, Any]:
    fixed = {"model_type": "SongUNet", "channel_mult_emb": 4, "sigma_data": 0.5}
    m = checked("A network of EDM", a, _SONG, ignored=_OF_TRAINING, fixed=fixed)
    for name, known in (("encoder_type", _ENCODERS), ("decoder_type", _DECODERS)):
        if m[name] not in known:
            raise ConfigurationError(f"{name}={m[name]!r} is not implemented; there are {', '.join(known)}.")
    if tuple(m["resample_filter"]) not in _FILTERS:
        raise ConfigurationError(f"resample_filter={m['resample_filter']!r} is not implemented, only 1,1 and 1,3,3,1.")
    if (m["embedding_type"], m["channel_mult_noise"]) not in (("positional", 1), ("fourier", 2)):
        raise ConfigurationError("embedding_type is positional with channel_mult_noise 1, or fourier with 2.")
    return m


def network(a: Arguments) -> Architecture:
    """NVlabs/edm `training/networks.py:SongUNet`."""
    m = _arguments(a)
    return Architecture(
        network=NCSNppConfig(
            channels=m["img_channels"],
            width=m["model_channels"],
            multipliers=tuple(m["channel_mult"]),
            blocks=m["num_blocks"],
            attention=factors(m["img_resolution"], m["attn_resolutions"]),
            filtered=_FILTERS[tuple(m["resample_filter"])],
            progressive_input=_ENCODERS[m["encoder_type"]],
            progressive=_DECODERS[m["decoder_type"]],
            embedding="positional" if m["embedding_type"] == "positional" else "fourier_told",
            by_sigma=False,
            centered=True,
            dropout=m["dropout"],
            classes=m["label_dim"] or None,
            side=m["img_resolution"],
        )
    )


def training(a: Arguments) -> Training:
    """EDM's process: log(sigma) / 4 is told, and the output is that of its preconditioning.

    The levels are those of its sampler, 0.002 to 80.

    Source: Karras et al. 2022 Table 1; NVlabs/edm `EDMPrecond`, `generate.py`.
    """
    return Training(process=LogSigma(), kind="edm", side=int(_arguments(a)["img_resolution"]))
