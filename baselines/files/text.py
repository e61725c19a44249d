"""Captions to token numbers, as the text encoders of the latent diffusion models read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

PADDING, UNKNOWN = 0, 1
RESERVED = 2
"""Token numbers that are no word; word i of a vocabulary has the number RESERVED + i."""


def vocabulary(captions: Sequence[str]) -> list[str]:
    """The words of the captions, sorted, each once."""
    return sorted({word for caption in captions for word in words(caption)})


def words(caption: str) -> list[str]:
    """The lower-case words of a caption; punctuation separates."""
    return re.findall(r"[a-z0-9]+", caption.lower())


def tokenize(captions: Sequence[str], known: Sequence[str], length: int) -> Tensor:
    """Token numbers of captions.

    Args:
        known: the vocabulary. Every other word becomes `UNKNOWN`.
        length: of every row; longer captions are cut, shorter ones filled with `PADDING`. The empty caption, all
            padding, is the null condition of guidance.

    Returns:
        int64 (len(captions), length).
    """
    number = {word: RESERVED + i for i, word in enumerate(known)}
    rows = torch.full((len(captions), length), PADDING)
    for row, caption in zip(rows, captions, strict=True):
        tokens = [number.get(word, UNKNOWN) for word in words(caption)][:length]
        row[: len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
    return rows


def clip(captions: Sequence[str], length: int = 77) -> Tensor:
    """Tokens of CLIP as Stable Diffusion v1 reads them, int64 (len(captions), length).

    Source: Radford et al. 2021. Differs from open_clip's tokenizer, which fills with 0 as OpenAI's does: what stands
        after the end of a caption is the end token again, the pad token of the tokenizer published with the model.
    """
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer(context_length=length)
    rows = tokenizer(list(captions))
    end = rows.argmax(dim=1, keepdim=True)
    return torch.where(torch.arange(length) > end, tokenizer.eot_token_id, rows)


def bert(captions: Sequence[str], vocabulary_file: Path, length: int = 77) -> Tensor:
    """Tokens of BERT, uncased, as LDM's text-to-image model reads them, int64 (len(captions), length).

    Args:
        vocabulary_file: `vocab.txt`, one word piece a line.

    Raises:
        ValueError: the package `tokenizers` is not installed.

    Source: Devlin et al. 2019; CompVis/latent-diffusion `modules.py:BERTTokenizer`.
    """
    try:
        from tokenizers import BertWordPieceTokenizer
    except ImportError as error:
        raise ValueError("This model's captions are read by tokenizers; pip install genbench[text]") from error
    tokenizer = BertWordPieceTokenizer(str(vocabulary_file), lowercase=True)
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    return torch.tensor([encoding.ids for encoding in tokenizer.encode_batch(list(captions))])
