"""Leaderboards of measured rows: made of runs, looked at with suspicion, recomputed, and shown in groups of ties.

A leaderboard is a CSV of `genbench.report.COLUMNS`, one row a number and a seed. Rows may come from other people, so
that nothing they name is imported as code unless the user says so.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from genbench import comparability, files, pipeline, registry, report, requests, tables, weights
from genbench.errors import GenbenchError, InputRejected, NotComparable, UsageError, nearest, shown
from genbench.measuring import Execution
from genbench.records import PRECISIONS, Measurement, Ref, Result, RunSpec, digest, from_toml

_log = logging.getLogger(__name__)

Row = Mapping[str, str]

IDENTITIES_SINCE = "2026-11-29"
"""Day since which ids and protocol hashes are made as today. Rows of earlier days stay, and cannot be checked by id."""
KINDS = ("measured", "reported")
WITHIN = 1.96
"""Standard errors within which a number that was measured again counts as the same system's."""


# --- build ------------------------------------------------------------------------------------------------------------


def build(sources: Sequence[Path], target: Path) -> int:
    """Merges the results of runs and the rows of other leaderboards into one. Returns its number of rows.

    Args:
        sources: folders of runs, directories of such folders, result.json files, and CSV files of rows.
        target: the CSV. Rows that it has stay, and one of the same id is replaced. Of two new rows of one id that
            differ in their value the later one counts, and a warning names both.

    Raises:
        InputRejected: a source without results, or of another form. Nothing is written then.
        NotComparable: two protocols in one ranking.
    """
    found = [row for source in sources for row in _rows_of(source)]
    by_id: dict[str, Row] = {}
    for row in sorted(found, key=lambda row: (row["date"], *(row[name] for name in report.COLUMNS))):
        other = by_id.get(row["id"])
        if other is not None and other["value"] != row["value"]:
            _log.warning(
                "The row %s of %s is there twice, with %s and %s; the later one of %s counts.",
                row["id"],
                shown(row["model"]),
                other["value"],
                row["value"],
                row["date"],
            )
        by_id[row["id"]] = row
    return tables.merge(
        target,
        report.COLUMNS,
        list(by_id.values()),
        identity=lambda row: row["id"],
        order=report.sort_key,
        check=comparability.check_rankings,
    )


def _rows_of(source: Path) -> list[Row]:
    if source.suffix == ".csv":
        return list(tables.read(source, report.COLUMNS))
    if source.name == "result.json":
        source = source.parent
    if not source.is_dir():
        raise InputRejected(f"{shown(source)} is neither a folder of runs nor a CSV of rows; give one.")
    if (source / "result.json").exists():
        return _results_in(source)
    folders = sorted(path.parent for path in source.glob("*/result.json"))
    without = sorted(path.parent for path in source.glob("*/samples") if not (path.parent / "result.json").exists())
    if without:
        names = ", ".join(path.name for path in without[:5]) + (", ..." if len(without) > 5 else "")
        _log.warning("%d runs in %s have no results and are left out: %s", len(without), shown(source), shown(names))
    rows = [row for folder in folders for row in _results_in(folder)]
    if not rows:
        raise InputRejected(f"{shown(source)} holds no results; give the folder of a run, or a directory of runs.")
    return rows


def _results_in(folder: Path) -> list[Row]:
    found = report.read_results(folder, refuse=True)
    if not found:
        raise InputRejected(f"{shown(folder / 'result.json')} holds no results; measure the run anew, or leave it out.")
    return [report.row(result) for result in found.values()]


def remove(path: Path, ids: Sequence[str]) -> list[Row]:
    """Removes rows from a leaderboard, all or none. Returns them.

    Args:
        ids: of rows, or how they begin.

    Raises:
        UsageError: an id of no row, or of several.
        InputRejected: no table with the columns of a leaderboard.
    """
    target = path.resolve()
    with files.locked(target.parent, patience=tables.PATIENCE):
        rows = tables.read(target, report.COLUMNS)
        gone = [row_of(rows, one) for one in dict.fromkeys(ids)]
        left = [row for row in rows if all(row is not one for one in gone)]
        files.atomic_write(target, tables.text(report.COLUMNS, left).encode())
    return [row for row in rows if any(row is one for one in gone)]


