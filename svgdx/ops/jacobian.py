"""The Jacobian of the SVGD direction: its squared norm, and the exact log-determinant of the update.

Notation and sources of the references as in svgdx/ops/field.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from svgdx import _checks
from svgdx._checks import Scalar, wide
from svgdx.ops.field import off_diagonal, pairs, per_row_value
from svgdx.ops.registration.dispatch import Op

__all__ = ["svgd_jacobian_sqnorm", "svgd_logdet"]

Grads = tuple[Tensor | None, ...]


def svgd_jacobian_sqnorm(
    x: Tensor, score: Tensor, bandwidth: Scalar, probe: Tensor | None = None, hvp: Tensor | None = None
) -> Tensor:
    """Squared Frobenius norm of each particle's direction's Jacobian, which bounds the step size.

    n_i = |A_i|_F^2 + (2/M) (A_i v_i) . h_i + |h_i|^2 / M^2,   A_i = J_i - H_i / M,   h_i = H_i v_i,

    where J_i is the derivative of phi_i with respect to x_i, with the other particles fixed, and H_i the Hessian of the
    log density. With Rademacher probes v, the expectation of n_i is |J_i|_F^2 (Hutchinson 1989); x -> x + eps phi is
    invertible for eps <= 1 / max_i sqrt(n_i).

    Args:
        x: particles, (..., M, D); float32, float64, bfloat16 or float16 (the last two accumulate in float32).
        score: gradient of the log density at the particles; shape, dtype and device of x.
        bandwidth: sigma > 0, in the units of x: a number, a 0-d tensor or one value per batch row, (...).
        probe: v; shape, dtype and device of x; requires hvp.
        hvp: Hessian of the log density times probe; shape, dtype and device of x. Without probe and hvp the result is
            |A_i|_F^2.

    Returns:
        n, (..., M), in the dtype of x. Differentiable once in all inputs. For D > 16 products in float64 replace the
        sums over pairs: with particles up to rho sigma from their mean, n and its gradients have a relative error of
        up to (1 + rho^2)^2 2^-52, which is below 1e-5 up to rho = 400. On the CPU, the products of float32 inputs are
        in float32, with an error of about 1e-6, if there are at least 48 particles and rho^2 <= 8.

    Raises:
        TypeError: if a tensor argument is not a tensor, or bandwidth is neither a number nor a tensor.
        ValueError: if a number bandwidth is not positive and finite.
        RuntimeError: if a shape, dtype or device does not match, if only one of probe and hvp is given, or, on the CPU,
            if a tensor bandwidth is not positive (on CUDA that batch row is NaN).

    Source: Messaoud et al., Particles Don't Care About Z, ICML 2026.
    """
    sqnorm: Tensor = _sqnorm.checked(x, score, bandwidth, probe, hvp)
    return sqnorm


def svgd_jacobian_sqnorm_reference(
    x: Tensor, score: Tensor, bandwidth: Scalar, probe: Tensor | None = None, hvp: Tensor | None = None
) -> Tensor:
    """Squared Frobenius norm of J_i, which bounds the step by eps <= 1 / max_i sqrt(n_i), [MET]:

    n_i = |A_i|_F^2 + (2/M) (A_i v_i) . h_i + |h_i|^2 / M^2,   A_i = J_i - H_i / M,   h_i = H_i v_i.

    Its expectation over Rademacher probes v is |J_i|_F^2 [H89]; without probe and hvp it is |A_i|_F^2.

    Shapes: x, score, probe, hvp (..., M, D); bandwidth a number, 0-d or (...); result (..., M).
    """
    _sqnorm.check(x, score, bandwidth, probe, hvp)
    a = _kernel_jacobian(x, score, bandwidth)
    sqnorm = a.square().sum((-2, -1))
    if probe is not None and hvp is not None:
        h = wide(hvp) / x.shape[-2]
        sqnorm = sqnorm + 2 * ((a @ wide(probe)[..., None])[..., 0] * h).sum(-1) + h.square().sum(-1)
    return sqnorm.to(x.dtype)


def svgd_logdet(
    x: Tensor, score: Tensor, bandwidth: Scalar, step_size: Scalar, hessian: Tensor | None = None
) -> Tensor:
    """Exact log |det (I + eps J_i)| of the update at each particle, for at most 16 dimensions.

    J_i = A_i + H_i / M as in :func:`svgd_jacobian_sqnorm`; to first order in eps the result is eps (t_i + Tr H_i / M).

    Args:
        x, score, bandwidth: as in :func:`svgd_jacobian_sqnorm`; D <= 16.
        step_size: eps: any finite number, a 0-d tensor or one value per batch row, (...).
        hessian: H, (..., M, D, D), dtype and device of x; the op divides it by M. None omits the term.

    Returns:
        log |det|, (..., M), in nats, in the dtype of x; -inf if the update is singular. Differentiable once in all
        inputs.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`svgd_jacobian_sqnorm`; RuntimeError also if D > 16.

    Source: the change of variables that Messaoud et al., Particles Don't Care About Z, ICML 2026, linearise.
    """
    logdet: Tensor = _logdet.checked(x, score, bandwidth, step_size, hessian)
    return logdet


def svgd_logdet_reference(
    x: Tensor, score: Tensor, bandwidth: Scalar, step_size: Scalar, hessian: Tensor | None = None
) -> Tensor:
    """Exact log |det (I + eps J_i)|, J_i = A_i + H_i / M, for D <= 16: the change in log q that [MET] linearises.

    Shapes: x, score (..., M, D); bandwidth and step_size a number, 0-d or (...); hessian (..., M, D, D); result
    (..., M).
    """
    _logdet.check(x, score, bandwidth, step_size, hessian)
    jacobian = _kernel_jacobian(x, score, bandwidth)
    step = per_row_value(x, step_size, positive=False)
    if hessian is not None:
        jacobian = jacobian + wide(hessian) / x.shape[-2]
    identity = torch.eye(x.shape[-1], dtype=jacobian.dtype, device=x.device)
    return torch.linalg.slogdet(identity + step[..., None] * jacobian).logabsdet.to(x.dtype)


def _kernel_jacobian(x: Tensor, score: Tensor, bandwidth: Scalar) -> Tensor:
    """A_i = (beta/M) [ (sum_{j != i} kappa_ij) I - sum_j kappa_ij z_ij r_ij^T ], (..., M, D, D)."""
    r, z, kappa, beta = pairs(wide(x), wide(x), wide(score), per_row_value(x, bandwidth))
    identity = torch.eye(x.shape[-1], dtype=kappa.dtype, device=x.device)
    mass = (kappa * off_diagonal(kappa)).sum(-1)[..., None, None] * identity
    return beta[..., None] / x.shape[-2] * (mass - (kappa[..., None] * z).mT @ r)


def _both_or_none(sizes: dict[str, Any], values: Sequence[Any]) -> str | None:
    probe, hvp = values[3:5]
    if (probe is None) == (hvp is None):
        return None
    present, missing = ("hvp", "probe") if probe is None else ("probe", "hvp")
    return f"{missing} must be given together with {present}"


def _largest_dim(sizes: dict[str, Any], values: Sequence[Any]) -> str | None:
    limit = _checks.MAX_LOGDET_DIM
    return f"x must have at most {limit} features (D), but has {sizes['D']}" if sizes["D"] > limit else None


def _sqnorm_formula(inputs: Sequence[Any], needs: Sequence[bool], grad: Tensor) -> Grads:
    return _sqnorm_backward(grad, *inputs, needs[2])


def _logdet_formula(inputs: Sequence[Any], needs: Sequence[bool], grad: Tensor) -> Grads:
    return _logdet_backward(grad, *inputs, needs[2], needs[3])


_sqnorm = Op(
    "svgd_jacobian_sqnorm",
    "x[*,M,D] score[*,M,D] bandwidth[~]>0 probe[*,M,D]? hvp[*,M,D]? -> sqnorm[*,M]",
    _sqnorm_formula,
    limit=_both_or_none,
)
_sqnorm_backward = _sqnorm.backward("x score bandwidth probe hvp", if_needed="bandwidth")
_logdet = Op(
    "svgd_logdet",
    "x[*,M,D] score[*,M,D] bandwidth[~]>0 step_size[~] hessian[*,M,D,D]? -> logdet[*,M]",
    _logdet_formula,
    limit=_largest_dim,
)
_logdet_backward = _logdet.backward("x score bandwidth step_size hessian", if_needed="bandwidth step_size")
