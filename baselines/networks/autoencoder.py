"""The first stage of latent diffusion: images to small feature maps and back, with a Gaussian or a codebook between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.networks.blocks import GroupNorm
from baselines.networks.unet import Trunk, UNetConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoencoderConfig:
    """The architecture as data. The defaults are LDM's KL autoencoder f = 8, which Stable Diffusion v1 uses.

    Attributes:
        in_channels, out_channels: of the images.
        width, multipliers, blocks: as in `UNetConfig`; f = 2^(levels - 1).
        attention: factors of downsampling with attention, beside that in the middle.
        middle_attention: whether the middle has attention.
        latent_channels: of the encoder's and the decoder's feature map (`z_channels`).
        code_channels: of the latent image itself (`embed_dim`).
        codes: rows of the codebook, None for a Gaussian latent, whose encoder gives means and log-variances.
        resample: see `UNetConfig`.
    """

    in_channels: int = 3
    out_channels: int = 3
    width: int = 128
    multipliers: tuple[float, ...] = (1, 2, 4, 4)
    blocks: int = 2
    attention: tuple[int, ...] = ()
    middle_attention: bool = True
    latent_channels: int = 4
    code_channels: int = 4
    codes: int | None = None
    resample: Literal["conv", "pool"] = "conv"
    groups: int = 32
    dropout: float = 0.0

    def build(self) -> AutoencoderKL | AutoencoderVQ:
        """The network with random weights."""
        return AutoencoderKL(self) if self.codes is None else AutoencoderVQ(self)

    @property
    def trunk(self) -> UNetConfig:
        """The blocks of the encoder and the decoder: those of DDPM without an embedding."""
        return UNetConfig(
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            width=self.width,
            stem=self.width,
            multipliers=self.multipliers,
            blocks=self.blocks,
            attention=self.attention,
            resample=self.resample,
            groups=self.groups,
            dropout=self.dropout,
        )


class Encoder(nn.Module):
    """Images to feature maps."""

    def __init__(self, config: AutoencoderConfig, out_channels: int) -> None:
        super().__init__()
        trunk = Trunk(config.trunk, None)
        self.stages = nn.ModuleList(trunk.encoder()[0])
        self.middle = trunk.middle(attention=config.middle_attention)
        self.norm = GroupNorm(config.groups, trunk.widths[-1], eps=trunk.config.norm_eps)
        self.head = nn.Conv2d(trunk.widths[-1], out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.head(F.silu(self.norm(self.middle(x))))


class Decoder(nn.Module):
    """Feature maps to images."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        trunk = Trunk(config.trunk, None)
        self.stem = nn.Conv2d(config.latent_channels, trunk.widths[-1], 3, padding=1)
        self.middle = trunk.middle(attention=config.middle_attention)
        self.stages = nn.ModuleList(trunk.decoder([]))
        self.norm = GroupNorm(config.groups, trunk.widths[0], eps=trunk.config.norm_eps)
        self.head = nn.Conv2d(trunk.widths[0], config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.middle(self.stem(z))
        for stage in self.stages:
            h = stage(h)
        return self.head(F.silu(self.norm(h)))


class AutoencoderKL(nn.Module):
    """An autoencoder whose latent is a Gaussian, held near the standard one while it is trained.

    A latent diffusion model sees the latent times a factor that belongs to that model (0.18215: Stable Diffusion v1).

    Source:
        Rombach et al. 2022 sec. 3.1 and App. G; Esser et al. 2021; CompVis/latent-diffusion `autoencoder.py`.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        if config.codes is not None:
            raise ValueError(f"A Gaussian latent has no codebook; got codes={config.codes}. Use AutoencoderVQ.")
        self.config = config
        self.encoder = Encoder(config, 2 * config.latent_channels)
        self.to_code = nn.Conv2d(2 * config.latent_channels, 2 * config.code_channels, 1)
        self.from_code = nn.Conv2d(config.code_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def encode(self, x: Tensor) -> Tensor:
        """Moments of the latent.

        Args:
            x: (b, in_channels, h, w) in [-1, 1]; h and w multiples of f.

        Returns:
            (b, 2 * code_channels, h / f, w / f): means, then log-variances as the network gives them. See `posterior`.
        """
        return self.to_code(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        """Maps latents (b, code_channels, h, w) to images (b, out_channels, f * h, f * w), nominally in [-1, 1]."""
        return self.decoder(self.from_code(z.to(self.from_code.weight.dtype)))

    def forward(self, x: Tensor) -> Tensor:
        """The image of the most likely latent."""
        return self.decode(posterior(self.encode(x))[0])


def posterior(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each (b, c, h, w), from moments (b, 2 c, h, w); log-variances clipped to [-30, 20].

    Source: CompVis/latent-diffusion `distributions.py:DiagonalGaussianDistribution`.
    """
    mean, log_variance = moments.chunk(2, dim=1)
    return mean, torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))


