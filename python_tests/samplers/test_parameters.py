"""Bandwidths and step sizes of a step: heuristics, schedules, bounds and what is refused."""

from __future__ import annotations

import pytest
import torch

from svgdx.samplers import RBF, SVGD, Fixed, Heuristic, Learnt, LearntGaussian, Scheduled, State
from svgdx.samplers.parameters import LEAKY_SLOPE, bounded

B, M, D, L = 2, 5, 3, 10


def states() -> list[State]:
    x = torch.zeros(M, D)
    return [State(step, x, x, None) for step in range(L)]


@pytest.mark.parametrize("name", ["median", "s2ac-median", "mean"])
@pytest.mark.parametrize("scale", ["isotropic", "per-dimension"])
def test_heuristics_are_the_published_formulas(name: str, scale: str) -> None:
    x = torch.randn(B, M, D, dtype=torch.float64) + 4
    differences = x[:, :, None] - x[:, None]
    squares = differences.square().sum(-1, keepdim=True) if scale == "isotropic" else differences.square()
    pairs = squares.flatten(1, 2)
    if name == "mean":
        expected = (pairs.mean(1) / (4 * torch.tensor(M + 1.0).log())).sqrt()
    else:
        count = torch.tensor(float(M if name == "median" else M + 1))
        expected = pairs.sqrt().median(1).values / (2 * count.log()).sqrt()
    bandwidth = Heuristic(name, scale)(State(0, x, x, None))
    torch.testing.assert_close(bandwidth, expected.squeeze(-1) if scale == "isotropic" else expected, rtol=1e-6, atol=0)
    assert not Heuristic(name, scale)(State(0, x.requires_grad_(), x, None)).requires_grad


def test_schedules_multiply_the_value_along_the_chain() -> None:
    state = states()
    linear = Scheduled(0.4, "linear", end=8, begin=4, last=0.5)
    values = [round(linear(step).item(), 4) for step in state]
    assert values == [0.4, 0.4, 0.4, 0.4, 0.4, 0.35, 0.3, 0.25, 0.2, 0.2]
    assert Scheduled(1.0, "exponential", end=4, last=0.01)(state[2]).item() == pytest.approx(0.1)
    assert Scheduled(1.0, "cosine", end=4, last=0.5)(state[2]).item() == pytest.approx(0.75)


def test_a_learnt_value_stays_inside_its_range() -> None:
    value = Learnt(0.5, low=0.01, high=2.0)
    assert value(states()[0]).item() == pytest.approx(0.5, rel=1e-5)
    with torch.no_grad():
        value.raw.fill_(50.0)
    assert value(states()[0]).item() == pytest.approx(2.0, rel=1e-5)


@pytest.mark.parametrize("bound", ["none", "leaky", "clamp"])
def test_eps_is_held_under_the_bound_of_each_problem(bound: str) -> None:
    raw = torch.tensor(1e4, dtype=torch.float64, requires_grad=True)
    limits = torch.tensor([0.5, 2e4], dtype=torch.float64)
    eps = bounded(raw, limits, bound).expand(2)
    slope = {"none": 1.0, "leaky": LEAKY_SLOPE, "clamp": 0.0}[bound]
    torch.testing.assert_close(eps, torch.tensor([0.5 + slope * (1e4 - 0.5), 1e4], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(eps[0], raw)
    assert gradient.item() == slope
    start = LearntGaussian(torch.zeros(D), torch.ones(D))
    record = SVGD(lambda x: -x.square().sum(-1), start, RBF(1.3), 1e4, bound=bound).run(M, 1, batch=(B,)).steps[0]
    assert record.eps_bound.isnan().all() if bound == "none" else (record.eps_bound < 1e3).all()


def test_unknown_names_and_bad_values_are_refused() -> None:
    for message, make in {
        "median, s2ac-median, mean": lambda: RBF("mode"),
        "isotropic, per-dimension": lambda: Heuristic("median", "elliptic"),
        "constant, linear, cosine, exponential": lambda: Scheduled(1.0, "step", end=4),
        "0 <= begin < end must hold": lambda: Scheduled(1.0, "linear", end=4, begin=4),
        "last must be positive": lambda: Scheduled(1.0, "linear", end=4, last=0.0),
        "value must be positive": lambda: Fixed(-1.0),
        "0 < low < start < high must hold": lambda: Learnt(3.0, low=1.0, high=2.0),
        "low and high must be given together": lambda: Learnt(3.0, low=1.0),
        "steps must be at least 1": lambda: Learnt(3.0, 0),
        "one number for all dimensions": lambda: SVGD(
            lambda x: -x.square().sum(-1), LearntGaussian(torch.zeros(2), torch.ones(2)), step_size=Fixed(torch.ones(2))
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(ValueError, match="median needs at least 2 particles, but has 1"):
        Heuristic("median")(State(0, torch.zeros(1, D), torch.zeros(1, D), None))
