"""Arrays of images, labels, captions and published statistics in npz and npy files. Nothing is unpickled."""

from __future__ import annotations

import json
import logging
import math
import re
import struct
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from genbench.arrays import Images, Samples, Statistics, fingerprint_of, image_digests
from genbench.errors import InputRejected, UsageError, shown
from genbench.images.captions import fault_of
from genbench.images.containers import open_zip
from genbench.images.pinned import Pins
from genbench.images.places import Place, read_at
from genbench.images.refusals import Unfit, naming, reason, regular, verdict
from genbench.records import Ref

_log = logging.getLogger(__name__)

MAX_ARRAY = 8 << 30
"""Bytes of a compressed array, which has to be held in memory; uncompressed ones are read in place at any size."""


STATISTICS: Mapping[str, tuple[tuple[str, str], Mapping[int, tuple[str, ...]]]] = {
    "pooled": (
        ("mu", "sigma"),
        {
            384: ("dinov2",), 512: ("clip",), 640: ("clip",), 768: ("clip", "dinov2"), 1024: ("clip", "dinov2"),
            1280: ("clip",), 1536: ("dinov2",), 2048: ("inception",),
        },
    ),
    "spatial": (("mu_s", "sigma_s"), {2023: ("inception",)}),
}  # fmt: skip
"""Names of mean and covariance in published files, and extractors that give so many features, by tap."""


_WIDEST = 16_384
"""Features of statistics; a covariance of so many takes 2 GiB."""
LARGEST_STATISTIC = 1e100
"""Beyond it squares are not finite in float64, and no distance comes of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the pixels of an array lie.

    Attributes:
        path: of the .npy or .npz file; `member` of the latter.
        packed: whether the member is compressed.
        offset: where the first pixel is: in the file, or in the expanded member if that is packed.
        shape: (n, h, w, c) if `channels_last`, else (n, c, h, w).
    """

    path: Place
    member: str | None
    packed: bool
    offset: int
    shape: tuple[int, ...]
    channels_last: bool


