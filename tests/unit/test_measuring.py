"""A comparison that several processes make gives what one process gives, and each of its jobs is shared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file
from unit.test_extractor_lpips import peer_of, torchvision_names
from unit.test_ranks import passed

from genbench import feature_files, measuring, pipeline, ranks, requests
from genbench.arrays import Samples
from genbench.images import write_images
from genbench.outcome import Outcome

METRICS = ["lpips", "cas(epochs=1, repeats=2)", "fid@pixels(side=2)"]


@pytest.fixture
def request_of_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two folders of pairs and one of more images, of which as many will be chosen as there are pairs."""
    for name, count, seed in (("generated", 70, 1), ("real", 70, 2), ("held", 90, 3)):
        drawn = np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        for label in range(2):
            (tmp_path / name / "ab"[label]).mkdir(parents=True)
            write_images(Samples.of(drawn[label::2]), tmp_path / name / "ab"[label])
    save_file(torchvision_names(peer_of("alex")), tmp_path / "network.safetensors")
    monkeypatch.setattr(feature_files, "PART", 16)
    held = str(tmp_path / "held")
    return {
        "samples": str(tmp_path / "generated"), "reference": str(tmp_path / "real"), "held_out": held, "test": held,
        "metrics": METRICS, "protocol": None,
        "execution": measuring.Execution(device="cpu", weights={"lpips": tmp_path / "network.safetensors"}),
    }  # fmt: skip


@pytest.mark.slow
def test_jobs_that_others_do_change_no_number(
    request_of_three: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, int] = {}

    def spread(
        job: str | Callable[..., Any], items: Sequence[int], *, own: Callable[..., Any], about: Any = None, **told: Any
    ) -> list[Any]:
        own(items[::2], lambda _: None)
        if not isinstance(job, str):
            return [own(items, lambda _: None)]
        told.pop("advance", None)
        if rest := list(items[1::2]):
            seen[job] = seen.get(job, 0) + len(rest)
            again = passed(about)
            assert again.pop("kind") == "score"
            requests.jobs_of_score(**again)[job](rest, lambda _: None, **passed(told))
        return []

    def measured(cache: str) -> Outcome:
        monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / cache))
        request = requests.of_score(**request_of_three)
        return requests.measured(request, request_of_three["execution"])

    alone = measured("one")
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "spread", spread)
    together = measured("another")
    assert {"digests", "pairs", "train", pipeline.SPLIT} <= seen.keys(), "each was shared"
    assert seen["train"] == 2, "half of two trainings on the images and of two on real ones"
    assert [one.score for one in together.results] == [one.score for one in alone.results]
    assert [one.floor for one in together.results] == [one.floor for one in alone.results]
    trained = [len(list((tmp_path / cache / "classifiers").iterdir())) for cache in ("one", "another")]
    assert trained == [4, 4]
