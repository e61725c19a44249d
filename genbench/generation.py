"""From a model to uint8 images on disk: seeds, conditions, quantisation, shards, and going on after an interruption.

Image i of a run depends on the run's seed and on i alone. A run's images lie in shards of a fixed number, each with a
record of its own beside it. A run that was stopped at any moment continues with the batch it was in and ends with the
same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from genbench import stopping
from genbench.arrays import Images, Samples, fingerprint_of, image_digests
from genbench.contracts import Model, taken_by
from genbench.errors import (
    GenbenchError,
    InputRejected,
    Interrupted,
    MissingAsset,
    OutOfMemory,
    UsageError,
    calling,
    shown,
)
from genbench.files import atomic_write, claimed, sweep
from genbench.images.refusals import Unfit, naming
from genbench.mixing import mixed
from genbench.records import QUANTISERS, Ref, RunSpec, canonical, digest, sealed, unsealed

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)

SHARD = 256
"""Images a file; a multiple of `EXACT_BLOCK`."""
EXACT_BLOCK = 32
"""Images of every call of the network in exact mode."""
FIRST_SCHEMA, SCHEMA = "genbench.samples/1", "genbench.samples/2"
SMALLER = "smaller_batches"
"""Entry of a shard's execution: the least images a call, where memory did not suffice for the number asked."""
SHARED = "shared"
"""Entry of a shard's execution: several processes, perhaps on unlike machines, made shards of this run by intention."""
VERSION = 1
"""Raised when the same seeds would give other images or conditions for a reason that lies in this module."""
CLAIMS = ".claims"
"""File beside the shards that says which of them are being made, see `genbench.files.claimed`."""
SAVE_SECONDS = 60.0
"""Longest time of sampling that a process which is killed may lose, but for one batch."""
OUTSIDE = 1.5
"""Size of values that are no longer taken for images in [-1, 1] that pass their limits."""


def image_seeds(seed: int, start: int, stop: int) -> NDArray[np.uint64]:
    """Seeds of the images start..stop-1 of a run, uint64 (stop - start,).

    Hashed rather than counted, so that runs with neighbouring seeds share no image.
    """
    return np.array(
        [np.random.SeedSequence(seed, spawn_key=(i,)).generate_state(1, np.uint64)[0] for i in range(start, stop)],
        dtype=np.uint64,
    )


def image_labels(seeds: NDArray[np.uint64], classes: int) -> NDArray[np.int64]:
    """One class an image, uniform and independent, from the image's seed: int64, of the shape of `seeds`.

    Source: the uniform random labels of openai/guided-diffusion `classifier_sample.py` and NVlabs/edm `generate.py`.
    """
    # The same seed keys the noise. Other bits of the raw seed would not be independent of it, so it is hashed first.
    return ((mixed(seeds) >> np.uint64(33)) % np.uint64(classes)).astype(np.int64)


def quantise(images: Tensor, how: str = "round") -> Tensor:
    """Turns images in [-1, 1] into 8-bit pixels.

    Args:
        images: (b, c, h, w), any floating dtype. Values outside [-1, 1] are clipped.
        how: "round" to nearest, halves up (DDIM, EDM, diffusers); "truncate" (improved diffusion, ADM, LDM), which is
            darker by half a grey level on average and shifts every feature.

    Returns:
        uint8 (b, c, h, w) on the device of `images`.

    Raises:
        UsageError: an unknown rule.

    Source:
        `(x + 1) * 127.5` cast to uint8 in openai/guided-diffusion `image_sample.py`; `127.5 x + 128` in NVlabs/edm
        `generate.py`.
    """
    import torch

    if how not in QUANTISERS:
        raise UsageError(f"No quantiser {how!r}; there are {', '.join(QUANTISERS)}.")
    scaled = (images.float() + 1) * 127.5
    return torch.floor(scaled + 0.5 if how == "round" else scaled).clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, slots=True)
