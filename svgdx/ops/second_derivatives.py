"""Second derivatives of the field ops, from matrix products: no vector per pair is formed.

The first backward pass is the gradient of L, the sum of outputs times upstream gradients. For upstream gradients u of
its own outputs, the next one is the gradient of the directional derivative of L along u (Pearlmutter, Fast Exact
Multiplication by the Hessian, Neural Computation 1994). L is summed over blocks of rows, in float64, because the
products cancel for particles far from one another. Notation as in svgdx/ops/field.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["field_terms", "ksd_terms", "query_terms", "second_derivatives", "step_terms"]

# terms(rows, *args) is the share of these rows in L, a scalar; args are the arguments of the backward op.
Terms = Callable[..., Tensor]
# Elements of a matrix (..., rows, M), of which a few dozen are held at a time.
BLOCK_ELEMENTS = 1 << 18


def second_derivatives(terms: Terms) -> Callable[..., tuple[Tensor | None, ...]]:
    """The rule of a backward op, see :meth:`svgdx.ops.registration.dispatch.Op.backward`."""

    def second(
        args: Sequence[Any], positions: Sequence[int], grads: Sequence[Tensor | None]
    ) -> tuple[Tensor | None, ...]:
        variables = [i for i, value in enumerate(args) if isinstance(value, Tensor)]
        values = [args[i] for i in variables]

        def derivative(rows: slice, *values: Tensor) -> Tensor:
            inputs = _with(args, variables, [value.double() for value in values])

            def loss(*points: Tensor) -> Tensor:
                return terms(rows, *_with(inputs, positions, points))

            points = [inputs[i] for i in positions]
            slopes = torch.func.grad(loss, tuple(range(len(points))))(*points)
            along = [
                (slope * grad.to(slope.device)).sum()
                for slope, grad in zip(slopes, grads, strict=True)
                if grad is not None
            ]
            return torch.stack([value.to(slopes[0].device) for value in along]).sum()

        totals = [torch.zeros_like(value) for value in values]
        for rows in _blocks(*(args[i] for i in positions[:2])):
            shares = torch.func.grad(derivative, tuple(range(1, len(values) + 1)))(rows, *values)
            totals = [total + share for total, share in zip(totals, shares, strict=True)]
        return tuple(_with([None] * len(args), variables, totals))

    return second


def field_terms(
    rows: slice, grad_phi: Tensor | None, grad_trace: Tensor | None, x: Tensor, score: Tensor, bandwidth: Tensor
) -> Tensor:
    """L of svgd_phi and svgd_phi_trace."""
    counted = 1 - torch.eye(x.shape[-2], dtype=torch.float64, device=x.device)[rows]
    return _field_sum(x[..., rows, :], _of(rows, grad_phi, 2), _of(rows, grad_trace, 1), x, score, bandwidth, counted)


def step_terms(
    rows: slice,
    grad_x: Tensor | None,
    grad_log_q: Tensor | None,
    x: Tensor,
    score: Tensor,
    bandwidth: Tensor,
    step_size: Tensor,
    hessian_trace: Tensor | None,
) -> Tensor:
    """L of svgd_step without log_q, in which it is linear."""
    step = step_size.to(x.device)[..., None]
    grad_phi = None if grad_x is None else step[..., None] * grad_x
    grad_trace = None if grad_log_q is None else -step * grad_log_q
    total = field_terms(rows, grad_phi, grad_trace, x, score, bandwidth)
    if grad_x is not None:
        total = total + (grad_x[..., rows, :].double() * x[..., rows, :]).sum()
    if grad_trace is not None and hessian_trace is not None:
        total = total + (grad_trace * hessian_trace / x.shape[-2])[..., rows].sum()
    return total


def query_terms(
    rows: slice,
    grad_phi: Tensor | None,
    grad_divergence: Tensor | None,
    query: Tensor,
    x: Tensor,
    score: Tensor,
    bandwidth: Tensor,
) -> Tensor:
    """L of svgd_field."""
    upstream = _of(rows, grad_phi, 2), _of(rows, grad_divergence, 1)
    return _field_sum(query[..., rows, :], *upstream, x, score, bandwidth, None)


def ksd_terms(rows: slice, grad: Tensor, x: Tensor, score: Tensor, bandwidth: Tensor, unbiased: bool) -> Tensor:
    """L of ksd."""
    count, dim = x.shape[-2], x.shape[-1]
    points, particles, squared, kappa, beta = _pairs(x[..., rows, :], x, bandwidth)
    own, s = score[..., rows, :].double(), score.double()
    r_own = (points * own).sum(-1, keepdim=True) - own @ particles.mT
    r_s = points @ s.mT - (particles * s).sum(-1)[..., None, :]
    summand = kappa * (own @ s.mT + beta * (r_own - r_s + dim - beta * squared))
    if unbiased:
        summand = summand * (1 - torch.eye(count, dtype=torch.float64, device=x.device)[rows])
    divisor = count * max(count - 1 if unbiased else count, 1)
    return (grad.double() / divisor * summand.sum((-2, -1))).sum()


def _field_sum(
    query: Tensor,
    g: Tensor | None,
    h: Tensor | None,
    x: Tensor,
    score: Tensor,
    bandwidth: Tensor,
    counted: Tensor | None,
) -> Tensor:
    """Sum over rows of g . phi + h t; ``counted`` is 0 for the pairs that t leaves out."""
    points, particles, squared, kappa, beta = _pairs(query, x, bandwidth)
    s = score.double()
    summand = torch.zeros_like(kappa)
    if g is not None:
        summand = g @ s.mT + beta * ((g * points).sum(-1, keepdim=True) - g @ particles.mT)
    if h is not None:
        r_s = points @ s.mT - (particles * s).sum(-1)[..., None, :]
        trace = beta * h[..., None] * (x.shape[-1] - r_s - beta * squared)
        summand = summand + (trace if counted is None else trace * counted)
    return (kappa * summand).sum() / x.shape[-2]


def _pairs(query: Tensor, x: Tensor, bandwidth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Centred query and x, then |r|^2 and kappa (..., N, M), and beta (..., 1, 1), all in float64."""
    beta = bandwidth.to(x.device)[..., None, None] ** -2
    centre = x.double().mean(-2, keepdim=True)
    points, particles = query.double() - centre, x.double() - centre
    norms = points.square().sum(-1, keepdim=True) + particles.square().sum(-1)[..., None, :]
    squared = norms - 2 * points @ particles.mT
    return points, particles, squared, torch.exp(-0.5 * beta * squared), beta


def _of(rows: slice, upstream: Tensor | None, rank: int) -> Tensor | None:
    if upstream is None:
        return None
    return (upstream[..., rows, :] if rank == 2 else upstream[..., rows]).double()


def _blocks(query: Tensor, x: Tensor) -> Iterator[slice]:
    """Blocks of rows; none if the op's outputs are zero or empty."""
    if query.numel() == 0 or x.numel() == 0:
        return
    count = query.shape[-2]
    step = max(1, BLOCK_ELEMENTS // (query.shape[:-2].numel() * x.shape[-2]))
    for first in range(0, count, step):
        yield slice(first, min(first + step, count))


def _with(values: Sequence[Any], positions: Sequence[int], replacements: Sequence[Any]) -> list[Any]:
    """The values with those at the positions replaced."""
    result = list(values)
    for i, value in zip(positions, replacements, strict=True):
        result[i] = value
    return result
