"""The data sets of the papers, from files that the user has: ImageNet, LSUN, CelebA, CelebA-HQ, FFHQ and COCO.

None of them may be handed on, and numbers depend on how images were cropped and reduced. So nothing is downloaded or
resized here: `--data-dir` names a folder that holds `<name>/` (with images or shards of them), `<name>.zip`,
`.tar`, `.parquet` or `.npz` with images of the resolution of the papers, or, where ADM published one, its reference
batch under its published file name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from genbench.arrays import Samples
from genbench.contracts import Dataset
from genbench.errors import InputRejected, MissingAsset, UsageError, nearest
from genbench.images import open_images, open_reference

BATCHES = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/"
"""Reference batches of guided diffusion (MIT). Each holds 10,000 images and feature statistics of the training set."""


def _loader(name: str, side: int, reference: str, batch: str | None, classes: int) -> Callable[..., Samples | None]:
    splits = (reference, "test")

    def load(split: str, *, directory: str | Path | None = None) -> Samples | None:
        """All images of a split, uint8 (n, 3, h, w) RGB, as `genbench.images.open_images` reads them.

        Args:
            split: of the reference, or "test", which are the images of `<name>-test` in place of `<name>`.
            directory: the folder that holds the published reference batch, `<name>/`, `<name>.zip` and the like. The
                first of these that is there is read. Papers compare with the batch, hence it comes first.

        Returns:
            Labels by subfolder, in the order of their names, for ImageNet; captions where there are any. None for
            "test" where there is none.

        Raises:
            UsageError: another split.
            MissingAsset: none of the files is there.
            InputRejected: images of another size than the papers', another number of classes, and the causes of
                `open_images`.
        """
        if split not in splits:
            raise UsageError(f"{name} has no split {split!r}. {nearest(split, splits)}")
        stem = name if split == reference else f"{name}-{split}"
        published = batch.rpartition("/")[2] if batch and split == reference else ""
        names = [p for p in (published, stem, *(f"{stem}.{kind}" for kind in ("zip", "tar", "parquet", "npz"))) if p]
        places = [Path(directory) / p for p in names] if directory else []
        found = next((place for place in places if place.exists()), None)
        if found is None and split != reference:
            return None
        if found is None:
            looked = f"{directory} has none of" if directory else "--data-dir names no folder that could hold one of"
            address = f" {published} is ADM's reference batch, {BATCHES}{batch}." if published else ""
            raise MissingAsset(
                f"{name} cannot be downloaded, and {looked} {', '.join(names)}. Put its {split} images, {side}x{side} "
                f"pixels, into {name}/, {name}.zip or {name}.npz, and name the folder around that with --data-dir."
                f"{address}"
            )
        folders = classes > 0
        opened = open_images if split != reference else open_reference
        samples = opened(found, labels_from_folders=folders)
        if samples.count and samples.shape != (3, side, side):
            raise InputRejected(
                f"{name} is of {side}x{side} pixels, and {found} of {samples.shape[2]}x{samples.shape[1]}; crop and "
                "reduce the images as the paper did that you compare with."
            )
        if samples.classes and len(samples.classes) != classes:
            raise InputRejected(
                f"{found} has {len(samples.classes)} subfolders, and {name} {classes} classes; give one subfolder a "
                "class, named so that their order is that of the classes, or all images in one folder."
            )
        what = " (ADM reference batch)" if found.name == published else ""
        return replace(samples, origin=f"{name} {split}{what}")

    return load


def _dataset(
    name: str,
    side: int,
    summary: str,
    source: str,
    *,
    batch: str | None = None,
    classes: int = 0,
    reference: str = "train",
    default_samples: int = 50_000,
    protocol: str = "adm",
) -> Dataset:
    return Dataset(
        name=name,
        summary=summary,
        source=source,
        load=_loader(name, side, reference, batch, classes),
        splits={"reference": reference, "held_out": "test", "test": "test"},
        default_samples=default_samples,
        protocol=protocol,
    )


def _imagenet(side: int, file: str) -> Dataset:
    return _dataset(
        f"imagenet{side}",
        side,
        f"1.28 million photographs of 1,000 classes at {side}x{side}",
        "Russakovsky et al. 2015, arXiv:1409.0575; centre crops, reduced by halves and bicubically (guided diffusion)",
        batch=f"imagenet/{side}/{file}",
        classes=1000,
    )


def _lsun(scene: str, batch: bool = True) -> Dataset:
    return _dataset(
        f"lsun-{scene}",
        256,
        f"photographs of LSUN {scene} at 256x256",
        "Yu et al. 2015, arXiv:1506.03365; centre crops of the shorter side",
        batch=f"lsun/{scene}/VIRTUAL_lsun_{scene}256.npz" if batch else None,
    )


IMAGENET64 = _imagenet(64, "VIRTUAL_imagenet64_labeled.npz")
IMAGENET128 = _imagenet(128, "VIRTUAL_imagenet128_labeled.npz")
IMAGENET256 = _imagenet(256, "VIRTUAL_imagenet256_labeled.npz")
IMAGENET512 = _imagenet(512, "VIRTUAL_imagenet512.npz")
LSUN_BEDROOM = _lsun("bedroom")
LSUN_CAT = _lsun("cat")
LSUN_HORSE = _lsun("horse")
LSUN_CHURCH = _lsun("church", batch=False)
CELEBA = _dataset(
    "celeba",
    64,
    "aligned faces at 64x64",
    "Liu et al. 2015, arXiv:1411.7766; 128x128 pixels around (89, 121), reduced (ermongroup/ddim)",
    protocol="tf1",
)
CELEBAHQ = _dataset("celebahq", 256, "30,000 faces at 256x256", "Karras et al. 2018, arXiv:1710.10196", protocol="tf1")
FFHQ = _dataset("ffhq", 256, "70,000 faces at 256x256", "Karras et al. 2019, arXiv:1812.04948", protocol="tf1")
COCO = _dataset(
    "coco",
    256,
    "photographs with captions at 256x256; the papers use 30,000 of the validation set of 2014",
    "Lin et al. 2014, arXiv:1405.0312",
    reference="val",
    default_samples=30_000,
    protocol="tf1",
)
