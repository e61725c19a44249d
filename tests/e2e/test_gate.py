"""Baselines and the gate from the command line, and the lines of docs/gate.md as they stand there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from genbench import cli
from genbench.baseline import read, write
from genbench.images import open_images


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, session_cache: Path) -> Path:
    """A small run with a baseline beside it, for all tests of this file."""
    folder = tmp_path_factory.mktemp("gate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENBENCH_CACHE", str(session_cache))
        patch.chdir(folder)
        told = ["--metric", "fid", "--metric", "kid", "--metric", "is"]
        assert cli.main(["run", "--model", "ddim(steps=4)", "-n", "120", *told, "-o", "runs"]) == 0
        (made,) = (folder / "runs").iterdir()
        accepted = [
            "baseline",
            "accept",
            str(made),
            "-o",
            "b.safetensors",
            "--reason",
            "first",
            "--precision",
            "float16",
        ]
        assert cli.main(accepted) == 0
    return folder


def gate(*args: str) -> tuple[int, dict]:
    code = cli.main(["gate", *args, "--json", "out.json", "-o", "runs2"])
    return code, json.loads(Path("out.json").read_text())


def test_the_same_model_passes_and_fewer_steps_are_a_regression(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    code, told = gate("--baseline", "b.safetensors", "--batch-size", "7")
    assert code == 0 and told["paired"] and told["verdict"] == "pass"
    # Another size of batches may change a pixel by a level, which is more than rounding of the numbers.
    assert {metric["label"] or "" for metric in told["metrics"]} <= {"unchanged", ""}
    code, told = gate("--baseline", "b.safetensors", "--model", "ddim(steps=2)", "--margin", "fid=5%")
    assert code == 3 and told["verdict"] == "regressed" and told["confirmation"][0].startswith("Confirmed: fid")
    code, told = gate("--baseline", "b.safetensors", "--model", "ddim(steps=2)", "--margin", "fid=5%", "--escalate")
    assert code == 3 and told["looks"] == [{"num_samples": 120, "alpha": 0.05 * 0.5}], "30 and 60 are fewer than min_n"


def test_a_baseline_holds_what_it_was_made_of(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    known = read(Path("b.safetensors"))
    assert {kept.tap: kept.values.dtype.name for kept in known.features} == {"pooled": "float16", "logits": "float16"}
    assert set(known.shifts) == {result.measurement for result in known.results}
    assert 0 < max(abs(shift) for shift in known.shifts.values()) < 0.05
    assert [entry.reason for entry in known.history] == ["first"]
    write(known, Path("copy.safetensors"))
    made = next(Path("runs").iterdir())
    assert cli.main(["baseline", "accept", str(made), "-o", "copy.safetensors", "--reason", "second"]) == 0
    assert [entry.reason for entry in read(Path("copy.safetensors")).history] == ["first", "second"]
    # A metric that nobody had asked for is measured from the features.
    assert cli.main(["compare", "b.safetensors", str(made), "--metric", "swd"]) == 0


def test_what_cannot_be_compared_ends_with_4(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    made = str(next(Path("runs").iterdir()))
    assert cli.main(["gate", made, "--baseline", "missing.safetensors", "--junit", "j.xml"]) == 4
    assert "<error" in Path("j.xml").read_text()
    code, told = gate("shapes(split='test', count=120)", "--baseline", "b.safetensors", "--reference", "digits")
    assert code == 4 and told["verdict"] == "not comparable"
    data = json.loads((Path(made) / "result.json").read_text())
    data["results"][0]["value"] = None
    Path("nan.json").write_text(json.dumps(data))
    assert gate("nan.json", "--baseline", "b.safetensors")[0] == 4
    data["results"][0]["spec"]["model"] = "os:getcwd"
    Path("hostile.json").write_text(json.dumps(data))
    assert cli.main(["gate", "hostile.json", "--baseline", "b.safetensors"]) == 2
    assert "--allow-code" in capsys.readouterr().err
    assert cli.main(["gate", made, "--baseline", "b.safetensors", "--margin", "fd=1"]) == 4


def test_what_moved_is_drawn_where_images_are_in_pairs(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    made = str(next(Path("runs").iterdir()))
    assert cli.main(["baseline", "accept", made, "-o", "i.safetensors", "--reason", "first", "--images"]) == 0
    kept = read(Path("i.safetensors"))
    pixels = open_images(made).read(0, 120)
    assert (kept.samples.read(0, 120) == pixels).all() and (kept.samples.subset(5, 9).read(1, 2) == pixels[6:7]).all()
    other = ["--model", "ddim(steps=2)", "--margin", "fid=5%"]
    sizes = []
    for known in ("b.safetensors", "i.safetensors"):
        assert gate("--baseline", known, *other, "--picture", "moved.png")[0] == 3
        with Image.open("moved.png") as picture:
            sizes.append(picture.size)
    assert sizes[0] != sizes[1], "a baseline without images has none to show"
    assert cli.main(["run", "--model", "ddim(steps=2)", "-n", "120", "--metric", "fid", "-o", "fewer"]) == 0
    (fewer,) = Path("fewer").iterdir()
    assert cli.main(["compare", made, str(fewer), "--picture", "pair.png"]) == 0 and Path("pair.png").exists()
    capsys.readouterr()
    assert cli.main(["compare", made, str(fewer), "--unpaired", "--picture", "none.png"]) == 0
    assert "There is no picture none.png" in capsys.readouterr().err and not Path("none.png").exists()
    assert cli.main(["compare", made, str(fewer), made, "--picture", "x.png"]) == 2
    # An image that is not the one of its digest is a baseline that is damaged.
    kept.pixels[3, 0, 0, 0] ^= 1
    write(kept, Path("damaged.safetensors"))
    assert gate(made, "--baseline", "damaged.safetensors", "--picture", "x.png")[0] == 4


def test_calibration_is_kept_and_refuses_small_margins(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    known = read(Path("b.safetensors"))
    write(known, Path("c.safetensors"))
    only = ["--only", "seeds", "--only", "batch size"]
    assert cli.main(["baseline", "calibrate", "c.safetensors", *only, "-o", "cal"]) == 0
    noise = read(Path("c.safetensors")).noise
    fid = next(found for name, found in noise.items() if name.startswith("fid"))
    assert abs(fid["batch size"]) < 0.05 < abs(fid["seeds"])
    made = str(next(Path("runs").iterdir()))
    small = [made, "--baseline", "c.safetensors", "--margin", f"fid={abs(fid['seeds']) / 2}"]
    assert cli.main(["gate", *small]) == 0, "both sides have the same seeds"
    assert cli.main(["gate", *small, "--unpaired"]) == 2


FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def shell_lines(root: Path) -> list[str]:
    """Every line of shell of docs/gate.md: of sh, of `run:` steps and of `script:` lists."""
    found: list[str] = []
    for kind, text in FENCE.findall((root / "docs" / "gate.md").read_text(encoding="utf-8")):
        if kind == "sh":
            found.append(text)
        elif kind == "yaml":
            told = yaml.safe_load(text)
            jobs = told["jobs"].values() if "jobs" in told else [told["gate"]]
            for job in jobs:
                found += [step["run"] for step in job.get("steps", []) if "run" in step]
                found += job.get("script", [])
    return [line for line in found if not line.startswith("pip ")]


@pytest.mark.slow
def test_the_documented_lines_do_what_they_say(root: Path, tmp_path: Path, clean_environment: dict[str, str]) -> None:
    lines = [line.replace("-n 1000", "-n 100").replace("steps=10", "steps=2") for line in shell_lines(root)]
    assert sum("genbench gate" in line for line in lines) == 5 and sum("baseline" in line for line in lines) > 5
    script = f'set -e\ngenbench() {{ "{sys.executable}" -m genbench "$@"; }}\n' + "\n".join(lines)
    summary = tmp_path / "summary.md"
    environment = {**clean_environment, "GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("PASS (exit code 0)") == 5
    for name in ("gate.xml", "gate.json", "gate.txt", "metrics.txt", "summary.md", "moved.png"):
        assert (tmp_path / name).stat().st_size > 100, name


@pytest.mark.slow
@pytest.mark.parametrize("worse", [False, True])
def test_the_action_of_this_repository_fails_where_the_gate_does(
    worse: bool, root: Path, run: Path, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    action = yaml.safe_load((root / "action.yml").read_text(encoding="utf-8"))
    inputs = {name: told["default"] for name, told in action["inputs"].items()}
    inputs |= {"margins": "fid=5%\nis=5%\n", "baseline": "a base.safetensors", "report": "my report"}
    # A model of somebody's pull request is one argument, whatever is in it.
    inputs["model"] = "ddim(steps=2)" if worse else "ddim(steps=4)"
    inputs["rules"] = "$(touch broken).toml"
    (tmp_path / inputs["rules"]).write_text("alpha = 0.05\n")
    (tmp_path / inputs["baseline"]).write_bytes((run / "b.safetensors").read_bytes())
    install, step = action["runs"]["steps"]
    assert "GITHUB_ACTION_PATH" in install["run"] and all(one["shell"] == "bash" for one in (install, step))
    given = {name: inputs[text.removeprefix("${{ inputs.").removesuffix(" }}")] for name, text in step["env"].items()}
    assert len(given) == len(action["inputs"]) - 1, "all but install"
    shim = f'genbench() {{ "{sys.executable}" -m genbench "$@"; }}\npython() {{ "{sys.executable}" "$@"; }}\n'
    environment = {**clean_environment, **given, "GITHUB_OUTPUT": str(tmp_path / "output")}
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", shim + step["run"]],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == (3 if worse else 0), done.stderr[-2000:]
    assert (tmp_path / "output").read_text() == f"verdict={'regressed' if worse else 'pass'}\n"
    assert {path.name for path in (tmp_path / "my report").iterdir()} == {"gate.json", "gate.xml", "moved.png"}
    assert not (tmp_path / "broken").exists()
    assert action["outputs"]["verdict"]["value"] == "${{ steps.gate.outputs.verdict }}" and step["id"] == "gate"


def test_the_documented_workflow_gives_the_action_inputs_that_it_has(root: Path) -> None:
    action = yaml.safe_load((root / "action.yml").read_text(encoding="utf-8"))
    text = (root / "docs" / "gate.md").read_text(encoding="utf-8")
    used = [
        step
        for kind, fence in FENCE.findall(text)
        if kind == "yaml"
        for job in yaml.safe_load(fence).get("jobs", {}).values()
        for step in job["steps"]
        if "/genbench@" in step.get("uses", "")
    ]
    assert len(used) == 1 and used[0]["with"].keys() <= action["inputs"].keys()
    assert all(f"`{name}`" in text for name in action["inputs"])


def test_the_documented_test_and_rules_work(root: Path, run: Path, tmp_path: Path) -> None:
    fences = dict(FENCE.findall((root / "docs" / "gate.md").read_text(encoding="utf-8")))
    (tmp_path / "gate.toml").write_text(fences["toml"])
    from genbench import rules

    assert set(rules.found_in(tmp_path).metrics) == {"fid", "precision(k=3)@compact"}
    (tmp_path / "baseline.safetensors").write_bytes((run / "b.safetensors").read_bytes())
    (tmp_path / "gate.toml").unlink()
    here = Path.cwd()
    scope: dict = {}
    exec(fences["python"], scope)
    os.chdir(tmp_path)
    try:
        scope["test_samples_are_no_worse"]()
    finally:
        os.chdir(here)
