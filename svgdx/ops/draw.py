"""Random numbers, and draws of actions of generative flow networks over binary vectors.

States, actions and logits are those of svgdx/ops/trajectory.py.

The references return action -1 and NaN for invalid input, as on CUDA. Sources:
  [GFN]    Zhang et al., Generative Flow Networks for Discrete Probabilistic Modeling, ICML 2022, section 3.
  [PHILOX] Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011: Philox4x32-10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from svgdx import _checks
from svgdx._checks import wide
from svgdx.ops.philox import (
    arranged,
    fraction53,
    normals_float32,
    normals_float64,
    philox,
    seed_and_offset,
    times_fraction,
    words_for,
)
from svgdx.ops.registration.dispatch import Keyed
from svgdx.ops.trajectory import are_states, log_softmax

__all__ = ["gfn_sample_backward", "gfn_sample_forward", "integers", "normal", "uniform"]

Draw = tuple[Tensor, Tensor, Tensor]


def uniform(like: Tensor, seed: int | Tensor, offset: int) -> Tensor:
    """Independent uniform numbers in [0, 1).

    A number depends only on seed, offset and the element's index in row-major order; it is the same on CPU and CUDA and
    for any number of threads. Use another offset for a new draw. Under vmap, the mapped dimension is one more leading
    dimension.

    Args:
        like: tensor with the shape, dtype (float32, float64, bfloat16 or float16) and device of the result; its values
            are not read.
        seed: any 64-bit integer; or a key on the device of like, (2,) int64: the seed, and a number that is added to
            offset. A captured CUDA graph reads a key at each replay.
        offset: any 64-bit integer.

    Returns:
        Multiples of 2^-24, of 2^-53, 2^-8 and 2^-11 for the dtypes in the order above, contiguous. Not differentiable.

    Raises:
        TypeError: if like is not a tensor.
        RuntimeError: if like is not floating-point, or a key has another shape, dtype or device.

    Source: Philox4x32-10, Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
    """
    numbers: Tensor = _uniform.checked(like, seed, offset)
    return numbers


def uniform_reference(like: Tensor, seed: int | Tensor, offset: int) -> Tensor:
    """Uniform numbers in [0, 1) with the shape, dtype and device of ``like``.

    They are the upper bits of a Philox word, or of two for float64, [PHILOX].
    """
    _uniform.check(like, seed, offset)
    if like.dtype == torch.float64:
        words = words_for(like, 2, seed, offset)
        return arranged([fraction53(words[1], words[0]), fraction53(words[3], words[2])], like)
    bits = {torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}[like.dtype]
    words = words_for(like, 4, seed, offset)
    return arranged([(word >> 32 - bits).float() * 2.0**-bits for word in words], like).to(like.dtype)


def normal(like: Tensor, seed: int | Tensor, offset: int) -> Tensor:
    """Independent numbers from the standard normal distribution.

    Arguments and errors as in :func:`uniform`. The numbers are the same, to the bit, on CPU and CUDA.

    Returns:
        Numbers of at most 6.55 in magnitude, or 8.65 for float64, contiguous; half precision is rounded from float32.
        Not differentiable.

    Source: Box & Muller, A Note on the Generation of Random Normal Deviates, 1958; random words as in :func:`uniform`.
    """
    numbers: Tensor = _normal.checked(like, seed, offset)
    return numbers


def normal_reference(like: Tensor, seed: int | Tensor, offset: int) -> Tensor:
    """Standard normal numbers with the shape, dtype and device of ``like``: r cos a and r sin a with r^2 = -2 ln u.

    Each pair takes two Philox words, four for float64, [PHILOX]: u from the first, the angle a from the second.
    """
    _normal.check(like, seed, offset)
    if like.dtype == torch.float64:
        return arranged(normals_float64(words_for(like, 2, seed, offset)), like)
    return arranged(normals_float32(words_for(like, 4, seed, offset)), like).to(like.dtype)


def integers(like: Tensor, bound: int, seed: int | Tensor, offset: int) -> Tensor:
    """Independent integers from 0 to bound - 1, with the shape and device of ``like``.

    Args:
        like: tensor of any dtype; its values are not read.
        bound: from 1 to 2^32.
        seed, offset: as in :func:`uniform`.

    Returns:
        int64, contiguous. One integer is more likely than another by at most a factor of 1 + bound / 2^64.

    Raises:
        TypeError: if like is not a tensor, or bound is not an integer.
        ValueError: if bound is out of range.
        RuntimeError: if a key has another shape, dtype or device.

    Source: random words as in :func:`uniform`.
    """
    numbers: Tensor = _integers.checked(like, _bound(bound), seed, offset)
    return numbers


def integers_reference(like: Tensor, bound: int, seed: int | Tensor, offset: int) -> Tensor:
    """Integers floor(bound r) with the shape and device of ``like``, r a fraction of two Philox words, [PHILOX]."""
    _integers.check(like, _bound(bound), seed, offset)
    words = words_for(like, 2, seed, offset)
    total = torch.full_like(words[0], bound)
    return arranged([times_fraction(total, words[0], words[1]), times_fraction(total, words[2], words[3])], like)


def gfn_sample_forward(
    logits: Tensor, state: Tensor, seed: int | Tensor, offset: int, temperature: float = 1.0, epsilon: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a forward action for each state and take it: mask, softmax, draw and state update in one pass.

    With probability epsilon the action is drawn uniformly from the valid ones, otherwise from
    softmax(logits / temperature), where an action 2^30 times less likely than the likeliest is never drawn. The draw
    depends only on seed, offset and the row's index in the flattened leading dimensions, and is the same on CPU and
    CUDA; use another offset for a new draw. Under vmap, the mapped dimension is one more leading dimension.

    Args:
        logits: the policy's logits, (..., 3D); float32, float64, bfloat16 or float16. Autocast does not apply.
        state: entries -1 (void), 0 and 1, with at least one void entry per row, (..., D), int8.
        seed: any 64-bit integer; or a key on the device of logits, (2,) int64: the seed, and a number that is added to
            offset. A captured CUDA graph reads a key at each replay.
        offset: any 64-bit integer.
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
    _check_policy("gfn_sample_forward", temperature, epsilon)
    draw: Draw = _sample_forward.checked(logits, state, seed, offset, temperature, epsilon)
    return draw


def gfn_sample_forward_reference(
    logits: Tensor, state: Tensor, seed: int | Tensor, offset: int, temperature: float = 1.0, epsilon: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a forward action a ~ softmax(logits / temperature) or, with probability epsilon, a uniform one; return it,
    log P_F(a | s) at temperature 1 and epsilon 0, and the next state. [GFN] section 3.1.

    The draw depends only on seed, offset and row, and is the same on every backend, [PHILOX]. Not differentiable.

    Shapes: logits (..., 3D); state (..., D) int8; results (...) int64, (...) and (..., D) int8.
    """
    _sample_forward.check(logits, state, seed, offset, temperature, epsilon)
    valid = (state == -1).repeat_interleave(2, -1)
    forward_logits = wide(logits.detach())[..., : 2 * state.shape[-1]]
    action, log_prob = _sample(forward_logits, valid, state, seed, offset, temperature, epsilon)
    return action, log_prob, _with_entry(state, action.div(2, rounding_mode="floor"), action % 2, action >= 0)


