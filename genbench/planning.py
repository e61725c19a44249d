"""What a command would do, before it does it: time, disk, what is there already and what is missing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genbench import environment, files, generation, measuring, pipeline, report, weights
from genbench.contracts import Model, taken_by
from genbench.errors import GenbenchError
from genbench.protocols import Protocol
from genbench.records import Measurement, RunSpec

_PROBE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Estimates for one run.

    Attributes:
        directory: where the run would lie; `id` is its last part.
        device: that "auto" resolves to.
        evaluations: network evaluations an image, None where the model cannot be made.
        sampling_seconds: estimated from one step of a batch of at most 32; 0 when the samples are there, None where it
            is not known, as when weights are missing.
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
    """Estimates a run without doing it: one network step is timed, nothing is downloaded or written."""
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
            # What a likelihood costs is not known before one was computed.
            if not any(cell.metric.likelihood for cell in to_do):
                seconds = 0.0 if sampled else _seconds_per_image(model, spec) * spec.num_samples
    return Plan(
        id=spec.id,
        directory=str(directory),
        device=device,
        num_samples=spec.num_samples,
        evaluations=evaluations,
        sampling_seconds=None if seconds is None else round(seconds, 1),
        disk_bytes=size,
        free_bytes=files.free_bytes(output),
        sampled=sampled,
        done=[str(cell) for cell in cells if str(cell) in known],
        to_do=[str(cell) for cell in to_do],
        missing=missing,
        exit_code=exit_code,
    )


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


def _seconds_per_image(model: Model, spec: RunSpec) -> float:
    """From the second step of one batch; the first one loads the network."""
    times: list[float] = []

    def watch(done: int, total: int) -> None:
        times.append(time.perf_counter())
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
