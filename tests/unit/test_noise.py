"""Philox against its published answers, and the noise of images as normal, independent and keyed."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from baselines.noise import image_noise, philox

M, W = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)


def reference(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox-4x32-10 in Python's integers, which do not overflow."""
    c, k = counter, key
    for _ in range(10):
        p, q = M[0] * c[0], M[1] * c[2]
        c = (q >> 32 ^ c[1] ^ k[0], q % 2**32, p >> 32 ^ c[3] ^ k[1], p % 2**32)
        k = ((k[0] + W[0]) % 2**32, (k[1] + W[1]) % 2**32)
    return c


def words(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    a, b, c, d, e, f = (torch.tensor([v]) for v in (*counter, *key))
    return tuple(int(w) for w in philox((a, b, c, d), (e, f)))


def like(*shape: int) -> Tensor:
    return torch.empty(shape)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]) -> None:
    assert words(counter, key) == answer


def test_words_of_random_counters() -> None:
    drawn = np.random.default_rng(0).integers(0, 2**32, size=(200, 6))
    found = philox(
        tuple(torch.from_numpy(drawn[:, i]) for i in range(4)), tuple(torch.from_numpy(drawn[:, i]) for i in (4, 5))
    )  # type: ignore[arg-type]
    for row, *answer in zip(drawn.tolist(), *(w.tolist() for w in found), strict=True):
        assert tuple(answer) == reference(tuple(row[:4]), tuple(row[4:]))


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 5, -1, -(2**63), 2**63 - 1])
def test_noise_is_box_muller_of_the_words(seed: int) -> None:
    """Seed is the key, (block, draw) the counter; all in float64 here."""
    found = image_noise(torch.tensor([seed]))(3, like(1, 2, 5)).flatten().double()
    expected: list[float] = []
    for block in range(3):
        w = reference((block, 3, 0, 0), (seed % 2**32, (seed >> 32) % 2**32))
        u = [((v >> 8) + 0.5) / 2**24 for v in w]
        for radius, turn in ((u[0], u[1]), (u[2], u[3])):
            length = math.sqrt(-2 * math.log(radius))
            expected += [length * math.cos(2 * math.pi * turn), length * math.sin(2 * math.pi * turn)]
    assert found.tolist() == pytest.approx(expected[:10], abs=2e-6)


def test_normal() -> None:
    values = image_noise(torch.arange(64))(0, like(64, 3, 32, 32)).flatten().double().numpy()
    n = len(values)
    assert abs(values.mean()) < 4 / n**0.5
    assert abs(values.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs(stats.skew(values)) < 4 * (6 / n) ** 0.5
    assert abs(stats.kurtosis(values)) < 4 * (24 / n) ** 0.5
    assert stats.kstest(values, "norm").pvalue > 0.01
    # The tails too: beyond four standard deviations are 6.3e-5 of all.
    assert abs((np.abs(values) > 4).sum() - 6.334e-5 * n) < 4 * (6.334e-5 * n) ** 0.5


def test_independent_of_neighbouring_seeds_draws_and_positions() -> None:
    noise = image_noise(torch.tensor([5, 6, 5 + 2**32, -5]))
    draws = ((0, 0), (1, 0), (1000, 0), (1, 1), (1, 7))
    drawn = torch.stack([noise(draw, like(4, 20_000), stream) for draw, stream in draws]).view(20, -1).double()
    deviation = 4.5 / 20_000**0.5
    for a, b in combinations(drawn, 2):
        assert not torch.equal(a, b)
        for x, y in ((a, b), (a**2 - 1, (b**2 - 1) / 2)):
            assert abs(float((x * y).mean())) < deviation
    for values in drawn:
        for lag in (1, 2, 3, 4):  # four values share a block of words
            assert abs(float((values[:-lag] * values[lag:]).mean())) < deviation
            assert abs(float(((values[:-lag] ** 2 - 1) * (values[lag:] ** 2 - 1)).mean()) / 2) < deviation


def test_an_image_is_the_same_alone_and_in_any_batch() -> None:
    seeds = torch.tensor([3, 1, 4, 1 << 40, 5])
    together = image_noise(seeds)(9, like(5, 3, 7, 5))
    alone = torch.cat([image_noise(seeds[i : i + 1])(9, like(1, 3, 7, 5)) for i in range(5)])
    assert torch.equal(together, alone)
    assert torch.equal(together.flip(0), image_noise(seeds.flip(0))(9, like(5, 3, 7, 5)))


@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (3, 3, 3), (1, 5, 7)])
def test_odd_sizes_are_the_beginning_of_larger_ones(shape: tuple[int, ...]) -> None:
    noise = image_noise(torch.tensor([8, 9]))
    found = noise(1, like(2, *shape))
    assert found.shape == (2, *shape)
    assert torch.equal(found.flatten(1), noise(1, like(2, 64))[:, : math.prod(shape)])


def test_layout_and_dtype_follow_the_state_but_values_do_not() -> None:
    noise = image_noise(torch.arange(2))
    plain = noise(0, like(2, 3, 4, 4))
    assert torch.equal(noise(0, like(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)), plain)
    assert torch.equal(noise(0, like(2, 3, 4, 4).double()), plain.double())
    assert torch.equal(noise(0, like(2, 3, 4, 4).bfloat16()), plain.bfloat16())


def test_a_batch_of_another_size() -> None:
    with pytest.raises(ValueError, match="2 seeds was asked for a batch of 3"):
        image_noise(torch.arange(2))(0, like(3, 4))
    assert image_noise(torch.arange(0))(0, like(0, 3, 4, 4)).shape == (0, 3, 4, 4)
