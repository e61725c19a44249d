"""Charts as SVG, drawn when the page is made. Elements are built as a tree, so that every text in them is escaped.

Colours, strokes and fonts are classes of `page.css`. Series differ in the form of their marks as well as in colour.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from markupsafe import Markup

from genbench.display import rounded
from genbench.page.axes import Axis, fitted
from genbench.page.boards import Board, Column, Sweep, System
from genbench.page.compared import Delta
from genbench.records import Score
from genbench.standings import Standing

_CROSS = (
    (-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4),
    (0.4, 1.1), (-0.4, 1.1), (-0.4, 0.4), (-1.1, 0.4), (-1.1, -0.4), (-0.4, -0.4),
)  # fmt: skip
HUES = 8
"""Colours of series, `.hue0` to `.hue7` of `page.css`."""
MARKS: tuple[Callable[[float], str], ...] = (
    lambda r: f"M{_n(-r)},0a{_n(r)},{_n(r)} 0 1,0 {_n(2 * r)},0a{_n(r)},{_n(r)} 0 1,0 {_n(-2 * r)},0z",  # circle
    lambda r: _polygon((-0.88 * r, -0.88 * r), (0.88 * r, -0.88 * r), (0.88 * r, 0.88 * r), (-0.88 * r, 0.88 * r)),
    lambda r: _polygon((0, -1.2 * r), (1.1 * r, 0.8 * r), (-1.1 * r, 0.8 * r)),
    lambda r: _polygon((0, -1.25 * r), (1.25 * r, 0), (0, 1.25 * r), (-1.25 * r, 0)),
    lambda r: _polygon((0, 1.2 * r), (1.1 * r, -0.8 * r), (-1.1 * r, -0.8 * r)),
    lambda r: _polygon(*((r * x, r * y) for x, y in _CROSS)),
    lambda r: _around([1.15 * r] * 5),
    lambda r: _around([1.1 * r] * 6),
    lambda r: _around([1.3 * r, 0.55 * r] * 5),  # star
)
"""Forms of marks by their radius, as paths around the origin; no two neighbours in a legend look alike."""


def _n(value: float) -> str:
    """A coordinate with a tenth of a pixel, which is as much as anybody sees."""
    return (
        f"{value:.1f}".removesuffix(".0").replace("-0", "0") if abs(value) < 0.05 else f"{value:.1f}".removesuffix(".0")
    )


def _polygon(*points: tuple[float, float]) -> str:
    return "M" + "L".join(f"{_n(x)},{_n(y)}" for x, y in points) + "z"


def _around(radii: Sequence[float]) -> str:
    """A polygon whose corners lie at equal angles around the origin, the first above it."""
    angles = [i * math.tau / len(radii) for i in range(len(radii))]
    return _polygon(*((r * math.sin(a), -r * math.cos(a)) for r, a in zip(radii, angles, strict=True)))


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with its words.

    Attributes:
        title: of the figure, above it.
        note: what to read from it, below.
        svg: the drawing.
        legend: (name of a series, its mark).
    """

    title: str
    note: str
    svg: Markup
    legend: tuple[tuple[str, Markup], ...] = ()


