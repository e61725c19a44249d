"""Images to features: the only loop over images, and the cache of what it gives.

An extractor passes over a set of images once, whatever number of metrics wants its taps. Features are stored under
the digest of the extractor (weights, resize, scaling, arithmetic) and of the samples' content, never under a name.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genbench import stopping
from genbench.arrays import Evidence, Features, Images, Samples, image_digests
from genbench.contracts import Extractor
from genbench.errors import InputRejected, NotComparable, UsageError, lacks_memory, shown
from genbench.feature_files import NPY_HEADER as NPY_HEADER
from genbench.feature_files import Table, rows_of_part, temporary_directory, writable
from genbench.feature_files import npy_header as npy_header
from genbench.images import prefetch
from genbench.records import digest
from genbench.weights import cache_directory

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)

CAPTIONS = "captions"
"""The tap of texts. All others are of images."""

CALL_BYTES = 64 << 20
"""Pixels of one call of a network: images that are large come in smaller blocks, or memory would grow with them."""

_PIXELS = " pixels"
"""Name of the table of digests beside those of taps, which have no space in their names."""

Advance = Callable[[int], None]
"""Called with the number of images done since the last call."""
Blocks = Iterator[Mapping[str, NDArray[Any]]]
"""Rows of tables, by name, of consecutive images."""
Spread = Callable[..., object]
"""spread(own, numbers, advance, **told): has parts made by this process, by own(some, advance), and by others, which
are told what `make_parts` needs."""


def evidence(
    samples: Samples,
    extractor: Extractor | None,
    taps: Sequence[str],
    *,
    cache: Path,
    device: str,
    workers: int = 2,
    advance: Advance | None = None,
    spread: Spread | None = None,
) -> Evidence:
    """The samples with the features of the taps, from the cache or by one pass of the extractor.

    What is stored is looked at before it is used, and what is damaged is made anew. A pass that was interrupted goes on
    with the part that it was in. Where the cache cannot be written to, features live as long as this process.

    Args:
        cache: directory of feature files.
        advance: called with the number of images done since the last call.
        spread: hands parts to other processes, None where there are none.

    Raises:
        UsageError: a tap that the extractor does not have, or captions that the samples do not have.
        InputRejected: images that changed while they were read, or features of another shape than the extractor says.
    """
    if extractor is None or not taps:
        return Evidence(samples=samples)
    for tap in taps:
        if tap != CAPTIONS and tap not in extractor.widths:
            raise UsageError(f"This extractor has no tap {tap!r}; it has {', '.join(extractor.widths)}.")
    tables: dict[str, Table] = {}
    if widths := [tap for tap in taps if tap != CAPTIONS]:
        images = pass_over_images(samples, extractor, widths, cache=cache, device=device, workers=workers)
        tables |= _filled(images, advance, spread)
    if CAPTIONS in taps:
        tables |= _filled(pass_over_captions(samples, extractor, cache=cache), None if tables else advance, spread)
    found = {tap: Features(extractor=extractor.key, tap=tap, path=tables[tap].path) for tap in taps}
    for tap in widths:
        if samples.count > 1 and _constant(found[tap]):
            _log.warning(
                "All %d images of %s have the same features at %s: they are one image, or the extractor is broken.",
                samples.count,
                shown(samples.origin),
                tap,
            )
    return Evidence(samples=samples, taps=found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One look at a set of images, and the tables that it fills, in parts that any process can make.

    Attributes:
        tables: by name, all with the same parts.
        beside: tables that are filled along where the samples are looked at for others.
        look: look(some, start, names) gives the rows of the tables of these names, block by block, of some of the
            samples, of which the first has the number `start`. Some block ends where a part ends.
    """

    samples: Samples
    tables: Mapping[str, Table]
    look: Callable[[Samples, int, Set[str]], Blocks]
    beside: Mapping[str, Table] = field(default_factory=dict)


