"""Accuracies of logits whose ranking is known."""

from __future__ import annotations

import numpy as np
import pytest
from made_up import evidence

from genbench.contracts import Classifier
from genbench.errors import InputRejected, NotComparable, UsageError
from genbench.metrics.classification import TOP1, TOP5, ranks


def outputs(count: int, offset: int = 0) -> Classifier:
    return Classifier(count=count, offset=offset)


def test_ranks_with_ties_go_to_the_first_class() -> None:
    logits = np.array([[3, 1, 2], [3, 1, 2], [1, 1, 0], [1, 1, 0], [0, 0, 0]], np.float32)
    np.testing.assert_array_equal(ranks(logits, np.array([0, 1, 0, 1, 2])), [0, 2, 0, 1, 2])
    rng = np.random.default_rng(0)
    many, labels = rng.standard_normal((50, 9)).astype(np.float32), rng.integers(0, 9, 50)
    by_sorting = [list(np.argsort(-row)).index(label) for row, label in zip(many, labels, strict=True)]
    np.testing.assert_array_equal(ranks(many, labels), by_sorting)


def test_accuracies_count_places() -> None:
    # Image i has its classes in the order 7, 6, ..., 0.
    logits = np.tile(np.arange(8, dtype=np.float32), (4, 1))
    sides = evidence(logits, "logits", labels=[7, 6, 3, 0])
    found = TOP1.compute(generated=sides, classifier=outputs(8))
    assert found.value == 0.25 and found.blocks is not None
    assert sorted(found.blocks.left_out) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    five = TOP5.compute(generated=sides, classifier=outputs(8))
    assert five.value == 0.75
    assert five.error_method == "wilson" and five.stderr == pytest.approx((0.75 * 0.25 / 4) ** 0.5)


def test_offset_and_classes_take_outputs_away() -> None:
    # Six outputs of which 1..4 are the classes 0..3; outputs 0 and 5 would win.
    logits = np.array([[8, 4, 3, 2, 1, 9], [8, 1, 2, 3, 4, 9]], np.float32)
    sides = evidence(logits, "logits", labels=[0, 3])
    whole = outputs(6)
    assert TOP1.compute(generated=sides, classifier=whole, offset=1, classes=4).value == 1
    assert TOP1.compute(generated=sides, classifier=whole).value == 0
    assert TOP1.compute(generated=sides, classifier=whole, offset=1).value == 0
    # What the extractor declares needs no argument.
    assert TOP1.compute(generated=sides, classifier=outputs(4, offset=1)).value == 1


def test_many_images_are_read_in_blocks() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.standard_normal((5000, 7)).astype(np.float32), rng.integers(0, 7, 5000)
    value = TOP1.compute(generated=evidence(logits, "logits", labels=labels.tolist()), classifier=outputs(7)).value
    assert value == (logits.argmax(axis=1) == labels).mean()


def test_errors_name_the_cause() -> None:
    logits, six = np.zeros((2, 6), np.float32), outputs(6)
    with pytest.raises(InputRejected, match="no labels"):
        TOP1.compute(generated=evidence(logits, "logits", labels=None), classifier=six)
    with pytest.raises(InputRejected, match=r"\[0, 6\].*6 classes"):
        TOP1.compute(generated=evidence(logits, "logits", labels=[0, 6]), classifier=six)
    with pytest.raises(UsageError, match="6 outputs; offset=3 and classes=4"):
        TOP1.compute(generated=evidence(logits, "logits", labels=[0, 1]), classifier=six, offset=3, classes=4)
    with pytest.raises(NotComparable, match="first 5 of 5"):
        TOP5.compute(generated=evidence(logits[:, :5], "logits", labels=[0, 1]), classifier=outputs(5))
    with pytest.raises(UsageError, match="offset of top1"):
        TOP1.compute(generated=evidence(logits, "logits", labels=[0, 1]), classifier=six, offset=-1)
    with pytest.raises(InputRejected, match="not finite"):
        TOP1.compute(generated=evidence(logits * np.nan, "logits", labels=[0, 1]), classifier=six)
