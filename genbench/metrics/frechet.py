"""The Frechet family of metrics: FID, sFID, FD on any extractor, FID at infinity, FID per class, MiFID.

The distance itself, its fits and its influence function are in `genbench.gaussians`; here are the metrics that use
them, each with its error bar.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genbench import pieces
from genbench.arrays import Evidence, Features, Moments
from genbench.contracts import Metric
from genbench.errors import InputRejected, NotComparable, UsageError
from genbench.gaussians import (
    Array,
    Factored,
    Fit,
    distances_without_each_block,
    distances_without_each_image,
    equal,
    factored,
    fit_of,
    fit_of_rows,
    fit_of_statistics,
    fit_told,
    frechet_distance,
    influence,
    moments_of,
    told_of,
)
from genbench.metrics import arguments
from genbench.metrics.matching import matched
from genbench.metrics.memo import remember
from genbench.records import Score
from genbench.uncertainty import (
    BLOCKS,
    Found,
    Uncertainty,
    block_numbers,
    block_sizes,
    blocks_of_effects,
    of_deletion,
    of_independent,
    of_influence,
    of_jackknife,
    tails_are_heavy,
)
from genbench.uncertainty import score as score_from

__all__ = ["FD", "FID", "FID_INF", "MIFID", "PER_CLASS_FID", "SFID", "fid", "frechet_distance", "moments_of"]
NONNEGATIVE = (0.0, math.inf)


INFLUENCE_NEEDS = 30
"""Images a feature below which the influence function is not the error: of a law with rare modes its intervals covered
87 % of the time at 8 images a feature and 90 % at 16 (`leaderboards/interval_coverage.csv` has the jackknife's)."""


def _uncertainty(features: Features, fit: Fit, reference: Fit, value: float, error: str, blocks: int) -> Found | None:
    """Estimates the uncertainty of one distance to a fixed reference.

    Raises:
        UsageError: an unknown method.
        NotComparable: the influence function of no more images than features.
    """
    n, d = features.shape
    if error not in ("auto", "influence", "jackknife", "none"):
        raise UsageError(f"No error method {error!r}; there are auto, influence, jackknife and none.")
    if error == "none":
        return None
    if error == "influence":
        if not isinstance(fit, Moments):
            raise NotComparable(
                f"error='influence' needs more images than features; got {n} of width {d}. Use error='auto'."
            )
        if n < INFLUENCE_NEEDS * d:
            return f"the influence function needs {INFLUENCE_NEEDS} images a feature, {INFLUENCE_NEEDS * d}; got {n}"
        effects = influence(features, generated=fit, reference=reference)
        return _too_heavy(features, fit, effects) or of_influence(value, effects)
    left_out = _without_each(features, fit, reference)
    if isinstance(left_out, str):
        return left_out
    heavy = _too_heavy(features, fit, value - left_out)
    if heavy or error == "auto":
        return heavy or of_deletion(value, left_out)
    by_block = _left_out(features, fit, reference, blocks)
    return by_block if isinstance(by_block, str) else of_jackknife(value, by_block, block_sizes(n, blocks))


def _without_each(features: Features, fit: Fit, reference: Fit) -> Array | str:
    """Distances without each image, or why there are none."""
    if len(features) < FEWEST:
        return f"{len(features)} images are too few to leave one out; {FEWEST} are needed"
    return distances_without_each_image(features, generated=fit, reference=reference)


FEWEST = 4
"""Images of which one can be left out so that the others still have a covariance of some rank."""


def _too_heavy(features: Features, fit: Fit, effects: Array) -> str | None:
    """Why heavy tails leave no error, or None."""
    lengths = np.concatenate([np.square(block - fit.mean).sum(axis=1) for block in features.blocks()])
    if not tails_are_heavy(effects - effects.mean(), lengths):
        return None
    return "the features have heavy tails, and the error of a Frechet distance needs their fourth moments"


def _left_out(features: Features, fit: Fit, reference: Fit, blocks: int) -> Array | str:
    """Distances without each jackknife block, or why there are none."""
    n = len(features)
    if n - int(block_sizes(n, blocks).max()) < 2:
        return f"{n} images, and leaving some out leaves one, which has no covariance"
    return distances_without_each_block(features, generated=fit, reference=reference, blocks=blocks)


def _sides(generated: Evidence, reference: Evidence, tap: str) -> tuple[Features, Features | Factored]:
    """Does what `matched` does, with published statistics of the reference, where there are any, for its features."""
    known = reference.statistics.get(tap)
    if known is None:
        return matched(generated, reference, tap)
    return generated.features(tap), fit_of_statistics(known)


def _fits(generated: Features, reference: Features | Factored) -> tuple[Fit, Fit]:
    """Both fits, remembered for the next metric on the same features. See `_forms`."""

    def fit(features: Features) -> Fit:
        return remember((features,), ("fit",), lambda: fit_of(features))

    if isinstance(reference, Factored):
        return fit(generated), reference
    return remember((generated, reference), ("fits",), lambda: _forms(fit(generated), fit(reference)))


def _forms(fit: Fit, target: Fit) -> tuple[Fit, Fit]:
    """The reference in the form that makes many distances to it cheap, factored unless images are few.

    Equal sets keep equal forms, so that their distance is exactly 0.
    """
    if isinstance(fit, Factored) or equal(fit, target):
        return fit, target
    return fit, factored(target)


def _measured(generated: Features, fits: tuple[Fit, Fit], error: str, blocks: int) -> tuple[Score, Found | None]:
    """The distance without an error bar, and the error bar."""
    fit, target = fits
    distance = frechet_distance(generated=fit, reference=target)
    return distance, _uncertainty(generated, fit, target, distance.value, error, blocks)


def _distance(generated: Evidence, reference: Evidence, tap: str, error: str, blocks: int) -> Score:
    ours, theirs = _sides(generated, reference, tap)
    distance, uncertainty = _measured(ours, _fits(ours, theirs), error, blocks)
    return _score(distance.value, uncertainty, {**distance.detail, **_of_statistics(theirs)})


def _of_statistics(reference: Features | Factored) -> dict[str, float]:
    return {"reference_statistics": 1.0} if isinstance(reference, Factored) else {}


def _score(value: float, uncertainty: Found | None, detail: Mapping[str, float]) -> Score:
    """A squared distance, whose error grows with it: its interval is symmetric on the logarithm."""
    return score_from(value, uncertainty, bounds=NONNEGATIVE, on_log_of=value, detail=detail)


def fid(*, generated: Evidence, reference: Evidence, error: str = "auto", blocks: int = BLOCKS) -> Score:
    """Frechet distance of pooled features; FID on the Inception network of 2015-12-05, FD-DINOv2 on that extractor.

    Args:
        error: "auto" leaves every image out in turn, for any n, at the cost of one more eigendecomposition and two
            passes over the features; "influence" is its first order, and is refused below 30 images a feature;
            "jackknife" leaves blocks of images out, and costs one distance a block for n > d; "none" gives the value
            alone.
        blocks: of "jackknife".

    Returns:
        See `frechet_distance`. The error bar is over the sampling of generated images: the reference is held fixed, as
        it is when two models are compared on it, and the interval covers E[FID_n | this reference] at this n, not FID
        at infinite n. Its degrees of freedom fall where few images carry the error, such as those of a rare mode.
        Features with heavy tails have no error, because it needs their fourth moments; below about 200 images such
        tails are seen only half of the time. Detail `reference_statistics` is 1.0 where mean and covariance of the
        reference are published ones, of which nobody could say how sure they are.
        It is symmetric on the logarithm (`uncertainty.score`). Where the generated images have the law of the reference
        (a floor) the first-order term vanishes, and all methods then state an error too large by up to sqrt(2).

    Raises:
        NotComparable: features of two extractors or widths, or an influence function asked for with n <= d.
        UsageError: an unknown error method.
        InputRejected: features that are not finite, or fewer than two images.

    Source:
        As `frechet_distance`. `scripts/coverage_of_intervals.py` measures how often the intervals cover.
    """
    return _distance(generated, reference, "pooled", error, blocks)


def sfid(*, generated: Evidence, reference: Evidence, error: str = "auto", blocks: int = BLOCKS) -> Score:
    """Frechet distance of spatial features, which sees where things are; arguments and errors as `fid`.

    Source:
        Nash et al. 2021 (arXiv:2103.03841) sec. 5.1; the layer is that of openai/guided-diffusion `evaluator.py`. Its
        2023 features are often linearly dependent, where ADM adds 1e-6 to both diagonals and this does not.
    """
    return _distance(generated, reference, "spatial", error, blocks)


def _rows(features: Features, chosen: NDArray[np.int64]) -> Features:
    """The features of some images, in memory."""
    return Features(extractor=features.extractor, tap=features.tap, array=np.array(features.values()[chosen]))


ENOUGH = 4
"""Images a feature below which an extrapolation to infinitely many is not given: bias-corrected intervals covered the
truth 2 % of the time at 0.8 images a feature and 92 % at 3.1 (simulation on Gaussians of 128 features)."""


def fid_infinity(
    *,
    generated: Evidence,
    reference: Evidence,
    method: str = "jackknife",
    points: int = 15,
    smallest: int = 0,
    seed: int = 0,
) -> Score:
    """Frechet distance extrapolated to infinitely many generated images, against a fixed reference.

    Args:
        method: "jackknife": the distance of all images less its bias of order 1/n, which leaves no choice of subsets;
            "line": least squares of the distance of random subsets on 1/size, as published.
        points: of the line: sizes of subsets, equidistant from `smallest` to all images.
        smallest: of the line; 0 takes min(5000, n / 10), but no fewer than 2 images a feature.
        seed: of the subsets.

    Returns:
        The value at 1/n = 0; may be negative. Detail: `fid` of all images, and `slope`, its change with 1/n. The
        jackknife leaves every image out in turn, and its interval is that of `fid`, moved by the bias that is removed.
        The line has no interval: that of its first order, a weighted sum of the influence of the images, covered 80 to
        94 % of the time. The jackknife is the default because it was the better estimate wherever both were tried: two
        thirds of the line's root mean square error on Gaussians of 32 features with 4 to 16 images a feature.

    Raises:
        NotComparable: fewer than 4 generated images a feature, or the causes of `fid`.
        UsageError: fewer than 3 points, a smallest size out of range, an unknown method.

    Source:
        Chong and Forsyth 2020 (arXiv:1911.07023) sec. 4; sizes as in dgm-eval, which draws its subsets unseeded and may
        start below one image a feature, where the distance is not yet linear in 1/n.
    """
    ours, theirs = _sides(generated, reference, "pooled")
    n, d = ours.shape
    if n < ENOUGH * d:
        raise NotComparable(
            f"fid-inf needs at least {ENOUGH} generated images a feature, {ENOUGH * d} for width {d}; got {n}. "
            "Below that the extrapolation is noise; report fid with its number of images."
        )
    fit, target = _fits(ours, theirs)
    assert isinstance(fit, Moments)
    whole = frechet_distance(generated=fit, reference=target)
    detail = {"fid": whole.value, **_of_statistics(theirs)}
    if method == "jackknife":
        left_out = _without_each(ours, fit, target)
        assert not isinstance(left_out, str)
        value = float(n * whole.value - (n - 1) * left_out.mean())
        uncertainty = _too_heavy(ours, fit, whole.value - left_out) or _moved(
            of_deletion(whole.value, left_out), value - whole.value
        )
        return score_from(
            value, uncertainty, on_log_of=whole.value, detail={**detail, "slope": (whole.value - value) * n}
        )
    if method != "line":
        raise UsageError(f"No method {method!r} to extrapolate fid; there are jackknife and line.")
    smallest = smallest or max(min(5000, n // 10), 2 * d)
    if points < 3 or not d < smallest < n:
        raise UsageError(
            f"fid-inf needs at least 3 points and {d} < smallest < {n}; got points={points}, smallest={smallest}."
        )
    sizes = np.linspace(smallest, n, points).astype(np.int64)
    design = np.stack([np.ones(points), 1 / sizes], axis=1)
    intercept, slope = np.linalg.pinv(design)
    # Beside the rows there is a distance a subset, of a decomposition of 10 d^3 products.
    of_subsets = pieces.in_order(
        distance_of_subset, [ours], points - 1, products=float(sizes.sum()) * d**2 + 10 * points * d**3,
        sizes=sizes.tolist(), seed=seed, reference=told_of(target),
    )  # fmt: skip
    values = [*of_subsets, whole.value]
    reason = "no sound error of a line through distances of subsets is known; method='jackknife' has one"
    return score_from(float(intercept @ values), reason, detail={**detail, "slope": float(slope @ values)})


def distance_of_subset(
    number: int, features: Features, *, sizes: list[int], seed: int, reference: Mapping[str, Any]
) -> float:
    """The distance of one of the random subsets of these sizes, which are drawn one after the other."""
    rng = np.random.default_rng(seed)
    *_, chosen = (rng.choice(len(features), size, replace=False) for size in sizes[: number + 1])
    part = fit_of_rows(features, np.sort(chosen))
    return frechet_distance(generated=part, reference=fit_told(reference)).value


def _moved(uncertainty: Found, shift: float) -> Found:
    """The same for the value and a number: a correction of the bias, whose own error is of a higher order."""
    if isinstance(uncertainty, str) or uncertainty.blocks is None:
        return uncertainty
    left_out = tuple(value + shift for value in uncertainty.blocks.left_out)
    return replace(uncertainty, blocks=replace(uncertainty.blocks, left_out=left_out))


def fid_per_class(*, generated: Evidence, reference: Evidence, error: str = "auto") -> Score:
    """Mean over classes of the Frechet distance between the images of that class on both sides.

    Args:
        error: "auto", or "none" for the value alone. Every image is left out of its class in turn. The images of
            different classes are independent, so that their variances add.

    Returns:
        The mean with every class weighted alike. Detail: `class_<name or index>` for each. A class has fewer images
        than the whole, and more bias for it: compare at equal numbers a class only. A class of three images or fewer
        has no error. The mean then has none either, and `error_method` names the class.

    Raises:
        UsageError: an unknown error method.
        InputRejected: a side without labels.
        NotComparable: a class with fewer than two images on either side, or the causes of `fid`.

    Source:
        Intra-FID of Miyato and Koyama 2018 (arXiv:1802.05637) sec. 4.1.
    """
    if error not in ("auto", "none"):
        raise UsageError(f"No error method {error!r} of fid-per-class; there are auto and none.")
    ours, theirs = matched(generated, reference, "pooled")
    if generated.samples.labels is None or reference.samples.labels is None:
        side = generated if generated.samples.labels is None else reference
        raise InputRejected(f"fid-per-class needs labels on both sides; {side.samples.origin} has none.")
    labels = (generated.samples.labels, reference.samples.labels)
    classes = np.union1d(*labels)
    names = reference.samples.classes or generated.samples.classes
    told = [names[number] if 0 <= number < len(names) else str(number) for number in classes.tolist()]
    for number, name in zip(classes, told, strict=True):
        few = [int((side == number).sum()) for side in labels]
        if min(few) < 2:
            raise NotComparable(
                f"fid-per-class needs at least 2 images a class on both sides; class {name!r} has {few[0]} "
                f"generated and {few[1]} reference images."
            )
    detail: dict[str, float] = {}
    parts: list[Found] = []
    effects = np.zeros(len(ours))
    found = pieces.in_order(
        distance_of_class, [ours, theirs], len(classes), products=(len(ours) + len(theirs)) * ours.shape[1] ** 2,
        size=8 * len(ours) // len(classes), classes=classes, labels=labels, error=error,
    )  # fmt: skip
    for number, name, (one, left_out) in zip(classes, told, found, strict=True):
        detail[f"class_{name}"] = one
        if error == "auto":
            by_deletion = left_out if isinstance(left_out, str) else of_deletion(one, left_out)
            if isinstance(left_out, str) or isinstance(by_deletion, str):
                parts.append(f"of class {name!r}, {by_deletion}")
                continue
            parts.append(replace(by_deletion, stderr=by_deletion.stderr / len(classes)))
            members = labels[0] == number
            effects[members] = (len(left_out) - 1) * (one - left_out) / len(left_out) / len(classes)
    value = float(np.mean(list(detail.values())))
    uncertainty = None if error == "none" else of_independent(parts)
    if isinstance(uncertainty, Uncertainty):
        uncertainty = replace(uncertainty, blocks=blocks_of_effects(value, effects))
    return _score(value, uncertainty, detail)


def distance_of_class(
    number: int,
    generated: Features,
    reference: Features,
    *,
    classes: NDArray[np.int64],
    labels: tuple[NDArray[np.int64], NDArray[np.int64]],
    error: str,
) -> tuple[float, Array | str | None]:
    """The distance of one class, and that without each of its images or why there is none. See `fid_per_class`."""
    sides = zip((generated, reference), labels, strict=True)
    mine, its = (_rows(side, np.flatnonzero(of == classes[number])) for side, of in sides)
    fit, target = _forms(fit_of(mine), fit_of(its))
    one = frechet_distance(generated=fit, reference=target).value
    return one, _without_each(mine, fit, target) if error == "auto" else None


def _nearest(features: Features, others: Features, groups: NDArray[np.int64]) -> Array:
    """Cosine distance 1 - |cos| of every feature to its nearest other of each group: (n, number of groups).

    Rows whose sum is zero have no direction. They are left out of `features`, and are nobody's neighbour.
    """
    (n, d), m = features.shape, len(others)
    count = int(groups.max()) + 1
    found = pieces.in_order(
        nearest_of_block, [features, others], -(-n // NEAREST), products=n * m * d, size=8 * NEAREST * count,
        groups=groups,
    )  # fmt: skip
    return np.concatenate(list(found))


NEAREST = 1024
"""Rows whose nearest others are looked for at a time."""


def nearest_of_block(number: int, features: Features, others: Features, *, groups: NDArray[np.int64]) -> Array:
    """The distances of a block of features, see `_nearest`."""
    block = features.block(number, NEAREST)
    x = _directions(block[block.sum(axis=1, dtype=np.float64) != 0])
    best, start = np.ones((len(x), int(groups.max()) + 1)), 0  # 1 is the largest distance there is
    for other in others.blocks(4096):
        inside = groups[start : start + len(other)]
        start += len(other)
        usable = other.sum(axis=1, dtype=np.float64) != 0
        distance = 1 - np.abs(x @ _directions(other[usable]).T)
        for k in np.unique(inside[usable]):
            best[:, k] = np.minimum(best[:, k], distance[:, inside[usable] == k].min(axis=1))
    return best


def _directions(rows: NDArray[np.floating]) -> Array:
    x = np.asarray(rows, dtype=np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def mifid(
    *,
    generated: Evidence,
    reference: Evidence,
    over: str = "generated",
    threshold: float = 0.1,
    error: str = "jackknife",
    blocks: int = BLOCKS,
) -> Score:
    """Frechet distance divided by how near the two sets of images come to each other, which punishes memorisation.

    Args:
        over: whose nearest neighbours are averaged: "generated" images' among the reference, as Kaggle's metric does,
            which also finds a model that copies a few images only; or "reference" images' among the generated ones, as
            torchmetrics does.
        threshold: a mean distance of this much or more is no memorisation and counts as 1.
        error: "jackknife" or "none".
        blocks: of the jackknife.

    Returns:
        FID / (d + 1e-14), d being the mean over images of the smallest 1 - |cos| to an image of the other side, 0 where
        FID is at most 1e-8. Detail: `fid`, and `nearest`, the mean distance before the threshold. Where the threshold
        lies within 4 standard errors of that distance, images that were not drawn may lie on its other side, and
        the value jumps there: the interval then reaches from the low end with one of the two to the high end with the
        other, and there is no standard error.

    Raises:
        UsageError: another value of `over` or `error`.
        NotComparable, InputRejected: as `fid`.

    Source:
        Bai et al. 2021 (arXiv:2106.03062) sec. 3. over="reference" agrees with torchmetrics 1.9 `image/mifid.py` on
        equal features.
    """
    if over not in ("reference", "generated") or error not in ("jackknife", "none"):
        raise UsageError(
            f"mifid takes over='reference' or 'generated' and error='jackknife' or 'none'; got {over!r} and {error!r}."
        )
    ours, theirs = matched(generated, reference, "pooled")
    numbers = block_numbers(len(ours), blocks)
    if over == "reference":
        nearest = _nearest(theirs, ours, numbers)
    else:
        nearest = _nearest(ours, theirs, np.zeros(len(theirs), dtype=np.int64))
        numbers = numbers[ours.values().sum(axis=1, dtype=np.float64) != 0]

    def penalised(distance: float, apart: float) -> float:
        return distance / ((apart if apart < threshold else 1.0) + 1e-14) if distance > 1e-8 else 0.0

    def mean_nearest(distances: Array) -> float:
        return float(distances.min(axis=1).mean()) if distances.size else 1.0

    apart = mean_nearest(nearest)
    fit, target = _fits(ours, theirs)
    whole = frechet_distance(generated=fit, reference=target).value
    value, detail = penalised(whole, apart), {"fid": whole, "nearest": apart}
    if error == "none":
        return _score(value, None, detail)
    left_out, sizes = _left_out(ours, fit, target, blocks), block_sizes(len(ours), blocks)
    if isinstance(left_out, str):
        return _score(value, left_out, detail)
    plain = _uncertainty(ours, fit, target, whole, "auto", blocks)
    if isinstance(plain, str):
        return _score(value, plain, detail)
    distances = [
        mean_nearest(np.delete(nearest, k, axis=1) if over == "reference" else nearest[numbers != k])
        for k in range(len(sizes))
    ]
    of_nearest = of_jackknife(apart, distances, sizes)
    spread = of_nearest.stderr if isinstance(of_nearest, Uncertainty) else 0.0
    if apart > threshold + NEAR_THRESHOLD * spread:
        return _score(value, plain, detail)
    if apart < threshold - NEAR_THRESHOLD * spread:
        penalties = [penalised(rest, near) for rest, near in zip(left_out.tolist(), distances, strict=True)]
        return _score(value, of_jackknife(value, penalties, sizes), detail)
    low, high = _score(whole, plain, {}).ci95 or (whole, whole)
    divisor = max(min(apart, threshold) - NEAR_THRESHOLD * spread, 0.0) + 1e-14
    return Score(
        value=value,
        ci95=(min(low, value), max(high / min(divisor, 1.0), value)),
        error_method=f"both sides of the threshold: nearest is {apart:.4g} +- {spread:.2g}",
        detail=detail,
    )


NEAR_THRESHOLD = 4.0
"""Standard errors of the mean nearest distance within which the threshold may be passed by other images."""

_ISOMETRIES = frozenset({"order", "translation", "rotation"})

_OF_ERROR = ("error", "blocks")
"""Arguments that change an error bar and no value."""

FID = Metric(
    name="fid",
    summary="Frechet distance of pooled features",
    source="Heusel et al. 2017, arXiv:1706.08500; pytorch-fid",
    compute=fid,
    check=arguments.distance,
    higher_is_better=False,
    bounds=NONNEGATIVE,
    moments=True,
    invariances=_ISOMETRIES,
    neutral=_OF_ERROR,
)
FD = replace(
    FID,
    name="fd",
    summary="Frechet distance of pooled features of any extractor, such as dinov2",
    source="Stein et al. 2023, arXiv:2306.04675; dgm-eval",
)
SFID = Metric(
    name="sfid",
    summary="Frechet distance of spatial features",
    source="Nash et al. 2021, arXiv:2103.03841; guided-diffusion",
    compute=sfid,
    check=arguments.spatial_distance,
    taps=("spatial",),
    higher_is_better=False,
    bounds=NONNEGATIVE,
    moments=True,
    invariances=_ISOMETRIES,
    neutral=_OF_ERROR,
)
FID_INF = Metric(
    name="fid-inf",
    summary="Frechet distance extrapolated to infinitely many images",
    source="Chong and Forsyth 2020, arXiv:1911.07023; dgm-eval",
    compute=fid_infinity,
    version=2,
    check=partial(arguments.extrapolated, enough=ENOUGH),
    higher_is_better=False,
    moments=True,
    invariances=_ISOMETRIES,
    reads=lambda args: ("order",) if args.get("method") == "line" else (),
)
PER_CLASS_FID = Metric(
    name="fid-per-class",
    summary="mean over classes of the Frechet distance within a class",
    source="Miyato and Koyama 2018, arXiv:1802.05637",
    compute=fid_per_class,
    check=arguments.per_class,
    labels=True,
    higher_is_better=False,
    bounds=NONNEGATIVE,
    minimum=4,
    invariances=_ISOMETRIES,
    neutral=("error",),
)
MIFID = Metric(
    name="mifid",
    summary="Frechet distance that punishes copies of reference images",
    source="Bai et al. 2021, arXiv:2106.03062; torchmetrics",
    compute=mifid,
    version=2,
    check=arguments.memorised,
    higher_is_better=False,
    bounds=NONNEGATIVE,
    invariances=frozenset({"order", "rotation"}),
    neutral=_OF_ERROR,
)
