"""A process that has imported everything and forks the commands of a test, each with a fault of its own.

It reads a line of JSON a request, a list of commands that run at the same time, and answers with a line: how each
ended. The faults come at the n-th time that a command opens a file to write, renames or removes one: at the same place
whenever it is repeated, and at every place as n grows.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
import time
from typing import Any

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "fcntl.flock", "fcntl.lockf"}


def changes(event: str, args: tuple[Any, ...]) -> bool:
    """Whether something on the disk is about to change."""
    if event == "open":
        mode, flags = args[1], args[2]
        # The null device and caches of Python are nobody's files.
        named = str(args[0])
        if named == os.devnull or named.endswith(".pyc") or "__pycache__" in named:
            return False
        return bool(mode and set(mode) & set("wax+")) or bool(isinstance(flags, int) and flags & os.O_CREAT)
    return event in CHANGES


def install(faults: list[list[Any]]) -> None:
    """Has faults happen: [n, kind], kind being the name of a signal or of an errno."""
    waiting, count = {int(n): kind for n, kind in faults}, 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if not changes(event, args):
            return
        count += 1
        kind = waiting.get(count)
        if kind is None:
            return
        if kind.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, kind))
            if kind != "SIGUSR1":
                time.sleep(0)  # the handler runs here
        else:
            raise OSError(getattr(errno, kind), os.strerror(getattr(errno, kind)), str(args[0]))

    sys.addaudithook(hook)


def misbehaving(what: str, moments_of_block: Any) -> Any:
    """Moments of blocks as one rank fails to make them: "raises R" or "killed R"."""
    how, _, whose = what.partition(" ")

    def failing(number: int, features: Any) -> Any:
        from genbench import ranks

        if ranks.rank() == int(whose):
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the moments are tired")
        return moments_of_block(number, features)

    failing.__module__, failing.__qualname__ = moments_of_block.__module__, moments_of_block.__qualname__
    return failing


def child(request: dict[str, Any]) -> int:
    """Runs one command in this process."""
    os.chdir(request["cwd"])
    for name, value in request["env"].items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    sys.path.insert(0, request["cwd"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    from genbench import gaussians, neighbours, pieces
    from genbench.cli import main
    from genbench.metrics import kernel

    neighbours._ROWS = int(os.environ.get("TEST_ROWS", neighbours._ROWS))
    kernel._TILE = int(os.environ.get("TEST_ROWS", kernel._TILE))
    gaussians.BLOCK = int(os.environ.get("TEST_ROWS", gaussians.BLOCK))
    pieces.WORTH = 0 if "TEST_ROWS" in os.environ else pieces.WORTH
    if what := os.environ.get("TEST_PIECE"):
        gaussians.moments_of_block = misbehaving(what, gaussians.moments_of_block)
    for name, limit in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    # A shell that runs this in the background has them ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    install(request["faults"])
    code = main(request["words"])
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def serve() -> None:
    """Answers requests until there are no more."""
    import torch.distributed.rendezvous
    import torch.multiprocessing  # noqa: F401

    import genbench.benchmark
    import genbench.metrics.frechet
    import genbench.metrics.kernel
    import genbench.metrics.manifold
    import genbench.pipeline  # noqa: F401

    for line in sys.stdin:
        started = {}
        for number, request in enumerate(json.loads(line)):
            pid = os.fork()
            if not pid:
                try:
                    code = child(request)
                except BaseException:
                    import traceback

                    traceback.print_exc()
                    code = 99
                os._exit(code)
            started[pid] = number
        ended: dict[int, int] = {}
        while len(ended) < len(started):
            pid, status = os.wait()
            ended[started[pid]] = os.waitstatus_to_exitcode(status)
        sys.stdout.write(json.dumps([ended[i] for i in sorted(ended)]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
