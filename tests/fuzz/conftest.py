"""A limit of memory around every reader: what a small file claims must not be believed."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

MORE = 3 << 30
"""Bytes of address space that a reader may ask for beyond what the process has."""


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    import genbench.pipeline  # noqa: F401 - with torch, which maps gigabytes of libraries

    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    before = resource.getrlimit(resource.RLIMIT_AS)
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE, before[1]))
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    resource.setrlimit(resource.RLIMIT_AS, before)
