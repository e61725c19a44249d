"""What metrics computed last: metrics that need the same of the same features compute it once."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from genbench.arrays import Features

T = TypeVar("T")

_RECENT: OrderedDict[Hashable, tuple[tuple[weakref.ref[NDArray[np.float32]], ...], object]] = OrderedDict()
_SIZE = 12


def remember(arrays: tuple[Features, ...], key: tuple[Hashable, ...], make: Callable[[], T]) -> T:
    """What `make` gave for these very features before, or what it gives now. See `recalled`. None is not kept."""
    known = recalled(arrays, key)
    if known is None:
        known = make()
        keep(arrays, key, known)
    return known


def recalled(arrays: tuple[Features, ...], key: tuple[Hashable, ...]) -> Any:
    """What was kept for these very features under a key, or None.

    Arrays are told apart by identity and files by name, time and size; features are never changed in place.
    """
    full = (*map(_identity, arrays), *key)
    owners, value = _RECENT.get(full, ((), None))
    if value is None or any(owner() is not a for owner, a in zip(owners, _held(arrays), strict=True)):
        return None
    _RECENT.move_to_end(full)
    return value


def keep(arrays: tuple[Features, ...], key: tuple[Hashable, ...], value: object) -> None:
    """Keeps what was made of these features, in place of what was not asked for longest."""
    full = (*map(_identity, arrays), *key)
    _RECENT[full] = (tuple(weakref.ref(a) for a in _held(arrays)), value)
    _RECENT.move_to_end(full)
    while len(_RECENT) > _SIZE:
        _RECENT.popitem(last=False)


def _held(arrays: tuple[Features, ...]) -> list[NDArray[np.float32]]:
    return [f.array for f in arrays if f.path is None and f.array is not None]


def _identity(features: Features) -> Hashable:
    if features.path is None:
        return id(features.array)
    status = features.path.stat()
    return features.path, status.st_mtime_ns, status.st_size
