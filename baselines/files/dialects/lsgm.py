"""LSGM: the arguments of the command lines of NVlabs/LSGM, of both its networks."""

from __future__ import annotations

from typing import Any

from baselines.files.dialects.common import (
    Architecture,
    Arguments,
    ConfigurationError,
    Training,
    checked,
    numbers,
)
from baselines.networks.ncsnpp import NCSNppConfig
from baselines.networks.nvae import NVAEConfig
from baselines.processes import Geometric, OfTime

_AUTOENCODER: dict[str, Any] = {
    "num_latent_scales": 1, "num_groups_per_scale": 10, "num_latent_per_group": 20, "num_channels_enc": 32,
    "num_preprocess_blocks": 2, "num_preprocess_cells": 3, "num_cell_per_cond_enc": 1, "num_channels_dec": 32,
    "num_postprocess_blocks": 2, "num_postprocess_cells": 3, "num_cell_per_cond_dec": 1, "channel_mult": (1, 2),
    "num_nf": 0, "log_sig_q_scale": 5.0, "num_x_bits": 8, "decoder_dist": "dml", "arch_instance": "res_mbconv",
    "use_se": False, "dataset": "cifar10",
}  # fmt: skip
"""train_vae.py."""
_PRIOR: dict[str, Any] = {
    "num_channels_dae": 128, "num_scales_dae": 4, "num_cell_per_scale_dae": 2, "embedding_dim": 128,
    "embedding_scale": 1.0, "dropout": 0.0, "fir": False, "progressive": "none", "progressive_input": "none",
    "progressive_combine": "sum", "sde_type": "geometric_sde", "sigma2_0": 0.0, "beta_start": 0.1, "beta_end": 20.0,
    "sigma2_min": 1e-4, "sigma2_max": 0.99,
}  # fmt: skip
"""train_vada.py."""
_FIXED: dict[str, Any] = {"dae_arch": "ncsnpp", "embedding_type": "positional", "mixed_prediction": True}
_CELLS = {"res_bnswish": "conv", "res_bnswish2": "double", "res_mbconv": "inverted", "res_mbconv_attn": "inverted",
          "res_mbconv_attn_half": "inverted"}  # fmt: skip
_SIDES = {"cifar10": 32, "ffhq": 256}
_OF_SCRIPTS = (
    "root", "save", "data", "batch_size", "learning_rate_vae", "learning_rate_min_vae", "ema_decay", "weight_decay",
    "weight_decay_norm_vae", "weight_decay_norm", "weight_decay_norm_init", "weight_decay_norm_anneal", "epochs",
    "warmup_epochs", "cont_training", "grad_clip_max_norm", "learning_rate_dae", "learning_rate_min_dae",
    "weight_decay_norm_dae", "custom_conv_dae", "diffusion_steps", "vpsde_power", "train_ode_eps",
    "train_ode_solver_tol", "eval_ode_eps", "eval_ode_solver_tol", "time_eps", "denoising_stddevs", "fid_dir",
    "mixing_logit_init", "vae_checkpoint", "vada_checkpoint", "discard_vae_weights", "discard_dae_weights",
    "train_vae", "iw_sample_p", "iw_sample_q", "iw_subvp_like_vp_sde", "no_autograd_jvp", "apply_sqrt2_res",
    "drop_inactive_var", "skip_final_eval", "disjoint_training", "update_q_ema", "cont_kl_anneal",
    "kl_anneal_portion", "kl_const_portion", "kl_const_coeff", "kl_max_coeff", "kl_anneal_portion_vada",
    "kl_const_portion_vada", "kl_const_coeff_vada", "kl_max_coeff_vada", "kl_balance_vada", "autocast_train",
    "autocast_eval", "num_proc_node", "node_rank", "local_rank", "global_rank", "num_process_per_node",
    "master_address", "seed", "distributed", "num_total_iter", "arch_instance_dae", "progressive_input_vae",
    "progressive_output_vae", "latent_grad_cutoff", "ode_eps", "ode_solver_tol",
)  # fmt: skip
PART = "network"
"""The argument of this package that says which of the two networks is meant: "dae", the prior, or "vae"."""


def whole(a: Arguments) -> bool:
    """Whether these are the arguments of LSGM, which name both networks."""
    return any(name in a for name in ("num_latent_per_group", "num_scales_dae", "dae_arch", "num_groups_per_scale"))


