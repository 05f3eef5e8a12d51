"""Losses of GFlowNets, one number per trajectory; training minimises their mean, weighted or not.

Each is zero on all trajectories only if the policy samples complete states in proportion to the reward. Gradients flow
into the reward too, so callers detach it to hold it constant. The log reward -inf, of a reward of zero, has a loss
without a gradient: it is refused, unless log_reward_clip_min puts a floor under the log rewards.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch
from torch import Tensor

from svgdx import _checks


def trajectory_balance(
    log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, log_z: Tensor | float, log_reward_clip_min: float | None = None
) -> Tensor:
    """Computes (log Z + log P_F(tau) - log P_B(tau | x) - log R(x))^2.

    Args:
        log_pf, log_pb: sums over the steps of each trajectory, (B), in nats.
        log_reward: of the final states of the trajectories, (B), in nats.
        log_z: the learnt log partition function: a number, a tensor with one element, or one per trajectory, (B).
        log_reward_clip_min: floor of the log rewards, in nats, finite, for rewards that may be zero. A clipped reward
            is a constant. None: no floor.

    Returns:
        Losses (B) in nats squared.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: shapes differ (only a trailing dimension of size 1, as in (B, 1), is dropped), or a log reward is
            NaN, infinite or, without a floor, -inf; the message names its rows.

    Source: Malkin et al., Trajectory balance, NeurIPS 2022, eq. 14; Zhang et al., ICML 2022, eq. 5.
    """
    loss = "trajectory_balance"
    log_pf, log_pb, log_reward = _of_trajectories(loss, log_pf, log_pb, log_reward, log_reward_clip_min)
    return (_log_z(loss, log_z, log_pf) + log_pf - log_pb - log_reward).square()


def log_partition_variance(
    log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, log_reward_clip_min: float | None = None
) -> Tensor:
    """Computes the squared deviation of each trajectory's estimate of log Z from their mean (VarGrad).

    It needs no learnt log Z.

    Args:
        log_pf, log_pb, log_reward, log_reward_clip_min: as in :func:`trajectory_balance`; B is at least 2.

    Returns:
        Losses (B) in nats squared; their mean is the biased variance of log R - log P_F + log P_B over the batch.

    Raises:
        TypeError, ValueError: as :func:`trajectory_balance`.

    Source: Richter et al., VarGrad, NeurIPS 2020; Zhang et al., Robust Scheduling with GFlowNets, ICLR 2023, eq. 7.
    """
    log_pf, log_pb, log_reward = _of_trajectories(
        "log_partition_variance", log_pf, log_pb, log_reward, log_reward_clip_min
    )
    log_z = log_reward + log_pb - log_pf
    return (log_z - log_z.mean()).square()


def detailed_balance(
    log_pf: Tensor, log_pb: Tensor, log_flow: Tensor, log_reward: Tensor, log_reward_clip_min: float | None = None
) -> Tensor:
    """Averages (log F(s_t) + log P_F(s_{t+1}|s_t) - log F(s_{t+1}) - log P_B(s_t|s_{t+1}))^2 over the steps.

    Args:
        log_pf, log_pb: of every step, (B, T), T at least 1, from :func:`svgdx.gflownets.transition_log_prob`.
        log_flow: learnt log F at s_0 .. s_{T-1}, (B, T); the flow of the last state is its reward.
        log_reward: of the final states, (B).
        log_reward_clip_min: as in :func:`trajectory_balance`.

    Returns:
        Losses (B) in nats squared.

    Raises:
        TypeError, ValueError: as :func:`trajectory_balance`.

    Source: Bengio et al., GFlowNet Foundations, JMLR 2023, definition 11.
    """
    log_pf, log_pb, flow = _of_steps("detailed_balance", log_pf, log_pb, log_flow, log_reward, log_reward_clip_min)
    return (flow[..., :-1] + log_pf - flow[..., 1:] - log_pb).square().mean(-1)


def sub_trajectory_balance(
    log_pf: Tensor,
    log_pb: Tensor,
    log_flow: Tensor,
    log_reward: Tensor,
    lam: float = 0.9,
    log_reward_clip_min: float | None = None,
) -> Tensor:
    """Averages the squared balance of all sub-trajectories s_i .. s_j with weights lam^(j-i): SubTB(lambda).

    Args:
        log_pf, log_pb, log_flow, log_reward, log_reward_clip_min: as in :func:`detailed_balance`.
        lam: lambda > 0; the limits 0 and infinity are detailed balance and trajectory balance.

    Returns:
        Losses (B) in nats squared. Memory is that of (B, T) and one (T+1, T+1) matrix.

    Raises:
        TypeError, ValueError: as :func:`trajectory_balance`; ValueError also if lam is not positive.

    Source: Madan et al., Learning GFlowNets from partial episodes, ICML 2023, eq. 6.
    """
    if not lam > 0:
        raise ValueError(f"sub_trajectory_balance: lam must be positive, but is {lam}")
    log_pf, log_pb, flow = _of_steps(
        "sub_trajectory_balance", log_pf, log_pb, log_flow, log_reward, log_reward_clip_min
    )
    steps = log_pf.shape[-1]
    log_ratio = torch.nn.functional.pad((log_pf - log_pb).cumsum(-1), (1, 0))
    # The balance of s_i .. s_j is a_i - a_j; a common shift cancels and keeps the squares below small.
    a = flow - log_ratio
    a = a - a.mean(-1, keepdim=True).detach()
    time = torch.arange(steps + 1, device=a.device)
    length = time - time[:, None]
    # Weights relative to the largest, so that none overflows.
    longest = length.clamp(min=1) - (steps if lam > 1 else 1)
    weight = torch.where(length > 0, a.new_full((), lam) ** longest, 0)
    weight = weight / weight.sum()
    squares = a.square() @ (weight.sum(1) + weight.sum(0))
    return squares - 2 * ((a @ weight) * a).sum(-1)


def _of_trajectories(
    loss: str, log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, floor: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of a loss of whole trajectories, (B) each."""
    lead = log_pf.shape[:1] if isinstance(log_pf, Tensor) else ()
    if isinstance(log_pf, Tensor) and log_pf.shape not in (lead, (*lead, 1)):
        raise ValueError(f"{loss}: log_pf must have shape (B,), but has {tuple(log_pf.shape)}")
    log_pf = _checks.per_row(loss, "log_pf", log_pf, lead, "the trajectories")
    log_pb = _checks.per_row(loss, "log_pb", log_pb, lead, "log_pf")
    log_reward = _checks.per_row(loss, "log_reward", log_reward, lead, "log_pf")
    return log_pf, log_pb, _above(loss, log_reward, floor)


