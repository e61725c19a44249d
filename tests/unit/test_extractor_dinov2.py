"""The DINOv2 extractor against the transformer written out in float64, from a state dict in Meta's format."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from genbench.errors import InputRejected, MissingAsset, UsageError
from genbench.extractors import dinov2

ARCHITECTURE, WIDTH, HEADS, DEPTH = "vit_small_patch14_dinov2", 384, 6, 12


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Random values under the names and shapes of dinov2_vits14_pretrain.pth: 37x37 positions and a mask token."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, spread: float = 0.02, mean: float = 0.0) -> Tensor:
        return mean + spread * torch.randn(*shape, generator=generator)

    state = {
        "cls_token": draw(1, 1, WIDTH),
        "mask_token": draw(1, WIDTH),
        "pos_embed": draw(1, 37 * 37 + 1, WIDTH, spread=0.5),
        "patch_embed.proj.weight": draw(WIDTH, 3, 14, 14, spread=0.05),
        "patch_embed.proj.bias": draw(WIDTH),
        "norm.weight": draw(WIDTH, spread=0.2, mean=1),
        "norm.bias": draw(WIDTH, spread=0.2),
    }
    for i in range(DEPTH):
        for norm in ("norm1", "norm2"):
            state[f"blocks.{i}.{norm}.weight"] = draw(WIDTH, spread=0.2, mean=1)
            state[f"blocks.{i}.{norm}.bias"] = draw(WIDTH, spread=0.2)
        for scale in ("ls1", "ls2"):
            state[f"blocks.{i}.{scale}.gamma"] = draw(WIDTH, spread=0.2, mean=0.5)
        for layer, (out, inputs) in {
            "attn.qkv": (3 * WIDTH, WIDTH),
            "attn.proj": (WIDTH, WIDTH),
            "mlp.fc1": (4 * WIDTH, WIDTH),
            "mlp.fc2": (WIDTH, 4 * WIDTH),
        }.items():
            state[f"blocks.{i}.{layer}.weight"] = draw(out, inputs, spread=1.5 / math.sqrt(inputs))
            state[f"blocks.{i}.{layer}.bias"] = draw(out)
    return state


@pytest.fixture(scope="module")
def weights(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "dinov2_vits14_pretrain.pth"
    torch.save(state, path)
    return path


def interpolated(line: np.ndarray, target: int, factor: float) -> np.ndarray:
    """Cubic convolution with a = -3/4 along axis 0, scaled by `factor`, borders repeated: PyTorch's bicubic."""

    def kernel(x: float) -> float:
        a, x = -0.75, abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    out = np.zeros((target, *line.shape[1:]))
    for i in range(target):
        position = (i + 0.5) / factor - 0.5
        for j in range(math.floor(position) - 1, math.floor(position) + 3):
            out[i] += kernel(position - j) * line[min(max(j, 0), len(line) - 1)]
    return out


