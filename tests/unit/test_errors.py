"""Errors: what they say, and what becomes of those of the system and of components."""

from __future__ import annotations

import errno

import pytest
import torch

from genbench.errors import (
    ComponentError,
    GenbenchError,
    InputRejected,
    OutOfMemory,
    OutOfResources,
    UsageError,
    calling,
    of_system,
    shown,
)


def test_nothing_that_a_terminal_obeys_is_shown() -> None:
    hostile = "a\x1b[31mred\x1b]0;title\x07\nb\r\x00\x9b\u202e\udc80é中"
    text = shown(hostile)
    assert text.isprintable() and "é中" in text and "red" in text
    assert text.encode("utf-8")
    assert shown("plain text, as it is") == "plain text, as it is"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), OutOfMemory),
        (OSError(errno.ENOSPC, "No space left on device", "f"), OutOfResources),
        (PermissionError(errno.EACCES, "Permission denied", "/elsewhere/x"), OutOfResources),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300), UsageError),
        (RuntimeError("mat1 and mat2 must have the same dtype"), None),
        (ValueError("no"), None),
    ],
)  # fmt: skip
def test_errors_of_the_system_are_told_apart_from_failures(error: Exception, kind: type | None) -> None:
    told = of_system(error)
    assert (told if kind is None else type(told)) is kind
    assert told is None or (str(told).isprintable() and len(str(told)) < 400)


def test_an_error_of_a_component_names_it_and_the_line() -> None:
    def fails() -> None:
        raise ZeroDivisionError("division\x1b by\nzero")

    with (
        pytest.raises(
            ComponentError, match=r"^The model m raised ZeroDivisionError: division\\x1b by zero \(test_"
        ) as e,
        calling("The model m"),
    ):
        fails()
    assert isinstance(e.value.__cause__, ZeroDivisionError) and "fails" not in str(e.value)


def test_a_component_cannot_end_the_program() -> None:
    with pytest.raises(ComponentError, match="The model m ended the program"), calling("The model m"):
        raise SystemExit(0)


def test_errors_that_are_known_pass_and_those_of_the_system_are_translated() -> None:
    with pytest.raises(InputRejected, match=r"^as it was$"), calling("x"):
        raise InputRejected("as it was")
    with pytest.raises(OutOfResources), calling("x"):
        raise MemoryError
    with pytest.raises(KeyboardInterrupt), calling("x"):
        raise KeyboardInterrupt
    assert GenbenchError("x").results == ()
