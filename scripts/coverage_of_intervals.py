"""Measures how often the 95 % intervals of the metrics cover, into `leaderboards/interval_coverage.csv`.

python -m scripts.coverage_of_intervals                                      # the laws below
python -m scripts.coverage_of_intervals --images IMAGES.zip --name cifar10   # features of real images by --extractor
python -m scripts.coverage_of_intervals --images IMAGES.zip --name "CIFAR-10 (pixels)" --extractor pixels \\
    --metrics fid --sizes 500 1000                                           # fewer images than features

Every replication draws n images in the role of generated ones and scores them against one fixed reference. An interval
covers when it holds the mean of all replications, which is the expectation of the metric at that n for this reference;
extrapolations to infinite n are held against the value of the whole law or pool instead. Of real images, draws are
without replacement from a pool, so that their deviation is smaller than that of independent images, by 3 % for 2,000 of
40,000.

A row of kind "score" is one metric on one law; of kind "difference" the difference of two sets, in pairs or independent
(`genbench.differences`), of one law ("A/A") or two. Rows that are in the file are not measured again, so that a run can
be stopped and goes on: remove the file, or name another --output, to measure anew. Coverage is the share of those
intervals that are given; `given` is the share of replications that give one. 200 replications leave a coverage of 0.95
uncertain by 0.015.
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
from genbench.differences import ALPHA, Difference, paired, unpaired, worsening
from genbench.errors import NotComparable
from genbench.gaussians import Fit, fit_of, frechet_distance
from genbench.records import Ref, Score
from scripts.benchmarking import LEADERBOARDS

TABLE = LEADERBOARDS / "interval_coverage.csv"
COLUMNS = (
    "kind", "metric", "method", "features", "n", "d", "replications", "given", "coverage", "mean_stderr_over_sd",
    "false_alarms", "covers", "verdict",
)  # fmt: skip
NOMINAL = (0.92, 0.98)

POOL_METRICS = (
    "fid", "fid(error='jackknife')", "fid-inf", "mifid", "is", "is(splits=10)", "precision", "recall", "density",
    "coverage", "realism", "authpct", "kid", "vendi", "swd",
)  # fmt: skip
"""What is measured on features of real images, which have the taps "pooled" and "logits"."""

INFINITE = ("fid-inf",)
"""Metrics whose interval is for infinitely many images."""

COMPARED = ("fid", "kid", "is", "precision", "recall")
"""Metrics of which differences are measured."""

Taps = dict[str, NDArray[np.float32]]
Draw = Callable[[np.random.Generator, int], Evidence]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A law of generated images and a fixed reference.

    Attributes:
        draw: n images of the law, from a generator.
        infinite: makes the Frechet distance of the law from the reference, which costs a while for a wide pool.
        metrics: what is measured on it.
        sizes: numbers of generated images.
    """

    name: str
    draw: Draw
    reference: Evidence
    metrics: tuple[str, ...]
    sizes: tuple[int, ...]
    infinite: Callable[[], float] | None = None


def evidence(taps: Taps, labels: NDArray[np.int64] | None = None, images: NDArray[np.uint8] | None = None) -> Evidence:
    count = len(images) if images is not None else len(next(iter(taps.values())))
    samples = Samples.of(np.zeros((count, 1, 1, 1), np.uint8) if images is None else images, labels=labels)
    return Evidence(samples=samples, taps={tap: Features(extractor="any", tap=tap, array=v) for tap, v in taps.items()})


def spectrum(d: int) -> NDArray[np.float64]:
    """Deviations of features with a power-law spectrum of trace 100."""
    scale = np.arange(1, d + 1) ** -0.5
    return np.asarray(scale * math.sqrt(100 / np.square(scale).sum()))


def gaussian(d: int, stretch: float = 1.0, shift: float = 0.0, tail: float | None = None, relu: bool = False) -> Draw:
    """Features of a power-law spectrum, Gaussian or of Student's t with `tail` degrees, and logits of ten classes."""
    scale, centres = spectrum(d), 4 * np.eye(10)
    mixing = np.random.default_rng(5).normal(size=(d, d)) / math.sqrt(d)

    def draw(rng: np.random.Generator, n: int) -> Evidence:
        labels = rng.integers(10, size=n)
        logits = centres[labels] + 1.5 * rng.normal(size=(n, 10))
        noise = rng.normal(size=(n, d)) if tail is None else rng.standard_t(tail, size=(n, d))
        pooled = noise * scale * stretch + shift
        if relu:
            pooled = np.maximum(pooled @ mixing, 0)
        return evidence({"pooled": pooled.astype(np.float32), "logits": logits.astype(np.float32)}, labels=labels)

    return draw


