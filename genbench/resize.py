"""Every way in which the field's evaluators bring images to a network's size, behind one function.

How much the differences matter depends on the size of the images. The corner convention of TensorFlow 1 moves an image
by half a source pixel less half a target pixel: on the way to 299 pixels by 0.45 pixels of an image of 32, and by 0.07
of one of 256. The distance between photographs and other, blurred ones, on the first layers of an Inception network of
random weights, differs by 2 % between "tf1" and "bilinear" at 32 pixels, by 4 % where the two sides went through
different ones, and by less than 0.1 % at 256 pixels. Published implementations agree to about 0.1 in FID on CIFAR-10.
Antialiasing changes nothing where images grow, and decides where they shrink.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from genbench.errors import InputRejected, UsageError

METHODS = (
    "tf1", "nvidia", "bilinear", "bilinear-antialias", "bicubic-antialias", "clean", "lanczos",
    "pil-bilinear", "pil-bicubic", "pil-lanczos",
)  # fmt: skip


def _triangle(x: float) -> float:
    return max(1.0 - abs(x), 0.0)


def _cubic(x: float) -> float:
    """Keys' kernel with a = -1/2."""
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0 if x < 2.0 else 0.0


def _lanczos(x: float) -> float:
    """The sinc function windowed to three lobes."""
    if abs(x) >= 3.0:
        return 0.0
    return _sinc(x) * _sinc(x / 3.0)


def _sinc(x: float) -> float:
    return 1.0 if x == 0.0 else math.sin(math.pi * x) / (math.pi * x)


_FILTERS: dict[str, tuple[Callable[[float], float], float]] = {
    "bilinear": (_triangle, 1.0), "bicubic": (_cubic, 2.0), "lanczos": (_lanczos, 3.0),
}  # fmt: skip
_FRACTION = 22
"""Bits after the binary point of Pillow's weights: 32 less 8 of a pixel and 2 of headroom."""


_STRIP = 16
"""Target pixels of one product. Weights are a band around the diagonal, so strips skip almost all of their zeros."""


@lru_cache(maxsize=16)
def _filter_matrix(kernel: str, source: int, target: int, *, fixed: bool) -> NDArray[np.float64]:
    """Weights (target, source) of an antialiased filter as Pillow has them: half-pixel centres, the kernel widened when
    shrinking, rows that sum to 1. With `fixed`, rounded to multiples of 2^-22 and given as those integers."""
    function, support = _FILTERS[kernel]
    scale = source / target
    widening = max(scale, 1.0)
    matrix = np.zeros((target, source))
    for i in range(target):
        centre = (i + 0.5) * scale
        first = max(int(centre - support * widening + 0.5), 0)
        last = min(int(centre + support * widening + 0.5), source)
        row = np.array([function((j - centre + 0.5) / widening) for j in range(first, last)])
        matrix[i, first:last] = row / row.sum()
    if fixed:
        matrix = np.trunc(matrix * 2.0**_FRACTION + np.copysign(0.5, matrix))
    matrix.setflags(write=False)
    return matrix


@lru_cache(maxsize=16)
def _corner_matrix(source: int, target: int) -> NDArray[np.float64]:
    """Weights (target, source) of TensorFlow 1's bilinear resize."""
    # TensorFlow computes scale and position in float32; in float64, noise would differ by some 1e-3 of a grey level.
    position = np.arange(target, dtype=np.float32) * np.float32(source / target)
    low = np.minimum(position.astype(np.int64), source - 1)
    upper = (position - low).astype(np.float64)
    matrix = np.zeros((target, source))
    np.add.at(matrix, (np.arange(target), low), 1 - upper)
    np.add.at(matrix, (np.arange(target), np.minimum(low + 1, source - 1)), upper)
    matrix.setflags(write=False)
    return matrix


def _weighted(x: Tensor, matrix: NDArray[np.float64], axis: int) -> Tensor:
    """Multiplies columns (axis 3) or rows (axis 2) of (n, c, h, w) by a banded matrix of weights."""
    shape = list(x.shape)
    shape[axis] = len(matrix)
    out = x.new_empty(shape)
    height = _STRIP if matrix.shape[1] > 2 * _STRIP else len(matrix)
    for start in range(0, len(matrix), height):
        strip = matrix[start : start + height]
        used = np.flatnonzero(strip.any(axis=0))
        first, last = int(used[0]), int(used[-1]) + 1
        weights = torch.tensor(strip[:, first:last], dtype=x.dtype, device=x.device)
        if axis == 3:
            out[..., start : start + height] = x[..., first:last] @ weights.T
        else:
            out[:, :, start : start + height] = weights @ x[:, :, first:last]
    return out


def _pillow(images: Tensor, size: tuple[int, int], kernel: str) -> Tensor:
    """Bit for bit what Pillow does to 8-bit images: columns, then rows, with an 8-bit image between the two."""
    # The sums of products stay below 2^53, so that float64 carries Pillow's integers exactly, on every device.
    x = images.double()
    for axis, target in ((3, size[1]), (2, size[0])):
        if x.shape[axis] != target:
            x = _weighted(x, _filter_matrix(kernel, x.shape[axis], target, fixed=True), axis)
            x = x.add_(2.0 ** (_FRACTION - 1)).mul_(2.0**-_FRACTION).floor_().clamp_(0, 255)
    return x.float()


