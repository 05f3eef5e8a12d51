"""Log densities f, p ∝ exp(f), of continuous x; energies E, p ∝ exp(-E), of bits."""

from svgdx.densities.conv import ConvLogDensity
from svgdx.densities.discrete import DiscreteMLPEnergy, IsingEnergy
from svgdx.densities.mlp import MLPLogDensity

__all__ = ["ConvLogDensity", "DiscreteMLPEnergy", "IsingEnergy", "MLPLogDensity"]
