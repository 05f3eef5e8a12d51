"""Energy-based models of bits: E, p ∝ exp(-E). Those of continuous x, log densities f, are in svgdx.nn."""

from svgdx.energies.discrete import DiscreteMLPEnergy, IsingEnergy

__all__ = ["DiscreteMLPEnergy", "IsingEnergy"]