def pass_over_images(
    samples: Samples, extractor: Extractor, taps: Sequence[str], *, cache: Path, device: str, workers: int
) -> Pass:
    """The pass for image features of some taps."""
    call = images_of_call(extractor, samples.shape)
    widest = max(extractor.widths.values()) if all(extractor.widths.values()) else None
    part = rows_of_part(call, widest)
    tables = {
        tap: Table(
            directory=cache, key=_key(samples, extractor, tap), rows=samples.count, part=part,
            width=extractor.widths[tap] or None,
        )
        for tap in taps
    }  # fmt: skip
    # What the images were when their fingerprint, and with it the names of the files, was found.
    known = None if samples.hashes is None else samples.hashes(0, samples.count)

    def look(some: Samples, start: int, names: Set[str]) -> Blocks:
        wanted = [tap for tap in taps if tap in names]
        for images, found in _embedded(prefetch(some, call, workers=workers), extractor, wanted, call, device):
            digests = image_digests(images)
            if known is not None and (digests != known[start : start + len(images)]).any():
                raise InputRejected(f"{shown(samples.origin)} was changed while it was measured; run it again.")
            start += len(images)
            yield {_PIXELS: digests, **found}

    # Pixels are decoded for the features; nobody has to decode them again for their digests.
    beside = {} if known is not None else {_PIXELS: replace(_pixel_table(samples, cache), part=part)}
    return Pass(samples=samples, tables=tables, look=look, beside=beside)


def pass_over_captions(samples: Samples, extractor: Extractor, *, cache: Path) -> Pass:
    """The pass for features of texts."""

    def look(some: Samples, start: int, names: Set[str]) -> Blocks:
        return ({CAPTIONS: values} for values in caption_blocks(some, extractor))

    part = rows_of_part(extractor.block, 1024)
    texts = Table(directory=cache, key=_key(samples, extractor, CAPTIONS), rows=samples.count, part=part)
    return Pass(samples=samples, tables={CAPTIONS: texts}, look=look)


def _constant(features: Features) -> bool:
    """Whether all rows are equal. A set that is not is known by its first rows."""
    first = features.values()[:1]
    return all((block == first).all() for block in features.blocks(256))


def pair_evidence(
    generated: Evidence,
    reference: Samples,
    extractor: Extractor,
    taps: Sequence[str],
    *,
    cache: Path,
    device: str,
    workers: int = 2,
    advance: Advance | None = None,
    spread: Spread | None = None,
) -> Evidence:
    """The generated side with taps of pairs added: what `Extractor.compare` gives for image i of both sides.

    Both sides are read in one pass, and nothing is kept but the numbers of the pairs.

    Args:
        spread: hands parts to other processes, None where there are none.

    Raises:
        UsageError: an extractor that compares no pairs.
        NotComparable: another number of images.
    """
    whole = pass_over_pairs(generated.samples, reference, extractor, taps, cache=cache, device=device, workers=workers)
    made = _filled(whole, advance, spread)
    of_pairs = {tap: Features(extractor=extractor.key, tap=tap, path=made[tap].path) for tap in taps}
    return replace(generated, taps={**generated.taps, **of_pairs})


def pass_over_pairs(
    samples: Samples,
    reference: Samples,
    extractor: Extractor,
    taps: Sequence[str],
    *,
    cache: Path,
    device: str,
    workers: int,
) -> Pass:
    """The pass for numbers of pairs, see `pair_evidence`."""
    import torch

    compare = extractor.compare
    if compare is None:
        raise UsageError(f"This extractor compares no pairs of images; its taps are {', '.join(extractor.widths)}.")
    if samples.count != reference.count:
        raise NotComparable(
            f"Pairs need as many images on both sides; {samples.origin} has {samples.count} and {reference.origin} has "
            f"{reference.count}."
        )
    call = min(images_of_call(extractor, side.shape) for side in (samples, reference))
    content = [samples.fingerprint(), reference.fingerprint(), samples.count, extractor.key, "pairs"]
    part = rows_of_part(call, 1024)
    tables = {
        tap: Table(
            directory=cache, key=digest([*content, tap], 32), rows=samples.count, part=part,
            width=extractor.widths[tap],
        )
        for tap in taps
    }  # fmt: skip

    def look(some: Samples, start: int, names: Set[str]) -> Blocks:
        others = prefetch(reference.subset(start, start + some.count), call, workers=workers)
        for ours, theirs in zip(prefetch(some, call, workers=workers), others, strict=True):
            with torch.inference_mode():
                x, y = (torch.from_numpy(_filled_up(images, call)).to(device) for images in (ours, theirs))
                found = compare(x, y, sorted(names))
            yield {tap: _array(values)[: len(ours)] for tap, values in found.items()}

    return Pass(samples=samples, tables=tables, look=look)


def _filled_up(images: Images, count: int) -> Images:
    """A block of so many images, with the first one repeated at its end."""
    return np.concatenate([images, np.repeat(images[:1], count - len(images), axis=0)])


