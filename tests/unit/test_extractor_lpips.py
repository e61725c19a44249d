"""LPIPS as a distance of vectors: by hand, and against torchmetrics on random networks with the published weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import genbench
from genbench import features
from genbench import weights as files
from genbench.arrays import Evidence, Samples
from genbench.errors import InputRejected, MissingAsset, NotComparable, UsageError
from genbench.extractors import lpips
from scripts.random_weights import structured_images

NETWORKS = ("alex", "vgg", "squeeze")


def peer_of(network: str) -> torch.nn.Module:
    """torchmetrics' network with random convolutions and the published weights of channels."""
    from torchmetrics.functional.image.lpips import _LPIPS

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(0)
        return _LPIPS(pretrained=True, net=network, pnet_rand=True, eval_mode=True)


def torchvision_names(peer: torch.nn.Module) -> dict[str, Tensor]:
    """The convolutions as torchvision's file has them, with a classifier beside them."""
    sliced = {k.replace("slices.", "slice"): v for k, v in peer.state_dict().items() if k.startswith("net.slice")}
    found = {"features." + name.split(".", 2)[2]: value.contiguous() for name, value in sliced.items()}
    return found | {"classifier.1.weight": torch.zeros(3, 2)}


def distances(extractor: genbench.contracts.Extractor, x: Tensor, y: Tensor) -> Tensor:
    a, b = (extractor.embed(images, ["perceptual"])["perceptual"].double() for images in (x, y))
    return (a - b).square().sum(1)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("network", "shape"), [("alex", (32, 32)), ("alex", (45, 64)), ("squeeze", (40, 33)), ("vgg", (16, 35))]
)
def test_lpips_equals_torchmetrics_on_random_networks(network: str, shape: tuple[int, int], tmp_path: Path) -> None:
    peer = peer_of(network)
    save_file(torchvision_names(peer), tmp_path / "network.safetensors")
    x, y = (torch.from_numpy(structured_images(3, *shape, seed=seed)) for seed in (1, 2))
    with torch.no_grad():
        expected = peer(x / 127.5 - 1, y / 127.5 - 1).flatten().double()
    assert float(expected.min()) > 1e-4
    for precision in ("float32", "exact"):
        extractor = lpips.load(weights=tmp_path / "network.safetensors", network=network, precision=precision)
        torch.testing.assert_close(distances(extractor, x, y), expected, rtol=1e-4, atol=0)
        assert float(distances(extractor, x, x).max()) == 0


@pytest.mark.parity
def test_a_size_is_that_of_torchmetrics_and_torch_fidelity_and_known_beforehand(tmp_path: Path) -> None:
    from torchmetrics.functional.image.lpips import _resize_tensor

    peer = peer_of("alex")
    save_file(torchvision_names(peer), tmp_path / "network.safetensors")
    extractor = lpips.load(weights=tmp_path / "network.safetensors", size=36)
    for shape in ((50, 44), (32, 40)):
        x, y = (torch.from_numpy(structured_images(2, *shape, seed=seed)) for seed in (1, 2))
        with torch.no_grad():
            expected = peer(*(_resize_tensor(z / 127.5 - 1, 36) for z in (x, y))).flatten().double()
        torch.testing.assert_close(distances(extractor, x, y), expected, rtol=1e-4, atol=0)
    assert extractor.embed(x, ["perceptual"])["perceptual"].shape == (2, extractor.widths["perceptual"])


