"""How much noise is added when, and which of those levels a sampler visits.

A noisy image is x_t = alpha x_0 + sigma eps. A `Process` says what a network is told about a level. A `Grid` is the
list of levels that a sampler walks down, as Python floats, so that coefficients cost no device copy and keep float64.
The last level is part of the grid, so that samplers need no special case for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from baselines.ranges import at_least, descending, positive


class Level(NamedTuple):
    """A noise level of x = alpha x_0 + sigma eps.

    Attributes:
        t: what the network is told, a timestep or another function of the level.
        alpha, sigma: scales of signal and noise. A denoiser, but no step, also takes levels of which every image has
            its own: t of shape (b,), alpha and sigma of shape (b, 1, 1, 1), all tensors.
    """

    t: float
    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """Noise over signal, sigma / alpha, on which alone the clean image of x / alpha depends."""
        return self.sigma / self.alpha


Grid = Sequence[Level]
CLEAN = Level(t=-1.0, alpha=1.0, sigma=0.0)


class Process(Protocol):
    """How noise is added, for the network that was trained so: every role of a system may have another process."""

    def at(self, ratio: float) -> Level:
        """The level of a noise-to-signal ratio sigma / alpha, on or between the trained ones."""
        ...


def betas(kind: str, steps: int = 1000, *, low: float = 1e-4, high: float = 2e-2) -> NDArray[np.float64]:
    """Variances of the forward process, one a step.

    Args:
        kind: "linear" in beta (DDPM); "scaled_linear" in the square root of beta (what LDM's configurations call
            linear); "cosine" in alpha-bar, with s = 0.008 and beta <= 0.999 (improved DDPM); "sigmoid" in alpha-bar,
            from -3 to 3 at temperature 1 (Jabri et al. 2022); "inverse" erases an equal share of the signal's
            variance in every step (Sohl-Dickstein et al. 2015); "integrated" is that of few steps, see `integrated`.
        low, high: first and last beta of the linear kinds; for another number of steps than 1000 pass them scaled.
            Of "integrated", the rates at times 0 and 1.

    Returns:
        float64 (steps,), in (0, 1).

    Raises:
        ValueError: an unknown kind.

    Source:
        Ho et al. 2020 sec. 4; Nichol and Dhariwal 2021 eq. 17; Rombach et al. 2022 App. E; Jabri et al. 2022
        (arXiv:2212.11972) Alg. 3, with Chen 2023 (arXiv:2301.10972) eq. in Alg. 1; Sohl-Dickstein et al. 2015 sec.
        2.4.1, with the first and last betas of Sohl-Dickstein/Diffusion-Probabilistic-Models `model.py`.
    """
    if kind == "linear":
        return np.linspace(low, high, steps, dtype=np.float64)
    if kind == "scaled_linear":
        return np.linspace(low**0.5, high**0.5, steps, dtype=np.float64) ** 2
    if kind == "integrated":
        return -np.expm1(np.diff(integrated(steps, low=low, high=high)))
    if kind == "inverse":
        beta = 1.0 / np.linspace(steps, 2.0, steps, dtype=np.float64)  # sec. 2.4.1: 1 / (T - t + 1)
        beta[0] += 1e-3
        return np.clip(beta, 1e-6, 1.0 - 1e-5)
    u = np.linspace(0.0, 1.0, steps + 1, dtype=np.float64)
    if kind == "cosine":
        remaining = np.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2  # Nichol and Dhariwal 2021 eq. 17
    elif kind == "sigmoid":
        start, end = -3.0, 3.0
        logistic = 1.0 / (1.0 + np.exp(u * (end - start) + start))
        remaining = (logistic - logistic[-1]) / (logistic[0] - logistic[-1])
    else:
        raise ValueError(
            f"No noise schedule {kind!r}; there are linear, scaled_linear, cosine, sigmoid, inverse and integrated."
        )
    return np.minimum(1.0 - remaining[1:] / remaining[:-1], 0.999)


def integrated(steps: int, *, low: float = 0.1, high: float = 20.0, first: float = 1e-3) -> list[float]:
    """Logarithms of alpha-bar of a process whose rate of noise is linear in time, at steps + 1 equidistant times.

    A chain of `steps` starts at the clean image, not at the level of the first time: its betas are those between them.

    Args:
        low, high: the rate, beta(t), at times 0 and 1.
        first: the first time; the last is 1.

    Source: Xiao et al. 2022 App. C, eq. 8; NVlabs/denoising-diffusion-gan `train_ddgan.py:get_sigma_schedule`.
    """
    times = (first + (1 - first) * i / steps for i in range(steps + 1))
    return [-(low * t + (high - low) * t**2 / 2) for t in times]


def signal(beta: NDArray[np.float64]) -> NDArray[np.float64]:
    """alpha-bar: the cumulative product of 1 - beta, float64, of the shape of beta."""
    return np.cumprod(1.0 - beta, dtype=np.float64)


class Trained(Process, Protocol):
    """A process that a network was trained on, from the ratio `lowest` to the ratio `highest`. All are dataclasses."""

    @property
    def lowest(self) -> float:
        """The ratio sigma / alpha of the least noise."""
        ...

    @property
    def highest(self) -> float:
        """The ratio sigma / alpha of the most noise."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrete:
    """A variance-preserving process in discrete time, as of DDPM and its descendants.

    Attributes:
        schedule, steps, low, high: see `betas`.
        told: factor from the timestep to what the network is told; 1000 / steps where improved diffusion rescales
            timesteps (`rescale_timesteps`), which is its default.

    Source:
        openai/improved-diffusion `gaussian_diffusion.py:_scale_timesteps`.
    """

    schedule: str = "linear"
    steps: int = 1000
    low: float = 1e-4
    high: float = 2e-2
    told: float = 1.0

    @property
    def beta(self) -> NDArray[np.float64]:
        """Variances of the forward process, float64 (steps,)."""
        return betas(self.schedule, self.steps, low=self.low, high=self.high)

    def grid(self, timesteps: Sequence[int], *, last: Level = CLEAN) -> list[Level]:
        """The descending grid over `timesteps`, ending on `last`."""
        return discrete_grid(self.beta, timesteps, last=last, told=self.told)

    @property
    def lowest(self) -> float:
        """The ratio sigma / alpha of timestep 0, below which no network was trained."""
        return math.exp(_log_ratios(self)[0])

    @property
    def highest(self) -> float:
        """The ratio sigma / alpha of the last timestep."""
        return math.exp(_log_ratios(self)[-1])

    def at(self, ratio: float) -> Level:
        """The level of a ratio sigma / alpha; between two timesteps t is linear in the logarithm of the ratio.

        Raises:
            ValueError: a ratio below that of timestep 0 or above that of the last one.
        """
        logs = _log_ratios(self)
        wanted = math.log(ratio) if ratio > 0 else -math.inf
        # A ratio that was computed from alpha and sigma of the first or last level may miss it by rounding.
        if not logs[0] - 1e-9 <= wanted <= logs[-1] + 1e-9:
            low, high = math.exp(logs[0]), math.exp(logs[-1])
            raise ValueError(f"sigma / alpha of this process lies in [{low:.4g}, {high:.4g}]; got {ratio:.4g}.")
        alpha = (1 + ratio**2) ** -0.5
        return Level(float(np.interp(wanted, logs, np.arange(self.steps))) * self.told, alpha, ratio * alpha)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variational:
    """A variance-preserving process in continuous time whose networks are told how far gamma = -log SNR has risen.

    Attributes:
        low, high: gamma of the least and of the most noise that a network was trained on.

    Source: Kingma et al. 2021 sec. 3.1; google-research/vdm, where 1000 times the share of the way is told.
    """

    low: float
    high: float

    @property
    def lowest(self) -> float:
        """The ratio sigma / alpha of the least noise."""
        return math.exp(0.5 * self.low)

    @property
    def highest(self) -> float:
        """The ratio sigma / alpha of the most noise."""
        return math.exp(0.5 * self.high)

    def at(self, ratio: float) -> Level:
        """The level of a ratio sigma / alpha.

        Raises:
            ValueError: a ratio out of the range of training.
        """
        if not self.lowest * (1 - 1e-9) <= ratio <= self.highest * (1 + 1e-9):
            bounds = f"[{self.lowest:.4g}, {self.highest:.4g}]"
            raise ValueError(f"sigma / alpha of this process lies in {bounds}; got {ratio:.4g}.")
        alpha = (1 + ratio**2) ** -0.5
        return Level(1000 * (2 * math.log(ratio) - self.low) / (self.high - self.low), alpha, ratio * alpha)


