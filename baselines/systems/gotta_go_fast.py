"""Gotta Go Fast when generating data with score-based models (Jolicoeur-Martineau et al. 2021)."""

from __future__ import annotations

from typing import Literal

from baselines.adaptive import gotta_go_fast as adaptive
from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.records import Preset
from baselines.system import System, elsewhere, scaled
from baselines.systems.score_sde import PROCESSES, end_of


def gotta_go_fast(
    weights: Weights, *, process: Literal["ve", "vp"] = "vp", relative: float = 0.05, absolute: float = 0.0078
) -> System:
    """The reverse equation by an adaptive solver of two orders. Every image takes as many steps as it needs.

    Args:
        process: whose reverse equation is solved.
        relative: tolerance relative to the image, 0.01 to 0.5 in the paper.
        absolute: least tolerance; one 8-bit step is 0.0078.

    Source: Jolicoeur-Martineau et al. 2021 Alg. 1, with the differences that `baselines.adaptive` names.
    """
    if process not in ("ve", "vp"):
        raise ValueError(f"process is ve or vp; got {process!r}.")
    made = PROCESSES[process]()
    return System(
        weights=weights,
        sampler=adaptive(made, relative=relative, absolute=absolute, end=end_of(made, weights)),
        build=elsewhere(clip=False),
        start=scaled(made.level(1.0).sigma),
    )


_ROWS = (
    {
        "arxiv": "2105.14080", "system": "DDPM++ (VP)", "variant": "GGF eps_rel={relative}*",
        "when": {"process": "vp"},
    },
    {
        "arxiv": "2105.14080", "system": "NCSN++ (VE)", "variant": "GGF eps_rel={relative}*",
        "when": {"process": "ve"},
    },
)  # fmt: skip
PRESETS = {"shapes": Preset(release=shipped("shapes-pixel"))}

load = loader(gotta_go_fast, PRESETS, rows={"cifar10": _ROWS})
