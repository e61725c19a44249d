"""The verdicts of a gate for GitHub: annotations on stdout and a job summary.

Source of the forms and of what is escaped: docs.github.com, "Workflow commands for GitHub Actions", and the encoding of
actions/toolkit `packages/core/src/command.ts`.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable
from pathlib import Path

from genbench.errors import shown
from genbench.gating import Gate, cells
from genbench.reporters.junit import sentence

SUMMARY_BYTES = 1_000_000
"""GitHub drops a summary of more than a MiB whole."""
_HEADER = ("metric", "baseline", "candidate", "difference", "worse by at least, at most", "margin", "verdict")


def in_github() -> bool:
    """Whether this process runs in a workflow."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def tell_github(gate: Gate, say: Callable[[str], None]) -> None:
    """Writes annotations by `say`, and adds the summary to the file that GITHUB_STEP_SUMMARY names."""
    for line in commands(gate):
        say(line)
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if path:
        text = summary(gate)
        if len(text.encode()) > SUMMARY_BYTES:
            text = f"## genbench gate: {gate.word}\n\nThe table is too long for a summary.\n"
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)


def commands(gate: Gate) -> list[str]:
    """One line for each kind of verdict that is no pass; GitHub shows ten a step."""
    found = []
    if gate.problem:
        found.append(_command("error", "genbench: not comparable", gate.problem))
    kinds = {"regressed": "error", "not comparable": "error", "inconclusive": "warning"}
    for word, level in kinds.items():
        told = [sentence(verdict) for verdict in gate.verdicts if verdict.word == word and verdict.gating]
        strict = any(verdict.strict for verdict in gate.verdicts if verdict.word == word and verdict.gating)
        if told:
            found.append(_command("error" if strict else level, f"genbench: {word}", "\n".join(told)))
    return found


def _command(level: str, title: str, message: str) -> str:
    data = "\n".join(shown(line) for line in message.splitlines())
    for mark, code in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        data = data.replace(mark, code)
        title = title.replace(mark, code)
    title = title.replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={title}::{data}"


def summary(gate: Gate) -> str:
    """Markdown; what people of other repositories may have written is escaped."""
    lines = [f"## genbench gate: {gate.word}", ""]
    for what, side in (("baseline", gate.base), ("candidate", gate.candidate)):
        if side is not None and side.spec is not None:
            lines.append(f"- {what}: {escaped(f'{side.spec.model}, seed {side.spec.seed}')}")
    if gate.verdicts:
        lines += ["", f"| {' | '.join(_HEADER)} |", "|" + "---|" * len(_HEADER)]
        lines += [f"| {' | '.join(escaped(cell) for cell in cells(verdict))} |" for verdict in gate.verdicts]
    lines += ["", *(f"{escaped(line)}  " for line in gate.sentences()), ""]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown and HTML show as it is."""
    return re.sub(r"([\\`*_{}\[\]()#!|~>@])", r"\\\1", html.escape(shown(text), quote=False))
