"""One measurement: components, evidence, checks, floor and result. Every number is made in `measure`."""

from __future__ import annotations

import contextlib
import datetime
import inspect
import json
import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genbench import features, files, identities, labels, likelihoods, ranks, report, subsets, weights
from genbench.arrays import Evidence, Features, Samples, Statistics
from genbench.contracts import Extractor, Metric
from genbench.errors import InputRejected, MissingAsset, NotComparable, UsageError, calling
from genbench.protocols import Protocol
from genbench.records import Measurement, Ref, Result, RunSpec, Score, Side, digest

_log = logging.getLogger(__name__)

CLASSIFIER = "classifier"
"""The tap that stands for the classifier's, and the parameter that tells of it."""

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,4})?")

Watch = Callable[[str, float, float], None]
"""watch(stage, done, total), for progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How the work is done. Nothing here is meant to change a number.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:INDEX" or "mps".
        batch_size: images a call of the model; None chooses by device.
        compile: whether torch compiles the networks of the model.
        workers: threads that decode images.
        data_dir: where data sets that are files lie.
        weights: extractor name to a weight file that is used instead of the published one.
        fresh: sample and measure anew although there are results.
        extractor_precision: "float32" or "exact", the slow reference path of the extractors.
    """

    device: str = "auto"
    batch_size: int | None = None
    compile: bool = False
    workers: int = 2
    data_dir: Path | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    fresh: bool = False
    extractor_precision: str = "float32"
    watch: Watch | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise UsageError(f"device is auto, cpu, cuda, cuda:INDEX or mps; got {self.device!r}.")
        if self.batch_size is not None and (type(self.batch_size) is not int or self.batch_size < 1):
            raise UsageError(f"batch_size is a whole number of at least 1, or None; got {self.batch_size!r}.")
        if type(self.workers) is not int or self.workers < 0:
            raise UsageError(f"workers is a whole number of at least 0; got {self.workers!r}.")
        if self.extractor_precision not in ("float32", "exact"):
            raise UsageError(f"extractor_precision is 'float32' or 'exact'; got {self.extractor_precision!r}.")
        paths = {name: Path(path) for name, path in dict(self.weights).items()}
        object.__setattr__(self, "weights", paths)
        object.__setattr__(self, "data_dir", None if self.data_dir is None else Path(self.data_dir))

    def as_dict(self) -> dict[str, Any]:
        """What another process needs to work in the same way, as plain data and paths."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("fresh", "watch")}

    def report(self, stage: str, done: float, total: float) -> None:
        """Tells whoever watches."""
        if self.watch is not None:
            self.watch(stage, done, total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measurement with its components found and its arguments written out."""

    metric: Metric
    metric_ref: Ref
    extractor_ref: Ref | None
    load_extractor: Callable[..., Extractor] | None
    protocol: Protocol
    optional: bool = False

    def __str__(self) -> str:
        return str(Measurement(self.metric_ref, self.extractor_ref))


def load_extractor(cell: Cell, execution: Execution, device: str) -> Extractor | None:
    if cell.load_extractor is None or cell.extractor_ref is None:
        return None
    given = execution.weights.get(cell.extractor_ref.name)
    with calling(f"The extractor {cell.extractor_ref}"):
        extractor = cell.load_extractor(
            device=device, precision=execution.extractor_precision, weights=given, **cell.extractor_ref.args
        )
    if not isinstance(extractor, Extractor):
        told = type(extractor).__name__
        raise UsageError(f"The loader of {cell.extractor_ref} gave {told} and no genbench.contracts.Extractor.")
    return replace(extractor, key=identities.keyed(cell.load_extractor, extractor.key))


_WORDS = {"floor_held_out": "held-out", "floor_reference": "real"}


