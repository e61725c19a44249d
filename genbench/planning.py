"""What a command would do, before it does it: time, disk, what is there already and what is missing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genbench import environment, files, generation, measuring, pipeline, report
from genbench.contracts import Model, taken_by
from genbench.errors import MissingAsset
from genbench.protocols import Protocol
from genbench.records import Measurement, RunSpec

_PROBE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Estimates for one run.

    Attributes:
        directory: where the run would lie; `id` is its last part.
        device: that "auto" resolves to.
        evaluations: network evaluations an image.
        sampling_seconds: estimated from one step of a batch of 32; 0 when the samples are there or cannot be made.
        disk_bytes, free_bytes: of samples and features; on the disk of the output.
        sampled: whether all images are there.
        done, to_do: measurements with and without a stored result.
        missing: one line for every asset that is not on this machine; of a model's weights, the first one.
    """

    id: str
    directory: str
    device: str
    num_samples: int
    evaluations: float | None
    sampling_seconds: float
    disk_bytes: int
    free_bytes: int
    sampled: bool
    done: list[str]
    to_do: list[str]
    missing: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def plan(
    spec: RunSpec,
    measurements: Sequence[Measurement],
    *,
    protocol: Protocol,
    output: Path,
    execution: measuring.Execution,
) -> Plan:
    """Estimates a run without doing it: one network step is timed, nothing is written."""
    loader, dataset, spec = pipeline.bind_spec(spec)
    cells = pipeline.bind_cells(measurements, protocol)
    directory = generation.run_directory(output, spec)
    device = environment.choose_device(execution.device)
    missing: list[str] = []
    stored = {} if execution.fresh else report.read_results(directory)
    requests = {pipeline.request_id(spec, cell, execution): str(cell) for cell in cells}
    sampled = generation.is_complete(directory / "samples", spec)
    model = pipeline.load_model(loader, spec, device, execution)
    seconds, width = 0.0, 0
    for cell in {str(c.extractor_ref): c for c in cells}.values():
        try:
            extractor = measuring.load_extractor(cell, execution, device)
            width += sum(extractor.widths.get(tap, 0) for tap in cell.metric.taps) if extractor else 0
        except MissingAsset as error:
            missing.append(str(error))
    for role in {"reference", *(c.metric.floor for c in cells if c.metric.floor), *(c.metric.against for c in cells)}:
        try:
            pipeline.load_split(dataset, spec.dataset, role, execution)
        except MissingAsset as error:
            missing.append(str(error))
            break
    if not sampled:
        try:
            seconds = _seconds_per_image(model, spec) * spec.num_samples
        except MissingAsset as error:
            missing.append(str(error))
    c, h, w = model.shape
    return Plan(
        id=spec.id, directory=str(directory), device=device, num_samples=spec.num_samples,
        evaluations=model.evaluations,
        sampling_seconds=round(seconds, 1), disk_bytes=spec.num_samples * (c * h * w + 4 * width),
        free_bytes=files.free_bytes(output), sampled=sampled, done=[n for k, n in requests.items() if k in stored],
        to_do=[n for k, n in requests.items() if k not in stored], missing=missing,
    )  # fmt: skip


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

    seeds = generation.image_seeds(spec.seed, 0, _PROBE)
    taken = taken_by(model)
    given: dict[str, Any] = {"captions": [""] * _PROBE} if "captions" in taken else {}
    if "labels" in taken:
        given["labels"] = generation.image_labels(seeds, model.classes)
    try:
        model.sample(seeds, watch=watch, **given)
    except _Enough:
        return times[-1] / _PROBE
    return 0.0
