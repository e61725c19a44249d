"""Many names in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray


class Names(Sequence[str]):
    """Texts in their order, as one string of bytes and where each of them ends in it.

    A list of a million short texts takes about 60 bytes a text beside its characters. This takes 8.
    """

    __slots__ = ("blob", "ends")

    def __init__(self, blob: bytes, ends: NDArray[np.int64]) -> None:
        self.blob, self.ends = blob, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Names:
        """The texts, which may hold the surrogates of file names that are not UTF-8."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        return cls(b"".join(encoded), np.cumsum([len(one) for one in encoded], dtype=np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Names]) -> Names:
        """The texts of all parts, one part after the other."""
        starts = np.cumsum([0, *(len(part.blob) for part in parts[:-1])])
        ends = [part.ends + start for part, start in zip(parts, starts, strict=True)]
        return cls(b"".join(part.blob for part in parts), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> Names: ...
    def __getitem__(self, number: int | slice) -> str | Names:
        if isinstance(number, slice):
            return Names.of(self[i] for i in range(*number.indices(len(self))))
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        number %= len(self)
        start = int(self.ends[number - 1]) if number else 0
        return self.blob[start : int(self.ends[number])].decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return self.blob == other.blob and np.array_equal(self.ends, other.ends)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]