class _Array:
    """A uint8 array of images in an .npy file or in a member of an .npz.

    Uncompressed ones are read in place, and not mapped: a file that is cut short while it is read would end the
    process. Compressed ones are expanded into memory when first read.
    """

    def __init__(self, place: _Place) -> None:
        self.place = place
        self._lock = threading.Lock()
        self._expanded: NDArray[np.uint8] | None = None
        self._pins = Pins(place.shape[0])
        self._checked = place.packed or place.member is None

    def __getstate__(self) -> _Place:
        return self.place

    def __setstate__(self, place: _Place) -> None:
        _Array.__init__(self, place)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) as stored."""
        _, a, b, c = self.place.shape
        return (c, a, b) if self.place.channels_last else (a, b, c)

    def read(self, start: int, stop: int) -> Images:
        with naming(self.place.path):
            stored = self._packed()[start:stop] if self.place.packed else self._in_place(start, stop)
        if self.place.channels_last:
            stored = stored.transpose(0, 3, 1, 2)
        images = np.ascontiguousarray(np.broadcast_to(stored, (len(stored), 3, *self.shape[1:])))
        self._pins.hold(start, image_digests(images), self.place.path)
        return images

    def _in_place(self, start: int, stop: int) -> NDArray[np.uint8]:
        one = math.prod(self.place.shape[1:])
        data = read_at(self.place.path, self.place.offset + start * one, (stop - start) * one)
        return np.frombuffer(data, dtype=np.uint8).reshape(-1, *self.place.shape[1:])

    def _packed(self) -> NDArray[np.uint8]:
        with self._lock:
            if self._expanded is None:
                self._expanded = self._expand()
            return self._expanded

    def _expand(self) -> NDArray[np.uint8]:
        values = np.empty(self.place.shape, dtype=np.uint8)
        data, position = values.reshape(-1).data, -self.place.offset
        for piece in self._pieces(self.place.offset):
            if position >= 0:
                data[position : position + len(piece)] = piece
            position += len(piece)
        if position != len(data):
            raise Unfit("ends too early")
        return values

    def _pieces(self, first: int) -> Iterator[bytes]:
        """The member's bytes, at first so many; zipfile compares the checksum at the end."""
        with open_zip(self.place.path) as archive, archive.open(str(self.place.member)) as file:
            piece = file.read(first)
            while piece:
                yield piece
                piece = file.read(1 << 20)

    def hashes(self, start: int, stop: int) -> NDArray[np.uint8]:
        """`image_digests` of the images start..stop-1."""
        if not self._checked:
            with naming(self.place.path):
                for _ in self._pieces(1 << 20):  # pixels that are read in place have met no checksum
                    pass
            self._checked = True
        rows = max(1, (1 << 24) // (3 * self.shape[1] * self.shape[2]))
        for first in range(start, stop, rows):
            last = min(first + rows, stop)
            if not self._pins.known[first:last].all():
                self.read(first, last)
        return self._pins.digests[start:stop].copy()

    def fingerprint(self) -> str:
        """The fingerprint that `Samples.of` gives the same images, however the array is laid out or packed."""
        return fingerprint_of((3, *self.shape[1:]), self.hashes(0, self.place.shape[0]))


def open_array(path: Place, max_pixels: int) -> Samples:
    labels: NDArray[np.int64] | None = None
    captions: tuple[str, ...] | None = None
    member, packed = None, False
    try:
        regular(path)
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                shape, dtype, offset = _array_header(file, path.stat().st_size)
        else:
            with open_zip(path) as archive:
                entries = {entry.filename: entry for entry in archive.infolist()}
                if "arr_0.npy" not in entries:
                    there = ", ".join(sorted(name.removesuffix(".npy") for name in entries)[:5]) or "nothing"
                    hint = "; statistics can be a reference, but are no samples" if "sigma.npy" in entries else ""
                    raise Unfit(f"has no array arr_0 but {shown(there)}{hint}")
                entry = entries["arr_0.npy"]
                with archive.open(entry) as file:
                    shape, dtype, offset = _array_header(file, entry.file_size)
                member, packed = entry.filename, entry.compress_type != zipfile.ZIP_STORED
                if not packed:
                    offset += _start_of(path, entry)
                elif entry.file_size > MAX_ARRAY:
                    raise Unfit(f"is compressed and would take {entry.file_size:,} bytes; save it with numpy.savez")
                if "arr_1.npy" in entries:
                    labels = _labels(archive, entries["arr_1.npy"], shape)
                if "captions.npy" in entries:
                    captions = _texts(archive, entries["captions.npy"], shape)
        channels_last = _layout(shape, dtype, max_pixels)
    except InputRejected:
        raise
    except Exception as error:  # damaged archives and headers raise whatever their fields lead to
        raise InputRejected(f"{shown(path)} {verdict(error)}.") from error
    array = _Array(
        _Place(path=path, member=member, packed=packed, offset=offset, shape=shape, channels_last=channels_last)
    )
    channels, height, width = array.shape
    if channels == 1:
        _log.warning("%s: the images are greyscale; the channel is repeated three times.", path)
    return Samples(
        count=shape[0],
        shape=(3, height, width),
        read=array.read,
        origin=str(path),
        fingerprint=array.fingerprint,
        hashes=array.hashes,
        labels=labels,
        captions=captions,
    )


def _array_header(file: IO[bytes], size: int, *, symmetric: bool = False) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, dtype and length of the header of an .npy file of `size` bytes, which must agree; no data is read.

    Args:
        symmetric: whether the order of the axes makes no difference.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise Unfit(f"is an array file of version {version[0]}.{version[1]}; 1.0 and 2.0 are read")
    parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = parse(file)
    if dtype.hasobject:
        raise Unfit("holds Python objects, which are never loaded; save plain numbers")
    if fortran and len(shape) > 1 and not symmetric:
        raise Unfit("is in Fortran order; save numpy.ascontiguousarray of it")
    shape = tuple(map(int, shape))  # numpy takes True for a length
    count = dtype.itemsize
    for axis in shape:
        count *= axis
    if min(shape, default=1) < 1 or file.tell() + count != size:
        raise Unfit(f"is damaged: {size:,} bytes do not hold an array {shape} of {dtype}")
    return shape, dtype, file.tell()


def _layout(shape: tuple[int, ...], dtype: np.dtype[Any], max_pixels: int) -> bool:
    """Whether channels come last."""
    if dtype != np.uint8:
        raise Unfit(f"holds {dtype}; images are uint8 in [0, 255]")
    if len(shape) != 4:
        raise Unfit(f"has the shape {shape}; images are (n, h, w, c) or (n, c, h, w)")
    last, first = shape[3] in (1, 3), shape[1] in (1, 3)
    if last == first:
        what = "both the first and the last axis may be channels" if last else "neither has 1 or 3 channels"
        raise Unfit(f"has the shape {shape}, neither clearly (n, h, w, c) nor (n, c, h, w): {what}")
    height, width = shape[1:3] if last else shape[2:4]
    if height * width > max_pixels:
        raise Unfit(f"has images of {width}x{height} pixels, more than {max_pixels:,}")
    return last


def _labels(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, images: tuple[int, ...]) -> NDArray[np.int64]:
    with archive.open(entry) as file:
        shape, dtype, _ = _array_header(file, entry.file_size)
        if dtype.kind not in "iu" or shape != images[:1]:
            raise Unfit(f"has labels {dtype} {shape} in arr_1; they are integers, one an image: {images[:1]}")
        values = np.frombuffer(file.read(), dtype=dtype)
    if int(values.min()) < 0 or int(values.max()) >= 1 << 31:
        raise Unfit(f"has labels from {values.min()} to {values.max()} in arr_1; they count classes from 0")
    return values.astype(np.int64)


def _texts(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, images: tuple[int, ...]) -> tuple[str, ...]:
    with archive.open(entry) as file:
        shape, dtype, _ = _array_header(file, entry.file_size)
        if dtype.kind != "U" or shape != images[:1]:
            raise Unfit(f"has captions {dtype} {shape}; they are unicode texts, one an image: {images[:1]}")
        texts = tuple(np.frombuffer(file.read(), dtype=dtype).tolist())
    for number, text in enumerate(texts):
        if problem := fault_of(text):
            raise Unfit(f"has a caption of image {number} that {problem}")
    return texts


def _start_of(path: Place, entry: zipfile.ZipInfo) -> int:
    """Where the data of a member begins; the lengths in its local header may differ from those in the directory."""
    local = read_at(path, entry.header_offset, 30)
    return entry.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))


