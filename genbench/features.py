"""Images to features: the only loop over images, and the cache of what it gives.

An extractor passes over a set of images once, whatever number of metrics wants its taps. Features are stored under
the digest of the extractor (weights, resize, scaling, arithmetic) and of the samples' content, never under a name.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from genbench.arrays import Evidence, Features, Samples, image_digests
from genbench.contracts import Extractor
from genbench.errors import InputRejected, UsageError
from genbench.files import read_sealed, replacing, write_sealed
from genbench.images import prefetch
from genbench.records import digest
from genbench.weights import cache_directory

if TYPE_CHECKING:
    from torch import Tensor

CAPTIONS = "captions"
"""The tap of texts; all others are of images."""


def evidence(
    samples: Samples,
    extractor: Extractor | None,
    taps: Sequence[str],
    *,
    cache: Path,
    device: str,
    workers: int = 2,
    watch: Callable[[int], None] | None = None,
) -> Evidence:
    """The samples with the features of the taps, from the cache or by one pass of the extractor.

    Args:
        cache: directory of feature files.
        watch: called with the number of images done since the last call.

    Raises:
        UsageError: a tap that the extractor does not have, or captions that the samples do not have.
    """
    if extractor is None or not taps:
        return Evidence(samples=samples)
    for tap in taps:
        if tap != CAPTIONS and tap not in extractor.widths:
            raise UsageError(f"This extractor has no tap {tap!r}; it has {', '.join(extractor.widths)}.")
    paths = {tap: cache / f"{_key(samples, extractor, tap)}.npy" for tap in taps}
    missing = [tap for tap in taps if not paths[tap].exists()]
    cache.mkdir(parents=True, exist_ok=True)
    if CAPTIONS in missing:
        _write_all(paths[CAPTIONS], caption_blocks(samples, extractor))
        missing.remove(CAPTIONS)
    if missing:
        blocks = image_blocks(samples, extractor, missing, device=device, workers=workers, watch=watch)
        _write_taps({tap: paths[tap] for tap in missing}, blocks)
    elif watch is not None:
        watch(samples.count)
    found = {tap: Features(extractor=extractor.key, tap=tap, path=path) for tap, path in paths.items()}
    for tap, features in found.items():
        if len(features) != samples.count:
            raise InputRejected(
                f"The cached features {paths[tap]} hold {len(features)} rows for {samples.count} images."
            )
    return Evidence(samples=samples, taps=found)


def pixel_digests(
    samples: Samples,
    *,
    cache: Path | None = None,
    workers: int = 2,
    watch: Callable[[int], None] | None = None,
) -> NDArray[np.uint8]:
    """`image_digests` of all samples, in their order: uint8 (n, 32).

    Equal images have equal digests, whatever files they lie in. Where only decoding tells them, they are found once and
    kept under the fingerprint of the samples.

    Args:
        cache: directory of feature files; None for that of the user.
    """
    if samples.hashes is not None:
        return samples.hashes(0, samples.count)
    place = _digests_path(samples, cache)
    if (content := read_sealed(place)) is not None and len(content) == 32 * samples.count:
        return np.frombuffer(content, dtype=np.uint8).reshape(samples.count, 32)
    found = []
    for images in prefetch(samples, 64, workers=workers):
        found.append(image_digests(images))
        if watch is not None:
            watch(len(images))
    digests = np.concatenate(found) if found else np.empty((0, 32), dtype=np.uint8)
    write_sealed(place, digests.tobytes())
    return digests


def _digests_path(samples: Samples, cache: Path | None) -> Path:
    return (cache or cache_directory() / "features") / f"{digest([samples.fingerprint(), samples.count], 32)}.pixels"


def _key(samples: Samples, extractor: Extractor, tap: str) -> str:
    # Texts are not part of what identifies the images, and images not of what identifies the texts.
    content = digest(list(samples.captions or ())) if tap == CAPTIONS else samples.fingerprint()
    return digest([content, samples.count, extractor.key, tap], 32)


def image_blocks(
    samples: Samples,
    extractor: Extractor,
    taps: Sequence[str],
    *,
    device: str,
    workers: int = 2,
    watch: Callable[[int], None] | None = None,
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Features of consecutive images, block by block, in order.

    Every call of the network gets exactly `extractor.block` images: a feature can then not depend on how the images
    were batched. The last block is filled up with its first image.
    """
    import torch

    for images in prefetch(samples, extractor.block, workers=workers):
        filled = np.concatenate([images, np.repeat(images[:1], extractor.block - len(images), axis=0)])
        with torch.inference_mode():
            out = extractor.embed(torch.from_numpy(filled).to(device), taps)
        yield {tap: _array(out[tap])[: len(images)] for tap in taps}
        if watch is not None:
            watch(len(images))


def caption_blocks(samples: Samples, extractor: Extractor) -> Iterator[NDArray[np.float32]]:
    """Features of the samples' captions, block by block, in order.

    Raises:
        UsageError: no captions, or an extractor that embeds no texts.
    """
    import torch

    if samples.captions is None:
        raise UsageError(f"{samples.origin} has no captions, which this metric compares its images with.")
    if extractor.embed_captions is None:
        raise UsageError("This extractor embeds no texts; choose one that does, such as clip or tiny-clip.")
    for start in range(0, samples.count, extractor.block):
        stop = min(start + extractor.block, samples.count)
        texts = [samples.captions[i] for i in range(start, stop)]
        with torch.inference_mode():
            yield _array(extractor.embed_captions(texts + texts[:1] * (extractor.block - len(texts))))[: len(texts)]


def _array(values: Tensor) -> NDArray[np.float32]:
    return values.float().flatten(1).cpu().numpy()


def _write_all(path: Path, blocks: Iterator[NDArray[np.float32]]) -> None:
    _write_taps({"": path}, ({"": block} for block in blocks))


def _write_taps(paths: dict[str, Path], blocks: Iterator[dict[str, NDArray[np.float32]]]) -> None:
    """Streams blocks into one .npy file a tap; a file appears under its name only when it is complete."""
    with ExitStack() as stack:
        # Files are left in the reverse order of opening: written and closed first, then moved into place.
        parts = {tap: stack.enter_context(replacing(path, durable=False)) for tap, path in paths.items()}
        opened = {tap: stack.enter_context(part.open("wb")) for tap, part in parts.items()}
        rows, widths = 0, dict.fromkeys(paths, 0)
        for file in opened.values():
            file.write(bytes(NPY_HEADER))
        for block in blocks:
            for tap, file in opened.items():
                values = np.ascontiguousarray(block[tap], dtype=np.float32)
                widths[tap] = values.shape[1]
                file.write(values.tobytes())
            rows += len(values)
        for tap, file in opened.items():
            file.seek(0)
            file.write(npy_header(rows, widths[tap]))


NPY_HEADER = 128
"""Bytes of the .npy header, fixed, so that it can be written after the number of rows is known."""


def npy_header(rows: int, width: int) -> bytes:
    """The first `NPY_HEADER` bytes of a .npy file of float32 (rows, width)."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}".encode()
    magic = b"\x93NUMPY\x01\x00"
    size = NPY_HEADER - len(magic) - 2
    return magic + struct.pack("<H", size) + text.ljust(size - 1) + b"\n"
