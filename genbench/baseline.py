"""Baseline files: accepted numbers of a model, and per image the features behind them, in one file of safetensors.

A later comparison in pairs needs neither the code nor the images of its day. Nothing moves a baseline but `write`,
which `genbench baseline accept` calls. The history in the file says when, of what commit and why.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genbench import comparability, report
from genbench.arrays import Evidence, Features, Images, Samples, fingerprint_of, image_digests
from genbench.errors import InputRejected, NotComparable, UsageError, shown
from genbench.files import atomic_write
from genbench.records import Measurement, Ref, Result, RunSpec, canonical

SCHEMA = "genbench.baseline/1"
ENDING = ".safetensors"
PRECISIONS = ("float32", "float16")
LARGEST = 4 << 30
"""Bytes of a baseline file beyond which it is not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Features of all images at one tap of an extractor.

    Attributes:
        extractor: reference text with all arguments.
        key: of the extractor, see `genbench.contracts.Extractor.key`.
        values: (n, d), float32 or float16.
    """

    extractor: str
    key: str
    tap: str
    values: NDArray[np.floating]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """One entry of the history of a baseline.

    Attributes:
        date: of day and time, ISO 8601.
        commit: of the checkout that accepted it, None where there is none.
        reason: in the words of whoever accepted it.
        values: measurement to value.
    """

    date: str
    commit: str | None
    reason: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What was accepted.

    Attributes:
        name: for people: where it was read from, or what was accepted.
        results: of the accepted images; their environment tells versions, device and commit.
        samples: the images: number, shape, digests, labels and captions; to read them is refused without `pixels`.
        asked: see `genbench.identities.asked`, None of images that no run made.
        features: of every tap that a metric reads.
        pixels: uint8 (n, c, h, w), None where they are not kept.
        precision: of the stored features.
        shifts: measurement to the change of its value when it is measured from the stored features. Results themselves
            are those of the unrounded features.
        noise: measurement to what differs to the difference that it makes. See `genbench.acceptance.calibrate`.
        history: oldest first.
    """

    name: str
    results: tuple[Result, ...]
    samples: Samples
    asked: str | None
    features: tuple[Kept, ...] = ()
    pixels: Images | None = None
    precision: str = "float32"
    shifts: Mapping[str, float] = field(default_factory=dict)
    noise: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    history: tuple[Acceptance, ...] = ()

    @property
    def spec(self) -> RunSpec | None:
        """The run that was accepted, None of images that no run made."""
        return self.results[0].spec

    def floor_of_noise(self, measurement: str, *, in_pairs: bool) -> float | None:
        """The largest difference that a change without a meaning made; None before the baseline was calibrated.

        Other seeds are no such change where both sides have the same ones.
        """
        found = self.noise.get(measurement, {})
        return max((abs(value) for what, value in found.items() if what != "seeds" or not in_pairs), default=None)

    def evidence(self, count: int | None = None) -> dict[str, Evidence]:
        """The features of the first `count` images, of all for None, by the text of the extractor."""
        stop = self.samples.count if count is None else count
        samples = self.samples.subset(0, stop)
        taps: dict[str, dict[str, Features]] = {}
        for kept in self.features:
            rows = np.asarray(kept.values[:stop], dtype=np.float32)
            taps.setdefault(kept.extractor, {})[kept.tap] = Features(extractor=kept.key, tap=kept.tap, array=rows)
        return {name: Evidence(samples=samples, taps=found) for name, found in taps.items()}


def write(baseline: Baseline, path: Path) -> None:
    """Writes the file, whole or not at all."""
    atomic_write(path, encoded(baseline))


def encoded(baseline: Baseline) -> bytes:
    """The content of the file."""
    from safetensors.numpy import save

    samples = baseline.samples
    assert samples.hashes is not None
    tensors: dict[str, NDArray[Any]] = {"digests": np.ascontiguousarray(samples.hashes(0, samples.count))}
    if samples.labels is not None:
        tensors["labels"] = np.ascontiguousarray(samples.labels)
    if baseline.pixels is not None:
        tensors["pixels"] = np.ascontiguousarray(baseline.pixels)
    tensors |= {f"features.{i}": np.ascontiguousarray(kept.values) for i, kept in enumerate(baseline.features)}
    told = {
        "schema": SCHEMA,
        "results": [report.write_result(result) for result in baseline.results],
        "asked": baseline.asked,
        "shape": list(samples.shape),
        "origin": samples.origin,
        "captions": None if samples.captions is None else list(samples.captions),
        "classes": list(samples.classes),
        "quantise": samples.quantise,
        "precision": baseline.precision,
        "shifts": dict(baseline.shifts),
        "features": [{"extractor": kept.extractor, "key": kept.key, "tap": kept.tap} for kept in baseline.features],
        "noise": {name: dict(found) for name, found in baseline.noise.items()},
        "history": [asdict(entry) for entry in baseline.history],
    }
    told["digest"] = _digest(told, tensors)
    return save(tensors, {SCHEMA: canonical(told)})


