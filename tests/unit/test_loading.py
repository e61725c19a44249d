"""Files in the originals' formats sampled by name and by path: the whole way from a file to images, on random weights.

The walks below are written out by hand from the papers' equations; guidance, step and grid of the package have no part
in them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
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
from baselines.files.loading import checked
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
        lambda x, t: network(x.float(), timesteps(t), y=y)[:, :3],
        start(3, 8, 8),
        [750, 500, 250, 0],
        alpha_bars(Discrete()),
        1.0,
    )
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
        lambda x, t: network(x.float(), timesteps(t), y=y)[:, :3],
        start(3, 8, 8),
        [375, 250, 125, 0],
        alpha_bars(part.process),
        1.0,
    )
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
        dataset="folder",
        **WHERE,
        weights=path,
        config="tiny",
        classifier=other,
        classifier_config="tiny-judge",
        scale=2.0,
        steps=4,
        sampler="ddim",
        clip=False,
    )
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
        lambda x, t: large(x.float(), timesteps(t), y=y, low_res=seen)[:, :3],
        image_noise(other)(0, x),
        [750, 500, 250, 0],
        alpha_bars(Discrete()),
        1.0,
    )
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


# What arguments say of a process is believed, whatever the data set.


def ancestral_of_improved_diffusion(
    network: Callable[..., Tensor], x: Tensor, y: Tensor | None, *, kept: list[int], bars: np.ndarray, told: float
) -> Tensor:
    """`p_sample_loop` of improved-diffusion's SpacedDiffusion with a learned range of variances, in float64.

    The chain is that of the kept timesteps; the network is told timestep times `told` (`_WrappedModel`).
    """
    seeds = torch.from_numpy(SEEDS.view("int64"))
    noise = image_noise(seeds)
    before = np.append(1.0, bars[kept][:-1])
    betas = 1 - bars[kept] / before
    posterior = betas * (1 - before) / (1 - bars[kept])
    clipped = np.log(np.append(posterior[1], posterior[1:]))
    x = x.double()
    for draw, i in enumerate(reversed(range(len(kept))), 1):
        bar = bars[kept[i]]
        given = {} if y is None else {"y": y}
        output, variance = network(x.float(), torch.full((len(x),), kept[i] * told), **given).double().chunk(2, dim=1)
        clean = ((x - (1 - bar) ** 0.5 * output) / bar**0.5).clamp(-1, 1)
        share = (variance + 1) / 2
        log_variance = share * math.log(betas[i]) + (1 - share) * clipped[i]
        mean = betas[i] * before[i] ** 0.5 / (1 - bar) * clean
        mean = mean + (1 - before[i]) * (1 - betas[i]) ** 0.5 / (1 - bar) * x
        x = mean + (i > 0) * torch.exp(0.5 * log_variance) * noise(draw, x.float()).double()
    return x


def cosine(steps: int) -> np.ndarray:
    u = np.arange(steps + 1) / steps
    remaining = np.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - remaining[1:] / remaining[:-1], 0.999))


IMPROVED = TINY["tiny"] | {
    "diffusion_steps": 4000, "noise_schedule": "cosine", "sigma_small": False, "rescale_learned_sigmas": True,
}  # fmt: skip
"""As the scripts of improved-diffusion write them; their default of `rescale_timesteps` is True."""


@pytest.mark.parametrize("dataset", ["folder", "cifar10"])
@pytest.mark.parametrize(("flags", "told"), [({}, 0.25), ({"rescale_timesteps": False}, 1.0)])
def test_a_network_of_improved_diffusion_is_told_its_own_timesteps(
    dataset: str, flags: dict[str, object], told: float, tmp_path: Path
) -> None:
    network = random("tiny", 0)
    path, config = str(saved(tmp_path / "own.pt", **{"": network})), tmp_path / "own.json"
    config.write_text(json.dumps(IMPROVED | flags))
    model = ddpm.load(dataset=dataset, **WHERE, weights=path, config=str(config), steps=5)
    assert (model.shape, model.classes) == ((3, 8, 8), 5)
    kept, y = [0, 1000, 2000, 2999, 3999], torch.from_numpy(LABELS)
    by_hand = partial(ancestral_of_improved_diffusion, network, start(3, 8, 8), y, kept=kept, bars=cosine(4000))
    found = model.sample(SEEDS, labels=LABELS).double()
    assert torch.allclose(found, by_hand(told=told), atol=2e-4)
    assert not torch.allclose(found, by_hand(told=1.25 - told), atol=1e-2), "the test can tell the two apart"


def test_two_networks_of_one_system_are_each_told_their_own_timesteps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As improved diffusion's conditional network of ImageNet (timesteps) and its unconditional one (rescaled)."""
    conditional_, plain = random("tiny", 0), random("tiny-plain", 1)
    process = Discrete(schedule="cosine", steps=4000)
    parts = {
        "unet": denoising(saved(tmp_path / "a.pt", **{"": conditional_}), "tiny"),
        "unconditional": denoising(saved(tmp_path / "b.pt", **{"": plain}), "tiny-plain"),
    }
    parts = {
        role: replace(part, process=replace(process, told=told))
        for (role, part), told in zip(parts.items(), (1.0, 0.25), strict=True)
    }
    monkeypatch.setitem(catalogue.releases(), "pair", Release(parts=parts, shape=(3, 8, 8), classes=5))
    chosen = {"dataset": "folder", **WHERE, "weights": "pair", "steps": 4, "spacing": "uniform", "clip": False}
    y = torch.from_numpy(LABELS)

    def eps(x: Tensor, t: int) -> Tensor:
        with_y, without = conditional_(x.float(), timesteps(t), y=y)[:, :3], plain(x.float(), timesteps(t) / 4)[:, :3]
        return without + 2.5 * (with_y - without)

    expected = walk(eps, start(3, 8, 8), [3000, 2000, 1000, 0], cosine(4000), 1.0)
    found = cfg.load(**chosen, scale=2.5).sample(SEEDS, labels=LABELS).double()
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3)


