"""A small run with a model, data and a cache of its own, and commands that fail where a test says."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Ask = Callable[[list[dict[str, Any]]], list[int]]
"""Hands commands that run at the same time to the process that forks them, and gets their exit codes."""

MODEL = """
import os
import time
import torch

class Model:
    shape, takes, classes, evaluations, key = (3, 8, 8), frozenset(["labels"]), 4, 1, "v1"

    def sample(self, seeds, *, labels=None, watch=None, **conditions):
        from genbench import ranks
        time.sleep(float(os.environ.get("TEST_WAIT", "0")))
        what, _, whose = os.environ.get("TEST_MISBEHAVES", "").partition(" ")
        if what and int(whose) == ranks.rank():
            if what == "killed":
                os.kill(os.getpid(), 9)
            if what == "memory":
                torch.empty(1 << 50, dtype=torch.uint8)
            raise RuntimeError("the model is tired")
        x = [torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(int(s % 2**62))) for s in seeds]
        return torch.stack(x) * 2 - 1

def load(*, dataset, device, precision):
    return Model()
"""

DATA = """
import numpy as np
from genbench.arrays import Samples
from genbench.contracts import Dataset

def load(split):
    pixels = np.random.default_rng(len(split)).integers(0, 256, (640, 3, 8, 8), dtype=np.uint8)
    return Samples.of(pixels, labels=np.arange(640) % 4, classes=("a", "b", "c", "d"))

DATA = Dataset(name="data", summary="test", source="test", load=load, splits={"reference": "real", "held_out": "held"})
"""

COUNT = 600
"""Images of the run: two whole shards and a part of one."""
MODEL_AND_DATA = ["--model", "mymodel:load", "--dataset", "mydata:DATA", "-n", str(COUNT), "--batch-size", "50"]
METRICS = ["fid", "kid", "precision", "recall", "coverage", "fid-per-class"]
MEASURED = [word for name in METRICS for word in ("--metric", f"{name}@pixels(side=2)")]
RUN = ["run", *MODEL_AND_DATA, *MEASURED]
SAMPLE = ["sample", *MODEL_AND_DATA]


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(eq=False)
class Numbers:
    """Everything that a run gave and that no fault may change: its images, and its results without times.

    Images are compared by the bit, and floats to nine digits: linear algebra may differ in the last ones by where in
    memory its arrays lie.
    """

    images: list[str]
    results: dict[str, Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Numbers) and self.images == other.images and alike(self.results, other.results)


def alike(one: Any, other: Any) -> bool:
    """Whether plain data agrees."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


@dataclass
class Place:
    """A folder with a model, data, runs and a cache."""

    path: Path
    ask: Ask
    requests: int = field(default=0)

    def together(self, *commands: dict[str, Any]) -> list[Ended]:
        """Commands at the same time: `words`, and what `command` says beside."""
        full = []
        for one in commands:
            self.requests += 1
            made = {"cwd": str(self.path), "env": {}, "limits": {}, "faults": [], **one}
            made["env"] = {"GENBENCH_CACHE": str(self.path / "cache"), **made["env"]}
            full.append(made | {name: str(self.path / f"{name}-{self.requests}") for name in ("out", "err")})
        codes = self.ask(full)
        return [
            Ended(code, *(Path(one[name]).read_text() for name in ("out", "err")))
            for code, one in zip(codes, full, strict=True)
        ]

    def command(self, *words: str, **more: Any) -> Ended:
        """One command.

        Args:
            more: `env`, `limits` of `resource`, and `faults`, see `zygote.install`.
        """
        return self.together({"words": list(words), **more})[0]

    def ranks(self, count: int, *words: str, env: dict[str, str] | None = None, **more: Any) -> list[Ended]:
        """A command as so many processes, told of each other as torchrun does."""
        told = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
        told["MASTER_PORT"] = str(free_port())
        each = [{**told, "RANK": str(r), "LOCAL_RANK": str(r), **(env or {})} for r in range(count)]
        return self.together(*({"words": list(words), "env": one, **more} for one in each))

    @property
    def directory(self) -> Path:
        (found,) = [path for path in (self.path / "runs").iterdir() if path.is_dir()]
        return found

    def numbers(self) -> Numbers:
        told = json.loads((self.directory / "result.json").read_text())["results"]
        names = ("value", "stderr", "ci95", "detail", "blocks", "floor", "floor_stderr", "generated", "protocol_hash")
        results = {one["metric_text"]: {name: one[name] for name in names} for one in told}
        rows = (self.directory / "row.csv").read_text().splitlines()[1:]
        assert len(rows) == len(results), "row.csv holds what result.json does"
        images = sorted(self.directory.glob("samples/[0-9]*.npy"))
        return Numbers([hashlib.sha256(path.read_bytes()).hexdigest() for path in images], results)

    def litter(self) -> list[Path]:
        """Temporary files that are left."""
        return [*self.path.rglob("*.tmp"), *self.path.rglob("*.parts")]


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def said_in_words(ended: Ended, code: int | Sequence[int]) -> bool:
    """Whether a command ended with this exit code and an error in words, not as a traceback."""
    codes = [code] if isinstance(code, int) else code
    return ended.code in codes and "Traceback" not in ended.err and "genbench: " in ended.err


def made_in(path: Path, ask: Ask) -> Place:
    (path / "mymodel.py").write_text(MODEL)
    (path / "mydata.py").write_text(DATA)
    return Place(path, ask)
