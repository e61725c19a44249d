"""The CLIP extractor against open_clip's own loader, preprocessing and tokenizer, on a small random network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from genbench.errors import InputRejected, MissingAsset, UsageError
from genbench.extractors import clip

pytestmark = pytest.mark.parity
NAME = "small-for-tests"
CONFIGURATION: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 48, "layers": 3, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 2},
}
CAPTIONS = ["a small red star on a blue background", "Zwei Katzen, 17 dogs & a naïve café!", "word " * 200, "x"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The configuration, and random weights of it that are far from their initial values."""
    folder = tmp_path_factory.mktemp("clip")
    generator = torch.Generator().manual_seed(0)
    state = clip.build(CONFIGURATION).state_dict()
    for name, value in state.items():
        spread = 0.3 if value.ndim < 2 else 0.9 / value.shape[-1] ** 0.5
        mean = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        state[name] = mean + spread * torch.randn(value.shape, generator=generator)
    found = {"json": folder / f"{NAME}.json", "weights": folder / "small.safetensors"}
    found["json"].write_text(json.dumps(CONFIGURATION), encoding="utf-8")
    save_file(state, found["weights"])
    return found


def peer(files: dict[str, Path], **more: Any) -> tuple[Any, Any, Any]:
    import open_clip

    open_clip.add_model_config(files["json"])
    network, _, prepare = open_clip.create_model_and_transforms(NAME, pretrained=str(files["weights"]), **more)
    return network.eval().requires_grad_(False), prepare, open_clip.get_tokenizer(NAME)


def images(height: int, width: int, count: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(height).integers(0, 256, (count, 3, height, width), dtype=np.uint8))


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


