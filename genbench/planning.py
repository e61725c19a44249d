"""What a command would do, before it does it: time, disk, what is there already and what is missing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from genbench import costs, environment, files, generation, measuring, pipeline, report, weights
from genbench.contracts import Model, taken_by
from genbench.errors import GenbenchError
from genbench.protocols import Protocol
from genbench.records import Measurement, RunSpec

_PROBE = 32
_CALL = 16
_ROWS = 2048
"""Images of the call that an extractor is timed by, and rows that rates are measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Estimates for one run.

    Attributes:
        directory: where the run would lie; `id` is its last part.
        device: that "auto" resolves to.
        evaluations: network evaluations an image, None where the model cannot be made.
        sampling_seconds: estimated from one step of a batch of at most 32; 0 when the samples are there, None where it
            is not known, as when weights are missing.
        feature_seconds: of both sides and of the real images in place of the generated ones, if no features of them are
            kept; from one call of the extractor. None where it is not known.
        measuring_seconds: of the metrics that `costs` predicts, likewise, from rates of this machine.
        unpredicted: metrics that it does not.
        memory_bytes: of the largest piece of the predicted work, beside features, models and libraries.
        disk_bytes, free_bytes: of samples and features, None where it is not known; on the disk of the output.
        sampled: whether all images are there.
        done, to_do: measurements with and without a stored result.
        missing: one line for everything that stands against the run, such as a file of weights that is not there.
        exit_code: that `run` would end with for it, 0 where nothing is missing.
    """

    id: str
    directory: str
    device: str
    num_samples: int
    evaluations: float | None
    sampling_seconds: float | None
    feature_seconds: float | None
    measuring_seconds: float | None
    unpredicted: list[str]
    memory_bytes: int | None
    disk_bytes: int | None
    free_bytes: int
    sampled: bool
    done: list[str]
    to_do: list[str]
    missing: list[str]
    exit_code: int

    def as_dict(self) -> dict[str, Any]:
        """Returns the plan as plain data."""
        return asdict(self)


def plan(
    spec: RunSpec,
    measurements: Sequence[Measurement],
    *,
    protocol: Protocol,
    output: Path,
    execution: measuring.Execution,
) -> Plan:
    """Estimates a run without doing it: a step, a call and rates are timed, nothing is downloaded or written."""
    loader, dataset, spec = pipeline.bind_spec(spec)
    cells = pipeline.bind_cells(measurements, protocol)
    directory = generation.run_directory(output, spec)
    stored = {} if execution.fresh else report.read_results(directory)
    # By name alone: whether model and data are those of then is found out by the run, which may have to hash them.
    known = {result.measurement for result in stored.values() if result.protocol == protocol.name}
    to_do = [cell for cell in cells if str(cell) not in known]
    sampled = generation.is_complete(directory / "samples", spec)
    missing: list[str] = []
    exit_code, seconds, size, evaluations, device = 0, None, None, None, execution.device
    measuring_is = Measuring()
    with weights.no_downloads():
        try:
            ready = pipeline.prepare(loader, dataset, spec, to_do, output=output, execution=execution)
        except GenbenchError as error:
            missing, exit_code = str(error).split("\n"), error.exit_code
        with contextlib.suppress(GenbenchError):
            device = environment.choose_device(execution.device)
            model = ready.model if not missing else pipeline.load_model(loader, spec, device, execution)
            evaluations = model.evaluations
            of_images = any(not cell.metric.likelihood for cell in cells)
            size = spec.num_samples * int(np.prod(model.shape)) if of_images else 0
            if not missing:
                for name, cell in {str(c.extractor_ref): c for c in ready.cells}.items():
                    if (extractor := ready.extractors.get(name)) is not None:
                        taps = measuring.taps_of(cell, extractor)
                        size += 4 * spec.num_samples * sum(extractor.widths.get(tap, 0) for tap in taps)
            if not missing:
                number = pipeline.number_of_reference(dataset, protocol)
                measuring_is = measuring_of(ready, spec.num_samples, number)
            # What a likelihood costs is not known before one was computed.
            if not any(cell.metric.likelihood for cell in to_do):
                seconds = 0.0 if sampled else seconds_per_image(model, spec) * spec.num_samples
    return Plan(
        id=spec.id,
        directory=str(directory),
        device=device,
        num_samples=spec.num_samples,
        evaluations=evaluations,
        sampling_seconds=None if seconds is None else round(seconds, 1),
        feature_seconds=measuring_is.feature_seconds,
        measuring_seconds=measuring_is.seconds,
        unpredicted=measuring_is.unpredicted,
        memory_bytes=measuring_is.memory_bytes,
        disk_bytes=size,
        free_bytes=files.free_bytes(output),
        sampled=sampled,
        done=[str(cell) for cell in cells if str(cell) in known],
        to_do=[str(cell) for cell in to_do],
        missing=missing,
        exit_code=exit_code,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """What measuring costs, as the attributes of `Plan` say."""

    feature_seconds: float | None = None
    seconds: float | None = None
    unpredicted: list[str] = field(default_factory=list)
    memory_bytes: int | None = None


def measuring_of(ready: pipeline.Ready, count: int, number: int | None) -> Measuring:
    """Predicts what the measurements of a run cost that are not there.

    Args:
        count: generated images.
        number: most images of the reference, None for all.
    """
    real = ready.splits.get("reference")
    known = 0 if real is None else min(real.count, number or real.count)
    groups: dict[tuple[str, str, costs.Sizes, bool], list[str]] = {}
    unpredicted: list[str] = []
    for cell in ready.cells:
        extractor, name = ready.extractors.get(str(cell.extractor_ref)), cell.metric.name
        tap = measuring.taps_of(cell, extractor)[0] if extractor is not None and name in costs.METRICS else ""
        width = extractor.widths.get(tap, 0) if extractor is not None else 0
        if not (width and known):
            unpredicted.append(name)
            continue
        limits = [measuring.limit_of(cell, role) for role in ("generated", "reference")]
        n, m = (min(has, limit or has) for has, limit in zip((count, known), limits, strict=True))
        sizes = costs.Sizes(generated=n, reference=m, width=width)
        groups.setdefault((str(cell.extractor_ref), tap, sizes, _floored(ready, cell, count)), []).append(name)
    stages = {group: costs.stages_of(metrics) for group, metrics in groups.items()}
    rates = {
        width: costs.measure_rates(
            width,
            {stage for (_, _, sizes, _), some in stages.items() if sizes.width == width for stage, _ in some},
            rows=_ROWS,
            rounds=1,
            device=ready.device,
        )
        for width in {sizes.width for _, _, sizes, _ in groups}
    }
    seconds, memory = 0.0, 0.0
    for (_, _, sizes, floored), some in stages.items():
        for stage, side in some:
            times = 2 if floored and side != "reference" else 1
            seconds += times * costs.seconds_of(stage, side, sizes, rates[sizes.width])
            memory = max(memory, costs.memory_of(stage, side, sizes))
    return Measuring(
        feature_seconds=round(_seconds_of_features(ready, count, known), 1),
        seconds=round(seconds, 1),
        unpredicted=unpredicted,
        memory_bytes=int(memory),
    )


def _floored(ready: pipeline.Ready, cell: measuring.Cell, count: int) -> bool:
    """Whether the metric is also computed of as many real images in the place of the generated ones."""
    split = ready.splits.get(cell.metric.floor or "")
    return split is not None and split.count >= count


def _seconds_of_features(ready: pipeline.Ready, count: int, known: int) -> float:
    """Seconds of all extractors, from one call of each on noise."""
    import torch

    images = np.random.default_rng(0).integers(0, 256, (_CALL, *ready.generated.shape), dtype=np.uint8)
    seconds = 0.0
    for name, extractor in ready.extractors.items():
        cells = [cell for cell in ready.cells if str(cell.extractor_ref) == name]
        taps = sorted(
            {tap for cell in cells for tap in measuring.taps_of(cell, extractor)}
            & set(extractor.widths if extractor else ())
        )
        if extractor is None or not taps:
            continue
        x = torch.from_numpy(images).to(ready.device)

        def call(embed: Any = extractor.embed, x: Any = x, taps: Any = taps) -> object:
            return [value.sum().item() for value in embed(x, taps).values()]

        call()  # loads what is loaded once
        each = costs.seconds_taken(call, clock=time.perf_counter, rounds=1) / _CALL
        floors = count * any(_floored(ready, cell, count) for cell in cells)
        seconds += each * (count + known + floors)
    return seconds


def duration(seconds: float | None) -> str:
    """A time as people say it, in its largest unit that is at least two: "65 days", "3 minutes"."""
    if seconds is None:
        return "unknown"
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 2 or not seconds else f"{seconds:.1f} seconds"


class _Enough(Exception):
    """Ends a sampling after its first steps."""


def seconds_per_image(model: Model, spec: RunSpec, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of sampling an image, by the second step of one batch of 32; the first step loads the network."""
    times: list[float] = []

    def watch(done: int, total: int) -> None:
        times.append(clock())
        if len(times) == 3 or done == total:
            times.append((times[-1] - times[0]) / max(len(times) - 1, 1) * total)
            raise _Enough

    count = min(_PROBE, spec.num_samples)
    seeds = generation.image_seeds(spec.seed, 0, count)
    taken = taken_by(model)
    given: dict[str, Any] = {"captions": [""] * count} if "captions" in taken else {}
    if "labels" in taken:
        given["labels"] = generation.image_labels(seeds, model.classes)
    try:
        model.sample(seeds, watch=watch, **given)
    except _Enough:
        return times[-1] / count
    return 0.0
