"""Images on disk to `Samples` and back: folders, zips, npz and npy files, under one strict policy.

A number about images is only as good as the pixels, and decoders are generous: they cut 16 bits to 8, drop an alpha
channel and turn a CMYK file into colours nobody saw. Whatever would change what a picture shows is refused here, with
the name of the file, and nothing is resized. The headers of all files are read before the first pixel is used; pixels
are decoded when a metric asks for them. Zips are never extracted and nothing is unpickled.

A folder and a zip of the same files give the same samples, labels, captions and fingerprint.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import re
import stat
import struct
import threading
import warnings
import zipfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from genbench.arrays import Images, Samples, Statistics
from genbench.errors import InputRejected, UsageError
from genbench.files import atomic_write, replacing

DECODER = 1
"""Raised when the same files would give other pixels; part of every fingerprint."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
METADATA = ("metadata.jsonl", "metadata.csv")
"""Files with captions, as the `imagefolder` of Hugging Face datasets names them."""
CAPTION_COLUMNS = ("caption", "text", "prompt")
MAX_PIXELS = 64_000_000
MAX_FILE = 1 << 28
"""Bytes of one image file."""
MAX_ARRAY = 8 << 30
"""Bytes of a compressed array, which has to be held in memory; uncompressed ones are read in place at any size."""
MAX_RATIO = 200
STATISTICS = (("pooled", ("mu", "sigma"), 2048), ("spatial", ("mu_s", "sigma_s"), 2023))
"""Taps of Inception, the names of mean and covariance in published files, and the number of features."""
_UNSUSPICIOUS = 64 << 20
_OFFENDERS = 20

_log = logging.getLogger(__name__)


