"""Results for TensorBoard: scalars, the picture, and what was run as text and hyperparameters."""

from __future__ import annotations

import re
from pathlib import Path

from genbench.exports.summary import Summary, markdown


def write(summary: Summary, place: str | None, *, project: str, name: str, step: int) -> str:
    """Writes an event file to a folder of its own below `place`, in which earlier ones of this run are replaced."""
    import numpy as np
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    folder = Path(place or ".") / f"{_folder(name)}-{summary.id}"
    for earlier in folder.glob("events.out.tfevents.*"):
        earlier.unlink()
    numbers = summary.numbers()
    with SummaryWriter(log_dir=str(folder)) as writer:
        for key, value in numbers.items():
            writer.add_scalar(key, value, step)
        writer.add_text("results", markdown(summary), step)
        for key, text in (summary.facts() | {"command": summary.command()}).items():
            writer.add_text(key, f"    {text}", step)  # indented: shown as it is
        for path in summary.files():
            if path.suffix == ".png":
                with Image.open(path) as picture:
                    writer.add_image(path.stem, np.array(picture.convert("RGB")), step, dataformats="HWC")
            elif path.name == "result.json":
                text = path.read_text(encoding="utf-8")
                writer.add_text(path.name, "\n".join(f"    {line}" for line in text.splitlines()), step)
        for part in hparams(dict(summary.settings()), numbers):  # `add_hparams` would write every scalar twice
            writer._get_file_writer().add_summary(part)
    return f"{folder}/"


def _folder(name: str) -> str:
    """A name as a folder, of letters, digits, dots and dashes."""
    return re.sub(r"[^A-Za-z0-9.\-]+", "_", name).strip("._-")[:60] or "run"