def modes(d: int, weights: list[float]) -> Draw:
    """A mixture of Gaussians of deviation 0.7 around centres of deviation 1.5. The classes are the modes."""
    centres = 1.5 * np.random.default_rng(77).normal(size=(len(weights), d))
    shares = np.array(weights) / sum(weights)

    def draw(rng: np.random.Generator, n: int) -> Evidence:
        mode = rng.choice(len(shares), n, p=shares)
        pooled = centres[mode] + 0.7 * rng.normal(size=(n, d))
        return evidence({"pooled": pooled.astype(np.float32)}, labels=mode.astype(np.int64))

    return draw


def classes(d: int, count: int, stretch: float) -> Draw:
    """Draws features of as many images of every class."""
    centres = 2 * np.random.default_rng(78).normal(size=(count, d))

    def draw(rng: np.random.Generator, n: int) -> Evidence:
        labels = np.arange(n) % count
        pooled = centres[labels] + stretch * rng.normal(size=(n, d))
        logits = centres[labels][:, :count] + 2.0 * rng.normal(size=(n, count))
        taps = {"pooled": pooled.astype(np.float32), "logits": logits.astype(np.float32)}
        return evidence(taps, labels=labels)

    return draw


def near_copies(d: int, reference: NDArray[np.float32], noise: float) -> Draw:
    """Images of the reference with noise: the mean distance to the nearest lies near MiFID's threshold."""

    def draw(rng: np.random.Generator, n: int) -> Evidence:
        chosen = reference[rng.integers(len(reference), size=n)]
        return evidence({"pooled": (chosen + noise * rng.normal(size=(n, d))).astype(np.float32)})

    return draw


def pairs_of_text(d: int, agreement: float) -> Draw:
    """Embeddings of images and of their captions."""
    mean = np.random.default_rng(79).normal(size=d)

    def draw(rng: np.random.Generator, n: int) -> Evidence:
        captions = rng.normal(size=(n, d)) + 0.5 * mean
        images = agreement * captions + rng.normal(size=(n, d)) * rng.gamma(2.0, 0.5, size=(n, 1))
        return evidence({"embedding": images.astype(np.float32), "captions": captions.astype(np.float32)})

    return draw


def spatial(d: int, rank: int, stretch: float) -> Draw:
    """Rectified features that depend on fewer, as those of neighbouring places do."""
    mixing = np.random.default_rng(80).normal(size=(rank, d)) / math.sqrt(rank)

    def draw(rng: np.random.Generator, n: int) -> Evidence:
        return evidence({"spatial": (np.abs(rng.normal(size=(n, rank))) * stretch @ mixing).astype(np.float32)})

    return draw


def drawn_images(noise: float) -> Draw:
    """Grey images of 8x8 pixels of four classes: a bright half, blurred by noise."""

    def draw(rng: np.random.Generator, n: int) -> Evidence:
        labels = rng.integers(4, size=n)
        halves = np.zeros((4, 8, 8))
        halves[0, :4], halves[1, 4:], halves[2, :, :4], halves[3, :, 4:] = 1, 1, 1, 1
        images = 96 + 64 * halves[labels] + noise * rng.normal(size=(n, 8, 8))
        return evidence({}, labels=labels, images=images.clip(0, 255).astype(np.uint8)[:, None])

    return draw


