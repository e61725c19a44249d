"""Whether a candidate is worse than a baseline by more than is tolerated: verdicts that exclude each other.

With W how much worse the candidate is, and delta the margin of a metric:

    regressed       W > delta is shown, with Holm's correction over the metrics that gate
    pass            W < delta is shown (non-inferiority)
    inconclusive    neither is. The number of images that would decide is told
    not comparable  there is no W: another protocol, reference or number of images, no number, or none that is finite

Source of the two one-sided statements against a margin: Schuirmann 1987, "A comparison of the two one-sided tests
procedure and the power approach". The text, all reports and the exit code are made from `Gate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genbench import baseline as baselines
from genbench import comparison, differences, display, identities, pipeline, protocols, rules, sides
from genbench.baseline import Baseline
from genbench.comparison import COVERS
from genbench.differences import Difference, Worsening
from genbench.errors import InputRejected, MissingAsset, NotComparable, UsageError, shown
from genbench.measuring import Execution
from genbench.records import Measurement, Ref, Result, RunSpec
from genbench.rules import DEFAULT_SHARE, Margin, Rule, Rules
from genbench.sides import Measured, Wanted

if TYPE_CHECKING:
    from genbench.requests import Source
    from genbench.sides import Given

Word = Literal["regressed", "pass", "inconclusive", "not comparable"]
REGRESSED = 3
"""Exit code of a gate that found a regression."""
ROUNDING = 1e-6
"""Share of a value below which two are the same number, computed in another order."""
LOOKS = ((0.25, 0.2), (0.5, 0.3), (1.0, 0.5))
"""Of an escalation: share of all images, and share of alpha that the look may spend, so that all looks together are
wrong with alpha at most (Bonferroni)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is said of one metric.

    Attributes:
        name: such as "fid@compact".
        label: of a pass: "improved", "unchanged", "worse within the margin", or empty.
        gating: whether it decides on the exit code.
        base, candidate: None where there is none.
        margin: in the units of the metric.
        alpha: of each of the two one-sided statements.
        p_regressed: adjusted for the number of metrics that gate.
        upwards: whether more is better, None where neither direction is.
        reason: further words.
        strict: whether "inconclusive" fails.
    """

    name: str
    word: Word
    label: str = ""
    gating: bool = True
    base: Result | None = None
    candidate: Result | None = None
    difference: Difference | None = None
    worsening: Worsening | None = None
    margin: float | None = None
    alpha: float = differences.ALPHA
    p_regressed: float | None = None
    upwards: bool | None = None
    reason: str = ""
    strict: bool = False

    @property
    def deciding_count(self) -> int | None:
        """Images with which an inconclusive verdict would be decided, the present difference being the true one."""
        return self.worsening.deciding_count if self.word == "inconclusive" and self.worsening else None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Gate:
    """The verdicts of a candidate against a baseline.

    Attributes:
        baseline: name of the file.
        base, candidate: None where they could not be opened.
        in_pairs, why: see `genbench.comparison.Pair`.
        count: images a side of the last look.
        looks: images of every look, and the alpha that it spent.
        confirmation: what a disjoint block of seeds said of "regressed", in sentences.
        problem: why there is no verdict at all, empty where there are some.
        notes: further sentences.
    """

    baseline: str
    base: Measured | None = None
    candidate: Measured | None = None
    in_pairs: bool = False
    why: str = ""
    verdicts: tuple[Verdict, ...] = ()
    count: int | None = None
    looks: tuple[tuple[int, float], ...] = ()
    confirmation: tuple[str, ...] = ()
    problem: str = ""
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """4 where a metric that gates is not comparable, or inconclusive and may not be; else 3 for a regression;
        else 0."""
        gating = [verdict for verdict in self.verdicts if verdict.gating]
        if self.problem or not gating or any(verdict.word == "not comparable" for verdict in gating):
            return NotComparable.exit_code
        if any(verdict.word == "regressed" for verdict in gating):
            return REGRESSED
        if any(verdict.word == "inconclusive" and verdict.strict for verdict in gating):
            return NotComparable.exit_code
        return 0

    @property
    def word(self) -> str:
        """The verdict of the whole gate."""
        words = [verdict.word for verdict in self.verdicts if verdict.gating]
        if self.problem or not words:
            return "not comparable"
        return next(word for word in ("not comparable", "regressed", "inconclusive", "pass") if word in words)

    def __bool__(self) -> bool:
        """Whether the exit code is 0, so that a test may say `assert genbench.gate(...)`."""
        return self.exit_code == 0

    def sentences(self) -> list[str]:
        """Everything beside the table, for people."""
        found = [self.problem] if self.problem else []
        if self.why:
            found.append(f"{'In pairs' if self.in_pairs else 'Not in pairs'}: {self.why}")
        for verdict in self.verdicts:
            if verdict.deciding_count is not None:
                found.append(f"{verdict.name} would be decided by about {verdict.deciding_count:,} images a side.")
            if verdict.reason:
                found.append(f"{verdict.name}: {verdict.reason}")
        if len(self.looks) > 1:
            found.append("Looks: " + ", ".join(f"{n} images (alpha {alpha:.3g})" for n, alpha in self.looks) + ".")
        return [*found, *self.confirmation, *self.notes, COVERS]

    def text(self, width: int = 120) -> str:
        """The table that a person reads, and the verdict at its end."""
        parts = [display.wrapped(line, width, indent=11) for line in self._sides()]
        if self.verdicts:
            parts += ["", display.columns([_HEADER, *map(cells, self.verdicts)], width=width)]
        parts += ["", *(display.wrapped(shown(line), width, indent=2) for line in self.sentences())]
        parts += ["", f"{self.word.upper()} (exit code {self.exit_code})"]
        return "\n".join(parts)

    def _sides(self) -> list[str]:
        """What is held against what, a line each."""
        sides_ = [f"baseline   {comparison.told(self.base) if self.base else self.baseline}"]
        if self.candidate is not None and self.candidate.results:
            sides_.append(f"candidate  {comparison.told(self.candidate)}")
        return list(map(shown, sides_))

    def _repr_html_(self) -> str:
        """The table of the command line and the verdict, for notebooks."""
        told = [f"{self.word.upper()} (exit code {self.exit_code})", *self._sides(), *map(shown, self.sentences())]
        return display.html_table([_HEADER, *map(cells, self.verdicts)], told)

    def __repr__(self) -> str:
        return f"<Gate: {self.word}, exit code {self.exit_code}>\n{self.text()}"


_HEADER = ("metric", "baseline", "candidate", "difference", "worse by at least, at most", "margin", "verdict")


def cells(verdict: Verdict) -> tuple[str, ...]:
    """A verdict as the cells of a table."""
    values = [comparison.with_error(side) if side else "" for side in (verdict.base, verdict.candidate)]
    found, worse = verdict.difference, verdict.worsening
    between = ""
    if worse is not None and found is not None and found.below is not None:
        ends = [comparison.signed(end, found.stderr) for end in (worse.low, worse.high)]
        between = f"{ends[0]}, {ends[1]}"
    word = verdict.word + (f": {verdict.label}" if verdict.label else "") + ("" if verdict.gating else " (advisory)")
    difference = comparison.signed(found.value, found.stderr) if found else ""
    margin = "" if verdict.margin is None else f"{verdict.margin:.3g}"
    return (shown(verdict.name), *values, difference, between, margin, word)


def gate(
    candidate: Given | None = None,
    *,
    baseline: str | Path | Baseline,
    model: str | None = None,
    rules: Rules | str | Path | None = None,
    margins: Mapping[str, float | str] | None = None,
    reference: Source | None = None,
    paired: bool | None = None,
    escalate: bool = False,
    max_n: int | None = None,
    output: str | Path = "runs",
    allow_code: bool = False,
    execution: Execution | None = None,
) -> Gate:
    """Holds a candidate against a baseline, as `genbench gate` does.

    Args:
        candidate: see `genbench.compare`; None samples a model.
        baseline: the file, see `genbench.accept`.
        model: reference text of the model to sample with everything else as the baseline was; None is the baseline's
            own, by the code of today.
        rules: of `genbench.rules`, or the path of a gate.toml or pyproject.toml; None looks for them in the working
            folder.
        margins: metric to margin, such as {"fid": 0.5} or {"fid": "5%"}. They take the place of those of the rules.
        reference: of images, None for the data set of the baseline.
        paired: see `genbench.compare`.
        escalate: whether to look at a quarter of the images first, then at half, then at all, and to stop when it is
            decided; for models.
        max_n: most images a side of an escalation, None for all of the baseline.
        output: directory of runs of a model.

    Returns:
        A `Gate`, true where its exit code is 0. What could not be compared is in it, as `problem` or as a verdict.

    Raises:
        UsageError: rules with mistakes, a margin below the noise floor, or arguments that exclude each other.
    """
    execution = execution or Execution()
    given = _rules(rules, margins)
    if candidate is not None and (model is not None or escalate):
        what = "a model" if model is not None else "an escalation, which samples a model"
        raise UsageError(f"A candidate and {what} were given; give one of them.")
    if max_n is not None and not escalate:
        raise UsageError("max_n is the end of an escalation; ask for one (--escalate).")
    name = baseline.name if isinstance(baseline, Baseline) else str(baseline)
    base: Measured | None = None
    try:
        known = baseline if isinstance(baseline, Baseline) else baselines.read(Path(baseline), allow_code=allow_code)
        base = replace(sides.of_baseline(known), name=name)
        refused = _refused(base, given, known, paired)
        if refused is not None:
            return refused
        if candidate is not None:
            wanted = Wanted(reference=reference).like(base)
            other = sides.opened(candidate, wanted, execution=execution, allow_code=allow_code)
            return judged(base, other, given, known, paired=paired)
        sampler = _Sampler(known, base, model, reference, Path(output), execution)
        return _sampled(sampler, given, paired, _counts(known, max_n) if escalate else ())
    except (NotComparable, InputRejected, MissingAsset) as error:
        return Gate(baseline=name, base=base, problem=str(error))


def _refused(base: Measured, given: Rules, known: Baseline, paired: bool | None) -> Gate | None:
    """What no candidate could pass, found before one is sampled or measured: metrics that the baseline lacks, or has of
    too few images.

    Raises:
        UsageError: a margin below the noise floor, or a metric that gates and has no direction.
    """
    found = judged(base, base, given, known, paired=paired)
    never = tuple(replace(v, candidate=None) for v in found.verdicts if v.gating and v.word == "not comparable")
    return Gate(baseline=base.name, base=base, verdicts=never) if never else None


def _rules(given: Rules | str | Path | None, margins: Mapping[str, float | str] | None) -> Rules:
    found = (
        rules.found_in(Path()) if given is None else given if isinstance(given, Rules) else rules.of_file(Path(given))
    )
    return rules.with_margins(found, [f"{name}={value}" for name, value in (margins or {}).items()])


def judged(
    base: Measured,
    candidate: Measured,
    given: Rules,
    known: Baseline,
    *,
    paired: bool | None = None,
    share: float = 1.0,
) -> Gate:
    """The verdicts on results that are there.

    Args:
        known: whose noise floor margins are held against.
        share: of alpha that may be spent here.

    Raises:
        UsageError: a margin below the noise floor, or a metric that gates and has no direction.
    """
    in_pairs, why = comparison.belong_together(base, candidate, paired)
    verdicts: list[Verdict] = []
    names = display.labels(base.results)
    for result, name in zip(base.results, names, strict=True):
        key, rule = _rule_of(result, given)
        gating = rule.gating if key else not given.metrics
        verdicts.append(
            _prepared(name, result, candidate, rule, gating, given, known, in_pairs, named=bool(key), share=share)
        )
    for key, rule in given.metrics.items():
        if not any(sides.is_of(result, key) for result in base.results):
            reason = f"the baseline has no {key}; it has {', '.join(names)}."
            verdicts.append(Verdict(name=key, word="not comparable", gating=rule.gating, reason=reason))
    verdicts = [_decided(verdict, _rule_named(verdict, given)) for verdict in _adjusted(verdicts)]
    counts = [result.generated.count for result in candidate.results if result.generated.count]
    count = max(counts, default=None)
    return Gate(
        baseline=base.name,
        base=base,
        candidate=candidate,
        in_pairs=in_pairs,
        why=why,
        verdicts=tuple(verdicts),
        count=count,
        looks=((count, given.alpha * share),) if count else (),
    )


def _rule_of(result: Result, given: Rules) -> tuple[str, Rule]:
    """The rule of a result, the one that says most where several are of it; and its key, empty for none."""
    keys = [key for key in given.metrics if sides.is_of(result, key)]
    key = max(keys, key=len, default="")
    return key, given.metrics[key] if key else Rule()


def _rule_named(verdict: Verdict, given: Rules) -> Rule:
    return _rule_of(verdict.base, given)[1] if verdict.base is not None else Rule()


def _prepared(
    name: str,
    result: Result,
    candidate: Measured,
    rule: Rule,
    gating: bool,
    given: Rules,
    known: Baseline,
    in_pairs: bool,
    *,
    named: bool,
    share: float,
) -> Verdict:
    """The worsening of one metric, before it is said what it means."""
    strict = (rule.inconclusive or given.inconclusive) == "fail"
    up = {None: result.higher_is_better, "higher": True, "lower": False}[rule.direction]
    if up is None and named and gating:
        raise UsageError(
            f"Of {name} neither direction is better; say direction = 'lower' or 'higher', or gating = false."
        )
    gating = gating and up is not None
    blank = Verdict(name=name, word="not comparable", gating=gating, base=result, strict=strict, upwards=up)
    other = comparison.counterpart(result, candidate.results)
    if other is None:
        return replace(blank, reason="the candidate has no such number.")
    blank = replace(blank, candidate=other)
    row = comparison.row_of(name, result, other, in_pairs)
    if row.difference is None:
        return replace(blank, reason=f"measured in two ways (baseline and candidate): {'; '.join(row.unlike)}.")
    count = other.generated.count or 0
    if count < rule.min_n:
        return replace(blank, reason=f"{count} images are fewer than the {rule.min_n} that are asked for (min_n).")
    margin = _margin(name, rule, result, known, in_pairs)
    alpha = given.alpha * share
    if up is None:
        return replace(blank, word="inconclusive", difference=row.difference, reason="neither direction is better.")
    worse = differences.worsening(row.difference, margin=margin, higher_is_better=up, count=count, alpha=alpha)
    return replace(
        blank,
        word="inconclusive",
        difference=row.difference,
        worsening=worse,
        margin=margin,
        alpha=alpha,
        p_regressed=worse.p_regressed,
    )


def _margin(name: str, rule: Rule, result: Result, known: Baseline, in_pairs: bool) -> float:
    floor = known.floor_of_noise(result.measurement, in_pairs=in_pairs)
    if rule.margin is None:
        return max(Margin(value=DEFAULT_SHARE, relative=True).of(result.score.value), floor or 0.0)
    margin = rule.margin.of(result.score.value)
    if floor is not None and margin < floor:
        raise UsageError(
            f"The margin of {name}, {margin:.4g}, is below its noise floor: what changes nothing changes it by "
            f"{floor:.4g} (`genbench baseline show`). Give a larger one."
        )
    return margin


def _adjusted(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """With Holm's p-values over the metrics that gate. Those of advisory ones stay their own."""
    raw = {str(i): v.p_regressed for i, v in enumerate(verdicts) if v.gating and v.p_regressed is not None}
    found = differences.holm(raw)
    return [replace(v, p_regressed=found.get(str(i), v.p_regressed)) for i, v in enumerate(verdicts)]


