"""Maximum mean discrepancies: distances between mean embeddings of two sets of features under a kernel.

Everything is made from sums of the kernel over pairs of jackknife blocks. Sums are float64. The kernel's entries are
float32 and made in tiles, so that no matrix of n x n entries exists. The discrepancy without a block of images is exact
arithmetic on the same sums.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genbench import pieces, ranks
from genbench.arithmetic import float32
from genbench.arrays import Evidence
from genbench.contracts import Metric
from genbench.errors import InputRejected, NotComparable, UsageError
from genbench.metrics import arguments
from genbench.metrics.matching import matched
from genbench.records import Score
from genbench.uncertainty import (
    NONNEGATIVE,
    Uncertainty,
    block_numbers,
    block_sizes,
    of_independent,
    of_jackknife,
    score,
    tails_are_heavy,
)

Kernel = partial[Tensor]
"""Maps inner products to values of the kernel, entry by entry; may work in place. Other processes find its function."""

_TILE = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSums:
    """Sums of a kernel over all pairs of images, cut by the jackknife blocks of the generated ones. All float64.

    Attributes:
        sizes: (k,), generated images in each block.
        within: (k, k), over pairs of generated images, a pair of an image with itself included.
        own: (k,), over those pairs of an image with itself.
        across: (k,), over pairs of a generated image of the block and a reference image.
        each: (n,), over pairs of one generated image and a reference image; blocks lie together.
        count, reference, reference_own: number of reference images, and the same sums over them.
    """

    sizes: NDArray[np.float64]
    within: NDArray[np.float64]
    own: NDArray[np.float64]
    across: NDArray[np.float64]
    each: NDArray[np.float64]
    count: int
    reference: float
    reference_own: float

    def discrepancy(self, *, unbiased: bool, without: int | None = None) -> float:
        """Squared maximum mean discrepancy, of all generated images or of those that are not in a block.

        Args:
            unbiased: whether pairs of an image with itself are left out (U-statistic, which may be negative), or
                counted (V-statistic).

        Returns:
            NaN where fewer than two images are left to make pairs of.
        """
        kept = np.arange(len(self.sizes)) != (-1 if without is None else without)
        n, m = self.sizes[kept].sum(), self.count
        within, reference = self.within[np.ix_(kept, kept)].sum(), self.reference
        if unbiased:
            if min(n, m) < 2:
                return math.nan
            within, reference = within - self.own[kept].sum(), reference - self.reference_own
            means = within / (n * (n - 1)) + reference / (m * (m - 1))
        else:
            means = within / n**2 + reference / m**2
        return float(means - 2 * self.across[kept].sum() / (n * m))

    def without_each(self, *, unbiased: bool) -> NDArray[np.float64]:
        """The discrepancy without each block in turn, (k,)."""
        return np.array([self.discrepancy(unbiased=unbiased, without=b) for b in range(len(self.sizes))])


def polynomial(width: int) -> Kernel:
    """(x.y / width + 1)^3 of the inner product. Source: Binkowski et al. 2018, sec. 4."""
    return partial(polynomial_of, width=width)


def polynomial_of(products: Tensor, *, width: int) -> Tensor:
    """The kernel of `polynomial`."""
    return products.mul_(1 / width).add_(1).pow_(3)


def gaussian_less_one(sigma: float) -> Kernel:
    """exp(-|x - y|^2 / (2 sigma^2)) - 1 of the inner product of vectors of length 1.

    The discrepancy does not change with a constant, and without the 1 nothing cancels: for sigma = 10 the kernel of
    unit vectors lies in [0.98, 1].
    """
    return partial(gaussian_less_one_of, sigma=sigma)


def gaussian_less_one_of(products: Tensor, *, sigma: float) -> Tensor:
    """The kernel of `gaussian_less_one`."""
    return products.sub_(1).mul_(1 / sigma**2).expm1_()


@float32()
def kernel_sums(
    generated: NDArray[np.float32], reference: NDArray[np.float32], kernel: Kernel, *, device: str = "cpu"
) -> KernelSums:
    """Sums of a kernel over all pairs.

    Args:
        generated, reference: float32 (n, d) and (m, d).
        device: of torch.

    Raises:
        NotComparable: widths that differ.
        InputRejected: features that are not finite, or for which the kernel is not.
    """
    if generated.shape[1] != reference.shape[1]:
        raise NotComparable(
            f"Features of widths {generated.shape[1]} and {reference.shape[1]} cannot be compared; use one extractor."
        )
    sides = _sides(generated, reference, device)
    x, y, blocks = sides.x, sides.y, sides.blocks
    own = torch.zeros(sides.count, dtype=torch.float64, device=device)
    own.index_add_(0, blocks, kernel((x * x).sum(1)).double())
    found = ranks.spread(
        sums_elsewhere,
        range(sides.tiles),
        own=lambda tiles, advance: _sums_of(sides, kernel, tiles, advance),
        generated=generated,
        reference=reference,
        kernel=[ranks.name_of(kernel.func), kernel.keywords],
        device=device,
    )
    # In the order of the tiles, whoever made them: no sum depends on how many processes there are.
    by_tile = {tile: part for some in found for tile, part in zip(some["tiles"], some["parts"], strict=True)}
    parts = [by_tile[tile] for tile in range(sides.tiles)]
    ours, theirs = parts[: sides.tiles_of_x], parts[sides.tiles_of_x :]
    each = np.concatenate([part["each"] for part in ours])
    sums = KernelSums(
        sizes=block_sizes(len(generated)).astype(np.float64),
        within=_symmetric(ours),
        own=own.cpu().numpy(),
        across=np.bincount(blocks.cpu().numpy(), weights=each, minlength=sides.count).astype(np.float64),
        each=each,
        count=len(y),
        reference=float(_symmetric(theirs)[0, 0]),
        reference_own=float(kernel((y * y).sum(1)).double().sum()),
    )
    if not np.isfinite(sums.within.sum() + sums.across.sum() + sums.reference):
        raise InputRejected("The kernel of these features is not finite in float32; check the extractor's output.")
    return sums


@dataclass(frozen=True, slots=True)
class _Sides:
    """Both sets of features on a device, x (n, d) with its jackknife blocks together, and y (m, d)."""

    x: Tensor
    y: Tensor
    blocks: Tensor

    @property
    def count(self) -> int:
        return int(self.blocks.max()) + 1

    @property
    def tiles_of_x(self) -> int:
        return -(-len(self.x) // _TILE)

    @property
    def tiles(self) -> int:
        """Number of runs of rows: first those of x, then those of y."""
        return self.tiles_of_x + -(-len(self.y) // _TILE)


def _sides(generated: NDArray[np.float32], reference: NDArray[np.float32], device: str) -> _Sides:
    numbers = block_numbers(len(generated))
    # Blocks lie together, so that a sum over a block is one over consecutive rows and columns.
    order = np.argsort(numbers, kind="stable")
    x, y = torch.from_numpy(generated[order]).to(device), torch.from_numpy(np.array(reference)).to(device)
    return _Sides(x, y, torch.from_numpy(numbers[order]).to(device))


def sums_elsewhere(
    tiles: Sequence[int],
    advance: ranks.Advance,
    *,
    generated: NDArray[np.float32],
    reference: NDArray[np.float32],
    kernel: tuple[str, dict[str, Any]],
    device: str,
) -> dict[str, Any]:
    """Sums over some of the rows for the process that asked, see `kernel_sums`."""
    with float32():
        sides = _sides(generated, reference, ranks.here(device))
        return _sums_of(sides, partial(ranks.function(kernel[0]), **kernel[1]), tiles, advance)


def _sums_of(sides: _Sides, kernel: Kernel, tiles: Sequence[int], advance: ranks.Advance) -> dict[str, Any]:
    """Sums of the kernel over pairs of which one lies in a run of rows, for each of some runs.

    Returns:
        For each of `tiles`, in `parts`: float64 `diagonal` and `above` (blocks, blocks), over pairs of the run with
        itself and with later ones of its set; of runs of x also `each` (rows,), over pairs with all of y.
    """
    x, y, parts = sides.x, sides.y, []
    one = torch.zeros(len(y), dtype=torch.int64, device=y.device)
    for tile in tiles:
        z, blocks = (x, sides.blocks) if tile < sides.tiles_of_x else (y, one)
        i = (tile if tile < sides.tiles_of_x else tile - sides.tiles_of_x) * _TILE
        shape = (int(blocks.max()) + 1,) * 2
        diagonal = _tile_sums(z, z, blocks, blocks, i, i, shape, kernel)
        above = torch.zeros_like(diagonal)
        for j in range(i + _TILE, len(z), _TILE):
            above += _tile_sums(z, z, blocks, blocks, i, j, shape, kernel)
            advance(0)
        part = {"diagonal": diagonal.cpu().numpy(), "above": above.cpu().numpy()}
        if tile < sides.tiles_of_x:
            each = torch.zeros(len(x[i : i + _TILE]), dtype=torch.float64, device=x.device)
            for j in range(0, len(y), _TILE):
                each += kernel(x[i : i + _TILE] @ y[j : j + _TILE].T).sum(1, dtype=torch.float64)
                advance(0)
            part["each"] = each.cpu().numpy()
        parts.append(part)
    return {"tiles": list(tiles), "parts": parts}


def _symmetric(parts: Sequence[Mapping[str, NDArray[np.float64]]]) -> NDArray[np.float64]:
    """Sums over all pairs of one set, from the tiles on and above the diagonal."""
    above = np.sum([part["above"] for part in parts], axis=0)
    return np.sum([part["diagonal"] for part in parts], axis=0) + above + above.T


def _tile_sums(
    x: Tensor, y: Tensor, rows: Tensor, columns: Tensor, i: int, j: int, shape: tuple[int, int], kernel: Kernel
) -> Tensor:
    """Sums of the kernel over the pairs of a tile, by blocks of both sides: float64 (shape). `columns` ascends."""
    values = kernel(x[i : i + _TILE] @ y[j : j + _TILE].T)
    runs = values.split(torch.bincount(columns[j : j + _TILE], minlength=shape[1]).tolist(), dim=1)
    totals = torch.stack([run.sum(1, dtype=torch.float64) for run in runs], dim=1)
    return torch.zeros(shape, dtype=torch.float64, device=x.device).index_add_(0, rows[i : i + _TILE], totals)


@float32()
def subset_discrepancies(
    generated: NDArray[np.float32],
    reference: NDArray[np.float32],
    *,
    subsets: int,
    subset_size: int,
    seed: int,
    device: str = "cpu",
) -> NDArray[np.float64]:
    """Computes unbiased cubic discrepancies of random subsets, drawn without replacement in torch-fidelity's order.

    Returns:
        float64 (subsets,).

    Raises:
        UsageError: fewer than one subset, or subsets of fewer than two images.
        NotComparable: fewer images than a subset has.
    """
    if subsets < 1 or subset_size < 2:
        raise UsageError(f"kid takes subsets >= 1 of at least 2 images, or subsets=0; got {subsets} of {subset_size}.")
    if min(len(generated), len(reference)) < subset_size:
        raise NotComparable(
            f"Subsets of {subset_size} images cannot be drawn from {len(generated)} generated and {len(reference)} "
            "reference images; give a smaller subset_size, or subsets=0 for the estimator that uses all pairs."
        )
    x, y = _on(device, generated, reference)
    draw = {"subsets": subsets, "subset_size": subset_size, "seed": seed}
    chosen, kernel = _drawn(len(x), len(y), **draw), polynomial(generated.shape[1])
    # Subsets share pairs: when they hold more pairs than there are, all pairs are evaluated once and then counted.
    if len(x) ** 2 + len(y) ** 2 + len(x) * len(y) < 3 * subsets * subset_size**2:
        subsets_of = _Counted(x, y, *_memberships(chosen, x, y))
        found = ranks.spread(
            counted_elsewhere,
            range(len(subsets_of.strips())),
            own=lambda numbers, advance: _counted(subsets_of, kernel, numbers, advance),
            generated=generated, reference=reference, device=device, draw=draw,
        )  # fmt: skip
        within, across = _from_strips(subsets_of, kernel, found)
    else:
        found = ranks.spread(
            subsets_elsewhere,
            range(subsets),
            own=lambda numbers, advance: _of_subsets(x, y, chosen, kernel, numbers, advance),
            generated=generated, reference=reference, device=device, draw=draw,
        )  # fmt: skip
        sums = pieces.by_number(found)
        within, across = torch.tensor([sums[i] for i in range(subsets)], dtype=torch.float64).T
    values = within / (subset_size * (subset_size - 1)) - 2 * across / subset_size**2
    return values.cpu().numpy()


def _on(device: str, *sides: NDArray[np.float32]) -> list[Tensor]:
    """The sides on a device, as copies, since files that are mapped cannot be written to."""
    return [torch.from_numpy(np.array(side)).to(device) for side in sides]


def _drawn(n: int, m: int, *, subsets: int, subset_size: int, seed: int) -> list[list[NDArray[np.int64]]]:
    """Numbers of the images of every subset of both sides."""
    # The old generator, because it is the one that torch-fidelity draws by.
    draw = np.random.RandomState(seed)
    return [[draw.choice(count, subset_size, replace=False) for count in (n, m)] for _ in range(subsets)]


def subsets_elsewhere(
    numbers: Sequence[int],
    advance: ranks.Advance,
    *,
    generated: NDArray[np.float32],
    reference: NDArray[np.float32],
    device: str,
    draw: dict[str, int],
) -> list[list[Any]]:
    """Sums over some of the subsets for the process that asked, see `subset_discrepancies`."""
    with float32():
        x, y = _on(ranks.here(device), generated, reference)
        return _of_subsets(x, y, _drawn(len(x), len(y), **draw), polynomial(x.shape[1]), numbers, advance)


def _of_subsets(
    x: Tensor,
    y: Tensor,
    chosen: Sequence[Sequence[NDArray[np.int64]]],
    kernel: Kernel,
    numbers: Sequence[int],
    advance: ranks.Advance,
) -> list[list[Any]]:
    """The numbers of some subsets and what `_subset_pairs` gives for them."""
    found = []
    for left, right in (chosen[number] for number in numbers):
        found.append(_subset_pairs(kernel, x[left], y[right]))
        advance(0)
    return [list(numbers), found]


@dataclass(frozen=True, slots=True)
class _Counted:
    """Both sides, and float64 (count, subsets) for each, 1 where a subset has the image."""

    x: Tensor
    y: Tensor
    u: Tensor
    v: Tensor

    def strips(self) -> list[tuple[str, str, int]]:
        """The sides that the pairs of a strip are of, and its first row."""
        count = {"x": len(self.x), "y": len(self.y)}
        return [(a, b, start) for a, b in _SIDES for start in range(0, count[a], _STRIP)]


_STRIP = 1024
_SIDES = (("x", "x"), ("y", "y"), ("x", "y"))


def counted_elsewhere(
    numbers: Sequence[int],
    advance: ranks.Advance,
    *,
    generated: NDArray[np.float32],
    reference: NDArray[np.float32],
    device: str,
    draw: dict[str, int],
) -> list[list[Any]]:
    """Sums over some of the strips for the process that asked, see `subset_discrepancies`."""
    with float32():
        x, y = _on(ranks.here(device), generated, reference)
        subsets_of = _Counted(x, y, *_memberships(_drawn(len(x), len(y), **draw), x, y))
        return _counted(subsets_of, polynomial(x.shape[1]), numbers, advance)


def _memberships(chosen: Sequence[Sequence[NDArray[np.int64]]], x: Tensor, y: Tensor) -> list[Tensor]:
    return [_membership([pick[i] for pick in chosen], len(side), str(side.device)) for i, side in enumerate((x, y))]


def _counted(subsets_of: _Counted, kernel: Kernel, numbers: Sequence[int], advance: ranks.Advance) -> list[list[Any]]:
    """The numbers of some strips, and for each the sums of the kernel over its pairs of every subset, float64."""
    sides = {"x": (subsets_of.x, subsets_of.u), "y": (subsets_of.y, subsets_of.v)}
    strips, found = subsets_of.strips(), []
    for left, right, start in (strips[number] for number in numbers):
        (x, u), (y, v) = sides[left], sides[right]
        values = kernel(x[start : start + _STRIP] @ y.T).double()
        found.append((u[start : start + _STRIP] * (values @ v)).sum(0).cpu().numpy())
        advance(0)
    return [list(numbers), found]


def _from_strips(subsets_of: _Counted, kernel: Kernel, found: Sequence[Sequence[Any]]) -> tuple[Tensor, Tensor]:
    """Sums within both sides and across them, float64 (subsets,), added in the order of the strips."""
    sums = pieces.by_number(found)
    x, y, u, v = subsets_of.x, subsets_of.y, subsets_of.u, subsets_of.v
    total = {sides: torch.zeros(u.shape[1], dtype=torch.float64, device=x.device) for sides in _SIDES}
    for number, (left, right, _) in enumerate(subsets_of.strips()):
        total[left, right] += torch.from_numpy(sums[number]).to(x.device)
    within = total["x", "x"] + total["y", "y"] - _itself(kernel, x) @ u - _itself(kernel, y) @ v
    return within, total["x", "y"]


def _membership(chosen: Sequence[NDArray[np.int64]], count: int, device: str) -> Tensor:
    """float64 (count, subsets), 1 where a subset has the image."""
    members = torch.zeros(count, len(chosen), dtype=torch.float64)
    for i, pick in enumerate(chosen):
        members[pick, i] = 1
    return members.to(device)


def _itself(kernel: Kernel, x: Tensor) -> Tensor:
    """The kernel of every image with itself, float64 (n,)."""
    return kernel((x * x).sum(1)).double()


def _subset_pairs(kernel: Kernel, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Sums of the kernel within both sets, without the diagonals, and across them."""
    within = sum(float(kernel(z @ z.T).sum(dtype=torch.float64) - _itself(kernel, z).sum()) for z in (x, y))
    return within, float(kernel(x @ y.T).sum(dtype=torch.float64))


