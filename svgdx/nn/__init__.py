"""Log densities of continuous x, unnormalised, as modules; MLPEnergy knows the ops made for it."""

from svgdx.nn.conv import ConvEnergy
from svgdx.nn.mlp import MLPEnergy

__all__ = ["ConvEnergy", "MLPEnergy"]
