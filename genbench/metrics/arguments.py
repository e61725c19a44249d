"""What can be refused of a metric before any work: values of arguments, and numbers of images that they leave too few.

Each function is a `Metric.check` and takes the metric's own arguments. `reference` has 0 images where statistics stand
for it, and `widths` is empty where the extractor is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from genbench.arrays import Samples
from genbench.errors import InputRejected, NotComparable, UsageError
from genbench.neighbours import ARITHMETICS

Widths = Mapping[str, int]

MOST_CLASSES = 1 << 16
"""Three times as many as the largest collection of labelled images in use has. A larger label is no class."""


def whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Refuses what is no whole number of at least `least`.

    Raises:
        UsageError: as said.
    """
    if type(value) is not int or value < least or (most is not None and value > most):
        between = f"of at least {least}" if most is None else f"in [{least}, {most}]"
        raise UsageError(f"{name} is a whole number {between}; got {value!r}.")


def _jackknife(metric: str, error: str, blocks: int, methods: tuple[str, ...]) -> None:
    if error not in methods:
        raise UsageError(f"{metric} has no error method {error!r}; there are {', '.join(methods)}.")
    whole(f"blocks of {metric}", blocks, 2)


def distance(*, generated: Samples, widths: Widths, error: str, blocks: int, tap: str = "pooled", **_: Any) -> None:
    """Checks the arguments of `fid`, `fd` and `sfid`."""
    _jackknife("fid", error, blocks, ("auto", "influence", "jackknife", "none"))
    if error == "influence" and generated.count <= widths.get(tap, 0):
        raise NotComparable(
            f"error='influence' needs more images than features; got {generated.count} of width {widths[tap]}. Use "
            "error='jackknife'."
        )


def spatial_distance(**given: Any) -> None:
    """Checks the arguments of `sfid`."""
    distance(tap="spatial", **given)


def extrapolated(
    *,
    generated: Samples,
    widths: Widths,
    enough: int,
    method: str,
    points: int,
    smallest: int,
    seed: int,
    **_: Any,
) -> None:
    """Checks the arguments of `fid-inf`, and that there are `enough` images a feature."""
    if method not in ("jackknife", "line"):
        raise UsageError(f"No method {method!r} to extrapolate fid; there are jackknife and line.")
    whole("points of fid-inf", points, 3)
    whole("smallest of fid-inf", smallest, 0)
    whole("seed of fid-inf", seed, 0)
    n, d = generated.count, widths.get("pooled", 0)
    if n < enough * d:
        raise NotComparable(
            f"fid-inf needs at least {enough} generated images a feature, {enough * d} for width {d}; there are {n}."
        )
    if method == "line" and smallest and not d < smallest < n:
        raise UsageError(f"fid-inf needs {d} < smallest < {n}; got {smallest}.")


def per_class(*, generated: Samples, reference: Samples, error: str, **_: Any) -> None:
    """Checks the arguments of `fid-per-class`, and that both sides have two images of every class."""
    if error not in ("auto", "none"):
        raise UsageError(f"No error method {error!r} of fid-per-class; there are auto and none.")
    if generated.labels is None or reference.labels is None:
        return  # refused for every metric that reads labels
    names = reference.classes or generated.classes
    for number in np.union1d(generated.labels, reference.labels).tolist():
        counts = [int((side.labels == number).sum()) for side in (generated, reference)]
        if min(counts) < 2:
            name = names[number] if 0 <= number < len(names) else str(number)
            raise NotComparable(
                f"fid-per-class needs at least 2 images a class on both sides; class {name!r} has {counts[0]} "
                f"generated and {counts[1]} reference images."
            )


def memorised(*, error: str, blocks: int, threshold: float, **_: Any) -> None:
    """Checks the arguments of `mifid`."""
    _jackknife("mifid", error, blocks, ("jackknife", "none"))
    if not 0 <= threshold < np.inf:
        raise UsageError(f"threshold of mifid is a distance of at least 0; got {threshold}.")


def manifold(
    *, generated: Samples, reference: Samples, k: int = 1, arithmetic: str = "float32", both: bool = False, **_: Any
) -> None:
    """Checks that `density`, `coverage`, `realism` and `authpct` have more reference images than neighbours."""
    if arithmetic not in ARITHMETICS:
        raise UsageError(f"No arithmetic {arithmetic!r} for distances; there are {' and '.join(ARITHMETICS)}.")
    whole("k, the neighbour that sets a radius,", k, 1)
    for role, side in (("reference", reference), ("generated", generated)):
        if side.count <= k and (both or role == "reference"):
            raise NotComparable(
                f"Radii to the {k}-th neighbour need at least {k + 1} {role} images; {side.origin} has {side.count}."
            )


