"""The command that makes a page of results."""

from __future__ import annotations

from pathlib import Path

import click

from genbench import console
from genbench.commands.options import option
from genbench.console import FileToWrite, say
from genbench.errors import shown


@click.command(cls=console.Command, short_help="Make a page of runs and leaderboards.")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path), cls=console.Argument)
@option("-o", "--output", type=FileToWrite(".html"), required=True, help="The page.")
@option("--title", default=None, help="Of the page.  [default: the data sets]")
@option(
    "--images",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="Images of every run, side by side for equal seeds; 0 for none.",
)
@option(
    "--names",
    type=click.Path(path_type=Path),
    help="TOML with a table a model, such as [ddim], of `name` and `link` (https).",
)
@option("--allow-code", is_flag=True, help="Let results name components by module:attribute, which is imported.")
def report(
    sources: tuple[Path, ...], output: Path, title: str | None, images: int, names: Path | None, allow_code: bool
) -> None:
    """Make one page of HTML that needs no network: tables with intervals and groups of ties, charts, images, and the
    protocol and command of every number. SOURCES are runs, directories of runs, leaderboards (CSV), what `genbench
    compare --format json` wrote, and strips of images (PNG). Of two runs, the page also has their comparison.

    \b
    genbench report runs/ --output report.html
    genbench report leaderboards/zoo.csv runs/ --output zoo.html --title "Samplers on shapes"
    genbench report runs/f346ff15a959 runs/995bcc189e67 -o difference.html
    """
    from genbench.files import atomic_write
    from genbench.page import gathered, rendered

    page = gathered(sources, title=title or "", images=images, names=names, allow_code=allow_code)
    data = rendered(page).encode()
    atomic_write(output, data)
    say(shown(f"{output} shows {page.numbers} numbers, {len(data) / 1e3:.0f} kB"))
