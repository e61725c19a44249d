"""Distils the shipped network of `shapes` into networks that need few steps, into `baselines/weights`.

    python -m scripts.distil_baselines progressive --steps 400     # 64 -> 32 -> 16 -> 8 -> 4 -> 2 -> 1 steps
    python -m scripts.distil_baselines consistency --steps 2400
    python -m scripts.distil_baselines adversarial --steps 1000 --rate 4e-4 --batch-size 32    # by a discriminator

Interrupted, the same command continues from its checkpoints in --work.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from baselines import schedules
from baselines.adversarial import Adversaries, adversarial_loss, few_ratios
from baselines.distillation import consistency_loss, halving_loss
from baselines.networks.discriminator import DiscriminatorConfig
from baselines.networks.unet import UNet, UNetConfig
from baselines.training import Loss, Recipe, fit
from genbench.datasets import shapes
from scripts.cards import write_card
from scripts.train_baselines import HOME, PIXEL, PROCESS, SHAPE, batch

SHIPPED = (4, 8)
"""Numbers of steps whose networks come with the package."""
HIGH, LOW = 80.0, 0.00643
"""Ratios of noise to signal between which the networks work; LOW is that of timestep 0."""


def teacher() -> UNet:
    """The shipped network, frozen."""
    network = UNet(PIXEL)
    network.load_state_dict({k: v.float() for k, v in load_file(HOME / "shapes-pixel.safetensors").items()})
    return network.requires_grad_(requires_grad=False).eval().to(memory_format=torch.channels_last)


def told(ratio: Tensor) -> Tensor:
    """The timestep of the cosine process with this ratio, between timesteps by the logarithm; float32 (b,)."""
    process = schedules.Discrete(schedule=PROCESS["schedule"], steps=PROCESS["steps"])
    return torch.tensor([process.at(r).t for r in ratio.tolist()])


def student(of: nn.Module) -> nn.Module:
    network = copy.deepcopy(of)
    return network.requires_grad_(requires_grad=True)


def train(
    name: str, start: nn.Module, loss: Loss, args: argparse.Namespace, recipe: Recipe, target: nn.Module | None = None
) -> nn.Module:
    """The moving average of a student after its training, or after one that was complete."""
    network, average = student(start), student(start)
    began = time.time()
    for state in fit(
        network,
        average,
        loss,
        lambda step: batch(args.first + step, args.batch_size),
        recipe,
        checkpoint=args.work / f"{name}.pt",
        every=args.every,
        target=target,
    ):
        print(f"{name} step {state.step} loss {state.loss:.5f} {time.time() - began:.0f} s", flush=True)
    return average.eval().requires_grad_(requires_grad=False)


def ship(
    network: nn.Module,
    name: str,
    summary: str,
    args: argparse.Namespace,
    images: int,
    *,
    config: UNetConfig = PIXEL,
    process: Mapping[str, Any] = PROCESS,
) -> None:
    """Writes weights in half precision and their description."""
    path = HOME / f"{name}.safetensors"
    save_file({k: v.half().contiguous() for k, v in network.state_dict().items()}, path)
    options = " ".join(f"--{k.replace('_', '-')} {getattr(args, k)}" for k in ("steps", "batch_size", "rate", "seed"))
    write_card(
        path,
        summary=summary,
        command=f"python -m scripts.distil_baselines {args.what} {options}",
        data={"name": "shapes", "version": shapes.VERSION, "images": images},
        seconds=None,
        measured={},
        averaged=True,
        teacher="shapes-pixel",
        kind="unet",
        network=dataclasses.asdict(config),
        process=process,
        shape=SHAPE,
        **({"note": args.note} if args.note else {}),
    )


def progressive(args: argparse.Namespace) -> None:
    network: nn.Module = teacher()
    steps, rounds = args.teacher, 0
    while steps > 1:
        ratios = schedules.rho_ratios([i / steps for i in range(steps)], low=LOW, high=HIGH)
        recipe = Recipe(
            steps=args.steps, batch_size=args.batch_size, rate=args.rate, seed=args.seed, warmup=20, average=0.98
        )
        network = train(f"progressive-{steps // 2}", network, halving_loss(network, told, ratios), args, recipe)
        args.first += args.steps
        steps //= 2
        rounds += 1
        if steps in SHIPPED:
            summary = f"the U-Net of shapes-pixel, distilled for {steps} steps of DDIM"
            ship(network, f"shapes-progressive-{steps}", summary, args, rounds * args.steps * args.batch_size)


def consistent(args: argparse.Namespace) -> None:
    start = teacher()
    target = student(start).eval()
    ratios = schedules.karras_ratios(18, low=LOW, high=HIGH)
    recipe = Recipe(
        steps=args.steps, batch_size=args.batch_size, rate=args.rate, seed=args.seed, warmup=50, average=0.995
    )
    network = train("consistency", start, consistency_loss(start, target, told, ratios), args, recipe, target)
    summary = "the U-Net of shapes-pixel, distilled into a consistency function"
    ship(network, "shapes-consistency", summary, args, args.steps * args.batch_size)


LATENT = 100
"""Size of the latent z of the denoising diffusion GAN."""
GENERATOR = dataclasses.replace(PIXEL, out_channels=3, latent=LATENT)
DISCRIMINATOR = DiscriminatorConfig(trunk=dataclasses.replace(PIXEL, in_channels=6))


def adversaries() -> Adversaries:
    """A generator that begins as the consistency model, and a discriminator that begins as the teacher's encoder.

    A consistency function predicts v as its teacher does, but for 1 % at the levels that are visited.
    """
    known, consistent = teacher().state_dict(), load_file(HOME / "shapes-consistency.safetensors")
    generator, discriminator = UNet(GENERATOR), DISCRIMINATOR.build()
    mine = generator.state_dict()
    # Of the head the rows of the image are kept, and those of the variance are not.
    mine |= {name: weight[: len(mine[name])].float() for name, weight in consistent.items()}
    generator.load_state_dict(mine)
    for name, weight in generator.named_parameters():
        if ".style" in name:  # the latent enters slowly
            nn.init.normal_(weight, std=0.02) if weight.ndim == 2 else nn.init.zeros_(weight)
    theirs = discriminator.state_dict()
    theirs |= {name: known[name] for name in known.keys() & theirs.keys()}
    first = "encoder.0.0.weight"  # begins without the channels of the noisier state
    theirs[first] = torch.cat([known[first], torch.zeros_like(known[first])], dim=1)
    discriminator.load_state_dict(theirs)
    nn.init.zeros_(discriminator.projection.weight)
    return Adversaries(generator, discriminator)


def adversarial(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    process = schedules.Discrete(schedule=PROCESS["schedule"], steps=PROCESS["steps"])
    loss = adversarial_loss(process, few_ratios(4), size=LATENT, penalty=2.0, every=10)
    recipe = Recipe(
        steps=args.steps, batch_size=args.batch_size, rate=args.rate, seed=args.seed, warmup=50, average=0.995,
        clip=10.0, momentum=(0.5, 0.99), decay="none", factors={"generator": args.generator},
    )  # fmt: skip
    pair = train("adversarial", adversaries(), loss, args, recipe)
    assert isinstance(pair, Adversaries)
    summary = "the U-Net of shapes-consistency with a latent vector, trained on against a discriminator for 4 steps"
    ship(
        pair.generator, "shapes-adversarial", summary, args, args.steps * args.batch_size,
        config=GENERATOR, process=PROCESS | {"learned_variance": False},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("progressive", "consistency", "adversarial"), help="network to make")
    parser.add_argument("--steps", type=int, default=400, help="of the training")
    parser.add_argument("--batch-size", type=int, default=64, help="images a step")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate")
    parser.add_argument("--generator", type=float, default=0.05, help="adversarial: factor of the generator's rate")
    parser.add_argument("--teacher", type=int, default=64, help="steps of the first teacher's sampler")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--first", type=int, default=20000, help="batch of `shapes` that is drawn first")
    parser.add_argument("--every", type=int, default=100, help="steps between two checkpoints")
    parser.add_argument("--note", default="", help="for the card")
    parser.add_argument("--work", type=Path, default=Path("training"), help="folder of checkpoints and losses")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    {"progressive": progressive, "consistency": consistent, "adversarial": adversarial}[args.what](args)


if __name__ == "__main__":
    main()
