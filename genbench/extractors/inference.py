"""What the extractors share: their key, their arithmetic, and the way from 8-bit images to a network's input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from genbench.arithmetic import float32
from genbench.contracts import Classifier, Extractor
from genbench.errors import InputRejected, UsageError
from genbench.resize import METHODS
from genbench.weights import extractor_key

PRECISIONS = ("float32", "exact")
ON_GPU = 4
"""Times as many images a call on a GPU, so that launching kernels costs little beside them."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Network = TypeVar("Network", bound=nn.Module)


def check(precision: str, resize: str | None = None) -> None:
    """Raises a UsageError for arguments that no extractor has.

    Args:
        precision: "float32" is the fast path, with batch normalisation folded into convolutions and the memory layout
            that the machine likes best; "exact" is the plain network in float32. They agree to 1e-4 relative or better.
        resize: a method of `genbench.resize`.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"Extractors compute in precision {' or '.join(PRECISIONS)}; got {precision!r}.")
    if resize is not None and resize not in METHODS:
        raise UsageError(f"No resize {resize!r}; there are {', '.join(METHODS)}.")


def blank(make: Callable[[], Network]) -> Network:
    """A network without values, on the CPU: nothing is drawn from torch's global random state, and no time is lost.

    Not for networks with buffers that are no part of their state dict.
    """
    with torch.device("meta"):
        network = make()
    return network.to_empty(device="cpu")


def rgb(images: Tensor, device: str) -> Tensor:
    """The images on the device, uint8 (n, 3, h, w); grey images get three equal channels.

    Raises:
        InputRejected: anything but uint8 (n, 1 or 3, h, w).
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputRejected(f"Images are uint8 (n, 1 or 3, h, w); got {images.dtype} {tuple(images.shape)}.")
    return images.to(device).expand(-1, 3, -1, -1)


def extractor(
    name: str,
    version: int,
    *,
    weights: str | None,
    precision: str,
    args: Mapping[str, Any],
    widths: Mapping[str, int],
    forward: Callable[[Tensor, Sequence[str]], Mapping[str, Tensor]],
    device: str,
    block: int,
    embed_captions: Callable[[Sequence[str]], Tensor] | None = None,
    classifier: Classifier | None = None,
    made_for: str = "",
) -> Extractor:
    """Puts an extractor together.

    Args:
        name, version: of the code; the version is raised when a feature may change.
        weights: SHA-256 of the weight file, None without one.
        args: everything else that may change a feature.
        forward: forward(images, taps) with uint8 (n, 3, h, w) on the device; called without gradients, in `float32`.
        block: images a call on a CPU.
        classifier, made_for: as `contracts.Extractor` says; neither changes a feature.
    """

    def embed(images: Tensor, taps: Sequence[str]) -> Mapping[str, Tensor]:
        unknown = [tap for tap in taps if tap not in widths]
        if unknown:
            raise UsageError(f"The extractor {name} has no tap {unknown[0]!r}; there are {', '.join(widths)}.")
        with float32(), torch.no_grad():
            found = forward(rgb(images, device), taps)
            return {tap: found[tap].float() for tap in taps}

    key = extractor_key(name, version, weights, precision, args)
    return Extractor(
        key=key,
        widths=dict(widths),
        embed=embed,
        embed_captions=embed_captions,
        block=block * (ON_GPU if device.startswith("cuda") else 1),
        classifier=classifier,
        made_for=made_for,
    )


def fold(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of one convolution that does what a convolution without bias and a normalisation in inference do.

    Computed in float64, so that the only rounding is that of the result.
    """
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * scale
    return (weight.double() * scale[:, None, None, None]).float(), bias.float()


def standardised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images in [0, 255] scaled to [0, 1], then to zero mean and unit deviation of the training set, per channel."""
    shift, scale = (torch.tensor(values, device=images.device)[:, None, None] for values in (mean, std))
    return (images / 255 - shift) / scale
