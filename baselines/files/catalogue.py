"""What all systems publish, by name: the tables FILES, CONFIGURATIONS and RELEASES of the modules of baselines.systems.

Systems are reached by the names of their files and not by imports, so that a new one is found without a line here.
"""

from __future__ import annotations

import difflib
import json
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from baselines import records
from baselines.files.dialects.common import ConfigurationError


@cache
def _tables(name: str) -> Mapping[str, Any]:
    """The entries of the tables of this name in all systems."""
    systems = import_module("baselines.systems")
    modules = [import_module(f"baselines.systems.{found.name}") for found in pkgutil.iter_modules(systems.__path__)]
    return {key: value for module in modules for key, value in getattr(module, name, {}).items()}


def files() -> Mapping[str, records.PublishedFile]:
    """Name to published file of weights."""
    return _tables("FILES")


def configurations() -> Mapping[str, records.Configuration]:
    """Name to published architecture."""
    return _tables("CONFIGURATIONS")


def releases() -> Mapping[str, records.Release]:
    """Name to published system."""
    return _tables("RELEASES")


def configuration(name: str) -> records.Configuration:
    """Looks up a published architecture by its name.

    Raises:
        ConfigurationError: no such name.
    """
    known = configurations()
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(known)}."
    raise ConfigurationError(f"No configuration named {name!r}. {hint}")


def arguments_of(config: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments as they are, those of a published configuration by its name, or those in a file of the user.

    Raises:
        ValueError: neither a name nor a .json or .yaml file of arguments.
    """
    if not isinstance(config, str):
        return config
    path = Path(config).expanduser()
    if config in configurations() or path.suffix not in (".json", ".yaml", ".yml"):
        return configuration(config).arguments
    if not path.is_file():
        raise ConfigurationError(f"There is no file {path} of arguments, and no configuration of that name.")
    try:
        told = _parsed(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not {path.suffix[1:].upper()} ({error}).") from error
    if not isinstance(told, dict):
        raise ConfigurationError(
            f'{path} holds no arguments by name, such as {{"image_size": 64, "num_channels": 128}}.'
        )
    return told


def _parsed(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except RecursionError as error:
            raise ValueError("it is nested too deep") from error
    try:
        import yaml
    except ImportError as error:
        raise ValueError("reading it needs PyYAML; pip install pyyaml, or give the arguments as .json") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from error


def configuration_of(part: records.Part, role: str) -> str | Mapping[str, Any]:
    """What network a part holds, by the part itself or by the published file, empty where nothing says it."""
    if part.configuration or part.file not in files():
        return part.configuration
    return files()[part.file].networks.get("unet" if role == "unconditional" else role, "")