HEAVY = 0.35
"""Shape of the tail of the cubic kernel's means that is still light enough: third powers of light features have longer
tails than the second powers of a Frechet distance."""


def kid(
    *,
    generated: Evidence,
    reference: Evidence,
    subsets: int = 0,
    subset_size: int = 1000,
    seed: int = 2020,
    device: str = "cpu",
) -> Score:
    """Unbiased squared maximum mean discrepancy under the kernel (x.y / d + 1)^3. Negative values are legitimate.

    Args:
        subsets: 0 averages over all pairs of images, which has the least variance and no randomness of its own; a
            number averages over that many random subsets instead, 100 in torch-fidelity.
        subset_size, seed: of the subsets. Scores over subsets keep no blocks, because their choice is a further source
            of error that pairs of images do not share.
        device: of torch.

    Returns:
        The standard error is over the sampling of generated images, for this reference, by a jackknife of the
        estimator of all pairs; features with heavy tails have none, because it needs their sixth moments. With subsets,
        the error of their random choice is added to it. The deviation between subsets, which other tools print after a
        plus-minus sign, is `detail["subset_std"]`: it is no error of the mean.

    Raises:
        UsageError, NotComparable, InputRejected: as `kernel_sums` and `subset_discrepancies`.

    Source:
        Binkowski et al. 2018. subsets=100 agrees with torch-fidelity `metric_kid.py` for the same seed (mean and
        deviation), and in distribution with torchmetrics, which draws from a generator without a seed.
    """
    x, y = (features.values() for features in matched(generated, reference))
    chosen = None
    if subsets:
        chosen = subset_discrepancies(x, y, subsets=subsets, subset_size=subset_size, seed=seed, device=device)
    sums = kernel_sums(x, y, polynomial(x.shape[1]), device=device)
    value = sums.discrepancy(unbiased=True)
    error = of_jackknife(value, sums.without_each(unbiased=True), sums.sizes)
    lengths = np.square(x - x.mean(axis=0)).sum(axis=1)
    if tails_are_heavy(sums.each - sums.each.mean(), lengths, HEAVY):
        error = "the features have heavy tails, and the error of this kernel needs their sixth moments"
    # The biased estimate is positive and differs by what is nearly a constant: the error grows with it.
    positive = sums.discrepancy(unbiased=False)
    if chosen is None:
        return score(value, error, on_log_of=positive)
    deviation = float(chosen.std())
    if isinstance(error, Uncertainty):
        choice = Uncertainty(stderr=deviation / math.sqrt(subsets), df=max(subsets - 1, 1), method="subsets")
        error = of_independent([error, choice])
    return score(float(chosen.mean()), error, on_log_of=positive, detail={"subset_std": deviation})


