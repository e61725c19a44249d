"""Measures what a process that leads others has left to do itself, in seconds of its core.

    OMP_NUM_THREADS=1 python -m scripts.measure_pieces --images 20000 --features 512

draws features, computes each stage alone and then with helpers on this machine, and prints a row for each: the stage,
the seconds of the processor that the leading process took alone and with the others, and whether the values are the
same to the last bit. Seconds of the processor are not those of a clock: they do not grow where a machine is shared.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genbench import gaussians, ranks
from genbench.arrays import Features
from genbench.metrics import kernel

Values = NDArray[np.float64]


def drawn(place: Path, name: str, images: int, width: int, seed: int) -> Features:
    """Features in a file: Gaussian, with variances that fall like 1/i as those of networks do."""
    rng, path = np.random.default_rng(seed), place / f"{name}.npy"
    scale = (1 / np.sqrt(1 + np.arange(width))).astype(np.float32)
    np.save(path, rng.standard_normal((images, width), dtype=np.float32) * scale)
    return Features(extractor="drawn", tap="pooled", path=path)


def stages(x: Features, y: Features) -> dict[str, Callable[[], Values]]:
    """By name, what is measured."""
    fit, reference = gaussians.moments_of(x), gaussians.factored(gaussians.moments_of(y))
    return {
        "moments": lambda: gaussians.moments_of(x).scatter,
        "without each image": lambda: gaussians.distances_without_each_image(x, generated=fit, reference=reference),
        "without each of 20 blocks": lambda: gaussians.distances_without_each_block(
            x, generated=fit, reference=reference
        ),
        "100 subsets of 1,000 (KID)": lambda: kernel.subset_discrepancies(
            x.values(), y.values(), subsets=100, subset_size=1000, seed=0
        ),
    }


@contextlib.contextmanager
def helped(count: int) -> Iterator[None]:
    """So many processes, of which this one leads."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    told = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    told |= {"MASTER_PORT": str(port)}
    words = [sys.executable, "-c", "from genbench import ranks; ranks.serve({})"]
    helpers = [subprocess.Popen(words, env={**os.environ, **told, "RANK": str(r)}) for r in range(1, count)]
    os.environ.update(told, RANK="0")
    try:
        with ranks.leading():
            yield
    finally:
        for name in (*told, "RANK"):
            del os.environ[name]
        for helper in helpers:
            helper.wait()


def timed(work: Callable[[], Values]) -> tuple[Values, float]:
    """What a stage gives, and the seconds of the processor that it took this process."""
    began = time.process_time()
    return work(), time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000, help="on each side")
    parser.add_argument("--features", type=int, default=512, help="of an image")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--stages", nargs="*", help="beginnings of the names of those that are measured; all if none")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        x, y = (drawn(Path(folder), name, args.images, args.features, i) for i, name in enumerate("xy"))
        for name, work in stages(x, y).items():
            if args.stages and not name.startswith(tuple(args.stages)):
                continue
            alone, before = timed(work)
            with helped(args.processes):
                work()  # the helpers import what they need
                together, after = timed(work)
            same = "the same" if np.array_equal(alone, together) else "other values"
            print(
                f"{args.images} images, {args.features} features, {name}: {before:.2f} s alone, {after:.2f} s of "
                f"{args.processes} processes, {same}",
                flush=True,
            )


if __name__ == "__main__":
    main()
