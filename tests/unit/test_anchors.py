"""The script of published numbers, on small stand-ins for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import genbench
from genbench import registry
from genbench.pipeline import bind_cells
from genbench.protocols import protocol
from genbench.records import Measurement, Ref
from scripts.anchors import ANCHORS, Anchor, main, rows
from scripts.random_weights import structured_images


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("assets")
    for name, seed in (("mine.npz", 1), ("real.npz", 2)):
        np.savez(folder / name, arr_0=structured_images(24, 32, 32, seed=seed).transpose(0, 2, 3, 1))
    return folder


def stand_in(assets: Path, off: float = 0.0) -> Anchor:
    found = genbench.score(str(assets / "mine.npz"), str(assets / "real.npz"), metrics=["fid", "is"], device="cpu")
    return Anchor(
        name="small",
        source="here",
        samples="mine.npz",
        reference="real.npz",
        protocol="embedded",
        expected={"fid": (found[0].score.value + off, 1e-6), "is": (found[1].score.value, 1e-6)},
        why="the same code",
        files={"mine.npz": "made above", "real.npz": "made above"},
    )


def run(assets: Path, anchors: list[Anchor], *words: str) -> int:
    return main(["--assets", str(assets), "--device", "cpu", *words], anchors)


def test_numbers_that_agree_and_that_differ(assets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(assets, [stand_in(assets)]) == 0
    assert capsys.readouterr().out.count("agrees") == 2
    assert run(assets, [stand_in(assets, off=0.01)]) == 1
    out = capsys.readouterr().out
    assert out.count("agrees") == out.count("DIFFERS") == 1 and "-0.01" in out


def test_a_number_that_is_none_does_not_agree(assets: Path) -> None:
    anchor = stand_in(assets)
    assert [row[-1] for row in rows(anchor, {"fid": float("nan"), "is": float("inf")})] == ["DIFFERS", "DIFFERS"]


def test_what_is_missing_is_named_and_the_rest_is_measured(
    assets: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path))
    whole = stand_in(assets)
    absent = replace(whole, name="absent", files={**whole.files, "other.npz": "https://example.org/other.npz"})
    without_weights = replace(whole, name="weights", protocol="tf1")
    assert run(assets, [absent, whole]) == 6
    out = capsys.readouterr().out
    assert f"absent: {assets / 'other.npz'} is not there; it is https://example.org/other.npz" in out
    assert out.count("agrees") == 2
    assert run(assets, [without_weights]) == 6
    assert "weights: " in (out := capsys.readouterr().out) and "pt_inception-2015-12-05" in out
    # A number that differs is worse news than a file that is missing.
    assert run(assets, [absent, replace(whole, expected={"fid": (0.0, 0.1)})]) == 1
    assert run(assets, [replace(whole, expected={"psnr(k=3)": (0.0, 0.1)})]) == 1
    assert "small: " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(assets, [whole], "another")


def test_the_published_anchors_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for anchor in ANCHORS:
        cells = bind_cells([Measurement.parse(name) for name in anchor.expected], protocol(anchor.protocol))
        assert [cell.metric.name for cell in cells] == list(anchor.expected)
        for text in (anchor.samples, anchor.reference):
            if text and text not in anchor.files:
                assert Ref.parse(text).name in registry.table("model" if text == "ddpm" else "dataset")
        assert all(0 < tolerance <= max(0.035 * value, 0.01) for value, tolerance in anchor.expected.values())
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    for number in ("215.837", "3.94256", "6.14043", "0.8265", "0.5309", "11.2368", "3.17", "1.79"):
        assert number in out
