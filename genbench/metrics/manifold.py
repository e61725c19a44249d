"""Metrics of the manifolds that two sets of features span: precision, recall, density, coverage, realism, authenticity.

Each set's manifold is the union of balls around its points, the radius of each being the distance to the point's k-th
nearest neighbour in its own set. Distances are squared throughout and made in tiles, so that memory grows with n and
not with n squared; one walk over the tiles between both sets serves every metric of the same k, and what was walked is
remembered for the next metric on the same features.

Standard errors are over the sampling of generated images with the reference held fixed. Precision, density, realism and
authenticity are means of one number a generated image whose law does not change when others are removed, so that their
variance is that of a mean. Recall and coverage are functions of the generated set as a whole: a block of images is
deleted, which widens the balls that lost a neighbour, and the statistic is recomputed exactly from stored neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genbench.arrays import Evidence, Features
from genbench.contracts import Metric
from genbench.errors import NotComparable
from genbench.metrics.matching import matched
from genbench.metrics.memo import remember
from genbench.neighbours import (
    RESOLUTION,
    SPARE,
    Neighbours,
    Pair,
    distances,
    nearest_neighbours,
    pair_of,
    radii_without_blocks,
)
from genbench.records import Score
from genbench.uncertainty import block_sizes, score_from_jackknife, score_from_mean, score_from_share

T = TypeVar("T")

_SHARED_K = 5

_PAIRS = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Memberships:
    """Who lies in whose balls, boundaries included: what precision and recall are shares of.

    Attributes:
        inside: bool (generated,): lies in some ball of the reference.
        covered: bool (reference,): lies in some ball of the generated images.
        covered_without: bool (reference, blocks): the same when a jackknife block of generated images does not exist;
            None where its deletion leaves some point without k neighbours, or where no jackknife was asked for.
    """

    inside: NDArray[np.bool_]
    covered: NDArray[np.bool_]
    covered_without: NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancies:
    """How full the balls of the reference are, boundaries excluded: what density and coverage are means of.

    Attributes:
        balls: int64 (generated,): balls that contain the image.
        reached: bool (reference,): the ball contains some generated image.
        reached_without: bool (reference, blocks): the same when a jackknife block of generated images does not exist.
    """

    balls: NDArray[np.int64]
    reached: NDArray[np.bool_]
    reached_without: NDArray[np.bool_]


def memberships(
    generated: NDArray[np.float32],
    reference: NDArray[np.float32],
    *,
    k: int = 3,
    arithmetic: str = "float32",
    device: str = "cpu",
    jackknife: bool = True,
) -> Memberships:
    """Which points lie in whose manifold, also with every block of generated points deleted in turn.

    Args:
        generated, reference: float32 (n, d) and (m, d).
        k: neighbour that sets the radius, 1 <= k < n, m.
        arithmetic: of distances, "float32" or "fp16-adm".
        device: of torch, on which the distances are made. TF32 must be off there, as it is by default.
        jackknife: whether blocks are deleted.

    Raises:
        UsageError: an unknown arithmetic, or k < 1.
        NotComparable: widths that differ, or fewer than k + 1 images on a side.
        InputRejected: features that are not finite.
    """
    pair = pair_of(generated, reference, k, arithmetic, device)
    near = nearest_neighbours(pair.generated, k + 1 + SPARE)
    return _memberships(pair, near, nearest_neighbours(pair.reference, k + 1).radii(k), k, jackknife)


def occupancies(
    generated: NDArray[np.float32],
    reference: NDArray[np.float32],
    *,
    k: int = 5,
    arithmetic: str = "float32",
    device: str = "cpu",
) -> Occupancies:
    """How full the balls of the reference are. Arguments and errors as `memberships`; one generated image is enough."""
    pair = pair_of(generated, reference, k, arithmetic, device)
    return _occupancies(pair, nearest_neighbours(pair.reference, k + 1).radii(k))


def _memberships(pair: Pair, near: Neighbours, radii: Tensor, k: int, jackknife: bool) -> Memberships:
    """near of the generated points, radii of the reference."""
    x, y, device = pair.generated, pair.reference, radii.device
    if len(x) <= k:
        raise NotComparable(
            f"Radii to the {k}-th neighbour need at least {k + 1} generated images; there are {len(x)}."
        )
    own, between = near.radii(k), distances(y, x)
    without = radii_without_blocks(x, near, pair.blocks, k) if jackknife else None
    inside = torch.zeros(len(x), dtype=torch.bool, device=device)
    held = torch.zeros((len(y), int(pair.blocks.max()) + 1), dtype=torch.bool, device=device)
    wider = torch.zeros_like(held)
    for rows, columns, tile in between.tiles():
        # Differences and minima are several times faster than comparisons and "any", and as exact.
        slack = tile - radii[rows][:, None]
        inside[columns] |= slack.amin(0) <= 0
        blocks = pair.blocks[columns]
        held[rows] |= _block_minima(torch.sub(tile, own[columns], out=slack), blocks, held.shape[1]) <= 0
        if without is not None:
            wider[rows] |= _any_but_one(held[rows])
            _cover_by_wider_balls(wider[rows], tile, without[columns], blocks)
    return Memberships(
        inside=pair.by_image(inside).astype(np.bool_),
        covered=held.any(1).cpu().numpy(),
        covered_without=None if without is None else wider.cpu().numpy(),
    )


def _occupancies(pair: Pair, radii: Tensor) -> Occupancies:
    """radii of the reference."""
    x, y = pair.generated, pair.reference
    between = distances(y, x)
    balls = torch.zeros(len(x), dtype=torch.int64, device=radii.device)
    reached = torch.zeros((len(y), int(pair.blocks.max()) + 1), dtype=torch.bool, device=radii.device)
    for rows, columns, tile in between.tiles():
        limit = radii[rows][:, None]
        balls[columns] += (tile < limit).sum(0, dtype=torch.int32)
        reached[rows] |= _block_minima(tile, pair.blocks[columns], reached.shape[1]) < limit
    return Occupancies(
        balls=pair.by_image(balls).astype(np.int64),
        reached=reached.any(1).cpu().numpy(),
        reached_without=_any_but_one(reached).cpu().numpy(),
    )


def _block_minima(values: Tensor, blocks: Tensor, count: int) -> Tensor:
    """The least value of every row over the columns of each block: (rows, columns) to (rows, count); inf for none."""
    if (blocks[1:] < blocks[:-1]).any():
        values = values[:, torch.argsort(blocks, stable=True)]
    result = torch.full((len(values), count), torch.inf, device=values.device)
    parts = values.split(torch.bincount(blocks, minlength=count).tolist(), dim=1)
    for block, part in enumerate(parts):
        if part.shape[1]:
            result[:, block] = part.amin(1)
    return result


def _any_but_one(flags: Tensor) -> Tensor:
    """Whether any column but the given one is set, for every column: bool (rows, columns)."""
    return flags.sum(1, keepdim=True) > flags.int()


def _cover_by_wider_balls(covered: Tensor, tile: Tensor, without: Tensor, blocks: Tensor) -> None:
    """Adds what is covered only because a deletion widened a ball; `covered` (rows, blocks) is changed in place."""
    open_rows = torch.nonzero(~covered.all(1))[:, 0]
    if not len(open_rows):
        return
    row, column = torch.nonzero(tile[open_rows] <= without.amax(1), as_tuple=True)
    row = open_rows[row]
    every = torch.arange(without.shape[1], device=blocks.device)
    for start in range(0, len(row), _PAIRS):
        r, c = row[start : start + _PAIRS], column[start : start + _PAIRS]
        hit = (tile[r, c][:, None] <= without[c]) & (blocks[c][:, None] != every)
        pair, block = torch.nonzero(hit, as_tuple=True)
        covered[r[pair], block] = True


def realism_scores(
    generated: NDArray[np.float32], reference: NDArray[np.float32], *, k: int = 3, device: str = "cpu"
) -> NDArray[np.float64]:
    """How deep every generated image lies inside the reference's manifold; at least 1 is inside.

    The score is the largest ratio of a ball's radius to the image's distance from its centre, over the balls whose
    radius is below the median. Distances below what float32 resolves count as the resolution, so that a copy of a
    reference image has a large score and not an infinite one.

    Args:
        generated, reference: float32 (n, d) and (m, d).

    Returns:
        float64 (n,), not negative.

    Raises:
        As `memberships`.
    """
    pair = pair_of(generated, reference, k, "float32", device)
    return _realism_scores(pair, nearest_neighbours(pair.reference, k + 1).radii(k))


def _realism_scores(pair: Pair, radii: Tensor) -> NDArray[np.float64]:
    x, y = pair.generated, pair.reference
    between = distances(y, x)
    # Half-way between the two middle radii of an even number, where torch's median would be the lower one.
    ascending = radii.sort().values
    median = (ascending[(len(y) - 1) // 2] + ascending[len(y) // 2]) / 2
    kept = torch.where(radii < median, radii, 0)
    spread = y.norms.mean()
    best = torch.zeros(len(x), device=radii.device)
    for rows, columns, tile in between.tiles():
        resolved = RESOLUTION * (y.norms[rows][:, None] + x.norms[columns] + spread)
        tile = torch.maximum(tile, resolved).clamp_(min=torch.finfo(torch.float32).tiny)
        best[columns] = torch.maximum(best[columns], (kept[rows][:, None] / tile).amax(0))
    return np.sqrt(pair.by_image(best).astype(np.float64))


def authentic_images(
    generated: NDArray[np.float32], reference: NDArray[np.float32], *, device: str = "cpu"
) -> NDArray[np.bool_]:
    """Whether a generated image is farther from the nearest reference image than that one is from its own nearest.

    Args:
        generated, reference: float32 (n, d) and (m, d), m >= 2.

    Returns:
        bool (n,).

    Raises:
        As `memberships`.
    """
    pair = pair_of(generated, reference, 1, "float32", device)
    return _authentic_images(pair, nearest_neighbours(pair.reference, 2).radii(1))


def _authentic_images(pair: Pair, radii: Tensor) -> NDArray[np.bool_]:
    x, y = pair.generated, pair.reference
    between = distances(y, x)
    nearest = torch.full((len(x),), torch.inf, device=radii.device)
    spacing = torch.zeros(len(x), device=radii.device)
    for rows, columns, tile in between.tiles():
        low, which = tile.min(0)
        closer = low < nearest[columns]
        nearest[columns] = torch.where(closer, low, nearest[columns])
        spacing[columns] = torch.where(closer, radii[rows][which], spacing[columns])
    return pair.by_image(spacing < nearest).astype(np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Searched:
    """Two sides of an evaluation and the neighbour searches that metrics share."""

    features: tuple[Features, Features]
    pair: Pair
    k: int
    arithmetic: str

    def generated(self) -> Neighbours:
        """The nearest of every generated point, with some to spare for deletions."""
        count = max(self.k, _SHARED_K) + 1 + SPARE
        # The reference's centre, which was subtracted, may touch the last digit: both sides are part of the key.
        return remember(
            self.features, ("near", count, self.arithmetic), lambda: nearest_neighbours(self.pair.generated, count)
        )

    def reference(self) -> Tensor:
        """Squared radii of the reference."""
        count = max(self.k, _SHARED_K) + 1
        near = remember(
            self.features[1:], ("near", count, self.arithmetic), lambda: nearest_neighbours(self.pair.reference, count)
        )
        return near.radii(self.k)


def _walk(
    name: str,
    compute: Callable[[_Searched], T],
    generated: Evidence,
    reference: Evidence,
    *,
    k: int,
    arithmetic: str,
    device: str,
) -> T:
    """What a walk over all distances yields, made once for all metrics that need it."""
    x, y = matched(generated, reference)

    def walk() -> T:
        pair = pair_of(x.values(), y.values(), k, arithmetic, device)
        return compute(_Searched(features=(x, y), pair=pair, k=k, arithmetic=arithmetic))

    return remember((x, y), (name, k, arithmetic), walk)


def _of_precision_and_recall(
    generated: Evidence, reference: Evidence, k: int, arithmetic: str, device: str
) -> Memberships:
    return _walk(
        "memberships",
        lambda s: _memberships(s.pair, s.generated(), s.reference(), k, jackknife=True),
        generated,
        reference,
        k=k,
        arithmetic=arithmetic,
        device=device,
    )


def _of_density_and_coverage(generated: Evidence, reference: Evidence, k: int, device: str) -> Occupancies:
    return _walk(
        "occupancies",
        lambda s: _occupancies(s.pair, s.reference()),
        generated,
        reference,
        k=k,
        arithmetic="float32",
        device=device,
    )


def precision(
    *, generated: Evidence, reference: Evidence, k: int = 3, arithmetic: str = "float32", device: str = "cpu"
) -> Score:
    """Share of generated images inside the reference's manifold.

    Args:
        k: neighbour that sets the radii.
        arithmetic: "float32", or "fp16-adm" for the numbers of ADM's evaluator.
        device: of torch.

    Raises:
        UsageError, NotComparable, InputRejected: as `memberships`.

    Source:
        Kynkaanniemi et al. 2019, eq. 1 and 2. Agrees with torch-fidelity (float32; which compares distances instead of
        their squares), and with openai/guided-diffusion `evaluator.py` (fp16-adm, for equal order of the images).
    """
    inside = _of_precision_and_recall(generated, reference, k, arithmetic, device).inside
    return score_from_share(int(inside.sum()), len(inside))


def recall(
    *, generated: Evidence, reference: Evidence, k: int = 3, arithmetic: str = "float32", device: str = "cpu"
) -> Score:
    """Share of reference images inside the manifold of the generated ones. Arguments, errors and source as `precision`.

    The standard error is a jackknife over blocks of generated images, for this reference. It is conservative, 1.1 to
    1.5 times the spread over repetitions in simulations: whether an image is covered depends on very few others.
    """
    found = _of_precision_and_recall(generated, reference, k, arithmetic, device)
    return _share_of_reference(found.covered, found.covered_without, len(generated.features()))


def _share_of_reference(holds: NDArray[np.bool_], without: NDArray[np.bool_] | None, count: int) -> Score:
    value = float(holds.mean())
    if without is None:
        return Score(value=value)
    return score_from_jackknife(value, without.mean(axis=0), sizes=block_sizes(count), bounds=(0.0, 1.0))


def density(*, generated: Evidence, reference: Evidence, k: int = 5, device: str = "cpu") -> Score:
    """Mean number of balls of the reference that contain a generated image, divided by k.

    About 1 for a generator that equals the data, and above 1 for one that prefers the data's densest parts.

    Args:
        k: neighbour that sets the radii.
        device: of torch.

    Raises:
        UsageError, NotComparable, InputRejected: as `memberships`.

    Source:
        Naeem et al. 2020, eq. 6; agrees with clovaai/generative-evaluation-prdc and dgm-eval (there in float64).
    """
    return score_from_mean(_of_density_and_coverage(generated, reference, k, device).balls / k, bounds=(0.0, math.inf))


def coverage(*, generated: Evidence, reference: Evidence, k: int = 5, device: str = "cpu") -> Score:
    """Share of balls of the reference that contain a generated image. Arguments and errors as `density`.

    For a generator that equals the data and as many images a side the expectation is close to 1 - 2^-k. The standard
    error is a jackknife over blocks of generated images, for this reference; conservative as that of `recall`, 1.2 to
    1.7 times the spread over repetitions.

    Source:
        Naeem et al. 2020, eq. 9 and 10; agrees with clovaai/generative-evaluation-prdc and dgm-eval (there in float64).
    """
    found = _of_density_and_coverage(generated, reference, k, device)
    return _share_of_reference(found.reached, found.reached_without, len(generated.features()))


def realism(*, generated: Evidence, reference: Evidence, k: int = 3, device: str = "cpu") -> Score:
    """Mean of `realism_scores` over the generated images.

    A copy of a reference image has a score in the hundreds and moves the mean by itself: `detail` holds the median, and
    the share of scores of at least 1.

    Args:
        k: neighbour that sets the radii.
        device: of torch.

    Raises:
        UsageError, NotComparable, InputRejected: as `memberships`.

    Source:
        Kynkaanniemi et al. 2019, eq. 3 and the pruning described below it. dgm-eval takes k = 5. ADM's evaluator has a
        quantity of this name, of squared distances and without pruning; this is the paper's.
    """
    scores = _walk(
        "realism",
        lambda s: _realism_scores(s.pair, s.reference()),
        generated,
        reference,
        k=k,
        arithmetic="float32",
        device=device,
    )
    detail = {"median": float(np.median(scores)), "share_inside": float((scores >= 1).mean())}
    return score_from_mean(scores, bounds=(0.0, math.inf), detail=detail)


def authpct(*, generated: Evidence, reference: Evidence, device: str = "cpu") -> Score:
    """Percentage of generated images that are farther from the nearest training image than that one is from its own.

    The reference must be what the generator was trained on. Images far from all data are authentic as well, so that the
    number has a meaning only beside one of fidelity.

    Args:
        device: of torch.

    Raises:
        UsageError, NotComparable, InputRejected: as `memberships`.

    Source:
        Alaa et al. 2022, sec. 2.3; agrees with dgm-eval `authpct.py`.
    """
    authentic = _walk(
        "authentic",
        lambda s: _authentic_images(s.pair, s.reference()),
        generated,
        reference,
        k=1,
        arithmetic="float32",
        device=device,
    )
    share = score_from_share(int(authentic.sum()), len(authentic))
    low, high = share.ci95 or (0.0, 1.0)
    return replace(
        share,
        value=100 * share.value,
        stderr=None if share.stderr is None else 100 * share.stderr,
        ci95=(100 * low, 100 * high),
    )


_EVERY = frozenset({"order", "translation", "rotation", "scale"})

_KYNKAANNIEMI = (
    "Kynkaanniemi et al. 2019, arXiv:1904.06991; agrees with torch-fidelity (float32) and with openai/guided-diffusion "
    "(fp16-adm)"
)

_NAEEM = "Naeem et al. 2020, arXiv:2002.09797; agrees with clovaai/generative-evaluation-prdc and dgm-eval"

PRECISION = Metric(
    name="precision",
    summary="share of generated images inside the real manifold",
    source=_KYNKAANNIEMI,
    compute=precision,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    minimum=4,
    invariances=_EVERY,
)

RECALL = Metric(
    name="recall",
    summary="share of real images inside the generated manifold",
    source=_KYNKAANNIEMI,
    compute=recall,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    minimum=4,
    invariances=_EVERY,
)

DENSITY = Metric(
    name="density",
    summary="mean number of real neighbourhoods that a generated image lies in, over k",
    source=_NAEEM,
    compute=density,
    higher_is_better=True,
    bounds=(0.0, math.inf),
    minimum=6,
    invariances=_EVERY,
)

COVERAGE = Metric(
    name="coverage",
    summary="share of real neighbourhoods that hold a generated image",
    source=_NAEEM,
    compute=coverage,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    minimum=6,
    invariances=_EVERY,
)

REALISM = Metric(
    name="realism",
    summary="mean depth of generated images inside the real manifold, 1 at its boundary",
    source="Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 3",
    compute=realism,
    higher_is_better=True,
    bounds=(0.0, math.inf),
    minimum=4,
    invariances=_EVERY,
)

AUTHPCT = Metric(
    name="authpct",
    summary="percentage of generated images that are not near-copies of a training image",
    source="Alaa et al. 2022, arXiv:2102.08921; agrees with dgm-eval",
    compute=authpct,
    higher_is_better=True,
    bounds=(0.0, 100.0),
    minimum=2,
    invariances=_EVERY,
)
