"""Energies: functions f with p(x) proportional to exp(f(x))."""

from svgdx.energies.mlp import MLPEnergy

__all__ = ["MLPEnergy"]
