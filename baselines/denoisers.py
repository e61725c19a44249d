"""From what a network outputs to what a sampler needs: both the clean image and the noise.

Whatever it was trained to predict, a network becomes a `Denoiser`, and guidance or clipping are functions from
denoiser to denoiser (`guidance`). Each consumer takes from a `Prediction` what its equation names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from baselines.schedules import Level, Process

Condition = Mapping[str, Tensor]
"""Keyword arguments of the network beside image and timestep, such as y (labels) and context."""
Network = Callable[..., Tensor]
Output = Callable[[Tensor, Tensor, Condition], Tensor]
"""output(x, t, condition) is what a network says of states x (b, c, h, w) and times t, (b,)."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is believed about a noisy image x = alpha x0 + sigma eps.

    Attributes:
        x0: the clean image, of the shape of x.
        eps: the noise, of the shape of x.
        variance: output of a learned variance, nominally in [-1, 1], None if the network has none.
        gradient: scale * grad_x log p(y | x) of a classifier. It is carried, not applied, because ancestral steps
            shift their mean by it and deterministic ones their noise.
    """

    x0: Tensor
    eps: Tensor
    variance: Tensor | None = None
    gradient: Tensor | None = None


Denoiser = Callable[[Tensor, Level, Condition], Prediction]


def from_output(
    kind: str, output: Tensor, x: Tensor, alpha: float | Tensor, sigma: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Converts a network's output into (x0, eps).

    Args:
        kind: "eps"; "x0"; "v" = alpha eps - sigma x0; "score" = -eps / sigma; "scaled_score" = sigma score = -eps.
        alpha, sigma: of x, floats or tensors that broadcast against it.

    Raises:
        ValueError: an unknown kind.

    Source:
        Ho et al. 2020 eq. 9; Salimans and Ho 2022 App. D; Song et al. 2021 sec. 3.
    """
    if kind == "eps":
        return (x - sigma * output) / alpha, output  # Ho et al. 2020 eq. 9
    if kind == "x0":
        return output, (x - alpha * output) / sigma
    if kind == "v":
        return alpha * x - sigma * output, alpha * output + sigma * x  # Salimans and Ho 2022 App. D
    if kind == "score":
        return (x + sigma**2 * output) / alpha, -sigma * output
    if kind == "scaled_score":
        return (x + sigma * output) / alpha, -output
    raise ValueError(f"No parametrisation {kind!r}; there are eps, x0, v, score, scaled_score and, for denoisers, edm.")


def target(kind: str, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """What a network of this kind is trained to output; the inverse of `from_output`."""
    if kind == "eps":
        return eps
    if kind == "x0":
        return x0
    if kind == "v":
        return alpha * eps - sigma * x0
    if kind == "score":
        return -eps / sigma
    if kind == "scaled_score":
        return -eps
    raise ValueError(f"No parametrisation {kind!r} to train; there are eps, x0, v, score and scaled_score.")


def denoiser(network: Network, kind: str, *, learned_variance: bool = False, data_std: float = 0.5) -> Denoiser:
    """Wraps a network called as network(x, t, **condition), t of shape (b,).

    Args:
        kind: see `from_output`; or "edm", where the network F sees c_in x and D = c_skip x + c_out F (Karras et al.
            2022 eq. 7, on grids with alpha = 1).
        learned_variance: the second half of the output channels belongs to the variance (improved DDPM).
        data_std: standard deviation of the data, "edm" only.

    Raises:
        ValueError: when called, for an unknown kind, or "edm" at a level whose alpha is not 1.
    """

    def predict(x: Tensor, level: Level, condition: Condition) -> Prediction:
        t = torch.as_tensor(level.t, dtype=torch.float32, device=x.device).expand(len(x))
        if kind == "edm":
            if not bool(torch.as_tensor(level.alpha == 1).all()):
                raise ValueError(f"edm networks run on grids with alpha = 1, such as karras_grid; it is {level.alpha}.")
            norm = (level.sigma**2 + data_std**2) ** 0.5
            output = network(x / norm, t, **condition)
            x0 = (data_std / norm) ** 2 * x + level.sigma * data_std / norm * output  # Karras et al. 2022 eq. 7
            return Prediction(x0, (x - x0) / level.sigma)
        output, variance = network(x, t, **condition), None
        if learned_variance:
            output, variance = output.chunk(2, dim=1)
        return Prediction(*from_output(kind, output, x, level.alpha, level.sigma), variance)

    return predict


def levels(process: Process, ratios: Tensor, like: Tensor) -> Level:
    """The levels of a batch of images, each with its own ratio sigma / alpha.

    Args:
        ratios: of b elements.

    Returns:
        A level with t of shape (b,), alpha and sigma of shape (b, 1, 1, 1), on the device of `like`.
    """
    each = [process.at(ratio) for ratio in ratios.flatten().tolist()]
    t, alpha, sigma = (torch.tensor(column, dtype=torch.float64) for column in zip(*each, strict=True))
    wide = (-1, *[1] * (like.ndim - 1))
    return Level(t.float().to(like.device), alpha.view(wide).to(like), sigma.view(wide).to(like))  # type: ignore[arg-type]


def rescaled(denoise: Denoiser, process: Process) -> Denoiser:
    """The same denoiser on the levels of another process than the one that its network was trained on.

    The clean image of x / alpha depends on sigma / alpha alone: so a state is brought to the scale of the level of
    equal ratio, and the network is told what `process`, its own, says of that level.

    Source: Karras et al. 2022 App. C.3, where it is the change of variables between VP and VE.
    """

    def predict(x: Tensor, p: Level, condition: Condition) -> Prediction:
        q = process.at(p.ratio) if isinstance(p.ratio, float) else levels(process, p.ratio, x)
        prediction = denoise(x * (q.alpha / p.alpha), q, condition)
        eps = (x - p.alpha * prediction.x0) / p.sigma
        return replace(prediction, eps=eps)

    return predict