@dataclass(slots=True)
class Comparison:
    """The sets of images by role, and their evidence by extractor, extracted once for all metrics that share it.

    Attributes:
        classes: of the data set, in whose order labels count. See `labels.aligned`, which is done here.
        dataset: name of the data set that the images were made for, empty where only they know.
        modelled: see `identities.modelled`, where there is no reference.
        subject: the model that made the images, None where nobody knows it.
        about: what other processes make the same comparison of, see `ranks.spread`; None where they do not.
        short_of_floor: by split, why there are no real images in the place of the generated ones, in a sentence.
        problem, notes: of the labels.
    """

    roles: dict[str, Samples | None]
    cells: Sequence[Cell]
    execution: Execution
    device: str
    about: Mapping[str, Any] | None = None
    extractors: dict[str, Extractor | None] = field(default_factory=dict)
    found: dict[tuple[str, str], Evidence] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    dataset: str = ""
    modelled: str = ""
    subject: likelihoods.Subject | None = None
    short_of_floor: dict[str, str] = field(default_factory=dict)
    digests: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    choices: dict[tuple[str, int], tuple[Samples, NDArray[np.int64]]] = field(default_factory=dict)
    sides: dict[tuple[str, frozenset[str]], Side] = field(default_factory=dict)
    problem: str = field(init=False)
    notes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        aligned = labels.aligned(self.roles, self.classes)
        self.roles, self.problem, self.notes = aligned.roles, aligned.problem, aligned.notes

    def samples(self, cell: Cell, role: str) -> Samples | None:
        """Returns as many images of a role as the protocol lets the metric see."""
        samples, limit = self.roles.get(role), limit_of(cell, role)
        return samples if samples is None or not limit or samples.count <= limit else self.chosen(role, limit)[0]

    def chosen(self, role: str, count: int) -> tuple[Samples, NDArray[np.int64]]:
        """A fair choice of the images of a role, and their numbers."""
        if (role, count) not in self.choices:
            samples = self.roles[role]
            assert samples is not None
            self.choices[role, count] = subsets.subset(samples, count, workers=self.execution.workers)
        return self.choices[role, count]

    def side(self, cell: Cell, role: str) -> Side | None:
        """The images of a role as the metric of the cell reads them, or what was published about them."""
        samples, limit = self.samples(cell, role), limit_of(cell, role)
        if samples is None:
            return None
        if role == cell.metric.against and (known := statistics_of(cell, samples)):
            return identities.side_of_statistics(samples, [s for _, s in sorted(known.items())])
        key = role if samples is self.roles[role] else f"{limit} {role}"
        what = identities.reads(cell.metric, cell.metric_ref)
        if (key, what) not in self.sides:
            if key not in self.digests:
                spread = self._spread("digests", role=role) if key == role else None
                self.digests[key] = features.pixel_digests(samples, workers=self.execution.workers, spread=spread)
            self.sides[key, what] = identities.side(samples, self.digests[key], what)
        return self.sides[key, what]

    def extractor(self, cell: Cell) -> Extractor | None:
        name = str(cell.extractor_ref)
        if name not in self.extractors:
            self.extractors[name] = load_extractor(cell, self.execution, self.device)
        return self.extractors[name]

    def known(self, cell: Cell) -> Extractor | None:
        """The extractor if its weights are there."""
        try:
            return self.extractor(cell)
        except MissingAsset:
            return None

    def evidence(self, cell: Cell, role: str) -> Evidence | None:
        samples, name = self.roles.get(role), str(cell.extractor_ref)
        if samples is None:
            return None
        if role == cell.metric.against and (known := statistics_of(cell, samples)):
            return Evidence(samples=samples, statistics=known)
        if (name, role) not in self.found:
            extractor = self.extractor(cell)
            taps = self.taps(name, role, samples)
            done = 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                self.execution.report(f"features of {_WORDS.get(role, role)} images", done, samples.count)

            with calling(f"The extractor {name}"):
                self.found[name, role] = features.evidence(
                    samples,
                    extractor,
                    taps,
                    cache=weights.cache_directory() / "features",
                    device=self.device,
                    workers=self.execution.workers,
                    advance=advance,
                    spread=self._spread("features", name=name, role=role, taps=taps),
                )
        return self.found[name, role]

    def _spread(self, job: str, **which: Any) -> features.Spread | None:
        """What hands pieces of a job of `jobs` to all processes, None where they do not know of this comparison."""
        if self.about is None:
            return None

        def spread(own: ranks.Job, numbers: Sequence[int], advance: ranks.Advance, **told: Any) -> None:
            ranks.spread(job, numbers, own=own, about=self.about, advance=advance, **which, **told)

        return spread

    def make_parts(
        self,
        numbers: Sequence[int],
        advance: ranks.Advance,
        *,
        name: str,
        role: str,
        taps: Sequence[str],
        keys: Mapping[str, str],
        directory: Path,
        **told: Any,
    ) -> None:
        """Makes parts of features that another process has looked for, see `features.make_parts`."""
        cell = next(cell for cell in self.cells if str(cell.extractor_ref) == name)
        samples, extractor = self.roles[role], self.extractor(cell)
        assert samples is not None and extractor is not None
        if features.CAPTIONS in keys:
            whole = features.pass_over_captions(samples, extractor, cache=directory)
        else:
            wanted = [tap for tap in taps if tap != features.CAPTIONS]
            whole = features.pass_over_images(
                samples, extractor, wanted, cache=directory, device=self.device, workers=self.execution.workers
            )
        with calling(f"The extractor {name}"):
            features.make_parts(whole, numbers, advance, keys=keys, directory=directory, **told)

    def make_digests(self, numbers: Sequence[int], advance: ranks.Advance, *, role: str, **told: Any) -> None:
        """Makes parts of the digests of pixels that another process has looked for, see `features.make_parts`."""
        make_digests(self.roles[role], self.execution, numbers, advance, **told)

    def make_pairs(
        self, numbers: Sequence[int], advance: ranks.Advance, *, cell: str, directory: Path, **told: Any
    ) -> None:
        """Makes parts of numbers of pairs that another process has looked for, see `features.make_parts`."""
        one = self._cell(cell)
        generated, reference, extractor = (
            self.samples(one, "generated"), self.samples(one, one.metric.against), self.extractor(one)
        )  # fmt: skip
        assert generated is not None and reference is not None and extractor is not None
        whole = features.pass_over_pairs(
            generated, reference, extractor, one.metric.taps, cache=directory, device=self.device,
            workers=self.execution.workers,
        )  # fmt: skip
        features.make_parts(whole, numbers, advance, directory=directory, **told)

    def train(self, numbers: Sequence[int], advance: ranks.Advance, *, cell: str, roles: Sequence[str]) -> None:
        """Trains some of the classifiers that a metric will find in the cache, see `_train_together`."""
        trainings = [training for role in roles for training in trainings_of(self._cell(cell), self, role)]
        for number in numbers:
            trainings[number](advance)

    def _cell(self, text: str) -> Cell:
        return next(cell for cell in self.cells if str(cell) == text)

    def with_pairs(self, cell: Cell, generated: Evidence, reference: Samples) -> Evidence:
        """The generated side with the numbers of its pairs with the reference."""
        extractor = self.extractor(cell)
        assert extractor is not None
        return features.pair_evidence(
            generated,
            reference,
            extractor,
            cell.metric.taps,
            cache=weights.cache_directory() / "features",
            device=self.device,
            workers=self.execution.workers,
            spread=self._spread("pairs", cell=str(cell)),
        )

    def seen(self, cell: Cell, role: str) -> Evidence | None:
        """The evidence of as many images of a role as the protocol lets the metric see."""
        evidence = self.evidence(cell, role)
        limit = limit_of(cell, role)
        if evidence is None or not limit or evidence.statistics or evidence.samples.count <= limit:
            return evidence
        key = (str(cell.extractor_ref), f"{limit} {role}")
        if key not in self.found:
            self.found[key] = evidence.take(*self.chosen(role, limit))
        return self.found[key]

    def taps(self, name: str, role: str, samples: Samples) -> list[str]:
        """Union of what the metrics on this extractor read of this role, so that one pass serves all of them."""
        wanted: dict[str, None] = {}
        for cell in self.cells:
            needed = ("generated", cell.metric.against, f"floor_{cell.metric.floor}")
            if cell.metric.pairwise or (role == cell.metric.against and statistics_of(cell, samples)):
                continue
            if str(cell.extractor_ref) == name and role in needed:
                wanted |= dict.fromkeys(taps_of(cell, self.extractor(cell)))
        if samples.captions is None:
            wanted.pop(features.CAPTIONS, None)
        return list(wanted)


