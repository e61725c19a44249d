"""Boards: systems whose numbers may be put in order, with their names, sweeps, protocols and commands.

No ranking is made here: orders and ties are those of `genbench.standings`.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from genbench import comparability, registry, standings
from genbench.errors import UsageError, shown
from genbench.leaderboard import IDENTITIES_SINCE
from genbench.records import Ref, Score
from genbench.standings import Ranking, Row, Standing

SWEPT = 3
"""Values of an argument from which on a system that was measured at them is a curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A system as people call it.

    Attributes:
        text: without arguments that have their defaults, such as "ddim(steps=20)".
        full: the reference with everything written out; of images that were scored, their name.
        family: the name of the model alone, by which systems have a colour and a mark.
        title, link: what a file of names says of the family, empty without one. A link begins with https://.
    """

    text: str
    full: str
    family: str
    title: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A measured number of a run, to the last digit.

    Attributes:
        metric: its name on the board.
        row: of the leaderboard.
    """

    metric: str
    row: Row


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A row of a board.

    Attributes:
        anchor: where the page tells how its numbers were made.
        evaluations, seconds: network evaluations, and seconds of sampling, of an image; None where they are not known.
        cells: its standing in every column, None where it has none.
        numbers: all that the cells are made of.
        commands: that make the numbers again, a line each.
    """

    anchor: str
    name: Name
    evaluations: float | None
    seconds: float | None
    seeds: str
    cells: tuple[Standing | None, ...]
    numbers: tuple[Number, ...]
    commands: tuple[str, ...]

    @property
    def device(self) -> str:
        """Where it was sampled and measured, as its rows say."""
        return self.numbers[0].row["device"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A ranking on a board.

    Attributes:
        name: such as "fid", with as much more as tells it from the others.
        rank: the order that it has, see `genbench.standings`.
        facts: how it was measured, label to text.
    """

    name: str
    rank: Ranking
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A system measured at several values of one argument, all else equal.

    Attributes:
        argument: such as "steps".
        name: of the system without that argument.
        points: (value of the argument, score), by the value.
    """

    argument: str
    name: str
    family: str
    points: tuple[tuple[float, Score], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """Systems whose numbers of a metric may be put in order.

    Attributes:
        title: the data set, with as much more as tells the board from others of the page.
        kind: "measured" or "reported".
        apart: why this board stands apart from an earlier one of the same data set, empty where none does.
        sweeps: of every column.
    """

    anchor: str
    title: str
    kind: str
    dataset: str
    num_samples: int
    apart: str
    days: tuple[str, str]
    columns: tuple[Column, ...]
    systems: tuple[System, ...]
    sweeps: tuple[tuple[Sweep, ...], ...]

    @property
    def has_evaluations(self) -> bool:
        """Whether evaluations are known of any system."""
        return any(system.evaluations is not None for system in self.systems)

    @property
    def has_seconds(self) -> bool:
        """Whether seconds are known of any system."""
        return any(system.seconds is not None for system in self.systems)

    @property
    def has_seeds(self) -> bool:
        """Whether any system was sampled with several seeds."""
        return any(system.seeds != "1" for system in self.systems)

    @property
    def has_floor(self) -> bool:
        """Whether any column has a floor."""
        return any(column.rank.floor is not None for column in self.columns)


# --- names ------------------------------------------------------------------------------------------------------------


class Naming:
    """Names for all systems of a page, no two alike.

    A name has the arguments by which the systems of a model on the page differ, as far as these are not defaults, and
    numbers of which there are `SWEPT` or more in any case. Where all are defaults, it has all by which systems differ.
    """

    def __init__(self, rows: Sequence[Row], models: Sequence[str], known: Mapping[str, tuple[str, str]]) -> None:
        self._known = standings.spelt_out(known)
        named = [*((row["model"], row["generated"]) for row in rows), *((model, "") for model in models)]
        refs = {model: registry.written_out("model", model) for model, _ in named if model}
        self._text = {generated: shown(generated) for model, generated in named if not model}
        briefs = {
            full: shown(_differing(ref, [r for r in refs.values() if r.name == ref.name])) for full, ref in refs.items()
        }
        used = list(briefs.values())
        self._text |= {full: text if used.count(text) == 1 else shown(full) for full, text in briefs.items()}

    def __call__(self, full: str, precision: str = "") -> Name:
        family = full.partition("(")[0]
        title, link = standings.name_and_link(full, self._known)
        text = self._text[full]
        if title:
            of_family = (title, link) == self._known.get(family)
            text = title + (text.removeprefix(shown(family)) if of_family else "")
        text += f" in {precision}" if precision not in ("", "float32") else ""
        return Name(text=text, full=shown(full), family=shown(family), title=title, link=link)


def _differing(ref: Ref, family: Sequence[Ref]) -> Ref:
    """The reference with what tells it from others of its model."""
    values = {name: {repr(other.args.get(name)) for other in family} for name in ref.args}
    own = ref.brief().args
    if len({str(other) for other in family}) == 1:
        return Ref(ref.name, {name: value for name, value in ref.args.items() if name in own})
    varied = {name: value for name, value in ref.args.items() if len(values[name]) > 1}
    many = {name for name, value in varied.items() if is_number(value) and len(values[name]) >= SWEPT}
    return Ref(ref.name, {name: value for name, value in varied.items() if name in own or name in many} or varied)


# --- boards -----------------------------------------------------------------------------------------------------------


def made(rows: Sequence[Row], naming: Naming, seconds: Mapping[tuple[str, str, str], float]) -> tuple[Board, ...]:
    """The boards of all rows, measured ones before reported ones, and those of most numbers first.

    Args:
        rows: see `genbench.standings.rankings`.
        seconds: of sampling, an image, by data set, model and precision, as far as they are known.
    """
    found: list[Board] = []
    for group in sorted(_together(standings.rankings(rows)), key=_place):
        earlier = next((b for b in found if b.columns[0].rank.section == group[0].section), None)
        found.append(_board(f"board-{len(found) + 1}", group, naming, seconds, earlier))
    return tuple(
        replace(board, title=_board_title(board, [one for one in found if one is not board])) for board in found
    )


def _place(group: Sequence[Ranking]) -> tuple[bool, int]:
    return group[0].kind == "reported", -sum(len(ranking.standings) for ranking in group)


def _board_title(board: Board, others: Sequence[Board]) -> str:
    """The data set; where others have the same, with the number of images and the first day of measurement."""
    parts = [board.dataset] + (["reported"] if board.kind == "reported" else [])
    same = [one for one in others if (one.dataset, one.kind) == (board.dataset, board.kind)]
    if any(one.num_samples != board.num_samples for one in same):
        parts.append(f"{board.num_samples:,} images")
    alike = [one for one in same if one.num_samples == board.num_samples]
    if alike:
        parts.append(board.days[0])
    if any(one.days[0] == board.days[0] for one in alike):
        parts.append(board.columns[0].rank.protocol_hash[:8])
    return ", ".join(parts)


def _together(rankings: Sequence[Ranking]) -> list[list[Ranking]]:
    """Rankings that make one table: of one section, each metric once, and as far as possible of the same runs."""
    groups: list[list[Ranking]] = []
    for one in rankings:
        free = [
            group
            for group in groups
            if group[0].section == one.section
            and all((other.metric, other.extractor) != (one.metric, one.extractor) for other in group)
        ]
        # A metric is on the board with which it shares most runs; the earlier one of several.
        best = max(free, key=lambda group: max(len(_runs(one) & _runs(other)) for other in group), default=None)
        if best is None or not any(_runs(one) & _runs(other) for other in best):
            groups.append([one])
        else:
            best.append(one)
    return groups


def _runs(ranking: Ranking) -> set[tuple[str, ...]]:
    names = ("model", "generated", "precision", "seed", "genbench", "commit", "date")
    return {tuple(row[name] for name in names) for standing in ranking.standings for row in standing.rows}


def _board(
    anchor: str,
    group: Sequence[Ranking],
    naming: Naming,
    seconds: Mapping[tuple[str, str, str], float],
    earlier: Board | None,
) -> Board:
    names = standings.names(group)
    columns = tuple(
        Column(name=shown(name), rank=one, facts=_facts(one)) for name, one in zip(names, group, strict=True)
    )
    keys = sorted(
        {(_number(s.evaluations, math.inf), s.model, s.precision) for one in group for s in one.standings},
        key=lambda key: (key[0], _natural(key[1]), key[2] != "float32", key[2]),
    )
    systems = []
    for place, (evaluations, model, precision) in enumerate(keys, 1):
        cells = tuple(
            next((s for s in one.standings if (s.model, s.precision) == (model, precision)), None) for one in group
        )
        numbers = tuple(
            Number(metric=column.name, row=row)
            for column, cell in zip(columns, cells, strict=True)
            if cell is not None
            for row in cell.rows
        )
        seeds = sorted({cell.seeds for cell in cells if cell is not None})
        systems.append(
            System(
                anchor=f"{anchor}-{place}",
                name=naming(model, precision),
                evaluations=evaluations if math.isfinite(evaluations) else None,
                seconds=seconds.get((group[0].dataset, model, precision)),
                seeds=" or ".join(map(str, seeds)),
                cells=cells,
                numbers=numbers,
                commands=tuple(_commands([number.row for number in numbers])),
            )
        )
    dates = [number.row["date"] for system in systems for number in system.numbers]
    return Board(
        anchor=anchor,
        title="",
        kind=group[0].kind,
        dataset=shown(group[0].dataset),
        num_samples=int(group[0].num_samples),
        apart=_apart(group, earlier),
        days=(min(dates), max(dates)),
        columns=columns,
        systems=tuple(systems),
        sweeps=tuple(tuple(_sweeps(column.rank)) for column in columns),
    )


def _number(text: str, default: float) -> float:
    return float(text) if text else default


def _natural(text: str) -> list[str | float]:
    """Sort key by which 2 stands before 10: texts and numbers by turns."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [float(part) if number % 2 else part for number, part in enumerate(parts)]


