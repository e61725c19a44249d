"""Images in parquet files, as Hugging Face's `datasets` write them, read where they lie.

The schema says what is what: a column of images is binary, or a struct {bytes, path}; class numbers have the names that
the metadata under "huggingface" give; captions stand in a column of texts. Rows keep their order.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genbench.errors import MissingAsset, shown
from genbench.images.captions import CAPTION_COLUMNS, fault_of
from genbench.images.containers import MAX_RATIO, UNSUSPICIOUS
from genbench.images.encoded import Look
from genbench.images.names import Names
from genbench.images.places import Place
from genbench.images.refusals import Unfit, naming, regular
from genbench.images.surveys import Survey, progress

MAX_GROUP = 1 << 30
"""Bytes of the images of a row group, which has to be held in memory."""
_KEPT = 3
"""Row groups that are held at a time: two threads read at the end of one and the beginning of the next."""
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")
LABEL_COLUMNS = ("label", "labels", "cls")
_BATCH = 64


def _pyarrow() -> Any:
    try:
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise MissingAsset("Parquet files need pyarrow: pip install 'genbench[parquet]'.") from None
    return pyarrow


@dataclass(frozen=True, slots=True)
class _Columns:
    """Names of columns: of images, and whether it is a struct; of labels, with the names of classes; of captions."""

    image: str
    struct: bool
    label: str | None
    classes: tuple[str, ...]
    caption: str | None


@contextmanager
def _opened(path: Place) -> Iterator[Any]:
    parquet = _pyarrow().parquet
    regular(path)
    with path.open("rb") as stream:
        # Limits of what a damaged file may claim before anything of it is believed.
        file = parquet.ParquetFile(
            stream, thrift_string_size_limit=64 << 20, thrift_container_size_limit=10_000_000, memory_map=False
        )
        yield file


def _columns(file: Any) -> _Columns:
    """What the columns hold.

    Raises:
        Unfit: no column of images or several.
    """
    pyarrow = _pyarrow()
    schema = file.schema_arrow
    features = _features(schema.metadata or {})

    def binary(kind: Any) -> bool:
        return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)

    def holds(one: Any) -> bool:
        inner = one.type.field("bytes").type if _has_bytes(one.type) else one.type
        return binary(inner)

    images = [one.name for one in schema if holds(one)]
    said = [name for name in images if features.get(name, {}).get("_type") == "Image"]
    usual = [name for name in images if name in IMAGE_COLUMNS]
    chosen = said or (usual if len(images) > 1 else images)
    if len(chosen) != 1 or len(set(schema.names)) != len(schema.names):
        listed = ", ".join(shown(name) for name in chosen or schema.names[:8]) or "nothing"
        what = f"{len(chosen)} columns of images" if chosen else "no column of images (bytes, or a struct with bytes)"
        raise Unfit(f"has {what}: {listed}; keep one")
    labels = [
        one.name
        for one in schema
        if pyarrow.types.is_integer(one.type)
        and (features.get(one.name, {}).get("_type") == "ClassLabel" or one.name in LABEL_COLUMNS)
    ]
    labels = [name for name in labels if name in LABEL_COLUMNS] or labels
    captions = [
        one.name
        for one in schema
        if one.name in CAPTION_COLUMNS
        and (pyarrow.types.is_string(one.type) or pyarrow.types.is_large_string(one.type))
    ]
    for what, some in (("labels", labels), ("captions", captions)):
        if len(some) > 1:
            raise Unfit(f"has {what} in {len(some)} columns ({', '.join(map(shown, some))}); keep one of them")
    names = features.get(labels[0], {}).get("names") if labels else None
    classes = tuple(map(str, names)) if isinstance(names, list) else ()
    if len(set(classes)) != len(classes):
        raise Unfit("has classes of the same name in its metadata")
    return _Columns(
        image=chosen[0],
        struct=_has_bytes(schema.field(chosen[0]).type),
        label=labels[0] if labels else None,
        classes=classes,
        caption=captions[0] if captions else None,
    )


def _has_bytes(kind: Any) -> bool:
    return _pyarrow().types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """What Hugging Face says of each column."""
    try:
        told = json.loads(metadata.get(b"huggingface", b"{}"))
        features = told.get("info", {}).get("features", {})
        return {str(name): value for name, value in features.items() if isinstance(value, dict)}
    except (ValueError, AttributeError, RecursionError):
        return {}


def _stored(file: Any, column: str, number: int) -> int:
    """Bytes of a column of a row group without compression, as the file tells them."""
    group = file.metadata.row_group(number)
    parts = (group.column(i) for i in range(group.num_columns))
    return sum(part.total_uncompressed_size for part in parts if part.path_in_schema.partition(".")[0] == column)


def _check_size(file: Any, column: str, packed: int) -> None:
    """Refuses row groups that do not fit into memory, before one is read."""
    total = 0
    for number in range(file.num_row_groups):
        size = _stored(file, column, number)
        if size < 0 or size > MAX_GROUP:
            raise Unfit(
                f"has a row group with {size:,} bytes of images, more than {MAX_GROUP:,}; write it with smaller ones "
                "(row_group_size=1000)"
            )
        total += size
    if total > max(UNSUSPICIOUS, MAX_RATIO * packed):
        raise Unfit(f"would expand from {packed:,} to {total:,} bytes, more than {MAX_RATIO} times")


def _batches(file: Any, columns: _Columns, group: int) -> Iterator[Any]:
    """The binary arrays of the images of a row group, some rows at a time.

    Values that are equal may be stored once, so that a small file holds as many large images as it likes. No value is
    larger than all that is stored, which limits the rows that are expanded at a time.
    """
    column = f"{columns.image}.bytes" if columns.struct else columns.image
    rows = max(1, min(_BATCH, MAX_GROUP // max(_stored(file, columns.image, group), 1)))
    held = 0
    for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=[column], use_threads=False):
        values = batch.column(0)
        held += batch.nbytes
        if held > MAX_GROUP:
            raise Unfit(f"has a row group that expands to more than {MAX_GROUP:,} bytes of images")
        yield _pyarrow().compute.struct_field(values, "bytes") if columns.struct else values


def _bytes_of(values: Any, row: int) -> bytes:
    value = values[row]
    if not value.is_valid:
        raise Unfit("has no bytes; an image that is named by its path alone is not read")
    return value.as_py()


def survey_of(path: Place, max_pixels: int) -> Survey:
    """Reads a file once.

    Raises:
        InputRejected: no parquet file or a damaged one; no column of images or several; rows without bytes; images that
            cannot be used; labels or captions that some rows lack.
        MissingAsset: pyarrow is not installed.
    """
    with naming(path), _opened(path) as file:
        columns = _columns(file)
        _check_size(file, columns.image, path.stat().st_size)
        look, total = Look(max_pixels), file.metadata.num_rows
        for values in (values for group in range(file.num_row_groups) for values in _batches(file, columns, group)):
            if not all(look.at(f"row {look.count}", partial(_bytes_of, values, row)) for row in range(len(values))):
                break
            progress(f"survey of {path.name}", look.count, total)
        if not look.count:
            raise Unfit("has no rows")
        digests = look.finish(path, total)
        labels = _labels(file, columns)
        captions = _captions(file, columns)
        ends = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
    if len(digests) != int(ends[-1]):
        with naming(path):
            raise Unfit(f"has {len(digests)} rows, and says that it has {int(ends[-1])}")
    return Survey(
        names=None,
        digests=digests,
        sizes=look.sizes,
        notices=look.notices,
        labels=labels,
        classes=columns.classes if labels is not None else (),
        captions=captions,
        groups=ends.astype(np.int64),
    )


def _labels(file: Any, columns: _Columns) -> NDArray[np.int64] | None:
    if columns.label is None:
        return None
    column = file.read(columns=[columns.label], use_threads=False).column(0)
    if column.null_count:
        raise Unfit(f"has {column.null_count} rows without a {columns.label}")
    numbers = column.to_numpy().astype(np.int64)
    if (numbers == -1).all():  # what Hugging Face writes where nobody is to know
        return None
    most = len(columns.classes) or 1 << 31
    if numbers.min() < 0 or numbers.max() >= most:
        raise Unfit(f"has labels from {numbers.min()} to {numbers.max()}; they count classes from 0 to {most - 1}")
    return numbers


def _captions(file: Any, columns: _Columns) -> Names | None:
    if columns.caption is None:
        return None
    texts: list[str] = []
    for batch in file.iter_batches(batch_size=1024, columns=[columns.caption], use_threads=False):
        texts += batch.column(0).to_pylist()
    for row, text in enumerate(texts):
        if problem := fault_of(text):
            raise Unfit(f"has a {columns.caption} in row {row} that {problem}")
    return Names.of(texts)


@dataclass(slots=True)
class Rows:
    """Images of several parquet files, in the order of their rows. Some row groups are held in memory."""

    paths: tuple[Place, ...]
    groups: tuple[NDArray[np.int64], ...]
    ends: NDArray[np.int64]
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _held: OrderedDict[tuple[int, int], Any] = field(default_factory=OrderedDict, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Rows, (self.paths, self.groups, self.ends)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _at(self, number: int) -> tuple[int, int]:
        """Number of the file, and of the row in it."""
        shard = int(np.searchsorted(self.ends, number, side="right"))
        return shard, number - (int(self.ends[shard - 1]) if shard else 0)

    def content(self, number: int) -> bytes:
        shard, row = self._at(number)
        ends = self.groups[shard]
        group = int(np.searchsorted(ends, row, side="right"))
        chunks = self._group(shard, group)
        row -= int(ends[group - 1]) if group else 0
        for chunk in chunks:
            if row < len(chunk):
                return _bytes_of(chunk, row)
            row -= len(chunk)
        raise Unfit("ends too early")

    def _group(self, shard: int, group: int) -> Sequence[Any]:
        with self._lock:
            if (shard, group) not in self._held:
                path = self.paths[shard]
                with _opened(path) as file:
                    columns = _columns(file)
                    _check_size(file, columns.image, path.stat().st_size)
                    found = list(_batches(file, columns, group))
                while len(self._held) >= _KEPT:
                    self._held.popitem(last=False)
                self._held[shard, group] = found
            self._held.move_to_end((shard, group))
            return self._held[shard, group]

    def place(self, number: int) -> str:
        shard, row = self._at(number)
        return f"{self.paths[shard]} row {row}"
