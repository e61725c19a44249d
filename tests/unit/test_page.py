"""Pages of results: what is on them, where marks stand, and that text of other people stays text."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shlex
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from made_up import board_row
from PIL import Image

from genbench import images, leaderboard, page, report, standings, tables
from genbench.cli import main
from genbench.errors import InputRejected, UsageError
from genbench.images.strips import About
from genbench.page import axes, boards, charts, pictures
from genbench.page.pictures import Shots
from genbench.records import Ref

HOSTILE = "x(a='</script><img src=x onerror=alert(1)>\"\\'{{ 7 * 7 }}')"


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text(tables.text(report.COLUMNS, rows))
    return path


def board_of(path: Path, rows: list[dict[str, str]]) -> boards.Board:
    (found,) = page.gathered([write(path, rows)]).boards
    return found


# --- axes -------------------------------------------------------------------------------------------------------------


def test_a_linear_axis_puts_values_where_their_share_is() -> None:
    axis = axes.Axis(10, 20, 100, 300)
    assert [axis(value) for value in (10, 15, 20, 25, 0)] == [100, 200, 300, 300, 100]
    assert axes.Axis(0, 1, 300, 100)(0.25) == 250


def test_equal_factors_have_equal_lengths_on_a_logarithmic_axis() -> None:
    axis = axes.Axis(1, 100, 0, 200, log=True)
    assert [axis(value) for value in (1, 10, 100)] == pytest.approx([0, 100, 200])
    assert [text for _, text in axis.ticks()] == ["1", "2", "5", "10", "20", "50", "100"]


def test_an_axis_is_logarithmic_where_positive_values_span_much() -> None:
    assert axes.fitted([1, 100], 0, 1).log and not axes.fitted([1, 5], 0, 1).log
    assert not axes.fitted([-1, 100], 0, 1).log and not axes.fitted([1, 100], 0, 1, log=False).log


@pytest.mark.parametrize("values", [[3.0], [0.0], [-2.0, -2.0], [], [math.nan, 1.0], [math.inf, 1.0, 2.0], [1e-9, 1e9]])
def test_every_axis_holds_its_values_and_has_ticks(values: list[float]) -> None:
    axis = axes.fitted(values, 0, 100)
    inside = [axis(value) for value in values if math.isfinite(value)]
    assert all(0 < position < 100 for position in inside)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 12 and all(axis.low <= value <= axis.high for value, _ in ticks)


@pytest.mark.parametrize("values", [(1e308, 1e-320), (1.7e308, -1e308), (0.0, 0.0), (1e-320, 5.0), (123456789.1, 1e-5)])
def test_numbers_of_any_size_have_a_place(tmp_path: Path, values: tuple[float, float]) -> None:
    rows = [
        board_row(model=f"ddim(steps={i})", metric="kid", value=value, stderr=0.0, evaluations=cost)
        for i, (value, cost) in enumerate(zip((*values, values[0]), (1, 1e300, 5), strict=True), 5)
    ]
    html = page.rendered(page.gathered([write(tmp_path / "b.csv", rows)]))
    places = re.findall(r' (?:x|y|cx|x1|y1|d|transform)="([^"]*)"', html)
    assert len(places) > 50 and not [place for place in places if re.search("nan|inf", place)]


def test_ticks_are_round() -> None:
    assert [text for _, text in axes.Axis(0.0, 1.0, 0, 1).ticks(5)] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert [text for _, text in axes.Axis(7.3, 9.9, 0, 1).ticks(5)] == ["7.5", "8", "8.5", "9", "9.5"]


# --- boards -----------------------------------------------------------------------------------------------------------


def test_ties_and_order_are_those_of_the_leaderboard(tmp_path: Path) -> None:
    rows = [board_row(model=f"ddim(steps={n})", value=v, stderr=0.1) for n, v in ((5, 9.0), (6, 5.1), (7, 5.0))]
    board = board_of(tmp_path / "board.csv", rows)
    text = standings.render(rows, title="t", form="md")
    cells = {system.name.text: system.cells[0] for system in board.systems}
    assert {name: cell.groups for name, cell in cells.items()} == {
        "ddim(steps=5)": "b", "ddim(steps=6)": "a", "ddim(steps=7)": "a",
    }  # fmt: skip
    assert "| 9.00 ± 0.10 b |" in text and text.count(" a |") == 2
    html = page.rendered(page.gathered([tmp_path / "board.csv"]))
    assert [standing.model for standing in board.columns[0].rank.standings] == [rows[i]["model"] for i in (2, 1, 0)]
    assert html.index('data-v="9.0"') < html.index('data-v="5.1"')  # by evaluations, as it stands without a script


def test_two_protocols_and_two_kinds_are_never_on_one_board(tmp_path: Path) -> None:
    rows = [
        board_row(model="ddim(steps=5)", value=9.0),
        board_row(model="ddim(steps=6)", value=8.0, protocol_hash="b" * 16, num_reference="500"),
        board_row(model="ddim(steps=7)", value=7.0, kind="reported"),
    ]
    found = page.gathered([write(tmp_path / "board.csv", rows)]).boards
    assert [(board.kind, len(board.systems)) for board in found] == [("measured", 1), ("measured", 1), ("reported", 1)]
    assert found[0].apart == "" and "num_reference 10000 and 500" in found[1].apart
    assert found[2].columns[0].rank.higher_is_better is None
    assert len({board.title for board in found}) == 3
    html = page.rendered(page.gathered([tmp_path / "board.csv"]))
    assert html.count('data-better="low"') == 2  # a reported column cannot be sorted by its values


def test_boards_of_most_numbers_come_first_and_reported_ones_last(tmp_path: Path) -> None:
    few = [board_row(model=f"ddim(steps={n})", num_samples="64", value=n) for n in (5, 6)]
    many = [board_row(model=f"ddim(steps={n})", num_samples="1000", value=n) for n in (5, 6, 7)]
    told = [board_row(model="", kind="reported", generated=f"theirs {n}", num_samples="10", value=n) for n in range(5)]
    found = page.gathered([write(tmp_path / "b.csv", [*few, *told, *many])]).boards
    assert [(board.kind, len(board.systems)) for board in found] == [("measured", 3), ("measured", 2), ("reported", 5)]


def test_one_run_that_was_measured_in_two_ways_is_on_two_boards(tmp_path: Path) -> None:
    rows = [board_row(protocol_hash=letter * 16, num_reference=n) for letter, n in (("a", "500"), ("b", "1000"))]
    found = page.gathered([write(tmp_path / "board.csv", rows)]).boards
    assert [len(board.columns) for board in found] == [1, 1] and "num_reference" in found[1].apart


def test_metrics_of_the_same_runs_share_a_board_although_another_protocol_has_them_too(tmp_path: Path) -> None:
    old = {"date": "2026-01-01", "commit": "old"}
    rows = [
        board_row(model="ddim(steps=5)", metric="fid", protocol_hash="a" * 16),
        board_row(model="ddim(steps=5)", metric="recall", value=0.5, protocol_hash="b" * 16),
        board_row(model="ddim(steps=6)", metric="recall", value=0.6, protocol_hash="c" * 16, **old),
        board_row(model="ddim(steps=6)", metric="fid", protocol_hash="d" * 16, **old),
    ]
    found = page.gathered([write(tmp_path / "board.csv", rows)]).boards
    hashes = [{column.rank.protocol_hash[0] for column in board.columns} for board in found]
    assert sorted(map(sorted, hashes)) == [["a", "b"], ["c", "d"]]


def test_rows_of_several_files_are_there_once_and_the_later_one_counts(tmp_path: Path) -> None:
    one = board_row(model="ddim(steps=5)", value=9.0)
    later = one | {"value": "8.0", "date": "2030-01-01"}
    files = [write(tmp_path / "a.csv", [one]), write(tmp_path / "b.csv", [later])]
    for sources in (files, files[::-1]):
        (board,) = page.gathered(sources).boards
        assert [number.row["value"] for number in board.systems[0].numbers] == ["8.0"]


def test_pages_of_equal_rows_are_equal_to_the_byte(tmp_path: Path) -> None:
    rows = [board_row(model=f"ddim(steps={n})", value=float(n)) for n in (5, 6, 7)]
    files = [write(tmp_path / "a.csv", rows), write(tmp_path / "b.csv", rows[::-1])]
    first, second = (page.rendered(page.gathered([file])) for file in files)
    assert first == second


def test_names_say_what_tells_systems_apart(tmp_path: Path) -> None:
    rows = [
        board_row(model="ddim(steps=5, eta=0.0, spacing='uniform', clip=True)"),
        board_row(model="ddim(steps=50, eta=0.0, spacing='uniform', clip=True)"),
        board_row(model="ddim(steps=50, eta=1.0, spacing='uniform', clip=True)"),
        board_row(model="edm(steps=7)"),
        board_row(model="edm(steps=7)", precision="bfloat16"),
        board_row(model="their:load(a=1)"),
    ]
    names = {system.name.text for system in board_of(tmp_path / "b.csv", rows).systems}
    assert names == {
        "ddim(steps=5)", "ddim(steps=50, eta=0.0)", "ddim(eta=1.0)", "edm(steps=7) in bfloat16", "edm(steps=7)",
        "their:load(a=1)",
    }  # fmt: skip


def test_the_command_of_a_number_has_every_column_that_it_depends_on(tmp_path: Path) -> None:
    rows = [
        board_row(model=HOSTILE, metric="fid(error='auto')", extractor="compact", seed=seed, precision="bfloat16",
                  exact="True", quantise="truncate")
        for seed in (1, 0)
    ]  # fmt: skip
    rows.append(board_row(model="", generated="their images", reference="theirs"))  # fmt: skip
    found = page.gathered([write(tmp_path / "b.csv", rows)]).boards
    commands = [command for board in found for system in board.systems for command in system.commands]
    assert [shlex.split(command) for command in commands] == [
        ["genbench", "run", "--model", HOSTILE, "--dataset", "shapes(seed=0)", "-n", "1000", "--seed", seed,
         "--protocol", "embedded", "--precision", "bfloat16", "--exact", "--quantise", "truncate",
         "--metric", "fid(error='auto')@compact"]
        for seed in "01"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "word", ["a", "f(x='y')", "it's $HOME", "a\"b'c", "`id`'", "!x'", "a\\'b", "", "a b", "~", "*'"]
)
def test_a_shell_reads_words_as_they_were(word: str) -> None:
    done = subprocess.run(["sh", "-c", f"printf %s {boards.quoted(word)}"], capture_output=True, text=True, check=True)
    assert done.stdout == word
    assert boards.quoted("f(x='y')") == "\"f(x='y')\""


def test_a_file_of_names_titles_systems_and_its_links_are_https(tmp_path: Path) -> None:
    board, names = write(tmp_path / "b.csv", [board_row(model="edm(steps=7)")]), tmp_path / "names.toml"
    names.write_text('[edm]\nname = "EDM <b>"\nlink = "https://example.org/?a=1&b=2"\n')
    html = page.rendered(page.gathered([board], names=names))
    assert "EDM &lt;b&gt;" in html and 'href="https://example.org/?a=1&amp;b=2" rel="noopener noreferrer"' in html
    for link in ("javascript:alert(1)", "http://example.org", 'https://a\\" onclick=', " https://a", "HTTPS://a"):
        names.write_text(f'[edm]\nlink = "{link}"\n')
        with pytest.raises(InputRejected, match=r"must begin with https://"):
            page.gathered([board], names=names)
    for text in ("[edm]\nlogo = 'x'\n", "edm = 'x'\n", "[edm]\nname = 1\n", "nothing"):
        names.write_text(text)
        with pytest.raises(InputRejected, match=re.escape(str(names))):
            page.gathered([board], names=names)


# --- sweeps -----------------------------------------------------------------------------------------------------------


def test_sweeps_are_systems_at_three_values_of_one_argument_with_all_else_equal(tmp_path: Path) -> None:
    models = [
        *(f"cfg(scale={scale}, steps=50, clip=True)" for scale in (3.0, 1.0, 2.0)),
        *(f"ddim(steps={steps}, eta=0.0)" for steps in (10, 20)),  # two values are no curve
        *(f"ddim(steps={steps}, eta={eta})" for steps, eta in ((5, 1.0), (6, 1.5), (7, 2.0))),  # two arguments move
    ]
    board = board_of(tmp_path / "b.csv", [board_row(model=m, value=float(i + 1)) for i, m in enumerate(models)])
    ((sweep,),) = board.sweeps
    assert (sweep.argument, sweep.family) == ("scale", "cfg")
    assert [(value, score.value) for value, score in sweep.points] == [(1.0, 2.0), (2.0, 3.0), (3.0, 1.0)]


def test_truth_values_and_infinities_are_no_values_of_a_sweep() -> None:
    assert [boards.is_number(value) for value in (1, 0.5, True, False, math.inf, math.nan, "1", None)] == [
        True, True, False, False, False, False, False, False,
    ]  # fmt: skip


def test_bands_reach_from_the_low_to_the_high_ends_of_intervals(tmp_path: Path) -> None:
    rows = [board_row(model=f"ddim(steps={n})", value=v, stderr=0.5) for n, v in ((10, 3.0), (20, 2.0), (30, 1.5))]
    board = board_of(tmp_path / "b.csv", rows)
    (figure,) = charts.sweeps(board, board.columns[0])
    paths = {path.get("class"): path.get("d") for path in ET.fromstring(figure.svg).iter("path")}
    band, curve = points_of(paths["band hue0"]), points_of(paths["curve hue0"])
    axis = charts.axis_of(board.columns[0], 220 - 40 - 4, 14)
    assert [y for _, y in curve] == pytest.approx([axis(v) for v in (3.0, 2.0, 1.5)], abs=0.05)
    highs, lows = ([v + side * 1.0 for v in (3.0, 2.0, 1.5)] for side in (1, -1))
    assert [y for _, y in band] == pytest.approx([axis(v) for v in [*highs, *reversed(lows)]], abs=0.05)
    assert [x for x, _ in curve] == sorted(x for x, _ in curve)


def points_of(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", path)]


# --- charts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "higher", "front"),
    [
        ([(1, 5.0), (2, 3.0), (3, 4.0), (4, 3.0), (5, 1.0)], False, [0, 1, 4]),
        ([(1, 5.0), (2, 3.0), (3, 6.0)], True, [0, 2]),
        ([(2, 1.0), (1, 1.0)], False, [1]),  # as good for less
        ([(1, 2.0), (1, 1.0)], False, [1]),
        ([], False, []),
    ],
)
def test_the_front_has_what_nothing_beats(points: list[tuple[float, float]], higher: bool, front: list[int]) -> None:
    assert charts.pareto(points, higher_is_better=higher) == front


def test_intervals_in_cells_stand_where_the_axis_says(tmp_path: Path) -> None:
    # The axis holds 0.5 (the floor) to 4.5 (an end of an interval) with 4 % of room: 0.34 to 4.66 on 3 to 89 pixels.
    rows = [
        board_row(model="ddim(steps=5)", value=2.5, stderr=0.25, floor=0.5),
        board_row(model="ddim(steps=6)", value=4.0, stderr=0.25, floor=0.5),
    ]
    board = board_of(tmp_path / "b.csv", rows)
    svg = ET.fromstring(charts.cell(board.systems[0].cells[0], board.columns[0]))

    def at(value: float) -> float:
        return 3 + (value - 0.34) / (4.66 - 0.34) * 86

    found = {line.get("class"): (float(line.get("x1")), float(line.get("x2"))) for line in svg.iter("line")}
    assert found["range"] == pytest.approx((at(2.0), at(3.0)), abs=0.06)
    assert found["floor"] == pytest.approx((at(0.5), at(0.5)), abs=0.06)
    assert float(svg.find("circle").get("cx")) == pytest.approx(at(2.5), abs=0.06)
    assert svg.get("aria-hidden") == "true"  # the cell says the same in text


def test_a_value_without_an_interval_has_a_mark_alone(tmp_path: Path) -> None:
    row = board_row(model="ddim(steps=5)", value=2.5) | {"stderr": "", "ci_low": "", "ci_high": ""}
    board = board_of(tmp_path / "b.csv", [row])
    svg = ET.fromstring(charts.cell(board.systems[0].cells[0], board.columns[0]))
    assert [line.get("class") for line in svg.iter("line")] == ["base"] and svg.find("circle") is not None


def test_the_forest_is_in_the_order_of_the_ranking(tmp_path: Path) -> None:
    rows = [board_row(model=f"ddim(steps={n})", value=v, stderr=0.1) for n, v in ((5, 9.0), (6, 7.0), (7, 8.0))]
    board = board_of(tmp_path / "b.csv", rows)
    svg = ET.fromstring(charts.forest(board, board.columns[0]).svg)
    names = ["".join(text.itertext()).partition(")")[2] for text in svg.iter("text") if text.get("class") == "name end"]
    assert names == ["ddim(steps=6)", "ddim(steps=7)", "ddim(steps=5)"]
    marks = [mark.get("transform") for mark in svg.iter("path")]
    heights = [float(re.search(r",([\d.]+)\)", mark)[1]) for mark in marks]
    places = [float(re.search(r"\(([\d.]+)", mark)[1]) for mark in marks]
    assert heights == sorted(heights) and places == sorted(places)


def test_the_front_is_drawn_as_steps_through_filled_marks(tmp_path: Path) -> None:
    rows = [
        board_row(model=f"ddim(steps={n})", value=v, evaluations=float(n)) for n, v in ((5, 9.0), (6, 10.0), (7, 2.0))
    ]
    board = board_of(tmp_path / "b.csv", rows)
    figure = charts.against(board, board.columns[0], "evaluations")
    svg = ET.fromstring(figure.svg)
    kinds = [path.get("class") for path in svg.iter("path")]
    assert kinds == ["front", "mark hue0", "mark hue0 hollow", "mark hue0"]
    labels = [text.text for text in svg.iter("text") if "label" in (text.get("class") or "")]
    assert labels == ["ddim(steps=5)", "ddim(steps=7)"]
    assert charts.against(board, board.columns[0], "seconds") is None  # no row says them


def test_seconds_of_two_devices_are_on_no_chart_together(tmp_path: Path) -> None:
    devices = {5: "CPU", 6: "CPU", 7: "GPU", 8: "CPU"}
    rows = [board_row(model=f"ddim(steps={n})", value=float(n), device=name) for n, name in devices.items()]
    board = board_of(tmp_path / "b.csv", rows)
    systems = tuple(replace(system, seconds=float(i + 1)) for i, system in enumerate(board.systems))
    figure = charts.against(replace(board, systems=systems), board.columns[0], "seconds")
    titles = [title.text for title in ET.fromstring(figure.svg).iter("title")]
    assert [title.split(":")[0] for title in titles] == [f"ddim(steps={n})" for n in (5, 6, 8)]
    assert "seconds of sampling an image, CPU" in figure.svg


def test_many_groups_of_ties_are_told_by_their_ends() -> None:
    assert [charts.grouped(text) for text in ("", "a", "a b c", "b c d e", "y z aa ab")] == [
        "", "a", "a b c", "b\u2013e", "y\u2013ab",
    ]  # fmt: skip


def test_a_forest_of_many_systems_has_the_best_ones_and_says_so(tmp_path: Path) -> None:
    rows = [board_row(model=f"ddim(steps={n})", value=float(n)) for n in range(1, 71)]
    board = board_of(tmp_path / "b.csv", rows)
    figure = charts.forest(board, board.columns[0])
    assert figure.svg.count("name end") == charts.FOREST and "the first 60 of 70 systems" in figure.note
    assert "ddim(steps=60)" in figure.svg and "ddim(steps=61)" not in figure.svg


def test_more_series_than_colours_differ_in_their_marks(tmp_path: Path) -> None:
    rows = [board_row(model=f"their{n}:load") for n in range(30)]
    series = charts.Series.of(board_of(tmp_path / "b.csv", rows))
    assert len({(series.hue(name), series.form(name)) for name in series.order}) == 30
    assert len({mark(5.0) for mark in charts.MARKS}) == len(charts.MARKS)


def test_precision_against_recall_needs_both(tmp_path: Path) -> None:
    rows = [board_row(model="ddim(steps=5)", metric=name, value=v) for name, v in (("precision", 0.7), ("recall", 0.4))]
    board = board_of(tmp_path / "both.csv", rows)
    svg = ET.fromstring(charts.fidelity_and_diversity(board).svg)
    (mark,) = svg.iter("path")
    assert "recall 0.4" in mark.find("title").text and "precision 0.7" in mark.find("title").text
    assert charts.fidelity_and_diversity(board_of(tmp_path / "one.csv", rows[:1])) is None


# --- text of other people ---------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Names and attributes of all elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_hostile_names_are_text_everywhere(tmp_path: Path) -> None:
    rows = [
        board_row(model=HOSTILE, value=float(i + 2), extractor=HOSTILE.replace("x(", f"e{i}("), generated="<script>",
                  protocol="<img src=x onerror=alert(1)>", error_method="{{ 7 * 7 }}")
        for i in range(3)
    ]  # fmt: skip
    rows.append(board_row(model="", generated="<svg onload=alert(1)>", reference="</b><script>alert(1)</script>"))
    title = "</title><script>alert(1)</script>{{ page }}"
    strip = tmp_path / "strip.png"
    about = About(model=HOSTILE, dataset="<b>", seed=0, conditions=('"><script>alert(1)</script>',))
    images.write_strip(np.zeros((1, 3, 8, 8), np.uint8), strip, about)
    html = page.rendered(page.gathered([write(tmp_path / "b.csv", rows), strip], title=title))
    tags = [tag for tag, _ in Elements(html).found]
    assert tags.count("script") == 1 and tags.count("style") == 1 and "b" in tags
    for tag, attributes in Elements(html).found:
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        for name in ("src", "href"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:", "https://arxiv.org/abs/")), target
    assert "49" not in re.findall(r"<td>([^<]*)</td>", html) and "{{ page }}" in html


def test_names_of_code_are_not_imported(tmp_path: Path) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')\n")
    code = {"model": "evil_module:load", "dataset": "evil_module:data", "metric": "evil_module:metric"}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        html = page.rendered(page.gathered([write(tmp_path / "b.csv", [board_row(**code)])]))
    assert "evil_module:load" in html


def test_the_policy_allows_this_script_and_this_style_and_nothing_else(tmp_path: Path) -> None:
    html = page.rendered(page.gathered([write(tmp_path / "b.csv", [board_row()])]))
    policy = next(a["content"] for tag, a in Elements(html).found if a.get("http-equiv") == "Content-Security-Policy")
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    assert parts.pop("default-src") == "'none'" and parts.pop("img-src") == "data:"
    for name in ("script", "style"):
        inside = re.search(rf"<{name}>(.*?)</{name}>", html, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert parts.pop(f"{name}-src") == f"'sha256-{digest}'"
    assert parts == {"base-uri": "'none'", "form-action": "'none'"}


# --- images -----------------------------------------------------------------------------------------------------------


def test_a_strip_gives_its_images_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for channels in (1, 3):
        given = rng.integers(0, 256, (5, channels, 6, 9), dtype=np.uint8)
        about = About(model="edm(steps=7)", dataset="shapes", seed=3, conditions=("a", "b", "ü", "", "e"))
        images.write_strip(given, tmp_path / "s.png", about)
        pixels, found = images.read_strip(tmp_path / "s.png")
        assert np.array_equal(pixels, given) and found == about


def test_other_pictures_are_no_strips(tmp_path: Path) -> None:
    images.write_grid(np.zeros((2, 3, 4, 4), np.uint8), tmp_path / "grid.png")
    (tmp_path / "text.png").write_text("no picture")
    about = About(model="edm(", dataset="shapes", seed=0, conditions=("a",))
    images.write_strip(np.zeros((1, 3, 4, 4), np.uint8), tmp_path / "model.png", about)
    for name in ("grid", "text", "missing", "model"):
        with pytest.raises(InputRejected, match=re.escape(f"{name}.png")):
            page.gathered([tmp_path / f"{name}.png"])


def shots(model: str, value: int, *, conditions: tuple[str, ...] = ("cat", "dog"), size: int = 8) -> Shots:
    pixels = np.full((len(conditions), 3, size, size), value, np.uint8)
    return Shots(model=model, dataset="shapes", seed=0, conditions=conditions, pixels=pixels)


def test_images_of_equal_seeds_and_conditions_stand_beside_each_other() -> None:
    given = [shots("b", 1), shots("a", 2), shots("c", 3, conditions=("dog", "cat"))]
    first, second = pictures.galleries(given, {name: name.upper() for name in "abc"})
    assert [name for name, _ in first.rows] == ["A", "B"] and [name for name, _ in second.rows] == ["C"]
    assert first.heads == ((0, "cat"), (1, "dog"))
    assert first.rows[0][1][1].about == "A: seed 0, image 1, dog"


def test_images_are_exact_up_to_a_size_and_smaller_beyond(tmp_path: Path) -> None:
    def decoded(gallery: pictures.Gallery) -> np.ndarray:
        data = base64.b64decode(gallery.rows[0][1][0].source.partition("base64,")[2])
        (tmp_path / "tile.png").write_bytes(data)
        return np.asarray(Image.open(tmp_path / "tile.png"))

    given = shots("a", 0)
    given.pixels[:] = np.random.default_rng(1).integers(0, 256, given.pixels.shape)
    (exact,) = pictures.galleries([given], {"a": "a"})
    assert np.array_equal(decoded(exact), given.pixels[0].transpose(1, 2, 0)) and not exact.shrunk
    (shrunk,) = pictures.galleries([shots("a", 9, size=300)], {"a": "a"})
    assert decoded(shrunk).shape == (128, 128, 3) and shrunk.shrunk and shrunk.size == (300, 300)


def test_fewer_images_are_shown_where_all_would_be_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    given = [shots(name, 0, conditions=tuple("abcdef")) for name in "xyz"]
    for one in given:
        one.pixels[:] = rng.integers(0, 256, one.pixels.shape)
    monkeypatch.setattr(pictures, "BUDGET", 5_000)
    (gallery,) = pictures.galleries(given, {name: name for name in "xyz"})
    total = sum(len(tile.source) for _, tiles in gallery.rows for tile in tiles)
    assert total <= 5_000 and gallery.left_out == 6 - len(gallery.heads) > 0
    assert {len(tiles) for _, tiles in gallery.rows} == {len(gallery.heads)}


# --- comparisons ------------------------------------------------------------------------------------------------------

COMPARISON = {
    "schema": "genbench.comparison/1", "exit_code": 4, "covers": "Seeds alone.",
    "base": {"name": "a", "model": "ddim(steps=50)", "dataset": "shapes", "seed": 0, "num_samples": 100},
    "candidates": [{
        "name": "b", "model": None, "dataset": None, "seed": None, "num_samples": 100, "paired": True,
        "why": "asked <b>", "alone": [], "differences": [
            {"metric": "fid@compact", "measurement": "fid@compact", "protocol": "embedded", "protocol_hash": "a" * 16,
             "higher_is_better": False, "base": {"value": 2.0, "stderr": 0.1, "ci95": None},
             "candidate": {"value": 3.0, "stderr": 0.1, "ci95": None}, "difference": 1.0, "stderr": 0.25,
             "ci95": [0.5, 1.5], "method": "paired", "shown": True, "better": False, "unlike": []},
            {"metric": "is", "measurement": "is", "protocol": "embedded", "protocol_hash": "b" * 16,
             "higher_is_better": True, "base": {"value": None, "stderr": None, "ci95": None},
             "candidate": {"value": 3.0, "stderr": None, "ci95": None}, "difference": None, "stderr": None,
             "ci95": None, "method": None, "shown": None, "better": None, "unlike": ["num_samples 100 and 200"]},
        ],
    }], "ties": {},
}  # fmt: skip


def test_a_comparison_says_which_way_and_why_not(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(COMPARISON))
    found = page.gathered([tmp_path / "c.json"])
    (one,) = found.compared
    assert [delta.verdict for delta in one.deltas] == ["worse", "not comparable"]
    svg = ET.fromstring(charts.difference(one.deltas[0]))
    (line,) = (line for line in svg.iter("line") if line.get("class") == "range")
    # The axis reaches 1.5 to both sides of 90 with 86 pixels each.
    assert (float(line.get("x1")), float(line.get("x2"))) == pytest.approx((90 + 86 / 3, 176), abs=0.06)
    html = page.rendered(found)
    assert "num_samples 100 and 200" in html and "asked &lt;b&gt;" in html and "+1.00 ± 0.25" in html


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "genbench.comparison/9"},
        {"candidates": [{}]},
        {"candidates": 1},
        {"base": None},
        {"covers": None},
        {"base": COMPARISON["base"] | {"seed": math.inf}},
        {"candidates": [COMPARISON["candidates"][0] | {"differences": [{}]}]},
    ],
)
def test_a_damaged_comparison_is_refused_by_name(tmp_path: Path, change: dict) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({name: v for name, v in (COMPARISON | change).items() if v is not None}))
    with pytest.raises(InputRejected, match=re.escape(str(path))):
        page.gathered([path])


# --- papers -----------------------------------------------------------------------------------------------------------


def test_numbers_of_papers_stand_apart_with_the_reasons(tmp_path: Path) -> None:
    row = board_row(model="ddim(steps=50, eta=0.0, spacing='uniform', clip=True)")
    found = page.gathered([write(tmp_path / "b.csv", [row])])
    one = next(p for p in found.published if p.dataset == "CIFAR-10 32" and "arXiv:2010.02502" in p.citation)
    assert one.value == "4.67" and not one.comparable
    assert {"other data set", "other extractor", "1000 instead of 50000 samples"} <= set(one.reasons)
    assert one.link == "https://arxiv.org/abs/2010.02502"
    assert all(
        "4.67" not in number.row["value"] for board in found.boards for s in board.systems for number in s.numbers
    )


def test_beside_a_number_of_a_paper_stands_the_system_that_is_most_like_it(tmp_path: Path) -> None:
    rows = [board_row(model=f"ddim(steps={n}, eta=0.0, spacing='uniform', clip=True)") for n in (7, 50, 60)]
    found = page.gathered([write(tmp_path / "b.csv", rows)])
    one = next(p for p in found.published if p.value == "4.67" and "arXiv:2010.02502" in p.citation)
    assert one.name.text == "ddim(steps=50)" and not any("of 50 steps" in reason for reason in one.reasons)


# --- runs and the command ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_have_images_seconds_and_their_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    for steps in (2, 3):
        words = ["--model", f"ddim(steps={steps})", "-n", "24", "--metric", "fid", "-o", str(runs)]
        assert main(["run", *words]) == 0
    output = tmp_path / "page.html"
    assert main(["report", str(runs), "-o", str(output), "--images", "3", "--title", "Two & three"]) == 0
    assert f"{output} shows 2 numbers" in capsys.readouterr().out
    html = output.read_text()
    assert "<title>Two &amp; three</title>" in html and html.count("data:image/png") == 6
    assert "ddim(steps=3): seed 0, image 2, " in html and "In pairs" not in html
    (board,) = page.gathered([runs]).boards
    assert all(system.seconds > 0 for system in board.systems)
    assert "fid against seconds" in html
    pair = [str(folder) for folder in sorted(runs.iterdir())]
    assert main(["report", *pair, "-o", str(output), "--images", "2"]) == 0
    html = output.read_text()
    assert "In pairs: image i of both sides" in html and "The 16 of 24 pairs that moved most" in html
    assert html.count("data:image/png") == 2 * 2 + 2 * 16
    assert main(["report", *pair, "-o", str(output), "--images", "0"]) == 0
    assert "data:image/png" not in output.read_text()


def test_what_cannot_be_shown_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.csv").write_text("a,b\n1,2\n")
    wrong = write(tmp_path / "wrong.csv", [board_row() | {"value": "=1+1"}])
    for source in ("empty", "missing", "text.csv"):
        with pytest.raises(InputRejected, match=re.escape(source)):
            page.gathered([tmp_path / source])
    with pytest.raises(InputRejected, match=r"wrong\.csv, row 1"):
        page.gathered([wrong])
    with pytest.raises(UsageError):
        page.gathered([])
    assert main(["report", str(tmp_path / "missing"), "-o", str(tmp_path / "p.html")]) == 5
    assert not (tmp_path / "p.html").exists()


def test_systems_of_the_leaderboards_are_linked_to_their_papers(root: Path) -> None:
    links = leaderboard.names_of(root / "leaderboards" / "names.toml")
    rows = leaderboard.sound(root / "leaderboards" / "shapes.csv")
    assert {Ref.parse(row["model"]).name for row in rows} <= set(links)
    assert all(
        re.fullmatch(r"https://(arxiv\.org/abs|openreview\.net|github\.com)/.+", link) for _, link in links.values()
    )


def test_the_committed_page_shows_the_leaderboards_as_they_stand(root: Path) -> None:
    """Rows that were measured since may be missing until `make page`. No number may be another than in its table."""
    html = (root / "leaderboards" / "index.html").read_text(encoding="utf-8")
    assert len(html.encode()) <= 3_000_000 and html.count("<script>") == 1
    files = sorted((root / "leaderboards").glob("*.csv"))
    boards_ = [file for file in files if file.read_text().partition("\n")[0] == ",".join(report.COLUMNS)]
    values = {row["id"]: row["value"] for file in boards_ for row in leaderboard.sound(file)}
    shown = re.findall(
        r'<tr><th scope="row">.*?</th><td>\d*</td><td class="num">(.*?)</td>.*<code>(\w{12})</code></td></tr>', html
    )
    assert len(shown) > 200
    other = [number for value, number in shown if values.get(number) != value]
    assert not other, f"{len(other)} numbers of leaderboards/index.html are not in the tables; run `make page`"
