"""The command that makes a reference to hand on: statistics of real images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import click

from genbench import console
from genbench.commands.options import (
    execution_of,
    measure_options,
    metrics_of,
    option,
    place_options,
    together,
    weights_option,
)
from genbench.console import FileToWrite, say
from genbench.errors import shown

if TYPE_CHECKING:
    from genbench.ranks import Job

work_options = together(measure_options, weights_option, place_options)


@click.command(cls=console.Command, short_help="Write statistics of real images, to hand on as a reference.")
@click.argument("reference", metavar="REF", cls=console.Argument)
@option("-o", "--output", type=FileToWrite(".npz"), required=True, help="The file.")
@work_options
def stats(reference: str, **options: Any) -> None:
    """Write mean and covariance of the features of REF (images as `genbench score` takes them, or a data set) to a
    file that is a --reference of later runs and scores. pytorch-fid reads it too, and ADM's evaluator where fid and
    sfid were asked for. Metrics are those that need no more of a reference: fid, sfid, fd.

    \b
    genbench stats imagenet256 --data-dir data/ --metric fid --metric sfid -o imagenet256.npz
    genbench stats 's3://bucket/train-*.tar' --protocol clip-fd --metric fd -o train.npz
    genbench score out/ --reference imagenet256.npz --protocol adm --metric fid
    """
    from genbench import preflight, reference_statistics, requests

    execution, output = execution_of(options), options["output"]
    preflight.check_writable(output)
    asked = {"reference": reference, "metrics": list(metrics_of(options)), "protocol": options["protocol"]}
    samples, cells, protocol = requests.of_reference(**asked, execution=execution)
    about = {"kind": "stats", **asked, "execution": execution.as_dict()}
    made = reference_statistics.of_images(samples, cells, protocol, execution, about=about)
    reference_statistics.write(made, output)
    for one in made.statistics:
        say(shown(f"{one.tap} of {one.extractors[0]}: {len(one.mean)} features of {one.count} images"))
    say(shown(f"{output} has the statistics of {samples.origin}, protocol {protocol.name}"))


def jobs_of_stats(*, execution: Mapping[str, Any], **asked: Any) -> dict[str, Job]:
    """What a process does that helps with `stats`: it makes parts of features, and decides nothing."""
    from genbench import measuring, reference_statistics, requests

    how = measuring.Execution(**execution)
    samples, cells, _ = requests.of_reference(**asked, execution=how)
    return measuring.jobs(cache(lambda: reference_statistics.compared(samples, cells, how)))