@cache
def _log_ratios(process: Discrete) -> NDArray[np.float64]:
    """Logarithms of sigma / alpha of every timestep, float64 (steps,), ascending."""
    remaining = signal(process.beta)
    return 0.5 * np.log((1 - remaining) / remaining)


def subsequence(steps: int, total: int, spacing: str) -> list[int]:
    """The timesteps that a sampler of `steps` steps visits, ascending.

    Args:
        steps: how many, 1 <= steps <= total.
        total: of the training process.
        spacing: "uniform": multiples of total // steps from 0, the first `steps` of them (DDIM's "uniform", ADM's
            "ddimS", diffusers' "leading"); "offset": the same plus 1 (latent diffusion); "quadratic": floor of the
            squares of `steps` equidistant numbers in [0, sqrt(0.8 total)] (DDIM on CIFAR-10; low levels may coincide,
            and then count once); "respaced": `sections` of one count (improved diffusion, ADM); "trailing": ends at
            total - 1, strides back from there (Lin et al. 2023); numbers with commas, such as "90,60,60,20,20":
            `sections` of those counts, whose sum is `steps`.

    Raises:
        ValueError: steps out of range; an unknown spacing; an offset that leaves the process; a number of steps of
            which "uniform" or "offset" would leave out more than the last tenth of the process, so that a walk from
            pure noise would begin where much of the image is left.

    Source:
        ermongroup/ddim `runners/diffusion.py`, where "uniform" yields more than S entries when S does not divide T
        (this keeps S, as diffusers does), and where "quadratic" repeats timestep 0, a step from a level to itself,
        which has no effect in `ddim`. CompVis/latent-diffusion `util.py:make_ddim_timesteps`, which for S = 400 runs
        500 steps; this runs 400. diffusers' "trailing" subtracts a float stride, by which it rounds half of a timestep
        otherwise for some counts (48, 96, 112) and visits timestep -1 for others (61, 103, 121).
    """
    if not 1 <= steps <= total:
        raise ValueError(f"steps must lie in [1, {total}], the length of the training process; got {steps}.")
    if spacing in ("uniform", "offset"):
        stride, first = total // steps, int(spacing == "offset")
        chosen = [first + stride * i for i in range(steps)]
        if chosen[-1] >= total:
            raise ValueError(f"spacing='offset' with {steps} of {total} steps would visit timestep {chosen[-1]}.")
        if 10 * (total - stride * steps) > total:
            raise ValueError(
                f"spacing={spacing!r} with {steps} of {total} steps would begin at timestep {chosen[-1]}, where much "
                f"of the image is left, with pure noise; use spacing='respaced' or 'trailing', or a divisor of {total}."
            )
        return chosen
    if spacing == "quadratic":
        return sorted({int(v) for v in np.linspace(0.0, math.sqrt(0.8 * total), steps) ** 2})
    if spacing == "respaced":
        return sections([steps], total)
    if spacing == "trailing":
        return sorted({round(total - i * total / steps) - 1 for i in range(steps)})
    if re.fullmatch(r"\d+(,\d+)+", spacing):
        counts = [int(count) for count in spacing.split(",")]
        if sum(counts) != steps:
            raise ValueError(f"spacing={spacing!r} makes {sum(counts)} steps; got steps={steps}.")
        return sections(counts, total)
    raise ValueError(
        f"No spacing {spacing!r}; there are uniform, offset, quadratic, respaced, trailing, and counts of sections "
        "such as '90,60,60,20,20'."
    )


