"""The models on the shipped weights: arguments, keys, and images that depend on seed and label alone.

No pixel is asserted: better weights may replace these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines import models, noise, releases, schedules
from baselines.diffusion import DiffusionModel, View

WHERE = {"dataset": "shapes", "device": "cpu", "precision": "float32"}


def ddim(**arguments: object) -> DiffusionModel:
    return models.ddim(**WHERE, **{"steps": 3, **arguments})  # type: ignore[arg-type]


def ddpm(**arguments: object) -> DiffusionModel:
    return models.ddpm(**WHERE, **{"steps": 3, **arguments})  # type: ignore[arg-type]


def images(model: DiffusionModel, seeds: list[int], labels: list[int] | None) -> Tensor:
    chosen = None if labels is None else np.array(labels, dtype=np.int64)
    return model.sample(np.array(seeds, dtype=np.uint64), labels=chosen)


@pytest.mark.parametrize(("make", "arguments"), [(ddim, {}), (ddpm, {}), (ddpm, {"variance": "learned"})])
def test_an_image_is_the_same_alone_and_in_a_batch(
    make: Callable[..., DiffusionModel], arguments: dict[str, object]
) -> None:
    model, seeds, labels = make(**arguments), [5, 2**64 - 3, 9], [0, 1, 2]
    together = images(model, seeds, labels)
    assert together.shape == (3, *model.shape) and together.dtype == torch.float32
    assert torch.allclose(images(model, seeds[1:2], labels[1:2]), together[1:2], rtol=0, atol=1e-4)
    assert torch.allclose(images(model, seeds[::-1], labels[::-1]).flip(0), together, rtol=0, atol=1e-4)
    assert float((together[0] - together[1]).abs().mean()) > 0.01


def test_seed_and_label_matter_and_no_label_is_the_null_label() -> None:
    model = ddim()
    one = images(model, [5, 5, 5, 6], [0, 0, 1, 0])
    assert torch.allclose(one[0], one[1], rtol=0, atol=1e-4)
    assert float((one[0] - one[2]).abs().mean()) > 0.01
    assert float((one[0] - one[3]).abs().mean()) > 0.01
    null = model.release.null
    assert null is not None and model.classes == null
    assert torch.equal(images(model, [5], None), images(model, [5], [null]))


def test_guidance_of_scale_two_is_another_image_and_of_scale_one_the_same() -> None:
    plain = images(ddim(), [5], [1])
    guided = dataclasses.replace(ddim(), scale=2.0)
    assert float((images(guided, [5], [1]) - plain).abs().mean()) > 1e-3
    assert (ddim().evaluations, guided.evaluations) == (3, 6)


def test_clipped_images_stay_in_range() -> None:
    assert images(ddim(), [1, 2], [3, 4]).abs().max() <= 1, "the last step returns the clipped image"


def test_guided_ddim_leaves_out_the_last_timestep_as_the_original_code_does() -> None:
    def timesteps(sampler: str) -> list[int]:
        return list(models.adm_g(**WHERE, steps=4, sampler=sampler).timesteps)  # type: ignore[arg-type]

    assert (timesteps("ancestral"), timesteps("ddim")) == ([0, 333, 666, 999], [0, 250, 500, 750])


@pytest.mark.parametrize("make", [ddim, ddpm])
def test_watching_tells_every_step_and_shows_the_state(make: Callable[..., DiffusionModel]) -> None:
    told: list[tuple[int, int]] = []
    shown: list[View] = []
    seeds, labels = np.array([5], dtype=np.uint64), np.array([1])
    result = make().sample(seeds, labels=labels, watch=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    make().trajectory(seeds, labels=labels, watch=shown.append)
    assert [(view.done, view.steps) for view in shown] == told
    assert torch.equal(shown[-1].x, result) and not torch.equal(shown[0].x, shown[1].x)
    assert torch.allclose(shown[-1].predicted, result, atol=1e-6), "the last step lands on what was predicted"


def test_draw_0_is_the_start_and_the_others_belong_to_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    original = noise.image_noise

    def recording(seeds: Tensor) -> noise.Noise:
        drawn = original(seeds)
        return lambda draw, like: (used.append(draw), drawn(draw, like))[1]

    monkeypatch.setattr(noise, "image_noise", recording)
    images(ddpm(), [5], [0])
    images(ddim(), [5], [0])
    assert used == [0, 1, 2, 0]


def test_levels_are_those_of_the_process() -> None:
    model = ddim(steps=20)
    process = model.release.process
    grid = model.grid()
    assert [level.t for level in grid] == [*range(950, -1, -50), -1] and grid[-1] == schedules.CLEAN
    remaining = schedules.signal(schedules.betas(process.schedule, process.steps))
    assert [level.alpha**2 for level in grid[:-1]] == pytest.approx(remaining[950::-50].tolist(), rel=1e-12)
    assert list(ddpm(steps=20).timesteps)[-1] == 999


def test_key_is_of_the_weights_that_are_used_not_of_the_arguments() -> None:
    assert ddim().key == ddpm(steps=7).key and len(ddim().key) == 64
    guided = models.adm_g(**WHERE, steps=3)  # type: ignore[arg-type]
    assert guided.key != ddim().key
    assert models.adm_g(**WHERE, steps=3, scale=0.0).key == ddim().key, "without guidance no classifier is used"  # type: ignore[arg-type]
    assert models.ldm(**WHERE, steps=3).key != ddim().key  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (ddim, {"steps": 0}, r"\[1, 1000\].*got 0"),
        (ddim, {"steps": 1001}, r"\[1, 1000\].*got 1001"),
        (ddim, {"eta": 1.5}, r"eta lies in \[0, 1\]; got 1\.5"),
        (ddim, {"eta": -0.1}, r"eta lies in \[0, 1\]"),
        (ddim, {"spacing": "even"}, "'even'; there are uniform, offset, quadratic"),
        (ddim, {"dataset": "imagenet64"}, "'imagenet64'; there are weights for shapes"),
        (ddpm, {"steps": -1}, r"\[1, 1000\].*got -1"),
        (ddpm, {"variance": "medium"}, "small, large or learned; got 'medium'"),
    ],
)
def test_bad_arguments_name_their_range(
    make: Callable[..., DiffusionModel], arguments: dict[str, object], message: str
) -> None:
    loader = models.ddim if make is ddim else models.ddpm
    with pytest.raises(ValueError, match=message):
        loader(**{**WHERE, **arguments})  # type: ignore[arg-type]


def test_weights_that_are_not_there() -> None:
    with pytest.raises(FileNotFoundError, match="'nothing' are not in"):
        releases.card("nothing")
