"""The network of the first diffusion models: convolutions on several scales, and outputs that are smooth in time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiScaleConfig:
    """The architecture as data.

    Attributes:
        channels: of the images.
        width: channels of every layer.
        layers: multi-scale convolutions.
        scales: resolutions of each of them, every one half of the one before.
        bumps: functions of time whose weights the network predicts.
        steps: of the process, over which the bumps are spread.
    """

    channels: int = 3
    width: int = 32
    layers: int = 3
    scales: int = 3
    bumps: int = 10
    steps: int = 1000

    def build(self) -> MultiScale:
        """The network with random weights."""
        return MultiScale(self)


class MultiScaleConvolution(nn.Module):
    """The mean of convolutions of an image at several resolutions. Source: Sohl-Dickstein et al. 2015 App. D.2.1."""

    def __init__(self, channels: int, out_channels: int, scales: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, out_channels, 3, padding=1) for _ in range(scales))

    def forward(self, x: Tensor) -> Tensor:
        total = self.convs[0](x)
        for scale, conv in enumerate(list(self.convs)[1:], 1):
            small = conv(F.avg_pool2d(x, 2**scale))
            total = total + F.interpolate(small, scale_factor=float(2**scale), mode="nearest")
        return total / len(self.convs)


class MultiScale(nn.Module):
    """Predicts the drift of a reverse step and the raw value of its variance, for every pixel.

    Source:
        Sohl-Dickstein et al. 2015 App. D.2; Sohl-Dickstein/Diffusion-Probabilistic-Models `model.py`, `regression.py`.
        Differs: without the dense network beside the convolutions.
    """

    def __init__(self, config: MultiScaleConfig) -> None:
        super().__init__()
        self.config = c = config
        self.scales = nn.ModuleList(
            MultiScaleConvolution(c.width if i else c.channels, c.width, c.scales) for i in range(c.layers)
        )
        self.pixel = nn.Conv2d(c.width, c.width, 1)
        self.head = nn.Conv2d(c.width, 2 * c.bumps * c.channels, 1)

    @property
    def takes(self) -> frozenset[str]:
        """The conditions that it is called with: none."""
        return frozenset()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Maps images (b, c, h, w) of zero mean and unit variance and timesteps (b,) to (b, 2 c, h, w)."""
        h = x
        for layer in self.scales:
            h = F.leaky_relu(layer(h), 0.05)
        h = self.head(F.leaky_relu(self.pixel(h), 0.05))
        weights = h.unflatten(1, (2 * self.config.channels, self.config.bumps))
        return torch.einsum("bckhw,bk->bchw", weights, self.bumps(t).to(h.dtype))

    def bumps(self, t: Tensor) -> Tensor:
        """The functions of time at timesteps (b,), which sum to 1: float32 (b, bumps). Source: eq. in App. D.2.2."""
        centres = torch.linspace(0.0, 1.0, self.config.bumps, device=t.device)
        width = 0.5 / (self.config.bumps - 1)
        return torch.softmax(-((t.float()[:, None] / self.config.steps - centres) ** 2) / (2 * width**2), dim=1)


KINDS = {"multiscale": MultiScaleConfig}
