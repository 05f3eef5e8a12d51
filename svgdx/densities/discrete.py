"""Energies of bit vectors x in {0, 1}^D."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from svgdx._checks import features, one_of, sizes
from svgdx.activations import ACTIVATIONS
from svgdx.densities.base import Energy
from svgdx.densities.linear import Linear


def bernoulli_log_prob(x: Tensor, probability: Tensor) -> Tensor:
    """Log probability in nats of independent bits: x (..., D) of 0 and 1, probability (D,) inside (0, 1) -> (...)."""
    log_one, log_zero = probability.log(), torch.log1p(-probability)
    return x.to(log_one.dtype) @ (log_one - log_zero) + log_zero.sum()


def check_base(name: str, base: Tensor) -> None:
    """Raises ValueError, with a message that starts with name, unless all probabilities lie inside (0, 1)."""
    if not bool(((base > 0) & (base < 1)).all()):
        raise ValueError(f"{name}: probabilities of the base must lie inside (0, 1)")


class DiscreteMLPEnergy(Energy):
    """Energy E(x) = MLP(x) - log Bernoulli(x; base) of bits, with p(x) ∝ exp(-E(x)); without a base, E(x) = MLP(x).

    Args:
        dim: D, the number of bits.
        hidden: width of each hidden layer.
        depth: number of hidden layers, at least 1.
        activation: one of `svgdx.activations.ACTIVATIONS`; "silu" is also known as Swish.
        base: probabilities (D,) of the base distribution, each inside (0, 1); for images 0.98 mean + 0.01.

    Raises:
        TypeError, ValueError: the activation is unknown, a size is no integer or below 1, or the base has another shape
            or range.

    Source: Zhang et al., ICML 2022 (ELU, 2-D data); Grathwohl et al., ICML 2021 (Swish and base, images).
    """

    base: Tensor | None

    def __init__(
        self, dim: int, hidden: int = 256, depth: int = 3, activation: str = "elu", base: Tensor | None = None
    ) -> None:
        super().__init__()
        dim, hidden, depth = sizes("DiscreteMLPEnergy", dim=dim, hidden=hidden, depth=depth)
        one_of("DiscreteMLPEnergy", "activation", activation, tuple(ACTIVATIONS))
        if base is not None:
            if base.shape != (dim,):
                raise ValueError(f"DiscreteMLPEnergy: base must have shape ({dim},), but has {tuple(base.shape)}")
            check_base("DiscreteMLPEnergy", base)
        self.dim = dim
        layers: list[nn.Module] = []
        for width in [dim] + [hidden] * (depth - 1):
            layers += [Linear(width, hidden), ACTIVATIONS[activation].module()]
        self.layers = nn.Sequential(*layers, Linear(hidden, 1))
        self.register_buffer("base", None if base is None else base.detach().to(torch.get_default_dtype()))

    def forward(self, x: Tensor) -> Tensor:
        """E in nats, up to a constant, of bits 0 and 1 of any dtype: (..., D) -> (...)."""
        x = features("DiscreteMLPEnergy", "x", x, self.dim).to(next(self.parameters()).dtype)
        energy: Tensor = self.layers(x).squeeze(-1)
        return energy if self.base is None else energy - bernoulli_log_prob(x, self.base)


class IsingEnergy(Energy):
    """Energy E(x) = -s' J s of spins s = 2x - 1 in {-1, 1}^D, with p(x) ∝ exp(-E(x)).

    J is symmetric with a zero diagonal, so each pair of spins enters twice.

    Args:
        dim: D, the number of spins; J is zero at first.

    Raises:
        TypeError, ValueError: dim is no integer or below 1.

    Source: Grathwohl et al., ICML 2021, section on training Ising models.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        (dim,) = sizes("IsingEnergy", dim=dim)
        self.dim = dim
        self.weight = nn.Parameter(torch.zeros(dim, dim))

    def coupling(self) -> Tensor:
        """J (D, D), in nats."""
        symmetric = 0.5 * (self.weight + self.weight.T)
        return symmetric - torch.diag(symmetric.diagonal())

    def forward(self, x: Tensor) -> Tensor:
        """E in nats of bits 0 and 1 of any dtype: (..., D) -> (...)."""
        spins = 2 * features("IsingEnergy", "x", x, self.dim).to(self.weight.dtype) - 1
        return -((spins @ self.coupling()) * spins).sum(-1)
