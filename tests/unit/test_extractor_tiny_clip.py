"""The shipped network of images and captions: what its card says, and that it is `clip` with a smaller vocabulary."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor

from genbench.contracts import Extractor
from genbench.datasets import shapes
from genbench.errors import InputRejected
from genbench.extractors import clip, tiny_clip
from genbench.weights import SHIPPED, load_state, resolve, sha256

COUNT = 300


@cache
def loaded() -> Extractor:
    return tiny_clip.load()


@cache
def factors() -> shapes.Factors:
    return shapes.factors("test", np.arange(COUNT))


@cache
def embedded() -> Tensor:
    images = torch.from_numpy(shapes.draw(factors()))
    return F.normalize(loaded().embed(images, ["embedding"])["embedding"], dim=1)


def described(captions: list[str], extractor: Extractor | None = None) -> Tensor:
    embed = (extractor or loaded()).embed_captions
    assert embed is not None
    return F.normalize(embed(captions), dim=1)


def other(name: str) -> list[str]:
    """Captions in which one factor is another one."""
    f = factors()
    changed = {field: getattr(f, field) for field in f.__dataclass_fields__}
    counts = {"label": 10, "colour": 8, "background": 8, "size": 3}
    step = np.ones(COUNT, dtype=np.int64)
    if name == "colour":  # not that of the background, which no image has
        step += (f.colour + 1) % 8 == f.background
    if name == "background":
        step += (f.background + 1) % 8 == f.colour
    changed[name] = (changed[name] + step) % counts[name]
    return shapes.caption(shapes.Factors(**changed))


@pytest.mark.slow
def test_the_card_tells_the_truth() -> None:
    told = json.loads((SHIPPED / "tiny-clip.json").read_text(encoding="utf-8"))
    path = resolve(tiny_clip.card())
    assert (told["sha256"], told["bytes"]) == (sha256(path), path.stat().st_size)
    assert path.stat().st_size <= 4 << 20
    words = load_state(path)[tiny_clip.VOCABULARY]
    assert told["vocabulary"] == [SimpleTokenizer().decoder[int(token)].removesuffix("</w>") for token in words]
    assert told["network"] == tiny_clip.configuration(len(words))


def test_the_right_caption_is_the_nearest_of_all_that_there_are() -> None:
    """The accuracy on the card is over 10,000 images; four standard deviations of 300 are allowed."""
    told = json.loads((SHIPPED / "tiny-clip.json").read_text(encoding="utf-8"))["measured"]["retrieval_1680"]
    own = shapes.caption(factors())
    captions = sorted(set(shapes.caption(shapes.factors("train", np.arange(20_000)))))
    assert len(captions) == 10 * 8 * 7 * 3
    nearest = (embedded() @ described(captions).T).argmax(dim=1)
    accuracy = np.mean([captions[i] == caption for i, caption in zip(nearest.tolist(), own, strict=True)])
    assert accuracy >= told - 4 * (told * (1 - told) / COUNT) ** 0.5
    assert told > 0.9


@pytest.mark.parametrize(("name", "least"), [("label", 0.98), ("colour", 0.99), ("background", 0.99), ("size", 0.93)])
def test_a_caption_with_one_wrong_word_fits_less(name: str, least: float) -> None:
    right, wrong = (
        (embedded() * described(captions)).sum(dim=1) for captions in (shapes.caption(factors()), other(name))
    )
    assert float((right > wrong).float().mean()) >= least


def test_captions_of_other_images_fit_less() -> None:
    own = described(shapes.caption(factors()))
    matched, shuffled = (embedded() * own).sum(dim=1), (embedded() * own.roll(1, dims=0)).sum(dim=1)
    assert float(matched.mean()) > float(shuffled.mean()) + 0.5


@pytest.mark.parametrize("opening", ["a photo of ", "A photo depicts "])
def test_a_prefix_is_part_of_every_caption_and_costs_no_accuracy(opening: str) -> None:
    captions = shapes.caption(factors())
    prefixed = tiny_clip.load(prefix=opening)
    assert prefixed.key != loaded().key
    found = described(captions, prefixed)
    torch.testing.assert_close(found, described([opening + caption for caption in captions]), atol=1e-6, rtol=0)
    assert float((embedded() * found).sum(dim=1).mean()) > float(
        (embedded() * described(captions)).sum(dim=1).mean()
    ) - 0.05  # fmt: skip


def test_it_is_open_clip_with_one_row_for_all_unknown_words() -> None:
    """The same weights in a network of all 49,408 tokens, fed by open_clip's own tokenizer, give the same texts."""
    state = load_state(resolve(tiny_clip.card()))
    words = state.pop(tiny_clip.VOCABULARY).long()
    rows = state["token_embedding.weight"].float()
    table = rows[tiny_clip.UNKNOWN].repeat(49_408, 1)
    table[words], table[49_406], table[49_407] = rows[1:-2], rows[-2], rows[-1]
    whole = tiny_clip.configuration(0)
    whole["text_cfg"]["vocab_size"] = 49_408
    network = clip.build(whole, state | {"token_embedding.weight": table})
    captions = [*shapes.caption(factors())[:20], "a quite unknown, zebra! in a zoo", "an olive ring", "!"]
    expected = F.normalize(network.encode_text(SimpleTokenizer(context_length=20)(captions)), dim=1)
    torch.testing.assert_close(described(captions), expected, atol=1e-5, rtol=0)