def gfn_sample_backward(
    logits: Tensor, state: Tensor, seed: int | Tensor, offset: int, temperature: float = 1.0, epsilon: float = 0.0
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
    _check_policy("gfn_sample_backward", temperature, epsilon)
    draw: Draw = _sample_backward.checked(logits, state, seed, offset, temperature, epsilon)
    return draw


def gfn_sample_backward_reference(
    logits: Tensor, state: Tensor, seed: int | Tensor, offset: int, temperature: float = 1.0, epsilon: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a location to erase from P_B, as :func:`gfn_sample_forward` draws from P_F.

    Shapes: logits (..., 3D); state (..., D) int8; results (...) int64, (...) and (..., D) int8.
    """
    _sample_backward.check(logits, state, seed, offset, temperature, epsilon)
    backward_logits = wide(logits.detach())[..., 2 * state.shape[-1] :]
    location, log_prob = _sample(backward_logits, state >= 0, state, seed, offset, temperature, epsilon)
    return location, log_prob, _with_entry(state, location, torch.full_like(location, -1), location >= 0)


def _check_policy(op: str, temperature: float, epsilon: float) -> None:
    _checks.number(op, "temperature", temperature, positive=True)
    if not 0.0 <= _checks.number(op, "epsilon", epsilon, positive=False) <= 1.0:
        raise ValueError(f"svgdx::{op}: epsilon must be in [0, 1], but is {epsilon}")


def _bound(bound: int) -> int:
    bound = _checks.integer("svgdx::integers", "bound", bound)
    if not 0 < bound <= 2**32:
        raise ValueError(f"svgdx::integers: bound must be from 1 to 2^32, but is {bound}")
    return bound


def _sample(
    logits: Tensor, valid: Tensor, state: Tensor, seed: int | Tensor, offset: int, temperature: float, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Draw an action; return it and its log-probability at temperature 1, or -1 and NaN if nothing can be drawn."""
    if logits.shape[-1] == 0:
        log_prob = logits.new_full(logits.shape[:-1], torch.nan)
        return torch.full_like(log_prob, -1, dtype=torch.int64), log_prob
    allowed = logits.masked_fill(~valid, -math.inf)
    largest = allowed.amax(-1, keepdim=True)
    possible = are_states(state) & largest.isfinite()[..., 0]
    seed, high = seed_and_offset(seed, offset)
    words = philox(seed, torch.arange(possible.numel(), device=logits.device).view(possible.shape), high)
    uniform = (words[2] >> 8).float() * 2.0**-24 < _float32(epsilon, logits.device)
    weight = torch.where(uniform[..., None], 1, draw_weight(allowed - largest, temperature)) * valid
    cumulative = weight.cumsum(-1)
    threshold = times_fraction(cumulative[..., -1], words[0], words[1])
    action = (cumulative <= threshold[..., None]).sum(-1).clamp(max=logits.shape[-1] - 1)
    log_prob = log_softmax(logits, valid).gather(-1, action[..., None])[..., 0]
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


def _with_entry(state: Tensor, location: Tensor, entry: Tensor, possible: Tensor) -> Tensor:
    if state.shape[-1] == 0:
        return state.clone()
    index = location.clamp(min=0)[..., None]
    value = torch.where(possible, entry, state.gather(-1, index)[..., 0])
    return state.scatter(-1, index, value.to(torch.int8)[..., None])


def _float32(value: float, device: torch.device) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device=device)


def _sample_op(name: str) -> Keyed:
    def limit(sizes: dict[str, Any], values: Sequence[Any]) -> None:
        _check_policy(name, values[4], values[5])

    line = "logits[*,3D] state[*,D]i8 seed offset temperature epsilon -> action[*]i64 log_prob[*]c next_state[*,D]i8"
    return Keyed(name, line, autocast=False, limit=limit)


_uniform = Keyed("uniform", "like[*] seed offset -> numbers[*]", autocast=False)
_normal = Keyed("normal", "like[*] seed offset -> numbers[*]", autocast=False)
_integers = Keyed("integers", "like[*]any bound seed offset -> numbers[*]i64", autocast=False)
_sample_forward = _sample_op("gfn_sample_forward")
_sample_backward = _sample_op("gfn_sample_backward")
