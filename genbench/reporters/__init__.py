"""Where a continuous integration looks: the verdicts of a gate as JSON, JUnit XML, for GitHub and for GitLab."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from genbench.files import atomic_write
from genbench.gating import Gate
from genbench.report import dumps
from genbench.reporters.document import as_dict
from genbench.reporters.github import in_github, tell_github
from genbench.reporters.gitlab import metrics_text
from genbench.reporters.junit import junit_xml

__all__ = ["as_dict", "in_github", "junit_xml", "metrics_text", "tell_github", "write"]

_FORMS = {
    "json": lambda gate: dumps(as_dict(gate)) + "\n",
    "junit": junit_xml,
    "gitlab": metrics_text,
}


def write(gate: Gate, files: Mapping[str, Path]) -> None:
    """Writes reports by form, each whole: "json", "junit" and "gitlab"."""
    for form, path in files.items():
        atomic_write(path, _FORMS[form](gate).encode())