@pytest.mark.parametrize("precision", ["float32", "exact"])
def test_embeddings_are_those_of_open_clip(files: dict[str, Path], precision: str) -> None:
    network, prepare, tokenize = peer(files)
    extractor = clip.load(weights=files["weights"], architecture=str(files["json"]), precision=precision)
    assert extractor.widths == {"embedding": 24, "pooled": 24}
    for size in ((32, 32), (48, 48), (100, 131), (61, 40), (299, 299)):
        x = images(*size)
        inputs = torch.stack([prepare(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in x])
        expected = network.encode_image(inputs)
        assert (expected[0] - expected[1]).norm() > 1e-2 * expected[0].norm()
        found = extractor.embed(x, ["embedding", "pooled"])
        assert distance(found["embedding"], expected) < 1e-5, size
        assert torch.equal(found["embedding"], found["pooled"])
    expected = network.encode_text(tokenize(CAPTIONS))
    assert extractor.embed_captions is not None
    assert distance(extractor.embed_captions(CAPTIONS), expected) < 1e-5
    grey = Image.fromarray(images(60, 60)[0, 0].numpy())
    found = extractor.embed(images(60, 60)[:1, :1], ["embedding"])
    assert distance(found["embedding"], network.encode_image(prepare(grey)[None])) < 1e-5


def test_long_captions_keep_their_end_token(files: dict[str, Path]) -> None:
    tokens = clip.tokenizer(CONFIGURATION)(["word " * 200, "word"])
    assert tokens.shape == (2, 77) and tokens[0, -1] == 49407 and tokens[1].argmax() == 2
    extractor = clip.load(weights=files["weights"], architecture=str(files["json"]))
    assert extractor.embed_captions is not None
    long = extractor.embed_captions(["word " * 75, "word " * 200, "word " * 74])
    assert torch.equal(long[0], long[1]) and not torch.allclose(long[0], long[2])


def test_prefix_goes_before_every_caption(files: dict[str, Path]) -> None:
    plain, hessel = (
        clip.load(weights=files["weights"], architecture=str(files["json"]), prefix=prefix)
        for prefix in ("", "A photo depicts ")
    )
    assert plain.embed_captions is not None and hessel.embed_captions is not None
    assert torch.equal(hessel.embed_captions(["a dog"]), plain.embed_captions(["A photo depicts a dog"]))
    assert plain.key != hessel.key
    with pytest.raises(InputRejected, match="Caption 1 of 2 is empty"):
        hessel.embed_captions(["a dog", "  "])


def test_preprocessing_of_a_configuration_file(files: dict[str, Path], tmp_path: Path) -> None:
    told = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bilinear", "resize_mode": "squash"}
    path = tmp_path / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": CONFIGURATION, "preprocess_cfg": told}), encoding="utf-8")
    network, prepare, _ = peer(files, **{f"image_{key}": value for key, value in told.items()})
    x = images(90, 61)
    extractor = clip.load(weights=files["weights"], architecture=str(path))
    # Pillow 13 begins with the rows of tall images; turned on their side, both begin with the columns.
    x = x.transpose(2, 3).contiguous()
    inputs = torch.stack([prepare(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in x])
    assert distance(extractor.embed(x, ["embedding"])["embedding"], network.encode_image(inputs)) < 1e-5
    other = clip.load(weights=files["weights"], architecture=str(files["json"]))
    assert extractor.key != other.key
    told["resize_mode"] = "longest"
    path.write_text(json.dumps({"model_cfg": CONFIGURATION, "preprocess_cfg": told}), encoding="utf-8")
    with pytest.raises(UsageError, match="resize_mode='longest'"):
        clip.load(weights=files["weights"], architecture=str(path))


def test_the_tag_decides_about_quick_gelu(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of OpenAI need QuickGELU; open_clip takes the activation from the architecture and warns."""
    import open_clip

    open_clip.add_model_config(files["json"])
    x, found = images(48, 48), {}
    for quick in (False, True):
        monkeypatch.setattr(clip, "_tag", lambda *_, quick=quick: {"hf_hub": "org/model/", "quick_gelu": quick})
        extractor = clip.load(weights=files["weights"], architecture=NAME, pretrained="some")
        network = open_clip.CLIP(**CONFIGURATION, quick_gelu=quick)
        network.load_state_dict(clip.load_state(files["weights"]))
        inputs = (x / 255 - torch.tensor(clip.MEAN)[:, None, None]) / torch.tensor(clip.STD)[:, None, None]
        expected = network.eval().requires_grad_(False).encode_image(inputs)
        found[quick] = extractor.embed(x, ["embedding"])["embedding"]
        assert distance(found[quick], expected) < 1e-5
    assert distance(found[True], found[False]) > 1e-4


def test_images_stand_alone(files: dict[str, Path]) -> None:
    extractor, x = clip.load(weights=files["weights"], architecture=str(files["json"])), images(64, 64, 4)
    whole = extractor.embed(x, ["embedding"])["embedding"]
    mixed = extractor.embed(torch.cat([x[:2], 255 - x[2:]]), ["embedding"])["embedding"]
    assert torch.equal(mixed[:2], whole[:2])
    assert distance(extractor.embed(x[:1], ["embedding"])["embedding"], whole[:1]) < 1e-5


def test_build_takes_openai_s_half_precision_and_leaves_the_random_state(files: dict[str, Path]) -> None:
    state = clip.load_state(files["weights"])
    half = {name: value.half() for name, value in state.items()}
    half |= {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    before = torch.random.get_rng_state()
    network = clip.build({"model_cfg": CONFIGURATION}, half)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, state[name].half().float()) for name, value in network.state_dict().items())
    assert not network.training
    del half["visual.proj"]
    with pytest.raises(InputRejected, match=r"1 missing: visual\.proj"):
        clip.build(CONFIGURATION, half)
    fresh = [clip.build(CONFIGURATION).state_dict() for _ in range(2)]
    assert all(torch.equal(value, fresh[1][name]) for name, value in fresh[0].items())


def test_cards_name_the_file_and_what_is_known_of_it() -> None:
    known = clip.card()
    assert known.url is not None and known.sha256 is not None and len(known.sha256) == 64
    assert known.url.startswith("https://huggingface.co/timm/vit_base_patch32_clip_224.openai/resolve/a6f597a3")
    assert (known.bytes, known.fetch) == (605_143_284, "clip(architecture='ViT-B-32', pretrained='openai')")
    other = clip.card("ViT-L-14", "laion2b_s32b_b82k")
    assert (
        other.url
        == "https://huggingface.co/laion/CLIP-ViT-L-14-laion2B-s32B-b82K/resolve/main/open_clip_model.safetensors"
    )
    assert other.bytes is None and other.sha256 is None and other.file != known.file


def test_messages(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GENBENCH_CACHE", "TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match="Did you mean 'ViT-B-32'"):
        clip.load(architecture="ViT-B-32x")
    with pytest.raises(UsageError, match=r"no weights 'openia' for ViT-B-32\. Did you mean 'openai'"):
        clip.load(pretrained="openia")
    with pytest.raises(UsageError, match="hf_tokenizer_name, which is not supported"):
        clip.load(architecture="ViT-B-16-SigLIP", pretrained="webli")
    with pytest.raises(MissingAsset, match=r"605,143,284 bytes, sha256 e6d1bd77.*genbench fetch .*--weights clip=PATH"):
        clip.load()
    with pytest.raises(MissingAsset, match="are yours to give: --weights clip=PATH"):
        clip.load(architecture=str(files["json"]))
    with pytest.raises(InputRejected, match="not a configuration of open_clip"):
        clip.load(architecture=str(tmp_path / "absent.json"), weights=files["weights"])
    with pytest.raises(InputRejected, match="embed_dim, vision_cfg and text_cfg"):
        clip.configuration({"embed_dim": 3})