class Chosen(Sequence[str]):
    """Captions by their numbers among others, composed when they are read."""

    captions: Sequence[str]
    numbers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Chosen: ...
    def __getitem__(self, index: int | slice) -> str | Chosen:
        if isinstance(index, slice):
            return Chosen(self.captions, self.numbers[index])
        return self.captions[int(self.numbers[index])]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What some images of a run are asked for.

    Attributes:
        labels, captions: of the images, for whoever measures them, None where there are none.
        given: what `Model.sample` gets beside the seeds.
    """

    labels: NDArray[np.int64] | None = None
    captions: Sequence[str] | None = None
    given: Mapping[str, Any] = field(default_factory=dict)


def conditions(
    model: Model, seeds: NDArray[np.uint64], prompts: Samples | None, *, to_sample: bool = True
) -> Conditions:
    """The conditions of the images of the given seeds: the one place that says what image i is asked for.

    Args:
        seeds: uint64 (b,), see `image_seeds`.
        prompts: images with captions, one of which is drawn for every seed where the model takes more than labels.
        to_sample: whether what the model takes is read, and not only told of.

    Raises:
        UsageError: the model takes what the data set does not have.
    """
    taken = taken_by(model)
    labels = image_labels(seeds, model.classes) if "labels" in taken else None
    given: dict[str, Any] = {} if labels is None else {"labels": labels}
    if taken <= {"labels"}:
        return Conditions(labels=labels, given=given)
    if "masks" in taken:
        raise UsageError("This model takes masks, and no data set here has any.")
    if prompts is None or ("captions" in taken and prompts.captions is None):
        raise UsageError(f"This model takes {' and '.join(sorted(taken))}, and the data set does not have them.")
    chosen = image_labels(seeds, prompts.count)
    captions = None if prompts.captions is None else Chosen(prompts.captions, chosen)
    if labels is None and prompts.labels is not None:
        labels = prompts.labels[chosen]
    if "captions" in taken and to_sample:
        given["captions"] = list(captions or ())
    if "images" in taken and to_sample:
        import torch

        pixels = np.concatenate([prompts.read(int(i), int(i) + 1) for i in chosen])
        given["images"] = torch.from_numpy(pixels).float() / 127.5 - 1
    return Conditions(labels=labels, captions=captions, given=given)


def sample_images(
    model: Model,
    spec: RunSpec,
    start: int,
    stop: int,
    *,
    prompts: Samples | None = None,
    watch: Callable[[int, int], None] | None = None,
) -> Images:
    """The images start..stop-1 of a run in one call of the model, uint8 (stop - start, c, h, w).

    Raises:
        InputRejected: what the model returned breaks `genbench.contracts.Model`, or weights do not fit it.
        MissingAsset: weights that are not there.
    """
    from genbench.arithmetic import float32

    seeds = image_seeds(spec.seed, start, stop)
    asked = conditions(model, seeds, prompts)
    # float32 means float32 on every device: CUDA would otherwise convolve in TensorFloat-32.
    with float32(), calling(f"The model {spec.model}"):
        try:
            output = model.sample(seeds, watch=watch, **asked.given)
        except FileNotFoundError as error:
            raise MissingAsset(f"The model {spec.model}: {error}") from error
        except ValueError as error:
            raise InputRejected(f"The model {spec.model}: {error}") from error
    _check_output(output, model, spec, start, stop)
    return quantise(output, spec.quantise).cpu().numpy()


def _check_output(output: Any, model: Model, spec: RunSpec, start: int, stop: int) -> None:
    """Raises an InputRejected unless `output` is a float tensor of the images that were asked for, in [-1, 1]."""
    import torch

    who, wanted = f"The model {spec.model}", f"a float tensor {(stop - start, *model.shape)} in [-1, 1]"
    if not isinstance(output, torch.Tensor):
        raise InputRejected(f"{who} returned {type(output).__name__}; a model returns {wanted}.")
    if not output.is_floating_point():
        raise InputRejected(
            f"{who} returned values of {output.dtype}; a model returns {wanted}. Pixels are scaled by x / 127.5 - 1."
        )
    if tuple(output.shape) != (stop - start, *model.shape):
        raise InputRejected(
            f"{who} declares images of {model.shape} and was asked for {stop - start}; "
            f"it returned {tuple(output.shape)}."
        )
    values = output.detach().float()
    bad = (~torch.isfinite(values)).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        raise InputRejected(
            f"{who} returned values that are not finite in {len(bad)} of {stop - start} images, first image "
            f"{start + bad[0]} of seed {spec.seed}. Nothing of this batch was kept."
        )
    # Samplers that do not clip pass the limits a little and in few pixels, and that is no mistake.
    outside = float((values.abs() > OUTSIDE).float().mean())
    if outside > 0.5 or (float(values.min()) >= 0 and float(values.max()) > OUTSIDE):
        raise InputRejected(
            f"{who} returned values from {float(values.min()):.4g} to {float(values.max()):.4g}, which is not "
            "nominally [-1, 1]. Pixels in [0, 255] are scaled by x / 127.5 - 1, values in [0, 1] by 2 x - 1. A sampler "
            "that does not limit its images needs more steps, or clip=True where it has that."
        )


def trajectory(model: Model, spec: RunSpec, count: int, number: int, *, prompts: Samples | None = None) -> Images:
    """`frames` of the first `count` images of a run."""
    seeds = image_seeds(spec.seed, 0, count)
    return frames(model, seeds, number, how=spec.quantise, **conditions(model, seeds, prompts).given)


def frames(model: Model, seeds: NDArray[np.uint64], number: int, *, how: str = "round", **conditions: Any) -> Images:
    """States and predicted images on the way to images.

    Args:
        seeds: uint64 (b,); with `conditions` what `Model.sample` takes.
        number: moments that are shown, evenly spaced over the steps, the last one included; at most the steps.
        how: quantiser, see `quantise`.

    Returns:
        uint8 (b, 2, number, c, h, w): first the states, then the images that they were predicted to become.

    Raises:
        UsageError: a model without a method `trajectory`.
    """
    if not hasattr(model, "trajectory"):
        raise UsageError("This model does not show its steps; pictures of them need a method `trajectory`.")
    seen: list[Images] = []

    def watch(view: Any) -> None:
        if view.done in {round(view.steps * (i + 1) / number) for i in range(number)}:
            both = (quantise(x, how).cpu().numpy() for x in (view.x, view.predicted))
            seen.append(np.stack(list(both), axis=1))

    model.trajectory(seeds, watch=watch, **conditions)
    return np.stack(seen, axis=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The record beside a file of images, NUMBER.json beside NUMBER.npy.

    Attributes:
        made: digest of the manifest that the images were made by.
        count: images in the file, from image NUMBER * `SHARD` of the run on. Fewer than belong there are the finished
            batches of a run that was interrupted.
        digests: hexadecimal SHA-256 of the pixels of every image, one after another.
        execution: device, versions and so on.
        labels, captions: of the images.
        seconds: that the model worked on the images, None where nobody took the time.
    """

    made: str
    count: int
    digests: str
    execution: Mapping[str, Any]
    labels: Sequence[int] | None = None
    captions: Sequence[str] | None = None
    seconds: float | None = None


