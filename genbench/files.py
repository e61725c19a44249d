"""Files that are either whole or absent, and names that are safe as files.

Every file of the package is written through this module. A reader that finds a file may trust its length: a killed
process leaves at most a hidden temporary file beside it, which no reader looks at.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from genbench.errors import GenbenchError, OutOfResources, UsageError, shown

_log = logging.getLogger(__name__)

_PIECE = 1 << 20


@contextmanager
def replacing(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends, and disappears when the block fails.

    A link is followed: the file that it names is replaced. A file that was there hands on its permissions and, where
    that is allowed, its owner. Devices and pipes are not replaced but written to at the end.

    Args:
        path: of the file; missing folders are made.
        durable: whether the bytes must survive a loss of power; costs a disk flush. Without it the file is still never
            seen in part by another process.

    Yields:
        The path to write to. It exists, is empty, and no other writer has it.

    Raises:
        OutOfResources: no space left.
        OSError: a folder, or a file that may not be written to.
    """
    target = Path(path)
    if target.is_symlink():
        target = target.resolve()
    before = _written_before(target)
    special = before is not None and not stat.S_ISREG(before.st_mode)
    temporary = Path()
    with ExitStack() as stack:
        try:
            if special:
                temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="genbench-"))) / "content"
                temporary.touch()
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary, handle = _temporary(target)
                stack.callback(os.close, handle)
            yield temporary
            if special:
                _write_into(target, temporary)
                return
            if durable:
                _flush(temporary)
            if before is not None:
                _hand_on(before, temporary)
            temporary.replace(target)
            if durable:
                with suppress(OSError):  # some file systems cannot flush a folder; the file itself is safe by then
                    _flush(target.parent)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfResources(
                    f"No space left for {shown(target)} ({free_bytes(target) / 1e6:.0f} MB free)."
                ) from error
            raise
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _written_before(target: Path) -> os.stat_result | None:
    """What is there already and may be written to."""
    try:
        status = target.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    # The superuser may write anywhere; a file that says that nobody should is meant to stay.
    if not os.access(target, os.W_OK) or not status.st_mode & 0o222:
        raise PermissionError(errno.EACCES, "the file is read-only", str(target))
    return status