def _decided(verdict: Verdict, rule: Rule) -> Verdict:
    """What the worsening means, and what the limits of the value say."""
    worse, found, p_regressed = verdict.worsening, verdict.difference, verdict.p_regressed
    if worse is None or found is None or p_regressed is None:
        return verdict
    if found.method == "identical" or _is_rounding(verdict):
        verdict = replace(verdict, word="pass", label="unchanged")
    elif p_regressed < verdict.alpha:
        verdict = replace(verdict, word="regressed")
    elif worse.p_tolerable < verdict.alpha:
        label = "improved" if worse.high < 0 else "worse within the margin" if worse.low > 0 else ""
        verdict = replace(verdict, word="pass", label=label)
    elif found.method.startswith("none: "):
        verdict = replace(verdict, reason=f"there is no error, {found.method.removeprefix('none: ')}.")
    return _limited(verdict, rule)


def _is_rounding(verdict: Verdict) -> bool:
    """Whether value and blocks of both sides are the same up to rounding, as those of another batch size."""
    assert verdict.base is not None and verdict.candidate is not None
    ours, theirs = verdict.base.score, verdict.candidate.score
    if ours.blocks is None or theirs.blocks is None or ours.blocks.sizes != theirs.blocks.sizes:
        return False
    pairs = [(ours.value, theirs.value), *zip(ours.blocks.left_out, theirs.blocks.left_out, strict=True)]
    blocks_differ = len(set(ours.blocks.left_out)) > 1  # blocks that know nothing cannot vouch for anything
    return blocks_differ and all(math.isclose(a, b, rel_tol=ROUNDING) for a, b in pairs)


