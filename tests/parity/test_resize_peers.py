"""The resizes against the evaluators that they are taken from, on the same images."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from genbench.resize import resize

pytestmark = pytest.mark.parity
SIZES = [(28, 28), (32, 32), (64, 64), (100, 130), (299, 299), (300, 300), (512, 400)]


def images(size: tuple[int, int]) -> torch.Tensor:
    """Smooth structure and noise, three images."""
    rng = np.random.default_rng(sum(size))
    y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in size), indexing="ij")
    waves = [np.sin(rng.uniform(3, 30) * x + rng.uniform(3, 30) * y + rng.uniform(0, 6)) for _ in range(9)]
    values = 128 + 90 * np.stack(waves).reshape(3, 3, *size) + rng.normal(0, 25, (3, 3, *size))
    return torch.from_numpy(values.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", SIZES)
def test_tf1_and_nvidia_agree_with_torch_fidelity(size: tuple[int, int]) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    x = images(size)
    peer = interpolate_bilinear_2d_like_tensorflow1x(x.float(), size=(299, 299), align_corners=False)
    assert (resize(x, 299, "tf1") - peer).abs().max() < 1e-4
    assert (resize(x, 299, "nvidia") - peer).abs().max() < 2e-2


@pytest.mark.parametrize("size", SIZES)
def test_clean_and_bilinear_agree_with_clean_fid(size: tuple[int, int]) -> None:
    from cleanfid.resize import build_resizer

    x = images(size)
    with warnings.catch_warnings():
        # clean-fid switches all warnings off when it builds this resizer, and Pillow deprecates the mode it passes.
        clean, legacy = build_resizer("clean"), build_resizer("legacy_pytorch")
        warnings.simplefilter("ignore")
        for method, peer in (("clean", clean), ("bilinear", legacy)):
            expected = np.stack([peer(image.permute(1, 2, 0).numpy()).transpose(2, 0, 1) for image in x])
            assert np.abs(resize(x, 299, method).numpy() - expected).max() < 1e-4


@pytest.mark.parametrize("size", SIZES)
def test_bilinear_agrees_with_pytorch_fid(size: tuple[int, int]) -> None:
    """Its network is called with images in [0, 1] and interpolates those."""
    x = images(size)
    peer = torch.nn.functional.interpolate(x.float() / 255, size=(299, 299), mode="bilinear", align_corners=False)
    assert (resize(x, 299, "bilinear") - 255 * peer).abs().max() < 1e-3


def test_the_corner_convention_is_worth_grey_levels() -> None:
    """At 32x32 the two bilinear rules differ by several grey levels, which is why protocols name theirs."""
    x = images((32, 32))
    assert (resize(x, 299, "tf1") - resize(x, 299, "bilinear")).abs().mean() > 2
