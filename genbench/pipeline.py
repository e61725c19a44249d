"""The pipeline, top to bottom. Every number that genbench prints is made by `measure`.

    bind names -> look for finished results -> preflight -> sample -> extract -> measure -> store

Everything that can be refused is refused before anything is sampled.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from genbench import (
    environment,
    features,
    files,
    generation,
    identities,
    images,
    measuring,
    papers,
    preflight,
    protocols,
    ranks,
    registry,
    report,
    stopping,
    weights,
)
from genbench.arrays import Evidence, Images, Samples
from genbench.contracts import Dataset, Extractor, Model, taken_by
from genbench.errors import (
    GenbenchError,
    InputRejected,
    MissingAsset,
    NotComparable,
    Unmeasured,
    UsageError,
    calling,
    shown,
)
from genbench.likelihoods import Subject
from genbench.measuring import Cell, Comparison, Execution, identify, measure, uses_reference
from genbench.outcome import Outcome
from genbench.protocols import Protocol
from genbench.records import Measurement, Ref, Result, RunSpec
from genbench.sets import at_most, class_captions, load_split, name_of, outlined

_log = logging.getLogger(__name__)

Key = TypeVar("Key")


def bind_cells(measurements: Iterable[Measurement], protocol: Protocol) -> list[Cell]:
    """Finds every component of the measurements and checks their arguments.

    Raises:
        UsageError: unknown names, wrong arguments, or an extractor for a metric that is defined on another.
    """
    cells = []
    for given in measurements:
        wanted = protocol.resolve(given)
        metric, metric_ref = registry.bind("metric", wanted.metric)
        load, extractor_ref = None, None
        if metric.taps:
            named = given.extractor or (Ref(metric.extractor) if metric.extractor else wanted.extractor)
            load, extractor_ref = registry.bind("extractor", named or protocol.extractor)
        elif given.extractor is not None:
            raise UsageError(f"{metric.name} looks at pixels and takes no extractor; got {given}.")
        cells.append(
            Cell(
                metric=metric,
                metric_ref=metric_ref,
                extractor_ref=extractor_ref,
                load_extractor=load,
                protocol=protocol,
                optional=given.optional,
            )
        )
    return cells


def bind_spec(spec: RunSpec) -> tuple[Callable[..., Model], Dataset, RunSpec]:
    """Finds model and data set and writes out their defaults; those of the paper, where it used this data set."""
    dataset, dataset_ref = registry.bind("dataset", spec.dataset)
    preset = registry.preset(spec.model.name, dataset.name)
    told = {**preset.arguments, **spec.model.args} if preset else spec.model.args
    load_model, model_ref = registry.bind("model", Ref(spec.model.name, told))
    return load_model, dataset, replace(spec, model=model_ref, dataset=dataset_ref)


def given_weights(execution: Execution) -> list[str]:
    """Published files of models in whose place the user gave files that no digest proves to be the published ones."""
    known, given = registry.published(), execution.weights
    return sorted(n for n in given if n in known and not weights.proved(given[n], weights.of_published(known[n])))


def differs(spec: RunSpec) -> list[str]:
    """What a run does otherwise than the paper of its system, in words, empty where no paper used the data set."""
    preset = registry.preset(spec.model.name, spec.dataset.name)
    if preset is None or preset.protocol is None:
        return []
    _, paper = registry.bind("model", Ref(spec.model.name, dict(preset.arguments)))
    arguments = {**dict.fromkeys(spec.model.args), **paper.args}
    given = {name: spec.model.args.get(name) for name in arguments}
    changed = [papers.instead(name, given[name], value) for name, value in arguments.items() if given[name] != value]
    if preset.num_samples and spec.num_samples != preset.num_samples:
        changed.append(f"{spec.num_samples} instead of {preset.num_samples} samples")
    return [*preset.differs, *changed]


def load_model(loader: Callable[..., Model], spec: RunSpec, device: str, execution: Execution) -> Model:
    """Makes the model of a spec.

    Raises:
        UsageError: arguments that the model refuses, or a data set that it has no weights for.
        MissingAsset: weights that are not there.
    """
    more: dict[str, Any] = {}
    if "fetch" in inspect.signature(loader).parameters:

        def fetch(card: weights.Published) -> Path:
            def received(done: int, total: int | None) -> None:
                execution.report(f"download of {card.name}", done, total or 0)

            given = execution.weights.get(card.name)
            return weights.resolve(weights.of_published(card), given=given, received=received)

        more["fetch"] = fetch
    if execution.compile:
        if "compiled" not in inspect.signature(loader).parameters:
            raise UsageError(f"The model {spec.model} cannot be compiled; leave --compile out.")
        more["compiled"] = True
    with _of_model(spec):
        return loader(dataset=spec.dataset.name, device=device, precision=spec.precision, **more, **spec.model.args)


@contextlib.contextmanager
def _of_model(spec: RunSpec) -> Iterator[None]:
    """Turns ValueError and FileNotFoundError of a model, which may load weights late, into errors of this package."""
    with calling(f"The model {spec.model}"):
        try:
            yield
        except ValueError as error:
            raise UsageError(f"The model {spec.model}: {error}") from error
        except FileNotFoundError as error:
            raise MissingAsset(f"The model {spec.model}: {error}") from error


def _short_of_floor(
    count: int, held_out: Samples | None, reference: Samples | None, cells: Sequence[Cell]
) -> dict[str, str]:
    """Sentences, by split, that say why there is no floor although there are real images."""
    wanted = {cell.metric.floor for cell in cells}
    return {
        role: f"{samples.origin} has {samples.count} images, fewer than the {count} generated ones: no floor is given."
        for role, samples in (("held_out", held_out), ("reference", reference))
        if role in wanted and samples is not None and 0 < samples.count < count
    }


def _floors(
    count: int,
    held_out: Samples | None,
    reference: Samples | None,
    cells: Sequence[Cell],
    execution: Execution,
    choose: Callable[[Samples | None, int | None, Execution], Samples | None],
) -> dict[str, Samples | None]:
    """The real images that stand in for the generated ones, as many of them, by role, None where there are fewer."""
    there = {"held_out": held_out, "reference": reference}
    wanted = {cell.metric.floor for cell in cells}
    return {
        f"floor_{role}": choose(samples, count, execution)
        for role, samples in there.items()
        if role in wanted and samples is not None and samples.count >= count
    }


def _splits(dataset: Dataset, ref: Ref, cells: Sequence[Cell], execution: Execution) -> dict[str, Samples | None]:
    """The splits that the metrics need, whole."""
    # Images that have no name are looked at even by metrics without a reference, whose protocol they are a part of.
    read = any(uses_reference(c.metric) or c.metric.floor == "reference" for c in cells)
    wanted = {"reference": read or (bool(cells) and not dataset.named)}
    wanted["test"] = any(c.metric.against == "test" for c in cells)
    wanted["held_out"] = any(c.metric.floor == "held_out" for c in cells)
    return {role: load_split(dataset, ref, role, execution) if wanted[role] else None for role in wanted}


def number_of_reference(dataset: Dataset, protocol: Protocol) -> int | None:
    """Most reference images, None for all."""
    return (dataset.reference_count if protocol.num_reference is None else protocol.num_reference) or None


SPLIT = "digests of a split"
"""Name of the job that makes digests of real images before some of them are chosen by what they show."""


def _look_together(
    splits: Mapping[str, Samples | None],
    most: Mapping[str, int | None],
    execution: Execution,
    about: Mapping[str, Any],
) -> None:
    """Has all processes find the digests of splits of which a choice will be made. The choice finds them in the cache.

    Args:
        most: by split, images of the choice, None where there is none.
    """
    for role, number in most.items():
        samples = splits.get(role)
        if samples is None or not number or samples.count <= number or samples.exchangeable:
            continue

        def spread(
            own: ranks.Job, numbers: Sequence[int], advance: ranks.Advance, *, role: str = role, **told: Any
        ) -> None:
            ranks.spread(SPLIT, numbers, own=own, about=about, advance=advance, role=role, **told)

        features.pixel_digests(samples, workers=execution.workers, spread=spread)


def _compared(
    generated: Samples | None,
    splits: Mapping[str, Samples | None],
    cells: Sequence[Cell],
    execution: Execution,
    device: str,
    *,
    number: int | None,
    choose: Callable[[Samples | None, int | None, Execution], Samples | None] = at_most,
    extractors: dict[str, Extractor | None] | None = None,
    dataset: str = "",
    modelled: str = "",
    subject: Subject | None = None,
    about: Mapping[str, Any] | None = None,
) -> Comparison:
    """The generated images and the real ones that stand beside them or in their place.

    Args:
        splits: "reference", "held_out" and "test", whole.
        number: most images of the reference.
        choose: makes choices; before sampling, their outlines.
        extractors: that were loaded before, by name.
        dataset: name of the one that the images were made for.
        modelled: what names its images, where no reference is looked at.
        subject: the model that makes the images, None where nobody knows it.
        about: see `measuring.Comparison`.
    """
    reference, held_out, test = (splits.get(role) for role in ("reference", "held_out", "test"))
    if about is not None and ranks.count() > 1:
        floors = {cell.metric.floor for cell in cells}
        of_floor = generated.count if generated is not None and "held_out" in floors else None
        _look_together(splits, {"reference": number, "held_out": of_floor}, execution, about)
    roles = {"generated": generated, "reference": choose(reference, number, execution), "test": test}
    short: dict[str, str] = {}
    if generated is not None:
        roles |= _floors(generated.count, held_out, reference, cells, execution, choose)
        short = _short_of_floor(generated.count, held_out, reference, cells)
    names = next((s.classes for s in splits.values() if s is not None and s.dataset and s.classes), ())
    return Comparison(
        roles,
        cells,
        execution,
        device,
        about=about,
        extractors={} if extractors is None else extractors,
        classes=names,
        short_of_floor=short,
        dataset=dataset,
        modelled=modelled,
        subject=subject,
    )


def run(
    spec: RunSpec,
    measurements: Sequence[Measurement],
    *,
    protocol: Protocol,
    output: Path,
    leaderboard: Path | None = None,
    execution: Execution | None = None,
) -> Outcome:
    """Samples a model and measures the samples; continues, or returns at once, what was done before.

    Args:
        output: directory of runs. This one lies in output/<spec.id>, see `generation.run_directory`.
        leaderboard: that somebody will merge the results into. It is only looked at, before the work.

    Raises:
        GenbenchError: see `genbench.errors`. The message says what to do. What can be refused is refused, all together,
            before anything is sampled or written; `results` has what was measured before a later error.
    """
    execution = execution or Execution()
    about = _about_run(spec, measurements, protocol, output, execution)
    loader, dataset, spec = bind_spec(spec)
    cells = bind_cells(measurements, protocol)
    directory = generation.run_directory(output, spec)
    ready = prepare(loader, dataset, spec, cells, output=output, leaderboard=leaderboard, execution=execution)
    model, cells = ready.model, ready.cells
    key, prompts = key_of(loader, model, spec), _prompts(model, dataset, spec, execution)
    compared = partial(_compared_of_run, ready, dataset, spec, protocol, execution, about)
    # Metrics of the model alone need no samples, only to know how many there would be.
    sampled = any(not cell.metric.likelihood for cell in cells)
    there: Samples | None = ready.generated
    if sampled:
        there = generation.open_run(directory / "samples", spec, model, key, prompts=prompts)
    if there is not None and not execution.fresh and (stored := report.read_results(directory)):
        names = [request(cell, comparison, spec, key) for comparison in (compared(there),) for cell in cells]
        if names and all(name in stored for name in names):
            _write_what_is_missing(directory, there if sampled else None, stored)
            results = tuple(stored[name] for name in names)
            return Outcome(spec=spec, results=results, directory=directory, cached=True)
    with files.locked(directory):
        stored = report.read_results(directory)
        if execution.fresh:
            asked = {str(cell) for cell in cells}
            stored = {name: result for name, result in stored.items() if result.measurement not in asked}
            if (directory / "result.json").exists():
                report.write_results(directory, stored)
            generation.forget(directory / "samples")
        samples = ready.generated
        if sampled:
            work = _sampling(ready, key, spec, dataset, directory, execution, prompts=prompts)
            samples = _generated(work, execution, about)
            images.write_grid(samples.read(0, min(64, samples.count)), directory / "grid.png")
        real = ready.splits.get("reference")
        made_with = environment.snapshot(ready.device) | {
            "evaluations": model.evaluations, "model_key": key, "differs": differs(spec),
            "samples": samples.fingerprint() if sampled else None, "real": real and real.fingerprint(),
            "asked": identities.asked(spec.seed, samples),
            "given_weights": given_weights(execution),
            "sampling_seconds": generation.sampling_seconds(directory / "samples", spec) if sampled else None,
        }  # fmt: skip
        stored = {name: result for name, result in stored.items() if _made_alike(result, made_with)}
        comparison = compared(samples)
        done = {str(cell): stored.get(request(cell, comparison, spec, key)) for cell in cells} if stored else {}

        def keep(text: str, result: Result) -> None:
            done[text] = result
            for name in [n for n, r in stored.items() if (r.measurement, r.protocol) == (text, protocol.name)]:
                del stored[name]
            stored[request(todo[text], comparison, spec, key)] = result
            report.write_results(directory, stored)

        todo = {str(cell): cell for cell in cells if done.get(str(cell)) is None}
        try:
            _measured(todo, comparison, spec, made_with, keep=keep)
        except (GenbenchError, Unmeasured) as error:
            error.results = _in_order(cells, done)
            raise
    return Outcome(spec=spec, results=_in_order(cells, done), directory=directory, cached=False)


def _compared_of_run(
    ready: Ready,
    dataset: Dataset,
    spec: RunSpec,
    protocol: Protocol,
    execution: Execution,
    about: Mapping[str, Any],
    samples: Samples,
) -> Comparison:
    """The images of a run beside those of its data set."""
    described, splits = _described(ready.model, dataset, samples, ready.splits)
    return _compared(
        described,
        splits,
        ready.cells,
        execution,
        ready.device,
        number=number_of_reference(dataset, protocol),
        extractors=ready.extractors,
        dataset=dataset.name,
        modelled=name_of(dataset, spec.dataset),
        subject=ready.subject,
        about=about,
    )


def _about_run(
    spec: RunSpec, measurements: Sequence[Measurement], protocol: Protocol, output: Path, execution: Execution
) -> dict[str, Any]:
    """What other processes need to help with a run, see `jobs_of_run`."""
    return {
        "kind": "run", "spec": report.write_spec(spec),
        "measurements": [[str(m.metric), None if m.extractor is None else str(m.extractor)] for m in measurements],
        "optional": [m.optional for m in measurements],
        "protocol": protocol.name, "output": output, "execution": execution.as_dict(),
    }  # fmt: skip


def jobs_of_run(
    *,
    spec: Mapping[str, Any],
    measurements: Sequence[Sequence[Any]],
    optional: Sequence[bool],
    protocol: str,
    output: Path,
    execution: Mapping[str, Any],
) -> dict[str, ranks.Job]:
    """What a process does that helps with a run: it makes shards and parts of features, and decides nothing."""
    how, by = Execution(**execution), protocols.protocol(protocol)
    wanted = [
        Measurement(Ref.parse(metric), None if extractor is None else Ref.parse(extractor), optional=some)
        for (metric, extractor), some in zip(measurements, optional, strict=True)
    ]
    loader, dataset, bound = bind_spec(report.read_spec(spec))
    ready = prepare(loader, dataset, bound, bind_cells(wanted, by), output=output, execution=how)
    key, prompts = key_of(loader, ready.model, bound), _prompts(ready.model, dataset, bound, how)
    directory = generation.run_directory(output, bound)
    about = _about_run(report.read_spec(spec), wanted, by, output, how)

    @cache
    def work() -> generation.Sampling:
        return _sampling(ready, key, bound, dataset, directory, how, prompts=prompts)

    @cache
    def comparison() -> Comparison:
        return _compared_of_run(ready, dataset, bound, by, how, about, generation.finished(work()))

    def sample(numbers: Sequence[int], advance: ranks.Advance) -> None:
        generation.fill(work(), numbers, sampled=lambda new, begun: advance(new))

    def make_digests(numbers: Sequence[int], advance: ranks.Advance, *, role: str, **told: Any) -> None:
        measuring.make_digests(ready.splits.get(role), how, numbers, advance, **told)

    return {"sample": sample, SPLIT: make_digests, **measuring.jobs(comparison)}


def _in_order(cells: Sequence[Cell], done: Mapping[str, Result | None]) -> tuple[Result, ...]:
    return tuple(result for cell in cells if (result := done.get(str(cell))) is not None)


def key_of(loader: Callable[..., Model], model: Model, spec: RunSpec) -> str:
    """What the images of a model depend on beside the spec, see `identities.keyed`.

    Raises:
        InputRejected: a model that does not say it.
    """
    with _of_model(spec):
        key = model.key
    if key is None or key == "":
        raise InputRejected(
            f"The model {spec.model} has no key, by which its samples are known; see genbench.contracts."
        )
    return identities.keyed(loader, key)


def request(cell: Cell, comparison: Comparison, spec: RunSpec, key: str) -> str:
    """The identity of a measurement of a run, see `identities.request`."""
    identity = identify(cell, comparison)
    text = str(Measurement(cell.metric_ref.brief(), cell.extractor_ref and cell.extractor_ref.brief()))
    return identities.request(
        text,
        cell.protocol.name,
        identity.protocol_hash,
        spec=spec,
        model_key=key,
        generated=identity.generated,
        floor=identity.floor.digest if identity.floor else None,
    )


def _made_alike(result: Result, made_with: Mapping[str, Any]) -> bool:
    """Whether a stored result is of these samples and of real images as they are today. Older ones tell less."""
    told = result.environment
    return told.get("model_key") == made_with["model_key"] and all(
        told.get(name) is None or made_with[name] is None or told[name] == made_with[name]
        for name in ("samples", "real")
    )


def _write_what_is_missing(directory: Path, samples: Samples | None, stored: Mapping[str, Result]) -> None:
    """Makes the files beside the results again, where they were removed or a killed process left older ones."""
    files.sweep(directory)
    try:
        report.write_rows(directory, stored.values())
        grid = directory / "grid.png"
        if samples is not None and not images.is_picture(grid):
            if grid.exists():
                _log.warning("%s is damaged and is drawn anew.", shown(grid))
            images.write_grid(samples.read(0, min(64, samples.count)), grid)
    except InputRejected as error:  # the numbers are known all the same
        _log.warning("%s", error)
    except OSError as error:
        _log.warning("%s cannot be written to: %s.", shown(directory), error.strerror)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a run works with, found and looked at before it begins.

    Attributes:
        subject: the model and what its numbers depend on.
        splits: of the data set that the metrics need, whole.
        generated: the images that will be made, which cannot be read yet.
        cells: measurements that can be made.
        extractors: by name.
    """

    model: Model
    subject: Subject
    device: str
    splits: dict[str, Samples | None]
    generated: Samples
    cells: list[Cell]
    extractors: dict[str, Extractor | None]


