"""What a metric claims of itself, tried out. For the tests of this project, and of whoever writes a plug-in.

from genbench.conformance import broken_invariances

def test_the_metric_is_what_it_says() -> None:
    assert broken_invariances(BRIGHTNESS) == ()
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genbench.arrays import Evidence, Features, Samples
from genbench.contracts import Classifier, Metric

Array = NDArray[np.float64]

_GENERATED, _REFERENCE, _WIDTH, _CLASSES, _SIDE = 72, 80, 6, 3, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """Random images, labels, captions and features (n, _WIDTH) of every tap that a metric reads."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    taps: dict[str, Array]

    def evidence(self) -> Evidence:
        taps = {
            name: Features(extractor="random", tap=name, array=values.astype(np.float32))
            for name, values in self.taps.items()
        }
        captions = [f"a picture of {label}" for label in self.labels.tolist()]
        samples = Samples.of(self.images, labels=self.labels, captions=captions)
        return Evidence(samples=samples, taps=taps)

    def ordered(self, order: NDArray[np.int64]) -> _Side:
        taps = {name: values[order] for name, values in self.taps.items()}
        return _Side(images=self.images[order], labels=self.labels[order], taps=taps)

    def changed(self, change: Callable[[Array], Array]) -> _Side:
        return replace(self, taps={name: change(values) for name, values in self.taps.items()})


def broken_invariances(metric: Metric, **args: Any) -> tuple[str, ...]:
    """Declared invariances that do not hold, in alphabetical order, empty for a metric that keeps its word.

    The metric is computed of random features, and again of the same ones in another order, moved by one vector, turned
    by one rotation, and enlarged by one factor. All taps of both sides are changed alike; of pairs the order stays the
    same on both sides. A metric without invariances is not computed.

    Args:
        args: of the metric, where its defaults are not what is to be tried.

    Raises:
        ValueError: a word that names no invariance.
    """
    unknown = metric.invariances - {"order", "translation", "rotation", "scale"}
    if unknown:
        raise ValueError(f"{metric.name} declares {', '.join(sorted(unknown))}, which is no invariance.")
    if not metric.invariances:
        return ()
    rng = np.random.default_rng(0)
    ours = _side(metric, rng, _GENERATED, 0.4)
    theirs = _side(metric, rng, _GENERATED if metric.paired else _REFERENCE, 0.0)
    orders = [rng.permutation(len(side.labels)) for side in (ours, theirs)]
    if metric.paired:
        orders[1] = orders[0]
    rotation, _ = np.linalg.qr(rng.standard_normal((_WIDTH, _WIDTH)))
    vector = 5 * rng.standard_normal(_WIDTH)
    changes: dict[str, Callable[[_Side, int], _Side]] = {
        "order": lambda side, which: side.ordered(orders[which]),
        "translation": lambda side, which: side.changed(lambda x: x + vector),
        "rotation": lambda side, which: side.changed(lambda x: x @ rotation),
        "scale": lambda side, which: side.changed(lambda x: 3 * x),
    }
    value = _value(metric, ours, theirs, args)
    return tuple(
        name
        for name in sorted(metric.invariances)
        if not np.isclose(_value(metric, changes[name](ours, 0), changes[name](theirs, 1), args), value, 1e-4, 1e-6)
    )


def _side(metric: Metric, rng: np.random.Generator, count: int, shift: float) -> _Side:
    labels = rng.permutation(np.arange(count) % _CLASSES)
    # Not negative and with a mean far from 0, as features of networks are: nothing holds by symmetry.
    scales = np.linspace(0.5, 2, _WIDTH)
    taps = {name: np.abs(rng.standard_normal((count, _WIDTH)) * scales + 1 + shift) for name in metric.taps}
    images = rng.integers(0, 256, (count, 3, _SIDE, _SIDE), dtype=np.uint8)
    return _Side(images=images, labels=labels.astype(np.int64), taps=taps)


def _value(metric: Metric, ours: _Side, theirs: _Side, args: dict[str, Any]) -> float:
    given: dict[str, Any] = {"generated": ours.evidence(), **args}
    names = inspect.signature(metric.compute).parameters
    if "reference" in names:
        given["reference"] = theirs.evidence()
    if "classifier" in names:
        given["classifier"] = Classifier(tap="classifier", count=_WIDTH)
    return metric.compute(**given).value
