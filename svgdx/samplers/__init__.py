"""Samplers built on the fused SVGD ops."""

from svgdx.samplers.met_svgd import Chain, LearntSVGD, StepRecord

__all__ = ["Chain", "LearntSVGD", "StepRecord"]