def prepare(
    loader: Callable[..., Model],
    dataset: Dataset,
    spec: RunSpec,
    cells: Sequence[Cell],
    *,
    output: Path,
    leaderboard: Path | None = None,
    execution: Execution,
) -> Ready:
    """Finds everything that a run needs, and writes nothing but weights that it downloads.

    Raises:
        GenbenchError: everything that is missing or wrong, a line each.
    """
    problems: list[GenbenchError] = []
    device, model, generated, subject = "cpu", None, None, None
    splits: dict[str, Samples | None] = {}
    with preflight.collecting(problems):
        device = environment.choose_device(execution.device)
    with preflight.collecting(problems):
        splits = _splits(dataset, spec.dataset, cells, execution)
    before = len(problems)
    with preflight.collecting(problems):
        found = load_model(loader, spec, device, execution)
        key = key_of(loader, found, spec)  # finds its weights
        model, directory = found, generation.run_directory(output, spec)
        subject = Subject(model=found, spec=spec, key=key, directory=directory)
        generated = preflight.expected(
            model,
            spec,
            prompts=_prompts(model, dataset, spec, execution),
            classes=_classes(model, dataset, spec, execution),
        )
        generated, splits = _described(model, dataset, generated, splits)
    if any(isinstance(problem, MissingAsset) for problem in problems[before:]):
        problems += _missing_files(spec, execution)  # a model stops at the first one
    if leaderboard is not None:
        with preflight.collecting(problems):
            preflight.check_leaderboard(leaderboard)
    number = number_of_reference(dataset, cells[0].protocol) if cells else None
    comparison = _compared(generated, splits, cells, execution, device, number=number, choose=outlined, subject=subject)
    if model is not None:
        with preflight.collecting(problems):
            preflight.check_disk(output, output / spec.id, spec, comparison, cells)
    if cells:
        cells = preflight.sift(cells, comparison, problems, sides=generated is not None and bool(splits))
    elif problems:
        raise preflight.together(problems)
    assert model is not None and generated is not None and subject is not None
    return Ready(
        model=model,
        subject=subject,
        device=device,
        splits=splits,
        generated=generated,
        cells=list(cells),
        extractors=comparison.extractors,
    )


