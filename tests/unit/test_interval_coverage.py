"""The committed table of how often intervals cover, against what docstrings and `leaderboards/README.md` say of it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from genbench import registry, tables
from genbench.records import Ref
from scripts import coverage_of_intervals as coverage

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return tables.read(coverage.TABLE, coverage.COLUMNS)


def of(rows: Rows, metric: str, features: str = "", kind: str = "score") -> Rows:
    found = [r for r in rows if r["kind"] == kind and r["metric"] == metric and features in r["features"]]
    assert found, (metric, features)
    return found


def test_every_row_is_called_by_its_name(rows: Rows) -> None:
    for row in rows:
        held = float(row["coverage"]) if row["coverage"] else math.nan
        assert row["verdict"] == coverage.verdict(float(row["given"]), held), row
        assert row["verdict"] != "sound" or 0.92 <= held <= 0.98
        registry.bind("metric", Ref.parse(row["metric"]))


def test_verdicts_stand_at_the_limits() -> None:
    names = [coverage.verdict(1.0, c) for c in (0.919, 0.92, 0.98, 0.981)]
    assert names == ["too narrow", "sound", "sound", "too wide"]
    assert coverage.verdict(0.49, 0.95) == "none given" and coverage.verdict(0.5, 0.95) == "sound"


def test_what_is_too_narrow_is_named_in_the_readme_and_nothing_else(rows: Rows, root: Path) -> None:
    text = (root / "leaderboards" / "README.md").read_text(encoding="utf-8")
    stated = set(re.findall(r"^\| too narrow \| `(.+?)` \| (.+?) \| (\d+) \|", text, re.MULTILINE))
    narrow = {(r["metric"], r["features"], r["n"]) for r in rows if r["verdict"] == "too narrow"}
    assert stated == narrow
    assert all(float(r["coverage"]) >= 0.85 for r in rows if r["verdict"] == "too narrow")


def test_one_sided_tests_of_equal_laws_are_wrong_as_rarely_as_they_say(rows: Rows) -> None:
    alarms = [r for r in rows if r["false_alarms"]]
    wanted = {(m, way, n) for m in coverage.COMPARED for way in ("paired", "unpaired") for n in ("500", "1000", "2000")}
    assert {(r["metric"], r["method"], r["n"]) for r in alarms} == wanted
    for row in alarms:
        tests = 2 * int(row["replications"])
        assert float(row["false_alarms"]) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / tests), row


def test_recall_and_coverage_hold_at_0_and_1(rows: Rows) -> None:
    for metric in ("recall", "coverage"):
        known = [r for r in of(rows, metric) if r["features"] != "5 of 20 modes rare"]  # see the docstring of recall
        assert all(float(r["coverage"]) >= 0.92 for r in known), metric
    for name in ("small reference", "a tenth of the spread", "half the spread"):
        assert all(float(r["given"]) == 1 for r in of(rows, "recall", name) + of(rows, "coverage", name))
    # As its documentation says.
    ratios = [float(r["mean_stderr_over_sd"]) for r in of(rows, "recall") if r["mean_stderr_over_sd"]]
    assert np.median(ratios) > 1.1


def test_distances_that_need_moments_have_no_error_without_them(rows: Rows) -> None:
    for metric in ("fid", "fid-inf"):
        for name in (
            "t with 3 degrees",
            "t with 4 degrees",
            "rectified t with 3 degrees",
            "rectified t with 4 degrees",
        ):
            assert all(r["verdict"] == "none given" for r in of(rows, metric, name)), (metric, name)
    assert all(r["verdict"] == "none given" for r in of(rows, "fid(error='influence')") if int(r["n"]) < 30 * 64)


def test_mifid_holds_at_its_threshold(rows: Rows) -> None:
    found = of(rows, "mifid", "copies with noise")
    assert {r["method"] for r in found} > {"both sides of the threshold"}
    assert all(float(r["coverage"]) >= 0.92 for r in found)


def test_one_training_has_no_error(rows: Rows) -> None:
    assert all(r["verdict"] == "none given" for r in of(rows, "cas(epochs=2)"))
