"""`cifar10`: the 60,000 photographs of CIFAR-10, read by torchvision from files that the user downloaded.

The published batches are pickles. Nothing is unpickled before the MD5 of every file equals the published one.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np

from genbench.arrays import Samples
from genbench.contracts import Dataset
from genbench.errors import MissingAsset, UsageError, nearest

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
SPLITS = ("train", "test")


def load(split: str, *, directory: str | Path | None = None) -> Samples:
    """Labelled photographs, uint8 (n, 3, 32, 32) RGB in the published order.

    Args:
        split: "train" (50,000 images) or "test" (10,000).
        directory: the folder that holds `cifar-10-batches-py`, or that folder itself.

    Raises:
        UsageError: an unknown split.
        MissingAsset: a file is absent or is not the published one. Nothing is downloaded.

    Source:
        Krizhevsky 2009, "Learning multiple layers of features from tiny images"; `torchvision.datasets.CIFAR10`.
    """
    if split not in SPLITS:
        raise UsageError(f"cifar10 has no split {split!r}. {nearest(split, SPLITS)}")
    how = f"Download {URL} (md5 {MD5}), unpack it, and name the folder it was unpacked in with --data-dir."
    if directory is None:
        raise MissingAsset(f"cifar10 is not part of the package and no folder was given. {how}")
    from torchvision.datasets import CIFAR10 as Reader

    root = Path(directory)
    if root.name == Reader.base_folder:
        root = root.parent
    wanted = [*Reader.train_list, *Reader.test_list, [Reader.meta["filename"], Reader.meta["md5"]]]
    for name, md5 in wanted:
        path = root / Reader.base_folder / name
        if not path.is_file():
            packed = (
                f" {Reader.filename} is there, but packed: unpack it." if (root / Reader.filename).is_file() else ""
            )
            raise MissingAsset(f"cifar10 needs {path}, which does not exist.{packed} {how}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
        if found != md5:
            raise MissingAsset(f"{path} is not the published file of CIFAR-10 (md5 {found}, not {md5}). {how}")
    data = Reader(root=root, train=split == "train", download=False)
    return Samples.of(
        np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)),
        origin=f"cifar10 {split}",
        labels=np.array(data.targets, dtype=np.int64),
        classes=tuple(data.classes),
    )


CIFAR10 = Dataset(
    name="cifar10",
    summary="60,000 photographs of ten classes at 32x32, through torchvision",
    source="Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html",
    load=load,
    splits={"reference": "train", "held_out": "test", "test": "test"},
    default_samples=10_000,
    protocol="tf1",
)