def jobs(comparison: Callable[[], Comparison]) -> dict[str, ranks.Job]:
    """By name, what another process does for a comparison that it makes when it is first needed."""

    def job(work: Callable[..., None]) -> ranks.Job:
        return lambda numbers, advance, **told: work(comparison(), numbers, advance, **told)

    return {
        "features": job(Comparison.make_parts), "digests": job(Comparison.make_digests),
        "pairs": job(Comparison.make_pairs), "train": job(Comparison.train),
    }  # fmt: skip


def make_digests(
    samples: Samples | None,
    execution: Execution,
    numbers: Sequence[int],
    advance: ranks.Advance,
    *,
    directory: Path,
    **told: Any,
) -> None:
    """Makes parts of the digests of some samples that another process has looked for."""
    assert samples is not None
    whole = features.pass_over_pixels(samples, cache=directory, workers=execution.workers)
    features.make_parts(whole, numbers, advance, directory=directory, **told)


def taps_of(cell: Cell, extractor: Extractor | None) -> tuple[str, ...]:
    """The outputs that a metric reads, with the name that this extractor gives to its classifier's.

    Raises:
        UsageError: no classifier.
    """
    if CLASSIFIER not in cell.metric.taps:
        return cell.metric.taps
    if extractor is None or extractor.classifier is None:
        raise UsageError(
            f"{cell.metric.name} needs a classifier, and {cell.extractor_ref} is none; ask for {cell.metric.name}@"
            "inception, @resnet50 or @compact."
        )
    return tuple(extractor.classifier.tap if tap == CLASSIFIER else tap for tap in cell.metric.taps)


