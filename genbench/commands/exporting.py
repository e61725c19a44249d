"""The command that hands images and results on to other tools: export."""

from __future__ import annotations

from pathlib import Path

import click

from genbench import console
from genbench.commands.options import option
from genbench.console import FileToWrite, say
from genbench.errors import UsageError, shown
from genbench.exports import TARGETS


@click.command(cls=console.Command, short_help="Hand images or results on to other tools.")
@click.argument("samples", cls=console.Argument)
@option(
    "--png",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write 000000.png onwards to, with captions in metadata.jsonl; it must be new or empty.",
)
@option("--npz", type=FileToWrite(".npz"), help="File to write all images to, as arr_0, with labels in arr_1.")
@option("--data-dir", type=click.Path(path_type=Path), help="Where data sets that are files lie.")
@option("--to", type=click.Choice(list(TARGETS)), help="Tool to hand the results of a run on to.")
@option(
    "-o",
    "--output",
    metavar="PLACE",
    help="Tracking URI of MLflow, a folder, or the file of a model card.  [default: the tool's]",
)
@option(
    "--project",
    default="genbench",
    show_default=True,
    metavar="NAME",
    help="Experiment of MLflow, project of W&B, collection of Every Eval Ever.",
)
@option("--name", metavar="TEXT", help="Of the run or the model, such as ORGANISATION/MODEL.  [default: the model]")
@option("--step", type=click.IntRange(min=0), default=0, help="Step of the training that made the model's weights.")
def export(
    samples: str,
    png: Path | None,
    npz: Path | None,
    data_dir: Path | None,
    to: str | None,
    output: str | None,
    project: str,
    name: str | None,
    step: int,
) -> None:
    """Hand images or results on to other tools. SAMPLES is the folder of a run. Images may be whatever `genbench score`
    takes, and results a result.json.

    \b
    genbench export runs/f346ff15a959 --png out/
    genbench export "shapes(split='test', count=100)" --npz test.npz
    genbench export runs/f346ff15a959 --to mlflow --output http://localhost:5000
    genbench export runs/f346ff15a959 --to model-card --output README.md
    """
    if png is None and npz is None and to is None:
        raise UsageError("Say where to: --png DIR, --npz FILE.npz, --to TOOL, or several of them.")
    if to is None and output is not None:
        raise UsageError(f"--output {shown(output)} is the place of a tool; say which, --to {' or '.join(TARGETS)}.")
    if png is not None or npz is not None:
        _images(samples, png, npz, data_dir)
    if to is not None:
        from genbench import exports
        from genbench.exports.summary import of_path

        exports.require(to)
        told = of_path(Path(samples))
        where = exports.write(to, told, place=output, project=project, name=name, step=step)
        say(shown(f"{len(told.results)} results of {told.name} for {to}: {where}"))


def _images(samples: str, png: Path | None, npz: Path | None, data_dir: Path | None) -> None:
    """Writes images as files."""
    from genbench import images, sets
    from genbench.measuring import Execution

    if png is not None and png.is_dir() and any(png.iterdir()):
        raise UsageError(f"--png {shown(png)} holds files already, which images would mix with; give a new folder.")
    opened, _, _ = sets.open_side(samples, Execution(data_dir=data_dir), role="held_out")
    if png is not None:
        images.write_images(opened, png)
        if opened.captions is not None:
            images.write_captions(opened, png)
        lost = " The labels are not in it; --npz keeps them." if opened.labels is not None else ""
        say(shown(f"{opened.count} images of {opened.origin} in {png}/.{lost}"))
    if npz is not None:
        images.write_npz(opened, npz)
        say(shown(f"{opened.count} images of {opened.origin} in {npz}."))
