"""Measures what a GPU makes of this project, beside its peers, in one command of at most nine minutes.

python -m scripts.bench_gpu                       # into leaderboards/benchmark_gpu.csv
python -m scripts.bench_gpu --seconds 300         # less time: what does not fit is left out, and said
python -m scripts.bench_gpu --quick --device cpu  # small sizes, to see that it runs; writes only with --output

    features    images a second through the Inception network of FID, random weights in the published format: genbench
                as it is used (8-bit images in memory to features in memory), torch-fidelity and pytorch-fid
    manifold    precision and recall with their error bars, and without, of N x 2048 against as many
    frechet     the same distance with eigenvalues by LAPACK and by the GPU, and features of N x 2048 to a distance
    sampling    DDPM's network of CIFAR-10 and ADM's of ImageNet 64, by the tools of `scripts.bench_sampling`: diffusers
                as it comes, genbench in float32 and bfloat16, compiled or not
    limit       the largest product of bfloat16 matrices that this device reaches, and the share of it that ADM-64
                reaches, by the floating-point operations that torch counts in a forward pass

A row is one tool in one task: `rate` in the unit of `unit`, `speed` the rate divided by that of the first row. A peer
that is not installed, and a task for which no time is left, is a row with a reason in `note`. The best of several calls
counts, after one that does not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genbench import tables
from genbench.display import columns
from scripts import bench_metrics, bench_sampling, benchmarking
from scripts.benchmarking import as_text, quiet

if TYPE_CHECKING:
    import torch

TABLE = benchmarking.LEADERBOARDS / "benchmark_gpu.csv"
COLUMNS = ("task", "tool", "rate", "unit", "speed", "size", "note", "device", "date", "torch")
SECONDS = 520.0

"""Time for everything, below the promised nine minutes, because what is running when they end runs on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything.

    Attributes:
        images: of one call of the Inception network by the peers; genbench has calls of its own size.
        points, width: of features a side.
        sampled: images, steps a batch of DDPM's network and of ADM's.
        square: side of the matrices of the limit.
    """

    images: int = 4096
    batch: int = 256
    points: int = 50_000
    width: int = 2048
    sampled: tuple[tuple[int, int], tuple[int, int]] = ((512, 20), (128, 10))
    square: int = 8192


QUICK = Sizes(images=8, batch=4, points=600, width=32, sampled=((2, 2), (1, 2)), square=256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What one tool did: `count` units in `seconds`, or why it did nothing."""

    tool: str
    count: float = 0.0
    seconds: float | None = None
    note: str = ""


Task = Callable[[str, Sizes], Iterator[Rate]]


def seconds_of(run: Callable[[], Any], device: str, calls: int = 3) -> float:
    """Seconds of the fastest of so many calls, after one that does not count."""
    run()
    return min(bench_sampling.timed(run, device) for _ in range(calls))


