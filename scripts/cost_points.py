"""Points that the cost model of `genbench.costs` is held against: leaderboards/scale_cost.csv.

Rates are measured on a few thousand rows. Every point is predicted from them before it is measured, on one thread as
they were. Seconds are those of the processor, so that other processes disturb them less, and memory is the peak beyond
what the process held when the stage began.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import operator
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from genbench import costs, tables
from genbench.arrays import Features, Moments
from scripts import cost_tables
from scripts.benchmarking import LEADERBOARDS, fresh, processor, resident, restart_peak, today, versions

TABLE = LEADERBOARDS / "scale_cost.csv"
COLUMNS = (
    "kind", "stage", "n", "d", "predicted", "measured", "ratio", "predicted_mib", "peak_mib", "processor", "versions",
    "date",
)  # fmt: skip
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
STREAMED = 10_000_000
NARROW, WIDE = 128, 2048
PER_TAR = 1_000
"""Images a tar of the sets that `measure_scale make` writes; rates of images are those of the last one."""

PAIRS = {
    "search": (("search", "generated"),),
    "precision and recall": (("search", "generated"), ("search", "reference"), ("members", "both")),
    "density and coverage": (("occupancy", "both"),),
    "kernel": (("kernel", "both"),),
}
"""What is measured of pairs of images, in this order: density and coverage find the neighbours that are known."""
FRECHET = {"fit": (("fit", "generated"),), "distance": (("distance", "both"),), "left-out": (("left-out", "both"),)}
LARGEST = {
    NARROW: {"search": 30_000},
    WIDE: {"search": 30_000, "precision and recall": 10_000, "density and coverage": 10_000, "kernel": 10_000},
}
"""The most images of what would take longer than a few minutes at more, by width."""
IMAGES = {"open": 100_000, "features": 30_000, "sampling": 256}
"""The most images of stages whose seconds are those of an image times their number."""
SYSTEM, BATCH = "ddim(steps=10)", 256
CALLS, FEW = 5, 3_000
"""Calls of what takes less than a second, which more images than `FEW` never do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measurement: seconds and bytes that were predicted, and that were found."""

    stage: str
    n: int
    d: int
    predicted: float
    measured: float
    memory: float | None = None
    peak: float | None = None

    def row(self) -> dict[str, str]:
        """A row of the table."""
        mib = {
            name: None if value is None else round(value / 2**20, 1)
            for name, value in (("predicted_mib", self.memory), ("peak_mib", self.peak))
        }
        times = {name: float(f"{getattr(self, name):.4g}") for name in ("predicted", "measured")}
        ratio = round(self.predicted / self.measured, 3)
        return row(kind="point", stage=self.stage, n=self.n, d=self.d, ratio=ratio, **times, **mib)


def row(**cells: Any) -> dict[str, str]:
    """A row of the table, of this machine and of today."""
    given = {**cells, "processor": processor(), "versions": versions("genbench", ("torch", "numpy")), "date": today()}
    return {name: tables.cell(given.get(name)) for name in COLUMNS}


def stages_measured(n: int, d: int) -> list[str]:
    """The stages that are measured for so many images a side and features."""
    known = [name for name in PAIRS if n <= LARGEST[d].get(name, n)]
    # A covariance of fewer images than features is made in another way, which the model does not describe.
    return known + [name for name in FRECHET if n > d]


def measured_rates(d: int, rounds: int) -> dict[str, float]:
    """Rates of one width, on one thread."""
    one_thread()
    return costs.measure_rates(d, costs.STAGES, rounds=rounds, clock=time.process_time)


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def taken(work: Callable[[], object]) -> tuple[float, float | None]:
    """Processor seconds of a call, the best of `CALLS` where it is short, and bytes beyond those before it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = restart_peak()
    seconds = costs.seconds_taken(work, clock=time.process_time, rounds=1)
    peak = None if before is None else (resident("VmHWM:") - before) * 1024
    if seconds < 1:
        seconds = min(seconds, costs.seconds_taken(work, clock=time.process_time, rounds=CALLS - 1))
    return seconds, peak


def predicted(parts: Sequence[tuple[str, str]], sizes: costs.Sizes, rates: costs.Rates) -> tuple[float, float]:
    """Seconds and bytes of some stages, one after the other."""
    seconds = sum(costs.seconds_of(stage, side, sizes, rates) for stage, side in parts)
    return seconds, max(costs.memory_of(stage, side, sizes) for stage, side in parts)


