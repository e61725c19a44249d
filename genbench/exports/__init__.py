"""Results for the tools of other people: experiment trackers, model cards and the archive of all evaluations.

Each tool has a file of its own here with a function `write(summary, place, *, project, name, step)`, which returns
where the results are now. The packages of the tools are imported by it alone, and only when it is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from genbench.errors import GenbenchError, MissingAsset, UsageError, nearest, shown

if TYPE_CHECKING:
    from genbench.exports.summary import Summary

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A tool that results are written for.

    Attributes:
        package: that it needs, empty for none.
        place: where results go unless something else is said, None for what the tool itself has as its default.
        tracks: whether runs are logged there as they end.
    """

    package: str = ""
    place: str | None = None
    tracks: bool = False


TARGETS: Mapping[str, Target] = {
    "mlflow": Target(package="mlflow", tracks=True),
    "tensorboard": Target(package="tensorboard", place="tensorboard", tracks=True),
    "wandb": Target(package="wandb", place=".", tracks=True),
    "model-card": Target(package="huggingface_hub", place="model-card.md"),
    "every-eval-ever": Target(place="data"),
}
TRACKERS = tuple(name for name, target in TARGETS.items() if target.tracks)


def require(to: str) -> None:
    """Raises MissingAsset where the package of a target is not installed, and UsageError for an unknown target."""
    if to not in TARGETS:
        raise UsageError(f"No target {shown(to)!r}. {nearest(to, TARGETS)}")
    package = TARGETS[to].package
    if package and find_spec(package) is None:
        raise MissingAsset(f"{to} needs the package {package}; install it with: pip install 'genbench[{to}]'.")


def write(
    to: str,
    summary: Summary,
    *,
    place: str | None = None,
    project: str = "genbench",
    name: str | None = None,
    step: int = 0,
) -> str:
    """Writes the results of a run for a tool. Writing them again takes the place of what was written before.

    Args:
        to: one of `TARGETS`.
        place: an address of a server, a folder or a file, depending on the tool. None is that of the target.
        project: experiment of MLflow, project of W&B, collection of Every Eval Ever.
        name: of the run or of the model, None for the model's reference.
        step: of a training whose checkpoint was measured, for trackers.

    Returns:
        Where the results are now, for people.

    Raises:
        MissingAsset: the package of the tool is not installed.
        GenbenchError: the tool refused; the message says what it said.
    """
    require(to)
    try:
        module = import_module(f"genbench.exports.{to.replace('-', '_')}")
        where: str = module.write(
            summary, place or TARGETS[to].place, project=project, name=name or summary.name, step=step
        )
    except GenbenchError:
        raise
    except Exception as error:  # trackers raise errors of their own, of their servers and of what these stand on
        told = shown(" ".join(str(error).split()))[:500]
        raise GenbenchError(f"{to} did not take {shown(summary.name)}: {type(error).__name__}: {told}") from error
    return where


def track(to: str, summary: Summary, *, place: str | None = None) -> None:
    """As `write`, of a run that has just ended: what goes wrong is a warning, because the results are kept already."""
    try:
        write(to, summary, place=place)
    except GenbenchError as error:
        again = f"genbench export {summary.directory} --to {to}" if summary.directory else f"genbench export --to {to}"
        _log.warning("%s. The results are kept; `%s` tries again.", str(error).rstrip("."), shown(again))
