"""Strips: a picture of a row of images that says in itself what they are, so that a page can show them apart again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genbench.arrays import Images
from genbench.errors import InputRejected, shown
from genbench.files import atomic_write
from genbench.images.writing import GAP, png, side_by_side

SCHEMA = "genbench.strip/1"
_KEY = "genbench"
_LARGEST = 64_000_000
"""Pixels of a strip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the images of a strip are.

    Attributes:
        model, dataset: references with all arguments.
        seed: of the run; they are its images 0, 1, ...
        conditions: class or caption of every image, empty texts where there are none.
    """

    model: str
    dataset: str
    seed: int
    conditions: tuple[str, ...]


def write_strip(images: Images, path: str | os.PathLike[str], about: About) -> None:
    """Writes images side by side as a PNG with `about` in it.

    Args:
        images: uint8 (n, c, h, w) with c = 1 or 3 and n = len(about.conditions) > 0.
    """
    if len(images) != len(about.conditions):
        raise ValueError(f"{len(images)} images have {len(about.conditions)} conditions")
    told = json.dumps({"schema": SCHEMA, **asdict(about)})
    atomic_write(path, png(side_by_side(images, len(images)), {_KEY: told}))


def read_strip(path: str | os.PathLike[str]) -> tuple[Images, About]:
    """The images of a strip and what they are.

    Raises:
        InputRejected: no PNG, or none that `write_strip` wrote.
    """
    try:
        with Image.open(Path(path), formats=("PNG",)) as picture:
            told = json.loads(getattr(picture, "text", {})[_KEY])
            if told["schema"] != SCHEMA or picture.mode not in ("L", "RGB"):
                raise ValueError("it is of another form")
            if picture.width * picture.height > _LARGEST:
                raise ValueError("it is too large")
            pixels = np.asarray(picture)
        about = About(
            model=_text(told["model"]),
            dataset=_text(told["dataset"]),
            seed=int(told["seed"]),
            conditions=tuple(map(_text, told["conditions"])),
        )
        return _apart(pixels if pixels.ndim == 3 else pixels[..., None], len(about.conditions)), about
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        SyntaxError,
        RecursionError,
        Image.DecompressionBombError,
    ) as error:
        raise InputRejected(
            f"{shown(path)} is no strip of images ({shown(error)}); give a PNG of `genbench.images.write_strip`."
        ) from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is wanted, not {value!r}")
    return value


def _apart(pixels: NDArray[np.uint8], count: int) -> Images:
    height, width = pixels.shape[0] - 2 * GAP, (pixels.shape[1] - GAP) // max(1, count) - GAP
    if min(height, width, count) < 1 or count * (width + GAP) + GAP != pixels.shape[1]:
        raise ValueError(f"{count} images do not lie in {pixels.shape[1]} x {pixels.shape[0]} pixels")
    starts: Sequence[int] = [GAP + i * (width + GAP) for i in range(count)]
    parts = [pixels[GAP : GAP + height, start : start + width] for start in starts]
    return np.ascontiguousarray(np.stack(parts).transpose(0, 3, 1, 2))
