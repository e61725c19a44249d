"""What the identities of this package are made of; `docs/identities.md` tells it in words.

An identity covers what can change the number that it stands for, and nothing else.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genbench.arrays import Samples, Statistics
from genbench.contracts import Metric
from genbench.files import sha256
from genbench.records import Ref, RunSpec, Side, digest

PROTOCOL = 2
"""Version of `protocol_hash`."""
FLOOR = 3
"""Version of `floor`; raised when floors would be measured of other images."""
REQUEST = 2
"""Version of `request`."""


def reads(metric: Metric, args: Ref) -> frozenset[str]:
    """What beside the pixels of a set the value of a metric depends on, of {"order", "labels", "captions"}."""
    found = set(metric.reads(args.args))
    if metric.labels:
        found.add("labels")
    if metric.captions:
        found.add("captions")
    if metric.paired or "order" not in metric.invariances:
        found.add("order")
    return frozenset(found)


def content(samples: Samples, digests: NDArray[np.uint8], what: frozenset[str]) -> str:
    """Digest of a set of images as a metric reads it: the same for a folder, a zip and an array of the same pixels.

    Args:
        digests: uint8 (n, 32), `genbench.arrays.image_digests` of the images.
        what: see `reads`. Without "order", every order of the images gives the same digest. With "labels", an image
            belongs to its class, by name where the classes have names; with "captions", to its text.
    """
    rows = [row.tobytes() for row in digests]
    if "labels" in what and samples.labels is not None:
        names = _names(samples)
        rows = [row + _text(names[int(label)]) for row, label in zip(rows, samples.labels, strict=True)]
    if "captions" in what and samples.captions is not None:
        rows = [row + _text(caption) for row, caption in zip(rows, samples.captions, strict=True)]
    if "order" not in what:
        rows.sort()
    total = hashlib.sha256(f"{samples.count} {samples.shape} {sorted(what)}".encode())
    for row in rows:
        total.update(row)
    return total.hexdigest()


def _names(samples: Samples) -> dict[int, str]:
    """Name by class number, or the number where classes have no names."""
    assert samples.labels is not None
    known = {int(label): str(label) for label in np.unique(samples.labels)}
    return {n: samples.classes[n] if 0 <= n < len(samples.classes) else name for n, name in known.items()}


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(4, "little") + data


def side(samples: Samples, digests: NDArray[np.uint8], what: frozenset[str]) -> Side:
    """The record of a set of images as a metric reads it."""
    return Side(
        name=samples.origin,
        count=samples.count,
        digest=content(samples, digests, what),
        shape=samples.shape,
        quantise=samples.quantise,
    )


def side_of_statistics(samples: Samples, statistics: Sequence[Statistics]) -> Side:
    """The record of what was published about a set of images."""
    (count,) = counts if len(counts := {s.count for s in statistics}) == 1 else (None,)
    number = "an unknown number of images" if count is None else f"{count} images"
    name = f"{samples.origin}, statistics of {number}"
    return Side(name=name, count=count, digest=digest([s.digest() for s in statistics]))


def conditions(samples: Samples, what: frozenset[str]) -> str | None:
    """Digest of the different classes and texts that images were made for, however often and in what order, None where
    the metric reads neither."""
    named = sorted(_names(samples).values()) if "labels" in what and samples.labels is not None else []
    texts = sorted(set(samples.captions)) if "captions" in what and samples.captions is not None else []
    return digest([named, texts]) if named or texts else None


def asked(seed: int, samples: Samples) -> str:
    """Digest of what every image of a run was asked for: its seed, label and caption. Image i of two runs of one digest
    began from the same noise and the same words, so that their scores are compared in pairs."""
    labels = None if samples.labels is None else samples.labels.tolist()
    return digest([seed, samples.count, labels, None if samples.captions is None else list(samples.captions)])


def protocol_hash(
    metric: Metric,
    args: Ref,
    *,
    extractor_key: str | None,
    reference: Side | None,
    modelled: str | None,
    generated: Samples,
) -> str:
    """16 hexadecimal digits of how a number was measured. Numbers of two hashes are not comparable.

    Args:
        reference: what the generated images were compared with, None for metrics without a reference.
        modelled: for these: what the images are meant to be, see `modelled`.
        generated: how many there are, how they became 8-bit pixels where that is not by rounding, and what they were
            asked for. What they show is no part of the protocol.
    """
    what = reads(metric, args)
    against = reference.digest if reference is not None else [modelled, conditions(generated, what)]
    # Rounding is what nearly all files were written with: where nothing is known, it stands for itself.
    quantise = generated.quantise if generated.quantise != "round" else None
    how = [PROTOCOL, str(args.brief(metric.neutral)), metric.version, code(metric.compute), extractor_key]
    return digest([*how, against, generated.count, quantise], 16)


def modelled(reference: Samples | None) -> str | None:
    """What generated images are meant to be, for metrics that look at no reference: the name of a data set, or a digest
    of the files of a reference that is none."""
    if reference is None:
        return None
    return reference.dataset or reference.fingerprint()


def floor(metric: Metric, args: Ref, *, extractor_key: str | None, real: Side, reference: Side | None) -> str:
    """32 hexadecimal digits of a floor: of its images, of the reference, and of how both are compared, the arguments of
    the error bar among it."""
    how = [FLOOR, str(args.brief()), metric.version, code(metric.compute), extractor_key]
    return digest([*how, real.digest, reference.digest if reference else None], 32)


def request(
    text: str, protocol: str, hashed: str, *, spec: RunSpec, model_key: str, generated: Side, floor: str | None
) -> str:
    """16 hexadecimal digits of a measurement of a run. A stored result answers it only where all of this is the same.

    Args:
        text: the measurement without arguments that have their defaults, but with those of its error bar.
        protocol, hashed: name and `protocol_hash`.
        floor: digest of the real images that give the floor, see `content`.
    """
    return digest([REQUEST, text, protocol, hashed, spec.identity(), model_key, generated.digest, floor], 16)


def keyed(component: Any, key: object) -> str:
    """The key of a model or an extractor, and with it the code of a loader that is no part of this package.

    Args:
        component: the loader.
        key: what it says of itself.
    """
    own = code(component)
    return digest([str(key), own]) if own else str(key)


def code(component: Any) -> str | None:
    """Digest of the source files of a component of somebody else, None for this package, whose code has versions.

    The files are all Python files of the package that the component's module lies in, or the one file of a module that
    lies in none.
    """
    while isinstance(component, partial):
        component = component.func
    module = sys.modules.get(getattr(component, "__module__", None) or "")
    name = getattr(module, "__name__", "").partition(".")[0]
    if module is None or name in ("", "genbench", "baselines", "builtins"):
        return None
    root = getattr(sys.modules.get(name), "__file__", None)
    if root and Path(root).name == "__init__.py":
        files = sorted(Path(root).parent.rglob("*.py"))
    else:
        files = [Path(own)] if (own := getattr(module, "__file__", None)) else []
    digests = [sha256(path) for path in files if path.is_file()]
    return digest(digests) if digests else None
