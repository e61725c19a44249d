"""One component of each kind, as short as the contracts allow."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from genbench import Dataset, Evidence, Extractor, Metric, Samples, Score


def brightness(*, generated: Evidence, reference: Evidence, weight: float = 1.0) -> Score:
    """Difference of the mean grey levels."""
    means = [np.mean([batch.mean() for batch in side.samples.batches(10)]) for side in (generated, reference)]
    return Score(value=weight * float(means[0] - means[1]))


BRIGHTNESS = Metric(
    name="brightness",
    summary="difference of mean grey levels",
    source="this plug-in",
    compute=brightness,
    taps=(),
    images=True,
)


@dataclass(frozen=True)
class Grey:
    level: float
    shape: tuple[int, int, int] = (3, 8, 8)
    key: str = "grey-1"
    conditioning: str = "none"
    classes: int = 0
    evaluations: int = 1

    def sample(self, seeds, *, labels=None, captions=None, watch=None):
        return torch.full((len(seeds), *self.shape), self.level)


def grey(*, dataset: str, device: str, precision: str, level: float = 0.0) -> Grey:
    """Images of one grey level in [-1, 1]."""
    return Grey(level)


def load(split: str, *, value: int = 100) -> Samples:
    images = np.full((40, 3, 8, 8), value, dtype=np.uint8)
    return Samples(
        count=40,
        shape=(3, 8, 8),
        read=lambda start, stop: images[start:stop],
        origin=f"flat {split}",
        fingerprint=lambda: hashlib.sha256(f"flat {split} {value}".encode()).hexdigest(),
    )


FLAT = Dataset(
    name="flat",
    summary="one grey level",
    source="this plug-in",
    load=load,
    splits={"reference": "all", "held_out": "all"},
    default_samples=20,
)


def mean_colour(*, device: str, precision: str, weights: object = None) -> Extractor:
    """Three features: the mean of every channel."""
    return Extractor(
        key="mean-colour-1",
        widths={"pooled": 3},
        embed=lambda images, taps: {"pooled": images.float().mean(dim=(2, 3))},
    )
