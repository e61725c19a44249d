"""CSV tables of one row a record, with fixed columns: read with suspicion, and merged by many processes at once.

Every table that this project keeps is read and extended here: leaderboards of measured rows, reported numbers, and the
tables of the scripts. Tables come from users, so that nothing of their bytes is taken for granted.
"""

from __future__ import annotations

import csv
import io
import math
import os
import stat
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genbench.errors import InputRejected
from genbench.files import atomic_write, locked

Row = Mapping[str, str]

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a cell that a spreadsheet would run."""
PATIENCE = 60.0
"""Seconds to wait for other processes that merge into a table of the same folder; one takes milliseconds."""


def read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """All rows of a table, in the order of the file.

    Args:
        path: of a regular file in UTF-8, or of a symbolic link to one.
        columns: the header that it must have.

    Raises:
        InputRejected: anything that is no such table. The message names the line.
    """
    try:
        # Opening a pipe without a writer would wait for ever, and reading a device might never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputRejected(f"{path} is no regular file; give the path of a CSV table.")
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputRejected(f"{path} is no table in UTF-8 (byte {error.start}); nothing was written.") from error
    except (OSError, RuntimeError) as error:  # pathlib raises RuntimeError for a circle of links
        why = getattr(error, "strerror", None) or error
        raise InputRejected(f"Cannot read the table {path} ({why}); nothing was written.") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputRejected(f"Cannot read the table {path}, line {line}: it holds a NUL byte.")
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        header = next(lines, [])
        if header != list(columns):
            found = ", ".join(header)[:200] or "missing"
            raise ValueError(f"its columns are {found!r}, not those of this version ({', '.join(columns)[:200]})")
        for cells in filter(None, lines):  # an empty line is no row
            if len(cells) != len(columns):
                raise ValueError(f"it has {len(cells)} cells, and the header {len(columns)}")
            rows.append(dict(zip(columns, cells, strict=True)))
    except (ValueError, csv.Error) as error:
        raise InputRejected(f"Cannot read the table {path}, line {lines.line_num}: {error}.") from error
    return rows


def cell(value: object) -> str:
    """A value as the text of a cell: floats keep every digit, what is not known or not finite is empty, and text that a
    spreadsheet would run begins with an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else ""
    told = str(value)
    return f"'{told}" if isinstance(value, str) and told[:1] in FORMULA else told


def text(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """A table with its header: UTF-8, LF, RFC 4180.

    Raises:
        ValueError: a row with another column.
    """
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def merge(
    path: Path,
    columns: Sequence[str],
    new: Sequence[Row],
    *,
    identity: Callable[[Row], Hashable],
    order: Callable[[Row], Any],
    check: Callable[[Sequence[Row], Sequence[Row]], None] | None = None,
) -> int:
    """Adds rows to a table, in place of the rows of the file with the same identity. Returns the number of rows.

    Reading, merging and writing happen under a lock of the folder, so that no row of another process is lost. The file
    is replaced whole. A symbolic link goes on pointing to it, and its permissions stay.

    Args:
        path: of the table. It is made where there is none.
        new: rows with all columns.
        identity: what a new row replaces: all rows of the file of equal identity.
        order: sort key of the rows. Rows of equal keys keep their order, those of the file first.
        check: check(rows that stay, new rows) raises where they may not stand in one table. Nothing is written then.

    Raises:
        InputRejected: a file that is no such table.
        GenbenchError: another process holds the folder for longer than PATIENCE.
    """
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:
        raise InputRejected(f"Cannot follow the link {path} ({error}).") from error
    with locked(target.parent, patience=PATIENCE):
        held = read(target, columns) if os.path.lexists(target) else []
        replaced = {identity(row) for row in new}
        kept: list[Row] = [row for row in held if identity(row) not in replaced]
        if check is not None:
            check(kept, new)
        rows = [*kept, *new]
        atomic_write(target, text(columns, sorted(rows, key=order)).encode())
    return len(rows)
