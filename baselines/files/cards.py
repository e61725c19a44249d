"""The descriptions of weights that this project trained: a .json beside every .safetensors, shipped or of a user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from baselines.records import Latent, Part, Release
from baselines.schedules import Discrete, Variational

SHIPPED = Path(__file__).resolve().parent.parent / "weights"
"""The folder of the weights that come with this package."""


def described(file: str) -> bool:
    """Whether these weights have a description that says all about them. Other files need a configuration."""
    return _path(file) is not None


def shipped(file: str) -> bool:
    """Whether this is the name of weights that come with this package."""
    path = _path(file)
    return path is not None and path.parent == SHIPPED


def description(file: str) -> dict[str, Any]:
    """The description of shipped weights, or of a file that `scripts/train_baselines.py` wrote.

    Raises:
        FileNotFoundError: no such weights.
        ValueError: a description that is no JSON object or lacks what every one has.
    """
    path = _path(file)
    if path is None:
        raise FileNotFoundError(f"The weights {file!r} are not in {SHIPPED}; scripts/train_baselines.py makes them.")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}).") from error
    missing = [key for key in ("file", "sha256", "network") if not isinstance(told, dict) or key not in told]
    if missing:
        raise ValueError(f"{path} describes no weights: it has no {', '.join(missing)}.")
    return told


def file_of(file: str) -> Path:
    """The file that a description belongs to.

    Raises:
        FileNotFoundError: no such description, or no such file beside it.
    """
    about, path = description(file), _path(file)
    assert path is not None
    if not (path.parent / about["file"]).is_file():
        raise FileNotFoundError(f"{path} describes {about['file']}, which is not beside it.")
    return path.parent / about["file"]


def release(file: str) -> Release:
    """The system that a description speaks of.

    Raises:
        FileNotFoundError: no such weights.
        ValueError: weights that are part of a system and no system.
    """
    about = description(file)
    if "process" not in about or "shape" not in about:
        raise ValueError(f"{file!r} is part of a model; name the weights of its denoising network.")
    null, (c, h, w) = about["process"].get("null_label"), about["shape"]
    if "first_stage" not in about:
        classes: int = about.get("classes") or null or 0
        parts = {"unet": part(file)}
        if about.get("kind") == "variational":
            parts["schedule"] = Part(file=file, configuration=parts["unet"].configuration)
        return Release(parts=parts, shape=(c, h, w), name=file, classes=classes, null=null)
    latent = Latent(channels=about["network"]["unet"]["in_channels"], factor=4, scale=about["latent_scale"])
    return Release(
        parts={"unet": part(file), "first_stage": part(about["first_stage"]), "condition": part(file)},
        shape=(c, h, w),
        name=file,
        latent=latent,
        tokenizer="words",
        words=tuple(about["vocabulary"]),
        class_captions=tuple(about["class_captions"]),
        classes=len(about["class_captions"]),
    )


def part(file: str) -> Part:
    """The network that a description speaks of."""
    about = description(file)
    # Descriptions of a U-Net that a user trained before there were kinds name none.
    network = {"kind": about.get("kind", "unet"), **about["network"]}
    told = {key: value for key, value in about.get("process", {}).items() if key != "null_label"}
    if not told:
        return Part(file=file, configuration=network)
    kind, learned = told.pop("kind", "eps"), bool(told.pop("learned_variance", False))
    process = Discrete(**told) if "steps" in told or "schedule" in told else Variational(**told)
    return Part(file=file, configuration=network, process=process, kind=kind, learned_variance=learned)


def _path(file: str) -> Path | None:
    """Where the description lies: shipped, beside the file of a path, or given itself."""
    if not file:
        return None
    given, shipped = Path(file).expanduser(), SHIPPED / f"{file}.json"
    if shipped.is_file():
        return shipped
    beside = given.with_suffix(".json")
    return beside if given.suffix == ".safetensors" and beside.is_file() and not _of_arguments(beside) else None


def _of_arguments(path: Path) -> bool:
    """Whether a .json beside a file of weights has the arguments that its authors trained with, and is no description.

    What cannot be read is none of the two, and whoever reads it as a description says so.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and bool(told) and not {"file", "sha256", "network"} & set(told)