def settings(d: int, m: int, seed: int) -> Iterator[Setting]:
    """The laws of the table: what is common, and the edges at which intervals are known to fail."""

    def reference_of(draw: Draw, size: int = m) -> Evidence:
        return draw(np.random.default_rng([seed, 1]), size)

    plain = reference_of(gaussian(d))
    target = fit_of(plain.features())
    frechet = ("fid", "fid(error='jackknife')", "fid-inf", "mifid")
    manifolds = ("precision", "recall", "density", "coverage", "realism", "authpct")
    without_reference = ("is", "is(splits=10)", "vendi")
    for name, stretch, shift in (("gaussian", 1.1, 0.1), ("gaussian, same law", 1.0, 0.0)):
        law = Moments(
            count=2**40, mean=np.full(d, shift), scatter=np.diag(np.square(stretch * spectrum(d))) * (2**40 - 1)
        )
        yield Setting(
            name=name, draw=gaussian(d, stretch, shift), reference=plain, infinite=partial(_distance_of, law, target),
            metrics=(*frechet, *manifolds, "kid", "kid(subsets=20, subset_size=200)", "swd",
                     *(without_reference if stretch > 1 else ())), sizes=(500, 2000),
        )  # fmt: skip
        yield Setting(
            name=f"{name}, few images a feature", draw=gaussian(d, stretch, shift), reference=plain,
            metrics=("fid", "kid"), sizes=(40, 72, 200),
        )  # fmt: skip
    even = reference_of(modes(d, [1.0] * 20))
    many = ("fid", "fid(error='influence')", "fid-inf", "recall", "coverage", "precision", "kid", "vendi")
    yield Setting(name="5 of 20 modes rare", draw=modes(d, [1.0] * 15 + [0.02] * 5), reference=even, metrics=many,
                  sizes=(500, 1000, 2000))  # fmt: skip
    yield Setting(name="one mode, 19 rare", draw=modes(d, [1.0] + [0.01] * 19), reference=even, metrics=many,
                  sizes=(500, 2000))  # fmt: skip
    for tail, relu in ((5.0, False), (4.0, False), (3.0, False), (4.0, True), (3.0, True)):
        heavy = gaussian(d, 1.2, 0, tail, relu), reference_of(gaussian(d, 1, 0, tail, relu))
        for metrics, sizes in ((("fid", "fid-inf", "kid"), (500, 2000)), (("swd",), (500,))):
            yield Setting(name=f"{'rectified ' if relu else ''}t with {tail:.0f} degrees", draw=heavy[0],
                          reference=heavy[1], metrics=metrics, sizes=sizes)  # fmt: skip
    yield Setting(
        name="rectified gaussian", draw=gaussian(d, 1.2, -0.3, None, True), reference=reference_of(gaussian(d, 1, -0.3,
        None, True)), metrics=("fid", "kid"), sizes=(72, 500, 2000),
    )  # fmt: skip
    yield Setting(name="gaussian, small reference", draw=gaussian(d), reference=reference_of(gaussian(d), 400),
                  metrics=("coverage", "recall"), sizes=(2000,))  # fmt: skip
    yield Setting(name="gaussian, half the spread", draw=gaussian(d, 0.5), reference=plain,
                  metrics=("recall", "coverage", "precision"), sizes=(500,))  # fmt: skip
    yield Setting(name="gaussian, a tenth of the spread", draw=gaussian(d, 0.1), reference=plain,
                  metrics=("recall", "coverage", "precision"), sizes=(500,))  # fmt: skip
    few = reference_of(gaussian(d), 300)
    for noise in (0.45, 0.56, 0.57, 0.58, 0.7):
        yield Setting(name=f"copies with noise of {noise}", draw=near_copies(d, few.features().values(), noise),
                      reference=few, metrics=("mifid",), sizes=(500,))  # fmt: skip
    for count, each in ((10, 10), (10, 50), (10, 200)):
        yield Setting(
            name=f"{count} classes of {each}", draw=classes(16, count, 1.2),
            reference=reference_of(classes(16, count, 1.0)), metrics=("fid-per-class", "vendi(per_class=True)"),
            sizes=(count * each,),
        )  # fmt: skip
    yield Setting(name="embeddings and captions", draw=pairs_of_text(64, 0.5), reference=reference_of(pairs_of_text(64,
                  1.0)), metrics=("cmmd", "clip-score", "clip-score(scale='cosine100')"), sizes=(100, 500, 2000),
                  )  # fmt: skip
    yield Setting(name="dependent spatial features", draw=spatial(90, 60, 1.1), reference=reference_of(spatial(90, 60,
                  1.0)), metrics=("sfid",), sizes=(72, 500, 2000))  # fmt: skip
    yield Setting(name="images of four classes", draw=drawn_images(90.0), reference=reference_of(drawn_images(90.0),
                  500), metrics=("cas(epochs=2)", "cas(epochs=2, repeats=3)"), sizes=(256,))  # fmt: skip


def _distance_of(law: Moments, reference: Fit) -> float:
    return frechet_distance(generated=law, reference=reference).value


