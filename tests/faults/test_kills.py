"""Kills at every stage: nothing that was finished is lost, and the numbers are those of a run that nobody disturbed."""

from __future__ import annotations

import random
from typing import Any

import pytest
from faults.places import RUN, SAMPLE, Numbers, Place, made_in, said_in_words

REACH = 60
"""Changes of files that a life sees at most. The whole run makes about three times as many."""


def survive(place: Place, kills: int, seed: int) -> int:
    """Runs until the command ends by itself, and kills it at a random change of a file before; how often it died."""
    chance, died = random.Random(seed), 0
    while died < kills:
        ended = place.command(*RUN, faults=[[chance.randint(1, REACH), "SIGKILL"]])
        if ended.code == 0:
            return died
        assert ended.code == -9, ended.err
        died += 1
    ended = place.command(*RUN)
    assert ended.code == 0, ended.err
    return died


@pytest.mark.parametrize("seed", range(2))
def test_a_run_that_is_killed_at_random_moments_gives_the_same_numbers(
    place: Place, undisturbed: Numbers, seed: int
) -> None:
    assert survive(place, 8, seed) > 1
    assert place.numbers() == undisturbed
    assert not place.litter()


@pytest.mark.slow
def test_a_hundred_kills(tmp_path_factory: pytest.TempPathFactory, ask: Any, undisturbed: Numbers) -> None:
    died, seed = 0, 100
    while died < 100:
        place = made_in(tmp_path_factory.mktemp("killed"), ask)
        died, seed = died + survive(place, 12, seed), seed + 1
        assert place.numbers() == undisturbed
        assert not place.litter()


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT", "SIGHUP"])
@pytest.mark.parametrize("moment", [14, 40, 60])
def test_a_signal_ends_a_run_in_words_and_the_same_command_continues(
    place: Place, undisturbed: Numbers, signal: str, moment: int
) -> None:
    ended = place.command(*RUN, faults=[[moment, signal]])
    assert said_in_words(ended, {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129}[signal]), ended.err
    assert "the same command continues" in ended.err and not ended.out
    assert place.command(*RUN).code == 0 and place.numbers() == undisturbed and not place.litter()


@pytest.mark.parametrize("apart", [1, 2, 3])
def test_a_second_interrupt_while_the_first_is_obeyed_costs_no_image_that_was_stored(
    place: Place, undisturbed: Numbers, apart: int
) -> None:
    ended = place.command(*RUN, faults=[[14, "SIGINT"], [14 + apart, "SIGINT"]])
    assert said_in_words(ended, 130), ended.err
    assert place.command(*RUN).code == 0 and place.numbers() == undisturbed


def test_a_scheduler_that_announces_its_end_gets_the_batch_in_work(place: Place, undisturbed: Numbers) -> None:
    # The first changes of a file are the lock, the manifest and the claim of a shard; then batches are made.
    ended = place.command(*RUN, faults=[[10, "SIGUSR1"]])
    assert said_in_words(ended, 138), ended.err
    assert "50 of 600 images are kept" in ended.err
    assert place.command(*SAMPLE, faults=[[16, "SIGUSR1"]]).code == 138
    assert place.command(*RUN).code == 0 and place.numbers() == undisturbed
