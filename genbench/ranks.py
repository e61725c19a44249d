"""Several processes that work as one command: rank 0 leads, and the others help.

Rank 0 runs the command as if it were alone. It alone decides, reads what is stored, writes results and prints. Where
work lies in numbered pieces, `spread` tells the helpers which pieces are theirs, does its own, and waits for all. What
a piece gives does not depend on who makes it, so that no number depends on how many processes there are.

`torchrun` starts the processes and torch.distributed makes them known to each other. What they say to each other is
short and goes over a socket between rank 0 and each helper, as JSON and arrays. A process that ends closes its socket,
whatever ended it, which the other side notices at once; long work on one side is no reason for the other to give up. A
thread of each side reads what comes while the side works, because a system ends a connection that nobody reads from.
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
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from mmap import mmap
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from genbench import errors
from genbench.errors import GenbenchError, of_system, shown

_log = logging.getLogger(__name__)

ARRIVAL = 600.0
"""Seconds in which all processes of a command must have started."""
_REMINDER = 30.0
_GREETING = 10.0
"""Seconds in which whoever connects must have shown that it belongs to the command."""
_FAREWELL = 2.0
"""Seconds in which helpers may hear that a command has ended, before its leader is gone."""
_SILENCE = 25.0
"""Seconds after which a process has ended that takes in nothing of what was sent."""
_KEY = "genbench"
"""Where the store has the place at which rank 0 listens."""
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
    """Number of this process among those of the command; 0 leads.

    Raises:
        UsageError: a RANK that is none of them.
    """
    if count() == 1:
        return 0
    told = os.environ["RANK"]
    if not told.isdigit() or int(told) >= count():
        raise errors.UsageError(
            f"RANK is a whole number below WORLD_SIZE={count()}, as torchrun sets it; got {shown(told)}. Unset it to "
            "work alone."
        )
    return int(told)


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
    """The connection to another process.

    Attributes:
        inbox: pairs of the line and a message that has come, or of the line and None once the process has ended.
        ended: set when the process has ended.
    """

    rank: int
    host: str
    to: Connection
    inbox: SimpleQueue[tuple[_Line, _Message | None]] = field(default_factory=SimpleQueue)
    ended: threading.Event = field(default_factory=threading.Event)

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}"

    def read(self) -> None:
        """Begins to take in what comes."""
        threading.Thread(target=self._read, name=f"genbench rank {self.rank}", daemon=True).start()

    def _read(self) -> None:
        try:
            while True:
                count, packed = json.loads(self.to.recv_bytes())
                arrays = [np.load(io.BytesIO(self.to.recv_bytes()), allow_pickle=False) for _ in range(count)]
                self.inbox.put((self, _Message(packed, arrays)))
        except (OSError, EOFError, ValueError):
            pass
        finally:
            self.ended.set()
            self.inbox.put((self, None))

    def send(self, **message: Any) -> None:
        """Sends a message; raises Lost where nobody is there."""
        arrays: list[np.ndarray] = []
        packed = _packed(message, arrays)
        try:
            self.to.send_bytes(json.dumps([len(arrays), packed]).encode())
            for array in arrays:
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                self.to.send_bytes(buffer.getbuffer())
        except OSError as error:
            raise self.lost() from error

    def receive(self) -> _Message:
        """Waits for a message; raises Lost where nobody will send one."""
        _, message = self.inbox.get()
        if message is None:
            raise self.lost()
        return message

    def close(self) -> None:
        """Says that nothing more will be sent. What the other side still sends is read, or it would have an error."""
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.to.fileno())) as handle:
            handle.shutdown(socket.SHUT_WR)

    def lost(self) -> Lost:
        """The error of a process that ended without a word."""
        return Lost(
            f"{str(self).capitalize()} ended without a word: it was killed, perhaps by the system for its memory. What "
            "was finished is kept, and the same command continues."
        )


@dataclass(frozen=True, slots=True)
class _Message:
    """What has come from another process."""

    packed: Mapping[str, Any]
    arrays: Sequence[np.ndarray]

    def unpacked(self) -> dict[str, Any]:
        """The message with its arrays, those of whole files mapped.

        Raises:
            MissingAsset: a file that is not there for this process.
        """
        return _unpacked(self.packed, iter(self.arrays).__next__)


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
            return _mapped(value["path"])
        return Path(value["path"]) if " " in value else {key: _unpacked(part, array) for key, part in value.items()}
    return [_unpacked(part, array) for part in value] if isinstance(value, list) else value


def _mapped(path: str) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise errors.MissingAsset(
            f"{shown(path)} is not there for this process. The folder of --output and the cache (GENBENCH_CACHE) must "
            "lie where all processes see them."
        ) from error


@dataclass(slots=True)
class _Leader:
    """What rank 0 knows of the helpers."""

    lines: list[_Line]
    inbox: SimpleQueue[tuple[_Line, _Message | None]] = field(default_factory=SimpleQueue)
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
        while self.busy:
            try:
                line, come = self.inbox.get(timeout=seconds) if seconds else self.inbox.get_nowait()
            except Empty:
                return
            seconds = 0.0
            if come is None:
                raise line.lost()
            self._hear(line, come, advance)

    def _hear(self, line: _Line, come: _Message, advance: Advance) -> None:
        message = come.packed
        if "said" in message and message["said"] not in self.said:
            self.said.add(message["said"])
            _log.warning("%s", message["said"])
        if message["of"] != self.number:
            return
        if "failed" in message:
            raise _error_of(line, message["failed"])
        if "advance" in message:
            advance(message["advance"])
        if "done" in message:
            self.answers[line.rank] = come.unpacked()["done"]
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
    team, store = _Leader([]), _store()
    try:
        _gather(team, store)
        _leader = team
        yield
    finally:
        _leader = None
        with contextlib.suppress(RuntimeError):  # a later command of the same processes has a leader of its own
            store.delete_key(_KEY)
        for line in team.lines:
            with contextlib.suppress(Lost):
                line.send(end=True)
            line.close()
        until = time.monotonic() + _FAREWELL
        for line in team.lines:
            line.ended.wait(max(until - time.monotonic(), 0.0))


def lost() -> Lost | None:
    """The error of a helper that ended without a word, for whoever was told to stop and wonders why."""
    if _leader is not None:
        time.sleep(_MOMENT)
    return next((line.lost() for line in (_leader.lines if _leader else []) if line.ended.is_set()), None)


_MOMENT = 0.2
"""Seconds after which a thread has seen the end of a process that has ended."""


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
        raise (line.lost() if line.ended.wait(_MOMENT) else KeyboardInterrupt) from None
    finally:
        line.close()


def _serve(line: _Line, contexts: Mapping[str, Callable[..., Mapping[str, Job]]]) -> None:
    jobs: Mapping[str, Job] = {}
    known: dict[str, Any] | None = None
    with _forwarded(line) as told:
        while True:
            come = line.receive()
            if "end" in come.packed:
                return
            if "do" not in come.packed:
                continue
            number = told.number = come.packed["of"]

            def advance(done: int, number: int = number) -> None:
                if not line.inbox.empty():  # nobody speaks to a helper at work but to stop it
                    raise _Dropped
                if done:
                    line.send(of=number, advance=done)

            try:
                message = come.unpacked()
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
    """The store that torchrun has for its processes, at MASTER_ADDR:MASTER_PORT.

    Raises:
        GenbenchError: nobody answers there, or the port is taken.
    """
    from torch.distributed.rendezvous import rendezvous

    try:
        return next(iter(rendezvous("env://", timeout=timedelta(seconds=ARRIVAL))))[0]
    except (RuntimeError, ValueError) as error:
        raise _unmet(error) from error


def _unmet(error: Exception) -> GenbenchError:
    kind = GenbenchError if rank() == 0 else Lost  # which one helper tells for all
    return kind(
        f"The processes of this command do not meet at MASTER_ADDR={shown(os.environ['MASTER_ADDR'])}, "
        f"MASTER_PORT={shown(os.environ['MASTER_PORT'])}: {shown(error)}. Rank 0 has ended, or the variables are not "
        "those of torchrun; unset RANK to work alone."
    )


def _gather(team: _Leader, store: Any) -> None:
    """Makes the connections to all helpers, once they are there.

    Raises:
        GenbenchError: some did not come in time.
        Lost: one ended while others were awaited.
    """
    one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    lines: dict[int, _Line] = {}
    key, began, told = secrets.token_hex(32), time.monotonic(), time.monotonic()
    with _server("127.0.0.1" if one_machine else "") as server:
        server.settimeout(1.0)
        host = "127.0.0.1" if one_machine else os.environ["MASTER_ADDR"]
        store.set(_KEY, json.dumps({"host": host, "port": server.getsockname()[1], "key": key}))
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
            if (ended := next((line for line in lines.values() if line.ended.is_set()), None)) is not None:
                raise ended.lost()
            with contextlib.suppress(OSError, EOFError, ValueError, AuthenticationError):  # such as of a stranger
                line = _accepted(server, key.encode(), team.inbox)
                lines[line.rank] = line
                line.read()
            team.lines = [lines[r] for r in sorted(lines)]


def _server(host: str) -> socket.socket:
    """A socket that listens on a free port: of this address, or of all that the machine has, old and new ones."""
    if not host and socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # such as a system in which they are switched off
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=count())
    return socket.create_server((host, 0), backlog=count())


def _accepted(server: socket.socket, key: bytes, inbox: SimpleQueue[tuple[_Line, _Message | None]]) -> _Line:
    handle, _ = server.accept()
    to = _connection(handle)
    _limit(to, _GREETING)
    deliver_challenge(to, key)
    answer_challenge(to, key)
    hello = json.loads(to.recv_bytes())
    _limit(to, 0.0)
    return _Line(int(hello["rank"]), shown(hello["host"]), to, inbox)


def _limit(to: Connection, seconds: float) -> None:
    """Sets how long a read waits; 0 is for ever."""
    with socket.socket(fileno=os.dup(to.fileno())) as handle:
        whole, part = divmod(seconds, 1)
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", int(whole), int(part * 1e6)))


def _of_leader() -> _Line:
    """The connection to the leader.

    Raises:
        Lost: there is none.
    """
    store, until = _store(), time.monotonic() + ARRIVAL
    while True:
        try:
            told = json.loads(store.get(_KEY))
        except RuntimeError as error:
            raise _unmet(error) from error
        try:
            line = _called(told)
        except (OSError, EOFError, AuthenticationError) as error:
            # What the store tells may be of a command that has just ended, or the network not ready yet.
            if time.monotonic() > until:
                raise _unmet(error) from error
            time.sleep(1.0)
            continue
        line.read()
        return line


def _called(told: Mapping[str, Any]) -> _Line:
    to = _connection(socket.create_connection((told["host"], told["port"]), timeout=_REMINDER))
    answer_challenge(to, told["key"].encode())
    deliver_challenge(to, told["key"].encode())
    to.send_bytes(json.dumps({"rank": rank(), "host": socket.gethostname()}).encode())
    return _Line(0, told["host"], to)


def _connection(handle: socket.socket) -> Connection:
    handle.settimeout(None)
    handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A machine that loses its power sends nothing; this is how the other side learns of it, within half a minute.
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    limits = (
        ("TCP_KEEPIDLE", 10),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", int(1000 * _SILENCE)),
    )
    for name, value in limits:
        if hasattr(socket, name):
            handle.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Connection(handle.detach())
