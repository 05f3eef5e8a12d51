"""What a user can confuse: kinds of arguments, numbers out of range, modes that cannot work; each refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from contracts.doors import B, D, energy, gaussian, generator, normal, policy, random_bits, square, sums
from torch import Tensor

import svgdx
from svgdx import densities, gflownets, samplers
from svgdx.experiments.metrics import bits
from svgdx.experiments.metrics.frechet import frechet_distance


def svgd(**settings: Any) -> samplers.SVGD:
    return samplers.SVGD(square, samplers.LearntGaussian(torch.zeros(D), 1.0), **settings)


def rollout(**changes: Any) -> Tensor:
    arguments: dict[str, Any] = {"steps": 2, "seed": 1, "backward_from": random_bits(B, D)} | changes
    return gflownets.rollout(policy(), **arguments).initial


def loss(**changes: Any) -> Tensor:
    return gflownets.trajectory_balance(**sums() | {"log_z": 0.0} | changes)


NAN = float("nan")
REFUSED: dict[str, Callable[[], Any]] = {
    "SVGD: kernel must be a kernel such as RBF(1.0), but is float": lambda: svgd(kernel=1.0),
    "SVGD: kernel must be a kernel such as RBF(1.0), but is type": lambda: svgd(kernel=samplers.RBF),
    "SVGD: stop must be a SteinStop or None, but is float": lambda: svgd(stop=1e-3),
    "SVGD: optimizer must be a function of a list of tensors": lambda: svgd(
        optimizer=torch.optim.SGD([torch.zeros(1)], 0.1)
    ),
    "SVGD: callbacks must be a list of functions, but is function": lambda: svgd(callbacks=square),
    "SVGD: step_size must be a number, or one per dimension, but is NoneType": lambda: svgd(step_size=None),
    "SVGD: step_size must be positive and finite, but is -0.1": lambda: svgd(step_size=-0.1),
    "Kernel: bandwidth must be a number, or one per dimension, but is bool": lambda: samplers.RBF(True),
    "Kernel: bandwidth must be a number, or one per dimension, but has shape (2, 2)": lambda: samplers.RBF(
        torch.ones(2, 2)
    ),
    "SVGD: n must be an integer, but is str": lambda: svgd().sample("4", 1),
    "SVGD: batch must be an integer, but is ndarray of shape (2, 1)": lambda: svgd().sample(
        4, 1, batch=np.ones((2, 1))
    ),
    "SVGD: attached must hold numbers of steps, but is int": lambda: svgd().run(4, 1, attached=1),
    "SVGD.fit: epochs must not be negative and clip positive": lambda: svgd().fit(4, 1, 1, clip=NAN),
    "SVGD.fit: gradients are off": lambda: torch.no_grad()(svgd().fit)(4, 1, 1),
    "SVGD: it cannot run under torch.vmap; batch=": lambda: torch.vmap(lambda x: svgd().sample(4, 1) + x)(normal(2)),
    "as_log_density: target must be an object, but is the class MLPLogDensity": lambda: samplers.SVGD(
        densities.MLPLogDensity, gaussian()
    ),
    "SVGD: target must return real numbers, but returns complex64": lambda: samplers.SVGD(
        lambda x: square(x).to(torch.complex64), gaussian()
    ).sample(4, 1),
    "LearntGaussian: std must be positive, and mean and std finite": lambda: samplers.LearntGaussian(
        torch.full((D,), NAN), 1.0
    ),
    "Learnt: steps must be an integer, but is float": lambda: samplers.Learnt(1.0, 3.0),
    "SteinStop: patience must be an integer, but is float": lambda: samplers.SteinStop(0.1, 2.5),
    "MetropolisHastings: iterations must be an integer": lambda: samplers.MetropolisHastings(iterations=2.5),
    "ConvLogDensity: x must have the dtype of the parameters, torch.float16": lambda: densities.ConvLogDensity(
        (1, 2, 2), 4
    ).half()(normal(B, 4)),
    "MLPLogDensity: x must have the dtype of the parameters, torch.float32": lambda: densities.MLPLogDensity(D, 4, 1)(
        normal(B, D).double()
    ),
    "MLPPolicy: dim must be an integer, but is str": lambda: gflownets.MLPPolicy("3"),
    "void_states: count and dim must not be negative, but are -3 and 2": lambda: gflownets.void_states(-3, 2),
    "rollout: seed must have at most 64 bits": lambda: rollout(seed=2**64),
    "rollout: temperature must be a number, but is NoneType": lambda: rollout(temperature=None),
    "rollout: epsilon must be in [0, 1], but is nan": lambda: rollout(epsilon=NAN),
    "svgdx::uniform: seed must have at most 64 bits": lambda: svgdx.ops.uniform(normal(2), -(2**63) - 1, 0),
    "Trajectories: actions must be from 0 to 2D - 1 = 5, but actions[0, 0] is 9": lambda: gflownets.trajectory_log_prob(
        policy(), gflownets.Trajectories(gflownets.void_states(B, D), torch.full((B, D), 9), random_bits(B, D))
    ),
    "trajectory_balance: log_reward must hold real numbers, but is bool": lambda: loss(log_reward=normal(B) > 0),
    "trajectory_balance: log_pb must hold real numbers, but is complex64": lambda: loss(
        log_pb=normal(B).to(torch.complex64)
    ),
    "trajectory_balance: log_reward_clip_min must be finite, but is -100": lambda: loss(log_reward_clip_min="-100"),
    "langevin: x must be floating": lambda: samplers.langevin(square, random_bits(B, D), 1, 0.1, 1.0),
    "langevin: steps and step_size must be positive": lambda: samplers.langevin(square, normal(B, D), 1, NAN, 1.0),
    "gibbs_sweep: x must hold 0 and 1 only": lambda: samplers.gibbs_sweep(energy(), 2 * random_bits(B, D)),
    "gwg_step: x must hold 0 and 1 only": lambda: samplers.gwg_step(energy(), normal(B, D)),
    "gibbs_sweep: sweeps must not be negative": lambda: samplers.gibbs_sweep(energy(), random_bits(B, D), sweeps=-1),
    "gwg_step: steps must not be negative": lambda: samplers.gwg_step(energy(), random_bits(B, D), steps=-1),
    "median_bandwidth: rows of x and particles must be at least 2": lambda: samplers.median_bandwidth(normal(5, D), 1),
    "ReplayBuffer.draw: restart must be in [0, 1]": lambda: samplers.ReplayBuffer(4, D, None).draw(2, 1.5, None),
    "Stream: seed must be an integer, but is float": lambda: svgdx.Stream(0.5),
    "frechet_distance: a must be finite, but 1 of 9 rows are not": lambda: frechet_distance(
        normal(9, D).index_fill(0, torch.tensor([4]), torch.inf), normal(9, D)
    ),
    "energy_nll: x must have at least 2 rows": lambda: bits.energy_nll(
        square, random_bits(1, D), bits.Estimate(0.0, 0.0)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_work_is_refused_by_name(message: str) -> None:
    with pytest.raises((TypeError, ValueError, RuntimeError)) as error:
        REFUSED[message]()
    assert str(error.value).startswith(message)


def test_seeds_of_64_bits_may_be_unsigned_or_of_numpy() -> None:
    for seed in (2**64 - 1, np.int64(-1)):
        assert torch.equal(svgdx.ops.uniform(normal(4), seed, 0), svgdx.ops.uniform(normal(4), -1, 0))
        assert torch.equal(rollout(seed=seed), rollout(seed=-1))
    assert torch.equal(svgdx.Stream(np.int64(3)).normal((4,)), svgdx.Stream(3).normal((4,)))


@pytest.mark.parametrize("log_z", [np.float32(0.5), np.array(0.5), torch.tensor([[0.5]])])
def test_log_z_may_be_a_number_of_numpy(log_z: Any) -> None:
    torch.testing.assert_close(loss(log_z=log_z), loss(log_z=0.5))


def test_no_problems_and_sizes_of_numpy() -> None:
    sampler = samplers.SVGD(square, gaussian())
    assert sampler.sample(4, 2, batch=0).shape == (0, 4, D)
    expected = sampler.sample(4, 1, batch=(2, 3), generator=generator())
    for batch in (np.array([2, 3]), torch.tensor([2, 3])):
        assert torch.equal(sampler.sample(4, 1, batch=batch, generator=generator()), expected)


def test_chains_over_bits_find_their_way_out_of_density_zero() -> None:
    def target(x: Tensor) -> Tensor:
        return torch.where(x.sum(-1) > 1, -torch.inf, 0.0) - x.sum(-1).float()

    ones = torch.ones(50, 3)
    assert float(samplers.gibbs_sweep(target, ones, generator(), 20).sum(-1).max()) <= 1
    assert float(samplers.gwg_step(target, ones, generator(), steps=60).sum(-1).max()) <= 1


def test_gradients_of_trajectories_by_torch_func() -> None:
    """Under its transforms, the record of a rollout is not used."""
    network = gflownets.MLPPolicy(D, 8, 2)
    paths = gflownets.rollout(network, D, 1, forward_from=gflownets.void_states(B, D))

    def log_pf(module: gflownets.MLPPolicy) -> Tensor:
        return gflownets.trajectory_log_prob(module, paths)[0].sum()

    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = network

        def forward(self) -> Tensor:
            return log_pf(self.policy)

    module = Sum()
    parameters = dict(module.named_parameters())
    gradients = torch.func.grad(lambda values: torch.func.functional_call(module, values, ()))(parameters)
    expected = torch.autograd.grad(log_pf(network), list(parameters.values()))
    for gradient, other in zip(gradients.values(), expected, strict=True):
        torch.testing.assert_close(gradient, other)
