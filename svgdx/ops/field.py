"""The field of Stein variational gradient descent: its direction, trace, fused update, values at any points, and the
kernel Stein discrepancy.

The references form (M, M, D) tensors, so they suit small problems. Notation: particles x_j in R^D, j = 1..M, with
scores s_j = grad log p(x_j); bandwidth sigma, beta = 1 / sigma^2; r_ij = x_i - x_j; kappa_ij = exp(-beta |r_ij|^2 / 2);
z_ij = s_j + beta r_ij. J_i is the Jacobian of phi_i in x_i, with the other particles fixed, and H_i the Hessian of
log p at x_i.

Sources:
  [SVGD]  Liu & Wang, Stein Variational Gradient Descent, NeurIPS 2016.
  [KSD]   Liu, Lee & Jordan, A Kernelized Stein Discrepancy for Goodness-of-fit Tests, ICML 2016.
  [S2AC]  Messaoud et al., S2AC: Energy-Based Reinforcement Learning with Stein Soft Actor Critic, ICLR 2024.
  [MET]   Messaoud et al., Particles Don't Care About Z, ICML 2026.
  [H89]   Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from svgdx._checks import Scalar, compute_dtype, wide
from svgdx.ops.registration.dispatch import Op
from svgdx.ops.second_derivatives import field_terms, ksd_terms, query_terms, second_derivatives, step_terms

__all__ = ["ksd", "svgd_field", "svgd_phi", "svgd_phi_trace", "svgd_step"]

Grads = tuple[Tensor | None, ...]


def svgd_phi(x: Tensor, score: Tensor, bandwidth: Scalar) -> Tensor:
    """Stein variational direction of M particles in D dimensions.

    phi_i = (1/M) sum_j kappa_ij (s_j + r_ij / sigma^2),  kappa_ij = exp(-|r_ij|^2 / (2 sigma^2)),  r_ij = x_i - x_j.

    Args:
        x: particles, (..., M, D); float32, float64, bfloat16 or float16 (the last two accumulate in float32).
        score: gradient of the log density at the particles; shape, dtype and device of x.
        bandwidth: sigma > 0, in the units of x: a number, a 0-d tensor or one value per batch row, (...).

    Returns:
        phi, (..., M, D), in the dtype of x. Differentiable in x, score and bandwidth.

    Raises:
        TypeError: if x or score is not a tensor, or bandwidth is neither a number nor a tensor.
        ValueError: if a number bandwidth is not positive and finite.
        RuntimeError: if a shape, dtype or device does not match, or, on the CPU, if a tensor bandwidth is not positive
            (on CUDA that batch row is NaN).

    Source: Liu & Wang, Stein Variational Gradient Descent, NeurIPS 2016, eq. 8.
    """
    phi: Tensor = _phi.checked(x, score, bandwidth)
    return phi


def svgd_phi_reference(x: Tensor, score: Tensor, bandwidth: Scalar) -> Tensor:
    """Stein variational direction, [SVGD] eq. 8: phi_i = (1/M) sum_j kappa_ij z_ij, including j = i.

    Shapes: x, score (..., M, D); bandwidth a number, 0-d or (...); result (..., M, D).
    """
    _phi.signature.bind(x, score, bandwidth)
    phi, _ = _particle_field(x, score, bandwidth)
    return phi.to(x.dtype)


def svgd_phi_trace(x: Tensor, score: Tensor, bandwidth: Scalar) -> tuple[Tensor, Tensor]:
    """phi of :func:`svgd_phi`, and the kernel part of the trace of its Jacobian, in one pass.

    t_i = (1/M) sum_{j != i} (kappa_ij / sigma^2) [D - |r_ij|^2 / sigma^2 - r_ij . s_j] = Tr J_i - Tr H_i / M,

    where J_i is the derivative of phi_i with respect to x_i, with the other particles fixed, and H_i the Hessian of the
    log density.

    Args:
        x, score, bandwidth: as in :func:`svgd_phi`.

    Returns:
        phi (..., M, D) and t (..., M), in the dtype of x. Differentiable in x, score and bandwidth.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`svgd_phi`.

    Source: Messaoud et al., S2AC, ICLR 2024, theorem 3.3, and Particles Don't Care About Z, ICML 2026.
    """
    outputs: tuple[Tensor, Tensor] = _phi_trace.checked(x, score, bandwidth)
    return outputs


def svgd_phi_trace_reference(x: Tensor, score: Tensor, bandwidth: Scalar) -> tuple[Tensor, Tensor]:
    """phi and the kernel part of the trace of its Jacobian, [S2AC] theorem 3.3, [MET]:

    t_i = (beta/M) sum_{j != i} kappa_ij (D - r_ij . z_ij) = Tr J_i - Tr H_i / M.

    Shapes: x, score (..., M, D); bandwidth a number, 0-d or (...); results (..., M, D) and (..., M).
    """
    _phi_trace.signature.bind(x, score, bandwidth)
    phi, trace = _particle_field(x, score, bandwidth)
    return phi.to(x.dtype), trace.to(x.dtype)


def svgd_step(
    x: Tensor,
    score: Tensor,
    bandwidth: Scalar,
    step_size: Scalar,
    log_q: Tensor,
    hessian_trace: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One fused SVGD update of the particles and their log density.

    x_i' = x_i + eps phi_i,   log q'(x_i') = log q(x_i) - eps (t_i + Tr H_i / M)   to first order in eps.

    Args:
        x, score, bandwidth: as in :func:`svgd_phi`.
        step_size: eps: any finite number, a 0-d tensor or one value per batch row, (...).
        log_q: log density of each particle, in nats, (..., M), in the dtype of x, or in float32 for particles in half
            precision.
        hessian_trace: trace of the log density's Hessian at each particle, (..., M), dtypes as log_q; the op divides it
            by M. None omits the term.

    Returns:
        x' (..., M, D) in the dtype of x and log q' (..., M) in the dtype of log_q. Differentiable in all inputs.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`svgd_phi`; a number step_size must be finite.

    Source: Messaoud et al., Particles Don't Care About Z, ICML 2026.
    """
    outputs: tuple[Tensor, Tensor] = _step.checked(x, score, bandwidth, step_size, log_q, hessian_trace)
    return outputs


