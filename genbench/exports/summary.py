"""What is told of a run to other tools: numbers, settings and files under names that every tool takes."""

from __future__ import annotations

import html
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genbench import display, registry, sides
from genbench.errors import GenbenchError, InputRejected, NotComparable, shown
from genbench.images.runs import run_in
from genbench.outcome import Outcome
from genbench.records import Ref, Result, RunSpec, digest

FILES = ("grid.png", "result.json", "row.csv")
"""Of the folder of a run, handed on where they are there."""
LONGEST = 200
"""Characters of a key: MLflow takes 250 with what is put after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The results of one run, or of one set of images.

    Attributes:
        results: in the order of their measurement.
        directory: of the run, None of images that no run made.
        captions: whether images were made of captions.
    """

    results: tuple[Result, ...]
    directory: Path | None = None
    captions: bool = False

    @property
    def spec(self) -> RunSpec | None:
        """What was sampled."""
        return self.results[0].spec

    @property
    def id(self) -> str:
        """12 hexadecimal digits: the same for a repetition, another one for other weights or other images."""
        first = self.results[0]
        if first.spec is None:
            return digest(sorted({result.generated.digest for result in self.results}), 12)
        return digest([first.spec.identity(), first.environment.get("model_key")], 12)

    @property
    def name(self) -> str:
        """The model with the arguments that are not its defaults, or the name of the images."""
        return str(self.spec.model.brief()) if self.spec else self.results[0].generated.name

    @property
    def labels(self) -> list[str]:
        """A name for each result, such as `fid@compact`."""
        return display.labels(self.results)

    @property
    def keys(self) -> list[str]:
        """A key for each result, of letters, digits, `_`, `-` and `.` alone: `fid.compact`, `precision_k_5.compact`."""
        found: list[str] = []
        for label, result in zip(self.labels, self.results, strict=True):
            key = keyed(label)
            several = [
                key,
                f"{key}-{digest([label, result.id], 6)}",
                *(f"{key}-{i}" for i in range(2, len(self.results))),
            ]
            found.append(next(one for one in several if one not in found))
        return found

    def numbers(self) -> dict[str, float]:
        """Every finite number by key and meaning, such as `fid.compact/value` and `fid.compact/stderr`."""
        found: dict[str, float] = {}
        for key, result in zip(self.keys, self.results, strict=True):
            score, floor = result.score, result.floor
            low, high = score.ci95 or (None, None)
            told = {
                "value": score.value, "stderr": score.stderr, "ci95_low": low, "ci95_high": high,
                "floor": floor.value if floor else None, "floor_stderr": floor.stderr if floor else None,
            }  # fmt: skip
            found |= {f"{key}/{name}": float(x) for name, x in told.items() if x is not None and math.isfinite(x)}
        return found

    def settings(self) -> dict[str, str | int | float | bool]:
        """What was sampled, an argument of the model and of the data set each."""
        if self.spec is None:
            first = self.results[0]
            return {"images": first.generated.name, "num_samples": first.generated.count or 0}
        spec = self.spec
        told: dict[str, Any] = {"model": spec.model.name, "dataset": spec.dataset.name}
        for name, ref in (("model", spec.model), ("dataset", spec.dataset)):
            told |= {f"{name}.{key}": value for key, value in ref.args.items()}
        for name in ("num_samples", "seed", "precision", "exact", "quantise"):
            told[name] = getattr(spec, name)
        return {name: value if isinstance(value, str | int | float) else str(value) for name, value in told.items()}

    def facts(self) -> dict[str, str]:
        """How each result was measured, and with what: texts by key, such as `fid.compact/protocol_hash`."""
        found: dict[str, str] = {}
        for key, result in zip(self.keys, self.results, strict=True):
            told = {
                "measurement": result.measurement, "protocol": result.protocol, "protocol_hash": result.protocol_hash,
                "error_method": result.score.error_method, "id": result.id, "created": result.created,
                "num_reference": result.reference and result.reference.count,
            }  # fmt: skip
            found |= {f"{key}/{name}": str(value) for name, value in told.items() if value is not None}
        environment = self.results[0].environment
        for name in ("genbench", "commit", "torch", "device_name", "evaluations"):
            if environment.get(name) is not None:
                found[name] = str(environment[name])
        return found

    def files(self) -> list[Path]:
        """Picture and results of a run."""
        if self.directory is None:
            return []
        return [path for name in FILES if (path := self.directory / name).is_file()]

    def command(self) -> str:
        """The command line that makes the results again, empty of images that no run made."""
        return command_of(self.spec, self.results) if self.spec else ""


