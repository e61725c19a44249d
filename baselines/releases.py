"""What is sampled from: the weights of every system on every data set, and what its paper did with them. Data only.

A `Release` names the files of a trained system and the process they were trained for. A `Preset` says how a paper
sampled and evaluated it; a run on that data set starts from there, and every argument can be overridden.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from baselines.configurations import CONFIGURATIONS, arguments_of
from baselines.published import PUBLISHED

WEIGHTS = Path(__file__).parent / "weights"
Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """The forward process a network was trained for, and what it predicts.

    Attributes:
        schedule, steps, low, high: see `baselines.schedules.betas`.
        kind: parametrisation, see `baselines.denoisers.from_output`.
        learned_variance: whether half of the output channels belong to the variance.
    """

    schedule: str = "linear"
    steps: int = 1000
    low: float = 1e-4
    high: float = 2e-2
    kind: str = "eps"
    learned_variance: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """The space of a latent diffusion model: `channels`, the `factor` of downsampling, and the `scale` between the
    first stage's latents and what the U-Net sees; None where the file itself holds it."""

    channels: int
    factor: int
    scale: float | None = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A trained system.

    Attributes:
        networks: role to file: the name of shipped weights, of a card in `baselines.published`, or a path. There are
            the roles "unet", "unconditional" (a second U-Net for guidance), "classifier", "first_stage", "condition"
            (what makes context tokens) and "vocabulary" (of the tokenizer).
        configurations: role to name of a configuration, for files whose card does not say it.
        shape: of the images, (c, h, w).
        classes: that labels choose among; 0 without labels.
        null: the label that means none; None if the network was not trained with one.
        tokenizer: of captions: "words", "clip" or "bert"; empty without captions.
        class_captions: the caption that means no more than a class, one a class.
    """

    networks: Mapping[str, str]
    process: Process
    shape: tuple[int, int, int]
    classes: int = 0
    null: int | None = None
    latent: Latent | None = None
    tokenizer: Literal["", "words", "clip", "bert"] = ""
    class_captions: tuple[str, ...] = ()
    configurations: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """Every file once."""
        return tuple(dict.fromkeys(self.networks.values()))

    @property
    def configurations_known(self) -> bool:
        """Whether the networks are of published architectures, which another file may hold too."""
        return bool(self.configuration("unet"))

    def configuration(self, role: str) -> str:
        """Name of the configuration of a network; empty for weights with a card of their own, and for other files."""
        file, of_card = self.networks[role], "unet" if role == "unconditional" else role
        return self.configurations.get(role) or (PUBLISHED[file].networks.get(of_card, "") if file in PUBLISHED else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How a paper sampled and evaluated a system on a data set.

    Attributes:
        release: name in `RELEASES` or of shipped weights; the value of the argument `weights` if that is empty.
        arguments: of the model's loader.
        num_samples, protocol: of the evaluation; None leaves them to the data set.
        differs: what this project does otherwise than the paper although the preset is kept.
        source: where the paper says so.
        base: release of the small images that `release` enlarges, for cascades.
    """

    release: str
    arguments: Mapping[str, Scalar] = field(default_factory=dict)
    num_samples: int | None = None
    protocol: str | None = None
    differs: tuple[str, ...] = ()
    source: str = ""
    base: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the release, and of the one below it."""
        return (*(release(self.base).files if self.base else ()), *release(self.release).files)


_LINEAR = Process()
_ADM = Process(learned_variance=True)
_COSINE = Process(schedule="cosine", learned_variance=True)
_IDDPM = Process(schedule="cosine", steps=4000, learned_variance=True)


def _square(side: int) -> tuple[int, int, int]:
    return (3, side, side)


def _ldm(high: float = 0.0195, low: float = 0.0015) -> Process:
    return Process(schedule="scaled_linear", low=low, high=high)


def _unconditional(file: str, side: int, process: Process = _LINEAR) -> Release:
    return Release(networks={"unet": file}, process=process, shape=_square(side))


def _adm(side: int) -> Release:
    return Release(
        networks={"unet": f"adm-{side}x{side}-diffusion", "classifier": f"adm-{side}x{side}-classifier"},
        process=_COSINE if side == 64 else _ADM,
        shape=_square(side),
        classes=1000,
    )


def _upsampler(file: str, side: int) -> Release:
    return Release(networks={"unet": file}, process=_ADM, shape=_square(side), classes=1000)


def _faces(file: str) -> Release:
    return Release(
        networks={"unet": file, "first_stage": file},
        process=_ldm(),
        shape=_square(256),
        latent=Latent(channels=3, factor=4),
    )


def _labelled(file: str, channels: int, factor: int, *, null: int | None) -> Release:
    return Release(
        networks={"unet": file, "first_stage": file, "condition": file},
        process=_ldm(),
        shape=_square(256),
        latent=Latent(channels=channels, factor=factor),
        classes=1000,
        null=null,
    )


RELEASES: dict[str, Release] = {
    "ddpm-cifar10": _unconditional("ddpm-ema-cifar10", 32),
    "ddpm-lsun-bedroom": _unconditional("ddpm-ema-lsun-bedroom", 256),
    "ddpm-lsun-cat": _unconditional("ddpm-ema-lsun-cat", 256),
    "ddpm-lsun-church": _unconditional("ddpm-ema-lsun-church", 256),
    "ddpm-celebahq": _unconditional("google-ddpm-ema-celebahq-256", 256),
    "ddim-celeba64": _unconditional("ddim-celeba64", 64),
    "iddpm-cifar10": _unconditional("iddpm-cifar10-uncond-50M-500K", 32, _IDDPM),
    "iddpm-imagenet64": Release(
        networks={
            "unet": "iddpm-imagenet64-cond-270M-250K",
            "unconditional": "iddpm-imagenet64-uncond-100M-1500K",
        },
        process=_IDDPM,
        shape=_square(64),
        classes=1000,
    ),
    "adm-imagenet64": _adm(64),
    "adm-imagenet128": _adm(128),
    "adm-imagenet256": _adm(256),
    "adm-imagenet512": _adm(512),
    "adm-imagenet256-unconditional": Release(
        networks={"unet": "adm-256x256-diffusion-uncond", "classifier": "adm-256x256-classifier"},
        process=_ADM,
        shape=_square(256),
        classes=1000,
    ),
    "adm-imagenet256-pair": Release(
        networks={"unet": "adm-256x256-diffusion", "unconditional": "adm-256x256-diffusion-uncond"},
        process=_ADM,
        shape=_square(256),
        classes=1000,
    ),
    "adm-u-256": _upsampler("adm-64-256-upsampler", 256),
    "adm-u-512": _upsampler("adm-128-512-upsampler", 512),
    "adm-lsun-bedroom": _unconditional("adm-lsun-bedroom", 256, _ADM),
    "adm-lsun-cat": _unconditional("adm-lsun-cat", 256, _ADM),
    "adm-lsun-horse": _unconditional("adm-lsun-horse", 256, _ADM),
    "ldm-imagenet256": _labelled("ldm-imagenet256", 3, 4, null=1000),
    "ldm-imagenet256-vq8": _labelled("ldm-imagenet256-vq8", 4, 8, null=None),
    "ldm-celebahq": _faces("ldm-celebahq"),
    "ldm-ffhq": _faces("ldm-ffhq"),
    "ldm-lsun-bedroom": _faces("ldm-bedroom"),
    "ldm-lsun-church": Release(
        networks={"unet": "ldm-church", "first_stage": "ldm-church"},
        process=_ldm(0.0155),
        shape=_square(256),
        latent=Latent(channels=4, factor=8, scale=None),
    ),
    "ldm-text": Release(
        networks={
            "unet": "ldm-text",
            "first_stage": "ldm-text",
            "condition": "ldm-text",
            "vocabulary": "bert-base-uncased-vocabulary",
        },
        process=_ldm(0.012, 0.00085),
        shape=_square(256),
        latent=Latent(channels=4, factor=8, scale=0.18215),
        tokenizer="bert",
    ),
    "stable-diffusion-v1-4": Release(
        networks={"unet": "sd-v1-4", "first_stage": "sd-v1-4", "condition": "sd-v1-4"},
        process=_ldm(0.012, 0.00085),
        shape=_square(512),
        latent=Latent(channels=4, factor=8, scale=0.18215),
        tokenizer="clip",
    ),
}
"""Name to published release."""


def _card_path(name: str) -> Path | None:
    """Where the card of weights that this project's scripts trained lies: shipped, or beside the file of a path."""
    if not name:
        return None
    beside = Path(name).expanduser()
    places = [WEIGHTS / f"{name}.json", *([beside.with_suffix(".json")] if beside.suffix == ".safetensors" else [])]
    return next((path for path in places if path.is_file()), None)


