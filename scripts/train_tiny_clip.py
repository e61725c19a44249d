"""Trains the `tiny-clip` extractor on images and captions of `shapes` and writes its weights and card into the package.

    python -m scripts.train_tiny_clip          # about ten minutes on one core of its own

Interrupted, the same command continues from the checkpoint in --work.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from genbench.datasets import shapes
from genbench.extractors import clip, tiny_clip
from scripts.cards import write_card

HOME = Path(__file__).resolve().parent.parent / "genbench" / "extractors" / "weights"
FACTORS = {"label": shapes.CLASSES, "colour": shapes.COLOURS, "background": shapes.BACKGROUNDS, "size": shapes.SIZES}
OPENINGS = ("", "", "a photo of ", "A photo depicts ")
"""Put before captions, each equally often, so that a prefix of the CLIP score is nothing new to the network."""
DROPPED = 0.05
"""Share of words that become `tiny_clip.UNKNOWN` in training, which is how its row gets a meaning."""
MAX_SCALE = 100.0  # of the logits, as in Radford et al. 2021 sec. 2.5


@cache
def every_caption() -> tuple[list[str], NDArray[np.int64]]:
    """All captions that `shapes` can have, and their numbers by factors, (10, 8, 8, 3): -1 where colour and
    background are of one hue, which no image is."""
    kinds = [c for c in itertools.product(*(range(len(names)) for names in FACTORS.values())) if c[1] != c[2]]
    columns: dict[str, Any] = dict(zip(FACTORS, np.array(kinds).T, strict=True))
    unseen: dict[str, Any] = dict.fromkeys(("radius", "x", "y", "turn", "slope"), np.zeros(len(kinds)))
    number = np.full([len(names) for names in FACTORS.values()], -1)
    number[tuple(columns.values())] = np.arange(len(kinds))
    return shapes.caption(shapes.Factors(**columns, **unseen)), number


def images_and_captions(split: str, start: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images and the numbers of their captions."""
    f = shapes.factors(split, np.arange(start, start + count))
    return shapes.draw(f), every_caption()[1][tuple(getattr(f, name) for name in FACTORS)]


def vocabulary() -> Tensor:
    """Tokens of all captions and openings, int32, ascending."""
    texts = every_caption()[0] + [opening for opening in OPENINGS if opening]
    tokens = clip.tokenizer(tiny_clip.configuration(0))(texts).unique()
    return tokens[(tokens > 0) & (tokens < tokens.max() - 1)].int()  # without padding, start and end


def loss(images: Tensor, texts: Tensor, scale: Tensor, number: Tensor) -> Tensor:
    """Cross-entropy of images against texts and texts against images, at unit length.

    Equal captions are equally right answers: a batch of 256 of 1,680 captions has some twenty pairs of them.
    """
    logits = scale * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    right = (number[:, None] == number).float()
    right = right / right.sum(1, keepdim=True)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


@torch.no_grad()
def accuracies(weights: Path, count: int = 10_000) -> dict[str, float]:
    """Accuracies of the shipped file through the extractor: how often the right one has the largest cosine.

    `retrieval_N` is among all N captions of the data set, `accuracy_FACTOR` among those that differ from the right one
    in that factor only (10 shapes, 7 colours, 7 backgrounds, 3 sizes); `images_N` finds, for a caption, an image that
    it describes among N. Cosines are means over images with their own and with another image's caption.
    """
    extractor = tiny_clip.load(weights=weights)
    captions, number = every_caption()
    assert extractor.embed_captions is not None
    texts = F.normalize(extractor.embed_captions(captions), dim=1)
    cosines, truth = torch.empty(count, len(captions)), np.empty(count, dtype=np.int64)
    for start in range(0, count, 500):
        images, truth[start : start + 500] = images_and_captions("test", start, 500)
        embedding = extractor.embed(torch.from_numpy(images), ["embedding"])["embedding"]
        cosines[start : start + 500] = F.normalize(embedding, dim=1) @ texts.T
    values = cosines.numpy()
    own = values[np.arange(count), truth]
    report = {f"retrieval_{len(captions)}": float((values.argmax(1) == truth).mean())}
    asked = np.unique(truth)
    report[f"images_{count}"] = float((truth[values[:, asked].argmax(0)] == asked).mean())
    factors = np.argwhere(number >= 0)[truth]
    for axis, name in enumerate(FACTORS):
        others = np.moveaxis(number, axis, -1)[tuple(np.delete(factors, axis, axis=1).T)]
        rivals = np.where(others >= 0, np.take_along_axis(values, np.maximum(others, 0), axis=1), -np.inf)
        report[f"accuracy_{name}"] = float((rivals.max(1) <= own).mean())
    report["cosine_own"] = float(own.mean())
    report["cosine_other"] = float(values[np.arange(count), np.roll(truth, 1)].mean())
    return {name: round(value, 4) for name, value in report.items()}


