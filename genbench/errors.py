"""Errors that a user can cause or must know of. Each says what was given, what is allowed and what to do.

The exit codes are part of the interface of the command line (README, "Exit codes").
"""

from __future__ import annotations

import difflib
import errno
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class GenbenchError(Exception):
    """Base of all of them; the command line prints the message on one line, without a traceback.

    Attributes:
        exit_code: of the command line.
        results: the `Result` records that had been made before the error.
    """

    exit_code = 1
    results: tuple[Any, ...] = ()


class ComponentError(GenbenchError):
    """An exception of a component's own code, which is the cause of this one."""


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
    """There is not enough disk or memory, or the system does not let this process write to a place."""

    exit_code = 7


class OutOfMemory(OutOfResources):
    """Memory of the machine or of a device does not suffice for so many images at once."""


class Incomplete(GenbenchError):
    """Some cells of a benchmark failed, and the others are finished."""

    exit_code = 8


class Unmeasured(KeyboardInterrupt):
    """Measuring was interrupted when `results`, `Result` records, had been made."""

    def __init__(self, results: tuple[Any, ...]) -> None:
        super().__init__(f"{len(results)} results were made before")
        self.results = results


class Interrupted(KeyboardInterrupt):
    """Sampling was interrupted after `kept` of `total` images had been stored."""

    def __init__(self, kept: int, total: int) -> None:
        super().__init__(f"{kept} of {total} images are kept")
        self.kept, self.total = kept, total


_MANY = 45
"""Names that nobody reads through in a message."""


def nearest(given: str, known: Iterable[str]) -> str:
    """A sentence that names what is near a misspelt name, or lists what there is, or says how to list it."""
    known = sorted(known)
    close = difflib.get_close_matches(given, known, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    if len(known) > _MANY:
        return f"There are {len(known)}; `genbench list models` and `genbench list extractors` name them."
    return f"Known: {', '.join(known) or 'none'}."


def shown(text: object) -> str:
    """Text on one line without control characters, which a terminal would obey, whatever it was made of."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def of_system(error: BaseException) -> GenbenchError | None:
    """The error of this package that stands for one of the system: no memory, no disk, no permission. Else None."""
    if isinstance(error, MemoryError) or lacks_memory(error):
        return OutOfMemory(
            "Out of memory. Free some, or take fewer samples, a smaller --batch-size (images a call of the model), "
            "fewer --workers (threads that decode images), or smaller images."
        )
    if not isinstance(error, OSError):
        return None
    place = f" {shown(error.filename)}" if error.filename is not None else ""
    what = shown(error.strerror or str(error) or type(error).__name__)
    if error.errno == errno.ENAMETOOLONG:
        return UsageError(f"The name{_shortened(place)} is too long for this file system.")
    advice = {
        errno.ENOSPC: "Free some space, or choose another disk by --output or GENBENCH_CACHE.",
        errno.EDQUOT: "Free some space, or choose another disk by --output or GENBENCH_CACHE.",
        errno.EFBIG: "A limit of the system or of the shell (ulimit -f) forbids files of this size.",
        errno.EMFILE: "Too many files are open; raise the limit (ulimit -n) or use fewer --workers.",
    }.get(error.errno or 0, "Choose another place, or its permissions, by --output, GENBENCH_CACHE or the path given.")
    return OutOfResources(f"The system refuses{_shortened(place)}: {what}. {advice}")


def lacks_memory(error: BaseException) -> bool:
    """Whether an exception says that the machine or a device has no memory left."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # torch has a class of its own for devices, and for the CPU only a text.
    texts = ("can't allocate memory", "Cannot allocate memory", "out of memory")
    is_torch = type(error).__name__ == "OutOfMemoryError" or isinstance(error, RuntimeError)
    return is_torch and any(text in str(error) for text in texts)


def _shortened(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."


@contextmanager
def calling(what: str) -> Iterator[None]:
    """Names the component whose code runs inside the block in every error of it, SystemExit among them.

    Args:
        what: beginning of a sentence, such as "The model ddim(steps=5)".

    Raises:
        ComponentError: any exception but those of this package and of the system, with it as the cause.
    """
    try:
        yield
    except GenbenchError:
        raise
    except SystemExit as error:
        raise ComponentError(f"{what} ended the program (SystemExit: {shown(error.code)}); it must return.") from error
    except Exception as error:
        if (told := of_system(error)) is not None:
            raise told from error
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if len(frames) > 1 else ""
        text = shown(" ".join(str(error).split()))
        raise ComponentError(f"{what} raised {type(error).__name__}: {text or 'no message'}{place}.") from error
