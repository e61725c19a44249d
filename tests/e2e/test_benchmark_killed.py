"""A benchmark that is killed again and again ends with the numbers of one that is left alone."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genbench import report, tables
from genbench.cli import main

FILE = """
title = "twenty cells"
datasets = ["shapes"]
metrics = ["is", "vendi"]
seeds = [0, 1]
num_samples = 64

[[sweep]]
model = "ddim"
steps = [1, 2, 3, 4, 5]
"""
TIMES = ("seconds", "date")
"""Columns that tell of the clock."""


def rows(path: Path) -> list[dict[str, str]]:
    found = tables.read(path, report.COLUMNS)
    return [{name: text for name, text in row.items() if name not in TIMES} for row in found]


@pytest.mark.slow
def test_twenty_cells_that_are_killed_three_times_end_with_the_same_table(
    tmp_path: Path, clean_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b.toml").write_text(FILE)
    words = [sys.executable, "-m", "genbench", "bench", "b.toml", "-o", "killed", "--batch-size", "16"]
    environment = clean_environment | {"GENBENCH_CACHE": str(tmp_path / "cache")}
    rng, before = random.Random(0), -1
    for number in range(3):
        process = subprocess.Popen(words, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        # Cells that were finished before pass by at once; two new runs end, and somewhere in the third it is killed.
        for line in process.stderr:
            if line.startswith(f"{2 * number + 2} of 10:"):
                break
        time.sleep(rng.uniform(0.0, 0.5))
        process.kill()
        assert process.wait() == -9
        process.stderr.close()
        kept = len(rows(tmp_path / "killed" / "leaderboard.csv"))
        assert before < kept < 20, "it was killed with work left, after more than the last time"
        before = kept
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "twenty cells: 20 cells, 20 done" in done.stdout, done.stderr

    monkeypatch.chdir(tmp_path)
    assert main(["bench", "b.toml", "-o", "alone", "--batch-size", "16"]) == 0
    ended = rows(tmp_path / "killed" / "leaderboard.csv")
    assert len(ended) == 20 and ended == rows(tmp_path / "alone" / "leaderboard.csv")
    assert main(["leaderboard", "check", "killed/leaderboard.csv"]) == 0
    log = (tmp_path / "killed" / "log.csv").read_text()
    assert log.count(",done,") == 20 and log == (tmp_path / "alone" / "log.csv").read_text()
