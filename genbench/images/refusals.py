"""Why files are refused, in words that name the file."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from PIL import UnidentifiedImageError

from genbench.errors import GenbenchError, InputRejected, shown

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class Unfit(Exception):
    """The reason why a file is refused, worded to follow its name, which `naming` puts before it."""


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Turns what readers and decoders raise on damaged files, which is errors of every kind, into one that names it."""
    try:
        yield
    except GenbenchError:  # which says all of it, such as that a library is missing or a connection failed
        raise
    except Exception as error:
        raise InputRejected(f"{shown(place)} {verdict(error)}; replace or remove it.") from error


class Statable(Protocol):
    """A path, or a file of a store."""

    def stat(self) -> os.stat_result: ...


def regular(place: Statable) -> None:
    """Refuses what is no file with a content of its own; opening a pipe would wait for its writer."""
    if not stat.S_ISREG(place.stat().st_mode):
        raise Unfit("is no regular file")


def reason(error: Exception) -> str:
    """What an error says of a file, on one line. An error that says something of this machine, such as a library that
    is missing or a connection that failed, is raised again."""
    of_machine = getattr(error, "errno", None) in (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
    if of_machine or isinstance(error, GenbenchError | MemoryError):
        raise error
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shown(" ".join(text.split())[:160] or type(error).__name__).rstrip(".")


def verdict(error: Exception) -> str:
    if isinstance(error, Unfit | InputRejected):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return f"is not an image of {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    if isinstance(error, ValueError) and "pickle" in str(error):  # numpy's advice is to load it all the same
        return "is damaged, or holds Python objects, which are never loaded"
    return f"cannot be read: {reason(error)}"
