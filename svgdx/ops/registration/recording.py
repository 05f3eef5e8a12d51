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
        if all(isinstance(value, Tensor) for value in args):
            ctx.plain = None
            ctx.save_for_backward(*args)
        else:
            ctx.plain = [None if isinstance(value, Tensor) else (value,) for value in args]
            ctx.save_for_backward(*(value for value in args if isinstance(value, Tensor)))
        return output

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad
        if formula is None or all(grad is None for grad in grads):
            return (None,) * len(needs)
        inputs = ctx.saved_tensors
        if ctx.plain is not None:
            saved = iter(inputs)
            inputs = [next(saved) if plain is None else plain[0] for plain in ctx.plain]
        input_grads = formula(inputs, needs, *grads)
        return tuple([grad if need else None for grad, need in zip(input_grads, needs, strict=False)])

    # Compiled autograd asks the class for a key of its node, which only torch.autograd.Function defines.
    key = staticmethod(torch.autograd.Function._compiled_autograd_key)
    members = {"forward": staticmethod(forward), "backward": staticmethod(backward), "_compiled_autograd_key": key}
    return type(name, (_SingleLevelFunction,), members)


def is_dual(value: Any) -> bool:
    return isinstance(value, Tensor) and forward_ad.unpack_dual(value).tangent is not None


def reference_of(name: str) -> str:
    return f"svgdx.reference.{name.removesuffix('_backward').removesuffix('_forward')}"
