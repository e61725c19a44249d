"""A plug-in as its author would ship it: built, installed, and used through the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = Path(__file__).resolve().parents[2]
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(root / "tests" / "plugin", source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, capture_output=True)
    return target


def genbench(installed: Path, root: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(installed)])}
    return subprocess.run(
        [sys.executable, "-m", "genbench", *words],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_plug_in_is_listed_and_runs(installed: Path, root: Path, tmp_path: Path) -> None:
    listed = json.loads(genbench(installed, root, "list", "--format", "json", cwd=tmp_path).stdout)
    assert listed["metrics"]["brightness"].endswith("(plug-in genbench-brightness 1.2.3)")
    assert "grey" in listed["models"] and "flat" in listed["datasets"] and "mean-colour" in listed["extractors"]
    done = genbench(
        installed,
        root,
        "run",
        "--model",
        "grey(level=0.0)",
        "--dataset",
        "flat(value=100)",
        "--metric",
        "brightness(weight=2)",
        "--metric",
        "fid@mean-colour",
        "--format",
        "json",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert [r["value"] for r in results] == [pytest.approx(56.0), pytest.approx(3 * 28**2)]
    assert results[0]["floor"] == 0.0


def test_a_name_that_exists_is_passed_over_with_both_origins(installed: Path, root: Path, tmp_path: Path) -> None:
    entries = next(installed.glob("*.dist-info")) / "entry_points.txt"
    text = entries.read_text()
    entries.write_text(text.replace("brightness = ", "fid = "))
    try:
        done = genbench(installed, root, "list", "--format", "json", cwd=tmp_path)
    finally:
        entries.write_text(text)
    assert done.returncode == 0 and json.loads(done.stdout)["metrics"]["fid"].startswith("Frechet")
    assert "brightness_plugin:BRIGHTNESS" in done.stderr and "genbench.metrics.frechet:FID" in done.stderr
