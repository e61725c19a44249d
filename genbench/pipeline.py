"""The pipeline, top to bottom. Every number that genbench prints is made by `_measure`.

    bind names -> look for finished results -> check disk -> sample -> extract -> measure -> store

Everything that can be refused is refused before anything is sampled.
"""

from __future__ import annotations

import contextlib
import datetime
import inspect
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from genbench import environment, features, files, generation, images, papers, registry, report, weights
from genbench.arrays import Evidence, Images, Samples, Statistics
from genbench.contracts import Dataset, Extractor, Metric, Model
from genbench.errors import GenbenchError, InputRejected, MissingAsset, NotComparable, OutOfResources, UsageError
from genbench.protocols import Protocol
from genbench.records import Measurement, Ref, Result, RunSpec, Score, Side, digest

_log = logging.getLogger(__name__)

Watch = Callable[[str, float, float], None]
"""watch(stage, done, total), for progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How the work is done; nothing here is meant to change a number.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:INDEX" or "mps".
        batch_size: images a call of the model; None chooses by device.
        workers: threads that decode images.
        data_dir: where data sets that are files lie.
        weights: extractor name to a weight file that is used instead of the published one.
        fresh: sample and measure anew although there are results.
        lenient: leave out, with a warning, what cannot be measured on these images, instead of refusing the whole.
        extractor_precision: "float32" or "exact", the slow reference path of the extractors.
    """

    device: str = "auto"
    batch_size: int | None = None
    workers: int = 2
    data_dir: Path | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    fresh: bool = False
    lenient: bool = False
    extractor_precision: str = "float32"
    watch: Watch | None = None

    def report(self, stage: str, done: float, total: float) -> None:
        """Tells whoever watches."""
        if self.watch is not None:
            self.watch(stage, done, total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measurement with its components found and its arguments written out."""

    metric: Metric
    metric_ref: Ref
    extractor_ref: Ref | None
    load_extractor: Callable[..., Extractor] | None
    protocol: Protocol

    def __str__(self) -> str:
        return str(Measurement(self.metric_ref, self.extractor_ref))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run gave.

    Attributes:
        directory: runs/<id>, with samples, result.json, row.csv and grid.png; None for `score`.
        cached: whether nothing had to be sampled or measured.
    """

    spec: RunSpec | None
    results: tuple[Result, ...]
    directory: Path | None
    cached: bool


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
            )
        )
    return cells


def bind_spec(spec: RunSpec) -> tuple[Callable[..., Model], Dataset, RunSpec]:
    """Finds model and data set and writes out their defaults; those of the paper, where it used this data set."""
    dataset, dataset_ref = registry.bind("dataset", spec.dataset)
    preset = registry.preset(spec.model.name, dataset.name)
    told = {**preset.arguments, **spec.model.args} if preset else spec.model.args
    load_model, model_ref = registry.bind("model", Ref(spec.model.name, told))
    if spec.num_samples < 1:
        raise UsageError(f"The number of samples must be at least 1; got {spec.num_samples}.")
    if spec.quantise not in generation.QUANTISERS:
        raise UsageError(f"No quantiser {spec.quantise!r}; there are {', '.join(generation.QUANTISERS)}.")
    return load_model, dataset, replace(spec, model=model_ref, dataset=dataset_ref)


def differs(spec: RunSpec) -> list[str]:
    """What a run does otherwise than the paper of its system, in words; empty where no paper used the data set."""
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
            watch = partial(execution.report, f"download of {card.name}")
            return weights.resolve(
                weights.of_published(card), given=execution.weights.get(card.name), watch=lambda a, b: watch(a, b or 0)
            )

        more["fetch"] = fetch
    with _of_model(spec):
        return loader(dataset=spec.dataset.name, device=device, precision=spec.precision, **more, **spec.model.args)


@contextlib.contextmanager
def _of_model(spec: RunSpec) -> Iterator[None]:
    """What models raise, which know no classes of this package, as errors of it. They may read their weights late."""
    try:
        yield
    except ValueError as error:
        raise UsageError(f"The model {spec.model}: {error}") from error
    except FileNotFoundError as error:
        raise MissingAsset(f"The model {spec.model}: {error}") from error


