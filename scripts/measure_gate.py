"""Measures how often the gate is wrong and how often it sees what is worse, into `leaderboards/gate_power.csv`.

python -m scripts.measure_gate --runs runs/

Sets of n images are made of blocks of 100 that are drawn without replacement from one pool of images of
`ddim(steps=10)`, features by `compact`. A row is one metric under one change at one n; "gate" is the verdict over all
five metrics that gate together, with Holm's correction.

    none, other seeds   both sides from disjoint blocks of the pool, not in pairs: every "regressed" is a false alarm
    none, other batches the same images made in batches of another size, in pairs
    steps=8             fewer steps, in pairs
    weights of 4 bits   every matrix of the network rounded to 16 levels, in pairs
    2 % blurred         every fiftieth image blurred (sigma 1.5), in pairs
    one class missing   images that the classifier takes for class 0 are exchanged for others, in pairs
    guidance off        cfg(scale=1.0) against cfg(scale=1.5), in pairs

Margins are 0, the strictest there is: `pass` is then a shown improvement or the same images. Pools have 8,000 images,
4,000 where another model is sampled, and 2,000 of guided models, which are one set of 2,000. Sets of one pool share
images, the more the larger they are, so that a share is less sure than its number of repetitions says. Confirmation in
other seeds is left out, which can only withdraw a regression.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from genbench import generation, pipeline, registry, requests, sets, tables
from genbench.arrays import Evidence, Features, Images, Samples
from genbench.baseline import Baseline
from genbench.extractors import compact
from genbench.features import evidence
from genbench.gating import judged
from genbench.measuring import Execution
from genbench.records import Ref, Result, Score, Side
from genbench.rules import Margin, Rule, Rules
from genbench.sides import Measured
from genbench.weights import cache_directory
from scripts.benchmarking import LEADERBOARDS
from scripts.corruptions import gaussian_blur

TABLE = LEADERBOARDS / "gate_power.csv"
COLUMNS = ("change", "pairs", "metric", "n", "repetitions", "regressed", "inconclusive", "passed")
METRICS = ("fid", "kid", "is", "precision", "recall")
COUNTS = (500, 1000, 2000)
BLOCK = 100
POOL, SMALL, FEW, REFERENCE = 8000, 4000, 2000, 2000
STRICT = Rules(metrics={name: Rule(margin=Margin(value=0.0)) for name in METRICS})

Rows = NDArray[np.float32]
Taps = Mapping[str, Rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is compared with what.

    Attributes:
        base, candidate: features of two pools by tap; the same one for sets of other seeds.
        pairs: whether image i of both belong together.
    """

    name: str
    base: Taps
    candidate: Taps
    pairs: bool


def sampled(model: str, count: int, runs: Path, *, batch_size: int | None = None) -> Samples:
    """Images of a registered model; found again where they lie in the folder of runs."""
    spec = requests.of_run(model, num_samples=count).spec
    return pipeline.sample(spec, output=runs, execution=Execution(device="cpu", batch_size=batch_size))[0]


def of_four_bits(count: int) -> Images:
    """Images of `ddim(steps=10)` whose matrices are rounded to 16 levels each."""
    spec = requests.of_run("ddim(steps=10)", num_samples=count).spec
    load, _, spec = pipeline.bind_spec(spec)
    model = pipeline.load_model(load, spec, "cpu", Execution(device="cpu"))
    model.sample(generation.image_seeds(0, 0, 1))  # networks are read when they are first used
    networks = [part for part in model.weights._ready.values() if isinstance(part, torch.nn.Module)]  # type: ignore[attr-defined]
    assert networks
    with torch.no_grad():
        for matrix in (p for network in networks for p in network.parameters() if p.ndim > 1):
            step = matrix.abs().max() / 7
            matrix.copy_((matrix / step).round().clamp(-8, 7) * step)
    found = []
    for start in range(0, count, 50):
        seeds = generation.image_seeds(0, start, min(start + 50, count))
        found.append(generation.quantise(model.sample(seeds)).numpy())
    return np.concatenate(found)


