"""The harness of the benchmarks: processes of their own, peak memory, what came of a tool, rows, and common options."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import io
import multiprocessing
import os
import platform
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

LEADERBOARDS = Path(__file__).resolve().parent.parent / "leaderboards"
"""Folder of the tables that scripts write."""
T = TypeVar("T")


@dataclass(slots=True)
class Measured:
    """What came of one tool.

    Attributes:
        seconds: of every call that counts.
        extra_mib: memory of a call beyond what was there before it, None where it is not known.
        failure: why the tool gave nothing, on one line; empty if it did.
    """

    seconds: list[float] = field(default_factory=list)
    extra_mib: float | None = None
    failure: str = ""


def median_ratio(numerator: Measured, denominator: Measured) -> float | None:
    """Median over rounds of the seconds of one tool by those of another in the same round; None without rounds.

    Only whole rounds are compared, because a tool that failed has fewer.
    """
    pairs = zip(numerator.seconds, denominator.seconds, strict=False)
    ratios = [above / below for above, below in pairs]
    return statistics.median(ratios) if ratios else None


def as_text(value: float | None, form: str = ".4g") -> str:
    """A number as a cell of a table, which is empty where the number is not known."""
    return "" if value is None else format(value, form)


def today() -> str:
    """The date of a row, in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def versions(tool: str, libraries: Sequence[str] = ("torch",)) -> str:
    """Versions of a tool, whose name ends at the first comma, and of the libraries that it stands on."""
    import genbench

    name = tool.partition(",")[0]
    own = genbench.__version__ if name == "genbench" else importlib.metadata.version(name)
    return ", ".join([f"{name} {own}", *(f"{library} {importlib.metadata.version(library)}" for library in libraries)])


def use_threads(count: int) -> None:
    """Limits the threads of processes to come, whose linear algebra reads these variables when it is loaded."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)


def options(description: str | None, table: Path, *, rounds: int, quick: str) -> argparse.ArgumentParser:
    """The options that benchmarks share.

    Args:
        rounds: how many calls count without --quick.
        quick: what --quick leaves small.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="tasks, or the beginnings of their names")
    parser.add_argument("--rounds", type=int, help=f"calls of every tool that count ({rounds}; 1 with --quick)")
    parser.add_argument("--no-memory", action="store_true", help="without the further calls that tell the memory")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the processes that are measured")
    parser.add_argument("--output", type=Path, help=f"table to write (leaderboards/{table.name}; none with --quick)")
    return parser


def chosen(parser: argparse.ArgumentParser, only: Sequence[str] | None, tasks: Mapping[str, T]) -> dict[str, T]:
    """Tasks whose names begin with one of `only`, or all. None is an error of the command line."""
    wanted = {name: task for name, task in tasks.items() if not only or any(name.startswith(part) for part in only)}
    if not wanted:
        parser.error(f"no task named {', '.join(only or ())}; there are {', '.join(tasks)}")
    return wanted


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
