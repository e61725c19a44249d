"""NCSN and NCSNv2: the RefineNets of the first score models, which know a noise level by its norms or not at all.

An encoder of residual blocks halves the resolution and then, in its last two stages, dilates its convolutions instead.
From the last stage to the first, refinements join the features of a stage with what came out of the one behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineNetConfig:
    """The architecture as data. The defaults are NCSNv2's network of CIFAR-10.

    Attributes:
        channels: of the images.
        width: channels of the first stage.
        multipliers: channels of each stage, as multiples of `width`. Every stage but the first and the last two, which
            dilate their convolutions by 2 and 4, halves the resolution.
        levels: how many noise levels the norms know (NCSN), None for a network that is told nothing (NCSNv2). It also
            decides what is output: the score (NCSN), or the score times sigma.
        centered: whether the network was trained on images in [-1, 1]. Others, on [0, 1], are given here what all
            networks are given, images in [-1, 1], and return the score of those.
    """

    channels: int = 3
    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    levels: int | None = None
    centered: bool = False

    def build(self) -> RefineNet:
        """The network with random weights."""
        return RefineNet(self)

    @property
    def dilations(self) -> tuple[int, ...]:
        """Dilation of the convolutions of each stage, 1 for none."""
        return (*[1] * (len(self.multipliers) - 2), 2, 4)


class InstanceNorm(nn.Module):
    """Instance normalisation that keeps, with a weight, how far the mean of a channel is from the mean of all.

    Source: Song and Ermon 2019 App. A (instance normalization++); 2020 sec. 3.1 without levels.
    """

    def __init__(self, channels: int, levels: int | None) -> None:
        super().__init__()
        # For every level: scales, weights of the means, shifts.
        self.table = nn.Embedding(levels or 1, 3 * channels)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Maps (b, channels, h, w) and int64 (b,) to (b, channels, h, w)."""
        scale, weight, shift = self.table(level)[:, :, None, None].chunk(3, dim=1)
        means = x.mean(dim=(2, 3), keepdim=True)
        spread = means.var(dim=1, keepdim=True)  # over the channels, of a sample: divided by their number less one
        means = (means - means.mean(dim=1, keepdim=True)) / (spread + 1e-5).sqrt()
        return scale * (F.instance_norm(x) + weight * means) + shift


def _conv(channels: int, out: int, *, bias: bool = False, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=dilation, dilation=dilation, bias=bias)


class Residual(nn.Module):
    """Norm, ELU, convolution, twice; the first block of a stage changes channels, and halves or dilates."""

    def __init__(self, c: RefineNetConfig, channels: int, out: int, *, first: bool, dilation: int) -> None:
        super().__init__()
        self.halves = first and dilation == 1
        self.norm1, self.conv1 = (
            InstanceNorm(channels, c.levels),
            _conv(channels, channels, bias=True, dilation=dilation),
        )
        self.norm2, self.conv2 = InstanceNorm(channels, c.levels), _conv(channels, out, bias=True, dilation=dilation)
        self.skip: nn.Module = nn.Identity()
        if first:
            self.skip = (
                nn.Conv2d(channels, out, 1) if self.halves else _conv(channels, out, bias=True, dilation=dilation)
            )

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Maps (b, channels, h, w) and int64 (b,) to (b, out, h', w')."""
        h = self.conv1(F.elu(self.norm1(x, level)))
        h = self.conv2(F.elu(self.norm2(h, level)))
        x = self.skip(x)
        return F.avg_pool2d(x, 2) + F.avg_pool2d(h, 2) if self.halves else x + h


class Units(nn.Module):
    """Residual units of two convolutions each."""

    def __init__(self, c: RefineNetConfig, channels: int, count: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(channels, channels) for _ in range(2 * count))
        self.norms = _norms(c, [channels] * (2 * count))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Maps (b, channels, h, w) and int64 (b,) to (b, channels, h, w)."""
        before = x
        for i, conv in enumerate(self.convs):
            x = conv(F.elu(self.norms[i](x, level) if self.norms else x))
            if i % 2:
                before = x = x + before
        return x


def _norms(c: RefineNetConfig, channels: list[int]) -> nn.ModuleList:
    """Norms of an NCSN; an NCSNv2 has none between its refinements."""
    return nn.ModuleList(InstanceNorm(each, c.levels) for each in channels if c.levels is not None)