def described(name: str) -> bool:
    """Whether these weights have a card that says all about them; other files need a configuration."""
    return _card_path(name) is not None


def card(name: str) -> dict[str, Any]:
    """The card of shipped weights, or of a file that `scripts/train_baselines.py` wrote.

    Raises:
        FileNotFoundError: no such weights.
    """
    path = _card_path(name)
    if path is None:
        raise FileNotFoundError(f"The weights {name!r} are not in {WEIGHTS}; scripts/train_baselines.py makes them.")
    return json.loads(path.read_text(encoding="utf-8"))


def file_of(name: str) -> Path:
    """The file that a card describes.

    Raises:
        FileNotFoundError: no such card, or no such file beside it.
    """
    about, path = card(name), _card_path(name)
    assert path is not None
    if not (path.parent / about["file"]).is_file():
        raise FileNotFoundError(f"{path} describes {about['file']}, which is not beside it.")
    return path.parent / about["file"]


SHIPPED = ("shapes-pixel", "shapes-guided", "shapes-latent")
"""Releases on the data set of this project."""


def release(name: str) -> Release:
    """A release by its name, or by that of weights which have a card.

    Raises:
        ValueError: no such name.
    """
    if name in RELEASES:
        return RELEASES[name]
    if name == "shapes-guided":
        pixel = release("shapes-pixel")
        return replace(pixel, networks={**pixel.networks, "classifier": "shapes-classifier"})
    if not described(name):
        raise ValueError(f"No release named {name!r}; there are {', '.join((*SHIPPED, *RELEASES))}.")
    about = card(name)
    if "process" not in about or "shape" not in about:
        raise ValueError(f"{name!r} is part of a model; there are {', '.join((*SHIPPED, *RELEASES))}.")
    told = dict(about["process"])
    null = told.pop("null_label", None)
    process, (c, h, w) = Process(**told), about["shape"]
    if "first_stage" not in about:
        classes: int = about.get("classes") or null or 0
        return Release(networks={"unet": name}, process=process, shape=(c, h, w), classes=classes, null=null)
    latent = Latent(channels=about["network"]["unet"]["in_channels"], factor=4, scale=about["latent_scale"])
    return Release(
        networks={"unet": name, "first_stage": about["first_stage"], "condition": name}, process=process,
        shape=(c, h, w), latent=latent, tokenizer="words", class_captions=tuple(about["class_captions"]),
        classes=len(about["class_captions"]),
    )  # fmt: skip


