"""Errors that a user can cause or must know of. Each says what was given, what is allowed and what to do.

The exit codes are part of the interface of the command line (README, "Exit codes").
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GenbenchError(Exception):
    """Base of all of them; the command line prints the message on one line, without a traceback."""

    exit_code = 1


class UsageError(GenbenchError):
    """An unknown name, a wrong argument, or a combination that has no meaning."""

    exit_code = 2


class NotComparable(GenbenchError):
    """Two numbers of different protocols, or too few samples for the statement that was asked for."""

    exit_code = 4


class InputRejected(GenbenchError):
    """Images, arrays or files that break their contract."""

    exit_code = 5


class MissingAsset(GenbenchError):
    """Weights or data that are not on this machine, or whose digest is wrong."""

    exit_code = 6


class OutOfResources(GenbenchError):
    """Not enough disk or memory."""

    exit_code = 7


def nearest(given: str, known: Iterable[str]) -> str:
    """A sentence that names what is near a misspelt name, or lists what there is."""
    known = sorted(known)
    close = difflib.get_close_matches(given, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(known) or 'none'}."
