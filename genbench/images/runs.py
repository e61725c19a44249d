"""Folders that `genbench run` and `genbench sample` write, as sets of images, finished or not.

They hold shards: files of images, each with a record of the digests, labels and captions of its images. What a run is
stands in `samples/manifest.json`; `genbench.generation` writes all of it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genbench.arrays import Images, Samples, fingerprint_of, image_digests
from genbench.errors import InputRejected, shown
from genbench.images.refusals import Unfit, naming
from genbench.records import digest, unsealed

_log = logging.getLogger(__name__)

SCHEMAS = ("genbench.samples/1", "genbench.samples/2")


def run_in(place: Path) -> Path | None:
    """The folder of shards, where `place` is a run or that folder itself, else None."""
    for folder in (place / "samples", place):
        if (folder / "000000.npy").is_file():
            return folder
        try:
            told = json.loads((folder / "manifest.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(told, dict) and told.get("schema") in SCHEMAS:
            return folder
    return None


@dataclass(frozen=True, slots=True)
class _Shard:
    path: Path
    digests: NDArray[np.uint8]
    labels: list[int] | None
    captions: list[str] | None


@dataclass(frozen=True, slots=True)
class _Shards:
    """The images of all shards that are there, in the order of the run."""

    shards: tuple[_Shard, ...]
    shape: tuple[int, int, int]

    def read(self, start: int, stop: int) -> Images:
        # Memory is taken for what the files hold and not for what the manifest says of them.
        parts = []
        ends = np.cumsum([len(shard.digests) for shard in self.shards]).tolist()
        for shard, end in zip(self.shards, ends, strict=True):
            before = end - len(shard.digests)
            part = slice(max(start, before) - before, min(stop, end) - before)
            if part.start < part.stop:
                parts.append(self._of(shard, part))
        return np.concatenate(parts) if parts else np.empty((0, *self.shape), dtype=np.uint8)

    def _of(self, shard: _Shard, part: slice) -> Images:
        with naming(shard.path):
            images = np.load(shard.path, mmap_mode="r", allow_pickle=False)[part]
            wanted = shard.digests[part]
            if images.dtype != np.uint8 or images.shape != (len(wanted), *self.shape):
                raise Unfit("holds images of another shape than the manifest says")
            if (image_digests(images) != wanted).any():
                raise Unfit("holds other images than its record says")
            return images


def open_run(folder: Path, origin: str) -> Samples:
    """The images of a run that are there, with the labels or captions that they were asked for.

    Args:
        folder: of the shards.

    Raises:
        InputRejected: no image yet, or a manifest or a record that is damaged. Images that are not there yet are not
            missed, but those that were there are not left out either: the number would be another one.
    """
    with naming(folder / "manifest.json"):
        manifest = unsealed(json.loads((folder / "manifest.json").read_bytes()))
        if manifest is None:
            raise Unfit("is damaged; `genbench run` or `genbench sample` writes it anew")
        try:
            total, (c, h, w) = int(manifest["spec"]["num_samples"]), manifest["shape"]
            size, shape = int(manifest["shard"]), (int(c), int(h), int(w))
            read = _old_shard if manifest["schema"] == SCHEMAS[0] else _shard
            if manifest["schema"] not in SCHEMAS or total < 1 or size < 1 or min(shape) < 1:
                raise Unfit("is no manifest of a run")
            classes = tuple(str(name) for name in manifest.get("classes", ()))
        except (KeyError, TypeError, ValueError) as error:
            raise Unfit("is no manifest of a run") from error
    # Those that are there: a manifest may ask for more than anybody could look for.
    named = {path.stem for path in folder.iterdir() if path.suffix in (".npy", ".json")}
    there = sorted(int(stem) for stem in named if stem.isascii() and stem.isdecimal())
    found = [read(folder, number, manifest) for number in there if number < -(-total // size)]
    shards = _Shards(tuple(shard for shard in found if shard is not None), shape)
    if not shards.shards:
        raise InputRejected(f"The run {shown(folder)} has no images yet; {total} are meant to come.")
    digests = np.concatenate([shard.digests for shard in shards.shards])
    if len(digests) < total:
        _log.warning("%s: %d of %d images of this run are there.", shown(origin), len(digests), total)
    labels = [label for shard in shards.shards for label in shard.labels or ()]
    captions = tuple(caption for shard in shards.shards for caption in shard.captions or ())
    return Samples(
        count=len(digests),
        shape=shape,
        read=shards.read,
        origin=origin,
        fingerprint=lambda: fingerprint_of(shape, digests),
        hashes=lambda start, stop: digests[start:stop],
        labels=np.array(labels, dtype=np.int64) if labels else None,
        captions=captions or None,
        classes=classes,
        quantise=manifest.get("quantise"),
    )


def _shard(folder: Path, number: int, manifest: Mapping[str, Any]) -> _Shard | None:
    """A shard that has a record, or None where there is none yet, or one of other images than this run's."""
    path = folder / f"{number:06d}.json"
    if not path.exists():
        return None
    with naming(path):
        try:
            told = unsealed(json.loads(path.read_bytes())) or {}
            digests = np.frombuffer(bytes.fromhex(told["digests"]), dtype=np.uint8).reshape(-1, 32)
            labels, captions = lists = [told["labels"], told["captions"]]
            if any(values is not None and len(values) != len(digests) for values in lists):
                raise ValueError("lists of other lengths")
            if not all(type(label) is int and 0 <= label < 1 << 31 for label in labels or ()):
                raise ValueError("labels that are none")
            if not all(isinstance(caption, str) for caption in captions or ()):
                raise ValueError("captions that are none")
            made = told["made"]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise Unfit("is damaged; `genbench run` or `genbench sample` makes its images anew") from error
    mine = made == digest({name: value for name, value in manifest.items() if name != "classes"}) and len(digests) > 0
    return _Shard(path.with_suffix(".npy"), digests, labels, captions) if mine else None


def _old_shard(folder: Path, number: int, manifest: Mapping[str, Any]) -> _Shard | None:
    """A shard of the first layout, whose manifest had digests of whole files, and neither labels nor captions."""
    path = folder / f"{number:06d}.npy"
    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
        if images.ndim == 4 and hashlib.sha256(images.tobytes()).hexdigest() == manifest["shards"][number]:
            return _Shard(path, image_digests(images), None, None)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        pass
    return None
