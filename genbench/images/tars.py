"""Images in tar shards, read where they lie: plain tars of a folder, and those of WebDataset.

A shard is read once from its beginning to its end: `tarfile` reads the index, and every image is judged and hashed on
the way. Afterwards an image is the bytes at a known place. Nothing is extracted.

In WebDataset, members of one name up to the ending belong together: `0001.jpg`, its class number in `0001.cls`, its
caption in `0001.txt`, or both in `0001.json`.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from genbench.errors import InputRejected, shown
from genbench.images.captions import CAPTION_COLUMNS, METADATA, caption_files, fault_of, read_captions
from genbench.images.containers import MAX_FILE, leaves
from genbench.images.encoded import Look, kind_of
from genbench.images.names import Names
from genbench.images.places import Place, read_at
from genbench.images.refusals import EXTENSIONS, Unfit, naming
from genbench.images.surveys import Survey, progress

BLOCK = tarfile.BLOCKSIZE
_LONGEST = 1 << 20
"""Bytes of a header of a member, long names and attributes among them."""
_MANY = 100
"""Headers of one member."""
_SMALL = 1 << 20
"""Bytes of a caption, a label or a JSON file of one image."""
_TEXTS = 4 << 30
"""Bytes of all of them."""
LABEL_KEYS = ("label", "cls")
_LARGEST = 1 << 31


class _Headers:
    """What `tarfile` may read of a file: headers, few of them for one member and none that is huge."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.reads = file, 0

    def read(self, size: int) -> bytes:
        self.reads += 1
        if size > _LONGEST or self.reads > _MANY:
            raise Unfit("has a header out of all proportion")
        return self.file.read(size)

    def seek(self, position: int) -> int:
        return self.file.seek(position)

    def tell(self) -> int:
        return self.file.tell()


@dataclass(slots=True)
class _Found:
    """What a walk through a shard collects.

    Attributes:
        images: name, first block and bytes of every image in the order of the tar.
        texts: content by name of small files that may hold labels and captions.
        folders: names of folders.
        others: files that are neither, by their kind.
    """

    images: list[tuple[str, int, int]]
    texts: dict[str, bytes]
    folders: set[str]
    others: Counter[str]


@dataclass(frozen=True, slots=True)
class _Texts:
    """Files of a shard that were read already."""

    path: object
    content: Mapping[str, bytes]

    def read(self, name: str) -> bytes:
        return self.content[name]


def survey_of(path: Place, max_pixels: int) -> Survey:
    """Reads a shard once.

    Raises:
        InputRejected: no tar, a compressed one, one that is cut short or damaged; members that are links, devices or
            sparse, that lie outside the archive or have the name of another; images that cannot be used; several images
            of one sample; labels or captions of some of the images alone.
    """
    with naming(path):
        look, found = Look(max_pixels), _Found([], {}, set(), Counter())
        with path.open("rb") as file:
            _walk(file, path.stat().st_size, found, look, path.name)
        if not found.images:
            raise Unfit(f"has no images ({', '.join(EXTENSIONS)})")
        digests = look.finish(path, len(found.images))
    names = [name for name, _, _ in found.images]
    order = sorted(range(len(names)), key=names.__getitem__)
    names = [names[i] for i in order]
    _check_samples(path, names)
    texts = _Texts(path, found.texts)
    labels = _labels(path, names, found.texts)
    captions = read_captions(texts, [*names, *found.texts], names) or _told(path, names, found.texts, CAPTION_COLUMNS)
    used = {one for some in caption_files(list(found.texts), names) for one in some}
    others = found.others + Counter(
        kind_of(name) for name in found.texts if name not in used and not name.endswith((".json", ".cls"))
    )
    return Survey(
        names=Names.of(names),
        digests=digests[order],
        sizes=look.sizes,
        notices=look.notices,
        places=np.array([found.images[i][1:] for i in order], dtype=np.uint32),
        labels=labels,
        captions=None if captions is None else Names.of(captions),
        folders=tuple(sorted(found.folders - {str(p) for name in names for p in PurePosixPath(name).parents})),
        passed_over=others,
    )


