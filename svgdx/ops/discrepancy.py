"""Distances between particles and to their target: median distance and kernel Stein discrepancy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from svgdx import _checks
from svgdx._checks import Scalar
from svgdx.ops._register import NUMBER, PLAIN, Op, number

__all__ = ["ksd", "median_distance"]


def median_distance(x: Tensor) -> Tensor:
    """Lower median of all M^2 Euclidean distances between particles, including the M zeros, in O(M) memory.

    Bandwidth heuristics are based on it: Messaoud et al. 2026 use sigma = median / sqrt(2 ln M), S2AC (2024) uses
    sigma^2 = median^2 / (2 ln(M + 1)).

    Args:
        x: particles, (..., M, D); float32, float64, bfloat16 or float16.

    Returns:
        The median, (...), in the units and dtype of x: the lower of the two middle values, as in torch.median, or NaN
        if x contains a NaN. Not differentiable: the result is detached.

    Raises:
        TypeError: if x is not a tensor.
        RuntimeError: if x is not floating-point, has fewer than 2 dimensions or contains no particles.

    Source: Liu & Wang, Stein Variational Gradient Descent, NeurIPS 2016, section 5.
    """
    _checks.tensor("median_distance", "x", x)
    return _median(x.detach())


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
        The squared discrepancy, (...), in the dtype of x; zero for M = 0. Differentiable once in x, score and
        bandwidth.

    Raises:
        TypeError: if x or score is not a tensor, or bandwidth is neither a number nor a tensor.
        ValueError: if a number bandwidth is not positive and finite, or statistic is neither "u" nor "v".
        RuntimeError: if a shape, dtype or device does not match, if M = 1 with "u", or, on the CPU, if a tensor
            bandwidth is not positive (on CUDA that batch row is NaN).

    Source: Liu, Lee & Jordan, A Kernelized Stein Discrepancy for Goodness-of-fit Tests, ICML 2016, theorem 3.6.
    """
    _checks.tensor("ksd", "x", x)
    _checks.tensor("ksd", "score", score)
    if statistic not in ("u", "v"):
        raise ValueError(f'svgdx::ksd: statistic must be "u" or "v", but is {statistic!r}')
    return _ksd(x, score, number("ksd", "bandwidth", bandwidth, x), statistic == "u")


def _median_fake(x: Tensor) -> Tensor:
    _checks.points("median_distance", x)
    _checks.some_particle(x)
    return x.new_empty(x.shape[:-2])


_median = Op("median_distance", _median_fake, (2,))


def _ksd_fake(x: Tensor, score: Tensor, bandwidth: Tensor, unbiased: bool = True) -> Tensor:
    _checks.particles("ksd", x, score)
    _checks.per_batch("ksd", "bandwidth", bandwidth, x)
    _checks.statistic_size(x, unbiased)
    return x.new_empty(x.shape[:-2])


def _ksd_backward_fake(grad: Tensor, x: Tensor, score: Tensor, bandwidth: Tensor, unbiased: bool) -> tuple[Tensor, ...]:
    return x.new_empty(x.shape), x.new_empty(x.shape), x.new_empty(bandwidth.shape, dtype=bandwidth.dtype)


# Like the bandwidth, the upstream gradient of ksd has one number per batch row.
_ksd_backward = Op("ksd_backward", _ksd_backward_fake, (NUMBER, 2, 2, NUMBER, PLAIN), gradient_of=(1, 2, 3))


def _ksd_formula(inputs: Sequence[Any], needs: Sequence[bool], grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_ksd_backward(grad, *inputs), None


_ksd = Op("ksd", _ksd_fake, (2, 2, NUMBER, PLAIN), _ksd_formula)
