"""A chain of svgdx.SVGD with densities and Hessian term against the peers of sampler_peers.py in one run: float32,
Gaussian target; forward without gradients, and forward with gradients in every step's parameters.

svgdx gets the target as a distribution, whose derivatives it knows, or as a callable, like plain PyTorch; "derivatives"
is the time that the target takes in the forward pass.

pytest bench/systems/bench_sampler.py --benchmark-json RUN.json
python bench/report/render.py RUN.json bench/results/sampler
"""

from __future__ import annotations

from typing import Any

import pytest
import sampler_peers
import torch
from sampler_peers import DIM, PARTICLES, STEPS, log_density, target
from timing import agree, one_thread, time_calls

__all__ = ["one_thread"]

SIZES = "M, L, D, target"
SHAPES = [(PARTICLES, STEPS, DIM, kind) for kind in sampler_peers.TARGETS]


@pytest.mark.parametrize("peer", [*sampler_peers.PEERS, "derivatives"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(benchmark: Any, shape: tuple[int, int, int, str], peer: str) -> None:
    benchmark.extra_info["sizes"] = SIZES
    peers = sampler_peers.PEERS | {"derivatives": sampler_peers.Derivatives}
    model = peers[peer](sampler_peers.TARGETS[shape[-1]]())
    with torch.no_grad():
        time_calls(benchmark, "cpu", model)


@pytest.mark.parametrize("peer", sampler_peers.PEERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_backward(benchmark: Any, shape: tuple[int, int, int, str], peer: str) -> None:
    benchmark.extra_info["sizes"] = SIZES
    model = sampler_peers.PEERS[peer](sampler_peers.TARGETS[shape[-1]]())
    parameters = list(model.parameters())
    log_p = log_density(target().precision_matrix)

    def gradients() -> tuple[torch.Tensor, ...]:
        x, log_q = model()
        return torch.autograd.grad((log_q - log_p(x)).mean(), parameters)

    time_calls(benchmark, "cpu", gradients)


def test_the_peer_computes_the_same() -> None:
    """Update and gradient agree for one set of particles, scores and traces."""
    torch.manual_seed(0)
    plain, kernel = sampler_peers.Plain(), sampler_peers.ours(target()).kernel
    x, score, trace, log_q = torch.randn(PARTICLES, DIM), torch.randn(PARTICLES, DIM), *torch.randn(2, PARTICLES)
    sigma, eps = torch.tensor(2.0), torch.tensor(0.1)
    inputs = [tensor.requires_grad_() for tensor in (x, score, trace, log_q, sigma, eps)]
    theirs = plain.move(x, score, trace, log_q, sigma, eps)
    outputs = kernel.step(x, score, sigma, eps, log_q, trace)
    agree(theirs, outputs)
    upstream = [torch.randn_like(output) for output in outputs]
    agree(torch.autograd.grad(theirs, inputs, upstream), torch.autograd.grad(outputs, inputs, upstream))