@pytest.mark.parametrize("network", ["alex", "squeeze"])
def test_a_state_dict_of_the_whole_package_is_read_with_its_own_weights_of_channels(
    network: str, tmp_path: Path
) -> None:
    peer = peer_of(network)
    with torch.no_grad():
        peer.lin3.model[1].weight.mul_(5)
    torch.save(peer.state_dict(), tmp_path / "whole.pth")
    save_file(torchvision_names(peer), tmp_path / "network.safetensors")
    x, y = (torch.from_numpy(structured_images(2, 40, 40, seed=seed)) for seed in (1, 2))
    whole, plain = (
        lpips.load(weights=tmp_path / name, network=network) for name in ("whole.pth", "network.safetensors")
    )
    with torch.no_grad():
        expected = peer(x / 127.5 - 1, y / 127.5 - 1).flatten().double()
    torch.testing.assert_close(distances(whole, x, y), expected, rtol=1e-4, atol=0)
    assert bool((distances(plain, x, y) < 0.99 * expected).all())


def test_the_metric_measures_folders_of_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    peer = peer_of("alex")
    save_file(torchvision_names(peer), tmp_path / "network.safetensors")
    x, y = (structured_images(18, 32, 32, seed=seed) for seed in (1, 2))
    given = {"weights": {"lpips": tmp_path / "network.safetensors"}, "device": "cpu"}
    (result,) = genbench.score(x, y, metrics=["lpips"], **given)
    with torch.no_grad():
        expected = peer(torch.from_numpy(x) / 127.5 - 1, torch.from_numpy(y) / 127.5 - 1).mean()
    assert result.score.value == pytest.approx(float(expected), rel=1e-4) and result.score.stderr is not None
    (same,) = genbench.score(x, x, metrics=["lpips"], **given)
    assert same.score.value == 0 and result.extractor == "lpips(network='alex', size=0)"
    # The feature maps of one pair of these images have 300 KiB; kept are numbers, and digests of images.
    kept = [path for path in (tmp_path / "cache" / "features").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) < 20_000
    (turned,) = genbench.score(x, y[::-1].copy(), metrics=["lpips"], **given)
    assert turned.score.value != result.score.value
    with pytest.raises(NotComparable, match="images of one size"):
        genbench.score(x, structured_images(18, 36, 36), metrics=["lpips"], **given)
    (resized,) = genbench.score(x, structured_images(18, 36, 36), metrics=["lpips@lpips(size=32)"], **given)
    assert resized.score.value > 0
    with genbench.Evaluator(y, metrics=["lpips"], **given) as evaluator:
        for start in range(0, 18, 7):
            evaluator.update(x[start : start + 7])
        (streamed,) = evaluator.compute()
    assert streamed.score == result.score


def test_pairs_are_embedded_once_each_and_fill_a_block(tmp_path: Path) -> None:
    save_file(torchvision_names(peer_of("alex")), tmp_path / "network.safetensors")
    made = lpips.load(weights=tmp_path / "network.safetensors")
    seen: list[int] = []

    def compare(a: Tensor, b: Tensor, taps: Sequence[str]) -> Mapping[str, Tensor]:
        assert made.compare is not None and a.shape == b.shape
        seen.append(len(a))
        return made.compare(a, b, taps)

    extractor = replace(made, compare=compare)
    x, y = (structured_images(19, 32, 32, seed=seed) for seed in (3, 4))
    sides = Samples.of(x), Samples.of(y)
    for _ in range(2):
        found = features.pair_evidence(
            Evidence(samples=sides[0]), sides[1], extractor, ["lpips"], cache=tmp_path / "features", device="cpu"
        )
    assert seen == [16, 16]  # the second time nothing is made
    expected = distances(made, *(torch.from_numpy(z) for z in (x, y)))
    np.testing.assert_allclose(found.features("lpips").values()[:, 0], expected.numpy(), rtol=1e-5)
    with pytest.raises(UsageError, match="of pairs of images"):
        made.embed(torch.from_numpy(x), ["lpips"])
    with pytest.raises(UsageError, match="compares no pairs"):
        features.pair_evidence(
            Evidence(samples=sides[0]), sides[1], replace(made, compare=None), ["lpips"], cache=tmp_path, device="cpu"
        )


