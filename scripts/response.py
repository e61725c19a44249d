"""Measures which metric sees what: every metric under graded corruptions, into `leaderboards/response.csv`.

python -m scripts.response                                              # `shapes`
python -m scripts.response --photographs PHOTOGRAPHS.zip --name cifar10     # and photographs

Clean images are held-out ones, and their value against the reference is the baseline, which is the floor of every
metric. Corrupted ones are the same images made worse. `z` is the difference over the root of the sum of both squared
standard errors, as if the two sets were independent: they share most of their images, so that z = 0 means that a metric
does not look at what was corrupted, and a z of noise alone is smaller than a normal deviate. A metric responds when
|z| > 3. Where a metric refuses a corrupted set, such as FID per class without images of a class, it says so, and
`responds` is "refused".

On photographs only metrics of features are measured, on the shipped network and on pixels: a classifier or a text
encoder of `shapes` has no opinion on them. Rows of other data sets in the file are kept.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import genbench
from genbench import measuring, pipeline, registry, tables
from genbench.arrays import Samples
from genbench.datasets import shapes
from genbench.display import columns
from genbench.errors import GenbenchError, UsageError
from genbench.images import open_images
from genbench.protocols import PROTOCOLS
from genbench.records import Measurement, Result, Score
from scripts.benchmarking import LEADERBOARDS, as_text, today
from scripts.corruptions import CORRUPTIONS, chosen

BOARD = LEADERBOARDS / "response.csv"
COLUMNS = (
    "dataset",
    "corruption",
    "strength",
    "num_samples",
    "metric",
    "extractor",
    "value",
    "stderr",
    "baseline",
    "baseline_stderr",
    "z",
    "responds",
    "genbench",
    "date",
)
EMBEDDED = PROTOCOLS["embedded"]
METRICS = tuple(name for name in EMBEDDED.metrics if name != "cas")
"""All that train nothing."""
THRESHOLD = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One metric under one corruption, beside its value on clean images.

    Attributes:
        count: corrupted images.
        score: None where the metric refused them.
    """

    corruption: str
    strength: float
    count: int
    measurement: Measurement
    score: Score | None
    baseline: Score

    @property
    def z(self) -> float | None:
        """Difference from the baseline in standard errors; None where one is not known."""
        if self.score is None or self.score.stderr is None or self.baseline.stderr is None:
            return None
        difference = self.score.value - self.baseline.value
        error = math.hypot(self.score.stderr, self.baseline.stderr)
        return difference / error if error else math.copysign(math.inf, difference) if difference else 0.0

    @property
    def responds(self) -> str:
        """One of "yes", "no" and "refused", or nothing where no error is known."""
        if self.score is None:
            return "refused"
        return "" if self.z is None else "yes" if abs(self.z) > THRESHOLD else "no"


def measurements(names: Iterable[str], *extractors: str) -> list[Measurement]:
    """Measurements of the metrics on each of the extractors, or where none is given on that of the protocol."""
    texts = [f"{name}@{extractor}" for extractor in extractors for name in names] if extractors else names
    return [Measurement.parse(text) for text in texts]


def of_features() -> list[str]:
    """The embedded metrics that look at pooled features only, which any extractor has."""
    return [name for name in METRICS if registry.get("metric", name).taps == ("pooled",)]


def measure(
    samples: Samples,
    reference: Samples,
    wanted: Sequence[Measurement],
    *,
    test: Samples | None = None,
    device: str = "cpu",
) -> dict[Measurement, Score | str]:
    """The scores of samples; for a metric that refuses them, or is not there, its reason instead.

    Args:
        test: labelled real images, for `cas`.
    """
    try:
        results: Sequence[Result]
        if [m.metric.name for m in wanted] == ["cas"]:
            execution = measuring.Execution(device=device)
            results = pipeline.score(samples, None, wanted, protocol=EMBEDDED, test=test, execution=execution)
        else:
            texts = [str(m) for m in wanted]
            results = genbench.score(samples, reference, metrics=texts, protocol=EMBEDDED.name, device=device)
        return dict(zip(wanted, (r.score for r in results), strict=True))
    except (GenbenchError, FileNotFoundError) as error:  # the latter: shipped weights that were not trained yet
        if len(wanted) == 1:
            return {wanted[0]: str(error)}
    found: dict[Measurement, Score | str] = {}
    for one in wanted:
        found |= measure(samples, reference, [one], test=test, device=device)
    return found


def respond(
    pool: Samples,
    reference: Samples,
    wanted: Sequence[Measurement],
    *,
    count: int,
    seed: int = 0,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    strengths: Mapping[str, Sequence[float]] | None = None,
    test: Samples | None = None,
    device: str = "cpu",
    say: Callable[[str], None] = print,
) -> list[Response]:
    """Every measurement under every corruption that the pool allows.

    Args:
        pool: held-out images. The first `count` of them are the clean set.
        strengths: of some corruptions, other than those of the table.
        say: called with what is done next, or what was left out and why.

    Raises:
        UsageError: too few images in the pool, or an unknown corruption.
    """
    unknown = [name for name in corruptions if name not in CORRUPTIONS]
    if unknown:
        raise UsageError(f"No corruption {unknown[0]!r}; there are {', '.join(CORRUPTIONS)}.")
    say("clean")
    baseline: dict[Measurement, Score] = {}
    for measurement, found in measure(pool.subset(0, count), reference, wanted, test=test, device=device).items():
        if isinstance(found, str):
            say(f"{measurement} is left out: {found}")
        else:
            baseline[measurement] = found
    responses = []
    for name in corruptions:
        corruption = CORRUPTIONS[name]
        if corruption.needs and getattr(pool, corruption.needs) is None:
            say(f"{name} is left out: there are no {corruption.needs}")
            continue
        for strength in (strengths or {}).get(name, corruption.strengths):
            say(f"{name} {strength:g}")
            samples = corruption.apply(pool, count, strength, seed)
            scores = measure(samples, reference, list(baseline), test=test, device=device)
            responses += [
                Response(
                    corruption=name,
                    strength=strength,
                    count=samples.count,
                    measurement=measurement,
                    score=None if isinstance(found, str) else found,
                    baseline=baseline[measurement],
                )
                for measurement, found in scores.items()
            ]
    return responses


