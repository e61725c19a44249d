"""What is compared: a run, a file of its numbers, a baseline or images, each opened to results.

Text of other people never becomes code here: what a file names is a registered component, unless the user allows more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from genbench import baseline as baselines
from genbench import comparability, identities, images, pipeline, protocols, report, requests
from genbench.arrays import Evidence, Samples
from genbench.baseline import Baseline
from genbench.errors import InputRejected, NotComparable, UsageError, shown
from genbench.images.runs import run_in
from genbench.measuring import Cell, Execution
from genbench.outcome import Outcome
from genbench.records import SCHEMA, Measurement, Ref, Result, RunSpec

if TYPE_CHECKING:
    from genbench.requests import Source

    Given = Source | Outcome | Baseline
    """A path, an outcome of `genbench.run` or `genbench.score`, a baseline, or images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One side of a comparison.

    Attributes:
        name: for people.
        results: in the order of their measurement.
        asked: see `genbench.identities.asked`, None where it is not known.
        samples: the images, None where there are results alone. Those of a baseline have no pixels.
        stored: whether the results had been there before.
        kept: features of the images that a baseline holds, by the text of the extractor.
    """

    name: str
    results: tuple[Result, ...]
    asked: str | None = None
    samples: Samples | None = None
    stored: bool = True
    kept: Mapping[str, Evidence] = field(default_factory=dict)

    @property
    def spec(self) -> RunSpec | None:
        """The run, None of images that no run made."""
        return self.results[0].spec if self.results else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be measured where results are not there.

    Attributes:
        metrics: texts, empty for what a side has, or for what the side it is compared with has.
        reference, protocol: None for those of the run, or of the side it is compared with.
    """

    metrics: tuple[str, ...] = ()
    reference: Source | None = None
    protocol: str | None = None

    def like(self, other: Measured) -> Wanted:
        """What is not said is what the other side has."""
        first = other.results[0]
        metrics = self.metrics or tuple(result.measurement for result in other.results)
        reference = self.reference if self.reference is not None or not first.spec else str(first.spec.dataset)
        return Wanted(metrics=metrics, reference=reference, protocol=self.protocol or first.protocol)


def has_results(given: Given) -> bool:
    """Whether a side brings results of its own."""
    if isinstance(given, Outcome | Baseline):
        return True
    return isinstance(given, str | Path) and (_is_run(Path(given)) or Path(given).suffix in (".json", baselines.ENDING))


def opened(given: Given, wanted: Wanted, *, execution: Execution | None = None, allow_code: bool = False) -> Measured:
    """The side with the results that are wanted, stored or measured now.

    Raises:
        GenbenchError: nothing there, or nothing that can be measured. See `genbench.errors`.
    """
    execution = execution or Execution()
    found = stored(given, allow_code)
    if found is None:
        assert not isinstance(given, Outcome | Baseline)
        return _measured(given, wanted, execution)
    for result in found.results:
        comparability.refuse_code(result, found.name, allow_code=allow_code)
    if not wanted.metrics or "all" in wanted.metrics:
        if not found.results:
            raise NotComparable(f"{shown(found.name)} has no results; measure it by `genbench run` or name --metric.")
        return found
    chosen: list[Result] = []
    missing: list[str] = []
    for text in wanted.metrics:
        matching = [result for result in found.results if is_of(result, text)]
        chosen += [result for result in matching if result not in chosen]
        missing += [] if matching else [text]
    if missing and found.samples is not None:
        chosen += _measured_more(given, found, replace(wanted, metrics=tuple(missing)), execution)
    if not chosen:
        raise NotComparable(f"{shown(found.name)} has none of {', '.join(map(shown, wanted.metrics))}.")
    return replace(found, results=tuple(chosen))


def is_of(result: Result, text: str) -> bool:
    """Whether a result is what a measurement asks for; arguments that the text does not give may be any."""
    asked = Measurement.parse(text)
    pairs = [(asked.metric, Ref.parse(result.metric))]
    if asked.extractor is not None:
        pairs.append((asked.extractor, Ref.parse(result.extractor or "none")))
    return all(
        ours.name == theirs.name and all(theirs.args.get(name) == value for name, value in ours.args.items())
        for ours, theirs in pairs
    )


def _is_run(path: Path) -> bool:
    try:
        return path.is_dir() and ((path / "result.json").is_file() or run_in(path) is not None)
    except (OSError, ValueError):
        return False


