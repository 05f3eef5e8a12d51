"""Log-probabilities of trajectories, differentiable in the policy's parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from svgdx import _checks, ops
from svgdx.gflownets.policies import MLPPolicy, logits_of
from svgdx.gflownets.recorded import recorded_log_prob
from svgdx.gflownets.trajectories import Trajectories


@_checks.differentiates
def trajectory_log_prob(policy: nn.Module, trajectories: Trajectories) -> tuple[Tensor, Tensor]:
    """log P_F and log P_B of whole trajectories, summed over their steps, in nats.

    The record of a rollout of an :class:`MLPPolicy` is reused if its parameters have not changed since; for all other
    trajectories the policy is evaluated at all states in one batch.

    Args:
        policy: maps states (..., D) to logits (..., 3D); see :func:`svgdx.gflownets.rollout`.
        trajectories: B of them, sampled by this policy or by any other means.

    Returns:
        log_pf (B) and log_pb (B), differentiable once in the policy's parameters.

    Raises:
        RuntimeError: from the ops, on the CPU: actions that do not fit the initial states. In the backward pass:
            parameters changed in place since, or activations overwritten by a later rollout after a first backward
            pass.

    Source: Zhang et al., ICML 2022, eq. 5; Malkin et al., NeurIPS 2022, eq. 11.
    """
    # The record serves autograd, not the transforms of torch.func.
    if isinstance(policy, MLPPolicy) and not torch._C._are_functorch_transforms_active():
        with _checks.without_autocast(trajectories.actions.device.type):
            return recorded_log_prob(policy, trajectories)
    logits = logits_of(policy, trajectories.states())
    return ops.gfn_trajectory_log_prob(logits, trajectories.actions, trajectories.initial)


def transition_log_prob(policy: nn.Module, trajectories: Trajectories) -> tuple[Tensor, Tensor]:
    """log P_F(s_{t+1} | s_t) and log P_B(s_t | s_{t+1}) of every step, (B, T) each, in nats.

    For losses that need more than the sums: detailed balance and sub-trajectory balance. All states pass through the
    policy in one batch, with autograd.

    Args, Raises: as :func:`trajectory_log_prob`.
    """
    states = trajectories.states()
    logits = logits_of(policy, states)
    # Each transition is a trajectory of one step from its own initial state.
    pairs = torch.stack([logits[:, :-1], logits[:, 1:]], 2)
    return ops.gfn_trajectory_log_prob(pairs, trajectories.actions.unsqueeze(-1), states[:, :-1])
