"""A multilayer perceptron as an unnormalised log density."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from svgdx import _library, ops
from svgdx._checks import differentiates, features, of_parameters, one_of, same_shape, sizes
from svgdx.activations import ACTIVATIONS, SMOOTH
from svgdx.densities.base import LogDensity
from svgdx.densities.linear import Linear

if not _library.disabled():
    from svgdx.ops import mlp

Packed = tuple[Tensor, Tensor, int]


class MLPLogDensity(LogDensity):
    """Log density f(x) = MLP(x) - (confinement / 2) |x|^2, with p(x) ∝ exp(f(x)).

    Args:
        dim: D, the number of dimensions of x.
        hidden: width of each hidden layer.
        depth: number of hidden layers, at least 1.
        activation: one of `svgdx.activations.SMOOTH`, because the Hessian of f must exist.
        confinement: precision of the Gaussian factor that makes p normalisable, in units of 1 / x^2.

    Raises:
        TypeError, ValueError: the activation is unknown, or a size is no integer or below 1.

    Source: the energy of Messaoud et al., Particles Don't Care About Z, ICML 2026, section on EBM training.
    """

    def __init__(self, dim: int, hidden: int, depth: int, activation: str = "silu", confinement: float = 0.0) -> None:
        super().__init__()
        dim, hidden, depth = sizes("MLPLogDensity", dim=dim, hidden=hidden, depth=depth)
        one_of("MLPLogDensity", "activation", activation, SMOOTH)
        self.dim = dim
        layers: list[nn.Module] = []
        for width in [dim] + [hidden] * (depth - 1):
            layers += [Linear(width, hidden), ACTIVATIONS[activation].module()]
        self.layers = nn.Sequential(*layers, Linear(hidden, 1))
        self.activation = activation
        self.confinement = confinement
        self._frozen: Packed | None = None

    def forward(self, x: Tensor) -> Tensor:
        """f in nats, up to a constant: (..., D) -> (...)."""
        of_parameters("MLPLogDensity", features("MLPLogDensity", "x", x, self.dim), self.layers)
        value: Tensor = self.layers(x).squeeze(-1)
        return self._confined(value, x)

    @differentiates
    def score_hvp(self, x: Tensor, probe: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Returns f (...), its gradient (..., D) and its Hessian times probe (..., D), at x (..., D).

        With create_graph the results come from autograd and are differentiable in x and in the parameters. Otherwise
        they are detached and come from :func:`svgdx.ops.mlp_score_hvp`, unless a subclass overrides ``forward``.
        """
        features("MLPLogDensity.score_hvp", "x", x, self.dim)
        same_shape("MLPLogDensity.score_hvp", "probe", probe, x.shape, "x")
        of_parameters("MLPLogDensity.score_hvp", x, self.layers)
        overridden = type(self).forward is not MLPLogDensity.forward
        if create_graph or overridden:
            with torch.enable_grad():
                x = x if create_graph and x.requires_grad else x.detach().requires_grad_()
                value = self(x)
                (score,) = torch.autograd.grad(value, x, torch.ones_like(value), create_graph=True)
                (hvp,) = torch.autograd.grad(score, x, probe, create_graph=create_graph)
            return (value, score, hvp) if create_graph else (value.detach(), score.detach(), hvp)
        x, probe = x.detach(), probe.detach()
        rows = x.reshape(-1, x.shape[-1])
        packed, vectors = self._frozen or self._pack(), probe.reshape(rows.shape)
        if packed is None:
            derivatives = ops.mlp_score_hvp(rows, None, *self._layers(), self.activation, vectors)
        else:
            derivatives = mlp.packed_score_hvp(rows, None, vectors, packed)
        shapes = (x.shape[:-1], x.shape, x.shape)
        value, score, hvp = (result.view(shape) for result, shape in zip(derivatives, shapes, strict=True))
        precision = self.confinement
        return self._confined(value, x), score.sub_(x, alpha=precision), hvp.sub_(probe, alpha=precision)

    def laplacian(self, x: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Returns f (...), its gradient (..., D) and the exact trace of its Hessian (...), at x (..., D), D <= 64.

        The results come from :func:`svgdx.ops.mlp_laplacian`. With create_graph they are differentiable once in x and
        in the parameters; otherwise they are detached.
        """
        x = features("MLPLogDensity.laplacian", "x", x, self.dim)
        x = x if create_graph else x.detach()
        with torch.set_grad_enabled(create_graph):
            rows = x.reshape(-1, x.shape[-1])
            derivatives = ops.mlp_laplacian(rows, None, *self._layers(create_graph), self.activation)
            shapes = (x.shape[:-1], x.shape, x.shape[:-1])
            value, score, trace = (result.view(shape) for result, shape in zip(derivatives, shapes, strict=True))
            return self._confined(value, x), score - self.confinement * x, trace - self.confinement * x.shape[-1]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Packs the parameters for `score_hvp` once; they must not change inside the context."""
        outer, self._frozen = self._frozen, self._pack()
        try:
            yield
        finally:
            self._frozen = outer

    def _pack(self) -> Packed | None:
        """Returns the parameters as the compiled op takes them; None for the reference, which takes the layers."""
        if _library.disabled():
            return None
        return mlp.pack("mlp_score_hvp", None, *self._layers(), self.activation)

    def _layers(self, attached: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        weights: list[Tensor] = [layer.weight if attached else layer.weight.detach() for layer in linear]
        return weights, [layer.bias if attached else layer.bias.detach() for layer in linear]

    def _confined(self, value: Tensor, x: Tensor) -> Tensor:
        return torch.add(value, x.square().sum(-1), alpha=-0.5 * self.confinement)
