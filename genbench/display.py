"""Tables for people: digits that an error supports, columns that fit a terminal, reasons as notes below. No number is
made here."""

from __future__ import annotations

import html
import math
import re
import textwrap
from collections.abc import Mapping, Sequence

from genbench import report
from genbench.errors import shown
from genbench.records import Ref, Result, Scalar

HEADER = ("metric", "value", "+- s.e.", "floor", "better", "paper", "comparable")
_NARROWEST = 12


def rounded(value: float, stderr: float | None) -> str:
    """A value with as many digits as its error supports: two of the error, or four significant ones without it."""
    if not math.isfinite(value):
        return "not finite"
    if not stderr or not math.isfinite(stderr):
        return _signed(f"{value:.4g}")
    return _fixed(value, _decimals(stderr))


def _decimals(stderr: float) -> int:
    """Decimals that show two digits of an error."""
    return max(0, 1 - _exponent(stderr))


def _fixed(value: float, decimals: int) -> str:
    # Nobody counts more zeros than these; a rest that floating point left is then seen for what it is.
    return _signed(f"{value:.{decimals}f}" if decimals <= 7 else f"{value:.1e}")


def _signed(text: str) -> str:
    """Zero has no sign."""
    return text.removeprefix("-") if not re.search("[1-9]", text.split("e")[0]) else text


def _exponent(value: float) -> int:
    return int(f"{value:e}".split("e")[1])


def error_cell(result: Result) -> str:
    """The standard error; the 95 % interval where there is none, or it is 0, or the value is an end of the interval."""
    score = result.score
    ci95 = score.ci95 or (score.value, score.value)
    if ci95[0] < ci95[1] and (not score.stderr or score.value in ci95):
        return f"[{rounded(ci95[0], ci95[1] - ci95[0])}, {rounded(ci95[1], ci95[1] - ci95[0])}]"
    if score.stderr:
        return rounded(score.stderr, score.stderr)
    return "" if score.stderr is None else "0"


def floor_cell(result: Result) -> str:
    """The floor with the decimals of the value, but no fewer than two digits of its own, nor more than it supports."""
    floor, stderr = result.floor, result.score.stderr
    if floor is None:
        return ""
    if not floor.stderr or not stderr or not floor.value or not math.isfinite(floor.value):
        return rounded(floor.value, floor.stderr)
    wanted = max(_decimals(stderr), 1 - _exponent(abs(floor.value)))
    return _fixed(floor.value, max(0, min(_decimals(floor.stderr), wanted)))


def labels(results: Sequence[Result]) -> list[str]:
    """A name for each result, such as `fid@compact`; where two would be the same, with the arguments that differ."""
    parts = [(Ref.parse(r.metric), Ref.parse(r.extractor) if r.extractor else None) for r in results]
    plain = [_name(Ref(metric.name), extractor and Ref(extractor.name)) for metric, extractor in parts]
    named = []
    for (metric, extractor), name in zip(parts, plain, strict=True):
        same = [p for p, other in zip(parts, plain, strict=True) if other == name]
        differing = [_differing([m.args for m, _ in same]), _differing([e.args if e else {} for _, e in same])]
        named.append(_name(_only(metric, differing[0]), extractor and _only(extractor, differing[1])))
    return named


def _name(metric: Ref, extractor: Ref | None) -> str:
    return f"{metric}@{extractor}" if extractor else str(metric)


def _differing(several: Sequence[Mapping[str, Scalar]]) -> list[str]:
    names = {name: None for args in several for name in args}
    return [name for name in names if len({repr(args.get(name)) for args in several}) > 1]


def _only(ref: Ref, names: Sequence[str]) -> Ref:
    return Ref(ref.name, {name: ref.args[name] for name in names if name in ref.args})


