"""Every reader of files of a user, with a valid file to begin from."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import safetensors.numpy
import safetensors.torch
import torch
from image_files import files_of, write_folder, write_lmdb, write_parquet, write_tar
from made_up import random_images, result
from PIL import Image

from genbench import (
    baseline,
    benchmark,
    display,
    housekeeping,
    leaderboard,
    papers,
    registry,
    report,
    rules,
    sides,
    standings,
    tables,
    weights,
)
from genbench.arrays import Samples, image_digests
from genbench.images import open_images, open_reference
from genbench.records import Measurement, Ref, digest

Reader = Callable[[Path], Any]


def everything(samples: Samples) -> Any:
    """All that can be read of a set."""
    found = samples.read(0, samples.count) if samples.count else None
    samples.fingerprint()
    assert found is None or (found.dtype == np.uint8 and found.shape == (samples.count, *samples.shape))
    assert samples.labels is None or samples.labels.min() >= 0
    return list(samples.captions or ())


def images_of(path: Path) -> Any:
    return everything(open_images(path))


def folder_of(path: Path) -> Any:
    return everything(open_images(path.parent))


def reference_of(path: Path) -> Any:
    return everything(open_reference(path))


def saved(write: Callable[[Path], object], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return path.read_bytes()


PIXELS = random_images(3, 9, 7)
FILES = files_of(PIXELS)
CAPTIONED = {**FILES, **{f"{i:03}.json": json.dumps({"label": i, "caption": f"a {i}"}).encode() for i in range(3)}}


def picture(kind: str) -> bytes:
    options: dict[str, Any] = {"exif": exif(), "icc_profile": b"sRGB"} if kind in ("PNG", "JPEG", "WEBP") else {}
    options |= {"compression": "tiff_lzw"} if kind == "lzw" else {}
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[0].transpose(1, 2, 0)).save(buffer, "TIFF" if kind == "lzw" else kind, **options)
    return buffer.getvalue()


def exif() -> bytes:
    told = Image.Exif()
    told[0x0112] = 1
    return told.tobytes()


def zipped(compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in FILES.items():
            archive.writestr(f"{name[2]}/{name}", data)
    return buffer.getvalue()


def statistics(path: Path) -> None:
    one = {"mean": "mu", "covariance": "sigma", "extractor": "compact", "key": "k", "tap": "pooled", "count": 9}
    record = np.array(json.dumps({"schema": "genbench.statistics/1", "statistics": [one]}))
    np.savez(path, mu=np.arange(4.0), sigma=np.eye(4), genbench=record)


def npz(**arrays: Any) -> bytes:
    return saved(lambda path: np.savez(path, **arrays), "a.npz")


def tar(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    return saved(lambda path: write_tar(path, files, form), "a.tar")


def parquet() -> bytes:
    more = {"label": (["x", "y"], [0, 1, 1]), "text": ["a", "b", "c"]}
    return saved(lambda path: write_parquet(path, FILES, rows=2, **more), "a.parquet")


def database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return (write_lmdb(Path(folder) / "x", FILES) / "data.mdb").read_bytes()


def torch_file(**options: Any) -> bytes:
    return saved(lambda path: torch.save({"a": torch.ones(2, 3)}, path, **options), "a.pth")


def safe_tensors() -> bytes:
    return safetensors.torch.save({"a": torch.ones(2, 3), "b": torch.zeros(4)})


LONG = {"x" * 150 + "/a.png": FILES["000.png"]}

BYTES: dict[str, tuple[str, Callable[[], bytes], Reader, int]] = {
    "PNG": ("a.png", lambda: picture("PNG"), folder_of, 40),
    "JPEG": ("a.jpg", lambda: picture("JPEG"), folder_of, 40),
    "WEBP": ("a.webp", lambda: picture("WEBP"), folder_of, 40),
    "BMP": ("a.bmp", lambda: picture("BMP"), folder_of, 40),
    "TIFF": ("a.tif", lambda: picture("TIFF"), folder_of, 40),
    "lzw": ("a.tif", lambda: picture("lzw"), folder_of, 40),
    "zip": ("a.zip", lambda: zipped(zipfile.ZIP_STORED), images_of, 50),
    "deflated": ("a.zip", lambda: zipped(zipfile.ZIP_DEFLATED), images_of, 50),
    "npz": ("a.npz", lambda: npz(arr_0=PIXELS, arr_1=np.arange(3)), images_of, 50),
    "packed": ("a.npz", lambda: saved(lambda path: np.savez_compressed(path, PIXELS), "a.npz"), images_of, 40),
    "captioned": ("a.npz", lambda: npz(arr_0=PIXELS, captions=np.array(["a", "b", "c"])), images_of, 30),
    "npy": ("a.npy", lambda: saved(lambda path: np.save(path, PIXELS), "a.npy"), images_of, 50),
    "tar": ("a.tar", lambda: tar(FILES), images_of, 60),
    "gnu tar": ("a.tar", lambda: tar(LONG, tarfile.GNU_FORMAT), images_of, 40),
    "pax tar": ("a.tar", lambda: tar(LONG), images_of, 40),
    "webdataset": ("a.tar", lambda: tar(CAPTIONED), images_of, 40),
    "parquet": ("a.parquet", parquet, images_of, 60),
    "lmdb": ("a.lmdb", database, images_of, 4),
    "statistics": ("a.npz", lambda: saved(statistics, "a.npz"), reference_of, 60),
    "safetensors": ("a.safetensors", safe_tensors, weights.load_state, 60),
    "torch zip": ("a.pth", torch_file, weights.load_state, 40),
    "torch old": ("a.pth", lambda: torch_file(_use_new_zipfile_serialization=False), weights.load_state, 30),
    "baseline": ("a.safetensors", lambda: baseline_bytes(), lambda path: baseline.read(path), 30),
}
"""Name of a file, its valid content, its reader, and examples of damage in a short run."""


def made_results() -> list[Any]:
    made = [result("fid()"), result("kid()", 0.1, None), result("precision(k=3)", 0.5, 0.01, ci95=(0.4, 0.6))]
    return [replace(one, generated=replace(one.generated, count=len(PIXELS))) for one in made]


def made_baseline() -> baseline.Baseline:
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    first = baseline.Acceptance(
        date="2026-01-01T00:00:00+00:00", commit=None, reason="first", values={"fid@compact": 1.0}
    )
    return baseline.Baseline(
        name="base",
        results=tuple(made_results()),
        samples=Samples.of(PIXELS, labels=np.arange(3), captions=["a", "b", "c"], classes=("x", "y", "z")),
        asked="same",
        features=(baseline.Kept(extractor="compact", key="k", tap="pooled", values=values),),
        shifts={"fid@compact": 0.1},
        noise={"fid@compact": {"seeds": 0.2}},
        history=(first,),
    )


def baseline_bytes() -> bytes:
    return baseline.encoded(made_baseline())


# Texts with a structure: odd values in them, and the digests around them right again.


def baseline_tree() -> Any:
    data = baseline_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"][baseline.SCHEMA])


def write_baseline(path: Path, tree: Any) -> None:
    tensors = safetensors.numpy.load(baseline_bytes())
    if isinstance(tree, dict) and "digest" in tree:
        with contextlib.suppress(ValueError):
            tree["digest"] = baseline._digest({k: v for k, v in tree.items() if k != "digest"}, tensors)
    path.write_bytes(safetensors.numpy.save(tensors, {baseline.SCHEMA: json.dumps(tree)}))


def read_baseline(path: Path) -> Any:
    found = baseline.read(path)
    return baseline.lines(found), baseline.as_dict(found), found.evidence()


def results_tree() -> Any:
    requests = {f"r{i}": one for i, one in enumerate(made_results())}
    with tempfile.TemporaryDirectory() as folder:
        report.write_results(Path(folder), requests)
        return json.loads((Path(folder) / "result.json").read_text())


def write_results(path: Path, tree: Any) -> None:
    if isinstance(tree, dict) and "digest" in tree:
        with contextlib.suppress(ValueError):
            tree["digest"] = digest({k: v for k, v in tree.items() if k != "digest"})
    path.write_text(json.dumps(tree))


def read_results(path: Path) -> Any:
    found = list(report.read_results(path.parent).values())
    return display.table_text(found, 80), [report.row(one) for one in found], sides.stored(str(path), False)


def manifest_tree() -> Any:
    spec = {"model": "ddim", "dataset": "shapes", "num_samples": 3, "seed": 0}
    parts = (PIXELS[:2], PIXELS[2:])
    return {
        "manifest": {
            "schema": "genbench.samples/2",
            "spec": spec,
            "shard": 2,
            "shape": [3, 9, 7],
            "quantise": "round",
            "classes": ["a", "b"],
        },
        "shards": [
            {"digests": image_digests(part).tobytes().hex(), "labels": [0, 1][: len(part)], "captions": None}
            for part in parts
        ],
    }


def write_manifest(path: Path, tree: Any) -> None:
    folder = path.parent / "samples"
    folder.mkdir(exist_ok=True)
    manifest = tree.get("manifest") if isinstance(tree, dict) else tree
    (folder / "manifest.json").write_text(json.dumps(manifest))
    shards = tree.get("shards") if isinstance(tree, dict) else None
    for number, shard in enumerate(shards if isinstance(shards, list) else ()):
        np.save(folder / f"{number:06d}.npy", PIXELS[2 * number : 2 * number + 2])
        if isinstance(manifest, dict) and isinstance(shard, dict):
            with contextlib.suppress(ValueError):  # numbers that are not finite have no digest
                shard["made"] = digest({name: value for name, value in manifest.items() if name != "classes"})
        (folder / f"{number:06d}.json").write_text(json.dumps(shard))
    path.write_text(json.dumps(tree))


def read_manifest(path: Path) -> Any:
    housekeeping.runs(path.parent.parent)
    return everything(open_images(path.parent / "samples"))


def statistics_tree() -> Any:
    one = {"mean": "mu", "covariance": "sigma", "extractor": "compact", "key": "k", "tap": "pooled", "count": 9}
    return {
        "schema": "genbench.statistics/1",
        "statistics": [one, {**one, "mean": "mu_s", "covariance": "sigma_s", "tap": "spatial"}],
        "images": {},
        "protocol": "adm",
    }


def write_statistics(path: Path, tree: Any) -> None:
    arrays = {"mu": np.arange(4.0), "sigma": np.eye(4), "mu_s": np.arange(3.0), "sigma_s": np.eye(3)}
    np.savez(path, **arrays, genbench=np.array(json.dumps(tree)))


def json_lines_tree() -> Any:
    return [{"file_name": name, "text": f"a {name}", "label": 1} for name in FILES]


def write_json_lines(path: Path, tree: Any) -> None:
    rows = tree if isinstance(tree, list) else [tree]
    write_folder(path.parent, FILES)
    path.write_text("\n".join(json.dumps(row) for row in rows))


def beside_tree() -> Any:
    return {name: {"label": i, "caption": f"a {i}", "key": [name]} for i, name in enumerate(FILES)}


def write_beside(path: Path, tree: Any) -> None:
    tree = tree if isinstance(tree, dict) else {}
    told = {f"{i:03}.json": json.dumps(one).encode() for i, one in enumerate(tree.values())}
    write_tar(path, {**FILES, **told})


def features_tree() -> Any:
    return {
        "info": {
            "features": {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["a", "b"]}, "text": {}}
        }
    }


def write_features(path: Path, tree: Any) -> None:
    table = pyarrow.table({"image": list(FILES.values()), "label": [0, 1, 1], "text": ["a", "b", "c"]})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(tree)}), path)


TREES: dict[str, tuple[str, Callable[[], Any], Callable[[Path, Any], None], Reader, int]] = {
    "baseline": ("a.safetensors", baseline_tree, write_baseline, read_baseline, 60),
    "results": ("result.json", results_tree, write_results, read_results, 60),
    "manifest": ("told.json", manifest_tree, write_manifest, read_manifest, 60),
    "record of statistics": ("a.npz", statistics_tree, write_statistics, reference_of, 40),
    "metadata.jsonl": ("metadata.jsonl", json_lines_tree, write_json_lines, folder_of, 40),
    "json beside images": ("a.tar", beside_tree, write_beside, images_of, 40),
    "features of parquet": ("a.parquet", features_tree, write_features, images_of, 30),
}
"""Name of a file, valid data, how it is written, its reader, and examples in a short run."""


# Texts of lines.


def read_leaderboard(path: Path) -> Any:
    leaderboard.check(path)
    rows = leaderboard.sound(path)
    return [standings.render(rows, title="t", form=form) for form in ("md", "html", "csv")]


def read_captions(path: Path) -> Any:
    write_folder(path.parent, FILES)
    return folder_of(path)


def read_labels(path: Path) -> Any:
    tar = path.with_suffix(".tar")
    write_tar(tar, {**FILES, **{f"{i:03}.cls": path.read_bytes() for i in range(3)}})
    return images_of(tar)


def read_reference(path: Path) -> Any:
    """A reference as a user types it, whatever it is: no text may do more than be refused or name something."""
    text = path.read_bytes().decode("utf-8", "replace")
    kind, _, rest = text.partition(" ")
    if kind == "measurement":
        return Measurement.parse(rest)
    ref = Ref.parse(rest)
    assert Ref.parse(str(ref)) == ref
    return (
        registry.bind(kind, ref) if ":" not in ref.name and kind in ("model", "dataset", "metric", "extractor") else ref
    )


GATE = """
alpha = 0.05
inconclusive = "warn"