def statistics_of(cell: Cell, reference: Samples) -> Mapping[str, Statistics]:
    """Published statistics by tap, where they are of the cell's extractor and are all that its metric reads."""
    if not cell.metric.moments or cell.extractor_ref is None:
        return {}
    known = {s.tap: s for s in reference.statistics.values() if _made_by(s, cell.extractor_ref)}
    return {tap: known[tap] for tap in cell.metric.taps} if known.keys() >= set(cell.metric.taps) else {}


def _made_by(known: Statistics, extractor: Ref) -> bool:
    """Whether statistics can be those of an extractor: of this name, and of the arguments that the file tells."""
    said = [Ref.parse(text) for text in known.extractors]
    return any(
        ref.name == extractor.name and all(extractor.args.get(name) == value for name, value in ref.args.items())
        for ref in said
    )


def check(cell: Cell, role: str, samples: Samples) -> None:
    metric = cell.metric
    if role != "generated" and statistics_of(cell, samples):
        return
    if not samples.count:
        there = ", ".join(f"{known.tap} of {' or '.join(known.extractors)}" for known in samples.statistics.values())
        raise InputRejected(
            f"{cell} needs the images of the {role}; {samples.origin} holds the mean and the covariance of features "
            f"alone ({there}), which suffice for a Frechet distance on these and for nothing else."
        )
    if samples.count < metric.minimum:
        raise NotComparable(
            f"{metric.name} needs at least {metric.minimum} {role} images; {samples.origin} has {samples.count}."
        )
    if metric.labels and samples.labels is None:
        raise InputRejected(f"{metric.name} needs labels, and the {role} images ({samples.origin}) have none.")
    if metric.captions and role == "generated" and samples.captions is None:
        raise InputRejected(f"{metric.name} needs captions, and the {role} images ({samples.origin}) have none.")


def check_cell(cell: Cell, comparison: Comparison) -> None:
    """Refuses what a metric cannot measure, as far as it is known before any feature is there.

    Raises:
        InputRejected: no reference, labels or captions, labels of other classes, too few images, unlike pairs.
        UsageError, NotComparable: of the metric's arguments.
    """
    metric = cell.metric
    generated = comparison.roles["generated"]
    reference = comparison.roles.get(metric.against) if uses_reference(metric) else None
    assert generated is not None
    if metric.likelihood:
        real = comparison.roles.get(metric.against)
        likelihoods.check(metric, comparison.subject, real, generated.count)
        if metric.check is not None:
            metric.check(generated=real, widths={}, **cell.metric_ref.args)
        return
    if uses_reference(metric) and reference is None:
        raise InputRejected(f"{metric.name} needs a {metric.against} set, and there is none here.")
    for role, samples in (("generated", generated), ("reference", reference)):
        if samples is not None:
            check(cell, role, samples)
    if metric.labels and reference is not None and comparison.problem:
        raise InputRejected(f"{metric.name} compares classes. {comparison.problem}")
    if reference is not None and metric.paired:
        check_pairs(metric, generated, reference)
    elif reference is not None and reference.shape != generated.shape and not metric.taps:
        raise InputRejected(f"{metric.name} compares pixels: {generated.shape} against {reference.shape}.")
    extractor = comparison.known(cell)
    statistics = statistics_of(cell, reference) if reference is not None else {}
    for tap, known in statistics.items():
        if extractor is not None and extractor.widths.get(tap) not in (None, 0, len(known.mean)):
            raise NotComparable(
                f"{cell} has {extractor.widths[tap]} features an image, and the statistics of the reference are of "
                f"{len(known.mean)}; ask for the extractor that they were made with."
            )
        if extractor is not None and known.key and known.key != extractor.key:
            raise NotComparable(
                f"The statistics in {reference.origin if reference else ''} were made by {cell.extractor_ref} with "
                "other weights or code; make them anew by `genbench stats`, or give the weights by --weights."
            )
    if metric.check is None:
        return
    sides = {"generated": _limited(cell, "generated", generated)}
    if reference is not None:
        sides["reference"] = _limited(cell, metric.against, reference)
    if CLASSIFIER in metric.taps:
        if extractor is None or extractor.classifier is None:
            return  # whose lack is told otherwise
        metric.check(**sides, widths=extractor.widths, classifier=extractor.classifier, **cell.metric_ref.args)
    else:
        metric.check(**sides, widths=extractor.widths if extractor else {}, **cell.metric_ref.args)


