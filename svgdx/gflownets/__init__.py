"""Generative flow networks over {0, 1}^D, which fill a vector entry by entry in any order."""

from svgdx.gflownets.likelihood import log_importance_weights, log_likelihood
from svgdx.gflownets.log_prob import trajectory_log_prob, transition_log_prob
from svgdx.gflownets.losses import (
    detailed_balance,
    log_partition_variance,
    sub_trajectory_balance,
    trajectory_balance,
)
from svgdx.gflownets.mcmc import Proposal, accept, back_and_forth
from svgdx.gflownets.policies import MLPFlow, MLPPolicy
from svgdx.gflownets.sampling import rollout
from svgdx.gflownets.trajectories import Trajectories, void_states

__all__ = [
    "MLPFlow",
    "MLPPolicy",
    "Proposal",
    "Trajectories",
    "accept",
    "back_and_forth",
    "detailed_balance",
    "log_importance_weights",
    "log_likelihood",
    "log_partition_variance",
    "rollout",
    "sub_trajectory_balance",
    "trajectory_balance",
    "trajectory_log_prob",
    "transition_log_prob",
    "void_states",
]
