"""Paths to `Samples`: folders, zips, npz and npy files."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import ImageFile

from genbench.arrays import Images, Samples
from genbench.errors import InputRejected, UsageError, shown
from genbench.images import remote, sharded
from genbench.images.captions import read_captions
from genbench.images.containers import Container, Folder, Zip, open_zip
from genbench.images.encoded import MAX_PIXELS, classes_of_folders, format_of, survey
from genbench.images.npz import no_images, open_array, read_statistics
from genbench.images.places import SHARDS, Place, check_whole
from genbench.images.refusals import EXTENSIONS, verdict
from genbench.images.runs import open_run, run_in
from genbench.weights import offline

_KINDS = "a folder, a zip, tar, parquet, lmdb, npz or npy file of images"
_PACKED = (".tgz", ".gz", ".bz2", ".xz", ".zst")


def open_images(
    path: str | os.PathLike[str], *, labels_from_folders: bool = True, max_pixels: int = MAX_PIXELS
) -> Samples:
    """Opens a set of 8-bit images of one size; greyscale is repeated to three channels.

    Args:
        path: one of
            a folder, searched recursively for png, jpg, jpeg, webp, bmp and tif(f) files (hidden ones are skipped), in
            the order of their relative POSIX paths;
            a .tar of such a folder, or of WebDataset: members of one name up to the ending belong together, 0001.jpg,
            its class number in 0001.cls or as `label` in 0001.json, its caption in 0001.txt or as `caption` there;
            a .parquet of Hugging Face's `datasets`: a column of bytes or of structs {bytes, path}, `label` with the
            names of classes, `caption`, `text` or `prompt`;
            a folder of such shards, or a pattern, such as `train-{000000..000146}.tar` or `data/train-*.parquet`;
            an LMDB, a folder with data.mdb or a .lmdb file, whose values are image files;
            a URL of any of these, see `genbench.images.remote`;
            a run, the folder runs/ID of `genbench run`, finished or not, with the labels or captions it was sampled
            for;
            a .zip of such a folder, read without extracting it;
            an .npz with uint8 `arr_0`, (n, h, w, c) or (n, c, h, w) with c = 1 or 3, and optionally integer labels
            (n,) in `arr_1` and captions (n,), an array of a unicode dtype, in `captions`; or an .npy with images alone.
            Captions of a folder or a zip stand in `metadata.jsonl` or `metadata.csv`, with the name of the image
            relative to that file in the column `file_name` and its text in `caption`, `text` or `prompt` (the layout of
            Hugging Face's `imagefolder`), or in a text file of one line beside each image, 0001.txt beside 0001.png.
            Several shards are one set, shard after shard, and inside a tar in the order of names.
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
            empty, in several columns or not UTF-8; shards that are missing, or of several sets. What only decoding can
            show (damaged pixels, alpha below 255) is raised by `read`.
        MissingAsset: a URL that cannot be read, or a library that is not installed.
        OutOfResources: too little room to copy what a URL names.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UsageError("Pillow was told to pad truncated images (ImageFile.LOAD_TRUNCATED_IMAGES); set it to False.")
    text = os.fspath(path)
    if remote.is_url(text):
        given = fetched(text)
        samples = _opened(given, max_pixels, labels_from_folders)
        return replace(samples, origin=remote.shown_url(text))
    if (shards := sharded.found(path)) is not None:
        return sharded.open_shards(shards, text, max_pixels, labels_from_folders=labels_from_folders)
    place = Path(path)
    try:
        exists = place.exists()
    except OSError:
        exists = False
    if not exists:
        raise InputRejected(f"There is no {shown(place)}; give {_KINDS}.")
    return _opened(place, max_pixels, labels_from_folders)


def _opened(place: Place | sharded.Found | remote.Folder, max_pixels: int, labels_from_folders: bool) -> Samples:
    if isinstance(place, Path) and (shards := sharded.found(place)) is not None:
        place = shards
    if isinstance(place, sharded.Found):
        origin = str(place.paths[0] if len(place.paths) == 1 else place.paths[0].parent)
        return sharded.open_shards(place, origin, max_pixels, labels_from_folders=labels_from_folders)
    if isinstance(place, remote.Folder):
        return _of_files(place, max_pixels, labels_from_folders)
    kind = place.suffix.lower()
    if isinstance(place, Path) and place.is_dir():
        if (run := run_in(place)) is not None:
            return open_run(run, str(place))
        return _of_files(Folder(place), max_pixels, labels_from_folders)
    if kind == ".zip":
        return _of_files(Zip(place), max_pixels, labels_from_folders)
    if kind in (".npz", ".npy"):
        return open_array(place, max_pixels)
    hint = " One image is no set; give its folder." if kind in EXTENSIONS else ""
    hint = " Tars are read in place, which compression does not allow; unpack it." if kind in _PACKED else hint
    raise InputRejected(f"{shown(place)} is none of images that is read; give {_KINDS}.{hint}")


def _of_files(files: Container, max_pixels: int, labels_from_folders: bool) -> Samples:
    visible = [n for n in files.names() if not any(p.startswith(".") or p == "__MACOSX" for p in n.split("/"))]
    has_images = any(name.lower().endswith(EXTENSIONS) for name in visible)
    if not has_images and isinstance(files, Folder) and (shards := sharded.inside(files.path, visible)) is not None:
        return sharded.open_shards(shards, str(files.path), max_pixels, labels_from_folders=labels_from_folders)
    encoded, names = survey(files, visible, max_pixels)
    labels, classes = classes_of_folders(names, files.empty_folders) if labels_from_folders else (None, ())
    return Samples(
        count=len(names),
        shape=(3, encoded.height, encoded.width),
        read=encoded.read,
        origin=str(files.path),
        fingerprint=encoded.fingerprint,
        labels=labels,
        captions=read_captions(files, visible, names),
        classes=classes,
        format=format_of(names),
    )


def fetched(url: str) -> Place | sharded.Found | remote.Folder:
    """What a URL names: copied to the cache where all of it is small enough, else to be streamed.

    Raises:
        MissingAsset: it cannot be had, or fsspec is not installed.
        OutOfResources: too little room for a copy.
        InputRejected: shards that are missing or of several sets.
    """
    listing = remote.listed(url)
    names = [file.name for file in listing.files]
    databases = any(name.lower().endswith((".mdb", ".lmdb")) for name in names)
    files: list[Place] = list(listing.files)
    if offline() or databases or listing.size <= remote.limit():
        folder = remote.copied(listing)
        if listing.kind == "folder":
            return folder
        files = [folder / name for name in names]
    shards = [file for file, name in zip(files, names, strict=True) if name.lower().endswith(SHARDS)]
    if listing.kind == "folder" and not shards:
        return remote.Folder(remote.shown_url(url), listing.files)
    if listing.kind == "file" and not shards:
        return files[0]
    if listing.kind == "pattern" and len(shards) != len(files):
        raise InputRejected(f"{shown(remote.shown_url(url))} stands for files that are no {' or '.join(SHARDS)}.")
    if listing.kind != "file":
        check_whole(remote.shown_url(url), [name for name in names if name.lower().endswith(SHARDS)])
    return sharded.of_one_kind(remote.shown_url(url), shards)


def open_reference(path: str | os.PathLike[str], *, labels_from_folders: bool = True) -> Samples:
    """Opens real images as `open_images` does, and the statistics that are published in place of them or beside them.

    Args:
        path: as of `open_images`; or an .npz with `mu` (d,) and `sigma` (d, d) of pooled features, d = 2048 of
            Inception, as TTUR, pytorch-fid and EDM write them, or 384 to 1536 of DINOv2 and CLIP, with a text
            `extractor` where it is to be told (see `npz.read_statistics`); or a reference batch of guided diffusion,
            with images in `arr_0`, `mu` and `sigma` of the whole training set, and `mu_s` (2023,) and `sigma_s` for
            sFID; or a file that `genbench stats` wrote, which says what it is of.

    Returns:
        Samples with `statistics`; of a file without images, 0 of them. A file does not record the
        resize that was used; choose a protocol with the same one.

    Raises:
        InputRejected: a mean without a covariance; another width, shape or dtype than float32 or float64; values that
            are not finite, a matrix that is not symmetric or has a negative diagonal; and the causes of `open_images`.
    """
    text = os.fspath(path)
    if remote.is_url(text) and remote.shown_url(text).lower().endswith(".npz"):
        given, origin = fetched(text), remote.shown_url(text)
        assert isinstance(given, Path | remote.Remote)
        place: Place = given
    elif text.lower().endswith(".npz") and Path(path).is_file():
        place, origin = Path(path), text
    else:
        return open_images(path, labels_from_folders=labels_from_folders)
    try:
        with open_zip(place) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            found = read_statistics(archive, entries)
    except InputRejected:
        raise
    except Exception as error:  # damaged archives and headers raise whatever their fields lead to
        raise InputRejected(f"{shown(place)} {verdict(error)}.") from error
    if "arr_0.npy" in entries or not found:
        return replace(open_array(place, MAX_PIXELS), statistics=found, origin=origin)
    content = hashlib.sha256("".join(f"{tap} {found[tap].digest()} " for tap in sorted(found)).encode()).hexdigest()
    return Samples(
        count=0,
        shape=(3, 0, 0),
        read=no_images,
        origin=origin,
        fingerprint=partial(str, content),
        statistics=found,
    )


def prefetch(samples: Samples, size: int, workers: int = 2) -> Iterator[Images]:
    """All images in order, `size` at a time as `Samples.batches` gives them, read ahead by threads.

    Args:
        samples: whose `read` may be called from several threads, as that of `open_images` may.
        workers: threads; at most workers + 1 batches exist beside the one that was handed out. 0 reads in the
            caller, as does a system that allows no more threads.

    Raises:
        InputRejected: from the reader, when the batch it concerns is reached.
    """
    done = 0
    try:
        if workers > 0:
            for images in _read_ahead(samples, size, workers):
                yield images
                done += len(images)
            return
    except RuntimeError as error:
        if "can't start new thread" not in str(error):
            raise
    for start in range(done, samples.count, size):
        yield samples.read(start, min(start + size, samples.count))


def _read_ahead(samples: Samples, size: int, workers: int) -> Iterator[Images]:
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
        pool.shutdown(cancel_futures=True)