def _limited(cell: Cell, role: str, samples: Samples) -> Samples:
    limit = limit_of(cell, role)
    return samples if not limit or samples.count <= limit else subsets.outline(samples, limit)


def limit_of(cell: Cell, role: str) -> int | None:
    """How many images of a role the protocol lets the metric see, None for all."""
    protocol, metric = cell.protocol, cell.metric
    return (protocol.references if role == metric.against else protocol.samples).get(metric.name)


def _check_features(cell: Cell, generated: Evidence, reference: Evidence) -> None:
    """Refuses features that are all the same on both sides though images differ: shares would be perfect for nothing.

    Raises:
        InputRejected: as said.
    """
    for tap in generated.taps.keys() & reference.taps.keys():
        sides = [evidence.taps[tap] for evidence in (generated, reference)]
        one = all(len(side) > 1 and _constant(side) for side in sides)
        if one and (_differ(generated.samples) or _differ(reference.samples)):
            raise InputRejected(
                f"All images of {generated.samples.origin} have the same features {tap!r} on {cell.extractor_ref}, and "
                f"all of {reference.samples.origin}: {cell.metric.name} would compare nothing. The weights are "
                "broken."
            )


def _differ(samples: Samples) -> bool:
    """Whether two of the images differ, as far as they can be read again."""
    with contextlib.suppress(UsageError):
        first = samples.read(0, 1)
        return any((batch != first).any() for batch in samples.batches(64))
    return False


def _constant(found: Features) -> bool:
    first = found.values()[:1]
    return all((block == first).all() for block in found.blocks())


def check_pairs(metric: Metric, generated: Samples, reference: Samples) -> None:
    """Refuses sides whose images i cannot belong together, as far as numbers, labels and captions tell."""
    if generated.count != reference.count:
        raise InputRejected(
            f"{metric.name} compares image i with image i, and {generated.origin} has {generated.count} images, "
            f"{reference.origin} {reference.count}. Give as many, in one order."
        )
    told: tuple[tuple[str, Any, Any], ...] = (
        ("label", generated.labels, reference.labels),
        ("caption", generated.captions, reference.captions),
    )
    for what, ours, theirs in told:
        if ours is None or theirs is None:
            continue
        i = next((i for i in range(generated.count) if ours[i] != theirs[i]), None)
        if i is not None:
            raise InputRejected(
                f"{metric.name} compares image i with image i, and image {i} has the {what} {ours[i]!s} in "
                f"{generated.origin} and {theirs[i]!s} in {reference.origin}. Give both in one order."
            )


def uses_reference(metric: Metric) -> bool:
    """Whether the metric compares with real images, which its signature says."""
    return "reference" in inspect.signature(metric.compute).parameters


