"""The page of the zoo: every row is shown once, with its errors, and every system says what it teaches."""

from __future__ import annotations

from genbench import registry
from scripts.render_zoo import LESSONS, page, systems


def row(model: str, metric: str, value: float, evaluations: float, stderr: str = "0.25") -> dict[str, str]:
    return {
        "model": model, "metric": f"{metric}(k=3)", "value": str(value), "stderr": stderr, "floor": "0.4896",
        "evaluations": str(evaluations), "num_samples": "1000", "seed": "0", "protocol": "embedded",
        "dataset": "shapes(seed=0)",
    }  # fmt: skip


ROWS = [
    row("edm(steps=10)", "fid", 1.2051, 19),
    row("edm(steps=10)", "recall", 0.93, 19, stderr=""),
    row("ddim(steps=10)", "fid", 32.66, 10),
    {**row("edm", "nll", 2.41, 0, stderr="0.09"), "evaluations": ""},
]


def test_rows_are_grouped_and_sorted_by_their_evaluations() -> None:
    found = systems(ROWS)
    assert list(found) == ["ddim(steps=10)", "edm(steps=10)", "edm"]
    assert set(found["edm(steps=10)"]) == {"fid", "recall"}


def test_the_page_shows_every_number_with_its_error() -> None:
    text = page(ROWS)
    assert "| `edm(steps=10)` | shapes-pixel | 19 | 1.21 +- 0.25 | 0.93 |  |" in text
    assert "| `ddim(steps=10)` | shapes-pixel | 10 | 32.7 +- 0.25 |  |  |" in text
    assert "| `edm` | shapes-pixel |  |  |  | 2.41 +- 0.09 |" in text
    assert "| model | network | evaluations an image | FID | recall | bits a dimension, exact |" in text
    assert text.index("`ddim(steps=10)`") < text.index("`edm(steps=10)`")
    assert "is 0.49." in text
    assert LESSONS["edm"].teaches in text
    assert LESSONS["unipc"].teaches not in text


def test_lessons_are_of_systems_that_exist() -> None:
    assert set(LESSONS) <= set(registry.table("model"))
