"""What benchmarks have in common: processes of their own, peak memory, quiet peers, and the name of the processor."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import platform
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any


def fresh(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function in a new process that has inherited nothing but the environment."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def resident(name: str) -> int:
    """A size in KiB from the status of this process: "VmRSS:" is the present one, "VmHWM:" the largest."""
    line = next(x for x in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if x.startswith(name))
    return int(line.split()[1])


def restart_peak() -> int | None:
    """Makes the kernel forget the largest resident size so far; returns the present one in KiB, None where it cannot.

    `ru_maxrss` would not do: it survives the start of a program, so that a child begins with its parent's peak.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return resident("VmRSS:")
    except (OSError, StopIteration):
        return None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The peers print, and call what their libraries have deprecated."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def processor() -> str:
    """The name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
