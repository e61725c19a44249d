"""Encoded image files under one strict policy: headers first, pixels when a metric asks for them."""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from genbench.arrays import Images
from genbench.errors import InputRejected, shown
from genbench.images.captions import caption_files
from genbench.images.containers import Folder, Zip
from genbench.images.pinned import Pins
from genbench.images.refusals import EXTENSIONS, FORMATS, Unfit, naming, verdict
from genbench.labels import in_order

DECODER = 1
"""Raised when the same files would give other pixels; part of every fingerprint."""


MAX_PIXELS = 64_000_000


_OFFENDERS = 20


_log = logging.getLogger(__name__)


@dataclass(slots=True)
class EncodedFiles:
    """Image files of one size whose headers were found good. Pixels that are read belong to the fingerprint, although
    the bytes of the files are read anew for them: bytes that have changed are refused."""

    files: Folder | Zip
    names: tuple[str, ...]
    height: int
    width: int
    pins: Pins = field(init=False)

    def __post_init__(self) -> None:
        self.pins = Pins(len(self.names))

    def read(self, start: int, stop: int) -> Images:
        images = np.empty((stop - start, 3, self.height, self.width), dtype=np.uint8)
        for image, number in zip(images, range(start, stop), strict=True):
            with naming(self.files.path / self.names[number]):
                image[:] = _decode(self._bytes(number), (self.width, self.height))
        return images

    def _bytes(self, number: int) -> bytes:
        data = self.files.read(self.names[number])
        digest = np.frombuffer(hashlib.sha256(data).digest(), dtype=np.uint8)
        self.pins.hold(number, digest[None], self.files.path / self.names[number])
        return data

    def fingerprint(self) -> str:
        """SHA-256 over those of the files in order, so that a zip equals the folder it was made from."""
        for number in np.flatnonzero(~self.pins.known).tolist():
            with naming(self.files.path / self.names[number]):
                self._bytes(number)
        return hashlib.sha256(f"genbench.images {DECODER} ".encode() + self.pins.digests.tobytes()).hexdigest()


def survey(files: Folder | Zip, visible: Sequence[str], max_pixels: int) -> EncodedFiles:
    """Reads every header and refuses the set, with the names of its first offenders, before any pixel is decoded."""
    names = sorted(n for n in visible if n.lower().endswith(EXTENSIONS))
    if not names:
        seen = f"; it holds {len(visible)} other files" if visible else ""
        raise InputRejected(f"{shown(files.path)} has no images ({', '.join(EXTENSIONS)}){seen}.")
    used = {*names, *(name for found in caption_files(visible, names) for name in found)}
    others = Counter(PurePosixPath(n).suffix.lower() or "no extension" for n in visible if n not in used)
    if others:
        listed = ", ".join(f"{shown(kind)} ({count})" for kind, count in others.most_common(5))
        _log.warning("%s: %d files are not images and were passed over: %s.", files.path, sum(others.values()), listed)
    sizes: Counter[tuple[int, int]] = Counter()
    notices: Counter[str] = Counter()
    offenders: list[str] = []
    with warnings.catch_warnings():
        # Pillow warns of metadata that cannot change pixels; metadata that can is checked below.
        warnings.simplefilter("ignore")
        for name in names:
            try:
                with files.stream(name) as stream:
                    size, notice = _header(stream, max_pixels)
                sizes[size] += 1
                notices.update(notice)
            except Exception as error:  # headers of damaged files raise whatever their fields lead to
                offenders.append(f"{shown(name)} {verdict(error)}")
                if len(offenders) == _OFFENDERS:
                    break
    if offenders:
        count = f"at least {_OFFENDERS}" if len(offenders) == _OFFENDERS else str(len(offenders))
        more = " and others" if len(offenders) > 3 else ""
        raise InputRejected(
            f"{shown(files.path)}: {count} of {len(names)} images cannot be used: {'; '.join(offenders[:3])}{more}."
        )
    if len(sizes) > 1:
        listed = ", ".join(f"{w}x{h} ({count})" for (w, h), count in sizes.most_common(5))
        rest = ", ..." if len(sizes) > 5 else ""
        raise InputRejected(
            f"{shown(files.path)} has images of {len(sizes)} sizes, but a set has one: {listed}{rest}. "
            "Resize them first."
        )
    for remark, times in notices.items():
        _log.warning("%s: %d of %d images %s.", files.path, times, len(names), remark)
    ((width, height),) = sizes
    return EncodedFiles(files, tuple(names), height, width)


def _header(stream: IO[bytes], max_pixels: int) -> tuple[tuple[int, int], list[str]]:
    """(width, height) and notices of an image whose header is inside the policy.

    Raises:
        Unfit: outside the policy; and any error of Pillow.
    """
    if not stream.read(1):
        raise Unfit("is empty (0 bytes)")
    stream.seek(0)
    with Image.open(stream, formats=FORMATS) as image:
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
    folders = [name.split("/")[:-1] for name in names]
    first, last = min(folders), max(folders)
    common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    if any(len(parts) <= common for parts in folders):
        return None, ()
    place = "/".join(folders[0][:common])
    classes = in_order(list({parts[common] for parts in folders} | set(empty_folders(place))))
    index = {name: i for i, name in enumerate(classes)}
    return np.array([index[parts[common]] for parts in folders], dtype=np.int64), tuple(classes)
