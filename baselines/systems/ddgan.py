"""Denoising diffusion GANs (Xiao et al. 2022): four large denoising steps, each of which draws its clean image."""

from __future__ import annotations

from typing import Any

from baselines.adversarial import few_ratios, implicit
from baselines.files.cards import release as shipped
from baselines.files.dialects import ddgan as ddgan_arguments
from baselines.files.loading import loader
from baselines.files.weights import Weights, network_of
from baselines.networks.ncsnpp import NCSNppConfig
from baselines.networks.unet import UNetConfig
from baselines.records import Configuration, Part, Preset, PublishedFile, Release, named, sized, square
from baselines.sampling import walk
from baselines.schedules import ratio_grid
from baselines.steps import ddpm
from baselines.system import System, conditional
from baselines.systems.ddpm import limited


def ddgan(weights: Weights, *, steps: int = 4) -> System:
    """Ancestral sampling in few steps with a generator in the place of the denoising network.

    Args:
        steps: as many as the generator was trained for: 4 on `shapes`, CIFAR-10 and LSUN, 2 on CelebA-HQ.

    Source:
        Xiao et al. 2022 eq. 4; NVlabs/denoising-diffusion-gan `test_ddgan.py:sample_from_model`, with which the
        authors' generators agree. Differs, on `shapes`: the generator began as a consistency model, which predicts v,
        and its clean image is limited to [-1, 1] where the original has a tanh; generator and discriminator are told
        classes, and timesteps of the process of `shapes-pixel`.
    """
    network = network_of(weights.release.parts["unet"], "unet")
    if not isinstance(network, UNetConfig | NCSNppConfig) or network.latent is None:
        raise ValueError(
            "ddgan needs a generator with a latent vector, which these weights are not; give such ones as weights=, or "
            "sample these by ddpm."
        )
    process = weights.process
    few = process.schedule == "integrated"
    trained = process.steps if few else 4 if weights.release.name == _NAME else steps
    if steps != trained:
        raise ValueError(f"This generator was trained for {trained} steps; got steps={steps}, give steps={trained}.")
    grid = process.grid(range(steps)) if few else ratio_grid(process, few_ratios(steps))
    step = implicit(ddpm("small"), network.latent)  # x0 = G(x_p, z), then the posterior q(x_q | x_p, x0)
    return System(weights=weights, sampler=walk(lambda: step, grid), build=conditional if few else limited)


_NAME = "shapes-adversarial"


def _configuration(name: str, millions: float, **arguments: Any) -> Configuration:
    return Configuration(
        arguments={"num_channels_dae": 128, "num_res_blocks": 2, "nz": 100, "z_emb_dim": 256, **arguments},
        parameters=millions,
        source=f"NVlabs/denoising-diffusion-gan readme.md, {name}",
    )


_LARGE: dict[str, Any] = {"image_size": 256, "num_channels_dae": 64, "ch_mult": [1, 1, 2, 2, 4, 4], "n_mlp": 3}
CONFIGURATIONS = {
    "ddgan-cifar10": _configuration("CIFAR-10", 48.43, image_size=32, ch_mult=[1, 2, 2, 2], n_mlp=4, num_timesteps=4),
    "ddgan-celebahq": _configuration("CelebA HQ 256", 39.73, **_LARGE, num_timesteps=2),
    "ddgan-lsun-church": _configuration("LSUN Church Outdoor 256", 39.73, **_LARGE, num_timesteps=4),
}

_FILES = (
    ("ddgan-cifar10", "cifar10", "cifar10/ddgan_cifar10_exp1/netG_1200.pth"),
    ("ddgan-celebahq", "celebahq", "celeba_256/ddgan_celebahq_exp1/netG_550.pth"),
)
FILES = sized(
    [
        PublishedFile(
            name=name,
            url=f"https://drive.google.com/drive/folders/1UkzsI0SwBRstMYysRdR76C1XdSv5rQNz#saved_info/dd_gan/{path}",
            networks={"unet": name},
            dataset=data,
            licence="NVIDIA Source Code License for Denoising Diffusion GAN (non-commercial)",
            weights="average",
            source="NVlabs/denoising-diffusion-gan readme.md",
        )
        for name, data, path in _FILES
    ],
    CONFIGURATIONS,
)


def _release(name: str) -> Release:
    told = ddgan_arguments.training(CONFIGURATIONS[name].arguments)
    assert told.side is not None
    return Release(parts={"unet": Part(file=name, process=told.process, kind=told.kind)}, shape=square(told.side))


RELEASES = named({name: _release(name) for name, _, _ in _FILES})

_ROW = {"arxiv": "2112.07804", "system": "DDGAN", "steps": "{steps}"}
_PRINTED: dict[str, Any] = {
    "protocol": "pytorch-fid",
    "differs": ("the authors' code measures images that it saved as JPEG",),
    "rows": (_ROW,),
}
PRESETS = {
    "shapes": Preset(
        release=shipped(_NAME),
        differs=(
            "The generator starts from the network of shapes-consistency, and the discriminator from the encoder of "
            "shapes-pixel.",
        ),
    ),
    "cifar10": Preset(
        release=RELEASES["ddgan-cifar10"],
        num_samples=50_000,
        source="Xiao et al. 2022 Table 1; NVlabs/denoising-diffusion-gan readme.md",
        **_PRINTED,
    ),
    "celebahq": Preset(
        release=RELEASES["ddgan-celebahq"],
        arguments={"steps": 2},
        num_samples=30_000,
        source="Xiao et al. 2022 Table 4; NVlabs/denoising-diffusion-gan readme.md",
        **_PRINTED,
    ),
}

load = loader(ddgan, PRESETS, rows={"lsun-church": (_ROW,)})
