"""Vendi score: the effective number of different images in a set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh

from genbench.arrays import Evidence
from genbench.contracts import Metric
from genbench.errors import InputRejected, UsageError
from genbench.metrics import arguments
from genbench.records import Blocks, Score
from genbench.uncertainty import Found, Uncertainty, block_numbers, block_sizes, of_independent, of_jackknife, score

Array = NDArray[np.float64]

AT_LEAST_ONE = (1.0, math.inf)


def effective_number(spectrum: Array, q: float = 1.0) -> float:
    """exp of the Renyi entropy of order q of eigenvalues that sum to 1. Those that are not positive count as 0.

    Source: Pasarkar and Dieng 2024 (arXiv:2310.12952), eq. 2; orders 1 and infinity are its limits.
    """
    positive = spectrum[spectrum > 0]
    if q == 1:
        return math.exp(-float((positive * np.log(positive)).sum()))
    if math.isinf(q):
        return 1 / float(positive.max())
    return float((positive**q).sum()) ** (1 / (1 - q))  # eq. 2


def vendi_scores(
    values: NDArray[np.floating], blocks: NDArray[np.int64] | None = None, *, q: float = 1.0
) -> tuple[float, Array]:
    """The score of a set, and without each of its blocks.

    Args:
        values: (n, d), any float. Rows are scaled to length 1.
        blocks: int64 (n,), block of every row, from 0 up, None for no blocks. Every block must leave some row.
        q: order of the entropy.

    Returns:
        The score, in [1, min(n, d)], and float64 (number of blocks,) scores without a block.

    Raises:
        InputRejected: a row whose length is 0 or not finite.

    The similarity matrix of n rows and the Gram matrix of d columns have the same eigenvalues but for zeros. The
    smaller one is taken, and without a block it is a submatrix or a difference.
    """
    x = np.asarray(values, dtype=np.float64)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise InputRejected("Features of an image have length 0 or are not finite; their direction is not defined.")
    x = x / lengths
    n, d = x.shape
    matrix = x.T @ x if n > d else x @ x.T

    def of(part: Array, count: int) -> float:
        return effective_number(eigvalsh(part / count, check_finite=False), q)

    def without(gone: NDArray[np.bool_]) -> float:
        kept = n - int(gone.sum())
        return of(matrix - x[gone].T @ x[gone] if n > d else matrix[np.ix_(~gone, ~gone)], kept)

    each = [] if blocks is None else [blocks == b for b in range(int(blocks.max()) + 1)]
    return of(matrix, n), np.array([without(gone) for gone in each])


def vendi(*, generated: Evidence, per_class: bool = False, q: float = 1.0) -> Score:
    """Effective number of different images: exp of the entropy of the eigenvalues of their cosine similarities over n.

    1 for copies of one image, n for images at right angles to each other. It knows no real images, and noise scores
    highest. It grows with n until n is large against the number itself, so that only equal n can be compared.

    Args:
        per_class: average the scores of the classes of the generated images' labels, as dgm-eval does.
        q: order of the entropy, positive, `inf` included. Orders below 1 weigh rare images more, orders above 1 less;
            2 is the inverse of the mean squared similarity, infinity that of the largest eigenvalue.

    Returns:
        The standard error is a jackknife over blocks of images.

    Raises:
        UsageError: per_class without labels, or an order that is not positive.
        InputRejected: features without a direction.

    Source:
        Friedman and Dieng 2023, eq. 1 with the cosine kernel, and Pasarkar and Dieng 2024 for other orders; agrees with
        the package `vendi-score` (`tests/parity`) and with dgm-eval `vendi.py` (per_class=True).
    """
    if not q > 0:
        raise UsageError(f"q, the order of the entropy of vendi, must be positive; got {q}. The default is 1.")
    values = generated.features().values()
    labels = np.zeros(len(values), dtype=np.int64)
    if per_class:
        if generated.samples.labels is None:
            raise UsageError("vendi(per_class=True) needs labels, and the images have none; leave per_class out.")
        labels = generated.samples.labels
    classes = np.unique(labels)
    total = 0.0
    parts: list[Found] = []
    for label in classes:
        chosen = values[labels == label]
        # The score of a single image is 1 whatever it shows.
        blocks = block_numbers(len(chosen)) if len(chosen) > 1 else None
        whole, left_out = vendi_scores(chosen, blocks, q=q)
        total += whole / len(classes)
        error = of_jackknife(whole / len(classes), left_out / len(classes), block_sizes(len(chosen)))
        parts.append(f"of class {label}, {error}" if per_class and isinstance(error, str) else error)
    return score(total, _together(parts), bounds=AT_LEAST_ONE)


def _together(parts: Sequence[Found]) -> Found:
    """Blocks of the mean over classes. Block k is that of every class at once, where all classes have as many."""
    found = parts[0] if len(parts) == 1 else of_independent(parts)
    blocks = [part.blocks for part in parts if isinstance(part, Uncertainty) and part.blocks is not None]
    if isinstance(found, str) or len(blocks) < len(parts) or len({len(b.sizes) for b in blocks}) > 1:
        return found
    left_out = np.sum([b.left_out for b in blocks], axis=0)
    sizes = np.sum([b.sizes for b in blocks], axis=0)
    return replace(found, blocks=Blocks(left_out=tuple(left_out.tolist()), sizes=tuple(sizes.tolist())))


VENDI = Metric(
    name="vendi",
    summary="effective number of different images",
    source="Friedman and Dieng 2023, arXiv:2210.02410; per_class=True agrees with dgm-eval",
    compute=vendi,
    check=arguments.diversity,
    higher_is_better=True,
    bounds=AT_LEAST_ONE,
    minimum=2,
    invariances=frozenset({"order", "rotation", "scale"}),
    reads=lambda args: ("labels",) if args.get("per_class") else (),
)
