"""`digits`: the 1,797 handwritten digits in scikit-learn, enlarged to 32x32; real images without a download."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from genbench.arrays import Samples
from genbench.contracts import Dataset
from genbench.errors import MissingAsset, UsageError, nearest

SIDE = 32
TEST = 500
SPLITS = ("train", "test")


def load(split: str) -> Samples:
    """Labelled digits, light on dark, uint8 (n, 3, 32, 32) with three equal channels.

    Args:
        split: "test" (500 images) or "train" (the other 1,297). The split and its order are those of the SHA-256 of the
            image's number, so they are fixed, and any first part of a split holds all classes alike. The same writers
            are in both.

    Raises:
        UsageError: an unknown split.
        MissingAsset: scikit-learn is not installed.

    Source:
        Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits" (UCI), the test part, 8x8 with values
        0..16, as `sklearn.datasets.load_digits` returns it.
    """
    if split not in SPLITS:
        raise UsageError(f"digits has no split {split!r}. {nearest(split, SPLITS)}")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingAsset("digits needs scikit-learn; install it with: pip install 'genbench[digits]'.") from error
    values, labels = load_digits(return_X_y=True)
    order = sorted(range(len(values)), key=lambda i: hashlib.sha256(f"digits {i}".encode()).digest())
    chosen = np.array(order[:TEST] if split == "test" else order[TEST:])
    samples = Samples.of(
        enlarge(values[chosen].reshape(-1, 8, 8)),
        origin=f"digits {split}",
        labels=labels[chosen].astype(np.int64),
        classes=tuple("0123456789"),
    )
    return replace(samples, exchangeable=True)


def enlarge(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Bilinear interpolation to 32x32, scaled to 8 bits, repeated to RGB.

    Pixel centres lie at half-integers and the border is repeated, as in torch's `interpolate(align_corners=False)`. All
    weights are multiples of 1/8, so float64 is exact and the pixels depend on no library's version.

    Args:
        values: (n, 8, 8) whole numbers in [0, 16].

    Returns:
        uint8 (n, 3, 32, 32): 255/16 of the interpolated value, rounded half up.
    """
    side = values.shape[-1]
    place = np.clip((np.arange(SIDE) + 0.5) * side / SIDE - 0.5, 0, side - 1)
    # The hat function around each of the coarse pixels is its weight at every fine one.
    weights = np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(side)))
    fine = np.floor(weights @ values @ weights.T * (255 / 16) + 0.5).astype(np.uint8)
    return np.repeat(fine[:, None], 3, axis=1)


DIGITS = Dataset(
    name="digits",
    summary="1,797 handwritten digits of scikit-learn at 32x32",
    source="Alpaydin and Kaynak 1998 (UCI), through scikit-learn",
    load=load,
    splits={"reference": "train", "held_out": "test", "test": "test"},
    default_samples=TEST,
    protocol="embedded",
)
