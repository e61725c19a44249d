"""NCSN and NCSNv2: the yaml of ermongroup/ncsn and ermongroup/ncsnv2, and score_sde's configurations of the same."""

from __future__ import annotations

from typing import Any

from baselines.files.dialects.common import Architecture, Arguments, ConfigurationError, Training, checked
from baselines.networks.refinenet import RefineNetConfig
from baselines.processes import VarianceExplodingDiscrete

_MODEL: dict[str, Any] = {"ngf": 128, "num_classes": 10, "sigma_begin": 1.0, "sigma_end": 0.01}
"""configs/anneal.yml of ermongroup/ncsn, for CIFAR-10."""
_SCORE_SDE: dict[str, Any] = {"nf": 128, "num_scales": 1000, "sigma_min": 0.01, "sigma_max": 50.0}
_STAGES = {"ncsnv2_64": (1, 2, 2, 2), "ncsnv2_128": (1, 2, 2, 4, 4), "ncsnv2_256": (1, 2, 2, 2, 4, 4)}
_FIXED = {
    "normalization": "InstanceNorm++", "nonlinearity": "elu", "spec_norm": False, "sigma_dist": "geometric",
    "batch_norm": False, "interpolation": "bilinear",
}  # fmt: skip
_BY_DATASET = {"CIFAR10": "ncsnv2_64", "CELEBA": "ncsnv2_64", "LSUN": "ncsnv2_128", "FFHQ": "ncsnv2_256"}
"""ermongroup/ncsnv2 `runners/ncsn_runner.py:get_model`."""


def knows(a: Arguments) -> bool:
    """Whether the arguments are a yaml of one of the two repositories, or score_sde's of their networks."""
    model = a.get("model")
    return isinstance(model, dict) and ("ngf" in model or model.get("name") in ("ncsn", *_STAGES))


def _read(a: Arguments) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The network's name in score_sde, what the model says in the names of ermongroup, and the section `data`."""
    model, data = dict(a["model"]), dict(a.get("data", {}))
    if data.get("logit_transform", False):
        raise ConfigurationError("logit_transform=True is not implemented, only images themselves.")
    if "name" in model and model["name"] in ("ncsn", *_STAGES):
        name = str(model.pop("name"))
        ignored = ("ema_rate", "scale_by_sigma", "beta_min", "beta_max", "dropout", "embedding_type")
        m = checked(f"The network {name!r}", model, _SCORE_SDE, ignored=ignored, fixed=_FIXED)
        m = {
            "ngf": m["nf"], "num_classes": m["num_scales"], "sigma_begin": m["sigma_max"], "sigma_end": m["sigma_min"],
        }  # fmt: skip
        return name, m, data
    # The yaml of the second repository alone says how its levels are spread.
    second = "sigma_dist" in model or "normalization" in model
    m = checked("A network of NCSN", model, _MODEL, ignored=("ema", "ema_rate"), fixed=_FIXED)
    return (_by_data(data) if second else "ncsn"), m, data


def _by_data(data: Arguments) -> str:
    """The network of NCSNv2 for a data set, or, of another one, for its size as score_sde chooses."""
    if "dataset" in data and data["dataset"] in _BY_DATASET:
        return _BY_DATASET[data["dataset"]]
    side = int(data.get("image_size", 32))
    return "ncsnv2_64" if side < 96 else "ncsnv2_128" if side <= 128 else "ncsnv2_256"


def _centered(data: Arguments) -> bool:
    return bool(data.get("rescaled", data.get("centered", False)))


def network(a: Arguments) -> Architecture:
    """ermongroup/ncsn `CondRefineNetDilated`; ermongroup/ncsnv2 `NCSNv2`, `NCSNv2Deeper` and `NCSNv2Deepest`."""
    name, m, data = _read(a)
    return Architecture(
        network=RefineNetConfig(
            channels=int(data.get("channels", data.get("num_channels", 3))),
            width=m["ngf"],
            multipliers=_STAGES.get(name, _STAGES["ncsnv2_64"]),
            levels=m["num_classes"] if name == "ncsn" else None,
            centered=_centered(data),
        )
    )


def training(a: Arguments) -> Training:
    """Levels in a geometric progression, whose numbers are told; the score, or the score times sigma, is output.

    Source: ermongroup/ncsn `runners/anneal_runner.py`; ermongroup/ncsnv2 `models/__init__.py:get_sigmas`.
    """
    name, m, data = _read(a)
    scale = 1.0 if _centered(data) else 2.0  # sigmas are those of images in [-1, 1]
    process: Any = VarianceExplodingDiscrete(
        low=scale * m["sigma_end"], high=scale * m["sigma_begin"], steps=int(m["num_classes"])
    )
    kind = "score" if name == "ncsn" else "scaled_score"
    return Training(process=process, kind=kind, side=int(data.get("image_size", 32)))
