"""Continuous-time Gaussian processes, as data: marginals, stochastic differential equations, what networks are told.

    dx = f(t) x dt + g(t) dw,   x_t = alpha(t) x_0 + sigma(t) eps,   t from 0 (clean) to 1 (noise),

with f = d log alpha / dt and g^2 = d sigma^2 / dt - 2 f sigma^2. Processes in discrete time stand in `schedules`.

Source: Song et al. 2021 (arXiv:2011.13456) sec. 3 and App. B to D; yang-song/score_sde_pytorch `sde_lib.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from baselines.ranges import at_least
from baselines.schedules import Level, Process, ratio_grid

_LEAST = 1e-5
"""The least time of training. Source: Song et al. 2021 App. C; yang-song/score_sde_pytorch `losses.py`."""


class Continuous(Process, Protocol):
    """A process in continuous time."""

    def level(self, time: float) -> Level:
        """The level of a time in [0, 1]."""
        ...

    def time(self, ratio: float) -> float:
        """The time of a noise-to-signal ratio sigma / alpha."""
        ...

    def drift(self, time: float) -> float:
        """f(t): the rate at which the signal is scaled."""
        ...

    def diffusion(self, time: float) -> float:
        """g(t)^2: the variance that is added in a unit of time."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class VariancePreserving:
    """The limit of DDPM's process: beta rises linearly from `low` to `high`, and the network is told 999 t.

    Source: Song et al. 2021 eq. 11 and App. C (33).
    """

    low: float = 0.1
    high: float = 20.0

    def _integral(self, time: float) -> float:
        """Integral of beta from 0 to t."""
        return self.low * time + 0.5 * (self.high - self.low) * time**2

    def level(self, time: float) -> Level:
        total = self._integral(time)
        return Level(999.0 * time, math.exp(-0.5 * total), math.sqrt(-math.expm1(-total)))

    def time(self, ratio: float) -> float:
        return _time_of_integral(self, math.log1p(ratio**2))

    def at(self, ratio: float) -> Level:
        alpha = (1.0 + ratio**2) ** -0.5
        return Level(999.0 * self.time(ratio), alpha, ratio * alpha)

    def drift(self, time: float) -> float:
        return -0.5 * (self.low + (self.high - self.low) * time)

    def diffusion(self, time: float) -> float:
        return self.low + (self.high - self.low) * time

    @property
    def lowest(self) -> float:
        """The ratio sigma / alpha of the least noise of training, that of time 1e-5."""
        return self.level(_LEAST).ratio

    @property
    def highest(self) -> float:
        """The ratio sigma / alpha of the most noise."""
        return self.level(1.0).ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class OfTime(VariancePreserving):
    """The same process, of which a network is told another multiple of the time, as the priors of LSGM are.

    Attributes:
        told: the factor.
    """

    told: float = 1000.0

    def level(self, time: float) -> Level:
        return VariancePreserving.level(self, time)._replace(t=self.told * time)

    def at(self, ratio: float) -> Level:
        return VariancePreserving.at(self, ratio)._replace(t=self.told * self.time(ratio))


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometric:
    """The variance of the noise rises geometrically from `low` to `high`, and data of variance 1 - `low` keep theirs.

    Attributes:
        low, high: variances at times 0 and 1.
        told: factor from the time to what a network is told.

    Source: Vahdat et al. 2021 App. B.1; NVlabs/LSGM `diffusion_continuous.py:DiffusionGeometric`, where sigma2_0 may
        differ from sigma2_min.
    """

    low: float = 3e-5
    high: float = 0.999
    told: float = 1000.0

    def _of_variance(self, variance: float) -> Level:
        time = math.log(variance / self.low) / math.log(self.high / self.low)
        return Level(self.told * time, math.sqrt((1 - variance) / (1 - self.low)), math.sqrt(variance))

    def level(self, time: float) -> Level:
        return self._of_variance(self.low * (self.high / self.low) ** time)

    def time(self, ratio: float) -> float:
        return self.at(ratio).t / self.told

    def at(self, ratio: float) -> Level:
        return self._of_variance(ratio**2 / (1 - self.low + ratio**2))

    def drift(self, time: float) -> float:
        return -0.5 * self.diffusion(time)

    def diffusion(self, time: float) -> float:
        variance = self.level(time).sigma ** 2
        return variance * math.log(self.high / self.low) / (1 - variance)

    @property
    def lowest(self) -> float:
        """The ratio sigma / alpha of the least noise, that of time 0."""
        return self.level(0.0).ratio

    @property
    def highest(self) -> float:
        """The ratio sigma / alpha of the most noise."""
        return self.level(1.0).ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class SubVariancePreserving(VariancePreserving):
    """The process of `VariancePreserving` with less noise at every time, because sigma is the square of its sigma.

    Source: Song et al. 2021 eq. 12 and App. C (34).
    """

    def level(self, time: float) -> Level:
        total = self._integral(time)
        return Level(999.0 * time, math.exp(-0.5 * total), -math.expm1(-total))

    def time(self, ratio: float) -> float:
        return _time_of_integral(self, 2.0 * math.asinh(0.5 * ratio))  # r = 2 sinh(B / 2)

    def at(self, ratio: float) -> Level:
        return self.level(self.time(ratio))

    def diffusion(self, time: float) -> float:
        return VariancePreserving.diffusion(self, time) * -math.expm1(-2.0 * self._integral(time))


