"""Images on disk: what is read, in which order, and what is refused with which words."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import pickle
import stat
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up import random_images
from numpy.typing import NDArray
from PIL import Image, ImageFile

from genbench.arrays import Images, Samples
from genbench.errors import InputRejected, UsageError
from genbench.images import containers, npz, open_images, open_reference, prefetch, write_grid, write_images, write_npz
from genbench.images import encoded as files_of_images


def encoded(pixels: NDArray, mode: str | None = None, kind: str = "PNG", **options: object) -> bytes:
    """The file of (h, w, c) or (h, w) pixels."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if mode:
        image = image.convert(mode)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(image: Images, **options: object) -> bytes:
    return encoded(np.ascontiguousarray(image.transpose(1, 2, 0)), **options)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(width: int, height: int, depth: int, colour: int, data: bytes, *, after: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + after + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def raw_tiff(width: int, height: int, depth: int) -> bytes:
    """Uncompressed RGB of `depth` bits a channel, all zero; Pillow cannot write more than 8."""
    pixels = bytes(width * height * 3 * depth // 8)
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 14), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(pixels)),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        b"II*\0"
        + struct.pack("<I", 14 + len(pixels))
        + struct.pack("<3H", *[depth] * 3)
        + pixels
        + directory
        + bytes(4)
    )


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def pack(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def refused(path: Path, **options: int) -> str:
    """The message with which a set is refused, when it is opened or when it is read."""
    with pytest.raises(InputRejected) as caught:
        samples = open_images(path, **options)
        samples.read(0, samples.count)
    message = str(caught.value)
    assert caught.value.exit_code == 5
    assert message.isprintable()
    del caught  # else its traceback keeps this frame, and with it an open zip, until some later test
    return message


# Reading


def test_pixels_are_those_of_the_files_in_the_order_of_their_paths(tmp_path: Path) -> None:
    # The order of code points of whole relative paths: upper case first, "-" before "/", "10" before "9".
    names = ["Z.png", "a-1/x.PNG", "a/10.png", "a/9.png", "a/b/c/d.png", "b.Png"]
    pixels = random_images(len(names), 6, 8)
    order = np.random.default_rng(1).permutation(len(names))
    write(tmp_path, {names[i]: png(pixels[i]) for i in order})
    samples = open_images(str(tmp_path))
    assert (samples.count, samples.shape) == (6, (3, 6, 8))
    assert np.array_equal(samples.read(0, 6), pixels)
    assert np.array_equal(samples.read(2, 4), pixels[2:4])
    assert samples.read(3, 3).shape == (0, 3, 6, 8)
    assert samples.labels is None


@pytest.mark.parametrize(
    ("kind", "extension", "options"),
    [
        ("BMP", ".bmp", {}),
        ("TIFF", ".tif", {}),
        ("TIFF", ".TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", ".webp", {"lossless": True}),
        ("PNG", ".jpg", {}),
    ],
)
def test_lossless_formats_keep_every_pixel(kind: str, extension: str, options: dict, tmp_path: Path) -> None:
    pixels = random_images(2, 6, 8)
    write(tmp_path, {f"{i}{extension}": png(pixels[i], kind=kind, **options) for i in range(2)})
    assert np.array_equal(open_images(tmp_path).read(0, 2), pixels)


def test_jpeg_is_decoded_as_pillow_does(tmp_path: Path) -> None:
    data = png(random_images(1, 32, 32)[0], kind="JPEG", quality=80)
    write(tmp_path, {"a.jpeg": data})
    expected = np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1)
    assert np.array_equal(open_images(tmp_path).read(0, 1)[0], expected)


def test_only_the_files_that_are_asked_for_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = random_images(5, 6, 8)
    write(tmp_path, {f"{i}.png": png(pixels[i]) for i in range(5)})
    samples = open_images(tmp_path)
    for i in (0, 1, 4):
        (tmp_path / f"{i}.png").unlink()
    assert np.array_equal(samples.read(2, 4), pixels[2:4])


def test_grey_palette_and_opaque_alpha_become_rgb(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (6, 8), dtype=np.uint8)
    colour = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    opaque = np.full((6, 8, 1), 255, dtype=np.uint8)
    palette = Image.fromarray(colour).quantize(16)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=bytes([255] * 16))
    write(
        tmp_path,
        {
            "0-grey.png": encoded(grey),
            "1-grey-alpha.png": encoded(np.dstack([grey, opaque])),
            "2-colour-alpha.png": encoded(np.dstack([colour, opaque])),
            "3-palette.png": buffer.getvalue(),
            "4-bilevel.png": encoded(grey > 127),
            "5-grey.jpg": encoded(np.full((6, 8), 200, dtype=np.uint8), kind="JPEG"),
        },
    )
    with caplog.at_level(logging.WARNING, "genbench"):
        samples = open_images(tmp_path)
    assert "4 of 6 images are greyscale" in caplog.text
    assert len(caplog.records) == 1
    expected = [
        np.dstack([grey] * 3),
        np.dstack([grey] * 3),
        colour,
        np.asarray(palette.convert("RGB")),
        np.dstack([np.where(grey > 127, 255, 0)] * 3),
        np.full((6, 8, 3), 200),
    ]
    for image, pixels in zip(samples.read(0, 6), expected, strict=True):
        assert np.array_equal(image, pixels.transpose(2, 0, 1))


def test_a_foreign_colour_profile_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from PIL import ImageCms

    for name in ("sRGB", "LAB"):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()
        write(tmp_path, {f"{name}.png": png(random_images(1, 6, 8)[0], icc_profile=profile)})
    write(tmp_path, {"old.png": png(random_images(1, 6, 8)[0], icc_profile=b"desc sRGB IEC61966-2.1")})
    with caplog.at_level(logging.WARNING, "genbench"):
        open_images(tmp_path)
    assert "1 of 3 images carry a colour profile that is not sRGB" in caplog.text


def test_other_and_hidden_files_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = random_images(1, 6, 8)
    good = png(pixels[0])
    extra = {"notes.txt": b"", "b.gif": good, "c.gif": good, ".hidden.png": b"", "._a.png": b"", ".git/x.png": good}
    write(tmp_path / "folder", {"a.png": good} | extra)
    zipped = pack(tmp_path / "a.zip", {"a.png": good, "__MACOSX/a.png": b"", "void/": b""} | extra)
    for path in (tmp_path / "folder", zipped):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "genbench"):
            assert np.array_equal(open_images(path).read(0, 1), pixels)
        assert "3 files are not images and were passed over: .gif (2), .txt (1)" in caplog.text


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    pixels = random_images(2, 6, 8)
    write(tmp_path, {"real/a.png": png(pixels[0]), "set/b/b.png": png(pixels[1])})
    (tmp_path / "set" / "a").symlink_to(tmp_path / "real")
    (tmp_path / "set" / "b" / "loop").symlink_to(tmp_path / "set")
    samples = open_images(tmp_path / "set")
    assert np.array_equal(samples.read(0, samples.count), pixels)
    assert samples.classes == ("a", "b")


# Labels


