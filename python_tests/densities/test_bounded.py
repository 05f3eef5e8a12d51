"""Densities over bounded sets: their log density over R^D, the way back, and SVGD on them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, distributions
from torch.distributions import constraints

import svgdx
from svgdx.samplers import LearntGaussian, transformed


def independent(kind: type[distributions.Distribution], *values: float) -> distributions.Distribution:
    """Independent numbers in one dimension, in float64."""
    return distributions.Independent(kind(*(torch.tensor([value], dtype=torch.float64) for value in values)), 1)


CASES: dict[str, tuple[distributions.Distribution, int]] = {
    "half-Cauchy": (independent(distributions.HalfCauchy, 2.0), 1),
    "uniform": (independent(distributions.Uniform, -1.0, 3.0), 1),
    "beta": (independent(distributions.Beta, 2.0, 5.0), 1),
    "gamma": (independent(distributions.Gamma, 2.0, 5.0), 1),
    "Dirichlet": (distributions.Dirichlet(torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)), 2),
}


def grid(dim: int) -> tuple[Tensor, float]:
    """Points of a grid over (-25, 25)^D, (N, D), and the volume of a cell."""
    line = torch.linspace(-25, 25, 20_001 if dim == 1 else 501, dtype=torch.float64)
    return torch.cartesian_prod(*[line] * dim).view(-1, dim), float(line[1] - line[0]) ** dim


@pytest.mark.parametrize("name", CASES)
def test_the_density_integrates_to_one_and_has_the_mean_of_the_distribution(name: str) -> None:
    target, dim = CASES[name]
    density, (z, cell) = transformed(target), grid(dim)
    weight = density(z).exp() * cell
    assert float(weight.sum()) == pytest.approx(1, abs=1e-4)
    if name != "half-Cauchy":
        mean = (weight.unsqueeze(-1) * density.constrained(z)).sum(0)
        torch.testing.assert_close(mean, target.mean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_log_q_follows_the_change_of_density(name: str) -> None:
    target, dim = CASES[name]
    density = transformed(target)
    normal = distributions.Independent(distributions.Normal(torch.zeros(dim).double(), torch.ones(dim).double()), 1)
    z = normal.sample((4, 5))
    x, log_q = density.constrained(z, normal.log_prob(z))
    pushed = distributions.TransformedDistribution(normal, density.transform)
    assert log_q.shape == (4, 5)
    torch.testing.assert_close(log_q, pushed.log_prob(x), rtol=1e-6, atol=1e-6)
    assert bool(target.support.check(x).all())


def test_svgd_on_a_simplex() -> None:
    target = distributions.Dirichlet(torch.tensor([4.0, 5.0, 6.0]))
    density = transformed(target)
    sampler = svgdx.SVGD(density, LearntGaussian(torch.zeros(2), 0.5), step_size=0.3, hessian="exact")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        z, log_q_z = sampler.sample_with_log_prob(100, 60, generator=generator)
        x, log_q = density.constrained(z, log_q_z)
    torch.testing.assert_close(x.mean(0), target.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(x.std(0), target.stddev, rtol=0.25, atol=0)
    # A bijection does not change the ratio of densities.
    torch.testing.assert_close(log_q - target.log_prob(x), log_q_z - density(z), rtol=1e-4, atol=1e-4)


def test_a_callable_over_a_support() -> None:
    density = transformed(lambda x: -x.sum(-1), constraints.positive)
    z = torch.tensor([[0.0, math.log(2.0)]])
    torch.testing.assert_close(density(z), torch.tensor([-3.0 + math.log(2.0)]))


def test_bad_arguments_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"transformed: target must be a distribution over vectors .*Independent"):
        transformed(distributions.HalfCauchy(torch.ones(3)))
    with pytest.raises(
        TypeError, match=r"transformed: support must be a constraint of torch\.distributions, but is None"
    ):
        transformed(lambda x: x.sum(-1))
    with pytest.raises(ValueError, match="transformed: support must be over vectors or single numbers"):
        transformed(lambda x: x.sum(-1), constraints.positive_definite)
    for support in (constraints.boolean, constraints.dependent):
        with pytest.raises(
            NotImplementedError, match=r"transformed: torch.distributions has no bijection .* pass another"
        ):
            transformed(lambda x: x.sum(-1), support)
    for low in (1.0, 2.0):
        with pytest.raises(ValueError, match="transformed: support must be an interval from low to high, but is from"):
            transformed(lambda x: x.sum(-1), constraints.interval(low, 1.0))


def test_a_stack_of_supports_has_the_density_of_each() -> None:
    stack = constraints.stack([constraints.positive, constraints.unit_interval], -1)
    z = torch.tensor([[0.3, -1.0], [2.0, 0.5], [-1.0, 3.0]])
    densities = [
        transformed(lambda x: -x.sum(-1), support) for support in (constraints.positive, constraints.unit_interval)
    ]
    expected = sum(density(z[:, i : i + 1]) for i, density in enumerate(densities))
    torch.testing.assert_close(transformed(lambda x: -x.sum(-1), stack)(z), expected)
