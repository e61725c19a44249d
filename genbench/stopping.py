"""A wish to stop soon, such as of a scheduler that is about to take the machine: what is under way is finished first.

Work that loses something by an end at once calls `check` where it has just stored what it made, or can store it.
"""

from __future__ import annotations

_asked = False


def ask() -> None:
    """Makes the next `check` end the command. May be called by a handler of a signal."""
    global _asked
    _asked = True


def check() -> None:
    """Raises KeyboardInterrupt, once, if somebody has asked."""
    global _asked
    if _asked:
        _asked = False
        raise KeyboardInterrupt
