"""Bandwidths of a kernel from the distances between particles; the others are in :mod:`svgdx.samplers.values`."""

from __future__ import annotations

import math

from torch import Tensor, nn

from svgdx import ops
from svgdx.samplers.state import State
from svgdx.samplers.values import SCALES, Value, as_value, one_of

HEURISTICS = ("median", "s2ac-median", "mean")


class Heuristic(Value):
    """Bandwidth from the particles, all M^2 pairs counted; detached, as in every published system.

    - "median": median |x_i - x_j| / sqrt(2 ln M), Messaoud et al., ICML 2026;
    - "s2ac-median": sigma^2 = median^2 / (2 ln(M + 1)), Messaoud et al., ICLR 2024;
    - "mean": sigma^2 = mean |x_i - x_j|^2 / (4 ln(M + 1)), the same, its default.

    Args:
        name: one of HEURISTICS.
        scale: "isotropic", or "per-dimension": the heuristic of each coordinate by itself.
        least: the bandwidth where the heuristic is smaller, as it is when particles coincide.
    """

    def __init__(self, name: str, scale: str = "isotropic", least: float = 1e-6) -> None:
        super().__init__()
        self.name = one_of("Heuristic", "name", name, HEURISTICS)
        self.per_dimension = one_of("Heuristic", "scale", scale, SCALES) == "per-dimension"
        self.least = least

    def forward(self, state: State) -> Tensor:
        x, shards = state.x.detach(), state.shards
        particles = x.shape[-2] if shards is None else shards.total
        if particles < 2:
            raise ValueError(f"Heuristic: {self.name} needs at least 2 particles, but has {particles}")
        if self.name == "mean":
            # The mean of the squared distances is twice the variance.
            variance = x.var(-2, correction=0) if shards is None else shards.variance(x)
            mean = 2 * (variance if self.per_dimension else variance.sum(-1))
            return (mean / (4 * math.log(particles + 1))).sqrt().clamp_min(self.least)
        points = x.mT.unsqueeze(-1).contiguous() if self.per_dimension else x
        median = ops.median_distance(points) if shards is None else shards.median_distance(points)
        count = particles if self.name == "median" else particles + 1
        return (median / math.sqrt(2 * math.log(count))).clamp_min(self.least)


def as_bandwidth(value: str | float | Tensor | Value | nn.Module) -> Value:
    """One of HEURISTICS, a number, a Value or a module of the state."""
    return Heuristic(value) if isinstance(value, str) else as_value(value)


def median_bandwidth(x: Tensor, particles: int) -> float:
    """The heuristic "median" for chains of so many particles, measured on the rows of x (N, D)."""
    return float(ops.median_distance(x)) / math.sqrt(2 * math.log(particles))


__all__ = ["HEURISTICS", "Heuristic", "as_bandwidth", "median_bandwidth"]
