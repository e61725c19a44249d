"""Systems on the shipped networks: what they cost, that an image depends on its seed alone, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from baselines.systems import (
    adm,
    analytic_dpm,
    cfg,
    cld,
    consistency,
    ddgan,
    ddim,
    ddpm,
    ddss,
    dpm_solver,
    edm,
    gotta_go_fast,
    iddpm,
    ldm,
    lsgm,
    ncsn,
    noise_equilibrium,
    patched_unet,
    progressive_distillation,
    score_sde,
    subspace,
    unipc,
    vdm,
)
from genbench.datasets import shapes

SYSTEMS: dict[str, tuple[Any, dict[str, Any], int | None]] = {
    "edm": (edm.load, {"steps": 3}, 5),
    "edm, one step": (edm.load, {"steps": 1}, 1),
    "dpm-solver, one step": (dpm_solver.load, {"steps": 1}, 1),
    "dpm-solver, third order": (
        dpm_solver.load,
        {"steps": 3, "order": 3, "method": "singlestep", "spacing": "log-snr"},
        7,
    ),
    "unipc, third order": (unipc.load, {"steps": 7, "order": 3, "variant": "bh2", "spacing": "time"}, 7),
    "score-sde, one step": (score_sde.load, {"steps": 1, "process": "vp"}, 2),
    "vdm, one step": (vdm.load, {"steps": 1, "clip": True}, 1),
    "ddpm": (ddpm.load, {"steps": 2, "variance": "learned"}, 2),
    "ddim, sections": (ddim.load, {"steps": 3, "spacing": "1,2", "eta": 1.0}, 3),
    "cfg": (cfg.load, {"steps": 2, "scale": 2.0}, 4),
    "ldm": (ldm.load, {"steps": 2, "scale": 2.0}, 4),
    "edm, churn": (edm.load, {"steps": 3, "churn": 1.0}, 5),
    "dpm-solver": (dpm_solver.load, {"steps": 4}, 4),
    "dpm-solver, singlestep": (dpm_solver.load, {"steps": 3, "method": "singlestep", "prediction": "eps"}, 5),
    "dpm-solver, time": (dpm_solver.load, {"steps": 4, "order": 3, "spacing": "time"}, 4),
    "unipc": (unipc.load, {"steps": 4}, 4),
    "score-sde, pc": (score_sde.load, {"steps": 3}, 6),
    "score-sde, vp": (score_sde.load, {"steps": 3, "process": "vp", "sampler": "euler-maruyama"}, 3),
    "score-sde, sub-vp": (score_sde.load, {"steps": 3, "process": "sub-vp", "sampler": "reverse-diffusion"}, 3),
    "score-sde, ancestral": (score_sde.load, {"steps": 3, "sampler": "ancestral"}, 3),
    "score-sde, ode": (score_sde.load, {"process": "vp", "sampler": "ode", "tolerance": 0.5}, None),
    "ncsn": (ncsn.load, {"levels": 2, "count": 2}, 5),
    "ncsn, version 1": (ncsn.load, {"version": 1, "levels": 2, "count": 2}, 4),
    "gotta-go-fast": (gotta_go_fast.load, {"relative": 2.0, "absolute": 2.0}, None),
    "analytic-dpm": (analytic_dpm.load, {"steps": 3}, 3),
    "analytic-dpm, ddim": (analytic_dpm.load, {"steps": 3, "form": "ddim", "pixels": 2.0}, 3),
    "consistency": (consistency.load, {}, 2),
    "consistency, one step": (consistency.load, {"via": ""}, 1),
    "cld": (cld.load, {"steps": 3}, 3),
    "cld, euler-maruyama": (cld.load, {"steps": 3, "sampler": "euler-maruyama", "striding": "linear", "clip": True}, 3),
    "cld, ode": (cld.load, {"sampler": "ode", "tolerance": 0.5}, None),
    "ddgan": (ddgan.load, {}, 4),
    "ddss": (ddss.load, {}, 5),
    "subspace": (subspace.load, {"steps": 5}, 7),
    "subspace, pc": (subspace.load, {"steps": 4, "sampler": "pc", "count": 1}, 9),
    "subspace, whole images alone": (subspace.load, {"steps": 4, "switch": 100.0}, 4),
    "patched-unet": (patched_unet.load, {"steps": 3}, 3),
    "patched-unet, dpm-solver": (patched_unet.load, {"steps": 3, "sampler": "dpm-solver"}, 3),
    "vdm": (vdm.load, {"steps": 3}, 3),
    "noise-equilibrium": (noise_equilibrium.load, {"steps": 4}, 4),
    "lsgm": (lsgm.load, {"tolerance": 0.5}, None),
    "iddpm": (iddpm.load, {"steps": 3}, 3),
    "progressive-distillation": (progressive_distillation.load, {}, 4),
}


def made(name: str) -> Any:
    load, arguments, _ = SYSTEMS[name]
    return load(dataset="shapes", device="cpu", precision="float32", **arguments)


def conditions(model: Any, labels: Any) -> dict[str, Any]:
    """What the model takes of labels and of the captions that name no more than the class."""
    captions = [model.weights.release.class_captions[label] for label in labels] if "captions" in model.takes else []
    return {name: value for name, value in (("labels", labels), ("captions", captions)) if name in model.takes}


@contextmanager
def calls_of_networks() -> Iterator[list[int]]:
    """Sizes of the batches with which torch calls networks of images and times, whoever calls them."""
    calls, depth = list[int](), [0]

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        x, t, *_ = (*args, None, None)
        if depth[0] == 0 and isinstance(x, Tensor) and x.ndim == 4 and isinstance(t, Tensor) and t.ndim == 1:
            calls.append(len(x))
        depth[0] += 1

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        depth[0] -= 1

    hooks = register_module_forward_pre_hook(before), register_module_forward_hook(after)
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("name", SYSTEMS)
def test_images_depend_on_their_seeds_alone_and_evaluations_are_counted(name: str) -> None:
    model = made(name)
    seeds, labels = np.arange(5, 8, dtype=np.uint64), np.array([1, 4, 7])
    with calls_of_networks() as calls:
        together = model.sample(seeds, **conditions(model, labels))
    assert model.evaluations == sum(calls) / 3, "as many images as networks were called with"
    assert together.shape == (3, 3, 32, 32)
    assert torch.isfinite(together).all()
    alone = made(name).sample(seeds[1:2], **conditions(model, labels[1:2]))
    torch.testing.assert_close(alone[0], together[1], rtol=2e-3, atol=2e-3 * float(together[1].abs().max()))
    assert not torch.allclose(together[0], together[1])
    known = SYSTEMS[name][2]
    if known is None:
        assert model.evaluations > 2
    else:
        assert model.evaluations == known


def test_a_label_says_what_is_drawn() -> None:
    """The same seed under two labels gives two images: the condition reaches the network through every wrapper."""
    for name in ("edm", "score-sde, ode", "gotta-go-fast", "analytic-dpm"):
        seeds = np.array([3, 3], dtype=np.uint64)
        first, second = made(name).sample(seeds, labels=np.array([0, 5]))
        assert float((first - second).abs().mean()) > 0.01, name


@pytest.mark.parametrize(("load", "arguments", "told"), [
    (dpm_solver.load, {"spacing": "banana"}, "karras, log-snr or time"),
    (dpm_solver.load, {"prediction": "eps"}, "singlestep"),
    (score_sde.load, {"process": "banana"}, "ve, vp or sub-vp"),
    (score_sde.load, {"sampler": "banana"}, "pc"),
    (ncsn.load, {"version": 3}, "1 or 2"),
    (gotta_go_fast.load, {"process": "sub-vp"}, "ve or vp"),
    (analytic_dpm.load, {"form": "banana"}, "ddpm or ddim"),
    (cld.load, {"sampler": "banana"}, "sscs"),
    (cld.load, {"striding": "banana"}, "quadratic"),
    (vdm.load, {"weights": "shapes-pixel"}, "learned schedule"),
    (cfg.load, {"scale": float("nan")}, "scale is a finite number; got nan"),
    (adm.load_guided, {"scale": float("inf")}, "scale is a finite number; got inf"),
    (ldm.load, {"scale": float("nan")}, "scale is a finite number"),
    (vdm.load, {"steps": 0}, "at least 1"),
    (edm.load, {"steps": 0}, "steps is at least 1; got 0"),
    (edm.load, {"low": 100.0, "high": 1.0}, "0 < low <= high"),
    (edm.load, {"low": 0.0}, "0 < low <= high"),
    (edm.load, {"rho": 0.0}, "rho is a finite number above 0; got 0"),
    (edm.load, {"rho": float("nan")}, "rho is a finite number above 0; got nan"),
    (edm.load, {"churn": -1.0}, "churn is a finite number, 0 or above"),
    (edm.load, {"inflation": -1.0}, "inflation is a finite number, 0 or above"),
    (dpm_solver.load, {"steps": -1}, "steps is at least 1"),
    (dpm_solver.load, {"steps": 0, "spacing": "log-snr"}, "steps is at least 1"),
    (dpm_solver.load, {"method": "banana"}, "method is multistep or singlestep; got 'banana'"),
    (unipc.load, {"steps": 0}, "steps is at least 1"),
    (unipc.load, {"variant": "banana"}, "variant is bh1 or bh2"),
    (score_sde.load, {"steps": 0}, "steps is at least 1"),
    (score_sde.load, {"snr": 0.0}, "snr is a finite number above 0"),
    (score_sde.load, {"snr": float("nan")}, "snr is a finite number above 0"),
    (score_sde.load, {"sampler": "ode", "tolerance": 0.0}, "rtol is a finite number above 0"),
    (cld.load, {"steps": 0}, "steps is at least 1"),
    (cld.load, {"sampler": "ode", "tolerance": -1.0}, "rtol is a finite number above 0"),
    (lsgm.load, {"tolerance": 0.0}, "rtol is a finite number above 0"),
    (ncsn.load, {"levels": 0}, "steps is at least 1"),
    (ncsn.load, {"count": 0}, "count is at least 1"),
    (ncsn.load, {"rate": -1.0}, "rate is a finite number above 0"),
    (gotta_go_fast.load, {"relative": -1.0}, "relative is a finite number, 0 or above"),
    (gotta_go_fast.load, {"absolute": 0.0}, "absolute is a finite number above 0"),
    (analytic_dpm.load, {"pixels": -1.0}, "pixels is a finite number, 0 or above"),
    (subspace.load, {"steps": 0}, "steps is at least 1"),
    (subspace.load, {"switch": -1.0}, "switch is a finite number above 0"),
    (subspace.load, {"count": -1}, "count is at least 0"),
    (patched_unet.load, {"steps": 0, "sampler": "dpm-solver"}, "steps is at least 1"),
    (noise_equilibrium.load, {"steps": 1000}, r"\[1, 999\]"),
    (ddim.load, {"weights": "shapes-vdm"}, "no timesteps"),
    (progressive_distillation.load, {"steps": 5}, "4 and 8"),
    (noise_equilibrium.load, {"weights": "shapes-pixel"}, "moments"),
    (lsgm.load, {"weights": "shapes-latent"}, "mixture"),
    (ddss.load, {"steps": 3}, "learned for 5 steps"),
    (ddgan.load, {"steps": 5}, "for 4 steps"),
    (ddgan.load, {"weights": "shapes-pixel"}, "latent vector"),
    (subspace.load, {"sampler": "banana"}, "dpm-solver or pc"),
    (subspace.load, {"switch": 1e-4}, "below the last noisy level"),
    (subspace.load, {"weights": "shapes-pixel"}, "second network"),
    (patched_unet.load, {"sampler": "banana"}, "ancestral or dpm-solver"),
])  # fmt: skip
def test_other_arguments_are_refused(load: Any, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        load(dataset="shapes", device="cpu", precision="float32", **arguments)


def test_levels_below_those_of_training_are_not_visited() -> None:
    """EDM's smallest sigma, 0.002, is less than the network of shapes was trained on."""
    model = edm.load(dataset="shapes", device="cpu", precision="float32", steps=3)
    asked: list[float] = []
    inner = model.weights.process

    def watch(done: int, total: int) -> None:
        asked.append(done)

    model.sample(np.array([1], np.uint64), labels=np.array([0]), watch=watch)
    assert asked == [1, 2, 3]
    with pytest.raises(ValueError, match="lies in"):
        inner.at(0.002)