def _separable(images: Tensor, size: tuple[int, int], matrix: Callable[[int, int], NDArray[np.float64]]) -> Tensor:
    x = images.float()
    # The shorter way first: fewest pixels between the two products.
    axes = (3, 2) if x.shape[2] * size[1] <= size[0] * x.shape[3] else (2, 3)
    for axis in axes:
        if x.shape[axis] != size[axis - 2]:
            x = _weighted(x, matrix(x.shape[axis], size[axis - 2]), axis)
    return x


def _each(images: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Applies a function of matrix products to each image alone, on the CPU.

    The order of the sums in a product depends on its size and on how its operands lie in memory, so that the last digit
    of an image would depend on its batch; and one image at a time stays in the cache.
    """
    if images.device.type != "cpu":
        return function(images)
    return torch.cat([function(image.clone()) for image in images.split(1)])


def _nvidia(images: Tensor, size: tuple[int, int]) -> Tensor:
    x = images.float()
    theta = torch.eye(2, 3, device=x.device)
    # Shifts the half-pixel grid of `grid_sample` by half a target pixel less half a source pixel, in units of [-1, 1].
    theta[0, 2] = 1 / x.shape[3] - 1 / size[1]
    theta[1, 2] = 1 / x.shape[2] - 1 / size[0]
    grid = F.affine_grid(theta.expand(len(x), 2, 3), [len(x), x.shape[1], *size], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def resize(images: Tensor, size: int | tuple[int, int], method: str) -> Tensor:
    """Resizes images by one of the field's rules.

    Args:
        images: (n, c, h, w) uint8, or float32 with values in [0, 255], on any device. The "pil-" methods take uint8
            only.
        size: of the result, (height, width) or one number for both.
        method:
            "tf1": bilinear of TensorFlow 1; source position i * in / out without half-pixel offset, no antialiasing.
            "nvidia": the same mapping by an affine grid, as in NVIDIA's TorchScript and pickle of the Inception
                network.
            "bilinear": half-pixel centres, no antialiasing (PyTorch's default; pytorch-fid, dgm-eval).
            "bilinear-antialias": the kernel widened when shrinking (torchmetrics since 1.8; Pillow on float images).
            "bicubic-antialias": Keys' kernel with a = -1/2, likewise, without clamping (EDM2's DINOv2).
            "clean": the same, clamped to [0, 255] and not rounded (clean-fid; Pillow on float images).
            "lanczos": three lobes, clamped likewise (StudioGAN's "friendly" for torchvision's Inception).
            "pil-bilinear", "pil-bicubic", "pil-lanczos": Pillow on 8-bit images, bit for bit; whole numbers. Columns
                come first, as in every Pillow before 13 and so in every published number; Pillow 13 begins with the
                rows of images whose height shrinks much more than their width, which differs by some grey levels.

    Returns:
        float32 (n, c, height, width), in [0, 255] except for the overshoot of "bicubic-antialias". Where the size is
        the same, every method is the identity.

    Raises:
        UsageError: an unknown method.
        InputRejected: another dtype or number of axes.

    Source:
        TensorFlow 1 `resize_bilinear_op.cc`; Pillow `Resample.c`; Parmar et al. 2022 (clean-fid). `tests/parity`
        compares with torch-fidelity ("tf1") and clean-fid ("clean"), both to 1e-4 of a grey level, and `tests/unit`
        with Pillow.
    """
    if method not in METHODS:
        raise UsageError(f"No resize {method!r}; there are {', '.join(METHODS)}.")
    if images.ndim != 4 or images.dtype not in (torch.uint8, torch.float32):
        raise InputRejected(
            f"Images to resize are uint8 or float32 (n, c, h, w) in [0, 255]; got {images.dtype} {tuple(images.shape)}."
        )
    if method.startswith("pil-") and images.dtype != torch.uint8:
        raise InputRejected(f"resize={method!r} is defined on 8-bit images; got {images.dtype}. Quantise them first.")
    shape = (size, size) if isinstance(size, int) else size
    if tuple(images.shape[2:]) == tuple(shape):
        return images.float()
    if images.device.type == "mps":
        return resize(images.cpu(), shape, method).to(images.device)  # which has no float64
    if method == "tf1":
        return _each(images, partial(_separable, size=shape, matrix=_corner_matrix))
    if method == "nvidia":
        return _nvidia(images, shape)
    if method in ("clean", "lanczos"):
        matrix = partial(_filter_matrix, "bicubic" if method == "clean" else "lanczos", fixed=False)
        return _each(images, partial(_separable, size=shape, matrix=matrix)).clamp_(0, 255)
    if method.startswith("pil-"):
        return _each(images, partial(_pillow, size=shape, kernel=method.removeprefix("pil-")))
    mode, _, antialias = method.partition("-")
    return F.interpolate(images.float(), size=shape, mode=mode, align_corners=False, antialias=bool(antialias))


def resize_shorter(images: Tensor, side: int, method: str) -> Tensor:
    """Brings the shorter side of images to `side` pixels and keeps their shape, the longer side rounded down.

    Source: torchvision `transforms.Resize` with one number.
    """
    height, width = images.shape[2:]
    longer = int(side * max(height, width) / min(height, width))
    return resize(images, (side, longer) if height <= width else (longer, side), method)


def centre_crop(images: Tensor, side: int) -> Tensor:
    """The middle side x side pixels of images at least as large; half pixels go to the even neighbour.

    Source: torchvision `transforms.CenterCrop`.
    """
    top, left = (round((length - side) / 2) for length in images.shape[2:])
    return images[:, :, top : top + side, left : left + side]