def load_extractor(cell: Cell, execution: Execution, device: str) -> Extractor | None:
    if cell.load_extractor is None or cell.extractor_ref is None:
        return None
    given = execution.weights.get(cell.extractor_ref.name)
    return cell.load_extractor(
        device=device, precision=execution.extractor_precision, weights=given, **cell.extractor_ref.args
    )


def load_split(dataset: Dataset, ref: Ref, role: str, execution: Execution) -> Samples | None:
    """All images of the split that plays a role, or None when the data set has none."""
    if role not in dataset.splits:
        return None
    args: dict[str, Any] = dict(ref.args)
    if "directory" in inspect.signature(dataset.load).parameters:
        args["directory"] = execution.data_dir
    return dataset.load(dataset.splits[role], **args)


_WORDS = {"floor_held_out": "held-out", "floor_reference": "real"}


@dataclass(slots=True)
class _Comparison:
    """The sets of images by role, and their evidence by extractor, extracted once for all metrics that share it."""

    roles: dict[str, Samples | None]
    cells: Sequence[Cell]
    execution: Execution
    device: str
    extractors: dict[str, Extractor | None] = field(default_factory=dict)
    found: dict[tuple[str, str], Evidence] = field(default_factory=dict)

    def extractor(self, cell: Cell) -> Extractor | None:
        name = str(cell.extractor_ref)
        if name not in self.extractors:
            self.extractors[name] = load_extractor(cell, self.execution, self.device)
        return self.extractors[name]

    def evidence(self, cell: Cell, role: str) -> Evidence | None:
        samples, name = self.roles.get(role), str(cell.extractor_ref)
        if samples is None:
            return None
        if role == cell.metric.against and (known := _statistics(cell, samples)):
            return Evidence(samples=samples, statistics=known)
        if (name, role) not in self.found:
            extractor = self.extractor(cell)
            taps = self._taps(name, role, samples)
            done = 0

            def watch(count: int) -> None:
                nonlocal done
                done += count
                self.execution.report(f"features of {_WORDS.get(role, role)} images", done, samples.count)

            self.found[name, role] = features.evidence(
                samples, extractor, taps, cache=weights.cache_directory() / "features", device=self.device,
                workers=self.execution.workers, watch=watch,
            )  # fmt: skip
        return self.found[name, role]

    def _taps(self, name: str, role: str, samples: Samples) -> list[str]:
        """Union of what the metrics on this extractor read of this role, so that one pass serves all of them."""
        wanted: dict[str, None] = {}
        for cell in self.cells:
            needed = ("generated", cell.metric.against, f"floor_{cell.metric.floor}")
            if role == cell.metric.against and _statistics(cell, samples):
                continue
            if str(cell.extractor_ref) == name and role in needed:
                wanted |= dict.fromkeys(cell.metric.taps)
        if samples.captions is None:
            wanted.pop(features.CAPTIONS, None)
        return list(wanted)


def _statistics(cell: Cell, reference: Samples) -> Mapping[str, Statistics]:
    """Published statistics by tap, where they are of the cell's extractor and are all that its metric reads."""
    if not cell.metric.moments or cell.extractor_ref is None:
        return {}
    known = {tap: s for tap, s in reference.statistics.items() if s.extractor == cell.extractor_ref.name}
    return {tap: known[tap] for tap in cell.metric.taps} if known.keys() >= set(cell.metric.taps) else {}


def _check(cell: Cell, role: str, samples: Samples) -> None:
    metric = cell.metric
    if role != "generated" and _statistics(cell, samples):
        return
    if not samples.count:
        there = ", ".join(f"{tap} of {known.extractor}" for tap, known in samples.statistics.items())
        raise InputRejected(
            f"{cell} needs the images of the {role}; {samples.origin} holds the mean and the covariance of features "
            f"alone ({there}), which suffice for a Frechet distance on these and for nothing else."
        )
    if samples.count < metric.minimum:
        raise InputRejected(
            f"{metric.name} needs at least {metric.minimum} {role} images; {samples.origin} has {samples.count}."
        )
    if metric.labels and samples.labels is None:
        raise InputRejected(f"{metric.name} needs labels, and the {role} images ({samples.origin}) have none.")
    if metric.captions and role == "generated" and samples.captions is None:
        raise InputRejected(f"{metric.name} needs captions, and the {role} images ({samples.origin}) have none.")


