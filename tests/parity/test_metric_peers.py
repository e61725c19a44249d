"""Metrics against the tools that papers use, on the same features and images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_up import evidence
from numpy.typing import NDArray

from genbench.metrics.alignment import CLIP_SCORE
from genbench.metrics.kernel import KID, subset_discrepancies
from genbench.metrics.manifold import PRECISION, RECALL
from genbench.metrics.restoration import (
    signal_to_noise,
    structural_similarity,
)

pytestmark = pytest.mark.parity


def rectified(seed: int, n: int, d: int, shift: float = 0.0) -> NDArray[np.float32]:
    """Like pooled features of a network: not negative, of correlated columns with a falling spectrum."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(0).standard_normal((24, d)) * np.arange(1, 25)[:, None] ** -0.5
    return np.maximum((rng.standard_normal((n, 24)) + shift) @ mix + 0.3, 0).astype(np.float32)


@pytest.mark.parametrize(("n", "m", "k"), [(301, 257, 3), (200, 333, 5)])
def test_precision_and_recall_equal_torch_fidelity(n: int, m: int, k: int) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y = rectified(1, n, 48, 0.3), rectified(2, m, 48)
    peer = prc_features_to_metric(
        torch.from_numpy(x),
        torch.from_numpy(y),
        prc_neighborhood=k,
        prc_batch_size=100,
        save_cpu_ram=True,
        verbose=False,
    )
    sides = {"generated": evidence(x), "reference": evidence(y)}
    assert 0.05 < peer["recall"] < 0.95
    assert PRECISION.compute(**sides, k=k).value == pytest.approx(peer["precision"], rel=1e-6)
    assert RECALL.compute(**sides, k=k).value == pytest.approx(peer["recall"], rel=1e-6)


def test_kid_subsets_equal_torch_fidelity_draw_by_draw() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = rectified(3, 157, 32, 0.1), rectified(4, 140, 32)
    peer = kid_features_to_metric(
        torch.from_numpy(x), torch.from_numpy(y), kid_subsets=12, kid_subset_size=60, rng_seed=2020, verbose=False
    )
    score = KID.compute(generated=evidence(x), reference=evidence(y), subsets=12, subset_size=60, seed=2020)
    assert score.value == pytest.approx(peer["kernel_inception_distance_mean"], rel=1e-4)
    assert score.detail["subset_std"] == pytest.approx(peer["kernel_inception_distance_std"], rel=1e-4)


def test_kid_of_one_whole_subset_equals_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    x, y = rectified(5, 80, 32, 0.2), rectified(6, 80, 32)
    peer = float(poly_mmd(torch.from_numpy(y).double(), torch.from_numpy(x).double()))
    # A subset of all images is the same set in another order.
    drawn = subset_discrepancies(x, y, subsets=1, subset_size=80, seed=0)
    assert drawn[0] == pytest.approx(peer, rel=1e-5)
    assert KID.compute(generated=evidence(x), reference=evidence(y)).value == pytest.approx(peer, rel=1e-5)


def test_clip_score_equals_torchmetrics_formula() -> None:
    from torchmetrics.functional.pairwise import pairwise_cosine_similarity

    rng = np.random.default_rng(7)
    captions = rng.standard_normal((30, 16)).astype(np.float32)
    images = captions + 2 * rng.standard_normal((30, 16)).astype(np.float32)
    peer = 100 * pairwise_cosine_similarity(torch.from_numpy(images), torch.from_numpy(captions)).diagonal()
    sides = evidence(images, "embedding", captions=captions)
    value = CLIP_SCORE.compute(generated=sides, scale="cosine100").value
    assert value == pytest.approx(float(torch.clamp(peer.mean(), min=0)), rel=1e-5)


def photographs(seed: int, n: int, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    clean = np.cumsum(np.cumsum(rng.standard_normal((n, 3, *size)), axis=2), axis=3) * 4 + 128
    noisy = clean + rng.standard_normal(clean.shape) * 15
    return tuple(np.clip(z, 0, 255).astype(np.uint8) for z in (noisy, clean))  # type: ignore[return-value]


@pytest.mark.parametrize("size", [(28, 28), (32, 45), (64, 64)])
def test_psnr_and_ssim_equal_torchmetrics(size: tuple[int, int]) -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    x, y = photographs(8, 5, size)
    a, b = torch.from_numpy(x).double(), torch.from_numpy(y).double()
    for i in range(5):
        psnr = peak_signal_noise_ratio(a[i : i + 1], b[i : i + 1], data_range=255.0)
        assert signal_to_noise(x, y)[i] == pytest.approx(float(psnr), rel=1e-6)
    ssim = structural_similarity_index_measure(a, b, data_range=255.0, reduction="none")
    np.testing.assert_allclose(structural_similarity(x, y), ssim.numpy(), rtol=1e-7)  # type: ignore[union-attr]
