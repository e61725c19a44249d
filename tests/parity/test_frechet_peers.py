"""The same features through the functions of the peers: FID, MiFID and the inception score."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from made_up import evidence
from numpy.typing import NDArray

from genbench.arrays import Moments
from genbench.metrics.frechet import FID, MIFID, frechet_distance
from genbench.metrics.inception_score import INCEPTION_SCORE

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")


def correlated(seed: int, n: int, d: int) -> NDArray[np.float32]:
    """Non-negative and skewed, with a spectrum over three decades, as pooled features of rectified layers are."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(d, d)) * np.arange(1, d + 1) ** -0.75
    return np.maximum(rng.normal(size=(n, d)) @ mix.T + 0.3 + 0.1 * seed, 0).astype(np.float32)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The peers call a deprecated argument of scipy's sqrtm and print."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(("n", "m", "rel"), [(500, 700, 1e-6), (301, 65, 1e-6), (40, 500, 1e-6), (40, 50, 1e-5)])
def test_fid_is_that_of_the_peers(n: int, m: int, rel: float) -> None:
    """64 features; with both sides rank deficient the peers' own rounding is 1e-6 to 1e-5."""
    x, y = correlated(1, n, 64), correlated(2, m, 64)
    found = FID.compute(generated=evidence(x), reference=evidence(y)).value
    a, b = Moments.of(x), Moments.of(y)
    with quiet():
        from cleanfid.fid import frechet_distance as clean_fid
        from pytorch_fid.fid_score import calculate_frechet_distance as pytorch_fid
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
        from torchmetrics.image.fid import _compute_fid

        torch_fidelity = fid_statistics_to_metric(
            *(fid_features_to_statistics(torch.from_numpy(v)) for v in (x, y)), verbose=False
        )
        theirs = {
            "pytorch-fid": pytorch_fid(a.mean, a.covariance, b.mean, b.covariance),
            "clean-fid": clean_fid(a.mean, a.covariance, b.mean, b.covariance),
            "torch-fidelity": torch_fidelity["frechet_inception_distance"],
            "torchmetrics": float(_compute_fid(*map(torch.from_numpy, (a.mean, a.covariance, b.mean, b.covariance)))),
        }
    assert theirs == {name: pytest.approx(found, rel=rel) for name in theirs}
    assert frechet_distance(generated=a, reference=b).value == pytest.approx(found, rel=1e-10)


@pytest.mark.parametrize("spread", [0.05, 3.0])
def test_mifid_is_that_of_torchmetrics(spread: float) -> None:
    y = correlated(1, 300, 16)
    near = y[:, :] + np.random.default_rng(0).normal(size=y.shape).astype(np.float32) * np.float32(spread)
    near[5] = 0
    with quiet():
        from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

        peer = MemorizationInformedFrechetInceptionDistance(feature=torch.nn.Identity())
        peer.set_dtype(torch.float64)
        peer.update(torch.from_numpy(y).double(), real=True)
        peer.update(torch.from_numpy(near).double(), real=False)
        theirs = float(peer.compute())
    found = MIFID.compute(generated=evidence(near), reference=evidence(y), over="reference")
    assert found.value == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("n", [1000, 1003])
def test_inception_score_is_that_of_torch_fidelity(n: int) -> None:
    logits = (np.random.default_rng(3).normal(size=(n, 1008)) * 3).astype(np.float32)
    from torch_fidelity.metric_isc import isc_features_to_metric

    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=True, rng_seed=2020)
    found = INCEPTION_SCORE.compute(generated=evidence(logits, "logits"), splits=10, shuffle=2020)
    assert found.value == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert found.detail["split_std"] == pytest.approx(theirs["inception_score_std"], rel=1e-9)
