"""Natural inputs: dtypes of states, NumPy and tensors as counts, numbers as vectors; and messages that name them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from contracts.doors import B, D, energy, gaussian, generator, mlp, normal, policy, random_bits, square
from torch import Tensor

import svgdx
from svgdx import densities, gflownets, samplers

DTYPES = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool, torch.float16, torch.bfloat16]
DTYPES += [torch.float32, torch.float64]


def likelihood(x: Tensor) -> Tensor:
    return gflownets.log_likelihood(policy(), x, 3, 1)


def move(x: Tensor) -> Tensor:
    return gflownets.back_and_forth(policy(), x, 2, 1).log_ratio


def refill(x: Tensor) -> Tensor:
    return gflownets.rollout(policy(), 2, 1, backward_from=x).initial


def replay(x: Tensor) -> Tensor:
    actions = 2 * torch.arange(D).expand(B, D) + x.long()
    return gflownets.trajectory_log_prob(policy(), gflownets.Trajectories(torch.full((B, D), -1), actions.int(), x))[0]


STATES: dict[str, Callable[[Tensor], Tensor]] = {
    "log_likelihood": likelihood,
    "back_and_forth": move,
    "rollout": refill,
    "Trajectories": replay,
    "MLPPolicy": lambda x: policy()(x),
    "DiscreteMLPEnergy": lambda x: energy()(x),
    "IsingEnergy": lambda x: densities.IsingEnergy(D)(x),
    "gibbs_sweep of an MLP": lambda x: samplers.gibbs_sweep(energy(), x, generator(), 3).to(torch.int8),
    "gibbs_sweep of Ising": lambda x: samplers.gibbs_sweep(densities.IsingEnergy(D), x, generator(), 3).to(torch.int8),
    "gibbs_sweep of a function": lambda x: samplers.gibbs_sweep(square, x, generator(), 3).to(torch.int8),
    "gwg_step": lambda x: samplers.gwg_step(energy(), x, generator(), steps=3).to(torch.int8),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", STATES)
def test_bits_of_any_dtype_give_the_result_of_int8(name: str, dtype: torch.dtype) -> None:
    x = random_bits(B, D)
    torch.testing.assert_close(STATES[name](x.to(dtype)), STATES[name](x), rtol=0, atol=0)


@pytest.mark.parametrize("value", [0.5, 2, -2, 255, torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["log_likelihood", "back_and_forth", "rollout", "Trajectories"])
def test_entries_that_are_no_states_are_refused(name: str, value: float) -> None:
    x = random_bits(B, D).double()
    x[2, 1] = value
    if name == "Trajectories":
        with pytest.raises(ValueError, match=r"Trajectories: final must hold -1 \(void\), 0 and 1 only"):
            gflownets.Trajectories(x.round().clamp(0, 1).nan_to_num(), torch.zeros(B, 1, dtype=torch.int64), x)
        return
    with pytest.raises(ValueError, match=r"must hold -1 \(void\), 0 and 1 only, but as float64 holds others"):
        STATES[name](x)


COUNTS: dict[str, Callable[[Any], Any]] = {
    "ModuleParticles: n": lambda n: samplers.ModuleParticles(torch.nn.Linear(2, 1), n).theta.shape[0],
    "SVGD: n": lambda n: samplers.SVGD(square, gaussian()).sample(n, 2, generator=generator()),
    "SVGD: steps": lambda n: samplers.SVGD(square, gaussian()).sample(4, n, generator=generator()),
    "SVGD: batch": lambda n: samplers.SVGD(square, gaussian()).sample(4, 2, batch=n, generator=generator()),
    "SVGD: attach_every": lambda n: samplers.SVGD(square, gaussian(), attach_every=n).attach_every,
    "hessian_trace: probes": lambda n: svgdx.hessian_trace(square, normal(B, D), probes=n).trace,
    "gibbs_sweep: sweeps": lambda n: samplers.gibbs_sweep(square, random_bits(B, D), generator(), n),
    "gwg_step: steps": lambda n: samplers.gwg_step(energy(), random_bits(B, D), generator(), steps=n),
    "langevin: steps": lambda n: samplers.langevin(square, normal(B, D), n, 0.1, 1.0, generator()).x,
    "rollout: steps": lambda n: gflownets.rollout(policy(), n, 1, backward_from=random_bits(B, D)).initial,
    "rollout: seed": lambda n: gflownets.rollout(policy(), 2, n, backward_from=random_bits(B, D)).initial,
    "void_states: count": lambda n: gflownets.void_states(n, D),
    "log_likelihood: samples": lambda n: gflownets.log_likelihood(policy(), random_bits(B, D), n, 1),
    "log_importance_weights: samples": lambda n: gflownets.log_importance_weights(policy(), lambda x: square(x), n, 1),
    "ReplayBuffer: size": lambda n: samplers.ReplayBuffer(n, D, generator()).chains,
}
INTEGERS = [np.int64(3), np.int32(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.int32)]


@pytest.mark.parametrize("value", INTEGERS, ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}")
@pytest.mark.parametrize("name", COUNTS)
def test_integers_of_numpy_and_torch_are_counts(name: str, value: Any) -> None:
    torch.testing.assert_close(COUNTS[name](value), COUNTS[name](3), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "value", [3.0, np.float32(3), torch.tensor(3.0), True, np.bool_(True), torch.tensor(True), None]
)
@pytest.mark.parametrize("name", COUNTS)
def test_what_is_no_integer_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be an integer, but is"):
        COUNTS[name](value)


def test_batch_is_a_number_or_several() -> None:
    sampler = samplers.SVGD(square, gaussian())
    batches = [2, (2,), [2], torch.Size([2]), (np.int64(2),), torch.tensor(2)]
    particles = [sampler.sample(4, 2, batch=batch, generator=generator()) for batch in batches]
    assert particles[0].shape == (2, 4, D)
    assert all(torch.equal(x, particles[0]) for x in particles)
    with pytest.raises(ValueError, match=r"SVGD: batch must not be negative, but is \(-1,\)"):
        sampler.sample(4, 2, batch=-1)


@pytest.mark.parametrize("std", [2, 2.0, np.float64(2.0), torch.tensor(2.0)])
def test_one_standard_deviation_for_all_dimensions(std: Any) -> None:
    one, every = (samplers.LearntGaussian(torch.zeros(D), value) for value in (std, torch.full((D,), 2.0)))
    assert torch.equal(one.log_std, every.log_std)
    with pytest.raises(ValueError, match="std must be positive"):
        samplers.LearntGaussian(torch.zeros(D), 0.0)
    assert samplers.LearntGaussian(torch.zeros(D, dtype=torch.int64), std).mean.dtype == torch.float32


def test_messages_do_not_name_inner_ops() -> None:
    for call in (
        lambda: gflownets.rollout(policy(), D + 1, 1, forward_from=gflownets.void_states(2, D)),
        lambda: gflownets.rollout(policy(), 1, 1, backward_from=gflownets.void_states(2, D)),
        lambda: gflownets.rollout(policy(), 1, 1, forward_from=torch.full((2, D), 7, dtype=torch.int8)),
    ):
        with pytest.raises(RuntimeError, match=r"^svgdx::gfn_sample_(forward|backward): ") as error:
            call()
        assert "mlp_rollout" not in str(error.value)


def test_particles_of_another_dtype_than_the_network_are_named() -> None:
    with pytest.raises(
        TypeError, match=r"x must have the dtype of the parameters, torch\.float32, but has torch\.float64"
    ):
        svgdx.hessian_trace(mlp(), normal(B, D).double())
