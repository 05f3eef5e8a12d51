"""A critic at fixed states, as a function of the action alone; part of svgdx.rl.sweeps."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from svgdx.activations import ACTIVATIONS
from svgdx.densities.linear import linear


class Network(NamedTuple):
    """A multilayer perceptron that gives Q (B, M) at actions (B, M, D) of B states.

    The states enter only through `shift`, so their part of the first layer is computed once for all M actions.
    """

    shift: Tensor
    """The states' part of the first layer, with its bias, (B, H)."""
    weights: list[Tensor]
    """The action's columns of the first layer (H, D), then each later layer (outputs, inputs)."""
    biases: list[Tensor]
    """The biases of the layers after the first."""
    activation: str

    def detach(self) -> Network:
        """The same function, with all but the action constant."""
        weights, biases = [weight.detach() for weight in self.weights], [bias.detach() for bias in self.biases]
        return Network(self.shift.detach(), weights, biases, self.activation)

    def value(self, action: Tensor) -> Tensor:
        """Q (B, M), differentiable in the action any number of times by autograd."""
        return self.output(action, self.hidden(action)).view(action.shape[:-1])

    def hidden(self, action: Tensor) -> list[Tensor]:
        """The values of each hidden layer, (B M, H); none of a linear Q."""
        if len(self.weights) == 1:
            return []
        function = ACTIVATIONS[self.activation].function
        first = linear(action, self.weights[0]).add_(self.shift.unsqueeze(-2))
        values = [function(first.flatten(0, 1))]
        for weight, bias in zip(self.weights[1:-1], self.biases[:-1], strict=True):
            values.append(function(linear(values[-1], weight, bias)))
        return values

    def output(self, action: Tensor, hidden: list[Tensor]) -> Tensor:
        """Q (B M,) from the values of the hidden layers."""
        if not hidden:
            return linear(action, self.weights[0]).add_(self.shift.unsqueeze(-2)).flatten()
        return linear(hidden[-1], self.weights[-1], self.biases[-1]).squeeze(-1)