@pytest.mark.parametrize(
    ("names", "labels", "classes"),
    [
        (["cat/1.png", "cat/2.png", "dog/1.png"], [0, 0, 1], ("cat", "dog")),
        (["set/cat/1.png", "set/dog/1.png"], [0, 1], ("cat", "dog")),
        (["b/x/1.png", "b/y/1.png", "c/1.png"], [0, 0, 1], ("b", "c")),
        (["cat/1.png", "cat/2.png"], None, ()),
        (["1.png", "2.png"], None, ()),
        (["0.png", "cat/1.png", "dog/1.png"], None, ()),
        (["set/0.png", "set/cat/1.png", "set/dog/1.png"], None, ()),
        (["a/b/c/1.png", "a/b/d/2.png"], [0, 1], ("c", "d")),
    ],
)
def test_folders_are_classes(
    names: list[str], labels: list[int] | None, classes: tuple[str, ...], tmp_path: Path
) -> None:
    files = {name: png(image) for name, image in zip(names, random_images(len(names), 6, 8), strict=True)}
    write(tmp_path / "folder", files)
    for path in (tmp_path / "folder", pack(tmp_path / "a.zip", files)):
        samples = open_images(path)
        assert (samples.labels if samples.labels is None else samples.labels.tolist()) == labels
        assert samples.classes == classes
        bare = open_images(path, labels_from_folders=False)
        assert bare.labels is None
        assert bare.classes == ()


# Captions

TEXTS = ("a cat, asleep", 'a "red" dog\non a mat', "crème brûlée \U0001f36e")
"""Of 2.png, a/1.png and a/10.webp, in the order of the files."""


def captioned(kind: str) -> dict[str, bytes]:
    """Three images whose captions are TEXTS, in the convention asked for; the rows are not in the order of files."""
    pixels = random_images(3, 6, 8)
    files = {"2.png": png(pixels[0]), "a/1.png": png(pixels[1]), "a/10.webp": png(pixels[2], kind="WEBP")}
    two, one, ten = TEXTS
    flat = one.replace("\n", " ")
    table = f'label,prompt,file_name\r\n0,{ten},a/10.webp\r\n1,"{flat.replace(chr(34), chr(34) * 2)}",./a/1.png\r\n'
    extra = {
        "jsonl": {
            "metadata.jsonl": "\n".join(
                json.dumps({"file_name": name, "seed": 1, "text": text}, ensure_ascii=False)
                for name, text in (("a/10.webp", ten), ("2.png", two), ("a/1.png", one))
            )
        },
        "csv": {"metadata.csv": table + f'2,"{two}",2.png\r\n\r\n'},
        "excel": {
            "metadata.csv": f'\ufefffile_name,caption\r\na/1.png,"{one}"\r\n'.replace('"red"', '""red""')
            + f'2.png,"{two}"\r\na/10.webp,{ten}\r\n'
        },
        "folders": {
            "metadata.jsonl": json.dumps({"file_name": "2.png", "caption": two}),
            "a/metadata.jsonl": json.dumps({"file_name": "10.webp", "prompt": ten})
            + "\r\n\r\n"
            + json.dumps({"file_name": "1.png", "prompt": one})
            + "\r\n",
        },
        "texts": {"a/1.TXT": flat + "\r\n", "2.txt": f"\n {two}\n", "a/10.txt": "\ufeff" + ten},
        "mixed": {"metadata.csv": f'file_name,caption\n2.png,"{two}"\n', "a/1.txt": flat, "a/10.txt": ten},
    }[kind]
    return files | {name: text.encode() for name, text in extra.items()}


@pytest.mark.parametrize("kind", ["jsonl", "csv", "excel", "folders", "texts", "mixed"])
def test_captions_belong_to_the_image_they_name(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = captioned(kind)
    expected = [TEXTS[0], TEXTS[1] if kind in ("jsonl", "excel", "folders") else TEXTS[1].replace("\n", " "), TEXTS[2]]
    write(tmp_path / "folder", files)
    zipped = pack(tmp_path / "a.zip", {f"set/{name}": files[name] for name in reversed(files)})
    bare = open_images(write(tmp_path / "bare", {n: d for n, d in files.items() if n.endswith(("png", "webp"))}))
    for path in (tmp_path / "folder", zipped):
        with caplog.at_level(logging.WARNING, "genbench"):
            samples = open_images(path)
        assert list(samples.captions or ()) == expected
        assert samples.fingerprint() == bare.fingerprint(), "features of images are found again with captions beside"
        assert list(samples.subset(1, 3).captions or ()) == expected[1:]
    assert bare.captions is None
    assert "passed over" not in caplog.text


A_ROW = '{"file_name": "b.png", "text": "x"}\n'
BAD_CAPTIONS: dict[str, tuple[dict[str, bytes], str]] = {
    "no row for an image": (
        {"metadata.csv": b"file_name,text\nb.png,x\n"},
        "2 of 3 images have no caption, such as a.png",
    ),
    "only a header": ({"metadata.csv": b"file_name,text\n"}, "3 of 3 images have no caption, such as a.png"),
    "unknown image": (
        {"metadata.jsonl": A_ROW.replace("b.", "z.").encode()},
        "metadata.jsonl names z.png, which is not among",
    ),
    "outside": ({"a/metadata.jsonl": A_ROW.replace("b.", "../b.").encode()}, "names a/../b.png, which is not among"),
    "twice": ({"metadata.jsonl": (A_ROW * 2).encode()}, "names b.png, which has a caption already"),
    "in two files": (
        {"metadata.csv": b"file_name,text\nb.png,x\n", "metadata.jsonl": A_ROW.encode()},
        "which has a caption already",
    ),
    "beside and in a table": (
        {"metadata.jsonl": A_ROW.encode(), "b.txt": b"x"},
        "b.txt names b.png, which has a caption already",
    ),
    "latin-1 table": (
        {"metadata.csv": "file_name,text\nb.png,é\n".encode("latin-1")},
        "metadata.csv is not UTF-8 (byte 21)",
    ),
    "latin-1 text": ({"b.txt": "é".encode("latin-1")}, "b.txt is not UTF-8"),
    "utf-16": ({"metadata.jsonl": A_ROW.encode("utf-16")}, "metadata.jsonl is not UTF-8"),
    "two columns": (
        {"metadata.csv": b"file_name,text,prompt\nb.png,x,y\n"},
        "captions in 2 columns (text, prompt); keep one",
    ),
    "a comma without quotes": (
        {"metadata.csv": b"file_name,text\nb.png,x, y\n"},
        "3 fields in line 2, not 2; quote texts",
    ),
    "an open quote": ({"metadata.csv": b'file_name,text\nb.png,"x\n'}, "cannot be read: unexpected end of data"),
    "no JSON": ({"metadata.jsonl": A_ROW.encode() + b"{'file_name': 'a.png'}"}, "is no JSON in line 2"),
    "a JSON list": ({"metadata.jsonl": b"[1]"}, "holds no JSON object in line 1"),
    "a row without text": (
        {"metadata.jsonl": A_ROW.encode() + b'{"file_name": "a.png"}'},
        "no file_name or no text in line 2",
    ),
    "null": ({"metadata.jsonl": A_ROW.replace('"x"', "null").encode()}, "has a caption of b.png that is no text"),
    "a lone surrogate": ({"metadata.jsonl": A_ROW.replace('"x"', '"\\ud800"').encode()}, "that is not valid Unicode"),
    "empty": ({"metadata.jsonl": A_ROW.replace('"x"', '" "').encode()}, "has a caption of b.png that is empty"),
    "an empty file": ({"b.txt": b"\n"}, "has a caption of b.png that is empty"),
    "several lines": (
        {"b.txt": b"one\ntwo\n"},
        "b.txt has 2 lines; a caption is one line, or stands in metadata.jsonl",
    ),
    "a missing text": (
        {"b.txt": b"x", "a.txt": b"y"},
        "1 of 3 images have no caption, such as a/c.png; text files must have",
    ),
    "a text too many": ({"b.txt": b"x", "a/d.txt": b"y"}, "a/d.txt has no image of its name beside it"),
    "two images": ({"b.txt": b"x", "b.jpg": b""}, "b.txt belongs to b.jpg and b.png; a caption has one image"),
}


@pytest.mark.parametrize("case", BAD_CAPTIONS)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_doubtful_captions_are_refused(case: str, kind: str, tmp_path: Path) -> None:
    extra, says = BAD_CAPTIONS[case]
    pixels = random_images(3, 6, 8)
    files = {"a.png": png(pixels[0]), "b.png": png(pixels[1]), "a/c.png": png(pixels[2])} | extra
    if "b.jpg" in files:
        files["b.jpg"] = png(pixels[0], kind="JPEG")
    path = write(tmp_path / "set", files) if kind == "folder" else pack(tmp_path / "set.zip", files)
    assert says in refused(path)


def test_tables_of_something_else_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(
        tmp_path,
        {"b.png": png(random_images(1, 6, 8)[0]), "metadata.csv": b"file_name,label\nb.png,3\n", "notes.txt": b"\xff"},
    )
    write(tmp_path, {"metadata.jsonl": b'{"image": "b.png", "text": "x"}', ".b.txt": b"hidden", "deep/b.txt": b"other"})
    with caplog.at_level(logging.WARNING, "genbench"):
        assert open_images(tmp_path).captions is None
    assert "metadata.csv has no captions and was passed over" in caplog.text
    assert "metadata.jsonl has no captions and was passed over" in caplog.text
    assert "2 files are not images and were passed over: .txt (2)" in caplog.text


def test_captions_of_arrays(tmp_path: Path) -> None:
    pixels = random_images(3, 6, 8).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "a.npz", arr_0=pixels, captions=np.array(TEXTS))
    np.savez_compressed(tmp_path / "b.npz", arr_0=pixels, captions=np.array(TEXTS, dtype=">U40"))
    np.savez(tmp_path / "c.npz", arr_0=pixels)
    opened = [open_images(tmp_path / f"{name}.npz") for name in "abc"]
    assert [samples.captions for samples in opened] == [TEXTS, TEXTS, None]
    assert len({samples.fingerprint() for samples in opened}) == 1
    bad = {
        "2 for 3": (np.array(TEXTS[:2]), "captions <U20 (2,); they are unicode texts, one an image: (3,)"),
        "bytes": (np.array([b"a", b"b", b"c"]), "captions |S1 (3,)"),
        "objects": (np.array([*TEXTS], dtype=object), "holds Python objects, which are never loaded"),
        "empty": (np.array(["a", "", "c"]), "has a caption of image 1 that is empty"),
        "no code point": (np.array([0x110000] * 3, dtype="<u4").view("<U1"), "cannot be read"),
    }
    for captions, says in bad.values():
        np.savez(tmp_path / "bad.npz", arr_0=pixels, captions=captions)
        assert says in refused(tmp_path / "bad.npz")


