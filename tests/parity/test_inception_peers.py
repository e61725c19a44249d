"""The Inception network against pytorch-fid, torch-fidelity and torchmetrics: same random weights, same images.

The weights are written under torchvision's names, which are those of the public file, and every program reads that file
with its own loader.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from genbench.contracts import Extractor
from genbench.extractors import inception

pytestmark = pytest.mark.parity
SIZES = [(28, 28), (32, 32), (64, 64), (100, 130), (299, 299), (300, 300)]
TAPS = {
    "pool64": "64", "pool192": "192", "pool768": "768", "pooled": "2048", "logits": "logits_unbiased",
    "logits_biased": "logits",
}  # fmt: skip


def images(size: tuple[int, int], count: int = 3) -> torch.Tensor:
    """Smooth structure and noise, each image of its own contrast."""
    rng = np.random.default_rng(sum(size))
    y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in size), indexing="ij")
    waves = np.stack([np.sin(rng.uniform(3, 30) * x + rng.uniform(3, 30) * y) for _ in range(3 * count)])
    contrast = np.linspace(30, 110, count)[:, None, None, None]
    values = 128 + contrast * waves.reshape(count, 3, *size) + rng.normal(0, 20, (count, 3, *size))
    return torch.from_numpy(values.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the public format, with the normalisation calibrated so that no feature explodes."""
    from torchvision.models import inception_v3

    generator = torch.Generator().manual_seed(7)
    network = inception_v3(weights=None, init_weights=False, aux_logits=False, num_classes=1008)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                spread = (2 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(spread * torch.randn(module.weight.shape, generator=generator))
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=generator))
                module.bias.copy_(0.5 + 0.2 * torch.randn(module.bias.shape, generator=generator))
                module.momentum = 1.0
        network.fc.weight.copy_(0.05 * torch.randn(network.fc.weight.shape, generator=generator))
        network.fc.bias.copy_(torch.randn(network.fc.bias.shape, generator=generator))
        # torchvision's dropout draws from the global state; what follows the statistics does not matter.
        network.dropout.p = 0.0
        network.train()(images((299, 299), 4).float() / 127.5 - 1)
    path = tmp_path_factory.mktemp("weights") / "pt_inception.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def fast(weights: Path) -> Extractor:
    return inception.load(weights=weights)


@pytest.fixture(scope="module")
def torch_fidelity(weights: Path) -> Any:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3("inception", list(TAPS.values()), feature_extractor_weights_path=str(weights))


@pytest.fixture(scope="module")
def pytorch_fid(weights: Path) -> Iterator[Any]:
    from pytorch_fid import inception as module

    def local(url: str, progress: bool) -> dict[str, torch.Tensor]:
        assert url == inception.card().url
        return torch.load(weights, weights_only=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", local)
        yield module.InceptionV3([0, 1, 2, 3]).eval()


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest relative error of an image, in the norm of its features."""
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


@pytest.mark.parametrize("size", SIZES)
def test_every_tap_agrees_with_torch_fidelity(size: tuple[int, int], fast: Extractor, torch_fidelity: Any) -> None:
    x = images(size)
    found = fast.embed(x, list(TAPS))
    for tap, expected in zip(TAPS, torch_fidelity(x), strict=True):
        assert found[tap].shape == (3, fast.widths[tap]) and found[tap].dtype == torch.float32
        assert distance(found[tap], expected) < 1e-4, tap
        # The images differ by far more than the implementations, so that agreement means something.
        assert distance(expected[:1], expected[1:2]) > 1e-2


def test_the_exact_path_is_the_peers_network(weights: Path, fast: Extractor, torch_fidelity: Any) -> None:
    exact, x = inception.load(weights=weights, precision="exact"), images((32, 32))
    found, folded = exact.embed(x, list(TAPS)), fast.embed(x, list(TAPS))
    for tap, expected in zip(TAPS, torch_fidelity(x), strict=True):
        assert distance(found[tap], expected) < 2e-6, tap
        assert distance(folded[tap], found[tap]) < 2e-5, tap
    assert exact.key != fast.key


@pytest.mark.parametrize("size", [(32, 32), (100, 130), (300, 300)])
def test_bilinear_and_symmetric_is_pytorch_fid(size: tuple[int, int], weights: Path, pytorch_fid: Any) -> None:
    x = images(size)
    found = inception.load(weights=weights, resize="bilinear", scaling="symmetric").embed(x, list(TAPS))
    with torch.no_grad():
        peers = pytorch_fid(x.float() / 255)
    for tap, expected in zip(TAPS, peers, strict=False):
        assert distance(found[tap], expected.mean(dim=(2, 3))) < 1e-4, tap


@pytest.mark.parametrize("size", [(32, 32), (400, 330)])
def test_bilinear_antialias_is_torchmetrics(size: tuple[int, int], weights: Path) -> None:
    from torchmetrics.image.fid import NoTrainInceptionV3

    peer = NoTrainInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights))
    x = images(size)
    found = inception.load(weights=weights, resize="bilinear-antialias").embed(x, ["pooled"])["pooled"]
    assert distance(found, peer(x)) < 1e-4


def test_spatial_tap_is_mixed_6_conv_in_the_order_of_tensorflow(fast: Extractor, torch_fidelity: Any) -> None:
    """ADM's `mixed_6/conv:0` is the 1x1 branch of Mixed_6d after its rectifier; 7 channels, (h, w, c) order."""
    seen, x = [], images((64, 64))
    handle = torch_fidelity.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    torch_fidelity(x)
    handle.remove()
    branch = seen[0].numpy()
    assert branch.shape == (3, 192, 17, 17) and branch.min() >= 0
    expected = np.stack([[image[c, i, j] for i in range(17) for j in range(17) for c in range(7)] for image in branch])
    found = fast.embed(x, ["spatial"])["spatial"]
    assert found.shape == (3, 2023)
    assert distance(found, torch.from_numpy(expected)) < 1e-4


def test_resize_and_scaling_matter_as_published(weights: Path, fast: Extractor) -> None:
    """NVIDIA's grid is TF1's resize; the corner convention and the scaling are protocols of their own."""
    x = images((32, 32))
    reference = fast.embed(x, ["pooled"])["pooled"]

    def other(**args: str) -> float:
        return distance(inception.load(weights=weights, **args).embed(x, ["pooled"])["pooled"], reference)

    assert other(resize="nvidia") < 1e-4
    assert other(resize="clean") > 1e-2
    assert other(scaling="symmetric") > 1e-3


def test_features_depend_on_the_image_alone(fast: Extractor) -> None:
    x = images((28, 28), 5)
    whole = fast.embed(x, ["pooled", "logits"])
    backwards = fast.embed(x.flip(0), ["pooled", "logits"])
    others = fast.embed(torch.cat([x[:2], 255 - x[2:]]), ["pooled", "logits"])
    alone = fast.embed(x[1:2], ["pooled", "logits"])
    for tap in ("pooled", "logits"):
        assert torch.equal(whole[tap], fast.embed(x, [tap])[tap])
        assert torch.equal(whole[tap][:2], others[tap][:2])
        assert distance(backwards[tap].flip(0), whole[tap]) < 1e-6
        assert distance(alone[tap], whole[tap][1:2]) < 1e-6


def test_grey_images_are_three_equal_channels(fast: Extractor) -> None:
    x = images((32, 32))[:, :1]
    assert torch.equal(fast.embed(x, ["pool64"])["pool64"], fast.embed(x.repeat(1, 3, 1, 1), ["pool64"])["pool64"])
