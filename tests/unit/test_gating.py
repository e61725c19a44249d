"""The gate: verdicts that exclude each other, rules, what is refused, and what each report tells."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
from made_up import result
from scipy.stats import t as student

import genbench
from genbench import reporters, rules, uncertainty
from genbench.arrays import image_digests
from genbench.baseline import Baseline, kept_samples, write
from genbench.errors import UsageError
from genbench.gating import Gate, judged
from genbench.records import Result
from genbench.reporters.github import escaped, summary
from genbench.rules import Margin, Rule, Rules
from genbench.sides import Measured

SCHEMA = json.loads(files("genbench").joinpath("schemas/gate.schema.json").read_text())
N = 400


def of(values: np.ndarray, digest: str, metric: str = "swd", *, up: bool = False) -> Result:
    made = replace(result(metric), score=uncertainty.score_from_mean(values), higher_is_better=up)
    return replace(made, generated=replace(made.generated, count=len(values), digest=digest))


def base_of(*results: Result, **more: object) -> Baseline:
    images = np.random.default_rng(9).integers(0, 256, (N, 3, 2, 2), dtype=np.uint8)
    samples = kept_samples(image_digests(images), (3, 2, 2), origin="images")
    return Baseline(name="base", results=results, samples=samples, asked="same", **more)


def judge(known: Baseline, *candidate: Result, given: Rules | None = None, **more: object) -> Gate:
    base = Measured(name="base", results=known.results, asked="same")
    other = Measured(name="candidate", results=candidate, asked="same")
    return judged(base, other, given or Rules(), known, **more)


def ruled(margin: float | str, **more: object) -> Rules:
    return Rules(metrics={"swd": Rule(margin=Margin.parse(margin), **more)})


X = 10 + np.random.default_rng(0).normal(size=N)
NOISE = 0.2 * np.random.default_rng(1).normal(size=N)
NOISE -= NOISE.mean()


def ends() -> float:
    """Half the one-sided interval of a mean difference of NOISE, by hand: 20 blocks, Student's t."""
    numbers = uncertainty.block_numbers(N)
    blocks = np.array([NOISE[numbers == k].mean() for k in range(20)])
    stderr = blocks.std(ddof=1) / np.sqrt(20)
    left_out = -blocks
    return float(stderr * student.ppf(0.95, min(19.0, uncertainty.degrees(left_out))))


@pytest.mark.parametrize("up", [False, True])
def test_verdicts_are_where_the_bounds_lie(up: bool) -> None:
    half, margin = ends(), 0.5
    sign = -1 if up else 1
    known = base_of(of(X, "1", up=up))

    def word(worse: float) -> tuple[str, str]:
        (verdict,) = judge(known, of(X + sign * worse + NOISE, "2", up=up), given=ruled(margin)).verdicts
        return verdict.word, verdict.label

    assert word(margin + 1.01 * half) == ("regressed", "")
    assert word(margin + 0.99 * half) == ("inconclusive", "")
    assert word(margin - 0.99 * half) == ("inconclusive", "")
    assert word(margin - 1.01 * half) == ("pass", "worse within the margin")
    assert word(0.0) == ("pass", "")
    assert word(-1.01 * half) == ("pass", "improved")


def test_exit_codes_and_what_an_inconclusive_verdict_does() -> None:
    known = base_of(of(X, "1"))
    codes = {}
    for name, worse in (("pass", 0.0), ("inconclusive", 0.5), ("regressed", 1.0)):
        found = judge(known, of(X + worse + NOISE, "2"), given=ruled(0.5))
        codes[name] = found.exit_code
        assert found.word == name and bool(found) is (found.exit_code == 0)
        jsonschema.validate(reporters.as_dict(found), SCHEMA)
    assert codes == {"pass": 0, "inconclusive": 0, "regressed": 3}
    strict = judge(known, of(X + 0.5 + NOISE, "2"), given=ruled(0.5, inconclusive="fail"))
    assert strict.exit_code == 4
    advisory = judge(known, of(X + 1 + NOISE, "2"), given=ruled(0.5, gating=False))
    assert advisory.exit_code == 4, "nothing gates, which is no pass"


