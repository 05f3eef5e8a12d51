"""Metropolis-Hastings with a direction r = +1 or -1, for every step or for some."""

from __future__ import annotations

import torch
from torch import Tensor

from svgdx._checks import sizes
from svgdx.ops.registration import inner
from svgdx.samplers.control.compiled import Inverse, Proposals, accept
from svgdx.samplers.control.truncation import Move
from svgdx.samplers.kernels import RBF, Kernel
from svgdx.samplers.targets import Derivatives, Target
from svgdx.streams import Stream


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
        TypeError, ValueError: tolerance is not positive, or iterations is no integer or below 1.

    Source: Messaoud et al., Particles Don't Care About Z, ICML 2026.
    """

    def __init__(self, tolerance: float = 1e-5, iterations: int = 30) -> None:
        if not tolerance > 0:
            raise ValueError(f"MetropolisHastings: tolerance must be positive, but is {tolerance}")
        self.tolerance, (self.iterations,) = tolerance, sizes("MetropolisHastings", iterations=iterations)

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
        hessian, density = terms
        ahead, can_ahead = _finite(move.x_next, x)
        back, can_back = self._inverse(move, kernel, target, graph)
        assert move.gain is not None
        there = target.derivatives(back, hessian, graph, stream) if hessian != "none" else Derivatives(back)
        gain_back = self._gain_at(back, move, kernel, there, density)
        here, log_p_back = move.derivatives.log_prob, there.log_prob
        here = target.log_prob_once(x) if here is None else here
        log_p_back = target.log_prob_once(back) if log_p_back is None else log_p_back
        log_p_ahead, toss, chance = target.log_prob_once(ahead), stream.uniform(here), stream.uniform(here)
        gains = (move.gain, gain_back)
        proposals = Proposals(x, ahead, back, here, log_p_ahead, log_p_back, *gains, can_ahead, can_back, toss, chance)
        is_served = inner.serves(x, ahead, back, here, log_p_ahead, log_p_back, *gains)
        return accept(proposals) if is_served else accept_by_torch(proposals)

    def _inverse(self, move: Move, kernel: Kernel, target: Target, graph: bool) -> tuple[Tensor, Tensor]:
        """The inverse map of each particle, (..., M, D), and whether its iteration converged, (..., M) bool.

        The gradient is that of the last iteration with phi's argument y held fixed, exact to first order in eps.
        """
        x, score, sigma = move.x, move.derivatives.score, move.sigma
        largest = torch.linalg.vector_norm(x.detach(), torch.inf, (-2, -1))
        limit = self.tolerance * largest.clamp_min(1.0)
        is_fused = isinstance(kernel, RBF) and not kernel.bandwidth.per_dimension
        with torch.no_grad():
            iterated = self._iterated if is_fused and inner.serves(x, score, sigma) else self._iterated_by_torch
            y, converged = iterated(move, kernel, target, limit)
        y, finite = _finite(y, x.detach())
        if graph:
            phi = kernel.direction_at(y, x, score, sigma, target.derivatives(y).score)
            y = torch.where(finite.unsqueeze(-1), x - move.eps[..., None, None] * phi, x)
        return y, converged & finite

    def _iterated(self, move: Move, kernel: Kernel, target: Target, limit: Tensor) -> tuple[Tensor, Tensor]:
        """The last point of the inverse map's iteration, and which particles have converged."""
        inverse = Inverse(move.x, move.derivatives.score, move.sigma, move.eps, limit, self.iterations)
        while inverse.count < self.iterations:
            if not inverse.iterate(target.derivatives(inverse.y).score):
                break
        return inverse.y, inverse.converged()

    def _iterated_by_torch(self, move: Move, kernel: Kernel, target: Target, limit: Tensor) -> tuple[Tensor, Tensor]:
        """The same for any kernel."""
        x, limit = move.x, limit[..., None, None]
        y, unsolved = x.detach(), None
        for _ in range(self.iterations):
            phi = kernel.direction_at(y, x, move.derivatives.score, move.sigma, target.derivatives(y).score)
            y_next = x - move.eps[..., None, None] * phi
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
        return y, (error <= limit).all(-1)  # a NaN has not converged

    def _gain_at(self, query: Tensor, move: Move, kernel: Kernel, derivatives: Derivatives, density: str) -> Tensor:
        """log |det(I + eps J_i)| if particle i alone is moved to query_i, where these are its derivatives, (..., M)."""
        x, score, sigma, eps = move.x, move.derivatives.score, move.sigma, move.eps
        if density == "logdet":
            return kernel.logdet_at(query, x, score, sigma, eps, derivatives.hessian)
        trace = kernel.trace_at(query, x, score, sigma)
        if derivatives.trace is not None:
            trace = torch.add(trace, derivatives.trace, alpha=1 / x.shape[-2])
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


_LOG_2 = 0.6931471805599453


def accept_by_torch(proposals: Proposals) -> tuple[Tensor, Tensor, Tensor]:
    """As `compiled.accept`, in torch's own operations."""
    x, ahead, back, here, log_p_ahead, log_p_back, gain, gain_back, can_ahead, can_back, toss, chance = proposals
    log_alpha = _log_alpha(log_p_ahead - here + gain, can_ahead)
    log_alpha_back = _log_alpha(log_p_back - here - gain_back, can_back)
    is_ahead = toss < 0.5
    accepted = chance.log() < torch.where(is_ahead, log_alpha, log_alpha_back).detach()
    proposal = torch.where(is_ahead.unsqueeze(-1), ahead, back)
    change = torch.logaddexp(_mixed(log_alpha, gain), _mixed(log_alpha_back, -gain_back)) - _LOG_2
    return torch.where(accepted.unsqueeze(-1), proposal, x), change, accepted


def _finite(point: Tensor, otherwise: Tensor) -> tuple[Tensor, Tensor]:
    """Points, replaced if not finite so that a rejected one adds no NaN to the gradient, and which are finite."""
    finite = torch.linalg.vector_norm(point.detach(), torch.inf, -1) < torch.inf
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