def _check_pairs(metric: Metric, generated: Samples, reference: Samples) -> None:
    """Refuses sides whose images i cannot belong together, as far as numbers, labels and captions tell."""
    if generated.count != reference.count:
        raise InputRejected(
            f"{metric.name} compares image i with image i, and {generated.origin} has {generated.count} images, "
            f"{reference.origin} {reference.count}. Give as many, in one order."
        )
    told: tuple[tuple[str, Any, Any], ...] = (
        ("label", generated.labels, reference.labels),
        ("caption", generated.captions, reference.captions),
    )
    for what, ours, theirs in told:
        if ours is None or theirs is None:
            continue
        i = next((i for i in range(generated.count) if ours[i] != theirs[i]), None)
        if i is not None:
            raise InputRejected(
                f"{metric.name} compares image i with image i, and image {i} has the {what} {ours[i]!s} in "
                f"{generated.origin} and {theirs[i]!s} in {reference.origin}. Give both in one order."
            )


def uses_reference(metric: Metric) -> bool:
    """Whether the metric compares with real images, which its signature says."""
    return "reference" in inspect.signature(metric.compute).parameters


def _compute(cell: Cell, device: str, generated: Evidence, reference: Evidence | None) -> Score:
    names = inspect.signature(cell.metric.compute).parameters
    given: dict[str, Any] = dict(cell.metric_ref.args)
    if "reference" in names:
        given["reference"] = reference
    if "device" in names:
        given["device"] = device
    return cell.metric.compute(generated=generated, **given)


def _measure(cell: Cell, comparison: _Comparison, spec: RunSpec | None, made_with: Mapping[str, Any]) -> Result:
    """Applies one metric, to the generated images and to the real ones that give its floor."""
    started = time.perf_counter()
    metric = cell.metric
    generated = comparison.roles["generated"]
    reference = comparison.roles.get(metric.against) if uses_reference(metric) else None
    assert generated is not None
    if uses_reference(metric) and reference is None:
        raise InputRejected(f"{metric.name} needs a {metric.against} set, and there is none here.")
    for role, samples in (("generated", generated), ("reference", reference)):
        if samples is not None:
            _check(cell, role, samples)
    if reference is not None and metric.paired:
        _check_pairs(metric, generated, reference)
    elif reference is not None and reference.shape != generated.shape and not metric.taps:
        raise InputRejected(f"{metric.name} compares pixels: {generated.shape} against {reference.shape}.")
    generated_evidence = comparison.evidence(cell, "generated")
    reference_evidence = comparison.evidence(cell, metric.against) if uses_reference(metric) else None
    limit = cell.protocol.references.get(metric.name)
    if reference_evidence is not None and limit and limit < reference_evidence.samples.count:
        reference_evidence = reference_evidence.first(limit)
    assert generated_evidence is not None
    score = _compute(cell, comparison.device, generated_evidence, reference_evidence)
    floor = _floor(cell, comparison, reference_evidence)
    extractor = comparison.extractor(cell)
    reference_side = None if reference_evidence is None else _reference_side(reference_evidence)
    key = extractor.key if extractor else None
    hashed = [str(cell.metric_ref), metric.version, key, reference_side and reference_side.digest, generated.count]
    return Result(
        metric=str(cell.metric_ref),
        metric_version=metric.version,
        extractor=str(cell.extractor_ref) if cell.extractor_ref else None,
        extractor_key=key,
        score=score,
        floor=floor,
        generated=_side(generated, captions=metric.captions),
        reference=reference_side,
        protocol=cell.protocol.name,
        protocol_hash=digest([*hashed, spec.quantise if spec else None], 16),
        higher_is_better=metric.higher_is_better,
        spec=spec,
        seconds=round(time.perf_counter() - started, 3),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        environment=made_with,
    )


def _attempt(cell: Cell, comparison: _Comparison, spec: RunSpec | None, made_with: Mapping[str, Any]) -> Result | None:
    """`_measure`, or a warning and None where that is allowed."""
    comparison.execution.report(f"measuring {cell.metric.name}", 0, 0)
    try:
        return _measure(cell, comparison, spec, made_with)
    except (InputRejected, MissingAsset, NotComparable) as error:
        if not comparison.execution.lenient:
            raise
        _log.warning("%s is left out: %s", cell.metric.name, error)
        return None


