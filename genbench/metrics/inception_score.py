"""Inception score: how sure a classifier is of every image, and how many classes it sees."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, xlogy

from genbench import uncertainty
from genbench.arrays import Evidence, Features, Samples
from genbench.contracts import Metric
from genbench.errors import InputRejected, UsageError
from genbench.metrics.arguments import whole
from genbench.records import Score

_SURE = 10
"""Standard deviations beyond which an order is none by chance."""


def _splits(count: int, splits: int, chunk: int, shuffle: int | None) -> NDArray[np.int64]:
    """The number of the split that every image belongs to: int64 (count,), all splits from 0 up taken."""
    if splits < 1 or chunk < 0 or (splits > 1 and chunk):
        raise UsageError(
            f"is takes splits >= 1 or chunk >= 1, not both; got splits={splits}, chunk={chunk}. The default is 1 split."
        )
    if shuffle is not None and not 0 <= shuffle < 1 << 32:
        raise UsageError(f"shuffle of is, a seed, lies in [0, 2^32); got {shuffle}. None keeps the order.")
    if splits > count:
        raise UsageError(f"is cannot cut {count} images into {splits} splits; ask for at most {count}.")
    position = np.arange(count)
    if chunk:
        numbers = position // chunk
    else:
        bounds = np.arange(1, splits) * count // splits
        numbers = np.searchsorted(bounds, position, side="right")
    if shuffle is None:
        return numbers
    # The old generator, because it is the one that torch-fidelity and dgm-eval shuffle by.
    order = np.random.RandomState(shuffle).permutation(count)
    shuffled = np.empty_like(numbers)
    shuffled[order] = numbers
    return shuffled


def _check(*, generated: Samples, splits: int, chunk: int, shuffle: int | None, blocks: int, **_: Any) -> None:
    whole("blocks of is", blocks, 2)
    for name, value in (
        ("splits", splits),
        ("chunk", chunk),
        *((("shuffle", shuffle),) if shuffle is not None else ()),
    ):
        whole(f"{name} of is", value, 0)
    parts = _splits(generated.count, splits, chunk, shuffle)
    if generated.labels is not None:
        _check_order(parts, generated.labels, f"the classes of {generated.origin}")


def _check_order(parts: NDArray[np.int64], classes: NDArray[np.int64], whose: str) -> None:
    """Refuses parts that are of other classes than the whole, as those of a folder in the order of its classes are.

    Pearson's chi-square of the table of parts and classes has the expectation (p - 1)(c - 1) n / (n - 1) where the
    order is a random one.
    """
    known, numbers = np.unique(classes, return_inverse=True)
    shape = (int(parts.max()) + 1, len(known))
    table = np.bincount(parts * shape[1] + numbers, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / len(parts)
    freedom = (shape[0] - 1) * (shape[1] - 1)
    if ((table - expected) ** 2 / expected).sum() > freedom + _SURE * math.sqrt(2 * freedom):
        raise InputRejected(
            f"is would cut the images into parts in their order, and {whose} lie together, so that the parts lack "
            "variety. Shuffle them by a stated seed, is(..., shuffle=0), or take one part, is(splits=1)."
        )


def _sums(
    logits: Features, splits: NDArray[np.int64], blocks: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Sums over the images of every split and jackknife block, of which any score is made.

    Returns:
        Counts (s, k), sums of sum_c p log p (s, k), and sums of p (s, k, classes).
    """
    shape = (int(splits.max()) + 1, int(blocks.max()) + 1)
    counts, information = np.zeros(shape), np.zeros(shape)
    probability = np.zeros((*shape, logits.shape[1]))
    start = 0
    for rows in logits.blocks(1024):
        if not np.isfinite(rows).all():
            raise InputRejected("The logits are not finite; the extractor or what it was given is broken.")
        log_p = log_softmax(rows.astype(np.float64), axis=1)
        p = np.exp(log_p)
        cell = (splits[start : start + len(rows)], blocks[start : start + len(rows)])
        start += len(rows)
        np.add.at(counts, cell, 1)
        np.add.at(information, cell, (p * log_p).sum(axis=1))
        np.add.at(probability, cell, p)
    return counts, information, probability


