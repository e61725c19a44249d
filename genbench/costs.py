"""What the stages of a measurement cost: seconds and bytes, from counts of operations and rates of the machine at hand.

The counts follow from the numbers of images and of features alone. The rates are found by running every stage on `ROWS`
rows of noise a side and on a quarter of them, so that they hold for the threads, the libraries and the device that the
measurement will have. `docs/scale.md` tells how far the predictions are from what was measured at up to 100,000 images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from genbench import registry
from genbench.arrays import Evidence, Features, Samples
from genbench.pieces import WORTH

ROWS = 4096
"""Rows a side that rates are measured on: two tiles of columns, and four of rows."""
BLOCK, TILE, STRIP, KERNEL_TILE = 4096, 1024, 256, 2048
"""Rows of a block of `Features.blocks`, of a tile of distances, of a strip on its diagonal, and of a tile of kernels. A
test counts what is made and holds it against the formulas."""
JACKKNIFE, NEAREST, NEAREST_OF_REFERENCE, TERMS = 20, 10, 6, 24
"""Blocks that are left out; neighbours that are kept of a generated image and of a real one; terms of a root's sum."""
TILES, WALK_TILES, KERNEL_TILES = 30 << 20, 56 << 20, 128 << 20
"""Bytes of a few tiles and of what is made of them: in a search, between two sides, and of kernels. Measured on a CPU
at 10,000 images; fewer take less."""

