"""The blocks that every network here is built from. Each published block is a setting, not a copy.

Attention keeps its query, key and value rows in the order (3, heads, channels per head). Published files use
three different orders of the same shape, which load without an error and compute nonsense; `checkpoints`
converts them once, so that no forward pass has to know.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Resample = Literal["up", "down"] | None


def timestep_embedding(t: Tensor, width: int, *, order: Literal["sin_cos", "cos_sin"]) -> Tensor:
    """Sinusoidal features of the timestep.

    Args:
        t: (b,) timesteps, any float or integer dtype.
        width: even number of features.
        order: "sin_cos" is DDPM's, with frequencies 10000^(-i / (width/2 - 1)); "cos_sin" is that of improved
            diffusion, ADM and LDM, with frequencies 10000^(-i / (width/2)). They differ by more than the order.

    Returns:
        float32 (b, width).

    Source:
        Vaswani et al. 2017 sec. 3.5; hojonathanho/diffusion `nn.py`; openai/guided-diffusion `nn.py`.
    """
    half = width // 2
    span = half - 1 if order == "sin_cos" else half
    frequency = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10000.0) / span))
    angle = t.float()[:, None] * frequency
    parts = (angle.sin(), angle.cos()) if order == "sin_cos" else (angle.cos(), angle.sin())
    return torch.cat(parts, dim=1)


def groups_of(channels: int, groups: int, width: int | None = None) -> int:
    """How many groups a norm has: `groups`, or fewer where one would have less than `width` channels."""
    return groups if width is None else max(1, min(groups, channels // width))


class GroupNorm(nn.GroupNorm):
    """Group normalisation that is fast for small bfloat16 images in channels_last memory on a CPU.

    There torch's kernel takes many times as long as the sums below, most of a whole forward pass. Sums are accumulated
    in float32. From 1024 pixels on torch goes another way, which is faster than these sums. Everywhere else, and where
    torch compiles: torch's kernel.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.bfloat16:
            return super().forward(x)
        if x.ndim != 4 or x.shape[2] * x.shape[3] >= 1024:
            return super().forward(x)
        groups, (count, channels, height, width) = self.num_groups, x.shape
        pixels = x.permute(0, 2, 3, 1).reshape(count, height * width, channels)
        size = height * width * channels // groups
        mean = pixels.sum(1, dtype=torch.float32).view(count, groups, -1).sum(-1, keepdim=True) / size
        square = (pixels * pixels).sum(1, dtype=torch.float32).view(count, groups, -1).sum(-1, keepdim=True) / size
        scale = torch.rsqrt((square - mean * mean).clamp(min=0) + self.eps) * self.weight.float().view(1, groups, -1)
        shift = self.bias.float().view(1, groups, -1) - mean * scale
        scale, shift = (z.reshape(count, 1, channels).to(x.dtype) for z in (scale, shift))
        return torch.addcmul(shift, pixels, scale).view(count, height, width, channels).permute(0, 3, 1, 2)


