"""What processes make of features in pieces is what one process makes, and is shared only where that pays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import normal
from numpy.typing import NDArray
from unit.test_ranks import passed

from genbench import gaussians, pieces, ranks
from genbench.arrays import Evidence, Features, Moments, Samples
from genbench.errors import InputRejected
from genbench.metrics import frechet, kernel, memo

Shares = list[list[int]]


@pytest.fixture(params=[2, 3, 5])
def shares(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Shares:
    """Has work spread over so many processes that are this one, and lists the pieces that the others got."""
    seen: Shares = []

    def spread(
        job: Callable[..., Any], items: Sequence[int], *, own: Callable[..., Any], **arguments: Any
    ) -> list[Any]:
        answers = [own(items[:: request.param], lambda _: None)]
        for r in range(1, request.param):
            if share := list(items[r :: request.param]):
                seen.append(share)
                answers.append(passed(job(share, lambda _: None, **passed(arguments))))
        return answers[::-1]  # nobody says in which order answers come

    monkeypatch.setattr(pieces, "WORTH", 0)
    monkeypatch.setattr(gaussians, "BLOCK", 16)
    monkeypatch.setattr(frechet, "NEAREST", 16)
    monkeypatch.setattr(kernel, "_STRIP", 16)
    monkeypatch.setattr(ranks, "spread", spread)
    return seen


def features(seed: int, count: int, path: Path, width: int = 4) -> Features:
    np.save(path / f"{seed}.npy", normal(seed, count, width) @ normal(9, width, width) + seed)
    return Features(extractor="test", tap="pooled", path=path / f"{seed}.npy")


def evidence(of: Features) -> Evidence:
    labels = np.arange(len(of)) % 3
    known = Samples(
        count=len(of), shape=(3, 2, 2), read=lambda *_: np.empty(0, np.uint8), origin=str(of.path),
        fingerprint=lambda: str(of.path), labels=labels,
    )  # fmt: skip
    return Evidence(samples=known, taps={"pooled": of})


def fits(x: Features, y: Features) -> dict[str, gaussians.Fit]:
    return {"generated": gaussians.fit_of(x), "reference": gaussians.factored(gaussians.fit_of(y))}


def of_metric(compute: Callable[..., Any], **args: Any) -> Callable[[Features, Features], Any]:
    return lambda x, y: compute(generated=evidence(x), reference=evidence(y), **args)


def subsets(count: int, size: int) -> Callable[[Features, Features], Any]:
    return lambda x, y: kernel.subset_discrepancies(x.values(), y.values(), subsets=count, subset_size=size, seed=1)


MEASURED: dict[str, Callable[[Features, Features], Any]] = {
    "moments": lambda x, y: gaussians.moments_of(x),
    "without each image": lambda x, y: gaussians.distances_without_each_image(x, **fits(x, y)),
    "without each block": lambda x, y: gaussians.distances_without_each_block(x, **fits(x, y)),
    "influence": lambda x, y: gaussians.influence(x, **fits(x, y)),  # type: ignore[arg-type]
    "line": of_metric(frechet.fid_infinity, method="line"),
    "per class": of_metric(frechet.fid_per_class),
    "mifid": of_metric(frechet.mifid),
    "mifid of the reference": of_metric(frechet.mifid, over="reference"),
    "subsets": subsets(7, 20),
    "subsets that share pairs": subsets(40, 60),
}


def numbers(found: Any) -> list[Any]:
    if is_dataclass(found):
        return [part for f in fields(found) for part in numbers(getattr(found, f.name))]
    return [found]


@pytest.mark.parametrize("name", MEASURED)
def test_pieces_that_others_make_change_no_bit(
    name: str, tmp_path: Path, shares: Shares, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = features(1, 90, tmp_path), features(2, 70, tmp_path)
    divided = numbers(MEASURED[name](x, y))
    assert shares
    memo._RECENT.clear()
    monkeypatch.setattr(ranks, "spread", lambda job, items, *, own, **_: [own(items, lambda _: None)])
    whole = numbers(MEASURED[name](x, y))
    assert len(whole) == len(divided)
    for one, other in zip(whole, divided, strict=True):
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def test_moments_of_blocks_are_those_of_all(tmp_path: Path, shares: Shares, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "ANSWERS", 2 * 8 * 4**2)  # two blocks at a time
    x = features(1, 90, tmp_path)
    found, values = gaussians.moments_of(x), x.values().astype(np.float64)
    assert np.allclose(found.mean, values.mean(axis=0), rtol=1e-13)
    assert np.allclose(found.covariance, np.cov(values.T), rtol=1e-12)
    assert [len(share) for share in shares] == [1] * len(shares) and len(shares) == math.ceil(90 / 16) // 2


def square(number: int, side: Features, *, by: float) -> dict[str, Any]:
    return {"number": number, "square": np.square(side.block(number, 2) * by)}


def test_what_pieces_give_comes_in_their_order(tmp_path: Path, shares: Shares, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "function", lambda name: square)
    x = features(1, 17, tmp_path)
    found = list(pieces.in_order(square, [x], 9, products=1, by=3.0))
    assert [one["number"] for one in found] == list(range(9)) and shares
    assert np.array_equal(np.concatenate([one["square"] for one in found]), np.square(x.values() * 3))
    assert list(pieces.in_order(square, [x], 0, products=1, by=3.0)) == []


def test_little_work_and_features_in_memory_stay_where_they_are(
    tmp_path: Path, shares: Shares, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = features(1, 90, tmp_path)
    gaussians.moments_of(Features(extractor="test", tap="pooled", array=np.array(x.values())))
    monkeypatch.setattr(pieces, "WORTH", 1e6)
    gaussians.moments_of(x)
    assert not shares


def test_features_that_are_not_finite_are_refused_wherever_they_lie(tmp_path: Path, shares: Shares) -> None:
    x = features(1, 90, tmp_path)
    for row in (3, 20, 85):
        values: NDArray[np.float32] = np.array(x.values())
        values[row] = np.nan
        np.save(tmp_path / "bad.npy", values)
        with pytest.raises(InputRejected, match="not finite"):
            gaussians.moments_of(Features(extractor="test", tap="pooled", path=tmp_path / "bad.npy"))


def test_fits_arrive_as_they_are(tmp_path: Path) -> None:
    x = features(1, 30, tmp_path)
    for fit in (
        Moments.of(x.values()),
        gaussians.factored(gaussians.moments_of(x)),
        gaussians.factored_rows(x.values()),
    ):
        again = gaussians.fit_told(passed(gaussians.told_of(fit)))
        assert type(again) is type(fit)
        for one, other in zip(numbers(fit), numbers(again), strict=True):
            assert np.array_equal(one, other)
