"""CLD-SGM: the flags of its configurations. A file of arguments holds those of the default and the specific one."""

from __future__ import annotations

from typing import Any

from baselines.damped import CriticallyDamped
from baselines.files.dialects.common import (
    Architecture,
    Arguments,
    ConfigurationError,
    Training,
    checked,
    factors_of_sides,
)
from baselines.networks.ncsnpp import NCSNppConfig

_FLAGS: dict[str, Any] = {
    "image_size": 32, "image_channels": 3, "n_channels": 128, "ch_mult": "1,2,2,2", "n_resblocks": 8,
    "attn_resolutions": "16", "use_fir": True, "skip_rescale": True, "progressive": "none",
    "progressive_input": "residual", "progressive_combine": "sum", "embedding_type": "fourier", "dropout": 0.1,
    "beta0": 4.0, "beta1": 0.0, "m_inv": 4.0, "gamma": 0.04, "numerical_eps": 1e-9,
}  # fmt: skip
"""configs/default_cifar10.txt and configs/specific_cifar10.txt; the script itself has no defaults of these."""
_FIXED: dict[str, Any] = {
    "name": "ncsnpp", "sde": "cld", "normalization": "GroupNorm", "nonlinearity": "swish", "resblock_type": "biggan",
    "attention_type": "ddpm", "conv_size": 3, "beta_type": "linear",
}  # fmt: skip
_TRUE = ("center_image", "mixed_score", "is_image")
_CHOICES = {
    "progressive": ("none", "output_skip"), "progressive_input": ("none", "residual", "input_skip"),
    "progressive_combine": ("sum", "cat"), "embedding_type": ("fourier", "positional"),
}  # fmt: skip
_IGNORED = (
    "fir_kernel", "resamp_with_conv", "init_scale", "fourier_scale", "ema_rate", "optimizer", "learning_rate",
    "grad_clip", "weight_decay", "cld_objective", "loss_eps", "weighting", "dataset", "data_location", "snapshot_freq",
    "snapshot_threshold", "log_freq", "eval_freq", "likelihood_threshold", "likelihood_freq", "fid_freq",
    "fid_threshold", "fid_samples_training", "n_eval_batches", "n_likelihood_batches", "n_warmup_iters",
    "n_train_iters", "save_freq", "save_threshold", "autocast_train", "autocast_eval", "sampling_method",
    "sampling_eps", "denoising", "training_batch_size", "testing_batch_size", "sampling_batch_size", "seed",
    "striding", "n_discrete_steps",
)  # fmt: skip


def knows(a: Arguments) -> bool:
    """Whether the arguments are flags of CLD-SGM."""
    return a.get("sde") == "cld" or "n_resblocks" in a or "m_inv" in a


def _flags(a: Arguments) -> dict[str, Any]:
    kernel = a.get("fir_kernel", "1,3,3,1")
    if _numbers(kernel) != (1, 3, 3, 1):
        raise ConfigurationError(f"fir_kernel={kernel!r} is not implemented, only 1,3,3,1.")
    flags: dict[str, Any] = dict.fromkeys(_TRUE, True) | _FLAGS
    m = checked("A CLD-SGM model", a, flags, ignored=_IGNORED, fixed=_FIXED)
    for name in _TRUE:
        if not m[name]:
            raise ConfigurationError(f"A CLD-SGM model with {name}=False is not implemented, only with True.")
    for name, allowed in _CHOICES.items():
        if m[name] not in allowed:
            raise ConfigurationError(f"{name}={m[name]!r} is not implemented; there are {', '.join(allowed)}.")
    if not (m["beta0"] > 0 and m["beta1"] >= 0 and m["m_inv"] > 0):
        raise ConfigurationError(
            f"beta0={m['beta0']}, beta1={m['beta1']}, m_inv={m['m_inv']} make no process: beta0 and m_inv are above 0, "
            "and beta1 is not below it."
        )
    return m


def _numbers(value: Any) -> tuple[int, ...]:
    """Numbers of a list, or of a text with commas between them."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    return tuple(int(part) for part in parts)


def network(a: Arguments) -> Architecture:
    """nv-tlabs/CLD-SGM `models/ncsnpp.py`: images, behind them their velocities, and the time by its logarithm."""
    m = _flags(a)
    return Architecture(
        network=NCSNppConfig(
            channels=2 * m["image_channels"],
            outputs=m["image_channels"],
            width=m["n_channels"],
            multipliers=_numbers(m["ch_mult"]),
            blocks=m["n_resblocks"],
            attention=factors_of_sides(m["image_size"], _numbers(m["attn_resolutions"])),
            filtered=m["use_fir"],
            progressive_input=m["progressive_input"],
            progressive=m["progressive"],
            combine=m["progressive_combine"],
            embedding=m["embedding_type"],
            scaled=m["skip_rescale"],
            by_sigma=False,
            centered=True,
            dropout=m["dropout"],
        )
    )


def training(a: Arguments) -> Training:
    """The process of the flags.

    Source: nv-tlabs/CLD-SGM `sde_lib.py`, `models/utils.py:get_score_fn` (mixed score), `util/utils.py:build_beta_fn`.
    """
    m = _flags(a)
    process: Any = CriticallyDamped(
        mass=1.0 / m["m_inv"], beta=m["beta0"], rise=m["beta1"], share=m["gamma"], floor=m["numerical_eps"]
    )
    return Training(process=process, kind="velocity", side=int(m["image_size"]))
