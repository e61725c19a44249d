"""The pixels themselves: no network, no weights. A Frechet distance on them sees colour and layout and no content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from genbench.contracts import Extractor
from genbench.errors import UsageError
from genbench.extractors.inference import check, extractor
from genbench.resize import resize as resized

VERSION = 1


def load(
    *,
    device: str = "cpu",
    precision: str = "float32",
    weights: Path | None = None,
    side: int = 32,
    resize: str = "clean",
) -> Extractor:
    """Makes an extractor whose features are the pixels themselves.

    Args:
        weights: has no meaning here and must be None.
        side: images are brought to side x side.
        resize: how; a method of `genbench.resize`.

    Returns:
        The tap "pooled" (3 side^2), in [0, 1], in (c, h, w) order. Grey images get three equal channels.

    Raises:
        UsageError: weights, or an argument out of range.
    """
    check(precision, resize)
    if weights is not None:
        raise UsageError(f"The extractor pixels has no weights; got {weights}.")
    if side < 1:
        raise UsageError(f"side is a positive number of pixels; got {side}.")

    def forward(images: Tensor, taps: Sequence[str]) -> Mapping[str, Tensor]:
        return {"pooled": resized(images, side, resize).flatten(1) / 255}

    return extractor(
        "pixels",
        VERSION,
        weights=None,
        precision="float32",
        args={"side": side, "resize": resize},
        widths={"pooled": 3 * side * side},
        forward=forward,
        device=device,
        block=256,
    )