def test_an_inconclusive_verdict_tells_the_number_that_would_decide() -> None:
    found = judge(base_of(of(X, "1")), of(X + 0.49 + NOISE, "2"), given=ruled(0.5))
    (verdict,) = found.verdicts
    assert verdict.deciding_count is not None and verdict.deciding_count > N
    assert f"{verdict.deciding_count:,} images" in found.text()


def test_the_same_images_pass_with_a_margin_of_zero_and_so_does_rounding() -> None:
    known = base_of(of(X, "1"))
    for candidate in (of(X, "1"), of(X * (1 + 1e-8), "2")):
        (verdict,) = judge(known, candidate, given=ruled(0)).verdicts
        assert (verdict.word, verdict.label) == ("pass", "unchanged")
    (verdict,) = judge(known, of(X * (1 + 1e-4), "2"), given=ruled(0)).verdicts
    assert verdict.word == "regressed"


def test_several_metrics_share_alpha() -> None:
    """A worsening that one test would show is not shown where it is one of twenty."""
    half = ends()
    metrics = [f"swd(seed={i})" for i in range(20)]
    known = base_of(*(of(X, "1", m) for m in metrics))
    worse = of(X + 0.5 + 1.2 * half + NOISE, "2", metrics[0])
    others = [of(X + 1e-3 * NOISE, "2", m) for m in metrics[1:]]
    table = {m: Rule(margin=Margin(value=0.5)) for m in metrics}
    verdict = judge(known, worse, *others, given=Rules(metrics=table)).verdicts[0]
    alone = judge(known, worse, *others, given=Rules(metrics={metrics[0]: table[metrics[0]]})).verdicts[0]
    assert alone.word == "regressed" and verdict.word == "inconclusive"
    assert verdict.p_regressed == pytest.approx(20 * (alone.p_regressed or 0))


def test_what_cannot_be_compared_is_neither_a_pass_nor_a_regression() -> None:
    good = of(X, "1")
    known = base_of(good)
    broken = replace(good, score=replace(good.score, value=float("nan")), generated=replace(good.generated, digest="2"))
    for candidate, reason in (
        ((of(X + 9, "2", "fid"),), "no such number"),
        ((replace(of(X + 9, "2"), protocol_hash="other"),), "protocol_hash h and other"),
        ((broken,), "not a finite number"),
        ((of(X[:300] + 9, "2"),), "num_samples 400 and 300"),
    ):
        found = judge(known, *candidate)
        assert found.exit_code == 4 and found.word == "not comparable"
        assert reason in found.text(), found.text()
        jsonschema.validate(reporters.as_dict(found), SCHEMA)
    few = judge(known, of(X + 9, "2"), given=ruled(0.5, min_n=500))
    assert few.exit_code == 4 and "fewer than the 500" in few.text()
    absent = judge(known, of(X + 9, "2"), given=Rules(metrics={"recall": Rule()}))
    assert absent.exit_code == 4 and "the baseline has no recall" in absent.text()


def test_what_no_candidate_could_pass_is_told_before_one_is_looked_at(tmp_path: Path) -> None:
    write(base_of(of(X, "1")), tmp_path / "b.safetensors")
    for rule in ({"recall": Rule()}, {"swd": Rule(min_n=N + 1)}):
        found = genbench.gate("no such folder", baseline=tmp_path / "b.safetensors", rules=Rules(metrics=rule))
        assert found.exit_code == 4 and not found.problem and found.candidate is None
        jsonschema.validate(reporters.as_dict(found), SCHEMA)
        assert 'errors="1"' in reporters.junit_xml(found)
    noisy = base_of(of(X, "1"), noise={of(X, "1").measurement: {"threads": 0.5}})
    write(noisy, tmp_path / "b.safetensors")
    with pytest.raises(UsageError, match="noise floor"):
        genbench.gate("no such folder", baseline=tmp_path / "b.safetensors", margins={"swd": 0.4})


