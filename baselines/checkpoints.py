"""From the files that authors published to networks of this package, or an error; never a half-loaded network.

A layout is how a repository names its weights. `_names` walks the network and says for each of its own weights which
weights of the layout it is made of, so that "missing" and "unexpected" are known before anything is loaded.

Layouts: "guided" (improved diffusion, ADM, LDM's U-Net), "ddpm" (DDPM in PyTorch, LDM's autoencoders, LDM's text
encoder and label table), "diffusers", "transformers" (CLIP's text encoder), and "baselines", this package's own.
"""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from baselines.architectures import Architecture, Arguments, ConfigurationError, NetworkConfig, architecture
from baselines.networks.autoencoder import AutoencoderKL, AutoencoderVQ
from baselines.networks.blocks import (
    Downsample,
    ResidualBlock,
    SelfAttention,
    SpatialTransformer,
    Upsample,
)
from baselines.networks.classifier import Classifier
from baselines.networks.transformer import LabelTokens, TextEncoder
from baselines.networks.unet import UNet, UNetConfig

_LOG = logging.getLogger(__name__)
State = Mapping[str, Tensor]
Average = Literal["average", "raw", "unspecified"]


class CheckpointError(ValueError):
    """A file that cannot be read, or that does not hold the network that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What was loaded: `network.origin` of every network of `load_network`.

    Attributes:
        path: of the file.
        layout: how its weights are named, see the module.
        weights: "average" (an exponential moving average stored beside the trained weights), "raw" (the trained
            weights beside an average) or "unspecified" (the file holds one set and does not say which).
        latent_scale: factor between the latent of the first stage and what a latent diffusion U-Net sees, where the
            file holds one (LDM on churches); None elsewhere.
    """

    path: Path
    layout: str
    weights: Average
    latent_scale: float | None = None


def load_network(
    path: str | Path,
    config: str | Arguments | NetworkConfig | Architecture,
    *,
    ema: bool | Literal["auto"] = "auto",
) -> nn.Module:
    """The network of an original file.

    Args:
        path: `.pt`, `.pth`, `.ckpt` or `.bin` of torch.save, or `.safetensors`. Nothing of it is executed. A file of a
            whole latent diffusion model holds several networks; `config` says which one is meant.
        config: a name of `baselines.configurations.CONFIGURATIONS`, or arguments in the names of the original
            repository, see `baselines.architectures.architecture`; not necessarily the repository of the file.
        ema: which weights, where a file holds the trained ones and their moving average (Lightning files of LDM, lists
            of ermongroup/ddim): True the average, False the trained ones, "auto" the average if there is one.

    Returns:
        The network in float32 on the CPU, in evaluation mode, without gradients of weights: `UNet` and `Classifier`
        are called as net(x, t, ...), `AutoencoderKL` and `AutoencoderVQ` have encode and decode. `network.origin` says
        what was loaded.

    Raises:
        CheckpointError: an unreadable file, or weights that are missing, unexpected or of another shape; the message
            has the first ten of each.
        ConfigurationError: a configuration that means no network.

    Source:
        Names and row orders: openai/guided-diffusion `unet.py`; CompVis/latent-diffusion `openaimodel.py`, `model.py`,
        `x_transformer.py`, `ema.py`; ermongroup/ddim `models/diffusion.py`; diffusers 0.42. The outputs agree with
        these networks (`tests/parity`).
    """
    path = Path(path)
    sets = _read(path)
    first = next(iter(sets.values()))
    found = architecture(config, keys=first)
    try:
        with torch.device("meta"):
            network = found.build()
    except ValueError as error:
        raise ConfigurationError(f"The configuration of {path.name} describes no network: {error}") from error
    layout, prefix, names = _best_layout(network, found, first)
    state, weights = _choose(path, sets, prefix, names, ema)
    converted = _convert(path, network, state, names)
    network.load_state_dict(converted, assign=True)
    scale = first.get("scale_factor")
    network.origin = Origin(
        path=path, layout=layout, weights=weights, latent_scale=None if scale is None else float(scale)
    )  # type: ignore[assignment]
    _LOG.info("%s: %s layout, %s weights", path.name, layout, weights)
    return network.eval().requires_grad_(requires_grad=False)


