"""The command line: text to records, records to text, errors to exit codes. No measuring here.

Results go to stdout, progress and messages to stderr. Heavy imports happen inside the commands, so that `--help` and
`list` answer at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from genbench import __version__
from genbench.errors import GenbenchError, UsageError, nearest
from genbench.records import Measurement, Ref

if TYPE_CHECKING:
    from genbench.measuring import Execution
    from genbench.outcome import Outcome
    from genbench.protocols import Protocol
    from genbench.records import RunSpec

F = TypeVar("F", bound=Callable[..., Any])

EXIT_CODES = """\b
Exit codes:
  0  done
  1  unexpected failure
  2  wrong usage: unknown name, option or argument
  4  not comparable, or too few samples
  5  input rejected: images, arrays, files, values that are not finite
  6  weights or data missing, or of the wrong digest
  7  out of disk or memory
  130, 143  interrupted; what was finished is kept, the same command continues"""


class _Group(click.Group):
    """Names what is near a misspelt command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise UsageError(f"No command {args[0]!r}. {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Group,
    epilog=EXIT_CODES,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 120,
        "auto_envvar_prefix": "GENBENCH",
    },
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


def _together(*options: Callable[[F], F]) -> Callable[[F], F]:
    def apply(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


_model_options = _together(
    click.option(
        "--model", required=True, metavar="NAME[(KEY=VALUE, ...)]", help="What to sample; see `genbench list`."
    ),
    click.option("--dataset", default="shapes", show_default=True, metavar="NAME[(...)]", help="Real images."),
    click.option(
        "-n", "--num-samples", type=click.IntRange(min=1), help="Images to sample.  [default: the data set's]"
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the run."),
    click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True),
    click.option("--exact", is_flag=True, help="Bit-identical images for every batch size."),
    click.option(
        "--quantise", type=click.Choice(["round", "truncate"]), help="Floats to 8 bits.  [default: the protocol's]"
    ),
)
_measure_options = _together(
    click.option("--metric", "metrics", multiple=True, metavar="NAME[(...)][@EXTRACTOR]", help="Repeatable; or `all`."),
    click.option("--protocol", "protocol_name", metavar="NAME", help="How to measure.  [default: the data set's]"),
)
_weights_option = click.option(
    "--weights", multiple=True, metavar="NAME=PATH",
    help="A file for an extractor, or for a card of `genbench list models`; repeatable.",
)  # fmt: skip
_work_options = _together(
    click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:I]|mps"),
    click.option("--batch-size", type=click.IntRange(min=1), help="Images a network call.  [default: by device]"),
    click.option(
        "--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Threads that decode images."
    ),
    click.option("--data-dir", type=click.Path(path_type=Path), help="Where data sets that are files lie."),
)
_output_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("runs"), show_default=True,
    help="Directory of runs; each has its own folder there.",
)  # fmt: skip
_format_option = click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True
)


@cli.command()
@_model_options
@_measure_options
@_weights_option
@_work_options
@_output_option
@_format_option
@click.option("--leaderboard", type=click.Path(path_type=Path, dir_okay=False), help="CSV to merge the rows into.")
@click.option("--fresh", is_flag=True, help="Sample and measure anew although there are results.")
def run(**options: Any) -> None:
    """Sample a model, measure the samples, and put the numbers beside the paper's.

    A run that was interrupted continues; one that is finished answers from its folder.
    """
    from genbench import pipeline, report

    spec, measurements, protocol, execution = _job(options)
    outcome = pipeline.run(spec, measurements, protocol=protocol, output=options["output"], execution=execution)
    _print_outcome(outcome, options["form"])
    if options["leaderboard"]:
        # After the numbers are told: a leaderboard may refuse them.
        report.merge_leaderboard(options["leaderboard"], outcome.results)


@cli.command()
@click.argument("samples")
@click.option("--reference", required=True, metavar="REF", help="Folder, zip, npz of images, or a data set.")
@click.option("--held-out", metavar="REF", help="Other real images; they give the floors.")
@_measure_options
@_weights_option
@_work_options
@_format_option
def score(**options: Any) -> None:
    """Measure images that exist: SAMPLES is a folder, a zip or an npz of images, or the name of a data set.

    \b
    genbench score out/ --reference real/ --metric fid
    genbench score "shapes(split='test', count=1000)" --reference shapes
    """
    from genbench import pipeline

    execution = _execution(options)
    generated, dataset, _ = pipeline.open_side(options["samples"], execution, role="held_out")
    reference, dataset, ref = pipeline.open_side(options["reference"], execution, role="reference")
    held_out, test = None, None
    if options["held_out"]:
        held_out = pipeline.open_side(options["held_out"], execution, role="held_out")[0]
    elif dataset is not None and ref is not None:
        held_out = pipeline.load_split(dataset, ref, "held_out", execution)
    if dataset is not None and ref is not None:
        test = pipeline.load_split(dataset, ref, "test", execution)
    protocol = _protocol(options, dataset.protocol if dataset else None)
    measurements = _measurements(options, protocol)
    outcome = pipeline.score(
        generated, reference, measurements, protocol=protocol, held_out=held_out, test=test, execution=execution
    )
    _print_outcome(outcome, options["form"])