def _missing_files(spec: RunSpec, execution: Execution) -> list[GenbenchError]:
    """An error for every file of weights of a preset that is not there."""
    preset = registry.preset(spec.model.name, spec.dataset.name)
    problems: list[GenbenchError] = []
    known = registry.published()
    for name in preset.files if preset else ():
        if name in known:
            with preflight.collecting(problems):
                weights.resolve(weights.of_published(known[name]), given=execution.weights.get(name))
    return problems


def _described(
    model: Model, dataset: Dataset, samples: Samples, splits: dict[str, Samples | None]
) -> tuple[Samples, dict[str, Samples | None]]:
    """Gives samples and real images captions made from class names where a model was asked for classes alone.

    The samples have no other captions then. Real images get the same, or floors would be measured on richer ones.
    """
    if "labels" not in taken_by(model):
        return samples, splits
    named = {role: real and class_captions(real, dataset.prompt) for role, real in splits.items()}
    return class_captions(samples, dataset.prompt), named


def sample(
    spec: RunSpec,
    *,
    output: Path,
    strip: bool = False,
    by_class: bool = False,
    writes: Sequence[Path] = (),
    execution: Execution | None = None,
) -> tuple[Samples, Path, RunSpec]:
    """Samples a model without measuring. The same shards serve a later `run` of the same spec.

    Args:
        strip, by_class: whether somebody will draw its steps, or its classes, which not every model has.
        writes: files that somebody will write.
    """
    execution = execution or Execution()
    about = _about_run(spec, (), protocols.protocol("embedded"), output, execution)
    loader, dataset, spec = bind_spec(spec)
    directory = generation.run_directory(output, spec)
    problems: list[GenbenchError] = []
    with preflight.collecting(problems):
        ready = prepare(loader, dataset, spec, (), output=output, execution=execution)
        preflight.check_pictures(ready.model, spec, strip=strip, by_class=by_class, problems=problems)
    for path in writes:
        with preflight.collecting(problems):
            preflight.check_writable(path)
    if problems:
        raise preflight.together(problems)
    key, prompts = key_of(loader, ready.model, spec), _prompts(ready.model, dataset, spec, execution)
    with files.locked(directory):
        work = _sampling(ready, key, spec, dataset, directory, execution, prompts=prompts)
        samples = _generated(work, execution, about)
        images.write_grid(samples.read(0, min(64, samples.count)), directory / "grid.png")
    return samples, directory, spec