def _of_steps(
    loss: str, log_pf: Tensor, log_pb: Tensor, log_flow: Tensor, log_reward: Tensor, floor: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """log_pf and log_pb of a loss of single steps, (B, T), and the flow with the reward at its end, (B, T+1)."""
    if isinstance(log_pf, Tensor) and not (log_pf.dim() in (1, 2) or (log_pf.dim() == 3 and log_pf.shape[2] == 1)):
        raise ValueError(f"{loss}: log_pf must have shape (B, T), but has {tuple(log_pf.shape)}")
    steps = log_pf.shape[:2] if isinstance(log_pf, Tensor) else ()
    log_pf = _checks.per_row(loss, "log_pf", log_pf, steps, "the trajectories")
    log_pb = _checks.per_row(loss, "log_pb", log_pb, steps, "log_pf")
    log_flow = _checks.per_row(loss, "log_flow", log_flow, steps, "log_pf")
    log_reward = _checks.per_row(loss, "log_reward", log_reward, steps[:-1], "the rows of log_pf")
    if steps[-1] == 0:
        raise ValueError(f"{loss}: log_pf must have at least one step, but has shape {tuple(steps)}")
    log_reward = _above(loss, log_reward, floor)
    return log_pf, log_pb, torch.cat([log_flow, log_reward.unsqueeze(-1)], -1)


def _above(loss: str, log_reward: Tensor, floor: float | None) -> Tensor:
    """The log rewards (B), raised to the floor and finite."""
    if floor is not None:
        if isinstance(floor, (bool, str)) or not math.isfinite(floor):
            raise ValueError(f"{loss}: log_reward_clip_min must be finite, but is {floor}")
        log_reward = log_reward.clamp_min(floor)
    return _checks.finite_rows(loss, "log_reward", log_reward, "log_reward_clip_min=-100.0 puts a floor under -inf")


def _log_z(loss: str, log_z: Tensor | float, log_pf: Tensor) -> Tensor | float:
    value: Any = log_z
    if isinstance(value, numbers.Real) or (not isinstance(value, Tensor) and getattr(value, "shape", None) == ()):
        return float(value)
    if isinstance(log_z, Tensor) and log_z.numel() == 1 and log_z.dim() <= 2:
        return log_z.reshape(())
    return _checks.per_row(loss, "log_z", log_z, log_pf.shape, "log_pf")
