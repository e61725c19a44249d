"""The data set `shapes`: its definition is frozen, its splits are disjoint, and its geometry is that of its words."""

from __future__ import annotations

import hashlib
import itertools
import pickle
import re
from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from genbench.datasets import shapes
from genbench.datasets.shapes import BACKGROUNDS, CLASSES, COLOURS, SIDE, SIZES, SPLITS, Factors, draw, factors
from genbench.errors import UsageError

GOLDEN = {
    "train": "824f05efc713a6e8cb9231bcea94406807de866ec788c9b7ed6a7acfac2b358b",
    "validation": "704daf8db6b287b890b1e92e1bfdd7173bcfeb4dd3f08cfc5d59a83d396272c3",
    "test": "fff209a67424db0f781bf71c734f1bff33e8f1b4231df640a8a29bc3ccdfefcf",
}
"""Per split, SHA-256 of the first 256 images, labels and captions. Other digests need another `shapes.VERSION`."""


def single(name: str, **values: float) -> Factors:
    """The factors of one image, centred and upright unless said otherwise."""
    whole = {"label": CLASSES.index(name), "colour": 7, "background": 0, "size": 0}
    real = {"radius": 0.6, "x": 0.0, "y": 0.0, "turn": 0.0, "slope": 0.0}
    return Factors(
        **{k: np.array([values.get(k, v)], dtype=np.int64) for k, v in whole.items()},
        **{k: np.array([values.get(k, v)], dtype=np.float64) for k, v in real.items()},
    )


def cover(f: Factors) -> NDArray[np.float64]:
    """(n, 32, 32) share of every pixel that the shape covers, from the images alone.

    Two colours on the same ground differ by cover times the difference of the colours, up to the rounding to 8 bits.
    """
    white, blue = (
        draw(replace(f, colour=np.full_like(f.colour, COLOURS.index(c)))).astype(np.float64) for c in ("white", "blue")
    )
    # white (245, 245, 245), blue (50, 90, 235): red differs most, by 195 levels
    return (white - blue)[:, 0] / 195.0


@pytest.mark.parametrize("split", SPLITS)
def test_definition_is_frozen(split: str) -> None:
    samples = shapes.load(split)
    assert samples.labels is not None
    assert samples.captions is not None
    total = hashlib.sha256(samples.read(0, 256).tobytes())
    total.update(samples.labels[:256].astype("<i8").tobytes())
    total.update("\n".join(samples.captions[:256]).encode())
    assert (shapes.VERSION, total.hexdigest()) == (1, GOLDEN[split])


def test_no_image_is_in_two_splits_or_two_seeds() -> None:
    streams = list(itertools.product(SPLITS, (0, 1, 2)))
    seen = {split_seed: set() for split_seed in streams}
    for split, seed in streams:
        images = draw(factors(split, np.arange(600), seed=seed))
        seen[split, seed] = {image.tobytes() for image in images}
        assert len(seen[split, seed]) == 600
    for one, other in itertools.combinations(streams, 2):
        assert not seen[one] & seen[other], f"{one} and {other} share an image"


def test_factors_are_uniform_in_their_ranges() -> None:
    f = factors("train", np.arange(50_000))
    for values, kinds in ((f.label, 10), (f.colour, 8), (f.background, 8), (f.size, 3)):
        counts = np.bincount(values, minlength=kinds)
        assert len(counts) == kinds
        assert stats.chisquare(counts).pvalue > 1e-4
    bounds = {"radius": (0.5, 0.75), "x": (-0.2, 0.2), "y": (-0.2, 0.2), "turn": (-0.3, 0.3), "slope": (0, 2 * np.pi)}
    for name, (low, high) in bounds.items():
        values = getattr(f, name)
        assert low <= values.min() < values.max() <= high
        assert stats.kstest((values - low) / (high - low), "uniform").pvalue > 1e-4
    assert np.array_equal(f.size, np.minimum((f.radius - 0.5) * 12, 2).astype(np.int64))
    assert not np.any(f.colour == f.background)