def open_images(
    path: str | os.PathLike[str], *, labels_from_folders: bool = True, max_pixels: int = MAX_PIXELS
) -> Samples:
    """Opens a set of 8-bit images of one size; greyscale is repeated to three channels.

    Args:
        path: one of
            a folder, searched recursively for png, jpg, jpeg, webp, bmp and tif(f) files (hidden ones are skipped), in
            the order of their relative POSIX paths;
            a .zip of such a folder, read without extracting it;
            an .npz with uint8 `arr_0`, (n, h, w, c) or (n, c, h, w) with c = 1 or 3, and optionally integer labels
            (n,) in `arr_1` and captions (n,), an array of a unicode dtype, in `captions`; or an .npy with images alone.
            Captions of a folder or a zip stand in `metadata.jsonl` or `metadata.csv`, with the name of the image
            relative to that file in the column `file_name` and its text in `caption`, `text` or `prompt` (the layout of
            Hugging Face's `imagefolder`), or in a text file of one line beside each image, 0001.txt beside 0001.png.
        labels_from_folders: whether two or more subfolders that together hold all images are classes. Folders around
            all images are passed over.
        max_pixels: of one image, checked before anything is allocated. Pillow's own limit of 178 million holds too.

    Returns:
        Samples of uint8 (n, 3, h, w) RGB. `read` may be called from several threads and after pickling.

    Raises:
        InputRejected: nothing there; sizes differ; a file that is empty, damaged, of another format, animated, or
            larger than allowed; more than 8 bits a channel; transparency (a fully opaque alpha channel is dropped);
            CMYK and other colour spaces than RGB and grey; an EXIF orientation that would turn the image; arrays of
            another dtype or shape or with objects; archives that expand suspiciously or name files outside
            themselves; captions that leave out an image, name one that is not there or name one twice, that are
            empty, in several columns or not UTF-8. What only decoding can show (damaged pixels, alpha below 255) is
            raised by `read`.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UsageError("Pillow was told to pad truncated images (ImageFile.LOAD_TRUNCATED_IMAGES); set it to False.")
    place = Path(path)
    try:
        exists = place.exists()
    except OSError:
        exists = False
    if not exists:
        raise InputRejected(f"There is no {_shown(place)}; give a folder, a zip, an npz or an npy file of images.")
    kind = place.suffix.lower()
    if place.is_dir():
        files: _Folder | _Zip = _Folder(place)
    elif kind == ".zip":
        files = _Zip(place)
    elif kind in (".npz", ".npy"):
        return _open_array(place, max_pixels)
    else:
        hint = " One image is no set; give its folder." if kind in EXTENSIONS else ""
        raise InputRejected(f"{_shown(place)} is no folder, .zip, .npz or .npy of images.{hint}")
    visible = [n for n in files.names() if not any(p.startswith(".") or p == "__MACOSX" for p in n.split("/"))]
    encoded = _survey(files, visible, max_pixels)
    labels, classes = _classes(encoded.names) if labels_from_folders else (None, ())
    return Samples(
        count=len(encoded.names), shape=(3, encoded.height, encoded.width), read=encoded.read, origin=str(place),
        fingerprint=encoded.fingerprint, labels=labels, captions=_captions(files, visible, encoded.names),
        classes=classes,
    )  # fmt: skip


def open_reference(path: str | os.PathLike[str], *, labels_from_folders: bool = True) -> Samples:
    """Opens real images as `open_images` does, and the statistics that are published in place of them or beside them.

    Args:
        path: as of `open_images`; or an .npz with `mu` (2048,) and `sigma` (2048, 2048) of the pooled features of
            Inception, as TTUR, pytorch-fid and EDM write them; or a reference batch of guided diffusion, with images in
            `arr_0`, `mu` and `sigma` of the whole training set, and `mu_s` (2023,) and `sigma_s` for sFID.

    Returns:
        Samples with `statistics`; of a file without images, 0 of them. Nothing in a file says what resize was before
        the network: that is for the protocol to agree with.

    Raises:
        InputRejected: a mean without a covariance; another width, shape or dtype than float32 or float64; values that
            are not finite, a matrix that is not symmetric or has a negative diagonal; and the causes of `open_images`.
    """
    place = Path(path)
    if place.suffix.lower() != ".npz" or not place.is_file():
        return open_images(place, labels_from_folders=labels_from_folders)
    try:
        with _open_zip(place) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            found = {
                tap: _statistics_of(archive, entries, names, width)
                for tap, names, width in STATISTICS
                if any(f"{name}.npy" in entries for name in names)
            }
    except InputRejected:
        raise
    except Exception as error:  # damaged archives and headers raise whatever their fields lead to
        raise InputRejected(f"{_shown(place)} {_verdict(error)}.") from error
    if "arr_0.npy" in entries or not found:
        return replace(open_images(place), statistics=found)
    content = hashlib.sha256("".join(f"{tap} {found[tap].digest()} " for tap in sorted(found)).encode()).hexdigest()
    return Samples(
        count=0, shape=(3, 0, 0), read=_no_images, origin=str(place), fingerprint=partial(str, content),
        statistics=found,
    )  # fmt: skip


def prefetch(samples: Samples, size: int, workers: int = 2) -> Iterator[Images]:
    """All images in order, `size` at a time as `Samples.batches` gives them, read ahead by threads.

    Args:
        samples: whose `read` may be called from several threads, as that of `open_images` may.
        workers: threads; at most workers + 1 batches exist beside the one that was handed out. 0 reads in the caller.

    Raises:
        InputRejected: from the reader, when the batch it concerns is reached.
    """
    if workers < 1:
        yield from samples.batches(size)
        return
    ahead: deque[Future[Images]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="genbench-read")
    try:
        for start in range(0, samples.count, size):
            ahead.append(pool.submit(samples.read, start, min(start + size, samples.count)))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown()


class _Unfit(Exception):
    """The end of a sentence that begins with the name of a file."""


# Where encoded files come from


@dataclass(frozen=True, slots=True)
class _Folder:
    path: Path

    def names(self) -> list[str]:
        """Relative POSIX paths of all files, in no order."""
        try:
            return list(_walk(self.path, "", frozenset()))
        except OSError as error:
            raise InputRejected(f"{_shown(self.path)} cannot be listed: {_reason(error)}.") from error

    def read(self, name: str) -> bytes:
        with self.stream(name) as file:
            return _limited(file)

    def stream(self, name: str) -> IO[bytes]:
        place = self.path / name
        if not stat.S_ISREG(place.stat().st_mode):  # opening a pipe would wait for its writer
            raise _Unfit("is no regular file")
        return place.open("rb")


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Files below a folder. Links to folders are followed, as data sets are often made of them, but not in circles."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", above | {identity})
            else:
                yield prefix + entry.name


class _Zip:
    """A zip that is opened once a process: pickling drops the handle, and a forked child, which would share the file
    position of its parent, opens its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        _Zip.__init__(self, path)

    def archive(self) -> zipfile.ZipFile:
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = (os.getpid(), _open_zip(self.path))
            return self._opened[1]

    def names(self) -> list[str]:
        entries = self.archive().infolist()
        for entry in entries:
            _check_entry(self.path, entry)
        names = [entry.filename for entry in entries if not entry.filename.endswith("/")]
        for name, times in Counter(names).items():
            if times > 1:
                raise InputRejected(f"{_shown(self.path)} holds {_shown(name)} {times} times; write the zip anew.")
        return names

    def read(self, name: str) -> bytes:
        with self.archive().open(name) as file:
            return _limited(file)

    def stream(self, name: str) -> IO[bytes]:
        return self.archive().open(name)


