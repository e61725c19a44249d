"""Results to files and texts: result.json, CSV rows, tables. No number is made here.

One row is one result, in long format with fixed columns, so that a new metric adds rows and never rewrites a line.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from genbench import papers, tables
from genbench.comparability import check_rankings
from genbench.errors import InputRejected, UsageError, shown
from genbench.files import atomic_write
from genbench.records import SCHEMA, Blocks, Ref, Result, RunSpec, Score, Side, canonical, digest, finite

_log = logging.getLogger(__name__)

FIRST_SCHEMA = "genbench.run/1"

COLUMNS = (
    "model", "dataset", "metric", "extractor", "protocol", "protocol_hash", "num_samples", "num_reference", "seed",
    "metric_version", "value", "stderr", "ci_low", "ci_high", "error_method", "floor", "floor_stderr", "evaluations",
    "precision", "quantise", "exact", "seconds", "kind", "generated", "reference", "genbench", "commit", "torch",
    "device", "date", "id",
)  # fmt: skip
"""Columns of a leaderboard of measured rows; `leaderboards/README.md` explains them."""


def write_score(score: Score) -> dict[str, Any]:
    """A score as JSON: numbers that are not finite become null."""
    low, high = score.ci95 or (None, None)
    return {
        "value": finite(score.value),
        "stderr": finite(score.stderr),
        "ci95": None if score.ci95 is None else [finite(low), finite(high)],
        "error_method": score.error_method,
        "detail": {name: finite(float(value)) for name, value in score.detail.items()},
        "blocks": None if score.blocks is None else {
            "left_out": [finite(value) for value in score.blocks.left_out], "sizes": list(score.blocks.sizes),
        },
    }  # fmt: skip


def read_score(data: Mapping[str, Any]) -> Score:
    """The inverse of `write_score`; scores of schema 1 have no blocks.

    Raises:
        KeyError, TypeError, ValueError: something else than a score.
    """
    ci95, blocks = data["ci95"], data.get("blocks")
    if ci95 is not None:
        low, high = ci95  # neither fewer nor more
        ci95 = (_number(low), _number(high))
    found = Score(
        value=_number(data["value"]),
        stderr=None if data["stderr"] is None else _number(data["stderr"]),
        ci95=ci95,
        error_method=data["error_method"],
        detail={k: _number(v) for k, v in data["detail"].items()},
        blocks=None
        if blocks is None
        else Blocks(left_out=tuple(map(_number, blocks["left_out"])), sizes=tuple(map(_whole, blocks["sizes"]))),
    )
    return _of_its_kinds(found)


def _number(value: object) -> float:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise TypeError(f"a number is wanted, not {value!r}")
    if isinstance(value, int) and abs(value) >= 1 << 1000:
        raise ValueError("a number is out of all proportion")
    return float("nan") if value is None else float(value)


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"a whole number is wanted, not {value!r}")
    return value


Record = TypeVar("Record", Score, Side, Result)


def _of_its_kinds(record: Record) -> Record:
    """The same record, once its plain fields are of the kinds that they are declared as.

    Raises:
        TypeError: they are not.
    """
    plain = {str, int, float, bool, type(None)}
    for name, declared in get_type_hints(type(record)).items():
        value, kinds = getattr(record, name), set(get_args(declared)) if isinstance(declared, UnionType) else {declared}
        if kinds <= plain and type(value) not in kinds | ({int} if float in kinds else set()):
            raise TypeError(f"{name} is {type(value).__name__}")
    return record


def write_result(result: Result) -> dict[str, Any]:
    """A result as JSON, flat where a reader looks first."""
    metric = Ref.parse(result.metric)
    extractor = Ref.parse(result.extractor) if result.extractor else None
    spec = result.spec
    return {
        "id": result.id,
        "metric": metric.name,
        "metric_args": _plain(metric.args),
        "metric_text": result.metric,
        "metric_version": result.metric_version,
        "extractor": extractor.name if extractor else None,
        "extractor_args": _plain(extractor.args) if extractor else {},
        "extractor_text": result.extractor,
        "extractor_key": result.extractor_key,
        **write_score(result.score),
        "floor": finite(result.floor.value) if result.floor else None,
        "floor_stderr": finite(result.floor.stderr) if result.floor else None,
        "floor_score": write_score(result.floor) if result.floor else None,
        "higher_is_better": result.higher_is_better,
        "n_generated": result.generated.count,
        "n_reference": result.reference.count if result.reference else None,
        "generated": asdict(result.generated),
        "reference": asdict(result.reference) if result.reference else None,
        "protocol": result.protocol,
        "protocol_hash": result.protocol_hash,
        "spec": None if spec is None else write_spec(spec),
        "seconds": result.seconds,
        "created": result.created,
        "environment": dict(result.environment),
        "paper": paper_of(result),
    }


def read_result(data: Mapping[str, Any]) -> Result:
    """The inverse of `write_result`, of schema 1 too; what is derived is derived anew.

    Raises:
        KeyError, TypeError, ValueError, UsageError: something else than a result.
    """
    spec = data["spec"]
    extractor = str(Ref(data["extractor"], data["extractor_args"])) if data["extractor"] else None
    found = Result(
        metric=data.get("metric_text") or str(Ref(data["metric"], data["metric_args"])),
        metric_version=data["metric_version"],
        extractor=data.get("extractor_text") or extractor,
        extractor_key=data["extractor_key"],
        score=read_score(data),
        floor=read_score(data["floor_score"]) if data["floor_score"] else None,
        generated=_side(data["generated"]),
        reference=_side(data["reference"]) if data["reference"] else None,
        protocol=data["protocol"],
        protocol_hash=data["protocol_hash"],
        higher_is_better=data["higher_is_better"],
        spec=None if spec is None else read_spec(spec),
        seconds=data["seconds"],
        created=data["created"],
        environment=_environment(data["environment"]),
    )
    for text in (found.metric, found.extractor):
        if text is not None:
            Ref.parse(text)
    return _of_its_kinds(found)


_TEXTS = ("asked", "commit", "device_name", "genbench", "model_key", "torch")
_NUMBERS = ("evaluations", "sampling_seconds")
_LISTS = ("differs", "given_weights", "notes")
"""What readers look for in the environment of a result, by its kind."""


def _environment(data: Any) -> dict[str, Any]:
    """The environment of a result, once what readers look for in it is of its kind.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(data, dict):
        raise TypeError("environment is no table")
    lists = [data.get(name) or [] for name in _LISTS]
    if not all(isinstance(data.get(name), str | None) for name in _TEXTS) or not all(
        isinstance(some, list) and all(isinstance(one, str) for one in some) for some in lists
    ):
        raise TypeError("environment holds something else than text")
    for name in _NUMBERS:
        _number(data.get(name))
    return data