DDIM_YAML = """
data: {dataset: MINE, image_size: 8, channels: 3, rescaled: true}
model: {type: simple, in_channels: 3, out_ch: 3, ch: 32, ch_mult: [1, 2], num_res_blocks: 1, attn_resolutions: [4],
        dropout: 0.0, var_type: fixedsmall, ema: true, resamp_with_conv: true}
diffusion: {beta_schedule: linear, beta_start: 0.0002, beta_end: 0.01, num_diffusion_timesteps: 500}
"""


def test_the_yaml_of_ddim_says_its_diffusion_too(tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text(DDIM_YAML)
    network = architecture(str(config)).build().eval().requires_grad_(requires_grad=False)
    path = str(saved(tmp_path / "own.pt", **{"": network}))
    own = {**WHERE, "weights": path, "config": str(config)}
    bars = np.cumprod(1 - np.linspace(0.0002, 0.01, 500))
    expected = walk(lambda x, t: network(x.float(), timesteps(t)), start(3, 8, 8), [375, 250, 125, 0], bars, 1.0)
    for dataset in ("folder", "cifar10", "lsun-church"):
        found = ddim.load(dataset=dataset, **own, steps=4, clip=False).sample(SEEDS).double()
        assert torch.allclose(found, expected, atol=5e-4)
    # `var_type` is the variance of ancestral steps, unless another is asked for.
    told, small, large = (
        ddpm.load(dataset="cifar10", **own, steps=4, **more).sample(SEEDS)
        for more in ({}, {"variance": "small"}, {"variance": "large"})
    )
    assert torch.equal(told, small) and not torch.allclose(told, large, atol=1e-3)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("linear", "jsd", r"beta_schedule='jsd' is not implemented; there are 'linear', 'quad'"),
        ("beta_start", "beta_begin", r"The section diffusion has no argument 'beta_begin'"),
        ("rescaled: true", "rescaled: false", r"data.rescaled must be true"),
    ],
)
def test_a_process_that_is_not_implemented_is_refused(old: str, new: str, says: str, tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text(DDIM_YAML.replace(old, new))
    with pytest.raises(ValueError, match=says):
        ddim.load(dataset="cifar10", **WHERE, weights="own.pt", config=str(config))


def test_the_key_holds_what_is_said_of_the_file(tmp_path: Path) -> None:
    path, config = str(saved(tmp_path / "own.pt", **{"": random("tiny", 0)})), tmp_path / "own.json"

    def key(**changed: object) -> str:
        config.write_text(json.dumps(TINY["tiny"] | changed))
        return ddim.load(dataset="folder", **WHERE, weights=path, config=str(config), steps=4).key

    assert len({key(), key(noise_schedule="cosine"), key(num_heads=4), key(diffusion_steps=500)}) == 4
    assert key() == key(), "and nothing else"


def test_labels_are_drawn_among_the_classes_that_there_are(tmp_path: Path) -> None:
    """guided-diffusion always has 1000 rows; a network of three classes has trained three of them."""
    path = str(saved(tmp_path / "own.pt", **{"": random("tiny", 0)}))
    own = {"dataset": "folder", **WHERE, "weights": path, "config": "tiny", "steps": 4}
    assert (ddim.load(**own).classes, ddim.load(**own, classes=3).classes) == (5, 3)
    with pytest.raises(ValueError, match="has rows for 5 classes; 6 are asked for"):
        ddim.load(**own, classes=6)


def test_an_unconditional_network_is_guided_by_a_classifier_of_ones_own(tmp_path: Path) -> None:
    plain, judge = random("tiny-plain", 1), random("tiny-judge", 3)
    path, other = (str(saved(tmp_path / name, **{"": n})) for name, n in (("own.pt", plain), ("judge.pt", judge)))
    own = {"dataset": "folder", **WHERE, "weights": path, "config": "tiny-plain", "steps": 4, "clip": False}
    model = adm.load_guided(**own, classifier=other, classifier_config="tiny-judge", scale=2.0, sampler="ddim")
    assert (model.classes, model.takes) == (5, {"labels"})
    bars = alpha_bars(Discrete())

    def eps(x: Tensor, t: int) -> Tensor:
        leaf = x.float().requires_grad_()
        chosen = judge(leaf, timesteps(t)).log_softmax(dim=1)[torch.arange(2), torch.from_numpy(LABELS)].sum()
        gradient = torch.autograd.grad(chosen, leaf)[0]
        return plain(x.float(), timesteps(t))[:, :3] - (1 - bars[t]) ** 0.5 * 2.0 * gradient

    expected = walk(eps, start(3, 8, 8), [750, 500, 250, 0], bars, 1.0)
    assert torch.allclose(model.sample(SEEDS, labels=LABELS).double(), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="is for images of 64 pixels, the denoising network for 8"):
        adm.load_guided(**own, classifier=other, classifier_config="adm-classifier64")
    with pytest.raises(ValueError, match="'tiny' is no classifier of noisy images"):
        adm.load_guided(**own, classifier=other, classifier_config="tiny")


def test_networks_that_contradict_what_is_said_are_refused_before_anything_is_read() -> None:
    part = Part(file="nowhere.pt", configuration="tiny", process=Discrete())
    wrong = Release(parts={"unet": part}, shape=(3, 8, 8), classes=5)
    with pytest.raises(ValueError, match="has 6 output channels; with no learned variance it has 3"):
        checked(wrong)
    with pytest.raises(ValueError, match="takes 3 channels, and states have 4"):
        checked(replace(wrong, shape=(4, 8, 8)))


LDM_YAML = """
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.0015
    linear_end: 0.0195
    timesteps: 1000
    image_size: 4
    channels: 3
    conditioning_key: crossattn
    cond_stage_key: class_label
    scale_factor: 0.5
    unet_config: {target: ldm.modules.diffusionmodules.openaimodel.UNetModel, params: UNET}
    first_stage_config: {target: ldm.models.autoencoder.VQModelInterface, params: STAGE}
    cond_stage_config: {target: ldm.modules.encoders.modules.ClassEmbedder, params: LABELS}
null_label: 5
"""


def test_a_latent_diffusion_model_of_ones_own_is_its_file_and_its_yaml(
    latent: tuple[nn.Module, nn.Module, nn.Module, str], tmp_path: Path
) -> None:
    path, config = latent[3], tmp_path / "config.yaml"
    text = LDM_YAML
    for word, name in (("UNET", "tiny-latent"), ("STAGE", "tiny-vq"), ("LABELS", "tiny-labels")):
        text = text.replace(word, json.dumps(TINY[name]))
    config.write_text(text)
    arguments = {"steps": 4, "scale": 3.0}
    known = ldm.load(dataset="folder", **WHERE, weights="tiny", **arguments)
    for dataset in ("folder", "imagenet256"):
        own = ldm.load(dataset=dataset, **WHERE, weights=path, config=str(config), **arguments)
        assert (own.shape, own.classes, own.evaluations) == ((3, 8, 8), 5, 8)
        assert torch.equal(own.sample(SEEDS, labels=LABELS), known.sample(SEEDS, labels=LABELS))
    config.write_text(text.replace("crossattn", "concat"))
    with pytest.raises(ValueError, match="conditioning_key='concat' is not implemented"):
        ldm.load(dataset="folder", **WHERE, weights=path, config=str(config))


def test_codes_are_the_same_in_half_precision(latent: tuple[nn.Module, nn.Module, nn.Module, str]) -> None:
    """Two codes in a hundred would be others if latents or codebook were rounded before the search."""
    _, stage, _, _ = latent
    model = ldm.load(dataset="folder", device="cpu", precision="bfloat16", weights="tiny", steps=3, scale=1.0)
    z = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    half = model.weights.network("first_stage")
    assert half.from_code.weight.dtype == torch.bfloat16 and torch.equal(half.nearest(z), stage.nearest(z))


def test_a_model_says_what_it_is_not_given(tmp_path: Path) -> None:
    path = str(saved(tmp_path / "own.pt", **{"": random("tiny", 0)}))
    model = ddim.load(dataset="folder", **WHERE, weights=path, config="tiny", steps=2)
    with pytest.raises(ValueError, match="needs a label an image"):
        model.sample(SEEDS)
    with pytest.raises(ValueError, match="takes no captions; it takes labels"):
        model.sample(SEEDS, labels=LABELS, captions=["a", "b"])
