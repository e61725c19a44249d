"""One U-Net for DDPM, improved diffusion, ADM and latent diffusion; what differs between them is data.

Every encoder stage leaves a skip connection and every decoder stage takes one, in reverse order. A stage is a
list of blocks: residual block, then attention if the resolution has it, then a change of resolution.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.networks.blocks import Downsample, GroupNorm, ResidualBlock, SelfAttention, Upsample, timestep_embedding


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetConfig:
    """The architecture as data. The defaults are DDPM's CIFAR-10 network (35,746,307 parameters).

    Attributes:
        in_channels, out_channels: of the images; twice as many out for a learned variance.
        width: channels of the first stage.
        multipliers: channels of each level, as multiples of `width`; every level halves the resolution.
        blocks: residual blocks a level in the encoder; the decoder has one more.
        attention: factors of downsampling (1 is the full resolution) whose residual blocks are followed by attention.
        heads: attention heads, unless `head_width` fixes the channels of a head instead.
        modulation: how the embedding enters a residual block, see `ResidualBlock`.
        resample: "conv" (DDPM) or "block" (ADM: residual blocks change the resolution).
        asymmetric: padding of strided convolutions, see `Downsample`.
        embedding_order: see `timestep_embedding`.
        classes: rows of the class embedding, None without one; a null class counts as a row.
        patch: side of the pixel blocks that are folded into channels before the first convolution.
    """

    in_channels: int = 3
    out_channels: int = 3
    width: int = 128
    multipliers: tuple[float, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (2,)
    heads: int = 1
    head_width: int | None = None
    modulation: Literal["add", "scale_shift"] = "add"
    resample: Literal["conv", "block"] = "conv"
    asymmetric: bool = True
    embedding_order: Literal["sin_cos", "cos_sin"] = "sin_cos"
    norm_eps: float = 1e-6
    groups: int = 32
    dropout: float = 0.0
    classes: int | None = None
    patch: int = 1


class Stage(nn.ModuleList):
    """Blocks applied in order; those that take the embedding get it."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            x = block(x, embedding) if isinstance(block, ResidualBlock) else block(x)
        return x


class UNet(nn.Module):
    """Predicts noise, image, velocity or score from a noisy image and a timestep.

    Source:
        Ho et al. 2020 App. B; Nichol and Dhariwal 2021 App. A; Dhariwal and Nichol 2021 sec. 3. The output is equal to
        that of the original networks with their weights (`tests/parity`), which `baselines.checkpoints` converts.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = c = config
        embedding = 4 * c.width
        self.time_embedding = nn.Sequential(nn.Linear(c.width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        if c.classes is not None:
            self.class_embedding = nn.Embedding(c.classes, embedding)

        def residual(channels: int, out: int, resample: Literal["up", "down"] | None = None) -> ResidualBlock:
            return ResidualBlock(
                channels, out, embedding=embedding, modulation=c.modulation, resample=resample,
                dropout=c.dropout, groups=c.groups, eps=c.norm_eps,
            )  # fmt: skip

        def attention(channels: int) -> SelfAttention:
            heads = channels // c.head_width if c.head_width else c.heads
            return SelfAttention(channels, heads=heads, groups=c.groups, eps=c.norm_eps)

        def resolution_change(channels: int, way: Literal["up", "down"]) -> nn.Module:
            if c.resample == "block":
                return residual(channels, channels, way)
            return Upsample(channels) if way == "up" else Downsample(channels, asymmetric=c.asymmetric)

        widths = [int(m * c.width) for m in c.multipliers]
        channels = widths[0]
        self.encoder = nn.ModuleList([Stage([nn.Conv2d(c.in_channels * c.patch**2, channels, 3, padding=1)])])
        skips, factor = [channels], 1
        for level, out in enumerate(widths):
            for _ in range(c.blocks):
                stage: list[nn.Module] = [residual(channels, out)]
                channels = out
                if factor in c.attention:
                    stage.append(attention(channels))
                self.encoder.append(Stage(stage))
                skips.append(channels)
            if level < len(widths) - 1:
                self.encoder.append(Stage([resolution_change(channels, "down")]))
                skips.append(channels)
                factor *= 2

        self.middle = Stage([residual(channels, channels), attention(channels), residual(channels, channels)])

        self.decoder = nn.ModuleList()
        for level, out in reversed(list(enumerate(widths))):
            for i in range(c.blocks + 1):
                stage = [residual(channels + skips.pop(), out)]
                channels = out
                if factor in c.attention:
                    stage.append(attention(channels))
                if level and i == c.blocks:
                    stage.append(resolution_change(channels, "up"))
                    factor //= 2
                self.decoder.append(Stage(stage))

        self.norm = GroupNorm(c.groups, channels, eps=c.norm_eps)
        self.head = nn.Conv2d(channels, c.out_channels * c.patch**2, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """Runs the network.

        Args:
            x: (b, in_channels, h, w), nominally in [-1, 1] plus noise.
            t: (b,) timesteps.
            y: (b,) int64 class labels, required exactly when the configuration has classes.
            context: (b, tokens, width), for networks with cross-attention.

        Returns:
            (b, out_channels, h, w) of the dtype of x.

        Raises:
            ValueError: labels given to a network without classes, or missing for one that has them.
        """
        if (y is None) != (self.config.classes is None):
            raise ValueError(f"A network with classes={self.config.classes} got y={'None' if y is None else 'labels'}.")
        width = self.config.width
        embedding = timestep_embedding(t, width, order=self.config.embedding_order).to(x.dtype)
        embedding = self.time_embedding(embedding)
        if y is not None:
            embedding = embedding + self.class_embedding(y)
        embedding = F.silu(embedding)
        h = F.pixel_unshuffle(x, self.config.patch) if self.config.patch > 1 else x
        skips = []
        for stage in self.encoder:
            h = stage(h, embedding)
            skips.append(h)
        h = self.middle(h, embedding)
        for stage in self.decoder:
            h = stage(torch.cat([h, skips.pop()], dim=1), embedding)
        h = self.head(F.silu(self.norm(h)))
        return F.pixel_shuffle(h, self.config.patch) if self.config.patch > 1 else h


def zero_outputs(network: nn.Module) -> None:
    """Sets the last layer of every residual branch, and of the network, to zero: training starts from the identity.

    Source: Ho et al. 2020, code (`init_scale=0`); openai/guided-diffusion `zero_module`.
    """
    for module in network.modules():
        last: Iterable[nn.Module] = ()
        if isinstance(module, ResidualBlock):
            last = (module.conv2,)
        elif isinstance(module, SelfAttention):
            last = (module.out,)
        elif isinstance(module, UNet):
            last = (module.head,)
        for layer in last:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
