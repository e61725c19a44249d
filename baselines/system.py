"""A model that is ready to sample: weights, a sampler, a denoiser, a start and a decoding, each exchangeable."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from baselines import likelihood
from baselines.analytic import Known
from baselines.conditions import Given, conditions
from baselines.denoisers import Condition, Denoiser, Output, Prediction, rescaled
from baselines.files.weights import Weights
from baselines.guidance import clip as limit
from baselines.guidance import on_x0
from baselines.noise import Noise, image_noise
from baselines.sampling import Sampler
from baselines.schedules import Grid, Level

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a sampler shows after a step: the state x, and the clean image it was predicted to become, both as images,
    float32 (b, 3, h, w), nominally in [-1, 1]."""

    done: int
    steps: int
    x: Tensor
    predicted: Tensor


Bits = Callable[[Weights, Given, Tensor, Noise, float], Tensor]
"""bits(weights, given, images, noise, tolerance) is the negative log-likelihood of uint8 images, in bits a dimension,
float64 (b,). The weights are in float32. What adapts its steps has the tolerance, what does not ignores it."""
Build = Callable[[Weights, Given], tuple[Denoiser, Condition]]
"""build(weights, given) is the denoiser of one batch with its guidance, and the condition that it is called with."""


def conditional(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
    """The network alone, told what was asked for."""
    return weights.denoiser(), told(weights, given)[0]


def told(weights: Weights, given: Given) -> tuple[Condition, Condition]:
    """Returns the condition, and the null condition for guidance, which is empty if the networks have none."""
    if isinstance(weights, _Rehearsal):
        return weights.condition, weights.condition
    condition, null = conditions(weights, given)
    return condition, null or {}


def fresh(noise: Noise, like: Tensor, given: Given) -> Tensor:
    """Draw 0 of the noise, where a walk from pure noise starts."""
    return noise(0, like)


def scaled(sigma: float) -> Callable[[Noise, Tensor, Given], Tensor]:
    """Draw 0 of the noise with this standard deviation, where a walk on another process than that of DDPM starts."""
    return lambda noise, like, given: sigma * noise(0, like)


def starting(p: Level) -> Callable[[Noise, Tensor, Given], Tensor]:
    """Draw 0 of the noise on the first level of a walk: as it is where variance is preserved, else scaled to it."""
    return scaled(p.sigma) if p.alpha == 1.0 else fresh


def elsewhere(*, clip: bool) -> Build:
    """The network alone, on the levels of any process; optionally with its image limited to [-1, 1]."""

    def build(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        denoise, condition = conditional(weights, given)
        denoise = rescaled(denoise, weights.trained)
        return on_x0(denoise, limit) if clip else denoise, condition

    return build


def by_flow(weights: Weights, given: Given, images: Tensor, noise: Noise, tolerance: float) -> Tensor:
    """The likelihood of the network's flow, from the least noise of its training to a ratio of 80 or the most noise."""
    denoise, condition = conditional(weights, given)
    process = weights.trained
    low, high = process.lowest, min(process.highest, 80.0)
    return likelihood.exact(
        denoise, process, images, noise, condition, low=low, high=high, rtol=tolerance, atol=tolerance
    )[0]


def by_chain(grid: Grid, variance: likelihood.Variance, build: Build, known: Known | None = None) -> Bits:
    """The bound of the chain that ancestral sampling walks, with its variance."""

    def bits(weights: Weights, given: Given, images: Tensor, noise: Noise, tolerance: float) -> Tensor:
        denoise, condition = build(weights, given)
        return likelihood.bound(denoise, grid, images.float() / 127.5 - 1, noise, condition, variance, known).cpu()

    return bits


FLOW: dict[str, Bits] = {"exact": by_flow}
"""The likelihood of systems that walk a flow, or whose chain has no bound."""


def decoded(weights: Weights, x: Tensor) -> Tensor:
    """The state as images: itself, or a decoded latent."""
    return weights.decode(x)


@dataclass(frozen=True, kw_only=True)
class System:
    """A generator of images as a composition; what a caller may rely on stands in `genbench.contracts.Model`.

    Attributes:
        weights: the trained networks, by their roles.
        sampler: brings the start to the result.
        build: makes the denoiser of a batch: network, guidance, clipping, in the order of the paper.
        start: the state that the sampler begins with.
        decode: the images of a state.
        takes: the conditions of `sample`, of {"labels", "captions", "images", "masks"}; None is those of the weights.
        state: shape of one image's state; None is that of the latents or images of the weights.
        measured: what the images depend on beside weights, arguments and code, such as variances that were measured.
        bits: the likelihoods that it gives, by kind: "exact" by its flow, "bound" by its chain or its own bound.
    """

    weights: Weights
    sampler: Sampler
    build: Build = conditional
    start: Callable[[Noise, Tensor, Given], Tensor] = fresh
    decode: Callable[[Weights, Tensor], Tensor] = decoded
    takes: frozenset[str] = None  # type: ignore[assignment]
    state: tuple[int, ...] = None  # type: ignore[assignment]
    measured: str = ""
    bits: Mapping[str, Bits] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Fills in what the weights say."""
        if self.takes is None:
            object.__setattr__(self, "takes", self.weights.release.takes)
        if self.state is None:
            object.__setattr__(self, "state", self.weights.release.state)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the images, (c, h, w)."""
        return self.weights.release.shape

    @property
    def classes(self) -> int:
        """Number of classes that labels choose among, 0 without labels."""
        return self.weights.release.classes if "labels" in self.takes else 0

    @property
    def key(self) -> str:
        """Digest of the weights and of the version of this code; arguments are part of the run's spec."""
        key = self.weights.key
        return hashlib.sha256(f"{key} {self.measured}".encode()).hexdigest() if self.measured else key

    @property
    def evaluations(self) -> float | None:
        """Evaluations of denoising networks an image. A classifier's are not counted.

        They are counted in a rehearsal. Where that cannot be, because they depend on the image, it is the mean over the
        images sampled so far, and None before the first one.
        """
        if self._rehearsed is not None or not self._counts:
            return self._rehearsed
        return sum(done for done, _ in self._counts) / sum(images for _, images in self._counts)

    @cached_property
    def _rehearsed(self) -> int | None:
        """Evaluations of one small image whose values nobody may look at, by networks that only count."""
        rehearsal = _Rehearsal(release=self.weights.release, device="cpu", precision="float32")
        sides = [min(side, 8) for side in self.state[1:]]
        x = torch.zeros(1, *self.state[:1], *sides).as_subclass(_Unseen)
        try:
            denoise, condition = self.build(rehearsal, self._anything(sides))
            with torch.no_grad():
                self.sampler(denoise, x, lambda draw, like, stream=0: like, condition)
        except Exception:  # of whatever a system does with values; where it is an error, sampling tells it
            return None
        return rehearsal.counted[0]

    def _anything(self, sides: Sequence[int]) -> Given:
        """Conditions of one image that mean nothing, those that this model takes."""
        one = torch.zeros(1, dtype=torch.int64)
        known: dict[str, Any] = {
            "labels": one,
            "captions": [""],
            "images": torch.zeros(1, self.shape[0], *sides),
            "masks": torch.zeros(1, 1, *sides),
        }
        return Given(seeds=one, **{name: value for name, value in known.items() if name in self.takes})

    @cached_property
    def _counts(self) -> list[tuple[int, int]]:
        """Evaluations and images of every batch so far, where they could not be rehearsed."""
        return []

    def sample(
        self,
        seeds: NDArray[np.uint64],
        *,
        watch: Callable[[int, int], None] | None = None,
        view: Callable[[View], None] | None = None,
        **given: Any,
    ) -> Tensor:
        """Images of the given seeds and conditions, float32 (b, 3, h, w), nominally in [-1, 1].

        Args:
            seeds: (b,) uint64; image i depends on seeds[i] and on its own conditions alone.
            watch: called as watch(done, total) after every step.
            view: called after every step with what it saw, see `trajectory`.
            given: the conditions that `takes` names, see `baselines.conditions.Given`.

        Raises:
            ValueError: a condition that this model does not take, or weights that do not fit.
            FileNotFoundError: weights that are not there.
        """
        asked, predicted = self._given(seeds, given), list[Tensor]()
        weights = self.weights if self._rehearsed is not None else _Counting.of_weights(self.weights)
        denoise, condition = self.build(weights, asked)
        if view is not None:
            denoise = _recorded(denoise, predicted)
        noise = image_noise(asked.seeds)
        x = self.start(noise, torch.empty(len(seeds), *self.state, device=self.weights.device), asked)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)

        def report(done: int, steps: int, x: Tensor) -> None:
            if watch is not None:
                watch(done, steps)
            if view is not None:
                both = self.decode(self.weights, x), self.decode(self.weights, predicted[-1])
                view(View(done=done, steps=steps, x=both[0], predicted=both[1]))

        with torch.no_grad():
            x = self.sampler(denoise, x, noise, condition, report)
        if isinstance(weights, _Counting):
            self._counts.append((weights.counted[0], len(seeds)))
        return self.decode(self.weights, x)

    def trajectory(self, seeds: NDArray[np.uint64], *, watch: Callable[[View], None], **given: Any) -> Tensor:
        """Samples as `sample` does, and calls `watch` after every step with what it saw. Latents are decoded for it."""
        return self.sample(seeds, view=watch, **given)

    @property
    def likelihoods(self) -> frozenset[str]:
        """The kinds of likelihood that `nll` gives, of {"exact", "bound"}."""
        return frozenset(self.bits)

    def nll(
        self, images: Tensor, seeds: NDArray[np.uint64], *, kind: str, tolerance: float = 1e-5, **given: Any
    ) -> Tensor:
        """Negative log-likelihood of images in bits a dimension, float64 (b,), by networks in float32.

        Args:
            images: uint8 (b, c, h, w).
            seeds: (b,) uint64, of the noise that is drawn for each image.
            kind: one of `likelihoods`.
            tolerance: relative and absolute, of what adapts its steps.
            given: the conditions of the images, as of `sample`.

        Raises:
            ValueError: a kind that this model does not give, or what `sample` refuses.
        """
        if kind not in self.bits:
            there = ", ".join(sorted(self.bits)) or "none"
            raise ValueError(f"This model gives no likelihood of kind {kind!r}; it gives {there}.")
        asked = self._given(seeds, given)
        weights = replace(self.weights, precision="float32", compiled=False)
        with torch.no_grad():
            return self.bits[kind](weights, asked, images.to(weights.device), image_noise(asked.seeds), tolerance)

    def _given(self, seeds: NDArray[np.uint64], given: dict[str, Any]) -> Given:
        """The conditions on the device of the model."""
        there = {name: value for name, value in given.items() if value is not None}
        if unknown := [name for name in there if name not in self.takes]:
            raise ValueError(
                f"This model takes no {', '.join(unknown)}; it takes {', '.join(sorted(self.takes)) or 'seeds alone'}."
            )
        device = self.weights.device
        placed: dict[str, Any] = {
            k: v if k == "captions" else torch.as_tensor(v, device=device) for k, v in there.items()
        }
        return Given(seeds=torch.from_numpy(seeds.view("int64")).to(device), **placed)


@dataclass(frozen=True, kw_only=True)
class Cascade:
    """Small images by one model, enlarged by the next, which sees them, and so on.

    Attributes:
        stages: the models. All but the first take "images".
        between: what the next model sees of the images of the one before it.
    """

    stages: Sequence[System]
    between: Callable[[Tensor], Tensor]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the images of the last stage, (c, h, w)."""
        return self.stages[-1].shape

    @property
    def classes(self) -> int:
        """Number of classes of the last stage."""
        return self.stages[-1].classes

    @property
    def takes(self) -> frozenset[str]:
        """The conditions of the first stage, which every stage is given that takes them."""
        return self.stages[0].takes

    @property
    def key(self) -> str:
        """Digest of the weights of all stages."""
        return hashlib.sha256(" ".join(stage.key for stage in self.stages).encode()).hexdigest()

    @property
    def evaluations(self) -> float | None:
        """Evaluations of the denoising networks of all stages, None where those of one are not known yet."""
        each = [stage.evaluations for stage in self.stages]
        return None if None in each else sum(count or 0 for count in each)

    def sample(
        self, seeds: NDArray[np.uint64], *, watch: Callable[[int, int], None] | None = None, **given: Any
    ) -> Tensor:
        """Samples as `System.sample` does. The steps of all stages are counted through, as if all were as long."""
        x: Tensor | None = None
        steps: list[int] = []

        def report(done: int, total: int) -> None:
            steps[-1] = total
            if watch is not None:
                rest = total * (len(self.stages) - len(steps))
                watch(sum(steps[:-1]) + done, sum(steps) + rest)

        for i, stage in enumerate(self.stages):
            steps.append(0)
            mine = {name: value for name, value in given.items() if name in stage.takes}
            if x is not None:
                mine["images"] = self.between(x)
            # The seeds of every walk are others, or all would start from the same noise.
            mixed = seeds ^ seeds.dtype.type((i * 0x5851F42D4C957F2D) % 2**64)
            x = stage.sample(mixed, watch=report, **mine)
        assert x is not None
        return x


def _recorded(denoise: Denoiser, predicted: list[Tensor]) -> Denoiser:
    """The same denoiser, which leaves its last predicted image in a list."""

    def recorded(x: Tensor, level: Level, condition: Condition) -> Prediction:
        prediction = denoise(x, level, condition)
        predicted[:] = [prediction.x0]
        return prediction

    return recorded


class _Unseen(Tensor):
    """A tensor whose values are not to be looked at, such as by a solver that adapts its step to them."""

    def _look(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("The number of evaluations depends on the values of the image.")

    __bool__ = __float__ = __int__ = __index__ = item = tolist = numpy = _look


class _Counting(Weights):
    """Weights that count the images that their denoisers are called with."""

    @classmethod
    def of_weights(cls, weights: Weights) -> _Counting:
        """The same weights, counting."""
        return cls(**{f.name: getattr(weights, f.name) for f in fields(weights)})

    @cached_property
    def counted(self) -> list[int]:
        """The images so far, as a list of one."""
        return [0]

    def output(self, role: str = "unet") -> Output:
        """Returns the network of a role, which counts its calls."""
        inner = super().output(role)

        def output(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
            self.counted[0] += len(x)
            return inner(x, t, condition)

        return output


class _Rehearsal(_Counting):
    """Weights whose networks compute nothing and count the images that they are called with."""

    @property
    def condition(self) -> Condition:
        """A condition under every name that networks take."""
        nothing = torch.zeros(1, dtype=torch.int64)
        return {"y": nothing, "context": nothing, "low_res": nothing}

    def denoiser(self, role: str = "unet") -> Denoiser:
        """A denoiser that counts."""

        def denoise(x: Tensor, level: Level, condition: Condition) -> Prediction:
            self.counted[0] += len(x)
            return Prediction(x, x, x if self.release.parts[role].learned_variance else None)

        return denoise

    def output(self, role: str = "unet") -> Output:
        """A network that counts and returns as many channels of its input as images have."""

        def output(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
            self.counted[0] += len(x)
            return x[:, : self.release.state[0]]

        return output

    def network(self, role: str, precision: str | None = None) -> Any:
        """A network that counts and returns its input."""

        def network(x: Tensor, *args: Any, **given: Any) -> Tensor:
            self.counted[0] += len(x)
            return x

        return network

    def log_probability(self, role: str = "classifier") -> Callable[[Tensor, Level, Condition], Tensor]:
        """A classifier that is not counted."""
        return lambda x, level, condition: x.flatten(1).sum(1)
