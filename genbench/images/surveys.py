"""What one reading of image files has shown, kept for the next time while the files stay as they were.

Opening a set of a million images reads each of them once: its header is judged and its bytes are hashed. The result is
some 60 bytes an image. It lies in the cache under the state of the files (names, sizes, times of change, inodes). Where
nothing has changed, the next command reads no image to open the set. It is no proof: pixels that are read later
are held against the digests, and a file that differs is refused.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genbench import files
from genbench.images.names import Names
from genbench.records import digest
from genbench.weights import cache_directory

VERSION = 1
"""Raised when the policy of images changes, or what a survey holds."""
LEAST = 1000
"""Files of a folder from which on its survey is kept. Fewer are read anew as quickly as a survey is."""
_SETTLED = 2.0
"""Seconds for which files must have been at rest: a file may change twice in one tick of a file system's clock."""

Watch = Callable[[str, float, float], None]
_WATCH: ContextVar[Watch | None] = ContextVar("genbench.images.surveys.watch", default=None)


@contextmanager
def watched(watch: Watch | None) -> Iterator[None]:
    """Tells `watch(stage, done, total)` of surveys and downloads while the block runs."""
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)


def progress(stage: str, done: float, total: float) -> None:
    """Tells whoever watches."""
    if (watch := _WATCH.get()) is not None:
        watch(stage, done, total)


@dataclass(slots=True, kw_only=True)
class Survey:
    """Images of a container, in the order of the set.

    Attributes:
        names: of the images inside the container; None where they are numbered.
        digests: uint8 (n, 32), SHA-256 of the bytes of every image file.
        sizes: images by (width, height).
        notices: images by what is said of them.
        places: uint32 (n, 2) in a tar, where a file begins, in blocks of 512 bytes, and its length in bytes.
        labels: int64 (n,), where the container has them.
        classes: names of the classes, empty where they are unknown.
        captions: a text an image, where the container has them.
        folders: names of folders in a tar that hold nothing.
        groups: int64 (k,), where the row groups of a parquet file end.
        passed_over: other files by their kind.
    """

    names: Names | None
    digests: NDArray[np.uint8]
    sizes: Counter[tuple[int, int]]
    notices: Counter[str] = field(default_factory=Counter)
    places: NDArray[np.uint32] | None = None
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    captions: Names | None = None
    folders: tuple[str, ...] = ()
    groups: NDArray[np.int64] | None = None
    passed_over: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.digests)


def key_of(kind: str, state: Iterable[Any], max_pixels: int) -> str:
    """Name under which a survey is kept.

    Args:
        state: of the files: whatever changes when one of them does.
    """
    return digest([VERSION, kind, list(state), max_pixels], 32)


def settled(newest: int) -> bool:
    """Whether files of which the last changed at `newest`, in ns since the epoch, are told apart by their times."""
    return time.time_ns() - newest > _SETTLED * 1e9


def _place(key: str) -> Path:
    return cache_directory() / "surveys" / f"{key}.survey"


def forget(key: str) -> None:
    """Removes a survey that turned out not to be that of its files."""
    with suppress(OSError):
        _place(key).unlink(missing_ok=True)


def recall(key: str) -> Survey | None:
    """The survey that was kept, None where there is none that is whole."""
    if (content := files.kept(_place(key))) is None:
        return None
    with suppress(OSError):
        os.utime(_place(key))  # it was used, and is not what `genbench cache prune` looks for
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        told = json.loads(arrays.pop("told").tobytes())
        survey = Survey(
            names=_names(arrays, "names"),
            digests=arrays["digests"].reshape(-1, 32),
            sizes=Counter({(int(w), int(h)): int(count) for w, h, count in told["sizes"]}),
            notices=Counter(told["notices"]),
            places=arrays.get("places"),
            labels=arrays.get("labels"),
            classes=tuple(told["classes"]),
            captions=_names(arrays, "captions"),
            folders=tuple(told["folders"]),
            groups=arrays.get("groups"),
            passed_over=Counter(told["passed_over"]),
        )
    except (OSError, ValueError, KeyError, TypeError):  # of another version of this package
        return None
    return survey if survey.sizes.total() == len(survey) else None


def _names(arrays: dict[str, NDArray[Any]], name: str) -> Names | None:
    return Names(arrays[name].tobytes(), arrays[f"{name}_ends"]) if name in arrays else None


def remember(key: str, survey: Survey) -> None:
    """Keeps a survey in the cache, where that can be written to."""
    told = {
        "sizes": [[*size, count] for size, count in survey.sizes.items()],
        "notices": survey.notices,
        "classes": survey.classes,
        "folders": survey.folders,
        "passed_over": survey.passed_over,
    }
    arrays: dict[str, NDArray[Any]] = {
        "told": np.frombuffer(json.dumps(told).encode(), np.uint8),
        "digests": survey.digests,
    }
    for name, texts in (("names", survey.names), ("captions", survey.captions)):
        if texts is not None:
            arrays[name], arrays[f"{name}_ends"] = np.frombuffer(texts.blob, np.uint8), texts.ends
    for name, values in (("places", survey.places), ("labels", survey.labels), ("groups", survey.groups)):
        if values is not None:
            arrays[name] = values
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    files.keep(_place(key), content.getvalue())
