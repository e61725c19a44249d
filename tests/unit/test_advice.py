"""A better sampler of the same network is told from the measured table, and only where the errors allow it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from made_up import result

from genbench import advice, registry
from genbench.advice import Measured, after, better, measured
from genbench.describe import describe
from genbench.records import Ref, Result, RunSpec


def row(model: str, value: float, evaluations: float = 10, stderr: float = 0.1, **more: Any) -> Measured:
    known: dict[str, Any] = {"dataset": "shapes", "num_samples": 1000, "protocol_hash": "p"}
    bound = registry.bind("model", Ref.parse(model))[1]
    return Measured(model=bound, value=value, evaluations=evaluations, stderr=stderr, **(known | more))


TABLE = (
    row("ddim(steps=10)", 30.0),
    row("dpm-solver(steps=10)", 1.2),
    row("dpm-solver(steps=20)", 1.1, 20),
    row("edm(steps=3)", 9.0, 5),
    row("consistency", 0.5, 2),  # another network
)


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "measured", lambda: TABLE)


def told(one: Measured) -> str | None:
    found = better(one)
    return None if found is None else found.name


def test_the_best_sampler_of_as_few_evaluations_is_told() -> None:
    assert told(TABLE[0]) == "dpm-solver(steps=10)"
    assert told(row("ddim(steps=20)", 9.9, 20)) == "dpm-solver(steps=20)"
    assert told(row("ddim(steps=5)", 90.0, 5)) == "edm(steps=3)"
    assert told(row("ddim(steps=3)", 90.0, 3)) is None


def test_nothing_is_told_within_the_errors_or_of_another_measurement() -> None:
    assert told(row("ddim(steps=10, spacing='respaced')", 1.6)) is None  # 2.8 standard errors of the difference
    assert told(row("ddim(steps=10, spacing='respaced')", 1.7)) == "dpm-solver(steps=10)"
    assert told(row("ddim(steps=10)", 30.0, protocol_hash="q")) is None
    assert told(row("ddim(steps=10)", 30.0, num_samples=500)) is None
    assert told(row("ddim(steps=10, weights='mine.pt')", 30.0)) is None


def run(model: str, value: float, num_samples: int = 1000, metric: str = "fid(error='auto', blocks=20)") -> Result:
    spec = RunSpec(
        model=registry.bind("model", Ref.parse(model))[1], dataset=Ref.parse("shapes(seed=0)"), num_samples=num_samples
    )
    found = result(metric, value, 0.1)
    return replace(found, spec=spec, protocol_hash="p", environment={"evaluations": 10})


def test_a_run_ends_with_the_advice() -> None:
    assert "dpm-solver(steps=10) has FID 1.20 (10 evaluations, 1000 images)" in after([run("ddim(steps=10)", 30.0)])
    # Of another number of images the table speaks of its own row of the same model, and of no other.
    assert "dpm-solver" in after([run("ddim(steps=10)", 33.0, num_samples=200)])
    assert after([run("ddim(steps=9)", 33.0, num_samples=200)]) == ""
    assert after([run("dpm-solver(steps=10)", 1.2)]) == ""
    assert after([run("ddim(steps=10)", 30.0, metric="recall(k=3)")]) == ""
    assert after([]) == ""


def test_the_shipped_table_advises_against_few_uniform_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "measured", measured)
    assert {m.model.name for m in measured()} >= {"ddim", "dpm-solver", "edm"}
    lines = describe("ddim")["measured"]
    for few in ("ddim(steps=10) on shapes", "ddim(steps=10, spacing='respaced') on shapes"):
        assert re.search(r"; (dpm-solver|unipc)\(steps=10\) has 1\.\d+ in 10 on the same network", lines[few])
    assert "measured" not in describe("ldm")
