"""NVAE: a variational autoencoder whose latents come in groups, each of which sees those before it.

Files hold every convolution as directions and lengths of its filters, and statistics of batches beside the norms. Both
are constants once trained, so that here a convolution has the weight that comes of them, and a norm is a scale and a
shift of each channel; `baselines.files.layouts` makes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Way = Literal["same", "up", "down"]
MIXTURE = 10
"""Logistic distributions in the mixture of a pixel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NVAEConfig:
    """The architecture as data. The defaults are the autoencoder of LSGM for CIFAR-10 with the best FID.

    Attributes:
        side: of the images; latents have a side 2^blocks times smaller.
        encoder_width, decoder_width: channels at multiplier 1.
        multipliers: channels at each resolution, from that of the images to that of the latents.
        cells_before, cells_after: cells a resolution above that of the latents, in the encoder and in the decoder.
        encoder_cells, decoder_cells: cells a group.
        groups, latents: groups of latents, and channels of each.
        flows: pairs of autoregressive flows behind the posterior of each group.
        cells: of the decoder: "conv" (two convolutions), "inverted" (of more channels in between); or "double" of both.
        squeeze: whether cells weigh their channels by a mean over positions.
        distribution: of a pixel: a mixture of discretised logistic ones ("dml"), one ("dl"), or "normal".
        bits: of a colour.
        clamp: largest logarithm of a standard deviation of the posterior.
    """

    side: int = 32
    channels: int = 3
    encoder_width: int = 128
    decoder_width: int = 128
    multipliers: tuple[int, ...] = (1, 2)
    cells_before: int = 2
    cells_after: int = 2
    encoder_cells: int = 2
    decoder_cells: int = 2
    groups: int = 20
    latents: int = 9
    flows: int = 0
    cells: Literal["conv", "inverted", "double"] = "conv"
    squeeze: bool = True
    distribution: Literal["dml", "dl", "normal"] = "dml"
    bits: int = 8
    clamp: float = 5.0

    @property
    def blocks(self) -> int:
        """How often the side of the images is halved."""
        return len(self.multipliers) - 1

    def build(self) -> NVAE:
        """The network with random weights."""
        return NVAE(self)


class Normalised(nn.Conv2d):
    """A convolution of which files have the directions and the logarithms of the lengths of its filters."""


class Causal(Normalised):
    """A convolution that sees no later position, nor later channels of its own; files have the weights without a mask.

    Args:
        strict: whether a channel does not see itself.
        mirrored: whether later is earlier.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, *, groups: int = 1, bias: bool, strict: bool, mirrored: bool
    ) -> None:
        super().__init__(channels, out, kernel, padding=kernel // 2, groups=groups, bias=bias)
        self.strict, self.mirrored = strict, mirrored

    def mask(self) -> Tensor:
        """What files' weights are multiplied by, of their shape. Source: LSGM `neural_ar_operations.py`."""
        out, inside, kernel, _ = self.weight.shape
        middle = kernel // 2
        mask = torch.zeros(out, inside, kernel, kernel, dtype=torch.float64)
        mask[:, :, :middle] = 1
        mask[:, :, middle, :middle] = 1
        if self.groups == 1:
            few = min(out, inside)
            rows, columns = torch.arange(out) // (out // few), torch.arange(inside) // (inside // few)
            seen = columns[None] < rows[:, None] if self.strict else columns[None] <= rows[:, None]
        else:
            seen = torch.full((out, inside), not self.strict)
        mask[:, :, middle, middle] = seen.double()
        return mask.flip(2, 3) if self.mirrored else mask


class Affine(nn.Module):
    """A scale and a shift of each channel: normalisation by the statistics of training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (b, channels, h, w) to the same shape."""
        return x * self.weight[:, None, None] + self.bias[:, None, None]


def _doubled(x: Tensor, way: Way) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest") if way == "up" else x


