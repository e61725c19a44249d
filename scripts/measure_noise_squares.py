"""Measures how much noise the shipped network of `shapes` predicts, for the optimal variances of `analytic-dpm`.

    python -m scripts.measure_noise_squares --images 256 --levels 96

writes the mean squares by level into the description of the weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from baselines.analytic import mean_squares
from baselines.denoisers import Condition
from baselines.files.cards import SHIPPED, release
from baselines.files.weights import Weights
from baselines.noise import Noise, image_noise
from baselines.schedules import log_ratios, ratio_grid
from genbench.datasets import shapes


def batches(count: int, size: int = 64) -> Iterator[tuple[Tensor, Noise, Condition]]:
    """Images of the train split in [-1, 1], their noise and their labels."""
    for start in range(0, count, size):
        numbers = np.arange(start, min(start + size, count))
        f = shapes.factors("train", numbers)
        x0 = torch.from_numpy(shapes.draw(f)).float() / 127.5 - 1
        yield x0, image_noise(torch.from_numpy(numbers)), {"y": torch.from_numpy(f.label)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="shapes-pixel", help="name of shipped weights")
    parser.add_argument("--images", type=int, default=256, help="images that are made noisy")
    parser.add_argument("--levels", type=int, default=96, help="levels of noise")
    args = parser.parse_args()
    weights = Weights(release=release(args.weights), device="cpu", precision="float32")
    process = weights.process
    ratios = log_ratios(args.levels, low=process.lowest, high=process.highest)
    found = mean_squares(weights.denoiser(), batches(args.images), ratio_grid(process, ratios))
    path = SHIPPED / f"{args.weights}.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    card["noise_squares"] = {
        "command": f"python -m scripts.measure_noise_squares --images {args.images} --levels {args.levels}",
        "ratios": [float(f"{ratio:.8g}") for ratio in ratios],
        "squares": [float(f"{square:.8g}") for square in found],
    }
    path.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