class Linear(nn.Linear):
    """A linear layer for tokens, which on a CPU in float32 runs as the 1x1 convolution that it is.

    torch multiplies matrices by MKL, which on processors of other makers is slower than its convolutions are and no
    faster on others. `scripts/bench_sampling.py` measures whole networks.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.float32:
            return super().forward(x)
        if x.ndim != 3 or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        if self.weight.dtype != x.dtype or not torch.backends.mkldnn.is_available():
            return super().forward(x)
        # Tokens as the pixels of one image in channels_last memory; asked for by name, because conv2d leaves small
        # batches of 1x1 convolutions to MKL.
        pixels = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
        weight = self.weight[:, :, None, None]
        found = torch.mkldnn_convolution(pixels, weight, self.bias, (0, 0), (1, 1), (1, 1), 1)
        return found.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class Downsample(nn.Module):
    """Halves the resolution by a strided 3x3 convolution.

    `asymmetric` pads one row and column at the bottom and the right only, as TensorFlow's "SAME" does
    (DDPM, autoencoders of LDM); otherwise one on every side (improved diffusion, ADM, LDM's U-Net).
    """

    def __init__(self, channels: int, *, asymmetric: bool) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Upsample(nn.Module):
    """Doubles the resolution: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def resize(x: Tensor, way: Literal["up", "down"]) -> Tensor:
    """Doubles the resolution by repeating pixels, or halves it by averages of 2 x 2."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest") if way == "up" else F.avg_pool2d(x, 2)


class Resize(nn.Module):
    """A change of resolution without weights, see `resize`."""

    def __init__(self, way: Literal["up", "down"]) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return resize(x, self.way)


def modulated(h: Tensor, scale_shift: Tensor) -> Tensor:
    """Feature maps (b, c, h, w), scaled by 1 + the first c and shifted by the last c columns of (b, 2 c)."""
    scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
    return h * (1 + scale) + shift


class Mapping(nn.Sequential):
    """Maps a latent z, (b, size), brought to unit mean square, to a style, (b, width).

    Args:
        layers: each of which an activation follows.

    Source: Xiao et al. 2022 App. C; NVlabs/denoising-diffusion-gan `ncsnpp_generator_adagn.py` (`z_transform`).
    """

    def __init__(self, size: int, width: int, layers: int = 3) -> None:
        modules: list[nn.Module] = []
        for i in range(layers):
            modules += [nn.Linear(width if i else size, width), nn.SiLU()]
        super().__init__(*modules)

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt())


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, with an embedding in between.

    Args:
        embedding: width of the embedding vector, None for a block without one (autoencoders).
        modulation: "add" adds the projected embedding before the second norm (DDPM); "scale_shift" applies it
            after that norm as h * (1 + scale) + shift (AdaGN of improved diffusion and ADM, eq. 9 of ADM's App.).
        resample: "up" or "down" changes the resolution inside the block, between the first activation and the
            first convolution and on the skip alike (BigGAN's blocks, as ADM uses them).
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        embedding: int | None,
        modulation: Literal["add", "scale_shift"] = "add",
        resample: Resample = None,
        dropout: float = 0.0,
        groups: int = 32,
        group_width: int | None = None,
        eps: float = 1e-5,
        style: int | None = None,
    ) -> None:
        super().__init__()
        self.resample, self.modulation = resample, modulation
        self.norm1 = GroupNorm(groups_of(channels, groups, group_width), channels, eps=eps)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        if embedding is not None:
            self.embedding = nn.Linear(embedding, out_channels * (2 if modulation == "scale_shift" else 1))
        self.norm2 = GroupNorm(groups_of(out_channels, groups, group_width), out_channels, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        if style is not None:
            self.style1 = nn.Linear(style, 2 * channels)
            self.style2 = nn.Linear(style, 2 * out_channels)

    def _resize(self, x: Tensor) -> Tensor:
        return x if self.resample is None else resize(x, self.resample)

    def forward(self, x: Tensor, embedding: Tensor | None = None, style: Tensor | None = None) -> Tensor:
        """Maps (b, channels, h, w) and an activated embedding (b, width) to (b, out_channels, h', w')."""
        h = self.norm1(x) if style is None else modulated(self.norm1(x), self.style1(style))
        h = self.conv1(self._resize(F.silu(h)))
        if embedding is None:
            h = self.norm2(h)
        elif self.modulation == "add":
            h = self.norm2(h + self.embedding(embedding)[:, :, None, None])
        else:
            h = modulated(self.norm2(h), self.embedding(embedding))
        if style is not None:
            h = modulated(h, self.style2(style))
        return self.skip(self._resize(x)) + self.conv2(self.dropout(F.silu(h)))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, *, causal: bool = False) -> Tensor:
    """Scaled dot-product attention over (b, tokens, heads * width) tensors; causal: to no later token."""
    q, k, v = (z.unflatten(-1, (heads, -1)).transpose(1, 2) for z in (q, k, v))
    if q.device.type == "cpu" and not causal and k.shape[2] <= 256 and not torch.is_grad_enabled():
        # The fused kernel there saves memory, not time: on few tokens it takes longer.
        return ((q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)).softmax(-1).matmul(v).transpose(1, 2).flatten(2)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Attention among the positions of a feature map, with a residual connection."""

    def __init__(self, channels: int, *, heads: int = 1, groups: int = 32, eps: float = 1e-5) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be split among {heads} attention heads.")
        self.heads = heads
        self.norm = GroupNorm(groups, channels, eps=eps)
        self.qkv = Linear(channels, 3 * channels)
        self.out = Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        tokens = self.out(attend(q, k, v, self.heads))
        return x + tokens.transpose(1, 2).unflatten(2, x.shape[2:])


class Attention(nn.Module):
    """Attention of tokens over themselves or over a context.

    Args:
        width: of the tokens.
        heads, head_width: their product need not be `width`.
        context: width of the tokens that are attended to, None for the tokens themselves.
        bias: whether queries, keys and values have one (CLIP, not LDM).
        causal: whether a token attends to no later one.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        head_width: int,
        context: int | None = None,
        bias: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q = Linear(width, heads * head_width, bias=bias)
        self.kv = Linear(context or width, 2 * heads * head_width, bias=bias)
        self.out = Linear(heads * head_width, width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps (b, tokens, width), and (b, other tokens, context) if there is a context, to (b, tokens, width)."""
        keys, values = self.kv(x if context is None else context).chunk(2, dim=-1)
        return self.out(attend(self.q(x), keys, values, self.heads, causal=self.causal))


Activation = Literal["gelu", "geglu", "quick_gelu"]


class FeedForward(nn.Module):
    """Two linear layers, four times as wide in between.

    Args:
        activation: "gelu"; "geglu", which multiplies one half of twice as many channels by the GELU of the other
            (Shazeer 2020 eq. 6; LDM's U-Net); "quick_gelu", x times the logistic function of 1.702 x (OpenAI's CLIP).
    """

    def __init__(self, width: int, *, activation: Activation) -> None:
        super().__init__()
        self.activation = activation
        self.inner = Linear(width, 4 * width * (2 if activation == "geglu" else 1))
        self.outer = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        if self.activation == "geglu":
            x, gate = x.chunk(2, dim=-1)
            return self.outer(x * F.gelu(gate))
        return self.outer(F.gelu(x) if self.activation == "gelu" else x * torch.sigmoid(1.702 * x))


class TransformerBlock(nn.Module):
    """Self-attention, attention over a context if there is one, feed-forward; each after a norm and with a residual."""

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        head_width: int,
        context: int | None = None,
        activation: Activation = "geglu",
        bias: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads=heads, head_width=head_width, bias=bias, causal=causal)
        if context is not None:
            self.norm_cross = nn.LayerNorm(width)
            self.cross_attention = Attention(width, heads=heads, head_width=head_width, context=context)
        self.norm_feed = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, activation=activation)
        self.crosses = context is not None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps (b, tokens, width), and (b, other tokens, context) if there is a context, to (b, tokens, width)."""
        x = x + self.self_attention(self.norm_self(x))
        if self.crosses:
            x = x + self.cross_attention(self.norm_cross(x), context)
        return x + self.feed_forward(self.norm_feed(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks on the positions of a feature map, which attend to each other and to a context.

    Published files keep the two outer projections as 1x1 convolutions (LDM, SD v1) or as linear layers (SD v2): the
    same function.

    Source: Rombach et al. 2022 sec. 3.3 and App. E.2.1; CompVis/latent-diffusion `attention.py`.
    """

    def __init__(self, channels: int, *, heads: int, context: int, depth: int = 1, groups: int = 32) -> None:
        super().__init__()
        head_width = channels // heads
        width = heads * head_width
        self.norm = GroupNorm(groups, channels, eps=1e-6)
        self.inner = Linear(channels, width)
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads=heads, head_width=head_width, context=context) for _ in range(depth)
        )
        self.outer = Linear(width, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Maps (b, channels, h, w) and (b, tokens, context) to (b, channels, h, w)."""
        tokens = self.inner(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens = block(tokens, context)
        return x + self.outer(tokens).transpose(1, 2).unflatten(2, x.shape[2:])


class AttentionPool(nn.Module):
    """One vector of a feature map: attention with a single query, the mean of all positions.

    Args:
        positions: h * w of the feature map.
        out_channels: of the vector.

    Source:
        Radford et al. 2021 sec. 2.4; openai/guided-diffusion `unet.py:AttentionPool2d`, which computes the queries of
        all positions and drops all but this one.
    """

    def __init__(self, channels: int, positions: int, out_channels: int, *, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(torch.empty(positions + 1, channels))
        nn.init.normal_(self.position, std=channels**-0.5)
        self.qkv = Linear(channels, 3 * channels)
        self.out = Linear(channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (b, channels, h, w) to (b, out_channels)."""
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + self.position
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        return self.out(attend(q[:, :1], k, v, self.heads))[:, 0]
