"""All that can be refused before the first second of work, and all that should be said beside the numbers.

What a run needs is known before it starts: weights, data, numbers of images, labels, arguments, room on disk. Here it
is looked for, everything that is missing is told at once, and nothing has been sampled or written by then.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from genbench import files, generation, labels, report, tables, weights
from genbench.arrays import Images, Samples
from genbench.contracts import Extractor, Model, taken_by
from genbench.errors import (
    GenbenchError,
    InputRejected,
    MissingAsset,
    NotComparable,
    OutOfResources,
    UsageError,
    shown,
)
from genbench.measuring import CLASSIFIER, Cell, Comparison, check_cell, statistics_of, taps_of, uses_reference
from genbench.records import RunSpec

_log = logging.getLogger(__name__)

_GRAVEST = (UsageError, MissingAsset, InputRejected, NotComparable, OutOfResources)
"""Whose exit code counts where several things are wrong: first what the user must write otherwise."""
_RESERVE = 64 << 20
_PRETENDED = 10_000
_FEW = 100
"""Images below which any number about a set of them is said to be of few."""


def together(problems: Sequence[GenbenchError]) -> GenbenchError:
    """One error for all of them, a line each, of the kind that counts most."""
    lines = list(dict.fromkeys(str(problem) for problem in problems))
    first = min(problems, key=lambda p: next((i for i, kind in enumerate(_GRAVEST) if isinstance(p, kind)), 0))
    return first if len(lines) == 1 else type(first)("\n".join(lines))


@contextmanager
def collecting(problems: list[GenbenchError]) -> Iterator[None]:
    """Keeps an error of the block for later."""
    try:
        yield
    except GenbenchError as error:
        problems.append(error)


def expected(model: Model, spec: RunSpec, *, prompts: Samples | None, classes: tuple[str, ...]) -> Samples:
    """The images that a model will make, with their labels and captions, before it has made one.

    Args:
        prompts, classes: as of `generation.generate`.

    Raises:
        UsageError: a model that takes what the data set does not have.
    """
    taken = taken_by(model)
    if not taken <= {"labels"} and (prompts is None or ("captions" in taken and prompts.captions is None)):
        raise UsageError(f"The model {spec.model} takes {', '.join(sorted(taken))}, and {spec.dataset} has none.")
    seeds = generation.image_seeds(spec.seed, 0, spec.num_samples if taken else 0)
    asked = generation.conditions(model, seeds, prompts, to_sample=False)
    images = _unread(spec.num_samples, model.shape, str(spec.model))
    return replace(images, labels=asked.labels, captions=asked.captions, classes=classes)


def sift(
    cells: Sequence[Cell], comparison: Comparison, problems: Iterable[GenbenchError] = (), *, sides: bool = True
) -> list[Cell]:
    """The measurements that can be made; with a warning for each one that may be left out.

    Args:
        comparison: of the images, or of what they will be.
        problems: that were found before.
        sides: whether `comparison` has the images; else only extractors are looked for.

    Raises:
        GenbenchError: everything that stands against a measurement that was asked for, or against all of them.
    """
    found, kept, left_out = list(problems), [], []
    for cell in cells:
        wrong: list[GenbenchError] = []
        with collecting(wrong):
            taps_of(cell, comparison.extractor(cell))
        if sides:
            with collecting(wrong):
                check_cell(cell, comparison)
        if wrong and cell.optional:
            left_out.append((cell, wrong))
        elif wrong:
            found += wrong
        else:
            kept.append(cell)
    if not kept:
        found += [error for _, wrong in left_out for error in wrong]
    if found:
        raise together(found)
    for cell, wrong in left_out:
        _log.warning("%s is left out: %s", cell.metric.name, " ".join(map(str, wrong)))
    return kept


def check_arguments(cell: Cell, extractor: Extractor | None, reference: Samples | None) -> None:
    """Refuses values of arguments before any image is there, whose number, size and labels are then not known.

    Raises:
        UsageError: a value that no images would make right, or a metric that is not of images.
    """
    if cell.metric.likelihood:
        raise UsageError(f"{cell.metric.name} is a number of a model and of no images; use `genbench run --model ...`.")
    if cell.metric.check is None or (CLASSIFIER in cell.metric.taps and not (extractor and extractor.classifier)):
        return
    images = _unread(_PRETENDED, reference.shape if reference else (3, 32, 32), "images")
    more = {CLASSIFIER: extractor.classifier} if extractor and CLASSIFIER in cell.metric.taps else {}
    with suppress(InputRejected, NotComparable):
        cell.metric.check(
            generated=images,
            reference=reference or images,
            widths=extractor.widths if extractor else {},
            **more,
            **cell.metric_ref.args,
        )


def _unread(count: int, shape: tuple[int, int, int], origin: str) -> Samples:
    """Images that are not there yet."""

    def nothing(start: int, stop: int) -> Images:
        raise UsageError("These images have not been made yet.")

    return Samples(count=count, shape=shape, read=nothing, origin=origin, fingerprint=lambda: "")


def check_disk(
    output: Path | None, directory: Path | None, spec: RunSpec | None, comparison: Comparison, cells: Sequence[Cell]
) -> None:
    """Refuses work whose images and features find no room; what is there already needs none.

    Args:
        output: where runs lie, None where nothing is sampled; `directory` of this one.

    Raises:
        OutOfResources: too little room, or a place that cannot be written to.
    """
    needs = []
    generated = comparison.roles.get("generated")
    sampled = not cells or any(not cell.metric.likelihood for cell in cells)
    if sampled and output is not None and directory is not None and spec is not None and generated is not None:
        count = spec.num_samples - generation.kept_images(directory / "samples", spec)
        size = count * int(np.prod(generated.shape))
        needs.append((output, size, f"{count} images of {generated.shape}", "--output"))
    cache = weights.cache_directory()
    with suppress(OSError):  # a cache that cannot be used costs time and no number
        home = _existing(cache)
        # A file system such as /proc has no size, and takes no file.
        if os.access(home, os.W_OK) and home.is_dir() and shutil.disk_usage(home).total:
            needs.append((cache, _feature_bytes(comparison, cells), "features", "GENBENCH_CACHE"))
    on_disk: dict[int, int] = {}
    for place, size, what, option in needs:
        if not size:
            continue
        home = _existing(place)
        if not os.access(home, os.W_OK):
            raise OutOfResources(f"{shown(place)} cannot be written to; choose another by {option}.")
        device = home.stat().st_dev
        on_disk[device] = on_disk.get(device, _RESERVE) + size
        if (free := files.free_bytes(home)) < on_disk[device]:
            raise OutOfResources(
                f"{what} need {size >> 20} MiB under {shown(place)}, with all else on that disk "
                f"{on_disk[device] >> 20} MiB; {free >> 20} MiB are free. Choose another place by {option}, or fewer "
                "images."
            )


def _existing(place: Path) -> Path:
    place = place.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def _feature_bytes(comparison: Comparison, cells: Sequence[Cell]) -> int:
    """Bytes of the features that are not in the cache."""
    total = 0
    for name, cell in {str(cell.extractor_ref): cell for cell in cells if cell.metric.taps}.items():
        extractor = comparison.known(cell)
        for role, samples in comparison.roles.items():
            if extractor is not None and samples is not None and samples.count:
                with suppress(UsageError):  # told for the metric that has it
                    taps = comparison.taps(name, role, samples)
                    total += 4 * samples.count * sum(extractor.widths.get(tap, 0) for tap in taps)
    return total


def check_leaderboard(path: Path) -> None:
    """Refuses a file that rows could not be merged into when there are some.

    Raises:
        InputRejected: other columns than those of a leaderboard.
        OutOfResources: a place that cannot be written to.
    """
    if os.path.lexists(path):
        tables.read(path, report.COLUMNS)
    check_writable(path)


def check_writable(path: Path) -> None:
    """Refuses a file that could not be written later.

    Raises:
        OutOfResources: no permission, or a folder in the place of the file.
    """
    if path.is_dir() or not os.access(_existing(path), os.W_OK) or not _existing(path.absolute().parent).is_dir():
        raise OutOfResources(f"{shown(path)} cannot be written; choose another file, or change its permissions.")


def check_pictures(model: Model, spec: RunSpec, *, strip: bool, by_class: bool, problems: list[GenbenchError]) -> None:
    """Adds what stands against pictures of a model's steps and of its classes."""
    if strip and not hasattr(model, "trajectory"):
        problems.append(UsageError(f"{spec.model} does not show its steps, which --strip draws; leave it out."))
    if by_class and not taken_by(model) & {"labels", "captions"}:
        problems.append(UsageError(f"{spec.model} is asked for no classes, which --classes draws; leave it out."))


