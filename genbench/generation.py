"""From a model to uint8 images on disk: seeds, conditions, quantisation, shards, and going on after an interruption.

Image i of a run depends on the run's seed and on i alone. A run's images lie in shards of a fixed number; a shard
exists only when it is complete, so that a run that was killed at any moment continues with the shard it was in
and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genbench.arrays import Images, Samples
from genbench.contracts import Model
from genbench.errors import InputRejected, MissingAsset, UsageError
from genbench.files import atomic_write
from genbench.records import QUANTISERS, RunSpec, canonical

if TYPE_CHECKING:
    from torch import Tensor

SHARD = 256
"""Images a file; a multiple of `EXACT_BLOCK`."""
EXACT_BLOCK = 32
"""Images of every call of the network in exact mode."""


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
    # Other bits than those that key the noise would be no more independent: mix first (SplitMix64's finaliser).
    value = (seeds ^ (seeds >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((value >> np.uint64(33)) % np.uint64(classes)).astype(np.int64)


def quantise(images: Tensor, how: str = "round") -> Tensor:
    """Turns images in [-1, 1] into 8-bit pixels.

    Args:
        images: (b, c, h, w), any floating dtype; values outside [-1, 1] are clipped.
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


def _conditions(model: Model, seeds: NDArray[np.uint64], prompts: Samples | None) -> dict[str, Any]:
    """What `Model.sample` gets beside the seeds, and what the samples are labelled with."""
    if model.conditioning == "label":
        return {"labels": image_labels(seeds, model.classes)}
    if model.conditioning == "caption":
        if prompts is None or prompts.captions is None:
            raise UsageError("This model needs captions, and the data set has none.")
        chosen = image_labels(seeds, prompts.count)
        labels = None if prompts.labels is None else prompts.labels[chosen]
        return {"captions": [prompts.captions[int(i)] for i in chosen], "labels": labels}
    return {}


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
        InputRejected: values that are not finite, images of another shape or number than the model declares, or
            weights that do not fit it.
        MissingAsset: weights that are not there.
    """
    import torch

    seeds = image_seeds(spec.seed, start, stop)
    conditions = _conditions(model, seeds, prompts)
    if model.conditioning == "caption":
        conditions.pop("labels")
    try:
        output = model.sample(seeds, watch=watch, **conditions)
    except FileNotFoundError as error:
        raise MissingAsset(f"The model {spec.model}: {error}") from error
    except ValueError as error:
        raise InputRejected(f"The model {spec.model}: {error}") from error
    if tuple(output.shape) != (stop - start, *model.shape):
        raise InputRejected(
            f"The model {spec.model} declares images of {model.shape} and was asked for {stop - start}; "
            f"it returned {tuple(output.shape)}."
        )
    bad = (~torch.isfinite(output.float())).flatten(1).any(1).nonzero().flatten().tolist()
    if bad:
        raise InputRejected(
            f"The model {spec.model} returned values that are not finite in {len(bad)} of {stop - start} images, first "
            f"image {start + bad[0]} of seed {spec.seed}. Nothing of this batch was kept."
        )
    return quantise(output, spec.quantise).cpu().numpy()


def trajectory(model: Model, spec: RunSpec, count: int, number: int, *, prompts: Samples | None = None) -> Images:
    """`frames` of the first `count` images of a run."""
    seeds = image_seeds(spec.seed, 0, count)
    conditions = _conditions(model, seeds, prompts)
    if model.conditioning == "caption":
        conditions.pop("labels")
    return frames(model, seeds, number, how=spec.quantise, **conditions)


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


def generate(
    model: Model,
    spec: RunSpec,
    directory: Path,
    *,
    batch_size: int,
    execution: Mapping[str, Any],
    prompts: Samples | None = None,
    classes: tuple[str, ...] = (),
    watch: Callable[[int, int, int], None] | None = None,
) -> Samples:
    """Samples a run into `directory`, or continues it, or returns it when it is complete.

    Args:
        batch_size: images a call of the model; without effect in exact mode.
        execution: device, versions and so on. Shards of an interrupted run that was executed otherwise are made anew,
            because they may differ in the last bit.
        watch: called as watch(images done, steps done of this batch, steps of a batch).
    """
    directory.mkdir(parents=True, exist_ok=True)
    how = dict(execution) | ({"block": EXACT_BLOCK} if spec.exact else {"batch_size": batch_size})
    manifest = {
        "schema": "genbench.samples/1", "spec": json.loads(canonical(spec)), "model": model.key, "execution": how,
        "shape": list(model.shape), "shard": SHARD, "shards": [],
    }  # fmt: skip
    total = -(-spec.num_samples // SHARD)
    shards = _finished(directory, manifest)
    while len(shards) < total:
        first = len(shards) * SHARD
        last = min(first + SHARD, spec.num_samples)
        pieces = []
        size = EXACT_BLOCK if spec.exact else batch_size
        for start in range(first, last, size):
            # In exact mode the last block is completed beyond the run's end: the network never sees another size.
            stop = start + size if spec.exact else min(start + size, last)
            report = None if watch is None else partial(watch, start)
            pieces.append(sample_images(model, spec, start, stop, prompts=prompts, watch=report))
        images = np.concatenate(pieces)[: last - first]
        atomic_write(_shard_path(directory, len(shards)), _npy(images))
        shards.append(hashlib.sha256(images.tobytes()).hexdigest())
        atomic_write(directory / "manifest.json", (canonical(manifest | {"shards": shards}) + "\n").encode())
    return open_shards(
        directory, prompts=prompts, classes=classes, conditioning=model.conditioning, number=model.classes
    )


def _finished(directory: Path, wanted: Mapping[str, Any]) -> list[str]:
    """Digests of the leading shards that can be kept: made by the same model from the same spec in the same way."""
    try:
        found = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return []
    same = ("schema", "spec", "model", "shape", "shard")
    complete = len(found.get("shards", [])) == -(-wanted["spec"]["num_samples"] // SHARD)
    if any(found.get(k) != wanted[k] for k in same) or not (complete or found.get("execution") == wanted["execution"]):
        return []
    kept = []
    for number, sha256 in enumerate(found["shards"]):
        try:
            images = np.load(_shard_path(directory, number), allow_pickle=False)
        except (OSError, ValueError):
            break
        if hashlib.sha256(images.tobytes()).hexdigest() != sha256:
            break
        kept.append(sha256)
    return kept


def is_complete(directory: Path, spec: RunSpec) -> bool:
    """Whether the manifest says that every shard of the run was written."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return manifest["spec"] == json.loads(canonical(spec)) and len(manifest["shards"]) == -(-spec.num_samples // SHARD)


