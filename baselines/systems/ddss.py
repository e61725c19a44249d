"""Differentiable diffusion sampler search (Watson et al. 2022): few steps whose coefficients were learned."""

from __future__ import annotations

from baselines.files.cards import description, shipped
from baselines.files.cards import release as shipped_release
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.learned import Generalised, generalised
from baselines.records import Preset
from baselines.sampling import walk
from baselines.schedules import Level
from baselines.system import System


def ddss(weights: Weights, *, steps: int = 5) -> System:
    """A generalised Gaussian diffusion model, whose coefficients were optimised for the features of a metric.

    Args:
        steps: a number of steps for which coefficients were learned.

    Source:
        Watson et al. 2022 eq. 5, the family "+PRED+TIME". Differs: coefficients are free numbers, where the paper has
        them sigmoids and cumulative softmaxes of numbers.
    """
    model = learned(weights, steps)
    return System(weights=weights, sampler=walk(lambda: generalised(model), model.grid), measured=repr(model))


def learned(weights: Weights, steps: int) -> Generalised:
    """The coefficients that were learned for a network, from what describes its weights.

    Raises:
        ValueError: there are none for this number of steps.
    """
    file = weights.release.parts["unet"].file
    known = description(file).get("learned_samplers", {}) if shipped(file) else {}
    if str(steps) not in known:
        raise ValueError(
            f"Of {file!r} samplers were learned for {', '.join(known) or 'no number of'} steps, not for {steps}; "
            "`python -m scripts.learn_sampler` learns them for weights of `shapes`."
        )
    found = known[str(steps)]
    return Generalised(levels=[Level(*level) for level in found["levels"]], mix=found["mix"], noise=found["noise"])


_ROW = {"arxiv": "2202.05830", "system": "GGDM (DDSS)", "steps": "{steps}"}
PRESETS = {
    "shapes": Preset(
        release=shipped_release("shapes-pixel"),
        differs=("The coefficients are tuned on the metric's features: those of `compact`, of which FID is computed.",),
    )
}

load = loader(ddss, PRESETS, rows={"cifar10": (_ROW,)})