def _compute(cell: Cell, comparison: Comparison, generated: Evidence, reference: Evidence | None) -> Score:
    # torch is not wanted by those who only look a result up.
    from genbench.arithmetic import float32

    names, device = inspect.signature(cell.metric.compute).parameters, comparison.device
    given: dict[str, Any] = dict(cell.metric_ref.args)
    if CLASSIFIER in names:
        extractor = comparison.extractor(cell)
        given[CLASSIFIER] = extractor.classifier if extractor else None
    if "reference" in names:
        given["reference"] = reference
    if "device" in names:
        given["device"] = device
    # Whatever the program around has chosen for itself, such as TensorFloat-32 in a training script.
    with float32(), calling(f"The metric {cell.metric_ref}"):
        score = cell.metric.compute(generated=generated, **given)
    if not isinstance(score, Score):
        raise UsageError(f"The metric {cell.metric_ref} gave {type(score).__name__} and no genbench.records.Score.")
    if not math.isfinite(score.value):
        raise InputRejected(
            f"{cell} is no finite number for {generated.samples.origin} ({score.value}); the features or images are "
            "out of all proportion."
        )
    return score


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a measurement is of, see `genbench.identities`.

    Attributes:
        floor: the real images that stand in for the generated ones, None where there are none.
    """

    extractor_key: str | None
    generated: Side
    reference: Side | None
    floor: Side | None
    protocol_hash: str


def identify(cell: Cell, comparison: Comparison) -> Identity:
    """Finds what a measurement is of, without features. Images that were never decoded are decoded for it."""
    metric, args = cell.metric, cell.metric_ref
    if metric.likelihood:
        real, side = _real(cell, comparison)
        hashed = identities.protocol_hash(
            metric, args, extractor_key=None, reference=side, generated=real, modelled=None
        )
        assert comparison.subject is not None
        # The images are those of the protocol. What stands in their place is what this model says of them.
        said = replace(side, digest=digest([side.digest, comparison.subject.spec.identity(), comparison.subject.key]))
        return Identity(extractor_key=None, generated=said, reference=None, floor=None, protocol_hash=hashed)
    samples, generated = comparison.samples(cell, "generated"), comparison.side(cell, "generated")
    assert samples is not None and generated is not None
    extractor = comparison.extractor(cell)
    key = extractor.key if extractor else None
    reference = comparison.side(cell, metric.against) if uses_reference(metric) else None
    modelled = identities.modelled(comparison.roles.get("reference")) or comparison.modelled or None
    hashed = identities.protocol_hash(
        metric,
        args,
        extractor_key=key,
        reference=reference,
        generated=samples,
        modelled=modelled,
    )
    floor = comparison.side(cell, f"floor_{metric.floor}") if metric.floor else None
    return Identity(extractor_key=key, generated=generated, reference=reference, floor=floor, protocol_hash=hashed)


def measure(cell: Cell, comparison: Comparison, spec: RunSpec | None, made_with: Mapping[str, Any]) -> Result:
    """Applies one metric, to the generated images and to the real ones that give its floor."""
    started = time.perf_counter()
    metric = cell.metric
    check_cell(cell, comparison)
    score, floor = _of_model(cell, comparison) if metric.likelihood else _of_images(cell, comparison)
    identity = identify(cell, comparison)
    return Result(
        metric=str(cell.metric_ref),
        metric_version=metric.version,
        extractor=str(cell.extractor_ref) if cell.extractor_ref else None,
        extractor_key=identity.extractor_key,
        score=score,
        floor=floor,
        generated=identity.generated,
        reference=identity.reference,
        protocol=cell.protocol.name,
        protocol_hash=identity.protocol_hash,
        higher_is_better=metric.higher_is_better,
        spec=spec,
        seconds=round(time.perf_counter() - started, 3),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        environment=made_with,
    )


def _of_images(cell: Cell, comparison: Comparison) -> tuple[Score, Score | None]:
    """A score of generated images, and its floor."""
    metric = cell.metric
    generated = comparison.seen(cell, "generated")
    reference = comparison.seen(cell, metric.against) if uses_reference(metric) else None
    assert generated is not None
    if reference is not None:
        _check_features(cell, generated, reference)
    if metric.pairwise and reference is not None:
        generated = comparison.with_pairs(cell, generated, reference.samples)
    if metric.trainings is not None and ranks.count() > 1:
        _train_together(cell, comparison)
    return _compute(cell, comparison, generated, reference), _floor(cell, comparison, reference)


def trainings_of(cell: Cell, comparison: Comparison, role: str) -> list[Callable[[ranks.Advance], None]]:
    """The trainings of a metric on the images of a role, see `Metric.trainings`."""
    metric = cell.metric
    assert metric.trainings is not None
    generated, reference = comparison.seen(cell, role), comparison.seen(cell, metric.against)
    with calling(f"The metric {cell.metric_ref}"):
        return metric.trainings(
            generated=generated, reference=reference, device=comparison.device, **cell.metric_ref.args
        )


def _train_together(cell: Cell, comparison: Comparison) -> None:
    """Has all processes train the classifiers of a metric, whole ones each, for the images and for the floor.

    They are kept in the cache, where the metric finds them. What is not found there, it trains for itself.
    """
    if comparison.about is None:
        return
    roles, count = ["generated"], len(trainings_of(cell, comparison, "generated"))
    with contextlib.suppress(InputRejected, NotComparable):  # there is no floor then
        if _floor_is_wanted(cell, comparison):
            count += len(trainings_of(cell, comparison, floor := f"floor_{cell.metric.floor}"))
            roles.append(floor)
    own = partial(comparison.train, cell=str(cell), roles=roles)
    ranks.spread("train", range(count), own=own, about=comparison.about, cell=str(cell), roles=roles)


def _of_model(cell: Cell, comparison: Comparison) -> tuple[Score, None]:
    """A score of the likelihood that a model gives to real images. There is no floor: real images give none."""
    (real, side), args, subject = _real(cell, comparison), cell.metric_ref.args, comparison.subject
    assert subject is not None
    found = likelihoods.bits(
        cell.metric,
        subject,
        real,
        content=side.digest,
        tolerance=args.get("tolerance"),  # type: ignore[arg-type]
        repeats=args.get("repeats", 1),  # type: ignore[arg-type]
        watch=lambda done, total: comparison.execution.report("likelihood of real images", done, total),
    )
    with calling(f"The metric {cell.metric_ref}"):
        score = cell.metric.compute(bits=found, **args)
    return score, None


def _real(cell: Cell, comparison: Comparison) -> tuple[Samples, Side]:
    """The real images of which a model gives the likelihood, as many as it makes, and their record."""
    generated = comparison.roles["generated"]
    assert generated is not None
    real, _ = comparison.chosen(cell.metric.against, generated.count)
    key, what = f"{generated.count} {cell.metric.against}", identities.reads(cell.metric, cell.metric_ref)
    if (key, what) not in comparison.sides:
        digests = features.pixel_digests(real, workers=comparison.execution.workers)
        comparison.sides[key, what] = identities.side(real, digests, what)
    return real, comparison.sides[key, what]


def _floor(cell: Cell, comparison: Comparison, reference: Evidence | None) -> Score | None:
    """The metric of real images in the place of the generated ones; kept in the cache, because no model changes it."""
    path = _path_of_floor(cell, comparison)
    if path is None:
        return None
    if (score := _stored(path)) is not None:
        return score
    evidence = comparison.seen(cell, f"floor_{cell.metric.floor}")
    assert evidence is not None
    try:
        score = _compute(cell, comparison, evidence, reference)
    except (InputRejected, NotComparable):
        return None  # such as too few real images of a class: the floor is then not known
    files.keep(path, json.dumps(report.write_score(score), allow_nan=False).encode())
    return score


def _floor_is_wanted(cell: Cell, comparison: Comparison) -> bool:
    """Whether there will be a floor that was not found before."""
    path = _path_of_floor(cell, comparison)
    return path is not None and _stored(path) is None


def _path_of_floor(cell: Cell, comparison: Comparison) -> Path | None:
    """The file that keeps a floor, None where there is none."""
    role = cell.metric.floor
    samples = comparison.roles.get(f"floor_{role}") if role else None
    if role is None or samples is None:
        return None
    what = identities.reads(cell.metric, cell.metric_ref)
    lacking = ("labels" in what and samples.labels is None) or ("captions" in what and samples.captions is None)
    if lacking or samples.count < cell.metric.minimum:
        return None
    comparison.seen(cell, f"floor_{role}")  # which finds digests along the way
    identity = identify(cell, comparison)
    assert identity.floor is not None
    name = identities.floor(
        cell.metric,
        cell.metric_ref,
        extractor_key=identity.extractor_key,
        real=identity.floor,
        reference=identity.reference,
    )
    return weights.cache_directory() / "floors" / f"{name}.json"


def _stored(path: Path) -> Score | None:
    if (stored := files.kept(path)) is not None:
        with contextlib.suppress(KeyError, TypeError, ValueError):  # as another version of this package wrote it
            return report.read_score(json.loads(stored))
    return None
