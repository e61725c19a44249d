"""Learns the coefficients of a sampler of few steps for the shipped network of `shapes`, which stays as it is.

    python -m scripts.learn_sampler --steps 5 --updates 300

The loss is the kernel distance of a linear kernel on the pooled features of an extractor, that of the metrics of
`shapes`: so FID on the same features is no longer a neutral judge. The numbers are written into the description of the
weights. Interrupted, the same command continues from its checkpoint in --work.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from baselines.files.cards import SHIPPED, release
from baselines.files.weights import Weights
from baselines.learned import Generalised, ancestral, generalised, marginals
from baselines.noise import image_noise
from baselines.sampling import walk
from baselines.schedules import Level, subsequence
from genbench.datasets import shapes
from genbench.extractors import compact, compact_network
from genbench.weights import load_into, load_state, resolve

SCALE = 1000.0
"""What the network is told is learned in units of this, so that one learning rate serves all numbers."""

Features = Callable[[Tensor], Tensor]
"""Images (b, 3, h, w), nominally in [-1, 1], to features (b, d), with a gradient."""


class Coefficients(nn.Module):
    """The numbers of a generalised model as parameters."""

    def __init__(self, start: Generalised, *, free: bool) -> None:
        """Begins at `start`. With `free`, the levels are learned too, else they follow from the mixture."""
        super().__init__()
        self.told = nn.Parameter(torch.tensor([level.t / SCALE for level in start.levels]))
        self.mix = nn.ParameterList([nn.Parameter(torch.tensor(factors)) for factors in start.mix])
        self.noise = nn.Parameter(torch.tensor(start.noise))
        scales = torch.tensor([[level.alpha, level.sigma] for level in start.levels])
        self.scales, self.free = nn.Parameter(scales, requires_grad=free), free

    def model(self) -> Generalised:
        """The model, as tensors that have a gradient."""
        mix = [list(factors) for factors in self.mix]
        # Nothing is added to the final image.
        noise = [*self.noise.abs()[:-1], torch.zeros(())]
        levels = [Level(t, *pair) for t, pair in zip(SCALE * self.told, self.scales, strict=True)]
        found = Generalised(levels=levels, mix=mix, noise=noise)
        if self.free:
            return found
        matched = [Level(level.t, *pair) for level, pair in zip(levels, marginals(found), strict=False)]
        return Generalised(levels=matched, mix=mix, noise=noise)


def distance(generated: Tensor, real_mean: Tensor) -> Tensor:
    """Kernel distance of a linear kernel, unbiased, without the term that does not depend on what is generated.

    Source: Watson et al. 2022 sec. 4.
    """
    count, total = len(generated), generated.sum(0)
    pairs = (total.square().sum() - generated.square().sum()) / (count * (count - 1))
    return pairs - 2 * total.dot(real_mean) / count


def extractor() -> Features:
    """The pooled features of `compact`, the extractor of the metrics of `shapes`."""
    network = compact_network.CompactNetwork()
    load_into(network, load_state(resolve(compact.card(), given=None)), origin="compact")
    network.eval().requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)
    return lambda images: network(images.clamp(-1, 1))["pooled"]


@torch.no_grad()
def mean_of_real(features: Features, count: int) -> Tensor:
    """Mean of the features of images of the train split, (d,)."""
    sums = []
    for start in range(0, count, 500):
        images = shapes.draw(shapes.factors("train", np.arange(start, start + 500)))
        sums.append(features(torch.from_numpy(images).float() / 127.5 - 1).sum(0))
    return torch.stack(sums).sum(0) / count


def learn(args: argparse.Namespace, features: Features) -> tuple[Generalised, float]:
    """The model after its last update, and the running mean of the loss."""
    weights = Weights(release=release(args.weights), device="cpu", precision=args.precision)
    process = weights.process
    start = ancestral(process.grid(subsequence(args.steps, process.steps, "respaced")))
    numbers = Coefficients(start, free=args.family == "pred-time")
    optimiser = torch.optim.Adam([p for p in numbers.parameters() if p.requires_grad], lr=args.rate)
    checkpoint, first, running = args.work / f"sampler-{args.steps}.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        first, running = state["update"], state["loss"]
        numbers.load_state_dict(state["numbers"])
        optimiser.load_state_dict(state["optimiser"])
    denoise, real, began = weights.denoiser(), mean_of_real(features, args.real), time.time()
    constant = float(real.square().sum())
    for update in range(first, args.updates):
        seeds = torch.arange(update * args.batch_size, (update + 1) * args.batch_size) + (args.seed << 40) + (1 << 39)
        random = np.random.default_rng([args.seed, update])
        labels = torch.from_numpy(random.integers(len(shapes.CLASSES), size=args.batch_size))
        noise = image_noise(seeds)
        x = noise(0, torch.empty(args.batch_size, *weights.release.shape)).to(memory_format=torch.channels_last)
        model = numbers.model()
        images = walk(partial(generalised, model), model.grid)(denoise, x, noise, {"y": labels})
        value = distance(features(images.to(memory_format=torch.channels_last)), real)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(numbers.parameters(), 1.0)
        optimiser.step()
        running += (float(value.detach()) + constant - running) * max(0.05, 1 / (update + 1))
        if (update + 1) % args.every == 0 or update + 1 == args.updates:
            state = {"numbers": numbers.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save(state | {"update": update + 1, "loss": running}, checkpoint)
            print(f"update {update + 1} distance {running:.5f} {time.time() - began:.0f} s", flush=True)
    return numbers.requires_grad_(requires_grad=False).model(), running


def plain(model: Generalised) -> dict[str, Any]:
    """The numbers, to seven digits."""

    def rounded(values: Iterable[Any]) -> list[float]:
        return [float(f"{float(value):.7g}") for value in values]

    return {
        "levels": [rounded(level) for level in model.levels],
        "mix": [rounded(factors) for factors in model.mix],
        "noise": rounded(model.noise),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="shapes-pixel", help="name of shipped weights")
    parser.add_argument("--steps", type=int, default=5, help="of the sampler")
    parser.add_argument("--updates", type=int, default=300, help="of the coefficients")
    parser.add_argument("--batch-size", type=int, default=64, help="images an update")
    parser.add_argument("--rate", type=float, default=5e-3, help="learning rate")
    parser.add_argument("--family", choices=("pred-time", "time"), default="pred-time", help="which numbers are free")
    parser.add_argument("--real", type=int, default=10_000, help="real images whose mean features are aimed at")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16", help="of the network")
    parser.add_argument("--seed", type=int, default=0, help="of the noise and the labels")
    parser.add_argument("--every", type=int, default=20, help="updates between two checkpoints")
    parser.add_argument("--work", type=Path, default=Path("training"), help="folder of the checkpoint")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    model, loss = learn(args, extractor())
    path = SHIPPED / f"{args.weights}.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    names = ("steps", "updates", "batch_size", "rate", "family", "real", "precision", "seed")
    options = " ".join(f"--{name.replace('_', '-')} {getattr(args, name)}" for name in names)
    found = {
        "command": f"python -m scripts.learn_sampler {options}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "tuned_on": "the pooled features of compact",
        "loss": round(loss, 6),
        **plain(model),
    }
    card["learned_samplers"] = card.get("learned_samplers", {}) | {str(args.steps): found}
    path.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
