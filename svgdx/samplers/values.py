"""Positive numbers of a step, bandwidth or step size: fixed, learnt, or from a module of the state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from svgdx.samplers.state import State

T = TypeVar("T")


class Value(nn.Module):
    """A positive number for each step: `value(state)` is (), (...), or, where `per_dimension`, (D,) or (..., D)."""

    per_dimension = False

    def forward(self, state: State) -> Tensor:
        raise NotImplementedError

    def over(self, steps: int) -> Callable[[State], Tensor]:
        """The value in a chain of so many steps: what all of them need is computed once, with its graph.

        Raises ValueError for a chain longer than what is learnt.
        """
        return self


class Fixed(Value):
    """A constant: a number, or one for each dimension, (D,).

    Raises ValueError for what is not positive and finite.
    """

    value: Tensor

    def __init__(self, value: float | Tensor) -> None:
        super().__init__()
        self.register_buffer("value", _positive("Fixed", torch.as_tensor(value, dtype=torch.get_default_dtype())))
        self.per_dimension = self.value.dim() == 1

    def forward(self, state: State) -> Tensor:
        return self.value


class Learnt(Value):
    """A learnt number, one for all steps or one for each.

    Args:
        start: value before training, a number or one for each dimension, (D,).
        steps: L, one parameter for each step; None: one for all.
        low, high: where both are given the value stays inside (low, high), by a sigmoid of its log; otherwise it is
            the exponential of the parameter.

    Raises:
        ValueError: a start that is not positive, or not inside (low, high).
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
        begin = _positive("Learnt", torch.as_tensor(start, dtype=torch.get_default_dtype()))
        self.per_dimension = begin.dim() == 1
        raw = begin.log()
        self.range: tuple[float, float] | None = None
        if low is not None and high is not None:
            if not 0 < low < high or not bool(((begin > low) & (begin < high)).all()):
                raise ValueError(f"Learnt: 0 < low < start < high is needed, but they are {low}, {start}, {high}")
            self.range = (math.log(low), math.log(high))
            raw = torch.logit((raw - self.range[0]) / (self.range[1] - self.range[0]))
        if steps is not None and steps < 1:
            raise ValueError(f"Learnt: steps must be at least 1, but is {steps}")
        self.steps = steps
        self.raw = nn.Parameter(raw.clone() if steps is None else raw.expand(steps, *raw.shape).clone())

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
        return (low + (high - low) * raw.sigmoid()).exp()


class OfState(Value):
    """A number from a module of the :class:`State`: () or (...), or, where scale is "per-dimension", (D,) or (..., D).

    The module must return positive numbers, for instance by softplus; it may depend on state.x, score, log_q and step.
    """

    def __init__(self, module: Callable[[State], Tensor], scale: str = "isotropic") -> None:
        super().__init__()
        self.per_dimension = one_of("OfState", "scale", scale, SCALES) == "per-dimension"
        self.module = module

    def forward(self, state: State) -> Tensor:
        return self.module(state)


SCALES = ("isotropic", "per-dimension")


def as_value(value: float | Tensor | Value | nn.Module) -> Value:
    """A number becomes Fixed, a module OfState."""
    if isinstance(value, Value):
        return value
    if isinstance(value, nn.Module):
        return OfState(value)
    return Fixed(value)


def one_of(owner: str, name: str, value: T, known: Sequence[T]) -> T:
    """Refuses a name that is not in the list, and gives the list."""
    if value not in known:
        raise ValueError(f"{owner}: {name} must be one of {', '.join(map(str, known))}, but is {value!r}")
    return value


def _positive(owner: str, value: Tensor) -> Tensor:
    if value.dim() > 1 or not bool(((value > 0) & value.isfinite()).all()):
        raise ValueError(f"{owner}: a positive number, or one for each dimension, is needed, but it is {value}")
    return value
