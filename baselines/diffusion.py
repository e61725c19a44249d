"""A diffusion model that is ready to sample: weights, parametrisation, guidance, step and grid put together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from baselines.releases import Release

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from baselines.denoisers import Condition, Denoiser, Prediction
    from baselines.schedules import Level
    from baselines.sources import Fetch
    from baselines.steps import Step

_CODE = 1
"""Version of the sampling code; part of every model's key."""

Conditioning = Literal["none", "label", "caption"]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a sampler shows after a step: the state x, and the clean image it was predicted to become, both as images,
    float32 (b, 3, h, w), nominally in [-1, 1]."""

    done: int
    steps: int
    x: Tensor
    predicted: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionModel:
    """What the attributes that are not listed mean stands in `genbench.contracts.Model`.

    Attributes:
        release: the weights.
        make_step: makes the step of one run.
        timesteps: the visited timesteps of the process, ascending.
        last: where the last step lands: "clean", or "first", the noise level of timestep 0 (latent diffusion).
        scale: of classifier-free guidance; 1 is none.
        gradient: scale of the gradient of the release's classifier; 0 is none.
        clip: whether the predicted image is limited to [-1, 1] in every step.
        fetch: where published files are found.
    """

    release: Release
    make_step: Callable[[], Step]
    timesteps: Sequence[int]
    last: Literal["clean", "first"] = "clean"
    scale: float = 1.0
    gradient: float = 0.0
    clip: bool = True
    device: str
    precision: str
    conditioning: Conditioning = "label"
    fetch: Fetch | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.release.shape

    @property
    def classes(self) -> int:
        return self.release.classes if self.conditioning == "label" else 0

    @property
    def key(self) -> str:
        """Digest of the weights and of the version of this code; arguments are part of the run's spec."""
        from baselines import sources

        digests = [f"{role} {sources.sha256(file, self.fetch)}" for role, file in sorted(self._used().items())]
        return hashlib.sha256(f"{digests} {_CODE}".encode()).hexdigest()

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoising network an image; a classifier's are not counted."""
        return len(self.timesteps) * (1 if self.scale == 1 else 2)

    def _used(self) -> dict[str, str]:
        """The networks that this model runs, by role."""
        idle = {"classifier": not self.gradient, "unconditional": self.scale == 1}
        return {role: file for role, file in self.release.networks.items() if not idle.get(role)}

    def _network(self, role: str, precision: str | None = None) -> Any:
        from baselines import sources

        return sources.network(self.release, role, self.device, precision or self.precision, self.fetch)

    def grid(self) -> list[Level]:
        """The noise levels that are visited, descending."""
        from baselines import schedules

        p = self.release.process
        beta = schedules.betas(p.schedule, p.steps, low=p.low, high=p.high)
        clean = schedules.CLEAN
        if self.last == "first":
            clean = schedules.discrete_grid(beta, [0])[0]
        return schedules.discrete_grid(beta, self.timesteps, last=clean)

    def sample(
        self,
        seeds: NDArray[np.uint64],
        *,
        labels: NDArray[np.int64] | None = None,
        captions: Sequence[str] | None = None,
        low_res: Tensor | None = None,
        watch: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Images of the given seeds and conditions, float32 (b, 3, h, w), nominally in [-1, 1].

        Args:
            low_res: (b, 3, h', w') in [-1, 1], the small images that an upsampler enlarges.
        """
        return self._decode(self._walk(seeds, labels, captions, watch, None, low_res))

    def trajectory(
        self,
        seeds: NDArray[np.uint64],
        *,
        labels: NDArray[np.int64] | None = None,
        captions: Sequence[str] | None = None,
        watch: Callable[[View], None],
    ) -> Tensor:
        """As `sample`, calling `watch` after every step with what it saw. Latents are decoded for it."""
        return self._decode(self._walk(seeds, labels, captions, None, watch))

    def _walk(
        self,
        seeds: NDArray[np.uint64],
        labels: NDArray[np.int64] | None,
        captions: Sequence[str] | None,
        watch: Callable[[int, int], None] | None,
        view: Callable[[View], None] | None,
        low_res: Tensor | None = None,
    ) -> Tensor:
        """The state on the last level."""
        import torch

        from baselines.noise import image_noise
        from baselines.sampling import sample

        condition, null = self._conditions(len(seeds), labels, captions)
        if low_res is not None:
            condition["low_res"] = low_res
        denoise = self._denoiser(null)
        predicted: list[Tensor] = []
        if view is not None:
            denoise = _recorded(denoise, predicted)
        noise = image_noise(torch.from_numpy(seeds.view("int64")).to(self.device))
        x = noise(0, torch.empty(len(seeds), *self._state_shape(), device=self.device))
        x = x.contiguous(memory_format=torch.channels_last)
        grid = self.grid()

        def report(i: int, state: Tensor) -> None:
            if watch is not None:
                watch(i + 1, len(grid) - 1)
            if view is not None:
                both = self._decode(state), self._decode(predicted[-1])
                view(View(done=i + 1, steps=len(grid) - 1, x=both[0], predicted=both[1]))

        watched = watch is not None or view is not None
        return sample(denoise, self.make_step(), grid, x, noise, condition, watch=report if watched else None)

    def _state_shape(self) -> tuple[int, int, int]:
        c, h, w = self.shape
        latent = self.release.latent
        return (c, h, w) if latent is None else (latent.channels, h // latent.factor, w // latent.factor)

    def _denoiser(self, null: Condition | None) -> Denoiser:
        from baselines import guidance

        predict = self._predictor("unet")
        denoise = predict
        if self.scale != 1:
            other = self._predictor("unconditional") if "unconditional" in self.release.networks else None
            denoise = guidance.classifier_free(predict, scale=self.scale, null=null or {}, unconditional=other)
        if self.clip:
            denoise = guidance.on_x0(denoise, guidance.clip)
        if self.gradient:
            denoise = guidance.classifier(denoise, self._log_probability(), scale=self.gradient)
        return denoise

    def _predictor(self, role: str) -> Denoiser:
        """The denoiser of one U-Net, which is given of a condition what it has a use for."""
        import torch

        from baselines.denoisers import denoiser

        network, process = self._network(role), self.release.process
        dtype = getattr(torch, self.precision)
        config = network.config
        takes = {name for name, has in (("y", config.classes), ("context", config.context)) if has is not None}
        takes |= {"low_res"} if config.low_resolution else set()

        def predict(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
            given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in condition.items() if k in takes}
            # Steps that add noise leave another memory format behind, in which convolutions take twice the time.
            return network(x.to(dtype).contiguous(memory_format=torch.channels_last), t, **given).float()

        return denoiser(predict, process.kind, learned_variance=process.learned_variance)

    def _conditions(
        self, count: int, labels: NDArray[np.int64] | None, captions: Sequence[str] | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """What the networks are told, and what tells them nothing."""
        import torch

        r = self.release
        if self.conditioning == "none":
            return {}, None
        if r.tokenizer:
            if self.conditioning == "label":
                captions = [""] * count if labels is None else [r.class_captions[int(y)] for y in labels]
            if captions is None:
                raise ValueError("This model needs a caption an image.")
            return {"context": self._context(captions)}, {"context": self._context([""])}
        if labels is None:
            if r.null is None:
                raise ValueError("This model needs a label an image.")
            y = torch.full((count,), r.null, device=self.device)
        else:
            y = torch.as_tensor(labels, device=self.device)
        null = None if r.null is None else torch.tensor([r.null], device=self.device)
        if "condition" in r.networks:
            table = self._network("condition", "float32")
            return {"context": table(y)}, None if null is None else {"context": table(null)}
        return {"y": y}, None if null is None else {"y": null}

    def _context(self, captions: Sequence[str]) -> Tensor:
        """Context tokens of captions, float32; every caption once, because prompts repeat."""
        import torch

        encoder = self._network("condition", "float32")
        length = encoder.config.length
        # One at a time: a caption's context must not depend on what else is in the batch, to the last bit.
        found = {c: encoder(self._tokens(c, length).to(self.device)) for c in dict.fromkeys(captions)}
        return torch.cat([found[caption] for caption in captions])

    def _tokens(self, caption: str, length: int) -> Tensor:
        from baselines import releases, sources, text

        networks = self.release.networks
        if self.release.tokenizer == "words":
            return text.tokenize([caption], releases.card(networks["condition"])["vocabulary"], length)
        if self.release.tokenizer == "clip":
            return text.clip([caption], length)
        return text.bert([caption], sources.locate(networks["vocabulary"], self.fetch), length)

    def _log_probability(self) -> Callable[[Tensor, Level, Condition], Tensor]:
        """log p(y | x, t) of the classifier, in float32 whatever the precision of the denoising network."""
        import torch

        network = self._network("classifier", "float32")

        def log_probability(x: Tensor, level: Level, condition: Condition) -> Tensor:
            logits = network(x, torch.full((len(x),), level.t, device=x.device))
            return logits.log_softmax(dim=-1).gather(1, condition["y"][:, None])[:, 0]

        return log_probability

    def _decode(self, z: Tensor) -> Tensor:
        """Images of states: themselves, or decoded latents."""
        import torch

        if self.release.latent is None:
            return z
        from baselines import sources

        scale = sources.latent_scale(self.release, self._network("unet"))
        with torch.no_grad():
            decoder = self._network("first_stage")
            return decoder.decode((z / scale).to(getattr(torch, self.precision))).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """Small images by one model, enlarged by another that sees them.

    Source:
        Dhariwal and Nichol 2021 sec. 4.4; openai/guided-diffusion `super_res_sample.py`, which reads the small images
        from 8-bit files, truncated as its sampling script leaves them.
    """

    base: DiffusionModel
    upsampler: DiffusionModel

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.upsampler.shape

    @property
    def classes(self) -> int:
        return self.upsampler.classes

    @property
    def conditioning(self) -> Conditioning:
        return self.upsampler.conditioning

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.base.key} {self.upsampler.key}".encode()).hexdigest()

    @property
    def evaluations(self) -> int:
        """Of both networks."""
        return self.base.evaluations + self.upsampler.evaluations

    def sample(
        self,
        seeds: NDArray[np.uint64],
        *,
        labels: NDArray[np.int64] | None = None,
        captions: Sequence[str] | None = None,
        watch: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """As `DiffusionModel.sample`; the steps of both are counted through."""
        first = len(self.base.timesteps)
        total = first + len(self.upsampler.timesteps)

        def told(offset: int) -> Callable[[int, int], None] | None:
            return None if watch is None else lambda done, _: watch(offset + done, total)

        small = self.base.sample(seeds, labels=labels, captions=captions, watch=told(0))
        levels = ((small + 1) * 127.5).clamp(0, 255).floor()
        # The seeds of the second walk are others, or both would start from the same noise.
        return self.upsampler.sample(
            seeds ^ seeds.dtype.type(0x5851F42D4C957F2D), labels=labels, low_res=levels / 127.5 - 1, watch=told(first)
        )


def _recorded(denoise: Denoiser, predicted: list[Tensor]) -> Denoiser:
    """The same denoiser, which leaves its last predicted image in a list."""

    def recorded(x: Tensor, level: Level, condition: Condition) -> Prediction:
        prediction = denoise(x, level, condition)
        predicted[:] = [prediction.x0]
        return prediction

    return recorded
