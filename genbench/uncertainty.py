"""How sure a number is: standard errors and 95 % intervals over the sampling of images.

Four methods, each with its name in `Score.error_method`: the exact variance of a mean ("mean"), the influence function
of a smooth functional ("influence"), the jackknife that leaves every image out in turn ("jackknife"), and the one that
leaves blocks of images out ("jackknife-20") for everything else. A percentile bootstrap is not among them: resampling
with replacement adds the 1/n bias of a Frechet distance a second time, and its interval then covers nothing.

An interval speaks of E[metric_n | this reference], the expectation of the metric at this number of generated images and
for this very reference: it does not know the bias in n, nor what other reference images or another training would give.

Where no sound interval is known there is none, and `Score.error_method` is "none: " and the reason. How often the
intervals cover is measured by `scripts/coverage_of_intervals.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri, stdtrit

from genbench.errors import UsageError
from genbench.mixing import GOLDEN, mixed
from genbench.records import Blocks, Score

BLOCKS = 20
"""Default number of jackknife blocks: 19 degrees of freedom widen the interval by 7 % against the normal one, and every
block costs one more evaluation of the metric."""

LEVEL = 0.95

LOG_LIMIT = 4.0
"""Half width, as a multiple of the number itself, beyond which an interval is not made on a logarithm: its upper end
would be exp(4) times the number, and an error of twice the number says only that the number is small."""
EVERYTHING = (-math.inf, math.inf)
NONNEGATIVE = (0.0, math.inf)
SHARE = (0.0, 1.0)

FEWEST_BLOCKS = 5
"""Blocks below which a jackknife says nothing: its error would have an error of a third and more of its own."""

FEWEST_DF = 3.0
"""Degrees of freedom below which an error is not given: two or three images make up all of the spread."""

RELATIVE_ZERO = 1e-12
"""An error of this share of the value is one of rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """The pieces of an error bar.

    Attributes:
        stderr: standard error, in the units of the metric.
        df: degrees of freedom of Student's t; math.inf is the normal distribution.
        method: for `Score.error_method`.
        corrected: estimate without the bias of order 1/n, where the method gives one (jackknife), else None.
        blocks: for `Score.blocks`.
    """

    stderr: float
    df: float
    method: str
    corrected: float | None = None
    blocks: Blocks | None = None


Found = Uncertainty | str
"""An uncertainty, or the reason why there is none."""


def quantile(df: float = math.inf, level: float = LEVEL) -> float:
    """Half width of a central interval of probability `level` in standard errors, of Student's t or the normal."""
    upper = (1 + level) / 2
    return float(ndtri(upper) if math.isinf(df) else stdtrit(df, upper))


def score(
    value: float,
    uncertainty: Found | None,
    *,
    bounds: tuple[float, float] = EVERYTHING,
    on_log_of: float | None = None,
    detail: Mapping[str, float] | None = None,
) -> Score:
    """A `Score` with its 95 % interval, cut at the bounds of the metric.

    Args:
        uncertainty: the reason why there is none stands in `error_method`; None says that none was asked for.
        on_log_of: None for value +- t * stderr. For squared distances and the like, whose error grows with the number
            itself, a positive number that differs from the value by a constant: the interval is then symmetric on its
            logarithm, number * exp(+- t * stderr / number) less the constant. On features of photographs this covered
            the expectation of FID 92 to 96 % of the time, the symmetric interval 88 to 92 %.

    Returns:
        Without an uncertainty (or with one that is not finite) error and interval are None.
    """
    if isinstance(uncertainty, Uncertainty) and not math.isfinite(uncertainty.stderr):
        uncertainty = "what is left without some images has no value"
    if uncertainty is None or isinstance(uncertainty, str):
        method = None if uncertainty is None else f"none: {uncertainty}"
        return Score(value=float(value), error_method=method, detail=detail or {})
    half = quantile(uncertainty.df) * uncertainty.stderr
    below = above = half
    if on_log_of is not None and on_log_of > 0 and half < LOG_LIMIT * on_log_of:
        below, above = -on_log_of * math.expm1(-half / on_log_of), on_log_of * math.expm1(half / on_log_of)
    low, high = max(value - below, bounds[0]), min(value + above, bounds[1])
    return Score(
        value=float(value),
        stderr=uncertainty.stderr,
        ci95=(float(low), float(high)),
        error_method=uncertainty.method,
        detail=detail or {},
        blocks=uncertainty.blocks,
    )