def test_vectors_of_one_position_by_hand() -> None:
    # (3, 4) becomes (0.6, 0.8), (0, 2) becomes (0, 1): squared differences 0.36 and 0.04. The second layer has 4
    # positions of which one differs, (1) against (-1): 4 / 4.
    x = [torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1), torch.ones(1, 1, 2, 2)]
    y = [torch.tensor([0.0, 2.0]).reshape(1, 2, 1, 1), torch.tensor([[5.0, 2.0], [-1.0, 1.0]]).reshape(1, 1, 2, 2)]
    linear = [torch.tensor([2.0, 3.0]), torch.tensor([0.5])]
    a, b = (lpips.perceptual_vectors(maps, linear) for maps in (x, y))
    assert a.shape == (1, 6)
    assert float((a - b).square().sum()) == pytest.approx(2 * 0.36 + 3 * 0.04 + 0.5 * 4 / 4, rel=1e-6)
    with pytest.raises(InputRejected, match=r"\[2\] channels for maps of \[2, 1\]"):
        lpips.perceptual_vectors(x, linear[:1])


def test_positions_without_any_feature_are_no_distance_apart() -> None:
    nothing = lpips.perceptual_vectors([torch.zeros(1, 3, 2, 2)], [torch.ones(3)])
    assert float(nothing.abs().max()) == 0


def test_linear_weights_come_in_the_order_of_their_layers() -> None:
    state = {f"lin{i}.model.1.weight": torch.full((1, 3, 1, 1), float(i)) for i in (1, 0, 10, 2, 3, 4, 5, 6, 7, 8, 9)}
    found = lpips.linear_weights(state)
    assert [float(w[0]) for w in found] == list(range(11)) and found[0].shape == (3,)
    for wrong, message in (
        ({"fc.weight": torch.zeros(1)}, r"fc\.weight"),
        ({"lin1.model.1.weight": torch.zeros(1, 3, 1, 1)}, r"lin0\.model\.1\.weight"),
        ({"lin0.model.1.weight": torch.full((1, 3, 1, 1), -1.0)}, "not negative"),
    ):
        with pytest.raises(InputRejected, match=message):
            lpips.linear_weights(wrong)


@pytest.mark.parametrize(
    ("network", "widths"),
    [
        ("vgg", [64, 128, 256, 512, 512]),
        ("alex", [64, 192, 384, 256, 256]),
        ("squeeze", [64, 128, 256, 384, 384, 512, 512]),
    ],
)
def test_shipped_weights_of_channels_are_the_published_ones(network: str, widths: list[int]) -> None:
    card = lpips.linear_card(network)
    path = files.resolve(card)
    assert path.parent == files.SHIPPED and files.sha256(path) == card.sha256
    found = lpips.linear_weights(files.load_state(path))
    assert [len(w) for w in found] == widths and all(float(w.min()) >= 0 for w in found)


def test_errors_name_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_OFFLINE", "1")
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingAsset, match=r"alexnet-owt-7be5be79\.pth .*sha256 7be5be79.*fetch .lpips\("):
        lpips.load()
    with pytest.raises(UsageError, match="alex, vgg, squeeze; got 'resnet'"):
        lpips.load(network="resnet")
    with pytest.raises(UsageError, match="at least 31; got 16"):
        lpips.load(size=16)
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputRejected, match=r"neither .*; found conv\.weight"):
        lpips.load(weights=tmp_path / "other.safetensors")
    save_file(torchvision_names(peer_of("alex")), tmp_path / "network.safetensors")
    extractor = lpips.load(weights=tmp_path / "network.safetensors")
    with pytest.raises(InputRejected, match=r"at least 31 pixels a side; got \(28, 28\)"):
        extractor.embed(torch.zeros((1, 3, 28, 28), dtype=torch.uint8), ["perceptual"])
    keys = {extractor.key, lpips.load(weights=tmp_path / "network.safetensors", size=64).key}
    keys.add(lpips.load(weights=tmp_path / "network.safetensors", precision="exact").key)
    assert len(keys) == 3 and np.isfinite(extractor.widths["perceptual"])
