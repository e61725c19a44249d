"""Measures whether several processes give the images and numbers of one, and how long they take.

    python -m scripts.measure_ranks --output leaderboards/ranks.csv

runs every system with 1 to 4 processes under torchrun, each in a new folder with a copy of one cache that knows the
real images, and writes one row for each. Rows that the file has are kept and not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from genbench import tables
from genbench.files import atomic_write
from scripts.benchmarking import processor

COLUMNS = (
    "system",
    "processes",
    "images",
    "metrics",
    "same_images",
    "largest_difference",
    "seconds",
    "load",
    "machine",
)
"""`same_images`: images equal to the bit to those of one process. `largest_difference`: of any value, standard error or
floor, relative. `load`: runnable processes a core while it was measured; above 1 the machine was busy with others."""
SYSTEMS = ("ddpm(steps=10)", "ddim(steps=5)", "cfg(steps=5)", "adm-g(steps=5)", "ldm(steps=5)")


def command(system: str, count: int, *more: str) -> list[str]:
    """A run of a system as so many processes."""
    how = ["-m", "torch.distributed.run", "--nproc-per-node", str(count)] if count > 1 else []
    return [sys.executable, *how, "-m", "genbench", "run", "--model", system, "--metric", "all", *more]


def run(words: list[str], place: Path) -> tuple[dict[str, Any], float]:
    """The document of a run in a place of its own, and its seconds."""
    told = {**os.environ, "GENBENCH_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1", "GENBENCH_OFFLINE": "1"}
    began = time.monotonic()
    done = subprocess.run(words, env=told, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout), time.monotonic() - began


def numbers(document: dict[str, Any]) -> dict[str, float]:
    """Values, standard errors and floors by name."""
    return {
        f"{one['metric_text']} {name}": one[name]
        for one in document["results"]
        for name in ("value", "stderr", "floor")
        if one[name] is not None
    }


def images(document: dict[str, Any]) -> list[bytes]:
    """The files of images of a run."""
    return [path.read_bytes() for path in sorted(Path(document["directory"], "samples").glob("[0-9]*.npy"))]


def difference(one: dict[str, float], other: dict[str, float]) -> float:
    """The largest relative one; infinite where other things were measured."""
    if one.keys() != other.keys():
        return float("inf")
    pairs = [(one[name], other[name]) for name in one]
    return max(abs(a - b) / max(abs(a), abs(b), 1e-300) if a != b else 0.0 for a, b in pairs)


def measured(system: str, counts: list[int], samples: int, place: Path) -> list[dict[str, Any]]:
    """Rows of one system."""
    size = ("-n", str(samples), "--format", "json")
    known = place / "known"
    run(command(system, 1, *size, "--seed", "1", "--output", str(known / "runs")), known)
    rows: list[dict[str, Any]] = []
    alone: dict[str, Any] | None = None
    for count in sorted({1, *counts}):
        here = place / str(count)
        shutil.copytree(known / "cache", here / "cache")
        found, seconds = run(command(system, count, *size, "--output", str(here / "runs")), here)
        alone = alone or found
        load = os.getloadavg()[0] / (os.cpu_count() or 1)
        rows.append(
            {
                "system": system, "processes": count, "images": samples, "metrics": len(found["results"]),
                "same_images": images(found) == images(alone),
                "largest_difference": f"{difference(numbers(alone), numbers(found)):.1e}",
                "seconds": f"{seconds:.1f}", "load": f"{load:.1f}", "machine": processor(),
            }
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("leaderboards/ranks.csv"), help="CSV of the rows")
    parser.add_argument("--systems", nargs="*", default=SYSTEMS, help="what is run")
    parser.add_argument("--processes", nargs="*", type=int, default=[1, 2, 3, 4], help="numbers of processes")
    parser.add_argument("-n", "--num-samples", type=int, default=768, help="images: 256 are one file, and a process's")
    args = parser.parse_args()
    rows = tables.read(args.output, COLUMNS) if args.output.exists() else []
    for system in args.systems:
        if any(row["system"] == system and row["images"] == str(args.num_samples) for row in rows):
            continue
        with tempfile.TemporaryDirectory() as place:
            found = measured(system, args.processes, args.num_samples, Path(place))
        rows += [{name: str(value) for name, value in row.items()} for row in found]
        atomic_write(args.output, tables.text(COLUMNS, rows).encode())
        for row in found:
            print({name: row[name] for name in COLUMNS[:-1]}, flush=True)


if __name__ == "__main__":
    main()
