"""Leaderboards for people: Markdown, HTML and a table of means, in groups of ties in place of ranks.

Numbers are put in order within one ranking alone: one data set, one number of samples, one metric and extractor, one
protocol, and one kind, so that measured and reported numbers never meet. Means over seeds exist here only.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from genbench import differences, registry, tables, uncertainty
from genbench.display import rounded
from genbench.errors import GenbenchError, NotComparable, UsageError, shown
from genbench.records import Ref, Score

Row = Mapping[str, str]

COLUMNS = (
    "kind", "dataset", "num_samples", "metric", "extractor", "protocol_hash", "model", "precision", "evaluations",
    "seeds", "value", "stderr", "ci_low", "ci_high", "group", "floor",
)  # fmt: skip
"""Columns of the table of means."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A system in a ranking.

    Attributes:
        model: its reference; of images that were scored, their name.
        precision, evaluations: of its sampling, as the rows say, empty where they do not.
        seeds: rows that the mean is of.
        score: of one row as it is; of several the mean, with the standard error over seeds and Student's interval.
        groups: letters of the groups of ties that it is in, empty where there is no order.
        rows: what the score is of.
    """

    model: str
    precision: str
    evaluations: str
    seeds: int
    score: Score
    groups: str = ""
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Systems whose numbers may be put in order.

    Attributes:
        higher_is_better: None where no end is better. There is no order then.
        standings: the best first; by model where there is no order.
        floor: of real held-out images, None where there is none.
    """

    kind: str
    dataset: str
    num_samples: str
    metric: str
    extractor: str
    protocol_hash: str
    higher_is_better: bool | None
    standings: tuple[Standing, ...]
    floor: Score | None

    @property
    def section(self) -> tuple[str, str, str]:
        """What rankings of one table have in common."""
        return self.kind, self.dataset, self.num_samples


