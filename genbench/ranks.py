"""Several processes that work as one command: rank 0 leads, and the others help.

Rank 0 runs the command as if it were alone. It alone decides, reads what is stored, writes results and prints. Where
work lies in numbered pieces, `spread` tells the helpers which pieces are theirs, does its own, and waits for all. What
a piece gives does not depend on who makes it, so that no number depends on how many processes there are.

`torchrun` starts the processes and torch.distributed makes them known to each other. What they say to each other is
short and goes over a socket between rank 0 and each helper, as JSON and arrays. A process that ends closes its socket,
whatever ended it, which the other side notices at once; long work on one side is no reason for the other to give up.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import os
import secrets
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from mmap import mmap
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge, wait
from pathlib import Path
from typing import Any

import numpy as np

from genbench import errors
from genbench.errors import GenbenchError, of_system, shown

_log = logging.getLogger(__name__)

ARRIVAL = 600.0
"""Seconds in which all processes of a command must have started."""
_REMINDER = 30.0
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

Advance = Callable[[int], None]
"""advance(count): called often, with the number of images done since the last call, 0 among them."""
Job = Callable[..., Any]
"""job(items, advance, **arguments): works on pieces and returns arrays, numbers, texts, or mappings of them."""


class Lost(GenbenchError):
    """A process ended without a word, as one that was killed."""


class Elsewhere(Exception):
    """The traceback of an error that another process had, as its text."""


class _Dropped(BaseException):
    """Ends a job of a helper for whose answer nobody waits any more."""


def rank() -> int:
    """Number of this process among those of the command; 0 leads."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def count() -> int:
    """Number of processes of the command."""
    if any(not os.environ.get(name) for name in _VARIABLES) or not os.environ["WORLD_SIZE"].isdigit():
        return 1
    return int(os.environ["WORLD_SIZE"])


