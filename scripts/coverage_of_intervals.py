"""Measures how often the 95 % intervals of the metrics cover, into `leaderboards/interval_coverage.csv`.

python -m scripts.coverage_of_intervals                                      # Gaussian features
python -m scripts.coverage_of_intervals --images IMAGES.zip --name cifar10   # features of real images by --extractor
python -m scripts.coverage_of_intervals --images IMAGES.zip --name "CIFAR-10 (pixels)" --extractor pixels \\
    --metrics "fid(error='jackknife')" --sizes 500 1000                      # fewer images than features
python -m scripts.coverage_of_intervals --features POOL.npy --logits LOGITS.npy --name NAME

Every replication draws n images in the role of generated ones and scores them against one fixed reference. An interval
covers when it holds the mean of all replications, which is the expectation of the metric at that n; extrapolations to
infinite n are held against the value of the whole law or pool instead. Of real images, draws are without replacement
from a pool, so that their deviation is smaller than that of independent images, by 3 % for 2,000 of 40,000.

Of images there are two pools: all of them ("same law": what a floor is) and those of all but the last two classes.
Rows of other features in the file are kept. 200 replications leave a coverage of 0.95 uncertain by 0.015.
"""

from __future__ import annotations

import argparse
import inspect
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genbench import registry, tables
from genbench.arrays import Evidence, Features, Moments, Samples
from genbench.errors import NotComparable
from genbench.gaussians import Fit, fit_of, frechet_distance
from genbench.records import Ref

TABLE = Path(__file__).resolve().parent.parent / "leaderboards" / "interval_coverage.csv"
COLUMNS = (
    "metric", "method", "features", "n", "d", "replications", "coverage", "mean_stderr_over_sd", "covers", "note",
)  # fmt: skip
NOMINAL = (0.92, 0.98)

METRICS = (
    "fid(error='influence')",
    "fid(error='jackknife')",
    "fid-inf(method='jackknife')",
    "fid-inf(method='line')",
    "mifid",
    "is",
    "is(splits=10)",
    "precision",
    "recall",
    "density",
    "coverage",
    "realism",
    "authpct",
    "kid",
    "vendi",
    "swd",
)
"""What is measured. To add a metric is to add its reference text; it may read the taps "pooled" and "logits"."""

INFINITE = ("fid-inf",)
"""Metrics whose interval is for infinitely many images."""

DISTANCES = ("fid", "fid-inf", "mifid", "kid", "swd")
"""Metrics that are smallest where both laws are the same, so that their first-order term vanishes there."""

