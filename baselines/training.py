"""Training: losses of denoising networks, noisy classifiers and autoencoders, Adam, and an average of the weights.

`fit` is a plain loop that can be stopped and continued: its checkpoint holds network, average, optimiser and step, and
the randomness of step k depends on (seed, k) alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.denoisers import from_output, target
from baselines.networks.autoencoder import AutoencoderKL, posterior
from baselines.schedules import signal

Loss = Callable[[nn.Module, dict[str, Tensor], torch.Generator], Tensor]
"""loss(network, batch, generator) is a scalar. A batch has x0, float32 (b, c, h, w) in [-1, 1], and conditions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Attributes:
        steps, batch_size: optimiser steps, images a step.
        rate: peak learning rate of Adam, after a linear warm-up.
        decay: "cosine" lets the rate fall to zero over all steps, so that a run cannot be made longer afterwards;
            "none" keeps it.
        warmup: steps over which the rate rises, 0 for none.
        average: decay of the exponential moving average of the weights; during the first steps it is
            min(average, (1 + step) / (10 + step)), so that the random start is forgotten.
        clip: largest norm of the gradient.
        bfloat16: whether networks run under autocast.
        momentum: the two betas of Adam.
        factors: names of children of the network to factors of their rate, where it is not 1.

    The defaults are this project's own. Ho et al. 2020 App. B has decay "none", warmup 5000, average 0.9999, float32.
    """

    steps: int
    batch_size: int
    rate: float
    seed: int = 0
    decay: Literal["cosine", "none"] = "cosine"
    warmup: int = 500
    average: float = 0.999
    clip: float = 1.0
    bfloat16: bool = True
    momentum: tuple[float, float] = (0.9, 0.999)
    factors: Mapping[str, float] = field(default_factory=dict)


def diffusion_loss(
    beta: NDArray[np.float64],
    kind: str,
    *,
    learned_variance: bool,
    null_label: int | None,
    drop: float = 0.0,
    told: float = 1.0,
) -> Loss:
    """The simple loss of DDPM; with a learned variance the hybrid loss of improved DDPM.

    Args:
        kind: parametrisation, see `baselines.denoisers.target`. The error of a score is weighted by sigma^2, which
            makes the loss that of the noise.
        told: factor from the timestep to what the network is told, see `baselines.schedules.Discrete`.
        null_label: class that replaces the label of a share `drop` of the images (classifier-free guidance).

    Raises:
        ValueError: a share without a null label.

    Source:
        Ho et al. 2020 eq. 14; Nichol and Dhariwal 2021 eq. 15 to 16 (weight 0.001, gradient to the variance only);
        Ho and Salimans 2022 Alg. 1.
    """
    if drop and null_label is None:
        raise ValueError(f"drop={drop} replaces labels by null_label, which is None; give the class that means none.")
    remaining = torch.from_numpy(signal(beta))

    def loss(network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        x0 = batch["x0"]
        count, device = len(x0), x0.device
        t = torch.randint(len(beta), (count,), generator=generator).to(device)
        eps = torch.randn(x0.shape, generator=generator).to(device)
        level = remaining.to(device)[t].view(-1, 1, 1, 1)
        alpha, sigma = level.sqrt().float(), (1 - level).sqrt().float()
        condition = {name: value for name, value in batch.items() if name != "x0"}
        if drop and null_label is not None:
            dropped = (torch.rand(count, generator=generator) < drop).to(device)
            condition["y"] = torch.where(dropped, null_label, condition["y"])
        x = alpha * x0 + sigma * eps
        output = network(x, t if told == 1 else t * told, **condition).float()
        variance = None
        if learned_variance:
            output, variance = output.chunk(2, dim=1)
        error = output - target(kind, x0, eps, alpha, sigma)
        simple = (error * sigma if kind == "score" else error).square().mean()  # Ho et al. 2020 eq. 14
        if variance is None:
            return simple
        predicted = from_output(kind, output.detach(), x, alpha, sigma)[0]
        # Nichol and Dhariwal 2021 eq. 16.
        return simple + 0.001 * len(beta) * bound_terms(beta, x0, predicted, variance, t).mean()

    return loss


def classification_loss(beta: NDArray[np.float64]) -> Loss:
    """Cross-entropy of a classifier of noisy images, at timesteps drawn uniformly. The batch's y are the classes.

    Source: Dhariwal and Nichol 2021 sec. 4; openai/guided-diffusion `classifier_train.py`.
    """
    remaining = torch.from_numpy(signal(beta))

    def loss(network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        x0, y = batch["x0"], batch["y"]
        t = torch.randint(len(beta), (len(x0),), generator=generator).to(x0.device)
        eps = torch.randn(x0.shape, generator=generator).to(x0.device)
        level = remaining.to(x0.device)[t].view(-1, 1, 1, 1)
        logits = network(level.sqrt().float() * x0 + (1 - level).sqrt().float() * eps, t)
        return nn.functional.cross_entropy(logits.float(), y)

    return loss


def first_stage_loss(divergence: float) -> Loss:
    """The loss of a KL autoencoder: mean absolute error of the pixels, and the divergence of the latent from N(0, 1).

    Args:
        divergence: weight of the divergence in nats, summed over the latent and divided by the number of pixel values
            of the image.

    Source:
        Rombach et al. 2022 App. G; CompVis/latent-diffusion `contperceptual.py`. Differs: without the perceptual and
        the adversarial term, which keep the texture of photographs.
    """

    def loss(network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        x0, stage = batch["x0"], cast("AutoencoderKL", network)
        mean, std = posterior(stage.encode(x0).float())
        z = mean + std * torch.randn(mean.shape, generator=generator).to(mean.device)
        error = (stage.decode(z).float() - x0).abs().mean()
        nats = 0.5 * (mean.square() + std.square() - 1) - std.log()
        return error + divergence * nats.flatten(1).sum(1).mean() / x0[0].numel()

    return loss


def bound_terms(beta: NDArray[np.float64], x0: Tensor, predicted: Tensor, variance: Tensor, t: Tensor) -> Tensor:
    """Terms of the variational bound at timesteps t, in bits a dimension, (b,).

    For t > 0 the divergence of the two Gaussians q(x_{t-1} | x_t, x_0) and p(x_{t-1} | x_t); at t = 0 the negative
    log-likelihood of 8-bit values under p. x_t enters both means alike and drops out for t > 0.

    Source: Ho et al. 2020 eq. 5 and 13; Nichol and Dhariwal 2021 eq. 15; openai/improved-diffusion `losses.py`.
    """
    remaining = signal(beta)
    before = np.append(1.0, remaining[:-1])
    posterior = beta * (1 - before) / (1 - remaining)
    smallest = np.log(np.append(posterior[1], posterior[1:]))

    def at(values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values).float().to(t.device)[t].view(-1, 1, 1, 1)

    share = (variance + 1) / 2
    log_variance = share * at(np.log(beta)) + (1 - share) * at(smallest)  # Nichol and Dhariwal 2021 eq. 15
    distance = at(beta * np.sqrt(before) / (1 - remaining)) * (x0 - predicted)
    excess = log_variance - at(smallest)
    # Ho et al. 2020 eq. 5: the divergence of two Gaussians.
    divergence = 0.5 * (excess - 1 + torch.exp(-excess) + distance**2 * torch.exp(-log_variance))
    likelihood = -discretised_log_likelihood(x0, predicted, 0.5 * log_variance)
    terms = torch.where((t == 0).view(-1, 1, 1, 1), likelihood, divergence)
    return terms.mean(dim=(1, 2, 3)) / math.log(2.0)


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-probability of the 8-bit cell around x in [-1, 1] under a Gaussian. The outer cells are open.

    Source: Ho et al. 2020 eq. 13.
    """

    def cdf(z: Tensor) -> Tensor:
        return torch.special.ndtr((z - mean) * torch.exp(-log_std))

    upper, lower = cdf(x + 1 / 255), cdf(x - 1 / 255)
    upper = torch.where(x > 0.999, torch.ones_like(upper), upper)
    lower = torch.where(x < -0.999, torch.zeros_like(lower), lower)
    return torch.log((upper - lower).clamp(min=1e-12))  # eq. 13