def local_rank() -> int:
    """Number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK") or rank())


def here(device: str) -> str:
    """The device of this process that stands for one of another: each process of a machine has a GPU of its own."""
    if count() == 1 or not device.startswith("cuda"):
        return device
    import torch

    # A launcher may let each process see its own GPU alone.
    return f"cuda:{local_rank() if torch.cuda.device_count() > 1 else 0}"


@dataclass(slots=True)
class _Line:
    """The connection to another process."""

    rank: int
    host: str
    to: Connection

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}"

    def send(self, **message: Any) -> None:
        """Sends a message; raises Lost where nobody is there."""
        arrays: list[np.ndarray] = []
        text = json.dumps(_packed(message, arrays))
        try:
            self.to.send_bytes(text.encode())
            for array in arrays:
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                self.to.send_bytes(buffer.getbuffer())
        except OSError as error:
            raise self.lost() from error

    def receive(self) -> dict[str, Any]:
        """Waits for a message; raises Lost where nobody will send one."""
        try:
            message = json.loads(self.to.recv_bytes())
            return _unpacked(message, lambda: np.load(io.BytesIO(self.to.recv_bytes()), allow_pickle=False))
        except (OSError, EOFError) as error:
            raise self.lost() from error

    def lost(self) -> Lost:
        """The error of a process that ended without a word."""
        return Lost(
            f"{str(self).capitalize()} ended without a word: it was killed, perhaps by the system for its memory. What "
            "was finished is kept, and the same command continues."
        )


def _packed(value: Any, arrays: list[np.ndarray]) -> Any:
    """A value as JSON. Arrays are put aside, but for those of whole files, which every process reads for itself."""
    if isinstance(value, np.memmap) and isinstance(value.base, mmap) and value.filename:
        return {" ": "mapped", "path": str(Path(value.filename).absolute())}
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {" ": "array"}
    if isinstance(value, Path):
        return {" ": "path", "path": str(value.absolute())}
    if isinstance(value, Mapping):
        return {key: _packed(part, arrays) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(part, arrays) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def _unpacked(value: Any, array: Callable[[], np.ndarray]) -> Any:
    if isinstance(value, dict):
        if value.get(" ") == "array":
            return array()
        if value.get(" ") == "mapped":
            return np.load(value["path"], mmap_mode="r", allow_pickle=False)
        return Path(value["path"]) if " " in value else {key: _unpacked(part, array) for key, part in value.items()}
    return [_unpacked(part, array) for part in value] if isinstance(value, list) else value


@dataclass(slots=True)
class _Leader:
    """What rank 0 knows of the helpers."""

    lines: list[_Line]
    number: int = 0
    busy: dict[int, _Line] = field(default_factory=dict)
    answers: dict[int, Any] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)

    def listen(self, advance: Advance, seconds: float = 0.0) -> None:
        """Takes in what helpers say of the job in hand, and waits so long for a first word.

        Raises:
            GenbenchError: what a helper failed with, or Lost.
            KeyboardInterrupt: somebody interrupted a helper.
        """
        ready = wait([line.to for line in self.busy.values()], seconds) if self.busy else []
        for line in [line for line in self.busy.values() if line.to in ready]:
            message = line.receive()
            if "said" in message and message["said"] not in self.said:
                self.said.add(message["said"])
                _log.warning("%s", message["said"])
            if message["of"] != self.number:
                continue
            if "failed" in message:
                raise _error_of(line, message["failed"])
            if "advance" in message:
                advance(message["advance"])
            if "done" in message:
                self.answers[line.rank] = message["done"]
                del self.busy[line.rank]


_leader: _Leader | None = None
"""Of rank 0 while there are helpers."""


def _error_of(line: _Line, told: Mapping[str, Any]) -> BaseException:
    kind = getattr(errors, told["kind"], GenbenchError)
    if kind is errors.Interrupted:
        return errors.Interrupted(*told["kept"]) if told["kept"] else KeyboardInterrupt()
    error: GenbenchError = kind("\n".join(f"{line}: {text}" for text in told["text"].splitlines() or [""]))
    if told.get("trace"):
        error.__cause__ = Elsewhere(told["trace"])
    return error


def spread(
    job: str | Job,
    items: Sequence[int],
    *,
    own: Job | None = None,
    about: Mapping[str, Any] | None = None,
    advance: Advance | None = None,
    **arguments: Any,
) -> list[Any]:
    """Does a job on all pieces, this process and the helpers together. Alone, or on a helper, it is a call of the job.

    Args:
        job: a function of this package at the top of its module; or the name of one that helpers make for themselves
            from `about` (`serve`), and then own(items, advance) is that of this process.
        items: numbers of pieces; rank r works on every count-th of them from the r-th on.
        advance: called in this process with the images that any process has finished.
        arguments: of the job: numbers, texts, paths, arrays, lists and mappings of them.

    Returns:
        What each process that had pieces returned, by rank.

    Raises:
        GenbenchError: of the first process that fails. The others are told to stop.
        Lost: a process that ended without a word.
    """
    if own is None:
        assert callable(job)
        own = partial(job, **arguments)
    watch = advance or (lambda _: None)
    team = _leader
    if team is None or not items:
        return [own(items, watch)]
    shares = [items[r :: len(team.lines) + 1] for r in range(len(team.lines) + 1)]
    name = job if isinstance(job, str) else name_of(job)
    team.number, team.answers = team.number + 1, {}
    team.busy = {line.rank: line for line in team.lines if shares[line.rank]}

    def step(done: int) -> None:
        watch(done)
        team.listen(watch)

    try:
        for line in team.busy.values():
            line.send(
                of=team.number, do=name, items=list(shares[line.rank]), about=dict(about or {}), arguments=arguments
            )
        team.answers[0] = own(shares[0], step)
        while team.busy:
            team.listen(watch, 1.0)
            watch(0)
    except BaseException:
        for line in team.busy.values():
            with contextlib.suppress(Lost):
                line.send(drop=team.number)
        raise
    finally:
        team.busy = {}
    return [team.answers[r] for r in sorted(team.answers)]


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Makes this process the leader of those that torchrun started, who are released at the end."""
    global _leader
    _leader = _Leader(_arrived())
    try:
        yield
    finally:
        lines, _leader = _leader.lines, None
        for line in lines:
            with contextlib.suppress(Lost):
                line.send(end=True)
            line.to.close()


def lost() -> Lost | None:
    """The error of a helper that ended without a word, for whoever was told to stop and wonders why."""
    return next((error for line in (_leader.lines if _leader else []) if (error := _gone(line))), None)


def _gone(line: _Line) -> Lost | None:
    try:
        while line.to.poll():
            line.receive()
    except (Lost, OSError):
        return line.lost()
    return None


def serve(contexts: Mapping[str, Callable[..., Mapping[str, Job]]]) -> None:
    """Helps the leader until it releases this process.

    Args:
        contexts: by the `kind` in `about`, what makes the jobs that have names, from the rest of it.

    Raises:
        Lost: the leader ended without a word.
        KeyboardInterrupt: somebody interrupted this process, which the leader has been told.
    """
    line = _of_leader()
    try:
        _serve(line, contexts)
    except KeyboardInterrupt:
        raise _gone(line) or KeyboardInterrupt from None


def _serve(line: _Line, contexts: Mapping[str, Callable[..., Mapping[str, Job]]]) -> None:
    jobs: Mapping[str, Job] = {}
    known: dict[str, Any] | None = None
    with _forwarded(line) as told:
        while True:
            message = line.receive()
            if "end" in message:
                return
            if "do" not in message:
                continue
            number = told.number = message["of"]

            def advance(done: int, number: int = number) -> None:
                if line.to.poll():  # nobody speaks to a helper at work but to stop it
                    raise _Dropped
                if done:
                    line.send(of=number, advance=done)

            try:
                if message["about"] and message["about"] != known:
                    more = dict(message["about"])
                    with told.silent():  # the leader has said what is to be said of them
                        jobs = contexts[more.pop("kind")](**more)
                    known = message["about"]
                do = function(message["do"]) if ":" in message["do"] else jobs[message["do"]]
                answer = do(message["items"], advance, **message["arguments"])
                line.send(of=number, done=answer)
            except _Dropped:
                continue
            except Lost:
                raise
            except BaseException as error:
                line.send(of=number, failed=_told(error))
                if not isinstance(error, Exception):
                    raise


