"""Log densities over a bounded set, such as an interval or a simplex, as log densities over all of R^D."""

from __future__ import annotations

import contextlib
from typing import Any, overload

import torch
from torch import Tensor, distributions
from torch.distributions import biject_to, constraints

from svgdx import _checks
from svgdx.densities.base import LogDensity, LogProb, as_log_density


class BoundedLogDensity(LogDensity):
    """Log density of z in R^D whose image x = T(z) in a support has the density p.

    T is the bijection that ``torch.distributions.biject_to`` has for the support, and the log density is
    log p(T(z)) + log |det dT/dz|. Made by :func:`svgdx.samplers.transformed`.

    Attributes:
        transform: T.
    """

    def __init__(self, target: LogProb, support: constraints.Constraint, dim: int | None = None) -> None:
        super().__init__()
        self.target = target
        self.transform = _bijection(support)
        # D; None if it is not known.
        self.dim = None if dim is None else self.transform.inverse_shape((dim,))[-1]

    def forward(self, z: Tensor) -> Tensor:
        """The log density in nats, up to the constant of p: (..., D) -> (...).

        Raises TypeError or ValueError if z or what p returns has another shape.
        """
        z = _checks.features("BoundedLogDensity", "z", z, self.dim)
        x = self.transform(z)
        return _checks.returned("transformed", "target", self.target(x), x) + self._volume(z, x)

    def _volume(self, z: Tensor, x: Tensor) -> Tensor:
        """log |det dT/dz|, (...)."""
        volume: Tensor = self.transform.log_abs_det_jacobian(z, x)
        # A stack of supports for single numbers has one for each coordinate.
        return volume.sum(-1) if volume.dim() == z.dim() else volume

    @overload
    def constrained(self, z: Tensor) -> Tensor: ...
    @overload
    def constrained(self, z: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]: ...
    def constrained(self, z: Tensor, log_q: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """The points x of the support that belong to z, and their log density.

        Args:
            z: (..., D).
            log_q: log density of z in nats, (...); None leaves densities out.

        Returns:
            x (..., D'); with log_q also the log density of x, (...). On a simplex D' is D + 1, and the density is with
            respect to the first D coordinates, as in ``torch.distributions.Dirichlet``.

        Raises:
            TypeError, ValueError: z or log_q has another shape.
        """
        z = _checks.features("BoundedLogDensity.constrained", "z", z, self.dim)
        x: Tensor = self.transform(z)
        if log_q is None:
            return x
        log_q = _checks.per_row("BoundedLogDensity.constrained", "log_q", log_q, z.shape[:-1], "z")
        return x, log_q - self._volume(z, x)


def transformed(
    target: distributions.Distribution | LogProb, support: constraints.Constraint | None = None
) -> BoundedLogDensity:
    """A density over a bounded set as a target over all of R^D, where particles can move freely.

    >>> posterior = transformed(torch.distributions.Dirichlet(torch.tensor([2.0, 3.0, 4.0])))
    >>> sampler = svgdx.SVGD(posterior, LearntGaussian(torch.zeros(2), 1.0))
    >>> x, log_q = posterior.constrained(*sampler.sample_with_log_prob(100, 50))

    Args:
        target: a distribution over vectors, or a LogDensity, an Energy or a callable log density over the support.
        support: where the density lives, such as ``constraints.simplex`` or ``constraints.interval(0, 1)``; None takes
            that of the distribution. One for single numbers holds for each coordinate.

    Raises:
        TypeError: the target is no distribution and has no support, or is not callable.
        ValueError: the distribution or the support is not over vectors, or the support is empty.
        NotImplementedError: torch.distributions has no bijection to the support, such as a discrete one.
    """
    dim = None
    if isinstance(target, distributions.Distribution):
        if len(target.event_shape) != 1:
            raise ValueError(
                f"transformed: target must be a distribution over vectors (D,), but its event shape is "
                f"{tuple(target.event_shape)}; torch.distributions.Independent combines independent numbers to a vector"
            )
        support, dim = target.support if support is None else support, target.event_shape[0]
        target = target.log_prob
    if not isinstance(support, constraints.Constraint):
        raise TypeError(f"transformed: support must be a constraint of torch.distributions, but is {support!r}")
    # A support that depends on other numbers has no dimension, and no bijection either.
    with contextlib.suppress(NotImplementedError):
        if support.event_dim > 1:
            raise ValueError(f"transformed: support must be over vectors or single numbers, but is {support}")
    if _bijection(support).codomain.event_dim == 0:
        support = constraints.independent(support, 1)
    return BoundedLogDensity(as_log_density(target), support, dim)


def _bijection(support: constraints.Constraint) -> Any:
    """torch's bijection to a support. Raises NotImplementedError if there is none, ValueError for an empty one."""
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is not None and high is not None and not bool(torch.as_tensor(low < high).all()):
        raise ValueError(f"transformed: support must be an interval from low to high, but is from {low} to {high}")
    try:
        if support.is_discrete:
            raise NotImplementedError("it is discrete")
        return biject_to(support)
    except NotImplementedError as error:
        raise NotImplementedError(
            f"transformed: torch.distributions has no bijection to the support {support}: {error}; pass another one as "
            "support, such as constraints.positive"
        ) from error


__all__ = ["BoundedLogDensity", "transformed"]
