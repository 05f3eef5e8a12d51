"""Every op that the library registers, with inputs from its signature: opcheck, forward mode, second derivatives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from svgdx.ops.registration.dispatch import OPS
from svgdx.ops.registration.signature import NUMBER, PLAIN, Argument

SIZES = {"M": 4, "D": 3, "N": 5, "V": 2, "T": 2, "H": 6, "C": 2, "B": 2, "A": 4, "P": 29, "L": 3, "*": (2, 1)}
VALUES: dict[str, Any] = {
    "unbiased": True,
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
TWICE = [name for name in BACKWARD if OPS[name].second is not None]


def value_of(argument: Argument) -> Any:
    """A value that the op accepts, of the sizes above."""
    if argument.name in VALUES:
        return VALUES[argument.name]
    if argument.name == "actions":
        return torch.tensor([3, 0]).expand(2, 1, 2) if argument.has_lead else torch.arange(5) % 4
    assert argument.rank != PLAIN, argument.name
    if argument.rank == NUMBER:
        return torch.tensor([[0.7], [0.9]], dtype=torch.float64)
    return torch.randn(argument.shape(SIZES), dtype=torch.float64)


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
        return [*upstream, *(None if n == without else inputs.get(n, saved.get(n)) for n in names)]
    return [None if n == without else value for n, value in inputs.items()]


def requiring_grad(values: list[Any]) -> list[Any]:
    return [v.clone().requires_grad_() if isinstance(v, Tensor) and v.is_floating_point() else v for v in values]


def absent_arguments(name: str) -> list[str]:
    """Each optional tensor argument."""
    forward = OPS[name].forward if name in BACKWARD else OPS[name]
    tensors = [argument for argument in forward.signature.arguments if argument.rank != PLAIN]
    together = ("probe", "hvp", "condition")  # with one another, and with the width of the network
    return [argument.name for argument in tensors if argument.optional and argument.name not in together]


def composites() -> set[str]:
    """The names that C++ defines by other ops: overloads for numbers, and ops without their saved output."""
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("svgdx::")}
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return {name.removeprefix("svgdx::") for name in registered if has_kernel(name, "CompositeImplicitAutograd")}


def test_every_registered_op_is_in_the_table() -> None:
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("svgdx::")}
    assert {name.removeprefix("svgdx::") for name in registered} - composites() == set(OPS)
    plain = {name.removesuffix("_forward") for name in OPS}
    assert {name.removesuffix(".number") for name in composites()} <= plain


@pytest.mark.parametrize("name", OPS)
def test_opcheck(name: str) -> None:
    op = OPS[name]._op
    arguments = arguments_of(name)
    torch.library.opcheck(op, tuple(arguments if name in BACKWARD and name not in TWICE else requiring_grad(arguments)))
    for without in absent_arguments(name):
        torch.library.opcheck(op, tuple(arguments_of(name, without)), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("name", sorted(composites()))
def test_opcheck_of_composites(name: str) -> None:
    op, _, overload = name.partition(".")
    arguments = requiring_grad(arguments_of(op if op in OPS else f"{op}_forward"))
    if overload:
        numbers = [argument.rank == NUMBER for argument in OPS[op].signature.arguments]
        arguments = [0.7 if number else value for number, value in zip(numbers, arguments, strict=True)]
    torch.library.opcheck(getattr(getattr(torch.ops.svgdx, op), overload or "default"), tuple(arguments))


@pytest.mark.parametrize("name", OPS)
def test_forward_mode_is_refused_by_name(name: str) -> None:
    """Every tensor argument in turn has a tangent, and the op is called from Python, by torch.ops, and below vmap."""
    arguments = arguments_of(name)
    for i, value in enumerate(arguments):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        if name not in BACKWARD and OPS[name].signature.arguments[i].name == "like":  # its values are not read
            continue

        def call(function: Any, argument: Tensor, i: int = i) -> Any:
            return function(*arguments[:i], argument, *arguments[i + 1 :])

        for function in (OPS[name], OPS[name]._op):
            with forward_ad.dual_level(), pytest.raises(RuntimeError, match=f"svgdx::{name}: forward-mode"):
                call(function, forward_ad.make_dual(value, value))
            with pytest.raises(RuntimeError, match=f"svgdx::{name}: forward-mode"):
                torch.func.jvp(lambda argument, f=function: call(f, argument), (value,), (value,))


@pytest.mark.parametrize("name", TWICE)
def test_second_derivatives(name: str) -> None:
    """The gradient of the gradients, against finite differences, for all upstream gradients and for each alone."""
    arguments = requiring_grad(arguments_of(name))
    assert torch.autograd.gradcheck(OPS[name], arguments, fast_mode=True)
    for i in range(OPS[name].upstream):
        if OPS[name].upstream > 1:
            assert torch.autograd.gradcheck(OPS[name], [*arguments[:i], None, *arguments[i + 1 :]], fast_mode=True)


@pytest.mark.parametrize("name", [name for name in BACKWARD if name not in TWICE])
def test_second_derivatives_are_refused_by_name(name: str) -> None:
    gradients = OPS[name](*requiring_grad(arguments_of(name)))
    gradients = (gradients,) if isinstance(gradients, Tensor) else gradients
    with pytest.raises(RuntimeError, match=f"svgdx::{name} cannot be differentiated.*svgdx.reference"):
        sum(gradient.sum() for gradient in gradients).backward()
