"""Log-probabilities of trajectories of generative flow networks.

A state has D entries, each void (-1), 0 or 1. Forward action a = 2 location + bit sets a void entry; a backward action,
a location, erases a set one. The policy's 3D logits at a state are those of P_F over the 2D forward actions, then those
of P_B over the D locations; both are softmaxes over the actions that are valid at the state.

In the references, invalid input gives NaN, as on CUDA. Sources:
  [GFN]    Zhang et al., Generative Flow Networks for Discrete Probabilistic Modeling, ICML 2022, section 3.
  [TB]     Malkin et al., Trajectory balance: Improved credit assignment in GFlowNets, NeurIPS 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from svgdx._checks import wide
from svgdx.ops.registration.dispatch import Op

__all__ = ["gfn_trajectory_log_prob", "linear_trajectory_log_prob", "masked_trajectory_log_prob"]

Grads = tuple[Tensor | None, ...]


def gfn_trajectory_log_prob(
    logits: Tensor, actions: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of trajectories under the forward and the backward policy.

    log_pf = sum_{t<T} log P_F(s_{t+1} | s_t),   log_pb = sum_{t<T} log P_B(s_t | s_{t+1}),

    where the valid actions of each state are derived from the actions, without forming masks or copying the logits. A
    full trajectory has T = D steps from the void state, a local one T < D steps from any state.

    Args:
        logits: the policy's logits at s_0 .. s_T, (..., T+1, 3D); float32, float64, bfloat16 or float16 (the last two
            are summed in float32). The P_F part of row T and the P_B part of row 0 are not read. Autocast does not
            apply.
        actions: forward actions 2 location + bit in the order in which they are taken, (..., T), int64.
        initial_state: s_0 with entries -1 (void), 0 and 1, (..., D), int8; None means all void.

    Returns:
        log_pf and log_pb, (...), in nats; float32, or float64 for float64 logits. Differentiable once in logits; the
        gradient for an invalid action's logit is exactly zero.

    Raises:
        TypeError: if an argument is not a tensor.
        RuntimeError: if a shape, dtype or device does not match, or, on the CPU, if an action is out of range or sets a
            location that is already set, or if an entry of initial_state is not -1, 0 or 1 (on CUDA that trajectory and
            its gradient are NaN).

    Source: Zhang et al., Generative Flow Networks for Discrete Probabilistic Modeling, ICML 2022, section 3; Malkin et
    al., Trajectory balance, NeurIPS 2022, eq. 11.
    """
    log_pf, log_pb, _ = _trajectory.checked(logits, actions, initial_state)
    return log_pf, log_pb


