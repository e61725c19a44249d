"""CLIP scores of embeddings whose angles are known."""

from __future__ import annotations

import numpy as np
import pytest
from made_up import evidence
from numpy.typing import NDArray

from genbench.arrays import Evidence
from genbench.errors import InputRejected, NotComparable, UsageError
from genbench.metrics.alignment import CLIP_SCORE, cosines


def embedded(images: NDArray[np.float32], captions: NDArray[np.float32]) -> Evidence:
    return evidence(images, "embedding", captions=captions)


def at(degrees: list[float]) -> NDArray[np.float32]:
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def test_cosines_of_known_angles_at_any_length() -> None:
    captions = at([0, 0, 0, 0]) * np.array([[1], [2], [0.5], [100]], np.float32)
    np.testing.assert_allclose(cosines(at([0, 60, 90, 180]) * 7, captions), [1, 0.5, 0, -1], atol=1e-7)


def test_scales_clamp_where_their_definitions_do() -> None:
    sides = embedded(at([60, 120, 180]), at([0, 0, 0]))  # cosines 1/2, -1/2, -1
    hessel = CLIP_SCORE.compute(generated=sides)
    assert hessel.value == pytest.approx(2.5 * 0.5 / 3)
    assert hessel.stderr == pytest.approx(np.std([1.25, 0, 0], ddof=1) / np.sqrt(3))
    assert CLIP_SCORE.compute(generated=sides, scale="cosine100").value == 0
    assert CLIP_SCORE.compute(generated=sides, scale="cosine").value == pytest.approx(-1 / 3)
    good = embedded(at([0, 60, 90]), at([0, 0, 120]))  # 1, 1/2, cos 30
    assert CLIP_SCORE.compute(generated=good, scale="cosine100").value == pytest.approx(100 * (1.5 + 0.75**0.5) / 3)
    assert CLIP_SCORE.compute(generated=good).value == pytest.approx(2.5 * (1.5 + 0.75**0.5) / 3)


def test_shuffled_captions_score_lower() -> None:
    rng = np.random.default_rng(0)
    captions = rng.standard_normal((100, 16)).astype(np.float32)
    images = captions + rng.standard_normal((100, 16)).astype(np.float32)
    right, wrong = (CLIP_SCORE.compute(generated=embedded(images, c)) for c in (captions, np.roll(captions, 1, axis=0)))
    assert right.ci95 is not None and wrong.ci95 is not None and right.ci95[0] > wrong.ci95[1]


def test_invariances_hold() -> None:
    rng = np.random.default_rng(1)
    images, captions = (rng.standard_normal((40, 5)).astype(np.float32) for _ in range(2))
    rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0].astype(np.float32)
    order = rng.permutation(40)
    value = CLIP_SCORE.compute(generated=embedded(images, captions)).value
    changes = {
        "order": (images[order], captions[order]),
        "rotation": (images @ rotation, captions @ rotation),
        "scale": (images * 3, captions * 3),
        "translation": (images + 1, captions + 1),
    }
    for name, sides in changes.items():
        same = CLIP_SCORE.compute(generated=embedded(*sides)).value == pytest.approx(value, rel=1e-5)
        assert same == (name in CLIP_SCORE.invariances), name


def test_errors_name_the_cause() -> None:
    x = at([0, 1])
    with pytest.raises(UsageError, match="hessel, cosine100, cosine"):
        CLIP_SCORE.compute(generated=embedded(x, x), scale="percent")
    with pytest.raises(NotComparable, match=r"\(2, 2\).*\(2, 3\)"):
        CLIP_SCORE.compute(generated=embedded(x, np.ones((2, 3), np.float32)))
    with pytest.raises(InputRejected, match="length 0"):
        CLIP_SCORE.compute(generated=embedded(x, 0 * x))
