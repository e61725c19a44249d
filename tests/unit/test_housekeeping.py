"""What lies in a directory of runs and in the cache: listed, filtered, removed, and never what somebody works with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import genbench
from genbench import feature_files, files, housekeeping
from genbench.cli import main
from genbench.errors import InputRejected, UsageError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, session_cache: Path) -> Path:
    """One run with results, one of images alone, one that lacks images, and one without a manifest."""
    output = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENBENCH_CACHE", str(session_cache))
        base = ["--model", "ddim(steps=2)", "-o", str(output)]
        assert main(["run", *base, "-n", "24", "--metric", "fid", "--metric", "is"]) == 0
        assert main(["sample", *base, "-n", "20", "--seed", "1"]) == 0
        assert main(["sample", *base, "-n", "300", "--seed", "2"]) == 0
    (output / "000000000bad" / "samples").mkdir(parents=True)
    (output / "notes").mkdir()
    (output / "notes" / "mine.txt").write_text("not a run")
    (lacking,) = [run for run in housekeeping.runs(output) if run.spec and run.spec.num_samples == 300]
    (lacking.path / "samples" / "000001.json").unlink()
    return output


@pytest.fixture
def output(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "runs"))


def by_state(output: Path) -> dict[str, housekeeping.Run]:
    found = housekeeping.runs(output)
    assert len({run.state for run in found}) == len(found) == 4
    return {run.state: run for run in found}


def test_runs_are_what_their_folders_hold(output: Path) -> None:
    found = by_state(output)
    finished = found["finished"]
    assert finished.spec is not None and finished.path.name == finished.path.resolve().name
    assert (finished.spec.num_samples, finished.spec.seed, finished.kept) == (24, 0, 24)
    assert finished.metrics == ("fid@compact", "is@compact")
    size = sum(path.stat().st_size for path in finished.path.rglob("*") if path.is_file() and path.name != ".lock")
    assert finished.size == size > 24 * 3072
    assert found["sampled"].kept == 20 and found["sampled"].metrics == ()
    assert found["unfinished"].kept == 256
    assert found["damaged"].spec is None
    with files.locked(finished.path):
        states = {run.path.name: run.state for run in housekeeping.runs(output)}
        assert states[finished.path.name] == "running"


def test_the_list_is_filtered_and_read_by_machines(output: Path, capsys: pytest.CaptureFixture) -> None:
    def listed(*args: str) -> list[dict]:
        assert main(["runs", "list", "-o", str(output), "--format", "json", *args]) == 0
        return json.loads(capsys.readouterr().out)

    assert len(listed()) == 4
    assert [run["seed"] for run in listed("--metric", "fid")] == [0]
    assert listed("--metric", "fid@compact") and not listed("--metric", "kid")
    assert [run["kept"] for run in listed("--state", "unfinished")] == [256]
    assert len(listed("--model", "steps=2")) == 3 and not listed("--model", "edm")
    assert main(["runs", "-o", str(output)]) == 0
    text = capsys.readouterr().out
    assert "unfinished (256 of 300)" in text and "fid@compact" in text and "4 runs" in text


def test_runs_are_removed_by_id_and_nothing_else(output: Path) -> None:
    found = by_state(output)
    finished = found["finished"].path
    assert main(["runs", "rm", finished.name[:8], "-o", str(output)]) == 0
    assert not finished.exists() and len(housekeeping.runs(output)) == 3
    for names in (["notes"], ["../runs"], ["."], [""], ["nothing"]):
        assert main(["runs", "rm", *names, "-o", str(output)]) == 2
    assert (output / "notes" / "mine.txt").exists() and len(housekeeping.runs(output)) == 3
    assert main(["runs", "rm", "-o", str(output)]) == 2
    assert main(["runs", "rm", found["sampled"].path.name, "--unfinished", "-o", str(output)]) == 2


def test_unfinished_runs_are_removed_and_one_that_is_worked_on_stays(output: Path) -> None:
    found = by_state(output)
    with files.locked(found["unfinished"].path):
        assert main(["runs", "rm", "--unfinished", "-o", str(output)]) == 0
        assert main(["runs", "rm", found["unfinished"].path.name, "-o", str(output)]) == 1
    assert sorted(run.state for run in housekeeping.runs(output)) == ["finished", "sampled", "unfinished"]
    assert main(["runs", "rm", "--unfinished", "-o", str(output)]) == 0
    assert sorted(run.state for run in housekeeping.runs(output)) == ["finished", "sampled"]


HOLDER = """
import fcntl, sys
with open(sys.argv[1], "r+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_of_which_a_job_makes_images_is_running_and_stays(output: Path) -> None:
    path = by_state(output)["unfinished"].path
    claims = path / "samples" / ".claims"
    claims.touch()
    words = [sys.executable, "-c", HOLDER, str(claims)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout.readline() == "held\n"
        assert by_state(output)["running"].path == path
        assert main(["runs", "rm", path.name, "-o", str(output)]) == 1 and claims.exists()
        job.kill()
        job.wait()
    assert main(["runs", "rm", path.name, "-o", str(output)]) == 0 and not path.exists()


def test_a_link_is_no_run(output: Path) -> None:
    (output / "link").symlink_to(by_state(output)["finished"].path)
    assert len(housekeeping.runs(output)) == 4


def test_results_are_a_table(output: Path) -> None:
    table = genbench.results(output)
    assert list(table["metric"].str.split("(").str[0]) == ["fid", "is"]
    assert table["value"].dtype == float and set(table["run"]) == {str(by_state(output)["finished"].path)}
    assert all(len(text) == 12 for text in table["id"])
    with pytest.raises(InputRejected, match="no directory of runs"):
        genbench.results(output / "nothing")


@pytest.mark.parametrize(("text", "seconds"), [("30d", 2_592_000), ("12h", 43_200), ("2w", 1_209_600), ("0s", 0)])
def test_times_are_written_as_people_do(text: str, seconds: float) -> None:
    assert housekeeping.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5h", "1y", "१d"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="such as 30d"):
        housekeeping.seconds_of(text)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a file of features of every age in days, a folder of parts, a floor and weights."""
    home = tmp_path / "cache"
    monkeypatch.setenv("GENBENCH_CACHE", str(home))
    for name in (
        "features/1.npy",
        "features/10.npy",
        "features/40.npy",
        "features/50.parts/000000.npy",
        "floors/60.json",
        "weights/70.pth",
    ):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)
        then = time.time() - 86_400 * int(name.split("/")[1].split(".")[0])
        os.utime(path, (then, then))
        os.utime(path.parent, (then, then))
    return home


def left(store: Path) -> set[str]:
    return {path.relative_to(store).as_posix() for path in store.glob("[a-z]*/**/*") if path.is_file()}


def test_what_was_not_used_for_long_goes_and_weights_stay(store: Path) -> None:
    before = left(store)
    assert {part.name: (part.count, part.size) for part in housekeeping.cache()} == {
        "features": (4, 400), "floors": (1, 100), "weights": (1, 100),
    }  # fmt: skip
    assert housekeeping.prune(30 * 86_400, dry=True) == (3, 300) and left(store) == before
    assert main(["cache", "prune", "--older-than", "30d"]) == 0
    assert left(store) == {"features/1.npy", "features/10.npy", "weights/70.pth"}
    assert housekeeping.prune(0) == (2, 200) and left(store) == {"weights/70.pth"}


def test_use_makes_a_file_young(store: Path) -> None:
    path = store / "features" / "40.npy"
    made_at = path.stat().st_mtime
    feature_files.use(path)
    assert path.stat().st_mtime == pytest.approx(made_at), "when it was made stays known"
    housekeeping.prune(30 * 86_400)
    assert path.exists()


def test_what_a_running_process_uses_stays_whatever_its_age(store: Path, clean_environment: dict[str, str]) -> None:
    used = store / "features" / "40.npy"
    code = f"from genbench import feature_files; from pathlib import Path; feature_files.use(Path({str(used)!r}))\n"
    command = [sys.executable, "-c", code + "print('ready', flush=True); input()"]
    with subprocess.Popen(
        command, env=clean_environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.02)
        housekeeping.prune(0)
        assert left(store) == {"features/40.npy", "weights/70.pth"}
        process.kill()
    assert housekeeping.prune(0)[0] == 1 and left(store) == {"weights/70.pth"}


def test_the_cache_is_listed(store: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["cache"]) == 0
    text = capsys.readouterr().out
    assert "features" in text and "4 files" in text and "50 days" in text
    assert main(["cache", "list", "--format", "json"]) == 0
    assert {part["name"] for part in json.loads(capsys.readouterr().out)} == {"features", "floors", "weights"}
