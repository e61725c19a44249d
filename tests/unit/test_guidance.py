"""Guidance against what it must be for Gaussians, where both forms have a closed answer."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from oracles import circle, gaussian, keyed, mixture, normal, order, propagate
from torch import Tensor

from baselines.denoisers import Condition, Denoiser, Prediction, from_output, target
from baselines.guidance import classifier, classifier_free, clip, dynamic_threshold, on_x0
from baselines.sampling import sample
from baselines.schedules import Level
from baselines.steps import Step, ddim, ddpm, heun

LEVEL = Level(400.0, math.cos(0.9), math.sin(0.9))
MEAN, STD = 0.3, 0.5
MIXTURE = ((-1.0, 0.2, 1.1), 0.2, (0.3, 0.5, 0.2))


def equal(a: Prediction, b: Prediction) -> bool:
    return torch.allclose(a.x0, b.x0, rtol=0, atol=1e-12) and torch.allclose(a.eps, b.eps, rtol=0, atol=1e-12)


# Classifier-free guidance. The class is its mean: given y, data are N(y, STD^2).


def conditional(x: Tensor, p: Level, condition: Condition) -> Prediction:
    return gaussian(condition["y"].to(x).view(-1, 1, 1, 1), STD)(x, p, {})


Y, NULL = torch.tensor([1.0, -0.5, 0.25, 2.0]).double(), torch.tensor([0.1]).double()


@pytest.mark.parametrize("scale", [-0.3, 0.0, 0.5, 1.0, 1.5, 7.0])
def test_classifier_free_guidance_extrapolates_the_mean(scale: float) -> None:
    """The two noises differ by a constant in x, so that the guided data are Gaussian about the extrapolated mean."""
    x = normal(4, 3, 2, 2)
    mean = (NULL + scale * (Y - NULL)).double().view(-1, 1, 1, 1)
    guided = classifier_free(conditional, scale=scale, null={"y": NULL})
    assert equal(guided(x, LEVEL, {"y": Y}), gaussian(mean, STD)(x, LEVEL, {}))
    second = classifier_free(conditional, scale=scale, null={}, unconditional=gaussian(float(NULL), STD))
    assert torch.allclose(second(x, LEVEL, {"y": Y}).x0, gaussian(mean, STD)(x, LEVEL, {}).x0, rtol=0, atol=1e-12)


def test_scale_one_is_the_model_itself() -> None:
    assert classifier_free(conditional, scale=1, null={"y": NULL}) is conditional


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "score"])
def test_guiding_any_output_is_the_same_map(kind: str) -> None:
    """In the paper's notation, (1 + w) of the conditional output less w of the unconditional one, w = s - 1."""
    x, w = normal(4, 3, 2, 2), 2.5
    found = classifier_free(conditional, scale=1 + w, null={"y": NULL})(x, LEVEL, {"y": Y})
    scales = torch.tensor([[LEVEL.alpha], [LEVEL.sigma]], dtype=torch.float64)
    outputs = []
    for y in (Y, NULL.expand(4)):
        known = conditional(x, LEVEL, {"y": y})
        outputs.append(target(kind, known.x0, known.eps, *scales))
    mixed = (1 + w) * outputs[0] - w * outputs[1]
    assert equal(found, Prediction(*from_output(kind, mixed, x, LEVEL.alpha, LEVEL.sigma)))


def test_clipping_before_guidance_is_another_map() -> None:
    x = 3 * normal(4, 3, 2, 2)
    guided = on_x0(classifier_free(conditional, scale=3, null={"y": NULL}), clip)(x, LEVEL, {"y": Y})
    clipped = classifier_free(on_x0(conditional, clip), scale=3, null={"y": NULL})(x, LEVEL, {"y": Y})
    assert guided.x0.abs().max() <= 1 < clipped.x0.abs().max()


