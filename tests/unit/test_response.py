"""The response table: what corruptions do to images, and in which direction every metric then moves."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genbench import registry
from genbench.arrays import Samples
from genbench.datasets import shapes
from genbench.errors import GenbenchError, InputRejected, UsageError
from genbench.records import Measurement, Score
from scripts import response
from scripts.corruptions import CORRUPTIONS, chosen, gaussian_blur, gaussian_noise, jpeg
from scripts.response import Response, measurements, respond

COUNT = 250


@pytest.fixture(scope="module")
def pool() -> Samples:
    return shapes.load("validation").subset(0, 1000)


def small(labels: list[int] | None = None) -> Samples:
    """Images that are told apart by their values: image i is i everywhere."""
    images = np.repeat(np.arange(100, dtype=np.uint8), 3 * 4 * 4).reshape(100, 3, 4, 4)
    given = np.arange(100) % 5 if labels is None else np.array(labels)
    return Samples.of(images, labels=given, captions=[f"text {i}" for i in range(100)])


def values(samples: Samples) -> list[int]:
    return samples.read(0, samples.count)[:, 0, 0, 0].tolist()


def test_noise_has_the_deviation_that_was_asked_for_and_is_unbiased() -> None:
    grey = np.full((20, 3, 32, 32), 128, np.uint8)
    noisy = gaussian_noise(grey, 12.0, 5)
    difference = noisy.astype(np.float64) - 128
    # Rounding adds a variance of 1/12; 61,440 values know their deviation to 0.3 % and their mean to 0.05.
    assert difference.std() == pytest.approx(math.sqrt(144 + 1 / 12), rel=0.012)
    assert abs(difference.mean()) < 0.2
    assert np.array_equal(noisy, gaussian_noise(grey, 12.0, 5))
    assert not np.array_equal(noisy, gaussian_noise(grey, 12.0, 6))
    # Saturated values stay in range instead of wrapping around.
    assert gaussian_noise(np.full_like(grey, 250), 36.0, 5).min() > 40


def test_blur_is_a_normalised_gaussian_on_every_channel_alone() -> None:
    point = np.zeros((1, 3, 21, 21), np.uint8)
    point[0, 1, 10, 10] = 255
    line = np.exp(-(np.arange(-10, 11) ** 2) / (2 * 1.2**2))
    line[np.abs(np.arange(-10, 11)) > 5] = 0  # 4 deviations, rounded
    line /= line.sum()
    blurred = gaussian_blur(point, 1.2, 0)
    assert np.abs(blurred[0, 1] - 255 * np.outer(line, line)).max() <= 0.5
    assert not blurred[0, [0, 2]].any()
    flat = np.full((1, 3, 9, 9), 77, np.uint8)
    assert np.array_equal(gaussian_blur(flat, 2.0, 0), flat)


def test_jpeg_is_that_of_pillow_and_loses_more_with_strength(pool: Samples) -> None:
    images = pool.read(0, 20)
    with io.BytesIO() as file:
        Image.fromarray(images[3].transpose(1, 2, 0)).save(file, "JPEG", quality=50)
        expected = np.asarray(Image.open(file)).transpose(2, 0, 1)
    assert np.array_equal(jpeg(images, 50.0, 0)[3], expected)
    errors = [float(np.abs(jpeg(images, s, 0).astype(float) - images).mean()) for s in (0, 10, 50, 90)]
    assert errors[0] == 0 and sorted(errors) == errors and errors[1] > 0.5
    assert jpeg(images[:, :1], 50.0, 0).shape == (20, 1, 32, 32)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_strength_nought_is_the_clean_set(name: str) -> None:
    clean, same = small().subset(0, 40), CORRUPTIONS[name].apply(small(), 40, 0.0, 3)
    assert np.array_equal(same.read(0, 40), clean.read(0, 40))
    assert np.array_equal(same.labels, clean.labels) and list(same.captions) == list(clean.captions)


def test_dropped_classes_are_gone_and_the_rest_is_in_order() -> None:
    kept = CORRUPTIONS["dropped-classes"].apply(small(), 40, 0.4, 3)
    left = set(kept.labels.tolist())
    assert kept.count == 40 and len(left) == 3
    assert values(kept) == [i for i in range(100) if i % 5 in left][:40]
    assert kept.captions[:2] == [f"text {i}" for i in values(kept)[:2]]
    with pytest.raises(UsageError, match=r"60 images of 2 of 5 classes; .* has 40"):
        CORRUPTIONS["dropped-classes"].apply(small(), 60, 0.6, 3)


def test_duplicates_are_copies_of_the_first_images_with_their_labels() -> None:
    copied = CORRUPTIONS["duplicates"].apply(small(), 40, 0.75, 3)
    assert values(copied)[:10] == list(range(10)) and set(values(copied)) <= set(range(10))
    assert copied.labels.tolist() == [i % 5 for i in values(copied)]
    with pytest.raises(UsageError, match="a share below 1"):
        CORRUPTIONS["duplicates"].apply(small(), 40, 1.0, 3)


def test_swapped_labels_are_wrong_as_often_as_asked_and_spread_over_the_other_classes() -> None:
    clean = small().subset(0, 80)
    for strength, wrong in ((0.25, 20), (1.0, 80)):
        swapped = CORRUPTIONS["swapped-labels"].apply(small(), 80, strength, 3)
        assert (swapped.labels != clean.labels).sum() == wrong
        assert values(swapped) == values(clean) and swapped.fingerprint() == clean.fingerprint()
    steps = (swapped.labels - clean.labels) % 5
    assert set(steps.tolist()) == {1, 2, 3, 4}


def test_shuffled_captions_are_a_permutation_without_fixed_points_and_another_set_of_features() -> None:
    clean, shuffled = small().subset(0, 40), CORRUPTIONS["shuffled-captions"].apply(small(), 40, 1.0, 3)
    pairs = list(zip(shuffled.captions, clean.captions, strict=True))
    assert sorted(shuffled.captions) == sorted(clean.captions) and all(a != b for a, b in pairs)
    half = CORRUPTIONS["shuffled-captions"].apply(small(), 40, 0.5, 3)
    assert sum(a != b for a, b in zip(half.captions, clean.captions, strict=True)) == 20
    # Features of captions are cached under the fingerprint.
    assert len({s.fingerprint() for s in (clean, half, shuffled)}) == 3


def test_fewer_samples_are_the_first() -> None:
    assert values(CORRUPTIONS["fewer-samples"].apply(small(), 40, 0.75, 3)) == list(range(10))


def test_chosen_reads_what_was_chosen() -> None:
    picked = chosen(small(), np.array([7, 3, 7, 99]))
    assert values(picked) == [7, 3, 7, 99] and picked.captions == ["text 7", "text 3", "text 7", "text 99"]
    assert picked.read(1, 3)[:, 0, 0, 0].tolist() == [3, 7] and picked.labels.tolist() == [2, 3, 2, 4]
    assert picked.fingerprint() != chosen(small(), np.array([3, 7, 7, 99])).fingerprint()


@pytest.fixture(scope="module")
def found(pool: Samples, session_cache: Path) -> dict[tuple[str, str], list[Response]]:
    """Responses by metric and corruption, weakest first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENBENCH_CACHE", str(session_cache))
        responses = respond(
            pool,
            shapes.load("train").subset(0, 600),
            measurements(["fid", "precision", "recall", "top1"]),
            count=COUNT,
            corruptions=["noise", "blur", "dropped-classes", "duplicates", "swapped-labels", "fewer-samples"],
            say=lambda text: None,
        )
    table: dict[tuple[str, str], list[Response]] = {}
    for r in responses:
        table.setdefault((str(r.measurement), r.corruption), []).append(r)
    return table


