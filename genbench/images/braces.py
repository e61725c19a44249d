"""Braces in names of files, written out as a shell does it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from genbench.errors import InputRejected, shown

_MOST = 100_000
"""Names that a pattern stands for."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


def in_braces(text: str) -> list[str]:
    """Texts that braces stand for, as a shell would write them out.

    Raises:
        InputRejected: too many.
    """
    found = list(_written_out(text, _MOST))
    if len(found) > _MOST:
        raise InputRejected(f"{shown(text)} stands for more than {_MOST:,} files.")
    return found


def _written_out(text: str, most: int) -> Iterator[str]:
    match = _BRACES.search(text)
    if match is None:
        yield text
        return
    inside = match[1]
    if (numbers := _RANGE.fullmatch(inside)) is not None:
        first, last = int(numbers[1]), int(numbers[2])
        width = len(numbers[1]) if numbers[1].startswith("0") or len(numbers[1]) == len(numbers[2]) else 0
        options = (f"{i:0{width}d}" for i in range(first, min(last, first + most) + 1))
    else:
        options = (one for one in inside.split(","))
    count = 0
    for option in options:
        for one in _written_out(text[: match.start()] + option + text[match.end() :], most):
            yield one
            count += 1
            if count > most:
                return