def points_of_features(n: int, d: int, rates: dict[str, float], stages: Sequence[str]) -> list[Point]:
    """Measures stages on noise of n rows a side."""
    from genbench import gaussians, neighbours

    one_thread()
    sizes = costs.Sizes(generated=n, reference=n, width=d)
    x, y = costs.noise(n, d, 2), costs.noise(n, d, 3)
    works: dict[str, Callable[[], object]] = {}
    if "search" in stages:
        pair = neighbours.pair_of(x.values(), y.values(), k=3, arithmetic="float32", device="cpu")
        works["search"] = lambda: neighbours.nearest_neighbours(pair.generated, costs.NEAREST)
    if "fit" in stages:
        fit, target = gaussians.moments_of(x), gaussians.moments_of(y)
        thin = gaussians.factored(target)
        works |= {
            "fit": lambda: gaussians.moments_of(x),
            "distance": lambda: gaussians.frechet_distance(generated=fit, reference=gaussians.factored(target)),
            "left-out": lambda: gaussians.distances_without_each_image(x, generated=fit, reference=thin),
        }
    # What is known of rows is not found again: precision gets new copies, and density other neighbours for each call.
    pairs = [(again(x), again(y)) for _ in range(CALLS if n <= FEW else 1)]
    ks = iter(range(5, 5 - CALLS, -1))
    seen: list[tuple[Features, Features]] = []

    def of_unseen() -> None:
        seen.append(pairs[len(seen)])
        costs.run_metric("precision", *seen[-1])

    works |= {
        "precision and recall": of_unseen,
        "density and coverage": lambda: costs.run_metric("density", *seen[-1], k=next(ks)),
        "kernel": lambda: costs.run_metric("kid", x, y),
    }
    if "density and coverage" in stages and "precision and recall" not in stages:
        of_unseen()
    found = []
    for stage in stages:
        seconds, peak = taken(works[stage])
        guess, memory = predicted({**PAIRS, **FRECHET}[stage], sizes, rates)
        found.append(Point(stage=stage, n=n, d=d, predicted=guess, measured=seconds, memory=memory, peak=peak))
    return found


def again(features: Features) -> Features:
    """The same features in other memory."""
    return Features(extractor=features.extractor, tap=features.tap, array=np.array(features.values()))


