"""Denoising diffusion implicit models (Song et al. 2021)."""

from __future__ import annotations

from typing import Any

from baselines import steps as samplers
from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.records import Configuration, Preset, PublishedFile, named, sized
from baselines.sampling import walk
from baselines.schedules import subsequence
from baselines.system import FLOW, System, conditional
from baselines.systems import ddpm
from baselines.systems.ddpm import limited


def ddim(weights: Weights, *, steps: int = 50, eta: float = 0.0, spacing: str = "uniform", clip: bool = True) -> System:
    """Denoising diffusion implicit models.

    Args:
        eta: 0 is deterministic given the starting noise, 1 is ancestral with the small variance.
        spacing: "uniform" or "quadratic" in the paper; others in `baselines.schedules.subsequence`. In as few steps as
            10, "respaced" is far better, and the system `dpm-solver` better still (docs/zoo.md).
        clip: limit the predicted image to [-1, 1] and derive the noise from it, as guided-diffusion
            does and the paper's own code does not.

    Source: Song et al. 2021 eq. 12; ermongroup/ddim.
    """
    step = samplers.ddim(eta)  # eq. 12
    grid = weights.process.grid(subsequence(steps, weights.process.steps, spacing))
    return System(weights=weights, sampler=walk(lambda: step, grid), build=limited if clip else conditional, bits=FLOW)


CONFIGURATIONS = {
    "ddim-celeba64": Configuration(
        arguments=ddpm.arguments(64, [1, 2, 2, 2, 4], dropout=0.1),
        parameters=78.70,
        source="ermongroup/ddim configs/celeba.yml; Song et al. 2021 App. D",
    ),
}

FILES = sized(
    [
        PublishedFile(
            name="ddim-celeba64",
            url="https://drive.google.com/file/d/1R_H-fJYXSH79wfSKs9D-fuKQVan5L-GR/view",
            networks={"unet": "ddim-celeba64"},
            dataset="celeba64",
            licence="MIT",
            weights="average",
            source="ermongroup/ddim README.md",
        )
    ],
    CONFIGURATIONS,
)

RELEASES = named({"ddim-celeba64": ddpm.release("ddim-celeba64", 64)})

_ROW = {"arxiv": "2010.02502", "system": "DDIM", "steps": "{steps}"}
# Inception scores, which the authors do not print, and numbers of other networks.
_MEASURED_LATER = {**_ROW, "arxiv": "2202.05830", "variant": "quadratic stride*", "when": {"eta": 0.0}}
_PAPER: dict[str, Any] = {
    "num_samples": 50_000,
    "protocol": "tf1",
    "rows": (
        {**_ROW, "variant": "eta={eta} (*"},
        {**_ROW, "variant": "eta={eta},*"},
        _MEASURED_LATER,
    ),
}


PRESETS = {
    "shapes": Preset(release=shipped("shapes-pixel")),
    "cifar10": Preset(
        release=ddpm.RELEASES["ddpm-cifar10"],
        arguments={"steps": 50, "spacing": "quadratic", "clip": False},
        source="Song et al. 2021 Table 1; ermongroup/ddim",
        **_PAPER,
    ),
    **{
        data: Preset(
            release=release,
            arguments={"steps": 50, "spacing": "uniform", "clip": False},
            source="Song et al. 2021 Tables 1 and 3; ermongroup/ddim",
            **_PAPER,
        )
        for data, release in (
            ("celeba", RELEASES["ddim-celeba64"]),
            ("lsun-bedroom", ddpm.RELEASES["ddpm-lsun-bedroom"]),
            ("lsun-church", ddpm.RELEASES["ddpm-lsun-church"]),
        )
    },
}

load = loader(ddim, PRESETS, rows={"imagenet64": (_MEASURED_LATER,)})