def test_a_margin_below_the_noise_floor_is_refused_and_is_the_default_one() -> None:
    good = of(X, "1")
    known = base_of(good, noise={good.measurement: {"batch size": 0.01, "seeds": -0.3}})
    with pytest.raises(UsageError, match=r"below its noise floor.*0\.3"):
        judge(known, of(X + NOISE, "2"), given=ruled(0.2), paired=False)
    with pytest.raises(UsageError, match=r"below its noise floor.*0\.01"):
        judge(known, of(X + NOISE, "2"), given=ruled(0.005))
    assert judge(known, of(X + NOISE, "2"), given=ruled(0.2)).verdicts[0].margin == 0.2, "seeds are the same in pairs"
    (verdict,) = judge(known, of(X + NOISE, "2"), paired=False).verdicts
    assert verdict.margin == pytest.approx(0.3)
    (verdict,) = judge(base_of(good), of(X + NOISE, "2")).verdicts
    assert verdict.margin == pytest.approx(0.01 * X.mean())


def test_limits_are_held_against_the_end_of_the_interval() -> None:
    low, high = of(X, "1").score.ci95 or (0, 0)
    known = base_of(of(X, "1"))
    for limit, word in ((low - 0.01, "regressed"), (X.mean(), "inconclusive"), (high + 0.01, "pass")):
        (verdict,) = judge(known, of(X, "1"), given=ruled(0.5, max=float(limit))).verdicts
        assert verdict.word == word
    (verdict,) = judge(known, of(X, "1"), given=ruled(0.5, min=float(high + 0.01))).verdicts
    assert verdict.word == "regressed" and "below the limit" in verdict.reason


def test_margins() -> None:
    assert Margin.parse("5%").of(-20) == 1.0 and Margin.parse("0.5").of(20) == 0.5 and Margin.parse(0).of(1) == 0
    for wrong in ("", "x", "-1", "nan", "inf", "5 percent", True, None, [1]):
        with pytest.raises(UsageError, match="A margin is"):
            Margin.parse(wrong)
    for wrong in ("fid", "=1", "fid=", "fid=1=x"):
        with pytest.raises(UsageError):
            rules.with_margins(Rules(), [wrong])
    with pytest.raises(UsageError, match="twice"):
        rules.with_margins(Rules(), ["fid=1", "fid=2"])
    found = rules.with_margins(Rules(), ["precision(k=5)@compact=2%"])
    assert found.metrics["precision(k=5)@compact"].margin == Margin(value=0.02, relative=True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("alhpa = 0.05", "Did you mean 'alpha'"),
        ("[metrics.fid]\nmargn = 1", "Did you mean 'margin'"),
        ("[metrics.fid]\nmargin = 1\nmargin = 2", "no TOML"),
        ("[metrics.fid]\nmargin = true", "A margin is"),
        ("[metrics.fid]\ngating = 1", "true or false"),
        ("[metrics.fid]\nmin_n = 1.5", "whole number"),
        ('[metrics.fid]\ndirection = "up"', "lower or higher"),
        ('inconclusive = "ignore"', "warn or fail"),
        ("alpha = 0", "alpha"),
        ('alpha = "0.05"', "is a number"),
        ("metrics = 3", "is a table"),
        ('[metrics."fid("]\nmargin = 1', "Cannot read"),
        ("[metrics.fid]\nmax = nan", "is a number"),
        ("[metrics.fid]\nmin = 2\nmax = 1\n", "min of .* lies below max"),
    ],
)
def test_rules_with_mistakes_are_refused(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=told):
        rules.of_file(path)


def test_rules_are_read_from_both_files(tmp_path: Path) -> None:
    text = 'alpha = 0.01\n[metrics.fid]\nmargin = "5%"\nmin_n = 7\nmax = 3\n'
    (tmp_path / "gate.toml").write_text(text)
    own = rules.of_file(tmp_path / "gate.toml")
    assert own.alpha == 0.01 and own.metrics["fid"] == Rule(margin=Margin.parse("5%"), min_n=7, max=3.0)
    assert rules.found_in(tmp_path) == own
    (tmp_path / "gate.toml").unlink()
    assert rules.found_in(tmp_path) == Rules()
    nested = text.replace("[metrics", "[tool.genbench.gate.metrics").replace("alpha", "[tool.genbench.gate]\nalpha", 1)
    (tmp_path / "pyproject.toml").write_text(nested)
    assert replace(rules.found_in(tmp_path), origin="") == replace(own, origin="")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert rules.found_in(tmp_path) == Rules()


