from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from genbench import registry
from genbench.cli import main
from genbench.contracts import Dataset, Metric
from genbench.errors import ComponentError, UsageError
from genbench.records import Ref

ALL = [(kind, name) for kind in registry.KINDS for name in registry.BUILTIN[kind]]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_name_leads_to_a_component_that_says_what_it_is(kind: str, name: str) -> None:
    component = registry.get(kind, name)
    if kind in ("metric", "dataset"):
        assert isinstance(component, Metric if kind == "metric" else Dataset)
        assert component.name == name and component.summary and component.source and component.version >= 1
    else:
        assert (inspect.getdoc(component) or "").strip()
    for parameter in inspect.signature(
        component.compute if kind == "metric" else component.load if kind == "dataset" else component
    ).parameters.values():
        given_by_position = kind == "dataset" and parameter.name == "split"
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY or given_by_position, parameter


@pytest.mark.parametrize("name", sorted(registry.BUILTIN["metric"]))
def test_metrics_declare_a_contract_that_holds_together(name: str) -> None:
    metric = registry.get("metric", name)
    low, high = metric.bounds
    assert low < high and metric.minimum >= 1
    assert metric.invariances <= {"order", "translation", "rotation", "scale"}
    read = "bits" if metric.likelihood else "generated"
    assert read in inspect.signature(metric.compute).parameters
    assert bool(metric.taps or metric.images) != bool(metric.likelihood), "a metric reads features, pixels or a model"


def test_defaults_are_written_out_and_integers_become_floats() -> None:
    _, ref = registry.bind("model", Ref("ddim", {"eta": 1}))
    assert ref.args == {"steps": 50, "eta": 1.0, "spacing": "uniform", "clip": True}
    assert isinstance(ref.args["eta"], float)


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        (Ref("ddimm"), "No model named 'ddimm'. Did you mean 'ddim'?"),
        (Ref("ddim", {"step": 5}), "no argument 'step'. Did you mean 'steps'?"),
        (Ref("ddim", {"steps": "5"}), "takes steps as int"),
        (Ref("ddim", {"steps": True}), "takes steps as int"),
        (Ref("ddim", {"clip": 1}), "takes clip as bool"),
        (Ref("no_such_module:load"), "cannot be imported"),
        (Ref("genbench.errors:nothing"), "cannot be imported"),
    ],
)
def test_wrong_names_and_arguments_are_told_before_any_work(ref: Ref, says: str) -> None:
    with pytest.raises(UsageError) as error:
        registry.bind("model", ref)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("model", "os:system", "is no function that loads one: it does not take dataset, device, precision"),
        ("model", "builtins:dict", "is no function that loads one"),
        ("model", "math:pi", "is no function that loads one"),
        ("model", "subprocess:getoutput", "does not take dataset, device, precision"),
        ("extractor", "builtins:len", "does not take device, precision, weights"),
        ("metric", "os:getcwd", "and not a Metric"),
        ("metric", "math:pi", "is of float and not a Metric"),
        ("metric", "genbench.metrics.frechet:frechet", "cannot be imported"),
        ("dataset", "os:system", "and not a Dataset"),
        ("dataset", "genbench.metrics.frechet:FID", "is of Metric and not a Dataset"),
        ("model", ":load", "module:attribute"),
        ("model", "os:", "module:attribute"),
        ("model", "os:system:x", "module:attribute"),
        ("model", "\x1b[31m:x", "module:attribute"),
    ],
)
def test_what_is_no_component_is_told_before_it_is_called(kind: str, name: str, says: str) -> None:
    for ask in (registry.get, lambda kind, name: registry.bind(kind, Ref(name, {"command": "x"}))):
        with pytest.raises(UsageError) as error:
            ask(kind, name)
        assert says in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize("kind", ["model", "extractor"])
