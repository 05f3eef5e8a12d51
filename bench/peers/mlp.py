"""Peers of mlp_score_hvp: the same three results by autograd, as users write them today.

Every peer maps  a problem (network, x, condition, probe) to value, score and Hessian-vector product.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

import svgdx.ops

Three = tuple[Tensor, Tensor, Tensor]


class Problem(NamedTuple):
    """A perceptron with silu between its layers, x (B, M, D), condition (B, C) or None, probe (B, M, D)."""

    layers: list[nn.Linear]
    x: Tensor
    condition: Tensor | None
    probe: Tensor

    def value(self, x: Tensor) -> Tensor:
        layer = x
        if self.condition is not None:
            layer = torch.cat([x, self.condition[:, None].expand(*x.shape[:2], -1)], -1)
        for i, linear in enumerate(self.layers):
            layer = linear(nn.functional.silu(layer) if i > 0 else layer)
        return layer.squeeze(-1)


def eager(problem: Problem) -> Three:
    """Double backward."""
    x = problem.x.detach().requires_grad_()
    value = problem.value(x)
    (score,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (hvp,) = torch.autograd.grad(score, x, problem.probe)
    return value.detach(), score.detach(), hvp


def forward_over_reverse(problem: Problem) -> Three:
    """The form that the compiler supports, since it cannot differentiate backward twice."""

    def total(x: Tensor) -> tuple[Tensor, Tensor]:
        value = problem.value(x)
        return value.sum(), value

    gradient = torch.func.grad(total, has_aux=True)
    score, hvp, value = torch.func.jvp(gradient, (problem.x,), (problem.probe,), has_aux=True)
    return value, score, hvp


def compiled(problem: Problem) -> Three:
    with torch.no_grad():
        return _compiled(problem)


def fused(problem: Problem) -> Three:
    weights, biases = [layer.weight for layer in problem.layers], [layer.bias for layer in problem.layers]
    return svgdx.ops.mlp_score_hvp(problem.x, problem.condition, weights, biases, "silu", problem.probe)


def products(problem: Problem) -> float:
    """Floating-point operations of the matrix products of one call, with the condition's part once per row of B."""
    batch, rows, dim = len(problem.x), problem.x.numel() // problem.x.shape[-1], problem.x.shape[-1]
    first, *deeper = [layer.weight for layer in problem.layers[:-1]]
    # Value and tangent forward, and both back.
    at_points = 4 * rows * (dim * len(first) + sum(weight.numel() for weight in deeper))
    return 2.0 * (at_points + batch * (first.shape[1] - dim) * len(first))


_compiled = torch.compile(forward_over_reverse, fullgraph=True, dynamic=False)
PEERS: dict[str, Callable[[Problem], Three]] = {"svgdx": fused, "eager": eager, "compiled": compiled}


def problem(batch: int, particles: int, dim: int, features: int, hidden: int, depth: int, device: str) -> Problem:
    torch.manual_seed(0)
    widths = [dim + features, *(hidden,) * depth, 1]
    layers = [nn.Linear(a, b, device=device) for a, b in itertools.pairwise(widths)]
    x = torch.randn(batch, particles, dim, device=device)
    condition = torch.randn(batch, features, device=device) if features else None
    return Problem(layers, x, condition, svgdx.ops.rademacher(x, 0, 0))
