"""Latent score-based generative models (Vahdat et al. 2021): a prior of latents, trained with its autoencoder."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from baselines.conditions import Given
from baselines.denoisers import Condition, Denoiser, rescaled
from baselines.files.cards import description, shipped
from baselines.files.cards import release as shipped_release
from baselines.files.latent_models import of_lsgm
from baselines.files.loading import loader
from baselines.files.weights import Weights, network_of
from baselines.joint import mixed
from baselines.networks.ncsnpp import NCSNppConfig
from baselines.noise import Noise
from baselines.ode import log_likelihood, probability_flow
from baselines.processes import Geometric, OfTime, VariancePreserving
from baselines.records import Configuration, Preset, PublishedFile, named, sized
from baselines.system import System, conditional, scaled


def lsgm(weights: Weights, *, tolerance: float = 1e-5) -> System:
    """The probability-flow ODE of a mixture of a normal prior and a learned one, in the space of latents.

    Args:
        tolerance: of the ODE's solver, relative and absolute.

    Source:
        Vahdat et al. 2021 eq. 10 and App. G.3; NVlabs/LSGM `diffusion_continuous.py:sample_model_ode`, with which the
        authors' networks agree. Differs: the solver's variable is the latent over alpha, and its steps are those of
        each image. On `shapes`, both networks began as those of latent diffusion; the prior predicts v and sees
        captions; the walk ends where the prior was first trained, with the clean latent that it believes in.
    """
    network = network_of(weights.release.parts["unet"], "unet")
    if isinstance(network, NCSNppConfig) and network.mixed:
        return _authors(weights, tolerance)
    file = weights.release.parts["unet"].file
    mixture = description(file).get("mixture") if shipped(file) else None
    if mixture is None:
        raise ValueError(
            "lsgm needs a prior in a mixture with a normal one, of the authors' files or this project's; got "
            f"{file!r}, which ldm samples."
        )
    process, trained = VariancePreserving(), weights.process

    def build(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        denoise, condition = conditional(weights, given)
        share = torch.tensor(mixture, device=weights.device).view(-1, 1, 1)
        return mixed(rescaled(denoise, trained), share), condition  # eq. 10

    high, low = process.level(1.0), trained.lowest
    flow = probability_flow(process, high=high.ratio, low=low, rtol=tolerance, atol=tolerance)
    return System(weights=weights, sampler=flow, build=build, start=scaled(high.sigma), measured=str(mixture))


_END = 1e-6
"""The time at which the authors' walks end. Source: NVlabs/LSGM README.md, `--ode_eps` of CIFAR-10."""


