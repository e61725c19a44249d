"""How close a restored or upscaled image is to the image it came from, pair by pair.

Image i of both sides belong together. Every metric is the mean of one number a pair, and its standard error that
of a mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from genbench.arrays import Evidence, Images
from genbench.contracts import Metric
from genbench.errors import NotComparable, UsageError
from genbench.metrics import arguments
from genbench.records import Score
from genbench.uncertainty import NONNEGATIVE, score_from_mean

Array = NDArray[np.float64]

RANGE = 255.0
WINDOW, SIGMA = 11, 1.5
LUMINANCE, CONTRAST = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
BORDERS = ("reflect", "valid")
SR3_UNIT = 1e-5
SIMILARITY, ERRORS = (-1.0, 1.0), (0.0, 1 / SR3_UNIT)

_BATCH = 32


def _check_counts(generated: Evidence, reference: Evidence) -> None:
    x, y = generated.samples, reference.samples
    if x.count != y.count:
        raise NotComparable(
            f"Pairs need as many images on both sides; {x.origin} has {x.count} and {y.origin} has {y.count}."
        )


def _pairs(generated: Evidence, reference: Evidence) -> Iterator[tuple[Images, Images]]:
    _check_counts(generated, reference)
    x, y = generated.samples, reference.samples
    return zip(x.batches(_BATCH), y.batches(_BATCH), strict=True)


def _same_shape(x: Images, y: Images) -> None:
    if x.shape != y.shape:
        raise NotComparable(f"Images of {x.shape[1:]} and {y.shape[1:]} cannot be compared pixel by pixel.")


def signal_to_noise(x: Images, y: Images) -> Array:
    """Peak signal-to-noise ratio of every pair, in decibels: 10 log10(255^2 / mean squared difference).

    Args:
        x, y: uint8 (n, c, h, w).

    Returns:
        float64 (n,). A pair without any difference has that of a pair that differs by one step in one value, the
        largest that 8-bit images of this size can have otherwise, so that means stay finite.

    Raises:
        NotComparable: shapes that differ.
    """
    _same_shape(x, y)
    error = ((x.astype(np.float64) - y) ** 2).mean(axis=(1, 2, 3))
    return 10 * np.log10(RANGE**2 / np.maximum(error, 1 / x[0].size))


def psnr(*, generated: Evidence, reference: Evidence) -> Score:
    """Mean peak signal-to-noise ratio of the pairs, in decibels, over all channels.

    `detail` holds the number of identical pairs, whose ratio would be infinite. See `signal_to_noise`.

    Raises:
        NotComparable: other counts or shapes.

    Source:
        The usual definition; agrees with torchmetrics `peak_signal_noise_ratio(data_range=255, dim=(1, 2, 3))` where no
        pair is identical. Its default instead takes one ratio of all images' errors together.
    """
    values, identical = [], 0
    for x, y in _pairs(generated, reference):
        values.append(signal_to_noise(x, y))
        identical += int((x == y).all(axis=(1, 2, 3)).sum())
    return score_from_mean(np.concatenate(values), bounds=NONNEGATIVE, detail={"identical": float(identical)})


def structural_similarity(x: Images, y: Images, *, border: str = "reflect", device: str = "cpu") -> Array:
    """Structural similarity of every pair, over all channels and positions.

    Args:
        x, y: uint8 (n, c, h, w), h and w at least 6 ("reflect") or 11 ("valid").
        border: "reflect" continues the images by reflection, so that every pixel has a window (torchmetrics); "valid"
            takes only windows inside the image (Wang's own code).
        device: of torch.

    Returns:
        float64 (n,), in [-1, 1].

    Raises:
        UsageError: another border.
        NotComparable: shapes that differ, or images smaller than the window.

    Source:
        Wang et al. 2004, eq. 13, with the Gaussian window of 11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03, range 255.
    """
    if border not in BORDERS:
        raise UsageError(f"ssim has no border {border!r}; there are {' and '.join(BORDERS)}.")
    _same_shape(x, y)
    margin = WINDOW // 2
    smallest = margin + 1 if border == "reflect" else WINDOW
    if min(x.shape[2:]) < smallest:
        raise NotComparable(
            f"ssim with border={border!r} needs images of at least {smallest} pixels; got {x.shape[2:]}."
        )
    # float64, because the variance in a window is a difference of squares of up to 65025.
    a, b = (torch.from_numpy(np.array(z)).to(device).double() for z in (x, y))
    if border == "reflect":
        a, b = (functional.pad(z, (margin,) * 4, mode="reflect") for z in (a, b))
    mean_a, mean_b, square_a, square_b, product = (_windowed(z) for z in (a, b, a * a, b * b, a * b))
    luminance = (2 * mean_a * mean_b + LUMINANCE) / (mean_a**2 + mean_b**2 + LUMINANCE)
    variances = (square_a - mean_a**2).clamp(min=0) + (square_b - mean_b**2).clamp(min=0)
    structure = (2 * (product - mean_a * mean_b) + CONTRAST) / (variances + CONTRAST)
    return (luminance * structure).mean(dim=(1, 2, 3)).cpu().numpy()  # eq. 13, then the mean of windows


def _windowed(x: Tensor) -> Tensor:
    """Gaussian-weighted means of the windows that lie inside (n, c, h, w)."""
    weights = np.exp(-(((np.arange(WINDOW) - WINDOW // 2) / SIGMA) ** 2) / 2)
    weights /= weights.sum()
    for axis in (2, 3):
        # A sum of shifted images: torch's convolutions of one channel are slow in float64.
        size = x.shape[axis] - WINDOW + 1
        parts = (float(weight) * x.narrow(axis, i, size) for i, weight in enumerate(weights))
        x = sum(parts, start=torch.zeros((), dtype=x.dtype, device=x.device))
    return x


def ssim(*, generated: Evidence, reference: Evidence, border: str = "reflect", device: str = "cpu") -> Score:
    """Mean structural similarity of the pairs. Arguments, errors and source as `structural_similarity`.

    Agrees with torchmetrics `structural_similarity_index_measure(data_range=255)`.
    """
    values = [structural_similarity(x, y, border=border, device=device) for x, y in _pairs(generated, reference)]
    return score_from_mean(np.concatenate(values), bounds=SIMILARITY)


def box_downsampled(images: NDArray[np.generic], factor: int) -> Array:
    """Means over squares of factor x factor pixels: (n, c, h, w) to float64 (n, c, h / factor, w / factor).

    Raises:
        NotComparable: a factor that does not divide the size.
    """
    n, c, h, w = images.shape
    if factor < 1 or h % factor or w % factor:
        raise NotComparable(f"Images of {h}x{w} pixels cannot be reduced {factor} times; the factor must divide both.")
    cut = images.reshape(n, c, h // factor, factor, w // factor, factor)
    return cut.mean(axis=(3, 5), dtype=np.float64)


def consistency(*, generated: Evidence, reference: Evidence, factor: int = 4) -> Score:
    """Mean squared difference between upscaled images, reduced again, and the low-resolution images they came from.

    In units of 1e-5, of pixels in [0, 1]. Low-resolution images of 8 bits are themselves rounded, so that a perfect
    result is about 0.13 against them, not 0.

    Args:
        factor: of upscaling. A reference as large as the generated images is reduced as well, and must be what the
            low-resolution images were made from by the mean of squares; one that is `factor` times smaller is taken for
            the low-resolution images.

    Raises:
        NotComparable: other counts, a factor that does not divide the size, or a reference of a third size.

    Source:
        Saharia et al. 2021 (SR3), column "Consistency", mean squared error in 1e-5. The mean of squares and the range
        [0, 1] are this project's choice, so that published digits need not be met.
    """
    values = []
    for x, y in _pairs(generated, reference):
        low = box_downsampled(x, factor)
        target = box_downsampled(y, factor) if y.shape == x.shape else y.astype(np.float64)
        if low.shape != target.shape:
            raise NotComparable(
                f"Images of {x.shape[1:]} reduced {factor} times are {low.shape[1:]}; the reference is {y.shape[1:]}."
            )
        values.append(((low - target) ** 2).mean(axis=(1, 2, 3)) / RANGE**2 / SR3_UNIT)
    return score_from_mean(np.concatenate(values), bounds=ERRORS)


def lpips(*, generated: Evidence, reference: Evidence) -> Score:
    """Mean LPIPS of the pairs, as the extractor `lpips` compares them, 0 for equal images.

    Images are compared at their own size, on AlexNet, unless the extractor is told otherwise: `lpips@lpips(network=
    'vgg')`, `lpips@lpips(size=64)`.

    Raises:
        NotComparable: other counts.

    Source:
        Zhang et al. 2018, eq. 1; agrees with the package `lpips` 0.1 and torchmetrics (`tests/parity`).
    """
    _check_counts(generated, reference)
    return score_from_mean(generated.features("lpips").values()[:, 0], bounds=NONNEGATIVE)


PSNR = Metric(
    name="psnr",
    summary="mean peak signal-to-noise ratio of pairs, in decibels",
    source="the usual definition; agrees with torchmetrics image by image",
    compute=psnr,
    check=arguments.pairs,
    taps=(),
    images=True,
    paired=True,
    floor=None,
    higher_is_better=True,
    bounds=NONNEGATIVE,
    minimum=1,
)

SSIM = Metric(
    name="ssim",
    summary="mean structural similarity of pairs",
    source="Wang et al. 2004, doi:10.1109/TIP.2003.819861; agrees with torchmetrics",
    compute=ssim,
    check=partial(arguments.windows, borders=BORDERS, window=WINDOW),
    taps=(),
    images=True,
    paired=True,
    floor=None,
    higher_is_better=True,
    bounds=SIMILARITY,
    minimum=1,
)

CONSISTENCY = Metric(
    name="consistency",
    summary="mean squared error of upscaled images, reduced again, in 1e-5",
    source="Saharia et al. 2021, arXiv:2104.07636, table 1",
    compute=consistency,
    check=arguments.reduced,
    taps=(),
    images=True,
    paired=True,
    floor=None,
    higher_is_better=False,
    bounds=ERRORS,
    minimum=1,
)

LPIPS = Metric(
    name="lpips",
    summary="mean perceptual distance of pairs",
    source="Zhang et al. 2018, arXiv:1801.03924; agrees with the package lpips and with torchmetrics",
    compute=lpips,
    taps=("lpips",),
    extractor="lpips",
    paired=True,
    pairwise=True,
    floor=None,
    higher_is_better=False,
    bounds=NONNEGATIVE,
    minimum=1,
    invariances=frozenset(),
)
