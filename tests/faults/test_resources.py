"""Disk, memory, file handles, home and network that are not there: told in words, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.places import RUN, SAMPLE, Numbers, Place, said_in_words


@pytest.mark.parametrize("moment", [2, 9, 14, 30, 50, 70, 90, 120, 150])
def test_a_disk_that_is_full_at_any_moment(place: Place, undisturbed: Numbers, moment: int) -> None:
    ended = place.command(*RUN, faults=[[moment, "ENOSPC"]])
    # What is only kept for later commands costs a warning; what the run itself needs ends it.
    assert ended.code == 0 or said_in_words(ended, 7), ended.err
    if ended.code == 0:
        assert place.numbers() == undisturbed
    assert place.command(*RUN).code == 0 and place.numbers() == undisturbed and not place.litter()


@pytest.mark.parametrize("limit", [1000, 20_000, 40_000])
def test_files_that_may_not_grow(place: Place, undisturbed: Numbers, limit: int) -> None:
    """The first limit stops a manifest, the second a shard, the third one of the whole size."""
    ended = place.command(*RUN, limits={"RLIMIT_FSIZE": limit})
    assert said_in_words(ended, 7) and "ulimit -f" in ended.err
    assert place.command(*RUN).code == 0 and place.numbers() == undisturbed


def test_a_limit_that_only_results_pass(place: Place, undisturbed: Numbers) -> None:
    assert place.command(*SAMPLE).code == 0
    ended = place.command(*RUN, limits={"RLIMIT_FSIZE": 3000})
    assert said_in_words(ended, 7), ended.err
    assert place.command(*RUN).code == 0 and place.numbers() == undisturbed


@pytest.mark.parametrize("handles", [6, 8, 10])
def test_file_handles_that_are_used_up(place: Place, undisturbed: Numbers, handles: int) -> None:
    ended = place.command(*RUN, limits={"RLIMIT_NOFILE": handles})
    assert ended.code == 0 or (said_in_words(ended, 7) and "Too many open files" in ended.err), ended.err
    assert place.command(*RUN).code == 0 and place.numbers() == undisturbed


def test_memory_that_does_not_suffice_for_one_image(place: Place, undisturbed: Numbers) -> None:
    ended = place.command(*RUN, env={"TEST_MISBEHAVES": "memory 0"})
    assert said_in_words(ended, 7) and "Out of memory" in ended.err, ended.err
    assert place.command(*RUN).code == 0
    assert place.numbers() == undisturbed


@pytest.mark.parametrize("home", [None, "/nonexistent", ""])
def test_no_home(place: Place, undisturbed: Numbers, home: str | None) -> None:
    env = {"HOME": home, "GENBENCH_CACHE": None, "XDG_CACHE_HOME": str(place.path / "cache")}
    assert place.command(*RUN, env=env).code == 0 and place.numbers() == undisturbed


def test_no_home_and_no_place_for_a_cache(place: Place, undisturbed: Numbers) -> None:
    ended = place.command(*RUN, env={"HOME": "/proc/nobody", "GENBENCH_CACHE": None, "XDG_CACHE_HOME": None})
    assert ended.code == 0 and "cannot be written to" in ended.err and place.numbers() == undisturbed


def test_no_network(place: Place, undisturbed: Numbers) -> None:
    """A run of shipped parts opens no connection, also where it may."""
    Path(place.path / "sitecustomize.py").write_text("")
    (place.path / "mymodel.py").write_text(
        (place.path / "mymodel.py").read_text()
        + "\nimport sys\n"
        + "def _no_network(event, args):\n"
        + "    if event in ('socket.connect', 'socket.getaddrinfo'):\n"
        + "        raise OSError('there is no network')\n"
        + "sys.addaudithook(_no_network)\n"
    )
    assert place.command(*RUN, env={"GENBENCH_OFFLINE": None}).code == 0
    assert place.numbers().images == undisturbed.images
