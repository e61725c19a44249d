"""Measures how often `ldm` draws what its caption says, by the heads of `compact`, into `leaderboards/captions.csv`.

    python -m scripts.measure_captions --scales 1 1.5 2 3

Captions are those of the test split of `shapes`, which no network saw. The last row holds the same of the real images.
"""

from __future__ import annotations

import argparse
import csv
import io

import numpy as np
import torch

from baselines.systems import ldm
from genbench import generation
from genbench.datasets import shapes
from genbench.extractors import compact
from genbench.files import atomic_write
from genbench.uncertainty import score_from_share
from scripts.benchmarking import LEADERBOARDS

BOARD = LEADERBOARDS / "captions.csv"
COLUMNS = ("model", "num_samples", "seed", "right", "value", "ci_low", "ci_high", "error_method", "torch")
HEADS = {"shape": "logits", "colour": "colour", "background": "background", "size": "size"}


def shares(images: torch.Tensor, f: shapes.Factors) -> dict[str, np.ndarray]:
    """Factor to whether it is right, bool (n,); and "shape and colour"."""
    extractor = compact.load()
    size = extractor.block
    parts = [extractor.embed(images[i : i + size], list(HEADS.values())) for i in range(0, len(images), size)]
    wanted = {"shape": f.label, "colour": f.colour, "background": f.background, "size": f.size}
    found = {
        name: torch.cat([part[tap] for part in parts]).argmax(dim=1).numpy() == wanted[name]
        for name, tap in HEADS.items()
    }
    return {"shape and colour": found["shape"] & found["colour"], **found}


def rows(model: str, seed: int, images: torch.Tensor, f: shapes.Factors) -> list[dict[str, object]]:
    """A row a factor."""
    made = []
    for name, right in shares(images, f).items():
        score = score_from_share(float(right.sum()), len(right))
        low, high = score.ci95 or (None, None)
        made.append(
            {
                "model": model,
                "num_samples": len(right),
                "seed": seed,
                "right": name,
                "value": score.value,
                "ci_low": low,
                "ci_high": high,
                "error_method": score.error_method,
                "torch": torch.__version__,
            }
        )
        print(f"{model:45s} {name:18s} {score.value:.4f}", flush=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", type=float, nargs="*", default=[1.0, 1.5, 2.0, 3.0], help="of guidance")
    parser.add_argument("--steps", type=int, default=50, help="of a sample")
    parser.add_argument("--num-samples", type=int, default=1000, help="images of a scale")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    args = parser.parse_args()
    f = shapes.factors("test", np.arange(args.num_samples))
    texts = shapes.caption(f)
    seeds = generation.image_seeds(args.seed, 0, args.num_samples)
    table = []
    for scale in args.scales:
        model = ldm.load(
            dataset="shapes",
            device="cpu",
            precision="float32",
            steps=args.steps,
            scale=scale,
            spacing="uniform",
            last="clean",
        )
        batches = range(0, args.num_samples, 64)
        made = [model.sample(seeds[i : i + 64], captions=texts[i : i + 64]) for i in batches]
        images = generation.quantise(torch.cat(made))
        table += rows(f"ldm(scale={scale}, steps={args.steps})", args.seed, images, f)
    table += rows("real images", args.seed, torch.from_numpy(shapes.draw(f)), f)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    atomic_write(BOARD, buffer.getvalue().encode())


if __name__ == "__main__":
    main()
