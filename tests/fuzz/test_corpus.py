"""What once broke a reader: found by `test_readers.py` with many examples, or by hand, and kept as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import answers, bounded
from fuzz_targets import BYTES, TEXTS, TREES

from genbench.errors import InputRejected

__all__ = ["bounded"]  # a fixture of every test here

NINES = "9" * 5000


def changed(kind: str, *keys: Any, to: Any) -> Callable[[Path], Callable[[Path], Any]]:
    """A valid file of a kind with one value replaced; gives its reader."""

    def make(path: Path) -> Callable[[Path], Any]:
        _, valid, write, read, _ = TREES[kind]
        tree = valid()
        home = tree
        for key in keys[:-1]:
            home = home[key]
        home[keys[-1]] = to
        write(path, tree)
        return read

    return make


def text(kind: str, content: str | bytes) -> Callable[[Path], Callable[[Path], Any]]:
    def make(path: Path) -> Callable[[Path], Any]:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return TEXTS[kind][2]

    return make


def array_of_truth_values(path: Path) -> Callable[[Path], Any]:
    """An array whose header gives its length as True."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (True, 8, 8, 3), }\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(192))
    return BYTES["npy"][2]


CORPUS: dict[str, tuple[str, Callable[[Path], Callable[[Path], Any]]]] = {
    "digits of a number in rules": ("gate.toml", text("gate", f"alpha = {NINES}")),
    "digits of a number in a benchmark": ("a.toml", text("benchmark", f"seeds = [{NINES}]")),
    "rules of a project that is no table": ("pyproject.toml", text("project", "tool = 1")),
    "digits in a project": ("pyproject.toml", text("project", f"a = {NINES}")),
    "verdict that is no truth value": ("result.json", changed("results", "results", 0, "higher_is_better", to=[])),
    "verdict of a number": ("result.json", changed("results", "results", 0, "higher_is_better", to=-1)),
    "method that is no text": ("result.json", changed("results", "results", 0, "error_method", to=True)),
    "interval of one end": ("result.json", changed("results", "results", 2, "ci95", to=[0.5])),
    "interval that is a text": ("result.json", changed("results", "results", 2, "ci95", to="")),
    "number beyond floats": ("result.json", changed("results", "results", 0, "value", to=10**400)),
    "notes that are no list": ("result.json", changed("results", "results", 0, "environment", to={"notes": 3})),
    "more images than there can be": ("told.json", changed("manifest", "manifest", "spec", "num_samples", to=2**63)),
    "images larger than memory": ("told.json", changed("manifest", "manifest", "shape", to=[2**31, 9, 7])),
    "images larger than numbers": ("told.json", changed("manifest", "manifest", "shape", to=[2**62, 9, 7])),
    "class below 0 in a shard": ("told.json", changed("manifest", "shards", 0, "labels", to=[-1, 0])),
    "name of a tap that no text holds": ("a.npz", changed("record of statistics", "statistics", 0, "tap", to="\ud800")),
    "parts of a key": ("a.toml", text("benchmark", "a" + ".a" * 30_000 + " = 1")),
    "parts of a key in rules": ("gate.toml", text("gate", "[a" + " . 'a'" * 30_000 + "]")),
    "length that is a truth value": ("a.npy", array_of_truth_values),
    "number that is not finite in a manifest": ("told.json", changed("manifest", "manifest", "seed", to=float("nan"))),
}
"""Name of a file, and what writes it and gives its reader."""


@pytest.mark.parametrize("case", CORPUS)
def test_what_broke_a_reader_is_refused_or_read(case: str, tmp_path: Path) -> None:
    name, make = CORPUS[case]
    path = tmp_path / "folder" / name
    path.parent.mkdir()
    answers(make(path), path)


def test_statistics_that_are_named_again_and_again_are_read_once(tmp_path: Path) -> None:
    """Else each of them would take the memory of its arrays, however small the file is."""
    _, valid, write, read, _ = TREES["record of statistics"]
    tree = valid()
    tree["statistics"] = [{**tree["statistics"][0], "tap": f"t{i}"} for i in range(2000)]
    write(tmp_path / "a.npz", tree)
    with pytest.raises(InputRejected, match="says twice what mu or sigma is of"):
        read(tmp_path / "a.npz")