def rate(tool: str, prepare: Callable[[], Callable[[], Any]], count: float, device: str, calls: int = 3) -> Rate:
    """The rate of a tool, or why there is none. `prepare` makes what is timed."""
    try:
        with quiet():
            return Rate(tool=tool, count=count, seconds=seconds_of(prepare(), device, calls))
    except Exception as error:  # a peer that is not here, or too little memory, is a row and not the end
        return Rate(tool=tool, note=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def features(device: str, sizes: Sizes) -> Iterator[Rate]:
    """8-bit images of 32 pixels to pooled features, all in memory of the host."""
    import torch

    from genbench.arrays import Samples
    from genbench.features import image_blocks
    from scripts.random_weights import inception, structured_images

    folder = tempfile.TemporaryDirectory()
    weights = inception(Path(folder.name) / "inception.pth")
    images = structured_images(sizes.images, 32, 32)
    batches = [torch.from_numpy(images[i : i + sizes.batch]) for i in range(0, len(images), sizes.batch)]

    def ours() -> Callable[[], Any]:
        from genbench.extractors import inception as network

        extractor, samples = network.load(device=device, weights=weights), Samples.of(images)
        return lambda: list(image_blocks(samples, extractor, ["pooled"], device=device))

    def torch_fidelity() -> Callable[[], Any]:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        network = FeatureExtractorInceptionV3("i", ["2048"], feature_extractor_weights_path=str(weights)).to(device)
        return lambda: [network(batch.to(device))[0].cpu() for batch in batches]

    def pytorch_fid() -> Callable[[], Any]:
        network = bench_metrics.pytorch_fid_network(weights).to(device)

        @torch.inference_mode()
        def run() -> list[torch.Tensor]:
            return [network(batch.to(device).float() / 255)[0].cpu() for batch in batches]

        return run

    yield rate("genbench", ours, len(images), device)
    yield rate("torch-fidelity", torch_fidelity, len(images), device)
    yield rate("pytorch-fid", pytorch_fid, len(images), device)
    folder.cleanup()


def manifold(device: str, sizes: Sizes) -> Iterator[Rate]:
    """Precision and recall of as many points on either side; the rate is pairs of points."""
    from genbench.metrics.manifold import memberships

    sides = [bench_metrics.rectified(seed, sizes.points, sizes.width, 0.3 * (2 - seed)) for seed in (1, 2)]

    def ours(jackknife: bool) -> Callable[[], Any]:
        def run() -> Any:
            x, y = (bench_metrics.evidence(side).features() for side in sides)
            return memberships(x, y, k=3, jackknife=jackknife, device=device)

        return run

    def torch_fidelity() -> Callable[[], Any]:
        import torch
        from torch_fidelity.metric_prc import prc_features_to_metric

        x, y = (torch.from_numpy(side).to(device) for side in sides)
        return lambda: prc_features_to_metric(x, y, prc_neighborhood=3, verbose=False)

    pairs = float(sizes.points) ** 2
    yield rate("genbench", partial(ours, True), pairs, device, 1)
    yield rate("genbench, no error bars", partial(ours, False), pairs, device, 1)
    yield rate("torch-fidelity", torch_fidelity, pairs, device, 1)


def frechet(device: str, sizes: Sizes) -> Iterator[Rate]:
    """The Frechet distance of two sets of moments, and what its eigenvalues cost by LAPACK and by the device."""
    import torch

    from genbench.arrays import Moments
    from genbench.gaussians import frechet_distance

    sides = [
        Moments.of(bench_metrics.power_law(seed, min(sizes.points, 4 * sizes.width), sizes.width)) for seed in (1, 2)
    ]
    matrix = torch.from_numpy(sides[0].covariance @ sides[1].covariance)
    matrix = matrix + matrix.T
    yield rate("genbench", lambda: partial(frechet_distance, generated=sides[0], reference=sides[1]), 1, device)
    yield rate("eigenvalues by LAPACK", lambda: lambda: torch.linalg.eigvalsh(matrix), 1, device)
    yield rate("eigenvalues by the device", lambda: lambda: torch.linalg.eigvalsh(matrix.to(device)).cpu(), 1, device)


def sampling(device: str, sizes: Sizes, number: int) -> Iterator[Rate]:
    """Images a second of a network of diffusers with random weights."""
    name = ("ddpm-cifar10 ddim", "adm-imagenet64 ddim")[number]
    images, steps = sizes.sampled[number]
    task = bench_sampling.TASKS[name]
    setting = bench_sampling.Setting(
        images=images, steps=steps, device=device, threads=os.cpu_count() or 1, compiled=device.startswith("cuda")
    )
    with quiet():
        try:
            every = bench_sampling.tools(task, setting)
        except Exception as error:
            yield Rate(tool=bench_sampling.BASE, note=f"{type(error).__name__}: {error}")
            return
    for tool, made in every.items():
        yield rate(tool, partial(getattr, made, "run"), images, device, 2)


def limit(device: str, sizes: Sizes) -> Iterator[Rate]:
    """Floating-point operations a second: of a product of matrices, and of ADM-64 as it samples."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    n = sizes.square
    x = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    yield rate("a product of matrices", lambda: lambda: x @ x, 2 * float(n) ** 3, device, 10)

    images = sizes.sampled[1][0]
    task = bench_sampling.TASKS["adm-imagenet64 ddim"]

    def forward(compiled: bool) -> tuple[Callable[[], Any], float]:
        _, network = bench_sampling.networks(task)
        setting = bench_sampling.Setting(
            images=images, steps=1, device=device, threads=os.cpu_count() or 1, compiled=compiled
        )
        ready = bench_sampling.ready(network, setting, "bfloat16")
        given = bench_sampling.conditions(task, setting, ("y", "context"))
        state = torch.randn(bench_sampling.state_shape(task, setting), device=device, dtype=torch.bfloat16)
        state, t = state.contiguous(memory_format=torch.channels_last), torch.full((images,), 500.0, device=device)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            ready(state, t, **given)
        if compiled:
            ready = torch.compile(ready, mode="reduce-overhead", dynamic=False)  # type: ignore[assignment]
        call = torch.inference_mode()(lambda: ready(state, t, **given))
        return call, float(counter.get_total_flops())

    for name, compiled in (("ADM-64", False), ("ADM-64, compiled", True)):
        if compiled and not device.startswith("cuda"):
            continue
        try:
            call, operations = forward(compiled)
            yield rate(name, partial(_same, call), operations, device)
        except Exception as error:
            yield Rate(tool=name, note=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def _same(call: Callable[[], Any]) -> Callable[[], Any]:
    return call


TASKS: dict[str, tuple[str, Task]] = {
    "features": ("images/s", features),
    "manifold": ("pairs/s", manifold),
    "frechet": ("calls/s", frechet),
    "sampling ddpm-cifar10": ("images/s", partial(sampling, number=0)),
    "sampling adm-imagenet64": ("images/s", partial(sampling, number=1)),
    "limit": ("FLOP/s", limit),
}


def rows(name: str, unit: str, found: list[Rate], size: str, device: str) -> list[dict[str, str]]:
    """The rows of a task, as texts."""
    import torch

    rates = [one.count / one.seconds if one.seconds else None for one in found]
    base = rates[0] if rates else None
    return [
        {
            "task": name,
            "tool": one.tool,
            "rate": as_text(value),
            "unit": unit,
            "speed": as_text(value / base if value and base else None, ".3g"),
            "size": size,
            "note": one.note,
            "device": bench_sampling.device_name(device),
            "date": benchmarking.today(),
            "torch": torch.__version__,
        }
        for one, value in zip(found, rates, strict=True)
    ]


def size_of(name: str, sizes: Sizes) -> str:
    """How much of a task, for people."""
    if name.startswith("sampling"):
        images, steps = sizes.sampled["adm" in name]
        return f"{images} images, {steps} steps"
    return {
        "features": f"{sizes.images} images of 32 px",
        "manifold": f"{sizes.points} x {sizes.points} x {sizes.width}",
        "frechet": f"{sizes.width} features",
        "limit": f"{sizes.square} x {sizes.square}; {sizes.sampled[1][0]} images",
    }[name]


def measured(
    device: str, sizes: Sizes, seconds: float, only: list[str] | None = None
) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The rows of every task, as long as there is time for another tool."""
    stop = time.monotonic() + seconds
    for name, (unit, task) in TASKS.items():
        if only and not any(name.startswith(part) for part in only):
            continue
        found: list[Rate] = []
        if time.monotonic() < stop:
            for one in task(device, sizes):
                found.append(one)
                if time.monotonic() > stop:
                    found.append(Rate(tool="the others", note=f"left out: {seconds:.0f} seconds were over"))
                    break
        else:
            found.append(Rate(tool="all", note=f"left out: {seconds:.0f} seconds were over"))
        yield name, rows(name, unit, found, size_of(name, sizes), device)


def write(path: Path, new: list[dict[str, str]]) -> None:
    """Puts the rows in the place of those of the same task and device."""
    order = list(TASKS)
    tables.merge(
        path,
        COLUMNS,
        new,
        identity=lambda row: (row["task"], row["device"]),
        order=lambda row: (row["device"], order.index(row["task"])),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="tasks, or the beginnings of their names")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which nothing new begins (%(default)s)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:INDEX or cpu (%(default)s)")
    parser.add_argument("--output", type=Path, help=f"table to write (leaderboards/{TABLE.name}; none with --quick)")
    args = parser.parse_args()
    output = args.output or (None if args.quick else TABLE)
    for name, table in measured(args.device, QUICK if args.quick else Sizes(), args.seconds, args.only):
        print(f"{name}\n{columns([list(COLUMNS[1:7]), *([row[key] for key in COLUMNS[1:7]] for row in table)])}\n")
        sys.stdout.flush()
        if output is not None:
            write(output, table)


if __name__ == "__main__":
    main()
