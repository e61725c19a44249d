"""NCSN++ and DDPM++: the U-Nets of score-based generative modelling by stochastic differential equations.

They differ from `unet` in what stands between the convolutions: sums are scaled by sqrt(1/2), resolutions change
inside residual blocks by a filter against aliasing, and small copies of the image enter the encoder, or leave the
decoder, on every level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.networks.blocks import Mapping, SelfAttention, resize, timestep_embedding

Way = Literal["up", "down"]
_FILTER = (1.0, 3.0, 3.0, 1.0)
_HALF = math.sqrt(0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class NCSNppConfig:
    """The architecture as data. The defaults are NCSN++ cont. of CIFAR-10.

    Attributes:
        channels: of the images, or of what is given in their place.
        outputs: channels of the output where they are others.
        width: channels of the first level.
        multipliers: channels of each level, as multiples of `width`; every level halves the resolution.
        blocks: residual blocks a level in the encoder. The decoder has one more.
        attention: factors of downsampling whose residual blocks are followed by attention in the encoder; in the
            decoder it follows the last one of the level.
        filtered: whether resolutions change by the filter [1, 3, 3, 1], or by nearest neighbours and averages.
        progressive_input: how copies of the image enter: "none", "residual" (reduced by a convolution and added, the
            sum being the next copy) or "input_skip" (the copies are reduced without weights).
        progressive: how the image is put together: "none" (by the last level) or "output_skip" (every level adds to
            what the coarser ones made).
        combine: how "input_skip" adds a copy: "sum" or "cat".
        embedding: "fourier" features of log sigma, "fourier_told" of what is told as it is, or "positional" ones.
        scaled: whether sums of residual branches are multiplied by sqrt(1/2).
        by_sigma: whether the output is divided by sigma, which makes it a score.
        told: width of what is known of the time, None for `width`, of "positional" features.
        mixed: whether there are logits of the share that the network has in a mixture with a normal prior (LSGM).
        latent: size of a latent vector z, by which norms of the residual blocks scale and shift, None without one.
        style: width of the vector that z is mapped to.
        mapping: layers that map it.
        styled: which norms of a residual block it modulates.
        bounded: whether the output is a hyperbolic tangent, as of a generator of images.
        classes: that labels name, None without labels.
        null: whether the last of these classes means none, of which the network is told nothing.
        side: of the images, None where files need not know; those of EDM name modules after the sides of their maps.
        centered: whether the network was trained on images in [-1, 1]. Others, on [0, 1], are given here what all
            networks are given, images in [-1, 1] and their sigma, and return the score of those.
    """

    channels: int = 3
    outputs: int | None = None
    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (2,)
    filtered: bool = True
    progressive_input: Literal["none", "residual", "input_skip"] = "residual"
    progressive: Literal["none", "output_skip"] = "none"
    combine: Literal["sum", "cat"] = "sum"
    embedding: Literal["fourier", "fourier_told", "positional"] = "fourier"
    scaled: bool = True
    by_sigma: bool = True
    centered: bool = False
    dropout: float = 0.0
    told: int | None = None
    mixed: bool = False
    latent: int | None = None
    style: int = 256
    mapping: int = 4
    styled: Literal["both", "first"] = "both"
    bounded: bool = False
    classes: int | None = None
    null: bool = False
    side: int | None = None

    @property
    def hidden(self) -> int:
        """Width of the embedding that residual blocks see."""
        return 4 * (self.width if self.told is None else self.told)

    def build(self) -> NCSNpp:
        """The network with random weights."""
        return NCSNpp(self)


def filtered(x: Tensor, way: Way) -> Tensor:
    """Doubles or halves the resolution by the filter [1, 3, 3, 1]; beyond the image there are zeros.

    Source: Zhang 2019; Karras et al. 2020 (StyleGAN2); yang-song/score_sde_pytorch `up_or_down_sampling.py`.
    """
    weight = _kernel(x, gain=4.0 if way == "up" else 1.0)
    if way == "up":
        return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=x.shape[1])
    return F.conv2d(x, weight, stride=2, padding=1, groups=x.shape[1])


def _kernel(x: Tensor, gain: float = 1.0) -> Tensor:
    """The filter in two dimensions for each channel of x, (c, 1, 4, 4), of sum `gain`."""
    line = torch.tensor(_FILTER, dtype=x.dtype, device=x.device)
    square = line[:, None] * line[None, :]
    return (gain * square / square.sum()).expand(x.shape[1], 1, 4, 4)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


class AdaptiveNorm(nn.Module):
    """Group normalisation whose scale and shift are linear in a style.

    Source: Xiao et al. 2022 App. C; NVlabs/denoising-diffusion-gan `layerspp.py:AdaptiveGroupNorm`.
    """

    def __init__(self, channels: int, style: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6, affine=False)
        self.style = nn.Linear(style, 2 * channels)
        with torch.no_grad():
            self.style.bias.copy_(torch.cat([torch.ones(channels), torch.zeros(channels)]))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Maps (b, channels, h, w) and a style (b, width) to (b, channels, h, w)."""
        scale, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)
        return scale * self.norm(x) + shift


