"""How sure a number is: standard errors and 95 % intervals over the sampling of images.

Three methods, each with its name in `Score.error_method`: the exact variance of a mean, the influence function of a
smooth functional, and the delete-a-block jackknife for everything else. A percentile bootstrap is not among them:
resampling with replacement adds the 1/n bias of a Frechet distance a second time, and its interval then covers nothing.

An interval speaks of the expectation of the metric at this number of images, E[metric_n]: it does not know the bias in
n, nor what another training run would give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from genbench.errors import UsageError
from genbench.mixing import GOLDEN, mixed
from genbench.records import Score

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncertainty:
    """The pieces of an error bar.

    Attributes:
        stderr: standard error, in the units of the metric.
        df: degrees of freedom of Student's t; math.inf is the normal distribution.
        method: for `Score.error_method`.
        corrected: estimate without the bias of order 1/n, where the method gives one (jackknife), else None.
    """

    stderr: float
    df: float
    method: str
    corrected: float | None = None


def quantile(df: float = math.inf, level: float = LEVEL) -> float:
    """Half width of a central interval of probability `level` in standard errors, of Student's t or the normal."""
    upper = (1 + level) / 2
    return float(ndtri(upper) if math.isinf(df) else stdtrit(df, upper))


def score(
    value: float,
    uncertainty: Uncertainty | None,
    *,
    bounds: tuple[float, float] = EVERYTHING,
    on_log_of: float | None = None,
    detail: Mapping[str, float] | None = None,
    reason: str | None = None,
) -> Score:
    """A `Score` with its 95 % interval, cut at the bounds of the metric.

    Args:
        on_log_of: None for value +- t * stderr. For squared distances and the like, whose error grows with the number
            itself, a positive number that differs from the value by a constant: the interval is then symmetric on its
            logarithm, number * exp(+- t * stderr / number) less the constant. On features of photographs this covered
            the expectation of FID 92 to 96 % of the time, the symmetric interval 88 to 92 %.
        reason: why there is no uncertainty, which then stands in `error_method`.

    Returns:
        Without an uncertainty (or with one that is not finite) error and interval are None.
    """
    if uncertainty is None or not math.isfinite(uncertainty.stderr):
        return Score(value=float(value), error_method=reason, detail=detail or {})
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
    )


def of_mean(values: ArrayLike, *, method: str = "mean") -> Uncertainty | None:
    """Standard error of the mean of independent values (n,), one an image: sd(ddof=1) / sqrt(n), t with n - 1 df.

    None for fewer than two values.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return None
    return Uncertainty(stderr=float(x.std(ddof=1) / math.sqrt(len(x))), df=len(x) - 1, method=method)


def of_influence(values: ArrayLike) -> Uncertainty | None:
    """Standard error of a smooth functional of the distribution of images.

    Args:
        values: (n,), its influence function at each image. To first order in 1/sqrt(n) the functional is their mean.

    Source: Hampel 1974, "The influence curve and its role in robust estimation".
    """
    return of_mean(values, method="influence")


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


def of_jackknife(value: float, left_out: ArrayLike, sizes: ArrayLike | None = None) -> Uncertainty | None:
    """Standard error and bias correction from a delete-a-block jackknife.

    Args:
        value: the statistic on all n images.
        left_out: (K,), the statistic without block k.
        sizes: (K,), images in each block; None for equal blocks.

    Returns:
        With h_k = n / size_k and pseudo-values p_k = h_k value - (h_k - 1) left_out_k: the corrected value
        c = K value - sum (1 - 1/h_k) left_out_k, and the variance mean((p_k - c)^2 / (h_k - 1)), which for equal blocks
        is (K - 1)/K sum (left_out_k - mean)^2. Student's t with K - 1 df. None for fewer than two blocks.

    Source:
        Busing, Meijer and van der Leeden 1999, "Delete-m jackknife for unequal m", eq. 3 and 4.
    """
    out = np.asarray(left_out, dtype=np.float64)
    count = len(out)
    if count < 2:
        return None
    inverse = np.full(count, 1 / count) if sizes is None else np.asarray(sizes, dtype=np.float64) / np.sum(sizes)
    corrected = float(value + ((1 - inverse) * (value - out)).sum())
    h = 1 / inverse
    deviation = (h - 1) * (value - out) + value - corrected
    variance = float(np.mean(deviation**2 / (h - 1)))
    return Uncertainty(stderr=math.sqrt(variance), df=count - 1, method=f"jackknife-{count}", corrected=corrected)


def of_independent(parts: Sequence[Uncertainty]) -> Uncertainty | None:
    """Of a statistic of several independent samples, from the uncertainty that each sample alone contributes.

    Variances add and the degrees of freedom are Welch and Satterthwaite's; bias corrections are not combined. The
    method names the parts once each, joined by "+". None without parts.
    """
    if not parts:
        return None
    variances = [p.stderr**2 for p in parts]
    total = sum(variances)
    spread = sum(v**2 / p.df for v, p in zip(variances, parts, strict=True))
    method = "+".join(dict.fromkeys(p.method for p in parts))
    return Uncertainty(stderr=math.sqrt(total), df=total**2 / spread if spread else math.inf, method=method)


def score_from_jackknife(
    value: float,
    left_out: ArrayLike,
    *,
    sizes: ArrayLike | None = None,
    bounds: tuple[float, float] = EVERYTHING,
    detail: Mapping[str, float] | None = None,
) -> Score:
    """A `Score` from the statistic on all images and without each block; see `of_jackknife`."""
    return score(value, of_jackknife(value, left_out, sizes), bounds=bounds, detail=detail)


def score_from_mean(
    values: ArrayLike,
    *,
    bounds: tuple[float, float] = EVERYTHING,
    detail: Mapping[str, float] | None = None,
) -> Score:
    """A `Score` of a metric that is the mean of one number an image, values (n,); see `of_mean`."""
    x = np.asarray(values, dtype=np.float64)
    return score(float(x.mean()), of_mean(x), bounds=bounds, detail=detail)


def score_from_share(hits: float, count: int, *, detail: Mapping[str, float] | None = None) -> Score:
    """A `Score` of the share of independent images for which something holds, such as an accuracy.

    Returns:
        Value p = hits / count and stderr sqrt(p (1 - p) / count). The interval is Wilson's, because that of p +- 1.96
        stderr has no width at p = 0 or 1 and covers too rarely near them.

    Source:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    z, p = quantile(), hits / count
    centre = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    # At p = 0 and 1 the exact ends are 0 and 1; rounding must not push them past the value.
    ci95 = (min(max(centre - half, 0.0), p), max(min(centre + half, 1.0), p))
    return Score(
        value=p, stderr=math.sqrt(p * (1 - p) / count), ci95=ci95, error_method="wilson", detail=detail or {}
    )  # fmt: skip
