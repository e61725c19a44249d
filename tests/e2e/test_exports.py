"""Results in the hands of other tools, each asked by its own reader what it holds."""

from __future__ import annotations

import json
import math
import shlex
import struct
import threading
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import jsonschema
import numpy as np
import pytest
from made_up import Cli, result

from genbench import exports, images, report
from genbench.commands import exporting
from genbench.errors import GenbenchError, InputRejected, MissingAsset, UsageError
from genbench.exports.summary import Summary, keyed, of_path
from genbench.records import Ref, Result, RunSpec, Score

ODD = "my.module:load(path='../a b/é|<b>@*')"
SPEC = RunSpec(
    model=Ref("ddim", {"steps": 4, "eta": 0.0, "spacing": "uniform"}, frozenset({"eta"})),
    dataset=Ref("shapes", {"size": 32}),
    num_samples=100,
    seed=3,
)
FLOOR = Score(value=1.5, stderr=0.25)


def of_run(*results: Result) -> list[Result]:
    made_with = {"genbench": "0.1.0", "torch": "2.10", "model_key": "k1", "commit": None}
    return [replace(one, spec=SPEC, environment=made_with) for one in results]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder of a run with numbers under names that tools choke on."""
    folder = tmp_path / "runs" / "0123456789ab"
    folder.mkdir(parents=True)
    made = of_run(
        result("fid", 2.5, 0.25, ci95=(2.0, 3.0), floor=FLOOR),
        result("precision(k=5)", 0.75, None, ci95=(0.5, 0.875)),
        result("precision(k=3)", 0.5, 0.125),
        result("fid", 7.25, 0.5, extractor=ODD),
        result("recall", math.nan, None),
    )
    report.write_results(folder, {str(i): one for i, one in enumerate(made)})
    images.write_grid(np.arange(4 * 3 * 8 * 8, dtype=np.uint8).reshape(4, 3, 8, 8), folder / "grid.png")
    return folder


NUMBERS = {
    "fid.compact/value": 2.5,
    "fid.compact/stderr": 0.25,
    "fid.compact/ci95_low": 2.0,
    "fid.compact/ci95_high": 3.0,
    "fid.compact/floor": 1.5,
    "fid.compact/floor_stderr": 0.25,
    "precision_k_5.compact/value": 0.75,
    "precision_k_5.compact/ci95_low": 0.5,
    "precision_k_5.compact/ci95_high": 0.875,
    "precision_k_3.compact/value": 0.5,
    "precision_k_3.compact/stderr": 0.125,
    "fid.my.module_load/value": 7.25,
    "fid.my.module_load/stderr": 0.5,
}


def test_every_finite_number_has_a_key_and_every_key_is_one_of_its_own(run: Path) -> None:
    told = of_path(run)
    assert told.numbers() == NUMBERS
    assert told.name == "ddim(spacing='uniform', steps=4)"
    assert told.settings()["model.steps"] == 4 and told.settings()["seed"] == 3
    assert told.facts()["fid.my.module_load/measurement"] == f"fid@{ODD}"
    twice = Summary(results=(result("a(k='x y')"), result("a(k='x-*y')"), result("a(k='x_y')")))
    assert len(set(twice.keys)) == 3
    assert len(set(Summary(results=(result("fid"),) * 4).keys)) == 4
    assert keyed("../../@*") == "metric" and keyed("a@b..c") == "a.b.c"
    long = [keyed(f"fid@folder(path='{'x' * 400}{end}')") for end in "ab"]
    assert long[0] != long[1] and all(len(key) <= 200 for key in long)
    other = replace(told.results[0], environment={"model_key": "k2"})
    assert Summary(results=(other,)).id != told.id == Summary(results=told.results[:1]).id
    assert "'fid@compact'" not in told.command() and "--metric fid@compact" in told.command()


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tools neither ask nor call home, and write below the folder of the test."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
        "WANDB_CONFIG_DIR": str(tmp_path / "config"),
        "WANDB_DATA_DIR": str(tmp_path / "data"),
    }.items():
        monkeypatch.setenv(name, value)


def assert_in_mlflow(uri: str) -> str:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    (experiment,) = [one for one in client.search_experiments() if one.name == "genbench"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.metrics == NUMBERS
    assert found.info.status == "FINISHED" and found.info.run_name == "ddim(spacing='uniform', steps=4)"
    assert {"model": "ddim", "model.steps": "4", "seed": "3", "num_samples": "100"}.items() <= found.data.params.items()
    assert found.data.tags["fid.compact/protocol_hash"] == "h"
    assert found.data.tags["fid.my.module_load/measurement"] == f"fid@{ODD}"
    assert {one.path for one in client.list_artifacts(found.info.run_id)} == {"grid.png", "result.json", "row.csv"}
    return found.info.run_id


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("quiet")
def test_mlflow_takes_a_run_once_into_its_database_or_by_its_server(
    run: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("flask", reason="the whole of mlflow has a server")
    from werkzeug.serving import make_server

    store = f"sqlite:///{tmp_path}/mlflow.db"
    code, out, err = cli("export", run, "--to", "mlflow", "--output", store)
    assert code == 0, err
    first = assert_in_mlflow(store)
    assert first in out

    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", store)  # as `mlflow server` tells its workers
    monkeypatch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "true")
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(tmp_path / "artifacts"))
    from mlflow.server import app

    server = make_server("127.0.0.1", 0, app, threaded=True)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        uri = f"http://127.0.0.1:{server.port}"
        exports.write("mlflow", of_path(run), place=uri)
        assert assert_in_mlflow(uri) == first, "the same results are the same run"
    finally:
        server.shutdown()
        serving.join(10)
        server.server_close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_the_scalars_the_picture_and_the_text(run: Path, cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for value in (2.5, 2.5):  # the second time replaces the first
        assert value and cli("export", run, "--to", "tensorboard", "-o", "tb", "--step", "500")[0] == 0
    (folder,) = (tmp_path / "tb").iterdir()
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    read.Reload()
    told = {name: read.Scalars(name) for name in read.Tags()["scalars"]}
    assert {name: [(event.step, event.value) for event in events] for name, events in told.items()} == {
        name: [(500, value)] for name, value in NUMBERS.items()
    }
    (picture,) = read.Images("grid")
    assert (picture.width, picture.height) == (42, 12)
    texts = {name: read.Tensors(name)[0].tensor_proto.string_val[0].decode() for name in read.Tags()["tensors"]}
    assert texts["fid.my.module_load/measurement/text_summary"].strip() == f"fid@{ODD}"
    assert texts["fid.compact/protocol_hash/text_summary"].strip() == "h"
    assert '"genbench.run/2"' in texts["result.json/text_summary"]
    settings = read.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"model.steps" in settings and b"uniform" in settings


def records_of_wandb(path: Path) -> list[bytes]:
    """The records of an offline run: a log of LevelDB, in blocks of 32 KiB, behind a header of 7 bytes."""
    data, place, found, parts = path.read_bytes(), 7, [], b""
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(parts)
            parts = b""
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("quiet")
def test_weights_and_biases_keeps_a_run_offline(run: Path, tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    told = of_path(run)
    where = exports.write("wandb", told, place=str(tmp_path / "wb"))
    assert told.id in where and "offline" in where
    wandb.teardown()  # its service writes the last records when it ends
    (file,) = (tmp_path / "wb" / "wandb").glob("offline-run-*/*.wandb")
    history, summary, settings, logged = {}, {}, {}, set()
    for data in records_of_wandb(file):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        history |= {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        summary |= {"/".join([item.key, *item.nested_key]): item.value_json for item in record.summary.update}
        settings |= {item.key or ".".join(item.nested_key): item.value_json for item in record.run.config.update}
        logged |= {entry.path for entry in record.artifact.manifest.contents}
        logged |= {entry.path for entry in record.request.log_artifact.artifact.manifest.contents}
    assert {name: json.loads(history[name]) for name in NUMBERS} == NUMBERS
    assert settings["model.steps"] == "4" and settings["seed"] == "3"
    assert json.loads(history["grid/_type"]) == "image-file"
    facts = summary.get("facts") or json.dumps({k.removeprefix("facts/"): json.loads(v) for k, v in summary.items()})
    assert json.loads(facts)["fid.my.module_load/measurement"] == f"fid@{ODD}"
    assert json.loads(facts)["fid.compact/protocol_hash"] == "h"
    assert {"grid.png", "result.json", "row.csv"} <= logged


def test_a_model_card_is_read_by_the_hubs_own_parser_and_keeps_what_it_had(run: Path, tmp_path: Path, cli: Cli) -> None:
    from huggingface_hub import ModelCard

    card = tmp_path / "README.md"
    code, _, err = cli("export", run, "--to", "model-card", "-o", card, "--name", "org/my model")
    assert code == 0 and "recall" in err and "no finite value" in err
    found = ModelCard.load(card)
    assert found.data.model_name == "org/my model"
    read = {one.metric_name: one for one in found.data.eval_results}
    assert {name: one.metric_value for name, one in read.items()} == {
        "fid@compact": 2.5,
        "precision(k=5)@compact": 0.75,
        "precision(k=3)@compact": 0.5,
        f"fid@{ODD}".split("(")[0]: 7.25,
    }
    fid = read["fid@compact"]
    assert (fid.metric_type, fid.dataset_type, fid.task_type) == ("fid", "shapes", "unconditional-image-generation")
    wanted = {"stderr": 0.25, "ci95": [2.0, 3.0], "floor": 1.5, "protocol_hash": "h", "sampled_seed": 3}
    assert wanted.items() <= fid.metric_args.items()
    assert "| fid@compact | 2.50 | 0.25 |" in found.text

    # A card with words and results of its own keeps them; the same results are there once.
    lines = (
        card.read_text()
        .replace("model-index:", "license: mit\nmodel-index:")
        .replace("<!-- genbench -->", "Mine.\n\n<!-- genbench -->")
    )
    card.write_text(lines + "\nAnd mine.\n")
    assert cli("export", run, "--to", "model-card", "-o", card)[0] == 0
    again = ModelCard.load(card)
    assert len(again.data.eval_results) == 4 and again.data.license == "mit" and again.data.model_name == "org/my model"
    assert (
        again.text.count("## Evaluation") == 1 and "Mine." in again.text and again.text.rstrip().endswith("And mine.")
    )
    plain = tmp_path / "plain.md"
    plain.write_text("# A model\n\nWords.\n")
    assert cli("export", run, "--to", "model-card", "-o", plain)[0] == 0
    assert "Words." in ModelCard.load(plain).text and len(ModelCard.load(plain).data.eval_results) == 4
    (tmp_path / "broken.md").write_text("---\n: [\n---\nwords\n")
    assert cli("export", run, "--to", "model-card", "-o", tmp_path / "broken.md")[0] == 5
    assert (tmp_path / "broken.md").read_text() == "---\n: [\n---\nwords\n"


TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
NUMBER_OR_END = {"oneOf": [{"type": "number"}, {"enum": ["Infinity", "-Infinity"]}, {"type": "null"}]}
EVERY_EVAL_EVER = {
    "type": "object",
    "additionalProperties": False,
    "required": [
        *("schema_version", "evaluation_id", "retrieved_timestamp", "source_metadata"),
        *("model_info", "eval_library", "evaluation_results"),
    ],
    "properties": {
        **{name: {"type": "string"} for name in ("evaluation_id", "evaluation_timestamp", "retrieved_timestamp")},
        "schema_version": {"const": "0.3.0"},
        "source_metadata": {
            "required": ["source_type", "source_organization_name", "evaluator_relationship"],
            "properties": {
                "source_type": {"enum": ["documentation", "evaluation_run"]},
                "evaluator_relationship": {"enum": ["first_party", "third_party", "collaborative", "other"]},
            },
        },
        "eval_library": {"required": ["name", "version"], "additionalProperties": {"type": "string"}},
        "model_info": {
            "required": ["name", "id", "additional_details"],
            "properties": {
                "inference_engine": TEXTS,
                "additional_details": {
                    **TEXTS,
                    "required": ["deployment_type", "model_availability"],
                    "properties": {
                        "deployment_type": {"enum": ["self_deployed", "externally_managed", "unknown"]},
                        "model_availability": {"enum": ["open_weights", "closed_weights", "unknown"]},
                    },
                },
            },
        },
        "evaluation_results": {
            "type": "array",
            "items": {
                "required": ["evaluation_name", "source_data", "metric_config", "score_details"],
                "properties": {
                    "evaluation_result_id": {"type": "string"},
                    "evaluation_timestamp": {"type": "string"},
                    "source_data": {
                        "required": ["dataset_name", "source_type"],
                        "properties": {"source_type": {"const": "other"}, "additional_details": TEXTS},
                    },
                    "metric_config": {
                        "required": ["lower_is_better", "min_score", "max_score"],  # these of a continuous one
                        "properties": {
                            **{name: {"type": "string"} for name in ("metric_id", "metric_name", "metric_kind")},
                            "metric_parameters": {
                                "additionalProperties": {"type": ["string", "number", "boolean", "null"]}
                            },
                            "lower_is_better": {"type": "boolean"},
                            "score_type": {"const": "continuous"},
                            "min_score": NUMBER_OR_END,
                            "max_score": NUMBER_OR_END,
                            "additional_details": TEXTS,
                        },
                    },
                    "score_details": {
                        "required": ["score"],
                        "properties": {
                            "score": {"type": "number"},
                            "details": TEXTS,
                            "uncertainty": {
                                "properties": {
                                    "standard_error": {
                                        "required": ["value"],
                                        "properties": {"value": {"type": "number"}, "method": {"type": "string"}},
                                    },
                                    "confidence_interval": {
                                        "required": ["lower", "upper"],
                                        "properties": {"lower": {"type": "number"}, "upper": {"type": "number"}},
                                    },
                                    "num_samples": {"type": "integer"},
                                }
                            },
                        },
                    },
                    "generation_config": {
                        "properties": {
                            "generation_args": {
                                "properties": {"execution_command": {"type": "string"}},
                                "additionalProperties": False,
                            },
                            "additional_details": TEXTS,
                        }
                    },
                },
            },
        },
    },
}
"""What `eval.schema.json` 0.3.0 of evaleval/every_eval_ever asks of the fields that are written, in our words."""


def test_every_eval_ever_gets_a_file_of_its_schema(run: Path, tmp_path: Path, cli: Cli) -> None:
    for _ in range(2):
        code, _, err = cli("export", run, "--to", "every-eval-ever", "--name", "org/ddim", "--project", "my shapes")
        assert code == 0 and "no finite value" in err
    (file,) = (tmp_path / "data").rglob("*.json")
    assert file.parent == tmp_path / "data" / "my_shapes" / "org" / "ddim" and UUID(file.stem).version == 4
    told = json.loads(file.read_text())
    jsonschema.validate(told, EVERY_EVAL_EVER)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**told, "more": 1}, EVERY_EVAL_EVER)
    assert told["model_info"]["id"] == "org/ddim" and told["eval_library"] == {"name": "genbench", "version": "0.1.0"}
    fid = told["evaluation_results"][0]
    assert fid["score_details"] == {
        "score": 2.5,
        "details": {"floor": "1.5", "floor_stderr": "0.25"},
        "uncertainty": {
            "standard_error": {"value": 0.25, "method": "jackknife-20"},
            "confidence_interval": {"lower": 2.0, "upper": 3.0, "confidence_level": 0.95, "method": "jackknife-20"},
            "num_samples": 100,
        },
    }
    config = fid["metric_config"]
    assert config["lower_is_better"] is True and (config["min_score"], config["max_score"]) == (0.0, "Infinity")
    assert config["additional_details"]["protocol_hash"] == "h"
    assert told["evaluation_results"][3]["metric_config"]["additional_details"]["measurement"] == f"fid@{ODD}"
    assert len({one["metric_config"]["metric_id"] for one in told["evaluation_results"]}) == 4
    assert cli("export", run, "--to", "every-eval-ever", "--name", "../../x/..", "-o", "out")[0] == 0
    assert all(path.is_relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.json"))
    assert not list(tmp_path.parent.glob("x"))


def test_a_missing_package_is_named_with_its_extra_before_any_work(
    run: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(exports, "find_spec", lambda name: None)
    words = (
        ("export", run, "--to", "mlflow"),
        ("run", "--model", "ddim(steps=2)", "-n", "4", "--track", "wandb", "-o", "new"),
    )
    for call, extra in zip(words, ("mlflow", "wandb"), strict=True):
        code, _, err = cli(*call)
        assert code == 6 and f"pip install 'genbench[{extra}]'" in err
    assert not (tmp_path / "new").exists()
    with pytest.raises(MissingAsset, match="tensorboard"):
        exports.write("tensorboard", of_path(run))
    with pytest.raises(UsageError, match="tensorboard"):
        exports.write("tensorbord", of_path(run))


def test_what_cannot_be_exported_is_refused(run: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli("export", run)[0] == 2
    assert cli("export", run, "--png", "p", "-o", "x")[0] == 2
    assert cli("export", run, "--to", "mlflw")[0] == 2
    assert cli("export", tmp_path, "--to", "every-eval-ever")[0] == 5
    (tmp_path / "bad.json").write_text("{}")
    assert cli("export", tmp_path / "bad.json", "--to", "every-eval-ever")[0] == 5
    with pytest.raises(InputRejected):
        of_path(tmp_path / "nothing")
    (tmp_path / "result.json").write_bytes((run / "result.json").read_bytes())
    (tmp_path / "grid.png").write_bytes(b"of something else")
    assert of_path(tmp_path / "result.json").files() == [] and of_path(run).files()
    assert cli("export", run, "--to", "every-eval-ever", "-o", tmp_path / "bad.json")[0] != 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_runs_and_benchmarks_are_tracked_as_they_end(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    code, _, err = cli("run", "--model", "ddim(steps=2)", "-n", "20", "--metric", "is", "--track", "tensorboard")
    assert code == 0, err
    (tmp_path / "b.toml").write_text(
        'datasets = ["shapes"]\nmodels = ["ddim(steps=2)", "ddim(steps=1)"]\nmetrics = ["is"]\nnum_samples = 20\n'
    )
    code, _, err = cli("bench", "b.toml", "--track", "tensorboard")
    assert code == 0, err
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2, "the run of the benchmark that was there is the same"

    def refuse(*args: object, **more: object) -> str:
        raise ConnectionError("no server")

    from genbench.exports import tensorboard

    monkeypatch.setattr(tensorboard, "write", refuse)
    code, out, err = cli("run", "--model", "ddim(steps=2)", "-n", "20", "--metric", "is", "--track", "tensorboard")
    assert code == 0 and "is@compact" in out
    assert "no server" in err and "genbench export runs/" in err
    with pytest.raises(GenbenchError, match="ConnectionError: no server"):
        exports.write("tensorboard", Summary(results=(result(),)))


def test_the_documented_lines_name_options_and_every_tool(root: Path) -> None:
    text = (root / "docs" / "export.md").read_text(encoding="utf-8")
    lines = [shlex.split(line) for line in text.split("```sh\n")[1].split("```")[0].splitlines()]
    given = [exporting.export.make_context("export", line[2:]).params for line in lines]
    assert all(line[:2] == ["genbench", "export"] for line in lines)
    assert [params["to"] for params in given] == list(exports.TARGETS)


def test_images_without_a_run_are_told_by_what_they_are() -> None:
    told = Summary(results=(result("fid", name="out/"),))
    assert told.name == "out/" and told.settings() == {"images": "out/", "num_samples": 100}
    assert told.command() == "" and told.files() == []
