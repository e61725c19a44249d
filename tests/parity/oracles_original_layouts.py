"""The original networks in a few lines each, as functions of weights under their original names.

They share no code with `baselines`: names, row orders, norms, paddings and embeddings are stated here a second time,
from openai/guided-diffusion, CompVis/latent-diffusion, ermongroup/ddim and yang-song/score_sde_pytorch, so that a
loader and a network that agree with them are right together. Everything is computed in float64, except the angles of
the timestep embedding, which the originals round to float32 as well.

Weights come into being when they are first asked for: a forward pass over an empty `Weights` writes the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Weights(dict[str, Tensor]):
    """Name to float32 tensor; a missing one is drawn, so that activations keep about unit size."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def of(self, name: str, *shape: int) -> Tensor:
        if name not in self:
            value = torch.randn(shape, generator=self.generator)
            if len(shape) == 1:
                value = value * 0.2 + (1.0 if name.endswith("weight") else 0.0)
            else:
                value = value / math.sqrt(math.prod(shape[1:]))
            self[name] = value
        assert tuple(self[name].shape) == shape, name
        return self[name].double()


def conv(w: Weights, name: str, x: Tensor, out: int, kernel: int = 3, **options: int) -> Tensor:
    weight = w.of(f"{name}.weight", out, x.shape[1], kernel, kernel)
    return F.conv2d(x, weight, w.of(f"{name}.bias", out), **({"padding": kernel // 2} | options))


def linear(w: Weights, name: str, x: Tensor, out: int, *, bias: bool = True) -> Tensor:
    weight = w.of(f"{name}.weight", out, x.shape[-1])
    return F.linear(x, weight, w.of(f"{name}.bias", out) if bias else None)


def group_norm(w: Weights, name: str, x: Tensor, eps: float, groups: int = 32) -> Tensor:
    """The variance is that of the population."""
    grouped = x.reshape(len(x), groups, -1)
    mean, variance = grouped.mean(-1, keepdim=True), grouped.var(-1, keepdim=True, unbiased=False)
    normal = ((grouped - mean) / torch.sqrt(variance + eps)).reshape(x.shape)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    channels = x.shape[1]
    return normal * w.of(f"{name}.weight", channels).view(shape) + w.of(f"{name}.bias", channels).view(shape)


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    width = x.shape[-1]
    return (x - mean) / torch.sqrt(variance + 1e-5) * w.of(f"{name}.weight", width) + w.of(f"{name}.bias", width)


def doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def halved(x: Tensor) -> Tensor:
    return (x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]) / 4


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def one_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(b, c, queries), (b, c, keys), (b, c, keys) to (b, c, queries)."""
    weight = torch.einsum("bct,bcs->bts", q, k) / math.sqrt(q.shape[1])
    return torch.einsum("bts,bcs->bct", torch.softmax(weight, dim=-1), v)


def cos_sin(t: Tensor, width: int) -> Tensor:
    half = width // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    angle = t.float()[:, None] * frequency[None]
    return torch.cat([torch.cos(angle), torch.sin(angle)], dim=1).double()


def sin_cos(t: Tensor, width: int) -> Tensor:
    half = width // 2
    frequency = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000) / (half - 1)))
    angle = t.float()[:, None] * frequency[None]
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1).double()


# --- guided-diffusion and the U-Net of latent-diffusion -------------------------------------------------------------


def guided_residual(
    w: Weights, name: str, x: Tensor, emb: Tensor, out: int, *, scale_shift: bool, change: str = ""
) -> Tensor:
    h = silu(group_norm(w, f"{name}.in_layers.0", x, 1e-5))
    if change == "up":
        h, x = doubled(h), doubled(x)
    elif change == "down":
        h, x = halved(h), halved(x)
    h = conv(w, f"{name}.in_layers.2", h, out)
    e = linear(w, f"{name}.emb_layers.1", silu(emb), 2 * out if scale_shift else out)[:, :, None, None]
    if scale_shift:
        h = group_norm(w, f"{name}.out_layers.0", h, 1e-5) * (1 + e[:, :out]) + e[:, out:]
    else:
        h = group_norm(w, f"{name}.out_layers.0", h + e, 1e-5)
    h = conv(w, f"{name}.out_layers.3", silu(h), out)
    return h + (x if x.shape[1] == out else conv(w, f"{name}.skip_connection", x, out, 1))


def rows(qkv: Tensor, heads: int, head: int, *, new_order: bool) -> list[Tensor]:
    """q, k and v of one head from (b, 3 channels, positions)."""
    c = qkv.shape[1] // (3 * heads)
    if new_order:
        return [qkv[:, (part * heads + head) * c : (part * heads + head + 1) * c] for part in range(3)]
    return [qkv[:, (head * 3 + part) * c : (head * 3 + part + 1) * c] for part in range(3)]


def guided_attention(w: Weights, name: str, x: Tensor, heads: int, *, new_order: bool) -> Tensor:
    b, c, height, width = x.shape
    flat = group_norm(w, f"{name}.norm", x, 1e-5).reshape(b, c, -1)
    qkv = F.conv1d(flat, w.of(f"{name}.qkv.weight", 3 * c, c, 1), w.of(f"{name}.qkv.bias", 3 * c))
    h = torch.cat([one_head(*rows(qkv, heads, head, new_order=new_order)) for head in range(heads)], dim=1)
    h = F.conv1d(h, w.of(f"{name}.proj_out.weight", c, c, 1), w.of(f"{name}.proj_out.bias", c))
    return x + h.reshape(b, c, height, width)


def token_attention(w: Weights, name: str, x: Tensor, context: Tensor, heads: int, head_width: int, out: str) -> Tensor:
    """Queries of x, keys and values of the context, (b, tokens, width) each."""
    inner = heads * head_width
    q, k, v = (
        linear(w, f"{name}.to_{letter}", source, inner, bias=False).transpose(1, 2)
        for letter, source in (("q", x), ("k", context), ("v", context))
    )
    parts = [slice(i * head_width, (i + 1) * head_width) for i in range(heads)]
    h = torch.cat([one_head(q[:, p], k[:, p], v[:, p]) for p in parts], dim=1).transpose(1, 2)
    return linear(w, f"{name}.{out}", h, x.shape[-1])


def spatial_transformer(w: Weights, name: str, x: Tensor, context: Tensor, heads: int, depth: int) -> Tensor:
    b, c, height, width = x.shape
    head_width = c // heads
    inner = heads * head_width
    h = conv(w, f"{name}.proj_in", group_norm(w, f"{name}.norm", x, 1e-6), inner, 1)
    h = h.reshape(b, inner, -1).transpose(1, 2)
    for i in range(depth):
        block = f"{name}.transformer_blocks.{i}"
        y = layer_norm(w, f"{block}.norm1", h)
        h = h + token_attention(w, f"{block}.attn1", y, y, heads, head_width, "to_out.0")
        y = layer_norm(w, f"{block}.norm2", h)
        h = h + token_attention(w, f"{block}.attn2", y, context, heads, head_width, "to_out.0")
        value, gate = linear(w, f"{block}.ff.net.0.proj", layer_norm(w, f"{block}.norm3", h), 8 * inner).chunk(
            2, dim=-1
        )
        h = h + linear(w, f"{block}.ff.net.2", value * gelu(gate), inner)
    return x + conv(w, f"{name}.proj_out", h.transpose(1, 2).reshape(b, inner, height, width), c, 1)


def guided_unet(
    w: Weights,
    x: Tensor,
    t: Tensor,
    *,
    width: int,
    out_channels: int,
    mult: Sequence[float],
    blocks: int,
    attention: Sequence[int],
    heads: int = 1,
    heads_up: int | None = None,
    head_channels: int = -1,
    new_order: bool = False,
    scale_shift: bool = False,
    updown: bool = False,
    convolutions: bool = True,
    classes: int | None = None,
    y: Tensor | None = None,
    context: Tensor | None = None,
    depth: int = 1,
    low_res: Tensor | None = None,
    encoder_only: bool = False,
) -> list[Tensor]:
    """The output; or, of the encoder alone, all of its feature maps and that of the middle."""
    x = x.double()
    if low_res is not None:
        x = torch.cat([x, F.interpolate(low_res.double(), x.shape[2:], mode="bilinear", align_corners=False)], dim=1)
    emb = linear(w, "time_embed.2", silu(linear(w, "time_embed.0", cos_sin(t, width), 4 * width)), 4 * width)
    if classes is not None:
        assert y is not None
        emb = emb + w.of("label_emb.weight", classes, 4 * width)[y]

    def attend(name: str, h: Tensor, count: int) -> Tensor:
        count = count if head_channels == -1 else h.shape[1] // head_channels
        if context is not None:
            return spatial_transformer(w, name, h, context.double(), count, depth)
        return guided_attention(w, name, h, count, new_order=new_order)

    def residual(name: str, h: Tensor, out: int, change: str = "") -> Tensor:
        return guided_residual(w, name, h, emb, out, scale_shift=scale_shift, change=change)

    h = conv(w, "input_blocks.0.0", x, int(mult[0] * width))
    skips, index, ds = [h], 1, 1
    for level, m in enumerate(mult):
        for _ in range(blocks):
            h = residual(f"input_blocks.{index}.0", h, int(m * width))
            if ds in attention:
                h = attend(f"input_blocks.{index}.1", h, heads)
            skips.append(h)
            index += 1
        if level < len(mult) - 1:
            name = f"input_blocks.{index}.0"
            if updown:
                h = residual(name, h, h.shape[1], "down")
            else:
                h = conv(w, f"{name}.op", h, h.shape[1], stride=2) if convolutions else halved(h)
            skips.append(h)
            index += 1
            ds *= 2
    h = residual("middle_block.0", h, h.shape[1])
    h = attend("middle_block.1", h, heads)
    h = residual("middle_block.2", h, h.shape[1])
    if encoder_only:
        return [*skips, h]
    index = 0
    for level in range(len(mult) - 1, -1, -1):
        for i in range(blocks + 1):
            h = residual(f"output_blocks.{index}.0", torch.cat([h, skips.pop()], dim=1), int(mult[level] * width))
            position = 1
            if ds in attention:
                h = attend(f"output_blocks.{index}.1", h, heads_up or heads)
                position = 2
            if level and i == blocks:
                name = f"output_blocks.{index}.{position}"
                if updown:
                    h = residual(name, h, h.shape[1], "up")
                else:
                    h = doubled(h)
                    h = conv(w, f"{name}.conv", h, h.shape[1]) if convolutions else h
                ds //= 2
            index += 1
    return [conv(w, "out.2", silu(group_norm(w, "out.0", h, 1e-5)), out_channels)]


def guided_classifier(w: Weights, x: Tensor, t: Tensor, *, classes: int, pool: str, **trunk: object) -> Tensor:
    """EncoderUNetModel; attention pooling computes the outputs of all positions and keeps the first."""
    maps = guided_unet(w, x, t, out_channels=0, encoder_only=True, **trunk)  # type: ignore[arg-type]
    if pool.startswith("spatial"):
        h = linear(w, "out.0", torch.cat([m.mean(dim=(2, 3)) for m in maps], dim=1), 2048)
        if pool == "spatial":
            return linear(w, "out.2", h.clamp(min=0), classes)
        return linear(w, "out.3", silu(group_norm(w, "out.1", h, 1e-5)), classes)
    h = silu(group_norm(w, "out.0", maps[-1], 1e-5))
    if pool == "adaptive":
        return conv(w, "out.3", h.mean(dim=(2, 3), keepdim=True), classes, 1)[:, :, 0, 0]
    b, c = h.shape[:2]
    h = h.reshape(b, c, -1)
    h = torch.cat([h.mean(dim=-1, keepdim=True), h], dim=-1)
    h = h + w.of("out.2.positional_embedding", c, h.shape[-1])
    qkv = F.conv1d(h, w.of("out.2.qkv_proj.weight", 3 * c, c, 1), w.of("out.2.qkv_proj.bias", 3 * c))
    heads = c // int(trunk["head_channels"])  # type: ignore[call-overload]
    h = torch.cat([one_head(*rows(qkv, heads, head, new_order=True)) for head in range(heads)], dim=1)
    return F.conv1d(h, w.of("out.2.c_proj.weight", classes, c, 1), w.of("out.2.c_proj.bias", classes))[:, :, 0]


# --- DDPM in PyTorch, and the autoencoders of latent-diffusion ------------------------------------------------------


def ddpm_residual(w: Weights, name: str, x: Tensor, emb: Tensor | None, out: int) -> Tensor:
    h = conv(w, f"{name}.conv1", silu(group_norm(w, f"{name}.norm1", x, 1e-6)), out)
    if emb is not None:
        h = h + linear(w, f"{name}.temb_proj", silu(emb), out)[:, :, None, None]
    h = conv(w, f"{name}.conv2", silu(group_norm(w, f"{name}.norm2", h, 1e-6)), out)
    return h + (x if x.shape[1] == out else conv(w, f"{name}.nin_shortcut", x, out, 1))


def ddpm_attention(w: Weights, name: str, x: Tensor) -> Tensor:
    normal = group_norm(w, f"{name}.norm", x, 1e-6)
    h = one_head(*(conv(w, f"{name}.{letter}", normal, x.shape[1], 1).flatten(2) for letter in "qkv"))
    return x + conv(w, f"{name}.proj_out", h.reshape(x.shape), x.shape[1], 1)


def ddpm_middle(w: Weights, prefix: str, h: Tensor, emb: Tensor | None, *, attends: bool = True) -> Tensor:
    h = ddpm_residual(w, f"{prefix}mid.block_1", h, emb, h.shape[1])
    if attends:
        h = ddpm_attention(w, f"{prefix}mid.attn_1", h)
    return ddpm_residual(w, f"{prefix}mid.block_2", h, emb, h.shape[1])


def ddpm_down(
    w: Weights,
    prefix: str,
    x: Tensor,
    emb: Tensor | None,
    *,
    ch: int,
    mult: Sequence[int],
    blocks: int,
    attention: Sequence[int],
    resolution: int,
    attends: bool = True,
) -> list[Tensor]:
    """All feature maps of the encoder; a strided convolution pads below and on the right only."""
    maps = [conv(w, f"{prefix}conv_in", x, ch)]
    for level, m in enumerate(mult):
        for i in range(blocks):
            h = ddpm_residual(w, f"{prefix}down.{level}.block.{i}", maps[-1], emb, ch * m)
            if resolution in attention and attends:
                h = ddpm_attention(w, f"{prefix}down.{level}.attn.{i}", h)
            maps.append(h)
        if level < len(mult) - 1:
            padded = F.pad(maps[-1], (0, 1, 0, 1))
            maps.append(conv(w, f"{prefix}down.{level}.downsample.conv", padded, ch * m, stride=2, padding=0))
            resolution //= 2
    return maps


def ddpm_up(
    w: Weights,
    prefix: str,
    h: Tensor,
    emb: Tensor | None,
    skips: list[Tensor],
    *,
    ch: int,
    mult: Sequence[int],
    blocks: int,
    attention: Sequence[int],
    resolution: int,
    attends: bool = True,
) -> Tensor:
    resolution //= 2 ** (len(mult) - 1)
    for level in range(len(mult) - 1, -1, -1):
        for i in range(blocks + 1):
            joined = torch.cat([h, skips.pop()], dim=1) if skips else h
            h = ddpm_residual(w, f"{prefix}up.{level}.block.{i}", joined, emb, ch * mult[level])
            if resolution in attention and attends:
                h = ddpm_attention(w, f"{prefix}up.{level}.attn.{i}", h)
        if level:
            h = doubled(h)
            h = conv(w, f"{prefix}up.{level}.upsample.conv", h, h.shape[1])
            resolution *= 2
    return h


def ddpm_end(w: Weights, prefix: str, h: Tensor, out: int) -> Tensor:
    return conv(w, f"{prefix}conv_out", silu(group_norm(w, f"{prefix}norm_out", h, 1e-6)), out)


def ddpm_unet(w: Weights, x: Tensor, t: Tensor, *, out: int, **levels: object) -> Tensor:
    ch = int(levels["ch"])  # type: ignore[call-overload]
    emb = linear(w, "temb.dense.1", silu(linear(w, "temb.dense.0", sin_cos(t, ch), 4 * ch)), 4 * ch)
    maps = ddpm_down(w, "", x.double(), emb, **levels)  # type: ignore[arg-type]
    h = ddpm_middle(w, "", maps[-1], emb)
    return ddpm_end(w, "", ddpm_up(w, "", h, emb, maps, **levels), out)  # type: ignore[arg-type]


def first_stage_encode(
    w: Weights, x: Tensor, *, z_channels: int, embed_dim: int, double: bool, **levels: object
) -> Tensor:
    """Moments of AutoencoderKL (`double`), latents of VQModelInterface."""
    k = 2 if double else 1
    h = ddpm_down(w, "encoder.", x.double(), None, **levels)[-1]  # type: ignore[arg-type]
    h = ddpm_middle(w, "encoder.", h, None, attends=bool(levels.get("attends", True)))
    return conv(w, "quant_conv", ddpm_end(w, "encoder.", h, k * z_channels), k * embed_dim, 1)


def first_stage_decode(w: Weights, z: Tensor, *, z_channels: int, codes: int = 0, **levels: object) -> Tensor:
    z = z.double()
    if codes:
        table = w.of("quantize.embedding.weight", codes, z.shape[1])
        distance = (z[:, None] - table[None, :, :, None, None]).square().sum(dim=2)
        z = table[distance.argmin(dim=1)].permute(0, 3, 1, 2)
    mult, ch = levels["mult"], int(levels["ch"])  # type: ignore[call-overload]
    h = conv(w, "decoder.conv_in", conv(w, "post_quant_conv", z, z_channels, 1), ch * mult[-1])  # type: ignore[index]
    h = ddpm_middle(w, "decoder.", h, None, attends=bool(levels.get("attends", True)))
    return ddpm_end(w, "decoder.", ddpm_up(w, "decoder.", h, None, [], **levels), 3)  # type: ignore[arg-type]


# --- the text encoder of latent-diffusion ---------------------------------------------------------------------------


def bert_embedder(w: Weights, tokens: Tensor, *, vocabulary: int, length: int, width: int, layers: int) -> Tensor:
    """8 heads of 64 channels, whatever the width."""
    x = w.of("transformer.token_emb.weight", vocabulary, width)[tokens]
    x = x + w.of("transformer.pos_emb.emb.weight", length, width)[: tokens.shape[1]]
    for i in range(layers):
        attention, feed = (f"transformer.attn_layers.layers.{2 * i + k}" for k in (0, 1))
        y = layer_norm(w, f"{attention}.0", x)
        x = x + token_attention(w, f"{attention}.1", y, y, 8, 64, "to_out")
        y = gelu(linear(w, f"{feed}.1.net.0.0", layer_norm(w, f"{feed}.0", x), 4 * width))
        x = x + linear(w, f"{feed}.1.net.2", y, width)
    x = layer_norm(w, "transformer.norm", x)
    linear(w, "transformer.to_logits", x, vocabulary)  # in the file, not in the output
    return x


# --- score_sde ------------------------------------------------------------------------------------------------------


def fir(x: Tensor, *, up: int = 1, down: int = 1, pad: tuple[int, int], gain: float = 1.0) -> Tensor:
    """upfirdn2d with [1, 3, 3, 1]: zeros between the pixels, zeros around them, a correlation, every down-th pixel."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8 * math.sqrt(gain)
    for dim in (2, 3):
        x = x.movedim(dim, -1)
        wide = torch.zeros(*x.shape[:-1], x.shape[-1] * up, dtype=x.dtype)
        wide[..., ::up] = x
        wide = F.pad(wide, pad)
        size = wide.shape[-1] - 3
        x = sum(taps[j] * wide[..., j : j + size] for j in range(4))[..., ::down].movedim(-1, dim)
    return x


def fir_up(x: Tensor) -> Tensor:
    return fir(x, up=2, pad=(2, 1), gain=4.0)


def fir_down(x: Tensor) -> Tensor:
    return fir(x, down=2, pad=(1, 1))


def nin(w: Weights, name: str, x: Tensor) -> Tensor:
    channels = x.shape[1]
    mixed = torch.einsum("bchw,cd->bdhw", x, w.of(f"{name}.W", channels, channels))
    return mixed + w.of(f"{name}.b", channels).view(1, -1, 1, 1)


def ncsnpp(
    w: Weights,
    x: Tensor,
    t: Tensor,
    *,
    width: int,
    mult: Sequence[int],
    blocks: int,
    attention: Sequence[int],
    filtered: bool,
    progressive_input: str,
    progressive: str,
    combine: str,
    fourier: bool,
    by_sigma: bool,
    centered: bool,
    told: int = 0,
    z: Tensor | None = None,
    style: int = 0,
    mapping: int = 0,
    styled: int = 2,
    tanh: bool = False,
    outputs: int | None = None,
) -> Tensor:
    """NCSN++ and DDPM++ with BigGAN's blocks; `attention` are sides of feature maps. Images are those of the data.

    `told` is the width of the features of the time in the prior of LSGM. With z it is the generator of DDGAN: `styled`
    norms of a block are without weights of their own, and scaled and shifted by what `mapping` + 1 layers make of z.
    The network of CLD is the same, of twice as many channels as it returns, told the logarithm of the time.
    """
    count = 0
    vector = torch.empty(0)
    if z is not None:
        vector = z.double() / torch.sqrt((z.double() ** 2).mean(1, keepdim=True) + 1e-8)
        for layer in range(mapping + 1):
            vector = silu(linear(w, f"z_transform.{1 + 2 * layer}", vector, style))
    larger, smaller = (fir_up, fir_down) if filtered else (doubled, halved)

    def unit() -> str:
        nonlocal count
        count += 1
        return f"all_modules.{count - 1}"

    def norm(name: str, h: Tensor) -> Tensor:
        return group_norm(w, name, h, 1e-6, min(h.shape[1] // 4, 32))

    def block_norm(name: str, number: int, h: Tensor) -> Tensor:
        if z is None or number >= styled:
            return norm(f"{name}.GroupNorm_{number}", h)
        grouped = h.reshape(len(h), min(h.shape[1] // 4, 32), -1)
        mean, variance = grouped.mean(-1, keepdim=True), grouped.var(-1, keepdim=True, unbiased=False)
        normal = ((grouped - mean) / torch.sqrt(variance + 1e-6)).reshape(h.shape)
        told = linear(w, f"{name}.GroupNorm_{number}.style", vector, 2 * h.shape[1])
        return told[:, : h.shape[1], None, None] * normal + told[:, h.shape[1] :, None, None]

    def block(h: Tensor, out: int, change: str = "") -> Tensor:
        name, before = unit(), h
        h = silu(block_norm(name, 0, h))
        if change:
            h, before = (larger(h), larger(before)) if change == "up" else (smaller(h), smaller(before))
        h = conv(w, f"{name}.Conv_0", h, out)
        h = h + linear(w, f"{name}.Dense_0", silu(emb), out)[:, :, None, None]
        h = conv(w, f"{name}.Conv_1", silu(block_norm(name, 1, h)), out)
        if change or before.shape[1] != out:
            before = conv(w, f"{name}.Conv_2", before, out, 1)
        return (before + h) / math.sqrt(2)

    def attends(h: Tensor) -> Tensor:
        name = unit()
        normal = norm(f"{name}.GroupNorm_0", h)
        q, k, v = (nin(w, f"{name}.NIN_{n}", normal).flatten(2) for n in range(3))
        return (h + nin(w, f"{name}.NIN_3", one_head(q, k, v).view(h.shape))) / math.sqrt(2)

    if fourier:
        frequency = w.of(f"{unit()}.W", width)
        angle = torch.log(t.double())[:, None] * frequency[None] * 2 * math.pi
        emb = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)
    else:
        emb = sin_cos(t, told or width)
    emb = linear(w, unit(), emb, 4 * (told or width))
    emb = linear(w, unit(), silu(emb), 4 * (told or width))
    x = x if centered else 2 * x - 1
    h, copy = conv(w, unit(), x, width), x
    skips = [h]
    for level, multiple in enumerate(mult):
        for _ in range(blocks):
            h = block(h, multiple * width)
            h = attends(h) if h.shape[-1] in attention else h
            skips.append(h)
        if level < len(mult) - 1:
            h = block(h, h.shape[1], "down")
            if progressive_input == "residual":
                name = unit()
                if filtered:
                    copy = conv(w, f"{name}.Conv2d_0", fir(copy, pad=(2, 2)), h.shape[1], stride=2, padding=0)
                else:
                    copy = conv(w, f"{name}.Conv_0", F.pad(copy, (0, 1, 0, 1)), h.shape[1], stride=2, padding=0)
                h = copy = (copy + h) / math.sqrt(2)
            elif progressive_input == "input_skip":
                copy = smaller(copy)
                joined = conv(w, f"{unit()}.Conv_0", copy, h.shape[1], 1)
                h = joined + h if combine == "sum" else torch.cat([joined, h], dim=1)
            skips.append(h)
    channels = h.shape[1]
    h = block(attends(block(h, channels)), channels)
    image = None
    for level, multiple in reversed(list(enumerate(mult))):
        for _ in range(blocks + 1):
            h = block(torch.cat([h, skips.pop()], dim=1), multiple * width)
        h = attends(h) if h.shape[-1] in attention else h
        if progressive == "output_skip":
            normal = silu(norm(unit(), h))
            part = conv(w, unit(), normal, outputs or x.shape[1])
            image = part if image is None else larger(image) + part
        if level:
            h = block(h, h.shape[1], "up")
    if image is None:
        normal = silu(norm(unit(), h))
        image = conv(w, unit(), normal, outputs or x.shape[1])
    image = torch.tanh(image) if tanh else image
    return image / t.double().view(-1, 1, 1, 1) if by_sigma else image


def written(path: Path, raw: Weights, average: Weights | None = None, **ema: Any) -> Path:
    """A file of score_sde: DataParallel's names, and the average as a list of what requires a gradient."""
    listed = [value for name, value in (average or raw).items() if not name.endswith(".W") or value.ndim > 1]
    model = {"module.sigmas": torch.linspace(50.0, 0.01, 7, dtype=torch.float64)}
    model |= {f"module.{name}": value for name, value in raw.items()}
    content = {
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 2e-4}]},
        "model": model,
        "ema": {"decay": 0.999, "num_updates": 3, "shadow_params": listed} | ema,
        "step": 3,
    }
    torch.save(content, path)
    return path


# --- EDM ------------------------------------------------------------------------------------------------------------


def song_unet(
    w: Weights,
    x: Tensor,
    t: Tensor,
    y: Tensor,
    *,
    width: int,
    mult: Sequence[int],
    blocks: int,
    attention: Sequence[int],
    filtered: bool,
    encoder: str,
    decoder: str,
    fourier: bool,
    labels: int = 0,
    outputs: int = 3,
) -> Tensor:
    """The network of EDM in the kind of NCSN++ and DDPM++: attention within blocks, names by side, one-hot labels."""
    larger, smaller = (fir_up, fir_down) if filtered else (doubled, halved)

    def norm(name: str, h: Tensor) -> Tensor:
        return group_norm(w, name, h, 1e-6, min(32, h.shape[1] // 4))

    def block(name: str, h: Tensor, out: int, change: str = "", *, attends: bool = False) -> Tensor:
        before, h = h, silu(norm(f"{name}.norm0", h))
        if change:
            h, before = (larger(h), larger(before)) if change == "up" else (smaller(h), smaller(before))
        h = conv(w, f"{name}.conv0", h, out) + linear(w, f"{name}.affine", emb, out)[:, :, None, None]
        h = conv(w, f"{name}.conv1", silu(norm(f"{name}.norm1", h)), out)
        if change or before.shape[1] != out:
            before = conv(w, f"{name}.skip", before, out, 1)
        h = (h + before) * math.sqrt(0.5)
        if attends:
            fused = conv(w, f"{name}.qkv", norm(f"{name}.norm2", h), 3 * out, 1)
            q, k, v = fused.reshape(len(h), out, 3, -1).unbind(2)
            h = (conv(w, f"{name}.proj", one_head(q, k, v).reshape(h.shape), out, 1) + h) * math.sqrt(0.5)
        return h

    if fourier:
        angle = t.double()[:, None] * (2 * math.pi * w.of("map_noise.freqs", width))[None]
        emb = torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)
    else:
        emb = sin_cos(t, width)
    if labels:
        told = F.one_hot(y, labels + 1)[:, :labels].double() * math.sqrt(labels)  # a label more is none
        emb = emb + linear(w, "map_label", told, emb.shape[1])
    emb = silu(linear(w, "map_layer0", emb, 4 * width))
    emb = silu(linear(w, "map_layer1", emb, 4 * width))
    side, copy = x.shape[-1], x
    h = conv(w, f"enc.{side}x{side}_conv", x, width)
    skips = [h]
    for level, multiple in enumerate(mult):
        name = f"enc.{side >> level}x{side >> level}"
        if level:
            h = block(f"{name}_down", h, h.shape[1], "down")
            skips.append(h)
            if encoder == "skip":
                copy = smaller(copy)
                h = skips[-1] = h + conv(w, f"{name}_aux_skip", copy, h.shape[1], 1)
            elif encoder == "residual":
                # The convolution first, then the filter, as the original does at once.
                wide = conv(w, f"{name}_aux_residual", copy, h.shape[1], padding=2)
                h = skips[-1] = copy = (h + fir(wide, down=2, pad=(0, 0))) / math.sqrt(2)
        for number in range(blocks):
            attends = side >> level in attention
            h = block(f"{name}_block{number}", h, multiple * width, attends=attends)
            skips.append(h)
    image = None
    for level, multiple in reversed(list(enumerate(mult))):
        name = f"dec.{side >> level}x{side >> level}"
        if level == len(mult) - 1:
            h = block(f"{name}_in1", block(f"{name}_in0", h, h.shape[1], attends=True), h.shape[1])
        else:
            h = block(f"{name}_up", h, h.shape[1], "up")
        for number in range(blocks + 1):
            attends = number == blocks and side >> level in attention
            joined = torch.cat([h, skips.pop()], dim=1)
            h = block(f"{name}_block{number}", joined, multiple * width, attends=attends)
        if decoder == "skip" or level == 0:
            part = conv(w, f"{name}_aux_conv", silu(norm(f"{name}_aux_norm", h)), outputs)
            image = part if image is None else larger(image) + part
    assert image is not None
    return image


# --- LSGM -----------------------------------------------------------------------------------------------------------


def length_conv(
    w: Weights, name: str, x: Tensor, out: int, kernel: int, *, bias: bool = True, **options: int
) -> Tensor:
    """A convolution of LSGM: filters of a direction and of the logarithm of a length."""
    direction = w.of(f"{name}.weight", out, x.shape[1], kernel, kernel)
    length = torch.sqrt((direction**2).sum((1, 2, 3), keepdim=True))
    weight = torch.exp(w.of(f"{name}.log_weight_norm", out, 1, 1, 1)) * direction / (length + 1e-5)
    return F.conv2d(x, weight, w.of(f"{name}.bias", out) if bias else None, **({"padding": kernel // 2} | options))


def bare_conv(
    w: Weights, name: str, x: Tensor, out: int, kernel: int, *, groups: int = 1, bias: bool = False
) -> Tensor:
    weight = w.of(f"{name}.weight", out, x.shape[1] // groups, kernel, kernel)
    # Such a convolution calls its weight by a second name as well.
    w[f"{name}.weight_normalized"] = w[f"{name}.weight"]
    return F.conv2d(x, weight, w.of(f"{name}.bias", out) if bias else None, padding=kernel // 2, groups=groups)


def batch_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """By the statistics of training."""
    count = x.shape[1]
    if f"{name}.running_var" not in w:
        w[f"{name}.running_var"] = 0.5 + torch.rand(count, generator=w.generator)
        w[f"{name}.num_batches_tracked"] = torch.tensor(7)
    shape = (1, -1, 1, 1)
    mean, variance = w.of(f"{name}.running_mean", count), w.of(f"{name}.running_var", count)
    normal = (x - mean.view(shape)) / torch.sqrt(variance.view(shape) + 1e-5)
    return normal * w.of(f"{name}.weight", count).view(shape) + w.of(f"{name}.bias", count).view(shape)


def nvae_cell(w: Weights, name: str, x: Tensor, out: int, change: str, branch: str, *, squeeze: bool) -> Tensor:
    """A residual cell; `branch` is "conv", "double", or a number of times more channels."""
    skip, stride = x, 2 if change == "down" else 1
    if change == "up":
        side = x.shape[-1]
        place = torch.linspace(0, side - 1, 2 * side, dtype=torch.float64)
        low = place.floor().clamp(max=side - 2).long() if side > 1 else torch.zeros(2 * side, dtype=torch.int64)
        part = place - low
        rows = x[:, :, low] * (1 - part)[:, None] + x[:, :, (low + 1).clamp(max=side - 1)] * part[:, None]
        wide = rows[..., low] * (1 - part) + rows[..., (low + 1).clamp(max=side - 1)] * part
        skip = length_conv(w, f"{name}.skip.1", wide, out, 1, bias=False)
    elif change == "down":
        active, quarter = silu(x), out // 4
        shifted = (active, active[:, :, 1:, 1:], active[:, :, :, 1:], active[:, :, 1:, :])
        sizes = (quarter, quarter, quarter, out - 3 * quarter)
        skip = torch.cat(
            [
                length_conv(w, f"{name}.skip.conv_{n}", part, size, 1, stride=2)
                for n, (part, size) in enumerate(zip(shifted, sizes, strict=True), 1)
            ],
            dim=1,
        )

    def larger(h: Tensor) -> Tensor:
        return doubled(h) if change == "up" else h

    ops = f"{name}._ops"
    if branch == "conv":
        h = length_conv(w, f"{ops}.0.conv_0", larger(silu(batch_norm(w, f"{ops}.0.bn_act", x))), out, 3, stride=stride)
        h = length_conv(w, f"{ops}.1.conv_0", silu(batch_norm(w, f"{ops}.1.bn_act", h)), out, 3)
    elif branch == "double":
        h = bare_conv(w, f"{ops}.0.conv_0", larger(silu(batch_norm(w, f"{ops}.0.bn_act_0", x))), out, 3)
        h = h[:, :, ::stride, ::stride]
        h = length_conv(w, f"{ops}.0.conv_1", silu(batch_norm(w, f"{ops}.0.bn_act_1", h)), out, 3)
    else:
        first, inner = int(change == "up"), int(branch) * x.shape[1]
        names = [f"{ops}.0.conv.{first + n}" for n in range(5)]
        h = bare_conv(w, f"{names[1]}.conv.0", batch_norm(w, f"{names[0]}.bn", larger(x)), inner, 1)
        h = silu(batch_norm(w, f"{names[1]}.conv.1", h))
        h = silu(batch_norm(w, f"{names[2]}.conv.1", bare_conv(w, f"{names[2]}.conv.0", h, inner, 5, groups=inner)))
        h = batch_norm(w, f"{names[4]}.bn", bare_conv(w, names[3], h, out, 1))
    if squeeze:
        told = linear(w, f"{name}.se.se.0", h.mean((2, 3)), max(out // 16, 4)).clamp(min=0)
        h = h / (1 + torch.exp(-linear(w, f"{name}.se.se.2", told, out)))[:, :, None, None]
    return skip + 0.1 * h


def elu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.expm1(x.clamp(max=0)))


def causal_conv(
    w: Weights, name: str, x: Tensor, out: int, kernel: int, *, own: bool, mirror: bool, each: bool
) -> Tensor:
    """Every weight is asked whether its position, and then its channel, comes before that of the output."""
    inside = 1 if each else x.shape[1]
    stored = w.of(f"{name}.weight", out, inside, kernel, kernel).clone()
    middle = kernel // 2
    for o in range(out):
        for i in range(inside):
            for row in range(kernel):
                for column in range(kernel):
                    place = (row - middle) * kernel + column - middle
                    place = -place if mirror else place
                    if each:
                        before = own
                    else:
                        few = min(out, x.shape[1])
                        a, b = i // (x.shape[1] // few), o // (out // few)
                        before = a < b or (own and a == b)
                    if place > 0 or (place == 0 and not before):
                        stored[o, i, row, column] = 0
    length = torch.sqrt((stored**2).sum((1, 2, 3), keepdim=True))
    weight = torch.exp(w.of(f"{name}.log_weight_norm", out, 1, 1, 1)) * stored / (length + 1e-5)
    bias = w.of(f"{name}.bias", out) if kernel == 1 else None
    return F.conv2d(x, weight, bias, padding=middle, groups=x.shape[1] if each else 1)


def nvae(
    w: Weights,
    images: Tensor,
    draws: Sequence[Tensor],
    *,
    given: Sequence[Tensor] | None = None,
    wide: int,
    deep: int,
    mult: Sequence[int],
    groups: int,
    latents: int,
    before: int,
    after: int,
    encoder: int,
    decoder: int,
    branch: str,
    squeeze: bool,
    flows: int,
    outputs: int,
) -> tuple[Tensor, list[Tensor], Tensor]:
    """What says the pixels, the latents of all groups, and the log-density of the posterior there.

    Args:
        draws: standard normal noise of each group. With `given` latents the posterior is not used.
    """
    kind = branch if branch in ("conv", "double") else "conv"
    tower, post = ("6", "3") if branch == "inverted" else (branch, branch)
    top = mult[-1]

    def cell(name: str, h: Tensor, out: int, change: str, which: str) -> Tensor:
        return nvae_cell(w, name, h, out, change, which, squeeze=squeeze)

    s, number = length_conv(w, "stem", images, wide * mult[0], 3), 0
    for level in range(len(mult) - 1):
        for n in range(before):
            last = n == before - 1
            out = wide * mult[level + last]
            s, number = cell(f"pre_process.{number}", s, out, "down" if last else "", kind), number + 1
    number, left = 0, []
    for group in range(groups):
        for _ in range(encoder):
            s, number = cell(f"enc_tower.{number}", s, wide * top, "", kind), number + 1
        if group < groups - 1:
            left.append((f"enc_tower.{number}.conv", s))
            number += 1
    side = s.shape[-1]
    h, features = w.of("prior_ftr0", deep * top, side, side).expand(len(images), -1, -1, -1), s
    number, found, density = 0, [], torch.zeros(len(images), dtype=torch.float64)
    for group in range(groups):
        if group:
            name, seen = left[groups - 1 - group]
            features = seen + length_conv(w, name, h, wide * top, 1)
        mean, log_scale = length_conv(w, f"enc_sampler.{group}.1", elu(features), 2 * latents, 3).chunk(2, dim=1)
        mean, log_scale = 5 * torch.tanh(mean / 5), 5 * torch.tanh(log_scale / 5)
        z = mean + torch.exp(log_scale) * draws[group]
        density = density + (-0.5 * draws[group] ** 2 - 0.5 * math.log(2 * math.pi) - log_scale).sum((1, 2, 3))
        for flow in range(flows):
            for half, mirror in (("cell1", False), ("cell2", True)):
                name = f"nf_cells.{group * flows + flow}.{half}"
                u = causal_conv(w, f"{name}.conv.convz.0", z, 6 * latents, 3, own=False, mirror=mirror, each=False)
                u = causal_conv(w, f"{name}.conv.convz.2", elu(u), 6 * latents, 5, own=True, mirror=mirror, each=True)
                z = z - causal_conv(w, f"{name}.mu.conv_0", elu(u), latents, 1, own=True, mirror=mirror, each=False)
        z = z if given is None else given[group]
        found.append(z)
        beside = torch.cat([h, length_conv(w, f"eps_conv.{group}", z, latents, 3)], dim=1)
        h, number = length_conv(w, f"dec_tower.{number}.conv", beside, deep * top, 1), number + 1
        for _ in range(decoder):
            h, number = cell(f"dec_tower.{number}", h, deep * top, "", tower), number + 1
    number = 0
    for level in reversed(range(len(mult) - 1)):
        for n in range(after):
            h, number = cell(f"post_process.{number}", h, deep * mult[level], "" if n else "up", post), number + 1
    return length_conv(w, "image_conditional.1", elu(h), outputs, 3), found, density


def mixture_mean(said: Tensor) -> Tensor:
    """The mean of a pixel by ten logistic distributions, in which green sees red, and blue sees both."""
    share = torch.softmax(said[:, :10], dim=1)
    red, green, blue = said[:, 10:].reshape(len(said), 3, 30, *said.shape[2:]).unbind(1)

    def weighed(values: Tensor) -> Tensor:
        return (share * values).sum(1)

    a = weighed(red[:, :10]).clamp(-1, 1)
    b = (weighed(green[:, :10]) + weighed(torch.tanh(red[:, 20:])) * a).clamp(-1, 1)
    c = weighed(blue[:, :10]) + weighed(torch.tanh(green[:, 20:])) * a + weighed(torch.tanh(blue[:, 20:])) * b
    return torch.stack([a, b, c.clamp(-1, 1)], dim=1)


def dhariwal_unet(
    w: Weights,
    x: Tensor,
    t: Tensor,
    labels: Tensor | None = None,
    *,
    outputs: int,
    width: int,
    mult: Sequence[int],
    blocks: int,
    attention: Sequence[int],
) -> Tensor:
    """The network of EDM in the kind of ADM; `labels` are vectors, one-hot or zero. A norm has at least 4 channels a
    group, and attention as many heads as 64 fits into the channels, and none of them is no attention."""

    def norm(name: str, h: Tensor) -> Tensor:
        return group_norm(w, name, h, 1e-5, min(32, h.shape[1] // 4))

    def block(name: str, h: Tensor, out: int, change: str = "", *, attends: bool = False) -> Tensor:
        before, h = h, silu(norm(f"{name}.norm0", h))
        if change:
            h, before = (doubled(h), doubled(before)) if change == "up" else (halved(h), halved(before))
        h = conv(w, f"{name}.conv0", h, out)
        e = linear(w, f"{name}.affine", emb, 2 * out)[:, :, None, None]
        h = silu(norm(f"{name}.norm1", h) * (1 + e[:, :out]) + e[:, out:])
        h = conv(w, f"{name}.conv1", h, out)
        h = h + (before if before.shape[1] == out else conv(w, f"{name}.skip", before, out, 1))
        heads = out // 64 if attends else 0
        if heads:
            fused = conv(w, f"{name}.qkv", norm(f"{name}.norm2", h), 3 * out, 1)
            each = fused.reshape(len(h), heads, out // heads, 3, -1)
            mixed = torch.cat([one_head(*each[:, head].unbind(2)) for head in range(heads)], dim=1)
            h = h + conv(w, f"{name}.proj", mixed.reshape(h.shape), out, 1)
        return h

    emb = linear(w, "map_layer1", silu(linear(w, "map_layer0", cos_sin(t, width), 4 * width)), 4 * width)
    if labels is not None:
        emb = emb + linear(w, "map_label", labels, 4 * width, bias=False)
    emb = silu(emb)
    side = x.shape[-1]
    h = conv(w, f"enc.{side}x{side}_conv", x, width * mult[0])
    skips = [h]
    for level, multiple in enumerate(mult):
        name = f"enc.{side >> level}x{side >> level}"
        if level:
            h = block(f"{name}_down", h, h.shape[1], "down")
            skips.append(h)
        for number in range(blocks):
            h = block(f"{name}_block{number}", h, width * multiple, attends=side >> level in attention)
            skips.append(h)
    for level, multiple in reversed(list(enumerate(mult))):
        name = f"dec.{side >> level}x{side >> level}"
        if level == len(mult) - 1:
            h = block(f"{name}_in1", block(f"{name}_in0", h, h.shape[1], attends=True), h.shape[1])
        else:
            h = block(f"{name}_up", h, h.shape[1], "up")
        for number in range(blocks + 1):
            joined = torch.cat([h, skips.pop()], dim=1)
            h = block(f"{name}_block{number}", joined, width * multiple, attends=side >> level in attention)
    return conv(w, "out_conv", silu(norm("out_norm", h)), outputs)


# --- NCSN and NCSNv2 ------------------------------------------------------------------------------------------------


def refine_net(
    w: Weights, x: Tensor, y: Tensor | None = None, *, width: int, levels: int | None, names: Sequence[str]
) -> Tensor:
    """RefineNets of ermongroup: `names` of the stages say which of the three; images are those of the data, [0, 1].

    NCSN is told the number of a level y and knows `levels`; NCSNv2 has neither, and is not yet divided by sigma.
    """
    multipliers = {4: (1, 2, 2, 2), 5: (1, 2, 2, 4, 4), 6: (1, 2, 2, 2, 4, 4)}[len(names)]

    def elu(h: Tensor) -> Tensor:
        return torch.where(h > 0, h, torch.exp(torch.clamp(h, max=0)) - 1)

    def norm(name: str, h: Tensor) -> Tensor:
        channels = h.shape[1]
        if levels is None:
            gamma, alpha, beta = (w.of(f"{name}.{letter}", channels)[None] for letter in ("gamma", "alpha", "beta"))
        else:
            assert y is not None
            gamma, alpha, beta = w.of(f"{name}.embed.weight", levels, 3 * channels)[y].chunk(3, dim=-1)
        means = h.mean(dim=(2, 3))
        apart = (means - means.mean(dim=-1, keepdim=True)) / torch.sqrt(means.var(dim=-1, keepdim=True) + 1e-5)
        flat = h.flatten(2)
        whole = (flat - flat.mean(-1, keepdim=True)) / torch.sqrt(flat.var(-1, keepdim=True, unbiased=False) + 1e-5)
        mixed = whole.view(h.shape) + (apart * alpha)[..., None, None]
        return gamma[..., None, None] * mixed + beta[..., None, None]

    def plain(name: str, h: Tensor, out: int) -> Tensor:
        return F.conv2d(h, w.of(f"{name}.weight", out, h.shape[1], 3, 3), padding=1)

    def residual(name: str, h: Tensor, out: int, dilation: int | None, *, down: bool) -> Tensor:
        before, channels = h, h.shape[1]
        spread = {"padding": dilation or 1, "dilation": dilation or 1}
        h = conv(w, f"{name}.conv1", elu(norm(f"{name}.normalize1", h)), channels if down else out, **spread)
        h = elu(norm(f"{name}.normalize2", h))
        if not down:
            return before + conv(w, f"{name}.conv2", h, out, **spread)
        if dilation:
            return conv(w, f"{name}.shortcut", before, out, **spread) + conv(w, f"{name}.conv2", h, out, **spread)
        h = halved(conv(w, f"{name}.conv2.conv", h, out))
        return h + halved(conv(w, f"{name}.shortcut.conv", before, out, 1))

    def units(name: str, h: Tensor, count: int) -> Tensor:
        for i in range(1, count + 1):
            before = h
            for j in (1, 2):
                h = h if levels is None else norm(f"{name}.{i}_{j}_norm", h)
                h = plain(f"{name}.{i}_{j}_conv", elu(h), h.shape[1])
            h = h + before
        return h

    def refine(name: str, maps: list[Tensor], out: int, count: int) -> Tensor:
        maps = [units(f"{name}.adapt_convs.{i}", h, 2) for i, h in enumerate(maps)]
        if len(maps) > 1:
            shape, h = maps[0].shape[2:], torch.zeros(())
            for i, each in enumerate(maps):
                each = each if levels is None else norm(f"{name}.msf.norms.{i}", each)
                each = conv(w, f"{name}.msf.convs.{i}", each, out)
                h = h + F.interpolate(each, size=shape, mode="bilinear", align_corners=True)
        else:
            h = maps[0]
        h = path = elu(h)
        for i in range(2):
            if levels is None:
                path = F.max_pool2d(path, 5, stride=1, padding=2)
            else:
                path = F.avg_pool2d(norm(f"{name}.crp.norms.{i}", path), 5, stride=1, padding=2)
            path = plain(f"{name}.crp.convs.{i}", path, out)
            h = path + h
        return units(f"{name}.output_convs", h, count)

    h, maps = conv(w, "begin_conv", 2 * x - 1, width), []
    for i, (name, multiple) in enumerate(zip(names, multipliers, strict=True)):
        dilation = {len(names) - 2: 2, len(names) - 1: 4}.get(i)
        h = residual(f"res{name}.0", h, multiple * width, dilation, down=i > 0)
        h = residual(f"res{name}.1", h, multiple * width, dilation, down=False)
        maps.append(h)
    order = ["1", "2", "31", "3", "4", "5"] if len(names) == 6 else names
    for k, name in enumerate(order):
        place = len(names) - 1 - k
        out = multipliers[max(place - 1, 0)] * width
        h = refine(f"refine{name}", [maps[place]] + ([h] if k else []), out, 1 if place else 3)
    return conv(w, "end_conv", elu(norm("normalizer", h)), x.shape[1])
