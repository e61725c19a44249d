"""Comparisons: what is compared in pairs, what is refused, and that text, JSON and exit code tell the same."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from made_up import random_images, result

import genbench
from genbench import identities, report, uncertainty
from genbench.arrays import Samples
from genbench.comparison import Comparison, belong_together, compare, pair_of
from genbench.errors import InputRejected, NotComparable, UsageError
from genbench.images import write_grid
from genbench.records import Ref, Result, RunSpec
from genbench.sides import Measured, is_of

SCHEMA = json.loads(files("genbench").joinpath("schemas/comparison.schema.json").read_text())


def mean_result(values: np.ndarray, digest: str, **more: object) -> Result:
    made = replace(result("vendi"), score=uncertainty.score_from_mean(values), higher_is_better=True)
    return replace(made, generated=replace(made.generated, count=len(values), digest=digest), **more)


def side(name: str, *results: Result, asked: str | None = "same") -> Measured:
    return Measured(name=name, results=results, asked=asked)


def test_pairs_have_the_error_of_the_differences() -> None:
    x = np.random.default_rng(0).normal(size=400)
    y = x + 0.3 + 0.1 * np.random.default_rng(1).normal(size=400)
    base, candidate = side("a", mean_result(x, "1")), side("b", mean_result(y, "2"))
    (row,) = pair_of(base, candidate).rows
    numbers = uncertainty.block_numbers(400)
    blocks = np.array([(y - x)[numbers == k].mean() for k in range(20)])
    assert row.difference is not None
    assert row.difference.value == pytest.approx((y - x).mean())
    assert row.difference.stderr == pytest.approx(blocks.std(ddof=1) / np.sqrt(20))
    assert row.shown is True and row.better is True
    (other,) = pair_of(base, replace(candidate, asked="other")).rows
    assert other.difference is not None and (other.difference.stderr or 0) > 8 * (row.difference.stderr or 1)


def test_a_notebook_shows_the_table_with_names_as_text() -> None:
    x = np.random.default_rng(0).normal(size=100)
    pair = pair_of(side("<b>", mean_result(x, "1")), side("b", mean_result(x + 1, "2")))
    told = Comparison(pairs=(pair,), ties={})._repr_html_()
    assert "<td>vendi@compact</td>" in told and "<td>better</td>" in told
    assert "<p>base: &lt;b&gt;: " in told and "<b>" not in told


def test_runs_whose_images_were_removed_are_still_in_pairs(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=100)
    spec = RunSpec(model=Ref("ddim", {"steps": 4}), dataset=Ref("shapes"), num_samples=100)
    for name in "ab":
        (tmp_path / name).mkdir()
        made = mean_result(x + (name == "b"), name, spec=spec, environment={"asked": "the same seeds"})
        report.write_results(tmp_path / name, {"r": made})
        write_grid(random_images(4), tmp_path / name / "grid.png")
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.pairs[0].in_pairs and found.pairs[0].base.samples is None, "grid.png is no image of the run"


def test_the_same_images_differ_by_exactly_nothing() -> None:
    x = np.random.default_rng(0).normal(size=100)
    # Another machine may round otherwise; the images are the same.
    (row,) = pair_of(side("a", mean_result(x, "1")), side("b", mean_result(x + 1e-9, "1"), asked=None)).rows
    assert row.difference is not None
    assert (row.difference.value, row.difference.ci95, row.difference.method) == (0.0, (0.0, 0.0), "identical")
    assert row.shown is False


def test_images_belong_together_by_seed_label_and_caption() -> None:
    x = np.arange(40.0)
    a, b = side("a", mean_result(x, "1")), side("b", mean_result(x, "2"))
    assert belong_together(a, b, None)[0]
    assert not belong_together(a, b, False)[0]
    assert not belong_together(a, replace(b, asked="other"), None)[0]
    assert not belong_together(a, replace(b, asked=None), None)[0]
    assert belong_together(a, replace(b, asked=None), True)[0]
    fewer = replace(b, results=(mean_result(x[:30], "2"),))
    assert belong_together(a, fewer, True) == (False, "the numbers of images differ.")
    images = np.zeros((40, 3, 4, 4), np.uint8)
    labelled = [Samples.of(images, labels=np.arange(40) % n) for n in (2, 3)]
    told = belong_together(replace(a, samples=labelled[0]), replace(b, samples=labelled[1]), True)
    assert told == (False, "the labels of the images differ, whatever --paired says.")
    assert identities.asked(0, labelled[0]) != identities.asked(0, labelled[1]) != identities.asked(1, labelled[1])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"protocol_hash": "other", "extractor_key": "k2"}, "extractor_key"),
        ({"protocol_hash": "other"}, "protocol_hash"),
        ({"metric_version": 2}, "metric_version"),
    ],
)
def test_what_was_measured_unlike_has_no_difference(change: dict[str, object], field: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=100)
    paths = []
    for name, made in (("a", mean_result(x, "1")), ("b", mean_result(x + 1, "2", **change))):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(report.dumps(report.document([made])))
    found = compare(*paths)
    assert found.exit_code == 4
    assert found.pairs[0].rows[0].difference is None
    assert field in found.text() and "not comparable" in found.text()
    told = found.to_dict()
    jsonschema.validate(told, SCHEMA)
    assert told["exit_code"] == 4 and field in told["candidates"][0]["differences"][0]["unlike"][0]


def test_a_value_that_is_no_number_is_not_subtracted() -> None:
    x = np.random.default_rng(0).normal(size=100)
    broken = mean_result(x, "2")
    broken = replace(broken, score=replace(broken.score, value=float("nan")))
    (row,) = pair_of(side("a", mean_result(x, "1")), side("b", broken)).rows
    assert row.difference is None and row.unlike == ("the value of the candidate is not a finite number",)


def test_more_than_two_are_put_in_groups(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    made = {"a": x, "b": x + 0.01 * rng.normal(size=400), "c": x + 5}
    paths = []
    for name, values in made.items():
        paths.append(tmp_path / f"{name}.json")
        one = mean_result(values, name, environment={"asked": "same"})
        paths[-1].write_text(report.dumps(report.document([one])))
    found = compare(*paths)
    (ties,) = found.ties.values()
    assert [{Path(name).stem for name in group} for group in ties.groups] == [{"c"}, {"a", "b"}]
    jsonschema.validate(found.to_dict(), SCHEMA)
    assert "not told apart" in found.text() and found.exit_code == 0


def test_results_that_name_code_are_refused(tmp_path: Path) -> None:
    made = replace(result(), metric="os:getcwd")
    path = tmp_path / "hostile.json"
    path.write_text(report.dumps(report.document([made])))
    with pytest.raises(UsageError, match=r"hostile\.json names os:getcwd.*--allow-code"):
        compare(path, path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": "genbench.run/9"}', '{"schema": "genbench.run/2"}'])
def test_files_of_something_else_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises((InputRejected, NotComparable)):
        compare(path, path)
    with pytest.raises(UsageError, match="at least one candidate"):
        compare(path)


def test_measurements_are_matched_by_what_the_text_says() -> None:
    made = replace(result("precision(k=3, blocks=20)"), extractor="compact")
    assert is_of(made, "precision") and is_of(made, "precision(k=3)@compact")
    assert not is_of(made, "precision(k=5)") and not is_of(made, "precision@inception") and not is_of(made, "recall")


def test_sets_of_images_are_compared_in_pairs_on_request() -> None:
    rng = np.random.default_rng(0)
    real, base = (rng.integers(0, 256, (64, 3, 8, 8), dtype=np.uint8) for _ in range(2))
    brighter = np.clip(base.astype(int) + 8, 0, 255).astype(np.uint8)
    given = {"reference": real, "metrics": "fid@pixels"}
    alone = genbench.compare(base, brighter, **given).pairs[0]
    pairs = genbench.compare(base, brighter, paired=True, **given).pairs[0]
    assert not alone.in_pairs and pairs.in_pairs
    one, other = (pair.rows[0].difference for pair in (alone, pairs))
    assert one is not None and other is not None and one.value == other.value != 0
    assert (other.stderr or 0) < (one.stderr or 0)
    same = genbench.compare(base, base.copy(), **given).pairs[0].rows[0].difference
    assert same is not None and same.value == 0 and same.stderr == 0
