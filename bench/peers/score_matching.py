"""Peers of svgdx.losses.score_matching with its gradient in the parameters, as users write it today.

Every peer maps a problem (network, x) to the loss, from which the benchmark takes the gradient.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

import svgdx
from svgdx.densities import MLPLogDensity


class Problem(NamedTuple):
    """A perceptron with silu between its layers, and points x (N, D)."""

    density: MLPLogDensity
    x: Tensor

    def layers(self) -> list[nn.Linear]:
        return [layer for layer in self.density.layers if isinstance(layer, nn.Linear)]


def problem(points: int, dim: int, hidden: int, depth: int) -> Problem:
    torch.manual_seed(0)
    return Problem(MLPLogDensity(dim, hidden, depth), torch.randn(points, dim))


def eager(problem: Problem) -> Tensor:
    """A backward pass for each dimension of the gradient."""
    x = problem.x.detach().requires_grad_()
    (score,) = torch.autograd.grad(problem.density(x).sum(), x, create_graph=True)
    second = [torch.autograd.grad(score[:, d].sum(), x, create_graph=True)[0][:, d] for d in range(x.shape[1])]
    return (torch.stack(second).sum(0) + 0.5 * score.square().sum(-1)).mean()


def forward_laplacian(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """The forward Laplacian by hand, which the compiler differentiates."""
    argument = linear(x, weights[0], biases[0])
    slopes, laplacian = weights[0].T.expand(len(x), -1, -1), torch.zeros_like(argument)
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        gate = torch.sigmoid(argument)
        value = argument * gate
        first = gate + value * (1 - gate)
        second = gate * (1 - gate) * (2 + argument * (1 - 2 * gate))
        laplacian = linear(second * slopes.square().sum(1) + first * laplacian, weight)
        slopes, argument = linear(first[:, None] * slopes, weight), linear(value, weight, bias)
    return (laplacian[:, 0] + 0.5 * slopes[..., 0].square().sum(-1)).mean()


def compiled(problem: Problem) -> Tensor:
    layers = problem.layers()
    return _compiled(problem.x, [layer.weight for layer in layers], [layer.bias for layer in layers])


def fused(problem: Problem) -> Tensor:
    return svgdx.losses.score_matching(problem.density, problem.x)


def products(problem: Problem) -> float:
    """Floating-point operations of the matrix products of one loss and its gradient."""
    rows = len(problem.x) * (problem.x.shape[1] + 2)
    # One forward and two back, for each layer but the first, of which x takes a row for each point.
    deeper = sum(layer.weight.numel() for layer in problem.layers()[1:])
    return 2.0 * 3 * (rows * deeper + len(problem.x) * problem.layers()[0].weight.numel())


_compiled = torch.compile(forward_laplacian, fullgraph=True, dynamic=False)
PEERS: dict[str, Callable[[Problem], Tensor]] = {"svgdx": fused, "eager": eager, "compiled": compiled}


def with_gradient(peer: str, problem: Problem) -> tuple[Tensor, ...]:
    """The loss and its gradient in the weights; the last bias has none."""
    loss = PEERS[peer](problem)
    weights = list(itertools.chain.from_iterable(layer.parameters() for layer in problem.layers()))[:-1]
    return (loss.detach(), *torch.autograd.grad(loss, weights))
