"""The classification accuracy score on images whose answer is known, and the recipes against their papers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genbench.arrays import Evidence, Samples
from genbench.errors import GenbenchError, InputRejected, UsageError
from genbench.metrics import cas as cas_module
from genbench.metrics import cas_training
from genbench.metrics.cas import CAS
from genbench.metrics.cas_training import RECIPES, architecture_for, network, ranks
from genbench.records import Score

CLASSES = 3
QUICK = {"epochs": 12, "batch_size": 20}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "classifiers"


def gratings(count: int, seed: int, *, noise: float = 20, kept: tuple[int, ...] = (0, 1, 2)) -> Samples:
    """Stripes that lie, stand or lean, at a random phase: three classes that no shift changes."""
    rng = np.random.default_rng(seed)
    labels = np.array([kept[i % len(kept)] for i in range(count)])
    y, x = np.mgrid[:16, :16]
    along = np.stack([y, x, (x + y) / math.sqrt(2)])[labels]
    waves = np.sin(along * 1.2 + rng.uniform(0, 2 * np.pi, (count, 1, 1)))[:, None]
    images = 127.5 + 90 * waves + rng.normal(0, noise, (count, 3, 16, 16))
    return Samples.of(np.clip(images, 0, 255).astype(np.uint8), labels=labels)


def relabelled(samples: Samples, labels: NDArray[np.int64]) -> Samples:
    return Samples.of(samples.read(0, samples.count), labels=labels)


def score(generated: Samples, reference: Samples, **args: object) -> Score:
    sides = {"generated": Evidence(samples=generated), "reference": Evidence(samples=reference)}
    return CAS.compute(**sides, **{"architecture": "compact-cas", **QUICK, **args})


def test_what_can_be_learned_is_learned() -> None:
    found = score(gratings(120, 0), gratings(300, 1))
    assert found.value > 0.98
    assert found.detail["train"] > 0.98
    assert found.detail["worst_class"] > 0.95
    assert found.detail["steps"] == 12 * 120 / 20
    assert found.error_method == "none: one training tells nothing of another; ask for repeats=3 or more"
    share = min(found.value, 1 - 0.5 / 301)
    assert found.ci95 is None
    assert found.detail["test_stderr"] == pytest.approx((share * (1 - share) / 300) ** 0.5)


def test_labels_that_are_all_moved_on_by_one_are_never_right() -> None:
    train = gratings(120, 0)
    found = score(relabelled(train, (train.labels + 1) % CLASSES), gratings(300, 1))
    assert found.value < 0.02
    assert found.detail["train"] > 0.98


def test_images_that_say_nothing_of_the_labels_score_chance() -> None:
    """Test labels are drawn independently of everything, so that hits are binomial with 1/3."""
    rng = np.random.default_rng(2)
    sides = [
        Samples.of(rng.integers(0, 256, (n, 3, 16, 16), dtype=np.uint8), labels=rng.integers(0, CLASSES, n))
        for n in (100, 1000)
    ]
    found = score(*sides, epochs=3)
    assert abs(found.value - 1 / 3) < 4 * math.sqrt(2 / 9 / 1000)


def test_a_class_that_was_not_generated_is_never_found_and_roles_do_not_swap() -> None:
    without, real = gratings(120, 0, kept=(0, 1)), gratings(300, 1)
    forward, backward = score(without, real), score(real, without, epochs=5)
    assert forward.value == pytest.approx(2 / 3, abs=0.01)
    assert forward.detail["worst_class"] == 0
    assert backward.value > 0.98


def test_the_score_of_a_seed_is_the_same_every_time(cache: Path) -> None:
    train, test = gratings(60, 0, noise=90), gratings(300, 1, noise=90)
    before = torch.get_rng_state()
    first = score(train, test, epochs=3)
    (file,) = cache.iterdir()
    content = file.read_bytes()
    file.unlink()
    torch.manual_seed(77)
    with torch.no_grad():
        again = score(train, test, epochs=3)
    assert again == first
    assert file.read_bytes() == content
    torch.set_rng_state(before)
    score(train, test, epochs=3, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert len({path.read_bytes() for path in cache.iterdir()}) == 2


def test_a_trained_classifier_is_read_from_the_cache(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    train, test = gratings(60, 0), gratings(300, 1)
    first = score(train, test, epochs=3)

    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("trained")

    with monkeypatch.context() as patch:
        patch.setattr(cas_module, "train", refuse)
        assert score(train, test, epochs=3) == first
        assert score(train, gratings(90, 5), epochs=3).detail["train"] == first.detail["train"]
        moved = relabelled(train, (train.labels + 1) % CLASSES)
        for samples, args in (
            (moved, {}),
            (gratings(60, 3), {}),
            (train.subset(0, 50), {}),
            (train, {"seed": 1}),
            (train, {"flip": True}),
            (train, {"batch_size": 10}),
            (train, {"epochs": 4}),
        ):
            with pytest.raises(RuntimeError, match="trained"):
                score(samples, test, **{"epochs": 3, **args})
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:-200], b"", whole[:middle] + bytes([whole[middle] ^ 64]) + whole[middle + 1 :]):
        file.write_bytes(damaged)
        assert score(train, test, epochs=3) == first
        assert file.read_bytes() == whole


def test_repeats_are_seeds_and_their_spread_is_in_the_error() -> None:
    train, test = gratings(45, 0, noise=120), gratings(300, 1, noise=120)
    single = [score(train, test, epochs=2, seed=seed).value for seed in (4, 5, 6)]
    found = score(train, test, epochs=2, seed=4, repeats=3)
    assert found.value == pytest.approx(np.mean(single), abs=1e-12)
    assert found.detail["training_std"] == pytest.approx(np.std(single, ddof=1), abs=1e-12)
    assert found.stderr > np.std(single, ddof=1) / math.sqrt(3) > 0


def test_the_error_of_repeats_adds_two_variances() -> None:
    right = np.array([[1, 1, 0, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1]], dtype=np.float64)
    found = cas_module._score(right, {})
    trainings = np.var([3 / 5, 2 / 5, 4 / 5], ddof=1) / 3
    images = np.var([1, 2 / 3, 1 / 3, 0, 1], ddof=1) / 5
    assert found.value == pytest.approx(9 / 15)
    assert found.stderr == pytest.approx(math.sqrt(trainings + images))
    assert found.error_method == "images+trainings"


@pytest.mark.parametrize(
    ("name", "count", "steps", "rates"),
    [
        # He et al. 2016 sec. 4.2: 64k iterations of 128 at 0.1, divided by 10 at 32k and 48k.
        ("resnet56", 50_000, 64_063, {0.0: 0.1, 0.49: 0.1, 0.51: 0.01, 0.74: 0.01, 0.76: 0.001}),
        # 90 epochs of 256 at 0.1, divided by 10 at 30, 60 and 80.
        ("resnet50", 1_281_167, 450_411, {0.0: 0.1, 29 / 90: 0.1, 31 / 90: 0.01, 61 / 90: 1e-3, 81 / 90: 1e-4}),
        ("compact-cas", 1000, 400, {0.0: 0.05, 0.5: 0.025, 2 / 3: 0.0125}),
        ("compact-cas", 6400, 1000, {1 / 3: 0.0375}),
    ],
)
def test_recipes_are_those_of_their_papers(name: str, count: int, steps: int, rates: dict[float, float]) -> None:
    assert RECIPES[name].steps(count) == steps
    assert [RECIPES[name].rate_at(t) for t in rates] == pytest.approx(list(rates.values()))


def test_resnet56_has_the_layers_and_parameters_of_its_paper() -> None:
    made = network("resnet56", 3, 10, 0)
    weighted = [m for m in made.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == 56
    widths = [(3, 16)] + [(16, 16)] * 18 + [(16, 32)] + [(32, 32)] * 17 + [(32, 64)] + [(64, 64)] * 17
    assert sum(p.numel() for p in made.parameters()) == sum(9 * a * b + 2 * b for a, b in widths) + 64 * 10 + 10
    assert [tuple(made(torch.zeros(2, 3, side, side)).shape) for side in (32, 28)] == [(2, 10), (2, 10)]


def test_the_shortcut_takes_every_other_pixel_and_adds_empty_channels() -> None:
    block = cas_training._Block(2, 4, 2)
    nn.init.zeros_(block.norm2.weight)
    x = torch.rand(1, 2, 6, 6)
    expected = torch.zeros(1, 4, 3, 3)
    expected[:, :2] = x[:, :, ::2, ::2]
    assert torch.equal(block(x), expected)


def test_initial_weights_are_of_the_seed_and_of_the_size_he_asks_for() -> None:
    first, same, other = (network("resnet56", 3, 10, seed).conv.weight for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    wide = network("resnet56", 3, 10, 0).blocks[18].conv1.weight
    assert float(wide.detach().std()) == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)


def test_shifts_move_by_up_to_four_pixels_and_fill_with_grey() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 3, 12, 10), dtype=np.uint8))
    moves = np.random.default_rng(8).integers(0, 9, size=(2, 40, 1))[:, :, 0]
    found = cas_training._shifted(images, np.random.default_rng(8)).numpy()
    assert {int(m) for m in moves.ravel()} == set(range(9))
    for image, result, (down, right) in zip(images.numpy(), found, moves.T, strict=True):
        expected = np.full((3, 12, 10), 127.5)
        for i in range(12):
            for j in range(10):
                if 0 <= i + down - 4 < 12 and 0 <= j + right - 4 < 10:
                    expected[:, i, j] = image[:, i + down - 4, j + right - 4]
        np.testing.assert_array_equal(result, expected)


def test_flips_mirror_about_half_of_the_images() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (200, 1, 4, 6), dtype=np.uint8))
    plain, mixed = (
        cas_training._augmented(images, RECIPES[name], np.random.default_rng(3)) for name in ("compact-cas", "resnet56")
    )
    mirrored = [bool((b == a.flip(2)).all()) for a, b in zip(plain, mixed, strict=True)]
    assert all(m or bool((b == a).all()) for m, a, b in zip(mirrored, plain, mixed, strict=True))
    assert 70 < sum(mirrored) < 130
    assert float(plain.min()) >= -1
    assert float(plain.max()) <= 1


def test_areas_are_cut_out_of_the_image() -> None:
    """Of a ramp, a cut is a ramp whose slope says how wide it was: sqrt of an area of 8 to 100 % times the ratio."""
    side = 64
    ramp = torch.arange(side).expand(60, 3, side, side).to(torch.uint8)
    found = cas_training._areas(ramp, np.random.default_rng(1))
    assert found.shape == (60, 3, 56, 56)
    width = (found[:, 0, 20, 40] - found[:, 0, 20, 15]) / 25 * 56
    assert float(width.min()) >= side * math.sqrt(0.08 * 3 / 4) - 1
    assert float(width.max()) <= side + 1e-3
    assert float(width.std()) > 5
    assert torch.equal(found[:, 0], found[:, 2])
    assert float(found.std(dim=2).max()) < 1e-4


def test_large_images_are_tested_on_their_middle() -> None:
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    image[:, :, 4:60, 4:60] = 255
    seen = cas_training._tested(image, RECIPES["resnet50"])
    assert seen.shape == (1, 3, 56, 56)
    assert bool((seen == 1).all())


class Constant(nn.Module):
    """Gives every image the same logits."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


