"""One run of an SVGD sampler: its steps, what they record, and how problems stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from svgdx.samplers.control import MetropolisHastings, Move, Truncation
from svgdx.samplers.kernels import Kernel
from svgdx.samplers.state import Chain, State, StepRecord
from svgdx.samplers.step_sizes import bounded, step_bound
from svgdx.samplers.targets import Derivatives

if TYPE_CHECKING:
    from svgdx.distributed import Shards
    from svgdx.samplers.svgd import SVGD


class Proposal(NamedTuple):
    """Where a step leads: particles, the change of log q (..., M), and, where the step found them, phi and Tr J."""

    x: Tensor
    change: Tensor | None = None
    phi: Tensor | None = None
    trace: Tensor | None = None


class Runner:
    """Makes the steps of one chain.

    Args:
        sampler: its settings.
        x: particles (..., M, D). log_q: their log density (..., M), None where it is not followed.
        numbers: bandwidth and step size of a state.
        generator: of probes and decisions.
        recorded: whether somebody will read the record of the steps.
    """

    def __init__(
        self,
        sampler: SVGD,
        x: Tensor,
        log_q: Tensor | None,
        numbers: tuple[Callable[[State], Tensor], Callable[[State], Tensor]],
        generator: torch.Generator | None,
        recorded: bool,
    ) -> None:
        self.sampler, self.generator = sampler, generator
        self.kernel: Kernel = sampler.kernel
        self.bandwidth, self.step_size = numbers
        self.recorded = recorded or sampler.stop is not None or len(sampler.callbacks) > 0
        lead = x.shape[:-2]
        self.steps = 0
        length = torch.zeros(lead, dtype=torch.int64, device=x.device)
        control = sampler.control
        self.box = sampler.initial.box(control.deviations) if isinstance(control, Truncation) else None
        mask = None if self.box is None else control.inside(x.detach(), self.box)  # type: ignore[union-attr]
        self.chain = Chain(x, log_q, mask, length)
        self.stopping = None if sampler.stop is None else sampler.stop.start(lead, x.device)
        needs_trace = log_q is not None or sampler.stop is not None or isinstance(control, MetropolisHastings)
        self.follows = needs_trace
        self.hessian = sampler.hessian if needs_trace or sampler.bound != "none" else "none"
        # The change of log q is asked of the kernel by itself: log q would hide its last digits.
        self.zeros = x.new_zeros(x.shape[:-1])
        self.nan = x.new_tensor(torch.nan)
        self.count = x.shape[-2]
        self.shards: Shards | None = None
        self.leaf: torch.Tensor | None = None
        if sampler.optimizer is not None:
            self.leaf = x.detach().clone().requires_grad_()
            self.optimizer = sampler.optimizer([self.leaf])

    def step(self, index: int, graph: bool) -> bool:
        """One step, with its graph or detached. False once every problem has stopped."""
        chain, sampler = self.chain, self.sampler
        x = chain.x if graph or not chain.x.requires_grad else chain.x.detach()
        if graph and not x.requires_grad:
            x = x.detach().requires_grad_()
        with torch.set_grad_enabled(graph):
            found = sampler.target.derivatives(x, self.hessian, graph, self.generator)
            log_q = chain.log_q if graph or chain.log_q is None else chain.log_q.detach()
            state = State(index, x, found.score, log_q, shards=self.shards)
            sigma = self.kernel.checked(self.bandwidth(state), x)
            limit = None if sampler.bound == "none" else self._limit(x, found, sigma)
            eps = self.step_size(state)
            eps = eps if limit is None else bounded(eps, limit, sampler.bound)
            optimised = self.leaf is not None
            proposal = self._descend(x, found, sigma) if optimised else self._propose(x, found, sigma, eps)
            record = self._record(x, found, sigma, eps, limit, proposal) if self.recorded else None
            active = (
                self.stopping.update(record.discrepancy) if self.stopping is not None and record is not None else None
            )
            if active is not None and not bool(active.any()):
                return False
            move = Move(x, found, sigma, eps, proposal.x, proposal.change)
            x_next, change = (move.x_next, move.gain) if sampler.control is None else self._control(move, record)
            if active is not None:
                x_next = torch.where(active[..., None, None], x_next, x)
                change = None if change is None else torch.where(active[..., None], change, 0)
        self._advance(x, x_next, change, active, graph)
        if record is not None:
            chain.steps.append(record)
        for callback in sampler.callbacks:
            now = None if chain.log_q is None else chain.log_q.detach()
            seen = chain.x.detach(), found.score.detach(), now, record, active, chain.mask, self.shards
            callback(State(index, *seen))
        return True

    def finish(self) -> Chain:
        """The chain as it stands."""
        if self.stopping is None:
            self.chain.length += self.steps
        return self.chain

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
        if active is not None:
            chain.length += active
        if self.leaf is not None and active is not None:
            self.leaf.data.copy_(x_next)

    def _propose(self, x: Tensor, found: Derivatives, sigma: Tensor, eps: Tensor) -> Proposal:
        kernel, sampler = self.kernel, self.sampler
        score = found.score
        if not self.follows:
            return Proposal(x + eps[..., None, None] * kernel.phi(x, score, sigma))
        if sampler.density == "logdet":
            phi, trace = kernel.phi_trace(x, score, sigma)
            change = -kernel.logdet(x, score, sigma, eps, found.hessian)
            trace = trace if found.trace is None else trace + found.trace / self.count
            return Proposal(x + eps[..., None, None] * phi, change, phi, trace)
        share = self.count / (self.count - 1) if sampler.divisor == "M-1" and self.count > 1 else 1.0
        if share == 1.0:
            x_next, change = kernel.step(x, score, sigma, eps, self.zeros, found.trace)
        else:
            x_next, change = kernel.step(x, score, sigma, eps, self.zeros, None)
            change = share * change
            if found.trace is not None:
                change = change - eps[..., None] * found.trace / self.count
        return Proposal(x_next, change)

    def _descend(self, x: Tensor, found: Derivatives, sigma: Tensor) -> Proposal:
        """A step of the torch optimiser, down -phi."""
        assert self.leaf is not None
        kernel = self.kernel
        if not self.follows:
            phi, trace = kernel.phi(x, found.score, sigma), None
        else:
            phi, trace = kernel.phi_trace(x, found.score, sigma)
            trace = trace if found.trace is None else trace + found.trace / self.count
        self.leaf.grad = -phi
        self.optimizer.step()
        return Proposal(self.leaf.detach().clone(), None, phi, trace)

    @torch.no_grad()
    def _limit(self, x: Tensor, found: Derivatives, sigma: Tensor) -> Tensor:
        """eps_UB, (...), detached."""
        kernel, score = self.kernel, found.score
        if found.hessian is None:
            return step_bound(kernel.sqnorm(x, score, sigma, found.probe, found.hvp))
        # Unit vectors times sqrt(D) are probes whose mean is |J|_F^2 without error.
        dim = x.shape[-1]
        units = dim**0.5 * torch.eye(dim, dtype=x.dtype, device=x.device)
        probe = units.reshape(dim, *(1,) * (x.dim() - 1), dim).expand(dim, *x.shape)
        hvp = dim**0.5 * found.hessian.movedim(-1, 0)
        many = sigma if sigma.dim() < x.dim() - 1 else sigma.expand(dim, *sigma.shape)
        spread = x.expand(dim, *x.shape), score.expand(dim, *x.shape)
        sqnorm = kernel.sqnorm(*spread, many, probe.contiguous(), hvp.contiguous())
        return step_bound(sqnorm.mean(0))

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
        if probability < 1 and float(torch.rand((), generator=self.generator, device=move.x.device)) >= probability:
            return move.x_next, move.gain
        assert move.gain is not None
        corrected = move._replace(gain=-move.gain)
        terms = (self.hessian, sampler.density)
        x_next, change, accepted = control.correct(corrected, sampler.kernel, sampler.target, terms, self.generator)
        if record is not None:
            record.acceptance = accepted.to(move.x.dtype).mean(-1)
        return x_next, change

    def _record(
        self, x: Tensor, found: Derivatives, sigma: Tensor, eps: Tensor, limit: Tensor | None, proposal: Proposal
    ) -> StepRecord:
        with torch.no_grad():
            score, trace, nan = found.score, proposal.trace, self.nan
            if self.kernel.bandwidth.per_dimension:
                sigma = sigma.mean(-1)
            norm = self.mean(torch.linalg.vector_norm(score, dim=-1))
            mean_trace = discrepancy = nan
            if trace is not None and proposal.phi is not None:
                mean_trace = self.mean(trace)
                discrepancy = (self._mean_dot(proposal.phi, score) + mean_trace).square()
            elif proposal.change is not None:
                # The step itself tells phi and Tr J.
                mean_trace = -self.mean(proposal.change) / eps
                discrepancy = (self._mean_dot(proposal.x - x, score) / eps + mean_trace).square()
            return StepRecord(
                sigma.detach(), eps.detach(), nan if limit is None else limit, mean_trace, discrepancy, nan, norm
            )

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all particles of a value (..., M), (...)."""
        return value.mean(-1)

    def _mean_dot(self, one: Tensor, other: Tensor) -> Tensor:
        """Mean over particles of the dot product of (..., M, D), (...)."""
        return torch.linalg.vecdot(one.flatten(-2), other.flatten(-2)) / self.count
