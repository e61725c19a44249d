"""A discriminator of denoising steps: whether a state is one of the forward process, given the noisier one after it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.networks.blocks import GroupNorm, timestep_embedding
from baselines.networks.unet import Trunk, UNetConfig, time_embedding


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscriminatorConfig:
    """The architecture as data.

    Attributes:
        trunk: of the encoder, whose `in_channels` are those of both states together. What concerns a decoder is not
            used.
        group: images over which one standard deviation is taken. Batches are multiples of it.
    """

    trunk: UNetConfig
    group: int = 4

    def build(self) -> Discriminator:
        """The network with random weights."""
        return Discriminator(self)


class Discriminator(nn.Module):
    """Tells a state x_q of the forward process from a generated one, seeing the noisier state x_p that it came from.

    Source:
        Xiao et al. 2022 sec. 3.2 and App. C; NVlabs/denoising-diffusion-gan `discriminator.py`. Differs: the encoder is
        that of DDPM's U-Net, so that it can start from a denoising network's, and the class is told twice, with the
        timestep and by the projection of Miyato and Koyama 2018 eq. 3; the original has no classes.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config, c = config, config.trunk
        trunk = Trunk(c, 4 * c.width)
        channels = trunk.widths[-1]
        self.time_embedding = time_embedding(c.width)
        if c.classes is not None:
            self.class_embedding = nn.Embedding(c.classes, 4 * c.width)
            self.projection = nn.Embedding(c.classes, channels)
        stages, left = trunk.encoder()
        self.encoder, self.middle = nn.ModuleList(stages), trunk.middle()
        self.heads = nn.ModuleList(_head(count, c.groups) for count in left)
        self.last = _head(channels + 1, 1)

    def forward(self, x_q: Tensor, t: Tensor, x_p: Tensor, y: Tensor | None = None) -> Tensor:
        """Maps states (b, c, h, w), the timestep (b,) of x_q and labels (b,) to logits (b,)."""
        c = self.config.trunk
        embedding = self.time_embedding(timestep_embedding(t, c.width, order=c.embedding_order).to(x_q.dtype))
        if y is not None:
            embedding = embedding + self.class_embedding(y)
        embedding = F.silu(embedding)
        h = torch.cat([x_q, x_p], dim=1)
        h = F.pixel_unshuffle(h, c.patch) if c.patch > 1 else h
        logit = h.new_zeros(len(h))
        for stage, head in zip(self.encoder, self.heads, strict=True):
            h = stage(h, embedding)
            logit = logit + pooled(head(h))
        h = self.middle(h, embedding)
        logit = logit + pooled(self.last(torch.cat([h, variety(h, self.config.group)], dim=1)))
        return logit if y is None else logit + (self.projection(y) * h.mean(dim=(2, 3))).sum(dim=1)


def _head(channels: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        GroupNorm(groups, channels), nn.Conv2d(channels, 32, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(32, 1, 1)
    )


def pooled(h: Tensor) -> Tensor:
    """The sum over positions of (b, 1, h, w), over the root of their number: (b,)."""
    return h.flatten(1).sum(1) / h[0].numel() ** 0.5


def variety(h: Tensor, group: int) -> Tensor:
    """Mean standard deviation of the features over groups of images, as one more channel (b, 1, h, w).

    Source: Karras et al. 2018 sec. 3.
    """
    each = h.float().unflatten(0, (group, -1))
    spread = (each.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return spread.repeat(group).view(-1, 1, 1, 1).expand(-1, 1, *h.shape[2:]).to(h.dtype)


KINDS = {"discriminator": DiscriminatorConfig}