def test_measured_variances_are_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = made("analytic-dpm").key
    assert before == made("analytic-dpm, ddim").key
    monkeypatch.setattr(analytic_dpm, "squares", lambda weights: {0.01: 0.5, 100.0: 1.0})
    assert made("analytic-dpm").key != before


def test_progressive_distillation_takes_the_network_of_its_steps() -> None:
    four, eight = (
        progressive_distillation.load(dataset="shapes", device="cpu", precision="float32", steps=steps)
        for steps in (4, 8)
    )
    assert four.key != eight.key
    assert eight.evaluations == 8


def test_pictures_of_a_walk_in_a_subspace_are_whole_images() -> None:
    sides: list[tuple[int, int, int]] = []
    model, seeds = made("subspace"), np.array([1], np.uint64)
    model.trajectory(
        seeds,
        labels=np.array([2]),
        watch=lambda view: sides.append((view.done, view.x.shape[-1], view.predicted.shape[-1])),
    )
    assert sides == [(i, 32, 32) for i in range(1, 6)]


def test_a_bound_is_above_the_exact_number_and_each_is_of_its_image_alone() -> None:
    """Of three test images: the flow of the shipped network, and chains and bounds on the same or another network."""
    f = shapes.factors("test", np.arange(3))
    images, seeds, labels = torch.from_numpy(shapes.draw(f)), np.arange(3, dtype=np.uint64), f.label
    where: dict[str, Any] = {"dataset": "shapes", "device": "cpu", "precision": "bfloat16"}
    flow = edm.load(**where).nll(images, seeds, kind="exact", tolerance=0.03, labels=labels)
    assert flow.shape == (3,) and flow.dtype == torch.float64
    assert bool(((flow > 1) & (flow < 4)).all())
    bounds = {
        "chain": ddpm.load(steps=25, variance="large", **where),
        "analytic": analytic_dpm.load(steps=25, **where),
        "learned": iddpm.load(steps=25, **where),
    }
    for name, model in bounds.items():
        found = model.nll(images, seeds, kind="bound", labels=labels)
        assert bool((found > flow).all()), name
    variational = vdm.load(times=16, **where)
    together = variational.nll(images, seeds, kind="bound", labels=labels)
    assert bool(((together > 1) & (together < 5)).all())
    alone = variational.nll(images[1:2], seeds[1:2], kind="bound", labels=labels[1:2])
    torch.testing.assert_close(alone[0], together[1], rtol=1e-3, atol=0)
    others = edm.load(**where).nll(images[1:2], seeds[1:2], kind="exact", tolerance=0.03, labels=labels[1:2])
    torch.testing.assert_close(others[0], flow[1], rtol=1e-3, atol=0)


def test_a_likelihood_that_a_model_does_not_give_is_refused() -> None:
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(ValueError, match="it gives none"):
        made("consistency").nll(images, np.array([1], np.uint64), kind="exact", labels=np.array([1]))
    with pytest.raises(ValueError, match="it gives bound"):
        made("cld").nll(images, np.array([1], np.uint64), kind="exact", labels=np.array([1]))


def test_nothing_is_churned_above_a_bound_of_0() -> None:
    """A bound that is 0 is a bound, and not one that was not given."""
    seeds, labels = np.array([3], dtype=np.uint64), np.array([0])

    def image(**arguments: Any) -> torch.Tensor:
        model = edm.load(dataset="shapes", device="cpu", precision="float32", steps=2, **arguments)
        found: torch.Tensor = model.sample(seeds, labels=labels)
        return found

    assert torch.equal(image(churn=1.0, churn_high=0.0), image())
    assert not torch.equal(image(churn=1.0), image())