def names_of(path: Path) -> dict[str, tuple[str, str]]:
    """Names and links of systems for people, each (name, link), by the model that a row has.

    Args:
        path: a TOML file with a table a system, which has `name`, `link` or both: [ddim] for all rows of a model, or
            ["ddim(steps=10)"] for one way to sample it, or the name of images that were scored.

    Raises:
        InputRejected: something else, or a link that is not https.
    """
    try:
        told = from_toml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputRejected(f"Cannot read the names {shown(path)} ({shown(error)}).") from error
    found = {}
    for model, entry in told.items():
        texts = isinstance(entry, dict) and all(isinstance(text, str) for text in entry.values())
        if not texts or not entry or not entry.keys() <= {"name", "link"}:
            raise InputRejected(f"{shown(path)}: [{shown(model)}] has texts `name` and `link`, and nothing else.")
        link = entry.get("link", "")
        if link and not is_safe_link(link):
            raise InputRejected(f"{shown(path)}: the link of [{shown(model)}] must begin with https://.")
        found[model] = (shown(entry.get("name", "")), link)
    return found


def is_safe_link(text: str) -> bool:
    """Whether a browser that follows the text goes to another site by https, and does nothing else."""
    return text.startswith("https://") and text.isprintable() and not any(c in text for c in " \"'<>\\`()[]|")


