"""The data of a chain: the ensemble of its particles, the state before a step, and the record of its steps."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Protocol

import torch
from torch import Tensor

from svgdx import _checks, ops


class Ensemble(Protocol):
    """Sums over all M particles of each problem, of which this process may hold only a part, M_p.

    Results are (...) unless a method says otherwise, and the same in every process.
    """

    def count(self, x: Tensor) -> int:
        """M, from the particles of this process, (..., M_p, D)."""

    def mean(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """The mean of a value (..., M_p) over all particles, or over those in a mask (..., M_p)."""

    def mean_dot(self, one: Tensor, other: Tensor) -> Tensor:
        """The mean over all particles of the dot product of two vectors (..., M_p, D)."""

    def maxima(self, value: Tensor) -> Tensor:
        """Values (..., K) of which the largest is that of all values (..., M_p); detached, NaN is kept."""

    def variance(self, x: Tensor) -> Tensor:
        """The variance of each coordinate over all particles x (..., M_p, D), (..., D)."""

    def median_distance(self, x: Tensor) -> Tensor:
        """The median of all M^2 distances between particles x (..., M_p, D)."""


class LocalEnsemble:
    """Particles that all live in this process: M_p = M."""

    def count(self, x: Tensor) -> int:
        return x.shape[-2]

    def mean(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return value.mean(-1)
        return torch.where(mask, value, 0).sum(-1) / mask.to(value.dtype).sum(-1)

    def mean_dot(self, one: Tensor, other: Tensor) -> Tensor:
        return torch.linalg.vecdot(one.flatten(-2), other.flatten(-2)) / one.shape[-2]

    def maxima(self, value: Tensor) -> Tensor:
        return value.detach()

    def variance(self, x: Tensor) -> Tensor:
        return x.var(-2, correction=0)

    def median_distance(self, x: Tensor) -> Tensor:
        return ops.median_distance(x)


@dataclass
class StepRecord:
    """The quantities of one step, detached; each a tensor with one number per problem, (...), or one for all, ().

    Means are over all particles. A quantity that the sampler's settings do not need is NaN.
    """

    sigma: Tensor  # bandwidth, in the units of x; the mean over dimensions if it has one per dimension
    eps: Tensor  # step size, after its bound
    eps_bound: Tensor  # eps_UB = 1 / max_i |J_i|_F
    trace: Tensor  # mean Tr J_i: log density lost, in nats, per unit of eps
    rate: Tensor  # r = mean_i [phi_i . s_i + Tr J_i]: fall of KL(q | p) in nats per unit of eps, to first order
    discrepancy: Tensor  # S = r^2
    acceptance: Tensor  # share of Metropolis-Hastings proposals that were accepted
    score_norm: Tensor  # mean |s_i|


@dataclass
class State:
    """The state that modules of the state see before a step, and callbacks after it.

    Modules (a bandwidth or a step size) get step, x, score, log_q and ensemble as they are before the step, with the
    graph if the step is attached; callbacks get every field after the step. If particles are sharded over a process
    group, x, score, log_q and mask are those of this rank and record is that of all.
    """

    step: int  # 0 is the first
    x: Tensor  # particles, (..., M, D)
    score: Tensor  # at the particles before the step, (..., M, D)
    log_q: Tensor | None  # log density of the particles in nats, (..., M); None if it is not followed
    record: StepRecord | None = None
    active: Tensor | None = None  # problems that have not stopped, (...) bool; None: all
    mask: Tensor | None = None  # particles that truncation has not masked, (..., M) bool; None: all
    ensemble: Ensemble = field(default_factory=LocalEnsemble)  # sums over all particles


@dataclass
class Chain:
    """The end of a chain and the record of its steps.

    x: particles (..., M, D). log_q: their log density (..., M) in nats, None if it was not followed. mask: particles
    that truncation did not mask, (..., M) bool, None without truncation. taken: steps that each problem took, (...)
    int64, or one number for all. steps: a record of each step. ensemble: sums over all particles. If particles are
    sharded over a process group, x, log_q and mask are those of this rank; means and records are those of all.

    A chain with a stop ends on the CPU once every problem has stopped. On a GPU, which is not asked, it makes all
    steps; running then has one () bool for each, false if no problem moved. corrections: the number of steps that
    Metropolis-Hastings made. start: the particles before the first step, detached.
    """

    x: Tensor
    log_q: Tensor | None
    mask: Tensor | None
    taken: Tensor | int
    steps: list[StepRecord] = field(default_factory=list)
    ensemble: Ensemble = field(default_factory=LocalEnsemble)
    running: list[Tensor] = field(default_factory=list)
    corrections: int = 0
    start: Tensor | None = None

    @property
    def length(self) -> Tensor:
        """The steps that each problem took, (...) int64."""
        if isinstance(self.taken, Tensor):
            return self.taken
        return torch.full(self.x.shape[:-2], self.taken, dtype=torch.int64, device=self.x.device)

    def history(self) -> dict[str, Tensor]:
        """Each quantity of StepRecord over the steps, (L, ...); NaN in steps in which no problem moved."""
        lead = self.x.shape[:-2]
        names = [quantity.name for quantity in fields(StepRecord)]
        if not self.steps:
            return {name: self.x.new_empty((0, *lead)) for name in names}
        history = {name: torch.stack([getattr(step, name).expand(lead) for step in self.steps]) for name in names}
        if self.running:
            running = torch.stack(self.running).view(-1, *(1,) * len(lead))
            history = {name: torch.where(running, value, torch.nan) for name, value in history.items()}
        return history

    def entropy(self) -> Tensor:
        """-mean log q over the particles that are not masked, in nats, (...). Raises ValueError without a density."""
        if self.log_q is None:
            raise ValueError("Chain.entropy: the chain was run without its density")
        return -self.mean(self.log_q)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a value (..., M) over the particles that are not masked, (...).

        Raises TypeError or ValueError if there is not one number for each particle.
        """
        value = _checks.per_row("Chain.mean", "value", value, self.x.shape[:-1], "the particles")
        return self.ensemble.mean(value, self.mask)
