"""Whether a classifier sees in a generated image the class that was asked for."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genbench.arrays import Evidence, Samples
from genbench.contracts import Classifier, Metric
from genbench.errors import InputRejected, NotComparable, UsageError
from genbench.labels import of_classifier
from genbench.metrics.arguments import whole
from genbench.records import Score
from genbench.uncertainty import blocks_of_mean, score_from_share


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


def _meant(classifier: Classifier, offset: int | None, classes: int | None) -> Classifier:
    """The classifier, or other outputs of its tap where the user asked for them, whose names are then not known."""
    if offset is None and classes is None:
        return classifier
    first = classifier.offset if offset is None else offset
    count = classes or classifier.offset + classifier.count - first
    return Classifier(tap=classifier.tap, offset=first, count=count)


def _check(
    k: int, *, classifier: Classifier, generated: Samples, offset: int | None, classes: int | None, **_: Any
) -> None:
    for name, value in (("offset", offset), ("classes", classes)):
        if value is not None:
            whole(f"{name} of top{k}", value, 0)
    meant = _meant(classifier, offset, classes)
    if meant.count <= k:
        raise NotComparable(f"Every image is right among the first {k} of {meant.count} classes; ask for fewer.")
    of_classifier(generated, meant)


def _accuracy(generated: Evidence, k: int, classifier: Classifier, offset: int | None, classes: int | None) -> Score:
    _check(k, classifier=classifier, generated=generated.samples, offset=offset, classes=classes)
    meant = _meant(classifier, offset, classes)
    logits, (labels, _) = generated.features(meant.tap), of_classifier(generated.samples, meant)
    offset, stop, width = meant.offset, meant.offset + meant.count, logits.shape[1]
    if stop > width:
        raise UsageError(f"The classifier has {width} outputs; offset={offset} and classes={meant.count} leave them.")
    right, start = np.zeros(len(logits), dtype=np.bool_), 0
    for rows in logits.blocks():
        part = slice(start, start + len(rows))
        right[part] = ranks(rows[:, offset:stop], labels[part]) < k
        start = part.stop
    return score_from_share(int(right.sum()), len(right), blocks=blocks_of_mean(right))


def top1(
    *, generated: Evidence, classifier: Classifier, offset: int | None = None, classes: int | None = None
) -> Score:
    """Share of images of which the classifier's most likely class is the one that was asked for.

    Args:
        classifier: of the extractor, which says what outputs are classes, and which. Images whose classes have names
            are matched with it by name, where it has any.
        offset: output that is class 0, where it is another than the extractor says.
        classes: number of classes that compete, likewise.

    Raises:
        UsageError: outputs that the classifier does not have.
        InputRejected: no labels, or labels and names that are no classes of it.
        NotComparable: no more classes than guesses.

    Source:
        The usual definition; agrees with torch.topk where no logits are equal.
    """
    return _accuracy(generated, 1, classifier, offset, classes)


def top5(
    *, generated: Evidence, classifier: Classifier, offset: int | None = None, classes: int | None = None
) -> Score:
    """Computes what `top1` does for the five most likely classes."""
    return _accuracy(generated, 5, classifier, offset, classes)


TOP1 = Metric(
    name="top1",
    summary="share of images that a classifier takes for the class asked for",
    source="accuracy of the extractor's classifier, as on samples in Kang et al. 2023, arXiv:2206.09479 (StudioGAN)",
    compute=top1,
    check=partial(_check, 1),
    taps=("classifier",),
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
    check=partial(_check, 5),
    taps=("classifier",),
    labels=True,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    minimum=1,
)
