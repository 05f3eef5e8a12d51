"""What a chain of SVGD steps leaves behind: its particles, their density and a record of each step."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from svgdx.distributed import Shards


@dataclass
class StepRecord:
    """What one step was made of, detached; each a tensor with one number for each problem, (...), or for all, ().

    Means are over all particles. A number that the sampler's settings do not call for is NaN.
    """

    sigma: Tensor  # bandwidth, in the units of x; the mean over dimensions where it has one for each
    eps: Tensor  # step size, after its bound
    eps_bound: Tensor  # eps_UB = 1 / max_i |J_i|_F
    trace: Tensor  # mean Tr J_i: log density lost, in nats, for a unit of eps
    discrepancy: Tensor  # S = (mean_i [phi_i . s_i + Tr J_i])^2
    acceptance: Tensor  # share of Metropolis-Hastings proposals that were accepted
    score_norm: Tensor  # mean |s_i|


@dataclass
class State:
    """What modules of the state see before a step, and callbacks after it.

    Where particles are sharded over a process group these are this rank's, and `record` is of all.
    Modules (a bandwidth or a step size) get step, x, score and log_q as they are before the step, with the graph where
    the step is attached; callbacks get all of it after the step.
    """

    step: int  # 0 is the first
    x: Tensor  # particles, (..., M, D)
    score: Tensor  # at the particles before the step, (..., M, D)
    log_q: Tensor | None  # log density of the particles in nats, (..., M); None where it is not followed
    record: StepRecord | None = None
    active: Tensor | None = None  # problems that have not stopped, (...) bool; None: all
    mask: Tensor | None = None  # particles that truncation has not masked, (..., M) bool; None: all
    shards: Shards | None = None  # of the particles over a process group


@dataclass
class Chain:
    """The end of a chain.

    x: particles (..., M, D). log_q: their log density (..., M) in nats, None where it was not followed. mask: particles
    that truncation kept, (..., M) bool, None without truncation. length: steps that each problem took, (...) int64.
    steps: a record of each step. shards: of the particles over a process group; x, log_q and mask are then this rank's,
    means and records those of all.
    """

    x: Tensor
    log_q: Tensor | None
    mask: Tensor | None
    length: Tensor
    steps: list[StepRecord] = field(default_factory=list)
    shards: Shards | None = None

    def history(self) -> dict[str, Tensor]:
        """Each quantity of StepRecord over the steps, (L, ...)."""
        lead = self.x.shape[:-2]
        names = [each.name for each in fields(StepRecord)]
        return {
            name: torch.stack([getattr(step, name).expand(lead) for step in self.steps])
            if self.steps
            else self.x.new_empty((0, *lead))
            for name in names
        }

    def entropy(self) -> Tensor:
        """-mean log q over the particles that were kept, in nats, (...). Raises ValueError without a density."""
        if self.log_q is None:
            raise ValueError("Chain.entropy: the chain was run without its density")
        return -self.mean(self.log_q)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a value (..., M) over the particles that were kept, (...)."""
        if self.shards is not None:
            kept = torch.ones_like(value) if self.mask is None else self.mask.to(value.dtype)
            count = self.shards.sum(kept.detach().sum(-1))
            return self.shards.sum(torch.where(kept > 0, value, 0).sum(-1) / count)
        if self.mask is None:
            return value.mean(-1)
        kept = self.mask.to(value.dtype)
        return (torch.where(self.mask, value, 0)).sum(-1) / kept.sum(-1)
