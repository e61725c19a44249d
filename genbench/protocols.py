"""Protocols: everything that must agree before two numbers may be compared, under one name.

A protocol fixes the extractor of every metric, the metrics' arguments, the quantiser and the numbers of images. What a
command line overrides is visible in the hash of each result, which covers all that was actually used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from genbench.errors import UsageError, nearest
from genbench.records import Measurement, Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How numbers are measured.

    Attributes:
        extractor: for metrics that name none themselves.
        extractors: for particular metrics.
        args: arguments of particular metrics, where the protocol differs from their defaults.
        quantise: rule from floats to 8 bits.
        num_samples, num_reference: of the protocol; None leaves them to the data set.
        metrics: measured by `--metric all`.
    """

    name: str
    summary: str
    source: str
    extractor: Ref
    extractors: Mapping[str, Ref] = field(default_factory=dict)
    args: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    quantise: Literal["round", "truncate"] = "round"
    num_samples: int | None = None
    num_reference: int | None = None
    metrics: tuple[str, ...] = ("fid", "is", "precision", "recall")

    def resolve(self, measurement: Measurement) -> Measurement:
        """Completes a measurement: its extractor, and the protocol's arguments where the user gave none."""
        metric = measurement.metric
        args = {**self.args.get(metric.name, {}), **metric.args}
        extractor = measurement.extractor or self.extractors.get(metric.name, self.extractor)
        return Measurement(Ref(metric.name, args), extractor)


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            name="embedded",
            summary="the shipped extractor; needs no download and is comparable with itself only",
            source="this project",
            extractor=Ref("compact"),
        ),
    )
}


def protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        UsageError: an unknown name.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"No protocol named {name!r}. {nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]
