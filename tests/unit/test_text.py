"""Tokens of captions: by words, and as CLIP and BERT number them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from baselines.files import cards, text
from baselines.networks.latent import TextUNet, TextUNetConfig
from baselines.networks.transformer import TextEncoderConfig
from baselines.networks.unet import UNetConfig
from genbench.datasets import shapes


def test_words_are_numbered_padded_cut_and_known_or_not() -> None:
    known = text.vocabulary(["a red star", "A blue ring, on a star"])
    assert known == ["a", "blue", "on", "red", "ring", "star"]
    tokens = text.tokenize(["a RED, star!", "", "a purple star on a red ring"], known, 5)
    a, red, star, on = (text.RESERVED + known.index(word) for word in ("a", "red", "star", "on"))
    assert tokens.dtype == torch.int64
    assert tokens.tolist() == [[a, red, star, 0, 0], [0] * 5, [a, text.UNKNOWN, star, on, a]]


def test_the_shipped_vocabulary_reads_every_caption_of_shapes() -> None:
    known = cards.description("shapes-latent")["vocabulary"]
    length = cards.description("shapes-latent")["network"]["text"]["length"]
    captions = shapes.caption(shapes.factors("test", range(500)))
    assert max(len(text.words(caption)) for caption in captions) <= length
    assert int((text.tokenize(captions, known, length) == text.UNKNOWN).sum()) == 0
    briefs = cards.release("shapes-latent").class_captions
    assert int((text.tokenize(briefs, known, length) == text.UNKNOWN).sum()) == 0 and len(briefs) == 10


def test_clip_fills_with_its_end_token() -> None:
    # 49406 begins and 49407 ends a text; 320 is "a" and 2368 "cat", as published with CLIP.
    rows = text.clip(["a cat", ""], 6)
    assert rows.tolist() == [[49406, 320, 2368, 49407, 49407, 49407], [49406, *[49407] * 5]]


def test_bert_splits_words_into_pieces(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "star", "##fish", "fish", "!"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    rows = text.bert(["A starfish!", "ü", "a a a a a a a a"], tmp_path / "vocab.txt", 7)
    assert rows.tolist() == [[2, 5, 6, 7, 9, 3, 0], [2, 1, 3, 0, 0, 0, 0], [2, 5, 5, 5, 5, 5, 3]]


def test_a_text_unet_is_its_unet_on_the_context_of_its_encoder() -> None:
    config = TextUNetConfig(
        unet=UNetConfig(in_channels=4, out_channels=4, width=32, multipliers=(1,), blocks=1, attention=(1,), context=8),
        text=TextEncoderConfig(vocabulary=9, length=3, width=8, layers=1, heads=2, head_width=4),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = TextUNet(config).eval()
        x, t, tokens = torch.randn(2, 4, 4, 4), torch.tensor([1.0, 500.0]), torch.tensor([[1, 2, 0], [3, 3, 3]])
    with torch.no_grad():
        expected = network.unet(x, t, context=network.text(tokens))
        assert torch.equal(network(x, t, tokens), expected)
        assert not torch.allclose(network(x, t, tokens.flip(0)), expected, atol=1e-4), "the caption matters"
