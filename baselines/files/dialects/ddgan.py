"""Denoising diffusion GANs: the arguments of the command line of NVlabs/denoising-diffusion-gan."""

from __future__ import annotations

from typing import Any

from baselines.files.dialects.common import (
    Architecture,
    Arguments,
    ConfigurationError,
    Training,
    checked,
    factors,
    numbers,
)
from baselines.networks.ncsnpp import NCSNppConfig
from baselines.schedules import Discrete

_DEFAULTS: dict[str, Any] = {
    "image_size": 32, "num_channels": 3, "num_channels_dae": 128, "ch_mult": None, "num_res_blocks": 2,
    "attn_resolutions": (16,), "dropout": 0.0, "fir": True, "skip_rescale": True, "resblock_type": "biggan",
    "progressive": "none", "progressive_input": "residual", "progressive_combine": "sum", "not_use_tanh": False,
    "nz": 100, "z_emb_dim": 256, "n_mlp": 3, "num_timesteps": 4, "beta_min": 0.1, "beta_max": 20.0,
}  # fmt: skip
"""test_ddgan.py and train_ddgan.py, which have the same."""
_FIXED: dict[str, Any] = {
    "centered": True, "conditional": True, "use_geometric": False, "embedding_type": "positional",
    "fir_kernel": [1, 3, 3, 1],
}  # fmt: skip
_OF_SCRIPTS = (
    "seed", "resume", "exp", "dataset", "real_img_dir", "t_emb_dim", "batch_size", "num_epoch", "ngf", "lr_g", "lr_d",
    "beta1", "beta2", "no_lr_decay", "use_ema", "ema_decay", "r1_gamma", "lazy_reg", "save_content",
    "save_content_every", "save_ckpt_every", "num_proc_node", "num_process_per_node", "node_rank", "local_rank",
    "global_rank", "world_size", "master_address", "epoch_id", "compute_fid", "resamp_with_conv", "fourier_scale",
)  # fmt: skip
_CHOICES = {
    "resblock_type": ("biggan", "biggan_oneadagn"), "progressive": ("none", "output_skip"),
    "progressive_input": ("none", "residual", "input_skip"), "progressive_combine": ("sum", "cat"),
}  # fmt: skip


def _arguments(a: Arguments) -> dict[str, Any]:
    given = dict(a)
    if "fir_kernel" in given:
        given["fir_kernel"] = list(numbers("fir_kernel", given["fir_kernel"]))
    m = checked("A generator of denoising-diffusion-gan", given, _DEFAULTS, ignored=_OF_SCRIPTS, fixed=_FIXED)
    for name, allowed in _CHOICES.items():
        if m[name] not in allowed:
            raise ConfigurationError(f"{name}={m[name]!r} is not implemented; there are {', '.join(allowed)}.")
    for name in ("ch_mult", "attn_resolutions"):
        m[name] = numbers(name, m[name])
    if m["num_timesteps"] < 1:
        raise ConfigurationError(f"num_timesteps is at least 1; got {m['num_timesteps']}.")
    return m


def network(a: Arguments) -> Architecture:
    """NVlabs/denoising-diffusion-gan `score_sde/models/ncsnpp_generator_adagn.py`."""
    m = _arguments(a)
    return Architecture(
        network=NCSNppConfig(
            channels=m["num_channels"],
            width=m["num_channels_dae"],
            multipliers=m["ch_mult"],
            blocks=m["num_res_blocks"],
            attention=factors(m["image_size"], m["attn_resolutions"]),
            filtered=m["fir"],
            progressive_input=m["progressive_input"],
            progressive=m["progressive"],
            combine=m["progressive_combine"],
            embedding="positional",
            scaled=m["skip_rescale"],
            by_sigma=False,
            centered=True,
            dropout=m["dropout"],
            latent=m["nz"],
            style=m["z_emb_dim"],
            mapping=1 + m["n_mlp"],
            styled="both" if m["resblock_type"] == "biggan" else "first",
            bounded=not m["not_use_tanh"],
        )
    )


def training(a: Arguments) -> Training:
    """The chain of few steps; the network is told which of them it undoes, from 0, and draws a clean image.

    Source: Xiao et al. 2022 App. C, eq. 8; NVlabs/denoising-diffusion-gan `test_ddgan.py:Posterior_Coefficients`.
    """
    m = _arguments(a)
    process = Discrete(
        schedule="integrated", steps=m["num_timesteps"], low=float(m["beta_min"]), high=float(m["beta_max"])
    )
    return Training(process=process, kind="x0", side=int(m["image_size"]))
