"""Leaderboards: built of runs, looked at row by row, recomputed from their own columns, and shown in groups of ties."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from genbench import leaderboard, report, standings, tables
from genbench.cli import main
from genbench.errors import InputRejected, NotComparable, UsageError

ARGS = ("-n", "24", "--metric", "fid", "--metric", "is", "--metric", "precision")
MODEL = "ddim(steps=2, eta=0.0, spacing='uniform', clip=True)"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, session_cache: Path) -> Path:
    """Two seeds of one model and one of another, with three metrics each."""
    output = tmp_path_factory.mktemp("runs")
    for model, seed in (("ddim(steps=2)", 0), ("ddim(steps=2)", 1), ("ddim(steps=3)", 0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("GENBENCH_CACHE", str(session_cache))
            assert main(["run", "--model", model, "--seed", str(seed), *ARGS, "-o", str(output)]) == 0
    return output


@pytest.fixture
def board(runs: Path, tmp_path: Path) -> Path:
    leaderboard.build([runs], tmp_path / "board.csv")
    return tmp_path / "board.csv"


def rows_of(board: Path) -> list[dict[str, str]]:
    return tables.read(board, report.COLUMNS)


def write(board: Path, rows: list[dict[str, str]]) -> Path:
    board.write_text(tables.text(report.COLUMNS, rows))
    return board


@pytest.mark.slow
def test_a_board_of_runs_has_every_row_once_in_order_and_is_sound(board: Path, runs: Path, tmp_path: Path) -> None:
    rows = rows_of(board)
    assert len(rows) == 9 and [*rows] == sorted(rows, key=report.sort_key)
    text = board.read_bytes()
    for sources in ([runs], [board], sorted(path for path in runs.iterdir() if path.is_dir()), [runs, board]):
        assert leaderboard.build(list(reversed(sources)), tmp_path / "again.csv") == 9
        assert (tmp_path / "again.csv").read_bytes() == text
    found = leaderboard.check(board)
    assert (found.rows, found.problems, found.unlike, found.notes) == (9, (), (), ())
    assert main(["leaderboard", "check", str(board)]) == 0


def test_rows_that_a_board_has_stay(board: Path, runs: Path) -> None:
    one = next(path for path in runs.iterdir() if path.is_dir())
    kept = rows_of(board)[:1]
    write(board, kept)
    leaderboard.build([one], board)
    assert kept[0] in rows_of(board) and len(rows_of(board)) in (3, 4)


def test_of_two_values_of_an_id_the_later_one_counts_and_is_told_of(
    board: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = rows_of(board)[0]
    later = {**row, "value": "1.5", "ci_low": "", "ci_high": "", "date": "2030-01-01"}
    write(tmp_path / "later.csv", [later])
    for sources in ([board, tmp_path / "later.csv"], [tmp_path / "later.csv", board]):
        caplog.clear()
        leaderboard.build(sources, tmp_path / "both.csv")
        assert later in rows_of(tmp_path / "both.csv") and len(rows_of(tmp_path / "both.csv")) == 9
        assert f"The row {row['id']}" in caplog.text and "1.5" in caplog.text


def test_runs_without_results_are_named(runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["sample", "--model", "ddim(steps=2)", "-n", "5", "-o", str(tmp_path / "runs")]) == 0
    with pytest.raises(InputRejected, match="holds no results"):
        leaderboard.build([tmp_path / "runs"], tmp_path / "none.csv")
    assert "1 runs" in caplog.text and not (tmp_path / "none.csv").exists()
    with pytest.raises(InputRejected, match="neither a folder"):
        leaderboard.build([tmp_path / "nothing"], tmp_path / "none.csv")


BROKEN = [
    ({"value": ""}, "value is empty"),
    ({"value": "nan"}, "value is a finite number"),
    ({"value": "1e999"}, "value is a finite number"),
    ({"value": "1_0"}, "value is a finite number"),
    ({"value": "=1+1"}, "value is a finite number"),
    ({"stderr": "-0.5"}, "stderr is a number of at least 0"),
    ({"num_samples": "24.0"}, "num_samples is a whole number"),
    ({"num_samples": "0"}, "num_samples is 0"),
    ({"seed": "-1"}, "seed is a whole number"),
    ({"seed": ""}, "seed is empty, and the row is of a run"),
    ({"ci_low": "9", "ci_high": "1"}, "its interval begins at 9 and ends at 1"),
    ({"ci_low": ""}, "one end of an interval"),
    ({"exact": "maybe"}, "exact is True or False"),
    ({"precision": "float8"}, "precision is float32 or bfloat16"),
    ({"kind": "guessed"}, "kind is measured or reported"),
    ({"date": "2026-13-01"}, "date is a day"),
    ({"id": "xyz"}, "id is 12 hexadecimal digits"),
    ({"protocol_hash": "123"}, "protocol_hash is 16 hexadecimal digits"),
    ({"model": "ddim(steps=open('x'))"}, "model is a reference"),
    ({"generated": "=cmd()"}, "begins like a formula"),
    ({"device": "@SUM(A1)"}, "begins like a formula"),
    ({"device": "\x1b[31m"}, "control character"),
    ({"seed": "7"}, "does not follow from its row"),
    ({"precision": "bfloat16"}, "does not follow from its row"),
    ({"model": MODEL.replace("steps=2", "steps=4")}, "does not follow from its row"),
    ({"protocol_hash": "0" * 16}, "does not follow from its row"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "said"), BROKEN)
def test_a_row_that_is_wrong_is_named(changed: dict[str, str], said: str, board: Path) -> None:
    rows = [row for row in rows_of(board) if row["metric"].startswith("fid")][:1]
    write(board, [{**rows[0], **changed}])
    found = leaderboard.check(board)
    assert any(said in text for text in found.problems), found
    assert main(["leaderboard", "check", str(board)]) == 5


def test_a_share_outside_its_range_is_wrong(board: Path) -> None:
    rows = [{**row, "value": "1.2"} if row["metric"].startswith("precision") else row for row in rows_of(board)]
    found = leaderboard.check(write(board, rows))
    assert len(found.problems) == 3 and all("lies outside [0, 1]" in text for text in found.problems)


def test_order_and_duplicates_are_looked_at(board: Path) -> None:
    rows = rows_of(board)
    assert any("out of order" in text for text in leaderboard.check(write(board, rows[::-1])).problems)
    twice = leaderboard.check(write(board, sorted([*rows, rows[0]], key=report.sort_key))).problems
    assert any("an id is there once" in text for text in twice)
    other = {**rows[0], "id": "f" * 12}
    again = leaderboard.check(write(board, sorted([*rows, other], key=report.sort_key))).problems
    assert any("measures the same as row 1, under another id" in text for text in again)


def test_two_protocols_in_one_ranking_end_with_exit_code_4(board: Path, runs: Path, tmp_path: Path) -> None:
    args = ["run", "--model", "ddim(steps=2)", "-n", "25", "--metric", "fid", "-o", str(tmp_path / "more")]
    assert main(args) == 0
    with pytest.raises(NotComparable, match=r"num_samples 2\d and 2\d"):
        leaderboard.build([runs, tmp_path / "more"], tmp_path / "mixed.csv")
    assert not (tmp_path / "mixed.csv").exists()
    more = report.read_results(next((tmp_path / "more").iterdir())).values()
    rows = [*rows_of(board), *(report.row(result) for result in more)]
    found = leaderboard.check(write(board, sorted(rows, key=report.sort_key)))
    assert not found.problems and len(found.unlike) == 1 and "num_samples" in found.unlike[0]
    assert main(["leaderboard", "check", str(board)]) == 4


def test_rows_of_before_todays_identities_are_a_kind_of_their_own(board: Path) -> None:
    rows = [{**row, "date": "2026-11-21"} for row in rows_of(board)]
    found = leaderboard.check(write(board, rows))
    assert not found.problems and len(found.notes) == 1 and found.notes[0].startswith("9 rows are of before 2026-11-29")


def test_reading_rows_of_others_runs_no_code(board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    (tmp_path / "somebodys_code.py").write_text(f"open({str(seen)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    row = rows_of(board)[0]
    for name in ("model", "dataset", "metric", "extractor"):
        write(board, [{**row, name: "somebodys_code:load"}])
        leaderboard.check(board)
        leaderboard.build([board], tmp_path / f"{name}.csv")
        for form in ("md", "html", "csv"):
            standings.render(leaderboard.sound(board), title="t", form=form)
        with pytest.raises(UsageError, match="--allow-code"):
            leaderboard.rerun(rows_of(board)[0], output=tmp_path / "runs")
        assert not seen.exists() and "somebodys_code" not in sys.modules, name
    with pytest.raises(UsageError, match="cannot be imported"):
        leaderboard.rerun(
            rows_of(board)[0] | {"extractor": row["extractor"], "model": "somebodys_code:load"},
            output=tmp_path / "runs",
            allow_code=True,
        )
    assert seen.exists()


def test_a_row_is_measured_again_from_its_own_columns(
    board: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    row = next(row for row in rows_of(board) if row["metric"].startswith("fid") and row["seed"] == "1")
    args = ["leaderboard", "rerun", str(board), "--row", row["id"], "-o", str(tmp_path / "again")]
    assert main(args) == 0
    assert "\nsame\n" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "again").iterdir() if path.is_dir()], "it was sampled there"
    assert leaderboard.rerun(row, output=tmp_path / "again").result.id == row["id"]

    value, error = float(row["value"]), float(row["stderr"])
    for moved, verdict, code in ((1.5, "within the error", 0), (30.0, "not reproduced", 3)):
        changed = {**row, "value": repr(value + moved * error), "ci_low": "", "ci_high": ""}
        found = leaderboard.rerun(changed, output=tmp_path / "again")
        assert (found.verdict, found.exit_code, found.differing) == (verdict, code, ())
    other = leaderboard.rerun({**row, "protocol_hash": "0" * 16}, output=tmp_path / "again")
    assert other.exit_code == 4 and "protocol_hash" in other.differing[0]
    earlier = leaderboard.rerun({**row, "protocol_hash": "0" * 16, "date": "2026-11-21"}, output=tmp_path / "again")
    assert (earlier.exit_code, earlier.earlier) == (0, True)


def test_a_row_is_found_by_the_beginning_of_its_id(board: Path) -> None:
    rows = rows_of(board)
    assert leaderboard.row_of(rows, rows[3]["id"][:8]) == rows[3]
    for wanted in ("", "0000000000zz"):
        with pytest.raises(UsageError):
            leaderboard.row_of(rows, wanted)


def made(model: str, seed: int, value: float, stderr: float | None = 1.0, **more: str) -> dict[str, str]:
    """A row of a board, with an interval of a normal."""
    row = dict.fromkeys(report.COLUMNS, "") | {
        "model": model, "dataset": "shapes", "metric": "fid(error='auto')", "extractor": "compact",
        "protocol": "embedded",
        "protocol_hash": "a" * 16, "num_samples": "1000", "seed": str(seed), "metric_version": "1",
        "value": repr(value), "kind": "measured", "evaluations": "10", "precision": "float32",
        "date": "2026-12-01", "id": f"{seed:012x}",
    }  # fmt: skip
    if stderr is not None:
        row |= {"stderr": repr(stderr), "ci_low": repr(value - 2 * stderr), "ci_high": repr(value + 2 * stderr)}
    return row | more


def test_systems_that_are_not_told_apart_share_a_group() -> None:
    rows = [made("a", 0, 10.0), made("b", 0, 10.5), made("c", 0, 30.0)]
    (one,) = standings.rankings(rows)
    assert [(s.model, s.groups) for s in one.standings] == [("a", "a"), ("b", "a"), ("c", "b")]
    higher = [{**row, "metric": "precision(k=3)"} for row in rows]
    (other,) = standings.rankings(higher)
    assert [s.model for s in other.standings] == ["c", "b", "a"]


def test_seeds_become_a_mean_with_the_error_over_them() -> None:
    (one,) = standings.rankings([made("a", seed, value) for seed, value in enumerate((1.0, 2.0, 6.0))])
    (standing,) = one.standings
    # mean 3, deviations -2, -1 and 3: s = sqrt(14 / 2), and t of 2 degrees of freedom is 4.3027.
    assert (standing.seeds, standing.score.value) == (3, 3.0)
    assert standing.score.stderr == pytest.approx((7 / 3) ** 0.5)
    assert standing.score.ci95[1] - 3 == pytest.approx(4.302653 * (7 / 3) ** 0.5, rel=1e-6)


def test_unlike_numbers_are_in_no_common_order() -> None:
    rows = [made("a", 0, 1.0), made("b", 0, 2.0, protocol_hash="b" * 16), made("c", 0, 3.0, num_samples="500"),
            made("d", 0, 4.0, kind="reported"), made("e", 0, 5.0, dataset="digits")]  # fmt: skip
    found = standings.rankings(rows)
    assert sorted(s.model for one in found for s in one.standings) == ["a", "b", "c", "d", "e"]
    assert len(found) == 5
    (reported,) = [one for one in found if one.kind == "reported"]
    assert reported.higher_is_better is None and reported.standings[0].groups == ""
    text = standings.render(rows, title="t", form="md")
    assert text.count("\n## ") == 4 and "## Reported: shapes" in text.split("## Measured")[-1]


HOSTILE = "<script>alert(1)</script>`|*x*"


def test_names_of_others_are_text_in_every_form() -> None:
    rows = [made(HOSTILE, 0, 1.0, dataset=f"{HOSTILE}\n# head"), made("", 0, 2.0, generated="=cmd()")]
    page = standings.render(rows, title=HOSTILE, form="html", source=HOSTILE)
    assert "<script" not in page and page.count("&lt;script&gt;") >= 4
    assert "default-src 'none'" in page
    text = standings.render(rows, title=HOSTILE, form="md", source=HOSTILE)
    outside = re.sub(r"`[^`\n]*`", "", text)
    assert "<script" not in outside and "\n# head" not in text
    tables_of_text = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in tables_of_text), tables_of_text
    table = standings.render(rows, title="t", form="csv")
    assert "'=cmd()" in table and ",=cmd" not in table and "\n=cmd" not in table


def test_systems_have_names_and_links_where_a_file_gives_some(tmp_path: Path) -> None:
    other = MODEL.replace("steps=2", "steps=9")
    rows = [made(MODEL, 0, 1.0), made(other, 0, 2.0), made("", 0, 3.0, generated="out (1)/")]
    names = tmp_path / "names.toml"
    names.write_text(
        '[ddim]\nname = "DDIM | of 2020"\n["ddim(steps=2)"]\nname = "Fast <b>"\nlink = "https://example.org/a"\n'
        '["out (1)/"]\nlink = "https://example.org/b"\n'
    )
    known = leaderboard.names_of(names)
    text = standings.render(rows, title="t", form="md", names=known)
    assert f"| [Fast &lt;b&gt;](https://example.org/a) `{MODEL}` |" in text
    assert f"| DDIM \\| of 2020 `{other}` |" in text and "| [link](https://example.org/b) `out (1)/` |" in text
    page = standings.render(rows, title="t", form="html", names=known)
    assert '<a href="https://example.org/a">Fast &lt;b&gt;</a> <code>ddim(steps=2' in page and "<b>" not in page
    assert standings.render(rows, title="t", form="csv", names=known) == standings.render(rows, title="t", form="csv")
    for wrong in (
        '[ddim]\nlink = "javascript:alert(1)"', '[ddim]\nlink = "https://x/)](y"', "[ddim]\nname = 1", "ddim = 1",
        '[ddim]\nnmae = "x"', "[ddim]", "[", '[ddim]\nlink = "https://x\\n"',
    ):  # fmt: skip
        names.write_text(wrong)
        with pytest.raises(InputRejected):
            leaderboard.names_of(names)


def test_rows_are_removed_by_id_all_or_none(board: Path) -> None:
    before, text = rows_of(board), board.read_bytes()
    ids = [row["id"] for row in before]
    for wrong in (["none"], [ids[0], "none"], [""]):
        with pytest.raises(UsageError):
            leaderboard.remove(board, wrong)
        assert board.read_bytes() == text
    assert main(["leaderboard", "remove", str(board), "--row", ids[3], "--row", ids[0][:8], "--row", ids[3]]) == 0
    assert rows_of(board) == [row for row in before if row["id"] not in (ids[0], ids[3])]
    assert main(["leaderboard", "check", str(board)]) == 0


def test_the_table_of_means_is_read_by_machines(board: Path, tmp_path: Path) -> None:
    assert main(["leaderboard", "render", str(board), "--to", "csv", "-o", str(tmp_path / "means.csv")]) == 0
    rows = tables.read(tmp_path / "means.csv", standings.COLUMNS)
    assert len(rows) == 6 and sorted({row["seeds"] for row in rows}) == ["1", "2"]
    assert {row["group"] for row in rows} <= {"a", "b", "a b"} and all(float(row["value"]) for row in rows)


def test_a_board_that_cannot_be_read_is_not_shown(board: Path) -> None:
    write(board, [{**rows_of(board)[0], "value": "x"}])
    with pytest.raises(InputRejected, match="row 1"):
        leaderboard.sound(board)
    assert main(["leaderboard", "render", str(board)]) == 5


def test_a_result_of_a_later_version_is_no_row(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    some = json.loads(next(runs.glob("*/result.json")).read_text())
    (tmp_path / "run" / "result.json").write_text(json.dumps(some | {"schema": "genbench.run/99"}))
    with pytest.raises(InputRejected, match="upgrade"):
        leaderboard.build([tmp_path / "run"], tmp_path / "board.csv")
