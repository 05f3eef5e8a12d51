"""Divergence control: truncation, and Metropolis-Hastings with a direction r = +1 or -1."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from svgdx._checks import one_of
from svgdx.samplers.kernels import Kernel
from svgdx.samplers.targets import Derivatives, Target
from svgdx.streams import Stream

CONTROLS = ("none", "truncation", "metropolis-hastings", "epsilon-greedy")


class Move(NamedTuple):
    """A proposed step: particles x, their derivatives, and x_next = x + eps phi, (..., M, D).

    gain is log |det(I + eps J_i)|, or its first order, (..., M); None if no density is followed.
    """

    x: Tensor
    derivatives: Derivatives
    sigma: Tensor
    eps: Tensor
    x_next: Tensor
    gain: Tensor | None


class Truncation:
    """Masks particles that would leave mean +- `deviations` standard deviations of the initial distribution.

    A masked particle keeps its last position inside and does not count in means.

    Raises ValueError if `deviations` is not positive.

    Source: Messaoud et al., S2AC, ICLR 2024.
    """

    def __init__(self, deviations: float = 3.0) -> None:
        if not deviations > 0:
            raise ValueError(f"Truncation: deviations must be positive, but is {deviations}")
        self.deviations = deviations

    def inside(self, x: Tensor, box: tuple[Tensor, Tensor]) -> Tensor:
        """Whether particles x (..., M, D) are inside the box, (..., M) bool; a NaN is outside."""
        low, high = (corner.unsqueeze(-2) for corner in box)
        return ((x >= low) & (x <= high)).all(-1)


class MetropolisHastings:
    """Accepts or rejects a proposal per particle: x + eps phi(x), or for r = -1 the point that this map takes to x.

        log alpha_r = min(0, log p(x~) - log p(x) + r log |det(I + eps J)|),

    with J at x for r = +1 and at x~ for r = -1; log |det| is eps Tr J if the density is first-order. Afterwards

        log q' = log (1/2) sum_c [alpha_c q |det|^-c + (1 - alpha_c) q].

    With fixed bandwidth and step size, the exact Hessian and density "logdet", a particle's move leaves the target
    invariant given the other particles. All particles move at once, which adds an error of order eps^2; so do estimated
    traces and parameters that depend on the particles.

    Args:
        tolerance: of the inverse map, by fixed-point iteration y <- x - eps phi(y), relative to max(1, |x|_max).
        iterations: limit of that iteration; a particle that has not converged by then rejects r = -1. A GPU always
            makes all of them, because it would have to be asked whether they have converged.

    Raises:
        ValueError: tolerance is not positive, or iterations is below 1.

    Source: Messaoud et al., Particles Don't Care About Z, ICML 2026.
    """

    def __init__(self, tolerance: float = 1e-5, iterations: int = 30) -> None:
        if not (tolerance > 0 and iterations >= 1):
            raise ValueError(
                f"MetropolisHastings: tolerance must be positive and iterations at least 1, but are {tolerance} and "
                f"{iterations}"
            )
        self.tolerance, self.iterations = tolerance, iterations

    def probability(self, progress: float) -> float:
        """The probability that a step is corrected, at a progress of training in [0, 1]."""
        return 1.0

    def correct(
        self, move: Move, kernel: Kernel, target: Target, terms: tuple[str, str], stream: Stream
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next particles (..., M, D), the change of log q (..., M) and which particles moved (..., M) bool.

        terms: the settings `hessian` and `density` of the sampler. stream: source of probes and decisions.
        """
        x, graph = move.x, torch.is_grad_enabled() and move.x_next.requires_grad
        forward, moved = _finite(move.x_next, x)
        backward, converged = self._inverse(move, kernel, target, graph)
        assert move.gain is not None
        gain_back = self._gain_at(backward, move, kernel, target, terms, stream, graph)
        here = move.derivatives.log_prob
        here = target.log_prob(x) if here is None else here
        log_alpha = _log_alpha(target.log_prob(forward) - here + move.gain, moved)
        log_alpha_back = _log_alpha(target.log_prob(backward) - here - gain_back, converged)
        ahead = stream.bernoulli(0.5, here)
        chance = stream.uniform(here).log()
        accept = chance < torch.where(ahead, log_alpha, log_alpha_back).detach()
        proposal = torch.where(ahead.unsqueeze(-1), forward, backward)
        change = torch.logaddexp(_mixed(log_alpha, move.gain), _mixed(log_alpha_back, -gain_back)) - _LOG_2
        return torch.where(accept.unsqueeze(-1), proposal, x), change, accept

    def _inverse(self, move: Move, kernel: Kernel, target: Target, graph: bool) -> tuple[Tensor, Tensor]:
        """The inverse map of each particle, (..., M, D), and whether its iteration converged, (..., M) bool.

        The gradient is that of the last iteration with phi's argument y held fixed, exact to first order in eps.
        """
        x, score, sigma = move.x, move.derivatives.score, move.sigma
        eps = move.eps[..., None, None]
        y = x.detach()
        limit = self.tolerance * y.abs().amax((-2, -1), keepdim=True).clamp_min(1.0)
        with torch.no_grad():
            unsolved: Tensor | None = None
            for _ in range(self.iterations):
                phi = kernel.direction_at(y, x, score, sigma, target.derivatives(y).score)
                y_next = x - eps * phi
                change = (y_next - y).abs()
                if unsolved is None:
                    y, error = y_next, change
                else:
                    y, error = torch.where(unsolved, y_next, y), torch.where(unsolved, change, error)
                if y.device.type != "cpu":
                    # A GPU is not asked whether the iteration has ended: it makes the rest in vain.
                    unsolved = (error > limit).any()
                elif not bool((error > limit).any()):
                    break
        converged = (error <= limit).all(-1)  # a NaN has not converged
        y, finite = _finite(y, x.detach())
        if graph:
            phi = kernel.direction_at(y, x, score, sigma, target.derivatives(y).score)
            y = torch.where(finite.unsqueeze(-1), x - eps * phi, x)
        return y, converged & finite

    def _gain_at(
        self,
        query: Tensor,
        move: Move,
        kernel: Kernel,
        target: Target,
        terms: tuple[str, str],
        stream: Stream,
        graph: bool,
    ) -> Tensor:
        """log |det(I + eps J_i)| if particle i alone is moved to query_i, (..., M)."""
        hessian, density = terms
        x, score, sigma, eps = move.x, move.derivatives.score, move.sigma, move.eps
        derivatives = target.derivatives(query, hessian, graph, stream) if hessian != "none" else Derivatives(query)
        if density == "logdet":
            return kernel.logdet_at(query, x, score, sigma, eps, derivatives.hessian)
        trace = kernel.trace_at(query, x, score, sigma)
        if derivatives.trace is not None:
            trace = trace + derivatives.trace / x.shape[-2]
        return eps[..., None] * trace