def _told(error: BaseException) -> dict[str, Any]:
    """An error as a message."""
    if isinstance(error, KeyboardInterrupt):
        kept = [error.kept, error.total] if isinstance(error, errors.Interrupted) else []
        return {"kind": "Interrupted", "text": "", "kept": kept}
    known = error if isinstance(error, GenbenchError) else of_system(error)
    if known is None:
        known = errors.ComponentError(f"unexpected failure: {type(error).__name__}: {shown(error)}")
        known.__cause__ = error
    cause = known.__cause__ if isinstance(known, errors.ComponentError) else None
    trace = "".join(traceback.format_exception(cause)) if cause is not None else None
    return {"kind": type(known).__name__, "text": str(known), "trace": trace}


def name_of(job: Callable[..., Any]) -> str:
    """What `function` finds it by."""
    return f"{job.__module__}:{job.__qualname__}"


def function(name: str) -> Job:
    """The function of this package that MODULE:NAME names."""
    module, _, attribute = name.partition(":")
    if module.partition(".")[0] != __name__.partition(".")[0]:
        raise errors.UsageError(f"Helpers do what is in this package; got {name}.")
    return getattr(importlib.import_module(module), attribute)


class _Forward(logging.Handler):
    """Sends what a helper logs to the leader, who says it."""

    def __init__(self, line: _Line) -> None:
        super().__init__()
        self.line, self.number, self.quiet = line, 0, False

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one message."""
        if not self.quiet:
            with contextlib.suppress(Lost):
                self.line.send(of=self.number, said=record.getMessage())

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        self.quiet = True
        try:
            yield
        finally:
            self.quiet = False


@contextlib.contextmanager
def _forwarded(line: _Line) -> Iterator[_Forward]:
    logger, handler = logging.getLogger(__name__.partition(".")[0]), _Forward(line)
    before, logger.handlers = logger.handlers, [handler]
    try:
        yield handler
    finally:
        logger.handlers = before


def _store() -> Any:
    """The store that torchrun has for its processes, at MASTER_ADDR:MASTER_PORT."""
    from torch.distributed.rendezvous import rendezvous

    return next(iter(rendezvous("env://", timeout=timedelta(seconds=ARRIVAL))))[0]


def _arrived() -> list[_Line]:
    """The connections to all helpers, once they are there."""
    one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    lines: dict[int, _Line] = {}
    key, began, told = secrets.token_hex(32), time.monotonic(), time.monotonic()
    with socket.create_server(("127.0.0.1" if one_machine else "", 0), backlog=count()) as server:
        server.settimeout(1.0)
        host = "127.0.0.1" if one_machine else os.environ["MASTER_ADDR"]
        store = _store()
        store.set("genbench", json.dumps({"host": host, "port": server.getsockname()[1], "key": key}))
        while len(lines) < count() - 1:
            now = time.monotonic()
            absent = [str(r) for r in range(1, count()) if r not in lines]
            if now - began > ARRIVAL:
                raise GenbenchError(
                    f"Rank {', '.join(absent)} of {count()} did not start. RANK and WORLD_SIZE are set, as torchrun "
                    "does; for a command that is meant to be alone, unset them."
                )
            if now - told > _REMINDER:
                told = now
                _log.warning("waiting for rank %s of %d; unset RANK to work alone.", ", ".join(absent), count())
            with contextlib.suppress(TimeoutError, OSError, EOFError, AuthenticationError):
                line = _accepted(server, key.encode())
                lines[line.rank] = line
    return [lines[r] for r in sorted(lines)]


def _accepted(server: socket.socket, key: bytes) -> _Line:
    handle, _ = server.accept()
    to = _connection(handle)
    deliver_challenge(to, key)
    answer_challenge(to, key)
    hello = json.loads(to.recv_bytes())
    return _Line(int(hello["rank"]), shown(hello["host"]), to)


def _of_leader() -> _Line:
    """The connection to the leader."""
    told = json.loads(_store().get("genbench"))
    to = _connection(socket.create_connection((told["host"], told["port"]), timeout=ARRIVAL))
    answer_challenge(to, told["key"].encode())
    deliver_challenge(to, told["key"].encode())
    to.send_bytes(json.dumps({"rank": rank(), "host": socket.gethostname()}).encode())
    return _Line(0, told["host"], to)


def _connection(handle: socket.socket) -> Connection:
    handle.settimeout(None)
    handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A machine that loses its power sends nothing; this is how the other side learns of it, within half a minute.
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    limits = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 25_000))
    for name, value in limits:
        if hasattr(socket, name):
            handle.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Connection(handle.detach())
