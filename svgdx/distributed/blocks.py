"""Tensors over a visiting block: the fused velocity field, or those of any radial kernel in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from svgdx import _library, ops
from svgdx.distributed.ring import Block, Tensors

# Number of elements of the largest tensor of pairs, (..., Q, M_q, D).
PAIR_NUMBERS = 2**21


class Field(Block):
    """phi (..., Q, D) and the kernel part of Tr J (..., Q) of the Gaussian kernel, by the fused ops.

    The op on a rank's own particles excludes j = i from the trace; the field of another rank's particles includes all.
    Its only parameter is the bandwidth, a tensor () or (...).

    Args:
        total: M.
    """

    def __init__(self, total: int) -> None:
        self.total = total

    def zeros(self, query: Tensor) -> Tensors:
        return torch.zeros_like(query), query.new_zeros(query.shape[:-1])

    def rows(self, block: Tensor) -> int:
        return 2**62

    def __call__(self, query: Tensor, x: Tensor, score: Tensor, parameters: Tensors, own: int | None) -> Tensors:
        (sigma,) = parameters
        x, score = x.contiguous(), score.contiguous()
        phi, trace = ops.svgd_field(query, x, score, sigma) if own is None else ops.svgd_phi_trace(x, score, sigma)
        share = x.shape[-2] / self.total
        return phi * share, trace * share

    def gradients(
        self, query: Tensor, x: Tensor, score: Tensor, parameters: Tensors, own: int | None, upstream: Tensors
    ) -> Tensors:
        if _library.disabled():
            return super().gradients(query, x, score, parameters, own, upstream)
        # The gradient ops need no forward pass.
        share, fused = x.shape[-2] / self.total, torch.ops.svgdx
        inputs = (*(grad * share for grad in upstream), x.contiguous(), score.contiguous(), parameters[0])
        if own is None:
            grads: Tensors = fused.svgd_field_backward(*inputs[:2], query.contiguous(), *inputs[2:])
            return grads
        return torch.zeros_like(query), *fused.svgd_phi_trace_backward(*inputs)


class Pairs(Block):
    """Tensors over j of a radial kernel k(u), u = sum_d (r_d / h_d)^2, r = x_i - x_j, with w = -2 k' and v = -2 w'.

    With rho = r / h^2: phi = (1/M) sum_j [k s_j + w rho] (..., Q, D) and Tr J - Tr H / M = (1/M) sum_{j != i}
    [w sum_d h_d^-2 - w s_j . rho - v |rho|^2] (..., Q); or, with `jacobian`, J - H / M (..., Q, D, D), which has that
    trace. Differences are taken before products, so that no digits cancel far from the origin. The only parameter is h,
    (..., 1, D).

    Args:
        profile: computes k, w and v from u.
        total: M.
        jacobian: whether the sums are J - H / M, instead of phi and the trace.
    """

    def __init__(self, profile: Callable[[Tensor], Any], total: int, jacobian: bool) -> None:
        self.profile, self.total, self.jacobian = profile, total, jacobian

    def zeros(self, query: Tensor) -> Tensors:
        if self.jacobian:
            return (query.new_zeros((*query.shape, query.shape[-1])),)
        return torch.zeros_like(query), query.new_zeros(query.shape[:-1])

    def rows(self, block: Tensor) -> int:
        return max(1, PAIR_NUMBERS // block.numel())

    def __call__(self, query: Tensor, x: Tensor, score: Tensor, parameters: Tensors, own: int | None) -> Tensors:
        precision = parameters[0].square().reciprocal()
        r = query[..., :, None, :] - x[..., None, :, :]
        rho = r * precision.unsqueeze(-2)
        k, w, v = self.profile((r * rho).sum(-1))
        if own is not None:
            index = torch.arange(query.shape[-2], device=x.device)
            off_diagonal = torch.ones(w.shape[-2:], dtype=w.dtype, device=w.device)
            off_diagonal[index, own + index] = 0
            w, v = w * off_diagonal, v * off_diagonal
        if self.jacobian:
            weighted = w.unsqueeze(-1) * score.unsqueeze(-3) + v.unsqueeze(-1) * rho
            of_w = torch.diag_embed(w.sum(-1, keepdim=True) * precision)
            return ((of_w - weighted.mT @ rho) / self.total,)
        phi = k @ score + (w.unsqueeze(-1) * rho).sum(-2)
        dots = (score.unsqueeze(-3) * rho).sum(-1)
        trace = w * (precision.sum(-1, keepdim=True) - dots) - v * rho.square().sum(-1)
        return phi / self.total, trace.sum(-1) / self.total


def gaussian(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """k, w and v of the Gaussian kernel."""
    k = torch.exp(-0.5 * u)
    return k, k, k


def sqnorm_of(jacobian: Tensor, probe: Tensor | None, hvp: Tensor | None, total: int) -> Tensor:
    """|J_i|_F^2 (..., Q) from J_i - H_i / M (..., Q, D, D); a probe v (..., Q, D) and H v estimate the part of H."""
    sqnorm = jacobian.square().sum((-2, -1))
    if probe is None or hvp is None:
        return sqnorm
    h = hvp / total
    jvp = (jacobian @ probe.unsqueeze(-1)).squeeze(-1)
    return sqnorm + 2 * (jvp * h).sum(-1) + h.square().sum(-1)


def logdet_of(jacobian: Tensor, hessian: Tensor | None, eps: Tensor, total: int) -> Tensor:
    """log |det(I + eps J_i)| (..., Q) from J_i - H_i / M (..., Q, D, D) and H_i; eps (...)."""
    if hessian is not None:
        jacobian = jacobian + hessian / total
    identity = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
    return torch.linalg.slogdet(identity + eps[..., None, None, None] * jacobian).logabsdet