def rankings(rows: Sequence[Row]) -> tuple[Ranking, ...]:
    """The rankings of a leaderboard, those of one section together, metrics in the order of the rows.

    Args:
        rows: with the columns of `genbench.report.COLUMNS`, whose cells were looked at by `genbench.leaderboard.check`.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        place = row["dataset"] or row["reference"]
        key = (row["kind"], place, row["num_samples"], row["metric"], row["extractor"], row["protocol_hash"])
        groups.setdefault(key, []).append(row)
    found = [_ranking(key, some) for key, some in groups.items()]
    # Measured numbers stand before reported ones.
    return tuple(sorted(found, key=lambda one: (one.kind, one.dataset, int(one.num_samples))))


def _ranking(key: tuple[str, ...], rows: Sequence[Row]) -> Ranking:
    kind, dataset, count, metric, extractor, hashed = key
    systems: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        systems.setdefault((row["model"] or row["generated"], row["precision"]), []).append(row)
    standings = [
        Standing(
            model=model,
            precision=precision,
            evaluations=some[0]["evaluations"],
            seeds=len(some),
            score=_score(some),
            rows=tuple(some),
        )
        for (model, precision), some in systems.items()
    ]
    better = _higher_is_better(metric) if kind == "measured" else None
    floors = [row for row in rows if row["floor"]]
    return Ranking(
        kind=kind,
        dataset=dataset,
        num_samples=count,
        metric=metric,
        extractor=extractor,
        protocol_hash=hashed,
        higher_is_better=better,
        standings=tuple(_ordered(standings, better)),
        floor=_floor(floors[0]) if floors else None,
    )


def _floor(row: Row) -> Score:
    return Score(value=float(row["floor"]), stderr=_number(row["floor_stderr"]))


def _number(text: str) -> float | None:
    return float(text) if text else None


def _score(rows: Sequence[Row]) -> Score:
    """The score of a row, or the mean of several seeds with the error over them."""
    if len(rows) == 1:
        (row,) = rows
        interval = (float(row["ci_low"]), float(row["ci_high"])) if row["ci_low"] else None
        return Score(
            value=float(row["value"]), stderr=_number(row["stderr"]), ci95=interval, error_method=row["error_method"]
        )
    values = np.array([float(row["value"]) for row in rows])
    mean, stderr = float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
    half = uncertainty.quantile(len(values) - 1) * stderr
    return Score(value=mean, stderr=stderr, ci95=(mean - half, mean + half), error_method=f"over {len(rows)} seeds")


def _higher_is_better(metric: str) -> bool | None:
    name = Ref.parse(metric).name
    if ":" in name:
        return None
    try:
        better: bool | None = registry.get("metric", name).higher_is_better
    except GenbenchError:
        return None
    return better


def _ordered(standings: Sequence[Standing], better: bool | None) -> list[Standing]:
    by_name = {f"{one.model} {one.precision}": one for one in sorted(standings, key=lambda s: (s.model, s.precision))}
    if better is None:
        return list(by_name.values())
    try:
        found = differences.ties(
            {name: one.score for name, one in by_name.items()}, higher_is_better=better, in_pairs=False
        )
    except NotComparable:
        return list(by_name.values())
    letters = {name: [_letter(i) for i, group in enumerate(found.groups) if name in group] for name in found.order}
    return [replace(by_name[name], groups=" ".join(letters[name])) for name in found.order]


def _letter(number: int) -> str:
    """a to z, then aa, ab and so on."""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, len(_LETTERS))
        text = _LETTERS[rest] + text
    return text


# --- forms ------------------------------------------------------------------------------------------------------------


NOTES = (
    "Systems that share a letter in a column are not told apart there; a is the best group (intervals of independent "
    "images, two-sided, Holm over the pairs of the column, 5 %).",
    "Errors are standard errors over the images of a seed; where a system has several seeds, the value is their mean "
    "and the error is that of the mean over seeds. They do not cover another training.",
)


def render(
    rows: Sequence[Row],
    *,
    title: str,
    form: Literal["md", "html", "csv"],
    source: str = "",
    names: Mapping[str, tuple[str, str]] | None = None,
) -> str:
    """A leaderboard as a text.

    Args:
        rows: see `rankings`.
        title: for people.
        source: name of the file of the rows, for a line that says where the text comes from.
        names: by system, its name and link, see `genbench.leaderboard.names_of`. The table of means has none.
    """
    found = rankings(rows)
    if form == "csv":
        return _csv(found)
    known = spelt_out(names or {})
    return {"md": _markdown, "html": _html}[form](found, title, source, known)


def spelt_out(names: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """The names of systems, those of one way to sample a model also under all its arguments, as rows have them."""
    known = dict(names)
    for name, told in names.items():
        try:
            known[str(registry.written_out("model", name))] = told
        except UsageError:
            continue  # of images that were scored
    return known


def name_and_link(model: str, names: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    """Name and link of a system: those of this way to sample it, else those of its model, else none."""
    return names.get(model) or names.get(model.partition("(")[0], ("", ""))


def _csv(found: Sequence[Ranking]) -> str:
    rows = []
    for one in found:
        for standing in one.standings:
            score = standing.score
            low, high = score.ci95 or (None, None)
            values = {
                "kind": one.kind, "dataset": one.dataset, "num_samples": int(one.num_samples), "metric": one.metric,
                "extractor": one.extractor, "protocol_hash": one.protocol_hash, "model": standing.model,
                "precision": standing.precision, "evaluations": _number(standing.evaluations), "seeds": standing.seeds,
                "value": score.value, "stderr": score.stderr, "ci_low": low, "ci_high": high,
                "group": standing.groups, "floor": one.floor.value if one.floor else None,
            }  # fmt: skip
            rows.append({name: tables.cell(value) for name, value in values.items()})
    return tables.text(COLUMNS, rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """One table: a row a system, a column a ranking, the floors below."""

    heading: str
    models: tuple[str, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    floors: tuple[str, ...]


def _sections(found: Sequence[Ranking]) -> list[_Section]:
    sections = []
    for key in dict.fromkeys(one.section for one in found):
        kind, dataset, count = key
        some = [one for one in found if one.section == key]
        systems = {
            (_evaluations(s), s.model, s.precision): s.evaluations for one in some for s in one.standings
        }  # fmt: skip
        rows = []
        for place in sorted(systems):
            cells = [next((s for s in one.standings if (_evaluations(s), s.model, s.precision) == place), None)
                     for one in some]  # fmt: skip
            seeds = sorted({cell.seeds for cell in cells if cell is not None})
            name = place[1] + (f" in {place[2]}" if place[2] not in ("", "float32") else "")
            told = " or ".join(map(str, seeds))
            rows.append((name, systems[place], told, *(_cell(cell) for cell in cells)))
        floors = tuple(_value(one.floor) if one.floor else "" for one in some)
        sections.append(
            _Section(
                heading=f"{kind.capitalize()}: {dataset}, {count} samples",
                models=tuple(place[1] for place in sorted(systems)),
                header=("model", "evaluations", "seeds", *_headings(some)),
                rows=tuple(rows),
                floors=floors,
            )
        )
    return sections


def _evaluations(standing: Standing) -> float:
    return float(standing.evaluations) if standing.evaluations else math.inf


def names(some: Sequence[Ranking]) -> list[str]:
    """The metrics by name. Those of one name with extractor, arguments or hash as far as these differ."""
    plain = [Ref.parse(one.metric).name for one in some]
    with_extractor = [
        f"{name}@{one.extractor}" if one.extractor else name for name, one in zip(plain, some, strict=True)
    ]
    found = [a if plain.count(a) == 1 else b for a, b in zip(plain, with_extractor, strict=True)]
    found = [a if found.count(a) == 1 else f"{a} {one.metric}" for a, one in zip(found, some, strict=True)]
    return [a if found.count(a) == 1 else f"{a} {one.protocol_hash}" for a, one in zip(found, some, strict=True)]


def _headings(some: Sequence[Ranking]) -> list[str]:
    arrows = {True: " (higher)", False: " (lower)", None: ""}
    return [name + arrows[one.higher_is_better] for name, one in zip(names(some), some, strict=True)]


def _value(score: Score) -> str:
    error = score.stderr
    return rounded(score.value, error) + ("" if error is None else f" ± {rounded(error, error)}")


def _cell(standing: Standing | None) -> str:
    if standing is None:
        return ""
    return _value(standing.score) + (f" {standing.groups}" if standing.groups else "")


def _markdown(found: Sequence[Ranking], title: str, source: str, names: Mapping[str, tuple[str, str]]) -> str:
    lines = [f"# {_plain(title)}", ""]
    if source:
        lines += [f"Made from {_code(source)} by `genbench leaderboard render`. Do not edit.", ""]
    lines += [*(f"- {note}" for note in NOTES), ""]
    for section in _sections(found):
        lines += [f"## {_plain(section.heading)}", ""]
        lines.append(f"| {' | '.join(map(_plain, section.header))} |")
        lines.append("|---" + "|---:" * (len(section.header) - 1) + "|")
        for model, (name, *cells) in zip(section.models, section.rows, strict=True):
            told, link = name_and_link(model, names)
            told = f"[{_plain(told or 'link')}]({link}) " if link else f"{_plain(told)} " if told else ""
            lines.append(f"| {told}{_code(name)} | {' | '.join(map(_plain, cells))} |")
        if any(section.floors):
            lines.append(f"| *real held-out images (floor)* | | | {' | '.join(section.floors)} |")
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _plain(text: str) -> str:
    """Text without meaning for Markdown or HTML."""
    told = html.escape(shown(text), quote=False)
    return "".join(f"\\{c}" if c in "\\`*_[]|#~" else c for c in told)


def _code(text: str) -> str:
    """A code span in a table: bars are escaped, and backquotes, which would end it, are none."""
    return f"`{shown(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); padding: .3rem .7rem; }
th { text-align: left; }
td + td, th + th { text-align: right; white-space: nowrap; }
tfoot td { font-style: italic; }
"""


