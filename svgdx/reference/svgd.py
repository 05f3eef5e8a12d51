"""Ops of Stein variational gradient descent. They form (M, M, D) tensors, so they suit small problems.

Notation: particles x_j in R^D, j = 1..M, with scores s_j = grad log p(x_j); bandwidth sigma, beta = 1 / sigma^2;
r_ij = x_i - x_j; kappa_ij = exp(-beta |r_ij|^2 / 2); z_ij = s_j + beta r_ij. J_i is the Jacobian of phi_i in x_i, with
the other particles fixed, and H_i the Hessian of log p at x_i.

Sources:
  [SVGD]  Liu & Wang, Stein Variational Gradient Descent, NeurIPS 2016.
  [KSD]   Liu, Lee & Jordan, A Kernelized Stein Discrepancy for Goodness-of-fit Tests, ICML 2016.
  [S2AC]  Messaoud et al., S2AC: Energy-Based Reinforcement Learning with Stein Soft Actor Critic, ICLR 2024.
  [MET]   Messaoud et al., Particles Don't Care About Z, ICML 2026.
  [H89]   Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989.
"""

from __future__ import annotations

import torch
from torch import Tensor

from svgdx import _checks
from svgdx._checks import Scalar
from svgdx._dtype import compute_dtype, wide

__all__ = [
    "ksd",
    "median_distance",
    "svgd_field",
    "svgd_jacobian_sqnorm",
    "svgd_logdet",
    "svgd_phi",
    "svgd_phi_trace",
    "svgd_step",
]


def svgd_phi(x: Tensor, score: Tensor, bandwidth: Scalar) -> Tensor:
    """Stein variational direction, [SVGD] eq. 8: phi_i = (1/M) sum_j kappa_ij z_ij, including j = i.

    Shapes: x, score (..., M, D); bandwidth a number, 0-d or (...); result (..., M, D).
    """
    phi, _ = _particle_field("svgd_phi", x, score, bandwidth)
    return phi.to(x.dtype)


def svgd_phi_trace(x: Tensor, score: Tensor, bandwidth: Scalar) -> tuple[Tensor, Tensor]:
    """phi and the kernel part of the trace of its Jacobian, [S2AC] theorem 3.3, [MET]:

    t_i = (beta/M) sum_{j != i} kappa_ij (D - r_ij . z_ij) = Tr J_i - Tr H_i / M.

    Shapes: x, score (..., M, D); bandwidth a number, 0-d or (...); results (..., M, D) and (..., M).
    """
    phi, trace = _particle_field("svgd_phi_trace", x, score, bandwidth)
    return phi.to(x.dtype), trace.to(x.dtype)


