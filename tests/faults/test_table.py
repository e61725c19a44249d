"""The table of faults names tests that exist, and all of this folder."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
BESIDE = {
    # Of what the table's commands are made of, and not of what happens to them.
    "test_shares_that_mean_nothing_are_refused", "test_ranks_score_alike", "test_ranks_bench", "test_torchrun",
    "test_commands_without_work_for_others_run_as_several_processes", "test_wrong_usage_is_told_once",
    "test_ranks_score_images_in_shards", "test_ranks_make_statistics",
}  # fmt: skip


def names_of(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_row_is_held_by_a_test_and_every_test_has_a_row() -> None:
    named = re.findall(r"`([a-z0-9_/]+\.py)::(\w+)` \|", (HERE / "TABLE.md").read_text(encoding="utf-8"))
    rows = [line for line in (HERE / "TABLE.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(named) == len(rows) - 1
    for file, test in named:
        assert test in names_of(HERE.parent / file), f"{file} has no {test}"
    own = set().union(*(names_of(p) for p in HERE.glob("test_*.py") if p.name != "test_table.py"))
    assert own - BESIDE == {test for file, test in named if file.startswith("faults/")}