def _temporary(target: Path) -> tuple[Path, int]:
    """A new file beside the target, and the handle that holds it locked, by which `sweep` knows that it is in use."""
    while True:
        path = target.with_name(f".{target.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        # Not tempfile: its files are readable by their owner only, and results are shared as far as the umask says.
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        lock(handle)
        if os.fstat(handle).st_nlink:  # else another process swept it away before it was locked
            return path, handle
        os.close(handle)


def lock(handle: int) -> bool:
    """Whether an open file could be locked at once. The lock goes with the process that holds it, however it ends."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # no such locks on this system or this file system, or somebody has it
        return False
    return True


@contextmanager
def claimed(path: Path, number: int | None = None) -> Iterator[bool]:
    """Whether this process alone has a number while the block runs; else another one on any machine has it.

    Without a number, whether it has all of them.

    The claim is the lock of one byte of a file, and goes with the process, however it ends. POSIX locks of this kind
    are those that NFS passes on between machines. Where there are none at all, every claim is granted: correctness does
    not hang on it, and work is then done twice.

    Args:
        path: of the file of all numbers, which is made and stays empty. A process has one number of it at a time.
    """
    try:
        import fcntl

        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except (ImportError, OSError):
        yield True
        return
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 0 if number is None else 1, number or 0)
            mine = True
        except OSError as error:
            mine = error.errno not in (errno.EACCES, errno.EAGAIN)
        yield mine
    finally:
        os.close(handle)


def sweep(directory: Path) -> None:
    """Removes the temporary files in a directory that killed processes have left."""
    with suppress(OSError):
        for path in directory.glob(".*.tmp"):
            with suppress(OSError):
                handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
                try:
                    if lock(handle):
                        path.unlink()
                finally:
                    os.close(handle)


def _hand_on(before: os.stat_result, path: Path) -> None:
    path.chmod(stat.S_IMODE(before.st_mode))
    now = path.stat()
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        with suppress(OSError):  # only the superuser may give files away
            os.chown(path, before.st_uid, before.st_gid)


def _write_into(target: Path, source: Path) -> None:
    """Copies a file into a device or a pipe. A pipe that nobody reads is an error, and not waited for."""
    handle = os.open(target, os.O_WRONLY | os.O_NONBLOCK)
    os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as sink, source.open("rb") as content:
        shutil.copyfileobj(content, sink)


def atomic_write(path: str | os.PathLike[str], data: bytes, *, durable: bool = True) -> None:
    """Writes a file so that every reader sees the old bytes or all of the new ones.

    Raises:
        OutOfResources: no space left. The old file is untouched.
    """
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(data)


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes that may still be written where `path` is or will be."""
    place = Path(path).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def state(folder: Path) -> str:
    """Digest of the names, sizes and times of change of all files of a folder, which no file of it is opened for."""
    known = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        status = path.stat()
        known.update(f"{path.relative_to(folder).as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return known.hexdigest()


_SEAL = b"\nsha256 "
SEALED = len(_SEAL) + 64 + 1
"""Bytes behind the content of a sealed file: a line with its digest."""


def write_sealed(path: str | os.PathLike[str], content: bytes, *, durable: bool = True) -> None:
    """Writes content and, behind it, a SHA-256 of it and of the file's name, so that a reader notices damage."""
    atomic_write(path, content + seal(digest_of(Path(path).name, [content])), durable=durable)


def digest_of(name: str, pieces: Iterable[bytes]) -> str:
    """Hexadecimal SHA-256 of the name and the content of a sealed file: content under another name is damage too."""
    total = hashlib.sha256(name.encode() + b"\0")
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()


def seal(digest: str) -> bytes:
    """What stands behind the content of a sealed file."""
    return _SEAL + digest.encode() + b"\n"


def read_sealed(path: Path) -> bytes | None:
    """The content of a sealed file, None if there is none that is whole. One that is damaged is removed with a warning.

    Raises:
        OSError: a file that is there and may not be read.
    """
    return path.read_bytes()[:-SEALED] if intact(path) else None


def kept(path: Path) -> bytes | None:
    """What `keep` stored in a cache, None if nothing whole is there that may be read."""
    try:
        return read_sealed(path)
    except OSError:
        return None


def keep(path: Path, content: bytes) -> None:
    """`write_sealed` into a cache: one that cannot be written to costs a warning and not what was computed."""
    sweep(path.parent)
    try:
        write_sealed(path, content)
    except (OSError, OutOfResources) as error:
        told = getattr(error, "strerror", None) or error
        _log.warning("%s was not kept for later commands: %s.", shown(path), shown(told).rstrip("."))


def intact(path: Path, name: str = "") -> bool:
    """Whether a sealed file is there and whole. A damaged one is removed with a warning.

    The content is read once a process, in pieces, and again when the file has changed.

    Args:
        name: that the content was sealed with; that of the file if empty.
    """
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and _sealed(path, name or path.name, _identity(status)):
            return True
    except FileNotFoundError:
        if not path.is_symlink():
            return False
    _log.warning("%s is damaged or of an older version, and is made anew.", shown(path))
    with suppress(OSError):  # it is not used, whether or not it can be removed
        remove(path)
    return False


def remove(path: Path) -> None:
    """Removes a file, a link, or a folder with all that is in it. Nothing where there is nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@lru_cache(maxsize=1024)
def _sealed(path: Path, name: str, identity: tuple[int, ...]) -> bool:
    size = identity[0] - SEALED
    total = hashlib.sha256(name.encode() + b"\0")
    with path.open("rb") as file:
        while size > 0 and (piece := file.read(min(size, _PIECE))):
            total.update(piece)
            size -= len(piece)
        return size == 0 and file.read() == seal(total.hexdigest())


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces; remembered while the file stays the same."""
    return _sha256(path, _identity(path.stat()))


@lru_cache(maxsize=256)
def _sha256(path: Path, identity: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """What changes when a file is written or replaced. The time of the last change of state cannot be set back."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(directory: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Keeps other processes of this machine out of a directory while the block runs.

    Args:
        patience: seconds to wait for another process that holds it.

    Raises:
        GenbenchError: another process holds it. Correctness does not hang on the lock, which some network file systems
            ignore: files are replaced whole. It saves work that would be done twice.
        UsageError: something else has the name of the lock.
    """
    from filelock import FileLock, Timeout

    directory.mkdir(parents=True, exist_ok=True)
    lock = directory / ".lock"
    if lock.exists() and not lock.is_file():
        raise UsageError(f"{shown(lock)} is no file, and the lock of this folder has its name; remove it.")
    try:
        with FileLock(lock, timeout=patience):
            yield
    except Timeout as error:
        raise GenbenchError(
            f"Another process is working in {shown(directory)}; wait for it or choose another --output."
        ) from error