def _time_of_integral(process: VariancePreserving, total: float) -> float:
    """The time at which beta has integrated to `total`: the positive root of a quadratic."""
    rise = process.high - process.low
    return 2.0 * total / (process.low + math.sqrt(process.low**2 + 2.0 * rise * total))


@dataclass(frozen=True, slots=True, kw_only=True)
class VarianceExploding:
    """The limit of score matching with Langevin dynamics: sigma rises geometrically, and the network is told sigma.

    Attributes:
        low, high: sigma at times 0 and 1, for images in [-1, 1]. The originals give them for images in [0, 1], half
            as large: 0.01 to 50 on CIFAR-10.

    Source:
        Song et al. 2021 eq. 9 and App. C (30). As in `sde_lib.py`, the variance at time t is sigma(t)^2, without
        subtracting sigma(0)^2.
    """

    low: float = 0.02
    high: float = 100.0

    def level(self, time: float) -> Level:
        return self.at(self.low * (self.high / self.low) ** time)

    def time(self, ratio: float) -> float:
        return math.log(ratio / self.low) / math.log(self.high / self.low)

    def at(self, ratio: float) -> Level:
        return Level(ratio, 1.0, ratio)

    def drift(self, time: float) -> float:
        return 0.0

    def diffusion(self, time: float) -> float:
        return self.level(time).sigma ** 2 * 2.0 * math.log(self.high / self.low)

    @property
    def lowest(self) -> float:
        """Sigma of the least noise of training, that of time 1e-5."""
        return self.level(_LEAST).sigma

    @property
    def highest(self) -> float:
        """Sigma of the most noise."""
        return self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class VarianceExplodingLog(VarianceExploding):
    """The process of `VarianceExploding` whose networks are told the logarithm of half of sigma.

    Source: Karras et al. 2022 Table 1, column VE; NVlabs/edm `VEPrecond`.
    """

    def at(self, ratio: float) -> Level:
        return Level(math.log(0.5 * ratio), 1.0, ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class VarianceExplodingDiscrete(VarianceExploding):
    """The levels of score matching with Langevin dynamics: networks are told the number of a level, 0 for the highest.

    Attributes:
        steps: number of levels, whose sigmas are a geometric progression from `high` down to `low`.

    Source:
        Song and Ermon 2019 sec. 3; yang-song/score_sde_pytorch `models/utils.py:get_sigmas`, `get_score_fn`. Differs:
        a sigma between two levels has a number between theirs, where the original rounds.
    """

    steps: int = 1000

    def at(self, ratio: float) -> Level:
        """The level of a ratio, which is sigma itself.

        Raises:
            ValueError: a ratio below the lowest or above the highest level.
        """
        if not self.low * (1 - 1e-9) <= ratio <= self.high * (1 + 1e-9):
            raise ValueError(
                f"sigma / alpha of this process lies in [{self.low:.4g}, {self.high:.4g}]; got {ratio:.4g}."
            )
        share = (math.log(self.high / ratio)) / math.log(self.high / self.low)
        return Level((self.steps - 1) * share, 1.0, ratio)

    @property
    def lowest(self) -> float:
        """Sigma of the lowest level."""
        return self.low


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosine:
    """alpha = cos and sigma = sin of an angle that grows linearly; log SNR lies in [-20, 20].

    Source: Nichol and Dhariwal 2021, in the continuous form of Salimans and Ho 2022 App. D and Ho and Salimans 2022.
    """

    limit: float = 20.0

    def _angle(self, time: float) -> float:
        first = math.atan(math.exp(-0.5 * self.limit))
        return first + (math.pi / 2 - 2 * first) * time

    def level(self, time: float) -> Level:
        angle = self._angle(time)
        return Level(angle / (math.pi / 2), math.cos(angle), math.sin(angle))

    def time(self, ratio: float) -> float:
        first = math.atan(math.exp(-0.5 * self.limit))
        return (math.atan(ratio) - first) / (math.pi / 2 - 2 * first)

    def at(self, ratio: float) -> Level:
        return self.level(self.time(ratio))

    def drift(self, time: float) -> float:
        return -math.tan(self._angle(time)) * (math.pi / 2 - 2 * math.atan(math.exp(-0.5 * self.limit)))

    def diffusion(self, time: float) -> float:
        return -2.0 * self.drift(time)  # variance is preserved: d sigma^2 / dt = 2 f (sigma^2 - 1)


def time_grid(process: Continuous, steps: int, *, end: float) -> list[Level]:
    """`steps` levels at times equidistant from 1 to `end`, then the clean one.

    Source: yang-song/score_sde_pytorch `sampling.py`, where `end` is 1e-3 (VP, sub-VP) or 1e-5 (VE).
    """
    at_least(1, steps=steps)
    width = (1.0 - end) / max(steps - 1, 1)
    return ratio_grid(process, [process.level(1.0 - i * width).ratio for i in range(steps)])