def _arguments(a: Arguments) -> dict[str, Any]:
    given = {name: value for name, value in a.items() if name != PART}
    m = checked("LSGM", given, _AUTOENCODER | _PRIOR, ignored=_OF_SCRIPTS, fixed=_FIXED)
    m["channel_mult"] = numbers("channel_mult", m["channel_mult"])
    if m["num_latent_scales"] != 1:
        raise ConfigurationError(
            f"num_latent_scales={m['num_latent_scales']} is not implemented, only 1: models of CelebA-HQ have "
            "latents of several sides, of which the prior knows the smallest alone."
        )
    if m["num_preprocess_blocks"] != m["num_postprocess_blocks"]:
        raise ConfigurationError("num_preprocess_blocks and num_postprocess_blocks must be the same number.")
    if len(m["channel_mult"]) != m["num_preprocess_blocks"] + 1:
        raise ConfigurationError(
            f"channel_mult has one number more than there are num_preprocess_blocks; got {list(m['channel_mult'])} and "
            f"{m['num_preprocess_blocks']}."
        )
    for name, known in (
        ("arch_instance", tuple(_CELLS)),
        ("decoder_dist", ("dml", "dl", "normal")),
        ("sde_type", ("vpsde", "geometric_sde")),
        ("progressive", ("none", "output_skip")),
        ("progressive_input", ("none", "residual", "input_skip")),
        ("progressive_combine", ("sum", "cat")),
    ):
        if m[name] not in known:
            raise ConfigurationError(f"{name}={m[name]!r} is not implemented; there are {', '.join(known)}.")
    return m


def _side(m: dict[str, Any]) -> int:
    data = str(m["dataset"])
    number = data.rpartition("_")[2]
    if data not in _SIDES and not number.isdigit():
        raise ConfigurationError(
            f"dataset={data!r} is not implemented; there are cifar10, ffhq, and names such as celeba_64."
        )
    return _SIDES.get(data) or int(number)


def _latent_side(m: dict[str, Any]) -> int:
    return _side(m) >> m["num_preprocess_blocks"]


def _multipliers(m: dict[str, Any]) -> tuple[int, ...]:
    """Source: NVlabs/LSGM `utils.py:get_channel_multiplier`."""
    scales = m["num_scales_dae"]
    known = {4: (1, 2, 2, 2), 5: (1, 1, 2, 2, 2)} if m["dataset"] != "cifar10" else {}
    if scales > 3 and scales not in known:
        raise ConfigurationError(
            f"num_scales_dae={scales} is not implemented for {m['dataset']}; at most {max(known, default=3)}."
        )
    return known.get(scales, (1,) * scales)


def network(a: Arguments) -> Architecture:
    """The prior, NVlabs/LSGM `score_sde/ncsnpp.py`, or with `network` "vae" the autoencoder, `nvae.py`."""
    m, part = _arguments(a), a.get(PART, "dae")
    if part not in ("dae", "vae"):
        raise ConfigurationError(f"{PART} is 'dae', the prior, or 'vae', the autoencoder; got {part!r}.")
    return Architecture(network=_prior(m) if part == "dae" else autoencoder(a))


def _prior(m: dict[str, Any]) -> NCSNppConfig:
    side = _latent_side(m)
    return NCSNppConfig(
        channels=m["num_groups_per_scale"] * m["num_latent_per_group"],
        width=m["num_channels_dae"],
        multipliers=_multipliers(m),
        blocks=m["num_cell_per_scale_dae"],
        attention=(side // 16,) if side >= 16 else (),
        filtered=m["fir"],
        progressive_input=m["progressive_input"],
        progressive=m["progressive"],
        combine=m["progressive_combine"],
        embedding="positional",
        told=m["embedding_dim"],
        by_sigma=False,
        centered=True,
        dropout=m["dropout"],
        mixed=True,
    )


def autoencoder(a: Arguments) -> NVAEConfig:
    """NVlabs/LSGM `nvae.py`, with one scale of latents."""
    m = _arguments(a)
    cells: Any = _CELLS[m["arch_instance"]]
    return NVAEConfig(
        side=_side(m),
        encoder_width=m["num_channels_enc"],
        decoder_width=m["num_channels_dec"],
        multipliers=m["channel_mult"],
        cells_before=m["num_preprocess_cells"],
        cells_after=m["num_postprocess_cells"],
        encoder_cells=m["num_cell_per_cond_enc"],
        decoder_cells=m["num_cell_per_cond_dec"],
        groups=m["num_groups_per_scale"],
        latents=m["num_latent_per_group"],
        flows=m["num_nf"],
        cells=cells,
        squeeze=m["use_se"],
        distribution=m["decoder_dist"],
        bits=m["num_x_bits"],
        clamp=float(m["log_sig_q_scale"]),
    )


def training(a: Arguments) -> Training:
    """The process of the latents; the prior predicts their noise and is told embedding_scale times the time.

    Source: Vahdat et al. 2021 App. B; NVlabs/LSGM `diffusion_continuous.py`.
    """
    m = _arguments(a)
    told = float(m["embedding_scale"])
    process: OfTime | Geometric
    if m["sde_type"] == "vpsde":
        process = OfTime(low=float(m["beta_start"]), high=float(m["beta_end"]), told=told)
        expected, name = 0.0, "0 with sde_type='vpsde'"
    else:
        process = Geometric(low=float(m["sigma2_min"]), high=float(m["sigma2_max"]), told=told)
        expected, name = float(m["sigma2_min"]), "sigma2_min with sde_type='geometric_sde'"
    if float(m["sigma2_0"]) != expected:
        raise ConfigurationError(f"sigma2_0={m['sigma2_0']} is not implemented, only {name}.")
    return Training(process=process, side=_side(m))
