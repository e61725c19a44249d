"""Made-up images, features and results, for tests of what is done with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genbench.arrays import Evidence, Features, Samples
from genbench.records import Ref, Result, Score, Side, digest

Cli = Callable[..., tuple[int, str, str]]
"""What the fixture `cli` is: code, stdout and stderr of the words of a command line."""


def random_images(
    count: int, height: int = 8, width: int | None = None, *, seed: int = 0, low: int = 0
) -> NDArray[np.uint8]:
    """Images of noise of at least `low`, uint8 (n, 3, h, w); square where only a height is given."""
    shape = (count, 3, height, height if width is None else width)
    return np.random.default_rng(seed).integers(low, 256, shape, dtype=np.uint8)


def normal(seed: int, n: int, d: int, scale: float = 1.0, shift: float = 0.0) -> NDArray[np.float32]:
    """Features (n, d) of independent normal columns."""
    return (np.random.default_rng(seed).standard_normal((n, d)) * scale + shift).astype(np.float32)


def evidence(
    values: ArrayLike,
    tap: str = "pooled",
    *,
    extractor: str = "test",
    labels: Sequence[int] | NDArray[np.int64] | None = None,
    **others: ArrayLike,
) -> Evidence:
    """Features (n, d) of a tap, and of other taps by name, of n images that nobody looks at."""
    taps = {
        name: Features(extractor=extractor, tap=name, array=np.asarray(array, np.float32))
        for name, array in {tap: values, **others}.items()
    }
    nothing = np.zeros((len(taps[tap].array), 1, 1, 1), np.uint8)
    given = None if labels is None else np.asarray(labels, np.int64)
    return Evidence(samples=Samples.of(nothing, labels=given), taps=taps)


def result(
    metric: str = "fid()",
    value: float = 2.574,
    stderr: float | None = 0.301,
    *,
    extractor: str | None = "compact",
    ci95: tuple[float, float] | None = None,
    floor: Score | None = None,
    name: str = "samples",
) -> Result:
    """A made-up result of images that exist, for what is done with results."""
    return Result(
        metric=metric.removesuffix("()"),
        metric_version=1,
        extractor=extractor,
        extractor_key="k",
        score=Score(value=value, stderr=stderr, ci95=ci95, error_method="jackknife-20"),
        floor=floor,
        generated=Side(name=name, count=100, digest="a"),
        reference=Side(name="real", count=200, digest="b"),
        protocol="embedded",
        protocol_hash="h",
        higher_is_better=False,
        spec=None,
        seconds=0.1,
        created="2026-01-01T00:00:00+00:00",
        environment={},
    )


def board_row(
    *, value: float = 5.0, stderr: float = 0.25, evaluations: float | str = "", floor: float | str = "", **cells: object
) -> dict[str, str]:
    """A made-up row of a leaderboard whose interval reaches two errors to both sides; its id follows from its cells."""
    model = str(cells.get("model", "edm(steps=7)"))
    steps = Ref.parse(model).args.get("steps", 50) if model else ""
    row = {
        "model": model, "dataset": "shapes(seed=0)", "metric": "fid", "extractor": "compact", "protocol": "embedded",
        "protocol_hash": "a" * 16, "num_samples": "1000", "num_reference": "10000", "seed": "0", "metric_version": "1",
        "value": repr(value), "stderr": repr(stderr), "ci_low": repr(value - 2 * stderr),
        "ci_high": repr(value + 2 * stderr), "error_method": "jackknife-20", "floor": str(floor), "floor_stderr": "",
        "evaluations": str(evaluations or steps), "precision": "float32", "quantise": "round", "exact": "False",
        "seconds": "1.0", "kind": "measured", "generated": model, "reference": "shapes train", "genbench": "0.1.0",
        "commit": "", "torch": "2.14.1", "device": "x86_64", "date": "2026-11-30",
    }  # fmt: skip
    if not model:  # images that existed before
        row |= dict.fromkeys(("dataset", "seed", "evaluations", "precision", "exact"), "")
    row |= {name: str(text) for name, text in cells.items()}
    return {**row, "id": str(cells.get("id", digest(row, 12)))}
