"""Axes of charts: from values to positions, and the numbers that stand beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

RATIO = 12.0
"""Positive values whose largest is more times their smallest than this are drawn on a logarithmic axis."""
_MARGIN = 0.04
_LARGEST = 1e150
"""Values beyond this are drawn at it, and those below its inverse at 0, so that no axis leaves the range of floats."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A map from values to positions.

    Attributes:
        low, high: values at both ends; they differ.
        start, end: positions of these. `end` may lie before `start`, as on a vertical axis.
        log: whether equal factors have equal lengths; both ends are positive then.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The position of a value, inside the axis."""
        if self.log:
            span = math.log(self.high) - math.log(self.low)
            share = (math.log(value) - math.log(self.low)) / span if value > 0 else 0.0
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        """Whether a value lies between the ends."""
        return self.low <= value <= self.high

    def ticks(self, most: int = 6) -> tuple[tuple[float, str], ...]:
        """Round values within the axis with their texts, about `most` of them."""
        values = self._decades(most) if self.log else self._steps(most)
        return tuple((value, f"{value:.10g}") for value in values if self.holds(value))

    def _steps(self, most: int) -> list[float]:
        rough = (self.high - self.low) / max(1, most)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.7)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{number * step:.12g}") for number in range(first, last + 1)]

    def _decades(self, most: int) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for factors in ((1, 2, 5), (1, 3), (1,)):
            found = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
            if sum(map(self.holds, found)) <= most + 1:
                break
        inside = [value for value in found if self.holds(value)]
        return inside[:: max(1, -(-len(inside) // (most + 1)))] if len(inside) > 1 else self._steps(most)


def fitted(values: Iterable[float], start: float, end: float, *, log: bool | None = None) -> Axis:
    """An axis on which all values lie, with a little room at both ends.

    Args:
        values: those that are not finite are passed over.
        log: None for what the values ask for, see `RATIO`. Values of which one is not positive are drawn linearly.
    """
    near = (max(-_LARGEST, min(_LARGEST, value)) for value in values if math.isfinite(value))
    finite = [value if abs(value) > 1 / _LARGEST else 0.0 for value in near]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    positive = low > 0
    wanted = positive and (high / low > RATIO if log is None else log)
    if low == high:
        low, high = (low / 2, high * 2) if wanted else (low - max(1.0, abs(low)) / 2, high + max(1.0, abs(high)) / 2)
    if wanted:
        room = (high / low) ** _MARGIN
        return Axis(low / room, high * room, start, end, log=True)
    room = (high - low) * _MARGIN
    return Axis(low - room, high + room, start, end)