@dataclass(slots=True)
class Progress:
    """State of a training run after `step` steps; `average` holds the averaged weights, `loss` its running mean."""

    network: nn.Module
    average: nn.Module
    step: int
    loss: float


def fit(
    network: nn.Module,
    average: nn.Module,
    loss: Loss,
    batch: Callable[[int], dict[str, Tensor]],
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
    every: int = 500,
    target: nn.Module | None = None,
    target_decay: float = 0.95,
    about: Mapping[str, Any] | None = None,
) -> Iterator[Progress]:
    """Trains, yielding every `every` steps and at the end. A run that was complete yields nothing.

    Args:
        network, average: two instances of the same architecture; `average` is overwritten with the moving average.
        batch: batch(k) gives the images and conditions of step k, on any device.
        checkpoint: file that is written at every yield and continued from when it exists. The weights of the continued
            run are bit for bit those of an uninterrupted one, on the same machine.
        target: a further moving average, with the decay `target_decay`, which a loss may read.
        about: what else the weights depend on, such as the architecture and the digest of the images, as plain values.
            It is kept in the checkpoint with the recipe.

    Raises:
        ValueError: a checkpoint of another recipe, architecture or data set.
    """
    identity, modules = _identity(recipe, about or {}), {"network": network, "average": average}
    if target is not None:
        modules["target"] = target
    optimiser = torch.optim.Adam(_groups(network, recipe.factors), lr=recipe.rate, betas=recipe.momentum)
    for copy in (average, target):
        if copy is not None:
            copy.load_state_dict(network.state_dict())
            copy.requires_grad_(requires_grad=False)
    start, mean_loss = 0, None
    if checkpoint is not None and checkpoint.exists():
        start, mean_loss = _restored(checkpoint, modules, optimiser, identity)
    network.train()
    for step in range(start, recipe.steps):
        for group in optimiser.param_groups:
            group["lr"] = group.get("factor", 1.0) * _rate(recipe, step)
        value = _loss(network, loss, batch(step), recipe, step)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
        optimiser.step()
        keep = min(recipe.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - keep)
            if target is not None:
                torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), 1 - target_decay)
        current = float(value.detach())
        mean_loss = current if mean_loss is None else mean_loss + (current - mean_loss) * max(0.01, 1 / (step + 1))
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            if checkpoint is not None:
                states = {name: module.state_dict() for name, module in modules.items()}
                more = {"optimiser": optimiser.state_dict(), "step": step + 1, "loss": mean_loss, "identity": identity}
                _save(checkpoint, states | more)
            yield Progress(network, average, step + 1, mean_loss)