class _Drawing:
    """An SVG that grows element by element."""

    def __init__(self, width: float, height: float, label: str, kind: str = "chart") -> None:
        self.root = ET.Element(
            "svg",
            {"viewBox": f"0 0 {_n(width)} {_n(height)}", "width": _n(width), "height": _n(height), "class": kind},
        )
        if label:
            self.root.set("role", "img")
            self.root.set("aria-label", label)
        else:
            self.root.set("aria-hidden", "true")

    def add(self, tag: str, kind: str = "", title: str = "", text: str = "", **attributes: str | float) -> ET.Element:
        element = ET.SubElement(self.root, tag)
        if kind:
            element.set("class", kind)
        for name, value in attributes.items():
            element.set(name.replace("_", "-"), value if isinstance(value, str) else _n(value))
        if title:
            ET.SubElement(element, "title").text = title
        if text:
            element.text = text
        return element

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self.add("line", kind, x1=x1, y1=y1, x2=x2, y2=y2)

    def text(self, x: float, y: float, text: str, kind: str = "") -> None:
        self.add("text", kind, text=text, x=x, y=y)

    def mark(self, x: float, y: float, form: int, kind: str, title: str = "", radius: float = 4.5) -> None:
        self.add("path", f"mark {kind}", title=title, d=MARKS[form % len(MARKS)](radius),
                 transform=f"translate({_n(x)},{_n(y)})")  # fmt: skip

    @property
    def markup(self) -> Markup:
        """The drawing as a text; ElementTree escapes what is in it."""
        return Markup(ET.tostring(self.root, encoding="unicode"))


@dataclass(frozen=True, slots=True)
class Series:
    """Colour and form of every family of systems on a board, so that all its charts agree."""

    order: tuple[str, ...]

    @classmethod
    def of(cls, board: Board) -> Series:
        """In the order of the alphabet."""
        return cls(tuple(sorted({system.name.family for system in board.systems})))

    def form(self, family: str) -> int:
        """The number of a mark. With more series than colours, no two have both in common."""
        place = self.order.index(family)
        return place % len(MARKS)

    def hue(self, family: str) -> str:
        """The class of a colour."""
        return f"hue{self.order.index(family) % HUES}"

    def legend(self, families: Sequence[str]) -> tuple[tuple[str, Markup], ...]:
        """Names and marks of those that a chart has."""
        return tuple((family, self._sign(family)) for family in self.order if family in families)

    def _sign(self, family: str) -> Markup:
        drawing = _Drawing(14, 14, "", "sign")
        drawing.mark(7, 7, self.form(family), self.hue(family))
        return drawing.markup


def ends(score: Score) -> tuple[float, float]:
    """The ends of the 95 % interval, the value twice where there is none."""
    low, high = score.ci95 or (score.value, score.value)
    return min(low, score.value), max(high, score.value)


def told(score: Score) -> str:
    """A score in words, for labels."""
    low, high = ends(score)
    interval = f", 95 % interval {_short(low)} to {_short(high)}" if score.ci95 else ""
    return f"{rounded(score.value, score.stderr)}{interval}"


def _short(value: float) -> str:
    return f"{value:.4g}"


def grouped(groups: str) -> str:
    """Letters of groups of ties; of more than three, which always follow each other, the first and the last."""
    letters = groups.split()
    return f"{letters[0]}\u2013{letters[-1]}" if len(letters) > 3 else " ".join(letters)


def axis_of(column: Column, start: float, end: float) -> Axis:
    """The axis of a metric's values: every value, interval and the floor lie on it."""
    values = [end for standing in column.rank.standings for end in ends(standing.score)]
    floor = column.rank.floor
    # Where more is better, most metrics end at a largest value, towards which a logarithm would squeeze what is good.
    # Of an interval that reaches to 0 or below, the value alone decides whether the axis is logarithmic.
    centres = [standing.score.value for standing in column.rank.standings] + ([floor.value] if floor else [])
    log = column.rank.higher_is_better is not True and fitted(centres, 0, 1).log
    if log:
        least = min(centres) / 2
        values = [max(value, least) for value in values]
    return fitted([*values, *([floor.value] if floor else [])], start, end, log=log)


# --- intervals in cells -----------------------------------------------------------------------------------------------

FOREST = 60
"""Systems of a forest plot; the table has all."""
CELL = (92.0, 12.0)
"""Width and height of the interval in a cell, in pixels."""