def of_file(path: str, configuration: str | None, *, base: Release | None) -> Release:
    """The release that a user's own file is.

    Args:
        path: of the file, or the name of a card in `baselines.published`.
        configuration: of the U-Net: a name in `baselines.configurations`, or the path of a .json file of arguments in
            the names of the original repository; None for that of the card or of `base`.
        base: release of the preset on this data set. Its process and its other networks are kept; those of a latent
            diffusion model are taken from the same file. None where the data set has no preset: then the configuration
            says what there is to know.

    Raises:
        ValueError: a file of which nothing says what is in it, or an unknown configuration.
    """
    if configuration is not None:
        arguments_of(configuration)
    if path in PUBLISHED and configuration is None:
        for found in RELEASES.values():
            if found.networks["unet"] == path:
                return found
        configuration = PUBLISHED[path].networks.get("unet")
    if base is not None and base.configurations_known:
        roles = base.networks if base.latent is None else dict.fromkeys(base.networks, path)
        told = {role: name for role in base.networks if (name := base.configuration(role))}
        chosen = {"unet": configuration} if configuration else {}
        return replace(base, networks={**roles, "unet": path}, configurations={**told, **chosen})
    if configuration is None:
        raise ValueError(
            f"Nothing says what network {path!r} holds; name its configuration, such as config='adm-imagenet64'. "
            f"There are {', '.join(CONFIGURATIONS)}."
        )
    return _of_configuration(path, configuration)