def gfn_trajectory_log_prob_reference(
    logits: Tensor, actions: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the two sums of the trajectory balance loss, [GFN] eq. 5, [TB] eq. 11:

    log_pf = sum_{t<T} log P_F(s_{t+1} | s_t),   log_pb = sum_{t<T} log P_B(s_t | s_{t+1}).

    Shapes: logits (..., T+1, 3D); actions (..., T) int64; initial_state (..., D) int8, None means all void; results
    (...).
    """
    _trajectory.signature.bind(logits, actions, initial_state)
    return _log_probs(wide(logits), actions, initial_state)


def linear_trajectory_log_prob(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, actions: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`gfn_trajectory_log_prob` for the logits hidden weight^T + bias, without storing all of them at once.

    The policy's last layer is computed in blocks of rows, and again in the backward pass.

    Args:
        hidden: activations before the last layer at s_0 .. s_T, (..., T+1, H); float32, float64, bfloat16 or float16
            (for the last two, the logits have the same dtype, while softmaxes and sums are float32).
        weight: (3D, H), dtype and device of hidden.
        bias: (3D,), dtype and device of hidden, or None.
        actions, initial_state: as in :func:`gfn_trajectory_log_prob`.

    Returns:
        log_pf and log_pb as in :func:`gfn_trajectory_log_prob`. Differentiable once in hidden, weight and bias.

    Raises:
        TypeError, RuntimeError: as in :func:`gfn_trajectory_log_prob`.

    Source: Zhang et al., Generative Flow Networks for Discrete Probabilistic Modeling, ICML 2022, section 3.
    """
    log_pf, log_pb, _ = _linear.checked(hidden, weight, bias, actions, initial_state)
    return log_pf, log_pb


def linear_trajectory_log_prob_reference(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, actions: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`gfn_trajectory_log_prob` for the logits hidden weight^T + bias, where the layer is the policy's last one.

    Shapes: hidden (..., T+1, H); weight (3D, H); bias (3D,) or None; other arguments and results as there.
    """
    _linear.signature.bind(hidden, weight, bias, actions, initial_state)
    logits = torch.nn.functional.linear(wide(hidden), wide(weight), None if bias is None else wide(bias))
    return _log_probs(logits, actions, initial_state)


def masked_trajectory_log_prob(logits: Tensor, mask: Tensor, actions: Tensor, offsets: Tensor) -> Tensor:
    """Log-probabilities of ragged trajectories under any masked categorical policy.

    out_b is the sum over rows offsets[b] <= n < offsets[b+1] of log softmax_{mask_n}(logits_n)[actions_n].

    Args:
        logits: one row per step of the concatenated trajectories, (N, A); float32, float64, bfloat16 or float16 (the
            last two are summed in float32). Autocast does not apply.
        mask: True for allowed actions, (N, A), bool.
        actions: the actions taken, (N,), int64, in [0, A).
        offsets: the first row of each trajectory, then N: (B+1,), int64, starting at 0, non-decreasing.

    Returns:
        The log-probabilities, (B,), in nats; float32, or float64 for float64 logits; zero for a trajectory without
        steps. Differentiable once in logits; the gradient for a masked logit is exactly zero.

    Raises:
        TypeError: if an argument is not a tensor.
        RuntimeError: if a shape, dtype or device does not match, or, on the CPU, if an action is out of range or
            masked, or if offsets decrease, do not start at 0 or do not end at N. On CUDA the trajectory of that action
            is NaN, or all trajectories if the offsets are invalid.

    Source: Malkin et al., Trajectory balance, NeurIPS 2022, eq. 11.
    """
    log_prob: Tensor = _masked.checked(logits, mask, actions, offsets)[0]
    return log_prob


def masked_trajectory_log_prob_reference(logits: Tensor, mask: Tensor, actions: Tensor, offsets: Tensor) -> Tensor:
    """Sum log softmax over the allowed actions for ragged trajectories; trajectory b has the rows
    offsets[b] <= n < offsets[b+1].

    Shapes: logits and mask (N, A); actions (N,) int64; offsets (B+1,) int64, non-decreasing from 0 to N; result (B,).
    """
    _masked.signature.bind(logits, mask, actions, offsets)
    (rows, width), batch = logits.shape, offsets.shape[0] - 1
    row_log_prob = wide(logits)[:, :0].sum(-1)
    if width > 0:
        index = actions.clamp(0, width - 1)[:, None]
        allowed = mask.gather(-1, index)[:, 0] & (actions >= 0) & (actions < width)
        row_log_prob = or_nan(allowed, log_softmax(wide(logits), mask).gather(-1, index)[:, 0])
    if batch == 0:
        return row_log_prob[:0]
    segment = torch.searchsorted(offsets.contiguous(), torch.arange(rows, device=logits.device), right=True) - 1
    consistent = (offsets[0] == 0) & (offsets[-1] == rows) & (offsets.diff() >= 0).all()
    total = row_log_prob.new_zeros(batch).index_add(0, segment.clamp(0, batch - 1), row_log_prob)
    return or_nan(consistent, total)


def _log_probs(logits: Tensor, actions: Tensor, initial_state: Tensor | None) -> tuple[Tensor, Tensor]:
    dim, steps = logits.shape[-1] // 3, actions.shape[-1]
    initial = actions.new_full((*actions.shape[:-1], dim), -1) if initial_state is None else initial_state
    if dim == 0:
        empty = or_nan((actions != actions).all(-1), logits.sum((-2, -1)))  # no action is valid
        return empty, empty.clone()
    t = torch.arange(steps, device=logits.device)
    location = actions.clamp(0, 2 * dim - 1) // 2
    # The step that sets each location: -1 if it is set from the start, T if it stays void.
    never = torch.where(initial == -1, steps, -1)
    set_time = never.scatter(-1, location, t.expand_as(location))
    times_set = (initial != -1).long().scatter_add(-1, location, torch.ones_like(location))
    in_range = ((actions >= 0) & (actions < 2 * dim)).all(-1)
    valid = in_range & (times_set <= 1).all(-1) & are_states(initial)

    void = (set_time[..., None, :] >= t[:, None]).repeat_interleave(2, -1)  # at s_t
    filled = set_time[..., None, :] <= t[:, None]  # at s_{t+1}
    forward = log_softmax(logits[..., :-1, : 2 * dim], void).gather(-1, actions.clamp(0, 2 * dim - 1)[..., None])
    backward = log_softmax(logits[..., 1:, 2 * dim :], filled).gather(-1, location[..., None])
    return or_nan(valid, forward[..., 0].sum(-1)), or_nan(valid, backward[..., 0].sum(-1))


def log_softmax(logits: Tensor, valid: Tensor) -> Tensor:
    """Log-softmax over the valid entries of the last dimension; the others get -inf and no gradient."""
    return logits.masked_fill(~valid, -torch.inf).log_softmax(-1)


def are_states(state: Tensor) -> Tensor:
    """Whether all entries of each state are -1, 0 or 1."""
    return ((state >= -1) & (state <= 1)).all(-1)


def or_nan(valid: Tensor, value: Tensor) -> Tensor:
    """Replace invalid values by NaN, through a factor, so that their gradient is NaN as well."""
    return value * torch.where(valid, 1.0, torch.nan).to(value.dtype)


def _trajectory_formula(
    inputs: Sequence[Any], needs: Sequence[bool], grad_log_pf: Tensor | None, grad_log_pb: Tensor | None, _: None
) -> Grads:
    return _trajectory_backward(grad_log_pf, grad_log_pb, *inputs), None, None


def _linear_formula(
    inputs: Sequence[Any], needs: Sequence[bool], grad_log_pf: Tensor | None, grad_log_pb: Tensor | None, _: None
) -> Grads:
    return *_linear_backward(grad_log_pf, grad_log_pb, *inputs), None, None


def _masked_formula(inputs: Sequence[Any], needs: Sequence[bool], grad: Tensor, _: None) -> Grads:
    return _masked_backward(grad, *inputs), None, None, None


_trajectory = Op(
    "gfn_trajectory_log_prob_forward",
    "logits[*,T+1,3D] actions[*,T]i64 initial_state[*,D]i8? -> log_pf[*]c log_pb[*]c normalizers[*,T+1,2]c",
    _trajectory_formula,
    keeps=True,
    autocast=False,
)
_trajectory_backward = _trajectory.backward("logits", "logits actions initial_state normalizers")
_linear = Op(
    "linear_trajectory_log_prob_forward",
    "hidden[*,T+1,H] weight[3D,H] bias[3D]? actions[*,T]i64 initial_state[*,D]i8?"
    " -> log_pf[*]c log_pb[*]c normalizers[*,T+1,2]c",
    _linear_formula,
    keeps=True,
    autocast=False,
)
_linear_backward = _linear.backward("hidden weight bias", "hidden weight bias actions initial_state normalizers")
_masked = Op(
    "masked_trajectory_log_prob_forward",
    "logits[N,A] mask[N,A]b8 actions[N]i64 offsets[B+1]i64 -> log_prob[B]c normalizers[N]c",
    _masked_formula,
    keeps=True,
    autocast=False,
)
_masked_backward = _masked.backward("logits", "logits mask actions offsets normalizers")
