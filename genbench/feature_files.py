"""Files of features: one .npy file a tap, made in parts, whole or absent, each with its digest behind the numbers.

    KEY.npy               header, rows, SHA-256 of both; numpy reads it as any other
    KEY.parts/000003.npy  the same of some of the rows, until all parts are there

A killed process loses the part that it was making. What is damaged is removed, and made anew.
"""

from __future__ import annotations

import atexit
import errno
import os
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from genbench.errors import OutOfResources, shown
from genbench.files import SEALED, atomic_write, digest_of, intact, lock, remove, replacing, seal, sweep

PART = 1024
"""Images a part: what a kill may cost."""
_PART_BYTES = 64 << 20
"""Largest part of one tap, because a part is held in memory. Wide taps have parts of fewer images."""
_ABANDONED = 7 * 24 * 3600
"""Seconds after which nobody comes back to the parts of an extraction."""

NPY_HEADER = 128
"""Bytes of the .npy header, fixed, so that it can be written after the number of rows is known."""


def npy_header(rows: int, width: int, dtype: Literal["<f4", "|u1"] = "<f4") -> bytes:
    """The first `NPY_HEADER` bytes of a .npy file (rows, width)."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({rows}, {width}), }}".encode()
    magic = b"\x93NUMPY\x01\x00"
    size = NPY_HEADER - len(magic) - 2
    return magic + struct.pack("<H", size) + text.ljust(size - 1) + b"\n"


def rows_of_part(call: int, width: int | None) -> int:
    """Rows of every part but the last: a multiple of the images of a call of the network, and few enough for memory.

    Args:
        width: of the widest table, None where only the network tells it.
    """
    limit = min(PART, _PART_BYTES // (4 * width)) if width else 0
    return max(limit // call, 1) * call


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The features of one tap of one set of images, as they lie in a directory.

    Attributes:
        directory: of feature files.
        key: digest of what the features are made of.
        rows, width: of the whole. The width is None where only the first part tells it.
        part: rows a part.
    """

    directory: Path
    key: str
    rows: int
    part: int
    width: int | None = None
    dtype: Literal["<f4", "|u1"] = "<f4"

    @property
    def path(self) -> Path:
        """The file that all parts together become."""
        return self.directory / f"{self.key}.npy"

    @property
    def parts(self) -> Path:
        """Folder of the parts."""
        return self.directory / f"{self.key}.parts"

    def part_path(self, number: int) -> Path:
        return self.parts / f"{number:06d}.npy"

    def __len__(self) -> int:
        """Number of parts."""
        return max(-(-self.rows // self.part), 1)

    def span(self, number: int) -> tuple[int, int]:
        """First row of a part, and the one behind its last."""
        return number * self.part, min((number + 1) * self.part, self.rows)

    def finished(self) -> bool:
        """Whether the file of all parts is there and undamaged."""
        use(self.path)
        return self._good(self.path, self.rows)

    def missing(self) -> list[int]:
        """Numbers of the parts that must be made."""
        use(self.parts)
        return [i for i in range(len(self)) if not self._good(self.part_path(i), self.span(i)[1] - self.span(i)[0])]

    def _sealed_as(self, path: Path) -> str:
        return path.name if path == self.path else f"{self.key} {path.name}"

    def _good(self, path: Path, rows: int) -> bool:
        try:
            if not intact(path, self._sealed_as(path)):
                return False
            with path.open("rb") as file:
                header = file.read(NPY_HEADER)
            content = path.stat().st_size - NPY_HEADER - SEALED
        except OSError:  # such as a cache of somebody else
            return False
        size = np.dtype(self.dtype).itemsize * rows
        width = self.width or content // size
        if header == npy_header(rows, width, self.dtype) and content == size * width:
            return True
        with suppress(OSError):  # whole, but of another table, such as parts of another length
            remove(path)
        return False

    def write(self, number: int, values: NDArray[Any]) -> None:
        """Stores a part. A table of one part is finished by it.

        Raises:
            OSError: a directory that cannot be written to.
            OutOfResources: no space left.
        """
        values = np.ascontiguousarray(values, dtype=self.dtype)
        content = npy_header(len(values), values.shape[1], self.dtype) + values.tobytes()
        path = self.path if len(self) == 1 else self.part_path(number)
        sealed = content + seal(digest_of(self._sealed_as(path), [content]))
        try:
            atomic_write(path, sealed)
        except FileNotFoundError:  # another process has finished the table and removed the folder of its parts
            if not self.finished():
                atomic_write(path, sealed)

    def assemble(self) -> None:
        """Puts the parts together, once all are there, and removes them."""
        if len(self) > 1 and not self.finished():
            try:
                self._join()
            except FileNotFoundError:  # another process was quicker, and has removed the parts
                if not self.finished():
                    raise
        shutil.rmtree(self.parts, ignore_errors=True)

    def _join(self) -> None:
        def pieces(file: IO[bytes]) -> Iterator[bytes]:
            for number in range(len(self)):
                piece = self.part_path(number).read_bytes()[NPY_HEADER:-SEALED]
                if number == 0:
                    width = len(piece) // (self.part * np.dtype(self.dtype).itemsize)
                    piece = npy_header(self.rows, width, self.dtype) + piece
                file.write(piece)
                yield piece

        with replacing(self.path) as temporary, temporary.open("wb") as file:
            file.write(seal(digest_of(self._sealed_as(self.path), pieces(file))))


def _users(directory: Path) -> Path:
    """The folder beside a directory of feature files with a locked file of every process that works with it."""
    return directory.with_name(f".{directory.name}.users")


def use(path: Path) -> None:
    """Notes that this process uses a file of features, or a folder of parts, so that nobody tidies it away."""
    with suppress(OSError):  # such as a name that is too long
        if path.exists():
            _join_users(path.parent, os.getpid())
            _touch(path, os.getpid())


@cache
def _touch(path: Path, process: int) -> None:
    # Once a process, and before the file is looked at: its digest is remembered by its times.
    with suppress(OSError):
        now = time.time()
        os.utime(path, (now, now if path.is_dir() else path.stat().st_mtime))


@cache
def _join_users(directory: Path, process: int) -> None:
    """Makes this process known as one that uses the directory, until it ends, however it ends."""
    with suppress(OSError):
        _users(directory).mkdir(mode=0o700, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{process}-", dir=_users(directory))
        lock(handle)  # the file stays open and locked to the end
        atexit.register(lambda: Path(name).unlink(missing_ok=True) if os.getpid() == process else None)


def began(directory: Path) -> float | None:
    """When the oldest process that uses the directory began to, in seconds since the epoch; None where none does."""
    times = []
    for path in _users(directory).glob("*"):
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                if lock(handle):  # its process has ended
                    path.unlink()
                else:
                    times.append(path.stat().st_mtime)
            finally:
                os.close(handle)
    return min(times, default=None)


def writable(directory: Path) -> Path | None:
    """The directory, if files can be made in it, after what killed processes left there was removed, else None.

    Raises:
        OutOfResources: it cannot take a file because the disk is full.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfResources(f"No space left for features in {shown(directory)}; free some.") from error
        return None
    _join_users(directory, os.getpid())
    sweep(directory)
    for parts in directory.glob("*.parts"):
        sweep(parts)
        if parts.is_dir() and time.time() - parts.stat().st_mtime > _ABANDONED:
            shutil.rmtree(parts, ignore_errors=True)
    return directory


@lru_cache(maxsize=1)
def temporary_directory() -> Path:
    """A directory of feature files for this process alone, removed when it ends.

    Raises:
        OutOfResources: no directory for temporary files can be written to.
    """
    try:
        made = Path(tempfile.mkdtemp(prefix="genbench-features-"))
    except OSError as error:
        raise OutOfResources(
            "Neither the cache nor a temporary folder can be written to; set GENBENCH_CACHE."
        ) from error
    owner = os.getpid()
    atexit.register(lambda: shutil.rmtree(made, ignore_errors=True) if os.getpid() == owner else None)
    return made
