"""Options that several commands have, and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from genbench import console
from genbench.console import FileToWrite
from genbench.errors import UsageError
from genbench.exports import TRACKERS
from genbench.records import PRECISIONS

if TYPE_CHECKING:
    from genbench.measuring import Execution
    from genbench.requests import RunRequest

F = TypeVar("F", bound=Callable[..., Any])


def option(*names: str, **more: Any) -> Callable[[F], F]:
    """`click.option` of an option that is never empty, with an environment variable."""
    return click.option(*names, cls=console.Option, **more)


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator."""

    def apply(command: F) -> F:
        for one in reversed(options):
            command = one(command)
        return command

    return apply


model_options = together(
    option(
        "--model",
        required=True,
        metavar="NAME[(KEY=VALUE, ...)]",
        shell_complete=console.names_of("model"),
        help="What to sample; see `genbench list`, or module:attribute of your own code.",
    ),
    option(
        "--dataset",
        default="shapes",
        show_default=True,
        metavar="NAME[(...)]",
        shell_complete=console.names_of("dataset"),
        help="Real images.",
    ),
    option("-n", "--num-samples", type=click.IntRange(min=1), help="Images to sample.  [default: the data set's]"),
    option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the run."),
    option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="float32",
        show_default=True,
        help="Arithmetic of the model's network.",
    ),
    option("--exact", is_flag=True, help="Bit-identical images for every batch size."),
    option("--quantise", type=click.Choice(["round", "truncate"]), help="Floats to 8 bits.  [default: the protocol's]"),
)
measure_options = together(
    option(
        "--metric",
        multiple=True,
        metavar="NAME[(...)][@EXTRACTOR]",
        shell_complete=console.names_of("metric"),
        help="What to measure, repeatable; `all` is what the protocol lists.  [default: fid]",
    ),
    option(
        "--protocol",
        metavar="NAME",
        shell_complete=console.names_of("protocol"),
        help="How to measure.  [default: the data set's]",
    ),
)
weights_option = option(
    "--weights",
    multiple=True,
    metavar="NAME=PATH",
    help="A file for an extractor, or for a card of `genbench list models`; repeatable.",
)
place_options = together(
    option(
        "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:I]|mps", help="Where networks compute."
    ),
    option("--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Threads that decode images."),
    option("--data-dir", type=click.Path(path_type=Path), help="Where data sets that are files lie."),
)
call_options = together(
    option("--batch-size", type=click.IntRange(min=1), help="Images a call of the model.  [default: by device]"),
    option("--compile", is_flag=True, help="Compile the networks of the model; pays for many images."),
)
output_option = option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Directory of runs; each has its own folder there.",
)
track_option = option(
    "--track",
    type=click.Choice(TRACKERS),
    help="Log runs there as they end; MLFLOW_TRACKING_URI and the variables of W&B say where.",
)
shard_option = option(
    "--shard",
    type=console.Share(),
    help="Make only the images of job I of N, as jobs of an array do; numbers from 0 or from 1. The command without it "
    "makes the rest and measures.",
)
leaderboard_option = option("--leaderboard", type=FileToWrite(), help="CSV to merge the rows into.")


def format_option(*forms: str) -> Callable[[F], F]:
    """Option --format with the given forms, the table first."""
    return option(
        "--format", type=click.Choice(forms), default="table", show_default=True, help="Form of what is printed."
    )


def refuse_beside_shard(options: dict[str, Any], *names: str) -> None:
    """Refuses options of what a job of several does not do.

    Raises:
        UsageError: one of them was given.
    """
    given = [f"--{name}" for name in names if options[name]]
    if given:
        raise UsageError(
            f"{' and '.join(given)} cannot be given with --shard, whose jobs make images alone; the command without "
            "--shard does the rest."
        )


def metrics_of(options: dict[str, Any]) -> tuple[str, ...]:
    """Metrics that were asked for, or the default ones."""
    from genbench import requests

    return tuple(options["metric"]) or requests.DEFAULT_METRICS


def run_request_of(options: dict[str, Any]) -> RunRequest:
    """The run that the options describe."""
    from genbench import requests

    names = ("dataset", "num_samples", "seed", "protocol", "precision", "exact", "quantise")
    return requests.of_run(options["model"], metrics=metrics_of(options), **{name: options[name] for name in names})


def execution_of(options: dict[str, Any], *, watch: bool = True) -> Execution:
    """How the work is done."""
    from genbench import requests
    from genbench.measuring import Execution

    return Execution(
        device=options["device"],
        batch_size=options.get("batch_size"),
        compile=options.get("compile", False),
        workers=options["workers"],
        data_dir=options["data_dir"],
        weights=requests.weights_of(options["weights"]),
        fresh=options.get("fresh", False),
        watch=console.bars() if watch else None,
    )
