"""Benchmark files: what they may say, and that a benchmark ends with the same table however it came there."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genbench import benchmark, pipeline
from genbench.cli import main
from genbench.errors import GenbenchError, Incomplete, InputRejected, UsageError

FILE = """
title = "Two models"
datasets = ["shapes"]
models = ["ddim(steps=2)"]
metrics = ["fid", "is"]
seeds = [0, 1]
num_samples = 24

[[sweep]]
model = "ddpm(variance='small')"
steps = [2, 3]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "bench.toml").write_text(FILE)
    return tmp_path / "bench.toml"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def numbers(path: Path) -> list[dict[str, str]]:
    """Rows without what differs between two measurements of the same."""
    volatile = ("seconds", "date", "commit")
    return [{name: text for name, text in row.items() if name not in volatile} for row in rows(path)]


def test_a_file_names_every_combination(file: Path) -> None:
    found = benchmark.read(file)
    assert (found.title, found.cells) == ("Two models", 3 * 2 * 2)
    specs = [(str(run.spec.model.brief()), run.spec.seed) for run in found.runs]
    assert specs == [
        (model, seed)
        for model in ("ddim(steps=2)", "ddpm(steps=2, variance='small')", "ddpm(steps=3, variance='small')")
        for seed in (0, 1)
    ]
    assert {run.spec.num_samples for run in found.runs} == {24}


def test_a_sweep_is_the_product_of_its_lists() -> None:
    sweep = {"model": "ddim", "steps": [4, 6], "eta": [0.0, 1.0], "spacing": "quadratic"}
    found = benchmark.parse({"datasets": ["shapes"], "metrics": ["fid"], "sweep": [sweep]})
    args = [(r.spec.model.args["steps"], r.spec.model.args["eta"], r.spec.model.args["spacing"]) for r in found.runs]
    assert args == [(4, 0.0, "quadratic"), (4, 1.0, "quadratic"), (6, 0.0, "quadratic"), (6, 1.0, "quadratic")]


def test_what_is_named_twice_is_one_run() -> None:
    named = {"models": ["ddim(steps=4)", "ddim(steps=4, eta=0.0)"], "sweep": [{"model": "ddim", "steps": [4]}]}
    assert len(benchmark.parse({"datasets": ["shapes"], "metrics": ["fid"], **named}).runs) == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"metric": ["fid"]}, "Did you mean 'metrics'?"),
        ({"seeds": "0"}, "seeds is a list of whole numbers"),
        ({"seeds": [True]}, "seeds is a list of whole numbers"),
        ({"seeds": []}, "seeds is empty"),
        ({"num_samples": 1.5}, "num_samples is a whole number"),
        ({"exact": 1}, "exact is true or false"),
        ({"precision": "half"}, "precision is"),
        ({"models": []}, "no model is named"),
        ({"models": ["dim"]}, "Did you mean 'ddim'?"),
        ({"models": ["ddim(stps=3)"]}, "Did you mean 'steps'?"),
        ({"metrics": ["precison"]}, "Did you mean 'precision'?"),
        ({"datasets": ["shape"]}, "Did you mean 'shapes'?"),
        ({"protocol": "nobody's"}, "nobody's"),
        ({"sweep": [{"modle": "ddim", "steps": [3]}]}, "a sweep needs one model"),
        ({"sweep": [{"model": "ddim", "stpes": [3]}]}, "Did you mean 'steps'?"),
        ({"sweep": [{"model": "ddim", "steps": []}]}, "no value of 'steps'"),
        ({"sweep": [{"model": "ddim(steps=2)", "steps": [3]}]}, "twice"),
        ({"sweep": [{"model": "ddim", "steps": [{"a": 1}]}]}, "numbers, texts or booleans"),
        ({"sweep": {"model": "ddim"}}, "[[sweep]]"),
        ({"seeds": list(range(20_000))}, "more than 10000 cells"),
        ({"sweep": [{"model": "ddim", "steps": list(range(1000)), "eta": [float(i) for i in range(99)]}]}, "10000"),
    ],
)
def test_what_a_file_may_not_say_is_refused_before_any_work(changed: dict, said: str) -> None:
    with pytest.raises(UsageError) as error:
        benchmark.parse({"datasets": ["shapes"], "models": ["ddim"], "metrics": ["fid"], **changed})
    assert said in str(error.value)


@pytest.mark.parametrize("key", ["datasets", "metrics"])
def test_a_key_that_is_missing_is_named(key: str) -> None:
    data = {"datasets": ["shapes"], "models": ["ddim"], "metrics": ["fid"]}
    del data[key]
    with pytest.raises(UsageError, match=f"the key '{key}' is missing"):
        benchmark.parse(data)


