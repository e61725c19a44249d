"""Improved diffusion (Nichol and Dhariwal 2021): its networks, which `ddpm(variance='learned')` and `ddim` sample.

The README's flags are given whole, those of the process too. Where they do not name `rescale_timesteps`, its default
is True: the networks of CIFAR-10 and the unconditional ones of ImageNet are told 0 to 999.75, the others timesteps.
"""

from __future__ import annotations

from typing import Any

from baselines.records import Configuration, Part, PublishedFile, Release, named, sized, square
from baselines.schedules import Discrete

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
