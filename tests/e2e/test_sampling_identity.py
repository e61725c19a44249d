"""The same run gives the same images: after a kill, for every batch size, for every process that makes it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from genbench import measuring, pipeline
from genbench.records import Ref, RunSpec

pytestmark = pytest.mark.slow


SYSTEMS = [
    "ddpm(steps=3)", "ddim(steps=3)", "cfg(steps=2, scale=2.0)", "adm-g(steps=2, scale=2.0)", "ldm(steps=3, scale=2.0)",
]  # fmt: skip


def sampled(output: Path, *, batch_size: int, exact: bool, count: int = 70, model: str = "ddim(steps=8)") -> np.ndarray:
    spec = RunSpec(model=Ref.parse(model), dataset=Ref("shapes"), num_samples=count, exact=exact)
    samples, _, _ = pipeline.sample(
        spec, output=output, execution=measuring.Execution(device="cpu", batch_size=batch_size)
    )
    return samples.read(0, count)


def test_batch_size_changes_at_most_one_level_in_one_pixel_of_ten_thousand(tmp_path: Path) -> None:
    sets = [sampled(tmp_path / str(size), batch_size=size, exact=False).astype(int) for size in (1, 7, 64)]
    for other in sets[1:]:
        difference = np.abs(sets[0] - other)
        assert difference.max() <= 1
        assert (difference > 0).sum() <= difference.size / 10_000


@pytest.mark.parametrize("model", SYSTEMS)
def test_exact_images_are_bit_identical_for_every_batch_size_and_process(
    model: str, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    sets = [sampled(tmp_path / str(size), batch_size=size, exact=True, count=33, model=model) for size in (1, 3, 32)]
    assert np.array_equal(sets[0], sets[1]) and np.array_equal(sets[0], sets[2])
    other = [sys.executable, "-m", "genbench", "sample", "--model", model, "-n", "33", "--exact", "--device", "cpu"]
    subprocess.run([*other, "--npz", "a.npz", "-o", "other"], cwd=tmp_path, env=clean_environment, check=True)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as made:
        assert np.array_equal(made["arr_0"].transpose(0, 3, 1, 2), sets[0])


@pytest.mark.parametrize("model", SYSTEMS)
def test_image_i_does_not_depend_on_how_many_there_are(model: str, tmp_path: Path) -> None:
    few = sampled(tmp_path / "few", batch_size=64, exact=True, count=10, model=model)
    many = sampled(tmp_path / "many", batch_size=64, exact=True, count=70, model=model)
    assert np.array_equal(few, many[:10])


def test_a_killed_run_ends_with_the_same_bytes_and_numbers(tmp_path: Path, clean_environment: dict[str, str]) -> None:
    def command(output: str) -> list[str]:
        run = ["run", "--model", "ddim(steps=2)", "-n", "520", "--metric", "fid", "--format", "json", "--device", "cpu"]
        return [sys.executable, "-m", "genbench", *run, "--output", output]

    def start(output: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command(output),
            cwd=tmp_path,
            env=clean_environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    victim = start("killed")
    for _ in range(1200):
        if list((tmp_path / "killed").rglob("000000.json")) or victim.poll() is not None:
            break
        time.sleep(0.05)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    manifest = next((tmp_path / "killed").rglob("manifest.json"))
    assert 0 < len(list(manifest.parent.glob("0*.json"))) < 3, "the kill must fall between the first and the last shard"

    outputs = {}
    for name in ("killed", "whole"):
        process = start(name)
        outputs[name], errors = process.communicate()
        assert process.returncode == 0, errors
    shards = {name: [p.read_bytes() for p in sorted((tmp_path / name).rglob("*.npy"))] for name in outputs}
    assert shards["killed"] == shards["whole"] and len(shards["whole"]) == 3
    results = {name: json.loads(text)["results"][0] for name, text in outputs.items()}
    assert results["killed"]["value"] == results["whole"]["value"]
    assert results["killed"]["id"] == results["whole"]["id"]
