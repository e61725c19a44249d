"""Two or more systems side by side: differences with their errors, or why there are none.

Where image i of both sides has the same seed, label and caption, both are compared in pairs: what both images have in
common leaves the difference. The text, the JSON and the exit code of `genbench compare` are all made from `Comparison`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genbench import comparability, differences, display, report, sides
from genbench.differences import Difference, Ties
from genbench.errors import NotComparable, UsageError, shown
from genbench.measuring import Execution
from genbench.records import Result, finite
from genbench.sides import Measured, Wanted

if TYPE_CHECKING:
    from genbench.requests import Source
    from genbench.sides import Given

SCHEMA = "genbench.comparison/1"
COVERS = (
    "Intervals cover the sampling of images: these weights, this reference, this number of images. They do not cover "
    "another training."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric of a base and a candidate.

    Attributes:
        name: such as "fid@compact".
        difference: candidate - base, None where the two are not comparable.
        unlike: what was measured unlike, the fields by name.
    """

    name: str
    base: Result
    candidate: Result
    difference: Difference | None
    unlike: tuple[str, ...] = ()

    @property
    def shown(self) -> bool | None:
        """Whether 0 lies outside the 95 % interval, None without one."""
        if self.difference is None or self.difference.ci95 is None:
            return None
        low, high = self.difference.ci95
        return not low <= 0 <= high

    @property
    def better(self) -> bool | None:
        """Whether the candidate's value is the better one, None where neither is, or they are equal."""
        up = self.base.higher_is_better
        if self.difference is None or up is None or self.difference.value == 0:
            return None
        return (self.difference.value > 0) == up


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A base and one candidate.

    Attributes:
        in_pairs: whether image i of both belong together.
        why: how that is known, or why they do not.
        alone: metrics that one side has and the other has not, as sentences.
    """

    base: Measured
    candidate: Measured
    in_pairs: bool
    why: str
    rows: tuple[Row, ...]
    alone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comparison:
    """A base and its candidates.

    Attributes:
        ties: by metric, the sides in their order and which of them are not told apart; of more than two sides.
    """

    pairs: tuple[Pair, ...]
    ties: Mapping[str, Ties]

    @property
    def exit_code(self) -> int:
        """0, or 4 where numbers are not comparable or there are none to compare."""
        rows = [row for pair in self.pairs for row in pair.rows]
        fine = all(pair.rows for pair in self.pairs) and all(row.difference is not None for row in rows)
        return 0 if fine else NotComparable.exit_code

    def to_dict(self) -> dict[str, Any]:
        """The document of `genbench compare --format json`; `schemas/comparison.schema.json` describes it."""
        return {
            "schema": SCHEMA,
            "exit_code": self.exit_code,
            "covers": COVERS,
            "base": side_as_dict(self.pairs[0].base),
            "candidates": [
                side_as_dict(pair.candidate)
                | {
                    "paired": pair.in_pairs,
                    "why": pair.why,
                    "alone": list(pair.alone),
                    "differences": [row_as_dict(row) for row in pair.rows],
                }
                for pair in self.pairs
            ],
            "ties": {
                name: {
                    "order": list(ties.order),
                    "groups": [list(group) for group in ties.groups],
                    "p_values": [{"sides": list(two), "p": p} for two, p in ties.p_values.items()],
                }
                for name, ties in self.ties.items()
            },
        }

    def text(self, width: int = 120) -> str:
        """The tables that a person reads."""
        parts = []
        for pair in self.pairs:
            parts.append(sides_told(pair.base, pair.candidate, width))
            if pair.rows:
                parts.append(display.columns([_HEADER, *map(_cells, pair.rows)], width=width))
            parts.append("\n".join(display.wrapped(shown(line), width, indent=2) for line in _notes(pair)))
        for name, ties in self.ties.items():
            parts.append(
                shown(f"{name}, best first; systems of one group are not told apart:\n").replace("\\n", "\n")
                + "\n".join(shown(f"  {i}. {', '.join(group)}") for i, group in enumerate(ties.groups, 1))
            )
        return "\n\n".join([*parts, display.wrapped(COVERS, width)])

    def __repr__(self) -> str:
        return f"<Comparison, exit code {self.exit_code}>\n{self.text()}"

    def _repr_html_(self) -> str:
        """The tables of the command line, for notebooks."""
        parts = []
        for pair in self.pairs:
            sides_ = (f"base: {told(pair.base)}", f"candidate: {told(pair.candidate)}")
            parts.append(display.html_table([_HEADER, *map(_cells, pair.rows)], [*map(shown, sides_), *_notes(pair)]))
        for name, ties in self.ties.items():
            rows = [(str(i), shown(", ".join(group))) for i, group in enumerate(ties.groups, 1)]
            parts.append(display.html_table([("group", f"{shown(name)}, best first"), *rows]))
        return "".join(parts)


def side_as_dict(side: Measured) -> dict[str, Any]:
    """A side as JSON."""
    spec = side.spec
    return {
        "name": side.name,
        "model": str(spec.model) if spec else None,
        "dataset": str(spec.dataset) if spec else None,
        "seed": spec.seed if spec else None,
        "num_samples": side.results[0].generated.count if side.results else None,
    }


def sides_told(base: Measured, candidate: Measured, width: int) -> str:
    """Both sides, a line each, in a terminal of so many columns."""
    lines = (f"base       {told(base)}", f"candidate  {told(candidate)}")
    return "\n".join(display.wrapped(shown(line), width, indent=11) for line in lines)


def told(side: Measured) -> str:
    """A side in a line."""
    spec = side.spec
    count = side.results[0].generated.count if side.results else 0
    return f"{side.name}: {f'{spec.model}, seed {spec.seed}, ' if spec else ''}{count} images"


def row_as_dict(row: Row) -> dict[str, Any]:
    """A difference as JSON; what is not a finite number is null."""
    found = row.difference
    low, high = (found.ci95 if found else None) or (None, None)
    return {
        "metric": row.name,
        "measurement": row.base.measurement,
        "protocol": row.base.protocol,
        "protocol_hash": row.base.protocol_hash,
        "higher_is_better": row.base.higher_is_better,
        "base": _value(row.base),
        "candidate": _value(row.candidate),
        "difference": finite(found.value) if found else None,
        "stderr": finite(found.stderr) if found else None,
        "ci95": None if low is None else [finite(low), finite(high)],
        "method": found.method if found else None,
        "shown": row.shown,
        "better": row.better,
        "unlike": list(row.unlike),
    }


def _value(result: Result) -> dict[str, Any]:
    low, high = result.score.ci95 or (None, None)
    return {
        "value": finite(result.score.value),
        "stderr": finite(result.score.stderr),
        "ci95": None if low is None else [finite(low), finite(high)],
    }


_HEADER = ("metric", "base", "candidate", "difference", "+- s.e.", "95 % interval", "shown")


def _cells(row: Row) -> tuple[str, ...]:
    base, candidate = (with_error(result) for result in (row.base, row.candidate))
    found = row.difference
    if found is None:
        return (shown(row.name), base, candidate, "not comparable", "", "", "")
    word = {None: "no error", False: "no", True: {True: "better", False: "worse", None: "yes"}[row.better]}[row.shown]
    error = display.rounded(found.stderr, found.stderr) if found.stderr else "0" if found.stderr == 0 else ""
    return (shown(row.name), base, candidate, signed(found.value, found.stderr), error, interval(found), word)


def with_error(result: Result) -> str:
    """A value and its error, with the digits that it supports."""
    score = result.score
    value = display.rounded(score.value, score.stderr)
    return f"{value} +- {display.rounded(score.stderr, score.stderr)}" if score.stderr else value


def signed(value: float, stderr: float | None) -> str:
    """A difference with its sign; exactly 0 has none."""
    text = display.rounded(value, stderr)
    return f"+{text}" if value > 0 and not text.startswith("-") and float(text) != 0 else text


def interval(found: Difference) -> str:
    """The 95 % interval, empty without one."""
    if found.ci95 is None:
        return ""
    wide = found.stderr or (found.ci95[1] - found.ci95[0]) / 4
    return f"[{signed(found.ci95[0], wide)}, {signed(found.ci95[1], wide)}]"


def _notes(pair: Pair) -> list[str]:
    lines = [f"{'In pairs' if pair.in_pairs else 'Not in pairs'}: {pair.why}"]
    for row in pair.rows:
        if row.unlike:
            lines.append(f"{row.name} was measured in two ways (base and candidate): {'; '.join(row.unlike)}.")
        elif row.difference is not None and row.difference.method.startswith("none: "):
            lines.append(f"{row.name} has no error: {row.difference.method.removeprefix('none: ')}.")
    return [*lines, *pair.alone] if pair.rows else [*lines, "No metric was measured of both sides.", *pair.alone]


def compare(
    base: Given,
    *candidates: Given,
    reference: Source | None = None,
    metrics: str | Sequence[str] = (),
    protocol: str | None = None,
    paired: bool | None = None,
    allow_code: bool = False,
    execution: Execution | None = None,
) -> Comparison:
    """Compares candidates with a base, as `genbench compare` does.

    Args:
        base, candidates: each the folder of a run, a result.json, a baseline file, the outcome of `genbench.run` or
            `genbench.score`, or images as `genbench.score` takes them.
        reference, metrics, protocol: what images are measured against, by and how; where they are not said, as the
            side that has results was. Of sides that have results, `metrics` chooses.
        paired: True says that image i of all sides belong together, False that they do not; None looks.
        allow_code: whether results may name components by module:attribute.
        execution: how what is lacking is measured.

    Returns:
        A `Comparison`, with `to_dict()`, `text()` and `exit_code`. What is not comparable has no difference there.

    Raises:
        UsageError: no candidate.
        GenbenchError: a side that cannot be opened or measured.
    """
    if not candidates:
        raise UsageError("A comparison needs a base and at least one candidate.")
    texts = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    wanted = Wanted(metrics=texts, reference=reference, protocol=protocol)
    given = (base, *candidates)
    # What has results says how the others are measured.
    first = next((i for i, side in enumerate(given) if sides.has_results(side)), 0)
    known = sides.opened(given[first], wanted, execution=execution, allow_code=allow_code)
    like = wanted.like(known)
    found = [
        known
        if i == first
        else sides.opened(side, wanted if sides.has_results(side) else like, execution=execution, allow_code=allow_code)
        for i, side in enumerate(given)
    ]
    pairs = tuple(pair_of(found[0], other, paired=paired) for other in found[1:])
    return Comparison(pairs=pairs, ties=_ties(found, pairs, paired) if len(found) > 2 else {})


def pair_of(base: Measured, candidate: Measured, *, paired: bool | None = None) -> Pair:
    """The differences of every metric that both sides have."""
    in_pairs, why = belong_together(base, candidate, paired)
    rows, alone = [], []
    names = display.labels(base.results)
    for result, name in zip(base.results, names, strict=True):
        other = counterpart(result, candidate.results)
        if other is None:
            alone.append(f"{name} was measured of the base alone.")
        else:
            rows.append(row_of(name, result, other, in_pairs))
    for name, result in zip(display.labels(candidate.results), candidate.results, strict=True):
        if all(row.candidate is not result for row in rows):
            alone.append(f"{name} was measured of the candidate alone.")
    return Pair(base=base, candidate=candidate, in_pairs=in_pairs, why=why, rows=tuple(rows), alone=tuple(alone))


def counterpart(result: Result, others: Sequence[Result]) -> Result | None:
    """The result of the other side to hold against this one: measured alike, or at least of that name."""
    named = [other for other in others if report.measured(other) == report.measured(result)]
    alike = [other for other in named if other.protocol_hash == result.protocol_hash]
    same = [other for other in named if other.measurement == result.measurement]
    both = [other for other in alike if other in same]
    return next(iter([*both, *alike, *same, *named]), None)


def row_of(name: str, base: Result, candidate: Result, in_pairs: bool) -> Row:
    """One metric of both sides."""
    unlike = [str(one) for one in comparability.differing_fields(base, candidate)]
    for side, result in (("base", base), ("candidate", candidate)):
        if not math.isfinite(result.score.value):
            unlike.append(f"the value of the {side} is not a finite number")
    found = None if unlike else difference_of(base, candidate, in_pairs)
    return Row(name=name, base=base, candidate=candidate, difference=found, unlike=tuple(unlike))


def difference_of(base: Result, candidate: Result, in_pairs: bool) -> Difference:
    """The difference of two results that are comparable: exactly 0 of the same images."""
    if base.generated.digest == candidate.generated.digest:
        return differences.identical(base.score, base.score)
    return (differences.paired if in_pairs else differences.unpaired)(base.score, candidate.score)


def belong_together(base: Measured, candidate: Measured, paired: bool | None) -> tuple[bool, str]:
    """Whether image i of both sides belong together, and how that is known, in a sentence."""
    counts = {result.generated.count for side in (base, candidate) for result in side.results}
    if paired is False:
        return False, "as was asked for."
    if len(counts) > 1:
        return False, "the numbers of images differ."
    if paired:
        told_otherwise = _unlike_conditions(base, candidate)
        return (False, told_otherwise) if told_otherwise else (True, "as was asked for.")
    if base.asked is not None and base.asked == candidate.asked:
        return True, "image i of both sides has the same seed, label and caption."
    for name, side in (("base", base), ("candidate", candidate)):
        if side.asked is None:
            return False, f"the seeds of the {name} are not known; --paired says that image i of both belong together."
    if base.spec is not None and candidate.spec is not None and base.spec.seed != candidate.spec.seed:
        return False, f"the seeds differ ({base.spec.seed} and {candidate.spec.seed})."
    return False, "the labels or captions of the images differ."


def _unlike_conditions(base: Measured, candidate: Measured) -> str:
    """Why images cannot belong together although the user says so, or nothing."""
    if base.samples is None or candidate.samples is None:
        return ""
    for what in ("labels", "captions"):
        ours, theirs = getattr(base.samples, what), getattr(candidate.samples, what)
        if ours is not None and theirs is not None and list(ours) != list(theirs):
            return f"the {what} of the images differ, whatever --paired says."
    return ""


def _ties(found: Sequence[Measured], pairs: Sequence[Pair], paired: bool | None) -> dict[str, Ties]:
    """Of every metric that all sides have alike."""
    names = unique([side.name for side in found])
    by_name = dict(zip(names, found, strict=True))
    ties: dict[str, Ties] = {}
    for result, name in zip(found[0].results, display.labels(found[0].results), strict=True):
        rows = [next((row for row in pair.rows if row.base is result), None) for pair in pairs]
        if result.higher_is_better is None or not all(row is not None and row.difference for row in rows):
            continue
        scores = {names[0]: result.score}
        scores |= {other: row.candidate.score for other, row in zip(names[1:], rows, strict=True) if row is not None}
        ties[name] = differences.ties(
            scores,
            higher_is_better=result.higher_is_better,
            in_pairs=lambda one, other: belong_together(by_name[one], by_name[other], paired)[0],
        )
    return ties


def unique(names: Sequence[str]) -> list[str]:
    """The names, those that occur twice with a number."""
    return [name if names.count(name) == 1 else f"{name} ({names[:i].count(name) + 1})" for i, name in enumerate(names)]