Rates = Mapping[str, float]
"""By name of `RATES`."""
RATES = {
    "product": "float32 operations a second in products of tiles of features",
    "scatter": "float64 operations a second in sums of outer products",
    "project": "float64 operations a second in projections of rows on eigenvectors",
    "values": "seconds of a factor and of the eigenvalues of one matrix",
    "vectors": "seconds of the eigenvalues and eigenvectors of one matrix",
    "nearest": "seconds a pair beside the product, to keep the nearest",
    "nearest-row": "seconds a point, to keep the nearest",
    "member": "seconds a pair beside the product, to compare it with radii on both sides",
    "member-row": "seconds an image for the same",
    "occupy": "seconds a pair beside the product, to count it in balls of the reference",
    "occupy-row": "seconds an image for the same",
    "kernel": "seconds a pair beside the product, to sum a kernel",
    "kernel-row": "seconds an image for the same",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What is compared: numbers of generated and real images, features an image, and processes that share the work."""

    generated: int
    reference: int
    width: int
    processes: int = 1

    def swapped(self) -> Sizes:
        """The same with the sides exchanged."""
        return Sizes(generated=self.reference, reference=self.generated, width=self.width, processes=self.processes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One piece of work.

    Attributes:
        summary: what is done.
        rates: names of the rates that its seconds depend on.
        seconds: of the process that works longest.
        memory: bytes at the peak, beside the features themselves, the interpreter and its libraries.
    """

    summary: str
    rates: tuple[str, ...]
    seconds: Callable[[Sizes, Rates], float]
    memory: Callable[[Sizes], float]


def pairs_above(n: int, size: int) -> int:
    """Pairs of n points on and above a diagonal of squares of `size`, the squares whole."""
    whole, rest = divmod(n, size)
    return size * whole * n - size**2 * whole * (whole - 1) // 2 + rest**2


def pairs_of_search(n: int) -> int:
    """Pairs whose distances a search among n points makes."""
    return pairs_above(n, STRIP)


def pairs_of_kernel(sizes: Sizes) -> int:
    """Pairs whose kernels are made: within both sets, and across."""
    n, m = sizes.generated, sizes.reference
    return pairs_above(n, KERNEL_TILE) + pairs_above(m, KERNEL_TILE) + n * m


def share(rows: int, tile: int, processes: int) -> float:
    """The part of strips of `tile` rows that falls to the process with most of them."""
    strips = math.ceil(rows / tile)
    return math.ceil(strips / processes) / strips


def _share_of_blocks(sizes: Sizes) -> float:
    """The part of the blocks of one side that falls to the process with most of them; few are not worth a message."""
    n = sizes.generated
    return share(n, BLOCK, sizes.processes) if n * sizes.width**2 >= WORTH else 1.0


def _fit(sizes: Sizes, rates: Rates) -> float:
    return sizes.generated * sizes.width**2 / rates["scatter"] * _share_of_blocks(sizes)


def _operations_of_projection(d: int) -> float:
    """Of one row on d eigenvectors, and of its squares with the terms of two sums."""
    return 2 * d**2 + 4 * TERMS * d


def _left_out(sizes: Sizes, rates: Rates) -> float:
    projected = sizes.generated * _operations_of_projection(sizes.width) / rates["project"]
    return rates["vectors"] + projected * _share_of_blocks(sizes)


def _search(sizes: Sizes, rates: Rates) -> float:
    n, product = sizes.generated, 2 * sizes.width / rates["product"]
    # Every pair is made once and looked at from both of its ends.
    whole = pairs_of_search(n) * product + n**2 * rates["nearest"] + n * rates["nearest-row"]
    return whole * share(n, TILE, sizes.processes)


def _pairs(sizes: Sizes, rates: Rates, rate: str, pairs: float) -> float:
    rows = sizes.generated + sizes.reference
    return pairs * (2 * sizes.width / rates["product"] + rates[rate]) + rows * rates[f"{rate}-row"]


def _walk(sizes: Sizes, rates: Rates, rate: str) -> float:
    whole = _pairs(sizes, rates, rate, sizes.generated * sizes.reference)
    return whole * share(sizes.reference, TILE, sizes.processes)


def _kernel(sizes: Sizes, rates: Rates) -> float:
    whole = _pairs(sizes, rates, "kernel", pairs_of_kernel(sizes))
    return whole * share(sizes.generated + sizes.reference, KERNEL_TILE, sizes.processes)


def _memory_of_fit(sizes: Sizes) -> float:
    # A block in float32, in float64 and centred; the scatter so far, that of the block, their sum, and a correction.
    return min(BLOCK, sizes.generated) * sizes.width * 20 + 4 * 8 * sizes.width**2


def _memory_of_points(sizes: Sizes) -> float:
    # A copy of each side, and the squares of the last one while they are summed.
    n, m, d = sizes.generated, sizes.reference, sizes.width
    return 4 * (n + m) * d + 4 * m * d


def _memory_of_members(sizes: Sizes) -> float:
    n, m, d = sizes.generated, sizes.reference, sizes.width
    kept = 12 * (NEAREST * n + NEAREST_OF_REFERENCE * m) + 4 * JACKKNIFE * n + 3 * JACKKNIFE * m
    return max(_memory_of_points(sizes), 4 * (n + m) * d + kept + WALK_TILES)


STAGES: dict[str, Stage] = {
    "fit": Stage(
        summary="mean and covariance of one side",
        rates=("scatter",),
        seconds=_fit,
        memory=_memory_of_fit,
    ),
    "distance": Stage(
        summary="the Frechet distance of two fits",
        rates=("values",),
        seconds=lambda sizes, rates: rates["values"],
        memory=lambda sizes: 6 * 8 * sizes.width**2,
    ),
    "left-out": Stage(
        summary="Frechet distances without each image, for the error",
        rates=("vectors", "project"),
        seconds=_left_out,
        memory=lambda sizes: 9 * 8 * sizes.width**2 + 4 * 8 * min(BLOCK, sizes.generated) * sizes.width,
    ),
    "search": Stage(
        summary="nearest neighbours within one side",
        rates=("product", "nearest", "nearest-row"),
        seconds=_search,
        memory=lambda sizes: 8 * sizes.generated * sizes.width + 12 * NEAREST * sizes.generated + TILES,
    ),
    "members": Stage(
        summary="precision and recall, once neighbours are known",
        rates=("product", "member", "member-row"),
        seconds=partial(_walk, rate="member"),
        memory=_memory_of_members,
    ),
    "occupancy": Stage(
        summary="density and coverage, once neighbours are known",
        rates=("product", "occupy", "occupy-row"),
        seconds=partial(_walk, rate="occupy"),
        memory=_memory_of_members,
    ),
    "kernel": Stage(
        summary="kernel distance of all pairs",
        rates=("product", "kernel", "kernel-row"),
        seconds=_kernel,
        memory=lambda sizes: 8 * sizes.generated * sizes.width + 4 * sizes.reference * sizes.width + KERNEL_TILES,
    ),
}

_FRECHET = (("fit", "generated"), ("fit", "reference"), ("distance", "both"), ("left-out", "both"))
_OF_REFERENCE = (("search", "reference"),)
METRICS: dict[str, tuple[tuple[str, str], ...]] = {
    "fid": _FRECHET,
    "sfid": _FRECHET,
    "fd": _FRECHET,
    "fid-inf": _FRECHET,
    "kid": (("kernel", "both"),),
    "cmmd": (("kernel", "both"),),
    "precision": (("search", "generated"), ("search", "reference"), ("members", "both")),
    "recall": (("search", "generated"), ("search", "reference"), ("members", "both")),
    "density": (("search", "reference"), ("occupancy", "both")),
    "coverage": (("search", "reference"), ("occupancy", "both")),
}
"""The stages of a metric and the side that each works on. Metrics on the same features share what they have in common.
Metrics that are not here are not predicted."""


def stages_of(metrics: Iterable[str]) -> list[tuple[str, str]]:
    """The stages of some metrics on the same features, each once, with the side that it works on."""
    return list(dict.fromkeys(stage for metric in metrics for stage in METRICS.get(metric, ())))


def seconds_of(stage: str, side: str, sizes: Sizes, rates: Rates) -> float:
    """Seconds of a stage of one side, "generated" or "reference", or of "both"."""
    return STAGES[stage].seconds(sizes.swapped() if side == "reference" else sizes, rates)


def memory_of(stage: str, side: str, sizes: Sizes) -> float:
    """Bytes of a stage at its peak. Arguments as `seconds_of`."""
    return STAGES[stage].memory(sizes.swapped() if side == "reference" else sizes)


def stored_bytes(sizes: Sizes, shape: tuple[int, int, int] | None = None) -> int:
    """Bytes on disk: features of both sides, and generated images of a shape with a digest of 64 characters each."""
    of_images = 0 if shape is None else sizes.generated * (math.prod(shape) + 64)
    return 4 * (sizes.generated + sizes.reference) * sizes.width + of_images


def noise(rows: int, width: int, seed: int) -> Features:
    """Independent Gaussian features in memory."""
    values = np.random.default_rng(seed).standard_normal((rows, width), dtype=np.float32)
    return Features(extractor="noise", tap="pooled", array=values)


def evidence(features: Features) -> Evidence:
    """What a metric sees of features whose images are all the same pixel."""
    images = Samples.of(np.zeros((len(features), 3, 1, 1), np.uint8))
    return Evidence(samples=images, taps={"pooled": features, "embedding": features})


def run_metric(name: str, generated: Features, reference: Features, **args: Any) -> None:
    """Computes a metric of features for the time that it takes."""
    registry.get("metric", name).compute(generated=evidence(generated), reference=evidence(reference), **args)


def seconds_taken(work: Callable[[], object], *, clock: Callable[[], float], rounds: int) -> float:
    """Seconds of the fastest of some calls: what disturbs a call makes it slower, never faster."""
    taken = []
    for _ in range(rounds):
        started = clock()
        work()
        taken.append(clock() - started)
    return min(taken)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """How rates are measured: of what width, on how many rows, where, by which clock, as the best of how many calls."""

    width: int
    rows: int
    device: str
    clock: Callable[[], float]
    rounds: int

    def taken(self, work: Callable[[], object], *, often: int = 1) -> float:
        return seconds_taken(work, clock=self.clock, rounds=self.rounds * often)

    def sides(self) -> list[tuple[Features, Features]]:
        """Two sides of a quarter of the rows, and two of all."""
        return [(noise(n, self.width, 0), noise(n, self.width, 1)) for n in (self.rows // 4, self.rows)]


def measure_rates(
    width: int,
    stages: Iterable[str],
    *,
    rows: int = ROWS,
    rounds: int = 3,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Runs stages on noise, and returns the rates that they need.

    Args:
        width: features an image. A rate holds for this width.
        stages: names of `STAGES`.
        rows: images a side, a multiple of 4.
        rounds: calls of which the fastest one counts.
        device: of torch, for pairs of images.
        clock: gives seconds; `time.process_time` on one thread is hardly disturbed by other processes.
    """
    trial = _Trial(width=width, rows=rows, device=device, clock=clock, rounds=rounds)
    wanted = {name for stage in stages for name in STAGES[stage].rates}
    found: dict[str, float] = {}
    if "product" in wanted:
        found["product"] = 2 * TILE * 2 * TILE * width / trial.taken(_product(width, device), often=4)
    product = 2 * width / found.get("product", math.inf)
    found |= _rates_of_gaussians(trial, wanted)
    if "nearest" in wanted:
        found |= _rates_of_search(trial, product)
    for name, (metric, rate) in _BY_METRIC.items():
        if rate in wanted:
            found |= _rates_of_pairs(trial, name, metric, rate, product)
    return {name: found[name] for name in RATES if name in wanted}


_BY_METRIC = {"members": ("precision", "member"), "occupancy": ("density", "occupy"), "kernel": ("kid", "kernel")}
"""The metric that a stage is measured by, and its rate."""


def _product(width: int, device: str) -> Callable[[], object]:
    import torch

    from genbench.arithmetic import float32

    a, b = (torch.from_numpy(noise(n, width, 0).values()).to(device) for n in (TILE, 2 * TILE))
    added = torch.zeros((1, 2 * TILE), device=device)

    def work() -> object:
        with float32():
            return torch.addmm(added, a, b.T, alpha=-2)[0, 0].item()  # which waits for the device

    return work


def _rates_of_gaussians(trial: _Trial, wanted: set[str]) -> dict[str, float]:
    from genbench import gaussians

    d, found = trial.width, {}
    rows = max(trial.rows, d + 1)  # so that covariances are regular
    x, y = noise(rows, d, 0), noise(rows, d, 1)
    if "scatter" in wanted:
        found["scatter"] = rows * d**2 / trial.taken(lambda: gaussians.moments_of(x))
    if not wanted & {"values", "vectors", "project"}:
        return found
    fit, target = gaussians.moments_of(x), gaussians.moments_of(y)
    thin = gaussians.factored(target)

    def leave_out(features: Features) -> object:
        return gaussians.distances_without_each_image(features, generated=fit, reference=thin)

    if "values" in wanted:
        found["values"] = trial.taken(
            lambda: gaussians.frechet_distance(generated=fit, reference=gaussians.factored(target))
        )
    if wanted & {"vectors", "project"}:
        few = Features(extractor=x.extractor, tap=x.tap, array=x.values()[:8])
        found["vectors"] = trial.taken(lambda: leave_out(few))
        rest = max(trial.taken(lambda: leave_out(x)) - found["vectors"], 1e-9)
        found["project"] = rows * _operations_of_projection(d) / rest
    return found


def _rates_of_search(trial: _Trial, product: float) -> dict[str, float]:
    from genbench import neighbours
    from genbench.arithmetic import float32

    taken = []
    for x, y in trial.sides():
        pair = neighbours.pair_of(x.values(), y.values(), k=3, arithmetic="float32", device=trial.device)

        def search(points: neighbours.Points = pair.generated) -> object:
            with float32():
                return neighbours.nearest_neighbours(points, NEAREST).squared[0, 0].item()

        n = len(x)
        taken.append((n**2, n, trial.taken(search, often=trial.rows // n) - pairs_of_search(n) * product))
    return _two_rates("nearest", taken)


def _rates_of_pairs(trial: _Trial, stage: str, metric: str, rate: str, product: float) -> dict[str, float]:
    taken = []
    for x, y in trial.sides():
        # Neighbours are remembered for every usual k, and what is made of them for one k only.
        arguments: list[dict[str, int]] = [{}] * (trial.rounds * trial.rows // len(x))
        if stage != "kernel":
            run_metric(metric, x, y, k=1, device=trial.device)
            arguments = [{"k": k} for k in (2, 3, 4, 5)[: len(arguments)]]
        each = iter(arguments)
        best = seconds_taken(
            partial(_next_metric, metric, x, y, each, trial.device), clock=trial.clock, rounds=len(arguments)
        )
        sizes = Sizes(generated=len(x), reference=len(y), width=trial.width)
        pairs = pairs_of_kernel(sizes) if stage == "kernel" else float(len(x) * len(y))
        taken.append((pairs, len(x) + len(y), best - pairs * product))
    return _two_rates(rate, taken)


def _next_metric(metric: str, x: Features, y: Features, arguments: Iterator[dict[str, int]], device: str) -> None:
    run_metric(metric, x, y, device=device, **next(arguments))


def _two_rates(name: str, taken: Sequence[tuple[float, float, float]]) -> dict[str, float]:
    """Seconds a pair and a row from two sizes, each of pairs, rows and seconds. Neither is negative."""
    (few_pairs, few_rows, little), (pairs, rows, much) = taken
    a = (much / rows - little / few_rows) / (pairs / rows - few_pairs / few_rows)
    a = min(max(a, 0.0), max(much, 0.0) / pairs)
    return {name: a, f"{name}-row": max(much - a * pairs, 0.0) / rows}
