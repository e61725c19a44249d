"""Benchmark files: every cell of models x data sets x metrics x seeds that a TOML file names, into one leaderboard.

A file is text of somebody: it names registered components and literal arguments, and nothing of it is run as code.
What was finished before is found again, so that a benchmark which was killed continues where it was. A cell that fails
is a row of the log with its reason and no number of the leaderboard, and the others go on.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genbench import files, pipeline, preflight, report, requests, tables
from genbench.errors import GenbenchError, Incomplete, InputRejected, UsageError, nearest, of_system, shown
from genbench.measuring import Execution
from genbench.records import Measurement, Ref, Result, from_toml, is_literal
from genbench.requests import RunRequest

KEYS = ("title", "datasets", "models", "metrics", "seeds", "num_samples", "protocol", "precision", "exact", "sweep")
"""Keys of a benchmark file."""
LOG_COLUMNS = ("model", "dataset", "metric", "seed", "num_samples", "state", "run", "exit_code", "reason")
"""Columns of the log; `Cell.state` says which states there are."""
MOST = 10_000
"""Cells of a file. A slip in a sweep would otherwise be noticed by nobody."""
_REQUIRED = ("datasets", "metrics")


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """What a benchmark file asks for.

    Attributes:
        title: for people.
        runs: one a model, data set and seed, each with all metrics.
    """

    title: str
    runs: tuple[RunRequest, ...]

    @property
    def cells(self) -> int:
        """Number of cells: one a run and metric."""
        return sum(len(run.measurements) for run in self.runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One number of a benchmark, or why it is not there.

    Attributes:
        run: what is sampled.
        measurement: what is measured.
        result: None where the cell failed or has not been worked on.
        error: why it failed.
    """

    run: RunRequest
    measurement: Measurement
    result: Result | None = None
    error: GenbenchError | None = None

    @property
    def state(self) -> str:
        """One of "done", "failed", "waiting", and "left out": what `all` stands for and cannot be measured here."""
        if self.result is not None:
            return "done"
        return "waiting" if self.error is None else "left out" if self.measurement.optional else "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a benchmark is, after a run.

    Attributes:
        done, total: runs.
        failed: cells so far.
        seconds_left: from the runs of this call that had something to do, None as long as there are none.
        cells: of the run that ended.
    """

    done: int
    total: int
    failed: int
    seconds_left: float | None
    cells: tuple[Cell, ...]


def read(path: Path, *, allow_code: bool = False) -> Benchmark:
    """A benchmark file, with every name in it looked up.

    Args:
        allow_code: whether it may name components by module:attribute, which are imported.

    Raises:
        InputRejected: no TOML file.
        UsageError: unknown keys, names or arguments, values of another type, or code without `allow_code`.
    """
    try:
        data = from_toml(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise InputRejected(f"Cannot read the benchmark file {shown(path)} ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:  # bytes, syntax, and numbers of thousands of digits
        raise InputRejected(f"The benchmark file {shown(path)} is no TOML: {shown(error)}.") from error
    try:
        return parse(data, title=path.stem, allow_code=allow_code)
    except UsageError as error:
        raise UsageError(f"The benchmark file {shown(path)}: {error}") from error


def parse(data: Mapping[str, Any], *, title: str = "", allow_code: bool = False) -> Benchmark:
    """What the content of a benchmark file asks for.

    Args:
        data: `datasets`, `models` and `metrics` are lists of reference texts, `seeds` one of whole numbers ([0]);
            `num_samples`, `protocol`, `precision` and `exact` hold for all runs and have the defaults of
            `genbench.run`. Each table of the list `sweep` has a `model` and lists of its arguments, of which every
            combination is one more model.
        title: where the file has none.

    Raises:
        UsageError: see `read`.
    """
    for key in data:
        if key not in KEYS:
            raise UsageError(f"it has no key {shown(key)!r}. {nearest(key, KEYS)}")
    for key in _REQUIRED:
        if key not in data:
            raise UsageError(f"the key {key!r} is missing; give a list, such as {key} = {_example(key)}.")
    models = [*_texts(data, "models"), *(text for sweep in _sweeps(data) for text in _swept(sweep))]
    if not models:
        raise UsageError('no model is named; give models = ["ddim"], or a table [[sweep]] with model = "ddim".')
    datasets, metrics = _texts(data, "datasets"), _texts(data, "metrics")
    seeds = _several(data, "seeds", int, [0])
    if len(models) * len(datasets) * len(seeds) * max(len(metrics), 1) > MOST:
        raise UsageError(f"it names more than {MOST} cells; divide it into several files.")
    if not allow_code:
        measured = [Measurement.parse(text) for text in metrics]
        parts = [part for m in measured for part in (m.metric, m.extractor) if part is not None]
        _refuse_code([*map(Ref.parse, [*models, *datasets]), *parts])
    how = {
        "num_samples": _one(data, "num_samples", int, None), "protocol": _one(data, "protocol", str, None),
        "precision": _one(data, "precision", str, "float32"), "exact": _one(data, "exact", bool, False),
    }  # fmt: skip
    found: dict[str, RunRequest] = {}
    for dataset, model, seed in itertools.product(datasets, models, seeds):
        request = requests.of_run(model, metrics=metrics, dataset=dataset, seed=seed, **how)
        _, _, spec = pipeline.bind_spec(request.spec)  # unknown arguments are refused before any work
        pipeline.bind_cells(request.measurements, request.protocol)
        found.setdefault(spec.id, replace(request, spec=spec))
    return Benchmark(title=_one(data, "title", str, title), runs=tuple(found.values()))


def _example(key: str) -> str:
    return {"datasets": '["shapes"]', "metrics": '["fid"]', "seeds": "[0, 1]", "models": '["ddim"]'}.get(key, "...")


def _several(data: Mapping[str, Any], key: str, kind: type, default: Sequence[Any]) -> list[Any]:
    given = data.get(key, default)
    if not isinstance(given, list | tuple) or any(type(value) is not kind for value in given):
        what = "texts" if kind is str else "whole numbers"
        raise UsageError(f"{key} is a list of {what}, such as {_example(key)}; got {shown(repr(given))[:100]}.")
    if key in data and not given and key != "models":
        raise UsageError(f"{key} is empty; give at least one, such as {_example(key)}.")
    return list(dict.fromkeys(given))


def _texts(data: Mapping[str, Any], key: str) -> list[str]:
    return _several(data, key, str, [])


def _one(data: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    given = data.get(key, default)
    if key in data and type(given) is not kind:
        what = {str: "a text", int: "a whole number", bool: "true or false"}[kind]
        raise UsageError(f"{key} is {what}; got {shown(repr(given))[:100]}.")
    return given


def _sweeps(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    given = data.get("sweep", [])
    if not isinstance(given, list) or not all(isinstance(sweep, dict) for sweep in given):
        raise UsageError("a sweep is a table [[sweep]] with model and lists of arguments, such as steps = [4, 6].")
    return given


def _swept(sweep: Mapping[str, Any]) -> list[str]:
    """Models of all combinations of the lists of a sweep, the first argument varying slowest."""
    model = sweep.get("model")
    if not isinstance(model, str):
        near = next((key for key in sweep if key.lower().startswith("model")), None)
        told = f" It has {shown(near)!r}; did you mean 'model'?" if near and near != "model" else ""
        raise UsageError(f'a sweep needs one model, such as model = "ddim".{told}')
    ref = Ref.parse(model)
    names = [name for name in sweep if name != "model"]
    lists = [sweep[name] if isinstance(sweep[name], list) else [sweep[name]] for name in names]
    for name, values in zip(names, lists, strict=True):
        if not values:
            raise UsageError(f"the sweep of {shown(ref.name)} has no value of {shown(name)!r}; give a list of values.")
        if name in ref.args:
            raise UsageError(f"the sweep of {shown(model)} gives {shown(name)!r} twice; give it once.")
    lists = [[tuple(value) if isinstance(value, list) else value for value in values] for values in lists]
    for name, values in zip(names, lists, strict=True):
        if not all(is_literal(value) for value in values):
            raise UsageError(f"in the sweep of {shown(ref.name)}, {shown(name)!r} is of numbers, texts or booleans.")
    count = 1
    for values in lists:
        count *= len(values)
    if count > MOST:
        raise UsageError(f"the sweep of {shown(ref.name)} has more than {MOST} models; divide it.")
    return [
        str(Ref(ref.name, {**ref.args, **dict(zip(names, some, strict=True))})) for some in itertools.product(*lists)
    ]


def _refuse_code(refs: Iterable[Ref]) -> None:
    for ref in refs:
        if ":" in ref.name:
            raise UsageError(
                f"it names {shown(ref.name)}, which would be imported as code; give --allow-code if you trust the file."
            )


def run(
    benchmark: Benchmark,
    *,
    output: Path,
    leaderboard: Path | None = None,
    execution: Execution | None = None,
    tell: Callable[[Progress], None] | None = None,
) -> tuple[Cell, ...]:
    """Works on every cell and writes the leaderboard and the log after each run.

    Args:
        output: directory of the runs. The leaderboard is output/leaderboard.csv unless another is given, and the log
            is output/log.csv.
        tell: is told after every run how far the benchmark is.

    Returns:
        All cells, in the order of the file.

    Raises:
        InputRejected, OutOfResources: a leaderboard that rows cannot be merged into, before any work.
    """
    execution = execution or Execution()
    board = leaderboard or output / "leaderboard.csv"
    preflight.check_leaderboard(board)
    cells = [[Cell(run=run, measurement=m) for m in run.measurements] for run in benchmark.runs]
    worked, slow = 0.0, 0
    for number, some in enumerate(cells):
        left = _left(worked, slow, len(cells) - number)
        began = time.monotonic()
        done, cached = _run_cells(some, output, _prefixed(execution, number, len(cells), left, some[0]))
        cells[number] = [_merged(board, cell) for cell in done]
        _write_log(output, cells)
        if not cached:
            worked, slow = worked + time.monotonic() - began, slow + 1
        if tell is not None:
            failed = sum(cell.state == "failed" for some in cells for cell in some)
            left = _left(worked, slow, len(cells) - number - 1)
            here = tuple(cells[number])
            tell(Progress(done=number + 1, total=len(cells), failed=failed, seconds_left=left, cells=here))
    return tuple(cell for some in cells for cell in some)


def refuse_failures(cells: Sequence[Cell]) -> None:
    """Raises Incomplete where cells failed. The message names the first reasons."""
    failed = [cell for cell in cells if cell.state == "failed"]
    if failed:
        lines = [f"{name_of(cell)}: {cell.error}" for cell in failed[:5]]
        more = [f"and {len(failed) - 5} more, in the log"] if len(failed) > 5 else []
        raise Incomplete("\n".join([f"{len(failed)} of {len(cells)} cells failed.", *lines, *more]))


def name_of(cell: Cell) -> str:
    """What a cell measures, in a line."""
    spec = cell.run.spec
    return f"{cell.measurement} of {spec.model.brief()} on {spec.dataset.brief()}, seed {spec.seed}"


def _left(worked: float, runs: int, remaining: int) -> float | None:
    return worked / runs * remaining if runs else None if remaining else 0.0


def _prefixed(execution: Execution, number: int, total: int, left: float | None, cell: Cell) -> Execution:
    """The execution with progress that says which run of how many it is."""
    watch = execution.watch
    if watch is None:
        return execution
    from genbench.planning import duration

    time_left = "" if left is None else f", about {duration(left)} left"
    head = f"run {number + 1} of {total}{time_left}: {cell.run.spec.model.brief()}, "
    return replace(execution, watch=lambda stage, done, of: watch(head + stage, done, of))


def _run_cells(cells: Sequence[Cell], output: Path, execution: Execution) -> tuple[list[Cell], bool]:
    """The cells of one run with their results or errors, and whether nothing had to be done.

    All are measured in one pass. Where that fails, those without a number are tried one by one, so that a metric that
    cannot be measured takes no other along. The images that were sampled are found again.
    """
    done, error, cached = _attempt(cells, output, execution)
    if error is None:
        return done, cached
    if len(cells) == 1:
        return [replace(done[0], error=error)] if done[0].result is None else done, False
    again = replace(execution, fresh=False)
    return [cell if cell.result is not None else _run_cells([cell], output, again)[0][0] for cell in done], False


def _attempt(
    cells: Sequence[Cell], output: Path, execution: Execution
) -> tuple[list[Cell], GenbenchError | None, bool]:
    run, cached, problem = cells[0].run, False, None
    results: Sequence[Result] = ()
    try:
        outcome = pipeline.run(
            run.spec, [cell.measurement for cell in cells], protocol=run.protocol, output=output, execution=execution
        )
        results, cached = outcome.results, outcome.cached
    except GenbenchError as error:
        results, problem = error.results, error
    except Exception as error:  # the others go on
        problem = of_system(error) or GenbenchError(f"unexpected failure: {type(error).__name__}: {shown(error)}")
    bound = pipeline.bind_cells([cell.measurement for cell in cells], run.protocol)
    by_text = {result.measurement: result for result in results}
    done = [replace(cell, result=by_text.get(str(found))) for cell, found in zip(cells, bound, strict=True)]
    if problem is None:
        why = GenbenchError("It cannot be measured here; the warning says why.")
        done = [cell if cell.result is not None else replace(cell, error=why) for cell in done]
    return done, problem, cached


def _merged(board: Path, cell: Cell) -> Cell:
    """The cell after its number is in the leaderboard; failed, where the number may not stand there."""
    if cell.result is None:
        return cell
    try:
        if cell.result.score.value != cell.result.score.value:
            raise InputRejected("The value is not a number.")
        report.merge_leaderboard(board, [cell.result])
    except GenbenchError as error:
        return replace(cell, result=None, error=error)
    return cell


def _write_log(output: Path, cells: Sequence[Sequence[Cell]]) -> None:
    rows = [log_row(cell, output) for some in cells for cell in some]
    files.atomic_write(output / "log.csv", tables.text(LOG_COLUMNS, rows).encode())


def log_row(cell: Cell, output: Path) -> dict[str, str]:
    """A cell as a row of the log."""
    spec, error = cell.run.spec, cell.error
    values = {
        "model": str(spec.model), "dataset": str(spec.dataset), "metric": str(cell.measurement), "seed": spec.seed,
        "num_samples": spec.num_samples, "state": cell.state, "run": spec.id if cell.state != "waiting" else None,
        "exit_code": error.exit_code if error else None, "reason": " ".join(str(error).split()) if error else None,
    }  # fmt: skip
    return {name: tables.cell(value) for name, value in values.items()}
