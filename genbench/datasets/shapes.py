"""`shapes`: an unlimited labelled and captioned data set that needs no download.

Every image is a pure function of (seed, split, index): one of ten shapes in one of eight colours on a
graded background of another colour. Factors come from a counter-based integer hash and pixels from signed
distance functions in float64, so the definition depends on no random generator and no rasteriser whose
output may change between versions. The factors were chosen so that a network of one to three million
parameters learns them on a laptop: shapes fill most of the frame, rotation stays within 0.3 rad, and no
two classes differ by less than 32 pixels can show.

`VERSION` changes when any pixel, label or caption does; `tests/unit/test_shapes.py` holds the digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import overload

import numpy as np
from numpy.typing import NDArray

from genbench.arrays import Samples
from genbench.contracts import Dataset
from genbench.errors import UsageError, nearest
from genbench.mixing import GOLDEN, mixed
from genbench.records import digest

VERSION = 1
SIDE = 32
CLASSES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "crescent", "heart", "arrow")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
BACKGROUNDS = ("red", "brown", "olive", "green", "teal", "blue", "purple", "grey")
SIZES = ("small", "medium", "large")
SPLITS = ("train", "validation", "test")

# Linear 0..255 RGB of the foreground; backgrounds are the same hues, darker and less saturated.
_FOREGROUND = np.array(
    [
        (228, 30, 38), (255, 140, 0), (252, 226, 50), (40, 178, 70),
        (70, 214, 230), (50, 90, 235), (160, 60, 205), (245, 245, 245),
    ],
    dtype=np.float64,
)  # fmt: skip
_BACKGROUND = np.array(
    [
        (112, 36, 40), (128, 78, 26), (122, 112, 38), (30, 84, 44),
        (32, 98, 108), (34, 48, 112), (74, 38, 96), (126, 126, 126),
    ],
    dtype=np.float64,
)  # fmt: skip

_RADIUS = (0.50, 0.75)  # of half the image side
_SHIFT = 0.2
_TURN = 0.3
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """The generating factors of n images. Every field is an (n,) array.

    Attributes:
        label: int64 in [0, 10), index into `CLASSES`.
        colour: int64 in [0, 8), index into `COLOURS`.
        background: int64 in [0, 8), index into `BACKGROUNDS`; its hue is never that of the shape.
        size: int64 in [0, 3), index into `SIZES`; the third of the radius range that `radius` lies in.
        radius: float64, half extent of the shape in units of half the image side, in [0.50, 0.75].
        x, y: float64 centre in [-0.2, 0.2], same unit; x to the right, y downwards.
        turn: float64 rotation in radians, in [-0.3, 0.3].
        slope: float64 direction of the background's gradient in radians, in [0, 2 pi).
    """

    label: NDArray[np.int64]
    colour: NDArray[np.int64]
    background: NDArray[np.int64]
    size: NDArray[np.int64]
    radius: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    turn: NDArray[np.float64]
    slope: NDArray[np.float64]


def _uniform(seed: int, split: str, index: NDArray[np.uint64], stream: int) -> NDArray[np.float64]:
    """One float64 in [0, 1) per index; streams, splits and seeds are independent."""
    key = mixed(np.array([(seed * 3 + SPLITS.index(split)) & _MASK], dtype=np.uint64))
    key = mixed(key + np.uint64((stream + 1) * GOLDEN & _MASK))
    bits = mixed(mixed(index + key) + np.uint64(GOLDEN))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def factors(split: str, indices: Sequence[int] | NDArray[np.integer], *, seed: int = 0) -> Factors:
    """Draws the factors of the images at `indices` of a split.

    Args:
        split: one of `SPLITS`; splits are disjoint streams of the same distribution.
        indices: (n,) non-negative integers.
        seed: of the whole data set. The published data set is seed 0.

    Raises:
        ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"shapes has the splits {', '.join(SPLITS)}; got {split!r}.")
    index = np.asarray(indices, dtype=np.uint64)

    def draw(stream: int) -> NDArray[np.float64]:
        return _uniform(seed, split, index, stream)

    colour = (draw(1) * len(COLOURS)).astype(np.int64)
    # A background never has the colour of its shape: draw among the seven others.
    background = (colour + 1 + (draw(2) * (len(COLOURS) - 1)).astype(np.int64)) % len(COLOURS)
    third = draw(3)
    return Factors(
        label=(draw(0) * len(CLASSES)).astype(np.int64),
        colour=colour,
        background=background,
        size=(third * len(SIZES)).astype(np.int64),
        radius=_RADIUS[0] + third * (_RADIUS[1] - _RADIUS[0]),
        x=(2 * draw(4) - 1) * _SHIFT,
        y=(2 * draw(5) - 1) * _SHIFT,
        turn=(2 * draw(6) - 1) * _TURN,
        slope=draw(7) * 2 * np.pi,
    )