def cell(standing: Standing, column: Column) -> Markup:
    """The interval of a score on the axis of its column, with the floor as a broken line."""
    width, height = CELL
    drawing, axis = _Drawing(width, height, "", "interval"), axis_of(column, 3, width - 3)
    low, high = ends(standing.score)
    middle = height / 2
    drawing.line(0, middle, width, middle, "base")
    if column.rank.floor is not None:
        x = axis(column.rank.floor.value)
        drawing.line(x, 0, x, height, "floor")
    if low < high:
        drawing.line(axis(low), middle, axis(high), middle, "range")
    drawing.add("circle", "dot", cx=axis(standing.score.value), cy=middle, r=3)
    return drawing.markup


# --- forest -----------------------------------------------------------------------------------------------------------


def forest(board: Board, column: Column) -> Figure:
    """Every system's value with its interval, in the order of the ranking, and the floor."""
    series = Series.of(board)
    by_key = {_key(cell): system for system in board.systems for cell in system.cells if cell is not None}
    standings = column.rank.standings[:FOREST]
    left, right, row, top = 250.0, 70.0, 19.0, 26.0
    width, height = 680.0, top + row * len(standings) + 30
    axis = axis_of(column, left + 10, width - right)
    drawing = _Drawing(width, height, f"{column.name} of {len(standings)} systems with 95 % intervals")
    _vertical(drawing, axis, top - 8, height - 24)
    floor = column.rank.floor
    if floor is not None:
        x = axis(floor.value)
        drawing.line(x, top - 8, x, height - 24, "floor")
        drawing.text(x, top - 13, f"floor {rounded(floor.value, floor.stderr)}", "small middle")
    for place, standing in enumerate(standings):
        y = top + row * (place + 0.5)
        system = by_key[_key(standing)]
        hue = series.hue(system.name.family)
        drawing.add("text", "name end", title=system.name.full, x=left, y=y + 4)[0].tail = clipped(system.name.text, 34)
        low, high = ends(standing.score)
        if low < high:
            drawing.line(axis(low), y, axis(high), y, f"whisker {hue}")
        drawing.mark(axis(standing.score.value), y, series.form(system.name.family), hue,
                     f"{system.name.text}: {told(standing.score)}")  # fmt: skip
        drawing.text(width - right + 12, y + 4, grouped(standing.groups), "groups")
    note = "Lines are 95 % intervals."
    if len(standings) < len(column.rank.standings):
        note += f" Drawn are the first {len(standings)} of {len(column.rank.standings)} systems; the table has all."
    if any(standing.groups for standing in standings):
        note += " Systems that share a letter are not told apart."
    if floor is not None:
        note += " The broken line is the floor: the same metric of real held-out images."
    return Figure(title=f"{column.name}, best first" if column.rank.higher_is_better is not None else column.name,
                  note=note + _of_axis(axis), svg=drawing.markup)  # fmt: skip


def _key(standing: Standing) -> tuple[str, str]:
    return standing.model, standing.precision


