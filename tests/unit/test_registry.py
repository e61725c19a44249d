from __future__ import annotations

import inspect

import pytest

from genbench import registry
from genbench.contracts import Dataset, Metric
from genbench.errors import UsageError
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
    assert "generated" in inspect.signature(metric.compute).parameters
    assert metric.taps or metric.images, "a metric reads features or pixels"


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