class EpsilonGreedy(MetropolisHastings):
    """Applies Metropolis-Hastings to a step with a probability that rises from low to high over training.

    The progress of training is the sampler's `progress`, in [0, 1], which :meth:`svgdx.samplers.SVGD.fit` updates.

    Args:
        low, high: probability at the start and at the end of training.
        tolerance, iterations: as in :class:`MetropolisHastings`.

    Raises:
        ValueError: 0 <= low <= high <= 1 does not hold, or as in :class:`MetropolisHastings`.
    """

    def __init__(self, low: float = 0.1, high: float = 0.9, tolerance: float = 1e-5, iterations: int = 30) -> None:
        super().__init__(tolerance, iterations)
        if not 0 <= low <= high <= 1:
            raise ValueError(f"EpsilonGreedy: 0 <= low <= high <= 1 must hold, but they are {low} and {high}")
        self.low, self.high = low, high

    def probability(self, progress: float) -> float:
        return self.low + (self.high - self.low) * progress


Control = Truncation | MetropolisHastings


def as_control(control: str | Control) -> Control | None:
    """A control unchanged, or the default one of a name in CONTROLS. Raises ValueError for another name."""
    if isinstance(control, (Truncation, MetropolisHastings)):
        return control
    controls: tuple[type[Control] | None, ...] = (None, Truncation, MetropolisHastings, EpsilonGreedy)
    kind = controls[CONTROLS.index(one_of("SVGD", "control", control, CONTROLS))]
    return None if kind is None else kind()


_LOG_2 = 0.6931471805599453


def _finite(point: Tensor, otherwise: Tensor) -> tuple[Tensor, Tensor]:
    """Points, replaced if not finite so that a rejected one adds no NaN to the gradient, and which are finite."""
    finite = point.isfinite().all(-1)
    return torch.where(finite.unsqueeze(-1), point, otherwise), finite


def _log_alpha(log_ratio: Tensor, possible: Tensor) -> Tensor:
    """min(0, log ratio); -inf if the proposal is not possible or the ratio is NaN."""
    return torch.where(possible & ~log_ratio.isnan(), log_ratio, -torch.inf).clamp_max(0)


def _mixed(log_alpha: Tensor, gain: Tensor) -> Tensor:
    """log [alpha exp(-gain) + 1 - alpha], whose gradient has no NaN if alpha is 0 or 1."""
    rejects = log_alpha < -1e-12
    one_minus = torch.where(rejects, (-torch.expm1(torch.where(rejects, log_alpha, -1.0))).log(), -torch.inf)
    never = log_alpha == -torch.inf
    accepted = torch.where(never, -torch.inf, torch.where(never, 0.0, log_alpha - gain))
    return torch.logaddexp(accepted, one_minus)
