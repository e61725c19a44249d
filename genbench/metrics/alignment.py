"""How well images and their captions agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genbench.arrays import Evidence
from genbench.contracts import Metric
from genbench.errors import NotComparable, UsageError
from genbench.metrics.kernel import unit_vectors
from genbench.records import Score
from genbench.uncertainty import of_mean, score, score_from_mean

SCALES = ("hessel", "cosine100", "cosine")


def cosines(images: NDArray[np.float32], captions: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine between every image and its own caption.

    Args:
        images, captions: float32 (n, d), embeddings of any length but 0.

    Returns:
        float64 (n,), in [-1, 1].

    Raises:
        NotComparable: shapes that differ.
        InputRejected: an embedding of length 0, or one that is not finite.
    """
    if images.shape != captions.shape:
        raise NotComparable(
            f"Embeddings of images are {images.shape} and of captions {captions.shape}; use one extractor."
        )
    pairs = (unit_vectors(values).astype(np.float64) for values in (images, captions))
    return np.clip((next(pairs) * next(pairs)).sum(axis=1), -1.0, 1.0)


def clip_score(*, generated: Evidence, scale: str = "hessel") -> Score:
    """Mean agreement of images with their captions in the space of CLIP.

    A text before every caption, such as "A photo depicts " in the paper, is an argument of the extractor, which alone
    reads captions: `clip-score@clip(prefix='A photo depicts ')`. The protocols `clipscore` and `torchmetrics-clip` fix
    network, prefix and scale as the paper's code and torchmetrics do.

    Args:
        scale: "hessel" is 2.5 max(cosine, 0) a pair, then the mean; "cosine100" is 100 times the mean cosine, and 0
            where that is negative (torchmetrics); "cosine" is the mean cosine.

    Raises:
        UsageError: another scale, or an extractor without captions.
        NotComparable, InputRejected: as `cosines`.

    Source:
        Hessel et al. 2021, eq. in sec. 3; agrees with jmhessel/clipscore for the same embeddings in float32, and with
        torchmetrics `clip_score` ("cosine100", without prefix). The network must be named beside the number.
    """
    if scale not in SCALES:
        raise UsageError(f"clip-score has no scale {scale!r}; there are {', '.join(SCALES)}.")
    cosine = cosines(generated.features("embedding").values(), generated.features("captions").values())
    if scale == "hessel":
        return score_from_mean(2.5 * np.maximum(cosine, 0), bounds=(0.0, 2.5))
    if scale == "cosine":
        return score_from_mean(cosine, bounds=(-1.0, 1.0))
    return score(max(float(100 * cosine.mean()), 0.0), of_mean(100 * cosine), bounds=(0.0, 100.0))


CLIP_SCORE = Metric(
    name="clip-score",
    summary="agreement of images with their captions",
    source="Hessel et al. 2021, arXiv:2104.08718; agrees with jmhessel/clipscore; scale='cosine100' with torchmetrics",
    compute=clip_score,
    taps=("embedding", "captions"),
    captions=True,
    higher_is_better=True,
    bounds=(-1.0, 100.0),
    minimum=2,
    invariances=frozenset({"order", "rotation", "scale"}),
)
