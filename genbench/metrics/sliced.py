"""Sliced Wasserstein distance: transport between two sets of features along many directions at once."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from genbench.arrays import Evidence
from genbench.contracts import Metric
from genbench.errors import InputRejected, UsageError
from genbench.metrics import arguments
from genbench.metrics.matching import matched
from genbench.records import Score
from genbench.uncertainty import NONNEGATIVE, block_numbers, block_sizes, of_jackknife, score, tail_is_heavier

Array = NDArray[np.float64]

_CHUNK = 32


def directions(width: int, count: int, seed: int) -> NDArray[np.float32]:
    """Independent uniform directions: float32 (width, count), columns of length 1."""
    drawn = np.random.default_rng(seed).standard_normal((width, count))
    return (drawn / np.linalg.norm(drawn, axis=0)).astype(np.float32)


def squared_transport(x: Array, y: Array) -> Array:
    """Squared 2-Wasserstein distance between two sets of numbers, exactly, for any two counts.

    Args:
        x, y: float64 (n, p) and (m, p), each column ascending: p pairs of sets.

    Returns:
        float64 (p,).
    """
    n, m = len(x), len(y)
    if n == m:
        return ((x - y) ** 2).mean(axis=0)
    # Quantile functions are constant between multiples of 1/n and 1/m; in units of 1/(n m) these are whole numbers.
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    weights = np.diff(ends, prepend=0) / (n * m)
    return weights @ (x[(ends - 1) // m] - y[(ends - 1) // n]) ** 2


def sliced_distances(
    generated: NDArray[np.float32],
    reference: NDArray[np.float32],
    *,
    projections: int = 256,
    seed: int = 0,
    blocks: NDArray[np.int64] | None = None,
) -> tuple[float, Array]:
    """Sliced 2-Wasserstein distance, and without each block of generated images.

    Args:
        generated, reference: float32 (n, d) and (m, d).
        projections: number of directions.
        seed: of the directions.
        blocks: int64 (n,), jackknife block of every generated image, None for no blocks.

    Returns:
        Root of the mean over directions of the squared distance between projections, in the units of the features; and
        float64 (number of blocks,).

    Raises:
        UsageError: fewer than one direction.
        InputRejected: features that are not finite.
    """
    if projections < 1:
        raise UsageError(f"projections must be at least 1; got {projections}. The default is 256.")
    count = 0 if blocks is None else int(blocks.max()) + 1
    total, left_out = 0.0, np.zeros(count)
    along = directions(generated.shape[1], projections, seed)
    # Without their common shift the projections are small numbers, of which float32 keeps the digits that matter.
    centre = reference.mean(axis=0, dtype=np.float64).astype(np.float32)
    sides = generated - centre, reference - centre
    for start in range(0, projections, _CHUNK):
        part = along[:, start : start + _CHUNK]
        x, y = (side @ part for side in sides)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise InputRejected("Features are not finite; check the extractor's output.")
        order = np.argsort(x, axis=0, kind="stable")
        x = np.take_along_axis(x, order, axis=0).astype(np.float64)
        y = np.sort(y, axis=0).astype(np.float64)
        total += squared_transport(x, y).sum()
        if blocks is None:
            continue
        member = blocks[order]
        for block in range(count):
            # Every column loses as many rows, so that what is left is a matrix again, and still ascends.
            stays = (member != block).T
            kept = x.T[stays].reshape(len(stays), -1).T
            left_out[block] += squared_transport(kept, y).sum()
    return math.sqrt(total / projections), np.sqrt(left_out / projections)


def swd(*, generated: Evidence, reference: Evidence, projections: int = 256, seed: int = 0) -> Score:
    """Sliced 2-Wasserstein distance of features; `swd@pixels` is that of pixels.

    Args:
        projections: number of random directions. Values of the same width, number and seed are along the same ones.
        seed: of the directions.

    Returns:
        In the units of the features. For equal distributions the expectation is not 0 but falls with the number of
        images. The standard error is a jackknife over blocks of generated images, for this reference and these
        directions; features with heavy tails have none.

    Raises:
        UsageError, NotComparable, InputRejected: of the arguments and the features.

    Source:
        Bonneel et al. 2015, eq. 8 with p = 2 and its root taken, which is also what POT calls by this name. The metric
        of this name in Karras et al. 2018 is on patches of a Laplacian pyramid: another number.
    """
    x, y = (features.values() for features in matched(generated, reference))
    value, left_out = sliced_distances(x, y, projections=projections, seed=seed, blocks=block_numbers(len(x)))
    error = of_jackknife(value, left_out, block_sizes(len(x)))
    if tail_is_heavier(np.square(x - x.mean(axis=0)).sum(axis=1), HEAVY):
        error = "the features have heavy tails, and the error of squared transport needs their fourth moments"
    return score(value, error, bounds=NONNEGATIVE)


HEAVY = 0.15
"""Shape of the tail of squared distances from the mean that is still light enough; 1/2 is that of features without
fourth moments."""


SWD = Metric(
    name="swd",
    summary="sliced 2-Wasserstein distance of features",
    source="Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3, eq. 8",
    compute=swd,
    check=arguments.sliced,
    higher_is_better=False,
    bounds=NONNEGATIVE,
    minimum=2,
    invariances=frozenset({"order", "translation"}),
)
