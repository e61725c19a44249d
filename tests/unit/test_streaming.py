from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import genbench
from genbench.arrays import Samples
from genbench.datasets import shapes
from genbench.errors import GenbenchError, InputRejected, NotComparable, UsageError
from genbench.metrics.cas_training import RECIPES

METRICS = ("fid", "is", "precision", "recall")


def images(split: str, count: int) -> np.ndarray:
    return shapes.draw(shapes.factors(split, np.arange(count)))


REFERENCE = Samples.of(images("train", 400))


def values(results: Iterable[genbench.Result]) -> list[float]:
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


def test_one_buffer_may_be_filled_again_and_again() -> None:
    generated = images("test", 120)
    expected = values(genbench.score(generated, REFERENCE, metrics="fid"))
    buffer = np.empty((40, 3, 32, 32), dtype=np.uint8)
    for given in (buffer, torch.from_numpy(buffer)):
        with genbench.Evaluator(REFERENCE) as evaluator:
            for i in range(3):
                buffer[:] = generated[40 * i : 40 * i + 40]
                evaluator.update(given)
            buffer[:] = 0
            assert values(evaluator.compute()) == expected


def nhwc(batch: np.ndarray) -> np.ndarray:
    return batch.transpose(0, 2, 3, 1)


REFUSED: list[tuple[str, Any, dict[str, Any], str]] = [
    ("floats", np.zeros((2, 3, 32, 32), np.float32), {}, "value_range"),
    ("integers", np.zeros((2, 3, 32, 32), np.int64), {}, "uint8"),
    ("channels last", nhwc(images("test", 2)), {}, "transpose"),
    ("channels last, tensor", torch.from_numpy(nhwc(images("test", 2))), {}, "permute"),
    ("one image", images("test", 2)[0], {}, "n, c, h, w"),
    ("none", images("test", 2)[:0], {}, "n > 0"),
    ("two channels", np.zeros((2, 2, 32, 32), np.uint8), {}, "c = 1 or 3"),
    ("another size", np.zeros((2, 3, 16, 16), np.uint8), {}, "so far"),
    ("a pair of a loader", (images("test", 2), np.zeros(2)), {}, "tuple"),
    ("a list", list(images("test", 2)), {}, "list"),
    ("a path", "real/", {}, "str"),
    ("not finite", np.full((2, 3, 32, 32), np.nan, np.float32), {"value_range": (-1, 1)}, "not finite"),
    ("another range", np.zeros((2, 3, 32, 32), np.float32), {"value_range": (0, 255)}, "value_range"),
    ("labels of floats", images("test", 2), {"labels": [0.7, 1.0]}, "whole numbers"),
    ("labels of one-hot", images("test", 2), {"labels": np.eye(2, dtype=int)}, "whole numbers"),
    ("labels below 0", images("test", 2), {"labels": [0, -1]}, "negative"),
    ("labels of some", images("test", 2), {"labels": [0]}, "2 images but 1 labels"),
    ("captions as one text", images("test", 2), {"captions": "ab"}, "sequence of texts"),
    ("captions of nothing", images("test", 2), {"captions": [None, None]}, "sequence of texts"),
    ("labels once", images("test", 2), {"labels": [0, 1]}, "every update"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "more", "says"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_what_does_not_fit_is_refused_and_leaves_nothing(given: Any, more: dict[str, Any], says: str) -> None:
    generated = images("test", 40)
    with genbench.Evaluator(REFERENCE, metrics="fid@pixels(side=4)") as evaluator:
        evaluator.update(generated[:20])
        with pytest.raises(GenbenchError, match=says):
            evaluator.update(given, **more)
        assert len(evaluator) == 20
        evaluator.update(generated[20:])
        assert values(evaluator.compute()) == values(genbench.score(generated, REFERENCE, metrics="fid@pixels(side=4)"))


def test_what_is_refused_first_does_not_decide_what_follows() -> None:
    with genbench.Evaluator(REFERENCE) as evaluator:
        with pytest.raises(InputRejected):
            evaluator.update(nhwc(images("test", 200)))
        evaluator.update(images("test", 60))
        assert len(evaluator) == 60


def test_a_network_that_fails_leaves_the_evaluator_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    from genbench import features

    generated = images("test", 300)
    with genbench.Evaluator(REFERENCE, metrics=("fid", "recall")) as evaluator:
        evaluator.update(generated[:150])
        once = features.image_blocks

        def fails(*args: Any, **more: Any) -> Any:
            yield from once(*args, **more)
            raise RuntimeError("lost the device")

        with monkeypatch.context() as patch:
            patch.setattr(features, "image_blocks", fails)
            with pytest.raises(RuntimeError, match="lost the device"):
                evaluator.update(generated[150:])
        evaluator.update(generated[150:])
        expected = values(genbench.score(generated, REFERENCE, metrics=("fid", "recall")))
        assert values(evaluator.compute()) == expected


@pytest.mark.parametrize("black_and_white", [(-1, 1), (0, 1)])
def test_floats_are_taken_when_their_range_is_told(black_and_white: tuple[float, float]) -> None:
    generated = images("test", 60)
    low, high = black_and_white
    floats = low + generated.astype(np.float32) / 255 * (high - low)
    expected = values(genbench.score(generated, REFERENCE))
    for batch in (floats, torch.from_numpy(floats), torch.from_numpy(floats).double().requires_grad_()):
        with genbench.Evaluator(REFERENCE) as evaluator:
            evaluator.update(batch, value_range=black_and_white)
            assert values(evaluator.compute()) == expected
    assert values(genbench.score(floats, REFERENCE, value_range=black_and_white)) == expected


def test_a_closed_evaluator_says_so() -> None:
    evaluator = genbench.Evaluator(REFERENCE)
    evaluator.update(images("test", 20))
    evaluator.close()
    evaluator.close()
    with genbench.Evaluator(REFERENCE) as other:
        for call in (
            evaluator.compute,
            evaluator.reset,
            evaluator.gather,
            lambda: evaluator.update(images("test", 2)),
            lambda: other.merge(evaluator),
        ):
            with pytest.raises(UsageError, match="was closed"):
                call()


def test_an_evaluator_does_not_merge_with_itself_or_gather_alone() -> None:
    with genbench.Evaluator(REFERENCE) as evaluator:
        evaluator.update(images("test", 20))
        with pytest.raises(UsageError, match="another one"):
            evaluator.merge(evaluator)
        with pytest.raises(UsageError, match="process group"):
            evaluator.gather()


def test_parts_with_and_without_labels_do_not_merge() -> None:
    with genbench.Evaluator(REFERENCE) as one, genbench.Evaluator(REFERENCE) as other:
        one.update(images("test", 20), labels=[0] * 20)
        other.update(images("test", 20))
        with pytest.raises(InputRejected, match="labels"):
            one.merge(other)
        assert len(one) == 20 and len(one.compute()) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_copy_neither_works_nor_removes_the_files() -> None:
    evaluator = genbench.Evaluator(REFERENCE)
    evaluator.update(images("test", 150))
    before = values(evaluator.compute())

    def child(answers: Any) -> None:
        try:
            evaluator.update(images("test", 2))
        except UsageError as error:
            answers.put(str(error))
        evaluator.close()

    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=child, args=(answers,))
    process.start()
    process.join(60)
    assert "belongs to the process" in answers.get()
    assert values(evaluator.compute()) == before
    evaluator.close()


@pytest.mark.slow
def test_all_and_one_text_are_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    briefly = replace(RECIPES["compact-cas"], epochs=1, least=0)
    monkeypatch.setitem(RECIPES, "compact-cas", briefly)  # half a minute of training is not what is tested
    with genbench.Evaluator("shapes(count=400)", metrics="all") as evaluator:
        evaluator.update(images("test", 40), labels=np.arange(40) % 10)
        names = {r.metric.split("(")[0] for r in evaluator.compute()}
    assert {"fid", "is", "precision", "top1"} <= names and "clip-score" not in names


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
