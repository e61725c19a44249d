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

from baselines.networks.blocks import (
    Downsample,
    GroupNorm,
    Mapping,
    ResidualBlock,
    Resize,
    SelfAttention,
    SpatialTransformer,
    Upsample,
    groups_of,
    timestep_embedding,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetConfig:
    """The architecture as data. The defaults are DDPM's CIFAR-10 network (35,746,307 parameters).

    Attributes:
        in_channels, out_channels: of the images; twice as many out for a learned variance.
        width: channels of the first stage.
        multipliers: channels of each level, as multiples of `width`; every level halves the resolution.
        blocks: residual blocks a level in the encoder. The decoder has one more.
        attention: factors of downsampling (1 is the full resolution) whose residual blocks are followed by attention.
        heads: attention heads, unless `head_width` fixes the channels of a head instead.
        uneven_heads: whether there are as many heads as `head_width` fits whole times into the channels (EDM's ADM), so
            that a head may be wider, and no attention where it does not fit at all. Else it must divide them.
        decoder_heads: attention heads of the decoder where they differ (improved diffusion's `num_heads_upsample`).
        modulation: how the embedding enters a residual block, see `ResidualBlock`.
        resample: "conv" (DDPM), "block" (ADM: residual blocks change the resolution) or "pool" (without weights).
        asymmetric: padding of strided convolutions, see `Downsample`.
        embedding_order: see `timestep_embedding`.
        groups: of every norm, fewer where a group would have less than `group_width` channels (EDM's ADM).
        classes: rows of the class embedding, None without one. A null class counts as a row.
        null: whether the last of these rows means no class and is zero in files that do not hold it (EDM).
        patch: side of the pixel blocks that are folded into channels before the first convolution.
        stem: channels of the first convolution where they differ from those of the first level.
        context: width of the context tokens of cross-attention, None without one; with it every attention is a
            `SpatialTransformer` of `depth` blocks (LDM).
        low_resolution: whether a small image is given as well, enlarged and stacked on the channels (ADM-U).
        side: of the images, None where files need not know; those of EDM name modules after the sides of their maps.
        latent: size of a latent vector z, which scales and shifts every norm of the residual blocks (DDGAN), None
            without one.
        style: width of what z is mapped to before that.
    """

    in_channels: int = 3
    out_channels: int = 3
    width: int = 128
    multipliers: tuple[float, ...] = (1, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (2,)
    heads: int = 1
    head_width: int | None = None
    uneven_heads: bool = False
    decoder_heads: int | None = None
    modulation: Literal["add", "scale_shift"] = "add"
    resample: Literal["conv", "block", "pool"] = "conv"
    asymmetric: bool = True
    embedding_order: Literal["sin_cos", "cos_sin"] = "sin_cos"
    norm_eps: float = 1e-6
    groups: int = 32
    group_width: int | None = None
    dropout: float = 0.0
    classes: int | None = None
    null: bool = False
    patch: int = 1
    stem: int | None = None
    context: int | None = None
    depth: int = 1
    low_resolution: bool = False
    side: int | None = None
    latent: int | None = None
    style: int = 64

    def build(self) -> UNet:
        """The network with random weights."""
        return UNet(self)


class Stage(nn.ModuleList):
    """Blocks applied in order. Those that take the embedding or the context get it."""

    def forward(
        self,
        x: Tensor,
        embedding: Tensor | None = None,
        context: Tensor | None = None,
        style: Tensor | None = None,
    ) -> Tensor:
        for block in self:
            if isinstance(block, ResidualBlock):
                x = block(x, embedding, style)
            else:
                x = block(x, context) if isinstance(block, SpatialTransformer) else block(x)
        return x


@dataclass(frozen=True, slots=True)
class Trunk:
    """The stages of a configuration, for U-Nets, for classifiers (no decoder) and for autoencoders (no skips).

    Attributes:
        config: of the stages.
        embedding: width of the vector that residual blocks take, None without one.
    """

    config: UNetConfig
    embedding: int | None

    @property
    def widths(self) -> list[int]:
        """Channels of every level."""
        return [int(m * self.config.width) for m in self.config.multipliers]

    def _residual(self, channels: int, out: int, resample: Literal["up", "down"] | None = None) -> ResidualBlock:
        c = self.config
        return ResidualBlock(
            channels,
            out,
            embedding=self.embedding,
            modulation=c.modulation,
            resample=resample,
            dropout=c.dropout,
            groups=c.groups,
            group_width=c.group_width,
            eps=c.norm_eps,
            style=c.style if c.latent is not None else None,
        )

    def _attention(self, channels: int, heads: int) -> list[nn.Module]:
        """The attention of a feature map, or nothing where it has no head."""
        c = self.config
        if c.head_width:
            if channels % c.head_width and not c.uneven_heads:
                raise ValueError(f"{channels} channels cannot be split into attention heads of {c.head_width}.")
            heads = channels // c.head_width
        if not heads:
            return []
        if c.context is None:
            groups = groups_of(channels, c.groups, c.group_width)
            return [SelfAttention(channels, heads=heads, groups=groups, eps=c.norm_eps)]
        return [SpatialTransformer(channels, heads=heads, context=c.context, depth=c.depth, groups=c.groups)]

    def _resolution_change(self, channels: int, way: Literal["up", "down"]) -> nn.Module:
        c = self.config
        if c.resample == "block":
            return self._residual(channels, channels, way)
        if c.resample == "pool":
            return Resize(way)
        return Upsample(channels) if way == "up" else Downsample(channels, asymmetric=c.asymmetric)

    def encoder(self) -> tuple[list[Stage], list[int]]:
        """The first convolution and the levels from fine to coarse, and the channels that each stage leaves."""
        c, widths = self.config, self.widths
        channels = c.stem or widths[0]
        inputs = c.in_channels * (2 if c.low_resolution else 1) * c.patch**2
        stages = [Stage([nn.Conv2d(inputs, channels, 3, padding=1)])]
        left, factor = [channels], 1
        for level, out in enumerate(widths):
            for _ in range(c.blocks):
                stage: list[nn.Module] = [self._residual(channels, out)]
                channels = out
                if factor in c.attention:
                    stage.extend(self._attention(channels, c.heads))
                stages.append(Stage(stage))
                left.append(channels)
            if level < len(widths) - 1:
                stages.append(Stage([self._resolution_change(channels, "down")]))
                left.append(channels)
                factor *= 2
        return stages, left

    def middle(self, *, attention: bool = True) -> Stage:
        """Two residual blocks on the coarsest level, with attention between them."""
        channels = self.widths[-1]
        stage: list[nn.Module] = [self._residual(channels, channels)]
        if attention:
            stage.extend(self._attention(channels, self.config.heads))
        return Stage([*stage, self._residual(channels, channels)])

    def decoder(self, skips: list[int]) -> list[Stage]:
        """The levels from coarse to fine.

        Args:
            skips: channels that are stacked on the input of the stages, the last one on that of the first; or none.
        """
        c, widths, skips = self.config, self.widths, list(skips)
        stages, channels, factor = [], widths[-1], 2 ** (len(widths) - 1)
        for level, out in reversed(list(enumerate(widths))):
            for i in range(c.blocks + 1):
                stage: list[nn.Module] = [self._residual(channels + (skips.pop() if skips else 0), out)]
                channels = out
                if factor in c.attention:
                    stage.extend(self._attention(channels, c.decoder_heads or c.heads))
                if level and i == c.blocks:
                    stage.append(self._resolution_change(channels, "up"))
                    factor //= 2
                stages.append(Stage(stage))
        return stages


def time_embedding(width: int) -> nn.Sequential:
    """The two layers behind the sinusoidal features of the timestep, (b, width) to (b, 4 * width)."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))


class UNet(nn.Module):
    """Predicts noise, image, velocity or score from a noisy image and a timestep.

    Source:
        Ho et al. 2020 App. B; Nichol and Dhariwal 2021 App. A; Dhariwal and Nichol 2021 sec. 3. The output is equal to
        that of the original networks with their weights (`tests/parity`), which `baselines.files.checkpoints` converts.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = c = config
        trunk = Trunk(c, 4 * c.width)
        self.time_embedding = time_embedding(c.width)
        if c.classes is not None:
            self.class_embedding = nn.Embedding(c.classes, 4 * c.width)
        if c.latent is not None:
            self.mapping = Mapping(c.latent, c.style)
        stages, left = trunk.encoder()
        self.encoder = nn.ModuleList(stages)
        self.middle = trunk.middle()
        self.decoder = nn.ModuleList(trunk.decoder(left))
        self.norm = GroupNorm(groups_of(trunk.widths[0], c.groups, c.group_width), trunk.widths[0], eps=c.norm_eps)
        self.head = nn.Conv2d(trunk.widths[0], c.out_channels * c.patch**2, 3, padding=1)

    @property
    def takes(self) -> frozenset[str]:
        """The conditions that it is called with, all of which it needs."""
        c = self.config
        has = {"y": c.classes is not None, "context": c.context is not None, "low_res": c.low_resolution}
        has["z"] = c.latent is not None
        return frozenset(name for name, there in has.items() if there)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        context: Tensor | None = None,
        low_res: Tensor | None = None,
        z: Tensor | None = None,
    ) -> Tensor:
        """Runs the network.

        Args:
            x: (b, in_channels, h, w), nominally in [-1, 1] plus noise.
            t: (b,) timesteps.
            y: (b,) int64 class labels, required exactly when the configuration has classes.
            context: (b, tokens, width), required exactly when the configuration has a context.
            low_res: (b, in_channels, h', w') in [-1, 1], required exactly when the configuration says `low_resolution`;
                enlarged to (h, w) bilinearly.
            z: (b, latent), standard normal, required exactly when the configuration has a latent.

        Returns:
            (b, out_channels, h, w) of the dtype of x.

        Raises:
            ValueError: a condition that the network does not have, or a missing one that it has.
        """
        c = self.config
        for name, given in (("y", y), ("context", context), ("low_res", low_res), ("z", z)):
            has = name in self.takes
            if (given is not None) != has:
                raise ValueError(f"This network {'needs' if has else 'takes no'} {name}; see its configuration.")
        embedding = timestep_embedding(t, c.width, order=c.embedding_order).to(x.dtype)
        embedding = self.time_embedding(embedding)
        if y is not None:
            embedding = embedding + self.class_embedding(y)
        embedding = F.silu(embedding)
        style = None if z is None else self.mapping(z.to(x.dtype))
        h = x
        if low_res is not None:
            h = torch.cat([h, F.interpolate(low_res, x.shape[2:], mode="bilinear")], dim=1)
        h = F.pixel_unshuffle(h, c.patch) if c.patch > 1 else h
        skips = []
        for stage in self.encoder:
            h = stage(h, embedding, context, style)
            skips.append(h)
        h = self.middle(h, embedding, context, style)
        for stage in self.decoder:
            h = stage(torch.cat([h, skips.pop()], dim=1), embedding, context, style)
        h = self.head(F.silu(self.norm(h)))
        return F.pixel_shuffle(h, c.patch) if c.patch > 1 else h


def zero_outputs(network: nn.Module) -> None:
    """Sets the last layer of every residual branch, and of the network, to zero: training starts from the identity.

    Source: Ho et al. 2020, code (`init_scale=0`); openai/guided-diffusion `zero_module`.
    """
    for module in network.modules():
        last: Iterable[nn.Conv2d | nn.Linear] = ()
        if isinstance(module, ResidualBlock):
            last = (module.conv2,)
        elif isinstance(module, SelfAttention):
            last = (module.out,)
        elif isinstance(module, SpatialTransformer):
            last = (module.outer,)
        elif isinstance(module, UNet):
            last = (module.head,)
        for layer in last:
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


KINDS = {"unet": UNetConfig}
