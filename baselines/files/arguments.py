"""What the arguments of the original repositories mean, for the published architectures and for a user's own.

Each dialect reads the arguments of one repository with its defaults. An argument that would change the network or the
process in a way that is not implemented is refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from baselines.files import catalogue
from baselines.files.dialects import cld, ddgan, ddpm, diffusers, edm, guided, latent, lsgm, ncsn, score_sde
from baselines.files.dialects.common import Architecture, Arguments, ConfigurationError, Training
from baselines.networks import NetworkConfig, configured

Meaning = TypeVar("Meaning")

__all__ = ["Architecture", "Arguments", "ConfigurationError", "Training", "architecture", "training"]


class _Dialect(NamedTuple):
    """How arguments are known to be of a dialect, and who reads them.

    Attributes:
        knows: whether these arguments, of a class of this name (empty if they do not say), are of the dialect.
        network: the architecture that they mean.
        training: the process that they name, None where they name none.
    """

    knows: Callable[[Arguments, str], bool]
    network: Callable[[Arguments], Architecture]
    training: Callable[[Arguments], Training] | None = None


def _own(a: Arguments) -> Architecture:
    """The arguments of this package's own networks: a `kind` and its configuration."""
    try:
        return Architecture(network=configured(a["kind"], {k: v for k, v in a.items() if k != "kind"}))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from error


def _has(*names: str) -> Callable[[Arguments, str], bool]:
    return lambda a, target: any(name in a for name in names)


def _labels(a: Arguments, target: str) -> bool:
    return target == "ClassEmbedder" or set(a) <= {"n_classes", "embed_dim", "key"}


_DIALECTS = (
    _Dialect(_has("kind"), _own),
    _Dialect(_has("img_resolution", "model_type", "init_kwargs"), edm.network, edm.training),
    _Dialect(_has("block_out_channels", "_class_name"), diffusers.network, diffusers.training),
    _Dialect(_has("ddconfig", "z_channels"), latent.first_stage),
    _Dialect(_has("n_layer"), latent.text_encoder),
    _Dialect(_has("num_hidden_layers"), latent.clip_text_encoder),
    _Dialect(_labels, latent.label_tokens),
    _Dialect(_has("model_channels"), latent.unet_model),
    _Dialect(lambda a, target: ncsn.knows(a), ncsn.network, ncsn.training),
    _Dialect(lambda a, target: cld.knows(a), cld.network, cld.training),
    _Dialect(lambda a, target: score_sde.knows(a), score_sde.network, score_sde.training),
    _Dialect(lambda a, target: lsgm.whole(a), lsgm.network, lsgm.training),
    _Dialect(_has("num_channels_dae", "z_emb_dim", "n_mlp"), ddgan.network, ddgan.training),
    _Dialect(_has("ch_mult", "model"), ddpm.network, ddpm.training),
    _Dialect(_has("large_size", "small_size"), guided.upsampler, guided.training),
    _Dialect(lambda a, target: True, guided.network, guided.training),
)
"""The first dialect that knows the arguments reads them."""


def architecture(config: str | Arguments | NetworkConfig | Architecture, *, keys: Iterable[str] = ()) -> Architecture:
    """The architecture that a name or a dictionary of arguments means.

    Args:
        config: a name or path, see `catalogue.arguments_of`; a configuration of this package; its `kind` and fields;
            or a mapping in the argument names of one of
            improved- and guided-diffusion: `model_and_diffusion_defaults`, those of the up-samplers (with
            `large_size`), `classifier_defaults`, `UNetModel`, `EncoderUNetModel`;
            LDM: `params` of a yaml's UNetModel, AutoencoderKL, VQModel, VQModelInterface, BERTEmbedder or
            ClassEmbedder, with or without the `target` around them;
            score_sde: a configuration of NCSN++ or DDPM++, as sections `model`, `data` and `training`;
            CLD-SGM: the flags of its configurations;
            NCSN and NCSNv2: their yaml, or score_sde's configurations of their networks;
            EDM: `init_kwargs` of its networks, with the name of the class around them as `class_name`;
            denoising-diffusion-gan: the arguments of its scripts;
            LSGM: the same, with `network` "dae" for the prior or "vae" for the autoencoder;
            DDPM in PyTorch: the yaml of ermongroup/ddim, or its `ch`, `ch_mult`, ... alone;
            diffusers: config.json of UNet2DModel, UNet2DConditionModel, AutoencoderKL or VQModel, and of the
            CLIPTextModel beside them.
            Arguments that are missing have the default of their repository. Those of the process are `training`'s, and
            those of scripts are ignored.
        keys: of the state dict, which tell a U-Net from a classifier when the arguments name both.

    Raises:
        ConfigurationError: an unknown name or argument, or one whose value this package does not implement.
    """
    if isinstance(config, Architecture):
        return config
    if isinstance(config, str):
        return architecture(catalogue.arguments_of(config), keys=keys)
    if not isinstance(config, Mapping):
        return Architecture(network=config)
    a, dialect = _dialect(config)
    if dialect.network is guided.network and guided.means_classifier(a, list(keys)):
        return _read(guided.classifier, a)
    return _read(dialect.network, a)


def training(config: str | Arguments) -> Training | None:
    """The process that arguments name, None for arguments of a network alone, such as those of LDM's U-Net.

    Raises:
        ConfigurationError: an unknown name, or a process that this package does not implement.
    """
    if isinstance(config, str):
        return training(catalogue.arguments_of(config))
    a, dialect = _dialect(config)
    return None if dialect.training is None else _read(dialect.training, a)


def _read(reader: Callable[[Arguments], Meaning], a: Arguments) -> Meaning:
    """What a dialect reads of arguments, whose values may be of any type that a file can hold."""
    try:
        return reader(a)
    except ConfigurationError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, OverflowError, ArithmeticError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0] if str(error) else "odd"
        raise ConfigurationError(
            f"The arguments {', '.join(map(str, a))} cannot be read ({reason}). Give them as the original repository "
            "has them, with numbers, lists and true or false of its types."
        ) from error


def _dialect(config: Arguments) -> tuple[Arguments, _Dialect]:
    """The arguments of the network themselves, and who reads them."""
    target = str(config.get("target", "")).rpartition(".")[2]
    a: Any = config["params"] if "params" in config and "target" in config else config
    if "unet_config" in a:
        parts = "unet_config, first_stage_config or cond_stage_config"
        raise ConfigurationError(
            f"These are the arguments of a whole latent diffusion model; give one of its parts: {parts}."
        )
    return a, next(dialect for dialect in _DIALECTS if dialect.knows(a, target))
