"""References that are files of statistics, from the command line: what is compared with what, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from made_up import Cli, random_images
from numpy.typing import NDArray
from pytorch_fid.fid_score import compute_statistics_of_path
from torch import Tensor

import genbench
from genbench import registry
from genbench.arrays import Samples
from genbench.contracts import Extractor
from genbench.subsets import subset

SCHEMA = json.loads(files("genbench").joinpath("schemas/run.schema.json").read_text())
WIDTHS = {"pooled": 2048, "spatial": 2023}
CALLS: list[tuple[int, tuple[str, ...]]] = []
"""Sizes and taps of what the extractor below was asked for."""


def features(images: NDArray[np.uint8], tap: str) -> NDArray[np.float32]:
    """Waves over 8x8 means of the images: as wide as Inception's features, of full rank, and fast."""
    count, _, side, _ = images.shape
    means = images.reshape(count, 3, 8, side // 8, 8, side // 8).mean(axis=(3, 5)).reshape(count, 192) / 255
    rng = np.random.default_rng(WIDTHS[tap])
    directions, phases = rng.normal(size=(192, WIDTHS[tap])), rng.uniform(0, 6, WIDTHS[tap])
    return np.cos(means @ directions + phases).astype(np.float32)


def load(
    *, device: str, precision: str, weights: Path | None = None, resize: str = "tf1", scaling: str = "tf"
) -> Extractor:
    def embed(images: Tensor, taps: Sequence[str]) -> Mapping[str, Tensor]:
        CALLS.append((len(images), tuple(taps)))
        return {tap: torch.from_numpy(features(images.numpy(), tap)) for tap in taps}

    return Extractor(key=f"waves {resize} {scaling}", widths=WIDTHS, embed=embed, block=50)


@pytest.fixture(autouse=True)
def _waves_in_place_of_inception(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(registry.BUILTIN["extractor"], "inception", (f"{__name__}:load", "waves"))
    registry.table.cache_clear()
    CALLS.clear()
    yield
    registry.table.cache_clear()


def save(path: Path, images: NDArray[np.uint8], **more: NDArray) -> str:
    np.savez(path, arr_0=images.transpose(0, 2, 3, 1), **more)
    return str(path)


def statistics(images: NDArray[np.uint8], tap: str = "pooled") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As pytorch-fid's --save-stats computes them: features in float64, np.mean and np.cov."""
    values = features(images, tap).astype(np.float64)
    return np.mean(values, axis=0), np.cov(values, rowvar=False)


def distance(images: NDArray[np.uint8], mu: NDArray, sigma: NDArray, tap: str = "pooled") -> float:
    """By the eigenvalues of the generated rows' Gram matrix in the metric of sigma."""
    values = features(images, tap).astype(np.float64)
    rows = (values - values.mean(axis=0)) / np.sqrt(len(values) - 1)
    cross = np.sqrt(np.linalg.eigvalsh(rows @ sigma @ rows.T).clip(0)).sum()
    apart = np.square(values.mean(axis=0) - mu).sum()
    return float(apart + np.square(rows).sum() + np.trace(sigma) - 2 * cross)


def scored(cli: Cli, *words: str | Path) -> list[dict]:
    code, out, err = cli("score", *words, "--format", "json")
    assert code == 0, err
    document = json.loads(out)
    jsonschema.validate(document, SCHEMA)
    return document["results"]


def test_fid_against_statistics_is_fid_against_the_images(cli: Cli, tmp_path: Path) -> None:
    real, generated = random_images(2100, 8, seed=0), random_images(40, 8, seed=1, low=60)
    mu, sigma = statistics(real)
    np.savez_compressed(tmp_path / "stats.npz", mu=mu, sigma=sigma)
    save(tmp_path / "real.npz", real)
    save(tmp_path / "mine.npz", generated)
    words = ("--protocol", "adm", "--metric", "fid")
    (found,) = scored(cli, "mine.npz", "--reference", "stats.npz", *words)
    assert sum(size for size, _ in CALLS) == 50, "one block of generated images, and no other"
    (images,) = scored(cli, "mine.npz", "--reference", "real.npz", *words)
    assert found["value"] == pytest.approx(images["value"], rel=1e-6)
    assert found["value"] == pytest.approx(distance(generated, mu, sigma), rel=1e-6)
    assert found["stderr"] == pytest.approx(images["stderr"], rel=1e-4)
    assert found["n_reference"] is None and found["reference"]["count"] is None and images["n_reference"] == 2100
    assert found["detail"]["reference_statistics"] == 1.0 and "reference_statistics" not in images["detail"]
    assert found["protocol_hash"] != images["protocol_hash"] and found["id"] != images["id"]
    assert found["extractor_key"] == images["extractor_key"]

    np.savez(tmp_path / "same.npz", mu=mu, sigma=sigma)
    np.savez(tmp_path / "other.npz", mu=mu + 1e-3, sigma=sigma)
    (same,), (other,) = (scored(cli, "mine.npz", "--reference", f"{n}.npz", *words) for n in ("same", "other"))
    assert same["reference"]["digest"] == found["reference"]["digest"] != other["reference"]["digest"]
    assert same["protocol_hash"] == found["protocol_hash"] != other["protocol_hash"]

    code, out, _ = cli("score", "mine.npz", "--reference", "stats.npz", *words)
    assert code == 0 and "reference stats.npz, statistics of an unknown number of images, protocol adm" in out
    code, out, _ = cli("score", "mine.npz", "--reference", "stats.npz", *words, "--format", "csv")
    (row,) = csv.DictReader(out.splitlines())
    assert row["num_reference"] == "" and row["num_samples"] == "40"
    (result,) = genbench.score(generated, tmp_path / "stats.npz", metrics=["fid"], protocol="adm")
    assert result.score.value == found["value"]


def test_what_needs_the_images_is_refused(cli: Cli, tmp_path: Path) -> None:
    mu, sigma = statistics(random_images(30, 8, seed=0))
    np.savez(tmp_path / "stats.npz", mu=mu, sigma=sigma)
    save(tmp_path / "mine.npz", random_images(20, 8, seed=1))
    for metric in ("precision", "recall", "kid", "sfid", "mifid", "fid@compact", "psnr"):
        code, out, err = cli("score", "mine.npz", "--reference", "stats.npz", "--protocol", "adm", "--metric", metric)
        assert (code, out, err.count("\n")) == (5, "", 1), metric
        assert f"genbench: {metric.partition('@')[0]}" in err and "needs the images of the reference; stats.npz" in err
        assert "(pooled of inception)" in err
    code, _, err = cli("score", "stats.npz", "--reference", "mine.npz")
    assert code == 5 and "statistics can be a reference, but are no samples" in err
    np.savez(tmp_path / "wide.npz", mu=mu[:64], sigma=sigma[:64, :64])
    code, _, err = cli("score", "mine.npz", "--reference", "wide.npz", "--protocol", "adm")
    assert code == 5 and "has mu float64 (64,); that of known extractors is" in err
    assert err.count("\n") == 1
    np.savez(tmp_path / "huge.npz", mu=mu * 1e300, sigma=sigma)
    code, out, err = cli("score", "mine.npz", "--reference", "huge.npz", "--protocol", "adm", "--metric", "fid")
    assert (code, out) == (5, "") and "no statistics of features" in err


def embeddings(images: NDArray[np.uint8], width: int) -> NDArray[np.float32]:
    directions = np.random.default_rng(width).normal(size=(images[0].size, width))
    return np.cos(images.reshape(len(images), -1) / 255 @ directions).astype(np.float32)


def load_embeddings(
    *,
    device: str,
    precision: str,
    weights: Path | None = None,
    architecture: str = "large",
    resize: str = "pil-bicubic",
) -> Extractor:
    width = {"small": 384, "base": 768, "large": 1024}[architecture]

    def embed(images: Tensor, taps: Sequence[str]) -> Mapping[str, Tensor]:
        return {"pooled": torch.from_numpy(embeddings(images.numpy(), width))}

    return Extractor(key=f"embeddings {width} {resize}", widths={"pooled": width}, embed=embed, block=50)


def test_statistics_of_dinov2_and_clip_are_references(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dinov2", "clip"):
        monkeypatch.setitem(registry.BUILTIN["extractor"], name, (f"{__name__}:load_embeddings", "waves"))
    registry.table.cache_clear()
    real, generated = random_images(1100, 8, seed=0), random_images(40, 8, seed=1, low=60)
    values = embeddings(real, 1024).astype(np.float64)
    moments = {"mu": values.mean(axis=0), "sigma": np.cov(values, rowvar=False)}
    np.savez(tmp_path / "unnamed.npz", **moments)
    np.savez(tmp_path / "dino.npz", **moments, extractor=np.array("dinov2(resize='pil-bicubic')"))
    np.savez(tmp_path / "clip.npz", **moments, extractor=np.array("clip"))
    np.savez(tmp_path / "wrong.npz", **moments, extractor=np.array("inception"))
    np.savez(tmp_path / "unread.npz", **moments, extractor=np.array("dinov2("))
    save(tmp_path / "real.npz", real)
    save(tmp_path / "mine.npz", generated)

    def fd(reference: str, metric: str) -> tuple[int, float, str]:
        code, out, err = cli("score", "mine.npz", "--reference", reference, "--metric", metric, "--format", "json")
        return code, json.loads(out)["results"][0]["value"] if code == 0 else np.nan, err

    images = fd("real.npz", "fd@dinov2")[1]
    # Unnamed, 1024 features may be of either, and the extractor that is asked for says which.
    for reference in ("unnamed.npz", "dino.npz"):
        assert fd(reference, "fd@dinov2")[1] == pytest.approx(images, rel=1e-6)
    assert fd("unnamed.npz", "fd@clip")[1] == pytest.approx(images, rel=1e-6)
    for reference, metric in (
        ("dino.npz", "fd@clip"),
        ("clip.npz", "fd@dinov2"),
        ("dino.npz", "fd@dinov2(resize='bicubic-antialias')"),
        ("unnamed.npz", "fd@inception"),
        ("wrong.npz", "fd@dinov2"),
        ("unread.npz", "fd@dinov2"),
    ):
        code, _, err = fd(reference, metric)
        assert code == 5 and err.count("\n") == 1, (reference, metric, err)
    code, _, err = fd("unnamed.npz", "fd@dinov2(architecture='small')")
    assert code == 4 and "has 384 features an image, and the statistics of the reference are of 1024" in err
    assert "so many has clip or dinov2" in fd("wrong.npz", "fd@dinov2")[2]


def test_a_reference_batch_of_adm_is_used_as_its_evaluator_does(cli: Cli, tmp_path: Path) -> None:
    """FID and sFID from the statistics of the whole training set, precision and recall from the images beside them."""
    whole, generated, held_out = (
        random_images(2100, 64, seed=0),
        random_images(40, 64, seed=1, low=60),
        random_images(45, 64, seed=2),
    )
    shown = whole[:30]
    (mu, sigma), (mu_s, sigma_s) = statistics(whole), statistics(whole, "spatial")
    more = {"mu": mu.astype(np.float32), "sigma": sigma, "mu_s": mu_s.astype(np.float32), "sigma_s": sigma_s}
    save(tmp_path / "VIRTUAL_imagenet64_labeled.npz", shown, **more)
    save(tmp_path / "shown.npz", shown)
    save(tmp_path / "mine.npz", generated)
    save(tmp_path / "held.npz", held_out)
    metrics = [word for name in ("fid", "sfid", "precision", "recall") for word in ("--metric", name)]
    batch = ("--reference", "imagenet64", "--data-dir", tmp_path, "--held-out", "held.npz")
    fid, sfid, precision, recall = scored(cli, "mine.npz", *batch, *metrics)
    assert fid["protocol"] == "adm"
    assert fid["value"] == pytest.approx(distance(generated, mu, sigma), rel=1e-5)
    assert sfid["value"] == pytest.approx(distance(generated, mu_s, sigma_s, "spatial"), rel=1e-5)
    chosen = subset(Samples.of(held_out), 40)[0].read(0, 40)
    assert fid["floor"] == pytest.approx(distance(chosen, mu, sigma), rel=1e-5)
    name = "imagenet64 train (ADM reference batch)"
    assert [r["n_reference"] for r in (fid, sfid, precision, recall)] == [None, None, 30, 30]
    assert fid["reference"]["name"] == f"{name}, statistics of an unknown number of images"
    assert precision["reference"]["name"] == name
    few = [any(note.startswith("30 images") for note in r["environment"]["notes"]) for r in (fid, precision)]
    assert few == [False, True], "statistics are of more images than stand beside them"
    assert fid["reference"]["digest"] != sfid["reference"]["digest"]

    # Floors are kept, and not those of other statistics beside the same images.
    save(tmp_path / "VIRTUAL_imagenet64_labeled.npz", shown, **(more | {"mu": mu + 0.01}))
    (moved,) = scored(cli, "mine.npz", *batch, "--metric", "fid")
    assert moved["floor"] == pytest.approx(distance(chosen, mu + 0.01, sigma), rel=1e-5) != fid["floor"]
    save(tmp_path / "VIRTUAL_imagenet64_labeled.npz", shown, **more)

    alone = scored(cli, "mine.npz", "--reference", "shown.npz", "--protocol", "adm", *metrics)
    assert [r["value"] for r in alone[2:]] == [precision["value"], recall["value"]]
    assert precision["reference"]["digest"] == alone[2]["reference"]["digest"]
    assert abs(alone[0]["value"] - fid["value"]) > 0.01 * fid["value"]
    # Whoever takes a part of the images asks for these images.
    (part,) = scored(
        cli, "mine.npz", *("--reference", "imagenet64(count=20)", "--data-dir", tmp_path, "--metric", "fid")
    )
    assert part["n_reference"] == 20
    (compact,) = scored(cli, "mine.npz", *batch, "--metric", "fid@compact")
    assert compact["n_reference"] == 30 and "reference_statistics" not in compact["detail"]


def test_statistics_that_were_written_are_a_reference(cli: Cli, tmp_path: Path) -> None:
    real, generated = random_images(2100, 8, seed=10), random_images(40, 8, seed=11, low=60)
    save(tmp_path / "real.npz", real)
    save(tmp_path / "mine.npz", generated)
    words = ("--protocol", "adm", "--metric", "fid", "--metric", "sfid")
    code, out, err = cli("stats", "real.npz", *words, "-o", "stats.npz")
    assert code == 0, err
    assert "pooled of inception(resize='tf1', scaling='tf'): 2048 features of 2100 images" in out
    taken = [taps for _, taps in CALLS]
    assert set(taken) == {("pooled", "spatial")}, "one pass for both"
    (mu, sigma), (mu_s, sigma_s) = statistics(real), statistics(real, "spatial")
    with np.load("stats.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["genbench", "mu", "mu_s", "sigma", "sigma_s"]
        for name, values in (("mu", mu), ("sigma", sigma), ("mu_s", mu_s), ("sigma_s", sigma_s)):
            assert arrays[name].dtype == np.float64
            np.testing.assert_allclose(arrays[name], values, rtol=1e-9, atol=1e-12)
        record = json.loads(str(arrays["genbench"]))
    assert record["protocol"] == "adm" and [one["count"] for one in record["statistics"]] == [2100, 2100]
    read = compute_statistics_of_path("stats.npz", None, 50, 2048, "cpu", 0)  # of pytorch-fid
    np.testing.assert_allclose(read[0], mu, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(read[1], sigma, rtol=1e-9, atol=1e-12)
    before = Path("stats.npz").read_bytes()
    assert cli("stats", "real.npz", *words, "-o", "again.npz")[0] == 0
    assert Path("again.npz").read_bytes() == before and len(CALLS) == len(taken), "from the cache, to the byte"

    CALLS.clear()
    found = scored(cli, "mine.npz", "--reference", "stats.npz", *words)
    assert sum(size for size, _ in CALLS) == 50, "one block of generated images, and no other"
    images = scored(cli, "mine.npz", "--reference", "real.npz", *words)
    for mine, theirs in zip(found, images, strict=True):
        assert mine["value"] == pytest.approx(theirs["value"], rel=1e-9)
        assert mine["stderr"] == pytest.approx(theirs["stderr"], rel=1e-6)
        assert mine["n_reference"] == mine["reference"]["count"] == 2100
        assert mine["reference"]["name"] == "stats.npz, statistics of 2100 images"
        assert mine["detail"]["reference_statistics"] == 1.0
        assert theirs["reference"]["digest"] == record["images"]["digest"]
    np.savez(tmp_path / "plain.npz", mu=mu, sigma=sigma)
    (plain,) = scored(cli, "mine.npz", "--reference", "plain.npz", *words[:4])
    assert plain["value"] == pytest.approx(found[0]["value"], rel=1e-6)

    # What it says of itself is held against what is asked.
    code, _, err = cli("score", "mine.npz", "--reference", "stats.npz", "--protocol", "pytorch-fid", "--metric", "fid")
    assert code == 5 and "(pooled of inception(resize='tf1', scaling='tf'), spatial of inception(" in err
    code, _, err = cli("score", "mine.npz", "--reference", "stats.npz", "--protocol", "adm", "--metric", "kid")
    assert code == 5 and "needs the images of the reference" in err
    record["statistics"][0]["key"] = "other weights"
    with np.load("stats.npz") as arrays:
        np.savez(tmp_path / "other.npz", **{**arrays, "genbench": np.array(json.dumps(record))})
    code, _, err = cli("score", "mine.npz", "--reference", "other.npz", "--protocol", "adm", "--metric", "fid")
    assert code == 4 and "with other weights or code" in err and err.count("\n") == 1


def test_statistics_of_several_extractors_lie_in_one_file(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.BUILTIN["extractor"], "clip", (f"{__name__}:load_embeddings", "waves"))
    registry.table.cache_clear()
    save(tmp_path / "real.npz", random_images(300, 8, seed=0))
    save(tmp_path / "mine.npz", random_images(40, 8, seed=1, low=60))
    asked = ["fd@clip(architecture='small')", "fd@clip(architecture='base')", "fid@inception"]
    words = [word for metric in asked for word in ("--metric", metric)]
    assert cli("stats", "real.npz", *words, "-o", "stats.npz")[0] == 0
    with np.load("stats.npz") as arrays:
        assert sorted(arrays) == ["genbench", "mu", "mu_1", "mu_2", "sigma", "sigma_1", "sigma_2"]
        assert [len(arrays[name]) for name in ("mu", "mu_1", "mu_2")] == [384, 768, 2048]
    found, images = (scored(cli, "mine.npz", "--reference", name, *words) for name in ("stats.npz", "real.npz"))
    assert [r["value"] for r in found] == pytest.approx([r["value"] for r in images], rel=1e-9)
    code, _, err = cli("score", "mine.npz", "--reference", "stats.npz", "--metric", "fd@clip(architecture='large')")
    assert code == 5 and "needs the images of the reference" in err


def test_statistics_of_nothing_are_refused(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / "real.npz", random_images(30, 8))
    save(tmp_path / "one.npz", random_images(1, 8))
    mu, sigma = statistics(random_images(30, 8))
    np.savez(tmp_path / "stats.npz", mu=mu, sigma=sigma)
    for words, code, says in (
        (("real.npz", "--metric", "precision", "-o", "x.npz"), 2, "precision needs the images of its reference"),
        (("real.npz", "--metric", "psnr", "-o", "x.npz"), 2, "psnr needs the images"),
        (("one.npz", "-o", "x.npz"), 5, "needs at least 2 images; one.npz has 1"),
        (("stats.npz", "-o", "x.npz"), 5, "needs at least 2 images; stats.npz has 0"),
        (("none/", "-o", "x.npz"), 5, "There is no folder"),
        (("real.npz", "-o", "x.txt"), 2, "give it that ending"),
        (("real.npz",), 2, "--output"),
    ):
        found, out, err = cli("stats", *words)
        assert (found, out) == (code, "") and says in err, (words, found, err)
    assert not list(tmp_path.glob("**/x.*"))


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "another schema"),
        ('{"schema": "genbench.statistics/9"}', "another schema than genbench.statistics/1"),
        ('{"schema": "genbench.statistics/1"}', "is not whole"),
        ('{"schema": "genbench.statistics/1", "statistics": []}', "no statistics"),
        ({"mean": "none"}, "has no none"),
        ({"extractor": "inception("}, "is not whole"),
        ({"extractor": 3}, "is not whole"),
        ({"count": 1}, "of 1 images"),
        ({"count": True}, "of True images"),
        ({"covariance": "mu"}, "has mu float64 (4,)"),
    ],
)
def test_damaged_records_of_statistics_are_refused(record: str | dict, says: str, cli: Cli, tmp_path: Path) -> None:
    if isinstance(record, dict):
        one = {"mean": "mu", "covariance": "sigma", "extractor": "compact", "key": "", "tap": "pooled", "count": 9}
        record = json.dumps({"schema": "genbench.statistics/1", "statistics": [{**one, **record}]})
    save(tmp_path / "mine.npz", random_images(4, 8))
    np.savez(tmp_path / "stats.npz", mu=np.zeros(4), sigma=np.eye(4), genbench=np.array(record))
    code, out, err = cli("score", "mine.npz", "--reference", "stats.npz")
    assert (code, out, err.count("\n")) == (5, "", 1) and says in err