def _open_zip(path: Path) -> zipfile.ZipFile:
    """Opens a zip and refuses one that would grow out of proportion to its size on disk, as entries may overlap."""
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # a damaged directory raises whatever its fields lead to
        raise InputRejected(f"{_shown(path)} cannot be read as a zip archive: {_reason(error)}.") from error
    expanded, packed = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
    if expanded > max(_UNSUSPICIOUS, MAX_RATIO * packed):
        archive.close()
        raise InputRejected(
            f"{_shown(path)} would expand from {packed:,} to {expanded:,} bytes, more than {MAX_RATIO} times; "
            "if that is meant, store it without compression."
        )
    return archive


def _check_entry(path: Path, entry: zipfile.ZipInfo) -> None:
    name, problem = entry.filename, None
    if name.startswith("/") or "\\" in name or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
        problem = "a path that leaves the archive"
    elif stat.S_ISLNK(entry.external_attr >> 16):
        problem = "a symbolic link"
    elif entry.flag_bits & 1:
        problem = "an encrypted file"
    if problem:
        raise InputRejected(f"{_shown(path)} contains {problem}: {_shown(name)}; write the zip anew from plain files.")


def _limited(file: IO[bytes]) -> bytes:
    data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise _Unfit(f"is larger than {MAX_FILE:,} bytes")
    return data


# What a file must be


@dataclass(slots=True)
class _Encoded:
    """Image files of one size whose headers were found good."""

    files: _Folder | _Zip
    names: tuple[str, ...]
    height: int
    width: int
    digest: str = ""

    def read(self, start: int, stop: int) -> Images:
        images = np.empty((stop - start, 3, self.height, self.width), dtype=np.uint8)
        for image, name in zip(images, self.names[start:stop], strict=True):
            with _naming(self.files.path / name):
                image[:] = _decode(self.files.read(name), (self.width, self.height))
        return images

    def fingerprint(self) -> str:
        """SHA-256 of lengths and bytes of the files in order, so that a zip equals the folder it was made from."""
        if not self.digest:
            total = hashlib.sha256(f"genbench.images {DECODER} {len(self.names)}".encode())
            for name in self.names:
                with _naming(self.files.path / name):
                    data = self.files.read(name)
                total.update(struct.pack("<Q", len(data)))
                total.update(data)
            self.digest = total.hexdigest()
        return self.digest


@contextmanager
def _naming(place: Path) -> Iterator[None]:
    """Turns what readers and decoders raise on damaged files, which is errors of every kind, into one that names it."""
    try:
        yield
    except InputRejected:
        raise
    except Exception as error:
        raise InputRejected(f"{_shown(place)} {_verdict(error)}; replace or remove it.") from error


def _survey(files: _Folder | _Zip, visible: Sequence[str], max_pixels: int) -> _Encoded:
    """Reads every header and refuses the set, with the names of its first offenders, before any pixel is decoded."""
    names = sorted(n for n in visible if n.lower().endswith(EXTENSIONS))
    if not names:
        seen = f"; it holds {len(visible)} other files" if visible else ""
        raise InputRejected(f"{_shown(files.path)} has no images ({', '.join(EXTENSIONS)}){seen}.")
    used = {*names, *(name for found in _caption_files(visible, names) for name in found)}
    others = Counter(PurePosixPath(n).suffix.lower() or "no extension" for n in visible if n not in used)
    if others:
        listed = ", ".join(f"{_shown(kind)} ({count})" for kind, count in others.most_common(5))
        _log.warning("%s: %d files are not images and were passed over: %s.", files.path, sum(others.values()), listed)
    sizes: Counter[tuple[int, int]] = Counter()
    notices: Counter[str] = Counter()
    offenders: list[str] = []
    with warnings.catch_warnings():
        # Complaints about metadata that does not touch the pixels are nobody's business; what does is checked below.
        warnings.simplefilter("ignore")
        for name in names:
            try:
                with files.stream(name) as stream:
                    size, notice = _header(stream, max_pixels)
                sizes[size] += 1
                notices.update(notice)
            except Exception as error:  # headers of damaged files raise whatever their fields lead to
                offenders.append(f"{_shown(name)} {_verdict(error)}")
                if len(offenders) == _OFFENDERS:
                    break
    if offenders:
        count = f"at least {_OFFENDERS}" if len(offenders) == _OFFENDERS else str(len(offenders))
        more = " and others" if len(offenders) > 3 else ""
        raise InputRejected(
            f"{_shown(files.path)}: {count} of {len(names)} images cannot be used: {'; '.join(offenders[:3])}{more}."
        )
    if len(sizes) > 1:
        listed = ", ".join(f"{w}x{h} ({count})" for (w, h), count in sizes.most_common(5))
        rest = ", ..." if len(sizes) > 5 else ""
        raise InputRejected(
            f"{_shown(files.path)} has images of {len(sizes)} sizes, but a set has one: {listed}{rest}. "
            "Resize them first."
        )
    for remark, times in notices.items():
        _log.warning("%s: %d of %d images %s.", files.path, times, len(names), remark)
    ((width, height),) = sizes
    return _Encoded(files, tuple(names), height, width)


