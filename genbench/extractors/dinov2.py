"""`dinov2`: the class token of the self-supervised transformers on which FD-DINOv2 is defined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from genbench.contracts import Extractor
from genbench.errors import InputRejected, UsageError, nearest
from genbench.extractors.inference import IMAGENET_MEAN, IMAGENET_STD, blank, check, extractor, standardised
from genbench.resize import resize as resized
from genbench.weights import Card, State, load_into, load_state, resolve, sha256

VERSION = 1
SIDE, PATCH = 224, 14
_GRID = SIDE // PATCH
# Letter in the public file names, width, bytes and SHA-256, where they are known.
_CARDS: dict[str, tuple[str, int, int | None, str | None]] = {
    "vit_small_patch14_dinov2": (
        "s", 384, 88_283_115, "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
    ),
    "vit_base_patch14_dinov2": (
        "b", 768, 346_378_731, "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    ),
    "vit_large_patch14_dinov2": (
        "l", 1024, 1_217_586_395, "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    ),
    "vit_giant_patch14_dinov2": ("g", 1536, None, None),
}  # fmt: skip


def card(architecture: str = "vit_large_patch14_dinov2") -> Card:
    """Returns the card of Meta's weights.

    Raises:
        UsageError: an unknown architecture.
    """
    if architecture not in _CARDS:
        raise UsageError(f"No DINOv2 architecture {architecture!r}. {nearest(architecture, _CARDS)}")
    letter, _, size, digest = _CARDS[architecture]
    name = f"dinov2_vit{letter}14"
    return Card(
        name="dinov2",
        file=f"{name}_pretrain.pth",
        bytes=size,
        sha256=digest,
        licence="Apache-2.0",
        url=f"https://dl.fbaipublicfiles.com/dinov2/{name}/{name}_pretrain.pth",
        note="Meta, trained on LVD-142M",
        fetch=f"dinov2(architecture='{architecture}')",
    )


def load(
    *,
    device: str = "cpu",
    precision: str = "float32",
    weights: Path | None = None,
    architecture: str = "vit_large_patch14_dinov2",
    resize: str = "pil-bicubic",
) -> Extractor:
    """Loads the network.

    Args:
        precision: "exact" computes attention by its definition, "float32" by what is fastest on the device.
        weights: a state dict in Meta's format, positions of 37x37 patches included.
        architecture: a name of timm: vit_small, vit_base, vit_large or vit_giant, each with _patch14_dinov2.
        resize: to 224x224 whatever the shape, a method of `genbench.resize`: "pil-bicubic" for dgm-eval and its
            leaderboard, "bicubic-antialias" for EDM2.

    Returns:
        The tap "pooled": the class token after the last normalisation, 384, 768, 1024 or 1536 wide.

    Raises:
        UsageError, MissingAsset, InputRejected: of the arguments and the weights.

    Source:
        Oquab et al. 2023; Stein et al. 2023 (dgm-eval). Positions are interpolated as facebookresearch/dinov2 does, by
        a factor of (16 + 0.1) / 37 without antialiasing; timm itself interpolates otherwise.
    """
    check(precision, resize)
    path = resolve(card(architecture), given=weights)
    from timm import create_model

    network: Any = blank(lambda: create_model(architecture, pretrained=False, img_size=SIDE, num_classes=0))
    load_into(network, converted(load_state(path)), origin=str(path))
    network = network.to(device)

    def forward(images: Tensor, taps: Sequence[str]) -> Mapping[str, Tensor]:
        x = standardised(resized(images, SIDE, resize), IMAGENET_MEAN, IMAGENET_STD)
        with sdpa_kernel(SDPBackend.MATH) if precision == "exact" else nullcontext():
            return {"pooled": network.forward_features(x)[:, 0]}

    return extractor(
        "dinov2",
        VERSION,
        weights=sha256(path),
        precision=precision,
        args={"architecture": architecture, "resize": resize},
        widths={"pooled": _CARDS[architecture][1]},
        forward=forward,
        device=device,
        block=32,
    )


def converted(state: State) -> dict[str, Tensor]:
    """Meta's state dict under timm's names, with positions for images of 224x224.

    Raises:
        InputRejected: no positions on a square grid.
    """
    renamed = {}
    for name, value in state.items():
        if name != "mask_token":
            renamed[name.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")] = value
    positions = renamed.get("pos_embed")
    side = round((positions.shape[1] - 1) ** 0.5) if positions is not None and positions.ndim == 3 else 0
    if positions is None or side * side + 1 != positions.shape[1]:
        raise InputRejected("These weights hold no pos_embed on a square grid of patches; DINOv2's files have 37x37.")
    if side != _GRID:
        patches = positions[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        factor = (_GRID + 0.1) / side
        patches = F.interpolate(patches, scale_factor=(factor, factor), mode="bicubic")
        renamed["pos_embed"] = torch.cat([positions[:, :1].float(), patches.flatten(2).mT], 1)
    return renamed
