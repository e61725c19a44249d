"""Whether two numbers of this project may stand side by side: what was measured alike, and what was not.

`genbench.papers.comparable` answers the same for a number of a paper, of which less is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genbench import registry
from genbench.errors import InputRejected, NotComparable, UsageError, shown
from genbench.records import Ref, Result

Facts = Mapping[str, object]
"""Field to value: everything that must agree. A value that is not known is None."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which two results differ, such as Difference("num_samples", 1000, 50000)."""

    field: str
    first: object
    second: object

    def __str__(self) -> str:
        hint = " (other real images, labels, captions or weights)" if self.field == "protocol_hash" else ""
        return f"{self.field} {_shown(self.first)} and {_shown(self.second)}{hint}"


def _shown(value: object) -> str:
    """For people: of a long digest, 12 digits tell enough."""
    text = "not known" if value is None else str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{40,}", text) else text


def differing_fields(first: Result, second: Result) -> tuple[Difference, ...]:
    """What was measured unlike in two results, empty where their numbers are comparable.

    The fields are "metric", "metric_version", every argument of the metric that can change its value ("metric.k"),
    "extractor" and its arguments ("extractor.resize"), "extractor_key" (its weights and code), "num_samples",
    "num_reference", "reference" (its digest), "dataset" of metrics without a reference, "shape" of the images and
    "quantise", as far as these are known, and "protocol_hash" where nothing else tells two protocols apart, such as
    other captions or labels.

    The model, its seed and the arithmetic of sampling are what is compared, and no fields.
    """
    return _differences(_facts(first), _facts(second))


def refuse_code(result: Result, origin: str, *, allow_code: bool) -> None:
    """Refuses a result that names code of somebody by module:attribute, which would be imported to look at it.

    Args:
        origin: of the result, for the message.
        allow_code: the user trusts it.

    Raises:
        UsageError: it does, and may not.
    """
    spec = result.spec
    named = [result.metric, result.extractor, *((spec.model, spec.dataset) if spec else ())]
    for text in named:
        ref = text if isinstance(text, Ref) else Ref.parse(text) if text else None
        if ref is not None and ":" in ref.name and not allow_code:
            raise UsageError(
                f"{shown(origin)} names {shown(ref.name)}, which would be imported as code; give --allow-code "
                "(allow_code=True) if you trust it."
            )


def _told(found: Sequence[Difference]) -> str:
    return "; ".join(map(str, found))


def _name(metric: str, extractor: str | None) -> str:
    return Ref.parse(metric).name + (f"@{Ref.parse(extractor).name}" if extractor else "")


def _differences(first: Facts, second: Facts) -> tuple[Difference, ...]:
    names = [name for name in {**first, **second} if name != "protocol_hash"]
    found = [Difference(name, first.get(name), second.get(name)) for name in names]
    found = [one for one in found if one.first != one.second]
    # Of what only one side knows, the hash decides: it covers all of it.
    sure = [one for one in found if not (one.field in _MAY_BE_UNKNOWN and None in (one.first, one.second))]
    hashes = Difference("protocol_hash", first["protocol_hash"], second["protocol_hash"])
    return tuple(sure or [hashes] * (hashes.first != hashes.second))


_MAY_BE_UNKNOWN = ("shape", "quantise", "dataset")


def _facts(result: Result) -> Facts:
    spec, reference = result.spec, result.reference
    return {
        **_of_components(result.metric, result.extractor),
        "metric_version": result.metric_version,
        "extractor_key": result.extractor_key,
        "num_samples": result.generated.count,
        "num_reference": reference.count if reference else None,
        "reference": reference.digest if reference else None,
        "dataset": str(spec.dataset) if spec and not reference else None,
        "shape": result.generated.shape,
        "quantise": result.generated.quantise or (spec.quantise if spec else None),
        "protocol_hash": result.protocol_hash,
    }


def _of_components(metric: str, extractor: str | None) -> dict[str, object]:
    ours = registry.written_out("metric", metric)
    neutral = registry.neutral(ours)
    facts: dict[str, object] = {"metric": ours.name}
    facts |= {f"metric.{name}": value for name, value in ours.args.items() if name not in neutral}
    if extractor:
        theirs = registry.written_out("extractor", extractor)
        facts |= {"extractor": theirs.name} | {f"extractor.{name}": value for name, value in theirs.args.items()}
    return facts


def check_rankings(kept: Sequence[Mapping[str, str]], new: Sequence[Mapping[str, str]]) -> None:
    """Refuses rows of a leaderboard whose numbers would stand in one ranking although they were measured unlike.

    A ranking is what has one data set (or one reference, where images of no data set were scored), one metric and one
    extractor.

    Args:
        kept, new: rows with the columns of `genbench.report.COLUMNS`.

    Raises:
        NotComparable: a new row differs from a row of its ranking. The message names the fields.
        InputRejected: a row that stays names a metric or an extractor as nobody writes it.
    """
    rankings: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in kept:
        try:
            rankings.setdefault(_ranking(row), []).append(row)
        except UsageError as error:
            raise InputRejected(f"A row of the leaderboard is damaged; nothing was written. {error}") from error
    for row in new:
        place = rankings.setdefault(_ranking(row), [])
        for other in {r["protocol_hash"]: r for r in place}.values():
            found = differing_rows(other, row)
            if found:
                where, what = _ranking(row)
                raise NotComparable(
                    f"The leaderboard ranks {what}{f' on {where}' if where else ''} by another protocol than the new "
                    f"row's: {_told(found)} (there and here). Nothing was written; give another file, or measure alike."
                )
        place.append(row)


def differing_rows(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[Difference, ...]:
    """What was measured unlike in two rows of one ranking, as far as rows say it; see `differing_fields`.

    Raises:
        UsageError: a row names a metric or an extractor as nobody writes it.
    """
    return _differences(_facts_of_row(first), _facts_of_row(second))


def _ranking(row: Mapping[str, str]) -> tuple[str, str]:
    return row["dataset"] or row["reference"], _name(row["metric"], row["extractor"] or None)


def _facts_of_row(row: Mapping[str, str]) -> Facts:
    return {
        **_of_components(row["metric"], row["extractor"] or None),
        **{name: row[name] or None for name in ("metric_version", "num_samples", "num_reference", "quantise")},
        "protocol_hash": row["protocol_hash"],
    }
