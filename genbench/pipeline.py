"""The pipeline, top to bottom. Every number that genbench prints is made by `measure`.

    bind names -> look for finished results -> check disk -> sample -> extract -> measure -> store

Everything that can be refused is refused before anything is sampled.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from genbench import environment, files, generation, images, papers, registry, report, weights
from genbench.arrays import Evidence, Images, Samples
from genbench.contracts import Dataset, Model, taken_by
from genbench.errors import GenbenchError, InputRejected, MissingAsset, OutOfResources, UsageError, shown
from genbench.measuring import Cell, Comparison, Execution, attempt
from genbench.outcome import Outcome
from genbench.protocols import Protocol
from genbench.records import Measurement, Ref, RunSpec, digest

_log = logging.getLogger(__name__)


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


def load_split(dataset: Dataset, ref: Ref, role: str, execution: Execution) -> Samples | None:
    """All images of the split that plays a role, or None when the data set has none."""
    if role not in dataset.splits:
        return None
    args: dict[str, Any] = dict(ref.args)
    if "directory" in inspect.signature(dataset.load).parameters:
        args["directory"] = execution.data_dir
    samples = dataset.load(dataset.splits[role], **args)
    if samples is None or not dataset.named:
        return samples
    return replace(samples, dataset=str(Ref(f"{dataset.name} {dataset.version}", ref.brief().args)))


def class_captions(samples: Samples, prompt: str) -> Samples:
    """The samples with a caption an image made of its class; unchanged where labels or names of classes are missing."""
    if samples.labels is None or not samples.classes:
        return samples
    names = [prompt.format(name) for name in samples.classes]
    return replace(samples, captions=[names[int(label)] for label in samples.labels])


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
        output: directory of runs; this one lies in output/<spec.id>, see `generation.run_directory`.

    Raises:
        GenbenchError: see `genbench.errors`; the message says what to do.
    """
    execution = execution or Execution()
    loader, dataset, spec = bind_spec(spec)
    cells = bind_cells(measurements, protocol)
    directory = generation.run_directory(output, spec)
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
        if "labels" in taken_by(model):
            # Of these images only the class is known; real ones are then described as briefly, or floors would differ.
            samples = class_captions(samples, dataset.prompt)
            roles = {role: real and class_captions(real, dataset.prompt) for role, real in roles.items()}
        comparison = Comparison({"generated": samples, **roles}, cells, execution, device)
        made_with = environment.describe(device) | {
            "evaluations": model.evaluations, "model_key": key_of_model, "differs": differs(spec),
        }  # fmt: skip
        for key, cell in requests.items():
            if key not in stored and (result := attempt(cell, comparison, spec, made_with)) is not None:
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
    directory = generation.run_directory(output, spec)
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
    prompts = _prompts(model, dataset, spec, execution)
    return generation.trajectory(model, spec, min(count, spec.num_samples), number, prompts=prompts)


def _generate(
    model: Model, spec: RunSpec, dataset: Dataset, directory: Path, execution: Execution, device: str
) -> Samples:
    prompts = _prompts(model, dataset, spec, execution)
    classes = _classes(dataset, spec, execution) if "labels" in taken_by(model) else ()
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


def _prompts(model: Model, dataset: Dataset, spec: RunSpec, execution: Execution) -> Samples | None:
    """Captions and images to sample from: of images that are no reference, or of the reference where there are no
    others; None where the model takes none."""
    if taken_by(model) <= {"labels"}:
        return None
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
    if not text.strip():
        raise UsageError("An empty text names no images; is a variable of the shell not set? Write . for this folder.")
    if _exists(text):
        return images.open_reference(text) if role == "reference" else images.open_images(text), None, None
    looks_like_path = "/" in text or text.endswith((".zip", ".npz", ".npy"))
    if looks_like_path and "(" not in text:
        raise InputRejected(f"There is no folder, zip or npz at {shown(text[:200])}.")
    ref = Ref.parse(text)
    if ref.name not in registry.table("dataset") and ":" not in ref.name:
        raise InputRejected(
            f"{text[:200]!r} is neither a path that exists nor a data set. "
            f"Data sets: {', '.join(registry.table('dataset'))}."
        )
    args = dict(ref.args)
    split, count = args.pop("split", None), args.pop("count", None)
    if count is not None and (type(count) is not int or count < 1):
        raise UsageError(f"count is a whole number of at least 1; got {count!r} in {text}.")
    if split is not None and (not isinstance(split, str) or not split):
        raise UsageError(f"split is the name of a split, such as 'test'; got {split!r} in {text}.")
    dataset, ref = registry.bind("dataset", Ref(ref.name, args))
    if split is not None:
        dataset = replace(dataset, splits={**dataset.splits, role: str(split)})
    samples = load_split(dataset, ref, role, execution)
    if samples is None:
        raise UsageError(f"The data set {ref.name} has no {split or role} split here; give another, split='...'.")
    if count is not None and count > samples.count:
        raise UsageError(f"{samples.origin} has {samples.count} images; {count} were asked for in {text}.")
    number = dataset.reference_count if count is None else count
    return samples if number is None or number >= samples.count else samples.subset(0, number), dataset, ref


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # a name too long, or one that holds a zero byte
        return False


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
    comparison = Comparison(roles | {"floor_held_out": floor, "floor_reference": trained}, cells, execution, device)
    comparison.found |= {(name, "generated"): evidence for name, evidence in (extracted or {}).items()}
    made_with = environment.describe(device)
    results = (attempt(cell, comparison, None, made_with) for cell in cells)
    return Outcome(spec=None, results=tuple(r for r in results if r is not None), directory=None, cached=False)
