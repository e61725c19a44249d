"""What the benchmark of sampling compares gives the same images; no time is asserted."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scripts import bench_sampling
from scripts.bench_sampling import Measured, Setting, Task
from scripts.benchmarking import quiet

SETTING = Setting(images=2, steps=3, device="cpu", threads=1, compiled=False)
SMALL = {
    "sample_size": 8, "block_out_channels": [32, 32], "layers_per_block": 1, "norm_num_groups": 8,
    "attention_head_dim": 16, "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
CROSS = SMALL | {
    "in_channels": 3, "out_channels": 3, "cross_attention_dim": 12, "attention_head_dim": 2,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
TASKS = [
    Task(name="a", sampler="ddim", kind="UNet2DModel", settings=SMALL, images=(1, 1)),
    Task(name="b", sampler="ddpm", kind="UNet2DModel", settings=SMALL, images=(1, 1)),
    Task(
        name="c", sampler="ddim", kind="UNet2DModel", settings=SMALL | {"num_class_embeds": 5}, images=(1, 1), classes=5
    ),
    Task(name="d", sampler="ddim", kind="UNet2DConditionModel", settings=CROSS, images=(1, 1), context=(3, 12)),
]


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS, ids=["ddim", "ddpm", "labels", "cross-attention"])
def test_tools_make_the_same_images_of_the_same_noise(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    with quiet():
        tools = bench_sampling.tools(task, replace(SETTING, threads=threads))
        images = {name: tool.same_noise() for name, tool in tools.items() if tool.same_noise is not None}
        own = tools["genbench, float32"].run()
    base, exact, fast = (images[name] for name in ("diffusers", "genbench, float32", "genbench, bfloat16"))
    assert base.shape == (2, 3, 8, 8) and float(base.std()) > 0.1
    assert float((exact - base).abs().max()) * bench_sampling.LEVELS < 0.05
    assert 0.05 < float((fast - exact).abs().max()) * bench_sampling.LEVELS < 40
    assert own.shape == exact.shape and float((own - exact).abs().max()) > 0.1


def test_rows_take_the_place_of_those_of_the_same_task_device_and_threads(tmp_path: Path) -> None:
    task, path = bench_sampling.TASKS["ddpm-cifar10 ddim"], tmp_path / "table.csv"
    found = {"diffusers": Measured(seconds=[3.0, 2.0, 4.0]), "genbench, float32": Measured(seconds=[1.0, 2.0, 1.0])}
    table = bench_sampling.rows(task, SETTING, found, 3)
    assert [(row["images_per_second"], row["speed"]) for row in table] == [("0.6667", ""), ("2", "3")]
    bench_sampling.write(path, table)
    bench_sampling.write(path, bench_sampling.rows(task, replace(SETTING, threads=2), found, 3))
    found["diffusers"].seconds = [1.0] * 3
    bench_sampling.write(path, bench_sampling.rows(task, SETTING, found, 3))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["threads"], row["images_per_second"]) for row in rows if row["tool"] == "diffusers"] == [
        ("1", "2"), ("2", "0.6667"),
    ]  # fmt: skip
    assert len(rows) == 4


def test_configurations_are_those_that_were_published() -> None:
    from baselines.files import catalogue
    from baselines.files.arguments import architecture

    for name, task in bench_sampling.TASKS.items():
        published = catalogue.configurations().get(name.rpartition(" ")[0])
        if published is not None:
            with torch.device("meta"):
                network = architecture({"_class_name": task.kind, **task.settings}).build()
            # Without the variance, three channels of 1,728 weights and a bias each are missing: 0.005 million.
            assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(published.parameters, abs=0.0102)