def _limited(verdict: Verdict, rule: Rule) -> Verdict:
    """Limits of the value itself, held against the ends of its 95 % interval."""
    if rule.min is None and rule.max is None:
        return verdict
    assert verdict.candidate is not None
    ends = verdict.candidate.score.ci95
    for limit, sign, word in ((rule.max, 1, "above the limit"), (rule.min, -1, "below the limit")):
        if limit is None:
            continue
        if ends is None:
            return replace(verdict, word="not comparable", label="", reason="its value has no interval for the limit.")
        near, far = (ends[0], ends[1]) if sign == 1 else (-ends[1], -ends[0])
        told = f"interval [{ends[0]:.4g}, {ends[1]:.4g}], limit {limit:.4g}."
        if near > sign * limit:
            return replace(verdict, word="regressed", label="", reason=f"the value is {word}: {told}")
        if far > sign * limit and verdict.word == "pass":
            verdict = replace(verdict, word="inconclusive", label="", reason=f"the value may be {word}: {told}")
    return verdict


def _counts(known: Baseline, max_n: int | None) -> tuple[int, ...]:
    """Images of the looks of an escalation."""
    there = known.samples.count
    if max_n is not None and (type(max_n) is not int or not 1 < max_n <= there):
        raise UsageError(
            f"max_n lies in 2..{there}, the images of the baseline; got {max_n}. For more, accept a run of more images."
        )
    total = max_n or there
    return tuple(dict.fromkeys(math.ceil(total * share) for share, _ in LOOKS))