def rows(dataset: str, responses: Iterable[Response]) -> list[dict[str, str]]:
    """Responses as texts of CSV rows; what is not known is empty."""
    table = []
    for r in responses:
        extractor = EMBEDDED.resolve(r.measurement).extractor
        of_pixels = not registry.get("metric", r.measurement.metric.name).taps
        numbers = {
            "value": r.score.value if r.score else None,
            "stderr": r.score.stderr if r.score else None,
            "baseline": r.baseline.value,
            "baseline_stderr": r.baseline.stderr,
            "z": r.z,
        }
        table.append(
            {
                "dataset": dataset,
                "corruption": r.corruption,
                "strength": f"{r.strength:g}",
                "num_samples": str(r.count),
                "metric": str(r.measurement.metric),
                "extractor": "" if of_pixels or extractor is None else str(extractor),
                **{name: as_text(number, ".6g") for name, number in numbers.items()},
                "responds": r.responds,
                "genbench": genbench.__version__,
                "date": today(),
            }
        )
    return table


def write(path: Path, new: Sequence[Mapping[str, str]]) -> None:
    """Writes rows in place of those of the same data sets.

    Raises:
        InputRejected: the file is another table.
    """
    # Sorting is stable: within a data set the order is that of corruptions, strengths and metrics.
    tables.merge(path, COLUMNS, new, identity=lambda row: row["dataset"], order=lambda row: row["dataset"])


def table_text(responses: Sequence[Response]) -> str:
    """The z of every strength, corruptions across and metrics down."""
    names = list(dict.fromkeys(r.corruption for r in responses))
    lines = [["metric", *names]]
    for measurement in dict.fromkeys(r.measurement for r in responses):
        cells = dict.fromkeys(names, "")
        for r in responses:
            if r.measurement == measurement:
                text = "refused" if r.score is None else "?" if r.z is None else f"{r.z:+.1f}"
                cells[r.corruption] += f" {text}"
        lines.append([str(measurement), *(cell.strip() for cell in cells.values())])
    return columns(lines)


def split(samples: Samples, reference: int, seed: int) -> tuple[Samples, Samples]:
    """Held-out images and `reference` others, both drawn from all of them and disjoint."""
    order = np.random.default_rng(seed).permutation(samples.count)
    if not 0 < reference < samples.count:
        raise UsageError(f"{samples.origin} has {samples.count} images; a reference of {reference} leaves none.")
    return chosen(samples, order[reference:]), chosen(samples, order[:reference])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=1000, help="images of a corrupted set")
    parser.add_argument("--reference", type=int, default=5000, help="reference images")
    parser.add_argument("--seed", type=int, default=0, help="of the corruptions and of the split of photographs")
    parser.add_argument("--photographs", type=Path, help="a folder or zip of images, in a folder a class")
    parser.add_argument("--name", help="of the photographs in the table; the name of the file by default")
    parser.add_argument("--only", choices=("shapes", "photographs"), help="one of the two")
    parser.add_argument("--corruptions", nargs="+", choices=tuple(CORRUPTIONS), default=tuple(CORRUPTIONS))
    parser.add_argument("--metrics", nargs="+", help="other than the embedded ones, such as fid or kid@pixels")
    parser.add_argument("--cas", action="store_true", help="cas too, which trains a classifier for every corrupted set")
    parser.add_argument("--device", default="cpu", help="where networks compute")
    parser.add_argument("--output", type=Path, default=BOARD, help="table to write (leaderboards/response.csv)")
    args = parser.parse_args()
    common = {"count": args.num, "seed": args.seed, "corruptions": args.corruptions, "device": args.device}
    progress = tqdm(desc="response", unit="set")

    def say(text: str) -> None:
        if "left out" in text:
            progress.write(text)
        else:
            progress.set_postfix_str(text)
            progress.update()

    found: dict[str, list[Response]] = {}
    with tempfile.TemporaryDirectory() as cache:
        # Features of corrupted images are of no use later and would fill the user's cache.
        os.environ["GENBENCH_CACHE"] = cache
        if args.only != "photographs":
            pool, reference = shapes.load("validation"), shapes.load("train").subset(0, args.reference)
            found["shapes"] = respond(pool, reference, measurements(args.metrics or METRICS), say=say, **common)
            if args.cas:
                test = shapes.load("test")
                found["shapes"] += respond(pool, reference, measurements(["cas"]), test=test, say=say, **common)
        if args.photographs and args.only != "shapes":
            pool, reference = split(open_images(args.photographs), args.reference, args.seed)
            wanted = measurements(args.metrics) if args.metrics else measurements(of_features(), "compact", "pixels")
            found[args.name or args.photographs.stem] = respond(pool, reference, wanted, say=say, **common)
    progress.close()
    write(args.output, [row for name, responses in found.items() for row in rows(name, responses)])
    for name, responses in found.items():
        print(f"\n{name}, z of each strength\n{table_text(responses)}")


if __name__ == "__main__":
    main()
