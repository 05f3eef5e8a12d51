"""Generative flow networks over binary vectors: log-probabilities of trajectories, and draws of actions.

A state has D entries, each void (-1), 0 or 1. Forward action a = 2 location + bit sets a void entry; a backward action,
a location, erases a set one. The policy's 3D logits at a state are those of P_F over the 2D forward actions, then those
of P_B over the D locations; both are softmaxes over the actions that are valid at the state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from svgdx import _checks
from svgdx._dtype import compute_dtype
from svgdx.ops._register import NUMBER, PLAIN, SHARED, Op

__all__ = [
    "gfn_sample_backward",
    "gfn_sample_forward",
    "gfn_trajectory_log_prob",
    "linear_trajectory_log_prob",
    "masked_trajectory_log_prob",
]

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
    op = "gfn_trajectory_log_prob"
    _checks.tensor(op, "logits", logits)
    _trajectory_tensors(op, actions, initial_state)
    log_pf, log_pb, _ = _trajectory(logits, actions, initial_state)
    return log_pf, log_pb


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
    op = "linear_trajectory_log_prob"
    _checks.tensor(op, "hidden", hidden)
    _checks.tensor(op, "weight", weight)
    if bias is not None:
        _checks.tensor(op, "bias", bias)
    _trajectory_tensors(op, actions, initial_state)
    log_pf, log_pb, _ = _linear(hidden, weight, bias, actions, initial_state)
    return log_pf, log_pb


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
            masked, or if offsets decrease, do not start at 0 or do not end at N (on CUDA that trajectory is NaN).

    Source: Malkin et al., Trajectory balance, NeurIPS 2022, eq. 11.
    """
    op = "masked_trajectory_log_prob"
    for name, value in (("logits", logits), ("mask", mask), ("actions", actions), ("offsets", offsets)):
        _checks.tensor(op, name, value)
    return _masked(logits, mask, actions, offsets)[0]