def svgd_step_reference(
    x: Tensor,
    score: Tensor,
    bandwidth: Scalar,
    step_size: Scalar,
    log_q: Tensor,
    hessian_trace: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One update of particles and log density, [MET]: x + eps phi and log_q - eps (t + hessian_trace / M).

    Shapes: x, score (..., M, D); bandwidth and step_size a number, 0-d or (...); log_q and hessian_trace (Tr H_i)
    (..., M); results (..., M, D) in the dtype of x and (..., M) in the dtype of log_q.
    """
    _step.signature.bind(x, score, bandwidth, step_size, log_q, hessian_trace)
    phi, trace = _particle_field(x, score, bandwidth)
    step = per_row_value(x, step_size, positive=False)
    if hessian_trace is not None:
        trace = trace + hessian_trace / x.shape[-2]
    return (x + step * phi).to(x.dtype), (log_q - step[..., 0] * trace).to(log_q.dtype)


def svgd_field(query: Tensor, x: Tensor, score: Tensor, bandwidth: Scalar) -> tuple[Tensor, Tensor]:
    """Velocity field of M particles, and its divergence, at N points, which need not be particles.

    phi(y) = (1/M) sum_j kappa(y, x_j) (s_j + r_j / sigma^2),  r_j = y - x_j,
    div phi(y) = (1/M) sum_j (kappa(y, x_j) / sigma^2) [D - |r_j|^2 / sigma^2 - r_j . s_j],  over all j.

    Args:
        query: points y, (..., N, D); leading dimensions, dtype and device of x.
        x, score, bandwidth: as in :func:`svgd_phi`.

    Returns:
        phi (..., N, D) and its divergence (..., N), in the dtype of x; zero for M = 0. Differentiable in all inputs.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`svgd_phi`.

    Source: Liu & Wang, Stein Variational Gradient Descent, NeurIPS 2016, eq. 8.
    """
    outputs: tuple[Tensor, Tensor] = _field.checked(query, x, score, bandwidth)
    return outputs


def svgd_field_reference(query: Tensor, x: Tensor, score: Tensor, bandwidth: Scalar) -> tuple[Tensor, Tensor]:
    """Velocity field of M particles and its divergence at arbitrary points y_n, [SVGD] eq. 8, over all particles:

    phi(y) = (1/M) sum_j kappa(y, x_j) z_j(y),   div phi(y) = (beta/M) sum_j kappa(y, x_j) (D - r_j . z_j).

    Zero without particles. Shapes: query (..., N, D); x, score (..., M, D); bandwidth a number, 0-d or (...); results
    (..., N, D) and (..., N).
    """
    _field.signature.bind(query, x, score, bandwidth)
    r, z, kappa, beta = pairs(wide(query), wide(x), wide(score), per_row_value(x, bandwidth))
    m = max(x.shape[-2], 1)
    phi = (kappa[..., None] * z).sum(-2) / m
    divergence = beta[..., 0] / m * (kappa * (x.shape[-1] - (r * z).sum(-1))).sum(-1)
    return phi.to(x.dtype), divergence.to(x.dtype)


def ksd(x: Tensor, score: Tensor, bandwidth: Scalar, statistic: str = "u") -> Tensor:
    """Squared kernel Stein discrepancy between the particles and the density with the given score.

    It is the mean over pairs of
    kappa_ij [s_i . s_j + (s_i - s_j) . r_ij / sigma^2 + D / sigma^2 - |r_ij|^2 / sigma^4],
    with r_ij = x_i - x_j and kappa_ij = exp(-|r_ij|^2 / (2 sigma^2)).

    Args:
        x: particles, (..., M, D); float32, float64, bfloat16 or float16 (the last two accumulate in float32).
        score: gradient of the log density at the particles; shape, dtype and device of x.
        bandwidth: sigma > 0, in the units of x: a number, a 0-d tensor or one value per batch row, (...).
        statistic: "u" averages over i != j (unbiased, may be negative, needs M >= 2), "v" over all pairs (>= 0).

    Returns:
        The squared discrepancy, (...), in the dtype of x; zero for M = 0. Differentiable in x, score and
        bandwidth.

    Raises:
        TypeError: if x or score is not a tensor, or bandwidth is neither a number nor a tensor.
        ValueError: if a number bandwidth is not positive and finite, or statistic is neither "u" nor "v".
        RuntimeError: if a shape, dtype or device does not match, if M = 1 with "u", or, on the CPU, if a tensor
            bandwidth is not positive (on CUDA that batch row is NaN).

    Source: Liu, Lee & Jordan, A Kernelized Stein Discrepancy for Goodness-of-fit Tests, ICML 2016, theorem 3.6.
    """
    discrepancy: Tensor = _ksd.checked(x, score, bandwidth, _unbiased(statistic))
    return discrepancy


def ksd_reference(x: Tensor, score: Tensor, bandwidth: Scalar, statistic: str = "u") -> Tensor:
    """Squared kernel Stein discrepancy, [KSD] theorem 3.6: the mean over pairs of

    u_ij = kappa_ij [ s_i . s_j + beta (s_i - s_j) . r_ij + beta (D - beta |r_ij|^2) ],

    over i != j for the U-statistic ("u", unbiased, requires M != 1), over all pairs for the V-statistic ("v").

    Zero without particles. Shapes: x, score (..., M, D); bandwidth a number, 0-d or (...); result (...).
    """
    unbiased = _unbiased(statistic)
    _ksd.check(x, score, bandwidth, unbiased)
    m, s = max(x.shape[-2], 1), wide(score)
    r, _, kappa, beta = pairs(wide(x), wide(x), s, per_row_value(x, bandwidth))
    s_difference = s[..., :, None, :] - s[..., None, :, :]
    u = kappa * (s @ s.mT + beta * ((s_difference * r).sum(-1) + x.shape[-1] - beta * r.square().sum(-1)))
    if not unbiased:
        return (u.sum((-2, -1)) / m / m).to(x.dtype)
    return ((u * off_diagonal(u)).sum((-2, -1)) / m / max(m - 1, 1)).to(x.dtype)


def pairs(query: Tensor, x: Tensor, score: Tensor, bandwidth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """r and z (..., N, M, D), kappa (..., N, M), beta (..., 1, 1)."""
    beta = bandwidth**-2
    r = query[..., :, None, :] - x[..., None, :, :]
    z = score[..., None, :, :] + beta[..., None] * r
    return r, z, torch.exp(-0.5 * beta * r.square().sum(-1)), beta


def off_diagonal(pairwise: Tensor) -> Tensor:
    return 1 - torch.eye(pairwise.shape[-1], dtype=pairwise.dtype, device=pairwise.device)


def per_row_value(x: Tensor, value: Scalar, positive: bool = True) -> Tensor:
    """A bandwidth or step size as (..., 1, 1) in the compute dtype, on the device of x; NaN if it must be positive but
    is not."""
    if not isinstance(value, Tensor):
        value = torch.tensor(float(value), dtype=torch.float64, device=x.device)
    if positive:
        value = torch.where(value > 0, value, torch.nan)
    return value.to(device=x.device, dtype=compute_dtype(x))[..., None, None]


def _particle_field(x: Tensor, score: Tensor, bandwidth: Scalar) -> tuple[Tensor, Tensor]:
    """phi and t at the particles themselves, in the compute dtype."""
    r, z, kappa, beta = pairs(wide(x), wide(x), wide(score), per_row_value(x, bandwidth))
    phi = (kappa[..., None] * z).sum(-2) / x.shape[-2]
    summand = kappa * (x.shape[-1] - (r * z).sum(-1)) * off_diagonal(kappa)
    return phi, beta[..., 0] / x.shape[-2] * summand.sum(-1)


def _unbiased(statistic: object) -> bool:
    if statistic not in ("u", "v"):
        raise ValueError(f'svgdx::ksd: statistic must be "u" or "v", but is {statistic!r}')
    return statistic == "u"


def _statistic_size(sizes: dict[str, Any], values: Sequence[Any]) -> str | None:
    too_few = values[3] and sizes["M"] == 1
    return "x must have at least 2 particles for the U-statistic, but has 1" if too_few else None


def _phi_formula(inputs: Sequence[Any], needs: Sequence[bool], grad_phi: Tensor) -> Grads:
    return _phi_trace_backward(grad_phi, None, *inputs, needs[2])


def _phi_trace_formula(
    inputs: Sequence[Any], needs: Sequence[bool], grad_phi: Tensor | None, grad_trace: Tensor | None
) -> Grads:
    return _phi_trace_backward(grad_phi, grad_trace, *inputs, needs[2])


def _step_formula(
    inputs: Sequence[Any], needs: Sequence[bool], grad_x_next: Tensor | None, grad_log_q_next: Tensor | None
) -> Grads:
    x, score, bandwidth, step_size, _, hessian_trace = inputs
    grads: Grads = (None,) * 4
    if any(needs[:4]):
        numbers = bandwidth, step_size, hessian_trace, needs[2], needs[3]
        grads = _step_backward(grad_x_next, grad_log_q_next, x, score, *numbers)
    grad_hessian_trace = None
    if grad_log_q_next is not None and needs[5]:
        step = step_size if step_size.dim() == 0 else step_size[..., None]
        grad_hessian_trace = (-step * grad_log_q_next / x.shape[-2]).to(hessian_trace.dtype)
    return *grads, grad_log_q_next, grad_hessian_trace


def _field_formula(
    inputs: Sequence[Any], needs: Sequence[bool], grad_phi: Tensor | None, grad_divergence: Tensor | None
) -> Grads:
    return _field_backward(grad_phi, grad_divergence, *inputs, needs[3])


def _ksd_formula(inputs: Sequence[Any], needs: Sequence[bool], grad: Tensor) -> Grads:
    return *_ksd_backward(grad, *inputs, needs[2]), None


_phi = Op("svgd_phi", "x[*,M,D] score[*,M,D] bandwidth[~]>0 -> phi[*,M,D]", _phi_formula)
_phi_trace = Op("svgd_phi_trace", "x[*,M,D] score[*,M,D] bandwidth[~]>0 -> phi[*,M,D] trace[*,M]", _phi_trace_formula)
_phi_trace_backward = _phi_trace.backward(
    "x score bandwidth", second=second_derivatives(field_terms), if_needed="bandwidth"
)
_step = Op(
    "svgd_step",
    "x[*,M,D] score[*,M,D] bandwidth[~]>0 step_size[~] log_q[*,M]w hessian_trace[*,M]w? -> x[*,M,D] log_q[*,M]w",
    _step_formula,
)
_step_backward = _step.backward(
    "x score bandwidth step_size",
    "x score bandwidth step_size hessian_trace",
    second_derivatives(step_terms),
    "bandwidth step_size",
)
_field = Op(
    "svgd_field", "query[*,N,D] x[*,M,D] score[*,M,D] bandwidth[~]>0 -> phi[*,N,D] divergence[*,N]", _field_formula
)
_field_backward = _field.backward(
    "query x score bandwidth", second=second_derivatives(query_terms), if_needed="bandwidth"
)
_ksd = Op(
    "ksd",
    "x[*,M,D] score[*,M,D] bandwidth[~]>0 unbiased? -> ksd[*]",
    _ksd_formula,
    limit=_statistic_size,
)
_ksd_backward = _ksd.backward(
    "x score bandwidth", "x score bandwidth unbiased", second_derivatives(ksd_terms), "bandwidth"
)
