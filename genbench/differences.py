"""Differences of two scores against one reference: how sure they are, and what may be concluded from them.

Two systems that were given the same seeds, labels and captions are compared in pairs: image i of both sides has much in
common, and leaving the same block out on both sides keeps that. Two systems that were not are independent.

Everything here is about the sampling of images: of these two sets of weights, for this reference, at this number of
images. What another training would give is in no interval. A bias of order 1/n, such as that of FID, cancels in the
difference of two scores of equal n. Whether two scores may be subtracted at all (equal protocol, numbers of images and
reference) is not asked here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from genbench import uncertainty
from genbench.errors import NotComparable, UsageError
from genbench.records import Score

ALPHA = 0.05
POWER = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A candidate's score less a base's.

    Attributes:
        value: candidate - base, in the units of the metric.
        stderr: standard error, None where there is no sound one.
        ci95: 95 % interval, (low, high), which need not be symmetric.
        df: degrees of freedom of Student's t, None without a standard error.
        method: "paired jackknife-20", "unpaired", "identical", or "none: " and the reason.
        below, above: standard errors towards the low and the high end of the interval.
    """

    value: float
    stderr: float | None = None
    ci95: tuple[float, float] | None = None
    df: float | None = None
    method: str
    below: float | None = None
    above: float | None = None

    def low(self, level: float) -> float:
        """One-sided bound: the true difference is at least this, with probability `level`. -inf without an error."""
        return -math.inf if self.below is None else self.value - _t(level, self.df) * self.below

    def high(self, level: float) -> float:
        """One-sided bound: the true difference is at most this, with probability `level`. inf without an error."""
        return math.inf if self.above is None else self.value + _t(level, self.df) * self.above

    def p_above(self, limit: float) -> float:
        """One-sided p-value of "the true difference is at most `limit`": small where it is shown to be above.

        1 without an error, and for a difference without any error that is not above, 0 for one that is.
        """
        return _p(self.value - limit, self.below, self.df)

    def p_below(self, limit: float) -> float:
        """One-sided p-value of "the true difference is at least `limit`": small where it is shown to be below."""
        return _p(limit - self.value, self.above, self.df)

    def p_not(self, limit: float = 0.0) -> float:
        """Two-sided p-value of "the true difference is `limit`"."""
        return min(1.0, 2 * min(self.p_above(limit), self.p_below(limit)))


def _t(level: float, df: float | None) -> float:
    if not 0.5 <= level < 1:
        raise UsageError(f"The level of a one-sided bound lies in [0.5, 1); got {level}.")
    return float(ndtri(level) if df is None or math.isinf(df) else stdtrit(df, level))


def _p(distance: float, error: float | None, df: float | None) -> float:
    if error is None or df is None:
        return 1.0
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(stdtr(df, -distance / error))


def _none(value: float, reason: str) -> Difference:
    return Difference(value=value, method=f"none: {reason}")


def identical(base: Score, candidate: Score) -> Difference:
    """The difference of two scores of the same images: exactly 0, without an error.

    Raises:
        UsageError: scores that differ, which the same images do not have.
    """
    if base.value != candidate.value:
        raise UsageError(f"The same images cannot have the scores {base.value} and {candidate.value}.")
    return Difference(value=0.0, stderr=0.0, ci95=(0.0, 0.0), df=math.inf, method="identical", below=0.0, above=0.0)


def paired(base: Score, candidate: Score) -> Difference:
    """The difference of two scores of images that belong together: equal seeds, labels and captions, image by image.

    Args:
        base, candidate: scores of as many images, with `Score.blocks`.

    Returns:
        With D the difference of the values and D_k that of the values without block k on both sides, the standard error
        is that of a jackknife of D, sqrt((K - 1) / K sum (D_k - mean)^2) for equal blocks, and the interval is
        D +- t stderr with at most K - 1 df (`uncertainty.of_jackknife`). Where D_k = D = 0 for every block although the
        scores change with the block, the images are the same: exactly 0 without an error. Where the scores do not
        change with the block either (a precision of 1 on both sides), the blocks know nothing, and the interval is that
        of `unpaired`. Where one block makes up all of the spread, as where rounding has changed a single image, it has
        one degree of freedom, or it is that of `unpaired` where this is narrower. Without blocks, or with blocks of
        other sizes, there is no error, and `method` says why.
    """
    value = candidate.value - base.value
    for score in (base, candidate):
        if score.blocks is None:
            return _none(value, _why(score))
    assert base.blocks is not None and candidate.blocks is not None
    if base.blocks.sizes != candidate.blocks.sizes:
        counts = sum(base.blocks.sizes), sum(candidate.blocks.sizes)
        return _none(value, f"images in pairs need as many on both sides; got {counts[0]} and {counts[1]}")
    left, right = np.array(base.blocks.left_out), np.array(candidate.blocks.left_out)
    if value == 0 and np.array_equal(left, right):
        return unpaired(base, candidate) if (left == base.value).all() else identical(base, candidate)
    found = uncertainty.of_jackknife(value, right - left, base.blocks.sizes, fewest=0.0)
    if isinstance(found, str):
        wider = unpaired(base, candidate)
        return wider if wider.ci95 is not None else _none(value, found)
    if found.df >= uncertainty.FEWEST_DF:
        return _of_pairs(value, found.stderr, found.df, found.method)
    alike, apart = _of_pairs(value, found.stderr, 1.0, found.method), unpaired(base, candidate)
    if apart.ci95 is None:
        return _none(value, "one block of images makes up all of the spread")
    return min(alike, apart, key=lambda one: one.ci95[1] - one.ci95[0] if one.ci95 else math.inf)


