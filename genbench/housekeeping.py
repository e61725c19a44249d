"""What lies in a directory of runs and in the cache, how large it is, and how it goes away."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genbench import feature_files, files, generation, report, tables, weights
from genbench.errors import GenbenchError, InputRejected, UsageError, nearest, shown
from genbench.records import Ref, RunSpec

if TYPE_CHECKING:
    import pandas

STATES = ("finished", "sampled", "unfinished", "running", "damaged")
"""With results; with all images alone; with some of them; worked on by another process; without a readable manifest."""
PRUNED = ("features", "floors", "surveys", "remote")
"""Parts of the cache that are made or copied again when they are missing; weights were downloaded, and stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The folder of a run.

    Attributes:
        spec: what is sampled; None where no manifest says it.
        kept: images that are there.
        metrics: that were measured, such as `fid@compact`.
        state: one of `STATES`.
        size: bytes of all files.
        changed: seconds since the epoch of the last change of a file.
    """

    path: Path
    spec: RunSpec | None
    kept: int
    metrics: tuple[str, ...]
    state: str
    size: int
    changed: float

    def as_dict(self) -> dict[str, Any]:
        """The run as plain data."""
        spec = self.spec
        return {
            "id": self.path.name, "model": str(spec.model) if spec else None,
            "dataset": str(spec.dataset) if spec else None, "num_samples": spec.num_samples if spec else None,
            "seed": spec.seed if spec else None, "precision": spec.precision if spec else None, "kept": self.kept,
            "metrics": list(self.metrics), "state": self.state, "bytes": self.size,
            "changed": datetime.fromtimestamp(self.changed, UTC).isoformat(timespec="seconds"),
        }  # fmt: skip


def runs(output: Path) -> list[Run]:
    """All runs of a directory, the last changed first.

    Raises:
        InputRejected: no such directory.
    """
    if not output.is_dir():
        raise InputRejected(f"There is no directory of runs {shown(output)}; give another by --output.")
    found = [_run(path) for path in output.iterdir() if _is_run(path)]
    return sorted(found, key=lambda run: (-run.changed, run.path.name))


def _is_run(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and ((path / "samples").is_dir() or (path / "result.json").is_file())


def _run(path: Path) -> Run:
    spec = _spec_of(path)
    kept = generation.kept_images(path / "samples", spec) if spec else 0
    metrics: tuple[str, ...] = ()
    with suppress(GenbenchError):
        metrics = tuple(report.measured(result) for result in report.read_results(path).values())
    size, changed = _size(path)
    return Run(
        path=path,
        spec=spec,
        kept=kept,
        metrics=metrics,
        state=_state(path, spec, kept, metrics),
        size=size,
        changed=changed,
    )


def _spec_of(path: Path) -> RunSpec | None:
    """What the manifest of a run says that it is."""
    if not (path / "samples").is_dir():
        with suppress(GenbenchError):
            return next((result.spec for result in report.read_results(path).values()), None)
    try:
        told = json.loads((path / "samples" / "manifest.json").read_text(encoding="utf-8"))["spec"]
        return RunSpec(**{**told, "model": Ref.parse(told["model"]), "dataset": Ref.parse(told["dataset"])})
    except (OSError, ValueError, KeyError, TypeError, RecursionError, GenbenchError):
        return None


def _state(path: Path, spec: RunSpec | None, kept: int, metrics: Sequence[str]) -> str:
    if _is_locked(path):
        return "running"
    if spec is None:
        return "damaged"
    if kept < spec.num_samples and (path / "samples").is_dir():
        return "unfinished"
    return "finished" if metrics else "sampled"


def _is_locked(path: Path) -> bool:
    if _is_claimed(path):
        return True
    if not (path / ".lock").is_file():
        return False
    try:
        with files.locked(path):
            return False
    except (GenbenchError, OSError):
        return True


def _is_claimed(path: Path) -> bool:
    """Whether a job of several makes images of a run, which needs no lock of the whole."""
    claims = path / "samples" / generation.CLAIMS
    if not claims.is_file():
        return False
    with files.claimed(claims) as free:
        return not free


def _size(path: Path) -> tuple[int, float]:
    """Bytes of all files in a folder, and when the last of them changed."""
    total, changed = 0, 0.0
    for file in path.rglob("*"):
        with suppress(OSError):
            status = file.lstat()
            if file.is_file() and file.name != ".lock":
                total, changed = total + status.st_size, max(changed, status.st_mtime)
    return total, changed or path.stat().st_mtime


def selected(
    found: Iterable[Run], *, model: str | None = None, metric: str | None = None, state: str | None = None
) -> list[Run]:
    """The runs of a model (a part of its text), with a metric, and in a state."""
    return [
        run
        for run in found
        if (model is None or (run.spec is not None and model in str(run.spec.model)))
        and (metric is None or any(metric in (name, name.partition("@")[0]) for name in run.metrics))
        and (state is None or run.state == state)
    ]


def named(found: Sequence[Run], names: Iterable[str]) -> list[Run]:
    """The runs of some ids, or beginnings of ids.

    Raises:
        UsageError: a name of none or of several.
    """
    chosen = {}
    for name in names:
        fits = [run for run in found if name and run.path.name.startswith(name)]
        exact = [run for run in fits if run.path.name == name]
        if len(exact or fits) != 1:
            what = "Several runs have an id that begins with" if fits else "No run has the id"
            raise UsageError(f"{what} {shown(name)!r}. {nearest(name, [run.path.name for run in found])}")
        (run,) = exact or fits
        chosen[run.path.name] = run
    return list(chosen.values())


def remove(run: Run) -> None:
    """Removes the folder of a run.

    Raises:
        GenbenchError: another process works in it.
    """
    with files.locked(run.path):
        if _is_claimed(run.path):
            raise GenbenchError(f"A job of several makes images in {shown(run.path)}; wait for it.")
        for path in sorted(run.path.iterdir(), key=lambda path: path.name == ".lock"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != ".lock":
                path.unlink()
    with suppress(OSError):
        (run.path / ".lock").unlink(missing_ok=True)
    with suppress(OSError):
        run.path.rmdir()


def results(output: str | Path = "runs") -> pandas.DataFrame:
    """The results of all runs of a directory as a table.

    Args:
        output: directory of runs.

    Returns:
        One row a result, with the columns of a leaderboard (`genbench.report.COLUMNS`), numbers as numbers, and `run`,
        the folder it lies in. Rows are sorted as in a leaderboard.

    Raises:
        InputRejected: no such directory, or a result of a later version.
    """
    import pandas

    found = []
    for run in runs(Path(output)):
        found += [{**report.row(result), "run": str(run.path)} for result in report.read_results(run.path).values()]
    text = tables.text((*report.COLUMNS, "run"), sorted(found, key=report.sort_key))
    words = dict.fromkeys(("id", "protocol_hash", "commit", "genbench", "torch"), str)
    return pandas.read_csv(io.StringIO(text), dtype=words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the cache.

    Attributes:
        name: "features", "floors", "weights", or another folder that lies there.
        path: where it lies.
        count, size: files and bytes.
        oldest: seconds since the epoch of the last use of the file that was used longest ago; None without files.
    """

    name: str
    path: Path
    count: int
    size: int
    oldest: float | None


