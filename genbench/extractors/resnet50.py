"""`resnet50`: ImageNet's features and classes, through torchvision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from genbench.contracts import Classifier, Extractor
from genbench.errors import UsageError
from genbench.extractors.inference import IMAGENET_MEAN, IMAGENET_STD, blank, check, extractor, fold, standardised
from genbench.resize import centre_crop, resize_shorter
from genbench.resize import resize as resized
from genbench.weights import Card, load_into, load_state, resolve, sha256

VERSION = 1
SIDE = 224
_URL = "https://download.pytorch.org/models/"
_CARDS = {
    "v1": (256, 102_530_333, "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a"),
    "v2": (232, 102_540_417, "11ad3fa62ca79e40addfd354a8ec4b7c75143b3038b8d2a807fbc68deab379ca"),
}
"""Recipe to the size of the shorter side, bytes and SHA-256; eight digits of the last are in the name."""


def card(recipe: str = "v2") -> Card:
    """Returns the card of torchvision's weights.

    Raises:
        UsageError: an unknown recipe.
    """
    if recipe not in _CARDS:
        raise UsageError(f"resnet50 was trained by the recipes {' and '.join(_CARDS)}; got {recipe!r}.")
    _, size, digest = _CARDS[recipe]
    file = f"resnet50-{digest[:8]}.pth"
    return Card(
        name="resnet50",
        file=file,
        url=_URL + file,
        bytes=size,
        sha256=digest,
        licence="BSD-3-Clause",
        note=f"torchvision's ResNet50_Weights.IMAGENET1K_{recipe.upper()}",
        fetch=f"resnet50(recipe='{recipe}')",
    )


def load(
    *,
    device: str = "cpu",
    precision: str = "float32",
    weights: Path | None = None,
    recipe: str = "v2",
    resize: str = "pil-bilinear",
    crop: bool = True,
) -> Extractor:
    """Loads the network.

    Args:
        precision: "float32" is folded and channels last, "exact" is the plain network.
        weights: a state dict with torchvision's names, made by `recipe`.
        recipe: "v1" (76.1 % top-1) or "v2" (80.9 %), after torchvision.
        resize: a method of `genbench.resize`.
        crop: resize the shorter side to 256 ("v1") or 232 ("v2") and crop the middle 224x224, as these networks are
            tested; else resize to 224x224.

    Returns:
        Taps "pooled" (2048) and "logits" (1000).

    Raises:
        UsageError, MissingAsset, InputRejected: of the arguments and the weights.

    Source:
        He et al. 2016; agrees with torchvision's network and its `ImageClassification` on Pillow images
        (`tests/parity`).
    """
    check(precision, resize)
    path = resolve(card(recipe), given=weights)
    from torchvision.models import resnet50

    network = blank(resnet50)
    load_into(network, load_state(path), origin=str(path))
    classifier, network.fc = network.fc.to(device), nn.Identity()
    layout = torch.contiguous_format
    if precision == "float32":
        layout = torch.channels_last
        _fold(network)
    network = network.to(device, memory_format=layout)
    shorter = _CARDS[recipe][0]

    def forward(images: Tensor, taps: Sequence[str]) -> Mapping[str, Tensor]:
        x = centre_crop(resize_shorter(images, shorter, resize), SIDE) if crop else resized(images, SIDE, resize)
        pooled = network(standardised(x, IMAGENET_MEAN, IMAGENET_STD).contiguous(memory_format=layout))
        return {"pooled": pooled, "logits": classifier(pooled)} if "logits" in taps else {"pooled": pooled}

    return extractor(
        "resnet50",
        VERSION,
        weights=sha256(path),
        precision=precision,
        args={"shorter": shorter if crop else None, "resize": resize},
        widths={"pooled": 2048, "logits": 1000},
        forward=forward,
        device=device,
        block=32,
        classifier=Classifier(count=1000),
    )


def _fold(network: nn.Module) -> None:
    """Folds every normalisation into the convolution before it; in torchvision's ResNet these are neighbours by
    name."""
    convolution = None
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d):
            convolution = module
        elif isinstance(module, nn.BatchNorm2d) and convolution is not None:
            weight, bias = fold(convolution.weight, module)
            convolution.weight, convolution.bias = (nn.Parameter(v, requires_grad=False) for v in (weight, bias))
            network.set_submodule(name, nn.Identity())