def class_captions(samples: Samples, prompt: str) -> Samples:
    """The samples with a caption an image made of its class; unchanged where labels or names of classes are missing."""
    if samples.labels is None or not samples.classes:
        return samples
    names = [prompt.format(name) for name in samples.classes]
    return replace(samples, captions=[names[int(label)] for label in samples.labels])


def _side(samples: Samples, *, captions: bool = False) -> Side:
    """For metrics that read captions these are part of the identity: the same images may be asked for otherwise."""
    content = samples.fingerprint()
    if captions:
        content = digest([content, list(samples.captions or ())])
    return Side(name=samples.origin, count=samples.count, digest=content)


def _reference_side(evidence: Evidence) -> Side:
    """What the generated images were compared with: the images, or what was published about more of them."""
    if not evidence.statistics:
        return _side(evidence.samples)
    name = f"{evidence.samples.origin}, statistics of an unknown number of images"
    return Side(name=name, count=None, digest=digest([s.digest() for _, s in sorted(evidence.statistics.items())]))


def _floor(cell: Cell, comparison: _Comparison, reference: Evidence | None) -> Score | None:
    """The metric of real images in the place of the generated ones; kept in the cache, because no model changes it."""
    role = cell.metric.floor
    samples = comparison.roles.get(f"floor_{role}") if role else None
    if role is None or samples is None:
        return None
    lacking = (cell.metric.labels and samples.labels is None) or (cell.metric.captions and samples.captions is None)
    if lacking or samples.count < cell.metric.minimum:
        return None
    extractor = comparison.extractor(cell)
    identity = [str(cell.metric_ref), cell.metric.version, extractor.key if extractor else None]
    identity += [samples.fingerprint(), _reference_side(reference).digest if reference is not None else None]
    identity += [digest(list(samples.captions or ()))] if cell.metric.captions else []
    path = weights.cache_directory() / "floors" / f"{digest(identity, 32)}.json"
    if path.exists():
        return report.read_score(json.loads(path.read_text(encoding="utf-8")))
    evidence = comparison.evidence(cell, f"floor_{role}")
    assert evidence is not None
    try:
        score = _compute(cell, comparison.device, evidence, reference)
    except (InputRejected, NotComparable):
        return None  # such as too few real images of a class: the floor is then not known
    path.parent.mkdir(parents=True, exist_ok=True)
    files.atomic_write(path, json.dumps(report.write_score(score), allow_nan=False).encode())
    return score


def _roles(
    dataset: Dataset, ref: Ref, count: int, protocol: Protocol, cells: Sequence[Cell], execution: Execution
) -> dict:
    """The real images that the metrics need, by role."""

    def take(role: str, number: int | None) -> Samples | None:
        samples = load_split(dataset, ref, role, execution)
        if samples is None or (number is not None and samples.count < number):
            return samples if role == "reference" else None
        return samples if number is None else samples.subset(0, number)

    wanted = dataset.reference_count if protocol.num_reference is None else protocol.num_reference
    number = wanted or None
    roles: dict[str, Samples | None] = {"reference": take("reference", number)}
    if any(cell.metric.against == "test" for cell in cells):
        roles["test"] = take("test", None)
    floors = {cell.metric.floor for cell in cells}
    for role in ("held_out", "reference"):
        if role in floors:
            roles[f"floor_{role}"] = take(role, count)
    return roles


