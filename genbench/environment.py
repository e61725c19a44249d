"""What a number was made with: versions, device and commit."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from genbench import ranks
from genbench.errors import UsageError

_PACKAGES = (
    "genbench", "torch", "torchvision", "numpy", "scipy",
    # What decodes images, embeds them, cuts texts and reads weights.
    "pillow", "timm", "open-clip-torch", "ftfy", "safetensors",
)  # fmt: skip


@cache
def commit() -> str | None:
    """Commit of the checkout that this package lies in, with a plus sign when files differ; None when installed."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str | None]:
    """Versions of what a number depends on, None for what is not installed. Imports none of it."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def choose_device(wanted: str) -> str:
    """Resolves "auto" and checks that the device is there; nothing falls back silently.

    Of several processes on a machine, each has a GPU of its own, that of its number there.

    Raises:
        UsageError: a device that torch does not see, no device at all, or one GPU for several processes.
    """
    import torch

    if ":" in wanted and ranks.count() > 1:
        raise UsageError(f"The device {wanted!r} would be that of all processes; say cuda, and each has its own.")
    if wanted in ("auto", "cuda") and torch.cuda.is_available():
        wanted = ranks.here("cuda")
    if wanted == "auto":
        return "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = wanted.partition(":")
    if kind == "cpu" and not index:
        return wanted
    if kind == "mps" and not index and torch.backends.mps.is_available():
        return wanted
    if kind == "cuda" and (not index or index.isdigit()) and torch.cuda.is_available():
        if int(index or 0) < torch.cuda.device_count():
            return wanted
        raise UsageError(f"The device {wanted!r} was asked for; torch sees {torch.cuda.device_count()} CUDA devices.")
    raise UsageError(
        f"The device {wanted!r} was asked for and torch does not see it. Allowed: auto, cpu, cuda, cuda:INDEX, mps."
    )


def snapshot(device: str) -> dict[str, Any]:
    """The record of machine and software that every result carries."""
    import torch

    name = (
        torch.cuda.get_device_name(device)
        if device.startswith("cuda")
        else (platform.processor() or platform.machine())
    )
    return {
        **versions(),
        "commit": commit(),
        "device": device,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processes": ranks.count(),
        "system": f"{platform.system()} {platform.release()}",
        "cuda": torch.version.cuda if device.startswith("cuda") else None,
        "cudnn": torch.backends.cudnn.version() if device.startswith("cuda") else None,
        # Whatever the program around has chosen, see `genbench.arithmetic`. Only `cas` trains in TensorFloat-32.
        "float32": "ieee",
    }
