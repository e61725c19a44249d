"""Images behind URLs: `https://`, `s3://`, `gs://`, `hf://` and the other stores that fsspec knows.

One rule says what happens. A set of up to `limit()` bytes in all is copied to the cache, file by file, and read from
there; a copy that broke off goes on where it stopped. A larger set is streamed: every file is read by ranges, once when
it is surveyed and once when features are made of it, and nothing is kept but the survey and the features. An LMDB is
always copied, because it is mapped into memory.

What a store says of a file (its size, and its ETag, checksum or time) tells whether a copy and a survey are still of
it. With GENBENCH_OFFLINE=1 sets are read that were copied before.
"""

from __future__ import annotations

import json
import os
import re
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from genbench import files
from genbench.errors import GenbenchError, MissingAsset, OutOfResources, UsageError, shown
from genbench.images import surveys
from genbench.images.braces import in_braces
from genbench.records import digest
from genbench.weights import cache_directory, offline

STORES = ("https", "http", "s3", "gs", "gcs", "hf", "az", "abfs")
LIMIT = 8
"""GiB up to which a set is copied, where GENBENCH_COPY_GIB says nothing else."""
_PIECE = 16 << 20
_TRIES = 4
_RESERVE = 64 << 20
_AHEAD = 4 << 20
"""Bytes that are read ahead of what was asked for."""
_PATIENCE = 24 * 3600.0


def is_url(text: str) -> bool:
    """Whether a text is a URL of a store. One slash too few is forgiven: paths in Python lose it."""
    return bool(re.match(rf"({'|'.join(STORES)}):/{{1,2}}[^/]", text))


def shown_url(url: str) -> str:
    """A URL without what is secret in it: user, password and the signature behind the question mark."""
    parts = urlsplit(_normal(url))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _normal(url: str) -> str:
    store, _, rest = url.partition(":")
    return f"{store}://{rest.lstrip('/')}"


