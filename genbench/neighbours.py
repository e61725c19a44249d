"""Squared distances and nearest neighbours in tiles, so that memory grows with n and not with n squared.

Distances are made in float32, from products of matrices. Where the nearest point is much closer than the middle of all
points is, such a distance is a small difference of large numbers: these pairs, few in most sets, are made again in
float64 from the features as they were given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genbench import ranks
from genbench.errors import InputRejected, NotComparable, UsageError
from genbench.uncertainty import block_numbers

ARITHMETICS = ("float32", "fp16-adm")
ADM_BLOCK = 10_000
"""Rows and columns of one distance block of ADM's evaluator: the unit that falls back to float32 as a whole."""

_ROWS, _COLUMNS = 1024, 2048
"""Sides of a tile, 8 MiB, which stays in the cache. Neither is less than 64 times the neighbours sought, because
torch finds them in shorter rows by another algorithm, four times slower."""
SPARE = 4
"""Neighbours stored beyond the k-th, so that deleting a block of 5 % of the points leaves k of them but for 1 point in
10,000. Those few are recomputed."""

_STRIP = 256

RESOLUTION, FINE_RESOLUTION = 2.0**-21, 2.0**-46
"""Least squared distance that float32 and float64 tell from 0, in units of the sum of the points' squared lengths."""

CROWDED = 2.0**-5
"""A point is crowded if the squared distance to its nearest neighbour is less than so much of its squared length. The
rounding of float32 is at most about 2^-16 of all other squared distances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """A set of features ready for distances.

    Attributes:
        values: float32 (n, d), (given[order] - centre) * scale; rounded to half precision for "fp16-adm".
        norms: float32 (n,), squared lengths; rounded likewise.
        given: float32 (n, d), the features, of which only single rows are read again.
        order: int64 (n,): point i is the feature order[i].
        centre: float64 (d,), subtracted in "float32": it changes no distance, and makes lengths as small as the
            distances, so that less cancels. ADM's arithmetic knows no centre.
        scale: a power of two, which keeps squares within the range of float32.
        crowded: bool (n,), whose close distances are made in float64, None for nobody's.
        full: the values and lengths before rounding, for blocks that overflow in half precision, None for "float32".
    """

    values: Tensor
    norms: Tensor
    given: NDArray[np.float32]
    order: NDArray[np.int64]
    centre: NDArray[np.float64]
    scale: float
    crowded: Tensor | None = None
    full: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def exact(self, which: Tensor) -> Tensor:
        """The values of some points without the rounding of float32: float64 (len(which), d)."""
        rows = self.given[self.order[which.cpu().numpy()]].astype(np.float64)
        return torch.from_numpy((rows - self.centre) * self.scale).to(_device_of_float64(self.values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The nearest points of every point in its own set, the point itself among them.

    Attributes:
        squared: float32 (n, m), squared distances, ascending.
        index: int64 (n, m).
        crowded: bool (n,), see `Points`, None for nobody.
    """

    squared: Tensor
    index: Tensor
    crowded: Tensor | None

    def radii(self, k: int) -> Tensor:
        """Squared distance to the k-th nearest other point, (n,): the point itself is counted out once."""
        return self.squared[:, k].contiguous()


