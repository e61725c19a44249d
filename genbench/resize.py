"""Every way in which the field's evaluators bring images to a network's size, behind one function.

The differences matter more than they look: at 32x32 the corner convention of TensorFlow 1 moves an image by half a
source pixel, which is worth several points of FID, and antialiasing decides for downscaling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

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


@lru_cache(maxsize=32)
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


def _pillow(images: Tensor, size: tuple[int, int], kernel: str) -> Tensor:
    """Bit for bit what Pillow does to 8-bit images: columns, then rows, with an 8-bit image between the two."""
    # The sums of products stay below 2^53, so that float64 carries Pillow's integers exactly, on every device.
    x = images.double()
    for axis, target in ((3, size[1]), (2, size[0])):
        source = x.shape[axis]
        if source != target:
            weights = torch.tensor(_filter_matrix(kernel, source, target, fixed=True), device=x.device)
            x = x @ weights.T if axis == 3 else weights @ x
            x = torch.floor((x + 2.0 ** (_FRACTION - 1)) * 2.0**-_FRACTION).clamp(0, 255)
    return x.float()


def _filtered(images: Tensor, size: tuple[int, int], kernel: str) -> Tensor:
    x = images.float()
    for axis, target in ((3, size[1]), (2, size[0])):
        if x.shape[axis] != target:
            matrix = _filter_matrix(kernel, x.shape[axis], target, fixed=False)
            weights = torch.tensor(matrix, dtype=torch.float32, device=x.device)
            x = x @ weights.T if axis == 3 else weights @ x
    return x


def _two_taps(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Lower and upper source index and the weight of the upper one, for TensorFlow 1's corner-aligned bilinear
    resize."""
    # TensorFlow computes scale and position in float32; float64 would choose other neighbours for a few sizes.
    position = torch.arange(target, dtype=torch.float32) * torch.tensor(source / target, dtype=torch.float32)
    low = position.long().clamp_max(source - 1)
    high = (low + 1).clamp_max(source - 1)
    return low.to(device), high.to(device), (position - low).to(device)


def _tf1(images: Tensor, size: tuple[int, int]) -> Tensor:
    x = images.float()
    width, height = size[1], size[0]
    if x.shape[3] != width:
        low, high, weight = _two_taps(x.shape[3], width, x.device)
        if x.shape[3] <= 128:
            matrix = torch.zeros(x.shape[3], width, device=x.device)
            matrix.scatter_add_(0, low[None], (1 - weight)[None]).scatter_add_(0, high[None], weight[None])
            x = x @ matrix
        else:
            x = torch.lerp(x.index_select(3, low), x.index_select(3, high), weight)
    if x.shape[2] != height:
        low, high, weight = _two_taps(x.shape[2], height, x.device)
        x = torch.lerp(x.index_select(2, low), x.index_select(2, high), weight[:, None])
    return x


def _nvidia(images: Tensor, size: tuple[int, int]) -> Tensor:
    x = images.float()
    theta = torch.eye(2, 3, device=x.device)
    # Shifts the half-pixel grid of `grid_sample` by half a target pixel less half a source pixel, in units of [-1, 1].
    theta[0, 2] = 1 / x.shape[3] - 1 / size[1]
    theta[1, 2] = 1 / x.shape[2] - 1 / size[0]
    grid = F.affine_grid(theta.expand(len(x), 2, 3), [len(x), x.shape[1], *size], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _interpolated(images: Tensor, size: tuple[int, int], mode: str, antialias: bool) -> Tensor:
    return F.interpolate(images.float(), size=size, mode=mode, align_corners=False, antialias=antialias)


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
            "pil-bilinear", "pil-bicubic", "pil-lanczos": Pillow on 8-bit images, bit for bit; whole numbers.

    Returns:
        float32 (n, c, height, width), in [0, 255] except for the overshoot of "bicubic-antialias". Where the size is
        the same, every method is the identity.

    Raises:
        UsageError: an unknown method.
        InputRejected: another dtype or number of axes.

    Source:
        TensorFlow 1 `resize_bilinear_op.cc`; Pillow `Resample.c`; Parmar et al. 2022 (clean-fid). `tests/parity`
        compares with torch-fidelity ("tf1", to 1e-4 of a grey level), clean-fid ("clean", to 1e-3) and Pillow.
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
    if method == "tf1":
        return _tf1(images, shape)
    if method == "nvidia":
        return _nvidia(images, shape)
    if method == "lanczos":
        return _filtered(images, shape, "lanczos").clamp(0, 255)
    if method.startswith("pil-"):
        return _pillow(images, shape, method.removeprefix("pil-"))
    if method.startswith("bilinear"):
        return _interpolated(images, shape, "bilinear", method == "bilinear-antialias")
    resized = _interpolated(images, shape, "bicubic", True)
    return resized.clamp_(0, 255) if method == "clean" else resized


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
