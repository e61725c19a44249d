"""The systems, each an expression of the parts: weights, parametrisation, guidance, step and grid.

Every loader takes `dataset` (whose weights), `device` and `precision`, and the arguments of its paper, and returns a
`DiffusionModel`. Weights are read when the first image is asked for, so that a loader costs nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from baselines.denoisers import Condition
    from baselines.schedules import Level
    from baselines.steps import Step

WEIGHTS = Path(__file__).parent / "weights"
PIXEL = {"shapes": ("shapes-pixel", (3, 32, 32))}
"""Data set to the weights of its class-conditional network in pixel space, and the shape of its images."""
CLASSIFIER = {"shapes": "shapes-classifier"}
"""Data set to the weights of its classifier of noisy images."""

_CODE = 1
"""Version of the sampling code; part of every model's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionModel:
    """A diffusion model ready to sample; what each attribute means stands in `genbench.contracts.Model`.

    Attributes:
        card: of the weights: file, digest, architecture and noise process.
        make_step: makes the step of one run.
        timesteps: the visited timesteps of the process, ascending.
        scale: of classifier-free guidance; 1 is none.
        classifier: card of a classifier of noisy images that guides the sampler, and its scale.
        clip: whether the predicted image is limited to [-1, 1] in every step.
    """

    card: Mapping[str, Any]
    make_step: Callable[[], Step]
    timesteps: Sequence[int]
    scale: float
    clip: bool
    device: str
    precision: str
    shape: tuple[int, int, int]
    classes: int
    conditioning: Literal["none", "label", "caption"] = "label"
    classifier: tuple[Mapping[str, Any], float] | None = None

    @property
    def key(self) -> str:
        """Digest of the weights and of the version of this code; arguments are part of the run's spec."""
        weights = self.card["sha256"] + (self.classifier[0]["sha256"] if self.classifier else "")
        return hashlib.sha256(f"{weights} {_CODE}".encode()).hexdigest()

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoising network an image; a classifier's are not counted."""
        return len(self.timesteps) * (1 if self.scale == 1 else 2)

    def grid(self) -> list[Level]:
        """The noise levels that are visited, descending, ending on the clean image."""
        from baselines import schedules

        process = self.card["process"]
        return schedules.discrete_grid(schedules.betas(process["schedule"], process["steps"]), self.timesteps)

    def sample(
        self,
        seeds: NDArray[np.uint64],
        *,
        labels: NDArray[np.int64] | None = None,
        captions: Sequence[str] | None = None,
        watch: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Images of the given seeds and labels, float32 (b, 3, h, w), nominally in [-1, 1]."""
        return self.trajectory(seeds, labels=labels, watch=None if watch is None else lambda i, n, x: watch(i, n))

    def trajectory(
        self,
        seeds: NDArray[np.uint64],
        *,
        labels: NDArray[np.int64] | None = None,
        watch: Callable[[int, int, Tensor], None] | None = None,
    ) -> Tensor:
        """As `sample`, calling watch(steps done, steps, x) with the state after every step."""
        import torch

        from baselines import guidance
        from baselines.denoisers import denoiser
        from baselines.noise import image_noise
        from baselines.sampling import sample

        process = self.card["process"]
        network = _network(self.card["name"], self.device, self.precision)
        dtype = getattr(torch, self.precision)

        def predict(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
            # Steps that add noise leave another memory format behind, in which convolutions take twice the time.
            return network(x.to(dtype).contiguous(memory_format=torch.channels_last), t, **condition).float()

        denoise = denoiser(predict, process["kind"], learned_variance=process["learned_variance"])
        denoise = guidance.classifier_free(
            denoise, scale=self.scale, null={"y": torch.tensor([process["null_label"]], device=self.device)}
        )
        if self.clip:
            denoise = guidance.on_x0(denoise, guidance.clip)
        if self.classifier is not None:
            about, strength = self.classifier
            denoise = guidance.classifier(denoise, _log_probability(about["name"], self.device), scale=strength)
        if labels is None:
            y = torch.full((len(seeds),), process["null_label"], device=self.device)
        else:
            y = torch.as_tensor(labels, device=self.device)
        noise = image_noise(torch.from_numpy(seeds.view("int64")).to(self.device))
        x = noise(0, torch.empty(len(seeds), *self.shape, device=self.device))
        x = x.contiguous(memory_format=torch.channels_last)
        grid = self.grid()
        report = None if watch is None else lambda i, state: watch(i + 1, len(grid) - 1, state)
        return sample(denoise, self.make_step(), grid, x, noise, {"y": y}, watch=report)


def card(name: str) -> dict[str, Any]:
    """The card of shipped weights.

    Raises:
        FileNotFoundError: no such weights in this installation.
    """
    path = WEIGHTS / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"The weights {name!r} are not in {WEIGHTS}; scripts/train_baselines.py makes them.")
    return json.loads(path.read_text(encoding="utf-8"))


@cache
def _network(name: str, device: str, precision: str) -> nn.Module:
    """The network of shipped weights, verified against its card; kept, because every batch asks for it."""
    import torch
    from safetensors.torch import load

    from baselines.networks.classifier import Classifier, ClassifierConfig
    from baselines.networks.unet import UNet, UNetConfig

    about = card(name)
    content = (WEIGHTS / about["file"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise FileNotFoundError(f"{WEIGHTS / about['file']} is not the file its card describes: the digests differ.")
    network: nn.Module
    settings = dict(about["network"])
    if "trunk" in settings:
        network = Classifier(ClassifierConfig(**settings | {"trunk": UNetConfig(**_tuples(settings["trunk"]))}))
    else:
        network = UNet(UNetConfig(**_tuples(settings)))
    network.load_state_dict({k: v.float() for k, v in load(content).items()})
    network.requires_grad_(requires_grad=False).eval()
    return network.to(device=device, dtype=getattr(torch, precision)).to(memory_format=torch.channels_last)


def _tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where a configuration has tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}


def _log_probability(name: str, device: str) -> Callable[[Tensor, Level, Condition], Tensor]:
    """log p(y | x, t) of a shipped classifier, in float32 whatever the precision of the denoising network."""
    import torch

    network = _network(name, device, "float32")

    def log_probability(x: Tensor, level: Level, condition: Condition) -> Tensor:
        logits = network(x, torch.full((len(x),), level.t, device=x.device))
        return logits.log_softmax(dim=-1).gather(1, condition["y"][:, None])[:, 0]

    return log_probability


def _pixel_model(
    make_step: Callable[[], Step],
    *,
    dataset: str,
    device: str,
    precision: str,
    steps: int,
    spacing: str,
    clip: bool,
    scale: float = 1.0,
    classifier: tuple[Mapping[str, Any], float] | None = None,
) -> DiffusionModel:
    from baselines.schedules import subsequence

    if dataset not in PIXEL:
        raise ValueError(
            f"There are no weights for the data set {dataset!r}; there are weights for {', '.join(PIXEL)}."
        )
    weights, shape = PIXEL[dataset]
    about = card(weights)
    return DiffusionModel(
        card=about, make_step=make_step, timesteps=subsequence(steps, about["process"]["steps"], spacing),
        scale=scale, clip=clip, device=device, precision=precision, shape=shape, classifier=classifier,
        classes=about["process"]["null_label"],
    )  # fmt: skip


def ddpm(
    *, dataset: str, device: str, precision: str,
    steps: int = 1000, variance: Literal["small", "large", "learned"] = "large",
    spacing: str = "respaced", clip: bool = True,
) -> DiffusionModel:  # fmt: skip
    """Denoising diffusion probabilistic models, ancestral sampling.

    Args:
        steps: of the process's, chosen by `spacing` (`baselines.schedules.subsequence`).
        variance: "large" (the paper's choice on CIFAR-10), "small" (on 256x256 images) or "learned".
        clip: limit the predicted image to [-1, 1] in every step, as the original code does.

    Source: Ho et al. 2020 Alg. 2; hojonathanho/diffusion.
    """
    if variance not in ("small", "large", "learned"):
        raise ValueError(f"variance is small, large or learned; got {variance!r}.")

    def make_step() -> Step:
        from baselines import steps as samplers

        return samplers.ddpm(variance)

    return _pixel_model(
        make_step, dataset=dataset, device=device, precision=precision, steps=steps, spacing=spacing, clip=clip
    )


def ddim(
    *, dataset: str, device: str, precision: str,
    steps: int = 50, eta: float = 0.0, spacing: str = "uniform", clip: bool = True,
) -> DiffusionModel:  # fmt: skip
    """Denoising diffusion implicit models.

    Args:
        eta: 0 is deterministic given the starting noise, 1 is ancestral with the small variance.
        spacing: "uniform" or "quadratic" in the paper; others in `baselines.schedules.subsequence`.
        clip: limit the predicted image to [-1, 1] and derive the noise from it, as guided-diffusion
            does and the paper's own code does not.

    Source: Song et al. 2021 eq. 12; ermongroup/ddim.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta lies in [0, 1]; got {eta}.")

    def make_step() -> Step:
        from baselines import steps as samplers

        return samplers.ddim(eta)

    return _pixel_model(
        make_step, dataset=dataset, device=device, precision=precision, steps=steps, spacing=spacing, clip=clip
    )


def _guided_step(sampler: str, eta: float) -> Callable[[], Step]:
    if sampler not in ("ancestral", "ddim"):
        raise ValueError(f"sampler is ancestral or ddim; got {sampler!r}.")

    def make_step() -> Step:
        from baselines import steps as samplers

        return samplers.ddpm("learned") if sampler == "ancestral" else samplers.ddim(eta)

    return make_step


def cfg(
    *, dataset: str, device: str, precision: str,
    scale: float = 1.5, steps: int = 50, sampler: str = "ddim", eta: float = 0.0, spacing: str = "respaced",
    clip: bool = True,
) -> DiffusionModel:  # fmt: skip
    """Classifier-free guidance of a class-conditional network that was trained with label dropout.

    Args:
        scale: s of eps_u + s (eps_c - eps_u); 1 is the conditional model and 0 the unconditional one.
            The paper's w is s - 1.
        sampler: "ancestral", with the learned variance, or "ddim", with `eta`.

    Source: Ho and Salimans 2022 Alg. 2. Differs: discrete time, and the variance is learned instead of interpolated.
    """
    return _pixel_model(
        _guided_step(sampler, eta), dataset=dataset, device=device, precision=precision, steps=steps, spacing=spacing,
        clip=clip, scale=scale,
    )  # fmt: skip


def adm_g(
    *, dataset: str, device: str, precision: str,
    scale: float = 1.0, steps: int = 250, sampler: str = "ancestral", eta: float = 0.0, spacing: str = "respaced",
    clip: bool = True,
) -> DiffusionModel:  # fmt: skip
    """Guidance of a class-conditional network by the gradient of a classifier of noisy images.

    Args:
        scale: of the gradient; 0 is no guidance. Scales of the two samplers are not comparable.
        sampler: "ancestral" shifts the mean by the learned variance times the gradient (Alg. 1), "ddim" shifts the
            predicted noise (Alg. 2).

    Source: Dhariwal and Nichol 2021 Alg. 1 and 2; openai/guided-diffusion `classifier_sample.py`.
    """
    if dataset not in CLASSIFIER:
        raise ValueError(f"There is no classifier for {dataset!r}; there are classifiers for {', '.join(CLASSIFIER)}.")
    return _pixel_model(
        _guided_step(sampler, eta), dataset=dataset, device=device, precision=precision, steps=steps, spacing=spacing,
        clip=clip, classifier=(card(CLASSIFIER[dataset]), scale),
    )  # fmt: skip