def _of_pairs(value: float, stderr: float, df: float, method: str) -> Difference:
    half = uncertainty.quantile(df) * stderr
    return Difference(
        value=value,
        stderr=stderr,
        ci95=(value - half, value + half),
        df=df,
        method=f"paired {method}",
        below=stderr,
        above=stderr,
    )


def unpaired(base: Score, candidate: Score) -> Difference:
    """The difference of two scores of independent images.

    Args:
        base, candidate: scores with intervals.

    Returns:
        The interval is made of both scores' intervals, (l_b, u_b) and (l_c, u_c) around b and c: its low end is
        D - sqrt((c - l_c)^2 + (u_b - b)^2), its high end D + sqrt((u_c - c)^2 + (b - l_b)^2), so that it is as lopsided
        as they are and has a width where a share is 0 or 1. For symmetric intervals it is the usual one, of the root of
        the sum of squared errors. The degrees of freedom are Welch's, of the jackknife blocks of both sides.
        Without an interval on either side there is none, and `method` says why.

    Source:
        Zou and Donner 2008, "Construction of confidence limits about effect measures: a general approach" (MOVER); for
        two shares Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10.
    """
    value = candidate.value - base.value
    for score in (base, candidate):
        if score.ci95 is None:
            return _none(value, _why(score))
    assert base.ci95 is not None and candidate.ci95 is not None
    down = math.hypot(candidate.value - candidate.ci95[0], base.ci95[1] - base.value)
    up = math.hypot(candidate.ci95[1] - candidate.value, base.value - base.ci95[0])
    df = _welch(base, candidate)
    half = uncertainty.quantile(df)
    known = base.stderr is not None and candidate.stderr is not None
    return Difference(
        value=value,
        stderr=math.hypot(base.stderr or 0.0, candidate.stderr or 0.0) if known else None,
        ci95=(value - down, value + up),
        df=df,
        method="unpaired",
        below=down / half,
        above=up / half,
    )


def _why(score: Score) -> str:
    return (score.error_method or "no error was asked for").removeprefix("none: ")


