"""Memory and seconds of large sets, and that numbers do not depend on where the images lie: leaderboards/scale.csv.

    nice -n 19 python -m scripts.measure_scale score --images 100000
    nice -n 19 python -m scripts.measure_scale open --images 1280000
    nice -n 19 python -m scripts.measure_scale moments --images 10000000

`score` measures FID, KID, precision and recall of as many images on both sides, from tars, a folder and an npz. Images
are those of `shapes`: real ones of seed 0, and "generated" ones of seed 1 with noise. `open` opens tars of tiny images
for the first time and again, and a folder of a tenth of them. `moments` sums up moments of features that are streamed.

Every measurement is a process of its own with a cache of its own. Peak memory is the largest resident size of that
process, torch and all, and its CPU seconds count its start as well, but for `open`.
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
from scripts.benchmarking import LEADERBOARDS, fresh, processor, resident, today, use_threads, versions

TABLE = LEADERBOARDS / "scale.csv"
COLUMNS = (
    "task", "kind", "images", "metric", "value", "seconds", "cpu_seconds", "peak_mib", "bytes_per_image", "threads",
    "processor", "versions", "date",
)  # fmt: skip
METRICS = ("fid", "kid", "precision", "recall")
KINDS = ("tar", "folder", "npz")
SHARD = 10_000
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
        np.savez(home / f"{name}.npz", arr_0=every)


def place(home: Path, kind: str, name: str) -> str:
    """Where one side lies in one form."""
    return str(home / f"{name}.npz" if kind == "npz" else home / kind / name)


def scored(home: Path, kind: str, cache: str, threads: int) -> dict[str, Any]:
    """Values, seconds and peak memory of a score."""
    os.environ["GENBENCH_CACHE"] = cache
    import torch

    import genbench

    torch.set_num_threads(threads)
    started = time.perf_counter()
    results = genbench.score(place(home, kind, "generated"), place(home, kind, "real"), metrics=METRICS)
    seconds = time.perf_counter() - started
    return {
        "cpu_seconds": time.process_time(),
        "values": {name: one.score.value for name, one in zip(METRICS, results, strict=True)},
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


def rows_of_scores(home: Path, count: int, threads: int) -> list[dict[str, str]]:
    """Rows of the three forms, each with an empty cache and again with what the first left there."""
    make(home, count)
    found = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory(dir=home) as cache:
            for task in ("score", "score again"):
                time.sleep(3)  # a survey is kept of files that have been at rest
                told = fresh(scored, home, kind, cache, threads)
                for metric, value in told["values"].items():
                    cells = {name: round(told[name], 1) for name in ("seconds", "cpu_seconds", "peak_mib")}
                    found.append(row(task, kind, count, threads, metric=metric, value=value, **cells))
                print(kind, task, told, flush=True)
    return found


def rows_of_openings(home: Path, count: int, threads: int) -> list[dict[str, str]]:
    """Rows of opening tars of tiny images for the first time and again, and a folder of a tenth of them."""
    data = png(np.zeros((3, 1, 1), np.uint8))
    tars, folder, few = home / f"tiny-{count}", home / f"tiny-{count // 10}-files", count // 10
    if not tars.is_dir():
        tars.mkdir(parents=True)
        for start in range(0, count, SHARD):
            with tarfile.open(tars / f"{start // SHARD:06}.tar", "w") as tar:
                for i in range(start, min(start + SHARD, count)):
                    add(tar, f"{i:08}.png", data)
    if not folder.is_dir():
        for i in range(few):
            inner = folder / f"{i // 1000:04}"
            inner.mkdir(parents=True, exist_ok=True)
            (inner / f"{i:08}.png").write_bytes(data)
    found = []
    for kind, path, number in (("tar", tars, count), ("folder", folder, few)):
        with tempfile.TemporaryDirectory(dir=home) as cache:
            for task in ("open", "open again"):
                time.sleep(3)
                told = fresh(opened, str(path), cache)
                assert told["count"] == number
                cells = {
                    name: round(told[name], 1) for name in ("seconds", "cpu_seconds", "peak_mib", "bytes_per_image")
                }
                found.append(row(task, kind, number, threads, metric="", value="", **cells))
                print(kind, task, told, flush=True)
    return found


def rows_of_moments(count: int, threads: int) -> list[dict[str, str]]:
    """One row: the error of streamed moments against their closed form."""
    width = WIDTH if count <= NARROW else NARROWER
    told = fresh(streamed, count, width)
    print(told, flush=True)
    cells = {name: round(told[name], 1) for name in ("seconds", "cpu_seconds", "peak_mib")}
    return [row("moments", f"{width} features", told["count"], threads, metric="error", value=told["error"], **cells)]


def main(words: Sequence[str] | None = None) -> None:
    """Measures and merges the rows into the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("score", "open", "moments"))
    parser.add_argument("--images", type=int, required=True, help="images a side, or rows of features")
    parser.add_argument("--home", type=Path, default=Path("scale"), help="folder of the images (scale)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=TABLE, help="table to merge into (leaderboards/scale.csv)")
    args = parser.parse_args(words)
    use_threads(args.threads)
    home = args.home / str(args.images)
    if args.task != "moments":
        home.mkdir(parents=True, exist_ok=True)
    if args.task == "score":
        rows = rows_of_scores(home, args.images, args.threads)
    elif args.task == "open":
        rows = rows_of_openings(home, args.images, args.threads)
    else:
        rows = rows_of_moments(args.images, args.threads)
    identity = operator.itemgetter("task", "kind", "images", "metric")
    tables.merge(args.output, COLUMNS, rows, identity=identity, order=lambda row: (int(row["images"]), identity(row)))


if __name__ == "__main__":
    main()
