"""Which pairs moved most, and the picture of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up import random_images, result
from PIL import Image

from genbench import moved as moving
from genbench.arrays import Evidence, Features, Samples, image_digests
from genbench.baseline import kept_samples
from genbench.errors import NotComparable
from genbench.extractors import compact
from genbench.identities import keyed
from genbench.images.pairs import SIDE, Drawn, draw_pairs
from genbench.sides import Measured

NAMES = tuple("abcdefghij")


def side(name: str, pixels: np.ndarray, **more: object) -> Measured:
    made = replace(result("psnr", extractor=None), generated=replace(result().generated, count=len(pixels)))
    return Measured(name=name, results=(made,), asked="same", samples=Samples.of(pixels, origin=name), **more)


def test_the_pairs_that_moved_most_come_first_by_pixels_where_no_metric_has_features() -> None:
    before = random_images(30, 8)
    after = before.copy()
    for i, step in ((7, 9), (21, 30), (3, 4)):
        after[i] = np.where(after[i] < 128, after[i] + step, after[i] - step)
    found = moving.moved(side("a", before), side("b", after), number=4)
    assert [pair.number for pair in found.pairs] == [21, 7, 3, 0]
    assert [pair.distance for pair in found.pairs] == pytest.approx([30, 9, 4, 0])
    assert found.median == 0 and found.count == 30
    assert (found.pairs[0].base == before[21]).all() and (found.pairs[0].candidate == after[21]).all()


def features_of(pixels: np.ndarray) -> dict[str, np.ndarray]:
    import torch

    embedded = compact.load().embed(torch.from_numpy(pixels), ["pooled", "logits"])
    return {tap: values.numpy() for tap, values in embedded.items()}


def test_stored_features_stand_for_images_that_are_not_there() -> None:
    before = random_images(40, 32)
    after = before.copy()
    after[5], after[11] = 255 - after[5], 0
    values = features_of(before)
    gaps = np.linalg.norm(features_of(after)["pooled"].astype(float) - values["pooled"], axis=1)
    key = keyed(compact.load, compact.load().key)
    taps = {tap: Features(extractor=key, tap=tap, array=array) for tap, array in values.items()}
    digests = image_digests(before)

    def known(labels: np.ndarray | None, key: str = key) -> Measured:
        samples = kept_samples(digests, (3, 32, 32), origin="base", labels=labels, classes=NAMES)
        made = {tap: replace(features, extractor=key) for tap, features in taps.items()}
        evidence = Evidence(samples=samples, taps=made)
        fid = replace(result("fid"), generated=replace(result().generated, count=40))
        return Measured(name="base", results=(fid,), asked="same", samples=samples, kept={"compact": evidence})

    candidate = replace(side("candidate", after), results=known(None).results)
    found = moving.moved(known(np.arange(40) % 10), candidate, number=3)
    order = np.argsort(-gaps)[:2].tolist()
    assert [pair.number for pair in found.pairs[:2]] == order and set(order) == {5, 11}
    assert [pair.distance for pair in found.pairs[:2]] == pytest.approx(gaps[order].tolist(), rel=1e-3)
    assert [pair.label for pair in found.pairs[:2]] == [NAMES[i % 10] for i in order]
    assert all(pair.base is None and pair.candidate is not None for pair in found.pairs)
    # Without labels, the classifier says what it takes both for.
    seen = {i: values["logits"][i].argmax() for i in order}
    for pair in moving.moved(known(None), candidate, number=2).pairs:
        assert pair.label.split(" -> ")[0] == compact.CLASSES[seen[pair.number]]
    with pytest.raises(NotComparable, match="another version"):
        moving.moved(known(None, "other"), candidate)


def test_images_that_do_not_belong_together_have_not_moved() -> None:
    one, other = side("a", random_images(10, 8)), side("b", random_images(10, 8, seed=1))
    with pytest.raises(NotComparable, match="not in pairs"):
        moving.moved(one, replace(other, asked="others"))
    assert moving.moved(one, replace(other, asked="others"), paired=True).count == 10
    with pytest.raises(NotComparable, match="no images"):
        moving.moved(one, replace(other, samples=None))
    with pytest.raises(NotComparable, match="number or size"):
        moving.moved(one, replace(other, samples=Samples.of(random_images(10, 16))))
    bare = replace(one, samples=kept_samples(image_digests(random_images(10, 8)), (3, 8, 8), origin="a"))
    with pytest.raises(NotComparable, match="No metric has features"):
        moving.moved(bare, other)


def test_a_picture_shows_every_pixel_of_a_small_image_and_the_whole_of_a_large_one(tmp_path: Path) -> None:
    small = np.zeros((3, 8, 8), np.uint8)
    small[0, 0, 0] = 255
    drawn = draw_pairs([Drawn(left=small, right=255 - small, lines=("x", "y"))], title=("t",))
    scale = SIDE // 8
    red = (drawn == np.array([255, 0, 0], np.uint8)[:, None, None]).all(axis=0)
    assert red.sum() == scale**2, "one pixel of the image is a square of the picture"
    large = np.full((1, 600, 300), 77, np.uint8)
    drawn = draw_pairs([Drawn(left=large, right=None, lines=())] * 5, title=())
    assert (drawn == 77).all(axis=0).sum() == 5 * SIDE * SIDE // 2
    odd = Drawn(left=small, right=None, lines=("\x1b[31m" + "long " * 200, "é ü 猫"))
    found = moving.Moved(
        base="\n" * 5 + "b" * 2000, candidate="c", pairs=(), count=1, median=0.0, measured_in="features"
    )
    pairs = (moving.MovedPair(number=1, distance=2.0, label="l" * 500, base=small, candidate=small),)
    moving.write(replace(found, pairs=pairs), tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.width < 500
    assert draw_pairs([odd], title=("x",)).shape[0] == 3 == draw_pairs([], title=("nothing",)).shape[0]
