"""Images to PNG files, grids and npz files."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from genbench.arrays import Images, Samples
from genbench.errors import InputRejected
from genbench.files import atomic_write, replacing

GAP = 2
"""White pixels between the images of a grid, and around them."""


def write_images(samples: Samples, folder: str | os.PathLike[str], *, start: int = 0) -> list[Path]:
    """Writes every image as an 8-bit RGB or greyscale PNG named by its number, 000000.png onwards.

    Each file is whole or absent. Reading the folder with `open_images` gives the same pixels in the same order.

    Args:
        start: number of the first image.
    """
    width = max(6, len(str(start + samples.count - 1)))
    paths = [Path(folder) / f"{start + i:0{width}}.png" for i in range(samples.count)]
    rest = iter(paths)
    for batch in samples.batches(_batch(samples)):
        for image, path in zip(batch, rest, strict=False):
            atomic_write(path, png(image), durable=False)
    return paths


def write_captions(samples: Samples, folder: str | os.PathLike[str], *, start: int = 0) -> Path:
    """Writes the captions of images that `write_images` wrote to the folder, one JSON object a line in metadata.jsonl:
    the layout of Hugging Face's `imagefolder`, which `open_images` reads.

    Raises:
        InputRejected: samples without captions.
    """
    if samples.captions is None:
        raise InputRejected(f"{samples.origin} has no captions to write.")
    width = max(6, len(str(start + samples.count - 1)))
    lines = [
        json.dumps({"file_name": f"{start + i:0{width}}.png", "text": text}, ensure_ascii=False)
        for i, text in enumerate(samples.captions)
    ]
    path = Path(folder) / "metadata.jsonl"
    atomic_write(path, ("\n".join(lines) + "\n").encode())
    return path


def write_grid(images: Images, path: str | os.PathLike[str], columns: int = 8) -> None:
    """Writes images side by side as one PNG, row by row, `GAP` white pixels apart.

    Args:
        images: uint8 (n, c, h, w) with c = 1 or 3, n > 0.
        columns: images a row.
    """
    atomic_write(path, png(side_by_side(images, columns)))


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a PNG is there whose pixels are those that were written, by the checksums in it."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.verify()
        return True
    except Exception:  # damaged files raise errors of every kind
        return False


def side_by_side(images: Images, columns: int) -> NDArray[np.uint8]:
    """The picture of `write_grid`, uint8 (c, height, width)."""
    count, channels, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    grid = np.full((channels, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + GAP) + GAP, i % columns * (width + GAP) + GAP
        grid[:, top : top + height, left : left + width] = image
    return grid


def write_npz(samples: Samples, path: str | os.PathLike[str]) -> None:
    """Writes images to `arr_0`, uint8 (n, h, w, c), and labels, if there are any, to `arr_1`. The layout that the
    evaluation of guided diffusion reads. Captions go to `captions`. Equal samples give equal bytes. No more than a
    block of images is held in memory.
    """
    channels, height, width = samples.shape
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        # Members given by name get the day of writing from Python 3.14 on; a bare ZipInfo stays in 1980.
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (samples.count, height, width, channels)}
            np.lib.format.write_array_header_1_0(file, header)
            for batch in samples.batches(_batch(samples)):
                file.write(np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).data)
        if samples.labels is not None:
            with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as file:
                np.lib.format.write_array(file, samples.labels.astype("<i8"), allow_pickle=False)
        if samples.captions is not None:
            texts = np.array(list(samples.captions))
            with archive.open(zipfile.ZipInfo("captions.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, texts.astype(texts.dtype.newbyteorder("<")), allow_pickle=False)


def _batch(samples: Samples) -> int:
    """Images that are held in memory at a time: 16 MB of them."""
    return max(1, (1 << 24) // math.prod(samples.shape))


def png(image: NDArray[np.uint8], texts: Mapping[str, str] | None = None) -> bytes:
    """An image, uint8 (c, h, w) with c = 1 or 3, as a PNG with texts by their keys in it."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    told = PngImagePlugin.PngInfo()
    for key, text in (texts or {}).items():
        told.add_text(key, text)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG", pnginfo=told)
    return buffer.getvalue()