class _Sampler:
    """Samples the candidate as the baseline was sampled, and measures both alike."""

    def __init__(
        self,
        known: Baseline,
        base: Measured,
        model: str | None,
        reference: Source | None,
        output: Path,
        execution: Execution,
    ) -> None:
        if known.spec is None:
            raise UsageError(f"{shown(known.name)} is of images that no run made; give a candidate.")
        ref = Ref.parse(model) if model is not None else known.spec.model
        self.spec: RunSpec = replace(known.spec, model=ref)
        self.known, self.base, self.reference = known, base, reference
        # Images of earlier code say nothing of the code of today, whose versions need not have changed.
        self.output, self.execution = output, replace(execution, fresh=True)
        self.protocol = protocols.protocol(known.results[0].protocol)
        self.wanted = [Measurement.parse(result.measurement) for result in known.results]

    def candidate(self, count: int, seed: int) -> Measured:
        spec = replace(self.spec, num_samples=count, seed=seed)
        outcome = pipeline.run(spec, self.wanted, protocol=self.protocol, output=self.output, execution=self.execution)
        return sides.opened(outcome, Wanted(), execution=self.execution, allow_code=True)

    def of_baseline(self, count: int) -> Measured:
        """The first images of the baseline, measured from its features."""
        if count == self.known.samples.count:
            return self.base
        samples, kept = self.known.samples.subset(0, count), self.known.evidence(count)
        results = sides.measured_from(
            samples,
            kept,
            map(str, self.wanted),
            reference=self.reference if self.reference is not None else str(self.spec.dataset),
            protocol=self.protocol.name,
            execution=self.execution,
        )
        asked = identities.asked(self.spec.seed, samples) if self.base.asked is not None else None
        return Measured(name=self.base.name, results=results, samples=samples, asked=asked, kept=kept)