def table_cells(results: Sequence[Result]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Header and rows of the table of results, and the notes that its cells refer to by number."""
    notes: list[str] = []
    lines = [HEADER]
    for r, name in zip(results, labels(results), strict=True):
        paper = report.paper_of(r)
        better = {True: "higher", False: "lower", None: ""}[r.higher_is_better]
        reported = "" if paper is None else f"{paper['value']:g}"
        verdict = "" if paper is None else "yes"
        if paper is not None and not paper["comparable"]:
            note = f"not comparable with the paper's number on {paper['dataset']}: {', '.join(paper['reasons'])}"
            verdict = f"no [{_numbered(note, notes)}]"
        error, method = error_cell(r), r.score.error_method or ""
        if not error and method.startswith("none: "):
            error = f"none [{_numbered('no error: ' + method.removeprefix('none: '), notes)}]"
        value = rounded(r.score.value, r.score.stderr)
        lines.append((name, value, error, floor_cell(r), better, reported, verdict))
    return [tuple(shown(cell) for cell in line) for line in lines], [
        f"[{i}] {shown(note)}" for i, note in enumerate(notes, 1)
    ]


def _numbered(note: str, notes: list[str]) -> int:
    """The number of a note, from 1, which is added where it is new."""
    if note not in notes:
        notes.append(note)
    return notes.index(note) + 1


def table_text(results: Sequence[Result], width: int = 120) -> str:
    """The table that a person reads: value, error, floor, the paper's number and whether it may stand beside.

    Args:
        width: of the terminal, in characters; names of metrics are broken where they do not fit, and notes are wrapped.
    """
    lines, notes = table_cells(results)
    table = columns(lines, width=width)
    below = [textwrap.fill(note, max(width, 40), subsequent_indent="    ") for note in notes]
    return "\n".join([table, *(["", *below] if below else [])])


def columns(lines: Sequence[Sequence[str]], *, width: int | None = None) -> str:
    """Left-aligned columns with a rule under the header; empty columns are left out.

    Args:
        width: of the whole; the first column is broken into lines where the rest leaves it too little. Where even that
            does not fit, every line becomes a block of its own, a cell a line.
    """
    keep = [i for i in range(len(lines[0])) if any(line[i] for line in lines[1:])] or list(range(len(lines[0])))
    widths = [max(len(line[i]) for line in lines) for i in keep]
    if width is not None:
        rest = sum(widths[1:]) + 2 * (len(widths) - 1)
        widths[0] = min(widths[0], max(width - rest, _NARROWEST))
        if widths[0] + rest > width:
            return _blocks([[line[i] for i in keep] for line in lines], width)
    texts = []
    for line in lines:
        first, *more = _broken(line[keep[0]], widths[0])
        cells = [first, *(line[i] for i in keep[1:])]
        texts.append("  ".join(cell.ljust(w) for cell, w in zip(cells, widths, strict=True)).rstrip())
        texts += [f"  {part}" for part in more]
    return "\n".join([texts[0], "  ".join("-" * w for w in widths), *texts[1:]])


def _blocks(lines: Sequence[Sequence[str]], width: int) -> str:
    """The first cell of every line, and below it the others beside their heads; what is empty is left out."""
    head, *rows = lines
    indent = 2 + max(map(len, head[1:])) + 2
    blocks = []
    for first, *cells in rows:
        told = [f"  {name.ljust(indent - 2)}{cell}" for name, cell in zip(head[1:], cells, strict=True) if cell]
        blocks.append("\n".join([*_broken(first, width), *(wrapped(line, width, indent) for line in told)]))
    return "\n".join(blocks)


def html_table(lines: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """Header, rows and notes as HTML, for notebooks. Every text is escaped."""
    head, *rows = [[html.escape(cell) for cell in line] for line in lines]
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    below = "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{below}"


def _broken(text: str, width: int) -> list[str]:
    """Parts of a text that fit, cut after commas and before the extractor where possible; later ones are indented."""
    if len(text) <= width:
        return [text]
    pieces = re.split(r"(?<=,) |(?<=\()|(?=@)", text)
    lines = [""]
    for piece in pieces:
        room = width if len(lines) == 1 else width - 2
        if lines[-1] and len(lines[-1]) + len(piece) + 1 > room:
            lines.append("")
        gap = " " if lines[-1].endswith(",") else ""
        lines[-1] += gap + piece
    return lines


def wrapped(text: str, width: int, indent: int = 0) -> str:
    """A text of several lines with each of them broken between words, indented after the first."""
    return "\n".join(
        textwrap.fill(
            line, max(width, 20), subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
        )
        for line in text.splitlines()
    )


def aligned(texts: Sequence[str]) -> list[str]:
    """Numbers as texts with as many characters behind the point, so that points lie below each other at the right.

    What is missing becomes the blanks that are as wide as a digit and as a point, where digits have one width.
    """
    behind = [len(text.partition(".")[2]) if "e" not in text else 0 for text in texts]
    most = max(behind, default=0)
    fill = {0: ""} | {number: ("\u2007" * number) for number in range(1, most + 1)}
    return [
        text + fill[most - places] + ("\u2008" if most and "." not in text else "")
        for text, places in zip(texts, behind, strict=True)
    ]
