"""What a command gave, for a script, a notebook and a data frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from genbench import display, report
from genbench.records import Result, RunSpec

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Outcome(Sequence[Result]):
    """Results in the order that they were asked for, as a sequence.

    Attributes:
        spec: what was sampled, with every default written out, None where the images existed before.
        results: see `genbench.Result`.
        directory: runs/<id>, with samples, result.json, row.csv and grid.png, None where nothing was sampled.
        cached: whether nothing had to be sampled or measured.
    """

    spec: RunSpec | None = None
    results: tuple[Result, ...]
    directory: Path | None = None
    cached: bool = False

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Result, ...]: ...
    def __getitem__(self, index: int | slice) -> Result | tuple[Result, ...]:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def to_dict(self) -> dict[str, Any]:
        """The document of `genbench run --format json`: texts, numbers, lists and dicts alone, no NaN."""
        directory = str(self.directory) if self.directory else None
        return report.document(self.results, directory=directory, cached=self.cached)

    def to_frame(self) -> pandas.DataFrame:
        """One row a result, with the columns of a leaderboard and numbers as numbers. See `genbench.report.COLUMNS`."""
        import io

        import pandas

        return pandas.read_csv(io.StringIO(report.table_csv(self.results)))

    def __repr__(self) -> str:
        place = f", directory={str(self.directory)!r}" if self.directory else ""
        return f"<Outcome of {len(self)} results{place}>\n{display.table_text(self.results)}"

    def _repr_html_(self) -> str:
        """The table of the command line, for notebooks."""
        return display.html_table(*display.table_cells(self.results))