# A zip is its folder


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("root", ["", "photos/"])
def test_a_zip_equals_its_folder(compression: int, root: str, tmp_path: Path) -> None:
    pixels = random_images(12, 16, 16)
    files = {}
    for i, image in enumerate(pixels):
        kind = ("PNG", "JPEG", "WEBP")[i % 3]
        files[f"{'bac'[i % 3]}/{i}.{kind.lower()}"] = png(image, kind=kind)
    write(tmp_path / "folder", files)
    shuffled = sorted(files, key=lambda name: hash(name[::-1]))
    zipped = pack(tmp_path / "a.zip", {root + name: files[name] for name in shuffled}, compression)
    one, other = open_images(tmp_path / "folder"), open_images(zipped)
    assert one.fingerprint() == other.fingerprint()
    assert np.array_equal(one.read(0, 12), other.read(0, 12))
    assert np.array_equal(one.read(5, 7), other.read(5, 7))
    assert one.labels is not None
    assert np.array_equal(one.labels, other.labels)
    assert one.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert one.classes == other.classes == ("a", "b", "c")


def test_fingerprints_change_with_content_order_and_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (png(image) for image in random_images(2, 6, 8))
    sets = [{"1.png": a, "2.png": b}, {"1.png": b, "2.png": a}, {"1.png": a}, {"1.png": a, "2.png": a}]
    names = [open_images(write(tmp_path / str(i), files)).fingerprint() for i, files in enumerate(sets)]
    assert len(set(names)) == 4
    # A name is not content, but where one file ends and the next begins is.
    assert open_images(write(tmp_path / "x", {"8.png": a, "9.png": b})).fingerprint() == names[0]
    trailing = write(tmp_path / "y", {"1.png": a + b[:4], "2.png": b})
    before = open_images(trailing).fingerprint()
    write(trailing, {"1.png": a})
    assert len({before, open_images(trailing).fingerprint(), names[1]}) == 3
    monkeypatch.setattr(files_of_images, "DECODER", files_of_images.DECODER + 1)
    assert open_images(tmp_path / "0").fingerprint() not in names


def test_fingerprints_know_where_files_end(tmp_path: Path) -> None:
    a, b = (png(image) for image in random_images(2, 6, 8))
    one, other = (
        write(tmp_path / "one", {"1.png": a + b, "2.png": b}),
        write(tmp_path / "two", {"1.png": a, "2.png": b + b}),
    )
    assert open_images(one).fingerprint() != open_images(other).fingerprint()


# Several threads and processes


@pytest.mark.parametrize("kind", ["folder", "zip", "npz", "packed", "npy"])
def test_samples_survive_pickling_and_threads(kind: str, tmp_path: Path) -> None:
    pixels = random_images(40, 6, 8)
    files = {f"{i:02}.png": png(image) for i, image in enumerate(pixels)}
    stored = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    path = {
        "folder": lambda: write(tmp_path / "folder", files),
        "zip": lambda: pack(tmp_path / "a.zip", files, zipfile.ZIP_DEFLATED),
        "npz": lambda: np.savez(tmp_path / "a.npz", stored) or tmp_path / "a.npz",
        "packed": lambda: np.savez_compressed(tmp_path / "a.npz", stored) or tmp_path / "a.npz",
        "npy": lambda: np.save(tmp_path / "a.npy", stored) or tmp_path / "a.npy",
    }[kind]()
    samples = open_images(path)
    samples.read(0, 1)
    copy = pickle.loads(pickle.dumps(samples))
    assert np.array_equal(copy.read(0, 40), pixels)
    assert copy.fingerprint() == samples.fingerprint()
    for workers in (0, 1, 3):
        batches = list(prefetch(samples, 7, workers))
        assert [len(batch) for batch in batches] == [7, 7, 7, 7, 7, 5]
        assert np.array_equal(np.concatenate(batches), pixels)


def test_a_forked_child_does_not_share_the_position_in_a_zip(tmp_path: Path) -> None:
    pixels = random_images(2, 6, 8)
    samples = open_images(pack(tmp_path / "a.zip", {f"{i}.png": png(image) for i, image in enumerate(pixels)}))
    archive = samples.read.__self__.source.files
    mine = archive.archive()
    assert archive.archive() is mine
    archive._opened = (os.getpid() + 1, mine)  # as a child finds it
    assert archive.archive() is not mine
    mine.close()
    assert np.array_equal(samples.read(0, 2), pixels)


