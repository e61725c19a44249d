"""Results for Weights & Biases: a run of a project, online or offline as WANDB_MODE says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from genbench.exports.summary import Summary


def write(summary: Summary, place: str | None, *, project: str, name: str, step: int) -> str:
    """Logs the results as a run, which has the same id when the same results are written a second time.

    Args:
        place: folder in which W&B keeps its files.
    """
    import wandb

    # W&B asks for a login on a terminal, and writes offline where it may not have the network.
    mode: Literal["offline"] | None = "offline" if os.environ.get("GENBENCH_OFFLINE") == "1" else None
    Path(place or ".").mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=project,
        name=name,
        id=summary.id,
        resume="allow",
        dir=place,
        mode=mode,
        config=dict(summary.settings()),
        settings=wandb.Settings(silent=True, console="off"),
    )
    try:
        numbers = summary.numbers()
        pictures = {path.stem: wandb.Image(str(path)) for path in summary.files() if path.suffix == ".png"}
        run.log({**numbers, **pictures}, step=step)
        # No key of a summary may hold a number and a part of its own.
        run.summary.update({**numbers, "facts": summary.facts(), "command": summary.command()})
        artifact = wandb.Artifact(f"genbench-{summary.id}", type="evaluation")
        for path in summary.files():
            artifact.add_file(str(path))
        if summary.files():
            run.log_artifact(artifact)
    finally:
        run.finish()
    where = f"offline in {place}/wandb; `wandb sync` uploads it" if run.offline else run.url
    return f"run {summary.id} of the project {project}, {where}"