def sample_share(
    spec: RunSpec,
    measurements: Sequence[Measurement],
    share: tuple[int, int],
    *,
    protocol: Protocol,
    output: Path,
    execution: Execution | None = None,
) -> tuple[int, int, Path, RunSpec]:
    """Makes every n-th file of images of a run, and measures nothing: one job of n that know nothing of each other.

    `run` or `sample` of the same spec makes what is missing then, or waits for those that still work on it.

    Args:
        measurements: that will be made of the run. What can be refused of them is refused now.
        share: which of how many, (i, n). Jobs 0..n-1 and jobs 1..n are the same, for n and 0 name one job.

    Returns:
        Images of the run that are there, images of the whole run, its directory, and the spec with its defaults.
    """
    execution = execution or Execution()
    about = _about_run(spec, measurements, protocol, output, execution)
    loader, dataset, spec = bind_spec(spec)
    directory = generation.run_directory(output, spec)
    cells = bind_cells(measurements, protocol)
    ready = prepare(loader, dataset, spec, cells, output=output, execution=execution)
    key, prompts = key_of(loader, ready.model, spec), _prompts(ready.model, dataset, spec, execution)
    work = _sampling(ready, key, spec, dataset, directory, execution, prompts=prompts, shared=True)
    number, count = share
    _fill(work, work.shards[number % count :: count], execution, about)
    return generation.kept_images(directory / "samples", spec), spec.num_samples, directory, spec


