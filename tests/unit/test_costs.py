"""The cost model: its counts against what the stages do, and how it puts counts and rates together."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genbench import costs, gaussians, neighbours, registry
from genbench.arrays import Features, Moments
from genbench.costs import Rates, Sizes
from genbench.metrics import kernel
from scripts import cost_points, cost_tables, measure_scale

ONES: Rates = {**dict.fromkeys(costs.RATES, 1.0), "product": 2.0, "scatter": 1.0, "project": 1.0}


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of distances of all tiles that will be made."""
    made: list[int] = []
    tile = neighbours.Distances.tile

    def counting(self: neighbours.Distances, rows: slice, columns: slice) -> torch.Tensor:
        found = tile(self, rows, columns)
        made.append(found.numel())
        return found

    monkeypatch.setattr(neighbours.Distances, "tile", counting)
    return made


@pytest.mark.parametrize("n", [100, 256, 1024, 2500, 5000])
def test_a_search_makes_as_many_distances_as_the_model_counts(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = counted(monkeypatch), costs.noise(n, 64, 0).values()
    pair = neighbours.pair_of(x, x, k=3, arithmetic="float32", device="cpu")
    assert neighbours.nearest_neighbours(pair.generated, costs.NEAREST).crowded is None
    assert sum(made) == pytest.approx(costs.pairs_of_search(n), rel=0.01)
    assert n not in (256, 1024) or sum(made) == costs.pairs_of_search(n)


def test_strips_that_end_at_a_block_of_another_arithmetic_hardly_count() -> None:
    spans = list(neighbours._spans(0, 21_000, costs.TILE))
    made = sum(
        (s.stop - s.start) * (span.stop - s.start)
        for span in spans
        for s in neighbours._spans(span.start, span.stop, costs.STRIP)
    ) + sum((span.stop - span.start) * (21_000 - span.stop) for span in spans)
    assert made == pytest.approx(costs.pairs_of_search(21_000), rel=0.01)


def test_a_walk_makes_every_distance_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = costs.noise(900, 64, 0), costs.noise(1500, 64, 1)
    costs.run_metric("precision", x, y, k=2)
    made = counted(monkeypatch)
    costs.run_metric("precision", x, y, k=3)  # the neighbours are known
    # Radii without a block are made again for few points, a row each.
    assert made.count(1500 * 900) <= 1 and sum(m for m in made if m > 1500) == 900 * 1500
    made.clear()
    costs.run_metric("density", x, y)
    assert sum(made) == 900 * 1500


@pytest.mark.parametrize(("n", "m"), [(100, 300), (2048, 1000), (3000, 2500)])
def test_a_kernel_distance_makes_as_many_entries_as_the_model_counts(n: int, m: int) -> None:
    made: list[int] = []

    def counting(products: torch.Tensor) -> torch.Tensor:
        made.append(products.numel() if products.ndim == 2 else 0)
        return products

    x, y = costs.noise(n, 3, 0).values(), costs.noise(m, 3, 1).values()
    kernel.kernel_sums(x, y, partial(counting))
    assert sum(made) == costs.pairs_of_kernel(Sizes(generated=n, reference=m, width=3))


def test_blocks_are_those_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    of = Moments.of
    monkeypatch.setattr(Moments, "of", lambda values: read.append(len(values)) or of(values))
    gaussians.moments_of(costs.noise(9000, 2, 0))
    assert read == [costs.BLOCK, costs.BLOCK, 9000 - 2 * costs.BLOCK]


def test_seconds_are_operations_by_rates() -> None:
    sizes = Sizes(generated=1024, reference=2048, width=8)
    above = 1024 * (1024 + costs.STRIP) // 2
    assert costs.pairs_of_search(1024) == above
    expected = {
        "fit": 1024 * 64,
        "distance": 1,
        "left-out": 1 + 1024 * (128 + 4 * costs.TERMS * 8),
        "search": above * 8 + 1024**2 + 1024,
        "members": 1024 * 2048 * 9 + 3072,
        "occupancy": 1024 * 2048 * 9 + 3072,
        "kernel": (1024**2 + 2048**2 + 1024 * 2048) * 9 + 3072,
    }
    assert {name: costs.seconds_of(name, "both", sizes, ONES) for name in costs.STAGES} == expected
    assert costs.seconds_of("fit", "reference", sizes, ONES) == 2 * expected["fit"]


def test_processes_share_strips_and_not_parts_of_strips() -> None:
    assert costs.share(50_000, 1024, 64) == 1 / 49
    assert costs.share(50_000, 1024, 4) == 13 / 49
    sizes = [Sizes(generated=4096, reference=4096, width=8, processes=p) for p in (1, 3, 4, 64)]
    whole, *others = (costs.seconds_of("members", "both", s, ONES) for s in sizes)
    assert [other / whole for other in others] == [0.5, 0.25, 0.25]
    assert len({costs.seconds_of("fit", "generated", s, ONES) for s in sizes}) == 1


def test_processes_share_blocks_of_one_side_where_they_are_worth_a_message() -> None:
    rates = {"scatter": 1.0, "vectors": 0.0, "project": 1.0}
    for stage in ("fit", "left-out"):
        large, small = (
            [
                costs.seconds_of(stage, "generated", Sizes(generated=n, reference=n, width=d, processes=p), rates)
                for p in (1, 4, 64)
            ]
            for n, d in ((13 * 4096, 2048), (20_000, 128))
        )
        assert [value / large[0] for value in large] == pytest.approx([1, 4 / 13, 1 / 13])
        assert len(set(small)) == 1


def test_what_metrics_have_in_common_is_counted_once() -> None:
    assert costs.stages_of(["fid", "sfid", "fid-inf"]) == list(costs.METRICS["fid"])
    stages = costs.stages_of(["precision", "recall", "density", "vendi"])
    assert stages == [*costs.METRICS["precision"], ("occupancy", "both")]
    assert set(costs.METRICS) <= set(registry.table("metric"))
    assert {stage for stages in costs.METRICS.values() for stage, _ in stages} == set(costs.STAGES)


def test_stored_bytes_are_features_pixels_and_digests() -> None:
    sizes = Sizes(generated=10, reference=20, width=64)
    assert costs.stored_bytes(sizes) == 4 * 30 * 64
    assert costs.stored_bytes(sizes, (3, 32, 32)) == 4 * 30 * 64 + 10 * (3072 + 64)


def test_rates_come_back_from_the_seconds_that_they_cause() -> None:
    found = costs._two_rates("nearest", [(n**2, n, 3e-9 * n**2 + 2e-6 * n) for n in (1024, 4096)])
    assert found == pytest.approx({"nearest": 3e-9, "nearest-row": 2e-6})
    noisy = costs._two_rates("nearest", [(4.0, 2, 0.0), (16.0, 4, 1.0)])
    assert noisy == {"nearest": 1 / 16, "nearest-row": 0}
    assert costs._two_rates("nearest", [(4.0, 2, -1.0), (16.0, 4, -1.0)]) == {"nearest": 0, "nearest-row": 0}


def test_rates_of_all_stages_are_measured_by_the_clock_that_is_given() -> None:
    ticks: Iterator[int] = count()
    rates = costs.measure_rates(4, costs.STAGES, rows=64, rounds=1, clock=lambda: float(next(ticks)))
    assert list(rates) == list(costs.RATES)
    assert rates["scatter"] == 64 * 16 and rates["values"] == 1  # a call takes a tick
    assert list(costs.measure_rates(4, ["fit"], rows=64, rounds=1)) == ["scatter"]


def test_a_point_is_predicted_before_it_is_measured_and_rows_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    def measured(function: Any, *args: Any) -> Any:
        calls.append((function.__name__, *args))
        if function is cost_points.measured_rates:
            return {"product": 1.0}
        if function is cost_points.points_of_features:
            n, d, _, stages = args
            return [cost_points.Point(stage=s, n=n, d=d, predicted=1.3, measured=1.0) for s in stages]
        return [cost_points.Point(stage=args[1] if args[1:] else "sampling", n=512, d=0, predicted=1, measured=1)]

    monkeypatch.setattr(cost_points, "fresh", measured)
    output = tmp_path / "cost.csv"
    cost_points.measure(output, lambda: tmp_path, most=1000, rounds=1, anew=False)
    rows = cost_points.present(output)
    assert {row["ratio"] for row in rows if row["d"] == "128" and row["kind"] == "point"} == {"1.3"}
    assert "search at n = 1,000, d = 128: 1.30" in cost_tables.summary(rows)
    names = [name for name, *_ in calls]
    assert names.count("points_of_features") == 2 and names.count("measured_rates") == 2
    calls.clear()
    cost_points.measure(output, lambda: tmp_path, most=1000, rounds=1, anew=False)
    assert not any(name == "points_of_features" for name, *_ in calls)


def test_the_largest_set_is_taken_and_made_where_there_is_none(tmp_path: Path) -> None:
    for images in (2, 3):
        assert measure_scale.largest_set(tmp_path, images) == tmp_path / str(images)
    assert measure_scale.largest_set(tmp_path, 1) == tmp_path / "3"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_points_of_a_few_images_are_measured() -> None:
    rates, stages = dict.fromkeys(costs.RATES, 1.0), [*cost_points.PAIRS, *cost_points.FRECHET]
    assert cost_points.stages_measured(129, 128) == stages
    assert cost_points.stages_measured(128, 128) == list(cost_points.PAIRS)
    found = cost_points.points_of_features(40, 4, rates, stages)
    assert [point.stage for point in found] == stages
    assert all(point.measured > 0 and point.predicted > 0 for point in found)
    assert len(cost_points.points_of_features(40, 4, rates, ["density and coverage"])) == 1


def test_noise_depends_on_its_seed_alone() -> None:
    one, other = costs.noise(5, 3, 1), costs.noise(5, 3, 1)
    assert isinstance(one, Features) and np.array_equal(one.values(), other.values())
    assert not np.array_equal(one.values(), costs.noise(5, 3, 2).values())


ROWS = [
    *({"kind": "rate", "stage": name, "n": "4096", "d": "128", "measured": "1.0"} for name in costs.RATES),
    {"kind": "point", "stage": "fit", "n": "1000", "d": "128", "measured": "2.0", "ratio": "1.21"},
    {"kind": "point", "stage": "fit", "n": "3000", "d": "128", "measured": "6.0", "ratio": "0.8"},
]


def test_the_tables_of_the_document_say_what_the_rows_say() -> None:
    text = cost_tables.made(ROWS)
    assert "1 of 2 points within 20%; fit at n = 1,000, d = 128: 1.21." in text
    assert "| fit, d = 128 | 2 (1.21) | 6 (0.80) |" in text
    assert "| Frechet distance | 1.0 seconds | 1.0 seconds | 1 MiB |" in text
    assert [cost_tables.time_of(s) for s in (0.0121, 0.121, 200.0)] == ["12.1 ms", "0.1 seconds", "3 minutes"]
    whole = cost_tables.with_tables(f"a {cost_tables.BEGIN} old {cost_tables.END} b", ROWS)
    assert whole.startswith("a ") and whole.endswith(" b") and text in whole and "old" not in whole


def test_the_document_has_the_tables_of_the_rows(root: Path) -> None:
    rows = cost_points.present(root / "leaderboards" / "scale_cost.csv")
    text = (root / "docs" / "scale.md").read_text(encoding="utf-8")
    assert rows and cost_tables.with_tables(text, rows) == text
    for row in rows:
        if row["kind"] == "point":
            told, measured = float(row["predicted"]), float(row["measured"])
            assert float(row["ratio"]) == pytest.approx(told / measured, rel=0.01)