def pixel_digests(
    samples: Samples,
    *,
    cache: Path | None = None,
    workers: int = 2,
    advance: Advance | None = None,
    spread: Spread | None = None,
) -> NDArray[np.uint8]:
    """`image_digests` of all samples, in their order: uint8 (n, 32).

    Equal images have equal digests, whatever files they lie in. Where only decoding tells them, they are found once and
    kept under the fingerprint of the samples.

    Args:
        cache: directory of feature files, None for that of the user.
        advance: called with the number of images done since the last call.
        spread: hands parts to other processes, None where there are none.
    """
    if samples.hashes is not None:
        return samples.hashes(0, samples.count)
    whole = pass_over_pixels(samples, cache=cache or cache_directory() / "features", workers=workers)
    return np.array(np.load(_filled(whole, advance, spread)[_PIXELS].path, allow_pickle=False))


def pass_over_pixels(samples: Samples, *, cache: Path, workers: int) -> Pass:
    """The pass for digests of pixels, see `pixel_digests`."""
    size = max(1, min(64, (CALL_BYTES >> 2) // math.prod(samples.shape)))

    def look(some: Samples, start: int, names: Set[str]) -> Blocks:
        return ({_PIXELS: image_digests(images)} for images in prefetch(some, size, workers=workers))

    table = replace(_pixel_table(samples, cache), part=rows_of_part(size, 8))
    return Pass(samples=samples, tables={_PIXELS: table}, look=look)


def _pixel_table(samples: Samples, cache: Path) -> Table:
    key = digest([samples.fingerprint(), samples.count, "pixels"], 32)
    return Table(directory=cache, key=key, rows=samples.count, part=1, width=32, dtype="|u1")


def _filled(whole: Pass, advance: Advance | None = None, spread: Spread | None = None) -> dict[str, Table]:
    """The tables with all their rows, from the cache, from parts that are there, or by looking at the samples."""
    lacking = {name: table for name, table in whole.tables.items() if not table.finished()}
    if not lacking:
        return dict(whole.tables)
    lacking |= {name: table for name, table in whole.beside.items() if not table.finished()}
    cache = next(iter(lacking.values())).directory
    directory = _writable(cache)
    lacking = {name: replace(table, directory=directory) for name, table in lacking.items()}
    missing = {name: [] if table.finished() else table.missing() for name, table in lacking.items()}
    left = sorted(set().union(*missing.values()))
    one = next(iter(lacking.values()))  # all have the same parts
    watch = advance or (lambda _: None)
    watch(one.rows - sum(stop - start for start, stop in map(one.span, left)))

    told: dict[str, Any] = {
        "missing": missing, "keys": {name: table.key for name, table in lacking.items()}, "directory": directory,
    }  # fmt: skip

    def own(numbers: Sequence[int], advance: Advance) -> None:
        make_parts(whole, numbers, advance, **told)

    if spread is None or directory != cache:  # which other processes may not see
        own(left, watch)
    else:
        spread(own, left, watch, **told)
    for table in lacking.values():
        table.assemble()
    return {**whole.tables, **lacking}


def make_parts(
    whole: Pass,
    numbers: Sequence[int],
    advance: Advance,
    *,
    missing: Mapping[str, Sequence[int]],
    keys: Mapping[str, str],
    directory: Path,
) -> None:
    """Looks at some of the samples and writes parts of tables.

    Args:
        numbers: ascending, of the parts that are looked at.
        missing: by table, of the parts that are not there.
        keys: of the tables, as the process knows them that has looked for them.
        directory: of the tables.

    Raises:
        InputRejected: images that have changed since the keys were found, or are others where this process runs.
    """
    known = {**whole.tables, **whole.beside}
    if any(known[name].key != key for name, key in keys.items()):
        raise InputRejected(
            f"{shown(whole.samples.origin)} holds other images for this process than for the one that leads, or was "
            "changed; run it again."
        )
    tables = {name: replace(known[name], directory=directory) for name in keys}
    wanted = {name: set(some) for name, some in missing.items()}
    one = next(iter(tables.values()))
    for first, last in _runs(numbers):
        start, stop = one.span(first)[0], one.span(last)[1]
        number, position = first, start
        kept: dict[str, list[NDArray[Any]]] = {name: [] for name in tables}
        for block in whole.look(whole.samples.subset(start, stop), start, {name for name in wanted if wanted[name]}):
            for name in kept.keys() & block.keys():
                kept[name].append(block[name])
            rows = len(next(iter(block.values())))
            position += rows
            if position == one.span(number)[1]:
                for name, pieces in kept.items():
                    if number in wanted[name]:
                        tables[name].write(number, np.concatenate(pieces))
                    pieces.clear()
                number += 1
                stopping.check()
            advance(rows)


def _writable(cache: Path) -> Path:
    if writable(cache):
        return cache
    _log.warning(
        "%s cannot be written to: features are made for this command alone. Set GENBENCH_CACHE to a directory of yours "
        "to keep them.",
        shown(cache),
    )
    return temporary_directory()


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of every run of consecutive numbers."""
    start = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            yield numbers[start], numbers[i - 1]
            start = i


def _key(samples: Samples, extractor: Extractor, tap: str) -> str:
    # Image features are kept by the images' fingerprint and caption features by the captions'; neither needs the other.
    content = digest(list(samples.captions or ())) if tap == CAPTIONS else samples.fingerprint()
    return digest([content, samples.count, extractor.key, tap], 32)


def images_of_call(extractor: Extractor, shape: tuple[int, int, int]) -> int:
    """Images of every call of the extractor's network: its block, or what `CALL_BYTES` hold of larger images.

    It depends on the size of the images alone, so that no feature depends on how images were batched.
    """
    return max(1, min(extractor.block, CALL_BYTES // max(math.prod(shape), 1)))


def image_blocks(
    samples: Samples,
    extractor: Extractor,
    taps: Sequence[str],
    *,
    device: str,
    workers: int = 2,
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Features of consecutive images, block by block, in order.

    Every call of the network gets exactly `images_of_call` images: a feature can then not depend on how the images
    were batched. The last block is filled up with its first image.
    """
    call = images_of_call(extractor, samples.shape)
    for _, found in _embedded(prefetch(samples, call, workers=workers), extractor, taps, call, device):
        yield found


def _embedded(
    blocks: Iterator[Images], extractor: Extractor, taps: Sequence[str], call: int, device: str
) -> Iterator[tuple[Images, dict[str, NDArray[np.float32]]]]:
    """Blocks of images, in order, each with its features.

    A GPU works on the next block while the features of one come back and whoever asked for them uses them.
    """
    started: deque[tuple[Images, Callable[[], dict[str, NDArray[np.float32]]]]] = deque()
    ahead = 1 if device.startswith("cuda") else 0
    for images in blocks:
        started.append((images, _started(images, extractor, taps, call, device)))
        if len(started) > ahead:
            yield _finished(*started.popleft(), extractor)
    while started:
        yield _finished(*started.popleft(), extractor)


def _started(
    images: Images, extractor: Extractor, taps: Sequence[str], call: int, device: str
) -> Callable[[], dict[str, NDArray[np.float32]]]:
    """Begins with a block, and returns what waits for its features."""
    import torch

    x = torch.from_numpy(_filled_up(images, call))
    with torch.inference_mode():
        if not device.startswith("cuda"):
            found = {tap: _array(values) for tap, values in _of_network(extractor, x.to(device), taps).items()}
            return lambda: found
        # Copies from and to pinned memory run beside the kernels, and Python does not wait for them.
        out = _of_network(extractor, x.pin_memory().to(device, non_blocking=True), taps)
        copies = {}
        for tap in taps:
            rows = out[tap].float().flatten(1)
            copies[tap] = torch.empty(rows.shape, pin_memory=True).copy_(rows, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(device))

    def wait() -> dict[str, NDArray[np.float32]]:
        done.synchronize()
        return {tap: np.array(values) for tap, values in copies.items()}

    return wait


def _of_network(extractor: Extractor, x: Tensor, taps: Sequence[str]) -> Mapping[str, Tensor]:
    """Features of a block by its taps, in smaller calls where memory does not suffice for one."""
    import torch

    try:
        found = extractor.embed(x, taps)
        return {tap: found[tap] for tap in taps}
    except (RuntimeError, MemoryError) as error:
        if len(x) == 1 or not lacks_memory(error):
            raise
    half = len(x) // 2
    _log.warning("Memory does not suffice for %d images a call of the extractor; going on with %d.", len(x), half)
    parts = [_of_network(extractor, piece, taps) for piece in (x[:half], x[half:])]
    return {tap: torch.cat([part[tap] for part in parts]) for tap in taps}


def _finished(
    images: Images, wait: Callable[[], dict[str, NDArray[np.float32]]], extractor: Extractor
) -> tuple[Images, dict[str, NDArray[np.float32]]]:
    """A block with its features, without the rows that only filled it up."""
    found = {tap: values[: len(images)] for tap, values in wait().items()}
    for tap, values in found.items():
        if values.shape != (len(images), extractor.widths[tap] or values.shape[1]):
            raise InputRejected(
                f"The extractor gave {values.shape} for {len(images)} images at the tap {tap!r}; it declares "
                f"{extractor.widths[tap]} features an image."
            )
    return images, found


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
