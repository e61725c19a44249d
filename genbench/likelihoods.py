"""Likelihoods that a model gives of real images, image by image; what was computed is kept, so that it can go on."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genbench import files
from genbench.arrays import Samples
from genbench.contracts import Metric, Model, taken_by
from genbench.errors import InputRejected, MissingAsset, UsageError, calling
from genbench.generation import image_seeds
from genbench.mixing import mixed
from genbench.records import RunSpec, digest

VERSION = 1
"""Raised when the same seeds would give other numbers for a reason that lies in this module."""
BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model of which a metric is, and what its numbers depend on.

    Attributes:
        key: of the model, see `genbench.identities.keyed`.
        directory: of the run. Finished numbers are kept in it.
    """

    model: Model
    spec: RunSpec
    key: str
    directory: Path


def check(metric: Metric, subject: Subject | None, real: Samples | None, count: int) -> None:
    """Refuses what has no likelihood, before any work.

    Raises:
        InputRejected: images without a model, no real images, too few, or others than those of the model.
        UsageError: a model that gives none of this kind.
    """
    if subject is None:
        raise InputRejected(
            f"{metric.name} is a number of a model: the likelihood that it gives to real images. Images alone have "
            "none; use `genbench run --model ...`."
        )
    model, who = subject.model, f"The model {subject.spec.model}"
    kinds = frozenset(getattr(model, "likelihoods", ()))
    if metric.likelihood not in kinds:
        other = {"exact": "nll", "bound": "nll-bound"}
        instead = " or ".join(other.get(kind, kind) for kind in sorted(kinds))
        raise UsageError(
            f"{who} gives no {'bound of the' if metric.likelihood == 'bound' else 'exact'} likelihood, which "
            f"{metric.name} is; "
            + (
                f"ask for {instead}."
                if kinds
                else "it gives none; one that samples the same network without guidance may."
            )
        )
    if not taken_by(model) <= {"labels"}:
        raise UsageError(f"{metric.name} is measured of models of labels or of nothing; {subject.spec.model} takes "
                         f"{', '.join(sorted(taken_by(model)))}.")  # fmt: skip
    if real is None:
        raise InputRejected(f"{metric.name} needs a test split, and {subject.spec.dataset} has none here.")
    if real.count < count:
        raise InputRejected(f"{real.origin} has {real.count} images, and {count} were asked for; give -n {real.count}.")
    if real.shape != model.shape:
        raise InputRejected(f"{who} is of images of {model.shape}, and {real.origin} has {real.shape}.")
    if "labels" in taken_by(model):
        if real.labels is None:
            raise InputRejected(f"{who} needs labels, and {real.origin} has none.")
        if int(real.labels.max()) >= model.classes:
            raise InputRejected(
                f"{who} knows {model.classes} classes, and {real.origin} has labels up to {int(real.labels.max())}."
            )


def bits(
    metric: Metric,
    subject: Subject,
    real: Samples,
    *,
    content: str,
    tolerance: float | None,
    repeats: int,
    watch: Callable[[int, int], None],
) -> NDArray[np.float64]:
    """Negative log-likelihoods in bits a dimension, float64 (repeats, images).

    Image i has the seed of image i of the run, so that its number depends on no other. A repeat has other noise.

    Args:
        content: digest of the images in their order.
        tolerance: of what adapts its steps, None where nothing does.
        watch: called as watch(done, all).

    Raises:
        InputRejected: what the model returned breaks `genbench.contracts.Model`.
        MissingAsset: weights that are not there.
    """
    import torch

    from genbench.arithmetic import float32

    kept = _Kept(
        subject.directory
        / "likelihoods"
        / f"{digest([VERSION, metric.likelihood, tolerance, subject.spec.seed, subject.key, content], 16)}.npy"
    )
    found = kept.read(repeats, real.count)
    seeds = image_seeds(subject.spec.seed, 0, real.count)
    labelled = "labels" in taken_by(subject.model)
    more = {} if tolerance is None else {"tolerance": tolerance}
    who = f"The model {subject.spec.model}"
    for repeat in range(repeats):
        own = seeds if not repeat else mixed(seeds ^ np.uint64(repeat))
        for start in range(0, real.count, BATCH):
            stop = min(start + BATCH, real.count)
            if np.isfinite(found[repeat, start:stop]).all():
                continue
            given = {"labels": real.labels[start:stop]} if labelled and real.labels is not None else {}
            with float32(), calling(who):
                try:
                    values = subject.model.nll(  # type: ignore[attr-defined]
                        torch.from_numpy(real.read(start, stop)),
                        own[start:stop],
                        kind=metric.likelihood,
                        **more,
                        **given,
                    )
                except FileNotFoundError as error:
                    raise MissingAsset(f"{who}: {error}") from error
                except ValueError as error:
                    raise InputRejected(f"{who}: {error}") from error
            numbers = np.asarray(torch.as_tensor(values).double().cpu())
            if numbers.shape != (stop - start,) or not np.isfinite(numbers).all():
                raise InputRejected(
                    f"{who} gave likelihoods {numbers.shape} that are not {stop - start} finite numbers."
                )
            found[repeat, start:stop] = numbers
            kept.write(found)
            watch(repeat * real.count + stop, repeats * real.count)
    return found


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file of numbers, not a number where there is none yet."""

    path: Path

    def read(self, repeats: int, count: int) -> NDArray[np.float64]:
        found = np.full((repeats, count), np.nan)
        try:
            known = np.load(self.path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return found
        if known.ndim == 2 and known.shape[1] == count and known.dtype == np.float64:
            rows = min(repeats, len(known))
            found[:rows] = known[:rows]
        return found

    def write(self, found: NDArray[np.float64]) -> None:
        content = io.BytesIO()
        np.save(content, found)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files.atomic_write(self.path, content.getvalue())
