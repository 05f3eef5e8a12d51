"""Ops of generative flow networks that fill a binary vector entry by entry, [GFN].

Notation: a state s has D entries, each void (-1), 0 or 1. Forward action a = 2 location + bit sets a void entry;
backward action `location` erases a set one. The policy's 3D logits at s are those of P_F(.|s) over the 2D forward
actions, then those of P_B(.|s) over the D locations; both are softmaxes over the valid actions only. A trajectory
s_0 .. s_T is given by s_0 and its T forward actions.

Invalid input gives NaN, or action -1, as on CUDA.

Sources:
  [GFN]    Zhang et al., Generative Flow Networks for Discrete Probabilistic Modeling, ICML 2022, section 3.
  [TB]     Malkin et al., Trajectory balance: Improved credit assignment in GFlowNets, NeurIPS 2022.
  [PHILOX] Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011: Philox4x32-10.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from svgdx import _checks
from svgdx._dtype import wide

__all__ = [
    "gfn_sample_backward",
    "gfn_sample_forward",
    "gfn_trajectory_log_prob",
    "linear_trajectory_log_prob",
    "masked_trajectory_log_prob",
]


def gfn_trajectory_log_prob(
    logits: Tensor, actions: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the two sums of the trajectory balance loss, [GFN] eq. 5, [TB] eq. 11:

    log_pf = sum_{t<T} log P_F(s_{t+1} | s_t),   log_pb = sum_{t<T} log P_B(s_t | s_{t+1}).

    Shapes: logits (..., T+1, 3D); actions (..., T) int64; initial_state (..., D) int8, None means all void; results
    (...).
    """
    op = "gfn_trajectory_log_prob"
    _checks.trajectory(op, "logits", logits, _checks.trajectory_logits(op, logits), actions, initial_state)
    return _trajectory(wide(logits), actions, initial_state)