# --- reading --------------------------------------------------------------------------------------------------------


class _Placeholder:
    """Stands for an object of a class that is not loaded: training callbacks and the like in Lightning files."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _empty(*_: object) -> dict[object, object]:
    return {}


def _stand_in(name: str) -> tuple[Any, str]:
    """What a global of a pickle becomes. Dictionaries of other classes must be dictionaries to be filled at all."""
    if name == "collections.defaultdict":
        return _empty, name
    return (dict if name.endswith(".AttributeDict") else _Placeholder), name


def _read(path: Path) -> dict[str, State]:
    """The sets of weights of a file: "only" one, within which Lightning keeps its average, or "raw" and "average"."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file. Give the path of downloaded weights.")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:
            content = _unpickle(path)
    except CheckpointError:
        raise
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        zipfile.BadZipFile,
        EOFError,
        AttributeError,
        pickle.UnpicklingError,
        SafetensorError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            reason = "no file of tensors"  # torch's own words recommend to switch the protection off
        raise CheckpointError(
            f"{path} cannot be read as weights ({reason}). A broken download, or not of torch.save or safetensors?"
        ) from error
    return _sets(path, content)


_TRAINED = ("state_dict", "model", "model_state_dict", "net_model", "net", "network", "unet", "params")
_AVERAGED = ("ema", "ema_model", "model_ema", "ema_state_dict", "ema_params", "average")
"""Under which names the files of other repositories hold trained weights and their average, in the order of search."""


def _sets(path: Path, content: Any) -> dict[str, State]:
    """The sets of weights in what a file holds."""
    if isinstance(content, list | tuple) and content and isinstance(content[0], Mapping):
        # ermongroup/ddim: [network, optimiser, epoch, step] and, with an average, its weights.
        sets = {"raw": _tensors(content[0])}
        if len(content) > 4 and isinstance(content[-1], Mapping):
            sets["average"] = _tensors(content[-1])
        return sets if "average" in sets else {"only": sets["raw"]}
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds no weights; expected names with tensors, or a state_dict of them.")
    if tensors := _tensors(content):
        inside = content.get("state_dict")
        return {"only": (_tensors(inside) if isinstance(inside, Mapping) else {}) or tensors}
    inner = {name: _tensors(value) for name, value in content.items() if isinstance(value, Mapping)}
    trained = next((inner[name] for name in _TRAINED if inner.get(name)), None)
    named = next((name for name in _AVERAGED if name in content), None)
    average = inner.get(named) if named else None
    if named and not average and isinstance(content[named], Mapping) and content[named]:
        raise CheckpointError(
            f"{path} keeps its average under {named!r} as a list without names, which is not read; save the averaged "
            "weights as a state_dict."
        )
    if trained is None and not average:
        raise CheckpointError(
            f"{path} holds no weights, neither at its top nor under {', '.join((*_TRAINED, *_AVERAGED))}; it has the "
            f"keys {_first_ten([str(name) for name in content]) or 'of nothing'}."
        )
    if trained is None or not average:
        return {"average": average} if average else {"only": trained or {}}
    return {"raw": trained, "average": average}


