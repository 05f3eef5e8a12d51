"""Estimate the trace of a Hessian: random signs as probes, and the estimate from Hessian-vector products.

Sources of the references:
  [H89]    Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989.
  [PHILOX] Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011: Philox4x32-10.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from svgdx._checks import wide
from svgdx.ops.philox import philox, seed_and_offset
from svgdx.ops.registration.dispatch import Keyed, Op

__all__ = ["probe_trace", "rademacher"]

Grads = tuple[Tensor | None, ...]


def rademacher(like: Tensor, seed: int | Tensor, offset: int) -> Tensor:
    """Independent random signs, the probes of Hutchinson's estimator.

    A sign depends only on seed, offset and the element's index in row-major order; it is the same on CPU and CUDA, for
    any number of threads and in any dtype. Use another offset for a new draw. Under vmap, the mapped dimension is one
    more leading dimension.

    Args:
        like: tensor with the shape, dtype (float32, float64, bfloat16 or float16) and device of the result; its values
            are not read.
        seed: any 64-bit integer; or a key on the device of like, (2,) int64: the seed, and a number that is added to
            offset. A captured CUDA graph reads a key at each replay.
        offset: any 64-bit integer.

    Returns:
        +1 and -1, each with probability 1/2, contiguous. Not differentiable.

    Raises:
        TypeError: if like is not a tensor.
        RuntimeError: if like is not floating-point, or a key has another shape, dtype or device.

    Source: Hutchinson 1989; random words from Philox4x32-10, Salmon et al., Parallel Random Numbers: As Easy as 1, 2,
    3, SC 2011, 128 signs per block.
    """
    signs: Tensor = _rademacher.checked(like, seed, offset)
    return signs


def rademacher_reference(like: Tensor, seed: int | Tensor, offset: int) -> Tensor:
    """Independent signs, +1 or -1, with the shape, dtype and device of ``like``.

    Element i, in row-major order, is -1 if bit i % 128 of the Philox block with key seed and counter (i // 128, offset)
    is set, [PHILOX].
    """
    _rademacher.check(like, seed, offset)
    count = like.numel()
    counter = torch.arange((count + 127) // 128, device=like.device)
    seed, high = seed_and_offset(seed, offset)
    words = torch.stack(philox(seed, counter, high), -1)
    bits = words[..., None] >> torch.arange(32, device=like.device) & 1
    return (1 - 2 * bits).flatten()[:count].view(like.shape).to(like.dtype)


def probe_trace(probe: Tensor, hvp: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sample variance of v . (H v) over V probes, in one pass.

    If the probes have identity covariance, the mean is an unbiased estimate of Tr H; sqrt(variance / V) is its standard
    error.

    Args:
        probe: v, (V, ..., D) with V >= 1; float32, float64, bfloat16 or float16 (the last two are summed in float32).
        hvp: H v; shape, dtype and device of probe.

    Returns:
        Mean and variance (divisor V - 1), (...), float32, or float64 for float64 probes. The variance is NaN for V = 1,
        a constant. Differentiable once in both inputs.

    Raises:
        TypeError: if an argument is not a tensor.
        RuntimeError: if a shape, dtype or device does not match.

    Source: Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989.
    """
    outputs: tuple[Tensor, Tensor] = _probe_trace.checked(probe, hvp)
    return outputs


def probe_trace_reference(probe: Tensor, hvp: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sample variance, over V probes, of v . (H v), whose expectation is Tr H, [H89].

    Shapes: probe, hvp (V, ..., D); results (...), in float32 for half precision; the variance is NaN for V = 1.
    """
    _probe_trace.check(probe, hvp)
    forms = (wide(probe) * wide(hvp)).sum(-1)
    mean = forms.mean(0)
    if len(forms) == 1:
        return mean, torch.full_like(mean, torch.nan)
    return mean, (forms - mean).square().sum(0) / (len(forms) - 1)


def _some_probe(sizes: dict[str, Any], values: Sequence[Any]) -> str | None:
    if sizes["V"] > 0:
        return None
    return f"probe must have shape (V, ..., D) with at least one probe, but has {tuple(values[0].shape)}"


def _probe_trace_formula(
    inputs: Sequence[Any], needs: Sequence[bool], grad_mean: Tensor | None, grad_variance: Tensor | None
) -> Grads:
    probe, hvp = inputs
    if len(probe) == 1:
        # The variance of one probe is a constant, whose gradient the op would compute as 0 * NaN.
        if grad_mean is None:
            return torch.zeros_like(probe), torch.zeros_like(hvp)
        grad_variance = None
    return _probe_trace_backward(grad_mean, grad_variance, probe, hvp)


_rademacher = Keyed("rademacher", "like[*] seed offset -> signs[*]", autocast=False)
_probe_trace = Op(
    "probe_trace",
    "probe[V,*,D] hvp[V,*,D] -> mean[*]c variance[*]c",
    _probe_trace_formula,
    limit=_some_probe,
    autocast=False,
)
_probe_trace_backward = _probe_trace.backward("probe hvp")
