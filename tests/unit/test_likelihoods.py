"""Metrics of a model: the likelihood that it gives to real images, from the contract of a model to a result."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from genbench import likelihoods, pipeline, planning, report
from genbench.arrays import Samples
from genbench.comparison import difference_of
from genbench.errors import InputRejected, UsageError
from genbench.housekeeping import runs
from genbench.measuring import Execution
from genbench.metrics.likelihood import NLL, nll
from genbench.papers import comparable, kind_of_likelihood, lookup, reported
from genbench.protocols import protocol
from genbench.records import Measurement, Ref, RunSpec

CALLS: list[tuple[int, dict[str, Any]]] = []
BROKEN: list[int] = []


class Uniform:
    """A model that gives every image 8 bits a value, less a hundredth of its label, plus what the seed adds."""

    shape, key, takes, classes, evaluations = (3, 32, 32), "uniform 1", frozenset({"labels"}), 10, 1.0

    def __init__(self, kinds: str, more: float = 0.0) -> None:
        self.likelihoods, self.more = frozenset(filter(None, kinds.split(","))), more

    def sample(self, seeds: NDArray[np.uint64], *, watch: Any = None, labels: NDArray[np.int64]) -> Tensor:
        raise AssertionError("nothing is to be sampled")

    def nll(self, images: Tensor, seeds: NDArray[np.uint64], *, kind: str, labels: Any, **given: Any) -> Tensor:
        assert images.dtype == torch.uint8 and len(images) == len(seeds) == len(labels)
        CALLS.append((len(images), {"kind": kind, **given}))
        if BROKEN and len(CALLS) > BROKEN[0]:
            raise KeyboardInterrupt
        drawn = torch.from_numpy((seeds % np.uint64(1000)).astype(np.float64)) / 1e6
        return 8.0 - torch.as_tensor(labels) / 100 * (1 + self.more) + drawn


def load(*, dataset: str, device: str, precision: str, kinds: str = "exact,bound", more: float = 0.0) -> Uniform:
    return Uniform(kinds, more)


def spec(**changes: Any) -> RunSpec:
    count = changes.pop("num_samples", 40)
    return RunSpec(model=Ref(f"{__name__}:load", changes), dataset=Ref("shapes"), num_samples=count)


def run(output: Path, *texts: str, of: RunSpec | None = None) -> Any:
    how = Execution(device="cpu", workers=0)
    wanted = [Measurement.parse(text) for text in texts]
    return pipeline.run(of or spec(), wanted, protocol=protocol("embedded"), output=output, execution=how)


@pytest.fixture(autouse=True)
def fresh() -> None:
    CALLS.clear()
    BROKEN.clear()


def test_the_value_is_the_mean_over_test_images_and_nothing_is_sampled(tmp_path: Path) -> None:
    outcome = run(tmp_path, "nll", "nll-bound")
    exact, bound = outcome.results
    assert exact.score.value == pytest.approx(8 - 0.045, abs=0.01)
    assert exact.score.stderr == pytest.approx(exact.score.detail["std"] / math.sqrt(40), rel=1e-6)
    assert (exact.generated.count, exact.reference, exact.floor) == (40, None, None)
    assert "shapes test" in exact.generated.name
    assert exact.protocol_hash != bound.protocol_hash
    assert not (outcome.directory / "samples").exists() and not (outcome.directory / "grid.png").exists()
    assert [call["kind"] for _, call in CALLS] == ["exact"] * 3 + ["bound"] * 3
    assert all(("tolerance" in call) == (call["kind"] == "exact") for _, call in CALLS)
    assert any("given their labels" in note for note in exact.environment["notes"])
    (found,) = runs(tmp_path)
    assert found.state == "finished" and found.spec is not None
    again = run(tmp_path, "nll", "nll-bound")
    assert again.cached and len(CALLS) == 6
    assert report.row(exact)["num_samples"] == "40"


def test_an_interrupted_likelihood_goes_on_where_it_was(tmp_path: Path) -> None:
    BROKEN.append(2)
    with pytest.raises(BaseException):  # noqa: B017 - how an interrupt is passed on is no matter of this test
        run(tmp_path, "nll")
    BROKEN.clear()
    value = run(tmp_path, "nll").results[0].score.value
    assert sum(count for count, _ in CALLS) == 40 + 16 - 8  # the third call, of 8, was not finished; 2 x 16 were kept
    assert value == run(tmp_path / "other", "nll").results[0].score.value


def test_repeats_have_other_noise_and_only_those_that_are_new_are_computed(tmp_path: Path) -> None:
    one = run(tmp_path, "nll").results[0]
    CALLS.clear()
    two = run(tmp_path, "nll(repeats=2)").results[0]
    assert sum(count for count, _ in CALLS) == 40
    assert two.score.value != one.score.value
    assert two.score.detail["std_of_repeats"] > 0
    assert two.protocol_hash != one.protocol_hash


def test_two_models_are_compared_in_pairs_of_images(tmp_path: Path) -> None:
    """Both saw the same images, which are no reason to take their numbers for the same."""
    first, second = (run(tmp_path, "nll", of=spec(more=more)).results[0] for more in (0.0, 0.5))
    assert first.protocol_hash == second.protocol_hash
    found = difference_of(first, second, in_pairs=True)
    assert found.value == pytest.approx(second.score.value - first.score.value) and found.value < -0.01
    assert found.stderr is not None and 0 < found.stderr < first.score.stderr  # type: ignore[operator]


@pytest.mark.parametrize(
    ("of", "text", "error", "says"),
    [
        (spec(kinds="bound"), "nll", UsageError, "ask for nll-bound"),
        (spec(kinds=""), "nll-bound", UsageError, "gives no bound"),
        (spec(), "nll(tolerance=2.0)", UsageError, "between 0 and 1"),
        (spec(), "nll(repeats=0)", UsageError, "at least 1"),
        (replace(spec(num_samples=1000), dataset=Ref("digits")), "nll", InputRejected, "and 1000 were asked for"),
    ],
)
def test_what_has_no_likelihood_is_refused_before_any_work(
    of: RunSpec, text: str, error: type[Exception], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        run(tmp_path / "runs", text, of=of)
    assert not CALLS and not (tmp_path / "runs").exists()


def test_images_that_exist_have_no_likelihood() -> None:
    side = Samples.of(np.zeros((8, 3, 32, 32), np.uint8))
    wanted = [Measurement.parse("nll")]
    with pytest.raises(InputRejected, match="a number of a model"):
        pipeline.score(side, side, wanted, protocol=protocol("embedded"), execution=Execution(device="cpu"))


def test_models_of_other_classes_or_captions_are_refused() -> None:
    real = Samples.of(np.zeros((8, 3, 32, 32), np.uint8), labels=np.arange(8) + 5)
    subject = likelihoods.Subject(model=Uniform("exact"), spec=spec(), key="k", directory=Path("none"))
    with pytest.raises(InputRejected, match="knows 10 classes"):
        likelihoods.check(NLL, subject, real, 8)
    with pytest.raises(InputRejected, match="needs labels"):
        likelihoods.check(NLL, subject, replace(real, labels=None), 8)
    with pytest.raises(InputRejected, match="is of images of"):
        likelihoods.check(NLL, subject, Samples.of(np.zeros((8, 3, 8, 8), np.uint8)), 8)
    with pytest.raises(InputRejected, match="needs a test split"):
        likelihoods.check(NLL, subject, None, 8)


def test_a_model_that_breaks_its_contract_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Uniform, "nll", lambda self, images, seeds, **_: torch.full((len(images),), float("nan")))
    with pytest.raises(InputRejected, match="finite numbers"):
        run(tmp_path, "nll")


def test_a_plan_samples_nothing_and_does_not_guess_the_time(tmp_path: Path) -> None:
    how = Execution(device="cpu", workers=0)
    wanted = [Measurement.parse("nll")]
    plan = planning.plan(spec(), wanted, protocol=protocol("embedded"), output=tmp_path, execution=how)
    assert (plan.sampling_seconds, plan.disk_bytes, plan.missing) == (None, 0, [])


def test_the_score_of_known_numbers() -> None:
    score = nll(bits=np.array([[1.0, 3.0], [3.0, 5.0]]))
    assert score.value == 3.0
    assert score.detail == {"std": pytest.approx(math.sqrt(2)), "std_of_repeats": pytest.approx(math.sqrt(2))}


def test_a_bound_stands_beside_bounds_only(tmp_path: Path) -> None:
    kinds = {kind: sum(kind_of_likelihood(row) == kind for row in reported() if row.metric == "nll_bpd") for kind in
             ("exact", "bound", "")}  # fmt: skip
    assert sum(kinds.values()) == 197 and kinds["exact"] == 9 and kinds["bound"] > 150
    ode = lookup(Ref("score-sde", {"process": "vp", "sampler": "ode"}), "nll", "cifar10")
    assert ode is not None and ode.system == "DDPM++ cont." and "ODE" in ode.variant
    assert lookup(Ref("score-sde", {"process": "vp", "sampler": "ode"}), "nll-bound", "cifar10") is None
    for model, value in (("vdm", 2.64), ("cld", 3.31), ("ddpm", 3.75), ("analytic-dpm(steps=10)", 5.47)):
        row = lookup(Ref.parse(model), "nll-bound", "cifar10")
        assert row is not None and row.value == value, model
    walked = lookup(Ref("cld", {"sampler": "euler-maruyama", "steps": 500}), "fid", "cifar10")
    assert walked is not None and (walked.variant, walked.value) == ("EM-QS", 2.41)
    exact, bound = run(tmp_path, "nll", "nll-bound").results
    paper = next(row for row in reported() if row.metric == "nll_bpd" and row.system == "DDPM" and row.reference)
    assert kind_of_likelihood(paper) == "bound"
    assert "exact instead of bound likelihood" in comparable(exact, paper)[1]
    assert not [reason for reason in comparable(bound, paper)[1] if "bound" in reason]
