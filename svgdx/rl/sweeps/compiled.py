"""The sweeps in C++ on the CPU, with the particles split into blocks among threads; part of svgdx.rl.sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from svgdx import _library
from svgdx.activations import COMPILED
from svgdx.rl.sweeps.network import Network


class CompiledSweeps:
    """The sweeps through two networks at the same B states, as in `plain.PlainSweeps`. All results are detached.

    Attributes:
        shift: (2, B, H). parameters: each network's layers one after another, the first transposed, (2, P).
        widths: from D to 1. activation: its number in C++.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        weights = networks[0].weights
        self.shift = torch.stack([network.shift for network in networks])
        self.parameters = torch.stack([_flat(network) for network in networks])
        self.widths = torch.tensor([weights[0].shape[1], *map(len, weights)], dtype=torch.int64, device="cpu")
        self.activation = COMPILED[networks[0].activation]

    @staticmethod
    def serve(networks: Sequence[Network]) -> bool:
        """Whether the compiled sweeps take these networks: two with hidden layers, of a supported device and dtype."""
        shift = networks[0].shift
        if len(networks) != 2 or len(networks[0].weights) < 2 or torch.compiler.is_compiling():
            return False
        supported = shift.device.type == "cpu" and shift.dtype in (torch.float32, torch.float64)
        return supported and not _library.disabled()

    def minimum(self, action: Tensor, depth: int) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """As `PlainSweeps.minimum`."""
        rows = action.detach().reshape(-1, action.shape[-1]).contiguous()
        network = (self.shift, self.parameters, self.widths, self.activation)
        with torch._C._AutoDispatchBelowAutograd():
            value, gradient, *tape = torch.ops.svgdx_cpu.mlp_minimum.default(rows, *network, depth)
        return value.view(action.shape[:-1]), gradient.view(action.shape) if depth > 0 else None, tape

    def along(self, tape: list[Tensor], direction: Tensor, order: int) -> list[Tensor]:
        """As `PlainSweeps.along`."""
        rows = direction.detach().reshape(-1, direction.shape[-1]).contiguous()
        network = (self.parameters, self.widths, self.activation)
        with torch._C._AutoDispatchBelowAutograd():
            derivatives = torch.ops.svgdx_cpu.mlp_along.default(rows, *tape, *network, order)
        return [derivative.view(direction.shape) for derivative in derivatives[:order]]


def _flat(network: Network) -> Tensor:
    first, *later = network.weights
    layers = [first.mT.reshape(-1)]
    for weight, bias in zip(later, network.biases, strict=True):
        layers += [weight.reshape(-1), bias]
    return torch.cat(layers)


def _minimum_fake(
    x: Tensor, shift: Tensor, parameters: Tensor, widths: Tensor, activation: int, depth: int
) -> tuple[Tensor, ...]:
    rows, scored, taped = len(x), len(x) if depth > 0 else 0, len(x) if depth > 1 else 0
    *below, last = widths.tolist()[1:-1]
    values, gradients = (x.new_empty(taped, width) for width in (sum(below) + last, sum(below)))
    order = x.new_empty(taped, dtype=torch.int32)
    return x.new_empty(rows), x.new_empty(scored, x.shape[1]), order, values, gradients


def _along_fake(direction: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    rows = len(direction) if arguments[-1] > 1 else 0
    return torch.empty_like(direction), direction.new_empty(rows, direction.shape[1])


if not _library.disabled():
    torch.library.register_fake("svgdx_cpu::mlp_minimum", _minimum_fake)
    torch.library.register_fake("svgdx_cpu::mlp_along", _along_fake)
