"""How repositories name the weights of a network: layouts.

`parts` walks a network and says for each of its own weights which weights of a layout it is made of, so that "missing"
and "unexpected" are known before anything is loaded.

Layouts: "guided" (improved diffusion, ADM, LDM's U-Net), "ddpm" (DDPM in PyTorch, LDM's autoencoders, LDM's text
encoder and label table), "diffusers", "transformers" (CLIP's text encoder), "score_sde" (NCSN++ and DDPM++), "edm" (the
same, and ADM), "ncsn" (NCSN and NCSNv2), "nvae" (LSGM's autoencoder) and "baselines", this package's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from baselines.networks.autoencoder import AutoencoderKL, AutoencoderVQ
from baselines.networks.blocks import (
    Downsample,
    ResidualBlock,
    SelfAttention,
    SpatialTransformer,
    Upsample,
)
from baselines.networks.classifier import Classifier
from baselines.networks.ncsnpp import Attention, Block, Combine, Fourier, NCSNpp, Reduced
from baselines.networks.nvae import (
    NVAE,
    Affine,
    Causal,
    Cell,
    Conv,
    Double,
    Enlarged,
    Flow,
    Halved,
    Inverted,
    Normalised,
)
from baselines.networks.refinenet import InstanceNorm, RefineNet, Residual
from baselines.networks.transformer import LabelTokens, TextEncoder
from baselines.networks.unet import UNet, UNetConfig

LAYOUTS = ("guided", "ddpm", "diffusers", "transformers", "score_sde", "edm", "ncsn", "nvae", "baselines")


def _stacked(values: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(values)) if len(values) > 1 else values[0]


@dataclass(frozen=True, slots=True)
class Part:
    """One weight of a network: what it is made of in the file, and how."""

    sources: tuple[str, ...]
    make: Callable[[Sequence[Tensor]], Tensor] = _stacked


_RESIDUAL = {
    "guided": ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection"),
    "ddpm": ("norm1", "conv1", "temb_proj", "norm2", "conv2", "nin_shortcut"),
    "diffusers": ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut"),
}
_ATTENTION = {
    "guided": ("norm", ("qkv",), "proj_out"),
    "ddpm": ("norm", ("q", "k", "v"), "proj_out"),
    "diffusers": ("group_norm", ("to_q", "to_k", "to_v"), "to_out.0"),
}
_OUTER = {
    "guided": {
        "time_embedding.0": "time_embed.0", "time_embedding.2": "time_embed.2", "class_embedding": "label_emb",
        "norm": "out.0", "head": "out.2",
    },
    "ddpm": {
        "time_embedding.0": "temb.dense.0", "time_embedding.2": "temb.dense.1", "norm": "norm_out", "head": "conv_out",
        "class_embedding": "class_embedding",
    },
    "diffusers": {
        "time_embedding.0": "time_embedding.linear_1", "time_embedding.2": "time_embedding.linear_2",
        "class_embedding": "class_embedding", "norm": "conv_norm_out", "head": "conv_out",
    },
}  # fmt: skip
"""Names of the modules outside the stages of a U-Net; `_ENDS` those around the stages of an autoencoder."""
_ENDS = {"ddpm": ("conv_in", "norm_out", "conv_out"), "diffusers": ("conv_in", "conv_norm_out", "conv_out")}


def parts(network: nn.Module, layout: str, qkv: str) -> dict[str, Part]:
    """Every weight of the network with what it is made of in a layout, empty if the layout has no such network."""
    if layout == "baselines":
        return {key: Part((key,)) for key in network.state_dict()}
    if layout in ("score_sde", "edm") and isinstance(network, NCSNpp):
        return _ncsnpp_parts(network) if layout == "score_sde" else _song_parts(network)
    if layout == "edm":
        return _adm_parts(network) if isinstance(network, UNet) else {}
    if layout == "ncsn":
        return _refinenet_parts(network) if isinstance(network, RefineNet) else {}
    if layout == "nvae":
        return _nvae_parts(network) if isinstance(network, NVAE) else {}
    if isinstance(network, UNet) and layout in _OUTER:
        modules = dict(_unet_modules(network, layout))
    elif isinstance(network, Classifier) and layout == "guided":
        modules = dict(_classifier_modules(network))
    elif isinstance(network, AutoencoderKL | AutoencoderVQ) and layout in _ENDS:
        modules = dict(_autoencoder_modules(network, layout))
    elif isinstance(network, TextEncoder) and layout in _TEXT:
        modules = dict(_text_modules(network, layout))
    elif isinstance(network, LabelTokens) and layout == "ddpm":
        modules = {"table": ("embedding",)}
    else:
        return {}
    found = {}
    fused = {f"{name}.qkv": block.heads for name, block in network.named_modules() if isinstance(block, SelfAttention)}
    for key in network.state_dict():
        module, _, leaf = key.rpartition(".")
        if key in modules:  # a parameter that is no module's weight or bias
            found[key] = Part(modules[key], lambda values: values[0].T)
        elif module in fused and layout == "guided" and qkv == "heads_first":
            found[key] = Part((f"{modules[module][0]}.{leaf}",), _to_qkv_first(fused[module]))
        else:
            found[key] = Part(tuple(f"{source}.{leaf}" for source in modules[module]))
    return found


def _to_qkv_first(heads: int) -> Callable[[Sequence[Tensor]], Tensor]:
    """Reorders rows from (heads, 3, channels a head) to (3, heads, channels a head)."""
    return lambda values: values[0].unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)


Modules = Iterator[tuple[str, tuple[str, ...]]]
"""Pairs of the name of a module of this package and those of the modules whose weights are stacked to make its own."""


def _block(block: nn.Module, ours: str, theirs: str, layout: str) -> Modules:
    """The modules of one block of a stage."""
    if isinstance(block, ResidualBlock):
        own = ("norm1", "conv1", "embedding", "norm2", "conv2", "skip")
        for a, b in zip(own, _RESIDUAL[layout], strict=True):
            yield f"{ours}.{a}", (f"{theirs}.{b}",)
    elif isinstance(block, SelfAttention):
        norm, qkv, out = _ATTENTION[layout]
        yield f"{ours}.norm", (f"{theirs}.{norm}",)
        yield f"{ours}.qkv", tuple(f"{theirs}.{name}" for name in qkv)
        yield f"{ours}.out", (f"{theirs}.{out}",)
    elif isinstance(block, SpatialTransformer):
        for a, b in (("norm", "norm"), ("inner", "proj_in"), ("outer", "proj_out")):
            yield f"{ours}.{a}", (f"{theirs}.{b}",)
        for i in range(len(block.blocks)):
            yield from _transformer_block(f"{ours}.blocks.{i}", f"{theirs}.transformer_blocks.{i}")
    elif isinstance(block, Downsample):
        yield f"{ours}.conv", (f"{theirs}.op" if layout == "guided" else f"{theirs}.conv",)
    elif isinstance(block, Upsample):
        yield f"{ours}.conv", (f"{theirs}.conv",)


def _transformer_block(ours: str, theirs: str) -> Modules:
    """The modules of a transformer block, which LDM and diffusers name alike."""
    for own, norm, attention in (("self", "norm1", "attn1"), ("cross", "norm2", "attn2")):
        yield f"{ours}.norm_{own}", (f"{theirs}.{norm}",)
        yield f"{ours}.{own}_attention.q", (f"{theirs}.{attention}.to_q",)
        yield f"{ours}.{own}_attention.kv", (f"{theirs}.{attention}.to_k", f"{theirs}.{attention}.to_v")
        yield f"{ours}.{own}_attention.out", (f"{theirs}.{attention}.to_out.0",)
    yield f"{ours}.norm_feed", (f"{theirs}.norm3",)
    yield f"{ours}.feed_forward.inner", (f"{theirs}.ff.net.0.proj",)
    yield f"{ours}.feed_forward.outer", (f"{theirs}.ff.net.2",)


def _stages(
    stages: nn.ModuleList, ours: str, theirs: str, layout: str, side: Literal["down", "up"], trunk: UNetConfig
) -> Modules:
    """The levels of an encoder ("down", behind its first convolution) or of a decoder ("up")."""
    levels, blocks = len(trunk.multipliers), trunk.blocks
    places: list[tuple[int, int | None]] = []
    for level in range(levels):
        if side == "down":
            places += [(level, n) for n in range(blocks)] + [(level, None)] * (level < levels - 1)
        else:
            places += [(levels - 1 - level, n) for n in range(blocks + 1)]
    first = 1 if side == "down" else 0
    for i, (level, n) in enumerate(places, first):
        for j, block in enumerate(stages[i].children()):
            resamples = n is None or (j > 0 and not isinstance(block, SelfAttention | SpatialTransformer))
            if layout == "guided":
                name = f"{'input' if side == 'down' else 'output'}_blocks.{i}.{j}"
            elif layout == "ddpm":
                kind = f"{side}sample" if resamples else f"{'block' if j == 0 else 'attn'}.{n}"
                name = f"{side}.{level}.{kind}"
            else:
                kind = f"{side}samplers.0" if resamples else f"{'resnets' if j == 0 else 'attentions'}.{n}"
                name = f"{side}_blocks.{level if side == 'down' else levels - 1 - level}.{kind}"
            yield from _block(block, f"{ours}.{i}.{j}", theirs + name, layout)


def _middle(stage: nn.ModuleList, ours: str, theirs: str, layout: str) -> Modules:
    residual = 0
    for j, block in enumerate(stage):
        attends = not isinstance(block, ResidualBlock)
        if layout == "guided":
            name = f"middle_block.{j}"
        elif layout == "ddpm":
            name = "mid.attn_1" if attends else f"mid.block_{residual + 1}"
        else:
            name = "mid_block.attentions.0" if attends else f"mid_block.resnets.{residual}"
        residual += not attends
        yield from _block(block, f"{ours}.{j}", theirs + name, layout)


def _unet_modules(network: UNet, layout: str) -> Modules:
    yield "encoder.0.0", ("input_blocks.0.0" if layout == "guided" else "conv_in",)
    for ours, theirs in _OUTER[layout].items():
        yield ours, (theirs,)
    yield from _stages(network.encoder, "encoder", "", layout, "down", network.config)
    yield from _middle(network.middle, "middle", "", layout)
    yield from _stages(network.decoder, "decoder", "", layout, "up", network.config)


_HEADS = {
    "attention": {
        "head.position": "out.2.positional_embedding", "head.qkv": "out.2.qkv_proj", "head.out": "out.2.c_proj",
    },
    "average": {"head": "out.3"},
    "stages": {"head.0": "out.0", "head.2": "out.2"},
    "normalised_stages": {"head.0": "out.0", "head.1": "out.1", "head.3": "out.3"},
}  # fmt: skip


def _classifier_modules(network: Classifier) -> Modules:
    outer = _OUTER["guided"] | {"encoder.0.0": "input_blocks.0.0"} | _HEADS[network.config.pool]
    for ours, theirs in outer.items():
        yield ours, (theirs,)
    yield from _stages(network.encoder, "encoder", "", "guided", "down", network.config.trunk)
    yield from _middle(network.middle, "middle", "", "guided")


def _autoencoder_modules(network: AutoencoderKL | AutoencoderVQ, layout: str) -> Modules:
    yield "to_code", ("quant_conv",)
    yield "from_code", ("post_quant_conv",)
    yield "codebook", ("quantize.embedding",)
    stem, norm, head = _ENDS[layout]
    for half in ("encoder", "decoder"):
        yield "encoder.stages.0.0" if half == "encoder" else "decoder.stem", (f"{half}.{stem}",)
        yield f"{half}.norm", (f"{half}.{norm}",)
        yield f"{half}.head", (f"{half}.{head}",)
    encoder, decoder, trunk = network.encoder, network.decoder, network.config.trunk
    yield from _stages(encoder.stages, "encoder.stages", "encoder.", layout, "down", trunk)
    yield from _middle(encoder.middle, "encoder.middle", "encoder.", layout)
    yield from _middle(decoder.middle, "decoder.middle", "decoder.", layout)
    yield from _stages(decoder.stages, "decoder.stages", "decoder.", layout, "up", trunk)


_TEXT = {
    # Tokens, positions, last norm; then of every layer norm, q, k, v, out, norm, inner, outer.
    "ddpm": (
        ("token_emb", "pos_emb.emb", "norm"),
        ("attn_layers.layers.{a}.0", "attn_layers.layers.{a}.1.to_q", "attn_layers.layers.{a}.1.to_k",
         "attn_layers.layers.{a}.1.to_v", "attn_layers.layers.{a}.1.to_out", "attn_layers.layers.{b}.0",
         "attn_layers.layers.{b}.1.net.0.0", "attn_layers.layers.{b}.1.net.2"),
    ),
    "diffusers": (
        ("model.embed_tokens", "model.embed_positions", "model.layer_norm"),
        ("model.layers.{i}.self_attn_layer_norm", "model.layers.{i}.self_attn.q_proj",
         "model.layers.{i}.self_attn.k_proj", "model.layers.{i}.self_attn.v_proj",
         "model.layers.{i}.self_attn.out_proj", "model.layers.{i}.final_layer_norm", "model.layers.{i}.fc1",
         "model.layers.{i}.fc2"),
    ),
    "transformers": (
        ("text_model.embeddings.token_embedding", "text_model.embeddings.position_embedding",
         "text_model.final_layer_norm"),
        ("text_model.encoder.layers.{i}.layer_norm1", "text_model.encoder.layers.{i}.self_attn.q_proj",
         "text_model.encoder.layers.{i}.self_attn.k_proj", "text_model.encoder.layers.{i}.self_attn.v_proj",
         "text_model.encoder.layers.{i}.self_attn.out_proj", "text_model.encoder.layers.{i}.layer_norm2",
         "text_model.encoder.layers.{i}.mlp.fc1", "text_model.encoder.layers.{i}.mlp.fc2"),
    ),
}  # fmt: skip
"""Text encoders: x-transformers in LDM, whose layers are attention and feed-forward in turn; LDMBertModel; CLIP."""


def _text_modules(network: TextEncoder, layout: str) -> Modules:
    outer, inner = _TEXT[layout]
    for ours, theirs in zip(("tokens", "positions", "norm"), outer, strict=True):
        yield ours, (theirs,)
    for i in range(len(network.blocks)):
        norm, q, k, v, out, norm_feed, first, second = (name.format(i=i, a=2 * i, b=2 * i + 1) for name in inner)
        yield f"blocks.{i}.norm_self", (norm,)
        yield f"blocks.{i}.self_attention.q", (q,)
        yield f"blocks.{i}.self_attention.kv", (k, v)
        yield f"blocks.{i}.self_attention.out", (out,)
        yield f"blocks.{i}.norm_feed", (norm_feed,)
        yield f"blocks.{i}.feed_forward.inner", (first,)
        yield f"blocks.{i}.feed_forward.outer", (second,)


def _transposed(values: Sequence[Tensor]) -> Tensor:
    return torch.cat([value.T for value in values])


_NCSNPP: dict[type[nn.Module], dict[str, str]] = {
    Fourier: {"frequency": "W"},
    Block: {
        "norm1": "GroupNorm_0", "conv1": "Conv_0", "embedding": "Dense_0", "norm2": "GroupNorm_1", "conv2": "Conv_1",
        "skip": "Conv_2",
    },
    Attention: {"norm": "GroupNorm_0"},
    Combine: {"conv": "Conv_0"},
}  # fmt: skip
"""Names in score_sde of the modules within a unit; a convolution or a norm that is a unit itself has none."""


def _ncsnpp_parts(network: NCSNpp) -> dict[str, Part]:
    """Every weight of NCSN++: the original numbers its units in the order in which both networks make them."""
    kinds: tuple[type[nn.Module], ...] = (*_NCSNPP, Reduced, nn.Linear, nn.Conv2d, nn.GroupNorm)
    found, number, inside = dict[str, Part](), 0, ""
    for name, module in network.named_modules():
        if not isinstance(module, kinds) or name.startswith("mapping.") or (inside and name.startswith(inside)):
            continue
        unit, inside, number = f"all_modules.{number}", f"{name}.", number + 1
        for key in module.state_dict():
            part, _, leaf = key.rpartition(".")
            if isinstance(module, Attention) and part in ("qkv", "out"):
                numbers = (0, 1, 2) if part == "qkv" else (3,)
                sources = tuple(f"{unit}.NIN_{n}.{'W' if leaf == 'weight' else 'b'}" for n in numbers)
                found[f"{name}.{key}"] = Part(sources, _transposed if leaf == "weight" else _stacked)
            elif isinstance(module, Reduced):
                found[f"{name}.{key}"] = Part((f"{unit}.{'Conv2d_0' if module.filtered else 'Conv_0'}.{leaf}",))
            else:
                outer, _, style = part.partition(".")  # of an adaptive norm, the linear layer within
                theirs = _NCSNPP.get(type(module), {}).get(outer or leaf, leaf) + (f".{style}" if style else "")
                found[f"{name}.{key}"] = Part((f"{unit}.{theirs}.{leaf}" if part else f"{unit}.{theirs}",))
    for key in network.state_dict():
        if key.startswith("mapping."):  # where theirs has one module more at the beginning
            _, place, leaf = key.split(".")
            found[key] = Part((f"z_transform.{int(place) + 1}.{leaf}",))
        elif key == "mixing":
            found[key] = Part(("mixing_logit",))
    return found


_SONG = {
    "norm1": "norm0", "conv1": "conv0", "embedding": "affine", "norm2": "norm1", "conv2": "conv1", "skip": "skip",
}  # fmt: skip
"""Names in EDM of the modules of a residual block, whose attention, if it has one, is a part of it there."""
_SONG_ATTENTION = {"norm": "norm2", "qkv": "qkv", "out": "proj"}


def _song_parts(network: NCSNpp) -> dict[str, Part]:
    """Every weight of EDM's version of NCSN++, whose modules are named after the sides of their feature maps."""
    if network.config.side is None:
        return {}
    found = dict[str, Part]()

    def add(ours: str, theirs: str, module: nn.Module) -> None:
        names = _SONG if isinstance(module, Block) else _SONG_ATTENTION if isinstance(module, Attention) else {}
        for key in module.state_dict():
            part, _, leaf = key.rpartition(".")
            inner = f"{names[part]}." if part in names else ""  # the convolution of a reduction has no name of its own
            make = _by_channel if isinstance(module, Attention) and part == "qkv" else _stacked
            found[f"{ours}.{key}"] = Part((f"{theirs}.{inner}{leaf}",), make)

    def walk(stage: nn.Module, ours: str, half: str, side: int) -> None:
        number, name = 0, ""
        for i, module in enumerate(stage.children()):
            if isinstance(module, Block):
                if module.way is None:
                    name, number = f"{half}.{side}x{side}_block{number}", number + 1
                else:
                    other = side // 2 if module.way == "down" else 2 * side
                    name = f"{half}.{other}x{other}_{module.way}"
            elif not isinstance(module, Attention):
                other = side // 2 if half == "enc" else side
                kind = "residual" if isinstance(module, Reduced) else "skip" if isinstance(module, Combine) else ""
                kind = kind or ("norm" if isinstance(module, nn.GroupNorm) else "conv")
                name = f"{half}.{other}x{other}_aux_{kind}"
            add(f"{ours}.{i}", name, module)

    side, last = network.config.side, network.config.side >> (len(network.config.multipliers) - 1)
    outer = {
        "features": "map_noise", "label": "map_label", "time1": "map_layer0", "time2": "map_layer1",
        "stem": f"enc.{side}x{side}_conv", "norm": f"dec.{side}x{side}_aux_norm", "head": f"dec.{side}x{side}_aux_conv",
        "middle.0": f"dec.{last}x{last}_in0", "middle.1": f"dec.{last}x{last}_in0",
        "middle.2": f"dec.{last}x{last}_in1",
    }  # fmt: skip
    modules = dict(network.named_modules())
    for ours, theirs in outer.items():
        if isinstance(modules.get(ours), Fourier):
            found[f"{ours}.frequency"] = Part((f"{theirs}.freqs",))
        elif ours in modules:
            add(ours, theirs, modules[ours])
    for level, stage in enumerate(network.encoder):
        walk(stage, f"encoder.{level}", "enc", side >> level)
    for number, stage in enumerate(network.decoder):
        walk(stage, f"decoder.{number}", "dec", last << number)
    return found


