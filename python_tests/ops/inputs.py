"""Arguments of every registered op, from its line of shapes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from svgdx.ops.registration.dispatch import OPS
from svgdx.ops.registration.signature import NUMBER, PLAIN, Argument

SIZES = {"M": 4, "D": 3, "N": 5, "V": 2, "T": 2, "H": 6, "C": 2, "B": 2, "A": 4, "P": 29, "L": 3, "*": (2, 1)}
VALUES: dict[str, Any] = {
    "unbiased": True,
    "needs_bandwidth": True,
    "needs_step_size": True,
    "seed": 3,
    "key": torch.tensor([3, 0]),
    "bound": 5,
    "offset": 0,
    "temperature": 1.0,
    "epsilon": 0.1,
    "activation": 0,
    "widths": torch.tensor([5, 4, 1]),
    "offsets": torch.tensor([0, 2, 5]),
    "mask": torch.ones(5, 4, dtype=torch.bool),
    "state": torch.tensor([-1, 0, 1], dtype=torch.int8).expand(2, 1, 3),
    "initial_state": torch.full((2, 1, 3), -1, dtype=torch.int8),
}
BACKWARD = [name for name, op in OPS.items() if hasattr(op, "forward")]


def value_of(argument: Argument, sizes: dict[str, Any] = SIZES, dtype: torch.dtype = torch.float64) -> Any:
    """A value that the op accepts; sizes other than SIZES are for arguments that have no entry in VALUES."""
    if argument.name in VALUES:
        return VALUES[argument.name]
    if argument.name == "actions":
        return torch.tensor([3, 0]).expand(2, 1, 2) if argument.has_lead else torch.arange(5) % 4
    assert argument.rank != PLAIN, argument.name
    if argument.rank == NUMBER:
        return torch.linspace(0.7, 0.9, math.prod(sizes["*"]), dtype=dtype).view(sizes["*"])
    return torch.randn(argument.shape(sizes), dtype=dtype)


def takes_any_size(name: str) -> bool:
    """Whether no tensor argument of the op has restricted values, which are made for SIZES only."""
    tensors = [argument for argument in OPS[name].signature.arguments if argument.rank != PLAIN]
    return not any(argument.name in (*VALUES, "actions") for argument in tensors)


def arguments_of(name: str, without: str = "") -> list[Any]:
    """The arguments of an op, of which the one called ``without`` is None; upstream gradients first."""
    torch.manual_seed(0)
    op = OPS[name]
    forward = op.forward if name in BACKWARD else op
    inputs = {argument.name: value_of(argument) for argument in forward.signature.arguments}
    if name in BACKWARD:
        outputs = forward(*inputs.values())
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        saved = {output.name: value for output, value in zip(forward.signature.outputs, outputs, strict=True)}
        upstream = [torch.randn_like(saved[argument.name]) for argument in op.arguments[: op.upstream]]
        names = [argument.name for argument in op.arguments[op.upstream :]]
        return [*upstream, *(None if n == without else inputs.get(n, saved.get(n, VALUES.get(n))) for n in names)]
    return [None if n == without else value for n, value in inputs.items()]


def requiring_grad(values: list[Any]) -> list[Any]:
    return [v.clone().requires_grad_() if isinstance(v, Tensor) and v.is_floating_point() else v for v in values]
