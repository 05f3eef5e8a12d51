"""What is summed over a visiting block: the fused velocity field, or any radial kernel's sums in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from svgdx import _library, ops
from svgdx.distributed.ring import Block, Parts

# Numbers of the largest tensor of pairs, (..., Q, M_q, D).
PAIR_NUMBERS = 2**21


class Field(Block):
    """phi (..., Q, D) and the kernel part of Tr J (..., Q) of the Gaussian kernel, by the fused ops.

    The square op leaves j = i out of the trace; the field of another rank's particles counts each of them.
    parameters: the bandwidth, a number as a tensor, () or (...).
    """

    def __init__(self, total: int) -> None:
        self.total = total

    def zeros(self, query: Tensor) -> Parts:
        return torch.zeros_like(query), query.new_zeros(query.shape[:-1])

    def rows(self, block: Tensor) -> int:
        return 2**62

    def __call__(self, query: Tensor, x: Tensor, score: Tensor, parameters: Parts, own: int | None) -> Parts:
        (sigma,) = parameters
        x, score = x.contiguous(), score.contiguous()
        found = ops.svgd_field(query, x, score, sigma) if own is None else ops.svgd_phi_trace(x, score, sigma)
        share = x.shape[-2] / self.total
        return found[0] * share, found[1] * share

    def gradients(
        self, query: Tensor, x: Tensor, score: Tensor, parameters: Parts, own: int | None, upstream: Parts
    ) -> Parts:
        if _library.disabled():
            return super().gradients(query, x, score, parameters, own, upstream)
        # Straight from the ops' gradients, which need no forward before them.
        share, fused = x.shape[-2] / self.total, torch.ops.svgdx
        inputs = (*(each * share for each in upstream), x.contiguous(), score.contiguous(), parameters[0])
        if own is None:
            found: Parts = fused.svgd_field_backward(*inputs[:2], query.contiguous(), *inputs[2:])
            return found
        return torch.zeros_like(query), *fused.svgd_phi_trace_backward(*inputs)


class Pairs(Block):
    """Sums over j of a radial kernel k(u), u = sum_d (r_d / h_d)^2, r = x_i - x_j, with w = -2 k' and v = -2 w'.

    With rho = r / h^2: phi = (1/M) sum_j [k s_j + w rho] and Tr J - Tr H / M = (1/M) sum_{j != i} [w sum_d h_d^-2 -
    w s_j . rho - v |rho|^2], (..., Q, D) and (..., Q); or, with `jacobian`, J - H / M (..., Q, D, D), whose trace that
    is. Differences are taken before products, so that nothing cancels far from the origin.
    parameters: h, (..., 1, D).

    Args:
        profile: k, w and v of u.
        total: M.
        jacobian: which of the two.
    """

    def __init__(self, profile: Callable[[Tensor], Any], total: int, jacobian: bool) -> None:
        self.profile, self.total, self.jacobian = profile, total, jacobian

    def zeros(self, query: Tensor) -> Parts:
        if self.jacobian:
            return (query.new_zeros((*query.shape, query.shape[-1])),)
        return torch.zeros_like(query), query.new_zeros(query.shape[:-1])

    def rows(self, block: Tensor) -> int:
        return max(1, PAIR_NUMBERS // block.numel())

    def __call__(self, query: Tensor, x: Tensor, score: Tensor, parameters: Parts, own: int | None) -> Parts:
        precision = parameters[0].square().reciprocal()
        r = query[..., :, None, :] - x[..., None, :, :]
        rho = r * precision.unsqueeze(-2)
        k, w, v = self.profile((r * rho).sum(-1))
        if own is not None:
            at = torch.arange(query.shape[-2], device=x.device)
            others = torch.ones(w.shape[-2:], dtype=w.dtype, device=w.device)
            others[at, own + at] = 0
            w, v = w * others, v * others
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
    """|J_i|_F^2 (..., Q) from J_i - H_i / M (..., Q, D, D), and, with a probe v (..., Q, D) and H v, the share of H."""
    found = jacobian.square().sum((-2, -1))
    if probe is None or hvp is None:
        return found
    h = hvp / total
    along = (jacobian @ probe.unsqueeze(-1)).squeeze(-1)
    return found + 2 * (along * h).sum(-1) + h.square().sum(-1)


def logdet_of(jacobian: Tensor, hessian: Tensor | None, eps: Tensor, total: int) -> Tensor:
    """log |det(I + eps J_i)| (..., Q) from J_i - H_i / M (..., Q, D, D) and H_i; eps (...)."""
    if hessian is not None:
        jacobian = jacobian + hessian / total
    identity = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
    return torch.linalg.slogdet(identity + eps[..., None, None, None] * jacobian).logabsdet
