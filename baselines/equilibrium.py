"""The first diffusion models: small steps away from an equilibrium of noise, with a learned drift and variance.

The state is an image of zero mean and unit variance. Of the network's two outputs the first, f, moves the mean of a
reverse step, so that f = 0 leaves the equilibrium where it is, and the second moves its variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.denoisers import Condition, Denoiser, Prediction
from baselines.noise import Noise
from baselines.schedules import Discrete, Grid, Level, signal
from baselines.steps import Step, transition
from baselines.training import Loss


def drifting(denoise: Denoiser, process: Discrete) -> Denoiser:
    """The denoiser of a network whose output is the drift f of a reverse step of one timestep.

    Args:
        denoise: gives f in the place of the noise.
        process: variances of the forward process.

    Source: Sohl-Dickstein/Diffusion-Probabilistic-Models `model.py`, mu = sqrt(1 - beta) x + sqrt(beta) f.
    """
    beta = process.beta

    def predict(x: Tensor, p: Level, condition: Condition) -> Prediction:
        found, b = denoise(x, p, condition), float(beta[round(p.t)])
        # The noise whose removal by Ho et al. 2020 eq. 11 has that mean.
        eps = p.sigma * (x - math.sqrt((1 - b) / b) * found.eps)
        return replace(found, x0=(x - p.sigma * eps) / p.alpha, eps=eps)

    return predict


def spread(raw: Tensor, beta: Tensor | float, steps: int) -> Tensor:
    """Variance of a reverse step, which is beta where the network outputs 0.

    Source: Sohl-Dickstein/Diffusion-Probabilistic-Models `model.py`.
    """
    b = torch.as_tensor(beta, dtype=raw.dtype, device=raw.device)
    return torch.sigmoid(raw / math.sqrt(steps) + torch.logit(b))


def restoring(steps: int) -> Step:
    """The reverse step with a learned variance, which adds noise on the last step too.

    Args:
        steps: of the process.

    Source: Sohl-Dickstein et al. 2015 eq. 5 and Table App. 1.
    """

    def step(denoise: Denoiser, x: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q = grid[i], grid[i + 1]
        found, beta = denoise(x, p, condition), transition(p, q)
        if found.variance is None:
            raise ValueError("The network outputs no variance, which this sampler needs.")
        mean = q.alpha * beta / p.sigma**2 * found.x0 + p.alpha / q.alpha * (q.sigma / p.sigma) ** 2 * x
        return mean + spread(found.variance, beta, steps).sqrt() * noise(i + 1, x)

    return step


Network = Callable[[Tensor, Tensor], Tensor]


def divergence(network: Network | nn.Module, beta: NDArray[np.float64], x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Divergence of the step from timestep t to t - 1 from its posterior, in nats a pixel value, (b,).

    Args:
        x0: (b, c, h, w), of zero mean and unit variance.
        t: (b,), from 1 to the last; the step from timestep 0 is not modelled.
        eps: noise of the shape of x0.

    Source: Sohl-Dickstein et al. 2015 eq. 14 and App. A.
    """
    remaining = signal(beta)

    def at(values: NDArray[np.float64], shift: int = 0) -> Tensor:
        return torch.from_numpy(values).to(x0)[t - shift].view(-1, 1, 1, 1)

    b, now, before = at(beta), at(remaining), at(remaining, 1)
    x = now.sqrt() * x0 + (1 - now).sqrt() * eps
    drift, raw = network(x, t).to(x0).chunk(2, dim=1)
    mean = (1 - b).sqrt() * x + b.sqrt() * drift
    variance = spread(raw, b, len(beta))
    posterior = b * (1 - before) / (1 - now)
    of_posterior = before.sqrt() * b / (1 - now) * x0 + (1 - b).sqrt() * (1 - before) / (1 - now) * x
    excess = variance.log() - posterior.log()
    terms = 0.5 * (excess - 1 + (posterior + (of_posterior - mean) ** 2) / variance)  # eq. 14
    return terms.flatten(1).mean(1)


def outside(beta: NDArray[np.float64]) -> float:
    """What the bound has beside the divergences, in nats a pixel value, less the entropy of a standard normal.

    Source: Sohl-Dickstein et al. 2015 eq. 14: H_q(X_1 | X_0) - H_q(X_T | X_0) of Gaussians.
    """
    return 0.5 * math.log(beta[0]) - 0.5 * math.log(1 - signal(beta)[-1])


def equilibrium_loss(beta: NDArray[np.float64]) -> Loss:
    """The bound of the negative log-likelihood less that of a standard normal, in nats a pixel value.

    Source:
        Sohl-Dickstein et al. 2015 eq. 14. The original multiplies the mean divergence by the number of timesteps
        although it draws from one fewer, those after the first; this multiplies by as many as there are.
    """

    def loss(network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        x0 = batch["x0"]
        t = torch.randint(1, len(beta), (len(x0),), generator=generator).to(x0.device)
        eps = torch.randn(x0.shape, generator=generator).to(x0.device)
        return (len(beta) - 1) * divergence(network, beta, x0, t, eps).mean() + outside(beta)

    return loss
