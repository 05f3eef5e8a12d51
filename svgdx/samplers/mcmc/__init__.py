"""Markov chain Monte Carlo: Gibbs sampling and Gibbs with gradients over bits, and Langevin dynamics."""

from svgdx.samplers.mcmc.gibbs import gibbs_sweep
from svgdx.samplers.mcmc.gibbs_with_gradients import gwg_step
from svgdx.samplers.mcmc.langevin import LangevinRun, ReplayBuffer, langevin

__all__ = ["LangevinRun", "ReplayBuffer", "gibbs_sweep", "gwg_step", "langevin"]