def cmmd(*, generated: Evidence, reference: Evidence, sigma: float = 10.0, device: str = "cpu") -> Score:
    """1000 times the squared maximum mean discrepancy of CLIP embeddings under a Gaussian kernel.

    Embeddings are scaled to length 1 here, in float64.

    Args:
        sigma: width of the kernel.
        device: of torch.

    Returns:
        The standard error is a jackknife over blocks of generated images, for this reference.

    Raises:
        UsageError: sigma that is not positive, or an extractor without the tap "embedding".
        InputRejected: an embedding of length 0.

    Source:
        Jayasumana et al. 2024, with the V-statistic (pairs of an image with itself count) of google-research/cmmd.
        Differs in that the kernel less one is computed: float32 without it, as there, is good for two digits only.
        The published numbers are of ViT-L/14 at 336 pixels.
    """
    if not sigma > 0:
        raise UsageError(f"sigma must be positive; got {sigma}. The published numbers have 10.")
    x, y = (unit_vectors(features.values()) for features in matched(generated, reference, "embedding"))
    sums = kernel_sums(x, y, gaussian_less_one(sigma), device=device)
    value = sums.discrepancy(unbiased=False)
    error = of_jackknife(1000 * value, 1000 * sums.without_each(unbiased=False), sums.sizes)
    return score(1000 * value, error, bounds=NONNEGATIVE)


def unit_vectors(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (n, d) scaled to length 1.

    Raises:
        InputRejected: a row whose length is 0 or not finite.
    """
    exact = np.asarray(values, dtype=np.float64)
    lengths = np.linalg.norm(exact, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise InputRejected("An embedding has length 0 or is not finite; check the extractor's output.")
    return (exact / lengths).astype(np.float32)


KID = Metric(
    name="kid",
    summary="kernel distance of pooled features, unbiased in the number of images",
    source="Binkowski et al. 2018, arXiv:1801.01401; subsets=100 agrees with torch-fidelity",
    compute=kid,
    check=arguments.kernel,
    higher_is_better=False,
    minimum=2,
    invariances=frozenset({"order", "rotation"}),
    reads=lambda args: ("order",) if args.get("subsets") else (),
)

CMMD = Metric(
    name="cmmd",
    summary="kernel distance of CLIP embeddings, times 1000",
    source="Jayasumana et al. 2024, arXiv:2401.09603; google-research/cmmd",
    compute=cmmd,
    check=arguments.gaussian,
    taps=("embedding",),
    higher_is_better=False,
    bounds=(0.0, 2000.0),
    minimum=2,
    invariances=frozenset({"order", "rotation", "scale"}),
)
