"""Statistics that pytorch-fid writes, as a reference, with the same random weights in both programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import genbench
from genbench.arrays import Samples
from genbench.images import write_images

pytestmark = [pytest.mark.parity, pytest.mark.slow]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under the names of the public file, scaled so that activations keep their size."""
    from torchvision.models import inception_v3

    generator = torch.Generator().manual_seed(3)
    network = inception_v3(weights=None, init_weights=False, aux_logits=False, num_classes=1008)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                spread = (2 / module.weight[0].numel()) ** 0.5
                module.weight.copy_(spread * torch.randn(module.weight.shape, generator=generator))
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


def test_statistics_of_pytorch_fid_are_a_reference(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytorch_fid import fid_score
    from pytorch_fid import inception as network

    def local(url: str, progress: bool) -> dict[str, torch.Tensor]:
        return torch.load(weights, weights_only=True)

    monkeypatch.setattr(network, "load_state_dict_from_url", local)
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
    write_images(Samples.of(real), tmp_path / "real")
    mine = rng.integers(60, 256, (20, 3, 32, 32), dtype=np.uint8)
    fid_score.save_fid_stats([str(tmp_path / "real"), str(tmp_path / "stats.npz")], 8, "cpu", 2048, 0)

    with np.load(tmp_path / "stats.npz", allow_pickle=False) as theirs:
        assert sorted(theirs) == ["mu", "sigma"] and theirs["sigma"].shape == (2048, 2048)

    def fid(reference: Path) -> float:
        (result,) = genbench.score(
            mine,
            reference,
            metrics=["fid"],
            protocol="pytorch-fid",
            weights={"inception": weights},
            device="cpu",
            extractor_precision="exact",
        )
        return result.score.value

    # Features of the two programs agree to rounding on this path (`test_inception_peers`), and so do the distances.
    assert fid(tmp_path / "stats.npz") == pytest.approx(fid(tmp_path / "real"), rel=1e-6)
