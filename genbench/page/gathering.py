"""What a page shows, read from runs, leaderboards, comparisons and strips of images into frozen records.

No order and no verdict is made here: they are those of `genbench.standings`, `genbench.comparison` and
`genbench.papers`. Nothing that a source names is imported as code unless the user allows it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genbench import leaderboard, moved, report
from genbench.comparison import SCHEMA as COMPARISON
from genbench.comparison import compare
from genbench.errors import GenbenchError, InputRejected, UsageError, shown
from genbench.page import boards, compared, pictures, published
from genbench.page.boards import Board, Naming
from genbench.page.compared import Compared
from genbench.page.pictures import Gallery, Shots
from genbench.page.published import Published
from genbench.standings import Row

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Everything that is on a page."""

    title: str
    boards: tuple[Board, ...]
    compared: tuple[Compared, ...]
    galleries: tuple[Gallery, ...]
    published: tuple[Published, ...]

    @property
    def numbers(self) -> int:
        """How many measured numbers there are."""
        return sum(len(system.numbers) for board in self.boards for system in board.systems)


# --- sources ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Found:
    """What lies in the sources. `named` are runs that are sources themselves, in their order."""

    rows: dict[str, Row]
    seconds: dict[tuple[str, str, str], float]
    shots: list[Shots]
    named: list[Path]
    documents: list[Mapping[str, Any]]

    def add(self, row: Row) -> None:
        """Takes a row; of two of one id the later one counts, as in `genbench.leaderboard.build`."""
        other = self.rows.get(row["id"])
        if other is not None and other["value"] != row["value"]:
            _log.warning("The row %s of %s is there twice, with %s and %s; the later one counts.", row["id"],
                         shown(row["model"]), other["value"], row["value"])  # fmt: skip
        if other is None or other["date"] <= row["date"]:
            self.rows[row["id"]] = row


def gathered(
    sources: Sequence[Path],
    *,
    title: str = "",
    images: int = 8,
    names: Path | None = None,
    allow_code: bool = False,
) -> Page:
    """Reads results, images and comparisons into what a page shows.

    Args:
        sources: folders of runs, directories of such folders, result.json files, leaderboards (CSV), comparisons (JSON
            of `genbench compare`), and strips of images (PNG of `genbench.images.write_strip`).
        title: of the page; empty for one made of the data sets.
        images: how many of every run, 0 for none. Fewer are shown where all would be too large.
        names: a TOML file, see `genbench.leaderboard.names_of`.
        allow_code: whether sources may name components by module:attribute, which are imported.

    Raises:
        InputRejected: a source that is none of these, or is damaged. The message names it.
        UsageError: no sources.
    """
    if not sources:
        raise UsageError("A page needs something to show: runs, leaderboards or comparisons.")
    found = _Found({}, {}, [], [], [])
    for source in sources:
        _read(source, found, images)
    rows = sorted(found.rows.values(), key=report.sort_key)
    naming = Naming(rows, [shot.model for shot in found.shots], leaderboard.names_of(names) if names else {})
    made = boards.made(rows, naming, found.seconds)
    comparisons = [one for document in found.documents for one in compared.read(document)]
    if len(found.named) == 2:
        comparisons.append(_of_two(found.named, images > 0, allow_code))
    return Page(
        title=shown(title) or _title(made),
        boards=made,
        compared=tuple(comparisons),
        galleries=pictures.galleries(found.shots, {shot.model: naming(shot.model).text for shot in found.shots}),
        published=tuple(published.beside(made)),
    )


def _of_two(folders: Sequence[Path], with_images: bool, allow_code: bool) -> Compared:
    """The comparison of two runs, with the images that moved most where both have images in pairs."""
    found = compare(*folders, allow_code=allow_code)
    (pair,), (one,) = found.pairs, compared.read(found.to_dict())
    if not with_images:
        return one
    try:
        return replace(one, moved=pictures.of_moved(moved.moved(pair.base, pair.candidate)))
    except GenbenchError as error:
        _log.warning("The pairs that moved most are not shown: %s", error)
        return one


def _title(made: Sequence[Board]) -> str:
    places = dict.fromkeys(board.dataset for board in made)
    return f"Results on {', '.join(places)}" if places else "Comparison"


def _read(source: Path, found: _Found, images: int) -> None:
    if source.suffix == ".csv":
        for row in leaderboard.sound(source):
            found.add(row)
    elif source.suffix == ".png":
        found.shots += [pictures.of_strip(source, images)] if images else []
    elif source.suffix == ".json" and source.name != "result.json":
        found.documents.append(_document(source))
    else:
        folder = source.parent if source.name == "result.json" else source
        if not folder.is_dir():
            raise InputRejected(
                f"{shown(source)} is nothing that a page shows; give a run, a directory of runs, a CSV of rows, "
                "a JSON of `genbench compare`, or a strip of images (PNG)."
            )
        if (folder / "result.json").exists():
            folders = [folder]
            found.named.append(folder)
        else:
            folders = sorted(path.parent for path in folder.glob("*/result.json"))
        if not folders:
            raise InputRejected(f"{shown(source)} holds no results; measure a run by `genbench run` first.")
        for one in folders:
            _read_run(one, found, images)


def _read_run(folder: Path, found: _Found, images: int) -> None:
    results = list(report.read_results(folder, refuse=True).values())
    if not results:
        raise InputRejected(f"{shown(folder / 'result.json')} holds no results; measure the run anew, or leave it out.")
    for result in results:
        row = report.row(result)
        found.add(row)
        seconds = result.environment.get("sampling_seconds")
        if isinstance(seconds, int | float) and result.generated.count:
            found.seconds[row["dataset"], row["model"], row["precision"]] = seconds / result.generated.count
    if images:
        found.shots += pictures.of_run(folder, results[0].spec, images)


def _document(path: Path) -> Mapping[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["schema"] != COMPARISON:
            raise ValueError(f"its schema is {told['schema']}")
        compared.read(told)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise InputRejected(
            f"{shown(path)} is no comparison ({shown(reason)}); give what `genbench compare --format json` wrote."
        ) from error
    return told
