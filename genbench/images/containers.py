"""Folders and zips as sources of encoded files. Zips are never extracted."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import threading
import zipfile
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from genbench.errors import InputRejected, shown
from genbench.images import surveys
from genbench.images.places import Place, state_of
from genbench.images.refusals import Unfit, reason, regular
from genbench.records import digest

_log = logging.getLogger(__name__)

MAX_FILE = 1 << 28
"""Bytes of one image file."""


MAX_RATIO = 200


UNSUSPICIOUS = 64 << 20


class Container(Protocol):
    """Files by name."""

    @property
    def path(self) -> object:
        """What names it to people."""

    def names(self) -> list[str]:
        """Relative POSIX paths of all files, in no order."""

    def empty_folders(self, place: str) -> list[str]:
        """Names of the folders in a folder of it that hold nothing; hidden ones are passed over."""

    def read(self, name: str) -> bytes:
        """Bytes of a file, at most `MAX_FILE`."""

    def state(self, names: Sequence[str]) -> tuple[str, bool]:
        """Digest of what changes when one of these files does, empty where it cannot be told; and whether they have
        been at rest for long enough to tell them apart by it."""


@dataclass(frozen=True, slots=True)
class Folder:
    path: Path

    def names(self) -> list[str]:
        """Relative POSIX paths of all files, in no order."""
        try:
            return _walk(self.path)
        except OSError as error:
            raise InputRejected(f"{shown(self.path)} cannot be listed: {reason(error)}.") from error

    def empty_folders(self, place: str) -> list[str]:
        """Names of the folders in a folder of it that hold nothing; hidden ones are passed over."""
        with os.scandir(self.path / place) as entries:
            visible = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        return [entry.name for entry in visible if not any(Path(entry.path).iterdir())]

    def read(self, name: str) -> bytes:
        place = self.path / name
        regular(place)
        with place.open("rb") as file:
            return limited(file)

    def state(self, names: Sequence[str]) -> tuple[str, bool]:
        """Digest of what changes when one of these files does, empty where it cannot be told; and whether they have
        been at rest for long enough to tell them apart by it."""
        known, newest = hashlib.sha256(str(self.path.absolute()).encode("utf-8", "surrogateescape")), 0
        try:
            for name in names:
                status = (self.path / name).stat()
                newest = max(newest, status.st_ctime_ns, status.st_mtime_ns)
                what = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
                known.update(f"{name}\0{what}\0".encode("utf-8", "surrogateescape"))
        except OSError:
            return "", False
        return known.hexdigest(), surveys.settled(newest)


def _walk(top: Path) -> list[str]:
    """Files below a folder, as paths relative to it.

    Links to folders are followed, as data sets are often made of them. Every folder is visited once: folders that are
    linked to each other have more paths than anybody can count. One that has several paths is known by that without
    links, or by the first in the order of names.
    """
    names: list[str] = []
    seen: set[tuple[int, int]] = set()
    linked = deque([""])
    passed_over = 0
    while linked:
        below = deque([linked.popleft()])
        while below:
            prefix = below.popleft()
            status = (top / prefix).stat()
            if (status.st_dev, status.st_ino) in seen:
                passed_over += 1
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(top / prefix) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if entry.is_dir():
                        (linked if entry.is_symlink() else below).append(f"{prefix}{entry.name}/")
                    else:
                        names.append(prefix + entry.name)
    if passed_over:
        _log.warning(
            "%s: %d links lead to folders that were read already, and were passed over.", shown(top), passed_over
        )
    return names


class Zip:
    """A zip that is opened once a process: pickling drops the handle, and a forked child, which would share the file
    position of its parent, opens its own."""

    def __init__(self, path: Place) -> None:
        self.path: Place = path
        self._lock = threading.Lock()
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __getstate__(self) -> Place:
        return self.path

    def __setstate__(self, path: Place) -> None:
        Zip.__init__(self, path)

    def archive(self) -> zipfile.ZipFile:
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), open_zip(self.path))
            return self._opened[1]

    def names(self) -> list[str]:
        entries = self.archive().infolist()
        for entry in entries:
            _check_entry(self.path, entry)
        names = [entry.filename for entry in entries if not entry.filename.endswith("/")]
        for name, times in Counter(names).items():
            if times > 1:
                raise InputRejected(f"{shown(self.path)} holds {shown(name)} {times} times; write the zip anew.")
        return names

    def empty_folders(self, place: str) -> list[str]:
        """Names of the folders in a folder of it that hold nothing; hidden ones are passed over."""
        prefix = f"{place}/" if place else ""
        everything = [e.filename for e in self.archive().infolist() if e.filename.startswith(prefix)]
        inside = [name.removeprefix(prefix) for name in everything]
        told = {name.split("/")[0] for name in inside if name.endswith("/") and not name.startswith((".", "__MACOSX"))}
        return sorted(told - {name.split("/")[0] for name in inside if not name.endswith("/")})

    def read(self, name: str) -> bytes:
        with self.archive().open(name) as file:
            return limited(file)

    def state(self, names: Sequence[str]) -> tuple[str, bool]:
        """As `Folder.state`."""
        try:
            state, settled = state_of(self.path)
            return digest([state, list(names)]), settled
        except OSError:
            return "", False


def open_zip(path: Place) -> zipfile.ZipFile:
    """Opens a zip and refuses one that would grow out of proportion to its size on disk, as entries may overlap."""
    try:
        regular(path)
        archive = zipfile.ZipFile(path if isinstance(path, Path) else path.open())
    except Exception as error:  # a damaged directory raises whatever its fields lead to
        raise InputRejected(f"{shown(path)} cannot be read as a zip archive: {reason(error)}.") from error
    expanded, packed = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
    if expanded > max(UNSUSPICIOUS, MAX_RATIO * packed):
        archive.close()
        raise InputRejected(
            f"{shown(path)} would expand from {packed:,} to {expanded:,} bytes, more than {MAX_RATIO} times; "
            "if that is meant, store it without compression."
        )
    return archive


def leaves(name: str) -> bool:
    """Whether the name of a file in an archive leads out of it."""
    return name.startswith("/") or "\\" in name or bool(re.match(r"[A-Za-z]:", name)) or ".." in name.split("/")


def _check_entry(path: Place, entry: zipfile.ZipInfo) -> None:
    name, problem = entry.filename, None
    if leaves(name):
        problem = "a path that leaves the archive"
    elif stat.S_ISLNK(entry.external_attr >> 16):
        problem = "a symbolic link"
    elif entry.flag_bits & 1:
        problem = "an encrypted file"
    if problem:
        raise InputRejected(f"{shown(path)} contains {problem}: {shown(name)}; write the zip anew from plain files.")


def limited(file: IO[bytes]) -> bytes:
    data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise Unfit(f"is larger than {MAX_FILE:,} bytes")
    return data