def manifolds(**given: Any) -> None:
    """Checks that `precision` and `recall` have more images than neighbours on both sides."""
    manifold(both=True, **given)


def kernel(*, generated: Samples, reference: Samples, subsets: int, subset_size: int, seed: int, **_: Any) -> None:
    """Checks the arguments of `kid`."""
    whole("subsets of kid", subsets, 0)
    whole("subset_size of kid", subset_size, 2)
    whole("seed of kid", seed, 0, 2**32 - 1)
    least = min(generated.count, reference.count)
    if subsets and least < subset_size:
        raise NotComparable(
            f"Subsets of {subset_size} images cannot be drawn from {generated.count} generated and {reference.count} "
            f"reference images; give subset_size={least} or less, or subsets=0 for the estimator that uses all pairs."
        )


def gaussian(*, sigma: float, **_: Any) -> None:
    """Checks the arguments of `cmmd`."""
    if not 0 < sigma < np.inf:
        raise UsageError(f"sigma must be positive; got {sigma}. The published numbers have 10.")


def sliced(*, projections: int, seed: int, **_: Any) -> None:
    """Checks the arguments of `swd`."""
    whole("projections of swd", projections, 1)
    whole("seed of swd", seed, 0)


def diversity(*, generated: Samples, per_class: bool, q: float, **_: Any) -> None:
    """Checks the arguments of `vendi`."""
    if not q > 0:
        raise UsageError(f"q, the order of the entropy of vendi, must be positive; got {q}. The default is 1.")
    if per_class and generated.labels is None:
        raise InputRejected(
            f"vendi(per_class=True) needs labels, and {generated.origin} has none; ask for vendi(per_class=False), "
            "another number."
        )


def trained(
    *,
    generated: Samples,
    reference: Samples,
    epochs: int | None,
    batch_size: int | None,
    repeats: int,
    seed: int,
    **_: Any,
) -> None:
    """Checks the arguments of `cas`."""
    for what, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 2), ("repeats", repeats, 1)):
        if value is not None:
            whole(f"{what} of cas", value, least)
    whole("seed of cas", seed, 0)
    if generated.shape != reference.shape:
        raise InputRejected(f"cas compares images of one size; got {generated.shape} and {reference.shape}.")
    found = [side.labels.max() for side in (generated, reference) if side.labels is not None]
    if found and max(found) < 1:
        raise InputRejected("cas needs labels of two or more classes, counted from 0.")
    if found and max(found) >= MOST_CLASSES:
        raise InputRejected(
            f"cas trains a classifier of one output a class, of at most {MOST_CLASSES:,}; the largest label is "
            f"{max(found):,}. Labels count classes from 0."
        )


def pairs(*, generated: Samples, reference: Samples, **_: Any) -> None:
    """Checks that the images of `psnr` and `lpips` have one size."""
    if generated.shape != reference.shape:
        raise NotComparable(f"Images of {generated.shape} and {reference.shape} cannot be compared pixel by pixel.")


def windows(*, generated: Samples, border: str, borders: tuple[str, ...], window: int, **given: Any) -> None:
    """Checks the arguments of `ssim`, its borders and the width of its window."""
    if border not in borders:
        raise UsageError(f"ssim has no border {border!r}; there are {' and '.join(borders)}.")
    pairs(generated=generated, **given)
    smallest = window if border == "valid" else window // 2 + 1
    if min(generated.shape[1:]) < smallest:
        raise NotComparable(
            f"ssim with border={border!r} needs images of at least {smallest} pixels; got {generated.shape[1:]}."
        )


def reduced(*, generated: Samples, reference: Samples, factor: int, **_: Any) -> None:
    """Checks the arguments of `consistency`."""
    whole("factor of consistency", factor, 1)
    c, h, w = generated.shape
    if h % factor or w % factor:
        raise NotComparable(f"Images of {h}x{w} pixels cannot be reduced {factor} times; the factor must divide both.")
    if reference.shape not in (generated.shape, (c, h // factor, w // factor)):
        raise NotComparable(
            f"Images of {generated.shape} reduced {factor} times are {(c, h // factor, w // factor)}; the reference is "
            f"{reference.shape}."
        )