_REFINENET = {
    "stem": "begin_conv", "head": "end_conv", "norm": "normalizer", "norm1": "normalize1", "norm2": "normalize2",
    "skip": "shortcut",
}  # fmt: skip
_REFINEMENT = {"convs": "msf.convs", "norms": "msf.norms", "pools": "crp.convs", "pool_norms": "crp.norms"}


def _refinenet_parts(network: RefineNet) -> dict[str, Part]:
    """Every weight of a RefineNet: the sixth stage of the deepest one was put between the third and the fourth."""
    count = len(network.config.multipliers)
    stages = ["1", "2", "3", "31", "4", "5"] if count == 6 else [str(i + 1) for i in range(count)]
    refinements = ["1", "2", "31", "3", "4", "5"] if count == 6 else stages
    modules, found = dict(network.named_modules()), dict[str, Part]()
    for key in network.state_dict():
        name, _, leaf = key.rpartition(".")
        parts = name.split(".")
        if parts[0] == "stages":
            head, own = f"res{stages[int(parts[1])]}.{parts[2]}", parts[3:]
            block = modules[".".join(parts[:3])]
            theirs = _REFINENET.get(own[0], own[0])
            if isinstance(block, Residual) and block.halves and own[0] in ("conv2", "skip"):
                theirs += ".conv"
        elif parts[0] == "refinements":
            head, own = f"refine{refinements[int(parts[1])]}", parts[2:]
            if own[0] in ("inputs", "outputs"):
                units = f"adapt_convs.{own[1]}" if own[0] == "inputs" else "output_convs"
                kind, i = own[-3:][:2] if own[-1] == "table" else own[-2:]
                theirs = f"{units}.{int(i) // 2 + 1}_{int(i) % 2 + 1}_{kind.removesuffix('s')}"
            else:
                theirs = f"{_REFINEMENT[own[0]]}.{own[1]}"
        else:
            head, theirs = "", _REFINENET[parts[0]]
        place = f"{head}.{theirs}".removeprefix(".")
        if isinstance(modules[name.removesuffix(".table")], InstanceNorm):
            known = network.config.levels is not None
            sources = (f"{place}.embed.weight",) if known else tuple(f"{place}.{n}" for n in ("gamma", "alpha", "beta"))
            found[key] = Part(sources, _stacked if known else _one_row)
        else:
            found[key] = Part((f"{place}.{leaf}",))
    return found


