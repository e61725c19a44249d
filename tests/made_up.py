"""Made-up images, features and results, for tests of what is done with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genbench.arrays import Evidence, Features, Samples
from genbench.records import Result, Score, Side


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