def trajectory(spec: RunSpec, *, count: int = 4, number: int = 10, execution: Execution | None = None) -> Images:
    """How the first images of a run came about, in so many moments: see `generation.frames`.

    Raises:
        UsageError: a model that does not show its steps.
    """
    execution = execution or Execution()
    loader, dataset, spec = bind_spec(spec)
    model = load_model(loader, spec, environment.choose_device(execution.device), execution)
    prompts = _prompts(model, dataset, spec, execution)
    return generation.trajectory(model, spec, min(count, spec.num_samples), number, prompts=prompts)


def _sampling(
    ready: Ready,
    key: str,
    spec: RunSpec,
    dataset: Dataset,
    directory: Path,
    execution: Execution,
    *,
    prompts: Samples | None,
    shared: bool = False,
) -> generation.Sampling:
    """The sampling of a run, begun by writing down what it is."""
    how = environment.snapshot(ready.device)
    kind = ready.device.partition(":")[0]  # which of several devices of a machine is nothing to an image
    shared = shared or ranks.count() > 1
    return generation.begin(
        ready.model,
        spec,
        directory / "samples",
        batch_size=execution.batch_size or (64 if kind == "cpu" else 256),
        key=key,
        prompts=prompts,
        classes=_classes(ready.model, dataset, spec, execution),
        execution={k: how[k] for k in ("torch", "device_name", "threads")}
        | {"device": kind}
        | ({"compiled": True} if execution.compile else {})
        | ({generation.SHARED: True} if shared else {}),
    )