class Codebook(nn.Embedding):
    """Rows that are moved between devices with their network and never rounded to fewer than 32 bits.

    A rounded row or vector has another nearest row: two codes in a hundred for a codebook of 8192 rows in bfloat16.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Codebook:
        def kept(weight: Tensor) -> Tensor:
            moved = fn(weight)
            return moved if torch.finfo(moved.dtype).bits >= 32 else weight.to(moved.device)

        return super()._apply(kept, recurse)


class AutoencoderVQ(nn.Module):
    """An autoencoder whose latent vectors are rows of a codebook.

    Latent diffusion works on the vectors before they are replaced by the nearest rows; decoding replaces them.

    Source:
        Van den Oord et al. 2017 eq. 1; Esser et al. 2021; CompVis/latent-diffusion `autoencoder.py:VQModelInterface`.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        if config.codes is None:
            raise ValueError("A codebook needs codes=, its number of rows. For a Gaussian latent use AutoencoderKL.")
        self.config = config
        self.encoder = Encoder(config, config.latent_channels)
        self.to_code = nn.Conv2d(config.latent_channels, config.code_channels, 1)
        self.codebook = Codebook(config.codes, config.code_channels)
        self.from_code = nn.Conv2d(config.code_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def encode(self, x: Tensor) -> Tensor:
        """Maps images (b, in_channels, h, w) in [-1, 1] to latents (b, code_channels, h / f, w / f), not quantised."""
        return self.to_code(self.encoder(x))

    def nearest(self, z: Tensor) -> Tensor:
        """int64 (b, h, w): the row of the codebook nearest to every vector of (b, code_channels, h, w)."""
        # In pieces, because all distances of a batch of 64 x 64 latents to 8192 codes take gigabytes.
        codes = self.codebook.weight if z.dtype == torch.float64 else self.codebook.weight.float()
        half_norms = codes.square().sum(dim=1) / 2
        vectors = z.movedim(1, -1).to(codes.dtype).flatten(0, -2)
        rows = [torch.addmm(half_norms, part, codes.T, alpha=-1).argmin(dim=1) for part in vectors.split(4096)]
        return torch.cat(rows).view(len(z), *z.shape[2:])

    def quantise(self, z: Tensor) -> Tensor:
        """Replaces every vector of (b, code_channels, h, w) by the nearest row of the codebook."""
        return self.codebook(self.nearest(z)).movedim(-1, 1)

    def decode(self, z: Tensor, *, quantise: bool = True) -> Tensor:
        """Maps latents (b, code_channels, h, w) to images (b, out_channels, f * h, f * w), nominally in [-1, 1].

        Args:
            z: of any dtype. A code is looked for before z is rounded to the precision of the decoder.
            quantise: False for latents that are rows of the codebook already.
        """
        codes = self.quantise(z) if quantise else z
        return self.decoder(self.from_code(codes.to(self.from_code.weight.dtype)))

    def forward(self, x: Tensor) -> Tensor:
        """The image of the quantised latent."""
        return self.decode(self.encode(x))


KINDS = {"autoencoder": AutoencoderConfig}
