"""Whether a classifier sees in a generated image the class that was asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genbench.arrays import Evidence
from genbench.contracts import Metric
from genbench.errors import InputRejected, NotComparable, UsageError
from genbench.records import Score
from genbench.uncertainty import score_from_share


def ranks(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of the right class among all classes, 0 being the most likely; of equal logits the first class leads.

    Args:
        logits: float32 (n, c).
        labels: int64 (n,), in [0, c).

    Returns:
        int64 (n,).

    Raises:
        InputRejected: labels out of range, or logits that are not finite.
    """
    if not np.isfinite(logits).all():
        raise InputRejected("The logits are not finite; the extractor or what it was given is broken.")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise InputRejected(
            f"Labels lie in [{labels.min()}, {labels.max()}] and the classifier has {logits.shape[1]} classes; use one "
            "trained on these classes, and `offset` where its first output is none of them."
        )
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    return ((logits > own) | ((logits == own) & earlier)).sum(axis=1)


def _accuracy(generated: Evidence, k: int, offset: int, classes: int) -> Score:
    logits, labels = generated.features("logits"), generated.samples.labels
    if labels is None:
        raise UsageError(f"top{k} needs labels, and the images have none.")
    width = logits.shape[1]
    stop = offset + classes if classes else width
    if not 0 <= offset < stop <= width:
        raise UsageError(f"The classifier has {width} outputs; offset={offset} and classes={classes} leave them.")
    if stop - offset <= k:
        raise NotComparable(f"Every image is right among the first {k} of {stop - offset} classes; ask for fewer.")
    hits, start = 0, 0
    for rows in logits.blocks():
        hits += int((ranks(rows[:, offset:stop], labels[start : start + len(rows)]) < k).sum())
        start += len(rows)
    return score_from_share(hits, len(logits))


def top1(*, generated: Evidence, offset: int = 0, classes: int = 0) -> Score:
    """Share of images of which the classifier's most likely class is the one that was asked for.

    Args:
        offset: output of the classifier that is class 0.
        classes: number of classes that compete; 0 is all outputs from `offset` on. The Inception network of FID has
            1008 outputs, of which 1..1000 are ImageNet's: offset=1, classes=1000.

    Raises:
        UsageError: no labels, an extractor without logits, or outputs that the classifier does not have.
        InputRejected: labels that are no classes.
        NotComparable: no more classes than guesses.

    Source:
        The usual definition; agrees with torch.topk where no logits are equal.
    """
    return _accuracy(generated, 1, offset, classes)


def top5(*, generated: Evidence, offset: int = 0, classes: int = 0) -> Score:
    """As `top1`, for the five most likely classes."""
    return _accuracy(generated, 5, offset, classes)


TOP1 = Metric(
    name="top1",
    summary="share of images that a classifier takes for the class asked for",
    source="accuracy of the extractor's classifier, as on samples in Kang et al. 2023, arXiv:2206.09479 (StudioGAN)",
    compute=top1,
    taps=("logits",),
    labels=True,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    minimum=1,
)

TOP5 = Metric(
    name="top5",
    summary="share of images with the class asked for among a classifier's first five",
    source=TOP1.source,
    compute=top5,
    taps=("logits",),
    labels=True,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    minimum=1,
)
