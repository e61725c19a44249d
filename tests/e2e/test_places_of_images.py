"""The same images wherever they lie: one digest and one number on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from image_files import FORMS, files_of, write_folder
from made_up import Cli, random_images

METRICS = ("--metric", "fid", "--metric", "precision")


def test_one_digest_and_one_number(cli: Cli, tmp_path: Path) -> None:
    generated, real = random_images(24, 32, seed=1, low=90), random_images(30, 32, seed=0)
    np.savez(tmp_path / "mine.npz", arr_0=generated.transpose(0, 2, 3, 1))
    write_folder(tmp_path / "mine", files_of(generated))
    files = files_of(real)
    places = {"folder": str(write_folder(tmp_path / "real", files))}
    places |= {form: str(make(tmp_path / form.replace(" ", "_"), files)) for form, make in FORMS.items()}

    def score(samples: str, reference: str) -> list[tuple]:
        code, out, err = cli("score", samples, "--reference", reference, *METRICS, "--format", "json")
        assert code == 0, err
        return [
            (r["value"], r["stderr"], r["generated"]["digest"], r["reference"]["digest"], r["protocol_hash"], r["id"])
            for r in json.loads(out)["results"]
        ]

    told = score("mine.npz", places.pop("folder"))
    assert [score("mine", place) for place in places.values()] == [told] * len(places)
    assert score(places["shards"], places["parquet"])[0][0] == pytest.approx(0, abs=1e-9)
    (row,) = score(places["tar"], places["lmdb"])[:1]
    assert row[2] == row[3] == told[0][3]


def test_shards_are_data_sets_and_can_be_exported(cli: Cli, tmp_path: Path) -> None:
    pixels = random_images(10, 8)
    place = FORMS["shards"](tmp_path, files_of(pixels, "ab"))
    code, _, err = cli("export", f"folder(split='all', path='{place}')", "--npz", "a.npz")
    assert code == 0, err
    with np.load("a.npz") as arrays:
        order = [*range(0, 10, 2), *range(1, 10, 2)]
        assert np.array_equal(arrays["arr_0"].transpose(0, 3, 1, 2), pixels[order])
        assert arrays["arr_1"].tolist() == [0] * 5 + [1] * 5
    code, _, err = cli("score", "missing-{0..3}.tar", "--reference", "a.npz")
    assert code == 5 and "There is no missing-0.tar, which missing-{0..3}.tar stands for" in err
    code, _, err = cli("score", "missing.tar", "--reference", "a.npz")
    assert code == 5 and "There is no folder or file of images at missing.tar" in err