def sections(counts: Sequence[int], total: int) -> list[int]:
    """The timesteps of a process cut into equal sections, each with a number of steps of its own, ascending.

    Args:
        counts: steps of each section, the one with the least noise first; [90, 60, 60, 20, 20] is ADM's for LSUN.
        total: of the training process. What the number of sections leaves over lengthens the first ones by 1.

    Raises:
        ValueError: a section with fewer than 1 step or more steps than timesteps.

    Source:
        openai/guided-diffusion `respace.py:space_timesteps`: both ends of a section are visited, and between them a
        float running sum of strides is rounded, which differs from rounding the exact numbers for 283 of the counts
        up to 1000.
    """
    visited, first = [], 0
    for i, count in enumerate(counts):
        size = total // len(counts) + (i < total % len(counts))
        if not 1 <= count <= size:
            raise ValueError(f"Section {i + 1} of {len(counts)} takes 1 to {size} steps, its timesteps; got {count}.")
        stride, position = (size - 1) / max(count - 1, 1), 0.0
        for _ in range(count):
            visited.append(first + round(position))
            position += stride
        first += size
    return visited


def discrete_grid(
    beta: NDArray[np.float64], timesteps: Sequence[int], *, last: Level = CLEAN, told: float = 1.0
) -> list[Level]:
    """The descending grid over `timesteps` of a discrete process, ending on `last`.

    Latent diffusion's DDIM lands on alpha-bar of timestep 0 instead of on the clean image: pass that level as `last`.

    Args:
        told: factor from the timestep to what the network is told, see `Discrete`.
    """
    remaining = signal(beta)
    return [
        Level(t * told, float(remaining[t] ** 0.5), float((1.0 - remaining[t]) ** 0.5))
        for t in sorted(timesteps, reverse=True)
    ] + [last]


