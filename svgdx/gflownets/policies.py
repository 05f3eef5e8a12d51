"""Policies: networks from a partly set binary vector to the logits of both directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from svgdx._checks import features, one_of, sizes
from svgdx.activations import ACTIVATIONS
from svgdx.densities.linear import Linear

aten = torch.ops.aten
SLOPE = 0.01  # of leaky_relu


class InPlace(NamedTuple):
    """The forms of an activation that write into existing memory; its derivative follows from its value."""

    into: Callable[[Tensor, Tensor], object]
    """Takes argument and output, which may be the same tensor."""
    backward_: Callable[[Tensor, Tensor], object]
    """Takes gradient and value, and multiplies the gradient in place."""
    slope: float | None = None
    """The slope below zero if the activation is linear on both sides; None if it is not."""


IN_PLACE = {
    "leaky_relu": InPlace(
        lambda x, out: aten.leaky_relu.out(x, SLOPE, out=out),
        lambda grad, y: aten.leaky_relu_backward.grad_input(grad, y, SLOPE, True, grad_input=grad),
        SLOPE,
    ),
    "relu": InPlace(
        lambda x, out: torch.clamp_min(x, 0.0, out=out),
        lambda grad, y: aten.threshold_backward.grad_input(grad, y, 0.0, grad_input=grad),
        0.0,
    ),
    "elu": InPlace(
        lambda x, out: aten.elu.out(x, out=out),
        lambda grad, y: aten.elu_backward.grad_input(grad, 1.0, 1.0, 1.0, True, y, grad_input=grad),
    ),
    "tanh": InPlace(
        lambda x, out: torch.tanh(x, out=out),
        lambda grad, y: aten.tanh_backward.grad_input(grad, y, grad_input=grad),
    ),
}
"""The activations of the networks of this module; ACTIVATIONS has their functions."""


class MLPPolicy(nn.Module):
    """Multilayer perceptron from a state in {void, 0, 1}^D to the 3D logits of a GFlowNet.

    The first 2D logits are those of P_F, which sets a void entry (action 2 * location + bit), the last D those of P_B,
    which erases a set one. The network reads the state as numbers: void as -1, bits as 0 and 1.

    :func:`svgdx.gflownets.rollout` and :func:`svgdx.gflownets.trajectory_log_prob` recognise this network: they update
    its first layer by one column per step and keep the activations of a rollout for the gradient.

    Args:
        dim: D, the number of entries of a state.
        hidden: width of each hidden layer.
        depth: number of hidden layers, at least 1.
        activation: one of IN_PLACE.
        learnt_backward: whether P_B is learnt. Otherwise its logits are 0, so that it is uniform over the set entries.
        matmul_dtype: dtype of the matrix products of rollouts and of their gradients, such as torch.bfloat16; the
            first layer stays in the dtype of the parameters. None uses the dtype of the parameters.

    Raises:
        TypeError, ValueError: an unknown activation, or a size that is no integer or below 1.

    Source: Zhang et al., Generative Flow Networks for Discrete Probabilistic Modeling, ICML 2022 (arXiv 2202.01361).
    """

    def __init__(
        self,
        dim: int,
        hidden: int = 256,
        depth: int = 3,
        activation: str = "leaky_relu",
        learnt_backward: bool = True,
        matmul_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dim, hidden, depth = sizes("MLPPolicy", dim=dim, hidden=hidden, depth=depth)
        self.dim = dim
        self.activation = one_of("MLPPolicy", "activation", activation, tuple(IN_PLACE))
        self.learnt_backward = learnt_backward
        self.matmul_dtype = matmul_dtype
        self.layers = nn.ModuleList(Linear(width, hidden) for width in [dim] + [hidden] * (depth - 1))
        self.head = Linear(hidden, 3 * dim if learnt_backward else 2 * dim)

    def linears(self) -> list[nn.Linear]:
        """The linear layers, the head last."""
        return [cast(nn.Linear, layer) for layer in self.layers] + [self.head]

    def forward(self, states: Tensor) -> Tensor:
        """Logits of both directions, (..., D) -> (..., 3D), in the dtype of the parameters."""
        states = features("MLPPolicy", "states", states, self.dim)
        activation = ACTIVATIONS[self.activation].function
        x = states.to(self.head.weight.dtype)
        for layer in self.layers:
            x = activation(layer(x))
        logits: Tensor = self.head(x)
        return logits if self.learnt_backward else functional.pad(logits, (0, self.dim))


class MLPFlow(nn.Module):
    """Multilayer perceptron from a state in {void, 0, 1}^D to log F, the logarithm of the flow through it.

    Detailed balance and sub-trajectory balance need it for the states that are not complete; the flow of a complete
    state is its reward.

    Args:
        dim, hidden, depth, activation: as in :class:`MLPPolicy`.

    Raises:
        ValueError: as in :class:`MLPPolicy`.

    Source: Bengio et al., GFlowNet Foundations, JMLR 2023.
    """

    def __init__(self, dim: int, hidden: int = 256, depth: int = 3, activation: str = "leaky_relu") -> None:
        super().__init__()
        dim, hidden, depth = sizes("MLPFlow", dim=dim, hidden=hidden, depth=depth)
        self.dim = dim
        self.activation = one_of("MLPFlow", "activation", activation, tuple(IN_PLACE))
        self.layers = nn.ModuleList(Linear(width, hidden) for width in [dim] + [hidden] * (depth - 1))
        self.head = Linear(hidden, 1)

    def forward(self, states: Tensor) -> Tensor:
        """log F in nats, (..., D) -> (...), in the dtype of the parameters."""
        states = features("MLPFlow", "states", states, self.dim)
        activation = ACTIVATIONS[self.activation].function
        x = states.to(self.head.weight.dtype)
        for layer in self.layers:
            x = activation(layer(x))
        log_flow: Tensor = self.head(x)
        return log_flow.squeeze(-1)


def logits_of(policy: nn.Module, states: Tensor) -> Tensor:
    """The policy's logits (..., 3D) at states (..., D), with zeros for a uniform P_B.

    Raises TypeError or ValueError if the policy returns something else.
    """
    logits: Tensor = policy(states)
    dim, learnt = states.shape[-1], getattr(policy, "learnt_backward", True)
    if not isinstance(logits, Tensor):
        raise TypeError(f"{type(policy).__name__}: logits must be a tensor, but are {type(logits).__name__}")
    widths = (3 * dim,) if learnt else (3 * dim, 2 * dim)
    if logits.shape[:-1] != states.shape[:-1] or logits.shape[-1] not in widths:
        shape = (*states.shape[:-1], 3 * dim)
        raise ValueError(f"{type(policy).__name__}: logits must have shape {shape}, but have {tuple(logits.shape)}")
    return logits if learnt else functional.pad(logits[..., : 2 * dim], (0, dim))
