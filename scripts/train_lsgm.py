"""Trains the shipped autoencoder of `shapes` and the prior of its latents together, into `baselines/weights`.

    python -m scripts.train_lsgm --steps 2000

Both networks begin as those of latent diffusion. Interrupted, the same command continues from its checkpoint in --work.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from baselines import schedules
from baselines.files import text
from baselines.joint import Joint, bound, joint_loss
from baselines.networks.latent import TextUNet
from baselines.processes import VariancePreserving
from baselines.training import Recipe, fit
from genbench.datasets import shapes
from scripts.cards import write_card
from scripts.train_baselines import (
    AUTOENCODER,
    BRIEF,
    EMPTY,
    HOME,
    LATENT,
    LATENT_PROCESS,
    SHAPE,
    WORDS,
    brief,
    first_stage,
    pixels,
    reconstruction_error,
)

NOISE = VariancePreserving()


def start(scale: float) -> Joint:
    """The networks of latent diffusion, with an equal mixture whose prior is the very one of latent diffusion."""
    stage, _ = first_stage()
    prior = TextUNet(LATENT)
    state = {k: v.float() for k, v in load_file(HOME / "shapes-latent.safetensors").items()}
    # Half of twice the output is the output, which is what the mixture adds to sigma x.
    prior.load_state_dict({k: 2 * v if k.startswith("unet.head") else v for k, v in state.items()})
    return Joint(prior, stage.requires_grad_(requires_grad=True), LATENT.unet.in_channels).train()


def batch(step: int, size: int, split: str = "train") -> dict[str, Tensor]:
    """New images and the tokens of their captions, some of which are brief and some empty."""
    f = shapes.factors(split, np.arange(step * size, (step + 1) * size))
    share = np.random.default_rng([step, 1]).random(size)
    captions = [
        "" if u < EMPTY else brief(label) if u < EMPTY + BRIEF else caption
        for u, label, caption in zip(share, f.label, shapes.caption(f), strict=True)
    ]
    return {"x0": pixels(f), "tokens": text.tokenize(captions, WORDS, LATENT.text.length)}


def told(ratio: Tensor) -> Tensor:
    """The timestep of the prior's own process with this ratio."""
    process = schedules.Discrete(schedule=LATENT_PROCESS["schedule"], steps=LATENT_PROCESS["steps"])
    return torch.tensor([process.at(r).t for r in ratio.tolist()])


@torch.no_grad()
def measured(joint: Joint, scale: float, count: int = 500) -> dict[str, Any]:
    """Bits a pixel value of test images with their whole captions, and the quality of reconstructions."""
    f = shapes.factors("test", np.arange(count))
    given = {"x0": pixels(f), "tokens": text.tokenize(shapes.caption(f), WORDS, LATENT.text.length)}
    bits = bound(joint, NOISE, told, given, torch.Generator().manual_seed(0), scale=scale)
    error = float(bits.std() / len(bits) ** 0.5)
    return {"bits": round(float(bits.mean()), 4), "bits_error": round(error, 4), **reconstruction_error(joint.stage)}


def ship(joint: Joint, scale: float, args: argparse.Namespace, steps: int, seconds: float | None) -> None:
    """Writes both networks in half precision, and their descriptions."""
    options = ("steps", "batch_size", "rate", "average", "seed")
    given = " ".join(f"--{name.replace('_', '-')} {getattr(args, name)}" for name in options)
    common: dict[str, Any] = {
        "command": f"python -m scripts.train_lsgm {given}",
        "data": {"name": "shapes", "version": shapes.VERSION, "images": steps * args.batch_size},
        "seconds": seconds,
        "averaged": True,
    }
    stage, prior = HOME / "shapes-lsgm-autoencoder.safetensors", HOME / "shapes-lsgm.safetensors"
    for module, path in ((joint.stage, stage), (joint.prior, prior)):
        save_file({k: v.half().contiguous() for k, v in module.state_dict().items()}, path)
    found = measured(joint, scale)
    write_card(
        stage,
        summary="the autoencoder of shapes-autoencoder, trained on together with the prior of its latents",
        measured=found,
        kind="autoencoder",
        network=dataclasses.asdict(AUTOENCODER),
        **common,
    )
    write_card(
        prior,
        summary="the prior of shapes-latent in a mixture with a normal one, trained on with its autoencoder",
        measured=found,
        kind="text-unet",
        network=dataclasses.asdict(LATENT),
        process=LATENT_PROCESS,
        shape=SHAPE,
        vocabulary=WORDS,
        class_captions=[brief(label) for label in range(len(shapes.CLASSES))],
        first_stage=stage.stem,
        latent_scale=scale,
        mixture=[round(a, 7) for a in joint.logit.detach().sigmoid().flatten().tolist()],
        log_scale=round(float(joint.log_scale.detach()), 6),
        **common,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="of the training")
    parser.add_argument("--batch-size", type=int, default=64, help="images a step")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate")
    parser.add_argument("--average", type=float, default=0.998, help="decay of the moving average of the weights")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--first", type=int, default=40000, help="batch of `shapes` that is drawn first")
    parser.add_argument("--every", type=int, default=100, help="steps between two checkpoints")
    parser.add_argument("--work", type=Path, default=Path("training"), help="folder of checkpoints")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    _, scale = first_stage()
    network, began = start(scale).to(memory_format=torch.channels_last), time.time()
    average, seconds = copy.deepcopy(network), None
    recipe = Recipe(
        steps=args.steps, batch_size=args.batch_size, rate=args.rate, seed=args.seed, warmup=100, average=args.average,
        decay="none", clip=20.0,
    )  # fmt: skip
    for state in fit(
        network,
        average,
        joint_loss(NOISE, told, scale=scale),
        lambda step: batch(args.first + step, args.batch_size),
        recipe,
        checkpoint=args.work / "lsgm.pt",
        every=args.every,
    ):
        seconds = time.time() - began
        print(f"lsgm step {state.step} loss {state.loss:.5f} {seconds:.0f} s", flush=True)
    ship(average.eval(), scale, args, args.steps, seconds)


if __name__ == "__main__":
    main()