def pool_settings(
    name: str,
    taps: Taps,
    labels: NDArray[np.int64] | None,
    size: int,
    seed: int,
    metrics: tuple[str, ...],
    sizes: tuple[int, ...],
) -> Iterator[Setting]:
    """A random part of the images is the reference, the others the pool; all of them, and without two classes."""
    order = np.random.default_rng([seed, 2]).permutation(len(taps["pooled"]))
    reference, pool = evidence({tap: v[order[:size]] for tap, v in taps.items()}), order[size:]
    pools = {f"{name}, same law": pool}
    if labels is not None:
        pools[f"{name}, two classes missing"] = pool[labels[pool] < labels.max() - 1]
    for title, rows in pools.items():

        def draw(rng: np.random.Generator, n: int, rows: NDArray[np.int64] = rows) -> Evidence:
            chosen = rng.choice(rows, n, replace=False)
            return evidence({tap: v[chosen] for tap, v in taps.items()})

        def infinite(rows: NDArray[np.int64] = rows) -> float:
            whole = evidence({"pooled": taps["pooled"][rows]})
            return registry.get("metric", "fid-inf").compute(generated=whole, reference=reference).value

        yield Setting(name=title, draw=draw, reference=reference, infinite=infinite, metrics=metrics, sizes=sizes)


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


def computing(text: str, setting: Setting) -> Callable[[Evidence], Score]:
    """A metric of generated images, its reference given."""
    metric, ref = registry.bind("metric", Ref.parse(text))
    roles = {"reference": setting.reference} if "reference" in inspect.signature(metric.compute).parameters else {}

    def compute(generated: Evidence) -> Score:
        return metric.compute(generated=generated, **roles, **ref.args)

    return compute


def measure(texts: list[str], setting: Setting, n: int, replications: int, seed: int) -> Iterator[dict[str, str]]:
    """One row a metric. All of them on the same draws, so that they share what they need of them."""
    computes = [computing(text, setting) for text in texts]
    found: list[list[Score]] = [[] for _ in texts]
    for r in range(replications):
        generated = setting.draw(np.random.default_rng([seed, 3, n, r]), n)
        for compute, scores in zip(computes, found, strict=True):
            try:
                scores.append(compute(generated))
            except NotComparable:
                continue
    for text, scores in zip(texts, found, strict=True):
        if scores:
            yield row_of(text, setting, n, scores)


def row_of(text: str, setting: Setting, n: int, scores: list[Score]) -> dict[str, str]:
    values = np.array([score.value for score in scores])
    known = [score for score in scores if score.ci95 is not None]
    endless = Ref.parse(text).name in INFINITE and setting.infinite is not None
    truth = setting.infinite() if endless and setting.infinite else values.mean()
    intervals = [score.ci95 for score in known if score.ci95]
    errors = [score.stderr for score in known if score.stderr is not None]
    width = next(iter(setting.reference.taps.values())).shape[1] if setting.reference.taps else 0
    return {
        "kind": "score",
        "metric": text,
        "method": str((known or scores)[0].error_method).split(":")[0],
        "features": setting.name,
        "n": str(n),
        "d": str(width),
        "replications": str(len(scores)),
        "false_alarms": "",
        "covers": "infinite n" if endless else "expectation at n",
        **judged([low <= truth <= high for low, high in intervals], len(scores), errors, float(values.std(ddof=1))),
    }


def judged(held: list[bool], replications: int, errors: list[float], deviation: float) -> dict[str, str]:
    given = len(held) / replications
    coverage = float(np.mean(held)) if held else math.nan
    return {
        "given": f"{given:.3f}",
        "coverage": f"{coverage:.3f}" if held else "",
        "mean_stderr_over_sd": f"{np.mean(errors) / deviation:.3f}" if errors and deviation > 0 else "",
        "verdict": verdict(given, coverage),
    }


def verdict(given: float, coverage: float) -> str:
    """What a row shows, by its name. Where fewer than half of the replications have an interval, there is none."""
    if given < 0.5:
        return "none given"
    if coverage < NOMINAL[0]:
        return "too narrow"
    return "too wide" if coverage > NOMINAL[1] else "sound"


def correlated(d: int, base: Evidence, share: float) -> Draw:
    """Images of `gaussian(d)` that have their classes, and a share of their deviations, in common with others."""
    labels = base.samples.labels
    assert labels is not None
    centres = 4 * np.eye(10)[labels]

    def draw(rng: np.random.Generator, n: int) -> Evidence:
        other, rest = gaussian(d)(rng, n), math.sqrt(1 - share**2)
        pooled = share * base.features().values() + rest * other.features().values()
        noise = share * (base.features("logits").values() - centres) + rest * 1.5 * rng.normal(size=(n, 10))
        taps = {"pooled": pooled.astype(np.float32), "logits": (centres + noise).astype(np.float32)}
        return evidence(taps, labels=labels)

    return draw


