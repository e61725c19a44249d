"""A whole latent model of a user: the arguments of its training say what all its networks are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baselines.files.arguments import architecture
from baselines.files.dialects import lsgm
from baselines.files.dialects.common import ConfigurationError
from baselines.networks.autoencoder import AutoencoderConfig
from baselines.networks.transformer import LabelTokensConfig
from baselines.networks.unet import UNetConfig
from baselines.records import Latent, Part, Release, square
from baselines.schedules import Discrete


def whole(arguments: Mapping[str, Any]) -> bool:
    """Whether these are the arguments of a whole latent model, that of latent diffusion or LSGM."""
    return "unet_config" in _params(arguments) or lsgm.whole(arguments)


def of_lsgm(path: str, arguments: Mapping[str, Any]) -> Release:
    """The system in one file of LSGM: its prior, and the autoencoder that both its halves are in.

    Raises:
        ConfigurationError: arguments that are not implemented here.
    """
    told, stage = lsgm.training(arguments), lsgm.autoencoder(arguments)
    prior, autoencoder = ({**arguments, lsgm.PART: part} for part in ("dae", "vae"))
    return Release(
        parts={
            "unet": Part(file=path, configuration=prior, process=told.process, kind=told.kind),
            "first_stage": Part(file=path, configuration=autoencoder),
        },
        shape=square(stage.side),
        latent=Latent(channels=stage.groups * stage.latents, factor=2**stage.blocks),
    )


def _params(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of the model: those under `model.params` of a yaml, or these themselves."""
    model = arguments.get("model", arguments)
    found = model.get("params", model) if isinstance(model, Mapping) else {}
    return found if isinstance(found, Mapping) else {}


def release(path: str, arguments: Mapping[str, Any]) -> Release:
    """The system in one file of latent diffusion or of LSGM.

    Args:
        path: of the file of `LatentDiffusion`, with its first stage and the network of its condition.
        arguments: of its yaml. Beside those of the repository, `null_label` at the top names the label that means none,
            where there is one.

    Raises:
        ConfigurationError: a condition or a process that is not implemented here.

    Source:
        CompVis/latent-diffusion `ddpm.py:DDPM`, `LatentDiffusion`: linear schedule in the root of beta, from
        `linear_start` to `linear_end`; with `scale_by_std` the factor of latents stands in the file.
    """
    if lsgm.whole(arguments):
        return of_lsgm(path, arguments)
    a = _params(arguments)
    for name, value in {"beta_schedule": "linear", "parameterization": "eps", "v_posterior": 0.0}.items():
        if a.get(name, value) != value:
            raise ConfigurationError(f"LatentDiffusion with {name}={a[name]!r} is not implemented, only {value!r}.")
    if a.get("conditioning_key") not in (None, "crossattn"):
        raise ConfigurationError(
            f"conditioning_key={a['conditioning_key']!r} is not implemented; cross-attention and no condition are."
        )
    unet, stage = architecture(a["unet_config"]).network, architecture(_needed(a, "first_stage_config")).network
    if not isinstance(unet, UNetConfig) or not isinstance(stage, AutoencoderConfig):
        raise ConfigurationError("unet_config is no U-Net, or first_stage_config no autoencoder.")
    factor = 2 ** (len(stage.multipliers) - 1)
    process = Discrete(
        schedule="scaled_linear",
        steps=int(a.get("timesteps", 1000)),
        low=float(a.get("linear_start", 1e-4)),
        high=float(a.get("linear_end", 2e-2)),
    )
    parts = {
        "unet": Part(file=path, configuration=a["unet_config"], process=process),
        "first_stage": Part(file=path, configuration=a["first_stage_config"]),
    }
    classes, null = 0, arguments.get("null_label")
    if unet.context is not None:
        table = architecture(_needed(a, "cond_stage_config")).network
        if not isinstance(table, LabelTokensConfig):
            raise ConfigurationError(
                "cond_stage_config is no ClassEmbedder; captions are read by the published text-to-image models alone."
            )
        parts["condition"] = Part(file=path, configuration=a["cond_stage_config"])
        classes = table.classes - (null is not None)
    scale = None if a.get("scale_by_std") else float(a.get("scale_factor", 1.0))
    return Release(
        parts=parts,
        shape=square(int(a.get("image_size", 256)) * factor),
        latent=Latent(channels=stage.code_channels, factor=factor, scale=scale),
        classes=classes,
        null=None if null is None else int(null),
    )


def _needed(a: Mapping[str, Any], name: str) -> Any:
    if not isinstance(a.get(name), Mapping):
        raise ConfigurationError(f"The arguments of a latent diffusion model need {name}.")
    return a[name]