def _digest(told: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    total = hashlib.sha256(canonical(told).encode())
    for name in sorted(tensors):
        total.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        total.update(np.ascontiguousarray(tensors[name]).data)
    return total.hexdigest()


def read(path: Path, *, allow_code: bool = False) -> Baseline:
    """Reads and checks a file.

    Args:
        allow_code: whether it may name components by module:attribute, which would be imported.

    Raises:
        NotComparable: there is no such file, or it is damaged, or of a later version, or a number in it is not finite.
        UsageError: it names code.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise NotComparable(
            f"There is no baseline {shown(path)}; `genbench baseline accept RUN --output {shown(path)}` makes one."
        )
    if path.stat().st_size > LARGEST:
        raise NotComparable(f"{shown(path)} is larger than {LARGEST >> 30} GiB, which no baseline is.")
    try:
        with safe_open(path, framework="np") as file:
            told = json.loads((file.metadata() or {})[SCHEMA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - this is no dict
        if told.pop("digest") != _digest(told, tensors):
            raise ValueError("its content is not that of its digest")
        return _parsed(told, tensors, str(path), allow_code)
    except (
        SafetensorError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
        InputRejected,
        OverflowError,
    ) as error:
        reason = f"no field {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise NotComparable(
            f"{shown(path)} is no baseline that can be read ({shown(reason[:200])}); accept the model again."
        ) from error


def _parsed(told: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], name: str, allow_code: bool) -> Baseline:
    if told["schema"] != SCHEMA:
        raise ValueError(f"its schema is {told['schema']} and this version reads {SCHEMA}")
    results = tuple(report.read_result(data) for data in told["results"])
    if not results:
        raise ValueError("it has no results")
    digests, labels = tensors["digests"], tensors.get("labels")
    c, h, w = map(int, told["shape"])
    if digests.dtype != np.uint8 or digests.shape != (len(digests), 32) or min(c, h, w) < 1:
        raise ValueError("its images have no digests")
    count = len(digests)
    for result in results:
        comparability.refuse_code(result, name, allow_code=allow_code)
        _check_score(result)
        if result.generated.count is None or result.generated.count > count:
            raise ValueError(f"{result.measurement} is of {result.generated.count} images and the file holds {count}")
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != (count,)):
        raise ValueError("its labels are not one whole number an image")
    kept = []
    for i, entry in enumerate(told["features"]):
        values = tensors[f"features.{i}"]
        if values.dtype.kind != "f" or values.ndim != 2 or len(values) != count or not np.isfinite(values).all():
            raise ValueError(f"the features {entry['tap']} are not finite numbers, a row an image")
        kept.append(
            Kept(extractor=str(entry["extractor"]), key=str(entry["key"]), tap=str(entry["tap"]), values=values)
        )
    pixels = tensors.get("pixels")
    if pixels is not None and (
        pixels.dtype != np.uint8
        or pixels.shape != (count, c, h, w)
        or not np.array_equal(image_digests(pixels), digests)
    ):
        raise ValueError("its images are not those of their digests")
    samples = kept_samples(
        digests,
        (c, h, w),
        pixels=pixels,
        origin=name,
        labels=labels,
        captions=told["captions"],
        classes=tuple(map(str, told["classes"])),
        quantise=told["quantise"],
    )
    numbers = [told["shifts"], *told["noise"].values(), *(entry["values"] for entry in told["history"])]
    if not all(math.isfinite(value) for found in numbers for value in found.values()):
        raise ValueError("a number in it is not finite")
    return Baseline(
        name=name,
        results=results,
        samples=samples,
        asked=told["asked"],
        features=tuple(kept),
        pixels=pixels,
        precision=told["precision"],
        shifts=told["shifts"],
        noise=told["noise"],
        history=tuple(Acceptance(**entry) for entry in told["history"]),
    )


def _check_score(result: Result) -> None:
    score = result.score
    numbers = [score.value, *(score.ci95 or ()), *((score.stderr,) if score.stderr is not None else ())]
    if score.blocks is not None:
        numbers += score.blocks.left_out
        if sum(score.blocks.sizes) != result.generated.count or len(score.blocks.sizes) != len(score.blocks.left_out):
            raise ValueError(f"the blocks of {result.measurement} are not those of its images")
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{result.measurement} is not a finite number")


def kept_samples(
    digests: NDArray[np.uint8],
    shape: tuple[int, int, int],
    *,
    pixels: Images | None = None,
    origin: str,
    labels: NDArray[np.int64] | None = None,
    captions: Sequence[str] | None = None,
    classes: tuple[str, ...] = (),
    quantise: str | None = None,
) -> Samples:
    """Images of which everything but the pixels is known; to read them is refused, unless the pixels are given."""

    def read(start: int, stop: int) -> Images:
        if pixels is None:
            raise InputRejected(
                f"{shown(origin)} holds features and no pixels; measure what needs pixels on the images."
            )
        return pixels[start:stop]

    content = fingerprint_of(shape, digests)
    return Samples(
        count=len(digests),
        shape=shape,
        read=read,
        origin=origin,
        fingerprint=lambda: content,
        hashes=lambda start, stop: digests[start:stop],
        labels=None if labels is None else labels.astype(np.int64),
        captions=captions,
        classes=classes,
        quantise=quantise,
    )


def rounded(baseline: Baseline, precision: str) -> Baseline:
    """The baseline with its features in a precision, before it is written.

    Raises:
        UsageError: another precision than float32 and float16.
        InputRejected: features too large for float16.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"The precision of a baseline is {' or '.join(PRECISIONS)}; got {precision!r}.")
    with np.errstate(over="ignore"):
        kept = tuple(replace(one, values=one.values.astype(precision)) for one in baseline.features)
    for one in kept:
        if not np.isfinite(one.values).all():
            raise InputRejected(f"Features {one.tap} of {Ref.parse(one.extractor).name} are too large for {precision}.")
    return replace(baseline, features=kept, precision=precision)


