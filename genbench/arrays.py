"""What flows between the records: images, features and their moments, with their invariants checked once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genbench.errors import InputRejected, UsageError

Images = NDArray[np.uint8]
"""uint8 (n, c, h, w), RGB for c = 3, values in [0, 255]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Mean and covariance of features of real images, published in place of the images or for more than are at hand.

    Attributes:
        extractors: what network they are of, such as "inception"; several where neither the file nor the number of
            features tells them apart. Which resize was before it, most files do not say.
        mean: float64 (d,).
        covariance: float64 (d, d), symmetric, as published; over how many images, is not known.
        tap: output of the extractor that the features are of.
        count: images that they are of, None where the file does not tell it.
        key: of the extractor with its weights, empty where the file does not tell it.
    """

    extractors: tuple[str, ...]
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    tap: str = "pooled"
    count: int | None = None
    key: str = ""

    def digest(self) -> str:
        """SHA-256 of the numbers, however the file was written."""
        total = hashlib.sha256(f"{' or '.join(self.extractors)} {self.mean.shape}".encode())
        for values in (self.mean, self.covariance):
            total.update(np.ascontiguousarray(values, dtype="<f8").data)
        return total.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """A finite, ordered set of images of one size with random access. Nothing is read before it is asked for.

    Attributes:
        count, shape: number of images, 0 where there are statistics alone; (c, h, w).
        read: read(start, stop) gives the uint8 images start..stop-1, (stop - start, c, h, w).
        origin: for people: where the images come from.
        fingerprint: a digest of the content, for caches: equal fingerprints, equal images in equal order.
        hashes: hashes(start, stop) gives the `image_digests` of images start..stop-1 where they are known without
            decoding; else None, and `genbench.features.pixel_digests` finds them.
        labels: int64 (count,) class indices, or None.
        captions: one text an image, or None.
        classes: names of the classes, empty if unknown.
        statistics: by tap, and by tap and extractor where there are several of one, published for the set that these
            images are a part of; metrics that read no more of a reference take them in place of the images.
        quantise: how floats became these 8-bit pixels, "round" or "truncate", where it is known.
        dataset: what names these images everywhere: a data set with its arguments, empty for files of the user.
        format: of the files, such as "PNG" or "JPEG and PNG", empty where there are none.
        exchangeable: whether the images come in a random order, as drawn ones do, so that the first ones are a fair
            choice of them.
    """

    count: int
    shape: tuple[int, int, int]
    read: Callable[[int, int], Images]
    origin: str
    fingerprint: Callable[[], str]
    hashes: Callable[[int, int], NDArray[np.uint8]] | None = None
    labels: NDArray[np.int64] | None = None
    captions: Sequence[str] | None = None
    classes: tuple[str, ...] = ()
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    quantise: str | None = None
    dataset: str = ""
    format: str = ""
    exchangeable: bool = False

    def __post_init__(self) -> None:
        for name, values in (("labels", self.labels), ("captions", self.captions)):
            if values is not None and len(values) != self.count:
                raise InputRejected(f"{self.origin} has {self.count} images but {len(values)} {name}.")

    def batches(self, size: int) -> Iterator[Images]:
        """All images in order, `size` at a time. The last batch may be smaller."""
        for start in range(0, self.count, size):
            yield self.read(start, min(start + size, self.count))

    def subset(self, start: int, stop: int) -> Samples:
        """The images from `start` up to, but without, `stop`.

        Raises:
            UsageError: more images than there are.
        """
        if not 0 <= start < stop <= self.count:
            raise UsageError(f"{self.origin} has {self.count} images; {start}..{stop} was asked for.")
        if (start, stop) == (0, self.count):
            return self

        def named() -> str:
            return hashlib.sha256(f"{self.fingerprint()} {start} {stop}".encode()).hexdigest()

        return replace(
            self,
            count=stop - start,
            read=partial(_shifted, self.read, start),
            origin=f"{self.origin}[{start}:{stop}]",
            fingerprint=named,
            hashes=self.hashes and partial(_shifted, self.hashes, start),
            labels=None if self.labels is None else self.labels[start:stop],
            captions=None if self.captions is None else self.captions[start:stop],
            statistics={},
        )

    def take(self, indices: NDArray[np.int64], *, origin: str, fingerprint: Callable[[], str]) -> Samples:
        """The images of the given numbers, in their order.

        Args:
            indices: int64 (k,), each in [0, count).
            origin, fingerprint: of the choice.
        """
        chosen = [int(i) for i in indices]
        return replace(
            self,
            count=len(chosen),
            read=partial(_picked, self.read, chosen),
            origin=origin,
            fingerprint=fingerprint,
            hashes=self.hashes and partial(_picked, self.hashes, chosen),
            labels=None if self.labels is None else self.labels[indices],
            captions=None if self.captions is None else [self.captions[i] for i in chosen],
            statistics={},
        )

    @classmethod
    def of(
        cls,
        images: Images,
        *,
        origin: str = "array",
        labels: NDArray[np.int64] | None = None,
        captions: Sequence[str] | None = None,
        classes: tuple[str, ...] = (),
    ) -> Samples:
        """Makes samples of an array of images.

        Args:
            images: uint8 (n, c, h, w) in [0, 255].

        Raises:
            InputRejected: another dtype or number of axes. Floats are refused: only the caller knows their
                range.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
            raise InputRejected(
                f"Images are uint8 (n, c, h, w) with n > 0; got {images.dtype} {images.shape}. "
                "Of floats say the range, value_range=(-1, 1) or (0, 1), or make them uint8 by genbench.quantise."
            )

        return cls(
            count=len(images),
            shape=images.shape[1:],
            read=lambda start, stop: images[start:stop],
            origin=origin,
            fingerprint=lambda: fingerprint_of(images.shape[1:], image_digests(images)),
            hashes=lambda start, stop: image_digests(images[start:stop]),
            labels=labels,
            captions=captions,
            classes=classes,
        )


