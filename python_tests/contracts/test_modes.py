"""Modes of torch: inference_mode, no_grad and autocast around every public entry; scores without a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from contracts.doors import DOORS, B, D, Door, energy, gaussian, generator, mlp, normal, policy, random_bits, square
from torch import Tensor

import svgdx
from svgdx import densities, gflownets, samplers


def svgd(target: Any = square, **settings: Any) -> samplers.SVGD:
    return samplers.SVGD(target, samplers.LearntGaussian(torch.zeros(D), 1.0), **settings)


def chain(target: Any = square, **settings: Any) -> tuple[Tensor, Tensor]:
    return svgd(target, **settings).sample_with_log_prob(8, 3, generator=generator())


def paths() -> gflownets.Trajectories:
    return gflownets.rollout(policy(), D, 1, forward_from=gflownets.void_states(B, D), log_prob=True)


ENTRIES: dict[str, Callable[[], Any]] = {
    "SVGD.sample": lambda: svgd().sample(8, 3, generator=generator()),
    "SVGD, hutchinson": chain,
    "SVGD, exact": lambda: chain(hessian="exact", density="logdet", bound="clamp"),
    "SVGD, no Hessian": lambda: chain(hessian="none"),
    "SVGD, inverse multiquadric": lambda: chain(kernel=samplers.InverseMultiquadric()),
    "SVGD, Metropolis-Hastings": lambda: chain(hessian="exact", control="metropolis-hastings"),
    "SVGD, truncation": lambda: chain(control="truncation"),
    "SVGD of a Gaussian": lambda: chain(gaussian(), hessian="exact"),
    "SVGD of an MLP": lambda: chain(mlp()),
    "SVGD of a score": lambda: chain(samplers.ScoreTarget(lambda x: -x)),
    "SVGD with an optimizer": lambda: svgd(optimizer=torch.optim.SGD).sample(8, 3, generator=generator()),
    "hessian_trace": lambda: svgdx.hessian_trace(square, normal(B, D), method="exact"),
    "hessian_trace, probes": lambda: svgdx.hessian_trace(square, normal(B, D), probes=6, method="hutch++").score,
    "score_hvp": lambda: mlp().score_hvp(normal(B, D), normal(B, D)),
    "gibbs_sweep": lambda: samplers.gibbs_sweep(square, random_bits(B, D), generator()),
    "gwg_step": lambda: samplers.gwg_step(square, random_bits(B, D), generator()),
    "langevin": lambda: samplers.langevin(square, normal(B, D), 3, 0.1, 1.0, generator()).x,
    "rollout": lambda: (paths().actions, *paths().sums()),
    "rollout with record": lambda: gflownets.rollout(
        policy(), D, 1, backward_from=random_bits(B, D), record=True
    ).sums(),
    "trajectory_log_prob": lambda: gflownets.trajectory_log_prob(policy(), paths()),
    "log_likelihood": lambda: gflownets.log_likelihood(policy(), random_bits(B, D), 4, 1),
    "log_importance_weights": lambda: gflownets.log_importance_weights(policy(), lambda x: square(x), 8, 1),
}
MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@contextmanager
def deterministic() -> Iterator[None]:
    """Only deterministic algorithms, and what is allocated without being filled is NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def default_double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


# Modes that change what is allocated; the arguments are made before them. Device meta stands for one without a GPU.
DEFAULTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "deterministic": deterministic,
    "default dtype": default_double,
    "default device": lambda: torch.device("meta"),
}