def process_of(configuration: str) -> Process:
    """The process that the paper of a published architecture trained it for, or that a user's arguments name.

    Source:
        openai/guided-diffusion `script_util.py:create_gaussian_diffusion`, whose linear schedule keeps the sum of the
        betas for every number of steps.
    """
    if configuration.startswith("iddpm") and "lsun" not in configuration:
        return _IDDPM
    if configuration == "adm-imagenet64":
        return _COSINE
    told = arguments_of(configuration)
    steps = int(told.get("diffusion_steps", 1000))
    return Process(
        schedule=str(told.get("noise_schedule", "linear")), steps=steps, low=0.1 / steps, high=20 / steps,
        kind="x0" if told.get("predict_xstart") else "eps", learned_variance=bool(told.get("learn_sigma", False)),
    )  # fmt: skip


def _of_configuration(path: str, configuration: str) -> Release:
    """What the arguments of a published architecture say of the process: those of their repository's scripts."""
    told = arguments_of(configuration)
    side = told.get("image_size") or told.get("data", {}).get("image_size")
    if side is None or "model_channels" in told:
        raise ValueError(
            f"The configuration {configuration!r} alone makes no model of images; its preset on a data set does."
        )
    return Release(
        networks={"unet": path}, configurations={"unet": configuration}, process=process_of(configuration),
        shape=_square(int(side)), classes=int(told.get("num_classes", 1000)) if told.get("class_cond") else 0,
    )  # fmt: skip


_50K = 50_000
_FLOATS = "images become 8-bit pixels before the extractor, which the paper's do not"
_TABLE_5 = "Dhariwal and Nichol 2021 Tables 4 and 5; openai/guided-diffusion README.md"
_LDM = "Rombach et al. 2022 Tables 1, 3 and 17; CompVis/latent-diffusion README.md"

DDPM: dict[str, Preset] = {
    "shapes": Preset(release="shapes-pixel"),
    "cifar10": Preset(
        release="ddpm-cifar10", num_samples=_50K, protocol="tf1", differs=(_FLOATS,),
        source="Ho et al. 2020 Table 1; hojonathanho/diffusion",
    ),
    **{
        data: Preset(
            release=f"ddpm-{data}", arguments={"variance": "small"}, num_samples=_50K, protocol="tf1",
            differs=(_FLOATS,), source="Ho et al. 2020 Table 3; hojonathanho/diffusion",
        )
        for data in ("lsun-bedroom", "lsun-cat", "lsun-church", "celebahq")
    },
}  # fmt: skip
"""Data set to preset, of each system."""

