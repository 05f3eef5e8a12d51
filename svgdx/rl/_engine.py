"""The compiled sweeps through twin critics on the CPU, one thread a block of particles."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from svgdx import _library
from svgdx.activations import COMPILED
from svgdx.rl._sweeps import Networks


class Packed(NamedTuple):
    """Networks as the ops take them: shift (2, B, H), parameters (2, P), widths from D to 1, activation's number."""

    shift: Tensor
    parameters: Tensor
    widths: Tensor
    activation: int


def usable(at: Networks) -> bool:
    """Whether the sweeps of these networks are compiled."""
    served = at.shift.device.type == "cpu" and at.shift.dtype in (torch.float32, torch.float64)
    return served and not _library.disabled()


def pack(at: Networks) -> Packed:
    parts = []
    for weights, biases in zip(at.weights, at.biases, strict=True):
        parts.append(weights[0].mT.reshape(-1))
        for weight, bias in zip(weights[1:], biases, strict=True):
            parts += [weight.reshape(-1), bias]
    widths = [at.weights[0][0].shape[1], *(weight.shape[0] for weight in at.weights[0])]
    number = COMPILED[at.activation]
    return Packed(at.shift.contiguous(), torch.cat(parts).view(2, -1), torch.tensor(widths, dtype=torch.int64), number)


def minimum(at: Packed, action: Tensor, depth: int) -> tuple[Tensor, Tensor | None, list[Tensor]]:
    """As `_sweeps.minimum`; what is kept is for a depth of 2."""
    rows = action.detach().reshape(-1, action.shape[-1]).contiguous()
    with torch._C._AutoDispatchBelowAutograd():
        value, score, *kept = torch.ops.svgdx_cpu.mlp_minimum.default(rows, *at, depth)
    return value.view(action.shape[:-1]), score.view(action.shape) if depth > 0 else None, kept


def along(at: Packed, kept: list[Tensor], direction: Tensor, order: int) -> list[Tensor]:
    """As `_sweeps.along`."""
    rows = direction.detach().reshape(-1, direction.shape[-1]).contiguous()
    with torch._C._AutoDispatchBelowAutograd():
        made = torch.ops.svgdx_cpu.mlp_along.default(rows, *kept, *at[1:], order)
    return [each.view(direction.shape) for each in made[:order]]


def _minimum_fake(
    x: Tensor, shift: Tensor, parameters: Tensor, widths: Tensor, activation: int, depth: int
) -> tuple[Tensor, ...]:
    rows, scored, kept = len(x), len(x) if depth > 0 else 0, len(x) if depth > 1 else 0
    *below, last = widths.tolist()[1:-1]
    units = sum(below) + last
    empty = [x.new_empty(kept, width) for width in (units, sum(below))]
    return x.new_empty(rows), x.new_empty(scored, x.shape[1]), x.new_empty(kept, dtype=torch.int32), *empty


def _along_fake(direction: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    rows = len(direction) if given[-1] > 1 else 0
    return torch.empty_like(direction), direction.new_empty(rows, direction.shape[1])


if not _library.disabled():
    torch.library.register_fake("svgdx_cpu::mlp_minimum", _minimum_fake)
    torch.library.register_fake("svgdx_cpu::mlp_along", _along_fake)
