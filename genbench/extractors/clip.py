"""`clip`: images and captions in one space, by any of open_clip's networks that bring their own tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from genbench.arithmetic import float32
from genbench.contracts import Extractor
from genbench.errors import InputRejected, MissingAsset, UsageError, nearest
from genbench.extractors.inference import check, extractor, standardised
from genbench.resize import centre_crop, resize, resize_shorter
from genbench.weights import Card, State, load_into, load_state, resolve, sha256

VERSION = 1
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PREPROCESSING: Mapping[str, Any] = {
    "mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest",
}  # fmt: skip
"""Mean, standard deviation and resize of OpenAI's networks, and of all that do not say otherwise."""

# What is known of files beyond their address: bytes, SHA-256 and revision of the repository.
_KNOWN = {
    ("ViT-B-32", "openai"): (
        605_143_284,
        "e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31",
        "a6f597a30f7b82c51704746581f9a4e41421e878",
    ),
}


def _tag(architecture: str, pretrained: str) -> dict[str, Any]:
    """What open_clip knows of pretrained weights.

    Raises:
        UsageError: an unknown architecture or tag.
    """
    from open_clip import list_models
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    if architecture not in list_models():
        near = nearest(architecture, list_models())
        raise UsageError(f"open_clip has no architecture {architecture!r}. {near} Or name a .json file of one.")
    found = get_pretrained_cfg(architecture, pretrained)
    if not found:
        near = nearest(pretrained, list_pretrained_tags_by_model(architecture))
        raise UsageError(f"open_clip has no weights {pretrained!r} for {architecture}. {near}")
    return found


def card(architecture: str = "ViT-B-32", pretrained: str = "openai") -> Card:
    """Returns the card of the file that open_clip names for a tag.

    Raises:
        UsageError: an unknown architecture or tag.
        MissingAsset: a .json file, of whose weights nothing is known.
    """
    if _is_file(architecture):
        raise MissingAsset(f"The weights of {architecture} are yours to give: --weights clip=PATH.")
    tag = _tag(architecture, pretrained)
    size, digest, revision = _KNOWN.get((architecture, pretrained), (None, None, "main"))
    if hub := tag.get("hf_hub", ""):
        repository, _, file = hub.rpartition("/")
        url = f"https://huggingface.co/{repository}/resolve/{revision}/{file or 'open_clip_model.safetensors'}"
    else:
        url = tag["url"]
    return Card(
        name="clip",
        file=f"open_clip-{architecture}-{pretrained}{Path(url).suffix}",
        url=url,
        bytes=size,
        sha256=digest,
        licence="MIT" if pretrained == "openai" else "of the page of the weights",
        note=f"open_clip's {architecture} with weights {pretrained}",
        fetch=f"clip(architecture='{architecture}', pretrained='{pretrained}')",
    )


def _is_file(architecture: str) -> bool:
    return architecture.endswith(".json")


