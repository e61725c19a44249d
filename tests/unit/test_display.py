"""Tables for people: what stands in a cell, and that it fits the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from made_up import result

from genbench import display, report
from genbench.outcome import Outcome
from genbench.records import Score

ROUNDED = [
    (2.5741, 0.301, "2.57"), (0.85123, 0.0112, "0.851"), (309.54, 4.1, "309.5"), (1340.9, 31.0, "1341"),
    (12345.678, 1234.0, "12346"), (0.123456, None, "0.1235"), (2.0, 0.0, "2"), (-0.0004, 0.05, "0.000"),
    (-0.0, None, "0"), (-0.02, 0.031, "-0.020"), (float("nan"), 1.0, "not finite"), (float("inf"), None, "not finite"),
    (0.00000000000012, 0.00000000000044, "1.2e-13"), (0.0, 4.4e-13, "0.0e+00"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "stderr", "text"), ROUNDED)
def test_a_value_has_the_digits_that_its_error_supports(value: float, stderr: float | None, text: str) -> None:
    assert display.rounded(value, stderr) == text


def test_an_error_of_zero_gives_way_to_the_interval() -> None:
    assert display.error_cell(result(value=1.0, stderr=0.0, ci95=(0.963, 1.0))) == "[0.963, 1.000]"
    assert display.error_cell(result(value=1.0, stderr=0.0)) == "0"
    assert display.error_cell(result(value=1.0, stderr=0.0, ci95=(1.0, 1.0))) == "0"
    assert display.error_cell(result(value=1.0, stderr=0.01, ci95=(0.963, 1.0))) == "[0.963, 1.000]"
    assert display.error_cell(result(value=5.0, stderr=None, ci95=(4.0, 50.0))) == "[4, 50]"
    assert display.error_cell(result(stderr=None, ci95=None)) == ""
    assert display.error_cell(result(stderr=0.301, ci95=(1.9, 3.1))) == "0.30"


def test_why_there_is_no_error_is_a_note() -> None:
    lost = replace(result(), score=Score(value=1.0, error_method="none: heavy tails"))
    lines, notes = display.table_cells([lost, lost, replace(result(), score=Score(value=1.0))])
    assert [line[2] for line in lines[1:3]] == ["none [1]", "none [1]"] and lines[3][2] == ""
    assert notes.count("[1] no error: heavy tails") == 1
    assert "[1] no error: heavy tails" in display.table_text([lost])


FLOORS = [
    (2.574, 0.301, 0.4901, 0.0712, "0.49"), (0.851, 0.011, 0.95801, 0.00512, "0.958"),
    (549.7, 31.0, 0.7491, 0.0712, "0.75"), (9.598, 0.067, 9.9031, 0.0214, "9.903"),
    (2.574, 0.301, -0.0001, 0.01, "0.000"),
    (2.574, None, 0.4901, 0.0712, "0.490"), (2.574, 0.301, 0.0, 0.01, "0.000"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "stderr", "floor", "error", "text"), FLOORS)
def test_a_floor_has_the_decimals_of_its_value(
    value: float, stderr: float | None, floor: float, error: float, text: str
) -> None:
    given = result(value=value, stderr=stderr, floor=Score(value=floor, stderr=error))
    assert display.floor_cell(given) == text
    assert display.floor_cell(result()) == ""


def test_equal_names_are_told_apart_by_the_arguments_that_differ() -> None:
    def named(*measurements: tuple[str, str | None]) -> list[str]:
        return display.labels([result(m, extractor=e) for m, e in measurements])

    pair = ("precision(k=5, blocks=20)", "compact"), ("precision(k=3, blocks=20)", "compact")
    assert named(*pair, ("is", "compact")) == [
        "precision(k=5)@compact", "precision(k=3)@compact", "is@compact",
    ]  # fmt: skip
    assert named(("fid(blocks=20)", "pixels(side=8)"), ("fid(blocks=20)", "pixels(side=4)")) == [
        "fid@pixels(side=8)", "fid@pixels(side=4)",
    ]  # fmt: skip
    pair = ("fid", "inception(resize='tf1', scaling='tf')"), ("fid", "inception(resize='clean', scaling='tf')")
    assert named(*pair) == [
        "fid@inception(resize='tf1')", "fid@inception(resize='clean')",
    ]  # fmt: skip
    assert named(("psnr", None), ("fid(blocks=20)", "compact")) == ["psnr", "fid@compact"]


PAPER: Mapping[str, Any] = {
    "value": 13.36, "system": "DDIM", "dataset": "CIFAR-10", "source": "s", "comparable": False,
    "reasons": ["other extractor", "1000 instead of 50000 samples", "10,000 instead of 50,000 reference images"],
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_table_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "paper_of", lambda given: dict(PAPER) if given.metric.startswith("fid") else None)
    floor = Score(value=0.49, stderr=0.07)
    long = "fid(error='jackknife', blocks=1, other_argument='a long text of an argument')"
    rows = [
        result("precision", 0.98, 0.0, ci95=(0.9, 1.0), floor=floor),
        result(long, floor=floor),
        result("fid(error='auto')"),
    ]
    text = display.table_text(rows, width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    assert "no [1]" in text and words.count("1000 instead of 50000 samples") == 1, "one note for both rows"
    assert "13.36" in text and "[0.90, 1.00]" in text
    joined = "".join(line.strip() for line in text.splitlines())
    assert "other_argument='a long text of an argument'" in joined, "nothing is cut"


def test_a_column_without_content_is_left_out() -> None:
    text = display.table_text([result()])
    assert "paper" not in text and "floor" not in text and "comparable" not in text and "value" in text


def test_nothing_that_a_terminal_obeys_is_in_a_table() -> None:
    text = display.table_text([result("fid(x='\x1b]0;title\x07')"), result("fid(x='b')")])
    assert "\x1b" not in text and "\x07" not in text and "title" in text


def test_an_outcome_is_a_sequence_with_a_short_text_and_plain_data() -> None:
    import json

    one = result(floor=Score(value=0.49, stderr=0.07))
    outcome = Outcome(results=(one, result("is", 9.5, float("nan"))))
    assert len(outcome) == 2 and outcome[0] is one and list(outcome) == [one, outcome[1]] and outcome[:1] == (one,)
    assert len(repr(outcome)) < 500 and "fid@compact" in repr(outcome)
    assert len(repr(one)) < 100 and "fid@compact" in repr(one) and "2.57" in repr(one)
    data = json.loads(json.dumps(outcome.to_dict(), allow_nan=False))
    assert data["results"][0]["value"] == 2.574 and data["directory"] is None
    frame = outcome.to_frame()
    assert list(frame.columns) == list(report.COLUMNS) and frame["value"].tolist() == [2.574, 9.5]
    page = Outcome(results=(result("fid(x='<b>')"), result("fid(x='&')")))._repr_html_()
    assert page.startswith("<table>") and "&lt;b&gt;" in page and "<b>" not in page


def test_lines_that_do_not_fit_become_blocks() -> None:
    lines = [("metric", "base", "95 % interval", "note"), ("fid@compact", "39.3 +- 4.0", "[34.5, 42.5]", "")]
    assert display.columns(lines, width=120).splitlines()[-1] == "fid@compact  39.3 +- 4.0  [34.5, 42.5]"
    told = display.columns(lines, width=36)
    assert told == "fid@compact\n  base           39.3 +- 4.0\n  95 % interval  [34.5, 42.5]"


def test_points_of_aligned_numbers_lie_below_each_other() -> None:
    told = display.aligned(["32.7", "8.04", "1", "", "1e-09"])
    digit, point = "\u2007", "\u2008"
    assert told == [
        f"32.7{digit}",
        "8.04",
        f"1{digit}{digit}{point}",
        f"{digit}{digit}{point}",
        f"1e-09{digit}{digit}{point}",
    ]
    assert display.aligned(["1", "20"]) == ["1", "20"]


def test_a_table_for_a_notebook_escapes_what_is_in_it() -> None:
    told = display.html_table([("<a>", "b"), ("&", "1 < 2")], ["<i>"])
    assert "<td>&amp;</td><td>1 &lt; 2</td>" in told and '<th scope="col">&lt;a&gt;</th>' in told
    assert told.endswith("<p>&lt;i&gt;</p>")