def lines(baseline: Baseline) -> list[str]:
    """What a baseline is and where it comes from, for people."""
    spec, samples, first = baseline.spec, baseline.samples, baseline.results[0]
    of = f"{spec.model} on {spec.dataset}, seed {spec.seed}, " if spec else ""
    told = [
        f"{baseline.name}: {of}{samples.count} images, protocol {first.protocol}",
        f"made with genbench {first.environment.get('genbench')}, torch {first.environment.get('torch')}, "
        f"{first.environment.get('device_name')}",
    ]
    for kept in baseline.features:
        width = kept.values.shape[1]
        told.append(f"features {kept.tap} of {Ref.parse(kept.extractor).name}: {width} an image, {baseline.precision}")
    if baseline.pixels is not None:
        told.append(f"the images themselves, {baseline.pixels.nbytes:,} bytes")
    if baseline.shifts:
        changes = ", ".join(f"{name} {value:+.2g}" for name, value in _brief(baseline.shifts).items())
        told.append(f"{baseline.precision} features change the values, if they are measured anew, by: {changes}")
    for name, found in _brief(baseline.noise).items():
        told.append(f"noise of {name}: " + ", ".join(f"{what} {value:+.2g}" for what, value in found.items()))
    for entry in baseline.history:
        told.append(f"accepted {entry.date} of commit {entry.commit or 'unknown'}: {entry.reason}")
    return told


def _brief(found: Mapping[str, Any]) -> dict[str, Any]:
    def name(text: str) -> str:
        one = Measurement.parse(text)
        return f"{one.metric.name}@{one.extractor.name}" if one.extractor else one.metric.name

    return {name(text): value for text, value in found.items()}


def as_dict(baseline: Baseline) -> dict[str, Any]:
    """What a baseline holds as JSON, without its features."""
    return {
        "schema": SCHEMA,
        "results": [report.write_result(result) for result in baseline.results],
        "num_samples": baseline.samples.count,
        "precision": baseline.precision,
        "images": baseline.pixels is not None,
        "shifts": dict(baseline.shifts),
        "features": [
            {"extractor": kept.extractor, "tap": kept.tap, "width": kept.values.shape[1]} for kept in baseline.features
        ],
        "noise": {name: dict(found) for name, found in baseline.noise.items()},
        "history": [asdict(entry) for entry in baseline.history],
    }
