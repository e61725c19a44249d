"""Memory and seconds of large sets, and that numbers do not depend on where the images lie: leaderboards/scale.csv.

    nice -n 19 python -m scripts.measure_scale make --images 100000
    nice -n 19 python -m scripts.measure_scale score --images 100000
    nice -n 19 python -m scripts.measure_scale open --images 1280000
    nice -n 19 python -m scripts.measure_scale moments --images 10000000
    nice -n 19 python -m scripts.measure_scale cost

`score` measures FID, KID, precision and recall of as many images on both sides, from tars, a folder and an npz, which
`make` writes beforehand, or it does. Images are those of `shapes`: real ones of seed 0, and "generated" ones of seed 1
with noise. `open` opens tars of tiny images
for the first time and again, and a folder of a tenth of them. `moments` sums up moments of features that are streamed.

`cost` holds the cost model of `genbench.costs` against what it predicts: see `scripts/cost_points.py`.

Rows are written as they are found, and a command that was killed goes on with those that are missing. To measure again
what is there, remove its rows. Every measurement is a process of its own with a cache of its own. Peak memory is the
largest resident size of that process, torch and all, and its CPU seconds count its start as well, but for `open`.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import gc
import io
import operator
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genbench import tables
from scripts import cost_points
from scripts.benchmarking import LEADERBOARDS, fresh, processor, resident, today, use_threads, versions

TABLE = LEADERBOARDS / "scale.csv"
COLUMNS = (
    "task", "kind", "images", "metric", "value", "seconds", "cpu_seconds", "peak_mib", "bytes_per_image", "threads",
    "processor", "versions", "date",
)  # fmt: skip
METRICS = ("fid", "kid", "precision", "recall")
KINDS = ("tar", "folder", "npz")
SHARD = 10_000
MANY = 20_000
"""Images a side beyond which distances between all pairs take minutes."""
WIDTH, NARROWER, NARROW = 2048, 128, 1_000_000
"""Features of streamed moments: as many as Inception's, and fewer of more than a million rows."""


def images_of(seed: int, count: int, *, noisy: bool) -> Iterator[NDArray[np.uint8]]:
    """Images of shapes by blocks, uint8 (n, 3, 32, 32); with noise of 8 levels that image i has for itself."""
    from genbench.datasets import shapes

    samples = shapes.load("train", seed=seed)
    for start in range(0, count, 1000):
        block = samples.read(start, min(start + 1000, count))
        if noisy:
            noise = [np.random.default_rng((seed, start + i)).normal(0, 8, one.shape) for i, one in enumerate(block)]
            block = np.clip(np.rint(block + np.stack(noise)), 0, 255).astype(np.uint8)
        yield block


