"""The value and the first and second derivatives of a multilayer perceptron in x, without an autograd graph.

Source of the references: [P94] Pearlmutter, Fast Exact Multiplication by the Hessian, Neural Computation 1994.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from svgdx import _checks
from svgdx._checks import one_of, wide
from svgdx.activations import ACTIVATIONS, COMPILED
from svgdx.ops.registration.dispatch import Op

__all__ = ["mlp_laplacian", "mlp_score_hvp"]

# Most dimensions of mlp_laplacian.
MAX_DIM = 64

Packed = tuple[Tensor, Tensor, int]
Derivatives = tuple[Tensor, Tensor, Tensor]
Gradients = tuple[Tensor | None, ...]


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


def mlp_score_hvp_reference(
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
    packed = pack("mlp_score_hvp", condition, weights, biases, activation)
    sizes = _score_hvp.check(x, condition, probe, *packed)
    _check_first_layer("mlp_score_hvp", weights[0].shape[1], sizes["D"] + sizes.get("C", 0))
    value = _function_of(condition, weights, biases, activation)

    gradient = torch.func.grad(lambda points: value(points).sum())
    derivatives = torch.func.jvp(gradient, (wide(x),), (wide(probe),))
    return value(wide(x)).to(x.dtype), derivatives[0].to(x.dtype), derivatives[1].to(x.dtype)


def mlp_laplacian(
    x: Tensor, condition: Tensor | None, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Value f of a multilayer perceptron, its gradient in x, and the exact trace of its Hessian in x.

    One forward sweep propagates value, Jacobian and Laplacian through the layers, for a block of points at a time.

    Args:
        x: particles, (..., M, D) with D <= 64; dtypes as in :func:`mlp_score_hvp`.
        condition, weights, biases, activation: as in :func:`mlp_score_hvp`.

    Returns:
        f (..., M), grad f (..., M, D) and Tr H (..., M), in the dtype of x. Differentiable once in x, condition,
        weights and biases: a sweep back through the layers of each block forms their values anew, so that nothing is
        stored for the gradient.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`mlp_score_hvp`; RuntimeError also if D > 64.

    Source: Li et al., A computational framework for neural network-based variational Monte Carlo with Forward
    Laplacian, Nature Machine Intelligence 2024.
    """
    packed = pack("mlp_laplacian", condition, weights, biases, activation, torch.is_grad_enabled())
    derivatives: Derivatives = _laplacian.checked(x, condition, *packed)
    return derivatives


def mlp_laplacian_reference(
    x: Tensor, condition: Tensor | None, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Value of a multilayer perceptron, its gradient in x, and the trace of its Hessian in x, for D <= 64.

    Shapes: as in :func:`mlp_score_hvp`; results (..., M), (..., M, D), (..., M).
    """
    packed = pack("mlp_laplacian", condition, weights, biases, activation)
    sizes = _laplacian.check(x, condition, *packed)
    _check_first_layer("mlp_laplacian", weights[0].shape[1], sizes["D"] + sizes.get("C", 0))
    value = _function_of(condition, weights, biases, activation)
    gradient = torch.func.grad(lambda points: value(points).sum())

    def row(unit: Tensor) -> Tensor:
        return torch.func.jvp(gradient, (wide(x),), (unit.expand(x.shape),))[1]

    hessian = torch.func.vmap(row)(torch.eye(x.shape[-1], dtype=wide(x).dtype, device=x.device))
    trace = hessian.diagonal(dim1=0, dim2=-1).sum(-1)
    return value(wide(x)).to(x.dtype), gradient(wide(x)).to(x.dtype), trace.to(x.dtype)


def packed_score_hvp(
    x: Tensor, condition: Tensor | None, probe: Tensor, packed: Packed
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`mlp_score_hvp` for a network already packed by :func:`pack`."""
    derivatives: Derivatives = _score_hvp.checked(x, condition, probe, *packed)
    return derivatives


def pack(
    op: str,
    condition: object,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    differentiable: bool = False,
) -> Packed:
    """Pack a network: concatenated weights and biases, the widths from D + C to 1, and the activation's number."""
    if condition is not None:
        _checks.tensor(op, "condition", condition)
    _check_layers(op, weights, biases)
    one_of(f"svgdx::{op}", "activation", activation, tuple(COMPILED))
    with torch.set_grad_enabled(differentiable):
        parameters = torch.cat([tensor.reshape(-1) for layer in zip(weights, biases, strict=True) for tensor in layer])
    widths = [weights[0].shape[1], *(weight.shape[0] for weight in weights)]
    return parameters, torch.tensor(widths, dtype=torch.int64, device="cpu"), COMPILED[activation]


def _check_layers(op: str, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
    """Checks that each linear layer takes the outputs of the one before, and that the last has one output."""
    for name, values in (("weights", weights), ("biases", biases)):
        if not isinstance(values, Sequence):
            raise TypeError(f"svgdx::{op}: {name} must be a sequence of tensors, but is {type(values).__name__}")
        for i, value in enumerate(values):
            _checks.tensor(op, f"{name}[{i}]", value)
    if len(weights) < 2 or len(biases) != len(weights):
        lengths = f"{len(weights)} and {len(biases)}"
        _checks.fail(op, f"weights and biases must have the same length, at least 2, but have {lengths}")
    _checks.floating(op, "weights[0]", weights[0])
    outputs = None
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        for name, value in (("weights", weight), ("biases", bias)):
            _checks.like(op, f"{name}[{i}]", value, weights[0], "weights[0]")
        last = i == len(weights) - 1
        if weight.dim() != 2 or (outputs is not None and weight.shape[1] != outputs) or (last and len(weight) != 1):
            expected = ("1" if last else "out", "in" if outputs is None else str(outputs))
            _checks.fail(op, f"weights[{i}] must have shape ({', '.join(expected)}), but has {tuple(weight.shape)}")
        outputs = weight.shape[0]
        _checks.shape(op, f"biases[{i}]", bias, (outputs,))


def _check_first_layer(op: str, inputs: int, features: int) -> None:
    if inputs != features:
        _checks.fail(op, f"weights must take D + C = {features} features in the first layer, but take {inputs}")


def _function_of(
    condition: Tensor | None, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str
) -> Callable[[Tensor], Tensor]:
    """The network as a function of x alone."""
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


def _laplacian_limit(sizes: dict[str, Any], values: Sequence[Any]) -> str | None:
    return f"x must have at most {MAX_DIM} features (D), but has {sizes['D']}" if sizes["D"] > MAX_DIM else None


def _laplacian_formula(inputs: Sequence[Any], needs: Sequence[bool], *grads: Tensor | None) -> Gradients:
    return *_laplacian_backward(*grads, *inputs, needs[2]), None, None


_score_hvp = Op(
    "mlp_score_hvp",
    "x[*,M,D] condition[*,C]? probe[*,M,D] parameters[P] widths[L]host activation -> f[*,M] score[*,M,D] hvp[*,M,D]",
)
_laplacian = Op(
    "mlp_laplacian",
    "x[*,M,D] condition[*,C]? parameters[P] widths[L]host activation -> f[*,M] score[*,M,D] trace[*,M]",
    _laplacian_formula,
    limit=_laplacian_limit,
)
_laplacian_backward = _laplacian.backward(
    "x condition parameters", "x condition parameters widths activation", if_needed="parameters"
)