def open_shards(
    directory: Path, *, prompts: Samples | None, classes: tuple[str, ...], conditioning: str, number: int
) -> Samples:
    """The images of a complete run, with the labels or captions that they were asked for."""
    manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
    spec, shards = manifest["spec"], manifest["shards"]
    count = spec["num_samples"]
    labels, captions = None, None
    if conditioning != "none":
        seeds = image_seeds(spec["seed"], 0, count)
        if conditioning == "label":
            labels = image_labels(seeds, number)
        elif prompts is not None and prompts.captions is not None:
            chosen = image_labels(seeds, prompts.count)
            captions = [prompts.captions[int(i)] for i in chosen]
            labels = None if prompts.labels is None else prompts.labels[chosen]
    content = hashlib.sha256(canonical([shards, manifest["shape"]]).encode()).hexdigest()
    return Samples(
        count=count, shape=tuple(manifest["shape"]), read=partial(_read, directory), origin=str(spec["model"]),
        fingerprint=lambda: content, labels=labels, captions=captions, classes=classes,
    )  # fmt: skip


def _read(directory: Path, start: int, stop: int) -> Images:
    def pieces() -> Iterator[Images]:
        for shard in range(start // SHARD, -(-stop // SHARD)):
            images = np.load(_shard_path(directory, shard), mmap_mode="r", allow_pickle=False)
            yield np.array(images[max(start - shard * SHARD, 0) : stop - shard * SHARD])

    return np.concatenate(list(pieces()))


def _shard_path(directory: Path, number: int) -> Path:
    return directory / f"{number:06d}.npy"


def _npy(array: NDArray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
