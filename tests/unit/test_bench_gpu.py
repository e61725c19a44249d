"""The table of a GPU: rates and ratios from seconds, reasons in the place of numbers, and an end when time is over."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from scripts import bench_gpu
from scripts.bench_gpu import QUICK, Rate


def task(device: str, sizes: bench_gpu.Sizes, *, tools: int = 3) -> Iterator[Rate]:
    yield Rate(tool="base", count=100, seconds=2.0)
    yield Rate(tool="fast", count=100, seconds=0.5)
    if tools == 3:
        yield Rate(tool="absent", note="ModuleNotFoundError: No module named 'peer'")


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_gpu, "TASKS", {"one": ("images/s", task), "two": ("calls/s", partial(task, tools=2))})
    monkeypatch.setattr(bench_gpu, "size_of", lambda name, sizes: "small")


def test_rates_are_units_a_second_and_speeds_those_by_the_first(made_up: None) -> None:
    found = dict(bench_gpu.measured("cpu", QUICK, 60))
    assert [(row["tool"], row["rate"], row["speed"]) for row in found["one"]] == [
        ("base", "50", "1"), ("fast", "200", "4"), ("absent", "", ""),
    ]  # fmt: skip
    assert "No module named" in found["one"][2]["note"]
    assert {row["unit"] for row in found["two"]} == {"calls/s"}


def test_what_there_is_no_time_for_is_said(made_up: None) -> None:
    found = dict(bench_gpu.measured("cpu", QUICK, -1))
    assert all("left out" in table[-1]["note"] and not table[-1]["rate"] for table in found.values())
    assert [name for name, _ in bench_gpu.measured("cpu", QUICK, 60, ["tw"])] == ["two"]


def test_a_tool_that_fails_is_a_row_with_the_reason() -> None:
    def fails() -> Callable[[], object]:
        raise ImportError("no peer\nmore")

    assert bench_gpu.rate("peer", fails, 1, "cpu") == Rate(tool="peer", note="ImportError: no peer")
    calls: list[int] = []
    found = bench_gpu.rate("own", lambda: lambda: calls.append(1), 7, "cpu", 3)
    assert len(calls) == 4 and found.count == 7 and found.seconds is not None


def test_rows_replace_those_of_the_same_task_on_the_same_device(made_up: None, tmp_path: Path) -> None:
    path = tmp_path / "gpu.csv"
    for table in dict(bench_gpu.measured("cpu", QUICK, 60)).values():
        bench_gpu.write(path, table)
    bench_gpu.write(path, [{**row, "device": "another"} for row in dict(bench_gpu.measured("cpu", QUICK, 60))["one"]])
    bench_gpu.write(path, dict(bench_gpu.measured("cpu", QUICK, 60, ["one"]))["one"][:1])
    with path.open(newline="") as stream:
        read = [(row["device"] == "another", row["task"], row["tool"]) for row in csv.DictReader(stream)]
    assert sorted(read) == [
        (False, "one", "base"), (False, "two", "base"), (False, "two", "fast"), (True, "one", "absent"),
        (True, "one", "base"), (True, "one", "fast"),
    ]  # fmt: skip
