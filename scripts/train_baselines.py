"""Trains the diffusion models that the project ships, on `shapes`, and writes weights and cards into `baselines/`.

    python scripts/train_baselines.py pixel     # class-conditional with label dropout and a learned variance

One network serves DDPM, DDIM and classifier-free guidance. Interrupted, the same command continues from its
checkpoint. Progress, a sample sheet per stop and the checkpoint go to --work.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from baselines import schedules
from baselines.denoisers import denoiser
from baselines.networks.unet import UNet, UNetConfig, zero_outputs
from baselines.noise import image_noise
from baselines.sampling import sample
from baselines.steps import ddim
from baselines.training import Recipe, diffusion_loss, fit
from genbench.datasets import shapes
from genbench.generation import quantise
from scripts.cards import write_card

HOME = Path(__file__).resolve().parent.parent / "baselines" / "weights"

PIXEL = UNetConfig(
    width=64, multipliers=(1, 1.25, 1), blocks=1, attention=(2, 4), heads=4, groups=16,
    out_channels=6, classes=len(shapes.CLASSES) + 1, patch=2,
)  # fmt: skip
PROCESS = {
    "schedule": "cosine",
    "steps": 1000,
    "kind": "v",
    "learned_variance": True,
    "null_label": len(shapes.CLASSES),
}


def batch(step: int, size: int) -> dict[str, torch.Tensor]:
    """New images every step: the train split does not end."""
    f = shapes.factors("train", np.arange(step * size, (step + 1) * size))
    images = torch.from_numpy(shapes.draw(f)).float() / 127.5 - 1
    return {"x0": images.to(memory_format=torch.channels_last), "y": torch.from_numpy(f.label)}


def sheet(network: torch.nn.Module, path: Path) -> None:
    """A picture of 8 samples of every class by 50 steps of DDIM."""
    network.eval()
    beta = schedules.betas(PROCESS["schedule"], PROCESS["steps"])
    grid = schedules.discrete_grid(beta, schedules.subsequence(50, len(beta), "uniform"))
    noise = image_noise(torch.arange(80))
    x = noise(0, torch.empty(80, 3, shapes.SIDE, shapes.SIDE)).to(memory_format=torch.channels_last)
    predict = denoiser(network, PROCESS["kind"], learned_variance=True)
    condition = {"y": torch.arange(len(shapes.CLASSES)).repeat_interleave(8)}
    images = quantise(sample(predict, ddim(), grid, x, noise, condition), "round")
    rows = images.unflatten(0, (10, 8)).permute(0, 3, 1, 4, 2).reshape(320, 256, 3)
    Image.fromarray(rows.numpy()).save(path)


def train_pixel(args: argparse.Namespace) -> None:
    recipe = Recipe(steps=args.steps, batch_size=args.batch_size, rate=args.rate, seed=args.seed)
    torch.manual_seed(args.seed)  # of the initial weights; everything else depends on (seed, step)
    network, average = (UNet(PIXEL).to(args.device, memory_format=torch.channels_last) for _ in range(2))
    zero_outputs(network)
    beta = schedules.betas(PROCESS["schedule"], PROCESS["steps"])
    loss = diffusion_loss(
        beta, PROCESS["kind"], learned_variance=True, null_label=PROCESS["null_label"], drop=args.drop
    )
    args.work.mkdir(parents=True, exist_ok=True)
    started = time.time()
    trained = False
    for state in fit(
        network, average, loss, lambda step: batch(step, args.batch_size), recipe,
        checkpoint=args.work / "pixel.pt", every=args.every,
    ):  # fmt: skip
        trained = state.loss == state.loss
        print(f"step {state.step:6d}  loss {state.loss:.5f}  {time.time() - started:.0f} s", flush=True)
        sheet(average, args.work / "pixel.png")
    output = HOME / "shapes-pixel.safetensors"
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.half().contiguous() for name, value in average.state_dict().items()}, output)
    write_card(
        output,
        summary="class-conditional U-Net with label dropout and a learned variance",
        command=f"python scripts/train_baselines.py pixel --steps {args.steps} --batch-size {args.batch_size} "
        f"--rate {args.rate} --drop {args.drop} --seed {args.seed}",
        data={"name": "shapes", "version": shapes.VERSION, "images": args.steps * args.batch_size},
        seconds=time.time() - started if trained else None,
        measured={"loss": round(state.loss, 5)} if trained else {},
        averaged=True,
        network=dataclasses.asdict(PIXEL),
        process=PROCESS,
        **({"note": args.note} if args.note else {}),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pixel"])
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--drop", type=float, default=0.1, help="share of labels replaced by the null label")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--note", default="", help="for the card, such as how an earlier part of the run was made")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, default=Path("training"))
    args = parser.parse_args()
    train_pixel(args)


if __name__ == "__main__":
    main()
