"""Pipelines of diffusers as models, against what diffusers itself gives; small random networks, no download."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Sequence
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.systems import diffusers as pipelines
from baselines.systems.diffusers import PipelineModel
from genbench.cli import main

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of diffusers, about its own imports
    import diffusers
    from diffusers import (
        AutoencoderKL,
        DDIMPipeline,
        DDIMScheduler,
        DDPMPipeline,
        DDPMScheduler,
        DiTPipeline,
        DiTTransformer2DModel,
        LDMPipeline,
        UNet2DModel,
        VQModel,
    )

SEEDS = [5, 2**64 - 3, 9]


def unet(**more: Any) -> UNet2DModel:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "sample_size": 8, "block_out_channels": (32, 32), "layers_per_block": 1, "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    return UNet2DModel(**settings | more)


def first_stage(kind: type, **more: Any) -> Any:
    torch.manual_seed(1)
    return kind(
        block_out_channels=(32, 32),
        norm_num_groups=8,
        layers_per_block=1,
        latent_channels=4,
        sample_size=16,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        **more,
    )


def ddpm() -> DDPMPipeline:
    return DDPMPipeline(unet(), DDPMScheduler())


def ddim() -> DDIMPipeline:
    return DDIMPipeline(unet(), DDIMScheduler())


def ldm() -> LDMPipeline:
    vqvae = first_stage(VQModel, num_vq_embeddings=32, vq_embed_dim=4)
    return LDMPipeline(vqvae, unet(in_channels=4, out_channels=4), DDIMScheduler(clip_sample=False))


def dit() -> DiTPipeline:
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=8,
        norm_num_groups=4,
    )
    # In training mode it drops labels at random.
    return DiTPipeline(transformer.eval(), first_stage(AutoencoderKL), DDIMScheduler(clip_sample=False))


def saved(pipeline: diffusers.DiffusionPipeline, folder: Path) -> str:
    pipeline.save_pretrained(folder)
    return str(folder)


def load(repo: str, **arguments: Any) -> PipelineModel:
    settings: dict[str, Any] = {"dataset": "shapes", "device": "cpu", "precision": "float32", "steps": 3, **arguments}
    return pipelines.load(repo=repo, **settings)


def images(model: PipelineModel, seeds: Sequence[int], labels: Sequence[int] | None = None) -> Tensor:
    chosen = None if labels is None else np.array(labels, dtype=np.int64)
    return model.sample(np.array(seeds, dtype=np.uint64), labels=chosen)


def direct(pipeline: diffusers.DiffusionPipeline, seed: int, **arguments: Any) -> Tensor:
    """What diffusers gives for one image, float32 (1, c, h, w) in [0, 1]."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    return torch.from_numpy(pipeline(generator=generator, output_type="np", **arguments).images).permute(0, 3, 1, 2)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with pipelines._quiet():
        yield


@pytest.mark.parametrize(
    ("make", "shape", "more"),
    [(ddpm, (3, 8, 8), {}), (ddim, (3, 8, 8), {}), (ddim, (3, 8, 8), {"eta": 0.7}), (ldm, (3, 16, 16), {})],
)
def test_images_are_those_of_diffusers_alone_and_in_a_batch(
    make: Callable[[], Any], shape: tuple[int, int, int], more: dict[str, Any], tmp_path: Path
) -> None:
    pipeline = make()
    model = load(saved(pipeline, tmp_path), **more)
    assert (model.shape, model.takes, model.classes, model.evaluations) == (shape, frozenset(), 0, 3)
    together = images(model, SEEDS)
    assert together.shape == (3, *shape) and together.dtype == torch.float32
    for i, seed in enumerate(SEEDS):
        expected = direct(pipeline, seed, num_inference_steps=3, **more)
        assert torch.allclose(together[i : i + 1], expected * 2 - 1, rtol=0, atol=1e-5)
    assert torch.allclose(images(model, SEEDS[::-1]).flip(0), together, rtol=0, atol=1e-5)
    assert float((together[0] - together[1]).abs().mean()) > 0.01


