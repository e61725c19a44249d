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

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genbench.arithmetic import float32
from genbench.arrays import Evidence, Features
from genbench.contracts import Metric
from genbench.errors import NotComparable
from genbench.metrics import arguments
from genbench.metrics.matching import matched
from genbench.metrics.memo import keep, recalled
from genbench.neighbours import (
    FINE_RESOLUTION,
    RESOLUTION,
    SPARE,
    Distances,
    Neighbours,
    Points,
    nearest_neighbours,
    over_tiles,
    pair_of,
    radii_without_blocks,
)
from genbench.ranks import Advance
from genbench.records import Score
from genbench.uncertainty import (
    NONNEGATIVE,
    SHARE,
    block_sizes,
    blocks_of_mean,
    score,
    score_from_dependent_share,
    score_from_mean,
    score_from_share,
)

_SHARED_K = 5

_PAIRS = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Memberships:
    """Who lies in whose balls, boundaries included: what precision and recall are shares of.

    Attributes:
        inside: bool (generated,): lies in some ball of the reference.
        covered: bool (reference,): lies in some ball of the generated images.
        covered_without: bool (reference, blocks): the same when a jackknife block of generated images does not exist,
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


@float32()
def memberships(
    generated: Features,
    reference: Features,
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
        device: of torch, on which the distances are made.
        jackknife: whether blocks are deleted.

    Raises:
        UsageError: an unknown arithmetic, or k < 1.
        NotComparable: widths that differ, or fewer than k + 1 images on a side.
        InputRejected: features that are not finite.
    """
    sides, key = (generated, reference), ("memberships", k, arithmetic, jackknife)
    if (known := recalled(sides, key)) is not None:
        return known
    pair = pair_of(generated.values(), reference.values(), k=k, arithmetic=arithmetic, device=device)
    if len(generated) <= k:
        raise NotComparable(
            f"Radii to the {k}-th neighbour need at least {k + 1} generated images; there are {len(generated)}."
        )
    # The reference's centre, which was subtracted, may touch the last digit: both sides are part of the key.
    x, near = _searched(pair.generated, sides, k, arithmetic, spare=SPARE)
    y, others = _searched(pair.reference, sides[1:], k, arithmetic)
    own, radii, count = near.radii(k), others.radii(k), int(pair.blocks.max()) + 1
    without = radii_without_blocks(x, near, pair.blocks, k) if jackknife else None
    found_by = over_tiles(
        membership_of_rows, y, x, radii=radii, own=own, blocks=pair.blocks, count=count, without=without
    )
    inside, held, wider = (
        torch.stack([some[name] for some in found_by]).any(0) for name in ("inside", "held", "wider")
    )
    found = Memberships(
        inside=pair.by_image(inside).astype(np.bool_),
        covered=held.any(1).cpu().numpy(),
        covered_without=None if without is None else wider.cpu().numpy(),
    )
    keep(sides, key, found)
    return found


def membership_of_rows(
    between: Distances,
    runs: Sequence[int],
    advance: Advance,
    *,
    radii: Tensor,
    own: Tensor,
    blocks: Tensor,
    count: int,
    without: Tensor | None,
) -> dict[str, Tensor]:
    """Walks over tiles of reference images (rows) and generated ones (columns).

    Args:
        radii, own: squared radii of the reference images and of the generated ones.
        blocks: int64 (generated,), of `count` jackknife blocks.
        without: radii of the generated images without each block, see `radii_without_blocks`.

    Returns:
        `inside`, whether a generated image lies in a ball of these rows. `held`, whether a reference image of these
        rows lies in a ball of each block; `wider`, whether it still does without each. False elsewhere.
    """
    y, x = between.x, between.y
    inside = torch.zeros(len(x), dtype=torch.bool, device=own.device)
    held = torch.zeros((len(y), count), dtype=torch.bool, device=own.device)
    wider = torch.zeros_like(held)
    for rows, columns, tile in between.tiles(runs):
        # Differences and minima are several times faster than comparisons and "any", and as exact.
        slack = tile - radii[rows][:, None]
        inside[columns] |= slack.amin(0) <= 0  # eq. 1
        part = blocks[columns]
        held[rows] |= _block_minima(torch.sub(tile, own[columns], out=slack), part, count) <= 0
        if without is not None:
            wider[rows] |= _any_but_one(held[rows])
            _cover_by_wider_balls(wider[rows], tile, without[columns], part)
        advance(0)
    return {"inside": inside, "held": held, "wider": wider}