def linear_trajectory_log_prob(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, actions: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """:func:`gfn_trajectory_log_prob` for the logits hidden weight^T + bias, where the layer is the policy's last one.

    Shapes: hidden (..., T+1, H); weight (3D, H); bias (3D,) or None; other arguments and results as there.
    """
    op = "linear_trajectory_log_prob"
    _checks.trajectory(op, "hidden", hidden, _checks.linear_layer(op, hidden, weight, bias), actions, initial_state)
    logits = torch.nn.functional.linear(wide(hidden), wide(weight), None if bias is None else wide(bias))
    return _trajectory(logits, actions, initial_state)


def masked_trajectory_log_prob(logits: Tensor, mask: Tensor, actions: Tensor, offsets: Tensor) -> Tensor:
    """Sum log softmax over the allowed actions for ragged trajectories; trajectory b has the rows
    offsets[b] <= n < offsets[b+1].

    Shapes: logits and mask (N, A); actions (N,) int64; offsets (B+1,) int64, non-decreasing from 0 to N; result (B,).
    """
    _checks.masked_rows("masked_trajectory_log_prob", logits, mask, actions, offsets)
    (rows, width), batch = logits.shape, offsets.shape[0] - 1
    row_log_prob = wide(logits)[:, :0].sum(-1)
    if width > 0:
        index = actions.clamp(0, width - 1)[:, None]
        allowed = mask.gather(-1, index)[:, 0] & (actions >= 0) & (actions < width)
        row_log_prob = _or_nan(allowed, _log_softmax(wide(logits), mask).gather(-1, index)[:, 0])
    if batch == 0:
        return row_log_prob[:0]
    segment = torch.searchsorted(offsets.contiguous(), torch.arange(rows, device=logits.device), right=True) - 1
    consistent = (offsets[0] == 0) & (offsets[-1] == rows) & (offsets.diff() >= 0).all()
    total = row_log_prob.new_zeros(batch).index_add(0, segment.clamp(0, batch - 1), row_log_prob)
    return _or_nan(consistent, total)


def gfn_sample_forward(
    logits: Tensor, state: Tensor, seed: int, offset: int, temperature: float = 1.0, epsilon: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a forward action a ~ softmax(logits / temperature) or, with probability epsilon, a uniform one; return it,
    log P_F(a | s) at temperature 1 and epsilon 0, and the next state. [GFN] section 3.1.

    The draw depends only on seed, offset and row, and is the same on every backend, [PHILOX]. Not differentiable.

    Shapes: logits (..., 3D); state (..., D) int8; results (...) int64, (...) and (..., D) int8.
    """
    _checks.policy_row("gfn_sample_forward", logits, state)
    _checks.draw("gfn_sample_forward", temperature, epsilon)
    valid = (state == -1).repeat_interleave(2, -1)
    forward_logits = wide(logits.detach())[..., : 2 * state.shape[-1]]
    action, log_prob = _sample(forward_logits, valid, state, seed, offset, temperature, epsilon)
    return action, log_prob, _with_entry(state, action.div(2, rounding_mode="floor"), action % 2, action >= 0)


def gfn_sample_backward(
    logits: Tensor, state: Tensor, seed: int, offset: int, temperature: float = 1.0, epsilon: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a location to erase from P_B, as :func:`gfn_sample_forward` draws from P_F.

    Shapes: logits (..., 3D); state (..., D) int8; results (...) int64, (...) and (..., D) int8.
    """
    _checks.policy_row("gfn_sample_backward", logits, state)
    _checks.draw("gfn_sample_backward", temperature, epsilon)
    backward_logits = wide(logits.detach())[..., 2 * state.shape[-1] :]
    location, log_prob = _sample(backward_logits, state >= 0, state, seed, offset, temperature, epsilon)
    return location, log_prob, _with_entry(state, location, torch.full_like(location, -1), location >= 0)


def _trajectory(logits: Tensor, actions: Tensor, initial_state: Tensor | None) -> tuple[Tensor, Tensor]:
    dim, steps = logits.shape[-1] // 3, actions.shape[-1]
    initial = actions.new_full((*actions.shape[:-1], dim), -1) if initial_state is None else initial_state
    if dim == 0:
        empty = _or_nan((actions != actions).all(-1), logits.sum((-2, -1)))  # no action is valid
        return empty, empty.clone()
    t = torch.arange(steps, device=logits.device)
    location = actions.clamp(0, 2 * dim - 1) // 2
    # The step that sets each location: -1 if it is set from the start, T if it stays void.
    never = torch.where(initial == -1, steps, -1)
    set_time = never.scatter(-1, location, t.expand_as(location))
    times_set = (initial != -1).long().scatter_add(-1, location, torch.ones_like(location))
    in_range = ((actions >= 0) & (actions < 2 * dim)).all(-1)
    valid = in_range & (times_set <= 1).all(-1) & _are_states(initial)

    void = (set_time[..., None, :] >= t[:, None]).repeat_interleave(2, -1)  # at s_t
    filled = set_time[..., None, :] <= t[:, None]  # at s_{t+1}
    forward = _log_softmax(logits[..., :-1, : 2 * dim], void).gather(-1, actions.clamp(0, 2 * dim - 1)[..., None])
    backward = _log_softmax(logits[..., 1:, 2 * dim :], filled).gather(-1, location[..., None])
    return _or_nan(valid, forward[..., 0].sum(-1)), _or_nan(valid, backward[..., 0].sum(-1))


def _sample(
    logits: Tensor, valid: Tensor, state: Tensor, seed: int, offset: int, temperature: float, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Draw an action; return it and its log-probability at temperature 1, or -1 and NaN if nothing can be drawn."""
    if logits.shape[-1] == 0:
        log_prob = logits.new_full(logits.shape[:-1], torch.nan)
        return torch.full_like(log_prob, -1, dtype=torch.int64), log_prob
    allowed = logits.masked_fill(~valid, -math.inf)
    largest = allowed.amax(-1, keepdim=True)
    possible = _are_states(state) & largest.isfinite()[..., 0]
    words = philox(seed, torch.arange(possible.numel(), device=logits.device).view(possible.shape), offset)
    uniform = (words[2] >> 8).float() * 2.0**-24 < _float32(epsilon, logits.device)
    weight = torch.where(uniform[..., None], 1, draw_weight(allowed - largest, temperature)) * valid
    cumulative = weight.cumsum(-1)
    threshold = _times_fraction(cumulative[..., -1], words[0], words[1])
    action = (cumulative <= threshold[..., None]).sum(-1).clamp(max=logits.shape[-1] - 1)
    log_prob = _log_softmax(logits, valid).gather(-1, action[..., None])[..., 0]
    return torch.where(possible, action, -1), torch.where(possible, log_prob, torch.nan)


def draw_weight(below: Tensor, temperature: float) -> Tensor:
    """2^30 e^(below / temperature) as an integer, from float32 operations that round identically on every machine.

    2^y = 2^n 2^f, where n is the integer nearest to y; a degree-5 polynomial gives 2^f on [-1/2, 1/2], and n is added
    to the exponent.
    """
    scale = min(math.log2(math.e) / temperature, torch.finfo(torch.float32).max)
    y = below.float() * _float32(scale, below.device)
    y = torch.where(y > -32.0, y, -32.0)
    n = (y + 12582912.0) - 12582912.0  # 1.5 * 2^23: the sum has no bits for a fraction
    f = y - n
    power = torch.full_like(f, 1.3264727e-3)
    for coefficient in (9.6715130e-3, 5.5507336e-2, 2.4022242e-1, 6.9314700e-1, 1.0):
        power = power * f
        power = power + coefficient
    return (power.view(torch.int32) + (n.int() + 30) * 2**23).view(torch.float32).long()


def philox(seed: int, counter_low: Tensor, counter_high: int) -> tuple[Tensor, ...]:
    """Four 32-bit words, held as int64, for each counter: [PHILOX], key = seed, ten rounds."""
    low32 = 0xFFFFFFFF
    key = [seed & low32, seed >> 32 & low32]
    c = [counter_low & low32, counter_low >> 32 & low32]
    c += [torch.full_like(counter_low, word) for word in (counter_high & low32, counter_high >> 32 & low32)]
    for _ in range(10):
        # The 64-bit products may wrap to negative numbers, but their bits are correct.
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [b >> 32 & low32 ^ c[1] ^ key[0], b & low32, a >> 32 & low32 ^ c[3] ^ key[1], a & low32]
        key = [key[0] + 0x9E3779B9 & low32, key[1] + 0xBB67AE85 & low32]
    return tuple(c)


def _times_fraction(total: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """floor(total (2^32 high + low) / 2^64), 16 bits at a time, for total < 2^46."""
    result = torch.zeros_like(total)
    for word in (low, high):
        for limb in (word & 0xFFFF, word >> 16):
            result = result + limb * total >> 16
    return result


def _with_entry(state: Tensor, location: Tensor, entry: Tensor, possible: Tensor) -> Tensor:
    if state.shape[-1] == 0:
        return state.clone()
    index = location.clamp(min=0)[..., None]
    value = torch.where(possible, entry, state.gather(-1, index)[..., 0])
    return state.scatter(-1, index, value.to(torch.int8)[..., None])


def _log_softmax(logits: Tensor, valid: Tensor) -> Tensor:
    """Log-softmax over the valid entries of the last dimension; the others get -inf and no gradient."""
    return logits.masked_fill(~valid, -math.inf).log_softmax(-1)


def _are_states(state: Tensor) -> Tensor:
    return ((state >= -1) & (state <= 1)).all(-1)


def _or_nan(valid: Tensor, value: Tensor) -> Tensor:
    """Replace invalid values by NaN, through a factor, so that their gradient is NaN as well."""
    return value * torch.where(valid, 1.0, torch.nan).to(value.dtype)


def _float32(value: float, device: torch.device) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device=device)
