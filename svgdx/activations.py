"""The table of activations: every network, op and setting of svgdx reads the names from here.

It lies below the ops, which refer to an activation by its number in the C++ code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ACTIVATIONS", "COMPILED", "FROM_VALUE", "SMOOTH", "Activation", "DerivativesFromValue"]


class DerivativesFromValue(NamedTuple):
    """The derivatives of an activation a(z) as functions of its value, so that z need not be stored."""

    slope: Callable[[Tensor], Tensor]
    """a' from the value a."""
    curves: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """a'' and a''' from the value a and the slope a'."""


class Activation(NamedTuple):
    """An activation in its forms for a module, for a function and for the compiled ops."""

    module: type[nn.Module]
    function: Callable[[Tensor], Tensor]
    smoothness: float
    """How many derivatives are continuous."""
    number: int | None = None
    """Its number in the enum Activation of the C++ code; None if no compiled op evaluates it."""
    from_value: DerivativesFromValue | None = None
    """None if they are not implemented for it."""


def _elu_curves(value: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    # The slope if it is below 1, else 0: faster than a mask.
    curve = -functional.threshold(-slope, -1.0, 0.0)
    return curve, curve


def _relu_curves(value: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    zero = torch.zeros_like(value)
    return zero, zero


def _softplus_curves(value: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    second = slope * (1 - slope)
    return second, second * (1 - 2 * slope)


def _tanh_curves(value: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    return -2 * value * slope, -2 * slope * (1 - 3 * value.square())


TANH = DerivativesFromValue(lambda value: 1 - value.square(), _tanh_curves)
SOFTPLUS = DerivativesFromValue(lambda value: -torch.expm1(-value), _softplus_curves)
ELU = DerivativesFromValue(lambda value: value.clamp_max(0).add_(1), _elu_curves)
RELU = DerivativesFromValue(lambda value: (value > 0).to(value.dtype), _relu_curves)

ACTIVATIONS = {
    "silu": Activation(nn.SiLU, functional.silu, math.inf, 0),
    "gelu": Activation(nn.GELU, functional.gelu, math.inf, 1),
    "tanh": Activation(nn.Tanh, torch.tanh, math.inf, 2, TANH),
    "softplus": Activation(nn.Softplus, functional.softplus, math.inf, 3, SOFTPLUS),
    "elu": Activation(nn.ELU, functional.elu, 1, 4, ELU),
    "relu": Activation(nn.ReLU, functional.relu, 0, 5, RELU),
    "leaky_relu": Activation(nn.LeakyReLU, functional.leaky_relu, 0),
}

SMOOTH = tuple(name for name, activation in ACTIVATIONS.items() if activation.smoothness >= 2)
"""The activations of which a network has a continuous Hessian."""

COMPILED = {name: activation.number for name, activation in ACTIVATIONS.items() if activation.number is not None}
"""The numbers of the activations that the compiled ops evaluate."""

FROM_VALUE = {
    name: activation.from_value for name, activation in ACTIVATIONS.items() if activation.from_value is not None
}
"""The derivatives of the activations whose value is enough to compute them."""
