"""The script that measures large sets: what it makes, and what it holds the results against."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genbench import tables
from genbench.arrays import Moments
from genbench.images import open_images
from scripts import measure_scale


def test_one_set_lies_in_three_forms(tmp_path: Path) -> None:
    measure_scale.make(tmp_path, 12)
    for name in ("real", "generated"):
        sets = [open_images(measure_scale.place(tmp_path, kind, name)) for kind in measure_scale.KINDS]
        assert all(np.array_equal(one.read(0, 12), sets[0].read(0, 12)) for one in sets)
    real, generated = (open_images(tmp_path / f"{name}.npz").read(0, 12) for name in ("real", "generated"))
    again = np.concatenate(list(measure_scale.images_of(1, 5, noisy=True)))
    assert np.array_equal(generated[:5], again) and not np.array_equal(real, generated)


def test_streamed_moments_are_those_of_their_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    told = measure_scale.streamed(3 * 4096, 5)
    assert told["count"] == 3 * 4096 and told["error"] < 1e-6
    together = Moments.__add__
    monkeypatch.setattr(Moments, "__add__", lambda a, b: replace(together(a, b), mean=(a.mean + b.mean) / 2))
    assert measure_scale.streamed(3 * 4096, 5)["error"] > 1e-6


def test_the_table_is_that_of_the_script(root: Path) -> None:
    rows = tables.read(root / "leaderboards" / "scale.csv", measure_scale.COLUMNS)
    for task in {row["task"] for row in rows if row["task"].startswith("score")}:
        for images in {row["images"] for row in rows if row["task"] == task}:
            for metric in measure_scale.METRICS:
                some = [r for r in rows if (r["task"], r["images"], r["metric"]) == (task, images, metric)]
                assert {row["kind"] for row in some} == set(measure_scale.KINDS)
                assert len({row["value"] for row in some}) == 1, "one number, wherever the images lie"
    errors = [float(row["value"]) for row in rows if row["task"] == "moments"]
    assert errors and max(errors) < 1e-6
    held = [float(r["bytes_per_image"]) for r in rows if r["task"] == "open again" and int(r["images"]) > 100_000]
    assert held and max(held) < 70, "50 bytes, and some for the name"