def command_of(spec: RunSpec, results: Sequence[Result]) -> str:
    """The command line that samples a run and measures it as the results were."""
    words = ["genbench", "run", "--model", str(spec.model.brief()), "--dataset", str(spec.dataset.brief())]
    words += ["-n", str(spec.num_samples), "--seed", str(spec.seed), "--precision", spec.precision]
    words += ["--quantise", spec.quantise, *(["--exact"] if spec.exact else [])]
    words += ["--protocol", results[0].protocol]
    for result in results:
        metric, extractor = (
            _brief(kind, text) for kind, text in (("metric", result.metric), ("extractor", result.extractor))
        )
        words += ["--metric", f"{metric}@{extractor}" if extractor else metric]
    return shlex.join(words)


def _brief(kind: str, text: str | None) -> str:
    """A component without the arguments that have their defaults, where it is registered; nothing else is imported."""
    if not text or ":" in Ref.parse(text).name:
        return text or ""
    try:
        return str(registry.bind(kind, Ref.parse(text))[1].brief())
    except GenbenchError:
        return text


def keyed(label: str) -> str:
    """A label as a key that every tool takes; one that is too long ends with its digest."""
    key = re.sub(r"[^\w.\-]+", "_", label.replace("@", "."), flags=re.ASCII)
    key = re.sub(r"_*\.+_*", ".", key).strip("_.-") or "metric"
    return key if len(key) <= LONGEST else f"{key[: LONGEST - 9]}-{digest(label, 8)}"


def of_path(path: Path) -> Summary:
    """The results in the folder of a run, or in a result.json.

    Raises:
        InputRejected: something else.
        NotComparable: no results.
    """
    found = sides.stored(path, allow_code=True)  # components are named here and never imported
    if found is None:
        raise InputRejected(f"{shown(path)} is no folder of a run and no result.json; give one.")
    if not found.results:
        raise NotComparable(f"{shown(path)} has no results; measure it by `genbench run`.")
    captions = found.samples is not None and found.samples.captions is not None
    # Beside a result.json that somebody keeps elsewhere lie files of others.
    folder = path if path.is_dir() else path.parent if run_in(path.parent) is not None else None
    return Summary(results=found.results, directory=folder, captions=captions)


def of_outcome(outcome: Outcome) -> Summary:
    """The results that a command gave."""
    return Summary(results=outcome.results, directory=outcome.directory)


def markdown(summary: Summary) -> str:
    """The table of the command line, as a table of Markdown in which nothing that somebody wrote has a meaning."""
    lines, notes = display.table_cells(summary.results)
    rows = [f"| {' | '.join(map(plain, line))} |" for line in lines]
    return "\n".join([rows[0], "|" + "---|" * len(lines[0]), *rows[1:], *([""] if notes else []), *map(plain, notes)])


def plain(text: str) -> str:
    """Text that Markdown and HTML show as it is."""
    return re.sub(r"([\\`*_{}\[\]()#!|~>])", r"\\\1", html.escape(shown(text), quote=False))


def texts(told: Mapping[str, Any]) -> dict[str, str]:
    """Values as texts, without those that are None."""
    return {name: value if isinstance(value, str) else str(value) for name, value in told.items() if value is not None}


def args_of(result: Result) -> dict[str, Any]:
    """Arguments of metric and extractor, as JSON has them."""
    refs = [("", Ref.parse(result.metric)), ("extractor.", Ref.parse(result.extractor) if result.extractor else None)]
    found: dict[str, Any] = {}
    for prefix, ref in refs:
        for name, value in (ref.args if ref else {}).items():
            known = isinstance(value, str | bool | int | None) or (isinstance(value, float) and math.isfinite(value))
            found[prefix + name] = value if known else repr(value)
    return found