def _unpickle(path: Path) -> Any:
    """torch.load restricted to tensors and containers; what else a file holds becomes placeholders."""
    if not zipfile.is_zipfile(path):
        return _unpickle_old(path)
    _check_archive(path)
    unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    with torch.serialization.safe_globals([_stand_in(name) for name in unknown]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _unpickle_old(path: Path) -> Any:
    """A file of torch before 1.6, which tells of one unknown class at a time."""
    allowed: list[str] = []
    while True:
        try:
            with torch.serialization.safe_globals([_stand_in(name) for name in allowed]):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            unknown = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
            if unknown is None or unknown[1] in allowed or len(allowed) > 100:
                raise
            allowed.append(unknown[1])


def _check_archive(path: Path) -> None:
    """Refuses a damaged file: torch itself does not compare the check sums of its own archives."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not any(name.endswith("data.pkl") for name in names):
            inside = [name for name in names if name.endswith((".ckpt", ".pt", ".pth", ".bin", ".safetensors"))]
            todo = f"extract {inside[0]} and give its path" if inside else "it holds no file of weights"
            raise CheckpointError(f"{path} is an archive of {len(names)} files; {todo}.")
        if (damaged := archive.testzip()) is not None:
            raise CheckpointError(
                f"{path} is damaged: the check sum of {damaged} in it is wrong. Download or save the file anew."
            )


def _tensors(content: Mapping[Any, Any]) -> State:
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


# --- which layout, where in the file, which weights -----------------------------------------------------------------

_PARTS = (
    "", "model.", "model.module.", "model.diffusion_model.", "diffusion_model.", "first_stage_model.",
    "cond_stage_model.", "transformer.", "cond_stage_model.transformer.", "unet.", "vae.",
)  # fmt: skip
_PREFIXES = (*_PARTS, *(f"module.{part}" for part in _PARTS))
"""What stands before the names of a network: of DataParallel, and of the parts of a latent diffusion model."""

_DROPPED = re.compile(r"(.*\.)?(loss|model_ema)\.|(.*\.)?to_logits\.|(.*\.)?position_ids$")
"""Weights in published files that no network needs: of losses and discriminators, of an unused output layer."""

_OLD_DIFFUSERS = (
    (re.compile(r"(attentions\.\d+)\.query\."), r"\1.to_q."),
    (re.compile(r"(attentions\.\d+)\.key\."), r"\1.to_k."),
    (re.compile(r"(attentions\.\d+)\.value\."), r"\1.to_v."),
    (re.compile(r"(attentions\.\d+)\.proj_attn\."), r"\1.to_out.0."),
)
"""Names of attention in files of diffusers before 0.15, as most published ones are."""


def _renamed(name: str) -> str:
    for old, new in _OLD_DIFFUSERS:
        name = old.sub(new, name)
    return name


def _stacked(values: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(values)) if len(values) > 1 else values[0]


@dataclass(frozen=True, slots=True)
class _Part:
    """One weight of a network: what it is made of in the file, and how."""

    sources: tuple[str, ...]
    make: Callable[[Sequence[Tensor]], Tensor] = _stacked


def _best_layout(network: nn.Module, found: Architecture, state: State) -> tuple[str, str, dict[str, _Part]]:
    """(layout, prefix, parts): whose names occur most often in the file. An incomplete file still has a best one."""
    present = {_renamed(key) for key in state}
    best: tuple[int, str, str, dict[str, _Part]] | None = None
    for layout in ("guided", "ddpm", "diffusers", "transformers", "baselines"):
        parts = _names(network, layout, found.qkv)
        wanted = {source for part in parts.values() for source in part.sources}
        for prefix in _PREFIXES if parts else ():
            averaged = _average_name(prefix)
            count = max(
                sum(prefix + name in present for name in wanted), sum(averaged(name) in present for name in wanted)
            )
            if best is None or count > best[0]:
                best = (count, layout, prefix, parts)
    assert best is not None  # every network has names in the layout of this package
    return best[1:]


def _average_name(prefix: str) -> Callable[[str], str]:
    """The name in a Lightning file of the moving average of a weight: `model_ema.` and the name without its dots.

    The average of a latent diffusion model is taken of `model`, that of an autoencoder of the whole module.
    """
    stem = prefix.removeprefix("model.") if prefix.startswith("model.") else ""
    head = "model_ema." if prefix.startswith("model.") else prefix + "model_ema."
    return lambda name: head + (stem + name).replace(".", "")


def _choose(
    path: Path, sets: dict[str, State], prefix: str, parts: Mapping[str, _Part], ema: bool | Literal["auto"]
) -> tuple[State, Average]:
    """The wanted set of weights, under the names of the layout."""
    if ema not in (True, False, "auto"):
        raise CheckpointError(f"ema must be True, False or 'auto'; got {ema!r}.")
    if "only" not in sets:
        if ema is False and "raw" not in sets:
            raise CheckpointError(f"{path.name} holds an average alone; use ema='auto'.")
        state = sets["raw" if ema is False else "average"]
        # DataParallel's prefix may be on the trained weights alone.
        return _stripped(
            state, prefix if any(k.startswith(prefix) for k in state) else ""
        ), "raw" if ema is False else "average"
    state = sets["only"]
    averaged = _average_name(prefix)
    names = {averaged(source): source for part in parts.values() for source in part.sources}
    shadow = {names[key]: value for key, value in state.items() if key in names}
    if shadow and ema is not False:
        return shadow, "average"
    if ema is True:
        raise CheckpointError(
            f"{path.name} holds one set of weights of this network and does not say whether it is an average; "
            f"use ema='auto'."
        )
    return _stripped(state, prefix), "raw" if shadow else "unspecified"


def _stripped(state: State, prefix: str) -> State:
    return {
        _renamed(k.removeprefix(prefix)): v for k, v in state.items() if k.startswith(prefix) and not _DROPPED.match(k)
    }


def _convert(path: Path, network: nn.Module, state: State, parts: Mapping[str, _Part]) -> dict[str, Tensor]:
    """The state dict of the network; all complaints about the file in one error."""
    wanted = {source for part in parts.values() for source in part.sources}
    complaints = []
    for what, names in (("missing", wanted - set(state)), ("unexpected", set(state) - wanted)):
        if names:
            order = [n for n in (*(s for p in parts.values() for s in p.sources), *state) if n in names]
            complaints.append(f"{len(names)} {what}: {_first_ten(list(dict.fromkeys(order)))}")
    converted, wrong = {}, []
    for name, target in network.state_dict().items():
        sources = parts[name].sources
        if not all(source in state for source in sources):
            continue
        try:
            value = parts[name].make([_matrix(state[source], target) for source in sources])
        except (RuntimeError, ValueError):
            value = None
        if value is None or value.shape != target.shape:
            shapes = " + ".join(f"{tuple(state[source].shape)}" for source in sources)
            wrong.append(f"{' + '.join(sources)} is {shapes}, needed for {tuple(target.shape)}")
            continue
        converted[name] = value.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if wrong:
        complaints.append(f"{len(wrong)} of another shape: {_first_ten(wrong)}")
    if complaints:
        raise CheckpointError(
            f"{path.name} does not hold this network. Weights {'; '.join(complaints)}. "
            "Does the configuration belong to the file?"
        )
    return converted


def _first_ten(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _matrix(value: Tensor, target: Tensor) -> Tensor:
    """A 1x1 convolution as the matrix it is, where the network has a linear layer."""
    while value.ndim > max(target.ndim, 1) and value.shape[-1] == 1:
        value = value.squeeze(-1)
    return value


# --- names ----------------------------------------------------------------------------------------------------------

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


def _names(network: nn.Module, layout: str, qkv: str) -> dict[str, _Part]:
    """Every weight of the network with what it is made of in a layout; empty if the layout has no such network."""
    if layout == "baselines":
        return {key: _Part((key,)) for key in network.state_dict()}
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
    parts = {}
    fused = {f"{name}.qkv": block.heads for name, block in network.named_modules() if isinstance(block, SelfAttention)}
    for key in network.state_dict():
        module, _, leaf = key.rpartition(".")
        if key in modules:  # a parameter that is no module's weight or bias
            parts[key] = _Part(modules[key], lambda values: values[0].T)
        elif module in fused and layout == "guided" and qkv == "heads_first":
            parts[key] = _Part((f"{modules[module][0]}.{leaf}",), _to_qkv_first(fused[module]))
        else:
            parts[key] = _Part(tuple(f"{source}.{leaf}" for source in modules[module]))
    return parts


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
    """Of LDM and, under the same names, of diffusers."""
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