def clipped(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _of_axis(axis: Axis) -> str:
    return " The axis is logarithmic." if axis.log else ""


def _vertical(drawing: _Drawing, axis: Axis, top: float, bottom: float, *, most: int = 6) -> None:
    """Grid and numbers of a horizontal axis."""
    for value, text in axis.ticks(most):
        x = axis(value)
        drawing.line(x, top, x, bottom, "grid")
        drawing.text(x, bottom + 15, text, "tick middle")


def _horizontal(drawing: _Drawing, axis: Axis, left: float, right: float, *, most: int = 5) -> None:
    """Grid and numbers of a vertical axis."""
    for value, text in axis.ticks(most):
        y = axis(value)
        drawing.line(left, y, right, y, "grid")
        drawing.text(left - 7, y + 3.5, text, "tick end")


# --- cost -------------------------------------------------------------------------------------------------------------


def pareto(points: Sequence[tuple[float, float]], *, higher_is_better: bool) -> list[int]:
    """Points (cost, value) that no other beats: none costs as much or less and is better, or costs less and is as good.

    Returns:
        Numbers of the points, by cost.
    """
    sign = -1.0 if higher_is_better else 1.0
    best, front = math.inf, []
    for cost, value, place in sorted((cost, sign * value, place) for place, (cost, value) in enumerate(points)):
        del cost
        if value < best:
            best = value
            front.append(place)
    return front


def against(board: Board, column: Column, cost: str) -> Figure | None:
    """A metric against evaluations or seconds an image, with the front of those that nothing beats.

    Args:
        cost: "evaluations" or "seconds".

    Returns:
        None where fewer than two systems of the column have that cost, or all have the same. Seconds are those of one
        device, on which most systems were sampled.
    """
    place = board.columns.index(column)
    shown_: list[tuple[System, Standing, float]] = []
    for system in board.systems:
        standing, price = system.cells[place], getattr(system, cost)
        if standing is not None and price is not None and price > 0:
            shown_.append((system, standing, price))
    device = ""
    if cost == "seconds" and shown_:
        # Times of two machines say nothing about each other.
        devices = Counter(system.device for system, _, _ in shown_)
        device = min(devices, key=lambda name: (-devices[name], name))
        shown_ = [one for one in shown_ if one[0].device == device]
    if len({price for _, _, price in shown_}) < 2:
        return None
    width, height, left, right, top, bottom = 680.0, 400.0, 56.0, 20.0, 18.0, 44.0
    x_axis = fitted([price for _, _, price in shown_], left + 8, width - right - 30)
    y_axis = axis_of(column, height - bottom - 6, top)
    drawing = _Drawing(width, height, f"{column.name} against {cost} an image, {len(shown_)} systems")
    _horizontal(drawing, y_axis, left, width - right)
    _vertical(drawing, x_axis, top, height - bottom, most=7)
    words = {
        "evaluations": "evaluations of the network an image",
        "seconds": f"seconds of sampling an image, {device}",
    }[cost]
    drawing.text((left + width - right) / 2, height - 6, words, "small middle")
    floor = column.rank.floor
    if floor is not None:
        y = y_axis(floor.value)
        drawing.line(left, y, width - right, y, "floor")
        drawing.text(width - right, y - 5, f"floor {rounded(floor.value, floor.stderr)}", "small end")
    better = column.rank.higher_is_better
    points = [(price, standing.score.value) for _, standing, price in shown_]
    front = pareto(points, higher_is_better=better) if better is not None else []
    if front:
        steps = [f"M{_n(x_axis(points[front[0]][0]))},{_n(y_axis(points[front[0]][1]))}"]
        for i in front[1:]:
            steps.append(f"H{_n(x_axis(points[i][0]))}V{_n(y_axis(points[i][1]))}")
        drawing.add("path", "front", d="".join([*steps, f"H{_n(width - right)}"]))
    series = Series.of(board)
    for i, (system, standing, price) in enumerate(shown_):
        low, high = ends(standing.score)
        x, hue = x_axis(price), series.hue(system.name.family)
        if low < high:
            drawing.line(x, y_axis(low), x, y_axis(high), f"whisker {hue}")
        faint = "" if i in front or not front else " hollow"
        drawing.mark(x, y_axis(standing.score.value), series.form(system.name.family), hue + faint,
                     f"{system.name.text}: {price:g} {cost}, {told(standing.score)}")  # fmt: skip
    _labels(drawing, [(x_axis(points[i][0]), y_axis(points[i][1]), shown_[i][0].name.text) for i in front],
            (left, width - right), [(x_axis(a), y_axis(b)) for a, b in points])  # fmt: skip
    note = "Lines are 95 % intervals."
    if front:
        note = ("Filled marks lie on the front: no system with as few or fewer is better. The front is of the values, "
                "and their intervals may overlap.")  # fmt: skip
    return Figure(
        title=f"{column.name} against {cost}",
        note=note,
        svg=drawing.markup,
        legend=series.legend([system.name.family for system, _, _ in shown_]),
    )


def _labels(
    drawing: _Drawing,
    wanted: Sequence[tuple[float, float, str]],
    sides: tuple[float, float],
    taken: Sequence[tuple[float, float]],
) -> None:
    """Writes names beside points where they hide neither each other nor a point; a name without room is left out."""
    boxes = [(x - 5, y - 5, x + 5, y + 5) for x, y in taken]
    for x, y, name in wanted:
        text = clipped(name, 30)
        length = 6.3 * len(text)
        for dx, dy, kind in ((9, -7, ""), (9, 14, ""), (-9, -7, "end"), (-9, 14, "end"), (9, -20, ""), (9, 27, "")):
            start = x + dx - (length if kind else 0)
            box = (start - 4, y + dy - 10, start + length + 4, y + dy + 3)
            free = not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in boxes)
            if free and sides[0] <= start and start + length <= sides[1] and box[1] > 0:
                drawing.text(x + dx, y + dy, text, f"label {kind}".strip())
                boxes.append(box)
                break