def caption(f: Factors) -> list[str]:
    """One English caption an image, such as "a small red star on a blue background"."""
    grounds = [f"{'an' if name == 'olive' else 'a'} {name} background" for name in BACKGROUNDS]
    return [
        f"a {SIZES[s]} {COLOURS[c]} {CLASSES[k]} on {grounds[b]}"
        for s, c, k, b in zip(f.size, f.colour, f.label, f.background, strict=True)
    ]


def _regular(points: int, *, inner: float = 1.0) -> NDArray[np.float64]:
    """Vertices of a regular polygon (inner = 1) or star, first vertex up, circumradius 1."""
    count = points if inner == 1.0 else 2 * points
    angle = np.arange(count) * 2 * np.pi / count - np.pi / 2
    radius = np.where(np.arange(count) % 2, inner, 1.0)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


_BAR = 0.34  # half the thickness of the cross's bars
_POLYGONS: dict[str, NDArray[np.float64]] = {
    "square": np.array([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
    "triangle": _regular(3) * 1.1 + np.array([0.0, 0.2]),
    "diamond": np.array([(0.0, -1.05), (0.66, 0.0), (0.0, 1.05), (-0.66, 0.0)]),
    "star": _regular(5, inner=0.42) * 1.1,
    "cross": np.array(
        [
            (-_BAR, -1), (_BAR, -1), (_BAR, -_BAR), (1, -_BAR), (1, _BAR), (_BAR, _BAR),
            (_BAR, 1), (-_BAR, 1), (-_BAR, _BAR), (-1, _BAR), (-1, -_BAR), (-_BAR, -_BAR),
        ]
    ),
    "arrow": np.array(
        [(1.05, 0.0), (0.15, -0.85), (0.15, -0.32), (-1.0, -0.32), (-1.0, 0.32), (0.15, 0.32), (0.15, 0.85)]
    ),
}  # fmt: skip


def _polygon_distance(
    x: NDArray[np.float64], y: NDArray[np.float64], vertices: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Signed distance to a simple polygon, negative inside: nearest edge, sign by crossing parity."""
    nearest = np.full_like(x, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        nearest = np.minimum(nearest, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ex * (y - ay) / ey + ax)
    distance = np.sqrt(nearest)
    return np.where(inside, -distance, distance)


def _disc(x: NDArray[np.float64], y: NDArray[np.float64], cx: float, cy: float, radius: float) -> NDArray[np.float64]:
    return np.hypot(x - cx, y - cy) - radius


def _heart(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two discs on the upper edges of a square that stands on a corner."""
    half = 0.58
    u, v = (x + (y - 0.12)) / np.sqrt(2.0), (x - (y - 0.12)) / np.sqrt(2.0)
    square = np.maximum(np.abs(u), np.abs(v)) - half
    lobe = half / np.sqrt(2.0)
    discs = np.minimum(_disc(x, y, -lobe, 0.12 - lobe, half), _disc(x, y, lobe, 0.12 - lobe, half))
    return np.minimum(square, discs)


def _distance(name: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signed distance to the shape of unit radius at the origin, y downwards, negative inside."""
    if name in _POLYGONS:
        return _polygon_distance(x, y, _POLYGONS[name])
    if name == "circle":
        return _disc(x, y, 0.0, 0.0, 0.95)
    if name == "ring":
        return np.abs(_disc(x, y, 0.0, 0.0, 0.76)) - 0.24
    if name == "crescent":
        return np.maximum(_disc(x, y, -0.05, 0.0, 1.0), -_disc(x, y, 0.42, -0.1, 0.78))
    return _heart(x, y)


def draw(f: Factors) -> NDArray[np.uint8]:
    """Renders images from their factors.

    Returns:
        uint8 (n, 3, 32, 32), RGB in [0, 255]. Edges are anti-aliased by the signed distance in pixels.
    """
    count = len(f.label)
    images = np.empty((count, 3, SIDE, SIDE), dtype=np.uint8)
    axis = (np.arange(SIDE) + 0.5) * 2.0 / SIDE - 1.0
    px, py = np.meshgrid(axis, axis)
    for label, name in enumerate(CLASSES):
        where = np.flatnonzero(f.label == label)
        for chosen in np.array_split(where, max(1, -(-len(where) // 256))):
            if len(chosen):
                images[chosen] = _draw_class(name, f, chosen, px, py)
    return images


def _draw_class(name: str, f: Factors, chosen: NDArray[np.intp], px: NDArray, py: NDArray) -> NDArray[np.uint8]:
    def column(values: NDArray) -> NDArray:
        return values[chosen][:, None, None]

    radius, cos, sin = column(f.radius), np.cos(column(f.turn)), np.sin(column(f.turn))
    dx, dy = (px - column(f.x)) / radius, (py - column(f.y)) / radius
    distance = _distance(name, cos * dx + sin * dy, cos * dy - sin * dx) * radius * (SIDE / 2)
    cover = np.clip(0.5 - distance, 0.0, 1.0)[:, None]
    grade = 1.0 + 0.28 * (np.cos(column(f.slope)) * px + np.sin(column(f.slope)) * py)[:, None]
    ground = _BACKGROUND[f.background[chosen]][:, :, None, None] * grade
    colour = _FOREGROUND[f.colour[chosen]][:, :, None, None]
    return np.clip(np.floor(ground + cover * (colour - ground) + 0.5), 0, 255).astype(np.uint8)


def batches(split: str, count: int, size: int, *, seed: int = 0, start: int = 0) -> Iterator[NDArray[np.uint8]]:
    """Yields the images start..start+count-1 of a split in order, `size` at a time."""
    for first in range(start, start + count, size):
        yield draw(factors(split, np.arange(first, min(first + size, start + count)), seed=seed))


COUNTS = {"train": 50_000, "validation": 10_000, "test": 10_000}
"""Images of the finite view that `load` gives of each endless split."""


@dataclass(frozen=True, slots=True)
class Captions(Sequence[str]):
    """The captions of some indices of a split, composed when they are read: most runs never look at them."""

    split: str
    indices: range
    seed: int = 0

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Captions: ...

    def __getitem__(self, index: int | slice) -> str | Captions:
        if isinstance(index, slice):
            return Captions(self.split, self.indices[index], self.seed)
        return caption(factors(self.split, [self.indices[index]], seed=self.seed))[0]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), 1024):
            yield from caption(factors(self.split, self.indices[start : start + 1024], seed=self.seed))


def load(split: str, *, seed: int = 0) -> Samples:
    """The first images of a split with labels, captions and classes; drawn when they are read.

    Args:
        split: "train" (50,000 images), "validation" or "test" (10,000 each).
        seed: of the whole data set. The published data set is seed 0.

    Raises:
        UsageError: an unknown split.
    """
    if split not in COUNTS:
        raise UsageError(f"shapes has no split {split!r}. {nearest(split, COUNTS)}")
    count = COUNTS[split]
    return Samples(
        count=count,
        shape=(3, SIDE, SIDE),
        read=partial(_read, split, seed),
        origin=f"shapes {split}" + (f" (seed {seed})" if seed else ""),
        fingerprint=partial(digest, ["shapes", VERSION, split, seed]),
        labels=factors(split, np.arange(count), seed=seed).label,
        captions=Captions(split, range(count), seed),
        classes=CLASSES,
        exchangeable=True,
    )


def _read(split: str, seed: int, start: int, stop: int) -> NDArray[np.uint8]:
    return draw(factors(split, np.arange(start, stop), seed=seed))


SHAPES = Dataset(
    name="shapes",
    summary="32x32 shapes of ten classes in eight colours, with labels and captions, drawn on demand",
    source="defined in this file; no other data set agrees with it",
    load=load,
    splits={"reference": "train", "held_out": "validation", "test": "test"},
    version=VERSION,
    reference_count=10_000,
    default_samples=1000,
    protocol="embedded",
    prompt="a {}",
)
