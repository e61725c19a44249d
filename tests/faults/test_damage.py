"""Flipped bytes and left-over files: found when they are read, said, and made anew."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.places import MEASURED, RUN, Numbers, Place, said_in_words


def flip(path: Path, seed: int) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(seed).randrange(len(content))] ^= 1 << random.Random(seed + 1).randrange(8)
    path.write_bytes(content)


WHERE: dict[str, Callable[[Place], Path]] = {
    "shard": lambda place: place.directory / "samples" / "000001.npy",
    "record": lambda place: place.directory / "samples" / "000001.json",
    "manifest": lambda place: place.directory / "samples" / "manifest.json",
    "result": lambda place: place.directory / "result.json",
    "features": lambda place: sorted((place.path / "cache" / "features").glob("*.npy"))[0],
    "floor": lambda place: sorted((place.path / "cache" / "floors").iterdir())[0],
}


@pytest.mark.parametrize("what", WHERE)
@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_is_found_said_and_made_anew(place: Place, undisturbed: Numbers, what: str, seed: int) -> None:
    assert place.command(*RUN).code == 0
    flip(WHERE[what](place), seed)
    if what != "result":
        (place.directory / "result.json").unlink()  # else the numbers are known, and nothing is read
    ended = place.command(*RUN)
    assert ended.code == 0 and "damaged" in ended.err, ended.err
    assert place.numbers() == undisturbed
    assert "damaged" not in place.command(*RUN).err


READERS = {
    "score": ["score", "RUN", "--reference", "mydata:DATA", *MEASURED[:2]],
    "compare": ["compare", "RUN", "RUN", "--allow-code"],
    "accept": ["baseline", "accept", "RUN", "-o", "b.safetensors", "--reason", "why", "--allow-code"],
    "build": ["leaderboard", "build", "runs", "--output", "b.csv"],
    "report": ["report", "RUN", "-o", "r.html", "--allow-code"],
    "export": ["export", "RUN", "--npz", "b.npz"],
}
"""Commands that read a run and cannot make it anew."""
READ_BY = {
    "shard": ("export",),
    "record": ("score", "compare", "accept", "export"),
    "manifest": ("score", "compare", "accept", "export"),
    "result": ("compare", "accept", "build", "report"),
}
"""Those of them that read a file of a run. Features are found by the digests in records, and need no shard then."""


@pytest.mark.parametrize("what", READ_BY)
def test_who_cannot_make_a_damaged_run_anew_refuses_it(place: Place, what: str) -> None:
    assert place.command(*RUN[:-10]).code == 0
    flip(WHERE[what](place), 5)
    for who in READ_BY[what]:
        ended = place.command(*(str(place.directory) if word == "RUN" else word for word in READERS[who]))
        assert said_in_words(ended, 5) and "damaged" in ended.err, (who, ended)
        assert not ended.out and not list(place.path.glob("b.*")), who


def test_pictures_and_rows_beside_known_results_are_made_anew(place: Place) -> None:
    assert place.command(*RUN).code == 0
    files = [place.directory / "grid.png", place.directory / "row.csv"]
    before = [path.read_bytes() for path in files]
    for path in files:
        flip(path, 3)
    ended = place.command(*RUN)
    assert ended.code == 0 and "grid.png is damaged" in ended.err, ended.err
    assert [path.read_bytes() for path in files] == before
    # The numbers are known, and images that are damaged since are no picture.
    files[0].unlink()
    flip(WHERE["shard"](place), 3)
    first = place.directory / "samples" / "000000.npy"
    first.write_bytes(bytes(len(first.read_bytes())))
    ended = place.command(*RUN)
    assert ended.code == 0 and "000000.npy is damaged" in ended.err and not files[0].exists(), ended.err


def test_locks_and_files_of_processes_that_have_ended_hinder_nobody(place: Place, undisturbed: Numbers) -> None:
    assert place.command(*RUN, faults=[[40, "SIGKILL"]]).code == -9
    for name in (".lock", "samples/.claims", ".result.json.1-abc.tmp", "samples/.000001.npy.1-abc.tmp"):
        (place.directory / name).write_bytes(b"left")
    assert place.command(*RUN).code == 0 and place.numbers() == undisturbed and not place.litter()