[metrics.fid]
margin = "5%"
min_n = 500
max = 80.0

[metrics."precision(k=3)@compact"]
margin = 0.02
gating = false
"""


def first_lines(name: str, count: int) -> str:
    return "".join((papers.leaderboards() / name).read_text().splitlines(keepends=True)[:count])


def captions_table() -> str:
    return "file_name,text\n" + "".join(f"{name},a {name}\n" for name in FILES)


TEXTS: dict[str, tuple[str, Callable[[], str], Reader, int]] = {
    "leaderboard": ("a.csv", lambda: first_lines("shapes.csv", 5), read_leaderboard, 40),
    "table": ("a.csv", lambda: first_lines("shapes.csv", 3), lambda path: tables.read(path, report.COLUMNS), 60),
    "reported numbers": ("a.csv", lambda: first_lines("reported.csv", 5), papers.read, 60),
    "benchmark": ("a.toml", lambda: first_lines("zoo.toml", 100), benchmark.read, 60),
    "gate": ("gate.toml", lambda: GATE, rules.of_file, 60),
    "project": (
        "pyproject.toml",
        lambda: "[tool.genbench.gate]\nalpha = 0.1\n",
        lambda p: rules.found_in(p.parent),
        40,
    ),
    "metadata.csv": ("metadata.csv", captions_table, read_captions, 60),
    "labels": ("a.cls", lambda: "1\n", read_labels, 20),
    "model": ("a.txt", lambda: "model ddim(steps=10, eta=0.0)", read_reference, 100),
    "metric": ("a.txt", lambda: "metric precision(k=5)", read_reference, 60),
    "extractor": ("a.txt", lambda: "extractor inception(resize='tf1', scaling='tf')", read_reference, 40),
    "data set": ("a.txt", lambda: "dataset shapes(seed=1)", read_reference, 40),
    "measurement": ("a.txt", lambda: "measurement kid(subsets=10)@compact", read_reference, 60),
}
"""Name of a file, a valid text, its reader, and examples in a short run."""