@pytest.mark.parametrize(
    ("logits", "expected"), [([3, 1, 2], [0, 2, 1]), ([5, 5, 5], [2, 2, 2]), ([math.nan] * 3, [2, 2, 2])]
)
def test_ranks_count_the_classes_that_came_before(logits: list[float], expected: list[int]) -> None:
    samples = gratings(6, 0)
    found = ranks(Constant(logits), samples, samples.labels, RECIPES["compact-cas"], device="cpu")
    np.testing.assert_array_equal(found, np.array(expected)[samples.labels])


def test_top5_is_told_where_there_are_more_than_five_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(60) % 8
    test = relabelled(gratings(60, 0), labels)
    known = Constant([8, 7, 6, 5, 4, 3, 2, 1])
    monkeypatch.setattr(cas_module, "_trained", lambda *args: (known, 0.5))
    found = score(test, test)
    assert found.value == pytest.approx((labels == 0).mean())
    assert found.detail["top5"] == pytest.approx((labels < 5).mean())
    assert "top5" not in score(gratings(60, 0), gratings(60, 1)).detail


def test_the_network_follows_from_the_size_of_images_and_set() -> None:
    assert architecture_for("auto", 5000, 32) == "compact-cas"
    assert architecture_for("auto", 50_000, 32) == "resnet56"
    assert architecture_for("auto", 100, 33) == "resnet50"
    with pytest.raises(UsageError, match="resnet56"):
        architecture_for("resnet65", 100, 32)


