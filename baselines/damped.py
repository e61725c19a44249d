"""Critically-damped Langevin diffusion: every value of an image is coupled to a velocity, and only that is noised.

    dx = v / M beta dt,   dv = (-x - Gamma v / M) beta dt + sqrt(2 Gamma beta) dw,   Gamma = 2 sqrt(M),

from t = 0 (clean x, v of variance gamma M) to t = 1 (x of variance 1, v of variance M). A state u is the image and
behind it, as further channels, the velocity. A network has to know the score of the velocity alone, or what says the
same, the noise of the velocity. `Level.t` is the time here, and `Level.sigma` is `CriticallyDamped.ratio`.

Source: Dockhorn et al. 2022 (arXiv:2112.07068); nv-tlabs/CLD-SGM `sde_lib.py`, `losses.py`, `sampling.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.denoisers import Condition, Denoiser, Output, Prediction
from baselines.noise import Noise
from baselines.ode import Slope, chosen, solve
from baselines.ranges import at_least, positive
from baselines.sampling import Sampler, Watch
from baselines.schedules import Grid, Level, Process
from baselines.steps import Step
from baselines.training import Loss

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """q(x_t, v_t | x_0) with the first velocity integrated out, of one value: N(x_0 mean, factor factor^T).

    Attributes:
        mean: (..., 2), of position and velocity for x_0 = 1.
        factor: (..., 2, 2), lower triangular.
    """

    mean: Array
    factor: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticallyDamped:
    """The process as data. Times may be numbers or arrays of any shape, which the results then have in front.

    Attributes:
        mass: M.
        beta: the rate of time at time 0.
        rise: how much it grows until time 1; 0 is the paper's constant rate.
        share: gamma, the variance of the velocity at time 0 over that at time 1.
        floor: what is added to both variances, without which the kernel is singular at the first times.
    """

    mass: float = 0.25
    beta: float = 4.0
    rise: float = 0.0
    share: float = 0.04
    floor: float = 1e-9

    @property
    def friction(self) -> float:
        """Gamma at critical damping."""
        return 2.0 * math.sqrt(self.mass)

    def rate(self, time: Any) -> Any:
        """The rate of time at time t, beta(t), for numbers, arrays and tensors."""
        return self.beta + self.rise * time

    def passed(self, time: float | Array) -> Array:
        """The integral of the rate from time 0 to t."""
        t = np.asarray(time, np.float64)
        return self.beta * t + 0.5 * self.rise * t**2

    def propagator(self, time: float | Array) -> Array:
        """What (x, v) of time 0 have become on average at time t, (..., 2, 2). Source: eq. 18 of App. B.1."""
        b, rate = self.passed(time), self.mass**-0.5
        rows = [[1 + rate * b, rate**2 * b], [-b, 1 - rate * b]]
        return np.exp(-rate * b)[..., None, None] * np.moveaxis(np.array(rows), (0, 1), (-2, -1))

    def covariance(self, time: float | Array, *, x0: float = 0.0, v0: float | None = None) -> Array:
        """Covariance of (x, v) at time t for variances x0 and v0 at time 0 (gamma M), (..., 2, 2).

        The process forgets by the propagator how far it was from its equilibrium (1, 0, M). Source: App. B.1 (19).
        """
        moved, rest = self.propagator(time), np.diag([1.0, self.mass])
        first = np.diag([x0, self.share * self.mass if v0 is None else v0])
        return rest - moved @ (rest - first) @ np.swapaxes(moved, -1, -2)

    def kernel(self, time: float | Array) -> Kernel:
        """The kernel of hybrid score matching. Source: sec. 3.2 and App. B.3."""
        covariance = self.covariance(time) + self.floor * np.eye(2)
        return Kernel(mean=self.propagator(time)[..., :, 0], factor=np.linalg.cholesky(covariance).astype(np.float64))

    def ratio(self, time: float | Array) -> Array:
        """Noise over signal of the combination of x and v that tells most of x_0: what a usual process calls sigma."""
        k = self.kernel(time)
        white = np.linalg.solve(k.factor, k.mean[..., None])[..., 0]
        return (white**2).sum(-1) ** -0.5

    def time(self, ratio: float) -> float:
        """The time at which `ratio` has this value, by bisection."""
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.ratio(middle) < ratio else (low, middle)
        return 0.5 * (low + high)

    def at(self, ratio: float) -> Level:
        """The level of a `ratio`, of which networks are told the time."""
        return Level(self.time(ratio), 1.0, ratio)

    @property
    def lowest(self) -> float:
        """The `ratio` of the least noise of training, that of time 1e-5."""
        return float(self.ratio(1e-5))

    @property
    def highest(self) -> float:
        """The `ratio` of time 1."""
        return float(self.ratio(1.0))

    def grid(self, steps: int, *, end: float, striding: str = "quadratic") -> list[Level]:
        """`steps` noisy levels from time 1 to time `end`, then the clean one.

        Args:
            striding: "linear" or "quadratic" in the way to go (App. E).
        """
        at_least(1, steps=steps)
        power = {"linear": 1, "quadratic": 2}[striding]
        shares = [((steps - 1 - i) / max(steps - 1, 1)) ** power for i in range(steps)]
        times = [end + (1.0 - end) * share for share in shares]
        return [*(Level(t, 1.0, float(self.ratio(t))) for t in times), Level(0.0, 1.0, 0.0)]


def halves(u: Tensor) -> tuple[Tensor, Tensor]:
    """The image and the velocity of a state."""
    x, v = u.chunk(2, dim=1)
    return x, v


def _levels(process: CriticallyDamped, times: Tensor) -> Level:
    """The levels of a batch of images, each at its own time."""
    # Of tensors, which a level may have and its types do not say.
    return Level(times, 1.0, torch.from_numpy(process.ratio(times.numpy())))  # type: ignore[arg-type]


def _wide(value: Array, like: Tensor) -> Any:
    """A coefficient as a number, or one for each image, as a tensor that broadcasts against images."""
    if value.ndim == 0:
        return float(value)
    return torch.from_numpy(np.ascontiguousarray(value)).view(-1, *[1] * (like.ndim - 1)).to(like)


def _times(level: Level) -> float | Array:
    return level.t.double().cpu().numpy() if isinstance(level.t, Tensor) else level.t


def clean(process: CriticallyDamped, u: Tensor, level: Level, noise: Tensor) -> Tensor:
    """The image x_0 that a state and the noise of its velocity belong to.

    x and v are two equations for two unknowns, x_0 and the noise of x. They are linear, and so hold on average too.
    """
    (x, v), k = halves(u), process.kernel(_times(level))
    slope = k.factor[..., 1, 0] / k.factor[..., 0, 0]
    apart = v - _wide(slope, u) * x - _wide(k.factor[..., 1, 1], u) * noise
    return apart / _wide(k.mean[..., 1] - slope * k.mean[..., 0], u)


def noise_of(process: CriticallyDamped, u: Tensor, level: Level, x0: Tensor) -> Tensor:
    """The noise of the velocity of a state of which the image is known; the inverse of `clean`."""
    (x, v), k = halves(u), process.kernel(_times(level))
    slope = k.factor[..., 1, 0] / k.factor[..., 0, 0]
    apart = v - _wide(slope, u) * x - _wide(k.mean[..., 1] - slope * k.mean[..., 0], u) * x0
    return apart / _wide(k.factor[..., 1, 1], u)


def mixed(process: CriticallyDamped, u: Tensor, level: Level, output: Tensor) -> Tensor:
    """The noise of the velocity by a network that learns what is not Gaussian in it.

    Source: eq. 8 and App. B.4 (mixed score): s = -l alpha, alpha = v / (l Sigma_vv) + output, l = 1 / factor_vv. Sigma
    is the covariance for an image that is 0, as in `sde_lib.py`.
    """
    times = _times(level)
    gaussian = process.kernel(times).factor[..., 1, 1] / (process.covariance(times)[..., 1, 1] + process.floor)
    return output + _wide(gaussian, u) * halves(u)[1]


def hybrid(process: CriticallyDamped, output: Output, told: Process) -> Denoiser:
    """The denoiser of a network that was trained by `hybrid_score_matching`.

    Args:
        told: says for a `CriticallyDamped.ratio` what the network is told.
    """

    def predict(u: Tensor, level: Level, condition: Condition) -> Prediction:
        t = torch.as_tensor(_told(told, level), dtype=torch.float32, device=u.device).expand(len(u))
        noise = mixed(process, u, level, output(u, t, condition))
        return Prediction(clean(process, u, level, noise), noise)

    return predict


def lifted(process: CriticallyDamped, denoise: Denoiser, told: Process) -> Denoiser:
    """The denoiser of a network that knows no velocities: it is shown what x and v together say of the image.

    The state is a Gaussian observation of x_0. All that it says is in y = a^T S^-1 u / a^T S^-1 a, with the mean a and
    the covariance S of the kernel, and y is x_0 with noise of the standard deviation `CriticallyDamped.ratio`.
    """

    def predict(u: Tensor, level: Level, condition: Condition) -> Prediction:
        times, (x, v) = _times(level), halves(u)
        k, ratio = process.kernel(times), process.ratio(times)
        weights = np.linalg.solve(k.factor @ np.swapaxes(k.factor, -1, -2), k.mean[..., None])[..., 0]
        y = _wide(weights[..., 0] * ratio**2, u) * x + _wide(weights[..., 1] * ratio**2, u) * v
        p = Level(_told(told, level), _wide((1 + ratio**2) ** -0.5, u), _wide(ratio * (1 + ratio**2) ** -0.5, u))
        x0 = denoise(p.alpha * y, p, condition).x0
        return Prediction(x0, noise_of(process, u, level, x0))

    return predict


def limited(process: CriticallyDamped, denoise: Denoiser) -> Denoiser:
    """The same denoiser with its image limited to [-1, 1], and the noise that belongs to it."""

    def predict(u: Tensor, level: Level, condition: Condition) -> Prediction:
        x0 = denoise(u, level, condition).x0.clamp(-1, 1)
        return Prediction(x0, noise_of(process, u, level, x0))

    return predict


def _told(process: Process, level: Level) -> Any:
    """What a network is told of a level, for each image where every one has its own."""
    if isinstance(process, CriticallyDamped):
        return level.t
    if isinstance(level.sigma, Tensor):
        return torch.tensor([process.at(ratio).t for ratio in level.sigma.flatten().tolist()])
    return process.at(level.sigma).t


def hybrid_score_matching(process: CriticallyDamped, told: Process, *, end: float) -> Loss:
    """Hybrid score matching: the noise of the velocity is predicted, at times in [`end`, 1].

    Args:
        told: see `hybrid`.

    Source:
        Dockhorn et al. 2022 eq. 7 and sec. 3.2, with the weight of `losses.py` "reweightedv2". Differs: times are drawn
        as the quadratic striding of `CriticallyDamped.grid` visits them, and those of a batch are stratified.
    """

    def loss(network: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        x0, count = batch["x0"], len(batch["x0"])
        shares = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1.0
        times = end + (1.0 - end) * shares.double().numpy() ** 2
        k = process.kernel(times)
        eps = torch.randn((2, *x0.shape), generator=generator).to(x0.device)
        x = _wide(k.mean[:, 0], x0) * x0 + _wide(k.factor[:, 0, 0], x0) * eps[0]
        v = _wide(k.mean[:, 1], x0) * x0 + _wide(k.factor[:, 1, 0], x0) * eps[0] + _wide(k.factor[:, 1, 1], x0) * eps[1]
        u = torch.cat([x, v], dim=1)
        level = _levels(process, torch.from_numpy(times))
        condition = {name: value for name, value in batch.items() if name != "x0"}
        output = network(u, _told(told, level).to(x0.device), **condition).float()
        return (mixed(process, u, level, output) - eps[1]).square().mean()  # eq. 7

    return loss


def score(process: CriticallyDamped, denoise: Denoiser, u: Tensor, level: Level, condition: Condition) -> Tensor:
    """Score of the velocity, (b, c, h, w). Source: App. B.3, -l eps."""
    return -denoise(u, level, condition).eps / _wide(process.kernel(_times(level)).factor[..., 1, 1], u)


def euler_maruyama(process: CriticallyDamped) -> Step:
    """One step of the reverse equation; the last one, onto the clean level, adds no noise. Source: App. D."""
    friction, mass = process.friction, process.mass

    def step(denoise: Denoiser, u: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q, (x, v) = grid[i], grid[i + 1], halves(u)
        width = process.rate(p.t) * (p.t - q.t)
        s = score(process, denoise, u, p, condition)
        moved = v + width * (x + friction / mass * v + 2 * friction * s)
        if q.sigma > 0:
            moved = moved + math.sqrt(2 * friction * width) * noise(i + 1, v)
        return torch.cat([x - width / mass * v, moved], dim=1)

    return step


def sscs(process: CriticallyDamped) -> Step:
    """One step of the symmetric splitting CLD sampler: half of what is solved exactly, the score, the other half.

    The exact part is the process itself, run so that it would turn the other way round, and keeps its equilibrium. The
    last step, onto the clean level, is that of `euler_maruyama`.

    Source:
        Dockhorn et al. 2022 Alg. 1 and sec. 3.3; `sampling.py`. Differs: where the rate of time rises, the second half
        is as long as the time that is left, where the original takes the length of the first half again.
    """
    friction, mass, last = process.friction, process.mass, euler_maruyama(process)

    def step(denoise: Denoiser, u: Tensor, grid: Grid, i: int, noise: Noise, condition: Condition) -> Tensor:
        p, q = grid[i], grid[i + 1]
        if q.sigma == 0:
            return last(denoise, u, grid, i, noise, condition)
        width = p.t - q.t
        first, second = _halves_of(process, p.t, q.t)
        x, v = halves(exact_half(process, u, first, noise(i + 1, u)))
        middle = torch.cat([x, v], dim=1)
        s = score(process, denoise, middle, p, condition)
        v = v + 2 * friction * process.rate(p.t) * width * (s + v / mass)  # Alg. 1 line 6
        return exact_half(process, torch.cat([x, v], dim=1), second, noise(i + 1, u, 1))

    return step


def _halves_of(process: CriticallyDamped, start: float, end: float) -> tuple[float, float]:
    """The widths that the two halves of a step would belong to if the rate of time were always that of time 0."""
    if not process.rise:
        return start - end, start - end
    a, b, c = (float(process.passed(time)) for time in (start, 0.5 * (start + end), end))
    return 2 * (a - b) / process.beta, 2 * (b - c) / process.beta


def exact_half(process: CriticallyDamped, u: Tensor, width: float, noise: Tensor) -> Tensor:
    """Half a step of the part of the reverse equation that has a closed solution, with the noise of both halves of u.

    Args:
        width: of the whole step, in time that passes at the rate of time 0.

    Source: App. D.2. It is the process in its own time with the opposite sign of x.
    """
    turn, process = np.diag([-1.0, 1.0]), replace(process, rise=0.0)
    moved = turn @ process.propagator(0.5 * width) @ turn
    factor = np.linalg.cholesky(turn @ process.covariance(0.5 * width, v0=0.0) @ turn)
    (x, v), (a, b) = halves(u), halves(noise)
    return torch.cat(
        [
            moved[0, 0] * x + moved[0, 1] * v + factor[0, 0] * a,
            moved[1, 0] * x + moved[1, 1] * v + factor[1, 0] * a + factor[1, 1] * b,
        ],
        dim=1,
    )


def probability_flow(process: CriticallyDamped, *, end: float, rtol: float = 1e-5, atol: float = 1e-5) -> Sampler:
    """The sampler that solves the ODE from time 1 to time `end`, then takes the last step of `euler_maruyama`.

    Source: Dockhorn et al. 2022 App. B.5: half of the score in place of the noise.
    """
    positive(rtol=rtol, atol=atol)
    last = euler_maruyama(process)

    def run(denoise: Denoiser, x: Tensor, noise: Noise, condition: Condition, watch: Watch | None = None) -> Tensor:
        u, slope = x, flow(process, denoise, x, condition)
        with torch.no_grad():
            found = solve(slope, u.double().flatten(1).cpu(), 1.0, end, rtol=rtol, atol=atol)
            grid = [Level(end, 1.0, float(process.ratio(end))), Level(0.0, 1.0, 0.0)]
            u = last(denoise, found.state.view(u.shape).to(u), grid, 0, noise, condition)
        if watch is not None:
            watch(1, 1, u)
        return u

    return run


def flow(process: CriticallyDamped, denoise: Denoiser, like: Tensor, condition: Condition) -> Slope:
    """du / dt of the probability-flow ODE, see `baselines.ode.Slope`."""
    shape, count = like.shape[1:], len(like)

    def slope(time: Tensor, state: Tensor, which: Tensor) -> Tensor:
        u = state.view(-1, *shape).to(like)
        level = _levels(process, time)
        (x, v), s = halves(u), score(process, denoise, u, level, chosen(condition, which, count))
        dx = v / process.mass
        dv = -x - process.friction * (v / process.mass + s)
        moved = torch.cat([dx, dv], dim=1).double().flatten(1).cpu()
        return process.rate(time)[:, None] * moved if process.rise else process.beta * moved

    return slope


def bound(
    process: CriticallyDamped,
    denoise: Denoiser,
    images: Tensor,
    noise: Noise,
    condition: Condition,
    *,
    end: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Tensor:
    """Upper bound of the negative log-likelihood of 8-bit images, by the flow of positions and velocities.

    The flow gives the density of both, at time `end`. Of the velocities one draw is taken from N(a x, S), which is what
    the kernel says of them, and their entropy is subtracted: log p(x) >= E log p(x, v) + H(v).

    Args:
        images: uint8 (b, c, h, w).
        noise: its draw 0 is that of the velocities. Stream 7 gives the signs of the probe of the trace, and stream 8
            dequantises.

    Returns:
        Bits a dimension, float64 (b,).

    Source: Dockhorn et al. 2022 App. B.5 and E.1, where `end` is 1e-5 and so N(a x, S) is N(0, gamma M).
    """
    whole = images.double()
    x0 = (whole + torch.special.ndtr(noise(0, whole, 8))) / 128.0 - 1.0
    k, d = process.kernel(end), x0[0].numel()
    variance = float((k.factor[1] ** 2).sum())
    v0 = float(k.mean[1]) * x0 + math.sqrt(variance) * noise(0, x0)
    u0 = torch.cat([x0, v0], dim=1)
    like, probe = u0.float(), torch.sign(noise(0, x0.float(), 7))
    move = flow(process, denoise, like, condition)

    def slope(time: Tensor, state: Tensor, which: Tensor) -> Tensor:
        with torch.enable_grad():
            u = state[:, :-1].clone().requires_grad_()
            moved = move(time, u, which)
            v, signs = moved.view(-1, 2, d)[:, 1], probe[which.to(probe.device)].flatten(1).cpu().double()
            (product,) = torch.autograd.grad((v * signs).sum(), u)
        trace = (product.view(-1, 2, d)[:, 1] * signs).sum(1)  # positions have no part in the divergence
        return torch.cat([moved.detach(), trace[:, None]], dim=1)

    start = torch.cat([u0.flatten(1).cpu(), torch.zeros(len(u0), 1, dtype=torch.float64)], dim=1)
    found = solve(slope, start, end, 1.0, rtol=rtol, atol=atol).state
    x, v = found[:, :-1].view(-1, 2, d).unbind(1)
    prior = -0.5 * (x.square() + v.square() / process.mass + math.log(process.mass) + 2 * math.log(2 * math.pi)).sum(1)
    entropy = 0.5 * d * (1 + math.log(2 * math.pi * variance))
    return -(prior + found[:, -1] + entropy) / (d * math.log(2.0)) + 7.0
