"""The Jacobian of the SVGD direction: its squared norm, and the exact log-determinant of the update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from svgdx import _checks
from svgdx._checks import Scalar
from svgdx.ops._register import NUMBER, Op, number

__all__ = ["svgd_jacobian_sqnorm", "svgd_logdet"]


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
        n, (..., M), in the dtype of x. Differentiable once in all inputs.

    Raises:
        TypeError: if a tensor argument is not a tensor, or bandwidth is neither a number nor a tensor.
        ValueError: if a number bandwidth is not positive and finite.
        RuntimeError: if a shape, dtype or device does not match, if only one of probe and hvp is given, or, on the CPU,
            if a tensor bandwidth is not positive (on CUDA that batch row is NaN).

    Source: Messaoud et al., Particles Don't Care About Z, ICML 2026.
    """
    op = "svgd_jacobian_sqnorm"
    _checks.tensor(op, "x", x)
    _checks.tensor(op, "score", score)
    if probe is not None:
        _checks.tensor(op, "probe", probe)
    if hvp is not None:
        _checks.tensor(op, "hvp", hvp)
    return _sqnorm(x, score, number(op, "bandwidth", bandwidth, x), probe, hvp)


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
    op = "svgd_logdet"
    _checks.tensor(op, "x", x)
    _checks.tensor(op, "score", score)
    if hessian is not None:
        _checks.tensor(op, "hessian", hessian)
    step = number(op, "step_size", step_size, x, positive=False)
    return _logdet(x, score, number(op, "bandwidth", bandwidth, x), step, hessian)


def _sqnorm_fake(
    x: Tensor, score: Tensor, bandwidth: Tensor, probe: Tensor | None = None, hvp: Tensor | None = None
) -> Tensor:
    op = "svgd_jacobian_sqnorm"
    _checks.particles(op, x, score)
    _checks.per_batch(op, "bandwidth", bandwidth, x)
    _checks.probe_pair(op, probe, hvp, x)
    return x.new_empty(x.shape[:-1])


def _sqnorm_backward_fake(
    grad: Tensor, x: Tensor, score: Tensor, bandwidth: Tensor, probe: Tensor | None, hvp: Tensor | None
) -> tuple[Tensor, ...]:
    grads = (x.new_empty(x.shape), x.new_empty(x.shape), x.new_empty(bandwidth.shape, dtype=bandwidth.dtype))
    pair = x.shape if probe is not None else (0,)
    return *grads, x.new_empty(pair), x.new_empty(pair)


_sqnorm_backward = Op(
    "svgd_jacobian_sqnorm_backward", _sqnorm_backward_fake, (1, 2, 2, NUMBER, 2, 2), gradient_of=(1, 2, 3, 4, 5)
)


def _sqnorm_formula(inputs: Sequence[Any], needs: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
    return _sqnorm_backward(grad, *inputs)


_sqnorm = Op("svgd_jacobian_sqnorm", _sqnorm_fake, (2, 2, NUMBER, 2, 2), _sqnorm_formula)


def _logdet_fake(
    x: Tensor, score: Tensor, bandwidth: Tensor, step_size: Tensor, hessian: Tensor | None = None
) -> Tensor:
    op = "svgd_logdet"
    _checks.particles(op, x, score)
    _checks.per_batch(op, "bandwidth", bandwidth, x)
    _checks.per_batch(op, "step_size", step_size, x)
    _checks.logdet_sizes(op, hessian, x)
    return x.new_empty(x.shape[:-1])


def _logdet_backward_fake(
    grad: Tensor, x: Tensor, score: Tensor, bandwidth: Tensor, step_size: Tensor, hessian: Tensor | None
) -> tuple[Tensor, ...]:
    numbers = tuple(x.new_empty(value.shape, dtype=value.dtype) for value in (bandwidth, step_size))
    grad_hessian = x.new_empty((0,) if hessian is None else hessian.shape)
    return x.new_empty(x.shape), x.new_empty(x.shape), *numbers, grad_hessian


_logdet_backward = Op(
    "svgd_logdet_backward", _logdet_backward_fake, (1, 2, 2, NUMBER, NUMBER, 3), gradient_of=(1, 2, 3, 4, 5)
)


def _logdet_formula(inputs: Sequence[Any], needs: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
    return _logdet_backward(grad, *inputs)


_logdet = Op("svgd_logdet", _logdet_fake, (2, 2, NUMBER, NUMBER, 3), _logdet_formula)
