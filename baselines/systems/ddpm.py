"""Denoising diffusion probabilistic models (Ho et al. 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from baselines import steps as samplers
from baselines.conditions import Given
from baselines.denoisers import Condition, Denoiser
from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.guidance import clip as limit
from baselines.guidance import on_x0
from baselines.records import Configuration, Part, Preset, PublishedFile, Release, named, sized, square
from baselines.sampling import walk
from baselines.schedules import Discrete, subsequence
from baselines.system import FLOW, System, by_chain, conditional


def ddpm(
    weights: Weights,
    *,
    steps: int = 1000,
    variance: Literal["small", "large", "learned"] | None = None,
    spacing: str = "respaced",
    clip: bool = True,
) -> System:
    """Denoising diffusion probabilistic models, ancestral sampling.

    Args:
        steps: number of the process's timesteps that are visited, chosen by `spacing`
            (`baselines.schedules.subsequence`).
        variance: "large" (the paper's choice on CIFAR-10), "small" (on 256x256 images) or "learned"; None is that of
            the arguments of your own network, and "large" where there are none.
        clip: limit the predicted image to [-1, 1] in every step, as the original code does.

    Source: Ho et al. 2020 Alg. 2; hojonathanho/diffusion.
    """
    part = weights.release.parts["unet"]
    if variance is None:
        variance = "learned" if weights.own and part.learned_variance else part.variance or "large"
    if variance not in ("small", "large", "learned"):
        raise ValueError(f"variance is small, large or learned; got {variance!r}.")
    if variance == "learned" and not part.learned_variance:
        raise ValueError("variance='learned' needs a network that predicts it, and this one does not.")
    grid = weights.process.grid(subsequence(steps, weights.process.steps, spacing))
    build = limited if clip else conditional
    return System(
        weights=weights,
        sampler=walk(lambda: samplers.ddpm(variance), grid),  # eq. 7
        build=build,
        bits=FLOW | {"bound": by_chain(grid, variance, build)},  # eq. 5
    )


def limited(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
    """The network alone, whose predicted image is limited to [-1, 1]."""
    denoise, condition = conditional(weights, given)
    return on_x0(denoise, limit), condition


def arguments(resolution: int, multipliers: Sequence[int], *, dropout: float = 0.0) -> dict[str, Any]:
    """A network as the yaml files of ermongroup/ddim write it."""
    return {
        "data": {"image_size": resolution},
        "model": {
            "type": "simple", "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": multipliers, "num_res_blocks": 2,
            "attn_resolutions": [16], "dropout": dropout, "resamp_with_conv": True,
        },
    }  # fmt: skip


_CONFIGS = "ermongroup/ddim configs/"
CONFIGURATIONS = {
    "ddpm-cifar10": Configuration(
        arguments=arguments(32, [1, 2, 2, 2], dropout=0.1),
        parameters=35.75,
        source=_CONFIGS + "cifar10.yml; Ho et al. 2020 App. B",
    ),
    "ddpm-256": Configuration(
        arguments=arguments(256, [1, 1, 2, 2, 4, 4]),
        parameters=113.67,
        source=_CONFIGS + "bedroom.yml, church.yml; Ho et al. 2020 App. B",
    ),
}

_HEIBOX = {
    "cifar10": (
        "869980b53bf5416c8a28", "82ed3067fd1002f5cf4c339fb80c4669", "2e4f01e2d9ee49bab1d5",
        "1fa350b952534ae442b1d5235cce5cd3", "ddpm-cifar10",
    ),
    "lsun_bedroom": (
        "f179d4f21ebc4d43bbfe", "f70280ac0e08b8e696f42cb8e948ff1c", "b95206528f384185889b",
        "1921fa46b66a3665e450e42f36c2720f", "ddpm-256",
    ),
    "lsun_cat": (
        "fac870bd988348eab88e", "bbee0e7c3d7abfb6e2539eaf2fb9987b", "0701aac3aa69457bbe34",
        "646f23f4821f2459b8bafc57fd824558", "ddpm-256",
    ),
    "lsun_church": (
        "2711a6f712e34b06b9d8", "eb619b8a5ab95ef80f94ce8a5488dae3", "44ccb50ef3c6436db52e",
        "fdc68a23938c2397caba4a260bc2445f", "ddpm-256",
    ),
}  # fmt: skip
"""Data set to identifier and MD5 of the trained weights, the same of their average, and the configuration."""


def _converted(data: str, *, average: bool) -> PublishedFile:
    """The authors' TensorFlow checkpoint as converted to PyTorch by pesser."""
    raw, raw_md5, averaged, averaged_md5, configuration = _HEIBOX[data]
    return PublishedFile(
        name=f"ddpm-{'ema_' if average else ''}{data}".replace("_", "-"),
        url=f"https://heibox.uni-heidelberg.de/f/{averaged if average else raw}/?dl=1",
        networks={"unet": configuration},
        dataset=data.replace("_", "-"),
        licence="none named by the authors (hojonathanho/diffusion)",
        weights="average" if average else "raw",
        md5=averaged_md5 if average else raw_md5,
        source="ermongroup/ddim functions/ckpt_util.py",
    )


def _on_the_hub(name: str, weights: Literal["average", "raw", "unspecified"]) -> PublishedFile:
    """The same weights on the Hugging Face Hub."""
    data = name.removeprefix("ddpm-").removeprefix("ema-").rpartition("-")[0]
    folder = f"https://huggingface.co/google/{name}/resolve/main/"
    return PublishedFile(
        name=f"google-{name}",
        url=folder + "diffusion_pytorch_model.safetensors",
        mirrors=(folder + "diffusion_pytorch_model.bin",),
        networks={"unet": "ddpm-cifar10" if data == "cifar10" else "ddpm-256"},
        dataset={"bedroom": "lsun-bedroom", "church": "lsun-church", "cat": "lsun-cat"}.get(data, data),
        licence="Apache-2.0",
        weights=weights,
        source=f"huggingface.co/google/{name}",
    )


_HUB = ("celebahq", "bedroom", "church", "cat")
FILES = sized(
    [
        *(_converted(data, average=average) for data in _HEIBOX for average in (False, True)),
        _on_the_hub("ddpm-cifar10-32", "unspecified"),
        *(_on_the_hub(f"ddpm-{data}-256", "raw") for data in _HUB),
        *(_on_the_hub(f"ddpm-ema-{data}-256", "average") for data in _HUB),
    ],
    CONFIGURATIONS,
)


LINEAR = Discrete()
"""The process of the paper: 1000 steps, beta from 1e-4 to 0.02."""


def release(file: str, side: int, process: Discrete = LINEAR, **part: Any) -> Release:
    """An unconditional network of images in one file."""
    return Release(parts={"unet": Part(file=file, process=process, **part)}, shape=square(side))


RELEASES = named(
    {
        "ddpm-cifar10": release("ddpm-ema-cifar10", 32),
        "ddpm-lsun-bedroom": release("ddpm-ema-lsun-bedroom", 256),
        "ddpm-lsun-cat": release("ddpm-ema-lsun-cat", 256),
        "ddpm-lsun-church": release("ddpm-ema-lsun-church", 256),
        "ddpm-celebahq": release("google-ddpm-ema-celebahq-256", 256),
    }
)

_SMALL, _LARGE = {"variance": "small"}, {"variance": "large"}
_ROW = {"arxiv": "2006.11239", "system": "DDPM", "steps": 1000}
_LATER = {"arxiv": "2010.02502", "system": "DDIM", "steps": "{steps}"}
_IN_FEW_STEPS = (
    {**_LATER, "variant": "sigma-hat (DDPM*", "when": _LARGE},
    {**_LATER, "variant": "eta=1.0 (DDPM*", "when": _SMALL},
)
"""Table 1 of the DDIM paper."""
_FLOATS = "images become 8-bit pixels before the extractor, which the paper's do not"
_CHURCH = (
    "the published file is the network of 4,432,000 steps, of which 10.44 is reported (pesser/pytorch_diffusion#2)"
)


def _lsun(data: str, *, differs: tuple[str, ...] = ()) -> Preset:
    """The paper took the small variance on 256x256 images."""
    return Preset(
        release=RELEASES[f"ddpm-{data}"],
        arguments={"variance": "small"},
        num_samples=50_000,
        protocol="tf1",
        differs=(_FLOATS, *differs),
        source="Ho et al. 2020 Table 3; hojonathanho/diffusion",
        rows=(
            {**_ROW, "variant": "L_simple (eps*", "when": {"steps": 1000, **_SMALL}},
            {**_ROW, "variant": "L_simple*", "when": {"steps": 1000, **_SMALL}},
            *_IN_FEW_STEPS,
            {"arxiv": "2206.09479", "system": "DDPM", "when": {"steps": 1000, **_SMALL}},
        ),
    )


PRESETS = {
    "shapes": Preset(release=shipped("shapes-pixel"), arguments={"variance": "large"}),
    "cifar10": Preset(
        release=RELEASES["ddpm-cifar10"],
        arguments={"variance": "large"},
        num_samples=50_000,
        protocol="tf1",
        differs=(_FLOATS,),
        source="Ho et al. 2020 Table 1; hojonathanho/diffusion",
        rows=(
            {**_ROW, "variant": "L_simple (eps*", "when": {"steps": 1000, **_LARGE}},
            *_IN_FEW_STEPS,
            {"arxiv": "2206.09479", "system": "DDPM", "when": {"steps": 1000, **_LARGE}},
        ),
    ),
    "lsun-bedroom": _lsun("lsun-bedroom"),
    "lsun-cat": _lsun("lsun-cat"),
    "lsun-church": _lsun("lsun-church", differs=(_CHURCH,)),
    "celebahq": _lsun("celebahq"),
}

# The DDIM paper has numbers of its own network, which is published as its own.
_SMALL_ROW = {**_LATER, "variant": "eta=1.0 (DDPM*"}
_ELSEWHERE = {"celeba": (*_IN_FEW_STEPS, _SMALL_ROW, {**_SMALL_ROW, "steps": 1000})}

load = loader(ddpm, PRESETS, rows=_ELSEWHERE)
