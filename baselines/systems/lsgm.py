"""Latent score-based generative models (Vahdat et al. 2021): a prior of latents, trained with its autoencoder."""

from __future__ import annotations

import torch

from baselines.conditions import Given
from baselines.denoisers import Condition, Denoiser, rescaled
from baselines.files.cards import description, shipped
from baselines.files.cards import release as shipped_release
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.joint import mixed
from baselines.ode import probability_flow
from baselines.processes import VariancePreserving
from baselines.records import Preset
from baselines.system import System, conditional, scaled


def lsgm(weights: Weights, *, tolerance: float = 1e-5) -> System:
    """The probability-flow ODE of a mixture of a normal prior and a learned one, in the space of latents.

    Args:
        tolerance: of the ODE's solver, relative and absolute.

    Source:
        Vahdat et al. 2021 eq. 10 and App. G.3; NVlabs/LSGM. Differs: both networks began as those of latent diffusion;
        the prior predicts v and sees captions; the walk ends where the prior was first trained, with the clean latent
        that it believes in.
    """
    file = weights.release.parts["unet"].file
    mixture = description(file).get("mixture") if shipped(file) else None
    if mixture is None:
        raise ValueError(f"lsgm needs a prior whose description names its mixture with a normal one; got {file!r}.")
    process, trained = VariancePreserving(), weights.process

    def build(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        denoise, condition = conditional(weights, given)
        share = torch.tensor(mixture, device=weights.device).view(-1, 1, 1)
        return mixed(rescaled(denoise, trained), share), condition  # eq. 10

    high, low = process.level(1.0), trained.lowest
    flow = probability_flow(process, high=high.ratio, low=low, rtol=tolerance, atol=tolerance)
    return System(weights=weights, sampler=flow, build=build, start=scaled(high.sigma), measured=str(mixture))


_ROW = {"arxiv": "2106.05931", "system": "LSGM (best FID)", "variant": "probability-flow ODE*"}
PRESETS = {
    "shapes": Preset(
        release=shipped_release("shapes-lsgm"),
        differs=("The autoencoder and the prior begin as those of latent diffusion, and the prior sees captions.",),
    )
}

load = loader(lsgm, PRESETS, latents=True, rows={"cifar10": (_ROW,)})
