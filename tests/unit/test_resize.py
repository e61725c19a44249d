"""Every resize against the definition it is named after, written out in float64 loops, and against Pillow."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from genbench.errors import InputRejected, UsageError
from genbench.resize import METHODS, centre_crop, resize, resize_shorter

Weights = Callable[[int, int], NDArray[np.float64]]
SIZES = [((5, 7), (11, 3)), ((9, 4), (4, 9)), ((32, 32), (75, 75)), ((70, 141), (64, 90)), ((6, 6), (6, 10))]


def images(height: int, width: int, count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


def separably(values: NDArray[np.float64], size: tuple[int, int], weights: Weights) -> NDArray[np.float64]:
    """Applies the weights (target, source) of a rule to rows and columns."""
    rows, columns = weights(values.shape[2], size[0]), weights(values.shape[3], size[1])
    return np.einsum("th,nchw,sw->ncts", rows, values, columns, optimize=True)


def corner_aligned(source: int, target: int) -> NDArray[np.float64]:
    """TensorFlow 1: position i * in / out, neighbours below and above, the last pixel repeated."""
    out = np.zeros((target, source))
    for i in range(target):
        position = i * source / target
        low = math.floor(position)
        out[i, low] += 1 - (position - low)
        out[i, min(low + 1, source - 1)] += position - low
    return out


def half_pixel(source: int, target: int) -> NDArray[np.float64]:
    """Bilinear with half-pixel centres, the border repeated, no antialiasing."""
    out = np.zeros((target, source))
    for i in range(target):
        position = min(max((i + 0.5) * source / target - 0.5, 0.0), source - 1.0)
        low = math.floor(position)
        out[i, low] += 1 - (position - low)
        out[i, min(low + 1, source - 1)] += position - low
    return out


def widened(kernel: Callable[[float], float]) -> Weights:
    """A filter whose kernel is stretched when shrinking, normalised over the pixels inside the image."""

    def weights(source: int, target: int) -> NDArray[np.float64]:
        stretch = max(1.0, source / target)
        out = np.array(
            [[kernel((j + 0.5 - (i + 0.5) * source / target) / stretch) for j in range(source)] for i in range(target)]
        )
        return out / out.sum(axis=1, keepdims=True)

    return weights


def keys(x: float) -> float:
    """Keys 1981 eq. 4, a = -1/2."""
    a, x = -0.5, abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def lanczos3(x: float) -> float:
    return float(np.sinc(x) * np.sinc(x / 3)) if abs(x) < 3 else 0.0


def triangle(x: float) -> float:
    return max(1 - abs(x), 0.0)


# Name to weights, whether the result is clamped, and the tolerance in grey levels. The rules of TensorFlow, PyTorch and
# NVIDIA compute positions in float32, which costs more on noise than the sums do.
DEFINITIONS: dict[str, tuple[Weights, bool, float]] = {
    "tf1": (corner_aligned, False, 3e-3),
    "nvidia": (corner_aligned, False, 1e-2),
    "bilinear": (half_pixel, False, 5e-3),
    "bilinear-antialias": (widened(triangle), False, 5e-3),
    "bicubic-antialias": (widened(keys), False, 5e-3),
    "clean": (widened(keys), True, 2e-4),
    "lanczos": (widened(lanczos3), True, 2e-4),
}


@pytest.mark.parametrize("method", DEFINITIONS)
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_float_methods_follow_their_definitions(method: str, source: tuple[int, int], target: tuple[int, int]) -> None:
    weights, clamped, tolerance = DEFINITIONS[method]
    x = images(*source)
    expected = separably(x.numpy().astype(np.float64), target, weights)
    if clamped:
        expected = expected.clip(0, 255)
    found = resize(x, target, method)
    assert found.dtype == torch.float32 and found.shape == (2, 3, *target)
    assert np.abs(found.numpy() - expected).max() < tolerance
    # Floats in the same range are resized alike.
    assert torch.equal(resize(x.float(), target, method), found)


def test_definitions_and_pillow_cover_every_method() -> None:
    assert set(METHODS) == set(DEFINITIONS) | {"pil-bilinear", "pil-bicubic", "pil-lanczos"}


PILLOW = {
    "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS,
}  # fmt: skip


@pytest.mark.parametrize("kernel", PILLOW)
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((32, 32), (75, 75)), ((40, 40), (224, 224)), ((257, 301), (224, 224)), ((31, 31), (9, 9)),
        ((48, 55), (53, 45)), ((6, 6), (6, 10)), ((90, 20), (33, 20)),
    ],
)  # fmt: skip
def test_pil_methods_are_pillow_bit_for_bit(kernel: str, source: tuple[int, int], target: tuple[int, int]) -> None:
    """On shapes for which every version of Pillow resizes columns before rows."""
    x = images(*source, seed=1)
    # Hard edges make the negative lobes overshoot, so that clipping between the two passes is tested too.
    x[1] = (x[1] > 127) * 255
    found = resize(x, target, f"pil-{kernel}")
    for image, row in zip(x, found, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize(target[::-1], PILLOW[kernel])
        assert np.array_equal(row.permute(1, 2, 0).numpy(), np.asarray(picture))


@pytest.mark.parametrize(("kernel", "weights"), [("bicubic", widened(keys)), ("lanczos", widened(lanczos3))])
@pytest.mark.parametrize(("source", "target"), [((57, 27), (31, 59)), ((60, 16), (35, 11)), ((20, 44), (33, 30))])
def test_pil_methods_resize_columns_first(
    kernel: str, weights: Weights, source: tuple[int, int], target: tuple[int, int]
) -> None:
    """Pillow's integers by definition, in the order of every version before 13; on tall images 13 differs."""
    fixed, x = [], images(*source, seed=4).numpy().astype(object)
    for length, wanted in zip(source, target, strict=True):
        table = weights(length, wanted)
        fixed.append([[math.floor(abs(w) * 2**22 + 0.5) * (1 if w > 0 else -1) for w in row] for row in table])
    for axis, table in ((3, fixed[1]), (2, fixed[0])):
        sums = np.moveaxis(np.tensordot(x, np.array(table, dtype=object), axes=(axis, 1)), -1, axis)
        x = np.vectorize(lambda total: min(max((total + 2**21) >> 22, 0), 255), otypes=[object])(sums)
    assert np.array_equal(resize(images(*source, seed=4), target, f"pil-{kernel}").numpy(), x.astype(np.float32))


