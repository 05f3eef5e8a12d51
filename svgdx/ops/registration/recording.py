"""How an op records its gradient, and how it names its reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

__all__ = ["Formula", "is_dual", "recorded", "reference_of"]

Formula = Callable[..., tuple[Tensor | None, ...]]


def recorded(name: str, op: torch._ops.OpOverload, formula: Formula | None, keeps: bool) -> Any:
    """Wrap the op, below autograd, in an autograd.Function.

    The function is one of a single level: at a level of torch.func, the dispatcher has already selected it.
    """

    # Arguments that are not tensors, which a context does not save.
    plain = [i for i, argument in enumerate(op._schema.arguments) if not _is_tensor(argument)]

    def forward(ctx: Any, *args: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            # A Function disables gradients in its forward, but the levels below this one record theirs.
            with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), torch._C._AutoDispatchBelowAutograd():
                output = op(*args)
        else:
            guard = torch._C._AutoDispatchBelowAutograd()
            try:
                output = op._op(*args)
            finally:
                del guard
        if formula is None:
            ctx.mark_non_differentiable(*([output] if isinstance(output, Tensor) else output))
            return output
        ctx.set_materialize_grads(False)
        if keeps:
            ctx.mark_non_differentiable(output[-1])
            args = (*args, output[-1])
        if plain:
            ctx.plain = [args[i] for i in plain]
            args = tuple([value for i, value in enumerate(args) if i not in plain])
        ctx.save_for_backward(*args)
        return output

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad
        for grad in grads:
            if grad is not None:
                break
        else:
            return (None,) * len(needs)
        assert formula is not None
        inputs = ctx.saved_tensors
        if plain:
            inputs = list(inputs)
            for i, value in zip(plain, ctx.plain, strict=True):
                inputs.insert(i, value)
        input_grads = formula(inputs, needs, *grads)
        if False in needs:
            return tuple([grad if need else None for grad, need in zip(input_grads, needs, strict=False)])
        return input_grads

    # Compiled autograd asks the class for a key of its node, which only torch.autograd.Function defines.
    key = staticmethod(torch.autograd.Function._compiled_autograd_key)
    members = {"forward": staticmethod(forward), "backward": staticmethod(backward), "_compiled_autograd_key": key}
    return type(name, (_SingleLevelFunction,), members)


def _is_tensor(argument: torch.Argument) -> bool:
    return str(argument.type) in ("Tensor", "Optional[Tensor]")


def is_dual(value: Any) -> bool:
    return isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None


def reference_of(name: str) -> str:
    return f"svgdx.reference.{name.removesuffix('_backward').removesuffix('_forward')}"