def measure_differences(d: int, m: int, n: int, replications: int, seed: int) -> Iterator[dict[str, str]]:
    """Rows of differences: of one law and of two, in pairs and of independent images."""
    reference = gaussian(d)(np.random.default_rng([seed, 1]), m)
    setting = Setting(name="", draw=gaussian(d), reference=reference, metrics=COMPARED, sizes=(n,))
    computes = {text: computing(text, setting) for text in COMPARED}
    found: dict[str, list[list[Score]]] = {text: [] for text in COMPARED}
    for r in range(replications):
        rng = np.random.default_rng([seed, 4, n, r])
        base = gaussian(d)(rng, n)
        again = correlated(d, base, 0.9)(rng, n)
        worse = {tap: features.values() * np.float32(0.97) for tap, features in again.taps.items()}
        sets = [base, again, evidence(worse)]
        for text, compute in computes.items():
            found[text].append([compute(one) for one in sets])
    for text, scores in found.items():
        higher = registry.get("metric", text).higher_is_better
        assert higher is not None
        for law, which in (("A/A", 1), ("features and logits times 0.97", 2)):
            for compared in (paired, unpaired):
                others = scores if compared is paired else scores[1:] + scores[:1]
                made = [compared(one[0], other[which]) for one, other in zip(scores, others, strict=True)]
                yield difference_row(text, compared.__name__, law, n, d, made, higher)


def difference_row(
    text: str, method: str, law: str, n: int, d: int, made: list[Difference], higher: bool
) -> dict[str, str]:
    values = np.array([one.value for one in made])
    intervals = [one.ci95 for one in made if one.ci95 is not None]
    truth = 0.0 if law == "A/A" else values.mean()
    # Both directions are tests of a true statement, which halves the variance of the share.
    alarms = [
        worsening(one, margin=0.0, higher_is_better=side, count=n).p_regressed < ALPHA
        for one in made
        for side in (higher, not higher)
    ]
    return {
        "kind": "difference",
        "metric": text,
        "method": method,
        "features": f"gaussian, {law}",
        "n": str(n),
        "d": str(d),
        "replications": str(len(made)),
        "false_alarms": f"{np.mean(alarms):.4f}" if law == "A/A" else "",
        "covers": "expectation at n",
        **judged(
            [low <= truth <= high for low, high in intervals],
            len(made),
            [one.stderr for one in made if one.stderr is not None],
            float(values.std(ddof=1)),
        ),
    }


def key(row: tables.Row) -> tuple[str, str, str, str, int]:
    method = row["method"] if row["kind"] == "difference" else ""
    return row["kind"], row["features"], row["metric"], method, int(row["n"])


def known_rows(path: Path) -> set[tuple[str, str, str, str, int]]:
    return {key(row) for row in tables.read(path, COLUMNS)} if path.exists() else set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder or zip of images, in folders of their classes or not")
    parser.add_argument("--extractor", default="compact", help="for --images")
    parser.add_argument("--name", help="of the features, in the table")
    parser.add_argument("--metrics", nargs="*", default=POOL_METRICS, help="for --images")
    parser.add_argument("--sizes", type=int, nargs="*", default=(500, 2000), help="for --images")
    parser.add_argument("--reference-size", type=int, default=2000, help="images of the reference")
    parser.add_argument("--width", type=int, default=64, help="of Gaussian features")
    parser.add_argument("--replications", type=int, default=200, help="draws of a row")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--output", type=Path, default=TABLE, help="table (leaderboards/interval_coverage.csv)")
    args = parser.parse_args()

    def keep(rows: Iterator[dict[str, str]]) -> None:
        started = time.process_time()
        for row in rows:
            tables.merge(args.output, COLUMNS, [row], identity=key, order=key)
            print(*[row[column] for column in COLUMNS], sep="  ", flush=True)
        print(f"{time.process_time() - started:.0f} s", flush=True)

    if args.images:
        taps, labels = extracted(args.images, args.extractor)
        laws = pool_settings(
            args.name or args.images.stem,
            taps,
            labels,
            args.reference_size,
            args.seed,
            tuple(args.metrics),
            tuple(args.sizes),
        )
    else:
        laws = settings(args.width, args.reference_size, args.seed)
        for n in (500, 1000, 2000):
            wanted = ("difference", "gaussian, A/A", COMPARED[-1], "unpaired", n)
            if wanted not in known_rows(args.output):
                keep(measure_differences(args.width, args.reference_size, n, args.replications, args.seed))
    for setting in laws:
        for n in setting.sizes:
            known = known_rows(args.output)
            texts = [text for text in setting.metrics if ("score", setting.name, text, "", n) not in known]
            if texts:
                keep(measure(texts, setting, n, args.replications, args.seed))


if __name__ == "__main__":
    main()
