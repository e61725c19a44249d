"""`tiny-clip`: the shipped network of images and captions, a CLIP of 1.4 M parameters trained on `shapes`.

It is open_clip's own class, built and used by the code of `clip`. Only its vocabulary is smaller: of the 49,408 rows
of the token embedding, all but the few that captions of `shapes` use would hold what they were initialised with, so
they are one row, "unknown", that was trained to stand for any word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genbench.contracts import Extractor
from genbench.errors import InputRejected
from genbench.extractors import clip
from genbench.extractors.inference import check
from genbench.weights import Card, load_state, resolve, sha256, shipped_card

VERSION = 1
PREPROCESSING: Mapping[str, Any] = {
    "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic", "resize_mode": "shortest",
}  # fmt: skip
VOCABULARY = "vocabulary"
"""Name of the entry of the weight file that lists the tokens of open_clip which have a row of their own."""
UNKNOWN = 0
"""The row of every other token. Row 1 + i is that of vocabulary[i]; start and end of the text are the last two rows."""

_START, _END = 49_406, 49_407  # of open_clip's tokenizer; the network finds the end as the largest number of a text


@cache
def card() -> Card:
    """Returns the card of the shipped weights."""
    return shipped_card("tiny-clip")


def configuration(words: int) -> dict[str, Any]:
    """Describes the network in open_clip's format, for a vocabulary of so many words."""
    return {
        "embed_dim": 64,
        # Four bottlenecks, trained on one core three times as fast as a transformer of 0.3 M parameters on 4x4 patches.
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "head_width": 64, "image_size": 32},
        "text_cfg": {"context_length": 20, "vocab_size": words + 3, "width": 64, "heads": 2, "layers": 2},
    }


def tokenizer(vocabulary: Tensor) -> Callable[[Sequence[str]], Tensor]:
    """open_clip's tokenizer, followed by the map from its tokens to the rows of the network.

    Args:
        vocabulary: integers (words,), distinct tokens.

    Returns:
        A function of n texts to int64 (n, 20). What stands after the end of a text is `UNKNOWN` too, which changes
        nothing: the text tower never looks ahead.

    Raises:
        InputRejected: tokens that are not words of open_clip's tokenizer, or given twice.
    """
    tokens = vocabulary.long().flatten()
    if len(tokens) == 0 or int(tokens.min()) < 0 or int(tokens.max()) >= _START or len(tokens.unique()) < len(tokens):
        raise InputRejected(f"The vocabulary must be distinct tokens in [0, {_START}).")
    rows = torch.full((_END + 1,), UNKNOWN)
    rows[tokens] = torch.arange(1, len(tokens) + 1)
    rows[_START], rows[_END] = len(tokens) + 1, len(tokens) + 2
    encode = clip.tokenizer(configuration(len(tokens)))
    return lambda captions: rows[encode(captions)]


def load(
    *, device: str = "cpu", precision: str = "float32", weights: Path | None = None, prefix: str = ""
) -> Extractor:
    """Loads the network.

    Args:
        precision: "exact" computes attention by its definition, "float32" by what is fastest on the device.
        weights: of the same network, trained otherwise, None for those that are shipped.
        prefix: put before every caption. The network was trained without one, with "a photo of " and with
            "A photo depicts ".

    Returns:
        Taps "embedding" and "pooled" (64), both the projected image embedding before normalisation. Images of other
        sizes are brought to 32x32 as `clip` does it; captions of more than 18 tokens are cut, with the end token kept.

    Raises:
        UsageError, MissingAsset, InputRejected: of the arguments and the weights.

    Source:
        Radford et al. 2021 (arXiv:2103.00020), trained by `scripts/train_tiny_clip.py`. It knows nothing but `shapes`:
        its scores say how well a caption of that data set fits an image of it, and compare with no other network's.
    """
    check(precision)
    known = Card(name="tiny-clip", file="", licence="of the file given") if weights else card()
    path = resolve(known, given=weights)
    state = load_state(path)
    if VOCABULARY not in state:
        raise InputRejected(f"{path} has no entry {VOCABULARY!r}; scripts/train_tiny_clip.py writes files that do.")
    vocabulary = state.pop(VOCABULARY)
    tokenize = tokenizer(vocabulary)
    own = configuration(len(vocabulary))
    network = clip.build(own, state, origin=str(path))
    assembled = clip.assemble(
        network,
        name="tiny-clip",
        version=VERSION,
        weights=sha256(path),
        configuration=own,
        preprocessing=PREPROCESSING,
        tokenize=tokenize,
        prefix=prefix,
        device=device,
        precision=precision,
    )
    return replace(assembled, made_for="" if weights else "shapes")
