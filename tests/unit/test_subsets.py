"""Choices of images: by content, by class, and never by the order of files."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up import random_images
from PIL import Image

from genbench import pipeline, sets, subsets
from genbench.arrays import Samples
from genbench.datasets import shapes
from genbench.errors import UsageError
from genbench.images import open_images
from genbench.measuring import Execution
from genbench.protocols import PROTOCOLS
from genbench.records import Measurement


def contents(samples: Samples) -> list[bytes]:
    return [image.tobytes() for image in samples.read(0, samples.count)]


def test_every_layout_of_the_same_images_gives_the_same_choice(tmp_path: Path) -> None:
    images, labels = random_images(60), np.repeat(np.arange(3), [30, 20, 10])
    for i, image in enumerate(images):
        path = tmp_path / "folder" / "abc"[labels[i]] / f"{997 * i % 60:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for i in np.random.default_rng(1).permutation(60).tolist():
            buffer = io.BytesIO()
            Image.fromarray(images[i].transpose(1, 2, 0)).save(buffer, "BMP")
            archive.writestr(f"{'xyz'[labels[i]]}/{i}.bmp", buffer.getvalue())
    order = np.random.default_rng(2).permutation(60)
    np.savez(tmp_path / "images.npz", arr_0=images[order].transpose(0, 2, 3, 1), arr_1=2 - labels[order])
    found = [subsets.subset(open_images(tmp_path / n), 13)[0] for n in ("folder", "images.zip", "images.npz")]
    assert contents(found[0]) == contents(found[1]) == contents(found[2])
    assert len({samples.fingerprint() for samples in found}) == 1
    assert found[0].origin == f"{tmp_path}/folder, 13 of 60, seed 0, by class"


def test_classes_keep_their_shares_by_largest_remainder() -> None:
    labels = np.repeat(np.arange(4), [50, 25, 24, 1])
    digests = np.random.default_rng(0).integers(0, 256, (100, 32), dtype=np.uint8)
    # Quotas of 11 of 100: 5.5, 2.75, 2.64, 0.11.
    assert Counter(labels[subsets.choice(digests, 11, labels=labels)].tolist()) == {0: 5, 1: 3, 2: 3}
    for count in range(1, 101):
        chosen = subsets.choice(digests, count, labels=labels)
        assert len(set(chosen.tolist())) == count
        shares = np.bincount(labels[chosen], minlength=4)
        assert (np.abs(shares - np.array([50, 25, 24, 1]) * count / 100) < 1).all()


def test_the_numbering_of_classes_and_the_order_of_images_are_nothing() -> None:
    rng = np.random.default_rng(0)
    digests, labels = rng.integers(0, 256, (90, 32), dtype=np.uint8), np.repeat(np.arange(9), 10)
    for count in (5, 13, 40):  # quotas with equal remainders, so that ties decide
        first = subsets.choice(digests, count, labels=labels)
        order = rng.permutation(90)
        other = subsets.choice(digests[order], count, labels=(8 - labels)[order])
        assert np.array_equal(digests[first], digests[order][other])


def test_another_seed_gives_another_choice_and_every_image_is_as_likely() -> None:
    digests = np.random.default_rng(0).integers(0, 256, (40, 32), dtype=np.uint8)
    times = np.zeros(40)
    for seed in range(500):
        times[subsets.choice(digests, 10, seed=seed)] += 1
    # Binomial(500, 1/4): mean 125, deviation 9.7; 40 images within 4 deviations.
    assert times.sum() == 5000 and np.abs(times - 125).max() < 40


def test_copies_of_one_image_are_chosen_in_proportion() -> None:
    digests = np.random.default_rng(0).integers(0, 256, (1000, 32), dtype=np.uint8)
    digests[:500] = digests[0]
    for seed in range(8):
        copies = int((subsets.choice(digests, 200, seed=seed) < 500).sum())
        assert 70 < copies < 130  # hypergeometric: mean 100, deviation 6.3


def test_all_images_and_images_in_a_random_order_stay_in_their_order() -> None:
    samples = Samples.of(random_images(9))
    assert subsets.subset(samples, 9)[0] is samples
    drawn = replace(samples, exchangeable=True)
    assert contents(subsets.subset(drawn, 4)[0]) == contents(samples)[:4] == contents(subsets.outline(drawn, 4))
    for count in (0, 10):
        with pytest.raises(UsageError, match=f"9 images; {count}"):
            subsets.subset(samples, count)


def sorted_and_shuffled(count: int) -> tuple[Samples, Samples]:
    """The same shapes, class by class and in a random order."""
    drawn = shapes.load("validation").subset(0, count)
    images, labels = drawn.read(0, count), drawn.labels
    assert labels is not None
    orders = np.argsort(labels, kind="stable"), np.random.default_rng(0).permutation(count)
    one, two = (Samples.of(images[o], labels=labels[o], classes=drawn.classes) for o in orders)
    return one, two


METRICS = [Measurement.parse(m) for m in ("fid", "recall", "coverage", "is", "vendi")]


def test_floors_of_sorted_and_of_shuffled_held_out_images_are_equal() -> None:
    generated, reference = shapes.load("test").subset(0, 150), shapes.load("train").subset(0, 600)
    floors = []
    for held_out in sorted_and_shuffled(900):
        outcome = pipeline.score(
            generated, reference, METRICS, protocol=PROTOCOLS["embedded"], held_out=held_out, execution=Execution()
        )
        floors.append([result.floor.value for result in outcome.results if result.floor is not None])
    assert len(floors[0]) == len(METRICS)
    assert floors[0] == pytest.approx(floors[1], rel=1e-6)
    fair = pipeline.score(
        shapes.load("validation").subset(1000, 1150), reference, METRICS, protocol=PROTOCOLS["embedded"]
    )
    for floor, result in zip(floors[0], fair.results, strict=True):
        assert abs(floor - result.score.value) < 6 * (result.score.stderr or 0)


def test_a_protocol_limits_both_sides_by_content() -> None:
    protocol = replace(PROTOCOLS["embedded"], references={"precision": 200, "density": 200}, samples={"density": 100})
    generated = shapes.load("test").subset(0, 150)
    wanted = [Measurement.parse("precision"), Measurement.parse("density")]
    values = []
    for reference in sorted_and_shuffled(900):
        precision, density = pipeline.score(generated, reference, wanted, protocol=protocol).results
        assert precision.reference is not None and precision.reference.count == 200
        assert precision.reference.name == "array, 200 of 900, seed 0, by class"
        assert (precision.generated.count, density.generated.count) == (150, 100)
        values.append((precision.score.value, density.score.value, precision.reference.digest))
    assert values[0] == values[1]


def test_a_count_of_a_folder_and_a_limit_of_the_reference_are_by_class(tmp_path: Path) -> None:
    drawn = sorted_and_shuffled(300)[0]
    images = drawn.read(0, 300).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "real.npz", arr_0=images, arr_1=drawn.labels)
    text = f"folder(path={str(tmp_path / 'real.npz')!r}, count=100)"
    opened, _, _ = sets.open_side(text, Execution(), role="reference")
    assert opened.labels is not None and drawn.labels is not None
    shares = np.bincount(drawn.labels, minlength=10) / 3
    assert (np.abs(np.bincount(opened.labels, minlength=10) - shares) < 1).all()
    protocol = replace(PROTOCOLS["embedded"], num_reference=100)
    (result,) = pipeline.score(drawn, drawn, METRICS[:1], protocol=protocol).results
    assert result.reference is not None and result.reference.name == "array, 100 of 300, seed 0, by class"


def test_dgm_and_adm_see_as_many_images_as_their_tools() -> None:
    dgm, adm = PROTOCOLS["dgm"], PROTOCOLS["adm"]
    manifolds = dict.fromkeys(("precision", "recall", "density", "coverage"), 10_000)
    assert dgm.samples == dgm.references == manifolds
    assert dgm.num_reference == 50_000 and dgm.args["vendi"] == {"per_class": True}
    assert adm.references == {"precision": 10_000, "recall": 10_000} and not adm.samples
