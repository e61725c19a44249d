"""Networks of EDM and their four preconditionings, from files as docs/models.md says how to write them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import noise
from oracles_original_layouts import Weights, dhariwal_unet, song_unet
from safetensors.torch import save_file
from torch import Tensor

import baselines
from baselines.conditions import Given
from baselines.files.arguments import ConfigurationError, architecture, training
from baselines.files.checkpoints import CheckpointError
from baselines.files.loading import choose
from baselines.files.weights import Weights as Loaded
from baselines.noise import image_noise
from baselines.system import told
from baselines.systems import edm

pytestmark = pytest.mark.parity

WHERE: dict[str, Any] = {"dataset": "folder", "device": "cpu", "precision": "float32"}
SIZES: dict[str, dict[str, Any]] = {
    "heads of 64, groups of 4": {
        "img_resolution": 8, "model_channels": 64, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4],
    },
    "a wide head, and levels too thin for one": {
        "img_resolution": 16, "model_channels": 32, "channel_mult": [1, 2, 3], "num_blocks": 2,
        "attn_resolutions": [16, 8, 4, 3],
    },
    "one level": {
        "img_resolution": 8, "model_channels": 16, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [],
    },
}  # fmt: skip


def oracle(
    weights: Weights, x: Tensor, t: Tensor, labels: Tensor | None, a: dict[str, Any], outputs: int = 3
) -> Tensor:
    return dhariwal_unet(
        weights, x, t, labels, outputs=outputs, width=a["model_channels"], mult=a["channel_mult"],
        blocks=a["num_blocks"], attention=a["attn_resolutions"],
    )  # fmt: skip


def written(path: Path, weights: Weights, **more: Tensor) -> Path:
    """A state_dict of a preconditioning of EDM with what files hold and no network needs."""
    state = {f"model.{name}": value.contiguous() for name, value in {**weights, **more}.items()}
    save_file(state | {"u": torch.ones(1001)}, path)  # the levels of iDDPMPrecond
    return path


@pytest.mark.parametrize("labels", [0, 7])
@pytest.mark.parametrize("name", SIZES)
def test_adm_of_edm(name: str, labels: int, tmp_path: Path) -> None:
    a = {"model_type": "DhariwalUNet", "label_dim": labels, "augment_dim": 9, **SIZES[name]}
    side = a["img_resolution"]
    x, t, y = noise(2, 3, side, side).double(), torch.tensor([-1.3, 1.1]), torch.tensor([3, 6])
    weights = Weights(1)
    expected = oracle(weights, x, t, F.one_hot(y, labels).double() if labels else None, a)
    extra = {"map_augment.weight": torch.ones(8, 9), "enc.4x4_down.conv0.resample_filter": torch.ones(1, 1, 2, 2)}
    path = written(tmp_path / "edm.safetensors", weights, **extra)
    ours = baselines.load_network(path, a).double()
    found = ours(x, t, y) if labels else ours(x, t)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-6
    assert ours.origin.layout == "edm"  # type: ignore[union-attr]
    if labels:
        with pytest.raises(ValueError, match="needs y"):
            ours(x, t)


@pytest.mark.parametrize("kind", ["DhariwalUNet", "SongUNet"])
def test_no_label_is_told_as_zeros(kind: str, tmp_path: Path) -> None:
    """A network that was trained with `label_dropout` knows one label more, which means none."""
    a = {
        "model_type": kind, "label_dim": 7, "label_dropout": 0.1, **SIZES["heads of 64, groups of 4"],
        "class_name": "training.networks.VPPrecond",
    }  # fmt: skip
    x, t = noise(2, 3, 8, 8).double(), torch.tensor([3.5, 700.0])
    y, weights = torch.tensor([5, 7]), Weights(1)
    one_hot = F.one_hot(y, 8)[:, :7].double()
    if kind == "DhariwalUNet":
        expected = oracle(weights, x, t, one_hot, a)
    else:
        song = {"width": 64, "mult": (1, 2), "blocks": 1, "attention": (4,), "filtered": False, "fourier": False}
        expected = song_unet(weights, x, t, y, encoder="standard", decoder="standard", labels=7, **song)  # type: ignore[arg-type]
    path = written(tmp_path / "edm.safetensors", weights)
    found = baselines.load_network(path, a).double()(x, t, y)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-6
    config = tmp_path / "edm.json"
    config.write_text(json.dumps(a))
    release = choose({}, "folder", str(path), str(config))
    assert (release.classes, release.null) == (7, 7)
    given = Given(seeds=torch.zeros(2, dtype=torch.int64), labels=torch.tensor([0, 1]))
    _, null = told(Loaded(release=release, device="cpu", precision="float32"), given)
    assert null["y"].tolist() == [7]


def sigma_of_time(t: float) -> float:
    return math.sqrt(math.expm1(0.5 * 19.9 * t**2 + 0.1 * t))


def time_of_sigma(sigma: float) -> float:
    return (math.sqrt(0.01 + 2 * 19.9 * math.log1p(sigma**2)) - 0.1) / 19.9


def steps_of_iddpm(count: int) -> list[float]:
    """u_0 > ... > u_count = 0 of `iDDPMPrecond`."""

    def remaining(j: int) -> float:
        return math.sin(0.5 * math.pi * j / count / 1.008) ** 2

    u = [0.0]
    for j in range(count, 0, -1):
        u.insert(0, math.sqrt((u[0] ** 2 + 1) / max(remaining(j - 1) / remaining(j), 0.001) - 1))
    return u


LEVELS = steps_of_iddpm(1000)
AROUND: dict[str, tuple[float, Any]] = {
    # A sigma, and (c_skip, c_out, c_in, c_noise) there.
    "EDMPrecond": (1.7, lambda s: (0.25 / (s**2 + 0.25), 0.5 * s / math.hypot(s, 0.5), 1 / math.hypot(s, 0.5),
                                   math.log(s) / 4)),
    "VPPrecond": (1.7, lambda s: (1.0, -s, 1 / math.hypot(s, 1.0), 999 * time_of_sigma(s))),
    "VEPrecond": (1.7, lambda s: (1.0, s, 1.0, math.log(0.5 * s))),
    "iDDPMPrecond": (LEVELS[420], lambda s: (1.0, -s, 1 / math.hypot(s, 1.0), 1000 - 1 - LEVELS.index(s))),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["DhariwalUNet", "SongUNet"])
@pytest.mark.parametrize("around", AROUND)
def test_preconditionings(around: str, kind: str, tmp_path: Path) -> None:
    """D(x, sigma) = c_skip x + c_out F(c_in x, c_noise), by one Euler step of the sampler, from sigma to 0."""
    a = {
        "class_name": f"training.networks.{around}", "model_type": kind, "img_resolution": 8, "model_channels": 16,
        "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4],
    }  # fmt: skip
    sigma, coefficients = AROUND[around]
    seeds, weights = np.array([3, 8], dtype=np.uint64), Weights(1)
    x = sigma * image_noise(torch.from_numpy(seeds.view("int64")))(0, torch.empty(2, 3, 8, 8)).double()
    skip, out, scale, told_noise = coefficients(sigma)
    t, outputs = torch.full((2,), told_noise), 6 if around == "iDDPMPrecond" else 3
    if kind == "DhariwalUNet":
        output = oracle(weights, scale * x, t, None, a, outputs)
    else:
        song = {"width": 16, "mult": (1, 2), "blocks": 1, "attention": (4,), "filtered": False, "fourier": False}
        output = song_unet(weights, scale * x, t, t, encoder="standard", decoder="standard", outputs=outputs, **song)  # type: ignore[arg-type]
    expected = skip * x + out * output[:, :3]
    path, config = written(tmp_path / "edm.safetensors", weights), tmp_path / "edm.json"
    config.write_text(json.dumps(a))
    model = edm.load(**WHERE, weights=str(path), config=str(config), steps=1, high=sigma, clip=False)
    found = model.sample(seeds)
    assert float((found.double() - expected).abs().max() / expected.abs().max()) < 2e-4


def test_levels_of_the_preconditionings() -> None:
    def process(name: str, **more: Any) -> Any:
        found = training({"class_name": name, "img_resolution": 8, **more})
        assert found is not None
        return found.process

    preserving = process("VPPrecond")
    assert preserving.highest == pytest.approx(sigma_of_time(1.0)) == pytest.approx(152.17, abs=0.01)
    assert preserving.lowest == pytest.approx(sigma_of_time(1e-5))
    assert process("VEPrecond", sigma_max=50).highest == 50
    stepped = process("iDDPMPrecond")
    assert stepped.highest == pytest.approx(LEVELS[0]) and stepped.lowest == pytest.approx(LEVELS[-2])
    for number in (0, 13, 999):
        assert stepped.at(LEVELS[number]).t == pytest.approx(999 - number, abs=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "ADM"}, "model_type='ADM' of EDM is not implemented; there are SongUNet, DhariwalUNet"),
        ({"class_name": "EDM2Precond"}, "class_name='EDM2Precond' of EDM is not implemented; there are EDMPrecond, VP"),
        ({"sigma_data": 1.0}, "sigma_data=1.0 is not implemented, only with 0.5"),
        ({"class_name": "VPPrecond", "M": 500}, "M=500 is not implemented, only with 1000"),
        ({"encoder_type": "residual"}, "has no argument 'encoder_type'"),
        ({"channel_mult_emb": 2}, "channel_mult_emb=2 is not implemented"),
    ],
)
def test_what_is_not_implemented_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        architecture({"model_type": "DhariwalUNet", "img_resolution": 8} | changed)


def test_the_arguments_may_be_as_a_file_holds_them() -> None:
    """`init_kwargs` of the object in the pickle, beside the name of its class."""
    inner = {"img_resolution": 8, "img_channels": 3, "model_type": "DhariwalUNet"}
    whole = {"class_name": "training.networks.iDDPMPrecond", "init_kwargs": inner}
    assert architecture(whole) == architecture(inner | {"class_name": "iDDPMPrecond"})
    assert training(whole) == training(inner | {"class_name": "iDDPMPrecond"})


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    a = {"model_type": "DhariwalUNet", **SIZES["heads of 64, groups of 4"]}
    x, t, weights = noise(1, 3, 8, 8).double(), torch.ones(1), Weights(1)
    oracle(weights, x, t, None, a)
    path = written(tmp_path / "edm.safetensors", weights)
    for changed, message in (
        (
            {"model_channels": 32},
            r"of another shape: .*enc\.8x8_conv\.weight is \(64, 3, 3, 3\), needed for \(32, 3, 3, 3\)",
        ),
        ({"img_resolution": 16}, r"missing: .*enc\.16x16_conv"),
        ({"label_dim": 4}, r"1 missing: map_label\.weight"),
        ({"attn_resolutions": [8, 4]}, r"missing: enc\.8x8_block0\.norm2\.weight"),
        ({"num_blocks": 2}, r"missing: .*Does the configuration belong to the file"),
    ):
        with pytest.raises(CheckpointError, match=message):
            baselines.load_network(path, a | changed)


def test_a_published_pickle_is_refused_with_what_to_do() -> None:
    model = edm.load(**WHERE | {"dataset": "imagenet64"})
    assert (model.shape, model.classes, model.evaluations) == ((3, 64, 64), 1000, 35)
    with pytest.raises(FileNotFoundError, match=r"edm-imagenet-64x64-cond-adm\.pkl as a pickle .* docs/models\.md"):
        model.sample(np.array([0], dtype=np.uint64), labels=np.array([1]))