def _searched(
    points: Points, features: tuple[Features, ...], k: int, arithmetic: str, spare: int = 0
) -> tuple[Points, Neighbours]:
    """The points, told which of them are crowded, and their nearest, which metrics of every usual k share."""
    key = "near", max(k, _SHARED_K) + 1 + spare, arithmetic, points.scale
    near = recalled(features, key)
    if near is None:
        near = nearest_neighbours(points, key[1])
        keep(features, key, near)
    return replace(points, crowded=near.crowded), near


@float32()
def occupancies(generated: Features, reference: Features, *, k: int = 5, device: str = "cpu") -> Occupancies:
    """How full the balls of the reference are. Arguments and errors as `memberships`; one generated image is enough."""
    sides, key = (generated, reference), ("occupancies", k)
    if (known := recalled(sides, key)) is not None:
        return known
    pair = pair_of(generated.values(), reference.values(), k=k, arithmetic="float32", device=device)
    x, (y, near) = pair.generated, _searched(pair.reference, sides[1:], k, "float32")
    radii, count = near.radii(k), int(pair.blocks.max()) + 1
    found_by = over_tiles(occupancy_of_rows, y, x, radii=radii, blocks=pair.blocks, count=count)
    balls = torch.stack([some["balls"] for some in found_by]).sum(0)
    reached = torch.stack([some["reached"] for some in found_by]).any(0)
    found = Occupancies(
        balls=pair.by_image(balls).astype(np.int64),
        reached=reached.any(1).cpu().numpy(),
        reached_without=_any_but_one(reached).cpu().numpy(),
    )
    keep(sides, key, found)
    return found


def occupancy_of_rows(
    between: Distances, runs: Sequence[int], advance: Advance, *, radii: Tensor, blocks: Tensor, count: int
) -> dict[str, Tensor]:
    """Walks over tiles of reference images (rows) and generated ones (columns). Arguments as `membership_of_rows`.

    Returns:
        `balls`, in how many balls of these rows a generated image lies, and `reached`, whether the ball of a reference
        image of these rows holds an image of each block. 0 elsewhere.
    """
    balls = torch.zeros(len(between.y), dtype=torch.int64, device=radii.device)
    reached = torch.zeros((len(between.x), count), dtype=torch.bool, device=radii.device)
    for rows, columns, tile in between.tiles(runs):
        limit = radii[rows][:, None]
        balls[columns] += (tile < limit).sum(0, dtype=torch.int32)
        reached[rows] |= _block_minima(tile, blocks[columns], count) < limit
        advance(0)
    return {"balls": balls, "reached": reached}


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


