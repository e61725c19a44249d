"""Images of several systems beside each other: the same seeds, labels and captions, a row a system."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from genbench import images
from genbench.arrays import Images
from genbench.errors import GenbenchError, InputRejected, UsageError, shown
from genbench.moved import Moved
from genbench.records import Ref, RunSpec

_log = logging.getLogger(__name__)

BUDGET = 2_000_000
"""Bytes of all images of a page as base64. Where they would be more, fewer images of every system are shown."""
LARGEST = 128
"""Pixels of the longer side of an image on a page; larger ones are made smaller."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shots:
    """The first images of a run.

    Attributes:
        model, dataset, seed: of the run.
        conditions: class or caption of every image, empty texts where there are none.
        pixels: uint8 (n, c, h, w) with c = 1 or 3.
    """

    model: str
    dataset: str
    seed: int
    conditions: tuple[str, ...]
    pixels: Images


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """An image on a page.

    Attributes:
        source: a data: URI of a PNG.
        about: what it is, for people: system, seed, number, class or caption.
    """

    source: str
    about: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Systems by rows, images of the same seed and condition by columns.

    Attributes:
        heads: number and condition of the images of every column.
        size: (width, height) of the images of the runs, in pixels.
        shrunk: whether the page has them smaller.
        rows: (system, its images).
        left_out: images of every system that were asked for and are not shown, because all would be too large.
    """

    dataset: str
    seed: int
    heads: tuple[tuple[int, str], ...]
    size: tuple[int, int]
    shrunk: bool
    rows: tuple[tuple[str, tuple[Tile, ...]], ...]
    left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedTiles:
    """The pairs of a base and a candidate that moved most.

    Attributes:
        title: what they are, in a sentence.
        pairs: (image of the base, image of the candidate, words), the farthest first.
    """

    title: str
    pairs: tuple[tuple[Tile, Tile, str], ...]


def of_moved(found: Moved) -> MovedTiles:
    """The pairs whose pixels both sides have."""
    pairs = []
    for pair in found.pairs:
        if pair.base is not None and pair.candidate is not None:
            words = f"image {pair.number}{f', {pair.label}' if pair.label else ''}, distance {pair.distance:.3g}"
            sides = (("base", pair.base), ("candidate", pair.candidate))
            base, candidate = (Tile(source=_encoded(pixels), about=shown(f"{name}: {words}")) for name, pixels in sides)
            pairs.append((base, candidate, shown(words)))
    return MovedTiles(title=shown(found.title), pairs=tuple(pairs))


def of_run(folder: Path, spec: RunSpec | None, number: int) -> list[Shots]:
    """The first images of a run, none where it has none any more."""
    if spec is None:
        return []
    try:
        samples = images.open_images(folder)
        pixels = samples.read(0, min(number, samples.count))
    except GenbenchError as error:
        _log.warning("The images of %s are not shown: %s", shown(folder), error)
        return []
    count = len(pixels)
    conditions = [""] * count
    if samples.captions is not None:
        conditions = [shown(text) for text in samples.captions[:count]]
    elif samples.labels is not None:
        conditions = [_class(int(label), samples.classes) for label in samples.labels[:count]]
    return [
        Shots(
            model=str(spec.model),
            dataset=str(spec.dataset),
            seed=spec.seed,
            conditions=tuple(conditions),
            pixels=pixels,
        )
    ]


def of_strip(path: Path, number: int) -> Shots:
    """The first images of a strip; see `genbench.images.write_strip`.

    Raises:
        InputRejected: no strip.
    """
    pixels, about = images.read_strip(path)
    try:
        Ref.parse(about.model)
    except UsageError as error:
        raise InputRejected(f"{shown(path)} is of no model. {error}") from error
    count = min(number, len(pixels))
    return Shots(
        model=about.model,
        dataset=about.dataset,
        seed=about.seed,
        conditions=tuple(shown(text) for text in about.conditions[:count]),
        pixels=pixels[:count],
    )


def _class(label: int, classes: Sequence[str]) -> str:
    return shown(classes[label]) if 0 <= label < len(classes) else f"class {label}"


def galleries(shots: Sequence[Shots], names: Mapping[str, str]) -> tuple[Gallery, ...]:
    """A gallery for every data set, seed and list of conditions; systems of one model are there once, the last ones.

    Args:
        names: full reference of a model to its name on the page.
    """
    groups: dict[tuple[object, ...], dict[str, Shots]] = {}
    for one in shots:
        height, width = one.pixels.shape[2:]
        key = (one.dataset, one.seed, (width, height), one.conditions)
        groups.setdefault(key, {})[one.model] = one
    encoded = {
        id(one): [_encoded(pixels) for pixels in one.pixels] for group in groups.values() for one in group.values()
    }
    most = max((len(tiles) for tiles in encoded.values()), default=0)
    while most > 1 and sum(len(uri) for tiles in encoded.values() for uri in tiles[:most]) > BUDGET:
        most -= 1
    return tuple(
        _gallery(list(group.values()), encoded, names, most)
        for _, group in sorted(groups.items(), key=lambda item: str(item[0]))
    )


def _gallery(
    group: Sequence[Shots], encoded: Mapping[int, Sequence[str]], names: Mapping[str, str], most: int
) -> Gallery:
    first = group[0]
    height, width = first.pixels.shape[2:]
    heads = tuple(enumerate(first.conditions[:most]))

    def tiles(one: Shots) -> tuple[Tile, ...]:
        found = []
        for (i, condition), uri in zip(heads, encoded[id(one)], strict=False):
            told = f", {condition}" if condition else ""
            found.append(Tile(source=uri, about=f"{names[one.model]}: seed {one.seed}, image {i}{told}"))
        return tuple(found)

    return Gallery(
        dataset=shown(first.dataset),
        seed=first.seed,
        heads=heads,
        size=(width, height),
        shrunk=max(width, height) > LARGEST,
        rows=tuple((names[one.model], tiles(one)) for one in sorted(group, key=lambda one: names[one.model])),
        left_out=len(first.conditions) - len(heads),
    )


def _encoded(pixels: Images) -> str:
    """A PNG as a data: URI, no larger than `LARGEST`."""
    array = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(array))
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
