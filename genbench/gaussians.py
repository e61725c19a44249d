"""Gaussian fits to features, the Frechet distance between them, and how much each image moves it.

All of it is symmetric float64 linear algebra. A fit is held in one of two forms: as `Moments` when there are more
images than features, and as a `Factored` covariance when there are not, because a covariance of fewer images than
features is singular and its square root keeps half of the digits, while singular values of its factors keep all of
them. A `Factored` reference is also the cheap way to compare many fits with one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, eigh, lapack, solve_triangular, svdvals
from scipy.special import ellipj, ellipkm1

from genbench import pieces, uncertainty
from genbench.arrays import Features, Moments, Statistics
from genbench.errors import InputRejected, NotComparable
from genbench.records import Score

Array = NDArray[np.float64]
EPSILON = float(np.finfo(np.float64).eps)

BLOCK = 4096
"""Rows that are read, and summed up, at a time. Sums of blocks are added in their order, whoever made them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Factored:
    """Count and mean of features, and a factor F of their covariance F^T F.

    Attributes:
        count: n, None for published statistics, which do not tell it.
        mean: (d,).
        factor: (r, d); r is at least the rank of the covariance.
        triangular: whether the factor is square and upper triangular.
    """

    count: int | None
    mean: Array
    factor: Array
    triangular: bool = False


Fit = Moments | Factored


def moments_of(features: Features) -> Moments:
    """Moments of all features, read block by block: the memory needed does not grow with n. Processes share the blocks.

    Raises:
        InputRejected: fewer than two images, or features that are not finite.
    """
    if len(features) < 2:
        raise InputRejected(f"A covariance needs at least 2 images; got {len(features)} of the tap {features.tap!r}.")
    n, d = features.shape
    found = pieces.in_order(moments_of_block, [features], _blocks(n), products=n * d**2, size=8 * d**2)
    return reduce(add, (Moments(**told) for told in found))


def moments_of_block(number: int, features: Features) -> dict[str, Any]:
    """The fields of the moments of one block of features."""
    return told_of(Moments.of(_finite(features, number)))


