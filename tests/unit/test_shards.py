"""Images in tars, parquet files and LMDBs: the same set as their folder, and what is refused."""

from __future__ import annotations

import io
import json
import logging
import pickle
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from image_files import FORMS, files_of, png, shards, write_folder, write_lmdb, write_parquet, write_tar, write_zip
from made_up import random_images

from genbench import features, identities
from genbench.arrays import Samples
from genbench.errors import InputRejected, MissingAsset
from genbench.images import open_images, parquets, prefetch, sharded, surveys, tars
from genbench.images.places import state_of

NOTHING: frozenset[str] = frozenset()


def refused(path: Path | str) -> str:
    with pytest.raises(InputRejected) as caught:
        samples = open_images(path)
        samples.read(0, samples.count)
    message = str(caught.value)
    assert message.isprintable() and caught.value.exit_code == 5
    return message


def digest(samples: Samples, what: frozenset[str] = NOTHING) -> str:
    return identities.side(samples, features.pixel_digests(samples), what).digest


@pytest.mark.parametrize("form", FORMS)
def test_the_same_images_are_one_set_wherever_they_lie(form: str, tmp_path: Path) -> None:
    pixels = random_images(10, 6, 8)
    files = files_of(pixels)
    folder = open_images(write_folder(tmp_path / "folder", files))
    other = open_images(
        FORMS[form](tmp_path, dict(reversed(files.items())) if "parquet" not in form and form != "bytes" else files)
    )
    assert np.array_equal(other.read(0, 10), pixels)
    assert np.array_equal(other.read(3, 7), pixels[3:7])
    assert other.fingerprint() == folder.fingerprint()
    assert digest(other) == digest(folder)
    copy = pickle.loads(pickle.dumps(other))
    assert np.array_equal(np.concatenate(list(prefetch(copy, 3, 2))), pixels)
    assert (other.labels, other.captions, other.classes) == (None, None, ())


@pytest.mark.parametrize("form", ["tar", "shards", "lmdb"])
def test_folders_inside_are_classes(form: str, tmp_path: Path) -> None:
    files = files_of(random_images(12, 6, 8), "bca")
    folder = open_images(write_folder(tmp_path / "folder", files))
    other = open_images(FORMS[form](tmp_path, {f"photos/{name}": data for name, data in files.items()}))
    assert other.classes == folder.classes == ("a", "b", "c")
    assert digest(other, frozenset({"labels"})) == digest(folder, frozenset({"labels"}))
    assert sorted(other.labels) == sorted(folder.labels)
    assert open_images(write_tar(tmp_path / "x.tar", files), labels_from_folders=False).labels is None


