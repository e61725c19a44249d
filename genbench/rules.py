"""What a gate asks of each metric: margins, limits and what follows, from options, gate.toml or pyproject.toml.

    alpha = 0.05                  # of the whole gate
    inconclusive = "warn"         # or "fail"

    [metrics.fid]                 # or metrics."fid@compact"
    margin = "5%"                 # of the baseline's value, or a number in the units of the metric
    gating = true                 # false: told, and without effect on the exit code
    min_n = 500                   # fewer images are not compared
    max = 6.0                     # the value itself: the end of its interval is held against it
    direction = "lower"           # what is better, of metrics that do not say it

In pyproject.toml the same stands under [tool.genbench.gate].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from genbench.differences import ALPHA
from genbench.errors import UsageError, nearest, shown
from genbench.records import Measurement, from_toml

INCONCLUSIVE = ("warn", "fail")
DIRECTIONS = ("lower", "higher")
FEWEST = 100
"""Images below which nothing is compared unless a rule says otherwise: 20 jackknife blocks of 5."""
DEFAULT_SHARE = 0.01
"""Margin of a metric without one, as a share of the baseline's value; at least the noise floor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """The largest worsening that is tolerated, in the units of the metric or as a share of the baseline's value."""

    value: float
    relative: bool = False

    def of(self, base: float) -> float:
        """In the units of the metric."""
        return self.value * abs(base) if self.relative else self.value

    @classmethod
    def parse(cls, given: object) -> Margin:
        """Reads 0.5, "0.5" or "5%".

        Raises:
            UsageError: anything else, or a negative number.
        """
        text = str(given).strip() if isinstance(given, str | int | float) and not isinstance(given, bool) else ""
        relative = text.endswith("%")
        try:
            value = float(text.removesuffix("%")) / (100 if relative else 1)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(
                f"A margin is a number of at least 0, such as 0.5, or a share, '5%'; got {shown(given)!r}."
            )
        return cls(value=value, relative=relative)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is asked of one metric.

    Attributes:
        margin: None for the default, see `DEFAULT_SHARE`.
        gating: whether it decides on the exit code.
        direction: what is better, "lower" or "higher", None for what the metric says.
        min_n: fewest images a side.
        inconclusive: "warn" or "fail", None for that of the gate.
        min, max: limits of the value itself.
    """

    margin: Margin | None = None
    gating: bool = True
    direction: str | None = None
    min_n: int = FEWEST
    inconclusive: str | None = None
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a gate asks.

    Attributes:
        metrics: by text, such as "fid" and "precision(k=5)@compact". If empty, every metric of the baseline gates;
            otherwise those that are not named are advisory.
        alpha: with which any metric that is not worse than its margin may be called regressed.
        origin: of the rules, for people.
    """

    metrics: Mapping[str, Rule] = field(default_factory=dict)
    alpha: float = ALPHA
    inconclusive: str = "warn"
    origin: str = "the defaults"


def of_file(path: Path) -> Rules:
    """The rules of a gate.toml, or of [tool.genbench.gate] of a pyproject.toml.

    Raises:
        UsageError: no such file, no such table, no TOML, an unknown key or a value of another type.
    """
    try:
        told = from_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"The rules {shown(path)} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # bytes, syntax, and numbers of thousands of digits
        raise UsageError(f"{shown(path)} is no TOML: {shown(error)}.") from error
    where = str(path)
    if path.name == "pyproject.toml":
        for name in ("tool", "genbench", "gate"):
            told = told.get(name, {}) if isinstance(told, dict) else {}
            where += f" {name}"
        if not told:
            raise UsageError(f"{shown(path)} has no table [tool.genbench.gate].")
    return _rules(told, where)


def found_in(folder: Path) -> Rules:
    """The rules that lie in a folder: of gate.toml, else of pyproject.toml where that has some, else the defaults."""
    if (folder / "gate.toml").is_file():
        return of_file(folder / "gate.toml")
    project = folder / "pyproject.toml"
    if project.is_file():
        try:
            table = from_toml(project.read_text(encoding="utf-8")).get("tool", {}).get("genbench", {})
        except (ValueError, AttributeError, RecursionError, OSError):
            return Rules()  # whose file that is, will tell
        if isinstance(table, dict) and "gate" in table:
            return of_file(project)
    return Rules()


def with_margins(rules: Rules, margins: Iterable[str]) -> Rules:
    """The rules with margins from the command line, METRIC=NUMBER or METRIC=SHARE%.

    Raises:
        UsageError: another form, or a metric that is given twice.
    """
    found = dict(rules.metrics)
    given: set[str] = set()
    for text in margins:
        name, equals, value = text.rpartition("=")
        if not equals or not name.strip():
            raise UsageError(f"--margin takes METRIC=NUMBER or METRIC=SHARE%, such as fid=0.5; got {shown(text)!r}.")
        name = name.strip()
        if name in given:
            raise UsageError(f"The margin of {shown(name)} is given twice; give one.")
        given.add(name)
        Measurement.parse(name)
        found[name] = replace(found.get(name, Rule()), margin=Margin.parse(value.strip()))
    return replace(rules, metrics=found)


def _rules(told: Mapping[str, Any], where: str) -> Rules:
    _refuse_unknown(told, ("alpha", "inconclusive", "metrics"), where)
    alpha = _number(told, "alpha", where, ALPHA)
    assert alpha is not None
    if not 0 < alpha <= 0.5:
        raise UsageError(f"alpha of {shown(where)} lies in (0, 0.5]; got {alpha}.")
    tables = told.get("metrics", {})
    if not isinstance(tables, dict):
        raise UsageError(f"metrics of {shown(where)} is a table, [metrics.fid]; got {shown(tables)!r}.")
    metrics = {}
    for name, table in tables.items():
        Measurement.parse(name)
        if not isinstance(table, dict):
            raise UsageError(f"metrics.{shown(name)} of {shown(where)} is a table; got {shown(table)!r}.")
        metrics[name] = _rule(table, f"{where} metrics.{name}")
    inconclusive = _choice(told, "inconclusive", where, INCONCLUSIVE) or "warn"
    return Rules(metrics=metrics, alpha=alpha, inconclusive=inconclusive, origin=where)


def _rule(table: Mapping[str, Any], where: str) -> Rule:
    _refuse_unknown(table, ("margin", "gating", "direction", "min_n", "inconclusive", "min", "max"), where)
    gating, fewest = table.get("gating", True), table.get("min_n", FEWEST)
    if not isinstance(gating, bool):
        raise UsageError(f"gating of {shown(where)} is true or false; got {shown(gating)!r}.")
    if type(fewest) is not int or fewest < 2:
        raise UsageError(f"min_n of {shown(where)} is a whole number of at least 2; got {shown(fewest)!r}.")
    low, high = _number(table, "min", where), _number(table, "max", where)
    if low is not None and high is not None and low >= high:
        raise UsageError(f"min of {shown(where)} lies below max; got {low:g} and {high:g}.")
    return Rule(
        margin=Margin.parse(table["margin"]) if "margin" in table else None,
        gating=gating,
        direction=_choice(table, "direction", where, DIRECTIONS),
        min_n=fewest,
        inconclusive=_choice(table, "inconclusive", where, INCONCLUSIVE),
        min=low,
        max=high,
    )


def _refuse_unknown(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in table:
        if name not in known:
            raise UsageError(f"{shown(where)} has an unknown key {shown(name)!r}. {nearest(name, known)}")


def _number(table: Mapping[str, Any], name: str, where: str, default: float | None = None) -> float | None:
    value = table.get(name, default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{name} of {shown(where)} is a number; got {shown(value)!r}.")
    return float(value)


def _choice(table: Mapping[str, Any], name: str, where: str, known: Sequence[str]) -> str | None:
    value = table.get(name)
    if value is not None and value not in known:
        raise UsageError(f"{name} of {shown(where)} is {' or '.join(known)}; got {shown(value)!r}.")
    return value
