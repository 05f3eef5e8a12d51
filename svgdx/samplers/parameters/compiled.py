"""Learnt values and bounded step sizes as one op each; private to svgdx.samplers.parameters, whose values use them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from svgdx.ops.registration import inner


def held(eps: Tensor, sqnorm: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    """The limit (...) of squared norms (..., M), detached, and eps, () or (...), with this slope past it."""
    if torch.is_grad_enabled() and eps.requires_grad:
        limit, bounded = _Held.apply(eps, sqnorm.detach(), slope)
    else:
        with torch._C._AutoDispatchBelowAutograd():
            limit, bounded = torch.ops.svgdx_inner.chain_bound.default(sqnorm, eps, slope)
    return limit, bounded


def learnt(raw: Tensor, low: float, high: float) -> Tensor:
    """exp(low + (high - low) sigmoid(raw)), in the shape of raw."""
    value: Tensor = _Learnt.apply(raw, low, high - low)
    return value


class _Held(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, eps: Tensor, sqnorm: Tensor, slope: float) -> tuple[Tensor, Tensor]:
        limit, bounded = torch.ops.svgdx_inner.chain_bound.default(sqnorm, eps, slope)
        ctx.save_for_backward(eps, limit)
        ctx.slope = slope
        ctx.mark_non_differentiable(limit)
        ctx.set_materialize_grads(False)
        return limit, bounded

    @staticmethod
    def backward(ctx: Any, _: Tensor | None, grad: Tensor | None) -> tuple[Tensor | None, None, None]:
        eps, limit = ctx.saved_tensors
        if grad is None:
            return None, None, None
        if torch.is_grad_enabled():  # a graph of the gradient is wanted
            return (grad * torch.where(eps > limit, ctx.slope, 1.0)).sum_to_size(eps.shape), None, None
        return torch.ops.svgdx_inner.chain_bound_backward.default(grad, limit, eps, ctx.slope), None, None


class _Learnt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, raw: Tensor, low: float, width: float) -> Tensor:
        ctx.save_for_backward(raw)
        ctx.low, ctx.width = low, width
        value: Tensor = torch.ops.svgdx_inner.chain_learnt.default(raw, low, width)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (raw,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            share = raw.sigmoid()
            return grad * (ctx.low + ctx.width * share).exp() * ctx.width * share * (1 - share), None, None
        return torch.ops.svgdx_inner.chain_learnt_backward.default(grad, raw, ctx.low, ctx.width), None, None


@inner.fake("chain_bound")
def _held_fake(sqnorm: Tensor, eps: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    return sqnorm.new_empty(sqnorm.shape[:-1]), sqnorm.new_empty(sqnorm.shape[:-1])


@inner.fake("chain_bound_backward")
def _held_backward_fake(grad: Tensor, limit: Tensor, eps: Tensor, slope: float) -> Tensor:
    return torch.empty_like(eps)


@inner.fake("chain_learnt")
def _learnt_fake(raw: Tensor, low: float, width: float) -> Tensor:
    return torch.empty_like(raw)


@inner.fake("chain_learnt_backward")
def _learnt_backward_fake(grad: Tensor, raw: Tensor, low: float, width: float) -> Tensor:
    return torch.empty_like(raw)