def test_members_of_webdataset_belong_together(tmp_path: Path) -> None:
    pixels = random_images(6, 6, 8)

    def make(name: str, **more: Callable[[int], str]) -> Samples:
        files = {}
        for i, image in enumerate(pixels):
            files[f"{i:04}.png"] = png(image)
            files |= {f"{i:04}.{kind}": make(i).encode() for kind, make in more.items()}
        for k, part in enumerate((range(4), range(4, 6))):
            some = {n: data for n, data in files.items() if int(n[:4]) in part}
            write_tar(tmp_path / name / f"{k}.tar", some)
        return open_images(tmp_path / name)

    whole = make("whole", cls=lambda i: f"{i % 3}\n", txt=lambda i: f" drawing {i}", json=lambda i: '{"key": 1}')
    assert whole.labels.tolist() == [0, 1, 2, 0, 1, 2] and whole.classes == ()
    assert list(whole.captions) == [f"drawing {i}" for i in range(6)]
    inside = make("inside", json=lambda i: json.dumps({"label": i, "caption": f"über {i}", "width": 8}))
    assert inside.labels.tolist() == list(range(6)) and list(inside.captions) == [f"über {i}" for i in range(6)]
    both = make("both", cls=lambda i: "7", json=lambda i: '{"label": 3}')
    assert both.labels.tolist() == [7] * 6

    says = {
        "name": ({"cls": lambda i: "cat"}, "0000.cls holds b'cat', which is no class number"),
        "negative": ({"cls": lambda i: "-1"}, "no class number"),
        "no label": ({"json": lambda i: '{"label": 1}' if i else "{}"}, "has label, unlike other images"),
        "bad json": ({"json": lambda i: "{" if i == 2 else "{}"}, "0002.json cannot be read"),
        "text label": ({"json": lambda i: '{"label": "1"}'}, "which is no class number"),
        "bool label": ({"json": lambda i: '{"label": true}'}, "which is no class number"),
        "list": ({"json": lambda i: "[1]"}, "holds no JSON object"),
        "two captions": ({"json": lambda i: '{"caption": "a", "text": "b"}'}, "has caption and text; keep one"),
        "empty caption": ({"txt": lambda i: " "}, "that is empty"),
        "some shards": ({"txt": lambda i: "a" if i < 4 else ""}, "is empty"),
    }
    for name, (more, words) in says.items():
        with pytest.raises(InputRejected, match=words):
            make(name, **more)
    write_tar(tmp_path / "whole" / "1.tar", {f"{i:04}.png": png(pixels[i]) for i in (4, 5)})
    assert "not all of its 2 files have labels" in refused(tmp_path / "whole")
    few = {"0.png": png(pixels[0]), "1.png": png(pixels[1]), "1.cls": b"0"}
    assert "1 of 2 images have no .cls, such as 0.png" in refused(write_tar(tmp_path / "few.tar", few))
    few = {"0.png": png(pixels[0]), "1.png": png(pixels[1]), "1.txt": b"a text"}
    assert "1 of 2 images have no caption" in refused(write_tar(tmp_path / "few.tar", few))
    masks = {"0.png": png(pixels[0]), "0.mask.png": png(pixels[1])}
    assert "several images of one sample" in refused(write_tar(tmp_path / "masks.tar", masks))
    numbers = {"a.0001.png": png(pixels[0]), "a.0002.png": png(pixels[1])}
    assert open_images(write_tar(tmp_path / "numbers.tar", numbers)).count == 2


def test_parquet_has_labels_with_names_and_captions(tmp_path: Path) -> None:
    files = files_of(random_images(10, 6, 8))
    names, numbers = ["cat", "dog"], [i % 2 for i in range(10)]
    more = {"label": (names, numbers), "text": [f"text {i}" for i in range(10)], "id": list(range(10))}
    samples = open_images(write_parquet(tmp_path / "a.parquet", files, **more))
    assert samples.labels.tolist() == numbers and samples.classes == ("cat", "dog")
    assert list(samples.captions) == more["text"]
    hidden = {"label": (names, [-1] * 10)}
    assert open_images(write_parquet(tmp_path / "b.parquet", files, **hidden)).labels is None
    for name, columns, words in (
        ("some", {"label": (names, [-1] + [0] * 9)}, "has labels from -1 to 0"),
        ("many", {"label": (names, [2] * 10)}, "from 2 to 2; they count classes from 0 to 1"),
        ("null", {"label": (names, [None] + [0] * 9)}, "has 1 rows without a label"),
        ("empty", {"text": [""] * 10}, "has a text in row 0 that is empty"),
        ("two", {"text": ["a"] * 10, "caption": ["b"] * 10}, "has captions in 2 columns"),
        ("twice", {"label": (["a", "a"], numbers)}, "classes of the same name"),
    ):
        assert words in refused(write_parquet(tmp_path / f"{name}.parquet", files, **columns)), name
    table = pyarrow.table(
        {
            "image": pyarrow.array(
                [{"path": "a.png", "bytes": None}],
                pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
            )
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "paths.parquet")
    assert "row 0 has no bytes" in refused(tmp_path / "paths.parquet")
    for columns, words in (({"x": [1]}, "no column of images"), ({"a": [b"a"], "b": [b"b"]}, "no column of images")):
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "odd.parquet")
        assert words in refused(tmp_path / "odd.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"image": pyarrow.array([], pyarrow.binary())}), tmp_path / "no.parquet")
    assert "has no rows" in refused(tmp_path / "no.parquet")


def test_equal_values_that_are_stored_once_are_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquets, "MAX_GROUP", 1 << 20)
    data = png(random_images(1, 64)[0])
    for count, fits in ((20, True), (200, False)):
        once = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * count, pyarrow.int32()), [data])
        pyarrow.parquet.write_table(pyarrow.table({"image": once}), tmp_path / "a.parquet", store_schema=False)
        assert (tmp_path / "a.parquet").stat().st_size < 30_000
        if fits:
            assert open_images(tmp_path / "a.parquet").count == 20
        else:
            assert "row group that expands to more than 1,048,576 bytes" in refused(tmp_path / "a.parquet")
    large = {f"{i}.png": data for i in range(200)}
    assert open_images(write_parquet(tmp_path / "b.parquet", large, rows=50)).count == 200
    noise = {f"{i}.png": png(image) for i, image in enumerate(random_images(90, 64))}
    assert "a row group with" in refused(write_parquet(tmp_path / "c.parquet", noise, rows=90))


