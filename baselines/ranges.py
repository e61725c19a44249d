"""What arguments may be: numbers in their ranges, and words of a choice. Others are refused before any work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints


def at_least(least: int, **given: int) -> None:
    """Refuses a number below `least`, by its name.

    Raises:
        ValueError: naming the argument, its least value and what was given.
    """
    for name, value in given.items():
        if value < least:
            raise ValueError(f"{name} is at least {least}; got {value}.")


def positive(**given: float) -> None:
    """Refuses what is not a finite number above 0, by its name.

    Raises:
        ValueError: naming the argument and what was given.
    """
    for name, value in given.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is a finite number above 0; got {value}.")


def not_negative(**given: float) -> None:
    """Refuses what is not a finite number from 0 on, by its name.

    Raises:
        ValueError: naming the argument and what was given.
    """
    for name, value in given.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is a finite number, 0 or above; got {value}.")


def finite(**given: float) -> None:
    """Refuses what is not a finite number, by its name.

    Raises:
        ValueError: naming the argument and what was given.
    """
    for name, value in given.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} is a finite number; got {value}.")


def descending(low: float, high: float) -> None:
    """Refuses bounds of noise that are not 0 < low <= high.

    Raises:
        ValueError: naming both.
    """
    if not 0 < low <= high < math.inf:
        raise ValueError(
            f"low and high are finite numbers with 0 < low <= high; got low={low:.4g} and high={high:.4g}."
        )


def of_choice(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuses a word that is none of those that an argument of a function is annotated with, as a `Literal`.

    Raises:
        ValueError: naming the argument, the words that it may be and what was given.
    """
    hints = get_type_hints(function)
    for name, value in given.items():
        hint = hints.get(name)
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        if choices and value not in choices:
            *others, last = map(str, choices)
            raise ValueError(f"{name} is {', '.join(others)} or {last}; got {value!r}.")
