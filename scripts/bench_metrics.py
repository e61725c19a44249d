"""Measures speed and memory side by side with torch-fidelity, pytorch-fid, clean-fid and torchmetrics, on the CPU.

python -m scripts.bench_metrics                      # everything, into leaderboards/benchmark_metrics.csv
python -m scripts.bench_metrics --only frechet kid   # some tasks; rows of the others are kept
python -m scripts.bench_metrics --quick              # small sizes, to see that it runs; writes only with --output

Every tool gets the same inputs and, where there is a network, the same random weights in the public file format. Tools
take turns in one process, A B A B, and a ratio is the median over rounds of a tool's seconds by those of genbench in
the same round; above 1 genbench is faster. genbench is measured as it is used, with its error bars; rows with a remark
after its name leave something out. Whether the values agree is in the same row, as the largest relative difference
from genbench's, and a disagreement makes the exit status 1. Nothing is asserted about time.

Extra memory is the largest resident size during one call in a process of its own, less the size before it, by which the
inputs and the libraries are there; of the main process only. Linux tells it; elsewhere the column is empty. Run it on a
machine that does nothing else.
"""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genbench import tables
from genbench.display import columns
from scripts import benchmarking
from scripts.benchmarking import as_text, fresh, processor, quiet, resident, restart_peak

TABLE = benchmarking.LEADERBOARDS / "benchmark_metrics.csv"
COLUMNS = (
    "task",
    "tool",
    "seconds",
    "ratio",
    "difference",
    "extra_mib",
    "size",
    "threads",
    "device",
    "date",
    "versions",
)
LIBRARIES = ("torch", "numpy", "scipy")

Array = NDArray[np.float64]
Tools = Mapping[str, Callable[[], Array]]
"""Name of a tool to what is measured. It gives (rows, width); rows are compared, by the length of their difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything.

    Attributes:
        images, width: features of the Frechet distance.
        points: on either side of precision and recall; `points_width` features each.
        kid: images on either side of KID; `subsets` of `subset_size`.
        batch: images of one call of the Inception network.
        files, file_subset: images in either folder of the whole evaluation, and in a subset of its KID.
        generated, reference: numbers of images of a generator, and of the reference they are compared with.
    """

    images: int = 10_000
    width: int = 2048
    points: int = 10_000
    points_width: int = 2048
    kid: int = 5000
    subsets: int = 100
    subset_size: int = 1000
    batch: int = 32
    files: int = 2000
    file_subset: int = 1000
    generated: tuple[int, ...] = (1000, 10_000, 100_000)
    reference: int = 10_000


