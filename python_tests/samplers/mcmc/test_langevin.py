"""Langevin dynamics: stationary law, noise, and the buffer of persistent chains."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from svgdx.samplers import ReplayBuffer, langevin

PRECISION = torch.tensor([1.0, 4.0], dtype=torch.float64)


def log_density(x: Tensor) -> Tensor:
    return -0.5 * (PRECISION * x.square()).sum(-1)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("noise", [1.0, 0.5])
def test_stationary_variance_is_that_of_the_discretised_chain(noise: float) -> None:
    step = 0.1
    run = langevin(log_density, torch.zeros(20_000, 2, dtype=torch.float64), 100, step, noise, draw())
    # The stationary variance of x <- (1 - a p) x + noise sqrt(2 a) z is noise^2 / (p (1 - a p / 2)).
    variance = noise**2 / (PRECISION * (1 - step * PRECISION / 2))
    torch.testing.assert_close(run.x.var(0), variance, rtol=0.05, atol=0)
    assert run.x.mean(0).abs().max() < 0.03


def test_without_noise_it_climbs_and_reports_the_score() -> None:
    x = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    run = langevin(log_density, x, 2, 0.1, 0.0, draw())
    torch.testing.assert_close(run.x, torch.tensor([[0.81, 0.36]], dtype=torch.float64))
    first, second = (1 + 16) ** 0.5, (0.9**2 + 2.4**2) ** 0.5
    assert run.score_norm == pytest.approx((first + second) / 2)
    assert x.tolist() == [[1.0, 1.0]]


def test_bad_arguments_are_refused() -> None:
    x = torch.zeros(1, 2, dtype=torch.float64)
    for steps, size, noise in [(0, 0.1, 1.0), (1, 0.0, 1.0), (1, 0.1, -1.0)]:
        with pytest.raises(ValueError, match="langevin: steps and step_size"):
            langevin(log_density, x, steps, size, noise, draw())


def test_buffer_keeps_chains_and_restarts_a_share() -> None:
    buffer = ReplayBuffer(1000, 3, draw())
    buffer.keep(torch.arange(1000), torch.full((1000, 3), 7.0))
    rows, x = buffer.draw(600, 0.25, draw(1))
    assert len(rows.unique()) == 600
    fresh = (x != 7).all(-1)
    assert ((x == 7).all(-1) | fresh).all()
    assert 100 < int(fresh.sum()) < 200
    buffer.keep(rows, x + 1)
    assert int((buffer.chains == 7).all(-1).sum()) == 400
    assert buffer.state_dict()["chains"].shape == (1000, 3)
    with pytest.raises(ValueError, match="count must be at most 1000, but is 1001"):
        buffer.draw(1001, 0.0, draw())
