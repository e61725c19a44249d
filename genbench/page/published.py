"""Numbers of papers beside the systems of a page; `genbench.papers` says why they may not stand in one order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genbench import papers, registry, report
from genbench.errors import shown
from genbench.leaderboard import spec_of
from genbench.page.boards import Board, Name
from genbench.records import Ref, Result, Score, Side
from genbench.standings import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A number of a paper beside a system of the page, and why the two may not be put in order."""

    name: Name
    system: str
    dataset: str
    metric: str
    value: str
    citation: str
    link: str
    comparable: bool
    reasons: tuple[str, ...]


def beside(boards: Sequence[Board]) -> list[Published]:
    """What the papers of the systems print, on whatever data set, with the reasons against an order.

    Beside a number stands the system of its model that has the fewest reasons, the first of several.
    """
    found: dict[tuple[str, papers.Reported], Published] = {}
    measured = [system for board in boards if board.kind == "measured" for system in board.systems]
    for system in measured:
        for cell in system.cells:
            if cell is None or not (row := cell.rows[0])["model"] or ":" in Ref.parse(row["model"]).name:
                continue
            result = _as_result(row)
            for one in _rows_of_papers(row, result):
                key = (system.name.family, one)
                verdict, reasons = papers.comparable(result, one)
                if key in found and len(found[key].reasons) <= len(reasons):
                    continue
                found[key] = Published(
                    name=system.name,
                    system=shown(f"{one.system}{f', {one.variant}' if one.variant else ''}"),
                    dataset=shown(f"{one.dataset}{f' {one.resolution}' if one.resolution else ''}"),
                    metric=shown(one.metric),
                    value=f"{one.value:.10g}",
                    citation=shown(one.citation),
                    link=f"https://arxiv.org/abs/{one.arxiv}" if one.arxiv else "",
                    comparable=verdict,
                    reasons=tuple(map(shown, reasons)),
                )
    return sorted(found.values(), key=lambda one: (one.name.family, one.dataset, one.metric, one.system))


def _rows_of_papers(row: Row, result: Result) -> list[papers.Reported]:
    """The number for the data set of the row or, where the papers have none on it, those on other data sets."""
    model, metric = Ref.parse(row["model"]), report.measured(result)
    name = Ref.parse(row["dataset"]).name
    here = papers.lookup(model, metric, name)
    if here is not None:
        return [here]
    if Ref.parse(row["metric"]).name != "fid":
        return []
    others = (papers.lookup(model, "fid", other) for other in registry.table("dataset") if other != name)
    return [one for one in others if one is not None]


def _as_result(row: Row) -> Result:
    """What a row says of its result, for a verdict of `genbench.papers.comparable`; the weights are not in a row."""
    spec = spec_of(row)
    number = row["num_reference"]
    return Result(
        metric=row["metric"],
        metric_version=int(row["metric_version"]),
        extractor=row["extractor"] or None,
        extractor_key=None,
        score=Score(value=float(row["value"])),
        floor=None,
        generated=Side(name=row["generated"], count=spec.num_samples, digest="", quantise=row["quantise"] or None),
        reference=Side(name=row["reference"], count=int(number) if number else None, digest="")
        if row["reference"]
        else None,
        protocol=row["protocol"],
        protocol_hash=row["protocol_hash"],
        higher_is_better=None,
        spec=spec,
        seconds=0.0,
        created=row["date"],
        environment={},
    )
