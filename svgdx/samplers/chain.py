"""One run of an SVGD sampler: its steps, what they record, and how problems stop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from svgdx._checks import readable
from svgdx.samplers.control import MetropolisHastings, Move, Truncation
from svgdx.samplers.parameters import as_rows, held
from svgdx.samplers.particles import Particles, Settings
from svgdx.samplers.state import Chain, State, StepRecord
from svgdx.samplers.targets import Derivatives
from svgdx.streams import Stream


class Proposal(NamedTuple):
    """Where a step leads: particles, the change of log q (..., M), and phi and Tr J if the step computed them."""

    x: Tensor
    change: Tensor | None = None
    phi: Tensor | None = None
    trace: Tensor | None = None


class Runner:
    """Makes the steps of one chain.

    Args:
        sampler: its settings.
        particles: where they live.
        x: particles of this process, (..., M_p, D).
        log_q: their log density (..., M_p), None if it is not followed.
        parameters: bandwidth and step size as functions of the state.
        stream: source of probes and decisions.
        recorded: whether the caller reads the record of the steps.
    """

    def __init__(
        self,
        sampler: Settings,
        particles: Particles,
        x: Tensor,
        log_q: Tensor | None,
        parameters: tuple[Callable[[State], Tensor], Callable[[State], Tensor]],
        stream: Stream,
        recorded: bool,
    ) -> None:
        self.sampler, self.stream = sampler, stream
        self.ensemble, self.interaction = particles.ensemble, particles.interaction
        self.count = self.ensemble.count(x)
        self.bandwidth, self.step_size = parameters
        self.recorded = recorded or sampler.stop is not None or len(sampler.callbacks) > 0
        lead = x.shape[:-2]
        self.steps = 0
        taken = 0 if sampler.stop is None else torch.zeros(lead, dtype=torch.int64, device=x.device)
        control = sampler.control
        self.box = sampler.initial.box(control.deviations) if isinstance(control, Truncation) else None
        mask = None if self.box is None else control.inside(x.detach(), self.box)  # type: ignore[union-attr]
        self.chain = Chain(x, log_q, mask, taken, ensemble=self.ensemble, start=x.detach())
        self.stopping = None if sampler.stop is None else sampler.stop.start(lead, x.device)
        self.follows = log_q is not None or sampler.stop is not None or isinstance(control, MetropolisHastings)
        self.hessian = sampler.hessian if self.follows or sampler.bound != "none" else "none"
        # The kernel adds its change of log q to zeros: added to log q itself, its last digits would be lost.
        self.zeros = x.new_zeros(x.shape[:-1]) if self.follows else x.new_empty(0)
        self.announced = False  # that something is not finite
        _announce_coinciding(x.detach())
        self.leaf: torch.Tensor | None = None
        if sampler.optimizer is not None:
            self.leaf = x.detach().clone().requires_grad_()
            self.optimizer = sampler.optimizer([self.leaf])

    def step(self, index: int, graph: bool) -> bool:
        """Makes one step, with its graph or detached. Returns False once every problem has stopped."""
        chain, sampler = self.chain, self.sampler
        x = chain.x if graph or not chain.x.requires_grad else chain.x.detach()
        if graph and not x.requires_grad:
            x = x.detach().requires_grad_()
        with torch.set_grad_enabled(graph):
            derivatives = sampler.target.derivatives(x, self.hessian, graph, self.stream)
            if sampler.density == "kernel":
                derivatives = derivatives._replace(trace=None)
            self._announce_score(index, x, derivatives.score)
            log_q = chain.log_q if graph or chain.log_q is None else chain.log_q.detach()
            state = State(index, x, derivatives.score, log_q, ensemble=self.ensemble)
            sigma = sampler.kernel.checked(self.bandwidth(state), x)
            limit, eps = None, as_rows(self.step_size(state), x)
            if sampler.bound != "none":
                limit, eps = held(eps, self._sqnorm(x, derivatives, sigma), sampler.bound)
            optimised = self.leaf is not None
            proposal = self._descend(x, derivatives, sigma) if optimised else self._propose(x, derivatives, sigma, eps)
            record = self._record(x, derivatives, sigma, eps, limit, proposal) if self.recorded else None
            active = None
            if self.stopping is not None and record is not None:
                active = self.stopping.update(index, record.rate, record.discrepancy)
            if active is not None and self._all_stopped(active):
                return False
            move = Move(x, derivatives, sigma, eps, proposal.x, proposal.change)
            x_next, change = (move.x_next, move.gain) if sampler.control is None else self._control(move, record)
            if active is not None:
                x_next = torch.where(active[..., None, None], x_next, x)
                change = None if change is None else torch.where(active[..., None], change, 0)
        self._advance(x, x_next, change, active, graph)
        if record is not None:
            chain.steps.append(record)
        for callback in sampler.callbacks:
            log_q = None if chain.log_q is None else chain.log_q.detach()
            score = derivatives.score.detach()
            callback(State(index, chain.x.detach(), score, log_q, record, active, chain.mask, self.ensemble))
        return True

    def _all_stopped(self, active: Tensor) -> bool:
        """Whether the chain ends early; a GPU is not asked, makes all steps, and marks those that move nothing."""
        if active.device.type == "cpu":
            return not bool(active.any())
        self.chain.running.append(active.any())
        return False

    def finish(self) -> Chain:
        """The chain after its last step. On the CPU a UserWarning says if particles or densities are not finite."""
        self._announce_end()
        return self.chain

    def _announce_score(self, index: int, x: Tensor, score: Tensor) -> None:
        """Warns, once in a chain, before the kernel spreads a NaN of the target to all particles."""
        if self.announced or x.device.type != "cpu" or not readable(score):
            return
        if math.isfinite(float(score.detach().sum())):
            return
        unsound = ~score.isfinite().all(-1)
        if not bool(unsound.any()):
            return
        self.announced = True
        position = unsound.nonzero()[0].tolist()
        _warn(
            f"step {index}: the target's score is not finite at {int(unsound.sum())} of {unsound.numel()} particles, "
            f"the first at index {position} and x = {x[tuple(position)].tolist()}; phi carries it to all particles"
        )

    def _announce_end(self) -> None:
        chain = self.chain
        if self.announced or chain.x.device.type != "cpu" or not readable(chain.x):
            return
        for name, value in (("particles", chain.x.detach()), ("log densities", chain.log_q)):
            if value is not None and not math.isfinite(float(value.detach().sum())):
                count = int((~value.isfinite()).sum())
                if count > 0:
                    _warn(f"{count} numbers of the {name} are not finite after {self.steps} steps")
                    return

    def _advance(self, x: Tensor, x_next: Tensor, change: Tensor | None, active: Tensor | None, graph: bool) -> None:
        chain = self.chain
        if graph or not chain.x.requires_grad:
            chain.x = x_next
        else:
            # Adds zero, and with it the identity path of the gradient.
            chain.x = x_next + (chain.x - x)
        if chain.log_q is not None and change is not None:
            chain.log_q = chain.log_q + change
        self.steps += 1
        chain.taken += 1 if active is None else active
        if self.leaf is not None and active is not None:
            self.leaf.data.copy_(x_next)

    def _propose(self, x: Tensor, derivatives: Derivatives, sigma: Tensor, eps: Tensor) -> Proposal:
        interaction, sampler = self.interaction, self.sampler
        score, hessian_trace = derivatives.score, derivatives.trace
        if not self.follows:
            if x.is_cuda and derivatives.log_prob is not None:
                # One kernel, which has time for a density that nobody reads.
                return Proposal(interaction.step(x, score, sigma, eps, derivatives.log_prob, None)[0])
            return Proposal(torch.addcmul(x, eps[..., None, None], interaction.phi(x, score, sigma)))
        if sampler.density == "logdet":
            phi, trace = interaction.phi_trace(x, score, sigma)
            change = -interaction.logdet(x, score, sigma, eps, derivatives.hessian)
            trace = trace if hessian_trace is None else trace + hessian_trace / self.count
            return Proposal(x + eps[..., None, None] * phi, change, phi, trace)
        if sampler.divisor == "M" or self.count == 1:
            return Proposal(*interaction.step(x, score, sigma, eps, self.zeros, hessian_trace))
        x_next, change = interaction.step(x, score, sigma, eps, self.zeros, None)
        change = self.count / (self.count - 1) * change
        if hessian_trace is not None:
            change = change - eps[..., None] * hessian_trace / self.count
        return Proposal(x_next, change)

    def _descend(self, x: Tensor, derivatives: Derivatives, sigma: Tensor) -> Proposal:
        """A step of the torch optimiser, down -phi."""
        assert self.leaf is not None
        interaction, score = self.interaction, derivatives.score
        if not self.follows:
            phi, trace = interaction.phi(x, score, sigma), None
        else:
            phi, trace = interaction.phi_trace(x, score, sigma)
            trace = trace if derivatives.trace is None else trace + derivatives.trace / self.count
        self.leaf.grad = -phi
        self.optimizer.step()
        return Proposal(self.leaf.detach().clone(), None, phi, trace)

    @torch.no_grad()
    def _sqnorm(self, x: Tensor, derivatives: Derivatives, sigma: Tensor) -> Tensor:
        """|J_i|_F^2, (..., K), whose largest is that of all particles; detached."""
        interaction, score = self.interaction, derivatives.score
        if derivatives.hessian is None:
            sqnorm = interaction.sqnorm(x, score, sigma, derivatives.probe, derivatives.hvp)
        else:
            sqnorm = interaction.exact_sqnorm(x, score, sigma, derivatives.hessian)
        return self.ensemble.maxima(sqnorm)

    def _control(self, move: Move, record: StepRecord | None) -> tuple[Tensor, Tensor | None]:
        control, chain, sampler = self.sampler.control, self.chain, self.sampler
        if isinstance(control, Truncation):
            assert chain.mask is not None
            assert self.box is not None
            chain.mask = chain.mask & control.inside(move.x_next.detach(), self.box)
            change = None if move.gain is None else torch.where(chain.mask, move.gain, 0)
            return torch.where(chain.mask.unsqueeze(-1), move.x_next, move.x), change
        if not isinstance(control, MetropolisHastings):
            return move.x_next, move.gain
        probability = control.probability(sampler.progress)
        if probability < 1 and not self.stream.happens(probability):
            return move.x_next, move.gain
        assert move.gain is not None
        chain.corrections += 1
        corrected = move._replace(gain=-move.gain)
        terms = (self.hessian if sampler.density != "kernel" else "none", sampler.density)
        x_next, change, accepted = control.correct(corrected, sampler.kernel, sampler.target, terms, self.stream)
        if record is not None:
            record.acceptance = accepted.to(move.x.dtype).mean(-1)
        return x_next, change

    def _record(
        self,
        x: Tensor,
        derivatives: Derivatives,
        sigma: Tensor,
        eps: Tensor,
        limit: Tensor | None,
        proposal: Proposal,
    ) -> StepRecord:
        with torch.no_grad():
            ensemble, score, nan = self.ensemble, derivatives.score, x.new_full((), torch.nan)
            if self.sampler.kernel.bandwidth.per_dimension:
                sigma = sigma.mean(-1)
            norm = ensemble.mean(torch.linalg.vector_norm(score, dim=-1))
            mean_trace = rate = nan
            if proposal.trace is not None and proposal.phi is not None:
                mean_trace = ensemble.mean(proposal.trace)
                rate = ensemble.mean_dot(proposal.phi, score) + mean_trace
            elif proposal.change is not None:
                # phi and Tr J follow from the step itself.
                mean_trace = -ensemble.mean(proposal.change) / eps
                rate = ensemble.mean_dot(proposal.x - x, score) / eps + mean_trace
            limit = nan if limit is None else limit
            return StepRecord(sigma.detach(), eps.detach(), limit, mean_trace, rate, rate.square(), nan, norm)


def _announce_coinciding(x: Tensor) -> None:
    """Warns if particles (..., M, D) start at the same point, from which they never part."""
    if x.numel() == 0 or x.shape[-2] < 2 or x.device.type != "cpu" or not readable(x):
        return
    first = x[..., 0].sort(-1).values
    if not bool((first[..., 1:] == first[..., :-1]).any()):
        return
    coinciding = sum(len(points) - len(points.unique(dim=0)) for points in x.reshape(-1, *x.shape[-2:]))
    if coinciding > 0:
        _warn(
            f"{coinciding} of {x[..., 0].numel()} particles start where another one does: they move together, and "
            "their log density is not that of separate draws; draw them from a continuous initial distribution"
        )


def _warn(message: str) -> None:
    warnings.warn(f"SVGD: {message}", UserWarning, stacklevel=5)
