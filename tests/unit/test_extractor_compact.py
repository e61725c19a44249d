"""The shipped extractor: what it knows of `shapes`, and that its fast path is the network that was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from genbench.arithmetic import float32
from genbench.datasets import shapes
from genbench.errors import InputRejected, MissingAsset
from genbench.extractors import compact
from genbench.extractors.compact_network import CLASSIFIED, REGRESSED
from genbench.weights import SHIPPED, sha256

COUNT = 300


@pytest.fixture(scope="module")
def factors() -> shapes.Factors:
    return shapes.factors("test", np.arange(50_000, 50_000 + COUNT))


@pytest.fixture(scope="module")
def images(factors: shapes.Factors) -> torch.Tensor:
    return torch.from_numpy(shapes.draw(factors))


def test_it_reads_the_factors_off_images_it_has_never_seen(images: torch.Tensor, factors: shapes.Factors) -> None:
    extractor = compact.load()
    taps = extractor.embed(images, list(extractor.widths))
    assert {name: tap.shape for name, tap in taps.items()} == {n: (COUNT, w) for n, w in extractor.widths.items()}
    for name in CLASSIFIED:
        found = taps["logits" if name == "label" else name].argmax(1).numpy()
        assert (found == getattr(factors, name)).mean() > 0.95, name
    for column, (name, scale) in zip(taps["position"].T, REGRESSED.items(), strict=True):
        # Circles and rings show no turn, so that it cannot be known of a fifth of the images.
        assert np.corrcoef(column, getattr(factors, name) / scale)[0, 1] > (0.8 if name == "turn" else 0.95), name


def test_taps_against_the_layers_written_out(images: torch.Tensor) -> None:
    """In float64 from the weight file: convolution, normalisation, rectifier; no code of the network."""
    state = {k: v.double() for k, v in load_file(SHIPPED / "compact.safetensors").items()}
    x = images[:8].double() / 127.5 - 1
    for i, stride in enumerate((1, 2, 1, 2, 1, 2)):
        if i == 5:
            spatial = x
        norm = {k: state[f"layers.{i}.1.{k}"][:, None, None] for k in ("weight", "bias", "running_mean", "running_var")}
        x = torch.nn.functional.conv2d(x, state[f"layers.{i}.0.weight"], stride=stride, padding=1)
        x = (x - norm["running_mean"]) / (norm["running_var"] + 1e-5).sqrt() * norm["weight"] + norm["bias"]
        x = x.clamp_min(0)
    pooled = x.mean(dim=(2, 3))
    expected = {
        "pooled": pooled,
        "logits": pooled @ state["heads.label.weight"].T + state["heads.label.bias"],
        "spatial": torch.stack([spatial[:, c, i, j] for i in range(8) for j in range(8) for c in range(4)], dim=1),
    }
    for precision in ("float32", "exact"):
        found = compact.load(precision=precision).embed(images[:8], list(expected))
        for name, value in expected.items():
            assert (found[name] - value).norm() / value.norm() < 2e-6, (precision, name)


def test_features_depend_on_the_image_alone(images: torch.Tensor) -> None:
    extractor = compact.load()
    block = images[: extractor.block]
    whole = extractor.embed(block, ["pooled"])["pooled"]
    assert torch.equal(extractor.embed(block, ["pooled", "logits"])["pooled"], whole)
    others = torch.cat([block[:7], 255 - block[7:]])
    assert torch.equal(extractor.embed(others, ["pooled"])["pooled"][:7], whole[:7])
    alone = torch.cat([extractor.embed(image[None], ["pooled"])["pooled"] for image in block[:4]])
    assert torch.allclose(alone, whole[:4], rtol=1e-5, atol=1e-6)


def test_grey_and_large_images(images: torch.Tensor) -> None:
    extractor = compact.load()
    large = images[:40].repeat_interleave(4, 2).repeat_interleave(4, 3)
    small, shrunk = (extractor.embed(x, ["logits"])["logits"].argmax(1) for x in (images[:40], large))
    assert (small == shrunk).float().mean() > 0.9
    grey = images[:3, :1]
    assert torch.equal(
        extractor.embed(grey, ["pooled"])["pooled"], extractor.embed(grey.repeat(1, 3, 1, 1), ["pooled"])["pooled"]
    )


def test_card_and_key_name_the_weights(tmp_path: Path) -> None:
    card = compact.card()
    assert sha256(SHIPPED / card.file) == card.sha256 and (SHIPPED / card.file).stat().st_size == card.bytes
    state = load_file(SHIPPED / card.file)
    save_file(state, tmp_path / "same.safetensors", metadata={"another": "header"})
    other = {k: v * 2 if k == "position.bias" else v for k, v in state.items()}
    save_file(other, tmp_path / "other.safetensors")
    keys = {compact.load(weights=path).key for path in (None, *sorted(tmp_path.iterdir()))}
    keys.add(compact.load(precision="exact").key)
    assert len(keys) == 4 and compact.load().key == compact.load().key
    del other["position.bias"]
    save_file(other, tmp_path / "less.safetensors")
    with pytest.raises(InputRejected, match=r"less.safetensors does not fit the network. 1 missing: position.bias."):
        compact.load(weights=tmp_path / "less.safetensors")
    with pytest.raises(MissingAsset, match="--weights compact="):
        compact.load(weights=tmp_path / "absent.safetensors")


def test_the_program_around_it_is_left_alone(images: torch.Tensor) -> None:
    """Neither torch's random state nor its choice of arithmetic changes, and gradients stay on."""
    state = torch.random.get_rng_state()
    torch.set_float32_matmul_precision("medium")
    try:
        compact.load().embed(images[:2], ["pooled"])
        with pytest.raises(KeyError), float32():
            assert torch.backends.mkldnn.matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == "ieee"
            assert torch.backends.cudnn.deterministic
            raise KeyError
        assert torch.get_float32_matmul_precision() == "medium" and not torch.backends.cudnn.deterministic
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled()
