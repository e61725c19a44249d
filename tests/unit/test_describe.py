"""What components say of themselves, and what the machine is told to lack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genbench import describe, doctor, registry, weights
from genbench.errors import UsageError


def test_a_component_has_one_summary() -> None:
    told = describe.summaries()
    assert set(told) == {*registry.KINDS, "protocol"}
    for kind in ("metric", "dataset"):
        for name in registry.BUILTIN[kind]:
            assert registry.get(kind, name).summary == told[kind][name], name
    for kind in registry.KINDS:
        for name in registry.BUILTIN[kind]:
            assert describe.describe(f"{kind}:{name}")["summary"] == told[kind][name], name


def test_weights_of_extractors_are_told_by_size_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path))
    (one,) = describe.weights_of("extractor", "inception")
    assert one.size == "95.6 MB" and one.where == "not in the cache" and one.source.startswith("https://")
    (told,) = describe.describe("inception")["weights"].values()
    assert "95.6 MB, not in the cache; https://" in told
    card = describe.card_of("inception")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / card.file).write_bytes(b"")
    (one,) = describe.weights_of("extractor", "inception")
    assert one.where == "in the cache"
    (one,) = describe.weights_of("extractor", "compact")
    assert one.where == "shipped" and one.files == ("compact.safetensors",)
    assert describe.weights_of("extractor", "pixels") == [] == describe.weights_of("metric", "fid")


def test_code_of_ones_own_is_described() -> None:
    told = describe.describe("extractor:genbench.extractors.pixels:load")
    assert told["defined"] == "genbench.extractors.pixels:load" and told["arguments"]["side"] == "32"
    told = describe.describe("metric:genbench.metrics.frechet:FID")
    assert told["summary"] and told["higher_is_better"] == "False" and "frechet.py:" in told["file"]
    for name in ("model:os:nothing", "model:os:system", "nothing", "extractor:nothing"):
        with pytest.raises(UsageError):
            describe.describe(name)


def checks(output: Path) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.examine(output)}


def test_the_doctor_finds_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    well = checks(tmp_path / "runs")
    assert all(check.ok is not False for check in well.values()), well
    assert well["weights of inception"].ok is None
    assert "not in the cache (95.6 MB); genbench fetch inception" in well["weights of inception"].says
    assert "shipped" in well["weights of compact"].says and well["weights of pixels"].says == "none needed"

    once = weights.sha256

    def other(path: Path) -> str:
        return "0" * 64 if path.name.startswith("compact") else once(path)

    monkeypatch.setattr(weights, "sha256", other)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("GENBENCH_OFFLINE", "perhaps")
    ill = checks(tmp_path / "file" / "runs")
    wrong = {name for name, check in ill.items() if check.ok is False}
    assert {"shipped weights compact", "cache", "output", "offline"} <= wrong, ill
    assert "card says" in ill["shipped weights compact"].says


def test_the_doctor_ends_with_1_when_anything_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from genbench.cli import main

    def examine(ok: bool | None) -> Any:
        return lambda output: [doctor.Check(name="a", ok=True, says="b"), doctor.Check(name="c", ok=ok, says="\x1b d")]

    for ok, code, word in ((True, 0, "ok"), (None, 0, ""), (False, 1, "FAIL")):
        monkeypatch.setattr(doctor, "examine", examine(ok))
        assert main(["doctor"]) == code
        out = capsys.readouterr().out
        assert word in out.splitlines()[-1] and "\x1b" not in out
