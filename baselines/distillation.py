"""Distillation: losses that teach a network to do in few steps what its teacher does in many.

Both losses walk a grid of noise-to-signal ratios r = sigma / alpha. On it a network of a variance-preserving process
and one of EDM's are the same thing: x / alpha is EDM's noisy image of scale r, and alpha x - sigma v is EDM's denoiser
for data of unit variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from baselines.training import Loss

Told = Callable[[Tensor], Tensor]
"""Ratios, float64 (b,), to what the network is told as its time, float32 (b,)."""


def _image(ratio: Tensor) -> Tensor:
    return ratio.float().view(-1, 1, 1, 1)


def _x0(network: nn.Module, z: Tensor, ratio: Tensor, told: Told, condition: dict[str, Tensor]) -> Tensor:
    """The clean image that a v-prediction network believes in, given the variance-exploding z = x0 + r eps."""
    r = _image(ratio)
    scale = (1 + r**2).rsqrt()
    v = network(z * scale, told(ratio), **condition).float()[:, : z.shape[1]]
    return scale**2 * z - r * scale * v


def halving_loss(teacher: nn.Module, told: Told, ratios: Sequence[float]) -> Loss:
    """Progressive distillation: one deterministic step of the student equals two of the teacher.

    Args:
        teacher: the v-prediction network that is imitated. Its further output channels are ignored.
        told: time by ratio, of both networks.
        ratios: the levels of the teacher's sampler, descending, 2 N of them. The step from the last one ends on the
            clean image. The student visits every second one.

    Source:
        Salimans and Ho 2022 Alg. 2, with the weight max(1, SNR) of their sec. 4. The teacher's image is clipped to
        [-1, 1], as its sampler does.
    """
    levels = torch.tensor([*ratios, 0.0], dtype=torch.float64)

    def loss(network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        x0 = batch["x0"]
        condition = {name: value for name, value in batch.items() if name != "x0"}
        i = 2 * torch.randint(len(ratios) // 2, (len(x0),), generator=generator)
        start, middle, end = levels[i], levels[i + 1], levels[i + 2]
        z = x0 + _image(start) * torch.randn(x0.shape, generator=generator)
        with torch.no_grad():
            first = _x0(teacher, z, start, told, condition).clamp(-1, 1)
            halfway = first + _image(middle / start) * (z - first)
            second = _x0(teacher, halfway, middle, told, condition).clamp(-1, 1)
            landed = second + _image(end / middle) * (halfway - second)
            goal = (landed - _image(end / start) * z) / _image(1 - end / start)  # Alg. 2: x of the student's one step
        weight = _image((1 / start**2).clamp(min=1.0))  # max(1, SNR)
        return (weight * (_x0(network, z, start, told, condition) - goal).square()).mean()

    return loss


def consistency(
    network: nn.Module, z: Tensor, ratio: Tensor, told: Told, condition: dict[str, Tensor], low: float
) -> Tensor:
    """The end of the trajectory through z, (b, c, h, w): the consistency function f(z, r) with f(z, low) = z.

    Source: Song et al. 2023 eq. 5 and App. C, for data of unit variance.
    """
    r = _image(ratio)
    skip = 1 / ((r - low) ** 2 + 1)
    out = (r - low) * (1 + r**2).rsqrt()
    v = network(z * (1 + r**2).rsqrt(), told(ratio), **condition).float()[:, : z.shape[1]]
    return skip * z - out * v  # eq. 5


def consistency_loss(teacher: nn.Module, target: nn.Module, told: Told, ratios: Sequence[float]) -> Loss:
    """Consistency distillation: neighbours on one trajectory of the teacher's ODE end alike.

    Args:
        teacher: v-prediction network that solves the ODE, by one step of Heun.
        target: moving average of the student, which is kept by `training.fit`.
        told: time by ratio, of all networks.
        ratios: descending. The last is the smallest noise, on which f is the identity.

    Source:
        Song et al. 2023 Alg. 2. Differs: pseudo-Huber distance with c = 0.03 sqrt(d) (Song and Dhariwal 2023) in place
        of LPIPS, whose features would be those of a metric.
    """
    levels, low = torch.tensor(ratios, dtype=torch.float64), ratios[-1]

    def loss(network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        x0 = batch["x0"]
        condition = {name: value for name, value in batch.items() if name != "x0"}
        i = torch.randint(len(ratios) - 1, (len(x0),), generator=generator)
        start, end = levels[i], levels[i + 1]
        z = x0 + _image(start) * torch.randn(x0.shape, generator=generator)
        with torch.no_grad():
            slope = (z - _x0(teacher, z, start, told, condition)) / _image(start)
            ahead = z + _image(end - start) * slope
            corrected = (ahead - _x0(teacher, ahead, end, told, condition)) / _image(end)
            z_end = z + _image(end - start) * (slope + corrected) / 2
            goal = consistency(target, z_end, end, told, condition, low)
        apart = (consistency(network, z, start, told, condition, low) - goal).flatten(1).square().sum(1)
        c = 0.03 * math.sqrt(x0[0].numel())
        return ((apart + c**2).sqrt() - c).mean() / math.sqrt(x0[0].numel())

    return loss