def _conv(channels: int, out: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2)


class Fourier(nn.Module):
    """Sine and cosine of a number times random frequencies, which are weights of the file.

    Source: Tancik et al. 2020; Song et al. 2021 App. H.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequency = nn.Parameter(16.0 * torch.randn(width), requires_grad=False)

    def forward(self, value: Tensor) -> Tensor:
        """Maps (b,) to (b, 2 width)."""
        angle = value[:, None] * self.frequency * 2.0 * math.pi
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class Block(nn.Module):
    """A residual block, which may change the resolution inside (BigGAN). Source: Song et al. 2021 App. H."""

    def __init__(self, c: NCSNppConfig, channels: int, out: int, way: Way | None = None) -> None:
        super().__init__()
        self.way, self.filtered, self.scale = way, c.filtered, _HALF if c.scaled else 1.0
        self.norm1, self.conv1 = _block_norm(c, channels), _conv(channels, out)
        self.embedding = nn.Linear(c.hidden, out)
        self.norm2 = _block_norm(c, out) if c.styled == "both" else _norm(out)
        self.dropout, self.conv2 = nn.Dropout(c.dropout), _conv(out, out)
        self.skip = _conv(channels, out, 1) if way is not None or channels != out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor, style: Tensor | None = None) -> Tensor:
        """Maps (b, channels, h, w), the activated embedding (b, hidden) and a style to (b, out, h', w')."""
        h = F.silu(_normal(self.norm1, x, style))
        if self.way is not None:
            change = filtered if self.filtered else resize
            h, x = change(h, self.way), change(x, self.way)
        h = self.conv1(h) + self.embedding(embedding)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(_normal(self.norm2, h, style))))
        return (self.skip(x) + h) * self.scale


def _block_norm(c: NCSNppConfig, channels: int) -> nn.Module:
    return _norm(channels) if c.latent is None else AdaptiveNorm(channels, c.style)


def _normal(norm: nn.Module, x: Tensor, style: Tensor | None) -> Tensor:
    made: Tensor = norm(x, style) if isinstance(norm, AdaptiveNorm) else norm(x)
    return made


class Attention(SelfAttention):
    """Attention of one head, with the sum scaled."""

    def __init__(self, c: NCSNppConfig, channels: int) -> None:
        super().__init__(channels, groups=min(channels // 4, 32), eps=1e-6)
        self.scale = _HALF if c.scaled else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Maps (b, channels, h, w) to the same shape."""
        return super().forward(x) * self.scale