def test_reports_tell_the_same_verdicts() -> None:
    metrics = ["swd(seed=0)", "swd(seed=1)", "swd(seed=2)", "swd(seed=3)"]
    known = base_of(*(of(X, "1", m) for m in metrics))
    worse = (1.0, 0.0, 0.5)
    candidates = [of(X + w + NOISE, "2", m) for w, m in zip(worse, metrics, strict=False)]
    table = {m: Rule(margin=Margin(value=0.5)) for m in metrics}
    found = judge(known, *candidates, given=Rules(metrics=table))
    assert [v.word for v in found.verdicts] == ["regressed", "pass", "inconclusive", "not comparable"]
    root = ElementTree.fromstring(reporters.junit_xml(found).split("\n", 1)[1])
    cases = root.findall(".//testcase")
    tags = [next((c.tag for c in case if c.tag != "properties"), None) for case in cases]
    assert tags == ["failure", None, "skipped", "error"]
    suite = root.find("testsuite")
    assert suite is not None
    assert [suite.get(n) for n in ("tests", "failures", "errors", "skipped")] == ["4", "1", "1", "1"]
    gauges = dict(line.rsplit(" ", 1) for line in reporters.metrics_text(found).splitlines() if line[0] != "#")
    assert [gauges[f'genbench_verdict{{metric="{v.name}"}}'] for v in found.verdicts] == ["2", "0", "1", "3"]
    assert gauges["genbench_exit_code"] == "4" == str(found.exit_code)
    said: list[str] = []
    reporters.tell_github(found, said.append)
    assert [line.split(" ")[0] for line in said] == ["::error", "::error", "::warning"]
    for text in (found.text(), summary(found), str(reporters.as_dict(found)), reporters.junit_xml(found)):
        assert "They do not cover another training" in " ".join(text.split())


def test_a_gate_without_a_verdict_is_an_error_in_every_report() -> None:
    found = Gate(baseline="b", problem="no baseline: \x1b[31m 100% of\nit\ud800")
    assert found.exit_code == 4 and not found
    jsonschema.validate(reporters.as_dict(found), SCHEMA)
    root = ElementTree.fromstring(reporters.junit_xml(found).split("\n", 1)[1])
    assert root.find(".//error") is not None
    said: list[str] = []
    reporters.tell_github(found, said.append)
    assert len(said) == 1 and "\n" not in said[0] and "100%25 of%0Ait" in said[0] and "\x1b" not in said[0]
    assert "genbench_exit_code 4" in reporters.metrics_text(found)


def test_hostile_names_stay_text_in_a_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert escaped("<img src=x>|a::b [x](y) `c`\n") == r"&lt;img src=x&gt;\|a::b \[x\]\(y\) \`c\`\\n"
    path = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    found = Gate(baseline="<script>", problem="<script>alert(1)</script>|")
    reporters.tell_github(found, lambda line: None)
    reporters.tell_github(found, lambda line: None)
    told = path.read_text()
    assert told.count("## genbench gate") == 2 and "<script>" not in told


def test_a_broken_baseline_is_a_problem_with_exit_code_4(tmp_path: Path) -> None:
    good = base_of(of(X, "1"))
    path = tmp_path / "b.safetensors"
    write(good, path)
    candidate = good
    assert genbench.gate(candidate, baseline=path, rules=Rules()).exit_code == 0
    content = path.read_bytes()
    for broken in (b"", b"x", content[:-1], content[:200] + b"9" + content[201:], content[:-1] + b"\x00" + b"\x01"):
        path.write_bytes(broken)
        found = genbench.gate(candidate, baseline=path, rules=Rules())
        assert found.exit_code == 4 and "no baseline that can be read" in found.problem
    path.unlink()
    assert "There is no baseline" in genbench.gate(candidate, baseline=path, rules=Rules()).problem


def test_arguments_that_exclude_each_other() -> None:
    good = base_of(of(X, "1"))
    with pytest.raises(UsageError, match="give one of them"):
        genbench.gate(good, baseline=good, model="ddim", rules=Rules())
    with pytest.raises(UsageError, match="max_n"):
        genbench.gate(baseline=good, max_n=10, rules=Rules())
    with pytest.raises(UsageError, match="give a candidate"):
        genbench.gate(baseline=good, rules=Rules())