def _generated(work: generation.Sampling, execution: Execution, about: Mapping[str, Any]) -> Samples:
    """The images of a run, of which all processes make what is missing."""
    _fill(work, work.shards, execution, about)
    return generation.finished(work)


def _fill(work: generation.Sampling, numbers: Sequence[int], execution: Execution, about: Mapping[str, Any]) -> None:
    """Has all processes make those of some shards that are missing."""
    lacking = generation.missing(work, numbers)
    total = sum(generation.images_in(work.spec, number) for number in numbers)
    done, begun = total - sum(generation.images_in(work.spec, number) for number in lacking), 0.0

    def show(new: int) -> None:
        nonlocal done
        done += new
        execution.report("sampling", min(done + begun, total), total)

    def own(numbers: Sequence[int], advance: ranks.Advance) -> None:
        def sampled(new: int, of_batch: float) -> None:
            nonlocal begun
            begun = of_batch
            advance(new)

        generation.fill(work, numbers, sampled=sampled)

    ranks.spread("sample", lacking, own=own, about=about, advance=show)


def _prompts(model: Model, dataset: Dataset, spec: RunSpec, execution: Execution) -> Samples | None:
    """Captions and images to sample from: of images that are no reference, or of the reference where there are no
    others, None where the model takes none."""
    if taken_by(model) <= {"labels"}:
        return None
    held_out = load_split(dataset, spec.dataset, "held_out", execution)
    return held_out or load_split(dataset, spec.dataset, "reference", execution)