def notes(cell: Cell, comparison: Comparison) -> tuple[str, ...]:
    """What a reader of the number should know and would not guess from it: sentences."""
    metric, protocol, found = cell.metric, cell.protocol, []
    if metric.likelihood:
        return _notes_of_likelihood(cell, comparison)
    generated = comparison.roles["generated"]
    reference = comparison.roles.get(metric.against) if uses_reference(metric) else None
    extractor = comparison.extractor(cell)
    assert generated is not None
    published = reference is not None and statistics_of(cell, reference)
    sides = [side for side in (generated, None if published else reference) if side is not None and side.count]
    data = comparison.dataset or (reference or generated).dataset.partition(" ")[0]
    if extractor is not None and (home := extractor.made_for) and data != home:
        found.append(
            f"{cell.extractor_ref.name if cell.extractor_ref else ''} was trained on {home}, which are drawn; its "
            "numbers of other images are none of papers. Those need Inception (96 MB, `genbench fetch inception`) and "
            "a protocol: --protocol pytorch-fid, tf1 or adm."
        )
    if protocol.num_samples and generated.count < protocol.num_samples:
        found.append(
            f"The protocol {protocol.name} takes {protocol.num_samples} samples, and there are {generated.count}: the "
            "numbers compare with others of as many only."
        )
    if extractor is not None and reference is not None:
        width = max((extractor.widths.get(tap, 0) for tap in metric.taps), default=0)
        count, side = min((side.count, side.origin) for side in sides)
        if metric.moments and count < width:
            found.append(
                f"{count} images of {side} are fewer than the {width} features of {metric.name}: its bias is larger "
                "than its error bar, which is that of this number of images."
            )
        elif count < _FEW:
            found.append(f"{count} images of {side} are few: numbers depend on how many there are as well.")
    if reference is not None and reference.count and reference.shape[1:] != generated.shape[1:]:
        found.append(
            f"{generated.origin} has images of {_size(generated)} pixels and {reference.origin} of {_size(reference)}: "
            "a difference of sizes counts as one of the images."
        )
    if reference is not None and generated.format and reference.format and generated.format != reference.format:
        found.append(
            f"{generated.origin} are files of {generated.format} and {reference.origin} of {reference.format}: traces "
            "of compression count as a difference of the images."
        )
    if (metric.labels and reference is not None) or CLASSIFIER in metric.taps:
        found += comparison.notes
    if CLASSIFIER in metric.taps and extractor is not None and extractor.classifier is not None:
        found += filter(None, [labels.of_classifier(generated, extractor.classifier)[1]])
    if metric.floor and (short := comparison.short_of_floor.get(metric.floor)):
        found.append(short)
    return tuple(found)


def _notes_of_likelihood(cell: Cell, comparison: Comparison) -> tuple[str, ...]:
    subject = comparison.subject
    if subject is None or "labels" not in taken_by(subject.model):
        return ()
    return (f"{cell.metric.name} is of images given their labels, which {subject.spec.model.name} is told.",)


def _size(samples: Samples) -> str:
    return f"{samples.shape[2]}x{samples.shape[1]}"


def tell(told: Iterable[str]) -> None:
    """Says every note once, on stderr. The one way in which they are said."""
    for note in dict.fromkeys(told):
        _log.warning("note: %s", note)
