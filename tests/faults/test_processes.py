"""Several processes on one run and one cache, and processes that fail beside others."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.places import MEASURED, MODEL_AND_DATA, RUN, SAMPLE, Numbers, Place, alike, said_in_words
from PIL import Image

SCORE = ["score", "mydata:DATA(split='held')", "--reference", "mydata:DATA", *MEASURED, "--format", "csv"]


def test_four_commands_on_one_cache(place: Place) -> None:
    together = place.together(*({"words": SCORE} for _ in range(4)))
    assert [ended.code for ended in together] == [0] * 4, [ended.err for ended in together]

    def numbers(out: str) -> list[str]:
        return [",".join(line.split(",")[10:17]) for line in out.splitlines()]

    alone = place.command(*SCORE, env={"GENBENCH_CACHE": str(place.path / "another")})
    assert all(numbers(ended.out) == numbers(alone.out) for ended in together) and not place.litter()


@pytest.mark.parametrize("count", [2, 4])
def test_commands_on_one_run_are_told_of_each_other(place: Place, undisturbed: Numbers, count: int) -> None:
    ended = place.together(*({"words": RUN, "env": {"TEST_WAIT": "0.05"}} for _ in range(count)))
    assert 0 in [one.code for one in ended]
    assert all(one.code == 0 or (said_in_words(one, 1) and "Another process" in one.err) for one in ended)
    assert place.numbers() == undisturbed


@pytest.mark.parametrize("jobs", [(0, 1, 2), (1, 2, 3)])
def test_jobs_of_an_array_at_the_same_time_and_a_command_that_measures(
    place: Place, undisturbed: Numbers, jobs: tuple[int, ...]
) -> None:
    together = place.together(*({"words": [*SAMPLE, "--shard", f"{i}/3"]} for i in jobs))
    assert all(ended.code == 0 and "is done: " in ended.out for ended in together), [ended.err for ended in together]
    ended = place.command(*RUN, env={"TEST_MISBEHAVES": "raises 0"})
    assert ended.code == 0, f"nothing was left to be sampled: {ended.err}"
    assert place.numbers() == undisturbed


def test_the_command_without_shard_waits_for_jobs_that_are_at_work(place: Place, undisturbed: Numbers) -> None:
    slow = {"TEST_WAIT": "0.2"}
    job, whole = place.together({"words": [*RUN, "--shard", "0/2"], "env": slow}, {"words": RUN, "env": slow})
    assert job.code == whole.code == 0, job.err + whole.err
    assert place.numbers() == undisturbed


def test_a_job_that_dies_leaves_its_work_to_others(place: Place, undisturbed: Numbers) -> None:
    dead, alive = place.together(
        {"words": [*SAMPLE, "--shard", "1/2"], "faults": [[12, "SIGKILL"]]}, {"words": [*SAMPLE, "--shard", "2/2"]}
    )
    assert (dead.code, alive.code) == (-9, 0)
    assert place.command(*RUN).code == 0 and place.numbers() == undisturbed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--shard", "4/3"], "jobs numbered"),
        (["--shard", "-1/3"], "jobs numbered"),
        (["--shard", "1/0"], "jobs numbered"),
        (["--shard", "x"], "jobs numbered"),
        (["--shard", "1/2", "--fresh"], "--fresh cannot be given"),
        (["--shard", "1/2", "--leaderboard", "b.csv"], "--leaderboard cannot be given"),
    ],
)
def test_shares_that_mean_nothing_are_refused(place: Place, words: list[str], says: str) -> None:
    ended = place.command(*RUN, *words)
    assert said_in_words(ended, 2) and says in ended.err and not (place.path / "runs").exists()


@pytest.mark.parametrize("count", [2, 5])
def test_any_number_of_ranks_gives_the_same_images_and_numbers(place: Place, undisturbed: Numbers, count: int) -> None:
    """Five are more than there are shards. Strips of distances are made small enough for all to have some."""
    leader, *helpers = place.ranks(count, *RUN, env={"TEST_ROWS": "100"})
    assert leader.code == 0, leader.err
    assert all((one.code, one.out, one.err) == (0, "", "") for one in helpers), helpers
    assert place.numbers() == undisturbed and not place.litter()


def test_ranks_score_alike(place: Place) -> None:
    alone = place.command(*SCORE, env={"GENBENCH_CACHE": str(place.path / "another")})
    leader, helper = place.ranks(2, *SCORE)
    assert leader.code == helper.code == 0, leader.err + helper.err

    def numbers(out: str) -> list[str]:
        return [",".join(line.split(",")[10:17]) for line in out.splitlines()]

    assert numbers(leader.out) == numbers(alone.out) and not helper.out


def test_ranks_score_images_in_shards(place: Place) -> None:
    """More ranks than parts; a choice of held-out images is made by what they show."""
    for name, count, seed in (("generated", 70, 1), ("real", 80, 2), ("held", 90, 3)):
        drawn = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        with tarfile.open(place.path / f"{name}.tar", "w") as shard:
            for i, pixels in enumerate(drawn):
                picture = io.BytesIO()
                Image.fromarray(pixels).save(picture, "PNG")
                for ending, content in (("png", picture.getvalue()), ("cls", str(i % 2).encode())):
                    member = tarfile.TarInfo(f"{i:04d}.{ending}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
    words = [
        "score", "generated.tar", "--reference", "real.tar", "--held-out", "held.tar", "--metric", "fid@pixels(side=2)",
        "--metric", "kid@pixels(side=2)",
        "--format", "csv",
    ]  # fmt: skip
    alone = place.command(*words, env={"GENBENCH_CACHE": str(place.path / "another")})
    leader, *helpers = place.ranks(3, *words, env={"TEST_ROWS": "20"})
    assert leader.code == alone.code == 0, leader.err + alone.err
    assert all((one.code, one.out, one.err) == (0, "", "") for one in helpers), helpers
    assert alike(numbers_of(leader.out), numbers_of(alone.out))


def test_ranks_make_statistics(place: Place) -> None:
    words = ["stats", "mydata:DATA", "--metric", "fid@pixels(side=2)", "-o"]
    alone = place.command(*words, "one.npz", env={"GENBENCH_CACHE": str(place.path / "another")})
    leader, *helpers = place.ranks(5, *words, "five.npz", env={"TEST_ROWS": "100"})
    assert leader.code == alone.code == 0, leader.err + alone.err
    assert all((one.code, one.out, one.err) == (0, "", "") for one in helpers), helpers
    with np.load(place.path / "one.npz") as one, np.load(place.path / "five.npz") as five:
        for name in ("mu", "sigma"):
            np.testing.assert_allclose(one[name], five[name], rtol=1e-9)


def numbers_of(out: str) -> list[list[Any]]:
    """Values of a CSV, as numbers where they are."""

    def read(text: str) -> Any:
        try:
            return float(text)
        except ValueError:
            return text

    return [[read(text) for text in line.split(",")[10:17]] for line in out.splitlines()]


def test_ranks_bench(place: Place, undisturbed: Numbers) -> None:
    metrics = ", ".join(f'"{word}"' for word in MEASURED if not word.startswith("--"))
    (place.path / "mine.toml").write_text(
        f'models = ["mymodel:load"]\ndatasets = ["mydata:DATA"]\nnum_samples = 600\nmetrics = [{metrics}]\n'
        "seeds = [0, 1]\n"
    )
    leader, helper = place.ranks(2, "bench", "mine.toml", "--allow-code", "--batch-size", "50")
    assert leader.code == helper.code == 0, leader.err + helper.err
    assert len((place.path / "runs" / "leaderboard.csv").read_text().split()) > 12
    for told in list((place.path / "runs").glob("*/result.json")):
        if json.loads(told.read_text())["results"][0]["spec"]["seed"] == 1:
            shutil.rmtree(told.parent)
    assert place.numbers() == undisturbed


@pytest.mark.parametrize("whose", [0, 1])
def test_a_rank_that_raises_ends_all_and_is_heard_once(place: Place, undisturbed: Numbers, whose: int) -> None:
    ended = place.ranks(2, *RUN, env={"TEST_MISBEHAVES": f"raises {whose}", "TEST_WAIT": "0.05"})
    said = [line for one in ended for line in one.err.splitlines() if line.startswith("genbench: ")]
    assert ended[0].code == 1 and len(said) == 1 and "the model is tired" in said[0]
    assert (f"rank {whose} on" in said[0]) == (whose > 0) and not ended[1].err
    assert place.command(*RUN).code == 0 and place.numbers() == undisturbed


@pytest.mark.parametrize("what", ["raises 0", "raises 1", "killed 1"])
def test_a_rank_that_fails_in_its_piece_of_moments_ends_all(place: Place, undisturbed: Numbers, what: str) -> None:
    ended = place.ranks(3, *RUN, env={"TEST_ROWS": "100", "TEST_PIECE": what})
    how, whose = what.split()
    said = [line for one in ended for line in one.err.splitlines() if line.startswith("genbench: ")]
    assert ended[0].code == 1 and not ended[2].err, ended
    if how == "raises":
        # Every metric that needs the moments has failed, and the others were measured.
        assert len(said) == 1 and "the moments are tired" in said[0]
        assert (f"rank {whose} on" in said[0].lower()) == (whose != "0")
    else:
        assert "ank 1 on" in said[0] and "ended without a word" in said[0]
    assert place.command(*RUN).code == 0 and place.numbers() == undisturbed


@pytest.mark.parametrize("whose", [0, 1])
def test_a_rank_that_is_killed_ends_all_and_is_named(place: Place, undisturbed: Numbers, whose: int) -> None:
    ended = place.ranks(3, *RUN, env={"TEST_MISBEHAVES": f"killed {whose}", "TEST_WAIT": "0.05"})
    assert ended[whose].code == -9
    said = "".join(one.err for one in ended)
    assert said.lower().count(f"rank {whose} on") == said.count("ended without a word") == 1, said
    assert ended[1 - whose].code == 1
    assert place.command(*RUN).code == 0 and place.numbers() == undisturbed


def test_a_rank_that_is_told_to_stop_stops_all(place: Place, undisturbed: Numbers) -> None:
    leader, helper = place.ranks(2, *RUN, faults=[[12, "SIGUSR1"]], env={"TEST_WAIT": "0.02"})
    assert said_in_words(leader, [130, 138]) and helper.code in (0, 130, 138) and not helper.err
    assert "the same command continues" in leader.err
    assert place.command(*RUN).code == 0 and place.numbers() == undisturbed


def test_killed_as_two_ranks_and_finished_by_three_jobs(place: Place, undisturbed: Numbers) -> None:
    ended = place.ranks(2, *RUN, faults=[[14, "SIGKILL"]])
    assert -9 in [one.code for one in ended]
    together = place.together(*({"words": [*SAMPLE, "--shard", f"{i}/3"]} for i in range(3)))
    assert [one.code for one in together] == [0] * 3
    assert place.command(*RUN).code == 0 and place.numbers() == undisturbed


def test_commands_without_work_for_others_run_as_several_processes(place: Place) -> None:
    leader, helper = place.ranks(2, "list", "metrics")
    assert leader.code == helper.code == 0 and "fid" in leader.out and not helper.out


def test_wrong_usage_is_told_once(place: Place) -> None:
    leader, helper = place.ranks(2, "run", "--model", "nobody", *MODEL_AND_DATA[2:])
    assert said_in_words(leader, 2) and not helper.err


@pytest.mark.slow
def test_torchrun(place: Place, undisturbed: Numbers, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "genbench", *RUN],
        cwd=place.path, capture_output=True, text=True, timeout=300, check=False,
        env={
            "PYTHONPATH": f"{root}:{place.path}", "GENBENCH_CACHE": str(place.path / "cache"), "OMP_NUM_THREADS": "1",
            "PATH": "/usr/bin:/bin", "GENBENCH_OFFLINE": "1",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fid") >= 1 and place.numbers() == undisturbed