def _one_row(values: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(values))[None]


def _by_channel(values: Sequence[Tensor], heads: int = 1) -> Tensor:
    """Reorders rows from (heads, channels a head, 3) to (3, heads, channels a head)."""
    return values[0].unflatten(0, (heads, -1, 3)).permute(2, 0, 1, *range(3, values[0].ndim + 2)).flatten(0, 2)


_ADM = {
    "norm1": "norm0", "conv1": "conv0", "embedding": "affine", "norm2": "norm1", "conv2": "conv1", "skip": "skip",
}  # fmt: skip


def _adm_parts(network: UNet) -> dict[str, Part]:
    """Every weight of ADM as EDM names it: blocks by the sides of their feature maps, with their attention in them."""
    c = network.config
    if c.side is None:
        return {}
    last = c.side >> (len(c.multipliers) - 1)
    places = {
        "encoder.0": f"enc.{c.side}x{c.side}_conv", "middle.0": f"dec.{last}x{last}_in0",
        f"middle.{len(network.middle) - 1}": f"dec.{last}x{last}_in1", "time_embedding.0": "map_layer0",
        "time_embedding.2": "map_layer1", "norm": "out_norm", "head": "out_conv",
    }  # fmt: skip
    if len(network.middle) > 2:
        places["middle.1"] = places["middle.0"]
    stage = 1
    for level in range(len(c.multipliers)):
        side = c.side >> level
        for i in range(c.blocks):
            places[f"encoder.{stage}"] = f"enc.{side}x{side}_block{i}"
            stage += 1
        if level < len(c.multipliers) - 1:
            places[f"encoder.{stage}"] = f"enc.{side // 2}x{side // 2}_down"
            stage += 1
    for number in range(len(network.decoder)):
        level, i = divmod(number, c.blocks + 1)
        places[f"decoder.{number}"] = f"dec.{last << level}x{last << level}_block{i}"
    modules = dict(network.named_modules())
    found = dict[str, Part]()
    for key in network.state_dict():
        name, _, leaf = key.rpartition(".")
        if name == "class_embedding":
            found[key] = Part(("map_label.weight",), _with_null if c.null else _transposed)
            continue
        parts = name.split(".")
        place = places.get(".".join(parts[:2])) or places[parts[0]]
        block = modules.get(".".join(parts[:3] if parts[0] != "middle" else parts[:2]))
        make: Callable[[Sequence[Tensor]], Tensor] = _stacked
        inner = ""
        if isinstance(block, ResidualBlock):
            inner = _ADM[parts[-1]]
            if block.resample == "up":
                side = 2 * int(place.removeprefix("dec.").partition("x")[0])
                place = f"dec.{side}x{side}_up"
        elif isinstance(block, SelfAttention):
            inner = _SONG_ATTENTION[parts[-1]]
            make = partial(_by_channel, heads=block.heads) if inner == "qkv" else _stacked
        found[key] = Part((".".join(filter(None, [place, inner, leaf])),), make)
    return found