@cli.command()
@_model_options
@_weights_option
@_work_options
@_output_option
@click.option(
    "--grid", type=click.Path(path_type=Path, dir_okay=False), help="Also write the picture of the first 64 here."
)
@click.option(
    "--classes",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a picture with a row of 8 images a class here.",
)
@click.option(
    "--strip",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write how the first 4 images came about: a row of states and a row of predicted images each.",
)
@click.option(
    "--npz", type=click.Path(path_type=Path, dir_okay=False), help="Also write all images as arr_0 of an npz."
)
def sample(**options: Any) -> None:
    """Sample a model without measuring; a later `run` with the same options finds the images."""
    from genbench import images, pipeline
    from genbench.images import pictures

    spec, _ = _spec(options | {"protocol_name": None})
    execution = _execution(options)
    samples, directory, spec = pipeline.sample(spec, output=options["output"], execution=execution)
    if options["grid"]:
        images.write_grid(samples.read(0, min(64, samples.count)), options["grid"])
    if options["classes"]:
        images.write_grid(pictures.by_class(samples), options["classes"])
    if options["strip"]:
        shown = pipeline.trajectory(spec, execution=execution)
        images.write_grid(pictures.rows(shown), options["strip"], columns=shown.shape[2])
    if options["npz"]:
        images.write_npz(samples, options["npz"])
    click.echo(f"{samples.count} images of {spec.model}, seed {spec.seed}, in {directory}")


@cli.command("list")
@click.argument("kind", required=False)
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def list_(kind: str | None, form: str) -> None:
    """Name every model, metric, data set, extractor and protocol; KIND (such as metrics) limits the list."""
    from genbench import protocols, registry

    tables = {f"{name}s": {k: v[1] for k, v in sorted(registry.table(name).items())} for name in registry.KINDS}
    tables["protocols"] = {name: p.summary for name, p in protocols.PROTOCOLS.items()}
    if kind is not None:
        plural = kind if kind.endswith("s") else f"{kind}s"
        if plural not in tables:
            raise UsageError(f"No kind {kind!r}. {nearest(plural, tables)}")
        tables = {plural: tables[plural]}
    if form == "json":
        click.echo(json.dumps(tables, indent=2))
        return
    width = max(len(name) for table in tables.values() for name in table)
    for title, table in tables.items():
        click.echo(title)
        for name, summary in table.items():
            click.echo(f"  {name.ljust(width)}  {summary}")
            if kind is not None and title == "models":
                for line in _weights_lines(name):
                    click.echo(f"  {' ' * width}    {line}")


def _weights_lines(model: str) -> list[str]:
    """One line a data set that a model has weights for: data set, files, size, where they are."""
    from genbench.describe import weights_of

    rows = [(w.dataset, ", ".join(w.files), w.size, w.where) for w in weights_of(model)]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


