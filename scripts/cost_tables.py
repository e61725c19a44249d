"""The tables of docs/scale.md about costs, made from the rows of leaderboards/scale_cost.csv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from genbench import costs
from genbench.files import atomic_write
from genbench.planning import duration

Rows = Sequence[Mapping[str, str]]
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "scale.md"
BEGIN, END = "<!-- made from leaderboards/scale_cost.csv -->", "<!-- end of what is made -->"
TOLERANCE = 0.2
LARGE, PROCESSES = 10_000_000, 64
STEPS = {
    "mean and covariance, a side": (("fit", "generated"),),
    "Frechet distance": (("distance", "both"),),
    "leaving images out": (("left-out", "both"),),
    "neighbours, a side": (("search", "generated"),),
    "precision and recall, beside neighbours": (("members", "both"),),
    "density and coverage, beside neighbours": (("occupancy", "both"),),
    "kernel distance": (("kernel", "both"),),
}


def within(row: Mapping[str, str]) -> bool:
    """Whether a point was predicted within the tolerance."""
    return abs(float(row["ratio"]) - 1) <= TOLERANCE


def summary(rows: Rows) -> str:
    """How many points are predicted, and which are not."""
    points = [row for row in rows if row["kind"] == "point"]
    outside = [row for row in points if not within(row)]
    told = ", ".join(f"{r['stage']} at n = {int(r['n']):,}, d = {r['d']}: {float(r['ratio']):.2f}" for r in outside)
    return f"{len(points) - len(outside)} of {len(points)} points within {TOLERANCE:.0%}" + (
        f"; {told}" if told else ""
    )


def rates_of(rows: Rows) -> dict[int, dict[str, float]]:
    """Rates by width."""
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        if row["kind"] == "rate":
            found.setdefault(int(row["d"]), {})[row["stage"]] = float(row["measured"])
    return found


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of Markdown whose first column is text and whose others are numbers."""
    rule = "|".join(["---", *["---:"] * (len(head) - 1)])
    return "\n".join([f"| {' | '.join(head)} |", f"|{rule}|", *(f"| {' | '.join(line)} |" for line in lines)])


def points_table(rows: Rows) -> str:
    """Measured seconds and, in brackets, the predicted ones by them, for every stage and number of images."""
    points = [row for row in rows if row["kind"] == "point"]
    sizes = sorted({int(row["n"]) for row in points})
    lines = []
    for stage, d in dict.fromkeys((row["stage"], row["d"]) for row in points):
        by_size = {int(row["n"]): row for row in points if (row["stage"], row["d"]) == (stage, d)}
        cells = [
            f"{float(by_size[n]['measured']):.3g} ({float(by_size[n]['ratio']):.2f})" if n in by_size else ""
            for n in sizes
        ]
        lines.append([stage if d == "0" else f"{stage}, d = {d}", *cells])
    return table(["stage", *(f"{n:,}" for n in sizes)], lines)


def rates_table(rows: Rows) -> str:
    """Rates by width."""
    found = rates_of(rows)
    lines = [
        [f"`{name}`: {text}", *(f"{found[d].get(name, 0):.3g}" for d in found)] for name, text in costs.RATES.items()
    ]
    return table(["rate", *(f"d = {d}" for d in found)], lines)


def memory(size: float) -> str:
    """Bytes as people say them."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def time_of(seconds: float) -> str:
    """A time as people say it."""
    return duration(seconds) if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def large_table(rows: Rows, images: int) -> str:
    """What so many images a side would cost one core, and cores of several processes."""
    lines, head = [], ["stage"]
    found = rates_of(rows)
    for d in found:
        head += [f"d = {d}: one core", f"{PROCESSES} cores", "memory"]
    for name, parts in STEPS.items():
        cells = [name]
        for d, rates in found.items():
            one, many = (costs.Sizes(generated=images, reference=images, width=d, processes=p) for p in (1, PROCESSES))
            cells += [time_of(sum(costs.seconds_of(*part, size, rates) for part in parts)) for size in (one, many)]
            cells.append(memory(max(costs.memory_of(*part, one) for part in parts)))
        lines.append(cells)
    features = [memory(costs.stored_bytes(costs.Sizes(generated=images, reference=images, width=d))) for d in found]
    lines.append(["features of both sides on disk", *(cell for size in features for cell in ("", "", size))])
    return table(head, lines)


def made(rows: Rows) -> str:
    """The part of the document that is made."""
    parts = [
        f"{summary(rows)}.", rates_table(rows),
        "Measured seconds of one core, and in brackets what was predicted by what was measured:", points_table(rows),
        f"By the model, {50_000:,} against {50_000:,} images cost:", large_table(rows, 50_000),
        f"And {LARGE:,} against {LARGE:,}:", large_table(rows, LARGE),
    ]  # fmt: skip
    return "\n\n".join(parts)


def with_tables(text: str, rows: Rows) -> str:
    """The text of the document with what is made of the rows between its marks."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{made(rows)}\n\n{END}{rest.split(END)[1]}"


def write(rows: Rows, document: Path = DOCUMENT) -> None:
    """Writes the tables into the document."""
    text = document.read_text(encoding="utf-8")
    atomic_write(document, with_tables(text, rows).encode())