def _walk(file: IO[bytes], size: int, found: _Found, look: Look, title: str) -> None:
    """Reads all members. Where images are, is known in the end; what of them is wrong, `look` knows."""
    headers = _Headers(file)
    try:
        tar = tarfile.open(fileobj=headers, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115
    except tarfile.ReadError as error:
        raise Unfit(f"is no tar without compression ({shown(error)}), as tars are read in place") from error
    seen: set[str] = set()
    texts = 0
    while (member := tar.next()) is not None:
        tar.members.clear()  # it keeps every member that it has ever seen
        headers.reads = 0
        name = member.name.removeprefix("./")
        _check(member, name, size)
        if name in seen:
            raise Unfit(f"holds {shown(name)} twice; write the tar anew")
        seen.add(name)
        if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
            continue
        if member.isdir():
            found.folders.add(name.rstrip("/"))
            continue
        lower = name.lower()
        if lower.endswith(EXTENSIONS):
            found.images.append((name, member.offset_data // BLOCK, member.size))
            if not look.at(name, partial(_content, file, member)):
                return
            if not look.count % 256:
                progress(f"survey of {title}", look.count, round(look.count * size / max(tar.offset, 1)))
        elif lower.endswith((".txt", ".json", ".cls")) or PurePosixPath(name).name in METADATA:
            if member.size > (_SMALL if PurePosixPath(name).name not in METADATA else MAX_FILE):
                raise Unfit(f"has {shown(name)} of {member.size:,} bytes, which is no text of one image")
            texts += member.size
            if texts > _TEXTS:
                raise Unfit(f"has more than {_TEXTS:,} bytes of captions and labels")
            found.texts[name] = _content(file, member)
        else:
            found.others[kind_of(name)] += 1
    file.seek(tar.offset)
    if file.read(BLOCK) != bytes(BLOCK):
        raise Unfit("is cut short or damaged: its end is missing; make or download it anew")
    while piece := file.read(1 << 20):
        if piece.strip(b"\0"):
            raise Unfit("goes on behind its end, as two tars that were joined do; give them as two files")


def _check(member: tarfile.TarInfo, name: str, size: int) -> None:
    """Refuses members that are no plain files or folders inside the archive."""
    problem = None
    if leaves(name):
        problem = "a path that leaves the archive"
    elif member.issym() or member.islnk():
        problem = "a link"
    elif member.issparse():
        problem = "a sparse file"
    elif not (member.isreg() or member.isdir()):
        problem = "no plain file"
    elif member.size < 0 or member.offset_data % BLOCK or member.offset_data + member.size > size:
        raise Unfit(f"is cut short or damaged at {shown(name)}; make or download it anew")
    if problem:
        raise Unfit(f"contains {problem}: {shown(name)}; write the tar anew from plain files")


def _content(file: IO[bytes], member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_FILE:
        raise Unfit(f"is larger than {MAX_FILE:,} bytes")
    file.seek(member.offset_data)
    data = file.read(member.size)
    if len(data) != member.size:
        raise Unfit("ends too early")
    return data


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _check_samples(path: Place, names: Sequence[str]) -> None:
    """Refuses samples of several images, such as a picture and its mask: one of them would be measured as the other."""
    first: dict[str, str] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        key, _, kind = file.partition(".")
        inner = kind.rpartition(".")[0]
        if inner.isascii() and inner.isdecimal():  # a number, as in sample.0001.png
            continue
        other = first.setdefault(f"{folder}/{key}", name)
        if other != name:
            raise InputRejected(
                f"{shown(path)} has several images of one sample ({shown(other)}, {shown(name)}), and a set has one "
                "kind of images; write a tar of those that are meant."
            )


def _labels(path: Place, names: Sequence[str], texts: Mapping[str, bytes]) -> NDArray[np.int64] | None:
    """Class numbers from `.cls` members, else from the JSON of every image."""
    if any(name.lower().endswith(".cls") for name in texts):
        said = {_stem(name): content for name, content in texts.items() if name.lower().endswith(".cls")}
        missing = [name for name in names if _stem(name) not in said]
        if missing:
            raise InputRejected(
                f"{shown(path)}: {len(missing)} of {len(names)} images have no .cls, such as {shown(missing[0])}."
            )
        numbers: list[Any] = []
        for name in names:
            text = said[_stem(name)].strip()
            if not (text.isdigit() and len(text) < 11 and int(text) < _LARGEST):
                raise InputRejected(
                    f"{shown(path)}/{shown(_stem(name))}.cls holds {shown(text[:40])}, which is no class number from 0."
                )
            numbers.append(int(text))
        return np.array(numbers, np.int64)
    found = _told(path, names, texts, LABEL_KEYS)
    return None if found is None else np.array(found, np.int64)


def _told(path: Place, names: Sequence[str], texts: Mapping[str, bytes], keys: Sequence[str]) -> list[Any] | None:
    """What the JSON of every image says under one of the keys, None where it says nothing of the kind.

    Raises:
        InputRejected: JSON that cannot be read, a key that some of the images lack, or a value of another kind.
    """
    said = {_stem(name): content for name, content in texts.items() if name.lower().endswith(".json")}
    if not said:
        return None
    found: list[Any] = []
    key = ""
    for number, name in enumerate(names):
        place = f"{path}/{_stem(name)}.json"
        with naming(place):
            told = json.loads(said[_stem(name)]) if _stem(name) in said else {}
            if not isinstance(told, dict):
                raise Unfit("holds no JSON object")
            there = [one for one in keys if told.get(one) is not None]
            if len(there) > 1:
                raise Unfit(f"has {' and '.join(there)}; keep one of them")
            if number and there != [key] * bool(key):
                raise Unfit(f"has {there[0] if there else f'no {key}'}, unlike other images of this tar")
            key = there[0] if there else ""
            if not key:
                continue
            value = told[key]
            if keys is LABEL_KEYS and not (type(value) is int and 0 <= value < _LARGEST):
                raise Unfit(f"has the {key} {shown(str(value)[:40])}, which is no class number from 0")
            if keys is CAPTION_COLUMNS and (problem := fault_of(value)):
                raise Unfit(f"has a {key} that {problem}")
            found.append(value)
    return found or None


@dataclass(frozen=True, slots=True)
class Shards:
    """Images of several tars, one tar after the other and each in the order of its names."""

    paths: tuple[Place, ...]
    surveys: tuple[Survey, ...]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _at(self, number: int) -> tuple[Place, Survey, int]:
        shard = int(np.searchsorted(self.ends, number, side="right"))
        return self.paths[shard], self.surveys[shard], number - (int(self.ends[shard - 1]) if shard else 0)

    def content(self, number: int) -> bytes:
        path, survey, inner = self._at(number)
        assert survey.places is not None
        block, size = survey.places[inner].tolist()
        return read_at(path, block * BLOCK, size)

    def place(self, number: int) -> str:
        path, survey, inner = self._at(number)
        assert survey.names is not None
        return f"{path}/{survey.names[inner]}"
