"""The verdicts of a gate as JSON; `schemas/gate.schema.json` describes it."""

from __future__ import annotations

from typing import Any

from genbench import comparison
from genbench.comparison import COVERS
from genbench.gating import Gate, Verdict
from genbench.records import finite

SCHEMA = "genbench.gate/1"


def as_dict(gate: Gate) -> dict[str, Any]:
    """Texts, numbers, lists and dicts alone; what is not a finite number is null."""
    return {
        "schema": SCHEMA,
        "verdict": gate.word,
        "exit_code": gate.exit_code,
        "covers": COVERS,
        "baseline": gate.baseline,
        "base": comparison.side_as_dict(gate.base) if gate.base else None,
        "candidate": comparison.side_as_dict(gate.candidate) if gate.candidate else None,
        "paired": gate.in_pairs,
        "why": gate.why,
        "problem": gate.problem or None,
        "num_samples": gate.count,
        "looks": [{"num_samples": count, "alpha": alpha} for count, alpha in gate.looks],
        "confirmation": list(gate.confirmation),
        "notes": list(gate.notes),
        "metrics": [_verdict(verdict) for verdict in gate.verdicts],
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    found, worse = verdict.difference, verdict.worsening
    low, high = (found.ci95 if found else None) or (None, None)
    return {
        "metric": verdict.name,
        "verdict": verdict.word,
        "label": verdict.label or None,
        "gating": verdict.gating,
        "measurement": verdict.base.measurement if verdict.base else None,
        "protocol_hash": verdict.base.protocol_hash if verdict.base else None,
        "baseline": finite(verdict.base.score.value) if verdict.base else None,
        "candidate": finite(verdict.candidate.score.value) if verdict.candidate else None,
        "difference": finite(found.value) if found else None,
        "stderr": finite(found.stderr) if found else None,
        "ci95": None if low is None else [finite(low), finite(high)],
        "method": found.method if found else None,
        "worse_by": finite(worse.value) if worse else None,
        "worse_by_at_least": finite(worse.low) if worse else None,
        "worse_by_at_most": finite(worse.high) if worse else None,
        "margin": finite(verdict.margin),
        "alpha": verdict.alpha,
        "p_regressed": finite(verdict.p_regressed),
        "num_samples_to_decide": verdict.deciding_count,
        "reason": verdict.reason or None,
    }
