"""Measuring inside a training loop: images come in batches, numbers at any time, parts merge.

Features are written to disk as they come, so that memory does not grow with the number of images, whatever the metrics.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from genbench import environment, features, measuring, pipeline
from genbench.arrays import Evidence, Features, Images, Samples
from genbench.contracts import Extractor
from genbench.errors import InputRejected, NotComparable, UsageError
from genbench.protocols import protocol as named_protocol
from genbench.records import Measurement, Result

if TYPE_CHECKING:
    from torch import Tensor


class Evaluator:
    """Collects generated images and measures them against a reference.

    Args:
        reference: real images, or a path or the name of a data set; None for metrics without a reference.
        metrics: measurement texts, such as "fid" and "precision@compact".
        protocol: name of a protocol.
        held_out: real images that are not in the reference; they give the floors.
        execution: fields of `genbench.measuring.Execution`.

    Every call of an extractor's network gets a full block: images wait until one is there, and `compute` fills the
    last one up. Values are therefore independent of the sizes of the updates. With `torch.distributed`, every
    rank updates its own evaluator, all of them call `gather` together, and every rank may then compute.
    """

    def __init__(
        self,
        reference: Samples | str | Path | None,
        *,
        metrics: Sequence[str] = ("fid",),
        protocol: str = "embedded",
        held_out: Samples | str | Path | None = None,
        execution: measuring.Execution | None = None,
    ) -> None:
        self._execution = execution or measuring.Execution()
        self._reference = self._opened(reference, "reference")
        self._held_out = self._opened(held_out, "held_out")
        self._protocol = named_protocol(protocol)
        self._measurements = [Measurement.parse(m) for m in metrics]
        self._device = environment.choose_device(self._execution.device)
        self._taps: dict[str, dict[str, None]] = {}
        self._extractors: dict[str, Extractor] = {}
        self._keeps_images = False
        for cell in pipeline.bind_cells(self._measurements, self._protocol):
            self._keeps_images |= cell.metric.images
            extractor = measuring.load_extractor(cell, self._execution, self._device)
            if extractor is not None:
                name = str(cell.extractor_ref)
                self._extractors[name] = extractor
                self._taps.setdefault(name, {}).update(dict.fromkeys(cell.metric.taps))
        self._directory = Path(tempfile.mkdtemp(prefix="genbench-"))
        self._start()

    def _opened(self, source: Samples | str | Path | None, role: str) -> Samples | None:
        if source is None or isinstance(source, Samples):
            return source
        return pipeline.open_side(str(source), self._execution, role=role)[0]

    def _start(self) -> None:
        self._count = 0
        self._shape: tuple[int, ...] | None = None
        self._hash = hashlib.sha256()
        self._labels: list[NDArray[np.int64]] = []
        self._captions: list[str] = []
        self._waiting: dict[str, list[Images]] = {name: [] for name in self._extractors}

    def __len__(self) -> int:
        return self._count

    def update(
        self, images: Images | Tensor, *, labels: NDArray[np.int64] | None = None, captions: Sequence[str] | None = None
    ) -> None:
        """Adds images.

        Args:
            images: uint8 (b, c, h, w) in [0, 255], an array or a tensor on any device.
            labels, captions: of the images, for metrics that need them; given always or never.

        Raises:
            InputRejected: another dtype or another size than before.
        """
        batch = images if isinstance(images, np.ndarray) else images.detach().cpu().numpy()
        samples = Samples.of(batch, labels=labels, captions=captions)
        if self._shape not in (None, samples.shape):
            raise InputRejected(f"The images so far are {self._shape}; these are {samples.shape}.")
        given = (len(self._labels) > 0, len(self._captions) > 0)
        if self._count and given != (labels is not None, captions is not None):
            raise InputRejected("Labels and captions are given with every update or with none.")
        self._shape = samples.shape
        self._count += samples.count
        self._hash.update(np.ascontiguousarray(batch).tobytes())
        if labels is not None:
            self._labels.append(np.asarray(labels, dtype=np.int64))
        self._captions += captions or []
        if self._keeps_images:
            self._append("images", batch)
        for name, waiting in self._waiting.items():
            waiting.append(batch)
            block = self._extractors[name].block
            if sum(map(len, waiting)) >= block:
                together = np.concatenate(waiting)
                whole = len(together) // block * block
                self._extract(name, together[:whole])
                self._waiting[name] = [together[whole:]] if whole < len(together) else []

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
        keys = [{name: (e.key, tuple(s._taps[name])) for name, e in s._extractors.items()} for s in (self, other)]
        if keys[0] != keys[1] or self._keeps_images != other._keeps_images:
            raise NotComparable("Evaluators merge only when they have the same metrics, extractors and weights.")
        if not other._count:
            return
        self._flush()
        other._flush()
        if self._shape not in (None, other._shape):
            raise InputRejected(f"The images here are {self._shape}; those to merge are {other._shape}.")
        for path in other._directory.glob("*.npy"):
            target = self._directory / path.name
            if not target.exists():
                target.write_bytes(bytes(features.NPY_HEADER))
            with path.open("rb") as source, target.open("ab") as end:
                source.seek(features.NPY_HEADER)
                shutil.copyfileobj(source, end)
        self._shape = other._shape
        self._count += other._count
        self._hash.update(other._hash.digest())
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

        self._flush()
        names = [f"{name}/{tap}" for name, taps in self._taps.items() for tap in taps if tap != features.CAPTIONS]
        parts = [self._content(n) for n in [*names, "images"]]
        labels = np.concatenate(self._labels) if self._labels else np.empty(0, np.int64)
        state = [*parts, labels.tobytes(), "\0".join(self._captions).encode(), self._hash.digest()]
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
            self._hash.update(everyone[-2][rank])
            self._labels += [np.frombuffer(everyone[-4][rank], np.int64)] if everyone[-4][rank] else []
            self._captions += everyone[-3][rank].decode().split("\0") if everyone[-3][rank] else []

    def compute(self) -> tuple[Result, ...]:
        """Measures what has come so far; more may follow.

        Raises:
            InputRejected: no image yet, or fewer than a metric needs.
        """
        if not self._count or self._shape is None:
            raise InputRejected("No image has been given to this evaluator yet.")
        # The last block is filled up only for this answer: its images stay in waiting.
        waiting, sizes = self._waiting, {p: p.stat().st_size for p in self._directory.glob("*.npy")}
        self._waiting = {name: list(images) for name, images in waiting.items()}
        self._flush()
        try:
            return self._results()
        finally:
            self._waiting = waiting
            for path in self._directory.glob("*.npy"):
                with path.open("ab") as file:
                    file.truncate(sizes.get(path, features.NPY_HEADER))

    def _results(self) -> tuple[Result, ...]:
        assert self._shape is not None
        content = self._hash.hexdigest()
        samples = Samples(
            count=self._count, shape=(self._shape[0], self._shape[1], self._shape[2]), read=self._read,
            origin="updates",
            fingerprint=lambda: content, labels=np.concatenate(self._labels) if self._labels else None,
            captions=self._captions or None,
        )  # fmt: skip
        extracted = {}
        for name, taps in self._taps.items():
            extractor, found = self._extractors[name], {}
            for tap in taps:
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
        outcome = pipeline.score(
            samples, self._reference, self._measurements, protocol=self._protocol, held_out=self._held_out,
            extracted=extracted, execution=self._execution,
        )  # fmt: skip
        return outcome.results

    def _read(self, start: int, stop: int) -> Images:
        assert self._shape is not None
        if not self._keeps_images:
            raise UsageError("This evaluator keeps features, not images.")
        offset = features.NPY_HEADER
        images = np.memmap(self._path("images"), np.uint8, mode="r", offset=offset, shape=(self._count, *self._shape))
        return np.array(images[start:stop])

    def reset(self) -> None:
        """Forgets all images."""
        for path in self._directory.glob("*.npy"):
            path.unlink()
        self._start()

    def close(self) -> None:
        """Removes the files of this evaluator."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_directory"):
            self.close()


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