def _header(stream: IO[bytes], max_pixels: int) -> tuple[tuple[int, int], list[str]]:
    """(width, height) and notices of an image whose header is inside the policy.

    Raises:
        _Unfit: outside the policy; and any error of Pillow.
    """
    if not stream.read(1):
        raise _Unfit("is empty (0 bytes)")
    stream.seek(0)
    with Image.open(stream, formats=FORMATS) as image:
        if image.width * image.height > max_pixels:
            raise _Unfit(f"has {image.width}x{image.height} pixels, more than {max_pixels:,}")
        _check_kind(image)
        _check_remarks(image)
        notices = []
        if image.mode in ("L", "LA", "1"):
            notices.append("are greyscale; the channel is repeated three times")
        profile = image.info.get("icc_profile")
        if isinstance(profile, bytes) and b"sRGB" not in profile and "sRGB".encode("utf-16-be") not in profile:
            notices.append("carry a colour profile that is not sRGB; it is not applied")
        return image.size, notices


def _check_kind(image: Image.Image) -> None:
    """Refuses what Pillow would convert silently: depth, colour space, frames."""
    depth = 8
    if image.format == "PNG":  # 16-bit RGB is opened as mode RGB; only the raw mode tells
        depth = 16 if any("16" in str(tile[3]) for tile in getattr(image, "tile", [])) else 8
    elif image.format == "TIFF":
        depth = max(getattr(image, "tag_v2", {}).get(258, (1,)))
    if image.mode == "F":
        raise _Unfit("holds floats; images are 8-bit")
    if depth > 8:
        raise _Unfit(f"has more than 8 bits a channel (mode {image.mode}); convert it to 8-bit first")
    if image.mode not in ("RGB", "L", "1", "P", "RGBA", "LA"):
        raise _Unfit(f"has the colour mode {image.mode}; RGB and greyscale are read")
    if getattr(image, "n_frames", 1) > 1:
        raise _Unfit(f"is animated or has several pages ({getattr(image, 'n_frames', 1)} frames)")


def _check_remarks(image: Image.Image) -> None:
    """Refuses metadata that changes what a picture shows: transparent colours and an orientation."""
    transparency = image.info.get("transparency")
    if transparency is not None and not (isinstance(transparency, bytes) and set(transparency) == {255}):
        raise _Unfit("has transparent colours")
    # The method of the base class: that of PNG decodes the whole image.
    if Image.Image.getexif(image).get(0x0112, 1) in range(2, 9):
        raise _Unfit("has an EXIF orientation other than 1; turn its pixels first")


def _decode(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 (3, h, w), or (1, h, w) for greyscale, of the bytes of a file of the given (width, height)."""
    if not data:
        raise _Unfit("is empty (0 bytes)")
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.size != size:
            raise _Unfit(f"has {image.width}x{image.height} pixels now, not {size[0]}x{size[1]}")
        _check_kind(image)
        image.load()
        if image.format == "PNG":  # remarks may stand behind the pixels
            _check_remarks(image)
        if image.mode in ("RGBA", "LA"):
            lowest = int(np.asarray(image.getchannel("A")).min())
            if lowest < 255:
                raise _Unfit(f"is partly transparent (alpha {lowest})")
        image.info.pop("transparency", None)  # opaque by now, and Pillow warns of it when it converts
        pixels = np.asarray(image if image.mode in ("RGB", "L") else image.convert("RGB"))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _classes(names: Sequence[str]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Labels from the first folder level that differs, if all images lie in one of its folders."""
    folders = [name.split("/")[:-1] for name in names]
    first, last = min(folders), max(folders)
    common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    if any(len(parts) <= common for parts in folders):
        return None, ()
    classes = sorted({parts[common] for parts in folders})
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index[parts[common]] for parts in folders], dtype=np.int64), tuple(classes)