def test_class_conditional_with_and_without_guidance(tmp_path: Path) -> None:
    pipeline = dit()
    repo, labels = saved(pipeline, tmp_path), [3, 999, 3]
    model = load(repo)
    assert (model.shape, model.takes, model.classes, model.evaluations) == ((3, 16, 16), {"labels"}, 1000, 6)
    together = images(model, SEEDS, labels)
    for i, (seed, label) in enumerate(zip(SEEDS, labels, strict=True)):
        expected = direct(pipeline, seed, class_labels=[label], num_inference_steps=3, guidance_scale=4.0)
        assert torch.allclose(together[i : i + 1], expected * 2 - 1, rtol=0, atol=1e-5)
    plain = load(repo, scale=1)
    assert plain.evaluations == 3
    expected = direct(pipeline, 5, class_labels=[3], num_inference_steps=3, guidance_scale=1)
    assert torch.allclose(images(plain, [5], [3]), expected * 2 - 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("make", "labels"), [(dit, [1, 2, 3]), (ldm, None)])
def test_noise_that_a_pipeline_forgets_to_seed_is_seeded(
    make: Callable[[], Any], labels: list[int] | None, tmp_path: Path
) -> None:
    # Neither hands its generator to the scheduler, so that diffusers would draw from the global generator here.
    model = load(saved(make(), tmp_path), scheduler="DDPMScheduler")
    together = images(model, SEEDS, labels)
    before = torch.get_rng_state()
    alone = images(model, SEEDS[1:2], None if labels is None else labels[1:2])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.allclose(alone, together[1:2], rtol=0, atol=1e-5)


def test_another_scheduler_in_place_of_the_repositorys(tmp_path: Path) -> None:
    pipeline = ddpm()
    repo = saved(pipeline, tmp_path)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    expected = direct(pipeline, 5, num_inference_steps=3) * 2 - 1
    assert torch.allclose(images(load(repo, scheduler="DDIMScheduler"), [5]), expected, rtol=0, atol=1e-5)
    assert float((images(load(repo), [5]) - expected).abs().max()) > 0.1
    # It takes no generator, which DDPMPipeline hands to every scheduler.
    assert images(load(repo, scheduler="UniPCMultistepScheduler"), [5]).isfinite().all()


def test_bfloat16_is_near_float32_although_the_pipeline_gives_arrays(tmp_path: Path) -> None:
    for name, make in (("ddpm", ddpm), ("ldm", ldm)):
        repo = saved(make(), tmp_path / name)
        exact, fast = images(load(repo), SEEDS), images(load(repo, precision="bfloat16"), SEEDS)
        assert fast.dtype == torch.float32 and not torch.equal(fast, exact)
        assert float((fast - exact).abs().mean()) < 0.005


def test_watching_tells_every_step(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    model = load(saved(ddpm(), tmp_path))
    model.sample(np.array(SEEDS, dtype=np.uint64), watch=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


class OneGenerator(DDPMPipeline):
    """Takes prompts, of which it knows only the length, and one generator for the whole batch."""

    def __call__(  # type: ignore[override]
        self,
        prompt: list[str],
        num_inference_steps: int = 20,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> Any:
        return super().__call__(len(prompt), generator, num_inference_steps, output_type)


def test_captions_and_one_image_a_call_where_a_pipeline_takes_one_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffusers, "OneGenerator", OneGenerator, raising=False)
    pipeline = OneGenerator(unet(), DDPMScheduler())
    model = load(saved(pipeline, tmp_path), steps=None)
    assert (model.takes, model.evaluations) == ({"captions"}, 20)
    model, told = load(str(tmp_path)), []
    together = model.sample(
        np.array(SEEDS, dtype=np.uint64), captions=["a", "b", "c"], watch=lambda done, total: told.append((done, total))
    )
    assert told == [(i, 9) for i in range(1, 10)]
    for i, seed in enumerate(SEEDS):
        expected = direct(pipeline, seed, prompt=["a"], num_inference_steps=3)
        assert torch.allclose(together[i : i + 1], expected * 2 - 1, rtol=0, atol=1e-5)


def test_size_of_latent_and_text_pipelines_is_read_from_configurations() -> None:
    configs = {"unet": {"sample_size": [4, 6], "in_channels": 4}, "vae": {"block_out_channels": [1, 1, 1, 1]}}
    assert pipelines._shape(configs, configs["unet"], None) == (3, 32, 48)
    assert pipelines._shape(configs, configs["unet"], 64) == (3, 64, 64)
    with pytest.raises(ValueError, match="give size="):
        pipelines._shape({}, {"in_channels": 3}, None)


def test_key_is_of_the_files_that_are_read(tmp_path: Path) -> None:
    repo = saved(ddpm(), tmp_path)
    key = load(repo).key
    (tmp_path / "README.md").write_text("of no influence")
    (tmp_path / "unet" / "diffusion_pytorch_model.msgpack").write_text("of another framework")
    assert load(repo, steps=2).key == key and len(key) == 64
    config = tmp_path / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"beta_end": 0.03}))
    assert load(repo).key != key


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "from 1 on; got 0"),
        ({"steps": 2000}, "1000"),
        ({"scale": 2.0}, "takes no guidance_scale, which is scale here"),
        ({"eta": 0.5}, "takes no eta"),
        ({"size": 64}, "takes no height, which is size here"),
        ({"scheduler": "DDIMSheduler"}, "Did you mean 'DDIMScheduler'"),
        ({"scheduler": "UNet2DModel"}, "no scheduler 'UNet2DModel'"),
        ({"scheduler": "EulerDiscreteScheduler"}, "starts from noise of standard deviation 1"),
    ],
)
def test_bad_arguments_are_refused_before_any_weight_is_read(
    arguments: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = saved(ddpm(), tmp_path)
    monkeypatch.setattr(pipelines, "_ready", None)
    with pytest.raises(ValueError, match=message):
        load(repo, **arguments)


def test_pipelines_that_need_more_or_give_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = saved(DDPMPipeline(unet(num_class_embeds=4), DDPMScheduler()), tmp_path / "classes")
    with pytest.raises(ValueError, match="has classes, and DDPMPipeline takes no class_labels"):
        load(classes)

    class Inpainting(DDPMPipeline):
        def __call__(self, image: Tensor, mask: Tensor, num_inference_steps: int = 2) -> Any: ...  # type: ignore[override]

    monkeypatch.setattr(diffusers, "Inpainting", Inpainting, raising=False)
    with pytest.raises(ValueError, match="Inpainting needs image, mask"):
        load(saved(Inpainting(unet(), DDPMScheduler()), tmp_path / "inpainting"))


def change_index(folder: Path, name: str, value: Any) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {name: value}))


