"""The density of a Stein policy's actions integrates to 1, and its first-order form approaches the exact one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

pytest.importorskip("gymnasium", reason="reinforcement learning needs the packages of svgdx[rl]")
pytest.importorskip("stable_baselines3", reason="reinforcement learning needs the packages of svgdx[rl]")

from svgdx.rl.actor import SteinActor, SteinSample
from svgdx.rl.critics import TwinCritic
from svgdx.rl.presets import SteinSettings
from svgdx.rl.targets import TARGETS, make_target

STATES = 3
LIMITS = [2.0, 0.5]


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


class Placed:
    """Particles (B, M, D) at given places, with the density of N(0, 0.49 I) there."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def draw(self, n: int, batch: tuple[int, ...], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        normal = torch.distributions.Normal(0.0, 0.7)
        return self.x, normal.log_prob(self.x).sum(-1)

    def box(self, deviations: float) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


def sample(points: Tensor, particles: int, steps: int, target: str, **changes: object) -> SteinSample:
    """Row by row, particle 0 at one of the points (B, D) and the others at the same places."""
    torch.manual_seed(1)
    dim = points.shape[-1]
    critic = TwinCritic(STATES, dim, (8, 8), "softplus")
    for parameter in critic.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    given: dict[str, object] = {"step": "fixed", "bound": "none", "hessian": "exact", "density": "logdet"} | changes
    settings = SteinSettings(particles, steps, target, bandwidth_start=0.8, **given)  # type: ignore[arg-type]
    actor = SteinActor(STATES, torch.tensor(LIMITS[:dim]), settings, (8,), "softplus")
    others = 0.7 * torch.randn(particles - 1, dim)
    x = torch.cat([points.unsqueeze(1), others.expand(len(points), -1, -1)], 1)
    state = torch.randn(STATES).expand(len(points), -1)
    with torch.no_grad():
        made = make_target(target, critic.at(state), torch.tensor(0.5))
        return actor.sample(Placed(x), made)


def integral(found: SteinSample, shape: tuple[int, ...]) -> float:
    """Of the density over the actions that a grid of starts is mapped to."""
    assert found.log_prob is not None
    dim = len(shape)
    action = found.action[:, 0] * torch.tensor(LIMITS[:dim])
    density = found.log_prob[:, 0].exp().view(shape)
    if dim == 1:
        assert bool((action.diff(dim=0) > 0).all())
        return float(torch.trapezoid(density, action[:, 0]))
    corner = action.view(*shape, 2)
    one, other = corner[1:, 1:] - corner[:-1, :-1], corner[:-1, 1:] - corner[1:, :-1]
    area = 0.5 * (one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]).abs()
    mean = (density[1:, 1:] + density[:-1, :-1] + density[:-1, 1:] + density[1:, :-1]) / 4
    return float((mean * area).sum())


# The density of a particle is that of its own map, the other particles held fixed: exact for one step of several
# particles, and for any number of steps of one.
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("particles", "steps"), [(1, 3), (5, 1)])
@pytest.mark.parametrize("dim", [1, 2])
def test_the_exact_density_integrates_to_one(dim: int, particles: int, steps: int, target: str) -> None:
    count = 2001 if dim == 1 else 161
    line = torch.linspace(-3.5, 3.5, count)
    points = torch.cartesian_prod(*[line] * dim).view(-1, dim)
    found = sample(points, particles, steps, target, step_size=0.15)
    # Five standard deviations each side: 6e-7 of the mass lies outside.
    assert integral(found, (count,) * dim) == pytest.approx(1.0, abs=1e-4 if dim == 1 else 2e-3)
    # The test can fail: without the change of volume the integral is another.
    still = sample(points, particles, steps, target, step_size=1e-12)
    assert found.log_prob is not None
    assert still.log_prob is not None
    volume = (1 - still.action.square()).log() - (1 - found.action.square()).log()
    wrong = found._replace(log_prob=still.log_prob + volume.sum(-1))
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
    # Second order in eps: a quarter of the error for half the step.
    for one, other in itertools.pairwise(errors):
        assert one / other == pytest.approx(4, rel=0.15)


def test_the_density_without_steps_is_that_of_a_squashed_gaussian() -> None:
    points = torch.randn(20, 2)
    found = sample(points, 3, 0, "max-entropy")
    limit = torch.tensor(LIMITS)
    base = torch.distributions.Normal(torch.zeros(2), 0.7 * torch.ones(2))
    transforms = [
        torch.distributions.TanhTransform(),
        torch.distributions.AffineTransform(torch.zeros(2), limit),
    ]
    squashed = torch.distributions.TransformedDistribution(base, transforms)
    expected = squashed.log_prob(found.action[:, 0] * limit).sum(-1)
    assert found.log_prob is not None
    torch.testing.assert_close(found.log_prob[:, 0], expected, rtol=1e-6, atol=1e-6)
