"""Comparisons on a page: the differences of `genbench.comparison` as it writes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genbench.errors import shown
from genbench.page.pictures import MovedTiles
from genbench.records import Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A difference of a comparison; see `genbench.comparison.row_as_dict` for the fields."""

    metric: str
    base: Score
    candidate: Score
    value: float | None
    ci95: tuple[float, float] | None
    stderr: float | None
    verdict: str
    unlike: tuple[str, ...]
    protocol: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A base and a candidate; `moved` where the images of both are there."""

    base: str
    candidate: str
    paired: bool
    why: str
    covers: str
    deltas: tuple[Delta, ...]
    moved: MovedTiles | None = None


def read(document: Mapping[str, Any]) -> list[Compared]:
    return [
        Compared(
            base=_side(document["base"]),
            candidate=_side(candidate),
            paired=bool(candidate["paired"]),
            why=shown(candidate["why"]),
            covers=shown(document["covers"]),
            deltas=tuple(map(_delta, candidate["differences"])),
        )
        for candidate in document["candidates"]
    ]


def _side(told: Mapping[str, Any]) -> str:
    return shown(told["model"] or told["name"]) + (f", seed {int(told['seed'])}" if told["seed"] is not None else "")


def _delta(told: Mapping[str, Any]) -> Delta:
    low, high = map(_number, told["ci95"] or (None, None))
    word = {
        None: "no error",
        False: "not shown",
        True: {True: "better", False: "worse", None: "differs"}[told["better"]],
    }
    return Delta(
        metric=shown(told["metric"]),
        base=_score_of(told["base"]),
        candidate=_score_of(told["candidate"]),
        value=_number(told["difference"]),
        ci95=None if low is None or high is None else (low, high),
        stderr=_number(told["stderr"]),
        verdict="not comparable" if told["difference"] is None else word[told["shown"]],
        unlike=tuple(map(shown, told["unlike"])),
        protocol=shown(f"{told['measurement']}, protocol {told['protocol']} {told['protocol_hash']}"),
    )


def _score_of(told: Mapping[str, Any]) -> Score:
    value = _number(told["value"])
    return Score(value=math.nan if value is None else value, stderr=_number(told["stderr"]))


def _number(value: object) -> float | None:
    """A finite number, None for null.

    Raises:
        ValueError: anything else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a number is wanted, not {value!r}")
    return float(value)
