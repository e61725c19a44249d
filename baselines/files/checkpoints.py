"""From the files that authors published to networks of this package, or an error; never a half-loaded network.

How the weights of a network are named in a file is found out (`baselines.files.layouts`). The configuration is given.
"""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from baselines.files.arguments import Architecture, Arguments, ConfigurationError, architecture
from baselines.files.layouts import LAYOUTS, Part
from baselines.files.layouts import parts as parts_of
from baselines.networks import NetworkConfig

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
        config: a name of `baselines.files.catalogue.configurations()`, or arguments in the names of the original
            repository, see `baselines.files.arguments.architecture`; not necessarily the repository of the file.
        ema: which weights, where a file holds the trained ones and their moving average (Lightning files of LDM, lists
            of ermongroup/ddim): True the average, False the trained ones, "auto" the average if there is one.

    Returns:
        The network in float32 on the CPU, in evaluation mode, without gradients of weights: `UNet` and `Classifier`
        are called as net(x, t, ...), `AutoencoderKL` and `AutoencoderVQ` have encode and decode. `network.origin` says
        what was loaded.

    Raises:
        CheckpointError: an unreadable file, or weights that are missing, unexpected or of another shape. The message
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
    except (ValueError, RuntimeError, TypeError, IndexError, ZeroDivisionError) as error:
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
    if path.suffix == ".pkl":
        raise CheckpointError(
            f"{path} is a pickle of Python objects, which would run code and is not read; convert it to .safetensors "
            "once, as docs/models.md says."
        )
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
    if sets := _sets_with_optimisers(path, content):
        return sets
    if tensors := _tensors(content):
        inside = content.get("state_dict")
        return {"only": (_tensors(inside) if isinstance(inside, Mapping) else {}) or tensors}
    inner = {name: _tensors(value) for name, value in content.items() if isinstance(value, Mapping)}
    trained = next((inner[name] for name in _TRAINED if inner.get(name)), None)
    named = next((name for name in _AVERAGED if name in content), None)
    average = inner.get(named) if named else None
    if named and trained and isinstance(content[named], Mapping) and "shadow_params" in content[named]:
        average = _listed(path, trained, content[named]["shadow_params"])
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


_OPTIMISED = (
    ("netG_dict", "optimizerG", ""), ("dae_state_dict", "dae_optimizer", "dae."),
    ("vae_state_dict", "vae_optimizer", "vae."),
)  # fmt: skip
"""Under which names NVlabs' files (DDGAN, LSGM) hold trained weights and the optimiser that has their average, and what
is put before the names of weights here where a file holds several networks."""


def _sets_with_optimisers(path: Path, content: Mapping[Any, Any]) -> dict[str, State]:
    """The sets of weights of a file whose averages are states of optimisers, empty for another file."""
    raw, average, averaged = dict[str, Tensor](), dict[str, Tensor](), False
    for name, optimiser, prefix in _OPTIMISED:
        if not isinstance(content.get(name), Mapping):
            continue
        trained = _tensors(content[name])
        mean = _of_optimiser(path, optimiser, trained, content.get(optimiser))
        averaged |= mean is not None
        raw |= {prefix + key: value for key, value in trained.items()}
        average |= {prefix + key: value for key, value in (mean or trained).items()}
    if not raw:
        return {}
    return {"raw": raw, "average": average} if averaged else {"only": raw}


def _of_optimiser(path: Path, name: str, trained: State, optimiser: Any) -> State | None:
    """The average that an optimiser keeps under the number of each weight, None where it keeps none.

    What never had a gradient has no average and is as it was. Source: NVlabs/LSGM `util/ema.py`.
    """
    states = optimiser.get("state") if isinstance(optimiser, Mapping) else None
    found = {
        number: state["ema"]
        for number, state in (states.items() if isinstance(states, Mapping) else ())
        if isinstance(state, Mapping) and isinstance(state.get("ema"), Tensor)
    }
    if not found:
        return None
    names = dict(enumerate(trained))
    strange = [n for n, value in found.items() if n not in names or value.shape != trained[names[n]].shape]
    if strange:
        which = _first_ten([str(number) for number in strange])
        raise CheckpointError(
            f"{path} keeps an average in {name} that does not fit its weights: numbers {which} of {len(trained)}. "
            "Save the averaged weights as a state_dict, or the trained ones alone."
        )
    return {**trained, **{names[number]: value for number, value in found.items()}}


def _listed(path: Path, trained: State, values: Any) -> State:
    """An average that is a list without names: of the trained weights in their order, but for those that never change.

    Source: yang-song/score_sde_pytorch `models/ema.py`, which lists what requires a gradient; noise levels and the
    frequencies of Fourier features, the only vector called W, do not.
    """
    changing = [name for name, value in trained.items() if not _CONSTANT.search(name) or value.ndim > 1]
    if not isinstance(values, list) or [value.shape for value in values] != [trained[name].shape for name in changing]:
        raise CheckpointError(
            f"{path} keeps its average as a list of {len(values)} weights without names, which does not fit the "
            f"{len(changing)} trained ones; save the averaged weights as a state_dict."
        )
    return {**trained, **dict(zip(changing, values, strict=True))}


_CONSTANT = re.compile(r"(^|\.)(sigmas|W)$")


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
    "cond_stage_model.", "transformer.", "cond_stage_model.transformer.", "unet.", "vae.", "vae.module.", "dae.",
    "dae.module.",
)  # fmt: skip
_PREFIXES = (*_PARTS, *(f"module.{part}" for part in _PARTS))
"""What stands before the names of a network: of DataParallel, and of the parts of a latent diffusion model."""

_DROPPED = re.compile(
    r"(.*\.)?(loss|model_ema)\.|(.*\.)?to_logits\.|(.*\.)?(position_ids|sigmas|resample_filter|num_batches_tracked|weight_normalized)$|(.*\.)?map_augment\."
)
"""Weights in published files that no network needs: of losses and discriminators, of an unused output layer, and
tables of noise levels, counts of batches, second names of a weight, and of what only training is told."""

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


def _best_layout(network: nn.Module, found: Architecture, state: State) -> tuple[str, str, dict[str, Part]]:
    """(layout, prefix, parts): whose names occur most often in the file. An incomplete file still has a best one."""
    present = {_renamed(key) for key in state}
    best: tuple[int, str, str, dict[str, Part]] | None = None
    for layout in LAYOUTS:
        parts = parts_of(network, layout, found.qkv)
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
    path: Path, sets: dict[str, State], prefix: str, parts: Mapping[str, Part], ema: bool | Literal["auto"]
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


def _convert(path: Path, network: nn.Module, state: State, parts: Mapping[str, Part]) -> dict[str, Tensor]:
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