@pytest.mark.parametrize(
    ("name", "library", "extra"), [("a.parquet", "pyarrow", "parquet"), ("a.lmdb", "lmdb", "lmdb")]
)
def test_a_library_that_is_missing_is_told(
    name: str, library: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(b"x")
    for module in [one for one in sys.modules if one.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingAsset, match=rf"pip install 'genbench\[{extra}\]'"):
        open_images(tmp_path / name)


def test_splits_and_missing_shards_are_refused(tmp_path: Path) -> None:
    files = files_of(random_images(2, 6, 8))
    for split in ("train", "test"):
        write_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", files)
    assert "has shards of 2 sets, such as test-00000-of-00001.parquet, train-" in refused(tmp_path / "data")
    assert open_images(f"{tmp_path}/data/test-*.parquet").count == 2
    assert "has shards of 2 sets" in refused(f"{tmp_path}/data/*.parquet")
    write_parquet(tmp_path / "part" / "train-00000-of-00002.parquet", files)
    assert "has 1 of 2 shards" in refused(tmp_path / "part")
    for number, mark in enumerate(("b4aaeceff1d90ecb", "0cafe00000000001")):
        write_parquet(tmp_path / "hub" / f"train-{number:05}-of-00003-{mark}.parquet", files)
    assert "has 2 of 3 shards" in refused(tmp_path / "hub")
    write_parquet(tmp_path / "hub" / "train-00002-of-00003-ffffffffffffffff.parquet", files)
    assert open_images(tmp_path / "hub").count == 6
    write_tar(tmp_path / "gap" / "a-0.tar", files)
    write_tar(tmp_path / "gap" / "a-2.tar", files)
    assert "There is no" in (said := refused(f"{tmp_path}/gap/a-{{0..2}}.tar")) and "a-1.tar" in said
    assert open_images(f"{tmp_path}/gap/a-{{0,2}}.tar").count == 4
    assert "There is no" in refused(f"{tmp_path}/gap/b-*.tar")
    assert "stands for more than" in refused(f"{tmp_path}/gap/a-{{0..99999999}}.tar")
    write_parquet(tmp_path / "gap" / "a-1.parquet", files)
    assert "a-0.parquet" not in refused(tmp_path / "gap")


def member(name: str = "b.png", kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (member("../b.png"), "a path that leaves the archive: ../b.png"),
        (member("/etc/b.png"), "a path that leaves the archive: /etc/b.png"),
        (member("a/../../b.png"), "a path that leaves"),
        (member("a\\b.png"), "a path that leaves"),
        (member(kind=tarfile.SYMTYPE, link="/etc/passwd"), "a link: b.png"),
        (member(kind=tarfile.LNKTYPE, link="a.png"), "a link: b.png"),
        (member(kind=tarfile.CHRTYPE), "no plain file: b.png"),
        (member(kind=tarfile.FIFOTYPE), "no plain file: b.png"),
        (member(kind=tarfile.GNUTYPE_SPARSE), "b.png"),
        (member("a.png"), "holds a.png twice"),
        (member("./a.png"), "holds a.png twice"),
        (member("b.png"), "b.png is empty (0 bytes)"),
    ],
)
def test_members_that_are_no_plain_files_are_refused(bad: tarfile.TarInfo, words: str, tmp_path: Path) -> None:
    path, data = tmp_path / "a.tar", png(random_images(1, 6, 8)[0])
    with tarfile.open(path, "w") as tar:
        for one in (member("a.png"), bad):
            one.size = len(data) if one is not bad else 0
            tar.addfile(one, io.BytesIO(data))
    assert words in refused(path)


