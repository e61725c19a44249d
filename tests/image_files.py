"""Files of images in every form that is read."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import lmdb
import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray
from PIL import Image


def png(image: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, kind)
    return buffer.getvalue()


def files_of(images: NDArray[np.uint8], classes: str = "") -> dict[str, bytes]:
    return {f"{classes[i % len(classes)] + '/' if classes else ''}{i:03}.png": png(x) for i, x in enumerate(images)}


def write_tar(path: Path, files: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_parquet(
    path: Path, files: Mapping[str, bytes], *, struct: bool = True, rows: int = 4, **more: object
) -> Path:
    """As `datasets` writes images; `more` are further columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = [{"bytes": data, "path": name} for name, data in files.items()] if struct else list(files.values())
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]) if struct else pyarrow.binary()
    features = {"image": {"_type": "Image"}}
    columns = {"image": pyarrow.array(told, kind)}
    for name, values in more.items():
        if isinstance(values, tuple):
            features[name], values = {"names": values[0], "_type": "ClassLabel"}, values[1]
        columns[name] = pyarrow.array(values)
    table = pyarrow.table(columns)
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path, row_group_size=rows)
    return path


def write_lmdb(path: Path, files: Mapping[str, bytes]) -> Path:
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=1 << 24) as database, database.begin(write=True) as transaction:
        for name, data in files.items():
            transaction.put(name.encode(), data)
    return path


def shards(folder: Path, files: Mapping[str, bytes], count: int = 3) -> Path:
    stems = sorted({name.rpartition(".")[0] for name in files})
    for i, part in enumerate(np.array_split(stems, count)):
        some = {name: data for name, data in files.items() if name.rpartition(".")[0] in part}
        write_tar(folder / f"part-{i:03}.tar", some)
    return folder


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


FORMS: dict[str, Callable[[Path, Mapping[str, bytes]], Path | str]] = {
    "tar": lambda path, files: write_tar(path / "a.tar", files),
    "gnu tar": lambda path, files: write_tar(
        path / "a.tar", {f"./{n}": f for n, f in files.items()}, tarfile.GNU_FORMAT
    ),
    "shards": lambda path, files: shards(path / "s", files) / "part-{000..002}.tar",
    "folder of shards": lambda path, files: shards(path / "s", files),
    "wildcard": lambda path, files: f"{shards(path / 's', files)}/part-*.tar",
    "parquet": lambda path, files: write_parquet(path / "a.parquet", files),
    "bytes": lambda path, files: write_parquet(path / "a.parquet", files, struct=False, rows=100),
    "lmdb": lambda path, files: write_lmdb(path / "a_lmdb", files),
}