def _with_null(values: Sequence[Tensor]) -> Tensor:
    """The rows of a table of classes from the columns of a matrix without bias, and a row of zeros for no class."""
    return torch.cat([values[0].T, torch.zeros_like(values[0].T[:1])])


_NVAE: dict[type[nn.Module], dict[str, str]] = {
    NVAE: {
        "before": "pre_process", "encoder": "enc_tower", "samplers": "enc_sampler", "flows": "nf_cells",
        "groups": "eps_conv", "decoder": "dec_tower", "after": "post_process", "head": "image_conditional",
        "prior": "prior_ftr0",
    },
    Cell: {"operations": "_ops", "squeeze": "se.se"},
    Conv: {"norm": "bn_act", "conv": "conv_0"},
    Double: {"norm1": "bn_act_0", "conv1": "conv_0", "norm2": "bn_act_1", "conv2": "conv_1"},
    Halved: {f"convs.{n}": f"conv_{n + 1}" for n in range(4)},
    Enlarged: {"conv": "1"},
    Flow: {"conv1": "conv.convz.0", "conv2": "conv.convz.2", "mean": "mu.conv_0"},
}  # fmt: skip
"""Names in LSGM of the parts of a module, where they differ."""


def _nvae_parts(network: NVAE) -> dict[str, Part]:
    """Every weight of NVAE: convolutions of directions and lengths, norms of the statistics of batches."""
    found = dict[str, Part]()

    def walk(module: nn.Module, ours: str, theirs: str) -> None:
        if isinstance(module, Affine):
            sources = tuple(f"{theirs}{name}" for name in ("weight", "bias", "running_mean", "running_var"))
            found[f"{ours}weight"] = Part(sources, _scale)
            found[f"{ours}bias"] = Part(sources, _shift)
            return
        for leaf, _ in module.named_parameters(recurse=False):
            name = _NVAE.get(type(module), {}).get(leaf, leaf)
            if isinstance(module, Normalised) and leaf == "weight":
                found[ours + leaf] = Part((theirs + name, f"{theirs}log_weight_norm"), _normalised(module))
            else:
                found[ours + leaf] = Part((theirs + name,))
        names = _inverted(module) if isinstance(module, Inverted) else _NVAE.get(type(module), {})
        for name, child in module.named_children():
            if isinstance(module, Halved):
                for n, conv in enumerate(module.convs):
                    walk(conv, f"{ours}convs.{n}.", f"{theirs}{names[f'convs.{n}']}.")
            else:
                walk(child, f"{ours}{name}.", f"{theirs}{names.get(name, name)}.")

    walk(network, "", "")
    return found


