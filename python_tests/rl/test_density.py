"""The density of a Stein policy's actions integrates to 1, and its first-order form converges to the exact one."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

pytest.importorskip("gymnasium", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")

from svgdx.rl.actor import SteinActor, SteinSample
from svgdx.rl.critics import Critics
from svgdx.rl.presets import SteinSettings
from svgdx.rl.targets import TARGETS, make_target

STATES = 3
LIMITS = [2.0, 0.5]

pytestmark = pytest.mark.usefixtures("double")


class Placed:
    """Fixed starts (B, M, D), with the density of N(0, 0.49 I)."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def draw(self, n: int, batch: tuple[int, ...], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        normal = torch.distributions.Normal(0.0, 0.7)
        return self.x, normal.log_prob(self.x).sum(-1)

    def box(self, deviations: float) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


def sample(points: Tensor, particles: int, steps: int, target: str, **changes: object) -> SteinSample:
    """Runs an actor from particle 0 at one of the points (B, D) per row, and the other particles always the same."""
    torch.manual_seed(1)
    dim = points.shape[-1]
    critic = Critics(STATES, dim, (8, 8), "softplus")
    for parameter in critic.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    options: dict[str, object] = {"step": "fixed", "bound": "none", "hessian": "exact", "density": "logdet"} | changes
    settings = SteinSettings(particles, steps, target, bandwidth_start=0.8, **options)  # type: ignore[arg-type]
    actor = SteinActor(STATES, torch.tensor(LIMITS[:dim]), settings, (8,), "softplus")
    others = 0.7 * torch.randn(particles - 1, dim)
    x = torch.cat([points.unsqueeze(1), others.expand(len(points), -1, -1)], 1)
    state = torch.randn(STATES).expand(len(points), -1)
    with torch.no_grad():
        density = make_target(target, critic.minimum_at(state), torch.tensor(0.5))
        return actor.sample(Placed(x), density)


def integral(sample: SteinSample, shape: tuple[int, ...]) -> float:
    """The integral of the density over the actions to which a grid of starts is mapped."""
    assert sample.log_prob is not None
    dim = len(shape)
    action = sample.action[:, 0] * torch.tensor(LIMITS[:dim])
    density = sample.log_prob[:, 0].exp().view(shape)
    if dim == 1:
        assert bool((action.diff(dim=0) > 0).all())
        return float(torch.trapezoid(density, action[:, 0]))
    corner = action.view(*shape, 2)
    rising, falling = corner[1:, 1:] - corner[:-1, :-1], corner[:-1, 1:] - corner[1:, :-1]
    area = 0.5 * (rising[..., 0] * falling[..., 1] - rising[..., 1] * falling[..., 0]).abs()
    mean = (density[1:, 1:] + density[:-1, :-1] + density[:-1, 1:] + density[1:, :-1]) / 4
    return float((mean * area).sum())


# The density of a particle is that of its own map with the other particles held fixed. This is exact for one step of
# several particles, and for any number of steps of one particle.
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("particles", "steps"), [(1, 3), (5, 1)])
@pytest.mark.parametrize("dim", [1, 2])
def test_the_exact_density_integrates_to_one(dim: int, particles: int, steps: int, target: str) -> None:
    count = 2001 if dim == 1 else 161
    line = torch.linspace(-3.5, 3.5, count)
    points = torch.cartesian_prod(*[line] * dim).view(-1, dim)
    moved = sample(points, particles, steps, target, step_size=0.15)
    # Five standard deviations on each side: 6e-7 of the mass lies outside.
    assert integral(moved, (count,) * dim) == pytest.approx(1.0, abs=1e-4 if dim == 1 else 2e-3)
    # The test can fail: without SVGD's change of volume the integral is not 1.
    still = sample(points, particles, steps, target, step_size=1e-12)
    assert still.log_prob is not None
    volume = (1 - still.action.square()).log() - (1 - moved.action.square()).log()
    wrong = moved._replace(log_prob=still.log_prob + volume.sum(-1))
    assert abs(integral(wrong, (count,) * dim) - 1) > 0.005


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dim", [1, 2])
def test_the_first_order_density_approaches_the_exact_one(dim: int, target: str) -> None:
    points = torch.randn(50, dim)
    errors = []
    for eps in (0.04, 0.02, 0.01):
        exact = sample(points, 5, 3, target, step_size=eps).log_prob
        first_order = sample(points, 5, 3, target, step_size=eps, density="first-order").log_prob
        assert exact is not None
        assert first_order is not None
        errors.append(float((exact - first_order).abs().max()))
    assert 0 < errors[0] < 0.1
    # The error is of second order in eps: half the step has a quarter of it.
    for error, error_of_half in itertools.pairwise(errors):
        assert error / error_of_half == pytest.approx(4, rel=0.15)


def test_the_density_without_steps_is_that_of_a_squashed_gaussian() -> None:
    points = torch.randn(20, 2)
    start = sample(points, 3, 0, "max-entropy")
    limit = torch.tensor(LIMITS)
    base = torch.distributions.Normal(torch.zeros(2), 0.7 * torch.ones(2))
    transforms = [
        torch.distributions.TanhTransform(),
        torch.distributions.AffineTransform(torch.zeros(2), limit),
    ]
    squashed = torch.distributions.TransformedDistribution(base, transforms)
    expected = squashed.log_prob(start.action[:, 0] * limit).sum(-1)
    assert start.log_prob is not None
    torch.testing.assert_close(start.log_prob[:, 0], expected, rtol=1e-6, atol=1e-6)
