"""Score-based generative modelling through stochastic differential equations (Song et al. 2021)."""

from __future__ import annotations

from typing import Any, Literal

from baselines.files.cards import release as shipped
from baselines.files.dialects import score_sde as score_sde_arguments
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.langevin import alternating, euler_maruyama, langevin, reverse_diffusion
from baselines.ode import probability_flow
from baselines.processes import (
    Continuous,
    SubVariancePreserving,
    VarianceExploding,
    VarianceExplodingDiscrete,
    VariancePreserving,
    time_grid,
)
from baselines.ranges import at_least
from baselines.records import Configuration, Part, Preset, PublishedFile, Release, named, sized, square
from baselines.sampling import Sampler, walk
from baselines.schedules import Discrete, Level, subsequence
from baselines.steps import Step, ddpm
from baselines.system import FLOW, System, elsewhere, scaled

PROCESSES: dict[str, type[VarianceExploding | VariancePreserving]] = {
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
    # The sigmas of a network that was trained on this process are those of its data set.
    same = (PROCESSES[process], *([VarianceExplodingDiscrete] if process == "ve" else []))
    made: Any = weights.trained if type(weights.trained) in same else PROCESSES[process]()
    grid = _chain(weights.trained, steps) if process == "vp" and sampler in _OF_CHAINS else None
    end, first = end_of(made, weights), grid[0] if grid else made.level(1.0)
    return System(
        weights=weights,
        sampler=_sampler(made, sampler, steps, snr, tolerance, end, grid),
        build=elsewhere(clip=clip),
        start=scaled(first.sigma),
        bits=FLOW,  # eq. 39
        measured="on its own chain" if grid else "",
    )


_OF_CHAINS = ("ancestral", "reverse-diffusion", "pc")
"""The samplers that are formulas of a chain in discrete time."""


def _chain(trained: Any, steps: int) -> list[Level] | None:
    """The levels of a network that was trained on the chain whose limit VP is, None for every other network.

    A walk of more steps than the chain has is one over its limit.

    Source: yang-song/score_sde_pytorch `sde_lib.py:VPSDE.discretize`, `models/utils.py:get_score_fn`.
    """
    if not isinstance(trained, Discrete) or trained != Discrete(
        steps=trained.steps, low=0.1 / trained.steps, high=20 / trained.steps
    ):
        return None
    if not 1 <= steps <= trained.steps:
        return None
    return trained.grid(subsequence(steps, trained.steps, "respaced"))


def end_of(process: Continuous, weights: Weights) -> float:
    """The time at which a walk ends: that of the paper, or the first one of which the network was told in training.

    The paper's are 1e-5 where variance explodes, and 1e-3.
    """
    papers = 1e-5 if isinstance(process, VarianceExploding) else 1e-3
    return max(papers, process.time(max(process.level(papers).ratio, weights.trained.lowest)))


def _sampler(
    process: Continuous, name: str, steps: int, snr: float, tolerance: float, end: float, grid: list[Level] | None
) -> Sampler:
    at_least(1, steps=steps)
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
    return walk(lambda: made[name], grid or time_grid(process, steps, end=end))


def _configuration(name: str, sde: str, millions: float, *, continuous: bool = True, **model: Any) -> Configuration:
    """What all configurations of CIFAR-10 have in common, and what this one says otherwise."""
    plus = sde != "vesde"  # DDPM++: no filter, no copies of the image, timesteps, centered images
    arguments = {
        "model": {
            "name": "ncsnpp", "nf": 128, "ch_mult": [1, 2, 2, 2], "attn_resolutions": [16], "skip_rescale": True,
            "resblock_type": "biggan", "fir": not plus, "progressive_input": "none" if plus else "residual",
            "embedding_type": "positional" if plus or not continuous else "fourier", "scale_by_sigma": not plus,
            **model,
        },
        "data": {"image_size": 32, "centered": plus},
        "training": {"sde": sde, "continuous": continuous},
    }  # fmt: skip
    return Configuration(
        arguments=arguments, parameters=millions, source=f"yang-song/score_sde_pytorch configs/{name}.py"
    )


CONFIGURATIONS = {
    "ncsnpp-discrete-cifar10": _configuration(
        "ve/cifar10_ncsnpp", "vesde", 62.69, continuous=False, num_res_blocks=4
    ),
    "ddpmpp-discrete-cifar10": _configuration(
        "vp/cifar10_ddpmpp", "vpsde", 61.80, continuous=False, num_res_blocks=4
    ),
    "ncsnpp-cifar10": _configuration("ve/cifar10_ncsnpp_continuous", "vesde", 62.76, num_res_blocks=4),
    "ncsnpp-deep-cifar10": _configuration("ve/cifar10_ncsnpp_deep_continuous", "vesde", 107.59, num_res_blocks=8),
    "ddpmpp-cifar10": _configuration("vp/cifar10_ddpmpp_continuous", "vpsde", 61.80, num_res_blocks=4),
    "ddpmpp-deep-cifar10": _configuration("vp/cifar10_ddpmpp_deep_continuous", "vpsde", 106.63, num_res_blocks=8),
    "ddpmpp-subvp-cifar10": _configuration("subvp/cifar10_ddpmpp_continuous", "subvpsde", 61.80, num_res_blocks=4),
    "ddpmpp-subvp-deep-cifar10": _configuration(
        "subvp/cifar10_ddpmpp_deep_continuous", "subvpsde", 106.63, num_res_blocks=8
    ),
    "ncsnpp-ffhq256": Configuration(
        arguments={
            "model": {
                "name": "ncsnpp", "nf": 128, "ch_mult": [1, 1, 2, 2, 2, 2, 2], "num_res_blocks": 2,
                "attn_resolutions": [16], "progressive": "output_skip", "progressive_input": "input_skip",
                "sigma_max": 348, "num_scales": 2000, "dropout": 0.0,
            },
            "data": {"image_size": 256, "centered": False},
            "training": {"sde": "vesde", "continuous": True},
        },
        parameters=65.57,
        source="yang-song/score_sde_pytorch configs/ve/ffhq_256_ncsnpp_continuous.py",
    ),
}  # fmt: skip

_FOLDERS = "https://drive.google.com/drive/folders/"
_FILES = (
    ("ncsnpp-discrete-cifar10", "1sP4GwvrYiI-sDPTp7sKYzsxJLGVamVMZ", "cifar10"),
    ("ddpmpp-discrete-cifar10", "1zOVj03ZBcq339p5QEKJPh2bBrxR_HOCM", "cifar10"),
    ("ncsnpp-cifar10", "1b0gy_LLgO_DaQBgoWXwlVnL_rcAUgREh", "cifar10"),
    ("ncsnpp-deep-cifar10", "11s6A_xM7qiztdj8AHQWqaIAUSC3I7uX2", "cifar10"),
    ("ddpmpp-cifar10", "1xYjVMx10N9ivQQBIsEoXEeu9nvSGTBrC", "cifar10"),
    ("ddpmpp-deep-cifar10", "1ZMLBiu9j7-rpdTQu8M2LlHAEQq4xRYrj", "cifar10"),
    ("ddpmpp-subvp-cifar10", "1bLgmnEAZnysRZfWt8qN3omGfijJ_B884", "cifar10"),
    ("ddpmpp-subvp-deep-cifar10", "16QGkviGcizSbIPRk37-YksUhlNIna4Ys", "cifar10"),
    ("ncsnpp-ffhq256", "1KG72ZKUCUa8dDcA03hOf1BsnK8kBcdPD", "ffhq"),
)
FILES = sized(
    [
        PublishedFile(
            name=name,
            url=_FOLDERS + folder,
            networks={"unet": name},
            dataset=data,
            licence="Apache-2.0",
            weights="average",
            copies=2,
            source="yang-song/score_sde_pytorch README.md; of two files in a folder the smaller number is that of the "
            "FID, the larger that of the likelihood",
        )
        for name, folder, data in _FILES
    ],
    CONFIGURATIONS,
)


def _release(name: str) -> Release:
    told: Any = score_sde_arguments.training(CONFIGURATIONS[name].arguments)
    return Release(parts={"unet": Part(file=name, process=told.process, kind=told.kind)}, shape=square(told.side))


RELEASES = named({name: _release(name) for name, _, _ in _FILES})

_PAPER = "2011.13456"
_ROWS = (
    {
        "arxiv": _PAPER, "system": "NCSN++",
        "when": {"process": "ve", "sampler": "pc", "weights": "ncsnpp-discrete-cifar10"},
    },
    {
        "arxiv": _PAPER, "system": "DDPM++", "steps": "{steps}",
        "when": {"process": "vp", "sampler": "ancestral", "weights": "ddpmpp-discrete-cifar10"},
    },
    {"arxiv": _PAPER, "system": "NCSN++ cont.", "when": {"process": "ve", "sampler": "pc"}},
    {
        "arxiv": _PAPER, "system": "DDPM++ cont.", "variant": "VP, black-box*",
        "when": {"process": "vp", "sampler": "ode"},
    },
    {
        "arxiv": _PAPER, "system": "DDPM++ cont.", "variant": "sub-VP, black-box*",
        "when": {"process": "sub-vp", "sampler": "ode"},
    },
    {
        "arxiv": _PAPER, "system": "DDPM++ cont.", "variant": "VP, Euler-Maruyama*", "steps": "{steps}",
        "when": {"process": "vp", "sampler": "euler-maruyama"},
    },
    {
        "arxiv": _PAPER, "system": "DDPM++ cont.", "variant": "sub-VP, Euler-Maruyama*", "steps": "{steps}",
        "when": {"process": "sub-vp", "sampler": "euler-maruyama"},
    },
)  # fmt: skip
PRESETS = {
    "shapes": Preset(release=shipped("shapes-pixel")),
    "cifar10": Preset(
        release=RELEASES["ncsnpp-cifar10"],
        num_samples=50_000,
        protocol="tf1",
        quantise="truncate",
        rows=_ROWS,
        differs=("step sizes of the corrector are those of each image, not means over the batch",),
        source="Song et al. 2021 Table 3; yang-song/score_sde_pytorch configs/ve/cifar10_ncsnpp_continuous.py",
    ),
}

load = loader(score_sde, PRESETS)
