"""Cards of the weights that are shipped: what a file is, how it was made and what it measured."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import torch


def write_card(
    weights: Path,
    *,
    summary: str,
    command: str,
    data: dict[str, Any],
    seconds: float | None,
    measured: dict[str, Any],
    licence: str = "Apache-2.0",
    **more: Any,
) -> None:
    """Writes NAME.json beside NAME.safetensors."""
    content = weights.read_bytes()
    card = {
        "name": weights.stem,
        "summary": summary,
        "file": weights.name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "licence": licence,
        "command": command,
        "data": data,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": f"{torch.get_num_threads()} threads of {platform.processor() or platform.machine()}, "
        f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'}",
        "torch": torch.__version__,
        "seconds": None if seconds is None else round(seconds),
        "measured": measured,
        **more,
    }
    weights.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
