"""Captions that lie beside images: metadata files and text files."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Protocol

from genbench.errors import InputRejected, shown
from genbench.images.refusals import Unfit, naming, reason

_log = logging.getLogger(__name__)

METADATA = ("metadata.jsonl", "metadata.csv")
"""Files with captions, as the `imagefolder` of Hugging Face datasets names them."""


class Readable(Protocol):
    """Files by name, in a folder or an archive."""

    @property
    def path(self) -> object: ...

    def read(self, name: str) -> bytes: ...


CAPTION_COLUMNS = ("caption", "text", "prompt")


def caption_files(visible: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files of metadata, and all text files if one of them has the name of an image up to the extension."""
    texts = sorted(name for name in visible if name.lower().endswith(".txt"))
    stems = {_stem(name) for name in names} if texts else set()
    beside = any(_stem(name) in stems for name in texts)
    return sorted(name for name in visible if PurePosixPath(name).name in METADATA), texts if beside else []


def read_captions(files: Readable, visible: Sequence[str], names: Sequence[str]) -> tuple[str, ...] | None:
    """A caption an image, from wherever they stand, or None where they stand nowhere.

    Whatever leaves open which text belongs to which image is refused: a score of shuffled or lost captions looks like
    that of a bad model.
    """
    metadata, texts = caption_files(visible, names)
    if not metadata and not texts:
        return None
    wanted, sources = set(names), ["text files"] if texts else []
    found: dict[str, str] = {}
    for source in metadata:
        with naming(f"{files.path}/{source}"):
            read = _json_lines if source.endswith(".jsonl") else _comma_separated
            rows = read(_decoded(files.read(source)), f"{files.path}/{source}")
            for name, caption in rows or ():
                _add(found, (PurePosixPath(source).parent / name).as_posix(), caption, wanted)
            sources += [] if rows is None else [source]
    by_stem: dict[str, list[str]] = {}
    for name in names if texts else ():
        by_stem.setdefault(_stem(name), []).append(name)
    for source in texts:
        with naming(f"{files.path}/{source}"):
            images = by_stem.get(_stem(source), ())
            if len(images) != 1:
                raise Unfit(
                    f"belongs to {shown(' and '.join(images))}; a caption has one image"
                    if images
                    else "has no image of its name beside it, as other text files here have"
                )
            text = _decoded(files.read(source)).strip()
            if len(text.splitlines()) > 1:
                raise Unfit(f"has {len(text.splitlines())} lines; a caption is one line, or stands in {METADATA[0]}")
            _add(found, images[0], text, wanted)
    if not sources:
        return None
    missing = [name for name in names if name not in found]
    if missing:
        raise InputRejected(
            f"{shown(files.path)}: {len(missing)} of {len(names)} images have no caption, such as "
            f"{shown(missing[0])}; {shown(', '.join(sources))} must have one for every image, or be removed."
        )
    return tuple(found[name] for name in names)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")  # spreadsheets put a mark before the first character
    except UnicodeDecodeError as error:
        raise Unfit(f"is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _add(found: dict[str, str], image: str, caption: str, wanted: set[str]) -> None:
    if image not in wanted:
        raise Unfit(f"names {shown(image)}, which is not among the images")
    if image in found:
        raise Unfit(f"names {shown(image)}, which has a caption already")
    if problem := fault_of(caption):
        raise Unfit(f"has a caption of {shown(image)} that {problem}")
    found[image] = caption


def fault_of(caption: object) -> str:
    """Why something is no caption, or nothing."""
    if not isinstance(caption, str):
        return "is no text"
    if not caption.strip():
        return "is empty"
    return "" if caption.isascii() or not any("\ud800" <= c <= "\udfff" for c in caption) else "is not valid Unicode"


def _json_lines(text: str, place: str) -> list[tuple[str, str]] | None:
    """Pairs of `file_name` and caption of one JSON object a line, None where there is no such column."""
    column, pairs = None, []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise Unfit(f"is no JSON in line {number} ({reason(error)})") from error
        if not isinstance(row, dict):
            raise Unfit(f"holds no JSON object in line {number}")
        column = column or _caption_column(list(row), place)
        if column is None:
            return None
        if not isinstance(row.get("file_name"), str) or column not in row:
            raise Unfit(f"has no file_name or no {column} in line {number}")
        pairs.append((row["file_name"], row[column]))
    return pairs


def _comma_separated(text: str, place: str) -> list[tuple[str, str]] | None:
    """Pairs of `file_name` and caption of a CSV file with a header, None where there is no such column."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(rows, [])
    column = _caption_column(header, place)
    if column is None:
        return None
    name, caption, pairs = header.index("file_name"), header.index(column), []
    for row in rows:
        if row and len(row) != len(header):
            raise Unfit(f"has {len(row)} fields in line {rows.line_num}, not {len(header)}; quote texts with commas")
        if row:
            pairs.append((row[name], row[caption]))
    return pairs


def _caption_column(columns: Sequence[str], place: str) -> str | None:
    """Where the captions are; None, with a warning, in a table of something else, such as labels."""
    found = [name for name in columns if name in CAPTION_COLUMNS]
    if columns.count("file_name") != 1 or not found:
        _log.warning(
            "%s has no captions and was passed over: they need the columns file_name and %s.",
            shown(place),
            " or ".join((", ".join(CAPTION_COLUMNS[:-1]), CAPTION_COLUMNS[-1])),
        )
        return None
    if len(found) > 1:
        raise Unfit(f"has captions in {len(found)} columns ({', '.join(found)}); keep one of them")
    return found[0]