def test_images_are_scaled_to_plus_and_minus_one() -> None:
    state = load_state(resolve(tiny_clip.card()))
    words = state.pop(tiny_clip.VOCABULARY)
    network = clip.build(tiny_clip.configuration(len(words)), state)
    images = torch.from_numpy(shapes.draw(factors())[:9])
    found = loaded().embed(images, ["embedding", "pooled"])
    torch.testing.assert_close(found["embedding"], network.encode_image(images / 127.5 - 1), atol=1e-5, rtol=1e-4)
    assert torch.equal(found["embedding"], found["pooled"])
    assert found["embedding"].shape == (9, loaded().widths["embedding"])


def test_words_have_rows_of_their_own_and_the_end_is_the_largest_number() -> None:
    words = load_state(resolve(tiny_clip.card()))[tiny_clip.VOCABULARY]
    tokenize = tiny_clip.tokenizer(words)
    start, end = len(words) + 1, len(words) + 2
    known = tokenize(list(dict.fromkeys((*shapes.CLASSES, *shapes.COLOURS, *shapes.BACKGROUNDS, *shapes.SIZES))))
    # "cyan" is two tokens of open_clip, all other words are one.
    assert sorted((row[1:] > 0).sum().item() - 1 for row in known) == [1] * (len(known) - 1) + [2]
    assert len({tuple(row.tolist()) for row in known}) == len(known)
    assert tokenize(["zebra", "Circle"])[:, :4].tolist() == [
        [start, tiny_clip.UNKNOWN, end, 0], [start, tokenize(["circle"])[0, 1].item(), end, 0],
    ]  # fmt: skip
    long = tokenize(["red " * 50])
    assert long.shape == (1, 20)
    assert long[0, -1] == end
    assert int((long == end).sum()) == 1


def test_a_feature_does_not_hang_on_its_neighbours_nor_on_the_program_around_it() -> None:
    images = torch.from_numpy(shapes.draw(factors())[:6])
    before = torch.get_rng_state()
    again = tiny_clip.load()
    assert torch.equal(torch.get_rng_state(), before)
    assert again.key == loaded().key
    first = loaded().embed(images, ["embedding"])["embedding"]
    assert torch.equal(first, again.embed(images, ["embedding"])["embedding"])
    assert torch.equal(first.flip(0), again.embed(images.flip(0), ["embedding"])["embedding"])
    exact = tiny_clip.load(precision="exact")
    assert exact.key != again.key
    torch.testing.assert_close(exact.embed(images, ["embedding"])["embedding"], first, atol=1e-4, rtol=1e-4)


def test_weights_without_a_usable_vocabulary_are_refused(tmp_path: Path) -> None:
    state = load_state(resolve(tiny_clip.card()))
    words = state.pop(tiny_clip.VOCABULARY)
    path = tmp_path / "other.safetensors"
    save_file(state, path)
    with pytest.raises(InputRejected, match="no entry 'vocabulary'"):
        tiny_clip.load(weights=path)
    for wrong in (words[:0], torch.cat([words[:-1], words[:1]]), torch.cat([words[:-1], torch.tensor([49_406])])):
        save_file(state | {tiny_clip.VOCABULARY: wrong.int()}, path)
        with pytest.raises(InputRejected, match="distinct tokens"):
            tiny_clip.load(weights=path)
    save_file(state | {tiny_clip.VOCABULARY: words[:-1]}, path)
    with pytest.raises(InputRejected, match="token_embedding"):
        tiny_clip.load(weights=path)


def test_weights_of_ones_own_are_taken(tmp_path: Path) -> None:
    state = load_state(resolve(tiny_clip.card()))
    path = tmp_path / "other.safetensors"
    save_file({k: v + 1 if k == "text_projection" else v for k, v in state.items()}, path)
    mine = tiny_clip.load(weights=path)
    assert mine.key != loaded().key
    assert not torch.allclose(described(["a small red star"], mine), described(["a small red star"]))