SCHEMA = "genbench.statistics/1"
RECORD = "genbench"
"""Entry of a file of statistics of this package: a JSON text that says what its arrays are of."""


def read_statistics(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> dict[str, Statistics]:
    """All means and covariances of a file, by tap, and by tap and extractor where there are several of one.

    Files of this package say what they are of. Of others, the number of features says what extractors they can be of.
    An entry `extractor`, a text such as "dinov2" or "dinov2(architecture='vit_large_patch14_dinov2')", says of which
    one they are; without it, the extractor that is asked for is taken at its word where it is one of these.
    """
    if f"{RECORD}.npy" in entries:
        return _recorded(archive, entries)
    return {
        tap: _published(archive, entries, tap)
        for tap, (names, _) in STATISTICS.items()
        if any(f"{name}.npy" in entries for name in names)
    }


def _recorded(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> dict[str, Statistics]:
    told = json.loads(_text(archive, entries[f"{RECORD}.npy"], 1 << 20, "a record"))
    if not isinstance(told, dict) or told.get("schema") != SCHEMA:
        raise Unfit(f"has a record of another schema than {SCHEMA}; it was written by another version of genbench")
    found: dict[str, Statistics] = {}
    read: set[str] = set()
    try:
        for one in told["statistics"]:
            names = str(one["mean"]), str(one["covariance"])
            if read & {*names}:  # else a small file could ask for its arrays again and again
                raise Unfit(f"says twice what {shown(names[0][:40])} or {shown(names[1][:40])} is of")
            read |= {*names}
            mean, covariance = _moments(archive, entries, names, None)
            tap, extractor, count = str(one["tap"]), str(Ref.parse(one["extractor"])), one["count"]
            if type(count) is not int or count < 2:
                raise Unfit(f"says that statistics are of {shown(str(count)[:40])} images")
            if not re.fullmatch(r"[\w.-]{1,64}", tap, re.ASCII):
                raise Unfit(f"says that statistics are of the tap {shown(tap[:40])!r}")
            known = Statistics(
                extractors=(extractor,), mean=mean, covariance=covariance, tap=tap, count=count, key=str(one["key"])
            )
            found[f"{tap} of {extractor}" if tap in found else tap] = known
    except UsageError as error:
        raise Unfit(f"has a record that is not whole ({shown(str(error)).rstrip('.')})") from error
    except (KeyError, TypeError) as error:
        raise Unfit(f"has a record that is not whole ({reason(error)})") from error
    if not found:
        raise Unfit("has a record of no statistics")
    return found


def _published(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], tap: str) -> Statistics:
    names, known = STATISTICS[tap]
    mean, covariance = _moments(archive, entries, names, known)
    extractors = known[len(mean)]
    if "extractor.npy" in entries:
        said = _extractor(archive, entries["extractor.npy"])
        if said.partition("(")[0] not in extractors:
            raise Unfit(
                f"says that its {len(mean)} features are of {shown(said)}; so many has {' or '.join(extractors)}"
            )
        extractors = (said,)
    return Statistics(extractors=extractors, mean=mean, covariance=covariance, tap=tap)


def _moments(
    archive: zipfile.ZipFile,
    entries: dict[str, zipfile.ZipInfo],
    names: tuple[str, str],
    known: Mapping[int, tuple[str, ...]] | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (d,) and covariance (d, d) under two names.

    Args:
        known: numbers of features that are allowed, None for all up to `_WIDEST`.
    """
    absent = [name for name in names if f"{name}.npy" not in entries]
    if absent:
        raise Unfit(
            f"has no {shown(absent[0])}; statistics are a mean {shown(names[0])} and a covariance {shown(names[1])}"
        )
    arrays: list[NDArray[np.float64]] = []
    for name in names:
        entry = entries[f"{name}.npy"]
        with archive.open(entry) as file:
            shape, dtype, _ = _array_header(file, entry.file_size, symmetric=True)
            wanted = (len(arrays[0]),) * 2 if arrays else shape
            allowed = known if known is not None else range(1, _WIDEST + 1)
            right = shape == wanted and (arrays or (len(shape) == 1 and shape[0] in allowed))
            if not right or dtype.kind != "f" or dtype.itemsize not in (4, 8):
                widths = "one of " + ", ".join(map(str, known)) if known is not None else f"at most {_WIDEST}"
                shapes = f"{(len(arrays[0]),) * 2}" if arrays else f"(d,), d {widths}"
                raise Unfit(f"has {name} {dtype} {shape}; that of known extractors is float32 or float64 {shapes}")
            values = np.frombuffer(file.read(), dtype=dtype).astype(np.float64).reshape(shape)
        if not np.isfinite(values).all():
            raise Unfit(f"has values in {name} that are not finite")
        if np.abs(values).max() > LARGEST_STATISTIC:
            raise Unfit(
                f"has values in {name} of up to {np.abs(values).max():.3g}, which are no statistics of features"
            )
        arrays.append(values)
    mean, covariance = arrays
    if np.abs(covariance - covariance.T).max() > 1e-5 * np.abs(covariance).max() or covariance.diagonal().min() < 0:
        raise Unfit(f"has a {names[1]} that is not symmetric or has negative variances, and so is no covariance")
    # Rounding differs between the two halves where they were computed one by one; equal halves stay as they are.
    return mean, (covariance + covariance.T) / 2


def _extractor(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> str:
    text = _text(archive, entry, 200, "an extractor")
    try:
        return str(Ref.parse(text))
    except UsageError:
        raise Unfit(f"names its extractor {shown(text)}; write dinov2 or dinov2(architecture='...')") from None


def _text(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int, what: str) -> str:
    """The one text in an array, of at most so many characters."""
    with archive.open(entry) as file:
        shape, dtype, _ = _array_header(file, entry.file_size)
        if dtype.kind != "U" or shape != () or dtype.itemsize > 4 * most:
            raise Unfit(f"has {what} {dtype} {shape}; it is one text, such as numpy.array('dinov2')")
        return str(np.frombuffer(file.read(), dtype=dtype)[0])


def no_images(start: int, stop: int) -> Images:
    raise InputRejected("A file of statistics holds no images.")