def test_damaged_tars_are_refused(tmp_path: Path) -> None:
    files = files_of(random_images(4, 32, 32))
    whole = write_tar(tmp_path / "a.tar", files).read_bytes()
    last = whole.rindex(b"003.png")
    ends = whole.rindex(b"IEND") + 8
    path = tmp_path / "b.tar"
    for cut in (0, 10, 511, 512, 600, last, last + 300, last + 512, ends):
        path.write_bytes(whole[:cut])
        assert str(path) in refused(path), cut
    path.write_bytes(whole[: -(-ends // 512) * 512])  # whole members, and no end
    assert "its end is missing" in refused(path)
    path.write_bytes(whole + whole)
    assert "goes on behind its end" in refused(path)
    damaged = bytearray(whole)
    damaged[whole.index(b"002.png") + 100] ^= 1
    path.write_bytes(damaged)
    assert "its end is missing" in refused(path), "a bad header ends the index of tarfile without a word"
    with tarfile.open(tmp_path / "c.tar", "w:gz") as tar:
        tar.add(write_folder(tmp_path / "folder", files), "x")
    assert "no tar without compression" in refused(tmp_path / "c.tar")
    (tmp_path / "c.tar").rename(tmp_path / "c.tar.gz")
    assert "unpack it" in refused(tmp_path / "c.tar.gz")
    assert "has no images" in refused(write_tar(tmp_path / "d.tar", {"a.dat": b"x"}))
    long = tarfile.TarInfo("a.png")
    long.pax_headers = {"comment": "x" * (2 << 20)}
    with tarfile.open(tmp_path / "e.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(long)
    assert "a header out of all proportion" in refused(tmp_path / "e.tar")


def test_other_members_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = files_of(random_images(2, 6, 8)) | {"a.dat": b"1", ".hidden.png": b"", "x/b.dat": b"", "notes.txt": b"text"}
    with caplog.at_level(logging.WARNING):
        assert open_images(write_tar(tmp_path / "a.tar", files)).count == 2
    assert "3 files are not images and were passed over: .dat (2), .txt (1)" in caplog.text


def test_damaged_databases_are_refused_by_a_process_that_may_end(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "a_lmdb", files_of(random_images(40, 32, 32))) / "data.mdb"
    whole = path.read_bytes()
    (tmp_path / "bad").mkdir()
    for cut in (0, 100, 4096, 9000, len(whole) // 2):
        (tmp_path / "bad" / "data.mdb").write_bytes(whole[:cut])
        assert str(tmp_path / "bad" / "data.mdb") in refused(tmp_path / "bad"), cut
    (tmp_path / "bad" / "data.mdb").write_bytes(b"not a database" * 1000)
    assert "is no whole LMDB" in refused(tmp_path / "bad")
    counted = files_of(random_images(2, 6, 8)) | {"__len__": b"2"}
    assert open_images(write_lmdb(tmp_path / "counted", counted)).count == 2
    assert "no.png is not an image" in refused(write_lmdb(tmp_path / "odd", {"no.png": b"text"}))


def test_sizes_are_compared_over_all_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", files_of(random_images(3, 6, 8)))
    write_tar(tmp_path / "1.tar", files_of(random_images(2, 5, 5)))
    assert "images of 2 sizes, but a set has one: 8x6 (3), 5x5 (2)" in refused(tmp_path)


# Surveys


@pytest.fixture
def _settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(surveys, "settled", lambda newest: True)
    monkeypatch.setattr(surveys, "LEAST", 1)


@pytest.mark.usefixtures("_settled")
@pytest.mark.parametrize("form", ["folder", "zip", *FORMS])
def test_a_set_that_was_surveyed_is_opened_without_reading_an_image(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(random_images(8, 6, 8), "ab" if form in ("folder", "tar") else "")
    files |= {name.replace(".png", ".txt"): b"text " + name.encode() for name in files if form in ("tar", "shards")}
    if form == "folder":
        path: Path | str = write_folder(tmp_path / "folder", files)
    elif form == "zip":
        path = write_zip(tmp_path / "a.zip", files)
    else:
        path = FORMS[form](tmp_path, files)
    first = open_images(path)
    looked: list[str] = []
    monkeypatch.setattr("genbench.images.encoded.Look.at", lambda self, name, read: looked.append(name) or True)
    second = open_images(path)
    assert not looked
    assert second.fingerprint() == first.fingerprint()
    assert np.array_equal(second.read(0, 8), first.read(0, 8))
    assert second.classes == first.classes and second.shape == first.shape and second.format == first.format
    assert (second.labels is None) == (first.labels is None) and list(second.captions or ()) == list(
        first.captions or ()
    )
    if first.labels is not None:
        assert second.labels.tolist() == first.labels.tolist()


@pytest.mark.usefixtures("_settled")
def test_a_survey_holds_no_longer_than_its_files(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tar", random_images(4, 6, 8)
    write_tar(path, files_of(pixels[:2]))
    one = open_images(path)
    write_tar(path, files_of(pixels[2:]))
    other = open_images(path)
    assert other.fingerprint() != one.fingerprint() and np.array_equal(other.read(0, 2), pixels[2:])
    with pytest.raises(InputRejected, match="was changed while it was read"):
        one.read(0, 2)


@pytest.mark.usefixtures("_settled")
def test_a_survey_that_is_wrong_is_refused_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a file system tells no change: the same state, other bytes."""
    path, pixels = tmp_path / "a.tar", random_images(4, 6, 8)
    monkeypatch.setattr(sharded, "state_of", lambda path: ([str(path)], True))
    write_tar(path, files_of(pixels[:2]))
    open_images(path)
    write_tar(path, files_of(pixels[2:]))
    with pytest.raises(InputRejected, match="was changed while it was read"):
        open_images(path).read(0, 2)
    assert np.array_equal(open_images(path).read(0, 2), pixels[2:])


def test_files_that_were_just_written_are_not_remembered(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", files_of(random_images(2, 6, 8)))
    open_images(path)
    assert surveys.recall(surveys.key_of(".tar", state_of(path)[0], 64_000_000)) is None
    assert surveys.settled(time.time_ns() - 3_000_000_000) and not surveys.settled(time.time_ns() - 1_000_000_000)


@pytest.mark.usefixtures("_settled")
def test_a_damaged_survey_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_tar(tmp_path / "a.tar", files_of(random_images(2, 6, 8)))
    first = open_images(path).fingerprint()
    (kept,) = (tmp_path / "cache" / "surveys").glob("*.survey")
    data = bytearray(kept.read_bytes())
    data[len(data) // 2] ^= 1
    kept.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert open_images(path).fingerprint() == first
    assert "is damaged or of an older version, and is made anew" in caplog.text


def test_progress_of_a_survey_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, float, float]] = []
    path = write_tar(tmp_path / "a.tar", files_of(np.zeros((600, 3, 2, 2), np.uint8)))
    with surveys.watched(lambda *what: told.append(what)):
        open_images(path)
    assert [done for _, done, _ in told] == [256, 512] and told[0][0] == "survey of a.tar"
    assert all(590 <= total <= 610 for _, _, total in told)


def test_a_set_takes_fewer_than_50_bytes_an_image_beside_its_names(tmp_path: Path) -> None:
    samples = open_images(shards(tmp_path / "s", files_of(np.zeros((300, 3, 2, 2), np.uint8), "ab")))
    encoded = samples.read.__self__
    held = encoded.digests.nbytes + samples.labels.nbytes
    for survey in encoded.source.surveys:
        assert not len(survey.digests) and survey.labels is None, "once, in the whole"
        held += survey.places.nbytes
    assert held / samples.count <= 48
    assert sum(s.names.ends.nbytes + len(s.names.blob) for s in encoded.source.surveys) / samples.count <= 8 + 10


def test_tarfile_keeps_no_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TarInfo takes more than a kilobyte, and there are millions."""
    kept: list[int] = []
    following = tarfile.TarFile.next

    def watched(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        kept.append(len(tar.members))
        return following(tar)

    path = write_tar(tmp_path / "a.tar", files_of(random_images(20, 2, 2)))
    monkeypatch.setattr(tarfile.TarFile, "next", watched)
    tars.survey_of(path, 100)
    assert max(kept) <= 1 and len(kept) > 20