# --- sweeps -----------------------------------------------------------------------------------------------------------


def sweeps(board: Board, column: Column) -> tuple[Figure, ...]:
    """A small chart a system and argument, with bands of 95 % intervals. Those of one argument have equal axes."""
    found = board.sweeps[board.columns.index(column)]
    figures = []
    for argument in dict.fromkeys(sweep.argument for sweep in found):
        same = [sweep for sweep in found if sweep.argument == argument]
        figures += [_sweep(board, column, sweep, same) for sweep in same]
    return tuple(figures)


def _sweep(board: Board, column: Column, sweep: Sweep, same: Sequence[Sweep]) -> Figure:
    width, height, left, right, top, bottom = 340.0, 220.0, 46.0, 12.0, 14.0, 40.0
    places = [place for one in same for place, _ in one.points]
    x_axis = fitted(places, left + 6, width - right - 6)
    y_axis = axis_of(column, height - bottom - 4, top)
    drawing = _Drawing(width, height, f"{column.name} of {sweep.name} against {sweep.argument}: " + ", ".join(
        f"{value:g} gives {rounded(score.value, score.stderr)}" for value, score in sweep.points
    ), "chart small-chart")  # fmt: skip
    _horizontal(drawing, y_axis, left, width - right, most=4)
    _vertical(drawing, x_axis, top, height - bottom, most=5)
    if (floor := column.rank.floor) is not None:
        drawing.line(left, y_axis(floor.value), width - right, y_axis(floor.value), "floor")
    series = Series.of(board)
    hue = series.hue(sweep.family)
    upper = [(x_axis(value), y_axis(ends(score)[1])) for value, score in sweep.points]
    lower = [(x_axis(value), y_axis(ends(score)[0])) for value, score in sweep.points]
    drawing.add("path", f"band {hue}", d=_polygon(*upper, *reversed(lower)))
    line = [(x_axis(value), y_axis(score.value)) for value, score in sweep.points]
    drawing.add("path", f"curve {hue}", d=_polygon(*line).removesuffix("z"))
    for value, score in sweep.points:
        drawing.mark(x_axis(value), y_axis(score.value), series.form(sweep.family), hue,
                     f"{sweep.argument} {value:g}: {told(score)}", 3.6)  # fmt: skip
    drawing.text((left + width - right) / 2, height - 5, sweep.argument, "small middle")
    return Figure(title=sweep.name, note="", svg=drawing.markup)


# --- precision against recall -----------------------------------------------------------------------------------------


