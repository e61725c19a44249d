"""Negative log-likelihood of real images under a model, in bits a dimension: a number of the model, not of its images.

An exact number and a bound are two metrics, because neither may be compared with the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from genbench.arrays import Samples
from genbench.contracts import Metric
from genbench.errors import UsageError
from genbench.records import Score
from genbench.uncertainty import score_from_mean

Array = NDArray[np.float64]


def nll(*, bits: Array, tolerance: float = 1e-4, repeats: int = 1) -> Score:
    """Mean of -log2 p(x) / d + 7 by the probability flow, of 8-bit images made continuous by uniform noise.

    Args:
        bits: float64 (repeats, n), see `genbench.contracts.Model`.
        tolerance: of the solver, relative and absolute. The number falls by 0.2 with 1e-2 and by 0.01 with 1e-3.
        repeats: draws of the noise that makes an image continuous, and of the probe of the trace.

    `detail` has the standard deviation between images, and between the repeats of an image. The standard error is that
    of a mean over images.
    """
    return _score(bits)


def nll_bound(*, bits: Array, repeats: int = 1) -> Score:
    """Mean upper bound of -log2 p(x) / d, of the chain or by the bound of the model itself, as its arguments say.

    Args:
        bits: float64 (repeats, n), see `genbench.contracts.Model`.
        repeats: draws of the noise.

    `detail` and the standard error are as of `nll`.
    """
    return _score(bits)


def _score(bits: Array) -> Score:
    detail = {"std": float(bits.mean(0).std(ddof=1))}
    if len(bits) > 1:
        detail["std_of_repeats"] = math.sqrt(float(bits.var(0, ddof=1).mean()))
    return score_from_mean(bits.mean(0), detail=detail)


def check(
    *,
    generated: Samples,
    reference: Samples | None = None,
    widths: Mapping[str, int] | None = None,
    tolerance: float = 1e-4,
    repeats: int = 1,
    **_: object,
) -> None:
    """Refuses arguments that mean nothing."""
    if not 0 < tolerance < 1:
        raise UsageError(f"tolerance lies between 0 and 1, such as 1e-4; got {tolerance}.")
    if repeats < 1:
        raise UsageError(f"repeats is at least 1; got {repeats}.")


NLL = Metric(
    name="nll",
    summary="exact negative log-likelihood of test images under the model's flow, in bits a dimension",
    source="Song et al. 2021 sec. 4.3; yang-song/score_sde_pytorch `likelihood.py`, whose tolerance is 1e-5",
    compute=nll,
    taps=(),
    likelihood="exact",
    against="test",
    floor=None,
    higher_is_better=False,
    check=check,
    invariances=frozenset(),
    reads=lambda args: ("labels",),
)
NLL_BOUND = replace(
    NLL,
    name="nll-bound",
    summary="upper bound of the negative log-likelihood of test images, in bits a dimension",
    source="Ho et al. 2020 eq. 5; Nichol and Dhariwal 2021; Kingma et al. 2021; openai/improved-diffusion `nll.py`",
    compute=nll_bound,
    likelihood="bound",
)
