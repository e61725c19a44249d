"""The Python interface: what it exports, how it is typed, and what its records refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import genbench
from genbench.errors import GenbenchError, UsageError


def spec(**changes: Any) -> genbench.RunSpec:
    given: dict[str, Any] = {"model": genbench.Ref("ddim"), "dataset": genbench.Ref("shapes"), "num_samples": 8}
    return genbench.RunSpec(**(given | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_samples": 0}, {"num_samples": -1}, {"num_samples": 1.5}, {"num_samples": True}, {"num_samples": "8"},
        {"seed": -1}, {"seed": 0.5}, {"seed": None}, {"precision": "float64"}, {"precision": "fp16"},
        {"precision": "half"}, {"quantise": "floor"}, {"exact": 1}, {"exact": "yes"},
    ],
    ids=str,
)  # fmt: skip
def test_a_spec_refuses_what_no_run_could_mean(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(UsageError, match=name):
        spec(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "gpu"}, {"device": ""}, {"device": "cuda:-1"}, {"device": "cpu:3"}, {"device": None},
        {"device": "cuda:1\n"}, {"batch_size": 0}, {"batch_size": -3}, {"batch_size": 2.0}, {"workers": -1},
        {"workers": True}, {"extractor_precision": "float64"},
    ],
    ids=str,
)  # fmt: skip
def test_an_execution_refuses_what_it_cannot_do(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(UsageError, match=name):
        genbench.Execution(**changes)


def test_an_execution_takes_paths_as_texts() -> None:
    how = genbench.Execution(weights={"compact": "w.pt"}, data_dir="data")  # type: ignore[dict-item, arg-type]
    assert how.weights == {"compact": Path("w.pt")} and how.data_dir == Path("data")


def test_a_model_that_cannot_be_compiled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be compiled; leave --compile out"):
        genbench.run("diffusers(repo='none')", output=tmp_path, compile=True)


def test_every_public_name_is_there_and_is_listed() -> None:
    assert set(genbench.__all__) <= set(dir(genbench))
    for name in genbench.__all__:
        assert getattr(genbench, name) is not None
    for error in ("UsageError", "NotComparable", "InputRejected", "MissingAsset", "OutOfResources", "ComponentError"):
        assert issubclass(getattr(genbench, error), GenbenchError)
    name = "nonsense"
    with pytest.raises(AttributeError, match=name):
        getattr(genbench, name)


def test_both_packages_say_that_they_are_typed(root: Path) -> None:
    assert (root / "genbench" / "py.typed").exists() and (root / "baselines" / "py.typed").exists()


TYPED = """
import genbench
from baselines.files import catalogue
from baselines.systems import ddim
from genbench.contracts import Model, PresetLike
from genbench.weights import Published
model: Model = ddim.load(dataset="shapes", device="cpu", precision="float32")
preset: PresetLike = ddim.PRESETS["shapes"]
card: Published = catalogue.files()["ddpm-ema-cifar10"]
good: tuple[genbench.Result, ...] = genbench.score("a", "b", metrics="fid", device="cpu").results
genbench.score(3)
genbench.score("a", "b", nonsense=1)
genbench.run("ddim", num_samples="8")
genbench.nothing
"""


@pytest.mark.slow
def test_a_type_checker_sees_the_interface(tmp_path: Path, root: Path) -> None:
    (tmp_path / "user.py").write_text(TYPED)
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "user.py")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    told = [line for line in done.stdout.splitlines() if "user.py:" in line and "error:" in line]
    lines = [int(line.split("user.py:")[1].split(":")[0]) for line in told]
    assert lines == [11, 12, 13, 14], done.stdout


"""Lines that must be refused; the ones before them must not."""
