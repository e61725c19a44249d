"""Progressive distillation (Salimans and Ho 2022): a network that was taught to do two steps in one, repeatedly."""

from __future__ import annotations

from baselines import steps as samplers
from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.records import Preset
from baselines.sampling import walk
from baselines.schedules import ratio_grid, rho_ratios
from baselines.system import System, scaled
from baselines.systems.ddpm import limited

SHIPPED = (4, 8)
"""Numbers of steps for which there is a network of `shapes`."""


def progressive_distillation(weights: Weights, *, steps: int = 4) -> System:
    """DDIM with a network that was distilled for exactly this number of steps.

    Args:
        steps: as many as the network was taught. There are networks of `shapes` for 4 and 8.

    Source:
        Salimans and Ho 2022 Alg. 2; google-research/diffusion_distillation. Differs: levels are spread as EDM's, and
        the teacher predicts v.
    """
    name = weights.release.name
    if name.startswith(_NAME):
        if steps not in SHIPPED:
            raise ValueError(f"There are networks for {' and '.join(map(str, SHIPPED))} steps; got steps={steps}.")
        weights = weights.of(shipped(f"{_NAME}{steps}"))
    process = weights.process
    # The last step starts at 1 / steps of the way and ends on the clean image, so `low` itself is never visited.
    shares = [i / steps for i in range(steps)]
    grid = ratio_grid(process, rho_ratios(shares, low=process.lowest, high=min(process.highest, 80.0)))
    step = samplers.ddim(0.0)  # eq. 8
    return System(weights=weights, sampler=walk(lambda: step, grid), build=limited, start=scaled(grid[0].sigma))


_NAME = "shapes-progressive-"
_ROW = {"arxiv": "2303.01469", "system": "PD", "steps": "{steps}"}
PRESETS = {"shapes": Preset(release=shipped(f"{_NAME}4"))}

load = loader(progressive_distillation, PRESETS, rows={"cifar10": (_ROW,)})
