"""The sweeps through twin critics in torch's own ops, for devices that the compiled ones (`_engine`) do not serve.

Source: Pearlmutter, Neural Computation 1994 (Hessian-vector products).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from svgdx.activations import ACTIVATIONS, FROM_VALUE


class Networks(NamedTuple):
    """Two critics at B states: what the states add to the first layer, (2, B, H), and each one's constants."""

    shift: Tensor
    weights: list[list[Tensor]]  # of the first layer the columns of the action
    biases: list[list[Tensor]]  # of the layers after the first
    activation: str


class _Rows(NamedTuple):
    """The particles whose smaller critic is one of the two, and what its sweeps left there."""

    particles: Tensor  # their indices among all B M, (N,)
    critic: int
    values: list[Tensor]  # of the hidden layers, (N, H)
    slopes: list[Tensor]  # the activation's first derivative there
    back: list[Tensor]  # the gradient of Q in the hidden layers' values, (N, H)


def minimum(at: Networks, action: Tensor, depth: int) -> tuple[Tensor, Tensor | None, list[_Rows]]:
    """min(Q1, Q2) (B, M) at actions (B, M, D), its gradient (B, M, D) for a depth of 1 or more, and what is kept."""
    with torch.no_grad():
        groups, value = _smaller(at, action)
        value = value.view(action.shape[:-1])
        if depth == 0:
            return value, None, []
        score = torch.empty_like(action).view(-1, action.shape[-1])
        for rows in groups:
            score[rows.particles] = (rows.back[0] * rows.slopes[0]) @ at.weights[rows.critic][0]
        return value, score.view_as(action), groups


def along(at: Networks, kept: list[_Rows], direction: Tensor, order: int) -> list[Tensor]:
    """Derivatives of the gradient at x + t v in t at 0 for v (B, M, D), first to `order` (at most second)."""
    with torch.no_grad():
        flat = direction.reshape(-1, direction.shape[-1])
        made = [torch.empty_like(flat) for _ in range(order)]
        for rows in kept:
            for whole, part in zip(made, _along_rows(at, rows, flat[rows.particles], order), strict=True):
                whole[rows.particles] = part
        return [each.view(direction.shape) for each in made]


def is_first(one: Tensor, other: Tensor) -> Tensor:
    """Where Q1 is the minimum; a NaN is, as in torch.minimum."""
    return (one <= other) | one.isnan()


def _hidden(at: Networks, k: int, action: Tensor) -> list[Tensor]:
    """Values of the hidden layers of critic k at actions (B, M, D), each (B M, H)."""
    function = ACTIVATIONS[at.activation].function
    first = nn.functional.linear(action, at.weights[k][0])
    values = [function(first.add_(at.shift[k].unsqueeze(-2)).flatten(0, 1))]
    for weight, bias in zip(at.weights[k][1:-1], at.biases[k][:-1], strict=True):
        values.append(function(nn.functional.linear(values[-1], weight, bias)))
    return values


def _smaller(at: Networks, action: Tensor) -> tuple[list[_Rows], Tensor]:
    """Both critics forward, the smaller one of each particle backward to its first hidden layer; min(Q1, Q2), (B M)."""
    derivatives = FROM_VALUE[at.activation]
    sweeps = [_hidden(at, k, action) for k in range(2)]
    values = [
        nn.functional.linear(sweep[-1], weights[-1], biases[-1]).squeeze(-1)
        for sweep, weights, biases in zip(sweeps, at.weights, at.biases, strict=True)
    ]
    first = is_first(*values)
    groups = []
    for k, (sweep, chosen) in enumerate(zip(sweeps, (first, ~first), strict=True)):
        index = chosen.nonzero().squeeze(-1)
        if index.numel() == 0:
            continue
        kept = sweep if index.numel() == len(chosen) else [value.index_select(0, index) for value in sweep]
        slopes = [derivatives.slope(value) for value in kept]
        back = [at.weights[k][-1].expand_as(kept[-1])]
        for weight, slope in zip(at.weights[k][-2:0:-1], slopes[:0:-1], strict=True):
            back.insert(0, (back[0] * slope) @ weight)
        groups.append(_Rows(index, k, kept, slopes, back))
    return groups, torch.minimum(*values)


def _along_rows(at: Networks, rows: _Rows, direction: Tensor, order: int) -> list[Tensor]:
    """Derivatives of the gradient of Q at x + t v in t at 0, first to `order` (at most second), each (N, D).

    The first is H v, the second the gradient of v . H v in x.
    """
    weights, derivatives = at.weights[rows.critic], FROM_VALUE[at.activation]
    curves = [derivatives.curves(value, slope) for value, slope in zip(rows.values, rows.slopes, strict=True)]
    first = weights[0]
    inputs: list[tuple[Tensor, Tensor | None]] = []
    z1, z2 = direction, None
    for weight, slope, (curve, _) in zip([first, *weights[1:-1]], rows.slopes, curves, strict=True):
        h1, h2 = z1 @ weight.mT, None if z2 is None else z2 @ weight.mT
        inputs.append((h1, h2))
        z1 = slope * h1
        if order == 2:
            z2 = curve * h1.square() if h2 is None else torch.addcmul(slope * h2, curve, h1.square())
    g1: Tensor | None = None
    g2: Tensor | None = None
    for k in reversed(range(len(inputs))):
        (h1, h2), slope, (curve, third), g = inputs[k], rows.slopes[k], curves[k], rows.back[k]
        bend = curve * h1
        d1 = g * bend if g1 is None else torch.addcmul(g * bend, g1, slope)
        weight = first if k == 0 else weights[k]
        if order == 2:
            d2 = third * h1.square() if h2 is None else torch.addcmul(third * h1.square(), curve, h2)
            d2 = g * d2
            if g1 is not None and g2 is not None:
                d2 = torch.addcmul(torch.addcmul(d2, g2, slope), g1, bend, value=2)
            g2 = d2 @ weight
        g1 = d1 @ weight
    assert g1 is not None
    return [g1] if g2 is None else [g1, g2]
