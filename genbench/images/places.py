"""Where files lie, and which files a pattern names."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path

from genbench.errors import InputRejected, shown
from genbench.images.refusals import Unfit, regular

Place = Path
SHARDS = (".tar", ".parquet")
"""Endings of files of which several make one set."""
_MOST = 100_000
"""Names that a pattern stands for."""
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d{1,9})\.\.(\d{1,9})")


def read_at(place: Place, offset: int, size: int) -> bytes:
    """Bytes of a file from an offset on.

    Raises:
        Unfit: fewer than that, or no regular file.
    """
    regular(place)
    with place.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise Unfit("ends too early")
    return data


def is_pattern(text: str) -> bool:
    """Whether a text stands for several files: braces or a wildcard, and an ending of shards."""
    return text.lower().endswith(SHARDS) and any(mark in text for mark in "{*?[")


def expanded(text: str) -> list[Path]:
    """Files that a pattern stands for, in the order of their names; those of braces all have to be there.

    Args:
        text: such as `train-{000000..000146}.tar`, `{train,extra}.tar` or `data/*.parquet`.

    Raises:
        InputRejected: no such file, or a gap in the numbers.
    """
    found: list[Path] = []
    for one in in_braces(text):
        if any(mark in one for mark in "*?["):
            there = [Path(path) for path in glob.glob(one, recursive=True)]  # noqa: PTH207
        else:
            there = [Path(one)] if Path(one).is_file() else []
        if not there:
            raise InputRejected(f"There is no {shown(one)}, which {shown(text)} stands for.")
        found += there
    return sorted(set(found))


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


def check_whole(origin: object, names: list[str]) -> None:
    """Refuses shards of which some are missing, by the numbers in their names, or that are of several sets.

    Args:
        names: of shards, relative to one place, such as train-00000-of-00010.parquet.

    Raises:
        InputRejected: `-of-00010` and fewer than ten; or several splits.
    """
    kinds = {re.sub(r"\d+", "0", name): name for name in names}
    if len(kinds) > 1:
        listed = ", ".join(shown(name) for name in sorted(kinds.values())[:4])
        raise InputRejected(
            f"{shown(origin)} has shards of {len(kinds)} sets, such as {listed}; name those of one by a pattern, such "
            "as 'train-*.tar'."
        )
    told = [match for name in names if (match := re.search(r"(\d+)-of-(\d+)\D*$", name))]
    if told and (len(told) != len(names) or len({int(m[1]) for m in told}) != int(told[0][2])):
        raise InputRejected(f"{shown(origin)} has {len(names)} of {int(told[0][2])} shards; the others are missing.")