def test_code_of_a_repository_is_not_run(tmp_path: Path) -> None:
    repo, ran = saved(ddpm(), tmp_path), tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(ran)!r}).touch()\nfrom diffusers import *\n"
    (tmp_path / "pipeline.py").write_text(code)
    (tmp_path / "unet" / "mine.py").write_text(code)
    for name, value in (("_class_name", ["pipeline", "DDPMPipeline"]), ("_class_name", "UNet2DModel")):
        change_index(tmp_path, name, value)
        with pytest.raises(ValueError, match="are not run"):
            load(repo)
    change_index(tmp_path, "_class_name", "DDPMPipeline")
    for library in ("mine", "os"):
        change_index(tmp_path, "unet", [library, "UNet2DModel"])
        with pytest.raises(ValueError, match="code of its repository and is not run"):
            load(repo)
    assert not ran.exists()


def run(*words: str) -> int:
    return main(["run", "--dataset", "shapes", "-n", "40", "--metric", "is", *words])


def test_a_run_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    repo = saved(ddim(), tmp_path / "repo")
    assert run("--model", f"diffusers(repo={repo!r}, steps=2)", "--format", "json") == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["metric"] == "is" and result["n_generated"] == 40 and result["value"] >= 1


def test_what_is_missing_or_unsafe_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def fails(repo: str, code: int, *says: str) -> None:
        assert run("--model", f"diffusers(repo={repo!r})") == code
        err = capsys.readouterr().err.strip()
        assert all(text in err for text in says) and "\n" not in err, err

    fails("nobody/nothing", 6, "nobody/nothing is not in the cache of the hub")
    fails(str(tmp_path / "nowhere"), 6, "There is no folder")
    fails(str(tmp_path), 6, "no model_index.json")
    unsafe = tmp_path / "unsafe"
    ddpm().save_pretrained(unsafe, safe_serialization=False)
    fails(str(unsafe), 2, "unet/diffusion_pytorch_model.bin and no safetensors", "can run code")
    broken = tmp_path / "broken"
    weights = Path(saved(ddpm(), broken)) / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    fails(str(broken), 6, "no complete safetensors file")
    weights.unlink()
    fails(str(broken), 6, "holds no weights")
    find = util.find_spec
    monkeypatch.setattr(pipelines, "find_spec", lambda name: None if name == "diffusers" else find(name))
    fails(str(broken), 6, "pip install diffusers")


def test_a_model_is_what_the_contract_names(tmp_path: Path) -> None:
    model = load(saved(ddpm(), tmp_path))
    assert all(hasattr(model, name) for name in ("shape", "key", "takes", "classes", "evaluations"))
    assert {"seeds", "watch", "labels", "captions"} <= set(inspect.signature(PipelineModel.sample).parameters)
