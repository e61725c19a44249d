"""Results for the model card of the Hugging Face Hub: `model-index` in the head of a README.md, and a table.

Source of the form: huggingface/hub-docs, `modelcard.md`, read and written by `huggingface_hub.ModelCard`.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genbench.errors import InputRejected, shown
from genbench.exports.summary import Summary, args_of, markdown
from genbench.files import atomic_write
from genbench.records import Ref, Result, finite
from genbench.report import measured

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

_log = logging.getLogger(__name__)
_BEGIN, _END = "<!-- genbench -->", "<!-- /genbench -->"


def write(summary: Summary, place: str | None, *, project: str, name: str, step: int) -> str:
    """Writes the results into a card. Of one that is there, everything else stays as it is.

    Raises:
        InputRejected: a file whose head is no YAML of a card.
    """
    import yaml
    from huggingface_hub import ModelCard, ModelCardData

    path = Path(place or "model-card.md")
    found = [result_of(result, label, summary) for label, result in _finite(summary)]
    text = f"{_BEGIN}\n{body(summary)}\n{_END}"
    if path.exists():
        try:
            card = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=False)
        except (yaml.YAMLError, ValueError, OSError, TypeError, AttributeError, KeyError) as error:
            told = " ".join(str(error).split())[:300]
            raise InputRejected(f"{shown(path)} is no model card that can be read ({shown(told)}); mend it.") from error
        data: Any = card.data
        kept = [one for one in data.eval_results or () if not any(_same(one, other) for other in found)]
        data.eval_results = [*kept, *found]
        data.model_name = data.model_name or name
        old = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
        told = card.text
        told = old.sub(lambda _: text, told, count=1) if old.search(told) else f"{told.rstrip()}\n\n{text}\n"
        card.text = told
    else:
        data = ModelCardData(model_name=name, eval_results=found, tags=["genbench"])
        card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")
    atomic_write(path, str(card).encode())
    return str(path)


def result_of(result: Result, label: str, summary: Summary) -> EvalResult:
    """A result as an entry of `model-index`. What makes it comparable stands among the arguments of the metric."""
    from huggingface_hub import EvalResult

    spec, score = result.spec, result.score
    dataset = str(spec.dataset.brief()) if spec else result.reference.name if result.reference else "none"
    told: dict[str, Any] = {
        **args_of(result),
        "stderr": finite(score.stderr), "ci95": list(score.ci95) if score.ci95 else None,
        "error_method": score.error_method, "floor": finite(result.floor.value) if result.floor else None,
        "num_samples": result.generated.count, "num_reference": result.reference and result.reference.count,
        "protocol": result.protocol, "protocol_hash": result.protocol_hash,
        # The arguments of a metric have names such as seed, too.
        "sampled_model": str(spec.model) if spec else None, "sampled_seed": spec.seed if spec else None,
        "genbench": result.environment.get("genbench"),
    }  # fmt: skip
    return EvalResult(
        task_type="text-to-image" if summary.captions else "unconditional-image-generation",
        dataset_type=Ref.parse(dataset).name if spec else dataset,
        dataset_name=dataset,
        metric_type=measured(result).split("@")[0],
        metric_name=label,
        metric_value=score.value,
        metric_args={name: value for name, value in told.items() if value is not None},
    )


def body(summary: Summary) -> str:
    """The part of the card that people read."""
    first, command = summary.results[0], summary.command()
    lines = ["## Evaluation", "", markdown(summary), ""]
    lines.append(f"{first.generated.count} images, protocol {first.protocol} ({first.protocol_hash}).")
    if command:
        fence = "`" * max(3, max((len(run) + 1 for run in re.findall("`+", command)), default=0))
        lines += ["", f"{fence}sh", shown(command), fence]
    return "\n".join(lines)


def _finite(summary: Summary) -> list[tuple[str, Result]]:
    pairs = list(zip(summary.labels, summary.results, strict=True))
    for label, result in pairs:
        if finite(result.score.value) is None:
            _log.warning("%s has no finite value and is left out.", shown(label))
    return [(label, result) for label, result in pairs if finite(result.score.value) is not None]


def _same(one: EvalResult, other: EvalResult) -> bool:
    """Whether an entry is of the same measurement of the same run."""
    names = ("protocol_hash", "sampled_model", "sampled_seed")
    theirs, ours = one.metric_args or {}, other.metric_args or {}
    alike = all(theirs.get(name) == ours.get(name) for name in names) if isinstance(theirs, dict) else False
    return alike and one.metric_type == other.metric_type and one.dataset_name == other.dataset_name