def _classes(model: Model, dataset: Dataset, spec: RunSpec, execution: Execution) -> tuple[str, ...]:
    """Names of the classes that labels choose among, if the data set is there; sampling must not need it.

    Raises:
        UsageError: a model that would be asked for classes which the data set does not have.
    """
    if "labels" not in taken_by(model):
        return ()
    try:
        samples = load_split(dataset, spec.dataset, "reference", execution)
    except GenbenchError:
        return ()
    names = samples.classes if samples else ()
    if names and model.classes > len(names):
        raise UsageError(
            f"The model {spec.model} draws labels among {model.classes} classes, and {spec.dataset} has {len(names)}; "
            f"where its first {len(names)} classes are these, say classes={len(names)}."
        )
    return names


def score(
    generated: Samples,
    reference: Samples | None,
    measurements: Sequence[Measurement],
    *,
    protocol: Protocol,
    held_out: Samples | None = None,
    test: Samples | None = None,
    extracted: Mapping[str, Evidence] | None = None,
    execution: Execution | None = None,
    about: Mapping[str, Any] | None = None,
) -> Outcome:
    """Measures images that exist.

    Args:
        extracted: evidence of the generated images that was made before, by the text of the extractor.
        held_out, test, about: as of `compared`.
    """
    comparison = compared(
        generated,
        reference,
        measurements,
        protocol=protocol,
        held_out=held_out,
        test=test,
        execution=execution or Execution(),
        about=about,
    )
    comparison.found |= {(name, "generated"): evidence for name, evidence in (extracted or {}).items()}
    made_with = environment.snapshot(comparison.device)
    results = tuple(_measured(dict(enumerate(comparison.cells)), comparison, None, made_with).values())
    return Outcome(spec=None, results=results, directory=None, cached=False)