Sampled = Callable[[int, float], None]
"""sampled(new, begun): images finished since the last call, and images of the batch in work, in parts of its steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """A run that is being sampled: what any process that makes shards of it must know.

    Attributes:
        directory: of the shards.
        manifest: what the run is.
        how: device, versions and so on. A batch that memory did not suffice for is noted in it.
        prompts: as of `conditions`.
    """

    model: Model
    spec: RunSpec
    directory: Path
    manifest: Mapping[str, Any]
    how: dict[str, Any]
    prompts: Samples | None = None

    @property
    def shards(self) -> range:
        """Numbers of all shards."""
        return range(-(-self.spec.num_samples // SHARD))


def generate(
    model: Model,
    spec: RunSpec,
    directory: Path,
    *,
    batch_size: int,
    execution: Mapping[str, Any],
    key: str | None = None,
    prompts: Samples | None = None,
    classes: tuple[str, ...] = (),
    sampled: Sampled | None = None,
) -> Samples:
    """Samples a run into `directory`, or continues it, or returns it when it is complete. Arguments as of `begin`."""
    work = begin(
        model, spec, directory, batch_size=batch_size, execution=execution, key=key, prompts=prompts, classes=classes
    )
    fill(work, missing(work), sampled=sampled)
    return finished(work)


def begin(
    model: Model,
    spec: RunSpec,
    directory: Path,
    *,
    batch_size: int,
    execution: Mapping[str, Any],
    key: str | None = None,
    prompts: Samples | None = None,
    classes: tuple[str, ...] = (),
) -> Sampling:
    """Writes down what a run is, unless that stands there already, and makes no image.

    Args:
        batch_size: images a call of the model; without effect in exact mode.
        execution: device, versions and so on.
        key: what the images depend on beside the spec; `model.key` unless it is given.
        prompts: as of `conditions`.
        classes: names of the classes that labels choose among, where they are known.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for folder in (directory, directory.parent):
        sweep(folder)
    found = _load(directory / "manifest.json")
    manifest = _manifest(model, spec, key or model.key, prompts, classes)
    how = dict(execution) | ({"block": EXACT_BLOCK} if spec.exact else {"batch_size": batch_size})
    work = Sampling(model=model, spec=spec, directory=directory, manifest=manifest, how=how, prompts=prompts)
    if found is not None and _same_run(found, manifest, spec):
        manifest["spec"] = found["spec"]  # the text of its day, which the records of its shards stand under
    elif isinstance(found, dict) and found.get("schema") == FIRST_SCHEMA:
        _adopt_first_layout(work, found)
    elif found is not None:
        _log.warning("%s tells of images of another model or version; new ones are made.", shown(directory))
    elif (directory / "manifest.json").exists():
        _log.warning("%s is damaged and is written anew.", shown(directory / "manifest.json"))
    manifest["classes"] = list(classes) or _classes_of(found)
    if found != manifest:
        atomic_write(directory / "manifest.json", (canonical(sealed(manifest)) + "\n").encode())
    return work


