"""`folder`: the user's own images as a data set, from whatever `genbench.images.open_images` reads."""

from __future__ import annotations

from genbench.arrays import Samples
from genbench.contracts import Dataset
from genbench.errors import UsageError
from genbench.images import open_images


def load(split: str, *, path: str) -> Samples:
    """All images, as `genbench.images.open_images` reads them; subfolders are classes.

    Args:
        split: "all". A folder has no held-out part that could be told from the rest.
        path: of a folder, a .zip, a .tar, a .parquet, an .lmdb, an .npz or an .npy file, or a pattern of shards.

    Raises:
        UsageError: another split.
        InputRejected: images outside the policy of `open_images`.
    """
    if split != "all":
        raise UsageError(f"folder has the one split 'all'; got {split!r}. Give the other images as another folder.")
    return open_images(path)


FOLDER = Dataset(
    name="folder",
    summary="images in a folder, a zip, shards or an npz file; subfolders are classes",
    source="the user",
    load=load,
    splits={"reference": "all"},
    protocol="embedded",
    named=False,
)
