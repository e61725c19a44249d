"""Images behind URLs: a server of files with ranges and a server of S3, both on the loopback."""

from __future__ import annotations

import json
import os
import pickle
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from image_files import files_of, shards, write_folder, write_lmdb, write_parquet, write_tar, write_zip
from made_up import random_images

from genbench.errors import GenbenchError, InputRejected, MissingAsset, OutOfResources, UsageError
from genbench.images import open_images, open_reference, prefetch, remote

PIXELS = random_images(10, 6, 8)
FILES = files_of(PIXELS)


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder by ranges, with an ETag of size and time.

    Attributes:
        asked: method, path and first byte of every request.
        broken: bytes after which the next replies break off, while there are any.
    """

    asked: ClassVar[list[tuple[str, str, int]]] = []
    broken: ClassVar[list[int | None]] = []
    tagged = True

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._reply(True)

    def do_HEAD(self) -> None:
        self._reply(False)

    def _reply(self, body: bool) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data, span = path.read_bytes(), re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(span[1]) if span else 0
        stop = min(int(span[2]) + 1, len(data)) if span and span[2] else len(data)
        type(self).asked.append((self.command, path.name, start))
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "text/html" if path.suffix == ".html" else "application/octet-stream")
        if span:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        if self.tagged:
            self.send_header("ETag", f'"{len(data)}-{path.stat().st_mtime_ns}"')
        self.end_headers()
        if body:
            cut = self.broken.pop() if self.broken else None
            self.wfile.write(data[start:stop][:cut])
            if cut is not None:
                self.close_connection = True
                self.connection.close()


@pytest.fixture
def http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """URL and folder of a server."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setattr(Handler, "asked", [])
    monkeypatch.setattr(Handler, "broken", [])
    monkeypatch.setattr(Handler, "tagged", True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("GENBENCH_OFFLINE")
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    fsspec.spec.AbstractFileSystem.clear_instance_cache()
    yield
    fsspec.spec.AbstractFileSystem.clear_instance_cache()


@pytest.fixture(params=["copied", "streamed"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "streamed":
        monkeypatch.setenv("GENBENCH_COPY_GIB", "0")
    return request.param


def write_npz(path: Path) -> Path:
    np.savez(path, arr_0=PIXELS.transpose(0, 2, 3, 1), arr_1=np.arange(10) % 3)
    return path


def test_files_over_http_are_those_of_the_disk(http: tuple[str, Path], way: str, tmp_path: Path) -> None:
    url, folder = http
    write_tar(folder / "a.tar", FILES)
    shards(folder, FILES)
    write_parquet(folder / "a.parquet", FILES)
    write_zip(folder / "a.zip", FILES)
    write_npz(folder / "a.npz")
    np.save(folder / "a.npy", PIXELS)
    here = open_images(write_folder(tmp_path / "folder", FILES)).fingerprint()
    for name in ("a.tar", "part-{000..002}.tar", "a.parquet", "a.zip", "a.npz", "a.npy"):
        samples = open_images(f"{url}/{name}")
        assert samples.origin == f"{url}/{name}"
        assert np.array_equal(np.concatenate(list(prefetch(pickle.loads(pickle.dumps(samples)), 3, 2))), PIXELS), name
        there = open_images(folder / name).fingerprint()
        assert samples.fingerprint() == there and (there == here or name in ("a.npz", "a.npy"))
    kept = {path.name for path in (tmp_path / "cache").rglob("*") if path.suffix in (".tar", ".zip", ".npz")}
    assert kept == ({"a.tar", "a.zip", "a.npz", *(f"part-00{i}.tar" for i in range(3))} if way == "copied" else set())
    if way == "streamed":
        Handler.asked.clear()
        open_images(f"{url}/a.tar")
        assert {method for method, _, _ in Handler.asked} == {"HEAD"}, "the survey is kept under the ETag"


def test_a_copy_goes_on_where_it_broke_off(
    http: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = http
    write_tar(folder / "a.tar", files_of(random_images(20, 64)))
    size = (folder / "a.tar").stat().st_size
    monkeypatch.setattr(remote, "_PIECE", 50_000)
    monkeypatch.setattr(remote, "_TRIES", 1)
    Handler.broken += [1000, None, None]  # taken from the end
    with pytest.raises(MissingAsset, match="cannot be read"):
        open_images(f"{url}/a.tar")
    assert [start for method, _, start in Handler.asked if method == "GET"] == [0, 50_000, 100_000]
    Handler.asked.clear()
    assert open_images(f"{url}/a.tar").count == 20
    starts = [start for method, _, start in Handler.asked if method == "GET"]
    assert starts == list(range(100_000, size, 50_000))
    Handler.asked.clear()
    open_images(f"{url}/a.tar")
    assert [method for method, _, _ in Handler.asked] == ["HEAD"]
    # A file that was changed meanwhile is copied from its beginning.
    (tmp_path / "cache").rename(tmp_path / "old")
    Handler.broken += [1000, None, None]
    with pytest.raises(MissingAsset):
        open_images(f"{url}/a.tar")
    write_tar(folder / "a.tar", files_of(random_images(20, 64, seed=1)))
    Handler.asked.clear()
    assert np.array_equal(open_images(f"{url}/a.tar").read(0, 20), random_images(20, 64, seed=1))
    assert next(start for method, _, start in Handler.asked if method == "GET") == 0


def test_a_piece_that_breaks_off_is_asked_for_again(http: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    url, folder = http
    write_tar(folder / "a.tar", FILES)
    Handler.broken += [100]
    assert open_images(f"{url}/a.tar").count == 10
    assert [method for method, _, _ in Handler.asked].count("GET") == 2


def test_a_stream_that_breaks_off_is_no_fault_of_the_file(
    http: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = http
    write_tar(folder / "a.tar", FILES)
    write_zip(folder / "a.zip", FILES)
    monkeypatch.setenv("GENBENCH_COPY_GIB", "0")
    for name in ("a.tar", "a.zip"):
        Handler.broken += [100] * 9
        with pytest.raises(MissingAsset, match="cannot be read"):
            open_images(f"{url}/{name}")
        Handler.broken.clear()
        assert open_images(f"{url}/{name}").count == 10


def test_a_new_version_takes_the_place_of_the_copy(http: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = http
    for tagged in (True, False):
        Handler.tagged = tagged
        for seed in range(2):
            write_tar(folder / "a.tar", files_of(random_images(3, 6, 8, seed=seed)))
            assert np.array_equal(open_images(f"{url}/a.tar").read(0, 3), random_images(3, 6, 8, seed=seed))
    assert len(list((tmp_path / "cache" / "remote").rglob("a.tar"))) == 1


def test_a_file_that_changes_while_it_is_copied_is_no_copy(
    http: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = http
    write_tar(folder / "a.tar", files_of(random_images(3, 6, 8)))
    piece = remote._piece

    def and_then_another(*what: object) -> bytes:
        data = piece(*what)
        write_tar(folder / "a.tar", files_of(random_images(3, 6, 8, seed=1)))
        return data

    monkeypatch.setattr(remote, "_piece", and_then_another)
    with pytest.raises(MissingAsset, match="it was changed while it was copied"):
        open_images(f"{url}/a.tar")
    monkeypatch.setattr(remote, "_piece", piece)
    assert np.array_equal(open_images(f"{url}/a.tar").read(0, 3), random_images(3, 6, 8, seed=1))
    assert not list((tmp_path / "cache").rglob(".*.part"))


def test_what_was_copied_is_there_without_a_connection(http: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    url, folder = http
    write_tar(folder / "a.tar", FILES)
    first = open_images(f"{url}/a.tar").fingerprint()
    monkeypatch.setenv("GENBENCH_OFFLINE", "1")
    Handler.asked.clear()
    assert open_images(f"{url}/a.tar").fingerprint() == first
    with pytest.raises(MissingAsset, match="was not copied, and connections are switched off"):
        open_images(f"{url}/b.tar")
    assert not Handler.asked


def test_statistics_over_http_are_a_reference(http: tuple[str, Path], way: str) -> None:
    url, folder = http
    rng = np.random.default_rng(0)
    np.savez(folder / "s.npz", mu=rng.normal(size=2048), sigma=np.eye(2048))
    there, here = open_reference(f"{url}/s.npz"), open_reference(folder / "s.npz")
    assert there.count == 0 and there.fingerprint() == here.fingerprint()
    assert there.statistics["pooled"].digest() == here.statistics["pooled"].digest()
    assert there.origin == f"{url}/s.npz"


def test_what_cannot_be_had_is_told_in_one_line(
    http: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, folder = http
    (folder / "page.html").write_text("sign in")
    write_tar(folder / "a.tar", FILES)
    (folder / "b.txt").write_text("text")
    port = int(url.rpartition(":")[2])
    told: list[tuple[str, type[GenbenchError], str]] = [
        (f"{url}/none.tar", MissingAsset, "There is no http://127"),
        (f"{url}/a-{{0..3}}.tar", MissingAsset, "There is no http://127"),
        (f"{url}/page.html", MissingAsset, "is a web page and no file"),
        (f"{url}/b.txt", InputRejected, "is none of images that is read"),
        (f"http://127.0.0.1:{1 if port != 1 else 2}/a.tar", MissingAsset, "cannot be read"),
        (f"{url}/a.tar::{url}/b.tar", UsageError, "chains several stores"),
    ]
    monkeypatch.setattr(remote, "_TRIES", 1)
    for given, kind, words in told:
        with pytest.raises(kind, match=re.escape(words)) as caught:
            open_images(given)
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("GENBENCH_COPY_GIB", "many")
    with pytest.raises(UsageError, match="GENBENCH_COPY_GIB is a number of GiB"):
        open_images(f"{url}/a.tar")
    monkeypatch.delenv("GENBENCH_COPY_GIB")
    monkeypatch.setattr(remote.files, "free_bytes", lambda path: 1 << 20)
    with pytest.raises(OutOfResources, match="stream it with GENBENCH_COPY_GIB=0"):
        open_images(f"{url}/a.tar")


def test_secrets_of_urls_are_not_recorded(http: tuple[str, Path]) -> None:
    url, folder = http
    write_tar(folder / "a.tar", FILES)
    samples = open_images(f"{url}/a.tar?X-Signature=secret")
    assert samples.origin == f"{url}/a.tar"
    assert remote.shown_url("https://user:word@example.org/a.tar?key=secret#x") == "https://example.org/a.tar"
    with pytest.raises(MissingAsset) as caught:
        open_images(f"{url}/no.tar?X-Signature=secret")
    assert "secret" not in str(caught.value)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Address of a server of S3 with the bucket `images`."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder whose files are put into the bucket by `put`."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", s3),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    return tmp_path / "bucket"


def put(folder: Path) -> None:
    fs = fsspec.filesystem("s3")
    if not fs.exists("images"):
        fs.mkdir("images")
    for path in folder.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"images/{path.relative_to(folder).as_posix()}", path.read_bytes())
    fs.invalidate_cache()


@pytest.mark.filterwarnings("ignore")  # of the servers and clients of others
def test_buckets_hold_files_folders_and_shards(bucket: Path, way: str, tmp_path: Path) -> None:
    classes = files_of(PIXELS, "ab") | {"a/000.txt": b"one"}
    write_folder(bucket / "photos", classes | {name.replace(".png", ".txt"): b"text" for name in classes})
    shards(bucket / "shards", FILES)
    write_parquet(bucket / "table" / "train-00000-of-00001.parquet", FILES)
    write_lmdb(bucket / "base_lmdb", FILES)
    put(bucket)
    for name in ("photos", "shards", "shards/part-*.tar", "table", "base_lmdb"):
        samples, here = open_images(f"s3://images/{name}"), open_images(str(bucket / name))
        assert samples.fingerprint() == here.fingerprint(), name
        assert np.array_equal(samples.read(2, 7), here.read(2, 7))
        assert samples.classes == here.classes and list(samples.captions or ()) == list(here.captions or ())
        assert samples.origin == f"s3://images/{name}"
    with pytest.raises(MissingAsset, match="There is no s3://images/nothing"):
        open_images("s3://images/nothing/a.tar")
    with pytest.raises(MissingAsset, match=r"s3://other/a\.tar"):
        open_images("s3://other/a.tar")


def test_a_store_whose_library_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str) -> None:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec.core, "get_filesystem_class", missing)
    with pytest.raises(MissingAsset, match=r"gs://bucket/a.tar needs a library .*pip install 'genbench\[remote\]'"):
        open_images("gs://bucket/a.tar")


def test_urls_are_told_from_paths() -> None:
    assert all(map(remote.is_url, ("s3://b/k", "https:/host/a", "hf://datasets/u/n", "gs://b/*.tar", "http://h/a")))
    assert not any(map(remote.is_url, ("C:/x", "s3", "file:///etc/passwd", "memory://x", "a/https://x", "local://x")))


def test_scores_of_urls(http: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from genbench.cli import main

    url, folder = http
    write_tar(folder / "real.tar", files_of(random_images(12, 32)))
    np.savez(tmp_path / "mine.npz", arr_0=random_images(12, 32, seed=1).transpose(0, 2, 3, 1))
    words = ["score", str(tmp_path / "mine.npz"), "--metric", "fid", "--format", "json", "--reference"]
    found = []
    for place in (str(folder / "real.tar"), f"{url}/real.tar"):
        assert main([*words, place]) == 0
        (result,) = json.loads(capsys.readouterr().out)["results"]
        found.append((result["value"], result["protocol_hash"], result["reference"]["digest"]))
    assert found[0] == found[1]
    assert main([*words, f"{url}/no.tar"]) == 6
    assert os.environ["GENBENCH_CACHE"] not in capsys.readouterr().err