def _plain(args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as JSON, for whoever reads them by machine: infinities and nan as text, tuples as lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(part) for part in value]
        return repr(value) if isinstance(value, float) and finite(value) is None else value

    return {name: plain(value) for name, value in args.items()}


def _side(data: Mapping[str, Any]) -> Side:
    shape = tuple(map(_whole, data["shape"])) if data.get("shape") else None
    return _of_its_kinds(Side(**{**data, "shape": shape}))


def write_spec(spec: RunSpec) -> dict[str, Any]:
    """A spec as JSON, with the names of the arguments that have their defaults and are in no identity."""
    defaults = {name: sorted(getattr(spec, name).defaults) for name in ("model", "dataset")}
    return json.loads(canonical(spec)) | {"defaults": defaults}


def read_spec(spec: Mapping[str, Any]) -> RunSpec:
    """The inverse of `write_spec`."""
    defaults = spec.get("defaults", {})
    refs = {}
    for name in ("model", "dataset"):
        ref = Ref.parse(spec[name])
        refs[name] = Ref(ref.name, ref.args, frozenset(defaults.get(name, ())))
    return RunSpec(**{name: value for name, value in spec.items() if name != "defaults"} | refs)


def measured(result: Result) -> str:
    """Metric and extractor by name, such as `fid@compact`."""
    return Ref.parse(result.metric).name + (f"@{Ref.parse(result.extractor).name}" if result.extractor else "")


def paper_of(result: Result) -> dict[str, Any] | None:
    """What the system's paper reports for this metric, and why the two may not be compared."""
    if result.spec is None:
        return None
    reported = papers.lookup(result.spec.model, measured(result), result.spec.dataset.name)
    if reported is None:
        return None
    verdict, reasons = papers.comparable(result, reported)
    return {
        "value": reported.value, "system": reported.system, "dataset": reported.dataset, "source": reported.citation,
        "comparable": verdict, "reasons": list(reasons),
    }  # fmt: skip


def document(results: Sequence[Result], **more: Any) -> dict[str, Any]:
    """The one JSON document of a command."""
    return {"schema": SCHEMA, "results": [write_result(r) for r in results], **more}


def dumps(data: Mapping[str, Any]) -> str:
    """Strict JSON, for people and machines."""
    return json.dumps(data, indent=2, allow_nan=False)


