"""Ising models: the couplings of the grid, and samples compared with enumeration."""

from __future__ import annotations

import math

import pytest
import torch

from svgdx.densities import IsingEnergy
from svgdx.experiments.data.ising import (
    adjacency,
    neg_log_rmse_bound,
    pseudo_likelihood_fit,
    sample_ising,
    true_coupling,
)
from svgdx.experiments.metrics.bits import all_states


@pytest.mark.parametrize("side", [3, 4, 9, 10])
def test_each_site_has_its_four_neighbours(side: int) -> None:
    matrix = adjacency(side)
    assert torch.equal(matrix, matrix.T)
    assert (matrix.sum(0) == 4).all()
    for site in range(side * side):
        row, column = divmod(site, side)
        steps = ((0, 1), (0, -1), (1, 0), (-1, 0))
        expected = {(row + down) % side * side + (column + right) % side for down, right in steps}
        assert set(matrix[site].nonzero().flatten().tolist()) == expected


def test_a_grid_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="side must be at least 3, but is 2"):
        adjacency(2)


@pytest.mark.parametrize("sigma", [0.1, -0.2])
def test_samples_have_the_enumerated_correlations(sigma: float) -> None:
    coupling = true_coupling(3, sigma)
    energy = IsingEnergy(9).requires_grad_(False)
    energy.weight.copy_(coupling)
    states = all_states(9)
    spins = 2.0 * states - 1
    probability = torch.softmax(-energy(states), 0)
    expected = spins.T @ (probability[:, None] * spins)
    x = sample_ising(coupling, 20_000, seed=3, sweeps=60)
    assert x.dtype == torch.int8
    assert x.unique().tolist() == [0, 1]
    sampled = 2.0 * x - 1
    assert float((sampled.T @ sampled / len(x) - expected).abs().max()) < 4.5 / math.sqrt(len(x))
    assert float(sampled.mean(0).abs().max()) < 4.5 / math.sqrt(len(x))


def test_long_range_order_of_the_exact_solution() -> None:
    """Onsager's energy per site of the infinite grid at K = 2 sigma = 0.2, which D = 100 nearly reaches."""
    spins = 2.0 * sample_ising(true_coupling(10, 0.1), 1500, seed=1, sweeps=40) - 1
    bonds = ((spins @ adjacency(10)) * spins).sum(-1).mean() / 2 / 100
    k = 2 * math.sinh(0.4) / math.cosh(0.4) ** 2
    angle = (torch.arange(2000, dtype=torch.float64) + 0.5) * math.pi / 4000
    integral = float((1 / torch.sqrt(1 - (k * torch.sin(angle)) ** 2)).mean()) * math.pi / 2
    per_site = 1 / math.tanh(0.4) * (1 + 2 / math.pi * (2 * math.tanh(0.4) ** 2 - 1) * integral)
    assert float(bonds) == pytest.approx(per_site, abs=0.015)


def test_the_seed_decides_the_samples() -> None:
    coupling = true_coupling(4, 0.2)
    one, again, other = (sample_ising(coupling, 20, seed, sweeps=5) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_an_invalid_coupling_is_refused() -> None:
    for wrong in (torch.eye(3), torch.triu(torch.ones(3, 3), 1)):
        with pytest.raises(ValueError, match="symmetric with a zero diagonal"):
            sample_ising(wrong, 4, seed=0)


@pytest.mark.parametrize("sigma", [0.0, 0.15])
def test_the_bound_is_that_of_the_enumerated_information(sigma: float) -> None:
    coupling, count = true_coupling(3, sigma), 500
    states = all_states(9)
    spins = 2.0 * states.double() - 1
    probability = torch.softmax(((spins @ coupling.double()) * spins).sum(-1), 0)
    edges = adjacency(3).triu().nonzero().T
    bonds = spins[:, edges[0]] * spins[:, edges[1]]
    centred = bonds - probability @ bonds
    information = 4 * count * centred.T @ (probability[:, None] * centred)
    expected = -0.5 * math.log(2 * float(torch.linalg.inv(information).trace()) / 81)
    x = sample_ising(coupling, 20_000, seed=5, sweeps=40)
    assert neg_log_rmse_bound(x, count) == pytest.approx(expected, abs=0.01)
    assert neg_log_rmse_bound(x, 4 * count) == pytest.approx(expected + math.log(2), abs=0.01)
    assert neg_log_rmse_bound(torch.ones(4, 9), count) == -math.inf


def test_the_pseudo_likelihood_finds_the_couplings_and_the_penalty_the_edges() -> None:
    true, edges = true_coupling(4, 0.1), adjacency(4).bool()
    x = sample_ising(true, 4000, seed=6, sweeps=60)
    fit = pseudo_likelihood_fit(x, edges)
    assert torch.equal(fit, fit.T)
    assert not fit[~edges].any()
    # The estimate is nearly efficient at weak couplings: each of 32 has a standard deviation of 1 / sqrt(4 N) or more.
    assert float((fit - true)[edges].square().mean().sqrt()) == pytest.approx(0.0079, rel=0.3)
    penalised = pseudo_likelihood_fit(x, torch.ones_like(edges), 0.12)
    assert torch.equal(penalised.abs() > 0.04, edges)
    # The largest of 88 others without a penalty, with the same standard deviation.
    assert float(pseudo_likelihood_fit(x, ~edges).abs().max()) > 0.04
