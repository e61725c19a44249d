"""Downloads that continue where they broke off, have an end, and follow no redirect away from https."""

from __future__ import annotations

import contextlib
import http.client
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from genbench import files
from genbench.errors import OutOfResources, shown

_CHUNK = 1 << 20
_TIMEOUT = 30.0
_PATIENCE, _SLOWEST = 60.0, 1 << 10
"""A download that gives fewer bytes a second for so many seconds has failed."""
_FORGOTTEN = 7 * 24 * 3600
"""Seconds after which nobody continues a download."""


class Part:
    """The beginning of a download beside its target, which another call may continue.

    Two processes never write the same file: one that finds it locked writes its own, which it removes in the end.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.part")
        self.stream = self.path.open("ab+")
        self.kept = files.lock(self.stream.fileno()) and self._named()
        if not self.kept:
            self.stream.close()
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
            self.stream, self.path = os.fdopen(handle, "ab+"), Path(name)
            files.lock(handle)
        self.mark = self.path.with_suffix(".etag")

    def _named(self) -> bool:
        """Whether the open file still has its name. Another process may have finished it in between."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self.stream.fileno()), self.path.stat())
        return False

    def size(self) -> int:
        return os.fstat(self.stream.fileno()).st_size

    def empty(self) -> None:
        self.stream.truncate(0)
        self.mark.unlink(missing_ok=True)

    def remove(self) -> None:
        for path in (self.path, self.mark):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        if not self.kept or not self.size():
            self.remove()
        self.stream.close()


def forget(folder: Path) -> None:
    """Removes beginnings of downloads that nobody has continued for long."""
    for path in [*folder.glob(".*.part"), *folder.glob(".*.etag")]:
        with contextlib.suppress(OSError), path.open("rb+") as stream:
            if time.time() - path.stat().st_mtime > _FORGOTTEN and files.lock(stream.fileno()):
                path.unlink()


Received = Callable[[int, int | None], None]
"""received(bytes so far, bytes in all or None), while a file is downloaded."""


def transfer(
    url: str,
    part: Part,
    *,
    most: int,
    proved: bool,
    expected: int | None = None,
    received: Received | None = None,
) -> None:
    """Downloads what is missing of a part.

    Args:
        most: bytes beyond which a reply is no longer taken.
        proved: whether a digest will tell that the rest belongs to the beginning; else only a mark of the server does.
        expected: bytes of the whole, for `received` where the server does not say.
        received: see `Received`.

    Raises:
        URLError: whatever is wrong with the reply. The part keeps what came.
        OutOfResources: less free space than the reply announces.
    """
    opener = urllib.request.build_opener(SecureRedirects())
    request = urllib.request.Request(url, headers={"User-Agent": "genbench"})
    mark = part.mark.read_text(encoding="latin-1") if part.mark.is_file() else ""
    if part.size() and (mark or proved) and part.size() < most:
        request.add_header("Range", f"bytes={part.size()}-")
        if mark:
            request.add_header("If-Range", mark)
    with _opened(opener, request, part) as reply:
        if reply.headers.get_content_type() == "text/html":
            # Proxies and sign-in pages answer 200 with a page; for a card without digest nothing else would tell.
            raise urllib.error.URLError("the reply is a web page, not a file")
        continues = reply.headers.get("Content-Range", "").startswith(f"bytes {part.size()}-")
        if getattr(reply, "status", 200) != 206 or not continues:
            part.empty()
        length = reply.headers.get("Content-Length", "")
        announced = part.size() + int(length) if length.isascii() and length.isdigit() else None
        if (announced or 0) > most:
            raise urllib.error.URLError(f"{announced:,} bytes are announced, and it has at most {most:,}")
        if announced and announced - part.size() > (free := files.free_bytes(part.path)):
            raise OutOfResources(
                f"{part.target.name} has {announced:,} bytes, and {free:,} are free in "
                f"{shown(part.path.parent)}; free some, or set GENBENCH_CACHE."
            )
        etag = reply.headers.get("ETag", "")
        if etag.startswith('"'):  # weak ones, W/"...", do not stand for bytes
            part.mark.write_text(etag, encoding="latin-1")
        _copy(reply, part, most, announced, expected, received)


def _opened(
    opener: urllib.request.OpenerDirector, request: urllib.request.Request, part: Part
) -> http.client.HTTPResponse:
    try:
        return opener.open(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.empty()  # longer than the file that is there now
        request.remove_header("Range")
        return opener.open(request, timeout=_TIMEOUT)


def _copy(
    reply: http.client.HTTPResponse,
    part: Part,
    most: int,
    announced: int | None,
    expected: int | None,
    received: Received | None,
) -> None:
    done, since, then = part.size(), time.monotonic(), part.size()
    try:
        while piece := reply.read1(_CHUNK):
            done += len(piece)
            if done > most:
                part.empty()
                raise urllib.error.URLError(f"it does not end after the {most:,} bytes that it may have")
            part.stream.write(piece)
            if received is not None:
                received(done, announced or expected)
            if (now := time.monotonic()) - since > _PATIENCE:
                if done - then < _SLOWEST * _PATIENCE:
                    raise urllib.error.URLError(f"{done - then:,} bytes came in {now - since:.0f} seconds")
                since, then = now, done
    finally:
        part.stream.flush()
    if announced and done != announced:
        raise urllib.error.URLError(f"{done:,} of {announced:,} bytes came")


class SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != "https":
            raise urllib.error.URLError(f"redirected to {shown(newurl)}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