def _scores(
    counts: NDArray[np.float64], information: NDArray[np.float64], probability: NDArray[np.float64]
) -> NDArray[np.float64]:
    """exp(mean KL(p || mean p)) of every split (s,) with images in it, from the sums over its blocks that are given."""
    taken = counts.sum(axis=1) > 0
    n = counts.sum(axis=1)[taken]
    marginal = probability.sum(axis=1)[taken] / n[:, None]
    divergence = information.sum(axis=1)[taken] / n - xlogy(marginal, marginal).sum(axis=1)
    return np.exp(np.maximum(divergence, 0.0))


def inception_score(
    *,
    generated: Evidence,
    splits: int = 1,
    chunk: int = 0,
    shuffle: int | None = None,
    blocks: int = uncertainty.BLOCKS,
) -> Score:
    """Exponential of the mean Kullback-Leibler divergence of predicted classes from their average.

    Args:
        generated: with logits (n, classes). The softmax is over all of them, for the network of 2015-12-05 over 1008
            without their bias.
        splits: the score is the mean over so many parts, cut at i n // splits. One part is the default: parts of few
            images bias the score down, and 10 parts of 1,000 images gave 6.49 where all of them gave 6.84.
        chunk: instead of `splits`, parts of so many images, the last of which may be smaller.
        shuffle: seed of a permutation before cutting; None keeps the order. Images in the order of their classes would
            make parts without variety, 62.07 instead of 298.45 for a set of ADM's, and are refused.
        blocks: of the jackknife.

    Returns:
        At least 1, at most the number of classes, 1 where all predictions are equal. The error is a block jackknife
        over the generated images. Detail: `splits`, and for more than one `split_std`, the deviation of parts (ddof 0)
        that papers print after a plus-minus sign: the error of one part of n / splits images and not of the score.

    Raises:
        UsageError: splits and chunk together, or more splits than images.
        InputRejected: logits that are not finite, or parts of images that lie in the order of their classes.

    Source:
        Salimans et al. 2016 (arXiv:1606.03498) sec. 4. splits=10, shuffle=2020 agrees with torch-fidelity 0.4.0;
        chunk=5000 with ADM's `evaluator.py`; splits=1 is DDPM's, score_sde's and StudioGAN's way. Accumulated in
        float64, where improved-gan, ADM and torchmetrics compute in float32.
    """
    logits = generated.features("logits")
    count = len(logits)
    parts = _splits(count, splits, chunk, shuffle)
    if parts.any():
        seen = np.concatenate([rows.argmax(axis=1) for rows in logits.blocks()])
        _check_order(parts, seen, f"the images of {generated.samples.origin} that look alike")
    sums = _sums(logits, parts, uncertainty.block_numbers(count, blocks))
    scores = _scores(*sums)
    kept = [[np.delete(part, k, axis=1) for part in sums] for k in range(sums[0].shape[1])]
    left_out = [_scores(*parts).mean() for parts in kept] if count > 1 else []
    detail = {"splits": float(len(scores))}
    if len(scores) > 1:
        detail["split_std"] = float(scores.std())
    return uncertainty.score_from_jackknife(
        float(scores.mean()), left_out, sizes=sums[0].sum(axis=0), bounds=(1.0, math.inf), detail=detail
    )


INCEPTION_SCORE = Metric(
    name="is",
    summary="confidence and variety of predicted classes",
    source="Salimans et al. 2016, arXiv:1606.03498",
    compute=inception_score,
    check=_check,
    taps=("logits",),
    higher_is_better=True,
    bounds=(1.0, math.inf),
    invariances=frozenset({"order"}),
    neutral=("blocks",),
    reads=lambda args: ("order",) if args.get("chunk") or args.get("splits") != 1 else (),
)
