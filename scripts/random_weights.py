"""Networks with random weights, for comparing implementations where the published weights are not there.

An implementation is right on random weights or it is not right; and how long it takes does not depend on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genbench.contracts import Extractor
from genbench.extractors.inference import extractor


def structured_images(count: int, height: int, width: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Waves of random directions under noise, each image of its own contrast: uint8 (count, 3, height, width)."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    along, across, phase = rng.uniform(2, 30, (3, count, 3, 1, 1))
    contrast = rng.uniform(30, 110, (count, 1, 1, 1))
    values = 128 + contrast * np.sin(along * x + across * y + phase) + rng.normal(0, 20, (count, 3, height, width))
    return np.clip(np.floor(values + 0.5), 0, 255).astype(np.uint8)


def inception(path: Path, *, seed: int = 0) -> Path:
    """Writes weights in the format of `pt_inception-2015-12-05-6726825d.pth`, which every tool of FID reads.

    The parameters have the names of torchvision's `inception_v3` without its auxiliary classifier, with 1008 classes.
    Convolutions keep the variance of their input (He et al. 2015), and the statistics of every normalisation are those
    of one batch of `structured_images`, without which features would vanish or overflow within 94 layers.

    Returns:
        The path.
    """
    from torchvision.models import inception_v3

    generator = torch.Generator().manual_seed(seed)

    def normal(values: Tensor, mean: float, deviation: float) -> None:
        values.copy_(mean + deviation * torch.randn(values.shape, generator=generator))

    # The constructor and dropout draw from the global state, which is the caller's.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                normal(module.weight, 0.0, (2 / module.weight[0].numel()) ** 0.5)
            elif isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=generator))
                normal(module.bias, 0.5, 0.2)
        normal(network.fc.weight, 0.0, 0.05)
        normal(network.fc.bias, 0.0, 1.0)
        network.train()
        network(torch.from_numpy(structured_images(4, 299, 299, seed=seed)).float() / 127.5 - 1)
    torch.save(network.state_dict(), path)
    return path


def projection(
    *,
    device: str = "cpu",
    precision: str = "float32",
    weights: Path | None = None,
    width: int = 2048,
    side: int = 16,
    seed: int = 0,
) -> Extractor:
    """An extractor that costs next to nothing: rectified random projections of the pixels of side x side images.

    By name it is `scripts.random_weights:projection`.

    Args:
        weights: have no meaning here.

    Returns:
        The tap "pooled" (width), whose covariance has full rank although there may be fewer pixels than features.
    """
    pixels = 3 * side * side
    matrix = np.random.default_rng(seed).normal(0, pixels**-0.5, (pixels, width)).astype(np.float32)
    on_device = torch.from_numpy(matrix).to(device)

    def forward(images: Tensor, taps: Sequence[str]) -> Mapping[str, Tensor]:
        return {"pooled": torch.relu((images.float().flatten(1) / 127.5 - 1) @ on_device)}

    return extractor(
        "projection",
        1,
        weights=None,
        precision=precision,
        args={"width": width, "side": side, "seed": seed},
        widths={"pooled": width},
        forward=forward,
        device=device,
        block=256,
    )
