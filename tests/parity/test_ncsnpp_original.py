"""NCSN++ and DDPM++ against the original, from files as score_sde writes them, on random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import noise
from oracles_original_layouts import Weights, ncsnpp, song_unet, written
from safetensors.torch import save_file

import baselines
from baselines.files.checkpoints import CheckpointError

pytestmark = pytest.mark.parity

SMALL: dict[str, Any] = {"nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4], "name": "ncsnpp"}
ORACLE: dict[str, Any] = {"width": 8, "mult": (1, 2), "blocks": 1, "attention": (4,), "combine": "sum"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "NCSN++ of CIFAR-10": (
        {"fir": True, "progressive_input": "residual", "embedding_type": "fourier", "scale_by_sigma": True},
        {"centered": False},
        {"filtered": True, "progressive_input": "residual", "progressive": "none", "fourier": True, "by_sigma": True},
    ),
    "NCSN++ of 256 pixels": (
        {"fir": True, "progressive_input": "input_skip", "progressive": "output_skip"},
        {"centered": False},
        {"filtered": True, "progressive_input": "input_skip", "progressive": "output_skip", "fourier": True,
         "by_sigma": True},
    ),
    "stacked copies, centered": (
        {"fir": False, "progressive_input": "input_skip", "progressive": "output_skip", "progressive_combine": "cat",
         "ch_mult": [1, 1, 2]},
        {"centered": True},
        {"filtered": False, "progressive_input": "input_skip", "progressive": "output_skip", "combine": "cat",
         "fourier": True, "by_sigma": True, "mult": (1, 1, 2)},
    ),
    "residual copies without a filter": (
        {"fir": False, "progressive_input": "residual"},
        {"centered": False},
        {"filtered": False, "progressive_input": "residual", "progressive": "none", "fourier": True, "by_sigma": True},
    ),
    "DDPM++": (
        {"fir": False, "embedding_type": "positional", "scale_by_sigma": False, "num_res_blocks": 2},
        {"centered": True},
        {"filtered": False, "progressive_input": "none", "progressive": "none", "fourier": False, "by_sigma": False,
         "blocks": 2},
    ),
    "NCSN++ of VP": (
        {"fir": True, "progressive_input": "residual", "embedding_type": "positional", "scale_by_sigma": False},
        {"centered": True},
        {"filtered": True, "progressive_input": "residual", "progressive": "none", "fourier": False,
         "by_sigma": False},
    ),
}  # fmt: skip


def asked(name: str) -> tuple[dict[str, Any], dict[str, Any], torch.Tensor, torch.Tensor]:
    model, data, oracle = CASES[name]
    config = {"model": SMALL | model, "data": {"image_size": 8} | data}
    t = torch.tensor([0.3, 21.0]) if oracle["by_sigma"] else torch.tensor([3.25, 812.5])
    return config, ORACLE | oracle | data, noise(2, 3, 8, 8).double(), t


@pytest.mark.parametrize("name", CASES)
def test_the_output_is_that_of_the_original(name: str, tmp_path: Path) -> None:
    config, oracle, x, t = asked(name)
    raw, average = Weights(1), Weights(2)
    for weights in (raw, average):
        ncsnpp(weights, x, t, **oracle)  # writes the weights
    for frequencies in (key for key in raw if key.endswith("all_modules.0.W")):
        average[frequencies] = raw[frequencies]  # they are no part of the average
    path = written(tmp_path / "checkpoint_26.pth", raw, average)
    for ema, weights in (("auto", average), (False, raw)):
        ours = baselines.load_network(path, config, ema=ema).double()  # type: ignore[arg-type]
        expected = ncsnpp(weights, x, t, **oracle)
        # Images of [0, 1], their sigma and their score, in terms of images of [-1, 1].
        found = ours(x, t) if oracle["centered"] else 2.0 * ours(2.0 * x - 1.0, 2.0 * t)
        assert float((found - expected).abs().max() / expected.abs().max()) < 1e-9
    assert ours.origin.layout == "score_sde"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["NCSN++ of CIFAR-10", "NCSN++ of 256 pixels"])
def test_wrong_configurations_differ(name: str, tmp_path: Path) -> None:
    """The comparison can fail: another filter, another combination, and the trained weights in place of the average."""
    config, oracle, x, t = asked(name)
    raw = Weights(1)
    expected = ncsnpp(raw, x, t, **oracle)
    path = written(tmp_path / "checkpoint.pth", raw)
    for changed in ({"fir": False}, {"skip_rescale": False}):
        other = {**config, "model": config["model"] | changed}
        try:
            ours = baselines.load_network(path, other).double()
        except CheckpointError:
            continue  # the reduction of copies has another name without the filter
        assert float((2.0 * ours(2.0 * x - 1.0, 2.0 * t) - expected).abs().max() / expected.abs().max()) > 1e-2


def test_a_list_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    config, oracle, x, t = asked("DDPM++")
    raw = Weights(1)
    ncsnpp(raw, x, t, **oracle)
    path = written(tmp_path / "checkpoint.pth", raw, shadow_params=list(raw.values())[:-1])
    with pytest.raises(CheckpointError, match=r"list of .* weights without names"):
        baselines.load_network(path, config)


SONG: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "DDPM++ of EDM, with labels": (
        {"label_dim": 10},
        {"filtered": False, "encoder": "standard", "decoder": "standard", "fourier": False, "labels": 10},
    ),
    "NCSN++ of EDM": (
        {"embedding_type": "fourier", "channel_mult_noise": 2, "encoder_type": "residual",
         "resample_filter": [1, 3, 3, 1]},
        {"filtered": True, "encoder": "residual", "decoder": "standard", "fourier": True},
    ),
    "skips of EDM": (
        {"encoder_type": "skip", "decoder_type": "skip"},
        {"filtered": False, "encoder": "skip", "decoder": "skip", "fourier": False},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SONG)
def test_the_networks_of_edm(name: str, tmp_path: Path) -> None:
    """From a state_dict of EDMPrecond, as docs/models.md says how to write it."""
    arguments, oracle = SONG[name]
    sizes = {"img_resolution": 8, "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
    x, t, y = noise(2, 3, 8, 8).double(), torch.tensor([-1.3, 1.1]), torch.tensor([3, 9])
    weights = Weights(1)
    expected = song_unet(weights, x, t, y, width=8, mult=(1, 2), blocks=1, attention=(4,), **oracle)
    extra = {"enc.4x4_down.conv0.resample_filter": torch.ones(1, 1, 2, 2), "map_augment.weight": torch.ones(8, 9)}
    state = {f"model.{key}": value for key, value in {**weights, **extra}.items()}
    save_file(state, tmp_path / "edm.safetensors")
    ours = baselines.load_network(tmp_path / "edm.safetensors", {"model_type": "SongUNet"} | sizes | arguments).double()
    found = ours(x, t, y) if "labels" in oracle else ours(x, t)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-6  # angles are rounded to float32
    assert ours.origin.layout == "edm"  # type: ignore[union-attr]
    if "labels" in oracle:
        with pytest.raises(ValueError, match="needs y"):
            ours(x, t)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "edm.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(CheckpointError, match=r"docs/models\.md"):
        baselines.load_network(tmp_path / "edm.pkl", {"model_type": "SongUNet"})
