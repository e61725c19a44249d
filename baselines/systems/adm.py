"""Diffusion models that beat GANs (Dhariwal and Nichol 2021): guidance by a classifier, and upsampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from baselines import steps as samplers
from baselines.conditions import Given
from baselines.denoisers import Condition, Denoiser
from baselines.files import catalogue
from baselines.files.cards import part as part_of
from baselines.files.cards import release as shipped
from baselines.files.loading import checked, loader, with_presets
from baselines.files.weights import Fetch, Weights, network_of
from baselines.guidance import classifier as guided_by
from baselines.guidance import clip as limit
from baselines.guidance import on_x0
from baselines.networks.classifier import ClassifierConfig
from baselines.ranges import finite
from baselines.records import Configuration, Part, Preset, PublishedFile, Release, named, sized, square
from baselines.sampling import walk
from baselines.schedules import Discrete, subsequence
from baselines.steps import Step
from baselines.system import Cascade, System, told


def adm_g(
    weights: Weights,
    *,
    scale: float = 1.0,
    steps: int = 250,
    sampler: str = "ancestral",
    eta: float = 0.0,
    spacing: str | None = None,
    clip: bool = True,
    classifier: str | None = None,
    classifier_config: str | None = None,
) -> System:
    """Guidance of a class-conditional network by the gradient of a classifier of noisy images.

    Args:
        scale: of the gradient; 0 is no guidance, for which no classifier is needed. Scales of the two samplers are not
            comparable.
        sampler: "ancestral" shifts the mean by the learned variance times the gradient (Alg. 1), "ddim" shifts the
            predicted noise (Alg. 2).
        spacing: None is that of the original code: "respaced" for ancestral sampling and "uniform" for DDIM, which so
            leaves out the last timestep. From there Alg. 2 divides the gradient by an alpha near 0 on cosine processes,
            and the images are lost.
        classifier, classifier_config: file of another classifier, and what network it holds, as `weights` and `config`
            are of the denoising network. Where that is unconditional, the classes are the classifier's.

    Source: Dhariwal and Nichol 2021 Alg. 1 and 2; openai/guided-diffusion `classifier_sample.py`.
    """
    finite(scale=scale)
    r = weights.release
    if classifier is not None:
        r = _with_classifier(r, classifier, classifier_config)
    if not scale:
        r = r.without("classifier")
    elif "classifier" not in r.parts:
        raise ValueError(f"There is no classifier of noisy images for these weights; use scale=0.0, not {scale}.")
    used = weights.of(r) if r != weights.release else weights

    def build(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        condition, _ = told(weights, given)
        denoise = weights.denoiser()
        if clip:
            denoise = on_x0(denoise, limit)
        if scale:
            denoise = guided_by(denoise, weights.log_probability(), scale=scale)
        return denoise, condition

    make_step = step_of(sampler, eta, used)
    spacing = spacing or {"ancestral": "respaced", "ddim": "uniform"}[sampler]
    grid = used.process.grid(subsequence(steps, used.process.steps, spacing))
    return System(weights=used, sampler=walk(make_step, grid), build=build)


def _with_classifier(release: Release, file: str, config: str | None) -> Release:
    """The same system, guided by another classifier of the same process."""
    old = release.parts.get("classifier")
    config = config or (catalogue.files()[file].networks.get("classifier") if file in catalogue.files() else None)
    named = config or (old and catalogue.configuration_of(old, "classifier"))
    if not named:
        raise ValueError(f"Nothing says what network {file!r} holds; give classifier_config='adm-classifier64'.")
    part = Part(file=file, configuration=named, process=release.parts["unet"].process)
    network = network_of(part, "classifier")
    if not isinstance(network, ClassifierConfig):
        raise ValueError(f"classifier_config={named!r} is no classifier of noisy images.")
    classes = release.classes or network.classes
    return checked(replace(release.with_parts(classifier=part), classes=classes))


def step_of(sampler: str, eta: float, weights: Weights) -> Callable[[], Step]:
    """The step of a guided sampler: "ancestral", with the learned variance where there is one, or "ddim"."""
    if sampler not in ("ancestral", "ddim"):
        raise ValueError(f"sampler is ancestral or ddim; got {sampler!r}.")
    learned = weights.release.parts["unet"].learned_variance
    step = samplers.ddim(eta) if sampler == "ddim" else samplers.ddpm("learned" if learned else "large")
    return lambda: step


def adm_u(
    *,
    dataset: str,
    device: str,
    precision: str,
    fetch: Fetch | None = None,
    compiled: bool = False,
    scale: float = 1.0,
    steps: int = 250,
    sampler: str = "ancestral",
    eta: float = 0.0,
    spacing: str | None = None,
    enlarging_steps: int = 250,
) -> Cascade:
    """Small images by `adm_g`, enlarged four times by a second diffusion model that sees them.

    Args:
        scale, steps, sampler, eta, spacing: of the small images. See `adm_g`.
        enlarging_steps: of the second model, ancestral, which is not guided.

    Source: Dhariwal and Nichol 2021 sec. 4.4; openai/guided-diffusion `super_res_sample.py`.
    """
    preset = UPSAMPLED.get(dataset)
    if preset is None or preset.base is None:
        raise ValueError(f"There are no upsamplers for {dataset!r}; there are some for {', '.join(UPSAMPLED)}.")
    small = Weights(release=preset.base, device=device, precision=precision, fetch=fetch, compiled=compiled)
    large = small.of(preset.release)
    grid = large.process.grid(subsequence(enlarging_steps, large.process.steps, "respaced"))
    enlarged = System(
        weights=large,
        sampler=walk(step_of("ancestral", 0.0, large), grid),
        build=_enlarging,
        takes=frozenset({"labels", "images"}),
    )
    base = adm_g(small, scale=scale, steps=steps, sampler=sampler, eta=eta, spacing=spacing)
    return Cascade(stages=(base, enlarged), between=eight_bits)


def _enlarging(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
    """The upsampler, which sees the small images and is not guided."""
    condition = dict(told(weights, given)[0])
    if given.images is not None:
        condition["low_res"] = given.images
    return on_x0(weights.denoiser(), limit), condition


def eight_bits(images: Tensor) -> Tensor:
    """Images in [-1, 1] as they come back from 8-bit files, truncated as `image_sample.py` leaves them."""
    return ((images + 1) * 127.5).clamp(0, 255).floor() / 127.5 - 1


_SOURCE = "openai/guided-diffusion README.md; Dhariwal and Nichol 2021 App. I"
_FLAGS = {
    "attention_resolutions": "32,16,8",
    "learn_sigma": True,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
}
_256 = _FLAGS | {"image_size": 256, "num_channels": 256, "num_head_channels": 64}


def _classifier(size: int, parameters: float, depth: int = 2) -> Configuration:
    return Configuration(
        arguments={"image_size": size, "classifier_depth": depth},
        parameters=parameters,
        source=_SOURCE + ", classifiers",
    )


CONFIGURATIONS = {
    "adm-imagenet64": Configuration(
        arguments=_FLAGS | {
            "image_size": 64, "num_channels": 192, "num_res_blocks": 3, "num_head_channels": 64, "dropout": 0.1,
            "class_cond": True, "use_new_attention_order": True, "noise_schedule": "cosine",
        },
        parameters=295.90,
        source=_SOURCE,
    ),
    "adm-imagenet128": Configuration(
        arguments=_FLAGS | {"image_size": 128, "num_channels": 256, "num_heads": 4, "class_cond": True},
        parameters=421.53,
        source=_SOURCE,
    ),
    "adm-imagenet256": Configuration(arguments=_256 | {"class_cond": True}, parameters=553.84, source=_SOURCE),
    "adm-imagenet256-unconditional": Configuration(arguments=_256, parameters=552.81, source=_SOURCE),
    "adm-lsun256": Configuration(arguments=_256 | {"dropout": 0.1}, parameters=552.81, source=_SOURCE),
    "adm-imagenet512": Configuration(
        arguments=_256 | {"image_size": 512, "class_cond": True}, parameters=559.00, source=_SOURCE
    ),
    "adm-u-64-256": Configuration(
        arguments=_FLAGS | {
            "large_size": 256, "small_size": 64, "num_channels": 192, "num_heads": 4, "class_cond": True,
        },
        parameters=311.80,
        source=_SOURCE,
    ),
    "adm-u-128-512": Configuration(
        arguments=_FLAGS | {
            "large_size": 512, "small_size": 128, "num_channels": 192, "num_head_channels": 64, "class_cond": True,
            "attention_resolutions": "32,16",
        },
        parameters=308.84,
        source=_SOURCE,
    ),
    "adm-classifier64": _classifier(64, 65.44, depth=4),
    "adm-classifier128": _classifier(128, 42.57),
    "adm-classifier256": _classifier(256, 54.10),
    "adm-classifier512": _classifier(512, 54.45),
}  # fmt: skip


def _file(file: str, configuration: str, dataset: str) -> PublishedFile:
    classifier = "classifier" in file
    return PublishedFile(
        name="adm-" + file.replace("_", "-"),
        url=f"https://openaipublic.blob.core.windows.net/diffusion/jul-2021/{file}.pt",
        networks={"classifier" if classifier else "unet": configuration},
        dataset=dataset,
        licence="MIT",
        weights="unspecified" if classifier else "average",
        source="openai/guided-diffusion README.md",
    )


FILES = sized(
    [
        _file("64x64_diffusion", "adm-imagenet64", "imagenet64"),
        _file("64x64_classifier", "adm-classifier64", "imagenet64"),
        _file("128x128_diffusion", "adm-imagenet128", "imagenet128"),
        _file("128x128_classifier", "adm-classifier128", "imagenet128"),
        _file("256x256_diffusion", "adm-imagenet256", "imagenet256"),
        _file("256x256_diffusion_uncond", "adm-imagenet256-unconditional", "imagenet256"),
        _file("256x256_classifier", "adm-classifier256", "imagenet256"),
        _file("512x512_diffusion", "adm-imagenet512", "imagenet512"),
        _file("512x512_classifier", "adm-classifier512", "imagenet512"),
        _file("64_256_upsampler", "adm-u-64-256", "imagenet256"),
        _file("128_512_upsampler", "adm-u-128-512", "imagenet512"),
        _file("lsun_bedroom", "adm-lsun256", "lsun-bedroom"),
        _file("lsun_cat", "adm-lsun256", "lsun-cat"),
        _file("lsun_horse", "adm-lsun256", "lsun-horse"),
        _file("lsun_horse_nodropout", "adm-lsun256", "lsun-horse"),
    ],
    CONFIGURATIONS,
)

_LINEAR, _COSINE = Discrete(), Discrete(schedule="cosine")


def _unet(file: str, process: Discrete = _LINEAR) -> Part:
    return Part(file=file, process=process, learned_variance=True)


def _guided(side: int, unet: str = "", process: Discrete = _LINEAR) -> Release:
    name = f"adm-{side}x{side}"
    parts = {
        "unet": _unet(unet or f"{name}-diffusion", process),
        "classifier": Part(file=f"{name}-classifier", process=process),
    }
    return Release(parts=parts, shape=square(side), classes=1000)


def _upsampler(file: str, side: int) -> Release:
    return Release(parts={"unet": _unet(file)}, shape=square(side), classes=1000)


RELEASES = named(
    {
        "shapes-guided": shipped("shapes-pixel").with_parts(classifier=part_of("shapes-classifier")),
        "adm-imagenet64": _guided(64, process=_COSINE),
        "adm-imagenet128": _guided(128),
        "adm-imagenet256": _guided(256),
        "adm-imagenet512": _guided(512),
        "adm-imagenet256-unconditional": _guided(256, "adm-256x256-diffusion-uncond"),
        "adm-imagenet256-pair": Release(
            parts={"unet": _unet("adm-256x256-diffusion"), "unconditional": _unet("adm-256x256-diffusion-uncond")},
            shape=square(256),
            classes=1000,
        ),
        "adm-u-256": _upsampler("adm-64-256-upsampler", 256),
        "adm-u-512": _upsampler("adm-128-512-upsampler", 512),
        **{
            f"adm-{data}": Release(parts={"unet": _unet(f"adm-{data}")}, shape=square(256))
            for data in ("lsun-bedroom", "lsun-cat", "lsun-horse")
        },
    }
)

_TABLE_5 = "Dhariwal and Nichol 2021 Tables 4 and 5; openai/guided-diffusion README.md"
_ROW = {"arxiv": "2105.05233", "steps": "{steps}"}
_ROWS = (
    {**_ROW, "system": "ADM", "guidance": "none", "variant": "dropout*", "when": {"scale": 0.0}},
    {**_ROW, "system": "ADM", "guidance": "none", "when": {"scale": 0.0}},
    {**_ROW, "system": "ADM-G", "guidance": "classifier", "guidance_scale": "{scale}"},
)


def _preset(data: str, scale: float, steps: int) -> Preset:
    return Preset(
        release=RELEASES[f"adm-{data}"],
        arguments={"scale": scale, "steps": steps, "sampler": "ancestral"},
        num_samples=50_000,
        protocol="adm",
        source=_TABLE_5,
        rows=_ROWS,
    )


GUIDED = {
    "shapes": Preset(release=RELEASES["shapes-guided"]),
    "imagenet64": _preset("imagenet64", 0.0, 250),
    "imagenet128": _preset("imagenet128", 0.5, 250),
    "imagenet256": _preset("imagenet256", 1.0, 250),
    "imagenet512": _preset("imagenet512", 4.0, 250),
    "lsun-bedroom": _preset("lsun-bedroom", 0.0, 1000),
    "lsun-cat": _preset("lsun-cat", 0.0, 1000),
    "lsun-horse": _preset("lsun-horse", 0.0, 1000),
}

_UPSAMPLED = {"arxiv": "2105.05233", "system": "ADM-G,U"}
_ENLARGED = {
    "arxiv": "2105.05233",
    "system": "ADM-U",
    "variant": "{steps}+{enlarging_steps} steps*",
    "when": {"scale": 0.0},
}
UPSAMPLED = {
    "imagenet256": Preset(
        release=RELEASES["adm-u-256"],
        base=RELEASES["adm-imagenet64"],
        arguments={"scale": 1.0, "steps": 250},
        num_samples=50_000,
        protocol="adm",
        source="Dhariwal and Nichol 2021 Tables 5 and 14",
        rows=(
            _ENLARGED,
            # The one row of that resolution names the scale first; the number of steps is in its variant.
            {**_UPSAMPLED, "guidance_scale": "{scale}", "when": {"steps": 250, "enlarging_steps": 250}},
        ),
    ),
    "imagenet512": Preset(
        release=RELEASES["adm-u-512"],
        base=RELEASES["adm-imagenet128"],
        arguments={"scale": 0.5, "steps": 250},
        num_samples=50_000,
        protocol="adm",
        source="Dhariwal and Nichol 2021 Table 5",
        differs=("the paper does not print the scale of the small samples; this is that of its row at 128 pixels",),
        rows=(_ENLARGED, {**_UPSAMPLED, "variant": "{steps}+{enlarging_steps} steps*"}),
    ),
}

load_guided = loader(adm_g, GUIDED)
load_upsampled = with_presets(adm_u, UPSAMPLED)
