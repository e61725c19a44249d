"""The command line: text to records, records to text. No measuring here.

Results go to stdout, progress and messages to stderr. Heavy imports happen inside the commands, so that `--help` and
`list` answer at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from genbench import __version__, console
from genbench.commands import boards, decisions, exporting, pages, references
from genbench.commands.options import (
    call_options,
    execution_of,
    format_option,
    leaderboard_option,
    measure_options,
    metrics_of,
    model_options,
    option,
    output_option,
    place_options,
    refuse_beside_shard,
    run_request_of,
    shard_option,
    track_option,
    weights_option,
)
from genbench.console import FileToWrite, say
from genbench.errors import GenbenchError, NotComparable, Unmeasured, UsageError, nearest, shown

if TYPE_CHECKING:
    from genbench.measuring import Execution
    from genbench.outcome import Outcome
    from genbench.requests import RunRequest

F = TypeVar("F", bound=Callable[..., Any])

EXIT_CODES = """\b
Exit codes:
  0         done
  1         unexpected failure, or an error in the code of a component
  2         wrong usage: unknown name, option or argument
  3         shown to be worse, or a row of a leaderboard that is not reproduced
  4         not comparable, or too few samples
  5         input rejected: images, arrays, files, values that are not finite
  6         weights or data missing, or of the wrong digest
  7         out of disk or memory, or a place that cannot be written to
  8         cells of a benchmark failed; the others are finished, and the log says why
  129, 130, 138, 143  interrupted; what was finished is kept, the same command
            continues; 138 after SIGUSR1, when the batch in work was finished
  141       the reader of stdout closed it