def svgd_step(
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
    op = "svgd_step"
    phi, trace = _particle_field(op, x, score, bandwidth)
    step = _per_batch(op, "step_size", step_size, x, positive=False)
    _checks.per_particle(op, "log_q", log_q, x)
    if hessian_trace is not None:
        _checks.per_particle(op, "hessian_trace", hessian_trace, x)
        trace = trace + hessian_trace / x.shape[-2]
    return (x + step * phi).to(x.dtype), (log_q - step[..., 0] * trace).to(log_q.dtype)


def svgd_field(query: Tensor, x: Tensor, score: Tensor, bandwidth: Scalar) -> tuple[Tensor, Tensor]:
    """Velocity field of M particles and its divergence at arbitrary points y_n, [SVGD] eq. 8, over all particles:

    phi(y) = (1/M) sum_j kappa(y, x_j) z_j(y),   div phi(y) = (beta/M) sum_j kappa(y, x_j) (D - r_j . z_j).

    Zero without particles. Shapes: query (..., N, D); x, score (..., M, D); bandwidth a number, 0-d or (...); results
    (..., N, D) and (..., N).
    """
    op = "svgd_field"
    _checks.particles(op, x, score)
    _checks.query_points(op, query, x)
    r, z, kappa, beta = _pairs(wide(query), wide(x), wide(score), _per_batch(op, "bandwidth", bandwidth, x))
    m = max(x.shape[-2], 1)
    phi = (kappa[..., None] * z).sum(-2) / m
    divergence = beta[..., 0] / m * (kappa * (x.shape[-1] - (r * z).sum(-1))).sum(-1)
    return phi.to(x.dtype), divergence.to(x.dtype)


def svgd_jacobian_sqnorm(
    x: Tensor, score: Tensor, bandwidth: Scalar, probe: Tensor | None = None, hvp: Tensor | None = None
) -> Tensor:
    """Squared Frobenius norm of J_i, which bounds the step by eps <= 1 / max_i sqrt(n_i), [MET]:

    n_i = |A_i|_F^2 + (2/M) (A_i v_i) . h_i + |h_i|^2 / M^2,   A_i = J_i - H_i / M,   h_i = H_i v_i.

    Its expectation over Rademacher probes v is |J_i|_F^2 [H89]; without probe and hvp it is |A_i|_F^2.

    Shapes: x, score, probe, hvp (..., M, D); bandwidth a number, 0-d or (...); result (..., M).
    """
    op = "svgd_jacobian_sqnorm"
    a = _kernel_jacobian(op, x, score, bandwidth)
    _checks.probe_pair(op, probe, hvp, x)
    sqnorm = a.square().sum((-2, -1))
    if probe is not None and hvp is not None:
        h = wide(hvp) / x.shape[-2]
        sqnorm = sqnorm + 2 * ((a @ wide(probe)[..., None])[..., 0] * h).sum(-1) + h.square().sum(-1)
    return sqnorm.to(x.dtype)


def svgd_logdet(
    x: Tensor, score: Tensor, bandwidth: Scalar, step_size: Scalar, hessian: Tensor | None = None
) -> Tensor:
    """Exact log |det (I + eps J_i)|, J_i = A_i + H_i / M, for D <= 16: the change in log q that [MET] linearises.

    Shapes: x, score (..., M, D); bandwidth and step_size a number, 0-d or (...); hessian (..., M, D, D); result
    (..., M).
    """
    op = "svgd_logdet"
    jacobian = _kernel_jacobian(op, x, score, bandwidth)
    _checks.logdet_sizes(op, hessian, x)
    step = _per_batch(op, "step_size", step_size, x, positive=False)
    if hessian is not None:
        jacobian = jacobian + wide(hessian) / x.shape[-2]
    identity = torch.eye(x.shape[-1], dtype=jacobian.dtype, device=x.device)
    return torch.linalg.slogdet(identity + step[..., None] * jacobian).logabsdet.to(x.dtype)


def median_distance(x: Tensor) -> Tensor:
    """Lower median of all M^2 distances |x_i - x_j|, including the M zeros, as used by the bandwidth heuristics of
    [SVGD], [S2AC] and [MET]. Not differentiable: the result is detached.

    Shapes: x (..., M, D); result (...).
    """
    _checks.points("median_distance", x)
    _checks.some_particle(x)
    if x.numel() == 0:
        return x.new_zeros(x.shape[:-2])
    points = wide(x.detach())
    distance = torch.linalg.vector_norm(points[..., :, None, :] - points[..., None, :, :], dim=-1)
    return distance.flatten(-2).median(-1).values.to(x.dtype)


def ksd(x: Tensor, score: Tensor, bandwidth: Scalar, statistic: str = "u") -> Tensor:
    """Squared kernel Stein discrepancy, [KSD] theorem 3.6: the mean over pairs of

    u_ij = kappa_ij [ s_i . s_j + beta (s_i - s_j) . r_ij + beta (D - beta |r_ij|^2) ],

    over i != j for the U-statistic ("u", unbiased, requires M != 1), over all pairs for the V-statistic ("v").

    Zero without particles. Shapes: x, score (..., M, D); bandwidth a number, 0-d or (...); result (...).
    """
    if statistic not in ("u", "v"):
        raise ValueError(f'svgdx::ksd: statistic must be "u" or "v", but is {statistic!r}')
    _checks.particles("ksd", x, score)
    _checks.statistic_size(x, statistic == "u")
    m, s = max(x.shape[-2], 1), wide(score)
    r, _, kappa, beta = _pairs(wide(x), wide(x), s, _per_batch("ksd", "bandwidth", bandwidth, x))
    s_difference = s[..., :, None, :] - s[..., None, :, :]
    u = kappa * (s @ s.mT + beta * ((s_difference * r).sum(-1) + x.shape[-1] - beta * r.square().sum(-1)))
    if statistic == "v":
        return (u.sum((-2, -1)) / m / m).to(x.dtype)
    return ((u * _off_diagonal(u)).sum((-2, -1)) / m / max(m - 1, 1)).to(x.dtype)


def _particle_field(op: str, x: Tensor, score: Tensor, bandwidth: Scalar) -> tuple[Tensor, Tensor]:
    """phi and t at the particles themselves, in the compute dtype."""
    _checks.particles(op, x, score)
    r, z, kappa, beta = _pairs(wide(x), wide(x), wide(score), _per_batch(op, "bandwidth", bandwidth, x))
    phi = (kappa[..., None] * z).sum(-2) / x.shape[-2]
    summand = kappa * (x.shape[-1] - (r * z).sum(-1)) * _off_diagonal(kappa)
    return phi, beta[..., 0] / x.shape[-2] * summand.sum(-1)


def _kernel_jacobian(op: str, x: Tensor, score: Tensor, bandwidth: Scalar) -> Tensor:
    """A_i = (beta/M) [ (sum_{j != i} kappa_ij) I - sum_j kappa_ij z_ij r_ij^T ], (..., M, D, D)."""
    _checks.particles(op, x, score)
    r, z, kappa, beta = _pairs(wide(x), wide(x), wide(score), _per_batch(op, "bandwidth", bandwidth, x))
    identity = torch.eye(x.shape[-1], dtype=kappa.dtype, device=x.device)
    mass = (kappa * _off_diagonal(kappa)).sum(-1)[..., None, None] * identity
    return beta[..., None] / x.shape[-2] * (mass - (kappa[..., None] * z).mT @ r)


def _pairs(query: Tensor, x: Tensor, score: Tensor, bandwidth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """r and z (..., N, M, D), kappa (..., N, M), beta (..., 1, 1)."""
    beta = bandwidth**-2
    r = query[..., :, None, :] - x[..., None, :, :]
    z = score[..., None, :, :] + beta[..., None] * r
    return r, z, torch.exp(-0.5 * beta * r.square().sum(-1)), beta


def _off_diagonal(pairwise: Tensor) -> Tensor:
    return 1 - torch.eye(pairwise.shape[-1], dtype=pairwise.dtype, device=pairwise.device)


def _per_batch(op: str, name: str, value: Scalar, x: Tensor, positive: bool = True) -> Tensor:
    """A bandwidth or step size as (..., 1, 1) in the compute dtype, on the device of x; NaN if it must be positive but
    is not."""
    if not isinstance(value, Tensor):
        value = torch.tensor(_checks.number(op, name, value, positive), dtype=torch.float64)
    _checks.per_batch(op, name, value, x)
    if positive:
        value = torch.where(value > 0, value, torch.nan)
    return value.to(device=x.device, dtype=compute_dtype(x))[..., None, None]