class Refinement(nn.Module):
    """Joins feature maps at the resolution of the first one. Source: Lin et al. 2017 (RefineNet) sec. 3.2."""

    def __init__(self, c: RefineNetConfig, channels: list[int], out: int, *, count: int) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(Units(c, each, 2) for each in channels)
        joined = channels if len(channels) > 1 else []
        self.convs = nn.ModuleList(_conv(each, out, bias=True) for each in joined)
        self.norms = _norms(c, joined)
        self.pools = nn.ModuleList(_conv(out, out) for _ in range(2))
        self.pool_norms = _norms(c, [out, out])
        self.outputs = Units(c, out, count)

    def forward(self, maps: list[Tensor], level: Tensor) -> Tensor:
        """Maps feature maps (b, channels of each, h', w') to (b, out, h, w) of the first one."""
        found = [unit(h, level) for unit, h in zip(self.inputs, maps, strict=True)]
        if self.convs:
            shape, x = maps[0].shape[2:], torch.zeros((), dtype=maps[0].dtype, device=maps[0].device)
            for i, (conv, h) in enumerate(zip(self.convs, found, strict=True)):
                h = conv(self.norms[i](h, level) if self.norms else h)
                x = x + F.interpolate(h, size=shape, mode="bilinear", align_corners=True)
        else:
            x = found[0]
        path = x = F.elu(x)
        for i, conv in enumerate(self.pools):
            if self.pool_norms:
                path = conv(F.avg_pool2d(self.pool_norms[i](path, level), 5, stride=1, padding=2))
            else:
                path = conv(F.max_pool2d(path, 5, stride=1, padding=2))
            x = x + path
        return self.outputs(x, level)


class RefineNet(nn.Module):
    """Predicts the score (NCSN) or the score times sigma (NCSNv2) of a noisy image.

    Source:
        Song and Ermon 2019 App. A, 2020 App. B; ermongroup/ncsn `models/cond_refinenet_dilated.py`, ermongroup/ncsnv2
        `models/ncsnv2.py`. The output is equal to that of the originals with their weights (`tests/parity`).
    """

    takes: frozenset[str] = frozenset()

    def __init__(self, config: RefineNetConfig) -> None:
        super().__init__()
        self.config = c = config
        widths = [multiple * c.width for multiple in c.multipliers]
        self.stem = _conv(c.channels, c.width, bias=True)
        self.stages = nn.ModuleList()
        channels = c.width
        for i, (out, dilation) in enumerate(zip(widths, c.dilations, strict=True)):
            first = Residual(c, channels, out, first=i > 0, dilation=dilation)
            self.stages.append(nn.ModuleList([first, Residual(c, out, out, first=False, dilation=dilation)]))
            channels = out
        self.refinements = nn.ModuleList()  # from the last stage to the first
        for i in reversed(range(len(widths))):
            inputs, out = [widths[i]] + [channels] * (i < len(widths) - 1), widths[max(i - 1, 0)]
            self.refinements.append(Refinement(c, inputs, out, count=1 if i else 3))
            channels = out
        self.norm, self.head = InstanceNorm(c.width, c.levels), _conv(c.width, c.channels, bias=True)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Runs the network.

        Args:
            x: (b, channels, h, w), images in [-1, 1] plus noise.
            t: (b,) the number of the noise level, 0 for the highest, of which the nearest is meant. A network without
                levels does not look at it.

        Returns:
            (b, channels, h, w) of the dtype of x: the score with `levels`, else the score times sigma.
        """
        c = self.config
        level = torch.zeros_like(t, dtype=torch.int64) if c.levels is None else t.round().long().clamp(0, c.levels - 1)
        h, maps = self.stem(x), []
        for stage in self.stages:
            for block in stage.children():
                h = block(h, level)
            maps.append(h)
        h = self.refinements[0](maps[-1:], level)
        for refinement, finer in zip(self.refinements[1:], reversed(maps[:-1]), strict=True):
            h = refinement([finer, h], level)
        h = self.head(F.elu(self.norm(h, level)))
        # Of x' = (x + 1) / 2 the score is twice as large as of x.
        return h if c.levels is None or c.centered else 0.5 * h


KINDS = {"refinenet": RefineNetConfig}
