"""Samplers: the learnt SVGD chain on the fused ops, Langevin dynamics, and Markov chains over bits."""

from svgdx.samplers.discrete import gibbs_sweep, gwg_step
from svgdx.samplers.langevin import LangevinRun, ReplayBuffer, langevin
from svgdx.samplers.met_svgd import Chain, LearntSVGD, StepRecord

__all__ = ["Chain", "LangevinRun", "LearntSVGD", "ReplayBuffer", "StepRecord", "gibbs_sweep", "gwg_step", "langevin"]
