"""Sliced Wasserstein distances against closed forms and against transport solved as an assignment."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_up import evidence, normal
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance

from genbench.errors import InputRejected, UsageError
from genbench.metrics import sliced
from genbench.metrics.sliced import SWD, directions, sliced_distances, squared_transport
from genbench.uncertainty import block_numbers


@pytest.mark.parametrize(("n", "m"), [(5, 7), (6, 4), (8, 8), (1, 3)])
def test_transport_on_a_line_equals_a_linear_programme(n: int, m: int) -> None:
    rng = np.random.default_rng(n * 10 + m)
    x, y = rng.standard_normal(n), rng.standard_normal(m) + 0.5
    cost = ((x[:, None] - y[None]) ** 2).ravel()
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    plan = linprog(cost, A_eq=np.vstack([rows, columns]), b_eq=np.r_[np.full(n, 1 / n), np.full(m, 1 / m)])
    found = squared_transport(np.sort(x)[:, None], np.sort(y)[:, None])
    assert found[0] == pytest.approx(plan.fun, rel=1e-9)


def test_a_shift_is_its_projections_and_a_set_is_at_zero_from_itself() -> None:
    x, shift = normal(0, 200, 5), np.array([1, 0, -2, 0.5, 3], np.float32)
    along = directions(5, 64, 9).astype(np.float64)
    value = SWD.compute(generated=evidence(x + shift), reference=evidence(x), projections=64, seed=9).value
    assert value == pytest.approx(math.sqrt(((shift @ along) ** 2).mean()), rel=1e-5)
    assert SWD.compute(generated=evidence(x[::-1].copy()), reference=evidence(x)).value < 1e-6


def test_a_shift_of_length_s_is_s_over_the_root_of_the_width() -> None:
    # E (shift . direction)^2 = s^2 / d; the deviation of the mean of 4000 squares is 2 %.
    x = normal(1, 50, 8)
    value = sliced_distances(x + np.float32(1), x, projections=4000)[0]
    assert value == pytest.approx(1.0, rel=0.03)


def test_equals_projections_made_one_by_one_with_and_without_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sliced, "_CHUNK", 3)
    x, y = normal(2, 43, 4, shift=0.4), normal(3, 31, 4)
    along = directions(4, 7, 5).astype(np.float64)

    def by_hand(values: NDArray[np.float32]) -> float:
        total = 0.0
        for theta in along.T:
            a, b = np.sort(values @ theta), np.sort(y @ theta)
            grid = np.linspace(0, 1, len(a) * len(b), endpoint=False) + 0.5 / (len(a) * len(b))
            quantiles = [z[np.minimum((grid * len(z)).astype(int), len(z) - 1)] for z in (a, b)]
            total += ((quantiles[0] - quantiles[1]) ** 2).mean()
        return math.sqrt(total / 7)

    blocks = block_numbers(43)
    value, left_out = sliced_distances(x, y, projections=7, seed=5, blocks=blocks)
    assert value == pytest.approx(by_hand(x), rel=1e-5)
    np.testing.assert_allclose(left_out, [by_hand(x[blocks != b]) for b in range(20)], rtol=1e-5)


def test_in_one_dimension_it_is_at_least_the_first_distance() -> None:
    x, y = normal(4, 60, 1, shift=0.7), normal(5, 80, 1)
    value = SWD.compute(generated=evidence(x), reference=evidence(y), projections=3).value
    first = wasserstein_distance(x[:, 0], y[:, 0])
    assert first <= value + 1e-6 <= 2 * first


def test_invariances_hold_and_are_complete() -> None:
    x, y = normal(6, 70, 4, shift=0.5), normal(7, 60, 4)
    rng = np.random.default_rng(8)
    rotation = np.linalg.qr(rng.standard_normal((4, 4)))[0].astype(np.float32)
    value = SWD.compute(generated=evidence(x), reference=evidence(y), projections=16).value
    changes = {
        "order": (x[rng.permutation(70)], y[rng.permutation(60)]),
        "translation": (x + 10, y + 10),
        "rotation": (x @ rotation, y @ rotation),
        "scale": (x * 2, y * 2),
    }
    for name, (a, b) in changes.items():
        changed = SWD.compute(generated=evidence(a), reference=evidence(b), projections=16).value
        assert (changed == pytest.approx(value, rel=1e-4)) == (name in SWD.invariances), name


def test_error_matches_the_spread_over_repetitions() -> None:
    reference = evidence(normal(9, 200, 6))
    found = []
    for seed in range(60):
        score = SWD.compute(
            generated=evidence(normal(100 + seed, 150, 6, shift=0.5)), reference=reference, projections=32
        )
        assert score.stderr is not None
        found.append((score.value, score.stderr))
    values, errors = np.array(found).T
    assert 0.75 < np.sqrt((errors**2).mean()) / values.std(ddof=1) < 1.3


def test_errors_name_the_cause() -> None:
    x = evidence(normal(10, 5, 2))
    with pytest.raises(UsageError, match="at least 1"):
        SWD.compute(generated=x, reference=x, projections=0)
    with pytest.raises(InputRejected, match="not finite"):
        SWD.compute(generated=evidence(np.full((5, 2), np.nan, np.float32)), reference=x)