@pytest.mark.parametrize(
    "changed",
    [
        {"models": ["a_module_of_someone:load"]},
        {"datasets": ["a_module_of_someone:data"]},
        {"metrics": ["a_module_of_someone:metric"]},
        {"metrics": ["fid@a_module_of_someone:load"]},
        {"sweep": [{"model": "a_module_of_someone:load"}]},
    ],
)
def test_a_file_runs_no_code_unless_that_is_allowed(
    changed: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    (tmp_path / "a_module_of_someone.py").write_text(f"open({str(seen)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "a_module_of_someone", raising=False)
    data = {"datasets": ["shapes"], "models": ["ddim"], "metrics": ["fid"], **changed}
    with pytest.raises(UsageError, match="--allow-code"):
        benchmark.parse(data)
    assert not seen.exists()
    with pytest.raises(UsageError, match="which cannot be imported"):
        benchmark.parse(data, allow_code=True)
    assert seen.exists()


@pytest.mark.parametrize("content", [b"title = ", b"\xff\xfe", b"a = " + b"[" * 100_000])
def test_what_is_no_toml_is_rejected(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(InputRejected, match="no TOML"):
        benchmark.read(tmp_path / "bad.toml")


@pytest.mark.slow
def test_a_cell_that_fails_takes_no_other_along(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """One model has a wrong number, and one metric has not enough images; every other number is there."""
    text = FILE.replace('"ddim(steps=2)"', '"ddim(steps=2)", "ddim(steps=1001)"')
    file.write_text(text.replace('"is"', '"is", "precision(k=24)"'))
    code = main(["bench", str(file), "--output", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert code == 8, printed.err
    assert "steps must lie in [1, 1000]" in printed.err and "12 of 24 cells failed" in printed.err
    log = rows(tmp_path / "out" / "log.csv")
    assert len(log) == 24
    done = {(row["model"].split("(")[0], row["metric"], row["seed"]) for row in log if row["state"] == "done"}
    failed = [row for row in log if row["state"] == "failed"]
    assert len(failed) == 12 and all(row["reason"] and row["exit_code"] for row in failed)
    assert all("1001" in row["model"] or row["metric"] == "precision(k=24)" for row in failed)
    assert {name for _, name, _ in done} == {"fid", "is"}
    board = rows(tmp_path / "out" / "leaderboard.csv")
    assert len(board) == 12 and not any("1001" in row["model"] or "precision" in row["metric"] for row in board)


@pytest.mark.slow
def test_an_unforeseen_error_is_a_row_too(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = pipeline.run

    def broken(spec, measurements, **more):
        if spec.model.name == "ddim":
            raise RuntimeError("a fault of this program")
        return run(spec, measurements, **more)

    monkeypatch.setattr(pipeline, "run", broken)
    cells = benchmark.run(benchmark.read(file), output=tmp_path / "out")
    assert [cell.state for cell in cells] == ["failed"] * 4 + ["done"] * 8
    with pytest.raises(Incomplete, match="a fault of this program") as error:
        benchmark.refuse_failures(cells)
    assert error.value.exit_code == 8


def test_numbers_that_may_not_stand_together_are_failures(tmp_path: Path) -> None:
    data = {"datasets": ["shapes"], "models": ["ddim(steps=2)"], "num_samples": 24}
    asked = benchmark.parse({**data, "metrics": ["precision(k=3)", "precision(k=5)"]})
    cells = benchmark.run(asked, output=tmp_path)
    assert [cell.state for cell in cells] == ["done", "failed"] and "metric.k" in str(cells[1].error)
    assert len(rows(tmp_path / "leaderboard.csv")) == 1


@pytest.mark.slow
def test_progress_says_how_far_and_how_long(file: Path, tmp_path: Path) -> None:
    told: list[benchmark.Progress] = []
    benchmark.run(benchmark.read(file), output=tmp_path, tell=told.append)
    assert [(one.done, one.total, one.failed) for one in told] == [(i, 6, 0) for i in range(1, 7)]
    assert told[0].seconds_left and told[-1].seconds_left == 0
    again: list[benchmark.Progress] = []
    benchmark.run(benchmark.read(file), output=tmp_path, tell=again.append)
    assert again[0].seconds_left is None, "what is only looked up tells nothing of the time of work"


@pytest.mark.slow
def test_killed_three_times_it_ends_with_the_same_table(
    file: Path, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    def started(where: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "genbench", "bench", str(file), "--output", str(tmp_path / where)]
        return subprocess.Popen(command, env=clean_environment, stderr=subprocess.PIPE, text=True)

    for wanted in (1, 3, 5):
        with started("killed") as process:
            for line in process.stderr or ():
                if line.startswith(f"{wanted} of 6"):
                    time.sleep(0.01 * wanted)  # the next run has begun
                    process.send_signal(signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL
        before = rows(tmp_path / "killed" / "leaderboard.csv")
        assert 2 * wanted <= len(before) < 12
    process = started("killed")
    process.communicate(timeout=300)
    assert process.returncode == 0
    whole = started("whole")
    whole.communicate(timeout=300)
    assert numbers(tmp_path / "killed" / "leaderboard.csv") == numbers(tmp_path / "whole" / "leaderboard.csv")
    assert [row["state"] for row in rows(tmp_path / "killed" / "log.csv")] == ["done"] * 12
    assert main(["leaderboard", "check", str(tmp_path / "killed" / "leaderboard.csv")]) == 0


def test_a_board_that_cannot_be_merged_into_is_refused_before_any_work(file: Path, tmp_path: Path) -> None:
    (tmp_path / "board.csv").write_text("some,thing,else\n")
    with pytest.raises(GenbenchError, match="its columns are"):
        benchmark.run(benchmark.read(file), output=tmp_path / "out", leaderboard=tmp_path / "board.csv")
    assert not (tmp_path / "out").exists()