def points(
    given: NDArray[np.float32],
    *,
    order: NDArray[np.int64] | None = None,
    centre: NDArray[np.float64],
    scale: float = 1.0,
    arithmetic: str,
    device: str = "cpu",
) -> Points:
    """Moves features to a device.

    Args:
        given: float32 (n, d).
        order, centre, scale: see `Points`. The latter two are for "float32" alone.
        arithmetic: "float32" or "fp16-adm".

    Raises:
        UsageError: another arithmetic.
        InputRejected: features that are not finite.
    """
    if arithmetic not in ARITHMETICS:
        raise UsageError(f"No arithmetic {arithmetic!r} for distances; there are {' and '.join(ARITHMETICS)}.")
    exact = arithmetic == "float32"
    order = np.arange(len(given)) if order is None else order
    copied = np.asarray(given)[order]
    if exact:
        copied -= centre.astype(np.float32)
        copied *= np.float32(scale)
    values = torch.from_numpy(copied).to(device)
    norms = values.square().sum(1)
    if not torch.isfinite(norms).all():
        raise InputRejected(
            "Features, or their squared lengths in float32, are not finite; check the extractor's output."
        )
    full = None
    if not exact:
        full, values = (values, norms), values.half().float()
        norms = _half(values.square().half().float().sum(1))
    return Points(values=values, norms=norms, given=given, order=order, centre=centre, scale=scale, full=full)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """Squared distances of the points of x to those of y, made a tile at a time.

    Attributes:
        overflowing: blocks of ADM_BLOCK rows and columns, by number, that half precision cannot hold.
    """

    x: Points
    y: Points
    overflowing: frozenset[tuple[int, int]] = frozenset()

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """float32 (rows, columns), never negative. Both lie in one block of ADM_BLOCK each.

        In ADM's arithmetic every operation is rounded to half precision, in the order |x|^2 - 2 x.y + |y|^2, with sums
        kept in float32. A block of which any entry is not finite is made in float32 as a whole.
        """
        x, y = self.x, self.y
        overflows = (rows.start // ADM_BLOCK, columns.start // ADM_BLOCK) in self.overflowing
        if x.full is not None and y.full is not None and not overflows:
            return _rounded(x, y, rows, columns)
        (a, a_norms), (b, b_norms) = (z.full or (z.values, z.norms) for z in (x, y))
        tile = torch.addmm(b_norms[columns][None], a[rows], b[columns].T, alpha=-2)
        tile.add_(a_norms[rows][:, None]).clamp_(min=0)
        _refine(tile, x, rows, y, columns)
        _refine(tile.T, y, columns, x, rows)
        return tile

    def rows(self) -> list[slice]:
        """Runs of rows, each as high as a tile."""
        return list(_spans(0, len(self.x), _ROWS))

    def tiles(self, runs: Sequence[int]) -> Iterator[tuple[slice, slice, Tensor]]:
        """Every tile of some runs of rows once, with its rows and its columns; the columns change fastest."""
        for rows in map(self.rows().__getitem__, runs):
            for columns in _spans(0, len(self.y), _COLUMNS):
                yield rows, columns, self.tile(rows, columns)


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


def _refine(tile: Tensor, x: Points, rows: slice, y: Points, columns: slice) -> None:
    """Makes the close distances of crowded points of x in float64; `tile` (rows, columns) is changed in place."""
    if x.crowded is None:
        return
    crowded = torch.nonzero(x.crowded[rows])[:, 0]
    close = tile[crowded] < 2 * CROWDED * x.norms[rows][crowded, None]
    columns_of_close = torch.nonzero(close.any(0))[:, 0]
    if not len(columns_of_close):
        return
    a, b = x.exact(rows.start + crowded), y.exact(columns.start + columns_of_close)
    lengths = a.square().sum(1)[:, None] + b.square().sum(1)
    # Two points that float64 cannot tell apart are one: copies are at distance 0, whatever the rounding.
    fine = torch.addmm(lengths, a, b.T, alpha=-2)
    fine[fine < FINE_RESOLUTION * lengths] = 0
    tile[crowded[:, None], columns_of_close] = fine.float().to(tile.device)


def _device_of_float64(like: Tensor) -> torch.device:
    """The device of a tensor, or the CPU where that device has no float64."""
    return torch.device("cpu") if like.device.type == "mps" else like.device


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


Walk = Callable[..., dict[str, Tensor]]
"""walk(between, runs, advance, **more): what the tiles of some runs of rows give, in arrays that are put together."""


def over_tiles(walk: Walk, x: Points, y: Points, **more: Tensor | int | None) -> list[dict[str, Tensor]]:
    """What a walk over the tiles between x and y gives, each process walking over some of the rows.

    Args:
        walk: at the top of a module of this package, so that other processes find it.
        more: of the walk.

    Returns:
        What each process found. No value depends on who made which rows.
    """
    between, device = distances(x, y), x.values.device
    found = ranks.spread(
        walk_elsewhere,
        range(len(between.rows())),
        own=partial(walk, between, **more),
        walk=ranks.name_of(walk),
        device=str(device),
        points=[_told(x)] if y is x else [_told(x), _told(y)],
        more={name: _array(value) for name, value in more.items()},
    )
    return [{name: torch.as_tensor(value).to(device) for name, value in some.items()} for some in found]


def walk_elsewhere(
    runs: Sequence[int],
    advance: ranks.Advance,
    *,
    walk: str,
    device: str,
    points: Sequence[dict[str, Any]],
    more: dict[str, Any],
) -> dict[str, Any]:
    """Walks over some of the rows for the process that asked, see `over_tiles`."""
    from genbench.arithmetic import float32

    device = ranks.here(device)
    with float32():
        sets = [_again(told, device) for told in points]
        x, y = sets[0], sets[-1]
        given = {n: torch.from_numpy(v).to(device) if isinstance(v, np.ndarray) else v for n, v in more.items()}
        found = ranks.function(walk)(distances(x, y), runs, advance, **given)
    return {name: _array(value) for name, value in found.items()}


def _array(value: Tensor | int | None) -> NDArray[Any] | int | None:
    return value.cpu().numpy() if isinstance(value, Tensor) else value


def _told(x: Points) -> dict[str, Any]:
    """What another process makes the same points of."""
    arithmetic = "float32" if x.full is None else "fp16-adm"
    return {
        "given": x.given, "order": x.order, "centre": x.centre, "scale": x.scale, "arithmetic": arithmetic,
        "crowded": _array(x.crowded),
    }  # fmt: skip


def _again(told: dict[str, Any], device: str) -> Points:
    crowded = told.pop("crowded")
    return replace(
        points(**told, device=device), crowded=None if crowded is None else torch.from_numpy(crowded).to(device)
    )


def nearest_neighbours(x: Points, count: int) -> Neighbours:
    """The `count` nearest points of every point in its own set, itself included.

    In "float32" a point is at distance 0 from itself whatever the rounding, and only tiles on and above the diagonal
    are made, each read along its rows and along its columns. In "fp16-adm" the point's distance to itself is what half
    precision makes of it, and the rounding is not symmetric, so that all tiles are made.
    """
    count = min(count, len(x))
    first, *others = over_tiles(nearest_of_rows, x, x, count=count)
    best, index = first["squared"], first["index"]
    for other in others:
        best, chosen = torch.cat([best, other["squared"]], dim=1).topk(count, largest=False)
        index = torch.cat([index, other["index"]], dim=1).gather(1, chosen)
    if x.full is not None:
        return Neighbours(squared=best, index=index, crowded=None)
    crowded = best[:, min(1, count - 1)] < CROWDED * x.norms
    if not bool(crowded.any()):
        return Neighbours(squared=best, index=index, crowded=None)
    _search_again(x, crowded, best, index)
    return Neighbours(squared=best, index=index, crowded=crowded)


def nearest_of_rows(
    between: Distances, runs: Sequence[int], advance: ranks.Advance, *, count: int
) -> dict[str, Tensor]:
    """The nearest points of all points among the pairs in the tiles of some runs of rows; infinity where none is."""
    x = between.x
    best = torch.full((len(x), count), torch.inf, device=x.values.device)
    index = torch.zeros((len(x), count), dtype=torch.int64, device=x.values.device)
    if x.full is not None:
        for rows, columns, tile in between.tiles(runs):
            _merge(best, index, rows, tile, columns.start)
            advance(0)
        return {"squared": best, "index": index}
    for rows in map(between.rows().__getitem__, runs):
        _merge(best, index, rows, _among_themselves(between, rows), rows.start)
        for columns in _spans(rows.stop, len(x), _COLUMNS):
            tile = between.tile(rows, columns)
            _merge(best, index, rows, tile, columns.start)
            _merge(best, index, columns, tile.T.contiguous(), rows.start)
            advance(0)
    return {"squared": best, "index": index}


def _merge(best: Tensor, index: Tensor, rows: slice | Tensor, tile: Tensor, first: int) -> None:
    """Takes the nearest of a tile, whose columns begin with point `first`, among the nearest known; in place."""
    count = best.shape[1]
    near = tile.topk(min(count, tile.shape[1]), largest=False)
    values, chosen = torch.cat([best[rows], near.values], dim=1).topk(count, largest=False)
    best[rows] = values
    index[rows] = torch.cat([index[rows], near.indices + first], dim=1).gather(1, chosen)


def _search_again(x: Points, crowded: Tensor, best: Tensor, index: Tensor) -> None:
    """The nearest points of crowded ones, with close distances in float64; `best` and `index` are changed in place."""
    between = distances(replace(x, crowded=crowded), x)
    best[crowded] = torch.inf
    for rows in _spans(0, len(x), _ROWS):
        which = torch.nonzero(crowded[rows])[:, 0]
        if not len(which):
            continue
        for columns in _spans(0, len(x), _COLUMNS):
            tile = between.tile(rows, columns)[which]
            own = rows.start + which - columns.start
            inside = (own >= 0) & (own < tile.shape[1])
            tile[inside, own[inside]] = 0
            _merge(best, index, rows.start + which, tile, columns.start)


def _among_themselves(between: Distances, rows: slice) -> Tensor:
    """The tile on the diagonal, made of narrow strips above it and mirrored: symmetric, and 0 on the diagonal."""
    size = rows.stop - rows.start
    tile = torch.zeros((size, size), device=between.x.values.device)
    for strip in _spans(rows.start, rows.stop, _STRIP):
        inside = slice(strip.start - rows.start, strip.stop - rows.start)
        tile[inside, inside.start :] = between.tile(strip, slice(strip.start, rows.stop))
    tile.triu_(1)
    return tile + tile.T


def radii_without_blocks(x: Points, near: Neighbours, blocks: Tensor, k: int) -> Tensor | None:
    """Squared radii of all points when one block of them at a time does not exist.

    Args:
        blocks: int64 (n,), the block of every point.

    Returns:
        float32 (n, number of blocks). The entry of a point in its own block has no meaning. None where a deletion
        leaves fewer than k other points.
    """
    sizes = torch.bincount(blocks)
    if len(x) - int(sizes.max()) <= k:
        return None
    result = torch.empty((len(x), len(sizes)), device=near.squared.device)
    between = distances(x, x)
    for b in range(len(sizes)):
        kept = blocks[near.index] != b
        rank = kept.cumsum(1)
        result[:, b] = near.squared.gather(1, (rank == k + 1).int().argmax(1)[:, None])[:, 0]
        # A point of the block itself is never asked for, so that only the others are worth recomputing.
        for i in torch.nonzero((rank[:, -1] <= k) & (blocks != b))[:, 0].tolist():
            every = _spans(0, len(x), _COLUMNS)
            row = torch.cat([between.tile(slice(i, i + 1), columns)[0] for columns in every])
            if x.full is None:
                row[i] = 0
            result[i, b] = row[blocks != b].kthvalue(k + 1).values
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both sides on one device, the generated points in an order in which jackknife blocks can be told apart.

    Attributes:
        blocks: int64 (n,): the jackknife block of generated point i. Ascending, except in ADM's arithmetic, whose
            result may depend on the order of the images.
    """

    generated: Points
    reference: Points
    blocks: Tensor

    def by_image(self, values: Tensor) -> NDArray[np.generic]:
        """Values of the generated points, in the order of the images."""
        result = torch.empty_like(values)
        result[torch.from_numpy(self.generated.order).to(values.device)] = values
        return result.cpu().numpy()


def pair_of(
    generated: NDArray[np.float32], reference: NDArray[np.float32], *, k: int, arithmetic: str, device: str
) -> Pair:
    """Both sides on a device, about the centre of the reference.

    Args:
        generated, reference: float32 (n, d) and (m, d).
        k: neighbour that sets the radii, 1 <= k < m.

    Raises:
        UsageError: an unknown arithmetic, or k < 1.
        NotComparable: widths that differ, no generated images, or fewer than k + 1 reference images.
        InputRejected: features that are not finite.
    """
    if k < 1:
        raise UsageError(f"k must be at least 1; got {k}.")
    if generated.shape[1] != reference.shape[1]:
        raise NotComparable(
            f"Features of widths {generated.shape[1]} and {reference.shape[1]} cannot be compared; use one extractor."
        )
    if len(reference) <= k or not len(generated):
        raise NotComparable(
            f"Radii to the {k}-th neighbour need at least {k + 1} reference images and some generated ones; there are "
            f"{len(reference)} and {len(generated)}."
        )
    numbers = block_numbers(len(generated))
    order = None if arithmetic == "fp16-adm" else np.argsort(numbers, kind="stable")
    make = partial(
        points,
        centre=reference.mean(axis=0, dtype=np.float64),
        scale=_scale(generated, reference),
        arithmetic=arithmetic,
        device=device,
    )
    ours = make(generated, order=order)
    return Pair(generated=ours, reference=make(reference), blocks=torch.from_numpy(numbers[ours.order]).to(device))


def _scale(*sides: NDArray[np.float32]) -> float:
    """1, or the power of two that brings features to about 1 whose squares float32 cannot hold."""
    largest = max(float(max(side.max(), -side.min())) for side in sides)
    if largest == 0 or not math.isfinite(largest) or 2.0**-30 < largest < 2.0**50:
        return 1.0
    return 2.0 ** -math.frexp(largest)[1]
