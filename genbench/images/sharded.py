"""Sets of images in shards: tars, parquet files and an LMDB, one file or many, as one set."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genbench.arrays import Samples
from genbench.errors import InputRejected, shown
from genbench.images import lmdbs, parquets, surveys, tars
from genbench.images.encoded import EncodedFiles, Source, classes_of_folders, format_of, one_size, tell_passed_over
from genbench.images.names import Names
from genbench.images.places import SHARDS, Place, check_whole, expanded, is_pattern, state_of
from genbench.images.refusals import naming
from genbench.images.surveys import Survey


def _survey_of_database(path: Place, max_pixels: int) -> Survey:
    assert isinstance(path, Path)  # databases are copied
    return lmdbs.survey_of(path, max_pixels)


_SURVEYS: dict[str, Callable[[Place, int], Survey]] = {
    ".tar": tars.survey_of,
    ".parquet": parquets.survey_of,
    ".lmdb": _survey_of_database,
}


@dataclass(frozen=True, slots=True)
class Found:
    """Files that make one set, in their order, all of a kind: one of `_SURVEYS`."""

    kind: str
    paths: tuple[Place, ...]


def found(path: str | os.PathLike[str]) -> Found | None:
    """The shards that a path or a pattern names, None where it names something else.

    Raises:
        InputRejected: files of a pattern that are missing or of two kinds.
    """
    text, place = os.fspath(path), Path(path)
    try:
        if not place.exists():
            if not is_pattern(text):
                return None
            paths = expanded(text)
            check_whole(text, [one.name for one in paths])
            return of_one_kind(text, paths)
        if (database := lmdbs.file_of(place)) is not None:
            return Found(".lmdb", (database,))
    except (OSError, ValueError):  # a name that cannot be one
        return None
    kind = place.suffix.lower()
    return Found(kind, (place,)) if kind in SHARDS and not place.is_dir() else None


def inside(folder: Path, visible: Sequence[str]) -> Found | None:
    """The shards in a folder that has no images, None where there are none.

    Raises:
        InputRejected: shards of several sets, such as splits, or of two kinds; some of them missing.
    """
    names = sorted(name for name in visible if name.lower().endswith(SHARDS))
    if not names or not folder.is_dir():
        return None
    check_whole(folder, names)
    return of_one_kind(folder, [folder / name for name in names])


def of_one_kind(origin: object, paths: Sequence[Place]) -> Found:
    kinds = {path.suffix.lower() for path in paths}
    if len(kinds) > 1:
        raise InputRejected(f"{shown(origin)} has files of {' and '.join(sorted(kinds))}; give those of one kind.")
    return Found(kinds.pop(), tuple(paths))


def open_shards(given: Found, origin: str, max_pixels: int, *, labels_from_folders: bool) -> Samples:
    """The images of all shards as one set, with labels and captions where every shard has them.

    Raises:
        InputRejected: what the surveys of the formats refuse; images of several sizes; labels, captions or names of
            classes that differ from shard to shard.
        MissingAsset: a library that reads the format is not installed.
    """
    known: list[Survey] = []
    keys: list[str] = []
    for path in given.paths:
        survey, key = _surveyed(given.kind, path, max_pixels)
        known.append(survey)
        keys += [key] * bool(key)
    sizes: Counter[tuple[int, int]] = sum((survey.sizes for survey in known), Counter())
    notices: Counter[str] = sum((survey.notices for survey in known), Counter())
    tell_passed_over(origin, sum((survey.passed_over for survey in known), Counter()))
    width, height = one_size(origin, sizes, notices)
    ends = np.cumsum([len(survey) for survey in known]).astype(np.int64)
    labels, classes = _labels(origin, known)
    if labels is None and given.kind != ".parquet" and labels_from_folders:
        labels, classes = _by_folders(known)
    digests = known[0].digests if len(known) == 1 else np.concatenate([survey.digests for survey in known])
    captions = _captions(origin, known)
    form = " and ".join(sorted({format_of(survey.names) for survey in known if survey.names is not None}))
    for survey in known:  # what stands in the whole now
        survey.digests, survey.labels, survey.captions = digests[:0], None, None
    images = EncodedFiles(_source(given, known, ends), height, width, digests, tuple(keys))
    return Samples(
        count=int(ends[-1]),
        shape=(3, height, width),
        read=images.read,
        origin=origin,
        fingerprint=images.fingerprint,
        labels=labels,
        captions=captions,
        classes=classes,
        format=form if given.kind == ".tar" else "",
    )


def _surveyed(kind: str, path: Place, max_pixels: int) -> tuple[Survey, str]:
    """The survey of a shard, from the cache or by reading it, and its key there, empty where it is not kept."""
    with naming(path):
        state, settled = state_of(path)
    key = surveys.key_of(kind, state, max_pixels)
    known = surveys.recall(key)
    if known is None:
        known = _SURVEYS[kind](path, max_pixels)
        if not settled:
            return known, ""
        surveys.remember(key, known)
    return known, key


def _source(given: Found, known: Sequence[Survey], ends: NDArray[np.int64]) -> Source:
    if given.kind == ".tar":
        return tars.Shards(given.paths, tuple(known), ends)
    if given.kind == ".parquet":
        return parquets.Rows(given.paths, tuple(s.groups for s in known if s.groups is not None), ends)
    assert known[0].names is not None
    assert isinstance(given.paths[0], Path)
    return lmdbs.Values(given.paths[0], known[0].names)


def _labels(origin: str, known: Sequence[Survey]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    labels = [survey.labels for survey in known if survey.labels is not None]
    if not labels:
        return None, ()
    if len(labels) != len(known) or len({survey.classes for survey in known}) > 1:
        what = "labels" if len(labels) != len(known) else "the same names of classes"
        raise InputRejected(f"{shown(origin)}: not all of its {len(known)} files have {what}; give those of one set.")
    return np.concatenate(labels), known[0].classes


def _captions(origin: str, known: Sequence[Survey]) -> Names | None:
    captions = [survey.captions for survey in known if survey.captions is not None]
    if not captions:
        return None
    if len(captions) != len(known):
        raise InputRejected(
            f"{shown(origin)}: {len(captions)} of its {len(known)} files have captions, and others not."
        )
    return captions[0] if len(captions) == 1 else Names.joined(captions)


def _by_folders(known: Sequence[Survey]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Classes by the folders inside tars, and by the keys of a database that are paths."""
    names = [name for survey in known if survey.names is not None for name in survey.names]

    def empty(place: str) -> list[str]:
        prefix = f"{place}/" if place else ""
        folders = {folder for survey in known for folder in survey.folders if folder.startswith(prefix)}
        return [folder.removeprefix(prefix).partition("/")[0] for folder in folders]

    return classes_of_folders(names, empty)