@pytest.mark.slow
def test_resnet50_trains_on_larger_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 1, 40, 48), dtype=np.uint8)
    samples = Samples.of(images, labels=np.arange(10) % 2)
    found = score(samples, samples, architecture="auto", epochs=1, batch_size=10)
    assert found.detail["steps"] == 1
    # torchvision's 25,557,032 for 1000 classes and 3 channels
    assert found.detail["parameters"] == 25_557_032 - 998 * 2049 - 2 * 64 * 49


@pytest.mark.parametrize("args", [{"epochs": 0}, {"batch_size": 1}, {"repeats": 0}, {"seed": -1}])
def test_arguments_have_smallest_values(args: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(args))} of cas is a whole number of at least"):
        score(gratings(20, 0), gratings(20, 1), **args)


def test_what_cannot_be_scored_is_refused() -> None:
    good = gratings(20, 0)
    plain = Samples.of(good.read(0, 20), origin="somewhere")
    for sides in ((plain, good), (good, plain)):
        with pytest.raises(InputRejected, match="somewhere has none"):
            score(*sides)
    with pytest.raises(InputRejected, match="two or more classes"):
        score(relabelled(good, np.zeros(20, np.int64)), relabelled(good, np.zeros(20, np.int64)))
    with pytest.raises(InputRejected, match="counted from 0"):
        score(relabelled(good, good.labels - 1), good)
    for largest in (3_000_000, 2**31 - 1):
        wild = good.labels.copy()
        wild[3] = largest
        with pytest.raises(InputRejected, match=f"at most 65,536; the largest label is {largest:,}"):
            score(good, relabelled(good, wild))
    small = Samples.of(good.read(0, 20)[:, :, :8], labels=good.labels)
    with pytest.raises(InputRejected, match="one size"):
        score(small, good)


def test_a_training_that_diverges_says_so(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    recipe = cas_training.Recipe(epochs=1, batch_size=20, rate=1e12, crops="shift", flip=False)
    monkeypatch.setitem(RECIPES, "compact-cas", recipe)
    with pytest.raises(GenbenchError, match="diverged"):
        score(gratings(60, 0), gratings(60, 1), epochs=20)
    assert not cache.exists()
