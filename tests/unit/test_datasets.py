"""The data sets `folder`, `digits` and `cifar10`; `shapes` has a file of its own."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from genbench import registry
from genbench.arrays import Samples
from genbench.contracts import Dataset
from genbench.datasets import cifar10, digits
from genbench.datasets.cifar10 import CIFAR10
from genbench.datasets.digits import DIGITS
from genbench.datasets.folder import FOLDER
from genbench.errors import InputRejected, MissingAsset, UsageError
from genbench.images import write_images
from genbench.records import Ref


@pytest.mark.parametrize("name", ["shapes", "digits", "cifar10", "folder"])
def test_every_name_is_a_data_set_of_that_name(name: str) -> None:
    value = registry.get("dataset", name)
    assert isinstance(value, Dataset)
    assert value.name == name
    assert "reference" in value.splits


# digits


def published() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    return pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)


def test_digits_are_enlarged_as_torch_interpolates() -> None:
    import torch

    values = published()[0][:50].reshape(-1, 1, 8, 8)
    fine = torch.nn.functional.interpolate(torch.from_numpy(values), size=32, mode="bilinear", align_corners=False)
    expected = np.floor(fine.numpy() * 255 / 16 + 0.5).astype(np.uint8)
    images = digits.enlarge(values[:, 0])
    assert images.shape == (50, 3, 32, 32)
    for channel in range(3):
        assert np.array_equal(images[:, channel], expected[:, 0])


def test_every_digit_is_in_one_split_with_its_label() -> None:
    values, labels = published()
    whole = zip(digits.enlarge(values.reshape(-1, 8, 8)), labels, strict=True)
    expected = Counter((image.tobytes(), int(label)) for image, label in whole)
    found: Counter[tuple[bytes, int]] = Counter()
    for split, count in (("train", 1297), ("test", 500)):
        samples = DIGITS.load(split)
        assert samples.labels is not None
        assert samples.labels.dtype == np.int64
        assert samples.count == count
        assert samples.classes == tuple("0123456789")
        # the order mixes the classes: each has its share of the first 200
        assert np.bincount(samples.labels[:200]).min() >= 10
        found.update((i.tobytes(), int(k)) for i, k in zip(samples.read(0, count), samples.labels, strict=True))
    assert found == expected


def test_the_split_of_digits_is_fixed() -> None:
    first = [1457, 1074, 1038, 1402, 952]  # of the SHA-256 of "digits 0" .. "digits 1796"
    values, labels = published()
    samples = DIGITS.load("test")
    assert np.array_equal(samples.read(0, 5), digits.enlarge(values[first].reshape(-1, 8, 8)))
    assert samples.labels is not None
    assert np.array_equal(samples.labels[:5], labels[first])


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingAsset, match=r"pip install 'genbench\[digits\]'"):
        DIGITS.load("train")


# cifar10

COUNTS = {
    "data_batch_1": 3,
    "data_batch_2": 2,
    "data_batch_3": 1,
    "data_batch_4": 2,
    "data_batch_5": 4,
    "test_batch": 5,
}


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[NDArray[np.uint8], list[int]]]:
    """A tiny data set in the published format, whose digests torchvision is told to expect."""
    from torchvision.datasets import CIFAR10 as Reader

    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    content, digests = {}, {}

    def write(name: str, value: dict[str, object]) -> None:
        data = pickle.dumps(value, protocol=2)
        (folder / name).write_bytes(data)
        digests[name] = hashlib.md5(data, usedforsecurity=False).hexdigest()

    for name, count in COUNTS.items():
        # A row is 1024 red, 1024 green and 1024 blue values, each row by row.
        planes = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        labels = rng.integers(0, 10, count).tolist()
        write(name, {"data": planes.reshape(count, 3072), "labels": labels})
        content[name] = (planes, labels)
    write("batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    monkeypatch.setattr(Reader, "train_list", [[n, digests[n]] for n in COUNTS if n != "test_batch"])
    monkeypatch.setattr(Reader, "test_list", [["test_batch", digests["test_batch"]]])
    monkeypatch.setattr(Reader, "meta", Reader.meta | {"md5": digests["batches.meta"]})
    return content


def test_cifar10_is_read_in_its_published_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = write_cifar10(tmp_path, monkeypatch)
    batches = [content[f"data_batch_{i}"] for i in range(1, 6)]
    expected = {
        "train": (np.concatenate([b[0] for b in batches]), [label for b in batches for label in b[1]]),
        "test": content["test_batch"],
    }
    for split, (images, labels) in expected.items():
        samples = CIFAR10.load(split, directory=tmp_path)
        assert samples.labels is not None
        assert np.array_equal(samples.read(0, samples.count), images)
        assert samples.labels.tolist() == labels
        assert samples.classes[3] == "class 3"
    named = CIFAR10.load("test", directory=str(tmp_path / "cifar-10-batches-py"))
    assert named.fingerprint() == CIFAR10.load("test", directory=tmp_path).fingerprint()


def test_cifar10_says_what_is_missing_and_where_it_is(tmp_path: Path) -> None:
    from torchvision.datasets import CIFAR10 as Reader

    assert Reader.url == cifar10.URL
    assert Reader.tgz_md5 == cifar10.MD5
    for directory in (None, tmp_path):
        with pytest.raises(MissingAsset) as caught:
            CIFAR10.load("train", directory=directory)
        message = str(caught.value)
        assert caught.value.exit_code == 6
        assert all(part in message for part in (cifar10.URL, cifar10.MD5, "--data-dir")), message
        assert "\n" not in message
    assert str(tmp_path / "cifar-10-batches-py" / "data_batch_1") in message
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"")
    with pytest.raises(MissingAsset, match="is there, but packed"):
        CIFAR10.load("train", directory=tmp_path)


@pytest.mark.parametrize("name", ["data_batch_4", "test_batch", "batches.meta"])
def test_nothing_of_a_changed_cifar10_is_unpickled(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, monkeypatch)
    evidence = tmp_path / "ran"

    class Attack:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (evidence,)

    path = tmp_path / "cifar-10-batches-py" / name
    path.write_bytes(pickle.dumps(Attack()))
    pickle.loads(path.read_bytes())
    assert evidence.exists(), "the attack of this test does not work"
    evidence.unlink()
    monkeypatch.setattr(pickle, "load", lambda *a, **k: pytest.fail("a batch was unpickled"))
    with pytest.raises(MissingAsset, match=f"{name} is not the published file"):
        CIFAR10.load("train", directory=tmp_path)
    assert not evidence.exists()


# folder


def test_folder_is_the_images_below_it(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 4), dtype=np.uint8)
    write_images(Samples.of(images[:2]), tmp_path / "b")
    write_images(Samples.of(images[2:]), tmp_path / "a")
    component, ref = registry.bind("dataset", Ref.parse(f"folder(path={str(tmp_path)!r})"))
    samples = component.load(component.splits["reference"], **ref.args)
    assert component is FOLDER
    assert np.array_equal(samples.read(0, 5), images[[2, 3, 4, 0, 1]])
    assert samples.labels.tolist() == [0, 0, 0, 1, 1]
    assert samples.classes == ("a", "b")


def test_folder_without_images_or_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"folder\(path=\.\.\.\)"):
        registry.bind("dataset", Ref.parse("folder"))
    with pytest.raises(InputRejected, match="has no images"):
        FOLDER.load("all", path=str(tmp_path))


@pytest.mark.parametrize(("value", "split"), [(DIGITS, "validation"), (CIFAR10, "held_out"), (FOLDER, "test")])
def test_unknown_splits(value: Dataset, split: str, tmp_path: Path) -> None:
    args = {"path": str(tmp_path)} if value is FOLDER else {}
    with pytest.raises(UsageError, match=split):
        value.load(split, **args)