def run(
    spec: RunSpec,
    measurements: Sequence[Measurement],
    *,
    protocol: Protocol,
    output: Path,
    execution: Execution | None = None,
) -> Outcome:
    """Samples a model and measures the samples; continues, or returns at once, what was done before.

    Args:
        output: directory of runs; this one lies in output/<spec.id>.

    Raises:
        GenbenchError: see `genbench.errors`; the message says what to do.
    """
    execution = execution or Execution()
    loader, dataset, spec = bind_spec(spec)
    cells = bind_cells(measurements, protocol)
    directory = output / spec.id
    requests = {request_id(spec, cell, execution): cell for cell in cells}
    stored = {} if execution.fresh else report.read_results(directory)
    if all(key in stored for key in requests) and generation.is_complete(directory / "samples", spec):
        return Outcome(spec=spec, results=tuple(stored[k] for k in requests), directory=directory, cached=True)

    device = environment.choose_device(execution.device)
    model = load_model(loader, spec, device, execution)
    with _of_model(spec):
        key_of_model = model.key  # finds its weights, before anything is written
    _check_disk(output, spec, model)
    with files.locked(directory):
        if execution.fresh:
            (directory / "samples" / "manifest.json").unlink(missing_ok=True)
        samples = _generate(model, spec, dataset, directory, execution, device)
        images.write_grid(samples.read(0, min(64, samples.count)), directory / "grid.png")
        roles = _roles(dataset, spec.dataset, spec.num_samples, protocol, cells, execution)
        if model.conditioning == "label":
            # Of these images only the class is known; real ones are then described as briefly, or floors would differ.
            samples = class_captions(samples, dataset.prompt)
            roles = {role: real and class_captions(real, dataset.prompt) for role, real in roles.items()}
        comparison = _Comparison({"generated": samples, **roles}, cells, execution, device)
        made_with = environment.describe(device) | {
            "evaluations": model.evaluations, "model_key": key_of_model, "differs": differs(spec),
        }  # fmt: skip
        for key, cell in requests.items():
            if key not in stored and (result := _attempt(cell, comparison, spec, made_with)) is not None:
                stored[key] = result
                report.write_results(directory, stored)
    results = tuple(stored[key] for key in requests if key in stored)
    return Outcome(spec=spec, results=results, directory=directory, cached=False)


def sample(spec: RunSpec, *, output: Path, execution: Execution | None = None) -> tuple[Samples, Path, RunSpec]:
    """Samples a model without measuring; the same shards serve a later `run` of the same spec."""
    execution = execution or Execution()
    loader, dataset, spec = bind_spec(spec)
    device = environment.choose_device(execution.device)
    model = load_model(loader, spec, device, execution)
    with _of_model(spec):
        _ = model.key
    _check_disk(output, spec, model)
    directory = output / spec.id
    with files.locked(directory):
        samples = _generate(model, spec, dataset, directory, execution, device)
        images.write_grid(samples.read(0, min(64, samples.count)), directory / "grid.png")
    return samples, directory, spec


def trajectory(spec: RunSpec, *, count: int = 4, number: int = 10, execution: Execution | None = None) -> Images:
    """How the first images of a run came about, in so many moments: see `generation.frames`.

    Raises:
        UsageError: a model that does not show its steps.
    """
    execution = execution or Execution()
    loader, dataset, spec = bind_spec(spec)
    model = load_model(loader, spec, environment.choose_device(execution.device), execution)
    prompts = _prompts(dataset, spec, execution) if model.conditioning == "caption" else None
    return generation.trajectory(model, spec, min(count, spec.num_samples), number, prompts=prompts)


def _generate(
    model: Model, spec: RunSpec, dataset: Dataset, directory: Path, execution: Execution, device: str
) -> Samples:
    prompts = _prompts(dataset, spec, execution) if model.conditioning == "caption" else None
    classes = _classes(dataset, spec, execution) if model.conditioning == "label" else ()
    how = environment.describe(device)
    size = execution.batch_size or (64 if device == "cpu" else 256)
    if size < 1:
        raise UsageError(f"The batch size must be at least 1; got {size}.")

    def watch(first: int, step: int, steps: int) -> None:
        batch = min(generation.EXACT_BLOCK if spec.exact else size, spec.num_samples - first)
        execution.report("sampling", first + batch * step / steps, spec.num_samples)

    return generation.generate(
        model, spec, directory / "samples", batch_size=size, prompts=prompts, classes=classes, watch=watch,
        execution={k: how[k] for k in ("torch", "device", "device_name", "threads")},
    )  # fmt: skip


def _prompts(dataset: Dataset, spec: RunSpec, execution: Execution) -> Samples | None:
    """Captions to sample from: of images that are no reference, or of the reference where there are no others."""
    held_out = load_split(dataset, spec.dataset, "held_out", execution)
    return held_out or load_split(dataset, spec.dataset, "reference", execution)


