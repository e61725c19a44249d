"""Improved diffusion (Nichol and Dhariwal 2021): ancestral sampling with a learned variance, and its networks.

The README's flags are given whole, those of the process too. Where they do not name `rescale_timesteps`, its default
is True: the networks of CIFAR-10 and the unconditional ones of ImageNet are told 0 to 999.75, the others timesteps.
"""

from __future__ import annotations

from typing import Any

from baselines import steps as samplers
from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.records import Configuration, Part, Preset, PublishedFile, Release, named, sized, square
from baselines.sampling import walk
from baselines.schedules import Discrete, subsequence
from baselines.system import FLOW, System, by_chain
from baselines.systems.ddpm import limited


def iddpm(weights: Weights, *, steps: int = 100, spacing: str = "respaced") -> System:
    """Ancestral sampling on few of the trained timesteps, with the variance that the network learned.

    Args:
        steps: number of the process's timesteps that are visited, chosen by `spacing`.

    Source: Nichol and Dhariwal 2021 sec. 3.1 and 4; openai/improved-diffusion. The image is limited to [-1, 1].
    """
    step = samplers.ddpm("learned")  # eq. 15
    grid = weights.process.grid(subsequence(steps, weights.process.steps, spacing))
    used = weights.of(weights.release.without("unconditional"))
    bits = FLOW | {"bound": by_chain(grid, "learned", limited)}  # eq. 4
    return System(weights=used, sampler=walk(lambda: step, grid), build=limited, bits=bits)


_SOURCE = "openai/improved-diffusion README.md, models and hyperparameters; Nichol and Dhariwal 2021"
_COSINE = {
    "num_res_blocks": 3, "learn_sigma": True, "diffusion_steps": 4000, "noise_schedule": "cosine",
    "rescale_timesteps": True,
}  # fmt: skip
CONFIGURATIONS = {
    "iddpm-cifar10": Configuration(
        arguments=_COSINE | {"image_size": 32, "num_channels": 128, "dropout": 0.3}, parameters=52.55, source=_SOURCE
    ),
    "iddpm-imagenet64": Configuration(
        arguments=_COSINE | {"image_size": 64, "num_channels": 128}, parameters=121.06, source=_SOURCE
    ),
    "iddpm-imagenet64-conditional": Configuration(
        arguments=_COSINE
        | {"image_size": 64, "num_channels": 192, "class_cond": True, "rescale_timesteps": False},
        parameters=273.05,
        source=_SOURCE,
    ),
    "iddpm-lsun256": Configuration(
        arguments={
            "image_size": 256, "num_channels": 128, "num_res_blocks": 2, "num_heads": 1, "learn_sigma": True,
            "use_scale_shift_norm": False, "attention_resolutions": "16", "diffusion_steps": 1000,
            "noise_schedule": "linear", "rescale_timesteps": False,
        },
        parameters=113.68,
        source=_SOURCE,
    ),
    "iddpm-imagenet64-256": Configuration(
        arguments={
            "large_size": 256, "small_size": 64, "num_channels": 192, "num_res_blocks": 2, "learn_sigma": True,
            "class_cond": True, "diffusion_steps": 4000, "noise_schedule": "linear", "rescale_timesteps": False,
        },
        parameters=279.79,
        source=_SOURCE + ", upsample_cond_500K",
    ),
}  # fmt: skip

_FILES = (
    ("cifar10_uncond_50M_500K", "iddpm-cifar10", "cifar10"),
    ("cifar10_uncond_vlb_50M_500K", "iddpm-cifar10", "cifar10"),
    ("imagenet64_uncond_100M_1500K", "iddpm-imagenet64", "imagenet64"),
    ("imagenet64_uncond_vlb_100M_1500K", "iddpm-imagenet64", "imagenet64"),
    ("imagenet64_cond_270M_250K", "iddpm-imagenet64-conditional", "imagenet64"),
    ("upsample_cond_500K", "iddpm-imagenet64-256", "imagenet256"),
    ("lsun_uncond_100M_1200K_bs128", "iddpm-lsun256", "lsun-bedroom"),
    ("lsun_uncond_100M_2400K_bs64", "iddpm-lsun256", "lsun-bedroom"),
)
FILES = sized(
    [
        PublishedFile(
            name=f"iddpm-{file.replace('_', '-')}",
            url=f"https://openaipublic.blob.core.windows.net/diffusion/march-2021/{file}.pt",
            networks={"unet": configuration},
            dataset=dataset,
            licence="MIT",
            source="openai/improved-diffusion README.md",
        )
        for file, configuration, dataset in _FILES
    ],
    CONFIGURATIONS,
)


def _part(file: str, *, told: float = 1.0) -> Part:
    process = Discrete(schedule="cosine", steps=4000, low=0.1 / 4000, high=20 / 4000, told=told)
    return Part(file=file, process=process, learned_variance=True)


_RESCALED: Any = {"told": 1000 / 4000}
RELEASES = named(
    {
        "iddpm-cifar10": Release(parts={"unet": _part("iddpm-cifar10-uncond-50M-500K", **_RESCALED)}, shape=square(32)),
        "iddpm-imagenet64": Release(
            parts={
                "unet": _part("iddpm-imagenet64-cond-270M-250K"),
                "unconditional": _part("iddpm-imagenet64-uncond-100M-1500K", **_RESCALED),
            },
            shape=square(64),
            classes=1000,
        ),
    }
)

_ROW = {"arxiv": "2102.09672", "system": "Improved DDPM", "steps": "{steps}"}
_PAPER: dict[str, Any] = {"num_samples": 50_000, "protocol": "tf1", "source": "Nichol and Dhariwal 2021 Tables 1 to 4"}
PRESETS = {
    "shapes": Preset(release=shipped("shapes-pixel")),
    "cifar10": Preset(
        release=RELEASES["iddpm-cifar10"],
        arguments={"steps": 4000},
        rows=({**_ROW, "variant": "L_hybrid, cosine schedule, T=4000*"},),
        **_PAPER,
    ),
    "imagenet64": Preset(
        release=RELEASES["iddpm-imagenet64"],
        arguments={"steps": 250},
        rows=({**_ROW, "variant": "270M params*"},),
        **_PAPER,
    ),
}

load = loader(iddpm, PRESETS)
