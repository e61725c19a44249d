"""Fixtures of the tests of faults: a place for a small run, and what it gives when nothing happens to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.places import RUN, Ask, Numbers, Place, made_in


@pytest.fixture(scope="session")
def ask(root: Path) -> Iterator[Ask]:
    """Hands requests to the one process that forks all commands."""
    told = {
        **os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "GENBENCH_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("zygote.py"))],
        env=told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None

    to, back = process.stdin, process.stdout

    def ask(requests: list[dict[str, Any]]) -> list[int]:
        to.write(json.dumps(requests) + "\n")
        to.flush()
        answer = back.readline()
        assert answer, "the process that forks commands has ended"
        return json.loads(answer)

    yield ask
    with process:
        to.close()


@pytest.fixture
def place(tmp_path: Path, ask: Ask) -> Place:
    return made_in(tmp_path, ask)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ask: Ask) -> Numbers:
    """What the run gives when nothing happens to it."""
    calm = made_in(tmp_path_factory.mktemp("calm"), ask)
    ended = calm.command(*RUN)
    assert ended.code == 0, ended.err
    return calm.numbers()
