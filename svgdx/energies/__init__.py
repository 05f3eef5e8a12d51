"""Energy-based models: MLPEnergy and ConvEnergy are log densities f, p ∝ exp(f); of bits, E with p ∝ exp(-E)."""

from svgdx.energies.conv import ConvEnergy
from svgdx.energies.discrete import DiscreteMLPEnergy, IsingEnergy
from svgdx.energies.mlp import MLPEnergy

__all__ = ["ConvEnergy", "DiscreteMLPEnergy", "IsingEnergy", "MLPEnergy"]