def configuration(architecture: str | Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a network, in open_clip's format.

    Args:
        architecture: a name known to open_clip, the path of a .json file, or the configuration itself; with or without
            "model_cfg" around it.

    Raises:
        UsageError: an unknown name, or a text tower that needs a tokenizer or a configuration from the network.
        InputRejected: a file that is no configuration.
    """
    if isinstance(architecture, Mapping):
        found = dict(architecture)
    elif _is_file(architecture):
        try:
            found = json.loads(Path(architecture).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise InputRejected(f"{architecture} is not a configuration of open_clip ({error}).") from error
    else:
        from open_clip import get_model_config, list_models

        found = get_model_config(architecture)
        if found is None:
            raise UsageError(f"open_clip has no architecture {architecture!r}. {nearest(architecture, list_models())}")
    inner = found.get("model_cfg", found) if isinstance(found, Mapping) else None
    found = deepcopy(dict(inner)) if isinstance(inner, Mapping) else {}
    parts = [found.get(name) for name in ("vision_cfg", "text_cfg")]
    if "embed_dim" not in found or not all(isinstance(part, Mapping) for part in parts):
        raise InputRejected("A configuration of open_clip has embed_dim, vision_cfg and text_cfg.")
    foreign = [key for key in ("hf_model_name", "hf_tokenizer_name") if found["text_cfg"].get(key)]
    if foreign or "multimodal_cfg" in found:
        raise UsageError(
            f"This architecture needs {foreign[0] if foreign else 'multimodal_cfg'}, which is not supported; those "
            "with open_clip's own tokenizer are, such as ViT-B-32, ViT-L-14, ViT-H-14, RN50 and convnext_base_w."
        )
    return found


def build(
    architecture: str | Mapping[str, Any], state: State | None = None, *, origin: str = "The state dict"
) -> nn.Module:
    """An open_clip network in eval mode on the CPU.

    Args:
        architecture: see `configuration`.
        state: weights in open_clip's or OpenAI's names, of any floating dtype, None leaves the initial ones, which are
            drawn from a generator of their own.

    Returns:
        `open_clip.CLIP`, or `open_clip.CustomTextCLIP` where the configuration has "custom_text".

    Raises:
        UsageError, InputRejected: of the configuration, and of weights that do not fit it.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.model import CLIP, CustomTextCLIP, convert_to_custom_text_state_dict

    found = configuration(architecture)
    custom = found.pop("custom_text", False)
    if "timm_model_name" in found["vision_cfg"]:
        found["vision_cfg"]["timm_model_pretrained"] = False
    # open_clip draws initial weights from the global generator, which belongs to the program around this.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = (CustomTextCLIP if custom else CLIP)(**found)
    if state is not None:
        values = {k: v for k, v in state.items() if k not in ("input_resolution", "context_length", "vocab_size")}
        values = convert_state_dict(network, values)
        if "positional_embedding" in values and custom:
            values = convert_to_custom_text_state_dict(values)
        if "logit_scale" in values:
            values["logit_scale"] = values["logit_scale"].reshape(network.logit_scale.shape)
        load_into(network, values, origin=origin)
    return network.eval().requires_grad_(False)


def load(
    *,
    device: str = "cpu",
    precision: str = "float32",
    weights: Path | None = None,
    architecture: str = "ViT-B-32",
    pretrained: str = "openai",
    prefix: str = "",
) -> Extractor:
    """Loads a network.

    Args:
        precision: "exact" computes attention by its definition, "float32" by what is fastest on the device.
        weights: a state dict of the architecture, trained as `pretrained` was.
        architecture: a name known to open_clip, or the path of a .json file with such a configuration, and then
            `weights` must be given and `pretrained` has no meaning.
        pretrained: a tag of open_clip. It decides the file, the preprocessing, and whether the activation is QuickGELU,
            which open_clip by itself takes from the name of the architecture and merely warns when they differ.
        prefix: put before every caption; "A photo depicts " in the CLIP score of Hessel et al. 2021.

    Returns:
        Taps "embedding" and "pooled", both the projected image embedding before normalisation. Captions of more tokens
        than the network takes (77) are cut, with the end token kept.

    Raises:
        UsageError, MissingAsset, InputRejected: of the arguments and the weights.

    Source:
        Radford et al. 2021; agrees with open_clip's `encode_image` after its own preprocessing of Pillow images, and
        with `encode_text` after its tokenizer (`tests/parity`).
    """
    check(precision)
    preprocessing, own = dict(PREPROCESSING), configuration(architecture)
    if not _is_file(architecture):
        tag = _tag(architecture, pretrained)
        own["quick_gelu"] = bool(tag.get("quick_gelu", False))
        preprocessing |= {key: tag[key] for key in PREPROCESSING if tag.get(key)}
    else:
        told = json.loads(Path(architecture).read_text(encoding="utf-8")).get("preprocess_cfg", {})
        preprocessing |= {key: told[key] for key in PREPROCESSING if told.get(key)}
    known = Card(name="clip", file="", licence="of the file given") if weights else card(architecture, pretrained)
    path = resolve(known, given=weights)
    network = build(own, load_state(path), origin=str(path))
    return assemble(
        network,
        name="clip",
        version=VERSION,
        weights=sha256(path),
        configuration=own,
        preprocessing=preprocessing,
        tokenize=tokenizer(own),
        prefix=prefix,
        device=device,
        precision=precision,
    )


def tokenizer(configuration: Mapping[str, Any]) -> Callable[[Sequence[str]], Tensor]:
    """open_clip's byte-pair tokenizer, for the context length of a configuration: texts to int64 (n, length)."""
    from open_clip.tokenizer import SimpleTokenizer

    text = configuration["text_cfg"]
    encode = SimpleTokenizer(context_length=text.get("context_length", 77), **text.get("tokenizer_kwargs", {}))
    return lambda captions: encode(list(captions))


def assemble(
    network: nn.Module,
    *,
    name: str,
    version: int,
    weights: str,
    configuration: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    tokenize: Callable[[Sequence[str]], Tensor],
    prefix: str = "",
    device: str = "cpu",
    precision: str = "float32",
) -> Extractor:
    """The extractor of a network with open_clip's interface.

    Args:
        network: from `build`, with weights.
        name, version: of the extractor.
        weights: SHA-256 of the weight file.
        configuration: of the network, for the key.
        preprocessing: mean and std per channel; interpolation "bicubic" or "bilinear"; resize_mode "shortest" (shorter
            side, then the middle) or "squash".
        tokenize: texts to int64 (n, context length).

    Raises:
        UsageError: a preprocessing that is not supported.
    """
    clip: Any = network.to(device)
    side, mode, kernel = clip.visual.image_size, preprocessing["resize_mode"], preprocessing["interpolation"]
    height, width = (side, side) if isinstance(side, int) else side
    if height != width or mode not in ("shortest", "squash") or kernel not in ("bicubic", "bilinear"):
        raise UsageError(
            f"CLIP on {height}x{width} with resize_mode={mode!r} and interpolation={kernel!r} is not supported; square "
            "images with shortest or squash and bicubic or bilinear are."
        )

    def attention() -> AbstractContextManager[None]:
        return sdpa_kernel(SDPBackend.MATH) if precision == "exact" else nullcontext()

    def forward(images: Tensor, taps: Sequence[str]) -> Mapping[str, Tensor]:
        if mode == "squash":
            x = resize(images, height, f"pil-{kernel}")
        else:
            x = centre_crop(resize_shorter(images, height, f"pil-{kernel}"), height)
        with attention():
            embedding = clip.encode_image(standardised(x, preprocessing["mean"], preprocessing["std"]))
        return {"embedding": embedding, "pooled": embedding}

    def embed_captions(captions: Sequence[str]) -> Tensor:
        empty = next((i for i, caption in enumerate(captions) if not caption.strip()), None)
        if empty is not None:
            raise InputRejected(f"Caption {empty} of {len(captions)} is empty; every image needs a text.")
        with float32(), torch.no_grad(), attention():
            return clip.encode_text(tokenize([prefix + caption for caption in captions]).to(device)).float()

    embed_dim = int(configuration["embed_dim"])
    return extractor(
        name,
        version,
        weights=weights,
        precision=precision,
        args={"configuration": dict(configuration), "preprocessing": dict(preprocessing), "prefix": prefix},
        widths={"embedding": embed_dim, "pooled": embed_dim},
        forward=forward,
        device=device,
        block=32,
        embed_captions=embed_captions,
    )