def test_factors_are_independent_of_each_other_and_of_their_neighbours() -> None:
    f = factors("train", np.arange(50_000))
    independent = {
        k.name: getattr(f, k.name).astype(np.float64) for k in fields(f) if k.name not in ("size", "background")
    }
    independent["background"] = (f.background - f.colour) % 8.0  # given the colour, one of seven others
    limit = 4.5 / np.sqrt(50_000)
    for (a, x), (b, y) in itertools.combinations(independent.items(), 2):
        assert abs(np.corrcoef(x, y)[0, 1]) < limit, f"{a} and {b}"
    for name, x in independent.items():
        assert abs(np.corrcoef(x[1:], x[:-1])[0, 1]) < limit, name
        for split in ("validation", "test"):
            other = factors(split, np.arange(50_000))
            y = (other.background - other.colour) % 8 if name == "background" else getattr(other, name)
            assert abs(np.corrcoef(x, y)[0, 1]) < limit, f"{name} of train and {split}"


def test_captions_say_the_factors() -> None:
    f = factors("test", np.arange(2_000))
    form = re.compile(r"a (\w+) (\w+) (\w+) on (an?) (\w+) background")
    for i, text in enumerate(shapes.caption(f)):
        match = form.fullmatch(text)
        assert match
        size, colour, name, article, ground = match.groups()
        assert (SIZES.index(size), COLOURS.index(colour), CLASSES.index(name), BACKGROUNDS.index(ground)) == (
            f.size[i], f.colour[i], f.label[i], f.background[i],
        )  # fmt: skip
        assert (article == "an") == (ground[0] in "aeiou")
        assert colour != ground


def test_an_image_does_not_depend_on_its_batch() -> None:
    whole = draw(factors("train", np.arange(700)))
    some = np.array([3, 699, 41, 256, 255, 0])
    assert np.array_equal(draw(factors("train", some)), whole[some])
    for i in (0, 300, 699):
        assert np.array_equal(draw(factors("train", [i])), whole[i : i + 1])
    assert np.array_equal(np.concatenate(list(shapes.batches("train", 50, 7, start=100))), whole[100:150])


def polygon_area(vertices: NDArray[np.float64]) -> float:
    x, y = vertices.T
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def lens_area(distance: float, one: float, other: float) -> float:
    """Of the intersection of two discs."""
    a = np.arccos((distance**2 + one**2 - other**2) / (2 * distance * one))
    b = np.arccos((distance**2 + other**2 - one**2) / (2 * distance * other))
    return float(one**2 * (a - np.sin(2 * a) / 2) + other**2 * (b - np.sin(2 * b) / 2))


AREA = {
    "circle": np.pi * 0.95**2,
    "square": 1.6**2,
    "triangle": 3 * np.sqrt(3) / 4 * 1.1**2,
    "diamond": 2 * 0.66 * 1.05,
    # ten triangles between a tip, the centre and a notch 36 degrees further
    "star": 10 * 0.5 * 1.1 * (0.42 * 1.1) * np.sin(np.pi / 5),
    "cross": 2 * 2 * 0.68 - 0.68**2,
    "ring": np.pi * (1.0**2 - 0.52**2),
    "crescent": np.pi - lens_area(float(np.hypot(0.47, 0.1)), 1.0, 0.78),
    "heart": 1.16**2 + np.pi * 0.58**2,
    "arrow": 1.15 * 0.64 + 0.9 * 1.7 / 2,
}
"""Of the shapes of unit radius, by elementary geometry."""


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("radius", [0.5, 0.62, 0.74])
def test_areas_are_those_of_geometry(name: str, radius: float) -> None:
    turns = np.linspace(-0.3, 0.3, 25)
    pixels = np.mean([cover(single(name, radius=radius, turn=t)).sum() for t in turns])
    assert pixels * (2 / SIDE) ** 2 == pytest.approx(AREA[name] * radius**2, rel=0.01)


@pytest.mark.parametrize("name", CLASSES)
def test_a_quarter_turn_turns_the_image(name: str) -> None:
    # Positive angles turn x (rightwards) towards y (downwards): clockwise on the screen, which is k = -1 for rot90.
    for turn in (0.0, 0.2):
        before, after = (cover(single(name, turn=t))[0] for t in (turn, turn + np.pi / 2))
        assert np.abs(after - np.rot90(before, -1)).max() < 0.011


@pytest.mark.parametrize("name", CLASSES)
def test_a_shift_by_pixels_shifts_the_image(name: str) -> None:
    still = cover(single(name, turn=0.1, radius=0.5))[0]
    moved = cover(single(name, turn=0.1, radius=0.5, x=3 * 2 / SIDE, y=-2 * 2 / SIDE))[0]
    assert still[[0, 1, -1]].max() == still[:, [0, -1, -2, -3]].max() == 0.0
    assert np.abs(moved - np.roll(still, (-2, 3), axis=(0, 1))).max() < 0.011