def gfn_sample_forward(
    logits: Tensor, state: Tensor, seed: int, offset: int, temperature: float = 1.0, epsilon: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a forward action for each state and take it: mask, softmax, draw and state update in one pass.

    With probability epsilon the action is drawn uniformly from the valid ones, otherwise from
    softmax(logits / temperature), where an action 2^30 times less likely than the likeliest is never drawn. The draw
    depends only on seed, offset and the row's index in the flattened leading dimensions, and is the same on CPU and
    CUDA; use another offset for a new draw. Under vmap, the mapped dimension is one more leading dimension.

    Args:
        logits: the policy's logits, (..., 3D); float32, float64, bfloat16 or float16. Autocast does not apply.
        state: entries -1 (void), 0 and 1, with at least one void entry per row, (..., D), int8.
        seed, offset: any 64-bit integers.
        temperature: positive and finite.
        epsilon: in [0, 1].

    Returns:
        The action 2 location + bit, (...), int64; log P_F(action | state) under the policy itself, i.e. at temperature
        1 and epsilon 0, (...), in nats, float32, or float64 for float64 logits; and the next state, (..., D), int8. Not
        differentiable.

    Raises:
        TypeError: if logits or state is not a tensor, or temperature or epsilon is not a number.
        ValueError: if temperature or epsilon is out of range.
        RuntimeError: if a shape, dtype or device does not match, or, on the CPU, if a state has no void entry or an
            entry other than -1, 0 or 1, or if the logits of its valid actions contain a NaN or +inf or are all -inf (on
            CUDA that row's action is -1, its log-probability NaN, and its state unchanged).

    Source: Zhang et al., Generative Flow Networks for Discrete Probabilistic Modeling, ICML 2022, section 3; random
    words by Philox4x32-10, Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
    """
    _sample_arguments("gfn_sample_forward", logits, state, temperature, epsilon)
    return _sample_forward(logits, state, seed, offset, temperature, epsilon)


def gfn_sample_backward(
    logits: Tensor, state: Tensor, seed: int, offset: int, temperature: float = 1.0, epsilon: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a location to erase for each state from the backward policy, and erase it.

    Args:
        logits, seed, offset, temperature, epsilon: as in :func:`gfn_sample_forward`.
        state: entries -1 (void), 0 and 1, with at least one set entry per row, (..., D), int8.

    Returns:
        The location, (...), int64; log P_B(location | state) and the next state as in :func:`gfn_sample_forward`.

    Raises:
        TypeError, ValueError, RuntimeError: as in :func:`gfn_sample_forward`, with "set" instead of "void".

    Source: as in :func:`gfn_sample_forward`.
    """
    _sample_arguments("gfn_sample_backward", logits, state, temperature, epsilon)
    return _sample_backward(logits, state, seed, offset, temperature, epsilon)


def _trajectory_tensors(op: str, actions: object, initial_state: object) -> None:
    _checks.tensor(op, "actions", actions)
    if initial_state is not None:
        _checks.tensor(op, "initial_state", initial_state)


def _sample_arguments(op: str, logits: object, state: object, temperature: float, epsilon: float) -> None:
    _checks.tensor(op, "logits", logits)
    _checks.tensor(op, "state", state)
    _checks.draw(op, temperature, epsilon)


def _sums_fake(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Empty log_pf, log_pb and normalizers for rows (..., T+1, any)."""
    lead, dtype = rows.shape[:-2], compute_dtype(rows)
    normalizers = rows.new_empty((*rows.shape[:-1], 2), dtype=dtype)
    return rows.new_empty(lead, dtype=dtype), rows.new_empty(lead, dtype=dtype), normalizers


def _trajectory_fake(
    logits: Tensor, actions: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    op = "gfn_trajectory_log_prob"
    _checks.trajectory(op, "logits", logits, _checks.trajectory_logits(op, logits), actions, initial_state)
    return _sums_fake(logits)


def _trajectory_backward_fake(
    grad_log_pf: Tensor | None,
    grad_log_pb: Tensor | None,
    logits: Tensor,
    actions: Tensor,
    initial_state: Tensor | None,
    normalizers: Tensor,
) -> Tensor:
    return logits.new_empty(logits.shape)


_trajectory_backward = Op(
    "gfn_trajectory_log_prob_backward", _trajectory_backward_fake, (NUMBER, NUMBER, 2, 1, 1, 2), gradient_of=(2,)
)


def _trajectory_formula(
    inputs: Sequence[Any], needs: Sequence[bool], grad_log_pf: Tensor | None, grad_log_pb: Tensor | None, _: None
) -> Grads:
    return _trajectory_backward(grad_log_pf, grad_log_pb, *inputs), None, None


_trajectory = Op(
    "gfn_trajectory_log_prob_forward", _trajectory_fake, (2, 1, 1), _trajectory_formula, keeps=True, autocast=False
)


def _linear_fake(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, actions: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    op = "linear_trajectory_log_prob"
    _checks.trajectory(op, "hidden", hidden, _checks.linear_layer(op, hidden, weight, bias), actions, initial_state)
    return _sums_fake(hidden)


def _linear_backward_fake(
    grad_log_pf: Tensor | None,
    grad_log_pb: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    actions: Tensor,
    initial_state: Tensor | None,
    normalizers: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_bias = hidden.new_empty((0,) if bias is None else bias.shape)
    return hidden.new_empty(hidden.shape), weight.new_empty(weight.shape), grad_bias


_linear_backward = Op(
    "linear_trajectory_log_prob_backward",
    _linear_backward_fake,
    (NUMBER, NUMBER, 2, SHARED, SHARED, 1, 1, 2),
    gradient_of=(2, 3, 4),
)


def _linear_formula(
    inputs: Sequence[Any], needs: Sequence[bool], grad_log_pf: Tensor | None, grad_log_pb: Tensor | None, _: None
) -> Grads:
    return *_linear_backward(grad_log_pf, grad_log_pb, *inputs), None, None


_linear = Op(
    "linear_trajectory_log_prob_forward",
    _linear_fake,
    (2, SHARED, SHARED, 1, 1),
    _linear_formula,
    keeps=True,
    autocast=False,
)


def _masked_fake(logits: Tensor, mask: Tensor, actions: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    _checks.masked_rows("masked_trajectory_log_prob", logits, mask, actions, offsets)
    dtype = compute_dtype(logits)
    return logits.new_empty(offsets.shape[0] - 1, dtype=dtype), logits.new_empty(logits.shape[0], dtype=dtype)


def _masked_backward_fake(
    grad: Tensor, logits: Tensor, mask: Tensor, actions: Tensor, offsets: Tensor, normalizers: Tensor
) -> Tensor:
    return logits.new_empty(logits.shape)


_masked_backward = Op("masked_trajectory_log_prob_backward", _masked_backward_fake, (SHARED,) * 6, gradient_of=(1,))


def _masked_formula(inputs: Sequence[Any], needs: Sequence[bool], grad: Tensor, _: None) -> Grads:
    return _masked_backward(grad, *inputs), None, None, None


_masked = Op(
    "masked_trajectory_log_prob_forward", _masked_fake, (SHARED,) * 4, _masked_formula, keeps=True, autocast=False
)


def _sample_op(name: str) -> Op:
    def fake(
        logits: Tensor, state: Tensor, seed: int, offset: int, temperature: float = 1.0, epsilon: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        _checks.policy_row(name, logits, state)
        _checks.draw(name, temperature, epsilon)
        lead = logits.shape[:-1]
        action, log_prob = state.new_empty(lead, dtype=torch.int64), logits.new_empty(lead, dtype=compute_dtype(logits))
        return action, log_prob, state.new_empty(state.shape)

    return Op(name, fake, (1, 1, PLAIN, PLAIN, PLAIN, PLAIN), autocast=False)


_sample_forward = _sample_op("gfn_sample_forward")
_sample_backward = _sample_op("gfn_sample_backward")