def _apart(group: Sequence[Ranking], earlier: Board | None) -> str:
    """What was measured unlike on an earlier board of the same data set and number of images."""
    if earlier is None:
        return ""
    others = {(column.rank.metric, column.rank.extractor): column.rank for column in earlier.columns}
    for one in group:
        other = others.get((one.metric, one.extractor))
        if other is None:
            continue
        rows = other.standings[0].rows[0], one.standings[0].rows[0]
        try:
            found = comparability.differing_rows(*rows)
        except UsageError:
            continue
        first = min(row["date"] for row in rows)
        if [difference.field for difference in found] == ["protocol_hash"] and first < IDENTITIES_SINCE:
            return f"protocol hashes of before {IDENTITIES_SINCE} were made of other facts, so that nobody can tell"
        return shown("; ".join(map(str, found)))
    return "its metrics are others"


def _facts(ranking: Ranking) -> tuple[tuple[str, str], ...]:
    row = ranking.standings[0].rows[0]
    methods = dict.fromkeys(r["error_method"] for s in ranking.standings for r in s.rows)
    facts = {
        "metric": ranking.metric, "extractor": ranking.extractor, "protocol": row["protocol"],
        "protocol hash": ranking.protocol_hash, "images": ranking.num_samples, "reference images": row["num_reference"],
        "reference": row["reference"], "metric version": row["metric_version"], "error": ", ".join(methods),
    }  # fmt: skip
    return tuple((label, shown(text)) for label, text in facts.items() if text)


