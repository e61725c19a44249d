"""Signs of life: a bar a stage on a terminal and in a notebook, a line every half minute elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, TextIO

from genbench.errors import shown

INTERVAL = 30.0
"""Seconds between two lines where there is no terminal."""


class Bars:
    """A `genbench.measuring.Watch` that shows what it is told.

    Args:
        stream: to write to, usually stderr; None, a stream that is closed and the like show nothing.
        interval: seconds between lines where the stream is no terminal, None for `INTERVAL`.

    On a terminal and in a notebook, each stage has a bar, which is removed when the stage ends. `close` ends the last
    one. A table must not be printed before.
    """

    def __init__(self, stream: TextIO | None, *, interval: float | None = None) -> None:
        self._stream, self._interval = stream, INTERVAL if interval is None else interval
        self._stage, self._bar = "", None
        self._told = time.monotonic()
        self._drawn = _is_drawn(stream)

    def __call__(self, stage: str, done: float, total: float) -> None:
        self._tell(stage, int(done), int(total), "images")

    def bytes(self, done: int, total: int | None) -> None:
        """Shows a download: bytes so far, and in all if that is known."""
        self._tell("download", done >> 20, (total or 0) >> 20, "MiB")

    def _tell(self, stage: str, done: int, total: int, unit: str) -> None:
        if self._stream is None:
            return
        if self._drawn:
            self._draw(stage, done, total, unit)
        elif time.monotonic() - self._told >= self._interval:
            self._told = time.monotonic()
            share = f" {done} of {total} {unit}" if total else ""
            self._line(f"{shown(stage)}{share}")

    def _draw(self, stage: str, done: int, total: int, unit: str) -> None:
        from tqdm.auto import tqdm

        if stage != self._stage:
            self.close()
            self._stage = stage
            # A stage whose length nobody knows is a name alone, for a counter of it would say nothing.
            layout = None if total else "{desc}"
            self._bar = tqdm(
                total=total or None,
                desc=shown(stage),
                unit=f" {unit}",
                file=self._stream,
                leave=False,
                bar_format=layout,
                dynamic_ncols=True,
            )
        bar: Any = self._bar
        if bar is not None and total:
            bar.update(done - bar.n)

    def _line(self, text: str) -> None:
        try:
            print(text, file=self._stream, flush=True)
        except (OSError, ValueError):  # the stream was closed meanwhile
            self._stream = None

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()
        self._stage, self._bar = "", None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, where: TracebackType | None) -> None:
        self.close()


def _is_drawn(stream: TextIO | None) -> bool:
    try:
        return stream is not None and (stream.isatty() or _in_notebook())
    except (ValueError, AttributeError):
        return False


def _in_notebook() -> bool:
    import sys

    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"
