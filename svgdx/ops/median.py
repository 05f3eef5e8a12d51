"""The median distance between particles, from which bandwidths are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from svgdx._checks import wide
from svgdx.ops.registration.dispatch import Op

__all__ = ["median_distance"]


def median_distance(x: Tensor) -> Tensor:
    """Lower median of all M^2 Euclidean distances between particles, including the M zeros, in O(M) memory.

    Bandwidth heuristics are based on it: Messaoud et al. 2026 use sigma = median / sqrt(2 ln M), S2AC (2024) uses
    sigma^2 = median^2 / (2 ln(M + 1)).

    Args:
        x: particles, (..., M, D); float32, float64, bfloat16 or float16.

    Returns:
        The median, (...), in the units and dtype of x: the lower of the two middle values, as in torch.median, or NaN
        if x contains a NaN. Not differentiable: the result is detached. numpyro averages the two middle values of the
        same M^2 distances; blackjax takes the median of the M (M - 1) / 2 pairs, without the zeros.

    Raises:
        TypeError: if x is not a tensor.
        RuntimeError: if x is not floating-point, has fewer than 2 dimensions or contains no particles.

    Source: Liu & Wang, Stein Variational Gradient Descent, NeurIPS 2016, section 5.
    """
    median: Tensor = _median.checked(x.detach() if isinstance(x, Tensor) else x)
    return median


def median_distance_reference(x: Tensor) -> Tensor:
    """Lower median of all M^2 distances |x_i - x_j|, including the M zeros. Not differentiable: the result is detached.

    Shapes: x (..., M, D); result (...).
    """
    _median.check(x)
    if x.numel() == 0:
        return x.new_zeros(x.shape[:-2])
    points = wide(x.detach())
    distance = torch.linalg.vector_norm(points[..., :, None, :] - points[..., None, :, :], dim=-1)
    return distance.flatten(-2).median(-1).values.to(x.dtype)


def _some_particle(sizes: dict[str, Any], values: Sequence[Any]) -> str | None:
    if sizes["M"] > 0 or 0 in sizes["*"]:
        return None
    return f"x must have at least 1 particle, but has shape {tuple(values[0].shape)}"


_median = Op("median_distance", "x[*,M,D] -> median[*]", limit=_some_particle)