def detached(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(detached(value) for value in result)
    return result.detach() if isinstance(result, Tensor) else result


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_gives_the_same_numbers_in_every_mode(name: str, mode: str) -> None:
    plain = detached(ENTRIES[name]())
    with MODES[mode]():
        result = ENTRIES[name]()
    # With a graph, Metropolis-Hastings rounds once more.
    torch.testing.assert_close(detached(result), plain, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("mode", ["inference_mode", "no_grad"])
@pytest.mark.parametrize("door", [pytest.param(door, id=f"{i}-{door.owner}") for i, door in enumerate(DOORS)])
def test_every_door_gives_the_same_numbers_in_every_mode(door: Door, mode: str) -> None:
    plain = detached(door.call(**door.arguments()))
    with MODES[mode]():
        result = door.call(**door.arguments())
    torch.testing.assert_close(detached(result), plain, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("mode", DEFAULTS)
@pytest.mark.parametrize("door", [pytest.param(door, id=f"{i}-{door.owner}") for i, door in enumerate(DOORS)])
def test_every_door_follows_its_arguments_not_the_defaults(door: Door, mode: str) -> None:
    plain = detached(door.call(**door.arguments()))
    arguments = door.arguments()
    with DEFAULTS[mode]():
        result = door.call(**arguments)
    if mode == "default dtype" and door.owner.startswith("gwg_step"):
        # Its chain over integers is computed in the default dtype, and so draws other numbers.
        assert bool((detached(result) <= 1).all())
        return
    torch.testing.assert_close(detached(result), plain, rtol=0, atol=0, equal_nan=True)


def test_training_continues_after_a_rollout_in_inference_mode() -> None:
    """What a policy keeps between rollouts is not bound to the mode of the first one."""
    network = gflownets.MLPPolicy(D, 8, 2)
    start = {"forward_from": gflownets.void_states(B, D), "record": True}
    with torch.inference_mode():
        first = gflownets.rollout(network, D, 1, **start)
    losses = [gflownets.trajectory_log_prob(network, first)[0].sum()]
    losses += [gflownets.trajectory_log_prob(network, gflownets.rollout(network, D, 1, **start))[0].sum()]
    gradients = [torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)[0] for loss in losses]
    assert torch.equal(*gradients)


def test_a_policy_made_in_inference_mode_rolls_out() -> None:
    with torch.inference_mode():
        network = gflownets.MLPPolicy(D, 8, 2)
        inside = gflownets.rollout(network, D, 1, forward_from=gflownets.void_states(B, D), log_prob=True).sums()
    outside = gflownets.rollout(network, D, 1, forward_from=gflownets.void_states(B, D), log_prob=True).sums()
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)


def test_tensors_of_inference_mode_are_taken() -> None:
    with torch.inference_mode():
        x, bits = normal(B, D), random_bits(B, D)
    results = [svgdx.hessian_trace(energy, points).trace for energy in (square, mlp()) for points in (x, x.clone())]
    assert torch.equal(results[0], results[1])
    samplers.langevin(square, x, 2, 0.1, 1.0, generator())
    samplers.gwg_step(energy(), bits, generator())


NO_GRAPH: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": torch.ones_like,
    "detached": lambda x: -x.detach(),
    "no_grad": torch.no_grad()(lambda x: -x),
    "inference_mode": torch.inference_mode()(lambda x: -x),
}


@pytest.mark.parametrize("hessian", ["hutchinson", "exact"])
@pytest.mark.parametrize("score", NO_GRAPH)
def test_a_score_without_a_graph_needs_no_hessian(score: str, hessian: str) -> None:
    target = samplers.ScoreTarget(NO_GRAPH[score])
    with pytest.raises(ValueError, match=rf'SVGD: hessian "{hessian}" needs .* no graph .* pass hessian="none"'):
        chain(target, hessian=hessian)
    x, log_q = chain(target, hessian="none")
    assert bool(x.isfinite().all())
    assert bool(log_q.isfinite().all())


@pytest.mark.parametrize("hessian", ["hutchinson", "exact"])
def test_a_score_that_depends_on_parameters_alone_has_a_hessian_of_zero(hessian: str) -> None:
    weight = torch.ones(D, requires_grad=True)
    with_graph = chain(samplers.ScoreTarget(lambda x: weight.expand_as(x)), hessian=hessian)
    without = chain(samplers.ScoreTarget(torch.ones_like), hessian="none")
    torch.testing.assert_close(detached(with_graph), detached(without), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("prefix", "call"),
    [
        ("SVGD: target", lambda f: svgd(f, hessian="none").sample(4, 1)),
        ("hessian_trace: log_prob", lambda f: svgdx.hessian_trace(f, normal(B, D))),
        ("gwg_step: target", lambda f: samplers.gwg_step(f, random_bits(B, D), generator())),
        ("langevin: target", lambda f: samplers.langevin(f, normal(B, D), 1, 0.1, 1.0, generator())),
    ],
)
def test_a_log_density_without_a_graph_is_refused_by_name(prefix: str, call: Callable[[Any], Any]) -> None:
    for function in (lambda x: square(x.detach()), torch.no_grad()(lambda x: square(x))):
        with pytest.raises((ValueError, RuntimeError), match=f"^{prefix} must be differentiable in x"):
            call(function)


def test_a_network_in_half_precision_is_a_target() -> None:
    torch.manual_seed(1)
    network = densities.ConvLogDensity((1, 2, 2), 4)

    def target(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return network(x).float()

    initial = samplers.LearntGaussian(torch.zeros(4), 1.0)
    results = [samplers.SVGD(f, initial).sample(6, 2, generator=generator()).detach() for f in (target, network)]
    torch.testing.assert_close(*results, rtol=0, atol=0.05)
    assert not torch.equal(*results)
