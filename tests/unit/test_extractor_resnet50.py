"""The ResNet-50 extractor against torchvision's network and its own preprocessing, on random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from genbench.errors import MissingAsset, UsageError
from genbench.extractors import resnet50

pytestmark = pytest.mark.parity


def images(height: int, width: int, count: int = 3) -> torch.Tensor:
    """Waves of growing contrast and noise."""
    rng = np.random.default_rng(height)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    waves = np.stack([np.sin(rng.uniform(3, 30) * x + rng.uniform(3, 30) * y) for _ in range(3 * count)])
    contrast = np.linspace(30, 110, count)[:, None, None, None]
    values = 128 + contrast * waves.reshape(count, 3, height, width) + rng.normal(0, 20, (count, 3, height, width))
    return torch.from_numpy(values.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    from torchvision.models import resnet50 as make

    generator = torch.Generator().manual_seed(0)
    network = make(weights=None)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.ndim == 4:
                value.copy_((2 / value[0].numel()) ** 0.5 * torch.randn(value.shape, generator=generator))
            elif value.ndim == 1 and name.endswith("weight"):
                value.copy_(0.3 + 0.4 * torch.rand(value.shape, generator=generator))
            elif name.endswith("bias"):
                value.copy_(0.2 * torch.randn(value.shape, generator=generator))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        # One pass in training sets the statistics to those of images, so that no layer dies or explodes.
        network.train()(images(224, 224, 4).float() / 64 - 2)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def weights(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize("recipe", ["v1", "v2"])
@pytest.mark.parametrize("size", [(32, 32), (100, 130), (301, 401)])
def test_taps_agree_with_torchvision_on_pillow_images(
    recipe: str, size: tuple[int, int], network: nn.Module, weights: Path
) -> None:
    from torchvision.models import ResNet50_Weights

    prepare = ResNet50_Weights[f"IMAGENET1K_{recipe.upper()}"].transforms()
    x = images(*size)
    inputs = torch.stack([prepare(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in x])
    logits = network(inputs)
    classifier, network.fc = network.fc, nn.Identity()
    try:
        expected = {"pooled": network(inputs), "logits": logits}
    finally:
        network.fc = classifier
    for precision, tolerance in (("exact", 1e-6), ("float32", 2e-5)):
        found = resnet50.load(weights=weights, recipe=recipe, precision=precision).embed(x, ["pooled", "logits"])
        for tap, value in expected.items():
            assert (value[0] - value[1]).norm() > 1e-2 * value[0].norm()
            assert ((found[tap] - value).norm(dim=1) / value.norm(dim=1)).max() < tolerance, (precision, tap)


def test_arguments_are_in_the_key(weights: Path) -> None:
    arguments = ({}, {"recipe": "v1"}, {"crop": False}, {"resize": "clean"})
    loaded = [resnet50.load(weights=weights, **args) for args in arguments]  # type: ignore[arg-type]
    assert len({extractor.key for extractor in loaded}) == 4
    x = images(60, 60, 2)
    taps = [extractor.embed(x, ["pooled"])["pooled"] for extractor in loaded]
    assert all((taps[0] - other).norm() > 1e-4 * taps[0].norm() for other in taps[1:])
    # Without the crop the recipe decides nothing but the file.
    assert resnet50.load(weights=weights, crop=False, recipe="v1").key == loaded[2].key


def test_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_OFFLINE", "1")
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="v1 and v2; got 'v3'"):
        resnet50.load(recipe="v3")
    with pytest.raises(MissingAsset, match=r"resnet50-0676ba61.pth.*genbench fetch \"resnet50\(recipe='v1'\)\""):
        resnet50.load(recipe="v1")
