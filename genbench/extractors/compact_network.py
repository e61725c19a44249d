"""The network of the `compact` extractor, as small as 32x32 images allow.

It is a classifier of every generating factor of `shapes`, so that its pooled features move when any of them does.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

CLASSIFIED = {"label": 10, "colour": 8, "background": 8, "size": 3}
REGRESSED = {"x": 0.2, "y": 0.2, "turn": 0.3}
"""Continuous factors and the half width of their range, by which targets are scaled to [-1, 1]."""

_CHANNELS = ((32, 1), (64, 2), (96, 1), (128, 2), (128, 1))
POOLED = 64


class CompactNetwork(nn.Module):
    """Six convolutions with batch normalisation, 0.43 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        layers, channels = [], 3
        for out, stride in (*_CHANNELS, (POOLED, 2)):
            layers.append(
                nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
            )
            channels = out
        self.layers = nn.ModuleList(layers)
        self.heads = nn.ModuleDict({name: nn.Linear(POOLED, count) for name, count in CLASSIFIED.items()})
        self.position = nn.Linear(POOLED, len(REGRESSED))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps float32 (b, 3, 32, 32) in [-1, 1] to the taps.

        Returns:
            "pooled" (b, 64); "spatial" (b, 256), the first 4 channels of the last 8x8 layer in (h, w, c) order, as sFID
            takes its layer; "logits" (b, 10); the other heads under their factor's name; "position" (b, 3).
        """
        h = x
        for layer in self.layers[:-1]:
            h = layer(h)
        spatial = h[:, :4].permute(0, 2, 3, 1).flatten(1)
        pooled = self.layers[-1](h).mean(dim=(2, 3))
        taps = {name: head(pooled) for name, head in self.heads.items()}
        return {
            "pooled": pooled,
            "spatial": spatial,
            "logits": taps.pop("label"),
            "position": self.position(pooled),
        } | taps


def loss(taps: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of the classified factors plus squared error of the others, all with weight 1."""
    predicted = taps | {"label": taps["logits"]}
    total = sum(F.cross_entropy(predicted[name], targets[name]) for name in CLASSIFIED)
    return total + F.mse_loss(taps["position"], targets["position"])