def taps_of(samples: Samples) -> Taps:
    """Features of `compact`, from the cache where they are there."""
    extractor = compact.load()
    found = evidence(samples, extractor, ["pooled", "logits"], cache=cache_directory() / "features", device="cpu")
    return {tap: np.array(features.values()) for tap, features in found.taps.items()}


def without_class(pool: Taps, start: int) -> Taps:
    """The first images of a pool, those that the classifier takes for class 0 exchanged for later ones of others."""
    classes = pool["logits"].argmax(axis=1)
    chosen = np.arange(start)
    spare = start + np.flatnonzero(classes[start:] != 0)
    missing = np.flatnonzero(classes[:start] == 0)
    chosen[missing] = spare[: len(missing)]
    return {tap: values[chosen] for tap, values in pool.items()}


def changes(runs: Path, only: Sequence[str]) -> Iterator[Change]:
    """Everything that is measured, or the changes of some names; what needs most sampling comes last."""

    @cache
    def images() -> Samples:
        return sampled("ddim(steps=10)", POOL, runs)

    @cache
    def pool() -> Taps:
        return taps_of(images())

    def first(count: int) -> Taps:
        return {tap: values[:count] for tap, values in pool().items()}

    def blurred() -> Taps:
        pixels = images().read(0, POOL)
        pixels[::50] = gaussian_blur(pixels[::50], 1.5, 0)
        return taps_of(Samples.of(pixels))

    def other_batches() -> Taps:
        return taps_of(sampled("ddim(steps=10)", SMALL, runs / "batches", batch_size=16))

    def guided(scale: float) -> Taps:
        return taps_of(sampled(f"cfg(scale={scale}, steps=10)", FEW, runs))

    for name, base, candidate, pairs in (
        ("none, other seeds", pool, pool, False),
        ("one class missing", lambda: first(POOL // 2), lambda: without_class(pool(), POOL // 2), True),
        ("2 % blurred", pool, blurred, True),
        ("steps=8", lambda: first(SMALL), lambda: taps_of(sampled("ddim(steps=8)", SMALL, runs)), True),
        ("none, other batches", lambda: first(SMALL), other_batches, True),
        ("weights of 4 bits", lambda: first(SMALL), lambda: taps_of(Samples.of(of_four_bits(SMALL))), True),
        ("guidance off", lambda: guided(1.5), lambda: guided(1.0), True),
    ):
        if not only or name in only:
            yield Change(name=name, base=base(), candidate=candidate(), pairs=pairs)


def measured(taps: Taps, rows: NDArray[np.int64], reference: Evidence, name: str) -> Measured:
    """The five metrics of some images of a pool."""
    samples = Samples.of(np.zeros((len(rows), 3, 1, 1), np.uint8), origin=name)
    chosen = {tap: Features(extractor="compact", tap=tap, array=values[rows]) for tap, values in taps.items()}
    generated = Evidence(samples=samples, taps=chosen)
    results = []
    for metric in METRICS:
        component, ref = registry.bind("metric", Ref(metric))
        roles = {"reference": reference} if metric != "is" else {}
        results.append(
            _result(component.compute(generated=generated, **roles, **ref.args), ref, component, name, len(rows))
        )
    return Measured(name=name, results=tuple(results), asked="same")


def _result(score: Score, ref: Ref, metric: object, name: str, count: int) -> Result:
    return Result(
        metric=str(ref),
        metric_version=1,
        extractor="compact",
        extractor_key="compact",
        score=score,
        floor=None,
        generated=Side(name=name, count=count, digest=name),
        reference=Side(name="shapes", count=REFERENCE, digest="shapes"),
        protocol="embedded",
        protocol_hash=f"{ref.name} {count}",
        higher_is_better=metric.higher_is_better,  # type: ignore[attr-defined]
        spec=None,
        seconds=0.0,
        created="",
        environment={},
    )


def drawn_apart(change: Change, count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the images of both sides: whole blocks, disjoint ones where the images are not in pairs."""
    total = len(change.base["pooled"]) // BLOCK
    blocks = rng.permutation(total)[: count // BLOCK * (1 if change.pairs else 2)]
    rows = (blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel()
    return (rows, rows) if change.pairs else (rows[:count], rows[count:])


def verdicts(change: Change, count: int, repetitions: int, reference: Evidence) -> list[dict[str, object]]:
    """A row for each metric, and one for the gate."""
    tally = {name: {"regressed": 0, "inconclusive": 0, "pass": 0} for name in (*METRICS, "gate")}
    rng = np.random.default_rng(count)
    for _ in range(repetitions):
        left, right = drawn_apart(change, count, rng)
        base = measured(change.base, left, reference, "base")
        candidate = measured(change.candidate, right, reference, "candidate")
        known = Baseline(
            name="base", results=base.results, samples=Samples.of(np.zeros((1, 3, 1, 1), np.uint8)), asked=""
        )
        for metric in METRICS:  # each alone, without a correction
            alone = Rules(metrics={metric: Rule(margin=Margin(value=0.0))})
            for verdict in judged(base, candidate, alone, known, paired=change.pairs).verdicts:
                if verdict.gating:
                    tally[metric][verdict.word] += 1
        tally["gate"][judged(base, candidate, STRICT, known, paired=change.pairs).word] += 1
    return [
        {
            "change": change.name,
            "pairs": "yes" if change.pairs else "no",
            "metric": name,
            "n": count,
            "repetitions": repetitions,
            "regressed": round(found["regressed"] / repetitions, 3),
            "inconclusive": round(found["inconclusive"] / repetitions, 3),
            "passed": round(found["pass"] / repetitions, 3),
        }
        for name, found in tally.items()
    ]


def shares(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The table of `docs/gate.md`: "regressed" of the whole gate in percent, a change a line."""
    found = {(row["change"], row["n"]): float(row["regressed"]) for row in rows if row["metric"] == "gate"}
    pairs = {row["change"]: row["pairs"] for row in rows}
    order = sorted(pairs, key=lambda change: (not change.startswith("none"), change))
    cells = [[found.get((change, str(count))) for count in COUNTS] for change in order]
    return [
        f"| {change} | {pairs[change]} | {' | '.join('' if x is None else f'{100 * x:g}' for x in line)} |"
        for change, line in zip(order, cells, strict=True)
    ]


def _identity(row: Mapping[str, str]) -> str:
    return f"{row['change']} {row['n']:>6} {row['metric']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs, where images are found again")
    parser.add_argument("--output", type=Path, default=TABLE)
    parser.add_argument("--repetitions", type=int, default=200, help="of changes that mean nothing; others have 50")
    parser.add_argument("--sizes", nargs="*", type=int, default=COUNTS, help="images a side")
    parser.add_argument("--only", nargs="*", default=[], help="names of changes")
    given = parser.parse_args()
    real = sets.open_side(f"shapes(count={REFERENCE})", Execution(), role="reference")[0]
    reference = Evidence(
        samples=real,
        taps={t: Features(extractor="compact", tap=t, array=v) for t, v in taps_of(real).items()},
    )
    done = {(row["change"], row["n"]) for row in (tables.read(given.output, COLUMNS) if given.output.exists() else [])}
    for change in changes(given.runs, given.only):
        for count in given.sizes:
            if (change.name, str(count)) in done:
                continue
            whole = change.pairs and count == len(change.base["pooled"])
            repetitions = 1 if whole else given.repetitions if change.name.startswith("none") else 50
            rows = verdicts(change, count, repetitions, reference)
            texts = [{name: str(value) for name, value in row.items()} for row in rows]
            tables.merge(given.output, COLUMNS, texts, identity=_identity, order=_identity)
            print(change.name, count, {str(row["metric"]): row["regressed"] for row in rows}, flush=True)


if __name__ == "__main__":
    main()
