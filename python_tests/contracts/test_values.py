"""Zeros of the reward, NaN of a target, coinciding particles: no NaN without a word."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contracts.doors import B, D, gaussian, generator, normal, proposal, square, steps, sums
from torch import Tensor
from torch.distributions import Independent, Normal

from svgdx import gflownets, samplers

LOSSES: dict[str, tuple[Callable[..., Tensor], dict[str, Tensor]]] = {
    "trajectory_balance": (gflownets.trajectory_balance, sums() | {"log_z": torch.zeros(())}),
    "log_partition_variance": (gflownets.log_partition_variance, sums()),
    "detailed_balance": (gflownets.detailed_balance, steps() | {"log_reward": normal(B)}),
    "sub_trajectory_balance": (gflownets.sub_trajectory_balance, steps() | {"log_reward": normal(B)}),
}


def with_reward(name: str, value: float, rows: list[int]) -> dict[str, Any]:
    arguments = {key: tensor.clone() for key, tensor in LOSSES[name][1].items()}
    arguments["log_reward"][rows] = value
    arguments["log_pf"].requires_grad_()
    return arguments


@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
@pytest.mark.parametrize("name", LOSSES)
def test_a_log_reward_that_is_not_finite_is_refused_with_its_rows(name: str, value: float) -> None:
    message = f"^{name}: log_reward must be finite, but is {value} in rows 1, 3; log_reward_clip_min"
    with pytest.raises(ValueError, match=message):
        LOSSES[name][0](**with_reward(name, value, [1, 3]))


@pytest.mark.parametrize("name", LOSSES)
def test_a_floor_gives_finite_gradients_and_leaves_other_rewards_alone(name: str) -> None:
    loss = LOSSES[name][0]
    zero, small = with_reward(name, -torch.inf, [1, 3]), with_reward(name, -20.0, [1, 3])
    loss(**zero, log_reward_clip_min=-20.0).mean().backward()
    loss(**small).mean().backward()
    assert bool(zero["log_pf"].grad.isfinite().all())
    assert torch.equal(zero["log_pf"].grad, small["log_pf"].grad)
    assert torch.equal(loss(**small, log_reward_clip_min=-30.0), loss(**small))
    with pytest.raises(ValueError, match="log_reward must be finite, but is nan in rows 2"):
        loss(**with_reward(name, torch.nan, [2]), log_reward_clip_min=-20.0)
    with pytest.raises(ValueError, match="log_reward_clip_min must be finite, but is -inf"):
        loss(**small, log_reward_clip_min=-torch.inf)


def test_losses_under_transforms_and_without_numbers() -> None:
    """What has no readable numbers is not read."""
    log_pf, log_pb, log_reward = sums().values()
    direct = gflownets.trajectory_balance(log_pf, log_pb, log_reward, 0.5)
    mapped = torch.vmap(gflownets.trajectory_balance, (0, 0, 0, None))(log_pf, log_pb, log_reward, torch.tensor(0.5))
    torch.testing.assert_close(mapped, direct)
    meta = [tensor.to("meta") for tensor in (log_pf, log_pb, log_reward)]
    assert gflownets.trajectory_balance(*meta, 0.5).shape == (B,)


@pytest.mark.parametrize("rule", ["metropolis", "barker"])
def test_a_chain_leaves_a_state_of_density_zero_and_never_enters_one(rule: str) -> None:
    zero, one = torch.full((B,), -torch.inf), torch.zeros(B)
    move = proposal()
    for log_p_x, log_p_new, probability in ((zero, one, 1.0), (zero, zero, 1.0), (one, zero, 0.0)):
        state, accepted, got = gflownets.accept(move, log_p_x, log_p_new, 1, rule)
        assert torch.equal(got, torch.full((B,), probability))
        assert torch.equal(state, move.x_new if probability else move.x)
        assert bool(accepted.all()) == bool(probability)
    state, accepted, got = gflownets.accept(move, one, one * torch.nan, 1, rule)
    assert not bool(accepted.any())
    assert bool(got.isnan().all())


def broken(value: float) -> Callable[[Tensor], Tensor]:
    """A target that returns NaN or infinity on one side."""
    return lambda x: torch.where(x[..., 0] > 0.3, value, 1.0) * square(x)


@pytest.mark.parametrize("hessian", ["none", "hutchinson", "exact"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_target_that_is_not_finite_is_announced(hessian: str, value: float) -> None:
    sampler = samplers.SVGD(broken(value), gaussian(), hessian=hessian)
    unsound = (sampler.sample(20, 0, generator=generator())[:, 0] > 0.3).nonzero()
    where = rf"at {len(unsound)} of 20 particles, the first at index \[{int(unsound[0])}\] and x = \["
    message = f"SVGD: step 0: the target's score is not finite {where}"
    with pytest.warns(UserWarning, match=message) as caught:
        sampler.sample(20, 3, generator=generator())
    assert len(caught) == 1


def test_a_log_density_that_is_not_finite_is_announced() -> None:
    # 1e-30 squared underflows: the distribution's own log density is 0 / 0.
    initial = Independent(Normal(torch.zeros(D), torch.full((D,), 1e-30)), 1)
    with pytest.warns(UserWarning, match="SVGD: 6 numbers of the log densities are not finite after 2 steps"):
        samplers.SVGD(square, initial).run(6, 2)


class Points:
    """An initial distribution of fixed points."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def draw(self, n: int, batch: tuple[int, ...], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        x = self.x.expand(*batch, *self.x.shape)
        return x, x.new_zeros(x.shape[:-1])

    def box(self, deviations: float) -> tuple[Tensor, Tensor]:
        return self.x.amin(0) - deviations, self.x.amax(0) + deviations


@pytest.mark.parametrize("kernel", [samplers.RBF, samplers.InverseMultiquadric])
@pytest.mark.parametrize("heuristic", samplers.HEURISTICS)
@pytest.mark.parametrize("density", samplers.DENSITIES)
def test_coinciding_particles_are_announced(kernel: Any, heuristic: str, density: str) -> None:
    x = normal(6, D)
    for row, coinciding in ((x[:1].expand(6, D), 5), (x[[0, 1, 2, 3, 4, 0]], 1)):
        sampler = samplers.SVGD(square, Points(row), kernel(heuristic), hessian="exact", density=density)
        with pytest.warns(UserWarning, match=f"SVGD: {coinciding} of 6 particles start where another one does"):
            chain = sampler.run(6, 3)
        assert bool(chain.x.isfinite().all())
        assert chain.log_q is not None
        assert bool(chain.log_q.isfinite().all())
        assert torch.equal(chain.x[0], chain.x[-1])


def test_sound_chains_do_not_warn() -> None:
    x = normal(6, D)
    x[1, 0] = x[0, 0]  # one coordinate in common is no coincidence
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samplers.SVGD(square, Points(x)).run(6, 3)
        samplers.SVGD(square, gaussian()).run(50, 3, batch=2)
        samplers.SVGD(square, gaussian()).sample(1, 0)
