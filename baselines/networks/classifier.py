"""A classifier of noisy images: the encoder half of the ADM U-Net and a pooled head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.networks.blocks import AttentionPool, GroupNorm, timestep_embedding
from baselines.networks.unet import Trunk, UNetConfig, time_embedding


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierConfig:
    """The architecture as data.

    Attributes:
        trunk: of the encoder; what concerns the decoder and the conditions of a U-Net is not used.
        classes: number of logits.
        image_size: side of the images, which attention pooling is bound to.
        pool: "attention" (all published classifiers); "average" of the last feature map; "stages", the averages of all
            feature maps of the encoder and two linear layers with a ReLU; "normalised_stages", with a norm and a SiLU.
    """

    trunk: UNetConfig
    classes: int = 1000
    image_size: int = 64
    pool: Literal["attention", "average", "stages", "normalised_stages"] = "attention"

    def build(self) -> Classifier:
        """The network with random weights."""
        return Classifier(self)


class Classifier(nn.Module):
    """Predicts the class of a noisy image; the gradient of its log-probability guides a sampler.

    Source:
        Dhariwal and Nichol 2021 sec. 4 and App. H; openai/guided-diffusion `unet.py:EncoderUNetModel`.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config, c = config, config.trunk
        trunk = Trunk(c, 4 * c.width)
        channels = trunk.widths[-1]
        self.time_embedding = time_embedding(c.width)
        stages, left = trunk.encoder()
        self.encoder = nn.ModuleList(stages)
        self.middle = trunk.middle()
        if config.pool in ("attention", "average"):
            self.norm = GroupNorm(c.groups, channels, eps=c.norm_eps)
        self.head: nn.Module
        if config.pool == "attention":
            side = config.image_size // 2 ** (len(trunk.widths) - 1)
            heads = channels // c.head_width if c.head_width else c.heads
            self.head = AttentionPool(channels, side**2, config.classes, heads=heads)
        elif config.pool == "average":
            self.head = nn.Linear(channels, config.classes)
        else:
            between = [nn.ReLU()] if config.pool == "stages" else [GroupNorm(c.groups, 2048, eps=c.norm_eps), nn.SiLU()]
            self.head = nn.Sequential(nn.Linear(sum(left) + channels, 2048), *between, nn.Linear(2048, config.classes))

    def forward(self, x: Tensor, t: Tensor, y: None = None, context: None = None) -> Tensor:
        """Maps (b, c, h, w) images, nominally in [-1, 1] plus noise, and (b,) timesteps to (b, classes) logits.

        With attention pooling h and w must be the `image_size` of the configuration. The conditions of a U-Net are
        there so that every network is called alike. A classifier has none.

        Raises:
            ValueError: a condition.
        """
        if y is not None or context is not None:
            raise ValueError("A classifier takes neither labels nor a context; it predicts the labels.")
        c = self.config.trunk
        embedding = timestep_embedding(t, c.width, order=c.embedding_order).to(x.dtype)
        embedding = F.silu(self.time_embedding(embedding))
        means = []
        for stage in (*self.encoder, self.middle):
            x = stage(x, embedding)
            means.append(x)
        if self.config.pool.endswith("stages"):
            return self.head(torch.cat([h.mean(dim=(2, 3)) for h in means], dim=1))
        x = F.silu(self.norm(x))
        return self.head(x if self.config.pool == "attention" else x.mean(dim=(2, 3)))


KINDS = {"classifier": ClassifierConfig}