class Reduced(nn.Module):
    """A copy of the image, reduced by a strided convolution that a filter precedes ("residual")."""

    def __init__(self, c: NCSNppConfig, channels: int, out: int) -> None:
        super().__init__()
        self.filtered, self.conv = c.filtered, nn.Conv2d(channels, out, 3, stride=2)

    def forward(self, copy: Tensor) -> Tensor:
        """Maps (b, channels, h, w) to (b, out, h / 2, w / 2)."""
        if not self.filtered:
            return self.conv(F.pad(copy, (0, 1, 0, 1)))
        return self.conv(F.conv2d(copy, _kernel(copy), padding=2, groups=copy.shape[1]))


class Combine(nn.Module):
    """A reduced copy of the image, joined to the features of its level ("input_skip")."""

    def __init__(self, c: NCSNppConfig, out: int) -> None:
        super().__init__()
        self.stacked, self.conv = c.combine == "cat", _conv(c.channels, out, 1)

    def forward(self, copy: Tensor, h: Tensor) -> Tensor:
        """Maps (b, channels, h, w) and (b, out, h, w) to (b, out or 2 out, h, w)."""
        return torch.cat([self.conv(copy), h], dim=1) if self.stacked else self.conv(copy) + h


class NCSNpp(nn.Module):
    """Predicts the score (NCSN++, by sigma) or the noise (DDPM++, by timestep) of a noisy image.

    Source:
        Song et al. 2021 App. H; yang-song/score_sde_pytorch `models/ncsnpp.py`. The output is equal to that of the
        original with its weights (`tests/parity`). Modules come in the order in which the original makes them. With
        labels and `fourier_told` it is the network of Karras et al. 2022, NVlabs/edm `networks.py:SongUNet`; with a
        latent the generator of Xiao et al. 2022, NVlabs/denoising-diffusion-gan `ncsnpp_generator_adagn.py`.
    """

    def __init__(self, config: NCSNppConfig) -> None:
        super().__init__()
        self.config = c = config
        positional = c.embedding == "positional"
        self.features = nn.Identity() if positional else Fourier(c.width)
        told = c.hidden // 4 if positional else 2 * c.width
        if c.classes is not None:
            self.label = nn.Linear(c.classes - c.null, told)
        self.time1 = nn.Linear(told, c.hidden)
        self.time2 = nn.Linear(c.hidden, c.hidden)
        channels, copy, factor = c.width, c.channels, 1
        self.stem = _conv(c.channels, channels)
        left = [channels]
        self.encoder = nn.ModuleList()
        for level, multiple in enumerate(c.multipliers):
            stage = nn.ModuleList()
            for _ in range(c.blocks):
                stage.append(Block(c, channels, multiple * c.width))
                channels = multiple * c.width
                if factor in c.attention:
                    stage.append(Attention(c, channels))
                left.append(channels)
            if level < len(c.multipliers) - 1:
                stage.append(Block(c, channels, channels, "down"))
                if c.progressive_input == "residual":
                    stage.append(Reduced(c, copy, channels))
                    copy = channels
                elif c.progressive_input == "input_skip":
                    stage.append(Combine(c, channels))
                    channels *= 2 if c.combine == "cat" else 1
                left.append(channels)
                factor *= 2
            self.encoder.append(stage)
        self.middle = nn.ModuleList(
            [Block(c, channels, channels), Attention(c, channels), Block(c, channels, channels)]
        )
        self.decoder = nn.ModuleList()
        for level, multiple in reversed(list(enumerate(c.multipliers))):
            stage = nn.ModuleList()
            for _ in range(c.blocks + 1):
                stage.append(Block(c, channels + left.pop(), multiple * c.width))
                channels = multiple * c.width
            if factor in c.attention:
                stage.append(Attention(c, channels))
            if c.progressive == "output_skip":
                stage.extend([_norm(channels), _conv(channels, c.outputs or c.channels)])
            if level:
                stage.append(Block(c, channels, channels, "up"))
                factor //= 2
            self.decoder.append(stage)
        if c.progressive == "none":
            self.norm, self.head = _norm(channels), _conv(channels, c.outputs or c.channels)
        if c.latent is not None:
            self.mapping = Mapping(c.latent, c.style, c.mapping)
        if c.mixed:
            self.mixing = nn.Parameter(torch.zeros(1, c.channels, 1, 1))

    @property
    def takes(self) -> frozenset[str]:
        """The conditions that it is called with, all of which it needs."""
        has = {"y": self.config.classes is not None, "z": self.config.latent is not None}
        return frozenset(name for name, needed in has.items() if needed)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        """Runs the network.

        Args:
            x: (b, channels, h, w), images in [-1, 1] plus noise.
            t: (b,) sigma of x, or another number above 0 whose logarithm is meant, for "fourier"; else what the
                process tells.
            y: (b,) int64 class labels, given exactly when the configuration has classes.
            z: (b, latent), standard normal, given exactly when the configuration has a latent.

        Returns:
            (b, outputs, h, w) of the dtype of x: the score if `by_sigma`, else what the file was trained to say.
        """
        c = self.config
        if c.embedding == "positional":
            embedding = timestep_embedding(t, c.hidden // 4, order="sin_cos")
        else:
            known = t.to(self.time1.weight.dtype)
            if c.embedding == "fourier":
                # Trained on images in [0, 1], a network knows half of the sigma of images in [-1, 1].
                known = (known if c.centered else 0.5 * known).log()
            embedding = self.features(known)
        embedding = embedding.to(x.dtype)
        for name, value in (("y", y), ("z", z)):
            if (value is None) == (name in self.takes):
                raise ValueError(
                    f"This network {'needs' if value is None else 'takes no'} {name}; see its configuration."
                )
        if y is not None and c.classes is not None:
            known_classes = c.classes - c.null
            told = F.one_hot(y, c.classes)[:, :known_classes].to(x.dtype)
            embedding = embedding + self.label(told * math.sqrt(known_classes))
        embedding = F.silu(self.time2(F.silu(self.time1(embedding))))
        style = None if z is None else self.mapping(z.to(x.dtype))
        h = self._decoded(*self._encoded(x, embedding, style), embedding, style)
        h = h.tanh() if c.bounded else h
        return h / t.to(h.dtype).view(-1, 1, 1, 1) if c.by_sigma else h

    def _encoded(self, x: Tensor, embedding: Tensor, style: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """The features behind the middle, and the skip connections."""
        c, copy = self.config, x
        h = self.stem(x)
        skips = [h]
        for stage in self.encoder:
            for module in stage.children():
                if isinstance(module, Block):
                    h = module(h, embedding, style)
                    skips.append(h)
                    if module.way == "down" and c.progressive_input == "input_skip":
                        copy = (filtered if c.filtered else resize)(copy, "down")
                elif isinstance(module, Reduced):
                    h = copy = (module(copy) + h) * (_HALF if c.scaled else 1.0)
                else:
                    h = module(copy, h) if isinstance(module, Combine) else module(h)
                skips[-1] = h  # what leaves is what attention or a copy of the image made of a block's output
        first, attention, second = self.middle
        return second(attention(first(h, embedding, style)), embedding, style), skips

    def _decoded(self, h: Tensor, skips: list[Tensor], embedding: Tensor, style: Tensor | None) -> Tensor:
        """The output of the last level, or the sum of all levels."""
        c, image = self.config, None
        for stage in self.decoder:
            for module in stage.children():
                if isinstance(module, Block):
                    h = module(h if module.way else torch.cat([h, skips.pop()], dim=1), embedding, style)
                elif isinstance(module, nn.GroupNorm):
                    normal = F.silu(module(h))
                elif isinstance(module, nn.Conv2d):
                    finer = None if image is None else (filtered if c.filtered else resize)(image, "up")
                    image = module(normal) if finer is None else finer + module(normal)
                else:
                    h = module(h)
        return self.head(F.silu(self.norm(h))) if image is None else image


KINDS = {"ncsnpp": NCSNppConfig}
