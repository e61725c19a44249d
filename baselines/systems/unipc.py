"""UniPC (Zhao et al. 2023): a predictor and a corrector that share their evaluations."""

from __future__ import annotations

from typing import Literal

from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.multistep import unipc as predictor_corrector
from baselines.records import Preset
from baselines.sampling import walk
from baselines.system import FLOW, System, starting
from baselines.systems.ddpm import limited
from baselines.systems.dpm_solver import Spacing, levels_of


def unipc(
    weights: Weights,
    *,
    steps: int = 10,
    order: int = 2,
    variant: Literal["bh1", "bh2"] = "bh1",
    spacing: Spacing = "log-snr",
) -> System:
    """The unified predictor and corrector in x0: one evaluation a step.

    Args:
        steps: levels that are visited.
        order: of the predictor. The corrector has one more. The authors take 2 with guidance and 3 without.
        variant: B(h) = h, "bh1", the default of the authors' code, or e^h - 1, "bh2".
        spacing: as of `dpm_solver`. The paper's is "log-snr".

    Source: Zhao et al. 2023 Alg. 5 to 8; wl-zhao/UniPC. The predicted image is limited to [-1, 1].
    """
    grid = levels_of(weights, steps, spacing)
    sampler = walk(lambda: predictor_corrector(order, variant), grid)
    return System(weights=weights, sampler=sampler, build=limited, start=starting(grid[0]), bits=FLOW)


PRESETS = {"shapes": Preset(release=shipped("shapes-pixel"))}

load = loader(unipc, PRESETS)
