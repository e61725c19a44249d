"""The values of a gate as a metrics report of GitLab (`artifacts:reports:metrics`), in the OpenMetrics text format."""

from __future__ import annotations

import math

from genbench.gating import Gate
from genbench.records import Result

_WORDS = {"pass": 0, "inconclusive": 1, "regressed": 2, "not comparable": 3}


def metrics_text(gate: Gate) -> str:
    """A gauge of values and one of standard errors, and the verdicts: 0 pass, 1 inconclusive, 2 regressed, 3 not
    comparable. A value that is not finite is left out and named in a comment."""
    values, errors, verdicts, left_out = [], [], [], []
    for verdict in gate.verdicts:
        verdicts.append(f"genbench_verdict{_label(verdict.name)} {_WORDS[verdict.word]}")
        result: Result | None = verdict.candidate
        if result is None or not math.isfinite(result.score.value):
            left_out.append(f"# {_text(verdict.name)} has no finite value")
            continue
        values.append(f"genbench_value{_label(verdict.name)} {result.score.value!r}")
        if result.score.stderr is not None and math.isfinite(result.score.stderr):
            errors.append(f"genbench_stderr{_label(verdict.name)} {result.score.stderr!r}")
    lines = []
    for name, rows in (("value", values), ("stderr", errors), ("verdict", verdicts)):
        lines += [f"# TYPE genbench_{name} gauge", *rows] if rows else []
    return "\n".join([*lines, f"genbench_exit_code {gate.exit_code}", *left_out, "# EOF"]) + "\n"


def _label(name: str) -> str:
    return f'{{metric="{_text(name)}"}}'


def _text(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
