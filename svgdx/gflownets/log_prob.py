"""Log-probabilities of given trajectories, differentiable in the policy's parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from svgdx import ops
from svgdx.gflownets._record import RecordedLogProb, replay
from svgdx.gflownets.policies import MLPPolicy
from svgdx.gflownets.sampling import logits_of
from svgdx.gflownets.trajectories import Trajectories


def trajectory_log_prob(policy: nn.Module, trajectories: Trajectories) -> tuple[Tensor, Tensor]:
    """log P_F and log P_B of whole trajectories, summed over their steps, in nats.

    A recorded rollout of an :class:`MLPPolicy` whose parameters have not changed since is not run again; any other
    trajectories are, in one batched pass over all their states.

    Args:
        policy: from states (..., D) to logits (..., 3D); see :func:`rollout`.
        trajectories: B of them, sampled by this policy or by any other means.

    Returns:
        log_pf (B) and log_pb (B), differentiable once in the policy's parameters.

    Raises:
        RuntimeError: from the ops, on the CPU: actions that do not fit the initial states; in the backward, parameters
            changed in place since, or activations taken over by a later rollout after a first backward.

    Source: Zhang et al., ICML 2022, eq. 5; Malkin et al., NeurIPS 2022, eq. 11.
    """
    if not isinstance(policy, MLPPolicy):
        states = trajectories.states()
        return ops.gfn_trajectory_log_prob(logits_of(policy, states), trajectories.actions, trajectories.initial)
    record = trajectories.record
    if record is None or record.weights.policy is not policy or not record.usable():
        with torch.no_grad():
            trajectories = replay(policy, trajectories)
    return RecordedLogProb.apply(trajectories, *policy.parameters())


def transition_log_prob(policy: nn.Module, trajectories: Trajectories) -> tuple[Tensor, Tensor]:
    """log P_F(s_{t+1} | s_t) and log P_B(s_t | s_{t+1}) of every step, (B, T) each, in nats.

    For the losses that need more than the sums: detailed balance and sub-trajectory balance. All states pass through
    the policy in one batch, with autograd.

    Args, Raises: as :func:`trajectory_log_prob`.
    """
    states = trajectories.states()
    logits = logits_of(policy, states)
    # Each transition is a trajectory of one step from its own initial state.
    pairs = torch.stack([logits[:, :-1], logits[:, 1:]], 2)
    return ops.gfn_trajectory_log_prob(pairs, trajectories.actions.unsqueeze(-1), states[:, :-1])
