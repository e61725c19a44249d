"""Two results of this project: which fields keep them from being compared, and leaderboards that do not mix them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from genbench.comparability import Difference, differing_fields
from genbench.errors import InputRejected, NotComparable
from genbench.records import Ref, Result, RunSpec, Score, Side
from genbench.report import COLUMNS, merge_leaderboard

PRECISION = "precision(k=3, arithmetic='float32')"


def result(*, metric: str = PRECISION, extractor: str | None = "compact", model: str = "ddim", seed: int = 0) -> Result:
    return Result(
        metric=metric,
        metric_version=1,
        extractor=extractor,
        extractor_key="k1" if extractor else None,
        score=Score(value=0.5),
        floor=None,
        generated=Side(name=model, count=1000, digest=f"{model} {seed}", shape=(3, 32, 32)),
        reference=Side(name="shapes train", count=5000, digest="r1"),
        protocol="embedded",
        protocol_hash="h1",
        higher_is_better=True,
        spec=RunSpec(model=Ref.parse(model), dataset=Ref("shapes", {"seed": 0}), num_samples=1000, seed=seed),
        seconds=0.0,
        created="2026-01-01",
        environment={},
    )


def spec(given: Result) -> RunSpec:
    assert given.spec is not None
    return given.spec


BASE = result()
SMALL = replace(BASE, generated=replace(BASE.generated, shape=(3, 64, 64)))


@pytest.mark.parametrize(
    "other",
    [
        BASE,
        result(model="cfg(scale=2.0)", seed=3),
        result(metric="precision"),
        result(metric="precision(arithmetic='float32')"),
        replace(BASE, spec=replace(spec(BASE), precision="bfloat16", exact=True), created="2027", environment={"a": 1}),
        replace(BASE, generated=replace(BASE.generated, shape=None), spec=None),
        replace(BASE, score=Score(value=0.9), floor=Score(value=1.0), protocol="adm"),
    ],
)
def test_what_is_compared_is_no_difference(other: Result) -> None:
    assert differing_fields(BASE, other) == () == differing_fields(other, BASE)


def test_arguments_of_the_error_bar_are_no_difference() -> None:
    a, b = result(metric="fid(error='none', blocks=5)"), result(metric="fid(error='jackknife')")
    assert differing_fields(a, b) == ()


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (result(metric="precision(k=5)"), ("metric.k", 3, 5)),
        (result(metric="precision(arithmetic='fp16-adm')"), ("metric.arithmetic", "float32", "fp16-adm")),
        (replace(BASE, metric_version=2), ("metric_version", 1, 2)),
        (replace(BASE, extractor_key="k2"), ("extractor_key", "k1", "k2")),
        (replace(BASE, generated=replace(BASE.generated, count=999)), ("num_samples", 1000, 999)),
        (replace(BASE, reference=Side(name="x", count=5000, digest="r2")), ("reference", "r1", "r2")),
        (replace(BASE, reference=Side(name="x", count=None, digest="r1")), ("num_reference", 5000, None)),
        (replace(BASE, spec=replace(spec(BASE), quantise="truncate")), ("quantise", "round", "truncate")),
        (SMALL, ("shape", (3, 32, 32), (3, 64, 64))),
        (replace(BASE, protocol_hash="h2"), ("protocol_hash", "h1", "h2")),
    ],
)
def test_each_difference_is_found_with_both_values(other: Result, found: tuple[str, object, object]) -> None:
    assert differing_fields(BASE, other) == (Difference(*found),)
    assert differing_fields(other, BASE) == (Difference(found[0], found[2], found[1]),)


def test_all_differences_are_named_at_once_and_the_hash_only_where_nothing_else_tells() -> None:
    other = replace(
        result(metric="recall(k=5)", extractor="pixels"), extractor_key="k2", protocol_hash="h2", metric_version=2
    )
    names = {one.field for one in differing_fields(BASE, other)}
    assert names >= {"metric", "metric.k", "extractor", "extractor_key", "metric_version"}
    assert "protocol_hash" not in names


def test_without_a_reference_the_data_set_counts() -> None:
    a = replace(result(metric="is"), reference=None)
    b = replace(a, spec=replace(spec(a), dataset=Ref("cifar10")))
    assert differing_fields(a, b) == (Difference("dataset", "shapes(seed=0)", "cifar10"),)
    scored = replace(a, spec=None)
    assert differing_fields(a, scored) == (), "of scored images only the hash knows what they are meant to be"
    assert differing_fields(a, replace(scored, protocol_hash="h2")) == (Difference("protocol_hash", "h1", "h2"),)


# Leaderboards


def ids(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row["id"] for row in csv.DictReader(file)]


def test_rows_of_one_protocol_are_merged_and_a_repetition_replaces(tmp_path: Path) -> None:
    board = tmp_path / "board.csv"
    assert merge_leaderboard(board, [BASE, result(seed=1), result(model="cfg")]) == 3
    assert merge_leaderboard(board, [replace(BASE, score=Score(value=0.75))]) == 3
    assert sorted(ids(board)) == sorted({BASE.id, result(seed=1).id, result(model="cfg").id})
    with board.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == COLUMNS
        assert {row["value"] for row in reader if row["id"] == BASE.id} == {"0.75"}


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (result(metric="precision(k=5)"), "metric.k"),
        (replace(BASE, generated=replace(BASE.generated, count=2000)), "num_samples"),
        (replace(BASE, reference=replace(BASE.reference, count=100)), "num_reference"),  # type: ignore[type-var]
        (replace(BASE, spec=replace(spec(BASE), quantise="truncate")), "quantise"),
        (replace(BASE, metric_version=2), "metric_version"),
        (replace(BASE, protocol_hash="h2", metric=PRECISION), "protocol_hash"),
    ],
)
def test_unlike_protocols_are_never_in_one_ranking(tmp_path: Path, other: Result, field: str) -> None:
    board = tmp_path / "board.csv"
    merge_leaderboard(board, [result(seed=7)])
    before = board.read_bytes()
    with pytest.raises(NotComparable, match=rf"precision@compact on shapes\(seed=0\).*{field}") as caught:
        merge_leaderboard(board, [other])
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)
    assert board.read_bytes() == before
    with pytest.raises(NotComparable):
        merge_leaderboard(tmp_path / "new.csv", [result(seed=7), other])
    assert not (tmp_path / "new.csv").exists()


def test_other_metrics_extractors_and_data_sets_are_other_rankings(tmp_path: Path) -> None:
    board = tmp_path / "board.csv"
    elsewhere = replace(BASE, spec=replace(spec(BASE), dataset=Ref("digits")), protocol_hash="h2")
    other_metric = replace(result(metric="recall(k=5)"), protocol_hash="h3")
    others = [other_metric, replace(result(extractor="pixels"), protocol_hash="h4"), elsewhere]
    assert merge_leaderboard(board, [BASE, *others]) == 4


def test_a_damaged_row_is_refused(tmp_path: Path) -> None:
    board = tmp_path / "board.csv"
    merge_leaderboard(board, [BASE])
    board.write_text(board.read_text(encoding="utf-8").replace("precision(k=3", "precision((k=3"), encoding="utf-8")
    before = board.read_bytes()
    with pytest.raises(InputRejected, match="damaged"):
        merge_leaderboard(board, [result(seed=1)])
    assert board.read_bytes() == before


def test_of_long_digests_twelve_digits_are_shown() -> None:
    told = str(Difference("reference", "ab" * 32, "cd" * 32))
    assert told == "reference abababababab and cdcdcdcdcdcd"
    hint = str(Difference("protocol_hash", "x", "y")).removeprefix("protocol_hash x and y")
    assert str(Difference("protocol_hash", "ab" * 8, None)) == f"protocol_hash {'ab' * 8} and not known{hint}"
