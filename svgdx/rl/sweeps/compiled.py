"""The sweeps in C++ and CUDA; part of svgdx.rl.sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from svgdx import _library
from svgdx.activations import COMPILED
from svgdx.ops.registration import inner
from svgdx.rl.sweeps.network import Network

# Numbers: the kernels read 16 bytes at a time.
ALIGNED = 4


class CompiledSweeps:
    """The sweeps through two networks at the same B states, as in `plain.PlainSweeps`. All results are detached.

    Attributes:
        shift: (2, B, H). parameters: each network's layers one after another, the first transposed, (2, P), on CUDA
            padded so that each row is aligned.
        widths: from D to 1. activation: its number in C++.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        weights = networks[0].weights
        self.parameters, self.shift = _flat(networks)
        self.widths = torch.tensor([weights[0].shape[1], *map(len, weights)], dtype=torch.int64, device="cpu")
        self.activation = COMPILED[networks[0].activation]

    @staticmethod
    def serve(networks: Sequence[Network]) -> bool:
        """Whether the compiled sweeps take these networks: two with hidden layers, of a supported device and dtype."""
        shift = networks[0].shift
        if len(networks) != 2 or len(networks[0].weights) < 2 or torch.compiler.is_compiling():
            return False
        supported = shift.device.type in ("cpu", "cuda") and shift.dtype in (torch.float32, torch.float64)
        return supported and not _library.disabled()

    def minimum(self, action: Tensor, depth: int) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """As `PlainSweeps.minimum`."""
        rows = action.detach().reshape(-1, action.shape[-1]).contiguous()
        network = (self.shift, self.parameters, self.widths, self.activation)
        with torch._C._AutoDispatchBelowAutograd():
            value, gradient, *tape = torch.ops.svgdx_inner.mlp_minimum.default(rows, *network, depth)
        return value.view(action.shape[:-1]), gradient.view(action.shape) if depth > 0 else None, tape

    def along(self, tape: list[Tensor], direction: Tensor, order: int) -> list[Tensor]:
        """As `PlainSweeps.along`."""
        rows = direction.detach().reshape(-1, direction.shape[-1]).contiguous()
        network = (self.parameters, self.widths, self.activation)
        with torch._C._AutoDispatchBelowAutograd():
            derivatives = torch.ops.svgdx_inner.mlp_along.default(rows, *tape, *network, order)
        return [derivative.view(direction.shape) for derivative in derivatives[:order]]


def _flat(networks: Sequence[Network]) -> tuple[Tensor, Tensor]:
    """The parameters and the shifts of all networks, in one block of memory."""
    layers = []
    for network in networks:
        first, *later = network.weights
        layers.append(first.mT.reshape(-1))
        for weight, bias in zip(later, network.biases, strict=True):
            layers += [weight.reshape(-1), bias]
        if first.is_cuda:
            count = sum(layer.numel() for layer in layers)
            layers.append(first.new_empty(-count % ALIGNED))
    shifts = [network.shift for network in networks]
    numbers = sum(shift.numel() for shift in shifts)
    block = torch.cat([*layers, *(shift.reshape(-1) for shift in shifts)])
    parameters, shift = block.split([len(block) - numbers, numbers])
    return parameters.view(len(networks), -1), shift.view(len(networks), *shifts[0].shape)


@inner.fake("mlp_minimum")
def minimum_fake(
    x: Tensor, shift: Tensor, parameters: Tensor, widths: Tensor, activation: int, depth: int
) -> tuple[Tensor, ...]:
    """Empty results of the op mlp_minimum."""
    rows, scored, taped = len(x), len(x) if depth > 0 else 0, len(x) if depth > 1 else 0
    *below, last = widths.tolist()[1:-1]
    # On CUDA both networks are differentiated at every row.
    networks = 2 if x.is_cuda else 1
    values, gradients = (x.new_empty(networks * taped, width) for width in (sum(below) + last, sum(below)))
    order = x.new_empty(taped, dtype=torch.int32)
    return x.new_empty(rows), x.new_empty(scored, x.shape[1]), order, values, gradients


@inner.fake("mlp_along")
def _along_fake(direction: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    rows = len(direction) if arguments[-1] > 1 else 0
    return torch.empty_like(direction), direction.new_empty(rows, direction.shape[1])