def png(image: NDArray[np.uint8]) -> bytes:
    """A file of an image (3, h, w)."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Adds a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def make(home: Path, count: int) -> None:
    """Writes both sides as tars, folders and npz, unless they are there."""
    for name, seed in (("real", 0), ("generated", 1)):
        if (home / f"{name}.npz").is_file():
            continue
        every = np.empty((count, 32, 32, 3), np.uint8)
        (home / "tar" / name).mkdir(parents=True, exist_ok=True)
        done = 0
        for block in images_of(seed, count, noisy=name == "generated"):
            folder = home / "folder" / name / f"{done // SHARD:03}"
            folder.mkdir(parents=True, exist_ok=True)
            with tarfile.open(home / "tar" / name / f"{done // 1000:05}.tar", "w") as tar:
                for image in block:
                    data = png(image)
                    add(tar, f"{done:07}.png", data)
                    (folder / f"{done:07}.png").write_bytes(data)
                    every[done] = image.transpose(1, 2, 0)
                    done += 1
        # Whole or absent: it is what says that a side is there.
        np.savez(home / f"{name}.partial.npz", arr_0=every)
        (home / f"{name}.partial.npz").replace(home / f"{name}.npz")


def place(home: Path, kind: str, name: str) -> str:
    """Where one side lies in one form."""
    return str(home / f"{name}.npz" if kind == "npz" else home / kind / name)


def scored(home: Path, kind: str, cache: str, threads: int, metrics: Sequence[str] = METRICS) -> dict[str, Any]:
    """Values, seconds and peak memory of a score."""
    os.environ["GENBENCH_CACHE"] = cache
    import torch

    import genbench

    torch.set_num_threads(threads)
    started = time.perf_counter()
    results = genbench.score(place(home, kind, "generated"), place(home, kind, "real"), metrics=metrics)
    seconds = time.perf_counter() - started
    return {
        "cpu_seconds": time.process_time(),
        "values": {name: one.score.value for name, one in zip(metrics, results, strict=True)},
        "seconds": seconds,
        "peak_mib": resident("VmHWM:") / 1024,
    }


def opened(path: str, cache: str) -> dict[str, Any]:
    """Seconds, and bytes that an open set holds in memory beyond what the process had."""
    os.environ["GENBENCH_CACHE"] = cache
    from genbench.images import open_images

    with tempfile.TemporaryDirectory() as folder:  # what is loaded once is no part of the set
        with tarfile.open(Path(folder) / "a.tar", "w") as tar:
            add(tar, "a.png", png(np.zeros((3, 1, 1), np.uint8)))
        open_images(folder)
    before, started, worked = resident("VmRSS:"), time.perf_counter(), time.process_time()
    samples = open_images(path)
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed goes back to the system
    return {
        "count": samples.count,
        "seconds": seconds,
        "cpu_seconds": worked,
        "peak_mib": resident("VmHWM:") / 1024,
        "bytes_per_image": (resident("VmRSS:") - before) * 1024 / samples.count,
    }


def streamed(rows: int, width: int) -> dict[str, Any]:
    """Moments of rows that are made as they are needed, and how far they are from their closed form.

    Block k is one block of noise B moved by k d. The mean is then mean(B) + (K - 1) d / 2, and the scatter is K times
    that of B and n (K - 1)(K + 1) / 12 times d d^T.
    """
    from genbench.arrays import Moments

    size = 4096
    rng = np.random.default_rng(0)
    base, step = rng.normal(size=(size, width)), rng.normal(size=width) * 1e-3
    blocks = rows // size
    started = time.perf_counter()
    total = functools.reduce(operator.add, (Moments.of((base + k * step).astype(np.float32)) for k in range(blocks)))
    seconds = time.perf_counter() - started
    one = Moments.of(base)
    n = blocks * size
    mean = one.mean + step * (blocks - 1) / 2
    scatter = blocks * one.scatter + n * (blocks - 1) * (blocks + 1) / 12 * np.outer(step, step)
    error = max(
        float(np.linalg.norm(total.mean - mean) / np.linalg.norm(mean)),
        float(np.linalg.norm(total.scatter - scatter) / np.linalg.norm(scatter)),
    )
    return {
        "count": total.count,
        "seconds": seconds,
        "cpu_seconds": time.process_time(),
        "peak_mib": resident("VmHWM:") / 1024,
        "error": error,
    }


def row(task: str, kind: str, images: int, threads: int, **cells: Any) -> dict[str, str]:
    """A row of the table."""
    shared = {"threads": threads, "processor": processor(), "versions": versions("genbench"), "date": today()}
    given = {"task": task, "kind": kind, "images": images, **cells, **shared}
    return {name: tables.cell(given.get(name)) for name in COLUMNS}


def metrics_of(task: str, kind: str, count: int) -> Sequence[str]:
    """What is measured of so many images a side in a form, for the first time or again."""
    return METRICS if count <= MANY or (task, kind) == ("score", KINDS[0]) else METRICS[:1]


def measure_scores(home: Path, count: int, threads: int, output: Path) -> None:
    """Rows of the three forms, each with an empty cache and again with what the first left there.

    Rows are written as they are found, and those that are there are kept: a form is measured again from the start when
    one of its rows is missing. Of more than `MANY` images the first form alone has all metrics. The others and every
    second pass measure FID, which takes the same features; distances between all pairs would take minutes each time.
    """
    make(home, count)
    for kind in KINDS:
        known = {(r["task"], r["metric"]) for r in present(output) if (r["kind"], r["images"]) == (kind, str(count))}
        wanted = {task: metrics_of(task, kind, count) for task in ("score", "score again")}
        if all((task, metric) in known for task, metrics in wanted.items() for metric in metrics):
            print(kind, "is there", flush=True)
            continue
        with tempfile.TemporaryDirectory(dir=home) as cache:
            for task, metrics in wanted.items():
                time.sleep(3)  # a survey is kept of files that have been at rest
                told = fresh(scored, home, kind, cache, threads, metrics)
                cells = {name: round(told[name], 1) for name in ("seconds", "cpu_seconds", "peak_mib")}
                values = told["values"].items()
                found = [row(task, kind, count, threads, metric=name, value=value, **cells) for name, value in values]
                merge(output, found)
                print(kind, task, told, flush=True)


def measure_openings(home: Path, count: int, threads: int, output: Path) -> None:
    """Rows of opening tars of tiny images for the first time and again, and a folder of a tenth of them."""
    data = png(np.zeros((3, 1, 1), np.uint8))
    tars, folder, few = home / f"tiny-{count}", home / f"tiny-{count // 10}-files", count // 10
    make_tiny(tars, folder, count, data)
    for kind, path, number in (("tar", tars, count), ("folder", folder, few)):
        known = {r["task"] for r in present(output) if (r["kind"], r["images"]) == (kind, str(number))}
        if {"open", "open again"} <= known:
            print(kind, "is there", flush=True)
            continue
        with tempfile.TemporaryDirectory(dir=home) as cache:
            for task in ("open", "open again"):
                time.sleep(3)
                told = fresh(opened, str(path), cache)
                assert told["count"] == number
                cells = {
                    name: round(told[name], 1) for name in ("seconds", "cpu_seconds", "peak_mib", "bytes_per_image")
                }
                merge(output, [row(task, kind, number, threads, metric="", value="", **cells)])
                print(kind, task, told, flush=True)


def make_tiny(tars: Path, folder: Path, count: int, data: bytes) -> None:
    """Writes tars of so many copies of a file, and a folder of a tenth of them. What lacks its name is not whole."""
    if not tars.is_dir():
        partial = tars.with_name(f"{tars.name}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        for start in range(0, count, SHARD):
            with tarfile.open(partial / f"{start // SHARD:06}.tar", "w") as tar:
                for i in range(start, min(start + SHARD, count)):
                    add(tar, f"{i:08}.png", data)
        partial.replace(tars)
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.partial")
        for i in range(count // 10):
            inner = partial / f"{i // 1000:04}"
            inner.mkdir(parents=True, exist_ok=True)
            (inner / f"{i:08}.png").write_bytes(data)
        partial.replace(folder)


def rows_of_moments(count: int, threads: int) -> list[dict[str, str]]:
    """One row: the error of streamed moments against their closed form."""
    width = WIDTH if count <= NARROW else NARROWER
    told = fresh(streamed, count, width)
    print(told, flush=True)
    cells = {name: round(told[name], 1) for name in ("seconds", "cpu_seconds", "peak_mib")}
    return [row("moments", f"{width} features", told["count"], threads, metric="error", value=told["error"], **cells)]


def largest_set(home: Path, count: int) -> Path:
    """The folder of the largest set that was made under a folder, or of one of so many images that is made now."""
    made = [path for path in home.glob("*") if path.name.isdigit() and (path / "generated.npz").is_file()]
    largest = max(made, key=lambda path: int(path.name), default=None)
    if largest is not None and int(largest.name) >= count:
        return largest
    make(home / str(count), count)
    return home / str(count)


def present(output: Path) -> list[dict[str, str]]:
    """The rows of a table, none where there is no table."""
    return tables.read(output, COLUMNS) if output.is_file() else []


def merge(output: Path, rows: Sequence[dict[str, str]]) -> None:
    """Puts rows into a table, in place of those of the same task, kind, images and metric."""
    identity = operator.itemgetter("task", "kind", "images", "metric")
    tables.merge(output, COLUMNS, rows, identity=identity, order=lambda row: (int(row["images"]), identity(row)))


def main(words: Sequence[str] | None = None) -> None:
    """Measures and merges the rows into the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("make", "score", "open", "moments", "cost"))
    parser.add_argument("--images", type=int, help="images a side, or rows of features (cost: 100000)")
    parser.add_argument("--home", type=Path, default=Path("scale"), help="folder of the images (scale)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, help="table to merge into (leaderboards/scale.csv, or scale_cost.csv)")
    parser.add_argument("--anew", action="store_true", help="cost: measure the points again that are there")
    args = parser.parse_args(words)
    if args.task == "cost":
        use_threads(1)
        most = args.images or cost_points.SIZES[-1]
        sets = functools.partial(largest_set, args.home, most)
        cost_points.measure(args.output or cost_points.TABLE, sets, most=most, rounds=3, anew=args.anew)
        return
    if args.images is None:
        parser.error("--images is needed")
    args.output = args.output or TABLE
    use_threads(args.threads)
    home = args.home / str(args.images)
    if args.task != "moments":
        home.mkdir(parents=True, exist_ok=True)
    if args.task == "make":
        make(home, args.images)
    elif args.task == "score":
        measure_scores(home, args.images, args.threads, args.output)
    elif args.task == "open":
        measure_openings(home, args.images, args.threads, args.output)
    else:
        merge(args.output, rows_of_moments(args.images, args.threads))


if __name__ == "__main__":
    main()
