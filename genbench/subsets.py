"""Fewer images than there are: a seeded choice that depends on what the images show, never on the order of files.

Folders are read class by class, so that their first images are of few classes. Here every image gets a random number
that is a function of its pixels and of the seed. Those with the least numbers are chosen, as many of every class as its
share. The same images as a folder, a zip or an npz, renamed or in another order, give the same choice.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from genbench import features
from genbench.arrays import Samples, fingerprint_of
from genbench.errors import UsageError
from genbench.mixing import GOLDEN, mixed

SEED = 0
"""Seed of every choice of images that a protocol makes."""


def subset(samples: Samples, count: int, *, seed: int = SEED, workers: int = 2) -> tuple[Samples, NDArray[np.int64]]:
    """A fair choice of so many images.

    Args:
        samples: of which all pixels are read, unless their digests are in the cache or their order is random by itself.
        count: images of the choice, at most `samples.count`.
        seed: of the choice.
        workers: threads that decode images.

    Returns:
        The choice, in the order of its random numbers, and the place of each of its images in `samples`, int64
        (count,). Its name says how many of how many, the seed, and whether every class has its share. All images are
        returned as they are, and of images in a random order the first ones.

    Raises:
        UsageError: fewer than one image, or more than there are.
    """
    if not 1 <= count <= samples.count:
        raise UsageError(f"{samples.origin} has {samples.count} images; {count} were asked for.")
    if count == samples.count or samples.exchangeable:
        return samples.subset(0, count), np.arange(count)
    digests = features.pixel_digests(samples, workers=workers)
    indices = choice(digests, count, labels=samples.labels, seed=seed)
    known = digests[indices]
    content = fingerprint_of(samples.shape, known)
    by_class = "" if samples.labels is None else ", by class"
    origin = f"{samples.origin}, {count} of {samples.count}, seed {seed}{by_class}"
    chosen = samples.take(indices, origin=origin, fingerprint=lambda: content)
    return replace(chosen, hashes=lambda start, stop: known[start:stop]), indices


def outline(samples: Samples, count: int) -> Samples:
    """What `subset` will be, before any pixel is read: the number of images and, up to rounding, the classes."""
    if count == samples.count or samples.exchangeable:
        return samples.subset(0, count)
    places = np.arange(count) * samples.count // count
    if samples.labels is not None:
        places = np.argsort(samples.labels, kind="stable")[places]
    return samples.take(places, origin=samples.origin, fingerprint=samples.fingerprint)


def choice(
    digests: NDArray[np.uint8], count: int, *, labels: NDArray[np.int64] | None = None, seed: int = SEED
) -> NDArray[np.int64]:
    """Numbers of the chosen images, in a random order that depends on their content alone.

    Args:
        digests: uint8 (n, 16 or more), one row an image, equal for equal pixels.
        count: at most n.
        labels: int64 (n,): every class gets its share, rounded by the largest remainder.

    Returns:
        int64 (count,).
    """
    groups = np.zeros(len(digests), np.int64) if labels is None else np.unique(labels, return_inverse=True)[1]
    ranks = _random_numbers(digests, groups, seed)
    ascending = np.argsort(ranks, kind="stable")
    sizes = np.bincount(groups)
    whole, rest = np.divmod(sizes * count, len(digests))
    # Equal remainders go by the random number of the image that would come next, so that the numbering is nothing.
    place = _places(groups, ascending)
    upcoming = np.full(len(sizes), np.iinfo(np.uint64).max, np.uint64)
    at_turn = np.flatnonzero(place == whole[groups])
    upcoming[groups[at_turn]] = ranks[at_turn]
    first = np.lexsort((upcoming, -rest))[: count - int(whole.sum())]
    whole[first] += 1
    return ascending[(place < whole[groups])[ascending]].astype(np.int64)


def _places(groups: NDArray[np.int64], ascending: NDArray[np.intp]) -> NDArray[np.int64]:
    """The place of every image among those of its group, in the given order."""
    by_group = ascending[np.argsort(groups[ascending], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(groups))[:-1]])
    places = np.empty(len(groups), np.int64)
    places[by_group] = np.arange(len(groups)) - starts[groups[by_group]]
    return places


def _random_numbers(digests: NDArray[np.uint8], groups: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """uint64 (n,) of content and seed. Copies of an image get numbers of their own, or all would be chosen or none."""
    words = np.ascontiguousarray(digests[:, :16]).view("<u8")
    order = np.lexsort((groups, words[:, 1], words[:, 0]))
    same = np.zeros(len(order), bool)
    same[1:] = (words[order[1:]] == words[order[:-1]]).all(axis=1) & (groups[order[1:]] == groups[order[:-1]])
    starts = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
    copy = np.empty(len(order), np.uint64)
    copy[order] = (np.arange(len(order)) - starts).astype(np.uint64)
    key = np.frombuffer(hashlib.sha256(f"genbench.subsets {seed}".encode()).digest()[:8], "<u8")[0]
    return mixed(mixed(words[:, 0] ^ key) ^ words[:, 1] ^ mixed(copy * np.uint64(GOLDEN)))
