"""From a system, a function of weights, to a loader that a command line can name: whose weights, and which arguments.

The last line of every system is `load = loader(system, PRESETS)`. A loader takes `dataset` (whose weights), `device`,
`precision`, `fetch` (finds published files; given by whoever has a cache), `compiled` (whether torch compiles the
denoising networks), the arguments of the system itself, and

    weights: a file to use instead: a path, or the name of a published file or release.
    config: what network it holds, where that is another than the data set's: a name of a published architecture, or
        the path of a .json or .yaml file of arguments in the names of the original repository. It brings its process,
        the size of its images and its classes.
    classes: how many classes there are, where the network has rows for more.

Weights are read when the first image is asked for, so that a loader costs nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import wraps
from typing import Any, TypeVar

from baselines.files import cards, catalogue, latent_models
from baselines.files.arguments import training
from baselines.files.weights import Fetch, Weights, network_of
from baselines.networks.classifier import ClassifierConfig
from baselines.networks.ncsnpp import NCSNppConfig
from baselines.networks.unet import UNetConfig
from baselines.ranges import of_choice
from baselines.records import Part, Preset, Release, square

Model = TypeVar("Model")
Rows = Mapping[str, tuple[Mapping[str, Any], ...]]

_ARGUMENTS = """Weights of your own:
    weights: a path, or the name of a published file or release.
    config: what network it holds: a name, or the path of a .json or .yaml file of arguments. It brings its process.
    classes: how many classes there are, where the network has rows for more."""
_WHERE = {"dataset": str, "device": str, "precision": str}
_OWN = {"weights": "str | None", "config": "str | None", "classes": "int | None"}


def loader(
    system: Callable[..., Model], presets: Mapping[str, Preset], *, latents: bool = False, rows: Rows | None = None
) -> Callable[..., Model]:
    """Makes a loader of a function system(weights, *, ...).

    Args:
        system: the function. Its keywords are the arguments of the system on the command line.
        presets: data set to what the paper did there. Whoever runs the loader reads it as its attribute `presets`, and
            fills in the arguments that were not given.
        latents: whether the system samples latents; others sample pixels.
        rows: data set to rows of papers, see `Preset.rows`, where there are numbers and no weights.
    """
    name = system.__name__.replace("_", "-")

    @wraps(system)
    def load(
        *,
        dataset: str,
        device: str,
        precision: str,
        fetch: Fetch | None = None,
        compiled: bool = False,
        weights: str | None = None,
        config: str | None = None,
        classes: int | None = None,
        **arguments: Any,
    ) -> Model:
        release = choose(presets, dataset, weights, config, classes)
        if latents and release.latent is None:
            raise ValueError(f"{name} samples latents, and these weights are of pixels; use ddpm, ddim, cfg or adm-g.")
        if not latents and release.latent is not None:
            raise ValueError(f"{name} samples in the space of pixels, and these weights are of latents; use ldm.")
        own = config is not None
        ready = Weights(release=release, device=device, precision=precision, fetch=fetch, compiled=compiled, own=own)
        of_choice(system, arguments)
        return system(ready, **arguments)

    described: Any = load
    described.__signature__ = _signature(system)
    described.__doc__ = f"{inspect.getdoc(system) or ''}\n\n{_ARGUMENTS}"
    described.rows = rows or {}
    return with_presets(load, presets)


def with_presets(load: Callable[..., Model], presets: Mapping[str, Preset]) -> Callable[..., Model]:
    """Says on which data sets a loader has weights."""
    described: Any = load  # functions may have attributes, which their types cannot say
    described.presets = presets
    return load


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """The parameters of a loader: where, those of the system but its weights, and the user's own weights."""

    def keyword(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    signature = inspect.signature(function)
    places = [keyword(name, kind) for name, kind in _WHERE.items()]
    places += [keyword("fetch", "Fetch | None", None), keyword("compiled", bool, default=False)]
    mine = list(signature.parameters.values())[1:]
    own = [keyword(name, kind, None) for name, kind in _OWN.items()]
    return signature.replace(parameters=[*places, *mine, *own])


def choose(
    presets: Mapping[str, Preset],
    dataset: str,
    weights: str | None,
    config: str | None,
    classes: int | None = None,
) -> Release:
    """The release that is sampled from.

    Raises:
        ValueError: a data set without weights, none given; weights of which nothing says what they hold; or parts
            that do not fit each other.
    """
    preset = presets.get(dataset)
    base = None if preset is None else preset.release
    if weights is None:
        if base is None:
            raise ValueError(
                f"There are no weights for the data set {dataset!r}; there are weights for {', '.join(presets)}. "
                "Your own are weights='PATH', config='NAME'."
            )
        if config is not None:
            raise ValueError(f"config={config!r} says what the file of weights= holds; give both.")
        release = base
    elif weights in catalogue.releases() and config is None:
        release = catalogue.releases()[weights]
    elif cards.described(weights) and config is None:
        release = cards.release(weights)
    else:
        release = of_file(weights, config, base=base)
    return checked(release if classes is None else replace(release, classes=classes))


def of_file(path: str, config: str | Mapping[str, Any] | None, *, base: Release | None) -> Release:
    """The release that a user's own file is.

    Args:
        path: of the file, or the name of a published one.
        config: what its denoising network is, see the module, None for what is published of the file or for that of
            `base`.
        base: release of the preset on this data set, None where there is none. With no `config` its process and its
            other networks are kept. Those of a latent diffusion model are taken from the same file. With a `config`
            its other networks are kept where they fit.

    Raises:
        ValueError: a file of which nothing says what is in it, or an unknown configuration.
    """
    if config is None and path in catalogue.files():
        for found in catalogue.releases().values():
            if "unet" in found.parts and found.parts["unet"].file == path:
                return found
        config = catalogue.files()[path].networks.get("unet")
    if base is not None and "unet" not in base.parts:
        return _other_file(base, path, config)
    if config is None:
        if base is None or not catalogue.configuration_of(base.parts["unet"], "unet") or base.tokenizer == "words":
            raise ValueError(
                f"Nothing says what network {path!r} holds; name its configuration, such as config='adm-imagenet64'. "
                f"There are {', '.join(catalogue.configurations())}."
            )
        return _moved(base, path)
    arguments = catalogue.arguments_of(config)
    if latent_models.whole(arguments):
        return latent_models.release(path, arguments)
    return _of_configuration(path, config, arguments, base)


def _other_file(release: Release, path: str, config: str | Mapping[str, Any] | None) -> Release:
    """A system that is no diffusion model, with another file for its first network."""
    role, part = next(iter(release.parts.items()))
    known = config or catalogue.configuration_of(part, role)
    return replace(release.with_parts(**{role: replace(part, file=path, configuration=known)}), name="")


def _moved(release: Release, path: str, **changes: Any) -> Release:
    """The same system from another file: all of a latent diffusion model, else the denoising network alone."""
    roles = [role for role in release.parts if role == "unet" or (release.latent is not None and role != "vocabulary")]
    parts = {}
    for role in roles:
        part = release.parts[role]
        parts[role] = replace(part, file=path, configuration=catalogue.configuration_of(part, role))
    if changes:
        parts["unet"] = replace(parts["unet"], **changes)
    return replace(release.with_parts(**parts), name="")


def _of_configuration(
    path: str, config: str | Mapping[str, Any], arguments: Mapping[str, Any], base: Release | None
) -> Release:
    """What arguments say of a system: its process, the size of its images and its classes."""
    told = training(arguments)
    if told is None:
        return _moved(_latent_base(config, base), path, configuration=config)
    if told.side is None:
        raise ValueError(f"The configuration {config!r} alone makes no model of images: it names no image size.")
    part = Part(
        file=path,
        configuration=config,
        process=told.process,
        kind=told.kind,
        learned_variance=told.learned_variance,
        variance=told.variance,
    )
    network = network_of(part, "unet")
    classes = (getattr(network, "classes", None) or 0) - told.null
    own = Release(parts={"unet": part}, shape=square(told.side), classes=classes, null=classes if told.null else None)
    if base is None or base.shape != own.shape or base.parts["unet"].process != part.process:
        return own
    kept = {role: other for role, other in base.parts.items() if role == "classifier"}
    return replace(own, parts={**own.parts, **kept}, classes=classes or (base.classes if kept else 0))


def _latent_base(config: str | Mapping[str, Any], base: Release | None) -> Release:
    """A latent diffusion model with this denoising network: that of the data set, else a published one."""
    if base is not None and base.latent is not None:
        return base
    for found in catalogue.releases().values():
        if "unet" in found.parts and catalogue.configuration_of(found.parts["unet"], "unet") == config:
            return found
    raise ValueError(
        f"The configuration {config!r} alone makes no model of images; give the .yaml of the whole latent diffusion "
        "model, which names its process and its first stage."
    )


def checked(release: Release) -> Release:
    """The release itself, after making sure that its networks fit each other, as far as configurations say it.

    Raises:
        ValueError: what does not fit what, and what to do.
    """
    for role in ("unet", "unconditional", "classifier"):
        if role not in release.parts:
            continue
        part, network = release.parts[role], network_of(release.parts[role], role)
        if isinstance(network, UNetConfig):
            _check_unet(release, role, part, (network.in_channels, network.out_channels, network.classes))
        elif isinstance(network, NCSNppConfig):
            outputs = network.outputs or network.channels
            _check_unet(release, role, part, (network.channels, outputs, network.classes))
        elif role == "classifier" and isinstance(network, ClassifierConfig):
            if network.image_size != release.shape[1]:
                raise ValueError(
                    f"The classifier {part.file!r} is for images of {network.image_size} pixels, the denoising network "
                    f"for {release.shape[1]}."
                )
            if network.classes < release.classes:
                raise ValueError(
                    f"The classifier {part.file!r} knows {network.classes} classes, and {release.classes} are asked "
                    "for; give classes=..."
                )
    return release


def _check_unet(release: Release, role: str, part: Part, network: tuple[int, int, int | None]) -> None:
    """Compares the channels that a denoising network takes and returns, and its classes, with those of the release."""
    taken_channels, returned, classes = network
    channels = release.state[0]
    taken = 2 * channels if part.kind == "velocity" else channels
    if taken_channels != taken:
        raise ValueError(f"The network for {role!r} takes {taken_channels} channels, and states have {taken}.")
    expected = channels * (2 if part.learned_variance else 1)
    if returned != expected:
        has = "a" if part.learned_variance else "no"
        raise ValueError(
            f"The network for {role!r} has {returned} output channels; with {has} learned variance it has "
            f"{expected}. Name the arguments that it was trained with as config=."
        )
    if classes is not None and release.classes > classes:
        raise ValueError(f"The network for {role!r} has rows for {classes} classes; {release.classes} are asked for.")
