"""Encoded image files under one strict policy: headers first, pixels when a metric asks for them."""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genbench.arrays import Images
from genbench.errors import InputRejected, shown
from genbench.images import surveys
from genbench.images.captions import caption_files
from genbench.images.containers import Container
from genbench.images.names import Names
from genbench.images.pinned import changed
from genbench.images.refusals import EXTENSIONS, FORMATS, Unfit, naming, verdict
from genbench.labels import in_order

DECODER = 1
"""Raised when the same files would give other pixels; part of every fingerprint."""


MAX_PIXELS = 64_000_000


_OFFENDERS = 20


_log = logging.getLogger(__name__)


class Source(Protocol):
    """Files of images by number."""

    def __len__(self) -> int: ...

    def content(self, number: int) -> bytes:
        """Bytes of the file of an image.

        Raises:
            Unfit, and whatever damaged containers raise.
        """

    def place(self, number: int) -> str:
        """What names the file to people."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Files of a folder or a zip."""

    files: Container
    names: Names

    def __len__(self) -> int:
        return len(self.names)

    def content(self, number: int) -> bytes:
        return self.files.read(self.names[number])

    def place(self, number: int) -> str:
        return f"{self.files.path}/{self.names[number]}"


@dataclass(frozen=True, slots=True)
class EncodedFiles:
    """Image files of one size whose headers were found good.

    Pixels that are read belong to the fingerprint, although the bytes of the files are read anew for them: bytes that
    have changed are refused.

    Attributes:
        digests: uint8 (n, 32), SHA-256 of the bytes of every file.
        surveys: keys of what was kept of an earlier reading, which is forgotten when it turns out wrong.
    """

    source: Source
    height: int
    width: int
    digests: NDArray[np.uint8]
    surveys: tuple[str, ...] = ()

    def read(self, start: int, stop: int) -> Images:
        images = np.empty((stop - start, 3, self.height, self.width), dtype=np.uint8)
        for image, number in zip(images, range(start, stop), strict=True):
            with naming(self.source.place(number)):
                image[:] = _decode(self._bytes(number), (self.width, self.height))
        return images

    def _bytes(self, number: int) -> bytes:
        data = self.source.content(number)
        if hashlib.sha256(data).digest() != self.digests[number].tobytes():
            for key in self.surveys:
                surveys.forget(key)
            raise InputRejected(changed(self.source.place(number)))
        return data

    def fingerprint(self) -> str:
        """SHA-256 over those of the files in order, so that a zip equals the folder it was made from."""
        return hashlib.sha256(f"genbench.images {DECODER} ".encode() + self.digests.tobytes()).hexdigest()


@dataclass(slots=True)
class Look:
    """Judges files of images one after the other: headers, and digests of their bytes.

    Args:
        max_pixels: of an image.

    Attributes:
        count: files that were looked at.
        digests: SHA-256 of every file, 32 bytes each.
        sizes, notices: of `surveys.Survey`.
        offenders: what is wrong with files that cannot be used, the first ones.
    """

    max_pixels: int
    count: int = 0
    digests: bytearray = field(default_factory=bytearray)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    notices: Counter[str] = field(default_factory=Counter)
    offenders: list[str] = field(default_factory=list)

    def at(self, name: str, read: Callable[[], bytes]) -> bool:
        """Looks at one file. Returns whether it is worth looking at more."""
        self.count += 1
        try:
            data = read()
            with warnings.catch_warnings():
                # Pillow warns of metadata that cannot change pixels; metadata that can is checked below.
                warnings.simplefilter("ignore")
                size, notices = _header(data, self.max_pixels)
            self.digests += hashlib.sha256(data).digest()
            self.sizes[size] += 1
            self.notices.update(notices)
        except Exception as error:  # headers of damaged files raise whatever their fields lead to
            self.offenders.append(f"{shown(name)} {verdict(error)}")
        return len(self.offenders) < _OFFENDERS

    def finish(self, place: object, total: int | None = None) -> NDArray[np.uint8]:
        """The digests, uint8 (n, 32), in the order in which files were looked at.

        Args:
            total: images in all.

        Raises:
            InputRejected: files that cannot be used, with the names of the first.
        """
        if self.offenders:
            count = f"at least {_OFFENDERS}" if len(self.offenders) == _OFFENDERS else str(len(self.offenders))
            more = " and others" if len(self.offenders) > 3 else ""
            raise InputRejected(
                f"{shown(place)}: {count} of {total or self.count} images cannot be used: "
                f"{'; '.join(self.offenders[:3])}{more}."
            )
        return np.frombuffer(bytes(self.digests), dtype=np.uint8).reshape(-1, 32)


def one_size(place: object, sizes: Counter[tuple[int, int]], notices: Counter[str]) -> tuple[int, int]:
    """(width, height) of all images, after what is to be said of some of them was said.

    Raises:
        InputRejected: images of several sizes.
    """
    if len(sizes) > 1:
        listed = ", ".join(f"{w}x{h} ({count})" for (w, h), count in sizes.most_common(5))
        rest = ", ..." if len(sizes) > 5 else ""
        raise InputRejected(
            f"{shown(place)} has images of {len(sizes)} sizes, but a set has one: {listed}{rest}. Resize them first."
        )
    for remark, times in notices.items():
        _log.warning("%s: %d of %d images %s.", place, times, sizes.total(), remark)
    (size,) = sizes
    return size


def kind_of(name: str) -> str:
    """How files that are no images are counted."""
    return PurePosixPath(name).suffix.lower() or "no extension"


def tell_passed_over(place: object, others: Counter[str]) -> None:
    """Warns of files that are no images."""
    if others:
        listed = ", ".join(f"{shown(kind)} ({count})" for kind, count in others.most_common(5))
        _log.warning("%s: %d files are not images and were passed over: %s.", place, others.total(), listed)


