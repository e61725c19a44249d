"""Commands that decide by numbers: compare, baseline, gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from genbench import console
from genbench.commands.options import (
    call_options,
    execution_of,
    format_option,
    option,
    output_option,
    place_options,
    together,
    weights_option,
)
from genbench.console import FileToWrite, say
from genbench.errors import GenbenchError, UsageError, shown

if TYPE_CHECKING:
    from genbench.sides import Measured

side_options = together(
    option("--reference", metavar="REF", help="Folder, zip, npz, shards of images, or data set.  [default: the run's]"),
    option(
        "--metric",
        multiple=True,
        metavar="NAME[(...)][@EXTRACTOR]",
        shell_complete=console.names_of("metric"),
        help="What to compare, repeatable.  [default: what was measured]",
    ),
    option("--protocol", metavar="NAME", shell_complete=console.names_of("protocol"), help="How to measure images."),
    option(
        "--paired/--unpaired",
        default=None,
        help="Whether image i of all sides belong together.  [default: if seeds, labels and captions are equal]",
    ),
    option("--allow-code", is_flag=True, help="Let results name components by module:attribute, which is imported."),
)
picture_option = option(
    "--picture",
    type=FileToWrite(".png"),
    help="Also draw the 16 pairs whose features moved most, base and candidate, here.",
)


def _check_writable(*paths: Path | None) -> None:
    """Refuses files that could not be written, before the work."""
    from genbench import preflight

    for path in paths:
        if path is not None:
            preflight.check_writable(path)


def _draw(base: Measured, candidate: Measured, path: Path, options: dict[str, Any]) -> None:
    """Writes the picture of what moved most; where there is none, a warning says why, and the verdict stays."""
    from genbench import moved

    execution = execution_of(options, watch=False)
    try:
        moved.write(moved.moved(base, candidate, paired=options["paired"], execution=execution), path)
    except GenbenchError as error:
        console.aside(shown(f"There is no picture {path}: {error}"))


@click.command(cls=console.Command, short_help="Say how far systems differ, and how sure that is.")
@click.argument("base", cls=console.Argument)
@click.argument("candidates", nargs=-1, required=True, cls=console.Argument)
@side_options
@weights_option
@place_options
@picture_option
@format_option("table", "json")
def compare(**options: Any) -> None:
    """Compare every CANDIDATE with BASE: both values, their difference with its error, and whether it is shown.

    Each is the folder of a run, a result.json, a baseline file, or images as `genbench score` takes them. Image i of
    both sides are compared in pairs where they have the same seed, label and caption. More than two sides are also put
    in order, in groups that are not told apart. Numbers that were measured unlike end with exit code 4.

    \b
    genbench compare runs/f346ff15a959 runs/995bcc189e67
    genbench compare runs/f346ff15a959 out/ --metric fid --reference shapes
    genbench compare a/result.json b/result.json c/result.json --format json
    """
    from genbench import report
    from genbench.comparison import compare as compared

    _check_writable(options["picture"])
    if options["picture"] and len(options["candidates"]) > 1:
        raise UsageError("--picture shows a base and one candidate; compare one at a time.")
    found = compared(
        options["base"],
        *options["candidates"],
        reference=options["reference"],
        metrics=options["metric"],
        protocol=options["protocol"],
        paired=options["paired"],
        allow_code=options["allow_code"],
        execution=execution_of(options),
    )
    say(report.dumps(found.to_dict()) if options["format"] == "json" else found.text(console.width()))
    if options["picture"]:
        _draw(found.pairs[0].base, found.pairs[0].candidate, options["picture"], options)
    raise click.exceptions.Exit(found.exit_code)


@click.group(cls=console.Group, short_help="Accept, show and calibrate the numbers behind a gate.")
def baseline() -> None:
    """Accept, show and calibrate baselines: files of accepted numbers, with the features behind them.

    \b
    genbench baseline accept runs/f346ff15a959 -o baseline.safetensors --reason "release 1.2"
    genbench baseline show baseline.safetensors
    genbench baseline calibrate baseline.safetensors
    """


@baseline.command(short_help="Write the numbers of a run or of images as a baseline.")
@click.argument("given", metavar="RUN_OR_IMAGES", cls=console.Argument)
@option("-o", "--output", type=FileToWrite(".safetensors"), required=True, help="The file.")
@option("--reason", required=True, metavar="TEXT", help="Why these numbers are right; kept in the history.")
@option("--reference", metavar="REF", help="Of images: folder, zip, npz or shards of images, or a data set.")
@option(
    "--metric",
    multiple=True,
    metavar="NAME[(...)][@EXTRACTOR]",
    shell_complete=console.names_of("metric"),
    help="What to accept, repeatable.  [default: what was measured]",
)
@option("--protocol", metavar="NAME", shell_complete=console.names_of("protocol"), help="How to measure images.")
@option(
    "--precision",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Of the stored features; float16 halves the file.",
)
@option("--images", is_flag=True, help="Keep the images, too, for pictures and for metrics that come later.")
@option("--allow-code", is_flag=True, help="Let results name components by module:attribute, which is imported.")
@weights_option
@place_options
def accept(**options: Any) -> None:
    """Write the numbers of a run, or of images, as a baseline: one file with results, environment and the features of
    every image, which is all that a later comparison in pairs needs. Its history is kept; nothing else moves it.

    \b
    genbench baseline accept runs/f346ff15a959 -o baseline.safetensors --reason "release 1.2"
    """
    from genbench.acceptance import accept as accepted

    made = accepted(
        options["given"],
        options["output"],
        reason=options["reason"],
        reference=options["reference"],
        metrics=options["metric"],
        protocol=options["protocol"],
        precision=options["precision"],
        with_images=options["images"],
        allow_code=options["allow_code"],
        execution=execution_of(options),
        announce=lambda text: say(shown(text)),
    )
    _tell_baseline(made)


@baseline.command(short_help="Say what a baseline holds.")
@click.argument("file", type=click.Path(path_type=Path), cls=console.Argument)
@option("--allow-code", is_flag=True, help="Let it name components by module:attribute.")
@format_option("table", "json")
def show(file: Path, allow_code: bool, format: str) -> None:
    """Say what a baseline holds: its run, results, noise floor and history.

    \b
    genbench baseline show baseline.safetensors
    """
    from genbench import report
    from genbench.baseline import as_dict, read

    found = read(file, allow_code=allow_code)
    if format == "json":
        say(report.dumps(as_dict(found)))
    else:
        _tell_baseline(found)


@baseline.command(short_help="Measure what changes nothing, as the least margin of a gate.")
@click.argument("file", type=click.Path(path_type=Path), cls=console.Argument)
@option("--only", multiple=True, metavar="NAME", help="One of the variations, repeatable.  [default: all]")
@option("--allow-code", is_flag=True, help="Let it name components by module:attribute, which is imported.")
@output_option
@weights_option
@place_options
@call_options
def calibrate(file: Path, **options: Any) -> None:
    """Sample the model of a baseline anew with what must not matter (another batch size, one thread, bfloat16, the CPU
    in place of another device) and with other seeds. The differences are stored. A margin below them is refused.

    \b
    genbench baseline calibrate baseline.safetensors
    """
    from genbench.acceptance import calibrate as calibrated

    made = calibrated(
        file,
        only=options["only"],
        output=options["output"],
        allow_code=options["allow_code"],
        execution=execution_of(options),
        announce=lambda text: say(shown(text)),
    )
    _tell_baseline(made)


def _tell_baseline(found: Any) -> None:
    """Prints what a baseline holds."""
    from genbench import baseline, display

    for line in baseline.lines(found):
        say(display.wrapped(shown(line), console.width(), indent=2))
    say("")
    say(display.table_text(found.results, console.width()))


@click.command(cls=console.Command, short_help="Fail where a model is worse than its baseline.")
@click.argument("candidate", required=False, cls=console.Argument)
@option("--baseline", "file", required=True, metavar="FILE", help="What `genbench baseline accept` wrote.")
@option(
    "--model",
    metavar="NAME[(KEY=VALUE, ...)]",
    shell_complete=console.names_of("model"),
    help="Sample this one, all else as the baseline was.  [default: the baseline's own]",
)
@option(
    "--margin",
    multiple=True,
    metavar="METRIC=NUMBER[%]",
    help="Largest worsening that is tolerated, such as fid=0.5 or fid=5%; repeatable.  [default: 1%]",
)
@option("--rules", type=click.Path(path_type=Path), help="A gate.toml or pyproject.toml.  [default: here, if any]")
@option("--reference", metavar="REF", help="Of images: folder, zip, npz or shards of images, or a data set.")
@option(
    "--paired/--unpaired",
    default=None,
    help="Whether image i of both sides belong together.  [default: if seeds, labels and captions are equal]",
)
@option("--escalate", is_flag=True, help="Look at a quarter of the images, at half, at all, until it is decided.")
@option("--max-n", type=click.IntRange(min=2), help="Most images of an escalation.  [default: the baseline's]")
@option("--json", "json_file", type=FileToWrite(".json"), help="Also write the verdicts here.")
@option("--junit", type=FileToWrite(".xml"), help="Also write them as JUnit XML here.")
@option("--gitlab", type=FileToWrite(".txt"), help="Also write the values as a metrics report of GitLab here.")
@picture_option
@option(
    "--ci",
    type=click.Choice(["auto", "github", "none"]),
    default="auto",
    show_default=True,
    help="Annotations and job summary; auto looks whether GITHUB_ACTIONS is true.",
)
@option("--allow-code", is_flag=True, help="Let results name components by module:attribute, which is imported.")
@weights_option
@place_options
@call_options
@output_option
@format_option("table", "json")
def gate(**options: Any) -> None:
    """Hold a candidate against a baseline. CANDIDATE is the folder of a run, a result.json, a baseline or images;
    without one, the model is sampled as the baseline was. A regression is looked at again in images of other seeds.

    \b
    genbench gate --baseline baseline.safetensors --margin fid=5%
    genbench gate runs/995bcc189e67 --baseline baseline.safetensors --junit gate.xml
    genbench gate --model "ddim(steps=20)" --baseline baseline.safetensors --escalate

    \b
    Exit codes beside those of genbench:
      0         no regression is shown
      3         regressed: a worsening beyond the margin is shown
      4         not comparable, or inconclusive where the rules let that fail
    """
    from genbench import report, reporters, rules
    from genbench.gating import gate as judged

    files = {"json": options["json_file"], "junit": options["junit"], "gitlab": options["gitlab"]}
    _check_writable(*files.values(), options["picture"])
    given = rules.found_in(Path()) if options["rules"] is None else rules.of_file(options["rules"])
    found = judged(
        options["candidate"],
        baseline=options["file"],
        model=options["model"],
        rules=rules.with_margins(given, options["margin"]),
        reference=options["reference"],
        paired=options["paired"],
        escalate=options["escalate"],
        max_n=options["max_n"],
        output=options["output"],
        allow_code=options["allow_code"],
        execution=execution_of(options),
    )
    reporters.write(found, {name: path for name, path in files.items() if path is not None})
    if options["picture"]:
        if found.base is not None and found.candidate is not None:
            _draw(found.base, found.candidate, options["picture"], options)
        else:
            console.aside(shown(f"There is no picture {options['picture']}: nothing was compared."))
    if options["format"] == "json":
        say(report.dumps(reporters.as_dict(found)))
    else:
        say(found.text(console.width()))
    if options["ci"] == "github" or (options["ci"] == "auto" and reporters.in_github()):
        reporters.tell_github(found, say if options["format"] == "table" else console.aside)
    raise click.exceptions.Exit(found.exit_code)