RISES, FALLS = 1, -1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "corruption", "direction"),
    [
        ("fid", "noise", RISES),
        ("fid", "blur", RISES),
        ("fid", "dropped-classes", RISES),
        ("fid", "duplicates", RISES),
        ("fid", "fewer-samples", RISES),
        ("recall", "dropped-classes", FALLS),
        ("recall", "duplicates", FALLS),
        ("precision", "noise", FALLS),
        ("top1", "swapped-labels", FALLS),
    ],
)
def test_metrics_move_in_the_expected_direction_further_with_strength(
    metric: str, corruption: str, direction: int, found: dict[tuple[str, str], list[Response]]
) -> None:
    graded = found[metric, corruption]
    assert [r.strength for r in graded] == list(CORRUPTIONS[corruption].strengths)
    moved = [direction * (r.score.value - r.baseline.value) for r in graded]
    assert moved == sorted(moved) and moved[-1] > moved[0]
    assert graded[-1].responds == "yes" and math.copysign(1, graded[-1].z) == direction


def test_metrics_are_blind_to_what_they_do_not_look_at(found: dict[tuple[str, str], list[Response]]) -> None:
    for metric in ("fid", "precision", "recall"):
        for r in found[metric, "swapped-labels"]:
            assert r.score.value == r.baseline.value and r.z == 0 and r.responds == "no"
    # A dropped class is none of precision's business: what is left is as real as before.
    assert abs(found["precision", "dropped-classes"][-1].z) < 3
    assert all(r.count == COUNT for r in found["fid", "duplicates"])
    assert [r.count for r in found["fid", "fewer-samples"]] == [125, 62, 25]