DDIM: dict[str, Preset] = {
    "shapes": Preset(release="shapes-pixel"),
    "cifar10": Preset(
        release="ddpm-cifar10", arguments={"steps": 50, "spacing": "quadratic", "clip": False}, num_samples=_50K,
        protocol="tf1", source="Song et al. 2021 Table 1; ermongroup/ddim",
    ),
    **{
        data: Preset(
            release=name, arguments={"steps": 50, "spacing": "uniform", "clip": False}, num_samples=_50K,
            protocol="tf1", source="Song et al. 2021 Tables 1 and 3; ermongroup/ddim",
        )
        for data, name in (
            ("celeba", "ddim-celeba64"), ("lsun-bedroom", "ddpm-lsun-bedroom"), ("lsun-church", "ddpm-lsun-church"),
        )
    },
}  # fmt: skip

CFG: dict[str, Preset] = {
    "shapes": Preset(release="shapes-pixel"),
    "imagenet64": Preset(
        release="iddpm-imagenet64", arguments={"scale": 1.1, "steps": 256, "sampler": "ancestral"}, num_samples=_50K,
        protocol="tf1", source="Ho and Salimans 2022 Table 1",
        differs=("the paper's weights were never published: two networks of improved diffusion",),
    ),
    "imagenet256": Preset(
        release="adm-imagenet256-pair", arguments={"scale": 1.5, "steps": 250, "sampler": "ancestral"},
        num_samples=_50K, protocol="adm", source="no paper has this resolution",
        differs=("the paper's weights were never published: two networks of ADM",),
    ),
}  # fmt: skip

ADM_G: dict[str, Preset] = {
    "shapes": Preset(release="shapes-guided"),
    **{
        f"imagenet{side}": Preset(
            release=f"adm-imagenet{side}", arguments={"scale": scale, "steps": 250, "sampler": "ancestral"},
            num_samples=_50K, protocol="adm", source=_TABLE_5,
        )
        for side, scale in ((64, 0.0), (128, 0.5), (256, 1.0), (512, 4.0))
    },
    **{
        data: Preset(
            release=f"adm-{data}", arguments={"scale": 0.0, "steps": 1000, "sampler": "ancestral"}, num_samples=_50K,
            protocol="adm", source=_TABLE_5,
        )
        for data in ("lsun-bedroom", "lsun-cat", "lsun-horse")
    },
}  # fmt: skip

ADM_U: dict[str, Preset] = {
    "imagenet256": Preset(
        release="adm-u-256", base="adm-imagenet64", arguments={"scale": 1.0, "steps": 250}, num_samples=_50K,
        protocol="adm", source="Dhariwal and Nichol 2021 Tables 5 and 14",
    ),
    "imagenet512": Preset(
        release="adm-u-512", base="adm-imagenet128", arguments={"scale": 0.5, "steps": 250}, num_samples=_50K,
        protocol="adm", source="Dhariwal and Nichol 2021 Table 5",
        differs=("the paper does not print the scale of the small samples; this is that of its row at 128 pixels",),
    ),
}  # fmt: skip

LDM: dict[str, Preset] = {
    "shapes": Preset(release="shapes-latent", arguments={"spacing": "uniform", "last": "clean"}),
    "imagenet256": Preset(
        release="ldm-imagenet256", arguments={"scale": 1.5, "steps": 250, "eta": 1.0}, num_samples=_50K,
        protocol="adm", source=_LDM, differs=("labels are drawn, not 50 of every class",),
    ),
    "celebahq": Preset(
        release="ldm-celebahq", arguments={"scale": 1.0, "steps": 500, "eta": 0.0}, num_samples=_50K, protocol="tf1",
        source=_LDM,
    ),
    **{
        data: Preset(
            release=f"ldm-{data}", arguments={"scale": 1.0, "steps": steps, "eta": eta}, num_samples=_50K,
            protocol="tf1", source=_LDM,
        )
        for data, steps, eta in (("ffhq", 200, 1.0), ("lsun-bedroom", 200, 1.0), ("lsun-church", 200, 0.0))
    },
    "coco": Preset(
        release="ldm-text", arguments={"scale": 1.5, "steps": 250, "eta": 0.0}, num_samples=30_000, protocol="tf1",
        source="Rombach et al. 2022 Table 2",
    ),
}  # fmt: skip