def _sampled(sampler: _Sampler, given: Rules, paired: bool | None, counts: tuple[int, ...]) -> Gate:
    """One look at all images, or up to three at more and more."""
    shares = [share for _, share in LOOKS[-len(counts) :]] if counts else [1.0]
    spent: list[tuple[int, float]] = []
    fewest = max((rule.min_n for rule in given.metrics.values()), default=rules.FEWEST)
    for count, share in zip(counts or (sampler.known.samples.count,), shares, strict=True):
        if count < fewest and count != (counts or (count,))[-1]:
            continue
        base, candidate = sampler.of_baseline(count), sampler.candidate(count, sampler.spec.seed)
        found = judged(base, candidate, given, sampler.known, paired=paired, share=share)
        spent.append((count, given.alpha * share))
        gating = [verdict for verdict in found.verdicts if verdict.gating]
        if any(v.word == "regressed" for v in gating) or all(v.word != "inconclusive" for v in gating):
            break
    return _confirmed(replace(found, looks=tuple(spent)), sampler, count)


def _confirmed(found: Gate, sampler: _Sampler, count: int) -> Gate:
    """The gate, its regressions looked at again in images of other seeds.

    A regression is withdrawn, and inconclusive, where those images contradict it: where they show that the worsening is
    less than the least that the first ones showed. They are not in pairs with the baseline, and see less.
    """
    if not any(verdict.word == "regressed" and verdict.worsening for verdict in found.verdicts):
        return found
    assert found.base is not None
    other = sampler.candidate(count, sampler.spec.seed + 1)
    verdicts, told = [], []
    for verdict in found.verdicts:
        again = comparison.counterpart(verdict.base, other.results) if verdict.base else None
        if verdict.word != "regressed" or again is None or verdict.worsening is None or verdict.margin is None:
            verdicts.append(verdict)
            continue
        assert verdict.base is not None
        difference = differences.unpaired(verdict.base.score, again.score)
        worse = differences.worsening(
            difference, margin=verdict.margin, higher_is_better=bool(verdict.upwards), count=count, alpha=verdict.alpha
        )
        seen = f"{verdict.name} of {count} images of seed {sampler.spec.seed + 1}, not in pairs, is worse by "
        seen += f"{comparison.signed(worse.value, difference.stderr)}"
        if math.isfinite(worse.low):
            ends = [comparison.signed(end, difference.stderr) for end in (worse.low, worse.high)]
            seen += f" (at least {ends[0]}, at most {ends[1]})"
        if worse.high < verdict.worsening.low:
            verdicts.append(replace(verdict, word="inconclusive", reason="images of other seeds contradict it."))
            told.append(f"Not confirmed: {seen}.")
        else:
            verdicts.append(verdict)
            told.append(f"Not contradicted: {seen}." if worse.p_regressed >= verdict.alpha else f"Confirmed: {seen}.")
    return replace(found, verdicts=tuple(verdicts), confirmation=tuple(told))


def names(found: Iterable[Verdict], word: Word) -> list[str]:
    """Metrics that gate and have a verdict."""
    return [verdict.name for verdict in found if verdict.gating and verdict.word == word]
