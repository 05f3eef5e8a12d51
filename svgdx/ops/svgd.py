"""The SVGD direction, its trace, the fused update and the velocity field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from svgdx import _checks
from svgdx._checks import Scalar
from svgdx.ops._register import NUMBER, Op, number

__all__ = ["svgd_field", "svgd_phi", "svgd_phi_trace", "svgd_step"]

Grads = tuple[Tensor | None, ...]


def svgd_phi(x: Tensor, score: Tensor, bandwidth: Scalar) -> Tensor:
    """Stein variational direction of M particles in D dimensions.

    phi_i = (1/M) sum_j kappa_ij (s_j + r_ij / sigma^2),  kappa_ij = exp(-|r_ij|^2 / (2 sigma^2)),  r_ij = x_i - x_j.

    Args:
        x: particles, (..., M, D); float32, float64, bfloat16 or float16 (the last two accumulate in float32).
        score: gradient of the log density at the particles; shape, dtype and device of x.
        bandwidth: sigma > 0, in the units of x: a number, a 0-d tensor or one value per batch row, (...).

    Returns:
        phi, (..., M, D), in the dtype of x. Differentiable once in x, score and bandwidth.

    Raises:
        TypeError: if x or score is not a tensor, or bandwidth is neither a number nor a tensor.
        ValueError: if a number bandwidth is not positive and finite.
        RuntimeError: if a shape, dtype or device does not match, or, on the CPU, if a tensor bandwidth is not positive
            (on CUDA that batch row is NaN).

    Source: Liu & Wang, Stein Variational Gradient Descent, NeurIPS 2016, eq. 8.
    """
    _particle_tensors("svgd_phi", x, score)
    return _phi(x, score, number("svgd_phi", "bandwidth", bandwidth, x))


def svgd_phi_trace(x: Tensor, score: Tensor, bandwidth: Scalar) -> tuple[Tensor, Tensor]:
    """phi of :func:`svgd_phi`, and the kernel part of the trace of its Jacobian, in one pass.

    t_i = (1/M) sum_{j != i} (kappa_ij / sigma^2) [D - |r_ij|^2 / sigma^2 - r_ij . s_j] = Tr J_i - Tr H_i / M,

    where J_i is the derivative of phi_i with respect to x_i, with the other particles fixed, and H_i the Hessian of the
    log density.

    Args:
        x, score, bandwidth: as in :func:`svgd_phi`.

    Returns:
        phi (..., M, D) and t (..., M), in the dtype of x. Differentiable once in x, score and bandwidth.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`svgd_phi`.

    Source: Messaoud et al., S2AC, ICLR 2024, theorem 3.3, and Particles Don't Care About Z, ICML 2026.
    """
    _particle_tensors("svgd_phi_trace", x, score)
    return _phi_trace(x, score, number("svgd_phi_trace", "bandwidth", bandwidth, x))


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
        x' (..., M, D) in the dtype of x and log q' (..., M) in the dtype of log_q. Differentiable once in all inputs.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`svgd_phi`; a number step_size must be finite.

    Source: Messaoud et al., Particles Don't Care About Z, ICML 2026.
    """
    op = "svgd_step"
    _particle_tensors(op, x, score)
    _checks.tensor(op, "log_q", log_q)
    if hessian_trace is not None:
        _checks.tensor(op, "hessian_trace", hessian_trace)
    step = number(op, "step_size", step_size, x, positive=False)
    return _step(x, score, number(op, "bandwidth", bandwidth, x), step, log_q, hessian_trace)


def svgd_field(query: Tensor, x: Tensor, score: Tensor, bandwidth: Scalar) -> tuple[Tensor, Tensor]:
    """Velocity field of M particles, and its divergence, at N points, which need not be particles.

    phi(y) = (1/M) sum_j kappa(y, x_j) (s_j + r_j / sigma^2),  r_j = y - x_j,
    div phi(y) = (1/M) sum_j (kappa(y, x_j) / sigma^2) [D - |r_j|^2 / sigma^2 - r_j . s_j],  over all j.

    Args:
        query: points y, (..., N, D); leading dimensions, dtype and device of x.
        x, score, bandwidth: as in :func:`svgd_phi`.

    Returns:
        phi (..., N, D) and its divergence (..., N), in the dtype of x; zero for M = 0. Differentiable once in all
        inputs.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`svgd_phi`.

    Source: Liu & Wang, Stein Variational Gradient Descent, NeurIPS 2016, eq. 8.
    """
    _checks.tensor("svgd_field", "query", query)
    _particle_tensors("svgd_field", x, score)
    return _field(query, x, score, number("svgd_field", "bandwidth", bandwidth, x))


def _particle_tensors(op: str, x: object, score: object) -> None:
    _checks.tensor(op, "x", x)
    _checks.tensor(op, "score", score)


