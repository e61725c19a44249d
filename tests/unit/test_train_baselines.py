"""Training on images of one's own: what is trained is what is said of it, and what was trained is sampled."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from baselines.systems import cfg, ddim, ddpm, iddpm
from scripts import train_baselines

NETWORK = {
    "image_size": 8, "num_channels": 32, "channel_mult": "1,1", "num_res_blocks": 1, "num_heads": 2,
    "attention_resolutions": "4", "class_cond": True, "num_classes": 4, "learn_sigma": True, "diffusion_steps": 100,
    "noise_schedule": "cosine", "rescale_timesteps": True,
}  # fmt: skip
WHERE = {"dataset": "folder", "device": "cpu", "precision": "float32"}
SEEDS, LABELS = np.array([1, 2], dtype=np.uint64), np.array([0, 2])


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Runs the script in `work` on photographs of three classes; returns the file of weights."""
    (tmp_path / "net.json").write_text(json.dumps(NETWORK))
    for seed, name in enumerate(("a", "b")):
        random = np.random.default_rng(seed)
        for label in ("x", "y", "z"):
            (tmp_path / name / label).mkdir(parents=True)
            for i in range(3):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / label / f"{i}.png")

    def run(data: str = "a", *words: str, config: str = "net.json") -> Path:
        given = ["pixel", "--data", str(tmp_path / data), "--config", str(tmp_path / config), "--steps", "2", "--work"]
        given += [str(tmp_path / "work"), "--batch-size", "4", "--precision", "float32", *words]
        monkeypatch.setattr(sys, "argv", ["train_baselines", *given])
        train_baselines.main()
        return tmp_path / "work" / "net.safetensors"

    return run


def test_weights_and_what_is_said_of_them(train, tmp_path: Path) -> None:
    path = train("a", "--drop", "0.3")
    about = json.loads(path.with_suffix(".json").read_text())
    assert (about["kind"], about["classes"], about["shape"]) == ("unet", 3, [3, 8, 8])
    assert about["process"]["null_label"] == 3 and about["process"]["told"] == 10.0
    assert about["recipe"] | {"decay": "cosine", "warmup": 500, "bfloat16": False} == about["recipe"]
    first, content = about["data"]["digest"], path.read_bytes()
    guided = cfg.load(**WHERE, weights=str(path), steps=2, scale=2.0)
    assert (guided.classes, guided.evaluations, guided.weights.process.told) == (3, 4, 10.0)
    assert guided.sample(SEEDS, labels=LABELS).shape == (2, 3, 8, 8)
    # Other images, or another network, in the same folder are another training.
    for data, words, says in (("b", ("--drop", "0.3"), "data .* instead of"), ("a", (), "drop 0.3 instead of 0.0")):
        with pytest.raises(SystemExit, match=f"is of another training, with .*{says}"):
            train(data, *words)
    (tmp_path / "net.json").write_text(json.dumps(NETWORK | {"num_heads": 1}))
    with pytest.raises(SystemExit, match="is of another training, with network"):
        train("a", "--drop", "0.3")
    told = json.loads(path.with_suffix(".json").read_text())
    assert told["data"]["digest"] == first and path.read_bytes() == content, "nothing false was written"


def test_a_share_of_dropped_labels_needs_a_row_that_means_none(train, tmp_path: Path) -> None:
    (tmp_path / "net.json").write_text(json.dumps(NETWORK | {"num_classes": 3}))
    with pytest.raises(SystemExit, match=r"needs a row of the network for no class; .* has 3 rows for 3 classes"):
        train("a", "--drop", "0.1")
    path = str(train("a"))
    assert ddim.load(**WHERE, weights=path, steps=2).sample(SEEDS, labels=LABELS).isfinite().all()
    assert ddpm.load(**WHERE, weights=path, steps=2, variance="learned").classes == 3
    with pytest.raises(ValueError, match="null class"):
        cfg.load(**WHERE, weights=path, steps=2)


def test_the_network_that_is_trained_on_by_the_bound_is_one_of_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["vlb", "--steps", "2", "--warmup", "0", "--rate", "1e-4", "--batch-size", "4", "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["train_baselines", *given])
    train_baselines.main()
    path = tmp_path / "shapes-vlb.safetensors"
    about = json.loads(path.with_suffix(".json").read_text())
    assert (about["kind"], about["start"], about["averaged"]) == ("unet", "shapes-pixel", True)
    trained = iddpm.load(**WHERE | {"dataset": "shapes"}, weights=str(path), steps=2)
    shipped = iddpm.load(**WHERE | {"dataset": "shapes"}, steps=2)
    found = [model.sample(SEEDS, labels=LABELS) for model in (trained, shipped)]
    assert 0 < (found[0] - found[1]).abs().max() < 0.5
