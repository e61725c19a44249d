"""Every metric of the registry, plug-ins included, keeps the invariances that it declares."""

from __future__ import annotations

from dataclasses import replace

import pytest

from genbench import registry
from genbench.conformance import broken_invariances
from genbench.contracts import Metric

EVERY = frozenset({"order", "translation", "rotation", "scale"})


@pytest.mark.parametrize("name", registry.table("metric"))
def test_a_metric_is_invariant_where_it_says_so(name: str) -> None:
    metric = registry.get("metric", name)
    assert isinstance(metric, Metric) and metric.name == name
    assert broken_invariances(metric) == ()


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("fid", ("scale",)),
        ("kid", ("scale", "translation")),
        ("vendi", ("translation",)),
        ("swd", ("rotation", "scale")),
        ("mifid", ("scale", "translation")),
        ("clip-score", ("translation",)),
        ("is", ("rotation", "scale", "translation")),
        ("precision", ()),
    ],
)
def test_a_claim_that_is_wrong_is_found(name: str, broken: tuple[str, ...]) -> None:
    assert broken_invariances(replace(registry.get("metric", name), invariances=EVERY)) == broken


def test_the_order_of_images_counts_where_the_score_is_made_in_parts() -> None:
    assert broken_invariances(registry.get("metric", "is"), splits=4) == ("order",)


def test_an_unknown_invariance_is_an_error() -> None:
    with pytest.raises(ValueError, match="reflection, which is no invariance"):
        broken_invariances(replace(registry.get("metric", "fid"), invariances=frozenset({"reflection"})))
