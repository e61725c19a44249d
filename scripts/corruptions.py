"""Ways to make a set of images worse by a known amount, to see which metric sees what.

Corruptions of pixels are pure functions of (images, strength, seed) to images, uint8 (n, c, h, w) in [0, 255] both.
Corruptions of a set are functions of (samples, count, strength, seed) to samples, where `samples` is a pool of at least
`count`, the first of which are the clean set. The result has as many, but for `fewer_samples`, and an image that the
corruption leaves alone is that of the clean set, so that a metric which does not look at what was corrupted keeps its
value to the last digit.

Strength 0 leaves everything as it is. Equal arguments give equal results.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from genbench.arrays import Images, Samples
from genbench.errors import UsageError
from genbench.records import digest


def gaussian_noise(images: Images, strength: float, seed: int) -> Images:
    """Adds independent normal noise to every value.

    Args:
        strength: standard deviation, in grey levels.
    """
    noise = np.random.default_rng(seed).normal(0.0, strength, images.shape)
    return _rounded(images + noise)


def gaussian_blur(images: Images, strength: float, seed: int) -> Images:
    """Convolves every channel with a Gaussian, cut at 4 deviations; what lies outside is the nearest pixel.

    Args:
        strength: standard deviation, in pixels.
        seed: without effect.
    """
    return _rounded(gaussian_filter(images.astype(np.float64), (0, 0, strength, strength), mode="nearest"))


def _rounded(values: NDArray[np.float64]) -> Images:
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


def jpeg(images: Images, strength: float, seed: int) -> Images:
    """Encodes every image as JPEG with halved chroma, as most files are, and decodes it again.

    Args:
        images: with 1 or 3 channels.
        strength: 100 less Pillow's quality; 0 leaves the images alone, although a JPEG of quality 100 would not.
        seed: without effect.
    """
    if strength == 0:
        return images.copy()
    result = np.empty_like(images)
    for image, target in zip(images, result, strict=True):
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        with io.BytesIO() as file:
            Image.fromarray(pixels).save(file, "JPEG", quality=round(100 - strength), subsampling="4:2:0")
            decoded = np.asarray(Image.open(file))
        target[:] = decoded[None] if decoded.ndim == 2 else decoded.transpose(2, 0, 1)
    return result


def chosen(samples: Samples, indices: NDArray[np.int64]) -> Samples:
    """The images of the given indices, in that order. An index may occur more than once. Nothing is read here."""

    def read(start: int, stop: int) -> Images:
        return np.concatenate([samples.read(int(i), int(i) + 1) for i in indices[start:stop]])

    def named() -> str:
        return digest([samples.fingerprint(), hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()])

    return replace(
        samples,
        count=len(indices),
        read=read,
        origin=f"{samples.origin}, {len(indices)} chosen",
        fingerprint=named,
        labels=None if samples.labels is None else samples.labels[indices],
        captions=None if samples.captions is None else [samples.captions[int(i)] for i in indices],
    )


def of_pixels(change: Callable[[Images, float, int], Images]) -> SetCorruption:
    """The corruption of a set that changes the pixels of its images and nothing else."""

    def apply(samples: Samples, count: int, strength: float, seed: int) -> Samples:
        clean = samples.subset(0, count)
        images = change(clean.read(0, count), strength, seed)
        return Samples.of(
            images,
            origin=f"{change.__name__} {strength:g} of {clean.origin}",
            labels=clean.labels,
            captions=clean.captions,
            classes=clean.classes,
        )

    return apply


def dropped_classes(samples: Samples, count: int, strength: float, seed: int) -> Samples:
    """The first `count` images of the pool that are not of the dropped classes: a generator that lost modes.

    Args:
        strength: share of the classes that are dropped, rounded to a whole number of them; which ones is drawn.

    Raises:
        UsageError: no labels, no class left, or too few images of the others.
    """
    labels = _labels(samples, "dropped_classes")
    classes = np.unique(labels)
    number = round(strength * len(classes))
    gone = np.random.default_rng(seed).permutation(classes)[:number]
    kept = np.flatnonzero(~np.isin(labels, gone))[:count]
    if len(kept) < count:
        raise UsageError(
            f"dropped_classes needs {count} images of {len(classes) - number} of {len(classes)} classes; "
            f"{samples.origin} has {len(kept)}. Ask for fewer images or a smaller strength."
        )
    return chosen(samples, kept)


def duplicates(samples: Samples, count: int, strength: float, seed: int) -> Samples:
    """Replaces a share of the images by copies of the others: a generator that repeats itself.

    Args:
        strength: share of the images that are copies, rounded to a whole number of them; below 1. Their originals are
            drawn with replacement.

    Raises:
        UsageError: no image left to copy.
    """
    copies = round(strength * count)
    if copies >= count:
        raise UsageError(f"duplicates takes a share below 1; got {strength:g} of {count} images.")
    indices = np.arange(count)
    indices[count - copies :] = np.random.default_rng(seed).integers(0, count - copies, copies)
    return chosen(samples, indices)


def fewer_samples(samples: Samples, count: int, strength: float, seed: int) -> Samples:
    """The first images only. Nothing is worse about them: what moves is the bias of the metric.

    Args:
        strength: share of the images that are left out; below 1.
        seed: without effect.
    """
    return samples.subset(0, max(round((1 - strength) * count), 1))


def swapped_labels(samples: Samples, count: int, strength: float, seed: int) -> Samples:
    """Gives a share of the images the label of another class, drawn from all others alike; pixels stay.

    Args:
        strength: share of the images, rounded to a whole number of them; which ones is drawn.

    Raises:
        UsageError: no labels, or one class only.
    """
    clean = samples.subset(0, count)
    labels = _labels(clean, "swapped_labels").copy()
    classes = np.unique(_labels(samples, "swapped_labels"))
    if len(classes) < 2:
        raise UsageError(f"swapped_labels needs at least 2 classes; {samples.origin} has {len(classes)}.")
    rng = np.random.default_rng(seed)
    where = rng.permutation(count)[: round(strength * count)]
    place = np.searchsorted(classes, labels[where])
    labels[where] = classes[(place + rng.integers(1, len(classes), len(where))) % len(classes)]
    return replace(clean, labels=labels, origin=f"{clean.origin}, {strength:.0%} of labels swapped")


def shuffled_captions(samples: Samples, count: int, strength: float, seed: int) -> Samples:
    """Hands the captions of a share of the images around among them, so that none keeps its own; pixels stay.

    Two images may have the same text, so that a caption can still be right.

    Args:
        strength: share of the images, rounded to a whole number of them; which ones is drawn.

    Raises:
        UsageError: no captions.
    """
    clean = samples.subset(0, count)
    if clean.captions is None:
        raise UsageError(f"shuffled_captions needs captions, and {samples.origin} has none.")
    captions = list(clean.captions)
    where = np.random.default_rng(seed).permutation(count)[: round(strength * count)]
    if len(where) < 2:
        return clean
    for i, j in zip(where, np.roll(where, 1), strict=True):
        captions[i] = clean.captions[int(j)]
    name = digest([clean.fingerprint(), "shuffled_captions", strength, seed])
    return replace(
        clean,
        captions=captions,
        # Features of captions are cached by the samples' content, to which the order of captions now belongs.
        fingerprint=lambda: name,
        origin=f"{clean.origin}, {strength:.0%} of captions shuffled",
    )


def _labels(samples: Samples, name: str) -> NDArray[np.int64]:
    if samples.labels is None:
        raise UsageError(f"{name} needs labels, and {samples.origin} has none.")
    return samples.labels


SetCorruption = Callable[[Samples, int, float, int], Samples]
"""(pool, count, strength, seed) to the corrupted samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """One corruption with the strengths that the response table has.

    Attributes:
        apply: see `SetCorruption`.
        strengths: from hardly visible to plain.
        needs: what the samples must have beside pixels, "labels" or "captions".
    """

    apply: SetCorruption
    strengths: tuple[float, float, float]
    needs: str | None = None


CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption(apply=of_pixels(gaussian_noise), strengths=(4.0, 12.0, 36.0)),
    "blur": Corruption(apply=of_pixels(gaussian_blur), strengths=(0.4, 0.7, 1.2)),
    "jpeg": Corruption(apply=of_pixels(jpeg), strengths=(10.0, 50.0, 90.0)),
    "dropped-classes": Corruption(apply=dropped_classes, strengths=(0.1, 0.3, 0.5), needs="labels"),
    "duplicates": Corruption(apply=duplicates, strengths=(0.25, 0.5, 0.9)),
    "swapped-labels": Corruption(apply=swapped_labels, strengths=(0.05, 0.25, 1.0), needs="labels"),
    "shuffled-captions": Corruption(apply=shuffled_captions, strengths=(0.05, 0.25, 1.0), needs="captions"),
    "fewer-samples": Corruption(apply=fewer_samples, strengths=(0.5, 0.75, 0.9)),
}