@pytest.mark.slow
def test_clip_score_falls_with_shuffled_captions(pool: Samples) -> None:
    try:
        registry.get("extractor", "tiny-clip")()
    except (GenbenchError, FileNotFoundError) as error:
        pytest.skip(f"tiny-clip is not there: {error}")
    wanted, name = measurements(["clip-score"]), "shuffled-captions"
    graded = respond(pool, pool, wanted, count=COUNT, corruptions=[name], say=lambda text: None)
    assert [r.score.value for r in graded] == sorted((r.score.value for r in graded), reverse=True)
    assert graded[-1].z < -3


@pytest.fixture(scope="module")
def published() -> dict[tuple[str, str, str], list[dict[str, str]]]:
    """Rows of the committed table by data set, metric on its extractor, and corruption; weakest first."""
    table: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    with response.BOARD.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            measured = f"{row['metric']}@{row['extractor']}"
            table.setdefault((row["dataset"], measured, row["corruption"]), []).append(row)
    return table


@pytest.mark.parametrize("dataset", ["shapes", "cifar10"])
@pytest.mark.parametrize(
    ("metric", "corruption", "direction"),
    [
        ("fid@compact", "noise", RISES),
        ("fid@compact", "blur", RISES),
        ("fid@compact", "dropped-classes", RISES),
        ("fid@compact", "duplicates", RISES),
        ("kid@compact", "noise", RISES),
        ("kid@compact", "blur", RISES),
        ("swd@compact", "noise", RISES),
        ("swd@compact", "blur", RISES),
        ("precision@compact", "noise", FALLS),
        ("density@compact", "noise", FALLS),
        ("recall@compact", "noise", FALLS),
        ("recall@compact", "duplicates", FALLS),
        ("coverage@compact", "duplicates", FALLS),
        ("fid-per-class@compact", "swapped-labels", RISES),
        ("fid@pixels", "noise", RISES),
        ("fid@pixels", "blur", RISES),
        ("fid@pixels", "jpeg", RISES),
        ("fid@pixels", "dropped-classes", RISES),
        ("fid@pixels", "duplicates", RISES),
        ("fid@pixels", "fewer-samples", RISES),
        ("precision@pixels", "noise", FALLS),
        ("coverage@pixels", "duplicates", FALLS),
        ("swd@pixels", "noise", RISES),
    ],
)
def test_the_published_table_shows_the_expected_directions(
    dataset: str,
    metric: str,
    corruption: str,
    direction: int,
    published: dict[tuple[str, str, str], list[dict[str, str]]],
) -> None:
    graded = published.get((dataset, metric, corruption))
    if graded is None:
        assert dataset == "shapes" and metric.endswith("@pixels")  # `shapes` is measured on its own networks
        return
    assert [float(row["strength"]) for row in graded] == list(CORRUPTIONS[corruption].strengths)
    assert graded[-1]["responds"] == "yes" and math.copysign(1, float(graded[-1]["z"])) == direction
    assert direction * float(graded[-1]["z"]) > direction * float(graded[0]["z"])


