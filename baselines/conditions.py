"""From labels and captions to what networks are told: class numbers, or context tokens for cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.files import text
from baselines.files.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a caller asks for, all on the device of the model, None for what the model does not take.

    Attributes:
        seeds: (b,) int64, of the noise.
        labels: (b,) int64, the classes.
        captions: b texts.
        images: (b, c, h, w) float32 in [-1, 1], to start from, to restore or to enlarge.
        masks: (b, 1, h, w) float32, 1 where something is to be painted.
    """

    seeds: Tensor
    labels: Tensor | None = None
    captions: Sequence[str] | None = None
    images: Tensor | None = None
    masks: Tensor | None = None


def conditions(weights: Weights, given: Given) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """What the denoising network is told, and what tells it nothing. The second is None if it knows no such thing.

    Raises:
        ValueError: a model of captions without them, or a model of classes without a null class without labels.
    """
    r, device = weights.release, given.seeds.device
    if r.tokenizer:
        captions = given.captions
        if captions is None and given.labels is not None and r.class_captions:
            captions = [r.class_captions[int(y)] for y in given.labels]
        if captions is None:
            raise ValueError("This model needs a caption an image.")
        return {"context": _context(weights, captions, device)}, {"context": _context(weights, [""], device)}
    if not r.classes and r.null is None:
        return {}, None
    y, null = given.labels, None if r.null is None else torch.tensor([r.null], device=device)
    if y is None:
        if r.null is None:
            raise ValueError("This model needs a label an image.")
        y = torch.full((len(given.seeds),), r.null, device=device)
    if "condition" in weights.roles:
        table = weights.network("condition", "float32")
        return {"context": table(y)}, None if null is None else {"context": table(null)}
    return {"y": y}, None if null is None else {"y": null}


def _context(weights: Weights, captions: Sequence[str], device: torch.device) -> Tensor:
    """Context tokens of captions, float32; every caption once, because prompts repeat."""
    encoder = weights.network("condition", "float32")
    length = encoder.config.length
    # One at a time: a caption's context must not depend on what else is in the batch, to the last bit.
    found = {c: encoder(_tokens(weights, c, length).to(device)) for c in dict.fromkeys(captions)}
    return torch.cat([found[caption] for caption in captions])


def _tokens(weights: Weights, caption: str, length: int) -> Tensor:
    if weights.release.tokenizer == "words":
        return text.tokenize([caption], weights.release.words, length)
    if weights.release.tokenizer == "clip":
        return text.clip([caption], length)
    return text.bert([caption], weights.path("vocabulary"), length)
