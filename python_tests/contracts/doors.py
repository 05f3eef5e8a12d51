"""Every public function that takes tensors, with a call that is right: what the tests of contracts vary."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import svgdx
from svgdx import densities, gflownets, losses, samplers
from svgdx.experiments.metrics import bits
from svgdx.experiments.metrics.frechet import frechet_distance

B, D, T = 5, 3, 3


@dataclass
class Door:
    """A public function and the arguments of a right call.

    owner is the name under which its messages speak. rows are the arguments with one number per row, for which a
    trailing dimension of size 1 changes nothing. leading are those with any leading dimensions. alone are those whose
    number of rows nothing else fixes, and widths those whose number of columns nothing else fixes.
    """

    owner: str
    call: Callable[..., Any]
    arguments: Callable[[], dict[str, Any]]
    rows: tuple[str, ...] = ()
    leading: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    widths: tuple[str, ...] = ()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator())


def random_bits(*shape: int) -> Tensor:
    return torch.randint(2, shape, generator=generator(), dtype=torch.int8)


def gaussian(dim: int = D) -> MultivariateNormal:
    return MultivariateNormal(torch.zeros(dim), torch.eye(dim))


@functools.cache
def policy() -> gflownets.MLPPolicy:
    torch.manual_seed(1)
    return gflownets.MLPPolicy(D, 8, 2)


@functools.cache
def flow() -> gflownets.MLPFlow:
    torch.manual_seed(1)
    return gflownets.MLPFlow(D, 8, 2)


def trajectories(actions: Tensor, initial: Tensor, final: Tensor) -> gflownets.Trajectories:
    return gflownets.Trajectories(initial, actions, final)


def trajectory() -> dict[str, Any]:
    paths = gflownets.rollout(policy(), T, 1, forward_from=gflownets.void_states(B, D))
    return {"actions": paths.actions, "initial": paths.initial, "final": paths.final}


def steps() -> dict[str, Any]:
    return {name: normal(B, T) + shift for shift, name in enumerate(("log_pf", "log_pb", "log_flow"))}


def sums() -> dict[str, Any]:
    return {name: normal(B) + shift for shift, name in enumerate(("log_pf", "log_pb", "log_reward"))}


@functools.cache
def proposal() -> gflownets.Proposal:
    return gflownets.back_and_forth(policy(), random_bits(B, D), 2, seed=1)


def square(x: Tensor) -> Tensor:
    return -x.to(torch.float32).square().sum(-1)


@functools.cache
def energy() -> densities.DiscreteMLPEnergy:
    torch.manual_seed(1)
    return densities.DiscreteMLPEnergy(D, 8, 2)


@functools.cache
def mlp() -> densities.MLPLogDensity:
    torch.manual_seed(1)
    return densities.MLPLogDensity(D, 8, 2)


@functools.cache
def bounded() -> densities.BoundedLogDensity:
    return samplers.transformed(torch.distributions.Dirichlet(torch.tensor([2.0, 3.0, 4.0, 5.0])))


@functools.cache
def conv() -> densities.ConvLogDensity:
    torch.manual_seed(1)
    return densities.ConvLogDensity((1, 2, 2), 4)


@functools.cache
def ising() -> densities.IsingEnergy:
    return densities.IsingEnergy(D)


@functools.cache
def empty_buffer() -> samplers.ReplayBuffer:
    return samplers.ReplayBuffer(8, D, generator())


def keep(rows: Tensor, x: Tensor) -> Tensor:
    buffer = copy.deepcopy(empty_buffer())
    buffer.keep(rows, x)
    return buffer.chains


@functools.cache
def chain() -> samplers.Chain:
    return samplers.SVGD(square, gaussian()).run(B, 1, generator=generator())


def chain_mean(value: Tensor) -> Tensor:
    return chain().mean(value)


def score_hvp(x: Tensor, probe: Tensor) -> Tensor:
    return mlp().score_hvp(x, probe)[2]


def learnt(mean: Tensor, std: Tensor) -> Tensor:
    return samplers.LearntGaussian(mean, std).draw(4, (), generator())[0]


def accept(log_p_x: Tensor, log_p_new: Tensor) -> Tensor:
    return gflownets.accept(proposal(), log_p_x, log_p_new, seed=1)[2]


def proposed(x: Tensor, x_new: Tensor, log_ratio: Tensor) -> Tensor:
    return gflownets.Proposal(x, x_new, log_ratio).log_ratio


def rollout(forward_from: Tensor, backward_from: Tensor) -> Tensor:
    return gflownets.rollout(policy(), 2, 1, forward_from=forward_from, backward_from=backward_from).final


LOSS_ROWS = ("log_pf", "log_pb", "log_reward")
STEP_ROWS = (*LOSS_ROWS, "log_flow")

DOORS = [
    Door("trajectory_balance", gflownets.trajectory_balance, lambda: sums() | {"log_z": normal(B)},
         (*LOSS_ROWS, "log_z")),
    Door("log_partition_variance", gflownets.log_partition_variance, sums, LOSS_ROWS),
    Door("detailed_balance", gflownets.detailed_balance, lambda: steps() | {"log_reward": normal(B)}, STEP_ROWS),
    Door("sub_trajectory_balance", gflownets.sub_trajectory_balance, lambda: steps() | {"log_reward": normal(B)},
         STEP_ROWS),
    Door("accept", accept, lambda: {"log_p_x": normal(B), "log_p_new": normal(B) - 1}, ("log_p_x", "log_p_new")),
    Door("Proposal", proposed,
         lambda: {"x": random_bits(B, D), "x_new": random_bits(B, D), "log_ratio": normal(B)}, ("log_ratio",)),
    Door("Trajectories", lambda **fields: gflownets.trajectory_log_prob(policy(), trajectories(**fields)), trajectory,
         widths=("actions",)),
    Door("Trajectories", lambda **fields: gflownets.transition_log_prob(policy(), trajectories(**fields)), trajectory,
         widths=("actions",)),
    Door("rollout", rollout,
         lambda: {"forward_from": gflownets.void_states(B, D), "backward_from": random_bits(B, D)},
         alone=("forward_from", "backward_from")),
    Door("rollout", lambda backward_from: gflownets.back_and_forth(policy(), backward_from, 2, 1).log_ratio,
         lambda: {"backward_from": random_bits(B, D)}, alone=("backward_from",)),
    Door("log_likelihood", lambda x: gflownets.log_likelihood(policy(), x, 2, 1), lambda: {"x": random_bits(B, D)},
         alone=("x",)),
    Door("MLPPolicy", lambda states: policy()(states), lambda: {"states": random_bits(B, D)},
         leading=("states",)),
    Door("MLPFlow", lambda states: flow()(states), lambda: {"states": random_bits(B, D)},
         leading=("states",)),
    Door("LearntGaussian", learnt, lambda: {"mean": normal(D), "std": normal(D).exp()}),
    Door("Chain.mean", chain_mean, lambda: {"value": normal(B)}, ("value",)),
    Door("gibbs_sweep", lambda x: samplers.gibbs_sweep(energy(), x, generator()), lambda: {"x": random_bits(B, D)},
         leading=("x",)),
    Door("gibbs_sweep", lambda x: samplers.gibbs_sweep(ising(), x, generator()),
         lambda: {"x": random_bits(B, D)}, leading=("x",)),
    Door("gwg_step|DiscreteMLPEnergy", lambda x: samplers.gwg_step(energy(), x, generator()),
         lambda: {"x": random_bits(B, D)}, leading=("x",)),
    Door("langevin", lambda x: samplers.langevin(square, x, 2, 0.1, 1.0, generator()).x, lambda: {"x": normal(B, D)},
         alone=("x",), widths=("x",)),
    Door("ReplayBuffer.keep", keep, lambda: {"rows": torch.arange(4), "x": normal(4, D)}),
    Door("median_bandwidth", lambda x: samplers.median_bandwidth(x, 10), lambda: {"x": normal(B, D)}, alone=("x",),
         widths=("x",)),
    Door("MLPLogDensity", lambda x: mlp()(x), lambda: {"x": normal(B, D)}, leading=("x",)),
    Door("MLPLogDensity.score_hvp", score_hvp, lambda: {"x": normal(B, D), "probe": normal(B, D)}),
    Door("MLPLogDensity.laplacian", lambda x: mlp().laplacian(x), lambda: {"x": normal(B, D)}, leading=("x",)),
    Door("ConvLogDensity", lambda x: conv()(x), lambda: {"x": normal(B, 4)}, leading=("x",)),
    Door("BoundedLogDensity", lambda z: bounded()(z), lambda: {"z": normal(B, D)}, leading=("z",)),
    Door("BoundedLogDensity.constrained", lambda z, log_q: bounded().constrained(z, log_q)[1],
         lambda: {"z": normal(B, D), "log_q": normal(B)}, ("log_q",)),
    Door("DiscreteMLPEnergy", lambda x: energy()(x), lambda: {"x": random_bits(B, D)}, leading=("x",)),
    Door("IsingEnergy", lambda x: ising()(x), lambda: {"x": random_bits(B, D)}, leading=("x",)),
    Door("hessian_trace|MLPLogDensity", lambda x: svgdx.hessian_trace(mlp(), x, 2, "hutchinson", generator()).trace,
         lambda: {"x": normal(B, D)}, leading=("x",)),
    Door("score_matching|MLPLogDensity.laplacian", lambda x: losses.score_matching(mlp(), x),
         lambda: {"x": normal(B, D)}, leading=("x",), alone=("x",)),
    Door("sliced_score_matching|MLPLogDensity", lambda x: losses.sliced_score_matching(mlp(), x, 2, generator()),
         lambda: {"x": normal(B, D)}, leading=("x",), alone=("x",)),
    Door("denoising_score_matching|MLPLogDensity",
         lambda x: losses.denoising_score_matching(mlp(), x, 0.5, generator()),
         lambda: {"x": normal(B, D)}, leading=("x",), alone=("x",)),
    Door("energy_discrepancy|MLPLogDensity",
         lambda x: losses.energy_discrepancy(mlp(), x, 0.5, 4, generator=generator()),
         lambda: {"x": normal(B, D)}, leading=("x",), alone=("x",)),
    Door("contrastive_divergence|MLPLogDensity", lambda x, samples: losses.contrastive_divergence(mlp(), x, samples),
         lambda: {"x": normal(B, D), "samples": normal(B, D) + 1}, leading=("x", "samples"), alone=("x", "samples")),
    Door("frechet_distance", frechet_distance, lambda: {"a": normal(9, D), "b": normal(8, D) + 1}, alone=("a", "b")),
    Door("hamming_mmd", bits.hamming_mmd, lambda: {"x": random_bits(9, D), "y": random_bits(8, D)}, alone=("x", "y")),
    Door("neg_log_rmse", bits.neg_log_rmse, lambda: {"coupling": normal(D, D), "true": normal(D, D) + 1}),
    Door("log_z_estimate", bits.log_z_estimate, lambda: {"log_weights": normal(6)}, alone=("log_weights",)),
]  # fmt: skip

TARGETS: dict[str, tuple[str, Callable[[Callable[[Tensor], Any]], Any]]] = {
    "SVGD": ("SVGD: target", lambda f: samplers.SVGD(f, gaussian()).sample(B, 2, generator=generator())),
    "SVGD with its density": (
        "target",
        lambda f: samplers.SVGD(f, gaussian(), hessian="exact").sample_with_log_prob(B, 2, generator=generator()),
    ),
    "hessian_trace": ("hessian_trace: log_prob", lambda f: svgdx.hessian_trace(f, normal(B, D), method="exact").trace),
    "score_matching": ("hessian_trace: log_prob", lambda f: losses.score_matching(f, normal(B, D))),
    "sliced_score_matching": (
        "hessian_trace: log_prob",
        lambda f: losses.sliced_score_matching(f, normal(B, D), 2, generator()),
    ),
    "denoising_score_matching": (
        "denoising_score_matching: target",
        lambda f: losses.denoising_score_matching(f, normal(B, D), 0.5, generator()),
    ),
    "energy_discrepancy": (
        "energy_discrepancy: target",
        lambda f: losses.energy_discrepancy(f, normal(B, D), 0.5, 4, generator=generator()),
    ),
    "contrastive_divergence": (
        "contrastive_divergence: target",
        lambda f: losses.contrastive_divergence(f, normal(B, D), normal(B, D) + 1),
    ),
    "gibbs_sweep": ("gibbs_sweep: target", lambda f: samplers.gibbs_sweep(f, random_bits(B, D), generator())),
    "gwg_step": ("gwg_step: target", lambda f: samplers.gwg_step(f, random_bits(B, D), generator())),
    "langevin": ("langevin: target", lambda f: samplers.langevin(f, normal(B, D), 2, 0.1, 1.0, generator()).x),
    "log_importance_weights": (
        "log_importance_weights: log_reward",
        lambda f: gflownets.log_importance_weights(policy(), f, B, 1),
    ),
    "energy_nll": (
        "energy_nll: target",
        lambda f: bits.energy_nll(f, random_bits(B, D), bits.Estimate(0.0, 0.0)),
    ),
    "transformed": (
        "transformed: target",
        lambda f: samplers.transformed(f, torch.distributions.constraints.positive)(normal(B, D)),
    ),
    "exact_log_z": ("exact_log_z: target", lambda f: bits.exact_log_z(f, D)),
    "ais_log_z": (
        "ais_log_z: target",
        lambda f: bits.ais_log_z(f, torch.full((D,), 0.4), 3, B, generator()),
    ),
}
"""Every function that takes a target: how its messages begin, and a call with a target."""