def test_the_published_table_has_errors_and_is_blind_where_it_must_be(
    published: dict[tuple[str, str, str], list[dict[str, str]]],
) -> None:
    assert {dataset for dataset, _, _ in published} == {"shapes", "cifar10"}
    blind = 0
    for (dataset, metric, corruption), graded in published.items():
        assert len(graded) == 3
        # An extrapolation, and a class that is gone, may be refused; every number has an error.
        assert all(row["responds"] in ("yes", "no", "refused") for row in graded)
        if dataset == "cifar10" and corruption == "swapped-labels" and not metric.startswith("fid-per-class"):
            assert [float(row["z"]) for row in graded] == [0, 0, 0]
            blind += 1
    assert blind > 20


def test_z_counts_both_errors() -> None:
    def of(value: float, stderr: float | None, baseline: tuple[float, float | None]) -> Response:
        return Response(
            corruption="noise",
            strength=1.0,
            count=10,
            measurement=Measurement.parse("fid"),
            score=Score(value=value, stderr=stderr),
            baseline=Score(value=baseline[0], stderr=baseline[1]),
        )

    assert of(7.0, 4.0, (1.0, 3.0)).z == pytest.approx(1.2)
    assert of(7.0, 4.0, (1.0, 3.0)).responds == "no"
    assert of(-15.0, 4.0, (1.0, 3.0)).responds == "yes"
    assert of(1.0, 0.0, (1.0, 0.0)).z == 0
    assert of(0.5, 0.0, (1.0, 0.0)).z == -math.inf
    assert of(7.0, None, (1.0, 3.0)).z is None and of(7.0, None, (1.0, 3.0)).responds == ""


def test_what_refuses_is_named_and_costs_the_others_nothing(pool: Samples) -> None:
    seen: list[str] = []
    wanted, name = measurements(["fid-per-class", "vendi", "no-such-metric"]), "dropped-classes"
    responses = respond(pool, pool, wanted, count=200, corruptions=[name], strengths={name: [0.5]}, say=seen.append)
    assert [(str(r.measurement), r.responds) for r in responses] == [("fid-per-class", "refused"), ("vendi", "yes")]
    assert any(text.startswith("no-such-metric is left out: No metric named") for text in seen)


def test_rows_replace_those_of_their_data_set_alone(tmp_path: Path) -> None:
    board, one = tmp_path / "response.csv", Measurement.parse("fid@pixels")
    baseline = Score(value=1.25, stderr=0.5)
    made = [
        Response(corruption="noise", strength=0.5, count=9, measurement=one, score=score, baseline=baseline)
        for score in (Score(value=3.0, stderr=0.0), None)
    ]
    response.write(board, response.rows("z", made))
    response.write(board, response.rows("b", made[:1]))
    response.write(board, response.rows("z", made[1:]))
    with board.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["dataset"] for row in rows] == ["b", "z"]
    assert {k: rows[0][k] for k in ("metric", "extractor", "strength", "num_samples", "value", "z", "responds")} == {
        "metric": "fid", "extractor": "pixels", "strength": "0.5", "num_samples": "9", "value": "3", "z": "3.5",
        "responds": "yes",
    }  # fmt: skip
    assert (rows[1]["value"], rows[1]["z"], rows[1]["baseline"], rows[1]["responds"]) == ("", "", "1.25", "refused")
    board.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InputRejected, match="not those of this version"):
        response.write(board, response.rows("z", made))