Taps = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A law of generated images and a fixed reference.

    Attributes:
        draw: n images of the law, as taps, from a generator.
        infinite: makes the Frechet distance of the law from the reference, which costs a while for a wide pool.
        same: whether the law is that of the reference; metrics without a reference are not measured on it.
    """

    name: str
    draw: Callable[[np.random.Generator, int], Taps]
    reference: Evidence
    infinite: Callable[[], float]
    same: bool


def evidence(taps: Taps) -> Evidence:
    count = len(next(iter(taps.values())))
    samples = Samples.of(np.zeros((count, 1, 1, 1), np.uint8))
    return Evidence(samples=samples, taps={tap: Features(extractor="any", tap=tap, array=v) for tap, v in taps.items()})


def gaussian_settings(d: int, size: int, seed: int) -> Iterator[Setting]:
    """Features with a power-law spectrum of trace 100, and logits of ten classes; another law, and the same."""
    scale = np.arange(1, d + 1) ** -0.5
    scale *= math.sqrt(100 / np.square(scale).sum())
    centres = 4 * np.eye(10)

    def drawing(stretch: float, shift: float) -> Callable[[np.random.Generator, int], Taps]:
        def draw(rng: np.random.Generator, n: int) -> Taps:
            logits = centres[rng.integers(10, size=n)] + 1.5 * rng.normal(size=(n, 10))
            pooled = rng.normal(size=(n, d)) * scale * stretch + shift
            return {"pooled": pooled.astype(np.float32), "logits": logits.astype(np.float32)}

        return draw

    reference = evidence(drawing(1.0, 0.0)(np.random.default_rng([seed, 1]), size))
    for name, stretch, shift in (("gaussian", 1.1, 0.1), ("gaussian, same law", 1.0, 0.0)):
        law = Moments(count=2**40, mean=np.full(d, shift), scatter=np.diag(np.square(stretch * scale)) * (2**40 - 1))
        target = fit_of(reference.features())
        yield Setting(
            name=name,
            draw=drawing(stretch, shift),
            reference=reference,
            infinite=partial(_distance_of, law, target),
            same=stretch == 1,
        )


def _distance_of(law: Moments, reference: Fit) -> float:
    return frechet_distance(generated=law, reference=reference).value


def pool_settings(name: str, taps: Taps, labels: NDArray[np.int64] | None, size: int, seed: int) -> Iterator[Setting]:
    """A random part of the images is the reference, the others the pool; all of them, and without two classes."""
    order = np.random.default_rng([seed, 2]).permutation(len(taps["pooled"]))
    reference, pool = evidence({tap: v[order[:size]] for tap, v in taps.items()}), order[size:]
    pools = {f"{name}, same law": pool}
    if labels is not None:
        pools[f"{name}, two classes missing"] = pool[labels[pool] < labels.max() - 1]
    for title, rows in pools.items():

        def draw(rng: np.random.Generator, n: int, rows: NDArray[np.int64] = rows) -> Taps:
            chosen = rng.choice(rows, n, replace=False)
            return {tap: v[chosen] for tap, v in taps.items()}

        def infinite(rows: NDArray[np.int64] = rows) -> float:
            whole = evidence({"pooled": taps["pooled"][rows]})
            return registry.get("metric", "fid-inf").compute(generated=whole, reference=reference).value

        yield Setting(name=title, draw=draw, reference=reference, infinite=infinite, same=rows is pool)


def extracted(path: Path, name: str) -> tuple[Taps, NDArray[np.int64] | None]:
    """Pooled features and logits of a folder or zip of images, and its classes."""
    from genbench.features import image_blocks
    from genbench.images import open_images

    samples = open_images(path)
    load, ref = registry.bind("extractor", Ref.parse(name))
    extractor = load(device="cpu", precision="float32", **ref.args)
    wanted = [tap for tap in ("pooled", "logits") if tap in extractor.widths]
    blocks = list(image_blocks(samples, extractor, wanted, device="cpu"))
    return {tap: np.concatenate([block[tap] for block in blocks]) for tap in wanted}, samples.labels


def measure(text: str, setting: Setting, n: int, replications: int, seed: int) -> dict[str, str] | None:
    """One row of the table, or None where the metric does not apply."""
    metric, ref = registry.bind("metric", Ref.parse(text))
    roles = {"reference": setting.reference} if "reference" in inspect.signature(metric.compute).parameters else {}
    if not set(metric.taps) <= set(setting.reference.taps) or (setting.same and not roles):
        return None
    scores = []
    try:
        for r in range(replications):
            taps = setting.draw(np.random.default_rng([seed, 3, n, r]), n)
            scores.append(metric.compute(generated=evidence(taps), **roles, **ref.args))
    except NotComparable:
        return None
    intervals = [score.ci95 for score in scores if score.ci95 is not None]
    if len(intervals) < len(scores):
        return None
    values = np.array([score.value for score in scores])
    truth = setting.infinite() if ref.name in INFINITE else values.mean()
    coverage = float(np.mean([low <= truth <= high for low, high in intervals]))
    ratio = float(np.mean([score.stderr for score in scores])) / values.std(ddof=1)
    return {
        "metric": text,
        "method": str(scores[0].error_method),
        "features": setting.name,
        "n": str(n),
        "d": str(setting.reference.features(metric.taps[0]).shape[1]),
        "replications": str(replications),
        "coverage": f"{coverage:.3f}",
        "mean_stderr_over_sd": f"{ratio:.3f}",
        "covers": "infinite n" if ref.name in INFINITE else "expectation at n",
        "note": explanation(coverage, ratio, setting.same and ref.name in DISTANCES),
    }


def explanation(coverage: float, ratio: float, degenerate: bool) -> str:
    """Why an interval covers more or less often than 92 to 98 %, as far as the figures tell; empty within."""
    if NOMINAL[0] <= coverage <= NOMINAL[1]:
        return ""
    if coverage > NOMINAL[1]:
        why = (
            "the first-order term of a distance vanishes between equal laws" if degenerate else "large standard errors"
        )
        return f"too often: {why}"
    return "too rarely: " + ("standard errors are right, the interval is off centre" if ratio > 0.9 else "small errors")


def merge(path: Path, rows: list[dict[str, str]]) -> None:
    """Replaces the rows of the same metric, features and n; the file is sorted."""

    def key(row: tables.Row) -> tuple[str, str, int]:
        return row["features"], row["metric"], int(row["n"])

    tables.merge(path, COLUMNS, rows, identity=key, order=key)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, help="float32 (n, d) .npy: a pool of pooled features")
    parser.add_argument("--logits", type=Path, help="float32 (n, classes) .npy, of the same images")
    parser.add_argument("--images", type=Path, help="a folder or zip of images, in folders of their classes or not")
    parser.add_argument("--extractor", default="compact", help="for --images")
    parser.add_argument("--name", help="of the features, in the table")
    parser.add_argument("--metrics", nargs="*", default=METRICS)
    parser.add_argument("--sizes", type=int, nargs="*", default=(1000, 2000))
    parser.add_argument("--reference-size", type=int, default=5000)
    parser.add_argument("--width", type=int, default=64, help="of Gaussian features")
    parser.add_argument("--replications", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=TABLE)
    args = parser.parse_args()
    size, labels = args.reference_size, None
    if args.images or args.features:
        if args.images:
            taps, labels = extracted(args.images, args.extractor)
        else:
            taps = {"pooled": np.load(args.features, allow_pickle=False)}
            if args.logits:
                taps["logits"] = np.load(args.logits, allow_pickle=False)
        name = args.name or Path(args.images or args.features).stem
        settings = pool_settings(name, taps, labels, size, args.seed)
    else:
        settings = gaussian_settings(args.width, size, args.seed)
    for setting in settings:
        for text in args.metrics:
            for n in args.sizes:
                started = time.process_time()
                row = measure(text, setting, n, args.replications, args.seed)
                if row is not None:
                    merge(args.output, [row])
                    figures = [row[column] for column in COLUMNS]
                    print(*figures, f"{time.process_time() - started:.0f} s", sep="  ", flush=True)


if __name__ == "__main__":
    main()
