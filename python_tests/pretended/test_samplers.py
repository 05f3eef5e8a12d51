"""Samplers on the pretended GPU: the numbers of the CPU, to the bit, without a wait of the host or a copy from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pretended.gpu import pretended_cuda
from torch import Tensor

from svgdx import SVGD, Stream, hessian_trace
from svgdx.densities import DiscreteMLPEnergy, IsingEnergy, MLPLogDensity
from svgdx.samplers import (
    RBF,
    InverseMultiquadric,
    Learnt,
    LearntGaussian,
    ReplayBuffer,
    Scheduled,
    SteinStop,
    gibbs_sweep,
    gwg_step,
    langevin,
)

L = 4
CHAINS: dict[str, Callable[[], dict[str, Any]]] = {
    "learnt": lambda: {"kernel": RBF(Learnt(1.0, L)), "step_size": Learnt(0.1, L), "bound": "leaky"},
    "median": lambda: {"kernel": RBF("median"), "hessian": "none"},
    "metropolis-hastings": lambda: {"kernel": RBF(1.0), "control": "metropolis-hastings"},
    "epsilon-greedy": lambda: {"kernel": RBF(1.0), "control": "epsilon-greedy"},
    "truncation": lambda: {"kernel": RBF(1.0), "control": "truncation"},
    "stop": lambda: {"kernel": RBF(1.0), "stop": SteinStop(0.05, 2)},
    "stopped at once": lambda: {"kernel": RBF(1.0), "stop": SteinStop(1e9)},
    "logdet": lambda: {"kernel": RBF(1.0), "hessian": "exact", "density": "logdet"},
    "per dimension": lambda: {"kernel": RBF(torch.ones(3)), "step_size": Scheduled(0.1, "cosine", L)},
    "inverse multiquadric": lambda: {"kernel": InverseMultiquadric("mean")},
}


def density() -> MLPLogDensity:
    torch.manual_seed(0)
    return MLPLogDensity(3, 8, 2, "softplus", confinement=1.0)


def run_chain(name: str, device: str) -> dict[str, Tensor]:
    start = LearntGaussian(torch.zeros(3), torch.ones(3))
    options = {"step_size": 0.1} | CHAINS[name]()
    sampler = SVGD(density().to(device), start, **options).to(device)
    chain = sampler.run(6, L, batch=(2,), generator=Stream(3, device=device))
    assert chain.log_q is not None
    return {"x": chain.x, "log_q": chain.log_q, "length": chain.length, **chain.history()}


def run_langevin(device: str) -> dict[str, Tensor]:
    stream = Stream(3, device=device)
    buffer = ReplayBuffer(9, 3, stream)
    rows, x = buffer.draw(5, 0.3, stream)
    run = langevin(density().to(device), x, L, 0.1, 0.5, stream)
    buffer.keep(rows, run.x)
    return {"x": run.x, "score_norm": run.score_norm, "chains": buffer.chains}


def run_bits(device: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    network, ising = DiscreteMLPEnergy(5, 8, 2).to(device), IsingEnergy(5).to(device)
    stream = Stream(3, device=device)
    x = stream.integers(2, (7, 5)).to(torch.int8)
    of_ising = gibbs_sweep(ising, x, stream)
    x = gwg_step(network, gibbs_sweep(network, x, stream), stream, steps=2)
    return {"network": x, "ising": of_ising, "plain": gibbs_sweep(lambda x: x.float().sum(-1), x, stream)}


def run_traces(device: str) -> dict[str, Tensor]:
    points = torch.linspace(-1, 1, 12).view(4, 3).to(device)
    target, traces = density().to(device), {}
    for method, probes in (("hutchinson", 1), ("hutchinson", 3), ("hutch++", 6), ("exact", 1)):
        stream = Stream(3, device=device)
        traces[f"{method} {probes}"] = hessian_trace(target, points, probes, method, stream).trace
    return traces


RUNS: dict[str, Callable[[str], dict[str, Tensor]]] = {
    **{name: lambda device, name=name: run_chain(name, device) for name in CHAINS},
    "langevin": run_langevin,
    "bits": run_bits,
    "traces": run_traces,
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_equals_that_on_the_cpu(name: str) -> None:
    on_cpu = RUNS[name]("cpu")
    with pretended_cuda() as counts:
        on_gpu = RUNS[name]("cuda")
        assert not counts.waits, counts
        numbers = {key: value.detach().cpu() for key, value in on_gpu.items()}
    assert numbers.keys() == on_cpu.keys()
    for key, value in on_cpu.items():
        expected = value.detach()
        # A chain on a GPU makes the steps after all problems have stopped, in which nothing moves.
        rest = numbers[key][len(expected) :] if key not in ("x", "log_q", "length") and expected.dim() > 0 else None
        if rest is not None and "stop" in name:
            assert bool(rest.isnan().all())
            numbers[key] = numbers[key][: len(expected)]
        torch.testing.assert_close(numbers[key], expected, rtol=0, atol=0, equal_nan=True)


def test_a_sampler_copies_its_constants_once() -> None:
    with pretended_cuda() as counts:
        start = LearntGaussian(torch.zeros(3), torch.ones(3)).to("cuda")
        sampler = SVGD(density().to("cuda"), start, RBF(1.0), 0.1)
        sampler.sample(6, L, generator=Stream(3, device="cuda"))
        counts.clear()
        sampler.sample(6, L, generator=Stream(4, device="cuda"))
        assert (counts.totals()["waits"], counts.totals()["copies"]) == (0, 0), counts
