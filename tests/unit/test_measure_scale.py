"""The script that measures large sets: what it makes, and what it holds the results against."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

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


class Killed(Exception):
    """Ends a command in the middle."""


def test_a_command_that_was_killed_goes_on_with_the_forms_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[str, tuple[str, ...]]] = []

    def measure(function: Any, home: Path, kind: str, cache: str, threads: int, metrics: tuple[str, ...]) -> Any:
        measured.append((kind, metrics))
        if len(measured) == 4:
            raise Killed
        values = dict.fromkeys(metrics, 1.0)
        return {"values": values, "seconds": 1.0, "cpu_seconds": 1.0, "peak_mib": 1.0}

    monkeypatch.setattr(measure_scale, "fresh", measure)
    monkeypatch.setattr(measure_scale.time, "sleep", lambda _: None)
    words = ["score", "--images", "12", "--home", str(tmp_path), "--output", str(tmp_path / "scale.csv")]
    with pytest.raises(Killed):
        measure_scale.main(words)
    first, second, third = measure_scale.KINDS
    assert [kind for kind, _ in measured] == [first, first, second, second]
    measured.clear()
    monkeypatch.setattr(measure_scale, "MANY", 10)
    measured += [("", ())] * 4  # nothing is killed again
    measure_scale.main(words)
    one = measure_scale.METRICS[:1]
    assert measured[4:] == [(kind, one) for kind in (second, third) for _ in range(2)], "few are for the first form"
    assert measure_scale.metrics_of("score", first, 12) == measure_scale.METRICS
    rows = tables.read(tmp_path / "scale.csv", measure_scale.COLUMNS)
    assert len(rows) == 8 + 5 + 2, "those of the first pass of the second form stay"


def test_a_side_that_was_being_written_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(place: Path, **arrays: Any) -> None:
        Path(place).write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", dies)
        with pytest.raises(Killed):
            measure_scale.main(["make", "--images", "3", "--home", str(tmp_path)])
    assert not (tmp_path / "3" / "real.npz").exists()
    measure_scale.main(["make", "--images", "3", "--home", str(tmp_path)])
    assert open_images(tmp_path / "3" / "real.npz").count == 3


def test_the_table_is_that_of_the_script(root: Path) -> None:
    rows = tables.read(root / "leaderboards" / "scale.csv", measure_scale.COLUMNS)
    for task in {row["task"] for row in rows if row["task"].startswith("score")}:
        for images in {row["images"] for row in rows if row["task"] == task}:
            some = [r for r in rows if (r["task"], r["images"]) == (task, images)]
            wanted = {
                (kind, metric)
                for kind in measure_scale.KINDS
                for metric in measure_scale.metrics_of(task, kind, int(images))
            }
            assert {(row["kind"], row["metric"]) for row in some} == wanted
            for metric in measure_scale.METRICS:
                assert len({row["value"] for row in some if row["metric"] == metric}) <= 1, "wherever the images lie"
    errors = [float(row["value"]) for row in rows if row["task"] == "moments"]
    assert errors and max(errors) < 1e-6
    held = [float(r["bytes_per_image"]) for r in rows if r["task"] == "open again" and int(r["images"]) > 100_000]
    assert held and max(held) < 70, "50 bytes, and some for the name"
