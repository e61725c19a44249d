"""Results as files: every column of a row, and a document that is read back as what was written."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from genbench.records import Ref, Result, RunSpec, Score, Side
from genbench.report import COLUMNS, dumps, read_result, read_results, row, table_csv, write_result, write_results

RESULT = Result(
    metric="fid(error='auto', blocks=20)",
    metric_version=3,
    extractor="inception(resize='tf1', scaling='tf')",
    extractor_key="abcd",
    score=Score(value=1 / 3, stderr=0.0625, ci95=(0.25, 0.5), error_method="influence", detail={"mean_term": 0.125}),
    floor=Score(value=0.03125, stderr=0.015625),
    generated=Side(name="ddim(steps=10)", count=40, digest="g"),
    reference=Side(name="shapes train", count=70, digest="r"),
    protocol="tf1",
    protocol_hash="feed",
    higher_is_better=False,
    spec=RunSpec(
        model=Ref("ddim", {"steps": 10}),
        dataset=Ref("shapes", {"seed": 0}),
        num_samples=40,
        seed=5,
        precision="bfloat16",
        exact=True,
        quantise="truncate",
    ),
    seconds=2.5,
    created="2026-02-03T04:05:06+00:00",
    environment={"evaluations": 11, "genbench": "1.0", "commit": "c0ffee", "torch": "2.0", "device_name": "a CPU"},
)


def test_every_column_of_a_row_holds_its_own_value() -> None:
    assert row(RESULT) == {
        "model": "ddim(steps=10)", "dataset": "shapes(seed=0)", "metric": "fid(error='auto', blocks=20)",
        "extractor": "inception(resize='tf1', scaling='tf')", "protocol": "tf1", "protocol_hash": "feed",
        "num_samples": "40", "num_reference": "70", "seed": "5", "metric_version": "3", "value": repr(1 / 3),
        "stderr": "0.0625", "ci_low": "0.25", "ci_high": "0.5", "error_method": "influence", "floor": "0.03125",
        "floor_stderr": "0.015625", "evaluations": "11", "precision": "bfloat16", "quantise": "truncate",
        "exact": "True", "seconds": "2.5", "kind": "measured", "generated": "ddim(steps=10)",
        "reference": "shapes train", "genbench": "1.0", "commit": "c0ffee", "torch": "2.0", "device": "a CPU",
        "date": "2026-02-03", "id": RESULT.id,
    }  # fmt: skip


def test_the_rule_from_floats_to_pixels_is_told_of_scored_files_too_where_it_is_known() -> None:
    files = replace(RESULT, spec=None, generated=replace(RESULT.generated, quantise="truncate"))
    assert row(files)["quantise"] == "truncate"


def test_what_is_not_known_is_empty() -> None:
    scored = replace(
        RESULT, spec=None, reference=None, floor=None, extractor=None, score=Score(value=float("nan")), environment={}
    )
    found = row(scored)
    assert [name for name in COLUMNS if not found[name]] == [
        "model", "dataset", "extractor", "num_reference", "seed", "value", "stderr", "ci_low", "ci_high",
        "error_method", "floor", "floor_stderr", "evaluations", "precision", "quantise", "exact", "reference",
        "genbench", "commit", "torch", "device",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["=cmd|'/C calc'!A0", "+1", "-1", "@x", "\tx"])
def test_a_name_that_a_spreadsheet_would_run_is_defused_and_numbers_are_not(name: str) -> None:
    given = replace(RESULT, generated=replace(RESULT.generated, name=name), score=Score(value=-1.5))
    (found,) = csv.DictReader(io.StringIO(table_csv([given]), newline=""))
    assert (found["generated"], found["value"]) == ("'" + name, "-1.5")


def test_a_document_is_read_back() -> None:
    bare = replace(RESULT, spec=None, reference=None, floor=None, extractor=None, extractor_key=None)
    statistics = replace(RESULT, reference=Side(name="published", count=None, digest="s"))
    for given in (RESULT, bare, statistics):
        again = read_result(json.loads(dumps(write_result(given))))
        assert again == given and again.id == given.id
    broken = write_result(replace(RESULT, score=Score(value=float("inf"), detail={"a": float("nan")})))
    assert broken["value"] is None and broken["detail"] == {"a": None}
    assert json.loads(dumps(broken)) == broken


def test_a_folder_holds_its_results_and_nothing_is_read_from_others(tmp_path: Path) -> None:
    write_results(tmp_path, {"request": RESULT})
    assert read_results(tmp_path) == {"request": RESULT}
    assert (tmp_path / "row.csv").read_text(encoding="utf-8") == table_csv([RESULT])
    assert read_results(tmp_path / "elsewhere") == {}
    document = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    (tmp_path / "result.json").write_text(json.dumps(document | {"schema": "another/9"}), encoding="utf-8")
    assert read_results(tmp_path) == {}
