"""Targets of the SVGD samplers: log density, score, and products with the Hessian at the particles."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, distributions, nn

from svgdx import _checks
from svgdx._checks import one_of
from svgdx.densities.base import LogProb, as_log_density
from svgdx.streams import Source, stream_of
from svgdx.trace import hessian_trace

HESSIANS = ("none", "hutchinson", "exact")


class Derivatives(NamedTuple):
    """The derivatives of a log density at particles (..., M, D), with H its Hessian; None for those not computed."""

    score: Tensor
    """(..., M, D)."""
    log_prob: Tensor | None = None
    """(..., M), in nats; only if it comes at no extra cost."""
    trace: Tensor | None = None
    """Tr H or its estimate, (..., M), for the Hessian terms "hutchinson" and "exact"."""
    probe: Tensor | None = None
    """Random signs v, (..., M, D), for "hutchinson"."""
    hvp: Tensor | None = None
    """H v, (..., M, D), for "hutchinson"."""
    hessian: Tensor | None = None
    """H, (..., M, D, D), for "exact"."""


class Target:
    """The log density of a target, (..., M, D) -> (..., M) in nats and up to a constant, differentiated by autograd.

    Args:
        target: a LogDensity, an Energy or a callable log density; see :func:`svgdx.densities.as_log_density`.

    Raises:
        TypeError: the target is not callable.
    """

    has_log_prob = True

    def __init__(self, target: nn.Module | LogProb) -> None:
        # A Target is not a module, so that the sampler does not train the parameters of the log density.
        self._log_prob = as_log_density(target)

    def log_prob(self, x: Tensor) -> Tensor:
        """Returns the log density at x, (..., M, D) -> (..., M), in nats and up to a constant.

        Raises:
            TypeError: the target does not return a tensor.
            ValueError: the target returns another shape, or is a score alone.
        """
        return _checks.returned("SVGD", "target", self._log_prob(x), x)

    def log_prob_once(self, x: Tensor) -> Tensor:
        """As `log_prob`, differentiable in x once."""
        return self.log_prob(x)

    def frozen(self) -> AbstractContextManager[None]:
        """Returns a context, for the duration of a chain, in which the target must not change.

        A log density with a method ``frozen`` of its own, such as :class:`svgdx.densities.MLPLogDensity`, uses it to
        prepare its derivatives once.
        """
        context: AbstractContextManager[None] = getattr(getattr(self, "_log_prob", None), "frozen", nullcontext)()
        return context

    def derivatives(
        self, x: Tensor, hessian: str = "none", graph: bool = False, generator: Source = None
    ) -> Derivatives:
        """Returns the derivatives at x that a Hessian term needs.

        Args:
            x: particles, (..., M, D); with graph they must require a gradient.
            hessian: one of HESSIANS; "hutchinson" draws a Rademacher probe.
            graph: whether the derivatives are differentiable in x; otherwise they are detached.
            generator: source of the probe; None: torch's default generator of the CPU.
        """
        if hessian != "none":
            # A density that computes its own derivatives, as MLPLogDensity does, must be passed as it is.
            density = self._log_prob if hasattr(self._log_prob, "score_hvp") else self.log_prob
            result = hessian_trace(density, x, method=hessian, generator=generator, create_graph=graph)
            trace = result.trace.to(x.dtype)
            if hessian == "exact":
                return Derivatives(result.score, result.log_prob, trace, hessian=result.hvp.movedim(0, -2))
            return Derivatives(result.score, result.log_prob, trace, result.probe, result.hvp)
        with torch.enable_grad():
            if not graph:
                x = x.detach().requires_grad_()
            log_prob = _checks.returned("SVGD", "target", self._log_prob(x), x, graph=True)
            (score,) = torch.autograd.grad(log_prob, x, torch.ones_like(log_prob), create_graph=graph)
        return Derivatives(score, log_prob) if graph else Derivatives(score.detach(), log_prob.detach())


class ScoreTarget(Target):
    """A target of which only the score is known, the gradient of its log density.

    Args:
        score: (..., M, D) -> (..., M, D). If it has no graph, as that of a diffusion model under no_grad, the sampler
            needs hessian="none".
    """

    has_log_prob = False

    def __init__(self, score: Callable[[Tensor], Tensor]) -> None:
        self._function = score

    def log_prob(self, x: Tensor) -> Tensor:
        raise ValueError("SVGD: the target is a score alone, but its log density is needed here")

    def derivatives(
        self, x: Tensor, hessian: str = "none", graph: bool = False, generator: Source = None
    ) -> Derivatives:
        with torch.enable_grad():
            if not graph:
                x = x.detach().requires_grad_()
            derivatives = Derivatives(self._score(x))
            if hessian != "none" and not derivatives.score.requires_grad:
                raise ValueError(
                    f'SVGD: hessian "{hessian}" needs a score that is differentiable in x, but the score has no graph '
                    '(it is constant, detached or computed under no_grad); pass hessian="none", or return a graph'
                )
            if hessian == "hutchinson":
                probe = rademacher(x, generator)
                (hvp,) = torch.autograd.grad(derivatives.score, x, probe, create_graph=graph, materialize_grads=True)
                derivatives = derivatives._replace(trace=(probe * hvp).sum(-1), probe=probe, hvp=hvp)
            elif hessian == "exact":
                matrix = _jacobian(x, derivatives.score, graph)
                derivatives = derivatives._replace(hessian=matrix, trace=_diagonal_sum(matrix))
        return derivatives if graph else _detached(derivatives)

    def _score(self, x: Tensor) -> Tensor:
        return _checks.without_inference(_checks.same_shape("SVGD", "score", self._function(x), x.shape, "x"))


class TemperedTarget(Target):
    """p^(1 / T): a target whose log density, score and Hessian are divided by a temperature.

    Args:
        target: as the sampler takes it.
        temperature: T > 0; 1 is the target itself.

    Raises:
        ValueError: the temperature is not positive and finite.
    """

    def __init__(self, target: Target | distributions.Distribution | nn.Module | LogProb, temperature: float) -> None:
        if not 0 < temperature < math.inf:
            raise ValueError(f"TemperedTarget: temperature must be positive and finite, but is {temperature}")
        self.target, self.temperature = as_target(target), temperature
        self.has_log_prob = self.target.has_log_prob

    def log_prob(self, x: Tensor) -> Tensor:
        return self.target.log_prob(x) / self.temperature

    def log_prob_once(self, x: Tensor) -> Tensor:
        return self.target.log_prob_once(x) / self.temperature

    def frozen(self) -> AbstractContextManager[None]:
        return self.target.frozen()

    def derivatives(
        self, x: Tensor, hessian: str = "none", graph: bool = False, generator: Source = None
    ) -> Derivatives:
        derivatives = self.target.derivatives(x, hessian, graph, generator)
        with torch.set_grad_enabled(graph):
            divided = {
                name: value / self.temperature
                for name, value in derivatives._asdict().items()
                if value is not None and name != "probe"
            }
        return derivatives._replace(**divided)


class GaussianTarget(Target):
    """A Gaussian with mean (D,) and precision (D, D), whose score and Hessian are known in closed form."""

    def __init__(self, log_prob: LogProb, mean: Tensor, precision: Tensor) -> None:
        super().__init__(log_prob)
        self.mean, self.hessian = mean, -precision

    def derivatives(
        self, x: Tensor, hessian: str = "none", graph: bool = False, generator: Source = None
    ) -> Derivatives:
        with torch.set_grad_enabled(graph):
            score = (x - self.mean) @ self.hessian
        if hessian == "none":
            return Derivatives(score)
        if hessian == "exact":
            matrix = self.hessian.expand(*x.shape, x.shape[-1])
            return Derivatives(score, trace=_diagonal_sum(matrix), hessian=matrix)
        probe = rademacher(x, generator)
        hvp = probe @ self.hessian
        return Derivatives(score, trace=torch.linalg.vecdot(probe, hvp), probe=probe, hvp=hvp)


def as_target(target: Target | distributions.Distribution | nn.Module | LogProb) -> Target:
    """Returns the Target of a torch.distributions object over vectors, of a density or of a callable.

    Args:
        target: a Target is returned as it is; a LogDensity, an Energy or another callable is read by
            :func:`svgdx.densities.as_log_density`.

    Raises:
        TypeError: the target is none of these.
        ValueError: a distribution is not over vectors.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, distributions.Distribution):
        if len(target.event_shape) != 1:
            raise ValueError(
                f"SVGD: target must be a distribution over vectors (D,), but its event shape is "
                f"{tuple(target.event_shape)}; torch.distributions.Independent combines independent numbers to a vector"
            )
        return _gaussian(target) or Target(target.log_prob)
    if not callable(target):
        raise TypeError(f"SVGD: target must be a distribution, a module or a callable, but is {type(target).__name__}")
    return Target(target)


