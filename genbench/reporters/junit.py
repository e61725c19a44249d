"""The verdicts of a gate as JUnit XML: a test case a metric."""

from __future__ import annotations

from xml.etree import ElementTree

from genbench.comparison import COVERS
from genbench.errors import shown
from genbench.gating import Gate, Verdict


def junit_xml(gate: Gate) -> str:
    """A regression is a failure; what could not be compared is an error; what is advisory, or inconclusive where that
    does not fail, is skipped with its reason."""
    suite = ElementTree.Element("testsuite", name="genbench gate")
    counts = {"failures": 0, "errors": 0, "skipped": 0}
    for verdict in gate.verdicts:
        counts_as = _case(suite, verdict)
        if counts_as:
            counts[counts_as] += 1
    if gate.problem or not gate.verdicts:
        case = ElementTree.SubElement(suite, "testcase", classname="genbench.gate", name="baseline")
        problem = gate.problem or "nothing was compared"
        ElementTree.SubElement(case, "error", message=_clean(problem)).text = _clean(problem)
        counts["errors"] += 1
    suite.set("tests", str(len(suite)))
    for name, count in counts.items():
        suite.set(name, str(count))
    ElementTree.SubElement(suite, "system-out").text = "\n".join(_clean(line) for line in gate.text().splitlines())
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, verdict: Verdict) -> str | None:
    """Adds a metric; returns what it counts as."""
    case = ElementTree.SubElement(suite, "testcase", classname="genbench.gate", name=_clean(verdict.name))
    properties = ElementTree.SubElement(case, "properties")
    told = {
        "verdict": verdict.word,
        "label": verdict.label,
        "margin": verdict.margin,
        "covers": COVERS,
        "baseline": verdict.base and verdict.base.score.value,
        "candidate": verdict.candidate and verdict.candidate.score.value,
        "difference": verdict.difference and verdict.difference.value,
        "stderr": verdict.difference and verdict.difference.stderr,
        "num_samples": verdict.candidate and verdict.candidate.generated.count,
        "protocol_hash": verdict.base and verdict.base.protocol_hash,
    }
    for name, value in told.items():
        if value is not None and value != "":
            ElementTree.SubElement(properties, "property", name=name, value=_clean(str(value)))
    message = _clean(sentence(verdict))
    if not verdict.gating:
        ElementTree.SubElement(case, "skipped", message=f"advisory: {message}")
        return "skipped"
    if verdict.word == "pass":
        return None
    if verdict.word == "inconclusive" and not verdict.strict:
        ElementTree.SubElement(case, "skipped", message=message)
        return "skipped"
    tag = "failure" if verdict.word == "regressed" else "error"
    ElementTree.SubElement(case, tag, message=message).text = message
    return f"{tag}s"


def sentence(verdict: Verdict) -> str:
    """A verdict in a line."""
    parts = [f"{verdict.name} {verdict.word}" + (f" ({verdict.label})" if verdict.label else "")]
    if verdict.base is not None and verdict.candidate is not None:
        parts.append(f"{verdict.base.score.value:.5g} -> {verdict.candidate.score.value:.5g}")
    if verdict.worsening is not None and verdict.margin is not None:
        worse = verdict.worsening
        parts.append(f"worse by {worse.value:.3g} ({worse.low:.3g} to {worse.high:.3g}), margin {verdict.margin:.3g}")
    if verdict.deciding_count is not None:
        parts.append(f"about {verdict.deciding_count} images a side would decide")
    if verdict.reason:
        parts.append(verdict.reason)
    return ", ".join(parts)


def _clean(text: str) -> str:
    """Without what XML 1.0 cannot hold, which `shown` writes as escapes."""
    return "".join(c if c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "?" for c in shown(text))
