"""The arithmetic of torch is chosen for a while, and then what it was."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from genbench import measuring
from genbench.arithmetic import float32
from genbench.arrays import Evidence, Features, Samples
from genbench.contracts import Metric
from genbench.errors import InputRejected
from genbench.metrics.manifold import memberships
from genbench.protocols import protocol
from genbench.records import Ref, Score


@pytest.mark.parametrize("on_cuda", ["ieee", "tf32"])
def test_arithmetic_is_set_inside_and_restored_afterwards_even_after_an_error(on_cuda: Literal["ieee", "tf32"]) -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(KeyError), float32(on_cuda=on_cuda):
            assert torch.backends.mkldnn.matmul.fp32_precision == torch.backends.mkldnn.conv.fp32_precision == "ieee"
            assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == on_cuda
            assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
            raise KeyError
        assert torch.get_float32_matmul_precision() == "medium" and not torch.backends.cudnn.deterministic
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision("highest")


def told(*, generated: Evidence) -> Score:
    return Score(value=float(torch.backends.cuda.matmul.fp32_precision == "ieee"))


def measured(cell: measuring.Cell) -> Score:
    samples = Samples.of(np.zeros((1, 1, 1, 1), np.uint8))
    comparison = measuring.Comparison({"generated": samples}, [cell], measuring.Execution(), "cpu")
    return measuring._compute(cell, comparison, Evidence(samples=samples), None)


def test_every_metric_is_computed_in_float32_whatever_the_program_around_it_chose() -> None:
    metric = Metric(name="told", summary="", source="", compute=told)
    cell = measuring.Cell(
        metric=metric, metric_ref=Ref("told"), extractor_ref=None, load_extractor=None, protocol=protocol("embedded")
    )
    torch.set_float32_matmul_precision("high")
    try:
        assert measured(cell).value
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_distances_of_a_direct_call_are_float32_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = torch.addmm
    monkeypatch.setattr(
        torch, "addmm", lambda *a, **k: seen.append(torch.backends.mkldnn.matmul.fp32_precision) or original(*a, **k)
    )
    values = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    torch.set_float32_matmul_precision("medium")
    try:
        x, y = (Features(extractor="test", tap="pooled", array=v) for v in (values, values + 1))
        memberships(x, y, k=3)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen and set(seen) == {"ieee"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_refused_and_not_written_as_nothing(value: float) -> None:
    metric = Metric(name="none", summary="", source="", compute=lambda *, generated: Score(value=value))
    cell = measuring.Cell(
        metric=metric, metric_ref=Ref("none"), extractor_ref=None, load_extractor=None, protocol=protocol("embedded")
    )
    with pytest.raises(InputRejected, match="none is no finite number for array"):
        measured(cell)
