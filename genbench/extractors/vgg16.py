"""`vgg16`: the second fully connected layer, in which improved precision and recall were first measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from genbench.contracts import Extractor
from genbench.extractors.inference import IMAGENET_MEAN, IMAGENET_STD, blank, check, extractor, standardised
from genbench.resize import resize as resized
from genbench.weights import Card, load_into, load_state, resolve, sha256

VERSION = 1
SIDE = 224
POOLED = 4096


def card() -> Card:
    """Returns the card of torchvision's weights."""
    return Card(
        name="vgg16",
        file="vgg16-397923af.pth",
        url="https://download.pytorch.org/models/vgg16-397923af.pth",
        bytes=553_433_881,
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        licence="BSD-3-Clause",
        note="torchvision's VGG16_Weights.IMAGENET1K_V1",
    )


def load(
    *, device: str = "cpu", precision: str = "float32", weights: Path | None = None, resize: str = "tf1"
) -> Extractor:
    """Loads the network.

    Args:
        precision: "float32" is channels last, "exact" is the plain network.
        weights: a state dict with torchvision's names.
        resize: to 224x224, a method of `genbench.resize`.

    Returns:
        The tap "pooled" (4096): fc2 after its rectifier.

    Raises:
        UsageError, MissingAsset, InputRejected: of the arguments and the weights.

    Source:
        Kynkaanniemi et al. 2019 use another training of the same network (from Caffe), which is published as a pickle
        only, so their digits cannot be met; this agrees with torch-fidelity's "vgg16" (`tests/parity`).
    """
    check(precision, resize)
    path = resolve(card(), given=weights)
    from torchvision.models import vgg16

    network = blank(lambda: vgg16(init_weights=False))
    load_into(network, load_state(path), origin=str(path))
    network.classifier = network.classifier[:5]
    layout = torch.channels_last if precision == "float32" else torch.contiguous_format
    network = network.to(device, memory_format=layout)

    def forward(images: Tensor, taps: Sequence[str]) -> Mapping[str, Tensor]:
        x = standardised(resized(images, SIDE, resize), IMAGENET_MEAN, IMAGENET_STD)
        return {"pooled": network(x.contiguous(memory_format=layout))}

    return extractor(
        "vgg16",
        VERSION,
        weights=sha256(path),
        precision=precision,
        args={"resize": resize},
        widths={"pooled": POOLED},
        forward=forward,
        device=device,
        block=32,
    )