\b
Every option can be set by the environment variable that its help names; several
values are separated by semicolons. GENBENCH_CACHE names the cache of features
and weights, GENBENCH_OFFLINE=1 forbids downloads, and GENBENCH_COPY_GIB is the size
up to which sets of images behind URLs are copied to the cache (8)."""


@click.group(
    cls=console.Group,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="genbench")
def cli() -> None:
    """Evaluate generative image models, with an error bar and a protocol behind every number.

    \b
    genbench run --model ddim --metric fid
    genbench run --model "ddim(steps=20)" --metric fid --metric recall --num-samples 2000
    genbench score samples/ --reference real.zip --metric fid --metric precision
    genbench info ddim
    """


@cli.command(short_help="Sample a model and measure the samples.")
@model_options
@measure_options
@weights_option
@place_options
@call_options
@output_option
@format_option("table", "json", "csv")
@leaderboard_option
@track_option
@option("--fresh", is_flag=True, help="Sample and measure anew although there are results.")
@shard_option
def run(**options: Any) -> None:
    """Sample a model, measure the samples, and put the numbers beside the paper's.

    A run that was interrupted continues; one that is finished answers from its folder. `torchrun --nproc-per-node 8 -m
    genbench run ...` works with eight processes.

    \b
    genbench run --model ddim --metric fid
    genbench run --model "cfg(scale=2.0)" --metric all -n 2000 --seed 1
    genbench run --model mypackage.mymodule:load --dataset "folder(path='real/')"
    """
    from genbench import exports, pipeline

    if options["track"]:
        exports.require(options["track"])
    request, execution = run_request_of(options), execution_of(options)
    if options["shard"]:
        refuse_beside_shard(options, "fresh", "leaderboard", "track")
        _sample_share(request, options, execution)
        return
    with _what_was_measured(options):
        outcome = pipeline.run(
            request.spec,
            request.measurements,
            protocol=request.protocol,
            output=options["output"],
            leaderboard=options["leaderboard"],
            execution=execution,
        )
    _finish(outcome, options)
    if options["track"]:
        from genbench.exports.summary import of_outcome

        exports.track(options["track"], of_outcome(outcome))


@cli.command(short_help="Measure images that exist.")
@click.argument("samples", cls=console.Argument)
@option("--reference", metavar="REF", help="Folder, zip, npz or shards of images, or a data set.")
@option("--held-out", metavar="REF", help="Other real images; they give the floors.")
@option("--test", metavar="REF", help="Labelled real images, for metrics that test a classifier.")
@measure_options
@weights_option
@place_options
@format_option("table", "json", "csv")
@leaderboard_option
def score(**options: Any) -> None:
    """Measure images that exist: SAMPLES is a folder, a zip, an npz or shards (tar, parquet) of images, the folder of a
    run, or the name of a data set.

    \b
    genbench score out/ --reference real/ --metric fid
    genbench score runs/f346ff15a959 --reference shapes --metric recall
    genbench score "shapes(split='test', count=1000)" --reference shapes
    """
    from genbench import preflight, requests

    execution = execution_of(options)
    if options["leaderboard"]:
        preflight.check_leaderboard(options["leaderboard"])
    request = requests.of_score(
        options["samples"],
        options["reference"],
        metrics=metrics_of(options),
        protocol=options["protocol"],
        held_out=options["held_out"],
        test=options["test"],
        execution=execution,
    )
    with _what_was_measured(options):
        outcome = requests.measured(request, execution)
    _finish(outcome, options)


@cli.command(short_help="Sample a model without measuring.")
@model_options
@weights_option
@place_options
@call_options
@output_option
@option("--grid", type=FileToWrite(".png"), help="Also write the picture of the first 64 here.")
@option("--classes", type=FileToWrite(".png"), help="Also write a picture with a row of 8 images a class here.")
@option(
    "--strip",
    type=FileToWrite(".png"),
    help="Also write how the first 4 images came about: a row of states and a row of predicted images each.",
)
@option("--npz", type=FileToWrite(".npz"), help="Also write all images as arr_0 of an npz.")
@shard_option
def sample(**options: Any) -> None:
    """Sample a model without measuring. A later `run` with the same options finds the images.

    \b
    genbench sample --model ddim -n 100 --grid grid.png --npz samples.npz
    genbench sample --model "ldm(scale=2.0)" --classes classes.png
    """  # fmt: skip
    from genbench import images, pipeline
    from genbench.images import pictures

    request, execution = run_request_of(options | {"protocol": None, "metric": ()}), execution_of(options)
    spec = request.spec
    if options["shard"]:
        refuse_beside_shard(options, "grid", "classes", "strip", "npz")
        _sample_share(replace(request, measurements=()), options, execution)
        return
    samples, directory, spec = pipeline.sample(
        spec,
        output=options["output"],
        strip=bool(options["strip"]),
        by_class=bool(options["classes"]),
        writes=[options[name] for name in ("grid", "classes", "strip", "npz") if options[name]],
        execution=execution,
    )
    if options["grid"]:
        images.write_grid(samples.read(0, min(64, samples.count)), options["grid"])
    if options["classes"]:
        images.write_grid(pictures.by_class(samples), options["classes"])
    if options["strip"]:
        frames = pipeline.trajectory(spec, execution=execution)
        images.write_grid(pictures.rows(frames), options["strip"], columns=frames.shape[2])
    if options["npz"]:
        images.write_npz(samples, options["npz"])
    say(shown(f"{samples.count} images of {spec.model}, seed {spec.seed}, in {directory}"))


@cli.command("list", short_help="Name every component.")
@click.argument("kind", required=False, cls=console.Argument)
@format_option("table", "json")
def list_(kind: str | None, format: str) -> None:
    """Name every model, metric, data set, extractor and protocol; KIND limits the list, and says more.

    \b
    genbench list metrics
    genbench list extractors      with the weights: files, sizes, whether they are in the cache
    """
    from genbench.describe import summaries, weights_of

    tables = {f"{name}s": table for name, table in summaries().items()}
    if kind is not None:
        plural = kind if kind.endswith("s") else f"{kind}s"
        if plural not in tables:
            raise UsageError(f"No kind {kind!r}. {nearest(plural, tables)}")
        tables = {plural: tables[plural]}
    if format == "json":
        say(json.dumps(tables, indent=2))
        return
    for title, table in tables.items():
        say(title)
        for line in console.aligned(list(table.items())):
            say(line)
        if kind is None:
            continue
        needed = []
        for name in table:
            try:
                needed += [(name, w) for w in weights_of(title.removesuffix("s"), name)]
            except GenbenchError as error:  # a plug-in that does not import, among others that do
                logging.getLogger(__name__).warning("%s", error)
        if needed:
            say("\nweights")
            rows = [(name, w.dataset, w.size, w.where, ", ".join(w.files)) for name, w in needed]
            for line in console.aligned(rows):
                say(line)


@cli.command(short_help="Show a component: arguments, source, file.")
@click.argument("name", cls=console.Argument)
@format_option("table", "json")
def info(name: str, format: str) -> None:
    """Show a component's contract, arguments with defaults, source and file.

    NAME may be kind:name if two kinds share a name, and kind:module:attribute for code of your own.

    \b
    genbench info ddim
    genbench info extractor:inception
    """
    from genbench.describe import describe
    from genbench.display import wrapped

    found = describe(name)
    if format == "json":
        say(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        if isinstance(value, dict):
            say(f"{key}:")
            for inner, text in value.items():
                say(wrapped(f"  {inner} = {shown(text)}", console.width(), indent=6))
        else:
            text = "\n".join(shown(line) for line in str(value).splitlines())
            say(wrapped(f"{key}: {text}", console.width(), indent=4))


@cli.command(short_help="Say what `run` would do, without doing it.")
@model_options
@measure_options
@weights_option
@place_options
@call_options
@output_option
@format_option("table", "json")
def plan(**options: Any) -> None:
    """Say what `run` with the same options would do: time, disk, what is there, what is missing.

    The exit code is the one that `run` would end with for what is missing.

    \b
    genbench plan --model adm-g --dataset imagenet256 --data-dir data/
    """
    from genbench.display import wrapped
    from genbench.planning import duration
    from genbench.planning import plan as make_plan

    request, execution = run_request_of(options), execution_of(options, watch=False)
    made = make_plan(
        request.spec, request.measurements, protocol=request.protocol, output=options["output"], execution=execution
    ).as_dict()
    if options["format"] == "json":
        say(json.dumps(made, indent=2))
        raise click.exceptions.Exit(made["exit_code"])
    size, free = made.pop("disk_bytes"), made.pop("free_bytes")
    needed = "unknown" if size is None else f"{size / 2**20:.1f} MiB"
    memory = made.pop("memory_bytes")
    made |= {stage: duration(made.pop(f"{name}_seconds")) for stage, name in _STAGES.items()}
    made["memory"] = "unknown" if memory is None else f"{memory / 2**20:.1f} MiB beside features, models and libraries"
    made["disk"] = f"{needed}, {free / 2**30:.1f} GiB free"
    code, missing = made.pop("exit_code"), made.pop("missing")
    for key, value in made.items():
        text = (", ".join(value) or "nothing") if isinstance(value, list) else value
        if text is None or isinstance(text, bool):
            text = {None: "unknown", True: "yes", False: "no"}[text]
        say(wrapped(shown(f"{key.replace('_', ' ')}: {text}"), console.width(), indent=4))
    say(f"missing: {'' if missing else 'nothing'}".rstrip())
    for line in missing:
        say(wrapped(shown(f"  {line}"), console.width(), indent=4))
    raise click.exceptions.Exit(code)


_STAGES = {"sampling": "sampling", "features": "feature", "measuring": "measuring"}


@cli.command(short_help="Check this machine.")
@output_option
@format_option("table", "json")
def doctor(output: Path, format: str) -> None:
    """Check this machine: packages, devices, weights, caches, disk. Exit code 1 if anything is wrong.

    \b
    genbench doctor
    """
    from dataclasses import asdict

    from genbench.display import wrapped
    from genbench.doctor import examine

    checks = examine(output)
    if format == "json":
        say(json.dumps([asdict(c) for c in checks], indent=2))
    else:
        for check in checks:
            word = {True: "ok  ", False: "FAIL", None: "    "}[check.ok]
            say(wrapped(shown(f"{word} {check.name}: {check.says}"), console.width(), indent=5))
    if any(check.ok is False for check in checks):
        raise click.exceptions.Exit(1)


@cli.command(short_help="Download weights into the cache.")
@click.argument("names", nargs=-1, required=True, cls=console.Argument)
def fetch(names: tuple[str, ...]) -> None:
    """Download weights into the cache, so that later runs need no network.

    NAMES are extractors, or files of models as `genbench list models` names them.

    \b
    genbench fetch inception "clip(architecture='ViT-L-14')" adm-256x256-diffusion
    """
    from genbench import weights
    from genbench.describe import card_of

    cards = {name: card_of(name) for name in names}  # all names are checked before the first download begins
    for name, card in cards.items():
        say(shown(f"{name}: {weights.resolve(card, received=console.bars().bytes)}"))
        for caution in card.cautions:
            say(shown(f"  {caution}"))


def _sample_share(request: RunRequest, options: dict[str, Any], execution: Execution) -> None:
    """Makes the images of one job of several, and says how many there are."""
    from genbench import pipeline

    there, total, directory, spec = pipeline.sample_share(
        request.spec,
        request.measurements,
        options["shard"],
        protocol=request.protocol,
        output=options["output"],
        execution=execution,
    )
    job = "/".join(map(str, options["shard"]))
    say(shown(f"job {job} is done: {there} of {total} images of {spec.model}, seed {spec.seed}, are in {directory}"))


@contextlib.contextmanager
def _what_was_measured(options: dict[str, Any]) -> Iterator[None]:
    """Prints what had been measured before an error or an interrupt, which then goes on its way."""
    from genbench.outcome import Outcome

    try:
        yield
    except (GenbenchError, Unmeasured) as error:
        if error.results:
            _finish(Outcome(results=error.results), options)
        raise


def _finish(outcome: Outcome, options: dict[str, Any]) -> None:
    """Prints an outcome, and merges its rows into the leaderboard."""
    from genbench import advice, display, report

    if not outcome.results:
        raise NotComparable("Nothing could be measured; the warnings above say why.")
    if options["format"] == "json":
        say(report.dumps(outcome.to_dict()))
    elif options["format"] == "csv":
        say(report.table_csv(outcome.results).removesuffix("\n"))
    else:
        say(display.table_text(outcome.results, console.width()))
        first = outcome.results[0]
        counts = f"{first.generated.count} images of {first.generated.name}"
        against = f", reference {first.reference.name}" if first.reference else ""
        say("")
        say(shown(f"{counts}{against}, protocol {first.protocol} {first.protocol_hash}"))
        if outcome.directory is not None:
            seen = " (from an earlier run)" if outcome.cached else ""
            images = "samples, grid.png, " if (outcome.directory / "samples").is_dir() else ""
            say(shown(f"{outcome.directory}/ has {images}result.json and row.csv{seen}"))
        if told := advice.after(outcome.results):
            say(shown(told))
    if options["leaderboard"]:
        # After the numbers are told: a leaderboard may refuse them.
        report.merge_leaderboard(options["leaderboard"], outcome.results)


for command in (
    exporting.export,
    references.stats,
    *(decisions.compare, decisions.baseline, decisions.gate),
    *(boards.bench, boards.leaderboard, pages.report, boards.runs, boards.cache),
):
    cli.add_command(command)


def main(args: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code. Every error a user can cause is told on stderr."""
    return console.run(cli, args, "genbench", assist=_assist)


def _assist() -> None:
    """Does what rank 0 of several processes asks for."""
    from genbench import pipeline, ranks, requests

    jobs = {"run": pipeline.jobs_of_run, "score": requests.jobs_of_score, "stats": references.jobs_of_stats}
    ranks.serve(jobs)


if __name__ == "__main__":
    raise SystemExit(main())
