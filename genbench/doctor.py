"""Whether this machine can do the work: one line a check, each with what to do when it fails."""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from genbench import describe, environment, files, registry, weights
from genbench.errors import GenbenchError


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding; `ok` is None for plain information."""

    name: str
    ok: bool | None
    says: str


def examine(output: Path) -> list[Check]:
    """Runs every check. None of them raises."""
    checks = [_versions(), *(_import(name) for name in ("torch", "torchvision", "open_clip", "pandas"))]
    checks += [_guard("devices", _devices), _guard("torch version", _torch_is_safe)]
    checks += [_writable("cache", weights.cache_directory()), _writable("output", output)]
    checks += [_guard(f"shipped weights {p.stem}", partial(_intact, p)) for p in weights.shipped_cards()]
    checks += [_guard(f"{kind}s", partial(_names, kind)) for kind in registry.KINDS]
    checks += [_guard("offline", _offline)]
    return [
        *checks,
        *(
            _guard(f"weights of {name}", partial(_weights_of, name), information=True)
            for name in _names_of_extractors()
        ),
    ]


def _names_of_extractors() -> list[str]:
    try:
        return sorted(registry.table("extractor"))
    except GenbenchError:
        return []


def _offline() -> str:
    return "yes (GENBENCH_OFFLINE or HF_HUB_OFFLINE), nothing is downloaded" if weights.offline() else "no"


def _weights_of(extractor: str) -> str:
    """Whether the network is there, and how to get it: without it the protocols of the papers cannot be measured."""
    needed = describe.weights_of("extractor", extractor)
    if not needed:
        return "none needed"
    (one,) = needed
    how = "" if one.where in ("shipped", "in the cache") else f"; genbench fetch {extractor}"
    return f"{one.where} ({one.size}){how}"


def _guard(name: str, check: Callable[[], str], *, information: bool = False) -> Check:
    try:
        return Check(name=name, ok=None if information else True, says=check())
    except (GenbenchError, OSError, RuntimeError, ImportError, ValueError) as error:
        return Check(name=name, ok=False, says=str(error))


def _names(kind: str) -> str:
    return ", ".join(registry.table(kind))


def _versions() -> Check:
    found = environment.versions()
    return Check(name="versions", ok=None, says=", ".join(f"{k} {v or 'not installed'}" for k, v in found.items()))


def _import(name: str) -> Check:
    try:
        importlib.import_module(name)
    except ImportError as error:
        return Check(name=name, ok=False, says=f"does not import ({error}); reinstall: pip install {name}")
    except RuntimeError as error:
        # "operator torchvision::nms does not exist": wheels of torch and torchvision from two indexes.
        says = (
            f"does not import ({error}); torch and torchvision must come from the same index: reinstall both together"
        )
        return Check(name=name, ok=False, says=says)
    return Check(name=name, ok=True, says="imports")


def _devices() -> str:
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    chosen, threads = environment.choose_device("auto"), torch.get_num_threads()
    return f"auto is {chosen}; {threads} threads; GPUs: {', '.join(gpus) or 'none'}"


def _torch_is_safe() -> str:
    import torch

    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if (major, minor) < (2, 10):
        raise GenbenchError(f"torch {torch.__version__} reads untrusted weight files unsafely; install 2.10 or newer")
    return f"{torch.__version__} loads weight files safely"


def _writable(name: str, directory: Path) -> Check:
    parent = directory
    while not parent.exists():
        parent = parent.parent
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        return Check(name=name, ok=False, says=f"{directory} cannot be written: {error.strerror}")
    return Check(name=name, ok=True, says=f"{directory} ({files.free_bytes(parent) >> 30} GiB free)")


def _intact(card: Path) -> str:
    about = json.loads(card.read_text(encoding="utf-8"))
    found = weights.sha256(card.with_name(about["file"]))
    if found != about["sha256"]:
        raise GenbenchError(f"{about['file']} has sha256 {found[:12]}..., its card says {about['sha256'][:12]}...")
    return f"sha256 {found[:12]}..., {about['bytes'] >> 10} KiB"