def test_one_call_serves_both_and_null_is_broadcast() -> None:
    calls: list[Condition] = []

    def denoise(x: Tensor, p: Level, condition: Condition) -> Prediction:
        calls.append(condition)
        strength = condition["context"].mean(dim=(1, 2)).view(-1, 1, 1, 1).to(x)
        return Prediction(x, strength * x, variance=strength * x, gradient=2 * strength * x)

    x, context, small = normal(3, 1, 2, 2), torch.ones(3, 4, 5), normal(3, 1, 2, 2, seed=1).float()
    null = {"y": torch.tensor([9]), "context": 3 * torch.ones(1, 4, 5, dtype=torch.float64)}
    given = {"y": torch.arange(3), "context": context, "low": small}
    found = classifier_free(denoise, scale=2, null=null)(x, LEVEL, given)
    (both,) = calls
    assert both["y"].tolist() == [0, 1, 2, 9, 9, 9] and both["y"].dtype == torch.int64
    assert torch.equal(both["context"], torch.cat([context, 3 * context])) and both["context"].dtype == torch.float32
    assert torch.equal(both["low"], torch.cat([small, small])), "what null does not name is given to both"
    assert torch.allclose(found.eps, (3 + 2 * (1 - 3)) * x), "3 is the unconditional strength, 1 the conditional one"
    assert found.variance is not None and torch.equal(found.variance, x), "of the conditional half"
    assert found.gradient is not None and torch.equal(found.gradient, 2 * x)


@pytest.mark.parametrize(("null", "given"), [({"y": NULL}, {}), ({}, {"y": Y}), ({"context": NULL}, {"y": Y})])
def test_nothing_to_guide(null: Condition, given: Condition) -> None:
    with pytest.raises(
        ValueError, match=r"Nothing to guide: null names (y|nothing|context), the condition of this call"
    ):
        classifier_free(conditional, scale=2, null=null)(normal(4, 1, 2, 2), LEVEL, given)


# Classifier guidance. The classifier sees images under noise of standard deviation BLUR: y | x0 is N(x0, BLUR^2).

BLUR, SEEN = 0.4, 1.2
POSTERIOR_STD = (STD**-2 + BLUR**-2) ** -0.5
POSTERIOR_MEAN = POSTERIOR_STD**2 * (MEAN / STD**2 + SEEN / BLUR**2)


def log_probability(x: Tensor, p: Level, condition: Condition) -> Tensor:
    """log p(y | x_t), summed over the pixels: x0 given x_t is Gaussian, and the blur adds to its variance."""
    total = p.alpha**2 * STD**2 + p.sigma**2
    centre = MEAN + p.alpha * STD**2 / total * (x - p.alpha * MEAN)
    variance = STD**2 * p.sigma**2 / total + BLUR**2
    return (-((condition["seen"].view(-1, 1, 1, 1) - centre) ** 2) / (2 * variance)).sum(dim=(1, 2, 3))


def guided(scale: float = 1.0, variance: float | None = None) -> Denoiser:
    return classifier(gaussian(MEAN, STD, variance=variance), log_probability, scale=scale)


def seen(count: int) -> dict[str, Tensor]:
    return {"seen": torch.full((count,), SEEN, dtype=torch.float64)}


def test_gradient_of_a_classifier() -> None:
    x = normal(3, 2, 2, 2)
    total = LEVEL.alpha**2 * STD**2 + LEVEL.sigma**2
    slope = LEVEL.alpha * STD**2 / total
    centre = MEAN + slope * (x - LEVEL.alpha * MEAN)
    expected = slope * (SEEN - centre) / (STD**2 * LEVEL.sigma**2 / total + BLUR**2)
    with torch.no_grad():
        found = guided(2.5)(x, LEVEL, seen(3))
    assert found.gradient is not None and not found.gradient.requires_grad
    assert torch.allclose(found.gradient, 2.5 * expected, rtol=1e-10, atol=0)
    assert equal(found, gaussian(MEAN, STD)(x, LEVEL, {})), "carried, not applied"
    alone = guided(2.5)(x[1:2], LEVEL, seen(1)).gradient
    assert alone is not None and torch.equal(alone, found.gradient[1:2])