@pytest.mark.parametrize("name", CLASSES)
def test_symmetries_are_those_of_the_names(name: str) -> None:
    mask = cover(single(name))[0]

    def same(other: NDArray[np.float64]) -> bool:
        return bool(np.abs(mask - other).max() < 0.011)

    left_right = {"circle", "square", "triangle", "diamond", "star", "cross", "ring", "heart"}
    up_down = {"circle", "square", "diamond", "cross", "ring", "arrow"}
    quarter = {"circle", "square", "cross", "ring"}
    assert same(mask[:, ::-1]) == (name in left_right)
    assert same(mask[::-1]) == (name in up_down)
    assert same(np.rot90(mask)) == (name in quarter)


def test_the_shape_has_its_colour_and_the_ring_a_hole() -> None:
    inks = {
        "red": (228, 30, 38), "orange": (255, 140, 0), "yellow": (252, 226, 50), "green": (40, 178, 70),
        "cyan": (70, 214, 230), "blue": (50, 90, 235), "purple": (160, 60, 205), "white": (245, 245, 245),
    }  # fmt: skip
    for name in set(CLASSES) - {"ring", "crescent"}:
        for index, colour in enumerate(COLOURS):
            image = draw(single(name, colour=index))[0]
            assert tuple(image[:, 16, 16]) == inks[colour], f"{colour} {name}"
    assert cover(single("ring"))[0, 15:17, 15:17].max() == 0.0


def test_the_ground_is_graded_in_the_direction_of_its_slope() -> None:
    # Red ground (112, 36, 40), brighter by 28 % of the position along the slope; pixel i lies at (i + 0.5) / 16 - 1.
    for slope, at in ((0.0, (16, 31)), (np.pi / 2, (31, 16)), (np.pi, (16, 0)), (3 * np.pi / 2, (0, 16))):
        image = draw(single("circle", slope=slope, radius=0.5))[0].astype(int)
        off = 1 / 32 * (np.cos(slope) if at[1] == 16 else np.sin(slope))
        expected = np.array([112, 36, 40]) * (1 + 0.28 * (31 / 32 + off))
        assert np.abs(image[:, at[0], at[1]] - expected).max() <= 0.5001


def test_loading_draws_and_composes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(f: Factors) -> None:
        raise AssertionError

    monkeypatch.setattr(shapes, "draw", never)
    monkeypatch.setattr(shapes, "caption", never)
    samples = shapes.load("train")
    assert samples.captions is not None
    assert (samples.count, len(samples.captions)) == (50_000, 50_000)


@pytest.mark.slow
def test_samples_are_the_images_of_the_definition() -> None:
    samples = shapes.load("validation", seed=3)
    f = factors("validation", np.arange(10_000), seed=3)
    assert samples.captions is not None
    assert np.array_equal(samples.labels, f.label)
    assert list(samples.captions) == shapes.caption(f)
    assert np.array_equal(samples.read(9_990, 10_000), draw(f)[9_990:])
    part = samples.subset(2_000, 5_000).subset(10, 1_500)
    assert part.captions is not None
    assert part.captions[7] == part.captions[7 - 1_490] == samples.captions[2_017]
    assert list(part.captions[5:20:3]) == [samples.captions[i] for i in range(2_015, 2_030, 3)]
    assert np.array_equal(part.labels, f.label[2_010:3_500])
    assert np.array_equal(part.read(0, 2), draw(f)[2_010:2_012])
    copy = pickle.loads(pickle.dumps(samples))
    assert np.array_equal(copy.read(5, 7), draw(f)[5:7])
    assert copy.captions[5] == samples.captions[5]


def test_fingerprints_tell_splits_and_seeds_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {shapes.load(split, seed=seed).fingerprint() for split in SPLITS for seed in (0, 1)}
    monkeypatch.setattr(shapes, "VERSION", 2)
    assert len(names | {shapes.load("train").fingerprint()}) == 7


def test_roles_are_the_three_splits() -> None:
    assert shapes.SHAPES.splits == {"reference": "train", "held_out": "validation", "test": "test"}
    assert {s: shapes.SHAPES.load(s).count for s in SPLITS} == {"train": 50_000, "validation": 10_000, "test": 10_000}


def test_unknown_split() -> None:
    with pytest.raises(UsageError, match=r"no split 'tests'. Did you mean 'test'\?"):
        shapes.load("tests")
    with pytest.raises(ValueError, match="'tests'"):
        factors("tests", [0])
