"""Samplers: SVGD of points, with their density, and of networks; Langevin dynamics; Markov chains over bits."""

from svgdx.densities.bounded import transformed
from svgdx.samplers.control import CONTROLS, EpsilonGreedy, MetropolisHastings, Truncation
from svgdx.samplers.initial import LearntGaussian
from svgdx.samplers.kernels import RBF, InverseMultiquadric
from svgdx.samplers.mcmc import LangevinRun, ReplayBuffer, gibbs_sweep, gwg_step, langevin
from svgdx.samplers.models import ModuleParticles, Prediction
from svgdx.samplers.parameters import (
    BOUNDS,
    HEURISTICS,
    LEAKY_SLOPE,
    SCHEDULES,
    Fixed,
    Heuristic,
    Learnt,
    OfState,
    Scheduled,
    median_bandwidth,
    step_bound,
)
from svgdx.samplers.presets import PRESETS, preset
from svgdx.samplers.state import Chain, State, StepRecord
from svgdx.samplers.stopping import SteinStop
from svgdx.samplers.svgd import DENSITIES, DIVISORS, SVGD
from svgdx.samplers.targets import HESSIANS, ScoreTarget, TemperedTarget

__all__ = [
    "BOUNDS",
    "CONTROLS",
    "DENSITIES",
    "DIVISORS",
    "HESSIANS",
    "HEURISTICS",
    "LEAKY_SLOPE",
    "PRESETS",
    "RBF",
    "SCHEDULES",
    "SVGD",
    "Chain",
    "EpsilonGreedy",
    "Fixed",
    "Heuristic",
    "InverseMultiquadric",
    "LangevinRun",
    "Learnt",
    "LearntGaussian",
    "MetropolisHastings",
    "ModuleParticles",
    "OfState",
    "Prediction",
    "ReplayBuffer",
    "Scheduled",
    "ScoreTarget",
    "State",
    "SteinStop",
    "StepRecord",
    "TemperedTarget",
    "Truncation",
    "gibbs_sweep",
    "gwg_step",
    "langevin",
    "median_bandwidth",
    "preset",
    "step_bound",
    "transformed",
]
