"""The Python interface: `genbench.run` and `genbench.score`, the command line's two main verbs as functions."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genbench import pipeline, requests
from genbench.measuring import Execution, Watch
from genbench.outcome import Outcome

if TYPE_CHECKING:
    from genbench.records import Precision
    from genbench.requests import Source


def run(
    model: str,
    *,
    metrics: str | Iterable[str] = requests.DEFAULT_METRICS,
    dataset: str = "shapes",
    num_samples: int | None = None,
    seed: int = 0,
    protocol: str | None = None,
    output: str | Path = "runs",
    precision: Precision = "float32",
    exact: bool = False,
    quantise: Literal["round", "truncate"] | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    compile: bool = False,
    workers: int = 2,
    data_dir: str | Path | None = None,
    weights: Mapping[str, str | Path] | None = None,
    fresh: bool = False,
    extractor_precision: Literal["float32", "exact"] = "float32",
    progress: bool | Watch = False,
) -> Outcome:
    """Samples a model and measures the samples, as `genbench run` does.

    Args:
        model, dataset: reference texts, such as "ddim(steps=20)" and "folder(path='real/')".
        metrics: texts such as "fid" and "precision(k=5)@compact", or one; "all" stands for what the protocol lists.
        num_samples, protocol, quantise: None for the default of the paper, the protocol or the data set.
        seed: of the run, 0 or more.
        output: directory of runs; this one has its own folder there, `Outcome.directory`.
        precision, exact: of the network; see `genbench.RunSpec`.
        device: "auto", "cpu", "cuda", "cuda:INDEX" or "mps".
        batch_size: images a call of the model; None chooses by device.
        compile: whether torch compiles the networks of the model, which pays for thousands of images.
        workers: threads that decode images.
        data_dir: where data sets that are files lie.
        weights: name of an extractor, or of a card of `genbench list models`, to the file to use.
        fresh: whether to sample and measure anew although there are results.
        extractor_precision: "exact" is the slow reference path of the extractors.
        progress: whether to show a bar; or a function watch(stage, done, total).

    Returns:
        The results as a sequence, with `directory`, `to_dict()` and `to_frame()`.

    Raises:
        GenbenchError: see `genbench.errors`; its `results` are those that were measured before it.
    """
    request = requests.of_run(
        model,
        metrics=metrics,
        dataset=dataset,
        num_samples=num_samples,
        seed=seed,
        protocol=protocol,
        precision=precision,
        exact=exact,
        quantise=quantise,
    )
    execution = Execution(
        device=device,
        batch_size=batch_size,
        compile=compile,
        workers=workers,
        data_dir=_path(data_dir),
        weights=requests.weights_of(weights),
        fresh=fresh,
        extractor_precision=extractor_precision,
        watch=_watch(progress),
    )
    return pipeline.run(
        request.spec, request.measurements, protocol=request.protocol, output=Path(output), execution=execution
    )


def score(
    samples: Source,
    reference: Source | None = None,
    *,
    metrics: str | Iterable[str] = requests.DEFAULT_METRICS,
    protocol: str | None = None,
    held_out: Source | None = None,
    test: Source | None = None,
    value_range: tuple[float, float] | None = None,
    device: str = "auto",
    workers: int = 2,
    data_dir: str | Path | None = None,
    weights: Mapping[str, str | Path] | None = None,
    extractor_precision: Literal["float32", "exact"] = "float32",
    progress: bool | Watch = False,
) -> Outcome:
    """Measures images that exist, as `genbench score` does.

    Args:
        samples, reference: a path to a folder, a zip or an npz of images, or to the folder of a run; the name of a data
            set; images (n, c, h, w) as an array or a tensor; or `genbench.Samples`, which may have labels and
            captions. `reference` may be None for metrics that compare with nothing.
        metrics: texts such as "fid" and "precision(k=5)@compact", or one; "all" stands for what the protocol lists.
        protocol: name, None for that of the data set which `reference` names, else "embedded".
        held_out: real images that are not in the reference; they give the floors. None for those of the data set.
        test: labelled real images, for metrics that test a classifier. None for those of the data set.
        value_range: of images given as floats, (-1, 1) or (0, 1); uint8 ones are in [0, 255].
        device, workers, data_dir, weights, extractor_precision, progress: see `genbench.run`.

    Returns:
        The results as a sequence, with `to_dict()` and `to_frame()`.

    Raises:
        GenbenchError: see `genbench.errors`; its `results` are those that were measured before it.
    """
    execution = Execution(
        device=device,
        workers=workers,
        data_dir=_path(data_dir),
        weights=requests.weights_of(weights),
        extractor_precision=extractor_precision,
        watch=_watch(progress),
    )
    request = requests.of_score(
        samples,
        reference,
        metrics=metrics,
        protocol=protocol,
        held_out=held_out,
        test=test,
        value_range=value_range,
        execution=execution,
    )
    return requests.measured(request, execution)


def _path(text: str | Path | None) -> Path | None:
    return None if text is None else Path(text)


def _watch(progress: bool | Watch) -> Watch | None:
    if callable(progress):
        return progress
    if not progress:
        return None
    from genbench.progress import Bars

    return Bars(sys.stderr)
