"""The benchmark of solvers compares what gives the same result; no time is asserted."""

from __future__ import annotations

import pytest
import torch

from scripts import bench_solvers
from scripts.benchmarking import quiet


@pytest.mark.slow
def test_tools_of_one_method_agree() -> None:
    pytest.importorskip("diffusers")
    with quiet(), torch.no_grad():
        found = {key: run() for key, run in bench_solvers.tools(7).items()}
    for (method, tool), x in found.items():
        # On variance-preserving and exploding levels the clean images are the same.
        torch.testing.assert_close(x, found[method, bench_solvers.OWN], rtol=0, atol=1e-4 * float(x.abs().max()))
        assert tool in ("genbench", "diffusers", "k-diffusion")
    assert ("unipc-2", "diffusers") in found


def test_rows_hold_medians_and_ratios() -> None:
    measured = bench_solvers.Measured
    found = {
        ("ddim", "genbench"): measured(seconds=[1.0, 2.0, 4.0]),
        ("heun", "genbench"): measured(seconds=[2.0, 2.0, 2.0]),
        ("heun", "diffusers"): measured(seconds=[3.0, 3.0, 8.0]),
    }
    first, second, third = bench_solvers.rows(found, 3, 1, 10)
    assert (first["microseconds"], first["by_ddim"], first["by_peer"]) == ("2e+05", "1", "")
    assert (second["by_ddim"], second["by_peer"]) == ("1", "")
    assert (third["by_ddim"], third["by_peer"]) == ("2", "1.5")
    assert set(first) == set(bench_solvers.COLUMNS)