def test_prefetch_reads_at_the_same_time_and_in_order() -> None:
    both = threading.Barrier(2, timeout=20)

    def read(start: int, stop: int) -> Images:
        both.wait()  # only ever passes if two reads are under way
        if start % 4 == 0:
            time.sleep(0.02)
        return np.full((stop - start, 3, 1, 1), start, dtype=np.uint8)

    samples = replace(Samples.of(np.zeros((16, 3, 1, 1), dtype=np.uint8)), read=read)
    assert [int(batch[0, 0, 0, 0]) for batch in prefetch(samples, 2, 2)] == [0, 2, 4, 6, 8, 10, 12, 14]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_prefetch_holds_few_batches(workers: int) -> None:
    started: list[int] = []

    def read(start: int, stop: int) -> Images:
        started.append(start)
        return np.zeros((stop - start, 3, 1, 1), dtype=np.uint8)

    samples = replace(Samples.of(np.zeros((100, 3, 1, 1), dtype=np.uint8)), read=read)
    for done, _ in enumerate(prefetch(samples, 1, workers), start=1):
        assert len(started) <= done + workers + 1
    assert len(started) == 100


def test_prefetch_raises_at_the_batch_and_stops_when_closed() -> None:
    started: list[int] = []

    def read(start: int, stop: int) -> Images:
        started.append(start)
        if start == 3:
            raise InputRejected("bad.png is empty (0 bytes)")
        return np.zeros((stop - start, 3, 1, 1), dtype=np.uint8)

    samples = replace(Samples.of(np.zeros((100, 3, 1, 1), dtype=np.uint8)), read=read)
    batches = prefetch(samples, 1, 2)
    for _ in range(3):
        next(batches)
    with pytest.raises(InputRejected, match=r"bad\.png"):
        next(batches)
    assert len(started) <= 7


def test_nothing_reads_after_prefetch_was_closed() -> None:
    running: list[int] = []

    def read(start: int, stop: int) -> Images:
        running.append(start)
        if start:
            time.sleep(0.2)
        running.remove(start)
        return np.zeros((stop - start, 3, 1, 1), dtype=np.uint8)

    batches = prefetch(replace(Samples.of(np.zeros((100, 3, 1, 1), dtype=np.uint8)), read=read), 1, 2)
    next(batches)
    batches.close()
    assert running == []


# What is refused


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def animation(kind: str) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(image.transpose(1, 2, 0)) for image in random_images(3, 6, 8)]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def with_alpha(value: int, kind: str = "PNG") -> bytes:
    pixels = np.full((6, 8, 4), 255, dtype=np.uint8)
    pixels[5, 7, 3] = value
    return encoded(pixels, kind=kind, **({"lossless": True} if kind == "WEBP" else {}))


def palette(transparency: int | bytes) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(random_images(1, 6, 8)[0].transpose(1, 2, 0)).quantize(16)
    image.save(buffer, "PNG", transparency=transparency)
    return buffer.getvalue()


COLOUR = random_images(1, 6, 8)[0].transpose(1, 2, 0)
GOOD = encoded(COLOUR)
ROWS16 = b"".join(b"\0" + bytes(range(48)) for _ in range(6))
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'

