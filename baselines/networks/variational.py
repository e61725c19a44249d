"""The networks of variational diffusion: a U-Net that sees fine differences of pixels, and a learned schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from baselines.networks.unet import UNet, UNetConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class VariationalConfig:
    """The architecture as data.

    Attributes:
        unet: its `in_channels` are 1 + 2 len(frequencies) times those of the images.
        frequencies: n of the features sin(2^n 2 pi z) and cos(2^n 2 pi z).
        hidden: units of the schedule.
        low, high: gamma at times 0 and 1 before training.
    """

    unet: UNetConfig
    frequencies: tuple[int, ...] = (6, 7)
    hidden: int = 1024
    low: float = -13.3
    high: float = 5.0

    def build(self) -> VariationalNetwork:
        """The networks with random weights."""
        return VariationalNetwork(self)


class FourierUNet(nn.Module):
    """A U-Net that is given sines and cosines of the pixels as well, so that differences below a grey level count.

    Source: Kingma et al. 2021 App. C; google-research/vdm `model_vdm.py:Base2FourierFeatures`.
    """

    exact_input = True
    """The image has to come in float32, whatever the precision of the weights: the sines turn 128 times over [0, 1]."""

    def __init__(self, config: UNetConfig, frequencies: tuple[int, ...]) -> None:
        super().__init__()
        self.unet, self.frequencies = UNet(config), frequencies

    @property
    def takes(self) -> frozenset[str]:
        """The conditions that it is called with."""
        return self.unet.takes

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Maps images (b, c, h, w), what it is told (b,) and labels (b,) to (b, out_channels, h, w)."""
        angles = [2**n * 2 * math.pi * x for n in self.frequencies]
        seen = torch.cat([x, *(f(angle) for angle in angles for f in (torch.sin, torch.cos))], dim=1)
        return self.unet(seen.to(self.unet.head.weight.dtype), t, y)


class MonotoneSchedule(nn.Module):
    """gamma(t) = -log SNR, rising from `ends[0]` at t = 0 to `ends[1]` at t = 1 as a monotone network says.

    Source: Kingma et al. 2021 App. H; google-research/vdm `model_vdm.py:NoiseSchedule_NNet`. Its weights enter as
    absolute values, and the slope of the first, linear layer is that of all of gamma, so that it begins linear.
    """

    def __init__(self, hidden: int, low: float, high: float) -> None:
        super().__init__()
        self.ends = nn.Parameter(torch.tensor([low, high]))
        self.slope = nn.Parameter(torch.tensor(1.0))
        self.inner = nn.Parameter(torch.randn(hidden))
        self.shift = nn.Parameter(torch.randn(hidden))
        self.outer = nn.Parameter(torch.randn(hidden) * 0.01)

    def share(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """How much of the way from gamma(0) to gamma(1) is done at times (b,), and its derivative, both (b,)."""

        def raw(t: Tensor) -> Tensor:
            hidden = torch.sigmoid(self.inner.abs() * 2 * (t[:, None] - 0.5) + self.shift)
            return self.slope.abs() * t + (self.outer.abs() * 2 * hidden).mean(1)

        hidden = torch.sigmoid(self.inner.abs() * 2 * (time[:, None] - 0.5) + self.shift)
        rate = self.slope.abs() + (self.outer.abs() * self.inner.abs() * 4 * hidden * (1 - hidden)).mean(1)
        first, last = raw(torch.tensor([0.0, 1.0], dtype=time.dtype, device=time.device))
        return (raw(time) - first) / (last - first), rate / (last - first)

    def forward(self, time: Tensor) -> Tensor:
        """gamma at times (b,)."""
        return self.ends[0] + (self.ends[1] - self.ends[0]) * self.share(time)[0]


class VariationalNetwork(nn.Module):
    """Both networks, which are trained together."""

    def __init__(self, config: VariationalConfig) -> None:
        super().__init__()
        self.config = config
        self.denoiser = FourierUNet(config.unet, config.frequencies)
        self.schedule = MonotoneSchedule(config.hidden, config.low, config.high)

    @property
    def roles(self) -> dict[str, nn.Module]:
        """The networks that one file of such weights holds, by their roles in a system."""
        return {"unet": self.denoiser, "schedule": self.schedule}


KINDS = {"variational": VariationalConfig}