def rate(step: int, steps: int, highest: float) -> float:
    """Linear from 0 over the first tenth, then half a cosine down to 0."""
    warm = max(steps // 10, 1)
    return highest * min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * max(step - warm, 0) / max(steps - warm, 1)))


def train(args: argparse.Namespace) -> tuple[dict[str, Tensor], float]:
    """The weights and the seconds that they took."""
    started, before = time.time(), 0.0
    words = vocabulary()
    network: Any = clip.build(tiny_clip.configuration(len(words))).train().requires_grad_(True)
    network = network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=args.rate, weight_decay=1e-2)
    checkpoint, first = args.work / "tiny-clip.pt", 0
    settings = {"steps": args.steps, "batch_size": args.batch_size, "rate": args.rate, "seed": args.seed}
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["settings"] != settings:
            raise SystemExit(f"{checkpoint} was made with {saved['settings']}; remove it or choose another --work.")
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        first, before = saved["step"], saved["seconds"]
    tokenize, captions = tiny_clip.tokenizer(words), every_caption()[0]
    tokens = torch.stack([tokenize([opening + caption for caption in captions]) for opening in OPENINGS])
    mean, std = (torch.tensor(tiny_clip.PREPROCESSING[name])[:, None, None] for name in ("mean", "std"))
    for step in range(first, args.steps):
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        pixels, chosen = images_and_captions("train", step * args.batch_size, args.batch_size)
        images, number = (torch.from_numpy(pixels).float() / 255 - mean) / std, torch.from_numpy(chosen)
        texts = tokens[torch.randint(len(OPENINGS), number.shape, generator=generator), number]
        dropped = (torch.rand(texts.shape, generator=generator) < DROPPED) & (texts <= len(words))
        for group in optimiser.param_groups:
            group["lr"] = rate(step, args.steps, args.rate)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            embedded = network.encode_image(images.contiguous(memory_format=torch.channels_last))
            described = network.encode_text(texts.masked_fill(dropped, tiny_clip.UNKNOWN))
        value = loss(embedded.float(), described.float(), network.logit_scale.exp(), number)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        with torch.no_grad():
            network.logit_scale.clamp_(0.0, math.log(MAX_SCALE))
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            seconds = before + time.time() - started
            args.work.mkdir(parents=True, exist_ok=True)
            saved = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "settings": settings}
            torch.save(saved | {"step": step + 1, "seconds": seconds}, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)
            print(f"step {step + 1:5d}  loss {float(value.detach()):.4f}  {seconds:.0f} s", flush=True)
    state = {k: v.half().contiguous() for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    return state | {tiny_clip.VOCABULARY: words}, before + time.time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="of the training")
    parser.add_argument("--batch-size", type=int, default=256, help="images a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--work", type=Path, default=Path("training"), help="folder of checkpoints and losses")
    parser.add_argument(
        "--output",
        type=Path,
        default=HOME / "tiny-clip.safetensors",
        help="file of weights to write; its card goes beside it",
    )
    args = parser.parse_args()
    state, seconds = train(args)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, args.output)
    report = accuracies(args.output)
    words = state[tiny_clip.VOCABULARY]
    from open_clip.tokenizer import SimpleTokenizer

    spelled = SimpleTokenizer().decoder
    write_card(
        args.output,
        summary="images and captions of shapes in one space",
        command=f"python -m scripts.train_tiny_clip --steps {args.steps} --batch-size {args.batch_size} "
        f"--rate {args.rate} --seed {args.seed}",
        data={"name": "shapes", "version": shapes.VERSION, "images": args.steps * args.batch_size},
        seconds=seconds,
        measured=report,
        network=tiny_clip.configuration(len(words)),
        vocabulary=[spelled[int(token)].replace("</w>", "") for token in words],
        note=f"float16; tokens outside the vocabulary share one row, trained by replacing {DROPPED:.0%} of all words",
    )
    print(report)


if __name__ == "__main__":
    main()