def _groups(network: nn.Module, factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """The parameters, and apart from them those of children whose rate has a factor."""
    apart: list[dict[str, Any]] = [
        {"params": [*network.get_submodule(name).parameters()], "factor": factor} for name, factor in factors.items()
    ]
    theirs = {id(parameter) for group in apart for parameter in group["params"]}
    return [{"params": [p for p in network.parameters() if id(p) not in theirs]}, *apart]


def _rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step."""
    ramp = min((step + 1) / max(recipe.warmup, 1), 1.0)
    decay = 0.5 * (1 + math.cos(math.pi * step / recipe.steps)) if recipe.decay == "cosine" else 1.0
    return recipe.rate * ramp * decay


def _loss(network: nn.Module, loss: Loss, batch: Mapping[str, Tensor], recipe: Recipe, step: int) -> Tensor:
    """The loss of a step, whose randomness depends on (seed, step) alone."""
    device = next(network.parameters()).device
    of_loss, of_dropout = np.random.SeedSequence(recipe.seed, spawn_key=(step,)).generate_state(2).tolist()
    generator = torch.Generator()
    generator.manual_seed(of_loss)
    on_device = {name: value.to(device) for name, value in batch.items()}
    # Dropout draws from the default generator of its device and takes no other: it is seeded, then restored.
    of_device = torch.cuda.default_generators[device.index] if device.type == "cuda" else torch.default_generator
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        of_device.manual_seed(of_dropout)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.bfloat16):
            return loss(network, on_device, generator)


def _identity(recipe: Recipe, about: Mapping[str, Any]) -> dict[str, str]:
    """All that the weights depend on, as text; without the number of steps where the rate does not depend on it."""
    told = {name: value for name, value in asdict(recipe).items() if name != "steps" or recipe.decay == "cosine"}
    # Recipes have had these fields for less time than checkpoints have been around.
    for name, usual in (("momentum", (0.9, 0.999)), ("factors", {})):
        if told[name] == usual:
            del told[name]
    return {name: json.dumps(value, sort_keys=True, default=str) for name, value in {**told, **about}.items()}


def _restored(
    path: Path, modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer, identity: Mapping[str, str]
) -> tuple[int, float | None]:
    """Step and mean loss of a checkpoint, after loading it; one of another training is refused."""
    device = next(modules["network"].parameters()).device
    state = torch.load(path, map_location=device, weights_only=True)
    found = state.get("identity")
    if found is None:
        raise ValueError(f"{path} does not say what it was trained with, so it is not continued; remove or move it.")
    differing = [name for name in {**identity, **found} if found.get(name) != identity.get(name)]
    if differing:
        shown = (f"{name} {_short(found.get(name))} instead of {_short(identity.get(name))}" for name in differing)
        raise ValueError(f"{path} is of another training, with {', '.join(shown)}; give another folder, or remove it.")
    for name, module in modules.items():
        module.load_state_dict(state[name])
    optimiser.load_state_dict(state["optimiser"])
    return state["step"], state.get("loss")


def _short(text: str | None) -> str:
    return "nothing" if text is None else text if len(text) < 60 else text[:57] + "..."


def _save(path: Path, state: Mapping[str, Any]) -> None:
    temporary = path.with_name(path.name + ".part")
    torch.save(dict(state), temporary)
    temporary.replace(path)
