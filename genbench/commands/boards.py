"""Commands of many numbers at once: benchmark files and leaderboards, and what lies in the folders of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from genbench import console
from genbench.commands.options import (
    call_options,
    execution_of,
    format_option,
    option,
    place_options,
    together,
    track_option,
    weights_option,
)
from genbench.console import FileToWrite, say
from genbench.errors import UsageError, shown

if TYPE_CHECKING:
    from genbench.benchmark import Progress

code_option = option(
    "--allow-code", is_flag=True, help="Let the file name components by module:attribute, which are imported."
)
runs_option = option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs"),
    show_default=True,
    help="Directory of the runs.",
)
STATES = ("finished", "sampled", "unfinished", "running", "damaged")
"""As in `genbench.housekeeping`, which would import numpy."""
work_options = together(weights_option, place_options, call_options, runs_option)


@click.command(cls=console.Command, short_help="Run every cell of a benchmark file.")
@click.argument("file", type=click.Path(path_type=Path), cls=console.Argument)
@work_options
@option("--leaderboard", type=FileToWrite(".csv"), help="CSV for the rows.  [default: leaderboard.csv of the output]")
@option("--fresh", is_flag=True, help="Sample and measure anew although there are results.")
@track_option
@code_option
def bench(file: Path, leaderboard: Path | None, track: str | None, allow_code: bool, **options: Any) -> None:
    """Run every cell of FILE: each model on each data set, with each seed and each metric.

    The rows go into one leaderboard. What an earlier call finished is not done again, so that the same command
    continues one that was stopped. A cell that fails is a row of log.csv, and the others go on.

    \b
    genbench bench leaderboards/zoo.toml --output runs
    genbench bench mine.toml --leaderboard mine.csv
    """
    from genbench import benchmark, exports

    if track is not None:
        exports.require(track)
    asked = benchmark.read(file, allow_code=allow_code)
    output, execution = options["output"], execution_of(options)

    def tell(progress: Progress) -> None:
        _tell(progress)
        results = tuple(cell.result for cell in progress.cells if cell.result is not None)
        if track is not None and results:
            from genbench.exports.summary import Summary

            exports.track(track, Summary(results=results, directory=output / progress.cells[0].run.spec.id))

    found = benchmark.run(asked, output=output, leaderboard=leaderboard, execution=execution, tell=tell)
    counts = {state: sum(cell.state == state for cell in found) for state in ("done", "left out", "failed")}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    say(shown(f"{asked.title}: {len(found)} cells, {told}"))
    say(shown(f"{leaderboard or output / 'leaderboard.csv'} has the numbers, {output / 'log.csv'} what became of each"))
    benchmark.refuse_failures(found)


def _tell(progress: Progress) -> None:
    """A line on stderr after each run of a benchmark."""
    from genbench.planning import duration

    console.bars().close()
    spec = progress.cells[0].run.spec
    bad = [cell for cell in progress.cells if cell.state == "failed"]
    left = (
        ""
        if progress.seconds_left is None or progress.done == progress.total
        else (f", about {duration(progress.seconds_left)} left")
    )
    failed = f", {len(bad)} of {len(progress.cells)} failed" if bad else ""
    name = f"{spec.model.brief()} on {spec.dataset.brief()}, seed {spec.seed}"
    click.echo(shown(f"{progress.done} of {progress.total}: {name}{failed}{left}"), err=True)
    for cell in bad:
        click.echo(shown(f"  {cell.measurement}: {' '.join(str(cell.error).split())}"), err=True)


@click.group(cls=console.Group, short_help="Build, check, recompute and render leaderboards.")
def leaderboard() -> None:
    """Build, check, recompute and render leaderboards: CSV files of one row a number.

    \b
    genbench leaderboard build runs/ --output board.csv
    genbench leaderboard check board.csv
    genbench leaderboard render board.csv --to md
    """


@leaderboard.command(short_help="Merge the results of runs into a leaderboard.")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), cls=console.Argument)
@option("-o", "--output", type=FileToWrite(".csv"), required=True, help="The CSV; rows that it has stay.")
def build(runs: tuple[Path, ...], output: Path) -> None:
    """Merge the results of RUNS into a leaderboard: folders of runs, directories of such folders, or other CSV files.

    Rows are merged by their id and sorted. Numbers of two protocols in one ranking end with exit code 4, and nothing is
    written.

    \b
    genbench leaderboard build runs/ --output board.csv
    genbench leaderboard build runs/f346ff15a959 theirs.csv --output board.csv
    """
    from genbench import leaderboard as boards

    say(shown(f"{output} has {boards.build(runs, output)} rows"))


@leaderboard.command(short_help="Say what is wrong with a leaderboard.")
@click.argument("file", type=click.Path(path_type=Path), cls=console.Argument)
def check(file: Path) -> None:
    """Look at every row of FILE: columns, types, ranges, order, duplicates, formulas, ids, protocols of a ranking.

    Exit code 5 if a row is wrong, 4 if a ranking mixes protocols.

    \b
    genbench leaderboard check leaderboards/shapes.csv
    """
    from genbench import leaderboard as boards
    from genbench.display import wrapped

    found = boards.check(file)
    for text in (*found.problems, *found.unlike):
        say(wrapped(shown(text), console.width(), indent=2))
    for text in found.notes:
        say(wrapped(shown(f"note: {text}"), console.width(), indent=2))
    wrong = len(found.problems) + len(found.unlike)
    say(shown(f"{file}: {found.rows} rows, {wrong or 'no'} problem{'' if wrong == 1 else 's'}"))
    found.refuse()


@leaderboard.command(short_help="Sample and measure a row again.")
@click.argument("file", type=click.Path(path_type=Path), cls=console.Argument)
@option("--row", required=True, metavar="ID", help="Id of the row, or how it begins.")
@work_options
@option("--fresh", is_flag=True, help="Sample and measure anew although there are results.")
@code_option
def rerun(file: Path, row: str, allow_code: bool, **options: Any) -> None:
    """Sample and measure a row of FILE again, from its columns alone, and say whether the number is the same.

    Exit code 0 for the same and for a difference within the error, 3 for another number, 4 if it is measured
    otherwise today.

    \b
    genbench leaderboard rerun leaderboards/zoo.csv --row 3c1423cb1986
    """
    from genbench import leaderboard as boards
    from genbench import report, tables
    from genbench.display import rounded

    given = boards.row_of(tables.read(file, report.COLUMNS), row)
    found = boards.rerun(given, output=options["output"], allow_code=allow_code, execution=execution_of(options))
    told, score = float(given["value"]), found.result.score
    error = f" +- {rounded(score.stderr, score.stderr)}" if score.stderr else ""
    say(shown(f"{given['metric']} of {given['model']}, seed {given['seed']}"))
    say(f"in the row:     {told!r} of {given['date']}")
    say(f"measured again: {score.value!r}{error}")
    say(f"{found.verdict}" + (f" (difference {score.value - told:.3g})" if score.value != told else ""))
    for text in found.differing:
        say(shown(f"measured otherwise: {text}"))
    if found.earlier:
        say(f"The row is of before {boards.IDENTITIES_SINCE}: its id today is {found.result.id}.")
    raise click.exceptions.Exit(found.exit_code)


@leaderboard.command(short_help="Remove rows.")
@click.argument("file", type=click.Path(path_type=Path), cls=console.Argument)
@option("--row", "ids", multiple=True, required=True, metavar="ID", help="Id of a row, or how it begins; repeatable.")
def remove(file: Path, ids: tuple[str, ...]) -> None:
    """Remove rows of FILE, all that are named or, if one of them is not there, none.

    \b
    genbench leaderboard remove board.csv --row 3c1423cb1986 --row 95a3
    """
    from genbench import leaderboard as boards

    for row in boards.remove(file, ids):
        what = f"{row['metric']} of {row['model'] or row['generated']}, seed {row['seed'] or 'unknown'}"
        say(shown(f"{row['id']} is removed: {what}, {row['value']}"))


@leaderboard.command(short_help="Show a leaderboard in groups of ties.")
@click.argument("file", type=click.Path(path_type=Path), cls=console.Argument)
@option("--to", type=click.Choice(["md", "html", "csv"]), default="md", show_default=True, help="Form of the text.")
@option("--title", help="For people.  [default: the name of the file]")
@option(
    "--names",
    type=click.Path(path_type=Path),
    help="TOML with names and links of systems: [ddim] name = ..., link = ...",
)
@option("-o", "--output", type=FileToWrite(), help="File to write to.  [default: stdout]")
def render(
    file: Path, to: Literal["md", "html", "csv"], title: str | None, names: Path | None, output: Path | None
) -> None:
    """Show FILE with groups of systems that are not told apart, in place of ranks, and with means over seeds.

    Numbers of two protocols, and measured and reported ones, are never put into one order.

    \b
    genbench leaderboard render leaderboards/zoo.csv --to md
    genbench leaderboard render board.csv --to html --output board.html
    """
    from genbench import leaderboard as boards
    from genbench import standings
    from genbench.files import atomic_write

    known = boards.names_of(names) if names else {}
    text = standings.render(boards.sound(file), title=title or file.stem, form=to, source=file.name, names=known)
    if output is None:
        say(text.removesuffix("\n"))
    else:
        atomic_write(output, text.encode())
        say(shown(f"{output} shows {file}"))


@click.group(cls=console.Group, default="list", short_help="List and remove runs.")
def runs() -> None:
    """List what lies in a directory of runs, or remove some of it.

    \b
    genbench runs
    genbench runs list --model ddim --state finished
    genbench runs rm f346ff15a959
    """


@runs.command("list", short_help="List runs: model, images, seed, metrics, size, state.")
@runs_option
@option("--model", metavar="TEXT", help="Only runs whose model has this text in it.")
@option("--metric", metavar="NAME", help="Only runs with this metric.")
@option("--state", type=click.Choice(STATES), help="Only runs in this state.")
@format_option("table", "json")
def list_runs(output: Path, model: str | None, metric: str | None, state: str | None, format: str) -> None:
    """List the runs of a directory, the last changed first.

    \b
    genbench runs list --state unfinished
    """
    from genbench import housekeeping
    from genbench.display import wrapped

    found = housekeeping.selected(housekeeping.runs(output), model=model, metric=metric, state=state)
    if format == "json":
        say(json.dumps([run.as_dict() for run in found], indent=2))
        return
    for run in found:
        what, told = "no manifest", run.state
        if (spec := run.spec) is not None:
            what = f"{spec.model} on {spec.dataset}, n {spec.num_samples}, seed {spec.seed}"
            what += "" if spec.precision == "float32" else f", {spec.precision}"
            told += f" ({run.kept} of {spec.num_samples})" if run.state == "unfinished" else ""
        measured = f"; {', '.join(run.metrics)}" if run.metrics else ""
        line = f"{run.path.name}  {told}, {megabytes(run.size)}: {what}{measured}"
        say(wrapped(shown(line), console.width(), indent=14))
    say(shown(f"{len(found)} runs in {output}, {megabytes(sum(run.size for run in found))}"))


@runs.command("rm", short_help="Remove runs.")
@click.argument("ids", nargs=-1, cls=console.Argument)
@runs_option
@option("--unfinished", is_flag=True, help="Remove all runs that lack images or whose manifest cannot be read.")
def remove_runs(ids: tuple[str, ...], output: Path, unfinished: bool) -> None:
    """Remove the runs IDS (ids, or how they begin), with images and results. A run that is worked on stays.

    \b
    genbench runs rm f346ff15a959
    genbench runs rm --unfinished
    """
    from genbench import housekeeping

    if bool(ids) == unfinished:
        raise UsageError("Say which runs to remove: by ids, or by --unfinished.")
    found = housekeeping.runs(output)
    left = [run for run in found if run.state in ("unfinished", "damaged")]
    chosen = left if unfinished else housekeeping.named(found, ids)
    for run in chosen:
        housekeeping.remove(run)
        say(shown(f"{run.path} is removed ({megabytes(run.size)})"))
    if not chosen:
        say(shown(f"no unfinished run lies in {output}"))


@click.group(cls=console.Group, default="list", short_help="Show and prune the cache of features and weights.")
def cache() -> None:
    """Show what lies in the cache and how large it is, or remove what was not used for long.

    \b
    genbench cache
    genbench cache prune --older-than 30d
    """


@cache.command("list", short_help="Say what lies in the cache, and how large it is.")
@format_option("table", "json")
def list_cache(format: str) -> None:
    """Say what lies in the cache, and how large it is.

    \b
    genbench cache list --format json
    """
    import time
    from dataclasses import asdict

    from genbench import housekeeping, weights
    from genbench.planning import duration

    found = housekeeping.cache()
    if format == "json":
        say(json.dumps([asdict(part) | {"path": str(part.path)} for part in found], indent=2))
        return
    say(shown(f"{weights.cache_directory()}: {megabytes(sum(part.size for part in found))}"))
    rows = []
    for part in found:
        age = "" if part.oldest is None else f"oldest use {duration(max(0.0, time.time() - part.oldest))} ago"
        rows.append((part.name, f"{part.count} files", megabytes(part.size), age))
    for line in console.aligned(rows):
        say(line)


@cache.command(short_help="Remove features and floors that were not used for long.")
@option("--older-than", required=True, metavar="TIME", help="How long not used, such as 30d, 12h or 2w.")
@option("--dry-run", is_flag=True, help="Say how much would go, and remove nothing.")
def prune(older_than: str, dry_run: bool) -> None:
    """Remove features and floors that were not used for a time; they are made again when they are needed. Weights stay,
    and so does everything that a running process uses.

    \b
    genbench cache prune --older-than 30d
    """
    from genbench import housekeeping

    count, size = housekeeping.prune(housekeeping.seconds_of(older_than), dry=dry_run)
    say(f"{count} files{' would be' if dry_run else ''} removed, {megabytes(size)}")


def megabytes(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
