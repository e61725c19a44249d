"""Measuring inside a training loop: images come in batches, numbers at any time, parts merge.

Features are written to disk as they come, so that memory does not grow with the number of images, whatever the metrics.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genbench import environment, features, measuring, pipeline, preflight, requests
from genbench.arrays import Evidence, Features, Images, Samples, fingerprint_of, image_digests
from genbench.contracts import Extractor
from genbench.errors import GenbenchError, InputRejected, NotComparable, UsageError
from genbench.outcome import Outcome

if TYPE_CHECKING:
    from torch import Tensor

    from genbench.requests import Source


class Evaluator:
    """Collects generated images and measures them against a reference.

    Args:
        reference: real images, or a path or the name of a data set, None for metrics without a reference.
        metrics: measurement texts, such as "fid" and "precision@compact", or one; "all" stands for what the protocol
            lists.
        protocol: name, None for that of the data set which `reference` names, else "embedded".
        held_out: real images that are not in the reference. They give the floors. None for those of the data set.
        test: labelled real images, for metrics that test a classifier. None for those of the data set.
        device, workers, data_dir, weights: see `genbench.run`.
        execution: in place of these, a `genbench.Execution`.

    Every call of an extractor's network gets a full block: images wait until one is there, and `compute` fills the
    last one up. Values are therefore independent of the sizes of the updates. With `torch.distributed`, every
    rank updates its own evaluator, all of them call `gather` together, and every rank may then compute.

    An evaluator belongs to the process that made it; `close`, or the end of a `with` block, removes its files.

    Raises:
        GenbenchError: see `genbench.errors`. An update that is refused leaves the evaluator as it was.
    """

    def __init__(
        self,
        reference: Source | None,
        *,
        metrics: str | Iterable[str] = requests.DEFAULT_METRICS,
        protocol: str | None = None,
        held_out: Source | None = None,
        test: Source | None = None,
        device: str = "auto",
        workers: int = 2,
        data_dir: str | Path | None = None,
        weights: Mapping[str, str | Path] | None = None,
        execution: measuring.Execution | None = None,
    ) -> None:
        self._execution = execution or measuring.Execution(
            device=device,
            workers=workers,
            data_dir=None if data_dir is None else Path(data_dir),
            weights=requests.weights_of(weights),
        )
        self._request = requests.of_score(
            None,
            reference,
            metrics=metrics,
            protocol=protocol,
            held_out=held_out,
            test=test,
            execution=self._execution,
        )
        self._device = environment.choose_device(self._execution.device)
        self._taps: dict[str, dict[str, None]] = {}
        self._extractors: dict[str, Extractor] = {}
        self._keeps_images = False
        problems: list[GenbenchError] = []
        for cell in pipeline.bind_cells(self._request.measurements, self._request.protocol):
            self._keeps_images |= cell.metric.images or cell.metric.pairwise
            with preflight.collecting(problems):
                extractor = measuring.load_extractor(cell, self._execution, self._device)
                preflight.check_arguments(cell, extractor, self._request.reference)
                if extractor is not None:
                    name = str(cell.extractor_ref)
                    self._extractors[name] = extractor
                    taps = () if cell.metric.pairwise else measuring.taps_of(cell, extractor)
                    self._taps.setdefault(name, {}).update(dict.fromkeys(taps))
        if problems:
            raise preflight.together(problems)
        self._directory = Path(tempfile.mkdtemp(prefix="genbench-"))
        self._process = os.getpid()
        self._open = True
        self._start()

    def _start(self) -> None:
        self._count = 0
        self._shape: tuple[int, ...] | None = None
        self._digests: list[NDArray[np.uint8]] = []
        self._labels: list[NDArray[np.int64]] = []
        self._captions: list[str] = []
        self._waiting: dict[str, list[Images]] = {name: [] for name, taps in self._taps.items() if taps}

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        measured = ", ".join(map(str, self._request.measurements))
        return f"<Evaluator of {measured}: {self._count} images{'' if self._open else ', closed'}>"

    def _usable(self) -> None:
        if not self._open:
            raise UsageError("This evaluator was closed, which removed its images; make another.")
        if os.getpid() != self._process:
            raise UsageError(
                "This evaluator belongs to the process that it was forked from; make one in each, and gather or merge."
            )

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Undoes what the block did to this evaluator if it fails."""
        self._usable()
        before = (self._count, self._shape, list(self._digests), list(self._labels), list(self._captions))
        waiting, sizes = {name: list(images) for name, images in self._waiting.items()}, self._sizes()
        try:
            yield
        except BaseException:
            self._count, self._shape, self._digests, self._labels, self._captions = before
            self._waiting = waiting
            self._shorten(sizes)
            raise

    def _sizes(self) -> dict[Path, int]:
        return {path: path.stat().st_size for path in self._directory.glob("*.npy")}

    def _shorten(self, sizes: Mapping[Path, int]) -> None:
        """Cuts the files of features to former sizes. None of them is ever shortened otherwise."""
        for path in self._directory.glob("*.npy"):
            with path.open("ab") as file:
                file.truncate(sizes.get(path, features.NPY_HEADER))

    def update(
        self,
        images: Images | Tensor,
        *,
        labels: ArrayLike | Tensor | None = None,
        captions: Sequence[str] | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        """Adds images, which may be overwritten afterwards.

        Args:
            images: (b, c, h, w), an array or a tensor on any device: uint8 in [0, 255], or floats in `value_range`.
            labels, captions: of the images, for metrics that need them; given always or never.
            value_range: (-1, 1) or (0, 1), of floats. They become 8-bit pixels by the rule of the protocol.

        Raises:
            InputRejected: another dtype, another order of axes, or another size than before.
        """
        with self._all_or_nothing():
            batch = requests.images_of(images, value_range=value_range, how=self._request.protocol.quantise)
            texts = None if captions is None else _texts(captions)
            samples = Samples.of(batch, labels=requests.labels_of(labels), captions=texts)
            if self._shape not in (None, samples.shape):
                raise InputRejected(f"The images so far are {self._shape}; these are {samples.shape}.")
            given = (len(self._labels) > 0, len(self._captions) > 0)
            if self._count and given != (labels is not None, captions is not None):
                raise InputRejected("Labels and captions are given with every update or with none.")
            self._shape = samples.shape
            self._count += samples.count
            self._digests.append(image_digests(batch))
            if samples.labels is not None:
                self._labels.append(samples.labels)
            self._captions += texts or []
            if self._keeps_images:
                self._append("images", batch)
            for name, waiting in self._waiting.items():
                # A copy: loops fill one buffer again and again, and these images may wait for further ones.
                waiting.append(np.array(batch))
                block = self._extractors[name].block
                if sum(map(len, waiting)) >= block:
                    together = np.concatenate(waiting)
                    whole = len(together) // block * block
                    self._extract(name, together[:whole])
                    self._waiting[name] = [together[whole:].copy()] if whole < len(together) else []

    def _extract(self, name: str, images: Images) -> None:
        taps = [tap for tap in self._taps[name] if tap != features.CAPTIONS]
        for block in features.image_blocks(
            Samples.of(images), self._extractors[name], taps, device=self._device, workers=0
        ):
            for tap, values in block.items():
                self._append(f"{name}/{tap}", values)

    def _append(self, name: str, values: NDArray) -> None:
        path = self._path(name)
        if not path.exists():
            path.write_bytes(bytes(features.NPY_HEADER))  # filled in when somebody asks
        with path.open("ab") as file:
            file.write(np.ascontiguousarray(values).tobytes())

    def _path(self, name: str) -> Path:
        return self._directory / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.npy"

    def _content(self, name: str) -> bytes:
        path = self._path(name)
        return path.read_bytes()[features.NPY_HEADER :] if path.exists() else b""

    def merge(self, other: Evaluator) -> None:
        """Adds the images of another evaluator of the same metrics after one's own.

        Raises:
            NotComparable: the other one extracts something else.
        """
        if not isinstance(other, Evaluator) or other is self:
            raise UsageError("An evaluator merges with another one, whose images it then has too.")
        other._usable()
        keys = [{name: (e.key, tuple(s._taps[name])) for name, e in s._extractors.items()} for s in (self, other)]
        if keys[0] != keys[1] or self._keeps_images != other._keeps_images:
            raise NotComparable("Evaluators merge only when they have the same metrics, extractors and weights.")
        if not other._count:
            return
        if self._shape not in (None, other._shape):
            raise InputRejected(f"The images here are {self._shape}; those to merge are {other._shape}.")
        told = [(len(e._labels) > 0, len(e._captions) > 0) for e in (self, other)]
        if self._count and told[0] != told[1]:
            raise InputRejected("Evaluators merge when both have labels and captions or neither has.")
        with self._all_or_nothing(), other._all_or_nothing():
            self._flush()
            other._flush()
            for path in other._directory.glob("*.npy"):
                target = self._directory / path.name
                if not target.exists():
                    target.write_bytes(bytes(features.NPY_HEADER))
                with path.open("rb") as source, target.open("ab") as end:
                    source.seek(features.NPY_HEADER)
                    shutil.copyfileobj(source, end)
            self._shape = other._shape
            self._count += other._count
            self._digests += other._digests
            self._labels += other._labels
            self._captions += other._captions

    def _flush(self) -> None:
        for name, waiting in self._waiting.items():
            if waiting:
                self._extract(name, np.concatenate(waiting))
                self._waiting[name] = []

    def gather(self) -> None:
        """Gives every rank of the default process group the images of all ranks, in the order of ranks.

        A collective: all ranks must call it, those without an image too. Only bytes of arrays travel, and
        nothing is unpickled.
        """
        import torch.distributed as dist

        self._usable()
        if not (dist.is_available() and dist.is_initialized()):
            raise UsageError("There is no process group; every rank calls torch.distributed.init_process_group first.")
        self._flush()
        names = [f"{name}/{tap}" for name, taps in self._taps.items() for tap in taps if tap != features.CAPTIONS]
        parts = [self._content(n) for n in [*names, "images"]]
        labels = np.concatenate(self._labels) if self._labels else np.empty(0, np.int64)
        digests = b"".join(rows.tobytes() for rows in self._digests)
        state = [*parts, labels.tobytes(), "\0".join(self._captions).encode(), digests]
        counts = np.array([self._count, *(self._shape or (0, 0, 0))], np.int64)
        everyone = [_all_gather(piece) for piece in [*state, counts.tobytes()]]
        self._start()
        for path in self._directory.glob("*.npy"):
            path.unlink()
        for rank in range(dist.get_world_size()):
            count, *shape = np.frombuffer(everyone[-1][rank], np.int64).tolist()
            if not count:
                continue
            for name, piece in zip([*names, "images"], everyone, strict=False):
                if piece[rank]:
                    self._append(name, np.frombuffer(piece[rank], np.uint8))
            self._count, self._shape = self._count + count, tuple(shape)
            self._digests.append(np.frombuffer(everyone[-2][rank], np.uint8).reshape(-1, 32))
            self._labels += [np.frombuffer(everyone[-4][rank], np.int64)] if everyone[-4][rank] else []
            self._captions += everyone[-3][rank].decode().split("\0") if everyone[-3][rank] else []

    def compute(self) -> Outcome:
        """Measures what has come so far; more may follow.

        Raises:
            InputRejected: no image yet, or fewer than a metric needs.
        """
        self._usable()
        if not self._count or self._shape is None:
            raise InputRejected("No image has been given to this evaluator yet.")
        # The last block is filled up only for this answer: its images stay in waiting.
        waiting, sizes = self._waiting, self._sizes()
        self._waiting = {name: list(images) for name, images in waiting.items()}
        try:
            self._flush()
            return self._results()
        finally:
            self._waiting = waiting
            self._shorten(sizes)

    def _results(self) -> Outcome:
        assert self._shape is not None
        shape, digests = (self._shape[0], self._shape[1], self._shape[2]), np.concatenate(self._digests)
        samples = Samples(
            count=self._count,
            shape=shape,
            read=self._read,
            origin="updates",
            fingerprint=lambda: fingerprint_of(shape, digests),
            hashes=lambda start, stop: digests[start:stop],
            labels=np.concatenate(self._labels) if self._labels else None,
            captions=self._captions or None,
        )
        extracted = {}
        for name, taps in self._taps.items():
            extractor, found = self._extractors[name], {}
            for tap in taps:
                if tap == features.CAPTIONS and samples.captions is None:
                    continue  # metrics that need them are refused, or left out of `all`
                if tap == features.CAPTIONS:
                    blocks = list(features.caption_blocks(samples, extractor))
                    found[tap] = Features(extractor=extractor.key, tap=tap, array=np.concatenate(blocks))
                else:
                    path = self._path(f"{name}/{tap}")
                    width = (path.stat().st_size - features.NPY_HEADER) // (4 * self._count)
                    with path.open("r+b") as file:
                        file.write(features.npy_header(self._count, width))
                    found[tap] = Features(extractor=extractor.key, tap=tap, path=path)
            extracted[name] = Evidence(samples=samples, taps=found)
        return requests.measured(self._request, self._execution, generated=samples, extracted=extracted)

    def _read(self, start: int, stop: int) -> Images:
        assert self._shape is not None
        if not self._keeps_images:
            raise UsageError("This evaluator keeps features, not images.")
        offset = features.NPY_HEADER
        images = np.memmap(self._path("images"), np.uint8, mode="r", offset=offset, shape=(self._count, *self._shape))
        return np.array(images[start:stop])

    def reset(self) -> None:
        """Forgets all images."""
        self._usable()
        for path in self._directory.glob("*.npy"):
            path.unlink()
        self._start()

    def close(self) -> None:
        """Removes the files of this evaluator, which cannot be used afterwards; does nothing in a forked process."""
        if os.getpid() == self._process:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._open = False

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.close()


def _texts(captions: Sequence[str]) -> list[str]:
    if isinstance(captions, str) or not all(isinstance(text, str) for text in captions):
        raise InputRejected("Captions are a sequence of texts, one an image.")
    return list(captions)


def _all_gather(data: bytes) -> list[bytes]:
    """The bytes of every rank, on every rank."""
    import torch
    import torch.distributed as dist

    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    size = torch.tensor([len(data)], device=device)
    sizes = [torch.zeros_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    longest = max(int(s) for s in sizes)
    mine = torch.zeros(max(longest, 1), dtype=torch.uint8, device=device)
    if data:
        mine[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)
    parts = [torch.zeros_like(mine) for _ in sizes]
    dist.all_gather(parts, mine)
    return [part[: int(s)].cpu().numpy().tobytes() for part, s in zip(parts, sizes, strict=True)]
