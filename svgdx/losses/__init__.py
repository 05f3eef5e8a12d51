"""Losses that train an unnormalised density p ∝ exp(f) from data, whatever draws the data or makes the step.

Each is a mean over all points of x (..., D): a scalar, differentiable in the parameters of the target. Only
`contrastive_divergence` needs samples of p.
"""

from svgdx.losses.denoising import denoising_score_matching
from svgdx.losses.energy import contrastive_divergence, energy_discrepancy
from svgdx.losses.score import score_matching, sliced_score_matching

__all__ = [
    "contrastive_divergence",
    "denoising_score_matching",
    "energy_discrepancy",
    "score_matching",
    "sliced_score_matching",
]
