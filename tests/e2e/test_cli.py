"""The command line as a user meets it: what it prints, what it leaves, and how it fails."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from made_up import Cli
from PIL import Image

from baselines.files import catalogue
from baselines.files.arguments import architecture
from baselines.records import Configuration
from genbench import pipeline
from genbench.arrays import Samples
from genbench.datasets import shapes
from genbench.protocols import protocol
from genbench.records import Measurement, Ref, RunSpec

SCHEMA = json.loads(files("genbench").joinpath("schemas/run.schema.json").read_text())


def write_images(folder: Path, start: int, count: int, split: str = "test") -> Path:
    folder.mkdir()
    for i, image in enumerate(shapes.draw(shapes.factors(split, np.arange(start, start + count)))):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{i:04d}.png")
    return folder


RUN = ("run", "--model", "ddim(steps=2)", "-n", "40")


def test_a_run_leaves_its_folder_and_answers_from_it(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = ("--metric", "fid", "--metric", "is", "--metric", "precision", "--metric", "recall")
    code, out, err = cli(*RUN, *metrics, "--format", "json")
    assert code == 0 and all("40 images" in line for line in err.splitlines() if "note:" in line)
    document = json.loads(out)
    jsonschema.validate(document, SCHEMA)
    assert [(r["metric"], r["extractor"]) for r in document["results"]] == [
        (name, "compact") for name in ("fid", "is", "precision", "recall")
    ]
    for result in document["results"]:
        assert result["stderr"] >= 0 and result["ci95"][0] <= result["value"] <= result["ci95"][1]
        assert result["floor"] is not None and result["n_generated"] == 40
    fid = document["results"][0]
    assert fid["value"] > 3 * fid["floor"] and fid["stderr"] > 0 and fid["n_reference"] == 10_000
    directory = Path(document["directory"])
    assert {"result.json", "row.csv", "grid.png", "samples"} <= {p.name for p in directory.iterdir()}
    jsonschema.validate(json.loads((directory / "result.json").read_text()), SCHEMA)
    with Image.open(directory / "grid.png") as grid:
        assert grid.size[0] > 8 * 32

    from baselines.files.weights import Weights
    from genbench import features

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a finished run must not need this")

    monkeypatch.setattr(Weights, "network", never)
    monkeypatch.setattr(features, "image_blocks", never)
    code, out, _ = cli(*RUN, *metrics, "--format", "json")
    again = json.loads(out)
    assert code == 0 and again["cached"] and not document["cached"]
    assert again["results"] == document["results"]
    # A further metric needs the features that are in the cache, and no new sample.
    code, out, _ = cli(*RUN, "--metric", "fid(error='jackknife')", "--format", "json")
    assert code == 0 and json.loads(out)["results"][0]["value"] == fid["value"]


def test_formats_and_leaderboard(cli: Cli, tmp_path: Path) -> None:
    code, table, _ = cli(*RUN, "--metric", "fid", "--leaderboard", "board.csv")
    assert code == 0
    assert "fid@compact" in table and "CIFAR-10" not in table.splitlines()[0] and "protocol embedded" in table
    _, csv_text, _ = cli(*RUN, "--metric", "fid", "--format", "csv")
    assert (tmp_path / "board.csv").read_text() == csv_text
    cli(*RUN, "--metric", "fid", "--leaderboard", "board.csv")
    assert (tmp_path / "board.csv").read_text() == csv_text, "the same row is not added twice"


def test_a_data_set_that_no_paper_used_has_no_paper_beside_it(cli: Cli) -> None:
    _, out, _ = cli("run", "--model", "ddim(steps=10)", "-n", "8", "--metric", "fid", "--format", "json")
    assert json.loads(out)["results"][0]["paper"] is None


def test_folder_zip_and_npz_are_the_same_images(cli: Cli, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "a", 0, 60)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    np.savez(tmp_path / "a.npz", arr_0=shapes.draw(shapes.factors("test", np.arange(60))).transpose(0, 2, 3, 1))
    reference = write_images(tmp_path / "b", 1000, 80)
    values = []
    for name in ("a", "a.zip", "a.npz"):
        code, out, err = cli(
            "score", name, "--reference", reference, "--metric", "fid", "--metric", "recall", "--format", "json"
        )
        assert code == 0, err
        values.append([r["value"] for r in json.loads(out)["results"]])
    assert values[0] == values[1] == values[2]


def test_captions_beside_images_give_a_clip_score(cli: Cli, tmp_path: Path) -> None:
    texts = shapes.SHAPES.load("test").captions
    assert texts is not None
    pixels = shapes.draw(shapes.factors("test", np.arange(40))).transpose(0, 2, 3, 1)

    def measured(samples: str | Path) -> float:
        code, out, err = cli("score", samples, "--reference", "shapes", "--metric", "clip-score", "--format", "json")
        assert code == 0, err
        return json.loads(out)["results"][0]["value"]

    expected = measured("shapes(split='test', count=40)")
    for name in ("jsonl", "texts", "shuffled"):
        write_images(tmp_path / name, 0, 40)
    rows = [json.dumps({"file_name": f"{i:04d}.png", "text": texts[i]}) for i in range(40)]
    (tmp_path / "jsonl" / "metadata.jsonl").write_text("\n".join(rows[::-1]))
    for i in range(40):
        (tmp_path / "texts" / f"{i:04d}.txt").write_text(f"{texts[i]}\n")
        (tmp_path / "shuffled" / f"{i:04d}.txt").write_text(texts[(i + 1) % 40])
    np.savez(tmp_path / "a.npz", arr_0=pixels, captions=np.array([texts[i] for i in range(40)]))
    assert [measured(name) for name in ("jsonl", "texts", "a.npz")] == [expected] * 3
    assert measured("shuffled") < 0.5 * expected

    write_images(tmp_path / "bare", 0, 4)
    code, _, err = cli("score", "bare", "--reference", "shapes", "--metric", "clip-score")
    assert code == 5 and "the generated images (bare) have none" in err
    (tmp_path / "bare" / "0000.txt").write_text("a cat")
    code, _, err = cli("score", "bare", "--reference", "shapes", "--metric", "clip-score")
    assert code == 5 and "3 of 4 images have no caption, such as 0001.png" in err and err.count("\n") == 1


def test_a_data_set_may_be_either_side_and_gives_the_floor(cli: Cli, tmp_path: Path) -> None:
    write_images(tmp_path / "a", 0, 50)
    code, out, _ = cli("score", "a", "--reference", "shapes(count=500)", "--format", "json")
    one = json.loads(out)["results"][0]
    assert code == 0 and one["floor"] is not None and one["n_reference"] == 500
    code, out, _ = cli(
        "score", "shapes(split='test', count=50)", "--reference", "shapes(count=500)", "--format", "json"
    )
    assert code == 0 and json.loads(out)["results"][0]["value"] == one["value"]


def test_the_data_sets_of_the_papers_are_files_of_the_user(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("list", "datasets")
    assert code == 0 and "imagenet256" in out and "lsun-church" in out
    code, out, err = cli("score", "shapes(split='test', count=8)", "--reference", "imagenet64", "--data-dir", tmp_path)
    assert code == 6 and out == "" and err.count("\n") == 1
    assert "VIRTUAL_imagenet64_labeled.npz is ADM's reference batch, https://openaipublic" in err
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "celeba.npz", arr_0=rng.integers(0, 256, (30, 64, 64, 3), dtype=np.uint8))
    np.savez(tmp_path / "mine.npz", arr_0=rng.integers(0, 256, (20, 64, 64, 3), dtype=np.uint8))
    words = ("--reference", "celeba", "--data-dir", tmp_path, "--metric", "fid@compact", "--format", "json")
    code, out, err = cli("score", "mine.npz", *words)
    assert code == 0, err
    (result,) = json.loads(out)["results"]
    assert result["reference"]["name"] == "celeba train" and result["protocol"] == "tf1" and result["floor"] is None
    np.savez(tmp_path / "celeba-test.npz", arr_0=rng.integers(0, 256, (20, 64, 64, 3), dtype=np.uint8))
    code, out, _ = cli("score", "mine.npz", *words)
    assert json.loads(out)["results"][0]["floor"] is not None
    code, _, err = cli("score", "ffhq(split='test')", *words)
    assert code == 2 and "ffhq has no test split here" in err


def test_sample_then_run_uses_the_same_images(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("sample", "--model", "ddim(steps=2)", "-n", "20", "--grid", "g.png", "--npz", "s.npz")
    assert code == 0 and "20 images" in out and (tmp_path / "g.png").exists()
    with np.load("s.npz", allow_pickle=False) as archive:
        assert archive["arr_0"].shape == (20, 32, 32, 3) and archive["arr_0"].dtype == np.uint8
    before = next((tmp_path / "runs").rglob("000000.npy")).stat().st_mtime_ns
    cli("run", "--model", "ddim(steps=2)", "-n", "20", "--metric", "fid")
    assert [p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("000000.npy")] == [before]


def test_list_info_plan_and_doctor(cli: Cli) -> None:
    code, out, _ = cli("list", "metrics")
    assert code == 0 and "fid" in out and "ddim" not in out
    code, out, _ = cli("info", "ddim", "--format", "json")
    told = json.loads(out)
    assert (
        told["arguments"]["steps"] == "50"
        and "baselines/systems/ddim.py:" in told["file"]
        and "Song" in told["documentation"]
    )
    code, out, _ = cli("info", "fid")
    assert code == 0 and "higher_is_better: False" in out
    code, out, _ = cli("plan", "--model", "ddim(steps=2)", "-n", "100", "--format", "json")
    planned = json.loads(out)
    assert code == 0 and planned["evaluations"] == 2 and planned["disk_bytes"] > 100 * 3072 and not planned["sampled"]
    assert planned["to_do"] == [told for told in planned["to_do"] if told.startswith("fid")]
    code, out, _ = cli("doctor")
    assert code == 0 and "ok   torch" in out and "shipped weights compact" in out


USAGE = [
    (("run", "--model", "ddimm"), "Did you mean 'ddim'?"),
    (("run", "--model", "ddim", "--metric", "fidd"), "No metric named 'fidd'. Did you mean 'fid'?"),
    (("run", "--model", "ddim", "--metric", "recall(kk=5)"), "no argument 'kk'"),
    (("run", "--model", "ddim", "--metric", "fid@compat"), "Did you mean 'compact'?"),
    (("run", "--model", "ddim(steps=0)"), "steps must lie in [1, 1000]"),
    (("run", "--model", "ddim(eta=2.0)"), "eta lies in [0, 1]"),
    (("run", "--model", "ddim", "--dataset", "digits"), "no weights for the data set 'digits'"),
    (("run", "--model", "ddim", "--protocol", "embeded"), "Did you mean 'embedded'?"),
    (("run", "--model", "ddim", "--device", "cuda:99"), "cuda:99"),
    (("run", "--model", "ddim", "--weights", "compact"), "NAME=PATH"),
    (("run", "--modle", "ddim"), "--model"),
    (("rnu",), "Did you mean 'run'?"),
    (("info", "ddin"), "Did you mean 'ddim'?"),
    (("list", "metrix"), "Did you mean 'metrics'?"),
]


@pytest.mark.parametrize(("words", "says"), USAGE, ids=[" ".join(w) for w, _ in USAGE])
def test_wrong_usage_says_what_is_near(cli: Cli, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    code, out, err = cli(*words)
    assert (code, out) == (2, "") and says in err and err.count("\n") == 1
    assert not (tmp_path / "runs").exists(), "nothing is half-written"


def bad_inputs(folder: Path) -> dict[str, tuple[str, str]]:
    """Name of an input to what the message must name."""
    good = write_images(folder / "good", 0, 4)
    for name in ("empty", "mixed", "truncated", "deep", "one"):
        (folder / name).mkdir()
    shutil.copy(good / "0000.png", folder / "one" / "0.png")
    for i, side in enumerate((32, 32, 30)):
        Image.new("RGB", (side, side)).save(folder / "mixed" / f"{i}.png")
    content = (good / "0001.png").read_bytes()
    (folder / "truncated" / "cut.png").write_bytes(content[: len(content) // 2])
    shutil.copy(good / "0000.png", folder / "truncated" / "whole.png")
    for i in range(2):
        Image.fromarray(np.full((32, 32), 40_000, np.uint16)).save(folder / "deep" / f"{i}.png")
    np.savez(folder / "objects.npz", arr_0=np.array([{"a": 1}], dtype=object))
    np.savez(folder / "floats.npz", arr_0=np.zeros((4, 32, 32, 3), np.float32))
    return {
        "missing/": ("missing", "no folder"), "empty": ("empty", ""), "one": ("one", "at least 2"),
        "mixed": ("mixed", "32x32"), "truncated": ("cut.png", ""), "deep": ("0.png", "16"),
        "objects.npz": ("objects.npz", ""), "floats.npz": ("floats.npz", "float32"),
        "nonsense": ("nonsense", "Data sets"),
    }  # fmt: skip


def test_bad_images_are_named_on_one_line(cli: Cli, tmp_path: Path) -> None:
    for given, says in bad_inputs(tmp_path).items():
        code, out, err = cli("score", given, "--reference", "good")
        assert (code, out) == (4 if given == "one" else 5, ""), (given, code, err)
        told = [line for line in err.splitlines() if line.startswith("genbench: ")]
        assert len(told) == 1 and all(word in told[0] for word in says), (given, err)


def test_a_model_that_gives_nan_is_refused(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text(
        "import torch\n"
        "class Model:\n"
        "    shape, key, conditioning, classes, evaluations = (3, 32, 32), 'k', 'none', 0, 1\n"
        "    def sample(self, seeds, *, labels=None, captions=None, watch=None):\n"
        "        return torch.full((len(seeds), 3, 32, 32), torch.nan)\n"
        "def load(*, dataset, device, precision):\n"
        "    return Model()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, out, err = cli("run", "--model", "broken:load", "-n", "10")
    assert (code, out) == (5, "") and "not finite" in err and "image 0 of seed 0" in err
    assert not list((tmp_path / "runs").rglob("*.npy"))


def test_no_disk_space_is_found_before_sampling(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genbench import files as genbench_files

    monkeypatch.setattr(genbench_files, "free_bytes", lambda path: 1 << 20)
    code, out, err = cli(*RUN)
    assert (code, out) == (7, "") and "MiB" in err and not (tmp_path / "runs").exists()


def test_missing_weights_are_code_6_and_say_how_to_get_them(cli: Cli, tmp_path: Path) -> None:
    write_images(tmp_path / "a", 0, 4)
    code, out, err = cli("score", "a", "--reference", "a", "--metric", "fid@inception")
    assert (code, out) == (6, "") and err.count("\n") == 1
    for word in ("https://", "sha256", 'genbench fetch "inception"', "--weights inception="):
        assert word in err


def test_fetch_finds_what_is_there_and_says_what_is_not(cli: Cli) -> None:
    code, out, _ = cli("fetch", "compact")
    assert code == 0 and out.startswith("compact: ") and out.strip().endswith("compact.safetensors")
    code, _, err = cli("fetch", "resnet50(recipe='v1')")
    assert code == 6 and "https://" in err
    code, _, err = cli("fetch", "pixels")
    assert code == 2 and "no weights" in err


TINY = {
    "image_size": 32, "num_channels": 32, "channel_mult": "1,1", "num_res_blocks": 1, "num_heads": 2,
    "attention_resolutions": "16", "learn_sigma": True,
}  # fmt: skip
"""A small model in the argument names of guided-diffusion."""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Path]:
    """Writes a checkpoint of the configuration "tiny" with random weights."""
    configuration = Configuration(arguments=TINY, parameters=0.1, source="test")
    monkeypatch.setitem(catalogue.configurations(), "tiny", configuration)

    def write(seed: int) -> Path:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            torch.save(architecture("tiny").build().state_dict(), tmp_path / "own.pt")
        return tmp_path / "own.pt"

    return write


def test_a_checkpoint_of_ones_own_is_measured_and_measured_anew_when_it_changes(
    cli: Cli, tiny: Callable[[int], Path]
) -> None:
    model = f"ddim(weights={str(tiny(0))!r}, config='tiny', steps=2)"
    command = ("run", "--model", model, "-n", "20", "--metric", "is", "--format", "json")
    code, out, err = cli(*command)
    first = json.loads(out)
    assert code == 0 and "genbench: " not in err and not first["cached"]
    assert json.loads(cli(*command)[1])["cached"]
    tiny(1)
    code, out, _ = cli(*command)
    second = json.loads(out)
    assert code == 0 and not second["cached"]
    assert second["results"][0]["value"] != first["results"][0]["value"]


def test_labels_that_the_data_set_does_not_have_are_refused_before_sampling(
    cli: Cli, tiny: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """guided-diffusion always has 1000 rows of labels; shapes has 10 classes."""
    conditional = TINY | {"class_cond": True, "num_classes": 20}
    configuration = Configuration(arguments=conditional, parameters=0.1, source="test")
    monkeypatch.setitem(catalogue.configurations(), "tiny", configuration)
    model = f"ddim(weights={str(tiny(0))!r}, config='tiny', steps=2"
    code, _, err = cli("run", "--model", f"{model})", "-n", "4", "--metric", "swd@pixels")
    assert code == 2 and "labels among 20 classes" in err and "say classes=10" in err
    assert not list(tmp_path.rglob("*.npy")), "before anything is sampled"
    code, _, _ = cli("run", "--model", f"{model}, classes=10)", "-n", "4", "--metric", "swd@pixels")
    assert code == 0


def test_weights_of_models_are_given_by_the_name_of_their_card(
    cli: Cli, tiny: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENBENCH_OFFLINE", "1")
    monkeypatch.setitem(
        catalogue.files(),
        "tiny",
        replace(catalogue.files()["ddpm-ema-cifar10"], name="tiny", networks={"unet": "tiny"}),
    )
    command = ("sample", "--model", "ddpm(weights='tiny', steps=2)", "-n", "3", "--npz", "a.npz")
    code, _, err = cli(*command)
    assert code == 6 and "--weights tiny=PATH" in err and err.count("\n") == 1
    path = tiny(0)
    code, _, err = cli(*command, "--weights", f"tiny={path}")
    assert (code, err) == (0, "")
    with np.load("a.npz", allow_pickle=False) as made:
        assert made["arr_0"].shape == (3, 32, 32, 3)


def test_a_paper_is_run_as_the_paper_did_unless_told_otherwise(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_OFFLINE", "1")
    code, out, _ = cli("plan", "--model", "adm-g", "--dataset", "imagenet256", "--format", "json")
    planned = json.loads(out)
    assert code == 6 and (planned["num_samples"], planned["evaluations"]) == (50_000, 250)
    assert any("256x256_diffusion.pt" in line or "256x256_classifier.pt" in line for line in planned["missing"])
    assert any("imagenet256" in line for line in planned["missing"])

    paper = RunSpec(model=Ref("adm-g"), dataset=Ref("imagenet256"), num_samples=50_000, quantise="truncate")
    _, _, bound = pipeline.bind_spec(paper)
    assert bound.model.args["scale"] == 1.0 and pipeline.differs(bound) == []
    other = RunSpec(model=Ref("adm-g", {"steps": 25, "weights": "own.pt"}), dataset=Ref("imagenet256"), num_samples=10)
    _, _, bound = pipeline.bind_spec(other)
    assert pipeline.differs(bound) == [
        "25 instead of 250 steps", "weights='own.pt' instead of None", "10 instead of 50000 samples",
    ]  # fmt: skip


def test_models_list_their_weights(cli: Cli) -> None:
    code, out, _ = cli("list", "models")
    assert code == 0
    rows = [line.split() for line in " ".join(out.split("weights\n")[1].split("\n    ")).splitlines()]
    row = next(words for words in rows if words[:2] == ["adm-g", "imagenet256"])
    assert row[2:5] == ["about", "2,432", "MB"] and row[-2:] == ["adm-256x256-diffusion,", "adm-256x256-classifier"]
    assert any(words[:2] == ["ddim", "shapes"] and "shipped" in words for words in rows)
    code, out, _ = cli("info", "adm-g")
    assert code == 0 and "imagenet512 = scale=4.0, steps=250, sampler='ancestral'; 50000 samples; protocol adm;" in out
    code, out, _ = cli("fetch", "adm-256x256")
    assert code == 2


def test_pictures_of_classes_and_of_the_way_there(cli: Cli) -> None:
    pictures = ("--classes", "classes.png", "--strip", "strip.png", "--grid", "grid.png")
    code, _, err = cli("sample", "--model", "ddim(steps=5)", "-n", "12", *pictures)
    assert (code, err) == (0, "")
    sizes = {}
    for name in ("classes", "strip", "grid"):
        with Image.open(f"{name}.png") as picture:
            sizes[name] = ((picture.width - 2) // 34, (picture.height - 2) // 34)
    assert sizes == {"classes": (8, 10), "strip": (5, 8), "grid": (8, 2)}


def test_what_captions_say_is_part_of_what_was_measured() -> None:
    samples = shapes.load("test").subset(0, 20)
    other = replace(samples, captions=list(reversed(list(samples.captions or ()))))
    wanted = [Measurement.parse("clip-score"), Measurement.parse("is")]

    def ids(generated: Samples) -> list[str]:
        outcome = pipeline.score(generated, None, wanted, protocol=protocol("embedded"))
        return [result.id for result in outcome.results]

    one, two = ids(samples), ids(other)
    assert one[0] != two[0], "the score of captions"
    assert one[1] == two[1], "what reads no captions"
