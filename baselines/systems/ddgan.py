"""Denoising diffusion GANs (Xiao et al. 2022): four large denoising steps, each of which draws its clean image."""

from __future__ import annotations

from baselines.adversarial import few_ratios, implicit
from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights, network_of
from baselines.networks.unet import UNetConfig
from baselines.records import Preset
from baselines.sampling import walk
from baselines.schedules import ratio_grid
from baselines.steps import ddpm
from baselines.system import System
from baselines.systems.ddpm import limited


def ddgan(weights: Weights, *, steps: int = 4) -> System:
    """Ancestral sampling in few steps with a generator in the place of the denoising network.

    Args:
        steps: as many as the generator was trained for; that of `shapes` is for 4.

    Source:
        Xiao et al. 2022 eq. 4; NVlabs/denoising-diffusion-gan `test_ddgan.py:sample_from_model`. Differs: the generator
        began as a consistency model, which predicts v, and its clean image is limited to [-1, 1] where the original has
        a tanh; generator and discriminator are told classes, and timesteps of the process of `shapes-pixel`.
    """
    if weights.release.name == _NAME and steps != 4:
        raise ValueError(f"The generator of shapes was trained for 4 steps; got steps={steps}.")
    network = network_of(weights.release.parts["unet"], "unet")
    if not isinstance(network, UNetConfig) or network.latent is None:
        raise ValueError("ddgan needs a generator with a latent vector, which these weights are not.")
    grid = ratio_grid(weights.process, few_ratios(steps))
    step = implicit(ddpm("small"), network.latent)  # x0 = G(x_p, z), then the posterior q(x_q | x_p, x0)
    return System(weights=weights, sampler=walk(lambda: step, grid), build=limited)


_NAME = "shapes-adversarial"
_ROW = {"arxiv": "2112.07804", "system": "DDGAN", "steps": "{steps}"}
PRESETS = {
    "shapes": Preset(
        release=shipped(_NAME),
        differs=(
            "The generator starts from the network of shapes-consistency, and the discriminator from the encoder of "
            "shapes-pixel.",
        ),
    )
}

load = loader(ddgan, PRESETS, rows={"cifar10": (_ROW,)})
