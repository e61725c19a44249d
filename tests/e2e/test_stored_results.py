"""A stored number answers only for the same model, data, code and request; files that are read again are looked at."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genbench import generation, measuring, pipeline, report
from genbench.arrays import Samples
from genbench.errors import InputRejected
from genbench.images import open_images, write_images, write_npz
from genbench.outcome import Outcome
from genbench.protocols import protocol
from genbench.records import Measurement, Ref, RunSpec

MODEL = """
import torch

class Model:
    shape, takes, classes, evaluations = (3, 8, 8), frozenset([{TAKES}]), 4, 1
    key = "{KEY}"

    def sample(self, seeds, *, watch=None, **conditions):
        x = [torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(int(s % 2**62))) for s in seeds]
        return torch.stack(x) * 2 * {SCALE} - 1

def load(*, dataset, device, precision{ARGUMENTS}):
    return Model()
"""

DATA = """
import numpy as np
from genbench.arrays import Samples
from genbench.contracts import Dataset

def load(split):
    pixels = np.random.default_rng(len(split)).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    texts = [f"{PREFIX} {i % 7}" for i in range(40)]
    return Samples.of(pixels, captions=texts, labels=np.arange(40) % 4, classes=("a", "b", "c", "d"))

DATA = Dataset(name="data", summary="test", source="test", load=load, splits={"reference": "real", "held_out": "held"})
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model, a data set and real images of the user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    model()
    Path("mydata.py").write_text(DATA.replace("{PREFIX}", "a text"))
    pictures("real", 0)
    pictures("held", 9)
    return tmp_path


def model(key: str = "v1", scale: float = 1.0, takes: str = "", arguments: str = "") -> None:
    text = MODEL.replace("{KEY}", key).replace("{SCALE}", str(scale)).replace("{ARGUMENTS}", arguments)
    Path("mymodel.py").write_text(text.replace("{TAKES}", repr(takes) if takes else ""))


