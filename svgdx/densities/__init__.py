"""Unnormalised densities in two signs, which the class tells.

A LogDensity returns f with p(x) ∝ exp(f(x)); an Energy returns E with p(x) ∝ exp(-E(x)).
Whatever takes a target takes either of them; a plain module or callable is a log density.
Wrap an energy of another library in EnergyTarget.
"""

from svgdx.densities.base import Energy, EnergyTarget, LogDensity, LogProb, as_log_density
from svgdx.densities.bounded import BoundedLogDensity, transformed
from svgdx.densities.conv import ConvLogDensity
from svgdx.densities.discrete import DiscreteMLPEnergy, IsingEnergy
from svgdx.densities.mlp import MLPLogDensity

__all__ = [
    "BoundedLogDensity",
    "ConvLogDensity",
    "DiscreteMLPEnergy",
    "Energy",
    "EnergyTarget",
    "IsingEnergy",
    "LogDensity",
    "LogProb",
    "MLPLogDensity",
    "as_log_density",
    "transformed",
]
