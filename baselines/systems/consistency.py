"""Consistency models (Song et al. 2023): one network evaluation from any noise level to the clean image."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from baselines.conditions import Given
from baselines.denoisers import Condition, Denoiser, Prediction, rescaled
from baselines.files.cards import release as shipped
from baselines.files.dialects.guided import training
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.guidance import clip as limit
from baselines.guidance import on_x0
from baselines.noise import Noise
from baselines.records import Configuration, Part, Preset, PublishedFile, Release, named, sized, square
from baselines.sampling import walk
from baselines.schedules import EDM, Grid, Level, karras_ratios, ratio_grid
from baselines.steps import Step
from baselines.system import System, conditional, scaled


def consistency(weights: Weights, *, via: str = "2.0") -> System:
    """Multistep consistency sampling; one evaluation more than there are noise levels in between.

    Args:
        via: noise levels sigma that are visited after the first, largest one, descending, with commas: "2.0" is two
            evaluations, "" is one.

    Source:
        Song et al. 2023 Alg. 1; openai/consistency_models. Differs: the network of `shapes` is that of a
        variance-preserving process, which is EDM's for data of unit variance, and its smallest noise is that of
        timestep 0.
    """
    low, high = weights.trained.lowest, min(weights.trained.highest, 80.0)
    data_std = 0.5 if weights.release.parts["unet"].kind == "edm" else 1.0
    try:
        between = [float(level) for level in via.split(",") if level.strip()]
    except ValueError:
        between = [math.nan]
    if not all(high > a > b > low for a, b in zip([high * (1 - 1e-12), *between], [*between, 2 * low], strict=True)):
        raise ValueError(f"via holds numbers that fall from {high:g} to {low:.4g}, such as '2.0'; got {via!r}.")

    def build(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        denoise, condition = conditional(weights, given)
        return on_x0(consistent(rescaled(denoise, weights.trained), low, data_std), limit), condition

    grid = ratio_grid(EDM, [high, *between])
    step = noising(low)
    return System(weights=weights, sampler=walk(lambda: step, grid), build=build, start=scaled(high))


def consistent(denoise: Denoiser, low: float, data_std: float = 1.0) -> Denoiser:
    """The consistency function of a network in the place of its denoiser, on levels with alpha = 1.

    Args:
        denoise: EDM's denoiser of the network, for data of this standard deviation.
        low: sigma on which the function is the identity.

    Source: Song et al. 2023 eq. 5, with c_skip and c_out of App. C.
    """

    def predict(x: Tensor, p: Level, condition: Condition) -> Prediction:
        believed, total = denoise(x, p, condition), p.sigma**2 + data_std**2
        # The network's own output: D = d^2 / (s^2 + d^2) x + s d / sqrt(s^2 + d^2) F is EDM's denoiser.
        output = (believed.x0 - data_std**2 / total * x) * math.sqrt(total) / (p.sigma * data_std)
        skip = data_std**2 / ((p.sigma - low) ** 2 + data_std**2)
        out = data_std * (p.sigma - low) / math.sqrt(total)
        x0 = skip * x + out * output  # eq. 5
        return replace(believed, x0=x0, eps=(x - x0) / p.sigma)

    return predict


def noising(low: float) -> Step:
    """To the end of the trajectory, and up again to the next level by fresh noise. Source: Song et al. 2023 Alg. 1."""

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        x0, q = denoise(x, grid[i], condition).x0, grid[i + 1]
        return x0 if q.sigma == 0 else x0 + math.sqrt(q.sigma**2 - low**2) * noise(i + 1, x)

    return step


_SOURCE = "openai/consistency_models scripts/launch.sh"
_FLAGS = {
    "attention_resolutions": "32,16,8", "num_head_channels": 64, "resblock_updown": True, "weight_schedule": "uniform",
    "sigma_min": 0.002, "sigma_max": 80.0,
}  # fmt: skip
CONFIGURATIONS = {
    "consistency-imagenet64": Configuration(
        arguments=_FLAGS | {"image_size": 64, "num_channels": 192, "num_res_blocks": 3, "class_cond": True},
        parameters=295.90,
        source=_SOURCE,
    ),
    "consistency-lsun256": Configuration(
        arguments=_FLAGS
        | {"image_size": 256, "num_channels": 256, "num_res_blocks": 2, "use_scale_shift_norm": False},
        parameters=526.30,
        source=_SOURCE,
    ),
}  # fmt: skip

_FILES = (
    ("edm_imagenet64_ema", "consistency-imagenet64", "imagenet64"),
    ("cd_imagenet64_l2", "consistency-imagenet64", "imagenet64"),
    ("cd_imagenet64_lpips", "consistency-imagenet64", "imagenet64"),
    ("ct_imagenet64", "consistency-imagenet64", "imagenet64"),
    ("edm_bedroom256_ema", "consistency-lsun256", "lsun-bedroom"),
    ("cd_bedroom256_l2", "consistency-lsun256", "lsun-bedroom"),
    ("cd_bedroom256_lpips", "consistency-lsun256", "lsun-bedroom"),
    ("ct_bedroom256", "consistency-lsun256", "lsun-bedroom"),
    ("edm_cat256_ema", "consistency-lsun256", "lsun-cat"),
    ("cd_cat256_l2", "consistency-lsun256", "lsun-cat"),
    ("cd_cat256_lpips", "consistency-lsun256", "lsun-cat"),
    ("ct_cat256", "consistency-lsun256", "lsun-cat"),
)
FILES = sized(
    [
        PublishedFile(
            name=file.replace("_", "-"),
            url=f"https://openaipublic.blob.core.windows.net/consistency/{file}.pt",
            networks={"unet": configuration},
            dataset=data,
            licence="MIT",
            weights="average",
            source="openai/consistency_models README.md",
        )
        for file, configuration, data in _FILES
    ],
    CONFIGURATIONS,
)


def _release(file: str, configuration: str) -> Release:
    told = training(CONFIGURATIONS[configuration].arguments)
    assert told.side is not None
    return Release(
        parts={"unet": Part(file=file.replace("_", "-"), process=told.process, kind=told.kind)},
        shape=square(told.side),
        classes=1000 if configuration.endswith("imagenet64") else 0,
    )


RELEASES = named({file.replace("_", "-"): _release(file, configuration) for file, configuration, _ in _FILES})


def _sigma(index: int, steps: int) -> str:
    """The noise level of an index of `--ts` among that many `--steps`, as text."""
    return str(karras_ratios(steps)[index])


_ROW = {"arxiv": "2303.01469", "system": "CD (LPIPS)"}
_ROWS = ({**_ROW, "steps": 1, "when": {"via": ""}}, {**_ROW, "steps": 2})
_PRINTED: dict[str, Any] = {
    "num_samples": 50_000,
    "protocol": "adm",
    "source": "Song et al. 2023 Tables 1 and 2; openai/consistency_models scripts/launch.sh",
}
_SEARCHED = "the level between was found by the authors' search for the lowest FID"
PRESETS = {
    "shapes": Preset(release=shipped("shapes-consistency")),
    "imagenet64": Preset(
        release=RELEASES["cd-imagenet64-lpips"],
        arguments={"via": _sigma(22, 40)},
        differs=(_SEARCHED,),
        rows=_ROWS,
        **_PRINTED,
    ),
    "lsun-bedroom": Preset(
        release=RELEASES["cd-bedroom256-lpips"],
        arguments={"via": _sigma(17, 40)},
        differs=(_SEARCHED,),
        rows=_ROWS,
        **_PRINTED,
    ),
}

load = loader(consistency, PRESETS, rows={"cifar10": _ROWS, "lsun-cat": _ROWS})
