"""What a GPU computes is what a CPU computes, and is the same twice. Skipped where there is none.

    python -m pytest -m gpu

`GENBENCH_GPU_TESTS=cpu` runs the same tests with the CPU in the place of the GPU, to see that they themselves run.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import alexnet

import genbench
from genbench import features, pipeline, registry, requests
from genbench.arrays import Samples
from genbench.datasets import shapes
from genbench.extractors import compact
from genbench.generation import sample_images
from genbench.measuring import Execution

DEVICE = os.environ.get("GENBENCH_GPU_TESTS", "cuda")
IS_GPU = DEVICE.startswith("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(IS_GPU and not torch.cuda.is_available(), reason="no CUDA device"),
]
on_gpu_alone = pytest.mark.skipif(not IS_GPU, reason="of the memory of a GPU")

# Beyond their defaults: few steps, and what has no default.
ARGUMENTS = {
    "adm-g": "(steps=3)", "analytic-dpm": "(steps=3)", "cfg": "(steps=3)", "ddim": "(steps=3)", "ddpm": "(steps=3)",
    "edm": "(steps=3)", "gotta-go-fast": "(relative=2.0, absolute=2.0)", "iddpm": "(steps=3)", "ldm": "(steps=3)",
    "ncsn": "(levels=2, count=2)", "score-sde": "(steps=3)", "unipc": "(steps=4)", "dpm-solver": "(steps=4)",
}  # fmt: skip
ELSEWHERE = {"diffusers", "adm-u"}
"""Models without shipped weights."""
MODELS = [name for name in registry.table("model") if name not in ELSEWHERE]

CLIP = "tiny-clip"
EXTRACTORS = {"cmmd": CLIP, "lpips": "lpips(network='alex')"}
PAIRED = {"psnr", "ssim", "lpips", "consistency"}
METRICS = list(registry.table("metric"))


def sampled(model: str, output: Path, *, device: str = DEVICE, count: int = 6, **more: Any) -> np.ndarray:
    """Images of a run, int64 (count, 3, 32, 32)."""
    how = {name: more.pop(name) for name in ("batch_size", "compile") if name in more}
    spec = requests.of_run(f"{model}{ARGUMENTS.get(model, '')}", num_samples=count, seed=3, **more).spec
    samples = pipeline.sample(spec, output=output, execution=Execution(device=device, **how))[0]
    return samples.read(0, count).astype(np.int64)


@pytest.mark.parametrize("model", MODELS)
def test_models_give_the_images_of_a_cpu(model: str, tmp_path: Path) -> None:
    there, here = sampled(model, tmp_path / "there"), sampled(model, tmp_path / "here", device="cpu")
    # Rounding of 1e-6 moves few values over the edge of a grey level; adaptive steps may be others in a rare image.
    assert (np.abs(there - here) > 1).mean() < (0.02 if model in ("gotta-go-fast", "score-sde") else 1e-3)


@pytest.mark.parametrize("model", MODELS)
def test_images_are_the_same_twice_and_in_exact_mode_for_every_batch_size(model: str, tmp_path: Path) -> None:
    assert np.array_equal(sampled(model, tmp_path / "one"), sampled(model, tmp_path / "two"))
    sets = [sampled(model, tmp_path / str(size), exact=True, batch_size=size) for size in (1, 3, 32)]
    assert np.array_equal(sets[0], sets[1]) and np.array_equal(sets[0], sets[2])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_fast_arithmetic_gives_nearly_the_same_images(precision: str, tmp_path: Path) -> None:
    fast, slow = sampled("ddim", tmp_path, precision=precision), sampled("ddim", tmp_path)
    assert (fast != slow).any() and (np.abs(fast - slow) > 4).mean() < 0.01


def test_compiled_networks_give_nearly_the_same_images(tmp_path: Path) -> None:
    compiled = sampled("dpm-solver", tmp_path / "compiled", compile=True, count=4)
    assert (np.abs(compiled - sampled("dpm-solver", tmp_path / "plain", count=4)) > 1).mean() < 1e-3


def test_float32_means_float32(tmp_path: Path) -> None:
    """TensorFloat-32 has errors of 1e-3, float32 of 1e-6; a model sees what the run has chosen."""
    seen: list[float] = []

    class Convolving:
        shape, key, evaluations, takes = (3, 32, 32), "k", 1, frozenset[str]()

        def sample(self, seeds: np.ndarray, **_: object) -> torch.Tensor:
            generator = torch.Generator().manual_seed(0)
            x, w = (torch.randn(size, generator=generator) for size in ((8, 64, 16, 16), (64, 64, 3, 3)))
            fast = torch.nn.functional.conv2d(x.to(DEVICE), w.to(DEVICE), padding=1).cpu().double()
            exact = torch.nn.functional.conv2d(x.double(), w.double(), padding=1)
            seen.append(float((fast - exact).abs().max() / exact.abs().max()))
            return torch.zeros(len(seeds), *self.shape)

    spec = requests.of_run("ddim", num_samples=1).spec
    sample_images(Convolving(), spec, 0, 1)  # type: ignore[arg-type]
    assert seen[0] < 2e-6


def test_features_do_not_depend_on_the_device_or_on_the_size_of_a_call() -> None:
    real = shapes.load("train").subset(0, 300)
    taps = ["pooled", "spatial", "logits"]

    def of(device: str, block: int | None = None) -> dict[str, np.ndarray]:
        extractor = compact.load(device=device)
        if block:
            extractor = replace(extractor, block=block)
        blocks = list(features.image_blocks(real, extractor, taps, device=device))
        return {tap: np.concatenate([block[tap] for block in blocks]) for tap in taps}

    here, there, small = of("cpu"), of(DEVICE), of(DEVICE, block=17)
    for tap in taps:
        scale = np.abs(here[tap]).max()
        np.testing.assert_allclose(there[tap], here[tap], atol=2e-5 * scale, rtol=0)
        np.testing.assert_allclose(small[tap], there[tap], atol=2e-5 * scale, rtol=0)
        assert np.array_equal(of(DEVICE)[tap], there[tap])


def random_alexnet(folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = alexnet(weights=None)
    save_file(network.state_dict(), folder / "alexnet.safetensors")
    return folder / "alexnet.safetensors"


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_give_the_values_of_a_cpu(metric: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = shapes.load("train")
    generated, reference = data.subset(0, 260), data.subset(400, 660)
    if metric in PAIRED:
        noise = np.random.default_rng(0).integers(0, 40, (260, 3, 32, 32))
        changed = np.clip(reference.read(0, 260).astype(int) + noise, 0, 255).astype(np.uint8)
        generated = Samples.of(changed)
    name = f"{metric}@{EXTRACTORS[metric]}" if metric in EXTRACTORS else metric
    weights = {"lpips": random_alexnet(tmp_path)} if metric == "lpips" else {}
    values = []
    for number, device in enumerate((DEVICE, "cpu")):
        monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / str(number)))
        (found,) = genbench.score(
            generated,
            reference,
            metrics=[name],
            protocol="embedded",
            test=data.subset(0, 300),
            device=device,
            weights=weights,
        )
        values.append(found.score)
    one, two = values
    # A classifier is trained: its accuracy differs as two trainings do.
    tolerance = 0.05 if metric == "cas" else 1e-3 * max(abs(two.value), 1e-2)
    assert abs(one.value - two.value) <= tolerance
    if two.stderr is not None and metric != "cas":
        assert one.stderr == pytest.approx(two.stderr, rel=0.02)


@on_gpu_alone
def test_out_of_memory_goes_on_with_smaller_batches(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = sampled("ddim", tmp_path / "plain", count=64, batch_size=64)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    held = torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction((held + (48 << 20)) / total)
    try:
        tight = sampled("ddim", tmp_path / "tight", count=64, batch_size=64)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "going on with" in caplog.text and (np.abs(tight - plain) > 1).mean() < 1e-3
