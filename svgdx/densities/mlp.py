"""A multilayer perceptron as unnormalised log density."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from svgdx import _library, ops
from svgdx.activations import ACTIVATIONS, SMOOTH

if not _library.disabled():
    from svgdx.ops import mlp

Packed = tuple[Tensor, Tensor, int]


class MLPLogDensity(nn.Module):
    """f(x) = MLP(x) - (confinement / 2) |x|^2, with p(x) proportional to exp(f(x)).

    Args:
        dim: D, the number of dimensions of x.
        hidden: width of each hidden layer.
        depth: number of hidden layers, at least 1.
        activation: one of `svgdx.activations.SMOOTH`, because the Hessian of f must exist.
        confinement: precision of the Gaussian factor that makes p normalisable, in units of 1 / x^2.

    Raises:
        ValueError: an unknown activation or a size below 1.

    Source: the energy of Messaoud et al., Particles Don't Care About Z, ICML 2026, section on EBM training.
    """

    def __init__(self, dim: int, hidden: int, depth: int, activation: str = "silu", confinement: float = 0.0) -> None:
        super().__init__()
        if min(dim, hidden, depth) < 1:
            raise ValueError(
                f"MLPLogDensity: dim, hidden and depth must be at least 1, but are {dim}, {hidden}, {depth}"
            )
        if activation not in SMOOTH:
            raise ValueError(f"MLPLogDensity: activation must be one of {', '.join(SMOOTH)}, but is {activation!r}")
        layers: list[nn.Module] = []
        for width in [dim] + [hidden] * (depth - 1):
            layers += [nn.Linear(width, hidden), ACTIVATIONS[activation].module()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, 1))
        self.activation = activation
        self.confinement = confinement
        self._frozen: Packed | None = None

    def forward(self, x: Tensor) -> Tensor:
        """f in nats, up to a constant: (..., D) -> (...)."""
        value: Tensor = self.layers(x).squeeze(-1)
        return value - self._well(x)

    def score_hvp(self, x: Tensor, probe: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """f (...), its gradient (..., D) and its Hessian times probe (..., D), at x (..., D).

        Without a graph by :func:`svgdx.ops.mlp_score_hvp`, detached; with one, differentiable in x and the parameters,
        by autograd.
        """
        if create_graph:
            with torch.enable_grad():
                x = x if x.requires_grad else x.detach().requires_grad_()
                value = self(x)
                (score,) = torch.autograd.grad(value.sum(), x, create_graph=True)
                (hvp,) = torch.autograd.grad(score, x, probe, create_graph=True)
            return value, score, hvp
        x, probe = x.detach(), probe.detach()
        flat = x.reshape(-1, x.shape[-1])
        packed, vectors = self._frozen or self._pack(), probe.reshape(flat.shape)
        if packed is None:
            made = ops.mlp_score_hvp(flat, None, *self._layers(), self.activation, vectors)
        else:
            made = mlp.packed_score_hvp(flat, None, vectors, packed)
        value, score, hvp = (
            part.view(shape) for part, shape in zip(made, (x.shape[:-1], x.shape, x.shape), strict=True)
        )
        precision = self.confinement
        return value - self._well(x), score.sub_(x, alpha=precision), hvp.sub_(probe, alpha=precision)

    def laplacian(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f (...), its gradient (..., D) and the exact trace of its Hessian (...), at x (..., D), D <= 64; detached.

        By :func:`svgdx.ops.mlp_laplacian`. Where a graph is wanted, ``svgdx.hessian_trace(energy, x, method="exact",
        create_graph=True)`` has one.
        """
        x = x.detach()
        made = ops.mlp_laplacian(x.reshape(-1, x.shape[-1]), None, *self._layers(), self.activation)
        shapes = (x.shape[:-1], x.shape, x.shape[:-1])
        value, score, trace = (part.view(shape) for part, shape in zip(made, shapes, strict=True))
        return value - self._well(x), score - self.confinement * x, trace - self.confinement * x.shape[-1]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """While it lasts the parameters must not change: what `score_hvp` makes of them is made once."""
        before, self._frozen = self._frozen, self._pack()
        try:
            yield
        finally:
            self._frozen = before

    def _pack(self) -> Packed | None:
        """None: the reference takes the layers as they are."""
        if _library.disabled():
            return None
        return mlp.pack("mlp_score_hvp", None, *self._layers(), self.activation)

    def _layers(self) -> tuple[list[Tensor], list[Tensor]]:
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        return [layer.weight.detach() for layer in linear], [layer.bias.detach() for layer in linear]

    def _well(self, x: Tensor) -> Tensor:
        return 0.5 * self.confinement * x.square().sum(-1)
