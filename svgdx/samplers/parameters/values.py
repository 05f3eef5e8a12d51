"""Positive parameters of a step, bandwidth or step size: fixed, learnt, or computed from the state by a module."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from svgdx._checks import one_of, sizes
from svgdx.ops.registration import inner
from svgdx.samplers.parameters import compiled
from svgdx.samplers.state import State

SCALES = ("isotropic", "per-dimension")


class Value(nn.Module):
    """A positive parameter: `value(state)` is (), (...) or, if `per_dimension`, (D,) or (..., D)."""

    per_dimension = False

    def forward(self, state: State) -> Tensor:
        raise NotImplementedError

    def over(self, steps: int) -> Callable[[State], Tensor]:
        """The value in a chain of `steps` steps; work that all steps share is done once here, with its graph.

        Raises ValueError if fewer steps are learnt.
        """
        return self


class Fixed(Value):
    """A constant: one number, or one per dimension, (D,).

    Raises TypeError or ValueError unless all are positive and finite numbers.
    """

    value: Tensor

    def __init__(self, value: float | Tensor) -> None:
        super().__init__()
        self.register_buffer("value", _positive("Fixed: value", value))
        self.per_dimension = self.value.dim() == 1

    def forward(self, state: State) -> Tensor:
        if self.value.device != state.x.device:
            # A constant follows the particles, so that nobody has to move a sampler that learns nothing.
            self.value = self.value.to(state.x.device)
        return self.value


class Learnt(Value):
    """A learnt number, shared by all steps or separate for each.

    Args:
        start: value before training, one number or one per dimension, (D,).
        steps: L, to learn one parameter per step; None learns one for all steps.
        low, high: bounds of the value, which is then a sigmoid of the parameter on a logarithmic scale. Without bounds
            the value is the exponential of the parameter.

    Raises:
        TypeError, ValueError: start is not positive or not inside (low, high), only one bound is given, or steps is no
            integer or below 1.
    """

    def __init__(
        self,
        start: float | Tensor,
        steps: int | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> None:
        super().__init__()
        if (low is None) != (high is None):
            raise ValueError("Learnt: low and high must be given together")
        initial = _positive("Learnt: start", start)
        self.per_dimension = initial.dim() == 1
        raw = initial.log()
        self.range: tuple[float, float] | None = None
        if low is not None and high is not None:
            if not 0 < low < high or not bool(((initial > low) & (initial < high)).all()):
                raise ValueError(f"Learnt: 0 < low < start < high must hold, but they are {low}, {start}, {high}")
            self.range = (math.log(low), math.log(high))
            raw = torch.logit((raw - self.range[0]) / (self.range[1] - self.range[0]))
        self.steps = None if steps is None else sizes("Learnt", steps=steps)[0]
        self.raw = nn.Parameter((raw if self.steps is None else raw.expand(self.steps, *raw.shape)).clone())

    def forward(self, state: State) -> Tensor:
        return self._value(self.raw if self.steps is None else self.raw[state.step])

    def over(self, steps: int) -> Callable[[State], Tensor]:
        if self.steps is None:
            value = self._value(self.raw)
            return lambda state: value
        if steps > self.steps:
            raise ValueError(f"SVGD: steps must be at most the {self.steps} that are learnt, but is {steps}")
        values = self._value(self.raw[:steps]).unbind()
        return lambda state: values[state.step]

    def _value(self, raw: Tensor) -> Tensor:
        if self.range is None:
            return raw.exp()
        low, high = self.range
        if inner.serves(raw):
            return compiled.learnt(raw, low, high)
        return (low + (high - low) * raw.sigmoid()).exp()


class OfState(Value):
    """A parameter that a module computes from the :class:`State`.

    Args:
        module: returns positive numbers, for example through a softplus; it may read state.x, score, log_q and step.
        scale: "isotropic" for a result of () or (...), "per-dimension" for one of (D,) or (..., D).
    """

    def __init__(self, module: Callable[[State], Tensor], scale: str = "isotropic") -> None:
        super().__init__()
        self.per_dimension = one_of("OfState", "scale", scale, SCALES) == "per-dimension"
        self.module = module

    def forward(self, state: State) -> Tensor:
        return self.module(state)


def as_value(name: str, value: float | Tensor | Value | nn.Module) -> Value:
    """A Value unchanged, a module as OfState, a number as Fixed; `name` is that of the argument, for messages."""
    if isinstance(value, Value):
        return value
    if isinstance(value, nn.Module):
        return OfState(value)
    return Fixed(_positive(name, value))


def _positive(name: str, value: object) -> Tensor:
    """One positive number, (), or one per dimension, (D,), in the default dtype."""
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        numbers = torch.as_tensor(value, dtype=torch.get_default_dtype())
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a number, or one per dimension, but is {type(value).__name__}") from None
    if numbers.dim() > 1:
        raise ValueError(f"{name} must be a number, or one per dimension, but has shape {tuple(numbers.shape)}")
    if not bool(((numbers > 0) & numbers.isfinite()).all()):
        shown = value if isinstance(value, (int, float)) else numbers.tolist()
        raise ValueError(f"{name} must be positive and finite, but is {shown}")
    return numbers