def compared(
    generated: Samples,
    reference: Samples | None,
    measurements: Sequence[Measurement],
    *,
    protocol: Protocol,
    held_out: Samples | None = None,
    test: Samples | None = None,
    execution: Execution,
    about: Mapping[str, Any] | None = None,
) -> Comparison:
    """Images that exist beside real ones, with the measurements that can be made of them.

    Args:
        held_out: real images that are not in the reference; as many of them as there are generated ones give
            the floors.
        test: labelled real images for metrics that test a classifier.
        about: see `measuring.Comparison`.
    """
    cells = bind_cells(measurements, protocol)
    device = environment.choose_device(execution.device)
    splits = {"reference": reference, "held_out": held_out, "test": test}
    number = protocol.num_reference
    plan = _compared(generated, splits, cells, execution, device, number=number, choose=outlined)
    cells = preflight.sift(cells, plan)
    preflight.check_disk(None, None, None, plan, cells)
    return _compared(
        generated, splits, cells, execution, device, number=number, extractors=plan.extractors, about=about
    )


def _measured(
    cells: Mapping[Key, Cell],
    comparison: Comparison,
    spec: RunSpec | None,
    made_with: Mapping[str, Any],
    *,
    keep: Callable[[Key, Result], None] = lambda key, result: None,
) -> dict[Key, Result]:
    """The results of all cells that can be measured, in their order, each kept as soon as it is there.

    Raises:
        GenbenchError: of a cell that may not be left out, after all others were measured, with their `results`.
        Unmeasured: an interrupt, with the `results` so far.
    """
    told = {key: preflight.notes(cell, comparison) for key, cell in cells.items()}
    preflight.tell(note for some in told.values() for note in some)
    found: dict[Key, Result] = {}
    problems: list[GenbenchError] = []
    for key, cell in cells.items():
        stopping.check()
        comparison.execution.report(f"measuring {cell.metric.name}", 0, 0)
        try:
            found[key] = measure(cell, comparison, spec, {**made_with, "notes": list(told[key])})
            keep(key, found[key])
        except GenbenchError as error:
            if cell.optional and isinstance(error, InputRejected | MissingAsset | NotComparable):
                _log.warning("%s is left out: %s", cell.metric.name, error)
            else:
                problems.append(error)
        except KeyboardInterrupt as error:
            raise Unmeasured(tuple(found.values())) from error
    if problems or (cells and not found):
        refusal = preflight.together(problems) if problems else NotComparable("None of the metrics could be measured.")
        refusal.results = tuple(found.values())
        raise refusal
    return found
