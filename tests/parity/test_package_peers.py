"""Metrics against the packages that are named as their source: prdc, vendi-score, lpips, POT and torchmetrics."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_up import evidence
from numpy.typing import NDArray
from torch import Tensor, nn

from genbench import protocols
from genbench.extractors import lpips, tiny_clip
from genbench.metrics.alignment import CLIP_SCORE
from genbench.metrics.inception_score import INCEPTION_SCORE
from genbench.metrics.manifold import COVERAGE, DENSITY, PRECISION, RECALL
from genbench.metrics.sliced import SWD, directions
from genbench.metrics.vendi import VENDI
from scripts.random_weights import structured_images

pytestmark = pytest.mark.parity

Array = NDArray[np.float32]


def rectified(seed: int, n: int, d: int, shift: float = 0.0) -> Array:
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(0).standard_normal((12, d)) * np.arange(1, 13)[:, None] ** -0.5
    return np.maximum((rng.standard_normal((n, 12)) + shift) @ mix + 0.3, 0).astype(np.float32)


@pytest.mark.parametrize(("n", "m", "k"), [(230, 190, 5), (120, 260, 3)])
def test_the_four_manifold_metrics_equal_prdc(n: int, m: int, k: int) -> None:
    from prdc import compute_prdc

    x, y = rectified(1, n, 40, 0.3), rectified(2, m, 40)
    with contextlib.redirect_stdout(io.StringIO()):
        peer = compute_prdc(real_features=y.astype(np.float64), fake_features=x.astype(np.float64), nearest_k=k)
    sides = {"generated": evidence(x), "reference": evidence(y)}
    for metric in (PRECISION, RECALL, DENSITY, COVERAGE):
        assert 0.05 < peer[metric.name] < 2
        assert metric.compute(**sides, k=k).value == pytest.approx(peer[metric.name], rel=1e-12), metric.name


@pytest.mark.parametrize("q", [0.5, 1.0, 2.0, math.inf])
@pytest.mark.parametrize(("n", "d"), [(80, 9), (30, 50)])
def test_vendi_equals_the_package_for_every_order(n: int, d: int, q: float) -> None:
    from vendi_score import vendi

    x = rectified(3, n, d) + np.float32(0.01)
    # Where there are fewer images than features, the package takes the root of eigenvalues that are rounding alone.
    tolerance = 1e-6 if n < d and q < 1 else 1e-9
    peer = vendi.score_dual(x.astype(np.float64), q="inf" if math.isinf(q) else q)
    assert VENDI.compute(generated=evidence(x), q=q).value == pytest.approx(peer, rel=tolerance)


@pytest.mark.parametrize(("network", "shape"), [("alex", (33, 47)), ("squeeze", (40, 33)), ("vgg", (16, 35))])
def test_lpips_equals_the_package(network: str, shape: tuple[int, int], tmp_path: Path) -> None:
    import lpips as package

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # it calls torchvision by arguments that are deprecated
        torch.default_generator.manual_seed(0)
        peer = package.LPIPS(net=network, pnet_rand=True, verbose=False)
    torch.save(peer.state_dict(), tmp_path / "whole.pth")
    x, y = (torch.from_numpy(structured_images(3, *shape, seed=seed)) for seed in (1, 2))
    with torch.no_grad():
        expected = peer(x / 127.5 - 1, y / 127.5 - 1).flatten().double()
    extractor = lpips.load(weights=tmp_path / "whole.pth", network=network, precision="exact")
    a, b = (extractor.embed(images, ["perceptual"])["perceptual"].double() for images in (x, y))
    torch.testing.assert_close((a - b).square().sum(1), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("n", "m"), [(60, 60), (60, 45), (31, 64)])
def test_swd_equals_pot_along_the_same_directions(n: int, m: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports every array library that is there
        import ot

        x, y = rectified(4, n, 17, 0.2).astype(np.float64), rectified(5, m, 17).astype(np.float64)
        along = directions(17, 50, 3).astype(np.float64)
        peer = ot.sliced_wasserstein_distance(x, y, projections=along, p=2)
    sides = {"generated": evidence(x.astype(np.float32)), "reference": evidence(y.astype(np.float32))}
    assert SWD.compute(**sides, projections=50, seed=3).value == pytest.approx(float(peer), rel=1e-5)


class Logits(nn.Module):
    """What torchmetrics takes for an Inception network: rows of a table, by the number in the first pixel."""

    def __init__(self, table: Array) -> None:
        super().__init__()
        self.table = torch.from_numpy(table)

    def forward(self, images: Tensor) -> Tensor:
        return self.table[images[:, 0, 0, 0].long()]


@pytest.mark.parametrize(("n", "splits"), [(100, 5), (100, 10)])
def test_inception_score_equals_torchmetrics_for_the_order_that_it_draws(n: int, splits: int) -> None:
    from torchmetrics.image import InceptionScore

    logits = 3 * np.random.default_rng(6).standard_normal((n, 20)).astype(np.float32)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # that it keeps all features
        peer = InceptionScore(feature=Logits(logits), splits=splits)
        peer.update(torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 3, 2, 2))
        torch.default_generator.manual_seed(11)
        order = torch.randperm(n).numpy()
        torch.default_generator.manual_seed(11)
        mean, deviation = (float(v) for v in peer.compute())
    score = INCEPTION_SCORE.compute(generated=evidence(logits[order], "logits"), splits=splits)
    assert score.value == pytest.approx(mean, rel=1e-5)
    assert score.detail["split_std"] * math.sqrt(splits / (splits - 1)) == pytest.approx(deviation, rel=1e-4)


class Embeddings(nn.Module):
    """The interface of the network that torchmetrics calls, over the shipped one."""

    config = SimpleNamespace()

    def __init__(self) -> None:
        super().__init__()
        self.extractor = tiny_clip.load()

    def get_image_features(self, pixels: Tensor) -> Tensor:
        return self.extractor.embed(pixels, ["embedding"])["embedding"]

    def get_text_features(self, tokens: list[str], mask: Tensor) -> Tensor:
        assert self.extractor.embed_captions is not None
        return self.extractor.embed_captions(tokens)


class Texts(list):
    """Texts in the place of tokens, which torchmetrics only moves to a device."""

    def to(self, device: object) -> Texts:
        return self


def processor(images: list[Tensor] | None = None, text: list[str] | None = None, **_: object) -> dict[str, object]:
    if images is not None:
        return {"pixel_values": torch.stack(images)}
    return {"input_ids": Texts(text or []), "attention_mask": torch.ones(1, 1)}


@pytest.mark.parametrize("order", [1, -1])
def test_clip_score_equals_torchmetrics(order: int) -> None:
    from torchmetrics.functional.multimodal.clip_score import clip_score

    from genbench.datasets import shapes

    samples = shapes.load("test").subset(0, 24)
    images, captions = torch.from_numpy(samples.read(0, 24)), list(samples.captions or ())[::order]
    model = Embeddings()
    peer = float(clip_score(images, captions, model_name_or_path=lambda: (model, processor)).detach())
    embedded = model.get_image_features(images).numpy(), model.get_text_features(captions, images).numpy()
    sides = evidence(embedded[0], "embedding", captions=embedded[1])
    args = protocols.protocol("torchmetrics-clip").args["clip-score"]
    assert CLIP_SCORE.compute(generated=sides, **args).value == pytest.approx(peer, rel=1e-5)
    hessel = protocols.protocol("clipscore")
    unit = [e / np.linalg.norm(e, axis=1, keepdims=True) for e in embedded]
    by_hand = 2.5 * np.clip((unit[0] * unit[1]).sum(1), 0, None).mean()
    assert CLIP_SCORE.compute(generated=sides, **hessel.args["clip-score"]).value == pytest.approx(by_hand, rel=1e-5)
    assert hessel.extractor.args["prefix"] == "A photo depicts "
