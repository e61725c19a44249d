"""Arrangements of images for people; `genbench.images.write_grid` writes them."""

from __future__ import annotations

import numpy as np

from genbench.arrays import Images, Samples
from genbench.errors import InputRejected


def by_class(samples: Samples, number: int = 8) -> Images:
    """The first `number` images of every class, class by class, uint8 (classes * number, c, h, w).

    A class with fewer images is completed with white ones.

    Raises:
        InputRejected: samples without labels.
    """
    if samples.labels is None:
        raise InputRejected(f"{samples.origin} has no labels to arrange images by.")
    count = len(samples.classes) or int(samples.labels.max()) + 1
    shown = np.full((count, number, *samples.shape), 255, dtype=np.uint8)
    for label in range(count):
        for place, i in enumerate(np.flatnonzero(samples.labels == label)[:number].tolist()):
            shown[label, place] = samples.read(i, i + 1)[0]
    return shown.reshape(-1, *samples.shape)


def rows(trajectories: Images) -> Images:
    """Trajectories (n, 2, frames, c, h, w) as 2 n rows of `frames` images, (2 n frames, c, h, w)."""
    return trajectories.reshape(-1, *trajectories.shape[3:])
