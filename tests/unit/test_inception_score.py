"""The inception score against closed forms and against its definition, image by image."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_up import evidence
from numpy.typing import NDArray
from scipy.special import softmax

from genbench.arrays import Samples
from genbench.errors import InputRejected, UsageError
from genbench.metrics.inception_score import INCEPTION_SCORE


def logits(seed: int, n: int, classes: int = 12, scale: float = 2.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).normal(size=(n, classes)) * scale).astype(np.float32)


def definition(values: NDArray[np.float32]) -> float:
    p = softmax(values.astype(np.float64), axis=1)
    q = p.mean(axis=0)
    return math.exp(np.mean([(row * (np.log(row) - np.log(q))).sum() for row in p]))


def test_sure_and_even_predictions_score_the_number_of_classes() -> None:
    found = INCEPTION_SCORE.compute(generated=evidence(np.tile(np.eye(7) * 2000, (30, 1)), "logits"))
    assert found.value == pytest.approx(7, rel=1e-12)


def test_equal_predictions_score_one() -> None:
    found = INCEPTION_SCORE.compute(generated=evidence(np.tile(logits(0, 1), (50, 1)), "logits"))
    assert found.value == pytest.approx(1, abs=1e-12)
    assert found.stderr is None and found.ci95 is None and "the same without any block" in str(found.error_method)
    two = INCEPTION_SCORE.compute(generated=evidence(logits(0, 2), "logits"))
    assert two.stderr is None and two.ci95 is None and str(two.error_method).startswith("none: ")


def test_two_kinds_of_image_have_the_closed_form() -> None:
    """Predictions (p, 1 - p) and (1 - p, p) in equal numbers: log 2 less the entropy of p."""
    p = 0.8
    pair = np.log(np.array([[p, 1 - p], [1 - p, p]]))
    found = INCEPTION_SCORE.compute(generated=evidence(np.tile(pair, (100, 1)), "logits"))
    assert math.log(found.value) == pytest.approx(math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p), rel=1e-6)


def test_adding_a_number_to_all_logits_of_an_image_changes_nothing() -> None:
    values = logits(1, 80)
    moved = values + np.random.default_rng(2).normal(size=(80, 1)).round().astype(np.float32)
    found = INCEPTION_SCORE.compute(generated=evidence(moved, "logits")).value
    assert found == pytest.approx(definition(values), rel=1e-6)


def test_agrees_with_the_definition_in_any_order() -> None:
    values = logits(3, 2500)
    found = INCEPTION_SCORE.compute(generated=evidence(values, "logits"))
    assert found.value == pytest.approx(definition(values), rel=1e-12)
    shuffled = values[np.random.default_rng(0).permutation(2500)]
    assert INCEPTION_SCORE.compute(generated=evidence(shuffled, "logits")).value == pytest.approx(
        found.value, rel=1e-12
    )
    assert found.detail == {"splits": 1.0}


@pytest.mark.parametrize("n", [100, 103, 2503])
def test_splits_are_cut_where_torch_fidelity_cuts_them(n: int) -> None:
    values = logits(4, n)
    parts = [definition(values[i * n // 10 : (i + 1) * n // 10]) for i in range(10)]
    found = INCEPTION_SCORE.compute(generated=evidence(values, "logits"), splits=10)
    assert found.value == pytest.approx(np.mean(parts), rel=1e-12)
    assert found.detail["split_std"] == pytest.approx(np.std(parts), rel=1e-9)
    assert found.detail["splits"] == 10


def test_chunks_are_cut_where_adm_cuts_them() -> None:
    """The last chunk is short and counts like the others."""
    values = logits(5, 230)
    parts = [definition(values[i : i + 50]) for i in range(0, 230, 50)]
    found = INCEPTION_SCORE.compute(generated=evidence(values, "logits"), chunk=50)
    assert found.value == pytest.approx(np.mean(parts), rel=1e-12)
    assert found.detail["splits"] == 5


def test_shuffling_precedes_cutting() -> None:
    values = logits(6, 200)
    order = np.random.RandomState(2020).permutation(200)
    plain = INCEPTION_SCORE.compute(generated=evidence(values[order], "logits"), splits=10)
    found = INCEPTION_SCORE.compute(generated=evidence(values, "logits"), splits=10, shuffle=2020)
    assert found.value == pytest.approx(plain.value, rel=1e-12)
    assert found.detail["split_std"] == pytest.approx(plain.detail["split_std"], rel=1e-9)


def test_parts_of_images_in_the_order_of_classes_are_refused() -> None:
    values = np.repeat(np.eye(10) * 20, 50, axis=0)
    assert INCEPTION_SCORE.compute(generated=evidence(values, "logits")).value == pytest.approx(10, rel=1e-5)
    for parts in ({"splits": 10}, {"splits": 2}, {"chunk": 100}, {"chunk": 70}):
        with pytest.raises(InputRejected, match=r"shuffle=0.*splits=1"):
            INCEPTION_SCORE.compute(generated=evidence(values, "logits"), **parts)
        shuffled = INCEPTION_SCORE.compute(generated=evidence(values, "logits"), **parts, shuffle=0)
        assert shuffled.value > 5
    mixed = values[np.random.default_rng(0).permutation(500)]
    assert INCEPTION_SCORE.compute(generated=evidence(mixed, "logits"), splits=10).value > 5


def test_labels_tell_the_order_before_any_feature_is_made() -> None:
    args = {"splits": 10, "chunk": 0, "shuffle": None, "blocks": 20}
    images, labels = np.zeros((500, 1, 1, 1), np.uint8), np.repeat(np.arange(10), 50)
    assert INCEPTION_SCORE.check is not None
    with pytest.raises(InputRejected, match="classes of array lie together"):
        INCEPTION_SCORE.check(generated=Samples.of(images, labels=labels), **args)
    INCEPTION_SCORE.check(generated=Samples.of(images, labels=labels), **{**args, "shuffle": 0})
    for seed in range(20):
        random = np.random.default_rng(seed).permutation(labels)
        INCEPTION_SCORE.check(generated=Samples.of(images, labels=random), **args)
    for wrong in ({"shuffle": -1}, {"splits": 501}, {"blocks": 1}, {"chunk": -1}, {"splits": 2, "chunk": 9}):
        with pytest.raises(UsageError):
            INCEPTION_SCORE.check(generated=Samples.of(images), **{**args, **wrong})


@pytest.mark.parametrize(("splits", "n"), [(1, 57), (3, 60)])
def test_error_is_that_of_leaving_images_out(splits: int, n: int) -> None:
    values = logits(7, n)

    def score(kept: list[int]) -> float:
        parts = [[i for i in kept if part * n // splits <= i < (part + 1) * n // splits] for part in range(splits)]
        return float(np.mean([definition(values[part]) for part in parts]))

    left_out = np.array([score([j for j in range(n) if j != i]) for i in range(n)])
    found = INCEPTION_SCORE.compute(generated=evidence(values, "logits"), splits=splits, blocks=n)
    expected = math.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum())
    assert found.stderr == pytest.approx(expected, rel=1e-8)
    assert found.error_method == f"jackknife-{n}"


def test_error_is_that_of_the_influence_function_and_shrinks_with_the_root_of_n() -> None:
    """The influence of an image is the score times (its divergence less the mean divergence)."""
    found: dict[int, float] = {}
    for n in (2000, 32000):
        p = softmax(logits(8, n, scale=1.0).astype(np.float64), axis=1)
        divergence = (p * (np.log(p) - np.log(p.mean(axis=0)))).sum(axis=1)
        analytic = math.exp(divergence.mean()) * divergence.std() / math.sqrt(n)
        found[n] = (
            INCEPTION_SCORE.compute(generated=evidence(logits(8, n, scale=1.0), "logits"), blocks=200).stderr or 0.0
        )
        assert found[n] == pytest.approx(analytic, rel=0.2)  # 199 degrees of freedom: deviation 5 %
    assert found[2000] / found[32000] == pytest.approx(4, rel=0.3)


def test_the_deviation_over_splits_is_no_error_bar() -> None:
    found = INCEPTION_SCORE.compute(generated=evidence(logits(9, 2000), "logits"), splits=10)
    assert found.detail["split_std"] > 2 * (found.stderr or math.inf)


def test_wrong_arguments_and_broken_logits_are_refused() -> None:
    with pytest.raises(UsageError, match="not both"):
        INCEPTION_SCORE.compute(generated=evidence(logits(0, 50), "logits"), splits=10, chunk=5)
    with pytest.raises(UsageError, match="50 images into 51 splits"):
        INCEPTION_SCORE.compute(generated=evidence(logits(0, 50), "logits"), splits=51)
    with pytest.raises(UsageError, match="splits=0"):
        INCEPTION_SCORE.compute(generated=evidence(logits(0, 50), "logits"), splits=0)
    broken = logits(0, 50)
    broken[7, 3] = np.nan
    with pytest.raises(InputRejected, match="not finite"):
        INCEPTION_SCORE.compute(generated=evidence(broken, "logits"))


def test_contract_says_what_it_needs() -> None:
    assert INCEPTION_SCORE.taps == ("logits",) and INCEPTION_SCORE.higher_is_better is True
    assert INCEPTION_SCORE.bounds == (1.0, math.inf)
