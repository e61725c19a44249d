"""Tests stay offline and off the user's cache. One cache serves a session: it is addressed by content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from made_up import Cli

from genbench import progress
from genbench.cli import main


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of the reference images are made once a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _isolated(session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_CACHE", str(session_cache))
    monkeypatch.setenv("GENBENCH_OFFLINE", "1")
    # Signs of life come by the clock, and a test must not depend on how busy the machine is.
    monkeypatch.setattr(progress, "INTERVAL", float("inf"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def clean_environment(root: Path) -> dict[str, str]:
    """For processes of their own: this checkout first on the path."""
    return {**os.environ, "PYTHONPATH": str(root)}


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line, run in an empty working folder: code, stdout and stderr of its words."""
    monkeypatch.chdir(tmp_path)

    def call(*words: Any) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
