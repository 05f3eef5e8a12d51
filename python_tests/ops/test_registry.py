"""Every op that the library registers, with inputs from its signature: opcheck, forward mode, second derivatives."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from ops.inputs import BACKWARD, arguments_of, requiring_grad
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from svgdx.ops.registration.dispatch import OPS
from svgdx.ops.registration.signature import NUMBER, PLAIN

# The modules that register the fake kernels of inner ops.
INNER_OPS_OF = ("svgdx.densities", "svgdx.gflownets", "svgdx.rl.sweeps", "svgdx.samplers")
TWICE = [name for name in BACKWARD if OPS[name].second is not None]
# Tracing a second derivative takes seconds, so every formula is traced once, half of them with sizes that vary. That of
# svgd_phi_trace is contained in svgd_step's, and test_transforms.py compiles it with fixed sizes.
TRACED = {
    "svgd_step_backward": "test_aot_dispatch_dynamic",
    "ksd_backward": "test_aot_dispatch_dynamic",
    "svgd_field_backward": "test_aot_dispatch_static",
}


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


def test_every_second_derivative_is_traced() -> None:
    assert {*TRACED, "svgd_phi_trace_backward"} == set(TWICE)


def test_every_registered_op_is_in_the_table() -> None:
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("svgdx::")}
    assert {name.removeprefix("svgdx::") for name in registered} - composites() == set(OPS)
    plain = {name.removesuffix("_forward") for name in OPS}
    assert {name.removesuffix(".number") for name in composites()} <= plain


def test_every_inner_op_has_a_fake_kernel() -> None:
    for module in INNER_OPS_OF:
        importlib.import_module(module)
    inner = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("svgdx_inner::")}
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    # product_facts takes no tensor.
    assert {name for name in inner if not has_kernel(name, "Meta")} == {"svgdx_inner::product_facts"}


@pytest.mark.parametrize("name", OPS)
def test_opcheck(name: str) -> None:
    op = OPS[name]._op
    arguments = arguments_of(name)
    torch.library.opcheck(op, tuple(arguments if name in BACKWARD else requiring_grad(arguments)))
    if name in TWICE:
        utilities = ("test_schema", "test_autograd_registration", "test_faketensor", *filter(None, [TRACED.get(name)]))
        torch.library.opcheck(op, tuple(requiring_grad(arguments)), test_utils=utilities)
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


class Calls(TorchDispatchMode):
    """Records the arguments of the calls of one op."""

    def __init__(self, op: Any) -> None:
        super().__init__()
        self.op, self.arguments = op, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is self.op:
            self.arguments.append(args)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in BACKWARD if OPS[name]._needed_by])
def test_gradients_of_numbers_are_formed_only_if_needed(name: str) -> None:
    op, arguments = OPS[name], arguments_of(name)
    gradients = op(*arguments)
    for position, flag in op._needed_by.items():
        less = [*arguments[:flag], False, *arguments[flag + 1 :]]
        torch.library.opcheck(op._op, tuple(less), test_utils=("test_schema", "test_faketensor"))
        for i, gradient, same in zip(op._gradient_of, gradients, op(*less), strict=True):
            assert same.numel() == 0 if i == position else torch.equal(gradient, same)
    x, *others = arguments_of(op.forward.name)
    with Calls(op._op) as calls:
        outputs = op.forward(x.requires_grad_(), *others)
        (outputs if isinstance(outputs, Tensor) else outputs[0]).sum().backward()
    assert [args[len(arguments) - len(op._needed_by) :] for args in calls.arguments] == [(False,) * len(op._needed_by)]


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
