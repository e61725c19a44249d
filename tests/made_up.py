"""Made-up results, for tests of what is done with results."""

from __future__ import annotations

from genbench.records import Result, Score, Side


def result(
    metric: str = "fid()",
    value: float = 2.574,
    stderr: float | None = 0.301,
    *,
    extractor: str | None = "compact",
    ci95: tuple[float, float] | None = None,
    floor: Score | None = None,
    name: str = "samples",
) -> Result:
    """A made-up result of images that exist, for what is done with results."""
    return Result(
        metric=metric.removesuffix("()"), metric_version=1, extractor=extractor, extractor_key="k",
        score=Score(value=value, stderr=stderr, ci95=ci95, error_method="jackknife-20"), floor=floor,
        generated=Side(name=name, count=100, digest="a"), reference=Side(name="real", count=200, digest="b"),
        protocol="embedded", protocol_hash="h", higher_is_better=False, spec=None, seconds=0.1,
        created="2026-01-01T00:00:00+00:00", environment={},
    )  # fmt: skip
