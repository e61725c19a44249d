"""Labels of two sides mean the same classes, or are refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genbench import pipeline
from genbench.arrays import Samples
from genbench.contracts import Classifier
from genbench.datasets import shapes
from genbench.errors import GenbenchError, InputRejected
from genbench.extractors import compact
from genbench.images import open_images
from genbench.labels import aligned, in_order, of_classifier
from genbench.protocols import PROTOCOLS
from genbench.records import Measurement, Result


def labelled(labels: list[int], *classes: str, origin: str = "side") -> Samples:
    images = np.zeros((len(labels), 3, 1, 1), np.uint8)
    return Samples.of(images, labels=np.array(labels), classes=classes, origin=origin)


def meanings(samples: Samples | None) -> list[str]:
    assert samples is not None and samples.labels is not None
    return [samples.classes[label] for label in samples.labels.tolist()]


def test_names_are_matched_whatever_their_order() -> None:
    ours, theirs = labelled([0, 1, 2, 0], "cat", "dog", "zebu"), labelled([2, 1, 0], "zebu", "cat", "dog")
    found = aligned({"generated": ours, "reference": theirs, "test": None})
    assert not found.problem and not found.notes and found.roles["test"] is None
    for role, side in (("generated", ours), ("reference", theirs)):
        after = found.roles[role]
        assert after is not None and after.classes == theirs.classes and meanings(after) == meanings(side)
    by_data_set = aligned({"generated": ours}, ("dog", "zebu", "cat")).roles["generated"]
    assert by_data_set is not None and by_data_set.labels is not None
    assert by_data_set.labels.tolist() == [2, 0, 1, 2]


@pytest.mark.parametrize("names", [("a", "c"), ("x", "y"), ("a", "b", "c"), ("a",)])
def test_other_names_are_a_problem_on_either_side(names: tuple[str, ...]) -> None:
    ours, theirs = labelled([0, 0], *names, origin="ours"), labelled([0, 1], "a", "b", origin="theirs")
    for sides in ({"generated": ours, "reference": theirs}, {"generated": theirs, "reference": ours}):
        found = aligned(sides)
        assert "only in" in found.problem and found.roles == sides


def test_numbers_are_taken_for_places_in_the_list_of_names_and_it_is_said() -> None:
    names = labelled([1, 0], "b", "a", origin="named")
    for numbers in (labelled([0, 1, 1]), labelled([0, 1, 1], "0", "1")):
        found = aligned({"generated": numbers, "reference": names})
        assert meanings(found.roles["generated"]) == ["b", "a", "a"]
        assert "0 is taken for 'b'" in found.notes[0] and "named" in found.notes[0]
    assert "0 to 2" in aligned({"generated": labelled([0, 2]), "reference": names}).problem


def test_names_that_are_numbers_are_numbers() -> None:
    assert in_order(["10", "9", "0"]) == ["0", "9", "10"]
    assert in_order(["10", "9", "x"]) == ["10", "9", "x"]
    folders = labelled([0, 1, 2], "3", "7", "10")
    found = aligned({"generated": folders, "reference": labelled([2, 1, 0], "10", "007", "3")})
    for role, expected in (("generated", [3, 7, 10]), ("reference", [3, 7, 10])):
        side = found.roles[role]
        assert side is not None and side.labels is not None and side.labels.tolist() == expected
    assert meanings(found.roles["generated"]) == ["3", "7", "10"]
    unnamed = aligned({"generated": labelled([3, 10]), "reference": folders})
    assert not unnamed.problem
    assert "numbered 3, 7, 10" in aligned({"generated": labelled([3, 4]), "reference": folders}).problem
    assert aligned({"generated": labelled([0, 1], "3", "8"), "reference": folders}).problem


def test_labels_beyond_the_names_are_a_problem() -> None:
    assert "go up to 5" in aligned({"generated": labelled([5], "a", "b")}).problem


def test_a_classifier_is_asked_by_name() -> None:
    knows = Classifier(count=3, classes=("a", "b", "c"))
    assert of_classifier(labelled([0, 1], "c", "a"), knows)[0].tolist() == [2, 0]
    assert of_classifier(labelled([2, 1]), knows)[0].tolist() == [2, 1]
    with pytest.raises(InputRejected, match="knows no class d"):
        of_classifier(labelled([0, 1], "a", "d"), knows)
    nameless = Classifier(count=3)
    labels, note = of_classifier(labelled([2, 1], "x", "y", "z"), nameless)
    assert labels.tolist() == [2, 1] and "x, y, z" in note
    assert of_classifier(labelled([0, 1], "2", "1"), nameless)[0].tolist() == [2, 1]
    for wrong in (labelled([0, 1], "x", "y"), labelled([3]), labelled([0], "3")):
        with pytest.raises(InputRejected, match="3"):
            of_classifier(wrong, nameless)


def test_compact_names_the_classes_of_shapes() -> None:
    assert compact.CLASSES == shapes.CLASSES
    assert compact.load().classifier == Classifier(count=10, classes=shapes.CLASSES)


def save(folder: Path, names: dict[int, str], drawn: Samples) -> None:
    assert drawn.labels is not None
    for i, image in enumerate(drawn.read(0, drawn.count)):
        path = folder / names[int(drawn.labels[i])] / f"{i:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)


def score(generated: Samples, reference: Samples, *metrics: str) -> tuple[Result, ...]:
    measurements = [Measurement.parse(metric) for metric in metrics]
    return pipeline.score(generated, reference, measurements, protocol=PROTOCOLS["embedded"]).results


def test_folders_of_any_naming_give_the_values_of_the_labels(tmp_path: Path) -> None:
    drawn, real = shapes.load("test").subset(0, 200), shapes.load("train").subset(0, 300)
    assert drawn.labels is not None
    images = drawn.read(0, 200)
    np.savez(tmp_path / "labels.npz", arr_0=images.transpose(0, 2, 3, 1), arr_1=drawn.labels)
    save(tmp_path / "named", dict(enumerate(shapes.CLASSES)), drawn)
    save(tmp_path / "numbered", {i: str(i) for i in range(10)}, drawn)
    expected = score(drawn, real, "fid-per-class", "top1")
    assert expected[1].score.value == 1
    for name in ("labels.npz", "named", "numbered"):
        found = score(open_images(tmp_path / name), real, "fid-per-class", "top1")
        assert found[0].score.value == pytest.approx(expected[0].score.value, rel=1e-6), name
        assert found[1].score.value == 1, name
    # Ten to twelve: 10 and 11 sort after 9, not after 1.
    both = score(open_images(tmp_path / "numbered"), open_images(tmp_path / "labels.npz"), "fid-per-class")
    assert both[0].score.value == pytest.approx(0, abs=1e-6)


def test_more_than_ten_numbered_folders_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (36, 8, 8, 3), np.uint8)
    for i, image in enumerate(images):
        (tmp_path / "folders" / str(i % 12)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "folders" / str(i % 12) / f"{i}.png")
    np.savez(tmp_path / "same.npz", arr_0=images, arr_1=np.arange(36) % 12)
    sides = open_images(tmp_path / "folders"), open_images(tmp_path / "same.npz")
    assert sides[0].classes == tuple(map(str, range(12)))
    assert score(*sides, "fid-per-class@pixels")[0].score.value == pytest.approx(0, abs=1e-3)


def test_renamed_folders_are_refused_where_labels_are_read_and_only_there(tmp_path: Path) -> None:
    drawn = shapes.load("test").subset(0, 120)
    names = dict(enumerate(shapes.CLASSES))
    save(tmp_path / "real", names, drawn)
    save(tmp_path / "renamed", names | {9: "zz-arrow"}, drawn)
    sides = open_images(tmp_path / "renamed"), open_images(tmp_path / "real")
    assert score(*sides, "fid")[0].score.value == pytest.approx(0, abs=1e-6)
    with pytest.raises(InputRejected, match=r"zz-arrow only in .*arrow only in"):
        score(*sides, "fid-per-class")
    with pytest.raises(GenbenchError, match="knows no class zz-arrow"):
        score(*sides, "top1")


def test_an_empty_class_folder_shifts_no_other(tmp_path: Path) -> None:
    drawn = shapes.load("test").subset(0, 120)
    assert drawn.labels is not None
    some = drawn.take(np.flatnonzero(drawn.labels != 0), origin="some", fingerprint=lambda: "some")
    save(tmp_path / "some", dict(enumerate(shapes.CLASSES)), some)
    (tmp_path / "some" / "circle").mkdir()
    (tmp_path / "some" / ".hidden").mkdir()
    opened = open_images(tmp_path / "some")
    assert sorted(opened.classes) == sorted(shapes.CLASSES)
    assert score(opened, shapes.load("train").subset(0, 300), "top1")[0].score.value == 1
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.mkdir("circle")
        for path in (tmp_path / "some").rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path / "some").as_posix())
    assert open_images(tmp_path / "some.zip").classes == opened.classes
