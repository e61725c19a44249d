"""Which images a change moved most: pairs of one seed, the farthest apart in the features of a metric first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from genbench import comparison, environment, features
from genbench.contracts import Extractor
from genbench.errors import InputRejected, NotComparable, shown
from genbench.files import atomic_write
from genbench.images.pairs import Drawn, draw_pairs
from genbench.images.writing import png
from genbench.measuring import Execution, load_extractor, taps_of
from genbench.sides import Measured, cells_of
from genbench.weights import cache_directory

if TYPE_CHECKING:
    from genbench.arrays import Samples

NUMBER = 16
"""Pairs of a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedPair:
    """Image i of both sides.

    Attributes:
        number: i.
        distance: Euclidean, of the features of both images.
        label: class or caption that was asked for; else what a classifier takes both for, where there is one; else
            empty.
        base, candidate: uint8 (c, h, w), None where a side holds no pixels.
    """

    number: int
    distance: float
    label: str
    base: NDArray[np.uint8] | None
    candidate: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The pairs that moved most, and what stands for the others.

    Attributes:
        base, candidate: for people.
        pairs: the farthest first.
        count: of all pairs.
        median: distance of all pairs.
        measured_in: the features, for people.
    """

    base: str
    candidate: str
    pairs: tuple[MovedPair, ...]
    count: int
    median: float
    measured_in: str

    @property
    def title(self) -> str:
        """What the pairs are, in a sentence."""
        return (
            f"The {len(self.pairs)} of {self.count} pairs that moved most in {self.measured_in} "
            f"(median distance of all: {self.median:.3g})"
        )


def moved(
    base: Measured,
    candidate: Measured,
    *,
    number: int = NUMBER,
    paired: bool | None = None,
    execution: Execution | None = None,
) -> Moved:
    """The pairs whose features are farthest apart. Features are those of the first metric of the base that has some;
    where none has, distances are of the pixels.

    Args:
        number: of pairs, at most.
        paired: see `genbench.compare`.

    Raises:
        NotComparable: images that do not belong together, that are not there, or whose features are of another version
            of their extractor.
    """
    in_pairs, why = comparison.belong_together(base, candidate, paired)
    if not in_pairs:
        raise NotComparable(f"Images that are not in pairs have not moved: {why}")
    ours, theirs = _samples(base), _samples(candidate)
    if ours.count != theirs.count or ours.shape != theirs.shape:
        raise NotComparable("The images of both sides differ in number or size, and have no pairs.")
    distances, measured_in, opinions = _distances(base, candidate, execution or Execution())
    order = np.argsort(-distances, kind="stable")[:number].tolist()
    return Moved(
        base=_told(base),
        candidate=_told(candidate),
        pairs=tuple(
            MovedPair(
                number=i,
                distance=float(distances[i]),
                label=_asked(theirs, i) or _asked(ours, i) or opinions.get(i, ""),
                base=_pixels(ours, i),
                candidate=_pixels(theirs, i),
            )
            for i in order
        ),
        count=ours.count,
        median=float(np.median(distances)),
        measured_in=measured_in,
    )


def write(found: Moved, path: Path) -> None:
    """Writes the pairs as a PNG: base on the left, candidate on the right, with number, class and distance below."""
    lines = [found.title, f"left: {found.base}", f"right: {found.candidate}"]
    if all(pair.base is None for pair in found.pairs):
        lines[1:] = [f"of {found.candidate}", f"{found.base} has no images; `baseline accept --images` keeps them."]
    drawn = [
        Drawn(
            left=pair.base,
            right=pair.candidate,
            lines=(f"image {pair.number}" + (f": {pair.label}" if pair.label else ""), f"distance {pair.distance:.3g}"),
        )
        for pair in found.pairs
    ]
    atomic_write(path, png(draw_pairs(drawn, title=lines)))


def _told(side: Measured) -> str:
    """A side in a few words."""
    return f"{side.spec.model.brief()}, seed {side.spec.seed} ({side.name})" if side.spec else side.name


def _samples(side: Measured) -> Samples:
    if side.samples is None:
        raise NotComparable(f"{shown(side.name)} holds numbers and no images.")
    return side.samples


def _distances(
    base: Measured, candidate: Measured, execution: Execution
) -> tuple[NDArray[np.float64], str, Mapping[int, str]]:
    """Distances of all pairs, what they are of, and what a classifier takes the images for."""
    device = environment.choose_device(execution.device)
    for cell in cells_of(base.results):
        if cell.metric.pairwise or cell.load_extractor is None:
            continue
        extractor = load_extractor(cell, execution, device)
        assert extractor is not None
        taps = [tap for tap in taps_of(cell, extractor) if tap != features.CAPTIONS]
        if not taps:
            continue
        name, tap = str(cell.extractor_ref), taps[0]
        wanted = [tap] + [t for t in _opinion_taps(extractor, base, name) if t != tap]
        ours, theirs = (_features(side, name, extractor, wanted, execution, device) for side in (base, candidate))
        distances = np.linalg.norm(theirs[tap].astype(np.float64) - ours[tap], axis=1)
        assert cell.extractor_ref is not None
        return distances, f"the features {tap!r} of {cell.extractor_ref.brief()}", _opinions(extractor, ours, theirs)
    left, right = _samples(base), _samples(candidate)
    found = []
    for start in range(0, left.count, 256):
        stop = min(start + 256, left.count)
        try:
            gaps = right.read(start, stop).astype(np.float64) - left.read(start, stop)
        except InputRejected as error:
            raise NotComparable(f"No metric has features of both sides, and {error}") from error
        found.append(np.sqrt((gaps**2).mean(axis=(1, 2, 3))))
    return np.concatenate(found), "pixels, root mean square", {}


def _features(
    side: Measured, name: str, extractor: Extractor, taps: list[str], execution: Execution, device: str
) -> dict[str, NDArray[np.float32]]:
    """Stored features, or those of the images."""
    kept = side.kept.get(name)
    samples = _samples(side)
    if kept is not None and all(tap in kept.taps for tap in taps):
        for tap in taps:
            if kept.taps[tap].extractor != extractor.key:
                raise NotComparable(f"The features of {shown(side.name)} are of another version of {shown(name)}.")
        return {tap: kept.taps[tap].values() for tap in taps}
    found = features.evidence(
        samples, extractor, taps, cache=cache_directory() / "features", device=device, workers=execution.workers
    )
    return {tap: found.taps[tap].values() for tap in taps}


def _opinion_taps(extractor: Extractor, base: Measured, name: str) -> list[str]:
    """The tap of a classifier that names its classes, where nobody must look at images anew for it."""
    known = extractor.classifier
    if known is None or not known.classes:
        return []
    kept = base.kept.get(name)
    return [known.tap] if kept is None or known.tap in kept.taps else []


def _opinions(
    extractor: Extractor, ours: Mapping[str, NDArray[np.float32]], theirs: Mapping[str, NDArray[np.float32]]
) -> dict[int, str]:
    known = extractor.classifier
    if known is None or not known.classes or known.tap not in ours:
        return {}
    stop = known.offset + known.count
    before, after = (side[known.tap][:, known.offset : stop].argmax(axis=1).tolist() for side in (ours, theirs))
    names = known.classes
    return {
        i: names[a] if a == b else f"{names[a]} -> {names[b]}"
        for i, (a, b) in enumerate(zip(before, after, strict=True))
    }


def _asked(samples: Samples, i: int) -> str:
    """What was asked for."""
    if samples.captions is not None:
        return samples.captions[i]
    if samples.labels is not None:
        label = int(samples.labels[i])
        return samples.classes[label] if label < len(samples.classes) else f"class {label}"
    return ""


def _pixels(samples: Samples, i: int) -> NDArray[np.uint8] | None:
    try:
        return samples.read(i, i + 1)[0]
    except InputRejected:
        return None
