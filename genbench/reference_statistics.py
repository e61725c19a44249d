"""Files of statistics of a set of real images: a reference to hand on without the images.

    mu, sigma           mean (d,) and unbiased covariance (d, d), float64, of the first extractor's pooled features
    mu_s, sigma_s       those of its spatial features, where they were asked for
    mu_1, sigma_1 ...   those of further taps and extractors
    genbench            a JSON text: what each of them is of, the images, their digest, the protocol, the environment

pytorch-fid, clean-fid and EDM read `mu` and `sigma`, the evaluator of guided diffusion all four of the first ones.
`genbench.images.npz.read_statistics` reads the whole, and refuses weights that are not those it was made with.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from genbench import environment, features, gaussians, identities, preflight
from genbench.arrays import Samples, Statistics
from genbench.errors import InputRejected, UsageError
from genbench.files import replacing
from genbench.images.npz import RECORD, SCHEMA
from genbench.measuring import Cell, Comparison, Execution
from genbench.protocols import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Statistics of a set, and what they are of.

    Attributes:
        statistics: of every extractor and tap, the first extractor's pooled features first.
        images: origin, count, shape and digest of the images, as `identities.content` gives it without order.
        protocol: name of the protocol that chose the extractors.
        environment: see `environment.snapshot`.
    """

    statistics: tuple[Statistics, ...]
    images: dict[str, Any]
    protocol: str
    environment: dict[str, Any]


def of_images(
    samples: Samples,
    cells: Sequence[Cell],
    protocol: Protocol,
    execution: Execution,
    *,
    about: Mapping[str, Any] | None = None,
) -> Made:
    """Mean and covariance of the features of a set, for every extractor and tap that the metrics read.

    Features are made in one pass an extractor and kept in the cache in parts, so that a pass that was interrupted goes
    on. Their moments are summed up in float64, a block at a time.

    Args:
        cells: metrics that need no more of their reference than its moments; the pooled features of their extractors
            are always among the taps.
        about: what other processes make the same `compared` of, see `measuring.Comparison`.

    Raises:
        UsageError: a metric that needs the images themselves.
        InputRejected: fewer than two images, or statistics in place of images.
    """
    for cell in cells:
        if not cell.metric.moments or cell.extractor_ref is None:
            raise UsageError(
                f"{cell.metric.name} needs the images of its reference; statistics serve metrics such as fid, sfid, fd."
            )
    if samples.count < 2:
        raise InputRejected(f"A covariance needs at least 2 images; {samples.origin} has {samples.count}.")
    comparison = compared(samples, cells, execution, about=about)
    preflight.check_disk(None, None, None, comparison, comparison.cells)
    found: dict[tuple[str, str], Statistics] = {}
    for cell in comparison.cells:
        extractor, evidence = comparison.extractor(cell), comparison.evidence(cell, "reference")
        assert extractor is not None and evidence is not None
        for tap in sorted(cell.metric.taps, key=lambda tap: tap != "pooled"):
            if (str(cell.extractor_ref), tap) in found:
                continue
            moments = gaussians.moments_of(evidence.features(tap))
            found[str(cell.extractor_ref), tap] = Statistics(
                extractors=(str(cell.extractor_ref),),
                mean=moments.mean,
                covariance=moments.covariance,
                tap=tap,
                count=moments.count,
                key=extractor.key,
            )
    digests = features.pixel_digests(samples, workers=execution.workers)
    return Made(
        statistics=tuple(found.values()),
        images={
            "name": samples.origin,
            "count": samples.count,
            "shape": list(samples.shape),
            "digest": identities.content(samples, digests, frozenset()),
        },
        protocol=protocol.name,
        environment=dict(environment.snapshot(comparison.device)),
    )


def compared(
    samples: Samples, cells: Sequence[Cell], execution: Execution, *, about: Mapping[str, Any] | None = None
) -> Comparison:
    """The set as a reference of which all is read that statistics are made of; arguments as of `of_images`."""
    device = environment.choose_device(execution.device)
    roles = {"generated": None, "reference": replace(samples, statistics={})}
    comparison = Comparison(roles=roles, cells=cells, execution=execution, device=device, about=about)
    for cell in cells:
        extractor = comparison.extractor(cell)
        if extractor is not None and "pooled" in extractor.widths and "pooled" not in cell.metric.taps:
            pooled = replace(cell, metric=replace(cell.metric, taps=("pooled", *cell.metric.taps)))
            comparison.cells = [pooled if one is cell else one for one in comparison.cells]
    return comparison


def write(made: Made, path: str | os.PathLike[str]) -> None:
    """Writes a file of statistics, whole or not at all.

    Raises:
        OutOfResources: no space left.
    """
    named, first = [], made.statistics[0].extractors
    for number, one in enumerate(made.statistics):
        end = "" if number == 0 else "_s" if (one.tap, one.extractors) == ("spatial", first) else f"_{number}"
        named.append((f"mu{end}", f"sigma{end}", one))
    record = {
        "schema": SCHEMA,
        "protocol": made.protocol,
        "images": made.images,
        "statistics": [
            {
                "mean": mean, "covariance": covariance, "extractor": one.extractors[0], "key": one.key, "tap": one.tap,
                "count": one.count,
            }
            for mean, covariance, one in named
        ],
        "environment": made.environment,
    }  # fmt: skip
    text = np.array(json.dumps(record, sort_keys=True))
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:

        def save(name: str, values: Any) -> None:
            # Members given by name get the day of writing from Python 3.14 on; a bare ZipInfo stays in 1980.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)

        for mean, covariance, one in named:
            save(mean, one.mean.astype("<f8"))
            save(covariance, np.ascontiguousarray(one.covariance, dtype="<f8"))
        save(RECORD, text.astype(text.dtype.newbyteorder("<")))