def limit() -> int:
    """Bytes up to which a set is copied.

    Raises:
        UsageError: GENBENCH_COPY_GIB is no number.
    """
    told = os.environ.get("GENBENCH_COPY_GIB", "").strip() or str(LIMIT)
    if not re.fullmatch(r"\d{1,6}(\.\d{1,6})?", told):
        raise UsageError(f"GENBENCH_COPY_GIB is a number of GiB, such as 50, or 0; got {shown(told)!r}.")
    return int(float(told) * (1 << 30))


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A file of a store. It is opened and looked at as a `pathlib.Path` is.

    Attributes:
        url: of the file, with whatever the store needs.
        name: of the file, relative to what was asked for.
        size: bytes.
        version: what the store says beside it, empty where it says nothing that changes with the content.
    """

    url: str
    name: str
    size: int
    version: str

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> str:
        return str(self).rpartition("/")[0]

    def stat(self) -> os.stat_result:
        """As of a regular file of this size."""
        return os.stat_result((stat.S_IFREG | 0o444, 0, 0, 1, 0, 0, self.size, 0, 0, 0))

    def open(self, mode: str = "rb") -> IO[bytes]:
        """A new stream that reads by ranges."""
        with _naming(self.url):
            fs, path = _store(self.url)
            return _Stream(fs.open(path, mode, block_size=_AHEAD, cache_type="readahead"), self.url)  # type: ignore[return-value]

    def read_at(self, offset: int, size: int) -> bytes:
        """Bytes from an offset on, fewer at the end. Every thread reads ahead for itself."""
        key = (os.getpid(), self.url)
        if getattr(_HELD, "key", None) != key:
            _HELD.key, _HELD.stream = key, self.open()
        _HELD.stream.seek(offset)
        return _HELD.stream.read(size)

    def __str__(self) -> str:
        return shown_url(self.url)


_HELD = threading.local()


class _Stream:
    """A stream of fsspec whose errors are those of this package."""

    def __init__(self, stream: Any, url: str) -> None:
        self._stream, self._url = stream, url

    def read(self, size: int = -1) -> bytes:
        with _naming(self._url):
            return self._stream.read(size)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *what: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _naming(url: str) -> Iterator[None]:
    """Turns whatever stores and their libraries raise into one error that names the URL."""
    try:
        yield
    except GenbenchError:
        raise
    except ImportError as error:
        raise MissingAsset(
            f"{shown(shown_url(url))} needs a library ({shown(error)}): pip install 'genbench[remote]'."
        ) from None
    except FileNotFoundError as error:
        cause = error.__cause__  # fsspec calls a server that does not answer so as well
        if isinstance(cause, Exception) and getattr(cause, "status", None) != 404:
            raise MissingAsset(f"{shown(shown_url(url))} cannot be read: {_reason(cause)}; try again later.") from error
        raise MissingAsset(f"There is no {shown(shown_url(url))}.") from None
    except PermissionError as error:
        raise MissingAsset(
            f"{shown(shown_url(url))} may not be read ({_reason(error)}); give the credentials as the store's own "
            "programs take them, or FSSPEC_S3_ANON=true for a public bucket."
        ) from None
    except MemoryError:
        raise
    except Exception as error:
        raise MissingAsset(f"{shown(shown_url(url))} cannot be read: {_reason(error)}; try again later.") from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return shown(re.sub(r"\?\S*", "", text)[:160] or type(error).__name__)


def _store(url: str) -> tuple[Any, str]:
    """The file system of a URL, and its name there. Every process has its own: their threads do not survive a fork."""
    import fsspec

    if "::" in url:
        raise UsageError(f"{shown(shown_url(url))} chains several stores; give the URL of the file itself.")
    if _PROCESS.get("id") != os.getpid():
        _PROCESS.update(id=os.getpid())
        fsspec.asyn.reset_lock()
        fsspec.spec.AbstractFileSystem.clear_instance_cache()
    return fsspec.core.url_to_fs(_normal(url))


_PROCESS: dict[str, int] = {"id": os.getpid()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a URL stands for.

    Attributes:
        url: as it was given.
        kind: "file", "pattern" or "folder".
        files: in the order of their names.
    """

    url: str
    kind: str
    files: tuple[Remote, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def home(self) -> Path:
        """Where copies of it lie."""
        return cache_directory() / "remote" / digest(self.url, 32)


def listed(url: str) -> Listing:
    """Asks the store what there is.

    Raises:
        MissingAsset: no connection, no such file, no permission; or no copy of it where connections are switched off.
        UsageError: a chain of stores.
    """
    url = _normal(url)
    home = Listing(url=url, kind="file", files=()).home
    if offline():
        if (known := _known(home)) is None:
            raise MissingAsset(
                f"{shown(shown_url(url))} was not copied, and connections are switched off (GENBENCH_OFFLINE)."
            )
        return known
    with _naming(url):
        found = _ask(url)
        if not found.files:
            raise FileNotFoundError(url)
    return found


def _ask(url: str) -> Listing:
    path = urlsplit(url).path if url.startswith("http") else url
    if any(mark in path for mark in "{*["):
        every = []
        for one in in_braces(url):
            fs, inner = _store(one)
            if any(mark in inner for mark in "*["):
                there = fs.glob(inner, detail=True)
                every += [_file(fs, info, str(info["name"]).rpartition("/")[2]) for info in there.values()]
            else:
                every.append(_file(fs, fs.info(inner), inner.partition("?")[0].rpartition("/")[2]))
        return Listing(url=url, kind="pattern", files=tuple(sorted(every, key=lambda file: file.name)))
    fs, inner = _store(url)
    info = fs.info(inner)
    if info.get("type") != "directory":
        return Listing(url=url, kind="file", files=(_file(fs, info, _last(inner)),))
    if url.startswith("http"):
        raise UsageError(f"{shown(shown_url(url))} is a page; over https name the files, such as .../{{000..009}}.tar.")
    top = inner.rstrip("/")
    every = [_file(fs, one, str(name).removeprefix(f"{top}/")) for name, one in fs.find(inner, detail=True).items()]
    return Listing(url=url, kind="folder", files=tuple(sorted(every, key=lambda file: file.name)))


def _last(path: str) -> str:
    return path.partition("?")[0].rstrip("/").rpartition("/")[2]


def _file(fs: Any, info: dict[str, Any], name: str) -> Remote:
    size = info.get("size")
    url = str(fs.unstrip_protocol(info["name"])) if "://" not in str(info["name"]) else str(info["name"])
    told = [info.get(key) for key in ("ETag", "etag", "checksum", "oid", "blob_id", "md5Hash", "md5", "generation")]
    times = [info.get(key) for key in ("LastModified", "mtime", "last_modified", "updated", "Last-Modified")]
    version = next((str(one) for one in [*told, *times] if one), "")
    if info.get("mimetype") == "text/html":
        raise MissingAsset(f"{shown(shown_url(url))} is a web page and no file; give the address of the file itself.")
    if not isinstance(size, int) or info.get("partial") is False:
        raise MissingAsset(f"{shown(shown_url(url))} tells no size or gives no ranges of bytes; copy it yourself.")
    if ".." in name.split("/") or name.startswith("/") or not name:
        raise MissingAsset(f"{shown(shown_url(url))} has a name that no file can have.")
    return Remote(url=url, name=name, size=size, version=version)


def _known(home: Path) -> Listing | None:
    """What was copied before, if all of it is there."""
    content = files.kept(home / "listing.json")
    if content is None:
        return None
    told = json.loads(content)
    listing = Listing(url=told["url"], kind=told["kind"], files=tuple(Remote(**file) for file in told["files"]))
    whole = all(_is_copy(_copy_of(listing, file), file) for file in listing.files)
    return listing if whole else None


def _copy_of(listing: Listing, file: Remote) -> Path:
    return listing.home / "files" / file.name


def _is_copy(path: Path, file: Remote) -> bool:
    mark = path.with_name(f".{path.name}.version")
    try:
        return path.stat().st_size == file.size and mark.read_text(encoding="utf-8") == file.version
    except OSError:
        return False


def copied(listing: Listing) -> Path:
    """The folder with copies of all files, under their names; what is missing is copied now.

    Raises:
        MissingAsset: the connection failed; what came is kept, and the next call goes on with it.
        OutOfResources: too little room.
    """
    with files.locked(listing.home, patience=_PATIENCE):
        lacking = [
            file
            for file in listing.files
            if not _is_copy(_copy_of(listing, file), file) or not (file.version or offline())
        ]
        need = sum(file.size for file in lacking)
        if lacking and (free := files.free_bytes(listing.home)) < need + _RESERVE:
            raise OutOfResources(
                f"{shown(shown_url(listing.url))} needs {need >> 20} MiB in {shown(listing.home.parent)}, and "
                f"{free >> 20} MiB are free; free some, set GENBENCH_CACHE, or stream it with GENBENCH_COPY_GIB=0."
            )
        done = listing.size - need
        for file in lacking:
            done = _copy(file, _copy_of(listing, file), done, listing)
        wanted = {_copy_of(listing, file) for file in listing.files}
        wanted |= {path.with_name(f".{path.name}.version") for path in wanted}
        for path in (listing.home / "files").rglob("*"):  # of an earlier version of the set
            if path.is_file() and path not in wanted:
                path.unlink()
        if lacking:
            told = {"url": listing.url, "kind": listing.kind, "files": [asdict(file) for file in listing.files]}
            files.write_sealed(listing.home / "listing.json", json.dumps(told).encode())
        else:
            os.utime(listing.home / "listing.json")  # it was used, and is not what `genbench cache prune` looks for
    return listing.home / "files"


def _copy(file: Remote, target: Path, done: int, listing: Listing) -> int:
    """Copies one file, from where an earlier copy broke off. Returns the bytes that are there of the whole set."""
    target.parent.mkdir(parents=True, exist_ok=True)
    mark, part = target.with_name(f".{target.name}.version"), target.with_name(f".{target.name}.part")
    begun = target.with_name(f".{target.name}.begun")
    if not file.version or not begun.is_file() or begun.read_text(encoding="utf-8") != file.version:
        part.unlink(missing_ok=True)
        begun.write_text(file.version, encoding="utf-8")
    with _naming(file.url):
        fs, path = _store(file.url)
        with part.open("ab") as stream:
            done += stream.tell()
            while (start := stream.tell()) < file.size:
                piece = _piece(fs, path, start, min(start + _PIECE, file.size))
                stream.write(piece)
                done += len(piece)
                surveys.progress(f"copy of {shown_url(listing.url)} (MiB)", done >> 20, listing.size >> 20)
        fs.invalidate_cache()
        if _file(fs, fs.info(path), file.name) != file:
            part.unlink()
            raise OSError("it was changed while it was copied")
    part.replace(target)
    mark.write_text(file.version, encoding="utf-8")
    begun.unlink(missing_ok=True)
    return done


def _piece(fs: Any, path: str, start: int, stop: int) -> bytes:
    for attempt in range(_TRIES):
        try:
            data = fs.cat_file(path, start=start, end=stop)
            if len(data) == stop - start:
                return data
            raise OSError(f"{len(data):,} bytes came for {stop - start:,}")
        except (FileNotFoundError, PermissionError):
            raise
        except Exception:
            if attempt == _TRIES - 1:
                raise
            time.sleep(0.2 * 4**attempt)
    raise AssertionError


@dataclass(frozen=True, slots=True)
class Folder:
    """Image files of a store that are read one by one, each by one request."""

    path: str
    files: tuple[Remote, ...]

    def names(self) -> list[str]:
        """Names of all files."""
        return [file.name for file in self.files]

    def empty_folders(self, place: str) -> list[str]:
        """Stores know no empty folders."""
        return []

    def read(self, name: str) -> bytes:
        """Bytes of a file."""
        low, high = 0, len(self.files)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.files[middle].name < name else (low, middle)
        with _naming(self.files[low].url):
            fs, path = _store(self.files[low].url)
            return fs.cat_file(path)

    def state(self, names: Sequence[str]) -> tuple[str, bool]:
        """As of `genbench.images.containers.Folder`."""
        whole = all(file.version for file in self.files)
        return digest([[file.url, file.size, file.version] for file in self.files]), whole
