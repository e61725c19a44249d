"""Score-based generative modelling through stochastic differential equations (Song et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.langevin import alternating, euler_maruyama, langevin, reverse_diffusion
from baselines.ode import probability_flow
from baselines.processes import (
    Continuous,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
    time_grid,
)
from baselines.records import Preset
from baselines.sampling import Sampler, walk
from baselines.steps import Step, ddpm
from baselines.system import FLOW, System, elsewhere, scaled

PROCESSES: dict[str, Callable[[], Continuous]] = {
    "ve": VarianceExploding,
    "vp": VariancePreserving,
    "sub-vp": SubVariancePreserving,
}


def score_sde(
    weights: Weights,
    *,
    process: Literal["ve", "vp", "sub-vp"] = "ve",
    sampler: Literal["pc", "euler-maruyama", "reverse-diffusion", "ancestral", "ode"] = "pc",
    steps: int = 1000,
    snr: float = 0.16,
    tolerance: float = 1e-5,
    clip: bool = False,
) -> System:
    """Samplers of the reverse equation of three processes, and the probability-flow ODE, on one network.

    Args:
        process: whose levels are walked. The network is brought to them.
        sampler: "pc" alternates a Langevin corrector and the reverse-diffusion predictor, two evaluations a step; "ode"
            takes as many as `tolerance` asks for.
        steps: of every sampler but "ode".
        snr: of the corrector. The paper's is 0.16 for CIFAR-10.
        tolerance: of the ODE's solver, relative and absolute.
        clip: limit the predicted image to [-1, 1], which the original does not.

    Source:
        Song et al. 2021 Alg. 1 to 5 and App. D; yang-song/score_sde_pytorch. Differs: step sizes of the corrector and
        of the solver are those of each image; a walk ends where the network was trained, see `end_of`.
    """
    if process not in PROCESSES:
        raise ValueError(f"process is {', '.join(PROCESSES)}; got {process!r}.")
    made = PROCESSES[process]()
    end, first = end_of(made, weights), made.level(1.0)
    return System(
        weights=weights,
        sampler=_sampler(made, sampler, steps, snr, tolerance, end),
        build=elsewhere(clip=clip),
        start=scaled(first.sigma),
        bits=FLOW,  # eq. 39
    )


def end_of(process: Continuous, weights: Weights) -> float:
    """The time at which a walk ends: that of the paper, or the first one of which the network was told in training.

    The paper's are 1e-5 where variance explodes, and 1e-3.
    """
    papers = 1e-5 if isinstance(process, VarianceExploding) else 1e-3
    return max(papers, process.time(max(process.level(papers).ratio, weights.trained.lowest)))


def _sampler(process: Continuous, name: str, steps: int, snr: float, tolerance: float, end: float) -> Sampler:
    if name == "ode":
        high, low = process.level(1.0).ratio, process.level(end).ratio
        return probability_flow(process, high=high, low=low, rtol=tolerance, atol=tolerance)
    made: dict[str, Step] = {
        "pc": alternating(langevin(snr), reverse_diffusion()),  # Alg. 1
        "euler-maruyama": euler_maruyama(process, width=1 / steps),
        "reverse-diffusion": reverse_diffusion(),
        "ancestral": ddpm("large" if isinstance(process, VariancePreserving) else "small"),
    }
    if name not in made:
        raise ValueError(f"sampler is ode, {', '.join(made)}; got {name!r}.")
    return walk(lambda: made[name], time_grid(process, steps, end=end))


_PAPER = "2011.13456"
_ROWS = (
    {"arxiv": _PAPER, "system": "NCSN++ cont.", "when": {"process": "ve", "sampler": "pc"}},
    {
        "arxiv": _PAPER, "system": "DDPM++ cont.", "variant": "VP, black-box*",
        "when": {"process": "vp", "sampler": "ode"},
    },
    {
        "arxiv": _PAPER, "system": "DDPM++ cont.", "variant": "sub-VP, black-box*",
        "when": {"process": "sub-vp", "sampler": "ode"},
    },
)  # fmt: skip
PRESETS = {"shapes": Preset(release=shipped("shapes-pixel"))}

load = loader(score_sde, PRESETS, rows={"cifar10": _ROWS})
