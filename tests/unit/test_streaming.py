from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import genbench
from genbench.arrays import Samples
from genbench.datasets import shapes
from genbench.errors import InputRejected, NotComparable

METRICS = ("fid", "is", "precision", "recall")


def images(split: str, count: int) -> np.ndarray:
    return shapes.draw(shapes.factors(split, np.arange(count)))


REFERENCE = Samples.of(images("train", 400))


def values(results: tuple[genbench.Result, ...]) -> list[float]:
    return [r.score.value for r in results]


def test_updates_of_any_size_give_what_score_gives() -> None:
    generated = images("test", 300)
    expected = values(genbench.score(generated, REFERENCE, metrics=METRICS))
    for sizes in ([300], [1, 7, 292], [150, 150]):
        with genbench.Evaluator(REFERENCE, metrics=METRICS) as evaluator:
            for start, size in zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True):
                evaluator.update(generated[start : start + size])
            assert values(evaluator.compute()) == expected


def test_a_reference_may_be_named() -> None:
    with genbench.Evaluator("shapes(count=400)") as evaluator:
        evaluator.update(images("test", 100))
        assert values(evaluator.compute()) == values(genbench.score(images("test", 100), REFERENCE))


def test_numbers_can_be_asked_for_on_the_way() -> None:
    generated = images("test", 300)
    with genbench.Evaluator(REFERENCE, metrics=("fid",)) as evaluator:
        evaluator.update(generated[:150])
        first = values(evaluator.compute())
        evaluator.update(generated[150:])
        assert values(evaluator.compute()) == values(genbench.score(generated, REFERENCE))
        assert first == values(genbench.score(generated[:150], REFERENCE))
        evaluator.reset()
        assert len(evaluator) == 0
        with pytest.raises(InputRejected, match="No image"):
            evaluator.compute()


def test_merged_parts_are_the_whole() -> None:
    generated = images("test", 300)
    labels = np.arange(300) % 10
    metrics = ("fid", "precision", "top1")
    parts = [genbench.Evaluator(REFERENCE, metrics=metrics) for _ in range(2)]
    parts[0].update(generated[:101], labels=labels[:101])
    parts[1].update(generated[101:], labels=labels[101:])
    parts[0].merge(parts[1])
    with genbench.Evaluator(REFERENCE, metrics=metrics) as whole:
        whole.update(generated, labels=labels)
        np.testing.assert_allclose(values(parts[0].compute()), values(whole.compute()), rtol=1e-6)


def test_unlike_evaluators_do_not_merge() -> None:
    other = genbench.Evaluator(REFERENCE, metrics=("fid@pixels",))
    with genbench.Evaluator(REFERENCE) as evaluator, other, pytest.raises(NotComparable, match="same metrics"):
        evaluator.merge(other)


def test_what_does_not_fit_is_refused() -> None:
    with genbench.Evaluator(REFERENCE) as evaluator:
        with pytest.raises(InputRejected, match="uint8"):
            evaluator.update(np.zeros((2, 3, 32, 32), np.float32))
        evaluator.update(images("test", 2))
        with pytest.raises(InputRejected, match="so far"):
            evaluator.update(np.zeros((2, 3, 16, 16), np.uint8))


WORKER = """
import json, sys
import numpy as np, torch.distributed as dist
import genbench
from genbench.arrays import Samples
from genbench.datasets import shapes
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="tcp://127.0.0.1:" + sys.argv[2], rank=rank, world_size=3)
draw = lambda split, a, b: shapes.draw(shapes.factors(split, np.arange(a, b)))
evaluator = genbench.Evaluator(Samples.of(draw("train", 0, 400)), metrics=("fid", "recall"))
bounds = [(0, 30), (30, 150), (150, 150)][rank]
if bounds[0] < bounds[1]:
    evaluator.update(draw("test", *bounds))
evaluator.gather()
print(json.dumps([r.score.value for r in evaluator.compute()]))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_of_a_process_group_gather(tmp_path: Path, clean_environment: dict[str, str]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = clean_environment | {"OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER, str(rank), port], env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(3)
    ]  # fmt: skip
    outputs = [rank.communicate(timeout=300) for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks), outputs
    expected = values(genbench.score(images("test", 150), REFERENCE, metrics=("fid", "recall")))
    for out, _ in outputs:
        np.testing.assert_allclose(json.loads(out), expected, rtol=1e-6)
