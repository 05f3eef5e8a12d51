"""Samplers: the learnt SVGD chain on the fused ops, and Markov chains over bits."""

from svgdx.samplers.discrete import gibbs_sweep, gwg_step
from svgdx.samplers.met_svgd import Chain, LearntSVGD, StepRecord

__all__ = ["Chain", "LearntSVGD", "StepRecord", "gibbs_sweep", "gwg_step"]