def survey(files: Container, visible: Sequence[str], max_pixels: int) -> tuple[EncodedFiles, Names]:
    """Reads every file of a folder or a zip once, and refuses the set with the names of its first offenders.

    Returns:
        The files, and their names.

    What was found is kept while the files stay as they were, see `genbench.images.surveys`.
    """
    names = sorted(n for n in visible if n.lower().endswith(EXTENSIONS))
    if not names:
        seen = f"; it holds {len(visible)} other files" if visible else ""
        raise InputRejected(f"{shown(files.path)} has no images ({', '.join(EXTENSIONS)}){seen}.")
    used = {name for found in caption_files(visible, names) for name in found}
    tell_passed_over(
        files.path,
        Counter(kind_of(n) for n in visible if n not in used and not n.lower().endswith(EXTENSIONS)),
    )
    source = Listed(files, Names.of(names))
    state, settled = files.state(names) if len(names) >= surveys.LEAST else ("", False)
    key = surveys.key_of("files", [state], max_pixels) if state else ""
    known = surveys.recall(key) if key else None
    if known is None or len(known) != len(names):
        look = Look(max_pixels)
        for number, name in enumerate(names):
            if not look.at(name, partial(source.content, number)):
                break
            if not number % 256:
                surveys.progress(f"survey of {PurePosixPath(str(files.path)).name}", number, len(names))
        digests = look.finish(files.path, len(names))
        known = surveys.Survey(names=None, digests=digests, sizes=look.sizes, notices=look.notices)
        if settled:
            surveys.remember(key, known)
    width, height = one_size(files.path, known.sizes, known.notices)
    return EncodedFiles(source, height, width, known.digests, (key,) if key else ()), source.names


def _header(data: bytes, max_pixels: int) -> tuple[tuple[int, int], list[str]]:
    """(width, height) and notices of an image whose header is inside the policy.

    Raises:
        Unfit: outside the policy; and any error of Pillow.
    """
    if not data:
        raise Unfit("is empty (0 bytes)")
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > max_pixels:
            raise Unfit(f"has {image.width}x{image.height} pixels, more than {max_pixels:,}")
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
        raise Unfit("holds floats; images are 8-bit")
    if depth > 8:
        raise Unfit(f"has more than 8 bits a channel (mode {image.mode}); convert it to 8-bit first")
    if image.mode not in ("RGB", "L", "1", "P", "RGBA", "LA"):
        raise Unfit(f"has the colour mode {image.mode}; RGB and greyscale are read")
    if getattr(image, "n_frames", 1) > 1:
        raise Unfit(f"is animated or has several pages ({getattr(image, 'n_frames', 1)} frames)")


def _check_remarks(image: Image.Image) -> None:
    """Refuses metadata that changes what a picture shows: transparent colours and an orientation."""
    transparency = image.info.get("transparency")
    if transparency is not None and not (isinstance(transparency, bytes) and set(transparency) == {255}):
        raise Unfit("has transparent colours")
    # The method of the base class: that of PNG decodes the whole image.
    if Image.Image.getexif(image).get(0x0112, 1) in range(2, 9):
        raise Unfit("has an EXIF orientation other than 1; turn its pixels first")


def _decode(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 (3, h, w), or (1, h, w) for greyscale, of the bytes of a file of the given (width, height)."""
    if not data:
        raise Unfit("is empty (0 bytes)")
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.size != size:
            raise Unfit(f"has {image.width}x{image.height} pixels now, not {size[0]}x{size[1]}")
        _check_kind(image)
        image.load()
        if image.format == "PNG":  # remarks may stand behind the pixels
            _check_remarks(image)
        if image.mode in ("RGBA", "LA"):
            lowest = int(np.asarray(image.getchannel("A")).min())
            if lowest < 255:
                raise Unfit(f"is partly transparent (alpha {lowest})")
        if image.mode == "P":  # Pillow shows colours that are not in the table as black
            highest, colours = int(np.asarray(image).max()), 0
            if image.palette is not None:
                colours = len(image.palette.palette) // len(image.palette.mode)
            if highest >= colours:
                raise Unfit(f"uses colour {highest} of a palette of {colours}")
        image.info.pop("transparency", None)  # opaque by now, and Pillow warns of it when it converts
        pixels = np.asarray(image if image.mode in ("RGB", "L") else image.convert("RGB"))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def classes_of_folders(
    names: Sequence[str], empty_folders: Callable[[str], Sequence[str]] = lambda _: ()
) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    """Labels from the first folder level that differs, if all images lie in one of its folders.

    Args:
        names: of images, relative POSIX paths.
        empty_folders: names of those in a folder that hold nothing: classes without images, which shift no other.

    Returns:
        int64 (n,) and the names of the classes, which are in the order of their numbers where all are numbers.
    """
    of_images = [name.rpartition("/")[0] for name in names]
    different = {folder: folder.split("/") if folder else [] for folder in set(of_images)}
    first, last = min(different.values()), max(different.values())
    common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    if any(len(parts) <= common for parts in different.values()):
        return None, ()
    place = "/".join(first[:common])
    classes = in_order(list({parts[common] for parts in different.values()} | set(empty_folders(place))))
    index = {name: i for i, name in enumerate(classes)}
    numbers = {folder: index[parts[common]] for folder, parts in different.items()}
    return np.fromiter((numbers[folder] for folder in of_images), np.int64, len(of_images)), tuple(classes)


_NAMES = {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF"}


def format_of(names: Iterable[str]) -> str:
    """Format of some files by their names, or several formats joined by "and"."""
    kinds = {name.rpartition(".")[2].lower() for name in names}
    return " and ".join(sorted({_NAMES.get(kind, kind.upper()) for kind in kinds}))
