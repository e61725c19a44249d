"""Images in an LMDB, as LSUN is published: keys to the bytes of webp, jpeg or png files, in the order of the keys.

The library maps the file into memory and believes what it says, so that a damaged one can end the process. A process of
its own therefore walks through the database first, and every page that is used later was reached by it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from genbench.errors import MissingAsset
from genbench.images.encoded import Look
from genbench.images.names import Names
from genbench.images.refusals import Unfit, naming, regular
from genbench.images.surveys import Survey, progress

FILE = "data.mdb"
"""Of a folder that is a database."""
_NO_IMAGES = {b"__len__", b"__keys__", b"length", b"num-samples"}
"""Keys under which some programs put the number of images."""
_WALK = """
import lmdb, sys
with lmdb.open(sys.argv[1], subdir=False, readonly=True, lock=False, readahead=False) as database:
    with database.begin(buffers=True) as transaction:
        for key, value in transaction.cursor():
            bytes(key), bytes(value[:1]), bytes(value[-1:])
"""
_PATIENCE = 3600


def _lmdb() -> Any:
    try:
        import lmdb
    except ImportError:
        raise MissingAsset("LMDB files need lmdb: pip install 'genbench[lmdb]'.") from None
    return lmdb


def file_of(path: Path) -> Path | None:
    """The file of the database that a path names, None if it names none."""
    if path.is_dir():
        return path / FILE if (path / FILE).is_file() else None
    return path if path.suffix.lower() in (".lmdb", ".mdb") else None


_LOCK = threading.Lock()
_OPENED: dict[tuple[int, str, int, int], Any] = {}


def _database(path: Path) -> Any:
    """The database, which a process opens once and a forked child anew: the library allows no second time."""
    with _LOCK:
        regular(path)
        status, place = path.stat(), str(path.resolve())
        key = (os.getpid(), place, status.st_dev, status.st_ino)
        if key not in _OPENED:
            _OPENED[key] = _lmdb().open(place, subdir=False, readonly=True, lock=False, readahead=False)
        return _OPENED[key]


def survey_of(path: Path, max_pixels: int) -> Survey:
    """Reads a database once.

    Raises:
        InputRejected: no database, or a damaged one; keys that are no text; values that are no images that can be used.
        MissingAsset: lmdb is not installed.
    """
    _lmdb()
    with naming(path):
        regular(path)
        _walk(path)
        look, keys = Look(max_pixels), []
        with _database(path).begin(buffers=True) as transaction:
            total = transaction.stat()["entries"]
            for key, value in transaction.cursor():
                name = bytes(key)
                if name in _NO_IMAGES:
                    continue
                keys.append(name.decode("utf-8", "surrogateescape"))
                if not look.at(keys[-1], partial(bytes, value)):
                    break
                if not look.count % 256:
                    progress(f"survey of {path.name}", look.count, total)
        if not keys:
            raise Unfit("has no images")
        digests = look.finish(path, total)
    return Survey(names=Names.of(keys), digests=digests, sizes=look.sizes, notices=look.notices)


def _walk(path: Path) -> None:
    """Reads every key and both ends of every value in another process.

    Raises:
        Unfit: that process failed or was ended.
    """
    done = subprocess.run(
        [sys.executable, "-I", "-c", _WALK, str(path)], capture_output=True, check=False, timeout=_PATIENCE
    )
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        told = (
            last.partition(": ")[2] or last if done.returncode > 0 else f"reading it ends in signal {-done.returncode}"
        )
        raise Unfit(f"is no whole LMDB: {told[:160]}")


@dataclass(frozen=True, slots=True)
class Values:
    """Images of a database in the order of its keys."""

    path: Path
    names: Names

    def __len__(self) -> int:
        return len(self.names)

    def content(self, number: int) -> bytes:
        with _database(self.path).begin() as transaction:
            data = transaction.get(self.names[number].encode("utf-8", "surrogateescape"))
        if data is None:
            raise Unfit("is no longer there")
        return data

    def place(self, number: int) -> str:
        return f"{self.path}/{self.names[number]}"