@pytest.mark.parametrize("step", [ddim(0.0), ddim(0.7), heun()], ids=["ddim-0", "ddim-0.7", "heun"])
def test_guided_noise_is_that_of_the_posterior(step: Step) -> None:
    """The score of p(x | y) is the sum of two scores, so that every step is exactly one on data from the posterior."""
    grid, x = circle(12, start=1.4), normal(5, 3, 2, 2)
    found = sample(guided(), step, grid, x, keyed(), seen(5))
    exact = sample(gaussian(POSTERIOR_MEAN, POSTERIOR_STD), step, grid, x, keyed())
    assert torch.allclose(found, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("step", [ddpm("small"), ddpm("large"), ddpm("learned"), ddim(0.0), ddim(1.0)])
def test_guided_sampling_converges_to_the_posterior(step: Step) -> None:
    """Ancestral steps shift their mean by variance * gradient, which is right to first order in the step."""
    errors = []
    for steps in (100, 200, 400):
        grid = circle(steps)
        start = grid[0].alpha * POSTERIOR_MEAN, math.hypot(grid[0].alpha * POSTERIOR_STD, grid[0].sigma)
        mean, std = propagate(guided(variance=0.2), step, grid, *start, seen(2))
        errors.append(math.hypot(mean - POSTERIOR_MEAN, std - POSTERIOR_STD))
    assert order(errors)[-1] == pytest.approx(1, abs=0.1) and errors[-1] < 0.02
    unguided = propagate(gaussian(MEAN, STD, variance=0.2), step, grid, *start)[0]
    assert abs(unguided - POSTERIOR_MEAN) > 0.5, "without a classifier the mean is another one"


# Changes of the clean image.


@pytest.mark.parametrize("rederive", [True, False])
def test_clipping_the_clean_image(rederive: bool) -> None:
    x, plain = 4 * normal(3, 2, 3, 3), mixture(*MIXTURE)(4 * normal(3, 2, 3, 3), LEVEL, {})
    found = on_x0(mixture(*MIXTURE), clip, rederive=rederive)(x, LEVEL, {})
    assert torch.equal(found.x0, plain.x0.clamp(-1, 1)) and (plain.x0.abs() > 1).any()
    noise = (x - LEVEL.alpha * found.x0) / LEVEL.sigma if rederive else plain.eps
    assert torch.equal(found.eps, noise)


def test_what_a_change_leaves() -> None:
    def denoise(x: Tensor, p: Level, condition: Condition) -> Prediction:
        return Prediction(x, x, variance=2 * x, gradient=3 * x)

    x = normal(1, 1, 2, 2)
    found = on_x0(denoise, clip)(x, LEVEL, {})
    assert found.variance is not None and torch.equal(found.variance, 2 * x)
    assert found.gradient is not None and torch.equal(found.gradient, 3 * x)


@pytest.mark.parametrize("quantile", [0.9, 0.995])
def test_dynamic_threshold(quantile: float) -> None:
    x = 1.5 * normal(4, 3, 8, 8)
    x[3] *= 0.2  # within [-1, 1] but for few pixels
    found = dynamic_threshold(quantile)(x)
    for image, changed in zip(x.numpy(), found.numpy(), strict=True):
        limit = max(1.0, np.quantile(np.abs(image), quantile))
        assert changed == pytest.approx(np.clip(image, -limit, limit) / limit, rel=1e-12)
    assert torch.equal(dynamic_threshold(quantile)(x[3:]), x[3:].clamp(-1, 1))
    assert found.dtype == torch.float64 and dynamic_threshold()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("change", [clip, dynamic_threshold()])
def test_a_changed_image_does_not_depend_on_the_batch(change: Callable[[Tensor], Tensor]) -> None:
    x = 2 * normal(5, 3, 4, 4)
    assert torch.equal(change(x)[2:3], change(x[2:3]))