def missing(work: Sampling, numbers: Sequence[int] | None = None) -> list[int]:
    """Numbers of the shards that have to be made, of all or of the given ones; none if every image is there.

    In a run that lacks some, whole shards that were executed otherwise count as missing too, because they may differ in
    the last bit. The number of threads is no such difference, nor is what other processes of a shared run work with.
    """
    asked = work.shards if numbers is None else numbers
    kept = {number: _verified(work, number) for number in asked}
    for number, shard in kept.items():
        if shard is None and _was_there(work, number):
            path = _shard_path(work.directory, number)
            _log.warning("%s or the record beside it is damaged; these images are made anew.", shown(path))
    if all(_whole(work, number, shard) for number, shard in kept.items()):
        return []
    return [number for number, shard in kept.items() if not (_whole(work, number, shard) and _alike(shard, work))]


def fill(work: Sampling, numbers: Sequence[int], *, sampled: Sampled | None = None) -> None:
    """Makes shards. Each belongs to one process at a time; those that others are making come last, and are waited for.

    Raises:
        Interrupted: by the user, after the finished batches were written.
    """
    told, waiting = False, list(numbers)
    while waiting:
        busy = []
        for number in waiting:
            with claimed(work.directory / CLAIMS, number) as mine:
                if not mine:
                    busy.append(number)
                    continue
                shard = _verified(work, number)
                if not (_whole(work, number, shard) and _alike(shard, work)):
                    made = _make(work, number, shard, sampled)
                    if not told:
                        _warn_of_likeness(made, _load_images(work.directory, number), work.spec)
                        told = True
        if busy and len(busy) == len(waiting):
            stopping.check()
            time.sleep(_POLL)
        waiting = busy


_POLL = 0.2
"""Seconds between two looks at shards that other processes are making."""


def finished(work: Sampling) -> Samples:
    """The images of a run of which `missing` names no shard.

    Raises:
        GenbenchError: a shard that is not there, as where another process made it and this one does not see its files.
    """
    shards = [_record(work.directory, number, _made(work.manifest)) for number in work.shards]
    lost = [n for n, shard in enumerate(shards) if shard is None or shard.count < images_in(work.spec, n)]
    if lost:
        raise GenbenchError(
            f"{len(lost)} of {len(shards)} shards of {shown(work.directory)} were made and are not there; do all "
            "processes see the same folder? The same command makes them again."
        )
    return _samples(work.directory, work.manifest, [shard for shard in shards if shard is not None])


def _whole(work: Sampling, number: int, shard: Shard | None) -> bool:
    return shard is not None and shard.count == images_in(work.spec, number)


_NO_DIFFERENCE = dict.fromkeys((SMALLER, SHARED, "threads"))
"""Entries of an execution that no image depends on, or that a shard may differ in from others of its run."""


def _alike(shard: Shard | None, work: Sampling, *, whole: bool = True) -> bool:
    """Whether a shard may stand beside those that are made now; if not `whole`, whether it may be continued."""
    if shard is None:
        return False
    same = {**shard.execution, **_NO_DIFFERENCE} == {**work.how, **_NO_DIFFERENCE}
    return same or (whole and bool(shard.execution.get(SHARED)))