def stored(given: Given, allow_code: bool) -> Measured | None:
    """The side with the results that it brings, None of images alone. Components are named, and looked up nowhere.

    Raises:
        GenbenchError: a file that cannot be read.
    """
    if isinstance(given, Baseline):
        return of_baseline(given)
    if isinstance(given, Outcome):
        if given.directory is not None:
            return replace(_run(given.directory), results=given.results)
        return Measured(name=given.results[0].generated.name, results=given.results)
    if not isinstance(given, str | Path):
        return None
    path = Path(given)
    if _is_run(path):
        return _run(path)
    if path.suffix == baselines.ENDING:
        return stored(baselines.read(path, allow_code=allow_code), allow_code)
    if path.suffix == ".json":
        return _document(path)
    return None


def of_baseline(known: Baseline) -> Measured:
    """A baseline as a side."""
    return Measured(
        name=known.name, results=known.results, asked=known.asked, samples=known.samples, kept=known.evidence()
    )


def cells_of(results: Iterable[Result]) -> list[Cell]:
    """The measurements that results are of."""
    found = []
    for result in results:
        found += pipeline.bind_cells([Measurement.parse(result.measurement)], protocols.protocol(result.protocol))
    return found


def _run(path: Path) -> Measured:
    results = tuple(report.read_results(path, refuse=True).values())
    folder, samples = run_in(path), None
    # Else the images were removed, and grid.png is none of them. Damaged ones are an error: without images, and without
    # their seeds, the difference would be another one.
    if folder is not None and (not results or any(folder.glob("[0-9]*.npy"))):
        samples = images.open_images(path)
    found = Measured(name=str(path), results=results, samples=samples)
    if found.spec is None or samples is None:
        return replace(found, asked=results[0].environment.get("asked") if results else None)
    whole = samples.count == found.spec.num_samples
    return replace(found, asked=identities.asked(found.spec.seed, samples) if whole else None)


def _document(path: Path) -> Measured:
    """Of a file that `genbench run` or `genbench score --format json` wrote."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["schema"] not in (SCHEMA, report.FIRST_SCHEMA):
            raise ValueError(f"its schema is {told['schema']}")
        results = tuple(report.read_result(data) for data in told["results"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise InputRejected(
            f"{shown(path)} holds no results of genbench ({shown(reason)}); give a result.json of a run."
        ) from error
    if not results:
        raise NotComparable(f"{shown(path)} has no results.")
    return Measured(name=str(path), results=results, asked=results[0].environment.get("asked"))


def _measured(given: Source, wanted: Wanted, execution: Execution) -> Measured:
    request = requests.of_score(
        given,
        wanted.reference,
        metrics=wanted.metrics or requests.DEFAULT_METRICS,
        protocol=wanted.protocol,
        execution=execution,
    )
    outcome = requests.measured(request, execution)
    assert request.generated is not None
    return Measured(name=request.generated.origin, results=outcome.results, samples=request.generated, stored=False)


def _measured_more(given: Given, found: Measured, wanted: Wanted, execution: Execution) -> tuple[Result, ...]:
    """Results of the images, or of the stored features of a baseline, against the data set of the run."""
    assert found.samples is not None
    reference, protocol = wanted.reference, wanted.protocol
    if found.results:
        like = wanted.like(found)
        reference, protocol = like.reference, like.protocol
    kept: dict[str, Evidence] = {}
    if isinstance(given, str | Path) and Path(given).suffix == baselines.ENDING:
        given = baselines.read(Path(given), allow_code=True)  # it was looked at before
    if isinstance(given, Baseline):
        kept = given.evidence()
    return measured_from(
        found.samples, kept, wanted.metrics, reference=reference, protocol=protocol, execution=execution
    )


def measured_from(
    samples: Samples,
    kept: dict[str, Evidence],
    metrics: Iterable[str],
    *,
    reference: Source | None,
    protocol: str | None,
    execution: Execution,
) -> tuple[Result, ...]:
    """Results of images some of whose features are known, by the text of the extractor.

    Raises:
        NotComparable: the features are of another version of their extractor.
    """
    request = requests.of_score(samples, reference, metrics=tuple(metrics), protocol=protocol, execution=execution)
    outcome = requests.measured(request, execution, generated=samples, extracted=kept)
    for result in outcome.results:
        known = kept.get(result.extractor or "")
        for features in known.taps.values() if known else ():
            if features.extractor != result.extractor_key:
                raise NotComparable(
                    f"The features of {shown(samples.origin)} are of another version of {shown(result.extractor)}; "
                    "accept the model again."
                )
    return outcome.results
