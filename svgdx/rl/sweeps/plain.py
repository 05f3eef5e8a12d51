"""The sweeps in torch's own operations, for devices without compiled ones; part of svgdx.rl.sweeps.

Source: Pearlmutter, Neural Computation 1994 (Hessian-vector products).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from svgdx.activations import FROM_VALUE
from svgdx.rl.sweeps.network import Network, first_is_smaller


class Share(NamedTuple):
    """The N particles at which one of the two critics is the smaller, and what the first sweep recorded there."""

    network: Network
    rows: Tensor
    """Indices of the particles among all B M, (N,)."""
    values: list[Tensor]
    """Values of each hidden layer, (N, H)."""
    slopes: list[Tensor]
    """The activation's derivative at each hidden layer, (N, H)."""
    gradients: list[Tensor]
    """dQ / d values of each hidden layer, (N, H)."""


class PlainSweeps:
    """The sweeps through two networks at the same B states. All results are detached."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = networks

    @torch.no_grad()
    def minimum(self, action: Tensor, depth: int) -> tuple[Tensor, Tensor | None, list[Share]]:
        """Computes min(Q1, Q2) at actions (B, M, D) and as many derivatives as `depth` asks for.

        Returns:
            The minimum (B, M); its gradient (B, M, D) if depth is at least 1, otherwise None; and the tape that
            `along` reads, complete if depth is 2.
        """
        hidden = [network.hidden(action) for network in self.networks]
        q1, q2 = (network.output(values[-1]) for network, values in zip(self.networks, hidden, strict=True))
        value = torch.minimum(q1, q2).view(action.shape[:-1])
        if depth == 0:
            return value, None, []
        first = first_is_smaller(q1, q2)
        tape = []
        for network, values, is_smaller in zip(self.networks, hidden, (first, ~first), strict=True):
            rows = is_smaller.nonzero().squeeze(-1)
            if len(rows) > 0:
                everywhere = len(rows) == len(is_smaller)
                tape.append(
                    _backward(network, rows, values if everywhere else [v.index_select(0, rows) for v in values])
                )
        gradient = action.new_empty(q1.numel(), action.shape[-1])
        for share in tape:
            gradient[share.rows] = (share.gradients[0] * share.slopes[0]) @ share.network.weights[0]
        return value, gradient.view(action.shape), tape

    @torch.no_grad()
    def along(self, tape: list[Share], direction: Tensor, order: int) -> list[Tensor]:
        """Differentiates the gradient at action + t v in t at t = 0, for v = direction (B, M, D).

        Returns:
            `order` tensors (B, M, D): H v and, if order is 2, the gradient of v . H v in the action.
        """
        flat = direction.reshape(-1, direction.shape[-1])
        results = [torch.empty_like(flat) for _ in range(order)]
        for share in tape:
            for result, derivative in zip(results, _along(share, flat[share.rows], order), strict=True):
                result[share.rows] = derivative
        return [result.view(direction.shape) for result in results]


def _backward(network: Network, rows: Tensor, values: list[Tensor]) -> Share:
    """Sweeps back from Q to the first hidden layer."""
    slopes = [FROM_VALUE[network.activation].slope(value) for value in values]
    gradients = [network.weights[-1].expand_as(values[-1])]
    for weight, slope in zip(network.weights[-2:0:-1], slopes[:0:-1], strict=True):
        gradients.insert(0, (gradients[0] * slope) @ weight)
    return Share(network, rows, values, slopes, gradients)


def _along(share: Share, direction: Tensor, order: int) -> list[Tensor]:
    """The derivatives of `PlainSweeps.along` at the rows of a share, each (N, D).

    A first sweep carries the first and second derivative in t of every layer's input forward, a second one carries
    those of the gradient back. Names end in 1 and 2 for the order in t.
    """
    weights, curves_of = share.network.weights, FROM_VALUE[share.network.activation].curves
    curves = [curves_of(value, slope) for value, slope in zip(share.values, share.slopes, strict=True)]
    inputs: list[tuple[Tensor, Tensor | None]] = []
    value1, value2 = direction, None
    for weight, slope, (curve, _) in zip(weights[:-1], share.slopes, curves, strict=True):
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
        slope, gradient, weight = share.slopes[layer], share.gradients[layer], weights[layer]
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
