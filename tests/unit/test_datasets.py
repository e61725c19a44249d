"""The data sets `folder`, `digits`, `cifar10` and those of the papers; `shapes` has a file of its own."""

from __future__ import annotations

import hashlib
import pickle
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_up import random_images
from numpy.typing import NDArray

from genbench import papers, registry
from genbench.arrays import Samples
from genbench.contracts import Dataset
from genbench.datasets import cifar10, digits, of_papers
from genbench.datasets.cifar10 import CIFAR10
from genbench.datasets.digits import DIGITS
from genbench.datasets.folder import FOLDER
from genbench.errors import InputRejected, MissingAsset, UsageError
from genbench.images import open_images, write_images, write_npz
from genbench.records import Ref


@pytest.mark.parametrize("name", registry.BUILTIN["dataset"])
def test_every_name_is_a_data_set_of_that_name(name: str) -> None:
    value = registry.get("dataset", name)
    assert isinstance(value, Dataset)
    assert value.name == name
    assert "reference" in value.splits


# digits


def of_sklearn() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    return pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)


def test_digits_are_enlarged_as_torch_interpolates() -> None:
    import torch

    values = of_sklearn()[0][:50].reshape(-1, 1, 8, 8)
    fine = torch.nn.functional.interpolate(torch.from_numpy(values), size=32, mode="bilinear", align_corners=False)
    expected = np.floor(fine.numpy() * 255 / 16 + 0.5).astype(np.uint8)
    images = digits.enlarge(values[:, 0])
    assert images.shape == (50, 3, 32, 32)
    for channel in range(3):
        assert np.array_equal(images[:, channel], expected[:, 0])


def test_every_digit_is_in_one_split_with_its_label() -> None:
    values, labels = of_sklearn()
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
    values, labels = of_sklearn()
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


# those of the papers

PAPERS = [name for name, (target, _) in registry.BUILTIN["dataset"].items() if "of_papers" in target]


def test_names_and_sizes_are_those_that_the_published_numbers_are_found_by(tmp_path: Path) -> None:
    resolutions = {papers._plain(name): resolution for name, (_, resolution) in papers.DATASETS.items()}
    assert {papers._plain(name) for name in PAPERS} == set(resolutions) - {"cifar10"}
    for name in PAPERS:
        side = resolutions[papers._plain(name)]
        write_npz(Samples.of(random_images(2, side)), tmp_path / f"{name}.npz")
        value = registry.get("dataset", name)
        samples = value.load(value.splits["reference"], directory=tmp_path)
        assert samples.shape == (3, side, side)
        # What `papers.comparable` looks for in a name is the first of train, test and val.
        assert papers._split(samples.origin) == ("val" if name == "coco" else "train")


def test_protocols_and_numbers_of_samples_are_those_of_the_papers() -> None:
    found = {name: registry.get("dataset", name) for name in PAPERS}
    assert {name for name, value in found.items() if value.protocol == "adm"} == {
        *(f"imagenet{side}" for side in (64, 128, 256, 512)),
        *(f"lsun-{scene}" for scene in ("bedroom", "cat", "horse", "church")),
    }
    assert {value.protocol for value in found.values()} == {"adm", "tf1"}
    assert {name: value.default_samples for name, value in found.items() if value.default_samples != 50_000} == {
        "coco": 30_000
    }


def test_a_folder_a_zip_and_an_array_hold_the_same_set(tmp_path: Path) -> None:
    pixels = random_images(5, 64)
    write_images(Samples.of(pixels), tmp_path / "celeba" / "deep")
    write_images(Samples.of(pixels), tmp_path / "celeba" / "other", start=5)
    with zipfile.ZipFile(tmp_path / "celeba.zip", "w") as archive:
        for path in sorted((tmp_path / "celeba").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path))
    write_npz(Samples.of(np.concatenate([pixels, pixels])), tmp_path / "celeba.npz")
    for left in ("celeba", "celeba.zip", "celeba.npz"):
        samples = of_papers.CELEBA.load("train", directory=tmp_path)
        assert samples is not None
        assert np.array_equal(samples.read(0, samples.count), np.concatenate([pixels, pixels]))
        assert samples.labels is None, "subfolders of faces are no classes"
        assert samples.origin == "celeba train"
        (tmp_path / left).rename(tmp_path / f"not-{left}")  # then the next one in the order is read


def test_the_reference_batch_of_adm_comes_first_and_is_named(tmp_path: Path) -> None:
    write_images(Samples.of(random_images(3, 64, seed=1)), tmp_path / "imagenet64")
    batch = tmp_path / "VIRTUAL_imagenet64_labeled.npz"
    write_npz(Samples.of(random_images(2, 64), labels=np.array([7, 3])), batch)
    samples = of_papers.IMAGENET64.load("train", directory=str(tmp_path))
    assert samples is not None
    assert samples.origin == "imagenet64 train (ADM reference batch)"
    assert samples.fingerprint() == open_images(batch).fingerprint()
    assert samples.labels is not None and samples.labels.tolist() == [7, 3]
    batch.unlink()
    own = of_papers.IMAGENET64.load("train", directory=tmp_path)
    assert own is not None and own.count == 3 and own.origin == "imagenet64 train"


