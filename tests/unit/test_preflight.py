"""What can be refused is refused before the first second of work, all of it together, and nothing is written yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from genbench import costs, files, generation, pipeline, planning, preflight, registry, sets, weights
from genbench.arrays import Samples
from genbench.contracts import Classifier, Extractor
from genbench.datasets import shapes
from genbench.errors import (
    GenbenchError,
    InputRejected,
    MissingAsset,
    NotComparable,
    OutOfResources,
    Unmeasured,
    UsageError,
)
from genbench.images import open_images
from genbench.measuring import Execution
from genbench.protocols import PROTOCOLS, Protocol
from genbench.records import Measurement, Ref, Result, RunSpec
from genbench.streaming import Evaluator

EMBEDDED = PROTOCOLS["embedded"]


class Noise:
    """Images without a network, whose sampling is counted."""

    shape = (3, 32, 32)
    key = "noise"
    classes = 10
    evaluations = 1

    def __init__(self, conditioning: str) -> None:
        self.conditioning = conditioning

    def sample(self, seeds: NDArray[np.uint64], **_: Any) -> torch.Tensor:
        SAMPLED.append(len(seeds))
        return torch.stack([torch.from_numpy(np.random.default_rng(s).uniform(-1, 1, self.shape)) for s in seeds])


SAMPLED: list[int] = []


def load(*, dataset: str, device: str, precision: str, conditioning: str = "none") -> Noise:
    return Noise(conditioning)


def spec(count: int = 40, dataset: str = "shapes", conditioning: str = "none") -> RunSpec:
    model = Ref(f"{__name__}:load", {"conditioning": conditioning})
    return RunSpec(model=model, dataset=Ref.parse(dataset), num_samples=count)


def run(
    output: Path, *metrics: str, of: RunSpec | None = None, protocol: Protocol = EMBEDDED, **more: Any
) -> tuple[Result, ...]:
    SAMPLED.clear()
    wanted = [m if isinstance(m, Measurement) else Measurement.parse(m) for m in metrics]
    return pipeline.run(of or spec(), wanted, protocol=protocol, output=output, **more).results


@pytest.mark.parametrize(
    ("metric", "kind", "says"),
    [
        ("fid@inception", MissingAsset, "inception are not on this machine"),
        ("clip-score@clip", MissingAsset, "clip"),
        ("fid(blocks=0)", UsageError, "blocks of fid"),
        ("fid(error='guess')", UsageError, "guess"),
        ("fid(error='influence')", NotComparable, "got 40 of width 64"),
        ("fid-inf", NotComparable, "256 for width 64; there are 40"),
        ("fid-inf(points=2)", UsageError, "points"),
        ("precision(k=40)", NotComparable, "at least 41 generated"),
        ("coverage(k=0)", UsageError, "k, the neighbour"),
        ("recall(arithmetic='fp8')", UsageError, "fp8"),
        ("kid(subsets=10)", NotComparable, "40 generated"),
        ("kid(subsets=-1)", UsageError, "subsets"),
        ("cmmd(sigma=0.0)", UsageError, "sigma"),
        ("swd(projections=0)", UsageError, "projections"),
        ("mifid(error='influence')", UsageError, "influence"),
        ("is(shuffle=-1)", UsageError, "shuffle"),
        ("is(splits=41)", UsageError, "40 images into 41"),
        ("fid-per-class", InputRejected, "labels"),
        ("top1", InputRejected, "labels"),
        ("top1@pixels", UsageError, "is none"),
        ("cas", InputRejected, "labels"),
        ("vendi(per_class=True)", InputRejected, "labels"),
        ("clip-score", InputRejected, "captions"),
        ("psnr", InputRejected, "40 images"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_sampling(
    metric: str, kind: type[GenbenchError], says: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=says):
        run(tmp_path / "runs", metric)
    assert not SAMPLED and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", sorted(registry.BUILTIN["metric"]))
def test_checks_take_the_arguments_of_their_metrics(name: str) -> None:
    metric, ref = registry.bind("metric", Ref(name))
    images, labels = np.zeros((600, 3, 32, 32), np.uint8), np.arange(600) % 10
    side = Samples.of(images, labels=labels)
    if metric.check is not None:
        widths = {"pooled": 64, "spatial": 64}
        metric.check(generated=side, reference=side, widths=widths, classifier=Classifier(count=10), **ref.args)


def test_everything_that_is_missing_is_told_at_once_by_the_gravest_code(tmp_path: Path) -> None:
    board = tmp_path / "board.csv"
    board.write_text("name,value\nx,1\n")
    with pytest.raises(MissingAsset) as caught:
        run(tmp_path / "runs", "fid@inception", "is@inception", "precision(k=40)", "fid-per-class", leaderboard=board)
    lines = str(caught.value).split("\n")
    assert len(lines) == 4 and caught.value.exit_code == 6
    for said, word in zip(lines, ("board.csv", "inception", "at least 41", "labels"), strict=True):
        assert word in said
    assert not SAMPLED and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (spec(dataset="folder(path='raal')"), "raal"),
        (spec(dataset="folder(path='real.npz')", conditioning="caption"), "takes captions"),
    ],
)
def test_data_are_looked_for_before_sampling(
    of: RunSpec, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("real.npz", arr_0=np.zeros((50, 32, 32, 3), np.uint8))
    with pytest.raises(GenbenchError, match=says):
        run(tmp_path / "runs", "fid@pixels", of=of)
    assert not SAMPLED and not (tmp_path / "runs").exists()


def test_too_few_images_of_a_class_are_known_from_the_seeds(tmp_path: Path) -> None:
    of = spec(12, conditioning="label")
    drawn = np.bincount(generation.image_labels(generation.image_seeds(0, 0, 12), 10), minlength=10)
    assert drawn.min() < 2
    with pytest.raises(NotComparable, match="2 images a class"):
        run(tmp_path / "runs", "fid-per-class", of=of)
    assert not SAMPLED


def test_of_all_only_what_cannot_be_measured_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def optional(text: str) -> Measurement:
        return replace(Measurement.parse(text), optional=True)

    (result,) = run(tmp_path / "runs", optional("fid@inception"), optional("vendi@pixels"), optional("cas"))
    assert result.metric.startswith("vendi") and SAMPLED
    assert "fid is left out: The weights of inception" in caplog.text and "cas is left out" in caplog.text
    with pytest.raises(MissingAsset):  # nothing that could be measured is no success
        run(tmp_path / "none", optional("fid@inception"), optional("is@inception"))
    assert not (tmp_path / "none").exists()
    with pytest.raises(MissingAsset):  # nor is a metric that was named
        run(tmp_path / "none", "fid@inception", optional("vendi@pixels"))
    assert not (tmp_path / "none").exists()


def test_what_was_measured_before_an_error_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*, generated: Any, per_class: bool = False) -> None:
        raise InputRejected("found late")

    vendi = registry.get("metric", "vendi")
    monkeypatch.setattr("genbench.metrics.vendi.VENDI", replace(vendi, compute=broken, check=None))
    with pytest.raises(InputRejected, match="found late") as caught:
        run(tmp_path / "runs", "vendi@pixels", "fid@pixels(side=2)", of=spec(60))
    assert [result.metric.split("(")[0] for result in caught.value.results] == ["fid"]
    generated = shapes.load("test").subset(0, 60)
    wanted = [Measurement.parse("vendi@pixels"), Measurement.parse("fid@pixels(side=2)")]
    with pytest.raises(InputRejected, match="found late") as caught:
        pipeline.score(generated, shapes.load("train").subset(0, 60), wanted, protocol=EMBEDDED)
    assert len(caught.value.results) == 1


def test_what_was_measured_before_an_interrupt_is_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*, generated: Any, per_class: bool = False) -> None:
        raise KeyboardInterrupt

    vendi = registry.get("metric", "vendi")
    monkeypatch.setattr("genbench.metrics.vendi.VENDI", replace(vendi, compute=stopped, check=None))
    run(tmp_path / "runs", "swd@pixels(side=2)", of=spec(60))  # is there already, and is told again
    with pytest.raises(Unmeasured) as caught:
        run(tmp_path / "runs", "fid@pixels(side=2)", "vendi@pixels", "swd@pixels(side=2)", of=spec(60))
    assert [result.metric.split("(")[0] for result in caught.value.results] == ["fid", "swd"]
    generated, real = shapes.load("test").subset(0, 60), shapes.load("train").subset(0, 60)
    wanted = [Measurement.parse("fid@pixels(side=2)"), Measurement.parse("vendi@pixels")]
    with pytest.raises(Unmeasured) as caught:
        pipeline.score(generated, real, wanted, protocol=EMBEDDED)
    assert len(caught.value.results) == 1


def test_room_on_disk_is_for_what_is_still_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    output = tmp_path / "runs"
    monkeypatch.setattr(files, "free_bytes", lambda path: 1 << 20)
    with pytest.raises(OutOfResources, match="MiB are free"):
        run(output, "vendi@pixels")
    assert not SAMPLED and not output.exists()
    monkeypatch.undo()
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    run(output, "vendi@pixels")
    # Samples are there. Pixels and logits of 40 samples and of as many held-out images are still to be stored.
    room = (64 << 20) + 2 * 4 * 40 * (3072 + 10)
    monkeypatch.setattr(files, "free_bytes", lambda path: room)
    run(output, "vendi(per_class=False)@pixels(side=32)", "is")
    monkeypatch.setattr(files, "free_bytes", lambda path: 1 << 20)
    with pytest.raises(OutOfResources, match="features"):
        run(output, "swd@pixels")


def test_a_leaderboard_and_files_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.csv"
    foreign.write_text("a,b\n1,2\n")
    with pytest.raises(InputRejected, match=r"foreign\.csv"):
        preflight.check_leaderboard(foreign)
    preflight.check_leaderboard(tmp_path / "new" / "board.csv")
    for wrong in (tmp_path, foreign / "below.csv"):
        with pytest.raises(OutOfResources, match="cannot be written"):
            preflight.check_writable(wrong)


def test_pictures_that_a_model_cannot_give_are_refused_before_sampling(tmp_path: Path) -> None:
    SAMPLED.clear()
    with pytest.raises(GenbenchError) as caught:
        pipeline.sample(spec(), output=tmp_path / "runs", strip=True, by_class=True, writes=[tmp_path])
    assert [
        word in line for word, line in zip(("steps", "classes", "written"), str(caught.value).split("\n"), strict=True)
    ]
    assert not SAMPLED and not (tmp_path / "runs").exists()
    samples, _, _ = pipeline.sample(spec(conditioning="label"), output=tmp_path / "runs", by_class=True)
    assert samples.labels is not None


def test_a_plan_says_what_a_run_would_be_refused_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENBENCH_OFFLINE")  # a plan connects nowhere by itself
    monkeypatch.setattr(weights, "_download", lambda *_: pytest.fail("a plan downloads nothing"))
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    wanted = [Measurement.parse("fid@inception"), Measurement.parse("precision(k=40)")]
    made = planning.plan(spec(), wanted, protocol=EMBEDDED, output=tmp_path / "runs", execution=Execution())
    assert made.exit_code == 6 and len(made.missing) == 2
    assert "an estimate downloads nothing" in made.missing[0]
    assert not list(tmp_path.iterdir())
    adm = RunSpec(model=Ref("adm-g"), dataset=Ref("imagenet256"), num_samples=50_000)
    made = planning.plan(
        adm, [Measurement.parse("fid")], protocol=PROTOCOLS["adm"], output=tmp_path, execution=Execution()
    )
    assert made.exit_code == 6 and made.sampling_seconds is None
    for file in ("256x256_diffusion", "256x256_classifier", "inception", "imagenet256 cannot be downloaded"):
        assert sum(file in line for line in made.missing) == 1, (file, made.missing)
    assert not list(tmp_path.iterdir())


def test_a_plan_of_what_can_be_done_is_told_in_time_and_bytes(tmp_path: Path) -> None:
    made = planning.plan(
        spec(), [Measurement.parse("fid@compact")], protocol=EMBEDDED, output=tmp_path, execution=Execution()
    )
    assert made.missing == [] and made.exit_code == 0 and made.evaluations == 1
    assert made.sampling_seconds is not None and made.disk_bytes == 40 * (3 * 32 * 32 + 4 * 64)
    assert made.feature_seconds is not None and made.measuring_seconds is not None and made.unpredicted == []
    times = {
        None: "unknown",
        0: "0 seconds",
        0.4: "0.4 seconds",
        119: "119 seconds",
        121: "2 minutes",
        5627318.2: "65 days",
    }
    for seconds, text in times.items():
        assert planning.duration(seconds) == text


def test_a_plan_adds_up_what_metrics_need_once_and_what_floors_need_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, set[str]]] = []

    def rates(width: int, stages: set[str], **_: Any) -> dict[str, float]:
        asked.append((width, set(stages)))
        return {name: 1e6 if name in ("product", "scatter", "project") else 1e-3 for name in costs.RATES}

    monkeypatch.setattr(costs, "measure_rates", rates)
    wanted = [
        Measurement.parse(text) for text in ("precision@compact", "recall@compact", "fid@compact", "vendi@compact")
    ]
    made = planning.plan(spec(), wanted, protocol=EMBEDDED, output=tmp_path, execution=Execution())
    assert made.unpredicted == ["vendi"]
    assert asked == [(64, {"search", "members", "fit", "distance", "left-out"})]
    sizes = costs.Sizes(generated=40, reference=made_for(), width=64)

    def seconds(stage: str, side: str = "both") -> float:
        return costs.seconds_of(stage, side, sizes, rates(64, set()))

    of_model = seconds("search", "generated") + seconds("members") + seconds("fit", "generated")
    of_model += seconds("distance") + seconds("left-out")
    of_reference = seconds("search", "reference") + seconds("fit", "reference")
    # Both the model and the floor of as many real images are compared with one reference.
    assert made.measuring_seconds == pytest.approx(2 * of_model + of_reference, abs=0.1)


def made_for() -> int:
    """Reference images that runs of shapes are compared with."""
    count = registry.get("dataset", "shapes").reference_count
    assert count
    return int(count)


def test_an_evaluator_refuses_before_the_first_image() -> None:
    with pytest.raises(UsageError) as caught:  # what must be written otherwise comes first
        metrics = ["fid@inception", "is(shuffle=-1)", "top1@pixels", "kid(subsets=10)", "fid-per-class"]
        Evaluator("shapes", metrics=metrics)
    lines = str(caught.value).split("\n")
    for line, word in zip(lines, ("inception", "shuffle", "is none"), strict=True):
        assert word in line
    with pytest.raises(UsageError, match="blocks of fid"):
        Evaluator("shapes", metrics="fid(blocks=0)")


def told(generated: Samples, reference: Samples | None, *metrics: str, **more: Any) -> str:
    """The notes of all results, in one text."""
    wanted = [Measurement.parse(metric) for metric in metrics]
    results = pipeline.score(generated, reference, wanted, **{"protocol": EMBEDDED, **more}).results
    return " ".join(note for result in results for note in result.environment["notes"])


def real(split: str, count: int) -> Samples:
    return sets.open_side(f"shapes(split={split!r}, count={count})", Execution(), role="reference")[0]


def photographs(count: int, seed: int, side: int = 32) -> Samples:
    return Samples.of(np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), np.uint8), origin="photos")


def test_an_embedded_extractor_on_other_images_is_said(caplog: pytest.LogCaptureFixture) -> None:
    said = told(photographs(110, 0), photographs(110, 1), "fid", "vendi")
    assert "none of papers" in said and "--protocol pytorch-fid" in said
    assert caplog.text.count("none of papers") == 1  # once for all metrics
    assert "none of papers" not in told(photographs(110, 0), real("train", 110), "fid")
    assert "none of papers" not in told(photographs(110, 0), photographs(110, 1), "vendi@pixels")


def test_few_images_other_sizes_and_missing_floors_are_said(tmp_path: Path) -> None:
    whole = real("train", 300)
    assert told(shapes.load("test").subset(0, 200), whole, "fid", "recall") == ""
    few = shapes.load("test").subset(0, 10)
    assert "10 images of" in told(few, whole, "fid") and "64 features" in told(few, whole, "fid")
    assert "depend on how many" in told(few, whole, "recall")
    assert "takes 50000 samples" in told(few, whole, "fid", protocol=replace(EMBEDDED, num_samples=50_000))
    assert "64x64 pixels" in told(photographs(200, 0, side=64), whole, "fid")
    short = told(shapes.load("test").subset(0, 200), whole, "fid", held_out=shapes.load("validation").subset(0, 150))
    assert "150 images, fewer than the 200" in short


def test_files_of_two_formats_are_said(tmp_path: Path) -> None:
    for i, image in enumerate(photographs(8, 0).read(0, 8)):
        for kind in ("png", "jpg", "jpeg"):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / kind / f"{i}.{kind}")
    png, jpg, jpeg = (open_images(tmp_path / kind) for kind in ("png", "jpg", "jpeg"))
    assert "files of PNG" in told(png, jpg, "swd@pixels") and "of JPEG" in told(png, jpg, "swd@pixels")
    assert "compression" not in told(jpg, jpeg, "swd@pixels") + told(png, photographs(8, 1), "swd@pixels")


def test_features_that_tell_nothing_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def constant(images: torch.Tensor, taps: Sequence[str]) -> Mapping[str, torch.Tensor]:
        return {tap: torch.ones(len(images), 4) for tap in taps}

    def loaded(*, device: str, precision: str, weights: Path | None = None) -> Extractor:
        return Extractor(key="constant", widths={"pooled": 4}, embed=constant)

    monkeypatch.setattr("genbench.extractors.pixels.load", loaded)
    for metric in ("fid", "precision", "kid"):
        with pytest.raises(InputRejected, match="same features"):
            told(photographs(20, 0), photographs(20, 1), f"{metric}@pixels")


def test_arguments_of_the_user_take_the_place_of_the_other_way_to_cut() -> None:
    adm = PROTOCOLS["adm"]
    assert adm.resolve(Measurement.parse("is")).metric.args == {"chunk": 5000}
    assert adm.resolve(Measurement.parse("is(splits=10)")).metric.args == {"splits": 10}
    tf1 = PROTOCOLS["tf1"].resolve(Measurement.parse("is(chunk=100)")).metric.args
    assert tf1 == {"chunk": 100, "shuffle": 2020}
