"""The cache through the command line: what it holds never changes a number, whatever happens to it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genbench.cli import main

Measure = Callable[..., tuple[int, dict, str]]
WORDS = ["score", "a.npz", "--reference", "b.npz", "--held-out", "c.npz", "--metric", "fid", "--format", "json"]


def write_set(path: Path, count: int, seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    np.savez(path, coarse.repeat(8, axis=1).repeat(8, axis=2))


@pytest.fixture
def measure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Measure:
    """Scores three small sets with a cache of this test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    for seed, name in enumerate("abc"):
        write_set(tmp_path / f"{name}.npz", 80, seed)

    def call() -> tuple[int, dict, str]:
        code = main(WORDS)
        captured = capsys.readouterr()
        return code, json.loads(captured.out)["results"][0] if code == 0 else {}, captured.err + caplog.text

    return call


def changed(content: bytes) -> bytes:
    return re.sub(rb'"value": ?[-+0-9.e]+', b'"value": 0.125', content)


@pytest.mark.parametrize(
    "damage",
    [lambda _: b"", lambda _: b"[]", lambda _: b"\xff\x00", lambda old: old[:-10], changed, lambda _: b"[" * 100_000],
    ids=["empty", "list", "binary", "cut", "edited", "deep"],
)
def test_a_damaged_floor_is_measured_anew(measure: Measure, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    _, before, _ = measure()
    (floor,) = (tmp_path / "cache" / "floors").iterdir()
    whole = floor.read_bytes()
    floor.write_bytes(damage(whole))
    assert floor.read_bytes() != whole
    code, after, said = measure()
    assert code == 0 and (after["value"], after["floor"]) == (before["value"], before["floor"]) and "damaged" in said
    assert floor.read_bytes() == whole


@pytest.mark.parametrize("cache", ["a.npz", "a.npz/below", "/proc/genbench", "x" * 300])
def test_a_cache_that_cannot_be_used_costs_no_number(
    measure: Measure, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, before, _ = measure()
    monkeypatch.setenv("GENBENCH_CACHE", cache)
    code, after, said = measure()
    assert code == 0 and (after["value"], after["floor"]) == (before["value"], before["floor"])
    assert "cannot be written to" in said and "was not kept" in said


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was_and_leaves_nothing(tmp_path: Path, root: Path) -> None:
    for seed, name in enumerate("abc"):
        write_set(tmp_path / f"{name}.npz", 1100, seed)
    told = os.environ | {"PYTHONPATH": str(root), "GENBENCH_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "genbench", *WORDS]

    def parts() -> list[Path]:
        return list((tmp_path / "cache" / "features").glob("*.parts/*.npy"))

    process = subprocess.Popen(command, cwd=tmp_path, env=told, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not parts():
        assert process.poll() is None, "it ended before it had made a part"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert parts()
    done = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True, check=True)
    again = told | {"GENBENCH_CACHE": str(tmp_path / "another")}
    whole = subprocess.run(command, cwd=tmp_path, env=again, capture_output=True, text=True, check=True)
    one, other = (json.loads(output.stdout)["results"][0] for output in (done, whole))
    assert [one[name] for name in ("value", "floor", "ci95")] == [other[name] for name in ("value", "floor", "ci95")]
    left = [path.name for path in (tmp_path / "cache" / "features").iterdir()]
    assert all(name.endswith(".npy") and not name.startswith(".") for name in left), left
