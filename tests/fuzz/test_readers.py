"""Whatever happens to a file, its reader gives what is in it or refuses it with an error of this package.

In a few seconds and with bounded memory, see `damage.answers` and `damage.bounded`. Nothing in a file is executed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from damage import answers, bounded, damaged, damaged_text, examples, odd
from fuzz_targets import BYTES, TEXTS, TREES
from hypothesis import given

__all__ = ["bounded"]  # a fixture of every test here


@pytest.mark.parametrize("kind", BYTES)
def test_damaged_bytes_are_refused_or_read(kind: str) -> None:
    name, make, read, few = BYTES[kind]
    valid = make()

    @examples(few)
    @given(damaged(valid))
    def check(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(data)
            answers(read, path)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(valid)
        read(path)  # without damage it is read
    check()


@pytest.mark.parametrize("kind", TREES)
def test_odd_values_are_refused_or_read(kind: str) -> None:
    name, make, write, read, few = TREES[kind]
    valid = make()

    @examples(few)
    @given(odd(valid))
    def check(tree: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write(path, tree)
            answers(read, path)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path, make())
        read(path)
    check()


@pytest.mark.parametrize("kind", TEXTS)
def test_damaged_texts_are_refused_or_read(kind: str) -> None:
    name, make, read, few = TEXTS[kind]
    valid = make()

    @examples(few)
    @given(damaged_text(valid))
    def check(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(data)
            answers(read, path)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(valid)
        read(path)
    check()
