"""Gibbs sampling and Gibbs with gradients, compared with enumerated distributions and transition matrices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from svgdx.densities import DiscreteMLPEnergy, IsingEnergy, as_log_density
from svgdx.experiments.metrics.bits import all_states
from svgdx.samplers import gibbs_sweep, gwg_step
from svgdx.streams import Stream

CHAINS = 30_000


def ising(dim: int) -> IsingEnergy:
    energy = IsingEnergy(dim).requires_grad_(False)
    energy.weight.copy_(0.4 * torch.randn(dim, dim))
    return energy


def network(dim: int) -> DiscreteMLPEnergy:
    energy = DiscreteMLPEnergy(dim, 16, 2).requires_grad_(False)
    for parameter in energy.parameters():
        parameter.mul_(3)
    return energy


def with_base(dim: int) -> DiscreteMLPEnergy:
    energy = DiscreteMLPEnergy(dim, 16, 3, "silu", torch.linspace(0.1, 0.9, dim)).requires_grad_(False)
    for parameter in energy.parameters():
        parameter.mul_(2)
    return energy


def plain_ising(dim: int) -> Callable[[Tensor], Tensor]:
    """The log density of the same model as a plain function, for which the samplers have no faster way."""
    energy = ising(dim)
    return lambda x: -energy(x)


TARGETS = {"ising": ising, "network": network, "network with base": with_base, "function": plain_ising}
SAMPLERS = {
    "gibbs": gibbs_sweep,
    "gwg": gwg_step,
    "gwg, temperature 1": lambda *arguments: gwg_step(*arguments, temperature=1.0),
}


def draw(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def index(x: Tensor) -> Tensor:
    return x.long() @ (2 ** torch.arange(x.shape[-1] - 1, -1, -1))


def assert_drawn_from(x: Tensor, probability: Tensor) -> None:
    """Chi-square test of independent chains at the level 1e-4; states expected fewer than 5 times are pooled."""
    counts = torch.bincount(index(x), minlength=len(probability)).double()
    expected = probability.double() * len(x)
    common = expected >= 5
    counts = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    possible = expected > 0
    assert counts[~possible].sum() == 0
    statistic = ((counts - expected)[possible].square() / expected[possible]).sum()
    assert float(statistic) < chi2.ppf(1 - 1e-4, max(int(possible.sum()) - 1, 1))


@pytest.mark.parametrize("make", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("step", SAMPLERS.values(), ids=SAMPLERS)
def test_target_is_left_invariant(make: Callable, step: Callable) -> None:
    target = make(5)
    states = all_states(5)
    probability = torch.softmax(as_log_density(target)(states), 0)
    x = states[torch.multinomial(probability, CHAINS, replacement=True, generator=draw())]
    generator = draw(2)
    assert_drawn_from(x, probability)
    for _ in range(3):
        x_next = step(target, x, generator)
        assert (x_next != x).any()
        x = x_next
    assert_drawn_from(x, probability)


@pytest.mark.parametrize("make", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("step", [gibbs_sweep, gwg_step])
def test_chains_reach_the_target_from_one_corner(make: Callable, step: Callable) -> None:
    target = make(5)
    probability = torch.softmax(as_log_density(target)(all_states(5)), 0)
    x = torch.zeros(8000, 5, dtype=torch.int8)
    x = step(target, x, draw(3), **({"sweeps": 20} if step is gibbs_sweep else {"steps": 60}))
    assert_drawn_from(x, probability)


def gibbs_matrix(log_density: Callable[[Tensor], Tensor], dim: int) -> Tensor:
    """Transition matrix of a sweep by enumeration, the product of the matrices of its locations."""
    probability = torch.softmax(log_density(all_states(dim)).double(), 0)
    sweep = torch.eye(2**dim, dtype=torch.float64)
    for location in range(dim):
        one = torch.zeros(2**dim, 2**dim, dtype=torch.float64)
        for state in range(2**dim):
            other = state ^ (1 << (dim - 1 - location))
            one[state, other] = probability[other] / (probability[state] + probability[other])
            one[state, state] = 1 - one[state, other]
        sweep = sweep @ one
    return sweep


def gwg_matrix(log_density: Callable[[Tensor], Tensor], dim: int, temperature: float) -> Tensor:
    """Transition matrix of Grathwohl et al., algorithm 1, by enumeration."""
    x = all_states(dim).float().requires_grad_()
    log_p = log_density(x)
    (slope,) = torch.autograd.grad(log_p.sum(), x)
    proposal = torch.softmax(-(2 * x.detach() - 1) * slope / temperature, -1).double()
    probability = torch.softmax(log_p.detach().double(), 0)
    matrix = torch.zeros(2**dim, 2**dim, dtype=torch.float64)
    for state in range(2**dim):
        for location in range(dim):
            other = state ^ (1 << (dim - 1 - location))
            ratio = probability[other] * proposal[other, location] / (probability[state] * proposal[state, location])
            matrix[state, other] = proposal[state, location] * ratio.clamp(max=1)
        matrix[state, state] = 1 - matrix[state].sum()
    return matrix


@pytest.mark.parametrize("make", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("step", SAMPLERS.values(), ids=SAMPLERS)
def test_transitions_follow_the_enumerated_matrix(make: Callable, step: Callable) -> None:
    dim = 3
    target = make(dim)
    log_density = as_log_density(target)
    states = all_states(dim)
    probability = torch.softmax(log_density(states).double(), 0)
    if step is gibbs_sweep:
        matrix = gibbs_matrix(log_density, dim)
    else:
        matrix = gwg_matrix(log_density, dim, 2.0 if step is gwg_step else 1.0)
        flow = probability[:, None] * matrix
        torch.testing.assert_close(flow, flow.T, rtol=1e-5, atol=1e-9)  # detailed balance
    torch.testing.assert_close(probability @ matrix, probability, rtol=1e-5, atol=1e-9)
    generator = draw(4)
    for state, row in zip(states, matrix, strict=True):
        assert_drawn_from(step(target, state.expand(10_000, dim), generator), row)


@pytest.mark.parametrize("make", [network, with_base])
def test_fast_sweeps_draw_the_same_bits_as_plain_ones(make: Callable) -> None:
    energy = make(7).double()
    x = torch.randint(2, (300, 7), generator=draw(), dtype=torch.int8)
    fast = gibbs_sweep(energy, x, draw(5), sweeps=4)
    assert (fast != x).any()
    assert torch.equal(fast, gibbs_sweep(lambda bits: -energy(bits), x, draw(5), sweeps=4))


@pytest.mark.parametrize("step", [gibbs_sweep, gwg_step])
def test_result_has_shape_and_dtype_of_the_input_which_is_unchanged(step: Callable) -> None:
    energy = network(6)
    for dtype in (torch.int8, torch.int64, torch.float32):
        x = torch.randint(2, (2, 3, 6), generator=draw()).to(dtype)
        copy = x.clone()
        x_next = step(energy, x, draw())
        assert x_next.shape == x.shape
        assert x_next.dtype == dtype
        assert torch.equal(x, copy)
        assert torch.equal(x_next, step(energy, x.flatten(0, 1), draw()).view_as(x))
        assert not x_next.requires_grad


def test_no_gradient_reaches_the_energy() -> None:
    energy = DiscreteMLPEnergy(4, 8, 1)
    gwg_step(energy, torch.zeros(3, 4), draw(), steps=2)
    gibbs_sweep(energy, torch.zeros(3, 4), draw())
    assert all(parameter.grad is None for parameter in energy.parameters())


def test_several_steps_are_the_same_as_single_ones() -> None:
    energy = network(6)
    x = torch.zeros(50, 6, dtype=torch.int8)
    several = gwg_step(energy, x, Stream(3), steps=4)
    stream = Stream(3)
    for _ in range(4):
        x = gwg_step(energy, x, stream)
    assert torch.equal(several, x)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        gwg_step(network(2), torch.zeros(1, 2), draw(), temperature)
