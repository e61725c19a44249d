"""Noise as a function of (image seed, draw, stream), so that an image never depends on its batch or on a device.

Philox-4x32-10 is a counter-based generator: the image's seed is the key; position, draw and stream are the counter.
Any draw of any image can be made alone, which resuming, sharding and batching need. A stateful generator for each
image would have to be replayed from the start, and one generator for a batch would make images depend on the batch.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Noise(Protocol):
    """Standard normal noise, of the shape, dtype and device of `like`.

    Draw 0 is the starting noise; the step at i of a walk draws number i + 1. Streams are independent of each other:
    what needs a second noise within one step, such as a corrector, draws the same number from another stream.
    """

    def __call__(self, draw: int, like: Tensor, stream: int = 0) -> Tensor: ...


_LOW = 0xFFFFFFFF


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Ten rounds of Philox-4x32.

    Args:
        counter, key: int64 tensors that broadcast against each other, each word in [0, 2^32).

    Returns:
        Four int64 tensors of 32-bit words.

    Source:
        Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; agrees with Random123's known answers.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap modulo 2^64, so bits 32..63 are right after masking although the sign may not be.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) & _LOW ^ c1 ^ k0, p1 & _LOW, (p0 >> 32) & _LOW ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return c0, c1, c2, c3


def image_noise(seeds: Tensor) -> Noise:
    """Standard normal noise for a batch of images with the given seeds.

    Args:
        seeds: (b,) int64. All 64 bits count.

    Returns:
        A function of (draw, like, stream) with `like` of shape (b, ...); draw and stream lie in [0, 2^32).
        Computed in float32 whatever the dtype of `like`. The bits are the same on every device, the normal deviates
        up to the rounding of its log and cosine.
    """

    def noise(draw: int, like: Tensor, stream: int = 0) -> Tensor:
        if len(like) != len(seeds):
            raise ValueError(f"Noise for {len(seeds)} seeds was asked for a batch of {len(like)}.")
        size = math.prod(like.shape[1:])
        blocks = torch.arange(-(-size // 4), device=like.device)[None]
        key = seeds.to(like.device)[:, None]
        zero = torch.zeros_like(blocks)
        words = philox((blocks, zero + draw, zero + stream, zero), (key & _LOW, (key >> 32) & _LOW))
        # Box-Muller on 24-bit uniforms centred in their cells, so that the logarithm never sees 0.
        u = [((w >> 8).float() + 0.5) * 2.0**-24 for w in words]
        radius = [torch.sqrt(-2.0 * torch.log(v)) for v in (u[0], u[2])]
        angle = [2.0 * math.pi * v for v in (u[1], u[3])]
        (r0, r1), (a0, a1) = radius, angle
        normal = torch.stack([r0 * a0.cos(), r0 * a0.sin(), r1 * a1.cos(), r1 * a1.sin()], dim=-1)
        return normal.flatten(1)[:, :size].reshape(like.shape).to(like.dtype)

    return noise
