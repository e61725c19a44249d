"""Reference implementations of generative image models, short enough to read beside their papers.

Read in this order: `schedules` and `processes` (what noise is added, in steps and in continuous time), `denoisers`
(what a network predicts), `guidance`, `steps` (how one step back is taken; `multistep`, `langevin`, `ode`, `adaptive`
and `analytic` are other ways), `sampling` (the loop), `noise`, `networks`, `training` and `distillation`, `likelihood`.
Then `systems`, one file each, and `system` (how the parts of one are put together). `files` reads what others
published. Nothing here imports genbench.

Glossary:
    level: a point of a process, x = alpha x0 + sigma eps, and what the network is told of it.
    process: how noise is added. It belongs to a network, and two networks of one system may have two.
    grid: the levels that a walk visits, the last one included.
    denoiser: from a noisy image and its level to the clean image and the noise; guidance maps denoisers to denoisers.
    step: from one level of a grid to the next; a sampler: from a start to a result, by a walk of steps or otherwise.
    system: weights, sampler, denoiser, start and decoding of one model; a cascade: several, each seeing the last one.
    role: what a network is to its system, such as "unet", "classifier" or "first_stage"; a part: the file of a role.
    kind: the name of a network's architecture in descriptions of weights, such as "unet".
    release: the parts of a trained system; a preset: what a paper did with a release on a data set.
    condition: what a network is told beside image and level; null: the condition that tells it nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baselines.files.checkpoints import load_network

_HOME = {"load_network": "files.checkpoints"}
__all__ = ["load_network"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"baselines.{_HOME[name]}"), name)
    raise AttributeError(f"module 'baselines' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_HOME)
