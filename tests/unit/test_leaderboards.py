"""The committed measurements say what the papers say: of steps, of guidance, of captions."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from genbench import benchmark, leaderboard, report, standings, tables
from genbench.records import Ref
from scripts import measure_gate

Row = dict[str, str]


@pytest.fixture(scope="module")
def board(root: Path) -> list[Row]:
    with (root / "leaderboards" / "shapes.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def values(board: list[Row], system: str, metric: str, along: str, **fixed: object) -> dict[float, tuple[float, float]]:
    """Value of the argument `along` to (value, standard error) of the metric, ascending."""
    found = {}
    for row in board:
        model = Ref.parse(row["model"])
        same = all(model.args.get(name) == value for name, value in fixed.items())
        if model.name == system and Ref.parse(row["metric"]).name == metric and row["precision"] == "float32" and same:
            found[float(model.args[along])] = (float(row["value"]), float(row["stderr"]))  # type: ignore[arg-type]
    return dict(sorted(found.items()))


def test_more_steps_of_ddim_are_better(board: list[Row]) -> None:
    """The ordering of Song et al. 2021, Table 1."""
    fid = values(board, "ddim", "fid", "steps", eta=0.0, spacing="uniform")
    assert list(fid) == [10, 20, 50, 100]
    points = list(fid.values())
    for (more, error), (less, other) in zip(points[1:], points, strict=False):
        assert more < less - 2 * (error**2 + other**2) ** 0.5


def test_few_steps_of_ddim_are_better_than_few_of_ddpm_and_a_thousand_of_ddpm_better_still(board: list[Row]) -> None:
    """The rows eta = 0 and sigma-hat of the same table."""
    ddpm = values(board, "ddpm", "fid", "steps", variance="large")
    ddim = values(board, "ddim", "fid", "steps", eta=0.0, spacing="uniform")
    assert ddpm[1000][0] < ddim[100][0] and ddim[10][0] < ddpm[10][0]


@pytest.mark.parametrize(("system", "neutral"), [("cfg", 1.0), ("adm-g", 0.0), ("ldm", 1.0)])
def test_guidance_trades_diversity_for_fidelity(board: list[Row], system: str, neutral: float) -> None:
    """Precision and IS rise with the scale, recall falls, and FID is least in between.

    Source: Dhariwal and Nichol 2021 Fig. 4; Ho and Salimans 2022 Tables 1 and 2.
    """
    found = {m: values(board, system, m, "scale", steps=50) for m in ("fid", "is", "precision", "recall")}
    scales = [scale for scale in found["fid"] if scale >= neutral]
    assert len(scales) >= 5
    first, last = scales[0], scales[-1]
    fid = {scale: found["fid"][scale][0] for scale in scales}
    best = min(fid, key=fid.__getitem__)
    assert first < best < last
    for name, sign in (("is", 1), ("precision", 1), ("recall", -1)):
        (start, a), (end, b) = found[name][first], found[name][last]
        assert sign * (end - start) > (a**2 + b**2) ** 0.5, name


def test_systems_draw_the_class_that_is_asked_for_and_train_a_classifier(board: list[Row]) -> None:
    for system in ("cfg", "adm-g", "ldm", "ddim", "ddpm"):
        rows = [r for r in board if Ref.parse(r["model"]).name == system and r["metric"].startswith("cas")]
        assert len(rows) == 1, system
        assert float(rows[0]["value"]) >= 0.8 * float(rows[0]["floor"])
        classes = [r for r in board if r["model"] == rows[0]["model"] and r["metric"].startswith("top1")]
        assert float(classes[0]["value"]) >= 0.9


def test_captions_are_drawn(root: Path) -> None:
    with (root / "leaderboards" / "captions.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["right"] == "shape and colour"]
    assert len(rows) >= 4
    for row in rows:
        assert float(row["ci_low"]) >= 0.8 and int(row["num_samples"]) >= 1000


def test_benchmark_files_are_read(root: Path) -> None:
    for path in (root / "leaderboards").glob("*.toml"):
        if path.name != "names.toml":  # which names systems
            assert benchmark.read(path).cells > 0, path


def measured(root: Path) -> list[Path]:
    """The committed leaderboards of measured rows."""
    header = ",".join(report.COLUMNS)
    paths = sorted((root / "leaderboards").glob("*.csv"))
    return [path for path in paths if path.read_text(encoding="utf-8").partition("\n")[0] == header]


def test_every_leaderboard_is_sound(root: Path) -> None:
    assert {path.stem for path in measured(root)} >= BOARDS.keys()
    for path in measured(root):
        found = leaderboard.check(path)
        assert not found.problems and not found.unlike, path
        earlier = [note for note in found.notes if "before 2026-11-29" in note]
        assert found.notes == tuple(earlier), path
        assert bool(earlier) == (path.name == "shapes.csv"), path


def test_tables_are_those_of_their_csv(root: Path) -> None:
    for path in measured(root):
        text = standings.render(leaderboard.sound(path), title=path.stem, form="md", source=path.name)
        assert path.with_suffix(".md").read_text(encoding="utf-8") == text, path


BOARDS = {
    "shapes": ("shapes-systems", "shapes-sweeps", "shapes-bfloat16"),
    "zoo": ("zoo", "zoo-long", "zoo-likelihood", "zoo-exact"),
    "zoo-extractors": ("zoo-extractors",),
}
"""Leaderboard to its benchmark files."""


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_has_the_cells_of_its_benchmark_files_and_no_others(root: Path, name: str) -> None:
    files = [benchmark.read(root / "leaderboards" / f"{file}.toml") for file in BOARDS[name]]
    wanted = {
        (str(run.spec.model), run.spec.precision, run.spec.seed, cell.metric.name)
        for file in files
        for run in file.runs
        for cell in run.measurements
    }
    rows = tables.read(root / "leaderboards" / f"{name}.csv", report.COLUMNS)
    found = [(r["model"], r["precision"], int(r["seed"]), Ref.parse(r["metric"]).name) for r in rows]
    assert len(found) == len(set(found)) and set(found) == wanted


def test_the_gate_is_wrong_rarely_and_its_page_tells_what_was_measured(root: Path) -> None:
    rows = tables.read(root / "leaderboards" / "gate_power.csv", measure_gate.COLUMNS)
    alarms = [row for row in rows if row["change"].startswith("none")]
    assert {row["n"] for row in alarms} == {"500", "1000", "2000"} and len(alarms) >= 18
    assert all(int(row["repetitions"]) >= 200 and float(row["regressed"]) <= 0.05 for row in alarms)
    text = (root / "docs" / "gate.md").read_text(encoding="utf-8")
    told = text.partition("<!-- gate_power -->")[2].partition("<!-- /gate_power -->")[0].strip().splitlines()
    assert told[2:] == measure_gate.shares(rows)