BAD: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty": ("bad.png", lambda: b"", "is empty (0 bytes)"),
    "text": ("bad.png", lambda: b"<html>404 Not Found</html>" * 9, "is not an image of PNG, JPEG, WEBP, BMP or TIFF"),
    "other format": ("bad.png", lambda: encoded(COLOUR, kind="GIF"), "is not an image of PNG"),
    "truncated header": ("bad.png", lambda: GOOD[:20], "cannot be read: Truncated"),
    "truncated png": ("bad.png", lambda: GOOD[: len(GOOD) // 2], "cannot be read"),
    "truncated jpeg": ("bad.jpg", lambda: encoded(COLOUR, kind="JPEG")[:-40], "truncated"),
    "truncated webp": ("bad.webp", lambda: encoded(COLOUR, kind="WEBP")[:-20], "cannot be read"),
    "truncated bmp": ("bad.bmp", lambda: encoded(COLOUR, kind="BMP")[:-20], "truncated"),
    "truncated tiff": ("bad.tif", lambda: encoded(COLOUR, kind="TIFF", compression="tiff_lzw")[:60], ""),
    "damaged png": ("bad.png", lambda: raw_png(8, 6, 8, 2, b"\0" * 20), "cannot be read"),
    "16-bit grey": ("bad.png", lambda: raw_png(8, 6, 16, 0, (b"\0" + bytes(16)) * 6), "more than 8 bits a channel"),
    "16-bit grey alpha": ("bad.png", lambda: raw_png(8, 6, 16, 4, (b"\0" + b"\xff" * 32) * 6), "more than 8 bits"),
    "16-bit colour": ("bad.png", lambda: raw_png(8, 6, 16, 2, ROWS16), "more than 8 bits a channel (mode RGB)"),
    "16-bit alpha": ("bad.png", lambda: raw_png(8, 6, 16, 6, (b"\0" + b"\xff" * 64) * 6), "more than 8 bits"),
    "16-bit tiff": ("bad.tif", lambda: encoded(COLOUR[..., 0].astype(np.uint16) * 257, kind="TIFF"), "8 bits"),
    "16-bit colour tiff": ("bad.tif", lambda: raw_tiff(8, 6, 16), "more than 8 bits a channel (mode RGB)"),
    "32-bit tiff": ("bad.tiff", lambda: encoded(COLOUR[..., 0].astype(np.int32), kind="TIFF"), "more than 8 bits"),
    "float tiff": ("bad.tif", lambda: encoded(COLOUR[..., 0].astype(np.float32), kind="TIFF"), "holds floats"),
    "alpha 254": ("bad.png", lambda: with_alpha(254), "is partly transparent (alpha 254)"),
    "alpha 0": ("bad.png", lambda: with_alpha(0), "is partly transparent (alpha 0)"),
    "webp alpha": ("bad.webp", lambda: with_alpha(9, "WEBP"), "is partly transparent (alpha 9)"),
    "grey alpha": ("bad.png", lambda: encoded(np.full((6, 8, 2), 200, np.uint8)), "is partly transparent (alpha 200)"),
    "transparent colour": ("bad.png", lambda: encoded(COLOUR, transparency=(1, 2, 3)), "has transparent colours"),
    "transparent grey": ("bad.png", lambda: encoded(COLOUR[..., 0], transparency=7), "has transparent colours"),
    "transparent entry": ("bad.png", lambda: palette(3), "has transparent colours"),
    "transparent entries": ("bad.png", lambda: palette(bytes([255] * 15 + [254])), "has transparent colours"),
    "cmyk jpeg": ("bad.jpg", lambda: encoded(COLOUR, "CMYK", "JPEG"), "has the colour mode CMYK"),
    "cmyk tiff": ("bad.tif", lambda: encoded(COLOUR, "CMYK", "TIFF"), "has the colour mode CMYK"),
    "lab tiff": ("bad.tif", lambda: encoded(COLOUR, "LAB", "TIFF"), "has the colour mode LAB"),
    "turned jpeg": ("bad.jpg", lambda: encoded(COLOUR, kind="JPEG", exif=exif(3)), "EXIF orientation"),
    "turned png": ("bad.png", lambda: encoded(COLOUR, exif=exif(8)), "EXIF orientation"),
    "turned webp": ("bad.webp", lambda: encoded(COLOUR, kind="WEBP", exif=exif(6)), "EXIF orientation"),
    "turned tiff": ("bad.tif", lambda: encoded(COLOUR, kind="TIFF", tiffinfo={274: 2}), "EXIF orientation"),
    "turned by xmp": ("bad.jpg", lambda: encoded(COLOUR, kind="JPEG", xmp=XMP.encode()), "EXIF orientation"),
    "turned at the end": (
        "bad.png",
        lambda: raw_png(8, 6, 8, 2, (b"\0" + bytes(24)) * 6, after=chunk(b"eXIf", exif(5).tobytes()[6:])),
        "EXIF orientation",
    ),
    "animated png": ("bad.png", lambda: animation("PNG"), "3 frames"),
    "animated webp": ("bad.webp", lambda: animation("WEBP"), "3 frames"),
    "pages": ("bad.tif", lambda: animation("TIFF"), "3 frames"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_bad_images_are_refused_by_name(case: str, kind: str, tmp_path: Path) -> None:
    name, make, words = BAD[case]
    files = {"a.png": GOOD, name: make(), "z.png": GOOD}
    path = write(tmp_path / "set", files) if kind == "folder" else pack(tmp_path / "set.zip", files)
    message = refused(path)
    assert str(path) in message
    assert name in message
    assert words in message


def test_the_hand_made_files_are_fine_at_8_bits(tmp_path: Path) -> None:
    write(tmp_path, {"a.tif": raw_tiff(8, 6, 8), "b.png": raw_png(8, 6, 8, 2, (b"\0" + bytes(24)) * 6)})
    assert open_images(tmp_path).read(0, 2).max() == 0


def test_damaged_metadata_that_touches_no_pixel_is_nobodys_business(tmp_path: Path) -> None:
    directory = b"II*\0\x08\0\0\0\x05\0"  # announces five entries and has none
    write(tmp_path, {"a.jpg": encoded(COLOUR, kind="JPEG", exif=b"Exif\0\0" + directory)})
    samples = open_images(tmp_path)  # Pillow warns of it, and warnings are errors here
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        assert samples.read(0, 1).shape == (1, 3, 6, 8)


def test_orientation_one_is_fine(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": encoded(COLOUR, kind="JPEG", exif=exif(1)), "b.png": encoded(COLOUR, exif=exif(1))})
    assert np.array_equal(open_images(tmp_path).read(1, 2)[0], COLOUR.transpose(2, 0, 1))


def test_headers_are_judged_before_any_pixel_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.png": GOOD, "b.png": raw_png(8, 6, 16, 2, ROWS16), "c.jpg": encoded(COLOUR, "CMYK", "JPEG")})
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were decoded"))
    with pytest.raises(InputRejected, match=r"2 of 3 images cannot be used: b\.png has more than 8 bits.*; c\.jpg has"):
        open_images(tmp_path)


def test_large_images_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": GOOD})
    assert open_images(tmp_path, max_pixels=48).count == 1
    assert "a.png has 8x6 pixels, more than 47" in refused(tmp_path, max_pixels=47)
    for side in (10_000, 30_000):  # below and above what Pillow itself warns of and refuses
        bomb = raw_png(side, side, 8, 2, b"")
        assert "bomb.png" in refused(write(tmp_path / str(side), {"bomb.png": bomb}))
    assert open_images(tmp_path / "10000", max_pixels=100_000_000).shape == (3, 10_000, 10_000)


def test_mixed_sizes_are_listed_with_their_counts(tmp_path: Path) -> None:
    files = {f"a{i}.png": png(image) for i, image in enumerate(random_images(3, 6, 8))}
    files |= {f"b{i}.png": png(image) for i, image in enumerate(random_images(2, 4, 5))}
    message = refused(write(tmp_path, files))
    assert "has images of 2 sizes" in message
    assert "8x6 (3), 5x4 (2)" in message
    for i in range(9):
        write(tmp_path, {f"c{i}.png": png(random_images(1, 3, 10 + i)[0])})
    assert refused(tmp_path).count("(") == 5


def test_many_offenders_are_counted_and_few_are_named(tmp_path: Path) -> None:
    write(tmp_path / "five", {f"{i}.png": b"" for i in range(5)} | {"good.png": GOOD})
    message = refused(tmp_path / "five")
    assert "5 of 6 images cannot be used: 0.png is empty (0 bytes); 1.png" in message
    assert "2.png is empty" in message
    assert "3.png" not in message
    assert message.endswith("and others.")
    write(tmp_path / "many", {f"{i:02}.png": b"" for i in range(50)})
    assert "at least 20 of 50 images" in refused(tmp_path / "many")


def test_missing_and_empty_and_unknown_places(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "texts", {"a.txt": b"", "b.csv": b""})
    write(tmp_path, {"one.png": GOOD, "a.tar": b"", "bad.zip": b"PK not a zip", "void.npz": b"", "void.npy": b""})
    pack(tmp_path / "void.zip", {})
    assert "There is no" in refused(tmp_path / "nothing")
    assert "There is no" in refused(tmp_path / ("x" * 300))
    assert "has no images (.png, .jpg" in refused(tmp_path / "empty")
    assert "it holds 2 other files" in refused(tmp_path / "texts")
    assert "One image is no set; give its folder." in refused(tmp_path / "one.png")
    assert "is no tar without compression (empty file)" in refused(tmp_path / "a.tar")
    assert "is none of images that is read; give a folder, a zip" in refused(tmp_path / "texts" / "b.csv")
    assert "bad.zip cannot be read as a zip" in refused(tmp_path / "bad.zip")
    assert "void.zip has no images" in refused(tmp_path / "void.zip")
    assert "void.npz" in refused(tmp_path / "void.npz")
    assert "void.npy" in refused(tmp_path / "void.npy")


def test_names_with_line_breaks_stay_on_one_line(tmp_path: Path) -> None:
    assert "a\\nb\\x1b.png is empty" in refused(write(tmp_path / "set", {"a\nb\x1b.png": b""}))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": GOOD})
    os.mkfifo(tmp_path / "pipe.png")
    assert "pipe.png is no regular file" in refused(tmp_path)
    (tmp_path / "pipe.png").unlink()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert "gone.png cannot be read: No such file" in refused(tmp_path)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.zip", "folder/a.png", "folder/a.txt"])
def test_pipes_are_refused_before_they_are_opened(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write(path.parent, {"a.png": GOOD} if name == "folder/a.txt" else {})
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)  # to open it would wait for ever
    for opening in (open_images, open_reference):
        with pytest.raises(InputRejected, match="is no regular file"):
            opening(path.parent if name.startswith("folder") else path)


def test_folders_that_are_linked_to_each_other_are_read_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(9):  # more paths than could be walked
        write(tmp_path / "set" / f"f{i}", {"a.png": GOOD})
        for j in range(9):
            (tmp_path / "set" / f"f{i}" / f"to{j}").symlink_to(tmp_path / "set" / f"f{j}")
    samples = open_images(tmp_path / "set")
    assert samples.count == 9 and samples.classes == tuple(f"f{i}" for i in range(9))
    assert "81 links lead to folders that were read already" in caplog.text


@pytest.mark.slow
def test_folders_may_lie_as_deep_as_paths_are_long(tmp_path: Path) -> None:
    deepest = tmp_path / "set" / "/".join(["d"] * 1500)  # deeper than Python's stack
    for folder in [*reversed(deepest.parents), deepest]:
        folder.mkdir(exist_ok=True)
    (deepest / "a.png").write_bytes(GOOD)
    try:
        assert open_images(tmp_path / "set").count == 1
    finally:
        (deepest / "a.png").unlink()
        os.removedirs(deepest)  # those who clean up after tests recurse


@pytest.mark.parametrize("error", [MemoryError("full"), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_a_full_memory_is_not_blamed_on_a_file(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = open_images(write(tmp_path, {"a.png": GOOD}))

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(files_of_images, "_decode", fails)
    with pytest.raises(type(error)):
        samples.read(0, 1)
    monkeypatch.setattr(files_of_images, "_header", fails)
    with pytest.raises(type(error)):
        open_images(tmp_path)


@pytest.mark.parametrize("colours", [0, 1, 3])
def test_colours_that_are_in_no_palette_are_refused(colours: int, tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0)
    rows = b"".join(b"\0" + bytes([0, 1, 2, 0, 1, 2, 0, 1]) for _ in range(8))
    table = chunk(b"PLTE", bytes(range(3 * colours))) if colours else b""
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + table
    data += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    samples = open_images(write(tmp_path, {"a.png": data}))
    if colours == 3:
        assert samples.read(0, 1)[0, :, 0, :3].T.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    else:
        with pytest.raises(InputRejected, match=rf"uses colour 2 of a palette of {colours}"):
            samples.read(0, 1)


@pytest.mark.parametrize("first", ["fingerprint", "read"])
@pytest.mark.parametrize("form", ["folder", "npy", "npz"])
def test_content_that_changes_between_two_readings_is_refused(form: str, first: str, tmp_path: Path) -> None:
    def save(pixels: np.ndarray) -> Path:
        files = {f"{i}.bmp": encoded(image.transpose(1, 2, 0), kind="BMP") for i, image in enumerate(pixels)}
        path = tmp_path / f"set.{form}"
        if form == "folder":
            return write(path, files)
        np.save(path, pixels) if form == "npy" else np.savez(path, pixels)
        return path

    pixels = random_images(4, 6, 8)
    samples = open_images(save(pixels))
    samples.fingerprint() if first == "fingerprint" else samples.read(0, 4)
    pixels[2] ^= 255
    save(pixels)  # as many bytes as before, as a sampler overwrites its own images
    with pytest.raises(InputRejected, match="changed while it was read"):
        samples.read(2, 3)
    assert len(samples.read(3, 4)) == 1


@pytest.mark.parametrize("threads", [0, 1])
def test_a_system_without_threads_reads_in_the_caller(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if len(started) >= threads:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    pixels = random_images(50, 6, 8)
    batches = list(prefetch(Samples.of(pixels), 7, 3))
    assert np.array_equal(np.concatenate(batches), pixels) and len(started) == threads


@pytest.mark.parametrize("save", [np.savez, np.save])
def test_an_array_that_is_cut_short_while_it_is_read_is_refused(save: Callable, tmp_path: Path) -> None:
    path = tmp_path / ("a.npz" if save is np.savez else "a.npy")
    save(path, random_images(2000, 6, 8))
    samples = open_images(path)
    os.truncate(path, 100_000)
    with pytest.raises(InputRejected, match="ends too early"):
        samples.read(0, 2000)


def test_files_that_change_after_opening_are_refused(tmp_path: Path) -> None:
    samples = open_images(write(tmp_path, {"a.png": GOOD, "b.png": GOOD}))
    write(tmp_path, {"b.png": png(random_images(1, 5, 5)[0])})
    before = samples.fingerprint()
    with pytest.raises(InputRejected, match=r"b\.png was changed while it was read"):
        samples.read(0, 2)
    assert samples.fingerprint() == before, "that of the images that were opened"
    assert samples.read(0, 1).shape == (1, 3, 6, 8)
    (tmp_path / "b.png").unlink()
    with pytest.raises(InputRejected, match=r"b\.png cannot be read: No such file"):
        samples.read(1, 2)


def test_larger_files_than_allowed_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_FILE", len(GOOD))
    with pytest.raises(InputRejected, match=r"b\.png is larger than"):
        open_images(write(tmp_path, {"a.png": GOOD, "b.png": GOOD + b"\0"}))


def test_a_process_that_pads_truncated_images_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.png": GOOD})
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UsageError, match="LOAD_TRUNCATED_IMAGES"):
        open_images(tmp_path)


# Zips


@pytest.mark.parametrize(
    "name", ["/etc/a.png", "../a.png", "b/../../a.png", "C:/a.png", "c:a.png", "b\\a.png", "../notes.txt"]
)
def test_zips_that_point_outside_are_refused(name: str, tmp_path: Path) -> None:
    message = refused(pack(tmp_path / "a.zip", {"good.png": GOOD, name: GOOD}))
    assert "a path that leaves the archive" in message
    assert name.replace("\\", "") in message.replace("\\", "")


def test_dots_that_lead_nowhere_are_fine(tmp_path: Path) -> None:
    assert open_images(pack(tmp_path / "a.zip", {"v1..2/a..png.png": GOOD})).count == 1


def test_links_in_zips_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", GOOD)
        link = zipfile.ZipInfo("b.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    assert "a symbolic link: b.png" in refused(tmp_path / "a.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_double_names_in_zips_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", GOOD)
        archive.writestr("a.png", GOOD)
    assert "holds a.png 2 times" in refused(tmp_path / "a.zip")


def test_encrypted_zips_are_refused(tmp_path: Path) -> None:
    data = bytearray(pack(tmp_path / "a.zip", {"a.png": GOOD}).read_bytes())
    directory = data.rindex(b"PK\1\2")
    data[6] |= 1  # the flag of encryption in the local header
    data[directory + 8] |= 1  # and in the directory
    (tmp_path / "a.zip").write_bytes(data)
    assert "an encrypted file: a.png" in refused(tmp_path / "a.zip")


def test_damaged_members_of_zips_are_refused_by_name(tmp_path: Path) -> None:
    large = png(random_images(1, 64, 64)[0])
    path = pack(tmp_path / "a.zip", {"a.png": large, "b.png": large})
    data = bytearray(path.read_bytes())
    data[data.rindex(b"IEND") + 5] ^= (
        1  # no decoder looks at the checksum of this chunk, but the zip has one of its own
    )
    path.write_bytes(data)
    with pytest.raises(InputRejected, match=r"a\.zip: 1 of 2 images cannot be used: b\.png cannot be read: Bad CRC"):
        open_images(path)


def test_zip_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "UNSUSPICIOUS", 1 << 16)
    flat = encoded(np.zeros((200, 200, 3), dtype=np.uint8), kind="BMP")
    path = pack(tmp_path / "a.zip", {f"{i}.bmp": flat for i in range(4)}, zipfile.ZIP_DEFLATED)
    assert "would expand from" in refused(path)
    assert "more than 200 times" in refused(path)
    assert open_images(pack(tmp_path / "b.zip", {f"{i}.bmp": flat for i in range(4)})).count == 4
    np.savez_compressed(tmp_path / "a.npz", np.zeros((100, 32, 32, 3), dtype=np.uint8))
    assert "would expand from" in refused(tmp_path / "a.npz")
    monkeypatch.setattr(containers, "UNSUSPICIOUS", 1 << 20)
    assert open_images(path).count == open_images(tmp_path / "a.npz").count - 96 == 4


# Arrays


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_in_both_layouts(save: Callable, tmp_path: Path) -> None:
    pixels = random_images(9, 6, 8)
    labels = np.arange(9, dtype=np.uint8) % 4
    for name, array in (("last", pixels.transpose(0, 2, 3, 1)), ("first", pixels)):
        save(tmp_path / f"{name}.npz", np.ascontiguousarray(array), labels)
        samples = open_images(tmp_path / f"{name}.npz")
        assert (samples.count, samples.shape) == (9, (3, 6, 8))
        assert np.array_equal(samples.read(0, 9), pixels)
        assert np.array_equal(samples.read(4, 6), pixels[4:6])
        assert samples.labels is not None
        assert samples.labels.dtype == np.int64
        assert np.array_equal(samples.labels, labels)
        assert samples.fingerprint() == Samples.of(pixels).fingerprint()
    np.save(tmp_path / "a.npy", pixels)
    bare = open_images(tmp_path / "a.npy")
    assert np.array_equal(bare.read(1, 8), pixels[1:8])
    assert bare.labels is None
    assert bare.fingerprint() == Samples.of(pixels).fingerprint()


def test_grey_arrays_are_repeated_with_a_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grey = random_images(4, 6, 8)[:, :1]
    np.savez(tmp_path / "a.npz", grey.transpose(0, 2, 3, 1))
    with caplog.at_level(logging.WARNING, "genbench"):
        samples = open_images(tmp_path / "a.npz")
    assert "greyscale" in caplog.text
    assert np.array_equal(samples.read(0, 4), np.repeat(grey, 3, axis=1))
    assert samples.fingerprint() == Samples.of(np.repeat(grey, 3, axis=1)).fingerprint()


def test_fingerprints_of_arrays_span_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3, 1000, 1100), dtype=np.uint8)  # 5 images a block
    np.save(tmp_path / "a.npy", pixels)
    assert open_images(tmp_path / "a.npy").fingerprint() == Samples.of(pixels).fingerprint()


class Payload:
    """Would leave a trace if it were unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("an object was unpickled",))


IMAGES = random_images(4, 6, 8).transpose(0, 2, 3, 1).copy()
BAD_ARRAYS: dict[str, tuple[dict[str, object], str]] = {
    "objects": ({"arr_0": np.array([Payload(), 1], dtype=object)}, "holds Python objects"),
    "records": ({"arr_0": np.zeros(3, dtype=[("a", "u1"), ("b", "O")])}, "holds Python objects"),
    "object labels": ({"arr_0": IMAGES, "arr_1": np.array([Payload()] * 4, dtype=object)}, "holds Python objects"),
    "floats": ({"arr_0": IMAGES / np.float32(255)}, "holds float32; images are uint8"),
    "16 bits": ({"arr_0": IMAGES.astype(np.uint16)}, "holds uint16"),
    "signed": ({"arr_0": IMAGES.astype(np.int8)}, "holds int8"),
    "one image": ({"arr_0": IMAGES[0]}, "has the shape (6, 8, 3); images are"),
    "no image": ({"arr_0": IMAGES[:0]}, "(0, 6, 8, 3)"),
    "four channels": ({"arr_0": np.zeros((2, 6, 8, 4), np.uint8)}, "neither has 1 or 3 channels"),
    "either layout": ({"arr_0": np.zeros((2, 3, 8, 3), np.uint8)}, "both the first and the last axis may be"),
    "fortran": ({"arr_0": np.asfortranarray(IMAGES)}, "is in Fortran order"),
    "other name": ({"images": IMAGES, "extra": IMAGES}, "has no array arr_0 but extra, images"),
    "few labels": ({"arr_0": IMAGES, "arr_1": np.arange(3)}, "has labels int64 (3,) in arr_1"),
    "one-hot labels": ({"arr_0": IMAGES, "arr_1": np.eye(4, dtype=int)}, "has labels int64 (4, 4) in arr_1"),
    "float labels": ({"arr_0": IMAGES, "arr_1": np.zeros(4)}, "has labels float64 (4,)"),
    "negative labels": ({"arr_0": IMAGES, "arr_1": np.array([0, 1, -1, 2])}, "labels from -1 to 2"),
    "huge labels": ({"arr_0": IMAGES, "arr_1": np.array([0, 1, 2**63, 2], np.uint64)}, "labels from 0 to 9223372"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_bad_arrays_are_refused(case: str, save: Callable, tmp_path: Path) -> None:
    arrays, words = BAD_ARRAYS[case]
    save(tmp_path / "set.npz", **arrays)
    message = refused(tmp_path / "set.npz")
    assert str(tmp_path / "set.npz") in message
    assert words in message


def test_array_files_that_lie_about_their_size_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, IMAGES)
    data = buffer.getvalue()
    huge = data.replace(b"(4, 6, 8, 3)", b"(4, 9**9, 3)")
    for name, content, words in (
        ("short", data[:-1], "is damaged"),
        ("long", data + b"\0", "is damaged"),
        ("other", data.replace(b"(4, 6, 8, 3)", b"(9, 6, 8, 3)"), "do not hold an array (9, 6, 8, 3) of uint8"),
        ("negative", data.replace(b"(4, 6, 8, 3)", b"(-4,6, -8,3)"), "is damaged"),
        ("code", huge, "cannot be read"),
        ("version", data[:6] + b"\3" + data[7:], "version 3.0"),
        ("text", b"not an array", "cannot be read"),
    ):
        (tmp_path / f"{name}.npy").write_bytes(content)
        assert words in refused(tmp_path / f"{name}.npy"), name
        pack(tmp_path / f"{name}.npz", {"arr_0.npy": content})
        assert words in refused(tmp_path / f"{name}.npz"), name


def test_large_images_in_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", IMAGES)
    assert open_images(tmp_path / "a.npz", max_pixels=48).count == 4
    assert "8x6 pixels, more than 47" in refused(tmp_path / "a.npz", max_pixels=47)


def test_compressed_arrays_have_a_limit_and_others_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "MAX_ARRAY", 500)
    np.savez(tmp_path / "a.npz", IMAGES)
    np.savez_compressed(tmp_path / "b.npz", IMAGES)
    assert open_images(tmp_path / "a.npz").read(0, 4).shape == (4, 3, 6, 8)
    assert "is compressed and would take" in refused(tmp_path / "b.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_pixels_of_arrays_are_found_by_the_fingerprint(save: Callable, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save(path, random_images(50, 6, 8))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputRejected, match=r"a\.npz cannot be read"):
        open_images(path).fingerprint()


# Statistics of features


def moments(width: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A mean and a covariance of rank 3 with a diagonal."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(width, 3))
    return rng.normal(size=width), factor @ factor.T + np.eye(width)


@pytest.mark.slow
def test_statistics_are_a_reference_without_images(tmp_path: Path) -> None:
    mu, sigma = moments(2048)
    np.savez(tmp_path / "plain.npz", mu=mu, sigma=sigma)
    np.savez_compressed(tmp_path / "packed.npz", mu=mu, sigma=np.asfortranarray(sigma))
    np.savez(tmp_path / "single.npz", mu=mu.astype(np.float32), sigma=sigma.astype(np.float32), fid=np.ones(3))
    opened = [open_reference(str(tmp_path / f"{name}.npz")) for name in ("plain", "packed", "single")]
    for samples, rel in zip(opened, (0, 0, 1e-6), strict=True):
        assert samples.count == 0 and list(samples.statistics) == ["pooled"]
        known = samples.statistics["pooled"]
        assert known.extractors == ("inception",)
        assert known.mean.dtype == known.covariance.dtype == np.float64
        np.testing.assert_allclose(known.mean, mu, rtol=rel)
        np.testing.assert_allclose(known.covariance, sigma, rtol=rel, atol=rel)
        with pytest.raises(InputRejected, match="holds no images"):
            samples.read(0, 1)
    assert opened[0].fingerprint() == opened[1].fingerprint() != opened[2].fingerprint()
    assert pickle.loads(pickle.dumps(opened[0])).fingerprint() == opened[0].fingerprint()
    assert "has no array arr_0 but mu, sigma; statistics can be a reference, but are no samples" in refused(
        tmp_path / "plain.npz"
    )


def test_a_reference_batch_has_images_and_statistics_of_both_taps(tmp_path: Path) -> None:
    pixels, (mu, sigma), (mu_s, sigma_s) = random_images(4, 6, 8), moments(2048), moments(2023, seed=1)
    batch = pixels.transpose(0, 2, 3, 1)
    np.savez(tmp_path / "a.npz", arr_0=batch, mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s)
    samples = open_reference(tmp_path / "a.npz")
    assert np.array_equal(samples.read(0, 4), pixels)
    assert np.array_equal(samples.statistics["pooled"].covariance, sigma)
    assert np.array_equal(samples.statistics["spatial"].mean, mu_s)
    bare = open_images(tmp_path / "a.npz")
    assert bare.statistics == {} and bare.fingerprint() == samples.fingerprint()
    np.savez(tmp_path / "b.npz", arr_0=batch)
    write_images(Samples.of(pixels), tmp_path / "folder")
    for name in ("b.npz", "folder"):
        assert open_reference(tmp_path / name).statistics == {}
        assert np.array_equal(open_reference(tmp_path / name).read(0, 4), pixels)


def test_broken_statistics_are_refused(tmp_path: Path) -> None:
    mu, sigma = (values.astype(np.float32) for values in moments(2048))
    crooked, hole, negative = sigma.copy(), sigma.copy(), sigma.copy()
    crooked[3, 7] += 1e-3 * np.abs(sigma).max()
    hole[5, 5] = np.nan
    negative[2, 2] = -1
    bad: dict[str, tuple[dict[str, NDArray], str]] = {
        "alone": ({"mu": mu}, "has no sigma; statistics are a mean mu and a covariance sigma"),
        "no mean": ({"sigma_s": sigma}, "has no mu_s; statistics are a mean mu_s and a covariance sigma_s"),
        "width": (
            {"mu": mu[:64], "sigma": sigma[:64, :64]},
            "has mu float32 (64,); that of known extractors is float32 or float64 (d,), d one of 384, 512",
        ),
        "not square": (
            {"mu": mu, "sigma": sigma[:1000]},
            "has sigma float32 (1000, 2048); that of known extractors is float32 or float64 (2048, 2048)",
        ),
        "flat": ({"mu": mu, "sigma": sigma[0]}, "has sigma float32 (2048,)"),
        "integers": ({"mu": np.arange(2048), "sigma": sigma}, "has mu int64 (2048,)"),
        "half": ({"mu": mu.astype(np.float16), "sigma": sigma}, "has mu float16 (2048,)"),
        "objects": ({"mu": mu.astype(object), "sigma": sigma}, "holds Python objects, which are never loaded"),
        "nan": ({"mu": mu, "sigma": hole}, "has values in sigma that are not finite"),
        "infinite": ({"mu": mu * np.inf, "sigma": sigma}, "has values in mu that are not finite"),
        "crooked": ({"mu": mu, "sigma": crooked}, "has a sigma that is not symmetric or has negative variances"),
        "negative": ({"mu": mu, "sigma": negative}, "has a sigma that is not symmetric or has negative variances"),
        "nothing": ({"m": mu, "s": sigma}, "has no array arr_0 but m, s"),
    }
    with np.errstate(all="ignore"):
        for name, (arrays, says) in bad.items():
            np.savez(tmp_path / "bad.npz", **arrays)
            with pytest.raises(InputRejected) as caught:
                open_reference(tmp_path / "bad.npz")
            assert says in str(caught.value), name
            assert str(caught.value).isprintable()
    (tmp_path / "bad.npz").write_bytes(b"PK no archive")
    with pytest.raises(InputRejected, match="cannot be read as a zip archive"):
        open_reference(tmp_path / "bad.npz")


# Writing


@pytest.mark.parametrize("channels", [1, 3])
def test_written_images_are_read_back_in_order(channels: int, tmp_path: Path) -> None:
    pixels = random_images(130, 6, 8)[:, :channels]
    paths = write_images(Samples.of(pixels), tmp_path / "out", start=999_950)
    assert [p.name for p in paths[48:52]] == ["0999998.png", "0999999.png", "1000000.png", "1000001.png"]
    assert np.array_equal(open_images(tmp_path / "out").read(0, 130), np.broadcast_to(pixels, (130, 3, 6, 8)))
    assert write_images(Samples.of(pixels[:1]), tmp_path)[0].name == "000000.png"


def test_written_arrays_are_read_back_and_repeat_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = random_images(5, 6, 8), np.array([3, 0, 2, 2, 1])
    write_npz(Samples.of(pixels, labels=labels), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert sorted(stored) == ["arr_0", "arr_1"]
        assert np.array_equal(stored["arr_0"], pixels.transpose(0, 2, 3, 1))
        assert np.array_equal(stored["arr_1"], labels)
    samples = open_images(tmp_path / "a.npz")
    assert np.array_equal(samples.read(0, 5), pixels)
    write_npz(samples, tmp_path / "b.npz")
    monkeypatch.setattr(time, "time", lambda: 2e9)
    write_npz(samples, tmp_path / "c.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes() == (tmp_path / "c.npz").read_bytes()
    write_npz(Samples.of(pixels), tmp_path / "d.npz")
    assert open_images(tmp_path / "d.npz").labels is None
    write_npz(Samples.of(pixels[:3], captions=TEXTS), tmp_path / "e.npz")
    assert open_images(tmp_path / "e.npz").captions == TEXTS


def test_a_failing_source_leaves_no_array(tmp_path: Path) -> None:
    def read(start: int, stop: int) -> Images:
        raise InputRejected("b.png is empty (0 bytes)")

    with pytest.raises(InputRejected):
        write_npz(replace(Samples.of(random_images(2, 6, 8)), read=read), tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("count", "columns", "size"), [(5, 3, (32, 18)), (2, 8, (22, 10)), (3, 1, (12, 26))])
def test_a_grid_holds_the_images_row_by_row(count: int, columns: int, size: tuple[int, int], tmp_path: Path) -> None:
    pixels = random_images(count, 6, 8)
    write_grid(pixels, tmp_path / "grid.png", columns)
    with Image.open(tmp_path / "grid.png") as image:
        assert image.size == size
        grid = np.array(image)
    columns = min(columns, count)
    for i in range(count):
        top, left = 2 + 8 * (i // columns), 2 + 10 * (i % columns)
        cell = grid[top : top + 6, left : left + 8]
        assert np.array_equal(cell, pixels[i].transpose(1, 2, 0))
        cell[:] = 255
    assert grid.min() == 255, "there is something between the images"
