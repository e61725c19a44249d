"""`compact`: the shipped extractor, a small classifier of every generating factor of `shapes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from genbench.contracts import Classifier, Extractor
from genbench.extractors.compact_network import CLASSIFIED, POOLED, REGRESSED, CompactNetwork
from genbench.extractors.inference import blank, check, extractor, fold
from genbench.resize import resize
from genbench.weights import Card, load_into, load_state, resolve, sha256, shipped_card

VERSION = 1
SIDE = 32
CLASSES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "crescent", "heart", "arrow")
"""Classes of `shapes`, in the order of the logits."""


@cache
def card() -> Card:
    """Returns the card of the shipped weights."""
    return shipped_card("compact")


def load(*, device: str = "cpu", precision: str = "float32", weights: Path | None = None) -> Extractor:
    """Loads the network.

    Args:
        precision: "float32" with folded batch normalisation, or "exact".
        weights: of the same network, trained otherwise, None for those that are shipped.

    Returns:
        Taps "pooled" (64); "spatial" (256, in (h, w, c) order); "logits" (10) of the classes of `shapes`; "colour" (8),
        "background" (8) and "size" (3), logits likewise; "position" (3), the shape's x, y and turn scaled to [-1, 1].
        Images of any size are brought to 32x32 by "clean" and scaled to [-1, 1]; grey ones get three equal channels.

    Raises:
        UsageError, MissingAsset, InputRejected: of the arguments and the weights.
    """
    check(precision)
    path = resolve(card(), given=weights)
    network = blank(CompactNetwork)
    load_into(network, load_state(path), origin=str(path))
    if precision == "float32":
        network = _folded(network)
    network = network.to(device)

    def forward(images: Tensor, taps: Sequence[str]) -> Mapping[str, Tensor]:
        x = resize(images, SIDE, "clean") / 127.5 - 1
        if precision == "float32":
            x = x.contiguous(memory_format=torch.channels_last)
        return network(x)

    heads = {"logits" if name == "label" else name: count for name, count in CLASSIFIED.items()}
    return extractor(
        "compact",
        VERSION,
        weights=sha256(path),
        precision=precision,
        args={},
        widths={"pooled": POOLED, "spatial": 256, **heads, "position": len(REGRESSED)},
        forward=forward,
        device=device,
        block=128,
        classifier=Classifier(count=len(CLASSES), classes=CLASSES),
        made_for="" if weights else "shapes",
    )


def _folded(network: CompactNetwork) -> CompactNetwork:
    for i, layer in enumerate(network.layers):
        assert isinstance(layer, nn.Sequential)
        convolution, norm = layer[0], layer[1]
        assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        weight, bias = fold(convolution.weight, norm)
        convolution.weight, convolution.bias = nn.Parameter(weight), nn.Parameter(bias)
        network.layers[i] = nn.Sequential(convolution, nn.ReLU(inplace=True))
    return network.to(memory_format=torch.channels_last).requires_grad_(False)
