"""The Inception extractor without weights: its network, its arguments, and what it says when the weights are
missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from genbench.errors import InputRejected, MissingAsset, UsageError
from genbench.extractors import inception
from genbench.extractors.inception_network import WIDTHS, InceptionNetwork
from genbench.extractors.inference import blank, fold


def test_the_network_has_the_entries_of_the_public_file() -> None:
    """566 of them: 94 convolutions with five entries of normalisation each, and the classifier."""
    with torch.device("meta"):
        network = InceptionNetwork()
    state = network.state_dict()
    assert len(state) == 566
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == 94
    for name, shape in {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_4a_3x3.bn.running_var": (192,),
        "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6d.branch7x7dbl_4.conv.weight": (160, 160, 7, 1),
        "Mixed_7a.branch7x7x3_2.conv.weight": (192, 192, 1, 7),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "fc.weight": (1008, 2048),
        "fc.bias": (1008,),
    }.items():
        assert tuple(state[name].shape) == shape, name
    # 95,628,359 bytes are published: the values and what torch.save writes around them.
    assert 94e6 < sum(4 * v.numel() for v in state.values()) < 95_628_359


@pytest.mark.parametrize(
    ("taps", "last"),
    [
        (["pool64"], "Conv2d_2b_3x3"), (["pool192", "pool64"], "Conv2d_4a_3x3"), (["spatial"], "Mixed_6d"),
        (["pool768"], "Mixed_6e"), (["pooled", "spatial"], "Mixed_7c"), (["logits"], "Mixed_7c"),
    ],
)  # fmt: skip
def test_only_what_is_asked_for_is_computed(taps: list[str], last: str) -> None:
    with torch.device("meta"):
        network = InceptionNetwork().eval()
        x, entered = torch.empty(2, 3, 299, 299), []
        for name, module in network.named_children():
            module.register_forward_pre_hook(lambda module, inputs, name=name: entered.append(name))
        found = network(x, taps)
    assert entered[-1] == last and len(set(entered)) == len(entered)
    assert all(found[tap].shape == (2, WIDTHS[tap]) for tap in taps)


def test_folding_is_the_algebra_of_the_two_layers() -> None:
    generator = torch.Generator().manual_seed(0)
    convolution, norm = nn.Conv2d(5, 4, 3, bias=False).double(), nn.BatchNorm2d(4, eps=1e-3).double().eval()
    with torch.no_grad():
        for value in (convolution.weight, norm.weight, norm.bias, norm.running_mean):
            value.copy_(torch.randn(value.shape, generator=generator))
        norm.running_var.copy_(torch.rand(4, generator=generator) * 1e-3)  # as small as epsilon, which must count
        x = torch.randn(2, 5, 6, 6, generator=generator, dtype=torch.float64)
        weight, bias = fold(convolution.weight, norm)
        expected = norm(convolution(x))
        found = nn.functional.conv2d(x, weight.double(), bias.double())
    assert weight.dtype == bias.dtype == torch.float32
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_blank_networks_draw_nothing() -> None:
    state = torch.random.get_rng_state()
    assert blank(lambda: nn.Linear(3, 4)).weight.shape == (4, 3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_missing_weights_are_exit_code_6(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_OFFLINE", "1")
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingAsset) as caught:
        inception.load()
    assert caught.value.exit_code == 6
    for part in ("pt_inception-2015-12-05-6726825d.pth", "95,628,359 bytes", "6726825d0a", "--weights inception=PATH"):
        assert part in str(caught.value)


def test_arguments_are_checked_before_the_weights(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="scaling of inception is tf or symmetric; got 'imagenet'"):
        inception.load(scaling="imagenet")
    with pytest.raises(UsageError, match="No resize 'near'"):
        inception.load(resize="near")
    torch.save({"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "torchvision.pth")
    with pytest.raises(InputRejected, match=r"471 missing: Conv2d_1a_3x3.*1 of another shape: fc.weight"):
        inception.load(weights=tmp_path / "torchvision.pth")
