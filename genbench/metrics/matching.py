"""What metrics that compare features ask of both sides."""

from __future__ import annotations

from genbench.arrays import Evidence, Features
from genbench.errors import NotComparable


def matched(generated: Evidence, reference: Evidence, tap: str = "pooled") -> tuple[Features, Features]:
    """The features of a tap of both sides.

    Raises:
        UsageError: a tap that was not extracted.
        NotComparable: features of two extractors, or of two widths.
    """
    x, y = generated.features(tap), reference.features(tap)
    if x.extractor != y.extractor:
        raise NotComparable(
            f"Features of two extractors, {x.extractor} and {y.extractor}, cannot be compared; "
            "extract both sides with the same weights, resize and arithmetic."
        )
    if x.shape[1] != y.shape[1]:
        raise NotComparable(f"Features of widths {x.shape[1]} and {y.shape[1]} cannot be compared; use one extractor.")
    return x, y
