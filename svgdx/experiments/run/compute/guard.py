"""Quantities of updates: read by the host only when something is logged, checked without waiting for the GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from svgdx.experiments.run import parallel
from svgdx.experiments.run.errors import DivergedError

# A number, or a 0-d tensor on any device that nobody has read yet.
Quantity: TypeAlias = float | Tensor
Quantities: TypeAlias = dict[str, Quantity]


def is_on_gpu(value: object) -> bool:
    """Whether a quantity is a tensor that the host would have to wait for."""
    return isinstance(value, Tensor) and value.device.type != "cpu"


def floats(quantities: Mapping[str, Quantity]) -> dict[str, float]:
    """The quantities as numbers, in their order; those on a GPU are read in one copy."""
    on_gpu = {name: value.detach().double() for name, value in quantities.items() if isinstance(value, Tensor)}
    numbers = dict(zip(on_gpu, torch.stack([*on_gpu.values()]).tolist() if on_gpu else [], strict=True))
    return {name: numbers[name] if name in numbers else float(value) for name, value in quantities.items()}


class Guard:
    """Notices the first step at which a quantity is not finite.

    On the CPU `note` raises at once. On a GPU it keeps the quantities of each step there until one of them is not
    finite, from then on those of that step, and `check` reads them. In between, `svgdx.experiments.run.compute.adam`
    skips steps whose gradient is not finite, so that no parameter takes them in.
    """

    def __init__(self) -> None:
        # By the names of a step's quantities, for not all steps have the same: their values and the step.
        self._kept: dict[tuple[str, ...], Tensor] = {}

    def note(self, step: int, quantities: Mapping[str, Quantity]) -> None:
        """Notes the quantities of a step; raises DivergedError if one that needs no wait is not finite."""
        parallel.check_finite(step, quantities)
        on_gpu = {name: value for name, value in quantities.items() if isinstance(value, Tensor) and is_on_gpu(value)}
        if not on_gpu:
            return
        values = [value.detach().float() for value in on_gpu.values()]
        current = torch.stack([*values, values[0].new_full((), step)])
        kept = self._kept.get(tuple(on_gpu))
        # Zero times a number that is not finite is NaN.
        self._kept[tuple(on_gpu)] = current if kept is None else torch.where((kept * 0).sum() == 0, current, kept)

    def check(self) -> None:
        """Raises DivergedError, on every rank, that names the first step with a quantity that is not finite."""
        first: tuple[float, str, float] | None = None
        for names, kept in self._kept.items():
            *values, step = kept.tolist()
            for name, value in zip(names, values, strict=True):
                if not math.isfinite(value) and (first is None or step < first[0]):
                    first = step, name, value
        with parallel.together():
            if first is not None:
                raise DivergedError(f"step {int(first[0])}: {first[1]} is {first[2]}")