def _inverted(module: Inverted) -> dict[str, str]:
    """Names of the parts of an inverted branch, which are numbered there behind the change of resolution."""
    first = 1 if module.way == "up" else 0
    names = ("0.bn", "1.conv.0", "1.conv.1", "2.conv.0", "2.conv.1", "3", "4.bn")
    theirs = []
    for name in names:
        number, dot, rest = name.partition(".")
        theirs.append(f"conv.{int(number) + first}{dot}{rest}")
    return dict(zip(("norm1", "conv1", "norm2", "conv2", "norm3", "conv3", "norm4"), theirs, strict=True))


def _normalised(module: Normalised) -> Callable[[Sequence[Tensor]], Tensor]:
    """The filters of a convolution: directions, of the length whose logarithm the second weight is.

    Source: NVlabs/LSGM `neural_operations.py:normalize_weight_jit`, `neural_ar_operations.py:ARConv2d`.
    """

    def make(values: Sequence[Tensor]) -> Tensor:
        direction = values[0].double()
        if isinstance(module, Causal):
            direction = direction * module.mask().to(direction.device)
        length = direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-5
        return direction / length * values[1].double().view(-1, 1, 1, 1).exp()

    return make


def _scale(values: Sequence[Tensor]) -> Tensor:
    """What a norm multiplies each channel by, of weight, bias, mean and variance."""
    return values[0].double() / (values[3].double() + 1e-5).sqrt()


def _shift(values: Sequence[Tensor]) -> Tensor:
    """What a norm adds to each channel."""
    return values[1].double() - values[2].double() * _scale(values)