def _classes(dataset: Dataset, spec: RunSpec, execution: Execution) -> tuple[str, ...]:
    """Names of the classes of a data set, if it is there; sampling must not need it."""
    try:
        samples = load_split(dataset, spec.dataset, "reference", execution)
    except GenbenchError:
        return ()
    return samples.classes if samples else ()


def _check_disk(output: Path, spec: RunSpec, model: Model) -> None:
    c, h, w = model.shape
    needed = spec.num_samples * c * h * w + (64 << 20)
    free = files.free_bytes(output)
    if free < needed:
        raise OutOfResources(
            f"{spec.num_samples} images of {c}x{h}x{w} need {needed >> 20} MiB under {output}; "
            f"{free >> 20} MiB are free. Choose another --output or fewer samples."
        )


def request_id(spec: RunSpec, cell: Cell, execution: Execution) -> str:
    """Identity of a measurement, found without a network: what was asked, and the digests of all shipped weights."""
    given = {name: weights.sha256(path) for name, path in sorted(execution.weights.items())}
    # A path says nothing about the file that lies there today.
    paths = {name: Path(value) for name, value in spec.model.args.items() if isinstance(value, str) and value}
    given |= {name: weights.sha256(path) for name, path in paths.items() if path.is_file()}
    given |= {name: files.state(path) for name, path in paths.items() if path.is_dir()}
    asked = [spec, str(cell), cell.metric.version, cell.protocol.name, execution.extractor_precision, given]
    return digest([*asked, weights.shipped()], 16)


def open_side(text: str, execution: Execution, *, role: str) -> tuple[Samples, Dataset | None, Ref | None]:
    """Images from what a user typed: a path to a folder, zip or npz, or a data set by name.

    A reference may also be an npz of published statistics (`images.open_reference`).

    A data set takes `split` and `count` beside its own arguments: `shapes(split='test', count=1000)`.

    Raises:
        InputRejected: a path that does not exist or holds no usable images.
        UsageError: neither a path nor the name of a data set.
    """
    if Path(text).exists():
        return images.open_reference(text) if role == "reference" else images.open_images(text), None, None
    looks_like_path = "/" in text or text.endswith((".zip", ".npz", ".npy"))
    if looks_like_path and "(" not in text:
        raise InputRejected(f"There is no folder, zip or npz at {text}.")
    ref = Ref.parse(text)
    if ref.name not in registry.table("dataset") and ":" not in ref.name:
        raise InputRejected(
            f"{text!r} is neither a path that exists nor a data set. Data sets: {', '.join(registry.table('dataset'))}."
        )
    args = dict(ref.args)
    split, count = args.pop("split", None), args.pop("count", None)
    dataset, ref = registry.bind("dataset", Ref(ref.name, args))
    if split is not None:
        dataset = replace(dataset, splits={**dataset.splits, role: str(split)})
    samples = load_split(dataset, ref, role, execution)
    if samples is None:
        raise UsageError(f"The data set {ref.name} has no {split or role} split here; give another, split='...'.")
    number = count if isinstance(count, int) else dataset.reference_count
    return samples if number is None or number >= samples.count else samples.subset(0, number), dataset, ref


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
) -> Outcome:
    """Measures images that exist.

    Args:
        extracted: evidence of the generated images that was made before, by the text of the extractor.
        held_out: real images that are not in the reference; as many of them as there are generated ones give
            the floors.
        test: labelled real images for metrics that test a classifier.
    """
    execution = execution or Execution()
    cells = bind_cells(measurements, protocol)
    device = environment.choose_device(execution.device)
    floor = held_out.subset(0, generated.count) if held_out and held_out.count >= generated.count else None
    trained = reference.subset(0, generated.count) if reference and reference.count >= generated.count else None
    roles = {"generated": generated, "reference": reference, "test": test}
    comparison = _Comparison(roles | {"floor_held_out": floor, "floor_reference": trained}, cells, execution, device)
    comparison.found |= {(name, "generated"): evidence for name, evidence in (extracted or {}).items()}
    made_with = environment.describe(device)
    results = (_attempt(cell, comparison, None, made_with) for cell in cells)
    return Outcome(spec=None, results=tuple(r for r in results if r is not None), directory=None, cached=False)
