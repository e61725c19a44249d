"""Where files lie, and which files a pattern names."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Any

from genbench.errors import InputRejected, shown
from genbench.images import surveys
from genbench.images.braces import in_braces
from genbench.images.refusals import Unfit, regular
from genbench.images.remote import Remote, is_url

Place = Path | Remote
SHARDS = (".tar", ".parquet")
"""Endings of files of which several make one set."""


def read_at(place: Place, offset: int, size: int) -> bytes:
    """Bytes of a file from an offset on.

    Raises:
        Unfit: fewer than that, or no regular file.
    """
    if isinstance(place, Remote):
        data = place.read_at(offset, size)
    else:
        regular(place)
        with place.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
    if len(data) != size:
        raise Unfit("ends too early")
    return data


def state_of(place: Place) -> tuple[list[Any], bool]:
    """What changes when a file is written or replaced, and whether it is certain to change.

    The time of the last change of state cannot be set back by a program.
    """
    if isinstance(place, Remote):
        return [place.url, place.size, place.version], bool(place.version)
    status = place.stat()
    times = [status.st_mtime_ns, status.st_ctime_ns]
    state = [str(place.absolute()), status.st_size, *times, status.st_ino, status.st_dev]
    return state, surveys.settled(max(times))


def names_files(text: str) -> bool:
    """Whether a text that is no path names files all the same: a pattern or a URL."""
    return is_url(text) or is_pattern(text)


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


def check_whole(origin: object, names: list[str]) -> None:
    """Refuses shards of which some are missing, by the numbers in their names, or that are of several sets.

    Args:
        names: of shards, relative to one place, such as train-00000-of-00010.parquet.

    Raises:
        InputRejected: `-of-00010` and fewer than ten; or several splits.
    """
    plain = [re.sub(r"-[0-9a-f]{16}(?=\.)", "", name) for name in names]  # what older Hub uploads add to each name
    kinds = {re.sub(r"\d+", "0", short): name for short, name in zip(plain, names, strict=True)}
    if len(kinds) > 1:
        listed = ", ".join(shown(name) for name in sorted(kinds.values())[:4])
        raise InputRejected(
            f"{shown(origin)} has shards of {len(kinds)} sets, such as {listed}; name those of one by a pattern, such "
            "as 'train-*.tar'."
        )
    told = [match for name in plain if (match := re.search(r"(\d+)-of-(\d+)\D*$", name))]
    if told and (len(told) != len(names) or len({int(m[1]) for m in told}) != int(told[0][2])):
        raise InputRejected(f"{shown(origin)} has {len(names)} of {int(told[0][2])} shards; the others are missing.")
