"""What a sampler knows of its target: log density, score, and the Hessian's action at the particles."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, distributions, nn

from svgdx import ops
from svgdx._checks import one_of
from svgdx.trace import hessian_trace

LogDensity = Callable[[Tensor], Tensor]
HESSIANS = ("none", "hutchinson", "exact")


class Derivatives(NamedTuple):
    """At particles (..., M, D): score; log density (..., M) in nats where it is known at no further cost; and as the
    Hessian term asks Tr H (..., M), probe v and H v (..., M, D), or H itself (..., M, D, D)."""

    score: Tensor
    log_prob: Tensor | None = None
    trace: Tensor | None = None
    probe: Tensor | None = None
    hvp: Tensor | None = None
    hessian: Tensor | None = None


class Target:
    """A log density (..., M, D) -> (..., M) in nats, up to a constant; derivatives by automatic differentiation."""

    has_log_prob = True

    def __init__(self, log_prob: LogDensity) -> None:
        # Not a submodule of the sampler: its parameters are not the sampler's to train.
        self._log_prob = log_prob

    def log_prob(self, x: Tensor) -> Tensor:
        found = self._log_prob(x)
        if found.shape != x.shape[:-1]:
            raise ValueError(
                f"SVGD: target must map {tuple(x.shape)} to {tuple(x.shape[:-1])}, but returns {tuple(found.shape)}"
            )
        return found

    def frozen(self) -> AbstractContextManager[None]:
        """Lasts as long as a chain, in which the target does not change; for log densities that make use of that."""
        made: AbstractContextManager[None] = getattr(getattr(self, "_log_prob", None), "frozen", nullcontext)()
        return made

    def derivatives(
        self, x: Tensor, hessian: str = "none", graph: bool = False, generator: torch.Generator | None = None
    ) -> Derivatives:
        """The derivatives that a Hessian term, one of HESSIANS, needs; "hutchinson" draws a Rademacher probe.

        With graph they are differentiable in x, which must require a gradient; without they are detached.
        """
        if hessian != "none":
            # The density itself where it has derivatives of its own, as MLPLogDensity has.
            density = self._log_prob if hasattr(self._log_prob, "score_hvp") else self.log_prob
            found = hessian_trace(density, x, method=hessian, generator=generator, create_graph=graph)
            trace = found.trace.to(x.dtype)
            if hessian == "exact":
                return Derivatives(found.score, found.log_prob, trace, hessian=found.hvp.movedim(0, -2))
            return Derivatives(found.score, found.log_prob, trace, found.probe, found.hvp)
        with torch.enable_grad():
            if not graph:
                x = x.detach().requires_grad_()
            log_prob = self.log_prob(x)
            (score,) = torch.autograd.grad(log_prob.sum(), x, create_graph=graph)
        return Derivatives(score, log_prob) if graph else Derivatives(score.detach(), log_prob.detach())


class ScoreTarget(Target):
    """A score alone, (..., M, D) -> (..., M, D)."""

    has_log_prob = False

    def __init__(self, score: Callable[[Tensor], Tensor]) -> None:
        self._function = score

    def log_prob(self, x: Tensor) -> Tensor:
        raise ValueError("SVGD: the target is a score alone, and this needs its log density")

    def derivatives(
        self, x: Tensor, hessian: str = "none", graph: bool = False, generator: torch.Generator | None = None
    ) -> Derivatives:
        with torch.enable_grad():
            if not graph:
                x = x.detach().requires_grad_()
            found = Derivatives(self._score(x))
            if hessian == "hutchinson":
                probe = rademacher(x, generator)
                (hvp,) = torch.autograd.grad(found.score, x, probe, create_graph=graph)
                found = found._replace(trace=(probe * hvp).sum(-1), probe=probe, hvp=hvp)
            elif hessian == "exact":
                matrix = _rows(x, found.score, graph)
                found = found._replace(hessian=matrix, trace=_diagonal_sum(matrix))
        return found if graph else _detached(found)

    def _score(self, x: Tensor) -> Tensor:
        score = self._function(x)
        if score.shape != x.shape:
            raise ValueError(f"SVGD: score must have the shape of x, {tuple(x.shape)}, but has {tuple(score.shape)}")
        return score


class GaussianTarget(Target):
    """A Gaussian of mean (D,) and precision (D, D): score and Hessian in closed form."""

    def __init__(self, log_prob: LogDensity, mean: Tensor, precision: Tensor) -> None:
        super().__init__(log_prob)
        self.mean, self.hessian = mean, -precision

    def derivatives(
        self, x: Tensor, hessian: str = "none", graph: bool = False, generator: torch.Generator | None = None
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


def as_target(target: Target | distributions.Distribution | nn.Module | LogDensity) -> Target:
    """A Target, a torch.distributions object over vectors, a module or a callable log density.

    Raises TypeError for anything else, ValueError for a distribution over numbers.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, distributions.Distribution):
        if len(target.event_shape) != 1:
            raise ValueError(
                f"SVGD: target must be a distribution over vectors (D,), but is over {tuple(target.event_shape)}: "
                "torch.distributions.Independent makes one of independent numbers"
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


def rademacher(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent signs +1 and -1 with the shape, dtype and device of x."""
    device = None if generator is None else generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    return ops.rademacher(x.detach(), seed, 0)


def check_hessian(hessian: str, density: str) -> str:
    """Refuses unknown Hessian terms, and the probe where the whole matrix is needed."""
    one_of("SVGD", "hessian", hessian, HESSIANS)
    if density == "logdet" and hessian == "hutchinson":
        raise ValueError('SVGD: density "logdet" needs hessian "exact" or "none": a probe gives no determinant')
    return hessian


def _rows(x: Tensor, score: Tensor, graph: bool) -> Tensor:
    """The Jacobian of a score, (..., M, D, D), in one batched backward pass."""
    dim = x.shape[-1]
    units = torch.eye(dim, dtype=x.dtype, device=x.device)
    directions = units.reshape(dim, *(1,) * (x.dim() - 1), dim).expand(dim, *x.shape)
    (rows,) = torch.autograd.grad(score, x, directions, create_graph=graph, is_grads_batched=True, retain_graph=True)
    return rows.movedim(0, -2)


def _diagonal_sum(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def _detached(found: Derivatives) -> Derivatives:
    rest = (None if each is None else each.detach() for each in found[1:])
    return Derivatives(found.score.detach(), *rest)