def _authors(weights: Weights, tolerance: float) -> System:
    """The flow of the authors' prior, from N(0, 1) at time 1."""
    process = weights.trained
    if not isinstance(process, OfTime | Geometric):
        raise ValueError(f"lsgm walks the processes of its authors; got one of {type(process).__name__}.")

    def build(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        denoise, condition = conditional(weights, given)
        return mixed(denoise, weights.network("unet").mixing.float().sigmoid()), condition  # eq. 10

    high, low = process.level(1.0).ratio, process.level(_END).ratio
    flow = probability_flow(process, high=high, low=low, rtol=tolerance, atol=tolerance, denoised=False)

    def bits(weights: Weights, given: Given, images: Tensor, noise: Noise, tolerance: float) -> Tensor:
        """The bound with one draw of latents, whose density under the prior is that of its flow."""
        stage, x = weights.network("first_stage"), images.float() / 127.5 - 1
        like = torch.empty(len(x), *weights.release.state, device=x.device)
        z, posterior, said = stage.encode(x, noise(1, like))
        denoise, condition = build(weights, given)
        prior, _ = log_likelihood(
            denoise, process, z, noise, condition, low=low, high=high, rtol=tolerance, atol=tolerance
        )
        log_p = stage.log_probability(said, x).cpu() + prior - posterior.cpu()  # eq. 5
        return -log_p / (x[0].numel() * math.log(2.0))

    return System(weights=weights, sampler=flow, build=build, bits={"bound": bits})


def _arguments(**own: Any) -> dict[str, Any]:
    return {
        "dataset": "cifar10", "num_latent_scales": 1, "num_preprocess_blocks": 1, "num_postprocess_blocks": 1,
        "channel_mult": [1, 2], "arch_instance": "res_bnswish", "use_se": True, "decoder_dist": "dml",
        "dae_arch": "ncsnpp", "embedding_scale": 1000.0, "num_channels_dae": 512, "num_scales_dae": 3,
        "num_cell_per_scale_dae": 8, "fir": True, "dropout": 0.2, **own,
    }  # fmt: skip


_FID = _arguments(
    num_channels_enc=128, num_channels_dec=128, num_preprocess_cells=2, num_postprocess_cells=2,
    num_cell_per_cond_enc=2, num_cell_per_cond_dec=2, num_latent_per_group=9, num_groups_per_scale=20, num_nf=0,
    sde_type="vpsde", beta_start=0.1, beta_end=20.0, sigma2_0=0.0,
)  # fmt: skip
_NLL = _arguments(
    num_channels_enc=256, num_channels_dec=256, num_preprocess_cells=3, num_postprocess_cells=3,
    num_cell_per_cond_enc=3, num_cell_per_cond_dec=3, num_latent_per_group=45, num_groups_per_scale=4, num_nf=2,
    sde_type="geometric_sde", sigma2_min=3e-5, sigma2_max=0.999, sigma2_0=3e-5,
)  # fmt: skip
_MODELS = (
    ("lsgm-cifar10-fid", "LSGM (best FID)", _FID, 375.56, 100.81),
    ("lsgm-cifar10-balanced", "LSGM (balanced)", _FID, 375.56, 100.81),
    ("lsgm-cifar10-nll", "LSGM (best NLL)", _NLL, 375.56, 130.58),
)
"""Name, what the authors call it, arguments, and millions of parameters of the prior and of the autoencoder."""
_ENDINGS = {"dae": "", "vae": "-autoencoder"}
CONFIGURATIONS = {
    name + _ENDINGS[part]: Configuration(
        arguments={**arguments, "network": part},
        parameters=millions,
        source=f"NVlabs/LSGM README.md, {told}"
        + (", with norms and lengths of filters folded into weights" if part == "vae" else ""),
    )
    for name, told, arguments, prior, autoencoder in _MODELS
    for part, millions in (("dae", prior), ("vae", autoencoder))
}
FILES = sized(
    [
        PublishedFile(
            name=name,
            url=f"https://drive.google.com/drive/folders/16kbwAeDZyCu1YRCXAXeh-KRyq8M09Rb0#{name}",
            networks={"unet": name, "first_stage": name + _ENDINGS["vae"]},
            dataset="cifar10",
            licence="NVIDIA Source Code License for LSGM (non-commercial)",
            weights="average",
            copies=2,
            source=f"NVlabs/LSGM README.md; checkpoint.pt, or checkpoint_fid.pt or checkpoint_nll.pt, of {told}",
        )
        for name, told, *_ in _MODELS
    ],
    CONFIGURATIONS,
)
RELEASES = named({name: of_lsgm(name, arguments) for name, _, arguments, *_ in _MODELS})

_ROW = {"arxiv": "2106.05931", "system": "LSGM (best FID)", "variant": "probability-flow ODE*"}
_ROWS = (
    {"arxiv": "2106.05931", "system": "LSGM (balanced)", "when": {"weights": "lsgm-cifar10-balanced"}},
    {"arxiv": "2106.05931", "system": "LSGM (best NLL)", "when": {"weights": "lsgm-cifar10-nll"}},
    _ROW,
    {"arxiv": "2106.05931", "system": "LSGM (best FID)", "variant": "model chosen for FID"},
)
PRESETS = {
    "shapes": Preset(
        release=shipped_release("shapes-lsgm"),
        differs=("The autoencoder and the prior begin as those of latent diffusion, and the prior sees captions.",),
    ),
    "cifar10": Preset(
        release=RELEASES["lsgm-cifar10-fid"],
        num_samples=50_000,
        protocol="pytorch-fid",
        differs=("the authors' features are of images that are not rounded to 8 bits",),
        rows=_ROWS,
        source="Vahdat et al. 2021 Table 2; NVlabs/LSGM README.md",
    ),
}

load = loader(lsgm, PRESETS, latents=True)