def _gaussian(target: distributions.Distribution) -> GaussianTarget | None:
    if len(target.batch_shape) > 0:
        return None
    if isinstance(target, distributions.MultivariateNormal):
        return GaussianTarget(target.log_prob, target.loc, target.precision_matrix.contiguous())
    if isinstance(target, distributions.Independent) and isinstance(target.base_dist, distributions.Normal):
        base = target.base_dist
        return GaussianTarget(target.log_prob, base.loc, torch.diag(base.scale.square().reciprocal()))
    return None


def rademacher(x: Tensor, generator: Source) -> Tensor:
    """Draws independent signs +1 and -1 with the shape, dtype and device of x."""
    return stream_of("SVGD", generator, x.device).signs(x)


def check_hessian(hessian: str, density: str) -> str:
    """Returns a Hessian term, if it is known and the density can be computed with it."""
    one_of("SVGD", "hessian", hessian, HESSIANS)
    if density == "logdet" and hessian == "hutchinson":
        raise ValueError(
            'SVGD: density "logdet" needs hessian "exact" or "none", because a probe does not give the determinant'
        )
    return hessian


def _jacobian(x: Tensor, score: Tensor, graph: bool) -> Tensor:
    """Returns the Jacobian of a score, (..., M, D, D), by one batched backward pass."""
    dim = x.shape[-1]
    units = torch.eye(dim, dtype=x.dtype, device=x.device)
    directions = units.reshape(dim, *(1,) * (x.dim() - 1), dim).expand(dim, *x.shape)
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
        score, x, directions, create_graph=graph, is_grads_batched=True, retain_graph=True, allow_unused=True
    )
    # None if the score depends on parameters alone.
    rows = torch.zeros_like(directions) if gradients[0] is None else gradients[0]
    return rows.movedim(0, -2)


def _diagonal_sum(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def _detached(derivatives: Derivatives) -> Derivatives:
    optional = (None if value is None else value.detach() for value in derivatives[1:])
    return Derivatives(derivatives.score.detach(), *optional)