# --- check ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a look at a leaderboard found.

    Attributes:
        rows: number of rows.
        problems: what is wrong, a sentence each.
        unlike: protocols that stand in one ranking, a sentence each.
        notes: what could not be checked, a sentence each.
    """

    rows: int
    problems: tuple[str, ...]
    unlike: tuple[str, ...]
    notes: tuple[str, ...]

    def refuse(self) -> None:
        """Raises InputRejected for problems, and NotComparable where there are only protocols that do not agree."""
        if self.problems:
            raise InputRejected(f"{len(self.problems) + len(self.unlike)} problems in {self.rows} rows.")
        if self.unlike:
            raise NotComparable(f"{len(self.unlike)} rankings hold numbers of two protocols.")


_NUMBER = re.compile(r"-?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"\d{1,18}", re.ASCII)


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and math.isfinite(float(text))


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _is_ref(text: str) -> bool:
    try:
        Ref.parse(text)
    except UsageError:
        return False
    return True


def _hex(digits: int) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(rf"[0-9a-f]{{{digits}}}", text) is not None


def _one_of(*words: str) -> Callable[[str], bool]:
    return lambda text: text in words


_FORMS: dict[str, tuple[Callable[[str], bool], str]] = {
    **dict.fromkeys(("model", "dataset", "metric", "extractor"), (_is_ref, "a reference such as ddim(steps=50)")),
    **dict.fromkeys(("num_samples", "num_reference", "seed", "metric_version"), (
        lambda text: _WHOLE.fullmatch(text) is not None, "a whole number",
    )),
    **dict.fromkeys(("value", "ci_low", "ci_high", "floor"), (_is_number, "a finite number")),
    **dict.fromkeys(("stderr", "floor_stderr", "evaluations", "seconds"), (
        lambda text: _is_number(text) and float(text) >= 0, "a number of at least 0",
    )),
    "protocol_hash": (_hex(16), "16 hexadecimal digits"), "id": (_hex(12), "12 hexadecimal digits"),
    "precision": (_one_of(*PRECISIONS), " or ".join(PRECISIONS)),
    "quantise": (_one_of("round", "truncate"), "round or truncate"),
    "exact": (_one_of("True", "False"), "True or False"),
    "kind": (_one_of(*KINDS), "measured or reported"), "date": (_is_day, "a day such as 2026-01-31"),
}  # fmt: skip
"""Column to what a cell of it must be, and the words for that."""
_NEVER_EMPTY = ("metric", "protocol", "num_samples", "metric_version", "value", "kind", "date", "id", "protocol_hash")
_OF_A_RUN = ("model", "dataset", "seed", "precision", "exact", "evaluations")
"""Columns that are empty all together, where images were scored that existed before."""


def check(path: Path) -> Verdict:
    """Looks at every row of a leaderboard, and says everything that is wrong.

    Columns, types and ranges of cells, bounds of the metrics, intervals, order, duplicates, formulas and control
    characters, two protocols in one ranking, and ids that do not follow from their rows.

    Raises:
        InputRejected: no table with the columns of a leaderboard.
    """
    rows = tables.read(path, report.COLUMNS)
    problems, readable = [], []
    for number, row in enumerate(rows, 1):
        found = [*_wrong_cells(row), *_wrong_together(row)]
        problems += [f"row {number} ({shown(row['id']) or 'no id'}): {told}" for told in found]
        if not found:
            readable.append(row)
    problems += _duplicates(rows)
    if [*rows] != sorted(rows, key=report.sort_key):
        first = next(
            i
            for i, pair in enumerate(zip(rows, sorted(rows, key=report.sort_key), strict=True), 1)
            if pair[0] is not pair[1] and pair[0] != pair[1]
        )
        problems.append(f"row {first} is out of order; rows are sorted by data set, model, metric, extractor and seed.")
    unlike = _unlike(readable)
    wrong, notes = _wrong_ids(readable)
    return Verdict(
        rows=len(rows),
        problems=tuple(problems + wrong),
        unlike=tuple(unlike),
        notes=tuple(notes),
    )


def sound(path: Path) -> list[dict[str, str]]:
    """The rows of a leaderboard whose every cell can be read; order, ids and protocols are not looked at.

    Raises:
        InputRejected: a row that is wrong. The message names the first.
    """
    rows = tables.read(path, report.COLUMNS)
    for number, row in enumerate(rows, 1):
        for told in itertools.chain(_wrong_cells(row), _wrong_together(row)):
            raise InputRejected(f"{shown(path)}, row {number} ({shown(row['id'])}): {told}")
    return rows


def _wrong_cells(row: Row) -> Iterable[str]:
    for name, text in row.items():
        if any(not c.isprintable() for c in text):
            yield f"{name} holds a control character: {shown(text)[:80]!r}."
        form, words = _FORMS.get(name, (None, ""))
        if text == "":
            if name in _NEVER_EMPTY and not (name == "protocol_hash" and row["kind"] == "reported"):
                yield f"{name} is empty."
        elif form is not None and not form(text):
            yield f"{name} is {words}; it has {shown(text)[:80]!r}."
        elif form is None and text[:1] in tables.FORMULA:
            yield f"{name} begins like a formula of a spreadsheet: {shown(text)[:80]!r}."


def _wrong_together(row: Row) -> Iterable[str]:
    empty = [name for name in _OF_A_RUN if row[name] == ""]
    # A sampler that chooses its steps has no number of them where it only told likelihoods.
    if row["kind"] == "measured" and empty not in ([], ["evaluations"]) and len(empty) < len(_OF_A_RUN):
        yield f"{', '.join(empty)} is empty, and the row is of a run."
    low, high = row["ci_low"], row["ci_high"]
    if (low == "") != (high == ""):
        yield "it has one end of an interval alone."
    elif low and _is_number(low) and _is_number(high) and float(low) > float(high):
        yield f"its interval begins at {low} and ends at {high}."
    for name in ("num_samples", "metric_version", "num_reference"):
        if _WHOLE.fullmatch(row[name]) and int(row[name]) == 0:
            yield f"{name} is 0."
    metric = _metric(row["metric"])
    if metric is not None:
        for name in ("value", "floor"):
            low_bound, high_bound = metric.bounds
            slack = 1e-6 * max(1.0, abs(low_bound) if math.isfinite(low_bound) else 0.0)
            if _is_number(row[name]) and not low_bound - slack <= float(row[name]) <= high_bound + slack:
                yield f"{name} {row[name]} lies outside [{low_bound:g}, {high_bound:g}], the range of {metric.name}."


def _metric(text: str) -> Any:
    """The metric that a row names, None where it is code of somebody, or not known here."""
    if not _is_ref(text) or ":" in Ref.parse(text).name:
        return None
    try:
        return registry.get("metric", Ref.parse(text).name)
    except GenbenchError:
        return None


def _duplicates(rows: Sequence[Row]) -> list[str]:
    told: list[str] = []
    ids: dict[str, int] = {}
    cells: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(rows, 1):
        if row["id"] in ids:
            told.append(f"row {number} has the id {shown(row['id'])} of row {ids[row['id']]}; an id is there once.")
        names = (*_OF_A_RUN, "metric", "extractor", "protocol_hash", "num_samples", "quantise", "kind")
        same = tuple(row[name] for name in names)
        if row["model"] and same in cells and row["id"] not in ids:
            told.append(f"row {number} measures the same as row {cells[same]}, under another id.")
        ids.setdefault(row["id"], number)
        cells.setdefault(same, number)
    return told


def _unlike(rows: Sequence[Row]) -> list[str]:
    told = []
    for (dataset, metric, extractor), some in _grouped(
        (row for row in rows if row["kind"] == "measured"),
        lambda row: (row["dataset"] or row["reference"], Ref.parse(row["metric"]).name, row["extractor"].split("(")[0]),
    ).items():
        try:
            comparability.check_rankings([], some)
        except NotComparable as error:
            told.append(f"{metric}@{extractor} on {shown(dataset)}: {error}")
    return told


def _grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def _wrong_ids(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """Ids that do not follow from their rows; and how many could not be checked, by reason."""
    wrong: list[str] = []
    not_checked: dict[str, int] = {}
    keys: dict[tuple[str, str, str], str | GenbenchError] = {}
    for row in rows:
        reason = None
        if row["kind"] == "reported":
            reason = "are reported numbers, which were measured elsewhere"
        elif row["date"] < IDENTITIES_SINCE:
            reason = f"are of before {IDENTITIES_SINCE}, when ids and protocol hashes were made of other facts"
        elif not row["model"]:
            reason = "are of images that were scored, which are not in the row"
        else:
            try:
                wanted = _id(row, keys)
                if wanted != row["id"]:
                    wrong.append(f"the id {row['id']} does not follow from its row, which gives {wanted}.")
            except GenbenchError as error:
                reason = f"name a model that cannot be loaded here ({shown(error)[:200]})"
        if reason:
            not_checked[reason] = not_checked.get(reason, 0) + 1
    return wrong, [f"{count} rows {reason}: their ids were not checked." for reason, count in not_checked.items()]


def _id(row: Row, keys: dict[tuple[str, str, str], str | GenbenchError]) -> str:
    """The id that a row must have, see `genbench.Result.id`. The model is loaded for its key. Nothing is downloaded."""
    _refuse_code(row, allow_code=False)
    loader, _, spec = pipeline.bind_spec(spec_of(row))
    what = (str(spec.model), spec.dataset.name, spec.precision)
    if what not in keys:
        try:
            with weights.no_downloads():
                model = pipeline.load_model(loader, spec, "cpu", Execution(device="cpu"))
                keys[what] = pipeline.key_of(loader, model, spec)
        except GenbenchError as error:
            keys[what] = error
    key = keys[what]
    if isinstance(key, GenbenchError):
        raise key
    return digest([row["protocol_hash"], [spec.identity(), key]], 12)


def spec_of(row: Row) -> RunSpec:
    """The run that a row of a model is of, from its own columns.

    Raises:
        UsageError: columns that mean no run.
    """
    return RunSpec(
        model=Ref.parse(row["model"]),
        dataset=Ref.parse(row["dataset"]),
        num_samples=int(row["num_samples"]),
        seed=int(row["seed"]),
        precision=row["precision"],  # type: ignore[arg-type]
        exact=row["exact"] == "True",
        quantise=row["quantise"],  # type: ignore[arg-type]
    )


def _refuse_code(row: Row, *, allow_code: bool) -> None:
    for name in ("model", "dataset", "metric", "extractor"):
        if row[name] and not allow_code and ":" in Ref.parse(row[name]).name:
            raise UsageError(
                f"The row {shown(row['id'])} names {shown(Ref.parse(row[name]).name)}, which would be imported as "
                "code; give --allow-code if you trust it."
            )


# --- rerun ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """A row, and what was measured again of it.

    Attributes:
        verdict: "same" (to the last digit), "within the error" (`WITHIN` standard errors, or the row's interval) or
            "not reproduced".
        differing: fields in which the two were measured unlike, in words; of rows of an earlier identity the hash alone
            is none.
    """

    row: Row
    result: Result
    verdict: str
    differing: tuple[str, ...]

    @property
    def earlier(self) -> bool:
        """Whether the row is of before `IDENTITIES_SINCE`."""
        return self.row["date"] < IDENTITIES_SINCE

    @property
    def exit_code(self) -> int:
        """0 for the same and for within the error, 4 where it was measured unlike, 3 for a number that is another."""
        return 4 if self.differing else 3 if self.verdict == "not reproduced" else 0


def row_of(rows: Sequence[Row], wanted: str) -> Row:
    """The row of an id, or of the beginning of one.

    Raises:
        UsageError: none or several.
    """
    found = [row for row in rows if wanted and row["id"].startswith(wanted)]
    if len(found) != 1:
        what = "Several rows have an id that begins with" if found else "No row has the id"
        raise UsageError(f"{what} {shown(wanted)!r}. {nearest(wanted, [row['id'] for row in rows][:1000])}")
    return found[0]


def rerun(row: Row, *, output: Path, allow_code: bool = False, execution: Execution | None = None) -> Rerun:
    """Samples and measures a row again, from its own columns.

    Args:
        output: directory of runs. A run that is there is measured and not sampled.
        allow_code: whether it may name components by module:attribute, which are imported.

    Raises:
        UsageError: a row that names unknown components, or code, or images that were scored.
        InputRejected: cells that are no row of a leaderboard.
    """
    if wrong := [*_wrong_cells(row), *_wrong_together(row)]:
        raise InputRejected(f"The row {shown(row['id'])} is damaged: {' '.join(wrong)}")
    if row["kind"] != "measured" or not row["model"]:
        raise UsageError(f"The row {row['id']} is of no run of a model, so that it cannot be made from its columns.")
    _refuse_code(row, allow_code=allow_code)
    text = f"{row['metric']}@{row['extractor']}" if row["extractor"] else row["metric"]
    how = requests.of_run(
        row["model"],
        dataset=row["dataset"],
        metrics=text,
        num_samples=int(row["num_samples"]),
        seed=int(row["seed"]),
        protocol=row["protocol"],
        precision=row["precision"],  # type: ignore[arg-type]
        exact=row["exact"] == "True",
        quantise=row["quantise"],  # type: ignore[arg-type]
    )
    measurement = Measurement(Ref.parse(row["metric"]), Ref.parse(row["extractor"]) if row["extractor"] else None)
    (result,) = pipeline.run(how.spec, [measurement], protocol=how.protocol, output=output, execution=execution).results
    return Rerun(row=row, result=result, verdict=_verdict(row, result), differing=tuple(_unlike_today(row, result)))


def _verdict(row: Row, result: Result) -> str:
    told, found = float(row["value"]), result.score.value
    if told == found:
        return "same"
    error = float(row["stderr"]) if row["stderr"] else result.score.stderr
    low, high = (float(row["ci_low"]), float(row["ci_high"])) if row["ci_low"] else (told, told)
    inside = low <= found <= high or (error is not None and abs(found - told) <= WITHIN * error)
    return "within the error" if inside else "not reproduced"


def _unlike_today(row: Row, result: Result) -> Iterable[str]:
    """Fields of the protocol in which a row and a result differ."""
    new = report.row(result)
    for name in ("metric_version", "num_samples", "num_reference", "quantise"):
        if row[name] != new[name]:
            yield f"{name} {row[name] or 'none'} and {new[name] or 'none'}"
    if row["protocol_hash"] != new["protocol_hash"] and row["date"] >= IDENTITIES_SINCE:
        yield f"protocol_hash {row['protocol_hash']} and {new['protocol_hash']}"
