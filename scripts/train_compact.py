"""Trains the `compact` extractor on `shapes` and writes its weights and card into the package.

python -m scripts.train_compact            # about ten minutes on two cores
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from genbench.datasets import shapes
from genbench.extractors.compact_network import CLASSIFIED, REGRESSED, CompactNetwork, loss
from scripts.cards import write_card

HOME = Path(__file__).resolve().parent.parent / "genbench" / "extractors" / "weights"


def batch(split: str, start: int, count: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Images in [-1, 1] and their targets."""
    f = shapes.factors(split, np.arange(start, start + count))
    targets = {name: torch.from_numpy(getattr(f, name)) for name in CLASSIFIED}
    position = np.stack([getattr(f, name) / scale for name, scale in REGRESSED.items()], axis=1)
    images = torch.from_numpy(shapes.draw(f)).float() / 127.5 - 1
    return images, targets | {"position": torch.from_numpy(position).float()}


@torch.no_grad()
def accuracies(network: CompactNetwork, count: int = 10_000) -> dict[str, float]:
    """Share of right answers per classified factor, root mean squared error of the others in their own units."""
    network.eval()
    hits, errors = dict.fromkeys(CLASSIFIED, 0.0), np.zeros(len(REGRESSED))
    for start in range(0, count, 500):
        images, targets = batch("test", start, 500)
        taps = network(images)
        taps["label"] = taps["logits"]
        for name in CLASSIFIED:
            hits[name] += float((taps[name].argmax(1) == targets[name]).sum())
        errors += (taps["position"] - targets["position"]).square().sum(0).numpy()
    report = {f"accuracy_{name}": round(hit / count, 4) for name, hit in hits.items()}
    for (name, scale), error in zip(REGRESSED.items(), errors, strict=True):
        report[f"rmse_{name}"] = round(float(np.sqrt(error / count) * scale), 4)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000, help="of the training")
    parser.add_argument("--batch-size", type=int, default=128, help="images a step")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument(
        "--output",
        type=Path,
        default=HOME / "compact.safetensors",
        help="file of weights to write; its card goes beside it",
    )
    args = parser.parse_args()
    started = time.time()
    torch.manual_seed(args.seed)  # of the initial weights; the data are a function of the step
    network = CompactNetwork().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=args.steps, pct_start=0.1)
    network.train()
    for step in range(args.steps):
        images, targets = batch("train", step * args.batch_size, args.batch_size)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            taps = network(images.to(memory_format=torch.channels_last))
        value = loss({name: tap.float() for name, tap in taps.items()}, targets)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        rate.step()
        if (step + 1) % 250 == 0:
            print(f"step {step + 1:5d}  loss {float(value):.4f}  {time.time() - started:.0f} s", flush=True)
    report = accuracies(network)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, args.output)
    write_card(
        args.output,
        summary="classifier of the generating factors of shapes",
        command=f"python -m scripts.train_compact --steps {args.steps} --batch-size {args.batch_size} "
        f"--seed {args.seed}",
        data={"name": "shapes", "version": shapes.VERSION, "images": args.steps * args.batch_size},
        seconds=time.time() - started,
        measured=report,
    )
    print(report)


if __name__ == "__main__":
    main()
