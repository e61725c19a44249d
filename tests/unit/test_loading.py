"""Files in the originals' formats sampled by name and by path: the whole way from a file to images, on random weights.

The walks below are written out by hand from the papers' equations; guidance, step and grid of the package have no part
in them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from baselines.conditions import Given
from baselines.denoisers import Condition, Denoiser
from baselines.files import catalogue
from baselines.files.arguments import architecture
from baselines.files.checkpoints import CheckpointError
from baselines.files.weights import Weights
from baselines.noise import image_noise
from baselines.records import Configuration, Latent, Part, PublishedFile, Release
from baselines.sampling import walk as walk_down
from baselines.schedules import Discrete
from baselines.steps import ddim as implicit
from baselines.system import Cascade, System, conditional
from baselines.systems import adm, cfg, ddim, ddpm, ldm

TINY = {
    "tiny-up": {
        "large_size": 16, "small_size": 8, "num_channels": 32, "channel_mult": "1,2", "num_res_blocks": 1,
        "num_heads": 2, "attention_resolutions": "8", "learn_sigma": True, "class_cond": True, "num_classes": 5,
    },
    "tiny": {
        "image_size": 8, "num_channels": 32, "channel_mult": "1,2", "num_res_blocks": 1, "num_heads": 2,
        "attention_resolutions": "4", "learn_sigma": True, "class_cond": True, "num_classes": 5,
    },
    "tiny-judge": {
        "image_size": 8, "in_channels": 3, "model_channels": 32, "out_channels": 5, "num_res_blocks": 1,
        "attention_resolutions": [2], "channel_mult": [1, 2], "num_head_channels": 16, "pool": "attention",
    },
    "tiny-plain": {
        "image_size": 8, "num_channels": 32, "channel_mult": "1,2", "num_res_blocks": 1, "num_heads": 2,
        "attention_resolutions": "4", "learn_sigma": True,
    },
    "tiny-latent": {
        "image_size": 4, "in_channels": 3, "out_channels": 3, "model_channels": 32, "attention_resolutions": [1],
        "num_res_blocks": 1, "channel_mult": [1], "num_heads": 2, "use_spatial_transformer": True, "context_dim": 16,
    },
    "tiny-labels": {"n_classes": 6, "embed_dim": 16},
    "tiny-vq": {
        "embed_dim": 3, "n_embed": 32,
        "ddconfig": {
            "double_z": False, "z_channels": 3, "resolution": 8, "in_channels": 3, "out_ch": 3, "ch": 32,
            "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
        },
    },
}  # fmt: skip
PROCESS = Discrete(schedule="scaled_linear", low=0.0015, high=0.0195)
WHERE = {"device": "cpu", "precision": "float32"}
SEEDS, LABELS = np.array([3, 2**63 + 5], dtype=np.uint64), np.array([1, 4])


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, arguments in TINY.items():
        monkeypatch.setitem(
            catalogue.configurations(), name, Configuration(arguments=arguments, parameters=0.1, source="test")
        )


def random(name: str, seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = architecture(name).build()
    return network.eval().requires_grad_(requires_grad=False)


def saved(path: Path, **parts: nn.Module) -> Path:
    """One file of several networks, each under its prefix."""
    state = {f"{prefix}{k}": v for prefix, network in parts.items() for k, v in network.state_dict().items()}
    torch.save({"state_dict": state} if len(parts) > 1 else state, path)
    return path


def denoising(file: Path, name: str) -> Part:
    return Part(file=str(file), configuration=name, process=Discrete(), learned_variance=True)


def alpha_bars(process: Discrete) -> np.ndarray:
    root = np.linspace(process.low**0.5, process.high**0.5, process.steps) if "scaled" in process.schedule else None
    beta = np.linspace(process.low, process.high, process.steps) if root is None else root**2
    return np.cumprod(1 - beta)


def walk(eps: Callable[[Tensor, int], Tensor], x: Tensor, times: list[int], bars: np.ndarray, end: float) -> Tensor:
    """DDIM with eta = 0, eq. 12 of its paper, in float64."""
    x = x.double()
    for i, t in enumerate(times):
        here, there = bars[t], bars[times[i + 1]] if i + 1 < len(times) else end
        e = eps(x, t).double()
        clean = (x - (1 - here) ** 0.5 * e) / here**0.5
        x = there**0.5 * clean + (1 - there) ** 0.5 * e
    return x


def start(*shape: int) -> Tensor:
    return image_noise(torch.from_numpy(SEEDS.view("int64")))(0, torch.empty(len(SEEDS), *shape))


def timesteps(t: int) -> Tensor:
    return torch.full((len(SEEDS),), float(t))


def test_a_users_own_checkpoint_is_sampled_from_its_path(tmp_path: Path) -> None:
    network = random("tiny", 0)
    path = str(saved(tmp_path / "own.pt", **{"": network}))
    model = ddim.load(dataset="folder", **WHERE, weights=path, config="tiny", steps=4, clip=False)
    assert (model.shape, model.classes, model.takes) == ((3, 8, 8), 5, {"labels"})
    y = torch.from_numpy(LABELS)
    expected = walk(
        lambda x, t: network(x.float(), timesteps(t), y=y)[:, :3], start(3, 8, 8), [750, 500, 250, 0],
        alpha_bars(Discrete()), 1.0,
    )  # fmt: skip
    assert torch.allclose(model.sample(SEEDS, labels=LABELS).double(), expected, atol=2e-4)


def test_arguments_of_ones_own_stand_in_a_json_file(tmp_path: Path) -> None:
    """As people who trained with guided-diffusion have them: the flags of their training."""
    network = random("tiny", 0)
    path = str(saved(tmp_path / "own.pt", **{"": network}))
    told = TINY["tiny"] | {"diffusion_steps": 500, "noise_schedule": "linear", "use_fp16": True}
    (tmp_path / "own.json").write_text(json.dumps(told | {"predict_xstart": False}))
    flags = str(tmp_path / "flags.json")
    (tmp_path / "own.json").rename(flags)
    model = ddim.load(dataset="folder", **WHERE, weights=path, config=flags, steps=4, clip=False)
    part = model.weights.release.parts["unet"]
    assert part.process == Discrete(steps=500, low=2e-4, high=0.04) and part.learned_variance
    y = torch.from_numpy(LABELS)
    expected = walk(
        lambda x, t: network(x.float(), timesteps(t), y=y)[:, :3], start(3, 8, 8), [375, 250, 125, 0],
        alpha_bars(part.process), 1.0,
    )  # fmt: skip
    assert torch.allclose(model.sample(SEEDS, labels=LABELS).double(), expected, atol=5e-4)
    Path(flags).write_text("[1]")
    with pytest.raises(ValueError, match="holds no arguments by name"):
        ddim.load(dataset="folder", **WHERE, weights=path, config=flags)
    Path(flags).write_text("{")
    with pytest.raises(ValueError, match=r"flags\.json is not JSON"):
        ddim.load(dataset="folder", **WHERE, weights=path, config=flags)


def test_a_second_network_is_the_unconditional_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conditional, plain = random("tiny", 0), random("tiny-plain", 1)
    pair = Release(
        parts={
            "unet": denoising(saved(tmp_path / "a.pt", **{"": conditional}), "tiny"),
            "unconditional": denoising(saved(tmp_path / "b.pt", **{"": plain}), "tiny-plain"),
        },
        shape=(3, 8, 8),
        classes=5,
    )
    monkeypatch.setitem(catalogue.releases(), "pair", pair)
    chosen = {"dataset": "folder", **WHERE, "weights": "pair", "steps": 4, "spacing": "uniform", "clip": False}
    model = cfg.load(**chosen, scale=2.5)
    y = torch.from_numpy(LABELS)

    def eps(x: Tensor, t: int) -> Tensor:
        with_y, without = (n(x.float(), timesteps(t), **c)[:, :3] for n, c in ((conditional, {"y": y}), (plain, {})))
        return without + 2.5 * (with_y - without)

    expected = walk(eps, start(3, 8, 8), [750, 500, 250, 0], alpha_bars(Discrete()), 1.0)
    assert torch.allclose(model.sample(SEEDS, labels=LABELS).double(), expected, rtol=1e-4, atol=1e-3)
    assert model.key != cfg.load(**chosen, scale=1.0).key, "without guidance the second network is not used"
    assert (model.evaluations, cfg.load(**chosen, scale=1.0).evaluations) == (8, 4)


def test_a_classifier_of_ones_own_guides(tmp_path: Path) -> None:
    """Alg. 2 of ADM by hand: eps - sigma * scale * gradient of log p(y | x)."""
    network, judge = random("tiny", 0), random("tiny-judge", 3)
    path, other = (str(saved(tmp_path / name, **{"": n})) for name, n in (("own.pt", network), ("judge.pt", judge)))
    model = adm.load_guided(
        dataset="folder", **WHERE, weights=path, config="tiny", classifier=other, classifier_config="tiny-judge",
        scale=2.0, steps=4, sampler="ddim", clip=False,
    )  # fmt: skip
    y, bars = torch.from_numpy(LABELS), alpha_bars(Discrete())

    def eps(x: Tensor, t: int) -> Tensor:
        leaf = x.float().requires_grad_()
        chosen = judge(leaf, timesteps(t)).log_softmax(dim=1)[torch.arange(2), y].sum()
        gradient = torch.autograd.grad(chosen, leaf)[0]
        return network(x.float(), timesteps(t), y=y)[:, :3] - (1 - bars[t]) ** 0.5 * 2.0 * gradient

    expected = walk(eps, start(3, 8, 8), [750, 500, 250, 0], bars, 1.0)
    assert torch.allclose(model.sample(SEEDS, labels=LABELS).double(), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="give classifier_config"):
        adm.load_guided(dataset="folder", **WHERE, weights=path, config="tiny", classifier=other)


def test_an_upsampler_sees_the_8_bit_images_of_the_small_model(tmp_path: Path) -> None:
    small, large = random("tiny", 0), random("tiny-up", 1)

    def made(network: nn.Module, name: str, side: int, takes: set[str]) -> System:
        part = denoising(saved(tmp_path / f"{name}.pt", **{"": network}), name)
        weights = Weights(release=Release(parts={"unet": part}, shape=(3, side, side), classes=5), **WHERE)

        def build(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
            denoise, condition = conditional(weights, given)
            return denoise, condition | ({} if given.images is None else {"low_res": given.images})

        sampler = walk_down(implicit, Discrete().grid([0, 250, 500, 750]))
        return System(weights=weights, sampler=sampler, build=build, takes=frozenset(takes))

    stages = made(small, "tiny", 8, {"labels"}), made(large, "tiny-up", 16, {"labels", "images"})
    cascade = Cascade(stages=stages, between=adm.eight_bits)
    first = cascade.stages[0].sample(SEEDS, labels=LABELS)
    seen = ((first.double() + 1) * 127.5).clip(0, 255).to(torch.uint8).float() / 127.5 - 1
    y, x = torch.from_numpy(LABELS), torch.empty(2, 3, 16, 16)
    other = torch.from_numpy((SEEDS ^ np.uint64(0x5851F42D4C957F2D)).view("int64"))
    expected = walk(
        lambda x, t: large(x.float(), timesteps(t), y=y, low_res=seen)[:, :3], image_noise(other)(0, x),
        [750, 500, 250, 0], alpha_bars(Discrete()), 1.0,
    )  # fmt: skip
    told: list[tuple[int, int]] = []
    result = cascade.sample(SEEDS, labels=LABELS, watch=lambda done, total: told.append((done, total)))
    assert torch.allclose(result.double(), expected, rtol=1e-3, atol=1e-3)
    assert told == [(i, 8) for i in range(1, 9)] and (cascade.evaluations, cascade.shape) == (8, (3, 16, 16))


@pytest.fixture
def latent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, nn.Module, nn.Module, str]:
    """A latent diffusion model of labels in one file, and the release "tiny" of it."""
    unet, stage, labels = random("tiny-latent", 0), random("tiny-vq", 1), random("tiny-labels", 2)
    parts = {"model.diffusion_model.": unet, "first_stage_model.": stage, "cond_stage_model.": labels}
    path = str(saved(tmp_path / "model.ckpt", **parts))
    release = Release(
        parts={
            "unet": Part(file=path, configuration="tiny-latent", process=PROCESS),
            "first_stage": Part(file=path, configuration="tiny-vq"),
            "condition": Part(file=path, configuration="tiny-labels"),
        },
        shape=(3, 8, 8),
        latent=Latent(channels=3, factor=2, scale=0.5),
        classes=5,
        null=5,
    )
    monkeypatch.setitem(catalogue.releases(), "tiny", release)
    return unet, stage, labels, path


def test_latent_diffusion_walks_as_its_code_does(latent: tuple[nn.Module, nn.Module, nn.Module, str]) -> None:
    unet, stage, labels, _ = latent
    model = ldm.load(dataset="folder", **WHERE, weights="tiny", steps=4, scale=3.0)
    bars = alpha_bars(PROCESS)

    def eps(x: Tensor, t: int) -> Tensor:
        contexts = labels(torch.from_numpy(LABELS)), labels(torch.tensor([5, 5]))
        with_y, without = (unet(x.float(), timesteps(t), context=c) for c in contexts)
        return without + 3.0 * (with_y - without)

    # Timesteps are those of 4 even strides plus 1, and the last step lands on alpha-bar of timestep 0.
    z = walk(eps, start(3, 4, 4), [751, 501, 251, 1], bars, bars[0])
    expected = stage.decode((z / 0.5).float())
    assert model.shape == (3, 8, 8) and model.evaluations == 8
    assert torch.allclose(model.sample(SEEDS, labels=LABELS), expected, atol=2e-3)


def test_a_latent_model_shows_images_on_the_way(latent: tuple[nn.Module, nn.Module, nn.Module, str]) -> None:
    model = ldm.load(dataset="folder", **WHERE, weights="tiny", steps=3, scale=1.0)
    shown: list[Any] = []
    result = model.trajectory(SEEDS, labels=LABELS, watch=shown.append)
    assert [view.x.shape for view in shown] == [(2, 3, 8, 8)] * 3
    assert torch.equal(shown[-1].x, result) and not torch.equal(shown[0].predicted, shown[-1].predicted)


def test_a_file_that_does_not_hold_the_network_says_so(tmp_path: Path) -> None:
    path = str(saved(tmp_path / "own.pt", **{"": random("tiny-plain", 0)}))
    model = ddim.load(dataset="folder", **WHERE, weights=path, config="tiny", steps=4)
    with pytest.raises(CheckpointError, match=r"own.pt does not hold this network.*missing: class_embedding"):
        model.sample(SEEDS, labels=LABELS)


def test_the_key_is_that_of_the_content(tmp_path: Path) -> None:
    def key(name: str, seed: int) -> str:
        path = str(saved(tmp_path / name, **{"": random("tiny", seed)}))
        return ddim.load(dataset="folder", **WHERE, weights=path, config="tiny", steps=4).key

    one = key("a.pt", 0)
    assert key("b.pt", 1) != one
    assert key("a.pt", 1) != one, "the same path with other content"


def test_published_files_come_from_whoever_fetches(tmp_path: Path) -> None:
    path = saved(tmp_path / "somewhere.ckpt", **{"": random("tiny", 0)})
    asked: list[str] = []

    def fetch(card: PublishedFile) -> Path:
        asked.append(card.name)
        return path

    model = ddpm.load(dataset="cifar10", **WHERE, fetch=fetch)
    assert len(model.key) == 64 and asked == ["ddpm-ema-cifar10"]
    alone = ddpm.load(dataset="cifar10", **WHERE)
    with pytest.raises(FileNotFoundError, match=r"published at https://heibox.*weights="):
        _ = alone.key
    nowhere = ddpm.load(dataset="cifar10", **WHERE, weights="nowhere.pt", config="ddpm-cifar10")
    with pytest.raises(FileNotFoundError, match=r"no weights 'nowhere\.pt': neither a file"):
        _ = nowhere.key


def test_the_scale_of_latents_may_stand_in_the_file(tmp_path: Path) -> None:
    unet, stage = random("tiny-latent", 0), random("tiny-vq", 1)
    state = {f"model.diffusion_model.{k}": v for k, v in unet.state_dict().items()}
    state |= {f"first_stage_model.{k}": v for k, v in stage.state_dict().items()}
    z = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def weights(name: str, **more: Tensor) -> Weights:
        path = str(tmp_path / name)
        torch.save({"state_dict": {**state, **more}}, path)
        parts = {
            "unet": Part(file=path, configuration="tiny-latent", process=PROCESS),
            "first_stage": Part(file=path, configuration="tiny-vq"),
        }
        latent = Latent(channels=3, factor=2, scale=None)
        return Weights(release=Release(parts=parts, shape=(3, 8, 8), latent=latent), **WHERE)

    found = weights("m.ckpt", scale_factor=torch.tensor(0.25)).decode(z)
    assert torch.allclose(found, stage.decode(z / 0.25), atol=1e-5)
    with pytest.raises(ValueError, match="holds no scale_factor"):
        weights("n.ckpt", other=torch.zeros(3)).decode(z)