@cli.command()
@click.argument("name")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def info(name: str, form: str) -> None:
    """Show a component's contract, arguments with defaults, source and file.

    NAME may be kind:name if two kinds share a name.
    """
    from genbench.describe import describe

    found = describe(name)
    if form == "json":
        click.echo(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        if isinstance(value, dict):
            click.echo(f"{key}:")
            for inner, text in value.items():
                click.echo(f"  {inner} = {text}")
        else:
            click.echo(f"{key}: {value}")


@cli.command()
@_model_options
@_measure_options
@_weights_option
@_work_options
@_output_option
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def plan(**options: Any) -> None:
    """Say what `run` with the same options would do: time, disk, what is there, what is missing."""
    from genbench.planning import plan as make_plan

    spec, measurements, protocol, execution = _job(options | {"fresh": False}, watch=False)
    made = make_plan(spec, measurements, protocol=protocol, output=options["output"], execution=execution).as_dict()
    if options["form"] == "json":
        click.echo(json.dumps(made, indent=2))
        return
    made["disk_bytes"] = f"{made['disk_bytes'] / 2**20:.1f} MiB, {made.pop('free_bytes') / 2**30:.1f} GiB free"
    for key, value in made.items():
        text = (", ".join(value) or "nothing") if isinstance(value, list) else value
        click.echo(f"{key.replace('_', ' ')}: {text}")


@cli.command()
@_output_option
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def doctor(output: Path, form: str) -> None:
    """Check this machine: packages, devices, weights, caches, disk. Exit code 1 if anything is wrong."""
    from dataclasses import asdict

    from genbench.doctor import examine

    checks = examine(output)
    if form == "json":
        click.echo(json.dumps([asdict(c) for c in checks], indent=2))
    else:
        for check in checks:
            click.echo(f"{ {True: 'ok  ', False: 'FAIL', None: '    '}[check.ok] } {check.name}: {check.says}")
    if any(check.ok is False for check in checks):
        raise click.exceptions.Exit(1)


@cli.command()
@click.argument("names", nargs=-1, required=True)
def fetch(names: tuple[str, ...]) -> None:
    """Download weights into the cache, so that later runs need no network.

    NAMES are extractors, or files of models as `genbench list models` names them.

    \b
    genbench fetch inception "clip(architecture='ViT-L-14')" adm-256x256-diffusion
    """
    from genbench import weights
    from genbench.describe import card_of

    for name in names:
        click.echo(f"{name}: {weights.resolve(card_of(name), watch=_Progress().bytes)}")


def _spec(options: dict[str, Any]) -> tuple[RunSpec, Protocol]:
    from genbench import registry
    from genbench.records import RunSpec

    ref, model = Ref.parse(options["dataset"]), Ref.parse(options["model"])
    dataset, _ = registry.bind("dataset", ref)
    preset = registry.preset(model.name, dataset.name)
    protocol = _protocol(options, (preset and preset.protocol) or dataset.protocol)
    of_paper = preset.num_samples if preset else None
    spec = RunSpec(
        model=model, dataset=ref, seed=options["seed"], precision=options["precision"],
        num_samples=options["num_samples"] or of_paper or protocol.num_samples or dataset.default_samples,
        exact=options["exact"], quantise=options["quantise"] or protocol.quantise,
    )  # fmt: skip
    return spec, protocol


def _job(options: dict[str, Any], *, watch: bool = True) -> tuple[RunSpec, list[Measurement], Protocol, Execution]:
    spec, protocol = _spec(options)
    return spec, _measurements(options, protocol), protocol, _execution(options, watch=watch)


def _protocol(options: dict[str, Any], default: str | None) -> Protocol:
    from genbench.protocols import protocol

    return protocol(options["protocol_name"] or default or "embedded")


def _measurements(options: dict[str, Any], protocol: Protocol) -> list[Measurement]:
    from genbench import requests

    return list(requests.measurements_of(options["metrics"] or requests.DEFAULT_METRICS, protocol))


def _execution(options: dict[str, Any], *, watch: bool = True) -> Execution:
    from genbench.measuring import Execution

    weights: dict[str, Path] = {}
    for text in options.get("weights", ()):
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise UsageError(f"--weights takes NAME=PATH, such as inception=weights.pth; got {text!r}.")
        if not Path(path).is_file():
            raise UsageError(f"--weights {name}: there is no file {path}.")
        weights[name] = Path(path)
    return Execution(
        device=options["device"], batch_size=options["batch_size"], workers=options["workers"],
        data_dir=options["data_dir"], weights=weights, fresh=options.get("fresh", False),
        watch=_Progress() if watch else None,
    )  # fmt: skip


def _print_outcome(outcome: Outcome, form: str) -> None:
    from genbench import display, report

    if form == "json":
        more = {"directory": str(outcome.directory) if outcome.directory else None, "cached": outcome.cached}
        click.echo(report.dumps(report.document(outcome.results, **more)))
    elif form == "csv":
        click.echo(report.table_csv(outcome.results), nl=False)
    elif not outcome.results:
        click.echo("nothing could be measured")
    else:
        click.echo(display.table_text(outcome.results))
        first = outcome.results[0]
        counts = f"{first.generated.count} images of {first.generated.name}"
        against = f", reference {first.reference.name}" if first.reference else ""
        click.echo(f"\n{counts}{against}, protocol {first.protocol} {first.protocol_hash}")
        if outcome.directory is not None:
            seen = " (from an earlier run)" if outcome.cached else ""
            click.echo(f"{outcome.directory}/ has samples, grid.png, result.json and row.csv{seen}")


class _Progress:
    """One bar a stage on stderr; nothing when stderr is no terminal."""

    def __init__(self) -> None:
        self.stage, self.bar = "", None

    def __call__(self, stage: str, done: float, total: float) -> None:
        if not sys.stderr.isatty():
            return
        from tqdm import tqdm

        if stage != self.stage:
            if self.bar is not None:
                self.bar.close()
            self.stage, self.bar = (
                stage,
                tqdm(total=total or None, desc=stage, unit=" images", file=sys.stderr, leave=False),
            )
        if self.bar is not None:
            self.bar.update(done - self.bar.n)
            if total and done >= total:
                self.bar.close()

    def bytes(self, done: int, total: int | None) -> None:
        """For downloads."""
        self("download", done, total or 0)


def main(args: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code; every error a user can cause is one line on stderr."""
    try:
        code = cli.main(args=args, prog_name="genbench", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except GenbenchError as error:
        return _fail(str(error), error.exit_code)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        return _fail(error.format_message(), 2)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; the same command continues", 130)
    except MemoryError:
        return _fail("out of memory; use a smaller --batch-size or fewer samples", 7)
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def _fail(message: str, code: int) -> int:
    click.echo(f"genbench: {' '.join(message.split())}", err=True)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