@pytest.mark.parametrize(("method", "kernel"), [("clean", "bicubic"), ("lanczos", "lanczos")])
def test_float_methods_agree_with_pillow_on_float_images(method: str, kernel: str) -> None:
    for source in ((32, 32), (100, 130), (301, 420)):
        x = images(*source, count=1, seed=2)
        found = resize(x, 299, method)[0, 0].numpy()
        picture = Image.fromarray(x[0, 0].numpy().astype(np.float32)).resize((299, 299), PILLOW[kernel])
        assert np.abs(found - np.asarray(picture).clip(0, 255)).max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_equal_size_is_the_identity_and_flat_images_stay_flat(method: str) -> None:
    x = images(13, 9)
    assert torch.equal(resize(x, (13, 9), method), x.float())
    flat = torch.full((1, 3, 21, 34), 173, dtype=torch.uint8)
    assert (resize(flat, 16, method) - 173).abs().max() < 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_images_do_not_depend_on_their_batch(method: str) -> None:
    for source, target in (((40, 31), 23), ((32, 32), 299), ((131, 64), 75)):
        x = images(*source, count=7)
        whole, shifted = resize(x, target, method), resize(x.flip(0)[1:].contiguous(), target, method)
        assert torch.equal(whole[:6], shifted.flip(0))
        assert torch.equal(whole[2:3], resize(x[2:3], target, method))


def test_wrong_input_is_named() -> None:
    with pytest.raises(UsageError, match="No resize 'nearest'; there are tf1, nvidia"):
        resize(images(4, 4), 8, "nearest")
    with pytest.raises(InputRejected, match="float64"):
        resize(images(4, 4).double(), 8, "tf1")
    with pytest.raises(InputRejected, match="8-bit"):
        resize(images(4, 4).float(), 8, "pil-bicubic")


@pytest.mark.parametrize("source", [(100, 130), (130, 100), (301, 300), (33, 33)])
@pytest.mark.parametrize(("side", "crop"), [(256, 224), (51, 46)])
def test_shorter_side_and_crop_are_those_of_torchvision(source: tuple[int, int], side: int, crop: int) -> None:
    x = images(*source, count=1, seed=3)
    found = centre_crop(resize_shorter(x, side, "pil-bilinear"), crop)
    picture = Image.fromarray(x[0].permute(1, 2, 0).numpy())
    expected = CenterCrop(crop)(Resize(side, InterpolationMode.BILINEAR)(picture))
    assert np.array_equal(found[0].permute(1, 2, 0).numpy(), np.asarray(expected))