def _manifest(
    model: Model, spec: RunSpec, key: str, prompts: Samples | None, classes: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What the images of a run depend on, and what their classes are called."""
    asked = None
    if prompts is not None:
        content = prompts.fingerprint() if "images" in taken_by(model) else None
        labels = None if prompts.labels is None else prompts.labels.tolist()
        asked = digest([prompts.count, content, None if prompts.captions is None else list(prompts.captions), labels])
    return {
        "schema": SCHEMA, "version": VERSION, "identity": spec.identity(), "spec": json.loads(canonical(spec)),
        "model": key, "shape": list(model.shape), "shard": SHARD, "prompts": asked, "classes": list(classes),
        "quantise": spec.quantise,
    }  # fmt: skip


def _made(manifest: Mapping[str, Any]) -> str:
    """Digest of a manifest; names of classes may become known later."""
    return digest({name: value for name, value in manifest.items() if name != "classes"})


def _same_run(found: Any, wanted: Mapping[str, Any], spec: RunSpec) -> bool:
    """Whether a manifest that was read describes the images that are wanted."""
    if not isinstance(found, dict) or not same_spec(found.get("spec"), spec):
        return False
    plain = json.loads(canonical(wanted))
    return all(found.get(name) == value for name, value in plain.items() if name not in ("spec", "classes"))


def _classes_of(found: Any) -> list[str]:
    classes = found.get("classes") if isinstance(found, dict) else None
    return classes if isinstance(classes, list) and all(isinstance(name, str) for name in classes) else []


def _make(
    work: Sampling,
    number: int,
    part: Shard | None,
    sampled: Sampled | None,
) -> Shard:
    """Samples one shard, or what is missing of it. Later shards have the smaller batches of this one too."""
    spec, directory, how = work.spec, work.directory, work.how
    first = number * SHARD
    if part is not None and not _alike(part, work, whole=False):
        part = None
    if part is not None and SMALLER in part.execution:
        how.setdefault(SMALLER, part.execution[SMALLER])
    size = EXACT_BLOCK if spec.exact else how.get(SMALLER, how["batch_size"])
    last = first + images_in(spec, number)
    pieces = [] if part is None else [_load_images(directory, number)[: part.count]]
    seconds = 0.0 if part is None else part.seconds
    saved = time.monotonic()
    if part is not None and sampled is not None:
        sampled(part.count, 0.0)

    def save() -> Shard | None:
        if not pieces:
            return None
        images = np.concatenate(pieces)[: last - first]
        # The record last: where it is missing or belongs to other images, the shard counts as not there.
        atomic_write(_shard_path(directory, number), _npy(images))
        return _write_record(work, number, images, how, seconds)

    try:
        start = first + sum(map(len, pieces))
        while start < last:
            # In exact mode the last block is completed beyond the run's end: the network never sees another size.
            stop = start + size if spec.exact else min(start + size, last)
            report = None if sampled is None else partial(_report, sampled, min(stop, last) - start)
            try:
                began = time.perf_counter()
                pieces.append(sample_images(work.model, spec, start, stop, prompts=work.prompts, watch=report))
                seconds = None if seconds is None else seconds + time.perf_counter() - began
            except OutOfMemory:
                if spec.exact or stop - start == 1:
                    raise
                size = how[SMALLER] = (stop - start) // 2
                _log.warning("Memory does not suffice for %d images a call; going on with %d.", stop - start, size)
                continue
            if sampled is not None:
                sampled(min(stop, last) - start, 0.0)
            start = stop
            stopping.check()
            if stop < last and time.monotonic() - saved > SAVE_SECONDS:
                save()
                saved = time.monotonic()
    except KeyboardInterrupt as error:
        save()
        raise Interrupted(kept_images(directory, spec), spec.num_samples) from error
    except BaseException:
        save()
        raise
    shard = save()
    assert shard is not None
    return shard


def _report(sampled: Sampled, images: int, step: int, steps: int) -> None:
    sampled(0, images * step / steps)


def _write_record(
    work: Sampling, number: int, images: Images, how: Mapping[str, Any], seconds: float | None = None
) -> Shard:
    first = number * SHARD
    asked = conditions(work.model, image_seeds(work.spec.seed, first, first + len(images)), work.prompts)
    shard = Shard(
        made=_made(work.manifest),
        count=len(images),
        digests=image_digests(images).tobytes().hex(),
        execution=dict(how),
        labels=None if asked.labels is None else asked.labels.tolist(),
        captions=None if asked.captions is None else list(asked.captions),
        seconds=None if seconds is None else round(seconds, 3),
    )
    atomic_write(_record_path(work.directory, number), (canonical(sealed(asdict(shard))) + "\n").encode())
    return shard


def images_in(spec: RunSpec, number: int) -> int:
    """Images that belong into a shard."""
    return min(SHARD, spec.num_samples - number * SHARD)


def _load(path: Path) -> dict[str, Any] | None:
    """What a manifest or a record says, None where there is none that is undamaged."""
    try:
        return unsealed(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None


def _record(directory: Path, number: int, made: str) -> Shard | None:
    """The record of a shard of the manifest of that digest, or None."""
    told = _load(_record_path(directory, number))
    try:
        shard = Shard(**(told or {}))
        known = len(bytes.fromhex(shard.digests)) == 32 * shard.count
    except (TypeError, ValueError):
        return None
    lists = [values for values in (shard.labels, shard.captions) if values is not None]
    return shard if known and shard.made == made and all(len(v) == shard.count for v in lists) else None


def _verified(work: Sampling, number: int) -> Shard | None:
    """The record of a shard whose images are those that it names."""
    shard = _record(work.directory, number, _made(work.manifest))
    if shard is None:
        return None
    try:
        # A process that was killed between its two files leaves more images than the record names.
        images = _load_images(work.directory, number)[: shard.count]
        same = images.ndim == 4 and image_digests(images).tobytes().hex() == shard.digests
    except (OSError, ValueError, EOFError):
        return None
    return shard if same else None


def _was_there(work: Sampling, number: int) -> bool:
    """Whether a shard without a record that holds has been recorded, and not for other images."""
    path = _record_path(work.directory, number)
    record = _load(path)
    return path.exists() and (record is None or record.get("made") == _made(work.manifest))


def run_directory(output: Path, spec: RunSpec) -> Path:
    """Where a run lies or will lie: output/<spec.id>, unless an earlier version sampled it elsewhere."""
    directory = output / spec.id
    if not (directory / "samples").is_dir() and output.is_dir():
        for manifest in sorted(output.glob("*/samples/manifest.json")):
            found = _load(manifest)
            if isinstance(found, dict) and found.get("schema") == FIRST_SCHEMA and same_spec(found.get("spec"), spec):
                return manifest.parent.parent
    return directory


def forget(directory: Path) -> None:
    """Makes a run count as not sampled. The images stay until others take their place."""
    for path in [directory / "manifest.json", *directory.glob("[0-9]*.json")]:
        path.unlink(missing_ok=True)


def kept_images(directory: Path, spec: RunSpec) -> int:
    """Images of a run that are stored, by its records."""
    found = _load(directory / "manifest.json")
    if not isinstance(found, dict) or not same_spec(found.get("spec"), spec):
        return 0
    if found.get("schema") == FIRST_SCHEMA:
        return sum(images_in(spec, n) for n, _ in enumerate(found.get("shards") or ()))
    made = _made(found)
    count = -(-spec.num_samples // SHARD)
    there = [int(path.stem) for path in directory.glob("*.json") if path.stem.isascii() and path.stem.isdecimal()]
    shards = (_record(directory, number, made) for number in there if number < count)
    return sum(shard.count for shard in shards if shard is not None)


def sampling_seconds(directory: Path, spec: RunSpec) -> float | None:
    """Seconds that the model worked on the images of a complete run, None where the time of a part is not known."""
    found = _load(directory / "manifest.json")
    if not isinstance(found, dict):
        return None
    shards = [_record(directory, number, _made(found)) for number in range(-(-spec.num_samples // SHARD))]
    known = [shard.seconds for shard in shards if shard is not None and isinstance(shard.seconds, int | float)]
    return sum(known) if len(known) == len(shards) else None


def is_complete(directory: Path, spec: RunSpec) -> bool:
    """Whether the records say that every image of the run was written."""
    return kept_images(directory, spec) == spec.num_samples


def open_run(
    directory: Path, spec: RunSpec, model: Model, key: str, *, prompts: Samples | None = None
) -> Samples | None:
    """The images of a complete run as its records tell, none of which is read; None when they are others or some lack.

    Args:
        key, prompts: as of `generate`. Images of another model or of other prompts are not taken.
    """
    found = _load(directory / "manifest.json")
    same = _same_run(found, _manifest(model, spec, key, prompts), spec)
    if found is None or not same or not is_complete(directory, spec):
        return None
    shards = [_record(directory, number, _made(found)) for number in range(-(-spec.num_samples // SHARD))]
    return _samples(directory, found, [shard for shard in shards if shard is not None])


def _samples(directory: Path, manifest: Mapping[str, Any], shards: Sequence[Shard]) -> Samples:
    """The images of a complete run, with the labels and captions that they were asked for."""
    digests = np.frombuffer(bytes.fromhex("".join(s.digests for s in shards)), dtype=np.uint8).reshape(-1, 32)
    shape = tuple(manifest["shape"])
    labels = [label for s in shards for label in s.labels or ()]
    captions = [caption for s in shards for caption in s.captions or ()]
    return Samples(
        count=len(digests),
        shape=shape,
        read=partial(_read, directory, digests),
        origin=str(manifest["spec"]["model"]),
        fingerprint=lambda: fingerprint_of(shape, digests),
        hashes=lambda start, stop: digests[start:stop],
        labels=np.array(labels, dtype=np.int64) if labels else None,
        captions=captions or None,
        classes=tuple(manifest["classes"]),
        quantise=manifest["quantise"],
    )


def _warn_of_likeness(shard: Shard, images: Images, spec: RunSpec) -> None:
    """Warns of what no set of good samples is."""
    if shard.count > 1 and len({shard.digests[i : i + 64] for i in range(0, len(shard.digests), 64)}) == 1:
        _log.warning("The model %s gave %d equal images.", spec.model, shard.count)
    elif images.min() >= 127:  # what 0 becomes
        _log.warning(
            "The model %s gave no value below 0 in %d images. A model returns values in [-1, 1]; those in [0, 1] are "
            "scaled by 2 x - 1.",
            spec.model,
            shard.count,
        )


def _adopt_first_layout(work: Sampling, found: Mapping[str, Any]) -> None:
    """Writes records for the shards of the first layout, which had one list of digests for a leading part of them."""
    spec = work.spec
    same = found.get("model") == work.model.key and found.get("shape") == work.manifest["shape"]
    if not same or found.get("shard") != SHARD:
        return
    if not same_spec(found.get("spec"), spec) or not isinstance(found.get("shards"), list):
        return
    for number, sha256 in enumerate(found["shards"][: -(-spec.num_samples // SHARD)]):
        try:
            images = _load_images(work.directory, number)
        except (OSError, ValueError, EOFError):
            continue
        if hashlib.sha256(images.tobytes()).hexdigest() == sha256 and len(images) == images_in(spec, number):
            how = found.get("execution")
            _write_record(work, number, images, how if isinstance(how, dict) else {})


def same_spec(told: Any, spec: RunSpec) -> bool:
    """Whether a spec that was stored as text is this one: arguments that have been added since have their defaults."""
    if not isinstance(told, dict):
        return False
    try:
        stored = {name: Ref.parse(told[name]) for name in ("model", "dataset")}
    except (KeyError, UsageError):
        return False
    for name, ref in stored.items():
        mine = getattr(spec, name)
        added = mine.args.keys() - ref.args.keys()
        kept = {k: v for k, v in mine.args.items() if k not in added}
        if ref.name != mine.name or str(Ref("", kept).brief()) != str(Ref("", ref.args).brief()):
            return False
        if not added <= mine.defaults:
            return False
    rest = json.loads(canonical(spec))
    return all(told.get(name) == value for name, value in rest.items() if name not in stored)


def _read(directory: Path, digests: NDArray[np.uint8], start: int, stop: int) -> Images:
    def pieces() -> Iterator[Images]:
        for shard in range(start // SHARD, -(-stop // SHARD)):
            first, last = max(start, shard * SHARD), min(stop, (shard + 1) * SHARD)
            with naming(_shard_path(directory, shard)):
                stored = np.load(_shard_path(directory, shard), mmap_mode="r", allow_pickle=False)
                images = np.array(stored[first - shard * SHARD : last - shard * SHARD])
                if len(images) != last - first or (image_digests(images) != digests[first:last]).any():
                    raise Unfit("is damaged; the same command makes its images anew")
            yield images

    return np.concatenate(list(pieces()))


def _load_images(directory: Path, number: int) -> Images:
    return np.load(_shard_path(directory, number), allow_pickle=False)


def _shard_path(directory: Path, number: int) -> Path:
    return directory / f"{number:06d}.npy"


def _record_path(directory: Path, number: int) -> Path:
    return directory / f"{number:06d}.json"


def _npy(array: NDArray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