# Captions


def _caption_files(visible: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files of metadata, and all text files if one of them has the name of an image up to the extension."""
    stems = {_stem(name) for name in names}
    texts = sorted(name for name in visible if name.lower().endswith(".txt"))
    beside = any(_stem(name) in stems for name in texts)
    return sorted(name for name in visible if PurePosixPath(name).name in METADATA), texts if beside else []


def _captions(files: _Folder | _Zip, visible: Sequence[str], names: Sequence[str]) -> tuple[str, ...] | None:
    """A caption an image, from wherever they stand, or None where they stand nowhere.

    Whatever leaves open which text belongs to which image is refused: a score of shuffled or lost captions looks like
    that of a bad model.
    """
    metadata, texts = _caption_files(visible, names)
    wanted, sources = set(names), ["text files"] if texts else []
    found: dict[str, str] = {}
    for source in metadata:
        with _naming(files.path / source):
            read = _json_lines if source.endswith(".jsonl") else _comma_separated
            rows = read(_decoded(files.read(source)), f"{files.path}/{source}")
            for name, caption in rows or ():
                _add(found, (PurePosixPath(source).parent / name).as_posix(), caption, wanted)
            sources += [] if rows is None else [source]
    by_stem: dict[str, list[str]] = {}
    for name in names if texts else ():
        by_stem.setdefault(_stem(name), []).append(name)
    for source in texts:
        with _naming(files.path / source):
            images = by_stem.get(_stem(source), ())
            if len(images) != 1:
                raise _Unfit(
                    f"belongs to {_shown(' and '.join(images))}; a caption has one image"
                    if images else "has no image of its name beside it, as other text files here have"
                )  # fmt: skip
            text = _decoded(files.read(source)).strip()
            if len(text.splitlines()) > 1:
                raise _Unfit(f"has {len(text.splitlines())} lines; a caption is one line, or stands in {METADATA[0]}")
            _add(found, images[0], text, wanted)
    if not sources:
        return None
    missing = [name for name in names if name not in found]
    if missing:
        raise InputRejected(
            f"{_shown(files.path)}: {len(missing)} of {len(names)} images have no caption, such as "
            f"{_shown(missing[0])}; {_shown(', '.join(sources))} must have one for every image, or be removed."
        )
    return tuple(found[name] for name in names)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")  # spreadsheets put a mark before the first character
    except UnicodeDecodeError as error:
        raise _Unfit(f"is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _add(found: dict[str, str], image: str, caption: str, wanted: set[str]) -> None:
    if image not in wanted:
        raise _Unfit(f"names {_shown(image)}, which is not among the images")
    if image in found:
        raise _Unfit(f"names {_shown(image)}, which has a caption already")
    if problem := _problem(caption):
        raise _Unfit(f"has a caption of {_shown(image)} that {problem}")
    found[image] = caption


def _problem(caption: object) -> str:
    """Why something is no caption, or nothing."""
    if not isinstance(caption, str):
        return "is no text"
    if not caption.strip():
        return "is empty"
    return "" if caption.isascii() or not any("\ud800" <= c <= "\udfff" for c in caption) else "is not valid Unicode"


def _json_lines(text: str, place: str) -> list[tuple[str, str]] | None:
    """Pairs of `file_name` and caption of one JSON object a line; None where there is no such column."""
    column, pairs = None, []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _Unfit(f"is no JSON in line {number} ({_reason(error)})") from error
        if not isinstance(row, dict):
            raise _Unfit(f"holds no JSON object in line {number}")
        column = column or _caption_column(list(row), place)
        if column is None:
            return None
        if not isinstance(row.get("file_name"), str) or column not in row:
            raise _Unfit(f"has no file_name or no {column} in line {number}")
        pairs.append((row["file_name"], row[column]))
    return pairs


def _comma_separated(text: str, place: str) -> list[tuple[str, str]] | None:
    """Pairs of `file_name` and caption of a CSV file with a header; None where there is no such column."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = next(rows, [])
    column = _caption_column(header, place)
    if column is None:
        return None
    name, caption, pairs = header.index("file_name"), header.index(column), []
    for row in rows:
        if row and len(row) != len(header):
            raise _Unfit(f"has {len(row)} fields in line {rows.line_num}, not {len(header)}; quote texts with commas")
        if row:
            pairs.append((row[name], row[caption]))
    return pairs


def _caption_column(columns: Sequence[str], place: str) -> str | None:
    """Where the captions are; None, with a warning, in a table of something else, such as labels."""
    found = [name for name in columns if name in CAPTION_COLUMNS]
    if columns.count("file_name") != 1 or not found:
        _log.warning(
            "%s has no captions and was passed over: they need the columns file_name and %s.",
            _shown(place), " or ".join((", ".join(CAPTION_COLUMNS[:-1]), CAPTION_COLUMNS[-1])),
        )  # fmt: skip
        return None
    if len(found) > 1:
        raise _Unfit(f"has captions in {len(found)} columns ({', '.join(found)}); keep one of them")
    return found[0]


# Arrays


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the pixels of an array lie.

    Attributes:
        path: of the .npy or .npz file; `member` of the latter.
        packed: whether the member is compressed.
        offset: where the first pixel is: in the file, or in the expanded member if that is packed.
        shape: (n, h, w, c) if `channels_last`, else (n, c, h, w).
    """

    path: Path
    member: str | None
    packed: bool
    offset: int
    shape: tuple[int, ...]
    channels_last: bool


class _Array:
    """A uint8 array of images in an .npy file or in a member of an .npz.

    Uncompressed ones are mapped and read in place. Compressed ones are expanded into memory when first read.
    """

    def __init__(self, place: _Place) -> None:
        self.place = place
        self._lock = threading.Lock()
        self._values: NDArray[np.uint8] | None = None
        self._digest = ""

    def __getstate__(self) -> _Place:
        return self.place

    def __setstate__(self, place: _Place) -> None:
        _Array.__init__(self, place)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) as stored."""
        _, a, b, c = self.place.shape
        return (c, a, b) if self.place.channels_last else (a, b, c)

    def values(self) -> NDArray[np.uint8]:
        with self._lock:
            if self._values is None:
                place = self.place
                with _naming(place.path):
                    if place.packed:
                        self._values = self._expand()
                    else:
                        self._values = np.memmap(place.path, np.uint8, mode="r", offset=place.offset, shape=place.shape)
            return self._values

    def _expand(self) -> NDArray[np.uint8]:
        values = np.empty(self.place.shape, dtype=np.uint8)
        data, position = values.reshape(-1).data, -self.place.offset
        for piece in self._pieces(self.place.offset):
            if position >= 0:
                data[position : position + len(piece)] = piece
            position += len(piece)
        if position != len(data):
            raise _Unfit("ends too early")
        return values

    def _pieces(self, first: int) -> Iterator[bytes]:
        """The member's bytes, at first so many; zipfile compares the checksum at the end."""
        with _open_zip(self.place.path) as archive, archive.open(str(self.place.member)) as file:
            piece = file.read(first)
            while piece:
                yield piece
                piece = file.read(1 << 20)

    def read(self, start: int, stop: int) -> Images:
        block = self.values()[start:stop]
        if self.place.channels_last:
            block = block.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(np.broadcast_to(block, (len(block), 3, *self.shape[1:])))

    def fingerprint(self) -> str:
        """That of `Samples.of` on the same images, however the array is laid out or packed."""
        if not self._digest:
            if self.place.member is not None and not self.place.packed:
                with _naming(self.place.path):
                    for _ in self._pieces(1 << 20):  # pixels that are read in place have met no checksum
                        pass
            count, _, height, width = (self.place.shape[0], *self.shape)
            total = hashlib.sha256(f"{(count, 3, height, width)}".encode())
            rows = max(1, (1 << 24) // (3 * height * width))
            for start in range(0, count, rows):
                total.update(self.read(start, min(start + rows, count)).data)
            self._digest = total.hexdigest()
        return self._digest


def _open_array(path: Path, max_pixels: int) -> Samples:
    labels: NDArray[np.int64] | None = None
    captions: tuple[str, ...] | None = None
    member, packed = None, False
    try:
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                shape, dtype, offset = _array_header(file, path.stat().st_size)
        else:
            with _open_zip(path) as archive:
                entries = {entry.filename: entry for entry in archive.infolist()}
                if "arr_0.npy" not in entries:
                    there = ", ".join(sorted(name.removesuffix(".npy") for name in entries)[:5]) or "nothing"
                    hint = "; statistics can be a reference, but are no samples" if "sigma.npy" in entries else ""
                    raise _Unfit(f"has no array arr_0 but {_shown(there)}{hint}")
                entry = entries["arr_0.npy"]
                with archive.open(entry) as file:
                    shape, dtype, offset = _array_header(file, entry.file_size)
                member, packed = entry.filename, entry.compress_type != zipfile.ZIP_STORED
                if not packed:
                    offset += _start_of(path, entry)
                elif entry.file_size > MAX_ARRAY:
                    raise _Unfit(f"is compressed and would take {entry.file_size:,} bytes; save it with numpy.savez")
                if "arr_1.npy" in entries:
                    labels = _labels(archive, entries["arr_1.npy"], shape)
                if "captions.npy" in entries:
                    captions = _texts(archive, entries["captions.npy"], shape)
        channels_last = _layout(shape, dtype, max_pixels)
    except InputRejected:
        raise
    except Exception as error:  # damaged archives and headers raise whatever their fields lead to
        raise InputRejected(f"{_shown(path)} {_verdict(error)}.") from error
    array = _Array(
        _Place(path=path, member=member, packed=packed, offset=offset, shape=shape, channels_last=channels_last)
    )
    channels, height, width = array.shape
    if channels == 1:
        _log.warning("%s: the images are greyscale; the channel is repeated three times.", path)
    return Samples(
        count=shape[0], shape=(3, height, width), read=array.read, origin=str(path), fingerprint=array.fingerprint,
        labels=labels, captions=captions,
    )  # fmt: skip


def _array_header(file: IO[bytes], size: int, *, symmetric: bool = False) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, dtype and length of the header of an .npy file of `size` bytes, which must agree; no data is read.

    Args:
        symmetric: whether the order of the axes makes no difference.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise _Unfit(f"is an array file of version {version[0]}.{version[1]}; 1.0 and 2.0 are read")
    parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = parse(file)
    if dtype.hasobject:
        raise _Unfit("holds Python objects, which are never loaded; save plain numbers")
    if fortran and len(shape) > 1 and not symmetric:
        raise _Unfit("is in Fortran order; save numpy.ascontiguousarray of it")
    count = dtype.itemsize
    for axis in shape:
        count *= axis
    if min(shape, default=1) < 1 or file.tell() + count != size:
        raise _Unfit(f"is damaged: {size:,} bytes do not hold an array {shape} of {dtype}")
    return shape, dtype, file.tell()


def _layout(shape: tuple[int, ...], dtype: np.dtype[Any], max_pixels: int) -> bool:
    """Whether channels come last."""
    if dtype != np.uint8:
        raise _Unfit(f"holds {dtype}; images are uint8 in [0, 255]")
    if len(shape) != 4:
        raise _Unfit(f"has the shape {shape}; images are (n, h, w, c) or (n, c, h, w)")
    last, first = shape[3] in (1, 3), shape[1] in (1, 3)
    if last == first:
        what = "both the first and the last axis may be channels" if last else "neither has 1 or 3 channels"
        raise _Unfit(f"has the shape {shape}, neither clearly (n, h, w, c) nor (n, c, h, w): {what}")
    height, width = shape[1:3] if last else shape[2:4]
    if height * width > max_pixels:
        raise _Unfit(f"has images of {width}x{height} pixels, more than {max_pixels:,}")
    return last


def _labels(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, images: tuple[int, ...]) -> NDArray[np.int64]:
    with archive.open(entry) as file:
        shape, dtype, _ = _array_header(file, entry.file_size)
        if dtype.kind not in "iu" or shape != images[:1]:
            raise _Unfit(f"has labels {dtype} {shape} in arr_1; they are integers, one an image: {images[:1]}")
        values = np.frombuffer(file.read(), dtype=dtype)
    if int(values.min()) < 0 or int(values.max()) >= 1 << 31:
        raise _Unfit(f"has labels from {values.min()} to {values.max()} in arr_1; they count classes from 0")
    return values.astype(np.int64)


def _texts(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, images: tuple[int, ...]) -> tuple[str, ...]:
    with archive.open(entry) as file:
        shape, dtype, _ = _array_header(file, entry.file_size)
        if dtype.kind != "U" or shape != images[:1]:
            raise _Unfit(f"has captions {dtype} {shape}; they are unicode texts, one an image: {images[:1]}")
        texts = tuple(np.frombuffer(file.read(), dtype=dtype).tolist())
    for number, text in enumerate(texts):
        if problem := _problem(text):
            raise _Unfit(f"has a caption of image {number} that {problem}")
    return texts


def _start_of(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where the data of a member begins; the lengths in its local header may differ from those in the directory."""
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        local = file.read(30)
    return entry.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))


# Statistics of features


def _statistics_of(
    archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], names: tuple[str, str], width: int
) -> Statistics:
    absent = [name for name in names if f"{name}.npy" not in entries]
    if absent:
        raise _Unfit(f"has no {absent[0]}; statistics are a mean {names[0]} and a covariance {names[1]}")
    arrays = []
    for name, wanted in zip(names, ((width,), (width, width)), strict=True):
        entry = entries[f"{name}.npy"]
        with archive.open(entry) as file:
            shape, dtype, _ = _array_header(file, entry.file_size, symmetric=True)
            if shape != wanted or dtype.kind != "f" or dtype.itemsize not in (4, 8):
                raise _Unfit(f"has {name} {dtype} {shape}; that of Inception is float32 or float64 {wanted}")
            values = np.frombuffer(file.read(), dtype=dtype).astype(np.float64).reshape(shape)
        if not np.isfinite(values).all():
            raise _Unfit(f"has values in {name} that are not finite")
        arrays.append(values)
    mean, covariance = arrays
    if np.abs(covariance - covariance.T).max() > 1e-5 * np.abs(covariance).max() or covariance.diagonal().min() < 0:
        raise _Unfit(f"has a {names[1]} that is not symmetric or has negative variances, and so is no covariance")
    # Rounding differs between the two halves where they were computed one by one; equal halves stay as they are.
    return Statistics(extractor="inception", mean=mean, covariance=(covariance + covariance.T) / 2)


def _no_images(start: int, stop: int) -> Images:
    raise InputRejected("A file of statistics holds no images.")


# Writing


def write_images(samples: Samples, folder: str | os.PathLike[str], *, start: int = 0) -> list[Path]:
    """Writes every image as an 8-bit RGB or greyscale PNG named by its number, 000000.png onwards.

    Each file is whole or absent. Reading the folder with `open_images` gives the same pixels in the same order.

    Args:
        start: number of the first image.
    """
    width = max(6, len(str(start + samples.count - 1)))
    paths = [Path(folder) / f"{start + i:0{width}}.png" for i in range(samples.count)]
    rest = iter(paths)
    for batch in samples.batches(64):
        for image, path in zip(batch, rest, strict=False):
            atomic_write(path, _png(image), durable=False)
    return paths


def write_grid(images: Images, path: str | os.PathLike[str], columns: int = 8) -> None:
    """Writes images side by side as one PNG, row by row, two white pixels apart.

    Args:
        images: uint8 (n, c, h, w) with c = 1 or 3, n > 0.
        columns: images a row.
    """
    gap = 2
    count, channels, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    grid = np.full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap) + gap, i % columns * (width + gap) + gap
        grid[:, top : top + height, left : left + width] = image
    atomic_write(path, _png(grid))


def write_npz(samples: Samples, path: str | os.PathLike[str]) -> None:
    """Writes images to `arr_0`, uint8 (n, h, w, c), and labels, if there are any, to `arr_1`; the layout that the
    evaluation of guided diffusion reads. Captions go to `captions`. Equal samples give equal bytes. No more than a
    block of images is held in memory.
    """
    channels, height, width = samples.shape
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        # Members given by name get the day of writing from Python 3.14 on; a bare ZipInfo stays in 1980.
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (samples.count, height, width, channels)}
            np.lib.format.write_array_header_1_0(file, header)
            for batch in samples.batches(max(1, (1 << 24) // (channels * height * width))):
                file.write(np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).data)
        if samples.labels is not None:
            with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as file:
                np.lib.format.write_array(file, samples.labels.astype("<i8"), allow_pickle=False)
        if samples.captions is not None:
            texts = np.array(list(samples.captions))
            with archive.open(zipfile.ZipInfo("captions.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, texts.astype(texts.dtype.newbyteorder("<")), allow_pickle=False)


def _png(image: NDArray[np.uint8]) -> bytes:
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


# Words


def _shown(name: object) -> str:
    """A file name on one line, whatever characters it has."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _shown(" ".join(text.split())[:160] or type(error).__name__).rstrip(".")


def _verdict(error: Exception) -> str:
    if isinstance(error, _Unfit | InputRejected):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return f"is not an image of {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    return f"cannot be read: {_reason(error)}"