def _html(found: Sequence[Ranking], title: str, source: str, names: Mapping[str, tuple[str, str]]) -> str:
    e = html.escape
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{e(shown(title))}</title><style>{_STYLE}</style></head><body><h1>{e(shown(title))}</h1>",
        *([f"<p>Made from {e(shown(source))} by genbench leaderboard render.</p>"] if source else []),
        f"<ul>{''.join(f'<li>{e(note)}</li>' for note in NOTES)}</ul>",
    ]
    for section in _sections(found):
        head = "".join(f'<th scope="col">{e(shown(cell))}</th>' for cell in section.header)
        body = "".join(
            f'<tr><th scope="row">{_linked(*name_and_link(model, names))}<code>{e(shown(name))}</code></th>'
            + "".join(f"<td>{e(shown(cell))}</td>" for cell in cells)
            + "</tr>"
            for model, (name, *cells) in zip(section.models, section.rows, strict=True)
        )
        floors = "".join(f"<td>{e(cell)}</td>" for cell in section.floors)
        foot = f"<tfoot><tr><td>real held-out images (floor)</td><td></td><td></td>{floors}</tr></tfoot>"
        parts.append(
            f'<h2>{e(shown(section.heading))}</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody>{foot if any(section.floors) else ''}</table></div>"
        )
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _linked(name: str, link: str) -> str:
    """Name and link before the model of a row."""
    text = html.escape(shown(name or ("link" if link else "")))
    return f'<a href="{html.escape(link)}">{text}</a> ' if link else f"{text} " if text else ""
