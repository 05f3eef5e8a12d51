"""Matrix products on the CPU by the fastest exact route on this machine, with the same bits for any number of threads.

torch's float32 products are MKL's, which use half the width of the AVX-512 units of AMD processors; oneDNN, inside the
same torch, uses all of it. csrc/common/cpu/multiply.h says how the route is chosen. The environment variable
SVGDX_PRODUCTS, torch or onednn, sets it, and ``svgdx doctor`` reports it with both rates.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from svgdx import _library
from svgdx.ops.registration import inner


@functools.cache
def _by_onednn() -> bool:
    return _library.product_facts().route == "onednn"


def _serves(tensor: Tensor) -> bool:
    wide = tensor.dtype in (torch.float32, torch.float64)
    return tensor.device.type == "cpu" and wide and _library.libraries["cpu"].loaded and not _library.disabled()


def product(a: Tensor, b: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """a (R, K) times b (K, C) plus bias (C), written to `out` (R, C) if it is passed. Not differentiable."""
    if not _serves(a):
        return torch.mm(a, b, out=out) if bias is None else torch.addmm(bias, a, b, out=out)
    result = a.new_empty(a.shape[0], b.shape[1]) if out is None else out
    with torch._C._AutoDispatchBelowAutograd():
        torch.ops.svgdx_inner.product.default(a, b, bias, 1.0, result)
    return result


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., K) times the transpose of weight (C, K) plus bias (C), as `torch.nn.functional.linear`.

    Differentiable any number of times. It is torch's own function unless oneDNN is the route.
    """
    elsewhere = torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or forward_ad._current_level >= 0
    if elsewhere or not (_serves(x) and x.dtype == weight.dtype == torch.float32 and _by_onednn()):
        return nn.functional.linear(x, weight, bias)
    result: Tensor = _Linear.apply(x, weight, bias)
    return result


class Linear(nn.Linear):
    """`torch.nn.Linear` whose products are those of `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """input (..., in_features) to (..., out_features)."""
        return linear(input, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result = x.new_empty(*x.shape[:-1], len(weight))  # not a view, which users could not change in place
        rows, shift = x.reshape(-1, x.shape[-1]), None if bias is None else bias.contiguous()
        product(rows, weight.mT, shift, result.view(len(rows), len(weight)))
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, int]:
        return torch.vmap(nn.functional.linear, in_dims)(x, weight, bias), 0

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows, inputs = grad.flatten(0, -2), x.flatten(0, -2)
        return (
            linear(grad, weight.mT) if of_x else None,
            linear(rows.mT, inputs.mT) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


@inner.fake("product")
def _product_fake(a: Tensor, b: Tensor, bias: Tensor | None, slope: float, out: Tensor) -> None:
    pass
