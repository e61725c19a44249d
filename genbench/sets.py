"""Sets of images by the words that name them: splits of data sets, paths, and choices of fewer images."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

from genbench import (
    images,
    registry,
    subsets,
)
from genbench.arrays import Samples
from genbench.contracts import Dataset
from genbench.errors import InputRejected, UsageError, calling, shown
from genbench.measuring import Execution
from genbench.records import Ref


def outlined(samples: Samples | None, number: int | None, _: Execution) -> Samples | None:
    """What `at_most` will give, before any pixel is read."""
    small = samples is None or not number or samples.count <= number
    return samples if small or samples is None or not number else subsets.outline(samples, number)


def load_split(dataset: Dataset, ref: Ref, role: str, execution: Execution) -> Samples | None:
    """All images of the split that plays a role, or None when the data set has none."""
    if role not in dataset.splits:
        return None
    args: dict[str, Any] = dict(ref.args)
    if "directory" in inspect.signature(dataset.load).parameters:
        args["directory"] = execution.data_dir
    with calling(f"The data set {ref}"), images.watched(execution.watch):
        samples = dataset.load(dataset.splits[role], **args)
    if samples is not None and not isinstance(samples, Samples):
        raise UsageError(f"The data set {ref} gave {type(samples).__name__}; it gives genbench.arrays.Samples or None.")
    return samples and replace(samples, dataset=name_of(dataset, ref))


def name_of(dataset: Dataset, ref: Ref) -> str:
    """What names the images of a data set everywhere, empty where only their content does."""
    return str(Ref(f"{dataset.name} {dataset.version}", ref.brief().args)) if dataset.named else ""


def class_captions(samples: Samples, prompt: str) -> Samples:
    """The samples with a caption an image made of its class; unchanged where labels or names of classes are missing."""
    if samples.labels is None or not samples.classes:
        return samples
    names = [prompt.format(name) for name in samples.classes]
    return replace(samples, captions=[names[int(label)] for label in samples.labels])


def at_most(samples: Samples | None, number: int | None, execution: Execution) -> Samples | None:
    """A fair choice of so many images. All of them where there are fewer, or where no number is given."""
    if samples is None or not number or samples.count <= number:
        return samples
    return subsets.subset(samples, number, workers=execution.workers)[0]


def open_side(text: str, execution: Execution, *, role: str) -> tuple[Samples, Dataset | None, Ref | None]:
    """Images from what a user typed: a path to a folder, zip, npz or shards, or a data set by name.

    A reference may also be an npz of published statistics (`images.open_reference`).

    A data set takes `split` and `count` beside its own arguments: `shapes(split='test', count=1000)`.

    Raises:
        InputRejected: a path that does not exist or holds no usable images.
        UsageError: neither a path nor the name of a data set.
    """
    if not text.strip():
        raise UsageError("An empty text names no images; is a variable of the shell not set? Write . for this folder.")
    if _exists(text) or images.names_files(text):
        with images.watched(execution.watch):
            return images.open_reference(text) if role == "reference" else images.open_images(text), None, None
    looks_like_path = "/" in text or text.endswith((".zip", ".tar", ".parquet", ".lmdb", ".npz", ".npy"))
    if looks_like_path and "(" not in text:
        raise InputRejected(f"There is no folder or file of images at {shown(text[:200])}.")
    ref = Ref.parse(text)
    if ref.name not in registry.table("dataset") and ":" not in ref.name:
        raise InputRejected(
            f"{text[:200]!r} is neither a path that exists nor a data set. "
            f"Data sets: {', '.join(registry.table('dataset'))}."
        )
    args = dict(ref.args)
    split, count = args.pop("split", None), args.pop("count", None)
    if count is not None and (type(count) is not int or count < 1):
        raise UsageError(f"count is a whole number of at least 1; got {count!r} in {text}.")
    if split is not None and (not isinstance(split, str) or not split):
        raise UsageError(f"split is the name of a split, such as 'test'; got {split!r} in {text}.")
    dataset, ref = registry.bind("dataset", Ref(ref.name, args))
    if split is not None:
        dataset = replace(dataset, splits={**dataset.splits, role: str(split)})
    samples = load_split(dataset, ref, role, execution)
    if samples is None:
        raise UsageError(f"The data set {ref.name} has no {split or role} split here; give another, split='...'.")
    if count is not None and count > samples.count:
        raise UsageError(f"{samples.origin} has {samples.count} images; {count} were asked for in {text}.")
    chosen = at_most(samples, dataset.reference_count if count is None else count, execution)
    assert chosen is not None
    return chosen, dataset, ref


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # a name too long, or one that holds a zero byte
        return False