def quoted(word: str) -> str:
    """A word of a POSIX shell: in double quotes where that is easier to read and means the same."""
    if "'" in word and not set(word) & set('"$`\\!'):
        return f'"{word}"'
    return shlex.quote(word)


def _commands(rows: Sequence[Row]) -> list[str]:
    """A line a run, which measures all its numbers."""
    runs: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["model"] and row["kind"] == "measured":
            names = ("model", "dataset", "num_samples", "seed", "protocol", "precision", "exact", "quantise")
            runs.setdefault(tuple(row[name] for name in names), []).append(row)
    lines = []
    for (model, dataset, count, seed, protocol, precision, exact, quantise), some in sorted(
        runs.items(), key=lambda item: int(item[0][3])
    ):
        words = ["genbench", "run", "--model", model, "--dataset", dataset, "-n", count, "--seed", seed]
        words += ["--protocol", protocol]
        words += ["--precision", precision] if precision != "float32" else []
        words += ["--exact"] if exact == "True" else []
        words += ["--quantise", quantise] if quantise not in ("", "round") else []
        for row in some:
            words += ["--metric", f"{row['metric']}@{row['extractor']}" if row["extractor"] else row["metric"]]
        lines.append(shown(" ".join(map(quoted, words))))
    return lines


# --- sweeps -----------------------------------------------------------------------------------------------------------


def _sweeps(ranking: Ranking) -> list[Sweep]:
    """Systems that were measured at `SWEPT` or more values of one argument with all others equal."""
    groups: dict[tuple[str, str, str], dict[float, Standing]] = {}
    for standing in ranking.standings:
        try:
            ref = Ref.parse(standing.model)
        except UsageError:
            continue  # a name of images that were scored
        for argument, value in ref.args.items():
            if isinstance(value, int | float) and is_number(value):
                rest = Ref(ref.name, {name: other for name, other in ref.args.items() if name != argument})
                groups.setdefault((argument, str(rest), standing.precision), {})[float(value)] = standing
    found = []
    for (argument, rest_text, precision), points in groups.items():
        if len(points) >= SWEPT:
            brief = registry.written_out("model", rest_text).brief(without=(argument,))
            found.append(
                Sweep(
                    argument=shown(argument),
                    name=shown(brief) + (f" in {precision}" if precision not in ("", "float32") else ""),
                    family=shown(brief.name),
                    points=tuple((value, points[value].score) for value in sorted(points)),
                )
            )
    return sorted(found, key=lambda sweep: (sweep.argument, sweep.name))


def is_number(value: object) -> bool:
    """Whether an argument is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