def image_digests(images: Images) -> NDArray[np.uint8]:
    """SHA-256 of the pixels of every image in the order (c, h, w): uint8 (n, 32)."""
    rows = [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]
    return np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(images), 32)


def fingerprint_of(shape: tuple[int, ...], digests: NDArray[np.uint8]) -> str:
    """The fingerprint of images (c, h, w) whose `image_digests` are known."""
    return hashlib.sha256(f"{len(digests)} {tuple(shape)}".encode() + digests.tobytes()).hexdigest()


def _picked(
    read: Callable[[int, int], NDArray[np.uint8]], chosen: Sequence[int], start: int, stop: int
) -> NDArray[np.uint8]:
    return np.concatenate([read(i, i + 1) for i in chosen[start:stop]])


def _shifted(read: Callable[[int, int], NDArray[np.uint8]], offset: int, start: int, stop: int) -> NDArray[np.uint8]:
    return read(start + offset, stop + offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Outputs of one tap of an extractor, float32 (n, d), in the order of the samples; in memory or in a .npy file.

    Attributes:
        extractor: key of the extractor; features of two keys are never compared.
        tap: name of the output, such as "pooled".
    """

    extractor: str
    tap: str
    array: NDArray[np.float32] | None = None
    path: Path | None = None
    shape: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        values = self.values()
        if values.ndim != 2 or values.dtype != np.float32:
            raise InputRejected(f"Features are float32 (n, d); got {values.dtype} {values.shape}.")
        object.__setattr__(self, "shape", values.shape)

    def values(self) -> NDArray[np.float32]:
        """The whole (n, d) array; memory-mapped when it lies in a file."""
        if self.array is not None:
            return self.array
        if self.path is None:
            raise InputRejected("Features need an array or a path.")
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def blocks(self, rows: int = 4096) -> Iterator[NDArray[np.float32]]:
        """Copies of consecutive rows. The file is mapped anew for each, so that memory does not grow with n."""
        for number in range(-(-self.shape[0] // rows)):
            yield self.block(number, rows)

    def block(self, number: int, rows: int) -> NDArray[np.float32]:
        """A copy of the block of rows of this number, as `blocks` gives it."""
        return np.array(self.values()[number * rows : (number + 1) * rows])

    def __len__(self) -> int:
        return self.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Count, mean and scatter of features in float64. A + b are the moments of the union.

    Attributes:
        count: n.
        mean: (d,).
        scatter: (d, d), the sum of outer products of deviations from the mean; the covariance times n - 1.
    """

    count: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @property
    def covariance(self) -> NDArray[np.float64]:
        """The unbiased covariance, float64 (d, d)."""
        return self.scatter / (self.count - 1)

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> Moments:
        """Moments of (n, d) values."""
        x = np.asarray(values, dtype=np.float64)
        mean = x.mean(axis=0)
        x = x - mean
        return cls(count=len(x), mean=mean, scatter=x.T @ x)

    def __add__(self, other: Moments) -> Moments:
        count, delta = self.count + other.count, other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter += np.outer(delta, delta) * (self.count * other.count / count)
        return Moments(count=count, mean=self.mean + delta * (other.count / count), scatter=scatter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a metric may look at of one side of a comparison.

    Attributes:
        samples: the images.
        taps: features of the taps that the metric said it needs.
        statistics: by tap, what stands in place of features for a metric that needs no more of its reference.
    """

    samples: Samples
    taps: Mapping[str, Features] = field(default_factory=dict)
    statistics: Mapping[str, Statistics] = field(default_factory=dict)

    def features(self, tap: str = "pooled") -> Features:
        """The features of a tap.

        Raises:
            UsageError: a tap that the extractor does not have.
            InputRejected: there are statistics and no images.
        """
        if tap not in self.taps and not self.samples.count:
            raise InputRejected(
                f"{self.samples.origin} holds the mean and the covariance of features, and this needs the images."
            )
        if tap not in self.taps:
            raise UsageError(f"The tap {tap!r} was not extracted; there are {', '.join(self.taps) or 'none'}.")
        return self.taps[tap]

    def take(self, samples: Samples, indices: NDArray[np.int64]) -> Evidence:
        """The evidence of a choice: of the images of the given numbers, which `samples` are."""
        taps = {
            name: Features(extractor=f.extractor, tap=f.tap, array=np.array(f.values()[indices]))
            for name, f in self.taps.items()
        }
        return Evidence(samples=samples, taps=taps)
