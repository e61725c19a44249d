"""Work on features that lies in numbered pieces, which the processes of a command share.

A piece is a function of its number, of features and of what it is told. It gives the same whoever makes it, and what
all of them give comes in the order of the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genbench import ranks
from genbench.arrays import Features

Piece = Callable[..., Any]
"""piece(number, *sides, **told): arrays, numbers, texts, or lists and mappings of them."""

WORTH = 2e9
"""Products of two numbers, about a tenth of a second of a core, below which a process works more quickly alone."""
ANSWERS = 1 << 30
"""Bytes of answers that the process which asked holds at most at a time, one of each process apart."""


def in_order(
    piece: Piece, sides: Sequence[Features], count: int, *, products: float, size: int = 8, **told: Any
) -> Iterator[Any]:
    """What piece(number, *sides, **told) gives for all numbers below `count`, in their order.

    Args:
        piece: at the top of a module of this package, so that other processes find it.
        sides: features. Only those that lie in files are worth being sent, by their name.
        products: that all pieces make together, see `WORTH`.
        size: bytes that a piece gives.
    """
    alone = products < WORTH or any(side.path is None for side in sides)
    some = 1 if alone else max(ranks.count(), ANSWERS // size)
    for start in range(0, count, some):
        numbers = range(start, min(start + some, count))
        own = partial(_made, piece, sides, told=told)
        if alone:
            found = [own(numbers, lambda _: None)]
        else:
            found = ranks.spread(
                pieces_elsewhere,
                numbers,
                own=own,
                piece=ranks.name_of(piece),
                sides=[{"extractor": side.extractor, "tap": side.tap, "values": side.values()} for side in sides],
                told=told,
            )
        each = by_number(found)
        yield from (each.pop(number) for number in numbers)


def by_number(found: Sequence[Sequence[Any]]) -> dict[int, Any]:
    """What pieces gave, by their numbers; each process returned a list of numbers and a list of results."""
    return {number: given for part in found for number, given in zip(*part, strict=True)}


def _made(
    piece: Piece, sides: Sequence[Features], numbers: Sequence[int], advance: ranks.Advance, *, told: Mapping[str, Any]
) -> list[list[Any]]:
    found = []
    for number in numbers:
        found.append(piece(number, *sides, **told))
        advance(0)
    return [list(numbers), found]


def pieces_elsewhere(
    numbers: Sequence[int],
    advance: ranks.Advance,
    *,
    piece: str,
    sides: Sequence[Mapping[str, Any]],
    told: Mapping[str, Any],
) -> list[list[Any]]:
    """Some pieces for the process that asked: their numbers, and what they give. See `in_order`."""
    again = [_again(**side) for side in sides]
    return _made(ranks.function(piece), again, numbers, advance, told=told)


def _again(extractor: str, tap: str, values: NDArray[np.float32]) -> Features:
    name = getattr(values, "filename", None)
    if name is None:
        return Features(extractor=extractor, tap=tap, array=values)
    return Features(extractor=extractor, tap=tap, path=Path(name))