def pictures(folder: str, seed: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    write_images(Samples.of(pixels), folder)


def run(*metrics: str, dataset: str = "folder(path='real')", fresh: bool = False, **more: Any) -> Outcome:
    for name in ("mymodel", "mydata"):
        sys.modules.pop(name, None)
    spec = RunSpec(model=Ref("mymodel:load"), dataset=Ref.parse(dataset), num_samples=30)
    how = measuring.Execution(device="cpu", workers=0, batch_size=8, fresh=fresh, **more)
    texts = metrics or ("fid@pixels(side=2)",)
    return pipeline.run(
        spec, [Measurement.parse(t) for t in texts], protocol=protocol("embedded"), output=Path("runs"), execution=how
    )


def truth(*metrics: str, **more: Any) -> list[float]:
    """What a new folder of runs says."""
    moved = Path("runs").rename("aside")
    try:
        return values(run(*metrics, **more))
    finally:
        shutil.rmtree("runs")
        moved.rename("runs")


def values(outcome: Outcome) -> list[float]:
    return [result.score.value for result in outcome.results]


def test_a_finished_run_answers_and_samples_nothing(place: Path) -> None:
    first, second = run(), run()
    assert not first.cached and second.cached and values(first) == values(second)


@pytest.mark.parametrize(
    ("what", "change", "another"),
    [
        ("the key of a model", lambda: model(key="v2", scale=0.5), True),
        ("the code of a model", lambda: model(scale=0.5), True),
        ("an argument with a default that is added", lambda: model(arguments=", order=1"), False),
        ("the images of the reference", lambda: pictures("real", 5), True),
        ("one image of the reference", lambda: shutil.copy("held/000000.png", "real/000003.png"), True),
        ("the names of the images", lambda: Path("real/000000.png").rename("real/zzz.png"), False),
        ("other files", lambda: Path("real/notes.txt").write_text("x"), False),
    ],
)
def test_what_changed_is_measured_anew(
    place: Path, what: str, change: Callable[[], None], another: bool, caplog: pytest.LogCaptureFixture
) -> None:
    before = values(run())
    change()
    after = run()
    assert values(after) == pytest.approx(truth(), rel=1e-9), what  # sums are in the order of files
    assert (values(after) != before) is another, what
    # The code of a loader of one's own counts, whatever it says.
    assert after.cached is (not another and "argument" not in what), what


def test_no_table_mixes_two_models(place: Path) -> None:
    run("fid@pixels(side=2)")
    model(key="v2", scale=0.5)
    mixed = run("fid@pixels(side=2)", "kid@pixels(side=2)")
    assert values(mixed) == truth("fid@pixels(side=2)", "kid@pixels(side=2)")
    assert len({r.environment["model_key"] for r in mixed.results}) == 1
    run("kid@pixels(side=2)")
    model(key="v1")
    run("kid@pixels(side=2)")
    stored = report.read_results(mixed.directory).values()
    assert [r.environment["model_key"] for r in stored] == [
        run("kid@pixels(side=2)").results[0].environment["model_key"]
    ]


def test_a_reference_in_another_working_folder_is_another(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = values(run())
    (place / "other").mkdir()
    shutil.copy("mymodel.py", "other/mymodel.py")
    shutil.copytree("runs", "other/runs")
    monkeypatch.chdir(place / "other")
    pictures("real", 77)
    assert values(run()) != one


def test_prompts_that_changed_ask_for_other_images(place: Path) -> None:
    model(takes="captions")
    before = run("clip-score", dataset="mydata:DATA")
    Path("mydata.py").write_text(DATA.replace("{PREFIX}", "another text"))
    after = run("clip-score", dataset="mydata:DATA")
    assert not after.cached and after.results[0].protocol_hash != before.results[0].protocol_hash
    assert values(after) == truth("clip-score", dataset="mydata:DATA")


def test_fresh_drops_what_is_asked_for_when_it_starts_and_keeps_the_rest_of_the_same_samples(place: Path) -> None:
    first = run("fid@pixels(side=2)", "kid@pixels(side=2)")
    again = run("kid@pixels(side=2)", fresh=True)
    assert not again.cached and len(report.read_results(first.directory)) == 2
    assert run("fid@pixels(side=2)", "kid@pixels(side=2)").cached
    model(key="v2", scale=0.5)
    run("kid@pixels(side=2)", fresh=True)
    assert [r.measurement for r in report.read_results(first.directory).values()] == [again.results[0].measurement]


def test_what_was_killed_after_fresh_samples_is_measured_anew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run()

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(generation, "sample_images", killed)
    with pytest.raises(KeyboardInterrupt):
        run(fresh=True)
    monkeypatch.undo()
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    assert not run().cached


@pytest.mark.parametrize(
    "damage",
    [b"", b"\xb2\xff", b"{", b"[]", b"null", b"3", b'{"schema": "genbench.run/2"}', b"[" * 100_000, "value", "text"],
)
def test_a_damaged_result_is_said_and_made_anew(
    place: Path, damage: bytes | str, caplog: pytest.LogCaptureFixture
) -> None:
    first = run()
    path = first.directory / "result.json"
    data = json.loads(path.read_text())
    if damage == "value":
        data["results"][0]["value"] = 0.001
    elif damage == "text":
        data["results"][0]["value"] = "text"
    path.write_bytes(damage if isinstance(damage, bytes) else json.dumps(data).encode())
    again = run()
    assert not again.cached and values(again) == values(first) and "is damaged" in caplog.text
    assert run().cached


def test_a_result_of_a_later_version_is_left_alone(place: Path) -> None:
    path = run().directory / "result.json"
    path.write_text(json.dumps({"schema": "genbench.run/9", "results": []}))
    with pytest.raises(InputRejected, match=r"genbench.run/9"):
        run()
    assert "run/9" in path.read_text()


def test_results_of_the_first_schema_are_read_and_kept(place: Path) -> None:
    outcome = run("fid@pixels(side=2)", "kid@pixels(side=2)")
    path = outcome.directory / "result.json"
    data = json.loads(path.read_text())
    for result in data["results"]:
        for name in ("metric_text", "extractor_text", "blocks"):
            result.pop(name)
        for side in ("generated", "reference"):
            result[side] = {name: result[side][name] for name in ("name", "count", "digest")}
        del result["spec"]["defaults"], result["environment"]["samples"]
    old = {"schema": "genbench.run/1", "results": data["results"], "requests": {}}
    old["requests"] = {f"{i}": r["id"] for i, r in enumerate(old["results"])}
    path.write_text(json.dumps(old))
    assert [r.score.value for r in report.read_results(outcome.directory).values()] == values(outcome)
    again = run("fid@pixels(side=2)")
    assert not again.cached and values(again) == values(outcome)[:1]
    assert len(report.read_results(outcome.directory)) == 2, "kid is kept, fid is replaced"


@pytest.mark.parametrize("name", ["row.csv", "grid.png"])
def test_files_beside_the_results_come_back(place: Path, name: str) -> None:
    path = run().directory / name
    content = path.read_bytes()
    path.unlink()
    assert run().cached and path.read_bytes() == content


def test_results_are_read_inside_the_lock(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process finishes fid while this one waits to measure kid, and both rows stay."""
    run("fid@pixels(side=2)")
    path = next(Path("runs").glob("*/result.json"))
    finished = path.read_bytes()
    path.unlink()
    locked = pipeline.files.locked

    def slow(directory: Path) -> Any:
        path.write_bytes(finished)
        return locked(directory)

    monkeypatch.setattr(pipeline.files, "locked", slow)
    run("kid@pixels(side=2)")
    assert len(report.read_results(path.parent)) == 2


def test_run_and_score_of_the_same_samples_have_one_identity(place: Path) -> None:
    made = run("fid@pixels(side=2)", "is@compact").results
    samples = pipeline.sample(
        RunSpec(model=Ref("mymodel:load"), dataset=Ref.parse("folder(path='real')"), num_samples=30),
        output=Path("runs"),
    )[0]
    write_images(samples, "folder")
    write_npz(samples, "samples.npz")
    for form in ("folder", "samples.npz"):
        scored = pipeline.score(
            open_images(form),
            open_images("real"),
            list(map(Measurement.parse, ("fid@pixels(side=2)", "is@compact"))),
            protocol=protocol("embedded"),
        ).results
        for one, two in zip(made, scored, strict=True):
            assert (one.generated.digest, one.protocol_hash) == (two.generated.digest, two.protocol_hash)
            assert one.score.value == two.score.value


def test_arguments_that_are_not_finite_come_back(place: Path) -> None:
    text = "vendi(q=inf)@pixels(side=2)"
    first, second = run(text), run(text)
    assert second.cached and "q=inf" in second.results[0].metric and values(first) == values(second)
    model(arguments=", pair=(1, 2), far=float('inf')")
    run(text)
    assert run(text).cached


def test_a_score_with_blocks_comes_back(place: Path) -> None:
    from genbench.records import Blocks

    (result,) = run().results
    score = replace(result.score, blocks=Blocks(left_out=(1.5, float("nan")), sizes=(10, 20)))
    report.write_results(Path("there"), {"a": replace(result, score=score, floor=score)})
    back = report.read_results(Path("there"))["a"]
    assert str(back.score) == str(score) and str(back.floor) == str(score) and back.spec == result.spec
    assert back.id == result.id
