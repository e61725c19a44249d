"""`inception`: the network of 2015-12-05 with the resize and the scaling that a protocol asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from genbench.contracts import Classifier, Extractor
from genbench.errors import UsageError
from genbench.extractors.inception_network import SIDE, WIDTHS, InceptionNetwork, folded
from genbench.extractors.inference import blank, check, extractor
from genbench.resize import resize as resized
from genbench.weights import Card, load_into, load_state, resolve, sha256

VERSION = 1
SCALINGS = ("tf", "symmetric")
_CACHED = 8
"""Images at a time on the CPU: the layers of more do not stay in the cache, those of fewer wait for the weights."""


def card() -> Card:
    """Returns the card of the public weights.

    torch-fidelity publishes the same bytes as weights-inception-2015-12-05-6726825d.pth.
    """
    return Card(
        name="inception",
        file="pt_inception-2015-12-05-6726825d.pth",
        url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        bytes=95_628_359,
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        licence="Apache-2.0",
        note="TensorFlow's graph inception-2015-12-05, converted by pytorch-fid",
    )


def load(
    *,
    device: str = "cpu",
    precision: str = "float32",
    weights: Path | None = None,
    resize: str = "tf1",
    scaling: str = "tf",
) -> Extractor:
    """Loads the network.

    Args:
        precision: "float32" is folded and channels last, 1e-5 relative from "exact", which is the network as published.
        weights: a state dict with the names of the public file.
        resize: to 299x299, a method of `genbench.resize`: "tf1" for TTUR, ADM, torch-fidelity; "nvidia" for EDM;
            "clean" for clean-fid; "bilinear" for pytorch-fid and dgm-eval; "bilinear-antialias" for torchmetrics.
        scaling: "tf" is (x - 128) / 128 (the same list without pytorch-fid and dgm-eval); "symmetric" is 2 x / 255 - 1.

    Returns:
        Taps "pooled" (2048), "pool64", "pool192", "pool768", "spatial" (2023, of sFID), "logits" (1008, without bias)
        and "logits_biased" (1008); the network stops after the last one asked for. As a classifier it is the biased
        logits 1 to 1000, the classes of ImageNet in the order of their WordNet numbers; 0 and the last seven are none.

    Raises:
        UsageError, MissingAsset, InputRejected: of the arguments and the weights.

    Source:
        See `inception_network`; the resizes and scalings of the evaluators are compared in `tests/parity`.
    """
    check(precision, resize)
    if scaling not in SCALINGS:
        raise UsageError(f"The scaling of inception is {' or '.join(SCALINGS)}; got {scaling!r}.")
    path = resolve(card(), given=weights)
    network = blank(InceptionNetwork)
    load_into(network, load_state(path), origin=str(path))
    if precision == "float32":
        network = folded(network)
    network = network.to(device)

    def features(images: Tensor, taps: Sequence[str]) -> Mapping[str, Tensor]:
        x = resized(images, SIDE, resize)
        x = x.sub_(128).div_(128) if scaling == "tf" else x.div_(255).mul_(2).sub_(1)
        if precision == "float32":
            x = x.contiguous(memory_format=torch.channels_last)
        return network(x, taps)

    def forward(images: Tensor, taps: Sequence[str]) -> Mapping[str, Tensor]:
        if images.device.type != "cpu":
            return features(images, taps)
        parts = [features(part, taps) for part in images.split(_CACHED)]
        return {tap: torch.cat([part[tap] for part in parts]) for tap in taps}

    return extractor(
        "inception",
        VERSION,
        weights=sha256(path),
        precision=precision,
        args={"resize": resize, "scaling": scaling},
        widths=WIDTHS,
        forward=forward,
        device=device,
        block=32,
        classifier=Classifier(tap="logits_biased", offset=1, count=1000),
    )
