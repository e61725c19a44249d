"""What was asked, resolved once and in the same way for the command line, Python, the Evaluator and scripts.

    texts, arrays, paths -> RunRequest or ScoreRequest -> pipeline

Every default stands here: the protocol and the number of images come from what the paper did on the data set, else from
the protocol, else from the data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genbench import generation, measuring, pipeline, protocols, ranks, registry, sets
from genbench.arrays import Evidence, Images, Samples
from genbench.contracts import Dataset
from genbench.errors import InputRejected, MissingAsset, UsageError, nearest, shown
from genbench.outcome import Outcome
from genbench.protocols import Protocol
from genbench.records import Measurement, Precision, Ref, RunSpec

if TYPE_CHECKING:
    from torch import Tensor

    Source = str | Path | NDArray[Any] | Tensor | Samples
    """A path, the name of a data set, images (n, c, h, w) as an array or a tensor, or samples."""

Range = tuple[float, float]
"""The values of black and white in images of floats: (-1, 1) or (0, 1)."""
RANGES: tuple[Range, ...] = ((-1.0, 1.0), (0.0, 1.0))
DEFAULT_PROTOCOL = "embedded"
DEFAULT_METRICS = ("fid",)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """A model to sample and what to measure of its images."""

    spec: RunSpec
    measurements: tuple[Measurement, ...]
    protocol: Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """Images that exist, what they are held against, and what to measure of them. See `pipeline.score`.

    Attributes:
        generated: None where the images come later, as those of an Evaluator do.
        about: the same in texts and paths, for other processes; None where it cannot be said so.
    """

    generated: Samples | None
    reference: Samples | None
    held_out: Samples | None
    test: Samples | None
    measurements: tuple[Measurement, ...]
    protocol: Protocol
    about: Mapping[str, Any] | None = None


def of_run(
    model: str,
    *,
    metrics: str | Iterable[str] = DEFAULT_METRICS,
    dataset: str = "shapes",
    num_samples: int | None = None,
    seed: int = 0,
    protocol: str | None = None,
    precision: Precision = "float32",
    exact: bool = False,
    quantise: Literal["round", "truncate"] | None = None,
) -> RunRequest:
    """What a run means.

    Args:
        model, dataset, metrics: reference texts, such as "ddim(steps=20)" and "fid@compact". See `measurements_of`.
        num_samples, protocol, quantise: None for the default of paper, protocol or data set.

    Raises:
        UsageError: unknown names, or values that no run can have.
    """
    ref, system = Ref.parse(dataset), Ref.parse(model)
    data, _ = registry.bind("dataset", ref)
    preset = registry.preset(system.name, data.name)
    usual = (preset.protocol if preset else None) or data.protocol
    how = protocols.protocol(usual if protocol is None else protocol)
    if num_samples is None:
        num_samples = (preset.num_samples if preset else None) or how.num_samples or data.default_samples
    spec = RunSpec(
        model=system,
        dataset=ref,
        num_samples=num_samples,
        seed=seed,
        precision=precision,
        exact=exact,
        quantise=quantise or getattr(preset, "quantise", None) or how.quantise,
    )
    return RunRequest(spec=spec, measurements=measurements_of(metrics, how), protocol=how)


def of_score(
    samples: Source | None,
    reference: Source | None,
    *,
    metrics: str | Iterable[str] = DEFAULT_METRICS,
    protocol: str | None = None,
    held_out: Source | None = None,
    test: Source | None = None,
    value_range: Range | None = None,
    execution: measuring.Execution,
) -> ScoreRequest:
    """What a comparison of images that exist means.

    Args:
        samples, reference, held_out, test: see `Source`. Where the reference is the name of a data set, that gives
            the protocol, the held-out and the test images unless others are given.
        metrics: see `measurements_of`.
        value_range: of images given as floats. They become 8-bit pixels by the rule of the protocol.

    Raises:
        UsageError: unknown names, or a metric that compares with real images where there are none.
        InputRejected: images that cannot be used, or paths without any.
    """
    about: dict[str, Any] | None = None
    if all(isinstance(given, str | Path | None) for given in (samples, reference, held_out, test)):
        texts = {"samples": samples, "reference": reference, "held_out": held_out, "test": test}
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        metrics = names
        more = {"metrics": [str(name) for name in names], "protocol": protocol, "execution": execution.as_dict()}
        about = {"kind": "score", **texts, **more}
    generated = None if samples is None else _opened(samples, "held_out", execution)[0]
    real, data, ref = (None, None, None) if reference is None else _opened(reference, "reference", execution)
    usual = data.protocol if data else DEFAULT_PROTOCOL
    how = protocols.protocol(usual if protocol is None else protocol)
    measurements = measurements_of(metrics, how)
    wanted = [cell.metric for cell in pipeline.bind_cells(measurements, how)]
    if real is None:
        for metric, given in zip(wanted, measurements, strict=True):
            if metric.against == "reference" and measuring.uses_reference(metric) and not given.optional:
                raise UsageError(f"{metric.name} compares with real images, and no reference was given.")

    def role(given: Source | None, name: str, needed: bool) -> Samples | None:
        if given is not None:
            return _pixels(_opened(given, name, execution)[0], value_range, how)
        if data is None or ref is None or not needed:
            return None
        return sets.load_split(data, ref, name, execution)

    return ScoreRequest(
        generated=None if generated is None else _pixels(generated, value_range, how),
        reference=None if real is None else _pixels(real, value_range, how),
        held_out=role(held_out, "held_out", any(m.floor == "held_out" for m in wanted)),
        test=role(test, "test", any(m.against == "test" for m in wanted)),
        measurements=measurements,
        protocol=how,
        about=about,
    )


def jobs_of_score(*, execution: Mapping[str, Any], **texts: Any) -> dict[str, ranks.Job]:
    """What a process does that helps to measure images: it makes parts of their features, and decides nothing."""
    how = measuring.Execution(**execution)
    request = of_score(**texts, execution=how)
    splits = {"reference": request.reference, "held_out": request.held_out}

    @cache
    def comparison() -> measuring.Comparison:
        assert request.generated is not None
        return pipeline.compared(
            request.generated,
            request.reference,
            request.measurements,
            protocol=request.protocol,
            held_out=request.held_out,
            test=request.test,
            execution=how,
        )

    def make_digests(numbers: Sequence[int], advance: ranks.Advance, *, role: str, **told: Any) -> None:
        measuring.make_digests(splits[role], how, numbers, advance, **told)

    return {pipeline.SPLIT: make_digests, **measuring.jobs(comparison)}


def of_reference(
    reference: Source,
    *,
    metrics: str | Iterable[str] = DEFAULT_METRICS,
    protocol: str | None = None,
    execution: measuring.Execution,
) -> tuple[Samples, list[measuring.Cell], Protocol]:
    """Real images whose statistics are wanted, and the metrics that will read them.

    Args:
        metrics: see `measurements_of`; of "all", those that need the images themselves are left out.

    Raises:
        UsageError: unknown names.
        InputRejected: images that cannot be used.
    """
    samples, data, _ = _opened(reference, "reference", execution)
    usual = data.protocol if data else DEFAULT_PROTOCOL
    how = protocols.protocol(usual if protocol is None else protocol)
    cells = pipeline.bind_cells(measurements_of(metrics, how), how)
    return _pixels(samples, None, how), [cell for cell in cells if cell.metric.moments or not cell.optional], how


def measured(
    request: ScoreRequest,
    execution: measuring.Execution,
    *,
    generated: Samples | None = None,
    extracted: Mapping[str, Evidence] | None = None,
) -> Outcome:
    """What was asked of images that exist, measured.

    Args:
        generated: the images, where the request has none.
        extracted: see `pipeline.score`.
    """
    generated = generated or request.generated
    assert generated is not None
    return pipeline.score(
        generated,
        request.reference,
        request.measurements,
        protocol=request.protocol,
        held_out=request.held_out,
        test=request.test,
        extracted=extracted,
        execution=execution,
        about=None if request.generated is None else request.about,
    )


def weights_of(given: Iterable[str] | Mapping[str, str | Path] | None) -> dict[str, Path]:
    """Files of weights by the name of an extractor or of a card of a model's weights.

    Args:
        given: texts NAME=PATH, or a mapping.

    Raises:
        UsageError: a text of another form, an unknown name, or one that is given twice.
        MissingAsset: no such file.
    """
    pairs = list(given.items()) if isinstance(given, Mapping) else [_pair(text) for text in given or ()]
    found: dict[str, Path] = {}
    for name, path in pairs:
        known = {*registry.table("extractor"), *registry.published()}
        if name not in known and ":" not in name:
            raise UsageError(f"No weights are named {name!r}: no extractor and no card is. {nearest(name, known)}")
        if name in found:
            raise UsageError(f"The weights of {name} are given twice: {found[name]} and {path}; give one file.")
        found[name] = Path(path)
        if not found[name].is_file():
            raise MissingAsset(f"There is no file {shown(path)} for the weights of {name}.")
    return found


def _pair(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not name.strip() or not path.strip():
        raise UsageError(f"--weights takes NAME=PATH, such as inception=weights.pth; got {text!r}.")
    return name.strip(), path.strip()


def measurements_of(metrics: str | Iterable[str], protocol: Protocol) -> tuple[Measurement, ...]:
    """Measurements from texts, each once, in their order.

    Args:
        metrics: one text or several, such as "fid" and "precision(k=5)@compact". "all" stands for what the protocol
            lists; of these, what cannot be measured is left out, unless it is also named itself.

    Raises:
        UsageError: no text, or one that cannot be read.
    """
    texts = [metrics] if isinstance(metrics, str | Measurement) else list(metrics)
    if not texts:
        raise UsageError("No metric was given; name one, such as 'fid', or 'all'.")
    named = [text for text in texts if text != "all"]
    found: dict[str, Measurement] = {}
    for text in texts:
        for one in protocol.metrics if text == "all" else (text,):
            measurement = one if isinstance(one, Measurement) else Measurement.parse(one)
            optional = text == "all" and one not in named
            found.setdefault(
                str(measurement), Measurement(measurement.metric, measurement.extractor, optional=optional)
            )
    return tuple(found.values())


def images_of(given: object, *, value_range: Range | None, how: str = "round") -> Images:
    """Images as this package wants them: uint8 (n, c, h, w), in memory that may be the caller's.

    Args:
        given: an array or a tensor on any device, (n, c, h, w) with c = 1 or 3; uint8 in [0, 255], or floats if
            `value_range` says what they mean.
        value_range: (-1, 1) or (0, 1): the floats that become 0 and 255; floats outside are clipped.
        how: quantiser of floats, see `genbench.quantise`.

    Raises:
        InputRejected: anything else.
    """
    import torch

    if not isinstance(given, np.ndarray | torch.Tensor):
        raise InputRejected(
            f"Images are an array or a tensor, uint8 (n, c, h, w); got {type(given).__name__}. Of the pairs that a "
            "loader yields, give the images alone."
        )
    if given.ndim != 4 or not len(given):
        raise InputRejected(f"Images are (n, c, h, w) with n > 0; got {given.dtype} {tuple(given.shape)}.")
    if given.shape[1] not in (1, 3):
        last = given.shape[3] in (1, 3)
        advice = " The channels come last here: give images.transpose(0, 3, 1, 2), of a tensor permute." if last else ""
        raise InputRejected(f"Images are (n, c, h, w) with c = 1 or 3; got {tuple(given.shape)}.{advice}")
    floats = given.is_floating_point() if isinstance(given, torch.Tensor) else given.dtype.kind == "f"
    if value_range is None or not floats:
        if str(given.dtype) not in ("uint8", "torch.uint8"):
            raise InputRejected(
                f"Images are uint8 in [0, 255]; got {given.dtype}. Of floats say the range, value_range=(-1, 1) or "
                "(0, 1), or make them uint8 yourself by genbench.quantise, which takes floats in [-1, 1]."
            )
        return given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else given
    if value_range not in RANGES:
        raise UsageError(f"value_range is (-1, 1) or (0, 1); got {value_range!r}.")
    values = torch.as_tensor(given).detach().float()
    if not bool(torch.isfinite(values).all()):
        raise InputRejected("The images hold values that are not finite.")
    return generation.quantise(values if value_range == RANGES[0] else values * 2 - 1, how).cpu().numpy()


def labels_of(given: ArrayLike | Tensor | None) -> NDArray[np.int64] | None:
    """Labels as int64 (n,).

    Raises:
        InputRejected: numbers that are not whole, negative ones, or more than one axis.
    """
    if given is None:
        return None
    detached = given.detach().cpu().numpy() if hasattr(given, "detach") else given
    labels = np.asarray(detached)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (len(labels) and int(labels.min()) < 0):
        raise InputRejected(
            f"Labels are whole numbers from 0, one an image; got {labels.dtype} {labels.shape}"
            f"{', some of them negative' if labels.dtype.kind == 'i' and labels.ndim == 1 else ''}."
        )
    return labels.astype(np.int64)


def _opened(source: Source, role: str, execution: measuring.Execution) -> tuple[Any, Dataset | None, Ref | None]:
    """Samples or an array; of a text also the data set that it names."""
    if isinstance(source, str | Path):
        return sets.open_side(str(source), execution, role=role)
    return source, None, None


def _pixels(source: Any, value_range: Range | None, protocol: Protocol) -> Samples:
    if isinstance(source, Samples):
        return source
    return Samples.of(images_of(source, value_range=value_range, how=protocol.quantise))
