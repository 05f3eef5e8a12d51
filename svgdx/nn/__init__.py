"""Modules that know the ops made for them."""

from svgdx.nn.mlp import MLPEnergy

__all__ = ["MLPEnergy"]
