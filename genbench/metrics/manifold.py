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

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genbench.arrays import Evidence, Features
from genbench.contracts import Metric
from genbench.errors import InputRejected, NotComparable, UsageError
from genbench.records import Score
from genbench.statistics import block_numbers, block_sizes, score_from_jackknife, score_from_share

T = TypeVar("T")

ARITHMETICS = ("float32", "fp16-adm")
ADM_BLOCK = 10_000
"""Rows and columns of one distance block of ADM's evaluator: the unit that falls back to float32 as a whole."""

SPARE = 4
"""Neighbours stored beyond the k-th, so that deleting a block of 5 % of the points leaves k of them but for 1 point in
10,000; those few are recomputed."""

_SHARED_K = 5
_TILE = 2048
_BAND = 1 << 22
_PAIRS = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """A set of features ready for distances.

    Attributes:
        values: float32 (n, d); rounded to half precision for "fp16-adm".
        norms: float32 (n,), squared lengths; rounded likewise.
        full: the values and lengths before rounding, for blocks that overflow in half precision; None for "float32".
    """

    values: Tensor
    norms: Tensor
    full: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The nearest points of every point in its own set, the point itself among them.

    Attributes:
        squared: float32 (n, m), squared distances, ascending.
        index: int64 (n, m).
    """

    squared: Tensor
    index: Tensor

    def radii(self, k: int) -> Tensor:
        """Squared distance to the k-th nearest other point, (n,): the point itself is counted out once."""
        return self.squared[:, k].contiguous()


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifoldCounts:
    """Everything that one walk over the distances between both sets yields.

    Attributes:
        inside: bool (generated,): lies in some ball of the reference, boundary included.
        balls: int64 (generated,): balls of the reference that contain it, boundary excluded.
        covered: bool (reference,): lies in some ball of the generated images, boundary included.
        reached: bool (reference,): some generated image lies inside its ball, boundary excluded.
        covered_without, reached_without: bool (reference, blocks): the same when a jackknife block of generated images
            does not exist; None where a block's deletion leaves no k neighbours.
    """

    inside: NDArray[np.bool_]
    balls: NDArray[np.int64]
    covered: NDArray[np.bool_]
    reached: NDArray[np.bool_]
    covered_without: NDArray[np.bool_] | None
    reached_without: NDArray[np.bool_] | None


def points(
    features: NDArray[np.float32], *, centre: NDArray[np.float32], arithmetic: str, device: str = "cpu"
) -> Points:
    """Moves features to a device.

    Args:
        features: float32 (n, d).
        centre: float32 (d,), subtracted in "float32": it changes no distance, and makes lengths as small as the
            distances, so that less cancels. ADM's arithmetic knows no centre.
        arithmetic: "float32" or "fp16-adm".

    Raises:
        UsageError: another arithmetic.
        InputRejected: features that are not finite.
    """
    if arithmetic not in ARITHMETICS:
        raise UsageError(f"No arithmetic {arithmetic!r} for distances; there are {' and '.join(ARITHMETICS)}.")
    exact = arithmetic == "float32"
    values = torch.from_numpy(features - centre if exact else np.array(features)).to(device)
    norms = values.square().sum(1)
    if not torch.isfinite(norms).all():
        raise InputRejected(
            "Features, or their squared lengths in float32, are not finite; check the extractor's output."
        )
    if exact:
        return Points(values=values, norms=norms)
    half = values.half().float()
    return Points(values=half, norms=_half(half.square().half().float().sum(1)), full=(values, norms))


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """Squared distances of the points of x to those of y, made a tile at a time.

    Attributes:
        overflowing: blocks of ADM_BLOCK rows and columns, by number, that half precision cannot hold.
    """

    x: Points
    y: Points
    overflowing: frozenset[tuple[int, int]] = frozenset()

    def tile(self, rows: slice, columns: slice | None = None) -> Tensor:
        """float32 (rows, columns), never negative; all columns without any. Rows lie in one block of ADM_BLOCK.

        In ADM's arithmetic every operation is rounded to half precision, in the order |x|^2 - 2 x.y + |y|^2, with sums
        kept in float32; a block of which any entry is not finite is made in float32 as a whole.
        """
        x, y, columns = self.x, self.y, columns or slice(0, len(self.y))
        if x.full is None or y.full is None:
            return _plain((x.values[rows], x.norms[rows]), (y.values[columns], y.norms[columns]))
        parts = [
            _plain((x.full[0][rows], x.full[1][rows]), (y.full[0][part], y.full[1][part]))
            if (rows.start // ADM_BLOCK, part.start // ADM_BLOCK) in self.overflowing
            else _rounded(x, y, rows, part)
            for part in _spans(columns.start, columns.stop, ADM_BLOCK)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def distances(x: Points, y: Points) -> Distances:
    """Distances between two sets, once it is known which blocks half precision can hold."""
    if x.full is None:
        return Distances(x=x, y=y)
    found = {
        (rows.start // ADM_BLOCK, columns.start // ADM_BLOCK)
        for rows in _spans(0, len(x), ADM_BLOCK)
        for columns in _spans(0, len(y), ADM_BLOCK)
        if _overflows(x, y, rows, columns)
    }
    return Distances(x=x, y=y, overflowing=frozenset(found))


def _plain(x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]) -> Tensor:
    tile = torch.addmm(y[1][None], x[0], y[0].T, alpha=-2)
    return tile.add_(x[1][:, None]).clamp_(min=0)


def _rounded(x: Points, y: Points, rows: slice, columns: slice) -> Tensor:
    product = _half(2 * _half(x.values[rows] @ y.values[columns].T))
    return _half(_half(x.norms[rows][:, None] - product) + y.norms[columns][None]).clamp_(min=0)


def _half(x: Tensor) -> Tensor:
    return x.half().float()


def _overflows(x: Points, y: Points, rows: slice, columns: slice) -> bool:
    """Whether half precision yields an infinity or a NaN somewhere in a block."""
    longest = [float(norms.max()) for norms in (x.norms[rows], y.norms[columns])]
    if not all(np.isfinite(longest)):
        return True
    # No intermediate exceeds (|x| + |y|)^2 by more than its roundings, so that most blocks need not be looked at.
    if (longest[0] ** 0.5 + longest[1] ** 0.5) ** 2 < 0.99 * torch.finfo(torch.float16).max:
        return False
    parts = _spans(rows.start, rows.stop, 512)
    return any(not bool(torch.isfinite(_rounded(x, y, part, columns)).all()) for part in parts)


def _spans(start: int, stop: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover start..stop and never straddle a multiple of ADM_BLOCK."""
    while start < stop:
        end = min(start + size, stop, (start // ADM_BLOCK + 1) * ADM_BLOCK)
        yield slice(start, end)
        start = end


def _bands(rows: int, columns: int) -> Iterator[slice]:
    return _spans(0, rows, max(_BAND // columns, 16))


def nearest_neighbours(x: Points, count: int) -> Neighbours:
    """The `count` nearest points of every point in its own set, itself included.

    In "float32" a point is at distance 0 from itself whatever the rounding, and only tiles on and above the diagonal
    are made, each read along its rows and along its columns. In "fp16-adm" the point's distance to itself is what half
    precision makes of it, and the rounding is not symmetric, so that all tiles are made.
    """
    count = min(count, len(x))
    device = x.values.device
    between = distances(x, x)
    if x.full is not None:
        found = [between.tile(rows).topk(count, largest=False) for rows in _bands(len(x), len(x))]
        return Neighbours(squared=torch.cat([f.values for f in found]), index=torch.cat([f.indices for f in found]))
    best = torch.full((len(x), count), torch.inf, device=device)
    index = torch.zeros((len(x), count), dtype=torch.int64, device=device)

    def merge(rows: slice, tile: Tensor, first: int) -> None:
        near = tile.topk(min(count, tile.shape[1]), largest=False)
        values = torch.cat([best[rows], near.values], dim=1).topk(count, largest=False)
        best[rows] = values.values
        index[rows] = torch.cat([index[rows], near.indices + first], dim=1).gather(1, values.indices)

    tiles = [slice(start, min(start + _TILE, len(x))) for start in range(0, len(x), _TILE)]
    for i, rows in enumerate(tiles):
        for columns in tiles[i:]:
            tile = between.tile(rows, columns)
            if rows == columns:
                tile.fill_diagonal_(0)
            else:
                merge(columns, tile.T.contiguous(), rows.start)
            merge(rows, tile, columns.start)
    return Neighbours(squared=best, index=index)


def radii_without_blocks(x: Points, near: Neighbours, blocks: Tensor, k: int) -> Tensor | None:
    """Squared radii of all points when one block of them at a time does not exist.

    Args:
        blocks: int64 (n,), the block of every point.

    Returns:
        float32 (n, number of blocks); the entry of a point in its own block has no meaning. None where a deletion
        leaves fewer than k other points.
    """
    sizes = torch.bincount(blocks)
    if len(x) - int(sizes.max()) <= k:
        return None
    own = torch.arange(len(x), device=blocks.device)[:, None]
    result = torch.empty((len(x), len(sizes)), device=near.squared.device)
    between = distances(x, x)
    for b in range(len(sizes)):
        kept = (blocks[near.index] != b) | (near.index == own)
        rank = kept.cumsum(1)
        result[:, b] = near.squared.gather(1, (rank == k + 1).int().argmax(1)[:, None])[:, 0]
        # A point of the block itself is never asked for, so that only the others are worth recomputing.
        for i in torch.nonzero((rank[:, -1] <= k) & (blocks != b))[:, 0].tolist():
            row = between.tile(slice(i, i + 1))[0]
            if x.full is None:
                row[i] = 0
            result[i, b] = row[blocks != b].kthvalue(k + 1).values
    return result


def manifold_counts(
    generated: NDArray[np.float32],
    reference: NDArray[np.float32],
    *,
    k: int = 3,
    arithmetic: str = "float32",
    device: str = "cpu",
    jackknife: bool = True,
) -> ManifoldCounts:
    """Which points lie in whose manifold, with every block of generated points deleted in turn.

    Args:
        generated, reference: float32 (n, d) and (m, d).
        k: neighbour that sets the radius, 1 <= k < n, m.
        arithmetic: of distances, "float32" or "fp16-adm".
        device: of torch, on which the distances are made. TF32 must be off there, as it is by default.
        jackknife: whether blocks are deleted; without, both `*_without` are None.

    Raises:
        UsageError: an unknown arithmetic, or k < 1.
        NotComparable: widths that differ, or no k neighbours.
        InputRejected: features that are not finite.
    """
    x, y = _both(generated, reference, k, arithmetic, device)
    near = nearest_neighbours(x, k + 1 + SPARE), nearest_neighbours(y, k + 1)
    return _counts(x, y, near[0], near[1].radii(k), k, jackknife)


def _both(
    generated: NDArray[np.float32], reference: NDArray[np.float32], k: int, arithmetic: str, device: str
) -> tuple[Points, Points]:
    if k < 1:
        raise UsageError(f"k must be at least 1; got {k}.")
    if generated.shape[1] != reference.shape[1]:
        raise NotComparable(f"Features of {generated.shape[1]} and {reference.shape[1]} numbers cannot be compared.")
    if min(len(generated), len(reference)) <= k:
        raise NotComparable(
            f"Radii to the {k}-th neighbour need at least {k + 1} images a side; there are {len(generated)} generated "
            f"and {len(reference)} reference images."
        )
    centre = np.asarray(reference.mean(axis=0, dtype=np.float64), dtype=np.float32)
    return (
        points(generated, centre=centre, arithmetic=arithmetic, device=device),
        points(reference, centre=centre, arithmetic=arithmetic, device=device),
    )


def _counts(x: Points, y: Points, near: Neighbours, radii: Tensor, k: int, jackknife: bool) -> ManifoldCounts:
    """x generated, y reference; near of x, radii of y."""
    device = x.values.device
    blocks = torch.from_numpy(block_numbers(len(x))).to(device)
    own = near.radii(k)
    without = radii_without_blocks(x, near, blocks, k) if jackknife else None
    # The columns of a block lie together, so that a minimum over a block is one over consecutive columns.
    order = torch.argsort(blocks, stable=True)
    ends = torch.bincount(blocks).cumsum(0).tolist()
    runs = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    inside = torch.zeros(len(x), dtype=torch.bool, device=device)
    balls = torch.zeros(len(x), dtype=torch.int64, device=device)
    covered = torch.zeros(len(y), dtype=torch.bool, device=device)
    reached = torch.zeros(len(y), dtype=torch.bool, device=device)
    shape = (len(y), len(ends))
    between = distances(y, x)
    covered_without = torch.zeros(shape, dtype=torch.bool, device=device) if without is not None else None
    reached_without = torch.zeros(shape, dtype=torch.bool, device=device) if without is not None else None
    for rows in _bands(len(y), len(x)):
        band = between.tile(rows)
        limit = radii[rows][:, None]
        inside |= (band <= limit).any(0)
        within = band < limit
        balls += within.sum(0)
        holds = band <= own
        if without is None or covered_without is None or reached_without is None:
            reached[rows], covered[rows] = within.any(1), holds.any(1)
            continue
        within = _any_of_runs(within[:, order], runs)
        reached[rows] = within.any(1)
        reached_without[rows] = _any_but_one(within)
        held = _any_of_runs(holds[:, order], runs)
        covered[rows] = held.any(1)
        covered_without[rows] = _any_but_one(held)
        _cover_by_wider_balls(covered_without[rows], band, without, blocks)
    return ManifoldCounts(
        inside=inside.cpu().numpy(),
        balls=balls.cpu().numpy(),
        covered=covered.cpu().numpy(),
        reached=reached.cpu().numpy(),
        covered_without=None if covered_without is None else covered_without.cpu().numpy(),
        reached_without=None if reached_without is None else reached_without.cpu().numpy(),
    )


def _any_of_runs(flags: Tensor, runs: list[slice]) -> Tensor:
    return torch.stack([flags[:, run].any(1) for run in runs], dim=1)


def _any_but_one(flags: Tensor) -> Tensor:
    """Whether any column but the given one is set, for every column: (rows, columns)."""
    return flags.sum(1, keepdim=True) > flags.int()


def _cover_by_wider_balls(covered: Tensor, band: Tensor, without: Tensor, blocks: Tensor) -> None:
    """Adds what is covered only because a deletion widened a ball; `covered` (rows, blocks) is changed in place."""
    open_rows = torch.nonzero(~covered.all(1))[:, 0]
    if not len(open_rows):
        return
    row, column = torch.nonzero(band[open_rows] <= without.amax(1), as_tuple=True)
    row = open_rows[row]
    every = torch.arange(without.shape[1], device=blocks.device)
    for part in (slice(i, i + _PAIRS) for i in range(0, len(row), _PAIRS)):
        r, c = row[part], column[part]
        hit = (band[r, c][:, None] <= without[c]) & (blocks[c][:, None] != every)
        pair, block = torch.nonzero(hit, as_tuple=True)
        covered[r[pair], block] = True


_RECENT: OrderedDict[Hashable, tuple[tuple[weakref.ref[NDArray[np.float32]], ...], object]] = OrderedDict()
_RECENT_SIZE = 8


def _remember(arrays: tuple[Features, ...], key: tuple[Hashable, ...], make: Callable[[], T]) -> T:
    """What `make` gave for these very features before, or what it gives now.

    Arrays are told apart by identity and files by name, time and size; features are never changed in place.
    """
    held = tuple(f.array for f in arrays if f.array is not None)
    files = tuple((f.path, f.path.stat().st_mtime_ns, f.path.stat().st_size) for f in arrays if f.path is not None)
    full = (tuple(id(a) for a in held), files, *key)
    if full in _RECENT:
        owners, value = _RECENT[full]
        if all(owner() is a for owner, a in zip(owners, held, strict=True)):
            _RECENT.move_to_end(full)
            return cast(T, value)
    value = make()
    _RECENT[full] = (tuple(weakref.ref(a) for a in held), value)
    _RECENT.move_to_end(full)
    while len(_RECENT) > _RECENT_SIZE:
        _RECENT.popitem(last=False)
    return value


def _features(generated: Evidence, reference: Evidence) -> tuple[Features, Features]:
    x, y = generated.features(), reference.features()
    if x.extractor != y.extractor:
        raise NotComparable(f"Features of two extractors, {x.extractor} and {y.extractor}; extract both with one.")
    return x, y


def _manifolds(generated: Evidence, reference: Evidence, k: int, arithmetic: str, device: str) -> ManifoldCounts:
    """`manifold_counts` of two sets of features, each part of it made once for all metrics that need it."""
    features = _features(generated, reference)

    def walk() -> ManifoldCounts:
        x, y = _both(features[0].values(), features[1].values(), k, arithmetic, device)
        # The reference's centre moves the generated points, whose own neighbours do not depend on it beyond rounding.
        # A few neighbours too many cost nothing, and let metrics of different k share one search.
        most = max(k, _SHARED_K) + 1
        near = _remember(features, ("near", most, arithmetic), lambda: nearest_neighbours(x, most + SPARE))
        far = _remember(features[1:], ("near", most, arithmetic), lambda: nearest_neighbours(y, most))
        return _counts(x, y, near, far.radii(k), k, jackknife=True)

    return _remember(features, ("counts", k, arithmetic), walk)


def precision(
    *, generated: Evidence, reference: Evidence, k: int = 3, arithmetic: str = "float32", device: str = "cpu"
) -> Score:
    """Share of generated images inside the reference's manifold.

    Args:
        k: neighbour that sets the radii.
        arithmetic: "float32", or "fp16-adm" for the numbers of ADM's evaluator.
        device: of torch.

    Raises:
        UsageError, NotComparable, InputRejected: as `manifold_counts`.

    Source:
        Kynkaanniemi et al. 2019, eq. 1 and 2. Agrees with torch-fidelity (float32; which compares distances instead of
        their squares), and with openai/guided-diffusion `evaluator.py` (fp16-adm, for equal order of the images).
    """
    inside = _manifolds(generated, reference, k, arithmetic, device).inside
    return score_from_share(int(inside.sum()), len(inside))


def recall(
    *, generated: Evidence, reference: Evidence, k: int = 3, arithmetic: str = "float32", device: str = "cpu"
) -> Score:
    """Share of reference images inside the manifold of the generated ones. Arguments, errors and source as `precision`.

    The standard error is a jackknife over blocks of generated images, balls and all, for this reference.
    """
    counts = _manifolds(generated, reference, k, arithmetic, device)
    return _share_of_reference(counts.covered, counts.covered_without, len(generated.features()))


def _share_of_reference(holds: NDArray[np.bool_], without: NDArray[np.bool_] | None, count: int) -> Score:
    value = float(holds.mean())
    if without is None:
        return Score(value=value)
    return score_from_jackknife(value, without.mean(axis=0), sizes=block_sizes(count), bounds=(0.0, 1.0))


_KYNKAANNIEMI = (
    "Kynkaanniemi et al. 2019, arXiv:1904.06991; agrees with torch-fidelity (float32) and with openai/guided-diffusion "
    "(fp16-adm)"
)

PRECISION = Metric(
    name="precision",
    summary="share of generated images inside the real manifold",
    source=_KYNKAANNIEMI,
    compute=precision,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    minimum=4,
    invariances=frozenset({"order", "translation", "rotation", "scale"}),
)

RECALL = Metric(
    name="recall",
    summary="share of real images inside the generated manifold",
    source=_KYNKAANNIEMI,
    compute=recall,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    minimum=4,
    invariances=frozenset({"order", "translation", "rotation", "scale"}),
)
