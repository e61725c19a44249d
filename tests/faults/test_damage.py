"""Flipped bytes and left-over files: found when they are read, said, and made anew."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.places import RUN, Numbers, Place


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


def test_locks_and_files_of_processes_that_have_ended_hinder_nobody(place: Place, undisturbed: Numbers) -> None:
    assert place.command(*RUN, faults=[[40, "SIGKILL"]]).code == -9
    for name in (".lock", "samples/.claims", ".result.json.1-abc.tmp", "samples/.000001.npy.1-abc.tmp"):
        (place.directory / name).write_bytes(b"left")
    assert place.command(*RUN).code == 0 and place.numbers() == undisturbed and not place.litter()
