"""Losses that compare values of a log density.

Sources: [E23] Schröder, Ou, Lim, Li, Vollmer & Duncan, Energy discrepancies, NeurIPS 2023. [H02] Hinton, Training
products of experts by minimizing contrastive divergence, Neural Computation 2002.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from svgdx import _checks
from svgdx.densities.base import LogProb, as_log_density
from svgdx.streams import Source, stream_of

__all__ = ["contrastive_divergence", "energy_discrepancy"]

Target = nn.Module | LogProb


def energy_discrepancy(
    target: Target,
    x: Tensor,
    noise: float | Tensor,
    samples: int = 16,
    stabiliser: float = 1.0,
    generator: Source = None,
) -> Tensor:
    """Energy discrepancy, the mean of log(w/M + (1/M) Σ_j exp(f(x + noise (z + z_j)) - f(x))), [E23] section 4.

    It needs values of f alone. For small noise it approaches score matching, for large noise maximum likelihood.

    Args:
        target: a LogDensity, an Energy or a callable log density.
        x: data, (..., D).
        noise: factor of z and of z_j in units of x, the square root of [E23]'s t, positive: a number, or a tensor that
            broadcasts to (...).
        samples: M, the number of z_j for each point.
        stabiliser: w, not negative; with w = 0 a point whose samples all have low density dominates the gradient.
        generator: as for :func:`sliced_score_matching`.

    Raises:
        TypeError: the target is not callable, x is not a tensor, or samples is no integer.
        ValueError: noise is not positive, samples is below 1, stabiliser is negative, or the generator is on another
            device.
    """
    log_density = as_log_density(target)
    x = _checks.features("energy_discrepancy", "x", x)
    scale = scale_of("energy_discrepancy", noise)
    (count,) = _checks.sizes("energy_discrepancy", samples=samples)
    if not 0 <= stabiliser < math.inf:
        raise ValueError(f"energy_discrepancy: stabiliser must not be negative, but is {stabiliser}")
    normal = stream_of("energy_discrepancy", generator, x.device).normal((count + 1, *x.shape), x.dtype)
    near = x + scale * (normal[0] + normal[1:])
    points = torch.cat([x[None], near])
    values = _checks.returned("energy_discrepancy", "target", log_density(points), points)
    ratios = values[1:] - values[0]
    if stabiliser > 0:
        ratios = torch.cat([ratios, torch.full_like(ratios[:1], math.log(stabiliser))])
    return ratios.logsumexp(0).mean() - math.log(count)


def contrastive_divergence(target: Target, x: Tensor, samples: Tensor) -> Tensor:
    """The mean of f over samples minus that over data, whose gradient is that of -log p if samples follow p, [H02].

    Args:
        target: a LogDensity, an Energy or a callable log density.
        x: data, (..., D).
        samples: points of a sampler of p, (..., D); no gradient passes through them.

    Raises:
        TypeError: the target is not callable, or x or samples is not a tensor.
    """
    log_density = as_log_density(target)
    data = _checks.features("contrastive_divergence", "x", x)
    negatives = _checks.features("contrastive_divergence", "samples", samples, data.shape[-1]).detach()
    of_samples, of_data = (
        _checks.returned("contrastive_divergence", "target", log_density(points), points).mean()
        for points in (negatives, data)
    )
    return of_samples - of_data


def scale_of(function: str, noise: float | Tensor) -> float | Tensor:
    """The noise as a factor of vectors, if it is positive and finite; a tensor on a GPU is not asked."""
    if not isinstance(noise, Tensor) or noise.device.type == "cpu":
        least, most = (noise.min(), noise.max()) if isinstance(noise, Tensor) else (noise, noise)
        if not 0 < float(least) <= float(most) < math.inf:
            raise ValueError(f"{function}: noise must be positive and finite, but is {noise}")
    return noise.unsqueeze(-1) if isinstance(noise, Tensor) else noise