@dataclass(frozen=True, slots=True)
class Exploding:
    """A variance-exploding process: the signal keeps its scale, and `told` maps sigma to what the network is told."""

    told: Callable[[float], float]

    def at(self, ratio: float) -> Level:
        """The level of a ratio, which is sigma itself."""
        return Level(self.told(ratio), 1.0, ratio)


def _quarter_log(sigma: float) -> float:
    return math.log(sigma) / 4


EDM = Exploding(_quarter_log)
"""The process of EDM: the network is told log(sigma) / 4. Source: Karras et al. 2022 Table 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSigma:
    """A variance-exploding process whose networks are told the logarithm of sigma.

    Attributes:
        low, high: sigma of the least and of the most noise that a network was trained on.
        told: factor of the logarithm: 1/4 of EDM, 250 of consistency models.

    Source: Karras et al. 2022 Table 1; openai/consistency_models `karras_diffusion.py`.
    """

    low: float = 0.002
    high: float = 80.0
    told: float = 0.25

    @property
    def lowest(self) -> float:
        """Sigma of the least noise."""
        return self.low

    @property
    def highest(self) -> float:
        """Sigma of the most noise."""
        return self.high

    def at(self, ratio: float) -> Level:
        """The level of a ratio, which is sigma itself."""
        return Level(self.told * math.log(ratio), 1.0, ratio)


def rho_ratios(shares: Sequence[float], *, low: float, high: float, rho: float = 7.0) -> list[float]:
    """Ratios sigma / alpha at shares of the way from `high` (0) to `low` (1), on which their rho-th root is linear.

    Source: Karras et al. 2022 eq. 5.
    """
    descending(low, high)
    positive(rho=rho)
    top, bottom = high ** (1 / rho), low ** (1 / rho)
    return [(top + share * (bottom - top)) ** rho for share in shares]  # eq. 5


def karras_ratios(steps: int, *, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> list[float]:
    """`steps` ratios sigma / alpha from `high` down to `low`, equidistant in their rho-th root."""
    at_least(1, steps=steps)
    return rho_ratios([i / max(steps - 1, 1) for i in range(steps)], low=low, high=high, rho=rho)


def log_ratios(steps: int, *, low: float, high: float) -> list[float]:
    """Ratios sigma / alpha from `high` down to `low`, in geometric progression: equidistant in log SNR."""
    at_least(1, steps=steps)
    descending(low, high)
    return [high * (low / high) ** (i / max(steps - 1, 1)) for i in range(steps)]


def ratio_grid(process: Process, ratios: Sequence[float], *, last: Level = CLEAN) -> list[Level]:
    """The levels of a process at the given ratios, descending, ending on `last`."""
    return [*(process.at(ratio) for ratio in ratios), last]


def karras_grid(steps: int, *, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> list[Level]:
    """EDM's variance-exploding grid: sigma^(1/rho) equidistant from `high` to `low`, then clean.

    Source: Karras et al. 2022 eq. 5.
    """
    return ratio_grid(EDM, karras_ratios(steps, low=low, high=high, rho=rho))