@float32()
def realism_scores(generated: Features, reference: Features, *, k: int = 3, device: str = "cpu") -> NDArray[np.float64]:
    """How deep every generated image lies inside the reference's manifold; at least 1 is inside.

    The score is the largest ratio of a ball's radius to the image's distance from its centre, over the balls whose
    radius is below the median. Distances below what the arithmetic resolves count as the resolution, so that a copy of
    a reference image has a large score and not an infinite one.

    Returns:
        float64 (n,), not negative.

    Arguments and errors as `memberships`.
    """
    pair = pair_of(generated.values(), reference.values(), k=k, arithmetic="float32", device=device)
    x, (y, near) = pair.generated, _searched(pair.reference, (reference,), k, "float32")
    radii, spread = near.radii(k), y.norms.mean()
    # Half-way between the two middle radii of an even number, where torch's median would be the lower one.
    ascending = radii.sort().values
    median = (ascending[(len(y) - 1) // 2] + ascending[len(y) // 2]) / 2
    kept = torch.where(radii < median, radii, 0)
    grain = torch.full_like(radii, RESOLUTION)
    if y.crowded is not None:
        grain[y.crowded] = FINE_RESOLUTION
    found_by = over_tiles(realism_of_rows, y, x, kept=kept, grain=grain, spread=spread)
    best = torch.stack([some["best"] for some in found_by]).amax(0)
    return np.sqrt(pair.by_image(best).astype(np.float64))


def realism_of_rows(
    between: Distances, runs: Sequence[int], advance: Advance, *, kept: Tensor, grain: Tensor, spread: Tensor
) -> dict[str, Tensor]:
    """Walks over tiles of reference images (rows) and generated ones (columns).

    Args:
        kept: squared radii of the reference images, 0 for those that do not count.
        grain: (reference,), what of the squared lengths of two points their squared distance resolves.
        spread: (), mean squared length of the reference images.

    Returns:
        `best`, the largest ratio for each generated image, squared; 0 where there is none.
    """
    y, x = between.x, between.y
    best = torch.zeros(len(x), device=kept.device)
    for rows, columns, tile in between.tiles(runs):
        resolved = grain[rows][:, None] * (y.norms[rows][:, None] + x.norms[columns] + spread)
        tile = torch.maximum(tile, resolved).clamp_(min=torch.finfo(torch.float32).tiny)
        best[columns] = torch.maximum(best[columns], (kept[rows][:, None] / tile).amax(0))  # eq. 3, squared
        advance(0)
    return {"best": best}


@float32()
def authentic_images(generated: Features, reference: Features, *, device: str = "cpu") -> NDArray[np.bool_]:
    """Whether a generated image is farther from the nearest reference image than that one is from its own nearest.

    Returns:
        bool (n,).

    Arguments and errors as `memberships`, of k = 1.
    """
    pair = pair_of(generated.values(), reference.values(), k=1, arithmetic="float32", device=device)
    x, (y, near) = pair.generated, _searched(pair.reference, (reference,), 1, "float32")
    radii = near.radii(1)
    found_by = over_tiles(nearest_of_reference, y, x)
    low, which = torch.stack([some["low"] for some in found_by]), torch.stack([some["which"] for some in found_by])
    nearest = low.amin(0)
    which = torch.where(low == nearest, which, len(y)).amin(0)  # of several at one distance, the first
    return pair.by_image(radii[which] < nearest).astype(np.bool_)


def nearest_of_reference(between: Distances, runs: Sequence[int], advance: Advance) -> dict[str, Tensor]:
    """Walks over tiles of reference images (rows) and generated ones (columns).

    Returns:
        `low`, the squared distance of each generated image to the nearest of these rows, and `which`, the first row at
        that distance.
    """
    low = torch.full((len(between.y),), torch.inf, device=between.x.values.device)
    which = torch.zeros(len(between.y), dtype=torch.int64, device=low.device)
    for rows, columns, tile in between.tiles(runs):
        value = tile.amin(0)
        row = rows.start + (tile == value).byte().argmax(0)
        closer = value < low[columns]
        low[columns] = torch.where(closer, value, low[columns])
        which[columns] = torch.where(closer, row, which[columns])
        advance(0)
    return {"low": low, "which": which}


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
    inside = memberships(*matched(generated, reference), k=k, arithmetic=arithmetic, device=device).inside
    return score_from_share(int(inside.sum()), len(inside), blocks=blocks_of_mean(inside))  # eq. 2


def recall(
    *, generated: Evidence, reference: Evidence, k: int = 3, arithmetic: str = "float32", device: str = "cpu"
) -> Score:
    """Share of reference images inside the manifold of the generated ones. Arguments, errors and source as `precision`.

    The standard error is a jackknife over blocks of generated images, for this reference, and the interval a binomial
    one of as many independent images as have that error (`uncertainty.score_from_dependent_share`). It is too wide, 1.1
    to 1.7 times the spread over repetitions: whether an image is covered depends on very few others. Where a mode has
    two to four images, one more or less of them covers it whole or not, and the interval is too narrow: it held 86 to
    94 % of the time.
    """
    found = memberships(*matched(generated, reference), k=k, arithmetic=arithmetic, device=device)
    return _share_of_reference(found.covered, found.covered_without, len(generated.features()))  # eq. 2


def _share_of_reference(holds: NDArray[np.bool_], without: NDArray[np.bool_] | None, count: int) -> Score:
    value = float(holds.mean())
    if without is None:
        return score(value, f"{count} images, and leaving some out leaves one without neighbours")
    return score_from_dependent_share(value, without.mean(axis=0), sizes=block_sizes(count), count=len(holds))


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
    found = occupancies(*matched(generated, reference), k=k, device=device)
    return score_from_mean(found.balls / k, bounds=NONNEGATIVE)  # eq. 6


def coverage(*, generated: Evidence, reference: Evidence, k: int = 5, device: str = "cpu") -> Score:
    """Share of balls of the reference that contain a generated image. Arguments and errors as `density`.

    For a generator that equals the data and as many images a side the expectation is close to 1 - 2^-k. The standard
    error and the interval are made as those of `recall`, and are up to 1.3 times the spread over repetitions.

    Source:
        Naeem et al. 2020, eq. 9 and 10; agrees with clovaai/generative-evaluation-prdc and dgm-eval (there in float64).
    """
    found = occupancies(*matched(generated, reference), k=k, device=device)
    return _share_of_reference(found.reached, found.reached_without, len(generated.features()))  # eq. 9


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
    scores = realism_scores(*matched(generated, reference), k=k, device=device)
    detail = {"median": float(np.median(scores)), "share_inside": float((scores >= 1).mean())}
    return score_from_mean(scores, bounds=NONNEGATIVE, detail=detail)


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
    authentic = authentic_images(*matched(generated, reference), device=device)
    share = score_from_share(int(authentic.sum()), len(authentic), blocks=blocks_of_mean(100 * authentic))
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
    check=arguments.manifolds,
    higher_is_better=True,
    bounds=SHARE,
    minimum=4,
    invariances=_EVERY,
)

RECALL = Metric(
    name="recall",
    summary="share of real images inside the generated manifold",
    source=_KYNKAANNIEMI,
    compute=recall,
    check=arguments.manifolds,
    higher_is_better=True,
    bounds=SHARE,
    minimum=4,
    invariances=_EVERY,
)

DENSITY = Metric(
    name="density",
    summary="mean number of real neighbourhoods that a generated image lies in, over k",
    source=_NAEEM,
    compute=density,
    check=arguments.manifold,
    higher_is_better=True,
    bounds=NONNEGATIVE,
    minimum=6,
    invariances=_EVERY,
)

COVERAGE = Metric(
    name="coverage",
    summary="share of real neighbourhoods that hold a generated image",
    source=_NAEEM,
    compute=coverage,
    check=arguments.manifold,
    higher_is_better=True,
    bounds=SHARE,
    minimum=6,
    invariances=_EVERY,
)

REALISM = Metric(
    name="realism",
    summary="mean depth of generated images inside the real manifold, 1 at its boundary",
    source="Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 3",
    compute=realism,
    check=arguments.manifold,
    higher_is_better=True,
    bounds=NONNEGATIVE,
    minimum=4,
    invariances=_EVERY,
)

AUTHPCT = Metric(
    name="authpct",
    summary="percentage of generated images that are not near-copies of a training image",
    source="Alaa et al. 2022, arXiv:2102.08921; agrees with dgm-eval",
    compute=authpct,
    check=arguments.manifold,
    higher_is_better=True,
    bounds=(0.0, 100.0),
    minimum=2,
    invariances=_EVERY,
)
