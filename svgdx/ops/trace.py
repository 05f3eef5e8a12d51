"""Estimate the trace of a Hessian: random signs as probes, and the estimate from Hessian-vector products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from svgdx import _checks
from svgdx._dtype import compute_dtype
from svgdx.ops._register import PLAIN, PROBES, Op

__all__ = ["probe_trace", "rademacher"]

Grads = tuple[Tensor | None, ...]


def rademacher(like: Tensor, seed: int, offset: int) -> Tensor:
    """Independent random signs, the probes of Hutchinson's estimator.

    A sign depends only on seed, offset and the element's index in row-major order; it is the same on CPU and CUDA, for
    any number of threads and in any dtype. Use another offset for a new draw. Under vmap, the mapped dimension is one
    more leading dimension.

    Args:
        like: tensor with the shape, dtype (float32, float64, bfloat16 or float16) and device of the result; its values
            are not read.
        seed, offset: any 64-bit integers.

    Returns:
        +1 and -1, each with probability 1/2, contiguous. Not differentiable.

    Raises:
        TypeError: if like is not a tensor.
        RuntimeError: if like is not floating-point.

    Source: Hutchinson 1989; random words from Philox4x32-10, Salmon et al., Parallel Random Numbers: As Easy as 1, 2,
    3, SC 2011, 128 signs per block.
    """
    _checks.tensor("rademacher", "like", like)
    return _rademacher(like, seed, offset)


def probe_trace(probe: Tensor, hvp: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sample variance of v . (H v) over V probes, in one pass.

    If the probes have identity covariance, the mean is an unbiased estimate of Tr H; sqrt(variance / V) is its standard
    error.

    Args:
        probe: v, (V, ..., D) with V >= 1; float32, float64, bfloat16 or float16 (the last two are summed in float32).
        hvp: H v; shape, dtype and device of probe.

    Returns:
        Mean and variance (divisor V - 1), (...), float32, or float64 for float64 probes. The variance is NaN for V = 1.
        Differentiable once in both inputs.

    Raises:
        TypeError: if an argument is not a tensor.
        RuntimeError: if a shape, dtype or device does not match.

    Source: Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989.
    """
    _checks.tensor("probe_trace", "probe", probe)
    _checks.tensor("probe_trace", "hvp", hvp)
    return _probe_trace(probe, hvp)


def _rademacher_fake(like: Tensor, seed: int, offset: int) -> Tensor:
    _checks.floating("rademacher", "like", like)
    return like.new_empty(like.shape)


_rademacher = Op("rademacher", _rademacher_fake, (1, PLAIN, PLAIN), autocast=False)


def _probe_trace_fake(probe: Tensor, hvp: Tensor) -> tuple[Tensor, Tensor]:
    _checks.probes("probe_trace", probe, hvp)
    lead, dtype = probe.shape[1:-1], compute_dtype(probe)
    return probe.new_empty(lead, dtype=dtype), probe.new_empty(lead, dtype=dtype)


def _probe_trace_backward_fake(
    grad_mean: Tensor | None, grad_variance: Tensor | None, probe: Tensor, hvp: Tensor
) -> tuple[Tensor, Tensor]:
    return probe.new_empty(probe.shape), hvp.new_empty(hvp.shape)


_probe_trace_backward = Op(
    "probe_trace_backward", _probe_trace_backward_fake, (1, 1, PROBES, PROBES), gradient_of=(2, 3)
)


def _probe_trace_formula(
    inputs: Sequence[Any], needs: Sequence[bool], grad_mean: Tensor | None, grad_variance: Tensor | None
) -> Grads:
    return _probe_trace_backward(grad_mean, grad_variance, *inputs)


_probe_trace = Op("probe_trace", _probe_trace_fake, (PROBES, PROBES), _probe_trace_formula, autocast=False)
