"""The sweeps in torch's own operations, for dtypes without compiled ones; part of svgdx.rl.sweeps.

Every critic is differentiated at every particle, and the smaller one is selected afterwards: selecting rows first would
need their number, for which the host would wait for the device.

Source: Pearlmutter, Neural Computation 1994 (Hessian-vector products).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from svgdx.activations import FROM_VALUE
from svgdx.rl.sweeps.network import Network


class Sweep(NamedTuple):
    """What the first sweep through one critic recorded at all N = B M particles."""

    network: Network
    smallest: Tensor
    """Whether this critic is the smallest, (N, 1)."""
    values: list[Tensor]
    """Values of each hidden layer, (N, H)."""
    slopes: list[Tensor]
    """The activation's derivative at each hidden layer, (N, H)."""
    gradients: list[Tensor]
    """dQ / d values of each hidden layer, (N, H)."""

    def score(self) -> Tensor:
        """dQ / d action, (N, D)."""
        if not self.values:
            return self.network.weights[0].expand(len(self.smallest), -1)
        return (self.gradients[0] * self.slopes[0]) @ self.network.weights[0]


class PlainSweeps:
    """The sweeps through any number of networks at the same B states. All results are detached."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = networks

    @torch.no_grad()
    def minimum(self, action: Tensor, depth: int) -> tuple[Tensor, Tensor | None, list[Sweep]]:
        """Computes the least Q at actions (B, M, D) and as many derivatives as `depth` asks for.

        Returns:
            The minimum (B, M); its gradient (B, M, D) if depth is at least 1, otherwise None; and the tape that
            `along` reads, complete if depth is 2.
        """
        hidden = [network.hidden(action) for network in self.networks]
        q = [network.output(action, values) for network, values in zip(self.networks, hidden, strict=True)]
        value, smallest = torch.stack(q).min(0)
        if depth == 0:
            return value.view(action.shape[:-1]), None, []
        tape = [
            _backward(network, (smallest == index).unsqueeze(-1), values)
            for index, (network, values) in enumerate(zip(self.networks, hidden, strict=True))
        ]
        gradient = _selected(tape, [sweep.score() for sweep in tape])
        return value.view(action.shape[:-1]), gradient.view(action.shape), tape

    @torch.no_grad()
    def along(self, tape: list[Sweep], direction: Tensor, order: int) -> list[Tensor]:
        """Differentiates the gradient at action + t v in t at t = 0, for v = direction (B, M, D).

        Returns:
            `order` tensors (B, M, D): H v and, if order is 2, the gradient of v . H v in the action.
        """
        flat = direction.reshape(-1, direction.shape[-1])
        derivatives = [_along(sweep, flat, order) for sweep in tape]
        return [_selected(tape, list(of_order)).view(direction.shape) for of_order in zip(*derivatives, strict=True)]


def _selected(tape: list[Sweep], values: list[Tensor]) -> Tensor:
    """At each particle the value (N, D) that belongs to the smallest critic."""
    selected = values[0]
    for sweep, value in zip(tape[1:], values[1:], strict=True):
        selected = torch.where(sweep.smallest, value, selected)
    return selected.contiguous()


def _backward(network: Network, smallest: Tensor, values: list[Tensor]) -> Sweep:
    """Sweeps back from Q to the first hidden layer."""
    if not values:
        return Sweep(network, smallest, [], [], [])
    slopes = [FROM_VALUE[network.activation].slope(value) for value in values]
    gradients = [network.weights[-1].expand_as(values[-1])]
    for weight, slope in zip(network.weights[-2:0:-1], slopes[:0:-1], strict=True):
        gradients.insert(0, (gradients[0] * slope) @ weight)
    return Sweep(network, smallest, values, slopes, gradients)


def _along(sweep: Sweep, direction: Tensor, order: int) -> list[Tensor]:
    """The derivatives of `PlainSweeps.along` of one critic, each (N, D).

    A first sweep carries the first and second derivative in t of every layer's input forward, a second one carries
    those of the gradient back. Names end in 1 and 2 for the order in t.
    """
    if not sweep.values:
        return [torch.zeros_like(direction)] * order
    weights, curves_of = sweep.network.weights, FROM_VALUE[sweep.network.activation].curves
    curves = [curves_of(value, slope) for value, slope in zip(sweep.values, sweep.slopes, strict=True)]
    inputs: list[tuple[Tensor, Tensor | None]] = []
    value1, value2 = direction, None
    for weight, slope, (curve, _) in zip(weights[:-1], sweep.slopes, curves, strict=True):
        input1, input2 = value1 @ weight.mT, None if value2 is None else value2 @ weight.mT
        inputs.append((input1, input2))
        value1 = slope * input1
        if order == 2:
            square1 = input1.square()
            value2 = curve * square1 if input2 is None else torch.addcmul(slope * input2, curve, square1)
    gradient1: Tensor | None = None
    gradient2: Tensor | None = None
    for layer in reversed(range(len(inputs))):
        (input1, input2), (curve, third) = inputs[layer], curves[layer]
        slope, gradient, weight = sweep.slopes[layer], sweep.gradients[layer], weights[layer]
        slope1 = curve * input1
        product1 = gradient * slope1 if gradient1 is None else torch.addcmul(gradient * slope1, gradient1, slope)
        if order == 2:
            slope2 = third * input1.square()
            product2 = gradient * (slope2 if input2 is None else torch.addcmul(slope2, curve, input2))
            if gradient1 is not None and gradient2 is not None:
                product2 = torch.addcmul(torch.addcmul(product2, gradient2, slope), gradient1, slope1, value=2)
            gradient2 = product2 @ weight
        gradient1 = product1 @ weight
    assert gradient1 is not None
    return [gradient1] if gradient2 is None else [gradient1, gradient2]