def write_results(directory: Path, stored: Mapping[str, Result]) -> None:
    """Writes result.json and row.csv of a run, whole.

    Args:
        stored: results by request, see `genbench.identities.request`.
    """
    data = document(list(stored.values()), requests=list(stored))
    data["digest"] = digest(data)
    atomic_write(directory / "result.json", (dumps(data) + "\n").encode())
    write_rows(directory, stored.values())


def write_rows(directory: Path, results: Iterable[Result]) -> None:
    """Writes row.csv of a run, unless it is there as it should be."""
    path, content = directory / "row.csv", table_csv(results).encode()
    if not path.is_file() or path.read_bytes() != content:
        atomic_write(path, content)


def read_results(directory: Path, *, refuse: bool = False) -> dict[str, Result]:
    """The finished results of a run by request; empty when there are none.

    A file that is damaged is said to be and counts as none. Results of schema 1 answer no request of today, since their
    identities were made of something else. They are read all the same, under requests of their own.

    Args:
        refuse: whether a damaged file is an error, for those who do not measure the run anew.

    Raises:
        InputRejected: a file of a later version, which would be lost; with `refuse`, one that is damaged.
    """
    path = directory / "result.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        schema = data["schema"]
        if schema == FIRST_SCHEMA:
            by_id = {r["id"]: read_result(r) for r in data["results"]}
            return {f"1-{key}": by_id[name] for key, name in data["requests"].items()}
        if schema == SCHEMA and data.pop("digest") == digest(data):
            return dict(zip(data["requests"], map(read_result, data["results"]), strict=True))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        if isinstance(error, OSError):
            raise InputRejected(f"{shown(path)} cannot be read ({error.strerror}); remove it.") from error
        schema = None
    if isinstance(schema, str) and schema.startswith("genbench.run/") and schema != SCHEMA:
        raise InputRejected(f"{shown(path)} is of schema {shown(schema)} and this version writes {SCHEMA}; upgrade.")
    if refuse:
        raise InputRejected(f"{shown(path)} is damaged; the command that made the run measures it anew.")
    _log.warning("%s is damaged; what it held is measured anew.", shown(path))
    return {}


def row(result: Result) -> dict[str, str]:
    """A result as the texts of one CSV row; floats keep every digit, what is not known is empty."""
    spec, score, floor = result.spec, result.score, result.floor
    environment = result.environment
    low, high = score.ci95 or (None, None)
    values = {
        "model": spec and spec.model, "dataset": spec and spec.dataset, "metric": result.metric,
        "extractor": result.extractor, "protocol": result.protocol, "protocol_hash": result.protocol_hash,
        "num_samples": result.generated.count, "num_reference": result.reference and result.reference.count,
        "seed": None if spec is None else spec.seed, "metric_version": result.metric_version, "value": score.value,
        "stderr": score.stderr, "ci_low": low, "ci_high": high, "error_method": score.error_method,
        "floor": floor and floor.value, "floor_stderr": floor and floor.stderr,
        "evaluations": environment.get("evaluations"), "precision": spec and spec.precision,
        "quantise": result.generated.quantise or (spec and spec.quantise),
        "exact": None if spec is None else spec.exact, "seconds": result.seconds,
        "kind": "measured", "generated": result.generated.name, "reference": result.reference and result.reference.name,
        "genbench": environment.get("genbench"), "commit": environment.get("commit"), "torch": environment.get("torch"),
        "device": environment.get("device_name"), "date": result.created[:10], "id": result.id,
    }  # fmt: skip
    return {name: tables.cell(value) for name, value in values.items()}


def table_csv(results: Iterable[Result]) -> str:
    """Rows with a header; UTF-8, LF."""
    return tables.text(COLUMNS, (row(r) for r in results))


def merge_leaderboard(path: Path, results: Iterable[Result]) -> int:
    """Adds rows to a leaderboard, sorted by key, a row of the same id replaced. Returns the number of rows.

    Raises:
        InputRejected: the file is no leaderboard of this version.
        NotComparable: a number would stand in one ranking with numbers that were measured unlike.
        GenbenchError: another process keeps the folder locked.
    """
    new = list({result.id: row(result) for result in results}.values())
    return tables.merge(path, COLUMNS, new, identity=lambda row: row["id"], order=sort_key, check=check_rankings)


def sort_key(values: Mapping[str, str]) -> tuple[str, ...]:
    """What the rows of a leaderboard are sorted by."""
    return tuple(values[c] for c in ("dataset", "model", "metric", "extractor", "seed", "num_samples", "id"))
