"""Content that must stay what it was when it was first read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genbench.errors import InputRejected, shown


def changed(place: object) -> str:
    """What is said of an item that was another when it was read before."""
    return (
        f"{shown(place)} was changed while it was read, and a number of two sets of images is none; run again when "
        "nothing writes there."
    )


class Pins:
    """SHA-256 of every item of a set, kept from its first reading on.

    A folder may be written while it is read, and items are read several times: to find their fingerprint, their
    features and their pixels. What belongs together in a number must come from one and the same content.

    Attributes:
        digests: uint8 (count, 32), zeros where nothing was read yet.
        known: bool (count,), whether an item was read.
    """

    def __init__(self, count: int) -> None:
        self.digests = np.zeros((count, 32), dtype=np.uint8)
        self.known = np.zeros(count, dtype=bool)

    def hold(self, start: int, found: NDArray[np.uint8], place: object) -> None:
        """Takes in the digests of the items from `start` on.

        Args:
            place: what is named when an item has changed.

        Raises:
            InputRejected: an item that had another digest before.
        """
        part = slice(start, start + len(found))
        if (found != self.digests[part])[self.known[part]].any():
            raise InputRejected(changed(place))
        self.digests[part] = found
        self.known[part] = True
