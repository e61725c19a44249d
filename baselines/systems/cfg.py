"""Classifier-free guidance (Ho and Salimans 2022)."""

from __future__ import annotations

from baselines.conditions import Given
from baselines.denoisers import Condition, Denoiser
from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.guidance import classifier_free, on_x0
from baselines.guidance import clip as limit
from baselines.ranges import finite
from baselines.records import Preset
from baselines.sampling import walk
from baselines.schedules import subsequence
from baselines.system import System, told
from baselines.systems import adm, iddpm


def cfg(
    weights: Weights,
    *,
    scale: float = 1.5,
    steps: int = 50,
    sampler: str = "ddim",
    eta: float = 0.0,
    spacing: str = "respaced",
    clip: bool = True,
) -> System:
    """Classifier-free guidance of a class-conditional network that was trained with label dropout.

    Args:
        scale: s of eps_u + s (eps_c - eps_u); 1 is the conditional model and 0 the unconditional one.
            The paper's w is s - 1.
        sampler: "ancestral", with the variance that the network learned, or "ddim", with `eta`.

    Source: Ho and Salimans 2022 Alg. 2. Differs: discrete time, and the variance is learned instead of interpolated.
    """
    finite(scale=scale)
    r = weights.release
    if not r.classes or (r.null is None and "unconditional" not in r.parts):
        raise ValueError(
            "cfg needs a class-conditional network with a null class, or a second, unconditional one; these weights "
            "have neither."
        )
    used = weights if scale != 1 else weights.of(r.without("unconditional"))

    def build(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        condition, null = told(weights, given)
        other = weights.denoiser("unconditional") if "unconditional" in weights.roles else None
        # eq. 6; guided first and clipped after.
        denoise = classifier_free(weights.denoiser(), scale=scale, null=null, unconditional=other)
        return on_x0(denoise, limit) if clip else denoise, condition

    make_step = adm.step_of(sampler, eta, weights)
    grid = weights.process.grid(subsequence(steps, weights.process.steps, spacing))
    return System(weights=used, sampler=walk(make_step, grid), build=build)


_ROW = {"arxiv": "2207.12598", "system": "CFG", "guidance_scale": "{scale}"}
PRESETS = {
    "shapes": Preset(release=shipped("shapes-pixel")),
    "imagenet64": Preset(
        release=iddpm.RELEASES["iddpm-imagenet64"],
        arguments={"scale": 1.1, "steps": 256, "sampler": "ancestral"},
        num_samples=50_000,
        protocol="tf1",
        source="Ho and Salimans 2022 Table 1",
        differs=("the paper's weights were never published: two networks of improved diffusion",),
        # The paper prints three label dropout rates there, and not the number of steps.
        rows=({**_ROW, "variant": "w=*, p_uncond=0.1*"},),
    ),
    "imagenet256": Preset(
        release=adm.RELEASES["adm-imagenet256-pair"],
        arguments={"scale": 1.5, "steps": 250, "sampler": "ancestral"},
        num_samples=50_000,
        protocol="adm",
        source="no paper has this resolution",
        differs=("the paper's weights were never published: two networks of ADM",),
    ),
}

# The paper has numbers at 128 pixels too, and no weights are published there.
_ELSEWHERE = {"imagenet128": ({**_ROW, "steps": "{steps}"}, {**_ROW, "guidance_scale": 1.3, "steps": 256})}

load = loader(cfg, PRESETS, rows=_ELSEWHERE)