def cache() -> list[Part]:
    """The parts of the cache that are there."""
    home = weights.cache_directory()
    folders = sorted(home.iterdir()) if home.is_dir() else []
    return [_part(path) for path in folders if path.is_dir() and not path.name.startswith(".")]


def _part(path: Path) -> Part:
    entries = _files(path)
    used = [_used(one) for one in entries]
    size = sum(one.lstat().st_size for one in entries)
    return Part(name=path.name, path=path, count=len(entries), size=size, oldest=min(used, default=None))


def _files(path: Path) -> list[Path]:
    return [one for one in path.rglob("*") if one.is_file() and not one.is_symlink()]


def _used(path: Path) -> float:
    """When a file was last used or made, in seconds since the epoch; of a folder, the last of its files."""
    status = path.lstat()
    if path.is_dir() and not path.is_symlink():  # to list a folder counts as an access of it, and is no use
        return max([status.st_mtime, *map(_used, path.iterdir())])
    return max(status.st_atime, status.st_mtime)


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def seconds_of(text: str) -> float:
    """A time such as 30d, 12h, 2w, 90m or 0s in seconds.

    Raises:
        UsageError: anything else.
    """
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text.strip(), re.ASCII)
    if not match:
        raise UsageError(f"A time is a whole number with s, m, h, d or w, such as 30d; got {shown(text)!r}.")
    return int(match[1]) * _UNITS[match[2]]


def prune(older_than: float, *, dry: bool = False) -> tuple[int, int]:
    """Removes what was not used for so long from the cache; see `PRUNED`. Returns how many files and bytes.

    What was used since the oldest process that works with the cache began stays, whatever its age.

    Args:
        older_than: seconds.
        dry: count alone.
    """
    home = weights.cache_directory()
    limit = time.time() - older_than
    count = size = 0
    for name in PRUNED:
        folder = home / name
        if folder.is_symlink() or not folder.is_dir():
            continue
        began = feature_files.began(folder)
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            with suppress(OSError):
                used = _used(path)
                if used > limit or (began is not None and used >= began):
                    continue
                inner = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
                count, size = count + len(inner), size + sum(one.lstat().st_size for one in inner)
                if not dry:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return count, size