def degrees(values: ArrayLike) -> float:
    """Degrees of freedom of the variance of independent values (n,), at most n - 1.

    The variance s^2 of values of kurtosis k has the variance s^4 (k - 1) / n, that of a chi-square of f degrees of
    freedom 2 s^4 / f: hence f = 2 n / (k - 1). Where few images carry most of the spread, such as those of a rare mode,
    f is small and the interval wide.

    Source:
        The matching of moments is Satterthwaite's of 1946, "An approximate distribution of estimates of variance
        components".
    """
    x = np.asarray(values, dtype=np.float64)
    deviation = np.abs(x - x.mean())
    largest = deviation.max()
    if largest == 0:
        return float(len(x) - 1)
    squares = np.square(deviation / largest)
    kurtosis = len(x) * float(np.square(squares).sum()) / float(squares.sum()) ** 2
    return float(min(len(x) - 1, 2 * len(x) / (kurtosis - 1))) if kurtosis > 1 else float(len(x) - 1)


def tail_is_heavier(values: ArrayLike, shape: float) -> bool:
    """Whether the upper tail of independent values (n,) is heavier than one of a shape, by more than a standard error.

    The shape is below 0 for a bounded tail, 0 for an exponential one, 1/a for a density that falls like the power
    -(a + 1). A law of shape 1/2 has no variance. It is estimated from the largest m = min(n / 5, 3 sqrt(n)) values,
    with a standard error of about (1 + shape) / sqrt(m). False where these are fewer than 5.

    Source:
        Probability-weighted moments of the generalised Pareto distribution, Hosking and Wallis 1987, sec. 3.2; how many
        values are taken is from Vehtari et al. 2024 (arXiv:1507.02646) sec. 2.
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    count = int(min(len(x) / 5, 3 * math.sqrt(len(x))))
    if count < 5:
        return False
    beyond = x[-count:] - x[-count - 1]
    place = (np.arange(1, count + 1) - 0.35) / count
    first, second = float(beyond.mean()), float(((1 - place) * beyond).mean())
    if first <= 2 * second:
        return False
    return 2 - first / (first - 2 * second) > shape + (1 + shape) / math.sqrt(count)


HEAVY_EFFECTS, HEAVY_LENGTHS = 0.2, 0.1
"""Shapes of tails, see `tails_are_heavy`."""


def tails_are_heavy(effects: ArrayLike, lengths: ArrayLike, shape: float = HEAVY_EFFECTS) -> bool:
    """Whether features have tails too heavy for the error of a distance that needs high moments of them.

    Args:
        effects: (n,), what each image adds to the distance, less the mean.
        lengths: (n,), its squared distance from the mean of the images.
        shape: of the tail of effects that is still light enough.

    Both must have a heavy tail (`tail_is_heavier`). Each alone would also refuse what is sound, such as rare modes,
    whose effects are few and large but whose images are not far out. Of Student's t with 4 degrees of freedom this saw
    four of five sets of 500 images; below about 200 images it sees less than half.
    """
    return tail_is_heavier(np.abs(np.asarray(effects)), shape) and tail_is_heavier(lengths, HEAVY_LENGTHS)


def of_effects(value: float, effects: ArrayLike, *, method: str, corrected: float | None = None) -> Found:
    """Uncertainty of a statistic that is nearly a sum of independent effects of its images.

    Args:
        effects: (n,), what image i adds: (x_i - mean) / n for a mean.

    Returns:
        stderr = sqrt(n / (n - 1) sum (effect - mean)^2), with the degrees of freedom of `degrees`. Its blocks are
        those of `blocks_of_effects`.
    """
    e = np.asarray(effects, dtype=np.float64)
    n = len(e)
    if n < 2:
        return f"{n} image has no spread"
    stderr = float(e.std(ddof=1) * math.sqrt(n))
    if not stderr > RELATIVE_ZERO * abs(value):
        return f"all {n} images count alike, which says nothing of how others would"
    df = degrees(e)
    if df < min(FEWEST_DF, n - 1):
        return f"a few of the {n} images make up all of the spread"
    return Uncertainty(stderr=stderr, df=df, method=method, corrected=corrected, blocks=blocks_of_effects(value, e))


def blocks_of_effects(value: float, effects: NDArray[np.float64]) -> Blocks:
    """The value without each block, to first order: value - n / (n - m) times the effects of the block's m images.

    For a mean this is exact. `of_jackknife` of them has the variance of the effects.
    """
    numbers, sizes = block_numbers(len(effects)), block_sizes(len(effects))
    sums = np.bincount(numbers, weights=effects, minlength=len(sizes))
    left_out = value - sums * len(effects) / (len(effects) - sizes)
    return Blocks(left_out=tuple(left_out.tolist()), sizes=tuple(sizes.tolist()))


def blocks_of_mean(values: ArrayLike) -> Blocks | None:
    """The mean of values (n,), one an image, without each block, None for fewer than two."""
    x = np.asarray(values, dtype=np.float64)
    return blocks_of_effects(float(x.mean()), (x - x.mean()) / len(x)) if len(x) > 1 else None


def of_mean(values: ArrayLike, *, method: str = "mean") -> Found:
    """Standard error of the mean of independent values (n,), one an image: sd(ddof=1) / sqrt(n). See `of_effects`.

    A reason for fewer than two values and for equal ones.
    """
    x = np.asarray(values, dtype=np.float64)
    return of_effects(float(x.mean()), (x - x.mean()) / len(x), method=method)


def of_influence(value: float, values: ArrayLike) -> Found:
    """Standard error of a smooth functional of the distribution of images.

    Args:
        value: of the functional.
        values: (n,), its influence function at each image. To first order in 1/sqrt(n) the functional is their mean.

    Source: Hampel 1974, "The influence curve and its role in robust estimation".
    """
    f = np.asarray(values, dtype=np.float64)
    return of_effects(value, f / len(f), method="influence")


def of_deletion(value: float, left_out: ArrayLike) -> Found:
    """Standard error and bias correction from the jackknife that leaves every image out in turn.

    Args:
        value: the statistic on all n images.
        left_out: (n,), the statistic without image i.

    Returns:
        The effects are (n - 1) (value - left_out) / n, the corrected value is n value - (n - 1) mean(left_out). On
        average the variance is not too small (Efron and Stein 1981), unlike that of an influence function. The degrees
        of freedom are at most 19, as those of 20 blocks: the error of a distance that few directions make up falls and
        rises with the distance, of which the spread of the effects within one set of images knows nothing.

    Source:
        Tukey 1958, "Bias and confidence in not-quite large samples".
    """
    out = np.asarray(left_out, dtype=np.float64)
    n = len(out)
    effects = (n - 1) / n * (value - out)
    found = of_effects(value, effects, method="jackknife", corrected=float(value + effects.sum()))
    return found if isinstance(found, str) else replace(found, df=min(found.df, BLOCKS - 1))


def block_numbers(count: int, blocks: int = BLOCKS) -> NDArray[np.int64]:
    """The jackknife block of every image: int64 (count,), in [0, min(blocks, count)).

    Image i's block depends on i and the number of blocks alone, so that two runs with equal seeds are cut alike, more
    images move none, and a stream knows the block before it knows its length. Every run of `blocks` consecutive images
    is dealt out one to each block in a pseudo-random order: sizes differ by at most one, images in the order of their
    classes spread over all blocks, and labels that repeat with a period cannot fall into step with the blocks as they
    would with i mod blocks.

    Raises:
        UsageError: fewer than two blocks.
    """
    if blocks < 2:
        raise UsageError(f"A jackknife needs at least 2 blocks; got {blocks}. The default is {BLOCKS}.")
    blocks = min(blocks, max(count, 1))
    runs = -(-count // blocks)
    counter = np.arange(1, runs * blocks + 1, dtype=np.uint64)
    keys = mixed(counter * np.uint64(GOLDEN)).reshape(runs, blocks)
    # The order of the keys of a run is a permutation of the blocks, whether or not the last run is full.
    return np.argsort(keys, axis=1).astype(np.int64).ravel()[:count]


def block_sizes(count: int, blocks: int = BLOCKS) -> NDArray[np.int64]:
    """Images in each block of `block_numbers`: int64 (min(blocks, count),)."""
    return np.bincount(block_numbers(count, blocks), minlength=min(blocks, max(count, 1)))


def leave_out_blocks(
    statistic: Callable[[NDArray[np.int64]], float], count: int, blocks: int = BLOCKS
) -> NDArray[np.float64]:
    """The statistic without each block in turn.

    Args:
        statistic: maps the ascending indices of the images that are kept to a number.

    Returns:
        float64 (min(blocks, count),), for `of_jackknife`.
    """
    numbers = block_numbers(count, blocks)
    return np.array([statistic(np.flatnonzero(numbers != k)) for k in range(min(blocks, count))], dtype=np.float64)


def _jackknifed(value: float, left_out: ArrayLike, sizes: ArrayLike | None) -> tuple[NDArray[np.float64], float]:
    """What each block adds to the variance (K,), so that its mean is the variance, and the corrected value."""
    out = np.asarray(left_out, dtype=np.float64)
    inverse = np.full(len(out), 1 / len(out)) if sizes is None else np.asarray(sizes, dtype=np.float64) / np.sum(sizes)
    corrected = float(value + ((1 - inverse) * (value - out)).sum())  # eq. 3
    h = 1 / inverse
    deviation = (h - 1) * (value - out) + value - corrected
    return deviation / np.sqrt(h - 1), corrected  # eq. 4, before the mean of squares


def of_jackknife(
    value: float, left_out: ArrayLike, sizes: ArrayLike | None = None, *, fewest: float = FEWEST_DF
) -> Found:
    """Standard error and bias correction from a delete-a-block jackknife.

    Args:
        value: the statistic on all n images.
        left_out: (K,), the statistic without block k.
        sizes: (K,), images in each block, None for equal blocks.
        fewest: degrees of freedom below which there is no error.

    Returns:
        With h_k = n / size_k and pseudo-values p_k = h_k value - (h_k - 1) left_out_k: the corrected value
        c = K value - sum (1 - 1/h_k) left_out_k, and the variance mean((p_k - c)^2 / (h_k - 1)), which for equal blocks
        is (K - 1)/K sum (left_out_k - mean)^2. Student's t with K - 1 df, or fewer where few blocks make up the spread
        (`degrees`). A reason for fewer than 5 blocks, and where the value is the same without any of them.

    Source:
        Busing, Meijer and van der Leeden 1999, "Delete-m jackknife for unequal m", eq. 3 and 4.
    """
    out = np.asarray(left_out, dtype=np.float64)
    if len(out) < FEWEST_BLOCKS:
        return f"a jackknife needs at least {FEWEST_BLOCKS} images to leave out in turn"
    if not np.isfinite(out).all():
        return "what is left without some images has no value"
    deviation, corrected = _jackknifed(value, out, sizes)
    stderr = math.sqrt(float(np.square(deviation).mean()))
    if not stderr > RELATIVE_ZERO * abs(value):
        return "the value is the same without any block of images, which says nothing of its error"
    df = degrees(deviation)
    if df < fewest:
        return "one block of images makes up all of the spread"
    kept = Blocks(
        left_out=tuple(out.tolist()),
        sizes=(1,) * len(out) if sizes is None else tuple(np.asarray(sizes, dtype=np.int64).tolist()),
    )
    return Uncertainty(stderr=stderr, df=df, method=f"jackknife-{len(out)}", corrected=corrected, blocks=kept)


def of_independent(parts: Sequence[Found]) -> Found:
    """Combines the uncertainties that several independent samples contribute to one statistic.

    Variances add and the degrees of freedom are Welch and Satterthwaite's; bias corrections and blocks are not
    combined. The method names the parts once each, joined by "+". The first reason, where a part has none.
    """
    known = []
    for part in parts:
        if isinstance(part, str):
            return part
        known.append(part)
    if not known:
        return "no part has an error"
    variances = [p.stderr**2 for p in known]
    total = sum(variances)
    spread = sum(v**2 / p.df for v, p in zip(variances, known, strict=True))
    method = "+".join(dict.fromkeys(p.method for p in known))
    return Uncertainty(stderr=math.sqrt(total), df=total**2 / spread if spread else math.inf, method=method)


def score_from_jackknife(
    value: float,
    left_out: ArrayLike,
    *,
    sizes: ArrayLike | None = None,
    bounds: tuple[float, float] = EVERYTHING,
    detail: Mapping[str, float] | None = None,
) -> Score:
    """A `Score` from the statistic on all images and without each block. See `of_jackknife`."""
    return score(value, of_jackknife(value, left_out, sizes), bounds=bounds, detail=detail)


def score_from_mean(
    values: ArrayLike,
    *,
    bounds: tuple[float, float] = EVERYTHING,
    detail: Mapping[str, float] | None = None,
) -> Score:
    """A `Score` of a metric that is the mean of one number an image, values (n,). See `of_mean`."""
    x = np.asarray(values, dtype=np.float64)
    return score(float(x.mean()), of_mean(x), bounds=bounds, detail=detail)


def score_from_dependent_share(
    value: float, left_out: ArrayLike, *, sizes: ArrayLike, count: int, detail: Mapping[str, float] | None = None
) -> Score:
    """A `Score` of the share of things that the images reach together, such as reference images inside their balls.

    Args:
        value: the share p, of `count` things.
        left_out: (K,), the share without block k of the images.
        sizes: (K,), images in each block.

    Returns:
        stderr by `of_jackknife`. The interval is the exact binomial one of as many independent things as would have
        that error: n* = q (1 - q) / stderr^2 with q = (p count + 1/2) / (count + 1), times the square of the ratio of
        the normal to Student's quantile. It has a width at 0 and 1, where that of p +- t stderr has none. Where no
        block changes anything, n* is the lesser of `count` and the number of images, and stderr that of q.

    Source:
        Korn and Graubard 1998, "Confidence intervals for proportions with small expected number of positive counts
        estimated from survey data", sec. 3; the interval is Clopper and Pearson's of 1934.
    """
    out, images = np.asarray(left_out, dtype=np.float64), int(np.sum(sizes))
    if len(out) < FEWEST_BLOCKS:
        return score(value, f"a jackknife needs at least {FEWEST_BLOCKS} images to leave out in turn", detail=detail)
    variance = float(np.square(_jackknifed(value, out, sizes)[0]).mean())
    q = (value * count + 0.5) / (count + 1)
    if variance > 0:
        stderr = math.sqrt(variance)
        effective = q * (1 - q) / variance * (quantile() / quantile(len(out) - 1)) ** 2
    else:
        effective = float(min(count, images))
        stderr = math.sqrt(q * (1 - q) / effective)
    hits, tail = value * effective, (1 - LEVEL) / 2
    low = float(betaincinv(hits, effective - hits + 1, tail)) if value > 0 else 0.0
    high = float(betaincinv(hits + 1, effective - hits, 1 - tail)) if value < 1 else 1.0
    return Score(
        value=value,
        stderr=stderr,
        ci95=(min(low, value), max(high, value)),
        error_method=f"jackknife-{len(out)}+binomial" if variance > 0 else "binomial",
        detail=detail or {},
        blocks=Blocks(left_out=tuple(out.tolist()), sizes=tuple(np.asarray(sizes, dtype=np.int64).tolist())),
    )


def score_from_share(
    hits: float, count: int, *, detail: Mapping[str, float] | None = None, blocks: Blocks | None = None
) -> Score:
    """A `Score` of the share of independent images for which something holds, such as an accuracy.

    Args:
        blocks: of `blocks_of_mean` of what holds.

    Returns:
        Value p = hits / count and stderr sqrt(p (1 - p) / count), at p = 0 and 1 with (hits + 1/2) / (count + 1) in the
        place of p, because an error of 0 would say that it is certain. The interval is Wilson's, because that of
        p +- 1.96 stderr covers too rarely near 0 and 1.

    Source:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    z, p = quantile(), hits / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    # At p = 0 and 1 the exact ends are 0 and 1; rounding must not push them past the value.
    ci95 = (min(max(centre - half, 0.0), p), max(min(centre + half, 1.0), p))
    q = p if 0 < p < 1 else (hits + 0.5) / (count + 1)
    return Score(
        value=p,
        stderr=math.sqrt(q * (1 - q) / count),
        ci95=ci95,
        error_method="wilson",
        detail=detail or {},
        blocks=blocks,
    )
