"""Bandwidths of a kernel that follow from the distances between particles."""

from __future__ import annotations

import math

from torch import Tensor, nn

from svgdx import ops
from svgdx._checks import features, one_of
from svgdx.samplers.parameters.values import SCALES, Value, as_value
from svgdx.samplers.state import State

HEURISTICS = ("median", "s2ac-median", "mean")


class Heuristic(Value):
    """A bandwidth computed from all M^2 pairs of particles; detached, as in every published system.

    - "median": median |x_i - x_j| / sqrt(2 ln M), Messaoud et al., ICML 2026;
    - "s2ac-median": sigma^2 = median^2 / (2 ln(M + 1)), Messaoud et al., ICLR 2024;
    - "mean": sigma^2 = mean |x_i - x_j|^2 / (4 ln(M + 1)), the default of the same paper.

    The median is the lower one of all M^2 distances, M zeros among them, as in torch.median; see the guide on sampling
    for the conventions of numpyro and blackjax.

    Args:
        name: one of HEURISTICS.
        scale: "isotropic", or "per-dimension" to apply the heuristic to each coordinate on its own.
        least: lower limit of the bandwidth, which the heuristic falls below if particles coincide.

    Raises:
        ValueError: an unknown name or scale; when called, fewer than 2 particles.
    """

    def __init__(self, name: str, scale: str = "isotropic", least: float = 1e-6) -> None:
        super().__init__()
        self.name = one_of("Heuristic", "name", name, HEURISTICS)
        self.per_dimension = one_of("Heuristic", "scale", scale, SCALES) == "per-dimension"
        self.least = least

    def forward(self, state: State) -> Tensor:
        x, ensemble = state.x.detach(), state.ensemble
        particles = ensemble.count(x)
        if particles < 2:
            raise ValueError(f"Heuristic: {self.name} needs at least 2 particles, but has {particles}")
        if self.name == "mean":
            # The mean of the squared distances is twice the variance.
            variance = ensemble.variance(x)
            mean = 2 * (variance if self.per_dimension else variance.sum(-1))
            return (mean / (4 * math.log(particles + 1))).sqrt().clamp_min(self.least)
        median = ensemble.median_distance(x.mT.unsqueeze(-1).contiguous() if self.per_dimension else x)
        count = particles if self.name == "median" else particles + 1
        return (median / math.sqrt(2 * math.log(count))).clamp_min(self.least)


def as_bandwidth(value: str | float | Tensor | Value | nn.Module) -> Value:
    """A Value from one of HEURISTICS, a number, a Value or a module of the state."""
    return Heuristic(value) if isinstance(value, str) else as_value("Kernel: bandwidth", value)


def median_bandwidth(x: Tensor, particles: int) -> float:
    """The heuristic "median" for chains of `particles` particles, measured on the rows of x (N, D).

    Raises TypeError or ValueError if x is not a matrix of at least 2 rows, or particles is below 2.
    """
    x = features("median_bandwidth", "x", x, rank=2)
    if min(len(x), particles) < 2:
        raise ValueError(
            f"median_bandwidth: rows of x and particles must be at least 2, but are {len(x)} and {particles}"
        )
    return float(ops.median_distance(x)) / math.sqrt(2 * math.log(particles))
