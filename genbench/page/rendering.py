"""The page as a text: a template with autoescape, one style and one script, and a policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from genbench.display import aligned, rounded
from genbench.page import charts
from genbench.page.boards import Board
from genbench.page.gathering import Page
from genbench.records import Score


def rendered(page: Page) -> str:
    """The page as HTML, without anything from elsewhere. Equal pages give equal texts."""
    style, script = _own("page.css"), _own("page.js")
    policy = "; ".join((
        "default-src 'none'", f"style-src '{_hash(style)}'", f"script-src '{_hash(script)}'", "img-src data:",
        "base-uri 'none'", "form-action 'none'",
    ))  # fmt: skip
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"charts": charts, "policy": policy, "texts": {b.anchor: _texts(b) for b in page.boards}}
    environment.filters |= {"error": _error, "rounded": _rounded, "count": _count, "full": repr}
    template = environment.from_string(_own("page.html.j2"))
    # Both files are of this package, and end no element of HTML.
    return template.render(page=page, style=Markup(style), script=Markup(script))


def _own(name: str) -> str:
    return files("genbench.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _texts(board: Board) -> list[list[str]]:
    """The values of every column as texts whose points lie below each other."""
    columns = []
    for place in range(len(board.columns)):
        cells = [system.cells[place] for system in board.systems]
        columns.append(aligned(["" if cell is None else _rounded(cell.score) for cell in cells]))
    return columns


def _rounded(score: Score) -> str:
    return rounded(score.value, score.stderr)


def _error(score: Score) -> str:
    """The standard error as people read it beside a value, empty where there is none."""
    return f"± {rounded(score.stderr, score.stderr)}" if score.stderr else ""


def _count(number: int) -> str:
    """A number with thousands apart."""
    return f"{number:,}"
