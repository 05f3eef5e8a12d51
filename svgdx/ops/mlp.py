"""The value and the first and second derivatives of a multilayer perceptron in x, without an autograd graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from svgdx import _checks
from svgdx.activations import COMPILED
from svgdx.ops._register import PLAIN, SHARED, Op

__all__ = ["mlp_laplacian", "mlp_score_hvp"]

Packed = tuple[Tensor, Tensor, int]


def mlp_score_hvp(
    x: Tensor,
    condition: Tensor | None,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    probe: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Value f of a multilayer perceptron, its gradient in x, and its Hessian in x times v.

    A forward sweep propagates value and tangent, a reverse sweep the gradient and its tangent. Each layer is one matrix
    product of both, fused with the activation's derivatives. The condition's part of the first layer is computed once
    per batch row, not per particle.

    Args:
        x: particles, (..., M, D); float32, float64, bfloat16 or float16 (the last two are computed in float32).
        condition: input shared by all particles of a batch row, (..., C), or None; appended to x in the first layer.
        weights: weight of each linear layer, (out, in) as in ``torch.nn.Linear``: at least two, the first (H, D + C),
            the last (1, H); dtype and device of x.
        biases: bias of each layer, (out,).
        activation: activation between the layers: silu, gelu (with the error function), tanh, softplus, elu or relu.
            Where a derivative jumps, the value is autograd's.
        probe: v; shape, dtype and device of x.

    Returns:
        f (..., M), grad f (..., M, D) and H v (..., M, D), in the dtype of x. Not differentiable: use
        autograd if you need a graph.

    Raises:
        TypeError: if an argument is not a tensor, or weights or biases is not a sequence of tensors.
        ValueError: if the activation is unknown.
        RuntimeError: if a shape, dtype or device does not match.

    Source: Pearlmutter, Fast Exact Multiplication by the Hessian, Neural Computation 1994.
    """
    return packed_score_hvp(x, condition, probe, pack("mlp_score_hvp", condition, weights, biases, activation))


def mlp_laplacian(
    x: Tensor, condition: Tensor | None, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Value f of a multilayer perceptron, its gradient in x, and the exact trace of its Hessian in x.

    One forward sweep propagates value, Jacobian and Laplacian through the layers, for a block of points at a time.

    Args:
        x: particles, (..., M, D) with D <= 64; dtypes as in :func:`mlp_score_hvp`.
        condition, weights, biases, activation: as in :func:`mlp_score_hvp`.

    Returns:
        f (..., M), grad f (..., M, D) and Tr H (..., M), in the dtype of x. Not differentiable.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`mlp_score_hvp`; RuntimeError also if D > 64.

    Source: Li et al., A computational framework for neural network-based variational Monte Carlo with Forward
    Laplacian, Nature Machine Intelligence 2024.
    """
    op = "mlp_laplacian"
    _checks.tensor(op, "x", x)
    packed = pack(op, condition, weights, biases, activation)
    derivatives: tuple[Tensor, Tensor, Tensor] = _laplacian(x, condition, *packed)
    return derivatives


def packed_score_hvp(
    x: Tensor, condition: Tensor | None, probe: Tensor, packed: Packed
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`mlp_score_hvp` for a network already packed by :func:`pack`."""
    op = "mlp_score_hvp"
    _checks.tensor(op, "x", x)
    _checks.tensor(op, "probe", probe)
    derivatives: tuple[Tensor, Tensor, Tensor] = _score_hvp(x, condition, probe, *packed)
    return derivatives


def pack(op: str, condition: object, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str) -> Packed:
    """Pack a network: concatenated weights and biases, the widths from D + C to 1, and the activation's number."""
    if condition is not None:
        _checks.tensor(op, "condition", condition)
    _checks.layers(op, weights, biases)
    _checks.activation(op, activation)
    with torch.no_grad():
        parameters = torch.cat([tensor.reshape(-1) for layer in zip(weights, biases, strict=True) for tensor in layer])
    widths = [weights[0].shape[1], *(weight.shape[0] for weight in weights)]
    return parameters, torch.tensor(widths, dtype=torch.int64), COMPILED[activation]


def _score_hvp_fake(
    x: Tensor, condition: Tensor | None, probe: Tensor, parameters: Tensor, widths: Tensor, activation: int
) -> tuple[Tensor, Tensor, Tensor]:
    op = "mlp_score_hvp"
    _checks.conditioned(op, x, condition, parameters)
    _checks.like(op, "probe", probe, x)
    _checks.shape(op, "probe", probe, x.shape, "the shape of x, ")
    return x.new_empty(x.shape[:-1]), x.new_empty(x.shape), x.new_empty(x.shape)


def _laplacian_fake(
    x: Tensor, condition: Tensor | None, parameters: Tensor, widths: Tensor, activation: int
) -> tuple[Tensor, Tensor, Tensor]:
    op = "mlp_laplacian"
    _checks.conditioned(op, x, condition, parameters)
    _checks.laplacian_dim(op, x)
    return x.new_empty(x.shape[:-1]), x.new_empty(x.shape), x.new_empty(x.shape[:-1])


_score_hvp = Op("mlp_score_hvp", _score_hvp_fake, (2, 1, 2, SHARED, SHARED, PLAIN))
_laplacian = Op("mlp_laplacian", _laplacian_fake, (2, 1, SHARED, SHARED, PLAIN))
