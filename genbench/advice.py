"""What the measured samplers of a network tell whoever runs a worse one, from `leaderboards/zoo.csv`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from genbench import papers, registry, report, tables
from genbench.display import rounded
from genbench.errors import GenbenchError
from genbench.records import Ref, Result

_APART = 3.0
"""How many standard errors of the difference a better value is better by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The FID of a sampler on the shipped network of a data set.

    Attributes:
        model: with all its arguments.
        dataset: its name.
        evaluations: of the network, an image.
        num_samples, protocol_hash: what else must be the same of two values that are compared.
    """

    model: Ref
    dataset: str
    evaluations: float
    value: float
    stderr: float
    num_samples: int
    protocol_hash: str

    @property
    def name(self) -> str:
        """The text by which it is asked for: what differs from the defaults, and the number of steps."""
        steps = {"steps": self.model.args["steps"]} if "steps" in self.model.args else {}
        return str(Ref(self.model.name, steps | dict(self.model.brief(("steps",)).args)))


@cache
def measured() -> tuple[Measured, ...]:
    """The samplers that were measured for this project; none where the table is missing or of another version."""
    try:
        rows = tables.read(papers.leaderboards() / "zoo.csv", report.COLUMNS)
    except GenbenchError:
        return ()
    return tuple(
        Measured(
            model=registry.written_out("model", row["model"]),
            dataset=Ref.parse(row["dataset"]).name,
            evaluations=float(row["evaluations"]),
            value=float(row["value"]),
            stderr=float(row["stderr"]),
            num_samples=int(row["num_samples"]),
            protocol_hash=row["protocol_hash"],
        )
        for row in rows
        if Ref.parse(row["metric"]).name == "fid" and row["evaluations"] and row["stderr"]
    )


def better(one: Measured) -> Measured | None:
    """The best sampler of the same network in as few evaluations, if it is better beyond the errors of both."""
    network = _network(one.model, one.dataset)
    others = [
        other
        for other in measured()
        if network
        and (other.dataset, other.num_samples, other.protocol_hash) == (one.dataset, one.num_samples, one.protocol_hash)
        and other.evaluations <= one.evaluations
        and one.value - other.value > _APART * math.hypot(one.stderr, other.stderr)
        and _network(other.model, other.dataset) == network
    ]
    return min(others, key=lambda other: other.value, default=None)


def after(results: Sequence[Result]) -> str:
    """One line below the results of a run, empty if there is nothing better to tell."""
    for result in results:
        evaluations, spec = result.environment.get("evaluations"), result.spec
        if Ref.parse(result.metric).name != "fid" or spec is None or not evaluations or not result.score.stderr:
            continue
        one = Measured(
            model=spec.model,
            dataset=spec.dataset.name,
            evaluations=float(evaluations),
            value=result.score.value,
            stderr=result.score.stderr,
            num_samples=spec.num_samples,
            protocol_hash=result.protocol_hash,
        )
        # Of another number of images, the model's own row of the table speaks, if it has one.
        same = [row for row in measured() if (row.model, row.dataset) == (one.model, one.dataset)]
        found = better(one) or next((b for b in map(better, same) if b is not None), None)
        if found is not None:
            return (
                f"In as few evaluations of the same network {found.name} has FID {rounded(found.value, found.stderr)} "
                f"({found.evaluations:g} evaluations, {found.num_samples} images)."
            )
    return ""


def of(model: str) -> dict[str, str]:
    """Every measured configuration of a model to its FID, and to a better sampler where there is one."""
    told = {}
    for row in measured():
        if row.model.name == model:
            found, text = better(row), f"FID {rounded(row.value, row.stderr)} in {row.evaluations:g} evaluations"
            if found is not None:
                theirs = f"{rounded(found.value, found.stderr)} in {found.evaluations:g}"
                text += f"; {found.name} has {theirs} on the same network"
            told[f"{row.name} on {row.dataset}"] = text
    return told


def _network(model: Ref, dataset: str) -> tuple[str, ...]:
    """The files of a model's networks on a data set, empty where it has none of its own there or others were given."""
    if model.args.get("weights") is not None:
        return ()
    try:
        preset = registry.preset(model.name, dataset)
    except GenbenchError:
        return ()
    return () if preset is None else tuple(preset.files)
