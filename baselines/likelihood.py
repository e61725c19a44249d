"""Likelihood in bits a dimension: the variational bound of a chain, and the exact number of the flow.

Numbers of both kinds are comparable with their like only: a bound depends on the chain, an exact number on the levels
between which the flow runs.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from baselines.analytic import Known, covariance
from baselines.denoisers import Condition, Denoiser
from baselines.noise import Noise
from baselines.ode import log_likelihood
from baselines.schedules import Grid, Process
from baselines.steps import transition
from baselines.training import discretised_log_likelihood

Variance = Literal["small", "large", "learned", "analytic"]


def bound(
    denoise: Denoiser,
    grid: Grid,
    x0: Tensor,
    noise: Noise,
    condition: Condition,
    variance: Variance = "small",
    known: Known | None = None,
) -> Tensor:
    """Upper bound of the negative log-likelihood of 8-bit images, by one draw of noise for each level.

    Args:
        grid: a variance-preserving chain that ends on the clean level. Every noisy level is one term.
        x0: (b, c, h, w), 8-bit values mapped to [-1, 1].
        variance: of the reverse steps, see `steps.ddpm`; "analytic" needs `known`. The likelihood of the pixels
            themselves, the term of the last noisy level, has the variance of the step before it where that is 0.

    Returns:
        Bits a dimension, float64 (b,).

    Raises:
        ValueError: "learned" with a network that outputs no variance, or "analytic" without `known`.

    Source:
        Sohl-Dickstein et al. 2015; Ho et al. 2020 eq. 5 and 13; Nichol and Dhariwal 2021 eq. 4 to 7;
        openai/improved-diffusion `calc_bpd_loop`, whose normal distribution function is an approximation.
    """
    if variance == "analytic" and known is None:
        raise ValueError("variance='analytic' needs the mean squares of the predicted noise; give known=.")
    first = grid[0]
    mean, log_var = first.alpha * x0.double(), 2.0 * math.log(first.sigma)
    total = 0.5 * (mean**2 + math.exp(log_var) - 1.0 - log_var).flatten(1).sum(1)  # L_T: divergence from N(0, 1)
    with torch.no_grad():
        for i in range(len(grid) - 1):
            p, q = grid[i], grid[i + 1]
            x = p.alpha * x0 + p.sigma * noise(i + 1, x0)
            found = denoise(x, p, condition)
            beta, exact = transition(p, q), transition(p, q) * (q.sigma / p.sigma) ** 2
            floor = exact if q.sigma > 0 else _of_step_before(grid, i)
            log_variance: Tensor | float
            if variance == "learned":
                if found.variance is None:
                    raise ValueError("variance='learned' needs a network that outputs a variance; this one does not.")
                share = (found.variance.double() + 1) / 2
                log_variance = share * math.log(beta) + (1 - share) * math.log(floor)
            elif variance == "analytic":
                assert known is not None
                log_variance = math.log(exact + (q.alpha * beta / p.sigma**2) ** 2 * covariance(p, known(p)))
            else:
                log_variance = math.log(beta if variance == "large" else floor)
            spread = torch.as_tensor(log_variance, dtype=torch.float64, device=x.device)
            if q.sigma == 0:  # L_0
                likelihood = discretised_log_likelihood(x0.double(), found.x0.double(), 0.5 * spread)
                total = total - likelihood.flatten(1).sum(1)
                continue
            # q(x_q | x_p, x_0) and p(x_q | x_p) differ in their mean by the coefficient of x0 in eq. 7.
            apart = (q.alpha * beta / p.sigma**2 * (x0 - found.x0)).double()
            excess = spread - math.log(exact)
            term = 0.5 * (excess - 1 + torch.exp(-excess) + apart**2 * torch.exp(-spread))
            total = total + term.flatten(1).sum(1)  # L_t
    return total / (x0[0].numel() * math.log(2.0))


def _of_step_before(grid: Grid, i: int) -> float:
    """Variance of the reverse of the transition before, which the original codes put in place of a vanishing one."""
    if i == 0:
        return transition(grid[0], grid[1])
    p, q = grid[i - 1], grid[i]
    return transition(p, q) * (q.sigma / p.sigma) ** 2


def exact(
    denoise: Denoiser,
    process: Process,
    images: Tensor,
    noise: Noise,
    condition: Condition,
    *,
    low: float,
    high: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of 8-bit images under the probability flow, with one draw of uniform dequantisation.

    Args:
        images: uint8 (b, c, h, w).
        noise: its draw 0 on stream 8, through the normal distribution function, dequantises.
        low, high: ratios sigma / alpha between which the flow runs; `low` is not below what the network was trained on.

    Returns:
        Bits a dimension, float64 (b,), and evaluations an image, int64 (b,).

    Source:
        Song et al. 2021 sec. 4.3 and App. D.2; Theis et al. 2016 (dequantisation, which makes it a bound).
    """
    like = images.double()
    uniform = torch.special.ndtr(noise(0, like, 8))
    x0 = (like + uniform) / 128.0 - 1.0
    density, evaluations = log_likelihood(
        denoise, process, x0.float(), noise, condition, low=low, high=high, rtol=rtol, atol=atol
    )
    return -density / (images[0].numel() * math.log(2.0)) + 7.0, evaluations  # cells are 2^-7 wide