def test_every_loader_takes_what_it_is_called_with(kind: str) -> None:
    for name in registry.BUILTIN[kind]:
        assert registry.get(kind, name)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs a package of the given code and entry points for this test."""

    def install(entries: str | bytes, code: str = "", name: str = "strange_plugin") -> None:
        told = tmp_path / f"{name}-1.0.dist-info"
        told.mkdir()
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nSummary: Strange things.\n")
        (told / "entry_points.txt").write_bytes(entries if isinstance(entries, bytes) else entries.encode())
        (tmp_path / f"{name}.py").write_text(code)
        registry.table.cache_clear()

    monkeypatch.syspath_prepend(str(tmp_path))
    yield install
    registry.table.cache_clear()
    sys.modules.pop("strange_plugin", None)


def test_a_built_in_wins_over_a_plug_in_of_its_name(
    package: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    package("[genbench.metrics]\nfid = strange_plugin:FID\nother = genbench.metrics.frechet:FD\n")
    assert registry.get("metric", "fid").name == "fid" and registry.get("metric", "other").name == "fd"
    assert "plug-in strange_plugin 1.0 was passed over: it names a metric 'fid'" in caplog.text
    assert registry.table("metric")["other"][1] == "Strange things (plug-in strange_plugin 1.0)"


def test_a_second_plug_in_of_a_name_is_passed_over(
    package: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    package("[genbench.metrics]\nmine = genbench.metrics.frechet:FD\n", name="a_plugin")
    package("[genbench.metrics]\nmine = genbench.metrics.frechet:FID\n", name="b_plugin")
    assert registry.get("metric", "mine").name in ("fd", "fid") and caplog.text.count("was passed over") == 1


@pytest.mark.parametrize(
    "entries",
    [b"[genbench.metrics]\nno equals sign\n", b"\xff\xfe\x00binary", b"\0" * 50],
    ids=["malformed", "binary", "zeros"],
)
def test_entry_points_that_cannot_be_read_break_nothing(package: Callable[..., None], entries: bytes) -> None:
    package("[genbench.models]\ngood = baselines.systems.ddim:load\n", name="good_plugin")
    package(entries)
    for kind in registry.KINDS:
        assert registry.table(kind).keys() >= registry.BUILTIN[kind].keys()
    assert registry.get("metric", "kid").name == "kid" and "good" in registry.table("model")


@pytest.mark.parametrize("entry", ["a:b = strange_plugin:X", "x = strange_plugin", "\x1b[31mx = strange_plugin:X"])
def test_entries_that_are_no_components_are_passed_over(
    package: Callable[..., None], entry: str, caplog: pytest.LogCaptureFixture
) -> None:
    package(f"[genbench.models]\n{entry}\n")
    assert registry.table("model").keys() == registry.BUILTIN["model"].keys()
    assert "was passed over" in caplog.text and caplog.records[0].getMessage().isprintable()


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        ("import not_there", UsageError, "cannot be imported: No module named 'not_there'"),
        ("raise RuntimeError('boom\\x1b')", ComponentError, r"raised RuntimeError: boom\x1b"),
        ("import sys; sys.exit(0)", ComponentError, "ended the program"),
        ("def load(", ComponentError, "SyntaxError"),
        ("load = 3", UsageError, "is no function that loads one"),
        ("", UsageError, "cannot be imported"),
    ],
)
def test_a_plug_in_that_does_not_import_is_named_and_harms_itself_alone(
    package: Callable[..., None], code: str, error: type[Exception], says: str
) -> None:
    package("[genbench.models]\nbroken = strange_plugin:load\n", code)
    assert "broken" in registry.table("model") and registry.get("model", "ddim")
    with pytest.raises(error) as caught:
        registry.get("model", "broken")
    assert says in str(caught.value) and "plug-in strange_plugin 1.0" in str(caught.value)
    assert str(caught.value).isprintable()


def test_lists_go_on_behind_a_plug_in_that_does_not_import(
    package: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    package("[genbench.models]\nbroken = strange_plugin:load\n", "raise RuntimeError('boom')")
    assert main(["list", "models"]) == 0
    out = capsys.readouterr().out
    assert "broken" in out and "ldm" in out and "weights" in out


@pytest.mark.parametrize(
    ("kind", "code", "words", "says"),
    [
        ("metrics", "def f(*, generated): return 3", ["--metric", "x"], "The metric x gave int and no"),
        ("metrics", "def f(*, generated): raise KeyError('z')", ["--metric", "x"], "The metric x raised KeyError: 'z'"),
        ("extractors", "def x(*, device, precision, weights): return 3", ["--metric", "fid@x"], "gave int and no"),
        ("extractors", "def x(*, device, precision, weights): 1 / 0", ["--metric", "fid@x"], "x raised ZeroDivision"),
        ("datasets", "def f(split): return 3", ["--reference", "x"], "The data set x gave int"),
        ("datasets", "def f(split): return {}[3]", ["--reference", "x"], "The data set x raised KeyError: 3"),
    ],
)
def test_what_a_plug_in_does_wrong_is_told_with_its_name(
    package: Callable[..., None],
    kind: str,
    code: str,
    words: list[str],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    makes = {
        "metrics": "from genbench.contracts import Metric\n"
        "x = Metric(name='x', summary='', source='', compute=f, taps=())",
        "datasets": "from genbench.contracts import Dataset\n"
        "x = Dataset(name='x', summary='', source='', load=f, splits={'reference': 'all'})",
        "extractors": "",
    }
    package(f"[genbench.{kind}]\nx = strange_plugin:x\n", f"{code}\n{makes[kind]}")
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8))
    reference = [] if "--reference" in words else ["--reference", str(tmp_path / "a.npy")]
    assert main(["score", str(tmp_path / "a.npy"), *reference, *words]) != 0
    assert says in capsys.readouterr().err


def test_arguments_without_a_default_have_the_type_of_their_annotation() -> None:
    with pytest.raises(UsageError, match=r"takes path as str; got 5"):
        registry.bind("dataset", Ref("folder", {"path": 5}))
    with pytest.raises(UsageError, match=r"takes weights as str; got 5"):
        registry.bind("model", Ref("ddim", {"weights": 5}))
    assert registry.bind("model", Ref("ddim", {"weights": None}))


def test_an_argument_without_default_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"folder\(path=\.\.\.\)"):
        registry.bind("dataset", Ref("folder"))


def test_bound_references_know_which_arguments_have_their_defaults() -> None:
    _, ref = registry.bind("model", Ref("ddim", {"steps": 20}))
    assert "steps" not in ref.defaults and ref.defaults == ref.args.keys() - {"steps"}
    _, typed = registry.bind("metric", Ref("precision", {"k": 3}))
    assert str(typed.brief()) == "precision", "a default that was typed is a default"


def test_a_default_that_no_text_can_say_stays_with_the_component(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*, dataset, device, precision, e=(1, 2), inf=float("inf"), nan=float("nan"), c=[1], d=object()):  # noqa: B006, B008
        raise NotImplementedError

    monkeypatch.setattr(registry, "get", lambda kind, name: load)
    _, ref = registry.bind("model", Ref("x:load"))
    assert str(ref) == "x:load(e=(1, 2), inf=inf, nan=nan)" and str(ref.brief()) == "x:load"
    assert str(Ref.parse(str(ref))) == str(ref)
