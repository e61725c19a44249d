"""Training by the variational bound alone, on timesteps that are drawn as often as they matter."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.denoisers import from_output
from baselines.schedules import signal
from baselines.training import Loss, bound_terms


class SecondMoment(nn.Module):
    """Draws timesteps in proportion to the root of the mean square of their last losses.

    Until every timestep has a full history all are drawn alike. The history is kept in buffers, so that a checkpoint
    has it.

    Args:
        steps: of the process.
        history: losses of a timestep that count, the last ones.
        uniform: share of draws from all timesteps alike.

    Source:
        Nichol and Dhariwal 2021 eq. 18; openai/improved-diffusion `resample.py:LossSecondMomentResampler`.
    """

    last: Tensor
    count: Tensor

    def __init__(self, steps: int, history: int = 10, uniform: float = 0.001) -> None:
        super().__init__()
        self.uniform = uniform
        self.register_buffer("last", torch.zeros(steps, history, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(steps, dtype=torch.int64))

    def chances(self) -> Tensor:
        """Probability of every timestep, float64 (steps,)."""
        steps, history = self.last.shape
        if bool((self.count < history).any()):
            return torch.full((steps,), 1 / steps, dtype=torch.float64, device=self.last.device)
        root = self.last.square().mean(1).sqrt()  # eq. 18
        return (1 - self.uniform) * root / root.sum() + self.uniform / steps

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Timesteps, int64 (count,), and 1 / (steps * probability) of each, by which its loss is weighted."""
        chances = self.chances().cpu()
        t = torch.multinomial(chances, count, replacement=True, generator=generator)
        return t.to(self.last.device), (1 / (len(chances) * chances[t])).to(self.last.device)

    def record(self, t: Tensor, losses: Tensor) -> None:
        """Puts the losses of timesteps, each (b,), into their histories, in the place of the oldest ones."""
        for one, loss in zip(t.tolist(), losses.detach().double(), strict=True):
            self.last[one, self.count[one] % self.last.shape[1]] = loss
            self.count[one] += 1


class Resampled(nn.Module):
    """A network that is trained, and the timesteps that it is trained on."""

    def __init__(self, network: nn.Module, sampler: SecondMoment) -> None:
        super().__init__()
        self.network, self.sampler = network, sampler


def bound_loss(beta: NDArray[np.float64], kind: str) -> Loss:
    """The variational bound of a network with a learned variance, in bits a dimension, for `Resampled`.

    Its mean is L_vlb but for the divergence of the last timestep from pure noise, which nothing can change.

    Args:
        kind: parametrisation, see `baselines.denoisers.target`.

    Source: Nichol and Dhariwal 2021 eq. 4 and 18. Gradients reach mean and variance.
    """
    remaining = torch.from_numpy(signal(beta))

    def loss(network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        both, x0 = cast("Resampled", network), batch["x0"]
        condition = {name: value for name, value in batch.items() if name != "x0"}
        t, weight = both.sampler.draw(len(x0), generator)
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        level = remaining.to(x0.device)[t].view(-1, 1, 1, 1)
        alpha, sigma = level.sqrt().to(x0), (1 - level).sqrt().to(x0)
        x = alpha * x0 + sigma * eps
        output, variance = both.network(x, t, **condition).to(x0).chunk(2, dim=1)
        terms = bound_terms(beta, x0, from_output(kind, output, x, alpha, sigma)[0], variance, t)
        both.sampler.record(t, terms)
        return len(beta) * (weight * terms).mean()  # eq. 18: L_t / p_t

    return loss