FULL = Sizes()
QUICK = Sizes(
    images=300,
    width=64,
    points=400,
    points_width=64,
    kid=200,
    subsets=5,
    subset_size=50,
    batch=2,
    files=12,
    file_subset=6,
    generated=(100, 3000),
    reference=3000,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One comparison of tools on the same inputs.

    Attributes:
        prepare: makes the inputs and says what each tool does with them; the first tool is genbench.
        size: for people.
        tolerance: of the relative difference of values.
        items: images a call, for the rate; 0 without one.
        alone: whether every call has a process of its own, because it takes long or starts processes itself.
    """

    name: str
    prepare: Callable[[], Tools]
    size: str
    tolerance: float = 1e-3
    items: int = 0
    alone: bool = False


def tasks(sizes: Sizes, folder: Path) -> dict[str, Task]:
    """All of them by name, in the order of the table. `folder` holds what `write_inputs` wrote."""
    made = [
        Task(
            name="frechet",
            prepare=partial(frechet, sizes),
            size=f"moments of {sizes.images} x {sizes.width}",
            tolerance=1e-6,
        ),
        Task(
            name="precision-recall",
            prepare=partial(precision_recall, sizes),
            size=f"{sizes.points} x {sizes.points} x {sizes.points_width}",
        ),
        Task(
            name="kid",
            prepare=partial(kid, sizes),
            size=f"{sizes.kid} x {sizes.kid} x {sizes.points_width}; {sizes.subsets} subsets of {sizes.subset_size}",
        ),
    ]
    for side in (32, 299):
        for resize, prepare in (("tf1", features_tf1), ("bilinear", features_bilinear)):
            made.append(
                Task(
                    name=f"features-{side}-{resize}",
                    prepare=partial(prepare, sizes, folder, side),
                    size=f"{sizes.batch} images of {side} px",
                    tolerance=1e-4,
                    items=sizes.batch,
                )
            )
    made.append(
        Task(
            name="evaluation",
            prepare=partial(evaluation, sizes, folder),
            size=f"{sizes.files} + {sizes.files} PNG of 32 px",
            items=2 * sizes.files,
            alone=True,
        )
    )
    made += [
        Task(
            name=f"memory-{count}",
            prepare=partial(memory, sizes, count),
            size=f"FID of {count} against {sizes.reference} x {sizes.width}",
            items=count + sizes.reference,
            alone=True,
        )
        for count in sizes.generated
    ]
    return {task.name: task for task in made}


# What each tool does


def power_law(seed: int, count: int, width: int) -> Array:
    """Features (count, width) of a covariance with eigenvalues 1/i in random directions."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(99).standard_normal((width, width)))[0]
    scale = np.arange(1, width + 1) ** -0.5 * (1 + 0.1 * seed)
    return (rng.standard_normal((count, width)) * scale) @ turn + 0.02 * seed


def rectified(seed: int, count: int, width: int, shift: float = 0.0) -> NDArray[np.float32]:
    """Features that are not negative and near few dimensions, as pooled ones are: neither manifold holds the other."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((24, width)) * np.arange(1, 25)[:, None] ** -0.5
    return np.maximum((rng.standard_normal((count, 24)) + shift) @ mix + 0.3, 0).astype(np.float32)


def numbers(*values: float) -> Array:
    """Values that are compared each by itself."""
    return np.array(values, dtype=np.float64)[:, None]


def frechet(sizes: Sizes) -> Tools:
    import torch
    from cleanfid.fid import frechet_distance as clean_fid
    from pytorch_fid.fid_score import calculate_frechet_distance as pytorch_fid
    from torch_fidelity.metric_fid import fid_statistics_to_metric as torch_fidelity
    from torchmetrics.image.fid import _compute_fid as torchmetrics

    from genbench.arrays import Moments
    from genbench.gaussians import frechet_distance

    x, y = (Moments.of(power_law(seed, sizes.images, sizes.width)) for seed in (1, 2))
    given = x.mean, x.covariance, y.mean, y.covariance
    tensors = [torch.from_numpy(values) for values in given]
    sides = [{"mu": mean, "sigma": covariance} for mean, covariance in (given[:2], given[2:])]
    return {
        "genbench": lambda: numbers(frechet_distance(generated=x, reference=y).value),
        "torch-fidelity": lambda: numbers(torch_fidelity(*sides, verbose=False)["frechet_inception_distance"]),
        "pytorch-fid": lambda: numbers(pytorch_fid(*given)),
        "clean-fid": lambda: numbers(clean_fid(*given)),
        "torchmetrics": lambda: numbers(float(torchmetrics(*tensors))),
    }


def evidence(values: NDArray[np.float32]) -> Any:
    """Features as metrics take them, as a new array object: what is remembered of the last call is then not used."""
    from genbench.arrays import Evidence, Features, Samples

    samples = Samples.of(np.zeros((len(values), 1, 1, 1), np.uint8))
    return Evidence(samples=samples, taps={"pooled": Features(extractor="given", tap="pooled", array=values.view())})


def precision_recall(sizes: Sizes) -> Tools:
    import torch
    from torch_fidelity.metric_prc import prc_features_to_metric

    from genbench.metrics.manifold import PRECISION, RECALL, memberships

    x, y = rectified(1, sizes.points, sizes.points_width, 0.3), rectified(2, sizes.points, sizes.points_width)

    def ours() -> Array:
        sides = {"generated": evidence(x), "reference": evidence(y)}
        return numbers(PRECISION.compute(**sides, k=3).value, RECALL.compute(**sides, k=3).value)

    def values_only() -> Array:
        found = memberships(evidence(x).features(), evidence(y).features(), k=3, jackknife=False)
        return numbers(found.inside.mean(), found.covered.mean())

    def theirs(save: bool) -> Array:
        found = prc_features_to_metric(
            torch.from_numpy(x), torch.from_numpy(y), prc_neighborhood=3, save_cpu_ram=save, verbose=False
        )
        return numbers(found["precision"], found["recall"])

    return {
        "genbench": ours,
        "genbench, no error bars": values_only,
        "torch-fidelity": partial(theirs, False),
        "torch-fidelity, save_cpu_ram": partial(theirs, True),
    }


def kid(sizes: Sizes) -> Tools:
    import torch
    from torch_fidelity.metric_kid import kid_features_to_metric

    from genbench.metrics.kernel import KID, subset_discrepancies

    x, y = rectified(1, sizes.kid, sizes.points_width, 0.1), rectified(2, sizes.kid, sizes.points_width)
    subsets: dict[str, Any] = {"subsets": sizes.subsets, "subset_size": sizes.subset_size, "seed": 2020}

    def theirs() -> Array:
        found = kid_features_to_metric(
            torch.from_numpy(x),
            torch.from_numpy(y),
            kid_subsets=sizes.subsets,
            kid_subset_size=sizes.subset_size,
            rng_seed=2020,
            verbose=False,
        )
        return numbers(found["kernel_inception_distance_mean"])

    return {
        "genbench": lambda: numbers(KID.compute(generated=evidence(x), reference=evidence(y), **subsets).value),
        "genbench, no error bars": lambda: numbers(subset_discrepancies(x, y, **subsets).mean()),
        "torch-fidelity": theirs,
    }


def write_inputs(folder: Path, sizes: Sizes) -> None:
    """Weights of the Inception network, and two folders of PNG files."""
    from PIL import Image

    from genbench.datasets import shapes
    from scripts.corruptions import gaussian_noise
    from scripts.random_weights import inception

    inception(folder / "inception.pth")
    clean = shapes.load("train").read(0, sizes.files)
    for name, images in (("reference", clean), ("generated", gaussian_noise(clean[::-1], 12.0, 0))):
        (folder / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image.transpose(1, 2, 0)).save(folder / name / f"{i:05d}.png")


def features_tf1(sizes: Sizes, folder: Path, side: int) -> Tools:
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    from genbench.extractors import inception
    from scripts.random_weights import structured_images

    images, weights = torch.from_numpy(structured_images(sizes.batch, side, side, seed=1)), folder / "inception.pth"
    ours = inception.load(weights=weights)
    theirs = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights))
    return {
        "genbench": lambda: ours.embed(images, ["pooled"])["pooled"].numpy(),
        "torch-fidelity": lambda: theirs(images)[0].numpy(),
    }


def pytorch_fid_network(weights: Path) -> Any:
    """The network of pytorch-fid with the weights of a file. It takes no path and would download the public one."""
    import torch
    from pytorch_fid import inception as peer

    loader, peer.load_state_dict_from_url = peer.load_state_dict_from_url, lambda *_, **__: torch.load(weights)
    try:
        return peer.InceptionV3([3]).eval()
    finally:
        peer.load_state_dict_from_url = loader


def features_bilinear(sizes: Sizes, folder: Path, side: int) -> Tools:
    import torch

    from genbench.extractors import inception
    from scripts.random_weights import structured_images

    images, weights = torch.from_numpy(structured_images(sizes.batch, side, side, seed=1)), folder / "inception.pth"
    ours = inception.load(weights=weights, resize="bilinear", scaling="symmetric")
    theirs = pytorch_fid_network(weights)

    def features() -> Array:
        with torch.inference_mode():
            return theirs(images.float() / 255)[0].flatten(1).numpy()

    return {"genbench": lambda: ours.embed(images, ["pooled"])["pooled"].numpy(), "pytorch-fid": features}


@contextlib.contextmanager
def empty_cache() -> Iterator[None]:
    """Gives the code inside a cache of its own, so that nothing extracted before counts."""
    before = os.environ.get("GENBENCH_CACHE")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["GENBENCH_CACHE"] = cache
        try:
            yield
        finally:
            del os.environ["GENBENCH_CACHE"]
            if before is not None:
                os.environ["GENBENCH_CACHE"] = before


def evaluation(sizes: Sizes, folder: Path) -> Tools:
    """FID, inception score of ten parts, KID, precision and recall of one folder against another, from files on."""
    import torch_fidelity

    import genbench

    weights, sides = folder / "inception.pth", (folder / "generated", folder / "reference")
    splits, subset = min(10, sizes.files), sizes.file_subset

    def ours(fid: str) -> Array:
        metrics = (
            fid, f"is(splits={splits}, shuffle=2020)", f"kid(subsets=100, subset_size={subset})", "precision@inception",
            "recall@inception",
        )  # fmt: skip
        with empty_cache():
            results = genbench.score(
                *sides, metrics=metrics, protocol="tf1", device="cpu", weights={"inception": weights}
            )
        return numbers(*(result.score.value for result in results))

    def theirs() -> Array:
        found = torch_fidelity.calculate_metrics(
            input1=str(sides[0]),
            input2=str(sides[1]),
            cuda=False,
            cache=False,
            verbose=False,
            fid=True,
            isc=True,
            kid=True,
            prc=True,
            feature_extractor="inception-v3-compat",
            feature_extractor_weights_path=str(weights),
            isc_splits=splits,
            kid_subset_size=subset,
        )
        names = (
            "frechet_inception_distance", "inception_score_mean", "kernel_inception_distance_mean", "precision",
            "recall",
        )  # fmt: skip
        return numbers(*(found[name] for name in names))

    return {
        "genbench": partial(ours, "fid"),
        "genbench, fid(error='none')": partial(ours, "fid(error='none')"),
        "torch-fidelity": theirs,
    }


def generator(seed: int, count: int) -> Any:
    """Samples that are made when they are read, 16x16; image i depends on (seed, i) alone."""
    from genbench.arrays import Samples

    def read(start: int, stop: int) -> NDArray[np.uint8]:
        drawn = [np.random.default_rng([seed, i]).integers(0, 200 + 50 * seed, (3, 16, 16)) for i in range(start, stop)]
        return np.stack(drawn).astype(np.uint8)

    return Samples(
        count=count, shape=(3, 16, 16), read=read, origin="noise", fingerprint=lambda: f"noise {seed} {count}"
    )


def memory(sizes: Sizes, count: int) -> Tools:
    """FID of a generator's images, of which a few exist at a time: in one go, and in updates of a training loop."""
    import genbench
    from genbench.measuring import Execution
    from genbench.streaming import Evaluator

    metric = f"fid@scripts.random_weights:projection(width={sizes.width})"

    def whole() -> Array:
        with empty_cache():
            sides = generator(0, count), generator(1, sizes.reference)
            (result,) = genbench.score(*sides, metrics=[metric], device="cpu")
        return numbers(result.score.value)

    def in_updates() -> Array:
        how = Execution(device="cpu")
        with empty_cache(), Evaluator(generator(1, sizes.reference), metrics=[metric], execution=how) as evaluator:
            for images in generator(0, count).batches(100):
                evaluator.update(images)
            (result,) = evaluator.compute()
        return numbers(result.score.value)

    return {"genbench": whole, "genbench, in updates": in_updates}


# Measuring


@dataclass(slots=True)
class Measured(benchmarking.Measured):
    """What came of one tool, with the value and the peak memory of its last call."""

    value: Array | None = None


def measure(sizes: Sizes, folder: Path, task: str, chosen: Sequence[str], rounds: int) -> dict[str, Measured]:
    """Runs in a process of its own: calls every tool in turn, so many times.

    Args:
        chosen: names of tools; none for all.
    """
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with quiet():
        tools = tasks(sizes, folder)[task].prepare()
        found = {name: Measured() for name in chosen or tools}
        for _ in range(rounds):
            for name, measured in found.items():
                if measured.failure:
                    continue
                gc.collect()
                before = restart_peak()
                started = time.perf_counter()
                try:
                    measured.value = np.asarray(tools[name](), dtype=np.float64)
                except Exception as error:  # a peer that does not run on these libraries is a row, not the end
                    measured.failure = f"{type(error).__name__}: {error}"
                    continue
                measured.seconds.append(time.perf_counter() - started)
                if before is not None:
                    measured.extra_mib = (resident("VmHWM:") - before) / 1024
    return found


def measured(
    sizes: Sizes, folder: Path, task: Task, rounds: int, say: Callable[[str], None], *, memory: bool = True
) -> dict[str, Measured]:
    """Times of all tools in turn and memory of each alone, in calls of their own unless every call is one already."""
    say(task.name)
    if task.alone:
        names: list[str] = fresh(names_of, sizes, folder, task.name)
        found = {name: Measured() for name in names}
        for number in range(rounds):
            for name in names:
                say(f"{task.name}: {name}, round {number + 1} of {rounds}")
                if not found[name].failure:
                    one: Measured = fresh(measure, sizes, folder, task.name, [name], 1)[name]
                    one.seconds = found[name].seconds + one.seconds
                    found[name] = one
        return found
    found = fresh(measure, sizes, folder, task.name, [], rounds)
    for name, times in found.items():
        if not times.failure and not memory:
            times.extra_mib = None
        elif not times.failure:
            say(f"{task.name}: memory of {name}")
            times.extra_mib = fresh(measure, sizes, folder, task.name, [name], 1)[name].extra_mib
    return found


def names_of(sizes: Sizes, folder: Path, task: str) -> list[str]:
    """The tools of a task."""
    with quiet():
        return list(tasks(sizes, folder)[task].prepare())


# The table


def relative(found: Array | None, expected: Array | None) -> float | None:
    """Largest relative difference of a row."""
    if found is None or expected is None:
        return None
    lengths = np.linalg.norm(expected, axis=1)
    apart = np.linalg.norm(found - expected, axis=1)
    return float(np.max(np.divide(apart, lengths, out=np.where(apart > 0, np.inf, 0.0), where=lengths > 0)))


def rows(task: Task, found: Mapping[str, Measured], threads: int) -> list[dict[str, str]]:
    """One row a tool, as texts; what is not known is empty."""
    base = found["genbench"]
    table = []
    for name, one in found.items():
        known = {
            "seconds": statistics.median(one.seconds) if one.seconds else None,
            "ratio": benchmarking.median_ratio(one, base) if one is not base else None,
            "difference": relative(one.value, base.value) if one is not base else None,
        }
        table.append(
            {
                "task": task.name,
                "tool": name,
                **{key: as_text(value) for key, value in known.items()},
                "extra_mib": as_text(one.extra_mib, ".0f"),
                "size": task.size,
                "threads": str(threads),
                "device": processor(),
                "date": benchmarking.today(),
                "versions": benchmarking.versions(name, LIBRARIES),
            }
        )
    return table


def table_text(task: Task, found: Mapping[str, Measured], table: Sequence[Mapping[str, str]]) -> str:
    """What a person reads, with the rate of images and a word on agreement."""
    header = ("task", "tool", "seconds", "ratio", "images/s", "extra MiB", "difference", "")
    lines = [header]
    for row in table:
        one = found[row["tool"]]
        rate = f"{task.items / float(row['seconds']):.1f}" if task.items and row["seconds"] else ""
        apart = float(row["difference"] or 0)
        remark = one.failure or ("" if apart <= task.tolerance else f"differs by more than {task.tolerance:g}")
        lines.append(
            (task.name, row["tool"], row["seconds"], row["ratio"], rate, row["extra_mib"], row["difference"], remark)
        )
    return columns(lines)


def write(path: Path, new: Sequence[Mapping[str, str]], order: Sequence[str]) -> None:
    """Writes rows in place of those of the same tasks, in the order of the tasks."""
    place = {name: i for i, name in enumerate(order)}
    tables.merge(
        path, COLUMNS, new, identity=lambda row: row["task"], order=lambda row: place.get(row["task"], len(place))
    )


def main() -> None:
    parser = benchmarking.options(__doc__, TABLE, rounds=3, quick="small sizes and one round; writes no table")
    parser.add_argument("--files", type=int, help="images in either folder of the whole evaluation (2000)")
    args = parser.parse_args()
    sizes = QUICK if args.quick else FULL
    if args.files:
        sizes = replace(sizes, files=args.files, file_subset=min(sizes.file_subset, args.files))
    output = args.output or (None if args.quick else TABLE)
    benchmarking.use_threads(args.threads)
    agree = True
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        every = tasks(sizes, folder)
        wanted = benchmarking.chosen(parser, args.only, every)
        if any(name.startswith(("features", "evaluation")) for name in wanted):
            fresh(write_inputs, folder, sizes)

        def say(text: str) -> None:
            print(text, file=sys.stderr, flush=True)

        for task in wanted.values():
            found = measured(
                sizes, folder, task, args.rounds or (1 if args.quick else 3), say, memory=not args.no_memory
            )
            table = rows(task, found, args.threads)
            agree &= not found["genbench"].failure
            agree &= all(float(row["difference"] or 0) <= task.tolerance for row in table)
            print(table_text(task, found, table), flush=True)
            if output is not None:
                write(output, table, list(every))
    raise SystemExit(0 if agree else 1)


if __name__ == "__main__":
    main()
