"""The VGG-16 extractor against torchvision's network and torch-fidelity's extractor, on random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genbench.errors import MissingAsset, UsageError
from genbench.extractors import vgg16

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of all 138 million values in a small file: each tensor is a view of shared random numbers."""
    from torchvision.models import vgg16 as network

    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(300_000, generator=generator)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in network(init_weights=False).state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        inner = int(np.prod(shape[1:]))
        spread = (2 / inner) ** 0.5 if len(shape) > 1 else 0.1
        # Rows overlap, shifted by a step that is no divisor of their length, and are yet far from equal.
        rows = (spread * numbers).as_strided((shape[0], inner), (61, 1))
        state[name] = rows.reshape(shape) if len(shape) != 2 else rows
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(state, path)
    assert path.stat().st_size < 100e6
    return path


def images(height: int, width: int, count: int = 3) -> torch.Tensor:
    """Waves of growing contrast and noise."""
    rng = np.random.default_rng(height)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    waves = np.stack([np.sin(rng.uniform(3, 30) * x + rng.uniform(3, 30) * y) for _ in range(3 * count)])
    contrast = np.linspace(30, 110, count)[:, None, None, None]
    values = 128 + contrast * waves.reshape(count, 3, height, width) + rng.normal(0, 20, (count, 3, height, width))
    return torch.from_numpy(values.clip(0, 255).astype(np.uint8))


def test_fc2_agrees_with_torch_fidelity(weights: Path) -> None:
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    peer = FeatureExtractorVGG16("vgg16", ["fc2_relu"], feature_extractor_weights_path=str(weights))
    extractor, exact = vgg16.load(weights=weights), vgg16.load(weights=weights, precision="exact")
    assert extractor.widths == {"pooled": 4096} and extractor.key != exact.key
    for size in ((32, 32), (100, 130)):
        x = images(*size, 2)
        (expected,) = peer(x)
        norms = expected.norm(dim=1)
        assert bool((norms > 0).all()) and (expected[0] - expected[1]).norm() > 1e-2 * norms[0]
        for each in (extractor, exact):
            found = each.embed(x, ["pooled"])["pooled"]
            assert ((found - expected).norm(dim=1) / norms).max() < 1e-4
    x = images(64, 64, 4)
    whole, others = (extractor.embed(v, ["pooled"])["pooled"] for v in (x, torch.cat([x[:2], 255 - x[2:]])))
    assert torch.equal(whole[:2], others[:2])


def test_resize_is_an_argument_and_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_OFFLINE", "1")
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="No resize"):
        vgg16.load(resize="near")
    with pytest.raises(MissingAsset, match="553,433,881 bytes, sha256 397923af"):
        vgg16.load()
