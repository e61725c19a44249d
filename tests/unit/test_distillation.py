"""Losses of distillation on Gaussian data, where teachers and perfect students are linear maps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from oracles import keyed
from torch import Tensor, nn

from baselines.denoisers import Condition, Prediction
from baselines.distillation import consistency_loss, halving_loss
from baselines.schedules import EDM, karras_ratios, rho_ratios
from baselines.systems.consistency import consistent, noising

SPREAD = 0.6
"""Standard deviation of the data."""


def told(ratio: Tensor) -> Tensor:
    """The network is told the ratio itself."""
    return ratio.float()


class Linear(nn.Module):
    """A v-prediction network whose clean image is slope(r) z, for z = x0 + r eps."""

    def __init__(self, slope: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.slope, self.weight = slope, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, ratio: Tensor, **condition: Tensor) -> Tensor:
        r = ratio.view(-1, 1, 1, 1)
        scale = (1 + r**2).rsqrt()
        z = x / scale
        return self.weight * (scale**2 - self.slope(r)) * z / (r * scale)


def teacher() -> Linear:
    """The exact posterior mean of N(0, SPREAD^2)."""
    return Linear(lambda r: SPREAD**2 / (SPREAD**2 + r**2))


def batch(count: int = 64) -> dict[str, Tensor]:
    """Small images, so that clipping to [-1, 1] never acts."""
    return {"x0": 0.05 * torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))}


def test_the_perfect_student_of_halving_makes_two_steps_in_one() -> None:
    """The composed map of two DDIM steps, as the clean image of one."""
    ratios = rho_ratios([i / 8 for i in range(8)], low=0.01, high=0.5)
    ends = [*ratios, 0.0]

    def composed(r: Tensor) -> Tensor:
        """c with z + (end / start - 1)(z - c z) = the two steps of the teacher."""
        result = torch.empty_like(r)
        for place, start in enumerate(r.flatten().tolist()):
            i = min(range(0, 8, 2), key=lambda j: abs(ends[j] - start))
            s, m, e = ends[i], ends[i + 1], ends[i + 2]
            first = SPREAD**2 / (SPREAD**2 + s**2)
            half = first + m / s * (1 - first)
            second = SPREAD**2 / (SPREAD**2 + m**2) * half
            landed = second + e / m * (half - second)
            result.view(-1)[place] = (landed - e / s) / (1 - e / s)
        return result

    loss = halving_loss(teacher(), told, ratios)
    perfect = loss(Linear(composed), batch(), torch.Generator().manual_seed(1))
    untaught = loss(teacher(), batch(), torch.Generator().manual_seed(1))
    assert float(perfect.detach()) < 2e-6
    assert float(untaught.detach()) > 100 * float(perfect.detach())


def test_the_exact_consistency_function_is_the_minimum() -> None:
    """f(z, r) = z sqrt((v + low^2) / (v + r^2)) for Gaussian data, up to the error of the teacher's step of Heun."""
    ratios = karras_ratios(40, low=0.01, high=0.5)
    low = ratios[-1]

    def exact(r: Tensor) -> Tensor:
        """The clean image whose consistency function, skip z - out v, is the exact one."""
        f = ((SPREAD**2 + low**2) / (SPREAD**2 + r**2)).sqrt()
        scale, skip = (1 + r**2).rsqrt(), 1 / ((r - low) ** 2 + 1)
        v = torch.where(r > low * 1.0001, (skip - f) / ((r - low).clamp(min=1e-9) * scale), torch.zeros_like(r))
        return scale**2 - r * scale * v

    right, wrong = Linear(exact), teacher()
    found = consistency_loss(teacher(), Linear(exact), told, ratios)(right, batch(), torch.Generator().manual_seed(1))
    other = consistency_loss(teacher(), teacher(), told, ratios)(wrong, batch(), torch.Generator().manual_seed(1))
    assert float(found.detach()) < 1e-8
    assert float(other.detach()) > 10 * float(found.detach())


def test_gradients_reach_the_student_alone() -> None:
    ratios, of, target, student = karras_ratios(8, low=0.01, high=0.5), teacher(), teacher(), teacher()
    consistency_loss(of, target, told, ratios)(student, batch(), torch.Generator().manual_seed(1)).backward()
    assert student.weight.grad is not None
    assert of.weight.grad is None and target.weight.grad is None


def test_the_consistency_function_is_the_identity_on_the_lowest_level() -> None:
    """eq. 5 with c_skip = 1 and c_out = 0; elsewhere skip x + out F for the network's own output F."""

    def denoise(x: Tensor, p: object, condition: Condition) -> Prediction:
        return Prediction(0.3 * x, x)

    x = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    f = consistent(denoise, 0.01)
    torch.testing.assert_close(f(x, EDM.at(0.01), {}).x0, x)
    s = 2.0
    own = (0.3 * x - x / (1 + s**2)) * (1 + s**2) ** 0.5 / s
    known = x / ((s - 0.01) ** 2 + 1) + (s - 0.01) / (1 + s**2) ** 0.5 * own
    torch.testing.assert_close(f(x, EDM.at(s), {}).x0, known)


def test_the_next_level_has_its_own_noise() -> None:
    """Up from the end of a trajectory, which has the lowest noise already: sqrt(sigma^2 - low^2) z."""
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    found = noising(0.5)(lambda x, p, c: Prediction(0.2 * x, x), x, [EDM.at(2.0), EDM.at(1.3)], 0, keyed(), {})
    torch.testing.assert_close(found, 0.2 * x + 1.2 * keyed()(1, x))


@pytest.mark.parametrize("via", ["banana", "0.5,2.0", "90", "0.001"])
def test_levels_between_must_fall(via: str) -> None:
    from baselines.systems import consistency

    with pytest.raises(ValueError, match="fall from 80"):
        consistency.load(dataset="shapes", device="cpu", precision="float32", via=via)
