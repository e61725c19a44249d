"""What is remembered belongs to the very features it was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genbench.arrays import Evidence, Features, Samples
from genbench.metrics import frechet
from genbench.metrics.memo import _RECENT, remember


def of(values: np.ndarray, path: Path | None = None) -> Features:
    if path is None:
        return Features(extractor="test", tap="pooled", array=values)
    np.save(path, values)
    return Features(extractor="test", tap="pooled", path=path)


def test_equal_arrays_are_not_the_same_and_the_same_is_made_once() -> None:
    x, made = np.ones((3, 2), np.float32), []
    first, second = of(x), of(x.copy())
    for features in (first, first, second, of(x)):
        remember((features,), ("what",), lambda: made.append(1) or "it")
    assert len(made) == 2  # of(x) holds the array of the first
    remember((first,), ("something else",), lambda: made.append(1) or "it")
    assert len(made) == 3


def test_an_array_that_is_gone_is_not_mistaken_for_one_at_its_address() -> None:
    for i in range(50):
        features = of(np.full((3, 2), i, np.float32))
        assert remember((features,), ("first",), lambda f=features: float(f.values()[0, 0])) == i


def test_a_file_written_anew_is_another_and_sides_do_not_change_places(tmp_path: Path) -> None:
    file, array = of(np.zeros((3, 2), np.float32), tmp_path / "a.npy"), of(np.zeros((3, 2), np.float32))
    assert remember((file, array), ("sides",), lambda: "file first") == "file first"
    assert remember((array, file), ("sides",), lambda: "array first") == "array first"
    longer = of(np.zeros((4, 2), np.float32), tmp_path / "a.npy")
    assert remember((longer, array), ("sides",), lambda: "anew") == "anew"


def test_few_are_kept() -> None:
    for i in range(40):
        remember((of(np.zeros((2, 2), np.float32)),), (i,), lambda: 0)
    assert len(_RECENT) < 20


def test_metrics_on_the_same_features_fit_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[int] = []
    original = frechet.fit_of
    monkeypatch.setattr(frechet, "fit_of", lambda features: fitted.append(1) or original(features))
    rng = np.random.default_rng(0)
    x, y = (
        Evidence(
            samples=Samples.of(np.zeros((60, 1, 1, 1), np.uint8)),
            taps={"pooled": of(rng.normal(size=(60, 4)).astype(np.float32))},
        )
        for _ in range(2)
    )
    for metric in (frechet.FID, frechet.FID_INF, frechet.MIFID):
        metric.compute(generated=x, reference=y)
    assert len(fitted) == 2
