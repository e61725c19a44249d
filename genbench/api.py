"""The Python interface: `genbench.run` and `genbench.score`, the command line's two main verbs as functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from genbench import measuring, pipeline
from genbench.arrays import Samples
from genbench.protocols import protocol as named_protocol
from genbench.records import Measurement, Ref, Result, RunSpec

Source = str | Path | np.ndarray | Samples
"""A path, the name of a data set, uint8 images (n, c, h, w), or samples."""


def run(
    model: str, *, metrics: Sequence[str] = ("fid",), dataset: str = "shapes", num_samples: int | None = None,
    seed: int = 0, protocol: str | None = None, output: str | Path = "runs",
    precision: Literal["float32", "bfloat16"] = "float32", exact: bool = False, **execution: Any,
) -> tuple[Result, ...]:  # fmt: skip
    """Samples a model and measures the samples, as `genbench run` does.

    Args:
        model, metrics, dataset: reference texts, such as "ddim(steps=20)" and "fid@compact".
        execution: fields of `genbench.measuring.Execution`, such as device and batch_size.

    Raises:
        GenbenchError: of `genbench.errors`.
    """
    from genbench import registry

    ref, system = Ref.parse(dataset), Ref.parse(model)
    data, _ = registry.bind("dataset", ref)
    preset = registry.preset(system.name, data.name)
    how = named_protocol(protocol or (preset and preset.protocol) or data.protocol)
    of_paper = preset.num_samples if preset else None
    spec = RunSpec(
        model=system, dataset=ref,
        num_samples=num_samples or of_paper or how.num_samples or data.default_samples,
        seed=seed, precision=precision, exact=exact, quantise=how.quantise,
    )  # fmt: skip
    outcome = pipeline.run(
        spec, [Measurement.parse(m) for m in metrics], protocol=how, output=Path(output),
        execution=measuring.Execution(**execution),
    )  # fmt: skip
    return outcome.results


def score(
    samples: Source, reference: Source | None = None, *, metrics: Sequence[str] = ("fid",), protocol: str = "embedded",
    held_out: Source | None = None, test: Source | None = None, **execution: Any,
) -> tuple[Result, ...]:  # fmt: skip
    """Measures images, as `genbench score` does.

    Args:
        samples, reference, held_out: see `Source`; `held_out` are real images that give the floors.
        test: labelled real images, for metrics that test a classifier.

    Raises:
        GenbenchError: of `genbench.errors`.
    """
    how = measuring.Execution(**execution)

    def opened(source: Source | None, role: str) -> Samples | None:
        if source is None or isinstance(source, Samples):
            return source
        if isinstance(source, np.ndarray):
            return Samples.of(source)
        return pipeline.open_side(str(source), how, role=role)[0]

    generated = opened(samples, "held_out")
    assert generated is not None
    outcome = pipeline.score(
        generated, opened(reference, "reference"), [Measurement.parse(m) for m in metrics],
        protocol=named_protocol(protocol), held_out=opened(held_out, "held_out"),
        test=opened(test, "test"), execution=how,
    )  # fmt: skip
    return outcome.results