def _like(*inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(value.new_empty(value.shape) for value in inputs)


def _number_like(x: Tensor, value: Tensor) -> Tensor:
    """Empty gradient of a bandwidth or step size, on the device of x."""
    return x.new_empty(value.shape, dtype=value.dtype)


def _phi_fake(x: Tensor, score: Tensor, bandwidth: Tensor) -> Tensor:
    _checks.particles("svgd_phi", x, score)
    _checks.per_batch("svgd_phi", "bandwidth", bandwidth, x)
    return x.new_empty(x.shape)


def _phi_trace_fake(x: Tensor, score: Tensor, bandwidth: Tensor) -> tuple[Tensor, Tensor]:
    _checks.particles("svgd_phi_trace", x, score)
    _checks.per_batch("svgd_phi_trace", "bandwidth", bandwidth, x)
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1])


def _phi_trace_backward_fake(
    grad_phi: Tensor | None, grad_trace: Tensor | None, x: Tensor, score: Tensor, bandwidth: Tensor
) -> tuple[Tensor, ...]:
    return *_like(x, score), _number_like(x, bandwidth)


_phi_trace_backward = Op(
    "svgd_phi_trace_backward", _phi_trace_backward_fake, (2, 1, 2, 2, NUMBER), gradient_of=(2, 3, 4)
)


def _phi_formula(inputs: Sequence[Any], needs: Sequence[bool], grad_phi: Tensor) -> Grads:
    return _phi_trace_backward(grad_phi, None, *inputs)


def _phi_trace_formula(
    inputs: Sequence[Any], needs: Sequence[bool], grad_phi: Tensor | None, grad_trace: Tensor | None
) -> Grads:
    return _phi_trace_backward(grad_phi, grad_trace, *inputs)


_phi = Op("svgd_phi", _phi_fake, (2, 2, NUMBER), _phi_formula)
_phi_trace = Op("svgd_phi_trace", _phi_trace_fake, (2, 2, NUMBER), _phi_trace_formula)


def _step_fake(
    x: Tensor,
    score: Tensor,
    bandwidth: Tensor,
    step_size: Tensor,
    log_q: Tensor,
    hessian_trace: Tensor | None = None,
) -> tuple[Tensor, ...]:
    op = "svgd_step"
    _checks.particles(op, x, score)
    _checks.per_batch(op, "bandwidth", bandwidth, x)
    _checks.per_batch(op, "step_size", step_size, x)
    _checks.per_particle(op, "log_q", log_q, x)
    if hessian_trace is not None:
        _checks.per_particle(op, "hessian_trace", hessian_trace, x)
    return _like(x, log_q)


def _step_backward_fake(
    grad_x_next: Tensor | None,
    grad_log_q_next: Tensor | None,
    x: Tensor,
    score: Tensor,
    bandwidth: Tensor,
    step_size: Tensor,
    hessian_trace: Tensor | None,
) -> tuple[Tensor, ...]:
    return *_like(x, score), _number_like(x, bandwidth), _number_like(x, step_size)


_step_backward = Op(
    "svgd_step_backward", _step_backward_fake, (2, 1, 2, 2, NUMBER, NUMBER, 1), gradient_of=(2, 3, 4, 5)
)


def _step_formula(
    inputs: Sequence[Any], needs: Sequence[bool], grad_x_next: Tensor | None, grad_log_q_next: Tensor | None
) -> Grads:
    x, score, bandwidth, step_size, _, hessian_trace = inputs
    grads: Grads = (None,) * 4
    if any(needs[:4]):
        grads = _step_backward(grad_x_next, grad_log_q_next, x, score, bandwidth, step_size, hessian_trace)
    grad_hessian_trace = None
    if grad_log_q_next is not None and needs[5]:
        step = step_size if step_size.dim() == 0 else step_size[..., None]
        grad_hessian_trace = (-step * grad_log_q_next / x.shape[-2]).to(hessian_trace.dtype)
    return *grads, grad_log_q_next, grad_hessian_trace


_step = Op("svgd_step", _step_fake, (2, 2, NUMBER, NUMBER, 1, 1), _step_formula)


def _field_fake(query: Tensor, x: Tensor, score: Tensor, bandwidth: Tensor) -> tuple[Tensor, Tensor]:
    op = "svgd_field"
    _checks.particles(op, x, score)
    _checks.query_points(op, query, x)
    _checks.per_batch(op, "bandwidth", bandwidth, x)
    return query.new_empty(query.shape), query.new_empty(query.shape[:-1])


def _field_backward_fake(
    grad_phi: Tensor | None,
    grad_divergence: Tensor | None,
    query: Tensor,
    x: Tensor,
    score: Tensor,
    bandwidth: Tensor,
) -> tuple[Tensor, ...]:
    return *_like(query, x, score), _number_like(x, bandwidth)


_field_backward = Op("svgd_field_backward", _field_backward_fake, (2, 1, 2, 2, 2, NUMBER), gradient_of=(2, 3, 4, 5))


def _field_formula(
    inputs: Sequence[Any], needs: Sequence[bool], grad_phi: Tensor | None, grad_divergence: Tensor | None
) -> Grads:
    return _field_backward(grad_phi, grad_divergence, *inputs)


_field = Op("svgd_field", _field_fake, (2, 2, 2, NUMBER), _field_formula)