class Conv(nn.Module):
    """Norm, SiLU, convolution, with the resolution changed between the last two."""

    def __init__(self, channels: int, out: int, way: Way) -> None:
        super().__init__()
        self.way, self.norm = way, Affine(channels)
        self.conv = Normalised(channels, out, 3, stride=2 if way == "down" else 1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (b, channels, h, w) to (b, out, h', w')."""
        return self.conv(_doubled(F.silu(self.norm(x)), self.way))


class Double(nn.Module):
    """The same twice, of which the first convolution has no bias."""

    def __init__(self, channels: int, out: int, way: Way) -> None:
        super().__init__()
        self.way, self.norm1, self.norm2 = way, Affine(channels), Affine(out)
        self.conv1 = nn.Conv2d(channels, out, 3, stride=2 if way == "down" else 1, padding=1, bias=False)
        self.conv2 = Normalised(out, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (b, channels, h, w) to (b, out, h', w')."""
        h = self.conv1(_doubled(F.silu(self.norm1(x)), self.way))
        return self.conv2(F.silu(self.norm2(h)))


class Inverted(nn.Module):
    """More channels, a convolution of 5 x 5 of each of them alone, and fewer channels again. It never reduces.

    Source: Vahdat and Kautz 2020 sec. 3.1.1; Sandler et al. 2018.
    """

    def __init__(self, channels: int, out: int, way: Way, more: int) -> None:
        super().__init__()
        inner = more * channels
        self.way, self.norm1 = way, Affine(channels)
        self.conv1, self.norm2 = nn.Conv2d(channels, inner, 1, bias=False), Affine(inner)
        self.conv2 = nn.Conv2d(inner, inner, 5, padding=2, groups=inner, bias=False)
        self.norm3, self.conv3, self.norm4 = Affine(inner), nn.Conv2d(inner, out, 1, bias=False), Affine(out)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (b, channels, h, w) to (b, out, h', w')."""
        h = F.silu(self.norm2(self.conv1(self.norm1(_doubled(x, self.way)))))
        return self.norm4(self.conv3(F.silu(self.norm3(self.conv2(h)))))


class Halved(nn.Module):
    """A skip connection that halves the resolution: four convolutions, each of one pixel of 2 x 2."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        quarter = out // 4
        self.convs = nn.ModuleList(
            Normalised(channels, count, 1, stride=2) for count in (quarter, quarter, quarter, out - 3 * quarter)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (b, channels, h, w) to (b, out, h / 2, w / 2)."""
        x = F.silu(x)
        shifted = (x, x[:, :, 1:, 1:], x[:, :, :, 1:], x[:, :, 1:, :])
        return torch.cat([conv(part) for conv, part in zip(self.convs, shifted, strict=True)], dim=1)


class Enlarged(nn.Module):
    """A skip connection that doubles the resolution, bilinearly."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = Normalised(channels, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (b, channels, h, w) to (b, out, 2 h, 2 w)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True))


class Cell(nn.Module):
    """A residual cell, whose branch weighs a tenth.

    Args:
        more: how many times the channels there are in an inverted branch, None in the encoder, which has no such one.

    Source: Vahdat and Kautz 2020 sec. 3.1; NVlabs/LSGM `cells.py`, `utils.py:get_arch_cells`.
    """

    def __init__(self, c: NVAEConfig, channels: int, out: int, way: Way, *, more: int | None = None) -> None:
        super().__init__()
        self.skip: nn.Module = nn.Identity()
        if way != "same":
            self.skip = (Enlarged if way == "up" else Halved)(channels, out)
        if c.cells == "double":
            branch: list[nn.Module] = [Double(channels, out, way)]
        elif c.cells == "inverted" and more is not None:
            branch = [Inverted(channels, out, way, more)]
        else:
            branch = [Conv(channels, out, way), Conv(out, out, "same")]
        self.operations = nn.ModuleList(branch)
        hidden = max(out // 16, 4)
        self.squeeze = (
            nn.Sequential(nn.Linear(out, hidden), nn.ReLU(), nn.Linear(hidden, out), nn.Sigmoid())
            if c.squeeze
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (b, channels, h, w) to (b, out, h', w')."""
        h = x
        for operation in self.operations:
            h = operation(h)
        if self.squeeze is not None:
            h = h * self.squeeze(h.mean(dim=(2, 3)))[:, :, None, None]
        return self.skip(x) + 0.1 * h


class Joined(nn.Module):
    """Features of the decoder beside a group of latents ("beside"), or added to those of the encoder ("added")."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = Normalised(channels, out, 1)


class Beside(Joined):
    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Maps (b, c, h, w) and (b, d, h, w), c + d channels, to (b, out, h, w)."""
        return self.conv(torch.cat([x, z], dim=1))


class Added(Joined):
    def forward(self, x: Tensor, decoded: Tensor) -> Tensor:
        """Maps (b, out, h, w) and (b, channels, h, w) to (b, out, h, w)."""
        return x + self.conv(decoded)


class Flow(nn.Module):
    """An inverse autoregressive flow of volume 1: it subtracts a mean, which is made of what comes before."""

    def __init__(self, latents: int, *, mirrored: bool) -> None:
        super().__init__()
        inner = 6 * latents
        self.conv1 = Causal(latents, inner, 3, bias=False, strict=True, mirrored=mirrored)
        self.conv2 = Causal(inner, inner, 5, groups=inner, bias=False, strict=False, mirrored=mirrored)
        self.mean = Causal(inner, latents, 1, bias=True, strict=False, mirrored=mirrored)

    def forward(self, z: Tensor) -> Tensor:
        """Maps (b, latents, h, w) to the same shape."""
        return z - self.mean(F.elu(self.conv2(F.elu(self.conv1(z)))))


class Pair(nn.Module):
    """Two flows, of which the second goes the other way."""

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.cell1, self.cell2 = Flow(latents, mirrored=False), Flow(latents, mirrored=True)

    def forward(self, z: Tensor) -> Tensor:
        """Maps (b, latents, h, w) to the same shape."""
        made: Tensor = self.cell2(self.cell1(z))
        return made


class NVAE(nn.Module):
    """Encodes images into groups of latents, and decodes them.

    Source:
        Vahdat and Kautz 2020 (arXiv:2007.03898); Vahdat et al. 2021 App. G; NVlabs/LSGM `nvae.py`, with whose output it
        agrees for one scale of latents. All latents are what the prior of LSGM is of, the standard normal in NVAE.
    """

    def __init__(self, config: NVAEConfig) -> None:
        super().__init__()
        self.config = c = config
        top = c.multipliers[-1]
        wide, deep = top * c.encoder_width, top * c.decoder_width
        side = c.side >> c.blocks
        self.prior = nn.Parameter(torch.rand(deep, side, side))
        self.stem = Normalised(c.channels, c.multipliers[0] * c.encoder_width, 3, padding=1)
        self.before, self.after = nn.ModuleList(_before(c)), nn.ModuleList(_after(c))
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        self.samplers, self.flows, self.groups = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for group in range(c.groups):
            self.encoder.extend(Cell(c, wide, wide, "same") for _ in range(c.encoder_cells))
            if group < c.groups - 1:
                self.encoder.append(Added(deep, wide))
            self.samplers.append(nn.Sequential(nn.ELU(), Normalised(wide, 2 * c.latents, 3, padding=1)))
            self.flows.extend(Pair(c.latents) for _ in range(c.flows))
            self.groups.append(Normalised(c.latents, c.latents, 3, padding=1))
            self.decoder.append(Beside(deep + c.latents, deep))
            self.decoder.extend(Cell(c, deep, deep, "same", more=6) for _ in range(c.decoder_cells))
        outputs = {"dml": 10 * MIXTURE, "dl": 2 * c.channels, "normal": 2 * c.channels}[c.distribution]
        self.head = nn.Sequential(nn.ELU(), Normalised(c.multipliers[0] * c.decoder_width, outputs, 3, padding=1))

    def decode(self, z: Tensor) -> Tensor:
        """Maps latents (b, groups * latents, h, w) to the means of pixels, (b, channels, side, side), in [-1, 1]."""
        return self.mean(self.parameters_of(z))

    def encode(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draws latents of images, and says the distribution of pixels that they lead back to.

        Args:
            x: (b, channels, side, side), in [-1, 1].
            noise: standard normal, of the shape of all latents.

        Returns:
            The latents (b, groups * latents, h, w), the logarithm of the posterior's density there in nats, float64
            (b,), and what says the distribution of pixels, see `parameters_of`.
        """
        c = self.config
        features, seen = self._encoded(x.to(self.prior.dtype))
        convs, samplers, flows = iter(self.groups), iter(self.samplers), iter(self.flows)
        draws, found = iter(noise.chunk(c.groups, dim=1)), list[Tensor]()
        density = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        h = self.prior.expand(len(x), -1, -1, -1)
        for cell in self.decoder:
            if not isinstance(cell, Beside):
                h = cell(h)
                continue
            if found:  # the encoder of every group but the first sees what the decoder made of those before it
                added, left = seen.pop()
                features = added(left, h)
            mean, log_std = next(samplers)(features).chunk(2, dim=1)
            mean, log_std = 5 * (mean / 5).tanh(), c.clamp * (log_std / c.clamp).tanh()
            draw = next(draws)
            z = mean + log_std.exp() * draw
            log_density = -0.5 * draw.square() - log_std - 0.5 * math.log(2 * math.pi)
            density = density + log_density.double().flatten(1).sum(1)
            for _ in range(c.flows):  # which change no volume
                z = next(flows)(z)
            found.append(z)
            h = cell(h, next(convs)(z))
        return torch.cat(found, dim=1), density, self._finished(h)

    def _encoded(self, x: Tensor) -> tuple[Tensor, list[tuple[nn.Module, Tensor]]]:
        """The features of the first group, and for each later one what joins the decoder's to the features left."""
        s, left = self.stem(x), list[tuple[nn.Module, Tensor]]()
        for cell in self.before:
            s = cell(s)
        for cell in self.encoder:
            if isinstance(cell, Added):
                left.append((cell, s))
            else:
                s = cell(s)
        return s, left

    def parameters_of(self, z: Tensor) -> Tensor:
        """What says the distribution of pixels, (b, outputs, side, side), given all latents."""
        parts = iter(z.to(self.prior.dtype).chunk(self.config.groups, dim=1))
        h, convs = self.prior.expand(len(z), -1, -1, -1), iter(self.groups)
        for cell in self.decoder:
            h = cell(h, next(convs)(next(parts))) if isinstance(cell, Beside) else cell(h)
        return self._finished(h)

    def _finished(self, h: Tensor) -> Tensor:
        for cell in self.after:
            h = cell(h)
        made: Tensor = self.head(h)
        return made

    def mean(self, parameters: Tensor) -> Tensor:
        """The means of pixels, within [-1, 1]. Source: LSGM `distributions.py`, where colours see those before them."""
        c = self.config
        if c.distribution == "normal":
            parameters = 5 * (parameters / 5).tanh()
        if c.distribution != "dml":
            return parameters[:, : c.channels].clamp(-1, 1)
        shares, means, _, slopes = mixture(parameters)
        weight = shares.softmax(1)[:, None]
        (first, second, third), by = (weight * means).sum(2).unbind(1), (weight * slopes).sum(2)
        red = first.clamp(-1, 1)
        green = (second + by[:, 0] * red).clamp(-1, 1)
        blue = (third + by[:, 1] * red + by[:, 2] * green).clamp(-1, 1)
        return torch.stack([red, green, blue], dim=1)

    def log_probability(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Natural logarithm of the probability of 8-bit images x (b, channels, side, side) in [-1, 1], float64 (b,).

        Raises:
            ValueError: a distribution or a number of bits of which there is no probability of 8-bit images.
        """
        c = self.config
        if c.distribution == "normal" or c.bits != 8:
            raise ValueError(
                "Bits of 8-bit images need a decoder of dml or dl and 8 bits; this one is "
                f"{c.distribution} of {c.bits}."
            )
        if c.distribution == "dl":
            mean, log_scale = parameters.chunk(2, dim=1)
            return discretised_logistic(x, mean, log_scale.clamp(min=-7.0)).double().flatten(1).sum(1)
        shares, means, log_scales, slopes = mixture(parameters)
        (first, second, third), by = means.unbind(1), slopes
        red, green = x[:, 0, None], x[:, 1, None]
        seen = torch.stack([first, second + by[:, 0] * red, third + by[:, 1] * red + by[:, 2] * green], dim=1)
        each = discretised_logistic(x[:, :, None], seen, log_scales).sum(1)
        return torch.logsumexp(each + shares.log_softmax(1), dim=1).double().flatten(1).sum(1)


def discretised_logistic(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of the 8-bit cell around x in [-1, 1] under a logistic distribution. The outer cells are open.

    Source: Salimans et al. 2017 (PixelCNN++) eq. 2.
    """
    centred, inverse = x - mean, torch.exp(-log_scale)
    upper, lower = (inverse * (centred + half) for half in (1 / 255, -1 / 255))
    # log(F(u) - F(l)) = log F(u) + log(1 - F(l)) + log(1 - exp(l - u)) holds for the logistic F, far out too.
    inner = F.logsigmoid(upper) + F.logsigmoid(-lower)
    inner = inner + torch.log(-torch.expm1(-2 / 255 * inverse))
    inner = torch.where(x > 0.999, F.logsigmoid(-lower), inner)
    return torch.where(x < -0.999, F.logsigmoid(upper), inner)


def mixture(parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits (b, m, h, w), and means, logarithms of scales and slopes between colours, each (b, 3, m, h, w).

    Source: Salimans et al. 2017 (PixelCNN++) sec. 2.1 and 2.2; NVlabs/LSGM `distributions.py:DiscMixLogistic`.
    """
    shares, rest = parameters[:, :MIXTURE], parameters[:, MIXTURE:].unflatten(1, (3, 3 * MIXTURE))
    means, scales, slopes = rest.chunk(3, dim=2)
    return shares, means, scales.clamp(min=-7.0), slopes.tanh()


def _before(c: NVAEConfig) -> list[Cell]:
    cells = []
    for level in range(c.blocks):
        here, below = (c.encoder_width * multiple for multiple in c.multipliers[level : level + 2])
        cells += [Cell(c, here, here, "same") for _ in range(c.cells_before - 1)]
        cells.append(Cell(c, here, below, "down"))
    return cells


def _after(c: NVAEConfig) -> list[Cell]:
    cells = []
    for level in reversed(range(c.blocks)):
        here, below = (c.decoder_width * multiple for multiple in c.multipliers[level : level + 2])
        cells.append(Cell(c, below, here, "up", more=3))
        cells += [Cell(c, here, here, "same", more=3) for _ in range(c.cells_after - 1)]
    return cells


KINDS = {"nvae": NVAEConfig}
