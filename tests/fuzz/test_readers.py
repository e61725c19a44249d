"""Whatever happens to a file, its reader gives what is in it or refuses it with an error of this package.

In a few seconds and with bounded memory, see `damage.answers` and `damage.bounded`. Nothing in a file is executed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import answers, bounded, damaged, damaged_text, examples, odd
from fuzz_targets import BYTES, TEXTS, TREES
from hypothesis import given

__all__ = ["bounded"]  # a fixture of every test here


Write = Callable[[Path, Any], object]


def tried(name: str, valid: Any, write: Write, read: Callable[[Path], object], broken: Any, few: int) -> None:
    """Reads a file as it should be, then as many broken ones."""

    @examples(few)
    @given(broken)
    def check(content: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write(path, content)
            answers(read, path)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path, valid)
        read(path)  # without damage it is read
    check()


@pytest.mark.parametrize("kind", BYTES)
def test_damaged_bytes_are_refused_or_read(kind: str) -> None:
    name, make, read, few = BYTES[kind]
    valid = make()
    tried(name, valid, Path.write_bytes, read, damaged(valid), few)


@pytest.mark.parametrize("kind", TREES)
def test_odd_values_are_refused_or_read(kind: str) -> None:
    name, make, write, read, few = TREES[kind]
    tried(name, make(), write, read, odd(make()), few)


@pytest.mark.parametrize("kind", TEXTS)
def test_damaged_texts_are_refused_or_read(kind: str) -> None:
    name, make, read, few = TEXTS[kind]
    valid = make()
    tried(name, valid.encode(), Path.write_bytes, read, damaged_text(valid), few)