def transformer(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Class tokens (n, 384) of standardised images (n, 3, 224, 224), after Oquab et al. 2023, in float64."""
    s = {name: value.double() for name, value in state.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return centred / spread * s[f"{name}.weight"] + s[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]

    n = len(x)
    patches = x.reshape(n, 3, 16, 14, 16, 14).permute(0, 2, 4, 1, 3, 5).reshape(n, 256, 3 * 14 * 14)
    tokens = patches @ s["patch_embed.proj.weight"].reshape(WIDTH, -1).T + s["patch_embed.proj.bias"]
    grid = s["pos_embed"][0, 1:].reshape(37, 37, WIDTH).numpy()
    grid = interpolated(interpolated(grid, 16, 16.1 / 37).swapaxes(0, 1), 16, 16.1 / 37).swapaxes(0, 1)
    positions = torch.cat([s["pos_embed"][:, :1], torch.from_numpy(grid.reshape(1, 256, WIDTH))], 1)
    h = torch.cat([s["cls_token"].expand(n, -1, -1), tokens], 1) + positions
    for i in range(DEPTH):
        block = f"blocks.{i}."
        qkv = linear(norm(h, block + "norm1"), block + "attn.qkv")
        q, k, v = qkv.reshape(n, 257, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        weight = (q @ k.mT / math.sqrt(WIDTH / HEADS)).softmax(-1)
        h = h + s[block + "ls1.gamma"] * linear((weight @ v).transpose(1, 2).flatten(2), block + "attn.proj")
        inner = linear(norm(h, block + "norm2"), block + "mlp.fc1")
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        h = h + s[block + "ls2.gamma"] * linear(inner, block + "mlp.fc2")
    return norm(h, "norm")[:, 0]


def images(height: int, width: int, count: int = 2) -> Tensor:
    return torch.from_numpy(np.random.default_rng(height).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


@pytest.mark.slow
def test_class_token_follows_the_definition_after_dgm_eval_s_resize(state: dict[str, Tensor], weights: Path) -> None:
    """Pillow's bicubic on 8-bit images to 224x224 whatever the shape, then ImageNet's mean and deviation."""
    for size in ((32, 32), (180, 301)):
        x = images(*size)
        pictures = [Image.fromarray(v.permute(1, 2, 0).numpy()).resize((224, 224), Image.Resampling.BICUBIC) for v in x]
        inputs = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).double() / 255
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]).double(), torch.tensor([0.229, 0.224, 0.225]).double()
        expected = transformer(state, (inputs - mean[:, None, None]) / deviation[:, None, None])
        assert (expected[0] - expected[1]).norm() > 1e-2 * expected[0].norm()
        for precision in ("float32", "exact"):
            found = dinov2.load(weights=weights, architecture=ARCHITECTURE, precision=precision).embed(x, ["pooled"])
            assert ((found["pooled"] - expected).norm(dim=1) / expected.norm(dim=1)).max() < 1e-5


@pytest.mark.slow
def test_arguments_are_in_the_key_and_images_stand_alone(weights: Path) -> None:
    extractor = dinov2.load(weights=weights, architecture=ARCHITECTURE)
    other = dinov2.load(weights=weights, architecture=ARCHITECTURE, resize="bicubic-antialias")
    x = images(64, 64, 3)
    whole = extractor.embed(x, ["pooled"])["pooled"]
    assert extractor.key != other.key and extractor.widths == {"pooled": 384}
    assert 1e-5 < (other.embed(x, ["pooled"])["pooled"] - whole).norm() / whole.norm() < 0.2
    mixed = extractor.embed(torch.cat([x[:1], 255 - x[1:]]), ["pooled"])["pooled"]
    assert torch.equal(mixed[0], whole[0])
    alone = extractor.embed(x[:1], ["pooled"])["pooled"]
    assert torch.allclose(alone[0], whole[0], rtol=1e-4, atol=1e-5)


def test_messages(state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_OFFLINE", "1")
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="Did you mean 'vit_large_patch14_dinov2'"):
        dinov2.load(architecture="vit_large_patch14_dino")
    with pytest.raises(MissingAsset, match=r"dinov2_vitl14_pretrain.pth \(1,217,586,395 bytes, sha256 d5383ea8"):
        dinov2.load()
    with pytest.raises(MissingAsset, match="size not known, sha256 not known"):
        dinov2.load(architecture="vit_giant_patch14_dinov2")
    torch.save({k: v for k, v in state.items() if k != "pos_embed"}, tmp_path / "a.pth")
    with pytest.raises(InputRejected, match="no pos_embed"):
        dinov2.load(weights=tmp_path / "a.pth", architecture=ARCHITECTURE)


def test_giant_names_are_translated() -> None:
    names = ("blocks.0.mlp.w12.weight", "blocks.0.mlp.w3.bias", "mask_token")
    state = {"pos_embed": torch.zeros(1, 257, 4)} | {name: torch.ones(1) for name in names}
    assert set(dinov2.converted(state)) == {"pos_embed", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.bias"}
