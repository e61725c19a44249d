from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genbench.errors import UsageError
from genbench.records import Measurement, Ref, RunSpec, canonical, digest, finite

names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


@given(name=st.from_regex(r"[a-z][a-z0-9\-]{0,8}", fullmatch=True), args=st.dictionaries(names, scalars, max_size=4))
def test_a_reference_prints_back(name: str, args: dict[str, object]) -> None:
    try:
        compile(", ".join(f"{k}=1" for k in args).join(("f(", ")")), "", "eval")
    except SyntaxError:
        return  # a Python keyword is no argument name
    ref = Ref(name, args)
    assert Ref.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text", ["", "ddim(", "ddim(5)", "ddim(steps=x)", "ddim(**{})", "a b", "ddim(steps=[1])", "__import__('os')()"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="Cannot read"):
        Ref.parse(text)


def test_a_measurement_names_metric_and_extractor() -> None:
    m = Measurement.parse("precision(k=5)@clip(architecture='ViT-B-32')")
    assert (m.metric, m.extractor) == (Ref("precision", {"k": 5}), Ref("clip", {"architecture": "ViT-B-32"}))
    assert str(m) == "precision(k=5)@clip(architecture='ViT-B-32')"
    assert Measurement.parse("fid").extractor is None


def test_users_may_name_their_own_code() -> None:
    assert Ref.parse("my_package.module:load(steps=3)") == Ref("my_package.module:load", {"steps": 3})


SPEC = RunSpec(model=Ref("ddim", {"steps": 5}), dataset=Ref("shapes"), num_samples=10)


def test_the_identity_of_a_run_is_its_canonical_text() -> None:
    assert json.loads(canonical(SPEC)) == {
        "model": "ddim(steps=5)", "dataset": "shapes", "num_samples": 10, "seed": 0, "precision": "float32",
        "exact": False, "quantise": "round",
    }  # fmt: skip
    assert SPEC.id == digest(SPEC, 12) and len(SPEC.id) == 12


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"num_samples": 11}, {"exact": True}, {"precision": "bfloat16"}, {"quantise": "truncate"},
     {"model": Ref("ddim", {"steps": 6})}, {"dataset": Ref("digits")}],
)  # fmt: skip
def test_whatever_may_change_an_image_changes_the_identity(change: dict[str, object]) -> None:
    from dataclasses import replace

    assert replace(SPEC, **change).id != SPEC.id


def test_json_never_holds_what_json_cannot() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical({"value": math.nan})
    assert finite(math.inf) is None and finite(None) is None and finite(1.5) == 1.5


def test_an_infinite_argument_is_written_and_read() -> None:
    ref = Ref.parse("vendi(q=inf)")
    assert ref.args == {"q": float("inf")} and Ref.parse(str(ref)) == ref
    for text in ("vendi(q=infinity)", "vendi(q=None or inf)"):
        with pytest.raises(UsageError):
            Ref.parse(text)


@pytest.mark.parametrize(
    "args", [{"e": (1, 2)}, {"e": ()}, {"e": (1, ("a", None))}, {"e": math.inf}, {"e": -math.inf}, {"e": (math.inf, 2)}]
)
def test_tuples_and_infinities_print_back(args: dict[str, object]) -> None:
    assert Ref.parse(str(Ref("load", args))) == Ref("load", args)


def test_what_is_not_a_number_prints_back() -> None:
    text = str(Ref("load", {"e": math.nan}))
    assert text == "load(e=nan)" and math.isnan(Ref.parse(text).args["e"])


@pytest.mark.parametrize("text", ["f(e=infinity)", "f(e=(1, x))", "f(e=[1])", "f(e={1: 2})", "f(e=b'1')"])
def test_other_values_are_no_literals(text: str) -> None:
    with pytest.raises(UsageError, match="Cannot read"):
        Ref.parse(text)


def test_arguments_that_have_their_defaults_are_in_the_text_and_in_no_identity() -> None:
    full = Ref("ddim", {"steps": 5, "eta": 0.0}, frozenset({"eta"}))
    assert str(full) == "ddim(steps=5, eta=0.0)" and str(full.brief()) == "ddim(steps=5)"
    assert replace(SPEC, model=full).id == SPEC.id
    assert str(Ref("fid", {"error": "none", "k": 3}).brief(("error",))) == "fid(k=3)"
    assert str(Ref("f", {"b": 1, "a": 2}).brief()) == "f(a=2, b=1)", "the order of a signature is no identity"
