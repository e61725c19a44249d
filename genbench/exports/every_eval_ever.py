"""Results for Every Eval Ever, the EvalEval coalition's archive of evaluations: a JSON file a run.

Source of the form: evaleval/every_eval_ever, `eval.schema.json` of version 0.3.0. Files lie in
data/COLLECTION/DEVELOPER/MODEL/UUID.json.
"""

from __future__ import annotations

import logging
import math
import re
import time
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

from genbench import registry, report
from genbench.errors import GenbenchError, shown
from genbench.exports.summary import Summary, args_of, texts
from genbench.files import atomic_write
from genbench.records import Ref, Result, digest, finite

_log = logging.getLogger(__name__)
VERSION = "0.3.0"


def write(summary: Summary, place: str | None, *, project: str, name: str, step: int) -> str:
    """Writes the file of a run. Its name follows from the results, so that writing them again replaces it.

    Args:
        place: the folder `data` of a checkout of the archive.
        project: the collection.
        name: DEVELOPER/MODEL as on the Hugging Face Hub; without a slash the developer is "unknown".
    """
    told = document(summary, project=project, name=name)
    developer, model = _named(name)
    # Version 4 is a random one by its bits alone, which the archive asks for.
    number = uuid.UUID(digest([summary.id, sorted(result.id for result in summary.results)], 32), version=4)
    path = Path(place or "data") / _slug(project) / developer / model / f"{number}.json"
    atomic_write(path, (report.dumps(told) + "\n").encode())
    return str(path)


def document(summary: Summary, *, project: str, name: str) -> dict[str, Any]:
    """The content of the file. Numbers that are not finite, and metrics of which neither end is better, have no place
    in the schema; they are left out with a warning."""
    first = summary.results[0]
    developer, model = _named(name)
    environment = first.environment
    results = []
    for key, label, result in zip(summary.keys, summary.labels, summary.results, strict=True):
        if finite(result.score.value) is None or result.higher_is_better is None:
            why = "no finite value" if finite(result.score.value) is None else "no better end"
            _log.warning("%s has %s and is left out.", shown(label), why)
            continue
        results.append(_result(key, label, result, summary))
    now = time.time()
    return {
        "schema_version": VERSION,
        "evaluation_id": f"{_slug(project)}/{developer}/{model}/{now}",
        "evaluation_timestamp": str(_seconds(first.created)),
        "retrieved_timestamp": str(now),
        "source_metadata": {
            "source_name": project,
            "source_type": "evaluation_run",
            "source_organization_name": developer,
            "evaluator_relationship": "other",
        },
        "eval_library": {"name": "genbench", "version": str(environment.get("genbench", "unknown"))},
        "model_info": {
            "name": summary.name,
            "id": f"{developer}/{model}",
            "developer": developer,
            "inference_engine": {"name": "genbench", "version": str(environment.get("genbench", "unknown"))},
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                **texts({"model_key": environment.get("model_key"), "evaluations": environment.get("evaluations")}),
            },
        },
        "evaluation_results": results,
    }


def _result(key: str, label: str, result: Result, summary: Summary) -> dict[str, Any]:
    spec, score = result.spec, result.score
    low, high = _bounds(result)
    dataset = str(spec.dataset) if spec else result.reference.name if result.reference else "none"
    uncertainty: dict[str, Any] = {}
    if finite(score.stderr) is not None:
        uncertainty["standard_error"] = {"value": score.stderr} | texts({"method": score.error_method})
    if score.ci95 is not None and all(map(math.isfinite, score.ci95)):
        ends = {"lower": score.ci95[0], "upper": score.ci95[1], "confidence_level": 0.95}
        uncertainty["confidence_interval"] = ends | texts({"method": score.error_method})
    if uncertainty and result.generated.count:
        uncertainty["num_samples"] = result.generated.count
    floor = {"floor": result.floor.value, "floor_stderr": result.floor.stderr} if result.floor else {}
    arguments = {"execution_command": summary.command()} if spec else {}
    return {
        "evaluation_result_id": result.id,
        "evaluation_name": f"{label} on {dataset}",
        "evaluation_timestamp": str(_seconds(result.created)),
        "source_data": {
            "dataset_name": dataset,
            "source_type": "other",
            "additional_details": texts({
                "reference": result.reference and result.reference.name,
                "num_reference": result.reference and result.reference.count,
            }),
        },
        "metric_config": {
            "metric_id": f"genbench.{key}",
            "metric_name": label,
            "metric_kind": Ref.parse(result.metric).name,
            "metric_parameters": args_of(result),
            "lower_is_better": not result.higher_is_better,
            "score_type": "continuous",
            "min_score": low,
            "max_score": high,
            "additional_details": texts({
                "measurement": result.measurement,
                "metric_version": result.metric_version,
                "protocol": result.protocol,
                "protocol_hash": result.protocol_hash,
            }),
        },
        "score_details": {
            "score": score.value,
            "details": texts({**floor, **score.detail}),
            "uncertainty": uncertainty,
        },
        "generation_config": {
            "generation_args": arguments,
            "additional_details": texts(summary.settings()),
        },
    }  # fmt: skip


def _bounds(result: Result) -> tuple[float | str | None, float | str | None]:
    """The range of a metric that is registered here, in the words of the schema; unknown of another."""
    name = Ref.parse(result.metric).name
    if ":" in name:
        return None, None
    try:
        low, high = registry.get("metric", name).bounds
    except GenbenchError:
        return None, None
    return _number(low), _number(high)


def _number(bound: float) -> float | str:
    return float(bound) if math.isfinite(bound) else "Infinity" if bound > 0 else "-Infinity"


def _named(name: str) -> tuple[str, str]:
    """Developer and model as folders."""
    developer, _, model = name.rpartition("/")
    return _slug(developer or "unknown"), _slug(model)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.\-_=,]+", "_", text).strip("._")[:120] or "unknown"


def _seconds(created: str) -> float:
    """Seconds since 1970 of a time of ISO 8601; 0 of something else."""
    try:
        return datetime.fromisoformat(created).timestamp()
    except ValueError:
        return 0.0
