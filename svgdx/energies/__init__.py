"""Energy-based models: MLPEnergy is a log density f, p ∝ exp(f); those of bits are energies E, p ∝ exp(-E)."""

from svgdx.energies.discrete import DiscreteMLPEnergy, IsingEnergy
from svgdx.energies.mlp import MLPEnergy

__all__ = ["DiscreteMLPEnergy", "IsingEnergy", "MLPEnergy"]