def _blocks(rows: int) -> int:
    return -(-rows // BLOCK)


def _finite(features: Features, number: int) -> NDArray[np.float32]:
    block = features.block(number, BLOCK)
    if not np.isfinite(block).all():
        raise InputRejected(
            f"Features of the tap {features.tap!r} are not finite; the extractor or what it was given is broken."
        )
    return block


def told_of(fit: Fit) -> dict[str, Any]:
    """The fields of a fit by their names, as another process is told of it."""
    return {name: getattr(fit, name) for name in type(fit).__dataclass_fields__}


def fit_told(told: Mapping[str, Any]) -> Fit:
    """The fit whose fields were told."""
    return Moments(**told) if "scatter" in told else Factored(**told)


def factored_rows(rows: NDArray[np.floating]) -> Factored:
    """The exact fit to a few features (n, d), n >= 2: a factor of n - 1 rows, without the detour by a covariance.

    A reflection that maps the vector of ones to the first axis empties the first row of the centred features, which
    leaves n - 1 rows with the same scatter.
    """
    x = np.asarray(rows, dtype=np.float64)
    n, mean = len(x), x.mean(axis=0)
    x = x - mean
    return Factored(count=n, mean=mean, factor=(x[1:] + x[0] / (math.sqrt(n) - 1)) / math.sqrt(n - 1))


def fit_of(features: Features) -> Fit:
    """The Gaussian fit to features (n, d): `Moments` for n > d, `Factored` otherwise.

    Raises:
        InputRejected: fewer than two images, or features that are not finite.
    """
    n, d = features.shape
    if n > d or n < 2:
        return moments_of(features)
    return factored_rows(np.concatenate([_finite(features, number) for number in range(_blocks(n))]))


def fit_of_rows(features: Features, chosen: NDArray[np.int64]) -> Fit:
    """The fit to some of the images, at least two, given by ascending index; read a few thousand rows at a time."""
    if len(chosen) <= features.shape[1]:
        return factored_rows(features.values()[chosen])
    return reduce(add, (Moments.of(features.values()[chosen[i : i + BLOCK]]) for i in range(0, len(chosen), BLOCK)))


def fit_of_statistics(statistics: Statistics) -> Factored:
    """The fit that somebody published.

    Raises:
        InputRejected: a matrix with negative eigenvalues, which is no covariance.
    """
    # The covariance of two images is their scatter.
    known = Moments(count=2, mean=statistics.mean, scatter=statistics.covariance)
    fit = replace(factored(known), count=None)
    # Negative eigenvalues were left out of the factor, and the others then sum up to more than the trace.
    if _trace(fit) > (1 + 1e-6) * _trace(known):
        raise InputRejected("The sigma of the reference statistics has negative eigenvalues and is no covariance.")
    return fit


def factored(fit: Fit) -> Factored:
    """The factored form of a fit: by Cholesky, or by eigenvectors where the covariance is singular.

    Computed once for a reference, it saves that work in every distance to it.
    """
    if isinstance(fit, Factored):
        return fit
    covariance = fit.covariance
    d = len(covariance)
    alive = np.flatnonzero(np.diag(covariance) > 0)
    if len(alive) < d:
        # Spatial features of rectified layers have dead positions; without them the rest is often regular.
        inner = factored(replace(fit, mean=fit.mean[alive], scatter=fit.scatter[np.ix_(alive, alive)]))
        factor = np.zeros((len(inner.factor), d))
        factor[:, alive] = inner.factor
        return Factored(count=fit.count, mean=fit.mean, factor=factor)
    if d:
        lower, info = lapack.dpotrf(covariance.T, lower=1, clean=1)
        # A dependent feature leaves a pivot of rounding errors, of either sign, whose root would be noise of 1e-8.
        if info == 0 and np.diag(lower).min() ** 2 > 10 * d * EPSILON * np.diag(covariance).max():
            return Factored(count=fit.count, mean=fit.mean, factor=lower.T, triangular=True)
    values, vectors = _eigh(covariance)
    keep = values > d * EPSILON * values[-1:].sum()
    return Factored(count=fit.count, mean=fit.mean, factor=(vectors[:, keep] * np.sqrt(values[keep])).T)


def _eigh(symmetric: Array) -> tuple[Array, Array]:
    """Ascending eigenvalues, and eigenvectors, by the lower triangle; LAPACK refuses empty matrices, this does not."""
    if not len(symmetric):
        return np.empty(0), symmetric
    return eigh(symmetric, driver="evd", check_finite=False)


def _congruence(thin: Factored, full: Moments) -> Array:
    """F S F^T, (r, r), of which only the lower triangle is certain to be filled."""
    if thin.triangular:
        return lapack.dsygst(full.covariance.T, thin.factor.T, itype=2, lower=1)[0]
    return thin.factor @ full.covariance @ thin.factor.T


def _trace_of_root(a: Fit, b: Fit) -> float:
    """tr((S_a S_b)^(1/2)), the sum of singular values of F_a F_b^T."""
    if isinstance(a, Moments) and isinstance(b, Moments):
        b = factored(b)
    if isinstance(a, Factored) and isinstance(b, Moments):
        a, b = b, a
    if isinstance(a, Moments) and isinstance(b, Factored):
        if len(b.factor) == 0:
            return 0.0
        values = eigh(_congruence(b, a), eigvals_only=True, overwrite_a=True, driver="evd", check_finite=False)
        if values[0] > len(values) * EPSILON * values[-1]:
            return float(np.sqrt(values).sum())
        # Square roots of eigenvalues that are zero up to rounding would be 1e-8 each; singular values are not rooted.
    product = factored(a).factor @ factored(b).factor.T
    return float(svdvals(product, check_finite=False).sum()) if product.size else 0.0


def _trace(fit: Fit) -> float:
    if isinstance(fit, Moments):
        return float(np.trace(fit.scatter)) / (fit.count - 1)
    return float(np.vdot(fit.factor, fit.factor))


def equal(a: Fit, b: Fit) -> bool:
    """Whether two fits have the same form, count and covariance, to the last bit."""
    if isinstance(a, Moments) and isinstance(b, Moments):
        return a.count == b.count and np.array_equal(a.scatter, b.scatter)
    if isinstance(a, Factored) and isinstance(b, Factored):
        return a.count == b.count and np.array_equal(a.factor, b.factor)
    return False


def frechet_distance(*, generated: Fit, reference: Fit) -> Score:
    """Squared 2-Wasserstein distance between two Gaussian fits.

    Args:
        generated: fit to (n, d) features of the model's images.
        reference: fit to (m, d) features of the data set; pass `factored(reference)` to compare many with one.

    Returns:
        |mu_g - mu_r|^2 + tr(S_g + S_r - 2 (S_g S_r)^(1/2)) with unbiased covariances, in squared units of the features;
        0 is best, and exactly 0 for equal fits; biased upward by about const/n. Never NaN. Detail: `mean_term`,
        `covariance_term`, and `rank_deficient`, 1.0 where a side has no more images than features, or published
        statistics of lower rank than features that vary. No error bar.

    Raises:
        NotComparable: features of two widths.

    Source:
        Heusel et al. 2017 (arXiv:1706.08500) eq. 6; Dowson and Landau 1982. Agrees with pytorch-fid 0.3.0,
        torch-fidelity 0.4.0 and torchmetrics 1.9 to 1e-6 relative (`tests/parity`). Differs: eigenvalues
        of L^T S L with L a Cholesky factor where they take a square root or eigenvalues of the asymmetric product, and
        factors of singular covariances, where they add 1e-6 to the diagonal or drop imaginary parts.
    """
    if generated.mean.shape != reference.mean.shape:
        raise NotComparable(
            f"Features of widths {len(generated.mean)} and {len(reference.mean)} cannot be compared; use one extractor."
        )
    mean_term = float(np.square(generated.mean - reference.mean).sum())
    covariance_term = 0.0
    if not equal(generated, reference):
        cross = _trace_of_root(generated, reference)
        covariance_term = max(_trace(generated) + _trace(reference) - 2 * cross, 0.0)  # eq. 6, second term
    return Score(
        value=mean_term + covariance_term,
        detail={
            "mean_term": mean_term,
            "covariance_term": covariance_term,
            "rank_deficient": float(_deficient(generated) or _deficient(reference)),
        },
    )


def _deficient(fit: Fit) -> bool:
    if fit.count is not None:
        return fit.count <= len(fit.mean)
    return len(fit.factor) < int(fit.factor.any(axis=0).sum())


def without(total: Moments, part: Moments) -> Moments:
    """Moments of what remains, at least one image, when a part is taken out: total = part + rest solved for rest."""
    count, delta = total.count - part.count, part.mean - total.mean
    mean = total.mean - delta * (part.count / count)
    shift = part.mean - mean
    scatter = total.scatter - part.scatter
    scatter -= np.outer(shift, shift) * (part.count * count / total.count)
    return Moments(count=count, mean=mean, scatter=scatter)


def distances_without_each_block(
    features: Features, *, generated: Fit, reference: Fit, blocks: int = uncertainty.BLOCKS
) -> Array:
    """Frechet distances to a fixed reference without block k, for every block of `uncertainty.block_numbers` in turn.

    Args:
        features: (n, d) of the generated images.
        generated: the fit to all of them.

    Returns:
        float64 (min(blocks, n),); at least two images must remain of each.

    For n > d the features are streamed once more a block, so that two scatter matrices are held and never one a block.
    For n <= d all blocks share one eigendecomposition. See `_traces_without`.
    """
    if isinstance(generated, Factored):
        return _distances_of_few(features, generated, reference, blocks)
    n, d = features.shape
    count = min(blocks, n)
    # Beside the rows there is a distance a block, of some decompositions of 10 d^3 products each.
    found = pieces.in_order(
        distance_without_block, [features], count, products=n * d**2 + 10 * count * d**3,
        blocks=blocks, generated=told_of(generated), reference=told_of(reference),
    )  # fmt: skip
    return np.array(list(found))


def distance_without_block(
    k: int, features: Features, *, blocks: int, generated: Mapping[str, Any], reference: Mapping[str, Any]
) -> float:
    """The distance without block k, see `distances_without_each_block`."""
    total, numbers = Moments(**generated), uncertainty.block_numbers(len(features), blocks)
    part, start = None, 0
    for block in features.blocks(BLOCK):
        chosen = block[numbers[start : start + len(block)] == k]
        start += len(block)
        if len(chosen):
            part = Moments.of(chosen) if part is None else part + Moments.of(chosen)
    rest = total if part is None else without(total, part)
    return frechet_distance(generated=rest, reference=fit_told(reference)).value


def _distances_of_few(features: Features, generated: Factored, reference: Fit, blocks: int) -> Array:
    x = np.concatenate(list(features.blocks())) - generated.mean
    n, numbers = len(x), uncertainty.block_numbers(len(x), blocks)
    members = [np.flatnonzero(numbers == k) for k in range(min(blocks, n))]
    scale = math.sqrt(n - 1)
    cross = generated.factor @ factored(reference).factor.T * scale
    traces = _traces_without(cross, members)
    apart, spread, target = generated.mean - reference.mean, float(np.vdot(x, x)), _trace(reference)
    found = np.empty(len(members))
    for k, rows in enumerate(members):
        left = n - len(rows)
        shift = -x[rows].sum(axis=0) / left
        scatter = spread - float(np.vdot(x[rows], x[rows])) - left * float(shift @ shift)
        covariance_term = scatter / (left - 1) + target - 2 * traces[k] / math.sqrt(left - 1)
        found[k] = float(np.square(apart + shift).sum()) + max(covariance_term, 0.0)
    return found


def _traces_without(cross: Array, members: Sequence[NDArray[np.int64]]) -> Array:
    """Nuclear norms of centred rows when some are taken out and the others centred anew: one a set of rows.

    Args:
        cross: (n - 1, r), centred rows (n, r) in the basis of `factored_rows`.
        members: indices in [0, n) of the rows that are taken out.

    Let K be the Gram matrix of the centred rows, with eigenvalues l and eigenvectors U (n, n - 1) orthogonal to the
    vector of ones. Its compression to the vectors that are 0 on the rows B and orthogonal to ones is the Gram matrix
    without B, and for every t > 0 the ratio of det(K + t) before and after is the determinant of R = U_B (l + t)^-1
    U_B^T up to a constant. A square root is a weighted sum of l / (l + t) over a few t, so that the difference of
    the traces of the roots is the same sum of tr(R^-1 U_B l (l + t)^-2 U_B^T): all blocks need one decomposition.

    Source: the sum is Hale, Higham and Trefethen 2008 (doi:10.1137/070700607) method 3, which converges like
    exp(-2 pi^2 q / (log(largest / smallest) + 3)) for q terms.
    """
    values, u = _spectrum(cross)
    total = float(np.sqrt(values).sum())
    largest = float(values[-1:].sum())
    if largest == 0:
        return np.zeros(len(members))
    shifts, weights = _root_as_sum(max(float(values[0]), LEAST * largest), largest)
    found = []
    for rows in members:
        part, lost = u[rows], 0.0
        for shift, weight in zip(shifts, weights, strict=True):
            halved = part / np.sqrt(values + shift)
            moved = halved * np.sqrt(values / (values + shift))
            lower = cholesky(halved @ halved.T, lower=True, overwrite_a=True, check_finite=False)
            moved = solve_triangular(lower, moved, lower=True, overwrite_b=True, check_finite=False)
            lost += weight * float(np.vdot(moved, moved))
        found.append(total - lost)
    return np.array(found)


def _spectrum(cross: Array) -> tuple[Array, Array]:
    """Ascending eigenvalues (n - 1,) and eigenvectors (n, n - 1) of the Gram matrix of the centred rows."""
    values, vectors = _eigh(cross @ cross.T)
    n = len(values) + 1
    # The inverse of the reflection of factored_rows: an orthonormal basis of all that is orthogonal to ones.
    basis_sum = vectors.sum(axis=0)
    u = np.concatenate([basis_sum[None] / math.sqrt(n), vectors - basis_sum / (n - math.sqrt(n))])
    return values.clip(min=0), u


def distances_without_each_image(features: Features, *, generated: Fit, reference: Fit) -> Array:
    """Frechet distances to a fixed reference without image i, for every image in turn, from one eigendecomposition.

    Args:
        features: (n, d) of the generated images, n >= 3; streamed once.
        generated: the fit to all of them.

    Returns:
        float64 (n,), exact up to the share `LEAST` of the largest eigenvalue.

    Let C be the scatter matrix, y = x_i - mu, F a factor of the reference's covariance. Without image i the scatter is
    C - c y y^T, c = n / (n - 1), and F C F^T with eigenvalues l changes by the square of z = V^T F y. A square root is
    a weighted sum of l / (l + t) over a few t (`_root_as_sum`), and for each of them the change of the trace is
    t c b / (1 - c a) with a = z^T (l + t)^-1 z and b = z^T (l + t)^-2 z (Sherman and Morrison 1950). For n <= d the
    same follows from the Gram matrix. See `_traces_without`.
    """
    if isinstance(generated, Factored):
        x = np.concatenate(list(features.blocks())) - generated.mean
        scale = math.sqrt(len(x) - 1)
        traces = _traces_without_each(generated.factor @ factored(reference).factor.T * scale)
        return _distances_from(x, traces, float(np.vdot(x, x)), **_between(generated, reference))
    thin, n = factored(reference), len(features)
    values, vectors = _eigh(_congruence(thin, generated))
    keep = values > len(values) * EPSILON * values[-1:].sum()
    values, carry = (n - 1) * values[keep], thin.factor.T @ vectors[:, keep]
    spread, largest = (n - 1) * _trace(generated), float(values[-1:].sum())
    # Taking an image out lowers eigenvalues; what falls far below the least one is nothing beside the sum of the roots.
    least = max(LEAST * largest, 1e-4 * float(values[:1].sum()))
    shifts, weights = _root_as_sum(least, largest) if largest else (np.empty(0), np.empty(0))
    d = features.shape[1]
    found = pieces.in_order(
        distances_of_block, [features], _blocks(n), products=n * d**2, size=8 * BLOCK,
        mean=generated.mean, carry=carry, values=values, shifts=shifts, weights=weights, spread=spread,
        between=_between(generated, reference),
    )  # fmt: skip
    return np.concatenate(list(found))


def distances_of_block(
    number: int,
    features: Features,
    *,
    mean: Array,
    carry: Array,
    values: Array,
    shifts: Array,
    weights: Array,
    spread: float,
    between: Mapping[str, Any],
) -> Array:
    """The distances without each image of a block, see `distances_without_each_image`."""
    n = between["count"]
    x, c, inverse = features.block(number, BLOCK) - mean, n / (n - 1), 1 / (values[:, None] + shifts)
    squares = np.square(x @ carry)
    lost = squares @ np.square(inverse) * (c * shifts) / (1 - c * (squares @ inverse)).clip(min=EPSILON)
    return _distances_from(x, float(np.sqrt(values).sum()) - lost @ weights, spread, **between)


def _between(generated: Fit, reference: Fit) -> dict[str, Any]:
    """What `_distances_from` is told of both sides."""
    return {"count": generated.count, "apart": generated.mean - reference.mean, "target": _trace(reference)}


def _distances_from(x: Array, traces: Array, spread: float, *, count: int, apart: Array, target: float) -> Array:
    """Distances without each row of x, given the traces of the roots of the scatter without it."""
    n = count
    lengths = np.square(x).sum(axis=1)
    means = float(apart @ apart) - 2 * (x @ apart) / (n - 1) + lengths / (n - 1) ** 2
    scatter = spread - lengths * (n / (n - 1))
    return means + (scatter / (n - 2) + target - 2 * traces / math.sqrt(n - 2)).clip(min=0)


def _traces_without_each(cross: Array) -> Array:
    """Does what `_traces_without` does for sets of one row each, all of them at once."""
    values, u = _spectrum(cross)
    largest = float(values[-1:].sum())
    if largest == 0:
        return np.zeros(len(u))
    shifts, weights = _root_as_sum(max(float(values[0]), LEAST * largest), largest)
    squares, inverse = np.square(u), 1 / (values[:, None] + shifts)
    lost = squares @ (values[:, None] * np.square(inverse)) / (squares @ inverse)
    return float(np.sqrt(values).sum()) - lost @ weights


LEAST = 1e-12
"""Share of the largest eigenvalue below which roots are not made exactly: their sum is then off by up to 1e-6 of the
largest root an eigenvalue, which is nothing beside a standard error."""
_TERMS = 24


def _root_as_sum(smallest: float, largest: float) -> tuple[Array, Array]:
    """Shifts t and weights w for which sqrt(x) is the sum of w x / (x + t), for x from smallest to largest.

    The upper half of the shifts is the lower one mirrored, t to smallest largest / t, because elliptic functions near
    their quarter period lose their digits.
    """
    complement = smallest / largest
    quarter = float(ellipkm1(complement))
    place = (np.arange(_TERMS // 2) + 0.5) * quarter / _TERMS
    sn, cn, dn, _ = ellipj(place, 1 - complement)
    factor = 2 * quarter * math.sqrt(smallest) / (math.pi * _TERMS)
    shifts = np.concatenate([smallest * (sn / cn) ** 2, largest * (cn / sn) ** 2])
    return shifts, factor * np.concatenate([dn / cn**2, dn / (math.sqrt(complement) * sn**2)])


def influence(features: Features, *, generated: Moments, reference: Fit) -> Array:
    """The influence of each generated image on the Frechet distance to a fixed reference.

    Args:
        features: (n, d) of the generated images, n > d; streamed once.
        generated: their moments.

    Returns:
        float64 (n,): f(x) = 2 (mu - mu_r)^T (x - mu) + (x - mu)^T (I - A) (x - mu) - tr((I - A) S), where
        A = S_r^(1/2) (S_r^(1/2) S S_r^(1/2))^(-1/2) S_r^(1/2) is the linear map that carries the generated Gaussian to
        the reference. Directions in which either covariance is zero up to rounding do not count. The mean is near 0.

    Source:
        The derivative of the distance in (mu, S): Rippl, Munk and Sturm 2016 (arXiv:1507.04090) theorem 2.2. With any
        factor F of S_r, A = F^T (F S F^T)^(-1/2) F, which needs no square root of S_r.
    """
    thin = factored(reference)
    values, vectors = _eigh(_congruence(thin, generated))
    keep = values > len(values) * EPSILON * values[-1:].sum()
    carry = (vectors[:, keep] * values[keep] ** -0.25).T @ thin.factor
    constant = _trace(generated) - float(np.sqrt(values[keep]).sum())
    shift = 2 * (generated.mean - reference.mean)
    n, d = features.shape
    found = pieces.in_order(
        influence_of_block, [features], _blocks(n), products=n * d**2, size=8 * BLOCK,
        mean=generated.mean, shift=shift, carry=carry, constant=constant,
    )  # fmt: skip
    return np.concatenate(list(found))


def influence_of_block(
    number: int, features: Features, *, mean: Array, shift: Array, carry: Array, constant: float
) -> Array:
    """The influence of each image of a block, see `influence`."""
    x = features.block(number, BLOCK) - mean
    return x @ shift + np.square(x).sum(axis=1) - np.square(x @ carry.T).sum(axis=1) - constant
