"""What happens to files: damage of bytes, odd values in structured texts, and what readers may answer.

`GENBENCH_FUZZ=10000 pytest tests/fuzz` runs so many examples a reader, other ones every time; without it there are few
and the same ones. What once broke a reader stands in `test_corpus.py`.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from genbench.errors import GenbenchError

GIVEN = os.environ.get("GENBENCH_FUZZ")
LONGEST = 20.0
"""Seconds that a reader may take for one of these small files, on a machine that is busy."""


MORE = 3 << 30
"""Bytes of address space that a reader may ask for beyond what the process has."""


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """A limit of memory around every reader: what a small file claims must not be believed."""
    import genbench.pipeline  # noqa: F401 - with torch, which maps gigabytes of libraries

    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    before = resource.getrlimit(resource.RLIMIT_AS)
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE, before[1]))
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
    resource.setrlimit(resource.RLIMIT_AS, before)


def examples(few: int) -> settings:
    """Settings of a test with `few` examples, or as many as the user wants."""
    return settings(
        max_examples=int(GIVEN or few),
        deadline=None,
        derandomize=GIVEN is None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """A file with some bytes replaced, cut, doubled or appended; most often near the ends, where headers are."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        near = draw(st.sampled_from(["head", "tail", "any"]))
        low = max(0, len(changed) - 100) if near == "tail" else 0
        high = min(len(changed), 100) if near == "head" else len(changed)
        at = draw(st.integers(low, max(low, high)))
        action = draw(st.sampled_from(["set", "set", "set", "number", "cut", "remove", "insert", "double"]))
        if action == "set" and at < len(changed):
            changed[at] = draw(st.sampled_from([0, 1, 2, 127, 128, 255, changed[at] ^ 1, changed[at] ^ 16]))
        elif action == "number":
            value = draw(st.sampled_from([0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000]))
            changed[at : at + 4] = value.to_bytes(4, draw(st.sampled_from(["little", "big"])))
        elif action == "cut":
            del changed[at:]
        elif action == "remove":
            del changed[at : at + draw(st.integers(1, 8))]
        elif action == "double":
            changed[at:at] = changed[at : at + 600]
        else:
            changed[at:at] = draw(st.binary(min_size=1, max_size=8))
    return bytes(changed)


ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, math.nan, math.inf, "", "x", "0", "1e999",
    "\0", "\ud800", "a/../../b", "os:system", "fid(", "x" * 3000, [], [[]], [None], {}, {"": ""}, {"x": {"y": []}},
)  # fmt: skip


@st.composite
def odd(draw: st.DrawFn, tree: Any) -> Any:
    """Plain data with some of its values replaced, removed, doubled or renamed."""
    changed = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(changed))
        if not places:
            return draw(st.sampled_from(ODD))
        home, key = draw(st.sampled_from(places))
        action = draw(st.sampled_from(["odd", "odd", "odd", "remove", "rename", "double"]))
        if action == "remove":
            del home[key]
        elif action == "rename" and isinstance(home, dict):
            home[draw(st.sampled_from(["x", "digest", "schema", str(key) + "s"]))] = home.pop(key)
        elif action == "double" and isinstance(home, list):
            home.insert(key, copy.deepcopy(home[key]))
        else:
            home[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return changed


def _places(tree: Any) -> Any:
    """Container and key of every value in plain data."""
    inner = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in inner:
        yield tree, key
        yield from _places(value)


WORDS = (
    "", "nan", "inf", "1e999", "-1", "9" * 5000, "[" * 2000, '"', "'", "\0", "\r", ",", "(", "{", "\u2028", "=", "None",
    "x:y", "ü", "\\", "\n", "#", "[x]\n", "0x1", "1979-05-27",
)  # fmt: skip


@st.composite
def damaged_text(draw: st.DrawFn, text: str) -> bytes:
    """A text with some of its words replaced by odd ones, or damaged as bytes."""
    if draw(st.booleans()):
        return draw(damaged(text.encode()))
    changed = text
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(changed)))
        stop = min(len(changed), at + draw(st.integers(0, 12)))
        word = draw(st.sampled_from(WORDS))
        changed = changed[:at] + word + changed[stop:]
    return changed.encode("utf-8", "surrogatepass")


def answers(read: Callable[[Path], Any], path: Path) -> Any:
    """What a reader gives, None where it refuses the file as it should.

    Any other exception than one of this package, an answer that is no line of text, and a long time fail the test.
    """
    started = time.perf_counter()
    try:
        return read(path)
    except GenbenchError as error:
        assert all(line.isprintable() for line in str(error).split("\n")), repr(str(error))
        assert str(error).strip()
        return None
    finally:
        took = time.perf_counter() - started
        assert took < LONGEST, f"{took:.1f} seconds"
