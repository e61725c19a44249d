"""Reference implementations of generative image models, short enough to read beside their papers.

Read in this order: `schedules` (what noise is added), `denoisers` (what a network predicts), `guidance`, `steps` (how
one step back is taken), `sampling` (the loop), `networks`, `training`; then `models` (the systems, each an expression
of the parts above) and `diffusion` (how they are put together). `configurations`, `published` and `releases` are data:
architectures, files, and what the papers did with them. Nothing here imports genbench.
"""

from importlib import import_module
from typing import Any

_HOME = {"load_network": "checkpoints"}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"baselines.{_HOME[name]}"), name)
    raise AttributeError(f"module 'baselines' has no attribute {name!r}")