def fidelity_and_diversity(board: Board) -> Figure | None:
    """Precision against recall, None on a board that lacks either."""
    names = [column.name.partition("@")[0] for column in board.columns]
    if names.count("precision") != 1 or names.count("recall") != 1:
        return None
    at = names.index("recall"), names.index("precision")
    both = [(system, system.cells[at[0]], system.cells[at[1]]) for system in board.systems]
    points = [(system, x, y) for system, x, y in both if x is not None and y is not None]
    if not points:
        return None
    columns = board.columns[at[0]], board.columns[at[1]]
    width, height, left, right, top, bottom = 680.0, 460.0, 56.0, 16.0, 22.0, 44.0
    x_axis = axis_of(columns[0], left + 6, width - right)
    y_axis = axis_of(columns[1], height - bottom, top)
    drawing = _Drawing(width, height, f"Precision against recall of {len(points)} systems")
    _horizontal(drawing, y_axis, left, width - right)
    _vertical(drawing, x_axis, top, height - bottom)
    drawing.text(
        (left + width - right) / 2, height - 6, "recall: share of real images that are covered", "small middle"
    )
    drawing.text(left, top - 9, "precision: share of generated images that look real", "small")
    series = Series.of(board)
    floors = columns[0].rank.floor, columns[1].rank.floor
    if floors[0] is not None and floors[1] is not None:
        x, y = x_axis(floors[0].value), y_axis(floors[1].value)
        drawing.line(x, top, x, height - bottom, "floor")
        drawing.line(left, y, width - right, y, "floor")
    for system, recall, precision in points:
        x, y = x_axis(recall.score.value), y_axis(precision.score.value)
        hue = series.hue(system.name.family)
        drawing.line(x_axis(ends(recall.score)[0]), y, x_axis(ends(recall.score)[1]), y, f"whisker {hue}")
        drawing.line(x, y_axis(ends(precision.score)[0]), x, y_axis(ends(precision.score)[1]), f"whisker {hue}")
    for system, recall, precision in points:
        drawing.mark(x_axis(recall.score.value), y_axis(precision.score.value), series.form(system.name.family),
                     series.hue(system.name.family),
                     f"{system.name.text}: recall {told(recall.score)}; precision {told(precision.score)}")  # fmt: skip
    return Figure(
        title="Precision against recall",
        note="Crosses of lines are 95 % intervals; broken lines are the floors, what real held-out images have.",
        svg=drawing.markup,
        legend=series.legend([system.name.family for system, _, _ in points]),
    )


# --- differences ------------------------------------------------------------------------------------------------------


def difference(delta: Delta) -> Markup:
    """The interval of a difference around 0, which is the line in the middle."""
    width, height = 180.0, 14.0
    drawing = _Drawing(width, height, "", "interval")
    middle = height / 2
    drawing.line(0, middle, width, middle, "base")
    drawing.line(width / 2, 0, width / 2, height, "zero")
    if delta.value is not None:
        low, high = delta.ci95 or (delta.value, delta.value)
        reach = max(abs(low), abs(high), abs(delta.value)) or 1.0
        axis = Axis(-reach, reach, 4, width - 4)
        drawing.line(axis(low), middle, axis(high), middle, "range")
        drawing.add("circle", "dot", cx=axis(delta.value), cy=middle, r=3)
    return drawing.markup


def signed(delta: Delta) -> str:
    """The difference with its sign, its error behind."""
    assert delta.value is not None
    error = f" ± {rounded(delta.stderr, delta.stderr)}" if delta.stderr else ""
    return ("+" if delta.value > 0 else "") + rounded(delta.value, delta.stderr) + error


def interval_of(delta: Delta) -> str:
    """The interval of the difference as text."""
    low, high = delta.ci95 or (math.nan, math.nan)
    return f"[{rounded(low, high - low)}, {rounded(high, high - low)}]"


def figures(board: Board) -> Mapping[str, tuple[Figure, ...]]:
    """The charts of every column by its name."""
    return {
        column.name: tuple(
            figure
            for figure in (
                forest(board, column), against(board, column, "evaluations"), against(board, column, "seconds"),
            )
            if figure is not None
        )
        for column in board.columns
    }  # fmt: skip
