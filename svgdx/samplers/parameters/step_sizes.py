"""Step sizes along a chain, and the bound below which a step is invertible."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from svgdx._checks import one_of, per_row
from svgdx.ops.registration import inner
from svgdx.samplers.parameters import compiled
from svgdx.samplers.parameters.values import Value, as_value
from svgdx.samplers.state import State

SCHEDULES = ("constant", "linear", "cosine", "exponential")
BOUNDS = ("none", "clamp", "leaky")
# Slope of a step size past its bound: small enough to keep the bound, not zero, so that the gradient survives.
LEAKY_SLOPE = 0.01


class Scheduled(Value):
    """A step size that changes along the chain.

    With t = (step - begin) / (end - begin), clamped to [0, 1], the value is multiplied by

    - "constant": 1;
    - "linear": 1 + (last - 1) t;
    - "cosine": last + (1 - last) (1 + cos(pi t)) / 2;
    - "exponential": last^t.

    Args:
        value: a number, a Value or a module of the state.
        schedule: one of SCHEDULES.
        begin, end: steps between which the factor changes from 1 to `last`.
        last: factor at the end.

    Raises:
        ValueError: an unknown schedule, end not after begin, or last not positive.
    """

    def __init__(
        self, value: float | Value | nn.Module, schedule: str, end: int, begin: int = 0, last: float = 0.1
    ) -> None:
        super().__init__()
        if not 0 <= begin < end:
            raise ValueError(f"Scheduled: 0 <= begin < end must hold, but they are {begin} and {end}")
        if not last > 0:
            raise ValueError(f"Scheduled: last must be positive, but is {last}")
        self.value = as_value("Scheduled: value", value)
        self.schedule = one_of("Scheduled", "schedule", schedule, SCHEDULES)
        self.begin, self.end, self.last = begin, end, last

    def factor(self, step: int) -> float:
        """The factor of a step; 0 is the first."""
        t = min(1.0, max(0.0, (step - self.begin) / (self.end - self.begin)))
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "linear":
            return 1 + (self.last - 1) * t
        if self.schedule == "cosine":
            return self.last + (1 - self.last) * (1 + math.cos(math.pi * t)) / 2
        return float(self.last**t)

    def forward(self, state: State) -> Tensor:
        value: Tensor = self.value(state)
        return value * self.factor(state.step)

    def over(self, steps: int) -> Callable[[State], Tensor]:
        value = self.value.over(steps)
        return lambda state: value(state) * self.factor(state.step)


def as_step_size(value: float | Value | nn.Module) -> Value:
    """A Value from a number, a Value or a module of the state. Raises ValueError if it has one number per dimension."""
    step_size = as_value("SVGD: step_size", value)
    if step_size.per_dimension:
        raise ValueError("SVGD: step_size must be one number for all dimensions")
    return step_size


def as_rows(eps: Tensor, x: Tensor) -> Tensor:
    """A step size as one number, (), or one for each problem, (...), of particles x (..., M, D).

    Raises TypeError or ValueError for anything else.
    """
    if isinstance(eps, Tensor) and eps.dim() == 0:
        return eps
    return per_row("SVGD", "step_size", eps, x.shape[:-2], "the problems of x")


def step_bound(sqnorm: Tensor) -> Tensor:
    """eps_UB = 1 / max_i |J_i|_F of squared norms (..., M), (...); a NaN stays a NaN of its problem.

    Below it x -> x + eps phi is invertible and log det is close to eps Tr J. A probe's estimate of |J_i|_F^2 can be
    negative, in which case the norm is too small to bound anything.

    Source: Messaoud et al., Particles Don't Care About Z, ICML 2026.
    """
    return sqnorm.amax(-1).clamp_min(1e-12).rsqrt()


def bounded(eps: Tensor, limit: Tensor, bound: str) -> Tensor:
    """eps held under a limit (...): "clamp", "leaky" (slope LEAKY_SLOPE past the limit) or "none"."""
    if bound == "none":
        return eps
    eps = eps.expand_as(limit)
    return torch.where(eps > limit, torch.add(limit, eps - limit, alpha=_slope(bound)), eps)


def held(eps: Tensor, sqnorm: Tensor, bound: str) -> tuple[Tensor, Tensor]:
    """eps_UB (...) of squared norms (..., M), and eps, () or (...), held under it: "clamp" or "leaky"."""
    if inner.serves(sqnorm, eps):
        return compiled.held(eps, sqnorm, _slope(bound))
    limit = step_bound(sqnorm)
    return limit, bounded(eps, limit, bound)


def _slope(bound: str) -> float:
    return LEAKY_SLOPE if bound == "leaky" else 0.0
