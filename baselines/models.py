"""The systems, each an expression of the parts: weights, parametrisation, guidance, step and grid.

Every loader takes `dataset` (whose weights), `device` and `precision`, and the arguments of its paper, and returns a
`DiffusionModel`. `loader.presets` says for which data sets there are weights and what the paper did there. Weights are
read when the first image is asked for, so that a loader costs nothing. All loaders take

    weights: a file to use instead: a path, or the name of a card in `baselines.published` or of a release.
    config: what network it holds, where that is another than the data set's: a name in `baselines.configurations`, or
        the path of a .json file of arguments in the names of the original repository.
    fetch: finds published files; given by whoever has a cache, see `baselines.sources.Fetch`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from baselines import releases
from baselines.diffusion import Cascade, Conditioning, DiffusionModel
from baselines.releases import Preset, Release

if TYPE_CHECKING:
    from baselines.sources import Fetch
    from baselines.steps import Step

Loader = TypeVar("Loader", bound=Callable[..., DiffusionModel | Cascade])


def with_presets(presets: Mapping[str, Preset]) -> Callable[[Loader], Loader]:
    """Says on which data sets a system has weights; whoever runs it fills in the arguments that were not given."""

    def attach(loader: Loader) -> Loader:
        described: Any = loader  # functions may have attributes, which their types cannot say
        described.presets = presets
        return loader

    return attach


def choose(presets: Mapping[str, Preset], dataset: str, weights: str | None, config: str | None) -> Release:
    """The release that is sampled from.

    Raises:
        ValueError: a data set without weights, none given; or weights of which nothing says what they hold.
    """
    preset = presets.get(dataset)
    base = None if preset is None else releases.release(preset.release)
    if weights is None:
        if base is None:
            raise ValueError(
                f"There are no weights for the data set {dataset!r}; there are weights for {', '.join(presets)}. "
                "Your own are weights='PATH', config='NAME'."
            )
        if config is not None:
            raise ValueError(f"config={config!r} says what the file of weights= holds; give both.")
        return base
    if weights in releases.RELEASES or weights in releases.SHIPPED or releases.described(weights):
        return releases.release(weights)
    return releases.of_file(weights, config, base=base)


def _model(
    release: Release, make_step: Callable[[], Step], *, device: str, precision: str, fetch: Fetch | None, steps: int,
    spacing: str, clip: bool, scale: float = 1.0, gradient: float = 0.0, last: Literal["clean", "first"] = "clean",
    conditioning: Conditioning | None = None,
) -> DiffusionModel:  # fmt: skip
    from baselines.schedules import subsequence

    own: Conditioning = "caption" if release.tokenizer else "label" if release.classes else "none"
    return DiffusionModel(
        release=release, make_step=make_step, timesteps=subsequence(steps, release.process.steps, spacing), last=last,
        scale=scale, gradient=gradient, clip=clip, device=device, precision=precision,
        conditioning=conditioning or own, fetch=fetch,
    )  # fmt: skip


def _pixels(release: Release, system: str) -> Release:
    if release.latent is not None:
        raise ValueError(f"{system} samples in the space of pixels, and these weights are of latents; use ldm.")
    return release


@with_presets(releases.DDPM)
def ddpm(
    *, dataset: str, device: str, precision: str, fetch: Fetch | None = None,
    steps: int = 1000, variance: Literal["small", "large", "learned"] = "large",
    spacing: str = "respaced", clip: bool = True, weights: str | None = None, config: str | None = None,
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

    release = _pixels(choose(releases.DDPM, dataset, weights, config), "ddpm")
    if variance == "learned" and not release.process.learned_variance:
        raise ValueError("variance='learned' needs a network that predicts it, and this one does not.")
    return _model(
        release, make_step, device=device, precision=precision, fetch=fetch, steps=steps, spacing=spacing, clip=clip
    )


@with_presets(releases.DDIM)
def ddim(
    *, dataset: str, device: str, precision: str, fetch: Fetch | None = None,
    steps: int = 50, eta: float = 0.0, spacing: str = "uniform", clip: bool = True,
    weights: str | None = None, config: str | None = None,
) -> DiffusionModel:  # fmt: skip
    """Denoising diffusion implicit models.

    Args:
        eta: 0 is deterministic given the starting noise, 1 is ancestral with the small variance.
        spacing: "uniform" or "quadratic" in the paper; others in `baselines.schedules.subsequence`.
        clip: limit the predicted image to [-1, 1] and derive the noise from it, as guided-diffusion
            does and the paper's own code does not.

    Source: Song et al. 2021 eq. 12; ermongroup/ddim.
    """
    release = _pixels(choose(releases.DDIM, dataset, weights, config), "ddim")
    return _model(
        release, _implicit(eta), device=device, precision=precision, fetch=fetch, steps=steps, spacing=spacing,
        clip=clip,
    )  # fmt: skip


def _implicit(eta: float) -> Callable[[], Step]:
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta lies in [0, 1]; got {eta}.")

    def make_step() -> Step:
        from baselines import steps as samplers

        return samplers.ddim(eta)

    return make_step


def _guided_step(sampler: str, eta: float, release: Release) -> Callable[[], Step]:
    if sampler not in ("ancestral", "ddim"):
        raise ValueError(f"sampler is ancestral or ddim; got {sampler!r}.")
    if sampler == "ddim":
        return _implicit(eta)

    def make_step() -> Step:
        from baselines import steps as samplers

        return samplers.ddpm("learned" if release.process.learned_variance else "large")

    return make_step


@with_presets(releases.CFG)
def cfg(
    *, dataset: str, device: str, precision: str, fetch: Fetch | None = None,
    scale: float = 1.5, steps: int = 50, sampler: str = "ddim", eta: float = 0.0, spacing: str = "respaced",
    clip: bool = True, weights: str | None = None, config: str | None = None,
) -> DiffusionModel:  # fmt: skip
    """Classifier-free guidance of a class-conditional network that was trained with label dropout.

    Args:
        scale: s of eps_u + s (eps_c - eps_u); 1 is the conditional model and 0 the unconditional one.
            The paper's w is s - 1.
        sampler: "ancestral", with the variance that the network learned, or "ddim", with `eta`.

    Source: Ho and Salimans 2022 Alg. 2. Differs: discrete time, and the variance is learned instead of interpolated.
    """
    release = _pixels(choose(releases.CFG, dataset, weights, config), "cfg")
    if not release.classes or (release.null is None and "unconditional" not in release.networks):
        raise ValueError(
            "cfg needs a class-conditional network with a null class, or a second, unconditional one; these weights "
            "have neither."
        )
    return _model(
        release, _guided_step(sampler, eta, release), device=device, precision=precision, fetch=fetch, steps=steps,
        spacing=spacing, clip=clip, scale=scale,
    )  # fmt: skip


_SPACINGS = {"ancestral": "respaced", "ddim": "uniform"}
"""Sampler to the timesteps that guided-diffusion visits: its "250" and its "ddim25"."""


@with_presets(releases.ADM_G)
def adm_g(
    *, dataset: str, device: str, precision: str, fetch: Fetch | None = None,
    scale: float = 1.0, steps: int = 250, sampler: str = "ancestral", eta: float = 0.0, spacing: str | None = None,
    clip: bool = True, weights: str | None = None, config: str | None = None,
    classifier: str | None = None, classifier_config: str | None = None,
) -> DiffusionModel:  # fmt: skip
    """Guidance of a class-conditional network by the gradient of a classifier of noisy images.

    Args:
        scale: of the gradient; 0 is no guidance, for which no classifier is needed. Scales of the two samplers are not
            comparable.
        sampler: "ancestral" shifts the mean by the learned variance times the gradient (Alg. 1), "ddim" shifts the
            predicted noise (Alg. 2).
        spacing: None is that of the original code: "respaced" for ancestral sampling and "uniform" for DDIM, which so
            leaves out the last timestep. From there Alg. 2 divides the gradient by an alpha near 0 on cosine processes,
            and the images are lost.
        classifier, classifier_config: file of another classifier, and what network it holds, as `weights` and `config`
            are of the denoising network.

    Source: Dhariwal and Nichol 2021 Alg. 1 and 2; openai/guided-diffusion `classifier_sample.py`.
    """
    release = _pixels(choose(releases.ADM_G, dataset, weights, config), "adm-g")
    spacing = spacing or _SPACINGS.get(sampler, "respaced")
    if classifier is not None:
        told = classifier_config or ("classifier" in release.networks and release.configuration("classifier"))
        if not told:
            raise ValueError(
                f"Nothing says what network {classifier!r} holds; give classifier_config='adm-classifier64'."
            )
        release = replace(
            release, networks={**release.networks, "classifier": classifier},
            configurations={**release.configurations, "classifier": told},
        )  # fmt: skip
    if scale and "classifier" not in release.networks:
        raise ValueError(f"There is no classifier of noisy images for these weights; use scale=0.0, not {scale}.")
    return _model(
        release, _guided_step(sampler, eta, release), device=device, precision=precision, fetch=fetch, steps=steps,
        spacing=spacing, clip=clip, gradient=scale,
    )  # fmt: skip


@with_presets(releases.ADM_U)
def adm_u(
    *, dataset: str, device: str, precision: str, fetch: Fetch | None = None,
    scale: float = 1.0, steps: int = 250, sampler: str = "ancestral", eta: float = 0.0, spacing: str | None = None,
    enlarging_steps: int = 250,
) -> Cascade:  # fmt: skip
    """Small images by `adm_g`, enlarged four times by a second diffusion model that sees them.

    Args:
        scale, steps, sampler, eta, spacing: of the small images; see `adm_g`.
        enlarging_steps: of the second model, ancestral, which is not guided.

    Source: Dhariwal and Nichol 2021 sec. 4.4; openai/guided-diffusion `super_res_sample.py`.
    """
    preset = releases.ADM_U.get(dataset)
    if preset is None:
        raise ValueError(f"There are no upsamplers for {dataset!r}; there are some for {', '.join(releases.ADM_U)}.")
    small, large = releases.release(preset.base), releases.release(preset.release)
    base = _model(
        small, _guided_step(sampler, eta, small), device=device, precision=precision, fetch=fetch, steps=steps,
        spacing=spacing or _SPACINGS.get(sampler, "respaced"), clip=True, gradient=scale,
    )  # fmt: skip
    upsampler = _model(
        large, _guided_step("ancestral", 0.0, large), device=device, precision=precision, fetch=fetch,
        steps=enlarging_steps, spacing="respaced", clip=True,
    )  # fmt: skip
    return Cascade(base=base, upsampler=upsampler)


@with_presets(releases.LDM)
def ldm(
    *, dataset: str, device: str, precision: str, fetch: Fetch | None = None,
    scale: float = 1.5, steps: int = 50, eta: float = 0.0, spacing: str = "offset",
    last: Literal["clean", "first"] = "first", condition: str = "auto",
    weights: str | None = None, config: str | None = None,
) -> DiffusionModel:  # fmt: skip
    """Latent diffusion: DDIM in the latent space of an autoencoder, conditioned by cross-attention.

    Args:
        scale: of classifier-free guidance, as of `cfg`; 1 for networks without a condition.
        spacing, last: "offset" and "first" are those of the original code, whose last step lands on the noise level of
            timestep 0 instead of on the clean latent.
        condition: "auto" is what the weights were trained for; "label" gives a network of captions the caption that
            means no more than a class.

    Source: Rombach et al. 2022; CompVis/latent-diffusion `ddim.py`.
    """
    release = choose(releases.LDM, dataset, weights, config)
    if release.latent is None:
        raise ValueError("ldm samples latents, and these weights are of pixels; use ddpm, ddim, cfg or adm-g.")
    if last not in ("clean", "first"):
        raise ValueError(f"last is clean or first; got {last!r}.")
    if condition not in ("auto", "label") or (condition == "label" and not release.classes):
        raise ValueError(
            f"condition is auto{', or label' if release.classes else ' for these weights'}; got {condition!r}."
        )
    guided = bool(release.tokenizer) or release.null is not None
    if scale != 1 and not guided:
        raise ValueError(f"These weights have no null condition to guide with; use scale=1.0, not {scale}.")
    return _model(
        release, _implicit(eta), device=device, precision=precision, fetch=fetch, steps=steps, spacing=spacing,
        clip=False, scale=scale, last=last, conditioning="label" if condition == "label" else None,
    )  # fmt: skip