def _welch(base: Score, candidate: Score) -> float:
    """Welch and Satterthwaite's degrees of freedom, each side's own being one less than its blocks."""
    parts = [(s.stderr or 0.0, len(s.blocks.sizes) - 1) for s in (base, candidate) if s.blocks is not None]
    spread = sum(error**4 / df for error, df in parts)
    total = sum((s.stderr or 0.0) ** 2 for s in (base, candidate)) ** 2
    return total / spread if spread else float(uncertainty.BLOCKS - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worsening:
    """How much worse a candidate is than a base, against a margin of what is tolerated.

    Attributes:
        value: the worsening: the difference with the sign that makes more worse.
        low, high: one-sided bounds of it, each at 1 - alpha.
        p_regressed: of "the worsening is at most the margin": small where a regression is shown.
        p_tolerable: of "the worsening is at least the margin": small where non-inferiority is shown.
        deciding_count: images with which the present value would decide with a power of 80 %, None where it lies on the
            margin or has no error.
    """

    value: float
    low: float
    high: float
    p_regressed: float
    p_tolerable: float
    deciding_count: int | None


def worsening(
    difference: Difference, *, margin: float, higher_is_better: bool, count: int, alpha: float = ALPHA
) -> Worsening:
    """One-sided statements about a difference of `count` images a side.

    Args:
        margin: the largest worsening that is tolerated, in the units of the metric, not negative.
        alpha: probability with which each of the two statements may be wrong.

    Returns:
        A regression is shown where low > margin, that is p_regressed < alpha; non-inferiority where high < margin, that
        is p_tolerable < alpha; never both. Without an error neither is.

    Raises:
        UsageError: a margin that is negative or no number, or alpha out of (0, 0.5].
    """
    if not (margin >= 0 and math.isfinite(margin)):
        raise UsageError(f"A margin is a number of at least 0; got {margin}.")
    if not 0 < alpha <= 0.5:
        raise UsageError(f"alpha lies in (0, 0.5]; got {alpha}.")
    level = 1 - alpha
    if higher_is_better:
        value, low, high = -difference.value, -difference.high(level), -difference.low(level)
        regressed, tolerable = difference.p_below(-margin), difference.p_above(-margin)
    else:
        value, low, high = difference.value, difference.low(level), difference.high(level)
        regressed, tolerable = difference.p_above(margin), difference.p_below(margin)
    return Worsening(
        value=value,
        low=low,
        high=high,
        p_regressed=regressed,
        p_tolerable=tolerable,
        deciding_count=deciding_count(difference, margin=value - margin, count=count, alpha=alpha),
    )


def deciding_count(difference: Difference, *, margin: float, count: int, alpha: float = ALPHA) -> int | None:
    """Images a side with which a difference would be told from a limit.

    Args:
        margin: distance of the difference from the limit, of either sign.
        count: images a side of the difference.

    Returns:
        The error falls like 1/sqrt(n), so that n = count ((z_alpha + z_power) stderr / margin)^2 with a power of 80 %,
        the present value being the true one; at least 2. None where the margin is 0 or there is no error.
    """
    error = None if difference.below is None or difference.above is None else max(difference.below, difference.above)
    if error is None or margin == 0:
        return None
    needed = count * ((float(ndtri(1 - alpha)) + float(ndtri(POWER))) * error / margin) ** 2
    return max(2, math.ceil(needed)) if math.isfinite(needed) else None


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values of several statements, adjusted so that any of them is wrongly accepted with probability alpha only.

    With p_(1) <= ... <= p_(m), the adjusted value of the i-th is the maximum of (m - j + 1) p_(j) over j <= i, and at
    most 1. A statement is accepted where its adjusted value is below alpha.

    Source:
        Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted, largest = {}, 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ties:
    """Systems in the order of their scores, and which of them are not told apart.

    Attributes:
        order: names, the best first.
        groups: runs of `order`, as long as possible, in which no two systems are shown to differ. Groups may overlap.
        p_values: of every pair of names in the order of `order`, two-sided and adjusted by `holm`.
    """

    order: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    p_values: Mapping[tuple[str, str], float]


def ties(
    scores: Mapping[str, Score],
    *,
    higher_is_better: bool,
    in_pairs: bool | Callable[[str, str], bool],
    alpha: float = ALPHA,
) -> Ties:
    """Groups of systems that are not told apart, in place of ranks.

    Args:
        scores: of one metric against one reference, by system.
        in_pairs: whether image i of all systems belong together, see `paired`; or of which two systems, by name.

    Returns:
        Pairs whose difference has no error count as not told apart.

    Raises:
        UsageError: no scores.
        NotComparable: a score that is not a finite number.
    """
    if not scores:
        raise UsageError("Ties need at least one score.")
    for name, score in scores.items():
        if not math.isfinite(score.value):
            raise NotComparable(f"The score of {name!r} is {score.value}, which has no place in an order.")
    order = sorted(scores, key=lambda name: (-scores[name].value if higher_is_better else scores[name].value, name))

    def compared(one: str, other: str) -> Difference:
        together = in_pairs(one, other) if callable(in_pairs) else in_pairs
        return (paired if together else unpaired)(scores[one], scores[other])

    pairs = list(itertools.combinations(range(len(order)), 2))
    raw = {f"{i} {j}": compared(order[i], order[j]).p_not() for i, j in pairs}
    found = dict(zip(pairs, holm(raw).values(), strict=True))
    groups: list[tuple[str, ...]] = []
    end = 0
    for start in range(len(order)):
        stop = start + 1
        while stop < len(order) and all(found[i, stop] >= alpha for i in range(start, stop)):
            stop += 1
        if stop > end:
            groups.append(tuple(order[start:stop]))
            end = stop
    return Ties(
        order=tuple(order),
        groups=tuple(groups),
        p_values={(order[i], order[j]): p for (i, j), p in found.items()},
    )
