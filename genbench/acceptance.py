"""How a baseline comes about: accepting a run or images, and measuring what changes nothing."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genbench import baseline as baselines
from genbench import comparison, environment, features, pipeline, protocols, sides
from genbench.arrays import Samples
from genbench.baseline import Acceptance, Baseline, Kept
from genbench.contracts import Extractor
from genbench.errors import NotComparable, UsageError, shown
from genbench.measuring import Execution, limit_of, load_extractor, taps_of
from genbench.records import Measurement, Result, RunSpec
from genbench.sides import Wanted, cells_of
from genbench.weights import cache_directory

if TYPE_CHECKING:
    from genbench.requests import Source
    from genbench.sides import Given


def accept(
    given: Given,
    output: str | Path,
    *,
    reason: str,
    reference: Source | None = None,
    metrics: Sequence[str] = (),
    protocol: str | None = None,
    precision: str = "float32",
    with_images: bool = False,
    allow_code: bool = False,
    execution: Execution | None = None,
    announce: Callable[[str], None] = lambda text: None,
) -> Baseline:
    """Writes the results of a run or of images as a baseline, whose history goes on where there is one.

    Args:
        given: the folder of a run, its outcome, or images as `genbench.score` takes them.
        output: the file. It ends in .safetensors.
        reason: why these numbers are right, for whoever reads the history.
        reference, metrics, protocol: as of `genbench.compare`.
        precision: of the stored features, "float32" or "float16", which halves the file. The results themselves are of
            the unrounded features; how much the rounded ones change each value is stored beside them.
        announce: told the size of the file before it is written.

    Raises:
        UsageError: no reason, another ending, or results without the images they are of.
        NotComparable: a file is there already and is no baseline.
        GenbenchError: what cannot be opened or measured.
    """
    execution, path = execution or Execution(), Path(output)
    if not reason.strip():
        raise UsageError("A baseline is accepted for a reason; say it, --reason TEXT.")
    if path.suffix != baselines.ENDING:
        raise UsageError(f"A baseline is a file that ends in {baselines.ENDING}; got {shown(path)}.")
    if precision not in baselines.PRECISIONS:
        raise UsageError(f"The precision of a baseline is {' or '.join(baselines.PRECISIONS)}; got {precision!r}.")
    history = baselines.read(path, allow_code=allow_code).history if path.exists() else ()
    wanted = Wanted(metrics=tuple(metrics), reference=reference, protocol=protocol)
    found = sides.opened(given, wanted, execution=execution, allow_code=allow_code)
    samples = found.samples
    if samples is None:
        raise UsageError(f"{shown(found.name)} holds numbers and no images; accept the folder of the run.")
    if any(result.generated.count not in (None, samples.count) for result in found.results) and found.spec:
        raise NotComparable(f"{shown(found.name)} has {samples.count} images, and its results are of other numbers.")
    digests = features.pixel_digests(samples, workers=execution.workers)
    kept = tuple(_features(found.results, samples, execution))
    size = math.prod(samples.shape) * samples.count
    if with_images and size > baselines.LARGEST // 2:
        raise UsageError(f"{samples.count} images are {size:,} bytes, too many for a baseline; leave out --images.")
    pixels = samples.read(0, samples.count) if with_images else None
    bare = baselines.kept_samples(
        digests,
        samples.shape,
        pixels=pixels,
        origin=found.name,
        labels=samples.labels,
        captions=samples.captions,
        classes=samples.classes,
        quantise=samples.quantise,
    )
    made = Baseline(
        name=found.name, results=found.results, samples=bare, asked=found.asked, features=kept, pixels=pixels
    )
    made = baselines.rounded(made, precision)
    if precision != "float32":
        made = replace(made, shifts=_shifts(made, wanted, execution))
    entry = Acceptance(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        commit=environment.commit(),
        reason=reason.strip(),
        values={result.measurement: result.score.value for result in found.results},
    )
    made = replace(made, history=(*history, entry))
    what = f"{samples.count} images{' with their pixels' if with_images else ''}, features as {precision}"
    announce(f"{path}: {len(baselines.encoded(made)):,} bytes, {what}")
    baselines.write(made, path)
    return baselines.read(path, allow_code=True)


def _features(results: Sequence[Result], samples: Samples, execution: Execution) -> Iterator[Kept]:
    """Every tap that the metrics read of the images, each once; from the cache where they are there."""
    device = environment.choose_device(execution.device)
    extractors: dict[str, Extractor] = {}
    wanted: dict[str, dict[str, None]] = {}
    for cell in cells_of(results):
        name = str(cell.extractor_ref)
        if cell.metric.pairwise or cell.load_extractor is None:
            continue
        if name not in extractors:
            loaded = load_extractor(cell, execution, device)
            assert loaded is not None
            extractors[name] = loaded
        taps = [tap for tap in taps_of(cell, extractors[name]) if tap != features.CAPTIONS]
        wanted.setdefault(name, {}).update(dict.fromkeys(taps))
    for name, extractor in extractors.items():
        evidence = features.evidence(
            samples,
            extractor,
            list(wanted[name]),
            cache=cache_directory() / "features",
            device=device,
            workers=execution.workers,
        )
        for tap, found in evidence.taps.items():
            yield Kept(extractor=name, key=extractor.key, tap=tap, values=np.array(found.values()))


def _shifts(made: Baseline, wanted: Wanted, execution: Execution) -> dict[str, float]:
    """By measurement, its value from the stored features less the one of the unrounded features."""
    alike = {str(cell): cell for cell in cells_of(made.results)}
    texts = tuple(
        result.measurement
        for result in made.results
        if (cell := alike.get(result.measurement))
        and cell.metric.taps
        and not cell.metric.pairwise
        and not cell.metric.images
        and features.CAPTIONS not in cell.metric.taps
        and limit_of(cell, "generated") is None
    )
    if not texts:
        return {}
    first = made.results[0]
    reference = wanted.reference
    if reference is None and first.spec is not None:
        reference = str(first.spec.dataset)
    again = sides.measured_from(
        made.samples, made.evidence(), texts, reference=reference, protocol=first.protocol, execution=execution
    )
    before = {result.measurement: result.score.value for result in made.results}
    return {r.measurement: r.score.value - before[r.measurement] for r in again if r.measurement in before}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """What is done otherwise and means nothing.

    Attributes:
        spec: how a run is sampled instead.
        execution: how its work is done instead.
        threads: of torch, None leaves them.
    """

    spec: Callable[[RunSpec], RunSpec] = lambda spec: spec
    execution: Callable[[Execution], Execution] = lambda execution: execution
    threads: int | None = None


VARIATIONS: dict[str, Variation] = {
    "batch size": Variation(execution=lambda how: replace(how, batch_size=17 if how.batch_size != 17 else 16)),
    "threads": Variation(threads=1),
    "bfloat16": Variation(spec=lambda spec: replace(spec, precision="bfloat16")),
    "seeds": Variation(spec=lambda spec: replace(spec, seed=spec.seed + 1)),
    "device": Variation(execution=lambda how: replace(how, device="cpu")),
}
"""By name. Threads are one instead of as many as there are, or two where there is one. The device is the CPU where the
baseline was made on another, and is left out where it was not."""


def calibrate(
    path: str | Path,
    *,
    only: Sequence[str] = (),
    output: str | Path = "runs",
    allow_code: bool = False,
    execution: Execution | None = None,
    announce: Callable[[str], None] = lambda text: None,
) -> Baseline:
    """Measures what changes nothing, and stores how much it changes the numbers of a baseline.

    The model of the baseline is sampled anew as it was, as the reference point, and once for each variation. A margin
    below the largest difference is refused by a gate.

    Args:
        path: of the baseline, which is written anew.
        only: names of `VARIATIONS`; all of them, if empty.
        output: directory of runs.

    Raises:
        UsageError: an unknown variation, or a baseline of images that no run made.
        GenbenchError: what cannot be sampled or measured.
    """
    for name in only:
        if name not in VARIATIONS:
            raise UsageError(f"No variation {name!r}; there are {', '.join(VARIATIONS)}.")
    execution = replace(execution or Execution(), fresh=True)
    known = baselines.read(Path(path), allow_code=allow_code)
    spec = known.spec
    if spec is None:
        raise UsageError(f"{shown(known.name)} is of images that no run made, and nothing can be sampled of it.")
    now = _values(known, spec, execution, Path(output))
    noise = {name: dict(found) for name, found in known.noise.items()}
    for name in only or VARIATIONS:
        variation = VARIATIONS[name]
        if name == "device" and environment.choose_device(execution.device) == "cpu":
            continue
        with _threads(variation.threads):
            # Another place: what differs in execution alone has the same folder, whose images would be found.
            place = Path(output) / f"calibration-{name.replace(' ', '-')}"
            found = _values(known, variation.spec(spec), variation.execution(execution), place)
        for measurement, value in found.items():
            noise.setdefault(measurement, {})[name] = value - now[measurement]
        announce(f"{name}: " + ", ".join(f"{m} {found[m] - now[m]:+.3g}" for m in found))
    baselines.write(replace(known, noise=noise), Path(path))
    return baselines.read(Path(path), allow_code=True)


def _values(known: Baseline, spec: RunSpec, execution: Execution, output: Path) -> dict[str, float]:
    protocol = protocols.protocol(known.results[0].protocol)
    wanted = [Measurement.parse(result.measurement) for result in known.results]
    outcome = pipeline.run(spec, wanted, protocol=protocol, output=output, execution=execution)
    found = {}
    for result in known.results:
        other = comparison.counterpart(result, outcome.results)
        if other is not None:
            found[result.measurement] = other.score.value
    return found


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    if wanted is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(wanted if before != wanted else wanted + 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
