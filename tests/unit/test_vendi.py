"""Vendi scores against the definition, and against sets whose effective number is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_up import evidence, normal
from numpy.typing import NDArray

from genbench.errors import InputRejected, UsageError
from genbench.metrics.vendi import VENDI, vendi_scores
from genbench.uncertainty import Uncertainty, block_numbers, block_sizes, of_jackknife


def definition(values: NDArray[np.float32]) -> float:
    x = values.astype(np.float64)
    x /= np.sqrt((x * x).sum(1, keepdims=True))
    spectrum = np.linalg.eigvals((x @ x.T) / len(x)).real
    spectrum = spectrum[spectrum > 1e-12]
    return math.exp(-(spectrum * np.log(spectrum)).sum())


@pytest.mark.parametrize(("n", "d"), [(60, 7), (30, 50), (40, 40)])
def test_equals_the_definition_with_and_without_each_block(n: int, d: int) -> None:
    x = normal(0, n, d)
    blocks = block_numbers(n)
    value, left_out = vendi_scores(x, blocks)
    assert value == pytest.approx(definition(x), rel=1e-9)
    np.testing.assert_allclose(left_out, [definition(x[blocks != b]) for b in range(20)], rtol=1e-9)


def test_copies_count_once_and_right_angles_fully() -> None:
    copies = np.tile(np.array([[3, 4, 0]], np.float32), (50, 1)) * np.arange(1, 51, dtype=np.float32)[:, None]
    assert VENDI.compute(generated=evidence(copies)).value == pytest.approx(1)
    assert VENDI.compute(generated=evidence(np.eye(12, dtype=np.float32))).value == pytest.approx(12)
    # Three directions with shares 1/2, 1/4, 1/4 have the entropy 1.5 log 2.
    shares = np.repeat(np.eye(3, dtype=np.float32), [20, 10, 10], axis=0)
    assert VENDI.compute(generated=evidence(shares)).value == pytest.approx(2**1.5)


@pytest.mark.parametrize("q", [0.5, 2.0, 3.0, math.inf])
def test_orders_count_equal_shares_alike_and_weigh_unequal_ones(q: float) -> None:
    def value(*shares: int, order: float = q) -> float:
        rows = np.repeat(np.eye(len(shares), dtype=np.float32), shares, axis=0)
        return VENDI.compute(generated=evidence(rows), q=order).value

    assert value(5, 5, 5, 5) == pytest.approx(4)
    p = np.array([20, 10, 10]) / 40
    expected = 2.0 if math.isinf(q) else (p**q).sum() ** (1 / (1 - q))
    assert value(20, 10, 10) == pytest.approx(expected)
    assert (value(20, 10, 10) < value(20, 10, 10, order=1.0)) == (q > 1)
    assert value(20, 10, 10, order=q if math.isinf(q) else 1 + 1e-6) == pytest.approx(
        expected if math.isinf(q) else 2**1.5, rel=1e-5
    )


@pytest.mark.parametrize("q", [0.0, -1.0, math.nan])
def test_orders_are_positive(q: float) -> None:
    with pytest.raises(UsageError, match="must be positive"):
        VENDI.compute(generated=evidence(normal(5, 9, 3)), q=q)


def test_per_class_is_the_mean_over_classes_with_independent_errors() -> None:
    x, labels = normal(1, 90, 5), np.random.default_rng(2).integers(0, 3, 90)
    score = VENDI.compute(generated=evidence(x, labels=labels), per_class=True)
    assert score.value == pytest.approx(np.mean([definition(x[labels == c]) for c in range(3)]))
    variance, totals, sizes = 0.0, np.zeros(20), np.zeros(20, np.int64)
    for c in range(3):
        part = x[labels == c]
        value, left_out = vendi_scores(part, block_numbers(len(part)))
        error = of_jackknife(value, left_out, block_sizes(len(part)))
        assert isinstance(error, Uncertainty)
        variance += error.stderr**2
        totals += left_out / 3
        sizes += block_sizes(len(part))
    assert score.stderr == pytest.approx(math.sqrt(variance) / 3)
    assert score.blocks is not None and score.blocks.sizes == tuple(sizes)
    assert score.blocks.left_out == pytest.approx(totals)


def test_a_class_of_one_image_scores_one() -> None:
    labels = np.array([0, 1, 1, 1], np.int64)
    x = np.array([[1, 1], [1, 0], [1, 0], [1, 0]], np.float32)
    assert VENDI.compute(generated=evidence(x, labels=labels), per_class=True).value == pytest.approx(1)


def test_invariances_hold_and_are_complete() -> None:
    x, rng = normal(3, 80, 6) + 0.5, np.random.default_rng(4)
    rotation = np.linalg.qr(rng.standard_normal((6, 6)))[0].astype(np.float32)
    value = VENDI.compute(generated=evidence(x)).value
    changes = {
        "order": x[rng.permutation(80)],
        "translation": x + 1,
        "rotation": x @ rotation,
        "scale": x * 3,
    }
    for name, changed in changes.items():
        same = VENDI.compute(generated=evidence(changed)).value == pytest.approx(value, rel=1e-5)
        assert same == (name in VENDI.invariances), name


def test_error_matches_the_spread_over_repetitions() -> None:
    scale = np.arange(1, 17, dtype=np.float32) ** -1
    found = []
    for seed in range(80):
        score = VENDI.compute(generated=evidence(normal(100 + seed, 200, 16) * scale))
        assert score.stderr is not None
        found.append((score.value, score.stderr))
    values, errors = np.array(found).T
    assert 0.75 < np.sqrt((errors**2).mean()) / values.std(ddof=1) < 1.3


def test_errors_name_the_cause() -> None:
    with pytest.raises(UsageError, match="needs labels"):
        VENDI.compute(generated=evidence(normal(5, 4, 2)), per_class=True)
    with pytest.raises(InputRejected, match="length 0"):
        VENDI.compute(generated=evidence(np.zeros((3, 2), np.float32)))
