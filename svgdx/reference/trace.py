"""Ops of Hessian-trace estimation.

Sources:
  [H89]    Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989.
  [P94]    Pearlmutter, Fast Exact Multiplication by the Hessian, Neural Computation 1994.
  [PHILOX] Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011: Philox4x32-10.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from svgdx import _checks
from svgdx._dtype import wide
from svgdx.activations import ACTIVATIONS
from svgdx.reference.gfn import philox

__all__ = ["mlp_laplacian", "mlp_score_hvp", "probe_trace", "rademacher"]


def rademacher(like: Tensor, seed: int, offset: int) -> Tensor:
    """Independent signs, +1 or -1, with the shape, dtype and device of ``like``.

    Element i, in row-major order, is -1 if bit i % 128 of the Philox block with key seed and counter (i // 128, offset)
    is set, [PHILOX].
    """
    _checks.floating("rademacher", "like", like)
    count = like.numel()
    counter = torch.arange((count + 127) // 128, device=like.device)
    words = torch.stack(philox(seed, counter, offset), -1)
    bits = words[..., None] >> torch.arange(32, device=like.device) & 1
    return (1 - 2 * bits).flatten()[:count].view(like.shape).to(like.dtype)


def probe_trace(probe: Tensor, hvp: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sample variance, over V probes, of v . (H v), whose expectation is Tr H, [H89].

    Shapes: probe, hvp (V, ..., D); results (...), in float32 for half precision; the variance is NaN for V = 1.
    """
    _checks.probes("probe_trace", probe, hvp)
    forms = (wide(probe) * wide(hvp)).sum(-1)
    mean = forms.mean(0)
    if len(forms) == 1:
        return mean, torch.full_like(mean, torch.nan)
    return mean, (forms - mean).square().sum(0) / (len(forms) - 1)


def mlp_score_hvp(
    x: Tensor,
    condition: Tensor | None,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    probe: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Value of a multilayer perceptron, its gradient in x, and its Hessian in x times ``probe``, [P94].

    Shapes: x, probe (..., M, D); condition (..., C) or None; weights (out, in), the first (H, D + C), the last (1, H);
    biases (out,); results (..., M), (..., M, D), (..., M, D).
    """
    op = "mlp_score_hvp"
    value = _mlp(op, x, condition, weights, biases, activation)
    _checks.like(op, "probe", probe, x)
    _checks.shape(op, "probe", probe, x.shape, "the shape of x, ")

    gradient = torch.func.grad(lambda points: value(points).sum())
    derivatives = torch.func.jvp(gradient, (wide(x),), (wide(probe),))
    return value(wide(x)).to(x.dtype), derivatives[0].to(x.dtype), derivatives[1].to(x.dtype)


def mlp_laplacian(
    x: Tensor, condition: Tensor | None, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Value of a multilayer perceptron, its gradient in x, and the trace of its Hessian in x, for D <= 64.

    Shapes: as in :func:`mlp_score_hvp`; results (..., M), (..., M, D), (..., M).
    """
    op = "mlp_laplacian"
    value = _mlp(op, x, condition, weights, biases, activation)
    _checks.laplacian_dim(op, x)
    gradient = torch.func.grad(lambda points: value(points).sum())

    def row(unit: Tensor) -> Tensor:
        return torch.func.jvp(gradient, (wide(x),), (unit.expand(x.shape),))[1]

    hessian = torch.func.vmap(row)(torch.eye(x.shape[-1], dtype=wide(x).dtype, device=x.device))
    trace = hessian.diagonal(dim1=0, dim2=-1).sum(-1)
    return value(wide(x)).to(x.dtype), gradient(wide(x)).to(x.dtype), trace.to(x.dtype)


def _mlp(
    op: str,
    x: Tensor,
    condition: Tensor | None,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
) -> Callable[[Tensor], Tensor]:
    """Check the network and return it as a function of x alone."""
    _checks.tensor(op, "x", x)
    if condition is not None:
        _checks.tensor(op, "condition", condition)
    _checks.layers(op, weights, biases)
    _checks.activation(op, activation)
    _checks.conditioned(op, x, condition, weights[0])
    features = x.shape[-1] + (0 if condition is None else condition.shape[-1])
    _checks.first_layer(op, weights[0].shape[1], features)
    nonlinear = ACTIVATIONS[activation].function

    def value(x: Tensor) -> Tensor:
        layer = x
        if condition is not None:
            rows = wide(condition).unsqueeze(-2).expand(*x.shape[:-1], condition.shape[-1])
            layer = torch.cat([x, rows], -1)
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            layer = torch.nn.functional.linear(nonlinear(layer) if i > 0 else layer, wide(weight), wide(bias))
        return layer.squeeze(-1)

    return value