def test_the_subfolders_of_imagenet_are_its_classes(tmp_path: Path) -> None:
    image = random_images(1, 64)
    write_images(Samples.of(image), tmp_path / "imagenet64" / "n0000")
    one = (tmp_path / "imagenet64" / "n0000" / "000000.png").read_bytes()
    for number in range(1, 1000):
        folder = tmp_path / "imagenet64" / f"n{number:04d}"
        folder.mkdir()
        (folder / "a.png").write_bytes(one)
    samples = of_papers.IMAGENET64.load("train", directory=tmp_path)
    assert samples is not None and samples.labels is not None
    assert samples.labels.tolist() == list(range(1000))
    assert samples.classes[17] == "n0017"
    (tmp_path / "imagenet64" / "n0500" / "a.png").unlink()
    samples = of_papers.IMAGENET64.load("train", directory=tmp_path)
    assert samples is not None and samples.count == 999 and samples.classes[500:502] == ("n0500", "n0501")
    (tmp_path / "imagenet64" / "n0500").rmdir()
    with pytest.raises(InputRejected, match="has 999 subfolders, and imagenet64 1000 classes"):
        of_papers.IMAGENET64.load("train", directory=tmp_path)


def test_captions_of_coco_come_along_and_a_test_split_may_be_absent(tmp_path: Path) -> None:
    write_images(Samples.of(random_images(2, 256)), tmp_path / "coco")
    for number, text in enumerate(("a horse", "a boat")):
        (tmp_path / "coco" / f"{number:06d}.txt").write_text(text)
    samples = of_papers.COCO.load("val", directory=tmp_path)
    assert samples is not None and samples.captions == ("a horse", "a boat")
    assert of_papers.COCO.load("test", directory=tmp_path) is None
    assert of_papers.COCO.load("test") is None
    write_images(Samples.of(random_images(3, 256)), tmp_path / "coco-test")
    held_out = of_papers.COCO.load("test", directory=tmp_path)
    assert held_out is not None and (held_out.count, held_out.origin) == (3, "coco test")
    with pytest.raises(UsageError, match="coco has no split 'train'"):
        of_papers.COCO.load("train", directory=tmp_path)


@pytest.mark.parametrize("name", PAPERS)
def test_what_is_missing_is_said_with_its_name_and_address(name: str, tmp_path: Path) -> None:
    value = registry.get("dataset", name)
    split = value.splits["reference"]
    for directory in (None, tmp_path):
        with pytest.raises(MissingAsset) as caught:
            value.load(split, directory=directory)
        message = str(caught.value)
        assert caught.value.exit_code == 6
        assert message.isprintable() and "--data-dir" in message
        assert f"into {name}/, {name}.zip or {name}.npz" in message
    assert f"{tmp_path} has none of" in message
    batches = {
        "imagenet64": "imagenet/64/VIRTUAL_imagenet64_labeled.npz",
        "imagenet128": "imagenet/128/VIRTUAL_imagenet128_labeled.npz",
        "imagenet256": "imagenet/256/VIRTUAL_imagenet256_labeled.npz",
        "imagenet512": "imagenet/512/VIRTUAL_imagenet512.npz",
        "lsun-bedroom": "lsun/bedroom/VIRTUAL_lsun_bedroom256.npz",
        "lsun-cat": "lsun/cat/VIRTUAL_lsun_cat256.npz",
        "lsun-horse": "lsun/horse/VIRTUAL_lsun_horse256.npz",
    }
    root = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/"
    assert (f"{root}{batches[name]}" in message) if name in batches else ("http" not in message)


def test_statistics_may_stand_in_place_of_the_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "ffhq.npz", mu=np.zeros(2048), sigma=np.eye(2048, dtype=np.float32))
    samples = of_papers.FFHQ.load("train", directory=tmp_path)
    assert samples is not None
    assert samples.count == 0 and samples.origin == "ffhq train" and list(samples.statistics) == ["pooled"]
    (tmp_path / "ffhq.npz").rename(tmp_path / "ffhq-test.npz")
    with pytest.raises(InputRejected, match="are no samples"):
        of_papers.FFHQ.load("test", directory=tmp_path)


def test_another_resolution_is_refused(tmp_path: Path) -> None:
    for side, shape in ((256, (128, 128)), (64, (64, 128))):
        value = {256: of_papers.FFHQ, 64: of_papers.CELEBA}[side]
        write_npz(Samples.of(random_images(1, 128)[:, :, : shape[0], : shape[1]]), tmp_path / f"{value.name}.npz")
        with pytest.raises(InputRejected, match=rf"is of {side}x{side} pixels, and .*npz of {shape[1]}x{shape[0]};"):
            value.load("train", directory=tmp_path)
