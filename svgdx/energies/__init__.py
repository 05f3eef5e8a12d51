"""Energy-based models of bits: energies E, p ∝ exp(-E). For continuous x there is :class:`svgdx.nn.MLPEnergy`."""

from svgdx.energies.discrete import DiscreteMLPEnergy, IsingEnergy

__all__ = ["DiscreteMLPEnergy", "IsingEnergy"]
