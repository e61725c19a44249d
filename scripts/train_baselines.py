"""Trains the diffusion models that the project ships, on `shapes`, and writes weights and cards into `baselines/`.

    python -m scripts.train_baselines pixel         # class-conditional with label dropout and a learned variance
    python -m scripts.train_baselines classifier    # of noisy images

The first network serves DDPM, DDIM and classifier-free guidance, and both together ADM-G. Interrupted, the same command
continues from its checkpoint. Progress, a sample sheet per stop and the checkpoint go to --work.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from baselines import schedules
from baselines.denoisers import denoiser
from baselines.networks.classifier import Classifier, ClassifierConfig
from baselines.networks.unet import UNet, UNetConfig, zero_outputs
from baselines.noise import image_noise
from baselines.sampling import sample
from baselines.steps import ddim
from baselines.training import Loss, Recipe, classification_loss, diffusion_loss, fit
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
BETA = schedules.betas(PROCESS["schedule"], PROCESS["steps"])
CLASSIFIER = ClassifierConfig(
    trunk=UNetConfig(width=32, multipliers=(1, 1, 2, 2), blocks=1, attention=(4,), heads=2, groups=16),
    classes=len(shapes.CLASSES),
    image_size=shapes.SIDE,
)


def batch(step: int, size: int) -> dict[str, torch.Tensor]:
    """New images every step: the train split does not end."""
    f = shapes.factors("train", np.arange(step * size, (step + 1) * size))
    images = torch.from_numpy(shapes.draw(f)).float() / 127.5 - 1
    return {"x0": images.to(memory_format=torch.channels_last), "y": torch.from_numpy(f.label)}


def sheet(network: torch.nn.Module, path: Path) -> None:
    """A picture of 8 samples of every class by 50 steps of DDIM."""
    network.eval()
    grid = schedules.discrete_grid(BETA, schedules.subsequence(50, len(BETA), "uniform"))
    noise = image_noise(torch.arange(80))
    x = noise(0, torch.empty(80, 3, shapes.SIDE, shapes.SIDE)).to(memory_format=torch.channels_last)
    predict = denoiser(network, PROCESS["kind"], learned_variance=True)
    condition = {"y": torch.arange(len(shapes.CLASSES)).repeat_interleave(8)}
    images = quantise(sample(predict, ddim(), grid, x, noise, condition), "round")
    rows = images.unflatten(0, (10, 8)).permute(0, 3, 1, 4, 2).reshape(320, 256, 3)
    Image.fromarray(rows.numpy()).save(path)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One network to train: how it is made, what it minimises, and what its card says."""

    make: Callable[[], torch.nn.Module]
    loss: Loss
    summary: str
    network: object
    report: Callable[[torch.nn.Module], dict[str, float]] = lambda network: {}
    picture: Callable[[torch.nn.Module, Path], None] | None = None


@torch.no_grad()
def classifier_accuracy(network: torch.nn.Module) -> dict[str, float]:
    """Accuracy on 1000 test images at four noise levels."""
    network.eval()
    f = shapes.factors("test", np.arange(1000))
    x0 = torch.from_numpy(shapes.draw(f)).float() / 127.5 - 1
    remaining = schedules.signal(BETA)
    found = {}
    for t in (0, 250, 500, 750):
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(t))
        x = float(remaining[t] ** 0.5) * x0 + float((1 - remaining[t]) ** 0.5) * eps
        logits = network(x, torch.full((len(x),), float(t)))
        found[f"accuracy_t{t}"] = round(float((logits.argmax(1) == torch.from_numpy(f.label)).float().mean()), 4)
    return found


def tasks(args: argparse.Namespace) -> dict[str, Task]:
    """What there is to train."""

    def pixel() -> torch.nn.Module:
        network = UNet(PIXEL)
        zero_outputs(network)
        return network

    return {
        "pixel": Task(
            make=pixel,
            loss=diffusion_loss(
                BETA, PROCESS["kind"], learned_variance=True, null_label=PROCESS["null_label"], drop=args.drop
            ),
            summary="class-conditional U-Net with label dropout and a learned variance",
            network=PIXEL,
            picture=sheet,
        ),
        "classifier": Task(
            make=lambda: Classifier(CLASSIFIER),
            loss=classification_loss(BETA),
            summary="classifier of noisy images with attention pooling",
            network=CLASSIFIER,
            report=classifier_accuracy,
        ),
    }


def train(name: str, args: argparse.Namespace) -> None:
    """Trains one network, or exports one whose training is complete."""
    task = tasks(args)[name]
    recipe = Recipe(steps=args.steps, batch_size=args.batch_size, rate=args.rate, seed=args.seed)
    torch.manual_seed(args.seed)  # of the initial weights; everything else depends on (seed, step)
    network, average = (task.make().to(args.device).to(memory_format=torch.channels_last) for _ in range(2))
    args.work.mkdir(parents=True, exist_ok=True)
    started, measured = time.time(), {}
    for state in fit(
        network, average, task.loss, lambda step: batch(step, args.batch_size), recipe,
        checkpoint=args.work / f"{name}.pt", every=args.every,
    ):  # fmt: skip
        measured = {"loss": round(state.loss, 5)}
        print(f"step {state.step:6d}  loss {state.loss:.5f}  {time.time() - started:.0f} s", flush=True)
        if task.picture is not None:
            task.picture(average, args.work / f"{name}.png")
    output = HOME / f"shapes-{name}.safetensors"
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half().contiguous() for key, value in average.state_dict().items()}, output)
    write_card(
        output,
        summary=task.summary,
        command=f"python -m scripts.train_baselines {name} --steps {args.steps} --batch-size {args.batch_size} "
        f"--rate {args.rate} --drop {args.drop} --seed {args.seed}",
        data={"name": "shapes", "version": shapes.VERSION, "images": args.steps * args.batch_size},
        seconds=time.time() - started if measured else None,
        measured=measured | task.report(average.cpu()),
        averaged=True,
        network=dataclasses.asdict(task.network),
        process=PROCESS,
        **({"note": args.note} if args.note else {}),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pixel", "classifier"])
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--drop", type=float, default=0.1, help="share of labels replaced by the null label")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=250)
    parser.add_argument("--note", default="", help="for the card, such as how an earlier part of the run was made")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, default=Path("training"))
    args = parser.parse_args()
    train(args.what, args)


if __name__ == "__main__":
    main()
