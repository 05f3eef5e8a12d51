"""A multilayer perceptron as unnormalised log density."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"silu": nn.SiLU, "softplus": nn.Softplus, "tanh": nn.Tanh}


class MLPEnergy(nn.Module):
    """f(x) = MLP(x) - (confinement / 2) |x|^2, with p(x) proportional to exp(f(x)).

    Args:
        dim: D, the number of dimensions of x.
        hidden: width of each hidden layer.
        depth: number of hidden layers, at least 1.
        activation: one of ACTIVATIONS. All are smooth: the Hessian of f must exist.
        confinement: precision of the Gaussian factor that makes p normalisable, in units of 1 / x^2.

    Raises:
        ValueError: an unknown activation or a size below 1.

    Source: the energy of Messaoud et al., Particles Don't Care About Z, ICML 2026, section on EBM training.
    """

    def __init__(self, dim: int, hidden: int, depth: int, activation: str = "silu", confinement: float = 0.0) -> None:
        super().__init__()
        if min(dim, hidden, depth) < 1:
            raise ValueError(f"MLPEnergy: dim, hidden and depth must be at least 1, but are {dim}, {hidden}, {depth}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"MLPEnergy: activation must be one of {', '.join(ACTIVATIONS)}, but is {activation!r}")
        layers: list[nn.Module] = []
        for width in [dim] + [hidden] * (depth - 1):
            layers += [nn.Linear(width, hidden), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, 1))
        self.confinement = confinement

    def forward(self, x: Tensor) -> Tensor:
        """f in nats, up to a constant: (..., D) -> (...)."""
        value: Tensor = self.layers(x).squeeze(-1)
        return value - 0.5 * self.confinement * x.square().sum(-1)
