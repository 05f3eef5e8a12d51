"""CPU bodies of the ops that svgdx has for CUDA alone, with the operations of torch that it uses on the CPU."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from svgdx import _library

INNER = torch.ops.svgdx_inner


def log_tanh_slope(u: Tensor) -> Tensor:
    return 2 * (math.log(2) - u - functional.softplus(-2 * u))


def tanh_target(
    u: Tensor,
    probe: Tensor | None,
    temperature: Tensor,
    shift: Tensor,
    parameters: Tensor,
    widths: Tensor,
    activation: int,
    graph: bool,
) -> tuple[Tensor, ...]:
    action = u.tanh()
    slope = 1 - action.square()
    depth = 2 if graph or probe is not None else 1
    value, gradient, *tape = INNER.mlp_minimum(action, shift, parameters, widths, activation, depth)
    score = slope * gradient / temperature - 2 * action
    log_prob = value / temperature + log_tanh_slope(u).sum(-1)
    none = u.new_empty(0, u.shape[1])
    if probe is None:
        return log_prob, score, u.new_empty(0), none, *tape, gradient, none.clone(), none.clone()
    direction = slope * probe
    product, third = INNER.mlp_along(direction, *tape, parameters, widths, activation, 2 if graph else 1)
    diagonal = -2 * slope * (action * gradient / temperature + 1)
    hvp = slope * product / temperature + diagonal * probe
    trace = torch.linalg.vecdot(direction, product) / temperature + diagonal.sum(-1)
    return log_prob, score, trace, hvp, *tape, gradient, product, third


class _Recorded(torch.autograd.Function):
    """The gradient of min(Q1, Q2) and its form, as they were, with their derivatives in the action."""

    @staticmethod
    def forward(ctx: Any, action: Tensor, gradient: Tensor, third: Tensor, network: Any) -> tuple[Tensor, ...]:
        ctx.gradient, ctx.third, ctx.network = gradient, third, network
        ctx.set_materialize_grads(False)
        form = action.new_zeros(len(action))
        return form.clone(), gradient.clone(), form

    @staticmethod
    def backward(
        ctx: Any, of_value: Tensor | None, of_gradient: Tensor | None, of_form: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        terms = [] if of_gradient is None else [INNER.mlp_along(of_gradient.contiguous(), *ctx.network, 1)[0]]
        if of_value is not None:
            terms.append(of_value.unsqueeze(-1) * ctx.gradient)
        if of_form is not None:
            terms.append(of_form.unsqueeze(-1) * ctx.third)
        return sum(terms[1:], terms[0]), None, None, None


def tanh_target_backward(
    of_log_prob: Tensor | None,
    of_score: Tensor | None,
    of_trace: Tensor | None,
    u: Tensor,
    probe: Tensor | None,
    temperature: Tensor,
    gradient: Tensor,
    product: Tensor,
    third: Tensor,
    *network: Any,
) -> Tensor:
    with torch.enable_grad(), torch._C._PreserveDispatchKeyGuard():
        # An op runs beneath autograd, which is needed again here.
        for key in (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView):
            torch._C._dispatch_tls_set_dispatch_key_excluded(key, False)
        leaf = u.detach().requires_grad_()
        action = leaf.tanh()
        slope = 1 - action.square()
        direction = None if probe is None else slope * probe
        value, gradient, form = _Recorded.apply(action, gradient, third, network)
        outputs: list[Tensor | None] = [None, None, None]
        if direction is not None:
            form = form + 2 * (product * (direction - direction.detach())).sum(-1)
        outputs[1] = slope * gradient / temperature - 2 * action
        outputs[0] = value / temperature + log_tanh_slope(leaf).sum(-1)
        if direction is not None:
            diagonal = -2 * slope * (action * gradient / temperature + 1)
            outputs[2] = form / temperature + diagonal.sum(-1)
        pairs = [
            (output, grad)
            for output, grad in zip(outputs, (of_log_prob, of_score, of_trace), strict=True)
            if output is not None and grad is not None
        ]
        (grad_u,) = torch.autograd.grad([output for output, _ in pairs], leaf, [grad for _, grad in pairs])
    return grad_u


if not _library.disabled():
    LIBRARY = torch.library.Library("svgdx_inner", "IMPL")
    LIBRARY.impl("mlp_tanh_target", tanh_target, "CPU")
    LIBRARY.impl("mlp_tanh_target_backward", tanh_target_backward, "CPU")