def points_streamed(n: int, d: int, rates: dict[str, float]) -> list[Point]:
    """Moments of many rows, of which one block is held: the sums are those of blocks that differ."""
    one_thread()
    block = costs.noise(costs.BLOCK, d, 0).values()
    rows = n // costs.BLOCK * costs.BLOCK

    def work() -> object:
        return functools.reduce(operator.add, (Moments.of(block) for _ in range(rows // costs.BLOCK)))

    seconds, peak = taken(work)
    sizes = costs.Sizes(generated=rows, reference=0, width=d)
    guess, memory = predicted(FRECHET["fit"], sizes, rates)
    return [Point(stage="fit", n=rows, d=d, predicted=guess, measured=seconds, memory=memory, peak=peak)]


def first_tars(home: Path, place: Path, numbers: Sequence[int]) -> str:
    """A folder with some of the tars of real images."""
    place.mkdir()
    for tar in [sorted((home / "tar" / "real").iterdir())[i] for i in numbers]:
        os.link(tar, place / tar.name)
    return str(place)


def points_of_images(home: Path, stage: str, sizes: Sequence[int]) -> list[Point]:
    """Measures opening sets of images, or features of them, by the seconds of an image of the last tar."""
    one_thread()
    with tempfile.TemporaryDirectory(dir=home) as place:
        os.environ["GENBENCH_CACHE"] = str(Path(place) / "cache")
        work = {"open": open_set, "features": features_of_set}[stage]
        last = first_tars(home, Path(place) / "rate", [-1])
        work(first_tars(home, Path(place) / "warm", [-2]))  # loads what is loaded once
        # Opened once each: what was seen before is opened faster.
        one = costs.seconds_taken(lambda: work(last), clock=time.process_time, rounds=1 if stage == "open" else 2)
        found = []
        for n in sizes:
            folder = first_tars(home, Path(place) / str(n), range(n // PER_TAR))
            started = time.process_time()
            work(folder)
            seconds = time.process_time() - started
            found.append(Point(stage=stage, n=n, d=0, predicted=one / PER_TAR * n, measured=seconds))
    return found


def open_set(path: str) -> None:
    from genbench.images import open_images

    open_images(path)


def features_of_set(path: str) -> None:
    from genbench.extractors import compact
    from genbench.features import image_blocks
    from genbench.images import open_images

    for _ in image_blocks(open_images(path), compact.load(), ["pooled"], device="cpu", workers=0):
        pass


def points_of_sampling(n: int) -> list[Point]:
    """Sampling as `genbench plan` predicts it from one step of 32 images, and as it is."""
    from genbench import generation, pipeline, planning
    from genbench.measuring import Execution
    from genbench.records import Ref, RunSpec

    one_thread()
    spec = RunSpec(model=Ref.parse(SYSTEM), dataset=Ref("shapes"), num_samples=n)
    loader, _, spec = pipeline.bind_spec(spec)
    model = pipeline.load_model(loader, spec, "cpu", Execution())
    one = planning.seconds_per_image(model, spec, clock=time.process_time)
    started = time.process_time()
    for start in range(0, n, BATCH):
        model.sample(generation.image_seeds(spec.seed, start, min(start + BATCH, n)))
    seconds = time.process_time() - started
    return [Point(stage="sampling", n=n, d=0, predicted=one * n, measured=seconds)]


def measure(output: Path, sets: Callable[[], Path], *, most: int, rounds: int, anew: bool) -> None:
    """Measures the points that are missing in a table, says how many were predicted, and writes docs/scale.md.

    Args:
        sets: gives the folder of sets of images that `measure_scale make` has written, or writes them.
        most: images a side.
        rounds: calls of which the fastest one tells a rate.
        anew: whether points that are there are measured again.
    """
    known = set() if anew else {(r["stage"], int(r["n"]), int(r["d"])) for r in present(output) if r["kind"] == "point"}

    def lacks(stage: str, n: int, d: int) -> bool:
        return n <= most and (stage, n, d) not in known

    for d in (NARROW, WIDE):
        todo = {n: [s for s in stages_measured(n, d) if lacks(s, n, d)] for n in SIZES}
        streamed = STREAMED // costs.BLOCK * costs.BLOCK
        long = d == NARROW and most == SIZES[-1] and ("fit", streamed, d) not in known
        if not (any(todo.values()) or long):
            continue
        rates = fresh(measured_rates, d, rounds)
        rows = [
            row(kind="rate", stage=name, n=costs.ROWS, d=d, measured=float(f"{r:.4g}")) for name, r in rates.items()
        ]
        merge(output, rows)
        for n, stages in todo.items():
            if stages:
                keep(output, fresh(points_of_features, n, d, rates, stages))
        if long:
            keep(output, fresh(points_streamed, STREAMED, d, rates))
    for stage in ("open", "features"):
        sizes = [n for n in SIZES if n <= IMAGES[stage] and lacks(stage, n, 0)]
        if sizes:
            keep(output, fresh(points_of_images, sets(), stage, sizes))
    if lacks("sampling", IMAGES["sampling"], 0):
        keep(output, fresh(points_of_sampling, IMAGES["sampling"]))
    if output == TABLE:
        cost_tables.write(present(output))
    print(cost_tables.summary(present(output)), flush=True)


def keep(output: Path, points: Sequence[Point]) -> None:
    """Writes points into the table, and says them."""
    merge(output, [point.row() for point in points])
    for point in points:
        print({name: value for name, value in point.row().items() if value and name in COLUMNS[1:9]}, flush=True)


def present(output: Path) -> list[dict[str, str]]:
    """The rows of a table, none where there is no table."""
    return tables.read(output, COLUMNS) if output.is_file() else []


def merge(output: Path, rows: Sequence[dict[str, str]]) -> None:
    """Puts rows into a table, in place of those of the same kind, stage, number and width."""

    def identity(row: Mapping[str, str]) -> tuple[Any, ...]:
        return row["kind"], row["stage"], int(row["d"]), int(row["n"])

    tables.merge(output, COLUMNS, rows, identity=identity, order=identity)
