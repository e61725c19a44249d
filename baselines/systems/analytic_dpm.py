"""Analytic-DPM (Bao et al. 2022): ancestral and DDIM steps with the variance that is optimal for the network."""

from __future__ import annotations

from typing import Literal

from baselines.analytic import analytic, between
from baselines.conditions import Given
from baselines.denoisers import Condition, Denoiser
from baselines.files.cards import description, shipped
from baselines.files.cards import release as shipped_release
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.guidance import clip as limit
from baselines.guidance import on_x0
from baselines.records import Preset
from baselines.sampling import walk
from baselines.schedules import subsequence
from baselines.system import FLOW, System, by_chain, conditional
from baselines.systems.ddpm import limited


def analytic_dpm(
    weights: Weights,
    *,
    steps: int = 10,
    form: Literal["ddpm", "ddim"] = "ddpm",
    spacing: str = "respaced",
    pixels: float | None = None,
) -> System:
    """Ancestral sampling ("ddpm") or DDIM ("ddim") with the optimal variance.

    Args:
        steps, spacing: as of `ddim`.
        pixels: limit of the noise of the last noisy step, see `baselines.analytic`.

    Source:
        Bao et al. 2022 Theorem 1 and App. H; baofff/Analytic-DPM. The predicted image is limited to [-1, 1]; the DDIM
        form keeps the network's own noise beside it.
    """
    if form not in ("ddpm", "ddim"):
        raise ValueError(f"form is ddpm or ddim; got {form!r}.")
    ratios = squares(weights)
    step = analytic(between(ratios), eta=1.0 if form == "ddpm" else 0.0, pixels=pixels)

    def build(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        denoise, condition = conditional(weights, given)
        return on_x0(denoise, limit, rederive=form == "ddpm"), condition

    grid = weights.process.grid(subsequence(steps, weights.process.steps, spacing))
    return System(
        weights=weights,
        sampler=walk(lambda: step, grid),
        build=build,
        measured=str(sorted(ratios.items())),
        bits=FLOW | {"bound": by_chain(grid, "analytic", limited, between(ratios))},  # Theorem 3
    )


def squares(weights: Weights) -> dict[float, float]:
    """The mean square of the noise that a network predicts, by ratio sigma / alpha, from what describes its weights.

    Raises:
        ValueError: weights of which it was not measured.
    """
    file = weights.release.parts["unet"].file
    told = description(file).get("noise_squares") if shipped(file) else None
    if told is None:
        raise ValueError(
            f"Of {file!r} it is not known how much noise the network predicts on every level, which the optimal "
            "variance needs; `python -m scripts.measure_noise_squares` measures it for weights of `shapes`."
        )
    return dict(zip(told["ratios"], told["squares"], strict=True))


_ROWS = tuple(
    {
        "arxiv": "2201.06503", "system": system, "variant": variant, "steps": "{steps}",
        "when": {"form": form},
    }
    for system, form, variant in (
        ("Analytic-DDPM", "ddpm", "LS, K={steps}"), ("Analytic-DDPM", "ddpm", "LS, even, K={steps}"),
        ("Analytic-DDIM", "ddim", "LS, K={steps}"),
    )
)  # fmt: skip
PRESETS = {"shapes": Preset(release=shipped_release("shapes-pixel"))}

load = loader(analytic_dpm, PRESETS, rows={"cifar10": _ROWS})
