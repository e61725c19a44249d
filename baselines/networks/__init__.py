"""Networks, most of them built from the one vocabulary of blocks in `blocks`.

A kind is the name of a network in descriptions of weights. Each module of this folder has a table `KINDS` of its own
kinds to their configurations. A configuration is a frozen dataclass of plain values with a method `build`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from typing import Any, Protocol, get_type_hints

from torch import nn


class NetworkConfig(Protocol):
    """An architecture as data."""

    def build(self) -> nn.Module:
        """The network with random weights on the default device; under `torch.device("meta")` it costs nothing."""
        ...


@cache
def kinds() -> Mapping[str, type[NetworkConfig]]:
    """Kind of a network to the class of its configuration, of all modules of this folder."""
    modules = (import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    return {kind: config for module in modules for kind, config in getattr(module, "KINDS", {}).items()}


def kind_of(config: NetworkConfig) -> str:
    """The kind whose configuration this is.

    Raises:
        ValueError: a configuration of no kind.
    """
    for kind, known in kinds().items():
        if type(config) is known:
            return kind
    raise ValueError(f"{type(config).__name__} belongs to no kind of network; there are {', '.join(kinds())}.")


def configured(kind: str, arguments: Mapping[str, Any]) -> NetworkConfig:
    """The configuration that a description of weights holds as JSON: lists for tuples, objects for parts.

    Raises:
        ValueError: an unknown kind, or an argument that it does not have.
    """
    if kind not in kinds():
        raise ValueError(f"There is no kind of network {kind!r}; there are {', '.join(kinds())}.")
    made: NetworkConfig = _made(kinds()[kind], kind, arguments)
    return made


def _made(config: Any, kind: str, arguments: Mapping[str, Any]) -> Any:
    hints = get_type_hints(config)
    names = [field.name for field in fields(config)]
    if unknown := [name for name in arguments if name not in names]:
        raise ValueError(f"The network {kind!r} has no {', '.join(unknown)}; it has {', '.join(names)}.")
    values: dict[str, Any] = {}
    for name, value in arguments.items():
        part = is_dataclass(hints[name]) and isinstance(value, Mapping)
        values[name] = _made(hints[name], f"{kind}.{name}", value) if part else _plain(value)
    return config(**values)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
