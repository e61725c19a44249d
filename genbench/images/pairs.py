"""Pictures of pairs of images with words below them, for people who look at what a change did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from genbench.errors import shown

SIDE = 112
"""Pixels that an image is about as high as: small ones are enlarged by a whole number, large ones reduced."""
COLUMNS, GAP, MARGIN, SIZE = 4, 4, 16, 13
INK, PAPER, QUIET = (30, 30, 30), (255, 255, 255), (224, 224, 224)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Two images, uint8 (c, h, w), each None where it is not there, and the lines below them."""

    left: NDArray[np.uint8] | None
    right: NDArray[np.uint8] | None
    lines: tuple[str, ...]


def draw_pairs(pairs: Sequence[Drawn], *, title: Sequence[str]) -> NDArray[np.uint8]:
    """Pairs in rows of four below a title, uint8 (3, h, w).

    A missing image is a grey field with a word in it. Where none of a side is there, the others stand alone.
    """
    font = ImageFont.load_default(SIZE)
    pictures = [(_enlarged(pair.left), _enlarged(pair.right)) for pair in pairs]
    there = [place for place in (0, 1) if any(both[place] is not None for both in pictures)] or [0, 1]
    sizes = [one.size for both in pictures for one in both if one is not None] or [(SIDE, SIDE)]
    width, height = (max(size[i] for size in sizes) for i in (0, 1))
    columns, line = min(COLUMNS * (3 - len(there)), max(1, len(pairs))), SIZE + 5
    cell = len(there) * (width + GAP) - GAP
    top = MARGIN + line * len(title) + (MARGIN // 2 if title else 0)
    below = max((len(pair.lines) for pair in pairs), default=0) * line
    step = height + below + MARGIN
    rows = -(-len(pairs) // columns)
    whole = MARGIN + columns * (cell + MARGIN)
    sheet = Image.new("RGB", (whole, top + rows * step), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, text in enumerate(title):
        draw.text((MARGIN, MARGIN + i * line), _fitting(draw, text, whole - 2 * MARGIN, font), INK, font)
    for i, (pair, both) in enumerate(zip(pairs, pictures, strict=True)):
        left, up = MARGIN + i % columns * (cell + MARGIN), top + i // columns * step
        for number, place in enumerate(there):
            picture, x = both[place], left + number * (width + GAP)
            if picture is None:
                draw.rectangle((x, up, x + width - 1, up + height - 1), QUIET)
                draw.text((x + 6, up + 6), "no image", INK, font)
            else:
                sheet.paste(picture, (x, up))
        for number, text in enumerate(pair.lines):
            where = (left, up + height + 3 + number * line)
            draw.text(where, _fitting(draw, text, cell, font), INK, font)
    return np.ascontiguousarray(np.asarray(sheet).transpose(2, 0, 1))


def _enlarged(image: NDArray[np.uint8] | None) -> Image.Image | None:
    if image is None:
        return None
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    longest = max(picture.size)
    if longest > SIDE * 1.5:
        share = SIDE / longest
        small = (max(1, round(picture.width * share)), max(1, round(picture.height * share)))
        return picture.resize(small, Image.Resampling.LANCZOS)
    scale = max(1, round(SIDE / longest))
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def _fitting(
    draw: ImageDraw.ImageDraw, text: str, width: float, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> str:
    """The text on one line, cut where it is too long."""
    text = shown(text)
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"{text}...", font) > width:
        text = text[: -max(1, len(text) // 16)]
    return f"{text}..."
